//! The next token from one row of logits, drawn where they lie.
//!
//! ```text
//! p = softmax(z / temperature), of the top_k likeliest, of those the fewest whose p sum to at least top_p
//! the token at which the running sum of p passes u · Σ p
//! ```
//! The rule, and a CPU's way, is `model/sample.rs`: there the host has the logits anyway. On a GPU a kernel finds the token, and
//! the host reads four bytes in place of a vocabulary.
use crate::device::Device;
use crate::device::cuda::{Grid, double};
use crate::tensor::Tensor;

/// How to draw: temperature 0 takes the likeliest; `top_k` 0 and `top_p` 1 draw from all.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    /// In (0, 1).
    pub u: f64,
}

/// The token, from the first `vocab` of logits (1, padded V). Waits for it. `None` where the host is to draw.
pub fn on_device(dev: &Device, logits: Tensor, vocab: usize, how: Draw) -> Option<u32> {
    assert!(logits.rows == 1 && 0 < vocab && vocab <= logits.cols, "sample: one of {vocab} tokens from {logits:?}");
    let Device::Cuda(d) = dev else { return None };
    let ([], [z]) = d.op([], [logits]);
    let token = d.scratch(4);
    let [temperature, top_p] = [how.temperature, how.top_p].map(|x| double(f64::from(x)));
    let top_k = how.top_k.min(vocab) as u64;
    let block = Grid::new([1; 3], [1024, 1, 1]);
    d.launch("sample", block, &[token, z, vocab as u64, temperature, top_k, top_p, double(how.u)]);
    Some(d.fetch::<u32>(token, 1)[0])
}
