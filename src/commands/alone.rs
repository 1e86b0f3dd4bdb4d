//! The device of a command that runs as one process, without MPI: `eval` and `generate`.
//!
//! ```text
//! --device cpu     threads         auto   a GPU where one can be used, else threads
//! --device cuda    a GPU, or one sentence that says what is missing, and exit code 2
//! ```
use crate::commands::{gpu, kernels};
use crate::config::BF16_TRUE;
use crate::device::cuda::{self, Cuda, Extent, Gpu};
use crate::device::{Cpu, Device, Precision};
use crate::error::{Error, Result};
use crate::launch::{cores, usable_cores};
use crate::tensor::Plan;
use crate::{bad_input, failed};
use std::sync::Arc;

/// Where the work will be done, once it is known what it needs.
pub struct Alone {
    gpu: Option<Arc<Gpu>>,
    precision: Precision,
    weights_bf16: bool,
    threads: usize,
}

/// What `--device` may be.
pub const DEVICES: [&str; 3] = ["auto", "cpu", "cuda"];
/// And `--precision`.
pub const PRECISIONS: [&str; 3] = ["fp32", "bf16", BF16_TRUE];

impl Alone {
    /// From the words of `--device`, `--precision` and `--threads`.
    ///
    /// Errors: `Input`: a GPU is asked for, and there is none that can be used.
    pub fn choose(device: &str, precision: &str, threads: Option<u16>) -> Result<Alone> {
        let found = if device == "cpu" { None } else { Some(Gpu::of(0)) };
        let gpu = match found {
            Some(Err(e)) if device == "cuda" => bad_input!("--device: expected a GPU that can be used, found: {e}"),
            Some(Err(e)) => {
                // A machine without GPUs is nothing to speak of; one whose GPU is of no use is.
                if cuda::count().is_ok_and(|n| n > 0) {
                    log::warn!("on the CPU, although there is a GPU: {e}");
                }
                None
            }
            Some(Ok(gpu)) => Some(gpu),
            None => None,
        };
        let weights_bf16 = precision == BF16_TRUE;
        let precision = if weights_bf16 || precision == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
        Ok(Alone { gpu, precision, weights_bf16, threads: threads.map_or_else(usable_cores, usize::from) })
    }

    /// The GPU's name, or the processor's.
    pub fn name(&self) -> String {
        self.gpu.as_ref().map_or_else(cores::processor, |gpu| gpu.name.clone())
    }
    /// Begins the plan of what will lie in memory. A GPU keeps bf16 its own way.
    pub fn plan(&self) -> Plan {
        let plan = if self.gpu.is_some() { Plan::for_gpu() } else { Cpu::plan(self.precision) };
        plan.with_weights_in_bf16(self.weights_bf16)
    }

    /// Takes the memory, which is counted first. What the model asks of a GPU beside its plan is `extent`.
    ///
    /// Errors: `Input`: there is not so much memory, or a library is missing.
    pub fn open(&self, plan: &Plan, extent: &Extent) -> Result<Device> {
        self.take(plan, extent).map_err(Error::before_work)
    }

    fn take(&self, plan: &Plan, extent: &Extent) -> Result<Device> {
        let Some(gpu) = &self.gpu else {
            kernels::choose(self.precision, None)?;
            return Device::cpu(plan, self.threads, &[], self.precision);
        };
        let needed = cuda::planned(plan, extent, self.precision) + cuda::beside(plan, extent, self.precision);
        if let Some(e) = gpu::too_little(gpu, needed as u64) {
            failed!("{e}");
        }
        let kernels = cuda::binary(gpu, self.precision)?;
        Ok(Device::Cuda(Box::new(Cuda::new(gpu, plan, extent, self.precision, &kernels, None)?.with_threads(self.threads, &[])?)))
    }
}
