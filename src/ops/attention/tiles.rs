//! What forward and backward work with: a thread's own room, taken once, and products of operands that lie in it.
use super::Heads;
use crate::device::{Precision, Values};
use crate::ops::gemm::{self, Blocks, Kernel, Layout, Read, Source, kernels};
use crate::ops::rows::Shared;
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
    ROOM.with_borrow_mut(|room| {
        if room.len() < len + LINE {
            room.resize(len + LINE, 0.0);
        }
        let skip = room.as_ptr().align_offset(LINE * size_of::<f32>());
        f(Room(&mut room[skip..][..len]))
    })
}

/// Structural: what is vectors begins on one.
const LINE: usize = 16;

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

/// A product of small operands, on the calling thread.
#[derive(Clone, Copy)]
pub struct Small {
    pub precision: Precision,
    pub kernel: &'static Kernel,
}

impl Small {
    pub fn new(precision: Precision) -> Small {
        Small { precision, kernel: kernels::chosen(precision) }
    }
    /// a (m, k) as memory has it, or (k, m) for a layout that says so.
    pub fn left<'a>(self, room: &'a mut [u32], layout: Layout, a: Read<'a>, m: usize, k: usize) -> gemm::Left<'a> {
        let a = Source::of(self.precision, a, layout != Layout::TN);
        gemm::left(self.kernel, room, &a, 0..m, 0..k)
    }
    /// b (n, k) for NT, else (k, n).
    pub fn right<'a>(self, room: &'a mut [u32], layout: Layout, b: Read<'a>, n: usize, k: usize) -> gemm::Right<'a> {
        let b = Source::of(self.precision, b, layout == Layout::NT);
        gemm::right_lying(self.kernel, room, &b, 0..n, 0..k)
    }
    /// c (m, n) = or += a b; `span` as for [`Blocks::multiply`].
    ///
    /// # Safety
    /// The part of c, which begins at the element `at` and whose rows lie `row` apart, is the caller's alone.
    pub unsafe fn multiply(
        self,
        (c, at, row): (Shared, usize, usize),
        [m, n]: [usize; 2],
        into: gemm::Into,
        left: gemm::Left,
        right: gemm::Right,
        span: impl Fn(Range<usize>, Range<usize>) -> Range<usize>,
    ) {
        let blocks =
            Blocks { kernel: self.kernel, left, right, c, at, row, first: [0, 0], add: into == gemm::Into::Add, turned: false };
        // SAFETY: the caller's promise; the operands are as large as they were made.
        unsafe { blocks.multiply(0..m, 0..n, span) };
    }
}

/// Copies the columns `column .. column + D` of some of the matrix's rows, as they are: in it they lie pages apart.
pub fn load<'a>(tile: &'a mut [f32], matrix: Values, rows: Range<usize>, cols: usize, column: usize, d: usize) -> Values<'a> {
    fn copy<T: Copy>(tile: &mut [T], matrix: &[T], rows: Range<usize>, cols: usize, column: usize, d: usize) {
        for (tile, r) in tile.chunks_exact_mut(d).zip(rows) {
            tile.copy_from_slice(&matrix[r * cols + column..][..d]);
        }
    }
    match matrix {
        Values::F32(matrix) => {
            copy(tile, matrix, rows, cols, column, d);
            Values::F32(tile)
        }
        Values::Bf16(matrix) => {
            // SAFETY: an f32 has room for two numbers in bf16, and both hold any bits.
            let tile = unsafe { std::slice::from_raw_parts_mut(tile.as_mut_ptr().cast(), 2 * tile.len()) };
            copy(tile, matrix, rows, cols, column, d);
            Values::Bf16(tile)
        }
    }
}
