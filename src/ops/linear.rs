//! y = x Wᵀ + b (+ residual); dx = dy W; dw += dyᵀ x; db += Σ dy.
use super::gemm::{self, Layout};
use crate::device::Device;
use crate::tensor::Tensor;
const NONE: Tensor = Tensor { at: 0, rows: 0, cols: 0 };

pub fn forward(dev: &Device, y: Tensor, x: Tensor, w: Tensor, b: Option<Tensor>, residual: Option<Tensor>) {
    let (n, c, o) = (x.rows, x.cols, w.rows);
    assert_eq!((w.cols, y.rows, y.cols), (c, n, o), "linear: shapes");
    let (b, r) = (b.unwrap_or(NONE), residual.unwrap_or(NONE));
    match dev {
        Device::Cpu(d) => d.arena.op([y], [x, w, b, r], |[y], [x, w, b, r]| {
            if !r.is_empty() {
                y.copy_from_slice(r);
            } else {
                y.fill(0.0);
            }
            if !b.is_empty() {
                for y in y.chunks_mut(o) {
                    for (y, b) in y.iter_mut().zip(b) {
                        *y += b;
                    }
                }
            }
            gemm::f32(d.precision, Layout::NT, n, o, c, y, x, w);
        }),
        Device::Reference(d) => d.arena.op([y], [x, w, b, r], |[y], [x, w, b, r]| {
            for i in 0..n {
                for j in 0..o {
                    let mut s = b.get(j).copied().unwrap_or(0.0) + r.get(i * o + j).copied().unwrap_or(0.0);
                    for k in 0..c {
                        s += x[i * c + k] * w[j * c + k];
                    }
                    y[i * o + j] = s;
                }
            }
        }),
    }
}
pub fn backward(dev: &Device, dx: Tensor, dw: Tensor, db: Option<Tensor>, dy: Tensor, x: Tensor, w: Tensor) {
    let (n, c, o) = (x.rows, x.cols, w.rows);
    let db = db.unwrap_or(NONE);
    match dev {
        Device::Cpu(d) => d.arena.op([dx, dw, db], [dy, x, w], |[dx, dw, db], [dy, x, w]| {
            dx.fill(0.0);
            gemm::f32(d.precision, Layout::NN, n, c, o, dx, dy, w);
            gemm::f32(d.precision, Layout::TN, o, c, n, dw, dy, x);
            if !db.is_empty() {
                for dy in dy.chunks(o) {
                    for (b, d) in db.iter_mut().zip(dy) {
                        *b += d;
                    }
                }
            }
        }),
        Device::Reference(d) => d.arena.op([dx, dw, db], [dy, x, w], |[dx, dw, db], [dy, x, w]| {
            dx.fill(0.0);
            for i in 0..n {
                for j in 0..o {
                    let g = dy[i * o + j];
                    for k in 0..c {
                        dx[i * c + k] += g * w[j * c + k];
                        dw[j * c + k] += g * x[i * c + k];
                    }
                    if let Some(b) = db.get_mut(j) {
                        *b += g;
                    }
                }
            }
        }),
    }
}
