//! The optimizer's step.
use crate::arguments;
use crate::numbers::{Answers, assert_close, random};
use crate::simulator::{Buffer, NULL, Real, Simulator, mutated};
use half::bf16;
use llm_train::device::{Device, Precision, Rounding};
use llm_train::ops::adamw::{self, Step};
use llm_train::ops::verdict::Verdict;
use llm_train::tensor::{Kind, Plan, Tensor};

const STEP: Step = Step { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, t: 3, verdict: Verdict::Scale(0.5) };

/// The kernel's `struct Step`.
fn factors(s: &Step, draw: u32) -> Buffer {
    let corrected = |beta: f64| 1.0 - beta.powf(s.t as f64);
    let [rate, root] = [s.lr / corrected(s.beta1), 1.0 / corrected(s.beta2).sqrt()];
    let floats = [s.beta1, s.beta2, 1.0 - s.beta1, 1.0 - s.beta2, s.lr, rate, root, s.eps].map(|x| (x as f32).to_bits());
    Buffer::of(&floats.into_iter().chain([draw]).collect::<Vec<u32>>())
}

struct State {
    w: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    g: Vec<f32>,
}

impl State {
    fn new(n: usize) -> State {
        let v = random("v", n).iter().map(|v| v * v).collect();
        State { w: random("w", n), m: random("m", n), v, g: random("g", n) }
    }
}

/// w, m, v and the bf16 copy after a step over the elements `from..to`, of which the first is `first` of the model.
fn step(sim: &Simulator, s: &State, range: std::ops::Range<usize>, decay: f32, skip: u32, stochastic: bool) -> Vec<Buffer> {
    let (n, first) = (range.len(), range.start as u64);
    let [w, m, v, g] = [&s.w, &s.m, &s.v, &s.g].map(|x| Buffer::of(&x[range.clone()]));
    let copy = Buffer::fresh(2 * n);
    let (factors, scale, skip) = (factors(&STEP, 12345), Buffer::of(&[STEP.verdict.scale()]), Buffer::of(&[skip]));
    let stochastic = i32::from(stochastic);
    let arguments = arguments![&w, &m, &v, &copy, &g, &factors, &scale, &skip, decay, n as u64, first, stochastic];
    sim.launch("adamw", n.div_ceil(2048), 256, 0, arguments);
    vec![w, m, v, copy]
}

#[test]
fn adamw() {
    let sim = Simulator::new(Real::Bf16);
    for &n in if mutated() { &[2051][..] } else { &[1, 7, 8, 2051] } {
        for decay in [0.0, 0.1] {
            let s = State::new(n);
            let got = sim.in_every_order(|| step(&sim, &s, 0..n, decay, 0, false));
            let mut answers = Answers::default();
            let [w, m, v, g] = [&s.w, &s.m, &s.v, &s.g].map(|x| answers.put(1, n, x));
            let dev = answers.device();
            adamw::update(&dev, w, m, v, g, decay, &STEP);
            for (name, got, want) in [("w", &got[0], w), ("m", &got[1], m), ("v", &got[2], v)] {
                assert_close(&format!("adamw of {n}: {name}"), &got.to_vec::<f32>(), &dev.read(want), Real::Float);
            }
            let copy: Vec<bf16> = got[0].to_vec::<f32>().into_iter().map(bf16::from_f32).collect();
            assert_eq!(got[3].to_vec::<bf16>(), copy, "adamw of {n}: copy");
        }
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    let sim = Simulator::new(Real::Bf16);
    let s = State::new(100);
    let got = step(&sim, &s, 0..100, 0.1, 1, false);
    for (got, before) in got.iter().zip([&s.w, &s.m, &s.v]) {
        assert_eq!(&got.to_vec::<f32>(), before);
    }
    assert!(got[3].bytes().iter().all(|b| *b == 0xff));
}

#[test]
fn without_a_copy() {
    let sim = Simulator::new(Real::Bf16);
    let [w, m, v, g] = [0.5f32; 4].map(|x| Buffer::of(&[x; 16]));
    let (factors, scale, skip) = (factors(&STEP, 0), Buffer::of(&[1f32]), Buffer::of(&[0u32]));
    let arguments = arguments![&w, &m, &v, NULL, &g, &factors, &scale, &skip, 0f32, 16u64, 0u64, 0];
    sim.launch("adamw", 1, 256, 0, arguments);
    assert!(w.to_vec::<f32>().iter().all(|w| *w < 0.5));
}

#[test]
fn stochastic_rounding_is_unbiased_and_knows_no_shards() {
    let sim = Simulator::new(Real::Bf16);
    let n = 1 << 15;
    let s = State::new(n);
    let got = step(&sim, &s, 0..n, 0.1, 0, true);
    let (w, copy) = (got[0].to_vec::<f32>(), got[3].to_vec::<bf16>());
    let mut error = 0.0;
    for (w, copy) in w.iter().zip(&copy) {
        // the two neighbours: the upper 16 bits, and the next number away from 0
        let (below, above) = (w.to_bits() & 0xffff_0000, (w.to_bits() & 0xffff_0000) + 0x1_0000);
        let bits = copy.to_f32().to_bits();
        assert!(bits == below || bits == above && *w != f32::from_bits(below), "{w:e} became {copy:e}");
        let gap = f64::from(f32::from_bits(above)) - f64::from(f32::from_bits(below));
        error += (f64::from(copy.to_f32()) - f64::from(*w)) / gap;
    }
    // each error has a deviation of at most 1/2
    assert!(error.abs() < 4.0 * 0.5 * (n as f64).sqrt(), "mean error {:.4} of a gap", error / n as f64);
    let nearest = w.iter().zip(&copy).filter(|(w, c)| bf16::from_f32(**w) == **c).count();
    assert!(nearest < n * 9 / 10, "{nearest} of {n} are rounded to nearest");
    let halves: Vec<bf16> =
        [0..n / 2, n / 2..n].into_iter().flat_map(|half| step(&sim, &s, half, 0.1, 0, true)[3].to_vec::<bf16>()).collect();
    assert_eq!(halves, copy);
    // Made again from w, beginning anywhere, they are the same.
    for range in [0..n, 3..1000, 1001..1003, 8..16] {
        let (len, y) = (range.len(), Buffer::fresh(2 * range.len()));
        let (x, first) = (Buffer::of(&w[range.clone()]), range.start as u64);
        sim.launch("to_bf16_at_random", len.div_ceil(2048), 256, 0, arguments![&y, &x, len as u64, first, 12345i32]);
        assert_eq!(y.to_vec::<bf16>(), copy[range.clone()], "made again: {range:?}");
    }
}

/// Elements `from..` of one group of a model whose weights are bf16 alone, on the CPU: w, m and v after the step.
fn on_cpu(s: &State, from: usize, decay: f32, seed: Option<u64>) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let n = s.w.len();
    let mut plan = Plan::with_halves(true).with_weights_in_bf16(true);
    let all = plan.vector(Kind::Parameters, from + n);
    plan.weights();
    let [m, v, g] = [Kind::Optimizer, Kind::Optimizer, Kind::Gradients].map(|kind| plan.vector(kind, n));
    let mut dev = Device::cpu(&plan, 2, &[], Precision::Bf16).unwrap();
    if let Some(seed) = seed {
        dev.round_at_random(Rounding::new(seed, std::iter::once(&(0..all.len()))));
    }
    let w = Tensor::range(from, from + n);
    [(w, &s.w), (m, &s.m), (v, &s.v), (g, &s.g)].into_iter().for_each(|(t, x)| dev.write(t, x));
    dev.install(|| adamw::update(&dev, w, m, v, g, decay, &STEP));
    (dev.read(w), dev.read(m), dev.read(v))
}

/// The kernel's numbers and the processor's. Where an update's last bits in f32 differ, so may one in 2¹⁶ of what is rounded.
#[test]
fn weights_in_bf16_are_those_of_the_cpu() {
    const SEED: u64 = 7;
    let sim = Simulator::new(Real::Bf16);
    for (n, from) in if mutated() { &[(2051, 64)][..] } else { &[(1, 0), (7, 0), (8, 64), (2051, 64), (40_000, 1 << 17)] } {
        for (decay, seed) in [(0.0, None), (0.1, None), (0.1, Some(SEED))] {
            let (n, from) = (*n, *from);
            let s = State::new(n);
            let rounding = Rounding::new(seed.unwrap_or(0), std::iter::once(&(0..from + n)));
            let w: Vec<bf16> = s.w.iter().map(|x| bf16::from_f32(*x)).collect();
            let run = || {
                let [m, v, g] = [&s.m, &s.v, &s.g].map(|x| Buffer::of(x));
                let (w, factors) = (Buffer::of(&w), factors(&STEP, rounding.draw_of(STEP.t)));
                let (scale, skip) = (Buffer::of(&[STEP.verdict.scale()]), Buffer::of(&[0u32]));
                let (first, stochastic) = (rounding.place(from), i32::from(seed.is_some()));
                let arguments = arguments![&w, &m, &v, &g, &factors, &scale, &skip, decay, n as u64, first, stochastic];
                sim.launch("adamw_bf16", n.div_ceil(2048), 256, 0, arguments);
                vec![w, m, v]
            };
            let got = sim.in_every_order(run);
            let what = format!("adamw of {n} weights in bf16, {decay}, {seed:?}");
            let (want, m, v) = on_cpu(&s, from, decay, seed);
            assert_close(&format!("{what}: m"), &got[1].to_vec::<f32>(), &m, Real::Float);
            assert_close(&format!("{what}: v"), &got[2].to_vec::<f32>(), &v, Real::Float);
            let mut others = 0;
            for (i, (got, want)) in got[0].to_vec::<bf16>().into_iter().zip(want).enumerate() {
                let apart = got.to_bits().abs_diff(bf16::from_f32(want).to_bits());
                assert!(apart <= 1, "{what}: weight {i} is {got:e}, on the CPU {want:e}");
                others += usize::from(apart);
            }
            assert!(others <= 1 + n / 5000, "{what}: {others} others");
        }
    }
}

#[test]
fn a_skipped_step_leaves_weights_in_bf16() {
    let sim = Simulator::new(Real::Bf16);
    let [m, v, g] = [0.5f32; 3].map(|x| Buffer::of(&[x; 16]));
    let (w, factors) = (Buffer::of(&[bf16::ONE; 16]), factors(&STEP, 0));
    for (skip, changed) in [(1u32, false), (0, true)] {
        let (scale, skip) = (Buffer::of(&[1f32]), Buffer::of(&[skip]));
        let arguments = arguments![&w, &m, &v, &g, &factors, &scale, &skip, 0f32, 16u64, 0u64, 0];
        sim.launch("adamw_bf16", 1, 256, 0, arguments);
        assert!(w.to_vec::<bf16>().iter().all(|w| (*w < bf16::ONE) == changed));
    }
}

/// Every bit: places behind 2³² and in every group, numbers of every size.
#[test]
fn random_bits_are_those_of_the_cpu() {
    let sim = Simulator::new(Real::Bf16);
    let n = 5000;
    let x: Vec<f32> = (0..n as u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).filter(|x| !x.is_nan()).collect();
    for first in [0u64, 64, (1 << 32) - 2048, 3 << 40 | 128] {
        for draw in [0u32, 12345, 0xffff_ffff] {
            let (from, y) = (Buffer::of(&x), Buffer::fresh(2 * x.len()));
            let arguments = arguments![&y, &from, x.len() as u64, first, draw as i32];
            sim.launch("to_bf16_at_random", x.len().div_ceil(2048), 256, 0, arguments);
            let mut want = vec![bf16::ZERO; x.len()];
            adamw::halve_at_random(&mut want, &x, first, draw);
            assert!(y.to_vec::<bf16>() == want, "place {first}, draw {draw}");
        }
    }
}
