//! The CPU kernels, fp32, against the reference: every element, over sizes of 1, odd sizes, and sizes that are no
//! multiple of a vector or a tile.
use crate::bench::{Bench, Numbers};
use llm_train::device::{Device, Precision};
use llm_train::ops::activation::Activation;
use llm_train::ops::adamw::Step;
use llm_train::ops::attention::Heads;
use llm_train::ops::gemm::Into;
use llm_train::ops::mlp::{self, Layers};
use llm_train::ops::norm::{Norm, Onward};
use llm_train::ops::rope::Scaling;
use llm_train::ops::verdict::Verdict;
use llm_train::ops::{MASKED, activation, adamw, attention, elementwise, embedding, linear, loss, norm, qk_norm, rope};
use llm_train::tensor::Tensor;

const SIZES: [(usize, usize); 8] = [(1, 1), (1, 7), (3, 16), (5, 33), (17, 64), (2, 129), (64, 100), (130, 257)];

#[test]
fn of_elementwise() {
    for (n, c) in SIZES.into_iter().chain([(5, 16 * 1024)]) {
        let mut b = Bench::default();
        let (x, y, zero, sum) = (b.matrix(n, c), b.output(n, c), b.output(n, c), b.output(n, c));
        b.agree("elementwise", &[y, zero, sum], 1e-7, |dev| {
            elementwise::zero(dev, zero);
            elementwise::copy(dev, y, x);
            elementwise::add(dev, sum, x, y);
        });
        let (reference, cpu) = (b.reference(), b.cpu(2, Precision::Fp32));
        let (exact, found) = (elementwise::square_sum(&reference, x), cpu.install(|| elementwise::square_sum(&cpu, x)));
        assert!((exact - found).abs() <= 1e-12 * exact, "{found} for {exact}");
    }
}

#[test]
fn of_linear() {
    for (n, c) in SIZES {
        for o in [1, 6, 35, 128] {
            for (with, into) in [(false, Into::Add), (true, Into::Add), (true, Into::Overwrite)] {
                let mut b = Bench::default();
                let (y, x, w) = (b.output(n, o), b.matrix(n, c), b.matrix(o, c));
                let (bias, residual) = (b.matrix(1, o), b.matrix(n, o));
                let (dx, dw, db, dy) = (b.output(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
                let option = |t| with.then_some(t);
                b.agree("linear", &[y, dx, dw, db], 1e-5, |dev| {
                    linear::forward(dev, y, x, w, option(bias), option(residual));
                    linear::backward(dev, dx, dw, option(db), dy, x, w, into);
                });
                b.agree("linear with one of two", &[y], 1e-5, |dev| linear::forward(dev, y, x, w, option(bias), None));
                b.agree("linear with one of two", &[y], 1e-5, |dev| linear::forward(dev, y, x, w, None, option(residual)));
            }
        }
    }
}

#[test]
fn of_mlps() {
    for (n, c) in SIZES {
        let (add, overwrite) = (Into::Add, Into::Overwrite);
        let kinds = [(Activation::Gelu, 6), (Activation::Relu, 130), (Activation::Gelu, 300), (Activation::SwiGlu, 36)];
        for ((kind, f), into) in kinds.into_iter().zip([add, overwrite, add, overwrite]) {
            let mut b = Bench::default();
            let wide = kind.inputs() * f;
            let (x, dy, dx) = (b.matrix(n, c), b.matrix(n, c), b.output(n, c));
            let [inner, dinner] = [(); 2].map(|()| b.output(n, wide));
            let [act, dact] = [(); 2].map(|()| b.output(n, f));
            // so small that sums of them stay near 1
            let mut numbers = Numbers::new(5);
            let mut small = |rows, cols| b.filled(rows, cols, (0..rows * cols).map(|_| numbers.real() / 8.0).collect());
            let [w, g] = [(); 2].map(|()| Layers {
                up: small(wide, c),
                up_bias: Some(small(1, wide)),
                down: small(c, f),
                down_bias: Some(small(1, c)),
            });
            let outs = [act, inner, dx, g.up, g.down, g.up_bias.expect("given"), g.down_bias.expect("given")];
            let apart = (kind == Activation::SwiGlu).then_some(dact);
            b.agree(&format!("{kind:?} {n} {c} {f}"), &outs, 2e-5, |dev| {
                mlp::forward(dev, kind, act, inner, x, &w);
                // it is made again by the CPU and the reference, to the last bit
                let before = dev.read(act);
                dev.write(act, &vec![f32::NAN; n * f]);
                mlp::backward(dev, kind, dx, dinner, apart, &g, dy, x, act, inner, &w, into);
                assert_eq!(dev.read(act), before, "{kind:?} {n} {c} {f}");
            });
        }
    }
}

#[test]
fn of_norms() {
    for (n, c) in SIZES {
        for kind in [Norm::Layer, Norm::Rms] {
            let mut b = Bench::default();
            let (y, stats, x, gamma, beta) = (b.output(n, c), b.output(n, 2), b.matrix(n, c), b.matrix(1, c), b.matrix(1, c));
            let (dx, dgamma, dbeta, dy) = (b.matrix(n, c), b.matrix(1, c), b.matrix(1, c), b.matrix(n, c));
            let option = |t| (kind == Norm::Layer).then_some(t);
            let sums = b.matrix(1, c);
            b.agree(&format!("{kind:?} {n} {c}"), &[y, dx, dgamma, dbeta, sums], 2e-5, |dev| {
                norm::forward(dev, kind, 1e-3, y, stats, x, gamma, option(beta));
                let onward = Onward { rounded: None, sums: Some(sums) };
                norm::backward(dev, kind, dx, dgamma, option(dbeta), dy, x, stats, gamma, onward);
            });
        }
    }
}

#[test]
fn of_activations() {
    for (n, f) in SIZES {
        for kind in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
            let mut b = Bench::default();
            let mut numbers = Numbers::new(3);
            let cols = kind.inputs() * f;
            // −12 … 12: far into both tails
            let x = b.filled(n, cols, (0..n * cols).map(|_| 12.0 * numbers.real()).collect());
            let (y, again, dx, dy) = (b.output(n, f), b.output(n, f), b.output(n, cols), b.matrix(n, f));
            let (sums, held) = (b.filled(1, cols, vec![1.0; cols]), b.matrix(n, cols));
            let dy_apart = (kind.inputs() > 1).then_some(dy);
            b.agree(&format!("{kind:?} {n} {f}"), &[y, again, dx, held], 2e-6, |dev| {
                activation::forward(dev, kind, y, x);
                activation::backward(dev, kind, dx, Some(dy), x, None, None);
                activation::backward(dev, kind, held, dy_apart, x, Some(sums), Some(again));
                assert_eq!(dev.read(y), dev.read(again), "{kind:?} {n} {f}: the value that is made again");
            });
            // of numbers up to 12, which may cancel
            b.agree(&format!("{kind:?} {n} {f}: sums"), &[sums], 2e-5, |dev| {
                activation::backward(dev, kind, held, dy_apart, x, Some(sums), None);
            });
        }
    }
}

#[test]
fn of_embedding() {
    for (n, c) in SIZES {
        for vocab in [1, 37, 300] {
            let mut b = Bench::default();
            let mut numbers = Numbers::new(5);
            let tokens: Vec<u32> = (0..n).map(|_| numbers.integer(vocab) as u32).collect();
            let (seq, offset) = (n.div_ceil(2), 2);
            let positions: Vec<u32> = (0..n).map(|_| numbers.integer(seq) as u32).collect();
            let (x, wte, wpe) = (b.output(n, c), b.matrix(vocab, c), b.matrix(seq + offset, c));
            let (dx, dwte, dwpe) = (b.matrix(n, c), b.matrix(vocab, c), b.matrix(seq + offset, c));
            for positions in [None, Some(positions.as_slice())] {
                b.agree("embedding", &[x, dwte, dwpe], 1e-5, |dev| {
                    embedding::forward(dev, x, &tokens, seq, wte, Some(wpe), offset, positions);
                    embedding::backward(dev, dwte, Some(dwpe), dx, &tokens, seq, offset, positions);
                });
            }
            b.agree("embedding without positions", &[x, dwte], 1e-5, |dev| {
                embedding::forward(dev, x, &tokens, seq, wte, None, 0, None);
                embedding::backward(dev, dwte, None, dx, &tokens, seq, 0, None);
            });
        }
    }
}

#[test]
fn of_cross_entropy() {
    for (n, cols) in SIZES.into_iter().chain([(3, 5000)]) {
        for padding in [0, 3] {
            let vocab = cols.saturating_sub(padding).max(1);
            let mut b = Bench::default();
            let mut numbers = Numbers::new(11);
            let target = |i: usize, numbers: &mut Numbers| if i % 4 == 3 { MASKED } else { numbers.integer(vocab) as u32 };
            let targets: Vec<u32> = (0..n).map(|i| target(i, &mut numbers)).collect();
            let z = b.filled(n, cols, (0..n * cols).map(|_| 20.0 * numbers.real()).collect());
            let losses = [b.output(1, 1), b.output(1, 1)];
            b.agree(&format!("cross-entropy {n} {cols}"), &[z, losses[0], losses[1]], 1e-6, |dev| {
                let only = loss::cross_entropy_only(dev, z, &targets, vocab);
                let whole = loss::cross_entropy(dev, z, z, &targets, vocab, 0.25);
                assert!((only - whole).abs() <= 1e-12 * whole.abs(), "{only} without, {whole} with the gradient");
                dev.write(losses[0], &[only as f32 / n as f32]);
                dev.write(losses[1], &[whole as f32 / n as f32]);
            });
        }
    }
}

#[test]
fn a_nan_or_an_infinity_reaches_the_loss() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut b = Bench::default();
        let mut values = vec![0.5; 40];
        values[33] = bad;
        let z = b.filled(2, 20, values);
        let cpu = b.cpu(1, Precision::Fp32);
        assert!(!loss::cross_entropy_only(&cpu, z, &[1, 2], 20).is_finite());
        assert!(!loss::cross_entropy(&cpu, z, z, &[1, 2], 20, 1.0).is_finite());
    }
}

#[test]
fn of_adamw() {
    for (n, c) in SIZES {
        let mut b = Bench::default();
        let (w, m, g) = (b.matrix(n, c), b.matrix(n, c), b.matrix(n, c));
        let mut numbers = Numbers::new(13);
        let v = b.filled(n, c, (0..n * c).map(|_| numbers.real().abs()).collect());
        for (t, decay) in [(1, 0.1), (1000, 0.0)] {
            let step = Step { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, t, verdict: Verdict::Scale(0.5) };
            b.agree("adamw", &[w, m, v], 2e-6, |dev| adamw::update(dev, w, m, v, g, decay, &step));
        }
    }
}

const HEADS: [Heads; 9] = [
    Heads { q: 1, kv: 1, size: 2, seq: 1 },
    Heads { q: 2, kv: 1, size: 6, seq: 3 },
    Heads { q: 2, kv: 2, size: 16, seq: 31 },
    Heads { q: 4, kv: 2, size: 8, seq: 64 },
    Heads { q: 3, kv: 3, size: 64, seq: 65 },
    Heads { q: 6, kv: 2, size: 10, seq: 100 },
    Heads { q: 1, kv: 1, size: 128, seq: 130 },
    Heads { q: 2, kv: 1, size: 80, seq: 257 },
    Heads { q: 5, kv: 1, size: 18, seq: 192 },
];

/// Documents of many lengths: within a tile, across tiles, longer than a tile.
pub fn starts(rows: usize, seq: usize) -> Vec<u32> {
    let mut numbers = Numbers::new(17);
    let (mut start, mut left) = (0, 0);
    let row = |n: usize| {
        if n.is_multiple_of(seq) || left == 0 {
            start = (n % seq) as u32;
            left = 1 + numbers.integer(150);
        }
        left -= 1;
        start
    };
    (0..rows).map(row).collect()
}

#[test]
fn of_attention() {
    for h in HEADS {
        let n = 2 * h.seq;
        let mut b = Bench::default();
        let mut numbers = Numbers::new(19);
        let qkv = b.filled(n, h.width(), (0..n * h.width()).map(|_| 2.0 * numbers.real()).collect());
        let (y, lse, dy, dqkv) = (b.output(n, h.q * h.size), b.output(n, h.q), b.matrix(n, h.q * h.size), b.output(n, h.width()));
        for starts in [None, Some(starts(n, h.seq))] {
            b.agree(&format!("attention {h:?}"), &[y, lse, dqkv], 1e-5, |dev| {
                attention::forward(dev, y, lse, qkv, h, starts.as_deref());
                attention::backward(dev, dqkv, None, dy, y, lse, qkv, h, starts.as_deref());
            });
        }
    }
}

#[test]
fn of_attention_in_bf16_within_its_rounding() {
    for h in HEADS {
        let n = 2 * h.seq;
        let mut b = Bench::default();
        let (qkv, y, lse) = (b.matrix(n, h.width()), b.output(n, h.q * h.size), b.output(n, h.q));
        let (dy, dqkv) = (b.matrix(n, h.q * h.size), b.output(n, h.width()));
        let (last, step) = (qkv.rows(n - 1, 1), b.output(1, h.q * h.size));
        let cache = [b.output(h.seq, h.kv * h.size), b.output(h.seq, h.kv * h.size)];
        let starts = starts(n, h.seq);
        let run = |dev: &Device| {
            attention::forward(dev, y, lse, qkv, h, None);
            for (i, row) in (n - h.seq..n).enumerate() {
                let key = qkv.at + row * h.width() + h.q * h.size;
                for (part, cache) in cache.iter().enumerate() {
                    let from = Tensor::range(key + part * cache.cols, key + (part + 1) * cache.cols);
                    elementwise::copy(dev, cache.rows(i, 1), from);
                }
            }
            attention::decode(dev, step, last, cache[0], cache[1], h.seq, h);
            attention::backward(dev, dqkv, None, dy, y, lse, qkv, h, None);
            let whole = [y, lse, dqkv, step].map(|t| dev.read(t));
            attention::forward(dev, y, lse, qkv, h, Some(&starts));
            attention::backward(dev, dqkv, None, dy, y, lse, qkv, h, Some(&starts));
            [whole, [y, lse, dqkv, step].map(|t| dev.read(t))].concat().concat()
        };
        let (reference, bf16, fp32) = (b.reference(), b.cpu(2, Precision::Bf16), b.cpu(2, Precision::Fp32));
        let (exact, rounded, plain) = (run(&reference), bf16.install(|| run(&bf16)), fp32.install(|| run(&fp32)));
        let size = exact.iter().map(|x| x.abs()).fold(1.0, f32::max);
        let worst = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // eight bits of mantissa, and sums of a few roundings
        assert!(worst < 3.0 / 256.0 * size, "{h:?}: off by {worst:e} where the largest is {size}");
        assert_ne!(rounded, plain, "{h:?}: nothing was rounded");
        if h.seq <= 64 {
            // one tile of keys: forward and decode round the same numbers, and differ in the order of sums only
            let row = &rounded[(n - 1) * y.cols..n * y.cols];
            let step = &rounded[y.len() + lse.len() + dqkv.len()..][..y.cols];
            let apart = row.iter().zip(step).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 2e-6, "{h:?}: forward and decode are {apart:e} apart");
        }
    }
}

#[test]
fn of_decode() {
    for h in HEADS {
        let cols = h.kv * h.size;
        let mut b = Bench::default();
        let (y, qkv, k, v) = (b.output(1, h.q * h.size), b.matrix(1, h.width()), b.matrix(h.seq, cols), b.matrix(h.seq, cols));
        for len in [1, h.seq.div_ceil(2), h.seq] {
            b.agree(&format!("decode {h:?}"), &[y], 1e-5, |dev| attention::decode(dev, y, qkv, k, v, len, h));
        }
    }
}

#[test]
fn of_rope() {
    for h in HEADS {
        let n = 2 * h.seq;
        let mut b = Bench::default();
        let mut numbers = Numbers::new(23);
        let positions: Vec<u32> = (0..n).map(|_| numbers.integer(h.seq) as u32).collect();
        let (qkv, dqkv, table) = (b.matrix(n, h.width()), b.matrix(n, h.width()), b.output(h.seq, h.size));
        let llama3 = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
        for (positions, scaling) in [(None, Scaling::None), (Some(positions.as_slice()), llama3)] {
            b.agree(&format!("rope {h:?}"), &[table, qkv, dqkv], 1e-6, |dev| {
                rope::table(dev, table, 500_000.0, scaling);
                rope::forward(dev, qkv, table, h, positions);
                rope::backward(dev, dqkv, table, h, positions);
            });
        }
    }
}

#[test]
fn of_qk_norm() {
    for h in HEADS {
        let n = 2 * h.seq;
        let mut b = Bench::default();
        let (y, stats, x, dy, dx) = (
            b.output(n, h.width()),
            b.output(n, h.q + h.kv),
            b.matrix(n, h.width()),
            b.matrix(n, h.width()),
            b.output(n, h.width()),
        );
        let [gamma_q, gamma_k, dgamma_q, dgamma_k] = [0; 4].map(|_| b.matrix(1, h.size));
        b.agree(&format!("qk_norm {h:?}"), &[y, stats, dx, dgamma_q, dgamma_k], 2e-5, |dev| {
            qk_norm::forward(dev, y, stats, x, gamma_q, gamma_k, 1e-3, h);
            qk_norm::backward(dev, dx, dgamma_q, dgamma_k, dy, x, stats, gamma_q, gamma_k, h);
        });
    }
}

/// What is stored in bf16 is what f32 storage would be rounded to, also rows longer than the parts that are rounded at once,
/// and what is not a number.
#[test]
fn of_outputs_in_bf16() {
    use half::bf16;
    use llm_train::tensor::{Kind, Plan};
    for (n, c) in [(1, 2), (5, 34), (3, 2050), (70, 256)] {
        let mut plan = Plan::with_halves(true);
        let mut m = |rows, cols| plan.matrix(Kind::Activations, rows, cols);
        let (x, two, gamma, beta, stats, y) = (m(n, c), m(n, 2 * c), m(1, c), m(1, c), m(n, 2), m(n, c));
        let half = plan.operand(Kind::Activations, n, c);
        let rounded = plan.rounded(Kind::Workspace, y).expect("a place in bf16");
        let dev = Device::cpu(&plan, 2, &[], Precision::Bf16).unwrap();
        let mut numbers = Numbers::new((n * c) as u64);
        for t in [x, two, gamma, beta] {
            let mut values: Vec<f32> = (0..t.len()).map(|_| 3.0 * numbers.real()).collect();
            if t.rows == 5 {
                values[t.len() / 2] = f32::NAN;
            }
            dev.write(t, &values);
        }
        let same = |what: &str, op: &(dyn Fn(Tensor) + Sync)| {
            dev.install(|| [y, half].iter().for_each(|y| op(*y)));
            let (whole, half) = (dev.read(y), dev.read(half));
            let rounded = whole.iter().map(|x| bf16::from_f32(*x).to_f32().to_bits());
            assert!(rounded.eq(half.iter().map(|x| x.to_bits())), "{what} {n} × {c}");
            assert!(whole.iter().any(|x| *x != 0.0) && (n == 5) == whole.iter().any(|x| x.is_nan()), "{what} {n} × {c}");
        };
        same("layer norm", &|y| norm::forward(&dev, Norm::Layer, 1e-5, y, stats, x, gamma, Some(beta)));
        same("rms norm", &|y| norm::forward(&dev, Norm::Rms, 1e-5, y, stats, x, gamma, None));
        // the gradient that a norm leaves, and what it leaves of it for products
        let onward = Onward { rounded: Some(rounded), sums: None };
        dev.install(|| norm::backward(&dev, Norm::Rms, y, beta, None, x, x, stats, gamma, onward));
        let (whole, found) = (dev.read(y), dev.read(rounded));
        let expected = whole.iter().map(|x| bf16::from_f32(*x).to_f32().to_bits());
        assert!(expected.eq(found.iter().map(|x| x.to_bits())), "norm backward {n} × {c}");
        for kind in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
            let x = if kind == Activation::SwiGlu { two } else { x };
            same(&format!("{kind:?}"), &|y| activation::forward(&dev, kind, y, x));
        }
    }
}

/// The gradient of logits in the first half of their rows is what f32 storage would be rounded to, also what is no number; products read it there
/// as they read that, and the other half is not written.
#[test]
fn of_a_gradient_that_takes_the_logits_place() {
    use half::bf16;
    use llm_train::tensor::{Kind, Plan};
    for (n, cols, c) in [(1, 2, 1), (6, 40, 3), (5, 33, 7), (35, 1030, 64), (64, 128, 130)] {
        let mut plan = Plan::with_halves(true);
        let mut m = |rows, cols| plan.matrix(Kind::Activations, rows, cols);
        let (z, x, w) = (m(n, cols), m(n, c), m(cols, c));
        let of_each = [(); 2].map(|()| (m(n, c), m(cols, c)));
        let dz = plan.operand_within(z);
        assert!(dz.half && dz.rows == n && (dz.at, dz.end()) == (z.at, z.end()), "{dz:?} within {z:?}");
        let dev = Device::cpu(&plan, 2, &[], Precision::Bf16).unwrap();
        let mut numbers = Numbers::new((n * cols) as u64);
        let mut logits: Vec<f32> = (0..z.len()).map(|_| 10.0 * numbers.real()).collect();
        if n == 6 {
            logits[2 * cols + 5] = f32::NAN;
        }
        for t in [x, w] {
            dev.write(t, &(0..t.len()).map(|_| numbers.real()).collect::<Vec<_>>());
        }
        let vocab = cols - cols / 8;
        let targets: Vec<u32> = (0..n).map(|i| if i % 4 == 3 { MASKED } else { (i * 7 % vocab) as u32 }).collect();
        let found = [z, dz].into_iter().zip(of_each).map(|(gradient, (dx, dw))| {
            dev.write(z, &logits);
            let loss = dev.install(|| loss::cross_entropy(&dev, gradient, z, &targets, vocab, 0.5));
            dev.install(|| linear::backward(&dev, dx, dw, None, gradient, x, w, Into::Overwrite));
            let rows = dev.read(gradient).chunks(gradient.cols).flat_map(|row| row[..cols].to_vec()).collect::<Vec<_>>();
            [vec![loss as f32], rows, dev.read(dx), dev.read(dw)]
        });
        let [whole, half] = found.collect::<Vec<_>>().try_into().expect("two");
        let bits = |x: &[f32]| x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect::<Vec<_>>();
        let rounded: Vec<f32> = whole[1].iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(bits(&rounded), bits(&half[1]), "{n} × {cols}: gradient");
        assert!([0, 2, 3].iter().all(|&i| bits(&whole[i]) == bits(&half[i])), "{n} × {cols}: loss and products");
        assert!(whole[1].iter().any(|x| *x > 0.0), "{n} × {cols}: a gradient of nothing");
        // all that was read above was of dz, the last of the two
        for (row, logits) in dev.read(z).chunks(cols).zip(logits.chunks(cols)) {
            assert_eq!(bits(&row[cols.div_ceil(2)..]), bits(&logits[cols.div_ceil(2)..]), "{n} × {cols}: the other half");
        }
    }
}
