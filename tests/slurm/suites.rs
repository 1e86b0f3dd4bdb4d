//! The benchmark suites, for real: ReFrame against the private Slurm, JUBE with mpirun.
use crate::cluster::{self, ROOT};
use crate::scene::Scene;
use std::path::Path;
use std::process::Command;

fn copied(scene: &Scene, file: &str) -> String {
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    scene.write(name, std::fs::read(Path::new(ROOT).join(file)).unwrap())
}

#[test]
fn reframe_runs_the_step_at_two_scales() {
    let Some(cluster) = cluster::get() else { return };
    let reframe = std::env::var("REFRAME").unwrap_or("reframe".into());
    if !Path::new(&reframe).is_file() && !cluster::have(&reframe) {
        return cluster::skip("ReFrame (scripts/reframe.sh)");
    }
    let scene = Scene::new();
    let (site, test) = (copied(&scene, "jobs/reframe/site.py"), copied(&scene, "jobs/reframe/llm_train.py"));
    let mut command = cluster.command(&reframe);
    command.args(["-C", &site, "-c", &test, "-r", "-n", "StepTest", "-t", "^(1node|2nodes)$", "--performance-report"]);
    // Two ranks on cores that others use as well: a small model is enough to see the figures.
    command.args(["-S", "StepTest.seq_len=64", "-S", "StepTest.precision=fp32", "-S", "StepTest.steps=4"]);
    let out = command.args(["--prefix", &scene.path("reframe")]).current_dir(scene.path("")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("Ran 2/2 test case(s)") && text.contains("(0 failure(s)"), "{text}");
    assert!(text.contains("tokens_per_second"), "{text}");
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
        table.lines().map(|line| line.split(',').collect()).filter(|row: &Vec<&str>| row.len() == 7).collect();
    assert_eq!(rows.len(), 1 + 4, "{said}{table}");
    for row in &rows[1..] {
        assert!(row[3..6].iter().all(|figure| figure.parse::<f64>().is_ok_and(|x| x > 0.0)), "{table}");
    }
}
