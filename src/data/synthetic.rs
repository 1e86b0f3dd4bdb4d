//! Tokens out of nothing, for measuring: no file is read, and the same samples come on any layout.
use super::permutation::mix;

/// Writes the window of sample `n`: place `i` is a function of (seed, n, i), uniform below `vocab`.
pub fn window(seed: u64, n: u64, vocab: usize, out: &mut [u32]) {
    let key = mix(seed ^ mix(n));
    for (i, token) in out.iter_mut().enumerate() {
        // The upper 64 bits of a product map 0 .. 2^64 evenly onto 0 .. vocab.
        *token = ((mix(key.wrapping_add(i as u64)) as u128 * vocab as u128) >> 64) as u32;
    }
}
