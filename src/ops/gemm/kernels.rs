//! The kernels that a product may use, and which one does.
//!
//! | kernel | operands | block of c | needs |
//! |---|---|---|---|
//! | portable | f32 | 4 × 16 | nothing |
//! | avx2 | f32 | 6 × 16 | AVX2, FMA |
//! | avx512 | f32 | 12 × 32 | AVX-512 F |
//! | avx512_bf16 | pairs of bf16 | 12 × 32 | AVX-512 BF16 |
//! | amx | pairs of bf16 | 32 × 32 | AMX BF16, and the kernel's permission |
//!
//! The first three serve bf16 as well, with operands that were rounded while they were copied. Which is fastest is not a
//! matter of the instructions alone (`vdpbf16ps` doubles f32's rate on Zen 5 and halves it on Sapphire Rapids): it is
//! measured once ([`super::probe`]), unless `LLM_TRAIN_ISA` names one.
#[cfg(target_arch = "x86_64")]
use super::{amx, x86};
use super::{micro::Block, portable};
use crate::device::Precision;
use crate::ops::simd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

pub struct Kernel {
    pub name: &'static str,
    /// Rows and columns of a block. Panels of b have `panel` columns; a block is one or two of them wide.
    pub rows: usize,
    pub cols: usize,
    pub panel: usize,
    /// Numbers in a unit of 4 bytes along k: 1 (f32) or 2 (bf16).
    pub pair: usize,
    /// Units that are multiplied together at once: k is padded with zeros to a multiple.
    pub depth: usize,
    /// Rows of a must come in multiples of this: the rest is zero.
    pub rows_at_once: usize,
    /// Rows and columns of c that a task sums: see [`super::tiles`].
    pub tile: [usize; 2],
    /// Whether it reads rows of b where they lie.
    pub b_lies: bool,
    /// Units of k between two passes over c: a panel's part, or that of a block's rows, then stays in the first-level cache.
    pub stretch: usize,
    pub available: fn() -> bool,
    /// Multiplies `rows` rows of a block. See [`Block`].
    pub multiply: unsafe fn(usize, Block),
}

pub static PORTABLE: Kernel = Kernel {
    name: "portable",
    rows: 4,
    cols: 16,
    panel: 16,
    pair: 1,
    depth: 1,
    rows_at_once: 1,
    // measured (Zen 3)
    tile: [96, 256],
    b_lies: false,
    stretch: 512,
    available: || true,
    multiply: portable::multiply_4x16,
};

#[cfg(target_arch = "x86_64")]
pub static AVX2: Kernel =
    Kernel { name: "avx2", rows: 6, available: || simd::supported() >= simd::Level::Avx2, multiply: x86::avx2_6x16, ..PORTABLE };

#[cfg(target_arch = "x86_64")]
pub static AVX512: Kernel = Kernel {
    name: "avx512",
    rows: 12,
    cols: 32,
    panel: 32,
    b_lies: true,
    stretch: 1024,
    available: || simd::supported() >= simd::Level::Avx512,
    multiply: x86::avx512_12x32,
    ..PORTABLE
};

#[cfg(target_arch = "x86_64")]
pub static AVX512_BF16: Kernel = Kernel {
    name: "avx512_bf16",
    pair: 2,
    available: || (AVX512.available)() && is_x86_feature_detected!("avx512bf16"),
    multiply: x86::avx512_bf16_12x32,
    ..AVX512
};

#[cfg(target_arch = "x86_64")]
pub static AMX: Kernel = Kernel {
    name: "amx",
    rows: 32,
    cols: 32,
    panel: 16,
    pair: 2,
    depth: 16,
    rows_at_once: 16,
    // measured (Intel AMX): 2 % of a step's products beside 96 × 256
    tile: [192, 256],
    // structural: a block's rows, 48 KiB, fill the first-level cache, which b passes by
    stretch: 384,
    available: || (AVX512_BF16.available)() && amx::available(),
    multiply: amx::multiply_32x32,
    ..PORTABLE
};

/// All that were compiled in, slowest first.
#[cfg(target_arch = "x86_64")]
pub static ALL: [&Kernel; 5] = [&PORTABLE, &AVX2, &AVX512, &AVX512_BF16, &AMX];
#[cfg(not(target_arch = "x86_64"))]
pub static ALL: [&Kernel; 1] = [&PORTABLE];

impl Kernel {
    /// Whether products of this precision may use it.
    pub fn serves(&self, precision: Precision) -> bool {
        (self.pair == 1 || precision == Precision::Bf16) && (self.available)()
    }
    /// Whether it multiplies tiles, in which 16 rows of a come together.
    pub fn of_tiles(&self) -> bool {
        self.rows_at_once > 1
    }
    /// Units that k numbers fill.
    pub fn units(&self, k: usize) -> usize {
        k.div_ceil(self.pair).next_multiple_of(self.depth)
    }
}

/// Null: not asked yet.
static CHOSEN: [AtomicPtr<Kernel>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// The kernel for a precision: what [`choose`] said last, or else the last that this processor has.
pub fn chosen(precision: Precision) -> &'static Kernel {
    // SAFETY: null, or what `choose` was given: it lives for ever, and nobody writes it.
    if let Some(kernel) = unsafe { CHOSEN[precision as usize].load(Ordering::Relaxed).as_ref() } {
        return kernel;
    }
    let forced = simd::forced().and_then(|name| named(&name));
    let best = || ALL.into_iter().rev().find(|k| k.serves(precision)).expect("the portable one serves");
    let kernel = forced.filter(|k| k.serves(precision)).unwrap_or_else(best);
    choose(precision, kernel);
    kernel
}

/// Decides for this process, until the next word.
pub fn choose(precision: Precision, kernel: &'static Kernel) {
    CHOSEN[precision as usize].store(ptr::from_ref(kernel).cast_mut(), Ordering::Relaxed);
}

pub fn named(name: &str) -> Option<&'static Kernel> {
    ALL.into_iter().find(|k| k.name == name)
}
