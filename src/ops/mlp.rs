//! An MLP: a linear layer, a nonlinearity, and a linear layer.
//!
//! ```text
//! forward     inner = x Wᵀ + b        act = f(inner)                       x (n, C), W (F, C), act (n, F)
//!             y = act Vᵀ + c          is a linear layer as any other       V (C, F)
//! backward    dact  = dy V            dinner = dact f′(inner)              dx = dinner W
//!             dV += dyᵀ act           dc += Σ_rows dy
//!             dW += dinnerᵀ x         db += Σ_rows dinner
//! ```
//! `inner` and `dinner` are (n, F), for SwiGLU (n, 2F). A nonlinearity of one number is the end of the product before it, forwards
//! and backwards, where the device can: it then takes no pass over memory. db is summed up while dinner is made.
//!
//! | | at the end of a product | otherwise |
//! |---|---|---|
//! | CPU | GELU, ReLU | SwiGLU, which reads two columns for one |
//! | GPU | GELU, where F is a multiple of 8 and cuBLASLt has an algorithm (`GELU_AUX_BIAS`, `DGELU`) | ReLU: the library's makes a NaN 0, where ours does not, and keeps bits for the backward |
//! | reference | | all |
//!
//! On the CPU the backward makes act again, whose sigmoid its slope needs anyway: one place for act serves all blocks. With bf16 act
//! and dinner lie in bf16, rounded once their f32 has been used. On the GPU `inner` is what the library keeps, in the activations' own
//! type: the sum with the bias, before GELU, so that either side may be fused without the other. Its GELU is the tanh form, as ours.
use super::activation::{self, Activation};
use super::gemm::{self, Beside, Into, Layout};
use super::linear;
use super::rows::{SharedValues, in_f32, or_empty};
use super::simd::add_to;
use crate::device::cuda::{Finish, Product};
use crate::device::{Cpu, Cuda, Device};
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
    let (up, b) = (linear::as_read(dev, w.up), w.up_bias);
    let (rows, wide) = ((act.rows, act.rows), kind.inputs() * act.cols);
    assert_eq!((rows, w.up.cols, w.up.rows), ((inner.rows, x.rows), x.cols, wide), "mlp: {act:?}, {inner:?}, {x:?}, {up:?}");
    assert!(inner.cols == wide && b.is_none_or(|b| b.len() == wide), "mlp: {inner:?}, b {b:?} of {act:?}");
    let fused = match dev {
        Device::Cpu(d) => forward_on_cpu(dev, d, kind, act, inner, x, up, b),
        Device::Cuda(d) => forward_on_gpu(dev, d, kind, act, inner, x, up, b),
        Device::Reference(_) => false,
    };
    if !fused {
        linear::forward(dev, inner, x, w.up, b, None);
        activation::forward(dev, kind, act, inner);
    }
}

/// dx, dinner, and what is added to the parameters' gradients `g`, or, of W and V, written where `into` says so. `dact` is room
/// for the gradient behind the nonlinearity, which SwiGLU alone needs. Of `act` a GPU needs what the forward left; elsewhere it is made
/// again.
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
    into: Into,
) {
    let (down, shape) = (linear::as_read(dev, w.down), (act.rows, kind.inputs() * act.cols));
    assert!([dinner, inner].iter().all(|t| (t.rows, t.cols) == shape), "mlp: {dinner:?}, {inner:?} of {act:?}");
    assert!((w.down.rows, w.down.cols, dy.rows) == (dy.cols, act.cols, act.rows), "mlp: w {down:?}, dy {dy:?} of {act:?}");
    let plain = |sums| {
        linear::backward(dev, dact.unwrap_or(dinner), g.down, g.down_bias, dy, act, w.down, into);
        activation::backward(dev, kind, dinner, dact, inner, sums, None);
    };
    // on a GPU the sums of dinner's columns are the end of the product that reads it
    let left = match dev {
        Device::Cpu(d) => {
            backward_on_cpu(dev, d, kind, dinner, dact, g, dy, act, inner, down, into);
            None
        }
        Device::Cuda(d) => {
            if !backward_on_gpu(dev, d, kind, dinner, g, dy, act, inner, down, into) {
                plain(None);
            }
            g.up_bias
        }
        Device::Reference(_) => {
            activation::forward(dev, kind, act, inner);
            plain(g.up_bias);
            None
        }
    };
    linear::backward(dev, dx, g.up, left, dinner, x, w.up, into);
}

/// Whether it was done.
fn forward_on_cpu(
    dev: &Device,
    d: &Cpu,
    kind: Activation,
    act: Tensor,
    inner: Tensor,
    x: Tensor,
    w: Tensor,
    b: Option<Tensor>,
) -> bool {
    if kind == Activation::SwiGlu {
        return false;
    }
    let (n, c, f) = (x.rows, x.cols, act.cols);
    let operands = [x, w, or_empty(b)];
    let _at = dev.tally("linear forward", 2 * n * c * f, &[act, inner, x, w, operands[2]]);
    d.arena.op_either([act, inner], operands, |[act, inner], [x, w, b]| {
        let (act, past) = (SharedValues::new(act), gemm::writes_past(d.precision, [n, f]));
        in_f32([b], |[b]| {
            let finish = |row: usize, col: usize, sum: &mut [f32]| {
                if !b.is_empty() {
                    add_to(sum, &b[col..][..sum.len()]);
                }
                // SAFETY: each part of a row is seen once, by one task.
                unsafe {
                    act.fill(row * f + col, sum.len(), past, |at, act| activation::value(kind, act, &sum[at..][..act.len()]))
                };
            };
            gemm::finished(d.precision, Layout::NT, [n, f, c], Into::Overwrite, (inner, f), (x, c), (w, c), finish, &mut []);
        });
    });
    true
}

/// All but the products that read dinner; act is made again on the way.
fn backward_on_cpu(
    dev: &Device,
    d: &Cpu,
    kind: Activation,
    dinner: Tensor,
    dact: Option<Tensor>,
    g: &Layers,
    dy: Tensor,
    act: Tensor,
    inner: Tensor,
    w: Tensor,
    into: Into,
) {
    if kind == Activation::SwiGlu {
        let dact = dact.expect("room for the gradient behind a SwiGLU");
        linear::inputs(dev, d, dact, dy, w);
        activation::backward(dev, kind, dinner, Some(dact), inner, g.up_bias, Some(act));
    } else {
        let (n, c, f, db) = (dy.rows, dy.cols, act.cols, or_empty(g.up_bias));
        let _at = dev.tally("linear dx", 2 * n * c * f, &[dinner, dy, inner, w, db, db, act]);
        d.arena.op_either([dinner, db, act], [dy, inner, w], |[dinner, db, act], [dy, inner, w]| {
            let (act, inner, past) = (SharedValues::new(act), inner.f32(), gemm::writes_past(d.precision, [n, f]));
            let finish = |row: usize, col: usize, dact: &mut [f32]| {
                let (at, len) = (row * f + col, dact.len());
                let slope = |first: usize, act: &mut [f32]| {
                    let n = act.len();
                    activation::slope(kind, &mut dact[first..][..n], act, &inner[at + first..][..n]);
                };
                // SAFETY: each part of a row is seen once, by one task.
                unsafe { act.fill(at, len, past, slope) };
            };
            let (size, finish) = ([n, f, c], Beside(inner, f, finish));
            gemm::finished(d.precision, Layout::NN, size, Into::Overwrite, (dinner, f), (dy, c), (w, f), finish, db.f32());
        });
    }
    linear::parameters(dev, d, g.down, g.down_bias, dy, act, into);
}

/// Whether it was done.
fn forward_on_gpu(
    dev: &Device,
    d: &Cuda,
    kind: Activation,
    act: Tensor,
    inner: Tensor,
    x: Tensor,
    w: Tensor,
    b: Option<Tensor>,
) -> bool {
    if kind != Activation::Gelu {
        return false;
    }
    let ([act_at, inner_at], [x_at, w_at, bias]) = d.op([act, inner], [x, w, or_empty(b)]);
    let bias = (bias != 0).then_some(bias);
    let finish = Finish::Gelu { inner: inner_at, bias };
    let [y, a, b] = [d.operand(act, act_at), d.operand(x, x_at), d.operand(w, w_at)];
    let product = Product { y, a, b, transposed: [false, true], add: None, finish };
    let plain = Product { y: d.operand(inner, inner_at), finish: bias.map_or(Finish::Nothing, Finish::Bias), ..product };
    let offered = d.prefers(&product, &plain, || activation::forward(dev, kind, act, inner));
    if offered {
        let _at = dev.tally("linear forward", 2 * x.len() * w.rows, &[act, inner, x, w]);
        d.multiply(&product);
    }
    offered
}

/// Whether it was done.
fn backward_on_gpu(
    dev: &Device,
    d: &Cuda,
    kind: Activation,
    dinner: Tensor,
    g: &Layers,
    dy: Tensor,
    act: Tensor,
    inner: Tensor,
    w: Tensor,
    into: Into,
) -> bool {
    if kind != Activation::Gelu {
        return false;
    }
    let (dw, db) = (g.down, or_empty(g.down_bias));
    let ([dinner_at, dw_at, db_at], [dy_at, act_at, inner_at, w_at]) = d.op([dinner, dw, db], [dy, act, inner, w]);
    let [y, a, b] = [d.operand(dinner, dinner_at), d.operand(dy, dy_at), d.operand(w, w_at)];
    let finish = Finish::GeluSlope { inner: inner_at };
    let product = Product { y, a, b, transposed: [false, false], add: None, finish };
    let plain = Product { finish: Finish::Nothing, ..product };
    let offered = d.prefers(&product, &plain, || activation::backward(dev, kind, dinner, None, inner, None, None));
    if offered {
        {
            let _at = dev.tally("linear dx", 2 * dy.len() * act.cols, &[dinner, dy, inner, w]);
            d.multiply(&product);
        }
        let _at = dev.tally("linear dW", 2 * dy.len() * act.cols, &linear::written(dw, dy, act, into));
        linear::to_parameters(d, d.operand(dw, dw_at), db_at, a, d.operand(act, act_at), into);
    }
    offered
}
