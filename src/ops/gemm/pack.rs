//! Operands in the form that kernels read: units of 4 bytes (one f32, or two bf16 of neighbouring k).
//!
//! ```text
//! a   rows    [row][unit]             as it may lie in memory already: then nothing is copied
//!     across  [unit][row]             where memory holds it transposed, and the kernel can do without rows
//! b   panels  [panel][unit][column]   column < panel width
//! ```
//! Numbers are rounded or widened on the way. What lies past the last row, column or k is zero.
use crate::ops::simd::{round_bf16, wide};
use half::bf16;

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

/// A number on its way into a unit.
trait Number: Copy {
    fn whole(self) -> u32;
    fn half(self) -> u16;
}
impl Number for f32 {
    #[inline(always)]
    fn whole(self) -> u32 {
        self.to_bits()
    }
    #[inline(always)]
    fn half(self) -> u16 {
        (round_bf16(self).to_bits() >> 16) as u16
    }
}
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Rounding(f32);
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
#[derive(Clone, Copy)]
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
    /// [row][unit], rows `stride` units apart, `units` of each.
    pub fn rows(&self, to: &mut [u32], stride: usize, units: usize, part: Part) {
        match self.numbers {
            Numbers::F32(x) => rows_plain(to, stride, units, x, self.stride, self.along_k, part),
            Numbers::Rounding(x) => rows_rounding(to, stride, units, rounding(x), self.stride, self.along_k, part),
            Numbers::Bf16(x) => rows_bf16(to, stride, units, x, self.stride, self.along_k, part),
        }
    }

    /// [unit][row], units `stride` apart: a panel, or a where the kernel reads it so.
    pub fn across(&self, to: &mut [u32], stride: usize, units: usize, part: Part) {
        match self.numbers {
            Numbers::F32(x) => across_plain(to, stride, units, x, self.stride, self.along_k, part),
            Numbers::Rounding(x) => across_rounding(to, stride, units, rounding(x), self.stride, self.along_k, part),
            Numbers::Bf16(x) => across_bf16(to, stride, units, x, self.stride, self.along_k, part),
        }
    }
}

fn rounding(x: &[f32]) -> &[Rounding] {
    // SAFETY: `Rounding` is an f32 by another name.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

wide! {
    fn rows_plain(to: &mut [u32], stride: usize, units: usize, x: &[f32], ld: usize, along_k: bool, part: Part) {
        rows(to, stride, units, x, ld, along_k, part);
    }
    fn rows_rounding(to: &mut [u32], stride: usize, units: usize, x: &[Rounding], ld: usize, along_k: bool, part: Part) {
        rows(to, stride, units, x, ld, along_k, part);
    }
    fn rows_bf16(to: &mut [u32], stride: usize, units: usize, x: &[bf16], ld: usize, along_k: bool, part: Part) {
        rows(to, stride, units, x, ld, along_k, part);
    }
    fn across_plain(to: &mut [u32], stride: usize, units: usize, x: &[f32], ld: usize, along_k: bool, part: Part) {
        across(to, stride, units, x, ld, along_k, part);
    }
    fn across_rounding(to: &mut [u32], stride: usize, units: usize, x: &[Rounding], ld: usize, along_k: bool, part: Part) {
        across(to, stride, units, x, ld, along_k, part);
    }
    fn across_bf16(to: &mut [u32], stride: usize, units: usize, x: &[bf16], ld: usize, along_k: bool, part: Part) {
        across(to, stride, units, x, ld, along_k, part);
    }
}

#[inline(always)]
fn rows<T: Number>(to: &mut [u32], stride: usize, units: usize, x: &[T], ld: usize, along_k: bool, p: Part) {
    if along_k {
        for (r, to) in to.chunks_mut(stride).take(p.rows).enumerate() {
            line(&mut to[..units], &x[(p.row + r) * ld + p.k..][..p.depth], p.pair);
        }
    } else {
        turn(units, p.rows, |lines, u, r, n| strip(lines, x, ld, p, u, r, n), |u, r, square| {
            for (i, row) in square.iter().enumerate().take(p.rows - r) {
                let n = SIDE.min(units - u);
                to[(r + i) * stride + u..][..n].copy_from_slice(&row[..n]);
            }
        });
    }
}

#[inline(always)]
fn across<T: Number>(to: &mut [u32], stride: usize, units: usize, x: &[T], ld: usize, along_k: bool, p: Part) {
    if along_k {
        let read = |lines: &mut Square, r: usize, u: usize, _: usize| {
            let (from, upto) = (u * p.pair, ((u + SIDE) * p.pair).min(p.depth));
            for (i, to) in lines.iter_mut().enumerate() {
                let x = if r + i < p.rows { &x[(p.row + r + i) * ld + p.k..][from.min(upto)..upto] } else { &[] };
                line(to, x, p.pair);
            }
        };
        turn(stride, units, read, |r, u, square| {
            for (i, row) in square.iter().enumerate().take(units - u) {
                let n = SIDE.min(stride - r);
                to[(u + i) * stride + r..][..n].copy_from_slice(&row[..n]);
            }
        });
    } else {
        for (u, to) in to.chunks_mut(stride).take(units).enumerate() {
            let n = p.rows.min(to.len());
            across_line(&mut to[..n], x, ld, p, u);
            to[n..].fill(0);
        }
    }
}

/// Units of one row: numbers that are neighbours in k.
#[inline(always)]
fn line<T: Number>(to: &mut [u32], x: &[T], pair: usize) {
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

/// Unit `u` of neighbouring rows: one or two of memory's rows.
#[inline(always)]
fn across_line<T: Number>(to: &mut [u32], x: &[T], ld: usize, p: Part, u: usize) {
    let at = |k: usize| (k < p.depth).then(|| &x[(p.k + k) * ld + p.row..][..to.len()]);
    match (at(u * p.pair), at(u * p.pair + p.pair - 1)) {
        (None, _) => to.fill(0),
        (Some(a), _) if p.pair == 1 => to.iter_mut().zip(a).for_each(|(to, a)| *to = a.whole()),
        (Some(a), None) => to.iter_mut().zip(a).for_each(|(to, a)| *to = u32::from(a.half())),
        (Some(a), Some(b)) => {
            to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = u32::from(a.half()) | u32::from(b.half()) << 16);
        }
    }
}

/// Structural: a side of the squares that are transposed: one vector of AVX-512.
const SIDE: usize = 16;
type Square = [[u32; SIDE]; SIDE];

/// Transposes square by square: `read(lines, line, place, how many)` gives lines from some place on, `write(line, place,
/// turned)` gets what stands at each of these places.
#[inline(always)]
fn turn(
    lines: usize,
    places: usize,
    mut read: impl FnMut(&mut Square, usize, usize, usize),
    mut write: impl FnMut(usize, usize, &Square),
) {
    let (mut square, mut turned) = ([[0; SIDE]; SIDE], [[0; SIDE]; SIDE]);
    for line in (0..lines).step_by(SIDE) {
        for place in (0..places).step_by(SIDE) {
            read(&mut square, line, place, SIDE.min(lines - line));
            transpose(&mut turned, &square);
            write(line, place, &turned);
        }
    }
}

/// Units u… of rows r…, where memory holds neighbouring rows side by side.
#[inline(always)]
fn strip<T: Number>(lines: &mut Square, x: &[T], ld: usize, p: Part, u: usize, r: usize, n: usize) {
    let width = SIDE.min(p.rows - r);
    for (i, to) in lines.iter_mut().enumerate() {
        if i < n {
            across_line(&mut to[..width], x, ld, Part { row: p.row + r, ..p }, u + i);
        } else {
            *to = [0; SIDE];
        }
    }
}

#[inline(always)]
fn transpose(to: &mut Square, from: &Square) {
    for i in 0..SIDE {
        for j in 0..SIDE {
            to[i][j] = from[j][i];
        }
    }
}
