//! `llm-train eval`: the loss of a model on held-out text, windows in order.
//!
//! ```text
//! loss = Σ −log p(target) / targets        perplexity = e^loss        bits per byte = Σ −log₂ p / Σ bytes of the targets
//! ```
//! [`Evaluator`] is also what the training loop calls every `--eval-every` steps: each rank takes its share of the
//! windows, and the sums are added in rank order.
use crate::checkpoint;
use crate::commands::alone::Alone;
use crate::commands::cli::EvalArgs;
use crate::commands::generate::config_of;
use crate::commands::gpu;
use crate::commands::{check_json, say, write_json};
use crate::data::{self, Data, Order, Reading, Share};
use crate::device::Device;
use crate::error::Result;
use crate::model::{Decoder, Input, Schedule, Shape};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A held-out corpus, opened, and how its windows are divided.
pub struct Evaluator {
    /// The file's name, which is its group's in `metrics.h5`.
    pub name: String,
    data: Data,
    token_bytes: Option<Vec<u32>>,
    share: Share,
    batches: u64,
}

/// Sums over the windows that one rank evaluated; those of all ranks add up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Σ −ln p(target).
    pub loss: f64,
    pub targets: f64,
    /// Bytes of text of the targets; 0 where no tokenizer tells.
    pub bytes: f64,
}

impl Sums {
    /// With another rank's [loss, targets, bytes].
    pub fn plus(self, other: &[f64]) -> Sums {
        Sums { loss: self.loss + other[0], targets: self.targets + other[1], bytes: self.bytes + other[2] }
    }
    /// Mean loss in nats per token.
    pub fn mean(&self) -> f64 {
        self.loss / self.targets
    }
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| self.loss / std::f64::consts::LN_2 / self.bytes)
    }
    pub fn bytes_per_token(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| self.bytes / self.targets)
    }
}

impl Evaluator {
    /// `batches` global batches of `share`, windows in order; `None`: the whole corpus.
    pub fn open(
        path: &Path,
        reading: &Reading,
        tokenizer: Option<&Path>,
        share: Share,
        batches: Option<u64>,
    ) -> Result<Evaluator> {
        let data = Data::open(&[path.display().to_string()], Order::AsWritten, reading)?;
        let all = data.windows().unwrap_or(0).div_ceil(share.global_batch as u64);
        let tokenizer: Option<PathBuf> = tokenizer.map(Path::to_path_buf).or_else(|| data::tokenizer_of(path));
        let token_bytes = tokenizer.map(|t| data::token_bytes(&t)).transpose()?;
        let name = path.file_name().map_or_else(|| "val".into(), |n| n.to_string_lossy().into_owned());
        Ok(Evaluator { name, data, token_bytes, share, batches: batches.map_or(all, |b| b.min(all)) })
    }

    /// Windows that [`Evaluator::run`] reads on all ranks together.
    pub fn samples(&self) -> u64 {
        self.data.windows().unwrap_or(0).min(self.batches * self.share.global_batch as u64)
    }

    /// Mean bytes of text behind a target, over all windows that [`Evaluator::run`] reads on all ranks together.
    pub fn bytes_per_token(&self) -> Result<Option<f64>> {
        let Some(table) = &self.token_bytes else { return Ok(None) };
        let (mut bytes, mut targets) = (0, 0);
        let one = Share { rank: 0, ranks: 1, micro_batch: 1, global_batch: 1 };
        let mut rows = crate::data::Batch::default();
        for window in 0..self.samples() {
            self.data.fill(window, 0, &one, &mut rows)?;
            bytes += data::bytes_of(&rows.targets, table);
            targets += rows.targets.len();
        }
        Ok((bytes > 0).then(|| bytes as f64 / targets as f64))
    }

    /// Reads this rank's windows, so that a token that the vocabulary lacks ends the run before its first step and not at
    /// its first evaluation.
    pub fn check(&self) -> Result<()> {
        self.batches().try_for_each(|(first, micro, share)| self.data.batch(first, micro, &share).map(|_| ()))
    }

    /// The first window, the pass and the share of each batch: the last global batch may be short.
    fn batches(&self) -> impl Iterator<Item = (u64, usize, Share)> + '_ {
        let (windows, size) = (self.data.windows().unwrap_or(0), self.share.global_batch as u64);
        let passes = move |batch: u64| {
            let first = batch * size;
            let left = windows.saturating_sub(first).min(size) as usize;
            let share = Share { global_batch: left, ..self.share };
            (0..self.share.micro_steps()).map(move |micro| (first, micro, share))
        };
        (0..self.batches).flat_map(passes)
    }

    /// How many forward passes it takes this rank.
    pub fn passes(&self) -> u64 {
        self.batches * self.share.micro_steps() as u64
    }

    /// This rank's sums with the weights as they are.
    pub fn run(&self, dev: &Device, model: &Decoder, on: &mut impl Schedule) -> Result<Sums> {
        let mut sums = Sums::default();
        for (first, micro, share) in self.batches() {
            let rows = self.data.batch(first, micro, &share)?;
            let targets = rows.target_count();
            if targets == 0 {
                continue;
            }
            let input = Input {
                tokens: &rows.tokens,
                targets: &rows.targets,
                starts: rows.starts.as_deref(),
                positions: rows.positions.as_deref(),
            };
            sums.loss += model.loss(dev, &input, on);
            sums.targets += targets as f64;
            sums.bytes += self.token_bytes.as_ref().map_or(0, |table| data::bytes_of(&rows.targets, table)) as f64;
        }
        Ok(sums)
    }
}

pub fn run(args: &EvalArgs) -> Result<()> {
    check_json(args.json.as_ref())?;
    let alone = Alone::choose(&args.device, &args.precision, args.threads)?;
    let config = config_of(&args.model)?;
    let seq = args.seq_len.map_or(config.context, |n| n as usize);
    config.validate(seq)?;
    let micro_batch = args.micro_batch as usize;
    let reading = Reading { seq, vocab: config.vocab, width: None, eos: config.eos.first().copied(), reset_attention: false };
    let share = Share { rank: 0, ranks: 1, micro_batch, global_batch: micro_batch };
    let batches = (args.eval_batches > 0).then_some(args.eval_batches);
    let beside = args.model.join("tokenizer.json");
    let tokenizer = args.tokenizer.as_deref().or_else(|| beside.is_file().then_some(beside.as_path()));
    let corpora = args.data.iter().map(|path| Evaluator::open(path, &reading, tokenizer, share, batches));
    let corpora = corpora.collect::<Result<Vec<_>>>()?;

    let mut plan = alone.plan();
    let model = Decoder::plan_inference(&mut plan, &config, Shape { micro_batch, seq }, 1);
    let dev = alone.open(&plan, &gpu::extent(&model, 1))?;
    // What pads the vocabulary belongs to no file, and fresh memory may hold anything.
    dev.clear(std::iter::once(model.weights_range()));
    let results = dev.install(|| {
        checkpoint::load_weights(&args.model, &dev, model.parameters())?;
        model.prepare(&dev);
        corpora.iter().map(|c| c.run(&dev, &model, &mut ())).collect::<Result<Vec<_>>>()
    })?;
    let mut json_results = vec![];
    for (corpus, sums) in corpora.iter().zip(&results) {
        let (loss, bits) = (sums.mean(), sums.bits_per_byte());
        let per_byte = bits.map_or(String::new(), |b| format!(" bits_per_byte {b:.4}"));
        let (name, perplexity, targets) = (&corpus.name, loss.exp(), sums.targets as u64);
        say(format_args!("eval {name} loss {loss:.6} perplexity {perplexity:.4}{per_byte} targets {targets}"));
        json_results.push(json!({ "name": name, "loss": loss, "perplexity": perplexity, "bits_per_byte": bits,
                                  "targets": targets, "bytes": (sums.bytes > 0.0).then_some(sums.bytes as u64) }));
    }
    if let Some(file) = &args.json {
        let mut all = json_results[0].clone();
        all["device"] = json!(alone.name());
        all["corpora"] = json!(json_results);
        write_json(file, &all)?;
    }
    Ok(())
}
