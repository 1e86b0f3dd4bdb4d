//! The energy of all nodes, step by step: the first rank of each reads its node's counters, the sums go to all.
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

    /// Joules of all nodes since the last call. Every rank calls this.
    pub fn lap(&mut self, launch: &Launch) -> Option<f64> {
        if self.lacking.is_some() {
            return None;
        }
        let mine = self.counters.as_mut().map_or(0.0, |counters| counters.lap().unwrap_or(f64::NAN));
        let sum: f64 = launch.comm().exchange(&[mine]).iter().map(|joules| joules[0]).sum();
        (!sum.is_nan()).then_some(sum)
    }
}
