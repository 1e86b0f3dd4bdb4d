//! Every family, ten steps: as on the CPU, as PyTorch has them, twice the same bits.
use crate::place::{on_gpu, root};
use crate::scene::{Precision, Run, golden, off};
use safetensors::SafeTensors;

pub const FAMILIES: [&str; 6] = ["gpt2", "llama", "llama3", "qwen2", "qwen3", "opt"];

/// The losses that transformers and PyTorch's AdamW gave.
fn expected(family: &str) -> Vec<f64> {
    let file = root().join("tests/golden").join(family).join("golden.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let losses = SafeTensors::deserialize(&bytes).unwrap().tensor("adamw.loss").unwrap().data().to_vec();
    losses.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn as_the_cpu_and_pytorch(precision: Precision, limits: [f64; 2], golden_limit: f64) {
    for family in FAMILIES {
        let Some(run) = Run::cuda(&golden(family)) else { return };
        let there = run.precision(precision).steps();
        let here = Run::cpu(&format!("--device cpu {}", golden(family))).precision(precision).steps();
        let found = off(&there, &here);
        assert!(found[0] <= limits[0] && found[1] <= limits[1], "{family} {precision:?}: off by {found:?} of the CPU's");
        let losses = there.iter().map(|s| s[0]).zip(expected(family));
        let widest = losses.map(|(a, b)| (a - b).abs()).fold(0.0, |m, x| if x > m || x.is_nan() { x } else { m });
        assert!(widest <= golden_limit, "{family} {precision:?}: off by {widest:e} of PyTorch's");
    }
}

#[test]
fn ten_steps_in_fp32_are_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Fp32, [2e-5, 2e-4], 1e-4);
}

#[test]
fn ten_steps_in_bf16_are_near_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Bf16, [1e-2, 5e-2], 2e-2);
}

#[test]
fn attention_on_tensor_cores_serves_heads_of_64_and_128_columns() {
    // Sequences that are no multiple of a tile; query heads that share keys and values.
    let shared =
        "--seq-len 80 --micro-batch 1 --global-batch 1 --layers 1 --hidden 64 --vocab 200 --synthetic-data --lr 1e-2 --steps 3";
    for (model, kernels) in [
        ("--model nano --width 128 --heads 2", "attention_dkv_64"),
        ("--model llama3.2-1b --width 64 --heads 2 --kv-heads 1 --head-dim 128", "attention_dkv_128"),
    ] {
        let Some(run) = Run::cuda(&format!("{model} {shared}")) else { return };
        let log = run.out.path().join("log");
        let run = run.precision(Precision::Bf16).with("STUB_LOG", log.to_str().unwrap());
        let there = run.steps();
        assert!(on_gpu() || std::fs::read_to_string(log).unwrap().contains(kernels), "{model}");
        let here = Run::cpu(&format!("--device cpu {model} {shared}")).precision(Precision::Bf16).steps();
        let found = off(&there, &here);
        assert!(found[0] <= 1e-2 && found[1] <= 5e-2, "{model}: off by {found:?}");
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let Some(run) = Run::cuda(&golden("llama")) else { return };
    let once = run.steps();
    let again = Run::cuda(&golden("llama")).unwrap().steps();
    assert_eq!(once, again);
    let recomputed = Run::cuda(&golden("llama")).unwrap().and("--recompute block").steps();
    assert_eq!(once, recomputed);
}

#[test]
fn documents_are_kept_apart() {
    // Token 0 ends a text: attention and positions begin again behind it.
    let reset = format!("{} --reset-attention", golden("llama"));
    let Some(run) = Run::cuda(&reset) else { return };
    let found = off(&run.steps(), &Run::cpu(&format!("--device cpu {reset}")).steps());
    assert!(found[0] <= 2e-5 && found[1] <= 2e-4, "{found:?}");
}
