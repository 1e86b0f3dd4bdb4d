//! OPT (Zhang et al. 2022): as GPT-2, with ReLU, a hidden width of its own, and a position table whose first two rows
//! are never used. OPT-350m is built otherwise (norms after the parts, projections around them) and is refused.
use crate::error::Result;
use crate::model::config::{Config, Family, Keys, Position};
use crate::model::hf::Reader;
use crate::model::layout::{Names, Place};
use crate::ops::activation::Activation;
use crate::ops::norm::Norm;
use serde_json::{Value, json};

pub fn presets() -> Vec<(&'static str, Config)> {
    vec![("opt-125m", opt(12, 768, 3072, 12, 2048, 50_272)), ("opt-1.3b", opt(24, 2048, 8192, 32, 2048, 50_272))]
}

fn opt(layers: usize, width: usize, hidden: usize, heads: usize, context: usize, vocab: usize) -> Config {
    Config {
        family: Family::Opt,
        layers,
        width,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        vocab,
        context,
        window: None,
        window_from: 0,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        position: Position::Learned { offset: 2 },
        activation: Activation::Relu,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: false,
        tied: true,
        init_std: 0.02,
        bos: Some(2),
        eos: vec![2],
        pad: Some(1),
    }
}

pub fn read(keys: &Reader) -> Result<Config> {
    keys.one_of("activation_function", &["relu"])?;
    keys.must_be("do_layer_norm_before", json!(true))?;
    keys.must_be("layer_norm_elementwise_affine", json!(true))?;
    keys.must_be("_remove_final_layer_norm", json!(false))?;
    let size = |key| keys.size(key, None);
    let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    keys.must_be("word_embed_proj_dim", json!(width))?;
    let [layers, hidden] = [size("num_hidden_layers")?, size("ffn_dim")?];
    let plain = opt(layers, width, hidden, heads, size("max_position_embeddings")?, size("vocab_size")?);
    let bias = keys.flag("enable_bias", true)?;
    Ok(Config {
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: bias,
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.fraction("init_std", 0.02)?,
        bos: keys.token("bos_token_id")?,
        eos: keys.tokens("eos_token_id")?,
        pad: keys.token("pad_token_id")?,
        ..plain
    })
}

pub fn write(c: &Config) -> Value {
    json!({
        "activation_function": "relu",
        "word_embed_proj_dim": c.width,
        "do_layer_norm_before": true,
        "layer_norm_elementwise_affine": true,
        "_remove_final_layer_norm": false,
        "enable_bias": c.qkv_bias,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
    })
}

pub const KEYS: Keys = Keys {
    model_type: "opt",
    architecture: "OPTForCausalLM",
    width: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    hidden: "ffn_dim",
    context: "max_position_embeddings",
    init_std: "init_std",
    base: "model.",
};

pub const NAMES: Names = Names {
    first: &[("model.decoder.embed_tokens.weight", Place::Tokens), ("model.decoder.embed_positions.weight", Place::Positions)],
    block: &[
        ("model.decoder.layers.{}.self_attn_layer_norm.weight", Place::Norm1),
        ("model.decoder.layers.{}.self_attn_layer_norm.bias", Place::Norm1Bias),
        ("model.decoder.layers.{}.self_attn.q_proj.weight", Place::Q),
        ("model.decoder.layers.{}.self_attn.q_proj.bias", Place::QBias),
        ("model.decoder.layers.{}.self_attn.k_proj.weight", Place::K),
        ("model.decoder.layers.{}.self_attn.k_proj.bias", Place::KBias),
        ("model.decoder.layers.{}.self_attn.v_proj.weight", Place::V),
        ("model.decoder.layers.{}.self_attn.v_proj.bias", Place::VBias),
        ("model.decoder.layers.{}.self_attn.out_proj.weight", Place::Out),
        ("model.decoder.layers.{}.self_attn.out_proj.bias", Place::OutBias),
        ("model.decoder.layers.{}.final_layer_norm.weight", Place::Norm2),
        ("model.decoder.layers.{}.final_layer_norm.bias", Place::Norm2Bias),
        ("model.decoder.layers.{}.fc1.weight", Place::Up),
        ("model.decoder.layers.{}.fc1.bias", Place::UpBias),
        ("model.decoder.layers.{}.fc2.weight", Place::Down),
        ("model.decoder.layers.{}.fc2.bias", Place::DownBias),
    ],
    last: &[
        ("model.decoder.final_layer_norm.weight", Place::FinalNorm),
        ("model.decoder.final_layer_norm.bias", Place::FinalNormBias),
        ("lm_head.weight", Place::Head),
    ],
    transposed: false,
};
