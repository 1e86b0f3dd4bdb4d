//! A product in three steps of cutting, each for one kind of memory.
//!
//! ```text
//! slab    (rows or columns) × depth    packed by all threads; both operands' slabs stay in the last-level cache
//! tile    of c, see `Kernel::tile`     one task; its sums, of AMX those of a strip, stay in the second-level cache for the whole depth
//! block   of the kernel                its sums stay in registers for a stretch of k; b's panel in the first-level cache
//! ```
//! Tiles lie along a curve that halves the longer side again and again, and a thread takes a stretch of it: neighbours in
//! time are neighbours in place, and threads meet only at the borders of their regions.
use super::blocks::Blocks;
use super::operands::{Left, Right, each, left, left_room, lies_ready, right, right_room};
use super::pack::Source;
use super::{Finisher, Into, Kernel, Write, evenly, kernels};
use crate::device::{Memory, threads};
use crate::ops::past_caches;
use crate::ops::rows::{Shared, SharedValues, on_a_line};
use crate::ops::simd::add_to;
use half::bf16;
use std::cell::RefCell;
use std::ops::Range;

/// Measured: units of a packed slab, 4 MiB of each operand.
const SLAB: usize = 1 << 20;
/// Measured: numbers of k in a slab, so that it is not too narrow; units for a kernel of tiles, whose passes over c cost more.
const DEPTH: usize = 1024;
/// Structural: bytes of a c that is larger than a second-level cache, and so written past the caches by a kernel of tiles.
const LARGE: usize = 2 << 20;
/// Measured (Zen 5, 32 MiB of third-level cache): of one that every kernel writes past the caches, if it is written but once (docs/performance.md).
const HUGE: usize = 48 << 20;
/// Structural: vectors are loaded from its start.
const LINE: usize = 16;

thread_local! {
    /// The sums of a tile, or of a strip of one, that do not lie in c: they are rounded first, or written past the caches. Taken by the
    /// first step, then reused.
    static CORNER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Packed slabs of a product that this thread began, in huge pages where they are large; grown by the first step, then
    /// reused.
    static ROOM: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Elements of working memory that products keep, beside the plan's, with `threads` threads: the slabs of the one that begins them,
/// and a tile of each.
pub fn workspace_elements(threads: usize) -> usize {
    2 * SLAB + threads * kernels::ALL.iter().map(|kernel| tile_elements(kernel) + LINE).max().unwrap_or(0)
}

/// Numbers of a kernel's tile, whose rows and columns are whole blocks.
fn tile_elements(kernel: &Kernel) -> usize {
    kernel.tile[0] * kernel.tile[1]
}

/// Whether a product by this kernel surely writes results of so many bytes past the caches.
pub fn writes_past(kernel: &Kernel, bytes: usize) -> bool {
    kernel.of_tiles() && bytes >= LARGE
}

/// Measured (Intel AVX-512): where b has so many more columns than a has rows, packing b is what takes the time.
const WIDER: usize = 4;

/// c = a·b or c += a·b. `finish` sees each part of c once it is complete; then sums += Σ_rows c,
/// by tiles in the order of their rows.
///
/// A c in bf16 is summed in a corner of f32, tile by tile: a slab is then as deep as k, however narrow. A kernel of tiles does so with every
/// c, and writes a large one past the caches: else its lines come from memory, to be overwritten. Every kernel does so with a huge one that one
/// slab completes.
///
/// A wide b that lies as rows of k is taken for the left operand, which needs no packing: cᵀ = bᵀ·aᵀ. Not by a kernel of tiles:
/// it is so fast that turning its blocks takes longer than packing b.
pub fn multiply(
    kernel: &Kernel,
    [m, n, k]: [usize; 3],
    into: Into,
    c: Write,
    a: Source,
    b: Source,
    finish: impl Finisher,
    sums: &mut [f32],
) {
    if !kernel.of_tiles() && a.along_k && b.along_k && m * WIDER <= n && lies_ready(kernel, &b, n, k) {
        parts(kernel, [n, m, k], into, c, b, a, true, finish, sums);
    } else {
        parts(kernel, [m, n, k], into, c, a, b, false, finish, sums);
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
    finish: impl Finisher,
    sums: &mut [f32],
) {
    assert!(k > 0, "{m} × {n}: a sum of nothing");
    assert!(sums.is_empty() || !turned, "{m} × {n}: sums over what lies across");
    let c = SharedValues::new(c);
    let (most, bytes) = match c {
        SharedValues::F32(_) if kernel.of_tiles() => (DEPTH * kernel.pair, size_of::<f32>()),
        SharedValues::F32(_) => (DEPTH, size_of::<f32>()),
        SharedValues::Bf16(_) => (k, size_of::<bf16>()),
    };
    let deep = evenly(k, most, 2 * kernel.depth);
    let once = into == Into::Overwrite && k <= deep;
    let past = writes_past(kernel, m * n * bytes) || (once && m * n * bytes >= HUGE);
    let units = kernel.units(deep.min(k));
    let wide = evenly(n, (SLAB / units).max(kernel.cols), kernel.cols);
    let direct = lies_ready(kernel, &a, m, k);
    let high = if direct { m } else { evenly(m, (SLAB / units).max(kernel.tile[0]), 16 * kernel.rows) };
    // one row of sums for each row of tiles
    let sums_of_slab = if sums.is_empty() { 0 } else { high.div_ceil(kernel.tile[0]) };
    ROOM.with_borrow_mut(|room| {
        let of_a = if direct { 0 } else { left_room(kernel, high, deep.min(k)) };
        let of_b = right_room(kernel, wide, deep.min(k)).next_multiple_of(LINE);
        let of_sums = m.div_ceil(high) * sums_of_slab * n;
        let bytes = size_of::<u32>() * (of_b + of_sums + of_a);
        if room.as_ref().is_none_or(|room| room.bytes() < bytes) {
            *room = Some(Memory::private(bytes).expect("room for packed operands, which the plan has counted"));
        }
        let (of_b, rest) = room.as_mut().expect("made above").words().split_at_mut(of_b);
        let (of_sums, of_a) = rest.split_at_mut(of_sums);
        // SAFETY: f32 and u32 hold any bits.
        let of_sums = unsafe { std::slice::from_raw_parts_mut(of_sums.as_mut_ptr().cast::<f32>(), of_sums.len()) };
        of_sums.fill(0.0);
        let partial = Shared::new(&mut *of_sums);
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
                    let slabs = Slabs { kernel, left, right, depth: depth.len(), c, row, add, turned, past };
                    let last = depth.end == k;
                    slabs.tiles(rows.clone(), cols.clone(), |tile, at| {
                        let ended = |i: usize, col: usize, part: &mut [f32]| {
                            finish.part(i, col, part);
                            if sums_of_slab > 0 {
                                let row = rows.start / high * sums_of_slab + tile;
                                // SAFETY: of these columns this row of sums is that of this task's tile alone.
                                add_to(unsafe { partial.piece(row * n + col, part.len()) }, part);
                            }
                        };
                        // SAFETY: tiles share no element of c, and begin with whole blocks.
                        unsafe { slabs.tile(at, last.then_some((|rows, cols| finish.ahead(rows, cols), ended))) };
                    });
                }
            }
        }
        of_sums.chunks_exact(n.max(1)).for_each(|row| add_to(sums, row));
    });
}

/// 0 … len in pieces of `piece`.
fn cut(len: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(piece).map(move |first| first..len.min(first + piece))
}

/// A slab of each operand, and what their product is written to.
struct Slabs<'a> {
    kernel: &'a Kernel,
    left: Left<'a>,
    right: Right<'a>,
    /// Numbers of k.
    depth: usize,
    c: SharedValues<'a>,
    /// From row to row of c.
    row: usize,
    add: bool,
    turned: bool,
    /// c is written past the caches.
    past: bool,
}

impl Slabs<'_> {
    /// f(row of tiles, [rows, columns]) of each tile, on all threads.
    fn tiles(&self, rows: Range<usize>, cols: Range<usize>, f: impl Fn(usize, [Range<usize>; 2]) + Sync) {
        let (m, n) = (rows.len(), cols.len());
        let [high, wide] = self.kernel.tile;
        let high = evenly(m, high, self.kernel.rows);
        // enough tiles that threads finish together
        let enough = |wide: &usize| m.div_ceil(high) * n.div_ceil(*wide) >= 6 * threads::count();
        let wide = [wide, wide / 2, wide / 4].into_iter().find(enough).unwrap_or(wide / 4);
        let (down, across) = (m.div_ceil(high), n.div_ceil(wide));
        each(m * n * self.depth / 16, down * across, |i| {
            let [i, j] = place(i, down, across);
            let (row, col) = (rows.start + i * high, cols.start + j * wide);
            f(i, [row..rows.end.min(row + high), col..cols.end.min(col + wide)]);
        });
    }

    /// A tile of these rows and columns. Where its sums are to be complete, `ahead(rows, columns)` hears of each block of c before, and
    /// `ended(row, first column, part of c)` sees each of c's rows after.
    ///
    /// A kernel of tiles takes rows of blocks first: each such row is complete, and on its way out, before the next begins.
    ///
    /// # Safety
    /// As [`Blocks::multiply`].
    unsafe fn tile(
        &self,
        [rows, cols]: [Range<usize>; 2],
        complete: Option<(impl Fn(Range<usize>, Range<usize>), impl Fn(usize, usize, &mut [f32]))>,
    ) {
        let high = if self.kernel.of_tiles() { self.kernel.rows } else { rows.len() };
        for strip in cut(rows.len(), high) {
            // SAFETY: the caller's promise.
            unsafe { self.strip([rows.start + strip.start..rows.start + strip.end, cols.clone()], complete.as_ref()) };
        }
        if self.past {
            past_caches::fence();
        }
    }

    /// # Safety
    /// As [`Slabs::tile`].
    unsafe fn strip(
        &self,
        [rows, cols]: [Range<usize>; 2],
        complete: Option<&(impl Fn(Range<usize>, Range<usize>), impl Fn(usize, usize, &mut [f32]))>,
    ) {
        let Slabs { kernel, left, right, depth, c, add, turned, past, .. } = *self;
        let (down, across) = if turned { (cols.clone(), rows.clone()) } else { (rows.clone(), cols.clone()) };
        let place = |i: usize| i * self.row + across.start;
        let whole = |rows: Range<usize>, cols: Range<usize>| {
            let (rows, cols) = if turned { (cols, rows) } else { (rows, cols) };
            complete.iter().for_each(|(ahead, _)| ahead(rows.clone(), cols.clone()));
            0..depth
        };
        let ended = |i: usize, part: &mut [f32]| complete.iter().for_each(|(_, ended)| ended(i, across.start, part));
        match c {
            SharedValues::F32(c) if !kernel.of_tiles() && !past => {
                let blocks = Blocks { kernel, left, right, c, at: 0, row: self.row, first: [0, 0], add, turned };
                // SAFETY: the caller's promise.
                unsafe { blocks.multiply(rows, cols, whole) };
                if complete.is_some() {
                    // SAFETY: as above.
                    down.for_each(|i| ended(i, unsafe { c.piece(place(i), across.len()) }));
                }
            }
            c => CORNER.with_borrow_mut(|corner| {
                let corner = on_a_line(corner, tile_elements(kernel));
                let (row, first) = (across.len().next_multiple_of(LINE), [rows.start, cols.start]);
                let blocks = Blocks { kernel, left, right, c: Shared::new(corner), at: 0, row, first, add: false, turned };
                // SAFETY: the corner is this thread's; a tile of any kernel fits.
                unsafe { blocks.multiply(rows, cols, whole) };
                for (i, part) in down.zip(corner.chunks_exact_mut(row)) {
                    let part = &mut part[..across.len()];
                    if let (SharedValues::F32(c), true) = (c, add) {
                        // SAFETY: the caller's promise, here and below.
                        add_to(part, unsafe { c.piece(place(i), part.len()) });
                    }
                    ended(i, part);
                    unsafe { c.take(place(i), part, past) };
                }
            }),
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
    fn tiles_are_whole_blocks_of_their_kernel() {
        for kernel in kernels::ALL {
            let [high, wide] = kernel.tile;
            assert!(high.is_multiple_of(kernel.rows) && (wide / 4).is_multiple_of(kernel.cols), "{}", kernel.name);
        }
    }

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
