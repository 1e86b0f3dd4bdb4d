//! `llm-train report OUT`: the run on one page, as a picture and as text. Works on a run that is still going, too.
use crate::commands::{say, scaling, tell};
use crate::error::Result;
use crate::metrics::units::{bytes, date, duration, significant, thousands};
use crate::metrics::{self, History, Summary};
use crate::{bad_input, failed};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Draw a run's curves into an SVG and sum it up on one page.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// The folder that the run writes to (its --out), or a metrics.h5 itself
    #[arg(value_name = "OUT", required_unless_present = "scaling", conflicts_with = "scaling")]
    pub out: Option<PathBuf>,
    /// Where the picture goes [default: OUT/report.svg; of --scaling: none]
    #[arg(long, value_name = "FILE.svg")]
    pub output: Option<PathBuf>,
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

/// Prints the page on stdout and writes the picture.
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
    let file = metrics_file(out);
    let history = History::read(&file)?;
    let picture = args.output.clone().unwrap_or_else(|| file.with_file_name("report.svg"));
    write_picture(&history, &file, &picture)?;
    tell(page(&history, &file));
    say(format_args!("picture: {}", picture.display()));
    Ok(())
}

/// Draws `OUT/report.svg` and returns its path.
pub fn draw(out: &Path) -> Result<PathBuf> {
    let file = metrics_file(out);
    let picture = file.with_file_name("report.svg");
    write_picture(&History::read(&file)?, &file, &picture)?;
    Ok(picture)
}

fn metrics_file(out: &Path) -> PathBuf {
    if out.is_file() { out.to_path_buf() } else { out.join("metrics.h5") }
}

fn write_picture(history: &History, file: &Path, picture: &Path) -> Result<()> {
    let folder = std::path::absolute(file).ok().and_then(|p| Some(p.parent()?.file_name()?.to_string_lossy().into_owned()));
    let svg = metrics::draw(history, &folder.unwrap_or_else(|| "run".into()));
    if let Err(e) = std::fs::write(picture, svg) {
        failed!("{}: the picture cannot be written: {e}", picture.display());
    }
    Ok(())
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
        let last = last.map_or("-".into(), |r| r.step.to_string());
        let row = (date(start.time), start.ranks, start.resumed_step + 1);
        let _ = writeln!(out, "{:<22} {:>6} {:>10} {last:>10} {first_step:>14}", row.0, row.1, row.2);
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

/// About ten rows, evenly over the run: the training loss as the mean since the row above, and the held-out losses as
/// they were last measured.
fn loss_table(history: &History) -> String {
    let rows = &history.steps;
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{:>10} {:>14} {:>10} {:>10} {:>10}", "step", "tokens", "loss (mean)", "norm", "tokens/s");
    history.evaluations.iter().for_each(|e| out += &format!(" {:>12}", e.set.name));
    out.push('\n');
    for part in rows.chunks(rows.len().div_ceil(10)) {
        let mean = |get: fn(&metrics::StepRecord) -> f64| part.iter().map(get).sum::<f64>() / part.len() as f64;
        let last = &part[part.len() - 1];
        let [norm, rate] = [mean(|r| r.grad_norm), mean(|r| r.tokens_per_second)].map(|v| significant(v, 4));
        let _ = write!(out, "{:>10} {:>14} {:>11.4} {norm:>10} {rate:>10}", last.step, thousands(last.tokens), mean(|r| r.loss));
        for e in &history.evaluations {
            let known = e.points.iter().rev().find(|p| p.step <= last.step);
            let _ = write!(out, " {:>12}", known.map_or("-".into(), |p| format!("{:.4}", p.loss)));
        }
        out.push('\n');
    }
    out
}
