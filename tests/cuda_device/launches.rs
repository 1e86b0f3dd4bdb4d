//! The launches of one step of each kind of model, kept as files: what the GPU is asked to do, in which order and where.
//!
//! `LLM_TRAIN_BLESS=1 cargo test --release --test cuda_device launches` writes them anew.
use crate::scene::{Precision, Run, golden};
use std::path::Path;

#[test]
fn the_launches_of_a_step_are_those_of_the_file() {
    for family in ["gpt2", "qwen3", "opt"] {
        let Some(run) = Run::cuda(&golden(family)) else { return };
        let log = run.out.path().join("log");
        let run = run.precision(Precision::Bf16).and("--steps 1").with("STUB_LOG", log.to_str().unwrap());
        run.job().done();
        let found = tidy(&std::fs::read_to_string(log).unwrap());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join("launches.txt");
        if std::env::var_os("LLM_TRAIN_BLESS").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        let differing = kept.lines().zip(found.lines()).position(|(a, b)| a != b);
        let at = differing.unwrap_or(kept.lines().count().min(found.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("nothing").to_string();
        assert!(kept == found, "{family}: line {}: expected `{}`, found `{}`", at + 1, line(&kept), line(&found));
    }
}

/// From the last embedding on: what comes before fills the memory and times products.
fn tidy(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.iter().rposition(|line| line.contains("embedding_forward")).expect("a step");
    lines[from..].iter().map(|line| format!("{line}\n")).collect()
}
