//! The decoder-only transformer, forwards and backwards, written once. Knows ops and tensors; has never heard of ranks.
//!
//! ```text
//! config    a family is data              hf  gpt2  llama  qwen  opt   config.json, presets, names in the files
//! layout    where the parameters lie      init       their first values, a function of (seed, name, index)
//! block     one block, and it backwards   decoder    embedding, blocks, head; the loss
//! generate  one token after another       sample     the next token from its logits
//! ```
//! [`Schedule`] is how the model says *when*: data parallelism and sharding listen outside.
use crate::ops::gemm::Into;
use crate::tensor::Tensor;
use std::ops::Range;

mod block;
mod config;
mod decoder;
mod generate;
mod gpt2;
mod hf;
mod init;
mod layout;
mod llama;
mod opt;
mod qwen;
mod sample;
pub use config::{Config, Family, Flops, Position};
pub use decoder::{Decoder, Input, Recompute, Shape};
pub use generate::Generator;
pub use sample::{Sampling, sample};

/// Which way the model is passing through a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
}

/// Who may want to know how far the model has come. The model says when; it does not ask why.
pub trait Schedule {
    /// The weights of `group` are about to be read.
    fn need(&mut self, _group: usize, _pass: Pass) {}
    /// They will not be read again in this pass.
    fn done(&mut self, _group: usize, _pass: Pass) {}
    /// Gradients of `group` are about to be written: on return its place is free. The answer is whether they are added to what
    /// is there, or there is nothing yet: a step's first micro-batch.
    fn open(&mut self, _group: usize) -> Into {
        Into::Add
    }
    /// The gradients of `group` are complete for this micro-batch.
    fn ready(&mut self, _group: usize) {}
}
impl Schedule for () {}
/// Hears nothing, and always answers this.
impl Schedule for Into {
    fn open(&mut self, _: usize) -> Into {
        *self
    }
}

/// A contiguous piece of the parameters, padded so that the ranks divide it: one bucket, one shard by arithmetic.
/// Group 0 is the embedding, 1 … L the blocks, L + 1 the head (the final norm alone where the head is tied).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Elements of the arena that hold the weights.
    pub weights: Range<usize>,
    /// Elements that hold their gradients: same length, same order. Empty where the plan has no gradients.
    pub grads: Range<usize>,
    /// The first `decayed` elements are matrices (weight-decayed), the others vectors.
    pub decayed: usize,
}

/// One parameter as Hugging Face names it, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name in the file, for example `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub group: usize,
    /// Its place among the weights, without padding rows.
    pub weights: Tensor,
    /// Its place among the gradients. Empty where the plan has no gradients.
    pub grads: Tensor,
    /// The shape in the file: one or two numbers.
    pub shape: Vec<usize>,
    /// The file holds (inputs, outputs), memory (outputs, inputs): GPT-2's Conv1D.
    pub transposed: bool,
}
