//! A GPU may run two streams in any order that events allow. So the stub runs them in several, and each must give the same
//! bits. And it knows which bytes every operation touches: with each of our waits left out in turn, two that meet are in no order.
use crate::scene::{Precision, Run, tiny};

const ORDERS: [&str; 4] = ["lazy", "reverse", "random:1", "random:2"];

/// In bf16 what is gathered are copies, or the weights themselves.
const CARRIED: [(&str, Precision); 5] = [
    ("nccl", Precision::Fp32),
    ("mpi", Precision::Fp32),
    ("nccl --reduce bf16", Precision::Bf16),
    ("nccl", Precision::Bf16True),
    ("mpi", Precision::Bf16True),
];

fn run((comm, precision): (&str, Precision)) -> Option<Run> {
    // Two steps reach every kind of wait: ZeRO-1 gathers, the second forward waits for it, and the evaluation for what the last
    // step has gathered.
    let held_out = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2/tokens.bin");
    let small = "--zero 1 --steps 2 --layers 1 --width 16 --heads 1 --vocab 512 --seq-len 8 --global-batch 2 --eval-batches 1";
    Some(Run::cuda(tiny())?.and(&format!("--comm {comm} {small} --val-data {held_out}")).ranks(2).precision(precision))
}

#[test]
fn any_order_gives_the_same_bits() {
    for comm in CARRIED {
        let Some(eager) = run(comm) else { return };
        let eager = eager.steps();
        for order in ORDERS {
            assert_eq!(run(comm).unwrap().with("STUB_ORDER", order).steps(), eager, "{comm:?} {order}");
        }
    }
}

#[test]
fn operations_that_meet_are_ordered() {
    for comm in CARRIED {
        let Some(run) = run(comm) else { return };
        let ended = run.with("STUB_RACES", "1").job().done();
        assert!(!ended.err.contains("RACE"), "{comm:?}: {ended}");
    }
}

#[test]
fn each_wait_is_needed() {
    for comm in CARRIED {
        let Some(whole) = run(comm) else { return };
        let log = whole.out.path().join("log-%r");
        let whole = whole.with("STUB_LOG", log.to_str().unwrap());
        whole.job().done();
        let log = std::fs::read_to_string(whole.out.path().join("log-0")).unwrap();
        let waits = log.lines().filter(|line| line.contains("] wait for [")).count();
        assert!(waits >= 8, "{comm:?}: {waits} waits");
        // In one run another one on each of the two ranks, which must show it itself: what a rank knows is its own.
        let all: Vec<usize> = (1..=waits).collect();
        for pair in all.chunks(2) {
            let mut unseen: Vec<(usize, usize)> = pair.iter().copied().enumerate().collect();
            let forget = pair.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            // The thread of messages may be late by chance, half of the time on a busy machine, so that the host has waited for the
            // ops by then: one run of many must show it.
            for _ in 0..30 {
                let said = run(comm).unwrap().with("STUB_FORGET", &forget).with("STUB_RACES", "1").job().run().err;
                unseen.retain(|(rank, _)| !said.contains(&format!("rank {rank}: RACE")));
                if unseen.is_empty() {
                    break;
                }
            }
            assert!(unseen.is_empty(), "{comm:?}: of {waits} waits, left out and nothing shows it: (rank, wait) {unseen:?}");
        }
    }
}
