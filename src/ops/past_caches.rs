//! Writing whole lines to memory without reading them first and without a place in the caches: for results that are larger than those.
//! Where lines are not whole, or the processor has no AVX-512, it is an ordinary copy.
#[cfg(target_arch = "x86_64")]
use super::gemm::halved;
use super::simd::{self, LANES};
use half::bf16;

/// Structural: numbers in bf16 of a line of 64 bytes.
const HALVES: usize = 2 * LANES;

/// y = x.
///
/// # Safety
/// Nobody touches y, on this thread or another, before this one has called [`fence`].
pub unsafe fn copy(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    #[cfg(target_arch = "x86_64")]
    if simd::level() >= simd::Level::Avx512 && lines(y, LANES) {
        // SAFETY: the processor has AVX-512; both are as long, y is whole lines; the caller's promise.
        return unsafe { stream(y.as_mut_ptr(), x.as_ptr(), x.len() / LANES) };
    }
    y.copy_from_slice(x);
}

/// y = x rounded to bf16.
///
/// # Safety
/// As [`copy`].
pub unsafe fn halve(y: &mut [bf16], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    #[cfg(target_arch = "x86_64")]
    if simd::level() >= simd::Level::Avx512 && lines(y, HALVES) {
        // SAFETY: as above.
        return unsafe { stream_halved(y.as_mut_ptr(), x.as_ptr(), x.len() / HALVES) };
    }
    simd::halve(y, x);
}

/// What this thread has written here may be read, and is seen before what it writes from now on.
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}

#[cfg(target_arch = "x86_64")]
fn lines<T>(y: &[T], of: usize) -> bool {
    y.as_ptr().align_offset(64) == 0 && y.len().is_multiple_of(of)
}

/// # Safety
/// AVX-512; so many lines of both are there, and y begins one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn stream(y: *mut f32, x: *const f32, lines: usize) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_stream_ps};
    for at in (0..lines).map(|line| line * LANES) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_stream_ps(y.add(at), _mm512_loadu_ps(x.add(at))) };
    }
}

/// # Safety
/// AVX-512 F and BW; so many lines of y are there and as many numbers of x, and y begins a line.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn stream_halved(y: *mut bf16, x: *const f32, lines: usize) {
    for at in (0..lines).map(|line| line * HALVES) {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_stream_si512(y.add(at).cast(), halved(x.add(at))) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_caches_is_there_and_nothing_else() {
        /// Some places of it begin a line, others do not.
        #[repr(align(64))]
        struct Lines<T>([T; 700]);
        let mut x: Vec<f32> = (0..600).map(|i| 1.0 / (i as f32 - 77.5)).collect();
        // what is rounded to even, overflows, or is no number
        let rare = [0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff].map(f32::from_bits);
        x[3..9].copy_from_slice(&rare);
        for at in [0, 1, 16, 32, 33] {
            for len in [0, 1, 15, 16, 17, 32, 64, 256, 288, 300, 600] {
                let mut y = Lines([7.0; 700]);
                let mut halves = Lines([bf16::ONE; 700]);
                // SAFETY: looked at behind the fence.
                unsafe {
                    copy(&mut y.0[at..at + len], &x[..len]);
                    halve(&mut halves.0[at..at + len], &x[..len]);
                }
                fence();
                for i in 0..700 {
                    let inside = i >= at && i < at + len;
                    let expected = if inside { x[i - at] } else { 7.0 };
                    assert_eq!(y.0[i].to_bits(), expected.to_bits(), "{len} from {at} on: {i}");
                    let half = if inside { simd::to_bf16(x[i - at]) } else { bf16::ONE };
                    assert_eq!(halves.0[i].to_bits(), half.to_bits(), "{len} in bf16 from {at} on: {i}");
                }
            }
        }
    }
}
