//! First values of the parameters: a function of (seed, name, index), the same on any machine and any number of ranks.
//!
//! ```text
//! γ = 1      β, biases = 0      matrices ~ N(0, σ²), σ = init_std
//! GPT-2: the two projections into the residual stream have σ / √(2 L)       (Radford et al. 2019, section 2.3)
//!
//! number i of a tensor:  u = mix(key(seed, name) + i · φ)      φ = 2⁶⁴ / golden ratio    (SplitMix64, a counter)
//!                        Φ⁻¹(u)                                 (Wichura 1988, algorithm AS 241)
//! ```
//! Only + − × ÷ √ are used, which IEEE 754 fixes to the last bit; a system's `ln` and `cos` are not fixed.
use crate::device::Device;
use crate::model::Parameter;
use crate::model::config::{Config, Family};
use crate::model::layout::Place;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Writes the first values of `parameter`; the index runs over memory's rows, (outputs, inputs).
pub fn fill(dev: &Device, c: &Config, place: Place, parameter: &Parameter, seed: u64) {
    let t = parameter.weights;
    let std = match place {
        _ if place.is_gain() => return dev.write(t, &vec![1.0; t.len()]),
        _ if !place.is_matrix() => return dev.write(t, &vec![0.0; t.len()]),
        Place::Out | Place::Down if c.family == Family::Gpt2 => f64::from(c.init_std) / (2.0 * c.layers as f64).sqrt(),
        _ => f64::from(c.init_std),
    };
    let key = key(seed, &parameter.name);
    for first in (0..t.len()).step_by(PIECE) {
        let end = t.len().min(first + PIECE);
        let values: Vec<f32> = (first..end).into_par_iter().map(|i| (std * normal(key, i as u64)) as f32).collect();
        dev.write(Tensor::range(t.at + first, t.at + end), &values);
    }
}

/// Measured: elements drawn between two writes; enough for the threads, little beside the model.
const PIECE: usize = 1 << 20;

/// The stream of numbers of `name` under `seed`: FNV-1a over the name, mixed with the seed.
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// Number `index` of a stream, uniform in (0, 1), neither end included.
pub fn uniform(key: u64, index: u64) -> f64 {
    let bits = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// Number `index` of a stream, standard normal.
pub fn normal(key: u64, index: u64) -> f64 {
    quantile(uniform(key, index))
}

/// The last step of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Φ⁻¹(p), to 1e-15 relative, for 0 < p < 1.
fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&CENTRE, 0.180625 - q * q);
    }
    let r = (-ln(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let x = if r <= 5.0 { ratio(&TAIL, r - 1.6) } else { ratio(&FAR, r - 5.0) };
    if q < 0.0 { -x } else { x }
}

/// A quotient of two polynomials of degree 7, coefficients from the highest.
fn ratio([above, below]: &[[f64; 8]; 2], r: f64) -> f64 {
    let horner = |c: &[f64; 8]| c.iter().fold(0.0, |sum, c| sum * r + c);
    horner(above) / horner(below)
}

/// ln x = e ln 2 + 2 artanh((m − 1) / (m + 1)) for x = m 2ᵉ, √½ ≤ m < √2; x normal and positive.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m >= std::f64::consts::SQRT_2 {
        (m, e) = (m / 2.0, e + 1);
    }
    let s = (m - 1.0) / (m + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[rustfmt::skip]
const CENTRE: [[f64; 8]; 2] = [
    [2.50908_09287_30122_6727e+3, 3.34305_75583_58812_8105e+4, 6.72657_70927_00870_0853e+4, 4.59219_53931_54987_1457e+4,
     1.37316_93765_50946_1125e+4, 1.97159_09503_06551_4427e+3, 1.33141_66789_17843_7745e+2, 3.38713_28727_96366_6080e+0],
    [5.22649_52788_52854_5610e+3, 2.87290_85735_72194_2674e+4, 3.93078_95800_09271_0610e+4, 2.12137_94301_58659_5867e+4,
     5.39419_60214_24751_1077e+3, 6.87187_00749_20579_0830e+2, 4.23133_30701_60091_1252e+1, 1.0],
];
#[rustfmt::skip]
const TAIL: [[f64; 8]; 2] = [
    [7.74545_01427_83414_07640e-4, 2.27238_44989_26918_45833e-2, 2.41780_72517_74506_11770e-1, 1.27045_82524_52368_38258e+0,
     3.64784_83247_63204_60504e+0, 5.76949_72214_60691_40550e+0, 4.63033_78461_56545_29590e+0, 1.42343_71107_49683_57734e+0],
    [1.05075_00716_44416_84324e-9, 5.47593_80849_95344_94600e-4, 1.51986_66563_61645_71966e-2, 1.48103_97642_74800_74590e-1,
     6.89767_33498_51000_04550e-1, 1.67638_48301_83803_84940e+0, 2.05319_16266_37758_82187e+0, 1.0],
];
#[rustfmt::skip]
const FAR: [[f64; 8]; 2] = [
    [2.01033_43992_92288_13265e-7, 2.71155_55687_43487_57815e-5, 1.24266_09473_88078_43860e-3, 2.65321_89526_57612_30930e-2,
     2.96560_57182_85048_91230e-1, 1.78482_65399_17291_33580e+0, 5.46378_49111_64114_36990e+0, 6.65790_46435_01103_77720e+0],
    [2.04426_31033_89939_78564e-15, 1.42151_17583_16445_88870e-7, 1.84631_83175_10054_68180e-5, 7.86869_13114_56132_59100e-4,
     1.48753_61290_85061_48525e-2, 1.36929_88092_27358_05310e-1, 5.99832_20655_58879_37690e-1, 1.0],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        // CPython's statistics.NormalDist().inv_cdf, one value of each branch.
        let known = [(0.5, 0.0), (0.975, 1.9599639845400536), (0.6, 0.2533471031357998), (1e-3, -3.090232306167813)];
        for (p, x) in known.into_iter().chain([(1e-15, -7.941345326170995), (1.0 - 1e-9, 5.997807019601638)]) {
            assert!((quantile(p) - x).abs() < 1e-14 * x.abs().max(1.0), "{p}: {} {x}", quantile(p));
        }
        for x in [1e-300, 1e-9, 0.3, 0.70710678, 1.0, 1.5, 7e8] {
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "ln {x}");
        }
    }

    #[test]
    fn the_numbers_are_normal_and_the_streams_differ() {
        let n = 1 << 18;
        let moments = |key| {
            let mut m = [0.0f64; 4];
            (0..n).for_each(|i| (0..4).for_each(|k| m[k] += normal(key, i).powi(k as i32 + 1) / n as f64));
            m
        };
        let (a, b) = (key(1, "a"), key(1, "b"));
        for m in [moments(a), moments(b), moments(key(2, "a"))] {
            for (moment, (expected, spread)) in m.iter().zip([(0.0, 1.0), (1.0, 1.5), (0.0, 4.0), (3.0, 10.0)]) {
                assert!((moment - expected).abs() < 5.0 * spread / (n as f64).sqrt(), "{m:?}");
            }
        }
        let both: f64 = (0..n).map(|i| normal(a, i) * normal(b, i)).sum::<f64>() / n as f64;
        assert!(both.abs() < 5.0 / (n as f64).sqrt(), "{both}");
    }
}
