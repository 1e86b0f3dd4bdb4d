//! How the ops share their work among threads: pieces of fixed size, whatever the number of threads, so that no sum
//! depends on it.
use super::past_caches;
use super::simd::{LANES, add_to, halve, widen};
use crate::device::{Values, ValuesMut, threads};
use crate::tensor::Tensor;
use half::bf16;
use std::cell::RefCell;
use std::ops::Range;

/// Elements that one task of an elementwise op takes. Structural for [`super::elementwise::square_sum`], whose partial
/// sums it bounds; as a size it is a compromise of cache and start-up cost of a task.
pub const PIECE: usize = 16 * 1024;

/// Rows that one task of a row-wise op takes.
pub fn per_task(cols: usize) -> usize {
    (PIECE / cols.max(1)).max(1)
}

/// f(i, the i-th piece of each output, the i-th piece of each input), on all threads: an operand stands beside the length
/// of its pieces, of which all have equally many; an empty one is empty in each.
pub fn pieces<T: Send, const O: usize, const I: usize>(
    outs: [(&mut [T], usize); O],
    ins: [(&[f32], usize); I],
    f: impl Fn(usize, [&mut [T]; O], [&[f32]; I]) + Sync,
) {
    let count = |(len, step): (usize, usize)| if len == 0 { 0 } else { len.div_ceil(step) };
    let outs = outs.map(|(x, step)| (x.len(), step, Shared::new(x)));
    let lengths = outs.iter().map(|o| (o.0, o.1)).chain(ins.iter().map(|i| (i.0.len(), i.1)));
    let n = lengths.clone().map(count).max().unwrap_or(0);
    assert!(lengths.clone().all(|l| [0, n].contains(&count(l))), "pieces of unequal number: {:?}", lengths.collect::<Vec<_>>());
    let part = |len: usize, step: usize, i: usize| (i * step).min(len)..((i + 1) * step).min(len);
    threads::each(n, |i| {
        // SAFETY: each task takes its own piece, and the outputs are borrowed meanwhile.
        let outs = outs.each_ref().map(|(len, step, x)| unsafe {
            let part = part(*len, *step, i);
            x.piece(part.start, part.len())
        });
        f(i, outs, ins.map(|(x, step)| &x[part(x.len(), step, i)]));
    });
}

/// Structural: numbers that are computed in f32 before they are rounded; they lie on the stack, in the first-level cache.
pub const PART: usize = 256;

/// Fills rows of `c` numbers, of which the last may be shorter, on all threads: `f(row, columns, part)` writes the numbers of these
/// columns, which follow one another from the row's first to its last. In bf16 a part is rounded when it is complete.
pub fn fill_rows(y: ValuesMut, c: usize, f: impl Fn(usize, Range<usize>, &mut [f32]) + Sync) {
    let step = per_task(c);
    match y {
        ValuesMut::F32(y) => pieces([(y, step * c)], [], |i, [y], []| {
            y.chunks_mut(c).enumerate().for_each(|(r, y)| f(i * step + r, 0..y.len(), y));
        }),
        ValuesMut::Bf16(y) => pieces([(y, step * c)], [], |i, [y], []| {
            let mut part = [0f32; PART];
            for (r, y) in y.chunks_mut(c).enumerate() {
                for (p, y) in y.chunks_mut(PART).enumerate() {
                    let part = &mut part[..y.len()];
                    f(i * step + r, p * PART..p * PART + y.len(), part);
                    halve(y, part);
                }
            }
        }),
    }
}

thread_local! {
    /// What tasks found, one after the other; grown by the first step, then reused.
    static SUMS: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Vectors of parameters that lie in bf16.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// f(the vectors in f32): a bias, or what a norm multiplies by, read by every row, where weights are bf16.
pub fn in_f32<const N: usize, R>(vectors: [Values; N], f: impl FnOnce([&[f32]; N]) -> R) -> R {
    WIDE.with_borrow_mut(|room| {
        let needed = vectors.iter().map(|v| if matches!(v, Values::Bf16(_)) { v.len() } else { 0 }).sum::<usize>();
        room.resize(needed.max(room.len()), 0.0);
        let mut left = &mut room[..];
        f(vectors.map(|v| match v {
            Values::F32(x) => x,
            Values::Bf16(x) => {
                let wide = left.split_off_mut(..x.len()).expect("room for all");
                widen(wide, x);
                wide
            }
        }))
    })
}

/// Σ f(i) for i < n: found on all threads, added in order.
pub fn ordered_sum(n: usize, f: impl Fn(usize) -> f64 + Sync) -> f64 {
    SUMS.with_borrow_mut(|sums| {
        sums.resize(n.max(sums.len()), 0.0);
        let places = Shared::new(&mut sums[..n]);
        // SAFETY: each task writes its own place.
        threads::each(n, |i| unsafe { places.piece(i, 1)[0] = f(i) });
        sums[..n].iter().sum()
    })
}

/// outs += Σ f(i) for i < n, of rows as long as these: `f(i, rows)` fills rows of zeros, on all threads; they are added in
/// order.
fn ordered_sums_of_rows<const O: usize>(outs: [&mut [f32]; O], n: usize, f: impl Fn(usize, [&mut [f32]; O]) + Sync) {
    let lens = outs.each_ref().map(|out| out.len());
    let len = lens.iter().sum::<usize>();
    /// The row's parts, one for each sum.
    fn parts<const O: usize>(mut row: &mut [f32], lens: [usize; O]) -> [&mut [f32]; O] {
        lens.map(|len| row.split_off_mut(..len).expect("a row has all parts"))
    }
    ROWS.with_borrow_mut(|rows| {
        rows.resize((n * len).max(rows.len()), 0.0);
        rows[..n * len].fill(0.0);
        pieces([(&mut rows[..n * len], len)], [], |i, [row], []| f(i, parts(row, lens)));
        let mut outs = outs;
        for row in rows[..n * len].chunks_exact_mut(len) {
            for (out, part) in outs.iter_mut().zip(parts(row, lens)) {
                add_to(out, part);
            }
        }
    });
}

/// out += Σ of n rows as long as `out`, in order; `f` adds to them, part by part, where all is zero.
pub fn ordered_sum_of_parts(out: &mut [f32], n: usize, f: impl FnOnce(Shared)) {
    let len = out.len();
    ROWS.with_borrow_mut(|rows| {
        rows.resize((n * len).max(rows.len()), 0.0);
        let rows = &mut rows[..n * len];
        rows.fill(0.0);
        f(Shared::new(rows));
        rows.chunks_exact(len.max(1)).for_each(|row| add_to(out, row));
    });
}

/// out += Σ f(row) for row < n, by parts of rows: `f(row, sums)` adds a row to the sums of its part. A part's sums are added up
/// by one task in the order of the rows, the parts in theirs.
pub fn sums_over_rows<const O: usize>(outs: [&mut [f32]; O], n: usize, f: impl Fn(usize, [&mut [f32]; O]) + Sync) {
    /// Measured: rows of a part, so that sums of many rows lose fewer bits …
    const ROWS_OF_PART: usize = 32;
    /// … and the most parts there are, which bounds their memory.
    const MOST_PARTS: usize = 128;
    let some = n.div_ceil(MOST_PARTS).max(ROWS_OF_PART);
    ordered_sums_of_rows(outs, n.div_ceil(some), |part, mut sums| {
        for row in part * some..n.min((part + 1) * some) {
            f(row, sums.each_mut().map(|sums| &mut **sums));
        }
    });
}

/// `len` numbers of a thread's room, which begin with a line of memory; it is grown where it is smaller, by [`LANES`] more.
pub fn on_a_line(room: &mut Vec<f32>, len: usize) -> &mut [f32] {
    room.resize(room.len().max(len + LANES), 0.0);
    let skip = room.as_ptr().align_offset(LANES * size_of::<f32>());
    &mut room[skip..][..len]
}

/// The same room, for twice as many numbers in bf16.
pub fn halves(room: &mut [f32]) -> &mut [bf16] {
    // SAFETY: an f32 has room for two numbers in bf16, and both hold any bits.
    unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), 2 * room.len()) }
}

/// An optional operand for the gate: absent, it is an empty tensor, and its slice is empty.
pub fn or_empty(t: Option<Tensor>) -> Tensor {
    t.unwrap_or(Tensor { at: 0, rows: 0, cols: 0, half: false })
}

/// Rows whose column sums are kept in one f32 accumulator before they join the total: sums of many rows lose fewer bits.
pub const BLOCK: usize = 32;

/// out[c] += Σ_rows f: the caller's `f(rows, columns, sums)` adds a block of rows to the sums of some columns. Each
/// column is summed by one task in the order of the rows.
pub fn column_sums(out: &mut [f32], rows: usize, f: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync) {
    /// Columns a task takes at a time: whole cache lines, and accumulators that stay in the first-level cache.
    const WIDTH: usize = 128;
    pieces([(out, WIDTH)], [], |i, [out], []| {
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
pub struct Shared<'a, T = f32> {
    base: *mut T,
    len: usize,
    borrowed: std::marker::PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: a `Shared` is a pointer; who dereferences it (`piece`) promises that no two tasks touch the same element.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(x: &'a mut [T]) -> Shared<'a, T> {
        Shared { base: x.as_mut_ptr(), len: x.len(), borrowed: std::marker::PhantomData }
    }
    /// The elements `at .. at + len`.
    ///
    /// # Safety
    /// No other piece that holds one of them may be alive.
    #[allow(clippy::mut_from_ref)] // what the caller promises is what the borrow checker cannot see
    pub unsafe fn piece(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at + len <= self.len, "elements {at}..{} of {}", at + len, self.len);
        // SAFETY: in bounds (above), alive as long as the borrow, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), len) }
    }
    /// The element `at`, to be written through with a stride.
    ///
    /// # Safety
    /// As for [`Shared::piece`], for all that is reached through the pointer, which must lie within the slice.
    pub unsafe fn start(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "element {at} of {}", self.len);
        // SAFETY: in bounds (above).
        unsafe { self.base.add(at) }
    }
}

/// [`Shared`], in f32 or in bf16.
#[derive(Clone, Copy)]
pub enum SharedValues<'a> {
    F32(Shared<'a>),
    Bf16(Shared<'a, bf16>),
}

impl<'a> SharedValues<'a> {
    pub fn new(x: ValuesMut<'a>) -> SharedValues<'a> {
        match x {
            ValuesMut::F32(x) => SharedValues::F32(Shared::new(x)),
            ValuesMut::Bf16(x) => SharedValues::Bf16(Shared::new(x)),
        }
    }
    /// The elements from `at` on become these, rounded where they are bf16; past the caches if `past`.
    ///
    /// # Safety
    /// As for [`Shared::piece`]; past the caches as for [`past_caches::copy`].
    pub unsafe fn take(&self, at: usize, x: &[f32], past: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self, past) {
                (SharedValues::F32(to), false) => to.piece(at, x.len()).copy_from_slice(x),
                (SharedValues::F32(to), true) => past_caches::copy(to.piece(at, x.len()), x),
                (SharedValues::Bf16(to), false) => halve(to.piece(at, x.len()), x),
                (SharedValues::Bf16(to), true) => past_caches::halve(to.piece(at, x.len()), x),
            }
        }
    }
    /// The elements `at .. at + len` become what `f` writes, [`PART`] of them at a time: `f(first, part)`. Those in bf16 go past the caches if
    /// `past`; f32 are written by `f` itself.
    ///
    /// # Safety
    /// As for [`SharedValues::take`].
    pub unsafe fn fill(&self, at: usize, len: usize, past: bool, mut f: impl FnMut(usize, &mut [f32])) {
        match self {
            // SAFETY: the caller's promise.
            SharedValues::F32(x) => f(0, unsafe { x.piece(at, len) }),
            SharedValues::Bf16(_) => {
                let mut room = [0f32; PART];
                for first in (0..len).step_by(PART) {
                    let part = &mut room[..PART.min(len - first)];
                    f(first, part);
                    // SAFETY: as above.
                    unsafe { self.take(at + first, part, past) };
                }
            }
        }
    }
}
