//! The two number types, for loops that are written once.
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

pub trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    fn of(v: f64) -> Self;
    fn to(self) -> f64;
    fn exp(self) -> Self;
    fn tanh(self) -> Self;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;
}
macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            fn of(v: f64) -> Self {
                v as $t
            }
            fn to(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn tanh(self) -> Self {
                <$t>::tanh(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// Runs the same generic loop on either device.
#[macro_export]
macro_rules! on_both {
    ($dev:expr, [$($o:ident),*], [$($i:ident),*], $body:expr) => {
        match $dev {
            $crate::device::Device::Cpu(d) => d.arena.op([$($o),*], [$($i),*], |[$($o),*], [$($i),*]| { $(let $o: &mut [f32] = $o;)* $(let $i: &[f32] = $i;)* $body }),
            $crate::device::Device::Reference(d) => d.arena.op([$($o),*], [$($i),*], |[$($o),*], [$($i),*]| { $(let $o: &mut [f64] = $o;)* $(let $i: &[f64] = $i;)* $body }),
        }
    };
}
