//! How far a run had come: `progress.json`, and whether a checkpoint belongs to the model at hand.
use crate::bad_input;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Structural: raised when older checkpoints can no longer be read, for example when parameters change places in their
/// groups.
pub const FORMAT: u32 = 1;

/// What besides weights and moments a run needs to go on as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Sequences drawn from the corpora: with the seed, where the data goes on.
    pub samples: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    pub seed: u64,
    /// Ranks that wrote the checkpoint, and thus its number of optimizer files.
    pub ranks: usize,
    /// Hash of the corpora.
    pub corpus: String,
    /// The resolved configuration, as it can be given to `--config`.
    pub config: String,
    /// Which algorithms a GPU's products use ([`crate::device::cuda::Cuda::choices`]), in hexadecimal: the same ones give the same
    /// bits. Empty on a CPU.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub products: String,
    /// The GPU and the library that these algorithms are of: another one has others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub products_of: String,
    /// What computed attention on a GPU. None on a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attended>,
}

/// What computed attention, and what it takes to have the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Attended {
    /// Our own kernels, and those that go row by row.
    Own,
    Plain,
    /// cuDNN's plans for one shape on one kind of GPU, in cuDNN's own JSON.
    Cudnn {
        version: String,
        gpu: String,
        shape: String,
        forward: String,
        backward: String,
    },
}

/// The progress stored in the checkpoint `dir`.
///
/// Errors: [`Error::Input`] naming the file when it is missing, is not what we write, or comes from a newer program.
pub fn read_progress(dir: &Path) -> Result<Progress> {
    let path = dir.join("progress.json");
    let progress: Progress = serde_json::from_value(read_json(&path, "a checkpoint's progress")?)
        .map_err(|e| Error::Input(format!("{}: expected a checkpoint's progress, found: {e}", path.display())))?;
    if progress.format != FORMAT {
        let (found, program) = (progress.format, progress.program);
        bad_input!("{}: expected checkpoint format {FORMAT}, found {found}, written by version {program}", path.display());
    }
    Ok(progress)
}

/// Whether the checkpoint `dir` holds the model that `config` (its `config.json`) describes; whatever the type of its weights is, for
/// any is read. Returns whether that is bf16.
///
/// Errors: [`Error::Input`] naming the first key that differs, with both values.
pub fn same_model(dir: &Path, config: &Value) -> Result<bool> {
    let path = dir.join("config.json");
    let stored = read_json(&path, "a model's configuration")?;
    // The kind of model first: where it differs, so does all else. Keys that only one of them has are a matter of the
    // program's version.
    let keys = config.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str));
    let passed = ["transformers_version", "dtype", "torch_dtype"];
    for key in std::iter::once("model_type").chain(keys).filter(|key| !passed.contains(key)) {
        if let (Some(ours), Some(theirs)) = (config.get(key), stored.get(key))
            && ours != theirs
        {
            bad_input!("{}: expected {key} {ours} as this run's model has, found {theirs}: it is another model", path.display());
        }
    }
    Ok(stored.get("torch_dtype").or(stored.get("dtype")).is_some_and(|dtype| dtype == "bfloat16"))
}

/// The JSON in the file `path`, which should hold `what`.
pub(super) fn read_json(path: &Path, what: &str) -> Result<Value> {
    let trouble = |e: &dyn std::fmt::Display| Error::Input(format!("{}: expected {what}, found: {e}", path.display()));
    let text = std::fs::read(path).map_err(|e| trouble(&e))?;
    serde_json::from_slice(&text).map_err(|e| trouble(&e))
}

/// As people and Hugging Face write it: indented by two, with a last newline.
pub(super) fn to_text(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("strings and numbers");
    text.push(b'\n');
    text
}
