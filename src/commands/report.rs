//! `llm-train report OUT`: the run on one page, as text, as a picture and as HTML. Works on a run that is still going, too;
//! `--live` follows it, `--scaling` sets several side by side.
mod html;
mod live;

use crate::commands::{say, scaling, tell};
use crate::error::Result;
use crate::metrics::units::{bytes, date, duration, significant, thousands};
use crate::metrics::{self, History, State, Summary};
use crate::{bad_input, checkpoint, failed};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Sum a run up on one page, draw its curves, or follow it while it goes on.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// The folder that the run writes to (its --out), or a metrics.h5 itself
    #[arg(value_name = "OUT", required_unless_present = "scaling", conflicts_with = "scaling")]
    pub out: Option<PathBuf>,
    /// Where the picture goes, and the HTML page beside it [default: OUT/report.svg, OUT/report.html; of --scaling: none]
    #[arg(long, value_name = "FILE.svg")]
    pub output: Option<PathBuf>,
    /// Follow the run in the terminal, also from another node, until it ends or Ctrl-C; writes nothing
    #[arg(long, conflicts_with_all = ["output", "scaling"])]
    pub live: bool,
    /// With --live: seconds between looks [default: 1 on a terminal, else 30]
    #[arg(long, value_name = "SECONDS", requires = "live", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: Option<u64>,
    /// Several runs of a scaling study in one table: folders of runs, or --json files of bench step
    #[arg(long, value_name = "RUN", num_args = 1..)]
    pub scaling: Vec<PathBuf>,
    /// The table of --scaling for machines
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// What a device costs an hour: --scaling then tells the cost of 10⁶ tokens
    #[arg(long, value_name = "X", value_parser = price)]
    pub price_per_device_hour: Option<f64>,
}

fn price(text: &str) -> std::result::Result<f64, String> {
    let x: Option<f64> = text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
    x.ok_or_else(|| "expected a price, not below 0".to_string())
}

/// Prints the page on stdout and writes the picture and the HTML page.
pub fn run(args: &ReportArgs) -> Result<()> {
    let Some(out) = &args.out else {
        return scaling::report(&scaling::Asked {
            runs: &args.scaling,
            csv: args.csv.as_deref(),
            picture: args.output.as_deref(),
            price: args.price_per_device_hour,
        });
    };
    if args.csv.is_some() || args.price_per_device_hour.is_some() {
        bad_input!("--csv and --price-per-device-hour: expected --scaling, for they belong to its table, found one run");
    }
    if args.live {
        return live::follow(&metrics_file(out), args.every);
    }
    let file = metrics_file(out);
    let history = History::read(&file)?;
    let picture = args.output.clone().unwrap_or_else(|| file.with_file_name("report.svg"));
    tell(page(&history, &file));
    let html = draw(&history, &file, &picture)?;
    say(format_args!("picture: {}\npage: {}", picture.display(), html.display()));
    Ok(())
}

/// Writes the picture, and the HTML page beside it, whose path it returns; `file` is where `history` was read.
pub fn draw(history: &History, file: &Path, picture: &Path) -> Result<PathBuf> {
    let html = picture.with_extension("html");
    write(picture, &metrics::draw(history, &name(file)))?;
    write(&html, &web_page(history, file)?)?;
    Ok(html)
}

/// The run as HTML; `file` is where `history` was read.
pub fn web_page(history: &History, file: &Path) -> Result<String> {
    let checkpoints = checkpoint::list(file.parent().unwrap_or(Path::new(".")))?;
    let now = SystemTime::now();
    let written = file.metadata().and_then(|m| m.modified()).ok();
    let silence = written.and_then(|written| now.duration_since(written).ok()).unwrap_or_default();
    let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
    let (name, state) = (name(file), State::of(file, history));
    Ok(html::page(&html::Seen { name: &name, history, state, silence, checkpoints: &checkpoints, now }))
}

fn metrics_file(out: &Path) -> PathBuf {
    if out.is_file() { out.to_path_buf() } else { out.join("metrics.h5") }
}

/// What a run is called: its folder.
fn name(file: &Path) -> String {
    let folder = std::path::absolute(file).ok().and_then(|p| Some(p.parent()?.file_name()?.to_string_lossy().into_owned()));
    folder.unwrap_or_else(|| "run".into())
}

fn write(file: &Path, text: &str) -> Result<()> {
    match std::fs::write(file, text) {
        Ok(()) => Ok(()),
        Err(e) => failed!("{}: cannot be written: {e}; llm-train report --output FILE.svg draws elsewhere", file.display()),
    }
}

/// The run in words: what ran, its starts, how the loss went, what happened, the figures of merit.
pub fn page(history: &History, file: &Path) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", file.display());
    if let Some(start) = history.starts.last() {
        let mpi = if start.mpi.is_empty() { "no MPI" } else { &start.mpi };
        let _ = writeln!(out, "llm-train {} {}, {}; hosts {}", start.version, start.revision, mpi.trim(), start.hosts);
        let _ = writeln!(out, "{} parameters; {}\n", thousands(start.parameters), start.command_line);
    }
    let _ = writeln!(out, "{:<22} {:>6} {:>10} {:>10} {:>14}", "start", "ranks", "from step", "to step", "first step (s)");
    for (i, start) in history.starts.iter().enumerate() {
        let end = history.starts.get(i + 1).map_or(u64::MAX, |next| next.resumed_step);
        let last = history.steps.iter().rev().find(|r| r.step <= end && r.step > start.resumed_step);
        let first_step = start.first_step.map_or("-".into(), |s| significant(s, 3));
        let steps = last.map_or("ran no step".into(), |r| format!("{:>10} {:>10}", start.resumed_step + 1, r.step));
        let _ = writeln!(out, "{:<22} {:>6} {steps:>21} {first_step:>14}", date(start.time), start.ranks);
    }
    out += &loss_table(history);
    if !history.events.is_empty() {
        let _ = writeln!(out, "\nlast of {} events", history.events.len());
        for e in &history.events[history.events.len().saturating_sub(8)..] {
            let _ = writeln!(out, "{:<22} step {:<8} {}", date(e.time), e.step, e.text);
        }
    }
    let time: f64 = history.steps.iter().map(|r| r.step_time).sum();
    let memory = history.steps.iter().map(|r| r.memory).max().unwrap_or(0);
    let _ = writeln!(out, "\n{} in steps in all, at most {} on rank 0\n", duration(time), bytes(memory));
    out + &Summary::of(history).text()
}

/// Some steps in a row.
struct Row {
    /// The last of them.
    step: u64,
    tokens: u64,
    /// Means.
    loss: f64,
    norm: f64,
    rate: f64,
    /// The held-out losses, where they were measured among these steps; the last of several.
    evals: Vec<Option<f64>>,
}

/// At most `rows` rows, evenly over the run.
fn over_the_run(history: &History, rows: usize) -> Vec<Row> {
    let steps = &history.steps;
    let row = |part: &[metrics::StepRecord]| {
        let mean = |get: fn(&metrics::StepRecord) -> f64| part.iter().map(get).sum::<f64>() / part.len() as f64;
        let last = &part[part.len() - 1];
        let here = |step: u64| (part[0].step..=last.step).contains(&step);
        let known = |e: &metrics::Evaluation| e.points.iter().rev().find(|p| here(p.step)).map(|p| p.loss);
        Row {
            step: last.step,
            tokens: last.tokens,
            loss: mean(|r| r.loss),
            norm: mean(|r| r.grad_norm),
            rate: mean(|r| r.tokens_per_second),
            evals: history.evaluations.iter().map(known).collect(),
        }
    };
    steps.chunks(steps.len().div_ceil(rows).max(1)).map(row).collect()
}

fn loss_table(history: &History) -> String {
    let rows = over_the_run(history, 10);
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{:>10} {:>14} {:>10} {:>10} {:>10}", "step", "tokens", "loss (mean)", "norm", "tokens/s");
    history.evaluations.iter().for_each(|e| out += &format!(" {:>12}", e.set.name));
    out.push('\n');
    for row in rows {
        let [norm, rate] = [row.norm, row.rate].map(|v| significant(v, 4));
        let _ = write!(out, "{:>10} {:>14} {:>11.4} {norm:>10} {rate:>10}", row.step, thousands(row.tokens), row.loss);
        for loss in row.evals {
            let _ = write!(out, " {:>12}", loss.map_or("-".into(), |loss| format!("{loss:.4}")));
        }
        out.push('\n');
    }
    out
}
