//! Qwen 2, 2.5 and 3 (Yang et al. 2024, 2025): Llama with biases on q, k and v (2), or with a norm of every query and
//! key head and a head dimension of its own (3). The tensors are named as Llama's.
use crate::error::Result;
use crate::model::config::{Config, Family, Keys, Position};
use crate::model::hf::Reader;
use crate::model::llama::{self, LLAMA, llama};
use crate::ops::rope::Scaling;
use serde_json::{Value, json};

pub fn presets() -> Vec<(&'static str, Config)> {
    let qwen = |family, c| Config {
        family,
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        position: Position::Rotary { theta: 1e6, scaling: Scaling::None },
        tied: true,
        bos: Some(151_643),
        eos: vec![151_643],
        ..c
    };
    let qwen2 = |c| qwen(Family::Qwen2, c);
    let qwen3 = |c| Config { head_dim: 128, ..qwen(Family::Qwen3, c) };
    vec![
        ("qwen2.5-0.5b", qwen2(llama(24, 896, 4864, [14, 2], 32_768, 151_936))),
        ("qwen3-0.6b", qwen3(llama(28, 1024, 3072, [16, 8], 32_768, 151_936))),
        ("qwen3-1.7b", qwen3(llama(28, 2048, 6144, [16, 8], 32_768, 151_936))),
    ]
}

pub fn read(keys: &Reader) -> Result<Config> {
    let common = llama::read_common(keys)?;
    let (window, window_from) = window(keys, common.layers)?;
    let plain = Config { window, window_from, ..common };
    if keys.family == Family::Qwen2 {
        // Its class has these biases whatever the file says of them.
        keys.must_be("attention_bias", json!(true))?;
        return Ok(Config { qkv_bias: true, ..plain });
    }
    let bias = keys.flag("attention_bias", false)?;
    Ok(Config { qkv_bias: bias, out_bias: bias, qk_norm: true, ..plain })
}

/// The window, and the first layer that has it.
fn window(keys: &Reader, layers: usize) -> Result<(Option<usize>, usize)> {
    let from = if keys.has("max_window_layers") { keys.count("max_window_layers")? } else { 28 };
    let types = keys.list("layer_types")?;
    let full = types.iter().take_while(|t| **t == "full_attention").count();
    if types.len() != full && types[full..].iter().any(|t| *t != "sliding_attention") {
        return keys.refuse("layer_types", "full_attention for the first layers, sliding_attention for the others");
    }
    let from = if types.is_empty() { from } else { full };
    let windowed = keys.flag("use_sliding_window", false)? && from < layers;
    Ok(if windowed { (keys.window()?, from) } else { (None, 0) })
}

pub fn write(c: &Config) -> Value {
    let mut all = llama::write_common(c);
    all["use_sliding_window"] = json!(c.window.is_some());
    all["sliding_window"] = json!(c.window);
    if c.window.is_some() {
        all["max_window_layers"] = json!(c.window_from);
    }
    if c.family == Family::Qwen3 {
        all["attention_bias"] = json!(c.qkv_bias);
    }
    all
}

pub const QWEN2: Keys = Keys { model_type: "qwen2", architecture: "Qwen2ForCausalLM", ..LLAMA };
pub const QWEN3: Keys = Keys { model_type: "qwen3", architecture: "Qwen3ForCausalLM", ..LLAMA };
