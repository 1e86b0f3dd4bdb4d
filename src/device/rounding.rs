//! Stochastic rounding of weights to bf16, working copies or the weights themselves: which random bits a weight gets.
//!
//! ```text
//! bits of a weight = hash(draw, place)       draw = hash(seed, step)       place = (group, position in the group)
//! ```
//! Groups are padded for the number of ranks, so the same weight lies elsewhere with each; its place does not change. A copy can therefore
//! be made again from the f32 (after a resume, or where a message brought f32) with the bits that the update gave it, and weights that are
//! bf16 alone are the same with any number of ranks. What comes of the bits is `ops/adamw`'s.
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Rounding {
    seed: u64,
    /// Where each group of weights begins.
    groups: Vec<usize>,
    /// Updates so far.
    steps: AtomicU64,
}

/// Bits of a place that are the position's.
const POSITION: u32 = 40;

impl Rounding {
    /// `groups`: of the weights, in order, from element 0 on.
    pub fn new<'a>(seed: u64, groups: impl Iterator<Item = &'a Range<usize>>) -> Rounding {
        let groups: Vec<usize> = groups.map(|g| g.start).collect();
        assert!(groups.first() == Some(&0) && groups.is_sorted(), "groups begin at {groups:?}");
        Rounding { seed, groups, steps: AtomicU64::new(0) }
    }

    pub(super) fn begin_after(&self, steps: u64) {
        self.steps.store(steps, Ordering::Relaxed);
    }

    fn group(&self, at: usize) -> usize {
        self.groups.partition_point(|start| *start <= at) - 1
    }
    pub fn place(&self, at: usize) -> u64 {
        let group = self.group(at);
        let position = (at - self.groups[group]) as u64;
        assert!(position >> POSITION == 0, "element {position} of a group");
        (group as u64) << POSITION | position
    }
    /// Where the group of this element ends.
    pub(super) fn end_of_group(&self, at: usize) -> usize {
        self.groups.get(self.group(at) + 1).copied().unwrap_or(usize::MAX)
    }
    /// The last update's bits; `None` before the first, whose weights are rounded to nearest.
    pub(super) fn draw(&self) -> Option<u32> {
        let steps = self.steps.load(Ordering::Relaxed);
        (steps > 0).then(|| self.draw_of(steps))
    }
    /// The bits of update `step`, from 1.
    pub fn draw_of(&self, step: u64) -> u32 {
        (mixed(mixed(self.seed).wrapping_add(step)) >> 32) as u32
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn a_place_knows_no_padding() {
        let (one, four) = (Rounding::new(1, [0..70, 70..90].iter()), Rounding::new(1, [0..128, 128..192].iter()));
        for (a, b) in [(0, 0), (69, 69), (70, 128), (89, 147)] {
            assert_eq!(one.place(a), four.place(b), "{a} {b}");
        }
        assert_ne!(one.place(69), one.place(70));
        assert_eq!([one.end_of_group(3), one.end_of_group(70)], [70, usize::MAX]);
    }

    #[test]
    fn draws_follow_from_seed_and_step() {
        let draw = |seed, steps| {
            let r = Rounding::new(seed, std::iter::once(&(0..8)));
            r.begin_after(steps);
            r.draw()
        };
        assert_eq!(draw(1, 0), None);
        assert_eq!(draw(1, 5), draw(1, 5));
        let all: std::collections::BTreeSet<_> = (0..8).flat_map(|s| (1..9).map(move |t| draw(s, t))).collect();
        assert_eq!(all.len(), 64);
    }
}
