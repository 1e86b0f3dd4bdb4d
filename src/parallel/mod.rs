//! Data parallelism: the model announces, this module listens.
//!
//! ```text
//! ready(group)    in the last micro-batch: start the reduction; the backward goes on
//! settle          wait for what is still under way; one exchange brings loss, gradient norm and the word to stop. A GPU's go
//!                 from device to device, and the host hears of them a step later (`settled`)
//! publish         ZeRO-1: start gathering the updated weights; need(group) of the next forward waits for its own. Between GPUs that
//!                 compute in bf16 these are the working copies; the f32 of a checkpoint are gathered when one is due (`complete`)
//! ```
//! Where a step's time goes is noted on the way, on the device's own clock (`clock.rs`).
//!
//! | stage | gradients | this rank updates | then |
//! |---|---|---|---|
//! | [`Stage::Replicate`] (DDP) | reduced in blocks, gathered | everything | nothing |
//! | [`Stage::Optimizer`] (ZeRO-1) | reduced in blocks | its block of each group | weights are gathered |
//!
//! Both add the same numbers in the same order (rank order), so that their weights agree to the last bit. The norm is taken
//! from f64 sums over the ranks' own blocks, in rank order, in both.
mod clock;
pub use clock::{Clock, Part};

use crate::comm::{Collective, Ticket, block};
use crate::device::cuda::Coming;
use crate::device::{Access, Device, Stamp};
use crate::model::{Group, Pass, Schedule};
use crate::ops::elementwise;
use crate::ops::gemm::Into;
use crate::ops::verdict::{self, Verdict};
use crate::tensor::Tensor;
use clock::Moments;
use std::collections::VecDeque;

/// What is divided among the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// DDP: nothing. ZeRO stage 0.
    Replicate,
    /// Adam's moments. ZeRO stage 1 (Rajbhandari et al., 2020).
    Optimizer,
}

/// Of each group, what `rank` of `size` updates.
pub fn owned(groups: &[Group], stage: Stage, rank: usize, size: usize) -> Vec<Group> {
    match stage {
        Stage::Replicate => groups.to_vec(),
        Stage::Optimizer => groups.iter().map(|g| own_block(g, rank, size)).collect(),
    }
}

/// The group narrowed to the block of `rank`.
fn own_block(g: &Group, rank: usize, size: usize) -> Group {
    let own = block(g.weights.len(), rank, size);
    let within = |start: usize| start + own.start..start + own.end;
    Group {
        weights: within(g.weights.start),
        grads: within(g.grads.start),
        decayed: g.decayed.clamp(own.start, own.end) - own.start,
    }
}

/// Gives every rank rank 0's numbers in `range`: what one rank has read from a file, the others need not read.
pub fn spread(dev: &Device, comm: &dyn Collective, range: Tensor) {
    if comm.size() == 1 {
        return;
    }
    for start in (range.at..range.end()).step_by(PIECE) {
        let piece = Tensor::range(start, range.end().min(start + PIECE));
        let mine = if comm.rank() == 0 { dev.read(piece) } else { vec![] };
        let bytes = comm.broadcast(mine.iter().flat_map(|x| x.to_le_bytes()).collect(), 0);
        if comm.rank() != 0 {
            let (numbers, _) = bytes.as_chunks::<4>();
            dev.write(piece, &numbers.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>());
        }
    }
}

/// Elements that [`spread`] sends at once: 4 MiB, as much as a checkpoint is written in.
const PIECE: usize = 1 << 20;

/// The messages of a run, and who waits for which.
pub struct Parallel<'a> {
    dev: &'a Device,
    comm: &'a dyn Collective,
    groups: Vec<Group>,
    stage: Stage,
    reducing: Vec<Option<Ticket>>,
    gathering: Vec<Option<Ticket>>,
    /// Others' weights are here as working copies alone: in f32 they are those of an earlier step.
    copies_only: bool,
    settling: VecDeque<(Settling, Moments)>,
    /// The numbers of the step at hand, once there are some.
    settled: Option<Settling>,
    moments: Moments,
    /// The end of the last step that was told of, where the next one followed at once.
    ended: Option<Stamp>,
}

/// What all ranks know, or will.
enum Settling {
    Known(Settled),
    Coming(Coming),
}

/// What all ranks know after a step's gradients have met.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Σ of the loss over the global batch's targets.
    pub loss: f64,
    /// Global L2 norm of the gradient.
    pub norm: f64,
    /// The largest word that any rank gave.
    pub word: f64,
    /// Σ of what the ranks gave beside it.
    pub also: f64,
    /// The first rank whose own loss is not finite, or else whose block of the gradient is not.
    pub not_finite: Option<usize>,
    /// Where the step's time went, on this rank.
    pub clock: Clock,
}

impl Settled {
    /// From all ranks' numbers, in rank order.
    fn of(all: &[impl AsRef<[f64]>]) -> Settled {
        let sum = |k: usize| all.iter().map(|numbers| numbers.as_ref()[k]).sum::<f64>();
        Settled {
            loss: sum(0),
            norm: sum(1).sqrt(),
            word: all.iter().map(|numbers| numbers.as_ref()[2]).fold(f64::MIN, f64::max),
            also: sum(3),
            // A loss says whose batch it was; a gradient's block, summed over all, only who owns it.
            not_finite: [0, 1].iter().find_map(|k| all.iter().position(|numbers| !numbers.as_ref()[*k].is_finite())),
            clock: Clock::default(),
        }
    }
}

impl<'a> Parallel<'a> {
    pub fn new(dev: &'a Device, comm: &'a dyn Collective, groups: &[Group], stage: Stage) -> Parallel<'a> {
        let none = || groups.iter().map(|_| None).collect();
        Parallel {
            dev,
            comm,
            groups: groups.to_vec(),
            stage,
            reducing: none(),
            gathering: none(),
            copies_only: false,
            settling: VecDeque::new(),
            settled: None,
            moments: Moments::default(),
            ended: None,
        }
    }

    /// A step begins: its time runs.
    pub fn begin(&mut self) {
        self.moments.began = Some(self.dev.stamp());
    }
    /// What `f` takes is time of this part.
    pub fn time<R>(&mut self, part: Part, f: impl FnOnce() -> R) -> R {
        let from = self.dev.stamp();
        let r = f();
        self.moments.add(part, from, self.dev.stamp());
        r
    }
    /// And ends: all of its work has been sent, and [`Parallel::settled`] will tell of it.
    pub fn end(&mut self) {
        self.moments.ended = Some(self.dev.stamp());
        let settled = self.settled.take().expect("a step is settled before it ends");
        self.settling.push_back((settled, std::mem::take(&mut self.moments)));
    }

    /// Listens to one micro-batch of a step.
    pub fn listen(&mut self, first: bool, last: bool) -> Listener<'_, 'a> {
        let began = self.dev.stamp();
        self.moments.within = Some(Part::Forward);
        Listener { on: self, first, last, began, opened: None }
    }

    /// Waits for the reductions and brings the ranks' sums together. `loss`: this rank's Σ, as far as the host has it; `word`:
    /// what it wants others to know, for example that it was asked to stop; `also`: a number to be summed on the way; `limit`: of
    /// the gradient's norm. What comes of it all is [`Parallel::settled`]'s to tell.
    pub fn settle(&mut self, loss: f64, word: f64, also: f64, limit: Option<f64>) -> Verdict {
        if self.reducing.iter().any(Option::is_some) {
            let from = self.dev.stamp();
            self.reducing.iter_mut().filter_map(Option::take).for_each(Ticket::wait);
            self.moments.add(Part::Exposed, from, self.dev.stamp_after_messages());
        }
        let (rank, size) = (self.comm.rank(), self.comm.size());
        let own = self.groups.iter().map(|g| own_block(g, rank, size).grads);
        let squares: f64 = own.map(|g| elementwise::square_sum(self.dev, Tensor::range(g.start, g.end))).sum();
        let mine = [loss, squares, word, also];
        if verdict::post(self.dev, rank, mine) {
            if size > 1 {
                let from = self.dev.stamp();
                self.comm.about(None);
                self.comm.all_gather(verdict::lend(self.dev)).wait();
                self.moments.add(Part::Exposed, from, self.dev.stamp_after_messages());
            }
            self.settled = Some(Settling::Coming(verdict::judge(self.dev, limit)));
            return Verdict::OnDevice;
        }
        let from = self.dev.stamp();
        let all = self.comm.exchange(&mine);
        self.moments.add(Part::Exposed, from, self.dev.stamp());
        let settled = Settled::of(&all);
        self.settled = Some(Settling::Known(settled.clone()));
        Verdict::of(settled.loss, settled.norm, limit)
    }

    /// What became of the oldest step that has not been told of yet; `None` where that is still to come. `all`: waits even for
    /// the last step, on which a GPU may still be at work.
    pub fn settled(&mut self, all: bool) -> Option<Settled> {
        if !all && self.settling.len() <= self.lag() as usize {
            return None;
        }
        let (numbers, moments) = self.settling.pop_front()?;
        // The end lies behind the numbers: one wait is for both.
        let ended = moments.ended.clone().expect("a step that has ended");
        ended.wait();
        let clock = moments.read(self.ended.take().as_ref());
        // Where the host has caught up, what it does before the next step begins is no step's time.
        self.ended = (!self.settling.is_empty()).then_some(ended);
        let settled = match numbers {
            Settling::Known(settled) => settled,
            Settling::Coming(numbers) => Settled::of(&numbers.wait()),
        };
        Some(Settled { clock, ..settled })
    }

    /// Steps by which [`Parallel::settled`] is behind.
    pub fn lag(&self) -> u32 {
        verdict::lag(self.dev)
    }

    /// Sends the updated weights on their way: their working copies in bf16, where these are what is computed with and may travel. Weights
    /// that are bf16 alone are copied, as they are or as words of two numbers.
    pub fn publish(&mut self) {
        if self.stage == Stage::Optimizer && !self.comm.alone() {
            for (i, (g, ticket)) in self.groups.iter().zip(&mut self.gathering).enumerate() {
                self.comm.about(Some(i));
                let weights = Tensor::range(g.weights.start, g.weights.end);
                let copies = if self.comm.takes_bf16() { self.dev.lend_copies(weights) } else { None };
                self.copies_only |= copies.is_some() && !self.dev.weights_in_bf16();
                let loan = copies.unwrap_or_else(|| self.dev.lend(weights, Access::Write));
                *ticket = Some(self.comm.all_gather(loan));
            }
        }
    }

    /// Waits until every weight that is computed with is there: before an evaluation.
    pub fn finish(&mut self) {
        self.gathering.iter_mut().filter_map(Option::take).for_each(Ticket::wait);
    }

    /// Waits until every weight is whole on this rank, in f32: before a checkpoint.
    pub fn complete(&mut self) {
        self.finish();
        if std::mem::take(&mut self.copies_only) {
            for (i, (g, ticket)) in self.groups.iter().zip(&mut self.gathering).enumerate() {
                self.comm.about(Some(i));
                let loan = self.dev.lend_masters(Tensor::range(g.weights.start, g.weights.end));
                *ticket = Some(self.comm.all_gather(loan));
            }
            self.finish();
        }
    }

    fn arrive(&mut self, group: usize) {
        if let Some(ticket) = self.gathering[group].take() {
            let from = self.dev.stamp();
            ticket.wait();
            self.moments.add(Part::Exposed, from, self.dev.stamp_after_messages());
        }
    }
}

/// One micro-batch's ear.
pub struct Listener<'p, 'a> {
    on: &'p mut Parallel<'a>,
    first: bool,
    last: bool,
    began: Stamp,
    /// When the first gradients were opened: the forward's end.
    opened: Option<Stamp>,
}

impl Schedule for Listener<'_, '_> {
    fn need(&mut self, group: usize, _: Pass) {
        self.on.arrive(group);
    }
    fn open(&mut self, _group: usize) -> Into {
        if self.opened.is_none() {
            self.opened = Some(self.on.dev.stamp());
            self.on.moments.within = Some(Part::Backward);
        }
        if self.first { Into::Overwrite } else { Into::Add }
    }
    fn ready(&mut self, group: usize) {
        if self.last && !self.on.comm.alone() {
            let grads = self.on.groups[group].grads.clone();
            let loan = self.on.dev.lend_to_sum(Tensor::range(grads.start, grads.end));
            self.on.comm.about(Some(group));
            self.on.reducing[group] = Some(match self.on.stage {
                Stage::Replicate => self.on.comm.all_reduce(loan),
                Stage::Optimizer => self.on.comm.reduce_scatter(loan),
            });
        }
    }
}

impl Drop for Listener<'_, '_> {
    fn drop(&mut self) {
        self.on.moments.within = None;
        if std::thread::panicking() {
            return; // the device may be what fails
        }
        let ended = self.on.dev.stamp();
        let opened = self.opened.take().unwrap_or_else(|| ended.clone());
        self.on.moments.add(Part::Forward, self.began.clone(), opened.clone());
        self.on.moments.add(Part::Backward, opened, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_a_group_and_know_their_matrices() {
        let g = Group { weights: 100..112, grads: 200..212, decayed: 7 };
        let parts: Vec<Group> = (0..3).map(|r| own_block(&g, r, 3)).collect();
        assert_eq!(parts.iter().map(|p| p.weights.clone()).collect::<Vec<_>>(), [100..104, 104..108, 108..112]);
        assert_eq!(parts.iter().map(|p| p.grads.clone()).collect::<Vec<_>>(), [200..204, 204..208, 208..212]);
        assert_eq!(parts.iter().map(|p| p.decayed).collect::<Vec<_>>(), [4, 3, 0]);
    }
}
