//! The arithmetic of a reduction: adding pieces in rank order, chunk by chunk.
//!
//! ```text
//! block of rank r, chunk by chunk:   x ← ((x₀ + x₁) + x₂) + …      xᵣ its own copy; the others' from staging, or where they are
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

/// Elements of staging that a rank of `size` holds: [`SLOTS`] chunks from every rank that is not one of the `near` ones, itself
/// among them, whose memory it reads.
pub fn staging_elements(size: usize, near: usize) -> usize {
    SLOTS * (size - near) * chunk(size)
}

/// Measured: a running sum that stays in the first-level cache while the pieces pass by.
const TILE: usize = 1 << 11;

/// Adds `pieces` (from the other ranks, in rank order) and `own` into `own`, in rank order.
pub(super) fn add_in_rank_order(own: &mut [f32], rank: usize, pieces: &[&[f32]]) {
    let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
    let (before, after) = pieces.split_at(rank);
    let mut sum = [0.0; TILE];
    for (start, own) in (0..).step_by(TILE).zip(own.chunks_mut(TILE)) {
        let tile = start..start + own.len();
        if let Some((first, rest)) = before.split_first() {
            let sum = &mut sum[..own.len()];
            sum.copy_from_slice(&first[tile.clone()]);
            rest.iter().for_each(|piece| add(sum, &piece[tile.clone()]));
            // x + y = y + x exactly, so the running sum may be added to `own`.
            add(own, sum);
        }
        after.iter().for_each(|piece| add(own, &piece[tile.clone()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_ranks() {
        const LEN: usize = TILE + 3;
        let values = [[1e8f32, 1.0], [1.0, -1e8], [-1e8, 3.0], [0.5, 1e8]];
        let copies = values.map(|v| (0..LEN).map(|i| v[i % 2]).collect::<Vec<f32>>());
        let serial = |i: usize| ((copies[0][i] + copies[1][i]) + copies[2][i]) + copies[3][i];
        for rank in 0..4 {
            let mut own = copies[rank].clone();
            let pieces: Vec<&[f32]> = (0..4).filter(|r| *r != rank).map(|r| copies[r].as_slice()).collect();
            add_in_rank_order(&mut own, rank, &pieces);
            assert_eq!(own, (0..LEN).map(serial).collect::<Vec<_>>(), "rank {rank}");
        }
    }

    #[test]
    fn staging_is_bounded() {
        for size in [1, 2, 3, 4, 100, 1000, 4096] {
            assert!(staging_elements(size, 1) <= STAGING.max((SLOTS * size) << 10), "{size} ranks");
            assert_eq!(staging_elements(size, size), 0);
        }
    }
}
