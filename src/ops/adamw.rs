//! AdamW over any flat range.
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub t: u64,
    pub scale: f32,
}
pub fn update(dev: &Device, w: Tensor, m: Tensor, v: Tensor, g: Tensor, decay: f32, step: &Step) {
    on_both!(dev, [w, m, v], [g], up(w, m, v, g, decay as f64, step))
}
fn up<R: Real>(w: &mut [R], m: &mut [R], v: &mut [R], g: &[R], decay: f64, s: &Step) {
    let (b1, b2, one) = (R::of(s.beta1), R::of(s.beta2), R::of(1.0));
    let c1 = R::of(1.0 / (1.0 - s.beta1.powf(s.t as f64)));
    let c2 = R::of(1.0 / (1.0 - s.beta2.powf(s.t as f64)));
    for i in 0..w.len() {
        let g = g[i] * R::of(s.scale as f64);
        m[i] = b1 * m[i] + (one - b1) * g;
        v[i] = b2 * v[i] + (one - b2) * g * g;
        let u = m[i] * c1 / ((v[i] * c2).sqrt() + R::of(s.eps));
        w[i] -= R::of(s.lr) * (u + R::of(decay) * w[i]);
    }
}
