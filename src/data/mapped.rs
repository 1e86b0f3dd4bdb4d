//! Files mapped into memory, and the tokens that lie in them.
//!
//! ```text
//! file:   | header … | t0 | t1 | … | t(n-1) |        t: u16 or u32, little endian
//!                    ^ start
//! ```
//! A mapping costs no memory of its own: the kernel keeps what is read in its page cache, shared by the ranks of a host.
use crate::bad_input;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A whole file as a slice of bytes, read-only.
pub struct Mapped {
    path: PathBuf,
    map: Option<Mmap>,
}

impl Mapped {
    /// Maps `path`. An empty file is an empty slice.
    ///
    /// # Errors
    /// `Input`, naming the file, where it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Mapped> {
        let trouble =
            |e: std::io::Error| Error::Input(format!("{}: expected a readable corpus file, found: {e}", path.display()));
        let file = File::open(path).map_err(trouble)?;
        if file.metadata().map_err(trouble)?.len() == 0 {
            return Ok(Mapped { path: path.to_owned(), map: None });
        }
        // SAFETY: the mapping is private and read-only, and lives as long as the slices taken from it. A corpus file must not
        // be truncated while a run reads it; tokenize writes aside and renames, which leaves an open mapping whole.
        let map = unsafe { Mmap::map(&file) }.map_err(trouble)?;
        Ok(Mapped { path: path.to_owned(), map: Some(map) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Asks the system to read a file from its disk the next time: for measuring. What is mapped by someone stays in memory, and a
/// system that does not listen changes no content.
pub fn forget(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    // SAFETY: a descriptor that is open; it is advice about the whole file.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Bytes of one token in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    U16,
    U32,
}

impl Width {
    pub fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }
    /// What a headerless file of this vocabulary most likely holds.
    pub fn for_vocab(vocab: usize) -> Width {
        if vocab <= 1 << 16 { Width::U16 } else { Width::U32 }
    }
    /// From a number of bytes: 2 or 4.
    pub fn of_bytes(bytes: usize) -> Option<Width> {
        match bytes {
            2 => Some(Width::U16),
            4 => Some(Width::U32),
            _ => None,
        }
    }
}

/// `len` tokens of one file, from byte `start` on.
pub struct Tokens {
    file: Mapped,
    start: usize,
    len: usize,
    width: Width,
}

impl Tokens {
    /// # Panics
    /// Where the tokens would reach past the end of the file: the reader of the format has checked its header.
    pub fn new(file: Mapped, start: usize, len: usize, width: Width) -> Tokens {
        let fits = len.checked_mul(width.bytes()).and_then(|n| n.checked_add(start)).is_some_and(|end| end <= file.len());
        assert!(fits, "{len} tokens of {} bytes from byte {start} in a file of {}", width.bytes(), file.len());
        Tokens { file, start, len, width }
    }
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn width(&self) -> Width {
        self.width
    }
    pub fn path(&self) -> &Path {
        self.file.path()
    }
    /// The bytes of the tokens in `range`.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "tokens {range:?} of {}", self.len);
        let w = self.width.bytes();
        &self.file[self.start + range.start * w..self.start + range.end * w]
    }
    /// Copies the tokens `at .. at + out.len()`.
    pub fn read(&self, at: usize, out: &mut [u32]) {
        let bytes = self.bytes(at..at + out.len());
        match self.width {
            Width::U16 => {
                for (t, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *t = u16::from_le_bytes([b[0], b[1]]) as u32;
                }
            }
            Width::U32 => {
                for (t, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *t = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
    }
    /// Holds `tokens`, which were read at `at`, against the vocabulary.
    ///
    /// # Errors
    /// `Input` with file, byte offset and value of the first token that the vocabulary does not have.
    pub fn check(&self, at: usize, tokens: &[u32], vocab: usize) -> Result<()> {
        // The maximum first: it is one vector instruction per eight tokens, and almost always all that is needed.
        if tokens.iter().copied().max().is_none_or(|largest| (largest as usize) < vocab) {
            return Ok(());
        }
        let bad = tokens.iter().position(|&t| t as usize >= vocab).expect("the maximum is one");
        let offset = self.start + (at + bad) * self.width.bytes();
        bad_input!(
            "{}: expected tokens below the vocabulary of {vocab} (--vocab), found {} at byte {offset} (token {})",
            self.path().display(),
            tokens[bad],
            at + bad
        )
    }
}

/// The little-endian u64 at byte `at`; `None` past the end.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The little-endian u32 at byte `at`; `None` past the end.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
