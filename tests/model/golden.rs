//! Six small models that transformers (PyTorch) ran: logits, loss, every gradient, ten steps of AdamW.
use crate::common::*;
use llm_train::device::{Device, Precision};
use llm_train::model::{Decoder, Recompute};
use llm_train::ops::adamw::{self, Step};
use llm_train::ops::elementwise::square_sum;
use llm_train::ops::gemm::Into;
use llm_train::ops::verdict::Verdict;
use llm_train::tensor::{Kind, Plan, Tensor};

fn logits_loss_and_gradients(family: &str, reference: bool) {
    let golden = golden(family);
    let mut plan = Plan::default();
    let decoder = Decoder::plan(&mut plan, &golden.config, SHAPE, Recompute::None, 1);
    let dev = if reference { Device::reference(&plan).unwrap() } else { cpu(&plan, Precision::Fp32) };
    decoder.prepare(&dev);
    load(&dev, &decoder, &golden.model);

    let logits = decoder.logits(&dev, &golden.input(), &mut ());
    let off = widest(&logits, &golden.expected["logits"]);
    assert!(off <= 2e-4, "{family}: logits differ by {off:e}");

    let n = golden.targets.len() as f64;
    let loss = f64::from(golden.expected["loss"][0]);
    let evaluated = decoder.loss(&dev, &golden.input(), &mut ()) / n;
    let trained = decoder.forward_backward(&dev, &golden.input(), 1.0 / n as f32, &mut ()) / n;
    assert!((evaluated - loss).abs() <= 1e-5, "{family}: loss {evaluated} {loss}");
    assert!((trained - loss).abs() <= 1e-5, "{family}: loss {trained} {loss}");

    for p in decoder.parameters() {
        let expected = &golden.expected[&format!("grad.{}", p.name)];
        let off = distance(&file_order(&dev, p, p.grads), expected);
        let limit = (1e-3 * norm(expected)).max(1e-7);
        assert!(off <= limit, "{family}: gradient of {} is off by {off:e}, {limit:e} allowed", p.name);
    }
}

/// Ten steps on one batch, as the goldens were made: returns the losses.
fn ten_steps(family: &str, precision: Precision) -> Vec<f64> {
    let golden = golden(family);
    let mut plan = Plan::default();
    let decoder = Decoder::plan(&mut plan, &golden.config, SHAPE, Recompute::Block, 3);
    let mut moments = |g: &llm_train::model::Group| [0, 1].map(|_| plan.vector(Kind::Optimizer, g.weights.len()));
    let moments: Vec<[Tensor; 2]> = decoder.groups().iter().map(&mut moments).collect();
    let dev = cpu(&plan, precision);
    decoder.prepare(&dev);
    load(&dev, &decoder, &golden.model);

    let n = golden.targets.len() as f64;
    let mut losses = vec![];
    for t in 1..=10 {
        losses.push(decoder.forward_backward(&dev, &golden.input(), 1.0 / n as f32, &mut Into::Overwrite) / n);
        let squares = decoder.groups().iter().map(|g| square_sum(&dev, Tensor::range(g.grads.start, g.grads.end)));
        let total = squares.sum::<f64>().sqrt();
        let scale = (1.0 / (total + 1e-6)).min(1.0) as f32;
        if precision == Precision::Fp32 {
            let expected = f64::from(golden.expected["adamw.norm"][t - 1]);
            assert!((total - expected).abs() <= 1e-3 * expected, "{family}: step {t}: norm {total} {expected}");
        }
        let step = Step { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, t: t as u64, verdict: Verdict::Scale(scale) };
        for (group, [m, v]) in decoder.groups().iter().zip(&moments) {
            let cut = group.decayed;
            for (from, to, decay) in [(0, cut, 0.1), (cut, group.weights.len(), 0.0)] {
                let part = |start: usize| Tensor::range(start + from, start + to);
                let (w, g) = (part(group.weights.start), part(group.grads.start));
                adamw::update(&dev, w, part(m.at), part(v.at), g, decay, &step);
            }
        }
    }
    if precision == Precision::Fp32 {
        // The goldens keep two of the final parameters.
        let kept = golden.expected.iter().filter_map(|(name, w)| Some((name.strip_prefix("adamw.param.")?, w)));
        let mut held = 0;
        for (name, expected) in kept {
            let p = decoder.parameters().iter().find(|p| p.name == name).unwrap();
            let off = distance(&file_order(&dev, p, p.weights), expected) / norm(expected);
            assert!(off <= 1e-3, "{family}: {name} after ten steps is off by {off:e}");
            held += 1;
        }
        assert_eq!(held, 2, "{family}");
    }
    losses
}

fn assert_losses(family: &str, precision: Precision, limit: f64) {
    let (losses, expected) = (ten_steps(family, precision), golden(family).expected["adamw.loss"].clone());
    let off = losses.iter().zip(&expected).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
    assert!(losses.len() == 10 && off <= limit, "{family} {precision:?}: losses {losses:?}, expected {expected:?}");
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    FAMILIES.iter().for_each(|family| logits_loss_and_gradients(family, false));
}

#[test]
fn the_reference_device_gives_the_same() {
    FAMILIES.iter().for_each(|family| logits_loss_and_gradients(family, true));
}

#[test]
fn ten_steps_of_adamw_are_those_of_pytorch() {
    FAMILIES.iter().for_each(|family| assert_losses(family, Precision::Fp32, 1e-4));
}

#[test]
fn ten_steps_in_bf16_stay_close() {
    FAMILIES.iter().for_each(|family| assert_losses(family, Precision::Bf16, 2e-2));
    // And it is bf16: the losses are not those of f32.
    assert_ne!(ten_steps("gpt2", Precision::Bf16), ten_steps("gpt2", Precision::Fp32));
}
