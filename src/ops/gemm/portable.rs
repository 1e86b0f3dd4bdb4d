//! The kernel for any machine: sixteen numbers in plain Rust.
use super::micro::{Lanes, kernel};

pub struct Sixteen;

impl Lanes for Sixteen {
    type V = [f32; 16];
    const N: usize = 16;
    const LYING: bool = false;
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's promise: sixteen numbers.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Self::V {
        // SAFETY: as above, one number.
        [unsafe { *p }; 16]
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        // a product and a sum: without the instruction, a fused one is a call of a library
        std::array::from_fn(|i| a[i] * b[i] + sum[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
}

kernel!(multiply_4x16, Sixteen, 1, [1 2 3 4]);
