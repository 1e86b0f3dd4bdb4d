//! The tiles that forward and backward work in: small, per thread, allocated once.
use super::Heads;
use crate::device::Precision;
use crate::ops::gemm::round;
use std::cell::RefCell;
use std::ops::Range;

/// Measured (Zen 3, D = 64): query rows and key rows of a tile; a tile of scores is 16 KiB, half of the first-level cache.
pub const ROWS: usize = 64;

thread_local! {
    static TILES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Tiles of (ROWS, D) and of (ROWS, ROWS) that a thread keeps.
const WIDE: usize = 7;
const SQUARE: usize = 2;

/// Elements of working memory that attention keeps, beside the plan's, with `threads` threads.
pub fn workspace_elements(h: Heads, threads: usize) -> usize {
    threads * (WIDE * ROWS * h.size + SQUARE * ROWS * ROWS)
}

/// Lends this thread's tiles: seven of (ROWS, D), two of (ROWS, ROWS). Their contents are what the last user left.
pub fn with_tiles<R>(h: Heads, f: impl FnOnce([&mut [f32]; WIDE], [&mut [f32]; SQUARE]) -> R) -> R {
    TILES.with_borrow_mut(|room| {
        if room.len() < workspace_elements(h, 1) {
            room.resize(workspace_elements(h, 1), 0.0);
        }
        let (wide, square) = room.split_at_mut(WIDE * ROWS * h.size);
        let mut wide = wide.chunks_exact_mut(ROWS * h.size);
        let mut square = square.chunks_exact_mut(ROWS * ROWS);
        f(
            std::array::from_fn(|_| wide.next().expect("sized above")),
            std::array::from_fn(|_| square.next().expect("sized above")),
        )
    })
}

/// Copies the columns `column .. column + D` of the matrix's rows into a tile, rounded where the precision asks for it.
pub fn load(tile: &mut [f32], matrix: &[f32], rows: Range<usize>, cols: usize, column: usize, d: usize, precision: Precision) {
    for (tile, r) in tile.chunks_exact_mut(d).zip(rows) {
        let row = &matrix[r * cols + column..][..d];
        match precision {
            Precision::Fp32 => tile.copy_from_slice(row),
            Precision::Bf16 => round(tile, row),
        }
    }
}

/// Which keys of `first .. first + ROWS` row `i` may see, counted from `first`; positions are those in the sequence.
pub fn visible(i: usize, start: usize, first: usize, keys: usize) -> Range<usize> {
    let end = (i + 1).saturating_sub(first).min(keys);
    start.saturating_sub(first).min(end)..end
}
