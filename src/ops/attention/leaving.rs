//! Gradients on their way out of the backward: rows of a head into dqkv, in f32 or rounded to bf16, and the sums of their columns, by blocks of
//! rows, not rounded.
use super::Heads;
use crate::ops::rows::{BLOCK, Shared, SharedValues};
use crate::ops::simd::{LANES, add_to, fetch_to_write, to_bf16, wide};
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

/// Structural: columns whose sums stay in registers, a head's as a rule.
const COLUMNS: usize = 4 * LANES;

/// Measured: rows by which their lines are asked for early.
const AHEAD: usize = 8;

/// Rows of `to`, `stride` apart, become what `number` makes of these, which are added to `sums` and as long as those.
#[inline(always)]
fn rows_to<T>(to: Shared<T>, at: usize, stride: usize, rows: &[f32], sums: &mut [f32], number: impl Fn(f32) -> T) {
    let d = sums.len();
    let (whole, rest) = sums.as_chunks_mut::<COLUMNS>();
    for (c, sums) in whole.iter_mut().enumerate() {
        let mut total = *sums;
        for (r, row) in rows.chunks_exact(d).enumerate() {
            let row: &[f32; COLUMNS] = row[c * COLUMNS..].first_chunk().expect("as long as the sums");
            // SAFETY: as for `Leaving::write`.
            let to: &mut [T; COLUMNS] = unsafe { to.piece(at + r * stride + c * COLUMNS, COLUMNS) }.try_into().expect("as many");
            for line in (0..COLUMNS).step_by(64 / size_of::<T>()) {
                fetch_to_write(to.as_ptr().wrapping_add(AHEAD * stride + line));
            }
            for i in 0..COLUMNS {
                total[i] += row[i];
                to[i] = number(row[i]);
            }
        }
        *sums = total;
    }
    let first = d - rest.len();
    if rest.is_empty() {
        return;
    }
    for (r, row) in rows.chunks_exact(d).enumerate() {
        // SAFETY: as above.
        let to = unsafe { to.piece(at + r * stride + first, d - first) };
        for ((to, sum), x) in to.iter_mut().zip(&mut *rest).zip(&row[first..]) {
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
