//! From what the user wrote to the files that hold the tokens.
use crate::bad_input;
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Endings of files that hold tokens.
const TOKENS: [&str; 3] = ["bin", "ds", "npy"];

/// The token files of `path`, in the order of their names: the file itself; for a prefix, what it becomes with `.idx`, `.bin`,
/// `.ds` or `.npy`, or with llm.c's `_000000.bin`, `_000001.bin`, …; all token files of a directory; all that a `*` fits.
///
/// # Errors
/// `Input` where there is none.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let is_tokens = |name: &str| Path::new(name).extension().and_then(OsStr::to_str).is_some_and(|e| TOKENS.contains(&e));
    if path.is_dir() {
        return some(matching(path, is_tokens)?, path, "a directory with .bin, .ds or .npy files");
    }
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if name.contains('*') {
        return some(
            matching(parent, |file| is_tokens(file) && fits(name, file))?,
            path,
            ".bin, .ds or .npy files of that pattern",
        );
    }
    for ending in ["idx", "bin", "ds", "npy"] {
        let file = PathBuf::from(format!("{}.{ending}", path.display()));
        if file.is_file() {
            return Ok(vec![file]);
        }
    }
    let numbered = |file: &str| {
        let number = file.strip_prefix(name).and_then(|f| f.strip_prefix('_')).and_then(|f| f.strip_suffix(".bin"));
        number.is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let shards = if parent.is_dir() && !name.is_empty() { matching(parent, numbered)? } else { Vec::new() };
    some(shards, path, "a corpus (a file, or a prefix of .bin and .idx)")
}

fn some(files: Vec<PathBuf>, path: &Path, expected: &str) -> Result<Vec<PathBuf>> {
    if files.is_empty() {
        bad_input!("{}: expected {expected}, found none", path.display());
    }
    Ok(files)
}

fn matching(directory: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let trouble = |e: std::io::Error| Error::Input(format!("{}: expected a readable directory, found: {e}", directory.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        if entry.file_name().to_str().is_some_and(&fits) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(fits("a_*.bin", "a_000.bin") && fits("*", "x") && fits("a*b*c", "a1b2c") && fits("ab", "ab"));
        assert!(!fits("a_*.bin", "a_000.idx") && !fits("ab", "abc") && !fits("ab*ba", "aba") && !fits("a*b*c", "acb"));
    }
}
