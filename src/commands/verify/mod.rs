//! `llm-train verify`: whether this program computes on this machine what it should. Needs no file.
//!
//! ```text
//! ops      every op, in each instruction set that the processor has, fp32 and bf16, against loops in f64      (ops.rs)
//! curve    a small model trained on a page of text, fp32 and bf16, against the same training in f64          (curve.rs)
//!
//! ops avx2 fp32: 0.0312    worst error of 46 ops over what is allowed, at attention 130
//! loss curve fp32: 0.0139    farthest from the reference over what is allowed (0.00001), at step 33
//! VERIFICATION: PASS
//! ```
//! Under a launcher every rank holds its own processor to the first, and all train together for the second: the curve is
//! the same on any number of ranks. `LLM_TRAIN_ISA` narrows the first to one instruction set.
mod curve;
mod ops;

pub use curve::{STEPS, run_of_record, write_corpus};
pub use ops::Checked;

use crate::commands::cli::VERSION;
use crate::commands::{check_json, tell, write_json};
use crate::device::Precision;
use crate::error::Result;
use crate::launch::{Launch, cores};
use crate::metrics::units::significant;
use crate::ops::gemm::{Kernel, kernels, probe};
use crate::ops::simd;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Check on this machine that every op, and a short training, gives what it should.
#[derive(clap::Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Threads per rank [default: the physical cores the rank may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub threads: Option<u16>,
    /// Compare with the losses of this earlier --json instead of those built in
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// Write errors and losses for machines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The kernels that are checked: all that the processor has, or the one that `LLM_TRAIN_ISA` names.
///
/// Errors: it names none that could be used here.
pub fn kernels() -> Result<Vec<&'static Kernel>> {
    match simd::forced() {
        // Also a kernel for bf16 alone is one to be checked.
        Some(name) => Ok(probe::forced(Precision::Bf16, Some(&name))?.into_iter().map(|(kernel, _)| kernel).collect()),
        None => Ok(kernels::ALL.into_iter().filter(|k| (k.available)()).collect()),
    }
}

/// Checks everything, prints what it found on rank 0; whether it is as it should be.
///
/// Errors: the reference is not one; no room for the corpus, one page, in `TMPDIR`.
pub fn run(args: &VerifyArgs, launch: &Launch) -> Result<bool> {
    run_with(&launch.agree(kernels())?, args, launch)
}

/// The same, with these kernels for products: a test gives one that is corrupted.
pub fn run_with(kernels: &[&'static Kernel], args: &VerifyArgs, launch: &Launch) -> Result<bool> {
    let began = Instant::now();
    let leads = launch.leads();
    launch.agree(if leads { check_json(args.json.as_ref()) } else { Ok(()) })?;
    let reference = launch.agree(curve::reference(args.reference.as_deref()))?;
    let (ranks, threads) = (launch.size(), launch.threads);
    if leads {
        tell(format!("verify: llm-train {VERSION}, {ranks} × {threads} threads; {}\n", cores::processor()));
    }

    let mine = ops::check(kernels, threads)?;
    // Later products choose their kernel as they do in training.
    simd::limit(simd::forced().map_or(simd::Level::Avx512, |name| simd::beside(&name)));
    let failed = first_failure(&mine, launch);
    if leads {
        mine.iter().for_each(|c| tell(c.line()));
    }

    let mut curves = vec![];
    for precision in [Precision::Fp32, Precision::Bf16] {
        let curve = curve::follow(precision, &reference, launch)?;
        if leads {
            tell(curve.line());
        }
        curves.push(curve);
    }
    let off = curves.iter().find(|c| !c.passes()).map(curve::Curve::complaint);
    let complaint = failed.or(off);
    let passed = complaint.is_none();
    if leads {
        tell(format!("elapsed time (s): {}\n", significant(began.elapsed().as_secs_f64(), 3)));
        let why = complaint.map_or(String::new(), |why| format!("    {why}"));
        tell(format!("VERIFICATION: {}{why}\n", if passed { "PASS" } else { "FAIL" }));
        if let Some(file) = &args.json {
            let all = json!({
                "verification": if passed { "PASS" } else { "FAIL" },
                "version": VERSION, "processor": cores::processor(), "ranks": ranks, "threads": threads,
                "ops": mine.iter().map(Checked::json).collect::<Vec<_>>(),
                "curves": curves.iter().map(curve::Curve::json).collect::<Vec<_>>(),
            });
            write_json(file, &all)?;
        }
    }
    Ok(passed)
}

/// What is wrong with the ops of the first rank on which something is.
fn first_failure(mine: &[Checked], launch: &Launch) -> Option<String> {
    let words = mine.iter().find(|c| !c.passes()).map_or(String::new(), Checked::complaint);
    let all = if launch.size() == 1 { vec![words.into_bytes()] } else { launch.comm().gather(words.as_bytes()) };
    let rank = all.iter().position(|words| !words.is_empty())?;
    Some(format!("{} (rank {rank} on {})", String::from_utf8_lossy(&all[rank]), launch.ranks[rank].host))
}

/// Every op by these kernels, in this process: what [`run`] does on each rank.
pub fn check_ops(kernels: &[&'static Kernel], threads: usize) -> Result<Vec<Checked>> {
    ops::check(kernels, threads)
}
