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

/// Sums are added to what is there.
fn both(dev: &Device, [y, lse, dqkv, sums, qkv, dy]: [Tensor; 6], h: Heads) -> Vec<Tensor> {
    dev.write(sums, &vec![1.0; sums.len()]);
    attention::forward(dev, y, lse, qkv, h, Some(&starts(h)));
    let left = attention::backward(dev, dqkv, Some(sums), dy, y, lse, qkv, h, Some(&starts(h)));
    assert!(left.is_none(), "sums are left to do");
    vec![y, lse, dqkv, sums]
}

/// Where qkv and its gradient lie in f32, or in bf16 as with a GPT-2.
fn cpu(h: Heads, precision: Precision, in_bf16: bool, qkv: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let (n, mut plan) = (2 * h.seq, Plan::with_halves(in_bf16));
    let [qkv_at, dqkv] = [(); 2].map(|()| plan.operand(Kind::Activations, n, h.width()));
    let mut m = |cols| plan.matrix(Kind::Activations, n, cols);
    let [y, lse, dy_at] = [m(h.q * h.size), m(h.q), m(h.q * h.size)];
    let all = [y, lse, dqkv, plan.vector(Kind::Activations, h.width()), qkv_at, dy_at];
    let dev = Device::cpu(&plan, 2, &[], precision).unwrap();
    all[..3].iter().for_each(|t| dev.write(*t, &vec![f32::NAN; t.len()]));
    dev.write(qkv_at, qkv);
    dev.write(dy_at, dy);
    dev.install(|| both(&dev, all, h)).iter().map(|t| dev.read(*t)).collect()
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
            let [y, lse, dqkv] = [b.output(n, h.q * h.size), b.output(n, h.q), b.output(n, h.width())];
            let all = [
                y,
                lse,
                dqkv,
                b.output(1, h.width()),
                b.filled(n, h.width(), qkv.clone()),
                b.filled(n, dy.len() / n, dy.clone()),
            ];
            let reference = b.reference();
            let expected: Vec<Vec<f64>> = both(&reference, all, h).iter().map(|t| exact(&reference, *t)).collect();
            for (t, (expected, found)) in expected.iter().zip(cpu(h, precision, in_bf16, &qkv, &dy)).enumerate() {
                let size = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
                // eight bits of mantissa of p and ds, and sums of a few roundings
                let allowed = if precision == Precision::Fp32 { 2e-6 } else { 1.0 / 256.0 } * size;
                for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    let what = format!("{} in {precision:?}, {h:?}, in bf16 {in_bf16}, output {t}", kernel.name);
                    assert!((expected - f64::from(*found)).abs() <= allowed, "{what}: element {i} is {found}, not {expected}");
                }
            }
        }
    }
}
