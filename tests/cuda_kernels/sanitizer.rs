//! Every test of the kernels again, in a child process, with AddressSanitizer in the kernels and in memory: reads a few bytes
//! past the end of a tensor or of shared memory, which no page stops.
use crate::gpu;
use crate::simulator::{SANITIZED, mutated, sanitized};
use std::process::Command;

/// Where g++ keeps the sanitizer's library, to be loaded before all else.
pub fn library() -> String {
    let asked = Command::new("g++").arg("-print-file-name=libasan.so").output().expect("g++, for its libasan.so");
    let path = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    assert!(path.starts_with('/'), "g++ has no libasan.so");
    path
}

/// This test program again, with the sanitizer loaded.
pub fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("LD_PRELOAD", library()).env(SANITIZED, "1");
    command.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0:use_sigaltstack=0");
    command
}

#[test]
fn all_under_the_sanitizer() {
    if mutated() || sanitized() || gpu::chosen() {
        return;
    }
    let run = command().args(["--skip", "mutants", "--skip", "sanitizer", "--skip", "gpu", "--test-threads=2"]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}\n{errors}");
    assert!(said.contains("test norm::norm ... ok"), "{said}");
}
