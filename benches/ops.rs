//! `cargo bench`: each op alone, at the shapes of gpt2-124M with B = 4 and T = 256 (rotary positions and normed heads as
//! a Llama of that size would have them). Rates are by what the op itself notes: FLOPs of products, else bytes.
//!
//! ```text
//! cargo bench -- attention        only those whose names match
//! ```
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llm_train::device::{Device, Precision};
use llm_train::ops::activation::{self, Activation};
use llm_train::ops::adamw::{self, Step};
use llm_train::ops::attention::{self, Heads};
use llm_train::ops::gemm::Into;
use llm_train::ops::norm::{self, Norm, Onward};
use llm_train::ops::rope::{self, Scaling};
use llm_train::ops::verdict::Verdict;
use llm_train::ops::{elementwise, embedding, linear, loss, qk_norm};
use llm_train::tensor::{Kind, Plan};
use std::time::Duration;

const ROWS: usize = 1024;
const SEQ: usize = 256;
const WIDTH: usize = 768;
const HIDDEN: usize = 3072;
const VOCAB: usize = 50_304;
/// Rows of a chunk of the head's.
const CHUNK: usize = 128;
const HEADS: Heads = Heads { q: 12, kv: 12, size: 64, seq: SEQ };

fn ops(c: &mut Criterion) {
    for (precision, label) in [(Precision::Fp32, "fp32"), (Precision::Bf16, "bf16")] {
        // what products alone read lies as in training
        let mut plan = Plan::with_halves(precision == Precision::Bf16);
        let [qkv, dqkv] = [(); 2].map(|()| plan.operand(Kind::Workspace, ROWS, HEADS.width()));
        let x = plan.operand(Kind::Workspace, ROWS, WIDTH);
        let mut m = |rows, cols| plan.matrix(Kind::Workspace, rows, cols);
        let [y, dx, dy] = [(); 3].map(|()| m(ROWS, WIDTH));
        let [w, dw] = [(); 2].map(|()| m(HIDDEN, WIDTH));
        let [up, dup, act, dact] = [(); 4].map(|()| m(ROWS, HIDDEN));
        let [b, db] = [(); 2].map(|()| m(1, HIDDEN));
        let [gamma, beta, dgamma, dbeta] = [(); 4].map(|()| m(1, WIDTH));
        let (raw, sums) = (m(ROWS, HEADS.width()), m(1, HEADS.width()));
        let (lse, stats, head_stats, angles) = (m(ROWS, HEADS.q), m(ROWS, 2), m(ROWS, 24), m(SEQ, HEADS.size));
        let [gamma_q, gamma_k, dgamma_q, dgamma_k] = [(); 4].map(|()| m(1, HEADS.size));
        let [wte, dwte, moment, variance] = [(); 4].map(|()| m(VOCAB, WIDTH));
        let logits = m(CHUNK, VOCAB);
        let dlogits = plan.operand_within(logits);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let dev = Device::cpu(&plan, threads, &[], precision).expect("3 GB of memory");
        for t in [x, qkv, dy, w, up, dact, b, gamma, beta, raw, gamma_q, gamma_k, dgamma] {
            dev.write(t, &(0..t.len()).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<_>>());
        }
        let tokens: Vec<u32> = (0..ROWS as u32).map(|i| i.wrapping_mul(2_654_435_761) % 50_257).collect();
        let adam = Step { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, t: 10, verdict: Verdict::Scale(1.0) };
        let gelu = Activation::Gelu;

        let mut bench = |name: &str, op: &(dyn Fn(&Device) + Sync)| {
            let Device::Cpu(cpu) = &dev else { unreachable!() };
            cpu.tally.start();
            dev.install(|| op(&dev));
            let (flops, bytes) = cpu.tally.stop().iter().fold((0.0, 0.0), |(f, b), row| (f + row.flops, b + row.bytes));
            let mut group = c.benchmark_group(name);
            group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
            group.throughput(if flops > 0.0 { Throughput::Elements(flops as u64) } else { Throughput::Bytes(bytes as u64) });
            group.bench_function(label, |b| b.iter(|| dev.install(|| op(&dev))));
            group.finish();
        };

        bench("linear forward", &|d| linear::forward(d, up, x, w, Some(b), None));
        bench("linear backward", &|d| linear::backward(d, dx, dw, Some(db), dact, x, w, Into::Add));
        bench("attention forward", &|d| attention::forward(d, y, lse, qkv, HEADS, None));
        bench("attention backward", &|d| {
            attention::backward(d, dqkv, Some(sums), dy, y, lse, qkv, HEADS, None);
        });
        bench("cross-entropy", &|d| {
            loss::cross_entropy(d, dlogits, logits, &tokens[..CHUNK], 50_257, 1e-3);
        });
        if precision == Precision::Bf16 {
            continue; // the rest is the same in both
        }
        bench("norm forward, layer", &|d| norm::forward(d, Norm::Layer, 1e-5, y, stats, x, gamma, Some(beta)));
        bench("norm backward, layer", &|d| {
            norm::backward(d, Norm::Layer, dx, dgamma, Some(dbeta), dy, x, stats, gamma, Onward::default())
        });
        bench("norm forward, rms", &|d| norm::forward(d, Norm::Rms, 1e-5, y, stats, x, gamma, None));
        bench("norm backward, rms", &|d| norm::backward(d, Norm::Rms, dx, dgamma, None, dy, x, stats, gamma, Onward::default()));
        bench("activation forward, gelu", &|d| activation::forward(d, gelu, act, up));
        bench("activation backward, gelu", &|d| activation::backward(d, gelu, dup, Some(dact), up, None, Some(act)));
        let (gates, dgates) = (up.rows(0, ROWS), dup.rows(0, ROWS));
        let half = |t: llm_train::tensor::Tensor| llm_train::tensor::Tensor { cols: HIDDEN / 2, ..t };
        bench("activation forward, swiglu", &|d| activation::forward(d, Activation::SwiGlu, half(act), gates));
        bench("activation backward, swiglu", &|d| {
            activation::backward(d, Activation::SwiGlu, dgates, Some(half(dact)), gates, None, Some(half(act)))
        });
        rope::table(&dev, angles, 1e4, Scaling::None);
        bench("rope forward", &|d| rope::forward(d, qkv, angles, HEADS, None));
        bench("qk_norm forward", &|d| qk_norm::forward(d, qkv, head_stats, raw, gamma_q, gamma_k, 1e-5, HEADS));
        bench("qk_norm backward", &|d| {
            qk_norm::backward(d, dqkv, dgamma_q, dgamma_k, qkv, raw, head_stats, gamma_q, gamma_k, HEADS);
        });
        bench("embedding forward", &|d| embedding::forward(d, x, &tokens, SEQ, wte, None, 0, None));
        bench("embedding backward", &|d| embedding::backward(d, dwte, None, dx, &tokens, SEQ, 0, None));
        bench("adamw", &|d| adamw::update(d, wte, moment, variance, dwte, 0.1, &adam));
        bench("copy", &|d| elementwise::copy(d, moment, wte));
        bench("add", &|d| elementwise::add(d, variance, wte, moment));
        bench("zero", &|d| elementwise::zero(d, dwte));
        bench("square sum", &|d| {
            elementwise::square_sum(d, wte);
        });
    }
}

criterion_group!(all, ops);
criterion_main!(all);
