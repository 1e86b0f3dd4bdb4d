//! Tensors under way: several sums and copies at once, in pieces, none of them blocking.
//!
//! ```text
//! reduce-scatter   a block in chunks: my copy of each rank's chunk to its owner, theirs of mine into a slot of staging;
//!                  when a chunk has landed, the owner adds it up in rank order and the slot is free for the next
//! all-gather       my block to all, theirs into their places
//! all-reduce       the one, then the other
//!
//! slots            | task 3, chunk 7 | task 4, chunk 0 | task 4, chunk 1 | free |        given out in order of the tasks
//! ```
//! Every rank has the same tasks in the same order and starts their pieces in that order, each kind by itself. So the
//! rank that is furthest behind always finds what it waits for already sent, and nothing can lock. A message bears its
//! task's number as a tag, and chunks of one task arrive in the order in which they were sent.
use super::block;
use super::reduce::{SLOTS, add_in_rank_order, chunk, staging_elements};
use super::wire::{Comm, Requests};
use crate::device::Loan;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Measured: gathers started at once. The first group is needed first, so they should not share the wire; two keep it
/// busy while one ends.
const GATHERS: usize = 2;

/// What is to be done with a loan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    pub reduce: bool,
    pub gather: bool,
}

pub(super) struct Bulk {
    comm: Comm,
    rank: usize,
    size: usize,
    /// [`SLOTS`] of (size − 1) chunks.
    staging: Vec<f32>,
    free: Vec<usize>,
    tasks: VecDeque<Task>,
    flights: Vec<Flight>,
    numbered: u64,
    gathering: usize,
    /// Nanoseconds in which there was something under way, and since when there is.
    busy: Arc<AtomicU64>,
    since: Option<Instant>,
}

struct Task {
    number: u64,
    loan: Loan,
    /// The loan's elements. While messages are in flight no reference to them is made, only pointers.
    data: *mut f32,
    len: usize,
    /// Elements of the own block whose exchange has started, and whose sum is complete.
    started: usize,
    summed: usize,
    gather: Gather,
    done: Sender<Loan>,
}

#[derive(PartialEq)]
enum Gather {
    ToDo,
    Flying,
    /// Over, or not asked for.
    Done,
}

/// Messages of one piece of a task.
struct Flight {
    task: u64,
    piece: Piece,
    requests: Requests,
}

enum Piece {
    /// `len` elements at `at` of the own block.
    Chunk {
        slot: usize,
        at: usize,
        len: usize,
    },
    Gather,
}

// SAFETY: `data` points into the loan that travels with it.
unsafe impl Send for Task {}

impl Bulk {
    pub fn new(comm: Comm, busy: Arc<AtomicU64>) -> Bulk {
        let (rank, size) = (comm.rank(), comm.size());
        Bulk {
            comm,
            rank,
            size,
            staging: vec![0.0; staging_elements(size)],
            free: (0..SLOTS).rev().collect(),
            tasks: VecDeque::new(),
            flights: vec![],
            numbered: 0,
            gathering: 0,
            busy,
            since: None,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    pub fn add(&mut self, mut loan: Loan, work: Work, done: Sender<Loan>) {
        let (data, len) = (loan.slice_mut().as_mut_ptr(), loan.len());
        let own = block(len, self.rank, self.size).len();
        let before = if work.reduce { 0 } else { own };
        let gather = if work.gather { Gather::ToDo } else { Gather::Done };
        let number = self.numbered;
        self.numbered += 1;
        self.since.get_or_insert_with(Instant::now);
        self.tasks.push_back(Task { number, loan, data, len, started: before, summed: before, gather, done });
        self.start();
    }

    /// Takes in what has landed and starts what may follow. Says whether anything had.
    pub fn advance(&mut self) -> bool {
        let before = self.flights.len();
        let mut landed = vec![];
        for i in (0..before).rev() {
            if self.flights[i].requests.landed() {
                landed.push(self.flights.remove(i));
            }
        }
        // From the first on: later pieces have mostly landed later.
        for flight in landed.into_iter().rev() {
            self.take_in(&flight);
        }
        self.start();
        self.hand_back();
        self.flights.len() < before
    }

    /// Starts pieces in the order of the tasks, as far as there is room.
    fn start(&mut self) {
        let most = chunk(self.size);
        for i in 0..self.tasks.len() {
            let own = self.tasks[i].len / self.size;
            while self.tasks[i].started < own
                && let Some(slot) = self.free.pop()
            {
                let at = self.tasks[i].started;
                let len = most.min(own - at);
                self.tasks[i].started += len;
                let staging = self.staging.as_mut_ptr();
                let flight = self.exchange_chunk(&self.tasks[i], staging, slot, at, len);
                self.flights.push(flight);
            }
            if self.tasks[i].started < own {
                break;
            }
        }
        while self.gathering < GATHERS
            && let Some(i) = self.tasks.iter().position(|t| t.gather == Gather::ToDo)
            && self.tasks[i].summed == self.tasks[i].len / self.size
        {
            self.tasks[i].gather = Gather::Flying;
            self.gathering += 1;
            let flight = self.gather_blocks(&self.tasks[i]);
            self.flights.push(flight);
        }
    }

    fn exchange_chunk(&self, task: &Task, staging: *mut f32, slot: usize, at: usize, len: usize) -> Flight {
        let (most, tag) = (chunk(self.size), tag(task.number, 0));
        let mut requests = Requests::default();
        // SAFETY: the slot is this flight's until it has landed. The blocks of others are written by nobody before then:
        // a task gathers only when all its chunks have landed. All lie within the loan and the staging by `block`.
        unsafe {
            for (k, other) in (0..self.size).filter(|r| *r != self.rank).enumerate() {
                let place = staging.add((slot * (self.size - 1) + k) * most);
                self.comm.receive(place, len, other, tag, &mut requests);
            }
            // Everyone starts with its successor, so that no rank is sent to by all at once.
            for other in (1..self.size).map(|k| (self.rank + k) % self.size) {
                let theirs = block(task.len, other, self.size).start + at;
                self.comm.send(task.data.add(theirs), len, other, tag, &mut requests);
            }
        }
        Flight { task: task.number, piece: Piece::Chunk { slot, at, len }, requests }
    }

    fn gather_blocks(&self, task: &Task) -> Flight {
        let tag = tag(task.number, 1);
        let mut requests = Requests::default();
        let place = |rank| block(task.len, rank, self.size);
        // SAFETY: the own block is complete and written no more, the others' are received into by nobody else.
        unsafe {
            for other in (1..self.size).map(|k| (self.rank + self.size - k) % self.size) {
                self.comm.receive(task.data.add(place(other).start), place(other).len(), other, tag, &mut requests);
            }
            let own = place(self.rank);
            for other in (1..self.size).map(|k| (self.rank + k) % self.size) {
                self.comm.send(task.data.add(own.start), own.len(), other, tag, &mut requests);
            }
        }
        Flight { task: task.number, piece: Piece::Gather, requests }
    }

    fn take_in(&mut self, flight: &Flight) {
        let task = self.tasks.iter_mut().find(|t| t.number == flight.task).expect("a task stays until its pieces have landed");
        match flight.piece {
            Piece::Chunk { slot, at, len } => {
                let (own, most) = (block(task.len, self.rank, self.size), chunk(self.size));
                let staging = self.staging.as_mut_ptr();
                // SAFETY: within the loan and the staging; what was in flight there has landed, and no other view of it is.
                let (sum, mut pieces) = unsafe {
                    let piece = |k| std::slice::from_raw_parts_mut(staging.add((slot * (self.size - 1) + k) * most), len);
                    let pieces: Vec<&mut [f32]> = (0..self.size - 1).map(piece).collect();
                    (std::slice::from_raw_parts_mut(task.data.add(own.start + at), len), pieces)
                };
                add_in_rank_order(sum, self.rank, &mut pieces);
                task.summed += len;
                self.free.push(slot);
            }
            Piece::Gather => {
                task.gather = Gather::Done;
                self.gathering -= 1;
            }
        }
    }

    fn hand_back(&mut self) {
        let size = self.size;
        let mut over = vec![];
        while let Some(i) = self.tasks.iter().position(|t| t.summed == t.len / size && t.gather == Gather::Done) {
            over.extend(self.tasks.remove(i));
        }
        // Counted before it is handed back, so that whoever has waited reads a clock that includes it.
        if let (true, Some(since)) = (self.tasks.is_empty(), self.since) {
            self.busy.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.since = None;
        }
        for task in over {
            let _ = task.done.send(task.loan); // received by the ticket, or by nobody and dropped here
        }
    }
}

/// Structural: tags up to 32767 are the least that a library must allow.
fn tag(task: u64, part: u64) -> i32 {
    (2 * (task % (1 << 14)) + part) as i32
}
