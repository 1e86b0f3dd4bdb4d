//! What a model is asked on a GPU beside training: losses on held-out text, while it trains and by `eval`, and texts by `generate`.
//! All are the CPU's.
use crate::families::families;
use crate::place::{on_gpu, root};
use crate::scene::{Precision, Run, golden, host, side, stubs};
use llm_train::metrics::History;
use serde_json::Value;
use std::path::Path;

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Steps and losses of a run's evaluations.
fn evaluations(run: &Run) -> Vec<(u64, f64)> {
    run.job().done();
    let history = History::read(&run.out.path().join("run/metrics.h5")).unwrap();
    history.evaluations[0].points.iter().map(|p| (p.step, p.loss)).collect()
}

fn near(there: &[(u64, f64)], here: &[(u64, f64)], limit: f64, what: &str) {
    assert_eq!(here.iter().map(|p| p.0).collect::<Vec<_>>(), [2, 4, 5], "{what}");
    assert_eq!(there.len(), 3, "{what}: {there:?}");
    for (a, b) in there.iter().zip(here) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() <= limit, "{what}: {there:?}, expected within {limit} of {here:?}");
    }
    // Training tells in what is held out: the weights that are evaluated are those of their step.
    assert!(here[2].1 < here[0].1 - 0.1, "{what}: {here:?}");
}

#[test]
fn held_out_losses_while_training_are_the_cpus() {
    for family in ["gpt2", "llama3"] {
        let run = format!("{} --steps 5 --eval-every 2 --val-data tests/golden/{family}/tokens.bin", golden(family));
        for (precision, limit) in [(Precision::Fp32, 2e-5), (Precision::Bf16, 1e-2)] {
            let here = evaluations(&Run::cpu(&format!("--device cpu {run}")).precision(precision));
            for (options, ranks) in [("", 1), ("--comm nccl --zero 1 --micro-batch 1 --global-batch 2", 2)] {
                if ranks > 1 && on_gpu() {
                    continue; // one GPU
                }
                let here = match ranks {
                    1 => here.clone(),
                    _ => evaluations(&Run::cpu(&format!("--device cpu {run} {options}")).precision(precision).ranks(ranks)),
                };
                let Some(there) = Run::cuda(&format!("{run} {options}")) else { return };
                let there = evaluations(&there.precision(precision).ranks(ranks));
                near(&there, &here, limit, &format!("{family} {precision:?} {options}"));
            }
        }
    }
}

#[test]
fn eval_is_the_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("eval.json");
    for &family in families() {
        let golden = format!("tests/golden/{family}");
        // the last batch is not whole
        let eval =
            format!("eval --model {golden} --data {golden}/tokens.bin --seq-len 24 --micro-batch 4 --json {}", file.display());
        for (precision, limit) in [("fp32", 2e-5), ("bf16", 1e-2), ("bf16-true", 1e-2)] {
            let eval = format!("{eval} --precision {precision}");
            host(&format!("{eval} --device cpu")).done();
            let here = json(&file);
            let Some(job) = side(&eval) else { return };
            job.done();
            let there = json(&file);
            let [a, b] = [&there, &here].map(|found| found["loss"].as_f64().unwrap());
            assert!((a - b).abs() <= limit, "{family} {precision}: {a}, expected within {limit} of {b}");
            assert!(there["targets"] == here["targets"] && there["targets"].as_u64().is_some_and(|n| n > 100), "{there}");
            assert!(on_gpu() || there["device"].as_str().unwrap().contains("H100"), "{there}");
        }
    }
}

/// A tokenizer of as many words as the goldens have tokens: `w7` is token 7.
fn words(folder: &Path) -> String {
    let vocabulary: serde_json::Map<String, Value> = (0..512).map(|n| (format!("w{n}"), n.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    });
    let file = folder.join("tokenizer.json");
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    file.display().to_string()
}

#[test]
fn generate_writes_what_the_cpu_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log, tokenizer) = (folder.path().join("text.json"), folder.path().join("log"), words(folder.path()));
    let text = || (json(&file)["text"].as_str().unwrap().to_string(), json(&file)["tokens"].as_u64().unwrap());
    for &family in families() {
        let write =
            format!("generate --model tests/golden/{family} --tokenizer {tokenizer} --json {} --max-tokens 45", file.display());
        for how in ["--temperature 0", "--seed 3", "--seed 4 --temperature 0.7 --top-k 20 --top-p 0.9"] {
            host(&format!("{write} {how} --device cpu --prompt")).and("w11 w400 w7").done();
            let here = text();
            let Some(mut job) = side(&format!("{write} {how} --precision fp32")) else { return };
            job.0.env("STUB_LOG", &log);
            job.and("--prompt").and("w11 w400 w7").done();
            assert_eq!(text(), here, "{family} {how}");
            assert!(here.1 >= 5, "{family} {how}: {here:?}");
            if !on_gpu() {
                let log = std::fs::read_to_string(&log).unwrap();
                let calls = |kernel: &str| log.matches(&format!("] {kernel} ")).count() as u64;
                assert!(calls("sample") >= here.1 && calls("attention_decode") >= here.1 - 1, "{family} {how}: {log}");
                // of a token the host is told four bytes
                assert!(log.matches("] download 4 ").count() as u64 >= here.1 && !log.contains("] download 2048 "), "{log}");
            }
        }
    }
}

/// The first words, for prompts of several lengths: a long text would part from the CPU's at its first tie.
#[test]
fn generate_begins_in_bf16_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let (file, tokenizer) = (folder.path().join("text.json"), words(folder.path()));
    let text = || json(&file)["text"].as_str().unwrap().to_string();
    for &family in families() {
        for prompt in ["w5", "w11 w400 w7 w8 w300", "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19"] {
            let write = format!(
                "generate --model tests/golden/{family} --tokenizer {tokenizer} --json {} --max-tokens 3",
                file.display()
            );
            for precision in ["bf16", "bf16-true"] {
                let how = format!("--temperature 0 --precision {precision}");
                host(&format!("{write} {how} --device cpu --prompt")).and(prompt).done();
                let here = text();
                let Some(job) = side(&format!("{write} {how}")) else { return };
                job.and("--prompt").and(prompt).done();
                assert_eq!(text(), here, "{family} {precision} {prompt}");
            }
        }
    }
}

#[test]
fn without_a_gpu_or_its_memory_it_is_one_sentence() {
    if on_gpu() || stubs().is_none() {
        return;
    }
    let golden = root().join("tests/golden/gpt2");
    let folder = tempfile::tempdir().unwrap();
    let jobs = [
        format!("eval --model {0} --data {0}/tokens.bin --seq-len 48 --precision fp32", golden.display()),
        format!(
            "generate --model {} --tokenizer {} --prompt w1 --max-tokens 3 --precision fp32",
            golden.display(),
            words(folder.path())
        ),
    ];
    for arguments in jobs {
        let with = |name: &str, value: &str| {
            let mut job = side(&arguments).unwrap();
            job.0.env(name, value);
            job.run()
        };
        with("STUB_DEVICES", "0").with_code(2).sentence(&["--device", "sees no GPU"]);
        with("STUB_CAPABILITY", "75").with_code(2).sentence(&["--device", "capability 8.0 or later", "7.5"]);
        with("STUB_MEMORY", "1000000").with_code(2).sentence(&["H100", "of free memory, found 977 KiB"]);
        // No library at all; and nobody insists.
        host(&format!("{arguments} --device cuda")).run().with_code(2).sentence(&["--device", "libcuda.so.1"]);
        host(&arguments).done();
    }
}
