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

thread_local! {
    /// Rounded copies of the operands; grown by the first step, then reused.
    static ROUNDED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Elements of working memory that a product of this shape keeps, beside the plan's, for the rest of the run (the
/// largest product counts, not the sum).
pub fn workspace_elements(precision: Precision, [m, n, k]: [usize; 3]) -> usize {
    match precision {
        Precision::Fp32 => 0,
        Precision::Bf16 => m * k + n * k,
    }
}

/// c = a·b or c += a·b, on all threads of the ambient pool.
pub fn parallel(precision: Precision, layout: Layout, size: [usize; 3], into: Into, c: Write, a: Read, b: Read) {
    let threads = rayon::current_num_threads();
    let how = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    check(layout, size, &c, a, b);
    match precision {
        Precision::Fp32 => multiply(layout, size, into, c, a, b, how),
        Precision::Bf16 => ROUNDED.with_borrow_mut(|[ra, rb]| {
            let [shape_a, shape_b] = layout.stored(size);
            let a = rounded(ra, a, shape_a);
            let b = rounded(rb, b, shape_b);
            multiply(layout, size, into, c, a, b, how);
        }),
    }
}

/// c = a·b or c += a·b, on this thread, as the operands are (a caller that wants bf16 has rounded them): for small
/// products inside a parallel loop.
pub fn serial(layout: Layout, size: [usize; 3], into: Into, c: Write, a: Read, b: Read) {
    check(layout, size, &c, a, b);
    multiply(layout, size, into, c, a, b, gemm::Parallelism::None);
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

fn multiply(layout: Layout, [m, n, k]: [usize; 3], into: Into, c: Write, a: Read, b: Read, how: gemm::Parallelism) {
    let (a_cols, a_rows) = if layout == Layout::TN { (a.1, 1) } else { (1, a.1) };
    let (b_cols, b_rows) = if layout == Layout::NT { (b.1, 1) } else { (1, b.1) };
    let add = into == Into::Add;
    // SAFETY: `check` has held the three shapes against the slices' lengths.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.0.as_mut_ptr(),
            1,
            c.1 as isize,
            add,
            a.0.as_ptr(),
            a_cols as isize,
            a_rows as isize,
            b.0.as_ptr(),
            b_cols as isize,
            b_rows as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            how,
        );
    }
}

/// A rounded copy of `x`, without gaps between its rows, in `room`.
fn rounded<'a>(room: &'a mut Vec<f32>, x: Read, (rows, cols): (usize, usize)) -> Read<'a> {
    if room.len() < rows * cols {
        room.resize(rows * cols, 0.0);
    }
    let room = &mut room[..rows * cols];
    room.par_chunks_mut(cols.max(1)).zip(x.0.par_chunks(x.1.max(1))).with_min_len(16).for_each(|(y, x)| round(y, x));
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
