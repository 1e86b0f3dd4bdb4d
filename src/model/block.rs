//! One transformer block, and beneath it the same block backwards.
//!
//! ```text
//! m = x + out(attention(norm₁ x))
//! y = m + down(activation(up(norm₂ m)))
//! ```
//! Rows are B sequences of T; x, m, y (rows, C); qkv (rows, (H + 2K)·D); up (rows, F, or 2F for SwiGLU).
use crate::device::Device;
use crate::model::config::{Config, Position};
use crate::ops::activation::Activation;
use crate::ops::attention::{self, Heads};
use crate::ops::elementwise;
use crate::ops::gemm::Into;
use crate::ops::norm::{self, Norm, Onward};
use crate::ops::{linear, mlp, qk_norm, rope};
use crate::tensor::{Kind, Plan, Tensor};

/// One block's parameters, or, elsewhere in the arena, their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub qkv: Tensor,
    pub out: Tensor,
    pub qkv_bias: Option<Tensor>,
    pub out_bias: Option<Tensor>,
    pub mlp: mlp::Layers,
    pub norm1: Affine,
    pub norm2: Affine,
    /// γ of the query heads and of the key heads.
    pub qk_norm: Option<[Tensor; 2]>,
}

/// What a norm multiplies by and, for LayerNorm, adds.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    pub gamma: Tensor,
    pub beta: Option<Tensor>,
}

/// How the parts are joined: what all blocks of a model have in common.
#[derive(Clone, Copy, Debug)]
pub struct Wiring {
    pub norm: Norm,
    pub eps: f32,
    pub activation: Activation,
    pub heads: Heads,
    /// Cosines and sines (T, D) of rotary positions.
    pub angles: Option<Tensor>,
    pub qkv_untouched: bool,
}

/// Whether nothing comes between qkv's product and attention, so that products alone read both qkv and its gradient. Norms and rotation work on f32.
fn qkv_untouched(c: &Config) -> bool {
    !c.qk_norm && !matches!(c.position, Position::Rotary { .. })
}

impl Wiring {
    pub fn plan(p: &mut Plan, c: &Config, seq: usize) -> Wiring {
        let rotary = matches!(c.position, Position::Rotary { .. });
        let angles = rotary.then(|| p.matrix(Kind::Workspace, seq, c.head_dim));
        let (norm, eps, activation, heads) = (c.norm, c.norm_eps, c.activation, c.heads(seq));
        Wiring { norm, eps, activation, heads, angles, qkv_untouched: qkv_untouched(c) }
    }
}

/// What the rows of a pass are to one another.
#[derive(Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Where each row's document begins in its sequence; None: at 0.
    pub starts: Option<&'a [u32]>,
    /// Each row's position; None: its place in its sequence.
    pub positions: Option<&'a [u32]>,
    /// The pass has one row, which sees the rows before it here.
    pub cache: Option<Cache>,
}

/// Keys and values of the rows so far (capacity, K·D), `len` of them with those of the pass.
#[derive(Clone, Copy)]
pub struct Cache {
    pub keys: Tensor,
    pub values: Tensor,
    pub len: usize,
}

impl Cache {
    /// Copies keys and values of all rows of `qkv` to the end.
    pub fn keep(&self, dev: &Device, qkv: Tensor, h: Heads) {
        let first = self.len - qkv.rows;
        for row in 0..qkv.rows {
            let (key, wide) = (row * qkv.cols + h.q * h.size, h.kv * h.size);
            elementwise::copy(dev, self.keys.rows(first + row, 1), qkv.part(key, wide));
            elementwise::copy(dev, self.values.rows(first + row, 1), qkv.part(key + wide, wide));
        }
    }
}

/// What the forward leaves for the backward. n1, n2, act, and qkv where nothing comes between, are read by products alone.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    pub n1: Tensor,
    pub n1_stats: Tensor,
    /// Queries, keys and values as attention reads them: normed and rotated.
    pub qkv: Tensor,
    /// Where queries and keys are normed: qkv before, and the norm's statistics.
    pub raw: Option<[Tensor; 2]>,
    pub att: Tensor,
    pub lse: Tensor,
    pub m: Tensor,
    pub n2: Tensor,
    pub n2_stats: Tensor,
    pub up: Tensor,
    pub act: Tensor,
}

impl Saved {
    /// `act`: where it lies for all blocks, if the backward makes it again.
    pub fn plan(p: &mut Plan, c: &Config, rows: usize, act: Option<Tensor>) -> Saved {
        let matrix = |p: &mut Plan, cols| p.matrix(Kind::Activations, rows, cols);
        let operand = |p: &mut Plan, cols| p.operand(Kind::Activations, rows, cols);
        let qkv = c.heads(1).width();
        Saved {
            n1: operand(p, c.width),
            n1_stats: matrix(p, 2),
            qkv: if qkv_untouched(c) { operand(p, qkv) } else { matrix(p, qkv) },
            raw: c.qk_norm.then(|| [matrix(p, qkv), matrix(p, c.heads + c.kv_heads)]),
            att: matrix(p, c.heads * c.head_dim),
            lse: matrix(p, c.heads),
            m: matrix(p, c.width),
            n2: operand(p, c.width),
            n2_stats: matrix(p, 2),
            up: matrix(p, c.up_rows()),
            act: act.unwrap_or_else(|| operand(p, c.hidden)),
        }
    }

    /// All but the statistics.
    pub fn activations(&self) -> Vec<Tensor> {
        let raw = self.raw.map(|[raw, _]| raw);
        [self.n1, self.qkv, self.att, self.m, self.n2, self.up, self.act].into_iter().chain(raw).collect()
    }

    /// The first `n` rows of everything: a shorter pass in the same places.
    pub fn first(&self, n: usize) -> Saved {
        let cut = |t: Tensor| t.rows(0, n);
        Saved {
            n1: cut(self.n1),
            n1_stats: cut(self.n1_stats),
            qkv: cut(self.qkv),
            raw: self.raw.map(|raw| raw.map(cut)),
            att: cut(self.att),
            lse: cut(self.lse),
            m: cut(self.m),
            n2: cut(self.n2),
            n2_stats: cut(self.n2_stats),
            up: cut(self.up),
            act: cut(self.act),
        }
    }
}

/// Gradients in flight; one set serves every block. Those of attention and those of the MLP lie in the same place. That of a
/// nonlinearity of one number is read by products alone, and so is that of qkv where nothing comes between.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub n: Tensor,
    pub qkv: Tensor,
    pub raw: Option<Tensor>,
    pub att: Tensor,
    pub up: Tensor,
    /// For SwiGLU.
    pub act: Option<Tensor>,
}

impl Flight {
    /// `n`, a matrix like the block's input, lies elsewhere.
    pub fn plan(p: &mut Plan, kind: Kind, s: &Saved, n: Tensor) -> Flight {
        let f32s = |p: &mut Plan, t: Tensor| p.matrix(kind, t.rows, t.cols);
        let of_mlp = |p: &mut Plan| match s.up.cols == s.act.cols {
            true => (p.operand(kind, s.up.rows, s.up.cols), None),
            false => (f32s(p, s.up), Some(f32s(p, s.act))),
        };
        let of_attention = |p: &mut Plan| (p.like(kind, s.qkv), s.raw.map(|[raw, _]| f32s(p, raw)), f32s(p, s.att));
        let (_, (up, act), (qkv, raw, att)) = p.in_turn(kind, of_mlp, of_attention);
        Flight { n, qkv, raw, att, up, act }
    }
}

/// The gradient of the residual stream: norms' backwards add to it, and leave beside it what the product needs that reads it next.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub d: Tensor,
    /// As products read it, where they round it.
    pub rounded: Option<Tensor>,
    /// The sums of its columns (1, C) on their way to the bias of the block beneath, whose gradients are not open yet. None on a GPU, where a
    /// product sums what it reads, and without biases.
    pub sums: Option<Tensor>,
}

impl Stream {
    pub fn plan(p: &mut Plan, kind: Kind, c: &Config, rows: usize) -> Stream {
        let d = p.matrix(kind, rows, c.width);
        let summed = !p.streams() && (c.out_bias || c.mlp_bias);
        Stream { d, rounded: p.rounded(kind, d), sums: summed.then(|| p.vector(kind, c.width)) }
    }
    /// As a product reads it.
    fn read(&self) -> Tensor {
        self.rounded.unwrap_or(self.d)
    }
    /// What a norm's backward leaves for a product with this bias in the same block.
    fn here(&self, bias: Option<Tensor>) -> Onward {
        Onward { rounded: self.rounded, sums: bias.filter(|_| self.sums.is_some()) }
    }
    /// What it leaves for the block beneath.
    pub fn beneath(&self, dev: &Device) -> Onward {
        self.sums.iter().for_each(|sums| elementwise::zero(dev, *sums));
        Onward { rounded: self.rounded, sums: self.sums }
    }
    /// The bias's gradient that the product has still to sum up: what the block above has left is added to it here.
    fn taken_in(&self, dev: &Device, bias: Option<Tensor>) -> Option<Tensor> {
        let (Some(sums), Some(bias)) = (self.sums, bias) else { return bias };
        linear::bias(dev, bias, sums);
        None
    }
}

/// y from x.
pub fn forward(dev: &Device, k: &Wiring, y: Tensor, x: Tensor, w: &Weights, s: &Saved, rows: &Rows) {
    fill(dev, k, x, w, s, rows);
    linear::forward(dev, y, s.act, w.mlp.down, w.mlp.down_bias, Some(s.m));
}

/// All of the forward but its last product: everything the backward reads. Recomputation calls this again.
pub fn fill(dev: &Device, k: &Wiring, x: Tensor, w: &Weights, s: &Saved, rows: &Rows) {
    norm::forward(dev, k.norm, k.eps, s.n1, s.n1_stats, x, w.norm1.gamma, w.norm1.beta);
    match (s.raw, w.qk_norm) {
        (Some([raw, stats]), Some([gamma_q, gamma_k])) => {
            linear::forward(dev, raw, s.n1, w.qkv, w.qkv_bias, None);
            qk_norm::forward(dev, s.qkv, stats, raw, gamma_q, gamma_k, k.eps, k.heads);
        }
        _ => linear::forward(dev, s.qkv, s.n1, w.qkv, w.qkv_bias, None),
    }
    if let Some(angles) = k.angles {
        rope::forward(dev, s.qkv, angles, k.heads, rows.positions);
    }
    match rows.cache {
        None => attention::forward(dev, s.att, s.lse, s.qkv, k.heads, rows.starts),
        Some(cache) => {
            cache.keep(dev, s.qkv, k.heads);
            attention::decode(dev, s.att, s.qkv, cache.keys, cache.values, cache.len, k.heads);
        }
    }
    linear::forward(dev, s.m, s.att, w.out, w.out_bias, Some(x));

    norm::forward(dev, k.norm, k.eps, s.n2, s.n2_stats, s.m, w.norm2.gamma, w.norm2.beta);
    mlp::forward(dev, k.activation, s.act, s.up, s.n2, &w.mlp);
}

/// `stream` holds ∂L/∂y on entry and ∂L/∂x on return, each with what is left beside it; gradients of the parameters are added to `g`; those of
/// matrices are written where `into` says so.
pub fn backward(
    dev: &Device,
    k: &Wiring,
    stream: &Stream,
    x: Tensor,
    w: &Weights,
    g: &Weights,
    s: &Saved,
    f: &Flight,
    rows: &Rows,
    into: Into,
) {
    let d = stream.d;
    let of_mlp = mlp::Layers { down_bias: stream.taken_in(dev, g.mlp.down_bias), ..g.mlp };
    mlp::backward(dev, k.activation, f.n, f.up, f.act, &of_mlp, stream.read(), s.n2, s.act, s.up, &w.mlp, into);
    let to_out = stream.here(g.out_bias);
    norm::backward(dev, k.norm, d, g.norm2.gamma, g.norm2.beta, f.n, s.m, s.n2_stats, w.norm2.gamma, to_out);

    let left = g.out_bias.filter(|_| to_out.sums.is_none());
    linear::backward(dev, f.att, g.out, left, stream.read(), s.att, w.out, into);
    // what comes between changes the sums
    let (sums, later) = if k.qkv_untouched { (g.qkv_bias, None) } else { (None, g.qkv_bias) };
    let left = attention::backward(dev, f.qkv, sums, f.att, s.att, s.lse, s.qkv, k.heads, rows.starts).or(later);
    if let Some(angles) = k.angles {
        rope::backward(dev, f.qkv, angles, k.heads, rows.positions);
    }
    let mut dqkv = f.qkv;
    if let (Some([raw, stats]), Some(draw), Some([gamma_q, gamma_k]), Some([dq, dk])) = (s.raw, f.raw, w.qk_norm, g.qk_norm) {
        qk_norm::backward(dev, draw, dq, dk, f.qkv, raw, stats, gamma_q, gamma_k, k.heads);
        dqkv = draw;
    }
    linear::backward(dev, f.n, g.qkv, left, dqkv, s.n1, w.qkv, into);
    norm::backward(dev, k.norm, d, g.norm1.gamma, g.norm1.beta, f.n, x, s.n1_stats, w.norm1.gamma, stream.beneath(dev));
}
