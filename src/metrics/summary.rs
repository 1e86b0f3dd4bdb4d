//! The figures of merit of a run's latest start that ran a step, as a block of lines for people and benchmark suites, and as JSON.
//! Computed from the rows of `metrics.h5` and nothing else.
//!
//! ```text
//! tokens/sec/gpu: 5040.1    n 180, stddev 12.3, median 5041.2, min 5000.2, max 5100.7, 95 % interval 5038.3 to 5041.9
//! ```
//! A key at the start of the line, a colon, the number, then words: `tokens/sec/gpu:\s*(\S+)` finds it.
use super::stats::{Stats, warm_up};
use super::units::{bytes, count, significant, thousands};
use super::{History, Start, StepRecord};
use crate::error::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// One held-out set at its latest evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalResult {
    pub name: String,
    pub step: u64,
    pub loss: f64,
    pub bits_per_byte: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub start: Start,
    /// Steps of this start that count, the first and the last; `None` before any.
    pub steps: Option<(u64, u64)>,
    pub warm_up_steps: usize,
    /// Over the steps that count.
    pub tokens_per_second: Option<Stats>,
    pub step_seconds: Option<Stats>,
    /// Attention counted full.
    pub tflops_per_device: Option<Stats>,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    pub evals: Vec<EvalResult>,
    pub peak_memory_bytes: Option<u64>,
    /// Of the steps that count; `None` where one of them has none.
    pub energy: Option<Energy>,
    /// Watts of rank 0's GPU, over the steps that count.
    pub gpu_power: Option<Stats>,
    /// MHz, likewise.
    pub gpu_clock: Option<Stats>,
    pub peak_gpu_memory_bytes: Option<u64>,
    /// Rank 0's device.
    pub device: String,
}

/// tokens per joule = Σ tokens / Σ joules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    pub joules: f64,
    pub tokens: u64,
}

impl Energy {
    fn of(rows: &[StepRecord], tokens_before: u64) -> Option<Energy> {
        let joules = rows.iter().map(|r| r.energy).sum::<Option<f64>>()?;
        Some(Energy { joules, tokens: rows.last()?.tokens - tokens_before }).filter(|energy| energy.joules > 0.0)
    }
    pub fn tokens_per_joule(&self) -> f64 {
        self.tokens as f64 / self.joules
    }
}

/// bits per byte = nats per token / ln 2 / bytes per token.
pub fn bits_per_byte(loss: f64, bytes_per_token: f64) -> f64 {
    loss / std::f64::consts::LN_2 / bytes_per_token
}

impl Summary {
    /// Reads the file; see [`History::read`] for errors.
    pub fn read(path: &Path) -> Result<Summary> {
        Ok(Summary::of(&History::read(path)?))
    }

    pub fn of(history: &History) -> Summary {
        let rows = history.latest_steps();
        let warm_up_steps = warm_up(rows.len());
        let counted = &rows[warm_up_steps..];
        let stats = |get: fn(&StepRecord) -> f64| Stats::of(counted.iter().map(get));
        let gpu = |get: fn(&StepRecord) -> Option<f64>| counted.iter().map(get).collect::<Option<Vec<_>>>().and_then(Stats::of);
        // Where no row stands before the first that counts, its tokens are not known.
        let before = match history.steps.len() - counted.len() {
            0 => counted.first().filter(|first| first.step == 1).map(|_| 0),
            n => Some(history.steps[n - 1].tokens),
        };
        let latest = |e: &super::Evaluation| {
            let point = e.points.last()?;
            let bits_per_byte = point.bytes_per_token.map(|bytes| bits_per_byte(point.loss, bytes));
            Some(EvalResult { name: e.set.name.clone(), step: point.step, loss: point.loss, bits_per_byte })
        };
        Summary {
            start: history.latest_start().cloned().unwrap_or_default(),
            steps: counted.first().zip(counted.last()).map(|(a, b)| (a.step, b.step)),
            warm_up_steps,
            tokens_per_second: stats(|r| r.tokens_per_second),
            step_seconds: stats(|r| r.step_time),
            tflops_per_device: stats(|r| r.tflops),
            loss: history.steps.last().map(|r| r.loss),
            evals: history.evaluations.iter().filter_map(latest).collect(),
            peak_memory_bytes: rows.iter().map(|r| r.memory).max(),
            energy: before.and_then(|before| Energy::of(counted, before)),
            gpu_power: gpu(|r| r.gpu.power),
            gpu_clock: gpu(|r| r.gpu.clock),
            peak_gpu_memory_bytes: rows.iter().filter_map(|r| r.gpu.memory).reduce(f64::max).map(|bytes| bytes as u64),
            device: history.ranks.first().map_or(String::new(), |rank| rank.device.clone()),
        }
    }

    fn per_device(&self, stats: Option<Stats>) -> Option<Stats> {
        stats.map(|s| s.times(1.0 / self.start.ranks.max(1) as f64))
    }

    /// Model FLOP/s over peak FLOP/s, attention counted full and causal; where the peak is known.
    pub fn mfu(&self) -> Option<(Stats, Stats)> {
        let (tflops, peak) = self.tflops_per_device.zip(self.start.peak_tflops)?;
        let full = tflops.times(1.0 / peak);
        Some((full, full.times(self.start.flops_per_token_causal / self.start.flops_per_token_full)))
    }

    pub fn bits_per_byte(&self) -> Option<f64> {
        self.evals.iter().find_map(|e| e.bits_per_byte)
    }

    /// The block of lines, ending with a newline.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let start = &self.start;
        let ranks = start.ranks;
        let (full, causal) = (start.flops_per_token_full, start.flops_per_token_causal);
        out += &match self.steps {
            Some((first, last)) => format!(
                "figures of merit of {}, steps {first} to {last}; {}\n",
                count(ranks, "rank"),
                match self.warm_up_steps {
                    0 => "the only one, none is left out as warm-up".to_string(),
                    n => format!("left out as warm-up: the first {n} of this start\n(a tenth, at least 1 and at most 10)"),
                }
            ),
            None => "figures of merit: no step has been run\n".to_string(),
        };
        let spread = |out: &mut String, key: &str, stats: Option<Stats>, note: &str| {
            if let Some(s) = stats {
                let _ = writeln!(out, "{key}: {}    {}{note}", significant(s.mean, 6), s.words());
            }
        };
        spread(
            &mut out,
            "tokens/sec/gpu",
            self.per_device(self.tokens_per_second),
            "; a rank counts as one GPU, whatever its device",
        );
        spread(&mut out, "tokens/sec", self.tokens_per_second, "");
        spread(&mut out, "elapsed time per iteration (s)", self.step_seconds, "");
        let note = format!("; tokens/sec/gpu x {full:.4e} FLOP per token (attention counted full)");
        spread(&mut out, "throughput per GPU (TFLOP/s/GPU)", self.tflops_per_device, &note);
        if let Some((mfu, mfu_causal)) = self.mfu() {
            let peak = start.peak_tflops.unwrap_or(f64::NAN);
            let formula =
                |how: &str, flops: f64| format!("; tokens/sec/gpu x {flops:.4e} FLOP per token ({how}) / peak of {peak} TFLOP/s");
            let (f, c) = (formula("every token attends to the whole sequence", full), formula("half of that attention", causal));
            spread(&mut out, "MFU (attention full)", Some(mfu), &f);
            spread(&mut out, "MFU (attention causal)", Some(mfu_causal), &c);
        }
        if !start.numerics.is_empty() {
            let _ = writeln!(out, "numerics: {}", start.numerics);
        }
        if let Some(loss) = self.loss {
            let _ = writeln!(out, "final loss: {loss:.6}    nats per token, the last step's batch");
        }
        for (i, e) in self.evals.iter().enumerate() {
            let of_set = if i == 0 { String::new() } else { format!(" ({})", e.name) };
            let _ = writeln!(out, "eval loss{of_set}: {:.6}    nats per token, {} at step {}", e.loss, e.name, e.step);
            if let Some(bits) = e.bits_per_byte {
                let _ = writeln!(out, "bits per byte{of_set}: {bits:.6}    {} at step {}", e.name, e.step);
            }
        }
        if let Some(peak) = self.peak_memory_bytes {
            let _ = writeln!(out, "peak memory (bytes): {peak}    {}, rank 0", bytes(peak));
        }
        if let Some(peak) = self.peak_gpu_memory_bytes {
            let _ = writeln!(
                out,
                "peak GPU memory (bytes): {peak}    {}, all that is in use on rank 0's {}",
                bytes(peak),
                self.device
            );
        }
        spread(&mut out, "GPU power (W)", self.gpu_power, "; rank 0's, by NVML");
        spread(&mut out, "GPU clock (MHz)", self.gpu_clock, "; rank 0's multiprocessors, by NVML");
        if let Some(energy) = self.energy {
            let [joules, rate] = [energy.joules, energy.tokens_per_joule()].map(|v| significant(v, 6));
            let tokens = thousands(energy.tokens);
            let _ = writeln!(out, "energy (J): {joules}    of {}, over {tokens} tokens", start.energy_of);
            let _ = writeln!(out, "tokens per joule: {rate}    {tokens} tokens / {joules} J");
        }
        if let Some(first) = start.first_step {
            let [mpi, corpus, model] = [start.mpi_init, start.corpus, start.model].map(|v| significant(v, 3));
            let parts = format!("from the program's start; MPI_Init {mpi}, corpus {corpus}, model {model}");
            let launch = start.launch.map_or(String::new(), |s| format!("; the launch before took {}", significant(s, 3)));
            let _ = writeln!(out, "time to first step (s): {}    {parts}{launch}", significant(first, 4));
        }
        out
    }

    /// For `--json`: the same figures under stable names; unknown ones are null.
    pub fn json(&self) -> Value {
        let start = &self.start;
        let config = toml::from_str::<Value>(&start.configuration).unwrap_or(Value::String(start.configuration.clone()));
        let evals = self
            .evals
            .iter()
            .map(|e| (e.name.clone(), json!({ "step": e.step, "loss": e.loss, "bits_per_byte": e.bits_per_byte })));
        json!({
            "world_size": start.ranks,
            "steps": self.steps.map(|(first, last)| json!({ "first": first, "last": last })),
            "warm_up_steps": self.warm_up_steps,
            "tokens_per_second": self.tokens_per_second.map(|s| s.json()),
            "tokens_per_second_per_device": self.per_device(self.tokens_per_second).map(|s| s.json()),
            "step_seconds": self.step_seconds.map(|s| s.json()),
            "tflops_per_device": self.tflops_per_device.map(|s| s.json()),
            "mfu_full": self.mfu().map(|m| m.0.json()),
            "mfu_causal": self.mfu().map(|m| m.1.json()),
            "parameters": start.parameters,
            "flops_per_token_full": start.flops_per_token_full,
            "flops_per_token_causal": start.flops_per_token_causal,
            "numerics": start.numerics,
            "loss": self.loss,
            "eval_loss": self.evals.first().map(|e| e.loss),
            "bits_per_byte": self.bits_per_byte(),
            "evals": evals.collect::<serde_json::Map<_, _>>(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_gpu_memory_bytes": self.peak_gpu_memory_bytes,
            "device": self.device,
            "gpu_power_watts": self.gpu_power,
            "gpu_clock_mhz": self.gpu_clock,
            "energy_of": self.energy.map(|_| &start.energy_of),
            "energy_joules": self.energy.map(|e| e.joules),
            "tokens_per_joule": self.energy.map(|e| e.tokens_per_joule()),
            "time_to_first_step_seconds": start.first_step,
            "resumed_step": start.resumed_step,
            "version": start.version,
            "revision": start.revision,
            "config": config,
        })
    }
}
