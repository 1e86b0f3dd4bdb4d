//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each part, GELU in its tanh form, biases, a tied
//! head. Its files keep the blocks' matrices as (inputs, outputs), and q, k and v in one.
use crate::error::Result;
use crate::model::config::{Config, Family, Keys, Position};
use crate::model::hf::{Reader, decimal};
use crate::model::layout::{Names, Place};
use crate::ops::activation::Activation;
use crate::ops::norm::Norm;
use serde_json::{Value, json};

pub fn presets() -> Vec<(&'static str, Config)> {
    vec![
        ("gpt2", Config { bos: Some(50256), eos: vec![50256], ..gpt2(12, 768, 12, 1024, 50257) }),
        ("gpt2-medium", Config { bos: Some(50256), eos: vec![50256], ..gpt2(24, 1024, 16, 1024, 50257) }),
        ("gpt2-large", Config { bos: Some(50256), eos: vec![50256], ..gpt2(36, 1280, 20, 1024, 50257) }),
        ("gpt2-xl", Config { bos: Some(50256), eos: vec![50256], ..gpt2(48, 1600, 25, 1024, 50257) }),
        // For the CPU: letters, and a small vocabulary of one's own.
        ("nano", gpt2(6, 384, 6, 256, 128)),
        ("mini", gpt2(4, 256, 4, 256, 2048)),
    ]
}

fn gpt2(layers: usize, width: usize, heads: usize, context: usize, vocab: usize) -> Config {
    Config {
        family: Family::Gpt2,
        layers,
        width,
        hidden: 4 * width,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        vocab,
        context,
        window: None,
        window_from: 0,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        position: Position::Learned { offset: 0 },
        activation: Activation::Gelu,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: false,
        tied: true,
        init_std: 0.02,
        bos: None,
        eos: vec![],
        pad: None,
    }
}

pub fn read(keys: &Reader) -> Result<Config> {
    // The three names of one function.
    keys.one_of("activation_function", &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])?;
    keys.must_be("scale_attn_weights", json!(true))?;
    keys.must_be("scale_attn_by_inverse_layer_idx", json!(false))?;
    let (width, heads) = (keys.size("n_embd", None)?, keys.size("n_head", None)?);
    let size = |key| keys.size(key, None);
    let plain = gpt2(size("n_layer")?, width, heads, size("n_positions")?, size("vocab_size")?);
    Ok(Config {
        hidden: keys.size("n_inner", Some(4 * width))?,
        norm_eps: keys.fraction("layer_norm_epsilon", 1e-5)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.fraction("initializer_range", 0.02)?,
        bos: keys.token("bos_token_id")?,
        eos: keys.tokens("eos_token_id")?,
        pad: keys.token("pad_token_id")?,
        ..plain
    })
}

pub fn write(c: &Config) -> Value {
    json!({
        "activation_function": "gelu_new",
        "layer_norm_epsilon": decimal(c.norm_eps),
        "n_inner": (c.hidden != 4 * c.width).then_some(c.hidden),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
    })
}

pub const KEYS: Keys = Keys {
    model_type: "gpt2",
    architecture: "GPT2LMHeadModel",
    width: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    hidden: "n_inner",
    context: "n_positions",
    init_std: "initializer_range",
    base: "transformer.",
};

pub const NAMES: Names = Names {
    first: &[("transformer.wte.weight", Place::Tokens), ("transformer.wpe.weight", Place::Positions)],
    block: &[
        ("transformer.h.{}.ln_1.weight", Place::Norm1),
        ("transformer.h.{}.ln_1.bias", Place::Norm1Bias),
        ("transformer.h.{}.attn.c_attn.weight", Place::Qkv),
        ("transformer.h.{}.attn.c_attn.bias", Place::QkvBias),
        ("transformer.h.{}.attn.c_proj.weight", Place::Out),
        ("transformer.h.{}.attn.c_proj.bias", Place::OutBias),
        ("transformer.h.{}.ln_2.weight", Place::Norm2),
        ("transformer.h.{}.ln_2.bias", Place::Norm2Bias),
        ("transformer.h.{}.mlp.c_fc.weight", Place::Up),
        ("transformer.h.{}.mlp.c_fc.bias", Place::UpBias),
        ("transformer.h.{}.mlp.c_proj.weight", Place::Down),
        ("transformer.h.{}.mlp.c_proj.bias", Place::DownBias),
    ],
    last: &[
        ("transformer.ln_f.weight", Place::FinalNorm),
        ("transformer.ln_f.bias", Place::FinalNormBias),
        ("lm_head.weight", Place::Head),
    ],
    transposed: true,
};
