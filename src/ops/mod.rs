//! The operations. One file an op: its equations, its naive f64 reference, its kernel. `ls src/ops` is the list of what
//! the hardware must do.
//!
//! An op takes `(dev, outputs…, inputs…, parameters)`; shapes come from the handles and are asserted. Each opens the
//! gate once and matches on the device inside:
//!
//! ```text
//! match dev {
//!     Device::Cpu(d)       => d.arena.op([y], [x, w], |[y], [x, w]| kernel(…)),
//!     Device::Reference(d) => d.arena.op([y], [x, w], |[y], [x, w]| reference(…)),
//! }
//! ```
//! A target or a document start travels as plain `u32` beside the handles. Gradients of parameters are added to
//! (`dw += …`); gradients of activations are written (`dx = …`) unless an op says otherwise.
pub mod activation;
pub mod adamw;
pub mod attention;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod likeliest;
pub mod linear;
pub mod loss;
pub mod mlp;
pub mod norm;
mod past_caches;
pub mod qk_norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod simd;
pub mod verdict;

/// The target of a row that counts for nothing: padding of an incomplete global batch.
pub const MASKED: u32 = u32::MAX;
