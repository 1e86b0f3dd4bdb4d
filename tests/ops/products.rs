//! Matrix products: all kernels that the processor has, all layouts, strides, both precisions, operands stored in either; bf16 against the f64 product of the rounded operands.
use crate::bench::Numbers;
use crate::emulated;
use half::bf16;
use llm_train::device::threads::Threads;
use llm_train::device::{
    Precision,
    Values::{Bf16, F32},
    ValuesMut,
};
use llm_train::ops::gemm::{self, Finisher, Into, Kernel, Layout};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Mutex;

const LAYOUTS: [Layout; 3] = [Layout::NT, Layout::NN, Layout::TN];

/// A matrix of `rows` × `cols` whose rows lie `stride` apart, with NaN in the gaps.
fn matrix(numbers: &mut Numbers, (rows, cols): (usize, usize), stride: usize) -> Vec<f32> {
    (0..rows * stride).map(|i| if i % stride < cols { numbers.real() } else { f32::NAN }).collect()
}

/// These numbers where a line of memory begins, as they lie in a step: whole lines may then be written past the caches.
fn on_a_line<'a, T: Copy>(x: &[T], room: &'a mut Vec<T>) -> &'a mut [T] {
    const LINE: usize = 64;
    room.extend(x.iter().copied().cycle().take(x.len() + LINE));
    let skip = room.as_ptr().align_offset(LINE);
    let there = &mut room[skip..][..x.len()];
    there.copy_from_slice(x);
    there
}

fn dense(x: &[f32], (rows, cols): (usize, usize), stride: usize, precision: Precision) -> Vec<f64> {
    let value = |x: f32| if precision == Precision::Bf16 { bf16::from_f32(x).to_f64() } else { f64::from(x) };
    (0..rows * cols).map(|i| value(x[i / cols * stride + i % cols])).collect()
}

/// Sizes around the kernels' blocks, and those of a layer.
const SIZES: [usize; 9] = [1, 5, 15, 16, 17, 31, 33, 64, 129];
const DEPTHS: [usize; 8] = [1, 2, 15, 31, 33, 64, 257, 700];

/// One product against f64; `gap` elements, not a number, lie between the rows.
fn hold(kernel: &Kernel, precision: Precision, layout: Layout, size: [usize; 3], into: Into, gap: usize, numbers: &mut Numbers) {
    let [m, n, k] = size;
    let [shape_a, shape_b] = layout.stored(size);
    let (lda, ldb, ldc) = (shape_a.1 + gap, shape_b.1 + gap, n + gap);
    let (a, b) = (matrix(numbers, shape_a, lda), matrix(numbers, shape_b, ldb));
    let mut room = Vec::new();
    let c = on_a_line(&matrix(numbers, (m, n), ldc), &mut room);
    let mut exact = dense(c, (m, n), ldc, Precision::Fp32);
    let (dense_a, dense_b) = (dense(&a, shape_a, lda, precision), dense(&b, shape_b, ldb, precision));
    gemm::reference(layout, size, into, &mut exact, &dense_a, &dense_b);
    let twice = |_: usize, _: usize, part: &mut [f32]| part.iter_mut().for_each(|x| *x *= 2.0);
    let what = format!("{} {precision:?} {layout:?} {size:?} {into:?} gap {gap}", kernel.name);
    let before = c.to_vec();
    let mut sums = vec![1.0; if layout == Layout::NT { 0 } else { n }];
    let (read_a, read_b) = ((F32(&a), lda), (F32(&b), ldb));
    gemm::with(kernel, precision, layout, size, into, ((&mut *c).into(), ldc), read_a, read_b, twice, &mut sums);
    hold_sums(&what, &sums, c, [m, n, ldc]);
    if into == Into::Overwrite {
        // rounded when it is complete; where a slab of f32 is less deep than k, sums are added in another order
        let half: Vec<bf16> = before.iter().map(|x| bf16::from_f32(*x)).collect();
        let mut room = Vec::new();
        let half = on_a_line(&half, &mut room);
        let mut again = vec![1.0; sums.len()];
        gemm::with(kernel, precision, layout, size, into, (ValuesMut::Bf16(half), ldc), read_a, read_b, twice, &mut again);
        for (i, (c, half)) in c.iter().zip(&*half).enumerate() {
            let near = (half.to_f64() - f64::from(*c)).abs() <= f64::from(c.abs()) / 256.0 + 1e-4;
            let right = if k <= 1024 || c.is_nan() { half.to_bits() == bf16::from_f32(*c).to_bits() } else { near };
            assert!(right, "{what}: element {i} in bf16 is {half}, in f32 {c}");
        }
        hold_sums(&what, &again, c, [m, n, ldc]);
    }
    if precision == Precision::Bf16 {
        // rounded beforehand in place of on the way: the same bits
        let [half_a, half_b] = [&a, &b].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
        for (a, b) in [(Bf16(&half_a), F32(&b)), (F32(&a), Bf16(&half_b)), (Bf16(&half_a), Bf16(&half_b))] {
            let mut room = Vec::new();
            let again = on_a_line(&before, &mut room);
            gemm::with(kernel, precision, layout, size, into, ((&mut *again).into(), ldc), (a, lda), (b, ldb), twice, &mut []);
            assert!(
                c.iter().zip(again).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{what}: operands in bf16 give another product"
            );
        }
    }
    for (i, c) in c.iter().enumerate() {
        if i % ldc >= n {
            assert!(c.is_nan(), "{what}: element {i}, between the rows, was written");
            continue;
        }
        let exact = 2.0 * exact[i / ldc * n + i % ldc];
        // an f32 sum of k products of numbers below 1
        let allowed = 6e-8 * (20.0 + k as f64) * (1.0 + exact.abs());
        assert!((f64::from(*c) - exact).abs() < allowed, "{what}: element {i} is {c}, expected {exact}");
    }
}

/// Each column's sum over the rows of c, to which it was added: 1 before.
fn hold_sums(what: &str, sums: &[f32], c: &[f32], [m, n, ldc]: [usize; 3]) {
    for (j, sum) in sums.iter().enumerate() {
        let column = (0..m).map(|i| f64::from(c[i * ldc + j]));
        let (exact, size) = (1.0 + column.clone().sum::<f64>(), column.map(f64::abs).sum::<f64>());
        let allowed = 6e-8 * 20.0 * (1.0 + size);
        assert!((f64::from(*sum) - exact).abs() < allowed, "{what}: column {j} of {n} sums up to {sum}, expected {exact}");
    }
}

fn kernels() -> impl Iterator<Item = (&'static Kernel, Precision)> {
    let all = gemm::kernels::ALL.into_iter().chain([&emulated::PAIRS, &emulated::TILES]);
    all.flat_map(|kernel| [Precision::Fp32, Precision::Bf16].map(|p| (kernel, p))).filter(|(kernel, p)| kernel.serves(*p))
}

/// What the door does by itself where there are few rows.
#[test]
fn products_of_few_rows_agree_with_f64() {
    let (mut numbers, rows) = (Numbers::new(11), [1, 2, 4]);
    for (m, n, k) in rows.into_iter().flat_map(|m| [(m, 1, 1), (m, 17, 33), (m, 700, 129)]) {
        for (precision, into) in
            [(Precision::Fp32, Into::Overwrite), (Precision::Bf16, Into::Overwrite), (Precision::Fp32, Into::Add)]
        {
            let (a, b) = (matrix(&mut numbers, (m, k), k + 3), matrix(&mut numbers, (n, k), k + 1));
            let mut c = matrix(&mut numbers, (m, n), n + 2);
            let mut exact = dense(&c, (m, n), n + 2, Precision::Fp32);
            let (left, right) = (dense(&a, (m, k), k + 3, precision), dense(&b, (n, k), k + 1, precision));
            gemm::reference(Layout::NT, [m, n, k], into, &mut exact, &left, &right);
            let twice = |_: usize, _: usize, part: &mut [f32]| part.iter_mut().for_each(|x| *x *= 2.0);
            let halves = [&a, &b].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
            // from f32, and where the precision allows it from what was rounded beforehand: the same bits
            let (mut again, half) = (c.clone(), precision == Precision::Bf16);
            let sources = if half { [Bf16(&halves[0]), Bf16(&halves[1])] } else { [F32(&a), F32(&b)] };
            for (c, a, b) in [(&mut c, F32(&a), F32(&b)), (&mut again, sources[0], sources[1])] {
                gemm::finished(
                    precision,
                    Layout::NT,
                    [m, n, k],
                    into,
                    ((&mut c[..]).into(), n + 2),
                    (a, k + 3),
                    (b, k + 1),
                    twice,
                    &mut [],
                );
            }
            assert!(c.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{m} {n} {k} {precision:?}");
            if into == Into::Overwrite {
                let mut half = vec![bf16::NAN; c.len()];
                let to = (ValuesMut::Bf16(&mut half), n + 2);
                gemm::finished(
                    precision,
                    Layout::NT,
                    [m, n, k],
                    into,
                    to,
                    (sources[0], k + 3),
                    (sources[1], k + 1),
                    twice,
                    &mut [],
                );
                let same = c.iter().zip(&half).all(|(c, half)| c.is_nan() && half.is_nan() || bf16::from_f32(*c) == *half);
                assert!(same, "{m} {n} {k} {precision:?}: in bf16");
            }
            for (i, c) in c.iter().enumerate().filter(|(i, _)| i % (n + 2) < n) {
                let exact = 2.0 * exact[i / (n + 2) * n + i % (n + 2)];
                assert!(
                    (f64::from(*c) - exact).abs() < 6e-8 * (20.0 + k as f64) * (1.0 + exact.abs()),
                    "{m} {n} {k} {precision:?}"
                );
            }
        }
    }
}

/// `scripts/test.sh` shows these lines.
#[test]
fn which_kernels_are_exercised() {
    for kernel in gemm::kernels::ALL {
        let here = if (kernel.available)() { "exercised" } else { "passed over, its instructions emulated" };
        println!("product kernel {}: {here}", kernel.name);
    }
}

#[test]
fn agree_with_f64() {
    let pool = Threads::new(3, &[]).unwrap();
    let mut numbers = Numbers::new(29);
    for (kernel, precision) in kernels() {
        for m in SIZES {
            for n in SIZES {
                for (i, k) in DEPTHS.into_iter().enumerate() {
                    let (into, gap) =
                        [(Into::Add, 3), (Into::Overwrite, 0), (Into::Add, 0), (Into::Overwrite, 5)][(i + m + n) % 4];
                    for layout in LAYOUTS {
                        pool.install(|| hold(kernel, precision, layout, [m, n, k], into, gap, &mut numbers));
                    }
                }
            }
        }
    }
}

#[test]
fn agree_with_f64_in_the_layers_own_sizes() {
    let pool = Threads::new(2, &[]).unwrap();
    let mut numbers = Numbers::new(31);
    for (kernel, precision) in kernels() {
        // more than a slab of rows, of columns, and of depth; so wide that b is read where it lies, and more than a slab deep
        let sizes = [[256, 1152, 384], [130, 2050, 513], [2049, 40, 520], [33, 65, 9000], [40, 640, 1500]];
        // instructions written out take their time: one size that has ragged tiles, one of several rows of them, one of more than a
        // slab's depth, two of which AMX reads a where it lies, one so large that its result is written past the caches
        let sizes = if kernel.name.ends_with("emulated") {
            vec![[130, 290, 513], [390, 70, 65], [17, 33, 9000], [48, 40, 2112], [5, 64, 2112], [1400, 768, 5]]
        } else {
            sizes.to_vec()
        };
        for size in sizes {
            for layout in LAYOUTS {
                pool.install(|| hold(kernel, precision, layout, size, Into::Add, 0, &mut numbers));
            }
        }
    }
}

/// In f32 written past the caches by every kernel, by vector kernels but where it is added to; also by turned blocks (NT).
#[test]
fn agree_with_f64_where_no_cache_holds_the_result() {
    let pool = Threads::new(2, &[]).unwrap();
    let mut numbers = Numbers::new(37);
    for (kernel, precision) in kernels().filter(|(kernel, _)| !kernel.name.ends_with("emulated")) {
        for (layout, into) in [(Layout::NT, Into::Overwrite), (Layout::NN, Into::Overwrite), (Layout::NN, Into::Add)] {
            pool.install(|| hold(kernel, precision, layout, [33, 400_000, 4], into, 0, &mut numbers));
        }
    }
}

/// Also one whose payload lies in the bits that bf16 drops.
#[test]
fn not_a_number_stays_one() {
    for (kernel, precision) in kernels() {
        for nan in [f32::NAN, f32::from_bits(0x7f80_0001)] {
            let (mut a, b, mut c) = (vec![1.0; 3 * 40], vec![1.0; 2 * 40], vec![0.0; 6]);
            a[40 + 7] = nan;
            let (a, b) = ((F32(&a), 40), (F32(&b), 40));
            gemm::with(kernel, precision, Layout::NT, [3, 2, 40], Into::Overwrite, ((&mut c[..]).into(), 2), a, b, (), &mut []);
            let found: Vec<bool> = c.iter().map(|c| c.is_nan()).collect();
            assert_eq!(found, [false, false, true, true, false, false], "{} {precision:?} {nan:?}", kernel.name);
        }
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let mut numbers = Numbers::new(37);
    let (a, b) = (matrix(&mut numbers, (300, 200), 200), matrix(&mut numbers, (410, 200), 200));
    for (kernel, precision) in kernels() {
        let run = |threads| {
            let (mut c, mut sums) = (vec![0.0; 300 * 410], vec![0.0; 410]);
            Threads::new(threads, &[]).unwrap().install(|| {
                let (size, into, finish) = ([300, 410, 200], Into::Overwrite, ());
                let (a, b, across) = ((F32(&a), 200), (F32(&b), 200), (F32(&b), 410));
                gemm::with(kernel, precision, Layout::NN, size, into, ((&mut c[..]).into(), 410), a, across, finish, &mut sums);
                gemm::with(kernel, precision, Layout::NT, size, into, ((&mut c[..]).into(), 410), a, b, finish, &mut []);
            });
            (c, sums)
        };
        assert!(run(1) == run(3), "{}", kernel.name);
    }
}

/// Notes what was announced, and holds what comes to it.
struct Announced(Mutex<HashSet<(usize, usize)>>);

impl Finisher for Announced {
    fn part(&self, row: usize, col: usize, part: &mut [f32]) {
        let announced = self.0.lock().unwrap();
        assert!(
            (col..col + part.len()).all(|col| announced.contains(&(row, col))),
            "row {row}, columns {col}.. came unannounced"
        );
    }
    fn ahead(&self, rows: Range<usize>, cols: Range<usize>) {
        self.0.lock().unwrap().extend(rows.flat_map(|row| cols.clone().map(move |col| (row, col))));
    }
}

/// Also where b is taken for the left operand, and where k takes several slabs.
#[test]
fn a_part_of_c_is_announced_before_it_is_complete() {
    let mut numbers = Numbers::new(41);
    for [m, n, k] in [[70, 90, 40], [20, 300, 64], [33, 35, 2100]] {
        let (a, b) = (matrix(&mut numbers, (m, k), k), matrix(&mut numbers, (n, k), k));
        for (kernel, precision) in kernels() {
            let (mut c, all) = (vec![0.0; m * n], Announced(Mutex::default()));
            let (a, b) = ((F32(&a), k), (F32(&b), k));
            gemm::with(kernel, precision, Layout::NT, [m, n, k], Into::Overwrite, ((&mut c[..]).into(), n), a, b, all, &mut []);
        }
    }
}

/// c (2, 2) = a (2, 5) · b (5, 2), with a's rows so far apart and b of so many numbers.
fn small_product(a_stride: usize, b_len: usize) {
    let (a, b) = ([0.0; 10], [0.0; 10]);
    let (a, b) = ((F32(&a), a_stride), (F32(&b[..b_len]), 2));
    gemm::product(Precision::Fp32, Layout::NN, [2, 2, 5], Into::Overwrite, ((&mut [0.0; 4][..]).into(), 2), a, b);
}

#[test]
#[should_panic(expected = "rows 4 apart")]
fn refuse_a_stride_shorter_than_a_row() {
    small_product(4, 10);
}

#[test]
#[should_panic(expected = "b has 9 elements")]
fn refuse_an_operand_that_is_too_short() {
    small_product(5, 9);
}
