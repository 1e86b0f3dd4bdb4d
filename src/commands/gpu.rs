//! Whether a run has GPUs, which is whose, and what must fit into their memory.
//!
//! ```text
//! --device cpu     none                     auto   one for each rank, where every rank finds one that can be used
//! --device cuda    one for each rank, or the end of the run, with the sentence that says what is missing
//!
//! rank 0: kernels from the cache, or compiled ── broadcast ──> all: a thousand ranks do not compile
//!         plans of cuDNN's attention         ── broadcast ──> all, whose memory holds their workspace, counted first
//! ```
use crate::checkpoint::{Attended, Progress};
use crate::comm::Network;
use crate::commands::attention::{Again, CANNOT, WITHIN, again};
use crate::commands::count;
use crate::config::{self, Carrier, DeviceKind, Run};
use crate::device::Device;
use crate::device::Precision;
use crate::device::cuda::cudnn::{self, Attention, Sdpa};
use crate::device::cuda::{self, Cuda, Extent, Gpu};
use crate::error::{Error, Result};
use crate::launch::{Launch, Seat};
use crate::metrics::{memory, units};
use crate::model::{Decoder, Input};
use crate::ops::gemm::Into;
use crate::tensor::{Kind, Plan};
use crate::{bad_input, failed};
use std::sync::Arc;
use std::time::Duration;

/// A rank's GPU, and the kernels that were compiled for it.
pub struct Chosen {
    gpu: Arc<Gpu>,
    kernels: Vec<u8>,
    /// cuDNN's; none: our own kernels'.
    attention: Option<Arc<Attention>>,
    /// Every rank's, by where it sits.
    pub seats: Vec<Seat>,
    /// What is said of it before the first step.
    pub words: String,
}

/// The GPU of this rank, if the run is to have any. All ranks decide alike.
///
/// Errors, on all ranks: `Input`: a GPU was asked for, and something is missing on one of them; there is none, and the CPU
/// cannot do what was asked for.
pub fn choose(run: &Run, launch: &Launch) -> Result<Option<Chosen>> {
    if run.system.device == DeviceKind::Cpu {
        return Ok(None); // what it cannot do has been refused
    }
    let found = launch.agree(Gpu::of(launch.local_rank));
    let chosen = found.and_then(|gpu| with_kernels(run, launch, gpu));
    match chosen {
        Ok(chosen) => Ok(Some(chosen)),
        Err(e) if run.system.device == DeviceKind::Cuda => Err(unusable(run, e)),
        Err(e) => {
            // A machine without GPUs is nothing to speak of; one whose GPU is of no use is.
            if launch.leads() && cuda::count().is_ok_and(|n| n > 0) {
                log::warn!("training on the CPU, although there is a GPU: {e}");
            }
            log::debug!("no GPU: {e}");
            run.validate_on_cpu()?;
            Ok(None)
        }
    }
}

fn with_kernels(run: &Run, launch: &Launch, gpu: Arc<Gpu>) -> Result<Chosen> {
    launch.same_everywhere("the architecture of the GPU", &gpu.architecture())?;
    let kernels = if launch.leads() { cuda::binary(&gpu, run.system.precision) } else { Ok(vec![]) };
    let kernels = launch.comm().broadcast(launch.agree(kernels)?, 0);
    let seats = launch.seats(&gpu.bus);
    let words = format!("GPU {} ({}), {} of memory", gpu.name, gpu.architecture(), units::bytes(gpu.memory as u64));
    Ok(Chosen { gpu, kernels, attention: None, words, seats })
}

/// Share of a GPU's memory that cuDNN's workspace may take where nobody asked for cuDNN: with long sequences its deterministic
/// backward wants more than it can be worth. Measured by none.
const MOST_WORKSPACE: u64 = 8;

/// The attention of one pass of a model.
fn sdpa(model: &Decoder) -> Sdpa {
    let (c, shape) = (model.config(), model.shape());
    Sdpa { batch: shape.micro_batch, heads: c.heads, kv_heads: c.kv_heads, seq: shape.seq, size: c.head_dim }
}

/// Plans by rank 0, made or kept, loaded by all.
fn load(launch: &Launch, gpu: &Arc<Gpu>, of: Sdpa, kept: Option<cudnn::Plans>) -> Result<Attention> {
    let make = || match &kept {
        Some(plans) => Ok(plans.to_bytes()),
        None => Ok(cudnn::Plans::make(&of, &cudnn::Target::here()?)?.to_bytes()),
    };
    let plans = launch.agree(if launch.leads() { make() } else { Ok(vec![]) })?;
    let plans = launch.comm().broadcast(plans, 0);
    let plans = cudnn::Plans::from_bytes(&plans).expect("rank 0 made them");
    launch.agree(Attention::load(of, &plans, gpu))
}

/// What a model asks of a GPU beside its plan.
pub fn extent(model: &Decoder, ranks: usize) -> Extent {
    let (c, shape) = (model.config(), model.shape());
    let width = c.width.max(c.up_rows()).max(c.heads(1).width());
    let (rows, heads, head) = (shape.micro_batch * shape.seq, c.heads, c.head_dim);
    Extent { activations: model.activations(), rows, width, heads, head, ranks, ..Extent::default() }
}

/// What a training run asks of a GPU beside its plan.
fn extent_of(run: &Run, model: &Decoder, ranks: usize) -> Extent {
    // One rank reduces nothing, unless it was asked to.
    let reduces = ranks > 1 || run.system.comm == Carrier::Nccl;
    let longest = model.groups().iter().map(|g| g.grads.len()).max().unwrap_or(0);
    let halved = if run.system.reduce_bf16 && reduces { longest } else { 0 };
    let plain = run.system.attention == config::Attention::Plain;
    let (any_order, apart) = (run.system.nondeterministic, !run.system.fused);
    Extent { halved, any_order, plain, apart, ..extent(model, ranks) }
}

/// The rows of the memory table of a rank whose attention takes so much workspace.
pub fn rows(run: &Run, plan: &Plan, model: &Decoder, ranks: usize, workspace: u64) -> Vec<(&'static str, u64)> {
    let kind = |kind: Kind| plan.bytes(kind) as u64;
    let (extent, precision) = (extent_of(run, model, ranks), run.system.precision);
    let planned = cuda::planned(plan, &extent, precision) as u64;
    let (parameters, gradients, optimizer) = (kind(Kind::Parameters), kind(Kind::Gradients), kind(Kind::Optimizer));
    vec![
        ("parameters", parameters),
        ("gradients", gradients),
        ("optimizer", optimizer),
        ("activations", planned - parameters - gradients - optimizer),
        ("device", cuda::beside(plan, &extent, precision) as u64 + workspace),
    ]
}

/// Whether cuDNN's attention can serve a run.
fn serves(run: &Run, of: &Sdpa) -> bool {
    run.system.precision == Precision::Bf16 && cudnn::serves(of) && !run.data.reset_attention
}

/// Bytes that cuDNN's attention is expected to take on a GPU of `memory` bytes, before it is asked: the gradient of the scores, which
/// a deterministic backward keeps, 2 B H T².
pub fn expected_workspace(run: &Run, model: &Decoder, memory: u64) -> u64 {
    let of = sdpa(model);
    let whole = 2 * (of.batch * of.heads * of.seq * of.seq) as u64;
    match run.system.attention {
        config::Attention::Own | config::Attention::Plain => 0,
        _ if !serves(run, &of) => 0,
        config::Attention::Cudnn => whole,
        config::Attention::Auto => whole.min(memory / MOST_WORKSPACE),
    }
}

/// This rank's GPU, before kernels are asked for; `None` where the run has none.
///
/// Errors, on all ranks: `Input`: a GPU was asked for, and is not there.
pub fn of_rank(run: &Run, launch: &Launch) -> Result<Option<Arc<Gpu>>> {
    if run.system.device == DeviceKind::Cpu {
        return Ok(None);
    }
    match launch.agree(Gpu::of(launch.local_rank)) {
        Ok(gpu) => Ok(Some(gpu)),
        Err(e) if run.system.device == DeviceKind::Cuda => Err(unusable(run, e)),
        Err(_) => Ok(None),
    }
}

/// Bytes that are free for this rank on its GPU, which others may share, and those that the GPU has; `None` where the run has none.
/// Everyone looks before anyone takes.
///
/// Errors, on all ranks: `Input`: a GPU was asked for, and is not there.
pub fn room(run: &Run, launch: &Launch) -> Result<Option<(f64, u64)>> {
    let Some(gpu) = of_rank(run, launch)? else { return Ok(None) };
    let seats = launch.seats(&gpu.bus);
    let on_this = |rank: &usize| seats[*rank].bus == gpu.bus && launch.ranks[*rank].host == launch.host();
    let sharing = (0..launch.size()).filter(on_this).count();
    Ok(Some((gpu.free() as f64 / sharing as f64, gpu.memory as u64)))
}

fn unusable(run: &Run, e: Error) -> Error {
    Error::Input(format!("{}: expected a GPU that can be used, found: {e}", run.settings.named("system.device")))
}

impl Chosen {
    /// Decides what computes attention, and says so: what did in the run that is gone on with, where it can. All ranks decide alike.
    ///
    /// Errors, on all ranks: cuDNN was asked for, and does not serve (`Input`), is missing or has no engine (`Failed`).
    pub fn with_attention(mut self, run: &Run, launch: &Launch, model: &Decoder, stored: Option<&Attended>) -> Result<Chosen> {
        let (asked, of) = (run.system.attention, sdpa(model));
        let serves = serves(run, &of);
        let must = asked == config::Attention::Cudnn;
        if must && !serves {
            let name = run.settings.named("system.attention");
            let precision = run.system.precision_name();
            let apart = if run.data.reset_attention { ", documents kept apart" } else { "" };
            bad_input!(
                "{name}: expected bf16, heads of 64 or 128 columns and documents that are not kept apart, found {precision}, \
                 heads of {}{apart}",
                of.size
            );
        }
        let leads = launch.leads();
        let (again, why) = if leads { again(stored, asked, serves, &self.gpu.name, of) } else { (Again::Anew, None) };
        why.iter().for_each(|why| log::warn!("{why}"));
        let kept = launch.comm().broadcast(again.to_bytes(), 0);
        let own = matches!(asked, config::Attention::Own | config::Attention::Plain);
        if own || !serves || kept == Again::Own.to_bytes() {
            let how = if asked == config::Attention::Plain { ", row by row" } else { "" };
            self.words += &format!("\nattention by our own kernels{how}");
            return Ok(self);
        }
        if kept != Again::Anew.to_bytes() {
            match load(launch, &self.gpu, of, again.plans()) {
                Ok(a) => {
                    let workspace = units::bytes(a.workspace as u64);
                    self.words += &format!("\nattention by {}, {workspace} of workspace, with the checkpoint's plans", a.words());
                    self.attention = Some(Arc::new(a));
                    return Ok(self);
                }
                Err(e) if leads => log::warn!("{CANNOT}: cuDNN does not take its plans ({e}); {WITHIN}"),
                Err(_) => (),
            }
        }
        let most = self.gpu.memory as u64 / MOST_WORKSPACE;
        let told = match load(launch, &self.gpu, of, None) {
            Err(e) if must => return Err(e),
            Err(e) => format!("our own kernels: {e}"),
            Ok(a) if !must && a.workspace as u64 > most => {
                format!("our own kernels: {} would take {} of workspace", a.words(), units::bytes(a.workspace as u64))
            }
            Ok(a) => {
                let words = format!("{}, {} of workspace", a.words(), units::bytes(a.workspace as u64));
                self.attention = Some(Arc::new(a));
                words
            }
        };
        self.words += &format!("\nattention by {told}");
        Ok(self)
    }

    pub fn name(&self) -> &str {
        &self.gpu.name
    }
    /// What carries tensors between the ranks' GPUs; none: MPI, through the hosts.
    ///
    /// Errors: `Failed`, on all ranks: NCCL was asked for, and is missing or fails.
    pub fn network(&self, run: &Run, launch: &Launch) -> Result<Option<Network>> {
        // Two ranks on one GPU are refused by NCCL.
        let together = !launch.alone(&self.seats);
        let bf16 = run.system.reduce_bf16;
        if bf16 && together {
            let name = run.settings.named("system.reduce");
            bad_input!("{name}: expected f32 where ranks share a GPU and MPI carries gradients, found bf16");
        }
        let needless = run.system.comm == Carrier::Auto && (together || launch.size() == 1);
        if needless || run.system.comm == Carrier::Mpi {
            return Ok(None);
        }
        let patience = Duration::from_secs(run.system.patience);
        match launch.agree(Network::join(launch.comm(), &self.gpu, patience)) {
            Ok(network) => Ok(Some(network)),
            Err(e) if run.system.comm == Carrier::Nccl || bf16 => Err(e), // MPI sums f32
            Err(e) => {
                if launch.leads() {
                    log::warn!("gradients go through the hosts' memory, which is slower than between GPUs: {e}");
                }
                Ok(None)
            }
        }
    }

    /// The rows of the memory table.
    pub fn rows(&self, run: &Run, plan: &Plan, model: &Decoder) -> Vec<(&'static str, u64)> {
        let workspace = self.attention.as_ref().map_or(0, |a| a.workspace_of(model.shape().micro_batch));
        rows(run, plan, model, self.seats.len(), workspace as u64)
    }

    /// Takes the memory, which is counted first.
    ///
    /// Errors: `Failed`, with the table of what would be needed and the largest micro-batch that would fit.
    pub fn open(&self, run: &Run, launch: &Launch, plan: &Plan, model: &Decoder) -> Result<Device> {
        let needs = |plan: &Plan, model: &Decoder| self.rows(run, plan, model).iter().map(|(_, bytes)| bytes).sum::<u64>();
        let (needed, free) = (needs(plan, model), self.gpu.free() as u64);
        if needed > free {
            let fits = |micro_batch: usize| {
                let mut smaller = run.clone();
                smaller.batch.micro_batch = micro_batch;
                let (plan, model, ..) = count::lay_out_on_gpu(&smaller, launch.rank(), launch.size());
                needs(&plan, &model) <= free
            };
            let largest = largest_below(run.batch.micro_batch, fits);
            let instead = match largest {
                0 => "not even --micro-batch 1 would fit".into(),
                n => format!("--micro-batch {n} would fit"),
            };
            let said = too_little(&self.gpu, needed).unwrap_or_default();
            failed!("{said}; {instead}\n{}", memory::table(&self.rows(run, plan, model), None));
        }
        let precision = run.system.precision;
        let extent = extent_of(run, model, self.seats.len());
        let device = Cuda::new(&self.gpu, plan, &extent, precision, &self.kernels, self.attention.clone())?;
        let device = device.with_threads(launch.threads, launch.own_cores())?;
        Ok(Device::Cuda(Box::new(device)))
    }
}

/// What is said where a GPU has less memory than is needed.
pub fn too_little(gpu: &Gpu, needed: u64) -> Option<String> {
    let free = gpu.free() as u64;
    let [expected, found] = [needed, free].map(units::bytes);
    (needed > free).then(|| format!("{}: expected {expected} of free memory, found {found}", gpu.name))
}

/// The same algorithms for products on all ranks: those of the run that is gone on with, or those that rank 0 finds fastest.
pub fn choose_products(launch: &Launch, dev: &Device, model: &Decoder, stored: Option<&Progress>) {
    let Device::Cuda(gpu) = dev else { return };
    if launch.leads() {
        let stored = stored.filter(|progress| !progress.products.is_empty());
        let here = gpu.choices_of();
        let (same, other): (Option<&Progress>, _) = match stored {
            Some(progress) if [here.as_str(), ""].contains(&progress.products_of.as_str()) => (stored, None),
            other => (None, other),
        };
        if let Some(Progress { products_of, .. }) = other {
            log::warn!(
                "matrix products cannot be repeated as the checkpoint has them: they are of {products_of}, here is {here}; {WITHIN}"
            );
        }
        match same {
            Some(progress) => gpu.choose(&from_hex(&progress.products)),
            None => {
                let rows = model.shape().micro_batch * model.shape().seq;
                let tokens: Vec<u32> = (0..rows).map(|i| (i % model.config().vocab) as u32).collect();
                let input = Input { tokens: &tokens, targets: &tokens, starts: None, positions: None };
                // a step's first micro-batch, and those after it
                gpu.tune(|| {
                    for mut into in [Into::Overwrite, Into::Add] {
                        model.forward_backward(dev, &input, 1.0, &mut into);
                    }
                });
            }
        }
    }
    gpu.choose(&launch.comm().broadcast(gpu.choices(), 0));
}

/// The algorithms that products use, for a checkpoint.
pub fn products(dev: &Device) -> String {
    match dev {
        Device::Cuda(gpu) => gpu.choices().iter().map(|b| format!("{b:02x}")).collect(),
        Device::Cpu(_) | Device::Reference(_) => String::new(),
    }
}

/// The GPU and the library that these are of.
pub fn products_of(dev: &Device) -> String {
    match dev {
        Device::Cuda(gpu) => gpu.choices_of(),
        Device::Cpu(_) | Device::Reference(_) => String::new(),
    }
}

/// What [`products`] wrote; ends where that does not go on.
fn from_hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map_while(byte).collect()
}

/// The largest number below `limit` that fits, where all smaller ones do; 0: none.
fn largest_below(limit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut yes, mut no) = (0, limit);
    while no - yes > 1 {
        let middle = usize::midpoint(yes, no);
        if fits(middle) { yes = middle } else { no = middle }
    }
    yes
}

#[cfg(test)]
mod tests {
    use super::{from_hex, largest_below};

    #[test]
    fn bytes_survive_a_checkpoint() {
        assert_eq!(from_hex("00ff10"), [0, 255, 16]);
        assert_eq!(from_hex("0aZZ"), [10]);
    }

    #[test]
    fn the_largest_that_fits_is_found() {
        for most in 0..9 {
            assert_eq!(largest_below(9, |n| n <= most), most);
        }
    }
}
