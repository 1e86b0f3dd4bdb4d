//! The benchmark suites, for real: ReFrame and the scaling study against the private Slurm, JUBE with mpirun.
use crate::cluster::{self, ROOT};
use crate::scene::Scene;
use std::path::Path;
use std::process::Command;

fn copied(scene: &Scene, file: &str) -> String {
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    scene.write(name, std::fs::read(Path::new(ROOT).join(file)).unwrap())
}

/// Where ReFrame is; `scripts/test.sh` says it, or it is in the path.
pub fn reframe() -> Option<String> {
    let reframe = std::env::var("REFRAME").unwrap_or("reframe".into());
    if Path::new(&reframe).is_file() || cluster::have(&reframe) {
        return Some(reframe);
    }
    cluster::skip("ReFrame (scripts/reframe.sh)");
    None
}

#[test]
fn reframe_runs_the_step_at_two_scales() {
    let Some(cluster) = cluster::get() else { return };
    let Some(reframe) = reframe() else { return };
    let scene = Scene::new();
    let (settings, test) = (copied(&scene, "jobs/reframe/settings.py"), copied(&scene, "jobs/reframe/llm_train.py"));
    let mut command = cluster.command(&reframe);
    command.args(["-C", &settings, "-c", &test, "-r", "-n", "StepTest", "-t", "^(1node|2nodes)$", "--performance-report"]);
    // Two ranks on cores that others use as well: a small model is enough to see the figures.
    command.args(["-S", "StepTest.seq_len=64", "-S", "StepTest.precision=fp32", "-S", "StepTest.steps=4"]);
    let out = command.args(["--prefix", &scene.path("reframe")]).current_dir(scene.path("")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("Ran 2/2 test case(s)") && text.contains("(0 failure(s)"), "{text}");
    assert!(text.contains("tokens_per_second"), "{text}");
    // Of the shipped settings ReFrame has nothing to complain.
    let said = text.into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(!said.contains("WARNING") && !said.contains("redefinition"), "{said}");
}

/// Verification in a suite: passed by the program as it is, failed by one whose losses are other ones.
#[test]
fn reframe_verifies() {
    let Some(cluster) = cluster::get() else { return };
    let Some(reframe) = reframe() else { return };
    let scene = Scene::new();
    let (settings, test) = (copied(&scene, "jobs/reframe/settings.py"), copied(&scene, "jobs/reframe/llm_train.py"));
    let verified = |path: Option<String>| {
        let mut command = cluster.command(&reframe);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.args(["-C", &settings, "-c", &test, "-r", "-n", "VerifyTest", "--prefix", &scene.path("reframe")]);
        let out = command.current_dir(scene.path("")).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (good, text) = verified(None);
    assert!(good && text.contains("Ran 1/1 test case(s)") && text.contains("(0 failure(s)"), "{text}");
    // The same program, told to expect other losses.
    std::fs::create_dir(scene.path("wrong")).unwrap();
    let program = crate::program::PROGRAM;
    let (wrong, other) = (scene.path("wrong/llm-train"), scene.write("other.json", expected_nine()));
    let script = format!("#!/bin/sh\n[ \"$2\" = --help ] || set -- \"$@\" --reference {other}\nexec {program} \"$@\"\n");
    std::fs::write(&wrong, script).unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (good, text) = verified(Some(format!("{}:{}:/usr/sbin", scene.path("wrong"), std::env::var("PATH").unwrap())));
    assert!(!good && text.contains("(1 failure(s)"), "{text}");
}

/// What `verify --json` would leave, had every one of its losses been nine.
fn expected_nine() -> String {
    let losses = include_str!("../../src/commands/verify/reference.tsv").split_whitespace().map(|_| 9.0).collect::<Vec<_>>();
    serde_json::json!({ "curves": [{ "losses": losses }] }).to_string()
}

/// `study.sbatch` as it ships: one allocation, parts of it on 1, 2 and 4 ranks, one table.
#[test]
fn the_scaling_study_runs_within_one_allocation() {
    let Some(cluster) = cluster::get() else { return };
    let scene = Scene::new();
    for file in ["study.sbatch", "study.sh", "run.toml"] {
        let copy = copied(&scene, &format!("jobs/scaling/{file}"));
        std::fs::set_permissions(copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let shape = ["--nodes=2", "--ntasks-per-node=2", "study.sbatch", "--", "--layers", "1", "--width", "32", "--heads", "2"];
    let shape = [&shape[..], &["--seq-len", "32", "--steps", "4", "--warm-up", "1", "--threads", "1"]].concat();
    let job = cluster.submit(Path::new(&scene.path("")), &shape);
    cluster.until_over(&job);
    let said = std::fs::read_to_string(scene.path(&format!("llm-train-scaling-{job}.out"))).unwrap();
    assert!(said.contains("weak scaling: nano, T=32, fp32"), "{said}");
    let csv =
        std::fs::read_to_string(scene.path(&format!("scaling-{job}/scaling.csv"))).unwrap_or_else(|e| panic!("{e}: {said}"));
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let at = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    let column = |name: &str| rows[1..].iter().map(|row| row[at(name)].parse().unwrap()).collect::<Vec<f64>>();
    assert_eq!(column("devices"), [1.0, 2.0, 4.0], "{csv}");
    assert_eq!(column("global_batch"), [4.0, 8.0, 16.0], "{csv}");
    assert!(column("tokens_per_second").iter().all(|rate| *rate > 0.0), "{csv}");
}

#[test]
fn jube_sweeps_and_makes_a_table() {
    if !cluster::have("jube") {
        return cluster::skip("JUBE (apt-get install jube)");
    }
    let scene = Scene::new();
    copied(&scene, "jobs/jube/llm-train.yaml");
    let run = |arguments: &[&str]| {
        let own = Path::new(crate::program::PROGRAM).parent().unwrap().display().to_string();
        let mut command = Command::new("jube");
        command.env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap()));
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
        let out = command.args(arguments).current_dir(scene.path("")).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    let said = run(&["run", "llm-train.yaml"]);
    let table = run(&["result", "llm_train", "--id", "last"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split(',').collect()).filter(|row: &Vec<&str>| row.len() == 9).collect();
    assert_eq!(rows.len(), 1 + 4, "{said}{table}");
    assert_eq!(rows[0][..2], ["model", "seq_len"], "{table}");
    for row in &rows[1..] {
        // A table of `-t large` tells itself apart.
        assert_eq!(row[..2], ["nano", "64"], "{table}");
        assert!(row[5..8].iter().all(|figure| figure.parse::<f64>().is_ok_and(|x| x > 0.0)), "{table}");
    }
}
