//! The forward: a task takes some rows of one head and passes over the keys that they may see, tile by tile, with a
//! running maximum and denominator; keys down and rows across, so that what is done to a row's scores is done to a vector of rows.
//!
//! ```text
//! for some keys:      Sᵀ = k qᵀ      m' = max(m, max of Sᵀ/√D)      Pᵀ = e^(Sᵀ/√D − m')
//!     l = l e^(m − m') + Σ Pᵀ        y = y e^(m − m') + P v
//! y = y / l           lse = m + ln l
//! ```
use super::Heads;
use super::tiles::{Small, takes, with_room};
use crate::device::{Precision, Values, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::Shared;
use crate::ops::simd::{LANES, exp, wide};
use std::ops::Range;

/// Measured (Intel AVX-512, D = 64): query rows of a tile …
const ROWS: usize = 64;
/// … and key rows. Both are whole blocks of every kernel, one across and the other down. Pᵀ is just small enough to be read
/// where it lies.
const KEYS: usize = 192;

/// Elements that a task works in.
pub fn room(h: Heads) -> usize {
    let packed = [(ROWS, h.size), (KEYS, h.size), (h.size, KEYS), (ROWS, KEYS)];
    takes(ROWS * h.size) + takes(KEYS * ROWS) + packed.iter().map(|&(rows, k)| takes(gemm::room(rows, k))).sum::<usize>()
}

pub fn forward(precision: Precision, y: &mut [f32], lse: &mut [f32], qkv: Values, h: Heads, starts: Option<&[u32]>) {
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
    qkv: Values,
    h: Heads,
    base: usize,
    head: usize,
    rows: Range<usize>,
    start: impl Fn(usize) -> usize,
) {
    let (w, d, n, top) = (h.width(), h.size, rows.len(), rows.start);
    let (kv, scale) = (head / h.group(), h.scale() as f32);
    with_room(room(h), |mut room| {
        let out = &mut room.take(ROWS * d)[..n * d];
        let s = room.take(KEYS * ROWS);
        let [for_q, for_k] = [ROWS, KEYS].map(|rows| room.units(rows, d));
        let (for_v, for_p) = (room.units(d, KEYS), room.units(ROWS, KEYS));
        let (mut tops, mut totals) = ([f32::NEG_INFINITY; ROWS], [0f32; ROWS]);
        let q = products.right(for_q, Layout::NT, (qkv.skip((base + top) * w + head * d), w), n, d);
        let from = rows.clone().map(&start).min().unwrap_or(0);
        for first in (from..rows.end).step_by(KEYS) {
            let keys = KEYS.min(rows.end - first);
            // the first row that sees the first of some keys, and the keys that the last of some rows sees
            let sees = |some: Range<usize>| (first + some.start).saturating_sub(top).min(n);
            let seen = |some: Range<usize>| (top + some.end).saturating_sub(first).min(keys);
            let k = products.left(for_k, Layout::NT, (qkv.skip((base + first) * w + h.key(kv)), w), keys, d);
            let scored = |some, cols: Range<usize>| if sees(some) < cols.end { 0..d } else { 0..0 };
            // SAFETY: the tile is this task's.
            unsafe { products.multiply((Shared::new(s), 0, ROWS), [keys, n], Into::Overwrite, k, q, scored) };
            let s = &mut s[..keys * ROWS];
            let mut end = 0;
            for (j, s) in s.chunks_exact_mut(ROWS).enumerate() {
                // rows behind this one belong to documents that begin later
                while end < n && start(top + end) <= first + j {
                    end += 1;
                }
                let from = sees(j..j + 1).min(end);
                s[..from].fill(f32::NEG_INFINITY);
                s[end..].fill(f32::NEG_INFINITY);
            }
            let mut shrink = [0f32; ROWS];
            soften(s, scale, &mut tops, &mut totals, &mut shrink);
            let into = if first == from { Into::Overwrite } else { Into::Add };
            if into == Into::Add {
                out.chunks_exact_mut(d).zip(shrink).for_each(|(out, shrink)| times(out, shrink));
            }
            let p = products.left(for_p, Layout::TN, ((&*s).into(), ROWS), n, keys);
            let v = products.right(for_v, Layout::NN, (qkv.skip((base + first) * w + h.value(kv)), w), d, keys);
            // SAFETY: as above.
            unsafe { products.multiply((Shared::new(out), 0, d), [n, d], into, p, v, |some, _| 0..seen(some)) };
        }
        for (r, out) in out.chunks_exact(d).enumerate() {
            let row = base + top + r;
            // SAFETY: these columns of these rows belong to this task alone.
            let (y, lse) = unsafe { (y.piece((row * h.q + head) * d, d), lse.piece(row * h.q + head, 1)) };
            divided(y, out, totals[r]);
            lse[0] = tops[r] + totals[r].ln();
        }
    });
}

wide! {
    fn times(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
    fn divided(y: &mut [f32], x: &[f32], by: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x / by);
    }
    /// Scores, keys down and rows across, become e^(s·scale − top); the running maxima and denominators follow, and `shrink` is
    /// what has become of those before.
    fn soften(s: &mut [f32], scale: f32, tops: &mut [f32; ROWS], totals: &mut [f32; ROWS], shrink: &mut [f32; ROWS]) {
        const V: usize = 2 * LANES;
        for at in (0..ROWS).step_by(V) {
            let mut highest = [f32::NEG_INFINITY; V];
            for s in s.chunks_exact(ROWS) {
                let s: &[f32; V] = s[at..at + V].try_into().expect("V of them");
                for i in 0..V {
                    // a NaN is kept: it must reach the loss
                    highest[i] = if s[i] <= highest[i] { highest[i] } else { s[i] };
                }
            }
            let mut sums = [0f32; V];
            for i in 0..V {
                let top = tops[at + i];
                let highest = highest[i] * scale;
                let highest = if highest <= top { top } else { highest };
                shrink[at + i] = if highest == top { 1.0 } else { exp(top - highest) };
                tops[at + i] = highest;
                sums[i] = totals[at + i] * shrink[at + i];
            }
            // a row that has seen no key yet: its scores are −∞ and become 0
            let tops: [f32; V] = std::array::from_fn(|i| if tops[at + i] == f32::NEG_INFINITY { 0.0 } else { tops[at + i] });
            for s in s.chunks_exact_mut(ROWS) {
                let s: &mut [f32; V] = (&mut s[at..at + V]).try_into().expect("V of them");
                for i in 0..V {
                    s[i] = exp(s[i].mul_add(scale, -tops[i]));
                    sums[i] += s[i];
                }
            }
            totals[at..at + V].copy_from_slice(&sums);
        }
    }
}
