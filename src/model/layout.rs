//! Where the parameters lie, layer-major in padded groups, and how the files call the pieces.
//!
//! ```text
//! [ tokens | positions ][ block 0 ] … [ block L-1 ][ (head) | norm ]      a group starts and ends on ranks × ALIGN elements
//!
//! block    qkv (q₁…q_H | k₁…k_K | v₁…v_K, C)  out (C, H·D)  up (up | gate, C)  down (C, F)     matrices, decayed
//!          their biases, the norms' γ and β, γ of the query and key norms                     vectors, not decayed
//! ```
//! A tied head lies in group 0: it is the token embedding. Weights and gradients are two copies of the same layout.
use crate::model::block::{Affine, Weights};
use crate::model::config::{Config, Family};
use crate::model::{Group, Parameter, gpt2, llama, opt};
use crate::ops::mlp::Layers;
use crate::ops::norm::Norm;
use crate::tensor::{ALIGN, Kind, Plan, Tensor};
use std::ops::Range;

/// A piece of the parameters that a file keeps under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Tokens,
    Positions,
    Head,
    FinalNorm,
    FinalNormBias,
    Norm1,
    Norm1Bias,
    Norm2,
    Norm2Bias,
    /// q, k and v under one name.
    Qkv,
    QkvBias,
    Q,
    QBias,
    K,
    KBias,
    V,
    VBias,
    QNorm,
    KNorm,
    Out,
    OutBias,
    Up,
    UpBias,
    Gate,
    GateBias,
    Down,
    DownBias,
}

impl Place {
    /// Two numbers in its shape; the others are vectors.
    pub fn is_matrix(self) -> bool {
        use Place::*;
        matches!(self, Tokens | Positions | Head | Qkv | Q | K | V | Out | Up | Gate | Down)
    }
    /// γ of a norm: starts at one.
    pub fn is_gain(self) -> bool {
        use Place::*;
        matches!(self, FinalNorm | Norm1 | Norm2 | QNorm | KNorm)
    }
}

/// How a family's files name the places, in the files' order; `{}` stands for the layer. A place that the
/// configuration lacks (a bias, a tied head) is passed over.
pub struct Names {
    pub first: &'static [(&'static str, Place)],
    pub block: &'static [(&'static str, Place)],
    pub last: &'static [(&'static str, Place)],
    /// The blocks' matrices are (inputs, outputs) in the file.
    pub transposed: bool,
}

/// One copy of the parameters: the weights, or their gradients.
pub struct Layout {
    /// (vocabulary rows with padding, C)
    pub tokens: Tensor,
    /// (context + offset, C)
    pub positions: Option<Tensor>,
    pub blocks: Vec<Weights>,
    /// As `tokens`; the same tensor where the head is tied.
    pub head: Tensor,
    pub norm: Affine,
    groups: Vec<(Range<usize>, usize)>,
}

impl Layout {
    pub fn plan(p: &mut Plan, kind: Kind, c: &Config, ranks: usize) -> Layout {
        let pad = ranks * ALIGN;
        let mut groups = Vec::with_capacity(c.layers + 2);
        let mut close = |p: &mut Plan, start: usize, decayed: usize| {
            p.pad_to(kind, pad);
            groups.push((start..p.mark(), decayed - start));
        };
        p.pad_to(kind, pad);
        let start = p.mark();
        let tokens = p.matrix(kind, c.vocab_rows(), c.width);
        let positions = (c.position_rows() > 0).then(|| p.matrix(kind, c.position_rows(), c.width));
        p.pad_to(kind, ALIGN);
        let decayed = p.mark();
        close(p, start, decayed);
        let mut blocks = Vec::with_capacity(c.layers);
        for _ in 0..c.layers {
            let start = p.mark();
            let (block, decayed) = block(p, kind, c);
            close(p, start, decayed);
            blocks.push(block);
        }
        let start = p.mark();
        let head = if c.tied { tokens } else { p.matrix(kind, c.vocab_rows(), c.width) };
        p.pad_to(kind, ALIGN);
        let decayed = p.mark();
        let norm = affine(p, kind, c);
        close(p, start, decayed);
        Layout { tokens, positions, blocks, head, norm, groups }
    }

    /// Where `place` of block `layer` lies, without padding; None where the configuration has no such place.
    fn at(&self, c: &Config, place: Place, layer: Option<usize>) -> Option<Tensor> {
        let (q, kv, f) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.hidden);
        let (k, v) = (q..q + kv, q + kv..q + 2 * kv);
        let b = layer.map(|l| &self.blocks[l]);
        let gated = c.up_rows() > f;
        match place {
            Place::Tokens => Some(self.tokens.rows(0, c.vocab)),
            Place::Positions => self.positions,
            Place::Head => (!c.tied).then(|| self.head.rows(0, c.vocab)),
            Place::FinalNorm => Some(self.norm.gamma),
            Place::FinalNormBias => self.norm.beta,
            Place::Norm1 => b.map(|b| b.norm1.gamma),
            Place::Norm1Bias => b?.norm1.beta,
            Place::Norm2 => b.map(|b| b.norm2.gamma),
            Place::Norm2Bias => b?.norm2.beta,
            Place::Qkv => b.map(|b| b.qkv),
            Place::QkvBias => b?.qkv_bias,
            Place::Q => b.map(|b| b.qkv.rows(0, q)),
            Place::QBias => b?.qkv_bias.map(|t| slice(t, 0..q)),
            Place::K => b.map(|b| b.qkv.rows(k.start, kv)),
            Place::KBias => b?.qkv_bias.map(|t| slice(t, k)),
            Place::V => b.map(|b| b.qkv.rows(v.start, kv)),
            Place::VBias => b?.qkv_bias.map(|t| slice(t, v)),
            Place::QNorm => b?.qk_norm.map(|[q, _]| q),
            Place::KNorm => b?.qk_norm.map(|[_, k]| k),
            Place::Out => b.map(|b| b.out),
            Place::OutBias => b?.out_bias,
            Place::Up => b.map(|b| b.mlp.up.rows(0, f)),
            Place::UpBias => b?.mlp.up_bias.map(|t| slice(t, 0..f)),
            Place::Gate => b.filter(|_| gated).map(|b| b.mlp.up.rows(f, f)),
            Place::GateBias => b?.mlp.up_bias.filter(|_| gated).map(|t| slice(t, f..2 * f)),
            Place::Down => b.map(|b| b.mlp.down),
            Place::DownBias => b?.mlp.down_bias,
        }
    }

    /// The groups of the weights `self` and of their gradients.
    pub fn groups(&self, grads: Option<&Layout>) -> Vec<Group> {
        let grads = |i: usize| grads.map_or(0..0, |g| g.groups[i].0.clone());
        let group = |(i, (range, decayed)): (usize, &(Range<usize>, usize))| Group {
            weights: range.clone(),
            grads: grads(i),
            decayed: *decayed,
        };
        self.groups.iter().enumerate().map(group).collect()
    }
}

/// Every parameter in the order of the files, with its place. Without `layouts` the tensors lie nowhere in particular:
/// names and shapes alone count.
pub fn parameters(c: &Config, layouts: Option<(&Layout, Option<&Layout>)>) -> Vec<(Place, Parameter)> {
    let Some((weights, grads)) = layouts else {
        let scratch = Layout::plan(&mut Plan::default(), Kind::Parameters, c, 1);
        return parameters(c, Some((&scratch, None)));
    };
    let names = names(c.family);
    let mut all = vec![];
    let mut add = |table: &[(&str, Place)], group: usize, layer: Option<usize>| {
        for (name, place) in table {
            let Some(at) = weights.at(c, *place, layer) else { continue };
            let transposed = names.transposed && layer.is_some() && place.is_matrix();
            let shape = match (place.is_matrix(), transposed) {
                (false, _) => vec![at.cols],
                (true, true) => vec![at.cols, at.rows],
                (true, false) => vec![at.rows, at.cols],
            };
            let grads = grads.and_then(|g| g.at(c, *place, layer)).unwrap_or(Tensor::range(0, 0));
            let name = layer.map_or(name.to_string(), |l| name.replace("{}", &l.to_string()));
            all.push((*place, Parameter { name, group, weights: at, grads, shape, transposed }));
        }
    };
    add(names.first, 0, None);
    (0..c.layers).for_each(|layer| add(names.block, layer + 1, Some(layer)));
    add(names.last, c.layers + 1, None);
    all
}

fn names(family: Family) -> &'static Names {
    match family {
        Family::Gpt2 => &gpt2::NAMES,
        Family::Opt => &opt::NAMES,
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => &llama::NAMES,
    }
}

/// One block, and the element at which its matrices end.
fn block(p: &mut Plan, kind: Kind, c: &Config) -> (Weights, usize) {
    let (qkv_rows, up_rows) = (c.heads(1).width(), c.up_rows());
    let qkv = p.matrix(kind, qkv_rows, c.width);
    let out = p.matrix(kind, c.width, c.heads * c.head_dim);
    let up = p.matrix(kind, up_rows, c.width);
    let down = p.matrix(kind, c.width, c.hidden);
    p.pad_to(kind, ALIGN);
    let decayed = p.mark();
    let mut bias = |wanted: bool, n| wanted.then(|| p.vector(kind, n));
    let (qkv_bias, out_bias) = (bias(c.qkv_bias, qkv_rows), bias(c.out_bias, c.width));
    let (up_bias, down_bias) = (bias(c.mlp_bias, up_rows), bias(c.mlp_bias, c.width));
    let (norm1, norm2) = (affine(p, kind, c), affine(p, kind, c));
    let qk_norm = c.qk_norm.then(|| [p.vector(kind, c.head_dim), p.vector(kind, c.head_dim)]);
    let mlp = Layers { up, up_bias, down, down_bias };
    (Weights { qkv, out, qkv_bias, out_bias, mlp, norm1, norm2, qk_norm }, decayed)
}

fn affine(p: &mut Plan, kind: Kind, c: &Config) -> Affine {
    let gamma = p.vector(kind, c.width);
    let beta = (c.norm == Norm::Layer).then(|| p.vector(kind, c.width));
    Affine { gamma, beta }
}

/// Elements `range` of a vector.
fn slice(t: Tensor, range: Range<usize>) -> Tensor {
    Tensor::range(t.at + range.start, t.at + range.end)
}
