//! The launches of one step of each family, kept as files: what the GPU is asked to do, in which order and where, and when the host
//! waits. A launch too many shows here.
//!
//! `LLM_TRAIN_BLESS=1 cargo test --release --test cuda_device launches` writes them anew.
use crate::place::kept;
use crate::scene::{Precision, Run, golden};
use std::path::Path;

#[test]
fn the_launches_of_a_step_are_those_of_the_file() {
    const ZERO: &str = "--comm nccl --zero 1 --micro-batch 2";
    for (family, options, ranks, name) in [
        ("gpt2", "", 1, "launches.txt"),
        ("gpt2", ZERO, 2, "launches-zero1.txt"),
        ("gpt2", ZERO, 2, "launches-zero1-true.txt"),
        ("opt", "", 1, "launches.txt"),
        ("llama", "", 1, "launches.txt"),
        ("llama3", "", 1, "launches.txt"),
        ("qwen2", "", 1, "launches.txt"),
        ("qwen3", "", 1, "launches.txt"),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join(name);
        let Some(mut found) = launches(family, options, ranks, name) else { return };
        if std::env::var_os("LLM_TRAIN_BLESS").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        for _ in 0..AGAIN {
            if found != kept {
                forget();
                found = launches(family, options, ranks, name).unwrap();
            }
        }
        let differing = kept.lines().zip(found.lines()).position(|(a, b)| a != b);
        let at = differing.unwrap_or(kept.lines().count().min(found.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("nothing").to_string();
        assert!(kept == found, "{family} {name}: line {}: expected `{}`, found `{}`", at + 1, line(&kept), line(&found));
    }
}

/// What ends a product is chosen by time, which a busy machine may turn over on the stub, and kept for the runs after: so often it may be chosen anew.
const AGAIN: usize = 3;

fn forget() {
    let all = std::fs::read_dir(kept().join("cache/llm-train")).into_iter().flatten().flatten();
    for file in all.filter(|file| file.file_name().to_string_lossy().starts_with("products-")) {
        let _ = std::fs::remove_file(file.path()); // another test may have been first
    }
}

fn launches(family: &str, options: &str, ranks: usize, name: &str) -> Option<String> {
    let run = Run::cuda(&golden(family))?;
    let precision = if name.contains("true") { Precision::Bf16True } else { Precision::Bf16 };
    let run = run.precision(precision).and(&format!("--steps 3 {options}")).ranks(ranks);
    let log = run.out.path().join("log-%r");
    let run = run.with("STUB_LOG", log.to_str().unwrap());
    run.job().done();
    Some(second_step(&std::fs::read_to_string(run.out.path().join("log-0")).unwrap()))
}

/// Of three steps of one pass each: the first one's weights are fresh, the last one is waited for.
fn second_step(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let begins: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains("] embedding_forward ")).collect();
    let [second, third] = begins[begins.len() - 2..] else { panic!("no three steps: {log}") };
    lines[second..third].iter().map(|line| format!("{line}\n")).collect()
}
