//! `llm-train plan`: what a run would need, counted on a login node: no MPI, no data, no device.
//!
//! The same functions give the tables that a run prints at its start, so that plan and run agree.
use crate::bad_input;
use crate::checkpoint;
use crate::comm::staging_elements;
use crate::commands::cli::PlanArgs;
use crate::commands::{tell, write_json};
use crate::config::{DeviceKind, Run};
use crate::device::Cpu;
use crate::error::Result;
use crate::metrics::{memory, units};
use crate::model::{Decoder, Shape};
use crate::ops;
use crate::optim::{AdamW, Hyper};
use crate::parallel::{self, Stage};
use crate::tensor::{Kind, Plan};
use serde_json::json;

/// Measured, 2026-11-24, x86-64, Debian's Open MPI 4.1.4 and HDF5 1.10.8: RssAnon + RssShmem that a rank has beside its
/// arena and the rows below. MPI_Init takes 3 MiB of it, an open metrics.h5 1 MiB.
const PROCESS: u64 = 10 << 20;

/// Gives everything that `rank` of `ranks` holds on its processor its place, without taking memory.
pub fn lay_out(run: &Run, rank: usize, ranks: usize) -> (Plan, Decoder, AdamW, Stage) {
    lay_out_in(Cpu::plan(run.system.precision), run, rank, ranks)
}

/// The same on a GPU, which keeps bf16 its own way.
pub fn lay_out_on_gpu(run: &Run, rank: usize, ranks: usize) -> (Plan, Decoder, AdamW, Stage) {
    lay_out_in(Plan::default(), run, rank, ranks)
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
    let scratch = ops::gemm::workspace_elements(threads) + ops::attention::workspace_elements(heads, threads);
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

/// The largest micro-batch whose memory, all rows of the table together, is at most `bytes` a rank; not more than a step has
/// for a rank where the global batch is given.
///
/// Errors: not even one sequence fits.
pub fn largest_micro_batch(run: &Run, ranks: usize, near: usize, threads: usize, bytes: u64) -> Result<usize> {
    let needs = |micro_batch: usize| {
        let mut tried = run.clone();
        tried.batch.micro_batch = micro_batch;
        let (plan, model, ..) = lay_out(&tried, 0, ranks);
        memory_rows(&plan, &model, ranks, near, threads).iter().map(|(_, bytes)| bytes).sum::<u64>()
    };
    if needs(1) > bytes {
        let (needed, found) = (units::bytes(needs(1)), units::bytes(bytes));
        bad_input!("{}: expected {needed} a rank for one sequence, found {found}", run.settings.named("batch.micro_batch"));
    }
    let most = run.batch.global_batch.map_or(1 << 20, |batch| batch.div_ceil(ranks));
    let (mut yes, mut no) = (1, 2);
    while no <= most && needs(no) <= bytes {
        (yes, no) = (no, 2 * no);
    }
    let mut no = no.min(most + 1);
    while no - yes > 1 {
        let middle = usize::midpoint(yes, no);
        if needs(middle) <= bytes { yes = middle } else { no = middle }
    }
    Ok(yes)
}

/// Of the memory that is there, what a rank may count on: the rest is for whatever else the node does.
pub const SHARE: f64 = 0.9;

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

pub fn run(run: &Run, args: &PlanArgs) -> Result<()> {
    let ranks = args.ranks as usize;
    let mut run = run.clone();
    let threads = run.system.threads.unwrap_or_else(crate::launch::usable_cores);
    let on_node = args.ranks_per_node.map_or(ranks, |n| ranks.min(n as usize));
    let near = if run.system.shared_sums { on_node } else { 1 };
    if run.batch.most {
        let here = || crate::launch::memory::available().map(|bytes| SHARE * bytes as f64);
        let Some(node) = args.node_memory.map(|gib| gib * f64::from(1 << 30)).or_else(here) else {
            bad_input!(
                "{}: expected --node-memory, for this system does not tell its own",
                run.settings.named("batch.micro_batch")
            )
        };
        let each = (node / on_node as f64) as u64;
        let found = largest_micro_batch(&run, ranks, near, threads, each)?;
        tell(format!("micro-batch {found}: the largest that fits {} a rank\n\n", units::bytes(each)));
        run.settle(found);
    }
    run.validate_for(ranks)?;
    let config = &run.model.config;
    config.validate(run.batch.seq_len)?;
    let lay_out = if run.system.device == DeviceKind::Cuda { lay_out_on_gpu } else { lay_out };
    let (plan, model, ..) = lay_out(&run, 0, ranks);
    let rows = memory_rows(&plan, &model, ranks, near, threads);
    let flops = config.flops_per_token(run.batch.seq_len);
    let (tokens, parameters) = (run.tokens_per_step(), config.parameter_count());
    let checkpoint = checkpoint::bytes(model.parameters(), run.system.weights_bf16);
    let micro_steps = run.global_batch().div_ceil(ranks * run.batch.micro_batch);
    let tera = |flops_per_token: f64| units::significant(flops_per_token * tokens as f64 / 1e12, 6);
    let lines = [
        ("ranks", ranks.to_string()),
        ("tokens per step", units::thousands(tokens)),
        ("passes per step and rank", micro_steps.to_string()),
        ("TFLOP per step", format!("{} (attention counted full), {} (causal)", tera(flops.full), tera(flops.causal))),
        ("checkpoint", format!("{} bytes, {}: weights and optimizer", units::thousands(checkpoint), units::bytes(checkpoint))),
    ];
    let mut page = format!("{}\n{}\n", parameter_table(&model), memory::table(&rows, None));
    lines.iter().for_each(|(name, what)| page += &format!("{name:<26} {what}\n"));
    tell(page);
    if let Some(file) = run.json_of_its_own() {
        let memory: serde_json::Map<_, _> = rows.iter().map(|(name, bytes)| (name.to_string(), json!(bytes))).collect();
        let total: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
        let all = json!({
            "ranks": ranks, "micro_batch": run.batch.micro_batch, "parameters": parameters,
            "memory_bytes_per_rank": memory, "total_bytes_per_rank": total,
            "tokens_per_step": tokens, "micro_steps": micro_steps, "flops_per_token_full": flops.full,
            "flops_per_token_causal": flops.causal, "flops_per_step": flops.full * tokens as f64,
            "checkpoint_bytes": checkpoint, "config": run.to_json(),
        });
        write_json(file, &all)?;
    }
    Ok(())
}
