//! Between GPUs: NCCL carries tensors, MPI the words.
//!
//! ```text
//! join    rank 0's unique id by MPI_Bcast; the init does not block, and has a deadline
//! sum     lent at `ready` ── event ──> communication stream: ncclAllReduce … ── event ──> compute stream, when the loan ends
//! watch   a thread asks for asynchronous errors, and how long the oldest sum has been under way; either ends the job
//! ```
//! A call returns when the work is in the stream: neither host nor compute stream waits before [`Ticket::wait`]. The library is
//! found at run time; of its configuration only what it has had from its first version on is used, so that any version since
//! 2.14 serves. Sums are NCCL's own, in an order that depends on the network.
use super::{Collective, Ticket, block, fault};
use crate::device::cuda::{Event, Gpu, Library};
use crate::device::{Loan, range};
use crate::error::Result;
use crate::failed;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const FLOAT: c_int = 7;
const BFLOAT16: c_int = 9;
const SUM: c_int = 0;

/// Stands for no group.
const NUMBERS: usize = usize::MAX;

/// `ncclUniqueId`
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([c_char; 128]);

/// The first fields of `ncclConfig_t`, which say how many there are.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

type Comm = *mut c_void;
type Stream = *mut c_void;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Gather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int;

/// The library's functions that are used.
struct Api {
    unique_id: unsafe extern "C" fn(*mut Id) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, Id, c_int, *mut Config) -> c_int,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    finalize: unsafe extern "C" fn(Comm) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    all_reduce: Reduce,
    reduce_scatter: Reduce,
    all_gather: Gather,
}

impl Api {
    fn load() -> Result<Api> {
        let library = Library::open(&["libnccl.so.2", "libnccl.so"])?;
        // SAFETY: the types are those of nccl.h.
        unsafe {
            use std::mem::transmute;
            Ok(Api {
                unique_id: transmute::<*mut c_void, unsafe extern "C" fn(*mut Id) -> c_int>(
                    library.function(c"ncclGetUniqueId")?,
                ),
                init: transmute::<*mut c_void, unsafe extern "C" fn(*mut Comm, c_int, Id, c_int, *mut Config) -> c_int>(
                    library.function(c"ncclCommInitRankConfig")?,
                ),
                async_error: transmute::<*mut c_void, unsafe extern "C" fn(Comm, *mut c_int) -> c_int>(
                    library.function(c"ncclCommGetAsyncError")?,
                ),
                error_string: transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(
                    library.function(c"ncclGetErrorString")?,
                ),
                finalize: transmute::<*mut c_void, unsafe extern "C" fn(Comm) -> c_int>(library.function(c"ncclCommFinalize")?),
                destroy: transmute::<*mut c_void, unsafe extern "C" fn(Comm) -> c_int>(library.function(c"ncclCommDestroy")?),
                all_reduce: transmute::<*mut c_void, Reduce>(library.function(c"ncclAllReduce")?),
                reduce_scatter: transmute::<*mut c_void, Reduce>(library.function(c"ncclReduceScatter")?),
                all_gather: transmute::<*mut c_void, Gather>(library.function(c"ncclAllGather")?),
            })
        }
    }
    fn text(&self, code: c_int) -> String {
        // SAFETY: the library's own constant text.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        format!("{} ({code})", text.to_string_lossy())
    }
}

/// The GPUs of all ranks.
pub struct Network {
    link: Arc<Link>,
    rank: usize,
    size: usize,
    watch: Option<JoinHandle<()>>,
}

/// What the watching thread shares.
struct Link {
    api: Api,
    comm: Comm,
    gpu: Arc<Gpu>,
    /// What is under way, in order, each with its end and its beginning.
    under_way: Mutex<VecDeque<(String, Arc<Event>, Instant)>>,
    /// Whose gradients or weights the next call is about; [`NUMBERS`]: the step's numbers.
    group: AtomicUsize,
    over: AtomicBool,
}

// SAFETY: a communicator is used by one thread at a time, but for its error, which any thread may ask for.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Network {
    /// Brings the GPUs of all ranks together. `words` carries the unique id; `patience` is how long a rank waits for the others.
    ///
    /// Errors: `Failed`: the library is missing, or says what went wrong.
    pub fn join(words: &dyn Collective, gpu: &Arc<Gpu>, patience: Duration) -> Result<Network> {
        let (rank, size) = (words.rank(), words.size());
        let loaded = Api::load();
        // All must have it before one waits for the others.
        let missing = words.gather(loaded.as_ref().err().map_or(String::new(), ToString::to_string).as_bytes());
        if let Some(rank) = missing.iter().position(|text| !text.is_empty()) {
            failed!("rank {rank}: {}", String::from_utf8_lossy(&missing[rank]));
        }
        let api = loaded?;
        let mut id = Id([0; 128]);
        // SAFETY: the place is a variable here.
        let code = if rank == 0 { unsafe { (api.unique_id)(&mut id) } } else { SUCCESS };
        let mine = if code == SUCCESS { id.0.map(|c| c as u8).to_vec() } else { api.text(code).into_bytes() };
        let bytes = words.broadcast(mine, 0);
        let Ok(bytes) = <[u8; 128]>::try_from(bytes.as_slice()) else {
            failed!("NCCL: rank 0: ncclGetUniqueId failed: {}", String::from_utf8_lossy(&bytes));
        };
        id.0 = bytes.map(|b| b as c_char);

        const MAGIC: u32 = 0xcafe_beef;
        let mut config = Config { size: size_of::<Config>(), magic: MAGIC, version: 21400, blocking: 0 };
        let (mut comm, began) = (std::ptr::null_mut(), Instant::now());
        // SAFETY: the places are variables here; the GPU is bound.
        let mut code = unsafe { (api.init)(&mut comm, size as c_int, id, rank as c_int, &mut config) };
        while code == IN_PROGRESS {
            if began.elapsed() > patience {
                failed!(
                    "NCCL: ncclCommInitRankConfig: expected all {size} ranks within {} s, rank {rank} still waits",
                    patience.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
            // SAFETY: the communicator has been made, and the place is a variable here.
            let asked = unsafe { (api.async_error)(comm, &mut code) };
            code = if asked == SUCCESS { code } else { asked };
        }
        if code != SUCCESS {
            failed!("NCCL: ncclCommInitRankConfig of {size} ranks failed on rank {rank}: {}", api.text(code));
        }
        let (under_way, group, over) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        let link = Arc::new(Link { api, comm, gpu: gpu.clone(), under_way, group, over });
        let watched = link.clone();
        let watch = std::thread::spawn(move || watched.watch(patience));
        Ok(Network { link, rank, size, watch: Some(watch) })
    }

    /// With MPI for the words.
    pub fn beside<'a>(&'a self, words: &'a dyn Collective) -> Beside<'a> {
        Beside { network: self, words }
    }

    /// Puts a call into the communication stream. `made`: the elements that it writes and that are wanted.
    fn start(
        &self,
        mut loan: Loan,
        name: &str,
        made: Range<usize>,
        call: impl FnOnce(&Api, Place, Comm, Stream) -> c_int,
    ) -> Ticket {
        let link = &self.link;
        let what = match link.group.load(Ordering::Relaxed) {
            NUMBERS => format!("{name} of the step's numbers"),
            group => format!("{name} of group {group}"),
        };
        let _range = range(|| format!("communication: {what}"));
        let lent = loan.on_gpu().expect("NCCL sums what lies on a GPU");
        let end = lent.on_gpu(made, |at, bf16, stream| {
            let mut code = call(&link.api, Place { at, bf16 }, link.comm, stream);
            while code == IN_PROGRESS {
                // SAFETY: the place is a variable here.
                unsafe { (link.api.async_error)(link.comm, &mut code) };
            }
            if code != SUCCESS {
                fault::abort(&format!("NCCL: {what} failed: {}", link.api.text(code)));
            }
        });
        link.under_way.lock().expect("what is under way").push_back((what, end, Instant::now()));
        Ticket::holding(loan)
    }
}

/// Numbers on a GPU.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    bf16: bool,
}

impl Place {
    /// From the `i`-th on.
    fn from(self, i: usize) -> *mut c_void {
        (self.at + i as u64 * if self.bf16 { 2 } else { 4 }) as *mut c_void
    }
    fn kind(self) -> c_int {
        if self.bf16 { BFLOAT16 } else { FLOAT }
    }
}

impl Link {
    /// Until the network goes. What has gone wrong ends the job: nobody else would notice.
    fn watch(&self, patience: Duration) {
        /// Measured by none: often enough for a person who waits, seldom enough for a core.
        const EVERY: Duration = Duration::from_millis(100);
        self.gpu.bind();
        let mut before = "nothing".to_string();
        while !self.over.load(Ordering::Relaxed) {
            let mut code = SUCCESS;
            // SAFETY: the communicator lives as long as `self`; any thread may ask.
            let asked = unsafe { (self.api.async_error)(self.comm, &mut code) };
            let mut under_way = self.under_way.lock().expect("what is under way");
            while under_way.front().is_some_and(|(_, end, _)| end.has_come()) {
                before = under_way.pop_front().map_or(before, |(what, ..)| what);
            }
            let (what, since) = under_way.front().map_or(("nothing", Duration::ZERO), |(what, _, began)| (what, began.elapsed()));
            if let Some(code) = [asked, code].into_iter().find(|code| ![SUCCESS, IN_PROGRESS].contains(code)) {
                fault::abort(&format!("NCCL: {}, {what} being under way after {before}", self.api.text(code)));
            }
            if since > patience {
                fault::abort(&format!("NCCL: {what} has been under way for {} s; a rank hangs or is gone", since.as_secs()));
            }
            drop(under_way);
            std::thread::park_timeout(EVERY);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.link.over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            watch.thread().unpark();
            let _ = watch.join();
        }
        self.link.gpu.bind();
        // SAFETY: nobody uses it any more; queued work is waited for.
        unsafe {
            let mut code = (self.link.api.finalize)(self.link.comm);
            while code == IN_PROGRESS {
                (self.link.api.async_error)(self.link.comm, &mut code);
            }
            (self.link.api.destroy)(self.link.comm);
        }
    }
}

/// Tensors by NCCL, words by another.
pub struct Beside<'a> {
    network: &'a Network,
    words: &'a dyn Collective,
}

impl Collective for Beside<'_> {
    fn rank(&self) -> usize {
        self.words.rank()
    }
    fn size(&self) -> usize {
        self.words.size()
    }
    /// A world of one that was asked to go by NCCL does.
    fn alone(&self) -> bool {
        false
    }
    fn about(&self, group: Option<usize>) {
        self.network.link.group.store(group.unwrap_or(NUMBERS), Ordering::Relaxed);
    }
    fn takes_bf16(&self) -> bool {
        true
    }
    fn reduce_scatter(&self, loan: Loan) -> Ticket {
        let own = block(loan.len(), self.network.rank, self.network.size);
        self.network.start(loan, "the reduction", own.clone(), |api, place, comm, stream| {
            // SAFETY: the range is lent, and its own block lies within it: NCCL sums in place.
            unsafe { (api.reduce_scatter)(place.from(0), place.from(own.start), own.len(), place.kind(), SUM, comm, stream) }
        })
    }
    fn all_reduce(&self, loan: Loan) -> Ticket {
        let len = loan.len();
        self.network.start(loan, "the reduction", 0..len, |api, place, comm, stream| {
            // SAFETY: as above.
            unsafe { (api.all_reduce)(place.from(0), place.from(0), len, place.kind(), SUM, comm, stream) }
        })
    }
    fn all_gather(&self, loan: Loan) -> Ticket {
        let (len, own) = (loan.len(), block(loan.len(), self.network.rank, self.network.size));
        self.network.start(loan, "the gathering", 0..len, |api, place, comm, stream| {
            // SAFETY: as above.
            unsafe { (api.all_gather)(place.from(own.start), place.from(0), own.len(), place.kind(), comm, stream) }
        })
    }
    fn exchange(&self, mine: &[f64]) -> Vec<Vec<f64>> {
        self.words.exchange(mine)
    }
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.words.gather(mine)
    }
    fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Vec<u8> {
        self.words.broadcast(bytes, root)
    }
    fn barrier(&self) {
        self.words.barrier();
    }
    /// Not measured: the host does not look at the GPU's clock.
    fn busy(&self) -> Duration {
        Duration::ZERO
    }
}
