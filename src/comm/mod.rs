//! Between ranks: sums and copies of host memory, and small words.
//!
//! | | |
//! |---|---|
//! | [`Solo`] | a world of one: nothing to send |
//! | [`Mpi`] | one communication thread a rank makes every MPI call |
//! | [`Network`] | NCCL sums what lies on GPUs, MPI carries the words |
//!
//! Sums across ranks are ours, in rank order, so that every way of sharding adds the same numbers in the same order;
//! MPI only carries them. A range in flight is a [`Loan`](crate::device::Loan): the gate refuses ops that touch it until
//! its [`Ticket`] has been waited for. Where ranks share a node and their arenas' fronts lie in memory that they share
//! ([`Collective::share`]), nothing is carried: each reads the others' where it is.
mod bulk;
pub mod fault;
mod mpi;
mod nccl;
mod node;
mod reduce;
mod solo;
mod wire;
pub use mpi::Mpi;
pub use nccl::{Beside, Network};
pub use reduce::staging_elements;
pub use solo::Solo;
pub use wire::{finalize, init, library};

use crate::device::{Loan, Memory, range};
use crate::error::Result;
use crate::failed;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// What the ranks do together. Every rank makes the same calls in the same order, from one thread at a time. Sums and
/// gathers of tensors return at once; words wait for the others.
pub trait Collective: Send + Sync {
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// Whether tensors need not go anywhere.
    fn alone(&self) -> bool {
        self.size() == 1
    }
    /// Sums the ranks' copies, each rank its own block of `len / size` elements; the rest of the loan is left as it was.
    fn reduce_scatter(&self, loan: Loan) -> Ticket;
    /// [`Collective::reduce_scatter`], then [`Collective::all_gather`] of the sums.
    fn all_reduce(&self, loan: Loan) -> Ticket;
    /// The next tensor belongs to this group, or to the step's numbers: for messages of what goes wrong.
    fn about(&self, _group: Option<usize>) {}
    /// Whether numbers on GPUs may travel in bf16.
    fn takes_bf16(&self) -> bool {
        false
    }
    /// Fills the loan with every rank's own block of it.
    fn all_gather(&self, loan: Loan) -> Ticket;
    /// Everyone's few numbers, in rank order. All give equally many.
    fn exchange(&self, mine: &[f64]) -> Vec<Vec<f64>>;
    /// Everyone's bytes, in rank order, of any length.
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>>;
    /// Rank `root`'s bytes, of any length; what the others give is not looked at.
    fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Vec<u8>;
    fn barrier(&self);
    /// How long tensors were under way so far, whoever waited for them or not.
    fn busy(&self) -> Duration;
    /// Memory of `elements` f32 that the other ranks of this node can read: loans of it go without messages among them. Every
    /// rank calls this, and drops the memory at the same place in its program. A rank has one at a time.
    ///
    /// Errors: why there is none; everything then goes by message.
    fn share(&self, _elements: usize) -> Result<Memory> {
        failed!("there is no other rank on this node")
    }
    /// Bytes of others' memory that this rank has looked at. The system counts them among its own.
    fn views(&self) -> Arc<AtomicU64> {
        Arc::default()
    }
}

/// A collective under way. Dropping it waits as well: the loan must be back before its arena can go.
pub struct Ticket {
    done: Option<Receiver<Loan>>,
    /// What a GPU works on by itself: the loan's end puts the wait into its stream.
    _held: Option<Loan>,
}

impl Ticket {
    /// Of what is over already, as everything is in a world of one.
    pub fn at_once() -> Ticket {
        Ticket { done: None, _held: None }
    }
    /// Of what hands the loan back through this channel when it is over.
    pub fn under_way(done: Receiver<Loan>) -> Ticket {
        Ticket { done: Some(done), _held: None }
    }
    /// Of what a GPU does by itself.
    pub fn holding(loan: Loan) -> Ticket {
        Ticket { done: None, _held: Some(loan) }
    }
    /// Waits until the range is complete and hands it back to the device.
    pub fn wait(self) {}
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let _range = range(|| "communication: waiting for a tensor".into());
            drop(fault::patiently(&done));
        }
    }
}

/// Elements of rank `rank`'s block of a range of `len`. Panics unless `size` divides `len`: groups are padded so.
pub fn block(len: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
    assert!(len.is_multiple_of(size), "a range of {len} elements is not divisible by {size} ranks");
    let each = len / size;
    rank * each..(rank + 1) * each
}
