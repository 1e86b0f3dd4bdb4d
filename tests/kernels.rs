//! Attention and an MLP by every kernel that products have, those of processors that are not at hand among them (`ops/emulated.rs`): tiles and
//! pairs have operands of their own form, and tiles write large results past the caches. The kernel is one for the whole process, so that
//! these tests have a process of their own, and take turns.
#[path = "ops/emulated.rs"]
mod emulated;
#[path = "ops/numbers.rs"]
mod numbers;

use half::bf16;
use llm_train::device::{Device, Precision};
use llm_train::ops::activation::Activation;
use llm_train::ops::attention::{self, Heads};
use llm_train::ops::gemm::kernels::{ALL, choose};
use llm_train::ops::gemm::{Into, Kernel};
use llm_train::ops::mlp::{self, Layers};
use llm_train::tensor::{Kind, Plan, Tensor};
use numbers::Numbers;
use std::sync::{Mutex, PoisonError};

/// Held by the test that chooses kernels.
static TURN: Mutex<()> = Mutex::new(());

/// Heads narrow, wide, and too wide to be read where they lie; sequences that end within a strip, a tile, and a second tile.
const HEADS: [Heads; 8] = [
    Heads { q: 1, kv: 1, size: 2, seq: 1 },
    Heads { q: 2, kv: 1, size: 6, seq: 3 },
    Heads { q: 3, kv: 3, size: 64, seq: 65 },
    Heads { q: 4, kv: 2, size: 8, seq: 100 },
    Heads { q: 1, kv: 1, size: 128, seq: 130 },
    Heads { q: 2, kv: 1, size: 80, seq: 257 },
    Heads { q: 2, kv: 1, size: 272, seq: 70 },
    Heads { q: 2, kv: 1, size: 16, seq: 300 },
];

fn kernels() -> Vec<&'static Kernel> {
    let emulated: &[_] = if cfg!(target_arch = "x86_64") { &[&emulated::PAIRS, &emulated::TILES] } else { &[] };
    ALL.into_iter().filter(|k| (k.available)()).chain(emulated.iter().copied()).collect()
}

/// Numbers between −2 and 2, exact in bf16.
fn some(n: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| bf16::from_f32(2.0 * numbers.real()).to_f32()).collect()
}

/// Sums are added to what is there.
fn both(dev: &Device, [y, lse, dqkv, sums, qkv, dy]: [Tensor; 6], h: Heads, starts: Option<&[u32]>) -> [Tensor; 4] {
    dev.write(sums, &vec![1.0; sums.len()]);
    attention::forward(dev, y, lse, qkv, h, starts);
    let left = attention::backward(dev, dqkv, Some(sums), dy, y, lse, qkv, h, starts);
    assert!(left.is_none(), "sums are left to do");
    [y, lse, dqkv, sums]
}

/// What both write, of qkv and its gradient in f32, or in bf16 as with a GPT-2. The threads' rooms and the outputs have held NaN before.
fn on(h: Heads, in_bf16: bool, starts: Option<&[u32]>, device: impl Fn(&Plan) -> Device) -> [Vec<f32>; 4] {
    let (n, mut plan) = (2 * h.seq, Plan::with_halves(in_bf16));
    let [qkv, dqkv] = [(); 2].map(|()| plan.operand(Kind::Activations, n, h.width()));
    let mut m = |cols| plan.matrix(Kind::Activations, n, cols);
    let [y, lse, dy] = [m(h.q * h.size), m(h.q), m(h.q * h.size)];
    let all = [y, lse, dqkv, plan.vector(Kind::Activations, h.width()), qkv, dy];
    let dev = device(&plan);
    let outputs = || dev.install(|| both(&dev, all, h, starts)).map(|t| dev.read(t));
    dev.write(dy, &some(dy.len(), 5));
    dev.write(qkv, &vec![f32::NAN; qkv.len()]);
    assert!(outputs().iter().flatten().all(|x| x.is_nan()), "{h:?}: what is no number has come to nothing");
    dev.write(qkv, &some(qkv.len(), 7));
    outputs()
}

#[test]
fn agree_on_attention() {
    let _mine = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (kernel, h) in kernels().into_iter().flat_map(|kernel| HEADS.map(|h| (kernel, h))) {
        let documents: Vec<u32> = (0..2 * h.seq).map(|n| (n % h.seq / 50 * 50) as u32).collect();
        for starts in [None, Some(&documents[..])] {
            let expected = on(h, false, starts, |plan| Device::reference(plan).unwrap());
            let hold = |precision, in_bf16| {
                choose(precision, kernel);
                let found = on(h, in_bf16, starts, |plan| Device::cpu(plan, 2, &[], precision).unwrap());
                for (t, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    let size = expected.iter().fold(1.0, |most: f32, x| most.max(x.abs()));
                    // eight bits of mantissa of p and ds, and sums of a few roundings
                    let allowed = if precision == Precision::Fp32 { 2e-6 } else { 1.0 / 256.0 } * size;
                    let what = format!("{} in {precision:?}, {h:?}, in bf16 {in_bf16}, output {t}", kernel.name);
                    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                        assert!((expected - found).abs() <= allowed, "{what}: element {i} is {found}, not {expected}");
                    }
                }
                found
            };
            let [rounded, _] = [false, true].map(|in_bf16| hold(Precision::Bf16, in_bf16));
            if kernel.pair == 1 {
                // the inputs are exact in bf16: y and dv differ by p alone, which is rounded on its way into products
                let exact = hold(Precision::Fp32, false);
                let values = |x: &[f32]| x.chunks(h.width()).map(|row| row[(h.q + h.kv) * h.size..].to_vec()).collect::<Vec<_>>();
                let as_they_are = [rounded[0] == exact[0], values(&rounded[2]) == values(&exact[2])];
                assert!(h.seq == 1 || as_they_are == [false; 2], "{} {h:?}: p was not rounded, {as_they_are:?}", kernel.name);
            }
        }
    }
}

/// As large as what AMX writes past the caches, in bf16 too; rows that are no whole tiles.
#[test]
fn agree_on_a_large_mlp() {
    let _mine = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let run = |in_bf16, device: &dyn Fn(&Plan) -> Device| {
        let ((n, c, f), mut plan) = ((300, 32, 4096), Plan::with_halves(in_bf16));
        let [act, dinner] = [(); 2].map(|()| plan.operand(Kind::Activations, n, f));
        let mut m = |rows, cols| plan.matrix(Kind::Activations, rows, cols);
        let [x, dy, dx, inner] = [m(n, c), m(n, c), m(n, c), m(n, f)];
        let [w, g] = [(); 2].map(|()| Layers { up: m(f, c), up_bias: Some(m(1, f)), down: m(c, f), down_bias: Some(m(1, c)) });
        let dev = device(&plan);
        for (seed, (t, scale)) in [(x, 1.0), (dy, 1.0), (w.up, 1.0 / 16.0), (w.down, 1.0 / 16.0)].into_iter().enumerate() {
            dev.write(t, &some(t.len(), seed as u64).iter().map(|x| scale * x).collect::<Vec<_>>());
        }
        dev.install(|| {
            mlp::forward(&dev, Activation::Gelu, act, inner, x, &w);
            mlp::backward(&dev, Activation::Gelu, dx, dinner, None, &g, dy, x, act, inner, &w, Into::Overwrite);
        });
        [act, inner, dinner, dx, g.up, g.up_bias.expect("given"), g.down].map(|t| dev.read(t))
    };
    let expected = run(false, &|plan| Device::reference(plan).unwrap());
    for kernel in kernels() {
        choose(Precision::Bf16, kernel);
        let found = run(true, &|plan| Device::cpu(plan, 2, &[], Precision::Bf16).unwrap());
        for (t, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let size = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                let what = format!("{}, output {t}: element {i} is {found}, not {expected}", kernel.name);
                assert!((expected - found).abs() <= size / 200.0, "{what}");
            }
        }
    }
}
