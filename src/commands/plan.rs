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
use serde_json::json;

const GIB: f64 = (1u64 << 30) as f64;

pub fn run(run: &Run, args: &PlanArgs) -> Result<()> {
    let ranks = args.ranks as usize;
    let mut run = run.clone();
    let on_node = args.ranks_per_node.map_or(ranks, |n| ranks.min(n as usize));
    let near = if run.system.shared_sums { on_node } else { 1 };
    let on_gpu = run.system.device == DeviceKind::Cuda;
    let gpu_memory = args.gpu_memory.map(|gib| gib * GIB);
    if gpu_memory.is_some() && !on_gpu {
        bad_input!("--gpu-memory: expected --device cuda, for else a plan is a processor's, found another device");
    }
    let of = match on_gpu {
        true => Of::Gpu { bytes: gpu_memory.unwrap_or(0.0) as u64 },
        false => Of::Node { near, threads: run.system.threads.unwrap_or_else(usable_cores) },
    };
    if run.batch.most {
        let here = || launch::memory::available().map(|bytes| room::SHARE * bytes as f64);
        let (option, each) = match on_gpu {
            true => ("--gpu-memory, for no GPU is asked", gpu_memory.map(|bytes| room::SHARE * bytes)),
            false => {
                let node = args.node_memory.map(|gib| gib * GIB).or_else(here);
                ("--node-memory, for this system does not tell its own", node.map(|bytes| bytes / on_node as f64))
            }
        };
        let Some(each) = each.map(|bytes| bytes as u64) else {
            bad_input!("{}: expected {option}, found max", run.settings.named("batch.micro_batch"))
        };
        let found = room::largest_micro_batch(&run, ranks, of, each)?;
        tell(format!("micro-batch {found}: the largest that fits {} a rank\n\n", units::bytes(each)));
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
    let counted = match of {
        Of::Gpu { bytes } => {
            let more = gpu::expected_workspace(&run, &model, u64::MAX) - gpu::expected_workspace(&run, &model, bytes);
            let attention = format!("; attention by cuDNN, where it serves, takes some {} more", units::bytes(more));
            format!("a GPU{}", if more > 0 { attention } else { String::new() })
        }
        Of::Node { .. } => "a processor; --device cuda counts for a GPU".into(),
    };
    let needed: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let given = if on_gpu { gpu_memory.map(|b| room::SHARE * b) } else { args.node_memory.map(|gib| gib * GIB / on_node as f64) };
    let fits = given.map_or("not asked: --node-memory, or with --device cuda --gpu-memory, tells".to_string(), |each| {
        let answer = if needed as f64 <= each { "yes" } else { "no" };
        format!("{answer}: {} of {} that a rank may have", units::bytes(needed), units::bytes(each as u64))
    });
    let lines = [
        ("counted for", counted),
        ("fits", fits),
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
            "tokens_per_step": tokens, "micro_steps": micro_steps, "flops_per_token_full": flops.full,
            "flops_per_token_causal": flops.causal, "flops_per_step": flops.full * tokens as f64,
            "checkpoint_bytes": checkpoint, "config": run.to_json(),
        });
        write_json(file, &all)?;
    }
    Ok(())
}
