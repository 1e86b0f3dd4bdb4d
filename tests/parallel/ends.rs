//! The ends of a job that did not go well: it is over soon, everywhere, and says who, where, when and why.
use crate::job::{self, Ended};
use llm_train::comm::fault;
use llm_train::device::{Access, Device, Precision};
use llm_train::error::{Error, Result};
use llm_train::launch::{self, Launch, signals};
use llm_train::tensor::{Kind, Plan};
use std::time::Duration;

pub fn rank(end: &str) {
    let launch = job::join();
    let me = launch.rank();
    launch::at_step(7);
    match end {
        "panic" => {
            if me == 1 {
                panic!("the dog ate it");
            }
            launch.comm().barrier();
        }
        "panic of a thread" => {
            launch::phase("reading the corpus");
            if me == 1 {
                let _ = std::thread::spawn(|| panic!("the dog ate it")).join();
            }
            launch.comm().barrier();
        }
        "kill" => {
            if me == 1 {
                let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
                std::thread::sleep(Duration::from_secs(60));
            }
            signals::listen(launch.leads()).unwrap();
            launch.comm().barrier();
        }
        "hang" => {
            fault::patience(2);
            if me == 1 {
                std::thread::sleep(Duration::from_secs(60));
            }
            launch.comm().exchange(&[0.0]);
        }
        "hang of a neighbour" => {
            fault::patience(2);
            let mut plan = Plan::default();
            let t = plan.vector(Kind::Gradients, 3);
            let front = launch.comm().share(plan.len()).unwrap();
            let dev = Device::cpu_in(Some(front), &plan, 1, &[], Precision::Fp32).unwrap();
            if me == 1 {
                std::thread::sleep(Duration::from_secs(60));
            }
            launch.comm().all_reduce(dev.lend(t, Access::Write)).wait();
        }
        "error" => {
            let mine: Result<u32> = match me {
                0 => Ok(1),
                1 => Err(Error::Input("corpus.bin: expected tokens, found dust".into())),
                _ => Err(Error::Failed("another trouble".into())),
            };
            leave_with(launch.agree(mine).map(|_| ()), launch)
        }
        "error of the first" => {
            let mine: Result<u32> = if me == 0 { Err(Error::Failed("the disk is full".into())) } else { Ok(1) };
            leave_with(launch.agree(mine).map(|_| ()), launch)
        }
        "difference" => {
            let value = format!("[optim]\nlr = {}\n", if me == 1 { "2e-3" } else { "1e-3" });
            leave_with(launch.same_everywhere("the configuration", &value), launch)
        }
        "signal" => {
            signals::listen(true).unwrap();
            println!("listening");
            while launch.comm().exchange(&[f64::from(signals::asked().unwrap_or(0))]).concat().iter().all(|asked| *asked == 0.0) {
                std::thread::sleep(Duration::from_millis(5));
            }
            launch.leave(75)
        }
        other => panic!("what is {other:?}?"),
    }
    launch.leave(0)
}

/// As `main` does.
fn leave_with(result: Result<()>, launch: Launch) -> ! {
    let code = match &result {
        Ok(()) => 0,
        Err(e) => e.exit_code(),
    };
    if let (Err(e), true) = (&result, launch.leads()) {
        eprintln!("llm-train: {e}");
    }
    launch.leave(code)
}

fn ends(what: &str) -> Ended {
    let ended = job::start(3, &["--bind-to", "none"], what).end(Duration::from_secs(60));
    println!("{what}: {:?} after {:.1} s\n{}", ended.code, ended.seconds, ended.text);
    assert_ne!(ended.code, Some(0));
    assert!(ended.seconds < 10.0, "{:.1} s", ended.seconds);
    ended
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn a_panic_on_any_thread_ends_the_job_and_says_whose_it_was() {
    let Ended { text, .. } = ends("panic");
    assert!(text.contains("rank 1 on ") && text.contains(", step 7: the dog ate it"), "{text}");
    let Ended { text, .. } = ends("panic of a thread");
    assert!(text.contains("rank 1 on ") && text.contains("during reading the corpus: the dog ate it"), "{text}");
}

#[test]
fn a_killed_rank_ends_the_job() {
    let Ended { text, .. } = ends("kill");
    assert!(text.contains("process rank 1") && text.contains("Killed") && text.contains("step 7"), "{text}");
}

#[test]
fn a_rank_that_never_comes_ends_the_job() {
    for what in ["hang", "hang of a neighbour"] {
        let Ended { text, .. } = ends(what);
        assert!(text.contains("step 7: waited 2 s for the other ranks"), "{text}");
    }
}

#[test]
fn one_error_is_said_once_and_all_leave_with_its_code() {
    let Ended { text, code, .. } = ends("error");
    assert_eq!(code, Some(2));
    assert_eq!(count(&text, "corpus.bin: expected tokens, found dust"), 1);
    assert!(text.contains("rank 1 on ") && !text.contains("another trouble"), "the lowest rank's");
    let Ended { text, code, .. } = ends("error of the first");
    assert_eq!(code, Some(1));
    assert_eq!(count(&text, "llm-train: the disk is full"), 1, "without a rank: it is everyone's");
}

#[test]
fn different_configurations_are_refused_by_key_and_rank() {
    let Ended { text, code, .. } = ends("difference");
    assert_eq!(code, Some(2));
    assert!(text.contains("the configuration differs between ranks: rank 1 on "), "{text}");
    assert!(text.contains("`lr = 2e-3`, rank 0 has `lr = 1e-3`"), "{text}");
}

#[test]
fn a_signal_to_mpirun_asks_all_ranks_to_stop() {
    let job = job::start(3, &["--bind-to", "none"], "signal");
    std::thread::sleep(Duration::from_secs(2));
    job.signal("USR1");
    let ended = job.end(Duration::from_secs(30));
    assert_eq!(ended.code, Some(75), "{}", ended.text);
    assert!(ended.text.contains("step 7: SIGUSR1"), "{}", ended.text);
}
