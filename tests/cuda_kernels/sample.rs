//! The next token: the very one that `model::sample` draws.
use crate::arguments;
use crate::numbers::{key, random, uniform};
use crate::simulator::{Buffer, each_real, mutated};
use llm_train::model::{self, Sampling};

#[test]
fn sample() {
    let sizes: &[usize] = if mutated() { &[100] } else { &[1, 5, 300, 3000] };
    each_real(|sim| {
        for &vocab in sizes {
            // Whole numbers among them, and two at the top: ties.
            let logits: Vec<f32> =
                random("z", vocab).iter().enumerate().map(|(i, z)| if i % 3 == 0 { z.round() } else { 2.0 * z }).collect();
            let mut logits = sim.rounded(&logits);
            logits.iter_mut().skip(1).step_by(3).take(2).for_each(|z| *z = 8.0);
            logits.iter_mut().skip(3).step_by(50).for_each(|z| *z = f32::NAN);
            let buffer = sim.real(&logits);
            let hows = [
                Sampling { temperature: 0.0, ..Default::default() },
                Sampling { seed: 7, ..Default::default() },
                Sampling { temperature: 0.3, seed: 8, ..Default::default() },
                Sampling { temperature: 2.0, top_k: Some(3), seed: 9, ..Default::default() },
                Sampling { top_k: Some(40), top_p: 0.7, seed: 10, ..Default::default() },
                Sampling { top_p: 0.9, seed: 11, ..Default::default() },
                Sampling { top_p: 0.0, seed: 12, ..Default::default() },
            ];
            for how in hows {
                for n in 0..4 {
                    let u = uniform(key(how.seed, "sample"), n);
                    let draw = || {
                        let token = Buffer::fresh(4);
                        let top_k = how.top_k.map_or(0, |k| k as i32);
                        let (temperature, top_p) = (f64::from(how.temperature), f64::from(how.top_p));
                        sim.launch("sample", 1, 128, 0, arguments![&token, &buffer, vocab, temperature, top_k, top_p, u]);
                        vec![token]
                    };
                    let got = if n == 0 { sim.in_every_order(draw) } else { draw() };
                    assert_eq!(got[0].to_vec::<u32>()[0], model::sample(&logits, &how, n), "draw {n} of {vocab}, {how:?}");
                }
            }
        }
    });
}

#[test]
fn nothing_but_nan_draws_token_0() {
    each_real(|sim| {
        let token = Buffer::fresh(4);
        let logits = sim.real(&[f32::NAN; 20]);
        sim.launch("sample", 1, 128, 0, arguments![&token, &logits, 20, 1f64, 0, 1f64, 0.5f64]);
        assert_eq!(token.to_vec::<u32>(), [0]);
    });
}
