//! Reads `metrics.h5`: of a finished run, of one that was killed, or of one that is being written just now.
use super::record::{EVAL, EVENT, EvalPoint, Event, RANK, Rank, START, STEP, Start, StepRecord};
use super::{cause, table};
use crate::error::{Error, Result};
use hdf5::{File, FileBuilder, OpenMode};
use std::path::Path;

/// A set of held-out data that a run evaluates on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalSet {
    /// Its group's name under `/eval`.
    pub name: String,
    /// Mean bytes of text behind a token of the latest start's evaluations, where tokenizer or corpus tell.
    pub bytes_per_token: Option<f64>,
}

/// A held-out set and its losses, in the order of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    pub set: EvalSet,
    pub points: Vec<EvalPoint>,
}

/// All that `metrics.h5` holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    pub starts: Vec<Start>,
    pub steps: Vec<StepRecord>,
    pub evaluations: Vec<Evaluation>,
    pub events: Vec<Event>,
    /// Of the latest start.
    pub ranks: Vec<Rank>,
}

impl History {
    /// Reads the whole file, as a follower (SWMR): a writer may be at work, or may have been killed.
    ///
    /// Errors: [`Error::Input`] naming the file, when it is missing or no metrics file.
    pub fn read(path: &Path) -> Result<History> {
        if !path.is_file() {
            crate::bad_input!("{}: no such file; expected the metrics of a run", path.display());
        }
        let read = || -> hdf5::Result<History> {
            let file = open(path)?;
            let mut evaluations = vec![];
            for name in file.group("eval")?.member_names()? {
                let group = file.group(&format!("eval/{name}"))?;
                let bytes: f64 = group.attr("bytes_per_token")?.read_scalar()?;
                let set = EvalSet { name, bytes_per_token: (!bytes.is_nan()).then_some(bytes) };
                let mut points: Vec<EvalPoint> = table::read(&group, EVAL)?;
                // files of before had one figure for all
                points.iter_mut().for_each(|p| p.bytes_per_token = p.bytes_per_token.or(set.bytes_per_token));
                evaluations.push((group.attr("order")?.read_scalar::<i64>()?, Evaluation { set, points }));
            }
            evaluations.sort_by_key(|(order, _)| *order);
            Ok(History {
                starts: table::read(&file.group("starts")?, START)?,
                steps: table::read(&file.group("train")?, STEP)?,
                evaluations: evaluations.into_iter().map(|(_, e)| e).collect(),
                events: table::read(&file.group("events")?, EVENT)?,
                ranks: table::read(&file.group("ranks")?, RANK)?,
            })
        };
        read().map_err(|e| Error::Input(format!("{}: expected an llm-train metrics file: {}", path.display(), cause(&e))))
    }

    /// Forgets steps and evaluations past `step`.
    pub fn cut(&mut self, step: u64) {
        self.steps.retain(|r| r.step <= step);
        self.evaluations.iter_mut().for_each(|e| e.points.retain(|p| p.step <= step));
    }

    /// The latest start that ran a step: one after it may have found all done. Before any step, the latest.
    pub fn latest_start(&self) -> Option<&Start> {
        let last = self.steps.last().map_or(0, |r| r.step);
        self.starts.iter().rev().find(|s| s.resumed_step < last).or(self.starts.last())
    }

    /// The steps that it ran itself.
    pub fn latest_steps(&self) -> &[StepRecord] {
        let resumed = self.latest_start().map_or(0, |s| s.resumed_step);
        &self.steps[self.steps.partition_point(|r| r.step <= resumed)..]
    }

    /// Tokens of the global batch at row `i`: what `tokens` grew by. A run whose first rows are missing (its file was
    /// lost) cannot tell for its first row.
    pub fn step_tokens(&self, i: usize) -> Option<u64> {
        match i {
            0 => (self.steps[0].step == 1).then_some(self.steps[0].tokens),
            _ => Some(self.steps[i].tokens - self.steps[i - 1].tokens),
        }
    }
}

/// SWMR first, since that works with and without a writer; files not made for it are opened plainly.
fn open(path: &Path) -> hdf5::Result<File> {
    let mut with = FileBuilder::new();
    with.with_fapl(|p| p.file_locking(false));
    with.open_as(path, OpenMode::ReadSWMR).or_else(|_| with.open_as(path, OpenMode::Read))
}
