//! An operand's numbers as memory holds them.
use half::bf16;

/// To be read.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// To be written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl<'a> Values<'a> {
    pub fn len(self) -> usize {
        match self {
            Values::F32(x) => x.len(),
            Values::Bf16(x) => x.len(),
        }
    }
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// The numbers from the i-th on.
    pub fn skip(self, i: usize) -> Values<'a> {
        match self {
            Values::F32(x) => Values::F32(&x[i..]),
            Values::Bf16(x) => Values::Bf16(&x[i..]),
        }
    }
    /// `len` of them from the `at`-th on.
    pub fn part(self, at: usize, len: usize) -> Values<'a> {
        match self {
            Values::F32(x) => Values::F32(&x[at..][..len]),
            Values::Bf16(x) => Values::Bf16(&x[at..][..len]),
        }
    }
    /// Panics where they are bf16: of an operand that always is f32.
    pub fn f32(self) -> &'a [f32] {
        match self {
            Values::F32(x) => x,
            Values::Bf16(x) => panic!("{} numbers in bf16 where f32 is read", x.len()),
        }
    }
}

impl<'a> ValuesMut<'a> {
    pub fn len(&self) -> usize {
        match self {
            ValuesMut::F32(x) => x.len(),
            ValuesMut::Bf16(x) => x.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        match self {
            ValuesMut::F32(x) => x.is_empty(),
            ValuesMut::Bf16(x) => x.is_empty(),
        }
    }
    /// Panics where they are bf16.
    pub fn f32(self) -> &'a mut [f32] {
        match self {
            ValuesMut::F32(x) => x,
            ValuesMut::Bf16(x) => panic!("{} numbers in bf16 where f32 is written", x.len()),
        }
    }
    /// Panics where they are f32.
    pub fn bf16(self) -> &'a mut [bf16] {
        match self {
            ValuesMut::Bf16(x) => x,
            ValuesMut::F32(x) => panic!("{} numbers in f32 where bf16 is written", x.len()),
        }
    }
}

impl<'a> From<&'a mut [f32]> for ValuesMut<'a> {
    fn from(x: &'a mut [f32]) -> ValuesMut<'a> {
        ValuesMut::F32(x)
    }
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(x: &'a [f32]) -> Values<'a> {
        Values::F32(x)
    }
}
