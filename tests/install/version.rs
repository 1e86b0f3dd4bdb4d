//! `--version`: a block of rows wherever it is asked for, whatever is missing.
use crate::program::{PROGRAM, alone, mpirun};
use std::process::Command;
use std::time::{Duration, Instant};

const ROWS: [&str; 10] =
    ["MPI", "HDF5", "CUDA driver", "NVRTC", "cuBLASLt", "NCCL", "cuDNN", "GPU kernels", "processor", "instructions"];

fn row<'a>(block: &'a str, name: &str) -> &'a str {
    let found = block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no row {name}\n{block}"));
    found.trim()
}

#[test]
fn one_block_says_what_is_here() {
    let began = Instant::now();
    let block = alone("--version").done().out;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(block.lines().count(), 1 + ROWS.len(), "{block}");
    ROWS.iter().for_each(|name| assert!(!row(&block, name).is_empty(), "{name}\n{block}"));
    assert!(["Open MPI", "MPICH"].iter().any(|mpi| row(&block, "MPI").contains(mpi)), "{block}");
    assert_eq!(row(&block, "HDF5").split('.').count(), 3, "{block}");
    assert!(row(&block, "instructions").starts_with("portable"), "{block}");
    let short = alone("-V").done().out;
    assert_eq!(short.trim_end(), block.lines().next().unwrap());
    // a launcher is not in its way
    let under = mpirun(&format!("-n 1 {PROGRAM} --version")).done().out;
    assert_eq!(under, block);
}

/// Libraries that tell what they like: a good one, one without its function, one that fails, one that is no library.
#[test]
fn libraries_are_told_with_version_and_place_and_broken_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, source: &str| {
        let file = folder.path().join("source.c");
        std::fs::write(&file, source).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(folder.path().join(name)).arg(file).status();
        assert!(built.unwrap().success());
    };
    build("libcuda.so.1", "int cuDriverGetVersion(int* v) { *v = 12040; return 0; }");
    build("libnvrtc.so.12", "int nvrtcVersion(int* a, int* b) { *a = 12; *b = 6; return 0; }");
    build("libnccl.so.2", "int ncclGetVersion(int* v) { *v = 22703; return 3; }");
    build("libcudnn.so.9", "int nothing;");
    std::fs::write(folder.path().join("libcublasLt.so.12"), "not a library").unwrap();
    let mut job = alone("--version");
    job.0.env("LD_LIBRARY_PATH", folder.path()).env("LLM_TRAIN_ISA", "portable");
    let block = job.done().out;
    let place = |name: &str| format!("({})", folder.path().join(name).display());
    assert_eq!(row(&block, "CUDA driver"), format!("for CUDA 12.4 {}", place("libcuda.so.1")));
    assert_eq!(row(&block, "NVRTC"), format!("12.6 {}", place("libnvrtc.so.12")));
    assert_eq!(row(&block, "NCCL"), "ncclGetVersion failed with 3");
    assert!(row(&block, "cuDNN").contains("libcudnn.so.9 has no function cudnnGetVersion"), "{block}");
    assert_eq!(row(&block, "cuBLASLt"), "not found");
    assert!(row(&block, "instructions").ends_with("(LLM_TRAIN_ISA=portable)"), "{block}");
}
