//! Normalisation of rows. LayerNorm (Ba, Kiros, Hinton 2016) and RMSNorm (Zhang, Sennrich 2019).
//!
//! ```text
//! Layer:  x̂ = (x − mean) r     r = 1/√(variance + ε)       y = γ x̂ + β
//! Rms:    x̂ = x r              r = 1/√(mean of x² + ε)     y = γ x̂
//!
//! with g = γ dy:
//! Layer:  dx += r (g − mean(g) − x̂ mean(g x̂))     dβ += Σ_rows dy
//! Rms:    dx += r (g − x̂ mean(g x̂))               dγ += Σ_rows dy x̂
//! ```
//! x, y (n, C); γ, β (1, C); stats (n, 2) keeps (mean, r), the mean of Rms being 0. dx is added to, because the gradient
//! of the residual stream, which skips the norm, already lies there. A product reads it next: [`Onward`].
use super::rows::{Shared, fill_rows, in_f32, or_empty, sums_over_rows};
use super::simd::{add_to, halve, sums, wide};
use crate::device::cuda::{BLOCKS, Grid, float};
use crate::device::{Device, Values, ValuesMut};
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    Layer,
    Rms,
}

/// y = norm(x). β for [`Norm::Layer`] only, and there too it may be absent. y, γ and β may be in bf16 on the CPU.
pub fn forward(dev: &Device, kind: Norm, eps: f32, y: Tensor, stats: Tensor, x: Tensor, gamma: Tensor, beta: Option<Tensor>) {
    let c = x.cols;
    assert_eq!((y.rows, y.cols), (x.rows, c), "norm: y {y:?} of x {x:?}");
    check(kind, stats, x, gamma, beta);
    let ins = [x, gamma, or_empty(beta)];
    let _at = dev.tally("norm forward", 0, &[y, stats, x, gamma, or_empty(beta)]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([y, stats], ins, |[y, stats], [x, gamma, beta]| {
            let (x, stats) = (x.f32(), Shared::new(stats.f32()));
            in_f32([gamma, beta], |[gamma, beta]| {
                fill_rows(y, c, |r, cols, y| {
                    let x = &x[r * c..][..c];
                    // SAFETY: the row is this task's alone.
                    let stats = unsafe { stats.piece(2 * r, 2) };
                    if cols.start == 0 {
                        stats.copy_from_slice(&row_stats(kind, eps, x));
                    }
                    let beta = if beta.is_empty() { beta } else { &beta[cols.clone()] };
                    row_forward(y, &x[cols.clone()], [stats[0], stats[1]], &gamma[cols], beta);
                });
            });
        }),
        Device::Cuda(d) => {
            let ([y, stats], [at, gamma, beta]) = d.op([y, stats], ins);
            let none = 0; // the residual stream is added by the product before
            let layer = u64::from(kind == Norm::Layer);
            let (n, columns) = (x.rows as u64, c as u64);
            if c > WIDE {
                let grid = wide_rows(x.rows, c);
                d.launch("norm_forward_wide", grid, &[y, stats, none, at, none, gamma, beta, columns, float(eps), layer]);
            } else {
                let grid = rows_at_once(x.rows.div_ceil(ROWS), c);
                d.launch("norm_forward", grid, &[y, stats, none, at, none, gamma, beta, n, columns, float(eps), layer]);
            }
        }
        Device::Reference(d) => {
            d.arena.op([y, stats], ins, |[y, stats], [x, gamma, beta]| reference::forward(kind, eps, y, stats, x, gamma, beta))
        }
    }
}

/// What the product that reads dx needs of it, made while a row is in cache. Not on a GPU, where products make both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Onward {
    /// = dx rounded to bf16, (n, C).
    pub rounded: Option<Tensor>,
    /// += Σ_rows dx, (1, C): the gradient of the product's bias.
    pub sums: Option<Tensor>,
}

/// dx += ∂x; dγ += ∂γ; dβ += ∂β; then what is asked for of dx.
pub fn backward(
    dev: &Device,
    kind: Norm,
    dx: Tensor,
    dgamma: Tensor,
    dbeta: Option<Tensor>,
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    gamma: Tensor,
    onward: Onward,
) {
    let c = x.cols;
    assert!((dx.rows, dx.cols) == (x.rows, c) && (dy.rows, dy.cols) == (x.rows, c), "norm: dx {dx:?}, dy {dy:?}, x {x:?}");
    assert_eq!(dgamma.len(), c, "norm: dgamma {dgamma:?} of {c} columns");
    check(kind, stats, x, gamma, dbeta);
    let (outs, [rounded, sums]) = ([dx, dgamma, or_empty(dbeta)], [onward.rounded, onward.sums].map(or_empty));
    let _at =
        dev.tally("norm backward", 0, &[dx, dx, dgamma, dgamma, outs[2], outs[2], rounded, sums, sums, dy, x, stats, gamma]);
    assert!([0, x.len()].contains(&rounded.len()) && [0, c].contains(&sums.len()), "norm: {onward:?} of {x:?}");
    assert!(onward.rounded.is_none_or(|t| t.half), "norm: {onward:?}, expected bf16");
    match dev {
        Device::Cpu(d) => {
            let [dx, dgamma, dbeta] = outs;
            let (outs, ins) = ([dx, dgamma, dbeta, sums, rounded], [dy, x, stats, gamma]);
            d.arena.op_either(outs, ins, |[dx, dgamma, dbeta, sums, rounded], [dy, x, stats, gamma]| {
                // one pass: a row's dx and its part of the sums, while it is in cache
                let ([dx, dgamma, dbeta, sums], [dy, x, stats]) =
                    ([dx, dgamma, dbeta, sums].map(ValuesMut::f32), [dy, x, stats].map(Values::f32));
                let dx = Shared::new(dx);
                let rounded = onward.rounded.map(|_| Shared::new(rounded.bf16()));
                in_f32([gamma], |[gamma]| {
                    sums_over_rows([dgamma, dbeta, sums], x.len() / c, |r, [dgamma, dbeta, sums]| {
                        let [dy, x] = [dy, x].map(|rows| &rows[r * c..][..c]);
                        let stats = [stats[2 * r], stats[2 * r + 1]];
                        // SAFETY: the row is this task's alone, here and below.
                        let dx = unsafe { dx.piece(r * c, c) };
                        row_backward(kind, dx, dy, x, stats, gamma);
                        add_gamma(dgamma, dy, x, stats[0], stats[1]);
                        add_to(dbeta, &dy[..dbeta.len()]);
                        add_to(sums, &dx[..sums.len()]);
                        if let Some(rounded) = rounded {
                            halve(unsafe { rounded.piece(r * c, c) }, dx);
                        }
                    });
                });
            });
        }
        Device::Cuda(d) => {
            assert!(rounded.len() + sums.len() == 0, "norm: {onward:?} on a GPU");
            let n = x.rows;
            let ([dx, dgamma, dbeta], [dy, x, stats, gamma]) = d.op(outs, [dy, x, stats, gamma]);
            let (kernel, blocks) = if c > WIDE { ("norm_backward_wide", n) } else { ("norm_backward", n.div_ceil(ROWS)) };
            let blocks = blocks.min(BLOCKS);
            let partials = d.scratch(4 * blocks * 2 * c);
            let grid = if c > WIDE { Grid { shared: 8 * c, ..wide_rows(blocks, c) } } else { rows_at_once(blocks, c) };
            let layer = u64::from(kind == Norm::Layer);
            d.launch(kernel, grid, &[dx, partials, dy, x, stats, gamma, n as u64, c as u64, layer]);
            let grid = Grid::new([c.div_ceil(32), 2, 1], [32, 8, 1]);
            d.launch("column_reduce", grid, &[dgamma, dbeta, partials, blocks as u64, c as u64]);
        }
        Device::Reference(d) => {
            let [dx, dgamma, dbeta] = outs;
            d.arena.op([dx, dgamma, dbeta, sums], [dy, x, stats, gamma], |[dx, dgamma, dbeta, sums], [dy, x, stats, gamma]| {
                reference::backward(kind, dx, dgamma, dbeta, dy, x, stats, gamma);
                if !sums.is_empty() {
                    dx.chunks_exact(c).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
                }
            });
        }
    }
}

/// Columns up to which a thread keeps its eight in registers (norm.cu).
const WIDE: usize = 4096;
/// Rows that a block is meant to have.
const ROWS: usize = 4;

/// Blocks that take some rows of `c` columns at once, eight columns a thread.
fn rows_at_once(blocks: usize, c: usize) -> Grid {
    Grid::new([blocks, 1, 1], [c.div_ceil(8).next_multiple_of(32), 1, 1])
}

/// A block for each of `blocks` rows of `c` columns.
fn wide_rows(blocks: usize, c: usize) -> Grid {
    Grid::new([blocks, 1, 1], [c.div_ceil(8).next_multiple_of(32).min(256), 1, 1])
}

fn check(kind: Norm, stats: Tensor, x: Tensor, gamma: Tensor, beta: Option<Tensor>) {
    assert!((stats.rows, stats.cols) == (x.rows, 2) && gamma.len() == x.cols, "norm: stats {stats:?}, gamma {gamma:?}, x {x:?}");
    assert!(beta.is_none_or(|b| kind == Norm::Layer && b.len() == x.cols), "norm: beta {beta:?} for {kind:?} of {x:?}");
}

wide! {
    fn row_stats(kind: Norm, eps: f32, x: &[f32]) -> [f32; 2] {
        let c = x.len();
        let mean = if kind == Norm::Layer { sums([x], |[x]| [x])[0] / c as f32 } else { 0.0 };
        let [squares] = sums([x], |[x]| [(x - mean) * (x - mean)]);
        let variance = squares / c as f32;
        [mean, 1.0 / (variance + eps).sqrt()]
    }

    fn row_forward(y: &mut [f32], x: &[f32], stats: [f32; 2], gamma: &[f32], beta: &[f32]) {
        let (c, [mean, scale]) = (x.len(), stats);
        let (y, gamma) = (&mut y[..c], &gamma[..c]);
        if beta.is_empty() {
            for i in 0..c {
                y[i] = gamma[i] * ((x[i] - mean) * scale);
            }
        } else {
            let beta = &beta[..c];
            for i in 0..c {
                y[i] = gamma[i].mul_add((x[i] - mean) * scale, beta[i]);
            }
        }
    }

    fn row_backward(kind: Norm, dx: &mut [f32], dy: &[f32], x: &[f32], stats: [f32; 2], gamma: &[f32]) {
        let c = x.len();
        let (dx, dy, gamma) = (&mut dx[..c], &dy[..c], &gamma[..c]);
        let [mean, scale] = stats;
        let [along, level] = sums([x, dy, gamma], |[x, dy, gamma]| {
            let g = gamma * dy;
            [g * ((x - mean) * scale), g]
        });
        let along = along / c as f32;
        let level = if kind == Norm::Layer { level / c as f32 } else { 0.0 };
        for i in 0..c {
            let normed = (x[i] - mean) * scale;
            dx[i] += scale * (gamma[i] * dy[i] - level - normed * along);
        }
    }

    fn add_gamma(sums: &mut [f32], dy: &[f32], x: &[f32], mean: f32, scale: f32) {
        for ((sum, dy), x) in sums.iter_mut().zip(dy).zip(x) {
            *sum = dy.mul_add((x - mean) * scale, *sum);
        }
    }
}

mod reference {
    use super::Norm;

    pub fn forward(kind: Norm, eps: f32, y: &mut [f64], stats: &mut [f64], x: &[f64], gamma: &[f64], beta: &[f64]) {
        let c = gamma.len();
        for r in 0..x.len() / c {
            let row = &x[r * c..][..c];
            let mean = if kind == Norm::Layer { row.iter().sum::<f64>() / c as f64 } else { 0.0 };
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / c as f64;
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            for i in 0..c {
                y[r * c + i] = gamma[i] * (row[i] - mean) * scale + beta.get(i).unwrap_or(&0.0);
            }
            stats[2 * r] = mean;
            stats[2 * r + 1] = scale;
        }
    }

    pub fn backward(
        kind: Norm,
        dx: &mut [f64],
        dgamma: &mut [f64],
        dbeta: &mut [f64],
        dy: &[f64],
        x: &[f64],
        stats: &[f64],
        gamma: &[f64],
    ) {
        let c = gamma.len();
        for r in 0..x.len() / c {
            let [mean, scale] = [stats[2 * r], stats[2 * r + 1]];
            let g = |i: usize| gamma[i] * dy[r * c + i];
            let normed = |i: usize| (x[r * c + i] - mean) * scale;
            let along = (0..c).map(|i| g(i) * normed(i)).sum::<f64>() / c as f64;
            let level = if kind == Norm::Layer { (0..c).map(g).sum::<f64>() / c as f64 } else { 0.0 };
            for i in 0..c {
                dx[r * c + i] += scale * (g(i) - level - normed(i) * along);
                dgamma[i] += dy[r * c + i] * normed(i);
                if !dbeta.is_empty() {
                    dbeta[i] += dy[r * c + i];
                }
            }
        }
    }
}
