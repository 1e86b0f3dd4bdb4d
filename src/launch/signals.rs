//! Signals ask a run to stop: after the step at hand, with a complete checkpoint.
//!
//! | signal | from | effect |
//! |---|---|---|
//! | SIGUSR1 | `--signal=USR1@120` of Slurm, or sent to mpirun | save, exit 75 |
//! | SIGTERM | the end of a job's time, a node drained | save, exit 75 |
//! | SIGINT | Ctrl-C | save, exit 75; a second one ends the process at once |
use crate::comm::fault;
use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The last signal; 0: none yet.
static ASKED: AtomicI32 = AtomicI32::new(0);
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Listens from now on. `speaks`: whether this rank says on stderr what it heard (every rank does for SIGTERM, whose
/// sender may be a launcher that ends a job because another rank is gone).
pub fn listen(speaks: bool) -> Result<()> {
    let mut signals =
        Signals::new([SIGUSR1, SIGTERM, SIGINT]).map_err(|e| Error::Failed(format!("cannot listen for signals: {e}")))?;
    let watch = move || {
        for signal in signals.forever() {
            if LEAVING.load(Ordering::SeqCst) {
                continue;
            }
            let again = ASKED.swap(signal, Ordering::SeqCst) != 0;
            if signal == SIGINT && again {
                fault::abort("interrupted twice");
            }
            if speaks || signal == SIGTERM {
                eprintln!("llm-train: {}: {}: will save and stop after this step", fault::here(), name(signal));
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map(|_| ())
        .map_err(|e| Error::Failed(format!("cannot listen for signals: {e}")))
}

/// From now on signals say nothing: a launcher sends SIGTERM to the other ranks as soon as the first has left with an exit
/// code, and they are about to leave as well.
pub fn leave() {
    LEAVING.store(true, Ordering::SeqCst);
}

/// The signal by which somebody asked this rank to stop.
pub fn asked() -> Option<i32> {
    Some(ASKED.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

pub fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}
