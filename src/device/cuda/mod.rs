//! An NVIDIA GPU: all of a plan's memory in one piece, the kernels of `ops/*.cu`, products by cuBLASLt.
//!
//! ```text
//! library     CUDA's libraries, found at run time       kernels    from text to functions: compiler, cache, module
//! driver      the driver's calls                        products   cuBLASLt: descriptions and algorithms, kept by shape
//! lanes       two streams and the loans between them    uploads    small numbers from the host, on their way
//! cudnn       attention by cuDNN's engines
//! management  energy, power and clock, by NVML
//! places      where a plan's elements lie, in f32 or bf16       versions   which libraries are seen, for --version
//! peaks       what a GPU can do at best, by its name
//! copies      of weights, in bf16                                words      the few numbers by which a step is judged
//! ```
//! An op asks the gate for the addresses of its operands and launches; nothing waits for the GPU but [`Cuda::read`],
//! [`Cuda::take`] and [`Coming::wait`].
//!
//! With bf16, activations are bf16 (statistics and angles are not) and weights have working copies in bf16 (`copies`), or are bf16
//! themselves. Gradients are f32.
mod copies;
pub mod cudnn;
mod driver;
mod kernels;
mod lanes;
mod library;
mod management;
mod peaks;
mod places;
mod products;
mod uploads;
mod versions;
mod words;
pub use driver::{Event, Gpu, count};
pub use kernels::{binary, compile_embeddable, embedded};
pub use lanes::{Lanes, Lent};
pub use library::Library;
pub use management::Management;
pub use peaks::peak_tflops;
pub use products::{Finish, Operand, Product};
pub use versions::versions;
pub use words::{Coming, NUMBERS};

use super::gate::Gate;
use super::threads::Threads;
use super::{Access, Loan, Precision, Rounding, Tally, arena};
use crate::error::Result;
use crate::failed;
use crate::tensor::{Kind, Plan, Tensor};
use driver::Memory;
use half::bf16;
use kernels::Kernels;
use places::Places;
use products::Products;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use uploads::Uploads;
use words::Words;

/// What a model asks of the device beside its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// What lies in bf16, when that is the precision.
    pub activations: Vec<Tensor>,
    /// B·T
    pub rows: usize,
    /// The widest matrix whose columns are summed.
    pub width: usize,
    pub heads: usize,
    /// Columns of a head.
    pub head: usize,
    /// Sums may be added up in any order, where that is faster.
    pub any_order: bool,
    /// Attention row by row, and ops apart that could end a product.
    pub plain: bool,
    pub apart: bool,
    /// Elements of the longest range of gradients that is summed in bf16; 0: sums are in f32.
    pub halved: usize,
    /// Ranks whose numbers meet.
    pub ranks: usize,
}

pub struct Cuda {
    pub gpu: Arc<Gpu>,
    pub precision: Precision,
    /// Whether ops may add up by atomics.
    pub any_order: bool,
    /// Whether attention goes row by row, whatever could serve.
    pub plain: bool,
    /// Whether nothing but a bias ends a product.
    apart: bool,
    pub tally: Tally,
    gate: Gate,
    arena: Memory,
    places: Places,
    /// Working copies in bf16 of the first elements, which are the weights.
    copies: Option<Memory>,
    weights: usize,
    /// The first elements, the weights, are bf16 themselves.
    narrow: usize,
    stale: Mutex<Vec<Range<usize>>>,
    rounding: Option<Rounding>,
    /// Ops so far when copies were lent last: by then their f32 were written.
    lent_copies: AtomicU64,
    /// Gradients in bf16, on their way between GPUs.
    halved: Option<Memory>,
    scratch: Memory,
    words: Words,
    lanes: Arc<Lanes>,
    kernels: Arc<Kernels>,
    products: Products,
    uploads: Uploads,
    /// cuDNN's, with its workspace, where it was prepared.
    attention: Option<(Arc<cudnn::Attention>, Memory)>,
    /// For what the host prepares: first values of weights.
    pub(super) threads: Threads,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub grid: [usize; 3],
    pub block: [usize; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

impl Grid {
    /// One thread for each of `n` pieces of work.
    pub fn over(n: usize) -> Grid {
        Grid { grid: [n.div_ceil(256), 1, 1], block: [256, 1, 1], shared: 0 }
    }
    pub fn new(grid: [usize; 3], block: [usize; 3]) -> Grid {
        Grid { grid, block, shared: 0 }
    }
    /// No rows: no work.
    fn is_empty(self) -> bool {
        self.grid.contains(&0)
    }
}

/// Sums that ops leave on the GPU.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    /// Of the rows' losses.
    Loss,
    /// Of the gradient's squares.
    Squares,
}

/// f32 and f64 as a kernel's argument.
pub fn float(x: f32) -> u64 {
    u64::from(x.to_bits())
}
pub fn double(x: f64) -> u64 {
    x.to_bits()
}

/// Measured by none yet: what NVIDIA recommends for Hopper.
const PRODUCTS: usize = 32 << 20;

/// Where the plan's elements lie.
fn places(plan: &Plan, extent: &Extent, precision: Precision) -> Places {
    assert!(plan.narrow() == 0 || precision == Precision::Bf16, "products in {precision:?} of weights in bf16");
    let in_bf16 = if precision == Precision::Bf16 { &extent.activations[..] } else { &[] };
    Places::new(plan.len(), &[in_bf16, &[Tensor::range(0, plan.narrow())]].concat())
}

/// Bytes of memory that the plan takes.
pub fn planned(plan: &Plan, extent: &Extent, precision: Precision) -> usize {
    places(plan, extent, precision).bytes()
}

/// Bytes of memory that the device takes beside the plan's: working copies, partial sums, uploads, products.
pub fn beside(plan: &Plan, extent: &Extent, precision: Precision) -> usize {
    let copied = precision == Precision::Bf16 && plan.narrow() == 0;
    let copies = if copied { plan.bytes(Kind::Parameters) / 2 } else { 0 };
    copies + 2 * extent.halved + scratch(plan.len(), extent) + PRODUCTS + uploads::bytes(extent.rows) + words::bytes(extent.ranks)
}

/// Blocks of a backward whose partial sums are added up afterwards. As the kernels' comments mean them.
pub const BLOCKS: usize = 512;
pub const STRIPS: usize = 256;

fn scratch(elements: usize, e: &Extent) -> usize {
    let norms = 4 * 2 * BLOCKS * e.width;
    let columns = 4 * STRIPS * e.width;
    let dq = if e.any_order { 4 * e.rows * e.heads * e.head } else { 0 };
    let rows = 4 * e.rows * (e.heads + 2) + 256 + dq;
    let squares = 8 * (elements.div_ceil(16 * 1024) + 4096);
    norms.max(columns).max(rows).max(squares).next_multiple_of(256)
}

impl Cuda {
    /// Takes the memory of the plan and beside it. `binary`: the kernels, compiled for this GPU; `attention`: cuDNN's, where it is
    /// to serve.
    ///
    /// Errors: `Failed`: a library is missing, or the GPU has not so much memory; then the sentence says how much of it is free.
    pub fn new(
        gpu: &Arc<Gpu>,
        plan: &Plan,
        extent: &Extent,
        precision: Precision,
        binary: &[u8],
        attention: Option<Arc<cudnn::Attention>>,
    ) -> Result<Cuda> {
        gpu.bind();
        let lanes = Lanes::new(gpu)?;
        let kernels = Arc::new(Kernels::load(gpu, binary)?);
        let places = places(plan, extent, precision);
        let workspace = attention.as_ref().map_or(0, |attention| attention.workspace);
        let (arena, beside) = (places.bytes(), beside(plan, extent, precision) + workspace);
        let take = |bytes: usize| match Memory::take(gpu, bytes) {
            Some(memory) => Ok(memory),
            None => failed!("{}: expected {} bytes of free memory, found {}", gpu.name, arena + beside, gpu.free()),
        };
        let narrow = plan.narrow();
        let weights = if narrow > 0 { narrow } else { plan.bytes(Kind::Parameters) / 4 };
        let copies = (precision == Precision::Bf16 && narrow == 0).then(|| take(2 * weights)).transpose()?;
        let halved = (extent.halved > 0).then(|| take(2 * extent.halved)).transpose()?;
        let (arena, scratch, words) = (take(arena)?, take(scratch(plan.len(), extent))?, take(words::bytes(extent.ranks))?);
        let products = Products::new(gpu, take(PRODUCTS)?, precision)?;
        let uploads = Uploads::new(gpu, extent.rows, take)?;
        let attention = attention.map(|attention| take(workspace).map(|memory| (attention, memory))).transpose()?;
        // SAFETY: our own memory, all of it.
        unsafe { lanes.compute.fill(words.at, 0, words.bytes) };
        Ok(Cuda {
            gpu: gpu.clone(),
            precision,
            any_order: extent.any_order,
            plain: extent.plain,
            apart: extent.apart,
            tally: Tally::default(),
            gate: Gate::new(plan.len()),
            arena,
            places,
            copies,
            weights,
            narrow,
            stale: Mutex::default(),
            rounding: None,
            lent_copies: AtomicU64::new(0),
            halved,
            scratch,
            words: Words::new(words, extent.ranks),
            lanes,
            kernels,
            products,
            uploads,
            attention,
            threads: Threads::new(1, &[])?,
        })
    }

    /// The same with so many of the host's threads for what it prepares, on these cores.
    ///
    /// Errors: `Failed`: they cannot be started.
    pub fn with_threads(mut self, threads: usize, cores: &[usize]) -> Result<Cuda> {
        self.threads = Threads::new(threads, cores)?;
        Ok(self)
    }

    /// Lets an op pass: the addresses of its operands; an empty one's is null.
    pub fn op<const O: usize, const I: usize>(&self, outs: [Tensor; O], ins: [Tensor; I]) -> ([u64; O], [u64; I]) {
        self.gate.check(&outs, &ins);
        (outs.map(|t| self.place(t)), ins.map(|t| self.to_read(t)))
    }

    fn place(&self, t: Tensor) -> u64 {
        if t.is_empty() { 0 } else { self.arena.at + self.places.of(t).0 as u64 }
    }
    /// Bytes of an element.
    fn size(&self, t: Tensor) -> usize {
        if t.is_empty() { 4 } else { places::size(self.places.of(t).1) }
    }

    /// Notes an op in the [`Tally`]: what it reads of weights are their copies, where there are some.
    pub(super) fn note(&self, name: &'static str, flops: usize, moved: &[Tensor]) -> Option<super::Note<'_>> {
        let copied = self.copies.is_some() && name.starts_with("linear");
        let size = |t: Tensor| if copied && t.at < self.weights { 2 } else { self.size(t) };
        self.tally.note_in(&self.lanes, name, flops, moved, size)
    }

    /// Launches a kernel behind all earlier ops. What a kernel reaches is the GPU's memory, of which Rust knows nothing: the
    /// arguments must be those that its comment lists.
    pub fn launch(&self, name: &'static str, grid: Grid, arguments: &[u64]) {
        if !grid.is_empty() {
            self.kernels.launch(name, grid, arguments, self.lanes.for_op());
        }
    }

    /// A matrix for [`Cuda::multiply`], at the address that the gate gave.
    pub fn operand(&self, t: Tensor, at: u64) -> Operand {
        let is_copy = self.copies.as_ref().is_some_and(|copies| (copies.at..copies.at + copies.bytes as u64).contains(&at));
        Operand { at, rows: t.rows, cols: t.cols, bf16: is_copy || self.size(t) == 2 }
    }

    /// Multiplies behind all earlier ops.
    pub fn multiply(&self, product: &Product) {
        self.products.multiply(product, self.lanes.for_op());
    }

    /// Whether to make `ended` at once, or `plain` and what `rest` launches ([`Products::prefers`]).
    pub fn prefers(&self, ended: &Product, plain: &Product, rest: impl Fn()) -> bool {
        !self.apart && self.products.prefers(ended, plain, rest, self.lanes.for_op())
    }

    /// Attention by cuDNN, behind all earlier ops; false where it was not prepared for this shape.
    pub fn attend(&self, of: &cudnn::Sdpa, outs: [u64; 2], qkv: u64) -> bool {
        let Some((attention, workspace)) = self.attention.as_ref().filter(|(a, _)| a.is_of(of)) else { return false };
        attention.forward(outs, qkv, workspace, self.lanes.for_op());
        true
    }
    /// And its gradient: dqkv, and room for B·T·H numbers; of dy, y, lse and qkv.
    pub fn attend_backward(&self, of: &cudnn::Sdpa, outs: [u64; 2], ins: [u64; 4]) -> bool {
        let Some((attention, workspace)) = self.attention.as_ref().filter(|(a, _)| a.is_of(of)) else { return false };
        attention.backward(outs, ins, workspace, self.lanes.for_op());
        true
    }

    /// Runs a pass over made-up numbers, in which the products that no earlier run has chosen algorithms for time what there is.
    /// What the pass leaves in memory is nothing.
    pub fn tune(&self, pass: impl FnOnce()) {
        self.products.recall();
        self.products.tune(true);
        pass();
        self.products.tune(false);
        self.products.keep();
        self.take(Kept::Loss);
    }
    /// Which algorithms products use, as bytes for [`Cuda::choose`].
    pub fn choices(&self) -> Vec<u8> {
        self.products.choices()
    }
    /// The GPU and the library that they are of; those of another are of no use.
    pub fn choices_of(&self) -> String {
        self.products.of()
    }
    /// cuDNN's attention, where it serves.
    pub fn attention(&self) -> Option<&cudnn::Attention> {
        self.attention.as_ref().map(|(attention, _)| attention.as_ref())
    }
    pub fn choose(&self, choices: &[u8]) {
        self.products.choose(choices);
    }

    /// Numbers for a kernel; they stay until some more have been uploaded.
    pub fn upload(&self, numbers: &[u32]) -> u64 {
        self.uploads.send(&self.gpu, numbers, false, self.lanes.for_op())
    }
    /// The same for numbers that several ops ask for, one soon after the other: sent once.
    pub fn upload_once(&self, numbers: &[u32]) -> u64 {
        self.uploads.send(&self.gpu, numbers, true, self.lanes.for_op())
    }
    /// [`Cuda::upload_once`] for numbers that may be missing: null.
    pub fn upload_some(&self, numbers: Option<&[u32]>) -> u64 {
        numbers.map_or(0, |numbers| self.upload_once(numbers))
    }

    /// Room for partial sums until the op ends. Panics where it was not counted.
    pub fn scratch(&self, bytes: usize) -> u64 {
        assert!(bytes <= self.scratch.bytes, "partial sums of {bytes} bytes in room for {}", self.scratch.bytes);
        self.scratch.at
    }

    /// Zeros in so many bytes of the room that [`Cuda::scratch`] gave.
    pub fn zero_scratch(&self, at: u64, bytes: usize) {
        let (begin, end) = (self.scratch.at, self.scratch.at + self.scratch.bytes as u64);
        assert!(at >= begin && at + bytes as u64 <= end, "{bytes} bytes of scratch");
        // SAFETY: within the scratch, which is this op's.
        unsafe { self.lanes.for_op().fill(at, 0, bytes) };
    }

    pub fn zero(&self, t: Tensor) {
        let ([at], []) = self.op([t], []);
        self.outdate(t);
        // SAFETY: within the arena, and free for this op (the gate).
        unsafe { self.lanes.for_op().fill(at, 0, self.size(t) * t.len()) };
    }
    pub fn copy(&self, y: Tensor, x: Tensor) {
        self.gate.check(&[y], &[x]);
        self.outdate(y);
        let size = self.size(y);
        assert_eq!(size, self.size(x), "copy: {y:?} from {x:?} of other numbers");
        // SAFETY: as above, both.
        unsafe { self.lanes.for_op().copy(self.place(y), self.place(x), size * x.len()) };
    }

    /// A copy on the host. Waits for the GPU.
    pub fn read(&self, t: Tensor) -> Vec<f32> {
        self.gate.check(&[], &[t]);
        if self.size(t) == 4 {
            return self.fetch(self.place(t), t.len());
        }
        self.fetch::<bf16>(self.place(t), t.len()).into_iter().map(bf16::to_f32).collect()
    }
    pub fn write(&self, t: Tensor, values: &[f32]) {
        assert_eq!(t.len(), values.len(), "write: lengths");
        let ([at], []) = self.op([t], []);
        self.outdate(t);
        let halved: Vec<bf16>;
        let (from, bytes) = if self.size(t) == 4 {
            (values.as_ptr().cast(), size_of_val(values))
        } else {
            halved = values.iter().map(|x| bf16::from_f32(*x)).collect();
            (halved.as_ptr().cast(), size_of_val(&halved[..]))
        };
        // SAFETY: within the arena, and free for this op; memory that is not pinned has been read when the call returns.
        unsafe { self.lanes.for_op().upload(at, from, bytes) };
    }

    /// Numbers that lie anywhere on the GPU. Waits for them.
    pub fn fetch<T: Copy + Default>(&self, at: u64, n: usize) -> Vec<T> {
        let mut numbers = vec![T::default(); n];
        if n > 0 {
            // SAFETY: memory of ours on both sides; the stream is waited for before the vector is looked at.
            unsafe { self.lanes.for_op().download(numbers.as_mut_ptr().cast(), at, n * size_of::<T>()) };
            self.lanes.compute.synchronize();
        }
        numbers
    }

    /// Where such sums are added up.
    pub fn kept(&self, which: Kept) -> u64 {
        self.words.kept() + 8 * which as u64
    }
    /// What has been added up since the last call. Waits for the GPU.
    pub fn take(&self, which: Kept) -> f64 {
        let at = self.kept(which);
        let sum = self.fetch::<f64>(at, 1)[0];
        // SAFETY: our own eight bytes.
        unsafe { self.lanes.for_op().fill(at, 0, 8) };
        sum
    }

    /// A place behind all earlier ops, of which the GPU will know when it was there; with `after_messages`, behind what the next op
    /// would come after.
    pub fn moment(&self, after_messages: bool) -> Event {
        self.lanes.moment(after_messages)
    }

    /// Where all ranks' numbers lie, and of how many ranks.
    pub fn words(&self) -> (u64, usize) {
        (self.words.all(), self.words.ranks())
    }
    /// Where AdamW finds the factor of the gradient, and behind it the word by which it does nothing.
    pub fn verdict(&self) -> u64 {
        self.words.verdict()
    }
    /// All ranks' numbers, for a message.
    pub fn lend_words(&self) -> Loan {
        self.words.lend(&self.lanes)
    }
    /// All ranks' numbers, on their way to the host behind all earlier ops.
    pub fn bring_words(&self) -> Coming {
        self.words.bring(&self.lanes)
    }

    pub fn lend(&self, t: Tensor, access: Access) -> Loan {
        let in_bf16 = t.end() <= self.narrow;
        assert!(in_bf16 || self.size(t) == 4, "{t:?} is lent, but not in f32");
        if access == Access::Write {
            self.outdate(t);
        }
        let words = arena::words(t, in_bf16);
        Loan::of_gpu(&self.gate, t, words, access, Lent::new(self.place(t), 4 * words, &self.lanes))
    }
    pub fn lend_to_sum(&self, t: Tensor) -> Loan {
        assert!(t.at >= self.narrow, "{t:?} is in bf16, and is to be summed");
        let Some(room) = &self.halved else { return self.lend(t, Access::Write) };
        assert!(2 * t.len() <= room.bytes && self.size(t) == 4, "{t:?} in bf16 in {} bytes", room.bytes);
        let lent = Lent::new(self.place(t), 4 * t.len(), &self.lanes).halved(room.at, &self.kernels);
        Loan::of_gpu(&self.gate, t, t.len(), Access::Write, lent)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.gpu.bind();
        self.lanes.compute.synchronize();
        self.lanes.communication.synchronize();
    }
}
