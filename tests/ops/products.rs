//! Matrix products: all layouts, strides, both precisions; bf16 against the f64 product of the rounded operands.
use crate::bench::Numbers;
use half::bf16;
use llm_train::device::Precision;
use llm_train::ops::gemm::{self, Into, Layout};

const LAYOUTS: [Layout; 3] = [Layout::NT, Layout::NN, Layout::TN];

/// A matrix of `rows` × `cols` whose rows lie `stride` apart, with NaN in the gaps.
fn matrix(numbers: &mut Numbers, (rows, cols): (usize, usize), stride: usize) -> Vec<f32> {
    (0..rows * stride).map(|i| if i % stride < cols { numbers.real() } else { f32::NAN }).collect()
}

fn dense(x: &[f32], (rows, cols): (usize, usize), stride: usize, precision: Precision) -> Vec<f64> {
    let value = |x: f32| if precision == Precision::Bf16 { bf16::from_f32(x).to_f64() } else { f64::from(x) };
    (0..rows * cols).map(|i| value(x[i / cols * stride + i % cols])).collect()
}

#[test]
fn agree_with_f64() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut numbers = Numbers::new(29);
    let sizes = [1, 2, 5, 16, 31, 64, 130];
    for m in sizes {
        for n in sizes {
            for k in [1, 3, 64, 129, 700] {
                for layout in LAYOUTS {
                    for (precision, into, gap) in
                        [(Precision::Fp32, Into::Add, 3), (Precision::Bf16, Into::Overwrite, 0), (Precision::Bf16, Into::Add, 5)]
                    {
                        let size = [m, n, k];
                        let [shape_a, shape_b] = layout.stored(size);
                        let (lda, ldb, ldc) = (shape_a.1 + gap, shape_b.1 + gap, n + gap);
                        let (a, b) = (matrix(&mut numbers, shape_a, lda), matrix(&mut numbers, shape_b, ldb));
                        let mut c = matrix(&mut numbers, (m, n), ldc);
                        let mut exact = dense(&c, (m, n), ldc, Precision::Fp32);
                        gemm::reference(
                            layout,
                            size,
                            into,
                            &mut exact,
                            &dense(&a, shape_a, lda, precision),
                            &dense(&b, shape_b, ldb, precision),
                        );
                        pool.install(|| gemm::parallel(precision, layout, size, into, (&mut c, ldc), (&a, lda), (&b, ldb)));
                        for (i, c) in c.iter().enumerate() {
                            if i % ldc >= n {
                                assert!(c.is_nan(), "{layout:?} {size:?}: element {i}, between the rows, was written");
                                continue;
                            }
                            let exact = exact[i / ldc * n + i % ldc];
                            // an f32 sum of k products of numbers below 1
                            let allowed = 3e-8 * (20.0 + k as f64) * (1.0 + exact.abs());
                            assert!(
                                (f64::from(*c) - exact).abs() < allowed,
                                "{layout:?} {size:?} {precision:?} {into:?}: {c} for {exact}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows 4 apart")]
fn refuse_a_stride_shorter_than_a_row() {
    gemm::serial(Layout::NN, [2, 2, 5], Into::Overwrite, (&mut [0.0; 4], 2), (&[0.0; 10], 4), (&[0.0; 10], 2));
}

#[test]
#[should_panic(expected = "b has 9 elements")]
fn refuse_an_operand_that_is_too_short() {
    gemm::serial(Layout::NN, [2, 2, 5], Into::Overwrite, (&mut [0.0; 4], 2), (&[0.0; 10], 5), (&[0.0; 9], 2));
}
