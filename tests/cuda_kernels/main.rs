//! The CUDA kernels, without a GPU: each `src/ops/*.cu` runs on the CPU as it ships (`tests/cuda/hostsim.h`), in several
//! orders of threads, and is held against the f64 reference of its op.
//!
//! ```text
//! one file an op       shapes even and ragged, activations of bf16 and of float, all orders bit-identical
//! instructions         the emulated tensor-core instructions against the formulas of the PTX ISA, written down once more
//! sanitizer            all of that again under AddressSanitizer
//! gpu                  the same tests where there is a GPU; here, on a stub driver
//! mutants              faults planted in the kernels, one at a time: each must be caught
//! ```
mod activation;
mod adamw;
mod attention;
mod elementwise;
mod embedding;
mod gpu;
mod instructions;
mod loss;
mod mutants;
mod norm;
mod numbers;
mod planted;
mod qk_norm;
mod rope;
mod rows;
mod sample;
mod sanitizer;
mod simulator;
mod verdict;
