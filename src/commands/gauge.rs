//! What rank 0's GPU draws, how fast it runs and what its memory holds, looked at once a second at most: to ask takes the driver's time.
use crate::device::Device;
use crate::device::cuda::{Gpu, Management};
use crate::metrics::{GpuReading, StepRecord};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// NVML averages power over about as long.
const EVERY: Duration = Duration::from_secs(1);

pub struct Gauge {
    gpu: Arc<Gpu>,
    management: Option<Management>,
    looked: Option<Instant>,
    read: GpuReading,
}

impl Gauge {
    /// `None` without a GPU.
    pub fn of(dev: &Device) -> Option<Gauge> {
        let Device::Cuda(d) = dev else { return None };
        let management = Management::of(&d.gpu);
        if let Err(e) = &management {
            log::warn!("power and clock of the GPU are not known: {e}");
        }
        Some(Gauge { gpu: d.gpu.clone(), management: management.ok(), looked: None, read: GpuReading::default() })
    }

    /// The step with what was read last.
    pub fn with(&mut self, step: &StepRecord) -> StepRecord {
        if self.looked.is_none_or(|then| then.elapsed() >= EVERY) {
            self.looked = Some(Instant::now());
            self.gpu.bind();
            let used = (self.gpu.memory - self.gpu.free()) as f64;
            let from = self.management.as_ref();
            self.read = GpuReading {
                power: from.and_then(Management::watts),
                clock: from.and_then(Management::clock),
                memory: Some(self.read.memory.map_or(used, |before| before.max(used))),
            };
        }
        StepRecord { gpu: self.read, ..*step }
    }
}
