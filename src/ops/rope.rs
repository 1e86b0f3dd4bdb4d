//! Rotary positions (Su et al. 2021) in the half-split form of Llama's Hugging Face weights (`rotate_half`).
//!
//! ```text
//! angle_i = position · θ^(−2i/D)                          i = 0 … D/2 − 1
//! (a, b) = (x_i, x_{i + D/2})    →    (a cos − b sin, b cos + a sin)
//! ```
//! The table (T, D) holds per position the D/2 cosines and then the D/2 sines; qkv rows are (q_1…q_H | k_1…k_K | v_1…v_K),
//! of which the q and k heads are turned in place. The backward turns by the negative angle.
use super::attention::Heads;
use super::rows::{per_task, pieces};
use super::simd::wide;
use crate::device::Device;
use crate::device::cuda::{Grid, float};
use crate::tensor::Tensor;

/// How the frequencies are stretched for contexts longer than the pretraining's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Llama 3.1: wavelengths above `original / low` are stretched by `factor`, those below `original / high` kept, and
    /// those between blended (`rope_type: llama3` of transformers' `modeling_rope_utils.py`).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

impl Scaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / std::f64::consts::TAU;
                // turns within the original context: below `low` stretched, above `high` kept
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// Fills table (T, D).
pub fn table(dev: &Device, table: Tensor, theta: f64, scaling: Scaling) {
    let d = table.cols;
    assert!(d.is_multiple_of(2), "rope: table {table:?} has an odd number of columns");
    let _at = dev.tally("rope table", 0, &[table]);
    let value = |at: usize| {
        let (position, i) = (at / d, at % d);
        let pair = i % (d / 2);
        let angle = position as f64 * scaling.apply(theta.powf(-2.0 * pair as f64 / d as f64));
        if i < d / 2 { angle.cos() } else { angle.sin() }
    };
    match dev {
        Device::Cuda(dev) => dev.write(table, &(0..table.len()).map(|i| value(i) as f32).collect::<Vec<f32>>()),
        Device::Cpu(dev) => dev.arena.op([table], [], |[t], []| {
            pieces([(t, 1024)], [], |p, [t], []| t.iter_mut().enumerate().for_each(|(i, t)| *t = value(1024 * p + i) as f32));
        }),
        Device::Reference(dev) => dev.arena.op([table], [], |[t], []| (0..t.len()).for_each(|i| t[i] = value(i))),
    }
}

/// Turns q and k heads in place. The position of row n is `positions[n]`, or n mod T.
pub fn forward(dev: &Device, qkv: Tensor, table: Tensor, h: Heads, positions: Option<&[u32]>) {
    let _at = dev.tally("rope forward", 0, &[turned(qkv, h); 2]);
    turn(dev, qkv, table, h, positions, Way::Forward);
}

/// Turns the gradients of the q and k heads back, in place.
pub fn backward(dev: &Device, dqkv: Tensor, table: Tensor, h: Heads, positions: Option<&[u32]>) {
    let _at = dev.tally("rope backward", 0, &[turned(dqkv, h); 2]);
    turn(dev, dqkv, table, h, positions, Way::Back);
}

/// As large as the q and k heads of qkv.
fn turned(qkv: Tensor, h: Heads) -> Tensor {
    Tensor { cols: (h.q + h.kv) * h.size, ..qkv }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Forward,
    Back,
}

fn turn(dev: &Device, qkv: Tensor, table: Tensor, h: Heads, positions: Option<&[u32]>, way: Way) {
    assert_eq!(qkv.cols, h.width(), "rope: {qkv:?} of {h:?}");
    assert_eq!(table.cols, h.size, "rope: table {table:?} of {h:?}");
    assert!(positions.is_none_or(|p| p.len() == qkv.rows), "rope: {qkv:?} and other positions");
    let position = |n: usize| positions.map_or(n % h.seq, |p| p[n] as usize);
    let last = (0..qkv.rows).map(position).max();
    assert!(last.is_none_or(|p| p < table.rows), "rope: position {last:?} in table {table:?}");
    let (d, turned) = (h.size, (h.q + h.kv) * h.size);
    match dev {
        Device::Cpu(dev) => dev.arena.op([qkv], [table], |[x], [table]| {
            let step = per_task(h.width());
            pieces([(x, step * h.width())], [], |i, [x], []| {
                for (r, row) in x.chunks_exact_mut(h.width()).enumerate() {
                    turn_row(&mut row[..turned], &table[position(i * step + r) * d..][..d], way);
                }
            });
        }),
        Device::Cuda(dev) => {
            let (n, heads) = (qkv.rows, h.q + h.kv);
            let ([qkv], [table]) = dev.op([qkv], [table]);
            let positions = dev.upload_some(positions);
            let sign = if way == Way::Back { -1.0 } else { 1.0 };
            let sizes = [n, h.width(), heads, d, h.seq].map(|n| n as u64);
            let grid = Grid::over(n * heads * d.div_ceil(16));
            dev.launch("rope", grid, &[&[qkv, table, positions], &sizes[..], &[float(sign)]].concat());
        }
        Device::Reference(dev) => dev.arena.op([qkv], [table], |[x], [table]| {
            for n in 0..x.len() / h.width() {
                for head in 0..h.q + h.kv {
                    for i in 0..d / 2 {
                        let (cos, mut sin) = (table[position(n) * d + i], table[position(n) * d + d / 2 + i]);
                        if way == Way::Back {
                            sin = -sin;
                        }
                        let at = n * h.width() + head * d + i;
                        (x[at], x[at + d / 2]) = (x[at] * cos - x[at + d / 2] * sin, x[at + d / 2] * cos + x[at] * sin);
                    }
                }
            }
        }),
    }
}

wide! {
    fn turn_row(row: &mut [f32], table: &[f32], way: Way) {
        let d = table.len();
        let (cos, sin) = table.split_at(d / 2);
        let sign = if way == Way::Back { -1.0 } else { 1.0 };
        for head in row.chunks_exact_mut(d) {
            let (a, b) = head.split_at_mut(d / 2);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let sin = sign * sin;
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Scaling;
    use std::f64::consts::TAU;

    /// The three cases as `modeling_rope_utils.py` writes them, by wavelengths.
    #[test]
    fn llama3_scales_long_waves_keeps_short_ones_and_blends_between() {
        let (factor, low, high, original) = (8.0, 1.0, 4.0, 8192.0);
        let scaling = Scaling::Llama3 { factor, low, high, original };
        let mut seen = [0; 3];
        for i in 0..64 {
            let frequency = 500_000f64.powf(-f64::from(i) / 64.0);
            let wave = TAU / frequency;
            let (case, expected) = if wave < original / high {
                (0, frequency)
            } else if wave > original / low {
                (1, frequency / factor)
            } else {
                let smooth = (original / wave - low) / (high - low);
                (2, (1.0 - smooth) * frequency / factor + smooth * frequency)
            };
            seen[case] += 1;
            assert!((scaling.apply(frequency) - expected).abs() < 1e-12 * frequency, "frequency {i}");
        }
        assert!(seen.iter().all(|n| *n > 2), "{seen:?}");
    }
}
