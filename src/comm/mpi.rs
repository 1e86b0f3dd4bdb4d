//! Between processes. One communication thread a rank makes every MPI call but init, finalize and abort; jobs arrive by a
//! channel, in the same order on every rank.
//!
//! ```text
//! forever:   a job, if there is one                  (nothing under way: wait for one)
//!            tensors: take in what has landed, start what may follow                          see bulk.rs
//!            nothing landed: yield, then sleep       the core belongs to the computing threads
//! ```
//! Words (a few numbers, some bytes) travel on a communicator of their own and overtake tensors.
use super::bulk::{Bulk, Work};
use super::node::Node;
use super::wire::{Comm, Requests};
use super::{Collective, Ticket, fault};
use crate::device::{Loan, Memory, range};
use crate::error;
use crate::failed;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Mpi {
    rank: usize,
    size: usize,
    jobs: Arc<Mutex<Sender<Job>>>,
    busy: Arc<AtomicU64>,
    views: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Tensor { loan: Loan, work: Work, done: Sender<Loan> },
    Equal { mine: Vec<u8>, done: Sender<Vec<u8>> },
    Bytes { mine: Vec<u8>, done: Sender<Vec<Vec<u8>>> },
    Broadcast { bytes: Vec<u8>, root: usize, done: Sender<Vec<u8>> },
    Barrier { done: Sender<()> },
    Node { done: Sender<usize> },
    Share { bytes: usize, room: usize, views: Arc<AtomicU64>, done: Sender<error::Result<Front>> },
    Part,
    Split { color: usize, done: Sender<Comm> },
}

/// Where the memory begins that others can read.
struct Front(*mut u8);

// SAFETY: an address that holds in the whole process.
unsafe impl Send for Front {}

/// Whoever holds this uses the memory that others can read. Dropped after [`Mpi`], it leaves it where it is.
struct Tenant(Arc<Mutex<Sender<Job>>>);

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.0.lock().unwrap_or_else(|e| e.into_inner()).send(Job::Part);
    }
}

impl Mpi {
    /// All ranks of the job; `None` where there is but one, who needs nobody. MPI is up ([`super::init`]).
    pub fn world() -> Option<Mpi> {
        (Comm::world().size() > 1).then(|| Mpi::over(Comm::world()))
    }

    /// The ranks that give the same colour, in the order in which they were. Every rank calls this.
    pub fn split(&self, color: usize) -> Mpi {
        Mpi::over(fault::patiently(&self.ask(|done| Job::Split { color, done })))
    }

    /// The lowest rank that shares memory with this one. Every rank calls this.
    pub fn node(&self) -> usize {
        fault::patiently(&self.ask(|done| Job::Node { done }))
    }

    /// [`Collective::share`], among those ranks of a node that give the same `room`: as if they alone were a node.
    pub fn share_in(&self, elements: usize, room: usize) -> error::Result<Memory> {
        let (bytes, views) = (4 * elements, self.views.clone());
        let Front(base) = fault::patiently(&self.ask(|done| Job::Share { bytes, room, views, done }))?;
        // SAFETY: so many bytes lie there, zero, until the tenant tells the communication thread that it is gone; others read
        // only what is lent to us.
        Ok(unsafe { Memory::lent(base, bytes, Tenant(self.jobs.clone())) })
    }

    fn over(tensors: Comm) -> Mpi {
        let (jobs, inbox) = channel();
        let (introduce, introduced) = channel();
        let busy = Arc::new(AtomicU64::new(0));
        let counted = busy.clone();
        let work = move || {
            let words = tensors.duplicate();
            let _ = introduce.send((tensors.rank(), tensors.size()));
            Worker { tensors, words, bulk: Bulk::new(tensors, counted) }.run(&inbox);
        };
        let thread = std::thread::Builder::new().name("communication".into()).spawn(work);
        let thread = Some(thread.unwrap_or_else(|e| fault::abort(&format!("no communication thread: {e}"))));
        let (rank, size) = fault::patiently(&introduced);
        Mpi { rank, size, jobs: Arc::new(Mutex::new(jobs)), busy, views: Arc::default(), thread }
    }

    fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Receiver<T> {
        let (done, answer) = channel();
        if self.jobs.lock().unwrap_or_else(|e| e.into_inner()).send(job(done)).is_err() {
            fault::abort("the communication thread has ended");
        }
        answer
    }

    fn tensor(&self, loan: Loan, reduce: bool, gather: bool) -> Ticket {
        Ticket::under_way(self.ask(|done| Job::Tensor { loan, work: Work { reduce, gather }, done }))
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn reduce_scatter(&self, loan: Loan) -> Ticket {
        self.tensor(loan, true, false)
    }
    fn all_reduce(&self, loan: Loan) -> Ticket {
        self.tensor(loan, true, true)
    }
    fn all_gather(&self, loan: Loan) -> Ticket {
        self.tensor(loan, false, true)
    }
    fn exchange(&self, mine: &[f64]) -> Vec<Vec<f64>> {
        let _range = range(|| "communication: words".into());
        let bytes: Vec<u8> = mine.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let all = fault::patiently(&self.ask(|done| Job::Equal { mine: bytes, done }));
        let numbers: Vec<f64> = all.as_chunks().0.iter().map(|b| f64::from_ne_bytes(*b)).collect();
        (0..self.size).map(|rank| numbers[rank * mine.len()..(rank + 1) * mine.len()].to_vec()).collect()
    }
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        fault::patiently(&self.ask(|done| Job::Bytes { mine: mine.to_vec(), done }))
    }
    fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Vec<u8> {
        fault::patiently(&self.ask(|done| Job::Broadcast { bytes, root, done }))
    }
    fn barrier(&self) {
        fault::patiently(&self.ask(|done| Job::Barrier { done }))
    }
    fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }
    fn share(&self, elements: usize) -> error::Result<Memory> {
        self.share_in(elements, 0)
    }
    fn views(&self) -> Arc<AtomicU64> {
        self.views.clone()
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Closing the channel ends the thread after the last job.
        let (closed, _) = channel();
        *self.jobs.lock().unwrap_or_else(|e| e.into_inner()) = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The communication thread.
struct Worker {
    tensors: Comm,
    words: Comm,
    bulk: Bulk,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        let mut pause = Pause::default();
        loop {
            let job = if self.bulk.is_idle() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                pause.for_a_job(inbox)
            };
            match job {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) if self.bulk.is_idle() => return,
                Err(RecvTimeoutError::Disconnected) => pause.sleep(),
            }
            if self.bulk.advance() {
                pause = Pause::default();
            }
        }
    }

    /// An answer may find that nobody waits for it.
    fn take(&mut self, job: Job) {
        match job {
            Job::Tensor { loan, work, done } => self.bulk.add(loan, work, done),
            Job::Equal { mine, done } => drop(done.send(self.equal(&mine))),
            Job::Bytes { mine, done } => drop(done.send(self.bytes(mine))),
            Job::Broadcast { bytes, root, done } => drop(done.send(self.broadcast(bytes, root))),
            Job::Barrier { done } => {
                let mut requests = Requests::default();
                self.words.barrier(&mut requests);
                self.wait(requests);
                let _ = done.send(());
            }
            Job::Node { done } => {
                let node = self.tensors.neighbours(0);
                let _ = done.send(node.numbers(self.tensors.rank() as u64)[0] as usize);
                node.free();
            }
            Job::Share { bytes, room, views, done } => drop(done.send(self.share(bytes, room, views))),
            Job::Part => self.part(),
            Job::Split { color, done } => drop(done.send(self.tensors.split(color))),
        }
    }

    fn share(&mut self, bytes: usize, room: usize, views: Arc<AtomicU64>) -> error::Result<Front> {
        if self.bulk.node().is_some() {
            failed!("the ranks of this node share memory already");
        }
        let node = Node::open(self.tensors, bytes, room, views)?;
        let front = Front(node.front());
        self.bulk.read_from(node);
        Ok(front)
    }

    /// When all of the node have come here, none of them looks at the boards any more.
    fn part(&mut self) {
        let Some(node) = self.bulk.node() else { return };
        let mut requests = Requests::default();
        node.comm.barrier(&mut requests);
        self.wait(requests);
        if let Some(node) = self.bulk.part() {
            node.close();
        }
    }

    /// Waits for a word while the tensors go on.
    fn wait(&mut self, mut requests: Requests) {
        let mut pause = Pause::default();
        while !requests.landed() {
            if self.bulk.advance() {
                pause = Pause::default();
            }
            pause.sleep();
        }
    }

    /// Everyone's `mine`, all of one length, one after another.
    fn equal(&mut self, mine: &[u8]) -> Vec<u8> {
        if mine.is_empty() {
            return vec![]; // MPI refuses empty buffers that share an address
        }
        let mut all = vec![0; mine.len() * self.words.size()];
        let mut requests = Requests::default();
        // SAFETY: both live, untouched, until the wait is over.
        unsafe { self.words.all_gather(mine, &mut all, &mut requests) };
        self.wait(requests);
        all
    }

    fn bytes(&mut self, mut mine: Vec<u8>) -> Vec<Vec<u8>> {
        let lengths = self.equal(&(mine.len() as u64).to_ne_bytes());
        let lengths: Vec<usize> = lengths.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b) as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return vec![vec![]; lengths.len()];
        }
        mine.resize(longest, 0);
        let all = self.equal(&mine);
        all.chunks(longest).zip(lengths).map(|(bytes, len)| bytes[..len].to_vec()).collect()
    }

    fn broadcast(&mut self, mut bytes: Vec<u8>, root: usize) -> Vec<u8> {
        let mut length = (bytes.len() as u64).to_ne_bytes();
        let mut requests = Requests::default();
        // SAFETY: it lives, untouched, until the wait is over.
        unsafe { self.words.broadcast(&mut length, root, &mut requests) };
        self.wait(requests);
        bytes.resize(u64::from_ne_bytes(length) as usize, 0);
        let mut requests = Requests::default();
        // SAFETY: as above.
        unsafe { self.words.broadcast(&mut bytes, root, &mut requests) };
        self.wait(requests);
        bytes
    }
}

/// Waiting that leaves the core to others: tests run more ranks than there are cores, and computing threads share them.
#[derive(Default)]
struct Pause {
    rounds: u32,
}

/// Measured: so often the thread only yields before it begins to sleep.
const YIELDS: u32 = 64;
/// Measured: shorter sleeps take work from the computing threads, longer ones leave messages lying.
const NAP: Duration = Duration::from_micros(50);

impl Pause {
    fn sleep(&mut self) {
        self.rounds += 1;
        if self.rounds < YIELDS { std::thread::yield_now() } else { std::thread::sleep(NAP) }
    }
    /// The same, but a job ends it.
    fn for_a_job(&mut self, inbox: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        self.rounds += 1;
        if self.rounds >= YIELDS {
            return inbox.recv_timeout(NAP);
        }
        inbox.try_recv().map_err(|e| match e {
            TryRecvError::Empty => {
                std::thread::yield_now();
                RecvTimeoutError::Timeout
            }
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }
}
