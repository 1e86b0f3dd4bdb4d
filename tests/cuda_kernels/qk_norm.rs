//! RMSNorm of query and key heads.
use crate::arguments;
use crate::numbers::{Answers, assert_close, random};
use crate::simulator::{Buffer, Real, each_real, mutated};
use llm_train::ops::attention::Heads;
use llm_train::ops::qk_norm;

const EPS: f32 = 1e-6;

#[test]
fn qk_norm() {
    let shapes: &[(usize, usize, usize, usize)] = if mutated() {
        &[(3, 3, 2, 64), (3, 2, 1, 20)]
    } else {
        &[(1, 1, 1, 1), (3, 2, 1, 5), (5, 3, 3, 20), (3, 4, 2, 64), (7, 6, 2, 128), (3, 2, 1, 256), (2, 40, 8, 64)]
    };
    each_real(|sim| {
        for &(n, q, kv, size) in shapes {
            let h = Heads { q, kv, size, seq: n };
            let (w, normed) = (h.width(), q + kv);
            let (x, dy) = (sim.rounded(&random("qkv", n * w)), sim.rounded(&random("dy", n * w)));
            let (gq, gk) = (sim.rounded(&random("γq", size)), sim.rounded(&random("γk", size)));
            let mut answers = Answers::default();
            let [y, dx] = [0; 2].map(|_| answers.room(n, w));
            let (stats, dgq, dgk) = (answers.room(n, normed), answers.room(1, size), answers.room(1, size));
            let (tx, tdy) = (answers.put(n, w, &x), answers.put(n, w, &dy));
            let (tq, tk) = (answers.put(1, size, &gq), answers.put(1, size, &gk));
            let dev = answers.device();
            qk_norm::forward(&dev, y, stats, tx, tq, tk, EPS, h);
            qk_norm::backward(&dev, dx, dgq, dgk, tdy, tx, stats, tq, tk, h);

            let [xs, dys, gqs, gks] = [&x, &dy, &gq, &gk].map(|v| sim.real(v));
            let rs = Buffer::of(&dev.read(stats));
            let lanes = size.div_ceil(8).next_power_of_two();
            let what = format!("qk_norm {n} rows of {h:?}");
            let got = sim.in_every_order(|| {
                let (y, stats) = (sim.room(n * w), Buffer::fresh(4 * n * normed));
                let grid = (n * (q + 2 * kv) * lanes).div_ceil(256);
                let arguments = arguments![&y, &stats, &xs, &gqs, &gks, n, q, kv, size, lanes, EPS];
                sim.launch("qk_norm_forward", grid, 256, 0, arguments);
                vec![y, stats]
            });
            assert_close(&format!("{what}: y"), &sim.floats(&got[0]), &dev.read(y), sim.real);
            assert_close(&format!("{what}: stats"), &got[1].to_vec::<f32>(), &dev.read(stats), Real::Float);
            for blocks in [1, n.min(2)] {
                let got = sim.in_every_order(|| {
                    let (dx, partials) = (sim.room(n * w), Buffer::fresh(4 * blocks * 2 * size));
                    let [a, b] = [0; 2].map(|_| Buffer::of(&vec![0f32; size]));
                    let arguments = arguments![&dx, &partials, &dys, &xs, &rs, &gqs, &gks, n, q, kv, size, lanes];
                    sim.launch("qk_norm_backward", blocks, 256, 0, arguments);
                    let reduce = arguments![&a, &b, &partials, blocks, size];
                    sim.launch("column_reduce", [size.div_ceil(32), 2], [32, 8], 0, reduce);
                    vec![dx, a, b]
                });
                assert_close(&format!("{what}: dqkv"), &sim.floats(&got[0]), &dev.read(dx), sim.real);
                assert_close(&format!("{what}: dγ_q"), &got[1].to_vec::<f32>(), &dev.read(dgq), Real::Float);
                assert_close(&format!("{what}: dγ_k"), &got[2].to_vec::<f32>(), &dev.read(dgk), Real::Float);
            }
        }
    });
}
