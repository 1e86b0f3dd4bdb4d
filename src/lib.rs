//! llm-train: pretrains and fine-tunes decoder-only language models, one process per device, under MPI.
//!
//! The training loop is in [`commands::train`]. Every rank runs the same program on its own part of the batch.
//!
//! ```text
//! main -> commands -> { config, launch, data, checkpoint, metrics, optim, parallel, model }
//! config -> optim, model, device (their enums)    optim -> ops (takes ranges, knows no ranks)
//! checkpoint -> parallel, optim, model, data      parallel -> model, comm, ops
//! model -> ops -> device -> tensor                comm -> device, tensor      everything -> error
//! launch -> comm, metrics (the progress bar)      data -> ops (MASKED)
//! ```
//! A module uses only what stands right of it; `tests/architecture.rs` holds the arrows.
//!
//! Shapes, everywhere: B batch (sequences), T sequence length, C width, H heads, K key/value heads, D head dimension,
//! F hidden width of the MLP, L layers, V vocabulary. `dx` is ∂L/∂x. Matrices are row-major; a linear layer's weight is
//! (outputs, inputs).
#![allow(clippy::too_many_arguments)] // an op names its outputs, inputs and parameters; a struct would only hide them
pub mod checkpoint; // safetensors in Hugging Face layout, optimizer shards, atomic, elastic
pub mod comm; //       sums and copies between ranks: solo, MPI, NCCL
pub mod commands; //   train (the loop), tokenize, plan, generate, eval, report, bench, verify
pub mod config; //     as typed -> as meant
pub mod data; //       memory-mapped corpora, blends, sampling as a pure function
pub mod device; //     the arena, the gate, loans
pub mod error; //      bad input and failures
pub mod launch; //     ranks, binding, signals, Slurm facts, the end of a job
pub mod metrics; //    HDF5 file, console line, figures of merit
pub mod model; //      the decoder, forwards and backwards; families
pub mod ops; //        one file an operation: equations, reference, kernel
pub mod optim; //      AdamW over owned ranges, learning-rate schedules
pub mod parallel; //   shard arithmetic; DDP and ZeRO-1 as schedules
pub mod tensor; //     Plan and the tensor handle
