//! Attention on a GPU, and what serves: cuDNN where it was prepared for the shape and a sequence is one document; else, with bf16
//! and heads of 64 or 128 columns, our own kernels on tensor cores (forward.cu, backward.cu), else those that go row by row
//! (plain.cu).
use super::Heads;
use crate::device::Precision;
use crate::device::cuda::cudnn::Sdpa;
use crate::device::cuda::{Cuda, Grid};
use crate::tensor::Tensor;

/// Rows of a tile on tensor cores, and threads of its block.
const TILE: usize = 64;
const THREADS: usize = 128;
/// Threads of a block that goes row by row; `lanes` of them take a row.
const ROW_THREADS: usize = 128;

fn lanes(h: Heads) -> usize {
    h.size.div_ceil(8).next_power_of_two().min(32)
}

/// The kernels on tensor cores: forward, delta, dq, dkv, and the last two in one.
fn tiled(d: &Cuda, h: Heads) -> Option<[&'static str; 5]> {
    if d.plain {
        return None;
    }
    match (d.precision, h.size) {
        (Precision::Bf16, 64) => {
            Some(["attention_forward_64", "attention_delta_64", "attention_dq_64", "attention_dkv_64", "attention_dqkv_64"])
        }
        (Precision::Bf16, 128) => {
            Some(["attention_forward_128", "attention_delta_128", "attention_dq_128", "attention_dkv_128", "attention_dqkv_128"])
        }
        _ => None,
    }
}

/// So many tiles, each of `rows` rows, of `heads` heads of all sequences.
fn over(qkv: Tensor, h: Heads, rows: usize, heads: usize, threads: usize, shared: usize) -> Grid {
    Grid { shared, ..Grid::new([h.seq.div_ceil(rows), heads, qkv.rows / h.seq], [threads, 1, 1]) }
}

fn sdpa(qkv: Tensor, h: Heads) -> Sdpa {
    Sdpa { batch: qkv.rows / h.seq, heads: h.q, kv_heads: h.kv, seq: h.seq, size: h.size }
}

pub fn forward(d: &Cuda, y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    let ([y_at, lse_at], [qkv_at]) = d.op([y, lse], [qkv]);
    if starts.is_none() && d.attend(&sdpa(qkv, h), [y_at, lse_at], qkv_at) {
        return;
    }
    let [seq, q, kv, size] = [h.seq, h.q, h.kv, h.size].map(|n| n as u64);
    let starts = d.upload_some(starts);
    match tiled(d, h) {
        Some([forward, ..]) => {
            let grid = over(qkv, h, TILE, h.q, THREADS, 5 * 128 * h.size);
            d.launch(forward, grid, &[y_at, lse_at, qkv_at, starts, seq, q, kv]);
        }
        None => {
            let grid = over(qkv, h, ROW_THREADS / lanes(h), h.q, ROW_THREADS, 0);
            d.launch("attention_plain_forward", grid, &[y_at, lse_at, qkv_at, starts, seq, q, kv, size, lanes(h) as u64]);
        }
    }
}

pub fn backward(d: &Cuda, dqkv: Tensor, dy: Tensor, y: Tensor, lse: Tensor, qkv: Tensor, h: Heads, starts: Option<&[u32]>) {
    let ([dqkv_at], [dy, y, lse, qkv_at]) = d.op([dqkv], [dy, y, lse, qkv]);
    let [seq, q, kv, size] = [h.seq, h.q, h.kv, h.size].map(|n| n as u64);
    let count = qkv.rows * h.q;
    let any_order = d.any_order && tiled(d, h).is_some();
    // δ, and dq in f32 where it is added up by atomics
    let (levels, sums) = ((4 * count).next_multiple_of(256), if any_order { 4 * count * h.size } else { 0 });
    let delta = d.scratch(levels + sums);
    if starts.is_none() && d.attend_backward(&sdpa(qkv, h), [dqkv_at, delta], [dy, y, lse, qkv_at]) {
        return;
    }
    let starts = d.upload_some(starts);
    match tiled(d, h) {
        Some([_, to_delta, to_dq, to_dkv, to_all]) => {
            d.launch(to_delta, Grid::over(count * h.size / 8), &[delta, dy, y, count as u64]);
            let rest = [dy, qkv_at, lse, delta, starts, seq, q, kv];
            let (tiles, lse_and_delta, ds) = (6 * 128 * h.size, 1536, 4096);
            if any_order {
                let dq = delta + levels as u64;
                d.zero_scratch(dq, sums);
                let grid = over(qkv, h, TILE, h.kv, THREADS, tiles + lse_and_delta + ds);
                d.launch(to_all, grid, &[&[dqkv_at, dq], &rest[..]].concat());
                let [rows, cols, pitch] = [qkv.rows, h.q * h.size, qkv.cols].map(|n| n as u64);
                return d.launch("attention_dq_store", Grid::over(count * h.size / 8), &[dqkv_at, dq, rows, cols, pitch]);
            }
            d.launch(to_dq, over(qkv, h, TILE, h.q, THREADS, tiles), &[&[dqkv_at], &rest[..]].concat());
            d.launch(to_dkv, over(qkv, h, TILE, h.kv, THREADS, tiles + lse_and_delta), &[&[dqkv_at], &rest[..]].concat());
        }
        None => {
            let grid = |heads| over(qkv, h, ROW_THREADS / lanes(h), heads, ROW_THREADS, 0);
            let arguments = [dqkv_at, delta, dy, y, qkv_at, lse, starts, seq, q, kv, size, lanes(h) as u64];
            d.launch("attention_plain_dq", grid(h.q), &arguments);
            let arguments = [dqkv_at, dy, qkv_at, lse, delta, starts, seq, q, kv, size, lanes(h) as u64];
            d.launch("attention_plain_dkv", grid(h.kv), &arguments);
        }
    }
}
