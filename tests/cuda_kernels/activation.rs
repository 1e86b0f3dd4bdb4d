//! GELU, ReLU and SwiGLU, with and without the bias before them.
use crate::arguments;
use crate::numbers::{Answers, assert_close, random};
use crate::simulator::{Buffer, each_real, mutated};
use llm_train::ops::activation::{self, Activation};

#[test]
fn activation() {
    let shapes: &[(usize, usize)] =
        if mutated() { &[(3, 72), (3, 13)] } else { &[(1, 1), (1, 8), (5, 7), (3, 72), (40, 128), (3, 2051)] };
    each_real(|sim| {
        for &(n, f) in shapes {
            for (kind, name) in [(Activation::Gelu, "gelu"), (Activation::Relu, "relu"), (Activation::SwiGlu, "swiglu")] {
                for biased in [false, true] {
                    let what = format!("{name} ({n}, {f}), bias {biased}");
                    let wide = kind.inputs() * f;
                    let x = sim.rounded(&random(&what, n * wide).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
                    let (bias, dy) = (sim.rounded(&random("bias", wide)), sim.rounded(&random("dy", n * f)));
                    let after: Vec<f32> = (0..n * wide).map(|i| x[i] + if biased { bias[i % wide] } else { 0.0 }).collect();
                    let after = sim.rounded(&after);
                    let (biases, dys, inputs) = (sim.real(&bias), sim.real(&dy), sim.real(&after));
                    let grid = (n * f.div_ceil(8)).div_ceil(256);

                    let got = sim.in_every_order(|| {
                        let (y, xs, dx) = (sim.room(n * f), sim.real(&x), sim.room(n * wide));
                        let bias: Option<&Buffer> = biased.then_some(&biases);
                        sim.launch(&format!("{name}_forward"), grid, 256, 0, arguments![&y, &xs, bias, n, f]);
                        sim.launch(&format!("{name}_backward"), grid, 256, 0, arguments![&dx, &dys, &inputs, n, f]);
                        vec![y, xs, dx]
                    });
                    let mut answers = Answers::default();
                    let (y, dx) = (answers.room(n, f), answers.room(n, wide));
                    let (tx, tdy) = (answers.put(n, wide, &after), answers.put(n, f, &dy));
                    let dev = answers.device();
                    activation::forward(&dev, kind, y, tx);
                    activation::backward(&dev, kind, dx, Some(tdy), tx, None, None);
                    assert_close(&format!("{what}: y"), &sim.floats(&got[0]), &dev.read(y), sim.real);
                    assert_eq!(sim.floats(&got[1]), after, "{what}: x with its bias");
                    assert_close(&format!("{what}: dx"), &sim.floats(&got[2]), &dev.read(dx), sim.real);
                }
            }
        }
    });
}

#[test]
fn a_nan_stays_one() {
    each_real(|sim| {
        for name in ["gelu", "relu", "swiglu"] {
            let (y, x) = (sim.room(8), sim.real(&[f32::NAN; 16]));
            sim.launch(&format!("{name}_forward"), 1, 256, 0, arguments![&y, &x, None::<&Buffer>, 1, 8]);
            assert!(sim.floats(&y).iter().all(|y| y.is_nan()), "{name}");
        }
    });
}
