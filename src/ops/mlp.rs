//! An MLP: a linear layer, a nonlinearity, and a linear layer.
//!
//! ```text
//! forward     inner = x Wᵀ + b        act = f(inner)                       x (n, C), W (F, C), act (n, F)
//!             y = act Vᵀ + c          is a linear layer as any other       V (C, F)
//! backward    dact  = dy V            dinner = dact f′(inner)              dx = dinner W
//!             dV += dyᵀ act           dc += Σ_rows dy
//!             dW += dinnerᵀ x         db += Σ_rows dinner
//! ```
//! `inner` and `dinner` are (n, F), for SwiGLU (n, 2F). On the CPU these are [`linear`] and [`activation`], one after the other;
//! db is summed up while dinner is made. What a function of one number leaves of dact is not needed: dinner takes its place.
//!
//! On a GPU, GELU is the end of its product (cuBLASLt's epilogues `GELU_AUX_BIAS` and `DGELU`), where F is a multiple of 8 and the
//! library has an algorithm. `inner` is then what the library keeps for the backward, in the activations' own type: the sum
//! with the bias, before GELU, so that either side may be fused without the other. The library's
//! GELU is the tanh form, as ours. Its ReLU makes a NaN 0, where ours does not, and keeps bits for the backward: ReLU has its own
//! kernels, as SwiGLU has, which reads two columns for one.
use super::activation::{self, Activation};
use super::linear;
use super::rows::or_empty;
use crate::device::cuda::{Finish, Product};
use crate::device::{Cuda, Device};
use crate::tensor::Tensor;

/// The parameters, W, b, V and c above, or their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    pub up: Tensor,
    pub up_bias: Option<Tensor>,
    pub down: Tensor,
    pub down_bias: Option<Tensor>,
}

/// act and inner.
pub fn forward(dev: &Device, kind: Activation, act: Tensor, inner: Tensor, x: Tensor, w: &Layers) {
    if !fused_forward(dev, kind, act, inner, x, w.up, w.up_bias) {
        linear::forward(dev, inner, x, w.up, w.up_bias, None);
        activation::forward(dev, kind, act, inner);
    }
}

/// dx, dinner, and what is added to the parameters' gradients `g`. `dact` is room for the gradient behind the nonlinearity:
/// SwiGLU alone needs it.
pub fn backward(
    dev: &Device,
    kind: Activation,
    dx: Tensor,
    dinner: Tensor,
    dact: Option<Tensor>,
    g: &Layers,
    dy: Tensor,
    x: Tensor,
    act: Tensor,
    inner: Tensor,
    w: &Layers,
) {
    let mut left = g.up_bias;
    if !fused_backward(dev, kind, dinner, g.down, g.down_bias, dy, act, inner, w.down) {
        linear::backward(dev, dact.unwrap_or(dinner), g.down, g.down_bias, dy, act, w.down);
        // on a GPU the sums are the end of the product that reads dinner
        let sums = left.take_if(|_| !matches!(dev, Device::Cuda(_)));
        activation::backward(dev, kind, dinner, dact, inner, sums);
    }
    linear::backward(dev, dx, g.up, left, dinner, x, w.up);
}

/// The GPU, for a nonlinearity that the end of a product can be.
fn fusing(dev: &Device, kind: Activation) -> Option<&Cuda> {
    match dev {
        Device::Cuda(d) if kind == Activation::Gelu => Some(d),
        _ => None,
    }
}

/// Whether it was done.
fn fused_forward(dev: &Device, kind: Activation, act: Tensor, inner: Tensor, x: Tensor, w: Tensor, b: Option<Tensor>) -> bool {
    let Some(d) = fusing(dev, kind) else { return false };
    assert_eq!(
        (act.rows, act.cols, act.rows, w.cols),
        (inner.rows, inner.cols, x.rows, x.cols),
        "mlp: {act:?}, {inner:?}, {x:?}"
    );
    assert!(w.rows == act.cols && b.is_none_or(|b| b.len() == w.rows), "mlp: w {w:?}, b {b:?} of {act:?}");
    let ([act_at, inner_at], [x_at, w_at, bias]) = d.op([act, inner], [x, w, or_empty(b)]);
    let finish = Finish::Gelu { inner: inner_at, bias: (bias != 0).then_some(bias) };
    let [y, a, b] = [d.operand(act, act_at), d.operand(x, x_at), d.operand(w, w_at)];
    let product = Product { y, a, b, transposed: [false, true], add: None, finish };
    let offered = d.offers(&product);
    if offered {
        let _at = dev.tally("linear forward", 2 * x.len() * w.rows, &[act, inner, x, w]);
        d.multiply(&product);
    }
    offered
}

/// Whether it was done.
fn fused_backward(
    dev: &Device,
    kind: Activation,
    dinner: Tensor,
    dw: Tensor,
    db: Option<Tensor>,
    dy: Tensor,
    act: Tensor,
    inner: Tensor,
    w: Tensor,
) -> bool {
    let Some(d) = fusing(dev, kind) else { return false };
    assert!([dinner, act].iter().all(|t| (t.rows, t.cols) == (inner.rows, inner.cols)), "mlp: {dinner:?}, {act:?}, {inner:?}");
    assert!((w.rows, w.cols) == (dy.cols, act.cols) && dy.rows == act.rows, "mlp: w {w:?}, dy {dy:?} of {act:?}");
    assert!((dw.rows, dw.cols) == (w.rows, w.cols) && db.is_none_or(|b| b.len() == w.rows), "mlp: dw {dw:?}, db {db:?} of {w:?}");
    let ([dinner_at, dw_at, db_at], [dy_at, act_at, inner_at, w_at]) = d.op([dinner, dw, or_empty(db)], [dy, act, inner, w]);
    let [y, a, b] = [d.operand(dinner, dinner_at), d.operand(dy, dy_at), d.operand(w, w_at)];
    let finish = Finish::GeluSlope { inner: inner_at };
    let product = Product { y, a, b, transposed: [false, false], add: None, finish };
    let offered = d.offers(&product);
    if offered {
        {
            let _at = dev.tally("linear dx", 2 * dy.len() * act.cols, &[dinner, dy, inner, w]);
            d.multiply(&product);
        }
        let _at = dev.tally("linear dW", 2 * dy.len() * act.cols, &[dw, dw, dy, act]);
        linear::to_parameters(d, d.operand(dw, dw_at), db_at, a, d.operand(act, act_at));
    }
    offered
}
