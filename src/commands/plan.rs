//! `llm-train plan`: what a run would need, counted on a login node by the functions that a run takes its memory by (`count.rs`).
use crate::bad_input;
use crate::checkpoint;
use crate::commands::cli::PlanArgs;
use crate::commands::room::{self, Of};
use crate::commands::{count, gpu, tell, write_json};
use crate::config::{DeviceKind, Run};
use crate::error::Result;
use crate::launch::{self, usable_cores};
use crate::metrics::{memory, units};
use crate::model::Decoder;
use serde_json::json;

const GIB: f64 = (1u64 << 30) as f64;

pub fn run(run: &Run, args: &PlanArgs) -> Result<()> {
    let ranks = args.ranks as usize;
    let mut run = run.clone();
    let (of, room) = memory_of(&run, args)?;
    if run.batch.most {
        let Some(room) = room else {
            let option = if matches!(of, Of::Gpu { .. }) { "--gpu-memory, for no GPU is asked" } else { "--node-memory" };
            bad_input!("{}: expected {option}, found max", run.settings.named("batch.micro_batch"))
        };
        let found = room::largest_micro_batch(&run, ranks, of, room)?;
        tell(format!("micro-batch {found}: the largest that fits {} a rank\n\n", units::bytes(room)));
        run.settle(found);
    }
    run.validate_for(ranks)?;
    let config = &run.model.config;
    config.validate(run.batch.seq_len)?;
    let rows = room::rows(&run, ranks, of);
    let (_, model, ..) = count::lay_out(&run, 0, ranks);
    let flops = config.flops_per_token(run.batch.seq_len);
    let (tokens, parameters) = (run.tokens_per_step(), config.parameter_count());
    let checkpoint = checkpoint::bytes(model.parameters(), run.system.weights_bf16);
    let micro_steps = run.global_batch().div_ceil(ranks * run.batch.micro_batch);
    let tera = |flops_per_token: f64| units::significant(flops_per_token * tokens as f64 / 1e12, 6);
    let needed: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let lines = [
        ("counted for", counted_for(&run, &model, of)),
        ("fits", fits(needed, room)),
        ("ranks", ranks.to_string()),
        ("tokens per step", units::thousands(tokens)),
        ("passes per step and rank", micro_steps.to_string()),
        ("TFLOP per step", format!("{} (attention counted full), {} (causal)", tera(flops.full), tera(flops.causal))),
        ("checkpoint", format!("{} bytes, {}: weights and optimizer", units::thousands(checkpoint), units::bytes(checkpoint))),
    ];
    let mut page = format!("{}\n{}\n", count::parameter_table(&model), memory::table(&rows, None));
    lines.iter().for_each(|(name, what)| page += &format!("{name:<26} {what}\n"));
    tell(page);
    if let Some(file) = run.json_of_its_own() {
        let memory: serde_json::Map<_, _> = rows.iter().map(|(name, bytes)| (name.to_string(), json!(bytes))).collect();
        let all = json!({
            "ranks": ranks, "micro_batch": run.batch.micro_batch, "parameters": parameters,
            "memory_bytes_per_rank": memory, "total_bytes_per_rank": needed,
            "room_bytes_per_rank": room,
            "tokens_per_step": tokens, "micro_steps": micro_steps, "flops_per_token_full": flops.full,
            "flops_per_token_causal": flops.causal, "flops_per_step": flops.full * tokens as f64,
            "checkpoint_bytes": checkpoint, "config": run.to_json(),
        });
        write_json(file, &all)?;
    }
    Ok(())
}

/// Whose memory it is, and the bytes of it that a rank may have, where that was given or is to be found out.
fn memory_of(run: &Run, args: &PlanArgs) -> Result<(Of, Option<u64>)> {
    if run.system.device == DeviceKind::Cuda {
        let whole = args.gpu_memory.map(|gib| gib * GIB);
        return Ok((Of::Gpu { bytes: whole.unwrap_or(0.0) as u64 }, whole.map(|bytes| (room::SHARE * bytes) as u64)));
    }
    if args.gpu_memory.is_some() {
        bad_input!("--gpu-memory: expected --device cuda, for else a plan is a processor's, found another device");
    }
    let on_node = args.ranks_per_node.unwrap_or(args.ranks).min(args.ranks) as usize;
    let near = if run.system.shared_sums { on_node } else { 1 };
    let here = || launch::memory::available().filter(|_| run.batch.most).map(|bytes| room::SHARE * bytes as f64);
    let node = args.node_memory.map(|gib| gib * GIB).or_else(here);
    let of = Of::Node { near, threads: run.system.threads.unwrap_or_else(usable_cores) };
    Ok((of, node.map(|bytes| (bytes / on_node as f64) as u64)))
}

fn counted_for(run: &Run, model: &Decoder, of: Of) -> String {
    let Of::Gpu { bytes } = of else { return "a processor; --device cuda counts for a GPU".into() };
    match gpu::expected_workspace(run, model, u64::MAX) - gpu::expected_workspace(run, model, bytes) {
        0 => "a GPU".into(),
        more => format!("a GPU; attention by cuDNN, where it serves, takes some {} more", units::bytes(more)),
    }
}

fn fits(needed: u64, room: Option<u64>) -> String {
    let Some(room) = room else { return "not asked: --node-memory, or with --device cuda --gpu-memory, tells".into() };
    let answer = if needed <= room { "yes" } else { "no" };
    format!("{answer}: {} of {} that a rank may have", units::bytes(needed), units::bytes(room))
}
