//! The next batches, made ready on a thread of their own while the device works on the last.
//!
//! ```text
//! thread:  for step: for pass: fill a batch -> channel of DEPTH full ones -> next() gives it out, and the time it had to wait
//!            ^------------------------------- used ones come back to be filled again ------------------------+
//! ```
use super::Data;
use super::batch::{Batch, Share};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Batches ahead of the device: one that is ready and one that the thread waits to hand over. A window is a few microseconds
/// of copying from the page cache; the slack is for the file system behind it.
const DEPTH: usize = 2;

/// Gives one rank's passes in order, step after step.
pub struct Loader {
    full: Option<Receiver<Result<Batch>>>,
    used: Sender<Batch>,
    current: Batch,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts at the step before which `consumed` samples were drawn, and goes on for as long as it is asked.
    pub fn start(data: Arc<Data>, share: Share, consumed: u64) -> Result<Loader> {
        let (send, full) = sync_channel(DEPTH - 1);
        let (used, back) = channel();
        let thread = std::thread::Builder::new().name("data".into()).spawn(move || prepare(&data, share, consumed, &send, &back));
        let thread = thread.map_err(|e| Error::Failed(format!("expected a thread to load data, found: {e}")))?;
        Ok(Loader { full: Some(full), used, current: Batch::default(), thread: Some(thread) })
    }
    /// The next pass's rows, and how long they kept the caller waiting.
    ///
    /// # Errors
    /// That of reading: `Input` for a token that the vocabulary does not have.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<(&Batch, Duration)> {
        let asked = Instant::now();
        let full = self.full.as_ref().expect("open until drop");
        let batch =
            full.recv().map_err(|_| Error::Failed("expected another batch, found that the data thread has ended".into()))??;
        let wait = asked.elapsed();
        // The thread may have ended with an error that the next call will bring.
        let _ = self.used.send(std::mem::replace(&mut self.current, batch));
        Ok((&self.current, wait))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // With the channel closed the thread's next send fails, and it ends.
        self.full = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn prepare(data: &Data, share: Share, mut consumed: u64, send: &SyncSender<Result<Batch>>, back: &Receiver<Batch>) {
    loop {
        for micro in 0..share.micro_steps() {
            let mut batch = back.try_recv().unwrap_or_default();
            let filled = data.fill(consumed, micro, &share, &mut batch).map(|()| batch);
            let ended = filled.is_err();
            if send.send(filled).is_err() || ended {
                return;
            }
        }
        consumed += share.global_batch as u64;
    }
}
