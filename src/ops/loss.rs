//! Cross-entropy of logits against target tokens, over a chunk of rows: [B·T, V] never exists whole.
//!
//! ```text
//! loss = Σ_rows  log Σ_j e^{z_j}  −  z_target          dz_j = scale (softmax(z)_j − [j = target])
//! ```
//! z (n, padded V). Columns from `vocab` on are padding: they count as −∞ and their gradient is 0. A row whose target is
//! [`MASKED`] has loss 0 and gradient 0. The rows' losses are f64 and are summed in their order, whatever the threads.
use super::MASKED;
use super::rows::{Shared, ordered_sum};
use super::simd::{LANES, exp, fold, max, wide};
use crate::device::cuda::{Grid, float};
use crate::device::{Device, Kept};
use crate::tensor::Tensor;

/// Σ loss over the rows; z becomes scale · ∂loss/∂z. A GPU keeps the sum ([`Device::take`]), and this is 0.
pub fn cross_entropy(dev: &Device, logits: Tensor, targets: &[u32], vocab: usize, scale: f32) -> f64 {
    check(logits, targets, vocab);
    let _at = dev.tally("cross-entropy", 0, &[logits, logits]);
    let cols = logits.cols;
    match dev {
        Device::Cpu(d) => d.arena.op([logits], [], |[z], []| {
            let z = Shared::new(z);
            // SAFETY: each row is one task's.
            let row = |i: usize| row_backward(unsafe { z.piece(i * cols, cols) }, vocab, targets[i], scale);
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

/// One row's loss; z becomes its gradient. The exponentials are taken once and stay in z until they are scaled.
fn row_backward(z: &mut [f32], vocab: usize, target: u32, scale: f32) -> f64 {
    if target == MASKED {
        z.fill(0.0);
        return 0.0;
    }
    let (z, padding) = z.split_at_mut(vocab);
    padding.fill(0.0);
    let at_target = z[target as usize];
    let top = largest(z);
    let total = exponentials(z, top);
    times(z, (f64::from(scale) / total) as f32);
    z[target as usize] -= scale;
    total.ln() + f64::from(top) - f64::from(at_target)
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

    /// z = e^(z − top); returns Σ z.
    fn exponentials(z: &mut [f32], top: f32) -> f64 {
        let mut total = 0f64;
        for z in z.chunks_mut(BLOCK) {
            let mut lanes = [0f32; LANES];
            let (whole, rest) = z.as_chunks_mut::<LANES>();
            for z in whole {
                for i in 0..LANES {
                    z[i] = exp(z[i] - top);
                    lanes[i] += z[i];
                }
            }
            for (i, z) in rest.iter_mut().enumerate() {
                *z = exp(*z - top);
                lanes[i] += *z;
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

    fn times(z: &mut [f32], factor: f32) {
        for z in z {
            *z *= factor;
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
