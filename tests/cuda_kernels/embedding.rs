//! Token and position vectors; their gradients, row by row of the tables.
use crate::arguments;
use crate::numbers::{Answers, assert_close, choices, random};
use crate::simulator::{Buffer, Real, each_real, mutated};
use llm_train::ops::embedding;

/// The rows, those of one place together: what a launch of `embedding_backward` needs beside the places.
fn order(places: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..places.len() as u32).collect();
    order.sort_by_key(|n| places[*n as usize]);
    order
}

#[test]
fn embedding() {
    let shapes: &[(usize, usize, usize, usize)] = if mutated() {
        &[(8, 4, 260, 3), (8, 8, 5, 3)]
    } else {
        &[(1, 1, 1, 1), (2, 2, 8, 5), (6, 3, 7, 40), (64, 16, 40, 3), (24, 8, 300, 50), (24, 12, 768, 9)]
    };
    each_real(|sim| {
        for &(n, seq, c, vocab) in shapes {
            for learned in [false, true] {
                for given in [false, true] {
                    let what = format!("embedding ({n}, {c}), wpe {learned}, positions {given}");
                    let offset = usize::from(learned && given);
                    let rows = seq + offset;
                    let (wte, wpe) = (sim.rounded(&random("wte", vocab * c)), sim.rounded(&random("wpe", rows * c)));
                    let dx = sim.rounded(&random("dx", n * c));
                    let (before, before_p) = (random("dwte", vocab * c), random("dwpe", rows * c));
                    let (tokens, positions) = (choices("tokens", n, vocab), choices("positions", n, seq));
                    let positions: Vec<u32> = if given { positions } else { (0..n).map(|n| (n % seq) as u32).collect() };
                    let places: Vec<u32> = positions.iter().map(|p| p + offset as u32).collect();

                    let (ts, ps) = (Buffer::of(&tokens), Buffer::of(&positions));
                    let (wtes, wpes, dxs) = (sim.real(&wte), sim.real(&wpe), sim.real(&dx));
                    let got = sim.in_every_order(|| {
                        let (x, dwte, dwpe) = (sim.room(n * c), Buffer::of(&before), Buffer::of(&before_p));
                        let wpe: Option<&Buffer> = learned.then_some(&wpes);
                        let at: Option<&Buffer> = given.then_some(&ps);
                        let grid = (n * c.div_ceil(8)).div_ceil(256);
                        sim.launch("embedding_forward", grid, 256, 0, arguments![&x, &ts, &wtes, wpe, at, n, c, seq, offset]);
                        for (table, places) in [(&dwte, &tokens), (&dwpe, &places)] {
                            let (order, places) = (Buffer::of(&order(places)), Buffer::of(places));
                            let grid = [n, c.div_ceil(256)];
                            sim.launch("embedding_backward", grid, [32, 8], 0, arguments![table, &dxs, &places, &order, n, c]);
                        }
                        vec![x, dwte, dwpe]
                    });
                    let any = || {
                        let (dwte, dwpe) = (Buffer::of(&before), Buffer::of(&before_p));
                        for (table, places) in [(&dwte, &tokens), (&dwpe, &places)] {
                            let (grid, places) = ((n * c.div_ceil(8)).div_ceil(256), Buffer::of(places));
                            sim.launch("embedding_backward_any", grid, 256, 0, arguments![table, &dxs, &places, n, c]);
                        }
                        vec![dwte, dwpe]
                    };
                    let mut answers = Answers::default();
                    let x = answers.room(n, c);
                    let (twte, twpe) = (answers.put(vocab, c, &wte), answers.put(rows, c, &wpe));
                    let (dwte, dwpe) = (answers.put(vocab, c, &before), answers.put(rows, c, &before_p));
                    let tdx = answers.put(n, c, &dx);
                    let dev = answers.device();
                    let at = given.then_some(&positions[..]);
                    embedding::forward(&dev, x, &tokens, seq, twte, learned.then_some(twpe), offset, at);
                    embedding::backward(&dev, dwte, Some(dwpe), tdx, &tokens, seq, offset, at);
                    assert_close(&format!("{what}: x"), &sim.floats(&got[0]), &dev.read(x), sim.real);
                    assert_close(&format!("{what}: dwte"), &got[1].to_vec::<f32>(), &dev.read(dwte), Real::Float);
                    assert_close(&format!("{what}: dwpe"), &got[2].to_vec::<f32>(), &dev.read(dwpe), Real::Float);
                    sim.in_any_order(any, |got| {
                        for (name, got, want) in [("dwte", &got[0], dwte), ("dwpe", &got[1], dwpe)] {
                            assert_close(
                                &format!("{what}: {name}, any order"),
                                &got.to_vec::<f32>(),
                                &dev.read(want),
                                Real::Float,
                            );
                        }
                    });
                }
            }
        }
    });
}
