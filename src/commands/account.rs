//! Steps that are on their way, and what is done when their numbers are there: a row, or the end of the run.
//!
//! ```text
//! a CPU    send 1 · account 1 · send 2 · account 2 · send 3 · account 3
//! a GPU    send 1 · account 1 · send 2 · send 3 · account 2 · send 4 · account 3      it computes while the host does this
//! ```
//! Before an evaluation and before a checkpoint all are accounted for: what is not finite is never saved.
use crate::commands::energy;
use crate::commands::output::Output;
use crate::commands::session::Session;
use crate::error::Result;
use crate::failed;
use crate::launch::{self, Launch, signals};
use crate::metrics::StepRecord;
use crate::parallel::{Parallel, Settled};
use std::collections::VecDeque;
use std::time::Duration;

/// The steps that have been sent, up to the last one.
#[derive(Default)]
pub struct Accounts {
    /// From 0.
    open: VecDeque<u64>,
    /// What the last step took.
    pub step_time: Duration,
    /// A rank asks for the end.
    pub stop: Option<Why>,
}

/// Why it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Time,
    Signal(i32),
}

impl Why {
    /// The word that a rank gives to the others: 0; 1 for its time; a signal's number, which is larger. The largest is heard.
    pub fn word(why: Option<Why>) -> f64 {
        match why {
            None => 0.0,
            Some(Why::Time) => 1.0,
            Some(Why::Signal(number)) => f64::from(number),
        }
    }
    fn heard(word: f64) -> Option<Why> {
        match word as i32 {
            0 => None,
            1 => Some(Why::Time),
            number => Some(Why::Signal(number)),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Why::Time => f.write_str("since its time is nearly over"),
            Why::Signal(number) => write!(f, "as {} asked", signals::name(*number)),
        }
    }
}

impl Accounts {
    pub fn send(&mut self, step: u64) {
        self.open.push_back(step);
    }

    /// Closes the steps whose numbers are there. `all`, or a rank that asks for the end: waits for those of all.
    ///
    /// Errors: `Failed`: a step whose loss or gradient is not finite, which has changed no weight.
    pub fn close(&mut self, all: bool, parallel: &mut Parallel, launch: &Launch, s: &Session, output: &mut Output) -> Result<()> {
        while let Some(settled) = parallel.settled(all || self.stop.is_some()) {
            let step = self.open.pop_front().expect("a step that was settled was sent");
            refuse_what_is_not_finite(&settled, launch, output, step + 1)?;
            self.step_time = settled.clock.whole;
            launch::check(output.step(&record(s, output, step, &settled)));
            if step == s.from {
                launch::check(output.first_step(launch.elapsed()));
            }
            self.stop = self.stop.or(Why::heard(settled.word));
        }
        Ok(())
    }
}

/// A weight is never updated by what is not a number: the last checkpoint stays the place to go on from.
fn refuse_what_is_not_finite(settled: &Settled, launch: &Launch, output: &mut Output, step: u64) -> Result<()> {
    let Some(rank) = settled.not_finite else { return Ok(()) };
    let (host, loss, norm) = (&launch.ranks[rank].host, settled.loss, settled.norm);
    let found = format!("the loss or the gradient of rank {rank} on {host} is not finite (loss {loss}, gradient norm {norm})");
    launch::check(output.event(step, &found));
    failed!("step {step}: {found}: stopped; the last checkpoint is whole")
}

fn record(s: &Session, output: &Output, step: u64, settled: &Settled) -> StepRecord {
    let (seq, clock) = (s.data.seq(), &settled.clock);
    let step_tokens = s.share.targets(seq);
    let row = StepRecord {
        step: step + 1,
        tokens: s.consumed(step + 1) * seq as u64,
        loss: settled.loss / step_tokens as f64,
        lr: s.schedule.lr(step),
        grad_norm: settled.norm,
        step_time: clock.whole.as_secs_f64(),
        data_time: clock.data.as_secs_f64(),
        forward_time: clock.forward.as_secs_f64(),
        backward_time: clock.backward.as_secs_f64(),
        comm_exposed_time: clock.exposed.as_secs_f64(),
        optimizer_time: clock.optimizer.as_secs_f64(),
        memory: output.memory.peak(),
        energy: energy::of(settled.also),
        ..StepRecord::default()
    };
    row.with_rates(step_tokens, s.model.config().flops_per_token(seq).full, s.share.ranks)
}
