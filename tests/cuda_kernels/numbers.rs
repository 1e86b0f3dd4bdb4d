//! Numbers to test with, the reference device that knows the answers, and what counts as equal.
use crate::simulator::Real;
use llm_train::device::Device;
use llm_train::tensor::{Kind, Plan, Tensor};

fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A stream of numbers, and number `index` of it in (0, 1): those of `model/init.rs`, from which samples are drawn too.
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(seed))
}
pub fn uniform(key: u64, index: u64) -> f64 {
    let bits = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    f64::from_bits(1023 << 52 | bits >> 12) - 1.0 + f64::EPSILON / 2.0
}

/// `len` numbers, nearly normal, a function of `name`.
pub fn random(name: &str, len: usize) -> Vec<f32> {
    let key = key(1, name);
    (0..len).map(|i| ((0..4).map(|k| uniform(key, (4 * i + k) as u64)).sum::<f64>() - 2.0) as f32 * 1.7).collect()
}

/// `len` whole numbers below `end`.
pub fn choices(name: &str, len: usize, end: usize) -> Vec<u32> {
    let key = key(2, name);
    (0..len).map(|i| (uniform(key, i as u64) * end as f64) as u32).collect()
}

/// A memory of the reference device, filled while it is planned.
#[derive(Default)]
pub struct Answers {
    plan: Plan,
    values: Vec<(Tensor, Vec<f32>)>,
}

impl Answers {
    pub fn put(&mut self, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        let t = self.room(rows, cols);
        self.values.push((t, values.to_vec()));
        t
    }
    pub fn room(&mut self, rows: usize, cols: usize) -> Tensor {
        self.plan.matrix(Kind::Activations, rows, cols)
    }
    pub fn device(self) -> Device {
        let dev = Device::reference(&self.plan).unwrap();
        self.values.iter().for_each(|(t, v)| dev.write(*t, v));
        dev
    }
}

/// Each element within the rounding of its kind, and a little of the largest for what float sums lose.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], real: Real) {
    let relative = if real == Real::Bf16 { 1.0 / 256.0 } else { 1e-5 };
    assert_within(what, got, want, relative, 2e-5);
}

/// |got − want| ≤ relative · |want| + absolute · the largest |want|. A NaN is never within.
pub fn assert_within(what: &str, got: &[f32], want: &[f32], relative: f32, absolute: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let largest = want.iter().fold(0f32, |m, w| m.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let near = (g - w).abs() <= relative * w.abs() + absolute * largest;
        assert!(near, "{what}: element {i} of {} is {g}, the reference says {w}", got.len());
    }
}
