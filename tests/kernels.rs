//! Attention by every kernel that products have, those of processors that are not at hand among them (`ops/emulated.rs`): tiles and pairs have
//! operands of their own form. The kernel is one for the whole process, so this test has a process of its own.
#[allow(dead_code)]
#[path = "ops/bench.rs"]
mod bench;
#[path = "ops/emulated.rs"]
mod emulated;

use bench::{Bench, Numbers, exact};
use llm_train::device::{Device, Precision};
use llm_train::ops::attention::{self, Heads};
use llm_train::ops::gemm::kernels::{ALL, choose};
use llm_train::tensor::{Kind, Plan, Tensor};

const HEADS: [Heads; 6] = [
    Heads { q: 1, kv: 1, size: 2, seq: 1 },
    Heads { q: 2, kv: 1, size: 6, seq: 3 },
    Heads { q: 3, kv: 3, size: 64, seq: 65 },
    Heads { q: 4, kv: 2, size: 8, seq: 100 },
    Heads { q: 1, kv: 1, size: 128, seq: 130 },
    Heads { q: 2, kv: 1, size: 80, seq: 257 },
];

/// Documents of 50 rows.
fn starts(h: Heads) -> Vec<u32> {
    (0..2 * h.seq as u32).map(|n| n % h.seq as u32 / 50 * 50).collect()
}

fn both(dev: &Device, [y, lse, dqkv, qkv, dy]: [Tensor; 5], h: Heads) -> Vec<Tensor> {
    attention::forward(dev, y, lse, qkv, h, Some(&starts(h)));
    attention::backward(dev, dqkv, dy, y, lse, qkv, h, Some(&starts(h)));
    vec![y, lse, dqkv]
}

/// Where q, k and v lie in f32, or in bf16 as the forward of a GPT-2 leaves them.
fn cpu(h: Heads, precision: Precision, in_bf16: bool, qkv: &[f32], dy: &[f32]) -> Vec<f64> {
    let (n, mut plan) = (2 * h.seq, Plan::with_halves(in_bf16));
    let lies = plan.operand(Kind::Activations, n, h.width());
    let mut m = |cols| plan.matrix(Kind::Activations, n, cols);
    let all = [m(h.q * h.size), m(h.q), m(h.width()), lies, m(h.q * h.size)];
    let dev = Device::cpu(&plan, 2, &[], precision).unwrap();
    all[..3].iter().for_each(|t| dev.write(*t, &vec![f32::NAN; t.len()]));
    dev.write(lies, qkv);
    dev.write(all[4], dy);
    dev.install(|| both(&dev, all, h)).iter().flat_map(|t| dev.read(*t)).map(f64::from).collect()
}

#[test]
fn agree_on_attention() {
    let bf16 = [(Precision::Bf16, false), (Precision::Bf16, true)];
    for kernel in ALL.into_iter().filter(|k| (k.available)()).chain([&emulated::PAIRS, &emulated::TILES]) {
        println!("attention by {}", kernel.name);
        let ways = if kernel.pair == 1 { [(Precision::Fp32, false)].into_iter().chain(bf16).collect() } else { bf16.to_vec() };
        for (h, (precision, in_bf16)) in HEADS.into_iter().flat_map(|h| ways.iter().map(move |way| (h, *way))) {
            choose(precision, kernel);
            let mut numbers = Numbers::new(5);
            // exact in bf16
            let mut some = |n: usize| (0..n).map(|_| (numbers.integer(257) as f32 - 128.0) / 64.0).collect::<Vec<_>>();
            let (n, mut b) = (2 * h.seq, Bench::default());
            let (qkv, dy) = (some(n * h.width()), some(n * h.q * h.size));
            let all = [b.output(n, h.q * h.size), b.output(n, h.q), b.output(n, h.width())];
            let all = [all[0], all[1], all[2], b.filled(n, h.width(), qkv.clone()), b.filled(n, h.q * h.size, dy.clone())];
            let reference = b.reference();
            let expected: Vec<f64> = both(&reference, all, h).iter().flat_map(|t| exact(&reference, *t)).collect();
            let found = cpu(h, precision, in_bf16, &qkv, &dy);
            let size = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
            // eight bits of mantissa of p and ds, and sums of a few roundings
            let allowed = if precision == Precision::Fp32 { 2e-6 } else { 1.0 / 256.0 } * size;
            for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
                let what = format!("{} in {precision:?}, {h:?}, in bf16 {in_bf16}", kernel.name);
                assert!((expected - found).abs() <= allowed, "{what}: element {i} is {found}, not {expected}");
            }
        }
    }
}
