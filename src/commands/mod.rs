//! The commands, one file each, and the command line that leads to them.
pub mod cli;
pub mod eval;
pub mod generate;
pub mod output;
pub mod plan;
pub mod report;
pub mod session;
pub mod tokenize;
pub mod train;

use crate::error::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes to stdout at once. A reader that has seen enough (`| head`) is no failure.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes what machines read, and makes the directory for it.
pub fn write_json(file: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value is written as text") + "\n";
    let directory = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    directory
        .and_then(|()| std::fs::write(file, text))
        .map_err(|e| Error::Failed(format!("{}: cannot be written: {e}", file.display())))
}
