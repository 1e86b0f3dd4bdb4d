//! `llm-train tokenize`: text in, a corpus of tokens out, byte for byte the same on any number of threads and ranks.
//!
//! ```text
//! inputs -> units (a piece of a plain file, a whole compressed file, a Parquet row group), numbered in order
//! rank r of R, its units r, r + R, …:   reader thread -> chunks of documents -> threads encode -> part files, in order
//! all agree;  rank 0 joins the parts unit by unit into PREFIX.bin (.idx), and PREFIX-val with what is held out
//! ```
//! Memory holds a few chunks per thread, however large the input. Nothing carries its final name before it is whole.
mod encoder;
mod join;
mod parquet_text;
mod parts;
mod progress;
mod source;
mod vocabulary;

use crate::bad_input;
use crate::error::{Error, Result};
use clap::{Args, ValueEnum};
use encoder::Encoder;
use parts::Part;
use progress::Progress;
use source::{Document, Kind, Unit};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Make a corpus of tokens out of text.
#[derive(Args, Clone, Debug)]
pub struct TokenizeArgs {
    /// Plain text, JSON Lines (*.jsonl) or Parquet (*.parquet) files, also as .gz or .zst
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub input: Vec<PathBuf>,

    /// Write PREFIX.bin (and .idx), PREFIX.json with what is in it, and PREFIX.tokenizer.json
    #[arg(long, value_name = "PREFIX")]
    pub output: PathBuf,

    /// A Hugging Face tokenizer.json; with --train-vocab, where to put the new one [default: PREFIX.tokenizer.json]
    #[arg(long, value_name = "FILE", required_unless_present = "train_vocab")]
    pub tokenizer: Option<PathBuf>,

    /// First make a byte-level BPE of N tokens from the input (from its training part, if some is held out)
    #[arg(long, value_name = "N")]
    pub train_vocab: Option<usize>,

    /// The files to write
    #[arg(long, value_enum, default_value_t = Format::Megatron)]
    pub format: Format,

    /// What is a document of a plain text file
    #[arg(long, value_enum, default_value_t = Split::File)]
    pub split: Split,

    /// The field of a JSON line, or the column of a Parquet file, that holds the text
    #[arg(long, value_name = "KEY", default_value = "text")]
    pub text_key: String,

    /// End each document with the end-of-text token (megatron; nanogpt always does so, llmc always begins with it)
    #[arg(long)]
    pub append_eod: bool,

    /// The end-of-text token, if the tokenizer has none of the usual names (<|endoftext|>, <|end_of_text|>, </s>, …)
    #[arg(long, value_name = "TOKEN")]
    pub eod_token: Option<String>,

    /// Hold the last documents back, this fraction of the text, and write them as PREFIX-val
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    pub val_fraction: f64,

    /// Threads of each rank [default: the hardware threads it may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Bytes of a plain file that one rank takes at a time
    #[arg(long, hide = true, default_value_t = 64 << 20)]
    pub unit_bytes: u64,
}

/// The files to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// PREFIX.bin and PREFIX.idx, as Megatron-LM's preprocess_data.py
    Megatron,
    /// PREFIX.bin with llm.c's header; the end-of-text token before each document
    Llmc,
    /// PREFIX.bin, tokens alone; the end-of-text token after each document
    Nanogpt,
}

/// What is a document of a plain text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Split {
    /// The whole file
    File,
    /// Each line that is not empty
    Line,
    /// Lines up to the next blank one
    Paragraph,
}

/// What a corpus holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub documents: u64,
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

/// What was written, for the last lines of the command.
#[derive(Clone, Debug)]
pub struct Summary {
    pub corpora: Vec<(PathBuf, Count)>,
    pub tokenizer: PathBuf,
    pub vocab: usize,
    /// Wall-clock time of encoding, without making the vocabulary and joining the parts.
    pub encoding: Duration,
    /// Threads of all ranks together.
    pub threads: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let bytes: u64 = self.corpora.iter().map(|(_, c)| c.bytes).sum();
        for (prefix, c) in &self.corpora {
            let ratio = c.bytes as f64 / c.tokens.max(1) as f64;
            let (name, Count { documents, tokens, bytes }) = (prefix.display(), c);
            writeln!(f, "{name}: {documents} documents, {tokens} tokens, {bytes} bytes ({ratio:.3} bytes per token)")?;
        }
        writeln!(f, "tokenizer: {}, vocabulary {}", self.tokenizer.display(), self.vocab)?;
        let (seconds, threads) = (self.encoding.as_secs_f64(), self.threads);
        let speed = bytes as f64 / 1e6 / seconds.max(1e-9);
        write!(f, "encoded in {seconds:.2} s: {speed:.1} MB/s on {threads} threads, {:.2} MB/s each", speed / threads as f64)
    }
}

/// Runs the command as rank `rank` of `size`. `agree` brings the ranks together and gives each the first error of any; it is
/// the identity for one rank. The summary comes on rank 0.
///
/// # Errors
/// `Input` for inputs, a tokenizer or options that cannot be used; `Failed` where the output cannot be written.
pub fn run(
    args: &TokenizeArgs,
    rank: usize,
    size: usize,
    agree: &mut dyn FnMut(Result<()>) -> Result<()>,
) -> Result<Option<Summary>> {
    assert!(rank < size, "rank {rank} of {size}");
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).max(1);
    // Dropped last, after the parts of files.
    let _new = directory(args).filter(|directory| rank == 0 && !directory.exists()).map(New);
    let mut units = Vec::new();
    agree(source::units(args).map(|found| units = found).and_then(|()| if rank == 0 { prepare(args, &units) } else { Ok(()) }))?;
    let started = Instant::now();
    let mut part = None;
    agree(encode(args, &units, rank, size, threads).map(|made| part = Some(made)))?;
    let encoding = started.elapsed();
    let part = part.expect("made, as all ranks agreed");
    let mut summary = None;
    let joined = if rank == 0 { join::join(args, units.len(), size, &part) } else { Ok(Vec::new()) };
    agree(joined.map(|corpora| {
        let tokenizer = vocabulary::path(args);
        summary = (rank == 0).then_some(Summary { corpora, tokenizer, vocab: part.vocab, encoding, threads: threads * size });
    }))?;
    // Until here the part files of every rank have been needed; their owners remove them.
    drop(part);
    Ok(summary)
}

/// What only one rank does, and before any work: looks at the options, makes the directory, makes the vocabulary.
fn prepare(args: &TokenizeArgs, units: &[Unit]) -> Result<()> {
    let (output, fraction) = (args.output.display(), args.val_fraction);
    if !(0.0..1.0).contains(&fraction) {
        bad_input!("--val-fraction: expected a fraction from 0 to below 1, found {fraction}");
    }
    if args.output.file_name().is_none() || args.output.is_dir() {
        bad_input!("--output: expected a prefix of file names, found the directory {output}");
    }
    for file in join::outputs(args) {
        if args.input.iter().any(|input| same_file(input, &file)) {
            bad_input!("--output {output}: expected a prefix beside the inputs, found that {} is an input", file.display());
        }
    }
    if let Some(directory) = directory(args) {
        std::fs::create_dir_all(directory)
            .map_err(|e| Error::Input(format!("{}: expected a directory that can be made, found: {e}", directory.display())))?;
    }
    vocabulary::prepare(args, units)
}

/// Where the corpus is to lie.
fn directory(args: &TokenizeArgs) -> Option<&Path> {
    args.output.parent().filter(|p| !p.as_os_str().is_empty())
}

/// A directory that is made here, and goes again where nothing has come to lie in it.
struct New<'a>(&'a Path);

impl Drop for New<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.0);
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Bytes of text that wait for each thread: enough that a long document at the end of a chunk idles the others briefly.
const CHUNK: usize = 4 << 20;

/// Encodes this rank's units into its part files.
fn encode(args: &TokenizeArgs, units: &[Unit], rank: usize, size: usize, threads: usize) -> Result<Part> {
    let encoder = Encoder::open(args)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("encode {i}")).build();
    let pool = pool.map_err(|e| Error::Failed(format!("expected {threads} threads, found: {e}")))?;
    let mut part = Part::create(&args.output, rank, encoder.vocab, encoder.eos)?;
    let own: Vec<(usize, &Unit)> = units.iter().enumerate().skip(rank).step_by(size).collect();
    let read = AtomicU64::new(0);
    let mut progress = Progress::new("tokenize", own.iter().map(|(_, u)| u.bytes).sum(), rank == 0);
    std::thread::scope(|scope| {
        let (send, chunks) = sync_channel(1);
        let read = &read;
        let reader = move || {
            for (_, unit) in own {
                let mut chunk = Chunk::new(unit.kind);
                let mut size = 0;
                let outcome = source::read(args, unit, read, &mut |document| {
                    size += document.bytes.len();
                    chunk.documents.push(document);
                    if size < CHUNK * threads {
                        return true;
                    }
                    size = 0;
                    send.send(Ok(std::mem::replace(&mut chunk, Chunk::new(unit.kind)))).is_ok()
                });
                chunk.ends_unit = true;
                let failed = outcome.is_err();
                if send.send(outcome.map(|()| chunk)).is_err() || failed {
                    return;
                }
            }
        };
        let spawned = std::thread::Builder::new().name("read text".into()).spawn_scoped(scope, reader);
        spawned.map_err(|e| Error::Failed(format!("expected a thread to read the input, found: {e}")))?;
        for chunk in chunks {
            let chunk = chunk?;
            let encoded = pool.install(|| encoder.encode(&args.text_key, chunk.kind, &chunk.documents))?;
            for (tokens, bytes) in encoded {
                part.document(&tokens, bytes)?;
            }
            if chunk.ends_unit {
                part.end_unit()?;
            }
            progress.at(read.load(std::sync::atomic::Ordering::Relaxed));
        }
        Ok(())
    })?;
    progress.end();
    part.finish()?;
    Ok(part)
}

/// Documents that are encoded together.
struct Chunk {
    kind: Kind,
    documents: Vec<Document>,
    ends_unit: bool,
}

impl Chunk {
    fn new(kind: Kind) -> Chunk {
        Chunk { kind, documents: Vec::new(), ends_unit: false }
    }
}
