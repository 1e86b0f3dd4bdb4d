//! Linear layers with what cuBLASLt does at the end of a product: GELU and its slope, biases and their gradients. Every element
//! against the f64 reference, over ragged sizes, fused and not.
//!
//! A process finds CUDA's libraries where its loader looks from the start on, so the test starts itself again with the stubs in
//! its library path: the ignored test is what then runs.
use crate::scene::stubs;
use llm_train::device::cuda::{self, Cuda, Extent, Gpu};
use llm_train::device::{Device, Precision};
use llm_train::ops::activation::Activation;
use llm_train::ops::gemm::Into;
use llm_train::ops::mlp::{self, Layers};
use llm_train::tensor::{Kind, Plan, Tensor};
use std::process::Command;

/// Rows, inputs, F. F of 33 and 12 are no multiples of 8: nothing is fused there; a row, a column.
const SIZES: [[usize; 3]; 7] = [[1, 8, 8], [5, 24, 32], [3, 7, 33], [37, 70, 64], [130, 33, 104], [16, 9, 12], [2, 1, 1]];
/// cuBLASLt's numbers of GELU with a bias, GELU without, its slope, the sums of a bias's gradient.
const EPILOGUES: &str = "164,160,192,512";

/// What the stub noted of a process that ran the grid in one precision. `without`: epilogues that have no algorithm.
fn grid(precision: &str, without: &str) -> Option<String> {
    let (stubs, compiler) = stubs()?;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "products::on_the_device", "--ignored", "--nocapture"]);
    again.env("LD_LIBRARY_PATH", format!("{}:{}", stubs.display(), compiler.display()));
    again.env("STUB_KERNELS", stubs.join(format!("libkernels-{precision}.so"))).env("STUB_LOG", &log);
    again.env("STUB_NO_EPILOGUES", without).env("GRID_PRECISION", precision);
    again.env("XDG_CACHE_HOME", std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let done = again.output().unwrap();
    let text = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(done.status.success() && text.contains("1 passed"), "{precision} without {without:?}:\n{text}");
    Some(std::fs::read_to_string(log).unwrap())
}

fn count(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn what_ends_a_product_is_as_the_reference_has_it() {
    for precision in ["fp32", "bf16"] {
        let Some(log) = grid(precision, "") else { return };
        // 4 of the 7 sizes have an F of whole eights, each with and without biases; all three kinds have biases
        for (epilogue, n) in [("epilogue=164 ", 4), ("epilogue=160 ", 4), ("epilogue=192 ", 8), ("epilogue=512 ", 42)] {
            assert_eq!(count(&log, epilogue), n, "{precision} {epilogue}");
        }
        // the sizes that are left, and all of ReLU and SwiGLU
        assert_eq!([count(&log, "gelu_forward"), count(&log, "relu_forward"), count(&log, "swiglu_forward")], [6, 14, 14]);
        assert_eq!(count(&log, "column_sums"), 0, "{precision}: a bias's gradient had a pass of its own");

        let log = grid(precision, EPILOGUES).unwrap();
        for epilogue in EPILOGUES.split(',') {
            assert_eq!(count(&log, &format!("epilogue={epilogue} ")), 0, "{precision} {epilogue}");
        }
        assert_eq!([count(&log, "gelu_forward"), count(&log, "gelu_backward")], [14, 14], "{precision}");
        assert_eq!(count(&log, "column_sums"), 42, "{precision}");
        // either side alone
        let log = grid(precision, "164,160").unwrap();
        assert_eq!([count(&log, "gelu_forward"), count(&log, "gelu_backward")], [14, 6], "{precision}");
        let log = grid(precision, "192").unwrap();
        assert_eq!([count(&log, "gelu_forward"), count(&log, "gelu_backward")], [6, 14], "{precision}");
    }
}

/// The operands, and what an op leaves that is looked at.
struct Case {
    plan: Plan,
    values: Vec<(Tensor, Vec<f32>)>,
    state: u64,
}

impl Case {
    fn new() -> Case {
        Case { plan: Plan::default(), values: vec![], state: 7 }
    }
    /// Numbers between −most and most that bf16 holds.
    fn matrix(&mut self, kind: Kind, rows: usize, cols: usize, most: f32) -> Tensor {
        let t = self.plan.matrix(kind, rows, cols);
        let mut number = || {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            half::bf16::from_f32(most * ((self.state >> 40) as f32 / (1 << 23) as f32 - 1.0)).to_f32()
        };
        let values = (0..rows * cols).map(|_| number()).collect();
        self.values.push((t, values));
        t
    }
}

#[test]
#[ignore = "runs within another test"]
fn on_the_device() {
    let precision = if std::env::var("GRID_PRECISION").unwrap() == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
    let gpu = Gpu::of(0).unwrap();
    let kernels = cuda::binary(&gpu, precision).unwrap();
    for kind in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
        for [n, c, f] in SIZES {
            for bias in [true, false] {
                let mut k = Case::new();
                let inner = kind.inputs() * f;
                let mut layers = |kind, most| {
                    let (up, up_bias) = (k.matrix(kind, inner, c, most), k.matrix(kind, 1, inner, 1.0));
                    let (down, down_bias) = (k.matrix(kind, c, f, 0.5 * most), k.matrix(kind, 1, c, 1.0));
                    Layers { up, up_bias: bias.then_some(up_bias), down, down_bias: bias.then_some(down_bias) }
                };
                let (w, g) = (layers(Kind::Parameters, 1.0), layers(Kind::Gradients, 1.0));
                let act = |k: &mut Case, cols, most| k.matrix(Kind::Activations, n, cols, most);
                let [x, dx, dy] = [(); 3].map(|()| act(&mut k, c, 1.0));
                let [up, dup] = [(); 2].map(|()| act(&mut k, inner, 1.0));
                let [y, dact] = [(); 2].map(|()| act(&mut k, f, 1.0));
                let activations = vec![x, dx, dy, up, dup, y, dact];
                let dact = (kind == Activation::SwiGlu).then_some(dact);
                let extent = Extent { activations, rows: n, width: inner.max(c), heads: 1, ranks: 1, ..Extent::default() };
                let reference = Device::reference(&k.plan).unwrap();
                let found = Device::Cuda(Box::new(Cuda::new(&gpu, &k.plan, &extent, precision, &kernels, None).unwrap()));
                for dev in [&reference, &found] {
                    k.values.iter().for_each(|(t, values)| dev.write(*t, values));
                    mlp::forward(dev, kind, y, up, x, &w);
                    mlp::backward(dev, kind, dx, dup, dact, &g, dy, x, y, up, &w, Into::Add);
                }
                // bf16 rounds what is stored between two ops, and what is found: eight bits each
                for (name, t, roundings) in [
                    ("inner", up, 1.0),
                    ("act", y, 2.0),
                    ("dinner", dup, 3.0),
                    ("dx", dx, 4.0),
                    ("dW", g.up, 4.0),
                    ("dV", g.down, 2.0),
                ]
                .into_iter()
                .chain([("db", g.up_bias, 4.0), ("dc", g.down_bias, 1.0)].into_iter().filter_map(|(n, t, r)| Some((n, t?, r))))
                {
                    let (exact, found) = (reference.read(t), found.read(t));
                    let largest = exact.iter().fold(1f32, |m, x| m.max(x.abs()));
                    let bound = if precision == Precision::Bf16 { roundings / 256.0 } else { 2e-6 } * largest;
                    for (i, (exact, found)) in exact.iter().zip(&found).enumerate() {
                        let off = (exact - found).abs();
                        assert!(off <= bound, "{kind:?} {n} × {c} × {f}, bias {bias}: {name}[{i}] is {found} for {exact}");
                    }
                }
            }
        }
    }
}
