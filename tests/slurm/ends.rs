//! How a job ends: before its time is over, though nobody tells it, or when that was changed meanwhile; with a rank that is gone.
use crate::cluster;
use crate::scene::Scene;
use std::path::Path;
use std::time::{Duration, Instant};

/// `scontrol update` in the middle of the job: rank 0 hears of it before the first end has come.
#[test]
fn a_job_that_is_given_more_time_goes_on() {
    let Some(cluster) = cluster::get() else { return };
    let scene = Scene::new();
    let began = Instant::now();
    let (job, out) = wrapped(cluster, &scene);
    let text = || std::fs::read_to_string(&out).unwrap_or_default();
    cluster.until("steps", &|| text().contains("step 1000/"));
    assert_eq!(cluster.ask(&format!("scontrol update JobId={job} TimeLimit=30")), "");
    cluster.until("the new end", &|| {
        assert!(!text().contains("ended with"), "it left at the end that it knew first: {}", text());
        text().contains("the job's time was changed: Slurm now ends this job in 1")
    });
    // Past the end that it knew first, which it would have left before.
    std::thread::sleep(Duration::from_secs(75).saturating_sub(began.elapsed()));
    assert!(!text().contains("ended with"), "{}", text());
    cluster.ask(&format!("scancel --signal=USR1 {job}"));
    cluster.until_over(&job);
    assert!(text().contains("ended with 75"), "{}", text());
}

/// Submits one srun of four ranks on two nodes, without a signal before the end. The job's output.
fn wrapped(cluster: &cluster::Cluster, scene: &Scene) -> (String, String) {
    let options = scene.options("run").replace("--steps 4", "--steps 100000000 --log-every 1000 --save-every 200000");
    let wrap = format!("--wrap=srun --kill-on-bad-exit=1 llm-train {options}; echo ended with $?");
    let shape = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=1", "--output=out", wrap.as_str()];
    (cluster.submit(Path::new(&scene.path("")), &shape), scene.path("out"))
}

/// Slurm 22.05 has no SLURM_JOB_END_TIME; later ones are made to forget it by nobody, and the test holds with it as well.
#[test]
fn the_end_of_the_time_is_found_and_the_run_leaves_before() {
    let Some(cluster) = cluster::get() else { return };
    let scene = Scene::new();
    let (job, out) = wrapped(cluster, &scene);
    cluster.until_over(&job);
    let text = std::fs::read_to_string(out).unwrap();
    assert!(text.contains("ended with 75") && text.contains("stopped early, since its time is nearly over"), "{text}");
    assert!(text.contains("Slurm ends this job in ") || std::env::var_os("SLURM_JOB_END_TIME").is_some(), "{text}");
    assert!(!text.contains("SIGTERM") && !text.contains("DUE TO TIME LIMIT"), "it left before it was told: {text}");
    let left = scene.run("run");
    assert_eq!(left.checkpoints().last(), left.steps().last());
}

#[test]
fn a_rank_that_is_killed_ends_the_job_and_is_named() {
    let Some(cluster) = cluster::get() else { return };
    let scene = Scene::new();
    let (job, out) = wrapped(cluster, &scene);
    let text = || std::fs::read_to_string(&out).unwrap_or_default();
    cluster.until("steps", &|| text().contains("step 1000/"));
    let pid = scene.run("run").history().ranks[2].pid.to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    cluster.until_over(&job);
    let text = text();
    assert!(text.contains("task 2: Killed") && text.contains("ended with 137"), "{text}");
}
