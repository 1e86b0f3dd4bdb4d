//! `llm-train bench collectives`: sums and copies between ranks, as training sends them, over sizes.
//!
//! ```text
//! S       bytes of the range that each rank lends: what is summed, or what is complete after a gather
//! t       from a barrier until the last rank has its result
//! algbw = S / t
//! busbw = algbw · 2 (n − 1) / n    all-reduce         algbw · (n − 1) / n    reduce-scatter, all-gather
//! ```
//! As nccl-tests defines them (its doc/PERFORMANCE.md), n being the ranks. Two ways where ranks share a node: by messages of
//! MPI, and each reading the others' memory.
use crate::comm::Ticket;
use crate::commands::bench::figure;
use crate::commands::cli::VERSION;
use crate::commands::{check_json, tell, write_json};
use crate::device::{Access, Device, Precision};
use crate::error::Result;
use crate::launch::{Launch, cores};
use crate::metrics::stats::Stats;
use crate::metrics::units;
use crate::tensor::{Kind, Plan, Tensor};
use crate::{bad_input, failed};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Time all-reduce, reduce-scatter and all-gather between ranks; start it under mpirun or srun.
#[derive(clap::Args, Clone, Debug)]
pub struct CollectivesArgs {
    /// Smallest range, in bytes
    #[arg(long, value_name = "N", default_value_t = 1 << 16, value_parser = clap::value_parser!(u64).range(4..=1 << 40))]
    pub min_bytes: u64,
    /// Largest; sizes between grow four times each
    #[arg(long, value_name = "N", default_value_t = 1 << 26, value_parser = clap::value_parser!(u64).range(4..=1 << 40))]
    pub max_bytes: u64,
    /// Times that count, after two that do not
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub repeats: u32,
    /// Write the figures for machines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    AllReduce,
    ReduceScatter,
    AllGather,
}

impl What {
    const ALL: [(What, &'static str); 3] =
        [(What::AllReduce, "all-reduce"), (What::ReduceScatter, "reduce-scatter"), (What::AllGather, "all-gather")];

    /// busbw / algbw among `n` ranks.
    fn factor(self, n: usize) -> f64 {
        let share = (n - 1) as f64 / n as f64;
        if self == What::AllReduce { 2.0 * share } else { share }
    }
}

const WARM_UP: u32 = 2;

pub fn run(args: &CollectivesArgs, launch: &Launch) -> Result<()> {
    launch.agree(if launch.leads() { check_json(args.json.as_ref()) } else { Ok(()) })?;
    let ranks = launch.size();
    if ranks == 1 {
        bad_input!("bench collectives: expected at least 2 ranks, found 1; start it with mpirun -n N or srun");
    }
    if args.max_bytes < args.min_bytes {
        bad_input!("--max-bytes: expected at least --min-bytes, which is {}, found {}", args.min_bytes, args.max_bytes);
    }
    let sizes = std::iter::successors(Some(args.min_bytes), |s| Some(4 * s)).take_while(|s| *s <= args.max_bytes);
    let (mut page, mut rows) = (String::new(), vec![]);
    page += &format!(
        "bench collectives: {} on {}, f32; a time is the slowest rank's; {}\n",
        units::count(ranks as u64, "rank"),
        units::count(launch.hosts().len() as u64, "host"),
        cores::processor()
    );
    for bytes in sizes {
        // Whole blocks of whole vectors, as training's groups are.
        let elements = (bytes as usize / 4).next_multiple_of(64 * ranks);
        for shared in [false, true] {
            let Some(dev) = device(elements, shared, launch)? else { continue };
            let way = if shared { "shared" } else { "messages" };
            let range = Tensor::range(0, elements);
            for (what, name) in What::ALL {
                let times = measure(what, range, &dev, args.repeats, launch)?;
                let (moved, factor) = (4.0 * elements as f64 / 1e9, what.factor(ranks));
                let algbw = Stats::of(times.iter().map(|t| moved / t)).expect("at least one");
                let (busbw, time) = (algbw.times(factor), Stats::of(times).expect("at least one"));
                let key = format!("{name} {} {way}", 4 * elements);
                page += &figure(&format!("{key} algbw (GB/s)"), &algbw);
                page += &figure(&format!("{key} busbw (GB/s)"), &busbw);
                rows.push(json!({ "collective": name, "bytes": 4 * elements, "by": way, "seconds": time.json(),
                                  "algbw_gb_per_s": algbw.json(), "busbw_gb_per_s": busbw.json() }));
            }
        }
    }
    if !launch.leads() {
        return Ok(());
    }
    tell(page);
    let all = json!({ "version": VERSION, "processor": cores::processor(), "ranks": ranks, "hosts": launch.hosts(),
                      "mpi": launch.library, "collectives": rows });
    args.json.as_ref().map_or(Ok(()), |file| write_json(file, &all))
}

/// A device with one range, which lies in memory that neighbours read if `shared`; None where there is no such memory.
fn device(elements: usize, shared: bool, launch: &Launch) -> Result<Option<Device>> {
    let mut plan = Plan::default();
    plan.vector(Kind::Gradients, elements);
    let front = if shared { launch.comm().share(elements) } else { crate::device::Memory::private(0) };
    // One way for all: where some ranks have no neighbours the figures would mix the two.
    let have = launch.comm().exchange(&[f64::from(front.is_ok())]);
    if have.iter().any(|have| have[0] == 0.0) {
        if let (true, Err(why)) = (launch.leads(), &front) {
            log::warn!("nothing is measured by shared memory for {}: {why}", units::bytes(4 * elements as u64));
        }
        return Ok(None);
    }
    let front = front.ok().filter(|_| shared);
    launch.agree(Device::cpu_in(front, &plan, 1, &[], Precision::Fp32)).map(Some)
}

/// Seconds of each repeat: those of the rank that took longest. The first result is looked at.
fn measure(what: What, range: Tensor, dev: &Device, repeats: u32, launch: &Launch) -> Result<Vec<f64>> {
    let (comm, elements) = (launch.comm(), range.len());
    let begin = || -> Ticket {
        let loan = dev.lend(range, Access::Write);
        match what {
            What::AllReduce => comm.all_reduce(loan),
            What::ReduceScatter => comm.reduce_scatter(loan),
            What::AllGather => comm.all_gather(loan),
        }
    };
    dev.write(range, &vec![1.0; elements]);
    begin().wait();
    let own = crate::comm::block(elements, comm.rank(), comm.size());
    let expected = if what == What::AllGather { 1.0 } else { comm.size() as f32 };
    let looked_at = if what == What::AllReduce { range } else { Tensor::range(own.start, own.end) };
    let wrong = dev.read(looked_at).iter().filter(|x| **x != expected).count();
    launch.agree(if wrong == 0 { Ok(()) } else { wrong_sum(wrong, looked_at.len()) })?;

    dev.write(range, &vec![0.0; elements]);
    let mut times = vec![];
    for repeat in 0..repeats + WARM_UP {
        comm.barrier();
        let began = Instant::now();
        begin().wait();
        let mine = began.elapsed().as_secs_f64();
        let slowest = comm.exchange(&[mine]).iter().map(|t| t[0]).fold(0.0, f64::max);
        if repeat >= WARM_UP {
            times.push(slowest);
        }
    }
    Ok(times)
}

fn wrong_sum(wrong: usize, of: usize) -> Result<()> {
    failed!("bench collectives: {wrong} of {of} elements are wrong")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factors_are_those_of_nccl_tests() {
        assert_eq!(What::AllReduce.factor(4), 1.5);
        assert_eq!(What::ReduceScatter.factor(4), 0.75);
        assert_eq!(What::AllGather.factor(2), 0.5);
    }
}
