//! Count first, allocate once: [`Plan`] gives out [`Tensor`] handles while it counts; a device then takes the whole
//! arena in one piece.
//!
//! ```text
//! let mut plan = Plan::default();
//! let x = plan.matrix(Kind::Activations, rows, cols);   // a place, not yet memory
//! println!("{}", plan.bytes(Kind::Activations));
//! let dev = Device::cpu(&plan, threads, &cores, precision)?;    // now it is memory, or a sentence saying what did not fit
//! ```

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

/// A contiguous row-major matrix in a device's arena, counted in elements (f32 on the CPU device, f64 on the reference).
/// Copy, like a pointer; unlike a pointer it knows its shape, and every op checks it. A vector has one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub at: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Tensor {
    /// The elements `start..end` as one row.
    pub fn range(start: usize, end: usize) -> Tensor {
        assert!(start <= end, "range {start}..{end}");
        Tensor { at: start, rows: 1, cols: end - start }
    }
    pub fn len(self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    pub fn end(self) -> usize {
        self.at + self.len()
    }
    /// Whether the two share an element.
    pub fn meets(self, other: Tensor) -> bool {
        self.at < other.end() && other.at < self.end()
    }
    /// Rows `first .. first + rows`, still a matrix.
    pub fn rows(self, first: usize, rows: usize) -> Tensor {
        assert!(first + rows <= self.rows, "rows {first}..{} of {}", first + rows, self.rows);
        Tensor { at: self.at + first * self.cols, rows, cols: self.cols }
    }
}

/// Structural: tensors start on 256 bytes (64 elements of f32), so that every vector load is aligned and shards can be too.
pub const ALIGN: usize = 64;

/// Counts tensors before any memory is taken.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    len: usize,
    by_kind: [usize; Kind::ALL.len()],
}

impl Plan {
    /// A place for `rows` × `cols` elements, starting on a multiple of [`ALIGN`].
    pub fn matrix(&mut self, kind: Kind, rows: usize, cols: usize) -> Tensor {
        self.pad_to(kind, ALIGN);
        let t = Tensor { at: self.len, rows, cols };
        self.grow(kind, t.len());
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
    /// Bytes of one kind, at 4 bytes an element.
    pub fn bytes(&self, kind: Kind) -> usize {
        4 * self.by_kind[kind as usize]
    }
    fn grow(&mut self, kind: Kind, elements: usize) {
        self.len += elements;
        self.by_kind[kind as usize] += elements;
    }
}
