//! Ten steps of every family in every layout: ranks, what carries their tensors, what they divide.
use crate::scene::{Run, off};
use std::path::Path;

/// One block as the goldens have it, weights drawn, 4 sequences of 8 tokens a step.
fn small(family: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family);
    let folder = folder.display();
    format!(
        "--model {folder} --layers 1 --data {folder}/tokens.bin --seq-len 8 --global-batch 4 --micro-batch 1 --lr 3e-3 --schedule constant \
         --warmup-steps 0 --seed 5 --steps 10"
    )
}

fn ten_steps_in_each_layout_are_the_cpus(family: &str) {
    let small = small(family);
    let Some(alone) = Run::cuda(&small) else { return };
    let cpu = Run::cpu(&format!("--device cpu {small}")).steps();
    assert_eq!(cpu.len(), 10);
    assert!(cpu[9][0] < cpu[0][0] - 0.5, "{family}: nothing is learnt: {cpu:?}");
    let near = |there: &[[f64; 2]], layout: &str| {
        let found = off(there, &cpu);
        assert!(found[0] <= 2e-5 && found[1] <= 2e-4, "{family} {layout}: off by {found:?} of the CPU's");
    };
    near(&alone.steps(), "alone");
    for ranks in [2, 4] {
        let mut first: Option<Vec<[f64; 2]>> = None;
        for layout in ["--comm nccl --zero 0", "--comm nccl --zero 1", "--comm mpi --zero 0", "--comm mpi --zero 1"] {
            let there = Run::cuda(&small).unwrap().and(layout).ranks(ranks).steps();
            near(&there, &format!("{ranks} ranks {layout}"));
            // Every layout adds up in rank order, in the stub's NCCL too.
            assert_eq!(first.get_or_insert(there.clone()), &there, "{family}: {ranks} ranks {layout}");
        }
    }
}

#[test]
fn gpt2() {
    ten_steps_in_each_layout_are_the_cpus("gpt2");
}

#[test]
fn opt() {
    ten_steps_in_each_layout_are_the_cpus("opt");
}

#[test]
fn llama() {
    ten_steps_in_each_layout_are_the_cpus("llama");
}

#[test]
fn llama3() {
    ten_steps_in_each_layout_are_the_cpus("llama3");
}

#[test]
fn qwen2() {
    ten_steps_in_each_layout_are_the_cpus("qwen2");
}

#[test]
fn qwen3() {
    ten_steps_in_each_layout_are_the_cpus("qwen3");
}
