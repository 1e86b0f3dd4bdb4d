//! The one door to matrix products on the CPU.
//!
//! ```text
//! NT: c (m, n) = a (m, k) · b (n, k)ᵀ      a linear layer's output
//! NN: c (m, n) = a (m, k) · b (k, n)       the gradient of its input
//! TN: c (m, n) = a (k, m)ᵀ · b (k, n)      the gradient of its weight
//! ```
//! Matrices are row-major, a stride apart from row to row. [`Precision::Bf16`] rounds the operands to bfloat16 first; the
//! sums are f32 in both, and a result that lies in bf16 is rounded when it is complete. It is a function of operands, shape and kernel, not of the number of threads.
//!
//! | file | |
//! |---|---|
//! | `kernels` | which kernels there are, and which is used |
//! | `micro` | the loop of all vector kernels; `portable` and `x86` are its instructions |
//! | `avx512`, `amx` | blocks written in instructions |
//! | `pack`, `squares`, `operands` | operands in the form that kernels read; `squares` are those of pairs in AVX-512 |
//! | `blocks` | a part of a product, block by block |
//! | `thin` | products of few rows, which no kernel needs |
//! | `tiles` | a product cut into packed slabs, and these into tiles, a task each |
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
pub mod kernels;
pub mod micro;
mod operands;
mod pack;
mod portable;
pub mod probe;
#[cfg(target_arch = "x86_64")]
mod squares;
#[cfg(target_arch = "x86_64")]
pub(super) use squares::halved;
mod thin;
pub(super) use thin::{along, along_bf16};
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;
pub use blocks::Blocks;
pub use kernels::Kernel;
pub use operands::{Left, Right, SMALL, left, right, right_lying, room};
pub use pack::{Numbers, Source, transpose};
pub use tiles::workspace_elements;

use super::simd::{LANES, fetch_soon, round_bf16, wide};
use crate::device::{Precision, Values, ValuesMut};
use std::ops::Range;

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

/// A matrix to be read: its numbers and the distance between its rows.
pub type Read<'a> = (Values<'a>, usize);
/// A matrix to be written.
pub type Write<'a> = (ValuesMut<'a>, usize);

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

impl<'a> Source<'a> {
    /// As a product of this precision reads them. Panics where they are bf16, and it is not.
    pub fn of(precision: Precision, (x, stride): Read<'a>, along_k: bool) -> Source<'a> {
        let numbers = match (x, precision) {
            (Values::F32(x), Precision::Fp32 | Precision::Tf32) => Numbers::F32(x),
            (Values::F32(x), Precision::Bf16) => Numbers::Rounding(x),
            (Values::Bf16(x), Precision::Bf16) => Numbers::Bf16(x),
            (Values::Bf16(_), Precision::Fp32 | Precision::Tf32) => panic!("an operand in bf16 of a product in {precision:?}"),
        };
        Source { numbers, stride, along_k }
    }

    /// As this kernel multiplies them: by one of f32 as they are, whoever rounded them; f32 are rounded on their way to one of pairs.
    pub fn ready(kernel: &Kernel, (x, stride): Read<'a>, along_k: bool) -> Source<'a> {
        let numbers = match x {
            Values::F32(x) if kernel.pair == 1 => Numbers::F32(x),
            Values::F32(x) => Numbers::Rounding(x),
            Values::Bf16(x) => Numbers::Bf16(x),
        };
        Source { numbers, stride, along_k }
    }
}

/// c = a·b or c += a·b, on all threads at hand; inside a task, on this one.
pub fn product(precision: Precision, layout: Layout, size: [usize; 3], into: Into, c: Write, a: Read, b: Read) {
    finished(precision, layout, size, into, c, a, b, (), &mut []);
}

/// What follows a product, such as a bias, while a part of c is in cache: `finish(row, first column, part of that row)` sees each once.
pub trait Finisher: Sync {
    fn part(&self, row: usize, col: usize, part: &mut [f32]);
    /// Some of c are about to be summed: what [`Finisher::part`] will read for them may be asked for.
    fn ahead(&self, _rows: Range<usize>, _cols: Range<usize>) {}
}

impl<F: Fn(usize, usize, &mut [f32]) + Sync> Finisher for F {
    fn part(&self, row: usize, col: usize, part: &mut [f32]) {
        self(row, col, part);
    }
}

/// Nothing follows.
impl Finisher for () {
    fn part(&self, _: usize, _: usize, _: &mut [f32]) {}
}

/// A [`Finisher`] that reads a matrix as large as c, or an empty one, rows `.1` numbers apart: memory brings it while the product is summed.
pub struct Beside<'a, F>(pub &'a [f32], pub usize, pub F);

impl<F: Fn(usize, usize, &mut [f32]) + Sync> Finisher for Beside<'_, F> {
    fn part(&self, row: usize, col: usize, part: &mut [f32]) {
        self.2(row, col, part);
    }
    fn ahead(&self, rows: Range<usize>, cols: Range<usize>) {
        let Beside(x, stride, _) = self;
        for row in rows.take(if x.is_empty() { 0 } else { usize::MAX }) {
            cols.clone().step_by(LANES).for_each(|col| fetch_soon(x.as_ptr().wrapping_add(row * stride + col)));
        }
    }
}

/// As [`product`]; `finish` may change what is complete of c. Then sums += Σ_rows c, before c is rounded; no `sums`, none are made. Not
/// for NT.
pub fn finished(
    precision: Precision,
    layout: Layout,
    size: [usize; 3],
    into: Into,
    c: Write,
    a: Read,
    b: Read,
    finish: impl Finisher,
    sums: &mut [f32],
) {
    if layout == Layout::NT && size[0] <= thin::ROWS {
        check(layout, size, &c, a, b);
        let [a, b] = [a, b].map(|x| Source::of(precision, x, true));
        return thin::multiply(size, into, c, a, b, finish);
    }
    with(kernels::chosen(precision), precision, layout, size, into, c, a, b, finish, sums);
}

/// Whether a product into so many rows × columns surely writes them past the caches: in bf16, and so in f32. What its [`Finisher`] writes may then go
/// there too, since a fence ends each tile.
pub fn writes_past(precision: Precision, [m, n]: [usize; 2]) -> bool {
    m > thin::ROWS && tiles::writes_past(kernels::chosen(precision), m * n * size_of::<half::bf16>())
}

/// As [`finished`], by a certain kernel.
pub fn with(
    kernel: &Kernel,
    precision: Precision,
    layout: Layout,
    size: [usize; 3],
    into: Into,
    c: Write,
    a: Read,
    b: Read,
    finish: impl Finisher,
    sums: &mut [f32],
) {
    check(layout, size, &c, a, b);
    assert!(into == Into::Overwrite || matches!(c.0, ValuesMut::F32(_)), "{layout:?} {size:?}: added to what is in bf16");
    assert!(sums.is_empty() || layout != Layout::NT && sums.len() == size[1], "{layout:?} {size:?}: {} sums", sums.len());
    assert!(kernel.serves(precision), "{} does not serve {precision:?} here", kernel.name);
    let a = Source::of(precision, a, layout != Layout::TN);
    let b = Source::of(precision, b, layout == Layout::NT);
    tiles::multiply(kernel, size, into, c, a, b, finish, sums);
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

/// A length of pieces that is at most `most`, a multiple of `of`, and as even as can be.
fn evenly(len: usize, most: usize, of: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).max(1).next_multiple_of(of)
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

wide! {
    /// y = x rounded to bf16, as far as y reaches.
    pub fn round(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = round_bf16(*x);
        }
    }
}
