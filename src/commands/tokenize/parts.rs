//! What one rank has encoded, until rank 0 joins it: two files beside the output.
//!
//! ```text
//! PREFIX.part-R.tokens       the tokens of its units, one after the other, as wide as the corpus's
//! PREFIX.part-R.documents    per document u64 tokens, u64 bytes of text; after each unit u64::MAX twice
//! ```
use super::join::named;
use crate::data::Width;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const END_OF_UNIT: u64 = u64::MAX;

/// The part files of one rank, removed when it is dropped.
pub struct Part {
    /// The tokenizer's.
    pub vocab: usize,
    pub eos: Option<u32>,
    width: Width,
    paths: [PathBuf; 2],
    tokens: BufWriter<File>,
    documents: BufWriter<File>,
    encoded: Vec<u8>,
}

fn paths(output: &Path, rank: usize) -> [PathBuf; 2] {
    ["tokens", "documents"].map(|what| named(output, &format!(".part-{rank}.{what}")))
}

impl Part {
    pub fn create(output: &Path, rank: usize, vocab: usize, eos: Option<u32>) -> Result<Part> {
        let paths = paths(output, rank);
        let open = |path: &Path| {
            File::create(path)
                .map(|f| BufWriter::with_capacity(1 << 20, f))
                .map_err(|e| Error::Input(format!("{}: expected a file that can be written, found: {e}", path.display())))
        };
        let (tokens, documents) = (open(&paths[0])?, open(&paths[1])?);
        Ok(Part { vocab, eos, width: width(vocab), paths, tokens, documents, encoded: Vec::new() })
    }
    /// Adds a document; one without tokens leaves no trace.
    pub fn document(&mut self, tokens: &[u32], bytes: usize) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.encoded.clear();
        match self.width {
            Width::U16 => self.encoded.extend(tokens.iter().flat_map(|&t| (t as u16).to_le_bytes())),
            Width::U32 => self.encoded.extend(tokens.iter().flat_map(|t| t.to_le_bytes())),
        }
        let written = self.tokens.write_all(&self.encoded);
        self.check(written)?;
        self.record(tokens.len() as u64, bytes as u64)
    }
    pub fn end_unit(&mut self) -> Result<()> {
        self.record(END_OF_UNIT, END_OF_UNIT)
    }
    /// Everything is in the files.
    pub fn finish(&mut self) -> Result<()> {
        let flushed = self.tokens.flush().and_then(|()| self.documents.flush());
        self.check(flushed)
    }
    fn record(&mut self, a: u64, b: u64) -> Result<()> {
        let written = self.documents.write_all(&a.to_le_bytes()).and_then(|()| self.documents.write_all(&b.to_le_bytes()));
        self.check(written)
    }
    fn check(&self, outcome: std::io::Result<()>) -> Result<()> {
        outcome.map_err(|e| Error::Failed(format!("{}: expected room for the tokens, found: {e}", self.paths[0].display())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.paths.iter().for_each(|p| drop(std::fs::remove_file(p)));
    }
}

/// Megatron-LM's rule for its own files; the other formats' limit is above it, and files of either width say which.
pub fn width(vocab: usize) -> Width {
    if vocab < 65_500 { Width::U16 } else { Width::U32 }
}

/// One document as its rank noted it.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    pub tokens: u64,
    pub bytes: u64,
}

/// All ranks' parts in the order of units.
pub struct Parts<'a> {
    pub output: &'a Path,
    pub units: usize,
    pub ranks: usize,
}

impl Parts<'_> {
    fn open(&self, what: usize) -> Result<Vec<BufReader<File>>> {
        let open = |rank| {
            let path = &paths(self.output, rank)[what];
            let file = File::open(path);
            file.map(|f| BufReader::with_capacity(1 << 18, f)).map_err(|e| {
                Error::Failed(format!(
                    "{}: expected the part of rank {rank} on a file system that all ranks share, found: {e}",
                    path.display()
                ))
            })
        };
        (0..self.ranks).map(open).collect()
    }
    /// Calls `each` with every document, in order.
    pub fn documents(&self, each: &mut dyn FnMut(Note) -> Result<()>) -> Result<()> {
        let mut files = self.open(1)?;
        for unit in 0..self.units {
            while let Some(note) = self.note(&mut files, unit)? {
                each(note)?;
            }
        }
        Ok(())
    }
    /// The next document of `unit`.
    fn note(&self, files: &mut [BufReader<File>], unit: usize) -> Result<Option<Note>> {
        let (rank, mut pair) = (unit % self.ranks, [0; 16]);
        files[rank]
            .read_exact(&mut pair)
            .map_err(|e| Error::Failed(format!("expected the documents of unit {unit} from rank {rank}, found: {e}")))?;
        let number = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().expect("8 bytes"));
        Ok((number(0) != END_OF_UNIT).then(|| Note { tokens: number(0), bytes: number(8) }))
    }
    /// The tokens of all documents as one stream of bytes.
    pub fn tokens(&self, width: Width) -> Result<TokenBytes<'_>> {
        Ok(TokenBytes { parts: self, notes: self.open(1)?, tokens: self.open(0)?, unit: 0, left: 0, width })
    }
}

/// Reads the part files in the order of units.
pub struct TokenBytes<'a> {
    parts: &'a Parts<'a>,
    notes: Vec<BufReader<File>>,
    tokens: Vec<BufReader<File>>,
    unit: usize,
    /// Bytes of the current document not yet read.
    left: u64,
    width: Width,
}

impl Read for TokenBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            if self.unit == self.parts.units {
                return Ok(0);
            }
            match self.parts.note(&mut self.notes, self.unit).map_err(|e| std::io::Error::other(e.to_string()))? {
                Some(note) => self.left = note.tokens * self.width.bytes() as u64,
                None => self.unit += 1,
            }
        }
        let n = buffer.len().min(self.left as usize);
        let n = self.tokens[self.unit % self.parts.ranks].read(&mut buffer[..n])?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        self.left -= n as u64;
        Ok(n)
    }
}
