//! All that a rank of a run holds, given its place and counted: no MPI, no data, no device.
//!
//! A run takes its memory by this count, and `llm-train plan` prints it, so that plan and run agree.
use crate::checkpoint;
use crate::comm::staging_elements;
use crate::config::Run;
use crate::device::Cpu;
use crate::metrics::units;
use crate::model::{Decoder, Shape};
use crate::ops;
use crate::optim::{AdamW, Hyper};
use crate::parallel::{self, Stage};
use crate::tensor::{Kind, Plan};

/// Measured, 2026-11-24, x86-64, Debian's Open MPI 4.1.4 and HDF5 1.10.8: RssAnon + RssShmem that a rank has beside its
/// arena and the rows below. MPI_Init takes 3 MiB of it, an open metrics.h5 1 MiB.
const PROCESS: u64 = 10 << 20;

/// Gives everything that `rank` of `ranks` holds on its processor its place, without taking memory.
pub fn lay_out(run: &Run, rank: usize, ranks: usize) -> (Plan, Decoder, AdamW, Stage) {
    lay_out_in(Cpu::plan(run.system.precision), run, rank, ranks)
}

/// The same on a GPU, which keeps bf16 its own way.
pub fn lay_out_on_gpu(run: &Run, rank: usize, ranks: usize) -> (Plan, Decoder, AdamW, Stage) {
    lay_out_in(Plan::for_gpu(), run, rank, ranks)
}

fn lay_out_in(plan: Plan, run: &Run, rank: usize, ranks: usize) -> (Plan, Decoder, AdamW, Stage) {
    let mut plan = plan.with_weights_in_bf16(run.system.weights_bf16);
    let stage = if run.system.zero == 0 { Stage::Replicate } else { Stage::Optimizer };
    let shape = Shape { micro_batch: run.batch.micro_batch, seq: run.batch.seq_len };
    let model = Decoder::plan(&mut plan, &run.model.config, shape, run.system.recompute, ranks);
    let o = &run.optim;
    let (weight_decay, decay_embeddings) = (o.weight_decay, o.decay_embeddings);
    let hyper = Hyper { beta1: o.beta1, beta2: o.beta2, eps: o.eps, weight_decay, decay_embeddings };
    let optim = AdamW::plan(&mut plan, parallel::owned(model.groups(), stage, rank, ranks), hyper);
    (plan, model, optim, stage)
}

/// What neighbours on a node read of each other: the plan's first words of four bytes, weights and gradients.
pub fn front(plan: &Plan, model: &Decoder) -> usize {
    let elements = model.groups().iter().map(|g| g.weights.end.max(g.grads.end)).max().unwrap_or(0);
    elements - plan.narrow() / 2
}

/// The rows of the memory table, in bytes per rank. `near` of the `ranks` read each other's memory.
pub fn memory_rows(plan: &Plan, model: &Decoder, ranks: usize, near: usize, threads: usize) -> Vec<(&'static str, u64)> {
    let kind = |kind: Kind| plan.bytes(kind) as u64;
    let heads = model.config().heads(model.shape().seq);
    let scratch = ops::gemm::workspace_elements(threads)
        + ops::attention::workspace_elements(heads, threads)
        + ops::loss::workspace_elements(model.config().vocab_rows(), threads);
    vec![
        ("parameters", kind(Kind::Parameters)),
        ("gradients", kind(Kind::Gradients)),
        ("optimizer", kind(Kind::Optimizer)),
        ("activations", kind(Kind::Activations)),
        ("workspace", kind(Kind::Workspace)),
        ("communication", kind(Kind::Communication) + 4 * staging_elements(ranks, near) as u64),
        ("libraries", 4 * scratch as u64),
        ("checkpoint", checkpoint::staging_bytes(model.parameters()) as u64),
        ("process", PROCESS),
    ]
}

/// The parameters as the files name and count them, those of all blocks in one line.
///
/// ```text
/// parameters                                 shape  count               number
///   model.embed_tokens.weight        128256 × 2048     ×1          262,668,288
///   model.layers.*.mlp.up_proj.weight  8192 × 2048    ×16          268,435,456
/// ```
pub fn parameter_table(model: &Decoder) -> String {
    let mut lines: Vec<(String, &[usize], usize)> = vec![];
    for p in model.parameters() {
        let name = without_numbers(&p.name);
        match lines.iter_mut().find(|(known, shape, _)| *known == name && *shape == p.shape) {
            Some((_, _, times)) => *times += 1,
            None => lines.push((name, &p.shape, 1)),
        }
    }
    let wide = lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let mut out = format!("{:<width$} {:>16} {:>6} {:>20}\n", "parameters", "shape", "count", "number", width = wide + 2);
    let mut total = 0;
    for (name, shape, times) in &lines {
        let number = (times * shape.iter().product::<usize>()) as u64;
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        out += &format!("  {name:<wide$} {shape:>16} {:>6} {:>20}\n", format!("×{times}"), units::thousands(number));
        total += number;
    }
    out + &format!("  {:<wide$} {:>16} {:>6} {:>20}\n", "all", "", "", units::thousands(total))
}

/// `model.layers.7.mlp` → `model.layers.*.mlp`
fn without_numbers(name: &str) -> String {
    let star = |part| if str::parse::<usize>(part).is_ok() { "*" } else { part };
    name.split('.').map(star).collect::<Vec<_>>().join(".")
}
