//! Operands in the form that kernels read: units of 4 bytes (one f32, or two bf16 of neighbouring k).
//!
//! ```text
//! rows     [row][unit]                a as it may lie in memory already: then nothing is copied
//! panels   [panel][unit][column]      b, column < panel width; a, where memory holds it transposed
//! squares  16 rows × 16 units         parts of panels of pairs, and AMX's tiles
//! ```
//! Numbers are rounded or widened on the way. What lies past the last row, column or k is zero.
#[cfg(target_arch = "x86_64")]
use super::squares;
use crate::ops::simd::{Level, fetch, fetch_to_write, level, round_bf16, to_bf16, wide};
use half::bf16;
use std::ops::Range;

/// A matrix of logical shape (rows, k) as memory holds it.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub numbers: Numbers<'a>,
    /// Distance between memory's rows.
    pub stride: usize,
    /// Neighbours in memory are neighbours in k; otherwise they are neighbouring rows.
    pub along_k: bool,
}

#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    /// To be rounded to bf16.
    Rounding(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// The numbers of a source: see there.
#[derive(Clone, Copy)]
pub struct Lying<'a, T> {
    pub x: &'a [T],
    pub stride: usize,
    pub along_k: bool,
}

/// Structural: a side of the squares that are transposed or packed: one vector of AVX-512.
pub(super) const SIDE: usize = 16;
pub(super) type Square = [[u32; SIDE]; SIDE];

/// A number on its way into a unit.
pub trait Number: Copy {
    /// A unit of one is the number as it lies.
    const WHOLE: bool = false;
    fn whole(self) -> u32;
    fn half(self) -> u16;
}
impl Number for f32 {
    const WHOLE: bool = true;
    #[inline(always)]
    fn whole(self) -> u32 {
        self.to_bits()
    }
    #[inline(always)]
    fn half(self) -> u16 {
        to_bf16(self).to_bits()
    }
}
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Rounding(f32);
impl Number for Rounding {
    #[inline(always)]
    fn whole(self) -> u32 {
        round_bf16(self.0).to_bits()
    }
    #[inline(always)]
    fn half(self) -> u16 {
        self.0.half()
    }
}
impl Number for bf16 {
    #[inline(always)]
    fn whole(self) -> u32 {
        u32::from(self.to_bits()) << 16
    }
    #[inline(always)]
    fn half(self) -> u16 {
        self.to_bits()
    }
}

/// A part of a source, and how it is to lie.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub row: usize,
    pub rows: usize,
    /// The first k: even.
    pub k: usize,
    /// How many of them; the units are as many as the room has.
    pub depth: usize,
    /// 1 or 2 numbers a unit.
    pub pair: usize,
}

impl Source<'_> {
    /// [row][unit], rows `stride` units apart, `units` of each, from what lies along k.
    pub fn rows(&self, to: &mut [u32], stride: usize, units: usize, part: Part) {
        debug_assert!(self.along_k);
        match self.numbers {
            Numbers::F32(x) => rows_plain(to, stride, units, x, self.stride, part),
            Numbers::Rounding(x) => rows_rounding(to, stride, units, rounding(x), self.stride, part),
            Numbers::Bf16(x) => rows_bf16(to, stride, units, x, self.stride, part),
        }
    }

    /// The square of the part's rows and units from `at` on, of pairs: its first `lines` lines, `line` units apart. Lines are
    /// rows, or units.
    ///
    /// # Safety
    /// `to` has room for them, and nobody else touches it meanwhile.
    pub unsafe fn square(&self, to: *mut u32, line: usize, lines: usize, part: Part, at: [usize; 2], of_rows: bool) {
        let Source { numbers, stride, along_k } = *self;
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx512 {
            // SAFETY: the caller's promise; the processor has AVX-512: `level` asked it.
            return unsafe {
                match numbers {
                    Numbers::F32(x) | Numbers::Rounding(x) => {
                        squares::square(to, line, lines, Lying { x: rounding(x), stride, along_k }, part, at, of_rows)
                    }
                    Numbers::Bf16(x) => squares::square(to, line, lines, Lying { x, stride, along_k }, part, at, of_rows),
                }
            };
        }
        let square = match numbers {
            Numbers::F32(x) | Numbers::Rounding(x) => square(Lying { x, stride, along_k }, part, at, of_rows),
            Numbers::Bf16(x) => square(Lying { x, stride, along_k }, part, at, of_rows),
        };
        for (i, from) in square.iter().enumerate().take(lines) {
            // SAFETY: the caller's promise.
            unsafe { to.add(i * line).copy_from(from.as_ptr(), SIDE) };
        }
    }

    /// [panel][unit][row]: all panels of the part, of which some units.
    ///
    /// # Safety
    /// `to` has room for the part's panels, and nobody else touches these units meanwhile.
    pub unsafe fn panels(&self, to: Panels, units: Range<usize>, part: Part) {
        if part.pair == 2 && to.width.is_multiple_of(SIDE) {
            // memory's rows one after the other: see `panels`
            for u in units.clone().step_by(SIDE) {
                for row in (0..part.rows.next_multiple_of(to.width)).step_by(SIDE) {
                    let place = row / to.width * to.stride + u * to.width + row % to.width;
                    // SAFETY: the caller's promise.
                    unsafe { self.square(to.start.add(place), to.width, SIDE.min(units.end - u), part, [row, u], false) };
                }
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if part.pair == 2 && !self.along_k && to.width < SIDE && part.depth > 0 && level() >= Level::Avx512 {
            let Source { stride, along_k, .. } = *self;
            // SAFETY: the caller's promise; the processor has AVX-512: `level` asked it.
            return unsafe {
                match self.numbers {
                    Numbers::F32(x) | Numbers::Rounding(x) => {
                        squares::narrow(to, units, Lying { x: rounding(x), stride, along_k }, part)
                    }
                    Numbers::Bf16(x) => squares::narrow(to, units, Lying { x, stride, along_k }, part),
                }
            };
        }
        match self.numbers {
            Numbers::F32(x) => panels_plain(to, units, x, self.stride, self.along_k, part),
            Numbers::Rounding(x) => panels_rounding(to, units, rounding(x), self.stride, self.along_k, part),
            Numbers::Bf16(x) => panels_bf16(to, units, x, self.stride, self.along_k, part),
        }
    }
}

/// Room for panels `width` wide.
#[derive(Clone, Copy)]
pub struct Panels {
    pub start: *mut u32,
    pub width: usize,
    /// From one panel to the next: see [`panel_stride`].
    pub stride: usize,
}

/// Units of a panel and a little more: panels whole pages apart would share the first-level cache's few places.
pub fn panel_stride(width: usize, units: usize) -> usize {
    width * units + 16
}
// SAFETY: who writes through it promises to be alone (`Source::panels`).
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    /// Without the first `panels` of them.
    pub fn from(self, panels: usize) -> Panels {
        Panels { start: self.start.wrapping_add(panels * self.stride), ..self }
    }
    /// One unit of one panel.
    #[inline(always)]
    fn line(&mut self, panel: usize, unit: usize) -> &mut [u32] {
        self.lines(panel, unit..unit + 1)
    }
    /// Some units of one panel.
    #[inline(always)]
    fn lines(&mut self, panel: usize, units: Range<usize>) -> &mut [u32] {
        let at = panel * self.stride + units.start * self.width;
        // SAFETY: within the room that `Source::panels` was promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), units.len() * self.width) }
    }
}

pub(super) fn rounding(x: &[f32]) -> &[Rounding] {
    // SAFETY: `Rounding` is an f32 by another name.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

wide! {
    fn rows_plain(to: &mut [u32], stride: usize, units: usize, x: &[f32], ld: usize, part: Part) {
        rows(to, stride, units, x, ld, part);
    }
    fn rows_rounding(to: &mut [u32], stride: usize, units: usize, x: &[Rounding], ld: usize, part: Part) {
        rows(to, stride, units, x, ld, part);
    }
    fn rows_bf16(to: &mut [u32], stride: usize, units: usize, x: &[bf16], ld: usize, part: Part) {
        rows(to, stride, units, x, ld, part);
    }
    fn panels_plain(to: Panels, units: Range<usize>, x: &[f32], ld: usize, along_k: bool, part: Part) {
        panels(to, units, x, ld, along_k, part);
    }
    fn panels_rounding(to: Panels, units: Range<usize>, x: &[Rounding], ld: usize, along_k: bool, part: Part) {
        panels(to, units, x, ld, along_k, part);
    }
    fn panels_bf16(to: Panels, units: Range<usize>, x: &[bf16], ld: usize, along_k: bool, part: Part) {
        panels(to, units, x, ld, along_k, part);
    }
}

#[inline(always)]
fn rows<T: Number>(to: &mut [u32], stride: usize, units: usize, x: &[T], ld: usize, p: Part) {
    for (r, to) in to.chunks_mut(stride).take(p.rows).enumerate() {
        line(&mut to[..units], &x[(p.row + r) * ld + p.k..][..p.depth], p.pair);
    }
}

/// Measured (Zen 3): panels whose places for one unit stay in the first-level cache, a line each.
const PANELS: usize = 256;
/// Measured (Zen 3, 2,048 × 1,152 numbers: 5 to 3 ms): memory's rows that are asked for this early. So many panels are
/// written at a time that the processor does not see by itself which row is read.
const ROWS_AHEAD: usize = 3;
/// Measured (as above): units of a panel whose line is fetched before it is written.
const UNITS_AHEAD: usize = 64;

/// What lies along k: only of units of one number, in panels as wide as vectors; pairs are packed in squares.
#[inline(always)]
fn panels<T: Number>(mut to: Panels, units: Range<usize>, x: &[T], ld: usize, along_k: bool, p: Part) {
    let width = to.width;
    if !along_k {
        // memory's rows one after the other, each through many panels: long runs are what memory likes
        let count = p.rows.div_ceil(width);
        for some in (0..count).step_by(PANELS).map(|first| first..count.min(first + PANELS)) {
            for u in units.clone() {
                let at = |k: usize| if k < p.depth { &x[(p.k + k) * ld + p.row..][..p.rows] } else { &[] };
                let (a, b) = (at(u * p.pair), at(u * p.pair + p.pair - 1));
                for panel in some.clone() {
                    let (from, upto) = (panel * width, p.rows.min((panel + 1) * width));
                    let (to, a, b) = (to.line(panel, u), a.get(from..upto).unwrap_or(&[]), b.get(from..upto).unwrap_or(&[]));
                    fetch(a.as_ptr().wrapping_add(ROWS_AHEAD * ld));
                    match (width, p.pair) {
                        (6, 1) => across::<T, 6>(to, a, b, 1),
                        (12, 1) => across::<T, 12>(to, a, b, 1),
                        (16, 1) => across::<T, 16>(to, a, b, 1),
                        (32, 1) => across::<T, 32>(to, a, b, 1),
                        _ => across::<T, 0>(to, a, b, p.pair),
                    }
                }
            }
        }
        return;
    }
    let (mut square, mut turned) = ([[0; SIDE]; SIDE], [[0; SIDE]; SIDE]);
    for panel in 0..p.rows.div_ceil(width) {
        let (first, n) = (panel * width, width.min(p.rows - panel * width));
        for r in (0..width).step_by(SIDE) {
            for u in units.clone().step_by(SIDE) {
                let (from, upto) = (u.min(p.depth), (u + SIDE).min(p.depth));
                if T::WHOLE && r + SIDE <= n && from + SIDE == upto && u + SIDE <= units.end {
                    let (to, lies) = (&mut to.lines(panel, u..u + SIDE)[r..], &x[(p.row + first + r) * ld + p.k + from..]);
                    assert!((SIDE - 1) * ld + SIDE <= lies.len(), "{p:?}: past the last row");
                    // SAFETY: both are squares, of units that are their numbers.
                    unsafe { transpose((to.as_mut_ptr(), width), (lies.as_ptr().cast(), ld)) };
                    continue;
                }
                for (i, to) in square.iter_mut().enumerate() {
                    let x = if r + i < n { &x[(p.row + first + r + i) * ld + p.k..][from..upto] } else { &[] };
                    line(to, x, 1);
                }
                // SAFETY: both are squares.
                unsafe { transpose((turned.as_mut_ptr().cast::<u32>(), SIDE), (square.as_ptr().cast(), SIDE)) };
                for (i, row) in turned.iter().enumerate().take(units.end - u) {
                    *to.line(panel, u + i)[r..].first_chunk_mut().expect("a panel of b is as wide as vectors") = *row;
                }
            }
        }
    }
}

/// Units of one row: numbers that are neighbours in k.
#[inline(always)]
fn line<T: Number>(to: &mut [u32], x: &[T], pair: usize) {
    if let (1, Ok(to), Ok(x)) = (pair, <&mut [u32; SIDE]>::try_from(&mut to[..]), <&[T; SIDE]>::try_from(x)) {
        (0..SIDE).for_each(|i| to[i] = x[i].whole());
        return;
    }
    let whole = x.len() / pair;
    if pair == 1 {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = x.whole());
    } else {
        let (pairs, odd) = x.as_chunks::<2>();
        to.iter_mut().zip(pairs).for_each(|(to, [a, b])| *to = u32::from(a.half()) | u32::from(b.half()) << 16);
        if let [last] = odd {
            to[whole] = u32::from(last.half());
        }
    }
    to[x.len().div_ceil(pair)..].fill(0);
}

/// A unit of neighbouring rows, from one or two of memory's rows; what is missing is zero. W: how many, where it is known
/// beforehand, so that it is a vector or two.
#[inline(always)]
fn across<T: Number, const W: usize>(to: &mut [u32], a: &[T], b: &[T], pair: usize) {
    if let (true, Ok(to), Ok(a)) = (pair == 1, <&mut [u32; W]>::try_from(&mut *to), <&[T; W]>::try_from(a)) {
        fetch_to_write(to.as_ptr().wrapping_add(UNITS_AHEAD));
        (0..W).for_each(|i| to[i] = a[i].whole());
        return;
    }
    let n = a.len();
    let (to, rest) = to.split_at_mut(n);
    rest.fill(0);
    if pair == 1 {
        to.iter_mut().zip(a).for_each(|(to, a)| *to = a.whole());
    } else if b.len() == n {
        to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = u32::from(a.half()) | u32::from(b.half()) << 16);
    } else {
        to.iter_mut().zip(a).for_each(|(to, a)| *to = u32::from(a.half()));
    }
}

/// Number by number, as [`super::squares::square`]: without AVX-512, where kernels of pairs are tested, but not used.
pub(super) fn square<T: Number>(from: Lying<T>, p: Part, [row, unit]: [usize; 2], of_rows: bool) -> Square {
    let half = |r: usize, k: usize| {
        let at = |r: usize, k: usize| if from.along_k { r * from.stride + k } else { k * from.stride + r };
        if r < p.rows && k < p.depth { u32::from(from.x[at(p.row + r, p.k + k)].half()) } else { 0 }
    };
    let pair = |r: usize, u: usize| half(row + r, 2 * (unit + u)) | half(row + r, 2 * (unit + u) + 1) << 16;
    std::array::from_fn(|i| std::array::from_fn(|j| if of_rows { pair(i, j) } else { pair(j, i) }))
}

/// to = fromᵀ, squares of numbers of 4 bytes, whose rows lie so many numbers apart.
///
/// # Safety
/// Both are there, and nobody else touches `to` meanwhile.
#[inline(always)]
pub unsafe fn transpose<T: Copy>(to: (*mut T, usize), from: (*const T, usize)) {
    const { assert!(size_of::<T>() == 4) };
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: the caller's promise; the processor has the instructions: `level` asked it.
        Level::Avx512 => return unsafe { squares::turn((to.0.cast(), to.1), (from.0.cast(), from.1)) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { super::x86::transpose((to.0.cast(), to.1), (from.0.cast(), from.1)) },
        Level::Portable => {}
    }
    for i in 0..SIDE {
        for j in 0..SIDE {
            // SAFETY: as above.
            unsafe { *to.0.add(i * to.1 + j) = *from.0.add(j * from.1 + i) };
        }
    }
}
