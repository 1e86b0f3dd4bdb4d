//! Two streams: ops run on one, messages on the other. Events order them at two places only.
//!
//! ```text
//! compute        ──ops──●────────ops────────────◌──ops──      ● lent: all that wrote the range lies before it
//! communication         ╰─◌──sum, or copies──●──╯             ● over: what comes after the loan finds the range complete
//! ```
use super::driver::{Event, Gpu, Pinned, Stream};
use crate::device::Access;
use crate::error::Result;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock};

pub struct Lanes {
    pub gpu: Arc<Gpu>,
    pub compute: Stream,
    pub communication: Stream,
    /// Pinned memory that was used before, each with the place in the streams after which it is free.
    spare: Mutex<Vec<(Pinned, Event)>>,
}

impl Lanes {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Arc<Lanes>> {
        let (compute, communication) = (Stream::new(gpu)?, Stream::new(gpu)?);
        Ok(Arc::new(Lanes { gpu: gpu.clone(), compute, communication, spare: Mutex::default() }))
    }

    /// Pinned memory of at least so many bytes that nobody uses any more.
    fn staging(&self, bytes: usize) -> Pinned {
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
}

/// A range of the GPU's memory in the hands of a message.
pub struct Lent {
    at: u64,
    bytes: usize,
    lanes: Arc<Lanes>,
    /// After the ops that wrote it.
    ready: Event,
    /// Its copy on the host, once someone has asked for it.
    staged: OnceLock<Pinned>,
    /// After what a library did with it on the GPU.
    over: Option<Event>,
}

impl Lent {
    pub(super) fn new(at: u64, bytes: usize, lanes: &Arc<Lanes>) -> Lent {
        let ready = lanes.compute.record();
        Lent { at, bytes, lanes: lanes.clone(), ready, staged: OnceLock::new(), over: None }
    }

    /// Lets a library work on the range on the GPU: its address, and the stream on which to do so.
    pub fn on_gpu(&mut self, f: impl FnOnce(u64, *mut c_void)) {
        self.lanes.gpu.bind();
        let stream = &self.lanes.communication;
        stream.wait(&self.ready);
        f(self.at, stream.raw());
        self.over = Some(stream.record());
    }

    /// Where its copy on the host lies; waits for it. From any thread.
    pub(in crate::device) fn host(&self) -> *mut u8 {
        let bring = || {
            self.lanes.gpu.bind();
            let (stream, pinned) = (&self.lanes.communication, self.lanes.staging(self.bytes));
            stream.wait(&self.ready);
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
        let stream = &self.lanes.communication;
        if let Some(pinned) = self.staged.take() {
            if access == Access::Write {
                // SAFETY: the range is still lent; the copy on the host is given to no one before the copy back has run.
                unsafe { stream.upload(self.at, pinned.at, self.bytes) };
                self.over = Some(stream.record());
            }
            self.lanes.spare.lock().expect("staging").push((pinned, stream.record()));
        }
        if let Some(over) = self.over.take() {
            self.lanes.compute.wait(&over);
        }
    }
}
