//! AdamW over the ranges that a rank owns. It neither knows nor cares whose shards they are.
//!
//! ```text
//! g ← clip · g        m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! w ← w − η (m̂ / (√v̂ + ε) + λ w)                   λ on matrices, not on vectors
//! ```
//! Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019).
pub mod schedule;
pub use schedule::{Curve, Schedule};

use crate::device::{Device, range};
use crate::model::Group;
use crate::ops::adamw;
use crate::ops::verdict::Verdict;
use crate::tensor::{Kind, Plan, Tensor};

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Whether group 0, the embeddings, is decayed as other matrices are.
    pub decay_embeddings: bool,
}

/// Adam's moments of what this rank owns.
pub struct AdamW {
    hyper: Hyper,
    parts: Vec<Part>,
}

/// The owned part of one group, with its moments.
pub struct Part {
    pub owned: Group,
    pub m: Tensor,
    pub v: Tensor,
}

impl AdamW {
    /// `owned`: of each group, in order, the part whose weights this rank updates.
    pub fn plan(p: &mut Plan, owned: Vec<Group>, hyper: Hyper) -> AdamW {
        let mut moment = |g: &Group| p.vector(Kind::Optimizer, g.weights.len());
        let parts = owned.into_iter().map(|owned| Part { m: moment(&owned), v: moment(&owned), owned }).collect();
        AdamW { hyper, parts }
    }

    /// One update, the `t`-th (from 1), as the verdict has it.
    pub fn step(&self, dev: &Device, lr: f64, t: u64, verdict: Verdict) {
        let _range = range(|| "optimizer".into());
        let Hyper { beta1, beta2, eps, weight_decay, decay_embeddings } = self.hyper;
        let step = adamw::Step { lr, beta1, beta2, eps, t, verdict };
        for (group, part) in self.parts.iter().enumerate() {
            let Group { weights, grads, decayed } = &part.owned;
            let decay = if group == 0 && !decay_embeddings { 0.0 } else { weight_decay as f32 };
            // Matrices first, vectors after: at most two launches.
            for (range, decay) in [(0..*decayed, decay), (*decayed..weights.len(), 0.0)] {
                if !range.is_empty() {
                    let of = |start: usize| Tensor::range(start + range.start, start + range.end);
                    adamw::update(dev, of(weights.start), of(part.m.at), of(part.v.at), of(grads.start), decay, &step);
                }
            }
        }
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Precision, Rounding};

    #[test]
    fn vectors_are_not_decayed_and_embeddings_only_when_asked() {
        for (decay_embeddings, first) in [(true, 0.9), (false, 1.0)] {
            let mut plan = Plan::default();
            let (w, g) = (plan.vector(Kind::Parameters, 8), plan.vector(Kind::Gradients, 8));
            let group = |at: usize| Group { weights: w.at + at..w.at + at + 4, grads: g.at + at..g.at + at + 4, decayed: 2 };
            let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_embeddings };
            let adamw = AdamW::plan(&mut plan, vec![group(0), group(4)], hyper);
            let dev = Device::cpu(&plan, 1, &[], Precision::Fp32).unwrap();
            dev.write(w, &[1.0; 8]);
            adamw.step(&dev, 1.0, 1, Verdict::Scale(1.0)); // the gradient is zero: only decay moves a weight
            assert_eq!(dev.read(w), [first, first, 1.0, 1.0, 0.9, 0.9, 1.0, 1.0]);
        }
    }

    /// Weights that are bf16 alone, one each, all of them 1, after `steps` steps of -lr; `seed`: rounded at random.
    fn after(steps: u64, lr: f64, seed: Option<u64>) -> Vec<f32> {
        const N: usize = 1 << 14;
        let mut plan = Plan::with_halves(true).with_weights_in_bf16(true);
        let w = plan.vector(Kind::Parameters, N);
        plan.weights();
        let g = plan.vector(Kind::Gradients, N);
        let group = Group { weights: w.at..w.end(), grads: g.at..g.end(), decayed: 0 };
        let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, decay_embeddings: true };
        let adamw = AdamW::plan(&mut plan, vec![group], hyper);
        let mut dev = Device::cpu(&plan, 1, &[], Precision::Bf16).unwrap();
        if let Some(seed) = seed {
            dev.round_at_random(Rounding::new(seed, std::iter::once(&(w.at..w.end()))));
        }
        dev.write(w, &[1.0; N]);
        dev.write(g, &[0.5; N]); // always the same: each step moves a weight by lr
        (1..=steps).for_each(|t| adamw.step(&dev, lr, t, Verdict::Scale(1.0)));
        dev.read(w)
    }

    #[test]
    fn small_updates_of_weights_in_bf16_are_lost_to_nearest_and_live_at_random() {
        let (steps, lr) = (100, 1e-4);
        assert!(lr < 2f64.powi(-9), "a step is less than half the distance to the next number below 1");
        assert!(after(steps, lr, None).iter().all(|w| *w == 1.0), "to nearest nothing moves");
        let weights = after(steps, lr, Some(7));
        assert_eq!(weights, after(steps, lr, Some(7)), "the same seed, the same weights");
        assert_ne!(weights, after(steps, lr, Some(8)));
        let n = weights.len() as f64;
        let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / n;
        let expected = 1.0 - steps as f64 * lr;
        // Of one weight a step has a deviation below √(lr 2⁻⁸): it goes down by 2⁻⁸ with probability lr 2⁸.
        let deviation = (steps as f64 * lr * 2f64.powi(-8) / n).sqrt();
        assert!((mean - expected).abs() < 4.0 * deviation, "mean {mean}, expected {expected} ± {deviation:.1e}");
    }
}
