//! Small numbers on their way from the host to a kernel: tokens, targets, positions, the factors of a step.
//!
//! ```text
//! host, pinned   | 0 | 1 | … |     a slot is written again only when its last copy has run
//! GPU            | 0 | 1 | … |     and there the stream's order does the same
//! ```
//! The host waits only where it is a whole round ahead of the GPU.
use super::driver::{Event, Gpu, Memory, Pinned, Stream};
use crate::error::Result;
use std::sync::{Arc, Mutex};

/// Structural: an op may have a few at a time. More let the host run further ahead.
pub(super) const SLOTS: usize = 16;

/// Bytes of a slot: a number for each row of a pass, or a handful.
pub(super) fn bytes(rows: usize) -> usize {
    (4 * rows).max(256).next_multiple_of(256)
}

pub(super) struct Uploads {
    host: Pinned,
    gpu: Memory,
    bytes: usize,
    next: Mutex<usize>,
    copied: Vec<Event>,
}

impl Uploads {
    pub fn new(gpu: &Arc<Gpu>, rows: usize, take: impl Fn(usize) -> Result<Memory>) -> Result<Uploads> {
        let bytes = bytes(rows);
        let copied = (0..SLOTS).map(|_| Event::new(gpu)).collect();
        Ok(Uploads { host: Pinned::take(gpu, SLOTS * bytes), gpu: take(SLOTS * bytes)?, bytes, next: Mutex::new(0), copied })
    }

    pub fn send(&self, numbers: &[u32], stream: &Stream) -> u64 {
        let bytes = size_of_val(numbers);
        assert!(bytes <= self.bytes, "an upload of {bytes} bytes in slots of {}", self.bytes);
        let mut next = self.next.lock().expect("uploads");
        let (slot, at) = (*next, *next * self.bytes);
        *next = (slot + 1) % SLOTS;
        self.copied[slot].synchronize();
        // SAFETY: the slot lies within both memories; its last copy has run, and the next begins after this.
        unsafe {
            std::ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), self.host.at.add(at), bytes);
            stream.upload(self.gpu.at + at as u64, self.host.at.add(at), bytes);
        }
        self.copied[slot].record(stream);
        self.gpu.at + at as u64
    }
}
