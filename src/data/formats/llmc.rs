//! llm.c's shards: a header of 256 int32, then the tokens.
//!
//! ```text
//! [0] magic  [1] version  [2] tokens  0 …     20240520 version 1: u16 (GPT-2)     20240801 version 7: u32 (Llama 3)
//! ```
//! A document starts *with* the end-of-text token. Source: `dev/data/data_common.py` and `llmc/dataloader.h`.
use super::{Boundaries, Shard};
use crate::bad_input;
use crate::data::mapped::{Mapped, Tokens, Width, u32_at};
use crate::error::Result;
use std::path::Path;

pub const HEADER: usize = 1024;
pub const MAGIC_U16: u32 = 20240520;
pub const MAGIC_U32: u32 = 20240801;
/// The same family's files that hold no corpus.
const EVALUATION: u32 = 20240522;
const TOKENIZER: u32 = 20240328;

/// Whether the first word is one of llm.c's.
pub fn recognises(bytes: &[u8]) -> bool {
    matches!(u32_at(bytes, 0), Some(MAGIC_U16 | MAGIC_U32 | EVALUATION | TOKENIZER))
}

pub fn open(file: Mapped) -> Result<Shard> {
    let (width, len) = parse(&file, file.path())?;
    Ok(Shard { format: "llm.c", tokens: Tokens::new(file, HEADER, len, width), boundaries: Boundaries::AtEos })
}

/// Width and number of the tokens.
///
/// # Errors
/// `Input` where version, count and size of the file do not agree.
pub fn parse(bytes: &[u8], path: &Path) -> Result<(Width, usize)> {
    let name = path.display();
    if bytes.len() < HEADER {
        bad_input!("{name}: expected an llm.c header of {HEADER} bytes, found {} bytes in all", bytes.len());
    }
    let word = |i: usize| u32_at(bytes, 4 * i).expect("the header is whole");
    let (width, version) = match word(0) {
        MAGIC_U16 => (Width::U16, 1),
        MAGIC_U32 => (Width::U32, 7),
        EVALUATION => bad_input!("{name}: expected a corpus, found an llm.c evaluation file (magic {EVALUATION})"),
        TOKENIZER => bad_input!("{name}: expected a corpus, found an llm.c tokenizer (magic {TOKENIZER})"),
        magic => bad_input!("{name}: expected llm.c's magic {MAGIC_U16} or {MAGIC_U32}, found {magic}"),
    };
    if word(1) != version {
        bad_input!("{name}: expected version {version} after magic {}, found {}", word(0), word(1));
    }
    let expected = HEADER as u64 + width.bytes() as u64 * word(2) as u64;
    if bytes.len() as u64 != expected {
        bad_input!("{name}: expected {expected} bytes ({} tokens, says the header), found {}", word(2), bytes.len());
    }
    Ok((width, word(2) as usize))
}
