//! The commands, one file each, and the command line that leads to them.
pub mod account;
pub mod alone;
pub mod attention;
pub mod bench;
pub mod cli;
pub mod count;
pub mod energy;
pub mod eval;
pub mod gauge;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod mlperf;
pub mod output;
pub mod pages;
pub mod plan;
pub mod report;
pub mod room;
pub mod scaling;
pub mod scratch;
pub mod session;
pub mod tokenize;
pub mod train;
pub mod verify;
pub mod version;

use crate::error::{Error, Result};
use crate::{bad_input, checkpoint};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Text on stdout, at once. A reader that has gone away (`| head`) stops nothing.
pub fn tell(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// [`tell`], and the line's end.
pub fn say(line: impl Display) {
    tell(format_args!("{line}\n"));
}

/// Whether [`write_json`] will be able to write, asked before the work whose result it is.
///
/// Errors: `Input` naming the file.
pub fn check_json(file: Option<&PathBuf>) -> Result<()> {
    check_file("--json", file)
}

/// The same of the file of another option.
pub fn check_file(option: &str, file: Option<&PathBuf>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    if file.is_dir() {
        bad_input!("{option} {}: expected a file to write, found a folder", file.display());
    }
    let beside = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    checkpoint::check_writable(option, beside)
}

/// Writes what machines read, and makes the directory it is to lie in.
pub fn write_json(file: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value is written as text") + "\n";
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(file, text))
        .map_err(|e| Error::Failed(format!("{}: cannot be written: {e}", file.display())))
}
