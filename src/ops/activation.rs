//! The MLP's nonlinearity.
//!
//! ```text
//! Gelu    y = ½ x (1 + tanh u) = x σ(2u),  u = √(2/π) (x + 0.044715 x³)     (Hendrycks, Gimpel 2016, the tanh form)
//!         dx = dy (s + x s (1 − s) 2u′),   s = σ(2u)
//! Relu    y = max(x, 0)                    dx = dy where x > 0
//! SwiGlu  x = (up | gate), y = up · gate σ(gate)                            (Shazeer 2020)
//!         dup = dy gate σ                  dgate = dy up σ (1 + gate (1 − σ))
//! ```
//! y (n, F); x (n, F), for SwiGlu (n, 2F).
use super::rows::{PART, PIECE, Shared, SharedValues, fill_rows, or_empty, per_task, sums_over_rows};
use super::simd::{add_to, sigmoid, sigmoid2, wide};
use crate::device::cuda::Grid;
use crate::device::{Device, threads};
use crate::tensor::Tensor;
use std::f32::consts::LOG2_E;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Gelu,
    Relu,
    SwiGlu,
}

impl Activation {
    /// Columns of the input for each column of the output.
    pub fn inputs(self) -> usize {
        if self == Activation::SwiGlu { 2 } else { 1 }
    }
}

/// y = f(x). y may be in bf16 on the CPU.
pub fn forward(dev: &Device, kind: Activation, y: Tensor, x: Tensor) {
    assert_eq!((x.rows, x.cols), (y.rows, kind.inputs() * y.cols), "{kind:?}: x {x:?} for y {y:?}");
    let f = y.cols;
    let _at = dev.tally("activation forward", 0, &[y, x]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([y], [x], |[y], [x]| {
            let x = x.f32();
            let of = |first: usize, n: usize| &x[first..][..n];
            match kind {
                Activation::Gelu | Activation::Relu => {
                    fill_rows(y, PIECE, |r, cols, y| value(kind, y, of(r * PIECE + cols.start, y.len())));
                }
                Activation::SwiGlu => fill_rows(y, f, |r, cols, y| {
                    let (up, gate) = (r * 2 * f + cols.start, r * 2 * f + f + cols.start);
                    swiglu(y, of(up, y.len()), of(gate, y.len()));
                }),
            }
        }),
        Device::Cuda(d) => {
            let ([at], [x]) = d.op([y], [x]);
            let name = match kind {
                Activation::Gelu => "gelu_forward",
                Activation::Relu => "relu_forward",
                Activation::SwiGlu => "swiglu_forward",
            };
            let no_bias = 0; // the product before has added it
            d.launch(name, Grid::over(y.rows * f.div_ceil(8)), &[at, x, no_bias, y.rows as u64, f as u64]);
        }
        Device::Reference(d) => d.arena.op([y], [x], |[y], [x]| reference::forward(kind, y, x, f)),
    }
}

/// dx = dy f′(x). Without `dy`, dx holds it on entry: not for [`Activation::SwiGlu`], whose dx is wider.
///
/// sums += Σ_rows dx, where they are asked for: the gradient of the bias that x has; and y = f(x) once more. On a GPU neither: there the
/// sums are the end of a product, and y is kept.
pub fn backward(
    dev: &Device,
    kind: Activation,
    dx: Tensor,
    dy: Option<Tensor>,
    x: Tensor,
    sums: Option<Tensor>,
    y: Option<Tensor>,
) {
    let f = x.cols / kind.inputs();
    assert_eq!((dx.rows, dx.cols), (x.rows, x.cols), "{kind:?}: dx {dx:?} for x {x:?}");
    assert!(dy.map_or(kind.inputs() == 1, |dy| (dy.rows, dy.cols) == (x.rows, f)), "{kind:?}: dy {dy:?} for x {x:?}");
    assert!(sums.is_none_or(|sums| sums.len() == x.cols), "{kind:?}: sums {sums:?} of x {x:?}");
    assert!(y.is_none_or(|y| (y.rows, y.cols) == (x.rows, f)), "{kind:?}: y {y:?} of x {x:?}");
    let (behind, sums, y) = (dy.unwrap_or(dx), or_empty(sums), or_empty(y));
    let _at = dev.tally("activation backward", 0, &[dx, behind, x, sums, sums, y]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([dx, sums, y], [or_empty(dy), x], |[dx, sums, y], [dy, x]| {
            let (wide, again) = (kind.inputs() * f, !y.is_empty());
            let (sums, dy, x) = (sums.f32(), dy.f32(), x.f32());
            let (n, dx, y) = (x.len() / wide, Shared::new(dx.f32()), SharedValues::new(y));
            let row = |r: usize, sums: &mut [f32]| {
                // SAFETY: the row is this task's alone.
                let dx = unsafe { dx.piece(r * wide, wide) };
                let (dy, x) = (dy.get(r * f..(r + 1) * f).unwrap_or(&[]), &x[r * wide..][..wide]);
                let mut part = |first: usize, y: &mut [f32]| part_backward(kind, dx, y, dy, x, first);
                if again {
                    // SAFETY: as above.
                    unsafe { y.fill(r * f, f, false, part) };
                } else {
                    (0..f).step_by(PART).for_each(|first| part(first, &mut [0.0; PART][..PART.min(f - first)]));
                }
                add_to(sums, &dx[..sums.len()]);
            };
            if sums.is_empty() {
                let some = per_task(wide);
                threads::each(n.div_ceil(some), |i| (i * some..n.min((i + 1) * some)).for_each(|r| row(r, &mut [])));
            } else {
                sums_over_rows([sums], n, |r, [sums]| row(r, sums));
            }
        }),
        Device::Cuda(d) => {
            assert!(sums.is_empty() && y.is_empty(), "{kind:?}: sums are the end of the product that reads dx, and y is kept");
            let n = x.rows;
            let ([dx], [dy, x]) = d.op([dx], [or_empty(dy), x]);
            let dy = if dy == 0 { dx } else { dy };
            let name = match kind {
                Activation::Gelu => "gelu_backward",
                Activation::Relu => "relu_backward",
                Activation::SwiGlu => "swiglu_backward",
            };
            d.launch(name, Grid::over(n * f.div_ceil(8)), &[dx, dy, x, n as u64, f as u64]);
        }
        Device::Reference(d) => d.arena.op([dx, sums, y], [or_empty(dy), x], |[dx, sums, y], [dy, x]| {
            if !y.is_empty() {
                reference::forward(kind, y, x, f);
            }
            let held = dx.to_vec();
            reference::backward(kind, dx, if dy.is_empty() { &held } else { dy }, x, f);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += dx.iter().skip(i).step_by(kind.inputs() * f).sum::<f64>();
            }
        }),
    }
}

/// y = f(x), of a function of one number.
pub(super) fn value(kind: Activation, y: &mut [f32], x: &[f32]) {
    match kind {
        Activation::Gelu => gelu(y, x),
        Activation::Relu => relu(y, x),
        Activation::SwiGlu => unreachable!("SwiGLU reads two numbers"),
    }
}

/// dx ← dx f′(x), and y = f(x), of a function of one number.
pub(super) fn slope(kind: Activation, dx: &mut [f32], y: &mut [f32], x: &[f32]) {
    match kind {
        Activation::Gelu => gelu_backward(dx, y, x),
        Activation::Relu => relu_backward(dx, y, x),
        Activation::SwiGlu => unreachable!("SwiGLU reads two numbers"),
    }
}

/// Of one row the part from `first` on that is as long as y's: dx, which holds dy on entry where dy is empty, and y.
fn part_backward(kind: Activation, dx: &mut [f32], y: &mut [f32], dy: &[f32], x: &[f32], first: usize) {
    let part = first..first + y.len();
    if kind == Activation::SwiGlu {
        let ((dup, dgate), (up, gate)) = (dx.split_at_mut(dy.len()), x.split_at(dy.len()));
        let [up, gate, dy] = [up, gate, dy].map(|x| &x[part.clone()]);
        return swiglu_backward(&mut dup[part.clone()], &mut dgate[part], y, dy, up, gate);
    }
    let dx = &mut dx[part.clone()];
    if !dy.is_empty() {
        dx.copy_from_slice(&dy[part.clone()]);
    }
    slope(kind, dx, y, &x[part]);
}

/// 2 √(2/π), and that times 0.044715.
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_814;

/// σ(2u) of GELU, and x².
#[inline(always)]
fn logistic(x: f32) -> (f32, f32) {
    let square = x * x;
    (sigmoid2(x * square.mul_add(CUBIC * LOG2_E, LINEAR * LOG2_E)), square)
}

wide! {
    fn gelu(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * logistic(x).0;
        }
    }

    /// dx ← dx f′(x), as below; y as above.
    fn gelu_backward(dx: &mut [f32], y: &mut [f32], x: &[f32]) {
        for ((dx, y), &x) in dx.iter_mut().zip(y).zip(x) {
            let (s, square) = logistic(x);
            let slope = square.mul_add(3.0 * CUBIC, LINEAR);
            *y = x * s;
            *dx *= (*y * (1.0 - s)).mul_add(slope, s);
        }
    }

    fn relu(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            // a NaN must not become 0
            *y = if x < 0.0 { 0.0 } else { x };
        }
    }

    fn relu_backward(dx: &mut [f32], y: &mut [f32], x: &[f32]) {
        for ((dx, y), &x) in dx.iter_mut().zip(y).zip(x) {
            *y = if x < 0.0 { 0.0 } else { x };
            *dx = if x > 0.0 { *dx } else { 0.0 };
        }
    }

    fn swiglu(y: &mut [f32], up: &[f32], gate: &[f32]) {
        for ((y, &up), &gate) in y.iter_mut().zip(up).zip(gate) {
            *y = up * gate * sigmoid(gate);
        }
    }

    fn swiglu_backward(dup: &mut [f32], dgate: &mut [f32], y: &mut [f32], dy: &[f32], up: &[f32], gate: &[f32]) {
        for (((((dup, dgate), y), &dy), &up), &gate) in dup.iter_mut().zip(dgate).zip(y).zip(dy).zip(up).zip(gate) {
            let s = sigmoid(gate);
            *y = up * gate * s;
            *dup = dy * gate * s;
            *dgate = dy * up * s * gate.mul_add(1.0 - s, 1.0);
        }
    }
}

mod reference {
    use super::Activation;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// u of the tanh form, and du/dx.
    fn inner(x: f64) -> (f64, f64) {
        let scale = (2.0 / std::f64::consts::PI).sqrt();
        (scale * (x + 0.044715 * x * x * x), scale * (1.0 + 3.0 * 0.044715 * x * x))
    }

    pub fn forward(kind: Activation, y: &mut [f64], x: &[f64], f: usize) {
        for i in 0..y.len() {
            y[i] = match kind {
                Activation::Gelu => 0.5 * x[i] * (1.0 + inner(x[i]).0.tanh()),
                Activation::Relu => x[i].max(0.0),
                Activation::SwiGlu => {
                    let (up, gate) = (x[i / f * 2 * f + i % f], x[i / f * 2 * f + f + i % f]);
                    up * gate * sigmoid(gate)
                }
            }
        }
    }

    pub fn backward(kind: Activation, dx: &mut [f64], dy: &[f64], x: &[f64], f: usize) {
        for i in 0..dy.len() {
            match kind {
                Activation::Gelu => {
                    let (u, slope) = inner(x[i]);
                    let t = u.tanh();
                    dx[i] = dy[i] * (0.5 * (1.0 + t) + 0.5 * x[i] * (1.0 - t * t) * slope);
                }
                Activation::Relu => dx[i] = if x[i] > 0.0 { dy[i] } else { 0.0 },
                Activation::SwiGlu => {
                    let at = i / f * 2 * f + i % f;
                    let (up, gate) = (x[at], x[at + f]);
                    let s = sigmoid(gate);
                    dx[at] = dy[i] * gate * s;
                    dx[at + f] = dy[i] * up * (s + gate * s * (1.0 - s));
                }
            }
        }
    }
}
