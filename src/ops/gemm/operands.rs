//! Operands made ready for a kernel: read where they lie if it can, else packed, by all threads at hand.
//!
//! ```text
//! left   a (rows, k)    rows of units, panels as high as a block, tiles, or nothing to do
//! right  b (cols, k)    panels
//! ```
//! A product of [`super::product`] makes both ready for itself. Attention makes each ready once and uses it often.
use super::Kernel;
use super::pack::{Numbers, Panels, Part, SIDE, Source, panel_stride};
use crate::device::threads;
use std::marker::PhantomData;
use std::ops::Range;

/// Measured: rows, or units, that a task packs.
const ROWS_AT_ONCE: usize = 32;
const UNITS_AT_ONCE: usize = 64;
/// Measured: numbers packed, or sixteen times as many multiplied, below which waking other threads costs more than it
/// brings.
const WORTH: usize = 1 << 15;
/// Measured: an operand a of so few numbers stays in cache however it is read.
pub const SMALL: usize = 3 << 12;

/// Where a kernel finds a: [`super::micro::Block::a`] of the first row.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub(super) at: *const f32,
    pub(super) row: usize,
    pub(super) unit: usize,
    /// From one block's rows to the next.
    pub(super) block: usize,
    /// The first row that `at` means.
    pub(super) from: usize,
    lies: PhantomData<&'a [f32]>,
}

/// Where a kernel finds b: its first panel.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub(super) at: *const f32,
    /// Of each panel.
    pub(super) units: usize,
    /// From unit to unit, and from panel to panel.
    pub(super) unit: usize,
    pub(super) panel: usize,
    /// The first column that `at` means.
    pub(super) from: usize,
    lies: PhantomData<&'a [u32]>,
}

// SAFETY: both are borrows of numbers that nobody writes meanwhile.
unsafe impl Sync for Left<'_> {}
// SAFETY: as above.
unsafe impl Sync for Right<'_> {}

/// Units of room that any kernel needs for a left operand of `rows` × k, and for a right one of `rows` columns.
pub fn room(rows: usize, k: usize) -> usize {
    super::kernels::ALL.iter().map(|kernel| left_room(kernel, rows, k).max(right_room(kernel, rows, k))).max().unwrap_or(0)
}

pub(super) fn left_room(kernel: &Kernel, rows: usize, k: usize) -> usize {
    // by blocks, or with a little between the rows
    (kernel.units(k) + 16) * rows.next_multiple_of(kernel.rows.max(kernel.rows_at_once))
}

pub(super) fn right_room(kernel: &Kernel, cols: usize, k: usize) -> usize {
    cols.next_multiple_of(kernel.cols) / kernel.panel * panel_stride(kernel.panel, kernel.units(k))
}

/// Some rows of a for some k. `room` keeps what has to be packed: see [`room`].
pub fn left<'a>(kernel: &Kernel, room: &'a mut [u32], a: &Source<'a>, rows: Range<usize>, k: Range<usize>) -> Left<'a> {
    if lies_ready(kernel, a, rows.len(), k.len()) {
        let at = if a.along_k { rows.start * a.stride + k.start } else { k.start * a.stride + rows.start };
        let at = match a.numbers {
            Numbers::F32(x) | Numbers::Rounding(x) => x[at..].as_ptr(),
            Numbers::Bf16(x) => x[at..].as_ptr().cast(),
        };
        let stride = a.stride / kernel.pair;
        let [row, unit] = if a.along_k { [stride, 1] } else { [1, stride] };
        return Left { at, row, unit, block: kernel.rows * row, from: rows.start, lies: PhantomData };
    }
    let (units, pair, lies) = (kernel.units(k.len()), kernel.pair, PhantomData);
    let at = room.as_ptr().cast();
    let part = Part { row: rows.start, rows: rows.len(), k: k.start, depth: k.len(), pair };
    if kernel.of_tiles() {
        return tiles(kernel, room, a, units, part);
    }
    if a.along_k {
        // rows a whole number of pages apart would share the first-level cache's few places
        let stride = if units.is_multiple_of(256) { units + 16 } else { units };
        pieces(&mut room[..rows.len() * stride], ROWS_AT_ONCE * stride, |i, to| {
            let first = i * ROWS_AT_ONCE;
            a.rows(to, stride, units, Part { row: part.row + first, rows: ROWS_AT_ONCE.min(rows.len() - first), ..part });
        });
        Left { at, row: stride, unit: 1, block: kernel.rows * stride, from: rows.start, lies }
    } else {
        let width = kernel.rows;
        panels(room, a, width, units, part);
        Left { at, row: 1, unit: width, block: panel_stride(width, units), from: rows.start, lies }
    }
}

/// [block][sixteen units][row][unit]: a block's tiles of the same units lie one behind the other.
fn tiles<'a>(kernel: &Kernel, room: &'a mut [u32], a: &Source, units: usize, part: Part) -> Left<'a> {
    let (high, count) = (kernel.rows, part.rows.div_ceil(kernel.rows));
    let block = panel_stride(high, units);
    let to = Panels { start: room[..count * block].as_mut_ptr(), width: high, stride: block };
    // rows that are there, and those that the kernel takes along
    let rows = part.rows.next_multiple_of(kernel.rows_at_once);
    let fill = |i: usize, some: Range<usize>| {
        for row in (0..high.min(rows - i * high)).step_by(SIDE) {
            for u in some.clone().step_by(SIDE) {
                let at = to.from(i).start.wrapping_add(u * high + row * SIDE);
                // SAFETY: in the room (above), a square of its own.
                unsafe { a.square(at, SIDE, SIDE, part, [i * high + row, u], true) };
            }
        }
    };
    // long runs of memory's rows
    if a.along_k {
        each(part.rows * part.depth, count, |i| fill(i, 0..units));
    } else {
        each(part.rows * part.depth, units.div_ceil(SIDE), |i| {
            (0..count).for_each(|block| fill(block, i * SIDE..(i + 1) * SIDE))
        });
    }
    Left { at: room.as_ptr().cast(), row: SIDE, unit: high, block, from: part.row, lies: PhantomData }
}

/// Some columns of b for some k, packed into `room`.
pub fn right<'a>(kernel: &Kernel, room: &'a mut [u32], b: &Source, cols: Range<usize>, k: Range<usize>) -> Right<'a> {
    let units = kernel.units(k.len());
    // a block may be two panels wide: the last one's second is zero then
    let (first, end) = (cols.len().div_ceil(kernel.panel), cols.len().next_multiple_of(kernel.cols) / kernel.panel);
    let stride = panel_stride(kernel.panel, units);
    room[first * stride..end * stride].fill(0);
    let part = Part { row: cols.start, rows: cols.len(), k: k.start, depth: k.len(), pair: kernel.pair };
    panels(room, b, kernel.panel, units, part);
    Right { at: room.as_ptr().cast(), units, unit: kernel.panel, panel: stride, from: cols.start, lies: PhantomData }
}

/// As [`right`], but where b lies, if the kernel can read it there: for small operands, since the rows of large ones are
/// too far from each other to stay in cache.
pub fn right_lying<'a>(kernel: &Kernel, room: &'a mut [u32], b: &Source<'a>, cols: Range<usize>, k: Range<usize>) -> Right<'a> {
    match b.numbers {
        Numbers::F32(x) if kernel.b_lies && kernel.pair == 1 && !b.along_k && cols.len().is_multiple_of(kernel.cols) => {
            let at = x[k.start * b.stride + cols.start..].as_ptr();
            Right { at, units: k.len(), unit: b.stride, panel: kernel.panel, from: cols.start, lies: PhantomData }
        }
        _ => right(kernel, room, b, cols, k),
    }
}

/// Whether the kernel can read a where it lies.
pub(super) fn lies_ready(kernel: &Kernel, a: &Source, m: usize, k: usize) -> bool {
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
pub(super) fn each(work: usize, tasks: usize, f: impl Fn(usize) + Sync) {
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::kernels::{AMX, AVX512_BF16};
    use super::*;
    use half::bf16;

    const ROWS: Range<usize> = 5..75;
    const K: Range<usize> = 2..77;

    /// Holds kernels of pairs' operands to the definition; none of their instructions is needed.
    fn hold(along_k: bool, halves: bool) {
        let [rows, depth] = if along_k { [80, 91] } else { [91, 80] };
        let x: Vec<f32> = (0..rows * depth).map(|i| if i % 89 == 0 { f32::NAN } else { 1.0 / (i as f32 - 300.5) }).collect();
        let rounded: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        let numbers = if halves { Numbers::Bf16(&rounded) } else { Numbers::Rounding(&x) };
        let source = Source { numbers, stride: depth, along_k };
        let half = |row: usize, k: usize| {
            let (row, k) = (ROWS.start + row, K.start + k);
            let there = row < ROWS.end && k < K.end;
            if there { u32::from(rounded[if along_k { row * depth + k } else { k * depth + row }].to_bits()) } else { 0 }
        };
        let unit = |row: usize, u: usize| half(row, 2 * u) | half(row, 2 * u + 1) << 16;
        let mut space = vec![0xdead_beef; room(ROWS.len(), K.len())];
        for kernel in [&AVX512_BF16, &AMX] {
            let units = kernel.units(K.len());
            let found = left(kernel, &mut space, &source, ROWS, K);
            for (row, u) in
                (0..ROWS.len().next_multiple_of(kernel.rows_at_once)).flat_map(|row| (0..units).map(move |u| (row, u)))
            {
                let of_tile = if kernel.of_tiles() { u % 16 } else { 0 };
                let at = row / kernel.rows * found.block + row % kernel.rows * found.row + (u - of_tile) * found.unit + of_tile;
                // SAFETY: in the room that was packed.
                let is = unsafe { found.at.add(at).read() }.to_bits();
                assert_eq!(is, unit(row, u), "{} left, along k {along_k}, in bf16 {halves}: row {row}, unit {u}", kernel.name);
            }
            space.fill(0xdead_beef);
            let found = right(kernel, &mut space, &source, ROWS, K);
            for (col, u) in (0..ROWS.len().next_multiple_of(kernel.cols)).flat_map(|col| (0..units).map(move |u| (col, u))) {
                let at = col / kernel.panel * found.panel + u * found.unit + col % kernel.panel;
                // SAFETY: as above.
                let is = unsafe { found.at.add(at).read() }.to_bits();
                assert_eq!(
                    is,
                    unit(col, u),
                    "{} right, along k {along_k}, in bf16 {halves}: column {col}, unit {u}",
                    kernel.name
                );
            }
            space.fill(0xdead_beef);
        }
    }

    #[test]
    fn of_pairs_lie_where_kernels_read_them() {
        for (along_k, halves) in [(true, true), (true, false), (false, true), (false, false)] {
            hold(along_k, halves);
        }
    }
}
