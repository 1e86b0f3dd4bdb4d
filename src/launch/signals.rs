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
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
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
            let again = ASKED.swap(true, Ordering::SeqCst);
            if signal == SIGINT && again {
                fault::abort("interrupted twice");
            }
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            if speaks || signal == SIGTERM {
                eprintln!("llm-train: {}: {name}: will save and stop after this step", fault::here());
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

/// Whether somebody asked this rank to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
