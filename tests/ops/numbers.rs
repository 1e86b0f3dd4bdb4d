//! Numbers to compute with.

/// A stream of numbers that looks random and is the same everywhere.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn integer(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as usize) % below
    }
    /// Between −1 and 1, exact in f32.
    pub fn real(&mut self) -> f32 {
        self.integer(1 << 20) as f32 / (1 << 19) as f32 - 1.0
    }
}
