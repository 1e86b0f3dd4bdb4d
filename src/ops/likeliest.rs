//! The likeliest token of one row, without reading the whole head in f32: on a processor the bytes of weights are what a token costs.
//!
//! ```text
//! z_i = w_i · x            z̃_i = w̃_i · x,  w̃_i = w_i in bf16            |z_i − z̃_i| ≤ s_i ‖x‖
//! s_i = ‖w_i − w̃_i‖ + γ ‖w_i‖        what rounding took from the row; what two sums of C products in f32 may lose, γ = 2 C 2⁻²⁴
//! ```
//! (Cauchy and Schwarz; Higham 2002, 3.1.) A token whose z̃ + s ‖x‖ lies below another's z̃ − s ‖x‖ is not the likeliest. The few that are
//! left are multiplied in f32, as all would have been: the token is the same to the last bit, for half the bytes.
use super::gemm::{along, along_bf16};
use super::rows::{Shared, per_task};
use super::simd::halve;
use crate::device::{Device, Values, ValuesMut, threads};
use crate::tensor::{Kind, Plan, Tensor};
use half::bf16;

/// The head in bf16, and s.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    rounded: Tensor,
    slack: Tensor,
}

impl Screen {
    /// For a head of (V, C), C even.
    pub fn plan(p: &mut Plan, [rows, cols]: [usize; 2]) -> Screen {
        assert!(cols.is_multiple_of(2), "a screen of {cols} columns");
        let rounded = p.like(Kind::Workspace, Tensor { at: 0, rows, cols, half: true });
        Screen { rounded, slack: p.vector(Kind::Workspace, rows) }
    }

    /// Takes over the weights as they are.
    pub fn fill(&self, dev: &Device, w: Tensor) {
        let Device::Cpu(d) = dev else { return };
        let (rows, c) = (w.rows, w.cols);
        d.arena.op_either([self.rounded, self.slack], [w], |[rounded, slack], [w]| {
            let (rounded, slack, w) = (Shared::new(rounded.bf16()), Shared::new(slack.f32()), w.f32());
            let step = per_task(c);
            threads::each(rows.div_ceil(step), |task| {
                for row in task * step..rows.min((task + 1) * step) {
                    let w = &w[row * c..][..c];
                    // SAFETY: the row is this task's alone.
                    let (rounded, slack) = unsafe { (rounded.piece(row * c, c), slack.piece(row, 1)) };
                    halve(rounded, w);
                    slack[0] = lost(w, rounded);
                }
            });
        });
    }

    /// The likeliest of the first `vocab` tokens, where `x` (1, C) is what `w` (V, C) is to be multiplied with; the smaller of equals. `room`:
    /// V numbers. `None` where all logits are to be computed: x is not finite, or the device is no processor.
    pub fn likeliest(&self, dev: &Device, room: Tensor, x: Tensor, w: Tensor, vocab: usize) -> Option<u32> {
        let Device::Cpu(d) = dev else { return None };
        let c = w.cols;
        assert!(x.len() == c && room.len() >= vocab && vocab <= w.rows, "likeliest: x {x:?}, room {room:?}, w {w:?}");
        let _at = dev.tally("likeliest", 2 * vocab * c, &[room, x, self.rounded, self.slack]);
        d.arena.op_either([room], [x, w, self.rounded, self.slack], |[room], [x, w, rounded, slack]| {
            let (ValuesMut::F32(z), Values::F32(x), Values::F32(w), Values::Bf16(rounded)) = (room, x, w, rounded) else {
                return None;
            };
            let (z, slack) = (&mut z[..vocab], &slack.f32()[..vocab]);
            let size = norm(x.iter().map(|x| f64::from(*x)));
            if !size.is_finite() {
                return None;
            }
            let (step, near) = (per_task(c), Shared::new(&mut *z));
            threads::each(vocab.div_ceil(step), |task| {
                let rows = task * step..vocab.min((task + 1) * step);
                // SAFETY: these rows are this task's alone.
                let near = unsafe { near.piece(rows.start, rows.len()) };
                near.iter_mut().zip(rows).for_each(|(z, row)| *z = along_bf16(x, &rounded[row * c..][..c]));
            });
            let least = z.iter().zip(slack).map(|(z, s)| z - s * size).fold(f32::NEG_INFINITY, f32::max);
            let left = (0..vocab).filter(|i| {
                let most = z[*i] + slack[*i] * size;
                most >= least || most.is_nan()
            });
            let found = left.map(|i| (along(x, &w[i * c..][..c]), i as u32)).filter(|(z, _)| !z.is_nan());
            Some(found.min_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))).map_or(0, |(_, i)| i))
        })
    }
}

/// s of a row.
fn lost(w: &[f32], rounded: &[bf16]) -> f32 {
    // room for what is lost where s itself and z̃ ± s ‖x‖ are rounded
    let gamma = (w.len() + 32) as f64 / f64::from(1 << 23);
    let apart = norm(w.iter().zip(rounded).map(|(w, r)| f64::from(*w) - r.to_f64()));
    apart + norm(w.iter().map(|w| f64::from(*w) * gamma))
}

/// The length of a vector, not rounded down.
fn norm(x: impl Iterator<Item = f64>) -> f32 {
    (x.map(|x| x * x).sum::<f64>().sqrt() * (1.0 + 1e-6)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use std::hash::{DefaultHasher, Hash, Hasher};

    /// Numbers in [-½, ½), always the same.
    fn random(seed: u64, n: usize) -> Vec<f32> {
        let number = |i: usize| {
            let mut hash = DefaultHasher::new();
            (seed, i).hash(&mut hash);
            (hash.finish() >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(number).collect()
    }

    /// What the screen finds, what all logits say, and how many rows are within the slack of the best.
    fn both(w: &[f32], x: &[f32], vocab: usize) -> (Option<u32>, u32) {
        let (c, mut plan) = (x.len(), Plan::default());
        let (wt, xt) = (plan.matrix(Kind::Parameters, w.len() / c, c), plan.vector(Kind::Activations, c));
        let (room, screen) = (plan.vector(Kind::Workspace, w.len() / c), Screen::plan(&mut plan, [w.len() / c, c]));
        let dev = Device::cpu(&plan, 2, &[], Precision::Fp32).unwrap();
        dev.install(|| {
            dev.write(wt, w);
            dev.write(xt, x);
            screen.fill(&dev, wt);
            crate::ops::linear::forward(&dev, room, xt, wt, None, None);
            let logits = dev.read(room);
            let better = |best: usize, i: usize| if logits[i] > logits[best] || logits[best].is_nan() { i } else { best };
            let all = (1..vocab).fold(0, better) as u32;
            (screen.likeliest(&dev, room, xt, wt, vocab), all)
        })
    }

    #[test]
    fn the_token_is_that_of_all_logits() {
        for seed in 0..40 {
            let (rows, c) = (777, [2, 64, 130, 768][seed as usize % 4]);
            let (found, all) = both(&random(seed, rows * c), &random(seed + 1000, c), rows - 7);
            assert_eq!(found, Some(all), "seed {seed}");
        }
    }

    /// Rows that bf16 cannot tell apart.
    #[test]
    fn what_bf16_hides_is_seen() {
        let (c, x) = (64, vec![1.0; 64]);
        let mut w = vec![0.5f32; 9 * c];
        w[0] = 0.5 - 1e-5;
        assert_eq!(both(&w, &x, 9), (Some(1), 1));
        w[5 * c] = 0.5 + 1e-3; // bf16 rounds it away
        assert_eq!(both(&w, &x, 9), (Some(5), 5));
    }

    #[test]
    fn a_nan_is_never_the_likeliest_and_never_hides_one() {
        let (c, mut w) = (64, random(3, 9 * 64));
        w[4 * c + 3] = f32::NAN;
        let (found, _) = both(&w, &random(5, c), 9);
        let without: Vec<f32> = w.iter().enumerate().map(|(i, w)| if i / c == 4 { 0.0 } else { *w }).collect();
        assert_eq!(found, Some(both(&without, &random(5, c), 9).1));
        assert_eq!(both(&random(3, 9 * c), &vec![f32::INFINITY; c], 9).0, None);
    }
}
