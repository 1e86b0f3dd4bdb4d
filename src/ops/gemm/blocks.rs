//! A part of a product from operands that are ready, block after block of a kernel, on the calling thread.
//!
//! ```text
//! for a stretch of k
//!     for a panel of b, for a block of rows      the panel stays in the first-level cache, and c's rows in the second
//!     tiles: for a block of rows, for a panel    the panels stay in the second-level cache, and c's lines follow one another
//!         c += a · b
//! ```
use super::Kernel;
use super::micro::Block;
use super::operands::{Left, Right};
use crate::ops::rows::Shared;
use std::mem::MaybeUninit;
use std::ops::Range;

/// c = a·b or c += a·b, of which tasks take parts.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    pub kernel: &'a Kernel,
    pub left: Left<'a>,
    pub right: Right<'a>,
    pub c: Shared<'a>,
    /// Where the element of c in row and column `first` of the product lies, and the distance between c's rows.
    pub at: usize,
    pub row: usize,
    pub first: [usize; 2],
    /// c += rather than c =.
    pub add: bool,
    /// c is the product's transpose: what are rows here are its columns.
    pub turned: bool,
}

impl Blocks<'_> {
    /// Rows × columns of c, from the stretch of k that `span(rows, columns)` of a block names: where the rest is known to
    /// be zero. An empty one leaves the block as it is.
    ///
    /// # Safety
    /// The operands hold these rows and columns, whose part of c lies in it and is nobody else's meanwhile; both begin a
    /// whole number of blocks behind the operands' first.
    pub unsafe fn multiply(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        span: impl Fn(Range<usize>, Range<usize>) -> Range<usize>,
    ) {
        let (kernel, units, stride) = (self.kernel, self.right.units, self.right.panel);
        let stretch = super::evenly(units, kernel.stretch, kernel.depth);
        let (down, across) = (rows.len().div_ceil(kernel.rows), cols.len().div_ceil(kernel.cols));
        let left = self.left.at.wrapping_add((rows.start - self.left.from) / kernel.rows * self.left.block);
        let right = self.right.at.wrapping_add((cols.start - self.right.from) / kernel.panel * stride);
        let panels = kernel.cols / kernel.panel;
        let rows_first = kernel.of_tiles();
        let (outer, inner) = if rows_first { (down, across) } else { (across, down) };
        for first in (0..units).step_by(stretch) {
            for outer in 0..outer {
                for inner in 0..inner {
                    let (i, j) = if rows_first { (outer, inner) } else { (inner, outer) };
                    let (row, col) = (rows.start + i * kernel.rows, cols.start + j * kernel.cols);
                    let (height, width) = (kernel.rows.min(rows.end - row), kernel.cols.min(cols.end - col));
                    let k = span(row..row + height, col..col + width);
                    // whole steps of the kernel: what they take along at the ends is zero
                    let begin = k.start / kernel.pair / kernel.depth * kernel.depth;
                    let from = begin.max(first);
                    let upto = kernel.units(k.end).min(first + stretch).min(units);
                    if from >= upto {
                        continue;
                    }
                    let below = if i + 1 < down { self.left.block } else { 0 };
                    let a = left.wrapping_add(i * self.left.block + from * self.left.unit);
                    let panel = right.wrapping_add(j * panels * stride);
                    let share = i * (upto - from) * 4;
                    let block = Block {
                        units: upto - from,
                        a,
                        next_a: a.wrapping_add(below),
                        next_b: panel.wrapping_add(stride + from * kernel.panel + share),
                        a_row: self.left.row,
                        a_unit: self.left.unit,
                        b: panel.wrapping_add(from * self.right.unit),
                        b_unit: self.right.unit,
                        b_panel: stride,
                        c: std::ptr::null_mut(),
                        c_row: self.row,
                        add: self.add || from > begin,
                    };
                    // SAFETY: the caller's promise.
                    unsafe { self.block(block, row, height, col, width) };
                }
            }
        }
    }

    /// # Safety
    /// As [`Blocks::multiply`], for this block.
    unsafe fn block(&self, block: Block, row: usize, rows: usize, col: usize, cols: usize) {
        let k = self.kernel;
        let [down, across] = [row - self.first[0], col - self.first[1]];
        let at = if self.turned { self.at + across * self.row + down } else { self.at + down * self.row + across };
        let height = rows.next_multiple_of(k.rows_at_once);
        if cols == k.cols && height == rows && !self.turned {
            // SAFETY: the caller's promise.
            unsafe { (k.multiply)(rows, Block { c: self.c.start(at), ..block }) };
            return;
        }
        // the kernel writes whole blocks: into a corner of their own, from which the part that exists is taken
        let mut whole = [const { MaybeUninit::<f32>::uninit() }; 32 * 32];
        // SAFETY: `whole` holds every kernel's block, of which these rows are written.
        let whole = unsafe {
            (k.multiply)(height, Block { c: whole.as_mut_ptr().cast(), c_row: k.cols, add: false, ..block });
            std::slice::from_raw_parts(whole.as_ptr().cast::<f32>(), height * k.cols)
        };
        #[cfg(target_arch = "x86_64")]
        if self.turned && cols == k.cols && super::squares::turns(rows, cols) {
            // SAFETY: lines of c, by the caller's promise, the last of which lies in it; the block's rows; the level was asked.
            unsafe {
                self.c.piece(at + (cols - 1) * self.row, rows);
                super::squares::turn_block((self.c.start(at), self.row), whole, [rows, cols], block.add);
            }
            return;
        }
        // c's lines are the block's rows, or, turned, its columns
        let (lines, len, line, step) = if self.turned { (cols, rows, 1, k.cols) } else { (rows, cols, k.cols, 1) };
        for i in 0..lines {
            // SAFETY: the caller's promise.
            let to = unsafe { self.c.piece(at + i * self.row, len) };
            let from = to.iter_mut().zip(whole[i * line..].iter().step_by(step));
            if block.add { from.for_each(|(to, from)| *to += from) } else { from.for_each(|(to, from)| *to = *from) }
        }
    }
}
