//! `--mllog`, judged by MLPerf's own compliance checker, which `scripts/mlperf.sh` installs, and `--target-loss`.
#[path = "cli/program.rs"]
#[allow(dead_code)]
mod program;
#[path = "cli/scene.rs"]
#[allow(dead_code)]
mod scene;

use program::{alone, ranks};
use scene::{Scene, token};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// An evaluation of 1,024 sequences of 8,192 tokens, on a machine that does other things as well.
const LONGEST: Duration = Duration::from_secs(900);

struct Checker(String);

impl Checker {
    /// None where pip cannot have it; where everything is to be tested that is a failure.
    fn get() -> Option<Checker> {
        let found = Command::new(format!("{}/scripts/mlperf.sh", env!("CARGO_MANIFEST_DIR"))).output().unwrap();
        if found.status.success() {
            return Some(Checker(String::from_utf8(found.stdout).unwrap().trim().to_owned()));
        }
        let why = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(std::env::var_os("LLM_TRAIN_NO_SKIPS").is_none(), "MLPerf's checker is missing: {why}");
        eprintln!("SKIPPED: no MLPerf checker here: {}", why.lines().last().unwrap_or_default());
        None
    }

    /// What it says of a log when it finds nothing, or what it finds.
    fn check(&self, scene: &Scene, text: &str) -> Result<String, String> {
        let log = scene.write("checked.txt", text);
        let mut command = Command::new(&self.0);
        command.args(["-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "6.1.0", "--werror"]);
        let out = command.args(["--log_output", "/dev/null", &log]).current_dir(scene.path("")).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        if out.status.success() { Ok(said) } else { Err(said) }
    }
}

fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line.strip_prefix(":::MLLOG ").unwrap()).unwrap()).collect()
}

fn of<'a>(events: &'a [Value], key: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["key"] == key).collect()
}

#[test]
fn a_run_of_the_rules_of_llama31_8b_complies() {
    let Some(checker) = Checker::get() else { return };
    let scene = Scene::new();
    // It knows 32 tokens and starts at ln 32 = 3.47; those below 8 are all it gets to see.
    let one = json!({ "vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                      "num_key_value_heads": 1, "max_position_embeddings": 8192 });
    let model = scene.model("tiny.json", one);
    let val = scene.corpus("val.bin", (0..1024 * 8192 + 1u32).map(|i| i.wrapping_mul(0x9e37_79b1) >> 29));
    let config =
        scene.write("llama31_8b.toml", "[mlperf]\nbenchmark = \"llama31_8b\"\norg = \"a centre\"\n[optim]\neps = 1e-5\n");
    let (out, file) = (scene.path("run"), scene.path("run/mllog.txt"));
    let length = "--steps 1200000 --warmup-steps 2 --eval-every 8 --eval-batches 0 --target-loss 3.3 --max-time 1h";
    let batch = "--synthetic-data --synthetic-vocab 8 --micro-batch 1 --global-batch 4 --lr 0.03 --threads 1";
    let options = format!("--config {config} --model {model} --val-data {val} {length} {batch} --out {out} --mllog {file}");
    ranks(2, &options).start().end_within(LONGEST).with_code(0);

    let text = std::fs::read_to_string(&file).unwrap();
    let said = checker.check(&scene, &text);
    assert!(said.as_ref().is_ok_and(|said| said.contains("closed_llama31_8b.yaml") && said.contains("SUCCESS")), "{said:?}");

    // Values are the run's, times are in order, and it truly learnt.
    let (all, history) = (events(&text), scene.run("run").history());
    let value = |key: &str| of(&all, key)[0]["value"].clone();
    assert!(history.steps[0].loss > 3.3);
    assert_eq!(value("eval_accuracy"), json!(history.evaluations[0].points[0].loss));
    assert_eq!(history.steps.len(), 8);
    assert_eq!([value("global_batch_size"), value("gradient_accumulation_steps"), value("seed")], [json!(4), json!(2), json!(1)]);
    assert_eq!([value("config_filename"), value("submission_org")], [json!(config), json!("a centre")]);
    let times: Vec<u64> = all.iter().map(|e| e["time_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let took =
        (of(&all, "block_stop")[0]["time_ms"].as_f64().unwrap() - of(&all, "block_start")[0]["time_ms"].as_f64().unwrap()) / 1e3;
    let steps: f64 = history.steps.iter().map(|s| s.step_time).sum();
    assert!((0.9 * steps - 0.1..2.0 * steps + 1.0).contains(&took), "{took} s of steps that took {steps} s");
    assert_eq!(of(&all, "run_stop")[0]["metadata"]["status"], "success");
    assert_eq!(of(&all, "eval_start")[0]["metadata"]["samples_count"], 32);

    // The checker does see what is wrong.
    let without = |key: &str| text.lines().filter(|line| !line.contains(&format!("\"{key}\""))).collect::<Vec<_>>().join("\n");
    for key in ["cache_clear", "run_stop", "block_start", "eval_accuracy", "seed", "opt_adamw_beta_2", "micro_batch_size"] {
        let found = checker.check(&scene, &without(key));
        // The seed is for people.
        assert_eq!(found.is_ok(), key == "seed", "{key}: {found:?}");
    }
    let late: Vec<&str> = text.lines().filter(|l| l.contains("\"init_start\"")).chain([""]).collect();
    assert!(checker.check(&scene, &(without("init_start") + "\n" + &late.join("\n"))).is_err(), "init_start at the end");
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        checker.check(&scene, &text.replace(from, to))
    };
    assert!(replaced("\"opt_adamw_epsilon\",\"value\":0.00001", "\"opt_adamw_epsilon\",\"value\":1e-8").is_err());
    assert!(replaced("\"max_steps\",\"value\":1200000", "\"max_steps\",\"value\":8").is_err());
    assert!(replaced("\"status\":", "\"state\":").is_err());
}

#[test]
fn blocks_and_evaluations_alternate_until_the_target_or_the_end() {
    let scene = Scene::new();
    let val = scene.corpus("val.bin", (30_000..32_000).map(token));
    let run = |out: &str, more: &str| {
        let file = scene.path(&format!("{out}/mllog.txt"));
        let ended = alone(&format!("{} --val-data {val} --eval-every 2 --steps 6 --mllog {file} {more}", scene.options(out)));
        (ended.run(), file)
    };
    let keys = |file: &str| {
        let loop_keys = |e: &Value| {
            let key = e["key"].as_str().unwrap().to_owned();
            (key.starts_with("block") || key.starts_with("run") || key == "eval_accuracy")
                .then(|| format!("{key} {}", e["metadata"]["samples_count"]))
        };
        events(&std::fs::read_to_string(file).unwrap()).iter().filter_map(loop_keys).collect::<Vec<_>>().join(", ")
    };
    let piece = |from: u64| format!("block_start {from}, block_stop {0}, eval_accuracy {0}", from + 8);
    let status = |file: &str| events(&std::fs::read_to_string(file).unwrap()).last().unwrap()["metadata"]["status"].clone();

    let (ended, whole) = run("whole", "");
    ended.with_code(0);
    assert_eq!(keys(&whole), format!("run_start null, {}, {}, {}, run_stop 24", piece(0), piece(8), piece(16)));
    assert_eq!(status(&whole), "success");

    // A loss between the second evaluation's and the first's; one that is out of reach.
    let points = scene.run("whole").history().evaluations[0].points.iter().map(|p| p.loss).collect::<Vec<_>>();
    assert!(points[1] < points[0]);
    let (ended, early) = run("early", &format!("--target-loss {}", (points[0] + points[1]) / 2.0));
    let ended = ended.with_code(0);
    assert_eq!(keys(&early), format!("run_start null, {}, {}, run_stop 16", piece(0), piece(8)));
    assert_eq!(status(&early), "success");
    assert_eq!((scene.run("early").steps().len(), scene.run("early").checkpoints()), (4, vec![4]));
    assert!(ended.out.contains("reached the target"), "{ended}");
    let page = std::fs::read_to_string(scene.path("early/report.html")).unwrap();
    assert!(page.contains(">done<") && !page.contains("before its last step"), "{page}");
    let (ended, missed) = run("missed", "--target-loss 0.1");
    ended.with_code(0);
    assert_eq!(status(&missed), "aborted");

    // A run that goes on adds to its log.
    let (ended, _) = run("pieces", "--steps 3 --no-save-at-end --save-every 2");
    ended.with_code(0);
    let before = std::fs::read_to_string(scene.path("pieces/mllog.txt")).unwrap();
    let (ended, pieces) = run("pieces", "");
    ended.with_code(0);
    let text = std::fs::read_to_string(&pieces).unwrap();
    assert!(text.starts_with(&before));
    assert_eq!(of(&events(&text), "init_checkpoint_step")[0]["value"], 2);
    assert!(keys(&pieces).ends_with(&format!("run_start null, {}, {}, run_stop 24", piece(8), piece(16))), "{}", keys(&pieces));
}

#[test]
fn what_cannot_be_is_refused() {
    let scene = Scene::new();
    let options = scene.options("run");
    alone(&format!("{options} --target-loss 3")).run().with_code(2).sentence(&["--target-loss", "--val-data", "found none"]);
    let file = scene.path("model.json/x.txt");
    alone(&format!("{options} --mllog {file}")).run().with_code(2).sentence(&["--mllog"]);
    assert!(!scene.run("run").0.exists());
}
