//! The threads of a rank: started once, kept on their cores, given the same share of the work each time.
//!
//! ```text
//! each(n, f)      f(0) … f(n−1), thread t beginning with the tasks  n·t/threads … n·(t+1)/threads
//!                 who has finished takes what others have not begun
//! ```
//! The caller is thread 0. A worker without work spins briefly, since the next op is mostly some microseconds away, then offers its core
//! to others for a while, and then sleeps. Which thread runs a task changes no number: ops give each task its own output.
use crate::error::{Error, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Measured (Zen 3, 2 threads, `nano`): who waits looks this often, some 20 µs, before others may have the core …
const LOOKS: usize = 1 << 10;
/// … and then, whenever nobody else wants it, for so long before he sleeps: a core that is given back to the host for each short wait is slow
/// to come back. Measured (virtual machine with AMX, two threads, spinning for 4 ms): 1.17 times `nano`'s tokens/s; on another nothing.
const PATIENCE: Duration = Duration::from_millis(2);

pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts the calls of [`each`]; the last of all is the order to end.
    call: AtomicUsize,
    ends: AtomicBool,
    job: Mutex<Job>,
    shares: Vec<Share>,
    /// Workers that have not finished the call.
    busy: AtomicUsize,
    asleep: Vec<AtomicBool>,
    caller_sleeps: AtomicBool,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// The next task of a thread's share, and its end; on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// What a call runs, and who waits for it.
#[derive(Clone)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    caller: Thread,
}
// SAFETY: the closure is `Sync`, and `each` returns only when nobody uses it any more.
unsafe impl Send for Job {}

thread_local! {
    /// The pool that [`each`] uses here; null: none, or already inside a task.
    static HERE: Cell<*const Threads> = const { Cell::new(std::ptr::null()) };
}

/// f(0) … f(n−1), on the threads that [`Threads::install`] brought here; without any, or inside a task, one after the other.
pub fn each(n: usize, f: impl Fn(usize) + Sync) {
    let here = HERE.get();
    if n <= 1 || here.is_null() {
        return (0..n).for_each(f);
    }
    // SAFETY: `install` holds the pool for as long as the pointer stands here.
    unsafe { &*here }.each(n, &f);
}

/// Threads at hand for [`each`].
pub fn count() -> usize {
    let here = HERE.get();
    // SAFETY: as in `each`.
    if here.is_null() { 1 } else { unsafe { &*here }.shared.shares.len() }
}

impl Threads {
    /// `n` threads with the caller of [`Threads::install`]; `cores`: thread t stays on the t-th of them, where there are
    /// as many.
    pub fn new(n: usize, cores: &[usize]) -> Result<Threads> {
        let idle: *const (dyn Fn(usize) + Sync) = &|_| ();
        let shared = Arc::new(Shared {
            call: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
            job: Mutex::new(Job { run: idle, caller: std::thread::current() }),
            shares: (0..n.max(1)).map(|_| Share::default()).collect(),
            busy: AtomicUsize::new(0),
            asleep: (0..n.max(1)).map(|_| AtomicBool::new(false)).collect(),
            caller_sleeps: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let start = |t: usize| {
            let (shared, core) = (shared.clone(), cores.get(t).copied().filter(|_| cores.len() >= n));
            let thread = std::thread::Builder::new().name(format!("worker-{t}"));
            thread.spawn(move || {
                core.into_iter().for_each(stay_on);
                shared.work(t);
            })
        };
        let workers = (1..n).map(start).collect::<std::io::Result<_>>();
        let workers = workers.map_err(|e| Error::Failed(format!("cannot start {n} threads: {e}")))?;
        Ok(Threads { shared, workers })
    }

    /// Runs `f` with [`each`] at its disposal.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Puts back what was there, also after a panic.
        struct Back(*const Threads);
        impl Drop for Back {
            fn drop(&mut self) {
                HERE.set(self.0);
            }
        }
        let _back = Back(HERE.replace(self));
        f()
    }

    fn each(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        let s = &*self.shared;
        let threads = s.shares.len();
        if threads == 1 {
            return (0..n).for_each(f);
        }
        for (t, share) in s.shares.iter().enumerate() {
            share.next.store(n * t / threads, Ordering::Relaxed);
            share.end.store(n * (t + 1) / threads, Ordering::Relaxed);
        }
        // SAFETY: only the lifetime changes; the closure outlives the call, since `busy` reaches 0 before it returns.
        let run = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        *s.job.lock().expect("no task holds it") = Job { run, caller: std::thread::current() };
        s.busy.store(threads - 1, Ordering::Relaxed);
        s.call.fetch_add(1, Ordering::SeqCst);
        self.wake();
        s.take(0, f);
        wait(&s.caller_sleeps, || s.busy.load(Ordering::SeqCst) == 0);
        let panic = s.panic.lock().expect("no task holds it").take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn wake(&self) {
        for (asleep, worker) in self.shared.asleep[1..].iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.call.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // a worker never panics: tasks' panics are caught
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, t: usize) {
        let mut seen = 0;
        loop {
            wait(&self.asleep[t], || self.call.load(Ordering::SeqCst) != seen);
            seen = self.call.load(Ordering::SeqCst);
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let job = self.job.lock().expect("no task holds it").clone();
            // SAFETY: the caller waits for `busy`, which this thread lowers last.
            self.take(t, unsafe { &*job.run });
            let last = self.busy.fetch_sub(1, Ordering::SeqCst) == 1;
            if last && self.caller_sleeps.load(Ordering::SeqCst) {
                job.caller.unpark();
            }
        }
    }

    /// This thread's share, then what is left of the others', nearest first.
    fn take(&self, t: usize, f: &(dyn Fn(usize) + Sync)) {
        let outside = HERE.replace(std::ptr::null());
        let done = catch_unwind(AssertUnwindSafe(|| {
            for other in 0..self.shares.len() {
                let share = &self.shares[(t + other) % self.shares.len()];
                let end = share.end.load(Ordering::Relaxed);
                while share.next.load(Ordering::Relaxed) < end {
                    let task = share.next.fetch_add(1, Ordering::Relaxed);
                    if task < end {
                        f(task);
                    }
                }
            }
        }));
        HERE.set(outside);
        if let Err(panic) = done {
            *self.panic.lock().expect("no task holds it") = Some(panic);
        }
    }
}

/// Until `ready`: spins, then looks whenever nobody else wants the core, then sleeps, saying so.
fn wait(asleep: &AtomicBool, ready: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if ready() {
            return;
        }
        std::thread::yield_now();
    }
    asleep.store(true, Ordering::SeqCst);
    while !ready() {
        std::thread::park();
    }
    asleep.store(false, Ordering::SeqCst);
}

/// Keeps the calling thread on one core. A system that refuses leaves it where it is.
pub fn stay_on(core: usize) {
    // SAFETY: the set is plain data, and the calls concern this thread alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Threads::new(threads, &[]).unwrap();
            pool.install(|| {
                for n in (0..200).chain([10_000]) {
                    let runs: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                    each(n, |i| {
                        runs[i].fetch_add(1, Ordering::Relaxed);
                        // inside a task there is no further division
                        each(3, |_| assert_eq!(count(), 1));
                    });
                    assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1), "{n} tasks on {threads} threads");
                }
                assert_eq!(count(), threads);
            });
            assert_eq!(count(), 1);
        }
    }

    #[test]
    fn a_worker_sleeps_and_wakes() {
        let pool = Threads::new(2, &[0, 0]).unwrap();
        pool.install(|| {
            for _ in 0..20 {
                std::thread::sleep(2 * PATIENCE);
                let sum = AtomicUsize::new(0);
                each(10, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
                assert_eq!(sum.into_inner(), 45);
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_is_the_callers() {
        let pool = Threads::new(2, &[]).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| pool.install(|| each(8, |i| assert!(i != 7, "task seven")))));
        assert!(caught.is_err());
        pool.install(|| each(8, |_| ()));
    }
}
