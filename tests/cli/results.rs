//! What machines read: `--json`, the figures of merit, and a plan that agrees with the run.
use crate::program::{Ended, alone, ranks};
use crate::scene::Scene;
use serde_json::Value;

/// The first word after `key:` at the start of a line, as ReFrame's and JUBE's patterns find it: `key:\s*(\S+)`.
fn figure(ended: &Ended, key: &str) -> f64 {
    let word = ended.after(&format!("{key}:")).split_whitespace().next().unwrap_or_default().to_string();
    word.parse().unwrap_or_else(|e| panic!("{key}: {word:?}: {e}"))
}

/// The rows of the memory table: `  parameters   206,080   201 KiB`.
fn memory_rows(out: &str) -> Vec<(String, u64)> {
    let table = out.split_once("memory per rank").expect("a memory table").1;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.replace(',', "").parse().ok()?))
    };
    table.lines().skip(1).map_while(row).collect()
}

#[test]
fn a_run_for_machines_and_for_people() {
    let scene = Scene::new();
    let val = scene.corpus("val.bin", (30_000..32_000).map(crate::scene::token));
    let file = scene.path("run/result.json");
    let options = format!("{} --steps 8 --val-data {val} --eval-every 4 --peak-tflops 1 --json {file}", scene.options("run"));
    let ended = ranks(2, &options).done();
    let (left, json) = (scene.run("run"), scene.run("run").json("result.json"));
    let history = left.history();

    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key}: {}", json[key]));
    assert_eq!(number("world_size"), 2.0);
    for key in ["tokens_per_second", "tokens_per_second_per_device", "step_seconds", "tflops_per_device"] {
        let of = |part: &str| json[key][part].as_f64().unwrap_or_else(|| panic!("{key}.{part}: {}", json[key]));
        assert_eq!(of("n"), 7.0, "{key}: one of eight steps is warm-up");
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max") && of("stddev") >= 0.0, "{key}");
        assert!(of("min") <= of("mean") && of("mean") <= of("max"), "{key}");
    }
    assert_eq!(number("loss"), history.steps[7].loss);
    assert_eq!(number("eval_loss"), history.evaluations[0].points[1].loss);
    assert_eq!(json["bits_per_byte"], Value::Null, "nobody knows bytes here");
    assert!(number("peak_memory_bytes") > 1e6 && number("time_to_first_step_seconds") > 0.0);
    assert_eq!(json["config"]["batch"]["global_batch"], 4);
    assert_eq!(json["config"]["optim"]["lr"], 1e-3);

    // The same figures on the console, to the digits that are printed.
    let near = |key: &str, of: &str| {
        let (said, meant) = (figure(&ended, key), json[of]["mean"].as_f64().unwrap());
        assert!((said / meant - 1.0).abs() < 1e-5, "{key}: {said} is not {meant}");
    };
    near("tokens/sec/gpu", "tokens_per_second_per_device");
    near("throughput per GPU (TFLOP/s/GPU)", "tflops_per_device");
    near("elapsed time per iteration (s)", "step_seconds");
    assert!((figure(&ended, "final loss") - number("loss")).abs() < 1e-5);
    for key in ["eval loss", "peak memory (bytes)", "time to first step (s)", "MFU (attention full)", "MFU (attention causal)"] {
        figure(&ended, key);
    }
    // Columns that make sense.
    for s in &history.steps {
        let parts = s.data_time + s.forward_time + s.backward_time + s.comm_exposed_time + s.optimizer_time;
        assert!(s.step_time > 0.0 && parts < 1.2 * s.step_time + 1e-3, "{s:?}");
        assert!(s.forward_time > 0.0 && s.backward_time > 0.0 && s.optimizer_time > 0.0 && s.memory > 0, "{s:?}");
        assert_eq!(s.tokens, s.step * 128);
    }
    assert_eq!(history.evaluations[0].points.iter().map(|p| p.step).collect::<Vec<_>>(), [4, 8]);
    let start = &history.starts[0];
    assert!(
        start.command_line.contains("--peak-tflops")
            && start.mpi.contains("MPI")
            && start.mpi_init > 0.0
            && start.first_step.is_some()
    );
    assert_eq!(history.ranks.len(), 2);

    // Two sets of one name are told apart.
    std::fs::create_dir(scene.path("other")).unwrap();
    let other = scene.corpus("other/val.bin", (40_000..42_000).map(crate::scene::token));
    alone(&format!("{} --steps 2 --val-data {val} {other}", scene.options("two"))).done();
    let two = scene.run("two").history().evaluations;
    assert!(two.len() == 2 && two.iter().all(|e| e.points.len() == 1) && two[0].points != two[1].points, "{two:?}");

    // report: a page and a picture.
    let page = alone(&format!("report {}", left.0.display())).done();
    assert!(page.out.contains("tokens/sec/gpu") && left.0.join("report.svg").is_file(), "{page}");
}

/// Neither the plan of the next job, nor a job that finds all done, as in a chain; a plan that is told so on its line writes.
#[test]
fn a_runs_figures_are_nobody_elses_to_write() {
    let scene = Scene::new();
    let (file, config) = (scene.path("figures.json"), scene.path("run.toml"));
    std::fs::write(&config, format!("[log]\njson = \"{file}\"\n")).unwrap();
    let read = || std::fs::read_to_string(&file).unwrap();
    let options = format!("{} --config {config} --steps 3", scene.options("run"));
    alone(&options).done();
    let figures = read();
    assert!(figures.contains("tokens_per_second"), "{figures}");
    alone(&format!("plan {options}")).done();
    assert_eq!(read(), figures, "a plan by the run's file");
    assert!(alone(&options).done().out.contains("nothing left to do"));
    assert_eq!(read(), figures, "a start that ran no step");
    alone(&format!("plan {options} --json {file}")).done();
    assert!(read().contains("memory_bytes_per_rank"));
}

#[test]
fn a_plan_is_what_the_run_then_says() {
    let scene = Scene::new();
    for (n, zero, recompute, precision) in [(1, 0, "none", "fp32"), (2, 1, "block", "bf16"), (3, 1, "none", "bf16-true")] {
        let out = format!("run-{n}");
        let more = format!("--zero {zero} --recompute {recompute} --precision {precision}");
        let options = format!("{} --steps 1 {more}", scene.options(&out));
        let file = scene.path(&format!("{out}.json"));
        let plan = alone(&format!("plan {options} --ranks {n} --json {file}")).done();
        assert!(!scene.run(&out).0.exists(), "a plan writes nothing");
        let run = ranks(n, &options).done();
        let (planned, said) = (memory_rows(&plan.out), memory_rows(&run.out));
        assert!(planned.len() > 8, "{plan}");
        assert_eq!(planned, said);
        let table = |out: &str| out.split_once("parameters   ").unwrap().1.split_once("memory per rank").unwrap().0.to_string();
        assert_eq!(table(&plan.out), table(&run.out));

        let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for (name, bytes) in planned.iter().filter(|(name, _)| name != "planned") {
            assert_eq!(json["memory_bytes_per_rank"][name], *bytes, "{name}");
        }
        assert_eq!(json["ranks"], n);
        let parameters = json["parameters"].as_u64().unwrap();
        assert_eq!(parameters, scene.run(&out).history().starts[0].parameters);
        assert!(json["flops_per_step"].as_f64().unwrap() >= 6.0 * 128.0 * 0.8 * parameters as f64);
        // Optimizer state is divided by ZeRO-1, give or take the padding.
        let of = |kind: &str| json["memory_bytes_per_rank"][kind].as_f64().unwrap();
        let share = of("optimizer") / of("gradients");
        assert!((share - 2.0 / if zero == 1 { n as f64 } else { 1.0 }).abs() < 0.05, "{share}");
        // A checkpoint is as long as planned, within its small files and headers.
        let written = scene.run(&out).contents().into_iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "safetensors"));
        let written: usize =
            written.filter(|(p, _)| !p.starts_with(scene.run(&out).0.join("checkpoints/latest"))).map(|(_, b)| b.len()).sum();
        let off = written as f64 - json["checkpoint_bytes"].as_f64().unwrap();
        assert!((0.0..16_384.0).contains(&off), "{off} bytes more than planned");
    }
}

#[test]
fn a_plan_of_a_large_model_needs_neither_memory_nor_data() {
    let started = std::time::Instant::now();
    let plan = alone("plan --model llama3-8b --micro-batch 1 --zero 1 --ranks 64").done();
    assert!(plan.out.contains("8,030,261,248"), "{plan}");
    assert!(started.elapsed().as_secs() < 5);
}
