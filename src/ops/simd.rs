//! Wide loops without a compiler flag: [`wide!`] compiles a function's body for AVX-512, for AVX2 and for the baseline,
//! and picks at run time. Inside, plain loops over slices vectorise by themselves; sums are written over [`LANES`]
//! accumulators, because the compiler may not reorder a float sum, and so they are the same sum whatever the vector width.
//!
//! ```text
//! wide! { fn scale(y: &mut [f32], a: f32) { for y in y { *y *= a } } }
//! ```
//! [`exp2`] and [`exp`] are branch-free, so that loops over them vectorise: 2ⁿ, and a polynomial of degree 5 that is 1 at 0 and otherwise as near
//! to 2ʳ, |r| ≤ ½, as can be (1.1e-7 of it).

use half::bf16;
use std::f32::consts::LOG2_E;
use std::sync::atomic::{AtomicU8, Ordering};

/// Structural: accumulators of a sum; one vector of AVX-512, two of AVX2. A change changes the last bits of results.
pub const LANES: usize = 16;

/// Defines functions whose bodies are compiled for several instruction sets and dispatched at run time. What the body
/// calls must be `#[inline(always)]` to be compiled along.
macro_rules! wide {
    ($($(#[$attribute:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$attribute])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                match $crate::ops::simd::level() {
                    // SAFETY: the processor has these instructions: `level` asked it.
                    $crate::ops::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::ops::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::simd::Level::Portable => {}
                }
            }
            portable($($arg),*)
        }
    )+};
}
pub(super) use wide;

/// The instruction sets that [`wide!`] compiles for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Portable,
    Avx2,
    Avx512,
}

/// 0: not asked yet; otherwise the level in use and one.
static KNOWN: AtomicU8 = AtomicU8::new(0);

/// The one in use: the widest that this processor has, or less where `LLM_TRAIN_ISA` or [`limit`] asks for less. Asked for every few
/// hundred numbers: it has to be no call.
#[inline(always)]
pub fn level() -> Level {
    match KNOWN.load(Ordering::Relaxed) {
        1 => Level::Portable,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => first_asked(),
    }
}

#[cold]
fn first_asked() -> Level {
    limit(forced().map_or(Level::Avx512, |name| beside(&name)));
    level()
}

/// Nothing wider than `most` from now on, in the whole process.
pub fn limit(most: Level) {
    KNOWN.store(supported().min(most) as u8 + 1, Ordering::Relaxed);
}

/// The level of all else where products use the kernel `name`.
pub fn beside(name: &str) -> Level {
    match name {
        "portable" => Level::Portable,
        "avx2" => Level::Avx2,
        _ => Level::Avx512,
    }
}

/// The widest that this processor has.
pub fn supported() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        if fma && avx512 {
            return Level::Avx512;
        }
        if fma {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// The environment variable that names the kernels to use.
pub const ISA: &str = "LLM_TRAIN_ISA";

/// What it says.
pub fn forced() -> Option<String> {
    std::env::var(ISA).ok().filter(|name| !name.is_empty())
}

/// 2ˣ within 2 units in the last place; 0 below −126, 2^127.49 above that, NaN stays NaN.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const LOW: f32 = -126.0;
    let clamped = clamp(x, LOW, 127.49);
    let shifted = clamped + SHIFT;
    let r = clamped - (shifted - SHIFT);
    if x < LOW { 0.0 } else { power(r, shifted) }
}

/// eˣ within 2 units in the last place; 0 below −87.33, e^88.37 above that, NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.33;
    let clamped = clamp(x, LOW, 88.37);
    let shifted = clamped.mul_add(LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // x log₂ e − n: the product's rounding would be seen, so it is taken in two parts
    let high = clamped.mul_add(LOG2_E, -n);
    let r = clamped.mul_add(LOG2_E_REST, high);
    if x < LOW { 0.0 } else { power(r, shifted) }
}

/// Comparisons, not min and max: those would forget a NaN.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// 1.5 · 2²³: adding it leaves round(x) in the low bits of the mantissa.
const SHIFT: f32 = 12_582_912.0;
/// What log₂ e is more than its f32.
const LOG2_E_REST: f32 = 1.925_963e-8;

/// 2^(r + n), |r| ≤ ½, of n + [`SHIFT`].
#[allow(clippy::approx_constant)] // the polynomial's own: ln 2 less 2e-7
#[inline(always)]
fn power(r: f32, shifted: f32) -> f32 {
    let p = 1.326_465_2e-3_f32;
    let p = p.mul_add(r, 9.671_511e-3);
    let p = p.mul_add(r, 5.550_734e-2);
    let p = p.mul_add(r, 2.402_224_2e-1);
    let p = p.mul_add(r, 6.931_47e-1);
    let p = p.mul_add(r, 1.0);
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// 1 / (1 + e⁻ˣ), within 6e-7 of itself; below −88.37 it stays at 4e-39, where exp stops growing. The hyperbolic
/// tangent is 2σ(2x) − 1: GELU is written with σ in its place.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// 1 / (1 + 2⁻ᵗ): the logistic function of t ln 2.
#[inline(always)]
pub fn sigmoid2(t: f32) -> f32 {
    1.0 / (1.0 + exp2(-t))
}

/// Adds the lanes in a fixed tree.
#[inline(always)]
pub fn fold(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ_i f(x₀[i], x₁[i], …), of several numbers at once, each in [`LANES`] interleaved sums; all x are as long as the first. What lies behind
/// them is asked for: with rows, the next one.
#[inline(always)]
pub fn sums<const I: usize, const N: usize>(x: [&[f32]; I], f: impl Fn([f32; I]) -> [f32; N]) -> [f32; N] {
    let len = x[0].len();
    let mut lanes = [[0f32; LANES]; N];
    // chunks of a known length, or the compiler makes no vectors of this
    let chunks = x.map(|x| x[..len].as_chunks::<LANES>());
    for chunk in 0..len / LANES {
        let x: [&[f32; LANES]; I] = std::array::from_fn(|i| &chunks[i].0[chunk]);
        x.iter().for_each(|x| fetch(x.as_ptr().wrapping_add(len)));
        for lane in 0..LANES {
            let found = f(x.map(|x| x[lane]));
            for n in 0..N {
                lanes[n][lane] += found[n];
            }
        }
    }
    for lane in 0..len % LANES {
        let found = f(chunks.map(|(_, rest)| rest[lane]));
        for n in 0..N {
            lanes[n][lane] += found[n];
        }
    }
    lanes.map(fold)
}

/// aᵀ b.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (i, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
        lanes[i] = a.mul_add(*b, lanes[i]);
    }
    fold(lanes)
}

/// The largest element; NaN if there is one, −∞ if there is none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    // written so that a NaN in x is taken, and then kept
    let larger = |m: f32, x: f32| if x <= m || m.is_nan() { m } else { x };
    // four vectors, since one comparison waits for the one before
    const WIDTH: usize = 4 * LANES;
    let mut lanes = [f32::NEG_INFINITY; WIDTH];
    let (whole, rest) = x.as_chunks::<WIDTH>();
    for x in whole {
        for i in 0..WIDTH {
            lanes[i] = larger(lanes[i], x[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    let mut half = WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = larger(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Rounds to the nearest bfloat16, ties to even, and back: what a bf16 product reads. NaN stays NaN.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// x rounded to bf16, as it is stored. Not a number stays one, whose payload may lie in the bits that are dropped.
#[inline(always)]
pub fn to_bf16(x: f32) -> bf16 {
    let quiet = if x.is_nan() { 0x0040_0000 } else { 0 };
    bf16::from_bits(((round_bf16(x).to_bits() | quiet) >> 16) as u16)
}

/// x, which f32 holds as it is.
#[inline(always)]
pub fn from_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

wide! {
    /// y = x rounded to bf16, as far as y reaches.
    pub fn halve(y: &mut [bf16], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = to_bf16(*x);
        }
    }

    /// y = x, as far as y reaches.
    pub fn widen(y: &mut [f32], x: &[bf16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = from_bf16(*x);
        }
    }

    /// y += x.
    pub fn add_bf16_to(y: &mut [f32], x: &[bf16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += from_bf16(*x);
        }
    }
}

/// A prefetch with this hint, where the processor has them.
macro_rules! ask {
    ($p:expr, $hint:ident) => {{
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch of any address changes no content and never faults.
        unsafe {
            use std::arch::x86_64 as x86;
            x86::_mm_prefetch::<{ x86::$hint }>($p.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = $p;
    }};
}

/// Asks for the cache line at `p`, wherever that points: a hint, which reads nothing.
#[inline(always)]
pub fn fetch<T>(p: *const T) {
    ask!(p, _MM_HINT_T0)
}

/// As [`fetch`], into the second-level cache: of what is needed a little later.
#[inline(always)]
pub fn fetch_soon<T>(p: *const T) {
    ask!(p, _MM_HINT_T1)
}

/// As [`fetch`], for a line that will be written.
#[inline(always)]
pub fn fetch_to_write<T>(p: *const T) {
    ask!(p, _MM_HINT_ET0)
}

wide! {
    /// y += x.
    pub fn add_to(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// y = a + b.
    pub fn sum_of_two(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_two_units_of_the_last_place() {
        let hold = |name: &str, low: f32, high: f32, f: fn(f32) -> f32, exact: fn(f64) -> f64| {
            let error = |i: i32| {
                let x = low + (high - low) * (i as f32) / 2e6;
                (f64::from(f(x)) / exact(f64::from(x)) - 1.0).abs()
            };
            let worst = (0..2_000_000).map(error).fold(0.0, f64::max);
            assert!(worst < 2.0 * 2f64.powi(-24) * 2.0, "{name}: relative error {worst:e}");
        };
        hold("exp", -87.3, 88.3, exp, f64::exp);
        hold("exp2", -126.0, 127.4, exp2, f64::exp2);
    }

    #[test]
    fn sigmoid_is_within_its_bound_and_tanh_with_it() {
        for i in 0..1_000_000 {
            let x = -80.0 + 160.0 * (i as f32) / 1e6;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - exact).abs() < 6e-7 * exact, "σ({x})");
            let tanh = 2.0 * f64::from(sigmoid(2.0 * x)) - 1.0;
            assert!((tanh - f64::from(x).tanh()).abs() < 6e-7, "tanh({x})");
        }
        assert!((0.0..5e-39).contains(&sigmoid(f32::NEG_INFINITY)), "{:e}", sigmoid(f32::NEG_INFINITY));
        assert!(sigmoid(f32::INFINITY) == 1.0 && sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn the_reciprocal_root_of_norms_is_within_two_roundings() {
        for i in 1..1_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(2_654_435_761) % 0x7f80_0000).max(f32::MIN_POSITIVE);
            let exact = 1.0 / f64::from(x).sqrt();
            assert!((f64::from(1.0 / x.sqrt()) - exact).abs() < 1.2e-7 * exact, "1/√{x:e}");
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e9), 0.0);
        assert!(exp(f32::INFINITY) > 2e38 && exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
        assert_eq!([0.0, -126.0, -126.1, 3.0].map(exp2), [1.0, 2f32.powi(-126), 0.0, 8.0]);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert!(exp2(f32::INFINITY) > 2e38 && exp2(1e9).is_finite() && exp2(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_see_every_element_once() {
        for len in 0..150 {
            let x: Vec<f32> = (0..len).map(|i| (i + 1) as f32).collect();
            let total = (len * (len + 1) / 2) as f32;
            assert_eq!(sums([&x, &x[..]], |[x, y]| [x, 2.0 * y]), [total, 2.0 * total]);
            assert_eq!(dot(&x, &vec![1.0; len]), total);
            assert_eq!(max(&x), if len == 0 { f32::NEG_INFINITY } else { len as f32 });
            for at in 0..len {
                let mut y = x.clone();
                y[at] = f32::NAN;
                assert!(max(&y).is_nan(), "NaN at {at} of {len}");
            }
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even_as_half_does() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(2_654_435_761));
            if !x.is_nan() {
                assert_eq!(round_bf16(x).to_bits(), bf16::from_f32(x).to_f32().to_bits(), "{x:e}");
                assert_eq!(to_bf16(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
            }
        }
        assert!(round_bf16(f32::NAN).is_nan());
        assert!(to_bf16(f32::from_bits(0x7f80_0001)).is_nan() && to_bf16(f32::from_bits(0xff80_0001)).is_nan());
    }
}
