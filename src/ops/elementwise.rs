//! Zero, copy, add, sum of squares.
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
pub fn zero(dev: &Device, x: Tensor) {
    on_both!(dev, [x], [], x.fill(Default::default()))
}
pub fn copy(dev: &Device, y: Tensor, x: Tensor) {
    on_both!(dev, [y], [x], y.copy_from_slice(x))
}
pub fn add(dev: &Device, y: Tensor, a: Tensor, b: Tensor) {
    on_both!(
        dev,
        [y],
        [a, b],
        for i in 0..y.len() {
            y[i] = a[i] + b[i];
        }
    )
}
pub fn square_sum(dev: &Device, x: Tensor) -> f64 {
    on_both!(dev, [], [x], sq(x))
}
fn sq<R: Real>(x: &[R]) -> f64 {
    x.iter().map(|v| v.to() * v.to()).sum()
}
