//! RMSNorm over each query and key head, as Qwen3 has it; the value heads are copied through.
//!
//! ```text
//! y = γ x r,   r = 1/√(mean of x² + ε)        dx = r (g − x r mean(g x r)),  g = γ dy        dγ += Σ dy x r
//! ```
//! Rows of y and qkv are (q_1…q_H | k_1…k_K | v_1…v_K), each D wide; γ_q and γ_k (1, D) serve all query and all key
//! heads; stats (n, H + K) keeps r.
use super::attention::Heads;
use super::rows::{Shared, in_f32, per_task, pieces, sums_over_rows};
use super::simd::{sums, wide};
use crate::device::cuda::{BLOCKS, Grid, float};
use crate::device::{Device, Values, ValuesMut};
use crate::tensor::Tensor;

/// y = qkv with its q and k heads normalised.
pub fn forward(dev: &Device, y: Tensor, stats: Tensor, qkv: Tensor, gamma_q: Tensor, gamma_k: Tensor, eps: f32, h: Heads) {
    check([y, qkv, qkv], stats, gamma_q, gamma_k, h);
    let _at = dev.tally("qk_norm forward", 0, &[y, stats, qkv, gamma_q, gamma_k]);
    let (width, heads) = (h.width(), h.q + h.kv);
    match dev {
        Device::Cpu(d) => d.arena.op_either([y, stats], [qkv, gamma_q, gamma_k], |outs, [x, gamma_q, gamma_k]| {
            let ([y, stats], x, step) = (outs.map(ValuesMut::f32), x.f32(), per_task(width));
            in_f32([gamma_q, gamma_k], |[gamma_q, gamma_k]| {
                pieces([(y, step * width), (stats, step * heads)], [(x, step * width)], |_, [y, stats], [x]| {
                    let rows = y.chunks_exact_mut(width).zip(stats.chunks_exact_mut(heads)).zip(x.chunks_exact(width));
                    rows.for_each(|((y, stats), x)| row_forward(y, stats, x, gamma_q, gamma_k, eps, h));
                });
            });
        }),
        Device::Cuda(d) => {
            let n = qkv.rows;
            let ([y, stats], [qkv, gamma_q, gamma_k]) = d.op([y, stats], [qkv, gamma_q, gamma_k]);
            let sizes = [n, h.q, h.kv, h.size, lanes(h)].map(|n| n as u64);
            let grid = Grid::over(n * (h.q + 2 * h.kv) * lanes(h));
            d.launch("qk_norm_forward", grid, &[&[y, stats, qkv, gamma_q, gamma_k], &sizes[..], &[float(eps)]].concat());
        }
        Device::Reference(d) => d.arena.op([y, stats], [qkv, gamma_q, gamma_k], |[y, stats], [x, gamma_q, gamma_k]| {
            y.copy_from_slice(x);
            for (s, r) in stats.iter_mut().enumerate() {
                let (at, gamma) = (head_at(s, h), if s % heads < h.q { gamma_q } else { gamma_k });
                let square = x[at..at + h.size].iter().map(|x| x * x).sum::<f64>() / h.size as f64;
                *r = 1.0 / (square + f64::from(eps)).sqrt();
                (0..h.size).for_each(|i| y[at + i] = gamma[i] * x[at + i] * *r);
            }
        }),
    }
}

/// dqkv = ∂qkv; dγ_q += ∂γ_q; dγ_k += ∂γ_k.
pub fn backward(
    dev: &Device,
    dqkv: Tensor,
    dgamma_q: Tensor,
    dgamma_k: Tensor,
    dy: Tensor,
    qkv: Tensor,
    stats: Tensor,
    gamma_q: Tensor,
    gamma_k: Tensor,
    h: Heads,
) {
    check([dqkv, dy, qkv], stats, gamma_q, gamma_k, h);
    assert!(dgamma_q.len() == h.size && dgamma_k.len() == h.size, "qk_norm: dgamma {dgamma_q:?}, {dgamma_k:?} of {h:?}");
    let (width, heads) = (h.width(), h.q + h.kv);
    let outs = [dqkv, dgamma_q, dgamma_k];
    let ins = [dy, qkv, stats, gamma_q, gamma_k];
    let _at = dev.tally("qk_norm backward", 0, &[dqkv, dgamma_q, dgamma_q, dgamma_k, dgamma_k, dy, qkv, stats, gamma_q, gamma_k]);
    match dev {
        Device::Cpu(d) => d.arena.op_either(outs, ins, |outs, [dy, x, stats, gamma_q, gamma_k]| {
            let ([dx, dgamma_q, dgamma_k], [dy, x, stats]) = (outs.map(ValuesMut::f32), [dy, x, stats].map(Values::f32));
            let dx = Shared::new(dx);
            in_f32([gamma_q, gamma_k], |[gamma_q, gamma_k]| {
                // one pass: a row's dx and its part of the sums, while it is in cache
                sums_over_rows([dgamma_q, dgamma_k], x.len() / width, |r, [dgamma_q, dgamma_k]| {
                    let [dy, x] = [dy, x].map(|rows| &rows[r * width..][..width]);
                    // SAFETY: the row is this task's alone.
                    let dx = unsafe { dx.piece(r * width, width) };
                    row_backward(dx, [dgamma_q, dgamma_k], dy, x, &stats[r * heads..][..heads], [gamma_q, gamma_k], h);
                });
            });
        }),
        Device::Cuda(d) => {
            let n = qkv.rows;
            let ([dqkv, dgamma_q, dgamma_k], [dy, qkv, stats, gamma_q, gamma_k]) = d.op(outs, ins);
            let blocks = n.min(BLOCKS);
            let partials = d.scratch(4 * blocks * 2 * h.size);
            let sizes = [n, h.q, h.kv, h.size, lanes(h)].map(|n| n as u64);
            let arguments = [&[dqkv, partials, dy, qkv, stats, gamma_q, gamma_k], &sizes[..]].concat();
            d.launch("qk_norm_backward", Grid::new([blocks, 1, 1], [256, 1, 1]), &arguments);
            let grid = Grid::new([h.size.div_ceil(32), 2, 1], [32, 8, 1]);
            d.launch("column_reduce", grid, &[dgamma_q, dgamma_k, partials, blocks as u64, h.size as u64]);
        }
        Device::Reference(d) => d.arena.op(outs, ins, |[dx, dgamma_q, dgamma_k], [dy, x, stats, gamma_q, gamma_k]| {
            dx.copy_from_slice(dy);
            for (s, r) in stats.iter().enumerate() {
                let is_q = s % heads < h.q;
                let (at, gamma) = (head_at(s, h), if is_q { gamma_q } else { gamma_k });
                let dgamma = if is_q { &mut *dgamma_q } else { &mut *dgamma_k };
                let along = (0..h.size).map(|i| gamma[i] * dy[at + i] * x[at + i] * r).sum::<f64>() / h.size as f64;
                for i in 0..h.size {
                    dx[at + i] = r * (gamma[i] * dy[at + i] - x[at + i] * r * along);
                    dgamma[i] += dy[at + i] * x[at + i] * r;
                }
            }
        }),
    }
}

fn check(rows: [Tensor; 3], stats: Tensor, gamma_q: Tensor, gamma_k: Tensor, h: Heads) {
    let n = rows[0].rows;
    assert!(rows.iter().all(|t| (t.rows, t.cols) == (n, h.width())), "qk_norm: {rows:?} of {h:?}");
    assert_eq!((stats.rows, stats.cols), (n, h.q + h.kv), "qk_norm: stats {stats:?} of {h:?}");
    assert!(gamma_q.len() == h.size && gamma_k.len() == h.size, "qk_norm: gamma {gamma_q:?}, {gamma_k:?} of {h:?}");
}

/// Lanes of a warp that take a head together, eight columns each.
fn lanes(h: Heads) -> usize {
    h.size.div_ceil(8).next_power_of_two().min(32)
}

/// Where the head of the stats' element `s` starts in the rows.
fn head_at(s: usize, h: Heads) -> usize {
    s / (h.q + h.kv) * h.width() + s % (h.q + h.kv) * h.size
}

wide! {
    fn row_forward(y: &mut [f32], stats: &mut [f32], x: &[f32], gamma_q: &[f32], gamma_k: &[f32], eps: f32, h: Heads) {
        let d = h.size;
        let copied = stats.len() * d;
        y[copied..].copy_from_slice(&x[copied..]);
        for (head, ((y, x), r)) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(stats).enumerate() {
            let gamma = if head < h.q { gamma_q } else { gamma_k };
            let [squares] = sums([x], |[x]| [x * x]);
            *r = 1.0 / (squares / d as f32 + eps).sqrt();
            for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
                *y = gamma * (x * *r);
            }
        }
    }

    fn row_backward(
        dx: &mut [f32],
        dgammas: [&mut [f32]; 2],
        dy: &[f32],
        x: &[f32],
        stats: &[f32],
        gammas: [&[f32]; 2],
        h: Heads,
    ) {
        let (d, [dgamma_q, dgamma_k]) = (h.size, dgammas);
        let copied = stats.len() * d;
        dx[copied..].copy_from_slice(&dy[copied..]);
        let heads = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d)).zip(stats);
        for (head, (((dx, dy), x), r)) in heads.enumerate() {
            let (gamma, dgamma) = if head < h.q { (gammas[0], &mut *dgamma_q) } else { (gammas[1], &mut *dgamma_k) };
            let (dx, dgamma, dy, x, gamma) = (&mut dx[..d], &mut dgamma[..d], &dy[..d], &x[..d], &gamma[..d]);
            let [along] = sums([x, dy, gamma], |[x, dy, gamma]| [gamma * dy * (x * r)]);
            let along = along / d as f32;
            for i in 0..d {
                let normed = x[i] * r;
                dx[i] = r * (gamma[i] * dy[i] - normed * along);
                dgamma[i] = dy[i].mul_add(normed, dgamma[i]);
            }
        }
    }
}
