//! Gradients on their way out of the backward: rows of a head into dqkv, in f32 or rounded to bf16, and the sums of their columns, by blocks of
//! rows, not rounded.
use super::Heads;
use crate::ops::rows::{BLOCK, Shared, SharedValues};
use crate::ops::simd::{add_to, to_bf16, wide};
use half::bf16;

/// Where a sequence's gradients go, and the sums of their columns.
pub struct Leaving<'a> {
    pub dqkv: SharedValues<'a>,
    pub sums: Shared<'a>,
    /// Columns that are summed: all, or none.
    pub summed: usize,
    pub sequence: usize,
    pub h: Heads,
}

impl Leaving<'_> {
    /// Some positions' gradients of the head whose first column this is, row after row; `some` has room for a row.
    ///
    /// # Safety
    /// The sequence's rows of these columns, and their sums, are nobody else's meanwhile.
    pub unsafe fn take(&self, rows: &[f32], first: usize, column: usize, some: &mut [f32]) {
        let d = self.h.size;
        for (i, rows) in rows.chunks(BLOCK * d).enumerate() {
            let at = (self.sequence * self.h.seq + first + i * BLOCK) * self.h.width() + column;
            some.fill(0.0);
            match self.dqkv {
                SharedValues::F32(to) => copied(to, at, self.h.width(), rows, some),
                SharedValues::Bf16(to) => halved(to, at, self.h.width(), rows, some),
            }
            if self.summed > 0 {
                // SAFETY: the caller's promise.
                add_to(unsafe { self.sums.piece(self.sequence * self.summed + column, d) }, some);
            }
        }
    }
}

/// Rows of `to`, `stride` apart, become what `number` makes of these, which are added to `sums` and as long as those.
#[inline(always)]
fn rows_to<T>(to: Shared<T>, at: usize, stride: usize, rows: &[f32], sums: &mut [f32], number: impl Fn(f32) -> T) {
    for (r, row) in rows.chunks_exact(sums.len()).enumerate() {
        // SAFETY: as for `Leaving::take`.
        let to = unsafe { to.piece(at + r * stride, row.len()) };
        for ((to, sum), x) in to.iter_mut().zip(&mut *sums).zip(row) {
            *sum += x;
            *to = number(*x);
        }
    }
}

wide! {
    fn copied(to: Shared<f32>, at: usize, stride: usize, rows: &[f32], sums: &mut [f32]) {
        rows_to(to, at, stride, rows, sums, |x| x);
    }
    fn halved(to: Shared<bf16>, at: usize, stride: usize, rows: &[f32], sums: &mut [f32]) {
        rows_to(to, at, stride, rows, sums, to_bf16);
    }
}
