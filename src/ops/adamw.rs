//! AdamW: Adam with decoupled weight decay (Kingma, Ba 2015; Loshchilov, Hutter 2019), in one pass over the memory.
//!
//! ```text
//! g ← scale g                         scale: gradient clipping and averaging in one factor
//! m ← β₁ m + (1 − β₁) g               m̂ = m / (1 − β₁ᵗ)
//! v ← β₂ v + (1 − β₂) g²              v̂ = v / (1 − β₂ᵗ)
//! w ← w − lr (m̂ / (√v̂ + ε) + decay w)
//! ```
//! A copy of w in bf16, where the plan has one, is written along. w may be bf16 itself: it is computed in f32 and rounded, to nearest or at
//! random, by the bits of its place in the model ([`crate::device::Rounding`]). The factors of a step are computed in f64; the decay is
//! applied as w (1 − lr decay) first, as PyTorch does.
use super::rows::{PART, PIECE, Shared, or_empty, pieces};
use super::simd::{halve, to_bf16, wide, widen};
use super::verdict::Verdict;
use crate::device::cuda::{Grid, float};
use crate::device::{Device, ValuesMut};
use crate::tensor::Tensor;
use half::bf16;

/// What is the same for all parameters in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// The step's number, from 1: the moments' bias correction.
    pub t: u64,
    /// Multiplies the gradient, or forbids the update.
    pub verdict: Verdict,
}

/// Updates w, m and v from g, of equal lengths. `decay` is per unit of learning rate; 0 for vectors.
pub fn update(dev: &Device, w: Tensor, m: Tensor, v: Tensor, g: Tensor, decay: f32, step: &Step) {
    assert!([m, v, g].iter().all(|t| t.len() == w.len()), "adamw: w {w:?}, m {m:?}, v {v:?}, g {g:?}");
    assert!(step.t > 0, "adamw: steps count from 1");
    let copy = if let Device::Cpu(d) = dev { d.arena.copy_of(w) } else { None };
    let _at = dev.tally("adamw", 0, &[w, w, m, m, v, v, g, or_empty(copy)]);
    if step.verdict == Verdict::Skip {
        return;
    }
    match dev {
        Device::Cpu(d) => {
            let drawn = d.drawn(w, step.t);
            let (factors, scale) = (Factors::new(step, decay), step.verdict.scale());
            d.arena.op_either([w, m, v, or_empty(copy)], [g], |[w, m, v, copy], [g]| {
                let (moments, g) = ([m, v].map(|x| (x.f32(), PIECE)), [(g.f32(), PIECE)]);
                match w {
                    ValuesMut::F32(w) => {
                        let copy = if copy.is_empty() { None } else { Some(Shared::new(copy.bf16())) };
                        let [m, v] = moments;
                        pieces([(w, PIECE), m, v], g, |i, [w, m, v], [g]| {
                            piece(w, m, v, g, scale, factors);
                            if let Some(copy) = &copy {
                                // SAFETY: the piece of w, which is this task's alone.
                                halve(unsafe { copy.piece(i * PIECE, w.len()) }, w);
                            }
                        });
                    }
                    ValuesMut::Bf16(w) => {
                        let w = Shared::new(w);
                        pieces(moments, g, |i, [m, v], [g]| {
                            // SAFETY: the piece of m, which is this task's alone.
                            let w = unsafe { w.piece(i * PIECE, m.len()) };
                            let drawn = drawn.map(|(first, draw)| (first + (i * PIECE) as u64, draw));
                            piece_in_bf16(w, m, v, g, scale, factors, drawn);
                        });
                    }
                }
            });
        }
        Device::Cuda(d) => {
            let ([at, m, v], [g]) = d.op([w, m, v], [g]);
            let f = Factors::new(step, 0.0);
            // of the kernel: its `Step`
            let numbers = [f.beta1, f.beta2, f.rest1, f.rest2, step.lr as f32, f.rate, f.root, f.eps].map(f32::to_bits);
            let drawn = d.drawn(w, step.t);
            let (first, draw) = drawn.unwrap_or((w.at as u64, 0));
            let at_random = u64::from(drawn.is_some());
            let factors = d.upload_once(&[&numbers[..], &[draw]].concat());
            let scale = match step.verdict {
                Verdict::OnDevice => d.verdict(),
                known => d.upload_once(&[known.scale().to_bits(), 0]),
            };
            let (skip, n) = (scale + 4, w.len() as u64);
            let (decay, grid) = (float(decay), Grid::over(w.len().div_ceil(8)));
            if d.weights_in_bf16() {
                d.launch("adamw_bf16", grid, &[at, m, v, g, factors, scale, skip, decay, n, first, at_random]);
            } else {
                d.launch("adamw", grid, &[at, m, v, d.copy_of(w), g, factors, scale, skip, decay, n, first, at_random]);
            }
        }
        Device::Reference(d) => d.arena.op([w, m, v], [g], |[w, m, v], [g]| reference(w, m, v, g, f64::from(decay), step)),
    }
}

#[derive(Clone, Copy)]
struct Factors {
    beta1: f32,
    beta2: f32,
    /// 1 − β, taken before rounding: 1 − 0.999 in f32 is off by 3e-5 of itself.
    rest1: f32,
    rest2: f32,
    keep: f32,
    /// lr / (1 − β₁ᵗ)
    rate: f32,
    /// 1 / √(1 − β₂ᵗ)
    root: f32,
    eps: f32,
}

impl Factors {
    fn new(s: &Step, decay: f32) -> Factors {
        let corrected = |beta: f64| 1.0 - beta.powf(s.t as f64);
        Factors {
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            rest1: (1.0 - s.beta1) as f32,
            rest2: (1.0 - s.beta2) as f32,
            keep: (1.0 - s.lr * f64::from(decay)) as f32,
            rate: (s.lr / corrected(s.beta1)) as f32,
            root: (1.0 / corrected(s.beta2).sqrt()) as f32,
            eps: s.eps as f32,
        }
    }
}

wide! {
    fn piece(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], scale: f32, f: Factors) {
        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * scale;
            *m = f.beta1.mul_add(*m, f.rest1 * g);
            *v = f.beta2.mul_add(*v, f.rest2 * g * g);
            *w = f.keep.mul_add(*w, -(f.rate * *m / v.sqrt().mul_add(f.root, f.eps)));
        }
    }
}

/// As [`piece`], of weights that are bf16; `drawn`: the place of the first and the step's random bits, or to nearest.
fn piece_in_bf16(
    w: &mut [bf16],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    scale: f32,
    factors: Factors,
    drawn: Option<(u64, u32)>,
) {
    let mut room = [0f32; PART];
    let parts = w.chunks_mut(PART).zip(m.chunks_mut(PART)).zip(v.chunks_mut(PART)).zip(g.chunks(PART));
    for (i, (((w, m), v), g)) in parts.enumerate() {
        let wide = &mut room[..w.len()];
        widen(wide, w);
        piece(wide, m, v, g, scale, factors);
        match drawn {
            None => halve(w, wide),
            Some((first, draw)) => halve_at_random(w, wide, first + (i * PART) as u64, draw),
        }
    }
}

/// Mixes 32 bits (the finalizer of MurmurHash3).
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

/// Random bits of a step's draw for two neighbours, the first of which has this even place, in two halves: 16 bits for each, the lower
/// ones first. As `adamw.cu` has them.
#[inline(always)]
fn drawn([high, low]: [u32; 2], draw: u32) -> u32 {
    mix(mix(low ^ draw).wrapping_add(high))
}

/// One of the two neighbours in bf16, each as likely as it is near; `bits`: 16 random ones. The mean of many is x itself.
#[inline(always)]
fn rounded_at_random(x: f32, bits: u32) -> bf16 {
    let u = x.to_bits();
    // ±∞ and what is no number have no neighbours
    if x.is_finite() { bf16::from_bits((u.wrapping_add(bits) >> 16) as u16) } else { to_bf16(x) }
}

/// y = x rounded to bf16 with the bits of its places, of which `first`, that of `x[0]`, is even.
pub fn halve_at_random(y: &mut [bf16], x: &[f32], first: u64, draw: u32) {
    assert!(first.is_multiple_of(2) && y.len() == x.len(), "{} numbers from place {first} on into {}", x.len(), y.len());
    let low = first as u32;
    let here = x.len().min(((1 << 32) - u64::from(low)) as usize);
    stretch_at_random(&mut y[..here], &x[..here], [(first >> 32) as u32, low], draw);
    if here < x.len() {
        halve_at_random(&mut y[here..], &x[here..], first + here as u64, draw);
    }
}

wide! {
    /// The same where the upper half of all places is one. Each number draws for itself and its neighbour, so that vectors can.
    fn stretch_at_random(y: &mut [bf16], x: &[f32], first: [u32; 2], draw: u32) {
        let [high, low] = first;
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let place = low.wrapping_add(i as u32);
            let bits = drawn([high, place & !1], draw);
            *y = rounded_at_random(*x, if place & 1 == 0 { bits & 0xffff } else { bits >> 16 });
        }
    }
}

fn reference(w: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64], decay: f64, s: &Step) {
    for i in 0..w.len() {
        let g = g[i] * f64::from(s.verdict.scale());
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
        let m_hat = m[i] / (1.0 - s.beta1.powf(s.t as f64));
        let v_hat = v[i] / (1.0 - s.beta2.powf(s.t as f64));
        w[i] -= s.lr * (m_hat / (v_hat.sqrt() + s.eps) + decay * w[i]);
    }
}
