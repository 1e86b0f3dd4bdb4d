//! `llm-train report --scaling RUN…`: several runs of one study side by side: what more devices bring.
//!
//! ```text
//! R(n)            tokens/s on n devices, mean over the steps that count, and its 95 % interval      n₀: the fewest
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
    pub model: String,
    pub seq_len: u64,
    pub precision: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// Of rank 0, where the run still knows.
    pub threads: Option<u64>,
    pub devices: u64,
    pub global_batch: u64,
    /// Over the steps that count.
    pub tokens_per_second: Stats,
    /// Of the step's time.
    pub exposed: f64,
    pub joules_per_token: Option<f64>,
    /// As the run itself says.
    pub scaling: Option<String>,
}

impl Measured {
    /// What is the same in all runs of a study.
    fn what(&self) -> String {
        format!("{}, T={}, {}", self.model, self.seq_len, self.precision)
    }
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
    if let Some(warning) = unequal_threads(&lines) {
        log::warn!("{warning}");
    }
    let written = |file: &Path, text: String| {
        std::fs::write(file, text).map_err(|e| Error::Failed(format!("{}: cannot be written: {e}", file.display())))
    };
    if let Some(file) = asked.csv {
        written(file, csv(kind, &lines))?;
        say(format_args!("table: {}", file.display()));
    }
    if let Some(file) = asked.picture {
        let points: Vec<[f64; 3]> =
            lines.iter().map(|l| [l.of.devices as f64, l.of.tokens_per_second.mean, l.efficiency]).collect();
        written(file, metrics::draw_scaling(&points, &format!("{}, {kind} scaling", lines[0].of.what())))?;
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
    let count = |key: &str| json[key].as_u64();
    let rate = serde_json::from_value::<Stats>(json["tokens_per_second"].clone()).ok();
    let found = (count("ranks"), count("global_batch"), count("seq_len"), rate, number("/step_seconds/mean"));
    let (Some(ranks), Some(batch), Some(seq_len), Some(rate), Some(step)) = found else {
        bad_input!("{name}: expected the --json file of llm-train bench step or the folder of a run, found another file");
    };
    Ok(Measured {
        run,
        model: word("model"),
        seq_len,
        precision: word("precision"),
        device: word("device"),
        threads: count("threads"),
        devices: ranks,
        global_batch: batch,
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
    let stats = |get: fn(&metrics::StepRecord) -> f64| Stats::of(counted.iter().map(get));
    let (Some(start), Some(rate), Some(step), Some(exposed)) =
        (history.latest_start(), stats(|s| s.tokens_per_second), stats(|s| s.step_time), stats(|s| s.comm_exposed_time))
    else {
        bad_input!("{name}: expected a run with steps, found none");
    };
    let config: toml::Table = start.configuration.parse().unwrap_or_default();
    let key = |section: &str, key: &str| config.get(section).and_then(|s| s.get(key)).cloned();
    let text = |section: &str, name: &str| key(section, name).map_or("-".into(), |v| v.to_string().replace('"', ""));
    let count = |name: &str| key("batch", name).and_then(|v| v.as_integer()).unwrap_or(0) as u64;
    // The ranks are those of the last start, which may have run no step.
    let rank = history.ranks.first().filter(|_| history.starts.last() == Some(start));
    Ok(Measured {
        run,
        model: text("model", "name"),
        seq_len: count("seq_len"),
        precision: text("system", "precision"),
        device: rank.map_or("-".into(), |rank| rank.device.clone()),
        threads: rank.map(|rank| rank.threads),
        devices: start.ranks,
        global_batch: count("global_batch"),
        tokens_per_second: rate,
        exposed: exposed.mean / step.mean,
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
        if a.what() != b.what() {
            bad_input!("--scaling: expected runs of one study, found {} ({}) and {} ({})", a.run, a.what(), b.run, b.what());
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
    let per_device = |m: &Measured| m.tokens_per_second.mean / m.devices as f64;
    let line = |of: Measured| Line {
        per_device: per_device(&of),
        speed_up: of.tokens_per_second.mean / first.tokens_per_second.mean,
        efficiency: per_device(&of) / per_device(&first),
        cost: price.map(|price| 1e6 * price * of.devices as f64 / (3600.0 * of.tokens_per_second.mean)),
        of,
    };
    Ok((kind, measured.into_iter().map(line).collect()))
}

/// What to say where the ranks of one run had more threads than those of another: the rows then compare threads as well as devices. Not
/// on GPUs, which threads only feed.
fn unequal_threads(lines: &[Line]) -> Option<String> {
    let known = || lines.iter().filter_map(|l| (l.of.device == "cpu").then_some((&l.of.run, l.of.threads?)));
    let first = known().next()?.1;
    let each = known().map(|(run, threads)| format!("{threads} in {run}")).collect::<Vec<_>>().join(", ");
    let differ = known().any(|(_, threads)| threads != first);
    differ.then(|| format!("the rows are not comparable, for their ranks had different numbers of threads (--threads): {each}"))
}

pub fn table(kind: &str, lines: &[Line]) -> String {
    let threads = lines[0].of.threads.filter(|_| lines.iter().all(|l| l.of.threads == lines[0].of.threads));
    let threads = threads.map_or(String::new(), |n| format!(", {n} thread{} a rank", if n == 1 { "" } else { "s" }));
    let mut out = format!("{kind} scaling: {}{threads}\n", lines[0].of.what());
    let _ = writeln!(
        out,
        "{:>8} {:>9} {:>12} {:>5} {:>18} {:>12} {:>9} {:>11} {:>9} {:>9} {:>12}  run",
        "devices",
        "sequences",
        "tokens/s",
        "n",
        "95 % interval",
        "per device",
        "speed-up",
        "efficiency",
        "exposed",
        "J/token",
        "cost/1e6"
    );
    for l in lines {
        let some = |x: Option<f64>| x.map_or("-".into(), |x| significant(x, 4));
        let rate = &l.of.tokens_per_second;
        let [low, high] = rate.interval().map(|x| significant(x, 5));
        let interval = if rate.n > 1 { format!("{low} to {high}") } else { "-".into() };
        let [mean, each] = [rate.mean, l.per_device].map(|x| significant(x, 5));
        let _ = writeln!(
            out,
            "{:>8} {:>9} {mean:>12} {:>5} {interval:>18} {each:>12} {:>9.3} {:>10.1}% {:>8.1}% {:>9} {:>12}  {}",
            l.of.devices,
            l.of.global_batch,
            rate.n,
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
    let rows: Vec<_> = lines.iter().map(|line| fields(kind, line)).collect();
    let header = rows[0].iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",");
    let row = |fields: &[(&str, String)]| fields.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(",");
    std::iter::once(header).chain(rows.iter().map(|fields| row(fields))).map(|line| line + "\n").collect()
}

fn fields(kind: &str, line: &Line) -> [(&'static str, String); 19] {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let some = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let (m, rate) = (&line.of, &line.of.tokens_per_second);
    let [low, high] = rate.interval().map(|end| some(Some(end).filter(|end| end.is_finite())));
    [
        ("run", quoted(&m.run)),
        ("scaling", kind.to_string()),
        ("model", quoted(&m.model)),
        ("seq_len", m.seq_len.to_string()),
        ("precision", m.precision.clone()),
        ("threads_per_rank", some(m.threads.map(|n| n as f64))),
        ("devices", m.devices.to_string()),
        ("global_batch", m.global_batch.to_string()),
        ("tokens_per_second", rate.mean.to_string()),
        ("tokens_per_second_n", rate.n.to_string()),
        ("tokens_per_second_stddev", rate.stddev.to_string()),
        ("tokens_per_second_ci95_low", low),
        ("tokens_per_second_ci95_high", high),
        ("tokens_per_second_per_device", line.per_device.to_string()),
        ("speed_up", line.speed_up.to_string()),
        ("efficiency", line.efficiency.to_string()),
        ("exposed_communication", m.exposed.to_string()),
        ("joules_per_token", some(m.joules_per_token)),
        ("cost_per_million_tokens", some(line.cost)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(devices: u64, global_batch: u64, rate: f64) -> Measured {
        Measured {
            run: format!("r{devices}"),
            model: "nano".into(),
            seq_len: 256,
            precision: "fp32".into(),
            device: "cpu".into(),
            threads: Some(2),
            devices,
            global_batch,
            tokens_per_second: Stats::of([rate]).unwrap(),
            exposed: 0.1,
            joules_per_token: None,
            scaling: None,
        }
    }

    #[test]
    fn efficiency_is_that_of_the_fewest_devices() {
        let (kind, lines) = lines(vec![run(8, 32, 2400.0), run(2, 8, 800.0)], Some(3.6)).unwrap();
        assert_eq!((kind, lines[1].speed_up, lines[1].efficiency), ("weak", 3.0, 0.75));
        // 8 devices at 3.60 an hour: 0.008 a second, in which 2,400 tokens pass
        assert!((lines[1].cost.unwrap() - 0.008 / 2400.0 * 1e6).abs() < 1e-9);
        let csv = csv(kind, &lines);
        let row = "\"r8\",weak,\"nano\",256,fp32,2,8,32,2400,1,0,,,300,3,0.75,0.1,,3.3333333333333335";
        assert_eq!(csv.lines().nth(2), Some(row), "one step has no interval");
    }

    #[test]
    fn the_spread_stands_beside_the_mean() {
        // mean 100, stddev 2, t of 2 degrees of freedom 4.3027: half an interval is 4.9683
        let spread = Measured { tokens_per_second: Stats::of([98.0, 100.0, 102.0]).unwrap(), ..run(1, 4, 0.0) };
        let (kind, lines) = lines(vec![spread, run(2, 8, 150.0)], None).unwrap();
        let table = table(kind, &lines);
        let row: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row[..7], ["1", "4", "100.00", "3", "95.032", "to", "104.97"], "{table}");
        assert_eq!(table.lines().nth(3).unwrap().split_whitespace().nth(4), Some("-"), "one step: {table}");
        let csv = csv(kind, &lines);
        let row: Vec<&str> = csv.lines().nth(1).unwrap().split(',').collect();
        assert_eq!(row[8..11], ["100", "3", "2"], "{csv}");
        assert!(row[11].starts_with("95.0317") && row[12].starts_with("104.968"), "{csv}");
    }

    #[test]
    fn rows_of_different_threads_are_not_comparable() {
        let of = |device: &str, threads| Measured { device: device.into(), threads, ..run(2, 8, 2.0) };
        let report = |second| {
            let (kind, lines) = lines(vec![run(1, 4, 1.0), second], None).unwrap();
            (table(kind, &lines).lines().next().unwrap().to_string(), unequal_threads(&lines))
        };
        assert_eq!(report(run(2, 8, 2.0)), ("weak scaling: nano, T=256, fp32, 2 threads a rank".into(), None));
        let (title, warning) = report(of("cpu", Some(1)));
        assert_eq!(title, "weak scaling: nano, T=256, fp32");
        assert!(warning.is_some_and(|text| text.ends_with("2 in r1, 1 in r2")));
        assert_eq!(report(of("cpu", None)).1, None);
        assert_eq!(report(of("NVIDIA H100", Some(1))).1, None);
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
        refused(vec![run(1, 8, 1.0), Measured { model: "opt".into(), ..run(2, 16, 1.0) }], "one study");
        let said = Measured { scaling: Some("strong".into()), ..run(2, 16, 1.0) };
        refused(vec![run(1, 8, 1.0), said], "to be strong");
    }
}
