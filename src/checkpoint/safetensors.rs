//! Safetensors files, a piece at a time: no whole tensor, let alone a whole file, need be in memory.
//!
//! ```text
//! u64 n | n bytes of JSON, padded with spaces to a multiple of 8 | data
//! JSON: {"__metadata__":{…},"name":{"dtype":"F32","shape":[…],"data_offsets":[start,end]},…}
//! ```
//! Offsets count from the data's first byte and leave no gaps. Hugging Face's writer sorts tensors of one type by name;
//! [`Sink`] does so too, byte for byte.
use crate::bad_input;
use crate::error::{Error, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Elements read or written at once: 4 MiB of f32, so that a call's cost is small against its bytes.
pub const CHUNK: usize = 1 << 20;

/// Structural: the format's own limit on its header.
const LONGEST_HEADER: u64 = 100_000_000;

/// A safetensors file open for reading. Only the header is in memory.
pub struct Source {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the data starts in the file.
    data: u64,
}

impl Source {
    /// Reads and checks the header: the offsets fit the shapes, leave no gaps, and end where the file ends.
    ///
    /// Errors: [`Error::Input`] naming the file.
    pub fn open(path: &Path) -> Result<Source> {
        let refuse = |what: String| Error::Input(format!("{}: expected a safetensors file, found {what}", path.display()));
        let trouble = |e: std::io::Error| refuse(e.to_string());
        let file = File::open(path).map_err(trouble)?;
        let found = file.metadata().map_err(trouble)?.len();
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(|_| refuse(format!("only {found} bytes")))?;
        let length = u64::from_le_bytes(length);
        // Bounded by the file itself before anything is allocated.
        if length > LONGEST_HEADER || length > found - 8 {
            return Err(refuse(format!("a header of {length} bytes in a file of {found}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(trouble)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| refuse(format!("a header that is not one: {e}")))?;
        let (data, expected) = (8 + length, 8 + length + header.data_len() as u64);
        if expected != found {
            bad_input!("{}: expected {expected} bytes by its header, found {found}", path.display());
        }
        Ok(Source { path: path.to_owned(), file, header, data })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }
    /// The entry `key` of `__metadata__`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Bytes of an element of the tensor `name`, which must be there.
    ///
    /// Errors: [`Error::Input`] naming file and tensor where its type is none of F32, BF16, F16.
    pub fn width(&self, name: &str) -> Result<usize> {
        match self.info(name).expect("a tensor of this file").dtype {
            Dtype::F32 => Ok(4),
            Dtype::BF16 | Dtype::F16 => Ok(2),
            other => bad_input!("{}: expected tensor {name} as F32, BF16 or F16, found {other:?}", self.path.display()),
        }
    }

    /// Elements `range` of the tensor `name`, as f32.
    ///
    /// Errors: those of [`Source::width`], and [`Error::Failed`] when the disk does not give the bytes.
    pub fn read(&self, name: &str, range: Range<usize>) -> Result<Vec<f32>> {
        let width = self.width(name)?;
        let info = self.info(name).expect("a tensor of this file");
        let held = (info.data_offsets.1 - info.data_offsets.0) / width;
        assert!(range.start <= range.end && range.end <= held, "elements {range:?} of {held}");
        let mut bytes = vec![0; range.len() * width];
        let at = self.data + (info.data_offsets.0 + range.start * width) as u64;
        let trouble =
            |e| Error::Failed(format!("{}: cannot read {} bytes at {at}: {e}", self.path.display(), range.len() * width));
        self.file.read_exact_at(&mut bytes, at).map_err(trouble)?;
        let pairs = |convert: fn([u8; 2]) -> f32| bytes.chunks_exact(2).map(|b| convert([b[0], b[1]])).collect();
        Ok(match info.dtype {
            Dtype::BF16 => pairs(|b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => pairs(|b| f16::from_le_bytes(b).to_f32()),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }
}

/// A file being written front to back, which knows how long it is going to be.
pub struct Sink {
    path: PathBuf,
    file: File,
    written: u64,
    total: u64,
    /// Numbers are written in bf16, else in f32.
    in_bf16: bool,
    bytes: Vec<u8>,
}

impl Sink {
    /// Starts a safetensors file of tensors in f32 or bf16 and writes its header; their values must follow in the order of their
    /// names, which is the order of the list that comes back.
    ///
    /// `metadata` is one key and its value: more would be written in no particular order.
    pub fn tensors(
        path: &Path,
        mut shapes: Vec<(String, Vec<usize>)>,
        in_bf16: bool,
        metadata: (&str, &str),
    ) -> Result<(Sink, Vec<String>)> {
        let (dtype, width) = if in_bf16 { (Dtype::BF16, 2) } else { (Dtype::F32, 4) };
        shapes.sort();
        let names = shapes.iter().map(|(name, _)| name.clone()).collect();
        let mut end = 0;
        let mut entry = |(name, shape): (String, Vec<usize>)| {
            let start = end;
            end += width * shape.iter().product::<usize>();
            (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
        };
        let tensors: Vec<_> = shapes.drain(..).map(&mut entry).collect();
        let metadata = HashMap::from([(metadata.0.to_owned(), metadata.1.to_owned())]);
        let header = Metadata::new(Some(metadata), tensors).expect("offsets made from the shapes");
        let mut header = serde_json::to_vec(&header).expect("strings and numbers");
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut sink = Sink { in_bf16, ..Sink::create(path, 8 + header.len() as u64 + end as u64)? };
        sink.put(&(header.len() as u64).to_le_bytes())?;
        sink.put(&header)?;
        Ok((sink, names))
    }

    /// Writes `bytes` as a whole file, and waits for the disk.
    pub fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
        let mut sink = Sink::create(path, bytes.len() as u64)?;
        sink.put(bytes)?;
        sink.close()
    }

    fn create(path: &Path, total: u64) -> Result<Sink> {
        match File::create(path) {
            Ok(file) => Ok(Sink { path: path.to_owned(), file, written: 0, total, in_bf16: false, bytes: vec![] }),
            Err(e) => Err(Error::Failed(format!("{}: cannot create the file of {total} bytes: {e}", path.display()))),
        }
    }

    /// In bf16 they are rounded, unless they are bf16 already.
    pub fn values(&mut self, values: &[f32]) -> Result<()> {
        for part in values.chunks(CHUNK) {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.resize(if self.in_bf16 { 2 } else { 4 } * part.len(), 0);
            if self.in_bf16 {
                bytes.chunks_exact_mut(2).zip(part).for_each(|(b, v)| b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes()));
            } else {
                bytes.chunks_exact_mut(4).zip(part).for_each(|(b, v)| b.copy_from_slice(&v.to_le_bytes()));
            }
            let done = self.put(&bytes);
            self.bytes = bytes;
            done?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.trouble(e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Waits until the disk has it all. A full disk may first be noticed here.
    pub fn close(self) -> Result<()> {
        assert_eq!(self.written, self.total, "{}: bytes written against the header", self.path.display());
        self.file.sync_all().map_err(|e| self.trouble(e))
    }

    fn trouble(&self, e: std::io::Error) -> Error {
        Error::Failed(format!("{}: {} of {} bytes written, then: {e}", self.path.display(), self.written, self.total))
    }
}
