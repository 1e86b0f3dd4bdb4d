//! `llm-train report --live OUT`: how a run goes, again and again.
//!
//! ```text
//! look     read metrics.h5 from its start: a resume replaces the file, and what is read need not be kept in step with it
//! show     a terminal: the same lines again, in place     a file or pipe: a line now and then, and what happened meanwhile
//! end      the run is done, has failed, or was killed; one that stopped early is waited for
//! ```
//! A look takes at most a tenth of the time, however long the run has become.
mod lines;
mod screen;

use super::name;
use crate::commands::say;
use crate::error::Result;
use crate::failed;
use crate::metrics::units::duration;
use crate::metrics::{History, State, terminal};
use lines::Lines;
use screen::{Screen, frame};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Between looks, unless said otherwise.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(30);
/// A whole HDF5 file that cannot be read for so long is not just being written.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one look has found.
enum Look {
    NotThere,
    There(Box<History>, State),
    /// In the middle of a change, perhaps.
    Unreadable(crate::error::Error),
}

pub fn follow(file: &Path, every: Option<u64>) -> Result<()> {
    let mut screen = terminal::stdout_is_watched().then(Screen::new);
    let every = every.map(Duration::from_secs).unwrap_or(if screen.is_some() { ON_TERMINAL } else { ELSEWHERE });
    let mut lines = Lines::default();
    let (began, mut readable, mut moved, mut killed, mut last) = (Instant::now(), Instant::now(), silent_since(file), 0, 0);
    loop {
        let looked = Instant::now();
        let found = look(file)?;
        let mut ended = None;
        match found {
            Look::NotThere => match &mut screen {
                Some(screen) => screen.show(&[waiting(file, began.elapsed())]),
                None => lines.waiting(file),
            },
            Look::Unreadable(why) => {
                if readable.elapsed() > PATIENCE {
                    return Err(why);
                }
            }
            Look::There(history, state) => {
                readable = Instant::now();
                let step = history.steps.last().map_or(0, |r| r.step);
                if step != last {
                    moved = if last == 0 { moved } else { Instant::now() };
                    last = step;
                }
                // Once may be a glance between two processes.
                killed = if state == State::Killed { killed + 1 } else { 0 };
                ended = (matches!(state, State::Done | State::Failed) || killed >= 3).then_some(state);
                let state = if state == State::Killed && ended.is_none() { State::Going } else { state };
                match &mut screen {
                    Some(screen) => {
                        let frame = frame(&name(file), &history, state, moved.elapsed(), screen.size());
                        screen.show(&frame);
                    }
                    None => lines.news(&history, state, moved.elapsed()),
                }
            }
        }
        if let Some(state) = ended {
            if screen.is_none() {
                say(format_args!("{} after step {last}", state.words()));
            }
            return Ok(());
        }
        // Someone who is about to be killed is looked at again soon.
        let wait = if killed > 0 { ON_TERMINAL } else { every };
        std::thread::sleep(wait.max(10 * looked.elapsed()));
    }
}

/// Errors: what is there is no HDF5 file.
fn look(file: &Path) -> Result<Look> {
    let mut head = [0; 4];
    match std::fs::File::open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Look::NotThere),
        Err(e) => failed!("{}: cannot be read: {e}", file.display()),
        Ok(mut open) => {
            if open.read_exact(&mut head).is_ok() && head != *b"\x89HDF" {
                crate::bad_input!("{}: expected an llm-train metrics file, found another kind of file", file.display());
            }
        }
    }
    Ok(match History::read(file) {
        Ok(history) => {
            let state = State::of(file, &history);
            Look::There(Box::new(history), state)
        }
        Err(why) => Look::Unreadable(why),
    })
}

/// When the file was last written, as this machine's clock sees it.
fn silent_since(file: &Path) -> Instant {
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
    Instant::now().checked_sub(age.unwrap_or_default()).unwrap_or_else(Instant::now)
}

fn waiting(file: &Path, since: Duration) -> String {
    format!("waiting for {}, which is not there yet  {}", file.display(), duration(since.as_secs_f64()))
}
