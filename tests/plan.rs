//! `llm-train plan` from outside: the counts of known models, and what the ranks and the options change in them.
use serde_json::Value;
use std::process::Command;

fn plan(arguments: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("not/there/yet/plan.json");
    let out = Command::new(env!("CARGO_BIN_EXE_llm-train"))
        .arg("plan")
        .args(arguments)
        .arg("--json")
        .arg(&json)
        // Neither a launcher's variables nor a library is needed to count.
        .env_clear()
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (String::from_utf8(out.stdout).unwrap(), serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
}

fn bytes(plan: &Value, kind: &str) -> f64 {
    plan["memory_bytes_per_rank"][kind].as_u64().unwrap_or_else(|| panic!("no row {kind}")) as f64
}

#[test]
fn known_models_have_their_exact_number_of_parameters() {
    for (model, parameters) in [
        ("gpt2", 124_439_808u64),
        ("llama3.2-1b", 1_235_814_400),
        ("opt-1.3b", 1_315_758_080),
        ("smollm2-135m", 134_515_008),
        ("llama3-8b", 8_030_261_248),
    ] {
        let (page, json) = plan(&["--model", model, "--micro-batch", "1"]);
        assert_eq!(json["parameters"], parameters);
        let digits = page.lines().find(|l| l.starts_with("  all")).unwrap().replace([' ', ','], "");
        assert_eq!(digits, format!("all{parameters}"));
        // Weights and two moments in f32, nothing else of weight.
        assert_eq!(json["checkpoint_bytes"], 12 * parameters);
        // Padded groups and vocabulary rows cost little.
        let padded = bytes(&json, "parameters") / (4 * parameters) as f64;
        assert!((1.0..1.01).contains(&padded), "{model}: {padded}");
        assert_eq!(bytes(&json, "parameters"), bytes(&json, "gradients"));
    }
}

#[test]
fn zero_1_divides_the_optimizer_among_the_ranks() {
    let whole = plan(&["--model", "gpt2", "--ranks", "7", "--micro-batch", "1"]).1;
    let shard = plan(&["--model", "gpt2", "--ranks", "7", "--micro-batch", "1", "--zero", "1"]).1;
    let ratio = bytes(&whole, "optimizer") / bytes(&shard, "optimizer");
    assert!((ratio - 7.0).abs() < 0.01, "{ratio}");
    assert_eq!(bytes(&whole, "optimizer"), 2.0 * bytes(&whole, "parameters"));
    for kind in ["parameters", "gradients", "activations", "communication"] {
        assert_eq!(bytes(&whole, kind), bytes(&shard, kind), "{kind}");
    }
}

/// Weights 2 bytes, gradients 4, moments 8: on a processor, and on a GPU, where mixed bf16's copies lie beside the plan.
#[test]
fn bf16_true_takes_fourteen_bytes_a_parameter() {
    let state = |precision: &str, device: &str| {
        let options = ["--model", "gpt2", "--micro-batch", "1", "--precision", precision, "--device", device];
        let json = plan(&options).1;
        let kinds = ["parameters", "gradients", "optimizer"].map(|kind| bytes(&json, kind));
        let numbers = kinds[1] / 4.0;
        assert!(numbers / 124_439_808.0 < 1.01, "padding");
        (kinds.map(|bytes| bytes / numbers), json["checkpoint_bytes"].as_u64().unwrap() / 124_439_808)
    };
    assert_eq!(state("fp32", "cpu"), ([4.0, 4.0, 8.0], 12));
    assert_eq!(state("bf16", "cpu"), ([6.0, 4.0, 8.0], 12));
    assert_eq!(state("bf16-true", "cpu"), ([2.0, 4.0, 8.0], 10));
    assert_eq!(state("bf16-true", "cuda"), ([2.0, 4.0, 8.0], 10));
}

#[test]
fn activations_follow_the_batch_and_recomputation_saves_most_of_them() {
    let of = |more: &[&str]| bytes(&plan(&[&["--model", "gpt2", "--seq-len", "512"], more].concat()).1, "activations");
    let (one, four) = (of(&["--micro-batch", "1"]), of(&["--micro-batch", "4"]));
    assert!((four / one - 4.0).abs() < 0.05, "{}", four / one);
    let less = of(&["--micro-batch", "4", "--recompute", "block"]);
    assert!(less < 0.35 * four, "{less} of {four}");
}

#[test]
fn a_step_is_counted_in_tokens_passes_and_operations() {
    let json = plan(&["--model", "gpt2", "--ranks", "3", "--micro-batch", "2", "--global-batch", "20"]).1;
    assert_eq!((&json["tokens_per_step"], &json["micro_steps"]), (&Value::from(20 * 1024), &Value::from(4)));
    // 6 N of the matrix products (all but the positions and the vectors), 12 L C T of attention.
    let products = 12 * 12 * 768 * 768 + 50257 * 768;
    let attention = 12 * 12 * 768 * 1024;
    assert_eq!(json["flops_per_token_full"].as_f64(), Some((6 * products + attention) as f64));
    assert_eq!(json["flops_per_token_causal"].as_f64(), Some((6 * products + attention / 2) as f64));
    assert_eq!(json["config"]["batch"]["global_batch"], 20);
}

#[test]
fn what_makes_no_plan_is_one_sentence_and_exit_code_2() {
    for (arguments, words) in [
        (&["--model", "gpt2", "--ranks", "8", "--global-batch", "4"][..], "8 ranks, found 4"),
        (&["--model", "gpt2", "--ranks", "0"], "--ranks"),
        (&["--model", "gpt3"], "did you mean gpt2"),
        (&["--model", "gpt2", "--heads", "5"], "not divisible"),
        (&["--model", "gpt2", "--device", "cuda", "--micro-batch", "max"], "expected --gpu-memory"),
        (&["--model", "gpt2", "--gpu-memory", "80"], "expected --device cuda"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_llm-train")).arg("plan").args(arguments).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// One more sequence than was found would not fit; a global batch bounds it too.
#[test]
fn the_largest_micro_batch_is_found() {
    use llm_train::commands::room::{Of, largest_micro_batch, rows};
    use llm_train::config::Run;
    let run = |more: &str| {
        let mut settings = llm_train::config::Settings::defaults();
        settings.read_text(&format!("[model]\nname = \"nano\"\n[batch]\nmicro_batch = \"max\"\n{more}"), "test").unwrap();
        llm_train::config::resolve(settings, llm_train::config::Purpose::Plan).unwrap()
    };
    let needs = |run: &Run, micro_batch: usize, ranks: usize, of: Of| {
        let mut run = run.clone();
        run.batch.micro_batch = micro_batch;
        rows(&run, ranks, of).iter().map(|(_, bytes)| bytes).sum::<u64>()
    };
    for (bytes, ranks) in [(300 << 20, 1), (1 << 30, 2), (7 << 30, 3)] {
        // cuDNN would serve the second
        let (fp32, bf16) = (run(""), run("[system]\nprecision = \"bf16\"\ndevice = \"cuda\""));
        for (run, of) in [(&fp32, Of::Node { near: ranks, threads: 2 }), (&fp32, Of::Gpu { bytes }), (&bf16, Of::Gpu { bytes })] {
            let found = largest_micro_batch(run, ranks, of, bytes).unwrap();
            let [fits, not] = [found, found + 1].map(|n| needs(run, n, ranks, of));
            assert!(fits <= bytes && bytes < not, "{found} in {bytes} bytes of {of:?}");
        }
    }
    let of = Of::Node { near: 2, threads: 2 };
    assert_eq!(largest_micro_batch(&run("global_batch = 9"), 2, of, 7 << 30).unwrap(), 5);
    let why = largest_micro_batch(&run(""), 1, of, 1 << 20).unwrap_err().to_string();
    assert!(why.contains("for one sequence, found 1.00 MiB"), "{why}");
}

#[test]
fn plan_says_what_it_chose() {
    let options = ["--model", "nano", "--micro-batch", "max", "--ranks", "4", "--ranks-per-node", "2", "--node-memory", "4"];
    let (page, json) = plan(&options);
    let found = json["micro_batch"].as_u64().unwrap();
    assert!(page.starts_with(&format!("micro-batch {found}: the largest that fits 2.00 GiB a rank")), "{page}");
    assert!(found > 8 && json["total_bytes_per_rank"].as_u64().unwrap() <= 2 << 30, "{json}");
    assert_eq!(json["config"]["batch"]["micro_batch"].as_u64(), Some(found));
}

/// A plan for a GPU: bf16 activations take half, cuDNN's attention is told with the memory that bounds it.
#[test]
fn a_gpu_is_planned_for_on_a_login_node() {
    let options = |more: &'static str| {
        let model = "--model llama3.2-1b --precision bf16 --micro-batch 4 --seq-len 1024 --zero 1 --ranks 8 --device cuda";
        model.split(' ').chain(more.split(' ').filter(|word| !word.is_empty())).collect::<Vec<_>>()
    };
    let row = |json: &Value, name: &str| json["memory_bytes_per_rank"][name].as_u64().unwrap();
    let (page, own) = plan(&options("--attention own"));
    assert!(page.contains("counted for                a GPU\n"), "{page}");
    let (page, open) = plan(&options(""));
    // 2 B H T² bytes: 4 × 32 × 2²⁰ × 2
    assert!(page.contains("a GPU; attention by cuDNN, where it serves, takes some 256 MiB more"), "{page}");
    assert_eq!(row(&own, "device"), row(&open, "device"));
    let (page, with) = plan(&options("--gpu-memory 80"));
    assert!(page.contains("a GPU\n") && page.contains("fits                       yes: "), "{page}");
    assert_eq!(row(&with, "device") - row(&own, "device"), 256 << 20);
    // An eighth of it is the most that it is given.
    let (page, little) = plan(&options("--gpu-memory 1"));
    assert!(page.contains("takes some 128 MiB more") && page.contains("of 922 MiB that a rank may have"), "{page}");
    assert!(page.contains("fits                       no: "), "{page}");
    assert_eq!(row(&little, "device") - row(&own, "device"), 128 << 20);

    let (page, most) = plan(&options("--micro-batch max --gpu-memory 64"));
    assert!(page.starts_with(&format!("micro-batch {}: the largest that fits 57.6 GiB a rank", most["micro_batch"])), "{page}");
    assert!(most["total_bytes_per_rank"].as_f64().unwrap() <= 0.9 * f64::from(1 << 30) * 64.0);
}
