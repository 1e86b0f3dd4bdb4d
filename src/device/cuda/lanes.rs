//! Two streams: ops run on one, messages on the other. Events order them at two places only, and only where no earlier wait
//! has done so already: each that is left is needed.
//!
//! ```text
//! compute        ──ops──●────────ops────────────◌──ops──      ● lent: all that wrote the range lies before it
//! communication         ╰─◌──sum, or copies──●──╯             ● over: what comes after the loan finds the range complete
//! ```
use super::Grid;
use super::driver::{Event, Gpu, Pinned, Stream};
use super::kernels::Kernels;
use crate::device::Access;
use crate::error::Result;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub struct Lanes {
    pub gpu: Arc<Gpu>,
    pub compute: Stream,
    pub communication: Stream,
    /// Ops and messages so far, and of each how many the other stream has waited for.
    ops: Progress,
    messages: Progress,
    /// The last message that is over, and that no op has come after yet.
    owed: Mutex<Option<Message>>,
    /// Pinned memory that was used before, each with the place in the streams after which it is free.
    spare: Mutex<Vec<(Pinned, Event)>>,
}

impl Lanes {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Arc<Lanes>> {
        let (compute, communication) = (Stream::new(gpu)?, Stream::new(gpu)?);
        let (ops, messages) = (Progress::default(), Progress::default());
        Ok(Arc::new(Lanes {
            gpu: gpu.clone(),
            compute,
            communication,
            ops,
            messages,
            owed: Mutex::default(),
            spare: Mutex::default(),
        }))
    }

    /// The stream of ops, for one more, which comes after the messages that are over.
    pub fn for_op(&self) -> &Stream {
        self.after_messages();
        self.ops.put.fetch_add(1, Ordering::Relaxed);
        &self.compute
    }
    /// What comes into the stream of ops now comes after the messages that are over.
    fn after_messages(&self) {
        if let Some((over, count)) = self.owed.lock().expect("the wait that is owed").take() {
            self.messages.wait(&self.compute, &over, count);
        }
    }
    /// A place in the stream of ops whose time will be known. It is no op: no message need wait for it.
    pub fn moment(&self, after_messages: bool) -> Event {
        if after_messages {
            self.after_messages();
        }
        let event = Event::timed(&self.gpu);
        event.record(&self.compute);
        event
    }

    /// Ops so far.
    pub(super) fn so_far(&self) -> u64 {
        self.ops.put.load(Ordering::Relaxed)
    }

    /// Pinned memory of at least so many bytes that nobody uses any more.
    pub(super) fn staging(&self, bytes: usize) -> Pinned {
        let mut spare = self.spare.lock().expect("staging");
        let fits = spare.iter().enumerate().filter(|(_, (p, _))| p.bytes >= bytes).min_by_key(|(_, (p, _))| p.bytes);
        match fits.map(|(i, _)| i) {
            Some(i) => {
                let (pinned, free) = spare.remove(i);
                drop(spare);
                free.synchronize();
                pinned
            }
            None => Pinned::take(&self.gpu, bytes),
        }
    }
    /// It is free once `free` has come.
    pub(super) fn give_back(&self, pinned: Pinned, free: Event) {
        self.spare.lock().expect("staging").push((pinned, free));
    }
}

/// The end of a message, and its number.
type Message = (Arc<Event>, u64);

/// How far a stream has come, as the other knows it.
#[derive(Default)]
struct Progress {
    put: AtomicU64,
    awaited: AtomicU64,
}

impl Progress {
    /// Has `stream` wait for `event`, behind which `count` were put, unless it has waited for as many.
    fn wait(&self, stream: &Stream, event: &Event, count: u64) {
        if self.awaited.fetch_max(count, Ordering::Relaxed) < count {
            stream.wait(event);
        }
    }
}

/// What a library finds in a range that is lent.
enum Numbers {
    F32,
    Bf16,
    /// f32, of which the library gets copies in bf16: here they lie, and these kernels make them and bring them back.
    Halved(u64, Arc<Kernels>),
}

/// A range of the GPU's memory in the hands of a message.
pub struct Lent {
    at: u64,
    bytes: usize,
    numbers: Numbers,
    lanes: Arc<Lanes>,
    /// After the ops that wrote it.
    ready: Event,
    ops: u64,
    /// Its copy on the host, once someone has asked for it.
    staged: OnceLock<Pinned>,
    /// After what a library did with it on the GPU.
    over: Option<Message>,
}

impl Lent {
    pub(super) fn new(at: u64, bytes: usize, lanes: &Arc<Lanes>) -> Lent {
        let (ready, ops) = (lanes.compute.record(), lanes.so_far());
        Lent { at, bytes, numbers: Numbers::F32, lanes: lanes.clone(), ready, ops, staged: OnceLock::new(), over: None }
    }
    /// A range of bf16.
    pub(super) fn in_bf16(self) -> Lent {
        Lent { numbers: Numbers::Bf16, ..self }
    }
    /// What it holds was written when so many ops had been put: what came later has not touched it.
    pub(super) fn written_by(self, ops: u64) -> Lent {
        Lent { ops, ..self }
    }
    /// The library gets a copy in bf16, for which there is room at this address; the streams' order keeps one message's copy
    /// from the next one's.
    pub(super) fn halved(self, room: u64, kernels: &Arc<Kernels>) -> Lent {
        Lent { numbers: Numbers::Halved(room, kernels.clone()), ..self }
    }

    /// The stream of messages, behind what wrote the range.
    fn stream(&self) -> &Stream {
        self.lanes.gpu.bind();
        self.lanes.ops.wait(&self.lanes.communication, &self.ready, self.ops);
        &self.lanes.communication
    }

    /// What has been put into the stream of messages is the last of this loan.
    fn is_over(&mut self) -> Arc<Event> {
        let event = Arc::new(self.lanes.communication.record());
        self.over = Some((event.clone(), 1 + self.lanes.messages.put.fetch_add(1, Ordering::Relaxed)));
        event
    }

    /// Lets a library work on the range on the GPU: its address, whether bf16 lies there, and the stream on which to do so. `made`:
    /// the elements that the library writes and that are wanted.
    ///
    /// Returns the place in the stream at which it is done.
    pub fn on_gpu(&mut self, made: Range<usize>, f: impl FnOnce(u64, bool, *mut c_void)) -> Arc<Event> {
        let stream = self.stream();
        match &self.numbers {
            Numbers::F32 => f(self.at, false, stream.raw()),
            Numbers::Bf16 => f(self.at, true, stream.raw()),
            Numbers::Halved(room, kernels) => {
                let n = self.bytes / 4;
                kernels.launch("to_bf16", Grid::over(n.div_ceil(8)), &[*room, self.at, n as u64], stream);
                f(*room, true, stream.raw());
                let (to, from, n) = (self.at + 4 * made.start as u64, room + 2 * made.start as u64, made.len());
                kernels.launch("to_float", Grid::over(n.div_ceil(8)), &[to, from, n as u64], stream);
            }
        }
        self.is_over()
    }

    /// Where its copy on the host lies; waits for it. From any thread.
    pub(in crate::device) fn host(&self) -> *mut u8 {
        assert!(matches!(self.numbers, Numbers::F32), "hosts carry f32");
        let bring = || {
            let (stream, pinned) = (self.stream(), self.lanes.staging(self.bytes));
            // SAFETY: the range is lent: no op writes it; the copy on the host is ours.
            unsafe { stream.download(pinned.at, self.at, self.bytes) };
            stream.record().synchronize();
            pinned
        };
        self.staged.get_or_init(bring).at
    }

    /// What was written goes back to the GPU, and ops from now on come after it.
    pub(in crate::device) fn end(&mut self, access: Access) {
        self.lanes.gpu.bind();
        if let Some(pinned) = self.staged.take() {
            if access == Access::Write {
                // SAFETY: the range is still lent; the copy on the host is given to no one before the copy back has run.
                unsafe { self.lanes.communication.upload(self.at, pinned.at, self.bytes) };
                self.is_over();
            }
            self.lanes.give_back(pinned, self.lanes.communication.record());
        }
        if let Some(over) = self.over.take() {
            let mut owed = self.lanes.owed.lock().expect("the wait that is owed");
            if owed.as_ref().is_none_or(|(_, count)| *count < over.1) {
                *owed = Some(over);
            }
        }
    }
}
