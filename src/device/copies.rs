//! Weights that lie in bf16 beside f32, and which of these copies are out of date.
//!
//! ```text
//! an op or a loan writes f32 alone        its copy is stale: made again before a product reads it
//! an op writes f32 and its copy           the copy is fresh
//! ```
use crate::tensor::{Copied, Tensor};
use std::ops::Range;
use std::sync::Mutex;

pub struct Copies {
    copied: Copied,
    /// Elements whose copies are stale: even bounds, since two numbers share an element, and no element twice.
    stale: Mutex<Vec<Range<usize>>>,
}

impl Copies {
    /// Of memory in which all is zero.
    pub fn new(copied: Copied) -> Copies {
        Copies { copied, stale: Mutex::default() }
    }

    /// Where the copy of `t` lies, if all of it is copied.
    pub fn of(&self, t: Tensor) -> Option<Tensor> {
        self.copied.of(t)
    }

    /// `outs` are about to be written, together.
    pub fn written(&self, outs: &[Tensor]) {
        let all = self.copied.range();
        for t in outs.iter().filter(|t| t.at < all.end && all.start < t.end()) {
            let mut stale = self.stale.lock().expect("stale copies");
            if self.of(*t).is_some_and(|copy| outs.contains(&copy)) {
                remove(&mut stale, t.at.next_multiple_of(2)..t.end() / 2 * 2);
            } else {
                let wide = (t.at.max(all.start) / 2 * 2)..t.end().min(all.end).next_multiple_of(2);
                remove(&mut stale, wide.clone());
                stale.push(wide);
            }
        }
    }

    /// A part of `t` whose copy is stale. The caller makes it again: it counts as fresh from now on.
    pub fn take_stale(&self, t: Tensor) -> Option<Tensor> {
        let mut stale = self.stale.lock().expect("stale copies");
        let wide = (t.at / 2 * 2)..t.end().next_multiple_of(2);
        let first = stale.iter().find(|s| s.start < wide.end && wide.start < s.end)?;
        let part = first.start.max(wide.start)..first.end.min(wide.end);
        remove(&mut stale, part.clone());
        Some(Tensor::range(part.start, part.end))
    }
}

/// Takes `range` out of ranges of which no two meet.
fn remove(list: &mut Vec<Range<usize>>, range: Range<usize>) {
    let mut behind = None;
    list.retain_mut(|s| {
        if s.end <= range.start || range.end <= s.start {
            return true;
        }
        if range.end < s.end {
            if s.start < range.start {
                behind = Some(range.end..s.end);
            } else {
                s.start = range.end;
                return true;
            }
        }
        s.end = range.start;
        s.start < s.end
    });
    list.extend(behind);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Kind, Plan};

    #[test]
    fn what_is_taken_out_leaves_the_rest() {
        for from in 0..10 {
            for end in from + 1..=10 {
                let mut list = vec![0..2, 4..8, 8..9];
                remove(&mut list, from..end);
                let left: Vec<usize> = (0..10).filter(|i| list.iter().any(|r| r.contains(i))).collect();
                let expected: Vec<usize> = [0, 1, 4, 5, 6, 7, 8].into_iter().filter(|i| !(from..end).contains(i)).collect();
                assert_eq!(left, expected, "without {from}..{end}");
                assert!(list.iter().all(|r| !r.is_empty()));
            }
        }
    }

    /// Against a flag a number.
    #[test]
    fn a_copy_is_stale_until_it_is_made_again_or_written_along() {
        let mut plan = Plan::with_halves(true);
        plan.matrix(Kind::Workspace, 1, 64);
        let w = plan.matrix(Kind::Parameters, 1, 64);
        plan.copy(Kind::Parameters, w.at..w.end());
        let copies = Copies::new(plan.copied().unwrap().clone());
        let (mut stale, mut state, mut seen) = ([false; 64], 1u32, [0; 3]);
        for _ in 0..3000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [a, b] = [state >> 8, state >> 16].map(|x| (x % 64) as usize);
            let (first, end) = (a.min(b), a.max(b) + 1);
            let t = Tensor::range(w.at + first, w.at + end);
            match state >> 30 {
                0 => {
                    copies.written(&[t]);
                    stale[first..end].fill(true);
                    seen[0] += 1;
                }
                1 => {
                    let copy = copies.of(t);
                    copies.written(&[copy.unwrap_or(Tensor::range(0, 1)), t]);
                    stale[first..end].fill(copy.is_none());
                    seen[1] += 1;
                }
                _ => {
                    while let Some(part) = copies.take_stale(t) {
                        assert!(copies.of(part).is_some_and(|copy| copy.half && copy.len() == part.len()));
                        stale[part.at - w.at..part.end() - w.at].fill(false);
                        seen[2] += 1;
                    }
                    assert!(!stale[first..end].contains(&true), "{first}..{end} was not made again");
                }
            }
        }
        assert!(seen.iter().all(|n| *n > 100), "{seen:?}");
    }
}
