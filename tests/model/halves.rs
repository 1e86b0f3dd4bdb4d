//! What is kept in bf16 was rounded to it anyway, and what is made again is what it was: losses, gradients and weights are those of
//! f32 storage of everything, to the last bit. So are those of
//! weights that are bf16 alone, where the f32 hold the same numbers.
use crate::common::*;
use llm_train::device::{Access, Cpu, Device, Precision};
use llm_train::model::{Config, Decoder, Recompute, Shape};
use llm_train::ops::gemm::Into;
use llm_train::ops::verdict::Verdict;
use llm_train::optim::{AdamW, Hyper};
use llm_train::tensor::{Kind, Plan, Tensor};

const SHAPE: Shape = Shape { micro_batch: 2, seq: 8 };

/// The bits of three steps' losses, of their gradients, and of the weights that they leave; and what they took.
fn three_steps(c: &Config, recompute: Recompute, mut plan: Plan) -> (Vec<u64>, Vec<u32>, Vec<u32>, Plan) {
    let model = Decoder::plan(&mut plan, c, SHAPE, recompute, 1);
    let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_embeddings: true };
    let adamw = AdamW::plan(&mut plan, model.groups().to_vec(), hyper);
    let dev = cpu(&plan, Precision::Bf16);
    model.prepare(&dev);
    model.init(&dev, 5);
    let (mut losses, mut grads) = (vec![], vec![]);
    for step in 1..=3 {
        let rows = SHAPE.micro_batch * SHAPE.seq;
        let (tokens, targets) = (tokens(rows, c.vocab, step), tokens(rows, c.vocab, step + 1));
        let loss =
            dev.install(|| model.forward_backward(&dev, &input(&tokens, &targets), 1.0 / rows as f32, &mut Into::Overwrite));
        losses.push(loss.to_bits());
        grads.extend(gradients(&dev, &model).iter().map(|x| x.to_bits()));
        adamw.step(&dev, 1e-2, step as u64, Verdict::Scale(1.0));
        // weights also change by a file's hand, and by a message's
        let block = &model.groups()[1].weights;
        match step {
            1 => model.parameters().iter().step_by(3).for_each(|p| {
                let half: Vec<f32> = dev.read(p.weights).iter().map(|x| 0.5 * x).collect();
                dev.write(p.weights, &half);
            }),
            _ => {
                let mut loan = dev.lend(Tensor::range(block.start, block.end), Access::Write);
                loan.slice_mut().iter_mut().step_by(5).for_each(|x| *x = -*x);
            }
        }
    }
    let weights = model.parameters().iter().flat_map(|p| dev.read(p.weights)).map(f32::to_bits).collect();
    (losses, grads, weights, plan)
}

fn configs() -> Vec<Config> {
    let goldens = FAMILIES.map(|family| Config { context: 48, ..golden(family).config });
    let [gpt2, qwen3] = small();
    // rows of an odd number of columns stay f32
    let odd = Config { width: 5, hidden: 7, heads: 1, kv_heads: 1, head_dim: 3, ..gpt2.clone() };
    goldens.into_iter().chain([gpt2, qwen3, odd]).collect()
}

#[test]
fn storage_in_bf16_does_not_show() {
    for c in configs() {
        for recompute in [Recompute::None, Recompute::Block] {
            let what = format!("{:?}, {} columns, {recompute:?}", c.family, c.width);
            let apart = three_steps(&c, recompute, Plan::default());
            let in_f32 = three_steps(&c, recompute, Plan::default().making_again());
            let in_bf16 = three_steps(&c, recompute, Cpu::plan(Precision::Bf16));
            for (how, other) in [("one block's activation for all", &in_f32), ("bf16", &in_bf16)] {
                assert_eq!(apart.0, other.0, "{what}, {how}: losses");
                assert!(apart.1 == other.1, "{what}, {how}: gradients");
                assert!(apart.2 == other.2, "{what}, {how}: weights");
            }
            let [more, less] = [&in_f32.3, &in_bf16.3].map(|plan| plan.bytes(Kind::Activations));
            assert_eq!(less < more, c.width.is_multiple_of(2), "{what}: {less} bytes for {more}");
            let [none, copies] = [&in_f32.3, &in_bf16.3].map(|plan| plan.bytes(Kind::Parameters));
            assert!(none < copies && copies <= none / 2 * 3, "{what}: {copies} bytes for {none}");
        }
    }
}

/// n1, qkv and n2 of each block, one block's activation, and what the head reads, at two bytes a number less.
#[test]
fn what_products_read_takes_half() {
    let c = Config::preset("nano").unwrap();
    let shape = Shape { micro_batch: 4, seq: 64 };
    let bytes = |mut plan: Plan| {
        Decoder::plan(&mut plan, &c, shape, Recompute::None, 1);
        plan.bytes(Kind::Activations)
    };
    let saved = 2 * 256 * (c.layers * 5 * c.width + c.hidden + c.width);
    let in_f32 = || Plan::default().making_again();
    assert_eq!(bytes(in_f32()) - bytes(Cpu::plan(Precision::Bf16)), saved);
    assert_eq!(bytes(in_f32()), bytes(Cpu::plan(Precision::Fp32)));
    // one block's activation for all
    assert_eq!(bytes(Plan::default()) - bytes(in_f32()), 4 * 256 * (c.layers - 1) * c.hidden);
}

/// Every op that reads a weight reads the numbers that it would find in f32; and a step rounds to nearest what it computes in f32.
#[test]
fn weights_in_bf16_alone_are_read_and_updated_as_in_f32() {
    for c in configs() {
        for recompute in [Recompute::None, Recompute::Block] {
            let what = format!("{:?}, {} columns, {recompute:?}", c.family, c.width);
            let step = |mut plan: Plan| {
                let model = Decoder::plan(&mut plan, &c, SHAPE, recompute, 2);
                let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_embeddings: true };
                let adamw = AdamW::plan(&mut plan, model.groups().to_vec(), hyper);
                let dev = cpu(&plan, Precision::Bf16);
                model.prepare(&dev);
                model.init(&dev, 5);
                let weights = |dev: &Device| model.parameters().iter().flat_map(|p| dev.read(p.weights)).collect::<Vec<f32>>();
                model.parameters().iter().for_each(|p| dev.write(p.weights, &in_bf16(&dev.read(p.weights))));
                let begin = weights(&dev);
                let rows = SHAPE.micro_batch * SHAPE.seq;
                let (tokens, targets) = (tokens(rows, c.vocab, 1), tokens(rows, c.vocab, 2));
                let loss = dev.install(|| model.forward_backward(&dev, &input(&tokens, &targets), 1.0 / rows as f32, &mut ()));
                let grads = gradients(&dev, &model);
                dev.install(|| adamw.step(&dev, 1e-2, 1, Verdict::Scale(1.0)));
                assert!(weights(&dev) != begin, "{what}: a step moves weights");
                (loss, grads, in_bf16(&weights(&dev)), plan.bytes(Kind::Parameters))
            };
            let plan = || Cpu::plan(Precision::Bf16);
            let (in_f32, alone) = (step(plan()), step(plan().with_weights_in_bf16(true)));
            assert_eq!(in_f32.0.to_bits(), alone.0.to_bits(), "{what}: loss");
            assert!(in_f32.1 == alone.1, "{what}: gradients");
            assert!(in_f32.2 == alone.2, "{what}: weights");
            assert!(2 * alone.3 < in_f32.3, "{what}: {} bytes for {}", alone.3, in_f32.3);
        }
    }
}

fn in_bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}
