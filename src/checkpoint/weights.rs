//! Weights as Hugging Face keeps them: `model.safetensors`, or shards and an index where one file would be too long.
//!
//! ```text
//! file's tensor (shape of the parameter)       =  the parameter, without padding rows
//!                                              or its transpose: GPT-2's Conv1D is (inputs, outputs), memory (outputs, inputs)
//! shards: parameters in the model's order, a new file where the next one would pass the limit
//! ```
//! Of a run whose weights are bf16 alone the file is BF16, else F32: its numbers are those of memory, exactly.
use super::progress::{read_json, to_text};
use super::safetensors::{CHUNK, Sink, Source};
use crate::bad_input;
use crate::device::Device;
use crate::error::Result;
use crate::model::Parameter;
use crate::tensor::Tensor;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Bytes above which weights are divided into several files.
pub const SHARD_LIMIT: u64 = 5_000_000_000;

/// Bytes of host memory that saving or loading takes beside the model's own: a piece of a tensor as numbers and as bytes,
/// or the longest transposed tensor, which is turned in memory, twice.
pub fn staging_bytes(parameters: &[Parameter]) -> usize {
    let turned = parameters.iter().filter(|p| p.transposed).map(|p| 4 * p.weights.len()).max().unwrap_or(0);
    2 * turned.max(4 * CHUNK) + 4 * CHUNK
}

/// One file of weights, and what lies in it.
pub(super) struct Shard<'a> {
    pub file: String,
    pub parameters: Vec<&'a Parameter>,
}

/// The files that hold `parameters` when none is to pass `limit` bytes (one tensor alone may).
pub(super) fn shards(parameters: &[Parameter], in_bf16: bool, limit: u64) -> Vec<Shard<'_>> {
    let mut parts: Vec<Vec<&Parameter>> = vec![vec![]];
    let mut bytes = 0;
    for p in parameters {
        let more = (width(in_bf16) * p.weights.len()) as u64;
        if bytes + more > limit && bytes > 0 {
            parts.push(vec![]);
            bytes = 0;
        }
        bytes += more;
        parts.last_mut().expect("one at least").push(p);
    }
    let n = parts.len();
    let name = |i| if n == 1 { "model.safetensors".to_owned() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) };
    parts.into_iter().enumerate().map(|(i, parameters)| Shard { file: name(i), parameters }).collect()
}

/// The index of several shards: which file holds which tensor.
pub(super) fn index(shards: &[Shard], in_bf16: bool) -> Vec<u8> {
    let all = || shards.iter().flat_map(|s| s.parameters.iter().map(|p| (*p, &s.file)));
    let total: usize = all().map(|(p, _)| p.weights.len()).sum();
    let mut files: Vec<_> = all().map(|(p, file)| (p.name.clone(), json!(file))).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let map: Map<String, Value> = files.into_iter().collect();
    to_text(&json!({ "metadata": { "total_parameters": total, "total_size": width(in_bf16) * total }, "weight_map": map }))
}

/// Bytes of a number.
fn width(in_bf16: bool) -> usize {
    if in_bf16 { 2 } else { 4 }
}

/// Writes one file of weights into `dir`.
pub(super) fn write(dir: &Path, dev: &Device, shard: &Shard, in_bf16: bool) -> Result<()> {
    let shapes = shard.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
    let (mut sink, names) = Sink::tensors(&dir.join(&shard.file), shapes, in_bf16, ("format", "pt"))?;
    let by_name: HashMap<_, _> = shard.parameters.iter().map(|p| (p.name.as_str(), *p)).collect();
    for name in &names {
        let p = by_name[name.as_str()];
        if p.transposed {
            sink.values(&transpose(&dev.read(p.weights), p.weights.rows, p.weights.cols))?;
        } else {
            for part in parts(p.weights) {
                sink.values(&dev.read(part))?;
            }
        }
    }
    sink.close()
}

/// Fills `parameters` from the Hugging Face folder (or one of our checkpoints) `dir`: F32, BF16 or F16, one file or
/// shards with an index. Names may lack their first component (`h.0.ln_1.weight`, as files of the bare model do). A
/// tied head and buffers that older files hold are passed over; other unknown tensors are passed over with one warning.
///
/// Errors: [`crate::error::Error::Input`] naming the file and the tensor that is missing, of another shape, or of a type
/// we don't read; then nothing has been written to `dev`.
pub fn load_weights(dir: &Path, dev: &Device, parameters: &[Parameter]) -> Result<()> {
    let files = sources(dir)?;
    let named = files.iter().flat_map(|source| source.names().into_iter().map(move |name| (name, source)));
    let mut places: HashMap<String, &Source> = named.collect();
    let mut found = vec![];
    for p in parameters {
        let short = p.name.split_once('.').filter(|(first, _)| ["transformer", "model"].contains(first)).map(|(_, rest)| rest);
        let Some((name, source)) = places.remove_entry(&p.name).or_else(|| places.remove_entry(short?)) else {
            let file = if let [one] = &files[..] { one.path() } else { dir };
            bad_input!("{}: expected a tensor {} of shape {:?}, found none of that name", file.display(), p.name, p.shape);
        };
        let shape = &source.info(&name).expect("a tensor of this file").shape;
        if *shape != p.shape {
            bad_input!("{}: expected tensor {name} of shape {:?}, found {shape:?}", source.path().display(), p.shape);
        }
        source.width(&name)?;
        found.push((p, source, name));
    }
    let buffers = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
    let known = |name: &String| name == "lm_head.weight" || buffers.iter().any(|b| name.ends_with(b));
    let mut unknown: Vec<_> = places.into_keys().filter(|name| !known(name)).collect();
    unknown.sort();
    if let Some(first) = unknown.first() {
        log::warn!("{}: {} tensors have no place in this model and are left out, {first} first", dir.display(), unknown.len());
    }
    for (p, source, name) in found {
        if p.transposed {
            let values = source.read(&name, 0..p.weights.len())?;
            dev.write(p.weights, &transpose(&values, p.weights.cols, p.weights.rows));
        } else {
            for part in parts(p.weights) {
                dev.write(part, &source.read(&name, part.at - p.weights.at..part.end() - p.weights.at)?);
            }
        }
    }
    Ok(())
}

/// The files of weights in `dir`, each once, opened.
fn sources(dir: &Path) -> Result<Vec<Source>> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![Source::open(&single)?]);
    }
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        let torch = if dir.join("pytorch_model.bin").exists() { " (pytorch_model.bin alone: convert it first)" } else { "" };
        bad_input!("{}: expected model.safetensors or model.safetensors.index.json, found neither{torch}", dir.display());
    }
    let listed = read_json(&index, "an index of weights")?;
    let Some(map) = listed.get("weight_map").and_then(Value::as_object) else {
        bad_input!("{}: expected weight_map to name a file for each tensor, found no such table", index.display());
    };
    let mut files = std::collections::BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|name| name == *f)) {
            Some(file) => files.insert(PathBuf::from(file)),
            None => bad_input!("{}: expected the name of a file beside it for {tensor}, found {file}", index.display()),
        };
    }
    files.iter().map(|file| Source::open(&dir.join(file))).collect()
}

/// `t` as pieces of at most [`CHUNK`] elements.
fn parts(t: Tensor) -> impl Iterator<Item = Tensor> {
    (t.at..t.end()).step_by(CHUNK).map(move |at| Tensor::range(at, t.end().min(at + CHUNK)))
}

/// `x` (rows, cols) as (cols, rows), in squares that stay in the cache.
fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    /// A square of both is 8 KiB, within any first-level cache.
    const SIDE: usize = 32;
    assert_eq!(x.len(), rows * cols, "transpose: ({rows}, {cols})");
    let mut y = vec![0.0; x.len()];
    for top in (0..rows).step_by(SIDE) {
        for left in (0..cols).step_by(SIDE) {
            for r in top..rows.min(top + SIDE) {
                for c in left..cols.min(left + SIDE) {
                    y[c * rows + r] = x[r * cols + c];
                }
            }
        }
    }
    y
}
