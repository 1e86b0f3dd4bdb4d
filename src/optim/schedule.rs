//! The learning rate of each step: a pure function.
//!
//! ```text
//! s < warmup           η (s + 1) / warmup
//! after, with p = (s − warmup) / (steps − warmup) from 0 towards 1:
//!   cosine             η_min + (η − η_min) (1 + cos π p) / 2
//!   linear             η − (η − η_min) p
//!   constant           η
//!   wsd                η, and over the last `decay` share of all steps linear down to η_min
//! ```
//! `s` counts from 0. Loshchilov and Hutter, SGDR (2017); Hu et al., MiniCPM (2024) for warmup-stable-decay.

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Curve {
    Cosine,
    Linear,
    Constant,
    /// Constant, then linear over the last `decay` share of all steps.
    Wsd {
        decay: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub curve: Curve,
    pub lr: f64,
    pub min_lr: f64,
    pub warmup: u64,
    pub steps: u64,
}

impl Schedule {
    /// Of step `s`, from 0.
    pub fn lr(&self, s: u64) -> f64 {
        let Schedule { curve, lr, min_lr, warmup, steps } = *self;
        if s < warmup {
            return lr * (s + 1) as f64 / warmup as f64;
        }
        let down = |from: u64| ((s - from.min(s)) as f64 / (steps - from.min(steps)).max(1) as f64).min(1.0);
        match curve {
            Curve::Cosine => min_lr + (lr - min_lr) * (1.0 + (std::f64::consts::PI * down(warmup)).cos()) / 2.0,
            Curve::Linear => lr - (lr - min_lr) * down(warmup),
            Curve::Constant => lr,
            Curve::Wsd { decay } => {
                let from = warmup.max(steps.saturating_sub((decay * steps as f64).round() as u64));
                lr - (lr - min_lr) * down(from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(curve: Curve, s: u64) -> f64 {
        Schedule { curve, lr: 1.0, min_lr: 0.1, warmup: 10, steps: 110 }.lr(s)
    }

    #[test]
    fn each_curve_warms_up_holds_its_middle_and_ends_low() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} against {b}");
        for curve in [Curve::Cosine, Curve::Linear, Curve::Constant, Curve::Wsd { decay: 0.2 }] {
            close(at(curve, 0), 0.1);
            close(at(curve, 9), 1.0);
            close(at(curve, 10), 1.0);
        }
        close(at(Curve::Cosine, 60), 0.55);
        close(at(Curve::Cosine, 110), 0.1);
        close(at(Curve::Linear, 60), 0.55);
        close(at(Curve::Constant, 109), 1.0);
        close(at(Curve::Wsd { decay: 0.2 }, 87), 1.0);
        close(at(Curve::Wsd { decay: 0.2 }, 99), 0.55);
        close(at(Curve::Wsd { decay: 0.2 }, 110), 0.1);
    }

    #[test]
    fn a_rate_only_falls_after_the_warm_up_and_stays_between_its_ends() {
        for curve in [Curve::Cosine, Curve::Linear, Curve::Constant, Curve::Wsd { decay: 0.2 }, Curve::Wsd { decay: 1.0 }] {
            for (warmup, steps) in [(0, 1), (0, 50), (10, 10), (10, 11), (7, 200)] {
                let rates: Vec<f64> = (0..steps).map(|s| Schedule { curve, lr: 2.0, min_lr: 0.5, warmup, steps }.lr(s)).collect();
                let (up, down) = rates.split_at(warmup as usize);
                assert!(up.is_sorted() && up.first().is_none_or(|first| *first == 2.0 / warmup as f64), "{curve:?} {rates:?}");
                assert!(down.is_sorted_by(|a, b| a >= b), "{curve:?} {rates:?}");
                assert!(
                    rates.iter().all(|lr| (0.0..=2.0).contains(lr)) && down.iter().all(|lr| *lr >= 0.5),
                    "{curve:?} {rates:?}"
                );
                assert!(down.first().is_none_or(|first| *first == 2.0), "{curve:?}: the peak is reached");
            }
        }
    }
}
