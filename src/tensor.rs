//! Count first, allocate once: [`Plan`] gives out [`Tensor`] handles while it counts; a device then takes the whole
//! arena in one piece.
//!
//! ```text
//! let mut plan = Plan::default();
//! let x = plan.matrix(Kind::Activations, rows, cols);   // a place, not yet memory
//! println!("{}", plan.bytes(Kind::Activations));
//! let dev = Device::cpu(&plan, threads, &cores, precision)?;    // now it is memory, or a sentence saying what did not fit
//! ```
use std::ops::Range;

/// What a tensor is for: the rows of the memory table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Parameters,
    Gradients,
    Optimizer,
    Activations,
    Workspace,
    /// Staging of messages between ranks.
    Communication,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Parameters, Kind::Gradients, Kind::Optimizer, Kind::Activations, Kind::Workspace, Kind::Communication];
}

/// A contiguous row-major matrix in a device's arena, which is counted in elements (f32 on the CPU device, f64 on the
/// reference; weights may be bf16: [`Plan::weights`]). Copy, like a pointer; unlike a pointer it knows its shape, and every op
/// checks it. A vector has one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The first element.
    pub at: usize,
    pub rows: usize,
    pub cols: usize,
    /// Its numbers are bf16, two an element: [`Plan::operand`], [`Plan::operand_within`], [`Plan::copy`].
    pub half: bool,
}

impl Tensor {
    /// The elements `start..end` as one row.
    pub fn range(start: usize, end: usize) -> Tensor {
        assert!(start <= end, "range {start}..{end}");
        Tensor { at: start, rows: 1, cols: end - start, half: false }
    }
    /// Its numbers.
    pub fn len(self) -> usize {
        self.rows * self.cols
    }
    /// The elements that they take.
    pub fn elements(self) -> usize {
        if self.half { self.len().div_ceil(2) } else { self.len() }
    }
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    pub fn end(self) -> usize {
        self.at + self.elements()
    }
    /// The shape of its first `cols` columns, to be checked or counted; not where they lie.
    pub fn first_cols(self, cols: usize) -> Tensor {
        assert!(cols <= self.cols, "{cols} columns of {self:?}");
        Tensor { cols, ..self }
    }
    /// Whether the two share an element.
    pub fn meets(self, other: Tensor) -> bool {
        self.at < other.end() && other.at < self.end()
    }
    /// Its elements, whatever their numbers are.
    pub fn as_elements(self) -> Tensor {
        Tensor::range(self.at, self.end())
    }
    /// The numbers `first .. first + n` as one row.
    pub fn part(self, first: usize, n: usize) -> Tensor {
        assert!(first + n <= self.len(), "numbers {first}..{} of {self:?}", first + n);
        assert!(!self.half || first.is_multiple_of(2), "number {first} of {self:?} begins within an element");
        let before = Tensor { rows: 1, cols: first, ..self };
        Tensor { at: before.end(), cols: n, ..before }
    }
    /// Rows `first .. first + rows`, still a matrix.
    pub fn rows(self, first: usize, rows: usize) -> Tensor {
        assert!(first + rows <= self.rows, "rows {first}..{} of {}", first + rows, self.rows);
        Tensor { rows, cols: self.cols, ..self.part(first * self.cols, rows * self.cols) }
    }
}

/// Elements whose numbers lie in bf16 as well: [`Plan::copy`].
#[derive(Clone, Debug)]
pub struct Copied {
    of: Range<usize>,
    to: usize,
}

impl Copied {
    pub fn range(&self) -> Range<usize> {
        self.of.clone()
    }
    /// Where the copy of `t` lies; None where not all of `t` is copied, or its first number's copy does not begin an element.
    pub fn of(&self, t: Tensor) -> Option<Tensor> {
        let inside = !t.half && self.of.start <= t.at && t.end() <= self.of.end;
        let before = t.at.wrapping_sub(self.of.start);
        (inside && before.is_multiple_of(2)).then(|| Tensor { at: self.to + before / 2, half: true, ..t })
    }
}

/// Structural: tensors start on 256 bytes (64 elements of f32), so that every vector load is aligned and shards can be too.
pub const ALIGN: usize = 64;

/// Counts tensors before any memory is taken.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    len: usize,
    halves: bool,
    makes_again: bool,
    streams: bool,
    weights_in_bf16: bool,
    narrow: usize,
    copied: Option<Copied>,
    by_kind: [usize; Kind::ALL.len()],
}

impl Plan {
    /// For a device that reads bf16 where its products round to it: [`Plan::operand`].
    pub fn with_halves(halves: bool) -> Plan {
        Plan { halves, ..Plan::default() }
    }
    /// The same for a device whose backward makes an MLP's activation again on its way.
    pub fn making_again(self) -> Plan {
        Plan { makes_again: true, ..self }
    }
    /// Whether one place for the activation serves all blocks.
    pub fn makes_again(&self) -> bool {
        self.makes_again
    }
    /// For a device whose matrices are worth their launches, and lie in no cache, only when they are large: a GPU.
    pub fn for_gpu() -> Plan {
        Plan { streams: true, ..Plan::default() }
    }
    /// Whether many rows at once are better than those that a cache holds.
    pub fn streams(&self) -> bool {
        self.streams
    }
    /// The same for a device that holds weights in bf16 alone: [`Plan::weights`].
    pub fn with_weights_in_bf16(self, weights_in_bf16: bool) -> Plan {
        Plan { weights_in_bf16, ..self }
    }
    /// The elements so far are weights. A device that holds these in bf16 alone gives an element two bytes: it stays one element, so
    /// that a weight lies as far behind its group's first as its gradient does.
    pub fn weights(&mut self) {
        if self.weights_in_bf16 {
            assert_eq!(self.by_kind[Kind::Parameters as usize], self.len, "weights come first");
            self.narrow = self.len;
        }
    }
    /// The first so many elements are bf16, one an element.
    pub fn narrow(&self) -> usize {
        self.narrow
    }
    /// A place for `rows` × `cols` elements, starting on a multiple of [`ALIGN`].
    pub fn matrix(&mut self, kind: Kind, rows: usize, cols: usize) -> Tensor {
        self.place(kind, Tensor { at: 0, rows, cols, half: false })
    }
    /// The same for what matrix products alone read: in bf16 where they round to it anyway. Rows begin with an element, so that
    /// an odd number of columns stays f32.
    pub fn operand(&mut self, kind: Kind, rows: usize, cols: usize) -> Tensor {
        self.place(kind, Tensor { at: 0, rows, cols, half: self.halves && cols.is_multiple_of(2) })
    }
    /// A place for a copy in bf16 of a matrix that products read, where they round it to that anyway.
    pub fn rounded(&mut self, kind: Kind, of: Tensor) -> Option<Tensor> {
        (self.halves && of.cols.is_multiple_of(2)).then(|| self.place(kind, Tensor { half: true, ..of }))
    }
    /// Where numbers lie that take the place of `t`'s, and that products alone read. Where these round them to bf16 anyway they lie so, in the
    /// first half of each row; the other half of the columns holds nothing.
    pub fn operand_within(&self, t: Tensor) -> Tensor {
        assert!(!t.half, "{t:?} is in bf16 itself");
        if self.halves { Tensor { half: true, cols: 2 * t.cols, ..t } } else { t }
    }
    /// A place for a matrix of the same shape and type.
    pub fn like(&mut self, kind: Kind, t: Tensor) -> Tensor {
        self.place(kind, t)
    }
    /// A place for the copies in bf16 of the elements `of`, weights that products read, where they round them to it anyway. What is
    /// bf16 itself needs none.
    pub fn copy(&mut self, kind: Kind, of: Range<usize>) {
        if self.halves && self.narrow == 0 {
            assert!(self.copied.is_none() && of.start.is_multiple_of(2), "elements {of:?} are copied beside {:?}", self.copied);
            let to = self.place(kind, Tensor { half: true, ..Tensor::range(of.start, of.end) }).at;
            self.copied = Some(Copied { of, to });
        }
    }
    pub fn copied(&self) -> Option<&Copied> {
        self.copied.as_ref()
    }
    fn place(&mut self, kind: Kind, t: Tensor) -> Tensor {
        self.pad_to(kind, ALIGN);
        let t = Tensor { at: self.len, ..t };
        self.grow(kind, t.elements());
        t
    }
    /// What two plans need one after the other, in the same place: its elements, and the tensors of both.
    pub fn in_turn<A, B>(
        &mut self,
        kind: Kind,
        first: impl FnOnce(&mut Plan) -> A,
        second: impl FnOnce(&mut Plan) -> B,
    ) -> (Tensor, A, B) {
        self.pad_to(kind, ALIGN);
        let (mut other, from) = (self.clone(), self.len);
        let tensors = (first(self), second(&mut other));
        self.grow(kind, other.len.saturating_sub(self.len));
        (Tensor::range(from, self.len), tensors.0, tensors.1)
    }
    /// The elements that `f` would take.
    pub fn taken_by<A>(&self, f: impl FnOnce(&mut Plan) -> A) -> usize {
        let mut other = self.clone();
        f(&mut other);
        other.len - self.len
    }
    pub fn vector(&mut self, kind: Kind, cols: usize) -> Tensor {
        self.matrix(kind, 1, cols)
    }
    /// Moves on to the next multiple of `multiple` elements.
    pub fn pad_to(&mut self, kind: Kind, multiple: usize) {
        self.grow(kind, self.len.next_multiple_of(multiple) - self.len);
    }
    /// The elements counted so far: where the next unaligned tensor would start.
    pub fn mark(&self) -> usize {
        self.len
    }
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bytes of one kind, at 4 bytes an element, 2 where it is bf16.
    pub fn bytes(&self, kind: Kind) -> usize {
        let narrow = if kind == Kind::Parameters { self.narrow } else { 0 };
        4 * self.by_kind[kind as usize] - 2 * narrow
    }
    fn grow(&mut self, kind: Kind, elements: usize) {
        self.len += elements;
        self.by_kind[kind as usize] += elements;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_in_bf16_takes_half_the_elements() {
        let mut plan = Plan::with_halves(true);
        let (x, odd) = (plan.operand(Kind::Activations, 6, 64), plan.operand(Kind::Activations, 6, 3));
        assert_eq!((x.half, x.len(), x.elements(), odd.half), (true, 384, 192, false));
        assert_eq!((odd.at, plan.bytes(Kind::Activations)), (192, 4 * (192 + 18)));
        let rows = x.rows(1, 2);
        assert_eq!((rows.at, rows.end(), rows.half), (32, 96, true));
        assert!(rows.meets(Tensor::range(95, 96)) && !rows.meets(Tensor::range(96, 97)));
        assert!(!Plan::default().operand(Kind::Activations, 6, 64).half);
        // what takes the place of x in f32 begins where each of its rows does
        let x = plan.matrix(Kind::Activations, 6, 5);
        let within = plan.operand_within(x);
        assert!(within.half && (1..6).all(|r| within.rows(r, 1).at == x.rows(r, 1).at) && within.first_cols(5).elements() == 15);
        assert_eq!(Plan::default().operand_within(x), x);
    }

    #[test]
    fn weights_in_bf16_take_two_bytes_and_no_copy() {
        let bytes = |narrow: bool| {
            let mut plan = Plan::with_halves(true).with_weights_in_bf16(narrow);
            let w = plan.matrix(Kind::Parameters, 64, 3);
            plan.weights();
            let g = plan.matrix(Kind::Gradients, 64, 3);
            plan.copy(Kind::Parameters, w.at..w.end());
            assert_eq!((g.at - w.at, plan.narrow()), (192, if narrow { 192 } else { 0 }));
            [Kind::Parameters, Kind::Gradients].map(|kind| plan.bytes(kind))
        };
        assert_eq!([bytes(false), bytes(true)], [[6 * 192, 4 * 192], [2 * 192, 4 * 192]]);
    }

    #[test]
    fn two_plans_in_turn_take_as_much_as_the_larger() {
        for (first, second) in [(3, 5), (5, 3)] {
            let mut plan = Plan::default();
            plan.vector(Kind::Parameters, 10);
            let both = |p: &mut Plan, n: usize| [p.vector(Kind::Activations, 64), p.vector(Kind::Activations, 64 * n)];
            let (all, a, b) = plan.in_turn(Kind::Activations, |p| both(p, first), |p| both(p, second));
            assert_eq!((all.at, all.len(), a[0], a[1].at, b[1].at), (64, 64 * 6, b[0], 128, 128));
            assert_eq!((plan.len(), plan.bytes(Kind::Activations)), (64 * 7, 4 * (64 * 6 + 54)));
        }
    }

    #[test]
    #[should_panic(expected = "begins within an element")]
    fn rows_begin_with_an_element() {
        Tensor { at: 0, rows: 3, cols: 3, half: true }.rows(1, 1);
    }
}
