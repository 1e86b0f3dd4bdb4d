//! What forward and backward work with: a thread's own room, taken once, and products of operands that lie in it.
use super::Heads;
use crate::device::{Precision, Values};
use crate::ops::gemm::{self, Blocks, Kernel, Layout, Read, Source, kernels};
use crate::ops::rows::{Shared, halves, on_a_line};
use crate::ops::simd::{LANES, halve, wide, widen};
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Elements of working memory that attention keeps, beside the plan's, with `threads` threads.
pub fn workspace_elements(h: Heads, threads: usize) -> usize {
    threads * super::forward::room(h).max(super::backward::room(h))
}

/// Lends this thread's room, of `len` elements: what the last user left in it.
pub fn with_room<R>(len: usize, f: impl FnOnce(Room) -> R) -> R {
    ROOM.with_borrow_mut(|room| f(Room(on_a_line(room, len))))
}

/// Structural: what is vectors begins on one.
const LINE: usize = LANES;

/// Room to be divided.
pub struct Room<'a>(&'a mut [f32]);

/// What `len` elements take of a room.
pub const fn takes(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

impl<'a> Room<'a> {
    pub fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(takes(len));
        self.0 = rest;
        &mut taken[..len]
    }
    /// For an operand that has to be packed: see [`gemm::room`].
    pub fn units(&mut self, rows: usize, k: usize) -> &'a mut [u32] {
        let room = self.take(gemm::room(rows, k));
        // SAFETY: f32 and u32 hold any bits.
        unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) }
    }
}

/// Products of small operands, on the calling thread. Their numbers are as the kernel multiplies them, made so by [`Small::ready`] or by the op that
/// wrote them; or f32 that a kernel of pairs rounds when it packs them.
#[derive(Clone, Copy)]
pub struct Small {
    pub precision: Precision,
    pub kernel: &'static Kernel,
}

impl Small {
    pub fn new(precision: Precision) -> Small {
        Small { precision, kernel: kernels::chosen(precision) }
    }
    /// Whether the kernel multiplies pairs of bf16; otherwise f32, which may have been rounded.
    pub fn pairs(self) -> bool {
        self.kernel.pair == 2
    }
    /// Whether what it multiplies in f32 has to be rounded to bf16 first.
    pub fn rounds(self) -> bool {
        !self.pairs() && self.precision == Precision::Bf16
    }
    /// The columns `column .. column + D` of some of the matrix's rows, `cols` apart, as the kernel multiplies them: where they lie, or, if their
    /// numbers are not so yet, in `tile`.
    pub fn ready<'a>(
        self,
        tile: &'a mut [f32],
        matrix: Values<'a>,
        rows: Range<usize>,
        [cols, column, d]: [usize; 3],
    ) -> Read<'a> {
        match matrix.skip(rows.start * cols + column) {
            x @ Values::F32(_) if self.precision != Precision::Bf16 => (x, cols),
            x @ Values::Bf16(_) if self.pairs() => (x, cols),
            Values::F32(x) if self.pairs() => {
                let tile = halves(tile);
                lines(tile, d, x, cols, rows.len()).for_each(|(tile, x)| halve(tile, x));
                (Values::Bf16(tile), d)
            }
            Values::F32(x) => {
                lines(tile, d, x, cols, rows.len()).for_each(|(tile, x)| gemm::round(tile, x));
                (Values::F32(tile), d)
            }
            Values::Bf16(x) => {
                lines(tile, d, x, cols, rows.len()).for_each(|(tile, x)| widen(tile, x));
                (Values::F32(tile), d)
            }
        }
    }
    /// a (m, k) as memory has it, or (k, m) for a layout that says so.
    pub fn left<'a>(self, room: &'a mut [u32], layout: Layout, a: Read<'a>, m: usize, k: usize) -> gemm::Left<'a> {
        gemm::left(self.kernel, room, &Source::ready(self.kernel, a, layout != Layout::TN), 0..m, 0..k)
    }
    /// b (n, k) for NT, else (k, n).
    pub fn right<'a>(self, room: &'a mut [u32], layout: Layout, b: Read<'a>, n: usize, k: usize) -> gemm::Right<'a> {
        gemm::right_lying(self.kernel, room, &Source::ready(self.kernel, b, layout == Layout::NT), 0..n, 0..k)
    }
    /// c = or += a b, of these rows and columns, of which c's first element lies at `at` and whose rows lie `row` apart; `span` as for
    /// [`Blocks::multiply`].
    ///
    /// # Safety
    /// This part of c is the caller's alone. Rows and columns begin a whole number of blocks behind the operands' first.
    pub unsafe fn multiply(
        self,
        (c, at, row): (Shared, usize, usize),
        [rows, cols]: [Range<usize>; 2],
        into: gemm::Into,
        left: gemm::Left,
        right: gemm::Right,
        span: impl Fn(Range<usize>, Range<usize>) -> Range<usize>,
    ) {
        let (first, add) = ([rows.start, cols.start], into == gemm::Into::Add);
        let blocks = Blocks { kernel: self.kernel, left, right, c, at, row, first, add, turned: false };
        // SAFETY: the caller's promise; the operands are as large as they were made.
        unsafe { blocks.multiply(rows, cols, span) };
    }
}

/// Rows of a tile, d wide, beside those of a matrix, `cols` apart.
fn lines<'a, T, X>(
    tile: &'a mut [T],
    d: usize,
    x: &'a [X],
    cols: usize,
    rows: usize,
) -> impl Iterator<Item = (&'a mut [T], &'a [X])> {
    tile.chunks_exact_mut(d).zip(x.chunks(cols).map(move |x| &x[..d])).take(rows)
}

wide! {
    /// y (n, d), whose first number lies at `at` and whose rows lie `row` apart, becomes xᵀ: x (d, n or more), rows `line` apart.
    ///
    /// Safety is the caller's: y's rows are nobody else's meanwhile.
    pub fn turn(y: Shared, at: usize, row: usize, n: usize, x: &[f32], line: usize, d: usize) {
        for c in (0..d).step_by(LINE) {
            for r in (0..n).step_by(LINE) {
                let (deep, high) = (LINE.min(d - c), LINE.min(n - r));
                let place = at + r * row + c;
                if (deep, high) == (LINE, LINE) {
                    let from = x[c * line + r..][..(LINE - 1) * line + LINE].as_ptr();
                    // SAFETY: a square of x, and one of y's, which is the caller's.
                    unsafe {
                        y.piece(place, 0);
                        y.piece(place + (LINE - 1) * row, LINE);
                        gemm::transpose((y.start(place), row), (from, line));
                    }
                    continue;
                }
                for i in 0..high {
                    // SAFETY: the caller's promise.
                    let to = unsafe { y.piece(place + i * row, deep) };
                    to.iter_mut().enumerate().for_each(|(j, to)| *to = x[(c + j) * line + r + i]);
                }
            }
        }
    }
}
