//! Llama 2, 3 and 3.2 (Touvron et al. 2023; Dubey et al. 2024) and Mistral (Jiang et al. 2023): rotary positions,
//! RMSNorm, SwiGLU, grouped queries. Their names of tensors serve Qwen too.
use crate::error::Result;
use crate::model::config::{Config, Family, Keys, Position};
use crate::model::hf::{self, Reader, decimal};
use crate::model::layout::{Names, Place};
use crate::ops::activation::Activation;
use crate::ops::norm::Norm;
use crate::ops::rope::Scaling;
use serde_json::{Value, json};

pub fn presets() -> Vec<(&'static str, Config)> {
    let far = |factor| Position::Rotary {
        theta: 500_000.0,
        scaling: Scaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 },
    };
    let near = |theta| Position::Rotary { theta, scaling: Scaling::None };
    let llama3 = |c| Config { norm_eps: 1e-5, bos: Some(128_000), eos: vec![128_001], ..c };
    let llama2 = |c| Config { norm_eps: 1e-5, bos: Some(1), eos: vec![2], ..c };
    let smol = |c| Config {
        norm_eps: 1e-5,
        position: near(100_000.0),
        tied: true,
        init_std: 1.0 / 24.0,
        bos: Some(0),
        eos: vec![0],
        ..c
    };
    vec![
        ("llama3.2-1b", Config { position: far(32.0), tied: true, ..llama3(llama(16, 2048, 8192, [32, 8], 131_072, 128_256)) }),
        ("llama3.2-3b", Config { position: far(32.0), tied: true, ..llama3(llama(28, 3072, 8192, [24, 8], 131_072, 128_256)) }),
        ("llama3-8b", Config { position: near(500_000.0), ..llama3(llama(32, 4096, 14_336, [32, 8], 8192, 128_256)) }),
        ("llama2-7b", llama2(llama(32, 4096, 11_008, [32, 32], 4096, 32_000))),
        ("tinyllama-1.1b", llama2(llama(22, 2048, 5632, [32, 4], 2048, 32_000))),
        ("smollm2-135m", smol(llama(30, 576, 1536, [9, 3], 8192, 49_152))),
        (
            "mistral-7b",
            Config { family: Family::Mistral, position: near(1e6), ..llama2(llama(32, 4096, 14_336, [32, 8], 32_768, 32_768)) },
        ),
        // For the CPU: letters, and a small vocabulary of one's own.
        ("nano-llama", Config { tied: true, ..llama(6, 384, 1024, [6, 2], 256, 128) }),
        ("mini-llama", Config { tied: true, ..llama(4, 256, 688, [4, 4], 256, 2048) }),
    ]
}

pub fn llama(layers: usize, width: usize, hidden: usize, [heads, kv_heads]: [usize; 2], context: usize, vocab: usize) -> Config {
    Config {
        family: Family::Llama,
        layers,
        width,
        hidden,
        heads,
        kv_heads,
        head_dim: width / heads,
        vocab,
        context,
        window: None,
        window_from: 0,
        norm: Norm::Rms,
        norm_eps: 1e-6,
        position: Position::Rotary { theta: 10_000.0, scaling: Scaling::None },
        activation: Activation::SwiGlu,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied: false,
        init_std: 0.02,
        bos: None,
        eos: vec![],
        pad: None,
    }
}

pub fn read(keys: &Reader) -> Result<Config> {
    let plain = read_common(keys)?;
    if keys.family == Family::Mistral {
        keys.must_be("attention_bias", json!(false))?;
        keys.must_be("mlp_bias", json!(false))?;
        return Ok(Config { window: keys.window()?, ..plain });
    }
    let bias = keys.flag("attention_bias", false)?;
    Ok(Config { qkv_bias: bias, out_bias: bias, mlp_bias: keys.flag("mlp_bias", false)?, ..plain })
}

/// What Llama, Mistral and Qwen have in common.
pub fn read_common(keys: &Reader) -> Result<Config> {
    keys.one_of("hidden_act", &["silu", "swish"])?;
    let size = |key| keys.size(key, None);
    let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let kv_heads = keys.size("num_key_value_heads", Some(heads))?;
    let [layers, hidden] = [size("num_hidden_layers")?, size("intermediate_size")?];
    let plain = llama(layers, width, hidden, [heads, kv_heads], size("max_position_embeddings")?, size("vocab_size")?);
    Ok(Config {
        family: keys.family,
        head_dim: keys.size("head_dim", Some(if keys.family == Family::Qwen3 { 128 } else { width / heads }))?,
        norm_eps: keys.fraction("rms_norm_eps", 1e-6)?,
        position: keys.rotary()?,
        tied: keys.flag("tie_word_embeddings", false)?,
        init_std: keys.fraction("initializer_range", 0.02)?,
        bos: keys.token("bos_token_id")?,
        eos: keys.tokens("eos_token_id")?,
        pad: keys.token("pad_token_id")?,
        ..plain
    })
}

pub fn write(c: &Config) -> Value {
    let mut all = write_common(c);
    match c.family {
        Family::Mistral => all["sliding_window"] = json!(c.window),
        _ => {
            all["attention_bias"] = json!(c.qkv_bias);
            all["mlp_bias"] = json!(c.mlp_bias);
        }
    }
    all
}

pub fn write_common(c: &Config) -> Value {
    let mut all = hf::rotary(c);
    all["hidden_act"] = json!("silu");
    all["num_key_value_heads"] = json!(c.kv_heads);
    all["head_dim"] = json!(c.head_dim);
    all["rms_norm_eps"] = decimal(c.norm_eps);
    all["attention_dropout"] = json!(0.0);
    all
}

pub const LLAMA: Keys = Keys {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    width: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    hidden: "intermediate_size",
    context: "max_position_embeddings",
    init_std: "initializer_range",
    base: "model.",
};
pub const MISTRAL: Keys = Keys { model_type: "mistral", architecture: "MistralForCausalLM", ..LLAMA };

pub const NAMES: Names = Names {
    first: &[("model.embed_tokens.weight", Place::Tokens)],
    block: &[
        ("model.layers.{}.input_layernorm.weight", Place::Norm1),
        ("model.layers.{}.self_attn.q_proj.weight", Place::Q),
        ("model.layers.{}.self_attn.q_proj.bias", Place::QBias),
        ("model.layers.{}.self_attn.k_proj.weight", Place::K),
        ("model.layers.{}.self_attn.k_proj.bias", Place::KBias),
        ("model.layers.{}.self_attn.v_proj.weight", Place::V),
        ("model.layers.{}.self_attn.v_proj.bias", Place::VBias),
        ("model.layers.{}.self_attn.q_norm.weight", Place::QNorm),
        ("model.layers.{}.self_attn.k_norm.weight", Place::KNorm),
        ("model.layers.{}.self_attn.o_proj.weight", Place::Out),
        ("model.layers.{}.self_attn.o_proj.bias", Place::OutBias),
        ("model.layers.{}.post_attention_layernorm.weight", Place::Norm2),
        ("model.layers.{}.mlp.gate_proj.weight", Place::Gate),
        ("model.layers.{}.mlp.gate_proj.bias", Place::GateBias),
        ("model.layers.{}.mlp.up_proj.weight", Place::Up),
        ("model.layers.{}.mlp.up_proj.bias", Place::UpBias),
        ("model.layers.{}.mlp.down_proj.weight", Place::Down),
        ("model.layers.{}.mlp.down_proj.bias", Place::DownBias),
    ],
    last: &[("model.norm.weight", Place::FinalNorm), ("lm_head.weight", Place::Head)],
    transposed: false,
};
