//! The table of keys: everything a run can be told, once. The options of the command line, the sections of the TOML
//! file, `--set section.key=value`, the help and the printed configuration are all read from here.
//!
//! ```text
//! key       optim.lr        in a file:  [optim]          --set optim.lr=3e-4        --lr 3e-4
//!                                       lr = 3e-4
//! ```
//! To add a key: one line here, one field in [`super::run::Run`], one line in [`super::resolve`] that fills it.

/// One thing that can be set.
#[derive(Debug)]
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// The option's name on the command line, without the dashes. Empty: a key of the file and of `--set` only.
    pub flag: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// For the help: what it does, with its unit. Of a switch that is on by itself: what it gives.
    pub help: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number in `least ..= most`. On the command line also `10_000`, `1e9`, `300M`, `10B`.
    Count {
        least: u64,
        most: u64,
    },
    /// The same, or the word `max`: as many as fit.
    CountOrMax {
        least: u64,
        most: u64,
    },
    Number(Range),
    /// `true` or `false`. On the command line the bare option means `true`, and this other option `false`.
    Switch(&'static str),
    /// Text that is not empty, and how the help writes it.
    Text(&'static str),
    /// One of several words: `fp32|tf32|bf16`.
    Choice(&'static str),
    /// Seconds, or `90m`, `2h30m`, `HH:MM:SS`.
    Time,
    /// One or several texts.
    List(&'static str),
}

/// Finite numbers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// x > 0
    Positive,
    /// x ≥ 0
    NotNegative,
    /// 0 ≤ x < 1
    Fraction,
    /// 0 < x ≤ 1
    Share,
}

/// What holds when nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// A value, as one would type it.
    Is(&'static str),
    /// No value of its own; the words say what is done instead.
    Else(&'static str),
    /// Somebody must say; the words say so.
    Needed(&'static str),
}

/// The sections in the order of the help and of the printed file, with their headings.
pub const SECTIONS: &[(&str, &str)] = &[
    ("model", "Model"),
    ("data", "Data"),
    ("batch", "Batch"),
    ("train", "Length and place of the run"),
    ("optim", "Optimizer"),
    ("system", "System"),
    ("eval", "Evaluation"),
    ("checkpoint", "Checkpoints"),
    ("log", "Output"),
    ("mlperf", "MLPerf's log"),
];

use self::Default::{Else, Is, Needed};
use Kind::{Choice, Count, CountOrMax, List, Number, Switch, Text, Time};
use Range::{Fraction, NotNegative, Positive, Share};

/// Structural: products of two such numbers stay within 62 bits.
const MANY: u64 = (1 << 31) - 1;
/// A step number, a number of tokens, a seed: what a TOML integer holds.
const ANY: Kind = Count { least: 0, most: i64::MAX as u64 };
const SOME: Kind = Count { least: 1, most: i64::MAX as u64 };
/// Structural: a model's matrices, 4 bytes an element, stay within 62 bits.
const WIDE: Kind = Count { least: 1, most: 1 << 24 };
const DEEP: Kind = Count { least: 1, most: 1 << 12 };
const ROWS: Kind = Count { least: 1, most: MANY };
const FILE: Kind = Text("FILE");
const DIR: Kind = Text("DIR");

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("model", "name", "model", Text("MODEL"), Needed("required"),
        "A preset (listed below), a Hugging Face directory or a config.json"),
    key("model", "init", "init", Choice("random|pretrained"), Is("random"),
        "First weights: drawn from the seed, or read from the directory"),
    key("model", "layers", "layers", DEEP, Else("the model's"), "Blocks"),
    key("model", "width", "width", WIDE, Else("the model's"), "Width of the residual stream"),
    key("model", "heads", "heads", WIDE, Else("the model's"), "Query heads"),
    key("model", "kv_heads", "kv-heads", WIDE, Else("the model's"), "Key/value heads"),
    key("model", "head_dim", "head-dim", WIDE, Else("width / heads"), "Width of one head"),
    key("model", "hidden", "hidden", WIDE, Else("in proportion to the width"), "Width inside the MLP"),
    key("model", "vocab", "vocab", WIDE, Else("the model's"), "Tokens in the vocabulary"),
    key("model", "context", "context", WIDE, Else("the model's"), "Longest sequence, in tokens"),

    key("data", "train", "data", List("FILE[:WEIGHT]"), Needed("required, or --synthetic-data"),
        "Training corpora (file or prefix) and their shares in the blend"),
    key("data", "val", "val-data", List("FILE"), Else("no evaluation"), "Held-out corpora, each evaluated by itself"),
    key("data", "synthetic", "synthetic-data", Switch("no-synthetic-data"), Is("false"), "Train on made-up tokens; no corpus is read"),
    key("data", "synthetic_vocab", "synthetic-vocab", WIDE, Else("the model's vocabulary"), "Made-up tokens lie in [0, N)"),
    key("data", "tokenizer", "tokenizer", FILE, Else("the one beside the model or corpus, if any"),
        "tokenizer.json, to go with checkpoints and to count bytes"),
    key("data", "check", "check-data", Switch("no-check-data"), Is("false"), "Scan all tokens of the corpora before step 1"),
    key("data", "reset_attention", "reset-attention", Switch("no-reset-attention"), Is("false"),
        "No attention across documents; positions restart in each"),

    key("batch", "seq_len", "seq-len", ROWS, Else("the model's context"), "Length of a sequence, in tokens"),
    key("batch", "micro_batch", "micro-batch", CountOrMax { least: 1, most: MANY }, Is("8"),
        "Sequences per rank and pass; max: as many as fit the memory"),
    key("batch", "global_batch", "global-batch", ROWS, Else("micro-batch × ranks"),
        "Sequences per optimizer step; accumulation follows"),

    key("train", "out", "out", DIR, Is("runs/latest"), "Directory for metrics.h5 and checkpoints/"),
    key("train", "steps", "steps", SOME, Else("one epoch; 100 on made-up tokens"), "Length in optimizer steps"),
    key("train", "tokens", "tokens", SOME, Else("see --steps"), "Length in tokens instead, such as 10B"),
    key("train", "epochs", "epochs", Number(Positive), Else("see --steps"), "Length in passes over the corpora instead"),
    key("train", "seed", "seed", ANY, Is("1"), "Seed of initial weights and of the order of samples"),
    key("train", "max_time", "max-time", Time, Else("Slurm's limit, if any"),
        "Save and exit 75 in time: 3600 (s), 90m, 2h30m or HH:MM:SS"),
    key("train", "target_loss", "target-loss", Number(Positive), Else("none: all steps are done"),
        "End once the first held-out corpus has this loss, in nats per token"),

    key("optim", "lr", "lr", Number(Positive), Is("3e-4"), "Peak learning rate"),
    key("optim", "min_lr", "min-lr", Number(NotNegative), Else("0.1 × lr"), "Learning rate at the end"),
    key("optim", "warmup_steps", "warmup-steps", ANY, Else("1 % of the steps"), "Steps of linear warm-up"),
    key("optim", "schedule", "schedule", Choice("cosine|linear|constant|wsd"), Is("cosine"),
        "cosine, linear, constant or wsd (constant, then linear)"),
    key("optim", "wsd_decay", "wsd-decay", Number(Share), Is("0.2"), "Share of the steps in which wsd decays"),
    key("optim", "weight_decay", "weight-decay", Number(NotNegative), Is("0.1"), "Decoupled decay of matrices; vectors have none"),
    key("optim", "decay_embeddings", "decay-embeddings", Switch("no-decay-embeddings"), Is("true"), "Weight decay of embeddings"),
    key("optim", "beta1", "beta1", Number(Fraction), Is("0.9"), "AdamW's first moment"),
    key("optim", "beta2", "beta2", Number(Fraction), Is("0.95"), "AdamW's second moment"),
    key("optim", "eps", "eps", Number(Positive), Is("1e-8"), "AdamW's ε"),
    key("optim", "clip", "clip", Number(NotNegative), Is("1.0"), "Largest norm of the whole gradient; 0: no clipping"),
    key("optim", "stochastic_rounding", "stochastic-rounding", Switch("no-stochastic-rounding"), Else("with bf16-true"),
        "Updates of bf16-true, on GPUs also copies of bf16, are rounded at random"),

    key("system", "device", "device", Choice("auto|cpu|cuda"), Is("auto"), "Where the work is done"),
    key("system", "comm", "comm", Choice("auto|nccl|mpi"), Is("auto"),
        "What carries gradients between GPUs; mpi: through the hosts' memory"),
    key("system", "attention", "attention", Choice("auto|cudnn|own|plain"), Is("auto"),
        "What computes attention on GPUs; own: our kernels; plain: row by row, to compare with"),
    key("system", "fused", "fused", Switch("no-fused"), Is("true"),
        "On GPUs, compute GELU and biases' gradients within the matrix products; --no-fused: in passes of their own"),
    key("system", "precision", "precision", Choice("fp32|tf32|bf16|bf16-true"), Is("fp32"),
        "Operands of products, tf32 on GPUs only; bf16-true: weights too; sums are fp32"),
    key("system", "reduce", "reduce", Choice("f32|bf16"), Is("f32"),
        "Type in which NCCL sums gradients; bf16: half the bytes"),
    key("system", "nondeterministic", "nondeterministic", Switch("no-nondeterministic"), Is("false"),
        "On GPUs, sums in any order: faster, other bits in each run"),
    key("system", "threads", "threads", Count { least: 1, most: 4096 }, Else("the physical cores the rank may use"), "Threads per rank"),
    key("system", "zero", "zero", Count { least: 0, most: 1 }, Is("0"),
        "Optimizer state: 0, whole on every rank; 1, divided among them"),
    key("system", "recompute", "recompute", Choice("none|block"), Is("none"),
        "block: keep only blocks' inputs, compute the rest twice"),
    key("system", "shared_sums", "", Choice("off|on"), Is("off"),
        "on: ranks of a node read each other's memory; off: they send messages"),
    key("system", "patience", "patience", Time, Is("10m"),
        "A rank that waits so long for the others ends the job: 600 (s), 10m"),
    key("system", "peak_tflops", "peak-tflops", Number(Positive), Else("by the GPU's name; else no MFU"),
        "What one device can do at best, in TFLOP/s"),

    key("eval", "every", "eval-every", ANY, Is("0"), "Steps between evaluations; 0: at the end only"),
    key("eval", "batches", "eval-batches", ANY, Is("50"), "Batches per evaluation; 0: the whole corpus"),

    key("checkpoint", "every", "save-every", ANY, Is("0"), "Steps between checkpoints; 0: at the end or when stopped"),
    key("checkpoint", "at_end", "save-at-end", Switch("no-save-at-end"), Is("true"), "A checkpoint after the last step"),
    key("checkpoint", "keep", "keep", SOME, Is("2"), "How many of the newest checkpoints stay"),
    key("checkpoint", "keep_every", "keep-every", ANY, Is("0"), "Those at multiples of so many steps stay for ever; 0: none"),
    key("checkpoint", "resume", "resume", Text("auto|never|DIR"), Is("auto"),
        "auto: go on from the newest complete checkpoint in --out"),

    key("log", "every", "log-every", SOME, Is("1"), "Steps between lines on the console"),
    key("log", "json", "json", FILE, Else("none"), "The result, for machines"),
    key("log", "mllog", "mllog", FILE, Else("none"), "MLPerf's events (:::MLLOG), for its compliance checker"),
    key("log", "quiet", "quiet", Switch("no-quiet"), Is("false"), "Only warnings, errors and the result"),

    key("mlperf", "benchmark", "", Text("NAME"), Else("the model's name"), "--mllog: the rules meant, such as llama31_8b"),
    key("mlperf", "division", "", Choice("closed|open"), Is("closed"), "--mllog: the division of the submission"),
    key("mlperf", "org", "", Text("NAME"), Else("unknown"), "--mllog: who submits"),
    key("mlperf", "platform", "", Text("NAME"), Else("ranks, nodes and the processor"), "--mllog: on what machine"),
];

const fn key(
    section: &'static str,
    name: &'static str,
    flag: &'static str,
    kind: Kind,
    default: Default,
    help: &'static str,
) -> Key {
    Key { section, name, flag, kind, default, help }
}

impl Key {
    /// `section.name`
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
    /// What one would type before a value: `--lr`, `--set system.shared_sums`.
    pub fn typed(&self) -> String {
        if self.flag.is_empty() { format!("--set {}", self.path()) } else { format!("--{}", self.flag) }
    }
}

/// The place in [`KEYS`] of a key that exists. Panics on one that does not: a slip of the program's, not of the user's.
pub fn place(path: &str) -> usize {
    find(path).unwrap_or_else(|| panic!("the table has no key {path}"))
}

/// The place in [`KEYS`] of `section.name`.
pub fn find(path: &str) -> Option<usize> {
    let (section, name) = path.split_once('.')?;
    KEYS.iter().position(|k| k.section == section && k.name == name)
}

/// The known key nearest to what was typed: its whole path, or its last part against names and options, so that both
/// `optim.lrr` and `train.lr` lead to `optim.lr`.
pub fn nearest(typed: &str) -> &'static Key {
    let typed = typed.replace('-', "_").to_lowercase();
    let last = typed.rsplit('.').next().unwrap_or(&typed);
    let likeness = |k: &Key| {
        let whole = strsim::jaro_winkler(&typed, &k.path());
        let name = strsim::jaro_winkler(last, k.name);
        let option = strsim::jaro_winkler(last, &k.flag.replace('-', "_"));
        // The whole path is the stronger witness when sections agree; a bare name counts a little less.
        let same_section = typed.starts_with(&format!("{}.", k.section));
        name.max(option) + if same_section { 0.1 } else { 0.0 } + 0.1 * whole
    };
    KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).expect("the table is not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options_are_unique_and_sections_known() {
        for (i, k) in KEYS.iter().enumerate() {
            assert!(SECTIONS.iter().any(|(s, _)| *s == k.section), "{}", k.path());
            assert!(
                KEYS[..i].iter().all(|o| o.path() != k.path() && (k.flag.is_empty() || o.flag != k.flag)),
                "{} stands twice",
                k.path()
            );
        }
    }

    #[test]
    fn slips_lead_to_the_key_that_was_meant() {
        for (typed, meant) in [
            ("optim.lrr", "optim.lr"),
            ("train.lr", "optim.lr"),
            ("lr", "optim.lr"),
            ("optim.weight-decay", "optim.weight_decay"),
            ("optm.beta1", "optim.beta1"),
            ("checkpoint.save_every", "checkpoint.every"),
            ("batch.seqlen", "batch.seq_len"),
            ("model.n_layers", "model.layers"),
            ("data.data", "data.train"),
        ] {
            assert_eq!(nearest(typed).path(), meant, "{typed}");
        }
    }
}
