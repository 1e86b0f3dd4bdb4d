//! Rotary positions, half-split.
use super::attention::Heads;
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}
pub fn table(dev: &Device, table: Tensor, theta: f64, scaling: Scaling) {
    let half = table.cols / 2;
    on_both!(dev, [table], [], fill(table, half, theta, scaling))
}
fn fill<R: Real>(t: &mut [R], half: usize, theta: f64, scaling: Scaling) {
    for (pos, row) in t.chunks_mut(2 * half).enumerate() {
        for i in 0..half {
            let mut f = theta.powf(-(i as f64) / half as f64);
            if let Scaling::Llama3 { factor, low, high, original } = scaling {
                let wave = 2.0 * std::f64::consts::PI / f;
                if wave > original / low {
                    f /= factor;
                } else if wave > original / high {
                    let s = (original / wave - low) / (high - low);
                    f = (1.0 - s) * f / factor + s * f;
                }
            }
            row[i] = R::of((pos as f64 * f).cos());
            row[half + i] = R::of((pos as f64 * f).sin());
        }
    }
}
pub fn forward(dev: &Device, qkv: Tensor, table: Tensor, h: Heads, positions: Option<&[u32]>) {
    on_both!(dev, [qkv], [table], rotate(qkv, table, h, positions, 1.0))
}
pub fn backward(dev: &Device, dqkv: Tensor, table: Tensor, h: Heads, positions: Option<&[u32]>) {
    on_both!(dev, [dqkv], [table], rotate(dqkv, table, h, positions, -1.0))
}
fn rotate<R: Real>(x: &mut [R], table: &[R], h: Heads, positions: Option<&[u32]>, sign: f64) {
    let half = h.size / 2;
    for (n, row) in x.chunks_mut(h.width()).enumerate() {
        let pos = positions.map_or(n % h.seq, |p| p[n] as usize);
        let angles = &table[pos * h.size..][..h.size];
        for head in row.chunks_mut(h.size).take(h.q + h.kv) {
            for i in 0..half {
                let (c, s) = (angles[i], angles[half + i] * R::of(sign));
                let (a, b) = (head[i], head[half + i]);
                head[i] = a * c - b * s;
                head[half + i] = a * s + b * c;
            }
        }
    }
}
