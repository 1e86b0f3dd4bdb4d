//! `llm-train bench attention`: forward and backward over lengths of sequences, with a model's heads.
//!
//! ```text
//! pairs = H · rows · (T + 1) / 2          of a query and a key that it may see: causal
//! forward   4 D pairs FLOP                two products: scores, and their sum over values
//! backward  8 D pairs FLOP                four; the scores, computed again, count as this program's cost
//! ```
//! rows: micro-batch × T, with the micro-batch made smaller as T grows, so that a pass has the same number of tokens.
use crate::commands::bench::{figure, machine, tallied};
use crate::commands::{check_json, kernels, tell, write_json};
use crate::config::Run;
use crate::device::{Device, Precision, Row};
use crate::error::Result;
use crate::launch::{cores, usable_cores};
use crate::metrics::stats::Stats;
use crate::ops::attention::{self, Heads};
use crate::tensor::{Kind, Plan, Tensor};
use serde_json::json;

/// Seconds that each length is measured for, and the least times.
const SECONDS: f64 = 1.0;
const LEAST: usize = 5;

/// Time attention, forward and backward, over lengths of sequences.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Benchmark")]
pub struct AttentionArgs {
    /// Lengths, in tokens [default: 256 and its doublings up to --seq-len]
    #[arg(long, value_name = "T", num_args = 1.., value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub lengths: Vec<u32>,
}

pub fn run(run: &Run, args: &AttentionArgs) -> Result<()> {
    check_json(run.json_of_its_own())?;
    run.clone().validate_for(1)?;
    run.validate_on_cpu()?;
    let (precision, threads) = (run.system.precision, run.system.threads.unwrap_or_else(usable_cores));
    kernels::choose(precision, None)?;
    let (c, seq) = (&run.model.config, run.batch.seq_len);
    let mut lengths: Vec<usize> = args.lengths.iter().map(|n| *n as usize).collect();
    if lengths.is_empty() {
        lengths = std::iter::successors(Some(256), |t| Some(2 * t)).take_while(|t| *t < seq).chain([seq]).collect();
    }
    let tokens = run.batch.micro_batch * seq;
    let mut page = format!(
        "bench attention: {}, {} query and {} key/value heads of {}, {threads} threads, {}; causal FLOPs; {}\n",
        run.model.name,
        c.heads,
        c.kv_heads,
        c.head_dim,
        precision.name(),
        cores::processor()
    );
    let mut rows = vec![];
    for t in lengths {
        let heads = Heads { q: c.heads, kv: c.kv_heads, size: c.head_dim, seq: t };
        let sequences = (tokens / t).max(1);
        let noted = measure(heads, sequences, precision, threads)?;
        for (pass, name) in [("forward", "attention forward"), ("backward", "attention backward")] {
            let of = noted.iter().filter(|row| row.name == name);
            let rates = Stats::of(of.map(|row| row.flops / row.time.as_secs_f64() / 1e9)).expect("it was noted");
            page += &figure(&format!("attention {pass} T={t} (GFLOP/s)"), &rates);
            rows.push(json!({ "pass": pass, "seq_len": t, "sequences": sequences, "gflops": rates.json() }));
        }
    }
    tell(page);
    let mut all = machine(run, 1, threads);
    all["attention"] = json!(rows);
    run.json_of_its_own().map_or(Ok(()), |file| write_json(file, &all))
}

/// What the op noted of each pass.
fn measure(h: Heads, sequences: usize, precision: Precision, threads: usize) -> Result<Vec<Row>> {
    let (n, cols, mut plan) = (sequences * h.seq, h.q * h.size, Plan::default());
    let mut matrix = |cols| plan.matrix(Kind::Workspace, n, cols);
    let (qkv, dqkv, y, dy, lse) = (matrix(h.width()), matrix(h.width()), matrix(cols), matrix(cols), matrix(h.q));
    let dev = Device::cpu(&plan, threads, &[], precision)?;
    let numbers = |t: Tensor| (0..t.len()).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect::<Vec<f32>>();
    [qkv, dy].iter().for_each(|t| dev.write(*t, &numbers(*t)));
    let pass = || {
        attention::forward(&dev, y, lse, qkv, h, None);
        attention::backward(&dev, dqkv, None, dy, y, lse, qkv, h, None);
    };
    dev.install(pass);
    let once: f64 = tallied(&dev, true, pass).0.iter().map(|row| row.time.as_secs_f64()).sum();
    let repeats = ((SECONDS / once) as usize).clamp(LEAST, 10_000);
    Ok((0..repeats).flat_map(|_| tallied(&dev, true, pass).0).collect())
}
