//! Headerless tokens: nanoGPT's `.bin` (u16) and OLMo's `.npy`, which is no NumPy file but `np.memmap`'s bytes.
//!
//! Nothing in the file tells its width. In order: what the configuration says; what the facts that tokenize left beside the
//! corpus say; u16 for vocabularies up to 65,536; u32. A document ends with the end-of-text token.
//!
//! Since every file passes as headerless tokens, what is plainly something else is refused here: compressed data, Parquet,
//! and text, which read as u16 would give a GPT-2 only tokens that it has.
use super::{Boundaries, Shard};
use crate::bad_input;
use crate::data::mapped::{Mapped, Tokens, Width};
use crate::error::Result;
use std::path::Path;

pub fn open(file: Mapped, width: Width) -> Result<Shard> {
    let len = parse(&file, width, file.path())?;
    Ok(Shard { format: "headerless", tokens: Tokens::new(file, 0, len, width), boundaries: Boundaries::AfterEos })
}

/// The number of tokens.
///
/// # Errors
/// `Input` where the size is no multiple of the width, or the content is plainly not tokens.
pub fn parse(bytes: &[u8], width: Width, path: &Path) -> Result<usize> {
    let name = path.display();
    if let Some(what) = other_content(bytes) {
        bad_input!("{name}: expected tokens, found {what}: make tokens of it with `llm-train tokenize`");
    }
    if !bytes.len().is_multiple_of(width.bytes()) {
        bad_input!("{name}: expected tokens of {} bytes each, found {} bytes, which is no multiple", width.bytes(), bytes.len());
    }
    Ok(bytes.len() / width.bytes())
}

/// Says what the bytes are, if that is certain and not tokens.
fn other_content(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, 8, flags, ..] if *flags < 32 => return Some("gzip data"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Some("zstd data"),
        [b'P', b'A', b'R', b'1', ..] => return Some("a Parquet file"),
        _ => {}
    }
    // Tokens below 256 have a zero byte, and every vocabulary has them among its commonest.
    let head = &bytes[..bytes.len().min(4096)];
    let text = head.len() >= 64 && head.iter().all(|&b| b >= 32 || matches!(b, b'\n' | b'\r' | b'\t'));
    let letters = head.iter().filter(|b| b.is_ascii_alphabetic() || **b == b' ').count();
    (text && 2 * letters > head.len()).then_some("text")
}
