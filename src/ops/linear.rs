//! A linear layer: three matrix products.
//!
//! ```text
//! y  = x Wᵀ + b (+ residual)     x (n, c), W (o, c), b (1, o), y and residual (n, o)
//! dx = dy W
//! dW += dyᵀ x                    or dW = dyᵀ x, where nothing is there yet
//! db += Σ_rows dy
//! ```
//! On the CPU x, y and dy may be in bf16, and W is read from its copy in bf16 where the plan has one; of a dy with twice as many columns
//! as W has rows the rest is not read ([`crate::tensor::Plan::operand_within`]). On a GPU the bias is added, and its
//! gradient summed up, within a product, where cuBLASLt has an algorithm for that.
use super::gemm::{self, Beside, Into, Layout};
use super::rows::{PIECE, column_sums, in_f32, or_empty, pieces};
use super::simd::{add_to, halve};
use crate::device::cuda::{Cuda, Finish, Grid, Operand, Product, STRIPS};
use crate::device::{Cpu, Device};
use crate::tensor::Tensor;

/// y = x Wᵀ + b (+ residual).
pub fn forward(dev: &Device, y: Tensor, x: Tensor, w: Tensor, b: Option<Tensor>, residual: Option<Tensor>) {
    let (n, c, o) = shape(y, x, w);
    assert!(b.is_none_or(|b| b.len() == o), "linear: bias {b:?} of {o} outputs");
    assert!(residual.is_none_or(|r| (r.rows, r.cols) == (n, o)), "linear: residual {residual:?} beside {y:?}");
    let w = as_read(dev, w);
    let operands = [x, w, or_empty(b), or_empty(residual)];
    let _at = dev.tally("linear forward", 2 * n * c * o, &[y, x, w, operands[2], operands[3]]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([y], operands, |[y], [x, w, b, residual]| {
            let residual = residual.f32();
            in_f32([b], |[b]| {
                let finish = |row: usize, col: usize, y: &mut [f32]| {
                    if !b.is_empty() {
                        add_to(y, &b[col..][..y.len()]);
                    }
                    if !residual.is_empty() {
                        add_to(y, &residual[row * o + col..][..y.len()]);
                    }
                };
                let finish = Beside(residual, o, finish);
                gemm::finished(d.precision, Layout::NT, [n, o, c], Into::Overwrite, (y, o), (x, c), (w, c), finish, &mut []);
            });
        }),
        Device::Cuda(d) => {
            let ([y_at], [x_at, w_at, bias, residual]) = d.op([y], operands);
            let add = (residual != 0).then_some(residual);
            let finish = if bias != 0 { Finish::Bias(bias) } else { Finish::Nothing };
            let [a, b, y] = [d.operand(x, x_at), d.operand(w, w_at), d.operand(y, y_at)];
            d.multiply(&Product { y, a, b, transposed: [false, true], add, finish });
        }
        Device::Reference(d) => d.arena.op([y], operands, |[y], [x, w, b, residual]| {
            gemm::reference(Layout::NT, [n, o, c], Into::Overwrite, y, x, w);
            for (i, y) in y.iter_mut().enumerate() {
                *y += b.get(i % o).unwrap_or(&0.0) + residual.get(i).unwrap_or(&0.0);
            }
        }),
    }
}

/// dx = dy W; dw += dyᵀ x, or = where `into` says so; db += Σ dy.
pub fn backward(dev: &Device, dx: Tensor, dw: Tensor, db: Option<Tensor>, dy: Tensor, x: Tensor, w: Tensor, into: Into) {
    let (n, c, o) = shape(dy.first_cols(w.rows), x, w);
    assert_eq!((dx.rows, dx.cols), (n, c), "linear: dx {dx:?} of x {x:?}");
    assert_eq!((dw.rows, dw.cols), (o, c), "linear: dw {dw:?} of w {w:?}");
    assert!(db.is_none_or(|b| b.len() == o), "linear: bias {db:?} of {o} outputs");
    assert!(dy.cols == o || dy.half && dy.cols == 2 * o && db.is_none(), "linear: dy {dy:?} of w {w:?}");
    let (w, outs) = (as_read(dev, w), [dx, dw, or_empty(db)]);
    match dev {
        Device::Cpu(d) => {
            inputs(dev, d, dx, dy, w);
            parameters(dev, d, dw, db, dy, x, into);
        }
        Device::Cuda(d) => {
            let ([dx_at, dw_at, db_at], [dy_at, x_at, w_at]) = d.op(outs, [dy, x, w]);
            let [dy_m, x_m, w_m] = [d.operand(dy, dy_at), d.operand(x, x_at), d.operand(w, w_at)];
            {
                let _at = dev.tally("linear dx", 2 * n * c * o, &[dx, dy, w]);
                let y = d.operand(dx, dx_at);
                let (transposed, finish) = ([false, false], Finish::Nothing);
                d.multiply(&Product { y, a: dy_m, b: w_m, transposed, add: None, finish });
            }
            let _at = dev.tally("linear dW", 2 * n * c * o, &written(dw, dy, x, into));
            to_parameters(d, d.operand(dw, dw_at), db_at, dy_m, x_m, into);
        }
        Device::Reference(d) => d.arena.op(outs, [dy, x, w], |[dx, dw, db], [dy, x, w]| {
            gemm::reference(Layout::NN, [n, c, o], Into::Overwrite, dx, dy, w);
            gemm::reference(Layout::TN, [o, c, n], into, dw, dy, x);
            for i in 0..db.len() {
                db[i] += (0..n).map(|r| dy[r * o + i]).sum::<f64>();
            }
        }),
    }
}

/// dx = dy W, of a W [`as_read`].
pub(super) fn inputs(dev: &Device, d: &Cpu, dx: Tensor, dy: Tensor, w: Tensor) {
    let (n, c, o, stride) = (dx.rows, dx.cols, w.rows, dy.cols);
    let _at = dev.tally("linear dx", 2 * n * c * o, &[dx, dy.first_cols(o), w]);
    d.arena.op_either([dx], [dy, w], |[dx], [dy, w]| {
        gemm::product(d.precision, Layout::NN, [n, c, o], Into::Overwrite, (dx, c), (dy, stride), (w, c));
    });
}

/// dw += dyᵀ x, or =; db += Σ dy, for which dy has to be f32.
pub(super) fn parameters(dev: &Device, d: &Cpu, dw: Tensor, db: Option<Tensor>, dy: Tensor, x: Tensor, into: Into) {
    let (n, c, o, stride) = (x.rows, x.cols, dw.rows, dy.cols);
    assert!(stride == o || dy.half && stride == 2 * o, "linear: dy {dy:?} of dw {dw:?}");
    if let Some(db) = db {
        bias(dev, db, dy);
    }
    let _at = dev.tally("linear dW", 2 * n * c * o, &written(dw, dy.first_cols(o), x, into));
    d.arena.op_either([dw], [dy, x], |[dw], [dy, x]| {
        gemm::product(d.precision, Layout::TN, [o, c, n], into, (dw, c), (dy, stride), (x, c));
    });
}

/// db += Σ_rows dy. Not on a GPU, where a product sums what it reads.
pub fn bias(dev: &Device, db: Tensor, dy: Tensor) {
    let o = dy.cols;
    let _at = dev.tally("linear db", 0, &[db, db, dy]);
    match dev {
        Device::Cpu(d) => d.arena.op([db], [dy], |[db], [dy]| {
            column_sums(db, dy.len() / o, |rows, columns, sums| {
                rows.for_each(|r| add_to(sums, &dy[r * o..][columns.clone()]));
            });
        }),
        Device::Cuda(_) => panic!("linear: the bias {db:?} by itself on a GPU"),
        Device::Reference(d) => d.arena.op([db], [dy], |[db], [dy]| {
            dy.chunks_exact(o).for_each(|row| db.iter_mut().zip(row).for_each(|(db, dy)| *db += dy));
        }),
    }
}

/// dw += dyᵀ x, or =; db += Σ dy, where db is an address other than null. Of dy, x and dw as they lie on the GPU.
pub(super) fn to_parameters(d: &Cuda, dw: Operand, db: u64, dy: Operand, x: Operand, into: Into) {
    let (n, o) = (dy.rows, dy.cols);
    let add = (into == Into::Add).then_some(dw.at);
    let plain = Product { y: dw, a: dy, b: x, transposed: [true, false], add, finish: Finish::Nothing };
    if db == 0 {
        return d.multiply(&plain);
    }
    let strips = n.div_ceil(32).min(STRIPS);
    let partials = d.scratch(4 * strips * o);
    let summing = Product { finish: Finish::SumsOfA { to: partials }, ..plain };
    let sum = || {
        let grid = Grid::new([o.div_ceil(256), strips, 1], [32, 8, 1]);
        d.launch("column_sums", grid, &[partials, dy.at, n as u64, o as u64]);
    };
    // The library's sums are written, not added: one strip of them then goes the way of many.
    let strips = if d.prefers(&summing, &plain, sum) {
        d.multiply(&summing);
        1
    } else {
        d.multiply(&plain);
        sum();
        strips
    };
    let grid = Grid::new([o.div_ceil(32), 1, 1], [32, 8, 1]);
    d.launch("column_reduce", grid, &[db, 0, partials, strips as u64, o as u64]);
}

/// What the product for dw reads and writes.
pub(super) fn written(dw: Tensor, dy: Tensor, x: Tensor, into: Into) -> [Tensor; 4] {
    let before = (into == Into::Add).then_some(dw);
    [dw, or_empty(before), dy, x]
}

/// A weight as products read it: on the CPU its copy in bf16, where the plan has one. What was written since without its copy (a
/// checkpoint, a message) is copied first; AdamW has written both.
pub(super) fn as_read(dev: &Device, w: Tensor) -> Tensor {
    let Device::Cpu(d) = dev else { return w };
    let Some(copy) = d.arena.copy_of(w) else { return w };
    while let Some(part) = d.arena.take_stale(w) {
        let to = d.arena.copy_of(part).expect("a part of what is copied");
        let _at = dev.tally("weights to bf16", 0, &[to, part]);
        d.arena.op_either([to], [part], |[to], [part]| {
            pieces([(to.bf16(), PIECE)], [(part.f32(), PIECE)], |_, [to], [part]| halve(to, part));
        });
    }
    copy
}

/// (rows, inputs, outputs).
fn shape(y: Tensor, x: Tensor, w: Tensor) -> (usize, usize, usize) {
    assert!(y.rows == x.rows && x.cols == w.cols && y.cols == w.rows, "linear: y {y:?}, x {x:?}, w {w:?}");
    (x.rows, x.cols, w.rows)
}
