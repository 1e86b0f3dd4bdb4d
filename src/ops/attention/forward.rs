//! The forward: a task takes some rows of one head and passes over the keys that they may see, tile by tile, with a
//! running maximum and denominator.
use super::Heads;
use super::tiles::{ROWS, load, visible, with_tiles};
use crate::device::{Precision, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::Shared;
use crate::ops::simd::{LANES, exp, fold, max, round_bf16, wide};

pub fn forward(precision: Precision, y: &mut [f32], lse: &mut [f32], qkv: &[f32], h: Heads, starts: Option<&[u32]>) {
    let (y, lse) = (Shared::new(y), Shared::new(lse));
    let tiles = h.seq.div_ceil(ROWS);
    let sequences = qkv.len() / h.width() / h.seq;
    threads::each(sequences * h.q * tiles, |task| {
        // the last rows of a sequence have the most keys: they are started first
        let (base, head, tile) = (task / tiles / h.q * h.seq, task / tiles % h.q, tiles - 1 - task % tiles);
        let rows = tile * ROWS..h.seq.min((tile + 1) * ROWS);
        let start = |i: usize| starts.map_or(0, |s| s[base + i] as usize);
        rows_of_head(precision, y, lse, qkv, h, base, head, rows, start);
    });
}

/// `rows` are positions in the sequence that begins at the batch's row `base`.
fn rows_of_head(
    precision: Precision,
    y: Shared,
    lse: Shared,
    qkv: &[f32],
    h: Heads,
    base: usize,
    head: usize,
    rows: std::ops::Range<usize>,
    start: impl Fn(usize) -> usize,
) {
    let (w, d, n) = (h.width(), h.size, rows.len());
    let kv = head / h.group();
    with_tiles(h, |[q, k, v, out, ..], [s, ..]| {
        let out = &mut out[..n * d];
        out.fill(0.0);
        let mut tops = [f32::NEG_INFINITY; ROWS];
        let mut totals = [0f32; ROWS];
        load(q, qkv, base + rows.start..base + rows.end, w, head * d, d, precision);
        let from = rows.clone().map(&start).min().unwrap_or(0);
        for first in (from..rows.end).step_by(ROWS) {
            let keys = ROWS.min(rows.end - first);
            load(k, qkv, base + first..base + first + keys, w, h.key(kv), d, precision);
            load(v, qkv, base + first..base + first + keys, w, h.value(kv), d, precision);
            gemm::product(precision, Layout::NT, [n, keys, d], Into::Overwrite, (s, ROWS), (q, d), (k, d));
            for (r, s) in s.chunks_exact_mut(ROWS).take(n).enumerate() {
                let i = rows.start + r;
                let seen = visible(i, start(i), first, keys);
                let out = &mut out[r * d..(r + 1) * d];
                soften(&mut s[..keys], seen.start, seen.end, h.scale() as f32, &mut tops[r], &mut totals[r], out);
                if precision == Precision::Bf16 {
                    round_in_place(&mut s[..keys]);
                }
            }
            gemm::product(precision, Layout::NN, [n, d, keys], Into::Add, (out, d), (s, ROWS), (v, d));
        }
        for (r, out) in out.chunks_exact(d).enumerate() {
            let row = base + rows.start + r;
            // SAFETY: these columns of these rows belong to this task alone.
            let (y, lse) = unsafe { (y.piece((row * h.q + head) * d, d), lse.piece(row * h.q + head, 1)) };
            y.iter_mut().zip(out).for_each(|(y, out)| *y = out / totals[r]);
            lse[0] = tops[r] + totals[r].ln();
        }
    });
}

wide! {
    /// Scores become e^(s·scale − top) where visible and 0 elsewhere; the running maximum, the denominator and the
    /// output so far follow.
    fn soften(s: &mut [f32], from: usize, to: usize, scale: f32, top: &mut f32, total: &mut f32, out: &mut [f32]) {
        s[..from].fill(0.0);
        s[to..].fill(0.0);
        if from == to {
            return;
        }
        let s = &mut s[from..to];
        let highest = max(s) * scale;
        // a NaN is kept: it must reach the loss
        let highest = if highest <= *top { *top } else { highest };
        if highest != *top {
            let shrink = exp(*top - highest);
            *total *= shrink;
            out.iter_mut().for_each(|o| *o *= shrink);
            *top = highest;
        }
        let mut lanes = [0f32; LANES];
        let (whole, rest) = s.as_chunks_mut::<LANES>();
        for s in whole {
            for i in 0..LANES {
                s[i] = exp(s[i].mul_add(scale, -highest));
                lanes[i] += s[i];
            }
        }
        for (i, s) in rest.iter_mut().enumerate() {
            *s = exp(s.mul_add(scale, -highest));
            lanes[i] += *s;
        }
        *total += fold(lanes);
    }

    fn round_in_place(x: &mut [f32]) {
        for x in x {
            *x = round_bf16(*x);
        }
    }
}
