//! A true NumPy array file: a line of Python that describes the array, then its elements.
//!
//! ```text
//! "\x93NUMPY" | major | minor | u16 (major 1) or u32 length | {'descr': '<u2', 'fortran_order': False, 'shape': (N,), } | data
//! ```
//! An array of several dimensions is read as its rows one after the other. Source: NEP 1, `numpy.lib.format`.
use super::{Boundaries, Shard};
use crate::bad_input;
use crate::data::mapped::{Mapped, Tokens, Width, u32_at};
use crate::error::Result;
use std::path::Path;

pub const MAGIC: &[u8; 6] = b"\x93NUMPY";

pub fn open(file: Mapped) -> Result<Shard> {
    let (width, start, len) = parse(&file, file.path())?;
    Ok(Shard { format: "NumPy", tokens: Tokens::new(file, start, len, width), boundaries: Boundaries::AfterEos })
}

/// Width of an element, the byte where they start, and their number.
///
/// # Errors
/// `Input` for other types than `<u2`, `<u4`, `<i4`, and where shape and size do not agree.
pub fn parse(bytes: &[u8], path: &Path) -> Result<(Width, usize, usize)> {
    let name = path.display();
    let long = bytes.get(6).is_some_and(|&major| major >= 2);
    let header: Option<(usize, usize)> = if long {
        u32_at(bytes, 8).map(|n| (12, n as usize))
    } else {
        bytes.get(8..10).map(|b| (10, u16::from_le_bytes([b[0], b[1]]) as usize))
    };
    let Some((text, start)) = header.and_then(|(at, n)| Some((bytes.get(at..at.checked_add(n)?)?, at + n))) else {
        bad_input!("{name}: expected a NumPy header, found a file of {} bytes that ends inside it", bytes.len());
    };
    let text = String::from_utf8_lossy(text);
    let width = match value(&text, "descr").map(|v| v.trim_matches(['\'', '"'])) {
        Some("<u2") => Width::U16,
        Some("<u4" | "<i4") => Width::U32,
        other => bad_input!("{name}: expected an array of '<u2', '<u4' or '<i4', found {}", other.unwrap_or("no 'descr'")),
    };
    if value(&text, "fortran_order") != Some("False") {
        bad_input!("{name}: expected 'fortran_order': False, found another header");
    }
    let shape = value(&text, "shape").unwrap_or_default();
    let sizes = shape.trim_matches(['(', ')']).split(',').map(str::trim).filter(|s| !s.is_empty());
    let len = sizes.map(|s| s.parse::<usize>().ok()).try_fold(1usize, |n, s| n.checked_mul(s?));
    let data = bytes.len() - start;
    match len {
        Some(len) if len.checked_mul(width.bytes()) == Some(data) => Ok((width, start, len)),
        _ => bad_input!("{name}: expected an array of shape {shape} and {} bytes each, found {data} bytes of it", width.bytes()),
    }
}

/// What stands behind `'key':` up to the next comma outside parentheses.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let quoted = format!("'{key}':");
    let rest = text[text.find(&quoted)? + quoted.len()..].trim_start();
    let end = if rest.starts_with('(') { rest.find(')')? + 1 } else { rest.find([',', '}'])? };
    Some(rest[..end].trim())
}
