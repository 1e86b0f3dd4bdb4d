//! Ranges, as a profiler is told them (`tests/cuda/stub/libprofiler.cpp`): they nest on each thread, and name what they should.
use crate::scene::{Run, stubs, tiny};
use std::collections::HashMap;

/// Every range as the path of those around it, in the order in which they began.
fn paths(text: &str) -> Vec<String> {
    let mut open: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut all = vec![];
    for line in text.lines() {
        let [thread, sign, name] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let stack = open.entry(thread).or_default();
        match sign {
            "+" => {
                stack.push(name);
                all.push(stack.join(" > "));
            }
            _ => drop(stack.pop().unwrap_or_else(|| panic!("thread {thread} ends a range that it has not begun"))),
        }
    }
    assert!(open.values().all(Vec::is_empty), "left open: {open:?}");
    all
}

#[test]
fn a_profiler_sees_steps_passes_blocks_messages_and_the_optimizer() {
    for comm in ["nccl", "mpi"] {
        let Some(run) = Run::cuda(tiny()) else { return };
        let file = run.out.path().join("ranges");
        let profiler = stubs().unwrap().0.join("libprofiler.so");
        let run = run.and(&format!("--comm {comm} --zero 1 --steps 2")).ranks(2);
        let run = run.with("NVTX_INJECTION64_PATH", profiler.to_str().unwrap()).with("STUB_RANGES", file.to_str().unwrap());
        run.job().done();
        let all = paths(&std::fs::read_to_string(&file).unwrap());
        let count = |path: &str| all.iter().filter(|p| *p == path).count();
        // Two ranks, two micro-batches each, two blocks.
        for step in ["step 1", "step 2"] {
            assert_eq!(count(step), 2, "{comm}: {all:#?}");
            for pass in ["forward", "backward"] {
                assert_eq!(count(&format!("{step} > {pass}")), 4, "{comm} {pass}");
                for block in ["block 0", "block 1"] {
                    assert_eq!(count(&format!("{step} > {pass} > {block}")), 4, "{comm} {pass} {block}");
                }
            }
            assert_eq!(count(&format!("{step} > optimizer")), 2);
            let talks = all.iter().any(|path| path.starts_with(step) && path.contains("communication: "));
            assert!(talks, "{comm} {step}: {all:#?}");
        }
        let sums =
            all.iter().any(|path| path.contains("backward > ") && path.contains("communication: the reduction of group 1"));
        assert!(comm == "mpi" || sums, "{all:#?}");
    }
}

#[test]
fn a_profiler_that_is_not_there_is_done_without() {
    let Some(run) = Run::cuda(tiny()) else { return };
    let ended = run.with("NVTX_INJECTION64_PATH", "/nowhere/libprofiler.so").job().done();
    assert!(ended.err.contains("NVTX_INJECTION64_PATH"), "{ended}");
}
