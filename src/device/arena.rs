//! The memory of a plan, and the gate through which it is read and written.
//!
//! ```text
//! elements  0 … front …… len                     the front may be memory that neighbours share; the rest is our own
//! arena.op([outs…], [ins…], |[out…], [in…]| …)   bounds; outs disjoint from all else; no conflict with a loan; no bf16
//! arena.op_either(…)                             the same, for ops that are written for operands in f32 and in bf16
//! arena.lend(range, access) -> Loan              a message or a file uses the range until the loan is dropped
//! ```
//! An element is a `T`. Weights that are bf16 alone ([`Plan::weights`]) are an element each too, of two bytes, before all others.
use super::copies::Copies;
use super::cuda::Lent;
use super::gate::{Gate, Loans};
use super::memory::Memory;
use super::values::{Values, ValuesMut};
use crate::error::Result;
use crate::tensor::{Plan, Tensor};
use half::bf16;
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
    /// Elements `..narrow` are bf16.
    narrow: usize,
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
        Arena::with_narrow(front, len, 0)
    }

    fn with_narrow(front: Option<Memory>, len: usize, narrow: usize) -> Result<Arena<T>> {
        let room = front.as_ref().map_or(0, Memory::bytes);
        let in_bf16 = narrow.min(room / size_of::<bf16>());
        let ahead = (in_bf16 + (room - byte::<T>(in_bf16, narrow)) / size_of::<T>()).min(len);
        assert!(ahead >= narrow || ahead == 0, "{ahead} of {narrow} elements in bf16 ahead of the others");
        let rest = Memory::private(byte::<T>(len, narrow) - byte::<T>(ahead, narrow))?;
        let (gate, busy) = (Gate::new(len), AtomicBool::new(false));
        Ok(Arena { front, ahead, rest, narrow, gate, copies: None, elements: PhantomData, busy })
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
        if let Some(t) = outs.iter().chain(&ins).find(|t| self.is_narrow(**t)) {
            panic!("{t:?} is in bf16, which this operation does not read or write");
        }
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
        let (ahead, narrow) = (self.ahead, self.narrow);
        assert!(t.end() <= ahead || t.at >= ahead, "{t:?} lies across element {ahead}, where other memory begins");
        assert!(t.end() <= narrow || t.at >= narrow, "{t:?} lies across element {narrow}, where bf16 ends");
        let (memory, first) = match &self.front {
            Some(front) if t.at < ahead => (front, 0),
            _ => (&self.rest, byte::<T>(ahead, narrow)),
        };
        // SAFETY: both hold what has been asserted to lie within them.
        unsafe { memory.base().add(byte::<T>(t.at, narrow) - first).cast() }
    }

    /// Whether `t` is of the elements that are bf16.
    pub fn is_narrow(&self, t: Tensor) -> bool {
        t.at < self.narrow && !t.is_empty()
    }
}

/// Where an element begins, the first `narrow` being bf16.
fn byte<T>(at: usize, narrow: usize) -> usize {
    at.min(narrow) * size_of::<bf16>() + at.saturating_sub(narrow) * size_of::<T>()
}

impl Arena<f32> {
    /// Of a plan, with what it has in bf16: weights, or copies of them. As much as `front` holds lies there.
    ///
    /// Errors: the system refuses the memory of the rest.
    pub fn of(front: Option<Memory>, plan: &Plan) -> Result<Arena<f32>> {
        let arena = Arena::with_narrow(front, plan.len(), plan.narrow())?;
        Ok(Arena { copies: plan.copied().cloned().map(Copies::new), ..arena })
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
                match t.half || self.is_narrow(t) {
                    false => ValuesMut::F32(std::slice::from_raw_parts_mut(self.place(t), t.len())),
                    true => ValuesMut::Bf16(std::slice::from_raw_parts_mut(self.place(t).cast(), t.len())),
                }
            });
            // SAFETY: as above.
            let ins = ins.map(|t| unsafe {
                match t.half || self.is_narrow(t) {
                    false => Values::F32(std::slice::from_raw_parts(self.place(t), t.len())),
                    true => Values::Bf16(std::slice::from_raw_parts(self.place(t).cast(), t.len())),
                }
            });
            f(outs, ins)
        })
    }

    /// Lends `t`, in words of four bytes: to be copied where it is bf16. Panics when an open loan already conflicts with it.
    pub fn lend(&self, t: Tensor, access: Access) -> Loan {
        let id = self.gate.lend(t, access);
        if access == Access::Write {
            self.written(&[t]);
        }
        let len = words(t, self.is_narrow(t));
        Loan { place: Place::Host(self.place(t)), len, access, id, table: self.gate.loans.clone() }
    }
}

/// Of four bytes each, in which `t` lies.
pub(super) fn words(t: Tensor, in_bf16: bool) -> usize {
    assert!(!in_bf16 || t.at.is_multiple_of(2) && t.len().is_multiple_of(2), "{t:?} in bf16 is no whole number of words");
    if in_bf16 { t.len() / 2 } else { t.len() }
}

impl Loan {
    /// `len`: of what the borrower counts in, words of four bytes or numbers in bf16.
    pub(super) fn of_gpu(gate: &Gate, t: Tensor, len: usize, access: Access, lent: Lent) -> Loan {
        let id = gate.lend(t, access);
        Loan { place: Place::Gpu(Box::new(lent)), len, access, id, table: gate.loans.clone() }
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
    use crate::tensor::Kind;

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

    fn with_weights(front: Option<Memory>) -> Arena<f32> {
        let mut plan = Plan::with_halves(true).with_weights_in_bf16(true);
        plan.vector(Kind::Parameters, 64);
        plan.weights();
        plan.vector(Kind::Gradients, 64);
        plan.vector(Kind::Optimizer, 64);
        Arena::of(front, &plan).unwrap()
    }

    /// In one memory, and with weights and gradients in a front.
    #[test]
    fn weights_in_bf16_are_an_element_each_and_are_lent_as_words() {
        for front in [None, Some(Memory::private(2 * 64 + 4 * 64).unwrap())] {
            let arena = with_weights(front);
            arena.op_either([row(0, 64), row(64, 64), row(128, 64)], [], |[w, g, m], []| {
                let (w, g) = (w.bf16(), g.f32());
                assert_eq!(w.as_ptr_range().end.cast(), g.as_ptr(), "gradients follow at two bytes a weight");
                w.fill(half::bf16::ONE);
                g.fill(2.0);
                m.f32().fill(3.0);
            });
            let two_ones = f32::from_bits(0x3f80_3f80);
            let lent = arena.lend(row(32, 16), Access::Write);
            assert_eq!(lent.slice(), [two_ones; 8]);
            drop(lent);
            assert_eq!(arena.lend(row(96, 4), Access::Read).slice(), [2.0; 4]);
            arena.op([], [row(128, 64)], |_: [&mut [f32]; 0], [m]| assert_eq!(m, [3.0; 64]));
        }
    }

    #[test]
    #[should_panic(expected = "is in bf16, which this operation does not")]
    fn an_op_for_f32_refuses_weights_in_bf16() {
        with_weights(None).op([], [row(0, 4)], |_: [&mut [f32]; 0], _| ());
    }

    #[test]
    #[should_panic(expected = "lies across element 64, where bf16 ends")]
    fn no_operand_is_of_both_kinds() {
        with_weights(None).op_either([], [row(62, 4)], |_, _| ());
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
