//! A scaling study, from its script to its table: `jobs/scaling`, `bench step --scaling`, `report --scaling`.
#[path = "cli/program.rs"]
#[allow(dead_code)]
mod program;

use program::{Job, PROGRAM, alone, ranks};
use std::path::{Path, PathBuf};
use std::process::Command;

fn jobs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/scaling")
}

const TINY: &str = "--layers 1 --width 32 --heads 2 --seq-len 32 --steps 4 --warm-up 1 --threads 1";

#[test]
fn the_study_runs_under_mpirun_and_makes_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("study");
    let mut command = Command::new(jobs().join("study.sh"));
    command.arg(&out).args(["1", "2", "--"]).args(TINY.split_whitespace());
    let mut job = Job::new(command);
    job.0.env("LLM_TRAIN", PROGRAM).env("PRICE", "2.5").env_remove("LAUNCH").env_remove("SCALING").env_remove("CONFIG");
    let ended = job.done();
    assert!(ended.out.contains("weak scaling: nano, T=32, fp32"), "{ended}");

    let csv = std::fs::read_to_string(out.join("scaling.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 3, "{csv}");
    let json = |n: u32| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(out.join(format!("devices-{n}.json"))).unwrap()).unwrap()
    };
    let number = |row: usize, name: &str| -> f64 {
        let at = rows[0].iter().position(|column| *column == name).unwrap();
        rows[row][at].parse().unwrap_or_else(|_| panic!("{name}: {csv}"))
    };
    let rate = |n: u32| json(n)["tokens_per_second"]["mean"].as_f64().unwrap();
    assert_eq!((number(1, "global_batch"), number(2, "global_batch")), (4.0, 8.0));
    assert_eq!((number(1, "tokens_per_second"), number(2, "tokens_per_second")), (rate(1), rate(2)));
    for row in [1, 2] {
        let spread = &json(row as u32)["tokens_per_second"];
        assert_eq!(number(row, "tokens_per_second_n"), 4.0);
        assert_eq!(number(row, "tokens_per_second_stddev"), spread["stddev"].as_f64().unwrap());
        for (at, name) in ["tokens_per_second_ci95_low", "tokens_per_second_ci95_high"].into_iter().enumerate() {
            let end = spread["interval95"][at].as_f64().unwrap();
            assert!((number(row, name) - end).abs() < 1e-12 * rate(row as u32), "{csv}");
        }
        assert_eq!((number(row, "seq_len"), number(row, "threads_per_rank")), (32.0, 1.0));
        assert!(csv.contains(",\"nano\",32,fp32,1,"), "{csv}");
    }
    assert_eq!((number(1, "efficiency"), number(1, "speed_up")), (1.0, 1.0));
    assert!((number(2, "speed_up") - rate(2) / rate(1)).abs() < 1e-12);
    assert!((number(2, "efficiency") - rate(2) / rate(1) / 2.0).abs() < 1e-12);
    assert!((number(2, "cost_per_million_tokens") / (2.5 * 2.0 / 3600.0 / rate(2) * 1e6) - 1.0).abs() < 1e-12);
    assert!(number(2, "exposed_communication") > 0.0);
    let svg = std::fs::read_to_string(out.join("scaling.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("Efficiency") && svg.contains("in proportion"));

    // The same again, had its ranks had two threads each.
    assert_eq!(json(2)["device"], "cpu");
    let mut other = json(2);
    other["threads"] = 2.into();
    let file = |n: u32| out.join(format!("devices-{n}.json"));
    std::fs::write(file(2), other.to_string()).unwrap();
    let warned = alone(&format!("report --scaling {} {}", file(1).display(), file(2).display())).done();
    assert!(warned.err.contains("not comparable") && warned.err.contains("1 in devices-1, 2 in devices-2"), "{warned}");
    assert!(!ended.err.contains("not comparable"), "{ended}");
}

/// A launcher that cannot start the second rung, and a program that refuses it: in a folder of an earlier study.
#[test]
fn a_rung_that_fails_is_named_and_leaves_no_result() {
    let study = |failing: &str, options: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for old in ["devices-2.json", "devices-2.txt", "scaling.csv"] {
            std::fs::write(dir.path().join(old), "of an earlier study").unwrap();
        }
        let launch = dir.path().join("launch");
        std::fs::write(&launch, format!("[ $1 = 1 ] || {failing}\nshift\nexec \"$@\"\n")).unwrap();
        let mut command = Command::new(jobs().join("study.sh"));
        command.arg(dir.path()).args(["1", "2", "--"]).args(TINY.split_whitespace()).args(options);
        let mut job = Job::new(command);
        job.0.env("LLM_TRAIN", PROGRAM).env("LAUNCH", format!("sh {}", launch.display()));
        job.0.env_remove("SCALING").env_remove("CONFIG").env_remove("PRICE");
        let ended = job.run();
        let mut left: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.retain(|name| name != "launch");
        left.sort();
        (ended, left)
    };
    let (ended, left) = study("{ echo no node left; exit 7; }", &[]);
    let ended = ended.with_code(7);
    assert!(ended.err.contains("the rung devices-2 failed with exit code 7"), "{ended}");
    assert!(ended.err.contains("no node left"), "{ended}");
    assert_eq!(left, ["devices-1.json", "devices-1.txt", "failed-2.txt"]);

    let (ended, left) = study("true", &["--lr", "fast"]);
    let ended = ended.with_code(2);
    assert!(ended.err.contains("the rung devices-1 failed"), "{ended}");
    ended.sentence(&["optim.lr", "fast"]);
    assert_eq!(left, ["failed-1.txt"]);
}

/// `sbatch study.sbatch --nodes=2`: Slurm gives the option to the script, and it is no number of ranks.
#[test]
fn options_of_sbatch_after_the_script_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let submitted = || {
        let mut job = Job::new(Command::new("bash"));
        job.0.arg(jobs().join("study.sbatch")).arg("--nodes=2").env("SLURM_SUBMIT_DIR", dir.path());
        job.0.env("SLURM_JOB_ID", "41").env("SLURM_NTASKS", "2").env("LLM_TRAIN", PROGRAM).env_remove("RANKS");
        job.run().with_code(2)
    };
    // From a folder without the study's script.
    assert!(submitted().err.contains("expected to be submitted from the folder that holds study.sh"));
    std::fs::copy(jobs().join("study.sh"), dir.path().join("study.sh")).unwrap();
    let ended = submitted();
    assert!(ended.err.contains("found --nodes=2 (options of sbatch stand before the script's name)"), "{ended}");
    assert!(!dir.path().join("scaling-41").exists(), "{ended}");
}

/// Nothing set for Open MPI: root is refused, and so are more ranks than cores.
fn as_a_reader_has_it(job: &mut Job) {
    job.0.env_remove("OMPI_ALLOW_RUN_AS_ROOT").env_remove("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2) {
        job.0.env_remove("OMPI_MCA_rmaps_base_oversubscribe");
    }
}

/// Open MPI says the matter first and advice last: what is shown is the matter. As root it refuses at once, else for want of slots.
#[test]
fn a_launcher_that_refuses_is_quoted_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(jobs().join("study.sh"));
    command.arg(dir.path()).arg("4000");
    let mut job = Job::new(command);
    as_a_reader_has_it(&mut job);
    job.0.env("LLM_TRAIN", PROGRAM).env_remove("LAUNCH").env_remove("OMPI_MCA_rmaps_base_oversubscribe");
    let ended = job.run();
    let said = ended.err.split("the rung devices-4000 failed").nth(1).unwrap_or_else(|| panic!("{ended}"));
    assert!(said.contains("as root") || said.contains("not enough slots"), "{ended}");
    assert!(said.lines().count() <= 6 && !said.contains("reiterate"), "{ended}");
}

/// The `study` block of docs/scaling.md, typed as it stands where a copy of `jobs` lies; only the model is smaller.
#[test]
fn the_lines_of_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(jobs().join("../../docs/scaling.md")).unwrap();
    let block = page.split("\n```study\n").nth(1).unwrap().split("\n```").next().unwrap();
    std::fs::create_dir_all(dir.path().join("jobs/scaling")).unwrap();
    std::fs::copy(jobs().join("study.sh"), dir.path().join("jobs/scaling/study.sh")).unwrap();
    let config = std::fs::read_to_string(jobs().join("run.toml")).unwrap();
    let small =
        config.replace("\"nano\"", "\"nano\"\nlayers = 1\nwidth = 32\nheads = 2").replace("256", "32").replace("= 20", "= 4");
    std::fs::write(dir.path().join("jobs/scaling/run.toml"), small).unwrap();
    let mut command = Command::new("bash");
    command.args(["-ec", block]).current_dir(dir.path());
    let mut job = Job::new(command);
    let own = Path::new(PROGRAM).parent().unwrap().display();
    job.0.env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap()));
    job.0.env_remove("LLM_TRAIN").env_remove("PRICE").env_remove("LAUNCH").env_remove("SCALING").env_remove("CONFIG");
    as_a_reader_has_it(&mut job);
    job.done();
    let csv = std::fs::read_to_string(dir.path().join("t.csv")).unwrap();
    let at = csv.lines().next().unwrap().split(',').position(|column| column == "devices").unwrap();
    let devices: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(at).unwrap()).collect();
    assert_eq!(devices, ["1", "2"], "{csv}");
    assert!(csv.contains("cost_per_million_tokens") && dir.path().join("t.svg").is_file(), "{csv}");
}

#[test]
fn folders_of_runs_make_a_table_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let options = |out: &str| {
        format!(
            "--model nano --layers 1 --width 32 --heads 2 --seq-len 32 --micro-batch 2 --global-batch 4 --steps 4 \
             --threads 1 --synthetic-data --synthetic-vocab 10 --no-save-at-end --out {}",
            path(out)
        )
    };
    let one = alone(&options("one")).done();
    assert!(one.out.contains("uniform in 0 … 9"), "{one}");
    ranks(2, &options("two")).done();
    let ended = alone(&format!("report --scaling {} {} --csv {}", path("two"), path("one"), path("t.csv"))).done();
    assert!(ended.out.contains("strong scaling: nano, T=32, fp32"), "{ended}");
    let csv = std::fs::read_to_string(path("t.csv")).unwrap();
    assert!(csv.lines().nth(1).unwrap().starts_with("\"one\",strong,\"nano\",32,fp32,1,1,4,"), "{csv}");
    let figures: Vec<&str> = csv.lines().nth(2).unwrap().split(',').collect();
    let [mean, n, _, low, high] = figures[8..13].try_into().unwrap();
    let [mean, low, high] = [mean, low, high].map(|x: &str| x.parse::<f64>().unwrap());
    assert!(n == "3" && low < mean && mean < high, "{csv}");

    let refused = |arguments: &str, words: &[&str]| {
        alone(arguments).run().with_code(2).sentence(words);
    };
    refused(&format!("report --scaling {0} {0}", path("one")), &["one run for each number of devices"]);
    refused(&format!("report --scaling {}", path("none")), &["none"]);
    refused(&format!("report --scaling {}", path("t.csv")), &["t.csv", "bench step"]);
    refused(&format!("report {} --csv x", path("one")), &["--scaling"]);
    refused("report", &["OUT"]);
    refused("bench step --model nano --scaling strong", &["--scaling strong", "--global-batch"]);
    refused("bench step --model nano --scaling weak --global-batch 4", &["--scaling weak", "found 4"]);
    refused("plan --model nano --synthetic-vocab 5000000", &["--synthetic-vocab", "5000000"]);
}

#[test]
fn the_configurations_are_ones() {
    for (file, parameters) in [("run.toml", 1_000_000), ("llama3.2-1b.toml", 1_200_000_000), ("opt-1.3b.toml", 1_300_000_000)] {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("plan.json");
        alone(&format!("plan --config {} --ranks 32 --json {}", jobs().join(file).display(), json.display())).done();
        let plan: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert!(plan["parameters"].as_u64().unwrap() > parameters, "{file}: {}", plan["parameters"]);
    }
}

#[test]
fn as_many_sequences_as_fit_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("b.json").display().to_string();
    // The global batch bounds it here: a machine's whole memory would take its time.
    let tiny = "--layers 1 --width 32 --heads 2 --seq-len 32 --steps 2 --warm-up 1 --threads 1";
    let ended = ranks(2, &format!("bench step --model nano {tiny} --micro-batch max --global-batch 12 --json {json}")).done();
    assert!(ended.out.contains("micro-batch 6: the largest that fits"), "{ended}");
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(found["micro_batch"].as_u64(), Some(6));
    let out = dir.path().join("run").display().to_string();
    let run = "--layers 1 --width 32 --heads 2 --seq-len 32 --steps 2 --threads 1 --synthetic-data --no-save-at-end";
    let ended = alone(&format!("--model nano {run} --micro-batch max --global-batch 3 --out {out}")).done();
    assert!(ended.out.contains("micro-batch 3: the largest") && ended.out.contains("micro_batch = 3"), "{ended}");
    let refused = alone("bench gemm --model nano --micro-batch max").run().with_code(2);
    refused.sentence(&["--micro-batch", "expected a number", "found max"]);
    alone("plan --model nano --micro-batch many").run().with_code(2).sentence(&["--micro-batch", "or max", "many"]);
}
