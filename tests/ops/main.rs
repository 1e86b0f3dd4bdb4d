//! Every operation: the reference's gradients against central finite differences in f64, and the CPU kernels against
//! the reference over shapes with ragged edges.
//!
//! ```text
//! finite differences ⊢ reference (< 1e-7 relative)      reference ⊢ CPU kernel, fp32 and bf16
//! ```
mod bench;
mod determinism;
mod emulated;
mod gradients;
mod numbers;
mod parity;
mod products;
