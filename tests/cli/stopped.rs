//! Stopped in the middle, asked or killed, and gone on as if nothing had been.
use crate::program::{Job, alone, ranks};
use crate::scene::{Left, Scene};
use std::time::Duration;

/// Never reached: the test stops the run before.
const MANY: u64 = 1_000_000;

/// After the run in `left` was stopped at some step with exit 75: goes on for five steps, and so does one that was never
/// stopped. Both must have the same bits.
fn goes_on_as_if_nothing_had_been(scene: &Scene, stopped: &Left, options: &dyn Fn(&str) -> String, job: fn(&str) -> Job) {
    let at = *stopped.steps().last().unwrap();
    assert_eq!(stopped.checkpoints(), [at]);
    let last = at + 5;
    let folder = stopped.0.file_name().unwrap().to_str().unwrap();
    job(&format!("{} --steps {last}", options(folder))).done();
    job(&format!("{} --steps {last}", options("uninterrupted"))).done();
    let whole = scene.run("uninterrupted");
    assert_eq!(stopped.losses(), whole.losses());
    assert!(stopped.weights(last) == whole.weights(last), "the weights differ");
}

fn on_two(arguments: &str) -> Job {
    ranks(2, arguments)
}

/// Whom the signal is for.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Launcher,
    Rank(usize),
}

fn a_signal_saves_and_stops(signal: &str, to: To, zero: u64) {
    let scene = Scene::new();
    let options = |out: &str| format!("{} --zero {zero}", scene.options(out));
    let mut running = ranks(2, &format!("{} --steps {MANY}", options("stopped"))).start();
    running.until_step(20);
    let pid = match to {
        To::Launcher => running.child.id(),
        To::Rank(rank) => running.ranks()[rank],
    };
    running.send(signal, pid);
    let ended = running.end_within(Duration::from_secs(20)).with_code(75);
    // rank 0 says what it heard itself, if it does so before the others have agreed to stop
    assert!(to != To::Rank(0) || ended.err.contains(&format!("SIG{signal}")), "{ended}");
    assert!(ended.out.contains(&format!("stopped early, as SIG{signal} asked: run the same command again")), "{ended}");
    goes_on_as_if_nothing_had_been(&scene, &scene.run("stopped"), &options, on_two);
}

#[test]
fn sigusr1_to_mpirun() {
    a_signal_saves_and_stops("USR1", To::Launcher, 1);
}

#[test]
fn sigterm_to_one_rank() {
    a_signal_saves_and_stops("TERM", To::Rank(1), 0);
}

#[test]
fn sigusr1_to_rank_0() {
    a_signal_saves_and_stops("USR1", To::Rank(0), 0);
}

#[test]
fn sigusr1_to_another_rank() {
    a_signal_saves_and_stops("USR1", To::Rank(1), 0);
}

#[test]
fn a_time_limit() {
    let scene = Scene::new();
    let options = |out: &str| scene.options(out);
    let running = alone(&format!("{} --steps {MANY} --max-time 2", options("stopped"))).start();
    let ended = running.end_within(Duration::from_secs(20)).with_code(75);
    assert!(ended.took > Duration::from_millis(500), "{ended}");
    assert!(ended.out.contains("stopped early, since its time is nearly over"), "{ended}");
    goes_on_as_if_nothing_had_been(&scene, &scene.run("stopped"), &options, alone);
}

#[test]
fn a_stopped_run_that_is_asked_again_stops_again_and_a_finished_one_does_nothing() {
    let scene = Scene::new();
    let options = scene.options("run");
    alone(&options).done();
    let before = scene.run("run").checkpoints();
    let again = alone(&options).done();
    assert!(again.out.contains("nothing left to do"), "{again}");
    assert_eq!(scene.run("run").checkpoints(), before);
    assert_eq!(scene.run("run").losses().len(), 4);
    assert_eq!(scene.run("run").history().starts.len(), 2);
    assert!(!again.out.contains("changed since then"), "{again}");
}

/// What is another value than before is said, and kept; where files go is no such thing.
#[test]
fn who_goes_on_otherwise_is_told_in_what() {
    let scene = Scene::new();
    alone(&scene.options("run")).done();
    let other = format!("{} --lr 2e-3 --steps 6 --log-every 2", scene.options("run"));
    let said = alone(&other).done().after("changed since then: ").to_string();
    assert_eq!(said, "train.steps 4 -> 6, optim.lr 0.001 -> 0.002");
    let events = scene.run("run").history().events;
    assert!(events.iter().any(|e| e.step == 4 && e.text == format!("changed since then: {said}")), "{events:?}");
}

/// Killed in the one moment in which the checkpoint is complete and its step's row could still be in memory only: rank 0
/// looks through the old checkpoints then, and is held there by a pipe in the place of a file.
#[test]
fn the_rows_of_a_checkpoint_s_steps_are_written_before_it() {
    let scene = Scene::new();
    let options = |steps: u64| format!("{} --steps {steps} --save-every 3 --keep 2", scene.options("run"));
    alone(&options(6)).done();
    let left = scene.run("run");
    let held = left.checkpoint(3).join("complete");
    std::fs::remove_file(&held).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&held).status().unwrap().success());
    let running = alone(&options(MANY)).start();
    running.until_there(&left.0.join("checkpoints/step-00000009/complete"));
    running.kill();
    std::fs::remove_dir_all(left.checkpoint(3)).unwrap();
    assert_eq!(left.steps(), (1..=9).collect::<Vec<u64>>());
    assert_eq!(left.checkpoints(), [6, 9]);
}

/// `kill -9` of everything, wherever it may be: between two steps, in the middle of a checkpoint.
#[test]
fn a_job_that_is_killed_goes_on_from_its_last_checkpoint() {
    let scene = Scene::new();
    let options = |out: &str, steps: u64| format!("{} --steps {steps} --save-every 3 --keep 2", scene.options(out));
    let left = scene.run("killed");
    let mut reached = 0;
    for _ in 0..3 {
        let mut running = ranks(2, &options("killed", MANY)).start();
        running.until_step(reached + 10);
        running.kill();
        let saved = llm_train::checkpoint::newest(&left.0).unwrap().expect("a checkpoint");
        reached = saved.file_name().unwrap().to_str().unwrap()[5..].parse().unwrap();
        // The rows of the last second may be lost, none may stand twice.
        assert!(left.losses().len() as u64 + 1000 >= reached);
    }
    let last = reached + 4;
    ranks(2, &options("killed", last)).done();
    ranks(2, &options("uninterrupted", last)).done();
    let whole = scene.run("uninterrupted");
    assert_eq!(left.losses(), whole.losses());
    assert!(left.weights(last) == whole.weights(last), "the weights differ");
    assert_eq!(left.history().starts.len(), 4);
    // Nothing unfinished is left behind.
    assert_eq!(left.checkpoints().last(), Some(&last));
}
