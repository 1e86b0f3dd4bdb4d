//! Squares of 16 rows × 16 units of two bf16 in AVX-512: a tile of AMX, or a part of a panel. A line of the square is a row or
//! a unit, whichever the kernel wants; where memory's lines are the other, the square is transposed in registers.
//!
//! ```text
//! memory along k       line: 32 numbers of a row           = 16 units of it
//! memory across        line: 16 numbers of k, 16 of k + 1  = a unit of 16 rows
//! ```
//! What lies past the last row or k is never read: loads have masks. Rounding is that of [`crate::ops::simd::to_bf16`], to the bit.
use super::pack::{Lying, Panels, Part, Rounding, SIDE};
use crate::ops::simd::{Level, fetch, level};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

type Lines = [__m512i; SIDE];

/// Numbers on their way into units. The callers of its functions have AVX-512; `p` points at n numbers, or n is 0.
#[allow(clippy::missing_safety_doc)]
pub trait Halves: Copy {
    /// n of 32 neighbours in k.
    unsafe fn along(p: *const Self, n: usize) -> __m512i;
    /// Of 16 rows n, of two neighbouring k the first or both.
    unsafe fn across(a: *const Self, b: *const Self, n: [usize; 2]) -> __m512i;
}

/// The first n lanes.
#[inline(always)]
fn first(n: usize) -> u32 {
    ((1u64 << n) - 1) as u32
}

/// The bf16 of 16 f32 in the upper halves of their lanes; the lower are anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let not_a_number = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_or_epi32(rounded, not_a_number, bits, _mm512_set1_epi32(0x0040_0000))
}

impl Halves for Rounding {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn along(p: *const Self, n: usize) -> __m512i {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let p = p.cast::<f32>();
            let low = round(_mm512_maskz_loadu_ps(first(n.min(SIDE)) as u16, p));
            let high = round(_mm512_maskz_loadu_ps(first(n.saturating_sub(SIDE)) as u16, p.wrapping_add(SIDE)));
            // the upper halves of all lanes, in order
            _mm512_permutex2var_epi16(low, _mm512_loadu_si512(UPPER.as_ptr().cast()), high)
        }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn across(a: *const Self, b: *const Self, n: [usize; 2]) -> __m512i {
        unsafe {
            let a = round(_mm512_maskz_loadu_ps(first(n[0]) as u16, a.cast()));
            let b = round(_mm512_maskz_loadu_ps(first(n[1]) as u16, b.cast()));
            _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(a), b)
        }
    }
}

/// 32 f32 rounded to bf16.
///
/// # Safety
/// The processor has AVX-512 F and BW; so many numbers lie there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn halved(x: *const f32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { Rounding::along(x.cast(), 2 * SIDE) }
}

/// Of the 32 halves of two vectors the upper one of each lane.
const UPPER: [u16; 32] = {
    let mut at = [0; 32];
    let mut i = 0;
    while i < 32 {
        at[i] = 2 * i as u16 + 1;
        i += 1;
    }
    at
};

impl Halves for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn along(p: *const Self, n: usize) -> __m512i {
        unsafe { _mm512_maskz_loadu_epi16(first(n), p.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn across(a: *const Self, b: *const Self, n: [usize; 2]) -> __m512i {
        unsafe {
            let a = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(_mm512_maskz_loadu_epi16(first(n[0]), a.cast())));
            let b = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(_mm512_maskz_loadu_epi16(first(n[1]), b.cast())));
            _mm512_or_si512(a, _mm512_slli_epi32::<16>(b))
        }
    }
}

/// Units by which memory's rows are asked for early: the next square's.
const AHEAD: usize = SIDE;
/// The same where a unit of all panels follows the other: the next two.
const UNITS_AHEAD: usize = 2;

/// The square of rows `row` … and units `unit` …, as its first `lines` lines, `line` apart: rows, or units.
///
/// # Safety
/// The processor has AVX-512 F and BW; `to` has room for these lines.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn square<T: Halves>(
    to: *mut u32,
    line: usize,
    lines: usize,
    from: Lying<T>,
    part: Part,
    [row, unit]: [usize; 2],
    of_rows: bool,
) {
    let rows = part.rows.saturating_sub(row).min(SIDE);
    let depth = part.depth.saturating_sub(2 * unit).min(2 * SIDE);
    let mut square: Lines = [_mm512_setzero_si512(); SIDE];
    if rows > 0 && depth > 0 {
        let (r, k) = (part.row + row, part.k + 2 * unit);
        let last = if from.along_k { (r + rows - 1) * from.stride + k + depth } else { (k + depth - 1) * from.stride + r + rows };
        assert!(last <= from.x.len(), "rows {r}.., k {k}..: past {} numbers", from.x.len());
        // SAFETY: within x, whose last element here was looked for above.
        square = unsafe {
            match (from.along_k, rows == SIDE && depth == 2 * SIDE) {
                (true, true) => along(from, [r, k], [SIDE, 2 * SIDE]),
                (true, false) => along(from, [r, k], [rows, depth]),
                (false, true) => across(from, [r, k], [SIDE, 2 * SIDE]),
                (false, false) => across(from, [r, k], [rows, depth]),
            }
        };
    }
    // memory's lines are not the square's
    if from.along_k != of_rows {
        transpose(&mut square);
    }
    for (i, x) in square.into_iter().enumerate().take(lines) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.add(i * line).cast(), x) };
    }
}

/// [panel][unit][row]: some units of all panels of the part, which are narrower than a square, from rows that lie side by side.
///
/// # Safety
/// As [`Source::panels`](super::Source::panels); the processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn narrow<T: Halves>(to: Panels, units: Range<usize>, from: Lying<T>, part: Part) {
    assert!(!from.along_k && to.width < SIDE, "panels of {} rows", to.width);
    let last = (part.k + part.depth - 1) * from.stride + part.row + part.rows;
    assert!(last <= from.x.len(), "{part:?}: past {} numbers", from.x.len());
    for u in units {
        // what lies past the last k is zero
        let [of_a, of_b] = [2 * u, 2 * u + 1].map(|k| k < part.depth);
        let at = from.x.as_ptr().wrapping_add((part.k + 2 * u) * from.stride + part.row);
        for (panel, row) in (0..part.rows).step_by(to.width).enumerate() {
            let (a, rows) = (at.wrapping_add(row), to.width.min(part.rows - row));
            let b = a.wrapping_add(from.stride);
            fetch(a.wrapping_add(2 * UNITS_AHEAD * from.stride));
            fetch(b.wrapping_add(2 * UNITS_AHEAD * from.stride));
            // SAFETY: within x, as asserted, or not read; the caller's promise.
            unsafe {
                let line = T::across(a, b, [of_a, of_b].map(|there| if there { rows } else { 0 }));
                let place = to.start.add(panel * to.stride + u * to.width);
                _mm512_mask_storeu_epi32(place.cast(), first(to.width) as u16, line);
            }
        }
    }
}

/// # Safety
/// AVX-512; these rows and numbers of k are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn along<T: Halves>(from: Lying<T>, [r, k]: [usize; 2], [rows, depth]: [usize; 2]) -> Lines {
    let at = from.x.as_ptr().wrapping_add(r * from.stride + k);
    let mut lines = [_mm512_setzero_si512(); SIDE];
    for (i, line) in lines.iter_mut().enumerate() {
        // SAFETY: the caller's promise; what is not there is not read.
        *line = unsafe { T::along(at.wrapping_add(i * from.stride), if i < rows { depth } else { 0 }) };
    }
    lines
}

/// # Safety
/// As [`along`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn across<T: Halves>(from: Lying<T>, [r, k]: [usize; 2], [rows, depth]: [usize; 2]) -> Lines {
    let at = from.x.as_ptr().wrapping_add(k * from.stride + r);
    let mut lines = [_mm512_setzero_si512(); SIDE];
    for (i, line) in lines.iter_mut().enumerate() {
        let (a, b) = (at.wrapping_add(2 * i * from.stride), at.wrapping_add((2 * i + 1) * from.stride));
        fetch(a.wrapping_add(2 * AHEAD * from.stride));
        fetch(b.wrapping_add(2 * AHEAD * from.stride));
        let [of_a, of_b] = [if 2 * i < depth { rows } else { 0 }, if 2 * i + 1 < depth { rows } else { 0 }];
        // SAFETY: the caller's promise; what is not there is not read.
        *line = unsafe { T::across(a, b, [of_a, of_b]) };
    }
    lines
}

/// Whether a block of so many rows and columns may leave by [`turn_block`].
pub fn turns(rows: usize, cols: usize) -> bool {
    rows <= SIDE && cols.is_multiple_of(SIDE) && level() >= Level::Avx512
}

/// The lines of `to` become, or if `add` grow by, the block's columns, which are as long as it has rows.
///
/// # Safety
/// [`turns`]; so many lines lie in `to`, which is the caller's.
#[target_feature(enable = "avx512f")]
pub unsafe fn turn_block(to: (*mut f32, usize), block: &[f32], [rows, cols]: [usize; 2], add: bool) {
    assert!(rows <= SIDE && rows * cols <= block.len());
    let there = first(rows) as u16;
    for side in (0..cols).step_by(SIDE) {
        let mut square: Lines = [_mm512_setzero_si512(); SIDE];
        for (i, line) in square.iter_mut().enumerate().take(rows) {
            // SAFETY: within the block, as asserted.
            *line = unsafe { _mm512_loadu_si512(block.as_ptr().add(i * cols + side).cast()) };
        }
        transpose(&mut square);
        for (i, line) in square.into_iter().enumerate() {
            let (at, line) = (to.0.wrapping_add((side + i) * to.1), _mm512_castsi512_ps(line));
            // SAFETY: the caller's promise.
            unsafe {
                let line = if add { _mm512_add_ps(line, _mm512_maskz_loadu_ps(there, at)) } else { line };
                _mm512_mask_storeu_ps(at, there, line);
            }
        }
    }
}

/// to = fromᵀ, of f32, whose rows lie so many numbers apart.
///
/// # Safety
/// AVX-512; sixteen rows of sixteen numbers in each.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn turn(to: (*mut f32, usize), from: (*const f32, usize)) {
    let mut square: Lines = [_mm512_setzero_si512(); SIDE];
    for (i, line) in square.iter_mut().enumerate() {
        // SAFETY: the caller's promise, here and below.
        *line = unsafe { _mm512_loadu_si512(from.0.add(i * from.1).cast()) };
    }
    transpose(&mut square);
    for (i, line) in square.into_iter().enumerate() {
        unsafe { _mm512_storeu_si512(to.0.add(i * to.1).cast(), line) };
    }
}

/// Pairs of rows, pairs of pairs, then quarters of the vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(x: &mut Lines) {
    let mut y = *x;
    for i in (0..SIDE).step_by(2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for i in (0..SIDE).step_by(4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for half in [0, 8] {
        for i in half..half + 4 {
            y[i] = _mm512_shuffle_i32x4::<0x88>(x[i], x[i + 4]);
            y[i + 4] = _mm512_shuffle_i32x4::<0xdd>(x[i], x[i + 4]);
        }
    }
    for i in 0..8 {
        x[i] = _mm512_shuffle_i32x4::<0x88>(y[i], y[i + 8]);
        x[i + 8] = _mm512_shuffle_i32x4::<0xdd>(y[i], y[i + 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::{self, Number, rounding};
    use super::*;
    use crate::ops::simd::{Level, supported};

    /// Any bits; often what is rounded to even, overflows, has lost its payload, or is no number.
    fn numbers(n: usize) -> Vec<f32> {
        const RARE: [u32; 8] =
            [0x7f80_0001, 0xffff_ffff, 0x7f80_0000, 0x8000_0001, 0x7f7f_ffff, 0x3f80_8000, 0x3f81_8000, 0x3f80_8001];
        let mut bits = 1u32;
        let any = (0..n).map(|i| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(if i % 3 == 0 { RARE[bits as usize >> 16 & 7] } else { bits })
        });
        any.collect()
    }

    fn hold<T: Number + Halves>(x: &[T]) {
        const NONE: u32 = 0xdead_beef;
        for (rows, depth) in [1, 7, 16, 17, 30].into_iter().flat_map(|rows| [1, 2, 31, 32, 33, 50].map(|depth| (rows, depth))) {
            for (along_k, of_rows) in [(true, true), (true, false), (false, true), (false, false)] {
                let part = Part { row: 3, rows, k: 2, depth, pair: 2 };
                let [last, first, stride] = if along_k { [2 + rows, 2 + depth, 61] } else { [1 + depth, 3 + rows, 37] };
                // nothing lies behind the last number
                let from = Lying { x: &x[..last * stride + first], stride, along_k };
                for at in [[0, 0], [16, 0], [0, 16], [16, 16], [32, 0]] {
                    for (line, lines) in [(16, 16), (20, 16), (32, 5)] {
                        let mut to = vec![NONE; SIDE * line];
                        // SAFETY: the level was asked; sixteen lines lie there.
                        unsafe { square(to.as_mut_ptr(), line, lines, from, part, at, of_rows) };
                        let expected = pack::square(from, part, at, of_rows);
                        for (i, unit) in to.iter().enumerate() {
                            let there = i / line < lines && i % line < SIDE;
                            let expected = if there { expected[i / line][i % line] } else { NONE };
                            let what = format!("{part:?} {at:?}, along k {along_k}, of rows {of_rows}, {lines} lines");
                            assert_eq!(*unit, expected, "{what}: unit {i}");
                        }
                    }
                }
            }
        }
    }

    /// Panels of twelve rows, of which the last is not whole.
    fn hold_narrow<T: Number + Halves>(x: &[T]) {
        const NONE: u32 = 0xdead_beef;
        const WIDTH: usize = 12;
        for (rows, depth) in [1, 12, 30].into_iter().flat_map(|rows| [1, 2, 31, 50].map(|depth| (rows, depth))) {
            let part = Part { row: 3, rows, k: 2, depth, pair: 2 };
            // nothing lies behind the last number
            let from = Lying { x: &x[..(1 + depth) * 37 + 3 + rows], stride: 37, along_k: false };
            let (stride, units) = (WIDTH * 30 + 5, depth.div_ceil(2) + 2);
            let mut room = vec![NONE; rows.div_ceil(WIDTH) * stride];
            let to = Panels { start: room.as_mut_ptr(), width: WIDTH, stride };
            // SAFETY: the level was asked; the panels lie there.
            unsafe { narrow(to, 1..units, from, part) };
            for (i, unit) in room.iter().enumerate() {
                let (panel, u, row) = (i / stride, i % stride / WIDTH, i % stride % WIDTH);
                let there = (1..units).contains(&u);
                let expected = || pack::square(from, part, [panel * WIDTH + row, u], false)[0][0];
                // rows that the last panel lacks are zero
                let expected = if !there {
                    NONE
                } else if panel * WIDTH + row < rows {
                    expected()
                } else {
                    0
                };
                assert_eq!(*unit, expected, "{part:?}: panel {panel}, unit {u}, row {row}");
            }
        }
    }

    #[test]
    fn are_those_packed_number_by_number() {
        if supported() < Level::Avx512 {
            return println!("squares in AVX-512: passed over, the processor lacks it");
        }
        let x = numbers(61 * 60);
        let halves: Vec<_> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        hold(rounding(&x));
        hold(&halves);
        hold_narrow(rounding(&x));
        hold_narrow(&halves);
    }
}
