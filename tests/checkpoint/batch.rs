//! A run that goes on with another global batch: no sample left out, none twice.
use std::path::Path;
use std::process::Command;

fn train(out: &Path, steps: &str, global_batch: &str) {
    let model = ["--model", "nano", "--layers", "1", "--synthetic-data", "--seq-len", "8", "--micro-batch", "2", "--quiet"];
    let done = Command::new(env!("CARGO_BIN_EXE_llm-train"))
        .args(model)
        .args(["--threads", "1", "--steps", steps, "--global-batch", global_batch])
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn another_global_batch_goes_on_at_the_right_sample() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "5", "8");
    train(dir.path(), "7", "3");
    let text = std::fs::read_to_string(dir.path().join("checkpoints/step-00000007/progress.json")).unwrap();
    let progress: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((progress["samples"].as_u64(), progress["tokens"].as_u64()), (Some(46), Some(46 * 8)));
    let history = llm_train::metrics::History::read(&dir.path().join("metrics.h5")).unwrap();
    let tokens: Vec<u64> = history.steps.iter().map(|s| s.tokens / 8).collect();
    assert_eq!(tokens, [8, 16, 24, 32, 40, 43, 46]);
}
