//! RMSNorm over each query and key head.
use super::attention::Heads;
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
pub fn forward(dev: &Device, y: Tensor, stats: Tensor, qkv: Tensor, gamma_q: Tensor, gamma_k: Tensor, eps: f32, h: Heads) {
    on_both!(dev, [y, stats], [qkv, gamma_q, gamma_k], fwd(y, stats, qkv, gamma_q, gamma_k, eps as f64, h))
}
fn fwd<R: Real>(y: &mut [R], stats: &mut [R], x: &[R], gq: &[R], gk: &[R], eps: f64, h: Heads) {
    let (w, s) = (h.width(), h.size);
    for row in 0..x.len() / w {
        for head in 0..h.q + 2 * h.kv {
            let at = row * w + head * s;
            if head >= h.q + h.kv {
                y[at..at + s].copy_from_slice(&x[at..at + s]);
                continue;
            }
            let g = if head < h.q { gq } else { gk };
            let mut sum = R::default();
            for i in 0..s {
                sum += x[at + i] * x[at + i];
            }
            let r = R::of(1.0) / (sum / R::of(s as f64) + R::of(eps)).sqrt();
            stats[row * (h.q + h.kv) + head] = r;
            for i in 0..s {
                y[at + i] = x[at + i] * r * g[i];
            }
        }
    }
}
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
    on_both!(
        dev,
        [dqkv, dgamma_q, dgamma_k],
        [dy, qkv, stats, gamma_q, gamma_k],
        bwd(dqkv, dgamma_q, dgamma_k, dy, qkv, stats, gamma_q, gamma_k, h)
    )
}
fn bwd<R: Real>(dx: &mut [R], dgq: &mut [R], dgk: &mut [R], dy: &[R], x: &[R], stats: &[R], gq: &[R], gk: &[R], h: Heads) {
    let (w, s) = (h.width(), h.size);
    for row in 0..x.len() / w {
        for head in 0..h.q + 2 * h.kv {
            let at = row * w + head * s;
            if head >= h.q + h.kv {
                dx[at..at + s].copy_from_slice(&dy[at..at + s]);
                continue;
            }
            let (g, dg) = if head < h.q { (gq, &mut *dgq) } else { (gk, &mut *dgk) };
            let r = stats[row * (h.q + h.kv) + head];
            let mut dot = R::default();
            for i in 0..s {
                let hat = x[at + i] * r;
                dg[i] += dy[at + i] * hat;
                dot += dy[at + i] * g[i] * hat / R::of(s as f64);
            }
            for i in 0..s {
                dx[at + i] = r * (dy[at + i] * g[i] - x[at + i] * r * dot);
            }
        }
    }
}
