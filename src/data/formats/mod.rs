//! Tokenized corpora as others write them, told apart by content and not by name.
//!
//! ```text
//! path                         is                     found by
//! PREFIX, .idx or .bin         Megatron               "MMIDIDX" in the .idx
//! file                         llm.c                  magic 20240520 (u16) or 20240801 (u32)
//! file                         NumPy                  "\x93NUMPY"
//! file with .index beside it   datatrove, nanotron    the .index
//! any other file               headerless             nanoGPT, OLMo
//! directory, or a `*` in name  shards                 each as above, in the order of their names
//! ```
//! One [`Corpus`] is one stream of tokens; a document may go over the edge of a shard.
pub mod datatrove;
pub mod llmc;
pub mod megatron;
pub mod numpy;
pub mod raw;
mod shards;

use super::facts;
use super::mapped::{Mapped, Tokens, Width, u64_at};
use crate::bad_input;
use crate::error::Result;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Where the documents of a shard start.
pub enum Boundaries {
    Index(Documents),
    /// A document starts with the end-of-text token (llm.c).
    AtEos,
    /// A document starts after the end-of-text token (nanoGPT, OLMo).
    AfterEos,
}

/// Documents by an index file.
pub enum Documents {
    Megatron { index: Mapped, sequences: usize, documents: usize, width: Width },
    Datatrove { index: Mapped },
}

impl Documents {
    /// The starts of documents in the order of the file, the end of the last one included.
    fn count(&self) -> usize {
        match self {
            Documents::Megatron { documents, .. } => *documents,
            Documents::Datatrove { index } => index.len() / 8,
        }
    }
    fn start(&self, k: usize, tokens: usize) -> usize {
        match self {
            Documents::Megatron { index, sequences, width, .. } => megatron::start(index, *sequences, tokens, *width, k),
            Documents::Datatrove { index } => u64_at(index, 8 * k).expect("k < count") as usize,
        }
    }
    /// Calls `found` with every start in `from .. to`: one bisection, then as many steps as there are.
    fn starts(&self, from: usize, to: usize, tokens: usize, mut found: impl FnMut(usize)) {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            if self.start(middle, tokens) < from { low = middle + 1 } else { high = middle }
        }
        (low..self.count()).map(|k| self.start(k, tokens)).take_while(|&s| s < to).for_each(&mut found);
        if from == 0 && to > 0 {
            found(0);
        }
    }
}

/// One file of tokens.
pub struct Shard {
    /// The format's name, for people.
    pub format: &'static str,
    pub tokens: Tokens,
    pub boundaries: Boundaries,
}

/// A stream of tokens out of one or more shards.
pub struct Corpus {
    /// As the user wrote it.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Tokens up to the end of each shard.
    ends: Vec<u64>,
    facts: Option<facts::Facts>,
}

impl Corpus {
    /// Opens a corpus. `width` is that of headerless files, if the configuration says it; `vocab` else decides.
    ///
    /// # Errors
    /// `Input` where there is no such corpus, or a file is truncated or contradicts itself.
    pub fn open(path: &Path, width: Option<Width>, vocab: usize) -> Result<Corpus> {
        let facts = facts::read(path);
        let told = facts.as_ref().and_then(|f| Width::of_bytes(f.token_size));
        let width = width.or(told).unwrap_or(Width::for_vocab(vocab));
        let mut shards = Vec::new();
        for file in shards::list(path)? {
            shards.push(open_file(&file, width)?);
        }
        let ends = shards.iter().scan(0, |n, s| {
            *n += s.tokens.len() as u64;
            Some(*n)
        });
        Ok(Corpus { path: path.to_owned(), ends: ends.collect(), shards, facts })
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }
    /// What tokenize wrote down beside the corpus.
    pub fn facts(&self) -> Option<&facts::Facts> {
        self.facts.as_ref()
    }
    /// Tokens in all.
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether documents can be told apart without the end-of-text token.
    pub fn is_indexed(&self) -> bool {
        self.shards.iter().all(|s| matches!(s.boundaries, Boundaries::Index(_)))
    }
    /// Copies the tokens `at .. at + out.len()`, each held against the vocabulary.
    ///
    /// # Errors
    /// `Input` with file, byte offset and value of a token that the vocabulary does not have.
    pub fn read(&self, at: u64, out: &mut [u32], vocab: usize) -> Result<()> {
        self.pieces(at, out.len(), |shard, inside, from, len| {
            let piece = &mut out[from..from + len];
            shard.tokens.read(inside, piece);
            shard.tokens.check(inside, piece, vocab)
        })
    }
    /// Puts into `starts` the places in the window `at .. at + tokens.len()` at which documents start, rising.
    /// `tokens` is the window as read; `eos` the end-of-text token, for formats without an index.
    pub fn document_starts(&self, at: u64, tokens: &[u32], eos: Option<u32>, starts: &mut Vec<usize>) {
        starts.clear();
        let mut after_eos = false;
        let found = self.pieces(at, tokens.len(), |shard, inside, from, len| {
            match &shard.boundaries {
                Boundaries::Index(documents) => {
                    documents.starts(inside, inside + len, shard.tokens.len(), |s| starts.push(from + s - inside));
                }
                boundaries => {
                    let offset = matches!(boundaries, Boundaries::AfterEos) as usize;
                    if after_eos && offset == 1 {
                        starts.push(from);
                    }
                    let eos_at = (from..from + len).filter(|&i| Some(tokens[i]) == eos);
                    starts.extend(eos_at.map(|i| i + offset).filter(|&i| i < from + len));
                    after_eos = Some(tokens[from + len - 1]) == eos;
                }
            }
            Ok(())
        });
        found.expect("no piece fails");
        starts.sort_unstable();
        starts.dedup();
    }
    /// Reads the `part`-th of `parts` equal shares and holds it against the vocabulary; the threads of the current pool
    /// divide it. Gives the tokens read.
    ///
    /// # Errors
    /// `Input` with file, byte offset and value of the share's first token that the vocabulary does not have.
    pub fn scan(&self, part: usize, parts: usize, vocab: usize) -> Result<u64> {
        assert!(part < parts, "part {part} of {parts}");
        let share = |k: usize| (self.len() as u128 * k as u128 / parts as u128) as u64;
        let (from, to) = (share(part), share(part + 1));
        const PIECE: u64 = 1 << 20; // measured nowhere: a megatoken is long against a task's cost, short against a shard
        let pieces = (to - from).div_ceil(PIECE);
        let first_bad = (0..pieces).into_par_iter().map_init(
            || vec![0; PIECE as usize],
            |buffer, k| {
                let at = from + k * PIECE;
                self.read(at, &mut buffer[..(to - at).min(PIECE) as usize], vocab)
            },
        );
        match first_bad.find_first(|r| r.is_err()) {
            Some(Err(error)) => Err(error),
            _ => Ok(to - from),
        }
    }
    /// A number that two ranks must agree on: formats, lengths, and bytes taken from all over the corpus.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = facts::Fnv::default();
        for shard in &self.shards {
            hash.add(shard.format.as_bytes());
            hash.add(&(shard.tokens.len() as u64).to_le_bytes());
            hash.add(&[shard.tokens.width().bytes() as u8]);
            let (spots, size) = (16, 1024);
            for k in 0..spots {
                let from = (shard.tokens.len() as u128 * k / spots) as usize;
                hash.add(shard.tokens.bytes(from..shard.tokens.len().min(from + size)));
            }
        }
        hash.value()
    }
    /// Calls `each` with the pieces of `at .. at + len` that lie in one shard: (shard, place in it, place in the range, length).
    fn pieces(&self, at: u64, len: usize, mut each: impl FnMut(&Shard, usize, usize, usize) -> Result<()>) -> Result<()> {
        assert!(at + len as u64 <= self.len(), "tokens {at} … + {len} of {}", self.len());
        let mut k = self.ends.partition_point(|&end| end <= at);
        let mut done = 0;
        while done < len {
            let shard = &self.shards[k];
            let inside = (at + done as u64 - (self.ends[k] - shard.tokens.len() as u64)) as usize;
            let piece = (len - done).min(shard.tokens.len() - inside);
            if piece > 0 {
                each(shard, inside, done, piece)?;
            }
            done += piece;
            k += 1;
        }
        Ok(())
    }
}

/// Opens one file, or one Megatron pair by the path of its index.
fn open_file(path: &Path, headerless: Width) -> Result<Shard> {
    let file = Mapped::open(path)?;
    let (idx, bin) = (path.with_extension("idx"), path.with_extension("bin"));
    if file.starts_with(megatron::MAGIC) || (path == idx && bin.exists()) {
        return megatron::open(path, &bin);
    }
    if file.is_empty() {
        bad_input!("{}: expected tokens, found an empty file", path.display());
    }
    if llmc::recognises(&file) {
        llmc::open(file)
    } else if file.starts_with(numpy::MAGIC) {
        numpy::open(file)
    } else if path != idx && idx.exists() {
        megatron::open(&idx, path)
    } else if datatrove::beside(path, ".index").exists() {
        datatrove::open(file)
    } else {
        raw::open(file, headerless)
    }
}
