//! Presets, and `config.json` in both spellings: read, written, refused.
use crate::common::*;
use llm_train::error::Error;
use llm_train::model::{Config, Position};
use llm_train::ops::rope::Scaling;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn read(json: &Value) -> Result<(Config, Vec<String>), Error> {
    Config::from_hf(json, Path::new("config.json"))
}

#[test]
fn presets_have_the_published_number_of_parameters() {
    let known = [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("llama3-8b", 8_030_261_248),
        ("llama2-7b", 6_738_415_616),
        ("mistral-7b", 7_248_023_552),
        ("opt-125m", 125_239_296),
        ("opt-1.3b", 1_315_758_080),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("tinyllama-1.1b", 1_100_048_384),
        ("smollm2-135m", 134_515_008),
    ];
    for (name, parameters) in known {
        assert_eq!(Config::preset(name).unwrap().parameter_count(), parameters, "{name}");
    }
    let nano = Config::preset("nano").unwrap();
    assert_eq!((nano.layers, nano.heads, nano.width, nano.context, nano.vocab), (6, 6, 384, 256, 128));
    assert!(Config::preset("gpt5").is_none());
    for (name, config) in Config::presets() {
        config.validate(config.context).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read(&config.to_hf()).unwrap(), (config, vec![]), "{name}");
    }
}

#[test]
fn flops_are_six_a_weight_and_attention() {
    // llm.c's and nanoGPT's count for GPT-2: 6 N + 12 L C T, N without positions.
    let flops = Config::preset("gpt2").unwrap().flops_per_token(1024);
    let matrices = 12 * 12 * 768 * 768 + 50257 * 768;
    assert_eq!(flops.full, 6.0 * matrices as f64 + (12 * 12 * 768 * 1024) as f64);
    assert_eq!(flops.full - flops.causal, (6 * 12 * 768 * 1024) as f64);
    // Query heads of their own width, grouped keys: 28 layers of q 2048, k and v 1024.
    let flops = Config::preset("qwen3-0.6b").unwrap().flops_per_token(2);
    let matrices: u64 = 28 * (1024 * (2048 + 2 * 1024) + 2048 * 1024 + 3 * 1024 * 3072) + 151_936 * 1024;
    assert_eq!(flops.full, 6.0 * matrices as f64 + (12 * 28 * 2048 * 2) as f64);
}

/// Equal, 1 and 1.0 being one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(k, v)| same(v, &b[k])),
        _ => a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a)),
    }
}

#[test]
fn what_is_written_reads_as_the_same() {
    for family in FAMILIES {
        let config = golden(family).config;
        let written = config.to_hf();
        assert_eq!(read(&written).unwrap(), (config.clone(), vec![]));
        // Every key that we write and the golden has too has the golden's value.
        let golden = config_json(family);
        for (key, value) in written.as_object().unwrap() {
            assert!(golden.get(key).is_none_or(|g| same(g, value)), "{family}: {key}: {value} {}", golden[key]);
        }
        let mut generation: Value =
            serde_json::from_str(&std::fs::read_to_string(path(family, "generation_config.json")).unwrap()).unwrap();
        let ours = config.generation_config();
        generation.as_object_mut().unwrap().retain(|k, _| ours.get(k).is_some());
        assert_eq!(generation, ours);
    }
}

#[test]
fn both_spellings_are_read() {
    let config = golden("llama3").config;
    let theta = Position::Rotary { theta: 5e5, scaling: Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32.0 } };
    assert_eq!(config.position, theta);
    let without = |keys: &[&str]| {
        let mut json = config.to_hf();
        keys.iter().for_each(|k| drop(json.as_object_mut().unwrap().shift_remove(*k)));
        json
    };
    let (four, five) = (without(&["rope_parameters", "dtype"]), without(&["rope_theta", "rope_scaling", "torch_dtype"]));
    assert_eq!(read(&four).unwrap().0, config);
    assert_eq!(read(&five).unwrap().0, config);
    // The older name of the type.
    let mut old = four;
    let kind = old["rope_scaling"].as_object_mut().unwrap().shift_remove("rope_type").unwrap();
    old["rope_scaling"]["type"] = kind;
    assert_eq!(read(&old).unwrap().0, config);
}

#[test]
fn several_ends_of_a_text_are_kept() {
    let mut json = config_json("llama3");
    json["eos_token_id"] = json!([1, 8, 9]);
    let (config, _) = read(&json).unwrap();
    assert_eq!(config.eos, [1, 8, 9]);
    assert_eq!(config.to_hf()["eos_token_id"], json["eos_token_id"]);
}

#[test]
fn harmless_things_become_a_note() {
    let mut json = config_json("gpt2");
    (json["attn_pdrop"], json["resid_pdrop"]) = (json!(0.1), json!(0.2));
    let (config, notes) = read(&json).unwrap();
    assert_eq!(config, golden("gpt2").config);
    assert_eq!(notes, ["config.json: attn_pdrop 0.1, resid_pdrop 0.2 left out: we train without dropout"]);
}

#[test]
fn what_changes_the_mathematics_is_refused_by_name() {
    let none = Value::Null;
    let cases = [
        (
            "gpt2",
            "model_type",
            json!("mamba"),
            "model_type is \"mamba\", expected one of gpt2, llama, mistral, qwen2, qwen3, opt",
        ),
        ("gpt2", "model_type", none.clone(), "model_type is null, expected one of gpt2"),
        ("gpt2", "n_embd", json!(65), "n_embd 65 is not divisible by n_head 4"),
        ("gpt2", "n_embd", json!("64"), "n_embd is \"64\", expected a whole number from 1 to"),
        ("gpt2", "n_embd", none.clone(), "n_embd is null, expected a whole number"),
        ("gpt2", "n_head", json!(0), "n_head is 0, expected a whole number from 1"),
        ("gpt2", "n_layer", json!(-1), "n_layer is -1, expected a whole number from 1"),
        ("gpt2", "n_layer", json!(1e9), "n_layer is 1000000000.0, expected a whole number from 1"),
        ("gpt2", "vocab_size", json!(1u64 << 40), "vocab_size is 1099511627776, expected a whole number from 1"),
        ("gpt2", "activation_function", json!("gelu"), "activation_function is \"gelu\", expected gelu_new"),
        ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights is false, expected true"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx is true, expected false"),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention is true, expected false"),
        ("gpt2", "layer_norm_epsilon", json!(-1), "layer_norm_epsilon is -1, expected a number above 0"),
        ("gpt2", "layer_norm_epsilon", json!(1e-60), "layer_norm_epsilon is 1e-60, expected a number above 0 and at most 1"),
        ("gpt2", "bos_token_id", json!("<s>"), "bos_token_id is \"<s>\", expected a token id or a list"),
        ("gpt2", "tie_word_embeddings", json!(1), "tie_word_embeddings is 1, expected true or false"),
        ("llama", "quantization_config", json!({"bits": 4}), "quantization_config is {\"bits\":4}, expected null"),
        ("llama", "hidden_size", json!(66), "hidden_size 66 is not divisible by num_attention_heads 4"),
        ("llama", "num_key_value_heads", json!(3), "num_attention_heads 4 is not divisible by num_key_value_heads 3"),
        ("llama", "head_dim", json!(15), "head_dim 15 is odd, expected an even number for rotary positions"),
        ("llama", "hidden_act", json!("gelu"), "hidden_act is \"gelu\", expected silu"),
        (
            "llama",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "rope_scaling.type is \"linear\", expected \"default\" or",
        ),
        (
            "llama",
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "rope_parameters.rope_type is \"yarn\", expected \"default\" or",
        ),
        (
            "llama",
            "rope_parameters",
            json!({"rope_type": "llama3"}),
            "rope_parameters.factor is missing, expected a number above 0",
        ),
        ("llama", "rope_parameters", json!([]), "rope_parameters is [], expected an object or null"),
        ("llama", "partial_rotary_factor", json!(0.5), "partial_rotary_factor is 0.5, expected 1"),
        ("qwen2", "attention_bias", json!(false), "attention_bias is false, expected true"),
        ("qwen3", "layer_types", json!(["sliding_attention", "full_attention"]), "layer_types is [\"sliding_attention\""),
        ("opt", "do_layer_norm_before", json!(false), "do_layer_norm_before is false, expected true"),
        ("opt", "word_embed_proj_dim", json!(32), "word_embed_proj_dim is 32, expected 64"),
        ("opt", "activation_function", json!("gelu"), "activation_function is \"gelu\", expected relu"),
        ("opt", "_remove_final_layer_norm", json!(true), "_remove_final_layer_norm is true, expected false"),
        ("opt", "layer_norm_elementwise_affine", json!(false), "layer_norm_elementwise_affine is false, expected true"),
    ];
    for (family, key, value, message) in cases {
        let mut json = config_json(family);
        json[key] = value;
        let Err(Error::Input(found)) = read(&json) else { panic!("{family}: {key} {} is accepted", json[key]) };
        assert!(found.starts_with(&format!("config.json: {message}")), "{found}");
        assert!(!found.contains('\n') && found.len() < 250, "{found}");
    }
    assert!(read(&json!([])).is_err());
}

#[test]
fn a_window_shorter_than_the_sequence_is_refused() {
    let mut json = config_json("llama");
    json["model_type"] = json!("mistral");
    let window = |json: &Value| read(json).unwrap().0.window;
    assert_eq!(window(&json), Some(4096), "the class's own default");
    json["sliding_window"] = Value::Null;
    assert_eq!(window(&json), None);
    json["sliding_window"] = json!(32);
    let (config, _) = read(&json).unwrap();
    assert_eq!(config.validate(32), Ok(()));
    let refused = config.validate(33).unwrap_err().to_string();
    assert_eq!(refused, "sliding_window is 32, expected null or at least the sequence length 33: windows are not done");
    assert_eq!(read(&config.to_hf()).unwrap().0, config);

    let mut json = config_json("qwen2");
    (json["sliding_window"], json["max_window_layers"]) = (json!(16), json!(1));
    assert_eq!(window(&json), None, "without use_sliding_window there is none");
    json["use_sliding_window"] = json!(true);
    assert_eq!(window(&json), None, "layer_types says full_attention");
    json["layer_types"] = Value::Null;
    let (config, _) = read(&json).unwrap();
    assert_eq!((config.window, config.window_from), (Some(16), 1));
    assert_eq!(read(&config.to_hf()).unwrap().0, config);
    assert!(config.validate(17).is_err() && config.validate(16).is_ok());
}

#[test]
fn a_sequence_longer_than_the_context_is_refused() {
    let config = golden("llama").config;
    assert_eq!(config.validate(128), Ok(()));
    let refused = config.validate(129).unwrap_err().to_string();
    assert_eq!(refused, "sequence length is 129, expected at most the model's max_position_embeddings 128");
    assert!(config.validate(0).is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        (0..200u64).prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        "[a-z_]{0,12}".prop_map(|s| json!(s)),
        prop::collection::vec(any::<i32>(), 0..4).prop_map(|v| json!(v)),
        any::<u32>().prop_map(|n| json!({ "rope_type": "llama3", "factor": n })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_config_makes_us_panic(family in 0..6usize, at in any::<prop::sample::Index>(), value in any_value(), more in any_value()) {
        let mut json = config_json(FAMILIES[family]);
        let keys: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
        json[at.get(&keys)] = value;
        json[&keys[(at.index(keys.len()) * 7 + 3) % keys.len()]] = more;
        if let Ok((config, _)) = read(&json) {
            let again = read(&config.to_hf()).map(|(c, _)| c.parameter_count());
            prop_assert_eq!(again, Ok(config.parameter_count()));
        }
    }
}
