//! The forward: a task takes some rows of one head and passes over the keys that they may see, tile by tile, with a
//! running maximum and denominator; keys down and rows across, so that what is done to a row's scores is done to a vector of rows. Strips of
//! rows take turns at a tile of keys, so that a strip's scores stay in the first-level cache until they are spent.
//!
//! ```text
//! for some keys, for a strip of rows:     Sᵀ = k qᵀ      m' = max(m, max of Sᵀ/√D)      Pᵀ = e^(Sᵀ/√D − m')
//!     l = l e^(m − m') + Σ Pᵀ             yᵀ = yᵀ e^(m − m') + vᵀ Pᵀ
//! y = (yᵀ / l)ᵀ       lse = m + ln l
//! ```
//! Pᵀ is thus a right operand: the kernel reads it where it lies, or its numbers are packed in the order in which they lie.
//! Exponentials are powers of 2, whose factor log₂ e is in the scale: m is a logarithm to base 2 until lse is written.
use super::Heads;
use super::tiles::{Small, takes, turn, with_room};
use crate::device::{Precision, Values, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::Shared;
use crate::ops::simd::{LANES, exp2, fetch, round_bf16, wide};
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Structural: rows of a strip, two vectors; whole blocks of every kernel.
const STRIP: usize = 2 * LANES;
/// Measured (Intel AVX-512, D = 64): rows of a task …
const ROWS: usize = 128;
/// … and the most keys of a tile.
const KEYS: usize = 192;
/// Structural: whole blocks, of 4, 6 and 12 rows, of all kernels of f32.
const WHOLE: usize = 48;

/// Keys of a tile: not so many that a kernel of f32 could not read their values where they lie, if a head is not too wide for that.
fn keys_of_tile(h: Heads) -> usize {
    (gemm::SMALL / h.size / WHOLE * WHOLE).clamp(WHOLE, KEYS)
}

/// Elements that a task works in.
pub fn room(h: Heads) -> usize {
    let (d, keys) = (h.size, keys_of_tile(h));
    let tiles = 2 * takes(ROWS * d) + 2 * takes(keys * d) + takes(keys * STRIP);
    let packed = [(ROWS, d), (keys, d), (d, keys), (STRIP, keys)];
    tiles + packed.iter().map(|&(rows, k)| takes(gemm::room(rows, k))).sum::<usize>()
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
    let (kv, scale) = (head / h.group(), h.scale() as f32 * LOG2_E);
    let most = keys_of_tile(h);
    with_room(room(h), |mut room| {
        let out = room.take(ROWS * d);
        let s = room.take(most * STRIP);
        let (q, [k, v]) = (room.take(ROWS * d), [(); 2].map(|()| room.take(most * d)));
        let [for_q, for_k] = [ROWS, most].map(|rows| room.units(rows, d));
        let (for_v, for_p) = (room.units(d, most), room.units(STRIP, most));
        let (mut tops, mut totals) = ([[f32::NEG_INFINITY; STRIP]; ROWS / STRIP], [[0f32; STRIP]; ROWS / STRIP]);
        let strips = (0..n).step_by(STRIP).map(|low| low..n.min(low + STRIP));
        let q = products.ready(q, qkv, base + top..base + top + n, [w, head * d, d]);
        let q = products.right(for_q, Layout::NT, q, n, d);
        let from = start(top);
        for first in (from..rows.end).step_by(most) {
            let keys = most.min(rows.end - first);
            let these = base + first..base + first + keys;
            let k = products.ready(k, qkv, these.clone(), [w, h.key(kv), d]);
            let v = products.ready(v, qkv, these, [w, h.value(kv), d]);
            let (k, v) = (products.left(for_k, Layout::NT, k, keys, d), products.left(for_v, Layout::TN, v, d, keys));
            for (i, (strip, out)) in strips.clone().zip(out.chunks_exact_mut(d * STRIP)).enumerate() {
                // keys that the last of its rows sees
                let seen = (top + strip.end).saturating_sub(first).min(keys);
                if seen == 0 {
                    continue;
                }
                let across = strip.len().next_multiple_of(products.kernel.cols);
                let cols = strip.start..strip.start + across;
                // SAFETY: the strip is this task's.
                unsafe { products.multiply((Shared::new(s), 0, STRIP), [0..seen, cols], Into::Overwrite, k, q, |_, _| 0..d) };
                let s = &mut s[..seen * STRIP];
                hide(s, top + strip.start..top + strip.end, first, &start);
                let shrink = soften(s, scale, &mut tops[i], &mut totals[i], products.rounds());
                let into = if first == from { Into::Overwrite } else { Into::Add };
                if into == Into::Add {
                    times(out, &shrink);
                }
                let p = products.right(for_p, Layout::NN, (Values::F32(s), STRIP), across, seen);
                // SAFETY: as above.
                unsafe { products.multiply((Shared::new(out), 0, STRIP), [0..d, 0..across], into, v, p, |_, _| 0..seen) };
            }
        }
        for (i, (strip, out)) in strips.zip(out.chunks_exact_mut(d * STRIP)).enumerate() {
            let row = base + top + strip.start;
            times(out, &totals[i].map(f32::recip));
            turn(y, (row * h.q + head) * d, h.q * d, strip.len(), out, STRIP, d);
            for r in 0..strip.len() {
                // SAFETY: this column of these rows belongs to this task alone.
                let lse = unsafe { lse.piece((row + r) * h.q + head, 1) };
                lse[0] = tops[i][r] * LN_2 + totals[i][r].ln();
            }
        }
    });
}

/// −∞ for what these rows may not see: keys behind them, and before their document. The keys of `s` begin with `first`.
fn hide(s: &mut [f32], rows: Range<usize>, first: usize, start: impl Fn(usize) -> usize) {
    for (j, s) in s.chunks_exact_mut(STRIP).enumerate().skip(rows.start.saturating_sub(first)) {
        s[..(first + j - rows.start).min(STRIP)].fill(f32::NEG_INFINITY);
    }
    for (r, row) in rows.enumerate() {
        let before = start(row).saturating_sub(first);
        s.chunks_exact_mut(STRIP).take(before).for_each(|s| s[r] = f32::NEG_INFINITY);
    }
}

wide! {
    /// Each row of x times the factors. The request keeps the compiler from taking rows for lanes.
    fn times(x: &mut [f32], factors: &[f32; STRIP]) {
        for x in x.chunks_exact_mut(STRIP) {
            fetch(x.as_ptr().wrapping_add(STRIP));
            x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    }

    /// Scores, keys down and rows across, become 2^(s·scale − top), rounded to bf16 if `rounds`; the running maxima and denominators
    /// follow, and what is returned has become of those before.
    fn soften(s: &mut [f32], scale: f32, tops: &mut [f32; STRIP], totals: &mut [f32; STRIP], rounds: bool) -> [f32; STRIP] {
        let mut highest = [f32::NEG_INFINITY; STRIP];
        for s in s.chunks_exact(STRIP) {
            for i in 0..STRIP {
                // a NaN may be passed over here: its exponential is one, and reaches the loss by the sum
                highest[i] = if s[i] <= highest[i] { highest[i] } else { s[i] };
            }
        }
        let (mut shrink, mut sums) = ([0f32; STRIP], [0f32; STRIP]);
        for i in 0..STRIP {
            let highest = highest[i] * scale;
            let highest = if highest <= tops[i] { tops[i] } else { highest };
            shrink[i] = if highest == tops[i] { 1.0 } else { exp2(tops[i] - highest) };
            tops[i] = highest;
            sums[i] = totals[i] * shrink[i];
        }
        // a row that has seen no key yet: its scores are −∞ and become 0
        let tops: [f32; STRIP] = std::array::from_fn(|i| if tops[i] == f32::NEG_INFINITY { 0.0 } else { tops[i] });
        for s in s.chunks_exact_mut(STRIP) {
            for i in 0..STRIP {
                let p = exp2(s[i].mul_add(scale, -tops[i]));
                sums[i] += p;
                s[i] = if rounds { round_bf16(p) } else { p };
            }
        }
        *totals = sums;
        shrink
    }
}
