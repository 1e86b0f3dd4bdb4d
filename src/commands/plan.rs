//! `llm-train plan`: what a run would need, counted on a login node: no MPI, no data, no device.
//!
//! The same functions give the tables that a run prints at its start, so that plan and run agree.
use crate::checkpoint;
use crate::comm::staging_elements;
use crate::commands::cli::PlanArgs;
use crate::commands::write_json;
use crate::config::Run;
use crate::error::Result;
use crate::metrics::{memory, units};
use crate::model::{Decoder, Parameter, Shape};
use crate::optim::{AdamW, Hyper};
use crate::parallel::{self, Stage};
use crate::tensor::{Kind, Plan};
use serde_json::json;

/// Measured, 2026-11-24, Debian's Open MPI 4.1.4 and HDF5 1.10.8: RssAnon + RssShmem of a rank before its arena.
const PROCESS: u64 = 24 << 20;
/// Measured, same day: packing buffers of the matrix products, for each thread.
const LIBRARY_PER_THREAD: u64 = 4 << 20;

/// The rows of the memory table, in bytes per rank.
pub fn memory_rows(plan: &Plan, parameters: &[Parameter], ranks: usize, threads: usize) -> Vec<(&'static str, u64)> {
    let kind = |kind: Kind| plan.bytes(kind) as u64;
    vec![
        ("parameters", kind(Kind::Parameters)),
        ("gradients", kind(Kind::Gradients)),
        ("optimizer", kind(Kind::Optimizer)),
        ("activations", kind(Kind::Activations)),
        ("workspace", kind(Kind::Workspace)),
        ("communication", kind(Kind::Communication) + 4 * staging_elements(ranks) as u64),
        ("libraries", LIBRARY_PER_THREAD * threads as u64),
        ("checkpoint", checkpoint::staging_bytes(parameters) as u64),
        ("process", PROCESS),
    ]
}

/// Parameters by group, as the files count them.
pub fn parameter_table(model: &Decoder) -> String {
    let c = model.config();
    let of = |group: usize| -> u64 {
        let members = model.parameters().iter().filter(|p| p.group == group);
        members.map(|p| p.shape.iter().product::<usize>() as u64).sum()
    };
    let last = c.layers + 1;
    let total: u64 = (0..=last).map(of).sum();
    let mut out = format!("{:<18} {:>20}\n", "parameters", "number");
    let head = if c.tied { "final norm (head: tied)".to_string() } else { "final norm, head".to_string() };
    let rows = [
        ("embedding".to_string(), of(0)),
        (format!("{} blocks of {}", c.layers, units::thousands(of(1))), c.layers as u64 * of(1)),
        (head, of(last)),
    ];
    for (name, count) in rows {
        out += &format!("  {name:<30} {:>20}\n", units::thousands(count));
    }
    out + &format!("  {:<30} {:>20}\n", "all", units::thousands(total))
}

pub fn run(run: &Run, args: &PlanArgs) -> Result<()> {
    let ranks = args.ranks as usize;
    let mut run = run.clone();
    run.validate_for(ranks)?;
    let config = &run.model.config;
    config.validate(run.batch.seq_len)?;
    let stage = if run.system.zero == 0 { Stage::Replicate } else { Stage::Optimizer };
    let mut plan = Plan::default();
    let shape = Shape { micro_batch: run.batch.micro_batch, seq: run.batch.seq_len };
    let model = Decoder::plan(&mut plan, config, shape, run.system.recompute, ranks);
    let hyper = Hyper { beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0, decay_embeddings: true };
    AdamW::plan(&mut plan, parallel::owned(model.groups(), stage, 0, ranks), hyper);

    let threads = run.system.threads.unwrap_or_else(crate::launch::usable_cores);
    let rows = memory_rows(&plan, model.parameters(), ranks, threads);
    let flops = config.flops_per_token(run.batch.seq_len);
    let (tokens, parameters) = (run.tokens_per_step(), config.parameter_count());
    let checkpoint = checkpoint::bytes(model.parameters());
    let micro_steps = run.global_batch().div_ceil(ranks * run.batch.micro_batch);
    println!("{}\n{}", parameter_table(&model), memory::table(&rows, None));
    println!("ranks                          {ranks}");
    println!("tokens per step                {}", units::thousands(tokens));
    println!("micro-batches per step         {micro_steps}");
    println!("TFLOP per step, attention full {:.6}", flops.full * tokens as f64 / 1e12);
    println!("TFLOP per step, causal         {:.6}", flops.causal * tokens as f64 / 1e12);
    println!("checkpoint                     {} ({})", units::thousands(checkpoint), units::bytes(checkpoint));
    if let Some(file) = &run.log.json {
        let memory: serde_json::Map<_, _> = rows.iter().map(|(name, bytes)| (name.to_string(), json!(bytes))).collect();
        let total: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
        let all = json!({
            "ranks": ranks, "parameters": parameters, "memory_bytes_per_rank": memory, "total_bytes_per_rank": total,
            "tokens_per_step": tokens, "micro_steps": micro_steps, "flops_per_token_full": flops.full,
            "flops_per_token_causal": flops.causal, "flops_per_step": flops.full * tokens as f64,
            "checkpoint_bytes": checkpoint, "config": run.to_json(),
        });
        write_json(file, &all)?;
    }
    Ok(())
}
