//! Inputs cut into units, and units into documents.
//!
//! ```text
//! plain text by line or paragraph, JSON Lines   pieces of `unit_bytes`, each end moved on to where a document may start
//! plain text as one document, .gz and .zst      the whole file
//! Parquet                                       its row groups
//! ```
//! Compression and Parquet are told by content, JSON Lines by name (.jsonl, .ndjson, .json). A line ends with \n or \r\n;
//! inside a paragraph both become \n.
use super::{Split, TokenizeArgs, parquet_text};
use crate::bad_input;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the bytes of a document become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text(Split),
    /// A line of JSON, which the encoding threads take apart.
    Json,
    Parquet,
}

/// Structural: what one rank works on at a time. Output is joined in the order of units.
#[derive(Clone, Debug)]
pub struct Unit {
    pub path: PathBuf,
    pub kind: Kind,
    /// Bytes of the file that it reads, for the progress bar.
    pub bytes: u64,
    part: Piece,
}

#[derive(Clone, Debug)]
enum Piece {
    Whole(Compression),
    /// Documents that start in this range of the file's bytes.
    Range(Range<u64>),
    RowGroup(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// One document, as its bytes lie in the input.
pub struct Document {
    pub bytes: Vec<u8>,
    /// The file, for messages.
    pub path: Arc<Path>,
    /// The byte at which it starts in the unpacked file; for Parquet the first row of its batch.
    pub at: u64,
}

fn trouble(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::Input(format!("{}: expected a readable input file, found: {e}", path.display()))
}

/// All inputs as units, in order. Every rank makes the same list.
///
/// # Errors
/// `Input` for files that are missing or not readable, directories, and Parquet files without the text column.
pub fn units(args: &TokenizeArgs) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for path in &args.input {
        let mut file = File::open(path).map_err(trouble(path))?;
        let metadata = file.metadata().map_err(trouble(path))?;
        if metadata.is_dir() {
            bad_input!("{}: expected an input file, found a directory", path.display());
        }
        let bytes = metadata.len();
        let mut magic = [0; 4];
        let known = file.read(&mut magic).map_err(trouble(path))?;
        let compression = match magic[..known] {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::Plain,
        };
        let unit = |kind, bytes, part| Unit { path: path.clone(), kind, bytes, part };
        match (kind(path, &magic, args.split), compression) {
            (Kind::Parquet, Compression::Plain) => {
                let groups = parquet_text::row_groups(path, &args.text_key)?;
                units.extend(groups.into_iter().enumerate().map(|(g, n)| unit(Kind::Parquet, n, Piece::RowGroup(g))));
            }
            (kind @ (Kind::Json | Kind::Text(Split::Line | Split::Paragraph)), Compression::Plain) => {
                let pieces = bytes.div_ceil(args.unit_bytes.max(1)).max(1);
                units.extend((0..pieces).map(|k| {
                    let range = k * args.unit_bytes..((k + 1) * args.unit_bytes).min(bytes);
                    unit(kind, range.end - range.start, Piece::Range(range))
                }));
            }
            (kind, compression) => units.push(unit(kind, bytes, Piece::Whole(compression))),
        }
    }
    Ok(units)
}

fn kind(path: &Path, magic: &[u8], split: Split) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    if magic == b"PAR1" || name.ends_with(".parquet") {
        Kind::Parquet
    } else if [".jsonl", ".ndjson", ".json"].iter().any(|e| name.ends_with(e)) {
        Kind::Json
    } else {
        Kind::Text(split)
    }
}

/// Calls `each` with the documents of a unit, in order, until it answers `false`. `read` counts the bytes taken from files.
pub fn read(args: &TokenizeArgs, unit: &Unit, read: &AtomicU64, each: &mut dyn FnMut(Document) -> bool) -> Result<()> {
    let path: Arc<Path> = unit.path.as_path().into();
    let mut put = |bytes: Vec<u8>, at: u64| each(Document { bytes, at, path: path.clone() });
    let file = File::open(&unit.path).map_err(trouble(&unit.path))?;
    match (&unit.part, unit.kind) {
        (Piece::RowGroup(g), _) => {
            parquet_text::read(&file, &unit.path, &args.text_key, *g, &mut put)?;
            read.fetch_add(unit.bytes, Ordering::Relaxed);
            Ok(())
        }
        (Piece::Whole(compression), Kind::Parquet) => {
            // Parquet is read from its end; what cannot be sought is unpacked beside the output first.
            let mut unpacked = unnamed_file(&args.output)?;
            let mut packed = unpack(Counted { file, read }, *compression).map_err(trouble(&unit.path))?;
            std::io::copy(&mut packed, &mut unpacked).map_err(trouble(&unit.path))?;
            let groups = parquet_text::groups_of(&unpacked, &unit.path, &args.text_key)?;
            (0..groups.len()).try_for_each(|g| parquet_text::read(&unpacked, &unit.path, &args.text_key, g, &mut put))
        }
        (Piece::Whole(compression), kind) => {
            let text = unpack(Counted { file, read }, *compression).map_err(trouble(&unit.path))?;
            documents(BufReader::with_capacity(1 << 18, text), kind, 0, &mut put).map_err(trouble(&unit.path))
        }
        (Piece::Range(range), kind) => {
            let at = cut(&file, range.start, kind).map_err(trouble(&unit.path))?;
            let end = cut(&file, range.end, kind).map_err(trouble(&unit.path))?;
            let mut file = file;
            file.seek(SeekFrom::Start(at)).map_err(trouble(&unit.path))?;
            let text = Counted { file, read }.take(end.saturating_sub(at));
            documents(BufReader::with_capacity(1 << 18, text), kind, at, &mut put).map_err(trouble(&unit.path))
        }
    }
}

fn unpack<'a>(file: Counted<'a>, compression: Compression) -> std::io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Plain => Box::new(file),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
    })
}

/// Where the documents of a piece that is asked to begin at byte `x` really begin: at the first line that starts at `x` or
/// later, or, for paragraphs, at the first blank one. Both neighbours of an edge find the same place.
fn cut(file: &File, x: u64, kind: Kind) -> std::io::Result<u64> {
    if x == 0 {
        return Ok(0);
    }
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(x - 1))?;
    let mut text = BufReader::new(file);
    let mut line = Vec::new();
    let mut at = x - 1 + text.read_until(b'\n', &mut line)? as u64;
    while kind == Kind::Text(Split::Paragraph) {
        line.clear();
        let length = text.read_until(b'\n', &mut line)?;
        if length == 0 || line.trim_ascii().is_empty() {
            break;
        }
        at += length as u64;
    }
    Ok(at)
}

/// Takes text apart into documents; `at` is the place of its first byte.
fn documents(mut text: impl BufRead, kind: Kind, mut at: u64, put: &mut dyn FnMut(Vec<u8>, u64) -> bool) -> std::io::Result<()> {
    if kind == Kind::Text(Split::File) {
        let mut whole = Vec::new();
        text.read_to_end(&mut whole)?;
        if !whole.is_empty() {
            put(whole, at);
        }
        return Ok(());
    }
    let paragraphs = kind == Kind::Text(Split::Paragraph);
    let (mut document, mut began) = (Vec::new(), at);
    loop {
        let before = document.len();
        let length = text.read_until(b'\n', &mut document)?;
        let line = &document[before..];
        let blank = line.trim_ascii().is_empty();
        let ending = if line.ends_with(b"\r\n") { 2 } else { line.ends_with(b"\n") as usize };
        document.truncate(document.len() - ending);
        if blank {
            document.truncate(before);
        } else if paragraphs {
            document.push(b'\n');
        }
        if !document.is_empty() && (!paragraphs || blank) {
            if paragraphs {
                document.pop();
            }
            if !put(std::mem::take(&mut document), began) {
                return Ok(());
            }
        }
        if length == 0 {
            return Ok(());
        }
        at += length as u64;
        if document.is_empty() {
            began = at;
        }
    }
}

/// A file that counts what is read from it.
struct Counted<'a> {
    file: File,
    read: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A file without a name, on the file system of the output: gone when it is closed.
fn unnamed_file(output: &Path) -> Result<File> {
    let name = PathBuf::from(format!("{}.unpacked-{}", output.display(), std::process::id()));
    let options = File::options().read(true).write(true).create(true).truncate(true).open(&name);
    let made = options.and_then(|file| std::fs::remove_file(&name).map(|()| file));
    made.map_err(|e| Error::Failed(format!("{}: expected room to unpack a Parquet file, found: {e}", name.display())))
}
