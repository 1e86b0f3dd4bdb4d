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
    [2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987,
     13731.69376550946, 1971.5909503065513, 133.14166789178438, 3.3871328727963665],
    [5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597,
     5394.196021424751, 687.1870074920579, 42.31333070160091, 1.0],
];
#[rustfmt::skip]
const TAIL: [[f64; 8]; 2] = [
    [0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684,
     3.6478483247632045, 5.769497221460691, 4.630337846156546, 1.4234371107496835],
    [1.0507500716444169e-9, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008,
     0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0],
];
#[rustfmt::skip]
const FAR: [[f64; 8]; 2] = [
    [2.0103343992922881e-7, 2.7115555687434876e-5, 0.0012426609473880784, 0.026532189526576124,
     0.29656057182850487, 1.7848265399172913, 5.463784911164114, 6.657904643501103],
    [2.0442631033899397e-15, 1.421511758316446e-7, 1.8463183175100548e-5, 0.0007868691311456133,
     0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0],
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
        for x in [1e-300, 1e-9, 0.3, 0.7072, 1.0, 1.5, 7e8] {
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
