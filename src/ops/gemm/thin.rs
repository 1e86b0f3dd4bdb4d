//! Products of few rows, a token at a time in generation: b is read once, where it lies; packing it would cost more than
//! it multiplies.
//!
//! ```text
//! c (m, n) = a (m, k) · b (n, k)ᵀ      m ≤ 4: element by element, c_ij = a_i · b_j
//! ```
use super::{Into, Read, Write};
use crate::device::{Precision, threads};
use crate::ops::rows::Shared;
use crate::ops::simd::{dot, round_bf16, sum, wide};

/// Measured (Zen 3, k = 768): beyond, a packed b is faster.
pub const ROWS: usize = 4;
/// Numbers of b that a task reads.
const AT_ONCE: usize = 1 << 15;

pub fn multiply(
    precision: Precision,
    [m, n, k]: [usize; 3],
    into: Into,
    (c, row): Write,
    a: Read,
    b: Read,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let c = Shared::new(c);
    let step = (AT_ONCE / k.max(1)).max(1);
    threads::each(n.div_ceil(step), |task| {
        let cols = task * step..n.min((task + 1) * step);
        for i in 0..m {
            // SAFETY: these columns are this task's alone.
            let c = unsafe { c.piece(i * row + cols.start, cols.len()) };
            for (c, j) in c.iter_mut().zip(cols.clone()) {
                let (a, b) = (&a.0[i * a.1..][..k], &b.0[j * b.1..][..k]);
                let found = if precision == Precision::Bf16 { rounded(a, b) } else { plain(a, b) };
                *c = if into == Into::Add { *c + found } else { found };
            }
            finish(i, cols.start, c);
        }
    });
}

wide! {
    fn plain(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
    fn rounded(a: &[f32], b: &[f32]) -> f32 {
        sum(a.len(), |i| round_bf16(a[i]) * round_bf16(b[i]))
    }
}
