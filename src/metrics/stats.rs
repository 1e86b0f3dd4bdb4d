//! Mean, median, standard deviation, least and greatest of a few numbers, and which steps count.
//!
//! ```text
//! mean = Σ x / n      stddev = √(Σ (x − mean)² / (n − 1)), 0 for n = 1      median = the middle, or the mean of the middle two
//! ```
use super::units::significant;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Stats {
    pub mean: f64,
    pub median: f64,
    pub stddev: f64,
    pub min: f64,
    pub max: f64,
    pub n: usize,
}

impl Stats {
    /// `None` of no numbers.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Stats> {
        let mut x: Vec<f64> = values.into_iter().collect();
        let n = x.len();
        if n == 0 {
            return None;
        }
        x.sort_by(f64::total_cmp);
        let mean = x.iter().sum::<f64>() / n as f64;
        let squares: f64 = x.iter().map(|v| (v - mean).powi(2)).sum();
        let stddev = if n == 1 { 0.0 } else { (squares / (n - 1) as f64).sqrt() };
        let median = (x[(n - 1) / 2] + x[n / 2]) / 2.0;
        Some(Stats { mean, median, stddev, min: x[0], max: x[n - 1], n })
    }

    /// Where the mean lies with 95 % confidence, if the numbers are independent and normal: mean ± t stddev / √n, Student's t
    /// with n − 1 degrees of freedom (its expansion by 1/ν; Abramowitz, Stegun 26.7.5; by table for ν < 5, where that is too narrow). The
    /// whole line for n = 1.
    pub fn interval(&self) -> [f64; 2] {
        const Z: f64 = 1.959_963_984_540_054;
        const FEW: [f64; 4] = [12.706_205, 4.302_653, 3.182_446, 2.776_445];
        let free = self.n as f64 - 1.0;
        let (z3, z5, z7) = (Z.powi(3), Z.powi(5), Z.powi(7));
        let terms =
            [(z3 + Z) / 4.0, (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / 96.0, (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / 384.0];
        let expanded = Z + terms.iter().zip(1..).map(|(term, power)| term / free.powi(power)).sum::<f64>();
        let t = FEW.get(self.n.wrapping_sub(2)).copied().unwrap_or(expanded);
        let half = if self.n > 1 { t * self.stddev / (self.n as f64).sqrt() } else { f64::INFINITY };
        [self.mean - half, self.mean + half]
    }

    /// `n 20, stddev 1.2, median 98.9, min 97.0, max 101.3, 95 % interval 98.5 to 99.6`: what stands behind the mean in a figure of merit.
    pub fn words(&self) -> String {
        if self.n == 1 {
            return "n 1".into();
        }
        let [stddev, median, min, max] = [self.stddev, self.median, self.min, self.max].map(|v| significant(v, 6));
        let words = format!("n {}, stddev {stddev}, median {median}, min {min}, max {max}", self.n);
        let [low, high] = self.interval().map(|v| significant(v, 6));
        format!("{words}, 95 % interval {low} to {high}")
    }

    /// The same for programs, with the interval as `interval95`; its ends are null for n = 1.
    pub fn json(&self) -> Value {
        let mut value = json!(self);
        value["interval95"] = json!(self.interval());
        value
    }

    /// All numbers times `factor`, which is positive.
    pub fn times(self, factor: f64) -> Stats {
        Stats {
            mean: self.mean * factor,
            median: self.median * factor,
            stddev: self.stddev * factor,
            min: self.min * factor,
            max: self.max * factor,
            n: self.n,
        }
    }
}

/// How many of the first steps of a start are left out of its figures of merit: a tenth of them, at least one and at
/// most ten (caches, page faults, the clock's governor), but never all.
pub fn warm_up(steps: usize) -> usize {
    (steps / 10).clamp(1, 10).min(steps.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_numbers() {
        let s = Stats::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.mean, s.median, s.min, s.max, s.n), (2.5, 2.5, 1.0, 4.0, 4));
        assert!((s.stddev - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Stats::of([7.0, 1.0, 2.0]).unwrap().median, 2.0);
    }

    #[test]
    fn none_and_one() {
        assert_eq!(Stats::of([]), None);
        assert_eq!(Stats::of([3.0]).unwrap().words(), "n 1");
        assert_eq!(Stats::of([3.0]), Some(Stats { mean: 3.0, median: 3.0, stddev: 0.0, min: 3.0, max: 3.0, n: 1 }));
    }

    #[test]
    fn the_interval_is_students() {
        // t of 0.975 by tables, with 1, 2, 4, 5, 9, 99 degrees of freedom
        for (n, t) in [(2, 12.706), (3, 4.303), (5, 2.776), (6, 2.571), (10, 2.262), (100, 1.984)] {
            let s = Stats { mean: 10.0, median: 10.0, stddev: 2.0, min: 0.0, max: 20.0, n };
            let [low, high] = s.interval();
            let found = (high - 10.0) / 2.0 * (n as f64).sqrt();
            assert!((found - t).abs() < 5e-3 && (low + high - 20.0).abs() < 1e-12, "n {n}: {found}");
        }
        assert_eq!(Stats::of([1.0]).unwrap().interval(), [f64::NEG_INFINITY, f64::INFINITY]);
    }

    #[test]
    fn warm_up_leaves_something() {
        for (steps, warm) in [(0, 0), (1, 0), (2, 1), (19, 1), (20, 2), (99, 9), (100, 10), (100_000, 10)] {
            assert_eq!(warm_up(steps), warm, "{steps} steps");
        }
    }
}
