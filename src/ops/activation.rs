//! GELU (tanh), ReLU, SwiGLU.
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Gelu,
    Relu,
    SwiGlu,
}
const C: f64 = 0.797_884_560_802_865_4;
pub fn forward(dev: &Device, kind: Activation, y: Tensor, x: Tensor) {
    let c = y.cols;
    on_both!(dev, [y], [x], fwd(kind, c, y, x))
}
fn sigmoid<R: Real>(x: R) -> R {
    R::of(1.0) / (R::of(1.0) + (-x).exp())
}
fn fwd<R: Real>(kind: Activation, c: usize, y: &mut [R], x: &[R]) {
    match kind {
        Activation::Gelu => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = R::of(0.5) * x * (R::of(1.0) + (R::of(C) * (x + R::of(0.044715) * x * x * x)).tanh());
            }
        }
        Activation::Relu => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = if x > R::default() { x } else { R::default() };
            }
        }
        Activation::SwiGlu => {
            for (y, x) in y.chunks_mut(c).zip(x.chunks(2 * c)) {
                for k in 0..c {
                    y[k] = x[k] * x[c + k] * sigmoid(x[c + k]);
                }
            }
        }
    }
}
pub fn backward(dev: &Device, kind: Activation, dx: Tensor, dy: Tensor, x: Tensor) {
    let c = dy.cols;
    on_both!(dev, [dx], [dy, x], bwd(kind, c, dx, dy, x))
}
fn bwd<R: Real>(kind: Activation, c: usize, dx: &mut [R], dy: &[R], x: &[R]) {
    let one = R::of(1.0);
    match kind {
        Activation::Gelu => {
            for i in 0..dx.len() {
                let v = x[i];
                let t = (R::of(C) * (v + R::of(0.044715) * v * v * v)).tanh();
                let slope = R::of(C) * (one + R::of(3.0 * 0.044715) * v * v);
                dx[i] = dy[i] * (R::of(0.5) * (one + t) + R::of(0.5) * v * (one - t * t) * slope);
            }
        }
        Activation::Relu => {
            for i in 0..dx.len() {
                dx[i] = if x[i] > R::default() { dy[i] } else { R::default() };
            }
        }
        Activation::SwiGlu => {
            for ((dx, dy), x) in dx.chunks_mut(2 * c).zip(dy.chunks(c)).zip(x.chunks(2 * c)) {
                for k in 0..c {
                    let (u, g) = (x[k], x[c + k]);
                    let s = sigmoid(g);
                    dx[k] = dy[k] * g * s;
                    dx[c + k] = dy[k] * u * s * (one + g * (one - s));
                }
            }
        }
    }
}
