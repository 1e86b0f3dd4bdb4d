//! The start of a job: who is where, how long it takes, and what is wrong with the binding.
use crate::job;
use llm_train::launch::Launch;
use std::time::{Duration, Instant};

pub fn rank() {
    let began = Instant::now();
    let launch = Launch::start(None, began);
    let after = launch.elapsed() - launch.init_seconds;
    assert_eq!((launch.local_rank, launch.local_size), (launch.rank(), launch.size()), "one machine");
    assert!(launch.ranks.iter().all(|p| p.node == 0 && p.threads >= 1 && p.pid > 0), "{:?}", launch.ranks);
    assert_eq!(launch.threads, launch.ranks[launch.rank()].threads);
    let slowest = launch.comm().exchange(&[after]).concat().into_iter().fold(0.0, f64::max);
    if launch.leads() {
        let warnings = launch.warnings(&[]);
        println!("{}warnings {warnings:?}\nMPI_Init {:.3} s, then {slowest:.4} s", launch.table(&[]), launch.init_seconds);
    }
    launch.leave(0)
}

/// Seconds of the start that are ours.
fn ours(text: &str) -> f64 {
    text.lines().find_map(|l| l.split_once(", then ")?.1.strip_suffix(" s")?.parse().ok()).unwrap()
}

#[test]
fn a_start_is_short_and_everyone_knows_where_everyone_is() {
    let ended = job::succeeds(4, "start");
    assert_eq!(ended.text.lines().filter(|l| l.contains(" cpu ")).count(), 4);
    // Loaded machines included; measured on an idle one: 0.01 s.
    assert!(ours(&ended.text) < 1.0);
}

#[test]
fn with_no_launcher_it_is_a_world_of_one() {
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rank", "--nocapture", "--test-threads=1"])
        .env(job::DO, "start")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && text.contains("warnings []"), "{text}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_launcher_that_binds_to_one_core_is_told_what_mends_it() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return; // nothing to leave idle
    }
    let ended = job::start(1, &["--bind-to", "core"], "start").end(Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(ended.text.contains("cores idle: mpirun --bind-to none"), "{}", ended.text);
}
