//! How a run goes just now: its latest steps, at most a hundred, of its latest start where that has run any.
//!
//! ```text
//! tokens/s = Σ tokens / Σ step_time        ETA = (steps of the run − steps done) × mean step_time
//! ```
use super::{History, Share, StepRecord, split};

/// Steps that the means are taken over.
const RECENT: usize = 100;

pub struct Recent {
    /// The latest step, whole.
    pub last: StepRecord,
    /// Steps of the whole run, where the file tells.
    pub of: Option<u64>,
    /// Steps that the means are taken over.
    pub n: usize,
    pub loss: f64,
    pub tokens_per_second: f64,
    pub step_seconds: f64,
    pub parts: Vec<Share>,
    /// Seconds, without evaluations and checkpoints.
    pub eta: Option<f64>,
}

impl Recent {
    /// `None` before the first step.
    pub fn of(history: &History) -> Option<Recent> {
        let of = history.starts.last().map(|s| s.steps).filter(|n| *n > 0);
        let rows = history.latest_steps();
        let rows = &rows[rows.len().saturating_sub(RECENT)..];
        let last = *rows.last()?;
        let n = rows.len();
        let sum = |get: fn(&StepRecord) -> f64| rows.iter().map(get).sum::<f64>();
        let (time, tokens) = (sum(|r| r.step_time), sum(|r| r.tokens_per_second * r.step_time));
        Some(Recent {
            last,
            of,
            n,
            loss: sum(|r| r.loss) / n as f64,
            tokens_per_second: tokens / time,
            step_seconds: time / n as f64,
            parts: split(rows),
            eta: of.map(|of| of.saturating_sub(last.step) as f64 * time / n as f64),
        })
    }

    /// Share of the time in which rank 0 only waited for communication.
    pub fn exposed(&self) -> f64 {
        self.parts.iter().find(|part| part.name == "exposed communication").map_or(0.0, |part| part.share)
    }
}
