//! Whether a run fits the memory of its nodes, asked before any is taken. Of a GPU's: `gpu.rs`.
//!
//! ```text
//! available on a node / its ranks  >=  what the plan counts for a rank        launch/memory.rs, commands/plan.rs
//! ```
use crate::bad_input;
use crate::commands::{plan, say};
use crate::config::{DeviceKind, Run};
use crate::error::Result;
use crate::launch::{self, Launch};
use crate::metrics::units::bytes;

/// `--micro-batch max`: the largest micro-batch that fits every node.
///
/// Errors: `Input`: not even one sequence does, or it is asked for on GPUs.
pub fn settle_micro_batch(run: &mut Run, launch: &Launch) -> Result<()> {
    if run.system.device != DeviceKind::Cpu && crate::device::cuda::count().is_ok_and(|n| n > 0) {
        let name = run.settings.named("batch.micro_batch");
        bad_input!("{name}: expected a number on GPUs, whose message of what does not fit tells the largest, found max");
    }
    let near = if run.system.shared_sums { launch.local_size } else { 1 };
    let each: Vec<f64> = launch.comm().exchange(&[plan::SHARE * share(launch)]).concat();
    let least = each.into_iter().fold(f64::INFINITY, f64::min) as u64;
    let found = launch.agree(plan::largest_micro_batch(run, launch.size(), near, launch.threads, least))?;
    let found = launch.comm().exchange(&[found as f64]).iter().map(|n| n[0]).fold(f64::INFINITY, f64::min) as usize;
    if launch.leads() {
        say(format_args!("micro-batch {found}: the largest that fits {} a rank", bytes(least)));
    }
    run.settle(found);
    Ok(())
}

/// Everyone looks before anyone takes. `near` of the ranks read each other's memory; `rows`: the table of memory.
///
/// Errors, on all ranks: `Input`, naming a node that has less than its ranks need, and the micro-batch that would fit.
pub fn check(run: &Run, launch: &Launch, near: usize, rows: &[(&str, u64)]) -> Result<()> {
    let needed: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let all = launch.comm().exchange(&[needed as f64, share(launch)]);
    let Some(rank) = all.iter().position(|rank| rank[1] < rank[0]) else { return Ok(()) };
    let least = all.iter().map(|rank| rank[1]).fold(f64::INFINITY, f64::min) as u64;
    let instead = match plan::largest_micro_batch(run, launch.size(), near, launch.threads, least) {
        Ok(n) => format!("--micro-batch {n} would fit"),
        Err(_) => "not even --micro-batch 1 would fit, but --recompute block, --zero 1 and more nodes take less".into(),
    };
    let [expected, found] = [all[rank][0], all[rank][1]].map(|n| bytes(n as u64));
    bad_input!("{}: expected {expected} of free memory for each rank, found {found}; {instead}", launch.ranks[rank].host)
}

/// Bytes of what this node has available that a rank may have; all there are where the system does not tell.
fn share(launch: &Launch) -> f64 {
    launch::memory::available().map_or(f64::MAX, |bytes| bytes as f64 / launch.local_size as f64)
}
