//! The folders of a run's checkpoints: which are whole, which is the newest, which may go.
//!
//! ```text
//! OUT/checkpoints/
//!   step-00000100/            complete: lists every file with its bytes, written last
//!   step-00000200/
//!   step-00000300.partial/    being written, or left behind by a run that died: never read, removed at the next save
//!   latest -> step-00000200   for people; the program looks at the folders
//! ```
use super::progress::{read_json, to_text};
use super::safetensors::Sink;
use crate::error::{Error, Result};
use crate::{bad_input, failed};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Which checkpoints stay when a new one is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many; the one just written always.
    pub newest: usize,
    /// And those at multiples of so many steps.
    pub every: Option<u64>,
}

const MARKER: &str = "complete";

pub(super) fn root(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

pub(super) fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The newest complete checkpoint of the run in `out`. Unfinished ones are passed over silently, damaged ones with a
/// warning. Ask on one rank and tell the others, so that all take the same.
///
/// Errors: [`Error::Failed`] when the folder is there and cannot be read.
pub fn newest(out: &Path) -> Result<Option<PathBuf>> {
    for (_, dir) in all(out)?.into_iter().rev() {
        match check_complete(&dir) {
            Ok(()) => return Ok(Some(dir)),
            Err(e) => log::warn!("passing over a damaged checkpoint: {e}"),
        }
    }
    Ok(None)
}

/// A checkpoint as a person looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub step: u64,
    pub dir: PathBuf,
    /// Of all its files.
    pub bytes: u64,
    pub files: usize,
    /// Why it is not complete.
    pub damage: Option<String>,
}

/// Every finished checkpoint of the run in `out`, by step, ascending.
///
/// Errors: as [`newest`].
pub fn list(out: &Path) -> Result<Vec<Kept>> {
    let look = |(step, dir): (u64, PathBuf)| {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let sizes: Vec<u64> = entries.filter_map(|e| e.metadata().ok()).map(|m| m.len()).collect();
        let damage = check_complete(&dir).err().map(|e| e.to_string());
        Kept { step, bytes: sizes.iter().sum(), files: sizes.len(), damage, dir }
    };
    Ok(all(out)?.into_iter().map(look).collect())
}

/// Whether every file of the checkpoint `dir` is there, as long as it was when written.
///
/// Errors: [`Error::Input`] naming the file, the bytes expected and found.
pub fn check_complete(dir: &Path) -> Result<()> {
    let path = dir.join(MARKER);
    let listed = read_json(&path, "the list of a complete checkpoint's files")?;
    let Some(files) = listed.get("files").and_then(Value::as_object) else {
        bad_input!("{}: expected files with their bytes, found no such table", path.display());
    };
    for (name, bytes) in files {
        let path = dir.join(name);
        match fs::metadata(&path) {
            Ok(m) if bytes.as_u64() == Some(m.len()) => (),
            Ok(m) => bad_input!("{}: expected {bytes} bytes, found {}", path.display(), m.len()),
            Err(e) => bad_input!("{}: expected {bytes} bytes, found: {e}", path.display()),
        }
    }
    Ok(())
}

/// Whether a run can write into the folder `out`, which the option `given` names and which need not exist. Leaves nothing
/// behind.
///
/// Errors: [`Error::Input`] with the system's reason.
pub fn check_writable(given: &str, out: &Path) -> Result<()> {
    let refuse = |path: &Path, found: String| {
        Error::Input(format!("{given} {}: expected a folder to write into, found {}: {found}", out.display(), path.display()))
    };
    let full = std::path::absolute(out).map_err(|e| refuse(out, e.to_string()))?;
    let there = full.ancestors().find(|dir| dir.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(refuse(there, "not a folder".to_owned()));
    }
    let probe = there.join(format!(".llm-train-{}.partial", std::process::id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).map_err(|e| refuse(there, e.to_string()))
}

/// Every finished folder by step, ascending; complete or damaged.
fn all(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let root = root(out);
    let entries = match fs::read_dir(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => failed!("{}: expected the folder of checkpoints, found: {e}", root.display()),
        Ok(entries) => entries,
    };
    let step = |name: &str| name.strip_prefix("step-").filter(|s| s.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|e| Some((step(e.file_name().to_str()?)?, e.path()))).filter(|(_, p)| p.is_dir()).collect();
    found.sort();
    Ok(found)
}

/// An empty folder to write `step` into; what runs before left unfinished is removed.
pub(super) fn begin(out: &Path, step: u64) -> Result<()> {
    let root = root(out);
    let trouble = |e: std::io::Error| Error::Failed(format!("{}: cannot make a folder for step {step}: {e}", root.display()));
    fs::create_dir_all(&root).map_err(trouble)?;
    for entry in fs::read_dir(&root).map_err(trouble)?.flatten() {
        if entry.path().extension().is_some_and(|x| x == "partial") {
            remove(&entry.path());
        }
    }
    fs::create_dir(partial(out, step)).map_err(trouble)
}

pub(super) fn partial(out: &Path, step: u64) -> PathBuf {
    root(out).join(format!("{}.partial", name(step)))
}

/// Marks the partial folder of `step`, which must hold `files`, complete, and gives it its name. The rename is the moment
/// from which the checkpoint exists.
pub(super) fn finish(out: &Path, step: u64, files: &[String]) -> Result<PathBuf> {
    let (root, partial, dir) = (root(out), partial(out, step), root(out).join(name(step)));
    let mut sizes = Map::new();
    for file in files {
        match fs::metadata(partial.join(file)) {
            Ok(m) => sizes.insert(file.clone(), json!(m.len())),
            Err(e) => failed!(
                "{}: expected a file that a rank has written, found: {e}; do all ranks share --out?",
                partial.join(file).display()
            ),
        };
    }
    Sink::whole(&partial.join(MARKER), &to_text(&json!({ "files": sizes })))?;
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|e| Error::Failed(format!("{}: cannot be renamed: {e}", from.display())))
    };
    sync(&partial)?;
    // A run that went back to an older checkpoint comes past this step again.
    let replaced = root.join(format!("{}.replaced.partial", name(step)));
    if dir.exists() {
        rename(&dir, &replaced)?;
    }
    rename(&partial, &dir)?;
    sync(&root)?;
    remove(&replaced);
    Ok(dir)
}

/// Points `latest` at `step`. Some file systems have no links: then people must look for themselves.
pub(super) fn point_latest(out: &Path, step: u64) {
    let aside = root(out).join("latest.partial");
    let moved = std::os::unix::fs::symlink(name(step), &aside).and_then(|()| fs::rename(&aside, root(out).join("latest")));
    if let Err(e) = moved {
        log::warn!("{}: cannot point latest at {}: {e}", root(out).display(), name(step));
    }
}

/// Removes what `keep` does not ask for, now that `step` is complete. Damaged ones are left for people to look at.
pub(super) fn prune(out: &Path, step: u64, keep: Keep) {
    let all = all(out).inspect_err(|e| log::warn!("old checkpoints stay: {e}")).unwrap_or_default();
    let whole: Vec<_> = all.into_iter().filter(|(_, dir)| check_complete(dir).is_ok()).collect();
    let recent = whole.len().saturating_sub(keep.newest);
    for (old, dir) in &whole[..recent] {
        if *old == step || keep.every.is_some_and(|every| every > 0 && old % every == 0) {
            continue;
        }
        // Renamed first: a run that dies while removing leaves a partial folder, not a damaged checkpoint.
        let aside = dir.with_extension("partial");
        match fs::rename(dir, &aside) {
            Ok(()) => remove(&aside),
            Err(e) => log::warn!("{}: cannot be removed: {e}", dir.display()),
        }
    }
}

/// Removes `path`, whatever it is. What cannot be removed costs space, not correctness.
pub(super) fn remove(path: &Path) {
    let Ok(about) = path.symlink_metadata() else { return };
    let removed = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(e) = removed {
        log::warn!("{}: cannot be removed: {e}", path.display());
    }
}

/// Waits until the entries of the folder `dir` are on the disk; a file system that cannot promise it is not asked to.
fn sync(dir: &Path) -> Result<()> {
    match File::open(dir).and_then(|d| d.sync_all()) {
        Err(e) if !matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) => {
            failed!("{}: the folder's entries do not reach the disk: {e}", dir.display())
        }
        _ => Ok(()),
    }
}
