//! How fast gradients are summed: by messages, by MPI's own reduce-scatter, out of the neighbours' memory. Shown, not judged.
//!
//! ```text
//! LLM_TRAIN_SUM_MIB=64,500 cargo test --release --test parallel sums_are_timed -- --nocapture
//! GB/s = bytes of one rank's gradients / time of the reduce-scatter, pages and connections warm
//! ```
use crate::job;
use llm_train::comm::{Collective, Mpi};
use llm_train::device::{Access, Device, Precision};
use llm_train::tensor::{Kind, Plan, Tensor};
use mpi::ffi;
use std::time::{Duration, Instant};

#[test]
fn sums_are_timed() {
    for ranks in [2, 4] {
        let text = job::succeeds(ranks, "speed").text;
        assert_eq!(text.matches("GB/s").count(), 3 * sizes().len(), "{text}");
    }
}

fn sizes() -> Vec<usize> {
    std::env::var("LLM_TRAIN_SUM_MIB").map_or(vec![4], |list| list.split(',').map(|mib| mib.parse().unwrap()).collect())
}

pub fn rank() {
    let launch = job::join();
    let world = job::world();
    for mib in sizes() {
        // Alternately, so that what else the machine does meets all three.
        let mut times = [const { vec![] }; 3];
        for _ in 0..3 {
            times[0].extend(ours(&world, mib << 18, false));
            times[1].extend(theirs(&world, mib << 18));
            times[2].extend(ours(&world, mib << 18, true));
        }
        for (what, mut times) in ["messages", "MPI's own", "shared"].iter().zip(times) {
            times.sort_unstable();
            let rate = |k: usize| mib as f64 * 1.048_576e-3 / times[k].as_secs_f64();
            let n = times.len();
            if launch.leads() {
                println!(
                    "{mib} MiB, {} ranks, {what}: {:.2} GB/s (quartiles {:.2}–{:.2}, best {:.2})",
                    world.size(),
                    rate(n / 2),
                    rate(3 * n / 4),
                    rate(n / 4),
                    rate(0)
                );
            }
        }
    }
    drop(world); // its thread gives the last memory back, before MPI ends
    launch.leave(0)
}

const ROUNDS: usize = 5;

/// The slowest rank's times. The buckets are those of a model, 16 of them.
fn ours(world: &Mpi, elements: usize, shared: bool) -> Vec<Duration> {
    let mut plan = Plan::default();
    let buckets: Vec<Tensor> = (0..16).map(|_| plan.vector(Kind::Gradients, elements / 16)).collect();
    let front = shared.then(|| world.share(plan.len()).unwrap());
    let dev = Device::cpu_in(front, &plan, 1, &[], Precision::Fp32).unwrap();
    buckets.iter().for_each(|t| dev.write(*t, &vec![1e-30; t.len()]));
    timed(world, || {
        let tickets: Vec<_> = buckets.iter().map(|t| world.reduce_scatter(dev.lend(*t, Access::Write))).collect();
        drop(tickets);
    })
}

fn theirs(world: &Mpi, elements: usize) -> Vec<Duration> {
    let all = vec![1e-30f32; elements];
    let mut own = vec![0f32; elements / world.size()];
    let bucket = elements / 16;
    timed(world, || {
        for (all, own) in all.chunks(bucket).zip(own.chunks_mut(bucket / world.size())) {
            // SAFETY: as many numbers as are said, in live memory; the world is the job's, and no other thread uses it now.
            unsafe {
                let (from, to) = (all.as_ptr().cast(), own.as_mut_ptr().cast());
                let (number, sum, job) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM, ffi::RSMPI_COMM_WORLD);
                ffi::MPI_Reduce_scatter_block(from, to, own.len() as i32, number, sum, job);
            }
        }
    })
}

fn timed(world: &Mpi, mut work: impl FnMut()) -> Vec<Duration> {
    work();
    let mine = (0..ROUNDS).map(|_| {
        world.barrier();
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    });
    let mine: Vec<f64> = mine.collect();
    let all = world.exchange(&mine);
    (0..ROUNDS).map(|k| Duration::from_secs_f64(all.iter().map(|times| times[k]).fold(0.0, f64::max))).collect()
}
