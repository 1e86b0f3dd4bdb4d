//! What a corpus's tokens were made from: the note `PREFIX.json` that tokenize leaves, and the bytes of a token.
//!
//! ```text
//! loss in bits per byte = Σ loss (nats) / ln 2 / Σ bytes of the targets
//! ```
//! The bytes are those of exactly the evaluated targets, by a table of lengths out of the tokenizer; special tokens stand for
//! no text and have none.
use crate::bad_input;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The note beside a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `megatron`, `llmc` or `nanogpt`.
    pub format: String,
    /// Bytes of a token in the file: 2 or 4.
    pub token_size: usize,
    pub documents: u64,
    pub tokens: u64,
    /// Bytes of text in the documents, without what separated them.
    pub bytes: u64,
    pub vocab: usize,
    /// The end-of-text token that stands between documents, if one does.
    pub eos: Option<u32>,
    /// File name of the tokenizer, which lies in the same directory.
    pub tokenizer: String,
    /// FNV-1a, 64 bits, of the tokenizer's file.
    pub tokenizer_hash: String,
}

/// The note that belongs to a corpus (a prefix or file as users name it), if there is one that can be read.
pub fn read(corpus: &Path) -> Option<Facts> {
    let text = beside(corpus, "json").find_map(|p| std::fs::read_to_string(p).ok())?;
    serde_json::from_str(&text).ok()
}

/// The tokenizer that tokenize put beside a corpus.
pub fn tokenizer_of(corpus: &Path) -> Option<PathBuf> {
    let noted = read(corpus).and_then(|f| Some(corpus.parent()?.join(f.tokenizer)));
    noted.into_iter().chain(beside(corpus, "tokenizer.json")).find(|p| p.is_file())
}

/// `corpus` with an ending behind it, and behind it without its own.
fn beside(corpus: &Path, ending: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let added = |path: &Path| PathBuf::from(format!("{}.{ending}", path.display()));
    let known = corpus.extension().is_some_and(|e| ["bin", "idx", "ds", "npy"].iter().any(|k| e == *k));
    let bare = known.then(|| added(&corpus.with_extension("")));
    [Some(added(corpus)), bare].into_iter().flatten()
}

/// FNV-1a of 64 bits: tells two files apart by accident, not by malice.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn add(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ b as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// Bytes of text that each token of a `tokenizer.json` stands for; special tokens 0.
///
/// # Errors
/// `Input` where the file is no tokenizer of byte-level or SentencePiece kind.
pub fn token_bytes(tokenizer: &Path) -> Result<Vec<u32>> {
    let name = tokenizer.display();
    let text =
        std::fs::read_to_string(tokenizer).map_err(|e| Error::Input(format!("{name}: expected a tokenizer, found: {e}")))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::Input(format!("{name}: expected JSON, found: {e}")))?;
    let byte_level = [&json["pre_tokenizer"], &json["decoder"]].iter().any(|part| part.to_string().contains("\"ByteLevel\""));
    // A byte-level token has one character a byte; a SentencePiece token writes a space as ▁ and a lone byte as <0xNN>.
    let length = |token: &str| match token {
        t if byte_level => t.chars().count() as u32,
        t if t.len() == 6 && t.starts_with("<0x") && t.ends_with('>') => 1,
        t => t.replace('▁', " ").len() as u32,
    };
    let mut bytes = Vec::new();
    let mut put = |id: u64, length: u32| {
        if id >= 1 << 24 {
            bad_input!("{name}: expected token numbers below 16,777,216, found {id}");
        }
        bytes.resize(bytes.len().max(id as usize + 1), 0);
        bytes[id as usize] = length;
        Ok(())
    };
    match &json["model"]["vocab"] {
        Value::Object(vocab) => {
            for (token, id) in vocab {
                put(id.as_u64().unwrap_or(u64::MAX), length(token))?;
            }
        }
        Value::Array(vocab) => {
            for (id, entry) in vocab.iter().enumerate() {
                put(id as u64, entry[0].as_str().map_or(0, length))?;
            }
        }
        _ => bad_input!("{name}: expected a vocabulary under model.vocab, found none"),
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let special = added["special"].as_bool().unwrap_or(false);
        put(added["id"].as_u64().unwrap_or(u64::MAX), if special { 0 } else { content.len() as u32 })?;
    }
    Ok(bytes)
}

/// Bytes of text that the targets stand for; masked ones for none.
pub fn bytes_of(targets: &[u32], token_bytes: &[u32]) -> u64 {
    targets.iter().map(|&t| token_bytes.get(t as usize).copied().unwrap_or(0) as u64).sum()
}
