//! As typed → as meant: each field of [`Run`] from its key, and the checks that look at several keys at once.
//!
//! Reads no file but the model's `config.json`; whether corpora and checkpoints exist is asked by those who open them.
use super::architecture;
use super::run::{
    Attention, BF16_TRUE, Batch, Carrier, Checkpoint, Corpus, Curve, Data, DeviceKind, Eval, Length, Log, Mlperf, Model, Optim,
    Resume, Run, Source, System, Train,
};
use super::settings::Settings;
use super::value::Value;
use crate::bad_input;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::model::Recompute;
use std::path::PathBuf;

/// What is missing for training may be missing for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Train,
    /// Memory and arithmetic only: no data needed.
    Plan,
    /// Some steps, on made-up tokens unless told otherwise.
    Bench,
}

/// The length of a run on made-up tokens, which has no epochs, and of a benchmark.
const SYNTHETIC_STEPS: u64 = 100;
const BENCH_STEPS: u64 = 20;

/// Makes a run of settings. Errors are [`crate::error::Error::Input`], one sentence each.
pub fn resolve(mut settings: Settings, purpose: Purpose) -> Result<Run> {
    let s = &mut settings;
    let model = architecture::model(s)?;
    let source = source(s, purpose)?;
    let synthetic_vocab = s.count("data.synthetic_vocab").map_or(model.config.vocab, |n| n as usize);
    if synthetic_vocab > model.config.vocab {
        let (name, vocab) = (s.named("data.synthetic_vocab"), model.config.vocab);
        bad_input!("{name}: expected at most the model's vocabulary, {vocab}, found {synthetic_vocab}")
    }
    let batch = batch(s, &model)?;
    let length = length(s, &source, purpose)?;
    let optim = optim(s)?;
    let run = Run {
        data: Data {
            source,
            synthetic_vocab,
            val: s.list("data.val").iter().map(PathBuf::from).collect(),
            tokenizer: s.text("data.tokenizer").map(PathBuf::from),
            check: s.switch("data.check"),
            reset_attention: s.switch("data.reset_attention"),
        },
        model,
        batch,
        train: Train {
            out: s.text("train.out").expect("it has a default").into(),
            length,
            seed: s.count("train.seed").expect("it has a default"),
            max_time: s.count("train.max_time"),
            target_loss: s.number("train.target_loss"),
        },
        optim,
        system: System {
            device: match s.text("system.device") {
                Some("cpu") => DeviceKind::Cpu,
                Some("cuda") => DeviceKind::Cuda,
                _ => DeviceKind::Auto,
            },
            comm: match s.text("system.comm") {
                Some("nccl") => Carrier::Nccl,
                Some("mpi") => Carrier::Mpi,
                _ => Carrier::Auto,
            },
            attention: match s.text("system.attention") {
                Some("cudnn") => Attention::Cudnn,
                Some("own") => Attention::Own,
                Some("plain") => Attention::Plain,
                _ => Attention::Auto,
            },
            precision: match s.text("system.precision") {
                Some(BF16_TRUE) => Precision::Bf16,
                name => name.and_then(Precision::named).expect("one of the table's"),
            },
            weights_bf16: s.text("system.precision") == Some(BF16_TRUE),
            reduce_bf16: s.text("system.reduce") == Some("bf16"),
            fused: s.switch("system.fused"),
            nondeterministic: s.switch("system.nondeterministic"),
            threads: s.count("system.threads").map(|n| n as usize),
            zero: s.count("system.zero").expect("it has a default") as u8,
            recompute: if s.text("system.recompute") == Some("block") { Recompute::Block } else { Recompute::None },
            shared_sums: s.text("system.shared_sums") == Some("on"),
            patience: s.count("system.patience").expect("it has a default"),
            peak_tflops: s.number("system.peak_tflops"),
        },
        eval: Eval { every: unless_zero(s, "eval.every"), batches: unless_zero(s, "eval.batches") },
        checkpoint: Checkpoint {
            every: unless_zero(s, "checkpoint.every"),
            at_end: s.switch("checkpoint.at_end"),
            keep: s.count("checkpoint.keep").expect("it has a default") as usize,
            keep_every: unless_zero(s, "checkpoint.keep_every"),
            resume: match s.text("checkpoint.resume").expect("it has a default") {
                "auto" => Resume::Auto,
                "never" => Resume::Never,
                dir => Resume::From(dir.into()),
            },
        },
        log: Log {
            every: s.count("log.every").expect("it has a default"),
            json: s.text("log.json").map(PathBuf::from),
            mllog: s.text("log.mllog").map(PathBuf::from),
            quiet: s.switch("log.quiet"),
        },
        mlperf: Mlperf {
            benchmark: s.text("mlperf.benchmark").map(str::to_owned),
            division: s.text("mlperf.division").expect("it has a default").to_owned(),
            org: s.text("mlperf.org").map(str::to_owned),
            platform: s.text("mlperf.platform").map(str::to_owned),
        },
        settings,
    };
    if run.train.target_loss.is_some() && run.data.val.is_empty() {
        bad_input!("{}: expected --val-data (data.val) to reach it on, found none", run.settings.named("train.target_loss"))
    }
    if run.system.reduce_bf16 && run.system.comm == Carrier::Mpi {
        bad_input!("{}: expected f32 where MPI carries gradients (--comm mpi), found bf16", run.settings.named("system.reduce"))
    }
    let precision = run.system.precision;
    if run.optim.stochastic_rounding && run.system.device != DeviceKind::Cpu && precision != Precision::Bf16 {
        let (name, precision) = (run.settings.named("optim.stochastic_rounding"), precision.name());
        bad_input!("{name}: expected --precision bf16 or bf16-true, whose weights it rounds, found {precision}")
    }
    if run.system.device == DeviceKind::Cpu {
        run.validate_on_cpu()?;
    }
    if let Length::Steps(steps) = run.train.length
        && let Some(warmup) = run.optim.warmup_steps.filter(|w| *w > steps)
    {
        bad_input!("{}: expected at most the run's {steps} steps, found {warmup}", run.settings.named("optim.warmup_steps"))
    }
    Ok(run)
}

fn unless_zero(s: &Settings, path: &str) -> Option<u64> {
    s.count(path).filter(|n| *n > 0)
}

/// Corpora or made-up tokens, whichever was said more strongly.
fn source(s: &mut Settings, purpose: Purpose) -> Result<Source> {
    if s.list("data.train").is_empty() {
        s.clear("data.train");
    }
    let synthetic = s.switch("data.synthetic");
    let both = synthetic && s.has("data.train");
    match &s.strongest(&["data.train", "data.synthetic"])[..] {
        ["data.train", _] if both => {
            bad_input!("expected either --data or --synthetic-data (data.train, data.synthetic), found both")
        }
        ["data.train"] if both => s.derive("data.synthetic", Value::Switch(false)),
        ["data.synthetic"] if both => s.clear("data.train"),
        _ if synthetic || s.has("data.train") || purpose != Purpose::Train => (),
        _ => bad_input!("--data (data.train): expected a corpus, or --synthetic-data for made-up tokens, found neither"),
    }
    if !s.has("data.train") {
        return Ok(Source::Synthetic);
    }
    let corpora: Vec<Corpus> = s.list("data.train").iter().map(|spec| corpus(s, spec)).collect::<Result<_>>()?;
    if let Some(bare) = corpora.iter().find(|c| c.weight.is_none())
        && corpora.iter().any(|c| c.weight.is_some())
    {
        bad_input!(
            "{}: expected a weight for every corpus or for none, found none for {}",
            s.named("data.train"),
            bare.path.display()
        )
    }
    Ok(Source::Corpora(corpora))
}

/// `path` or `path:weight`. What follows the last colon is a weight if it reads as a number, else part of the path.
fn corpus(s: &Settings, spec: &str) -> Result<Corpus> {
    let (path, weight) = match spec.rsplit_once(':').map(|(path, weight)| (path, weight.parse::<f64>())) {
        Some((path, Ok(weight))) => (path, Some(weight)),
        _ => (spec, None),
    };
    if path.is_empty() {
        bad_input!("{}: expected FILE[:WEIGHT], found \"{spec}\"", s.named("data.train"))
    }
    if let Some(weight) = weight.filter(|w| !w.is_finite() || *w <= 0.0) {
        bad_input!("{}: expected a weight above 0 for {path}, found {weight}", s.named("data.train"))
    }
    Ok(Corpus { path: path.into(), weight })
}

fn batch(s: &mut Settings, model: &Model) -> Result<Batch> {
    if !s.has("batch.seq_len") {
        s.derive("batch.seq_len", Value::Count(model.config.context as u64));
    }
    let seq_len = s.count("batch.seq_len").expect("given or derived") as usize;
    // One until it is known how many fit.
    let most = matches!(s.get("batch.micro_batch"), Some(Value::Text(_)));
    let micro_batch = if most { 1 } else { s.count("batch.micro_batch").expect("it has a default") as usize };
    if seq_len > model.config.context {
        bad_input!(
            "{}: expected at most the model's context, {}, found {seq_len}",
            s.named("batch.seq_len"),
            model.config.context
        )
    }
    model.config.validate(seq_len).map_err(|e| Error::Input(format!("{}: {e}", model.name)))?;
    // Structural: a pass's largest tensor stays within the address space, so that the plan's sums do not wrap.
    let c = &model.config;
    let widest = c.layers as u128 * (c.width + 3 * c.hidden + (c.heads + 2 * c.kv_heads) * c.head_dim) as u128;
    let bytes = 16 * widest * seq_len as u128 * micro_batch as u128;
    if bytes > 1 << 56 {
        bad_input!(
            "{}: expected a pass that fits some machine, found {micro_batch} sequences of {seq_len} tokens, or {:.0e} bytes of activations",
            s.named("batch.micro_batch"),
            bytes as f64
        )
    }
    Ok(Batch { seq_len, micro_batch, most, global_batch: s.count("batch.global_batch").map(|n| n as usize) })
}

/// Steps, tokens or epochs, whichever was said most strongly.
fn length(s: &mut Settings, source: &Source, purpose: Purpose) -> Result<Length> {
    const KEYS: [&str; 3] = ["train.steps", "train.tokens", "train.epochs"];
    let chosen = match s.strongest(&KEYS)[..] {
        [one] => one,
        [] if *source == Source::Synthetic || purpose == Purpose::Bench => {
            let steps = if purpose == Purpose::Bench { BENCH_STEPS } else { SYNTHETIC_STEPS };
            s.derive("train.steps", Value::Count(steps));
            "train.steps"
        }
        [] => {
            s.derive("train.epochs", Value::Number(1.0));
            "train.epochs"
        }
        [a, b, ..] => bad_input!("{}: expected one length of the run, found {b} beside it", s.named(a)),
    };
    KEYS.iter().filter(|k| **k != chosen).for_each(|k| s.clear(k));
    Ok(match s.get(chosen).expect("chosen because it has a value") {
        Value::Count(n) if chosen == "train.steps" => Length::Steps(*n),
        Value::Count(n) => Length::Tokens(*n),
        Value::Number(_) if *source == Source::Synthetic => {
            bad_input!("{}: expected steps or tokens, for made-up data has no epochs", s.named(chosen))
        }
        Value::Number(x) => Length::Epochs(*x),
        other => panic!("{chosen} is {other:?}"),
    })
}

/// A tenth as one would write it: 3e-5 of 3e-4, not 2.9999999999999997e-5.
fn tenth(x: f64) -> f64 {
    format!("{:.14e}", 0.1 * x).parse().expect("a number was printed")
}

fn optim(s: &mut Settings) -> Result<Optim> {
    let number = |s: &Settings, path: &str| s.number(path).expect("it has a default");
    let lr = number(s, "optim.lr");
    if !s.has("optim.min_lr") {
        s.derive("optim.min_lr", Value::Number(tenth(lr)));
    }
    let min_lr = number(s, "optim.min_lr");
    if min_lr > lr {
        bad_input!("{}: expected at most optim.lr, which is {lr}, found {min_lr}", s.named("optim.min_lr"))
    }
    // Without it an update that is small beside its weight is lost.
    if s.text("system.precision") == Some(BF16_TRUE) && !s.has("optim.stochastic_rounding") {
        s.derive("optim.stochastic_rounding", Value::Switch(true));
    }
    Ok(Optim {
        lr,
        min_lr,
        warmup_steps: s.count("optim.warmup_steps"),
        schedule: match s.text("optim.schedule").expect("it has a default") {
            "cosine" => Curve::Cosine,
            "linear" => Curve::Linear,
            "constant" => Curve::Constant,
            _ => Curve::Wsd { decay: number(s, "optim.wsd_decay") },
        },
        weight_decay: number(s, "optim.weight_decay"),
        decay_embeddings: s.switch("optim.decay_embeddings"),
        beta1: number(s, "optim.beta1"),
        beta2: number(s, "optim.beta2"),
        eps: number(s, "optim.eps"),
        clip: Some(number(s, "optim.clip")).filter(|c| *c > 0.0),
        stochastic_rounding: s.switch("optim.stochastic_rounding"),
    })
}
