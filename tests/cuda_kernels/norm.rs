//! LayerNorm and RMSNorm, with and without the residual's addition.
use crate::arguments;
use crate::numbers::{Answers, assert_close, random};
use crate::simulator::{Buffer, Real, each_real, mutated};
use llm_train::ops::norm::{self, Norm, Onward};

const EPS: f32 = 1e-5;

/// Threads of a block, of the kernels for rows of any length or of those for short ones.
fn block(c: usize, wide: bool) -> usize {
    let each = c.div_ceil(8).next_multiple_of(32);
    if wide { each.min(256) } else { each }
}

#[test]
fn norm() {
    let shapes: &[(usize, usize)] = if mutated() {
        &[(5, 300), (3, 768)]
    } else {
        &[(1, 1), (1, 8), (3, 7), (5, 64), (4, 300), (7, 768), (2, 2056), (2, 2051)]
    };
    each_real(|sim| {
        for &(n, c) in shapes {
            for (kind, with_beta) in [(Norm::Layer, true), (Norm::Layer, false), (Norm::Rms, false)] {
                for (adds, wide) in [(false, false), (true, false), (false, true), (true, true)] {
                    let name = format!("{kind:?} ({n}, {c}) beta {with_beta} add {adds} wide {wide}");
                    let layer = i32::from(kind == Norm::Layer);
                    let [x, gamma, beta, dy, dx] =
                        [n * c, c, c, n * c, n * c].map(|len| sim.rounded(&random(&format!("{name} {len}"), len)));
                    let add = sim.rounded(&random("add", n * c));
                    let gamma: Vec<f32> = sim.rounded(&gamma.iter().map(|g| 1.0 + 0.2 * g).collect::<Vec<_>>());

                    let [xs, adds_, gs, bs] = [&x, &add, &gamma, &beta].map(|v| sim.real(v));
                    let forward = sim.in_every_order(|| {
                        let (y, stats) = (sim.room(n * c), Buffer::fresh(8 * n));
                        let sum = adds.then(|| sim.room(n * c));
                        let add = if adds { Some(&adds_) } else { None };
                        let beta = if with_beta { Some(&bs) } else { None };
                        if wide {
                            let arguments = arguments![&y, &stats, sum.as_ref(), &xs, add, &gs, beta, c, EPS, layer];
                            sim.launch("norm_forward_wide", n, block(c, wide), 0, arguments);
                        } else {
                            let arguments = arguments![&y, &stats, sum.as_ref(), &xs, add, &gs, beta, n, c, EPS, layer];
                            // a block goes over several groups of rows, or each group has a block
                            let blocks = n.div_ceil(if adds { 8 } else { 4 });
                            sim.launch("norm_forward", blocks, block(c, wide), 0, arguments);
                        }
                        [y, stats].into_iter().chain(sum).collect()
                    });
                    // the norm is of the sum as memory holds it
                    let s =
                        if adds { sim.rounded(&x.iter().zip(&add).map(|(x, a)| x + a).collect::<Vec<_>>()) } else { x.clone() };
                    if adds {
                        assert_eq!(sim.floats(&forward[2]), s, "{name}: sum");
                    }
                    let mut answers = Answers::default();
                    let [ty, tstats, tdgamma, tdbeta] = [(n, c), (n, 2), (1, c), (1, c)].map(|(r, c)| answers.room(r, c));
                    let (ts, tgamma, tdy) = (answers.put(n, c, &s), answers.put(1, c, &gamma), answers.put(n, c, &dy));
                    let tbeta = with_beta.then(|| answers.put(1, c, &beta));
                    let tdx = answers.put(n, c, &dx);
                    let dev = answers.device();
                    norm::forward(&dev, kind, EPS, ty, tstats, ts, tgamma, tbeta);
                    assert_close(&format!("{name}: y"), &sim.floats(&forward[0]), &dev.read(ty), sim.real);
                    assert_close(&format!("{name}: stats"), &forward[1].to_vec::<f32>(), &dev.read(tstats), Real::Float);

                    // both passes read the reference's statistics, so that only the backward is compared
                    norm::backward(&dev, kind, tdx, tdgamma, tbeta.map(|_| tdbeta), tdy, ts, tstats, tgamma, Onward::default());
                    let (ss, dys, stats) = (sim.real(&s), sim.real(&dy), Buffer::of(&dev.read(tstats)));
                    for blocks in [1, n.min(3)] {
                        let backward = sim.in_every_order(|| {
                            let (dxs, partials) = (sim.real(&dx), Buffer::fresh(blocks * 2 * c * 4));
                            let (dgamma, dbeta) = (Buffer::of(&vec![0f32; c]), Buffer::of(&vec![0f32; c]));
                            let arguments = arguments![&dxs, &partials, &dys, &ss, &stats, &gs, n, c, layer];
                            let (kernel, shared) = if wide { ("norm_backward_wide", 8 * c) } else { ("norm_backward", 0) };
                            sim.launch(kernel, blocks, block(c, wide), shared, arguments);
                            let second = if with_beta { Some(&dbeta) } else { None };
                            let reduce = arguments![&dgamma, second, &partials, blocks, c];
                            sim.launch("column_reduce", [c.div_ceil(32), 2], [32, 8], 0, reduce);
                            vec![dxs, dgamma, dbeta]
                        });
                        assert_close(&format!("{name}: dx"), &sim.floats(&backward[0]), &dev.read(tdx), sim.real);
                        assert_close(&format!("{name}: dγ"), &backward[1].to_vec::<f32>(), &dev.read(tdgamma), Real::Float);
                        if with_beta {
                            assert_close(&format!("{name}: dβ"), &backward[2].to_vec::<f32>(), &dev.read(tdbeta), Real::Float);
                        }
                    }
                }
            }
        }
    });
}
