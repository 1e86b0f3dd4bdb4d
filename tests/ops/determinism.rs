//! The same call gives the same bits; where an op promises it, with any number of threads.
use crate::bench::Bench;
use crate::parity::starts;
use llm_train::device::{Device, Precision};
use llm_train::ops::activation::Activation;
use llm_train::ops::attention::Heads;
use llm_train::ops::gemm::Into;
use llm_train::ops::norm::{Norm, Onward};
use llm_train::ops::{activation, attention, elementwise, embedding, linear, loss, norm, qk_norm};
use llm_train::tensor::Tensor;

/// Runs `op` afresh with 1, 2, 3, 2 threads: the two runs with 2 must agree, and all of them if `any_threads`.
fn repeat(b: &Bench, precision: Precision, outs: &[Tensor], any_threads: bool, op: impl Fn(&Device) -> f64 + Sync) {
    let runs = [1, 2, 3, 2].map(|threads| {
        let dev = b.cpu(threads, precision);
        let value = dev.install(|| op(&dev)).to_bits();
        let bits: Vec<u32> = outs.iter().flat_map(|t| dev.read(*t)).map(f32::to_bits).collect();
        (value, bits)
    });
    assert!(runs[1] == runs[3], "two runs on 2 threads differ");
    assert!(!any_threads || (runs[0] == runs[1] && runs[1] == runs[2]), "the number of threads shows");
}

#[test]
fn of_linear() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let (n, c, o) = (300, 200, 500);
        let mut b = Bench::default();
        let (y, x, w, bias, residual) = (b.output(n, o), b.matrix(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
        let (dx, dw, db, dy) = (b.output(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
        let op = |dev: &Device| {
            linear::forward(dev, y, x, w, Some(bias), Some(residual));
            linear::backward(dev, dx, dw, Some(db), dy, x, w, Into::Add);
            0.0
        };
        repeat(&b, precision, &[y, dx, dw], false, op);
        repeat(&b, precision, &[db], true, op);
    }
}

#[test]
fn of_attention() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let h = Heads { q: 6, kv: 2, size: 32, seq: 150 };
        let n = 3 * h.seq;
        let mut b = Bench::default();
        let (qkv, y, lse) = (b.matrix(n, h.width()), b.output(n, h.q * h.size), b.output(n, h.q));
        let (dy, dqkv, sums) = (b.matrix(n, h.q * h.size), b.output(n, h.width()), b.matrix(1, h.width()));
        let starts = starts(n, h.seq);
        repeat(&b, precision, &[y, lse, dqkv, sums], true, |dev| {
            attention::forward(dev, y, lse, qkv, h, Some(&starts));
            let left = attention::backward(dev, dqkv, Some(sums), dy, y, lse, qkv, h, Some(&starts));
            assert!(left.is_none(), "sums are left to do");
            0.0
        });
    }
}

#[test]
fn of_everything_else() {
    let h = Heads { q: 4, kv: 2, size: 32, seq: 100 };
    let (n, c) = (400, h.width());
    let mut b = Bench::default();
    let [x, dy] = [0; 2].map(|_| b.matrix(n, c));
    let [y, dx, dz] = [0; 3].map(|_| b.matrix(n, c));
    let (stats, stats_qk, table) = (b.output(n, 2), b.output(n, h.q + h.kv), b.matrix(50, c));
    let [gamma, dgamma, dbeta] = [0; 3].map(|_| b.matrix(1, c));
    let [gamma_q, dgamma_q, dgamma_k] = [0; 3].map(|_| b.matrix(1, h.size));
    let tokens: Vec<u32> = (0..n as u32).map(|i| i * i % 50).collect();
    repeat(&b, Precision::Fp32, &[y, dx, dz, dgamma, dbeta, dgamma_q, dgamma_k, table], true, |dev| {
        norm::forward(dev, Norm::Layer, 1e-5, y, stats, x, gamma, None);
        norm::backward(dev, Norm::Layer, dx, dgamma, Some(dbeta), dy, x, stats, gamma, Onward::default());
        embedding::backward(dev, table, None, dy, &tokens, n, 0, None);
        activation::forward(dev, Activation::Gelu, y, x);
        qk_norm::forward(dev, dz, stats_qk, x, gamma_q, gamma_q, 1e-6, h);
        qk_norm::backward(dev, dz, dgamma_q, dgamma_k, dy, x, stats_qk, gamma_q, gamma_q, h);
        let norm = elementwise::square_sum(dev, dx);
        norm + loss::cross_entropy(dev, y, y, &tokens, c, 1.0)
    });
}
