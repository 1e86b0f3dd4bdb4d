//! What needs no neighbours, and the sum of squares behind the gradient norm.
//!
//! ```text
//! zero: x = 0      copy: y = x      add: y = a + b      square_sum: Σ x²
//! ```
use super::rows::{PIECE, ordered_sum, pieces};
use super::simd::{sum_of_two, wide};
use crate::device::cuda::Grid;
use crate::device::{Device, Kept};
use crate::tensor::Tensor;

/// x = 0.
pub fn zero(dev: &Device, x: Tensor) {
    let _at = dev.tally("zero", 0, &[x]);
    match dev {
        Device::Cpu(d) => d.arena.op([x], [], |[x], []| pieces([(x, PIECE)], [], |_, [x], []| x.fill(0.0))),
        Device::Cuda(d) => d.zero(x),
        Device::Reference(d) => d.arena.op([x], [], |[x], []| x.fill(0.0)),
    }
}

/// y = x, of equal lengths and one type.
pub fn copy(dev: &Device, y: Tensor, x: Tensor) {
    assert_eq!((y.len(), y.half), (x.len(), x.half), "copy: {y:?} from {x:?}");
    let _at = dev.tally("copy", 0, &[y, x]);
    match dev {
        // as they lie, in f32 or bf16
        Device::Cpu(d) => d.arena.op([y.as_elements()], [x.as_elements()], |[y], [x]| {
            pieces([(y, PIECE)], [(x, PIECE)], |_, [y], [x]| y.copy_from_slice(x));
        }),
        Device::Cuda(d) => d.copy(y, x),
        Device::Reference(d) => d.arena.op([y], [x], |[y], [x]| y.copy_from_slice(x)),
    }
}

/// y = a + b, of equal shapes.
pub fn add(dev: &Device, y: Tensor, a: Tensor, b: Tensor) {
    assert!(y.len() == a.len() && y.len() == b.len(), "add: {y:?} = {a:?} + {b:?}");
    let _at = dev.tally("add", 0, &[y, a, b]);
    match dev {
        Device::Cpu(d) => d.arena.op([y], [a, b], |[y], [a, b]| {
            pieces([(y, PIECE)], [(a, PIECE), (b, PIECE)], |_, [y], [a, b]| sum_of_two(y, a, b));
        }),
        Device::Cuda(d) => {
            let ([y_at], [a, b]) = d.op([y], [a, b]);
            d.launch("add", Grid::over(y.len().div_ceil(8)), &[y_at, a, b, y.len() as u64]);
        }
        Device::Reference(d) => d.arena.op([y], [a, b], |[y], [a, b]| (0..y.len()).for_each(|i| y[i] = a[i] + b[i])),
    }
}

/// Σ x², in f64: each piece of [`PIECE`] elements by itself, then the pieces in order, so that the number of threads
/// does not show in the result. A GPU adds them to what it keeps ([`Device::take`]), and this is 0.
pub fn square_sum(dev: &Device, x: Tensor) -> f64 {
    let _at = dev.tally("square sum", 0, &[x]);
    match dev {
        Device::Cpu(d) => d.arena.op([], [x], |[], [x]| {
            let piece = |i: usize| squares(&x[i * PIECE..x.len().min((i + 1) * PIECE)]);
            ordered_sum(x.len().div_ceil(PIECE), piece)
        }),
        Device::Cuda(d) => {
            let ([], [at]) = d.op([], [x]);
            let pieces = x.len().div_ceil(PIECE);
            let partials = d.scratch(8 * pieces);
            d.launch("square_sum", Grid::new([pieces, 1, 1], [256, 1, 1]), &[partials, at, x.len() as u64]);
            d.launch("sum_partials", Grid::new([1, 1, 1], [256, 1, 1]), &[d.kept(Kept::Squares), partials, pieces as u64]);
            0.0
        }
        Device::Reference(d) => d.arena.op([], [x], |[], [x]| x.iter().map(|x| x * x).sum()),
    }
}

wide! {
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; 8];
        let (whole, rest) = x.as_chunks::<8>();
        for x in whole {
            for i in 0..8 {
                let x = f64::from(x[i]);
                lanes[i] = x.mul_add(x, lanes[i]);
            }
        }
        let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        lanes.iter().sum::<f64>() + rest
    }
}
