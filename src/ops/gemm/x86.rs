//! The vector kernels of x86-64: f32 with AVX2 and AVX-512, pairs of bf16 with AVX-512 BF16; and a transposition.
use super::avx512;
use super::micro::{Block, Lanes, kernel};
use std::arch::x86_64::*;

pub struct Avx2;

impl Lanes for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const LYING: bool = false;
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m256 {
        unsafe { _mm256_broadcast_ss(&*p) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, sum: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
}

pub struct Avx512;

impl Lanes for Avx512 {
    type V = __m512;
    const N: usize = 16;
    const LYING: bool = true;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m512 {
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, sum: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
}

/// As [`Avx512`], but a unit is a pair of bf16: sum += a₀b₀ + a₁b₁.
pub struct Avx512Bf16;

impl Lanes for Avx512Bf16 {
    type V = __m512;
    const N: usize = 16;
    const LYING: bool = true;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { Avx512::zero() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { Avx512::load(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { Avx512::store(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m512 {
        unsafe { Avx512::splat(p) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: both are 512 bits without a meaning of their own.
        unsafe { _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { Avx512::add(a, b) }
    }
}

kernel!(#[target_feature(enable = "avx2,fma")] avx2_6x16, Avx2, 2, [1 2 3 4 5 6]);
kernel!(#[target_feature(enable = "avx512f")] avx512_up_to_12x32, Avx512, 2, [1 2 3 4 5 6 7 8 9 10 11 12]);
kernel!(#[target_feature(enable = "avx512f,avx512bf16")] avx512_bf16_up_to_12x32, Avx512Bf16, 2, [1 2 3 4 5 6 7 8 9 10 11 12]);

/// # Safety
/// As [`avx512_up_to_12x32`].
pub unsafe fn avx512_12x32(rows: usize, x: Block) {
    // SAFETY: the caller's promise.
    unsafe { if full(rows, &x) { avx512::fma_12x32(&x) } else { avx512_up_to_12x32(rows, x) } }
}

/// # Safety
/// As [`avx512_bf16_up_to_12x32`].
pub unsafe fn avx512_bf16_12x32(rows: usize, x: Block) {
    // SAFETY: the caller's promise.
    unsafe { if full(rows, &x) { avx512::bf16_12x32(&x) } else { avx512_bf16_up_to_12x32(rows, x) } }
}

fn full(rows: usize, x: &Block) -> bool {
    rows == 12 && (x.a_unit == 1 || x.a_row == 1)
}

/// to = fromᵀ, in four quarters of 8 × 8: pairs of rows, pairs of pairs, then the halves of the vectors.
///
/// # Safety
/// AVX2; sixteen rows of sixteen numbers in each, so many numbers apart.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn transpose(to: (*mut f32, usize), from: (*const f32, usize)) {
    for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        // SAFETY: eight numbers from the j-th on, of sixteen.
        let r: [__m256; 8] = std::array::from_fn(|k| unsafe { _mm256_loadu_ps(from.0.add((i + k) * from.1 + j)) });
        let pairs: [__m256; 8] = std::array::from_fn(|k| {
            let (a, b) = (r[k / 2 * 2], r[k / 2 * 2 + 1]);
            if k % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
        });
        let fours: [__m256; 8] = std::array::from_fn(|k| {
            let (a, b) = (pairs[k / 4 * 4 + k % 4 / 2], pairs[k / 4 * 4 + k % 4 / 2 + 2]);
            if k % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
        });
        for k in 0..8 {
            let (a, b) = (fours[k % 4], fours[k % 4 + 4]);
            let row = if k < 4 { _mm256_permute2f128_ps::<0x20>(a, b) } else { _mm256_permute2f128_ps::<0x31>(a, b) };
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to.0.add((j + k) * to.1 + i), row) };
        }
    }
}
