//! What `scripts/bench-cpu.sh --check` compares, tried with records that are too high, and `scripts/bench-gpu.sh` in miniature on the
//! processor. Python is the scripts' own need; a machine without it has nothing to hold to a record.
use serde_json::{Value, json};
use std::process::{Command, Output};

/// `--check` of one found ratio against a recorded one.
fn check(recorded: Value, found: f64) -> Option<Output> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let record = write("record.json", json!({ "best": recorded }));
    let found =
        write("found.json", json!({ "latest": [{ "row": "nano fp32", "ratio": found }, { "row": "new", "ratio": 1.0 }] }));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ratios.py");
    match Command::new("python3").args([script, "--compare"]).args([record, found]).output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: this machine has no python3");
            None
        }
        Err(e) => panic!("python3: {e}"),
    }
}

fn recorded(ratio: f64) -> Value {
    json!({ "nano fp32": { "ratio": ratio, "date": "2026-01-31" }, "not run today": { "ratio": 9.0, "date": "2026-01-31" } })
}

#[test]
fn what_is_as_fast_as_recorded_passes() {
    for found in [1.3, 1.25, 0.971 * 1.25] {
        let Some(output) = check(recorded(1.25), found) else { return };
        assert_eq!(output.status.code(), Some(0), "{found}: {output:?}");
    }
}

#[test]
fn what_is_slower_than_recorded_fails_by_name() {
    let Some(output) = check(recorded(1.25), 1.2) else { return };
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["nano fp32", "recorded 1.250", "found 1.200", "96.0 %"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_record_of_other_work_is_no_record() {
    let Some(output) = check(json!({ "other": { "ratio": 1.0, "date": "2026-01-31" } }), 1.2) else { return };
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// `scripts/bench-gpu.sh` with these options.
fn bench_gpu(python: &str, options: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench-gpu.sh");
    let mut command = Command::new(script);
    command.args(options.split_whitespace()).env("PYTHON", python).env("BENCH_PROGRAM", env!("CARGO_BIN_EXE_llm-train"));
    command.output().unwrap()
}

/// A Python with PyTorch and transformers, where there is one.
fn with_torch() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let works = Command::new(&python).args(["-c", "import torch, transformers"]).output().is_ok_and(|o| o.status.success());
    if !works {
        eprintln!("skipped: bench-gpu's yardstick, for {python} has not torch and transformers");
    }
    works.then_some(python)
}

#[test]
fn without_pytorch_bench_gpu_says_what_it_needs() {
    let none = tempfile::tempdir().unwrap();
    let python = none.path().join("python3");
    std::fs::write(&python, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = bench_gpu(&python.display().to_string(), "--small");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.lines().count() == 1, "{said}");
    assert!(said.contains("expected torch and transformers") && said.contains("pip install"), "{said}");
}

#[test]
fn bench_gpu_in_miniature_records_ratios_and_shares_that_can_be_recomputed() {
    let Some(python) = with_torch() else { return };
    let record = tempfile::tempdir().unwrap();
    let to = format!("--small --record {}", record.path().display());
    for (options, part) in [("--rows nothing", "gpt2-1.5B"), ("--other llm.c", "TOKENS_PER_SECOND"), ("--other x:y=3", "found x")]
    {
        let output = bench_gpu(&python, &format!("{to} {options}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(part), "{options}: {said}");
    }
    let files = || -> Vec<_> { std::fs::read_dir(record.path()).unwrap().map(|e| e.unwrap().path()).collect() };
    let run = |options: &str| {
        let output = bench_gpu(&python, &format!("{to} {options}"));
        let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        assert!(output.status.success(), "{out}{err}");
        let kept = |ending: &str| {
            let file = files().into_iter().find(|f| f.extension().is_some_and(|e| e == ending)).unwrap();
            std::fs::read_to_string(file).unwrap()
        };
        (serde_json::from_str::<Value>(&kept("json")).unwrap(), kept("md"))
    };
    run("--pairs 2 --rows B.=.37 --other Some.program=1_000 --other gpt2-124M:Another=7");
    let (kept, page) = run("--pairs 1 --rows gpt2-124M --other Llama-3.2-1B:Another=7 --pure");
    assert_eq!(files().len(), 2);
    let rows = kept["latest"].as_array().unwrap();
    let [llama, gpt2] = rows.as_slice() else { panic!("{kept}") };
    assert_eq!([&llama["row"], &gpt2["row"]], ["Llama-3.2-1B, B = 37", "gpt2-124M"]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {kept}"));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} for {b} in {kept}");
    for (row, pairs) in [(llama, 2), (gpt2, 1)] {
        let ratios: Vec<f64> = row["ratios"].as_array().unwrap().iter().map(number).collect();
        assert_eq!(ratios.len(), pairs);
        near(number(&row["ratio"]), ratios.iter().sum::<f64>() / pairs as f64); // of two, the median is the mean
        near(number(&row["share"]), number(&row["ours"]) / number(&row["roofline"]));
        for other in row["others"].as_object().unwrap().values() {
            near(number(&other["ratio"]), number(&row["ours"]) / number(&other["rate"]));
        }
        assert!(page.contains(&format!("| {} |", row["row"].as_str().unwrap())), "{page}");
        assert!(number(&kept["best"][row["row"].as_str().unwrap()]["ratio"]) == number(&row["ratio"]));
    }
    // gpt2 has one pair and both ways; a figure of another row is not its own.
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&llama["others"]), ["HPC book, H100-64GB, published", "Some.program"]);
    assert!(keys(&gpt2["others"]).is_empty());
    assert_eq!(keys(&gpt2["theirs"]), ["eager, autocast", "eager, pure bf16"]);
    assert!(number(&kept["about"]["flops"]) > 1e8 && number(&kept["about"]["memory"]) > 1e8);
    assert!(page.contains("missed") && page.contains("Some.program 1,000") && page.contains("roofline"), "{page}");
}
