//! `llm-train report --scaling RUN…`: several runs of one study side by side: what more devices bring.
//!
//! ```text
//! R(n)            tokens/s on n devices, mean over the steps that count       n₀: the fewest
//! speed-up        R(n) / R(n₀)
//! efficiency      (R(n) / n) / (R(n₀) / n₀)      weak: time(n₀) / time(n);  strong: n₀ time(n₀) / (n time(n)). The same ratio
//! exposed         waiting for other ranks and nothing else, part of the step's time, rank 0
//! cost            price of a device and hour · n / (3600 R(n)), of 10⁶ tokens
//! ```
//! weak: as many sequences a step and device throughout; strong: as many a step. A run is the folder of a training (its
//! `metrics.h5`), or the `--json` file of `bench step`.
use crate::bad_input;
use crate::commands::{say, tell};
use crate::error::{Error, Result};
use crate::metrics::stats::{Stats, warm_up};
use crate::metrics::units::significant;
use crate::metrics::{self, History};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What was measured on one number of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub run: String,
    /// Model, sequence length, precision: the same in all runs of a study.
    pub what: String,
    pub devices: u64,
    pub global_batch: u64,
    pub tokens_per_second: f64,
    /// Of the step's time.
    pub exposed: f64,
    pub joules_per_token: Option<f64>,
    /// As the run itself says.
    pub scaling: Option<String>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub of: Measured,
    pub per_device: f64,
    pub speed_up: f64,
    pub efficiency: f64,
    /// Of a million tokens.
    pub cost: Option<f64>,
}

pub struct Asked<'a> {
    pub runs: &'a [PathBuf],
    pub csv: Option<&'a Path>,
    pub picture: Option<&'a Path>,
    pub price: Option<f64>,
}

pub fn report(asked: &Asked) -> Result<()> {
    let measured = asked.runs.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let (kind, lines) = lines(measured, asked.price)?;
    tell(table(kind, &lines));
    let written = |file: &Path, text: String| {
        std::fs::write(file, text).map_err(|e| Error::Failed(format!("{}: cannot be written: {e}", file.display())))
    };
    if let Some(file) = asked.csv {
        written(file, csv(kind, &lines))?;
        say(format_args!("table: {}", file.display()));
    }
    if let Some(file) = asked.picture {
        let points: Vec<[f64; 3]> = lines.iter().map(|l| [l.of.devices as f64, l.of.tokens_per_second, l.efficiency]).collect();
        written(file, metrics::draw_scaling(&points, &format!("{}, {kind} scaling", lines[0].of.what)))?;
        say(format_args!("picture: {}", file.display()));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Measured> {
    let run = path.file_stem().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    if path.is_dir() { of_history(run, path) } else { of_json(run, path) }
}

fn of_json(run: String, path: &Path) -> Result<Measured> {
    let name = path.display();
    let text = std::fs::read(path).map_err(|e| Error::Input(format!("{name}: expected a run, found: {e}")))?;
    let json: Value = serde_json::from_slice(&text).unwrap_or_default();
    let number = |path: &str| json.pointer(path).and_then(Value::as_f64);
    let word = |key: &str| json[key].as_str().unwrap_or("-").to_string();
    let found = (number("/ranks"), number("/global_batch"), number("/tokens_per_second/mean"), number("/step_seconds/mean"));
    let (Some(ranks), Some(batch), Some(rate), Some(step)) = found else {
        bad_input!("{name}: expected the --json file of llm-train bench step or the folder of a run, found another file");
    };
    Ok(Measured {
        run,
        what: format!("{}, T={}, {}", word("model"), json["seq_len"], word("precision")),
        devices: ranks as u64,
        global_batch: batch as u64,
        tokens_per_second: rate,
        exposed: number("/comm_exposed_seconds/mean").unwrap_or(0.0) / step,
        joules_per_token: number("/joules_per_token"),
        scaling: json["scaling"].as_str().map(str::to_string),
    })
}

fn of_history(run: String, path: &Path) -> Result<Measured> {
    let history = History::read(&path.join("metrics.h5"))?;
    let name = path.display();
    let rows = history.latest_steps();
    let counted = &rows[warm_up(rows.len())..];
    let mean = |get: fn(&metrics::StepRecord) -> f64| Stats::of(counted.iter().map(get)).map(|s| s.mean);
    let (Some(start), Some(rate), Some(step), Some(exposed)) =
        (history.latest_start(), mean(|s| s.tokens_per_second), mean(|s| s.step_time), mean(|s| s.comm_exposed_time))
    else {
        bad_input!("{name}: expected a run with steps, found none");
    };
    let config: toml::Table = start.configuration.parse().unwrap_or_default();
    let key = |section: &str, key: &str| config.get(section).and_then(|s| s.get(key)).cloned();
    let text = |section: &str, name: &str| key(section, name).map_or("-".into(), |v| v.to_string().replace('"', ""));
    Ok(Measured {
        run,
        what: format!("{}, T={}, {}", text("model", "name"), text("batch", "seq_len"), text("system", "precision")),
        devices: start.ranks,
        global_batch: key("batch", "global_batch").and_then(|v| v.as_integer()).unwrap_or(0) as u64,
        tokens_per_second: rate,
        exposed: exposed / step,
        joules_per_token: joules_per_token(counted),
        scaling: None,
    })
}

/// Of those steps together; `None` where one has no energy.
fn joules_per_token(steps: &[metrics::StepRecord]) -> Option<f64> {
    let joules = steps.iter().map(|s| s.energy).sum::<Option<f64>>()?;
    Some(joules / steps.iter().map(|s| s.tokens_per_second * s.step_time).sum::<f64>())
}

/// The rows by devices, and which kind of scaling they show.
///
/// Errors: runs of different models, two of one number of devices, batches that fit neither kind or not what a run says.
pub fn lines(mut measured: Vec<Measured>, price: Option<f64>) -> Result<(&'static str, Vec<Line>)> {
    measured.sort_by_key(|m| m.devices);
    let first = measured[0].clone();
    for pair in measured.windows(2) {
        let [a, b] = pair else { unreachable!("two each") };
        if a.what != b.what {
            bad_input!("--scaling: expected runs of one study, found {} ({}) and {} ({})", a.run, a.what, b.run, b.what);
        }
        if a.devices == b.devices {
            bad_input!("--scaling: expected one run for each number of devices, found {} and {} of {}", a.run, b.run, a.devices);
        }
    }
    let strong = measured.iter().all(|m| m.global_batch == first.global_batch);
    let weak = measured.iter().all(|m| m.global_batch * first.devices == first.global_batch * m.devices);
    let said = measured.iter().find_map(|m| m.scaling.as_deref());
    let kind = match said {
        Some("weak") if weak => "weak",
        Some("strong") if strong => "strong",
        None if weak => "weak",
        None if strong => "strong",
        _ => {
            let batches: Vec<_> = measured.iter().map(|m| format!("{} on {}", m.global_batch, m.devices)).collect();
            bad_input!(
                "--scaling: expected as many sequences a device and step (weak) or a step (strong){}, found {}",
                said.map_or(String::new(), |said| format!(", and these runs are to be {said}")),
                batches.join(", ")
            )
        }
    };
    let per_device = |m: &Measured| m.tokens_per_second / m.devices as f64;
    let line = |of: Measured| Line {
        per_device: per_device(&of),
        speed_up: of.tokens_per_second / first.tokens_per_second,
        efficiency: per_device(&of) / per_device(&first),
        cost: price.map(|price| 1e6 * price * of.devices as f64 / (3600.0 * of.tokens_per_second)),
        of,
    };
    Ok((kind, measured.into_iter().map(line).collect()))
}

pub fn table(kind: &str, lines: &[Line]) -> String {
    let mut out = format!("{kind} scaling: {}\n", lines[0].of.what);
    let _ = writeln!(
        out,
        "{:>8} {:>9} {:>12} {:>12} {:>9} {:>11} {:>9} {:>9} {:>12}  run",
        "devices", "sequences", "tokens/s", "per device", "speed-up", "efficiency", "exposed", "J/token", "cost/1e6"
    );
    for l in lines {
        let some = |x: Option<f64>| x.map_or("-".into(), |x| significant(x, 4));
        let [rate, each] = [l.of.tokens_per_second, l.per_device].map(|x| significant(x, 5));
        let _ = writeln!(
            out,
            "{:>8} {:>9} {rate:>12} {each:>12} {:>9.3} {:>10.1}% {:>8.1}% {:>9} {:>12}  {}",
            l.of.devices,
            l.of.global_batch,
            l.speed_up,
            100.0 * l.efficiency,
            100.0 * l.of.exposed,
            some(l.of.joules_per_token),
            some(l.cost),
            l.of.run
        );
    }
    out
}

/// The same for machines: full precision, empty where not known.
pub fn csv(kind: &str, lines: &[Line]) -> String {
    let mut out = "run,scaling,devices,global_batch,tokens_per_second,tokens_per_second_per_device,speed_up,efficiency,\
                   exposed_communication,joules_per_token,cost_per_million_tokens\n"
        .to_string();
    for l in lines {
        let some = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let run = format!("\"{}\"", l.of.run.replace('"', "\"\""));
        let (m, j, c) = (&l.of, some(l.of.joules_per_token), some(l.cost));
        let (n, batch, rate, exposed) = (m.devices, m.global_batch, m.tokens_per_second, m.exposed);
        let _ =
            writeln!(out, "{run},{kind},{n},{batch},{rate},{},{},{},{exposed},{j},{c}", l.per_device, l.speed_up, l.efficiency);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(devices: u64, global_batch: u64, rate: f64) -> Measured {
        let (run, what) = (format!("r{devices}"), "nano, T=256, fp32".to_string());
        let (joules_per_token, scaling) = (None, None);
        Measured { run, what, devices, global_batch, tokens_per_second: rate, exposed: 0.1, joules_per_token, scaling }
    }

    #[test]
    fn efficiency_is_that_of_the_fewest_devices() {
        let (kind, lines) = lines(vec![run(8, 32, 2400.0), run(2, 8, 800.0)], Some(3.6)).unwrap();
        assert_eq!((kind, lines[1].speed_up, lines[1].efficiency), ("weak", 3.0, 0.75));
        // 8 devices at 3.60 an hour: 0.008 a second, in which 2,400 tokens pass
        assert!((lines[1].cost.unwrap() - 0.008 / 2400.0 * 1e6).abs() < 1e-9);
        let csv = csv(kind, &lines);
        assert_eq!(csv.lines().nth(2), Some("\"r8\",weak,8,32,2400,300,3,0.75,0.1,,3.3333333333333335"));
    }

    #[test]
    fn energy_is_that_of_all_steps_or_none() {
        let step = |energy| metrics::StepRecord { energy, tokens_per_second: 50.0, step_time: 2.0, ..Default::default() };
        assert_eq!(joules_per_token(&[step(Some(30.0)), step(Some(10.0))]), Some(0.2));
        assert_eq!(joules_per_token(&[step(Some(30.0)), step(None)]), None);
    }

    #[test]
    fn runs_that_do_not_belong_together_are_refused() {
        assert_eq!(lines(vec![run(1, 8, 1.0), run(2, 8, 1.0)], None).unwrap().0, "strong");
        let refused = |runs: Vec<Measured>, word: &str| {
            let why = lines(runs, None).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        };
        refused(vec![run(1, 8, 1.0), run(2, 12, 1.0)], "found 8 on 1, 12 on 2");
        refused(vec![run(2, 8, 1.0), run(2, 8, 1.0)], "one run for each");
        refused(vec![run(1, 8, 1.0), Measured { what: "opt".into(), ..run(2, 16, 1.0) }], "one study");
        let said = Measured { scaling: Some("strong".into()), ..run(2, 16, 1.0) };
        refused(vec![run(1, 8, 1.0), said], "to be strong");
    }
}
