//! Two ranks: gradients by NCCL between their GPUs, or by MPI through their hosts; replicated or divided moments.
use crate::scene::{Run, off, tiny};

/// One rank with the same global batch.
fn alone() -> Option<Vec<[f64; 2]>> {
    Some(Run::cuda(tiny())?.steps())
}

#[test]
fn two_ranks_are_as_one_however_the_gradients_travel() {
    let Some(alone) = alone() else { return };
    let cpu = Run::cpu(&format!("--device cpu {}", tiny())).ranks(2).steps();
    let mut first: Option<Vec<[f64; 2]>> = None;
    for comm in ["nccl", "mpi"] {
        for options in ["--zero 0", "--zero 1", "--zero 1 --recompute block", "--zero 0 --micro-batch 2"] {
            let run = Run::cuda(tiny()).unwrap().and(&format!("--comm {comm} {options}")).ranks(2);
            let there = run.steps();
            for (whose, here) in [("one rank's", &alone), ("the CPU's", &cpu)] {
                let found = off(&there, here);
                assert!(found[0] <= 2e-5 && found[1] <= 2e-4, "{comm} {options}: off by {found:?} of {whose}");
            }
            // The stub adds up in rank order, as our sums over MPI do; only another micro-batch adds in another order.
            if !options.contains("micro-batch") {
                assert_eq!(first.get_or_insert(there.clone()), &there, "{comm} {options}");
            }
        }
    }
}

#[test]
fn two_ranks_on_one_gpu_go_by_mpi_and_are_told() {
    let Some(run) = Run::cuda(tiny()) else { return };
    let run = run.ranks(2).with("STUB_DEVICES", "1");
    let ended = run.job().done();
    assert!(ended.err.contains("ranks 0, 1 share the GPU "), "{ended}");
    let found = off(&run.left(), &alone().unwrap());
    assert!(found[0] <= 2e-5 && found[1] <= 2e-4, "{found:?}");
}

#[test]
fn a_failing_sum_ends_the_job_by_name() {
    let Some(run) = Run::cuda(tiny()) else { return };
    let ended = run.and("--comm nccl").ranks(2).with("STUB_NCCL_FAIL", "6").job().run();
    assert_ne!(ended.status.code(), Some(0), "{ended}");
    let named = ended.err.lines().any(|line| {
        // What is under way, or was the last to be, may also be the step's numbers.
        let what = ["of group", "of the step's numbers"].iter().any(|what| line.contains(what));
        line.contains("rank ") && what && ["step 2", "NCCL", "remote process"].iter().all(|w| line.contains(w))
    });
    assert!(named, "{ended}");
}
