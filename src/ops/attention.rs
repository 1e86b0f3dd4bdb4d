//! Causal attention with grouped queries.
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub q: usize,
    pub kv: usize,
    pub size: usize,
    pub seq: usize,
}
impl Heads {
    pub fn width(self) -> usize {
        (self.q + 2 * self.kv) * self.size
    }
    fn index(self, row: usize, head: usize) -> [usize; 3] {
        let kv = head / (self.q / self.kv);
        let base = row * self.width();
        [base + head * self.size, base + (self.q + kv) * self.size, base + (self.q + self.kv + kv) * self.size]
    }
}
pub fn forward(dev: &Device, y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    on_both!(dev, [y, lse], [qkv], fwd(y, lse, qkv, h, starts))
}
fn fwd<R: Real>(y: &mut [R], lse: &mut [R], x: &[R], h: Heads, starts: Option<&[u32]>) {
    let (s, t, scale) = (h.size, h.seq, R::of(1.0 / (h.size as f64).sqrt()));
    let mut p = vec![R::default(); t];
    for row in 0..x.len() / h.width() {
        let (first, start) = (row - row % t, starts.map_or(0, |s| s[row] as usize));
        for head in 0..h.q {
            let q = h.index(row, head)[0];
            let mut max = R::of(-1e30);
            for j in start..=row % t {
                let k = h.index(first + j, head)[1];
                let mut d = R::default();
                for i in 0..s {
                    d += x[q + i] * x[k + i];
                }
                p[j] = d * scale;
                if p[j] > max {
                    max = p[j];
                }
            }
            let mut sum = R::default();
            for j in start..=row % t {
                p[j] = (p[j] - max).exp();
                sum += p[j];
            }
            lse[row * h.q + head] = max + sum.ln();
            let out = &mut y[(row * h.q + head) * s..][..s];
            out.fill(R::default());
            for j in start..=row % t {
                let v = h.index(first + j, head)[2];
                for i in 0..s {
                    out[i] += p[j] / sum * x[v + i];
                }
            }
        }
    }
}
pub fn backward(dev: &Device, dqkv: Tensor, dy: Tensor, y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    on_both!(dev, [dqkv], [dy, y, lse, qkv], bwd(dqkv, dy, y, lse, qkv, h, starts))
}
fn bwd<R: Real>(dx: &mut [R], dy: &[R], y: &[R], lse: &[R], x: &[R], h: Heads, starts: Option<&[u32]>) {
    let (s, t, scale) = (h.size, h.seq, R::of(1.0 / (h.size as f64).sqrt()));
    dx.fill(R::default());
    for row in 0..x.len() / h.width() {
        let (first, start) = (row - row % t, starts.map_or(0, |s| s[row] as usize));
        for head in 0..h.q {
            let q = h.index(row, head)[0];
            let at = (row * h.q + head) * s;
            let mut delta = R::default();
            for i in 0..s {
                delta += dy[at + i] * y[at + i];
            }
            for j in start..=row % t {
                let [_, k, v] = h.index(first + j, head);
                let (mut z, mut dp) = (R::default(), R::default());
                for i in 0..s {
                    z += x[q + i] * x[k + i];
                    dp += dy[at + i] * x[v + i];
                }
                let p = (z * scale - lse[row * h.q + head]).exp();
                let d = scale * p * (dp - delta);
                for i in 0..s {
                    dx[v + i] += p * dy[at + i];
                    dx[q + i] += d * x[k + i];
                    dx[k + i] += d * x[q + i];
                }
            }
        }
    }
}
pub fn decode(dev: &Device, y: Tensor, qkv: Tensor, cache_k: Tensor, cache_v: Tensor, len: usize, h: Heads) {
    on_both!(dev, [y], [qkv, cache_k, cache_v], dec(y, qkv, cache_k, cache_v, len, h))
}
fn dec<R: Real>(y: &mut [R], x: &[R], ck: &[R], cv: &[R], len: usize, h: Heads) {
    let (s, w, scale) = (h.size, h.kv * h.size, R::of(1.0 / (h.size as f64).sqrt()));
    let mut p = vec![R::default(); len];
    for head in 0..h.q {
        let kv = head / (h.q / h.kv);
        let mut max = R::of(-1e30);
        for j in 0..len {
            let mut d = R::default();
            for i in 0..s {
                d += x[head * s + i] * ck[j * w + kv * s + i];
            }
            p[j] = d * scale;
            if p[j] > max {
                max = p[j];
            }
        }
        let mut sum = R::default();
        for p in &mut p {
            *p = (*p - max).exp();
            sum += *p;
        }
        for i in 0..s {
            let mut o = R::default();
            for j in 0..len {
                o += p[j] / sum * cv[j * w + kv * s + i];
            }
            y[head * s + i] = o;
        }
    }
}
