//! The private cluster that all tests of this process use together. It stops when the process ends, however that comes: its
//! command is a `cat` that reads from us.
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Longer than a job waits and runs here on a busy machine, where the site's check compiles beside (scripts/test.sh).
const LONGEST: Duration = Duration::from_secs(400);

pub struct Cluster {
    conf: String,
    _kept: Child,
}

/// None where there is no Slurm to start; where everything is to be tested that is a failure.
pub fn get() -> Option<&'static Cluster> {
    static ONE: OnceLock<Option<Cluster>> = OnceLock::new();
    ONE.get_or_init(start).as_ref()
}

/// Whether a command can be found.
pub fn have(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// Says that a test is left out; where everything is to be tested that is a failure.
pub fn skip(what: &str) {
    assert!(std::env::var_os("LLM_TRAIN_NO_SKIPS").is_none(), "{what} is missing, and LLM_TRAIN_NO_SKIPS is set");
    eprintln!("SKIPPED: {what} is missing here");
}

fn start() -> Option<Cluster> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !root || !["slurmctld", "slurmd", "munged", "sbatch"].iter().all(|program| have(program)) {
        skip("Slurm (apt-get install slurm-wlm munge), or being root");
        return None;
    }
    let mut command = Command::new(Path::new(ROOT).join("scripts/slurm-here.sh"));
    // As many cores as it has by itself, which is what a reader of the docs meets; nodes and GPUs of docs/scaling.md.
    command
        .env_remove("CPUS")
        .env("MORE", "8")
        .env("GPUS", "4")
        .args(["sh", "-c", "echo $SLURM_CONF; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut kept = command.spawn().unwrap();
    let mut conf = String::new();
    BufReader::new(kept.stdout.take().unwrap()).read_line(&mut conf).unwrap();
    assert!(!conf.is_empty(), "scripts/slurm-here.sh did not start");
    Some(Cluster { conf: conf.trim().to_owned(), _kept: kept })
}

impl Cluster {
    /// A command with this Slurm, and the program under test first in its path.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let own = Path::new(crate::program::PROGRAM).parent().unwrap().display().to_string();
        command.env("SLURM_CONF", &self.conf).env("PATH", format!("{own}:{}:/usr/sbin", std::env::var("PATH").unwrap()));
        command.env("OMPI_MCA_mpi_yield_when_idle", "1");
        command
    }

    /// What a command of Slurm writes.
    pub fn ask(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let out = self.command(words.next().unwrap()).args(words).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    /// Submits from a folder; the job's id.
    pub fn submit(&self, folder: &Path, arguments: &[&str]) -> String {
        let out = self.command("sbatch").arg("--parsable").args(arguments).current_dir(folder).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Waits until the job is no longer in the queue.
    pub fn until_over(&self, job: &str) {
        self.until(job, &|| self.ask(&format!("squeue --noheader --jobs {job} --format=%T")).trim().is_empty());
    }

    pub fn until(&self, what: &str, is_so: &dyn Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LONGEST, "{what}: not within {LONGEST:?}\n{}", self.ask("squeue --long"));
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}
