//! The energy of a run, step by step: the first rank of each node reads its counters where the ranks settle a step, each rank those of
//! its GPU, and the joules are summed in the exchange that is made there anyway. What follows in a step (optimizer, evaluation,
//! checkpoint) counts to the next one.
//!
//! | a node's own counters hold | the GPUs' (NVML) can be read | the run's energy is that of |
//! |---|---|---|
//! | everything (Cray, hwmon) | | the nodes |
//! | processors and memory (RAPL) | the run has no GPU | those |
//! | processors and memory (RAPL) | yes | those and the GPUs |
//! | nothing | yes | the GPUs alone |
//!
//! In all other cases it is not known: a sum without a part of the machine that works would mislead. What it is of stands in
//! `/starts/energy_of`. GPUs of a node that the run does not use are in none of it but the first.
use crate::device::Device;
use crate::device::cuda::Management;
use crate::launch::Launch;
use crate::metrics::energy::{Counters, Covers};
use std::path::Path;

pub struct Meter {
    /// Of the rank that reads for its node.
    node: Option<Counters>,
    /// Of the rank that reads for its GPU, and where it stood.
    gpu: Option<(Management, f64)>,
    /// What is measured; or why not.
    of: std::result::Result<&'static str, String>,
}

/// What a rank can read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sight {
    /// Of its node, where it reads for it.
    node: Option<Covers>,
    /// Whether its GPU tells its energy, where it has one.
    gpu: Option<bool>,
}

impl Meter {
    /// Every rank calls this.
    pub fn start(launch: &Launch, dev: &Device) -> Meter {
        let node = (launch.local_rank == 0).then(|| Counters::open(Path::new("/")));
        let gpu = match dev {
            Device::Cuda(d) => Some((&d.gpu, Management::of(&d.gpu))),
            Device::Cpu(_) | Device::Reference(_) => None,
        };
        let told = gpu.as_ref().map(|(_, found)| found.as_ref().ok().and_then(Management::joules));
        let mine = Sight { node: node.as_ref().map(Counters::covers), gpu: told.map(|joules| joules.is_some()) };
        let all = launch.comm().exchange(&mine.numbers());
        let all: Vec<Sight> = all.iter().map(|numbers| Sight::of(numbers)).collect();
        let of = decide(&all).map_err(|rank| {
            let host = &launch.ranks[rank].host;
            match all[rank].gpu {
                Some(false) => format!("energy: not measured, since the GPU of rank {rank} on {host} does not tell it"),
                _ => format!("energy: not measured, since rank {rank} finds no counter on {host} that it may read"),
            }
        });
        // Of ranks that share a GPU the first reads it; where the node's counters hold it, none does.
        let seats = gpu.as_ref().map_or(vec![], |(gpu, _)| launch.seats(&gpu.bus));
        let near = |rank: &usize| launch.ranks[*rank].node == launch.ranks[launch.rank()].node;
        let first = (0..seats.len()).filter(near).find(|rank| seats[*rank].bus == seats[launch.rank()].bus);
        let held = (0..all.len()).filter(near).any(|rank| all[rank].node == Some(Covers::Node));
        let reads = of.is_ok() && first == Some(launch.rank()) && !held;
        let gpu = gpu.and_then(|(_, found)| found.ok()).zip(told.flatten()).filter(|_| reads);
        let node = node.filter(|_| of != Ok(GPUS));
        Meter { node, gpu, of }
    }

    /// What the joules are of; empty where they are not known.
    pub fn of(&self) -> &'static str {
        self.of.as_ref().copied().unwrap_or("")
    }

    /// What is said once where nothing can be read.
    pub fn complaint(&self) -> Option<&str> {
        self.of.as_ref().err().map(String::as_str)
    }

    /// Joules of what this rank reads since the last call; not a number where they are not known.
    pub fn lap(&mut self) -> f64 {
        if self.of.is_err() {
            return f64::NAN;
        }
        let node = self.node.as_mut().map_or(0.0, |counters| counters.lap().unwrap_or(f64::NAN));
        let gpu = self.gpu.as_mut().map_or(0.0, |(gpu, before)| {
            let now = gpu.joules().unwrap_or(f64::NAN);
            now - std::mem::replace(before, now)
        });
        node + gpu
    }
}

const NODES: &str = "nodes, by their own counters";
const PROCESSORS: &str = "processors and memory (RAPL)";
const BOTH: &str = "GPUs (NVML), processors and memory (RAPL)";
const GPUS: &str = "GPUs alone (NVML)";

/// What can be measured everywhere; or the first rank in whose sight something is missing.
fn decide(all: &[Sight]) -> std::result::Result<&'static str, usize> {
    let nodes = || all.iter().filter_map(|sight| sight.node);
    let gpus = all.iter().any(|sight| sight.gpu.is_some());
    let silent = all.iter().position(|sight| sight.gpu == Some(false));
    if nodes().all(|covers| covers == Covers::Node) {
        return Ok(NODES);
    }
    if let Some(rank) = silent {
        return Err(rank);
    }
    match (nodes().all(|covers| covers != Covers::Nothing), gpus) {
        (true, false) => Ok(PROCESSORS),
        (true, true) => Ok(BOTH),
        (false, true) => Ok(GPUS),
        (false, false) => Err(all.iter().position(|sight| sight.node == Some(Covers::Nothing)).expect("a node without counters")),
    }
}

impl Sight {
    fn numbers(self) -> [f64; 2] {
        let node = self.node.map_or(-1.0, |covers| f64::from(covers as u8));
        [node, self.gpu.map_or(-1.0, |tells| f64::from(u8::from(tells)))]
    }
    fn of(numbers: &[f64]) -> Sight {
        let kinds = [Covers::Nothing, Covers::Processors, Covers::Node];
        let node = kinds.into_iter().find(|covers| f64::from(*covers as u8) == numbers[0]);
        Sight { node, gpu: (numbers[1] >= 0.0).then_some(numbers[1] == 1.0) }
    }
}

/// Of all, by the sum of their laps.
pub fn of(sum: f64) -> Option<f64> {
    (!sum.is_nan()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_what_all_can_see() {
        use Covers::{Node, Nothing, Processors};
        let sight = |node, gpu| Sight { node, gpu };
        for (all, expected) in [
            (vec![sight(Some(Node), None)], Ok(NODES)),
            (vec![sight(Some(Node), Some(false))], Ok(NODES)),
            (vec![sight(Some(Processors), None), sight(None, None)], Ok(PROCESSORS)),
            (vec![sight(Some(Processors), Some(true)), sight(None, Some(true))], Ok(BOTH)),
            (vec![sight(Some(Processors), Some(true)), sight(None, Some(false))], Err(1)),
            (vec![sight(Some(Processors), Some(true)), sight(Some(Nothing), Some(true))], Ok(GPUS)),
            (vec![sight(Some(Nothing), Some(false))], Err(0)),
            (vec![sight(Some(Processors), None), sight(Some(Nothing), None)], Err(1)),
        ] {
            let sent: Vec<Sight> = all.iter().map(|sight| Sight::of(&sight.numbers())).collect();
            assert_eq!(sent, all);
            assert_eq!(decide(&all), expected, "{all:?}");
        }
    }
}
