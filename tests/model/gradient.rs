//! Gradients of the whole model against finite differences in f64; what must not change them, and what must.
use crate::common::*;
use llm_train::device::{Device, Precision};
use llm_train::model::{Config, Decoder, Input, Recompute, Shape};
use llm_train::ops::MASKED;
use llm_train::ops::gemm::Into;
use llm_train::tensor::{Plan, Tensor};

fn reference(c: &Config, shape: Shape) -> (Device, Decoder) {
    let mut plan = Plan::default();
    let decoder = Decoder::plan(&mut plan, c, shape, Recompute::None, 1);
    let dev = Device::reference(&plan).unwrap();
    decoder.prepare(&dev);
    decoder.init(&dev, 3);
    // Far from zero, and biases and gains from their first values, so that nothing is nearly linear.
    for (salt, p) in decoder.parameters().iter().enumerate() {
        let values = dev.read(p.weights);
        let bend = |(i, w): (usize, &f32)| 8.0 * w.clamp(-0.06, 0.06) + 0.3 * ((i * 37 + salt * 11) as f32).sin();
        dev.write(p.weights, &values.iter().enumerate().map(bend).collect::<Vec<_>>());
    }
    (dev, decoder)
}

fn element(dev: &Device, at: usize, f: impl Fn(f64) -> f64) -> f64 {
    let Device::Reference(d) = dev else { panic!("in f64") };
    d.arena.op([Tensor::range(at, at + 1)], [], |[x], []| {
        x[0] = f(x[0]);
        x[0]
    })
}

fn finite_differences(c: &Config, starts: Option<&[u32]>, positions: Option<&[u32]>) {
    let (dev, decoder) = reference(c, Shape { micro_batch: 2, seq: 6 });
    let (tokens, mut targets) = (tokens(12, c.vocab, 0), tokens(12, c.vocab, 1));
    targets[4] = MASKED;
    let input = Input { tokens: &tokens, targets: &targets, starts, positions };
    decoder.forward_backward(&dev, &input, 1.0, &mut ());

    let e = 1e-3;
    let loss_at = |at: usize, shift: f64| {
        let before = element(&dev, at, |x| x);
        element(&dev, at, |x| x + shift);
        let loss = decoder.loss(&dev, &input, &mut ());
        element(&dev, at, |_| before);
        loss
    };
    for p in decoder.parameters() {
        let (mut off, mut size) = (0.0, 0.0);
        for i in (0..p.weights.len()).step_by(p.weights.len().div_ceil(16)) {
            let at = p.weights.at + i;
            // Five points: exact to e⁴.
            let near = loss_at(at, e) - loss_at(at, -e);
            let far = loss_at(at, 2.0 * e) - loss_at(at, -2.0 * e);
            let numeric = (8.0 * near - far) / (12.0 * e);
            let analytic = element(&dev, p.grads.at + i, |x| x);
            off += (analytic - numeric) * (analytic - numeric);
            size += numeric * numeric;
        }
        let (off, size) = (f64::sqrt(off), f64::sqrt(size));
        // GPT-2's key biases shift every score of a row alike: no gradient at all.
        assert!(off <= 1e-7 * size + 1e-10, "{:?}: {}: off by {off:e} of {size:e}", c.family, p.name);
    }
}

#[test]
fn gradients_are_finite_differences() {
    for c in small() {
        finite_differences(&c, None, None);
        // Two documents in the first sequence, one in the second.
        let (starts, positions) = ([0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]);
        finite_differences(&c, Some(&starts), Some(&positions));
    }
}

#[test]
fn recomputation_changes_memory_and_not_a_bit_of_the_gradients() {
    let run = |c: &Config, recompute| {
        let (dev, decoder) = build(c, Shape { micro_batch: 2, seq: 32 }, recompute, 1);
        let (x, y) = (tokens(64, c.vocab, 0), tokens(64, c.vocab, 1));
        let loss = decoder.forward_backward(&dev, &input(&x, &y), 1.0, &mut ());
        (loss, gradients(&dev, &decoder))
    };
    for family in FAMILIES {
        let c = golden(family).config;
        assert!(run(&c, Recompute::None) == run(&c, Recompute::Block), "{family}");
    }
}

#[test]
fn masked_rows_contribute_nothing() {
    for c in small() {
        let (x, y) = (tokens(24, c.vocab, 0), tokens(24, c.vocab, 1));
        let (dev, one) = reference(&c, Shape { micro_batch: 3, seq: 8 });
        let masked: Vec<u32> = y[..8].iter().copied().chain([MASKED; 16]).collect();
        let loss = one.forward_backward(&dev, &input(&x, &masked), 1.0, &mut ());
        let (alone_dev, alone) = reference(&c, Shape { micro_batch: 1, seq: 8 });
        let expected = alone.forward_backward(&alone_dev, &input(&x[..8], &y[..8]), 1.0, &mut ());
        assert!((loss - expected).abs() < 1e-12 * expected, "{loss} {expected}");
        assert_eq!(gradients(&dev, &one), gradients(&alone_dev, &alone));
    }
}

#[test]
fn documents_in_one_sequence_are_separate_sequences() {
    for c in small() {
        let (x, y) = (tokens(8, c.vocab, 0), tokens(8, c.vocab, 1));
        let (starts, positions) = ([0, 0, 0, 3, 3, 3, 3, 3], [0, 1, 2, 0, 1, 2, 3, 4]);
        let (dev, together) = reference(&c, Shape { micro_batch: 1, seq: 8 });
        let packed = Input { tokens: &x, targets: &y, starts: Some(&starts), positions: Some(&positions) };
        let loss = together.forward_backward(&dev, &packed, 1.0, &mut ());

        let (apart_dev, apart) = reference(&c, Shape { micro_batch: 2, seq: 8 });
        let (mut tokens, mut targets) = ([0; 16], [MASKED; 16]);
        for (to, from) in [(0..3, 0..3), (8..13, 3..8)] {
            tokens[to.clone()].copy_from_slice(&x[from.clone()]);
            targets[to].copy_from_slice(&y[from]);
        }
        let expected = apart.forward_backward(&apart_dev, &input(&tokens, &targets), 1.0, &mut ());
        assert!((loss - expected).abs() < 1e-12 * expected, "{loss} {expected}");
        let (a, b) = (gradients(&dev, &together), gradients(&apart_dev, &apart));
        assert!(distance(&a, &b) <= 1e-6 * norm(&b), "{}", distance(&a, &b));
        // Without the starts the second document would have seen the first.
        let blind = together.forward_backward(&dev, &input(&x, &y), 1.0, &mut ());
        assert!((blind - expected).abs() > 1e-6);
    }
}

#[test]
fn gradients_add_up_and_scale() {
    for c in small() {
        let (dev, decoder) = build(&c, Shape { micro_batch: 1, seq: 8 }, Recompute::None, 1);
        let (x, y) = (tokens(8, c.vocab, 0), tokens(8, c.vocab, 1));
        decoder.forward_backward(&dev, &input(&x, &y), 1.0, &mut ());
        let once = gradients(&dev, &decoder);
        decoder.forward_backward(&dev, &input(&x, &y), 0.5, &mut ());
        let more: Vec<f32> = once.iter().map(|g| 1.5 * g).collect();
        assert!(distance(&gradients(&dev, &decoder), &more) <= 1e-6 * norm(&more));
    }
}

/// What was there before a step's first micro-batch does not show, whatever it was.
#[test]
fn the_first_gradients_of_a_step_are_written() {
    for c in FAMILIES.map(|f| golden(f).config).into_iter().chain(small()) {
        let build = || build(&c, Shape { micro_batch: 2, seq: 8 }, Recompute::None, 2);
        let ((zeros, added), (dev, written)) = (build(), build());
        let (x, y) = (tokens(16, c.vocab, 0), tokens(16, c.vocab, 1));
        added.forward_backward(&zeros, &input(&x, &y), 1.0, &mut ());
        for p in written.parameters() {
            dev.write(p.grads, &vec![f32::NAN; p.grads.len()]);
        }
        written.forward_backward(&dev, &input(&x, &y), 1.0, &mut Into::Overwrite);
        assert!(gradients(&dev, &written) == gradients(&zeros, &added), "{:?}", c.family);
    }
}

#[test]
fn rows_past_the_vocabulary_stay_zero() {
    for c in small() {
        let (dev, decoder) = build(&c, Shape { micro_batch: 2, seq: 8 }, Recompute::None, 1);
        let (x, y) = (tokens(16, c.vocab, 0), tokens(16, c.vocab, 1));
        decoder.forward_backward(&dev, &input(&x, &y), 1.0, &mut ());
        for p in decoder.parameters().iter().filter(|p| p.shape[0] == c.vocab) {
            for place in [p.weights, p.grads] {
                let padding = Tensor::range(place.end(), place.at + c.vocab_rows() * c.width);
                assert!(!padding.is_empty() && dev.read(padding).iter().all(|x| *x == 0.0), "{}", p.name);
            }
        }
    }
}

#[test]
fn a_plan_for_inference_gives_the_same_loss() {
    for family in FAMILIES {
        let golden = golden(family);
        let mut plan = Plan::default();
        let decoder = Decoder::plan_inference(&mut plan, &golden.config, SHAPE, 1);
        let dev = cpu(&plan, Precision::Fp32);
        decoder.prepare(&dev);
        load(&dev, &decoder, &golden.model);
        let loss = decoder.loss(&dev, &golden.input(), &mut ()) / golden.targets.len() as f64;
        assert!((loss - f64::from(golden.expected["loss"][0])).abs() <= 1e-5, "{family}: {loss}");
        assert_eq!(plan.bytes(llm_train::tensor::Kind::Gradients), 0);
    }
}
