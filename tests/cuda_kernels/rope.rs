//! Rotary positions, there and back.
use crate::arguments;
use crate::numbers::{Answers, assert_close, choices, random};
use crate::simulator::{Buffer, each_real, mutated};
use llm_train::ops::attention::Heads;
use llm_train::ops::rope::{self, Scaling};

#[test]
fn rope() {
    let shapes: &[(usize, usize, usize, usize, usize)] = if mutated() {
        &[(6, 3, 2, 1, 64), (6, 3, 2, 1, 6)]
    } else {
        &[(1, 1, 1, 1, 2), (6, 3, 2, 1, 6), (6, 3, 3, 3, 16), (4, 4, 4, 2, 64), (9, 3, 6, 2, 128), (5, 5, 3, 1, 80)]
    };
    each_real(|sim| {
        for &(n, seq, q, kv, size) in shapes {
            for given in [false, true] {
                let h = Heads { q, kv, size, seq };
                let x = sim.rounded(&random("qkv", n * h.width()));
                let positions = choices("positions", n, seq);
                let mut answers = Answers::default();
                let (angles, forward) = (answers.room(seq, size), answers.put(n, h.width(), &x));
                let backward = answers.put(n, h.width(), &x);
                let dev = answers.device();
                let at = given.then_some(&positions[..]);
                rope::table(&dev, angles, 10_000.0, Scaling::None);
                rope::forward(&dev, forward, angles, h, at);
                rope::backward(&dev, backward, angles, h, at);

                let (table, places) = (Buffer::of(&dev.read(angles)), Buffer::of(&positions));
                let places: Option<&Buffer> = given.then_some(&places);
                let (heads, grid) = (q + kv, (n * (q + kv) * size.div_ceil(16)).div_ceil(256));
                for (sign, want) in [(1f32, forward), (-1f32, backward)] {
                    let got = sim.in_every_order(|| {
                        let qkv = sim.real(&x);
                        let arguments = arguments![&qkv, &table, places, n, h.width(), heads, size, seq, sign];
                        sim.launch("rope", grid, 256, 0, arguments);
                        vec![qkv]
                    });
                    let what = format!("rope {n} rows of {h:?}, positions {given}, sign {sign}");
                    assert_close(&what, &sim.floats(&got[0]), &dev.read(want), sim.real);
                }
            }
        }
    });
}
