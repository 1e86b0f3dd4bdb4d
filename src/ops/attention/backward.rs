//! The backward: a task takes one key/value head of one sequence, so that its gradients are summed in one order; it
//! recomputes the softmax from lse, tile by tile.
use super::Heads;
use super::tiles::{ROWS, load, visible, with_tiles};
use crate::device::{Precision, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::Shared;
use crate::ops::simd::{add_to, dot, exp, round_bf16, wide};

pub fn backward(
    precision: Precision,
    dqkv: &mut [f32],
    dy: &[f32],
    y: &[f32],
    lse: &[f32],
    qkv: &[f32],
    h: Heads,
    starts: Option<&[u32]>,
) {
    let sequences = qkv.len() / h.width() / h.seq;
    let dqkv = Shared::new(dqkv);
    threads::each(sequences * h.kv, |task| {
        let (base, kv) = (task / h.kv * h.seq, task % h.kv);
        let start = |i: usize| starts.map_or(0, |s| s[base + i] as usize);
        key_head(precision, dqkv, dy, y, lse, qkv, h, base, kv, start);
    });
}

fn key_head(
    precision: Precision,
    dqkv: Shared,
    dy: &[f32],
    y: &[f32],
    lse: &[f32],
    qkv: &[f32],
    h: Heads,
    base: usize,
    kv: usize,
    start: impl Fn(usize) -> usize,
) {
    let (w, d, scale) = (h.width(), h.size, h.scale() as f32);
    // SAFETY: this task alone holds the columns of key/value head `kv` and of its query heads, in the rows of its
    // sequence; a piece is dropped before the next is taken.
    let place = |i: usize, column: usize, cols: usize| unsafe { dqkv.piece((base + i) * w + column, cols) };
    for i in 0..h.seq {
        place(i, kv * h.group() * d, h.group() * d).fill(0.0);
    }
    with_tiles(h, |[q, k, v, g, dq, dk, dv], [p, ds]| {
        for first in (0..h.seq).step_by(ROWS) {
            let keys = ROWS.min(h.seq - first);
            load(k, qkv, base + first..base + first + keys, w, h.key(kv), d, precision);
            load(v, qkv, base + first..base + first + keys, w, h.value(kv), d, precision);
            dk.fill(0.0);
            dv.fill(0.0);
            for head in kv * h.group()..(kv + 1) * h.group() {
                for top in (first..h.seq).step_by(ROWS) {
                    let n = ROWS.min(h.seq - top);
                    if (top..top + n).all(|i| start(i) >= first + keys) {
                        continue;
                    }
                    let rows = base + top..base + top + n;
                    load(q, qkv, rows.clone(), w, head * d, d, precision);
                    load(g, dy, rows.clone(), h.q * d, head * d, d, precision);
                    gemm::product(precision, Layout::NT, [n, keys, d], Into::Overwrite, (p, ROWS), (q, d), (k, d));
                    gemm::product(precision, Layout::NT, [n, keys, d], Into::Overwrite, (ds, ROWS), (g, d), (v, d));
                    for (r, (p, ds)) in p.chunks_exact_mut(ROWS).zip(ds.chunks_exact_mut(ROWS)).take(n).enumerate() {
                        let i = top + r;
                        let seen = visible(i, start(i), first, keys);
                        let at = (base + i) * h.q + head;
                        let delta = row_dot(&dy[at * d..][..d], &y[at * d..][..d]);
                        gradients(&mut p[..keys], &mut ds[..keys], seen.start, seen.end, scale, lse[at], delta);
                        if precision == Precision::Bf16 {
                            round_both(&mut p[..keys], &mut ds[..keys]);
                        }
                    }
                    gemm::product(precision, Layout::TN, [keys, d, n], Into::Add, (dv, d), (p, ROWS), (g, d));
                    gemm::product(precision, Layout::TN, [keys, d, n], Into::Add, (dk, d), (ds, ROWS), (q, d));
                    gemm::product(precision, Layout::NN, [n, d, keys], Into::Overwrite, (dq, d), (ds, ROWS), (k, d));
                    for (r, dq) in dq.chunks_exact(d).take(n).enumerate() {
                        add_to(place(top + r, head * d, d), dq);
                    }
                }
            }
            for (r, (dk, dv)) in dk.chunks_exact(d).zip(dv.chunks_exact(d)).take(keys).enumerate() {
                place(first + r, h.key(kv), d).copy_from_slice(dk);
                place(first + r, h.value(kv), d).copy_from_slice(dv);
            }
        }
    });
}

wide! {
    fn row_dot(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }

    /// p: scores become probabilities; ds: dp becomes ds. Both are 0 where the row may not look.
    fn gradients(p: &mut [f32], ds: &mut [f32], from: usize, to: usize, scale: f32, lse: f32, delta: f32) {
        for x in [&mut *p, &mut *ds] {
            x[..from].fill(0.0);
            x[to..].fill(0.0);
        }
        for (p, ds) in p[from..to].iter_mut().zip(&mut ds[from..to]) {
            *p = exp(p.mul_add(scale, -lse));
            *ds = *p * (*ds - delta) * scale;
        }
    }

    fn round_both(p: &mut [f32], ds: &mut [f32]) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = round_bf16(*p);
            *ds = round_bf16(*ds);
        }
    }
}
