//! Corpora as files, from outside.
use llm_train::data::formats::{Corpus, datatrove, llmc, megatron, numpy, raw};
use llm_train::data::{self, Data, Loader, Order, Reading, Share, Width};
use llm_train::error::{Error, Result};
use llm_train::ops::MASKED;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod forms;
mod fuzz;
mod refused;
mod sampling;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpora");
const GPT2: usize = 50257;
const EOS: u32 = 50256;

fn fixture(name: &str) -> PathBuf {
    Path::new(CORPORA).join(name)
}

fn open(path: &Path) -> Result<Corpus> {
    Corpus::open(path, None, GPT2)
}

/// The one sentence of a refusal, which must contain every one of `parts`.
fn refused<T>(result: Result<T>, parts: &[&str]) {
    match result {
        Err(Error::Input(text)) => {
            assert!(parts.iter().all(|p| text.contains(p)), "{text:?} lacks one of {parts:?}");
            assert!(!text.contains('\n') && text.contains("expected") && text.contains("found"), "{text}");
        }
        Err(other) => panic!("not bad input: {other}"),
        Ok(_) => panic!("accepted; expected a refusal with {parts:?}"),
    }
}

fn reading(seq: usize) -> Reading {
    Reading { seq, vocab: GPT2, width: None, eos: Some(EOS), reset_attention: false }
}

fn solo(micro_batch: usize, global_batch: usize) -> Share {
    Share { rank: 0, ranks: 1, micro_batch, global_batch }
}

/// A directory of damaged copies.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
    fn copy(&self, name: &str) -> PathBuf {
        std::fs::copy(fixture(name), self.path(name)).unwrap();
        self.path(name)
    }
    fn tokens(&self, name: &str, tokens: &[u16]) -> PathBuf {
        self.write(name, &bytes(tokens))
    }
    /// A Megatron pair of these documents.
    fn megatron(&self, prefix: &str, documents: &[&[u16]]) -> PathBuf {
        self.tokens(&format!("{prefix}.bin"), &documents.concat());
        self.write(&format!("{prefix}.idx"), &index(documents));
        self.path(prefix)
    }
}

fn bytes(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

fn index(documents: &[&[u16]]) -> Vec<u8> {
    let n = documents.len();
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(8);
    idx.extend((n as u64).to_le_bytes());
    idx.extend((n as u64 + 1).to_le_bytes());
    documents.iter().for_each(|d| idx.extend((d.len() as i32).to_le_bytes()));
    let mut at = 0u64;
    for d in documents {
        idx.extend(at.to_le_bytes());
        at += 2 * d.len() as u64;
    }
    (0..=n as u64).for_each(|k| idx.extend(k.to_le_bytes()));
    idx
}
