//! Where numbers live and work is done: `enum Device`, a closed set, so that the model needs no generics and each op
//! holds its own `match`.
//!
//! | device | numbers | for |
//! |---|---|---|
//! | [`Cpu`] | f32, or bf16 beside it, or weights in bf16 alone; threads | training |
//! | [`Cuda`] | the same, on a GPU | training |
//! | [`Reference`] | f64, naive loops | tests: finite differences, and what every kernel is held against |
//!
//! The gate [`Arena::op`] checks bounds, that no output overlaps another operand, and that nothing lent to a message or
//! a file ([`Arena::lend`]) is touched meanwhile. `unsafe` lives behind it.
mod arena;
mod copies;
pub mod cuda;
mod gate;
mod memory;
mod ranges;
mod rounding;
mod stamp;
mod tally;
pub mod threads;
mod values;
pub use arena::{Access, Arena, Loan};
pub use cuda::{Cuda, Kept};
pub use memory::{Memory, make_real};
pub use ranges::{Stretch, range};
pub use rounding::Rounding;
pub use stamp::Stamp;
pub use tally::{Note, Part, Row, Tally};
use threads::Threads;
pub use values::{Values, ValuesMut};

use crate::error::Result;
use crate::tensor::{Plan, Tensor};
use half::bf16;
use std::ops::Range;

/// What the operands of a matrix product are rounded to. Sums, norms, softmax and loss are f32 in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Bf16,
    /// 10 bits of mantissa, by the tensor cores themselves: only on GPUs, where all is stored as with fp32.
    Tf32,
}

impl Precision {
    /// As `--precision` has it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Tf32 => "tf32",
        }
    }
    pub fn named(name: &str) -> Option<Precision> {
        [Precision::Fp32, Precision::Bf16, Precision::Tf32].into_iter().find(|p| p.name() == name)
    }
}

pub enum Device {
    Cpu(Box<Cpu>),
    Cuda(Box<Cuda>),
    Reference(Reference),
}

/// f32 in host memory, operands of products also bf16; ops run on the threads that [`Device::install`] brings.
pub struct Cpu {
    pub arena: Arena<f32>,
    pub precision: Precision,
    pub tally: Tally,
    rounding: Option<Rounding>,
    threads: Threads,
}

impl Cpu {
    /// For an update: the place of `w` in the model and the random bits of step `step`; `None`: weights are rounded to nearest.
    pub fn drawn(&self, w: Tensor, step: u64) -> Option<(u64, u32)> {
        self.rounding.as_ref().map(|r| (r.place(w.at), r.draw_of(step)))
    }
    /// Begins the plan of what the device will hold: with bf16, in bf16 what is read by products alone; of an MLP's activation one
    /// block's.
    pub fn plan(precision: Precision) -> Plan {
        Plan::with_halves(precision == Precision::Bf16).making_again()
    }
}

/// f64 in host memory, one thread, loops as in the textbook.
pub struct Reference {
    pub arena: Arena<f64>,
}

impl Device {
    /// Takes the whole plan's memory at once. `cores`: where the threads stay, one each; none: where the system puts them.
    ///
    /// Errors: [`crate::error::Error::Failed`] naming the bytes asked for when the system refuses them.
    pub fn cpu(plan: &Plan, threads: usize, cores: &[usize], precision: Precision) -> Result<Device> {
        Device::cpu_in(None, plan, threads, cores, precision)
    }
    /// The same, with the plan's first tensors in memory that is there already: as many as it holds.
    pub fn cpu_in(front: Option<Memory>, plan: &Plan, threads: usize, cores: &[usize], precision: Precision) -> Result<Device> {
        assert_ne!(precision, Precision::Tf32, "only GPUs multiply in tf32");
        assert!(plan.narrow() == 0 || precision == Precision::Bf16, "products in {precision:?} of weights in bf16");
        let (arena, tally, threads) = (Arena::of(front, plan)?, Tally::with_narrow(plan.narrow()), Threads::new(threads, cores)?);
        Ok(Device::Cpu(Box::new(Cpu { arena, precision, tally, rounding: None, threads })))
    }
    pub fn reference(plan: &Plan) -> Result<Device> {
        Ok(Device::Reference(Reference { arena: Arena::new(plan.len())? }))
    }
    /// Runs `f` (a whole training loop, say) on the device's own threads, so that ops inside find them at hand.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        match self {
            Device::Cpu(cpu) => cpu.threads.install(f),
            Device::Cuda(d) => {
                d.gpu.bind();
                d.threads.install(f)
            }
            Device::Reference(_) => f(),
        }
    }
    /// Notes an op in the device's [`Tally`]; its time ends where the note is dropped.
    pub fn tally(&self, name: &'static str, flops: usize, moved: &[Tensor]) -> Option<Note<'_>> {
        match self {
            Device::Cpu(d) => d.tally.note(name, flops, moved),
            Device::Cuda(d) => d.note(name, flops, moved),
            Device::Reference(_) => None,
        }
    }
    /// Ops are noted as those of this part of the model until the guard is dropped.
    pub fn part(&self, name: &'static str) -> Option<Part<'_>> {
        match self {
            Device::Cpu(d) => d.tally.part(name),
            Device::Cuda(d) => d.tally.part(name),
            Device::Reference(_) => None,
        }
    }
    /// A copy of `t`, as f32.
    pub fn read(&self, t: Tensor) -> Vec<f32> {
        match self {
            Device::Cpu(d) => d.arena.op_either([], [t], |[], [t]| match t {
                Values::F32(t) => t.to_vec(),
                Values::Bf16(t) => t.iter().map(|x| x.to_f32()).collect(),
            }),
            Device::Cuda(d) => d.read(t),
            Device::Reference(d) => d.arena.op([], [t], |[], [t]| t.iter().map(|&v| v as f32).collect()),
        }
    }
    /// Writes `values` into `t`, rounded where it is in bf16. Panics when the lengths differ.
    pub fn write(&self, t: Tensor, values: &[f32]) {
        match self {
            Device::Cpu(d) => d.arena.op_either([t], [], |[t], []| match t {
                ValuesMut::F32(t) => t.copy_from_slice(values),
                ValuesMut::Bf16(t) => {
                    assert_eq!(t.len(), values.len(), "write: lengths");
                    t.iter_mut().zip(values).for_each(|(t, v)| *t = bf16::from_f32(*v));
                }
            }),
            Device::Cuda(d) => d.write(t, values),
            Device::Reference(d) => d.arena.op([t], [], |[t], []| {
                assert_eq!(t.len(), values.len(), "write: lengths");
                t.iter_mut().zip(values).for_each(|(t, v)| *t = f64::from(*v));
            }),
        }
    }
    /// Lends `t` to a message or a file until the loan is dropped; ops that conflict with it are refused meanwhile. f32, or weights
    /// that are bf16 alone: words of two numbers, which can be copied and not summed.
    pub fn lend(&self, t: Tensor, access: Access) -> Loan {
        match self {
            Device::Cpu(d) => d.arena.lend(t, access),
            Device::Cuda(d) => d.lend(t, access),
            Device::Reference(_) => panic!("the reference device sends no messages"),
        }
    }
    /// Lends gradients to be summed, in the type that the device was made for.
    pub fn lend_to_sum(&self, t: Tensor) -> Loan {
        match self {
            Device::Cuda(d) => d.lend_to_sum(t),
            Device::Cpu(d) => {
                assert!(!d.arena.is_narrow(t), "{t:?} is in bf16, and is to be summed");
                self.lend(t, Access::Write)
            }
            Device::Reference(_) => self.lend(t, Access::Write),
        }
    }
    /// Whether weights are bf16 alone.
    pub fn weights_in_bf16(&self) -> bool {
        match self {
            Device::Cpu(d) => d.arena.is_narrow(Tensor::range(0, 1)),
            Device::Cuda(d) => d.weights_in_bf16(),
            Device::Reference(_) => false,
        }
    }
    /// Lends weights as products read them, in bf16, to be written: the weights themselves or their working copies; `None` where there
    /// are neither.
    pub fn lend_copies(&self, t: Tensor) -> Option<Loan> {
        match self {
            Device::Cuda(d) => d.lend_copies(t),
            Device::Cpu(_) | Device::Reference(_) => None,
        }
    }
    /// Lends weights in f32 to whoever completes them as their copies are already.
    pub fn lend_masters(&self, t: Tensor) -> Loan {
        match self {
            Device::Cuda(d) => d.lend_masters(t),
            Device::Cpu(_) | Device::Reference(_) => self.lend(t, Access::Write),
        }
    }
    /// Weights are rounded to bf16 at random from now on, copies or the weights themselves.
    pub fn round_at_random(&mut self, rounding: Rounding) {
        match self {
            Device::Cpu(d) => d.rounding = Some(rounding),
            Device::Cuda(d) => d.round_at_random(rounding),
            Device::Reference(_) => panic!("the reference device does not round"),
        }
    }
    /// So many optimizer steps are behind the weights that are there: copies that are rounded at random are those of that step.
    pub fn begin_after(&self, steps: u64) {
        if let Device::Cuda(d) = self {
            d.begin_after(steps);
        }
    }
    /// Zeros where fresh memory is none.
    pub fn clear(&self, ranges: impl Iterator<Item = Range<usize>>) {
        match self {
            Device::Cuda(d) => ranges.for_each(|r| d.zero(Tensor::range(r.start, r.end))),
            Device::Cpu(_) | Device::Reference(_) => (),
        }
    }
    /// The sum that ops have left on the device since the last call; 0 where they return it at once. Waits for the device.
    pub fn take(&self, which: Kept) -> f64 {
        match self {
            Device::Cuda(d) => d.take(which),
            Device::Cpu(_) | Device::Reference(_) => 0.0,
        }
    }
}
