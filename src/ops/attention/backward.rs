//! The backward: a task takes one key/value head of one sequence, so that its gradients are summed in one order; it
//! recomputes the softmax from lse, tile by tile, keys down and rows across, so that no product has to turn a tile.
//!
//! ```text
//! for each query head:    for some rows:    for some keys that they may see:
//!     Sᵀ = k qᵀ       dPᵀ = v dyᵀ       Pᵀ = e^(Sᵀ/√D − lse)       dSᵀ = Pᵀ (dPᵀ − δ) / √D
//!     dv += Pᵀ dy     dk += dSᵀ q       dqᵀ += kᵀ dSᵀ
//! ```
use super::Heads;
use super::leaving::Leaving;
use super::tiles::{Small, takes, turn, with_room};
use crate::device::{Precision, Values, ValuesMut, threads};
use crate::ops::gemm::{self, Into, Layout};
use crate::ops::rows::{Shared, SharedValues, halves, ordered_sum_of_parts};
use crate::ops::simd::{LANES, dot, exp2, fetch, halve, round_bf16, wide};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Measured (Intel AVX-512, D = 64): query rows of a tile …
const ROWS: usize = 128;
/// … and key rows. Both are whole blocks of every kernel, one across and the other down.
const KEYS: usize = 96;
/// Measured: rows of a head by which they are asked for early. They lie whole rows of all heads apart.
const AHEAD: usize = 8;

/// Elements that a task works in.
pub fn room(h: Heads) -> usize {
    let d = h.size;
    let tiles = 2 * takes(KEYS * d) + 4 * takes(ROWS * d) + 3 * takes(KEYS * ROWS) + 2 * takes(h.seq * d) + takes(d);
    let of_keys = 2 * takes(gemm::room(KEYS, d)) + takes(gemm::room(d, KEYS));
    let of_rows = 2 * takes(gemm::room(ROWS, d)) + 2 * takes(gemm::room(d, ROWS));
    tiles + of_keys + of_rows + 2 * takes(gemm::room(KEYS, ROWS)) + takes(gemm::room(ROWS, KEYS))
}

pub fn backward(
    precision: Precision,
    dqkv: ValuesMut,
    sums: &mut [f32],
    dy: &[f32],
    y: &[f32],
    lse: &[f32],
    qkv: Values,
    h: Heads,
    starts: Option<&[u32]>,
) {
    let (sequences, summed) = (qkv.len() / h.width() / h.seq, !sums.is_empty());
    let dqkv = SharedValues::new(dqkv);
    let products = Small::new(precision);
    ordered_sum_of_parts(sums, sequences, |sums| {
        threads::each(sequences * h.kv, |task| {
            let (sequence, kv) = (task / h.kv, task % h.kv);
            let start = |i: usize| starts.map_or(0, |s| s[sequence * h.seq + i] as usize);
            let to = Leaving { dqkv, sums: summed.then_some(sums), sequence, h };
            key_head(products, &to, dy, y, lse, qkv, kv, start);
        });
    });
}

fn key_head(
    products: Small,
    to: &Leaving,
    dy: &[f32],
    y: &[f32],
    lse: &[f32],
    qkv: Values,
    kv: usize,
    start: impl Fn(usize) -> usize,
) {
    let h = to.h;
    let (w, d, t, scale, base) = (h.width(), h.size, h.seq, h.scale() as f32, to.sequence * h.seq);
    let heads = kv * h.group()..(kv + 1) * h.group();
    with_room(room(h), |mut room| {
        let [k, v] = [(); 2].map(|()| room.take(KEYS * d));
        let [q, dy_tile, dq, dq_rows] = [(); 4].map(|()| room.take(ROWS * d));
        let [dk, dv] = [(); 2].map(|()| room.take(t * d));
        let sums = room.take(d);
        [&mut *dk, dv].into_iter().for_each(|x| x.fill(0.0));
        let [p, ds] = [(); 2].map(|()| room.take(KEYS * ROWS));
        let [p_halves, ds_halves] = [(); 2].map(|()| halves(room.take(KEYS * ROWS / 2)));
        let [mut lses, mut deltas] = [[0f32; ROWS]; 2];
        let [for_k, for_v] = [(); 2].map(|()| room.units(KEYS, d));
        let for_k_again = room.units(d, KEYS);
        let [for_q, for_dy] = [(); 2].map(|()| room.units(ROWS, d));
        let [for_q_again, for_dy_again] = [(); 2].map(|()| room.units(d, ROWS));
        let [for_p, for_ds] = [(); 2].map(|()| room.units(KEYS, ROWS));
        let for_ds_again = room.units(ROWS, KEYS);
        for (head, top) in heads.flat_map(|head| (0..t).step_by(ROWS).map(move |top| (head, top))) {
            let n = ROWS.min(t - top);
            for (r, (lse_of, delta)) in lses.iter_mut().zip(&mut deltas).take(n).enumerate() {
                let at = (base + top + r) * h.q + head;
                [dy, y].into_iter().for_each(|x| fetch_row(x.as_ptr().wrapping_add((at + AHEAD * h.q) * d), d));
                (*lse_of, *delta) = (lse[at] * LOG2_E, row_dot(&dy[at * d..][..d], &y[at * d..][..d]));
            }
            let rows = base + top..base + top + n;
            let q = products.ready(q, qkv, rows.clone(), [w, head * d, d]);
            let dy = products.ready(dy_tile, dy.into(), rows, [h.q * d, head * d, d]);
            let (q_down, dy_down) = (products.right(for_q, Layout::NT, q, n, d), products.right(for_dy, Layout::NT, dy, n, d));
            let (q, dy) = (products.right(for_q_again, Layout::NN, q, d, n), products.right(for_dy_again, Layout::NN, dy, d, n));
            let across = n.next_multiple_of(products.kernel.cols);
            for first in (start(top)..top + n).step_by(KEYS) {
                let keys = KEYS.min(top + n - first);
                let these = base + first..base + first + keys;
                // the first row that sees the first of some keys, and the keys that the last of some rows sees
                let sees = |some: Range<usize>| (first + some.start).saturating_sub(top).min(n);
                let seen = |some: Range<usize>| (top + some.end).saturating_sub(first).min(keys);
                let visible = |some: Range<usize>, cols: Range<usize>| if sees(some) < cols.end { 0..d } else { 0..0 };
                let k = products.ready(k, qkv, these.clone(), [w, h.key(kv), d]);
                let v = products.ready(v, qkv, these, [w, h.value(kv), d]);
                let (k, k_down) =
                    (products.left(for_k, Layout::NT, k, keys, d), products.left(for_k_again, Layout::TN, k, d, keys));
                let v = products.left(for_v, Layout::NT, v, keys, d);
                // SAFETY: the tiles are this task's.
                unsafe {
                    products.multiply((Shared::new(p), 0, ROWS), [0..keys, 0..n], Into::Overwrite, k, q_down, visible);
                    products.multiply((Shared::new(ds), 0, ROWS), [0..keys, 0..n], Into::Overwrite, v, dy_down, visible);
                }
                let mut end = 0;
                for (j, (p, ds)) in p.chunks_exact_mut(ROWS).zip(ds.chunks_exact_mut(ROWS)).take(keys).enumerate() {
                    // rows behind this one belong to documents that begin later
                    while end < n && start(top + end) <= first + j {
                        end += 1;
                    }
                    gradients(p, ds, sees(j..j + 1).min(end), end, scale, &lses, &deltas, products.rounds());
                    if products.pairs() {
                        halve(&mut p_halves[j * ROWS..][..ROWS], p);
                        halve(&mut ds_halves[j * ROWS..][..ROWS], ds);
                    }
                }
                let [p, ds]: [Values; 2] = if products.pairs() {
                    [Values::Bf16(p_halves), Values::Bf16(ds_halves)]
                } else {
                    [Values::F32(p), Values::F32(ds)]
                };
                let (p, ds, ds_down) = (
                    products.left(for_p, Layout::NN, (p, ROWS), keys, n),
                    products.left(for_ds, Layout::NN, (ds, ROWS), keys, n),
                    products.right(for_ds_again, Layout::NN, (ds, ROWS), across, keys),
                );
                let [dk, dv] = [&mut *dk, dv].map(|x| (Shared::new(x), first * d, d));
                let into = if first == start(top) { Into::Overwrite } else { Into::Add };
                // SAFETY: as above.
                unsafe {
                    products.multiply(dv, [0..keys, 0..d], Into::Add, p, dy, |some, _| sees(some)..n);
                    products.multiply(dk, [0..keys, 0..d], Into::Add, ds, q, |some, _| sees(some)..n);
                    products
                        .multiply((Shared::new(dq), 0, ROWS), [0..d, 0..across], into, k_down, ds_down, |_, some| 0..seen(some));
                }
            }
            turn(Shared::new(dq_rows), 0, d, n, dq, ROWS, d);
            // SAFETY: this task alone holds the columns of key/value head `kv` and of its query heads, here and below.
            unsafe { to.write(&dq_rows[..n * d], top, head * d, sums) };
        }
        unsafe {
            to.write(dk, 0, h.key(kv), sums);
            to.write(dv, 0, h.value(kv), sums);
        }
    });
}

fn fetch_row(row: *const f32, d: usize) {
    (0..d).step_by(LANES).for_each(|i| fetch(row.wrapping_add(i)));
}

wide! {
    fn row_dot(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }

    /// Of one key, for rows from … to: p, the scores, become probabilities, and ds, which holds dp, becomes ds. Both are 0
    /// where the key may not be seen, and rounded to bf16 if `rounds`. `lse` to base 2. All are whole vectors.
    fn gradients(p: &mut [f32], ds: &mut [f32], from: usize, to: usize, scale: f32, lse: &[f32], delta: &[f32], rounds: bool) {
        let some = from / LANES * LANES..to.next_multiple_of(LANES);
        let rows = p[some.clone()].iter_mut().zip(&mut ds[some.clone()]).zip(&lse[some.clone()]).zip(&delta[some]);
        for (((p, ds), lse), delta) in rows {
            let exact = exp2(p.mul_add(scale * LOG2_E, -lse));
            let gradient = exact * (*ds - delta) * scale;
            (*p, *ds) = if rounds { (round_bf16(exact), round_bf16(gradient)) } else { (exact, gradient) };
        }
        for x in [p, ds] {
            x[..from].fill(0.0);
            x[to..].fill(0.0);
        }
    }
}
