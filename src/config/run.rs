//! A run as meant: every field has a value that makes sense beside the others. Made by [`super::resolve`]; the loop and
//! everything around it reads this and nothing else.
use super::architecture::sizes;
use super::settings::Settings;
use super::value::Value;
use crate::bad_input;
use crate::device::Precision;
use crate::error::Result;
use crate::model::{Config, Recompute};
pub use crate::optim::Curve;
use std::path::PathBuf;

/// The whole configuration of a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub model: Model,
    pub data: Data,
    pub batch: Batch,
    pub train: Train,
    pub optim: Optim,
    pub system: System,
    pub eval: Eval,
    pub checkpoint: Checkpoint,
    pub log: Log,
    pub mlperf: Mlperf,
    /// The same as typed, to be printed and stored. Equal settings make equal runs.
    pub settings: Settings,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// As typed: a preset, a directory, or a `config.json`.
    pub name: String,
    pub config: Config,
    pub init: Init,
    /// What the `config.json` asks for that is left out harmlessly, a line each.
    pub notes: Vec<String>,
}

/// Where the first weights come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Drawn: a function of (seed, tensor name, index).
    Random,
    /// Read from this Hugging Face directory.
    Pretrained(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    pub source: Source,
    /// Made-up tokens lie below it.
    pub synthetic_vocab: usize,
    /// Held-out corpora, each evaluated by itself. Empty: no evaluation.
    pub val: Vec<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    /// Scan every token before step 1.
    pub check: bool,
    /// No attention across documents; positions restart.
    pub reset_attention: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Synthetic,
    /// At least one.
    Corpora(Vec<Corpus>),
}

/// A corpus and its share in the blend.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// A file, or the prefix of several.
    pub path: PathBuf,
    /// Above 0, not normalised. `None` for all or for none: without weights, each window of each corpus comes once an
    /// epoch, as if they were one file.
    pub weight: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// T: tokens of a sequence.
    pub seq_len: usize,
    /// B: sequences per rank and pass.
    pub micro_batch: usize,
    /// Whether B is to be as large as memory allows; until then it is 1. See [`Run::settle`].
    pub most: bool,
    /// Sequences per optimizer step, over all ranks. `None` until [`Run::validate_for`] knows the ranks.
    pub global_batch: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Train {
    pub out: PathBuf,
    pub length: Length,
    pub seed: u64,
    /// Seconds of wall clock.
    pub max_time: Option<u64>,
    /// The loss of the first held-out corpus at which the run is done, whatever its length [nats per token].
    pub target_loss: Option<f64>,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Steps(u64),
    Tokens(u64),
    Epochs(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Optim {
    pub lr: f64,
    pub min_lr: f64,
    /// `None`: one percent of the steps.
    pub warmup_steps: Option<u64>,
    pub schedule: Curve,
    pub weight_decay: f64,
    pub decay_embeddings: bool,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Largest global norm of the gradient; `None`: not clipped.
    pub clip: Option<f64>,
    /// Whether weights' numbers in bf16, working copies or the weights themselves, are rounded at random, each as likely up as it is near.
    pub stochastic_rounding: bool,
}

/// Where the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// On GPUs where every rank finds one, else on the CPU.
    Auto,
    Cpu,
    Cuda,
}

/// What carries tensors between GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// NCCL where it is there and every rank has a GPU of its own, else MPI.
    Auto,
    Nccl,
    Mpi,
}

/// What computes attention on GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// cuDNN where it is there and serves, else our own kernels.
    Auto,
    Cudnn,
    Own,
    /// Our own without tiles or tensor cores: what others are faster than.
    Plain,
}

#[derive(Clone, Debug, PartialEq)]
pub struct System {
    pub device: DeviceKind,
    pub comm: Carrier,
    pub attention: Attention,
    pub fused: bool,
    pub precision: Precision,
    /// Whether weights are bf16 alone, without f32: `bf16-true`.
    pub weights_bf16: bool,
    /// Whether gradients are rounded to bf16 on their way between GPUs, and summed so.
    pub reduce_bf16: bool,
    /// Whether sums on GPUs may be added up in any order.
    pub nondeterministic: bool,
    /// Per rank. `None`: the physical cores this rank may use.
    pub threads: Option<usize>,
    /// ZeRO stage: 0 or 1.
    pub zero: u8,
    pub recompute: Recompute,
    /// Whether ranks of a node read each other's memory, where the system has some that they can share.
    pub shared_sums: bool,
    /// Seconds that a rank waits for the others before it ends the job.
    pub patience: u64,
    /// What one device can do at best [TFLOP/s], for the utilisation (MFU); `None`: not known, none shown.
    pub peak_tflops: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// Steps between evaluations; `None`: at the end only.
    pub every: Option<u64>,
    /// Batches per evaluation; `None`: the whole corpus.
    pub batches: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps between checkpoints; `None`: at the end or when stopped.
    pub every: Option<u64>,
    /// Whether the last step is saved.
    pub at_end: bool,
    /// Newest checkpoints to keep.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps are never removed.
    pub keep_every: Option<u64>,
    pub resume: Resume,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Resume {
    /// From the newest complete checkpoint in OUT, if there is one.
    Auto,
    Never,
    /// From this checkpoint.
    From(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Steps between console lines.
    pub every: u64,
    pub json: Option<PathBuf>,
    pub mllog: Option<PathBuf>,
    pub quiet: bool,
}

/// What MLPerf's log says of a submission, and a run cannot know.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlperf {
    pub benchmark: Option<String>,
    pub division: String,
    pub org: Option<String>,
    pub platform: Option<String>,
}

impl System {
    /// As `--precision` has it.
    pub fn precision_name(&self) -> &'static str {
        if self.weights_bf16 { BF16_TRUE } else { self.precision.name() }
    }
}

/// The precision whose weights are bf16 alone: products are those of bf16.
pub const BF16_TRUE: &str = "bf16-true";

impl Run {
    /// Settles what depends on the number of ranks: the global batch defaults to micro-batch × ranks.
    ///
    /// Errors: a global batch that leaves a rank without a sequence.
    pub fn validate_for(&mut self, ranks: usize) -> Result<()> {
        if self.batch.most {
            bad_input!(
                "{}: expected a number, for nothing here tells what fits, found max",
                self.settings.named("batch.micro_batch")
            )
        }
        match self.batch.global_batch {
            Some(batch) if batch < ranks => bad_input!(
                "{}: expected at least one sequence for each of the {ranks} ranks, found {batch}",
                self.settings.named("batch.global_batch")
            ),
            Some(_) => (),
            None => {
                let batch = self.batch.micro_batch * ranks;
                self.batch.global_batch = Some(batch);
                self.settings.derive("batch.global_batch", Value::Count(batch as u64));
            }
        }
        Ok(())
    }

    /// What only a GPU can do is refused where there is none.
    pub fn validate_on_cpu(&self) -> Result<()> {
        if self.system.precision == Precision::Tf32 {
            bad_input!("{}: expected fp32, bf16 or bf16-true on the CPU, found tf32", self.settings.named("system.precision"))
        }
        if self.system.reduce_bf16 {
            bad_input!("{}: expected f32 on the CPU, found bf16", self.settings.named("system.reduce"))
        }
        if self.system.nondeterministic {
            let name = self.settings.named("system.nondeterministic");
            bad_input!("{name}: expected a GPU, for the CPU has one order of sums, found the CPU")
        }
        if self.optim.stochastic_rounding && !self.system.weights_bf16 {
            let name = self.settings.named("optim.stochastic_rounding");
            bad_input!(
                "{name}: expected --precision bf16-true, or a GPU, where weights have copies in bf16 to be rounded, found the CPU"
            )
        }
        Ok(())
    }

    /// Where a plan or a benchmark writes: not where a file says that a training run keeps its figures.
    pub fn json_of_its_own(&self) -> Option<&PathBuf> {
        self.log.json.as_ref().filter(|_| !self.settings.is_from_file("log.json"))
    }

    /// What the run's numbers are made of, for who compares runs.
    pub fn numerics(&self) -> String {
        let sums = if self.system.reduce_bf16 { "bf16" } else { "f32" };
        let rounding = match (self.system.weights_bf16, self.optim.stochastic_rounding) {
            (false, false) => "",
            (false, true) => ", weights rounded at random",
            (true, false) => ", weights in bf16 rounded to nearest",
            (true, true) => ", weights in bf16 rounded at random",
        };
        let order = if self.system.nondeterministic { "nondeterministic" } else { "deterministic" };
        format!("{} products, gradients reduced in {sums}{rounding}, {order}", self.system.precision.name())
    }

    /// Decides the micro-batch where it was left open.
    pub fn settle(&mut self, micro_batch: usize) {
        (self.batch.micro_batch, self.batch.most) = (micro_batch, false);
        self.settings.derive("batch.micro_batch", Value::Count(micro_batch as u64));
    }

    /// Sequences per optimizer step. Panics before [`Run::validate_for`].
    pub fn global_batch(&self) -> usize {
        self.batch.global_batch.expect("validate_for comes first")
    }

    /// Target tokens of one optimizer step. Panics before [`Run::validate_for`].
    pub fn tokens_per_step(&self) -> u64 {
        self.global_batch() as u64 * self.batch.seq_len as u64
    }

    /// Optimizer steps of the whole run over corpora of `windows` windows (any number for synthetic data).
    ///
    /// Errors: a warm-up longer than the run.
    pub fn steps(&self, windows: u64) -> Result<u64> {
        let steps = self.train.length.resolve(windows, self.global_batch() as u64, self.batch.seq_len as u64);
        let warmup = self.warmup_steps(steps);
        if warmup > steps {
            let name = self.settings.named("optim.warmup_steps");
            bad_input!("{name}: expected at most the run's {steps} steps, found {warmup} (--warmup-steps gives another number)")
        }
        Ok(steps)
    }

    /// Steps of linear warm-up in a run of `steps`.
    pub fn warmup_steps(&self, steps: u64) -> u64 {
        self.optim.warmup_steps.unwrap_or(steps / 100)
    }

    /// The resolved configuration: valid TOML that gives the same run when fed back as `--config`. What a model's preset
    /// or file decides stands in comments.
    pub fn to_toml(&self) -> String {
        self.settings.to_toml(&|key| self.remark(key), false)
    }

    /// As [`Run::to_toml`], with comments that say who gave each value that is not a default.
    pub fn describe(&self) -> String {
        self.settings.to_toml(&|key| self.remark(key), true)
    }

    /// The same for machines: every key, those without a value `null`, and the model's shape filled in.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.settings.to_json();
        for (key, number) in sizes(&self.model.config) {
            json["model"][key] = number.into();
        }
        json
    }

    /// Words for a key without a value, where the table's own would mislead.
    fn remark(&self, key: &str) -> Option<String> {
        if ["train.steps", "train.tokens", "train.epochs"].contains(&key) {
            return Some("not used".to_string());
        }
        let name = key.strip_prefix("model.")?;
        sizes(&self.model.config).iter().find(|(k, _)| *k == name).map(|(_, n)| n.to_string())
    }
}

impl Length {
    /// Optimizer steps, at least one: an incomplete last step is a step.
    pub fn resolve(self, windows: u64, global_batch: u64, seq_len: u64) -> u64 {
        match self {
            Length::Steps(steps) => steps,
            Length::Tokens(tokens) => tokens.div_ceil(global_batch * seq_len).max(1),
            Length::Epochs(epochs) => ((epochs * windows as f64 / global_batch as f64).ceil() as u64).max(1),
        }
    }
}
