//! Memory that the ranks of a node read from one another, and how far each of them is.
//!
//! ```text
//! a rank's part   | board, a page | the front of its arena: weights and gradients …       |
//! added > n       its copy of task n is complete and lies at places[n mod RING]: my block of it may be read
//! summed > n      … its own block is the sum, and it reads no copy of that block any more: the block may be read
//! gathered > n    … it reads nothing of task n any more: the loan may go back
//! ```
//! Every rank has the same tasks in the same order, so three numbers tell of all of them. They only grow, each rank writes its
//! own, and a number is written after what it tells of (release) and read before it (acquire).
use super::wire::{Comm, Window};
use crate::device::make_real;
use crate::error::Result;
use crate::failed;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tasks of which a place is known at once: as many ahead of its first may a rank announce.
pub(super) const RING: u64 = 64;
/// Bytes of a board: the front begins on a page's bound.
const BOARD: usize = 4096;

#[repr(C)]
pub(super) struct Board {
    pub added: AtomicU64,
    pub summed: AtomicU64,
    pub gathered: AtomicU64,
    /// Elements from the beginning of the front.
    places: [AtomicU64; RING as usize],
}

const _: () = assert!(size_of::<Board>() <= BOARD);

/// The ranks of a node as one of them sees them.
pub(super) struct Node {
    pub comm: Comm,
    window: Window,
    /// In the communicator of the tensors, in order.
    pub ranks: Vec<usize>,
    me: usize,
    bytes: usize,
    /// Of which loans others' copies have been read, for the sum or the gather, and how many bytes that is.
    seen: HashSet<(usize, bool)>,
    views: Arc<AtomicU64>,
}

impl Node {
    /// Takes memory for `bytes` bytes a rank, among those ranks of the node that give the same `room`. All ranks call this.
    ///
    /// Errors: there is no other rank; the node's shared memory is too small; the library gives none.
    pub fn open(tensors: Comm, bytes: usize, room: usize, views: Arc<AtomicU64>) -> Result<Node> {
        let comm = tensors.neighbours(room);
        if comm.size() == 1 {
            comm.free();
            failed!("there is no other rank on this node");
        }
        let part = (BOARD + bytes).next_multiple_of(BOARD) as u64;
        let wanted: u64 = comm.numbers(part).iter().sum();
        let free = comm.numbers(free_bytes()).into_iter().min().unwrap_or(0);
        if wanted > free {
            comm.free();
            failed!("expected {wanted} bytes of shared memory, found {free} free in /dev/shm");
        }
        let Some(window) = Window::take(comm, part as usize) else { failed!("the MPI library gives no shared memory") };
        let me = comm.rank();
        // SAFETY: our own part of the window. A page that is missing would end the process at its first use.
        let real = unsafe { make_real(window.bases[me], part as usize) };
        if comm.numbers(u64::from(real)).contains(&0) {
            window.free();
            comm.free();
            failed!("the node's shared memory is smaller than it says");
        }
        // SAFETY: as above; the library promises no zeros, the arena does.
        unsafe { window.bases[me].write_bytes(0, part as usize) };
        let ranks = comm.numbers(tensors.rank() as u64).into_iter().map(|rank| rank as usize).collect();
        Ok(Node { comm, window, ranks, me, bytes, seen: HashSet::new(), views })
    }

    /// Gives the memory back. All ranks of the node call this, when none of them uses it any more.
    pub fn close(self) {
        self.views.store(0, Ordering::Relaxed);
        self.window.free();
        self.comm.free();
    }

    /// Our own front.
    pub fn front(&self) -> *mut u8 {
        self.front_of(self.me)
    }

    fn front_of(&self, neighbour: usize) -> *mut u8 {
        // SAFETY: every part begins with a board.
        unsafe { self.window.bases[neighbour].add(BOARD) }
    }

    /// Where in our front `len` elements at `data` lie, if they do.
    pub fn place(&self, data: *const f32, len: usize) -> Option<usize> {
        let at = (data as usize).checked_sub(self.front() as usize)?;
        (at + 4 * len <= self.bytes).then_some(at / 4)
    }

    fn board(&self, neighbour: usize) -> &Board {
        // SAFETY: every part begins with a board: atomic numbers, at first zero.
        unsafe { &*self.window.bases[neighbour].cast::<Board>() }
    }

    /// Tells the others where the copies of our newest tasks lie, and how far we are.
    pub fn post(&self, places: impl Iterator<Item = (u64, usize)>, added: u64, summed: u64, gathered: u64) {
        let board = self.board(self.me);
        let told = board.added.load(Ordering::Relaxed);
        for (task, place) in places.filter(|(task, _)| (told..added).contains(task)) {
            board.places[(task % RING) as usize].store(place as u64, Ordering::Relaxed);
        }
        board.added.store(added, Ordering::Release);
        board.summed.store(summed, Ordering::Release);
        board.gathered.store(gathered, Ordering::Release);
    }

    /// Whether all others have passed `task` in what `number` counts.
    pub fn passed(&self, task: u64, number: impl Fn(&Board) -> &AtomicU64) -> bool {
        let mut others = (0..self.ranks.len()).filter(|k| *k != self.me);
        others.all(|k| number(self.board(k)).load(Ordering::Acquire) > task)
    }

    /// Elements `range` of the neighbour's copy of a task.
    ///
    /// # Safety
    /// The neighbour has added the task, and does not write the range while the slice is in use.
    pub unsafe fn copy(&self, neighbour: usize, task: u64, range: Range<usize>) -> &[f32] {
        let place = self.board(neighbour).places[(task % RING) as usize].load(Ordering::Relaxed) as usize;
        assert!(4 * (place + range.end) <= self.bytes, "a neighbour lends what does not lie in its shared memory");
        // SAFETY: within the neighbour's part (above); the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.front_of(neighbour).cast::<f32>().add(place + range.start), range.len()) }
    }

    /// A block of `len` elements of every other rank will be read, for the sum or the gather of the loan at `place`. Pages that
    /// are read count as ours too in the system's books; they are not.
    pub fn will_read(&mut self, place: usize, gather: bool, len: usize) {
        if self.seen.insert((place, gather)) {
            self.views.fetch_add(4 * (len * (self.ranks.len() - 1)) as u64, Ordering::Relaxed);
        }
    }
}

/// Bytes that the system's shared memory has left: nothing where there is none.
fn free_bytes() -> u64 {
    // SAFETY: a path that ends with a zero, and a place for the answer, for which zeros are a value.
    unsafe {
        let mut answer: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(c"/dev/shm".as_ptr(), &mut answer) == 0 { answer.f_bavail * answer.f_frsize } else { 0 }
    }
}
