//! Gradients on their way out of the backward: rows of a head into dqkv, in f32 or rounded to bf16, and the sums of their columns, by blocks of
//! rows, not rounded.
use super::Heads;
use crate::ops::rows::{BLOCK, Shared, SharedValues};
use crate::ops::simd::{add_to, to_bf16, wide};
use half::bf16;

/// Where a sequence's gradients go, and the sums of their columns.
pub struct Leaving<'a> {
    pub dqkv: SharedValues<'a>,
    /// Where they are asked for: a row a sequence, as wide as dqkv's.
    pub sums: Option<Shared<'a>>,
    pub sequence: usize,
    pub h: Heads,
}

impl Leaving<'_> {
    /// Some positions' gradients of the head whose first column this is, row after row; `some` has room for a row.
    ///
    /// # Safety
    /// The sequence's rows of these columns, and their sums, are nobody else's meanwhile.
    pub unsafe fn write(&self, rows: &[f32], first: usize, column: usize, some: &mut [f32]) {
        let (d, w) = (self.h.size, self.h.width());
        for (i, rows) in rows.chunks(BLOCK * d).enumerate() {
            let at = (self.sequence * self.h.seq + first + i * BLOCK) * w + column;
            some.fill(0.0);
            match self.dqkv {
                SharedValues::F32(to) => copied(to, at, w, rows, some),
                SharedValues::Bf16(to) => halved(to, at, w, rows, some),
            }
            if let Some(sums) = self.sums {
                // SAFETY: the caller's promise.
                add_to(unsafe { sums.piece(self.sequence * w + column, d) }, some);
            }
        }
    }
}

/// Rows of `to`, `stride` apart, become what `number` makes of these, which are added to `sums` and as long as those.
#[inline(always)]
fn rows_to<T>(to: Shared<T>, at: usize, stride: usize, rows: &[f32], sums: &mut [f32], number: impl Fn(f32) -> T) {
    for (r, row) in rows.chunks_exact(sums.len()).enumerate() {
        // SAFETY: as for `Leaving::write`.
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
