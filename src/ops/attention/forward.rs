//! The forward: a task takes some rows of one head and passes over the keys that they may see, tile by tile, with a
//! running maximum and denominator.
use super::Heads;
use super::tiles::{Small, load, takes, visible, with_room};
use crate::device::{Precision, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::Shared;
use crate::ops::simd::{LANES, exp, fold, max, wide};
use std::ops::Range;

/// Measured (Zen 3 and Intel AVX-512, D = 64): query rows of a tile, whole blocks of every kernel, …
const ROWS: usize = 96;
/// … and key rows.
const KEYS: usize = 64;

/// Elements that a task works in.
pub fn room(h: Heads) -> usize {
    let (wide, square) = (takes(ROWS * h.size), takes(ROWS * KEYS));
    let packed = [(ROWS, h.size), (KEYS, h.size), (h.size, KEYS), (ROWS, KEYS)];
    2 * wide + square + packed.iter().map(|&(rows, k)| takes(gemm::room(rows, k))).sum::<usize>()
}

pub fn forward(precision: Precision, y: &mut [f32], lse: &mut [f32], qkv: &[f32], h: Heads, starts: Option<&[u32]>) {
    let (y, lse) = (Shared::new(y), Shared::new(lse));
    let tiles = h.seq.div_ceil(ROWS);
    let sequences = qkv.len() / h.width() / h.seq;
    let products = Small::new(precision);
    threads::each(sequences * h.q * tiles, |task| {
        // the last rows of a sequence have the most keys: they are started first
        let (base, head, tile) = (task / tiles / h.q * h.seq, task / tiles % h.q, tiles - 1 - task % tiles);
        let rows = tile * ROWS..h.seq.min((tile + 1) * ROWS);
        let start = |i: usize| starts.map_or(0, |s| s[base + i] as usize);
        rows_of_head(products, y, lse, qkv, h, base, head, rows, start);
    });
}

/// `rows` are positions in the sequence that begins at the batch's row `base`.
fn rows_of_head(
    products: Small,
    y: Shared,
    lse: Shared,
    qkv: &[f32],
    h: Heads,
    base: usize,
    head: usize,
    rows: Range<usize>,
    start: impl Fn(usize) -> usize,
) {
    let (w, d, n) = (h.width(), h.size, rows.len());
    let kv = head / h.group();
    with_room(room(h), |mut room| {
        let [q, out] = [(); 2].map(|()| room.take(ROWS * d));
        let s = room.take(ROWS * KEYS);
        let [for_q, for_k] = [ROWS, KEYS].map(|rows| room.units(rows, d));
        let (for_v, for_p) = (room.units(d, KEYS), room.units(ROWS, KEYS));
        let out = &mut out[..n * d];
        out.fill(0.0);
        let mut tops = [f32::NEG_INFINITY; ROWS];
        let mut totals = [0f32; ROWS];
        load(q, qkv, base + rows.start..base + rows.end, w, head * d, d);
        let q = products.left(for_q, Layout::NT, (q, d), n, d);
        let from = rows.clone().map(&start).min().unwrap_or(0);
        for first in (from..rows.end).step_by(KEYS) {
            let keys = KEYS.min(rows.end - first);
            // keys that the last of some rows sees
            let seen = |some: Range<usize>| (rows.start + some.end).saturating_sub(first).min(keys);
            let k = products.right(for_k, Layout::NT, (&qkv[(base + first) * w + h.key(kv)..], w), keys, d);
            let scored = |some, cols: Range<usize>| if seen(some) > cols.start { 0..d } else { 0..0 };
            // SAFETY: the tile is this task's.
            unsafe { products.multiply((Shared::new(s), 0, KEYS), [n, keys], Into::Overwrite, q, k, scored) };
            for (r, s) in s.chunks_exact_mut(KEYS).take(n).enumerate() {
                let i = rows.start + r;
                let seen = visible(i, start(i), first, keys);
                let out = &mut out[r * d..(r + 1) * d];
                soften(s, seen.start, seen.end, h.scale() as f32, &mut tops[r], &mut totals[r], out);
            }
            let p = products.left(for_p, Layout::NN, (s, KEYS), n, keys);
            let v = products.right(for_v, Layout::NN, (&qkv[(base + first) * w + h.value(kv)..], w), d, keys);
            // SAFETY: as above.
            unsafe { products.multiply((Shared::new(out), 0, d), [n, d], Into::Add, p, v, |some, _| 0..seen(some)) };
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
    /// Scores become e^(s·scale − top) where visible, from … to, and 0 elsewhere; the running maximum, the denominator and
    /// the output so far follow. `s` is whole vectors.
    fn soften(s: &mut [f32], from: usize, to: usize, scale: f32, top: &mut f32, total: &mut f32, out: &mut [f32]) {
        if from < to {
            let (first, end) = (from / LANES * LANES, to.next_multiple_of(LANES));
            s[first..from].fill(f32::NEG_INFINITY);
            s[to..end].fill(f32::NEG_INFINITY);
            let s = &mut s[first..end];
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
            for s in s.as_chunks_mut::<LANES>().0 {
                for i in 0..LANES {
                    s[i] = exp(s[i].mul_add(scale, -highest));
                    lanes[i] += s[i];
                }
            }
            *total += fold(lanes);
        }
        s[..from].fill(0.0);
        s[to..].fill(0.0);
    }
}
