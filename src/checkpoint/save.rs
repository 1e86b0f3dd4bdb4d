//! Writing a checkpoint, by all ranks together.
//!
//! ```text
//! rank 0                                   every rank
//! make step-….partial                                                     agree
//! config, progress, index, tokenizer       weights: file i where i mod ranks is mine
//!                                          moments: my share              agree
//! list the files, mark complete, rename                                   agree
//! move latest, remove old ones
//! ```
//! Each file is on the disk (fsync) before the list is, and the list before the rename: whenever the power goes, what
//! bears the name of a checkpoint is one.
use super::folder::{self, Keep};
use super::moments::{self, Moments};
use super::progress::{Progress, to_text};
use super::safetensors::Sink;
use super::weights::{self, Shard};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Group, Parameter};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Everything that goes into a checkpoint. All but `dev`, `moments` and `rank` is the same on every rank; the weights
/// must be whole on every rank.
pub struct Save<'a> {
    /// The run's folder; checkpoints lie in `out/checkpoints`.
    pub out: &'a Path,
    pub dev: &'a Device,
    pub parameters: &'a [Parameter],
    pub groups: &'a [Group],
    /// Of each group, what this rank owns.
    pub moments: &'a [Moments],
    /// `config.json` and `generation_config.json`.
    pub config: &'a Value,
    pub generation: &'a Value,
    /// Weights are saved in bf16, else in f32; as `config` says.
    pub weights_in_bf16: bool,
    /// Copied as `tokenizer.json`.
    pub tokenizer: Option<&'a Path>,
    pub progress: &'a Progress,
    pub keep: Keep,
    pub rank: usize,
    pub ranks: usize,
    /// [`super::SHARD_LIMIT`], but in tests.
    pub shard_limit: u64,
}

/// Writes the checkpoint and gives its folder. `agree` brings the ranks together and turns one rank's error into
/// everyone's; every rank calls it equally often, whatever happens.
///
/// Errors: [`Error::Failed`] naming the file and the bytes written. What was there before is still whole then, and the
/// unfinished folder is removed if that is possible.
pub fn save(s: &Save, agree: &dyn Fn(Result<()>) -> Result<()>) -> Result<PathBuf> {
    assert_eq!(s.progress.ranks, s.ranks, "ranks told to the reader against ranks that write");
    let (step, partial) = (s.progress.step, folder::partial(s.out, s.progress.step));
    let shards = weights::shards(s.parameters, s.weights_in_bf16, s.shard_limit);
    let leads = s.rank == 0;
    let mut dir = folder::root(s.out).join(folder::name(step));
    let mut work = || {
        agree(if leads { folder::begin(s.out, step) } else { Ok(()) })?;
        agree(write(s, &partial, &shards))?;
        agree(if leads { folder::finish(s.out, step, &files(s, &shards)).map(|d| dir = d) } else { Ok(()) })
    };
    if let Err(Error::Failed(what) | Error::Input(what)) = work() {
        if leads {
            folder::remove(&partial);
        }
        let before = "earlier checkpoints are whole";
        return Err(Error::Failed(format!("the checkpoint of step {step} is not written ({before}): {what}")));
    }
    if leads {
        folder::point_latest(s.out, step);
        folder::prune(s.out, step, s.keep);
    }
    Ok(dir)
}

/// This rank's files.
fn write(s: &Save, dir: &Path, shards: &[Shard]) -> Result<()> {
    if s.rank == 0 {
        Sink::whole(&dir.join("config.json"), &to_text(s.config))?;
        Sink::whole(&dir.join("generation_config.json"), &to_text(s.generation))?;
        Sink::whole(&dir.join("progress.json"), &to_text(s.progress))?;
        if shards.len() > 1 {
            Sink::whole(&dir.join("model.safetensors.index.json"), &weights::index(shards, s.weights_in_bf16))?;
        }
        if let Some(tokenizer) = s.tokenizer {
            let text = std::fs::read(tokenizer);
            let text =
                text.map_err(|e| Error::Failed(format!("{}: expected the tokenizer to copy, found: {e}", tokenizer.display())))?;
            Sink::whole(&dir.join("tokenizer.json"), &text)?;
        }
    }
    for (_, shard) in shards.iter().enumerate().filter(|(i, _)| i % s.ranks == s.rank) {
        weights::write(dir, s.dev, shard, s.weights_in_bf16)?;
    }
    moments::write(dir, s.dev, (s.parameters, s.groups, s.moments), (s.rank, s.ranks))
}

/// All files of the checkpoint.
fn files(s: &Save, shards: &[Shard]) -> Vec<String> {
    let mut files: Vec<String> = ["config.json", "generation_config.json", "progress.json"].map(String::from).into();
    files.extend((shards.len() > 1).then(|| "model.safetensors.index.json".to_owned()));
    files.extend(s.tokenizer.map(|_| "tokenizer.json".to_owned()));
    files.extend(shards.iter().map(|shard| shard.file.clone()));
    files.extend((0..s.ranks).map(|rank| moments::file(rank, s.ranks)));
    files
}
