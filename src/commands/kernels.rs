//! The kernel for matrix products, decided once for all ranks before the first.
//!
//! ```text
//! LLM_TRAIN_ISA                 its word counts
//! else the cache's line         of this processor, version and precision: so that a run begun again computes the same bits
//! else the probe's winner       kept in the cache
//! ```
//! Rank 0 decides and broadcasts; a rank with another processor asks its own probe. The cache is
//! `$XDG_CACHE_HOME/llm-train/kernels.tsv` (`~/.cache` without the variable); what cannot be read or written is done without.
use crate::comm::Collective;
use crate::device::Precision;
use crate::error::Result;
use crate::launch::cores;
use crate::ops::gemm::{kernels, probe};
use crate::ops::simd;
use std::path::PathBuf;

/// Chooses for this process, alone or with the ranks of `comm`. Returns what it chose, in words.
pub fn choose(precision: Precision, comm: Option<&dyn Collective>) -> Result<String> {
    let leads = comm.is_none_or(|c| c.rank() == 0);
    let forced = probe::forced(precision, simd::forced().as_deref());
    let key = format!("{}\t{}\t{precision:?}", cores::processor(), env!("CARGO_PKG_VERSION"));
    let decided = if leads && matches!(forced, Ok(None)) { decide(&key, precision) } else { String::new() };
    let decided = match comm {
        Some(comm) => String::from_utf8_lossy(&comm.broadcast(decided.into_bytes(), 0)).into_owned(),
        None => decided,
    };
    // asked only now: whatever a rank's environment says, it has taken part in the broadcast
    let (found, why) = match forced? {
        Some(found) => (found, format!("as {} says", simd::ISA)),
        None => (read(&decided, &key, precision).unwrap_or_else(|| probe::fastest(precision)), "the fastest here".into()),
    };
    kernels::choose(precision, found.0);
    let said = format!("matrix products by the kernel {}, {why}: {:.1} GFLOP/s on one thread", found.0.name, found.1);
    log::debug!("{said}");
    Ok(said)
}

/// The cache's line, or a new one.
fn decide(key: &str, precision: Precision) -> String {
    let file = file();
    let text = file.as_ref().and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
    if let Some(line) = text.lines().find(|line| read(line, key, precision).is_some()) {
        return line.to_string();
    }
    let (kernel, rate) = probe::fastest(precision);
    let line = format!("{key}\t{}\t{rate:.1}", kernel.name);
    if let Some(file) = file {
        // a line more, put in place at once: another job may be reading
        let new = file.with_extension(format!("{}", std::process::id()));
        let written = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = written.and_then(|()| std::fs::write(&new, format!("{text}{line}\n")));
        if written.and_then(|()| std::fs::rename(&new, &file)).is_err() {
            let _ = std::fs::remove_file(&new);
        }
    }
    line
}

/// Kernel and GFLOP/s of a line, where it speaks of this processor and of a kernel that it has.
fn read(line: &str, key: &str, precision: Precision) -> Option<probe::Found> {
    let (name, rate) = line.strip_prefix(key)?.strip_prefix('\t')?.split_once('\t')?;
    let kernel = kernels::named(name).filter(|k| k.serves(precision))?;
    Some((kernel, rate.trim().parse().ok()?))
}

fn file() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home)?;
    Some(cache.join("llm-train").join("kernels.tsv"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_for_its_processor_and_a_kernel_that_is_here() {
        let key = "a processor\t1.0\tFp32";
        let found = |line: &str| read(line, key, Precision::Fp32).map(|(k, rate)| (k.name, rate));
        assert_eq!(found("a processor\t1.0\tFp32\tportable\t2.5"), Some(("portable", 2.5)));
        for line in
            ["", "a processor\t1.0\tBf16\tportable\t2.5", "another\t1.0\tFp32\tportable\t2", "a processor\t1.0\tFp32\tamx\t9"]
        {
            assert_eq!(found(line), None, "{line}");
        }
        for line in ["a processor\t1.0\tFp32\tnone\t1", "a processor\t1.0\tFp32\tportable\tfast", "a processor\t1.0\tFp32"] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
