//! `metrics.h5` from outside.
use hdf5::{File, OpenMode};
use llm_train::commands::report;
use llm_train::error::Error;
use llm_train::metrics::{EvalSet, Event, History, MetricsFile, Rank, Start, State, StepRecord, Summary};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod figures;
mod file;
mod processes;

const FLOPS: f64 = 8e8;
const RANKS: usize = 2;
const STEP_TOKENS: u64 = 4096;

fn record(step: u64) -> StepRecord {
    let x = step as f64;
    let step_time = 0.8 + 0.05 * (x * 1.7).sin();
    let r = StepRecord {
        step,
        tokens: step * STEP_TOKENS,
        loss: 2.0 + 8.0 / (1.0 + x / 20.0),
        lr: 1e-3 * (x / 10.0).min(1.0),
        grad_norm: 1.0 + 5.0 / x,
        step_time,
        data_time: 0.01,
        forward_time: 0.25,
        backward_time: 0.45,
        comm_exposed_time: 0.02,
        optimizer_time: 0.03,
        memory: 1_000_000_000 + step,
        ..Default::default()
    };
    r.with_rates(STEP_TOKENS, FLOPS, RANKS)
}

fn start() -> Start {
    Start {
        configuration: "seed = 7\n[model]\nwidth = 64\n".into(),
        version: "0.1.0".into(),
        revision: "87869d5".into(),
        command_line: "llm-train --config run.toml".into(),
        hosts: "node1,node2".into(),
        mpi: "Open MPI v4.1.4".into(),
        slurm_job: "4711".into(),
        parameters: 124_439_808,
        flops_per_token_full: FLOPS,
        flops_per_token_causal: 7e8,
        peak_tflops: Some(10.0),
        mpi_init: 0.25,
        corpus: 0.01,
        model: 0.5,
        ..Default::default()
    }
}

fn ranks() -> Vec<Rank> {
    let rank = |r: usize| Rank {
        rank: r as u64,
        host: format!("node{r}"),
        device: "cpu".into(),
        cores: "0-3,8".into(),
        threads: 5,
        pid: 100 + r as u64,
    };
    (0..RANKS).map(rank).collect()
}

fn sets() -> Vec<EvalSet> {
    vec![EvalSet { name: "held-out".into(), bytes_per_token: Some(3.5) }, EvalSet { name: "code".into(), bytes_per_token: None }]
}

fn open(path: &Path, resume: Option<u64>) -> MetricsFile {
    MetricsFile::open(path, &start(), &ranks(), &sets(), resume).unwrap()
}

/// A run of `steps` steps, evaluated every ten.
fn run(path: &Path, steps: u64) {
    let mut file = open(path, None);
    write(&mut file, 1..steps + 1);
    file.close().unwrap();
}

fn write(file: &mut MetricsFile, steps: std::ops::Range<u64>) {
    for step in steps {
        file.append(&record(step)).unwrap();
        if step % 10 == 0 {
            file.eval("held-out", step, record(step).loss + 0.1).unwrap();
        }
    }
}

fn reals(file: &File, name: &str) -> Vec<f64> {
    file.dataset(name).unwrap().read_raw().unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.h5");
    (dir, path)
}
