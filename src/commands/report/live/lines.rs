//! In a file or a pipe: a line now and then, and what happened in between.
use crate::commands::say;
use crate::metrics::units::{count, duration, significant};
use crate::metrics::{History, Recent, State, silent};
use std::path::Path;
use std::time::Duration;

/// Where nobody looks all the time.
#[derive(Default)]
pub struct Lines {
    waiting: bool,
    /// Starts, events and evaluations that were told.
    told: Option<(usize, usize, usize)>,
    step: u64,
    state: Option<State>,
}

impl Lines {
    pub fn waiting(&mut self, file: &Path) {
        if !self.waiting {
            say(format_args!("waiting for {}, which is not there yet", file.display()));
            self.waiting = true;
        }
    }

    pub fn news(&mut self, history: &History, state: State, silence: Duration) {
        let evaluations = history.evaluations.iter().map(|e| e.points.len()).sum();
        let now = (history.starts.len(), history.events.len(), evaluations);
        // What was there when we came is not news; a run that began anew is.
        let (starts, events, evals) = match self.told.replace(now) {
            None => (0, now.1, now.2),
            Some(told) if now.0 < told.0 || now.1 < told.1 => (0, 0, 0),
            Some(told) => told,
        };
        if let Some(start) = history.starts.get(starts..).and_then(|new| new.last()) {
            let how = if start.resumed_step > 0 { format!("went on after step {}", start.resumed_step) } else { "began".into() };
            let ranks = count(start.ranks, "rank");
            say(format_args!("run {how}, {ranks} on {}; means over the last 100 steps", start.hosts));
            self.step = self.step.min(start.resumed_step);
        }
        history.events[events.min(now.1)..].iter().for_each(|e| say(format_args!("event step {} {}", e.step, e.text)));
        if evals < now.2 {
            for (e, point) in history.evaluations.iter().filter_map(|e| Some((e, e.points.last()?))) {
                say(format_args!("eval {} step {} loss {:.6}", e.set.name, point.step, point.loss));
            }
        }
        let Some(r) = Recent::of(history) else { return };
        if r.last.step != self.step {
            self.step = r.last.step;
            let of = r.of.map_or(String::new(), |of| format!("/{of}"));
            let [ms, rate, exposed] = [1e3 * r.step_seconds, r.tokens_per_second, r.exposed()].map(|v| significant(v, 5));
            let eta = duration(r.eta.unwrap_or(f64::NAN));
            let (step, loss, memory) = (r.last.step, r.loss, r.last.memory);
            say(format_args!(
                "step {step}{of} loss {loss:.6} ms {ms} tokens/s {rate} exposed_communication {exposed} memory_bytes {memory} ETA {eta}"
            ));
        } else if state == State::Going && silent(history, silence) {
            say(format_args!("no new step for {}, step {} was the last", duration(silence.as_secs_f64()), self.step));
        }
        if state == State::Stopped && self.state != Some(state) {
            say(format_args!("{}: waiting for its next start", state.words()));
        }
        self.state = Some(state);
    }
}
