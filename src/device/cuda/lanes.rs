//! Two streams: ops run on one, messages on the other. Events order them at two places only, and only where no earlier wait
//! has done so already: each that is left is needed.
//!
//! ```text
//! compute        ──ops──●────────ops────────────◌──ops──      ● lent: all that wrote the range lies before it
//! communication         ╰─◌──sum, or copies──●──╯             ● over: what comes after the loan finds the range complete
//! ```
use super::driver::{Event, Gpu, Pinned, Stream};
use crate::device::Access;
use crate::error::Result;
use std::ffi::c_void;
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

/// A range of the GPU's memory in the hands of a message.
pub struct Lent {
    at: u64,
    bytes: usize,
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
        let (ready, ops) = (lanes.compute.record(), lanes.ops.put.load(Ordering::Relaxed));
        Lent { at, bytes, lanes: lanes.clone(), ready, ops, staged: OnceLock::new(), over: None }
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

    /// Lets a library work on the range on the GPU: its address, and the stream on which to do so.
    ///
    /// Returns the place in the stream at which it is done.
    pub fn on_gpu(&mut self, f: impl FnOnce(u64, *mut c_void)) -> Arc<Event> {
        f(self.at, self.stream().raw());
        self.is_over()
    }

    /// Where its copy on the host lies; waits for it. From any thread.
    pub(in crate::device) fn host(&self) -> *mut u8 {
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
