//! What `scripts/bench-cpu.sh --check` compares, tried with records that are too high. Python is the script's own need; a
//! machine without it has nothing to hold to a record.
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
