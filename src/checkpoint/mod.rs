//! Checkpoints: weights as Hugging Face keeps them, with what a run needs to go on beside them.
//!
//! ```text
//! OUT/checkpoints/step-%08d/
//!   config.json  generation_config.json  tokenizer.json      `from_pretrained` opens the folder as it is
//!   model.safetensors                                        or model-%05d-of-%05d.safetensors and an index
//!   optimizer-%05d-of-%05d.safetensors                       one a rank; read by any number of ranks
//!   progress.json                                            step, samples, seed, configuration
//!   complete                                                 every file with its bytes, written last
//! ```
//! [`save`] writes aside and renames; [`newest`] finds the checkpoint to go on from; [`load_weights`],
//! [`load_optimizer`] and [`read_progress`] read it. No file is ever in memory as a whole.
mod folder;
mod moments;
mod progress;
mod safetensors;
mod save;
mod weights;

pub use folder::{Keep, Kept, check_complete, check_writable, list, newest};
pub use moments::{Moments, load_optimizer};
pub use progress::{Attended, FORMAT, Progress, read_progress, same_model};
pub use safetensors::Source;
pub use save::{Save, save};
pub use weights::{SHARD_LIMIT, load_weights, staging_bytes};

use crate::model::Parameter;

/// Bytes of a checkpoint of `parameters`, all files together, within some kilobytes: weights and two moments.
pub fn bytes(parameters: &[Parameter], weights_in_bf16: bool) -> u64 {
    let each = if weights_in_bf16 { 2 + 2 * 4 } else { 3 * 4 };
    each * parameters.iter().map(|p| p.weights.len() as u64).sum::<u64>()
}
