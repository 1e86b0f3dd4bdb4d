//! Weights that no longer change, kept in bf16 beside f32: a product of few rows takes as long as reading them does.
use super::{Access, Arena, Loan};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;
use std::sync::Mutex;

pub struct Halves {
    from: usize,
    numbers: Vec<bf16>,
    /// While it is out, the gate lets nobody write the f32.
    _kept: Mutex<Loan>,
}

impl Halves {
    /// Of the elements `range`, rounded to the nearest.
    pub fn of(arena: &Arena<f32>, range: Range<usize>) -> Halves {
        let kept = arena.lend(Tensor::range(range.start, range.end), Access::Read);
        let numbers = kept.slice().iter().map(|x| bf16::from_f32(*x)).collect();
        Halves { from: range.start, numbers, _kept: Mutex::new(kept) }
    }
    /// Those of `t`, if all of it is kept.
    pub fn get(&self, t: Tensor) -> Option<&[bf16]> {
        self.numbers.get(t.at.checked_sub(self.from)?..t.end() - self.from)
    }
}
