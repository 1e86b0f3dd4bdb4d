//! A rank that is gone takes the job with it: soon, with an exit code, and with words. (Panics: `tests/parallel/ends.rs`.)
use crate::program::{Ended, Running, ranks};
use crate::scene::Scene;
use std::time::Duration;

/// What the issue grants from a rank's end to the job's.
const SOON: Duration = Duration::from_secs(10);

fn endless(scene: &Scene, n: usize, more: &str) -> Running {
    let mut running = ranks(n, &format!("{} --steps 1000000 --save-every 1000000 {more}", scene.options("run"))).start();
    running.until_step(20);
    running
}

/// Somebody says the rank, the host and the step.
fn names_rank_host_and_step(ended: &Ended) {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let told = |line: &str| line.contains("rank ") && line.contains(host.trim()) && line.contains(", step ");
    assert!(ended.err.lines().any(told), "{ended}");
}

#[test]
fn a_rank_that_is_killed() {
    let scene = Scene::new();
    let running = endless(&scene, 3, "");
    running.send("KILL", running.ranks()[1]);
    let ended = running.end_within(SOON);
    assert!(!ended.status.success(), "{ended}");
    // mpirun says whose end it was, the other ranks how far they had come.
    assert!(ended.err.contains("rank 1") && ended.err.contains("signal 9"), "{ended}");
    names_rank_host_and_step(&ended);
}

#[test]
fn a_rank_that_hangs() {
    let scene = Scene::new();
    let running = endless(&scene, 2, "--patience 3");
    running.send("STOP", running.ranks()[1]);
    let ended = running.end_within(SOON);
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.took >= Duration::from_secs(2), "it did not wait: {:?}", ended.took);
    assert!(ended.err.contains("waited 3 s for the other ranks"), "{ended}");
    names_rank_host_and_step(&ended);
}
