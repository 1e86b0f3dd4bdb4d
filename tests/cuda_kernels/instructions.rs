//! The emulated instructions, and that the simulator sees what it is there to see.
use crate::arguments;
use crate::gpu;
use crate::numbers::{assert_within, random};
use crate::simulator::{Buffer, Real, Simulator, ops};
use half::bf16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn short(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|v| bf16::from_f32(*v)).collect()
}

#[test]
fn products_are_placed_as_the_isa_says() {
    let sim = Simulator::new(Real::Bf16);
    let (a, b, c) = (short(&random("a", 256)), short(&random("b", 128)), random("c", 128));
    let got = sim.in_every_order(|| {
        let d = Buffer::fresh(512);
        sim.launch("probe_multiply", 1, 32, 0, arguments![&d, &Buffer::of(&a), &Buffer::of(&b), &Buffer::of(&c)]);
        vec![d]
    });
    let product = |m: usize, n: usize| (0..16).map(|k| a[16 * m + k].to_f32() * b[8 * k + n].to_f32()).sum::<f32>();
    let want: Vec<f32> = (0..128).map(|i| c[i] + product(i / 8, i % 8)).collect();
    assert_within("mma", &got[0].to_vec::<f32>(), &want, 1e-6, 1e-6);
}

#[test]
fn matrices_are_loaded_as_the_isa_says() {
    let sim = Simulator::new(Real::Bf16);
    let rows: Vec<bf16> = short(&(0..256).map(|i| i as f32).collect::<Vec<_>>());
    let got = sim.in_every_order(|| {
        let (plain, transposed) = (Buffer::fresh(512), Buffer::fresh(512));
        sim.launch("probe_matrices", 1, 32, 512, arguments![&plain, &transposed, &Buffer::of(&rows)]);
        vec![plain, transposed]
    });
    assert_eq!(got[0].to_vec::<bf16>(), rows);
    let turned: Vec<bf16> = (0..256).map(|i| rows[i / 64 * 64 + i % 8 * 8 + i / 8 % 8]).collect();
    assert_eq!(got[1].to_vec::<bf16>(), turned);
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    if gpu::chosen() {
        return; // no GPU says so
    }
    let sim = Simulator::new(Real::Bf16);
    let rows = short(&random("rows", 256));
    let copy = |mistake: i32| {
        let out = Buffer::fresh(512);
        sim.launch("probe_copies", 1, 32, 512, arguments![&out, &Buffer::of(&rows), mistake]);
        out.to_vec::<bf16>()
    };
    assert_eq!(copy(0), rows);
    for mistake in [1, 2] {
        assert!(catch_unwind(AssertUnwindSafe(|| copy(mistake))).is_err(), "a copy nobody waited for is reported");
    }
}

#[test]
fn threads_that_do_not_meet_are_reported() {
    if gpu::chosen() {
        return; // they would wait for ever
    }
    let sim = Simulator::new(Real::Bf16);
    let run = |mistake: i32| {
        let out = Buffer::fresh(256);
        sim.launch("probe_meetings", 1, 64, 0, arguments![&out, mistake]);
    };
    run(0);
    for mistake in [1, 2] {
        assert!(catch_unwind(AssertUnwindSafe(|| run(mistake))).is_err(), "mistake {mistake}");
    }
    let refused = catch_unwind(AssertUnwindSafe(|| sim.launch("probe_meetings", 1, 96, 0, arguments![&Buffer::fresh(384), 0])));
    assert!(refused.is_err(), "more threads than the launch bound");
}

/// A kernel that no test launches would prove nothing. Those of attention are named by their width.
#[test]
fn every_kernel_is_launched_by_a_test() {
    let read = |folder: &Path, end: &str| -> String {
        let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        let files = files.filter(|f| f.extension().is_some_and(|e| e == end) && !f.ends_with("planted.rs"));
        files.map(|f| std::fs::read_to_string(f).unwrap()).collect()
    };
    let kernels = read(&ops(), "cu") + &read(&ops().join("attention"), "cu");
    let tests = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_kernels"), "rs");
    let mut count = 0;
    for kernel in kernels.split("extern \"C\" __global__ void").skip(1) {
        let kernel = kernel.trim_start();
        let kernel = kernel.strip_prefix("__launch_bounds__").map_or(kernel, |k| k.split_once(')').unwrap().1);
        let name = kernel.trim_start().split('(').next().unwrap();
        let width = name.replace("_64", "_{size}").replace("_128", "_{size}");
        let kinds = ["gelu", "relu", "swiglu"].map(|kind| width.replace(kind, "{name}"));
        let named = |name: &str| tests.contains(&format!("\"{name}\""));
        assert!(named(name) || named(&width) || kinds.iter().any(|k| named(k)), "no test launches {name}");
        count += 1;
    }
    assert!(count >= 38, "{count} kernels found");
}
