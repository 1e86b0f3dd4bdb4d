//! First values of the parameters: a function of (seed, name, index), the same on any machine and any number of ranks.
//!
//! ```text
//! γ = 1      β, biases = 0      matrices ~ N(0, σ²), σ = init_std
//! GPT-2: the two projections into the residual stream have σ / √(2 L)       (Radford et al. 2019, section 2.3)
//!
//! number i of a tensor:  u = mix(key(seed, name) + i · φ)      φ = 2⁶⁴ / golden ratio    (SplitMix64, a counter)
//!                        Φ⁻¹(u)                                 (Wichura 1988, algorithm AS 241, PPND7)
//! ```
//! Only + − × ÷ √ are used, which IEEE 754 fixes to the last bit; a system's `ln` and `cos` are not fixed.
use crate::device::Device;
use crate::model::Parameter;
use crate::model::config::{Config, Family};
use crate::model::layout::Place;
use crate::ops::rows;
use crate::tensor::Tensor;

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
        let mut values = vec![0.0; end - first];
        rows::pieces([(&mut values, BLOCK * 256)], [], |i, [values], []| {
            draw(values, std, key, (first + i * BLOCK * 256) as u64);
        });
        dev.write(Tensor::range(t.at + first, t.at + end), &values);
    }
}

/// Numbers drawn at once.
const BLOCK: usize = 16;
/// Structural: where the approximation of the centre ends.
const CENTRAL: f64 = 0.425;
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
    // The upper 52 bits behind 1., and half of the last one so that 0 is not among them.
    f64::from_bits(1023 << 52 | bits >> 12) - 1.0 + f64::EPSILON / 2.0
}

/// Numbers `first` and on of a stream, normal with deviation `std`.
fn draw(values: &mut [f32], std: f64, key: u64, first: u64) {
    for (block, values) in values.chunks_mut(BLOCK).enumerate() {
        // Without branches where five of six numbers fall, so that the compiler can take several at once.
        let first = first + (block * BLOCK) as u64;
        let u: [f64; BLOCK] = std::array::from_fn(|i| uniform(key, first + i as u64));
        let centre = u.map(|u| central(u - 0.5));
        for (value, (u, centre)) in values.iter_mut().zip(u.into_iter().zip(centre)) {
            let x = if (u - 0.5).abs() <= CENTRAL { centre } else { quantile(u) };
            *value = (std * x) as f32;
        }
    }
}

/// The last step of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Φ⁻¹(p), to 3e-7 relative, for 0 < p < 1.
fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= CENTRAL {
        return central(q);
    }
    let r = (-ln(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let x = if r <= 5.0 { ratio(&TAIL, r - 1.6) } else { ratio(&FAR, r - 5.0) };
    if q < 0.0 { -x } else { x }
}

/// Φ⁻¹(½ + q) for |q| ≤ [`CENTRAL`].
fn central(q: f64) -> f64 {
    q * ratio(&CENTRE, CENTRAL * CENTRAL - q * q)
}

/// A quotient of two polynomials of degree 3, coefficients from the highest.
fn ratio([above, below]: &[[f64; 4]; 2], r: f64) -> f64 {
    let horner = |c: &[f64; 4]| c.iter().fold(0.0, |sum, c| sum * r + c);
    horner(above) / horner(below)
}

/// ln x, to 1e-10: e ln 2 + 2 artanh((m − 1) / (m + 1)) for x = m 2ᵉ, √½ ≤ m < √2; x normal and positive.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m >= std::f64::consts::SQRT_2 {
        (m, e) = (m / 2.0, e + 1);
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..6).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

const CENTRE: [[f64; 4]; 2] =
    [[59.109374720, 159.29113202, 50.434271938, 3.3871327179], [67.187563600, 78.757757664, 17.895169469, 1.0]];
const TAIL: [[f64; 4]; 2] = [[0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777], [0.0, 0.12021132975, 0.73700164250, 1.0]];
const FAR: [[f64; 4]; 2] =
    [[0.017337203997, 0.42868294337, 3.0812263860, 6.6579051150], [0.0, 0.012258202635, 0.24197894225, 1.0]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        // CPython's statistics.NormalDist().inv_cdf, one value of each branch.
        let known =
            [(0.51, 0.02506890825871106), (0.975, 1.9599639845400536), (0.6, 0.2533471031357998), (1e-3, -3.090232306167813)];
        for (p, x) in known.into_iter().chain([(1e-15, -7.941345326170995), (1.0 - 1e-9, 5.997807019601638)]) {
            assert!((quantile(p) - x).abs() < 3e-7 * x.abs(), "{p}: {} {x}", quantile(p));
        }
        for x in [1e-300, 1e-9, 0.3, 0.7072, 1.0, 1.5, 7e8] {
            assert!((ln(x) - x.ln()).abs() <= 1e-10 * x.ln().abs().max(1.0), "ln {x}");
        }
    }

    #[test]
    fn the_numbers_are_normal_and_the_streams_differ() {
        let n = 1 << 18;
        let normals = |key| {
            let mut x = vec![0.0; n];
            draw(&mut x, 1.0, key, 0);
            x.into_iter().map(f64::from).collect::<Vec<_>>()
        };
        let moments = |key| {
            let mut m = [0.0f64; 4];
            for x in normals(key) {
                (0..4).for_each(|k| m[k] += x.powi(k as i32 + 1) / n as f64);
            }
            m
        };
        let (a, b) = (key(1, "a"), key(1, "b"));
        for m in [moments(a), moments(b), moments(key(2, "a"))] {
            for (moment, (expected, spread)) in m.iter().zip([(0.0, 1.0), (1.0, 1.5), (0.0, 4.0), (3.0, 10.0)]) {
                assert!((moment - expected).abs() < 5.0 * spread / (n as f64).sqrt(), "{m:?}");
            }
        }
        let both = normals(a).iter().zip(normals(b)).map(|(a, b)| a * b).sum::<f64>() / n as f64;
        assert!(both.abs() < 5.0 / (n as f64).sqrt(), "{both}");
        // A number does not depend on where the drawing began.
        let mut later = [0.0; 5];
        draw(&mut later, 1.0, a, 77);
        assert!(later.iter().zip(&normals(a)[77..]).all(|(x, y)| f64::from(*x) == *y));
    }
}
