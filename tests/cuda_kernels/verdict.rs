//! The numbers by which a step is judged, and the verdict.
use crate::arguments;
use crate::simulator::{Buffer, Real, Simulator};
use llm_train::ops::verdict::Verdict;

#[test]
fn a_rank_gives_what_the_host_has_and_what_the_device_kept() {
    let sim = Simulator::new(Real::Bf16);
    let (mine, kept, host) = (Buffer::fresh(32), Buffer::of(&[3f64, 4.0]), Buffer::of(&[0.5f64, 0.25, 7.0, 8.0]));
    sim.launch("post", 1, 1, 0, arguments![&mine, &kept, &host]);
    assert_eq!(mine.to_vec::<f64>(), [3.5, 4.25, 7.0, 8.0]);
    assert_eq!(kept.to_vec::<f64>(), [0.0, 0.0]);
}

#[test]
fn a_gpu_judges_as_a_host_does() {
    let sim = Simulator::new(Real::Bf16);
    // loss, squares of three ranks; the other two numbers count for nothing
    for (losses, squares) in [
        ([1.0, 2.0, 3.0], [9.0, 16.0, 0.0]),
        ([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]),
        ([1.0, 2.0, 3.0], [1e-3, 0.0, 0.0]),
        ([1.0, f64::NAN, 3.0], [9.0, 16.0, 0.0]),
        ([1.0, 2.0, f64::NEG_INFINITY], [9.0, 16.0, 0.0]),
        ([1.0, 2.0, 3.0], [9.0, 16.0, f64::INFINITY]),
        ([1.0, 2.0, 3.0], [f64::NAN, 16.0, 1.0]),
    ] {
        let words: Vec<f64> = losses.iter().zip(squares).flat_map(|(l, s)| [*l, s, f64::NAN, f64::NAN]).collect();
        for limit in [None, Some(1.0), Some(6.0)] {
            let (scale, skip, words) = (Buffer::fresh(4), Buffer::fresh(4), Buffer::of(&words));
            sim.launch("judge", 1, 1, 0, arguments![&scale, &skip, &words, 3, limit.unwrap_or(0.0)]);
            let expected = Verdict::of(losses.iter().sum(), squares.iter().sum::<f64>().sqrt(), limit);
            let found = match skip.to_vec::<u32>()[0] {
                0 => Verdict::Scale(scale.to_vec::<f32>()[0]),
                _ => Verdict::Skip,
            };
            assert_eq!(found, expected, "{losses:?} {squares:?} {limit:?}");
        }
    }
}
