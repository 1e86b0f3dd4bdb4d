//! Starts this binary again as the ranks of a job, and watches it end.
use llm_train::comm::Mpi;
use llm_train::launch::Launch;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What the ranks are to do.
pub const DO: &str = "LLM_TRAIN_RANKS_DO";

/// One job at a time: they are many ranks for few cores, and some are timed.
static ONE: Mutex<()> = Mutex::new(());

pub struct Job {
    pub mpirun: Child,
    began: Instant,
    _one: MutexGuard<'static, ()>,
}

pub struct Ended {
    pub code: Option<i32>,
    pub seconds: f64,
    /// stdout, then stderr.
    pub text: String,
}

/// `options` go to mpirun.
pub fn start(ranks: usize, options: &[&str], what: &str) -> Job {
    let one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let began = Instant::now();
    let mpirun = Command::new("mpirun")
        .args(["-n", &ranks.to_string()])
        .args(options)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "rank", "--nocapture", "--test-threads=1"])
        .env(DO, what)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_mpi_yield_when_idle", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun is needed for these tests");
    Job { mpirun, began, _one: one }
}

impl Job {
    /// Waits for the end; fails the test after a limit.
    pub fn end(mut self, limit: Duration) -> Ended {
        let (mut out, mut err) = (self.mpirun.stdout.take().unwrap(), self.mpirun.stderr.take().unwrap());
        let read = |from: &mut dyn Read| {
            let mut text = vec![];
            let _ = from.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        let out = std::thread::spawn(move || read(&mut out));
        let err = std::thread::spawn(move || read(&mut err));
        let status = loop {
            if let Some(status) = self.mpirun.try_wait().unwrap() {
                break Some(status);
            }
            if self.began.elapsed() > limit {
                let _ = self.mpirun.kill();
                let _ = self.mpirun.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let seconds = self.began.elapsed().as_secs_f64();
        let text = out.join().unwrap() + &err.join().unwrap();
        let Some(status) = status else { panic!("not over after {limit:?}:\n{text}") };
        Ended { code: status.code(), seconds, text }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.mpirun.id().to_string()]).status().unwrap().success());
    }
}

/// A job that is to succeed.
pub fn succeeds(ranks: usize, what: &str) -> Ended {
    let ended = start(ranks, &["--bind-to", "none"], what).end(Duration::from_secs(300));
    println!("{}", ended.text);
    assert_eq!(ended.code, Some(0), "{what} on {ranks} ranks");
    ended
}

/// The ranks' side: joins the job.
pub fn join() -> Launch {
    Launch::start(Some(1), Instant::now())
}

/// The job's ranks once more, to be split into smaller worlds.
pub fn world() -> Mpi {
    Mpi::world().expect("several ranks")
}
