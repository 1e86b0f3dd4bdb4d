//! A model is data: which parts, how many, how wide. Families differ in these values and in the names their files use.
//!
//! ```text
//! parameters          Σ of the files' tensors: padding rows are memory only, a tied head counts once
//! FLOPs per token     6 · (parameters of matrix products, the head among them, lookups not)
//!                     + 12 · L · H·D · T     attention counted full     (PaLM, arXiv:2204.02311, appendix B)
//!                     or 6 · L · H·D · T     attention counted causal: half of the scores are never used
//! ```
//! Both count one forward and one backward (2 + 4 operations a weight); recomputation is not counted, so that the
//! utilisation derived from them is model FLOPs utilisation.
use crate::bad_input;
use crate::error::Result;
use crate::model::{gpt2, layout, llama, opt, qwen};
use crate::ops::activation::Activation;
use crate::ops::attention::Heads;
use crate::ops::norm::Norm;
use crate::ops::rope::Scaling;

/// Whose files and names the model follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Gpt2,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Opt,
}

/// How a row learns its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// A table of context + offset rows; position p is row p + offset (OPT's offset is 2, its first rows are unused).
    Learned { offset: usize },
    /// Rotation of queries and keys.
    Rotary { theta: f64, scaling: Scaling },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub family: Family,
    pub layers: usize,
    pub width: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// The longest sequence the model is meant for.
    pub context: usize,
    /// Attention reaches back this many tokens, itself included; only sequences within it are accepted.
    pub window: Option<usize>,
    /// The first layer whose attention has the window.
    pub window_from: usize,
    pub norm: Norm,
    pub norm_eps: f32,
    pub position: Position,
    pub activation: Activation,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    /// RMSNorm of every query and key head.
    pub qk_norm: bool,
    /// The head reads the token embedding.
    pub tied: bool,
    pub init_std: f32,
    pub bos: Option<u32>,
    /// Tokens that end a text: the first is the one to append to documents.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

/// Floating-point operations to train on one token: forward and backward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Attention counted as if every token saw all T.
    pub full: f64,
    /// Attention counted as causal: half of that.
    pub causal: f64,
}

/// Structural: the vocabulary's rows in memory are a multiple of this; those past `vocab` are zero and stay so.
const VOCAB_ROWS: usize = 128;

impl Config {
    /// The named model, or None. The names are those of [`Config::presets`].
    pub fn preset(name: &str) -> Option<Config> {
        Config::presets().into_iter().find(|(n, _)| *n == name).map(|(_, config)| config)
    }

    /// Every preset with its name.
    pub fn presets() -> Vec<(&'static str, Config)> {
        [gpt2::presets(), llama::presets(), qwen::presets(), opt::presets()].concat()
    }

    /// Whether the parts fit one another.
    ///
    /// Errors: [`crate::error::Error::Input`] naming the keys of `config.json` that do not go together.
    pub fn check(&self) -> Result<()> {
        let key = self.family.keys();
        if !self.width.is_multiple_of(self.heads) && self.family != Family::Qwen3 {
            bad_input!("{} {} is not divisible by {} {}", key.width, self.width, key.heads, self.heads);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            bad_input!("{} {} is not divisible by num_key_value_heads {}", key.heads, self.heads, self.kv_heads);
        }
        if matches!(self.position, Position::Rotary { .. }) && !self.head_dim.is_multiple_of(2) {
            bad_input!("head_dim {} is odd, expected an even number for rotary positions", self.head_dim);
        }
        Ok(())
    }

    /// Whether the model can be trained on sequences of `seq` tokens.
    ///
    /// Errors: [`crate::error::Error::Input`] naming the key, the limit and what was asked for.
    pub fn validate(&self, seq: usize) -> Result<()> {
        self.check()?;
        if seq == 0 {
            bad_input!("sequence length is 0, expected 1 to {}", self.context);
        }
        if seq > self.context {
            bad_input!("sequence length is {seq}, expected at most the model's {} {}", self.family.keys().context, self.context);
        }
        if let Some(window) = self.window.filter(|w| *w < seq) {
            bad_input!("sliding_window is {window}, expected null or at least the sequence length {seq}: windows are not done");
        }
        Ok(())
    }

    /// The heads of a pass over sequences of `seq` tokens.
    pub fn heads(&self, seq: usize) -> Heads {
        Heads { q: self.heads, kv: self.kv_heads, size: self.head_dim, seq }
    }
    /// Outputs of the MLP's first product: SwiGLU packs up and gate in one matrix.
    pub fn up_rows(&self) -> usize {
        if self.activation == Activation::SwiGlu { 2 * self.hidden } else { self.hidden }
    }
    /// Rows of the token embedding in memory.
    pub fn vocab_rows(&self) -> usize {
        self.vocab.next_multiple_of(VOCAB_ROWS)
    }
    /// Rows of the position table; 0 with rotary positions.
    pub fn position_rows(&self) -> usize {
        match self.position {
            Position::Learned { offset } => self.context + offset,
            Position::Rotary { .. } => 0,
        }
    }

    /// The row of the position table that holds position 0.
    pub fn offset(&self) -> usize {
        match self.position {
            Position::Learned { offset } => offset,
            Position::Rotary { .. } => 0,
        }
    }

    /// Parameters as the files count them: without padding, a tied head once.
    pub fn parameter_count(&self) -> u64 {
        layout::parameters(self, None).iter().map(|(_, p)| p.shape.iter().product::<usize>() as u64).sum()
    }

    /// The formula at the top of this file, for sequences of `seq` tokens.
    pub fn flops_per_token(&self, seq: usize) -> Flops {
        let attention = (self.heads * self.head_dim) as f64;
        let qkv = (self.heads + 2 * self.kv_heads) * self.head_dim;
        let block = self.width * (qkv + self.heads * self.head_dim + self.up_rows() + self.hidden);
        let products = (self.layers * block + self.vocab * self.width) as f64;
        let full = 12.0 * self.layers as f64 * attention * seq as f64;
        Flops { full: 6.0 * products + full, causal: 6.0 * products + full / 2.0 }
    }
}

/// How a family's `config.json` calls what the families call differently.
pub(super) struct Keys {
    pub model_type: &'static str,
    pub architecture: &'static str,
    pub width: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub hidden: &'static str,
    pub context: &'static str,
    pub init_std: &'static str,
    /// The prefix that files saved without the language-model head lack.
    pub base: &'static str,
}

impl Family {
    pub const ALL: [Family; 6] = [Family::Gpt2, Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Opt];

    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        self.keys().model_type
    }
    /// Some published files name their tensors without this prefix (`h.0.ln_1.weight` for `transformer.h.0.ln_1.weight`).
    pub fn optional_prefix(self) -> &'static str {
        self.keys().base
    }
    pub(super) fn keys(self) -> &'static Keys {
        match self {
            Family::Gpt2 => &gpt2::KEYS,
            Family::Llama => &llama::LLAMA,
            Family::Mistral => &llama::MISTRAL,
            Family::Qwen2 => &qwen::QWEN2,
            Family::Qwen3 => &qwen::QWEN3,
            Family::Opt => &opt::KEYS,
        }
    }
}
