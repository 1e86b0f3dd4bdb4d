//! Causal self-attention in tiles: no T×T matrix exists (Dao 2023, FlashAttention-2, here for caches of a CPU).
//!
//! ```text
//! s_ij = q_i · k_j / √D      j from the document's start to i
//! p_ij = e^(s_ij − lse_i)    lse_i = log Σ_j e^(s_ij)
//! y_i  = Σ_j p_ij v_j
//!
//! dv_j = Σ_i p_ij dy_i       dp_ij = dy_i · v_j      δ_i = dy_i · y_i = Σ_j p_ij dp_ij
//! ds_ij = p_ij (dp_ij − δ_i) / √D
//! dq_i = Σ_j ds_ij k_j       dk_j = Σ_i ds_ij q_i
//! ```
//! Rows of qkv (B·T, (H + 2K) D) are (q_1…q_H | k_1…k_K | v_1…v_K); y (B·T, H D); lse (B·T, H). Query head h reads
//! key/value head h K / H. With bf16, what enters a product (q, k, v, p, dy, ds) is rounded; softmax and sums are f32. On the CPU qkv, and a
//! cache of k and v, may then lie in bf16.
//!
//! `starts`: for each row, the position in its sequence where its document begins; no row looks further back. Documents follow one another.
mod backward;
mod decode;
mod forward;
mod gpu;
mod leaving;
mod reference;
mod tiles;

pub use tiles::workspace_elements;

use crate::device::Device;
use crate::device::cuda::Grid;
use crate::ops::rows::or_empty;
use crate::tensor::Tensor;

/// How a row of qkv is divided, and how long a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H, query heads.
    pub q: usize,
    /// K, key/value heads: a divisor of H.
    pub kv: usize,
    /// D, the width of a head.
    pub size: usize,
    /// T, the rows of a sequence.
    pub seq: usize,
}

impl Heads {
    /// Columns of qkv.
    pub fn width(self) -> usize {
        (self.q + 2 * self.kv) * self.size
    }
    /// Query heads that share a key/value head.
    fn group(self) -> usize {
        self.q / self.kv
    }
    /// The first column of key head `kv`, and of value head `kv`.
    fn key(self, kv: usize) -> usize {
        (self.q + kv) * self.size
    }
    fn value(self, kv: usize) -> usize {
        (self.q + self.kv + kv) * self.size
    }
    /// Pairs of a row and a key that it may see, over all query heads.
    fn pairs(self, rows: usize, starts: Option<&[u32]>) -> usize {
        let hidden: usize = starts.map_or(0, |starts| starts.iter().map(|start| *start as usize).sum());
        self.q * (rows * (self.seq + 1) / 2 - hidden)
    }
    /// 1/√D
    fn scale(self) -> f64 {
        1.0 / (self.size as f64).sqrt()
    }
}

/// y = attention(q, k, v); lse for the backward.
pub fn forward(dev: &Device, y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    check(y, lse, qkv, h, starts);
    let _at = dev.tally("attention forward", 4 * h.size * h.pairs(qkv.rows, starts), &[y, lse, qkv]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([y, lse], [qkv], |[y, lse], [qkv]| {
            forward::forward(d.precision, y.f32(), lse.f32(), qkv, h, starts);
        }),
        Device::Cuda(d) => gpu::forward(d, y, lse, qkv, h, starts),
        Device::Reference(d) => d.arena.op([y, lse], [qkv], |[y, lse], [qkv]| reference::forward(y, lse, qkv, h, starts)),
    }
}

/// dqkv = ∂qkv; sums += Σ_rows dqkv, where they are asked for: the gradient of the bias that qkv has. Returns those that are left to do: on a
/// GPU they are the end of the product that reads dqkv. On the CPU dqkv may lie in bf16: what is summed is not rounded.
pub fn backward(
    dev: &Device,
    dqkv: Tensor,
    sums: Option<Tensor>,
    dy: Tensor,
    y: Tensor,
    lse: Tensor,
    qkv: Tensor,
    h: Heads,
    starts: Option<&[u32]>,
) -> Option<Tensor> {
    check(y, lse, qkv, h, starts);
    assert_eq!((dqkv.rows, dqkv.cols), (qkv.rows, qkv.cols), "attention: dqkv {dqkv:?} of {qkv:?}");
    assert_eq!((dy.rows, dy.cols), (y.rows, y.cols), "attention: dy {dy:?} of {y:?}");
    assert!(sums.is_none_or(|sums| sums.len() == qkv.cols), "attention: sums {sums:?} of {qkv:?}");
    let total = or_empty(sums);
    // four products: the scores are computed again, which counts as this program's cost
    let _at = dev.tally("attention backward", 8 * h.size * h.pairs(qkv.rows, starts), &[dqkv, total, total, dy, y, lse, qkv]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([dqkv, total], [dy, y, lse, qkv], |[dqkv, total], [dy, y, lse, qkv]| {
            backward::backward(d.precision, dqkv, total.f32(), dy.f32(), y.f32(), lse.f32(), qkv, h, starts);
        }),
        Device::Cuda(d) => {
            gpu::backward(d, dqkv, dy, y, lse, qkv, h, starts);
            return sums;
        }
        Device::Reference(d) => d.arena.op([dqkv, total], [dy, qkv], |[dqkv, total], [dy, qkv]| {
            reference::backward(dqkv, dy, qkv, h, starts);
            dqkv.chunks_exact(h.width()).for_each(|row| total.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        }),
    }
    None
}

/// One new row against a cache: y (1, H D) for the qkv row (1, width). cache_k and cache_v (≥ len, K D) hold `len` rows,
/// of which the last is the new row's own: the caller has copied its k and v there.
pub fn decode(dev: &Device, y: Tensor, qkv: Tensor, cache_k: Tensor, cache_v: Tensor, len: usize, h: Heads) {
    assert!((qkv.rows, qkv.cols) == (1, h.width()) && y.len() == h.q * h.size, "decode: y {y:?}, qkv {qkv:?}, {h:?}");
    for cache in [cache_k, cache_v] {
        assert!(cache.cols == h.kv * h.size && 0 < len && len <= cache.rows, "decode: {len} rows of cache {cache:?}, {h:?}");
    }
    let _at = dev.tally("attention decode", 4 * y.len() * len, &[y, qkv, cache_k.rows(0, len), cache_v.rows(0, len)]);
    match dev {
        Device::Cpu(d) => d
            .arena
            .op_either([y], [qkv, cache_k, cache_v], |[y], [qkv, k, v]| decode::decode(d.precision, y.f32(), qkv, k, v, len, h)),
        Device::Cuda(d) => {
            let ([y], [qkv, keys, values]) = d.op([y], [qkv, cache_k, cache_v]);
            let sizes = [len, h.q, h.kv, h.size].map(|n| n as u64);
            let grid = Grid { shared: 8 * 4 * (h.size + 2), ..Grid::new([h.q, 1, 1], [256, 1, 1]) };
            d.launch("attention_decode", grid, &[&[y, qkv, keys, values], &sizes[..]].concat());
        }
        Device::Reference(d) => {
            d.arena.op([y], [qkv, cache_k, cache_v], |[y], [qkv, k, v]| reference::decode(y, qkv, k, v, len, h))
        }
    }
}

fn check(y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    assert!(h.kv > 0 && h.q.is_multiple_of(h.kv) && h.seq > 0, "attention: {h:?}");
    assert!(qkv.cols == h.width() && qkv.rows.is_multiple_of(h.seq), "attention: qkv {qkv:?} of {h:?}");
    assert_eq!((y.rows, y.cols), (qkv.rows, h.q * h.size), "attention: y {y:?} of {h:?}");
    assert_eq!((lse.rows, lse.cols), (qkv.rows, h.q), "attention: lse {lse:?} of {h:?}");
    if let Some(starts) = starts {
        assert_eq!(starts.len(), qkv.rows, "attention: starts of {qkv:?}");
        let late = (0..qkv.rows).find(|&n| starts[n] as usize > n % h.seq);
        assert!(late.is_none(), "attention: row {late:?} lies before its document's start");
        let back = (1..qkv.rows).find(|&n| n % h.seq > 0 && starts[n] < starts[n - 1]);
        assert!(back.is_none(), "attention: row {back:?} belongs to an earlier document than the row before it");
    }
}
