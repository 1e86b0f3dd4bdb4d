//! `metrics.h5` from outside: what is written is read back, also after kill -9, on a full disk, and by a follower.
//!
//! Some tests need a second process: they run this test binary again with `child` as the only test and the part to play
//! in the environment.
use hdf5::{File, OpenMode};
use llm_train::commands::report;
use llm_train::error::Error;
use llm_train::metrics::{EvalSet, Event, History, MetricsFile, Rank, Start, State, StepRecord, Summary};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

#[test]
fn numbers_read_back_equal() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    write(&mut file, 1..26);
    file.eval("code", 25, 1.25).unwrap();
    file.event(25, "saved checkpoints/step-00000025").unwrap();
    file.event(25, &"ä".repeat(500)).unwrap();
    file.first_step(1.75).unwrap();
    file.close().unwrap();

    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..26).map(record).collect::<Vec<_>>());
    assert_eq!(history.ranks, ranks());
    let written = &history.starts[0];
    assert!(written.time > 1.7e9, "{}", written.time);
    assert_eq!(*written, Start { time: written.time, ranks: 2, first_step: Some(1.75), ..start() });
    let [held_out, code] = &history.evaluations[..] else { panic!("{:?}", history.evaluations) };
    assert_eq!((&held_out.set, &code.set), (&sets()[0], &sets()[1]));
    assert_eq!(held_out.points.iter().map(|p| p.step).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(code.points[0].loss, 1.25);
    assert_eq!(history.events[0].text, "saved checkpoints/step-00000025");
    assert_eq!(history.events[1].text, "ä".repeat(120), "cut at a whole character");
    // Plain HDF5 opens it now, and every dataset says what it is.
    let plain = File::open(&path).unwrap();
    for group in ["train", "eval/code", "starts", "ranks", "events"] {
        for dataset in plain.group(group).unwrap().datasets().unwrap() {
            let texts = dataset.attr_names().unwrap();
            assert!(texts.contains(&"units".to_string()) && texts.contains(&"long_name".to_string()), "{}", dataset.name());
        }
    }
}

#[test]
fn a_resume_cuts_and_appends() {
    let (_dir, path) = folder();
    run(&path, 35);
    std::fs::write(path.with_extension("h5.new"), "left by a start that was killed").unwrap();
    let mut file = open(&path, Some(20));
    write(&mut file, 21..31);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..31).map(record).collect::<Vec<_>>(), "no step twice, none missing");
    assert_eq!(history.evaluations[0].points.iter().map(|p| p.step).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(history.starts.iter().map(|s| s.resumed_step).collect::<Vec<_>>(), [0, 20]);
    assert_eq!(history.latest_steps().len(), 10);
}

#[test]
fn a_start_that_found_all_done_hides_no_figures() {
    let (_dir, path) = folder();
    run(&path, 35);
    let before = Summary::read(&path).unwrap();
    assert!(before.steps.is_some());
    open(&path, Some(35)).close().unwrap();
    assert_eq!(History::read(&path).unwrap().starts.len(), 2);
    assert_eq!(Summary::read(&path).unwrap(), before);
}

/// Another start may evaluate on other tokens: what was measured before keeps its own bytes.
#[test]
fn an_evaluation_keeps_its_bytes_per_token() {
    let (_dir, path) = folder();
    run(&path, 25);
    let bits = |set: usize| Summary::read(&path).unwrap().evals[set].bits_per_byte.unwrap();
    let expected = |step: u64, bytes: f64| (record(step).loss + 0.1) / std::f64::consts::LN_2 / bytes;
    assert_eq!(bits(0), expected(20, 3.5));
    let other = [EvalSet { name: "held-out".into(), bytes_per_token: Some(7.0) }];
    let mut file = MetricsFile::open(&path, &start(), &ranks(), &other, Some(25)).unwrap();
    file.flush().unwrap();
    assert_eq!(bits(0), expected(20, 3.5), "an evaluation of the start before");
    write(&mut file, 26..31);
    file.close().unwrap();
    assert_eq!(bits(0), expected(30, 7.0));
}

#[test]
fn a_second_evaluation_at_a_step_replaces_the_first() {
    let (_dir, path) = folder();
    run(&path, 10);
    let mut file = open(&path, Some(10));
    file.eval("held-out", 10, 3.0).unwrap();
    file.eval("held-out", 12, 2.0).unwrap();
    file.close().unwrap();
    let points = &History::read(&path).unwrap().evaluations[0].points;
    assert_eq!(points.iter().map(|p| (p.step, p.loss)).collect::<Vec<_>>(), [(10, 3.0), (12, 2.0)]);
}

#[test]
#[should_panic(expected = "step 10 after step 10")]
fn no_step_stands_twice() {
    let (_dir, path) = folder();
    run(&path, 10);
    let _ = open(&path, Some(10)).append(&record(10));
}

#[test]
fn a_new_run_keeps_the_old_file() {
    let (dir, path) = folder();
    run(&path, 3);
    run(&path, 5);
    assert_eq!(History::read(&path).unwrap().steps.len(), 5);
    assert_eq!(History::read(&dir.path().join("metrics.1.h5")).unwrap().steps.len(), 3);
}

#[test]
fn a_ruined_file_does_not_stop_a_resume() {
    let (dir, path) = folder();
    std::fs::write(&path, "not HDF5").unwrap();
    let mut file = open(&path, Some(20));
    write(&mut file, 21..23);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps.iter().map(|r| r.step).collect::<Vec<_>>(), [21, 22]);
    let [Event { text, .. }] = &history.events[..] else { panic!("{:?}", history.events) };
    assert!(text.contains("metrics.1.h5"), "{text}");
    assert!(dir.path().join("metrics.1.h5").exists());
}

/// What a child process plays; a test in name only when the environment does not ask for it.
#[test]
fn child() {
    let Ok(part) = std::env::var("METRICS_TEST_PART") else { return };
    let path = PathBuf::from(std::env::var("METRICS_TEST_FILE").unwrap());
    match part.as_str() {
        "write until killed" => {
            let mut file = open(&path, None);
            for step in 1.. {
                file.append(&record(step)).unwrap();
                if step % 50 == 0 {
                    file.eval("held-out", step, 1.0).unwrap(); // flushes
                    println!("\nflushed {step}");
                }
            }
        }
        "write until it fails" => {
            let mut file = open(&path, None);
            let why = (1..).find_map(|step| file.append(&record(step)).and_then(|()| file.flush()).err()).unwrap();
            println!("\nfailed {}", why.exit_code());
            println!("\nsaid {why}");
        }
        "follow" => {
            let file = File::open_as(&path, OpenMode::ReadSWMR).unwrap();
            let loss = file.dataset("train/loss").unwrap();
            println!("\nfollowing");
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut seen = 0;
            while seen < 3000 && Instant::now() < deadline {
                loss.refresh().unwrap();
                let values: Vec<f64> = loss.read_raw().unwrap();
                assert!(values.len() >= seen, "rows vanished: {} after {seen}", values.len());
                values.iter().zip(1..).for_each(|(v, step)| assert_eq!(*v, record(step).loss, "step {step}"));
                if values.len() > seen {
                    println!("\nsaw {}", values.len());
                }
                seen = values.len();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        other => panic!("unknown part {other}"),
    }
}

fn play(part: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).stdout(Stdio::piped());
    command.env("METRICS_TEST_PART", part).env("METRICS_TEST_FILE", path);
    command
}

/// The rest of the next line that the child begins with `word`.
fn wait_for(child: &mut BufReader<std::process::ChildStdout>, word: &str) -> String {
    let mut line = String::new();
    while child.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.trim_end().strip_prefix(word) {
            return rest.trim().to_string();
        }
        line.clear();
    }
    panic!("the child ended without saying {word:?}");
}

fn piped(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

#[test]
fn survives_kill_9() {
    let (_dir, path) = folder();
    let (mut child, mut out) = piped(play("write until killed", &path));
    let mut flushed = 0;
    while flushed < 300 {
        flushed = wait_for(&mut out, "flushed").parse().unwrap();
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();

    let left = History::read(&path).unwrap();
    assert!(left.steps.len() >= flushed as usize, "{} rows of {flushed} flushed", left.steps.len());
    left.steps.iter().zip(1..).for_each(|(r, step)| assert_eq!(*r, record(step)));
    let mut file = open(&path, Some(250));
    write(&mut file, 251..261);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..261).map(record).collect::<Vec<_>>());
    assert_eq!(history.starts.len(), 2);
    File::open(&path).expect("plain HDF5 opens it again");
}

#[test]
fn a_follower_sees_rows_as_they_come_and_does_not_hinder_a_resume() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    file.flush().unwrap();
    let (mut child, mut out) = piped(play("follow", &path));
    wait_for(&mut out, "following");
    let mut saw = 0;
    for step in 1..3001 {
        file.append(&record(step)).unwrap();
        if step % 100 == 0 {
            file.flush().unwrap();
        }
        if step == 1500 {
            file.flush().unwrap();
            while saw < 1500 {
                saw = wait_for(&mut out, "saw").parse().unwrap(); // while the writer has it open
            }
            drop(file);
            file = open(&path, Some(1500)); // the follower is still attached
            child.kill().unwrap();
            child.wait().unwrap();
            (child, out) = piped(play("follow", &path));
            wait_for(&mut out, "following");
            saw = 0;
        }
    }
    file.flush().unwrap();
    while saw < 3000 {
        saw = wait_for(&mut out, "saw").parse().unwrap();
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_unwritable_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/metrics.h5");
    let Err(Error::Failed(why)) = MetricsFile::open(&path, &start(), &ranks(), &[], None) else { panic!("it opened") };
    assert!(why.contains("file/metrics.h5") && why.contains("cannot be written") && !why.contains('\n'), "{why}");
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let (_dir, path) = folder();
    let missing = History::read(&path).unwrap_err();
    assert!(matches!(&missing, Error::Input(why) if why.contains("metrics.h5") && why.contains("no such file")), "{missing}");
    std::fs::write(&path, "hello").unwrap();
    let foreign = History::read(&path).unwrap_err();
    assert!(matches!(&foreign, Error::Input(why) if why.contains("metrics.h5") && !why.contains('\n')), "{foreign}");
}

/// `ulimit -f` makes writes past 200 blocks fail, as a full disk does.
#[test]
fn a_full_disk_is_a_failure_that_names_the_file() {
    let (_dir, path) = folder();
    let limited = play("write until it fails", &path);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""]).arg(limited.get_program()).args(limited.get_args());
    shell.envs(limited.get_envs().filter_map(|(key, value)| Some((key, value?)))).stdout(Stdio::piped());
    let (mut child, mut out) = piped(shell);
    assert_eq!(wait_for(&mut out, "failed"), "1");
    let why = wait_for(&mut out, "said");
    assert!(why.contains("metrics.h5") && why.contains("cannot be written") && why.contains("File too large"), "{why}");
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended}: it must end in order, not in a crash");
}

/// Every figure of the end block, formed here anew from the bare datasets.
#[test]
fn figures_can_be_recomputed_from_the_file() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    write(&mut file, 1..51);
    file.first_step(1.75).unwrap();
    file.close().unwrap();
    let summary = Summary::read(&path).unwrap();
    let h5 = File::open(&path).unwrap();
    let counted = |name: &str| reals(&h5, name)[5..].to_vec(); // 50 steps: a tenth is left out
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let tokens: Vec<i64> = h5.dataset("train/tokens").unwrap().read_raw().unwrap();
    let times = reals(&h5, "train/step_time");
    let rates: Vec<f64> = (5..50).map(|i| (tokens[i] - tokens[i - 1]) as f64 / times[i]).collect();
    let flops = reals(&h5, "starts/flops_per_token_full")[0];
    let peak = reals(&h5, "starts/peak_tflops")[0];
    let held_out = *reals(&h5, "eval/held-out/loss").last().unwrap();
    let bytes: f64 = h5.group("eval/held-out").unwrap().attr("bytes_per_token").unwrap().read_scalar().unwrap();

    let text = summary.text();
    let figure = |key: &str| -> f64 {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{key}: "))).unwrap_or_else(|| panic!("no {key}:\n{text}"));
        line.split_whitespace().next().unwrap().parse().unwrap_or_else(|_| panic!("{key}: {line}"))
    };
    let per_gpu = mean(&rates) / 2.0;
    let expected = [
        ("tokens/sec/gpu", per_gpu),
        ("tokens/sec", mean(&rates)),
        ("elapsed time per iteration (s)", mean(&counted("train/step_time"))),
        ("throughput per GPU (TFLOP/s/GPU)", per_gpu * flops / 1e12),
        ("MFU (attention full)", per_gpu * flops / 1e12 / peak),
        ("MFU (attention causal)", per_gpu * reals(&h5, "starts/flops_per_token_causal")[0] / 1e12 / peak),
        ("final loss", *reals(&h5, "train/loss").last().unwrap()),
        ("eval loss", held_out),
        ("bits per byte", held_out / 2f64.ln() / bytes),
        ("peak memory (bytes)", 1_000_000_050.0),
        ("time to first step (s)", reals(&h5, "starts/first_step")[0]),
    ];
    for (key, value) in expected {
        assert!((figure(key) - value).abs() <= 1e-5 * value.abs(), "{key}: {} for {value}\n{text}", figure(key));
    }

    let json = summary.json();
    assert_eq!(json["world_size"], 2);
    assert_eq!(json["config"]["model"]["width"], 64);
    for key in ["tokens_per_second", "tokens_per_second_per_device", "step_seconds", "tflops_per_device"] {
        for part in ["mean", "median", "stddev", "min", "max"] {
            assert!(json[key][part].is_f64(), "{key}.{part}: {json}");
        }
        assert_eq!(json[key]["n"], 45);
        // Student's t of 0.975 with 44 degrees of freedom, by tables.
        let [mean, stddev] = ["mean", "stddev"].map(|part| json[key][part].as_f64().unwrap());
        let [low, high] = [0, 1].map(|end| json[key]["interval95"][end].as_f64().unwrap());
        assert!(((high - low) / 2.0 - 2.0154 * stddev / 45f64.sqrt()).abs() < 1e-3 * stddev, "{key}: {json}");
        assert!(((high + low) / 2.0 / mean - 1.0).abs() < 1e-9, "{key}: {json}");
    }
    assert!((json["tokens_per_second_per_device"]["mean"].as_f64().unwrap() / per_gpu - 1.0).abs() < 1e-12);
    assert!((json["bits_per_byte"].as_f64().unwrap() - held_out / 2f64.ln() / bytes).abs() < 1e-12);
    for key in ["loss", "eval_loss", "peak_memory_bytes", "time_to_first_step_seconds"] {
        assert!(json[key].is_number(), "{key}: {json}");
    }
}

#[test]
fn a_run_of_no_or_one_step_has_a_summary_too() {
    let (_dir, path) = folder();
    run(&path, 0);
    let none = Summary::read(&path).unwrap();
    assert!(none.text().contains("no step") && none.json()["step_seconds"].is_null());
    run(&path, 1);
    let one = Summary::read(&path).unwrap();
    assert_eq!(one.steps, Some((1, 1)));
    assert!(one.text().contains("\ntokens/sec/gpu: "), "{}", one.text());
}

/// The picture of what is in the file by now; the page beside it is there as well.
fn drawn(path: &Path) -> PathBuf {
    let picture = path.with_file_name("report.svg");
    assert_eq!(report::draw(&History::read(path).unwrap(), path, &picture).unwrap(), path.with_file_name("report.html"));
    assert!(path.with_file_name("report.html").is_file());
    picture
}

#[test]
fn the_report_draws_a_run_that_is_still_going() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    write(&mut file, 1..401);
    drop(file);
    let mut file = open(&path, Some(200));
    write(&mut file, 201..1001);
    file.flush().unwrap();
    let picture = drawn(&path);
    let svg = std::fs::read_to_string(&picture).unwrap();
    for words in [
        "Loss",
        "nats per token",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "tokens/s",
        "Time of a step",
        "backward",
        "exposed communication",
        "held-out: 2.257",
        "1,000 steps",
        "a resume",
        "124,439,808 parameters",
    ] {
        assert!(svg.contains(words), "no {words:?} in the picture");
    }
    assert!(svg.starts_with("<svg width=\"1120\"") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.matches("<polyline").count() >= 6 && svg.matches("<polygon").count() >= 6, "curves and areas");
    assert!(svg.len() < 200_000, "{} bytes: thinned", svg.len());

    // A hundred thousand steps on a thousand ranks make no large page.
    let mut long = History::read(&path).unwrap();
    long.steps = (1..100_001).map(record).collect();
    long.ranks = (0..1000).map(|r| Rank { rank: r, host: format!("node{:03}", r / 4), ..ranks()[0].clone() }).collect();
    let page = report::web_page(&long, &path).unwrap();
    assert!(page.len() < 300_000 && page.contains("100,000") && page.contains("50 more hosts"), "{} bytes", page.len());

    let page = report::page(&History::read(&path).unwrap(), &path);
    for words in ["tokens/sec/gpu: ", "201", "held-out", "Open MPI v4.1.4", "final loss: "] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
    assert!(page.lines().count() <= 50, "more than a page:\n{page}");
}

#[test]
fn the_report_draws_runs_of_no_step_one_step_and_infinite_losses() {
    let (_dir, path) = folder();
    run(&path, 0);
    drawn(&path);
    run(&path, 1);
    drawn(&path);
    let mut file = open(&path, Some(1));
    file.append(&StepRecord { loss: f64::NAN, grad_norm: f64::INFINITY, ..record(2) }).unwrap();
    file.close().unwrap();
    for steps in [0, 1, 2] {
        let mut history = History::read(&path).unwrap();
        history.cut(steps);
        let page = report::web_page(&history, &path).unwrap();
        let allow = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(&page, allow).unwrap_or_else(|e| panic!("{steps} steps: {e}"));
    }
    let svg = std::fs::read_to_string(drawn(&path)).unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("-2147483648"), "a point in nowhere");
}

#[test]
fn a_file_tells_what_became_of_its_run() {
    let (_dir, path) = folder();
    let state = || State::of(&path, &History::read(&path).unwrap());
    let opened = |resume, host: &str, pid| {
        let start = Start { steps: 10, ..start() };
        let ranks = [Rank { host: host.into(), pid, ..ranks()[0].clone() }];
        MetricsFile::open(&path, &start, &ranks, &sets(), resume).unwrap()
    };
    let mut file = opened(None, "elsewhere", 1);
    write(&mut file, 1..6);
    file.flush().unwrap();
    assert_eq!(state(), State::Going);
    file.event(5, "stopped early, as asked").unwrap();
    file.close().unwrap();
    assert_eq!(state(), State::Stopped);
    // The next start's end is another matter.
    let mut file = opened(Some(5), "elsewhere", 1);
    assert_eq!(state(), State::Going);
    write(&mut file, 6..8);
    file.close().unwrap();
    assert_eq!(state(), State::Failed);
    let mut file = opened(Some(7), "elsewhere", 1);
    file.event(7, "reached the target: the held-out loss is no more than 3").unwrap();
    file.close().unwrap();
    assert_eq!(state(), State::Done);
    let mut file = opened(Some(7), "elsewhere", 1);
    write(&mut file, 8..11);
    file.close().unwrap();
    assert_eq!(state(), State::Done);

    // A writer that is there no more: known on its own host only.
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let file = opened(Some(10), here.trim(), u64::from(dead.id()));
    assert_eq!(state(), State::Killed);
    drop(file);
    let file = opened(Some(10), "elsewhere", u64::from(dead.id()));
    assert_eq!(state(), State::Going);
    drop(file);
}
