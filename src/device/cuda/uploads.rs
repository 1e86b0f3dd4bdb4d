//! Small numbers on their way from the host to a kernel: tokens, targets, positions, the factors of a step.
//!
//! ```text
//! host, pinned   |free| upload 7 | upload 8 | upload 9 |free|     a ring; a place is written again only when the copy from it has run
//! GPU            |    |    …     |    …     |    …     |    |     and there the stream's order does the same
//! ```
//! The ring holds the uploads of several passes, so that the host waits only where it is that far ahead of the GPU. Numbers
//! that are asked for again and again (the positions, by each layer) lie there still, and are not sent each time.
use super::driver::{Event, Gpu, Memory, Pinned, Stream};
use crate::error::Result;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Passes that the host may be ahead. Structural: two steps of one pass each, so that nothing waits within a step; of steps
/// that have more than four passes, the host is eight passes ahead, which hides as much.
const PASSES: usize = 8;
/// Of a pass: tokens, targets, positions, beginnings, and places with their order for two tables.
const ARRAYS: usize = 8;
/// Bytes for the small uploads of a pass.
const SMALL: usize = 4096;
/// How many uploads are looked through.
const RECENT: usize = 8;

/// Of passes over so many rows.
pub(super) fn bytes(rows: usize) -> usize {
    PASSES * (ARRAYS * (4 * rows).next_multiple_of(256) + SMALL)
}

pub(super) struct Uploads {
    host: Pinned,
    gpu: Memory,
    length: usize,
    ring: Mutex<Ring>,
}

/// Places count on from lap to lap: place p lies at byte p modulo the ring's length.
#[derive(Default)]
struct Ring {
    next: usize,
    /// What has not been overwritten yet, in order.
    sent: VecDeque<Sent>,
    spare: Vec<Event>,
}

struct Sent {
    place: usize,
    bytes: usize,
    copied: Event,
}

impl Uploads {
    pub fn new(gpu: &Arc<Gpu>, rows: usize, take: impl Fn(usize) -> Result<Memory>) -> Result<Uploads> {
        let bytes = bytes(rows);
        Ok(Uploads { host: Pinned::take(gpu, bytes), gpu: take(bytes)?, length: bytes, ring: Mutex::default() })
    }

    /// Where the numbers lie on the GPU, for kernels that are put into the stream before the next few uploads.
    /// `again`: those that were sent before may still be there.
    pub fn send(&self, gpu: &Arc<Gpu>, numbers: &[u32], again: bool, stream: &Stream) -> u64 {
        let bytes = size_of_val(numbers);
        assert!(bytes <= self.length / PASSES, "an upload of {bytes} bytes in a ring of {}", self.length);
        let mut ring = self.ring.lock().expect("uploads");
        let at = |place: usize| place % self.length;
        // SAFETY: the bytes lie within the ring, and nobody writes there while the lock is held.
        let is_there = |sent: &&Sent| sent.bytes == bytes && unsafe { same(self.host.at.add(at(sent.place)), numbers) };
        if let Some(sent) = ring.sent.iter().rev().take(if again { RECENT } else { 0 }).find(is_there) {
            return self.gpu.at + at(sent.place) as u64;
        }
        // An upload lies in one piece: what is too long for the end of the ring begins at its beginning.
        let left = self.length - at(ring.next);
        let place = if bytes > left { ring.next + left } else { ring.next };
        ring.next = (place + bytes).next_multiple_of(256);
        while ring.sent.front().is_some_and(|sent| sent.place + self.length < ring.next) {
            let old = ring.sent.pop_front().expect("the first");
            old.copied.synchronize();
            ring.spare.push(old.copied);
        }
        let copied = ring.spare.pop().unwrap_or_else(|| Event::new(gpu));
        // SAFETY: within both memories; the copies of what lay there have run, and the next begins after this.
        unsafe {
            std::ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), self.host.at.add(at(place)), bytes);
            stream.upload(self.gpu.at + at(place) as u64, self.host.at.add(at(place)), bytes);
        }
        copied.record(stream);
        ring.sent.push_back(Sent { place, bytes, copied });
        self.gpu.at + at(place) as u64
    }
}

/// Whether the numbers are those at `there`.
///
/// # Safety
/// As many lie there, and nobody writes them.
unsafe fn same(there: *const u8, numbers: &[u32]) -> bool {
    // SAFETY: the caller's promise; the ring's places are multiples of 256.
    unsafe { std::slice::from_raw_parts(there.cast::<u32>(), numbers.len()) == numbers }
}
