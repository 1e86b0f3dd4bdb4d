//! Token (and learned position) vectors.
//!
//! ```text
//! x[n] = wte[token n] (+ wpe[position n + offset])
//! dwte[token n] += dx[n]      dwpe[position n + offset] += dx[n]
//! ```
//! x (n, C); wte (padded V, C); wpe (positions, C). The position of row n is `positions[n]`, or n mod T. The backward
//! shares the tables' rows among the tasks; each adds what comes to its rows in the order of n, so that threads do not
//! show in the result.
use super::rows::{or_empty, per_task, pieces};
use super::simd::{add_bf16_to, add_to, widen};
use crate::device::cuda::Grid;
use crate::device::{Device, Values, threads};
use crate::tensor::Tensor;

/// x[n] = wte[token n] (+ wpe[position n + offset]).
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
    let places = Places { tokens, seq, offset, positions };
    places.check(x, wte, wpe);
    let c = x.cols;
    let tables = 1 + usize::from(wpe.is_some()); // as many bytes of each as x has
    let _at = dev.tally("embedding forward", 0, &[x; 3][..1 + tables]);
    match dev {
        Device::Cpu(d) => d.arena.op_either([x], [wte, or_empty(wpe)], |[x], [wte, wpe]| {
            let step = per_task(c);
            pieces([(x.f32(), step * c)], [], |i, [x], []| {
                for (r, x) in x.chunks_exact_mut(c).enumerate() {
                    let n = i * step + r;
                    match wte.part(tokens[n] as usize * c, c) {
                        Values::F32(token) => x.copy_from_slice(token),
                        Values::Bf16(token) => widen(x, token),
                    }
                    if !wpe.is_empty() {
                        match wpe.part(places.position(n) * c, c) {
                            Values::F32(position) => add_to(x, position),
                            Values::Bf16(position) => add_bf16_to(x, position),
                        }
                    }
                }
            });
        }),
        Device::Cuda(d) => {
            let ([at], [wte, wpe]) = d.op([x], [wte, or_empty(wpe)]);
            let (tokens, positions) = (d.upload(tokens), d.upload_some(positions));
            let sizes = [x.rows, c, seq, offset].map(|n| n as u64);
            let grid = Grid::over(x.rows * c.div_ceil(8));
            d.launch("embedding_forward", grid, &[&[at, tokens, wte, wpe, positions], &sizes[..]].concat());
        }
        Device::Reference(d) => d.arena.op([x], [wte, or_empty(wpe)], |[x], [wte, wpe]| {
            for n in 0..tokens.len() {
                for i in 0..c {
                    let position = if wpe.is_empty() { 0.0 } else { wpe[places.position(n) * c + i] };
                    x[n * c + i] = wte[tokens[n] as usize * c + i] + position;
                }
            }
        }),
    }
}

/// dwte[token n] += dx[n]; dwpe[position n + offset] += dx[n].
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
    let places = Places { tokens, seq, offset, positions };
    places.check(dx, dwte, dwpe);
    let c = dx.cols;
    let tables = 1 + usize::from(dwpe.is_some()); // as many bytes of each as dx has, read and written
    let _at = dev.tally("embedding backward", 0, &[dx; 5][..1 + 2 * tables]);
    match dev {
        Device::Cpu(d) => d.arena.op([dwte, or_empty(dwpe)], [dx], |[dwte, dwpe], [dx]| {
            scatter(dwte, dx, c, tokens.len(), |n| tokens[n] as usize);
            if !dwpe.is_empty() {
                scatter(dwpe, dx, c, tokens.len(), |n| places.position(n));
            }
        }),
        Device::Cuda(d) => {
            let ([dwte, dwpe], [dx]) = d.op([dwte, or_empty(dwpe)], [dx]);
            let scatter = |table: u64, places: &[u32]| {
                if d.any_order {
                    let (n, places) = (places.len(), d.upload(places));
                    let grid = Grid::over(n * c.div_ceil(8));
                    return d.launch("embedding_backward_any", grid, &[table, dx, places, n as u64, c as u64]);
                }
                let mut order: Vec<u32> = (0..places.len() as u32).collect();
                order.sort_by_key(|n| places[*n as usize]); // stable: rows of one place stay in their order
                let (n, uploads) = (places.len(), [d.upload(places), d.upload(&order)]);
                let grid = Grid::new([n, c.div_ceil(256), 1], [32, 8, 1]);
                d.launch("embedding_backward", grid, &[table, dx, uploads[0], uploads[1], n as u64, c as u64]);
            };
            scatter(dwte, tokens);
            if dwpe != 0 {
                scatter(dwpe, &(0..tokens.len()).map(|n| places.position(n) as u32).collect::<Vec<u32>>());
            }
        }
        Device::Reference(d) => d.arena.op([dwte, or_empty(dwpe)], [dx], |[dwte, dwpe], [dx]| {
            for n in 0..tokens.len() {
                for i in 0..c {
                    dwte[tokens[n] as usize * c + i] += dx[n * c + i];
                    if !dwpe.is_empty() {
                        dwpe[places.position(n) * c + i] += dx[n * c + i];
                    }
                }
            }
        }),
    }
}

/// Which rows of the tables belong to row n.
#[derive(Clone, Copy)]
struct Places<'a> {
    tokens: &'a [u32],
    seq: usize,
    offset: usize,
    positions: Option<&'a [u32]>,
}

impl Places<'_> {
    fn position(&self, n: usize) -> usize {
        self.offset + self.positions.map_or(n % self.seq, |p| p[n] as usize)
    }
    fn check(&self, x: Tensor, wte: Tensor, wpe: Option<Tensor>) {
        let n = self.tokens.len();
        assert!(x.rows == n && x.cols == wte.cols, "embedding: {n} tokens, x {x:?}, wte {wte:?}");
        assert!(self.positions.is_none_or(|p| p.len() == n), "embedding: {n} tokens and other positions");
        let token = self.tokens.iter().max();
        assert!(token.is_none_or(|t| (*t as usize) < wte.rows), "embedding: token {token:?} of {wte:?}");
        if let Some(wpe) = wpe {
            let last = (0..n).map(|n| self.position(n)).max();
            assert!(wpe.cols == x.cols && last.is_none_or(|p| p < wpe.rows), "embedding: position {last:?} of {wpe:?}");
        }
    }
}

/// table[place(n)] += dx[n].
fn scatter(table: &mut [f32], dx: &[f32], c: usize, n: usize, place: impl Fn(usize) -> usize + Sync) {
    // several tasks a thread: frequent tokens have neighbouring numbers
    let tasks = 8 * threads::count();
    let step = (table.len() / c).div_ceil(tasks).max(1);
    pieces([(table, step * c)], [], |i, [table], []| {
        let first = i * step;
        for n in 0..n {
            let row = place(n).wrapping_sub(first);
            if row < step {
                add_to(&mut table[row * c..][..c], &dx[n * c..][..c]);
            }
        }
    });
}
