//! The few numbers by which a step is judged, in the GPU's memory: no host waits for them within the step.
//!
//! ```text
//! kept     Σ loss | Σ gradient²                       of this rank, as ops add to them                          2 f64
//! verdict  scale | skip                               what AdamW multiplies the gradient by, and whether at all 2 × 4 bytes
//! all      of each rank: loss | squares | word | also [`crate::ops::verdict`]                                   ranks × 4 f64
//! ```
use super::driver::{Event, Memory, Pinned};
use super::lanes::{Lanes, Lent};
use crate::device::gate::Gate;
use crate::device::{Access, Loan};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Numbers that a rank gives.
pub const NUMBERS: usize = 4;

const VERDICT: u64 = 16;
const ALL: u64 = 64;

/// Of so many ranks.
pub(super) fn bytes(ranks: usize) -> usize {
    (ALL as usize + 8 * NUMBERS * ranks).next_multiple_of(256)
}

pub(super) struct Words {
    memory: Memory,
    ranks: usize,
    gate: Gate,
}

impl Words {
    pub fn new(memory: Memory, ranks: usize) -> Words {
        Words { memory, ranks, gate: Gate::new(2 * NUMBERS * ranks) }
    }
    pub fn kept(&self) -> u64 {
        self.memory.at
    }
    pub fn verdict(&self) -> u64 {
        self.memory.at + VERDICT
    }
    pub fn all(&self) -> u64 {
        self.memory.at + ALL
    }
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// All ranks' numbers, two f32 in place of each: whoever gathers them copies bits.
    pub fn lend(&self, lanes: &Arc<Lanes>) -> Loan {
        let floats = 2 * NUMBERS * self.ranks;
        Loan::of_gpu(&self.gate, Tensor::range(0, floats), floats, Access::Write, Lent::new(self.all(), 4 * floats, lanes))
    }

    /// Has a copy of all ranks' numbers brought to the host.
    pub fn bring(&self, lanes: &Arc<Lanes>) -> Coming {
        let n = NUMBERS * self.ranks;
        let pinned = lanes.staging(8 * n);
        // SAFETY: as many lie there; the copy on the host is ours until it is given back.
        unsafe { lanes.for_op().download(pinned.at, self.all(), 8 * n) };
        Coming { there: lanes.compute.record(), pinned, n, lanes: lanes.clone() }
    }
}

/// Numbers on their way to the host.
pub struct Coming {
    pinned: Pinned,
    n: usize,
    there: Event,
    lanes: Arc<Lanes>,
}

impl Coming {
    /// Waits for the GPU to have come so far.
    pub fn wait(self) -> Vec<[f64; NUMBERS]> {
        self.there.synchronize();
        // SAFETY: the copy has run; pinned memory begins on a page.
        let numbers = unsafe { std::slice::from_raw_parts(self.pinned.at.cast::<f64>(), self.n) }.as_chunks().0.to_vec();
        self.lanes.give_back(self.pinned, self.there);
        numbers
    }
}
