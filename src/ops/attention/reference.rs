//! Attention by the definition, in f64: whole rows of scores, no tiles, no kept denominators.
use super::Heads;

/// The first key that row `n` may see, and the row in the batch where its sequence begins.
fn place(n: usize, h: Heads, starts: Option<&[u32]>) -> (usize, usize) {
    (starts.map_or(0, |s| s[n] as usize), n / h.seq * h.seq)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// (softmax, log of its denominator)
fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    (scores.iter().map(|s| (s - top).exp() / total).collect(), total.ln() + top)
}

pub fn forward(y: &mut [f64], lse: &mut [f64], qkv: &[f64], h: Heads, starts: Option<&[u32]>) {
    let (w, d) = (h.width(), h.size);
    for n in 0..qkv.len() / w {
        let (start, base) = place(n, h, starts);
        for head in 0..h.q {
            let q = &qkv[n * w + head * d..][..d];
            let kv = head / h.group();
            let rows = base + start..n + 1;
            let scores: Vec<f64> = rows.clone().map(|j| dot(q, &qkv[j * w + h.key(kv)..][..d]) * h.scale()).collect();
            let (p, log) = softmax(&scores);
            lse[n * h.q + head] = log;
            for i in 0..d {
                y[(n * h.q + head) * d + i] = rows.clone().zip(&p).map(|(j, p)| p * qkv[j * w + h.value(kv) + i]).sum();
            }
        }
    }
}

pub fn backward(dqkv: &mut [f64], dy: &[f64], qkv: &[f64], h: Heads, starts: Option<&[u32]>) {
    let (w, d) = (h.width(), h.size);
    dqkv.fill(0.0);
    for n in 0..qkv.len() / w {
        let (start, base) = place(n, h, starts);
        for head in 0..h.q {
            let q = &qkv[n * w + head * d..][..d];
            let dy = &dy[(n * h.q + head) * d..][..d];
            let kv = head / h.group();
            let rows = base + start..n + 1;
            let scores: Vec<f64> = rows.clone().map(|j| dot(q, &qkv[j * w + h.key(kv)..][..d]) * h.scale()).collect();
            let (p, _) = softmax(&scores);
            let dp: Vec<f64> = rows.clone().map(|j| dot(dy, &qkv[j * w + h.value(kv)..][..d])).collect();
            let delta = dot(&p, &dp);
            for ((j, p), dp) in rows.zip(&p).zip(&dp) {
                let ds = p * (dp - delta) * h.scale();
                for i in 0..d {
                    dqkv[n * w + head * d + i] += ds * qkv[j * w + h.key(kv) + i];
                    dqkv[j * w + h.key(kv) + i] += ds * q[i];
                    dqkv[j * w + h.value(kv) + i] += p * dy[i];
                }
            }
        }
    }
}

pub fn decode(y: &mut [f64], qkv: &[f64], k: &[f64], v: &[f64], len: usize, h: Heads) {
    let (d, cols) = (h.size, h.kv * h.size);
    for head in 0..h.q {
        let kv = head / h.group();
        let q = &qkv[head * d..][..d];
        let scores: Vec<f64> = (0..len).map(|j| dot(q, &k[j * cols + kv * d..][..d]) * h.scale()).collect();
        let (p, _) = softmax(&scores);
        for i in 0..d {
            y[head * d + i] = (0..len).map(|j| p[j] * v[j * cols + kv * d + i]).sum();
        }
    }
}
