//! Sums of two, casts, and sums of squares.
use crate::arguments;
use crate::numbers::random;
use crate::simulator::{Buffer, each_real, mutated};
use half::bf16;

fn lengths() -> &'static [usize] {
    if mutated() { &[2051] } else { &[1, 7, 8, 2048, 2051] }
}

#[test]
fn elementwise() {
    each_real(|sim| {
        for &n in lengths() {
            let (a, b) = (sim.rounded(&random("a", n)), sim.rounded(&random("b", n)));
            let x = random("x", n);
            let (sa, sb, sx) = (sim.real(&a), sim.real(&b), Buffer::of(&x));
            let grid = n.div_ceil(2048);
            let got = sim.in_every_order(|| {
                let (y, short, long) = (sim.room(n), Buffer::fresh(2 * n), Buffer::fresh(4 * n));
                sim.launch("add", grid, 256, 0, arguments![&y, &sa, &sb, n as u64]);
                sim.launch("to_bf16", grid, 256, 0, arguments![&short, &sx, n as u64]);
                sim.launch("to_float", grid, 256, 0, arguments![&long, &short, n as u64]);
                vec![y, short, long]
            });
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(sim.floats(&got[0]), sim.rounded(&sum), "add of {n}");
            let short: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
            assert_eq!(got[1].to_vec::<bf16>(), short, "to_bf16 of {n}");
            assert_eq!(got[2].to_vec::<f32>(), short.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), "to_float of {n}");
        }
    });
}

/// Ranges need not start on 16 bytes: nothing is then taken 16 at a time.
#[test]
fn ranges_start_anywhere() {
    each_real(|sim| {
        let x = random("x", 2060);
        let from = Buffer::of(&x);
        for skipped in [1, 3, 4] {
            let (short, long) = (Buffer::fresh(2 * 2060), Buffer::fresh(4 * 2060));
            let n = 2051u64;
            sim.launch("to_bf16", 2, 256, 0, arguments![short.after(2 * skipped), from.after(4 * skipped), n]);
            sim.launch("to_float", 2, 256, 0, arguments![long.after(4 * skipped), short.after(2 * skipped), n]);
            let want: Vec<f32> = x[skipped..skipped + 2051].iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            assert_eq!(long.to_vec::<f32>()[skipped..skipped + 2051], want);
        }
    });
}

#[test]
fn casts_round_to_nearest_even_and_keep_nan() {
    each_real(|sim| {
        let x: Vec<f32> = (0..4096u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).chain([f32::NAN]).collect();
        let (from, to) = (Buffer::of(&x), Buffer::fresh(2 * x.len()));
        sim.launch("to_bf16", x.len().div_ceil(2048), 256, 0, arguments![&to, &from, x.len() as u64]);
        for (x, y) in x.iter().zip(to.to_vec::<bf16>()) {
            assert!(if x.is_nan() { y.is_nan() } else { y == bf16::from_f32(*x) }, "{x:e} became {y:e}");
        }
    });
}

#[test]
fn square_sum() {
    each_real(|sim| {
        for &n in if mutated() { &[16_391usize][..] } else { &[1, 7, 16_384, 40_005] } {
            let x = random("x", n);
            let (from, pieces) = (Buffer::of(&x), n.div_ceil(16_384));
            let got = sim.in_every_order(|| {
                let (partials, total) = (Buffer::fresh(8 * pieces), Buffer::of(&[0.25f64]));
                sim.launch("square_sum", pieces, 256, 0, arguments![&partials, &from, n as u64]);
                sim.launch("sum_partials", 1, 256, 0, arguments![&total, &partials, pieces as u64]);
                vec![total]
            });
            // added to what was there
            let want = 0.25 + x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            let got = got[0].to_vec::<f64>()[0];
            assert!((got - want).abs() <= 1e-13 * want, "square sum of {n}: {got} for {want}");
        }
    });
}
