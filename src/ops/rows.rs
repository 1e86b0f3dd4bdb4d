//! How the ops share their work among threads: pieces of fixed size, whatever the number of threads, so that no sum
//! depends on it.
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements that one task of an elementwise op takes. Structural for [`super::elementwise::square_sum`], whose partial
/// sums it bounds; as a size it is a compromise of cache and start-up cost of a task.
pub const PIECE: usize = 16 * 1024;

/// Rows that one task of a row-wise op takes.
pub fn per_task(cols: usize) -> usize {
    (PIECE / cols.max(1)).max(1)
}

/// An optional operand for the gate: absent, it is an empty tensor, and its slice is empty.
pub fn or_empty(t: Option<Tensor>) -> Tensor {
    t.unwrap_or(Tensor { at: 0, rows: 0, cols: 0 })
}

/// Rows whose column sums are kept in one f32 accumulator before they join the total: sums of many rows lose fewer bits.
const BLOCK: usize = 32;

/// out[c] += Σ_rows f: the caller's `f(rows, columns, sums)` adds a block of rows to the sums of some columns. Each
/// column is summed by one task in the order of the rows.
pub fn column_sums(out: &mut [f32], rows: usize, f: impl Fn(std::ops::Range<usize>, std::ops::Range<usize>, &mut [f32]) + Sync) {
    /// Columns a task takes at a time: whole cache lines, and accumulators that stay in the first-level cache.
    const WIDTH: usize = 128;
    out.par_chunks_mut(WIDTH).enumerate().for_each(|(i, out)| {
        let columns = i * WIDTH..i * WIDTH + out.len();
        for first in (0..rows).step_by(BLOCK) {
            let mut sums = [0f32; WIDTH];
            let sums = &mut sums[..out.len()];
            f(first..rows.min(first + BLOCK), columns.clone(), sums);
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum);
        }
    });
}

/// A matrix whose rows' pieces several tasks write at once: attention's heads share rows, but no element.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    base: *mut f32,
    len: usize,
    borrowed: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Shared` is a pointer; who dereferences it (`piece`) promises that no two tasks touch the same element.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(x: &'a mut [f32]) -> Shared<'a> {
        Shared { base: x.as_mut_ptr(), len: x.len(), borrowed: std::marker::PhantomData }
    }
    /// The elements `at .. at + len`.
    ///
    /// # Safety
    /// No other piece that holds one of them may be alive.
    #[allow(clippy::mut_from_ref)] // what the caller promises is what the borrow checker cannot see
    pub unsafe fn piece(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.len, "elements {at}..{} of {}", at + len, self.len);
        // SAFETY: in bounds (above), alive as long as the borrow, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), len) }
    }
    /// The element `at`, to be written through with a stride.
    ///
    /// # Safety
    /// As for [`Shared::piece`], for all that is reached through the pointer, which must lie within the slice.
    pub unsafe fn start(&self, at: usize) -> *mut f32 {
        assert!(at <= self.len, "element {at} of {}", self.len);
        // SAFETY: in bounds (above).
        unsafe { self.base.add(at) }
    }
}
