//! The one door to matrix products on the CPU.
//!
//! ```text
//! NT: c (m, n) = a (m, k) · b (n, k)ᵀ      a linear layer's output
//! NN: c (m, n) = a (m, k) · b (k, n)       the gradient of its input
//! TN: c (m, n) = a (k, m)ᵀ · b (k, n)      the gradient of its weight
//! ```
//! Matrices are row-major, a stride apart from row to row. [`Precision::Bf16`] rounds the operands to bfloat16 first; the
//! sums are f32 in both. A result is a function of operands, shape, number of threads and instruction set: the same call
//! gives the same bits.
use super::rows::Shared;
use super::simd::{round_bf16, wide};
use crate::device::Precision;
use rayon::prelude::*;
use std::cell::RefCell;

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    NT,
    NN,
    TN,
}

/// What a product writes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// c = a b
    Overwrite,
    /// c += a b
    Add,
}

/// A matrix to be read: its elements and the distance between its rows.
pub type Read<'a> = (&'a [f32], usize);
/// A matrix to be written.
pub type Write<'a> = (&'a mut [f32], usize);

impl Layout {
    /// (rows, columns) of a and of b as they are stored.
    pub fn stored(self, [m, n, k]: [usize; 3]) -> [(usize, usize); 2] {
        match self {
            Layout::NT => [(m, k), (n, k)],
            Layout::NN => [(m, k), (k, n)],
            Layout::TN => [(k, m), (k, n)],
        }
    }
}

/// Measured (Zen 3, layers of 384 and 768, 2 threads): rows of a piece. From 384 to all of them, serial products ran
/// within 3 % of the crate's own parallel product; they meet once instead of once per packed block, and their copies are
/// bounded.
const ROWS: usize = 768;
/// Columns and depth of a piece whose operands are rounded first: they bound the copies.
const COLS: usize = 1024;
const DEPTH: usize = 1024;
/// Structural: the crate's blocks, in elements: it packs `ROWS` rows and 128 columns, 512 deep, on each thread.
const PACKED: usize = (ROWS + 128) * 512;

thread_local! {
    /// Rounded copies of a piece's operands; grown by the first step, then reused.
    static ROUNDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Elements of working memory that products keep, beside the plan's, with `threads` threads.
pub fn workspace_elements(precision: Precision, threads: usize) -> usize {
    threads * if precision == Precision::Bf16 { PACKED + (ROWS + COLS) * DEPTH } else { PACKED }
}

/// c = a·b or c += a·b, on all threads of the ambient pool: c is cut into pieces, whose products are serial.
pub fn parallel(precision: Precision, layout: Layout, size: [usize; 3], into: Into, c: Write, a: Read, b: Read) {
    check(layout, size, &c, a, b);
    let [m, n, k] = size;
    assert!(k > 0, "{layout:?} {size:?}: a sum of nothing");
    if m == 0 || n == 0 {
        return;
    }
    let [step_m, step_n] = piece(precision, size, rayon::current_num_threads());
    let across = n.div_ceil(step_n);
    let (out, stride) = (Shared::new(c.0), c.1);
    (0..m.div_ceil(step_m) * across).into_par_iter().with_max_len(1).for_each(|i| {
        let (row, col) = (i / across * step_m, i % across * step_n);
        let (rows, cols) = (step_m.min(m - row), step_n.min(n - col));
        // SAFETY: the pieces share no element of c, and all lie within it (`check`).
        let c = unsafe { out.start(row * stride + col) };
        let whole = Piece { row, col, depth: 0, size: [rows, cols, k] };
        match precision {
            // SAFETY: as above; a and b are as large as the layout wants them (`check`).
            Precision::Fp32 => unsafe { multiply(layout, whole.size, into, c, stride, whole.a(layout, a), whole.b(layout, b)) },
            Precision::Bf16 => ROUNDED.with_borrow_mut(|room| {
                room.resize((ROWS + COLS) * DEPTH, 0.0);
                let (room_a, room_b) = room.split_at_mut(ROWS * DEPTH);
                for depth in (0..k).step_by(DEPTH) {
                    let piece = Piece { depth, size: [rows, cols, DEPTH.min(k - depth)], ..whole };
                    let [shape_a, shape_b] = layout.stored(piece.size);
                    let a = rounded(room_a, piece.a(layout, a), shape_a);
                    let b = rounded(room_b, piece.b(layout, b), shape_b);
                    let into = if depth == 0 { into } else { Into::Add };
                    // SAFETY: as above.
                    unsafe { multiply(layout, piece.size, into, c, stride, a, b) };
                }
            }),
        }
    });
}

/// Rows and columns of the pieces: as many as threads, cut so that the operands of a piece are small, then cut again to
/// fit the caches. A function of its arguments alone, so that equal calls give equal bits.
fn piece(precision: Precision, [m, n, k]: [usize; 3], threads: usize) -> [usize; 2] {
    /// Measured: multiplications that are worth a thread's waking.
    const WORTH: usize = 1 << 16;
    let threads = threads.min(m * n * k / WORTH).max(1);
    let grids = (1..=threads).filter(|down| threads.is_multiple_of(*down));
    let sides = grids.map(|down| [m.div_ceil(down).max(1), n.div_ceil(threads / down).next_multiple_of(16)]);
    let [rows, cols] = sides.min_by_key(|[rows, cols]| rows + cols).expect("one thread is a grid");
    let evenly = |len: usize, most: usize| len.div_ceil(len.div_ceil(most));
    let cols = if precision == Precision::Bf16 { evenly(cols, COLS) } else { cols };
    [evenly(rows, ROWS), cols]
}

/// A part of a product: where it starts in c and in the sum, and how large it is.
#[derive(Clone, Copy)]
struct Piece {
    row: usize,
    col: usize,
    depth: usize,
    size: [usize; 3],
}

impl Piece {
    fn a<'a>(&self, layout: Layout, (a, stride): Read<'a>) -> Read<'a> {
        let at = if layout == Layout::TN { self.depth * stride + self.row } else { self.row * stride + self.depth };
        (a.get(at..).unwrap_or(&[]), stride)
    }
    fn b<'a>(&self, layout: Layout, (b, stride): Read<'a>) -> Read<'a> {
        let at = if layout == Layout::NT { self.col * stride + self.depth } else { self.depth * stride + self.col };
        (b.get(at..).unwrap_or(&[]), stride)
    }
}

/// c = a·b or c += a·b, on this thread, as the operands are (a caller that wants bf16 has rounded them): for small
/// products inside a parallel loop.
pub fn serial(layout: Layout, size: [usize; 3], into: Into, c: Write, a: Read, b: Read) {
    check(layout, size, &c, a, b);
    // SAFETY: the three shapes fit the slices (`check`).
    unsafe { multiply(layout, size, into, c.0.as_mut_ptr(), c.1, a, b) }
}

/// c = a·b or c += a·b by the definition, in f64.
pub fn reference(layout: Layout, [m, n, k]: [usize; 3], into: Into, c: &mut [f64], a: &[f64], b: &[f64]) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = if into == Into::Add { c[i * n + j] } else { 0.0 };
            for l in 0..k {
                let a = if layout == Layout::TN { a[l * m + i] } else { a[i * k + l] };
                let b = if layout == Layout::NT { b[j * k + l] } else { b[l * n + j] };
                sum += a * b;
            }
            c[i * n + j] = sum;
        }
    }
}

fn check(layout: Layout, size: [usize; 3], c: &Write, a: Read, b: Read) {
    let [shape_a, shape_b] = layout.stored(size);
    let fits = |len: usize, stride: usize, (rows, cols): (usize, usize)| {
        rows == 0 || cols == 0 || (stride >= cols && (rows - 1) * stride + cols <= len)
    };
    assert!(fits(a.0.len(), a.1, shape_a), "{layout:?} {size:?}: a has {} elements, rows {} apart", a.0.len(), a.1);
    assert!(fits(b.0.len(), b.1, shape_b), "{layout:?} {size:?}: b has {} elements, rows {} apart", b.0.len(), b.1);
    let shape_c = (size[0], size[1]);
    assert!(fits(c.0.len(), c.1, shape_c), "{layout:?} {size:?}: c has {} elements, rows {} apart", c.0.len(), c.1);
}

/// # Safety
/// c, a and b must hold the matrices that layout, size and strides describe; nobody else may touch that part of c.
unsafe fn multiply(layout: Layout, [m, n, k]: [usize; 3], into: Into, c: *mut f32, stride: usize, a: Read, b: Read) {
    let (a_cols, a_rows) = if layout == Layout::TN { (a.1, 1) } else { (1, a.1) };
    let (b_cols, b_rows) = if layout == Layout::NT { (b.1, 1) } else { (1, b.1) };
    let (add, keep) = if into == Into::Add { (true, 1.0) } else { (false, 0.0) };
    let step = |stride: usize| stride as isize;
    let (a, b, serial) = (a.0.as_ptr(), b.0.as_ptr(), gemm::Parallelism::None);
    // SAFETY: the caller's promise.
    unsafe {
        #[rustfmt::skip]
        gemm::gemm(
            m, n, k, // sizes, then pointers, each with its column and row stride; c = keep · c + 1 · a b
            c, 1, step(stride), add,
            a, step(a_cols), step(a_rows),
            b, step(b_cols), step(b_rows),
            keep, 1.0, false, false, false, serial,
        );
    }
}

/// A rounded copy of `x`, without gaps between its rows, in `room`.
fn rounded<'a>(room: &'a mut [f32], x: Read, (rows, cols): (usize, usize)) -> Read<'a> {
    for (y, x) in room.chunks_exact_mut(cols).zip(x.0.chunks(x.1)).take(rows) {
        round(y, x);
    }
    (room, cols)
}

wide! {
    /// y = x rounded to bf16, as far as y reaches.
    pub fn round(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = round_bf16(*x);
        }
    }
}
