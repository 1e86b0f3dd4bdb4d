//! Every op against the reference device, which runs it as naive loops in f64.
//!
//! ```text
//! for each kernel of products (portable, avx2, …), all else in the same instruction set
//! for fp32 and bf16                       bf16: the operands are rounded first, so that products have nothing to round
//! for each op and size                    ragged in every direction, and as large as a layer
//! |found − exact| ≤ allowed (1 + |exact|)         every element; what an op leaves unwritten is not a number
//! ```
use crate::device::{Device, Kept, Precision};
use crate::error::Result;
use crate::metrics::units::significant;
use crate::ops::activation::Activation;
use crate::ops::adamw::Step;
use crate::ops::attention::Heads;
use crate::ops::gemm::{Into, Kernel, kernels};
use crate::ops::norm::{Norm, Onward};
use crate::ops::rope::Scaling;
use crate::ops::verdict::Verdict;
use crate::ops::{MASKED, activation, adamw, attention, elementwise, embedding, linear, loss, norm, qk_norm, rope, simd};
use crate::tensor::{Kind, Plan, Tensor};
use half::bf16;
use serde_json::{Value, json};

/// The ops by one kernel, in one precision.
#[derive(Clone, Debug)]
pub struct Checked {
    pub kernel: &'static str,
    pub precision: Precision,
    /// Name, the largest error, what is allowed.
    pub ops: Vec<(String, f64, f64)>,
}

impl Checked {
    fn worst(&self) -> &(String, f64, f64) {
        let share = |op: &(String, f64, f64)| op.1 / op.2;
        self.ops.iter().max_by(|a, b| share(a).total_cmp(&share(b))).expect("there are ops")
    }
    pub fn passes(&self) -> bool {
        let (_, error, allowed) = self.worst();
        error <= allowed
    }
    pub(super) fn line(&self) -> String {
        let (name, error, allowed) = self.worst();
        let (share, n) = (significant(error / allowed, 3), self.ops.len());
        format!("ops {}: {share}    worst error of {n} ops over what is allowed, at {name}\n", self.what())
    }
    pub(super) fn complaint(&self) -> String {
        let (name, error, allowed) = self.worst();
        format!("{name} by {} is off by {error:.1e}, where {allowed:.1e} is allowed", self.what())
    }
    fn what(&self) -> String {
        format!("{} {}", self.kernel, self.precision.name())
    }
    pub(super) fn json(&self) -> Value {
        let op = |(name, error, allowed): &(String, f64, f64)| json!({ "op": name, "error": error, "allowed": allowed });
        json!({ "kernel": self.kernel, "precision": self.precision.name(), "ops": self.ops.iter().map(op).collect::<Vec<_>>() })
    }
}

/// Holds every op to its reference. Leaves the last kernel chosen.
///
/// Errors: the system refuses memory or threads.
pub(super) fn check(kernels: &[&'static Kernel], threads: usize) -> Result<Vec<Checked>> {
    let cases = cases();
    let mut exact = vec![];
    for precision in [Precision::Fp32, Precision::Bf16] {
        exact.push(cases.iter().map(|case| case.exact(precision)).collect::<Result<Vec<_>>>()?);
    }
    let mut all = vec![];
    for kernel in kernels {
        simd::limit(simd::beside(kernel.name));
        for precision in [Precision::Fp32, Precision::Bf16].into_iter().filter(|p| kernel.serves(*p)) {
            kernels::choose(precision, kernel);
            let mut ops = vec![];
            for (case, exact) in cases.iter().zip(&exact[precision as usize]) {
                ops.push((case.name.clone(), case.error(exact, precision, threads)?, case.allowed(precision)));
            }
            all.push(Checked { kernel: kernel.name, precision, ops });
        }
    }
    Ok(all)
}

/// An op with its operands.
struct Case {
    name: String,
    plan: Plan,
    values: Vec<(Tensor, Vec<f32>)>,
    outs: Vec<Tensor>,
    allowed: f64,
    /// Whether bf16 rounds something that the op itself computes.
    rounds: bool,
    run: Box<dyn Fn(&Device) + Send + Sync>,
}

/// Of eight bits of mantissa, and sums of a few roundings.
const ROUNDED: f64 = 3.0 / 256.0;

impl Case {
    fn allowed(&self, precision: Precision) -> f64 {
        if self.rounds && precision == Precision::Bf16 { ROUNDED } else { self.allowed }
    }

    fn fill(&self, dev: Device, precision: Precision) -> Device {
        for (t, values) in &self.values {
            match precision {
                Precision::Fp32 | Precision::Tf32 => dev.write(*t, values),
                Precision::Bf16 => {
                    dev.write(*t, &values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect::<Vec<_>>());
                }
            }
        }
        dev
    }

    fn exact(&self, precision: Precision) -> Result<Vec<Vec<f64>>> {
        let dev = self.fill(Device::reference(&self.plan)?, precision);
        (self.run)(&dev);
        let Device::Reference(d) = &dev else { unreachable!("made a line above") };
        Ok(self.outs.iter().map(|t| d.arena.op([], [*t], |[], [t]| t.to_vec())).collect())
    }

    /// The largest over all elements; infinite where one is not a number.
    fn error(&self, exact: &[Vec<f64>], precision: Precision, threads: usize) -> Result<f64> {
        let dev = self.fill(Device::cpu(&self.plan, threads, &[], precision)?, precision);
        dev.install(|| (self.run)(&dev));
        let mut worst = 0f64;
        for (out, exact) in self.outs.iter().zip(exact) {
            // Where something was rounded on the way, what an element lost is in proportion to the largest.
            let rounds = self.rounds && precision == Precision::Bf16;
            let largest = if rounds { exact.iter().fold(0.0, |m: f64, x| m.max(x.abs())) } else { 0.0 };
            for (exact, found) in exact.iter().zip(dev.read(*out)) {
                let error = (exact - f64::from(found)).abs() / (1.0 + exact.abs().max(largest));
                worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
            }
        }
        Ok(worst)
    }
}

/// The operands of a case that is being made.
#[derive(Default)]
struct Operands {
    plan: Plan,
    values: Vec<(Tensor, Vec<f32>)>,
    state: u64,
}

impl Operands {
    /// A number that looks random and is the same everywhere; xorshift.
    fn integer(&mut self, below: usize) -> usize {
        self.state = if self.state == 0 { 0x9e37_79b9_7f4a_7c15 } else { self.state };
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 33) as usize) % below
    }
    /// Between −`most` and `most`.
    fn matrix_of(&mut self, rows: usize, cols: usize, most: f32) -> Tensor {
        let values = (0..rows * cols).map(|_| most * (self.integer(1 << 20) as f32 / (1 << 19) as f32 - 1.0)).collect();
        self.filled(rows, cols, values)
    }
    fn matrix(&mut self, rows: usize, cols: usize) -> Tensor {
        self.matrix_of(rows, cols, 1.0)
    }
    fn output(&mut self, rows: usize, cols: usize) -> Tensor {
        self.filled(rows, cols, vec![f32::NAN; rows * cols])
    }
    fn filled(&mut self, rows: usize, cols: usize, values: Vec<f32>) -> Tensor {
        let t = self.plan.matrix(Kind::Activations, rows, cols);
        self.values.push((t, values));
        t
    }
    fn integers(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.integer(below) as u32).collect()
    }
    fn case(self, name: &str, outs: &[Tensor], allowed: f64, run: impl Fn(&Device) + Send + Sync + 'static) -> Case {
        let (Operands { plan, values, .. }, name, outs) = (self, name.to_string(), outs.to_vec());
        Case { name, plan, values, outs, allowed, rounds: false, run: Box::new(run) }
    }
}

/// Rows and columns: ragged, and as wide as a layer.
const SIZES: [(usize, usize); 3] = [(5, 33), (67, 100), (130, 513)];
/// Of products: rows, inputs, outputs. Ragged; more than a packed slab of rows, of inputs.
const PRODUCTS: [[usize; 3]; 4] = [[5, 33, 35], [130, 257, 290], [1030, 70, 66], [17, 9000, 33]];
const HEADS: [Heads; 3] = [
    Heads { q: 2, kv: 1, size: 6, seq: 33 },
    Heads { q: 3, kv: 3, size: 64, seq: 130 },
    Heads { q: 4, kv: 2, size: 80, seq: 257 },
];

fn cases() -> Vec<Case> {
    let mut all = vec![];
    for [n, c, o] in PRODUCTS {
        let mut b = Operands::default();
        let (y, x, w, bias, residual) = (b.output(n, o), b.matrix(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
        let (dx, dw, db, dy) = (b.output(n, c), b.matrix(o, c), b.matrix(1, o), b.matrix(n, o));
        // the error of a sum grows with its length
        let allowed = 2e-5 * (c.max(n) as f64 / 300.0).max(1.0);
        all.push(b.case(&format!("linear {n} × {c} × {o}"), &[y, dx, dw, db], allowed, move |dev| {
            linear::forward(dev, y, x, w, Some(bias), Some(residual));
            linear::backward(dev, dx, dw, Some(db), dy, x, w, Into::Add);
        }));
    }
    for h in HEADS {
        attention_of(h, &mut all);
    }
    for (n, c) in SIZES {
        plain(n, c, &mut all);
    }
    all
}

fn attention_of(h: Heads, all: &mut Vec<Case>) {
    let (n, width, cols) = (2 * h.seq, h.width(), h.q * h.size);
    for documents in [false, true] {
        let mut b = Operands::default();
        let (qkv, dy) = (b.matrix(n, width), b.matrix(n, cols));
        let (y, lse, dqkv) = (b.output(n, cols), b.output(n, h.q), b.output(n, width));
        // documents of 40 tokens, the last cut off
        let starts: Option<Vec<u32>> = documents.then(|| (0..n).map(|i| (i % h.seq / 40 * 40) as u32).collect());
        let name = format!("attention {}{}", h.seq, if documents { " with documents" } else { "" });
        let case = b.case(&name, &[y, lse, dqkv], 1e-5, move |dev| {
            attention::forward(dev, y, lse, qkv, h, starts.as_deref());
            attention::backward(dev, dqkv, None, dy, y, lse, qkv, h, starts.as_deref());
        });
        all.push(Case { rounds: true, ..case });
    }

    let mut b = Operands::default();
    let (y, qkv) = (b.output(1, cols), b.matrix(1, width));
    let [k, v] = [(); 2].map(|()| b.matrix(h.seq, h.kv * h.size));
    let case = b.case(&format!("attention of one row {}", h.seq), &[y], 1e-5, move |dev| {
        attention::decode(dev, y, qkv, k, v, h.seq, h);
    });
    all.push(Case { rounds: true, ..case });

    let mut b = Operands::default();
    let (qkv, dqkv, table) = (b.matrix(n, width), b.matrix(n, width), b.output(h.seq, h.size));
    all.push(b.case(&format!("rope {}", h.seq), &[table, qkv, dqkv], 1e-6, move |dev| {
        rope::table(dev, table, 500_000.0, Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 });
        rope::forward(dev, qkv, table, h, None);
        rope::backward(dev, dqkv, table, h, None);
    }));

    let mut b = Operands::default();
    let [x, dy] = [(); 2].map(|()| b.matrix(n, width));
    let (y, stats, dx) = (b.output(n, width), b.output(n, h.q + h.kv), b.output(n, width));
    let [gamma_q, gamma_k, dgamma_q, dgamma_k] = [(); 4].map(|()| b.matrix(1, h.size));
    all.push(b.case(&format!("qk_norm {}", h.seq), &[y, stats, dx, dgamma_q, dgamma_k], 2e-5, move |dev| {
        qk_norm::forward(dev, y, stats, x, gamma_q, gamma_k, 1e-3, h);
        qk_norm::backward(dev, dx, dgamma_q, dgamma_k, dy, x, stats, gamma_q, gamma_k, h);
    }));
}

/// What is no product.
fn plain(n: usize, c: usize, all: &mut Vec<Case>) {
    let size = format!("{n} × {c}");
    let mut b = Operands::default();
    let (x, y, zero, sum, squares) = (b.matrix(n, c), b.output(n, c), b.output(n, c), b.output(n, c), b.output(1, 1));
    all.push(b.case(&format!("elementwise {size}"), &[y, zero, sum, squares], 1e-6, move |dev| {
        elementwise::zero(dev, zero);
        elementwise::copy(dev, y, x);
        elementwise::add(dev, sum, x, y);
        dev.write(squares, &[(elementwise::square_sum(dev, x) + dev.take(Kept::Squares)) as f32]);
    }));

    for kind in [Norm::Layer, Norm::Rms] {
        let mut b = Operands::default();
        let (y, stats, x, gamma, beta) = (b.output(n, c), b.output(n, 2), b.matrix(n, c), b.matrix(1, c), b.matrix(1, c));
        let (dx, dgamma, dbeta, dy) = (b.matrix(n, c), b.matrix(1, c), b.matrix(1, c), b.matrix(n, c));
        all.push(b.case(&format!("{kind:?} norm {size}"), &[y, stats, dx, dgamma, dbeta], 2e-5, move |dev| {
            let option = |t| (kind == Norm::Layer).then_some(t);
            norm::forward(dev, kind, 1e-3, y, stats, x, gamma, option(beta));
            norm::backward(dev, kind, dx, dgamma, option(dbeta), dy, x, stats, gamma, Onward::default());
        }));
    }

    for kind in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
        let mut b = Operands::default();
        let cols = kind.inputs() * c;
        // far into both tails
        let (x, y, dx, dy) = (b.matrix_of(n, cols, 12.0), b.output(n, c), b.output(n, cols), b.matrix(n, c));
        all.push(b.case(&format!("{kind:?} {size}"), &[y, dx], 2e-6, move |dev| {
            activation::forward(dev, kind, y, x);
            activation::backward(dev, kind, dx, Some(dy), x, None, None);
        }));
    }

    let mut b = Operands::default();
    let (vocab, seq, offset) = (37, n.div_ceil(2), 2);
    let (tokens, positions) = (b.integers(n, vocab), b.integers(n, seq));
    let (x, wte, wpe) = (b.output(n, c), b.matrix(vocab, c), b.matrix(seq + offset, c));
    let (dx, dwte, dwpe) = (b.matrix(n, c), b.matrix(vocab, c), b.matrix(seq + offset, c));
    all.push(b.case(&format!("embedding {size}"), &[x, dwte, dwpe], 1e-5, move |dev| {
        embedding::forward(dev, x, &tokens, seq, wte, Some(wpe), offset, Some(&positions));
        embedding::backward(dev, dwte, Some(dwpe), dx, &tokens, seq, offset, Some(&positions));
    }));

    let mut b = Operands::default();
    let vocab = c - 3; // the last columns are padding
    let mut targets = b.integers(n, vocab);
    targets.iter_mut().skip(3).step_by(4).for_each(|t| *t = MASKED);
    let (z, losses) = (b.matrix_of(n, c, 20.0), b.output(1, 2));
    all.push(b.case(&format!("cross-entropy {size}"), &[z, losses], 1e-6, move |dev| {
        let only = loss::cross_entropy_only(dev, z, &targets, vocab) + dev.take(Kept::Loss);
        let whole = loss::cross_entropy(dev, z, z, &targets, vocab, 0.25) + dev.take(Kept::Loss);
        dev.write(losses, &[only, whole].map(|sum| (sum / n as f64) as f32));
    }));

    let mut b = Operands::default();
    let (w, m, g) = (b.matrix(n, c), b.matrix(n, c), b.matrix(n, c));
    let v = b.filled(n, c, (0..n * c).map(|i| (i % 1000) as f32 / 1000.0).collect());
    all.push(b.case(&format!("adamw {size}"), &[w, m, v], 2e-6, move |dev| {
        let step = Step { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, t: 3, verdict: Verdict::Scale(0.5) };
        adamw::update(dev, w, m, v, g, 0.1, &step);
    }));
}
