//! Several corpora in fixed shares: which corpus sample `n` comes from, and the how-manieth of that corpus it is.
//!
//! ```text
//! weights, scaled to whole numbers without common divisor: a_1 … a_m, A = Σ a      sample n: turn n / A, slot n mod A
//! slot s = 1 … A goes, with debts d_c = a_c s − A k_c (k_c: how often c had its turn so far),
//!     among the corpora with d_c ≥ A / (2m − 2), the largest remainders,
//!     to the one that would first be a whole sample behind:  least ((2m − 3) A / (2m − 2) − d_c) / a_c
//! ```
//! After any number n of samples each corpus has had its n·a_c / A but for less than one sample (at most 1 − 1 / (2m − 2)),
//! and exactly that at the end of each turn. Taking merely the largest remainder drifts further with many corpora. For two
//! corpora the two rules are one. The slots of one turn are tabled once, so that any n is one look-up.
//! Source: Tijdeman, *The chairman assignment problem* (1980).
use crate::bad_input;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// One `path[:weight]` of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub path: PathBuf,
    pub weight: f64,
}

impl Spec {
    /// Reads `path` or `path:weight`. A colon that is part of the name of an existing file or prefix is no weight's.
    ///
    /// # Errors
    /// `Input`, naming the text, where the weight is no positive number.
    pub fn parse(text: &str) -> Result<Spec> {
        let whole = Spec { path: PathBuf::from(text), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once(':') else { return Ok(whole) };
        if weight.contains('/') || Path::new(text).exists() || Path::new(&format!("{text}.idx")).exists() {
            return Ok(whole);
        }
        match weight.parse::<f64>() {
            Ok(w) if w.is_finite() && w > 0.0 && !path.is_empty() => Ok(Spec { path: PathBuf::from(path), weight: w }),
            _ => bad_input!("{text}: expected path or path:weight with a weight above 0, found weight {weight:?}"),
        }
    }
}

/// Structural only in that slots are tabled: finer shares than a millionth are rounded to it.
const FINEST: u64 = 1 << 20;

/// The order in which the corpora take turns.
pub struct Blend {
    /// For each slot of a turn: the corpus, and its draws before that slot within the turn.
    slots: Vec<(u16, u32)>,
    /// Draws of each corpus in a whole turn: a_c.
    shares: Vec<u64>,
}

impl Blend {
    /// # Errors
    /// `Input` for more than 65,536 corpora.
    pub fn new(weights: &[f64]) -> Result<Blend> {
        assert!(!weights.is_empty() && weights.iter().all(|w| w.is_finite() && *w > 0.0), "weights {weights:?}");
        if weights.len() > 1 << 16 {
            return Err(Error::Input(format!("expected at most 65536 corpora to blend, found {}", weights.len())));
        }
        let shares = whole_shares(weights);
        let (m, turn) = (weights.len() as i128, shares.iter().sum::<u64>() as i128);
        let mut drawn = vec![0u32; shares.len()];
        let mut slots = Vec::with_capacity(turn as usize);
        for s in 1..=turn {
            let debt = |c: usize| shares[c] as i128 * s - turn * drawn[c] as i128;
            // The slack until c is a whole sample behind, times (2m − 2); over a_c it is the number of slots until then.
            let slack = |c: usize| (2 * m - 3) * turn - (2 * m - 2) * debt(c);
            let sooner = |&a: &usize, &b: &usize| (slack(a) * shares[b] as i128).cmp(&(slack(b) * shares[a] as i128));
            let eligible = (0..shares.len()).filter(|&c| (2 * m - 2) * debt(c) >= turn || m == 1);
            let next = eligible.min_by(sooner).expect("the debts of a slot sum to A, so that one is A / m or more");
            slots.push((next as u16, drawn[next]));
            drawn[next] += 1;
        }
        Ok(Blend { slots, shares })
    }
    /// Sample `n` is the `k`-th draw (from 0) of corpus `c`: gives (c, k).
    pub fn at(&self, n: u64) -> (usize, u64) {
        let turn = self.slots.len() as u64;
        let (corpus, before) = self.slots[(n % turn) as usize];
        (corpus as usize, n / turn * self.shares[corpus as usize] + before as u64)
    }
    /// The share of each corpus, as it is really drawn.
    pub fn shares(&self) -> Vec<f64> {
        self.shares.iter().map(|&a| a as f64 / self.slots.len() as f64).collect()
    }
}

/// The weights as whole numbers without common divisor: exact as they were typed, if their sum is within [`FINEST`].
fn whole_shares(weights: &[f64]) -> Vec<u64> {
    let exact = decimal_shares(weights).map(reduced).filter(|a| a.iter().sum::<u128>() <= FINEST as u128);
    let shares = exact.unwrap_or_else(|| {
        let total: f64 = weights.iter().sum();
        reduced(weights.iter().map(|w| (w / total * FINEST as f64).round().max(1.0) as u128).collect())
    });
    shares.into_iter().map(|a| a as u64).collect()
}

/// The weights times the power of ten that clears their decimals; `None` where that overflows.
fn decimal_shares(weights: &[f64]) -> Option<Vec<u128>> {
    // Rust prints the shortest decimal that reads back as the same number: what the user typed.
    let texts: Vec<String> = weights.iter().map(|w| w.to_string()).collect();
    let decimals = |t: &str| t.split_once('.').map_or(0, |(_, d)| d.len());
    let most = texts.iter().map(|t| decimals(t)).max()?;
    let scaled = texts.iter().map(|t| format!("{}{}", t.replace('.', ""), "0".repeat(most - decimals(t))).parse().ok());
    let scaled: Option<Vec<u128>> = scaled.collect();
    scaled.filter(|a| a.iter().try_fold(0u128, |n, &x| n.checked_add(x)).is_some())
}

fn reduced(mut shares: Vec<u128>) -> Vec<u128> {
    let divisor = shares.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    shares.iter_mut().for_each(|a| *a /= divisor);
    shares
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_corpus_is_ever_a_whole_sample_from_its_share() {
        let many: Vec<f64> = (1..=40).map(|i| 1.0 / i as f64).collect();
        let cases: [&[f64]; 7] =
            [&[1.0], &[1.0, 1.0], &[0.7, 0.3], &[0.7, 0.2, 0.1], &[5.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0], &[1e-5, 3.25], &many];
        for weights in cases {
            let (blend, m) = (Blend::new(weights).unwrap(), weights.len());
            let shares = blend.shares();
            let total: f64 = weights.iter().sum();
            let mut drawn = vec![0u64; m];
            for n in 0..30_000 {
                let (c, k) = blend.at(n);
                assert_eq!(k, drawn[c], "draws of {c} are counted");
                drawn[c] += 1;
                for (c, &count) in drawn.iter().enumerate() {
                    let off = (count as f64 - (n + 1) as f64 * shares[c]).abs();
                    assert!(off < 1.0, "{weights:?}: corpus {c} is {off} off after {}", n + 1);
                    assert!((shares[c] - weights[c] / total).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn two_corpora_take_turns_by_largest_remainder() {
        let blend = Blend::new(&[0.7, 0.3]).unwrap();
        let order: Vec<usize> = (0..10).map(|n| blend.at(n).0).collect();
        assert_eq!(order, [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]);
        assert_eq!(blend.at(10_000_000_000_001), (1, 3_000_000_000_000), "any place by itself");
    }

    #[test]
    fn weights_are_exact_as_typed() {
        assert_eq!(whole_shares(&[0.1, 0.2, 0.7]), [1, 2, 7]);
        assert_eq!(whole_shares(&[1e-3, 0.999]), [1, 999]);
        assert_eq!(whole_shares(&[30.0, 20.0]), [3, 2]);
        assert!(whole_shares(&[1e300, 1e-300]).iter().all(|&a| a >= 1));
        assert!(whole_shares(&[std::f64::consts::PI, 1.0]).iter().sum::<u64>() <= FINEST + 2);
    }

    #[test]
    fn specs() {
        let spec = |path: &str, weight| Ok(Spec { path: path.into(), weight });
        assert_eq!(Spec::parse("a/b"), spec("a/b", 1.0));
        assert_eq!(Spec::parse("a/b:0.25"), spec("a/b", 0.25));
        assert_eq!(Spec::parse("a:b/c"), spec("a:b/c", 1.0));
        for bad in ["a:-1", "a:0", "a:abc", "a:", "a:inf", "a:nan", ":2"] {
            match Spec::parse(bad) {
                Err(Error::Input(text)) => assert!(text.starts_with(&format!("{bad}: expected")), "{text}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }
}
