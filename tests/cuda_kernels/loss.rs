//! Softmax cross-entropy: losses, gradients in the logits' place, masked rows, padded columns.
use crate::arguments;
use crate::numbers::{Answers, assert_close, assert_within, choices, random};
use crate::simulator::{Buffer, each_real, mutated};
use llm_train::ops::{MASKED, loss};

const SCALE: f32 = 0.25;

#[test]
fn loss() {
    let shapes: &[(usize, usize, usize, usize)] = if mutated() {
        &[(3, 1003, 1024, 64), (3, 13, 13, 64)]
    } else {
        &[(1, 1, 1, 32), (3, 7, 7, 32), (3, 13, 128, 64), (4, 1003, 1024, 64), (2, 2500, 2560, 1024), (3, 300, 301, 32)]
    };
    each_real(|sim| {
        for &(n, vocab, padded, block) in shapes {
            let what = format!("cross-entropy ({n}, {vocab} of {padded})");
            // Padding holds what must not count. Logits of the first row are small, those of the others overflow unless the
            // maximum is taken off.
            let spread = |i: usize| if i < padded { 2.0 } else { 60.0 };
            let mut z: Vec<f32> = random("z", n * padded).iter().enumerate().map(|(i, z)| spread(i) * z).collect();
            z.chunks_mut(padded).for_each(|z| z[vocab..].fill(1e4));
            let z = sim.rounded(&z);
            let mut targets = choices("targets", n, vocab);
            targets[n / 2] = if n > 1 { MASKED } else { targets[0] };

            let ts = Buffer::of(&targets);
            let got = sim.in_every_order(|| {
                let (logits, losses, only) = (sim.real(&z), Buffer::fresh(4 * n), Buffer::fresh(4 * n));
                let total = Buffer::of(&[0.5f64]);
                sim.launch("cross_entropy_only", n, block, 0, arguments![&only, &logits, &ts, vocab, padded]);
                sim.launch("cross_entropy", n, block, 0, arguments![&logits, &losses, &ts, vocab, padded, SCALE]);
                sim.launch("sum_losses", 1, 256, 0, arguments![&total, &losses, n]);
                vec![logits, losses, only, total]
            });
            let losses = got[1].to_vec::<f32>();
            assert_eq!(losses, got[2].to_vec::<f32>(), "{what}: with and without the gradient");
            let mut sum = 0.0;
            for (n, target) in targets.iter().enumerate() {
                let mut answers = Answers::default();
                let logits = answers.put(1, padded, &z[n * padded..][..padded]);
                let dev = answers.device();
                let want = loss::cross_entropy(&dev, logits, logits, &[*target], vocab, SCALE);
                sum += want;
                assert_within(&format!("{what}: loss of row {n}"), &losses[n..n + 1], &[want as f32], 2e-6, 1e-6);
                let gradient = &sim.floats(&got[0])[n * padded..][..padded];
                assert_close(&format!("{what}: gradient of row {n}"), gradient, &dev.read(logits), sim.real);
                assert!(gradient[vocab..].iter().all(|g| *g == 0.0), "{what}: gradient of padding");
            }
            assert_within(&what, &[got[3].to_vec::<f64>()[0] as f32], &[(sum + 0.5) as f32], 1e-5, 0.0);
        }
    });
}

#[test]
fn a_nan_reaches_the_loss() {
    each_real(|sim| {
        for at in [0, 5, 63] {
            let mut z = random("z", 64);
            z[at] = f32::NAN;
            let (logits, losses, targets) = (sim.real(&z), Buffer::fresh(4), Buffer::of(&[1u32]));
            sim.launch("cross_entropy", 1, 32, 0, arguments![&logits, &losses, &targets, 64, 64, SCALE]);
            assert!(losses.to_vec::<f32>()[0].is_nan(), "NaN at {at}");
        }
    });
}

#[test]
fn many_losses_are_summed_in_double() {
    each_real(|sim| {
        let losses: Vec<f32> = random("losses", 3000).iter().map(|l| l + 10.0).collect();
        let buffer = Buffer::of(&losses);
        let got = sim.in_every_order(|| {
            let total = Buffer::of(&[0f64]);
            sim.launch("sum_losses", 1, 256, 0, arguments![&total, &buffer, losses.len()]);
            vec![total]
        });
        let want: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        assert!((got[0].to_vec::<f64>()[0] - want).abs() < 1e-12 * want);
    });
}
