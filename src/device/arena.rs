//! The memory of a plan, and the gate through which it is read and written.
//!
//! ```text
//! elements  0 … front …… len                     the front may be memory that neighbours share; the rest is our own
//! arena.op([outs…], [ins…], |[out…], [in…]| …)   bounds; outs disjoint from all else; no conflict with a loan; no bf16
//! arena.op_either(…)                             the same, for ops that are written for operands in f32 and in bf16
//! arena.lend(range, access) -> Loan              a message or a file uses the range until the loan is dropped
//! ```
use super::copies::Copies;
use super::cuda::Lent;
use super::gate::{Gate, Loans};
use super::memory::Memory;
use super::values::{Values, ValuesMut};
use crate::error::Result;
use crate::tensor::{Copied, Tensor};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a loan may do with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The borrower reads; ops may read as well.
    Read,
    /// The borrower writes; ops may not touch the range.
    Write,
}

/// Zeroed memory of a plan's length.
pub struct Arena<T> {
    /// Elements `..ahead`, and the rest. No tensor lies in both.
    front: Option<Memory>,
    ahead: usize,
    rest: Memory,
    gate: Gate,
    copies: Option<Copies>,
    elements: PhantomData<T>,
    busy: AtomicBool,
}

// SAFETY: the memory is reached only through `op` (one at a time: `busy`) and through loans, whose ranges `op` refuses.
unsafe impl<T: Send> Send for Arena<T> {}
unsafe impl<T: Send> Sync for Arena<T> {}

/// A range in the hands of a message or a file. Dropping it hands the range back.
pub struct Loan {
    place: Place,
    len: usize,
    access: Access,
    id: u64,
    table: Loans,
}

/// Where the lent elements are.
enum Place {
    Host(*mut f32),
    Gpu(Box<Lent>),
}

// SAFETY: the range is exclusively the loan's (write) or read-only for everyone (read) until it is dropped.
unsafe impl Send for Loan {}

impl<T> Arena<T> {
    pub fn new(len: usize) -> Result<Arena<T>> {
        Arena::new_in(None, len)
    }

    /// The first elements lie in `front`, as many as it holds.
    ///
    /// Errors: the system refuses the memory of the rest.
    pub fn new_in(front: Option<Memory>, len: usize) -> Result<Arena<T>> {
        let ahead = front.as_ref().map_or(0, |front| (front.bytes() / size_of::<T>()).min(len));
        let rest = Memory::private((len - ahead) * size_of::<T>())?;
        let (gate, busy) = (Gate::new(len), AtomicBool::new(false));
        Ok(Arena { front, ahead, rest, gate, copies: None, elements: PhantomData, busy })
    }

    /// Runs one operation: `outs` may be written, `ins` read. Panics when an operand lies outside the arena, when an
    /// output overlaps another operand, when a loan forbids the access, or when an operation is started inside another.
    pub fn op<const O: usize, const I: usize, R>(
        &self,
        outs: [Tensor; O],
        ins: [Tensor; I],
        f: impl FnOnce([&mut [T]; O], [&[T]; I]) -> R,
    ) -> R {
        self.gate.check(&outs, &ins);
        self.written(&outs);
        self.alone(|| {
            // SAFETY: in bounds and disjoint, and loans conflict with none of them (the gate); no other operation is open.
            let outs = outs.map(|t| unsafe { std::slice::from_raw_parts_mut(self.place(t), t.len()) });
            // SAFETY: as above.
            f(outs, ins.map(|t| unsafe { std::slice::from_raw_parts(self.place(t), t.len()) }))
        })
    }

    fn written(&self, outs: &[Tensor]) {
        if let Some(copies) = &self.copies {
            copies.written(outs);
        }
    }

    /// Runs `f` while no other operation is open.
    fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(!self.busy.swap(true, Ordering::Acquire), "an operation may not start inside another");
        let r = f();
        self.busy.store(false, Ordering::Release);
        r
    }

    /// Where `t`, which lies within the arena, begins.
    fn place(&self, t: Tensor) -> *mut T {
        let ahead = self.ahead;
        assert!(t.end() <= ahead || t.at >= ahead, "{t:?} lies across element {ahead}, where other memory begins");
        let (memory, at) = match &self.front {
            Some(front) if t.at < ahead => (front, t.at),
            _ => (&self.rest, t.at - ahead),
        };
        // SAFETY: both hold what has been asserted to lie within them.
        unsafe { memory.base().cast::<T>().add(at) }
    }
}

impl Arena<f32> {
    /// With the copies in bf16 that the plan has.
    pub fn with_copies(self, copied: Option<&Copied>) -> Arena<f32> {
        Arena { copies: copied.cloned().map(Copies::new), ..self }
    }
    /// Where the copy of `t` in bf16 lies, if it has one. An op that writes `t` may write it along.
    pub fn copy_of(&self, t: Tensor) -> Option<Tensor> {
        self.copies.as_ref()?.of(t)
    }
    /// A part of `t` that was written without its copy. The caller copies it before anyone reads.
    pub fn take_stale(&self, t: Tensor) -> Option<Tensor> {
        self.copies.as_ref()?.take_stale(t)
    }

    /// As [`Arena::op`]; operands may be in bf16.
    pub fn op_either<const O: usize, const I: usize, R>(
        &self,
        outs: [Tensor; O],
        ins: [Tensor; I],
        f: impl FnOnce([ValuesMut; O], [Values; I]) -> R,
    ) -> R {
        self.gate.check_places(&outs, &ins);
        self.written(&outs);
        self.alone(|| {
            // SAFETY: as in `op`; an element has room for two numbers in bf16, which may be any bits.
            let outs = outs.map(|t| unsafe {
                match t.half {
                    false => ValuesMut::F32(std::slice::from_raw_parts_mut(self.place(t), t.len())),
                    true => ValuesMut::Bf16(std::slice::from_raw_parts_mut(self.place(t).cast(), t.len())),
                }
            });
            // SAFETY: as above.
            let ins = ins.map(|t| unsafe {
                match t.half {
                    false => Values::F32(std::slice::from_raw_parts(self.place(t), t.len())),
                    true => Values::Bf16(std::slice::from_raw_parts(self.place(t).cast(), t.len())),
                }
            });
            f(outs, ins)
        })
    }

    /// Lends `t`. Panics when an open loan already conflicts with it.
    pub fn lend(&self, t: Tensor, access: Access) -> Loan {
        let id = self.gate.lend(t, access);
        if access == Access::Write {
            self.written(&[t]);
        }
        Loan { place: Place::Host(self.place(t)), len: t.len(), access, id, table: self.gate.loans.clone() }
    }
}

impl Loan {
    pub(super) fn of_gpu(gate: &Gate, t: Tensor, access: Access, lent: Lent) -> Loan {
        let id = gate.lend(t, access);
        Loan { place: Place::Gpu(Box::new(lent)), len: t.len(), access, id, table: gate.loans.clone() }
    }
    /// The range on the GPU, if it lies on one: for libraries that reach it there.
    pub fn on_gpu(&mut self) -> Option<&mut Lent> {
        match &mut self.place {
            Place::Host(_) => None,
            Place::Gpu(lent) => Some(lent),
        }
    }
    /// In host memory; what lies on a GPU is brought there, and brought back when the loan ends.
    fn base(&self) -> *mut f32 {
        match &self.place {
            Place::Host(base) => *base,
            Place::Gpu(lent) => lent.host().cast(),
        }
    }
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn slice(&self) -> &[f32] {
        // SAFETY: the gate keeps writers away while the loan lives.
        unsafe { std::slice::from_raw_parts(self.base(), self.len) }
    }
    pub fn slice_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.access, Access::Write, "a loan for reading is not written");
        // SAFETY: the gate keeps everyone away while the loan lives, and `&mut self` makes this view the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.len) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Place::Gpu(lent) = &mut self.place {
            lent.end(self.access);
        }
        self.table.lock().expect("loans").retain(|(id, ..)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at: usize, cols: usize) -> Tensor {
        Tensor { at, rows: 1, cols, half: false }
    }

    #[test]
    #[should_panic(expected = "operands overlap")]
    fn an_output_may_not_meet_an_input() {
        Arena::<f32>::new(8).unwrap().op([row(0, 4)], [row(3, 2)], |_, _| ());
    }

    #[test]
    #[should_panic(expected = "outside the arena")]
    fn an_operand_lies_inside() {
        Arena::<f32>::new(8).unwrap().op([], [row(6, 3)], |_: [&mut [f32]; 0], _| ());
    }

    #[test]
    #[should_panic(expected = "is in bf16, which this operation does not")]
    fn an_op_for_f32_refuses_bf16() {
        Arena::<f32>::new(8).unwrap().op([], [Tensor { half: true, ..row(0, 4) }], |_: [&mut [f32]; 0], _| ());
    }

    #[test]
    fn operands_in_bf16_lie_where_the_plan_has_them() {
        let arena = Arena::<f32>::new(8).unwrap();
        let half = Tensor { half: true, ..row(2, 4) };
        arena.op_either([half, row(4, 1)], [row(0, 2)], |[x, y], [z]| {
            x.bf16().fill(half::bf16::ONE);
            y.f32().fill(2.0);
            assert_eq!(z.f32(), [0.0; 2]);
        });
        arena.op([], [row(0, 8)], |_: [&mut [f32]; 0], [all]| {
            let two_ones = f32::from_bits(0x3f80_3f80);
            assert_eq!(all, [0.0, 0.0, two_ones, two_ones, 2.0, 0.0, 0.0, 0.0]);
        });
    }

    #[test]
    #[should_panic(expected = "operands overlap")]
    fn an_operand_in_bf16_keeps_to_its_place() {
        let half = Tensor { half: true, ..row(2, 4) };
        Arena::<f32>::new(8).unwrap().op_either([half], [row(3, 2)], |_, _| ());
    }

    #[test]
    fn the_front_is_of_another_memory() {
        let front = Memory::private(4 * size_of::<f32>()).unwrap();
        let base = front.base().cast::<f32>();
        let arena = Arena::<f32>::new_in(Some(front), 8).unwrap();
        arena.op([row(0, 4), row(4, 4)], [], |[a, b], []| {
            assert_eq!(a.as_ptr(), base.cast_const());
            a.fill(1.0);
            b.fill(2.0);
        });
        assert_eq!(arena.lend(row(3, 1), Access::Read).slice(), [1.0]);
        assert_eq!(arena.lend(row(4, 1), Access::Read).slice(), [2.0]);
    }

    #[test]
    #[should_panic(expected = "lies across element 4")]
    fn no_operand_lies_in_both_memories() {
        let front = Memory::private(4 * size_of::<f32>()).unwrap();
        Arena::<f32>::new_in(Some(front), 8).unwrap().op([], [row(3, 2)], |_: [&mut [f32]; 0], _| ());
    }

    #[test]
    #[should_panic(expected = "is lent for Write")]
    fn what_a_message_writes_may_not_be_read() {
        let arena = Arena::<f32>::new(8).unwrap();
        let _loan = arena.lend(row(0, 4), Access::Write);
        arena.op([], [row(2, 1)], |_: [&mut [f32]; 0], _| ());
    }

    #[test]
    fn a_loan_for_reading_lets_ops_read_and_ends_when_dropped() {
        let arena = Arena::<f32>::new(8).unwrap();
        let loan = arena.lend(row(0, 4), Access::Read);
        arena.op([row(4, 4)], [row(0, 4)], |[o], [i]| o.copy_from_slice(i));
        drop(loan);
        arena.op([row(0, 4)], [], |[o], []| o.fill(1.0));
    }
}
