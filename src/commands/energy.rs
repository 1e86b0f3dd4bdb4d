//! The energy of all nodes, step by step: the first rank of each reads its node's counters where the ranks settle a step, and the
//! joules are summed in the exchange that is made there anyway. What follows in a step (optimizer, evaluation, checkpoint) counts to
//! the next one.
use crate::launch::Launch;
use crate::metrics::energy::Counters;
use std::path::Path;

pub struct Meter {
    /// Of the rank that reads for its node.
    counters: Option<Counters>,
    /// A rank whose node has none: a sum without it would mislead, so there is none.
    lacking: Option<usize>,
}

impl Meter {
    /// Every rank calls this.
    pub fn start(launch: &Launch) -> Meter {
        let counters = (launch.local_rank == 0).then(|| Counters::open(Path::new("/")));
        let lacks = counters.as_ref().is_some_and(Counters::is_empty);
        let all = launch.comm().exchange(&[f64::from(lacks)]);
        let lacking = all.iter().position(|lacks| lacks[0] != 0.0);
        Meter { counters, lacking }
    }

    /// What is said once where nothing can be read.
    pub fn complaint(&self, launch: &Launch) -> Option<String> {
        let host = &launch.ranks[self.lacking?].host;
        Some(format!("energy: not measured, for no counter can be read on {host}"))
    }

    /// Joules of this rank's node since the last call, 0 where another rank reads them; not a number where any node has none.
    pub fn lap(&mut self) -> f64 {
        match &mut self.counters {
            _ if self.lacking.is_some() => f64::NAN,
            Some(counters) => counters.lap().unwrap_or(f64::NAN),
            None => 0.0,
        }
    }
}

/// Of all nodes, by the sum of their laps.
pub fn of(sum: f64) -> Option<f64> {
    (!sum.is_nan()).then_some(sum)
}
