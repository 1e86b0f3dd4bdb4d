//! Every family, ten steps: as on the CPU, as PyTorch has them, twice the same bits.
use crate::place::{on_gpu, root, tried_out};
use crate::scene::{Precision, Run, golden, off};
use safetensors::SafeTensors;

/// All, or where a bundle is tried out two.
pub fn families() -> &'static [&'static str] {
    if tried_out() { &["gpt2", "opt"] } else { &["gpt2", "llama", "llama3", "qwen2", "qwen3", "opt"] }
}

/// The losses that transformers and PyTorch's AdamW gave.
fn expected(family: &str) -> Vec<f64> {
    let file = root().join("tests/golden").join(family).join("golden.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let losses = SafeTensors::deserialize(&bytes).unwrap().tensor("adamw.loss").unwrap().data().to_vec();
    losses.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

/// `relu`: how much farther off OPT may be, whose units are on or off where others' bend.
fn as_the_cpu_and_pytorch(precision: Precision, limits: [f64; 2], golden_limit: f64, relu: f64) {
    for &family in families() {
        let Some(run) = Run::cuda(&golden(family)) else { return };
        let there = run.precision(precision).steps();
        // the CPU has no tf32
        let same = if precision == Precision::Tf32 { Precision::Fp32 } else { precision };
        let here = Run::cpu(&format!("--device cpu {}", golden(family))).precision(same).steps();
        let wide = if family == "opt" { relu } else { 1.0 };
        let (limits, golden_limit) = (limits.map(|limit| wide * limit), wide * golden_limit);
        let found = off(&there, &here);
        println!("{family} {precision:?}: off by {found:?} of the CPU's");
        assert!(found[0] <= limits[0] && found[1] <= limits[1], "{family} {precision:?}: off by {found:?} of the CPU's");
        let losses = there.iter().map(|s| s[0]).zip(expected(family));
        let widest = losses.map(|(a, b)| (a - b).abs()).fold(0.0, |m, x| if x > m || x.is_nan() { x } else { m });
        assert!(widest <= golden_limit, "{family} {precision:?}: off by {widest:e} of PyTorch's");
    }
}

#[test]
fn ten_steps_in_fp32_are_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Fp32, [2e-5, 2e-4], 1e-4, 1.0);
}

#[test]
fn ten_steps_in_bf16_are_near_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Bf16, [1e-2, 5e-2], 2e-2, 1.0);
}

#[test]
fn ten_steps_of_weights_in_bf16_are_near_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Bf16True, [1e-2, 5e-2], 2e-2, 1.0);
}

#[test]
fn ten_steps_in_tf32_are_near_the_cpus_and_pytorchs() {
    as_the_cpu_and_pytorch(Precision::Tf32, [5e-4, 5e-3], 1e-3, 10.0);
}

/// Of the roundings of ten bits something must be left, or tensor cores were not asked for.
#[test]
fn tf32_is_neither_fp32_nor_bf16() {
    let steps = |precision| Some(Run::cuda(&golden("llama"))?.precision(precision).steps());
    let Some(exact) = steps(Precision::Fp32) else { return };
    let [tf32, bf16] = [Precision::Tf32, Precision::Bf16].map(|precision| off(&steps(precision).unwrap(), &exact)[0]);
    assert!(1e-6 < tf32 && 2.0 * tf32 < bf16, "off from fp32: tf32 by {tf32:e}, bf16 by {bf16:e}");
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

/// Attention row by row, and nothing but biases at the ends of products: other kernels, the same curve.
#[test]
fn the_plain_way_is_the_same_curve() {
    let model =
        "--model nano --width 128 --heads 2 --hidden 64 --vocab 200 --layers 1 --seq-len 80 --micro-batch 1 --global-batch 1";
    let steps = |options: &str| {
        let run = Run::cuda(&format!("{model} --synthetic-data --lr 1e-2 --steps 3 {options}"))?.precision(Precision::Bf16);
        let log = run.out.path().join("log");
        let run = run.with("STUB_LOG", log.to_str().unwrap());
        Some((run.steps(), std::fs::read_to_string(log).unwrap_or_default()))
    };
    let (Some((fast, fast_log)), Some((plain, plain_log))) = (steps(""), steps("--attention plain --no-fused")) else { return };
    let found = off(&plain, &fast);
    assert!(found[0] <= 1e-2 && found[1] <= 5e-2, "off by {found:?}");
    for kernel in ["attention_plain_forward", "attention_plain_dkv", "gelu_forward", "gelu_backward", "column_sums"] {
        assert!(on_gpu() || (plain_log.contains(kernel) && !fast_log.contains(kernel)), "{kernel}");
    }
    assert!(plain != fast, "the same kernels computed both");
}

/// With --nondeterministic kernels that add up by atomics take the others' places, and who compares runs is told.
#[test]
fn sums_in_any_order_are_near_and_said() {
    let shape = "--model llama3.2-1b --layers 1 --width 64 --heads 2 --kv-heads 1 --hidden 64 --vocab 200 --seq-len 80 \
                 --micro-batch 1 --global-batch 2 --synthetic-data --lr 1e-2 --steps 3";
    for (size, precision) in [(64, Precision::Bf16), (128, Precision::Bf16), (64, Precision::Fp32)] {
        let model = format!("{shape} --head-dim {size} --attention own");
        let Some(run) = Run::cuda(&format!("{model} --nondeterministic")) else { return };
        let log = run.out.path().join("log");
        let run = run.precision(precision).with("STUB_LOG", log.to_str().unwrap());
        let ended = run.job().done();
        let numerics = format!("{precision:?} products, gradients reduced in f32, nondeterministic").to_lowercase();
        assert_eq!(ended.out.to_lowercase().matches(&format!("numerics: {numerics}")).count(), 2, "{ended}");
        let ordered = Run::cuda(&model).unwrap().precision(precision);
        for (what, other) in [
            ("one order", ordered.steps()),
            ("the CPU's", {
                let model = model.replace("--attention own", "");
                Run::cpu(&format!("--device cpu {model}")).precision(precision).steps()
            }),
        ] {
            let (found, limits) =
                (off(&run.left(), &other), if precision == Precision::Fp32 { [2e-5, 2e-4] } else { [1e-2, 5e-2] });
            assert!(found[0] <= limits[0] && found[1] <= limits[1], "{size} {precision:?}: off by {found:?} of {what}");
        }
        if on_gpu() {
            continue;
        }
        let log = std::fs::read_to_string(log).unwrap();
        let launches = |name: &str| log.lines().filter(|line| line.contains(&format!("] {name} "))).count();
        let one_pass = format!("attention_dqkv_{size}");
        // three steps of two passes, and the two in which products are timed
        let tiled = if precision == Precision::Bf16 { 8 } else { 0 };
        assert_eq!([launches(&one_pass), launches("attention_dq_store")], [tiled, tiled], "{size} {precision:?}");
        assert!(launches("embedding_backward_any") == 8 && launches("embedding_backward") == 0, "{size} {precision:?}");
        assert_eq!(launches(&format!("attention_dq_{size}")) + launches(&format!("attention_dkv_{size}")), 0);
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
