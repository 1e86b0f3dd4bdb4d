//! One rank's trouble ends the whole job at once, and says whose it was.
//!
//! ```text
//! panic, on any thread                      \
//! a wait longer than the limit               > rank, host, step or phase, cause on stderr; MPI_Abort; _exit after 5 s
//! an error that cannot be agreed upon       /
//! ```
//! The watchdog uses no MPI: a library that hangs would hang it too.
use super::wire;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

static RANK: AtomicUsize = AtomicUsize::new(0);
static STEP: AtomicU64 = AtomicU64::new(0);
static PHASE: Mutex<&str> = Mutex::new("the start");
static HOST: OnceLock<String> = OnceLock::new();
static MPI_IS_UP: AtomicBool = AtomicBool::new(false);
static PATIENCE: AtomicU64 = AtomicU64::new(600);

/// Who we are, for messages. `mpi`: whether an abort can reach the other ranks.
pub fn introduce(rank: usize, host: &str, mpi: bool) {
    RANK.store(rank, Ordering::Relaxed);
    let _ = HOST.set(host.to_string());
    MPI_IS_UP.store(mpi, Ordering::SeqCst);
}

/// What the program is doing, outside the steps.
pub fn phase(name: &'static str) {
    *PHASE.lock().unwrap_or_else(|e| e.into_inner()) = name;
}

/// The step being worked on; 0 before the first.
pub fn at_step(step: u64) {
    STEP.store(step, Ordering::Relaxed);
    phase("");
}

/// Seconds that a rank waits for the others before it gives the job up.
pub fn patience(seconds: u64) {
    PATIENCE.store(seconds, Ordering::Relaxed);
}

/// `rank 3 on node17, step 42`
pub fn here() -> String {
    let (rank, step) = (RANK.load(Ordering::Relaxed), STEP.load(Ordering::Relaxed));
    let phase = *PHASE.lock().unwrap_or_else(|e| e.into_inner());
    let host = HOST.get().map_or("this host", String::as_str);
    match (phase, step) {
        ("", step) => format!("rank {rank} on {host}, step {step}"),
        (phase, 0) => format!("rank {rank} on {host}, during {phase}"),
        (phase, step) => format!("rank {rank} on {host}, step {step}, during {phase}"),
    }
}

/// Ends the whole job with exit code 1.
pub fn abort(cause: &str) -> ! {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::SeqCst) {
        // Another thread is already at it.
        std::thread::sleep(Duration::from_secs(10));
    }
    eprintln!("llm-train: {}: {cause}", here());
    // A library that hangs in its abort must not keep us.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(5));
        // SAFETY: ends the process, whatever its threads do.
        unsafe { libc::_exit(1) }
    });
    if MPI_IS_UP.load(Ordering::SeqCst) {
        wire::abort(1);
    }
    // SAFETY: as above.
    unsafe { libc::_exit(1) }
}

/// From now on a panic of any thread ends the job.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::capture(); // there is one if RUST_BACKTRACE asks for it
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            eprintln!("{trace}");
        }
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| payload.downcast_ref::<String>().cloned());
        let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        abort(&format!("{}{place}", text.unwrap_or_else(|| "panicked".into())));
    }));
}

/// Does `work`, but not for ever: for calls into the library that may hang, on a thread that could not look at its watch.
pub fn within<R>(name: &str, work: impl FnOnce() -> R) -> R {
    let (over, watch) = std::sync::mpsc::channel::<()>();
    let (limit, name) = (PATIENCE.load(Ordering::Relaxed), name.to_owned());
    std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(limit)) == Err(RecvTimeoutError::Timeout) {
            abort(&format!("{name} has not returned after {limit} s"));
        }
    });
    let result = work();
    drop(over);
    result
}

/// Waits for what the communication thread will bring, but not for ever.
pub(crate) fn patiently<T>(done: &Receiver<T>) -> T {
    let limit = PATIENCE.load(Ordering::Relaxed);
    match done.recv_timeout(Duration::from_secs(limit)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => abort(&format!("waited {limit} s for the other ranks; one of them hangs or is gone")),
        Err(RecvTimeoutError::Disconnected) => abort("the communication thread has ended"),
    }
}
