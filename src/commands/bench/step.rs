//! `llm-train bench step`: the training loop on made-up tokens, timed. Nothing of it is special to the benchmark: the
//! loop is [`train::steps`], the times are those of its `metrics.h5`, which lies in a folder that is then removed.
//!
//! ```text
//! tokens/sec: 2256.13    n 20, stddev 12.3, median 2258.9, min 2230.1, max 2279.5, 95 % interval 2250.4 to 2261.9
//! ```
use crate::commands::bench::node::{self, Node};
use crate::commands::bench::roofline::{Ceilings, Roofline};
use crate::commands::bench::{figure, machine, tallied};
use crate::commands::gpu;
use crate::commands::output::Output;
use crate::commands::scratch::Scratch;
use crate::commands::session::Session;
use crate::commands::train::{self, End};
use crate::commands::{tell, write_json};
use crate::config::{Curve, Length, Resume, Run};
use crate::device::Row;
use crate::error::Result;
use crate::failed;
use crate::launch::{Launch, cores};
use crate::metrics::stats::Stats;
use crate::metrics::{History, MetricsFile, StepRecord, units};
use clap::Args;
use serde_json::json;
use std::time::Instant;

/// Time the training loop on made-up tokens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Benchmark")]
pub struct StepArgs {
    /// Steps before those that count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub warm_up: u64,
    /// Run for about so many seconds, in place of --steps
    #[arg(long, value_name = "X", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// A step of a scaling study: weak, micro-batch × ranks sequences a step; strong, --global-batch of them
    #[arg(long, value_name = "weak|strong", hide_possible_values = true, value_parser = ["weak", "strong"])]
    pub scaling: Option<String>,
    /// Each op beside what this machine can do at best
    #[arg(long)]
    pub roofline: bool,
    /// Predict the step on another node: CORES,GB/s,GFLOP/s per core,RANKS; also repeated
    #[arg(long, value_name = "C,B,F,R", value_parser = node::parse)]
    pub node: Vec<Node>,
}

pub fn run(run: &mut Run, args: &StepArgs, launch: &Launch) -> Result<()> {
    let scratch = Scratch::new("bench");
    run.train.out = scratch.0.clone();
    run.checkpoint.resume = Resume::Never;
    (run.checkpoint.every, run.checkpoint.at_end) = (None, false);
    run.data.val.clear();
    run.log.quiet = true;
    // A constant rate: how many steps there will be is not always known.
    (run.optim.schedule, run.optim.warmup_steps) = (Curve::Constant, Some(0));
    let Length::Steps(mut steps) = run.train.length else {
        crate::bad_input!("bench step: expected --steps or --seconds, found another length of the run");
    };

    match (args.scaling.as_deref(), run.batch.global_batch) {
        (Some("weak"), Some(batch)) => {
            crate::bad_input!("--scaling weak: expected no global batch, for it follows from the ranks, found {batch}")
        }
        (Some("strong"), None) => crate::bad_input!("--scaling strong: expected --global-batch, found none"),
        _ => (),
    }

    launch.comm().barrier();
    // before the run takes a GPU's memory
    let ceilings = if args.roofline { Some(ceilings(run, launch)?) } else { None };

    let (mut session, mut output) = Session::open(run, launch)?;
    let began = Instant::now();
    session.steps = args.warm_up;
    session.dev.install(|| go(run, launch, &session, &mut output))?;
    if let Some(seconds) = args.seconds {
        let a_step = began.elapsed().as_secs_f64() / args.warm_up as f64;
        steps = launch.comm().exchange(&[(seconds / a_step).ceil().max(2.0)])[0][0] as u64;
    }
    session.go_on(steps);
    let counts = args.roofline || !args.node.is_empty();
    let (rows, went) = tallied(&session.dev, counts, || go(run, launch, &session, &mut output));
    went?;

    let report = |output: Output| -> Result<()> {
        let (path, peak) = (run.train.out.join("metrics.h5"), output.memory.peak());
        output.metrics.map_or(Ok(()), MetricsFile::close)?;
        let history = History::read(&path)?;
        let steps: Vec<StepRecord> = history.steps.iter().filter(|s| s.step > args.warm_up).copied().collect();
        report(run, args, launch, &history, &steps, peak, ceilings, &rows)
    };
    launch.agree(if launch.leads() { report(output) } else { Ok(()) })
}

/// Of this rank's GPU, where the run will have one; else of its threads.
fn ceilings(run: &Run, launch: &Launch) -> Result<Ceilings> {
    launch.agree(match gpu::of_rank(run, launch)? {
        Some(gpu) => Ceilings::of_gpu(&gpu, run.system.precision),
        None => run.validate_on_cpu().and_then(|()| Ceilings::measure(run.system.precision, launch.threads)),
    })
}

/// The loop, from where the session stands to its end; on the threads of the device.
fn go(run: &Run, launch: &Launch, session: &Session, output: &mut Output) -> Result<()> {
    match train::steps(run, launch, session, output)?.0 {
        End::Done => Ok(()),
        End::AskAgain => failed!("bench step: the time limit came before the last step"),
    }
}

fn report(
    run: &Run,
    args: &StepArgs,
    launch: &Launch,
    history: &History,
    steps: &[StepRecord],
    peak: u64,
    ceilings: Option<Ceilings>,
    rows: &[Row],
) -> Result<()> {
    let stats = |get: fn(&StepRecord) -> f64| Stats::of(steps.iter().map(get)).expect("at least one step was run");
    let figures = [
        ("tokens/sec", "tokens_per_second", stats(|s| s.tokens_per_second)),
        ("elapsed time per iteration (s)", "step_seconds", stats(|s| s.step_time)),
        ("throughput per device (TFLOP/s)", "tflops_per_device", stats(|s| s.tflops)),
        ("waiting for other ranks (s)", "comm_exposed_seconds", stats(|s| s.comm_exposed_time)),
        ("waiting for data (s)", "data_seconds", stats(|s| s.data_time)),
    ];
    let (ranks, batch, precision) = (launch.size(), &run.batch, run.system.precision_name());
    let mut page = format!(
        "bench step: {}, {ranks} × {} threads, {precision}, {} sequences of {} tokens a step, {} steps after {}; {}\n",
        run.model.name,
        launch.threads,
        run.global_batch(),
        batch.seq_len,
        steps.len(),
        args.warm_up,
        cores::processor(),
    );
    let mut json = machine(run, ranks, launch.threads);
    json["global_batch"] = json!(run.global_batch());
    json["scaling"] = json!(args.scaling);
    json["hosts"] = json!(launch.hosts());
    json["device"] = json!(history.ranks.first().map(|rank| &rank.device));
    for (key, of, stats) in &figures {
        page += &figure(key, stats);
        json[of] = stats.json();
    }
    let joules = steps.iter().map(|s| s.energy.map(|joules| joules / run.tokens_per_step() as f64)).collect::<Option<Vec<_>>>();
    if let Some(per_token) = joules.and_then(Stats::of) {
        let energy_of = history.starts.last().map_or("", |start| &start.energy_of);
        page += &figure("energy per token (J)", &per_token);
        page += &format!("tokens per joule: {}    energy of {energy_of}\n", units::significant(1.0 / per_token.mean, 6));
        (json["energy_per_token"], json["joules_per_token"]) = (per_token.json(), json!(per_token.mean));
        json["energy_of"] = json!(energy_of);
    } else {
        page += "energy: not measured    a node or a GPU has no counter that can be read\n";
    }
    page += &format!("numerics: {}\n", run.numerics());
    json["numerics"] = json!(run.numerics());
    page += &format!("peak memory (bytes): {peak}    {}, rank 0\n", units::bytes(peak));
    json["peak_memory_bytes"] = json!(peak);
    if let Some(peak) = steps.iter().filter_map(|s| s.gpu.memory).reduce(f64::max).map(|bytes| bytes as u64) {
        page += &format!("peak GPU memory (bytes): {peak}    {}, all that is in use on rank 0's\n", units::bytes(peak));
        json["peak_gpu_memory_bytes"] = json!(peak);
    }
    let step = figures[1].2.mean;
    if let Some(ceilings) = ceilings {
        let waiting = [&figures[3], &figures[4]].map(|(what, _, time)| (what.trim_end_matches(" (s)"), time.mean));
        let roofline = Roofline::of(rows, steps.len(), step, waiting, ceilings);
        page += &format!("\n{}", roofline.text(precision));
        json["roofline"] = roofline.json();
    }
    let mut predictions = vec![];
    for node in &args.node {
        let prediction = node.predict(rows, steps.len(), run, ranks);
        page += &format!("\n{}", prediction.text());
        predictions.push(prediction.json());
    }
    json["predictions"] = json!(predictions);
    tell(page);
    run.json_of_its_own().map_or(Ok(()), |file| write_json(file, &json))
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let x: Option<f64> = text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
    x.ok_or_else(|| "expected seconds above 0".to_string())
}
