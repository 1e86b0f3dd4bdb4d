//! Starts the program, alone or on several ranks, and never waits for ever.
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-train");

/// Longer than any run here takes on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// The program with these arguments, parted by blanks, as a world of one.
pub fn alone(arguments: &str) -> Job {
    let mut command = Command::new(PROGRAM);
    command.args(arguments.split_whitespace());
    Job::new(command)
}

/// The same on `n` ranks.
pub fn ranks(n: usize, arguments: &str) -> Job {
    mpirun(&format!("-n {n} --bind-to none {PROGRAM} {arguments}"))
}

/// Whatever `mpirun` is to do.
pub fn mpirun(arguments: &str) -> Job {
    let mut command = Command::new("mpirun");
    command.args(arguments.split_whitespace());
    Job::new(command)
}

/// A command that has not started yet.
pub struct Job(pub Command);

impl Job {
    pub fn new(mut command: Command) -> Job {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What the tests run in must not reach the program: a job of Slurm, an mpirun of one's own, a wish for backtraces. What a
        // machine tells MPI of itself (no ssh, no copies between processes) must.
        let of_the_machine = ["OMPI_MCA_plm", "OMPI_MCA_btl", "OMPI_MCA_pml", "PMIX_MCA_"];
        for (name, _) in std::env::vars() {
            if of_the_machine.iter().any(|setting| name.starts_with(setting)) {
                continue;
            }
            if ["SLURM", "OMPI_", "PMI", "RUST_"].iter().any(|of_others| name.starts_with(of_others)) {
                command.env_remove(name);
            }
        }
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
        Job(command)
    }

    /// One argument more, which may hold blanks.
    pub fn and(mut self, argument: &str) -> Job {
        self.0.arg(argument);
        self
    }

    pub fn start(mut self) -> Running {
        let started = Instant::now();
        let mut child = self.0.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", self.0));
        let out = Lines::of(child.stdout.take());
        let err = Lines::of(child.stderr.take());
        Running { child, out, err, started, what: format!("{:?}", self.0) }
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.start().end_within(LONGEST)
    }

    /// Runs it to its end, which must be a good one.
    pub fn done(self) -> Ended {
        self.run().with_code(0)
    }
}

/// What a process has written so far on one of its streams.
#[derive(Default)]
struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(stream: Option<impl Read + Send + 'static>) -> Lines {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = text.clone();
        let reader = stream.map(|stream| {
            std::thread::spawn(move || {
                let (mut stream, mut line) = (BufReader::new(stream), vec![]);
                while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    shared.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        Lines { text, reader }
    }
    fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }
    fn whole(mut self) -> String {
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
        self.so_far()
    }
}

/// A command at work. Dropped, it is killed.
pub struct Running {
    pub child: Child,
    out: Lines,
    err: Lines,
    started: Instant,
    what: String,
}

impl Running {
    /// Waits until rank 0 has written the line of `step`, or a later one.
    pub fn until_step(&mut self, step: u64) {
        let at = |line: &str| line.strip_prefix("step ")?.split('/').next()?.parse::<u64>().ok();
        self.until(&format!("step {step}"), &|out| out.lines().filter_map(at).any(|s| s >= step));
    }

    /// Waits until these words have been said on stdout.
    pub fn until_said(&mut self, words: &str) {
        self.until(words, &|out| out.contains(words));
    }

    fn until(&mut self, what: &str, come: &dyn Fn(&str) -> bool) {
        while !come(&self.out.so_far()) {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || self.started.elapsed() > LONGEST {
                let (out, err) = (end(&self.out.so_far()), end(&self.err.so_far()));
                panic!("{}: {what} did not come ({ended:?})\n{out}\n{err}", self.what);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a file is there.
    pub fn until_there(&self, file: &Path) {
        while !file.exists() {
            assert!(
                self.started.elapsed() < LONGEST,
                "{}: {} did not come\n{}",
                self.what,
                file.display(),
                end(&self.err.so_far())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processes that this one started: under mpirun the ranks, in their order.
    pub fn ranks(&self) -> Vec<u32> {
        let parent = self.child.id().to_string();
        let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse::<u32>().ok());
        let is_mine = |pid: &u32| {
            // pid (name) state parent …
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&parent)
        };
        let mut found: Vec<u32> = numbers.filter(is_mine).collect();
        found.sort_unstable();
        found
    }

    /// `kill -SIGNAL pid`
    pub fn send(&self, signal: &str, pid: u32) {
        assert!(kill(signal, pid), "{signal} to {pid}");
    }

    /// Waits for the end. A process that takes longer is a failure of the test.
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let asked = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if asked.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    panic!("{}: still there after {limit:?}\n{}\n{}", self.what, end(&self.out.so_far()), end(&self.err.so_far()))
                }
            }
        };
        let took = asked.elapsed();
        let (out, err) = (std::mem::take(&mut self.out).whole(), std::mem::take(&mut self.err).whole());
        Ended { status, out, err, took, what: std::mem::take(&mut self.what) }
    }

    /// `kill -9` of everything, as when a node loses its power.
    pub fn kill(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // mpirun first, lest it looks after its ranks.
        let ranks = self.ranks();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for rank in &ranks {
            kill("KILL", *rank);
        }
        // Gone, and not about to be: a rank may be in the middle of a file.
        let gone = |rank: &u32| !Path::new(&format!("/proc/{rank}")).exists();
        let asked = Instant::now();
        while !ranks.iter().all(gone) && asked.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The shell's own `kill`, which is there wherever a shell is.
fn kill(signal: &str, pid: u32) -> bool {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).stderr(Stdio::null()).status();
    sent.expect("a shell").success()
}

/// A command that has come to its end.
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
    /// From the moment it was waited for.
    pub took: Duration,
    what: String,
}

impl Ended {
    pub fn with_code(self, code: i32) -> Ended {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// The one sentence that the program says on stderr: from one rank, with every one of `parts`.
    pub fn sentence(&self, parts: &[&str]) -> &str {
        let said: Vec<&str> = self.err.lines().filter(|line| line.starts_with("llm-train: ")).collect();
        assert_eq!(said.len(), 1, "one sentence\n{self}");
        parts.iter().for_each(|part| assert!(said[0].contains(part), "{part:?} is not in {:?}", said[0]));
        assert!(!self.err.contains("panicked"), "{self}");
        said[0]
    }

    /// The text after `start` on the line that begins so.
    pub fn after(&self, start: &str) -> &str {
        let found = self.out.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no line that begins with {start:?}\n{self}")).trim()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}\nstdout:\n{}\nstderr:\n{}", self.what, self.status, end(&self.out), end(&self.err))
    }
}

/// The last lines of a long text.
fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
