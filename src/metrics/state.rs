//! What has become of a run, as far as its `metrics.h5` tells, also from another node.
//!
//! ```text
//! the writer's marks in HDF5's superblock     set: it writes, or was killed     cleared: it has closed the file
//! last step = steps of the run, target reached   done
//! rank 0's process, on its own host           gone with the marks still set: killed
//! ```
use super::{History, Recent};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Or killed on a host that cannot be asked.
    Going,
    Done,
    /// Asked to, with a checkpoint: the same command goes on.
    Stopped,
    /// It ended by itself before its last step.
    Failed,
    Killed,
}

/// How `train` says that it stopped early.
pub const STOPPED: &str = "stopped early";
/// How it says that its evaluation is as good as was asked for.
pub const REACHED: &str = "reached the target";

impl State {
    /// Of the latest start in `path`, from which `history` was read.
    pub fn of(path: &Path, history: &History) -> State {
        let last = history.steps.last().map_or(0, |r| r.step);
        let Some(start) = history.starts.last() else { return State::Going };
        if is_being_written(path) {
            return if writer_is_gone(history) { State::Killed } else { State::Going };
        }
        // Events are kept over starts: only those of the latest one count.
        let said = |words: &str| history.events.last().is_some_and(|e| e.time >= start.time && e.text.starts_with(words));
        match () {
            () if said(STOPPED) => State::Stopped,
            () if last >= start.steps || said(REACHED) => State::Done,
            () => State::Failed,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            State::Going => "running",
            State::Done => "done",
            State::Stopped => "stopped early, to be gone on with",
            State::Failed => "ended before its last step",
            State::Killed => "killed",
        }
    }
}

/// Whether a run that has written nothing for so long says nothing: half a minute, or ten of its steps where that is longer.
pub fn silent(history: &History, silence: Duration) -> bool {
    let step = Recent::of(history).map_or(0.0, |recent| recent.step_seconds);
    silence > Duration::from_secs(30).max(Duration::from_secs_f64(10.0 * step))
}

/// Byte 11 of a superblock of version 3: bit 0, a writer; bit 2, a writer that is followed.
fn is_being_written(path: &Path) -> bool {
    let mut head = [0u8; 12];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"\x89HDF\r\n\x1a\n") && head[8] >= 3 && head[11] & 5 != 0
}

/// Whether rank 0 ran on this host and is there no more; not known of other hosts.
fn writer_is_gone(history: &History) -> bool {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let Some(rank) = history.ranks.first().filter(|r| r.host == host.trim() && r.pid > 0) else { return false };
    // Another process may have its number by now; then nobody can tell.
    !Path::new(&format!("/proc/{}", rank.pid)).exists()
}
