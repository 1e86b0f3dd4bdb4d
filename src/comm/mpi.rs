//! MPI on host memory. One communication thread a rank makes every call; jobs arrive by a channel, in the same order on
//! every rank, and each is finished before the next begins. Waiting is polite: test, yield, sleep.
//!
//! ```text
//! reduce-scatter   for each chunk of a block: my copy of it to its owner, the others' copies of mine into staging (two
//!                  chunks in flight); the owner adds in rank order
//! all-gather       my block to all, theirs into their places
//! exchange         a few f64, on a communicator of its own
//! ```
use super::reduce::{add_in_rank_order, chunk, staging_elements};
use super::{Collective, Ticket, block, fault};
use crate::device::Loan;
use mpi::ffi;
use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Mpi {
    rank: usize,
    size: usize,
    jobs: Mutex<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Reduce { loan: Loan, gather: bool, done: Sender<Loan> },
    Gather { loan: Loan, done: Sender<Loan> },
    Exchange { mine: Vec<f64>, done: Sender<Vec<Vec<f64>>> },
    Bytes { mine: Vec<u8>, done: Sender<Vec<Vec<u8>>> },
    Barrier { done: Sender<()> },
}

impl Mpi {
    /// Over the ranks of `comm`, which all call this. MPI is initialised with MPI_THREAD_MULTIPLE.
    pub fn over(comm: ffi::MPI_Comm) -> Mpi {
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        let (mut tensors, mut words) = (comm, comm);
        // SAFETY: `comm` is valid; each pointer is to a local of the right type.
        unsafe {
            check(ffi::MPI_Comm_rank(comm, &mut rank), "MPI_Comm_rank");
            check(ffi::MPI_Comm_size(comm, &mut size), "MPI_Comm_size");
            check(ffi::MPI_Comm_dup(comm, &mut tensors), "MPI_Comm_dup");
            check(ffi::MPI_Comm_dup(comm, &mut words), "MPI_Comm_dup");
        }
        let (rank, size) = (rank as usize, size as usize);
        let (jobs, inbox) = channel();
        let worker = Worker { rank, size, tensors, words, staging: vec![0.0; staging_elements(size)] };
        let thread = std::thread::Builder::new().name("communication".into()).spawn(move || { worker }.run(&inbox));
        let thread = thread.expect("the system gives a process its second thread");
        Mpi { rank, size, jobs: Mutex::new(jobs), thread: Some(thread) }
    }

    fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Receiver<T> {
        let (done, answer) = channel();
        if self.jobs.lock().expect("jobs").send(job(done)).is_err() {
            fault::abort("the communication thread has ended");
        }
        answer
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
        Ticket { done: Some(self.ask(|done| Job::Reduce { loan, gather: false, done })) }
    }
    fn all_reduce(&self, loan: Loan) -> Ticket {
        Ticket { done: Some(self.ask(|done| Job::Reduce { loan, gather: true, done })) }
    }
    fn all_gather(&self, loan: Loan) -> Ticket {
        Ticket { done: Some(self.ask(|done| Job::Gather { loan, done })) }
    }
    fn exchange(&self, mine: &[f64]) -> Vec<Vec<f64>> {
        fault::patiently(&self.ask(|done| Job::Exchange { mine: mine.to_vec(), done }))
    }
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        fault::patiently(&self.ask(|done| Job::Bytes { mine: mine.to_vec(), done }))
    }
    fn barrier(&self) {
        fault::patiently(&self.ask(|done| Job::Barrier { done }))
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Closing the channel ends the thread after the last job.
        let (closed, _) = channel();
        *self.jobs.lock().expect("jobs") = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    rank: usize,
    size: usize,
    tensors: ffi::MPI_Comm,
    words: ffi::MPI_Comm,
    staging: Vec<f32>,
}

// SAFETY: a communicator is a handle that any thread may use under MPI_THREAD_MULTIPLE.
unsafe impl Send for Worker {}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        // A dropped ticket is nobody waiting: answers may find no one.
        while let Ok(job) = inbox.recv() {
            match job {
                Job::Reduce { mut loan, gather, done } => {
                    self.reduce_scatter(loan.slice_mut());
                    if gather {
                        self.all_gather(loan.slice_mut());
                    }
                    let _ = done.send(loan);
                }
                Job::Gather { mut loan, done } => {
                    self.all_gather(loan.slice_mut());
                    let _ = done.send(loan);
                }
                Job::Exchange { mine, done } => {
                    let all = self.equal(&mine, ffi_double());
                    let _ = done.send(all.chunks(mine.len().max(1)).map(<[f64]>::to_vec).collect());
                }
                Job::Bytes { mine, done } => {
                    let _ = done.send(self.bytes(&mine));
                }
                Job::Barrier { done } => {
                    let mut request = null_request();
                    // SAFETY: the communicator is valid and the request is waited for.
                    unsafe { check(ffi::MPI_Ibarrier(self.words, &mut request), "MPI_Ibarrier") };
                    wait(&mut [request]);
                    let _ = done.send(());
                }
            }
        }
    }

    /// This rank's block of `x` becomes the sum of all ranks' copies of it.
    fn reduce_scatter(&mut self, x: &mut [f32]) {
        let (rank, size) = (self.rank, self.size);
        let (own, most) = (block(x.len(), rank, size), chunk(size));
        let chunks: Vec<(usize, usize)> = (0..own.len()).step_by(most).map(|at| (at, most.min(own.len() - at))).collect();
        let mut halves: Vec<Vec<f32>> = {
            let half = self.staging.len() / 2;
            let second = self.staging.split_off(half);
            vec![std::mem::take(&mut self.staging), second]
        };
        let mut flying: [Vec<ffi::MPI_Request>; 2] = [vec![], vec![]];
        let start = |n: usize, into: &mut [f32], requests: &mut Vec<ffi::MPI_Request>, x: &[f32]| {
            let (at, len) = chunks[n];
            for (piece, other) in into.chunks_mut(most).zip((0..size).filter(|r| *r != rank)) {
                requests.push(receive(&mut piece[..len], other, self.tensors));
            }
            // Everyone starts with its successor, so that no rank is sent to by all at once.
            for other in (1..size).map(|k| (rank + k) % size) {
                let theirs = block(x.len(), other, size).start + at;
                requests.push(send(&x[theirs..theirs + len], other, self.tensors));
            }
        };
        if let Some(half) = (!chunks.is_empty()).then(|| &mut halves[0]) {
            start(0, half, &mut flying[0], x);
        }
        for n in 0..chunks.len() {
            if n + 1 < chunks.len() {
                start(n + 1, &mut halves[(n + 1) % 2], &mut flying[(n + 1) % 2], x);
            }
            wait(&mut flying[n % 2]);
            flying[n % 2].clear();
            let (at, len) = chunks[n];
            let mut pieces: Vec<&mut [f32]> = halves[n % 2].chunks_mut(most).map(|p| &mut p[..len]).collect();
            // What flies meanwhile are other ranks' blocks and later chunks, never these elements.
            add_in_rank_order(&mut x[own.start + at..own.start + at + len], rank, &mut pieces);
        }
        let second = halves.pop().unwrap_or_default();
        self.staging = halves.pop().unwrap_or_default();
        self.staging.extend(second);
    }

    /// Every rank's block of `x` becomes that rank's own.
    fn all_gather(&mut self, x: &mut [f32]) {
        let (rank, size) = (self.rank, self.size);
        let own = block(x.len(), rank, size);
        let mut requests = vec![];
        for other in (0..size).filter(|r| *r != rank) {
            let theirs = block(x.len(), other, size);
            for part in x[theirs].chunks_mut(LONGEST) {
                requests.push(receive(part, other, self.tensors));
            }
        }
        for other in (1..size).map(|k| (rank + k) % size) {
            for part in x[own.clone()].chunks(LONGEST) {
                requests.push(send(part, other, self.tensors));
            }
        }
        wait(&mut requests);
    }

    /// Everyone's `mine`, all of one length, in rank order.
    fn equal<T: Copy + Default>(&self, mine: &[T], kind: ffi::MPI_Datatype) -> Vec<T> {
        let mut all = vec![T::default(); mine.len() * self.size];
        let (mut request, count) = (null_request(), mine.len() as c_int);
        // SAFETY: `all` has room for `count` elements of every rank; both live until the request is done.
        unsafe {
            let (from, to) = (mine.as_ptr() as *const c_void, all.as_mut_ptr() as *mut c_void);
            check(ffi::MPI_Iallgather(from, count, kind, to, count, kind, self.words, &mut request), "MPI_Iallgather");
        }
        wait(&mut [request]);
        all
    }

    fn bytes(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        let sizes = self.equal(&[mine.len() as f64], ffi_double());
        let longest = sizes.iter().fold(0.0f64, |a, b| a.max(*b)) as usize;
        if longest == 0 {
            // MPI refuses empty buffers that share an address.
            return vec![vec![]; self.size];
        }
        let mut padded = mine.to_vec();
        padded.resize(longest, 0);
        let all = self.equal(&padded, unsafe_u8());
        let part = |(rank, size): (usize, &f64)| all[rank * longest..rank * longest + *size as usize].to_vec();
        sizes.iter().enumerate().map(part).collect()
    }
}

/// Structural: MPI counts are C ints.
const LONGEST: usize = 1 << 30;
const TAG: c_int = 1;

fn ffi_double() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_DOUBLE }
}

fn unsafe_u8() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_UINT8_T }
}

fn null_request() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// Starts a message; the slice must outlive the wait for the request.
fn send(x: &[f32], to: usize, comm: ffi::MPI_Comm) -> ffi::MPI_Request {
    let mut request = null_request();
    // SAFETY: callers keep `x` alive and unwritten until they have waited.
    unsafe {
        let (data, count) = (x.as_ptr() as *const c_void, x.len() as c_int);
        check(ffi::MPI_Isend(data, count, ffi::RSMPI_FLOAT, to as c_int, TAG, comm, &mut request), "MPI_Isend");
    }
    request
}

/// As [`send`], the other way.
fn receive(x: &mut [f32], from: usize, comm: ffi::MPI_Comm) -> ffi::MPI_Request {
    let mut request = null_request();
    // SAFETY: callers keep `x` alive and untouched until they have waited.
    unsafe {
        let (data, count) = (x.as_mut_ptr() as *mut c_void, x.len() as c_int);
        check(ffi::MPI_Irecv(data, count, ffi::RSMPI_FLOAT, from as c_int, TAG, comm, &mut request), "MPI_Irecv");
    }
    request
}

/// Waits for all, leaving the core to others: tests run more ranks than there are cores, and computing threads share them.
fn wait(requests: &mut [ffi::MPI_Request]) {
    for round in 0u32.. {
        let mut done: c_int = 0;
        // SAFETY: the requests are ours.
        let code =
            unsafe { ffi::MPI_Testall(requests.len() as c_int, requests.as_mut_ptr(), &mut done, ffi::RSMPI_STATUSES_IGNORE) };
        check(code, "MPI_Testall");
        if done != 0 {
            return;
        }
        match round {
            0..256 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(if round % 8 == 0 { 50 } else { 5 })),
        }
    }
}

fn check(code: c_int, call: &str) {
    if code != ffi::MPI_SUCCESS as c_int {
        fault::abort(&format!("{call} failed with code {code}"));
    }
}
