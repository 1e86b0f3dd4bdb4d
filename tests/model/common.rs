//! Goldens read from their files, models built and filled, gradients gathered.
use llm_train::device::{Device, Precision};
use llm_train::model::{Config, Decoder, Input, Parameter, Recompute, Shape};
use llm_train::tensor::{Plan, Tensor};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::PathBuf;

pub const FAMILIES: [&str; 6] = ["gpt2", "llama", "llama3", "qwen2", "qwen3", "opt"];
/// Of the goldens' batch: 3 sequences of 48 tokens.
pub const SHAPE: Shape = Shape { micro_batch: 3, seq: 48 };

pub type Tensors = HashMap<String, Vec<f32>>;

pub struct Golden {
    pub config: Config,
    pub model: Tensors,
    pub expected: Tensors,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
}

pub fn path(family: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join(file)
}

pub fn config_json(family: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path(family, "config.json")).unwrap()).unwrap()
}

pub fn golden(family: &str) -> Golden {
    let file = path(family, "config.json");
    let (config, notes) = Config::from_hf(&config_json(family), &file).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    let bytes = std::fs::read(path(family, "golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap().data().chunks(8).map(|b| b[0] as u32 + 256 * b[1] as u32);
    let ids: Vec<u32> = ids.collect();
    let seq = SHAPE.seq;
    let cut = |skip: usize| ids.chunks(seq + 1).flat_map(|row| row[skip..skip + seq].to_vec()).collect();
    Golden {
        config,
        model: floats(family, "model.safetensors"),
        expected: floats(family, "golden.safetensors"),
        tokens: cut(0),
        targets: cut(1),
    }
}

fn floats(family: &str, file: &str) -> Tensors {
    let bytes = std::fs::read(path(family, file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let float = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    let all = file.iter().filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
    all.map(|(name, t)| (name.to_string(), t.data().chunks(4).map(float).collect())).collect()
}

impl Golden {
    pub fn input(&self) -> Input<'_> {
        input(&self.tokens, &self.targets)
    }
}

pub fn input<'a>(tokens: &'a [u32], targets: &'a [u32]) -> Input<'a> {
    Input { tokens, targets, starts: None, positions: None }
}

pub fn cpu(plan: &Plan, precision: Precision) -> Device {
    Device::cpu(plan, 2, &[], precision).unwrap()
}

/// A training model on the CPU device, first values drawn.
pub fn build(c: &Config, shape: Shape, recompute: Recompute, ranks: usize) -> (Device, Decoder) {
    let mut plan = Plan::default();
    let decoder = Decoder::plan(&mut plan, c, shape, recompute, ranks);
    let dev = cpu(&plan, Precision::Fp32);
    decoder.prepare(&dev);
    decoder.init(&dev, 1);
    (dev, decoder)
}

/// Writes the file's values, all of them and no others.
pub fn load(dev: &Device, decoder: &Decoder, model: &Tensors) {
    assert_eq!(decoder.parameters().len(), model.len());
    for p in decoder.parameters() {
        let values = &model[&p.name];
        assert_eq!(values.len(), p.shape.iter().product::<usize>(), "{}", p.name);
        dev.write(p.weights, &if p.transposed { transpose(values, p.shape[0]) } else { values.clone() });
    }
}

/// The values at `place`, a place of `p`, in the order of the file.
pub fn file_order(dev: &Device, p: &Parameter, place: Tensor) -> Vec<f32> {
    let values = dev.read(place);
    if p.transposed { transpose(&values, p.shape[1]) } else { values }
}

fn transpose(x: &[f32], rows: usize) -> Vec<f32> {
    let cols = x.len() / rows;
    (0..x.len()).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// All gradients, group after group.
pub fn gradients(dev: &Device, decoder: &Decoder) -> Vec<f32> {
    decoder.groups().iter().flat_map(|g| dev.read(Tensor::range(g.grads.start, g.grads.end))).collect()
}

pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

pub fn widest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, x| if x > m || x.is_nan() { x } else { m })
}

/// Tokens that look like nothing in particular.
pub fn tokens(n: usize, vocab: usize, salt: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7 + salt * 5 + i * i) % vocab) as u32).collect()
}

/// A small GPT-2, a small Llama with grouped queries, normed queries and keys, and an untied head; odd vocabularies.
pub fn small() -> [Config; 2] {
    let gpt2 = Config::preset("nano").unwrap();
    let gpt2 = Config { layers: 2, width: 8, hidden: 32, heads: 2, kv_heads: 2, head_dim: 4, vocab: 11, context: 8, ..gpt2 };
    let qwen3 = Config::preset("qwen3-0.6b").unwrap();
    let qwen3 = Config {
        layers: 2,
        width: 8,
        hidden: 12,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        vocab: 131,
        context: 8,
        tied: false,
        ..qwen3
    };
    [gpt2, qwen3]
}
