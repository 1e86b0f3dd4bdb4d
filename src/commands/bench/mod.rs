//! `llm-train bench`: how fast this machine trains, and what stands in the way. One file a benchmark.
//!
//! | | |
//! |---|---|
//! | [`step`] | a model on made-up tokens, by the very loop that trains; tokens per second with their spread |
//! | [`roofline`] | `step --roofline`: each op beside what this machine can do at best |
//! | [`node`] | `step --node`: the same op by op on a machine that is not here, predicted |
//! | [`gemm`] | the products of a model's layers, by layout |
//! | [`attention`] | forward and backward over lengths of sequences |
//! | [`collectives`] | sums and copies between ranks, over sizes |
//! | [`data`] | a corpus, read window by window |
//! | [`checkpoint`] | a checkpoint, written and read |
pub mod attention;
pub mod checkpoint;
pub mod collectives;
pub mod data;
pub mod gemm;
pub mod node;
pub mod roofline;
pub mod step;

use crate::commands::cli::VERSION;
use crate::config::Run;
use crate::device::{Device, Row};
use crate::launch::cores;
use crate::metrics::stats::Stats;
use crate::metrics::units::significant;
use serde_json::{Value, json};

/// What one command measured on: for tables and files.
fn machine(run: &Run, ranks: usize, threads: usize) -> Value {
    json!({ "version": VERSION, "processor": cores::processor(), "ranks": ranks, "threads": threads,
            "precision": run.system.precision_name(), "model": run.model.name,
            "micro_batch": run.batch.micro_batch, "seq_len": run.batch.seq_len })
}

/// What the ops note, if wanted, while `f` runs on the device's threads, and what it gives.
fn tallied<R: Send>(dev: &Device, wanted: bool, f: impl FnOnce() -> R + Send) -> (Vec<Row>, R) {
    let tally = match dev {
        Device::Cpu(cpu) if wanted => &cpu.tally,
        Device::Cuda(gpu) if wanted => &gpu.tally,
        _ => return (vec![], dev.install(f)),
    };
    tally.start();
    let result = dev.install(f);
    (tally.stop(), result)
}

/// `key: mean    n 20, stddev 1.2, median 98.9, min 97.0, max 101.3, 95 % interval 98.5 to 99.6`
fn figure(key: &str, s: &Stats) -> String {
    format!("{key}: {}    {}\n", significant(s.mean, 6), s.words())
}
