//! What each op did, counted by the op itself. Off by default: a note is then the reading of a flag.
//!
//! ```text
//! let _at = dev.tally("norm forward", 0, &[y, stats, x, gamma]);      noted with its time when `_at` is dropped
//! ```
//! On a GPU, where the host only puts work into a stream, the time is that between two places in the stream.
//!
//! FLOPs are those of matrix products, causal, as the model counts them (`model/config.rs`): what an op computes besides
//! is bounded by what it moves. Bytes are those that it must move, were it alone: each operand once, one that is read and
//! written twice (it then stands twice in the list).
use super::cuda::{Event, Lanes};
use crate::tensor::Tensor;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The notes of a device, one row an op.
#[derive(Default)]
pub struct Tally {
    on: AtomicBool,
    /// Elements before this one are of two bytes: `Plan::narrow`.
    narrow: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    part: &'static str,
    rows: Vec<Row>,
    /// Times that are not known yet: of a row, between two places in a stream.
    coming: Vec<(usize, Event, Event)>,
}

/// The sums of one op since [`Tally::start`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The part of the model that called it, where one has said so; else empty.
    pub part: &'static str,
    pub name: &'static str,
    pub calls: u64,
    pub flops: f64,
    pub bytes: f64,
    pub time: Duration,
}

/// An op that is being timed.
pub struct Note<'a> {
    tally: &'a Tally,
    name: &'static str,
    flops: usize,
    bytes: usize,
    began: Began<'a>,
}

enum Began<'a> {
    Host(Instant),
    Stream(&'a Lanes, Event),
}

/// A part of the model at work.
pub struct Part<'a>(&'a Tally);

impl Tally {
    /// Of a device whose first `narrow` elements have two bytes each.
    pub fn with_narrow(narrow: usize) -> Tally {
        Tally { narrow, ..Tally::default() }
    }

    /// Forgets what it has and begins.
    pub fn start(&self) {
        *self.kept.lock().expect("the tally") = Kept::default();
        self.on.store(true, Ordering::Relaxed);
    }

    /// Ends, and gives the rows in the order of their first calls. Waits for a GPU.
    pub fn stop(&self) -> Vec<Row> {
        self.on.store(false, Ordering::Relaxed);
        let Kept { mut rows, coming, .. } = std::mem::take(&mut *self.kept.lock().expect("the tally"));
        for (row, began, ended) in coming {
            ended.synchronize();
            rows[row].time += began.until(&ended);
        }
        rows
    }

    pub fn note(&self, name: &'static str, flops: usize, moved: &[Tensor]) -> Option<Note<'_>> {
        let on = self.on.load(Ordering::Relaxed);
        on.then(|| Note { tally: self, name, flops, bytes: self.bytes(moved), began: Began::Host(Instant::now()) })
    }

    /// The same for work that is put into a GPU's stream; `size`: bytes of an element.
    pub fn note_in<'a>(
        &'a self,
        lanes: &'a Lanes,
        name: &'static str,
        flops: usize,
        moved: &[Tensor],
        size: impl Fn(Tensor) -> usize,
    ) -> Option<Note<'a>> {
        let on = self.on.load(Ordering::Relaxed);
        let bytes = || moved.iter().map(|t| size(*t) * t.len()).sum();
        on.then(|| Note { tally: self, name, flops, bytes: bytes(), began: Began::Stream(lanes, lanes.moment(true)) })
    }

    /// Ops are noted as those of `part` until the guard is dropped.
    pub fn part(&self, part: &'static str) -> Option<Part<'_>> {
        let on = self.on.load(Ordering::Relaxed);
        on.then(|| {
            self.kept.lock().expect("the tally").part = part;
            Part(self)
        })
    }

    fn bytes(&self, moved: &[Tensor]) -> usize {
        let each = |t: &Tensor| if t.at < self.narrow { 2 } else { 4 };
        moved.iter().map(|t| each(t) * t.elements()).sum()
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        let time = if let Began::Host(began) = &self.began { began.elapsed() } else { Duration::ZERO };
        let mut kept = self.tally.kept.lock().expect("the tally");
        let (part, name) = (kept.part, self.name);
        let at = kept.rows.iter().position(|r| (r.part, r.name) == (part, name)).unwrap_or_else(|| {
            kept.rows.push(Row { part, name, calls: 0, flops: 0.0, bytes: 0.0, time: Duration::ZERO });
            kept.rows.len() - 1
        });
        let row = &mut kept.rows[at];
        row.calls += 1;
        row.flops += self.flops as f64;
        row.bytes += self.bytes as f64;
        row.time += time;
        if let Began::Stream(lanes, began) = std::mem::replace(&mut self.began, Began::Host(Instant::now())) {
            kept.coming.push((at, began, lanes.moment(false)));
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.kept.lock().expect("the tally").part = "";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_add_up_by_part_and_name_and_only_while_it_runs() {
        let tally = Tally::default();
        let x = Tensor { at: 0, rows: 2, cols: 5, half: false };
        assert!(tally.note("scale", 1, &[x]).is_none() && tally.part("head").is_none());
        tally.start();
        drop(tally.note("scale", 3, &[x, x]));
        {
            let _head = tally.part("head");
            drop(tally.note("scale", 4, &[x]));
        }
        drop(tally.note("scale", 3, &[x, x]));
        let rows = tally.stop();
        let found: Vec<_> = rows.iter().map(|r| (r.part, r.name, r.calls, r.flops, r.bytes)).collect();
        assert_eq!(found, [("", "scale", 2, 6.0, 160.0), ("head", "scale", 1, 4.0, 40.0)]);
        assert!(tally.note("scale", 1, &[x]).is_none() && tally.stop().is_empty());
    }

    #[test]
    fn weights_in_bf16_are_two_bytes_each() {
        let tally = Tally::with_narrow(64);
        tally.start();
        drop(tally.note(
            "adamw",
            0,
            &[Tensor::range(0, 64), Tensor::range(64, 74), Tensor { half: true, ..Tensor::range(128, 148) }],
        ));
        assert_eq!(tally.stop()[0].bytes, f64::from(2 * 64 + 4 * 10 + 2 * 20));
    }
}
