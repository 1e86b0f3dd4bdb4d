//! Where the elements of a plan lie in the GPU's memory: 4 bytes each, or 2 for those that are kept in bf16.
//!
//! ```text
//! plan, elements   | weights, gradients | x₀ | x₁ | statistics | logits | moments |
//! memory, bytes    |         4          | 2  | 2  |     4      |   2    |    4    |      each piece begins on 256 bytes
//! ```
use crate::tensor::Tensor;

/// Pieces in order, without gaps.
pub struct Places {
    pieces: Vec<Piece>,
}

struct Piece {
    /// Its first element, and where that lies.
    first: usize,
    byte: usize,
    end: usize,
    bf16: bool,
}

impl Places {
    /// Of `len` elements, with these tensors in bf16.
    pub fn new(len: usize, in_bf16: &[Tensor]) -> Places {
        let mut halved: Vec<Tensor> = in_bf16.iter().copied().filter(|t| !t.is_empty()).collect();
        halved.sort_by_key(|t| t.at);
        let mut places = Places { pieces: vec![] };
        for t in halved {
            let end = places.pieces.last().map_or(0, |p| p.end);
            assert!(end <= t.at && t.end() <= len, "{t:?} is in bf16 twice, or outside {len} elements");
            places.add(t.at, false);
            places.add(t.end(), true);
        }
        places.add(len, false);
        places
    }

    /// A piece that goes up to element `end`.
    fn add(&mut self, end: usize, bf16: bool) {
        let (first, byte) = self.pieces.last().map_or((0, 0), |p| (p.end, p.byte + (p.end - p.first) * size(p.bf16)));
        if first < end {
            self.pieces.push(Piece { first, byte: byte.next_multiple_of(256), end, bf16 });
        }
    }

    pub fn bytes(&self) -> usize {
        self.pieces.last().map_or(0, |p| p.byte + (p.end - p.first) * size(p.bf16))
    }

    /// Its first byte, and whether it is in bf16. Panics where it lies across pieces.
    pub fn of(&self, t: Tensor) -> (usize, bool) {
        let piece = &self.pieces[self.pieces.partition_point(|p| p.end <= t.at)];
        assert!(t.end() <= piece.end, "{t:?} lies across element {}, where other numbers begin", piece.end);
        (piece.byte + (t.at - piece.first) * size(piece.bf16), piece.bf16)
    }
}

pub fn size(bf16: bool) -> usize {
    if bf16 { 2 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_rows_lie_within() {
        let t = |at, rows| Tensor { at, rows, cols: 64, half: false };
        let places = Places::new(640, &[t(256, 2), t(128, 2)]);
        assert_eq!(places.of(t(64, 1)), (256, false));
        assert_eq!(places.of(t(128, 2)), (512, true));
        assert_eq!(places.of(t(192, 1)), (640, true));
        assert_eq!(places.of(t(256, 2)), (768, true));
        assert_eq!(places.of(t(384, 4)), (1024, false));
        assert_eq!(places.bytes(), 2048);
        assert_eq!(Places::new(640, &[]).bytes(), 2560);
    }

    #[test]
    #[should_panic(expected = "lies across element 128")]
    fn a_tensor_has_one_kind_of_numbers() {
        Places::new(640, &[Tensor { at: 128, rows: 2, cols: 64, half: false }]).of(Tensor {
            at: 64,
            rows: 2,
            cols: 64,
            half: false,
        });
    }
}
