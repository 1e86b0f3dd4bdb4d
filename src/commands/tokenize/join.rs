//! The parts of all ranks become the corpus, in the chosen format, and the held-out corpus after it.
//!
//! ```text
//! documents 0 … d − 1 -> PREFIX     documents d … -> PREFIX-val     d: the first document that ends beyond (1 − F) of the text
//! ```
//! The documents' notes are read once for each thing that is asked of them; memory holds none.
use super::parts::{Part, Parts, width};
use super::{Count, Format, TokenizeArgs, vocabulary};
use crate::bad_input;
use crate::data::Width;
use crate::data::facts::{Facts, Fnv};
use crate::data::formats::{llmc, megatron};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// llm.c counts a shard's tokens in an int32.
const MOST_LLMC: u64 = i32::MAX as u64;

/// `prefix` with an ending behind it.
pub fn named(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// The files that the command writes, as far as they are known beforehand.
pub fn outputs(args: &TokenizeArgs) -> Vec<PathBuf> {
    let prefixes = [args.output.clone(), named(&args.output, "-val")];
    prefixes.iter().flat_map(|p| [".bin", ".idx", ".json", ".tokenizer.json"].map(|e| named(p, e))).collect()
}

/// How many of `total` bytes of text are not held out.
pub fn kept_bytes(total: u64, val_fraction: f64) -> u64 {
    ((1.0 - val_fraction) * total as f64) as u64
}

/// Writes `path` under another name first, then gives it its own.
pub fn write_aside(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let aside = named(path, ".partial");
    let written = File::create(&aside).and_then(|file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        write(&mut file)?;
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&aside, path)
    });
    written.map_err(|e| {
        let _ = std::fs::remove_file(&aside);
        Error::Failed(format!("{}: expected a file that can be written, found: {e}", path.display()))
    })
}

/// Joins the parts of all ranks; gives the prefixes written and what each holds. `part` is this rank's own.
pub fn join(args: &TokenizeArgs, units: usize, ranks: usize, part: &Part) -> Result<Vec<(PathBuf, Count)>> {
    let parts = Parts { output: &args.output, units, ranks };
    let mut all = Count::default();
    parts.documents(&mut |note| {
        all = Count { documents: all.documents + 1, tokens: all.tokens + note.tokens, bytes: all.bytes + note.bytes };
        Ok(())
    })?;
    if all.tokens == 0 {
        bad_input!("--input: expected text, found {} files without any", args.input.len());
    }
    let mut kept = all;
    if args.val_fraction > 0.0 {
        kept = Count::default();
        let (mut bytes, most) = (0, kept_bytes(all.bytes, args.val_fraction));
        parts.documents(&mut |note| {
            bytes += note.bytes;
            if bytes <= most {
                kept = Count { documents: kept.documents + 1, tokens: kept.tokens + note.tokens, bytes };
            }
            Ok(())
        })?;
        if kept.documents == 0 {
            let (n, f) = (all.documents, args.val_fraction);
            bad_input!("--val-fraction {f}: expected documents on both sides, found {n} (--split line or paragraph parts text)");
        }
    }
    let held =
        Count { documents: all.documents - kept.documents, tokens: all.tokens - kept.tokens, bytes: all.bytes - kept.bytes };
    let tokenizer = vocabulary::path(args);
    let text = std::fs::read(&tokenizer)
        .map_err(|e| Error::Input(format!("{}: expected a tokenizer, found: {e}", tokenizer.display())))?;
    let (vocab, eos) = (part.vocab, part.eos);
    let mut tokens = parts.tokens(width(vocab))?;
    let mut corpora = Vec::new();
    let mut first = 0;
    for (prefix, count) in [(args.output.clone(), kept), (named(&args.output, "-val"), held)] {
        if count.documents == 0 {
            continue;
        }
        let corpus = Corpus { prefix: &prefix, count, width: width(vocab), documents: first..first + count.documents };
        match args.format {
            Format::Megatron => corpus.megatron(&parts, &mut tokens)?,
            Format::Llmc => corpus.llmc(&mut tokens)?,
            Format::Nanogpt => corpus.tokens(&named(&prefix, ".bin"), &[], count.tokens, &mut tokens)?,
        }
        corpus.facts(args, &text, vocab, eos)?;
        first += count.documents;
        corpora.push((prefix, count));
    }
    Ok(corpora)
}

/// One corpus to write.
struct Corpus<'a> {
    prefix: &'a Path,
    count: Count,
    width: Width,
    /// Which of all documents.
    documents: Range<u64>,
}

impl Corpus<'_> {
    /// A file of `header` and the next `count` tokens.
    fn tokens(&self, path: &Path, header: &[u8], count: u64, tokens: &mut dyn Read) -> Result<()> {
        write_aside(path, |file| {
            file.write_all(header)?;
            let bytes = count * self.width.bytes() as u64;
            let copied = std::io::copy(&mut tokens.take(bytes), file)?;
            if copied != bytes {
                return Err(std::io::Error::other(format!("{copied} of {bytes} bytes from the ranks")));
            }
            Ok(())
        })
    }
    /// The tokens first, then the index that makes them a corpus.
    fn megatron(&self, parts: &Parts, tokens: &mut dyn Read) -> Result<()> {
        self.tokens(&named(self.prefix, ".bin"), &[], self.count.tokens, tokens)?;
        let n = self.count.documents;
        let each = |put: &mut dyn FnMut(u64) -> std::io::Result<()>| {
            let mut k = 0;
            let read = parts.documents(&mut |note| {
                k += 1;
                if self.documents.contains(&(k - 1)) {
                    put(note.tokens).map_err(|e| Error::Failed(e.to_string()))?;
                }
                Ok(())
            });
            read.map_err(|e| std::io::Error::other(e.to_string()))
        };
        write_aside(&named(self.prefix, ".idx"), |file| {
            file.write_all(megatron::MAGIC)?;
            file.write_all(&1u64.to_le_bytes())?;
            file.write_all(&[if self.width == Width::U16 { 8 } else { 4 }])?;
            file.write_all(&n.to_le_bytes())?;
            file.write_all(&(n + 1).to_le_bytes())?;
            each(&mut |length| {
                let length = i32::try_from(length).map_err(|_| std::io::Error::other("a document of 2^31 tokens or more"))?;
                file.write_all(&length.to_le_bytes())
            })?;
            let mut at = 0u64;
            each(&mut |length| {
                file.write_all(&at.to_le_bytes())?;
                at += length * self.width.bytes() as u64;
                Ok(())
            })?;
            (0..=n).try_for_each(|k| file.write_all(&k.to_le_bytes()))
        })
    }
    /// One file, or numbered shards where the tokens are too many for the header.
    fn llmc(&self, tokens: &mut dyn Read) -> Result<()> {
        let shards = self.count.tokens.div_ceil(MOST_LLMC);
        for k in 0..shards {
            let count = (self.count.tokens - k * MOST_LLMC).min(MOST_LLMC);
            let (magic, version) = match self.width {
                Width::U16 => (llmc::MAGIC_U16, 1u32),
                Width::U32 => (llmc::MAGIC_U32, 7),
            };
            let mut header = [magic, version, count as u32].map(u32::to_le_bytes).concat();
            header.resize(llmc::HEADER, 0);
            let ending = if shards == 1 { ".bin".into() } else { format!("_{k:06}.bin") };
            self.tokens(&named(self.prefix, &ending), &header, count, tokens)?;
        }
        Ok(())
    }
    /// The tokenizer, and the note that says what the corpus is.
    fn facts(&self, args: &TokenizeArgs, tokenizer: &[u8], vocab: usize, eos: Option<u32>) -> Result<()> {
        let copy = named(self.prefix, ".tokenizer.json");
        write_aside(&copy, |file| file.write_all(tokenizer))?;
        let mut hash = Fnv::default();
        hash.add(tokenizer);
        let facts = Facts {
            format: format!("{:?}", args.format).to_lowercase(),
            token_size: self.width.bytes(),
            documents: self.count.documents,
            tokens: self.count.tokens,
            bytes: self.count.bytes,
            vocab,
            eos,
            tokenizer: copy.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            tokenizer_hash: format!("{:016x}", hash.value()),
        };
        let text = serde_json::to_string_pretty(&facts).map_err(|e| Error::Failed(e.to_string()))?;
        write_aside(&named(self.prefix, ".json"), |file| writeln!(file, "{text}"))
    }
}
