//! `OUT/metrics.h5`, written by rank 0 and followed live by whoever likes (SWMR: single writer, multiple readers).
//!
//! ```text
//! old  = read metrics.h5, if a checkpoint is resumed            works after kill -9 too
//! new  = create metrics.h5.new: all tables, old rows up to the checkpoint's step, this start
//! start_swmr(new); rename metrics.h5.new -> metrics.h5          nobody ever sees a half-made file
//! each step: keep the row; once a second, write the kept rows and flush
//! ```
//!
//! A start writes the file anew instead of reopening it: HDF5 cannot cut rows, add an evaluation set or clear a killed
//! writer's marks under the eyes of a follower. The rename leaves a follower its old file (it reopens to see more), needs
//! no lock, and a start that is killed half-way leaves the previous file whole. A million steps are 112 MB; it takes
//! less than a second.
use super::record::{EVAL, EVENT, EvalPoint, Event, RANK, Rank, START, STEP, Start, StepRecord};
use super::table::{Table, text_attribute};
use super::{EvalSet, History, cause};
use crate::error::{Error, Result};
use hdf5::{File, FileBuilder};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Raised when a reader of the previous one would misread the file.
const FORMAT_VERSION: i64 = 1;

/// Rows reach the file at most this long after their step: cheap beside steps of milliseconds, prompt for a person.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// An open table of evaluations.
struct Evaluated {
    set: EvalSet,
    table: Table<EvalPoint>,
    last: Option<u64>,
}

/// The metrics file of a running program. Dropping it closes it; [`MetricsFile::close`] also tells whether that worked.
pub struct MetricsFile {
    path: PathBuf,
    steps: Table<StepRecord>,
    evaluations: Vec<Evaluated>,
    events: Table<Event>,
    starts: Table<Start>,
    /// Rows that are not in the file yet.
    kept: Vec<StepRecord>,
    last_step: u64,
    last_flush: Option<Instant>,
    file: File,
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        if !self.kept.is_empty() {
            self.flush().unwrap_or_else(|e| log::error!("{e}"));
        }
    }
}

impl MetricsFile {
    /// Opens `path` for a start of the program. With `resume_from_step` the run that stands there is continued: its
    /// rows past that step are cut, its earlier starts and events are kept (also with `Some(0)`, where no checkpoint
    /// was complete). Without it the run is a new one, and a file that stands there is moved to `metrics.1.h5`, ….
    ///
    /// A file that cannot be read any more (its disk died while it was written) does not stop the run: it is moved
    /// aside, with a warning and an event, and a new one begins.
    ///
    /// Errors: [`Error::Failed`] naming the file when it cannot be written.
    pub fn open(
        path: &Path,
        start: &Start,
        ranks: &[Rank],
        sets: &[EvalSet],
        resume_from_step: Option<u64>,
    ) -> Result<MetricsFile> {
        let mut history = History::default();
        if path.exists() {
            match resume_from_step.map(|_| History::read(path)) {
                Some(Ok(old)) => history = old,
                Some(Err(why)) => {
                    let aside = move_aside(path)?;
                    let text = format!("{why}; moved to {} and begun anew", aside.display());
                    log::warn!("{text}");
                    history.events.push(Event { time: now(), step: resume_from_step.unwrap_or(0), text });
                }
                None => drop(move_aside(path)?),
            }
        }
        let resumed_step = resume_from_step.unwrap_or(0);
        history.cut(resumed_step);
        let time = if start.time == 0.0 { now() } else { start.time };
        history.starts.push(Start { time, resumed_step, ranks: ranks.len() as u64, ..start.clone() });
        history.ranks = ranks.to_vec();
        for set in sets {
            let set = EvalSet { name: group_name(&set.name), ..set.clone() };
            match history.evaluations.iter_mut().find(|e| e.set.name == set.name) {
                Some(old) => old.set = set,
                None => history.evaluations.push(super::Evaluation { set, points: vec![] }),
            }
        }
        let new = path.with_extension("h5.new");
        let opened = Self::create(&new, path, &history)
            .map_err(|e| Error::Failed(format!("{}: cannot be written: {}", path.display(), cause(&e))))?;
        if let Err(e) = std::fs::rename(&new, path) {
            crate::failed!("{}: cannot be moved to {}: {e}", new.display(), path.display());
        }
        Ok(opened)
    }

    fn create(new: &Path, path: &Path, history: &History) -> hdf5::Result<MetricsFile> {
        let mut with = FileBuilder::new();
        // Structural: SWMR needs the file format of HDF5 1.10. No locks: many parallel file systems have none.
        with.with_fapl(|p| p.libver_v110().file_locking(false));
        let file = with.create(new)?;
        text_attribute(&file, "format", "llm-train metrics")?;
        file.new_attr::<i64>().shape(()).create("format_version")?.write_scalar(&FORMAT_VERSION)?;
        text_attribute(&file, "version", &history.starts.last().map_or(String::new(), |s| s.version.clone()))?;

        let mut steps = Table::create(&file, "train", "a row for each optimizer step", STEP, 1024)?;
        steps.append(&history.steps)?;
        file.create_group("eval")?;
        let mut evaluations = vec![];
        for (order, e) in history.evaluations.iter().enumerate() {
            let name = &e.set.name;
            let mut table = Table::create(&file, &format!("eval/{name}"), "a row for each evaluation on this set", EVAL, 128)?;
            table.append(&e.points)?;
            let group = file.group(&format!("eval/{name}"))?;
            let bytes = e.set.bytes_per_token.unwrap_or(f64::NAN);
            group.new_attr::<f64>().shape(()).create("bytes_per_token")?.write_scalar(&bytes)?;
            group.new_attr::<i64>().shape(()).create("order")?.write_scalar(&(order as i64))?;
            evaluations.push(Evaluated { set: e.set.clone(), table, last: e.points.last().map(|p| p.step) });
        }
        let mut events = Table::create(&file, "events", "what happened besides steps and evaluations", EVENT, 16)?;
        events.append(&history.events)?;
        let mut starts = Table::create(&file, "starts", "a row for each start of the program; a resume adds one", START, 16)?;
        starts.append(&history.starts)?;
        Table::create(&file, "ranks", "a row for each rank of the latest start", RANK, 64)?.append(&history.ranks)?;

        file.start_swmr()?;
        file.flush()?;
        let last_step = history.starts.last().map_or(0, |s| s.resumed_step);
        let (kept, last_flush) = (vec![], None);
        Ok(MetricsFile { path: path.to_path_buf(), steps, evaluations, events, starts, kept, last_step, last_flush, file })
    }

    /// Adds a step. It reaches the file at once when the last flush is a second ago, else with a later row.
    ///
    /// Panics when the step stands there already.
    pub fn append(&mut self, record: &StepRecord) -> Result<()> {
        assert!(record.step > self.last_step, "step {} after step {}", record.step, self.last_step);
        self.last_step = record.step;
        self.kept.push(*record);
        if self.last_flush.is_some_and(|t| t.elapsed() < FLUSH_EVERY) { Ok(()) } else { self.flush() }
    }

    /// Adds an evaluation of the set `name`, one of those given to [`MetricsFile::open`]. A second one at the same step
    /// replaces the first.
    pub fn eval(&mut self, name: &str, step: u64, loss: f64) -> Result<()> {
        let found = self.evaluations.iter_mut().find(|e| e.set.name == group_name(name));
        let Evaluated { set, table, last } = found.unwrap_or_else(|| panic!("no evaluation set {name}"));
        let again = usize::from(*last == Some(step));
        let written = table.write(table.rows() - again, &[EvalPoint { step, loss, bytes_per_token: set.bytes_per_token }]);
        *last = Some(step);
        self.check(written)?;
        self.flush()
    }

    /// Adds a line to `/events`, with the present time.
    pub fn event(&mut self, step: u64, text: &str) -> Result<()> {
        let written = self.events.append(&[Event { time: now(), step, text: text.to_string() }]);
        self.check(written)?;
        self.flush()
    }

    /// Notes how long this start took: seconds from the start of the program to the end of its first step.
    pub fn first_step(&mut self, seconds: f64) -> Result<()> {
        let written = self.starts.set_real("first_step", self.starts.rows() - 1, seconds);
        self.check(written)
    }

    /// Writes the kept rows and hands all to the system: what a `kill -9` cannot take back. Worth calling before
    /// anything long (an evaluation, a checkpoint), so that followers need not wait for it.
    pub fn flush(&mut self) -> Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let written = self.steps.append(&kept).and_then(|()| self.file.flush());
        self.last_flush = Some(Instant::now());
        self.check(written)
    }

    /// Writes what is left and closes the file, after which it opens plainly, without SWMR.
    pub fn close(mut self) -> Result<()> {
        self.flush()?;
        let (path, file) = (self.path.clone(), self.file.clone());
        drop(self);
        file.close().map_err(|e| failed(&path, &e))
    }

    fn check(&self, written: hdf5::Result<()>) -> Result<()> {
        written.map_err(|e| failed(&self.path, &e))
    }
}

/// A set may be called by a path; in a group's name a slash would start a group within.
fn group_name(set: &str) -> String {
    set.replace('/', "_")
}

fn failed(path: &Path, error: &hdf5::Error) -> Error {
    Error::Failed(format!("{}: cannot be written {}", path.display(), cause(error)))
}

/// Renames `metrics.h5` to the first free of `metrics.1.h5`, `metrics.2.h5`, ….
fn move_aside(path: &Path) -> Result<PathBuf> {
    let aside = (1..).map(|n| path.with_extension(format!("{n}.h5"))).find(|p| !p.exists()).expect("a free number");
    match std::fs::rename(path, &aside) {
        Ok(()) => Ok(aside),
        Err(e) => crate::failed!("{}: cannot be moved to {}: {e}", path.display(), aside.display()),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}
