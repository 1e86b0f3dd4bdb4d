//! Cross-entropy of logits against target tokens, over a chunk of rows: [B·T, V] never exists whole.
//!
//! ```text
//! loss = Σ_rows  log Σ_j e^{z_j}  −  z_target          dz_j = scale (softmax(z)_j − [j = target])
//! ```
//! z (n, padded V). Columns from `vocab` on are padding: they count as −∞ and their gradient is 0. A row whose target is
//! [`MASKED`] has loss 0 and gradient 0. The rows' losses are f64 and are summed in their order, whatever the threads.
//!
//! The gradient takes the logits' place. Where the products that read it round it to bf16, it lies so in the first half of each row, by the
//! rounding that they would have done: half as much to write, and to read twice.
use super::MASKED;
use super::rows::{Shared, halves, on_a_line, ordered_sum};
use super::simd::{LANES, exp, fold, max, to_bf16, wide};
use crate::device::cuda::{Grid, float};
use crate::device::{Device, Kept};
use crate::tensor::Tensor;
use half::bf16;
use std::cell::RefCell;

thread_local! {
    /// The exponentials of a row; grown by the first step, then reused.
    static EXPONENTIALS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Elements of working memory that the loss keeps, beside the plan's, with `threads` threads: a row of each.
pub fn workspace_elements(padded: usize, threads: usize) -> usize {
    threads * (padded + LANES)
}

/// Σ loss over the rows; dz = scale · ∂loss/∂z, which is the logits' own place, as they lie or as [`Plan::operand_within`] says, and all that is
/// left of them. A GPU keeps the sum ([`Device::take`]), and this is 0.
///
/// [`Plan::operand_within`]: crate::tensor::Plan::operand_within
pub fn cross_entropy(dev: &Device, dz: Tensor, logits: Tensor, targets: &[u32], vocab: usize, scale: f32) -> f64 {
    check(logits, targets, vocab);
    let cols = logits.cols;
    let rounded = Tensor { half: true, cols: 2 * cols, ..logits };
    assert!(dz == logits || dz == rounded && matches!(dev, Device::Cpu(_)), "cross-entropy: gradient {dz:?} of {logits:?}");
    let _at = dev.tally("cross-entropy", 0, &[logits, dz.first_cols(cols)]);
    match dev {
        Device::Cpu(d) => d.arena.op([logits], [], |[z], []| {
            let z = Shared::new(z);
            let row = |i: usize| {
                // SAFETY: each row is one task's.
                let z = unsafe { z.piece(i * cols, cols) };
                row_backward(z, dz.half, vocab, targets[i], scale)
            };
            ordered_sum(targets.len(), row)
        }),
        Device::Cuda(d) => {
            let ([z], []) = d.op([logits], []);
            let (n, losses, targets) = (logits.rows, d.scratch(4 * logits.rows), d.upload(targets));
            let sizes = [vocab as u64, cols as u64];
            d.launch("cross_entropy", over(logits), &[z, losses, targets, sizes[0], sizes[1], float(scale)]);
            d.launch("sum_losses", Grid::new([1, 1, 1], [256, 1, 1]), &[d.kept(Kept::Loss), losses, n as u64]);
            0.0
        }
        Device::Reference(d) => d.arena.op([logits], [], |[z], []| {
            z.chunks_exact_mut(cols).zip(targets).map(|(z, t)| reference::row(z, vocab, *t, f64::from(scale))).sum()
        }),
    }
}

/// Σ loss over the rows, as above; z stays as it is.
pub fn cross_entropy_only(dev: &Device, logits: Tensor, targets: &[u32], vocab: usize) -> f64 {
    check(logits, targets, vocab);
    let _at = dev.tally("cross-entropy only", 0, &[logits]);
    let cols = logits.cols;
    match dev {
        Device::Cpu(d) => {
            d.arena.op([], [logits], |[], [z]| ordered_sum(targets.len(), |i| row_loss(&z[i * cols..][..vocab], targets[i])))
        }
        Device::Cuda(d) => {
            let ([], [z]) = d.op([], [logits]);
            let (n, losses, targets) = (logits.rows, d.scratch(4 * logits.rows), d.upload(targets));
            d.launch("cross_entropy_only", over(logits), &[losses, z, targets, vocab as u64, cols as u64]);
            d.launch("sum_losses", Grid::new([1, 1, 1], [256, 1, 1]), &[d.kept(Kept::Loss), losses, n as u64]);
            0.0
        }
        Device::Reference(d) => d.arena.op([], [logits], |[], [z]| {
            let rows = z.chunks_exact(cols).zip(targets);
            rows.map(|(z, t)| reference::row(&mut z.to_vec(), vocab, *t, 1.0)).sum()
        }),
    }
}

/// A block for each row, eight columns a thread at least.
fn over(logits: Tensor) -> Grid {
    Grid::new([logits.rows, 1, 1], [logits.cols.div_ceil(8).next_multiple_of(32).min(1024), 1, 1])
}

fn check(logits: Tensor, targets: &[u32], vocab: usize) {
    assert_eq!(logits.rows, targets.len(), "cross-entropy: {logits:?} for {} targets", targets.len());
    assert!(0 < vocab && vocab <= logits.cols, "cross-entropy: {vocab} tokens in {logits:?}");
    let wrong = targets.iter().find(|&&t| t != MASKED && t as usize >= vocab);
    assert!(wrong.is_none(), "cross-entropy: target {wrong:?} of {vocab} tokens");
}

/// One row's loss; z becomes its gradient, in bf16 if `half`. The exponentials are taken once and lie in this thread's room until they are
/// scaled: no more of z is written than the gradient.
fn row_backward(z: &mut [f32], half: bool, vocab: usize, target: u32, scale: f32) -> f64 {
    let cols = z.len();
    if target == MASKED {
        z[..if half { cols.div_ceil(2) } else { cols }].fill(0.0);
        return 0.0;
    }
    EXPONENTIALS.with_borrow_mut(|room| {
        let (p, target) = (on_a_line(room, vocab), target as usize);
        let (top, at_target) = (largest(&z[..vocab]), z[target]);
        let total = exponentials(p, &z[..vocab], top);
        let factor = (f64::from(scale) / total) as f32;
        let to_target = p[target] * factor - scale;
        if half {
            let dz = halves(z);
            scaled_halves(dz, p, factor);
            dz[vocab..cols].fill(bf16::ZERO);
            dz[target] = to_bf16(to_target);
        } else {
            scaled(z, p, factor);
            z[vocab..cols].fill(0.0);
            z[target] = to_target;
        }
        total.ln() + f64::from(top) - f64::from(at_target)
    })
}

fn row_loss(z: &[f32], target: u32) -> f64 {
    if target == MASKED {
        return 0.0;
    }
    let top = largest(z);
    exponential_sum(z, top).ln() + f64::from(top) - f64::from(z[target as usize])
}

/// Elements whose exponentials are summed in f32 before they join the f64 total: a vocabulary of 128,256 loses no bits.
const BLOCK: usize = 64 * LANES;

wide! {
    fn largest(z: &[f32]) -> f32 {
        max(z)
    }

    /// p = e^(z − top), as many; returns Σ p.
    fn exponentials(p: &mut [f32], z: &[f32], top: f32) -> f64 {
        let mut total = 0f64;
        for (p, z) in p.chunks_mut(BLOCK).zip(z.chunks(BLOCK)) {
            let mut lanes = [0f32; LANES];
            let ((whole, rest), (z, z_rest)) = (p.as_chunks_mut::<LANES>(), z.as_chunks::<LANES>());
            for (p, z) in whole.iter_mut().zip(z) {
                for i in 0..LANES {
                    p[i] = exp(z[i] - top);
                    lanes[i] += p[i];
                }
            }
            for (i, (p, z)) in rest.iter_mut().zip(z_rest).enumerate() {
                *p = exp(*z - top);
                lanes[i] += *p;
            }
            total += f64::from(fold(lanes));
        }
        total
    }

    fn exponential_sum(z: &[f32], top: f32) -> f64 {
        let mut total = 0f64;
        for z in z.chunks(BLOCK) {
            let mut lanes = [0f32; LANES];
            let (whole, rest) = z.as_chunks::<LANES>();
            for z in whole {
                for i in 0..LANES {
                    lanes[i] += exp(z[i] - top);
                }
            }
            for (i, z) in rest.iter().enumerate() {
                lanes[i] += exp(*z - top);
            }
            total += f64::from(fold(lanes));
        }
        total
    }

    fn scaled(y: &mut [f32], x: &[f32], factor: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * factor;
        }
    }

    fn scaled_halves(y: &mut [bf16], x: &[f32], factor: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = to_bf16(x * factor);
        }
    }
}

mod reference {
    use super::MASKED;

    pub fn row(z: &mut [f64], vocab: usize, target: u32, scale: f64) -> f64 {
        if target == MASKED {
            z.fill(0.0);
            return 0.0;
        }
        let top = z[..vocab].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = z[..vocab].iter().map(|z| (z - top).exp()).sum();
        let log_total = total.ln() + top;
        let loss = log_total - z[target as usize];
        for (j, z) in z.iter_mut().enumerate() {
            let p = if j < vocab { (*z - log_total).exp() } else { 0.0 };
            *z = scale * (p - if j == target as usize { 1.0 } else { 0.0 });
        }
        loss
    }
}
