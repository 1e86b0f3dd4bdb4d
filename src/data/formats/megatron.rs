//! Megatron-LM's indexed dataset: `PREFIX.idx` says where the documents lie in `PREFIX.bin`.
//!
//! ```text
//! .idx:  0 "MMIDIDX\0\0" | 9 u64 version 1 | 17 u8 type (8 u16, 4 i32) | 18 u64 sequences S | 26 u64 D
//!       34 i32 lengths[S] | i64 byte pointers[S] | i64 documents[D] (0 … S) | optional i8 modes[S]
//! .bin:  the tokens, nothing else
//! ```
//! Source: `megatron/core/datasets/indexed_dataset.py`.
use super::{Boundaries, Documents, Shard};
use crate::bad_input;
use crate::data::mapped::{Mapped, Tokens, Width, u32_at, u64_at};
use crate::error::Result;
use std::path::Path;

pub const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: usize = 34;

/// What an `.idx` says, held against the length of its `.bin`.
#[derive(Debug, PartialEq)]
pub struct Header {
    pub width: Width,
    pub tokens: usize,
    sequences: usize,
    documents: usize,
}

/// Opens the pair.
///
/// # Errors
/// `Input` naming the file that does not fit.
pub fn open(idx: &Path, bin: &Path) -> Result<Shard> {
    let index = Mapped::open(idx)?;
    let file = Mapped::open(bin)?;
    let header = parse(&index, file.len(), idx, bin)?;
    let tokens = Tokens::new(file, 0, header.tokens, header.width);
    let documents = Documents::Megatron { index, sequences: header.sequences, documents: header.documents, width: header.width };
    Ok(Shard { format: "Megatron", tokens, boundaries: Boundaries::Index(documents) })
}

/// Reads and checks the index: every length, pointer and document number, so that nothing has to be checked later.
pub fn parse(index: &[u8], bin_len: usize, idx: &Path, bin: &Path) -> Result<Header> {
    let name = idx.display();
    if !index.starts_with(MAGIC) {
        bad_input!("{name}: expected a Megatron index (MMIDIDX), found other first bytes");
    }
    let (Some(version), Some(&code), Some(sequences), Some(documents)) =
        (u64_at(index, 9), index.get(17), u64_at(index, 18), u64_at(index, 26))
    else {
        bad_input!("{name}: expected a header of {HEADER} bytes, found {} bytes in all", index.len());
    };
    if version != 1 {
        bad_input!("{name}: expected version 1 of the Megatron index, found {version}");
    }
    let width = match code {
        8 => Width::U16,
        4 => Width::U32,
        other => bad_input!("{name}: expected tokens of type 8 (uint16) or 4 (int32), found type {other}"),
    };
    let (s, d) = (sequences as u128, documents as u128);
    let expected = HEADER as u128 + 12 * s + 8 * d;
    if index.len() as u128 != expected && index.len() as u128 != expected + s {
        bad_input!("{name}: expected {expected} bytes for {s} sequences and {d} document numbers, found {}", index.len());
    }
    // Both counts now fit the file, hence memory.
    let (sequences, documents) = (sequences as usize, documents as usize);
    let (lengths, pointers) = index[HEADER..].split_at(4 * sequences);
    let (mut tokens, w) = (0u64, width.bytes() as u64);
    for i in 0..sequences {
        let length = u32_at(lengths, 4 * i).expect("inside the file") as i32;
        let pointer = u64_at(pointers, 8 * i).expect("inside the file");
        if length < 0 {
            bad_input!("{name}: expected lengths of 0 or more, found {length} for sequence {i}");
        }
        if pointer != tokens * w {
            bad_input!(
                "{name}: expected sequence {i} at byte {} (the sum of the lengths before it), found {pointer}",
                tokens * w
            );
        }
        tokens += length as u64;
    }
    if tokens * w != bin_len as u64 {
        bad_input!("{}: expected {} bytes ({tokens} tokens, says {name}), found {bin_len}", bin.display(), tokens * w);
    }
    let mut last = 0;
    for k in 0..documents {
        let at = document(index, sequences, k);
        if at < last || at > sequences as u64 || (k == 0 && at != 0) {
            bad_input!("{name}: expected document numbers rising from 0 to {sequences}, found {at} at place {k}");
        }
        last = at;
    }
    if documents == 0 || last != sequences as u64 {
        bad_input!("{name}: expected the last document number to be {sequences}, found {last} of {documents}");
    }
    Ok(Header { width, tokens: tokens as usize, sequences, documents })
}

/// The first sequence of document `k`.
fn document(index: &[u8], sequences: usize, k: usize) -> u64 {
    u64_at(index, HEADER + 12 * sequences + 8 * k).expect("checked by parse")
}

/// The token at which document `k` starts; document `documents - 1` is the end.
pub(super) fn start(index: &[u8], sequences: usize, tokens: usize, width: Width, k: usize) -> usize {
    let sequence = document(index, sequences, k) as usize;
    if sequence == sequences {
        return tokens;
    }
    u64_at(index, HEADER + 4 * sequences + 8 * sequence).expect("checked by parse") as usize / width.bytes()
}
