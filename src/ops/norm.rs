//! LayerNorm y = (x − μ) r γ + β; RMSNorm y = x r γ.
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Norm {
    Layer,
    Rms,
}
const NONE: Tensor = Tensor { at: 0, rows: 0, cols: 0 };

pub fn forward(dev: &Device, kind: Norm, eps: f32, y: Tensor, stats: Tensor, x: Tensor, gamma: Tensor, beta: Option<Tensor>) {
    let (c, beta) = (x.cols, beta.unwrap_or(NONE));
    on_both!(dev, [y, stats], [x, gamma, beta], fwd(kind, eps as f64, c, y, stats, x, gamma, beta))
}
fn fwd<R: Real>(kind: Norm, eps: f64, c: usize, y: &mut [R], stats: &mut [R], x: &[R], gamma: &[R], beta: &[R]) {
    for (i, x) in x.chunks(c).enumerate() {
        let mut mean = R::default();
        if kind == Norm::Layer {
            for v in x {
                mean += *v;
            }
            mean = mean / R::of(c as f64);
        }
        let mut var = R::default();
        for v in x {
            var += (*v - mean) * (*v - mean);
        }
        let r = R::of(1.0) / (var / R::of(c as f64) + R::of(eps)).sqrt();
        stats[2 * i] = mean;
        stats[2 * i + 1] = r;
        for k in 0..c {
            y[i * c + k] = (x[k] - mean) * r * gamma[k] + beta.get(k).copied().unwrap_or_default();
        }
    }
}
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
) {
    let (c, dbeta) = (x.cols, dbeta.unwrap_or(NONE));
    on_both!(dev, [dx, dgamma, dbeta], [dy, x, stats, gamma], bwd(kind, c, dx, dgamma, dbeta, dy, x, stats, gamma))
}
fn bwd<R: Real>(
    kind: Norm,
    c: usize,
    dx: &mut [R],
    dgamma: &mut [R],
    dbeta: &mut [R],
    dy: &[R],
    x: &[R],
    stats: &[R],
    gamma: &[R],
) {
    let n = R::of(c as f64);
    for i in 0..x.len() / c {
        let (mean, r) = (stats[2 * i], stats[2 * i + 1]);
        let (mut s0, mut s1) = (R::default(), R::default());
        for k in 0..c {
            let (d, h) = (dy[i * c + k], (x[i * c + k] - mean) * r);
            dgamma[k] += d * h;
            if let Some(b) = dbeta.get_mut(k) {
                *b += d;
            }
            s0 += d * gamma[k] / n;
            s1 += d * gamma[k] * h / n;
        }
        if kind == Norm::Rms {
            s0 = R::default();
        }
        for k in 0..c {
            dx[i * c + k] += r * (dy[i * c + k] * gamma[k] - s0 - (x[i * c + k] - mean) * r * s1);
        }
    }
}
