//! Where a step's time goes: spans between moments of the device's own work, read when the device has passed them.
//!
//! ```text
//! CPU   |began  data  forward  backward  exposed  optimizer  ended|                          whole = ended − began
//! GPU   |ended of the last step   …the same, as the GPU passes…   ended|   idle moments too    whole = ended − ended of the last
//! ```
//! Spans do not overlap; where one lies within another (the forward waits for a message), it is taken off there. So the parts add
//! up to the whole, and what no part claims (sums of squares, a GPU that waits for its host) is the rest. A GPU whose host has
//! waited for it (an evaluation, a checkpoint) begins its next step at `began`, as a CPU does.
use crate::device::Stamp;
use std::time::Duration;

/// The parts of a step's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waiting for the next batch.
    Data,
    Forward,
    Backward,
    /// Waiting for messages and nothing else.
    Exposed,
    Optimizer,
}

/// The same, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    pub data: Duration,
    pub forward: Duration,
    pub backward: Duration,
    pub exposed: Duration,
    pub optimizer: Duration,
    /// All of the step, the rest included.
    pub whole: Duration,
}

/// The moments of a step.
#[derive(Default)]
pub(super) struct Moments {
    pub began: Option<Stamp>,
    pub ended: Option<Stamp>,
    /// The pass that is under way.
    pub within: Option<Part>,
    spans: Vec<Span>,
}

struct Span {
    part: Part,
    from: Stamp,
    to: Stamp,
    /// Of which part it is taken off.
    within: Option<Part>,
}

impl Moments {
    pub fn add(&mut self, part: Part, from: Stamp, to: Stamp) {
        self.spans.push(Span { part, from, to, within: self.within });
    }

    /// The device has passed all of them. `last`: where the step before ended, if this one followed at once.
    pub fn read(&self, last: Option<&Stamp>) -> Clock {
        let mut clock = Clock::default();
        // First all that is added: a span that lies within another is noted before it.
        for span in &self.spans {
            *clock.of(span.part) += span.from.until(&span.to);
        }
        for span in &self.spans {
            if let Some(part) = span.within {
                let of = clock.of(part);
                *of = of.saturating_sub(span.from.until(&span.to));
            }
        }
        if let (Some(began), Some(ended)) = (&self.began, &self.ended) {
            clock.whole = last.unwrap_or(began).until(ended);
        }
        clock
    }
}

impl Clock {
    fn of(&mut self, part: Part) -> &mut Duration {
        match part {
            Part::Data => &mut self.data,
            Part::Forward => &mut self.forward,
            Part::Backward => &mut self.backward,
            Part::Exposed => &mut self.exposed,
            Part::Optimizer => &mut self.optimizer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn parts_add_up_to_the_whole_but_for_the_rest() {
        let zero = Instant::now();
        let at = |ms: u64| Stamp::Host(zero + Duration::from_millis(ms));
        let mut m = Moments { began: Some(at(10)), ended: Some(at(100)), ..Moments::default() };
        m.add(Part::Data, at(10), at(15));
        m.within = Some(Part::Forward);
        m.add(Part::Exposed, at(20), at(27)); // within the forward
        m.within = None;
        m.add(Part::Forward, at(15), at(40));
        m.add(Part::Backward, at(40), at(80));
        m.add(Part::Exposed, at(80), at(84));
        m.add(Part::Optimizer, at(90), at(100));
        let clock = m.read(None);
        let found = [clock.data, clock.forward, clock.backward, clock.exposed, clock.optimizer].map(|d| d.as_millis());
        assert_eq!((found, clock.whole.as_millis()), ([5, 18, 40, 11, 10], 90));
        assert_eq!(m.read(Some(&at(4))).whole.as_millis(), 96);
    }
}
