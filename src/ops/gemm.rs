//! c (m, n) += a·b on f32 slices.
use crate::device::Precision;
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Layout {
    NT,
    NN,
    TN,
}
pub fn f32(p: Precision, l: Layout, m: usize, n: usize, k: usize, c: &mut [f32], a: &[f32], b: &[f32]) {
    assert_eq!((c.len(), a.len(), b.len()), (m * n, m * k, n * k), "gemm: shapes");
    let round = |x: &[f32]| -> Vec<f32> { x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect() };
    let (ra, rb);
    let (a, b) = if p == Precision::Bf16 {
        ra = round(a);
        rb = round(b);
        (&ra[..], &rb[..])
    } else {
        (a, b)
    };
    let (a_rs, a_cs) = if l == Layout::TN { (1, m) } else { (k, 1) };
    let (b_rs, b_cs) = if l == Layout::NT { (1, k) } else { (n, 1) };
    // SAFETY: lengths asserted above match the strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.as_ptr(),
            a_cs as isize,
            a_rs as isize,
            b.as_ptr(),
            b_cs as isize,
            b_rs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
