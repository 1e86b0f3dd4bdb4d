//! Operands made ready for a kernel: read where they lie if it can, else packed, by all threads at hand.
//!
//! ```text
//! left   a (rows, k)    rows of units, or panels as high as a block, or nothing to do
//! right  b (cols, k)    panels
//! ```
//! A product of [`super::product`] makes both ready for itself. Attention makes each ready once and uses it often.
use super::Kernel;
use super::pack::{Numbers, Panels, Part, Source, panel_stride};
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
const SMALL: usize = 3 << 12;

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
        Left { at, row: stride, unit: 1, block: kernel.rows * stride, from: rows.start, lies }
    } else {
        let width = kernel.rows;
        panels(room, a, width, units, part);
        Left { at, row: 1, unit: width, block: panel_stride(width, units), from: rows.start, lies }
    }
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
