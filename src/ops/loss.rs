//! Cross entropy and its gradient in the logits' place.
use super::MASKED;
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
pub fn cross_entropy(dev: &Device, logits: Tensor, targets: &[u32], vocab: usize, scale: f32) -> f64 {
    let v = logits.cols;
    on_both!(dev, [logits], [], both(logits, v, targets, vocab, scale as f64))
}
fn row<R: Real>(z: &[R]) -> (R, R) {
    let mut max = z[0];
    for v in z {
        if *v > max {
            max = *v;
        }
    }
    let mut sum = R::default();
    for v in z {
        sum += (*v - max).exp();
    }
    (max, sum)
}
fn both<R: Real>(z: &mut [R], v: usize, targets: &[u32], vocab: usize, scale: f64) -> f64 {
    let mut loss = 0.0;
    for (z, &t) in z.chunks_mut(v).zip(targets) {
        if t == MASKED {
            z.fill(R::default());
            continue;
        }
        let (max, sum) = row(&z[..vocab]);
        loss -= (z[t as usize] - max - sum.ln()).to();
        for k in 0..v {
            let one = if k == t as usize { R::of(1.0) } else { R::default() };
            z[k] = if k < vocab { R::of(scale) * ((z[k] - max).exp() / sum - one) } else { R::default() };
        }
    }
    loss
}
pub fn cross_entropy_only(dev: &Device, logits: Tensor, targets: &[u32], vocab: usize) -> f64 {
    let v = logits.cols;
    on_both!(dev, [], [logits], only(logits, v, targets, vocab))
}
fn only<R: Real>(z: &[R], v: usize, targets: &[u32], vocab: usize) -> f64 {
    let mut loss = 0.0;
    for (z, &t) in z.chunks(v).zip(targets) {
        if t == MASKED {
            continue;
        }
        let (max, sum) = row(&z[..vocab]);
        loss -= (z[t as usize] - max - sum.ln()).to();
    }
    loss
}
