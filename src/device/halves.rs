//! Weights that no longer change, kept in bf16 beside f32: a product of few rows takes as long as reading them does.
use super::{Access, Arena, Loan};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;
use std::sync::Mutex;

pub struct Halves {
    range: Range<usize>,
    numbers: *const bf16,
    /// While they are out, the gate lets nobody write the f32, and nobody use the room.
    _kept: Mutex<[Loan; 2]>,
}

// SAFETY: the numbers lie in the arena, are written before this exists, and are only read while it does.
unsafe impl Send for Halves {}
// SAFETY: as above.
unsafe impl Sync for Halves {}

impl Halves {
    /// Elements of a plan that are room for the halves of so many.
    pub fn room(weights: usize) -> usize {
        weights.div_ceil(2)
    }

    /// Of the elements `range`, rounded to the nearest, in the planned `room`.
    pub fn of(arena: &Arena<f32>, range: Range<usize>, room: Tensor) -> Halves {
        assert!(room.len() >= Halves::room(range.len()), "{room:?} is to hold the halves of {range:?}");
        let kept = arena.lend(Tensor::range(range.start, range.end), Access::Read);
        let mut taken = arena.lend(room, Access::Write);
        let to = taken.slice_mut().as_mut_ptr().cast::<bf16>();
        for (i, x) in kept.slice().iter().enumerate() {
            // SAFETY: the room holds two halves an element, and is lent to us alone.
            unsafe { to.add(i).write(bf16::from_f32(*x)) };
        }
        Halves { range, numbers: to, _kept: Mutex::new([kept, taken]) }
    }

    /// Those of `t`, if all of it is kept.
    pub fn get(&self, t: Tensor) -> Option<&[bf16]> {
        let from = t.at.checked_sub(self.range.start).filter(|_| t.end() <= self.range.end)?;
        // SAFETY: written in `of`, in room that is lent to us; who borrows us borrows the device, and with it the arena.
        Some(unsafe { std::slice::from_raw_parts(self.numbers.add(from), t.len()) })
    }
}
