//! Products of few rows, a token at a time in generation: b is read once, where it lies; packing it would cost more than
//! it multiplies.
//!
//! ```text
//! c (m, n) = a (m, k) · b (n, k)ᵀ      m ≤ 4: element by element, c_ij = a_i · b_j
//! ```
use super::{Finisher, Into, Numbers, Source, Write, round};
use crate::device::threads;
use crate::ops::rows::SharedValues;
use crate::ops::simd::{LANES, add_to, dot, fetch_soon, fold, from_bf16, round_bf16, wide};
use half::bf16;

/// Measured (Zen 3, k = 768): beyond, a packed b is faster.
pub const ROWS: usize = 4;
/// Numbers of b that a task reads.
const AT_ONCE: usize = 1 << 15;
/// Columns of c that are finished together.
const PART: usize = 256;

/// Both lie along k.
pub fn multiply([m, n, k]: [usize; 3], into: Into, (c, row): Write, a: Source, b: Source, finish: impl Finisher) {
    let c = SharedValues::new(c);
    let step = (AT_ONCE / k.max(1)).max(1);
    let (mut ready, from) = (Vec::new(), a.stride);
    let (a, a_row) = match a.numbers {
        Numbers::F32(a) => (a, from),
        Numbers::Rounding(a) => {
            ready.resize(m * k, 0.0);
            ready.chunks_exact_mut(k).zip(a.chunks(from)).for_each(|(to, a)| round(to, &a[..k]));
            (&ready[..], k)
        }
        Numbers::Bf16(a) => {
            ready.resize(m * k, 0.0);
            let rows = ready.chunks_exact_mut(k).zip(a.chunks(from));
            rows.for_each(|(to, a)| to.iter_mut().zip(a).for_each(|(to, a)| *to = a.to_f32()));
            (&ready[..], k)
        }
    };
    threads::each(n.div_ceil(step), |task| {
        let cols = task * step..n.min((task + 1) * step);
        let mut found = [[0f32; PART]; ROWS];
        for first in cols.clone().step_by(PART) {
            let some = first..cols.end.min(first + PART);
            for j in some.clone() {
                let at = j * b.stride;
                for (i, found) in found.iter_mut().enumerate().take(m) {
                    let a = &a[i * a_row..][..k];
                    found[j - first] = match b.numbers {
                        Numbers::F32(b) => along(a, &b[at..][..k]),
                        Numbers::Rounding(b) => rounding(a, &b[at..][..k]),
                        Numbers::Bf16(b) => along_bf16(a, &b[at..][..k]),
                    };
                }
            }
            for (i, found) in found.iter().enumerate().take(m) {
                // SAFETY: these columns are this task's alone.
                unsafe {
                    c.fill(i * row + first, some.len(), false, |at, c| {
                        let found = &found[at..][..c.len()];
                        if into == Into::Add {
                            add_to(c, found)
                        } else {
                            c.copy_from_slice(found)
                        }
                        finish.part(i, first + at, c);
                    });
                }
            }
        }
    });
}

wide! {
    /// Σ a·b.
    pub fn along(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
    fn rounding(a: &[f32], b: &[f32]) -> f32 {
        sum(a, b, round_bf16)
    }
    pub fn along_bf16(a: &[f32], b: &[bf16]) -> f32 {
        sum(a, b, from_bf16)
    }
}

/// Σ a·value(b). Measured (Intel AVX-512): sums in two vectors, since one waits for itself.
#[inline(always)]
fn sum<B: Copy>(a: &[f32], b: &[B], value: impl Fn(B) -> f32) -> f32 {
    const MANY: usize = 2 * LANES;
    /// Measured (as above, two threads): bytes by which b is asked for early, into the second-level cache. What is read as it is,
    /// the processor sees by itself: asking costs a tenth.
    const AHEAD: usize = 4096;
    let mut lanes = [0f32; MANY];
    let ((many_a, rest_a), (many_b, rest_b)) = (a.as_chunks::<MANY>(), b.as_chunks::<MANY>());
    for (a, b) in many_a.iter().zip(many_b) {
        for line in (0..size_of_val(b)).step_by(64) {
            fetch_soon(b.as_ptr().cast::<u8>().wrapping_add(AHEAD + line));
        }
        let mut read = [0f32; MANY];
        for (to, b) in read.iter_mut().zip(b) {
            *to = value(*b);
        }
        for i in 0..MANY {
            lanes[i] = a[i].mul_add(read[i], lanes[i]);
        }
    }
    for (i, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
        lanes[i] = a.mul_add(value(*b), lanes[i]);
    }
    let mut folded = [0f32; LANES];
    for (i, lane) in lanes.into_iter().enumerate() {
        folded[i % LANES] += lane;
    }
    fold(folded)
}
