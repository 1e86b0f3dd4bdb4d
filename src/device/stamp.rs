//! Moments in a device's own work, from which spans of time are read later: nothing waits where a moment is noted.
//!
//! ```text
//! CPU    the clock, as the host passes          GPU    an event in the stream of ops, as the GPU passes
//! ```
//! A GPU works on what the host has sent long before, so the host's clock says nothing of it.
use super::Device;
use super::cuda::Event;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone)]
pub enum Stamp {
    Host(Instant),
    Gpu(Arc<Event>),
}

impl Stamp {
    /// Waits until the device has passed here.
    pub fn wait(&self) {
        if let Stamp::Gpu(event) = self {
            event.synchronize();
        }
    }
    /// The time from here to `later`. The device has passed both.
    pub fn until(&self, later: &Stamp) -> Duration {
        match (self, later) {
            (Stamp::Host(a), Stamp::Host(b)) => b.saturating_duration_since(*a),
            (Stamp::Gpu(a), Stamp::Gpu(b)) => a.until(b),
            _ => panic!("moments of two devices"),
        }
    }
}

impl Device {
    /// Behind all ops so far.
    pub fn stamp(&self) -> Stamp {
        match self {
            Device::Cuda(d) => Stamp::Gpu(Arc::new(d.moment(false))),
            Device::Cpu(_) | Device::Reference(_) => Stamp::Host(Instant::now()),
        }
    }
    /// Behind all ops, and behind the messages that the next op would come after.
    pub fn stamp_after_messages(&self) -> Stamp {
        match self {
            Device::Cuda(d) => Stamp::Gpu(Arc::new(d.moment(true))),
            Device::Cpu(_) | Device::Reference(_) => Stamp::Host(Instant::now()),
        }
    }
}
