//! A product in three steps of cutting, each for one kind of memory.
//!
//! ```text
//! slab    (rows or columns) × depth    packed by all threads; both operands' slabs stay in the last-level cache
//! tile    96 × 256 of c                one task; its sums stay in the second-level cache for the whole depth
//! block   of the kernel                its sums stay in registers for a stretch of k; b's panel in the first-level cache
//! ```
//! Tiles lie along a curve that halves the longer side again and again, and a thread takes a stretch of it: neighbours in
//! time are neighbours in place, and threads meet only at the borders of their regions.
use super::micro::Block;
use super::pack::{Numbers, Panels, Part, Source, panel_stride};
use super::{Into, Kernel, Write};
use crate::device::{Memory, Precision, threads};
use crate::ops::rows::Shared;
use std::cell::RefCell;
use std::ops::Range;

/// Measured: units of a packed slab, 4 MiB of each operand.
const SLAB: usize = 1 << 20;
/// Measured: numbers of k in a slab, so that it is not too narrow.
const DEPTH: usize = 4096;
/// Measured (Zen 3): rows and columns of a tile.
const TILE: [usize; 2] = [96, 256];
/// Measured: rows, or units, that a task packs.
const ROWS_AT_ONCE: usize = 32;
const UNITS_AT_ONCE: usize = 64;

/// Measured: numbers packed, or sixteen times as many multiplied, below which waking other threads costs more than it
/// brings.
const WORTH: usize = 1 << 15;

/// Measured: an operand a of so few numbers stays in cache however it is read.
const SMALL: usize = 1 << 13;

/// Structural: vectors are loaded from its start.
const LINE: usize = 16;

thread_local! {
    /// Packed slabs of a product that this thread began, in huge pages where they are large; grown by the first step, then
    /// reused.
    static ROOM: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Elements of working memory that products keep, beside the plan's, with `threads` threads: the slabs of the thread that
/// begins products, and those of attention's small ones.
pub fn workspace_elements(_: Precision, threads: usize) -> usize {
    /// Both operands of products of 64 × 64 × 128.
    const EACH: usize = 2 * 64 * 128;
    2 * SLAB + threads * EACH
}

/// c = a·b or c += a·b. `finish(row, first column, part of a row)` sees each part of c once it is complete.
pub fn multiply(
    kernel: &Kernel,
    [m, n, k]: [usize; 3],
    into: Into,
    (c, c_row): Write,
    a: Source,
    b: Source,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    assert!(k > 0, "{m} × {n}: a sum of nothing");
    let c = Shared::new(c);
    let deep = evenly(k, DEPTH, 2 * kernel.depth);
    let units = kernel.units(deep.min(k));
    let wide = evenly(n, (SLAB / units).max(kernel.cols), kernel.cols);
    let direct = lies_ready(kernel, &a, m, k);
    let high = if direct { m } else { evenly(m, (SLAB / units).max(TILE[0]), 16 * kernel.rows) };
    ROOM.with_borrow_mut(|room| {
        let of_b = wide.next_multiple_of(kernel.cols) / kernel.panel * panel_stride(kernel.panel, units);
        // packed by blocks, or with a little between the rows
        let of_a = if direct { 0 } else { (units + 16) * (high + kernel.rows) };
        let of_b = of_b.next_multiple_of(LINE);
        let bytes = size_of::<u32>() * (of_a + of_b);
        if room.as_ref().is_none_or(|room| room.bytes() < bytes) {
            *room = Some(Memory::private(bytes).expect("room for packed operands, which the plan has counted"));
        }
        let (of_b, of_a) = room.as_mut().expect("made above").words().split_at_mut(of_b);
        for first in (0..k).step_by(deep) {
            let depth = first..k.min(first + deep);
            let mut packed = None;
            for col in (0..n).step_by(wide) {
                let cols = col..n.min(col + wide);
                let panels = pack_panels(kernel, of_b, &b, cols.clone(), depth.clone());
                for row in (0..m).step_by(high) {
                    let rows = row..m.min(row + high);
                    let left = match packed {
                        Some((at, left)) if at == rows.start => left,
                        _ if direct => in_place(kernel, &a, depth.start),
                        _ => pack_left(kernel, of_a, &a, rows.clone(), depth.clone()),
                    };
                    packed = (!direct).then_some((rows.start, left));
                    let add = into == Into::Add || depth.start > 0;
                    let slab =
                        Slab { kernel, left, panels, units: kernel.units(depth.len()), c, c_row, add, rows, cols: cols.clone() };
                    let last = depth.end == k;
                    slab.tiles(|tile| {
                        if last {
                            tile.finish(&finish)
                        }
                    });
                }
            }
        }
    });
}

/// A length of pieces that is at most `most`, a multiple of `of`, and as even as can be.
fn evenly(len: usize, most: usize, of: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).max(1).next_multiple_of(of)
}

/// Where a kernel finds a: [`Block::a`] of the slab's first row.
#[derive(Clone, Copy)]
struct Left {
    at: *const f32,
    row: usize,
    unit: usize,
    /// From one block's rows to the next.
    block: usize,
    /// The first row that `at` means.
    from: usize,
}

/// Whether the kernel can read a where it lies.
fn lies_ready(kernel: &Kernel, a: &Source, m: usize, k: usize) -> bool {
    match a.numbers {
        Numbers::F32(_) => kernel.pair == 1 && (a.along_k || m * k <= SMALL),
        Numbers::Bf16(x) => {
            let aligned = x.as_ptr().cast::<f32>().is_aligned();
            let whole = k.is_multiple_of(2 * kernel.depth) && m.is_multiple_of(kernel.rows_at_once);
            kernel.pair == 2 && a.along_k && aligned && a.stride.is_multiple_of(2) && whole
        }
        Numbers::Rounding(_) => false,
    }
}

fn in_place(kernel: &Kernel, a: &Source, k: usize) -> Left {
    let at = match a.numbers {
        Numbers::F32(x) | Numbers::Rounding(x) => x[if a.along_k { k } else { k * a.stride }..].as_ptr(),
        Numbers::Bf16(x) => x[k..].as_ptr().cast(),
    };
    let stride = a.stride / kernel.pair;
    let [row, unit] = if a.along_k { [stride, 1] } else { [1, stride] };
    Left { at, row, unit, block: kernel.rows * row, from: 0 }
}

fn pack_left(kernel: &Kernel, room: &mut [u32], a: &Source, rows: Range<usize>, depth: Range<usize>) -> Left {
    let (units, pair) = (kernel.units(depth.len()), kernel.pair);
    let at = room.as_ptr().cast();
    let part = Part { row: rows.start, rows: rows.len(), k: depth.start, depth: depth.len(), pair };
    if a.along_k || kernel.rows_at_once > 1 {
        // rows a whole number of pages apart would share the first-level cache's few places
        let stride = if units.is_multiple_of(256) { units + 16 } else { units };
        let height = rows.len().next_multiple_of(kernel.rows_at_once);
        pieces(&mut room[..height * stride], ROWS_AT_ONCE * stride, |i, to| {
            let first = i * ROWS_AT_ONCE;
            let n = ROWS_AT_ONCE.min(rows.len().saturating_sub(first));
            a.rows(to, stride, units, Part { row: part.row + first, rows: n, ..part });
            to[n * stride..].fill(0);
        });
        Left { at, row: stride, unit: 1, block: kernel.rows * stride, from: rows.start }
    } else {
        let width = kernel.rows;
        panels(room, a, width, units, part);
        Left { at, row: 1, unit: width, block: panel_stride(width, units), from: rows.start }
    }
}

fn pack_panels(kernel: &Kernel, room: &mut [u32], b: &Source, cols: Range<usize>, depth: Range<usize>) -> *const f32 {
    let units = kernel.units(depth.len());
    // a block may be two panels wide: the last one's second is zero then
    let (first, end) = (cols.len().div_ceil(kernel.panel), cols.len().next_multiple_of(kernel.cols) / kernel.panel);
    let stride = panel_stride(kernel.panel, units);
    room[first * stride..end * stride].fill(0);
    let part = Part { row: cols.start, rows: cols.len(), k: depth.start, depth: depth.len(), pair: kernel.pair };
    panels(room, b, kernel.panel, units, part);
    room.as_ptr().cast()
}

/// Packs the part into panels, on all threads: along k each a panel of its own, else each some units of all.
fn panels(room: &mut [u32], x: &Source, width: usize, units: usize, part: Part) {
    let count = part.rows.div_ceil(width);
    let stride = panel_stride(width, units);
    let to = Panels { start: room[..count * stride].as_mut_ptr(), width, stride };
    if x.along_k {
        each(part.rows * part.depth, count, |i| {
            let part = Part { row: part.row + i * width, rows: width.min(part.rows - i * width), ..part };
            // SAFETY: in the room (above), a panel for each task.
            unsafe { x.panels(to.from(i), 0..units, part) };
        });
    } else {
        each(part.rows * part.depth, units.div_ceil(UNITS_AT_ONCE), |i| {
            let some = i * UNITS_AT_ONCE..units.min((i + 1) * UNITS_AT_ONCE);
            // SAFETY: in the room (above), its own units for each task.
            unsafe { x.panels(to, some, part) };
        });
    }
}

/// On all threads, where there is work for more than one.
fn each(work: usize, tasks: usize, f: impl Fn(usize) + Sync) {
    if work < WORTH { (0..tasks).for_each(f) } else { threads::each(tasks, f) }
}

/// f(i, the i-th piece), on all threads.
fn pieces(x: &mut [u32], len: usize, f: impl Fn(usize, &mut [u32]) + Sync) {
    let (end, start) = (x.len(), x.as_mut_ptr() as usize);
    each(end, end.div_ceil(len), |i| {
        let n = len.min(end - i * len);
        // SAFETY: pieces do not overlap and lie in x, which is borrowed meanwhile.
        f(i, unsafe { std::slice::from_raw_parts_mut((start as *mut u32).add(i * len), n) });
    });
}

/// Packed operands and the part of c that they give.
struct Slab<'a> {
    kernel: &'a Kernel,
    left: Left,
    panels: *const f32,
    units: usize,
    c: Shared<'a>,
    c_row: usize,
    add: bool,
    rows: Range<usize>,
    cols: Range<usize>,
}
// SAFETY: the pointers are read only, and tiles share no element of c.
unsafe impl Sync for Slab<'_> {}

/// A part of c that one task computes.
struct Tile<'a> {
    c: Shared<'a>,
    c_row: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Tile<'_> {
    fn finish(&self, finish: &impl Fn(usize, usize, &mut [f32])) {
        for row in self.rows.clone() {
            // SAFETY: the tile is this task's alone.
            finish(row, self.cols.start, unsafe { self.c.piece(row * self.c_row + self.cols.start, self.cols.len()) });
        }
    }
}

impl Slab<'_> {
    fn panel_stride(&self) -> usize {
        panel_stride(self.kernel.panel, self.units)
    }

    fn tiles(&self, done: impl Fn(Tile) + Sync) {
        let (m, n) = (self.rows.len(), self.cols.len());
        let high = evenly(m, TILE[0], self.kernel.rows);
        // enough tiles that threads finish together
        let enough = |wide: &usize| m.div_ceil(high) * n.div_ceil(*wide) >= 6 * threads::count();
        let wide = [TILE[1], TILE[1] / 2, TILE[1] / 4].into_iter().find(enough).unwrap_or(TILE[1] / 4);
        let (down, across) = (m.div_ceil(high), n.div_ceil(wide));
        let one = |i| {
            let [i, j] = place(i, down, across);
            let tile = Tile {
                c: self.c,
                c_row: self.c_row,
                rows: self.rows.start + i * high..self.rows.end.min(self.rows.start + (i + 1) * high),
                cols: self.cols.start + j * wide..self.cols.end.min(self.cols.start + (j + 1) * wide),
            };
            self.blocks(&tile);
            done(tile);
        };
        each(m * n * self.units / 16, down * across, one);
    }

    fn blocks(&self, tile: &Tile) {
        let k = self.kernel;
        let stretch = evenly(self.units, k.stretch, k.depth);
        for unit in (0..self.units).step_by(stretch) {
            let units = stretch.min(self.units - unit);
            for col in tile.cols.clone().step_by(k.cols) {
                let panel = (col - self.cols.start) / k.panel;
                let b = self.panels.wrapping_add(panel * self.panel_stride() + unit * k.panel);
                for row in tile.rows.clone().step_by(k.rows) {
                    // tiles begin with whole blocks
                    let above = (row - self.left.from) / k.rows;
                    let a = self.left.at.wrapping_add(above * self.left.block + unit * self.left.unit);
                    let block = Block {
                        units,
                        a,
                        a_row: self.left.row,
                        a_unit: self.left.unit,
                        b,
                        b_panel: self.panel_stride(),
                        c: std::ptr::null_mut(),
                        c_row: self.c_row,
                        add: self.add || unit > 0,
                    };
                    // SAFETY: a and b hold what the slab says; the block lies in the tile.
                    unsafe { self.block(block, row, k.rows.min(tile.rows.end - row), col, k.cols.min(tile.cols.end - col)) };
                }
            }
        }
    }

    /// # Safety
    /// The kernel's: a holds the rows, b the columns; the part of c is this task's.
    unsafe fn block(&self, block: Block, row: usize, rows: usize, col: usize, cols: usize) {
        let k = self.kernel;
        let height = rows.next_multiple_of(k.rows_at_once);
        if cols == k.cols && height == rows {
            // SAFETY: the caller's promise.
            unsafe {
                let c = self.c.start(row * self.c_row + col);
                (k.multiply)(rows, Block { c, ..block });
            }
            return;
        }
        // the kernel writes whole blocks: into a corner of their own, from which the part that exists is taken
        let mut whole = [0f32; 32 * 32];
        // SAFETY: `whole` holds every kernel's block.
        unsafe { (k.multiply)(height, Block { c: whole.as_mut_ptr(), c_row: k.cols, add: false, ..block }) };
        for (i, from) in whole.chunks_exact(k.cols).take(rows).enumerate() {
            // SAFETY: the caller's promise.
            let to = unsafe { self.c.piece((row + i) * self.c_row + col, cols) };
            if block.add {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            } else {
                to.copy_from_slice(&from[..cols]);
            }
        }
    }
}

/// The i-th of `rows` × `cols` tiles on a curve that halves the longer side.
fn place(i: usize, rows: usize, cols: usize) -> [usize; 2] {
    let (mut i, mut at, mut left) = (i, [0, 0], [rows, cols]);
    while left[0] * left[1] > 1 {
        let side = usize::from(left[1] > left[0]);
        let half = left[side] / 2;
        let first = half * left[1 - side];
        if i < first {
            left[side] = half;
        } else {
            i -= first;
            at[side] += half;
            left[side] -= half;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_visits_every_tile_once_and_keeps_together() {
        for (rows, cols) in [(1, 1), (1, 9), (7, 5), (16, 16), (3, 40)] {
            let mut all: Vec<[usize; 2]> = (0..rows * cols).map(|i| place(i, rows, cols)).collect();
            if (rows, cols) == (16, 16) {
                let quarter = &all[..64];
                assert!(quarter.iter().all(|[i, j]| *i < 8 && *j < 8), "a quarter of the curve is a quarter of the matrix");
            }
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), rows * cols);
            assert!(all.iter().all(|[i, j]| *i < rows && *j < cols));
        }
    }
}
