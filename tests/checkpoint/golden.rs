//! Hugging Face's own files: read, written again, the same byte for byte; and the forms that others have written.
use crate::toy::{PLAIN, progress, saved};
use half::{bf16, f16};
use llm_train::checkpoint::*;
use llm_train::device::{Device, Precision};
use llm_train::model::{Config, Decoder, Recompute, Shape};
use llm_train::tensor::{Plan, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fs;
use std::path::{Path, PathBuf};

fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

fn config(dir: &Path) -> Config {
    let file = dir.join("config.json");
    Config::from_hf(&serde_json::from_slice(&fs::read(&file).unwrap()).unwrap(), &file).unwrap().0
}

const FAMILIES: [&str; 6] = ["gpt2", "llama", "llama3", "opt", "qwen2", "qwen3"];

/// The model of `dir` on a device, with padding for `ranks`.
fn model(dir: &Path, ranks: usize) -> (Device, Decoder) {
    model_in(Plan::default(), dir, ranks, Precision::Fp32)
}

fn model_in(mut plan: Plan, dir: &Path, ranks: usize, precision: Precision) -> (Device, Decoder) {
    let decoder = Decoder::plan(&mut plan, &config(dir), Shape { micro_batch: 1, seq: 8 }, Recompute::None, ranks);
    (Device::cpu(&plan, 1, &[], precision).unwrap(), decoder)
}

fn weights(dir: &Path, like: &Path) -> Vec<Vec<f32>> {
    let (dev, decoder) = model(like, 1);
    load_weights(dir, &dev, decoder.parameters()).unwrap();
    decoder.parameters().iter().map(|p| dev.read(p.weights)).collect()
}

/// Saves a model without moments, whose weights are f32 or bf16 alone.
fn written(out: &Path, dev: &Device, decoder: &Decoder) -> PathBuf {
    let none = |g: &llm_train::model::Group| Moments {
        owned: g.weights.start..g.weights.start,
        m: Tensor::range(0, 0),
        v: Tensor::range(0, 0),
    };
    let moments: Vec<_> = decoder.groups().iter().map(none).collect();
    let in_bf16 = dev.weights_in_bf16();
    let dtype = if in_bf16 { "bfloat16" } else { "float32" };
    let save = Save {
        out,
        dev,
        parameters: decoder.parameters(),
        groups: decoder.groups(),
        moments: &moments,
        config: &decoder.config().to_hf_in(dtype),
        generation: &decoder.config().generation_config(),
        weights_in_bf16: in_bf16,
        tokenizer: None,
        progress: &progress(1, 1),
        keep: PLAIN.keep,
        rank: 0,
        ranks: 1,
        shard_limit: SHARD_LIMIT,
    };
    llm_train::checkpoint::save(&save, &|r| r).unwrap()
}

#[test]
fn read_and_written_again_the_files_are_the_same() {
    for family in FAMILIES {
        let (from, out) = (golden(family), tempfile::tempdir().unwrap());
        let (dev, decoder) = model(&from, 3);
        load_weights(&from, &dev, decoder.parameters()).unwrap();
        let dir = written(out.path(), &dev, &decoder);
        let [theirs, ours] = [&from, &dir].map(|d| fs::read(d.join("model.safetensors")).unwrap());
        assert!(theirs == ours, "{family}: {} against {} bytes, or other ones", theirs.len(), ours.len());
        assert_eq!(config(&dir), config(&from), "{family}");
        assert!(!same_model(&dir, &decoder.config().to_hf()).unwrap(), "{family}: f32");
    }
}

/// Read from f32 they are rounded; what is written is what memory holds, and reads again as that in either kind of memory.
#[test]
fn weights_in_bf16_are_written_as_such() {
    for family in FAMILIES {
        let (from, out) = (golden(family), tempfile::tempdir().unwrap());
        let in_bf16 = || model_in(Plan::with_halves(true).with_weights_in_bf16(true), &from, 3, Precision::Bf16);
        let (dev, decoder) = in_bf16();
        load_weights(&from, &dev, decoder.parameters()).unwrap();
        let dir = written(out.path(), &dev, &decoder);
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = converted(family, str::to_owned, Dtype::BF16);
        assert_eq!(file.len(), expected.len(), "{family}");
        for (name, dtype, shape, bytes) in &expected {
            let found = file.tensor(name).unwrap();
            assert_eq!((found.dtype(), found.shape()), (*dtype, &shape[..]), "{family}: {name}");
            assert!(found.data() == bytes, "{family}: {name} is not the golden's rounded to bf16");
        }
        let json: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!((&json["torch_dtype"], &json["dtype"]), (&"bfloat16".into(), &"bfloat16".into()));
        // of any run's model, whatever its weights are
        assert!(same_model(&dir, &decoder.config().to_hf()).unwrap(), "{family}: bf16");
        let held = |(dev, decoder): (Device, Decoder)| {
            load_weights(&dir, &dev, decoder.parameters()).unwrap();
            decoder.parameters().iter().map(|p| dev.read(p.weights)).collect::<Vec<_>>()
        };
        let memory: Vec<Vec<f32>> = decoder.parameters().iter().map(|p| dev.read(p.weights)).collect();
        assert!(held(in_bf16()) == memory && held(model(&from, 1)) == memory, "{family}");
    }
}

/// In memory a weight is (outputs, inputs), whatever the file does.
#[test]
fn a_conv1d_is_turned_on_the_way() {
    let (dev, decoder) = model(&golden("gpt2"), 1);
    load_weights(&golden("gpt2"), &dev, decoder.parameters()).unwrap();
    let bytes = fs::read(golden("gpt2").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let name = "transformer.h.1.attn.c_attn.weight";
    let tensor = file.tensor(name).unwrap();
    let p = decoder.parameters().iter().find(|p| p.name == name).unwrap();
    let (memory, (inputs, outputs)) = (dev.read(p.weights), (64, 192));
    assert_eq!((tensor.shape(), p.weights.rows, p.weights.cols), (&[inputs, outputs][..], outputs, inputs));
    for (i, b) in tensor.data().chunks(4).enumerate() {
        assert_eq!(memory[(i % outputs) * inputs + i / outputs].to_le_bytes(), b, "element {i}");
    }
}

/// A file of `tensors`: (name, type, shape, bytes).
fn write(path: &Path, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The golden's tensors, renamed and as another type.
fn converted(family: &str, name: impl Fn(&str) -> String, dtype: Dtype) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(golden(family).join("model.safetensors")).unwrap();
    let convert = |b: &[u8]| {
        let x = f32::from_le_bytes(b.try_into().unwrap());
        match dtype {
            Dtype::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            _ => b.to_vec(),
        }
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, t)| (name(n), dtype, t.shape().to_vec(), t.data().chunks(4).flat_map(convert).collect())).collect()
}

#[test]
fn halves_are_widened() {
    let exact = weights(&golden("llama"), &golden("llama"));
    for (dtype, round) in
        [(Dtype::BF16, (|x| bf16::from_f32(x).to_f32()) as fn(f32) -> f32), (Dtype::F16, |x| f16::from_f32(x).to_f32())]
    {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("model.safetensors"), &converted("llama", str::to_owned, dtype));
        let rounded: Vec<Vec<f32>> = exact.iter().map(|t| t.iter().map(|x| round(*x)).collect()).collect();
        assert_ne!(rounded, exact);
        assert_eq!(weights(dir.path(), &golden("llama")), rounded, "{dtype:?}");
    }
}

/// The first published GPT-2: no `transformer.`, a mask stored as a buffer, the tied head repeated.
#[test]
fn names_of_the_bare_model_and_old_buffers_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = converted("gpt2", |n| n.strip_prefix("transformer.").unwrap().to_owned(), Dtype::F32);
    tensors.push(("h.0.attn.bias".into(), Dtype::U8, vec![1, 1, 2, 2], vec![1; 4]));
    tensors.push(("h.0.attn.masked_bias".into(), Dtype::F32, vec![], vec![0; 4]));
    tensors.push(("lm_head.weight".into(), Dtype::F32, vec![1], vec![0; 4]));
    write(&dir.path().join("model.safetensors"), &tensors);
    assert_eq!(weights(dir.path(), &golden("gpt2")), weights(&golden("gpt2"), &golden("gpt2")));
}

#[test]
fn shards_of_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = converted("qwen2", str::to_owned, Dtype::F32);
    let (a, b) = tensors.split_at(7);
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", a), ("b.safetensors", b)] {
        write(&dir.path().join(file), part);
        part.iter().for_each(|t| drop(map.insert(t.0.clone(), file.into())));
    }
    fs::write(dir.path().join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(weights(dir.path(), &golden("qwen2")), weights(&golden("qwen2"), &golden("qwen2")));
}

#[test]
fn what_is_written_beside_the_weights_reads_well() {
    let out = tempfile::tempdir().unwrap();
    let dir = saved(out.path(), 3);
    let text = fs::read_to_string(dir.join("config.json")).unwrap();
    assert!(text.starts_with("{\n  \"model_type\": \"gpt2\",\n") && text.ends_with("}\n"), "{text}");
}
