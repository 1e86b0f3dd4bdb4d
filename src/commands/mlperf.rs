//! `--mllog FILE`: what MLPerf's compliance checker (PyPI: mlperf-logging) wants to know of a run, as the run has it, in the names of
//! its rules. The events of the loop are in [`crate::metrics::Mllog`].
//!
//! ```text
//! start of the program -> ranks, settings -> | caches cleared, then data is touched for the first time -> weights, steps, evaluations
//! init_start                                 | init_stop = run_start
//! ```
//! The clock of the run therefore also counts the reading of corpora and the laying out of the model, which its rules would not.
use crate::commands::session::Session;
use crate::config::{Curve, Run, Source};
use crate::data::{self, Data, Order, Reading};
use crate::device::Precision;
use crate::error::Result;
use crate::launch::{Launch, cores};
use crate::metrics::{Mllog, now_ms};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The last moment before any data is touched.
pub struct Before {
    time_ms: u64,
    /// Files of corpora that each node was asked to forget.
    files: usize,
}

/// Has the first rank of each node ask the system to forget what it keeps of the corpora.
pub fn clear_caches(run: &Run, launch: &Launch) -> Before {
    let mut files = 0;
    if run.log.mllog.is_some() && launch.local_rank == 0 {
        let paths = corpora(run).flat_map(|path| files_of(&path, run)).collect::<Vec<_>>();
        paths.iter().for_each(|path| data::mapped::forget(path));
        files = paths.len();
    }
    Before { time_ms: now_ms(), files }
}

fn corpora(run: &Run) -> impl Iterator<Item = PathBuf> {
    let train = match &run.data.source {
        Source::Corpora(corpora) => corpora.iter().map(|c| c.path.clone()).collect(),
        Source::Synthetic => vec![],
    };
    train.into_iter().chain(run.data.val.clone())
}

/// None of a corpus that cannot be opened: who needs it says why.
fn files_of(path: &Path, run: &Run) -> Vec<PathBuf> {
    let reading = Reading { seq: 1, vocab: run.model.config.vocab, width: None, eos: None, reset_attention: false };
    Data::open(&[format!("{}:1", path.display())], Order::AsWritten, &reading).map_or(vec![], |data| data.files())
}

/// Rank 0's log, with all that is known before the first step.
pub fn begin(run: &Run, launch: &Launch, s: &Session, before: &Before) -> Result<Option<Mllog>> {
    let Some(path) = run.log.mllog.as_ref().filter(|_| launch.leads() && s.from < s.steps) else { return Ok(None) };
    let mut log = Mllog::open(path, s.from > 0)?;
    log.starts("init_start", now_ms() - (1e3 * launch.elapsed()) as u64)?;
    for (key, value) in submission(run, launch) {
        log.event(key, value, before.time_ms)?;
    }
    log.cleared(before.time_ms, before.files)?;
    log.stops("init_stop", before.time_ms)?;
    log.starts("run_start", before.time_ms)?;
    for (key, value) in settings(run, s) {
        log.event(key, value, now_ms())?;
    }
    log.block(s.consumed(s.from))?;
    Ok(Some(log))
}

fn submission(run: &Run, launch: &Launch) -> [(&'static str, Value); 4] {
    let here = format!("ranks: {}, nodes: {}, host: {}", launch.size(), launch.hosts().len(), cores::processor());
    let said = |value: &Option<String>, otherwise: &str| json!(value.as_deref().unwrap_or(otherwise));
    let m = &run.mlperf;
    [
        ("submission_benchmark", said(&m.benchmark, &run.model.name)),
        ("submission_division", json!(m.division)),
        ("submission_org", said(&m.org, "unknown")),
        ("submission_platform", said(&m.platform, &here)),
    ]
}

fn settings(run: &Run, s: &Session) -> Vec<(&'static str, Value)> {
    let (o, decays) = (&run.optim, s.steps - s.schedule.warmup);
    let (curve, decay_steps, end) = match o.schedule {
        Curve::Cosine => ("cosine", decays, o.min_lr),
        Curve::Linear => ("linear", decays, o.min_lr),
        Curve::Constant => ("constant", 0, o.lr),
        Curve::Wsd { decay } => ("constant, then linear", decays.min((decay * s.steps as f64).round() as u64), o.min_lr),
    };
    let gathers_bf16 = run.system.weights_bf16 && run.system.zero == 1; // sums are f32 unless asked otherwise
    let (products, attention) = match run.system.precision {
        Precision::Fp32 => ("fp32", "fp32"),
        Precision::Bf16 => ("bfloat16", "bfloat16"),
        Precision::Tf32 => ("tf32", "fp32"), // attention is no product of the library's
    };
    let files = run.settings.files();
    let mut all = vec![
        ("seed", json!(run.train.seed)),
        ("config_filename", json!(if files.is_empty() { "command line".into() } else { files.join(", ") })),
        ("global_batch_size", json!(run.global_batch())),
        ("micro_batch_size", json!(run.batch.micro_batch)),
        ("gradient_accumulation_steps", json!(s.share.micro_steps())),
        ("max_sequence_length", json!(run.batch.seq_len)),
        ("max_steps", json!(s.steps)),
        ("train_samples", json!(s.data.windows().unwrap_or(s.steps * run.global_batch() as u64))),
        ("eval_samples", json!(s.evals.first().map_or(0, |corpus| corpus.samples()))),
        ("opt_name", json!("adamw")),
        ("opt_base_learning_rate", json!(o.lr)),
        ("opt_end_learning_rate", json!(end)),
        ("opt_learning_rate_warmup_steps", json!(s.schedule.warmup)),
        ("opt_learning_rate_decay_steps", json!(decay_steps)),
        ("opt_learning_rate_decay_schedule", json!(format!("{curve} with linear warmup"))),
        ("opt_adamw_beta_1", json!(o.beta1)),
        ("opt_adamw_beta_2", json!(o.beta2)),
        ("opt_adamw_epsilon", json!(o.eps)),
        ("opt_adamw_weight_decay", json!(o.weight_decay)),
        ("opt_gradient_clip_norm", json!(o.clip.unwrap_or(0.0))),
        ("lowest_numerical_precision_in_linear", json!(products)),
        ("lowest_numerical_precision_in_attn", json!(attention)),
        ("lowest_numerical_precision_in_comm", json!(if run.system.reduce_bf16 || gathers_bf16 { "bfloat16" } else { "fp32" })),
        // Data parallelism is the only one here; its degree is the number of ranks.
        ("tensor_parallelism", json!(1)),
        ("pipeline_parallelism", json!(1)),
        ("context_parallelism", json!(1)),
        ("expert_parallelism", json!(1)),
    ];
    if s.from > 0 {
        all.push(("init_checkpoint_step", json!(s.from)));
    }
    all.extend(run.train.target_loss.map(|target| ("target_accuracy", json!(target))));
    all
}
