//! Rows of tokens for one pass, and which samples of a global batch they are.
//!
//! ```text
//! global batch of G samples, R ranks, m rows a pass:   S = ⌈G / (R m)⌉ passes a step
//! row j of pass s on rank r is sample  c = s·R·m + r·m + j  of the batch;  c ≥ G: a masked row, whose targets count nowhere
//! ```
//! The samples of a step depend on G alone; ranks and rows only divide them.

/// One pass's rows on one rank: B rows of T places each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// (B, T) inputs.
    pub tokens: Vec<u32>,
    /// (B, T) each the token after its input; [`crate::ops::MASKED`] throughout a row that only pads the global batch.
    pub targets: Vec<u32>,
    /// (B, T) the place in its row at which the document of each place begins: attention reaches no further back.
    /// `None` where attention may cross documents.
    pub starts: Option<Vec<u32>>,
    /// (B, T) position of each place, counted from the start of its document. `None`: counted from the start of the row.
    pub positions: Option<Vec<u32>>,
}

impl Batch {
    /// Targets that count.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&t| t != crate::ops::MASKED).count()
    }
}

/// One rank's share of each global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub rank: usize,
    pub ranks: usize,
    /// Rows of one pass on one rank: m.
    pub micro_batch: usize,
    /// Samples of one optimizer step over all ranks: G.
    pub global_batch: usize,
}

impl Share {
    /// Passes a step: S.
    pub fn micro_steps(&self) -> usize {
        self.global_batch.div_ceil(self.ranks * self.micro_batch)
    }
    /// The place in the global batch of row `row` of pass `micro`; `None` for a row that only pads.
    pub fn sample(&self, micro: usize, row: usize) -> Option<u64> {
        let at = micro * self.ranks * self.micro_batch + self.rank * self.micro_batch + row;
        (at < self.global_batch).then_some(at as u64)
    }
    /// Targets of the whole global batch, by which loss and gradients are divided: G·T. Targets across documents count, so
    /// that no rank need read another's data to know it.
    pub fn targets(&self, seq: usize) -> u64 {
        self.global_batch as u64 * seq as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_stands_once_whatever_the_layout() {
        for (ranks, micro_batch, global_batch) in [(1, 1, 1), (1, 4, 10), (3, 1, 10), (4, 3, 10), (7, 2, 5), (2, 8, 16)] {
            let mut seen = vec![0; global_batch];
            for rank in 0..ranks {
                let share = Share { rank, ranks, micro_batch, global_batch };
                for micro in 0..share.micro_steps() {
                    (0..micro_batch).filter_map(|row| share.sample(micro, row)).for_each(|c| seen[c as usize] += 1);
                }
                assert!((share.micro_steps() - 1) * ranks * micro_batch < global_batch, "no pass is all padding");
            }
            assert!(seen.iter().all(|&n| n == 1), "{ranks} {micro_batch} {global_batch}");
        }
    }
}
