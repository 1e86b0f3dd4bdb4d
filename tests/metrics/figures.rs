//! Figures of merit, report and page: computed from the file and nothing else.
use crate::*;

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
    file.event(5, "stopped early, as SIGUSR1 asked").unwrap();
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
    // On the page of a file that nobody has touched for ten minutes it is not said to run.
    let page = || report::web_page(&History::read(&path).unwrap(), &path).unwrap();
    assert!(page().contains(">running<"));
    std::fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::now() - Duration::from_secs(600)).unwrap();
    assert!(page().contains(">no new step for 0:10:00<") && !page().contains(">running<"));
    drop(file);
}
