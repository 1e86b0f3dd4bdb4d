//! datatrove's and nanotron's `*.ds`: raw tokens; `*.ds.index` holds where each document ends, `*.ds.metadata` the width.
//!
//! ```text
//! x.ds            tokens, u16 or u32            x.ds.metadata   "tokenizer|token size\nN\nN in words"
//! x.ds.index      u64 ends[documents], in tokens, rising to N
//! ```
//! Source: `datatrove/pipeline/tokens/tokenizer.py`.
use super::{Boundaries, Documents, Shard};
use crate::bad_input;
use crate::data::mapped::{Mapped, Tokens, Width, u64_at};
use crate::error::Result;
use std::path::{Path, PathBuf};

/// `x.ds` and an ending behind it.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

pub fn open(file: Mapped) -> Result<Shard> {
    let index = Mapped::open(&beside(file.path(), ".index"))?;
    let metadata = std::fs::read(beside(file.path(), ".metadata")).ok();
    let (width, len) = parse(&index, metadata.as_deref(), file.len(), file.path())?;
    let tokens = Tokens::new(file, 0, len, width);
    Ok(Shard { format: "datatrove", tokens, boundaries: Boundaries::Index(Documents::Datatrove { index }) })
}

/// Width and number of the tokens. Without metadata the width is the one with which the last end fits the file.
///
/// # Errors
/// `Input` where index, metadata and size do not agree.
pub fn parse(index: &[u8], metadata: Option<&[u8]>, ds_len: usize, path: &Path) -> Result<(Width, usize)> {
    let name = path.display();
    if index.is_empty() || !index.len().is_multiple_of(8) {
        bad_input!("{name}.index: expected one u64 per document, found {} bytes", index.len());
    }
    let documents = index.len() / 8;
    let mut tokens = 0;
    for k in 0..documents {
        let end = u64_at(index, 8 * k).expect("inside the file");
        if end < tokens {
            bad_input!("{name}.index: expected rising ends of documents, found {end} after {tokens} at document {k}");
        }
        tokens = end;
    }
    let width = match metadata {
        Some(text) => {
            let first = text.split(|&b| b == b'\n').next().unwrap_or_default();
            let size = first.rsplit(|&b| b == b'|').next().and_then(|s| std::str::from_utf8(s).ok()?.trim().parse().ok());
            match size.and_then(Width::of_bytes) {
                Some(width) => width,
                None => bad_input!(
                    "{name}.metadata: expected a first line that ends in |2 or |4 (bytes of a token), found {:?}",
                    String::from_utf8_lossy(&first[..first.len().min(80)])
                ),
            }
        }
        None if tokens as u128 * 4 == ds_len as u128 => Width::U32,
        None => Width::U16,
    };
    if tokens as u128 * width.bytes() as u128 != ds_len as u128 {
        let expected = tokens as u128 * width.bytes() as u128;
        bad_input!("{name}: expected {expected} bytes ({tokens} tokens, says its .index), found {ds_len}");
    }
    Ok((width, tokens as usize))
}
