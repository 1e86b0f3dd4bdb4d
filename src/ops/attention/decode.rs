//! One new row against a cache of keys and values: generation. A task is a query head.
use super::Heads;
use crate::device::{Precision, Values};
use crate::ops::gemm::round;
use crate::ops::rows::pieces;
use crate::ops::simd::{dot, exp, max, round_bf16, wide, widen};

pub fn decode(precision: Precision, y: &mut [f32], qkv: Values, k: Values, v: Values, len: usize, h: Heads) {
    let (d, cols) = (h.size, h.kv * h.size);
    pieces([(y, d)], [], |head, [y], []| {
        let column = head / h.group() * d;
        let (mut q, mut row, mut p) = (vec![0f32; d], vec![0f32; d], vec![0f32; len]);
        let read = |row: &mut [f32], x: Values| match (x, precision) {
            (Values::F32(x), Precision::Fp32 | Precision::Tf32) => row.copy_from_slice(&x[..d]),
            (Values::F32(x), Precision::Bf16) => round(row, x),
            (Values::Bf16(x), _) => widen(row, x),
        };
        read(&mut q, qkv.skip(head * d));
        for (j, p) in p.iter_mut().enumerate() {
            read(&mut row, k.skip(j * cols + column));
            *p = score(&q, &row) * h.scale() as f32;
        }
        let total = soften(&mut p);
        y.fill(0.0);
        for (j, p) in p.iter().enumerate() {
            read(&mut row, v.skip(j * cols + column));
            add_scaled(y, if precision == Precision::Bf16 { round_bf16(*p) } else { *p }, &row);
        }
        y.iter_mut().for_each(|y| *y /= total);
    });
}

wide! {
    fn score(q: &[f32], k: &[f32]) -> f32 {
        dot(q, k)
    }

    /// p = e^(p − max p); returns Σ p.
    fn soften(p: &mut [f32]) -> f32 {
        let top = max(p);
        let mut total = 0.0;
        for p in p {
            *p = exp(*p - top);
            total += *p;
        }
        total
    }

    fn add_scaled(y: &mut [f32], p: f32, v: &[f32]) {
        for (y, v) in y.iter_mut().zip(v) {
            *y = v.mul_add(p, *y);
        }
    }
}
