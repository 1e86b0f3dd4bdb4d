//! Which kernel is fastest here: each multiplies for some milliseconds, on one thread.
use super::kernels::{self, Kernel};
use super::{Into, Layout, with};
use crate::bad_input;
use crate::device::{Precision, Values};
use crate::error::Result;
use crate::ops::simd::ISA;
use half::bf16;
use std::time::Instant;

/// A kernel and what it reached, packing included, in GFLOP/s on one thread.
pub type Found = (&'static Kernel, f64);

/// The kernel that `LLM_TRAIN_ISA` names, measured; None: it names none.
///
/// Errors: one sentence where there is no such kernel, this processor lacks it, or it cannot serve the precision.
pub fn forced(precision: Precision, name: Option<&str>) -> Result<Option<Found>> {
    let Some(name) = name else { return Ok(None) };
    let Some(kernel) = kernels::named(name) else {
        let all: Vec<_> = kernels::ALL.iter().map(|k| k.name).collect();
        bad_input!("{ISA}: expected one of {}, found {name}", all.join(", "));
    };
    if !(kernel.available)() {
        bad_input!("{ISA}: expected instructions that this processor has, found {name}");
    }
    if !kernel.serves(precision) {
        bad_input!("{ISA}: expected a kernel for {precision:?} products, found {name}, which multiplies bf16");
    }
    Ok(Some((kernel, measure(kernel, precision))))
}

/// The fastest kernel that serves.
pub fn fastest(precision: Precision) -> Found {
    let serving = kernels::ALL.into_iter().filter(|k| k.serves(precision));
    // the portable one is for machines that have no other
    let some = serving.clone().any(|k| k.name != kernels::PORTABLE.name);
    let found = serving.filter(|k| !some || k.name != kernels::PORTABLE.name).map(|k| (k, measure(k, precision)));
    found.max_by(|a, b| a.1.total_cmp(&b.1)).expect("the portable one serves")
}

/// GFLOP/s of the best of some products of a layer's shape. With bf16 both operands lie in it, as in a layer's forward.
fn measure(kernel: &'static Kernel, precision: Precision) -> f64 {
    const SIZE: [usize; 3] = [192, 192, 384];
    const TRIES: usize = 6;
    let [m, n, k] = SIZE;
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; n * k], vec![0.0; m * n]);
    let halves = [&a, &b].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
    let [a, b] = match precision {
        Precision::Bf16 => [Values::Bf16(&halves[0]), Values::Bf16(&halves[1])],
        Precision::Fp32 | Precision::Tf32 => [Values::F32(&a), Values::F32(&b)],
    };
    let once = |c: &mut [f32]| {
        let began = Instant::now();
        with(kernel, precision, Layout::NT, SIZE, Into::Overwrite, (c.into(), n), (a, k), (b, k), (), &mut []);
        began.elapsed().as_secs_f64()
    };
    let best = (0..TRIES).map(|_| once(&mut c)).fold(f64::INFINITY, f64::min);
    2e-9 * (m * n * k) as f64 / best
}
