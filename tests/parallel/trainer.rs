//! A small training run on the ranks of a world, as `commands/train.rs` has it, without what surrounds it.
use llm_train::comm::Collective;
use llm_train::commands::count;
use llm_train::data::{Data, Reading, Share};
use llm_train::device::{Cpu, Device, Memory, Precision, Rounding};
use llm_train::model::{Config, Decoder, Input, Recompute, Shape};
use llm_train::optim::{AdamW, Hyper};
use llm_train::parallel::{self, Clock, Parallel, Stage};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub micro_batch: usize,
    pub global_batch: usize,
    pub seq: usize,
    pub stage: Stage,
    pub recompute: Recompute,
    pub steps: u64,
    pub precision: Precision,
    /// Weights are bf16 alone, and rounded at random.
    pub weights_bf16: bool,
}

/// What is left after a run.
pub struct Outcome {
    /// Without padding, in the order of the files.
    pub weights: Vec<f32>,
    /// Σ of the loss and the gradient's norm, step by step.
    pub told: Vec<f64>,
    pub clocks: Vec<(Clock, Duration)>,
}

/// By messages.
pub fn train(world: &dyn Collective, config: &Config, case: &Case) -> Outcome {
    train_in(world, config, case, |_| None)
}

/// With weights and gradients in memory that `share` gives for so many words.
pub fn train_in(world: &dyn Collective, config: &Config, case: &Case, share: impl FnOnce(usize) -> Option<Memory>) -> Outcome {
    let Case { micro_batch, global_batch, seq, stage, recompute, steps, precision, weights_bf16 } = *case;
    let (rank, ranks) = (world.rank(), world.size());
    let mut plan = Cpu::plan(precision).with_weights_in_bf16(weights_bf16);
    let model = Decoder::plan(&mut plan, config, Shape { micro_batch, seq }, recompute, ranks);
    let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_embeddings: true };
    let optim = AdamW::plan(&mut plan, parallel::owned(model.groups(), stage, rank, ranks), hyper);
    let front = share(count::front(&plan, &model));
    let mut dev = Device::cpu_in(front, &plan, 1, &[], precision).unwrap();
    if weights_bf16 {
        dev.round_at_random(Rounding::new(1, model.groups().iter().map(|g| &g.weights)));
    }
    let reading = Reading { seq, vocab: config.vocab, width: None, eos: None, reset_attention: false };
    let data = Data::synthetic(1, &reading);
    let share = Share { rank, ranks, micro_batch, global_batch };
    let targets = share.targets(seq) as f64;
    dev.install(|| {
        model.prepare(&dev);
        model.init(&dev, 1);
        let mut parallel = Parallel::new(&dev, world, model.groups(), stage);
        let (mut told, mut clocks) = (vec![], vec![]);
        for step in 0..steps {
            let (mut loss, busy) = (0.0, world.busy());
            parallel.begin();
            for micro in 0..share.micro_steps() {
                let batch = data.batch(step * global_batch as u64, micro, &share).unwrap();
                let input = Input { tokens: &batch.tokens, targets: &batch.targets, starts: None, positions: None };
                let mut on = parallel.listen(micro == 0, micro + 1 == share.micro_steps());
                loss += model.forward_backward(&dev, &input, (1.0 / targets) as f32, &mut on);
            }
            let verdict = parallel.settle(loss, 0.0, 0.0, Some(1.0));
            optim.step(&dev, 1e-3, step + 1, verdict);
            parallel.publish();
            parallel.end();
            let settled = parallel.settled(true).expect("a CPU knows at once");
            assert_eq!(settled.not_finite, None);
            told.extend([settled.loss / targets, settled.norm]);
            clocks.push((settled.clock, world.busy() - busy));
        }
        parallel.finish();
        let weights = model.parameters().iter().flat_map(|p| dev.read(p.weights)).collect();
        Outcome { weights, told, clocks }
    })
}
