//! A product in three steps of cutting, each for one kind of memory.
//!
//! ```text
//! slab    (rows or columns) × depth    packed by all threads; both operands' slabs stay in the last-level cache
//! tile    96 × 256 of c                one task; its sums stay in the second-level cache for the whole depth
//! block   of the kernel                its sums stay in registers for a stretch of k; b's panel in the first-level cache
//! ```
//! Tiles lie along a curve that halves the longer side again and again, and a thread takes a stretch of it: neighbours in
//! time are neighbours in place, and threads meet only at the borders of their regions.
use super::blocks::Blocks;
use super::operands::{each, left, left_room, lies_ready, right, right_room};
use super::pack::Source;
use super::{Into, Kernel, Write, evenly};
use crate::device::{Memory, threads};
use crate::ops::rows::Shared;
use std::cell::RefCell;
use std::ops::Range;

/// Measured: units of a packed slab, 4 MiB of each operand.
const SLAB: usize = 1 << 20;
/// Measured: numbers of k in a slab, so that it is not too narrow.
const DEPTH: usize = 1024;
/// Measured (Zen 3): rows and columns of a tile.
const TILE: [usize; 2] = [96, 256];
/// Structural: vectors are loaded from its start.
const LINE: usize = 16;

thread_local! {
    /// Packed slabs of a product that this thread began, in huge pages where they are large; grown by the first step, then
    /// reused.
    static ROOM: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Elements of working memory that products keep, beside the plan's: the slabs of the thread that begins them.
pub const WORKSPACE_ELEMENTS: usize = 2 * SLAB;

/// Measured (Intel AVX-512): where b has so many more columns than a has rows, packing b is what takes the time.
const WIDER: usize = 4;

/// c = a·b or c += a·b. `finish(row, first column, part of a row)` sees each part of c once it is complete.
///
/// A wide b that lies as rows of k is taken for the left operand, which needs no packing: cᵀ = bᵀ·aᵀ.
pub fn multiply(
    kernel: &Kernel,
    [m, n, k]: [usize; 3],
    into: Into,
    c: Write,
    a: Source,
    b: Source,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    if a.along_k && b.along_k && m * WIDER <= n && lies_ready(kernel, &b, n, k) {
        parts(kernel, [n, m, k], into, c, b, a, true, finish);
    } else {
        parts(kernel, [m, n, k], into, c, a, b, false, finish);
    }
}

/// As [`multiply`]; `turned`: c is the transpose, whose rows `finish` sees.
fn parts(
    kernel: &Kernel,
    [m, n, k]: [usize; 3],
    into: Into,
    (c, row): Write,
    a: Source,
    b: Source,
    turned: bool,
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
        let of_a = if direct { 0 } else { left_room(kernel, high, deep.min(k)) };
        let of_b = right_room(kernel, wide, deep.min(k)).next_multiple_of(LINE);
        let bytes = size_of::<u32>() * (of_a + of_b);
        if room.as_ref().is_none_or(|room| room.bytes() < bytes) {
            *room = Some(Memory::private(bytes).expect("room for packed operands, which the plan has counted"));
        }
        let (of_b, of_a) = room.as_mut().expect("made above").words().split_at_mut(of_b);
        for first in (0..k).step_by(deep) {
            let depth = first..k.min(first + deep);
            let mut packed = None;
            for cols in cut(n, wide) {
                let right = right(kernel, of_b, &b, cols.clone(), depth.clone());
                for rows in cut(m, high) {
                    let left = match packed {
                        Some((at, left)) if at == rows.start => left,
                        // SAFETY: only what `packed` holds borrows the room, and that is replaced here.
                        _ => left(
                            kernel,
                            unsafe { std::slice::from_raw_parts_mut(of_a.as_mut_ptr(), of_a.len()) },
                            &a,
                            rows.clone(),
                            depth.clone(),
                        ),
                    };
                    packed = Some((rows.start, left));
                    let add = into == Into::Add || depth.start > 0;
                    let blocks = Blocks { kernel, left, right, c, at: 0, row, add, turned };
                    tiles(&blocks, rows, cols.clone(), depth.len(), |rows, cols| {
                        // SAFETY: tiles share no element of c, and begin with whole blocks.
                        unsafe { blocks.multiply(rows.clone(), cols.clone(), |_, _| 0..depth.len()) };
                        if depth.end == k {
                            let (rows, cols) = if turned { (cols, rows) } else { (rows, cols) };
                            for i in rows {
                                // SAFETY: the tile is this task's alone.
                                finish(i, cols.start, unsafe { c.piece(i * row + cols.start, cols.len()) });
                            }
                        }
                    });
                }
            }
        }
    });
}

/// 0 … len in pieces of `piece`.
fn cut(len: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(piece).map(move |first| first..len.min(first + piece))
}

/// f(rows, columns) of each tile of a slab, on all threads.
fn tiles(blocks: &Blocks, rows: Range<usize>, cols: Range<usize>, depth: usize, f: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let (m, n) = (rows.len(), cols.len());
    let high = evenly(m, TILE[0], blocks.kernel.rows);
    // enough tiles that threads finish together
    let enough = |wide: &usize| m.div_ceil(high) * n.div_ceil(*wide) >= 6 * threads::count();
    let wide = [TILE[1], TILE[1] / 2, TILE[1] / 4].into_iter().find(enough).unwrap_or(TILE[1] / 4);
    let (down, across) = (m.div_ceil(high), n.div_ceil(wide));
    each(m * n * depth / 16, down * across, |i| {
        let [i, j] = place(i, down, across);
        let (row, col) = (rows.start + i * high, cols.start + j * wide);
        f(row..rows.end.min(row + high), col..cols.end.min(col + wide));
    });
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
