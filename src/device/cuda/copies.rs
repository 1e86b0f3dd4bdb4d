//! Weights in bf16: working copies, beside the f32 that the optimizer updates, or the weights themselves, without f32.
//!
//! ```text
//! an op reads a weight           it is given the copy; a stale one is made again first
//! AdamW writes f32 and copy      who writes the f32 alone (a checkpoint, a message) leaves the copy stale
//! ranks gather copies            their f32 are behind until they are gathered too (`lend_masters`)
//! ```
//! Weights that are bf16 alone (`Plan::weights`) have none of this: they are read, updated and gathered where they lie.
use super::lanes::Lent;
use super::{Cuda, Grid, Memory};
use crate::device::{Access, Loan, Rounding};
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::atomic::Ordering;

impl Cuda {
    pub fn weights_in_bf16(&self) -> bool {
        self.narrow > 0
    }
    /// Weights' numbers in bf16 are rounded at random from now on.
    pub fn round_at_random(&mut self, rounding: Rounding) {
        self.rounding = Some(rounding);
    }
    pub fn begin_after(&self, steps: u64) {
        if let Some(rounding) = &self.rounding {
            rounding.begin_after(steps);
        }
    }
    /// For the update of this step: the place of `w` in the model and the step's random bits; `None`: to nearest.
    pub fn drawn(&self, w: Tensor, step: u64) -> Option<(u64, u32)> {
        let rounding = self.rounding.as_ref().filter(|_| self.copies.is_some() || self.narrow > 0)?;
        rounding.begin_after(step);
        Some((rounding.place(w.at), rounding.draw()?))
    }

    /// A weight's working copy, made again where it is stale; anything else where it lies.
    pub(super) fn to_read(&self, t: Tensor) -> u64 {
        let Some(copies) = self.copies.as_ref().filter(|_| !t.is_empty() && t.at < self.weights) else { return self.place(t) };
        let mut stale = self.stale.lock().expect("stale copies");
        while let Some(i) = stale.iter().position(|r| r.start < t.end() && t.at < r.end) {
            self.copy_again(copies, stale.remove(i));
        }
        copies.at + 2 * t.at as u64
    }

    /// Makes stale copies as the last update made them, or would have.
    fn copy_again(&self, copies: &Memory, range: Range<usize>) {
        let rounding = self.rounding.as_ref().and_then(|r| Some((r, r.draw()?)));
        let mut at = range.start;
        while at < range.end {
            let end = rounding.map_or(range.end, |(r, _)| r.end_of_group(at).min(range.end));
            let (from, n) = (self.place(Tensor::range(at, end)), end - at);
            let (to, grid) = (copies.at + 2 * at as u64, Grid::over(n.div_ceil(8)));
            match rounding {
                None => self.launch("to_bf16", grid, &[to, from, n as u64]),
                Some((r, draw)) => self.launch("to_bf16_at_random", grid, &[to, from, n as u64, r.place(at), u64::from(draw)]),
            }
            at = end;
        }
    }

    /// The working copy of a weight that an op updates together with it; null where there is none.
    pub fn copy_of(&self, t: Tensor) -> u64 {
        self.copies.as_ref().map_or(0, |copies| copies.at + 2 * t.at as u64)
    }

    /// f32 weights were written by someone who did not update their copies.
    pub(super) fn outdate(&self, t: Tensor) {
        let end = t.end().min(self.weights);
        if self.copies.is_some() && t.at < end {
            self.stale.lock().expect("stale copies").push(t.at..end);
        }
    }

    pub fn lend_copies(&self, t: Tensor) -> Option<Loan> {
        if t.end() <= self.narrow {
            let lent = Lent::new(self.place(t), 2 * t.len(), &self.lanes).in_bf16();
            return Some(Loan::of_gpu(&self.gate, t, t.len(), Access::Write, lent));
        }
        let copies = self.copies.as_ref()?;
        let stale = self.stale.lock().expect("stale copies").iter().any(|r| r.start < t.end() && t.at < r.end);
        assert!(!stale && t.end() <= self.weights, "the copies of {t:?} are not those of the last update");
        self.lent_copies.store(self.lanes.so_far(), Ordering::Relaxed);
        let lent = Lent::new(copies.at + 2 * t.at as u64, 2 * t.len(), &self.lanes).in_bf16();
        Some(Loan::of_gpu(&self.gate, t, t.len(), Access::Write, lent))
    }
    pub fn lend_masters(&self, t: Tensor) -> Loan {
        assert!(t.end() <= self.weights && self.narrow == 0, "{t:?} is no weight in f32");
        let lent = Lent::new(self.place(t), 4 * t.len(), &self.lanes).written_by(self.lent_copies.load(Ordering::Relaxed));
        Loan::of_gpu(&self.gate, t, t.len(), Access::Write, lent)
    }
}
