//! x[n] = wte[token n] (+ wpe[position n + offset]).
use super::real::Real;
use crate::device::Device;
use crate::on_both;
use crate::tensor::Tensor;
const NONE: Tensor = Tensor { at: 0, rows: 0, cols: 0 };

pub fn forward(
    dev: &Device,
    x: Tensor,
    tokens: &[u32],
    seq: usize,
    wte: Tensor,
    wpe: Option<Tensor>,
    offset: usize,
    positions: Option<&[u32]>,
) {
    let (c, wpe) = (x.cols, wpe.unwrap_or(NONE));
    on_both!(dev, [x], [wte, wpe], fwd(c, x, tokens, seq, wte, wpe, offset, positions))
}
fn fwd<R: Real>(
    c: usize,
    x: &mut [R],
    tokens: &[u32],
    seq: usize,
    wte: &[R],
    wpe: &[R],
    offset: usize,
    positions: Option<&[u32]>,
) {
    for (n, &t) in tokens.iter().enumerate() {
        let pos = positions.map_or(n % seq, |p| p[n] as usize) + offset;
        for k in 0..c {
            let p = if wpe.is_empty() { R::default() } else { wpe[pos * c + k] };
            x[n * c + k] = wte[t as usize * c + k] + p;
        }
    }
}
pub fn backward(
    dev: &Device,
    dwte: Tensor,
    dwpe: Option<Tensor>,
    dx: Tensor,
    tokens: &[u32],
    seq: usize,
    offset: usize,
    positions: Option<&[u32]>,
) {
    let (c, dwpe) = (dx.cols, dwpe.unwrap_or(NONE));
    on_both!(dev, [dwte, dwpe], [dx], bwd(c, dwte, dwpe, dx, tokens, seq, offset, positions))
}
fn bwd<R: Real>(
    c: usize,
    dwte: &mut [R],
    dwpe: &mut [R],
    dx: &[R],
    tokens: &[u32],
    seq: usize,
    offset: usize,
    positions: Option<&[u32]>,
) {
    for (n, &t) in tokens.iter().enumerate() {
        let pos = positions.map_or(n % seq, |p| p[n] as usize) + offset;
        for k in 0..c {
            dwte[t as usize * c + k] += dx[n * c + k];
            if !dwpe.is_empty() {
                dwpe[pos * c + k] += dx[n * c + k];
            }
        }
    }
}
