//! The reference's backward against finite differences of its forward.
use crate::bench::{Bench, Numbers, against, differentiate, exact};
use llm_train::ops::activation::Activation;
use llm_train::ops::attention::Heads;
use llm_train::ops::gemm::Into;
use llm_train::ops::norm::{Norm, Onward};
use llm_train::ops::rope::Scaling;
use llm_train::ops::{MASKED, activation, attention, elementwise, embedding, linear, loss, norm, qk_norm, rope};
use llm_train::tensor::Tensor;

#[test]
fn of_linear() {
    for (n, c, o) in [(3, 5, 4), (1, 7, 2)] {
        let mut b = Bench::default();
        let (y, x, w, bias, residual) = (b.output(n, o), b.matrix(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
        let (dy, dx, dw, db) = (b.matrix(n, o), b.output(n, c), b.filled(o, c, vec![0.0; o * c]), b.filled(1, o, vec![0.0; o]));
        let dev = b.reference();
        let c = exact(&dev, dy);
        let value = || {
            linear::forward(&dev, y, x, w, Some(bias), Some(residual));
            against(&dev, y, &c)
        };
        linear::backward(&dev, dx, dw, Some(db), dy, x, w, Into::Add);
        differentiate("linear dx", &dev, x, &exact(&dev, dx), value);
        differentiate("linear dw", &dev, w, &exact(&dev, dw), value);
        differentiate("linear db", &dev, bias, &exact(&dev, db), value);
        differentiate("linear dresidual", &dev, residual, &c, value);
    }
}

#[test]
fn of_norms() {
    for kind in [Norm::Layer, Norm::Rms] {
        let (n, c) = (4, 7);
        let mut b = Bench::default();
        let (y, stats, x, gamma, beta) = (b.output(n, c), b.output(n, 2), b.matrix(n, c), b.matrix(1, c), b.matrix(1, c));
        let [dx, dgamma, dbeta] = [(n, c), (1, c), (1, c)].map(|(n, c)| b.filled(n, c, vec![0.0; n * c]));
        let dy = b.matrix(n, c);
        let dev = b.reference();
        let (beta, dbeta) = if kind == Norm::Layer { (Some(beta), Some(dbeta)) } else { (None, None) };
        let weight = exact(&dev, dy);
        let value = || {
            norm::forward(&dev, kind, 1e-5, y, stats, x, gamma, beta);
            against(&dev, y, &weight)
        };
        value();
        norm::backward(&dev, kind, dx, dgamma, dbeta, dy, x, stats, gamma, Onward::default());
        differentiate("norm dx", &dev, x, &exact(&dev, dx), value);
        differentiate("norm dgamma", &dev, gamma, &exact(&dev, dgamma), value);
        if let (Some(beta), Some(dbeta)) = (beta, dbeta) {
            differentiate("norm dbeta", &dev, beta, &exact(&dev, dbeta), value);
        }
        // dx is added to
        let once = exact(&dev, dx);
        norm::backward(&dev, kind, dx, dgamma, dbeta, dy, x, stats, gamma, Onward::default());
        exact(&dev, dx).iter().zip(once).for_each(|(twice, once)| assert!((twice - 2.0 * once).abs() < 1e-12));
    }
}

#[test]
fn of_activations() {
    for kind in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
        let (n, f) = (3, 9);
        let mut b = Bench::default();
        let (y, x) = (b.output(n, f), b.matrix(n, kind.inputs() * f));
        let (dy, dx) = (b.matrix(n, f), b.output(n, kind.inputs() * f));
        let sums = b.filled(1, kind.inputs() * f, vec![1.0; kind.inputs() * f]);
        let dev = b.reference();
        let c = exact(&dev, dy);
        activation::forward(&dev, kind, y, x);
        let once = exact(&dev, y);
        dev.write(y, &vec![f32::NAN; n * f]);
        activation::backward(&dev, kind, dx, Some(dy), x, Some(sums), Some(y));
        assert_eq!(exact(&dev, y), once, "{kind:?}");
        for (i, sum) in exact(&dev, sums).iter().enumerate() {
            let column: f64 = exact(&dev, dx).iter().skip(i).step_by(kind.inputs() * f).sum();
            assert!((sum - 1.0 - column).abs() < 1e-12, "{kind:?}: {sum} for 1 + {column}");
        }
        differentiate(&format!("{kind:?}"), &dev, x, &exact(&dev, dx), || {
            activation::forward(&dev, kind, y, x);
            against(&dev, y, &c)
        });
    }
}

#[test]
fn of_embedding() {
    let (vocab, seq, c) = (5, 3, 4);
    let tokens = [4, 0, 4, 1, 1, 2];
    for (offset, positions) in [(0, None), (2, None), (2, Some([0, 1, 0, 0, 0, 1].as_slice()))] {
        let mut b = Bench::default();
        let (x, wte, wpe, dx) = (b.output(6, c), b.matrix(vocab, c), b.matrix(seq + 2, c), b.matrix(6, c));
        let [dwte, dwpe] = [(vocab, c), (seq + 2, c)].map(|(n, c)| b.filled(n, c, vec![0.0; n * c]));
        let dev = b.reference();
        let weight = exact(&dev, dx);
        let value = || {
            embedding::forward(&dev, x, &tokens, seq, wte, Some(wpe), offset, positions);
            against(&dev, x, &weight)
        };
        embedding::backward(&dev, dwte, Some(dwpe), dx, &tokens, seq, offset, positions);
        differentiate("dwte", &dev, wte, &exact(&dev, dwte), value);
        differentiate("dwpe", &dev, wpe, &exact(&dev, dwpe), value);
    }
}

#[test]
fn of_cross_entropy() {
    let (vocab, cols) = (7, 9);
    let targets = [3, MASKED, 0, 6];
    let mut b = Bench::default();
    let (z, kept) = (b.output(4, cols), b.matrix(4, cols));
    let dev = b.reference();
    elementwise::copy(&dev, z, kept);
    let total = loss::cross_entropy(&dev, z, z, &targets, vocab, 0.5);
    assert_eq!(total, loss::cross_entropy_only(&dev, kept, &targets, vocab));
    differentiate("logits", &dev, kept, &exact(&dev, z), || 0.5 * loss::cross_entropy_only(&dev, kept, &targets, vocab));
}

/// Document starts that change within and between tiles.
fn starts(rows: usize, seq: usize) -> Vec<u32> {
    let mut numbers = Numbers::new(7);
    let mut start = 0;
    let row = |n: usize| {
        if n.is_multiple_of(seq) {
            start = 0;
        } else if numbers.integer(4) == 0 {
            start = (n % seq) as u32;
        }
        start
    };
    (0..rows).map(row).collect()
}

const HEADS: [Heads; 3] =
    [Heads { q: 2, kv: 2, size: 4, seq: 5 }, Heads { q: 4, kv: 2, size: 2, seq: 3 }, Heads { q: 3, kv: 1, size: 6, seq: 4 }];

#[test]
fn of_attention() {
    for h in HEADS {
        for documents in [false, true] {
            let n = 2 * h.seq;
            let mut b = Bench::default();
            let (y, lse, qkv) = (b.output(n, h.q * h.size), b.output(n, h.q), b.matrix(n, h.width()));
            let (dy, dqkv) = (b.matrix(n, h.q * h.size), b.output(n, h.width()));
            let dev = b.reference();
            let starts = documents.then(|| starts(n, h.seq));
            let c = exact(&dev, dy);
            let value = || {
                attention::forward(&dev, y, lse, qkv, h, starts.as_deref());
                against(&dev, y, &c)
            };
            value();
            attention::backward(&dev, dqkv, None, dy, y, lse, qkv, h, starts.as_deref());
            differentiate(&format!("{h:?}"), &dev, qkv, &exact(&dev, dqkv), value);
        }
    }
}

#[test]
fn of_rope() {
    for h in HEADS {
        for positions in [None, Some((0..2 * h.seq as u32).map(|i| i * 3 % 7).collect::<Vec<_>>())] {
            let n = 2 * h.seq;
            let mut b = Bench::default();
            let (x, y, table, dx) = (b.matrix(n, h.width()), b.output(n, h.width()), b.output(8, h.size), b.matrix(n, h.width()));
            let dev = b.reference();
            rope::table(&dev, table, 10_000.0, Scaling::None);
            let c = exact(&dev, dx);
            let value = || {
                elementwise::copy(&dev, y, x);
                rope::forward(&dev, y, table, h, positions.as_deref());
                against(&dev, y, &c)
            };
            rope::backward(&dev, dx, table, h, positions.as_deref());
            differentiate("rope", &dev, x, &exact(&dev, dx), value);
        }
    }
}

#[test]
fn of_qk_norm() {
    for h in HEADS {
        let n = h.seq;
        let mut b = Bench::default();
        let matrix = |b: &mut Bench| -> Tensor { b.matrix(n, h.width()) };
        let (y, stats, x, dy, dx) = (matrix(&mut b), b.output(n, h.q + h.kv), matrix(&mut b), matrix(&mut b), matrix(&mut b));
        let (gamma_q, gamma_k) = (b.matrix(1, h.size), b.matrix(1, h.size));
        let [dgamma_q, dgamma_k] = [0, 1].map(|_| b.filled(1, h.size, vec![0.0; h.size]));
        let dev = b.reference();
        let c = exact(&dev, dy);
        let value = || {
            qk_norm::forward(&dev, y, stats, x, gamma_q, gamma_k, 1e-6, h);
            against(&dev, y, &c)
        };
        value();
        qk_norm::backward(&dev, dx, dgamma_q, dgamma_k, dy, x, stats, gamma_q, gamma_k, h);
        differentiate("qk_norm dx", &dev, x, &exact(&dev, dx), value);
        differentiate("qk_norm dgamma_q", &dev, gamma_q, &exact(&dev, dgamma_q), value);
        differentiate("qk_norm dgamma_k", &dev, gamma_k, &exact(&dev, dgamma_k), value);
    }
}
