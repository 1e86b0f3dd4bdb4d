//! Kernels of processors that may not be at hand, with their instructions written out in plain Rust: packing, tiles and the
//! shipped loop are the ones tested, only the instructions are swapped.
use half::bf16;
use llm_train::ops::gemm::Kernel;
use llm_train::ops::gemm::kernels::PORTABLE;
use llm_train::ops::gemm::micro::{Block, Lanes, multiply};

/// The two bf16 of a unit.
fn pair(unit: f32) -> [f32; 2] {
    let bits = unit.to_bits();
    [bf16::from_bits(bits as u16).to_f32(), bf16::from_bits((bits >> 16) as u16).to_f32()]
}

/// Sixteen sums of `vdpbf16ps`: sum + a₀b₀ + a₁b₁.
struct Pairs;

impl Lanes for Pairs {
    type V = [f32; 16];
    const N: usize = 16;
    const LYING: bool = false;
    unsafe fn zero() -> Self::V {
        [0.0; 16]
    }
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's promise, here and below.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    unsafe fn splat(p: *const f32) -> Self::V {
        [unsafe { *p }; 16]
    }
    unsafe fn fma(a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (pair(a[i]), pair(b[i]));
            sum[i] + a0 * b0 + a1 * b1
        })
    }
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
}

unsafe fn pairs_12x32(rows: usize, x: Block) {
    macro_rules! rows {
        ($($n:literal)+) => {
            // SAFETY: the caller's promise.
            match rows { $($n => unsafe { multiply::<Pairs, $n, 2>(x) },)+ _ => unreachable!("{rows} rows") }
        };
    }
    rows!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// AVX-512 BF16.
pub static PAIRS: Kernel =
    Kernel { name: "avx512_bf16, emulated", rows: 12, cols: 32, panel: 32, pair: 2, multiply: pairs_12x32, ..PORTABLE };

/// What `tileloadd` and `tdpbf16ps` do: c[i][j] += Σ_p a[i][2p] b[p][2j] + a[i][2p+1] b[p][2j+1], tile by tile.
unsafe fn tiles_32x32(rows: usize, x: Block) {
    assert!(
        (x.a_unit == 1 || x.a_row == 16) && x.units.is_multiple_of(16) && (rows == 16 || rows == 32),
        "{rows} rows of {} units",
        x.units
    );
    for (down, across) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        if 16 * down >= rows {
            continue;
        }
        for i in 0..16 {
            for j in 0..16 {
                let at = (16 * down + i) * x.c_row + 16 * across + j;
                // SAFETY: as the kernel's: the rows of a, two panels of b, the block of c.
                unsafe {
                    let mut sum = if x.add { *x.c.add(at) } else { 0.0 };
                    for u in 0..x.units {
                        let [a0, a1] = pair(*x.a.add((16 * down + i) * x.a_row + u / 16 * 16 * x.a_unit + u % 16));
                        let [b0, b1] = pair(*x.b.add(across * x.b_panel + u * 16 + j));
                        sum += a0 * b0 + a1 * b1;
                    }
                    *x.c.add(at) = sum;
                }
            }
        }
    }
}

/// AMX.
pub static TILES: Kernel = Kernel {
    name: "amx, emulated",
    rows: 32,
    cols: 32,
    panel: 16,
    pair: 2,
    depth: 16,
    rows_at_once: 16,
    tile: [192, 256],
    stretch: 384,
    multiply: tiles_32x32,
    ..PORTABLE
};
