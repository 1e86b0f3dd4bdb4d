//! `llm-train bench`: the figures, what they add up to, and that nothing stays behind.
use crate::program::{Ended, Job, alone, ranks};
use crate::scene::Scene;
use serde_json::Value;

/// A tiny model in a folder of its own, which also serves as the place for temporary files.
fn bench(scene: &Scene, start: impl Fn(&str) -> Job, arguments: &str) -> (Ended, Value) {
    let file = scene.path("bench.json");
    let model = scene.path("model.json");
    let shape = "--seq-len 32 --micro-batch 2 --threads 1";
    let mut job = start(&format!("bench {arguments} --model {model} {shape} --json {file}"));
    std::fs::create_dir_all(scene.path("temporary")).unwrap();
    job.0.env("TMPDIR", scene.path("temporary")).current_dir(scene.path("temporary"));
    let ended = job.done();
    let left: Vec<_> = std::fs::read_dir(scene.path("temporary")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let left: Vec<_> = left.iter().filter(|name| !name.to_string_lossy().starts_with("ompi")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    (ended, serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

fn number(json: &Value, path: &str) -> f64 {
    json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {json}"))
}

#[test]
fn a_step_is_timed_with_its_spread() {
    let scene = Scene::new();
    let (ended, json) = bench(&scene, alone, "step --steps 6 --warm-up 2");
    let figures = ["tokens_per_second", "step_seconds", "tflops_per_device", "comm_exposed_seconds", "data_seconds"];
    for figure in figures {
        let of = |part: &str| number(&json, &format!("/{figure}/{part}"));
        assert_eq!(of("n"), 6.0);
        assert!(of("min") <= of("median") && of("median") <= of("max") && of("stddev") >= 0.0, "{figure}: {json}");
        assert!(of("interval95/0") <= of("mean") && of("mean") <= of("interval95/1"), "{figure}: {json}");
    }
    assert!(number(&json, "/peak_memory_bytes") > 1e6);
    assert_eq!((&json["ranks"], &json["threads"], &json["precision"]), (&1.into(), &1.into(), &"fp32".into()));
    assert!(json["processor"].as_str().is_some_and(|name| !name.is_empty()) && json.get("roofline").is_none());
    for key in ["tokens/sec", "elapsed time per iteration (s)", "throughput per device (TFLOP/s)", "peak memory (bytes)"] {
        let word = ended.after(&format!("{key}:")).split_whitespace().next().unwrap_or_default().to_string();
        assert!(word.parse::<f64>().is_ok_and(|x| x > 0.0), "{key}: {ended}");
    }
}

#[test]
fn a_roofline_adds_up_to_the_step() {
    let scene = Scene::new();
    let (ended, json) = bench(&scene, alone, "step --steps 5 --warm-up 1 --global-batch 64 --roofline --node 112,614,2000,8");
    let roofline = &json["roofline"];
    let ops = roofline["ops"].as_array().unwrap();
    let sum = |of: &str| ops.iter().map(|op| op[of].as_f64().unwrap()).sum::<f64>();
    let step = number(roofline, "/step_seconds");
    assert_eq!(step, number(&json, "/step_seconds/mean"));
    // Times of each op are whole nanoseconds.
    let others = number(roofline, "/untallied_seconds") + number(roofline, "/waiting_seconds");
    assert!((sum("seconds") + others - step).abs() < 1e-7, "{roofline}");
    assert!((sum("at_best_seconds") - number(roofline, "/at_best_seconds")).abs() < 1e-12);
    // The ops note most of it, nothing twice, and nothing of the steps before.
    let untallied = number(roofline, "/untallied_seconds") / step;
    assert!((0.0..0.5).contains(&untallied), "{untallied}: {roofline}");
    // The plan's count, but for attention's diagonal and the vocabulary's padding.
    alone(&format!("plan --model {} --seq-len 32 --json {}", scene.path("model.json"), scene.path("p"))).done();
    let plan: Value = serde_json::from_slice(&std::fs::read(scene.path("p")).unwrap()).unwrap();
    let [full, causal] = ["full", "causal"].map(|of| 2048.0 * number(&plan, &format!("/flops_per_token_{of}")));
    let attention = (full - causal) / 32.0;
    let padding = 6.0 * 2048.0 * 32.0 * (384.0 - 320.0);
    assert_eq!(sum("flops"), causal + attention + padding);
    for word in ["untallied", "left on the table", "head: linear dW", "PREDICTION"] {
        assert!(ended.out.contains(word), "{word}: {ended}");
    }
    assert!(number(roofline, "/ceilings/flops_per_second") > 1e8 && number(roofline, "/ceilings/bytes_per_second") > 1e8);

    // Each part of the prediction is what its formula says of the counts above.
    let predicted = &json["predictions"][0];
    let (flops, bytes) = (2000e9 * 112.0 / 8.0, 614e9 / 8.0);
    let at = |of: &Value| (of["flops"].as_f64().unwrap() / flops).max(of["bytes"].as_f64().unwrap() / bytes);
    let undivided = ops.iter().filter(|op| op["name"] != "square sum").map(at).sum::<f64>();
    let squares = ops.iter().filter(|op| op["name"] == "square sum").map(at).sum::<f64>() / 8.0;
    let found = number(predicted, "/arithmetic_seconds") + number(predicted, "/memory_seconds");
    assert!((found / (undivided + squares) - 1.0).abs() < 1e-9, "{found} {predicted}");
    let calls: f64 = ops.iter().map(|op| op["calls"].as_f64().unwrap()).sum();
    assert!((number(predicted, "/barriers_seconds") / (1e-5 * calls) - 1.0).abs() < 1e-9);
    let gradients = 4.0 * number(&plan, "/parameters");
    assert!((number(predicted, "/between_ranks_seconds") / (gradients * (3.0 + 1.0 / 8.0) / bytes) - 1.0).abs() < 1e-9);
}

#[test]
fn ranks_are_timed_together_for_some_time() {
    let scene = Scene::new();
    let (_, json) = bench(&scene, |a| ranks(2, a), "step --seconds 0.5 --zero 1 --roofline");
    assert_eq!((&json["ranks"], &json["global_batch"]), (&2.into(), &4.into()));
    let (steps, mean) = (number(&json, "/step_seconds/n"), number(&json, "/step_seconds/mean"));
    assert!(steps >= 2.0 && steps * mean < 30.0, "{json}");
    assert!(number(&json, "/comm_exposed_seconds/max") > 0.0);
}

#[test]
fn products_are_timed_layer_by_layer() {
    let scene = Scene::new();
    let (ended, json) = bench(&scene, alone, "gemm --precision bf16");
    let products = json["products"].as_array().unwrap();
    let named: Vec<_> = products.iter().map(|p| (p["layer"].as_str().unwrap(), p["layout"].as_str().unwrap())).collect();
    assert_eq!(named.len(), 15);
    assert_eq!(named[3..6], [("out", "NT"), ("out", "NN"), ("out", "TN")]);
    for p in products {
        let share = number(p, "/share_of_best");
        assert!(number(p, "/gflops/n") >= 5.0 && 0.0 < share && share <= 1.0, "{p}");
    }
    assert!(ended.out.lines().count() == 18, "{ended}");
}

/// Key, and the mean of a line of figures; each says how many it is of and where it lies.
fn figures(ended: &Ended) -> Vec<(String, f64)> {
    let lines = ended.out.lines().filter(|line| line.contains("    n "));
    let figure = |line: &str| {
        for word in ["stddev ", "min ", "max ", "95 % interval "] {
            assert!(line.contains(word), "{word}: {line}");
        }
        let (key, rest) = line.split_once(": ").unwrap();
        (key.to_string(), rest.split_whitespace().next().unwrap().parse().unwrap())
    };
    lines.map(figure).collect()
}

#[test]
fn attention_is_timed_by_length() {
    let scene = Scene::new();
    let (ended, json) = bench(&scene, alone, "attention --lengths 16 32 --seq-len 64");
    let found = figures(&ended);
    let keys: Vec<_> = found.iter().map(|(key, _)| &key[..]).collect();
    let of = |pass: &str, t: u32| format!("attention {pass} T={t} (GFLOP/s)");
    assert_eq!(keys, [of("forward", 16), of("backward", 16), of("forward", 32), of("backward", 32)]);
    assert!(found.iter().all(|(_, rate)| *rate > 0.01), "{found:?}");
    assert_eq!(number(&json, "/attention/2/seq_len"), 32.0);
    assert!(number(&json, "/attention/3/gflops/n") >= 5.0);
}

#[test]
fn collectives_are_timed_by_both_ways() {
    let scene = Scene::new();
    let file = scene.path("c.json");
    let ended = ranks(2, &format!("bench collectives --min-bytes 4096 --max-bytes 20000 --repeats 5 --json {file}")).done();
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let rows = json["collectives"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 3, "two sizes, two ways, three collectives: {json}");
    assert_eq!(figures(&ended).len(), 2 * rows.len(), "{ended}");
    for row in rows {
        // of two ranks: once for all-reduce, half for the others
        let factor = if row["collective"] == "all-reduce" { 1.0 } else { 0.5 };
        let (alg, bus) = (number(row, "/algbw_gb_per_s/mean"), number(row, "/busbw_gb_per_s/mean"));
        assert!(alg > 0.0 && (bus / (factor * alg) - 1.0).abs() < 1e-9, "{row}");
        // each repeat's rate is the bytes over its time
        let (fastest, bytes) = (number(row, "/seconds/min"), number(row, "/bytes"));
        assert!((number(row, "/algbw_gb_per_s/max") / (bytes / fastest / 1e9) - 1.0).abs() < 1e-9, "{row}");
        assert_eq!(number(row, "/seconds/n"), 5.0);
    }
}

#[test]
fn a_corpus_is_read_cold_and_warm() {
    let scene = Scene::new();
    let arguments = format!("data --batches 3 --data {}", scene.path("corpus.bin"));
    for start in [|a: &str| alone(a), |a: &str| ranks(2, a)] {
        let (ended, json) = bench(&scene, start, &arguments);
        assert_eq!(figures(&ended).len(), 4, "{ended}");
        for order in ["cold", "warm"] {
            let of = |unit: &str| number(&json, &format!("/{order}/{unit}_per_second/mean"));
            assert!(of("tokens") > 1e3 && (of("bytes") / of("tokens") - 2.0).abs() < 1e-9, "{json}");
        }
    }
}

#[test]
fn a_checkpoint_is_written_and_read() {
    let scene = Scene::new();
    for (n, start) in [(1, (|a: &str| alone(a)) as fn(&str) -> Job), (2, |a: &str| ranks(2, a))] {
        let (ended, json) = bench(&scene, start, "checkpoint --repeats 3 --zero 1");
        assert_eq!(figures(&ended).len(), 2, "{ended}");
        assert_eq!(number(&json, "/ranks"), f64::from(n));
        for key in ["write", "read"] {
            assert_eq!(number(&json, &format!("/{key}/bytes_per_second/n")), 3.0);
            assert!(number(&json, &format!("/{key}/bytes_per_second/min")) > 1e3);
        }
        assert!(number(&json, "/checkpoint_bytes") > 1e5);
    }
}

#[test]
fn benchmarks_refuse_what_they_cannot_do() {
    alone("bench").run().with_code(2);
    alone("bench stepp").run().with_code(2).sentence(&["stepp", "did you mean", "step"]);
    alone("bench step").run().with_code(2).sentence(&["--model"]);
    alone("bench step --model nano --node 112,614").run().with_code(2).sentence(&["--node", "112,614,2000,8"]);
    alone("bench collectives").run().with_code(2).sentence(&["at least 2 ranks", "found 1"]);
    ranks(2, "bench collectives --min-bytes 4096 --max-bytes 8").run().with_code(2).sentence(&["--max-bytes", "4096", "found 8"]);
    alone("bench data --model nano").run().with_code(2).sentence(&["--data", "made-up"]);
    alone("bench data --model nano --data /nowhere").run().with_code(2).sentence(&["/nowhere"]);
    alone("bench checkpoint --model nano --dir /nowhere").run().with_code(2).sentence(&["--dir", "/nowhere"]);
    alone("bench attention --model nano --lengths 0").run().with_code(2).sentence(&["--lengths"]);
    alone("bench step --model nano --seconds 0").run().with_code(2).sentence(&["--seconds", "above 0"]);
    alone("bench step --model nano --seq-len 32 --tokens 1e6").run().with_code(2).sentence(&["--steps"]);
}
