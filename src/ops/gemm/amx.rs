//! The kernel of AMX: tiles of 16 rows of 64 bytes, multiplied by `tdpbf16ps`. Stable Rust has no intrinsics for them yet,
//! so they are written as instructions.
//!
//! ```text
//! c (32, 32) = four tiles      a (32 rows, 32 k) = two tiles, packed or read where it lies      b (32 k, 32 columns) = two panels
//! tdpbf16ps  c[i][j] += Σ_p  a[i][2p] b[p][2j] + a[i][2p+1] b[p][2j+1]                p < 16
//! ```
//! a's rows are read again for each panel: they stay in the first-level cache, since b is loaded as what is not to stay there (`tileloaddt1`).
//! Measured, a tile of 192 × 256 from the second-level cache: 2,083 beside 1,964 GFLOP/s where k = 384, 2,214 beside 1,672 where k = 768.
use super::micro::Block;
use std::arch::asm;
use std::cell::Cell;

/// What `ldtilecfg` reads: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static FULL: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether the processor has tiles and bf16 for them, and Linux lets this process use them.
pub fn available() -> bool {
    /// CPUID 7.0, EDX.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`: once a process; threads started later inherit it.
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XTILEDATA: libc::c_ulong = 18;
    static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *GRANTED.get_or_init(|| {
        let bits = std::arch::x86_64::__cpuid_count(7, 0).edx;
        let has = bits & AMX_BF16 != 0 && bits & AMX_TILE != 0;
        // SAFETY: the call asks for a permission and touches no memory of ours.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0
    })
}

thread_local! {
    /// Tiles are shaped once a thread and keep their shape: nothing else here uses them.
    static SHAPED: Cell<bool> = const { Cell::new(false) };
}

/// 16 or 32 rows.
///
/// # Safety
/// [`available`]; the rows of a, two panels of b and 32 columns of c are there.
pub unsafe fn multiply_32x32(rows: usize, x: Block) {
    if !SHAPED.replace(true) {
        // SAFETY: the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack)) };
    }
    debug_assert!((x.a_unit == 1 || x.a_row == 16) && x.units.is_multiple_of(16) && (rows == 16 || rows == 32));
    // SAFETY: the caller's promise.
    unsafe { if rows == 16 { upper(x) } else { whole(x) } }
}

/// The steps of a product: 32 k, one or two tiles of a and one of each panel.
macro_rules! tiles {
    ($x:expr, begin: [$($begin:literal)*], resume: [$($resume:literal)*], step: [$($step:literal)*], end: [$($end:literal)*]) => {{
        let x: Block = $x;
        let (c, c_row) = (x.c, 4 * x.c_row);
        let (low, a_low) = (x.c.wrapping_add(16 * x.c_row), x.a.wrapping_add(16 * x.a_row));
        if x.add {
            asm!($($resume,)* c = in(reg) c, low = in(reg) low, s = in(reg) c_row, options(nostack));
        } else {
            asm!($($begin,)* options(nostack));
        }
        asm!(
            "2:", $($step,)*
            "add {a}, {step}", "add {low}, {step}", "add {b}, 1024", "add {right}, 1024", "dec {n}", "jnz 2b",
            a = inout(reg) x.a => _, low = inout(reg) a_low => _, s = in(reg) 4 * x.a_row, step = in(reg) 64 * x.a_unit,
            b = inout(reg) x.b => _, right = inout(reg) x.b.wrapping_add(x.b_panel) => _, t = in(reg) 64usize,
            n = inout(reg) x.units / 16 => _, options(nostack)
        );
        asm!($($end,)* c = in(reg) c, low = in(reg) low, s = in(reg) c_row, options(nostack));
    }};
}

/// # Safety
/// As [`multiply_32x32`].
#[rustfmt::skip]
unsafe fn whole(x: Block) {
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(x,
            begin: ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
            resume: [
                "tileloadd tmm0, [{c} + {s}*1]" "tileloadd tmm1, [{c} + {s}*1 + 64]"
                "tileloadd tmm2, [{low} + {s}*1]" "tileloadd tmm3, [{low} + {s}*1 + 64]"
            ],
            step: [
                "tileloaddt1 tmm6, [{b} + {t}*1]" "tileloadd tmm4, [{a} + {s}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloaddt1 tmm7, [{right} + {t}*1]" "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{low} + {s}*1]" "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"
            ],
            end: [
                "tilestored [{c} + {s}*1], tmm0" "tilestored [{c} + {s}*1 + 64], tmm1"
                "tilestored [{low} + {s}*1], tmm2" "tilestored [{low} + {s}*1 + 64], tmm3"
            ]);
    }
}

/// # Safety
/// As [`multiply_32x32`].
#[rustfmt::skip]
unsafe fn upper(x: Block) {
    // SAFETY: the caller's promise; `low` is never followed here.
    unsafe {
        tiles!(x,
            begin: ["tilezero tmm0" "tilezero tmm1"],
            resume: ["tileloadd tmm0, [{c} + {s}*1]" "tileloadd tmm1, [{c} + {s}*1 + 64]" "/* {low} */"],
            step: [
                "tileloaddt1 tmm6, [{b} + {t}*1]" "tileloadd tmm4, [{a} + {s}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloaddt1 tmm7, [{right} + {t}*1]" "tdpbf16ps tmm1, tmm4, tmm7"
            ],
            end: ["tilestored [{c} + {s}*1], tmm0" "tilestored [{c} + {s}*1 + 64], tmm1" "/* {low} */"]);
    }
}
