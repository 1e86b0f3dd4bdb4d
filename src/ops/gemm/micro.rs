//! The inner loop of a product, written once for every vector width.
//!
//! ```text
//! c[i][j] (+)= Σ_u a[i][u] · b[u][j]     i < R rows, j < V vectors
//!
//! a: row-major, read where it lies: one number a step, the same in all lanes
//! b: the V vectors of step u, then those of u + 1: a panel, or rows that lie so
//! ```
//! A unit u is one f32, or two bf16 of neighbouring k, which [`Lanes::fma`] then multiplies and adds together.
//! R·V sums live in registers; what a processor can hold decides R and V.

use crate::ops::simd::fetch_to_write;

/// One vector of sums. The functions' callers have the processor's instructions; `p` points at N numbers (units), for
/// `splat` at one.
#[allow(clippy::missing_safety_doc)]
pub trait Lanes {
    type V: Copy;
    /// Numbers in it.
    const N: usize;
    /// Whether b may lie as rows, and not in panels alone: where vectors are short, the distance costs 9 %.
    const LYING: bool;
    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn splat(p: *const f32) -> Self::V;
    unsafe fn fma(a: Self::V, b: Self::V, sum: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
}

/// Where a block's operands lie. Distances count units of 4 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Block {
    /// Units to be summed.
    pub units: usize,
    pub a: *const f32,
    /// From row to row of a, and from unit to unit: one of them is 1. Of tiles, which lie one behind the other, from row to row in
    /// one, and a sixteenth of the way to the next.
    pub a_row: usize,
    pub a_unit: usize,
    pub b: *const f32,
    /// From unit to unit of b: a panel's width, or more where it is no panel.
    pub b_unit: usize,
    /// From one panel of b to the next: for blocks as wide as two.
    pub b_panel: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// c += rather than c =.
    pub add: bool,
    /// Where the rows and the panel lie that come next: kernels may ask for them. Never followed.
    pub next_a: *const f32,
    pub next_b: *const f32,
}

/// Measured (Zen 3): units between two turns of the loop; its own instructions cost 10 % otherwise.
const STEPS: usize = 4;

/// sums[i][j] += a[i] · b[j], of one unit.
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const V: usize>(
    sums: &mut [[L::V; V]; R],
    b: *const f32,
    a: impl Fn(usize) -> *const f32,
) {
    // SAFETY: the promise of `multiply`'s caller.
    unsafe {
        let b: [L::V; V] = std::array::from_fn(|j| L::load(b.add(j * L::N)));
        for (i, sums) in sums.iter_mut().enumerate() {
            let one = L::splat(a(i));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = L::fma(one, b, *sum);
            }
        }
    }
}

/// # Safety
/// As [`Lanes`]; a, b and c hold R rows and V vectors of what `Block` describes.
#[inline(always)]
pub unsafe fn multiply<L: Lanes, const R: usize, const V: usize>(x: Block) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..R {
            for j in 0..V {
                fetch_to_write(x.c.wrapping_add(i * x.c_row + j * L::N));
            }
        }
        let b_unit = if L::LYING { x.b_unit } else { V * L::N };
        debug_assert_eq!(b_unit, x.b_unit);
        let mut sums = [[L::zero(); V]; R];
        // the common index is the only thing that a step moves
        if x.a_unit == 1 {
            let rows: [*const f32; R] = std::array::from_fn(|i| x.a.wrapping_add(i * x.a_row));
            let whole = x.units - x.units % STEPS;
            for first in (0..whole).step_by(STEPS) {
                for u in first..first + STEPS {
                    step::<L, R, V>(&mut sums, x.b.add(u * b_unit), |i| rows[i].wrapping_add(u));
                }
            }
            for u in whole..x.units {
                step::<L, R, V>(&mut sums, x.b.add(u * b_unit), |i| rows[i].wrapping_add(u));
            }
        } else {
            assert!(x.a_row == 1, "a lies along rows or across");
            let mut a = x.a;
            for u in 0..x.units {
                step::<L, R, V>(&mut sums, x.b.add(u * b_unit), |i| a.wrapping_add(i));
                a = a.wrapping_add(x.a_unit);
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                let c = x.c.add(i * x.c_row + j * L::N);
                L::store(c, if x.add { L::add(L::load(c), sum) } else { sum });
            }
        }
    }
}

/// Defines `fn $name(rows, block)` that runs [`multiply`] for 1 … R rows, compiled for some instructions.
macro_rules! kernel {
    ($(#[$attribute:meta])* $name:ident, $lanes:ty, $vectors:literal, [$($rows:literal)+]) => {
        /// # Safety
        /// The processor has the instructions; `x` describes `rows` rows.
        $(#[$attribute])*
        pub unsafe fn $name(rows: usize, x: $crate::ops::gemm::micro::Block) {
            // SAFETY: the caller's promise.
            unsafe {
                match rows {
                    $($rows => $crate::ops::gemm::micro::multiply::<$lanes, $rows, $vectors>(x),)+
                    _ => unreachable!("{} of {rows} rows", stringify!($name)),
                }
            }
        }
    };
}
pub(super) use kernel;
