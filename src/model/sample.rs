//! The next token from the logits of the last: a pure function.
//!
//! ```text
//! p = softmax(z / temperature), of the top_k likeliest, of those the fewest whose p sum to at least top_p
//! the token at which the running sum of p passes u · Σ p,  u = uniform(seed, n)
//! ```
//! Ties are broken by the smaller token, so that a draw depends on nothing but its arguments.
use crate::device::Device;
use crate::model::init;
use crate::ops::sample::{Draw, on_device};
use crate::tensor::Tensor;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the likeliest token, always.
    pub temperature: f32,
    /// Draw from this many likeliest tokens; None: from all.
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1: from all.
    pub top_p: f32,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: 0 }
    }
}

/// [`sample`] from logits (1, padded V) on a device, which draws by itself where it can. Waits for the token.
pub fn draw(dev: &Device, logits: Tensor, vocab: usize, how: &Sampling, n: u64) -> u32 {
    let (u, top_k) = (uniform(how, n), how.top_k.map_or(0, |k| k.max(1)));
    let there = Draw { temperature: how.temperature, top_k, top_p: how.top_p, u };
    on_device(dev, logits, vocab, there).unwrap_or_else(|| sample(&dev.read(logits)[..vocab], how, n))
}

fn uniform(how: &Sampling, n: u64) -> f64 {
    init::uniform(init::key(how.seed, "sample"), n)
}

/// Draw number `n` of `how`, from logits (V). A token whose logit is NaN is never drawn.
pub fn sample(logits: &[f32], how: &Sampling, n: u64) -> u32 {
    let tokens = (0..logits.len() as u32).filter(|t| !logits[*t as usize].is_nan());
    let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if how.temperature <= 0.0 {
        return tokens.min_by(likelier).unwrap_or(0);
    }
    let (mut order, kept) = (tokens.collect::<Vec<_>>(), how.top_k.unwrap_or(usize::MAX).max(1));
    if kept < order.len() {
        // only what is kept is sorted: a vocabulary takes milliseconds
        order.select_nth_unstable_by(kept - 1, likelier);
        order.truncate(kept);
    }
    order.sort_unstable_by(likelier);
    let Some(&best) = order.first() else { return 0 };
    let scaled = |t: u32| f64::from(logits[t as usize] - logits[best as usize]) / f64::from(how.temperature);
    let weights: Vec<f64> = order.iter().map(|t| scaled(*t).exp()).collect();
    let enough = f64::from(how.top_p) * weights.iter().sum::<f64>();
    let (mut kept, mut mass) = (0, 0.0);
    while kept < weights.len() && (kept == 0 || mass < enough) {
        mass += weights[kept];
        kept += 1;
    }
    let aim = uniform(how, n) * mass;
    let mut sum = 0.0;
    let passed = weights[..kept].iter().position(|w| {
        sum += w;
        sum > aim
    });
    order[passed.unwrap_or(kept - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, f32::NAN];

    fn shares(how: Sampling) -> [f64; 5] {
        let mut share = [0.0; 5];
        (0..20_000).for_each(|n| share[sample(&LOGITS, &how, n) as usize] += 1.0 / 20_000.0);
        share
    }

    #[test]
    fn draws_follow_the_softmax() {
        let total = 2.0 + (-1f64).exp() + (-2f64).exp();
        let expected = [(-2f64).exp() / total, 1.0 / total, (-1f64).exp() / total, 1.0 / total, 0.0];
        let got = shares(Sampling::default());
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 0.015), "{got:?} {expected:?}");
    }

    #[test]
    fn limits_cut_the_tail() {
        let greedy = Sampling { temperature: 0.0, ..Default::default() };
        assert_eq!(shares(greedy)[1], shares(Sampling { top_k: Some(1), ..Default::default() })[1]);
        assert!((shares(greedy)[1] - 1.0).abs() < 1e-9);
        let two = shares(Sampling { top_k: Some(2), ..Default::default() });
        assert!(two[0] + two[2] == 0.0 && (two[1] - 0.5).abs() < 0.015, "{two:?}");
        // The two likeliest hold 0.80, the third brings 0.95.
        let three = shares(Sampling { top_p: 0.9, ..Default::default() });
        assert!(three[0] == 0.0 && three[2] > 0.1, "{three:?}");
        let hot = shares(Sampling { temperature: 100.0, ..Default::default() });
        assert!((hot[0] - 0.25).abs() < 0.02, "{hot:?}");
    }

    #[test]
    fn a_draw_depends_on_its_arguments_alone() {
        let how = Sampling { seed: 7, ..Default::default() };
        let draws = |how: &Sampling| (0..64).map(|n| sample(&LOGITS, how, n)).collect::<Vec<_>>();
        assert_eq!(draws(&how), draws(&how));
        assert_ne!(draws(&how), draws(&Sampling { seed: 8, ..how }));
    }
}
