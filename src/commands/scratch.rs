//! A folder for files that nobody asked for, in the system's place for such (`TMPDIR`). Removed when dropped.
use std::path::{Path, PathBuf};

/// Made by whoever writes into it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Scratch {
        Scratch::within(&std::env::temp_dir(), what)
    }

    /// Of this process alone, also where several hosts share the place.
    pub fn within(dir: &Path, what: &str) -> Scratch {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Scratch(dir.join(format!("llm-train-{what}-{}-{}", host.trim(), std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
