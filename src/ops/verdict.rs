//! A step's verdict, from a few numbers of every rank: what AdamW multiplies the gradient by, and whether it acts at all.
//!
//! ```text
//! numbers of a rank    Σ loss | Σ gradient² of its own part | two that the host gave
//! norm = √Σ gradient²         scale = min(limit / (norm + 1e-6), 1)         skipped where loss or norm is not finite
//! ```
//! A CPU's numbers are on the host, which judges at once. A GPU's stay where they are: [`post`] puts them among all ranks', a
//! message brings those together, [`judge`] leaves its verdict where AdamW finds it, and the host hears of it later.
use crate::device::cuda::{self, Coming, Grid, NUMBERS, double};
use crate::device::{Device, Kept, Loan};

/// What is done with a step's gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing: something is not finite.
    Skip,
    /// It is multiplied by this.
    Scale(f32),
    /// One of the two: the device knows.
    OnDevice,
}

impl Verdict {
    /// From the sum of all ranks' losses and the gradient's norm, with clipping to `limit`.
    pub fn of(loss: f64, norm: f64, limit: Option<f64>) -> Verdict {
        if loss.is_finite() && norm.is_finite() { Verdict::Scale(clip_factor(norm, limit)) } else { Verdict::Skip }
    }
    /// What the gradient is multiplied by. Panics where there is no update, or the host does not know.
    pub fn scale(self) -> f32 {
        let Verdict::Scale(scale) = self else { panic!("a gradient is multiplied by {self:?}") };
        scale
    }
}

/// The factor that brings a gradient of global norm `norm` down to `limit`, as PyTorch's `clip_grad_norm_` forms it.
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f32 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32
}

/// Steps by which the host is behind with what it knows: a GPU works on while it hears of the last one.
pub fn lag(dev: &Device) -> u32 {
    u32::from(matches!(dev, Device::Cuda(_)))
}

/// Puts a rank's numbers among those of all ranks: the host's, plus what ops have left on the device. `true` where the device
/// keeps them; elsewhere the host has them all.
pub fn post(dev: &Device, rank: usize, host: [f64; NUMBERS]) -> bool {
    let Device::Cuda(d) = dev else { return false };
    let (all, ranks) = d.words();
    assert!(rank < ranks, "the numbers of rank {rank} among those of {ranks}");
    let halves: Vec<u32> = host.iter().flat_map(|x| [x.to_bits() as u32, (x.to_bits() >> 32) as u32]).collect();
    let mine = all + (8 * NUMBERS * rank) as u64;
    d.launch("post", ONE, &[mine, d.kept(Kept::Loss), d.upload(&halves)]);
    true
}

/// All ranks' numbers, for the message that brings them together.
pub fn lend(dev: &Device) -> Loan {
    on_gpu(dev).lend_words()
}

/// Leaves the verdict on the device, where [`Verdict::OnDevice`] finds it, and has all ranks' numbers brought to the host.
pub fn judge(dev: &Device, limit: Option<f64>) -> Coming {
    let d = on_gpu(dev);
    let ((all, ranks), scale) = (d.words(), d.verdict());
    d.launch("judge", ONE, &[scale, scale + 4, all, ranks as u64, double(limit.unwrap_or(0.0))]);
    d.bring_words()
}

const ONE: Grid = Grid { grid: [1; 3], block: [1; 3], shared: 0 };

fn on_gpu(dev: &Device) -> &cuda::Cuda {
    let Device::Cuda(d) = dev else { panic!("no numbers are kept on a CPU") };
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_gradient_is_not_clipped() {
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(5.0, None), 1.0);
        assert!((clip_factor(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_updates_nothing() {
        assert_eq!(Verdict::of(1.0, 4.0, None), Verdict::Scale(1.0));
        for (loss, norm) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, f64::NAN), (1.0, f64::INFINITY)] {
            assert_eq!(Verdict::of(loss, norm, Some(1.0)), Verdict::Skip);
        }
    }
}
