//! What a run needs of memory, held against what there is before any is taken; and the largest micro-batch that fits.
//!
//! ```text
//! a processor's     available on a node / its ranks  >=  what the plan counts for a rank        launch/memory.rs, count.rs
//! a GPU's           free on it / its ranks           >=  the same, and what cuDNN's attention may take          gpu.rs
//! ```
use crate::bad_input;
use crate::commands::{count, gpu, say};
use crate::config::Run;
use crate::error::Result;
use crate::launch::{self, Launch};
use crate::metrics::units::bytes;
use crate::model::Recompute;

/// Of the memory that is there, what a rank may count on: the rest is for whatever else the node or the GPU holds.
pub const SHARE: f64 = 0.9;

/// Whose memory it is.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// A processor's, where so many ranks read each other's memory and each has so many threads.
    Node { near: usize, threads: usize },
    /// That of a GPU which has so many bytes in all.
    Gpu { bytes: u64 },
}

/// The table of memory: what a rank needs, kind by kind.
pub fn rows(run: &Run, ranks: usize, of: Of) -> Vec<(&'static str, u64)> {
    match of {
        Of::Node { near, threads } => {
            let (plan, model, ..) = count::lay_out(run, 0, ranks);
            count::memory_rows(&plan, &model, ranks, near, threads)
        }
        Of::Gpu { bytes } => {
            let (plan, model, ..) = count::lay_out_on_gpu(run, 0, ranks);
            gpu::rows(run, &plan, &model, ranks, gpu::expected_workspace(run, &model, bytes))
        }
    }
}

/// The largest micro-batch whose memory, all rows of the table together, is at most `room` bytes a rank; not more than a step has
/// for a rank where the global batch is given.
///
/// Errors: not even one sequence fits.
pub fn largest_micro_batch(run: &Run, ranks: usize, of: Of, room: u64) -> Result<usize> {
    let needs = |micro_batch: usize| {
        let mut tried = run.clone();
        tried.batch.micro_batch = micro_batch;
        rows(&tried, ranks, of).iter().map(|(_, bytes)| bytes).sum::<u64>()
    };
    if needs(1) > room {
        let (needed, found) = (bytes(needs(1)), bytes(room));
        let (name, lighter) = (run.settings.named("batch.micro_batch"), lighter(run));
        bad_input!("{name}: expected {needed} a rank for one sequence, found {found}; {lighter} take less");
    }
    let most = run.batch.global_batch.map_or(1 << 20, |batch| batch.div_ceil(ranks));
    let (mut yes, mut no) = (1, 2);
    while no <= most && needs(no) <= room {
        (yes, no) = (no, 2 * no);
    }
    let mut no = no.min(most + 1);
    while no - yes > 1 {
        let middle = usize::midpoint(yes, no);
        if needs(middle) <= room { yes = middle } else { no = middle }
    }
    Ok(yes)
}

/// `--micro-batch max`: the largest that fits every node, or every GPU.
///
/// Errors, on all ranks: `Input`: not even one sequence does, or a GPU is asked for and not there.
pub fn settle_micro_batch(run: &mut Run, launch: &Launch) -> Result<()> {
    let near = if run.system.shared_sums { launch.local_size } else { 1 };
    let (of, share) = match gpu::room(run, launch)? {
        Some((free, bytes)) => (Of::Gpu { bytes }, free),
        None => (Of::Node { near, threads: launch.threads }, share(launch)),
    };
    let least = |mine: f64| launch.comm().exchange(&[mine]).concat().into_iter().fold(f64::INFINITY, f64::min);
    let room = least(SHARE * share) as u64;
    let found = least(launch.agree(largest_micro_batch(run, launch.size(), of, room))? as f64) as usize;
    if launch.leads() {
        say(format_args!("micro-batch {found}: the largest that fits {} a rank", bytes(room)));
    }
    run.settle(found);
    Ok(())
}

/// Whether a processor's memory is enough for these rows of the table. Everyone looks before anyone takes.
///
/// Errors, on all ranks: `Input`, naming a node that has less than its ranks need, and the micro-batch that would fit.
pub fn check(run: &Run, launch: &Launch, rows: &[(&str, u64)]) -> Result<()> {
    let needed: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let all = launch.comm().exchange(&[needed as f64, share(launch)]);
    let Some(rank) = all.iter().position(|rank| rank[1] < rank[0]) else { return Ok(()) };
    let least = all.iter().map(|rank| rank[1]).fold(f64::INFINITY, f64::min) as u64;
    let of = Of::Node { near: 1, threads: launch.threads };
    let instead = match largest_micro_batch(run, launch.size(), of, least) {
        Ok(n) => format!("--micro-batch {n} would fit"),
        Err(_) => format!("not even --micro-batch 1 would fit, but {} take less", lighter(run)),
    };
    let [expected, found] = [all[rank][0], all[rank][1]].map(|n| bytes(n as u64));
    bad_input!("{}: expected {expected} of free memory for each rank, found {found}; {instead}", launch.ranks[rank].host)
}

/// What would take less memory, of what is not chosen yet.
fn lighter(run: &Run) -> String {
    let block = if run.system.recompute == Recompute::Block { "" } else { "--recompute block, " };
    let zero = if run.system.zero > 0 { "" } else { "--zero 1, " };
    format!("{block}{zero}fewer ranks a node and a smaller model")
}

/// Bytes of what this node has available that a rank may have; all there are where the system does not tell.
fn share(launch: &Launch) -> f64 {
    launch::memory::available().map_or(f64::MAX, |bytes| bytes as f64 / launch.local_size as f64)
}
