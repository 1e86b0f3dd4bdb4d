//! Sums and copies between ranks against a serial sum in rank order, to the last bit: by messages, out of memory that all
//! share, and both at once, where ranks {0, 1} and {2, 3} count as two nodes.
use crate::job;
use llm_train::comm::{Collective, Mpi, Ticket};
use llm_train::device::{Access, Device, Memory, Precision};
use llm_train::error::Result;
use llm_train::tensor::{Kind, Plan, Tensor};

#[test]
fn sums_are_serial_sums_in_rank_order() {
    // Worlds of 1 and 3, 2 and 2, 3 and 1, 4.
    job::succeeds(4, "collectives");
}

pub fn rank() {
    let launch = job::join();
    let all = job::world();
    for first in 1..=4 {
        let world = all.split(usize::from(all.rank() >= first));
        tensors(&world, |_| None);
        // All neighbours, then 0 and 1 beside 2 and 3; each twice, for memory is given back and taken anew.
        for room in [world.size(), world.size(), 2, 2].map(|of| world.rank() / of) {
            tensors(&world, |elements| Some(world.share_in(elements, room)));
        }
        words(&world);
    }
    launch.leave(0)
}

/// Elements of a block: one, odd, a chunk, more than the slots hold.
const BLOCKS: [usize; 6] = [1, 63, 1000, 1 << 16, (1 << 16) + 1, (5 << 16) + 17];
/// Elements of a block that needs several messages.
const LONG: usize = (1 << 24) + 5;

/// Of many magnitudes, so that the order of a sum shows in its bits.
fn value(rank: usize, i: usize) -> f32 {
    let x = (i as u32).wrapping_mul(2654435761).wrapping_add(rank as u32 * 40503).wrapping_mul(2246822519);
    ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * [1.0, 1e-3, 1e4, 7.0][(x % 4) as usize]
}

fn serial(size: usize, i: usize) -> f32 {
    (1..size).fold(value(0, i), |sum, rank| sum + value(rank, i))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    ReduceScatter,
    AllReduce,
    AllGather,
}

fn begin(world: &Mpi, dev: &Device, what: What, t: Tensor) -> Ticket {
    let loan = dev.lend(t, Access::Write);
    match what {
        What::ReduceScatter => world.reduce_scatter(loan),
        What::AllReduce => world.all_reduce(loan),
        What::AllGather => world.all_gather(loan),
    }
}

fn fill(world: &Mpi, dev: &Device, t: Tensor) {
    let values: Vec<f32> = (0..t.len()).map(|i| value(world.rank(), i)).collect();
    dev.write(t, &values);
}

fn check(world: &Mpi, dev: &Device, what: What, t: Tensor) {
    let (rank, size, block) = (world.rank(), world.size(), t.len() / world.size());
    for (i, x) in dev.read(t).into_iter().enumerate() {
        let expected = match what {
            What::AllReduce => serial(size, i),
            What::ReduceScatter if i / block == rank => serial(size, i),
            What::ReduceScatter => value(rank, i),
            What::AllGather => value(i / block, i),
        };
        assert!(x.to_bits() == expected.to_bits(), "{what:?} of {size} × {block}, element {i}: {x}, expected {expected}");
    }
}

fn tensors(world: &Mpi, share: impl FnOnce(usize) -> Option<Result<Memory>>) {
    const ALL: [What; 3] = [What::ReduceScatter, What::AllReduce, What::AllGather];
    let mut plan = Plan::default();
    let of = |plan: &mut Plan, block: usize| plan.vector(Kind::Gradients, block * world.size());
    let mut kinds = |blocks: &[usize]| -> Vec<(What, Tensor)> {
        blocks.iter().flat_map(|b| ALL.map(|what| (what, *b))).map(|(what, b)| (what, of(&mut plan, b))).collect()
    };
    // More than neighbours tell each other of at once.
    let mut places = kinds(&[&BLOCKS[..], &[3; 25]].concat());
    let front = places.last().map_or(0, |(_, t)| t.end());
    // What does not lie in shared memory goes by message all the same.
    places.extend(kinds(&[63, 1000]));
    places.rotate_right(4);
    let front = share(front).and_then(|memory| memory.map_err(|e| assert!(e.to_string().contains("no other rank"), "{e}")).ok());
    let long = (world.size() <= 2 && front.is_none()).then(|| of(&mut plan, LONG));
    let dev = Device::cpu_in(front, &plan, 1, &[], Precision::Fp32).unwrap();
    for &(what, t) in &places {
        fill(world, &dev, t);
        begin(world, &dev, what, t).wait();
        check(world, &dev, what, t);
    }
    // All at once; the last is waited for first.
    places.iter().for_each(|(_, t)| fill(world, &dev, *t));
    let tickets: Vec<Ticket> = places.iter().map(|(what, t)| begin(world, &dev, *what, *t)).collect();
    let overtaking = world.exchange(&[world.rank() as f64]);
    assert_eq!(overtaking.concat(), (0..world.size()).map(|r| r as f64).collect::<Vec<_>>());
    tickets.into_iter().rev().for_each(drop); // dropped or waited for, it is the same
    places.iter().for_each(|(what, t)| check(world, &dev, *what, *t));
    if let Some(t) = long {
        fill(world, &dev, t);
        begin(world, &dev, What::AllGather, t).wait();
        check(world, &dev, What::AllGather, t);
    }
}

fn words(world: &Mpi) {
    let (rank, size) = (world.rank(), world.size());
    let every = |f: fn(usize) -> Vec<f64>| (0..size).map(f).collect::<Vec<_>>();
    let numbers = |rank: usize| vec![rank as f64, 0.1 + rank as f64, f64::NAN];
    let all = world.exchange(&numbers(rank));
    assert!(all.iter().zip(every(numbers)).all(|(a, b)| a[..2] == b[..2] && a[2].is_nan()), "{all:?}");
    assert!(world.exchange(&[]).iter().all(Vec::is_empty));
    let text = |rank: usize| "x".repeat(rank * 1000).into_bytes();
    assert_eq!(world.gather(&text(rank)), (0..size).map(text).collect::<Vec<_>>());
    assert_eq!(world.gather(&[]), vec![Vec::<u8>::new(); size]);
    for root in 0..size {
        let text = |root: usize| vec![root as u8; 100_000 * root + 1];
        assert_eq!(world.broadcast(if rank == root { text(root) } else { vec![9; 3] }, root), text(root));
    }
    assert!(world.broadcast(vec![], 0).is_empty());
    world.barrier();
}
