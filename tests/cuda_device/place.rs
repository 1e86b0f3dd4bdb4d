//! Where these tests run: here, on the stub, or on a GPU, out of a bundle that lies anywhere (`scripts/gpu-check.sh`).
//!
//! | variable | meaning |
//! |---|---|
//! | `DEVICE_ON=gpu` | the libraries that the loader finds are the real ones |
//! | `LLM_TRAIN_ROOT` | the folder that holds `tests/` and `src/ops/` |
//! | `LLM_TRAIN_PROGRAM` | the program |
//! | `GPU_CHECK_SMALL=1` | the models of the check shrink to what a stub runs in seconds |
use std::path::{Path, PathBuf};

pub fn on_gpu() -> bool {
    std::env::var_os("DEVICE_ON").is_some_and(|on| on == "gpu")
}

/// Whether a model of 124 million parameters is too much.
pub fn small() -> bool {
    !on_gpu() || tried_out()
}

/// Whether a bundle is tried out on a stub: less is enough, for these tests run whole beside it.
pub fn tried_out() -> bool {
    std::env::var_os("GPU_CHECK_SMALL").is_some_and(|small| small == "1")
}

pub fn root() -> PathBuf {
    std::env::var_os("LLM_TRAIN_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

pub fn program() -> PathBuf {
    std::env::var_os("LLM_TRAIN_PROGRAM").map_or(crate::program::PROGRAM.into(), PathBuf::from)
}

/// Where stubs and compiled kernels are kept.
pub fn kept() -> PathBuf {
    if on_gpu() { std::env::temp_dir().join("llm-train-check") } else { Path::new(env!("CARGO_TARGET_TMPDIR")).into() }
}
