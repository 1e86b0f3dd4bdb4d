//! Column sums, in two launches.
use crate::arguments;
use crate::numbers::{assert_close, random};
use crate::simulator::{Buffer, NULL, Real, each_real, mutated};

#[test]
fn rows() {
    let shapes: &[(usize, usize, usize)] =
        if mutated() { &[(67, 260, 3)] } else { &[(1, 1, 1), (1, 8, 1), (67, 5, 3), (40, 256, 2), (67, 260, 3), (5, 512, 9)] };
    each_real(|sim| {
        for &(n, c, strips) in shapes {
            let x = sim.rounded(&random("x", n * c));
            let before = random("out", c);
            let xs = sim.real(&x);
            let got = sim.in_every_order(|| {
                let (partials, out) = (Buffer::fresh(4 * strips * c), Buffer::of(&before));
                sim.launch("column_sums", [c.div_ceil(256), strips], [32, 8], 0, arguments![&partials, &xs, n, c]);
                sim.launch("column_reduce", [c.div_ceil(32), 1], [32, 8], 0, arguments![&out, NULL, &partials, strips, c]);
                vec![out]
            });
            let sum = |col: usize| f64::from(before[col]) + (0..n).map(|r| f64::from(x[r * c + col])).sum::<f64>();
            let want: Vec<f32> = (0..c).map(|col| sum(col) as f32).collect();
            assert_close(&format!("column sums ({n}, {c}) in {strips}"), &got[0].to_vec::<f32>(), &want, Real::Float);
        }
    });
}
