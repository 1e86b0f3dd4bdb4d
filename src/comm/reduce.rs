//! The arithmetic of a reduction: adding pieces in rank order, chunk by chunk.
//!
//! ```text
//! block of rank r, chunk by chunk:   x ← ((x₀ + x₁) + x₂) + …      xᵣ its own copy, the others' from staging
//! ```

/// Measured: a chunk that keeps the pieces of a few ranks in cache; more ranks, smaller chunks.
const CHUNK: usize = 1 << 16;
/// Measured: staging stays within this many elements (16 MiB) up to 1,024 ranks; past them it grows by 16 KiB a rank.
const STAGING: usize = 1 << 22;

/// Measured: chunks from each other rank that may be under way, of one reduction or of several.
pub(super) const SLOTS: usize = 4;

/// Elements of a chunk of a block in a world of `size`.
pub(super) fn chunk(size: usize) -> usize {
    CHUNK.min(STAGING / (SLOTS * (size - 1).max(1))).max(1 << 10)
}

/// Elements of staging that a rank holds: [`SLOTS`] chunks from every other rank.
pub fn staging_elements(size: usize) -> usize {
    SLOTS * (size - 1) * chunk(size)
}

/// Adds `pieces` (from the other ranks, in rank order) and `own` into `own`, in rank order.
pub(super) fn add_in_rank_order(own: &mut [f32], rank: usize, pieces: &mut [&mut [f32]]) {
    let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
    let (before, after) = pieces.split_at_mut(rank);
    if let Some((first, rest)) = before.split_first_mut() {
        rest.iter().for_each(|piece| add(first, piece));
        // x + y = y + x exactly, so the running sum may be added to `own`.
        add(own, first);
    }
    after.iter().for_each(|piece| add(own, piece));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_ranks() {
        let copies = [[1e8f32, 1.0], [1.0, -1e8], [-1e8, 3.0], [0.5, 1e8]];
        let serial = |k: usize| ((copies[0][k] + copies[1][k]) + copies[2][k]) + copies[3][k];
        for rank in 0..4 {
            let mut own = copies[rank];
            let mut others: Vec<[f32; 2]> = (0..4).filter(|r| *r != rank).map(|r| copies[r]).collect();
            let mut pieces: Vec<&mut [f32]> = others.iter_mut().map(|p| p.as_mut_slice()).collect();
            add_in_rank_order(&mut own, rank, &mut pieces);
            assert_eq!(own, [serial(0), serial(1)], "rank {rank}");
        }
    }

    #[test]
    fn staging_is_bounded() {
        for size in [1, 2, 3, 4, 100, 1000, 4096] {
            assert!(staging_elements(size) <= STAGING.max((SLOTS * size) << 10), "{size} ranks");
        }
    }
}
