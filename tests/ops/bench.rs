//! The same tensors on the reference and on the CPU, filled with the same numbers.
pub use crate::numbers::Numbers;
use llm_train::device::{Device, Precision};
use llm_train::tensor::{Kind, Plan, Tensor};

/// A plan being made; [`Bench::on`] gives a device on which every tensor holds its numbers.
#[derive(Default)]
pub struct Bench {
    plan: Plan,
    values: Vec<(Tensor, Vec<f32>)>,
}

impl Bench {
    /// A matrix of numbers between −1 and 1: also where an op will write, so that what it leaves unwritten shows.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Tensor {
        let mut numbers = Numbers::new(self.values.len() as u64 + 1);
        let values: Vec<f32> = (0..rows * cols).map(|_| numbers.real()).collect();
        self.filled(rows, cols, values)
    }
    pub fn filled(&mut self, rows: usize, cols: usize, values: Vec<f32>) -> Tensor {
        let t = self.plan.matrix(Kind::Activations, rows, cols);
        self.values.push((t, values));
        t
    }
    /// A matrix of not-a-number: an op must write all of it before anything is read.
    pub fn output(&mut self, rows: usize, cols: usize) -> Tensor {
        self.filled(rows, cols, vec![f32::NAN; rows * cols])
    }
    pub fn reference(&self) -> Device {
        self.fill(Device::reference(&self.plan).unwrap())
    }
    pub fn cpu(&self, threads: usize, precision: Precision) -> Device {
        self.fill(Device::cpu(&self.plan, threads, &[], precision).unwrap())
    }
    fn fill(&self, dev: Device) -> Device {
        self.values.iter().for_each(|(t, values)| dev.write(*t, values));
        dev
    }
    /// Runs `op` on the reference and on the CPU in fp32, and holds `outs` against each other:
    /// |difference| ≤ tolerance · (1 + |reference|) for every element.
    pub fn agree(&self, what: &str, outs: &[Tensor], tolerance: f64, op: impl Fn(&Device) + Sync) {
        let (reference, cpu) = (self.reference(), self.cpu(2, Precision::Fp32));
        op(&reference);
        cpu.install(|| op(&cpu));
        for (o, out) in outs.iter().enumerate() {
            for (i, (a, b)) in exact(&reference, *out).iter().zip(cpu.read(*out)).enumerate() {
                let error = (a - f64::from(b)).abs() / (1.0 + a.abs());
                assert!(error <= tolerance, "{what}: output {o}, element {i} of {out:?}: {b} for {a}, error {error:.1e}");
            }
        }
    }
}

/// The tensor's f64 elements on the reference.
pub fn exact(dev: &Device, t: Tensor) -> Vec<f64> {
    let Device::Reference(d) = dev else { panic!("f64 is the reference's") };
    d.arena.op([], [t], |[], [t]| t.to_vec())
}

/// Adds `by` to element `i`.
pub fn nudge(dev: &Device, t: Tensor, i: usize, by: f64) {
    let Device::Reference(d) = dev else { panic!("f64 is the reference's") };
    d.arena.op([t], [], |[t], []| t[i] += by);
}

/// Holds `gradient` against the central differences of `value` by the elements of `input`, in the norm over them:
/// ‖gradient − differences‖ ≤ 1e-7 ‖differences‖ (+ 1e-9).
pub fn differentiate(what: &str, dev: &Device, input: Tensor, gradient: &[f64], value: impl Fn() -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(gradient.len(), input.len());
    let (mut error, mut norm) = (0.0, 0.0);
    for (i, gradient) in gradient.iter().enumerate() {
        nudge(dev, input, i, STEP);
        let above = value();
        nudge(dev, input, i, -2.0 * STEP);
        let below = value();
        nudge(dev, input, i, STEP);
        let slope = (above - below) / (2.0 * STEP);
        error += (gradient - slope) * (gradient - slope);
        norm += slope * slope;
    }
    let (error, norm): (f64, f64) = (error.sqrt(), norm.sqrt());
    assert!(error <= 1e-7 * norm + 1e-9, "{what}: gradient off by {error:.2e} of {norm:.2e}");
    assert!(norm > 1e-3, "{what}: the gradient vanishes ({norm:.1e}), so this test shows nothing");
}

/// Σ c y, the loss of the gradient tests.
pub fn against(dev: &Device, y: Tensor, c: &[f64]) -> f64 {
    exact(dev, y).iter().zip(c).map(|(y, c)| y * c).sum()
}
