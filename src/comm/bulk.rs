//! Tensors under way: several sums and copies at once, in pieces, none of them blocking.
//!
//! ```text
//! reduce-scatter   a block in chunks: my copy of each rank's chunk to its owner, theirs of mine into a slot of staging;
//!                  when a chunk has landed, the owner adds it up in rank order and the slot is free for the next
//! all-gather       my block to all, theirs into their places
//! all-reduce       the one, then the other
//!
//! slots            | task 3, chunk 7 | task 4, chunk 0 | task 4, chunk 1 | free |        given out in order of the tasks
//!
//! neighbours       whose memory we read (node.rs): no messages; chunks are added up, and blocks copied, from where they are
//! ```
//! Every rank has the same tasks in the same order and starts their pieces in that order, each kind by itself. So the
//! rank that is furthest behind always finds what it waits for already sent, and nothing can lock. A message bears its
//! task's number as a tag, and chunks of one task arrive in the order in which they were sent.
use super::block;
use super::node::{Node, RING};
use super::reduce::{SLOTS, add_in_rank_order, chunk, staging_elements};
use super::wire::{Comm, Requests};
use crate::device::Loan;
use std::collections::VecDeque;
use std::ops::Range;
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
    /// The ranks whose memory we read, if there are any.
    node: Option<Node>,
    /// All other ranks, and those of them who are no neighbours.
    others: Vec<usize>,
    far: Vec<usize>,
    /// [`SLOTS`] of chunks from every rank that sends us some. The pages are the system's until they do.
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
    /// Where the loan lies in the memory that neighbours read. `None`: it does not, and goes to all by message.
    place: Option<usize>,
    /// Elements of the own block whose exchange has started, and whose sum is complete.
    started: usize,
    summed: usize,
    gather: Gather,
    /// Elements of every neighbour's block that have been copied from its memory.
    copied: usize,
    done: Sender<Loan>,
}

#[derive(PartialEq)]
enum Gather {
    ToDo,
    /// Its messages, if there are any.
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

impl Task {
    /// Whether this rank has done its part; `own`: elements of its block.
    fn is_done(&self, own: usize) -> bool {
        self.summed == own && self.gather == Gather::Done && self.copied == own
    }
}

impl Bulk {
    pub fn new(comm: Comm, busy: Arc<AtomicU64>) -> Bulk {
        let (rank, size) = (comm.rank(), comm.size());
        Bulk {
            comm,
            rank,
            size,
            node: None,
            others: (0..size).filter(|r| *r != rank).collect(),
            far: vec![],
            staging: vec![0.0; staging_elements(size, 1)],
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

    /// From now on the memory of these ranks is read, where loans lie in it.
    pub fn read_from(&mut self, node: Node) {
        self.far = self.others.iter().copied().filter(|r| !node.ranks.contains(r)).collect();
        self.node = Some(node);
    }
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    /// No longer.
    pub fn part(&mut self) -> Option<Node> {
        self.node.take()
    }

    pub fn add(&mut self, mut loan: Loan, work: Work, done: Sender<Loan>) {
        let (data, len) = (loan.slice_mut().as_mut_ptr(), loan.len());
        let own = block(len, self.rank, self.size);
        let place = self.node.as_ref().and_then(|node| node.place(data, len));
        if let (Some(node), Some(place)) = (&mut self.node, place) {
            let asked = [(work.reduce, false), (work.gather, true)];
            asked.into_iter().filter(|(asked, _)| *asked).for_each(|(_, gather)| node.will_read(place, gather, own.len()));
        }
        let before = if work.reduce { 0 } else { own.len() };
        let copied = if work.gather && place.is_some() { 0 } else { own.len() };
        let gather = if work.gather { Gather::ToDo } else { Gather::Done };
        let number = self.numbered;
        self.numbered += 1;
        self.since.get_or_insert_with(Instant::now);
        self.tasks.push_back(Task { number, loan, data, len, place, started: before, summed: before, gather, copied, done });
        self.start();
        self.post();
    }

    /// Takes in what has landed and starts what may follow. Says whether anything had.
    pub fn advance(&mut self) -> bool {
        let before = self.flights.len();
        let mut landed = vec![];
        for i in (0..before).rev() {
            if self.flights[i].requests.landed() && self.neighbours_have(&self.flights[i]) {
                landed.push(self.flights.remove(i));
            }
        }
        // From the first on: later pieces have mostly landed later.
        for flight in landed.into_iter().rev() {
            self.take_in(&flight);
        }
        let copied = self.copy_blocks();
        self.start();
        self.post();
        self.hand_back();
        self.flights.len() < before || copied
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

    /// The ranks with which a task exchanges messages, in order.
    fn peers(&self, task: &Task) -> &[usize] {
        if task.place.is_some() { &self.far } else { &self.others }
    }

    /// The same in two halves: those before us and those after us.
    fn around(&self, task: &Task) -> (&[usize], &[usize]) {
        let peers = self.peers(task);
        peers.split_at(peers.partition_point(|peer| *peer < self.rank))
    }

    fn exchange_chunk(&self, task: &Task, staging: *mut f32, slot: usize, at: usize, len: usize) -> Flight {
        let (most, tag) = (chunk(self.size), tag(task.number, 0));
        let peers = self.peers(task);
        let (before, after) = self.around(task);
        let mut requests = Requests::default();
        // SAFETY: the slot is this flight's until it has landed. The blocks of others are written by nobody before then:
        // a task gathers only when all its chunks have landed. All lie within the loan and the staging by `block`.
        unsafe {
            for (k, peer) in peers.iter().enumerate() {
                let place = staging.add((slot * self.others.len() + k) * most);
                self.comm.receive(place, len, *peer, tag, &mut requests);
            }
            // Everyone starts with its successor, so that no rank is sent to by all at once.
            for peer in after.iter().chain(before) {
                let theirs = block(task.len, *peer, self.size).start + at;
                self.comm.send(task.data.add(theirs), len, *peer, tag, &mut requests);
            }
        }
        Flight { task: task.number, piece: Piece::Chunk { slot, at, len }, requests }
    }

    fn gather_blocks(&self, task: &Task) -> Flight {
        let tag = tag(task.number, 1);
        let (before, after) = self.around(task);
        let mut requests = Requests::default();
        let place = |rank| block(task.len, rank, self.size);
        // SAFETY: the own block is complete and written no more, the others' are received into by nobody else.
        unsafe {
            for peer in before.iter().rev().chain(after.iter().rev()) {
                self.comm.receive(task.data.add(place(*peer).start), place(*peer).len(), *peer, tag, &mut requests);
            }
            let own = place(self.rank);
            for peer in after.iter().chain(before) {
                self.comm.send(task.data.add(own.start), own.len(), *peer, tag, &mut requests);
            }
        }
        Flight { task: task.number, piece: Piece::Gather, requests }
    }

    fn task(&mut self, number: u64) -> &mut Task {
        self.tasks.iter_mut().find(|t| t.number == number).expect("a task stays until its pieces have landed")
    }

    /// Whether the neighbours' copies of what the flight is a piece of may be read.
    fn neighbours_have(&self, flight: &Flight) -> bool {
        let shared = || self.tasks.iter().any(|t| t.number == flight.task && t.place.is_some());
        match (&self.node, &flight.piece) {
            (Some(node), Piece::Chunk { .. }) if shared() => node.passed(flight.task, |board| &board.added),
            _ => true,
        }
    }

    fn take_in(&mut self, flight: &Flight) {
        match flight.piece {
            Piece::Chunk { slot, at, len } => {
                self.add_up(flight.task, slot, at, len);
                self.task(flight.task).summed += len;
                self.free.push(slot);
            }
            Piece::Gather => {
                self.task(flight.task).gather = Gather::Done;
                self.gathering -= 1;
            }
        }
    }

    /// Adds up `len` elements at `at` of the own block, of which every rank's copy is at hand.
    fn add_up(&mut self, number: u64, slot: usize, at: usize, len: usize) {
        let staging = self.staging.as_ptr();
        let task = self.tasks.iter().find(|t| t.number == number).expect("a task stays until its pieces have landed");
        let (own, most, peers) = (block(task.len, self.rank, self.size), chunk(self.size), self.peers(task));
        let range = own.start + at..own.start + at + len;
        // SAFETY: within the loan and the staging; what was in flight there has landed. The neighbours have added the task and
        // do not write our block of it before we have said that it is summed. No other view of the own chunk is.
        let pieces = self.others.iter().map(|rank| unsafe {
            match peers.binary_search(rank) {
                Ok(k) => std::slice::from_raw_parts(staging.add((slot * self.others.len() + k) * most), len),
                Err(_) => self.neighbours_copy(task, *rank, range.clone()),
            }
        });
        let sum = unsafe { std::slice::from_raw_parts_mut(task.data.add(range.start), len) };
        add_in_rank_order(sum, self.rank, &pieces.collect::<Vec<&[f32]>>());
    }

    /// # Safety
    /// See [`Node::copy`].
    unsafe fn neighbours_copy(&self, task: &Task, rank: usize, range: Range<usize>) -> &[f32] {
        let node = self.node.as_ref().expect("who is no peer is a neighbour");
        let neighbour = node.ranks.binary_search(&rank).expect("who is no peer is a neighbour");
        // SAFETY: the caller's promise.
        unsafe { node.copy(neighbour, task.number, range) }
    }

    /// Copies a piece of every neighbour's block, for the first task that has one to copy. Says whether there was one.
    fn copy_blocks(&mut self) -> bool {
        let Some(node) = &self.node else { return false };
        let own = |t: &Task| t.len / self.size;
        let ready = |t: &Task| t.gather != Gather::ToDo && t.copied < own(t) && node.passed(t.number, |board| &board.summed);
        let Some(i) = self.tasks.iter().position(ready) else { return false };
        let task = &self.tasks[i];
        let piece = task.copied..own(task).min(task.copied + chunk(self.size));
        for rank in node.ranks.iter().filter(|rank| **rank != self.rank) {
            let start = block(task.len, *rank, self.size).start;
            let range = start + piece.start..start + piece.end;
            // SAFETY: the neighbour has summed its block: it writes it no more, and no longer reads our copy of it.
            unsafe {
                let from = self.neighbours_copy(task, *rank, range.clone());
                std::slice::from_raw_parts_mut(task.data.add(range.start), range.len()).copy_from_slice(from);
            }
        }
        self.tasks[i].copied = piece.end;
        true
    }

    /// Tells the neighbours how far we are.
    fn post(&self) {
        let Some(node) = &self.node else { return };
        let own = |t: &Task| t.len / self.size;
        let first = |waits: &dyn Fn(&Task) -> bool| self.tasks.iter().find(|t| waits(t)).map_or(self.numbered, |t| t.number);
        let added = self.numbered.min(first(&|_| true) + RING);
        // Nobody is to look for a place that has not been told.
        let summed = added.min(first(&|t| t.summed < own(t)));
        let gathered = added.min(first(&|t| !t.is_done(own(t))));
        let places = self.tasks.iter().map(|t| (t.number, t.place.unwrap_or(usize::MAX / 8)));
        node.post(places, added, summed, gathered);
    }

    fn hand_back(&mut self) {
        let (size, node) = (self.size, &self.node);
        let read = |t: &Task| t.place.is_none() || node.as_ref().is_none_or(|n| n.passed(t.number, |board| &board.gathered));
        let mut over = vec![];
        while let Some(i) = self.tasks.iter().position(|t| t.is_done(t.len / size) && read(t)) {
            over.extend(self.tasks.remove(i));
        }
        if !over.is_empty() {
            self.post(); // there is room for later tasks' places
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
