//! Gradients that are summed in bf16, and weights that are gathered in bf16, copies or the weights themselves: half the bytes; the same
//! weights whoever owned them.
use crate::scene::{Precision, Run, off, tiny};

fn run(options: &str, ranks: usize) -> Option<Run> {
    Some(Run::cuda(tiny())?.precision(Precision::Bf16).and(options).ranks(ranks))
}

/// Lines of rank 0's log that hold `what`.
fn seen(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn gradients_are_summed_in_bf16_where_that_is_asked_for() {
    let cpu = Run::cpu(&format!("--device cpu {}", tiny())).steps();
    for precision in [Precision::Bf16, Precision::Fp32] {
        let run = |options: &str| Some(Run::cuda(tiny())?.precision(precision).and(options).ranks(2));
        let Some(exact) = run("--comm nccl --zero 0") else { return };
        let exact = exact.steps();
        let mut first: Option<Vec<[f64; 2]>> = None;
        for zero in ["--zero 0", "--zero 1"] {
            let halved = run(&format!("--comm nccl --reduce bf16 {zero}")).unwrap();
            let path = halved.out.path().join("log-%r");
            let halved = halved.with("STUB_LOG", path.to_str().unwrap());
            let there = halved.steps();
            assert_eq!(first.get_or_insert(there.clone()), &there, "{precision:?} {zero}: DDP and ZeRO-1 differ");
            let (of_f32, of_cpu) = (off(&there, &exact), off(&there, &cpu));
            println!("{precision:?} {zero}: off by {of_f32:?} of sums in f32, {of_cpu:?} of the CPU's");
            // the first step's loss knows no gradient; its norm does: eight bits of each number are left
            assert!(there[0][0] == exact[0][0] && 1e-6 < of_f32[1] && of_f32[1] < 5e-3, "{precision:?} {zero}: {of_f32:?}");
            assert!(of_f32[0] < 2e-3 && of_cpu[0] < 1e-2, "{precision:?} {zero}: {of_f32:?} of f32's, {of_cpu:?} of the CPU's");
            // a group's gradients: rounded, summed and brought back on the stream of messages, three steps
            let log = std::fs::read_to_string(halved.out.path().join("log-0")).unwrap();
            let sum = if zero == "--zero 0" { "nccl all-reduce" } else { "nccl reduce-scatter" };
            let sums: Vec<&str> = log.lines().filter(|line| line.contains(sum)).collect();
            assert!(sums.len() == 3 * 4 && sums.iter().all(|line| line.contains(" bf16 ")), "{zero}: {sums:?}");
            assert_eq!([seen(&log, "[2] to_bf16 "), seen(&log, "[2] to_float ")], [12, 12], "{zero}");
        }
    }
}

#[test]
fn the_room_for_them_is_counted() {
    // The largest group, its embeddings: 20,480 × 32 numbers and padding, two bytes each.
    let of_device = |options: &str| {
        let run = run(&format!("--vocab 20000 --steps 1 --comm nccl {options}"), 2)?;
        let said = run.job().done().out;
        let row = said.lines().find(|line| line.starts_with("  device ")).unwrap_or_else(|| panic!("{said}"));
        Some(row.split_whitespace().nth(1).unwrap().replace(',', "").parse::<usize>().unwrap())
    };
    let Some(f32) = of_device("--reduce f32") else { return };
    let bf16 = of_device("--reduce bf16").unwrap();
    assert!((2 * 20_000 * 32..2 * 20_600 * 32).contains(&(bf16 - f32)), "{} bytes more", bf16 - f32);
}

#[test]
fn who_cannot_sum_in_bf16_says_so() {
    let Some(two) = run("--comm mpi --reduce bf16", 2) else { return };
    two.job().run().with_code(2).sentence(&["--reduce", "--comm mpi", "expected f32", "found bf16"]);
    let shared = run("--reduce bf16", 2).unwrap().with("STUB_DEVICES", "1");
    shared.job().run().with_code(2).sentence(&["--reduce", "share a GPU", "expected f32", "found bf16"]);
    // A rank alone reduces nothing.
    assert_eq!(run("--reduce bf16", 1).unwrap().steps(), run("", 1).unwrap().steps());
}

#[test]
fn weights_travel_in_bf16_and_are_those_of_every_other_layout() {
    for ranks in [2, 4] {
        let mut first: Option<Vec<[f64; 2]>> = None;
        for layout in ["--comm nccl --zero 0", "--comm nccl --zero 1", "--comm mpi --zero 0", "--comm mpi --zero 1"] {
            let Some(run) = run(layout, ranks) else { return };
            let path = run.out.path().join("log-%r");
            let run = run.with("STUB_LOG", path.to_str().unwrap());
            let there = run.steps();
            assert_eq!(first.get_or_insert(there.clone()), &there, "{ranks} ranks {layout}");
            let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
            let gathers: Vec<&str> = log.lines().filter(|l| l.contains("nccl all-gather") && l.contains(" bf16 ")).collect();
            // four groups, three steps; at the end once more in f32, with the steps' numbers
            let expected = if layout == "--comm nccl --zero 1" { 12 } else { 0 };
            assert_eq!(gathers.len(), expected, "{ranks} ranks {layout}: {gathers:?}");
        }
    }
}

/// The bytes of a checkpoint's weights.
fn weights(run: &Run, step: u64) -> Vec<u8> {
    let file = run.out.path().join(format!("run/checkpoints/step-{step:08}/model.safetensors"));
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn checkpoints_hold_every_weight_in_f32_and_resumes_go_on_alike() {
    let saving = "--schedule constant --warmup-steps 0 --save-every 2 --keep 9";
    for more in ["", "--stochastic-rounding"] {
        let layout = |comm: &str, steps: u32, ranks| run(&format!("{saving} {more} {comm} --steps {steps}"), ranks);
        let Some(whole) = layout("--comm nccl --zero 1", 4, 2) else { return };
        let steps = whole.steps();
        let ddp = layout("--comm nccl --zero 0", 4, 2).unwrap();
        assert_eq!(ddp.steps(), steps, "{more}: DDP and ZeRO-1 differ");
        for step in [2, 4] {
            assert!(weights(&whole, step) == weights(&ddp, step), "{more}: the weights of step {step} differ");
        }
        let stopped = layout("--comm nccl --zero 1", 2, 2).unwrap();
        stopped.job().done();
        let stopped = stopped.and("--steps 4");
        let ended = stopped.job().done();
        assert!(ended.out.contains("going on after step 2"), "{ended}");
        assert_eq!(stopped.left(), steps, "{more}: gone on with");
        assert!(weights(&stopped, 4) == weights(&whole, 4), "{more}: the weights after a resume differ");
        // On another number of ranks the sums' order is another.
        let other = layout("--comm nccl --zero 1", 2, 2).unwrap();
        other.job().done();
        let other = other.ranks(4).and("--steps 4");
        other.job().done();
        let found = off(&other.left(), &steps);
        assert!(found[0] <= 1e-3 && found[1] <= 1e-2, "{more}: gone on with by four ranks: off by {found:?}");
    }
}

#[test]
fn copies_that_are_rounded_at_random_are_the_same_however_they_come_about() {
    let random = "--stochastic-rounding";
    let Some(alone) = run(random, 1) else { return };
    let (alone, nearest) = (alone.steps(), run("", 1).unwrap().steps());
    assert_eq!(alone, run(random, 1).unwrap().steps(), "the same run twice");
    assert!(alone[0] == nearest[0] && alone[1..] != nearest[1..], "nothing is rounded at random: {alone:?}");
    let found = off(&alone, &nearest);
    assert!(found[0] < 1e-2, "{found:?}");
    assert_ne!(alone, run(&format!("{random} --seed 4"), 1).unwrap().steps());
    // By AdamW on every rank, by AdamW on its owner and gathered, and made again from f32 that MPI has brought.
    let mut first: Option<Vec<[f64; 2]>> = None;
    for layout in ["--comm nccl --zero 0", "--comm nccl --zero 1", "--comm mpi --zero 1"] {
        let there = run(&format!("{random} {layout}"), 2).unwrap().steps();
        assert_eq!(first.get_or_insert(there.clone()), &there, "{layout}");
        let found = off(&there, &alone);
        assert!(found[0] < 1e-3, "{layout}: off by {found:?} of one rank's");
    }
}

#[test]
fn what_numbers_are_made_of_is_said_and_kept() {
    let Some(run) = run("--comm nccl --reduce bf16 --stochastic-rounding", 2) else { return };
    let json = run.out.path().join("result.json");
    let run = run.and(&format!("--json {}", json.display()));
    let ended = run.job().done();
    let words = "bf16 products, gradients reduced in bf16, weights rounded at random, deterministic";
    assert_eq!(
        ended.out.matches(&format!("numerics: {words}")).count(),
        2,
        "before the first step, and with the figures: {ended}"
    );
    let result: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(result["numerics"], words);
    let history = llm_train::metrics::History::read(&run.out.path().join("run/metrics.h5")).unwrap();
    assert_eq!(history.starts[0].numerics, words);
}

/// Weights that are bf16 alone: gathered where they lie, by NCCL as bf16 and by MPI as words; nothing is copied, rounded again or gathered twice.
#[test]
fn weights_that_are_bf16_alone_are_those_of_every_layout() {
    let run = |options: &str, ranks| Some(Run::cuda(tiny())?.precision(Precision::Bf16True).and(options).ranks(ranks));
    let saving = "--schedule constant --warmup-steps 0 --save-every 2 --keep 9 --steps 4";
    let Some(alone) = run(saving, 1) else { return };
    let (alone, mixed) = (alone.steps(), self::run(saving, 1).unwrap().steps());
    // before the first update mixed bf16 reads the same numbers, as copies
    assert!(alone[0] == mixed[0] && alone[1..] != mixed[1..] && off(&alone, &mixed)[0] < 1e-2, "{alone:?} {mixed:?}");
    let mut first: Option<(Vec<[f64; 2]>, Vec<u8>)> = None;
    for layout in ["--comm nccl --zero 0", "--comm nccl --zero 1", "--comm mpi --zero 0", "--comm mpi --zero 1"] {
        let run = run(&format!("{saving} {layout}"), 2).unwrap();
        let path = run.out.path().join("log-%r");
        let run = run.with("STUB_LOG", path.to_str().unwrap());
        let there = (run.steps(), weights(&run, 4));
        assert!(first.get_or_insert_with(|| there.clone()) == &there, "{layout}: {:?}", there.0);
        let found = off(&there.0, &alone);
        assert!(found[0] < 1e-3, "{layout}: off by {found:?} of one rank's");
        let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
        // four groups, four steps; beside them NCCL gathers the steps' numbers
        let gathers = log.lines().filter(|l| l.contains("nccl all-gather"));
        let (halves, others): (Vec<&str>, Vec<&str>) = gathers.partition(|l| l.contains(" bf16 "));
        assert_eq!(halves.len(), if layout == "--comm nccl --zero 1" { 16 } else { 0 }, "{layout}: {halves:?}");
        assert!(others.iter().all(|l| l.contains("count=8 ")), "{layout}: {others:?}");
        assert!(seen(&log, "] adamw_bf16 ") >= 8 && seen(&log, "] adamw ") + seen(&log, "] to_bf16") == 0, "{layout}");
    }
    // A file of bf16 is what the next step needs, on as many ranks; on others sums have another order.
    let (whole, weights_then) = first.unwrap();
    let stopped = run("--schedule constant --warmup-steps 0 --comm nccl --zero 1 --save-every 2 --keep 9 --steps 2", 2).unwrap();
    stopped.job().done();
    assert_eq!(weights(&stopped, 2).len() * 2 / weights_then.len(), 2, "both in bf16");
    let stopped = stopped.and("--steps 4");
    stopped.job().done();
    assert_eq!(stopped.left(), whole, "gone on with");
    assert!(weights(&stopped, 4) == weights_then, "the weights after a resume differ");
}

/// Of a parameter 2 bytes where mixed bf16 has 4 and a copy of 2.
#[test]
fn weights_that_are_bf16_alone_take_a_third() {
    let rows = |precision: Precision| {
        let said = Run::cuda(&format!("{} --steps 1", tiny()))?.precision(precision).job().done().out;
        let row = |name: &str| {
            let row = said.lines().find(|line| line.starts_with(&format!("  {name} "))).unwrap_or_else(|| panic!("{said}"));
            row.split_whitespace().nth(1).unwrap().replace(',', "").parse::<i64>().unwrap()
        };
        Some(["parameters", "gradients", "optimizer", "activations", "device"].map(row))
    };
    let Some(mixed) = rows(Precision::Bf16) else { return };
    let alone = rows(Precision::Bf16True).unwrap();
    let numbers = mixed[1] / 4;
    let expected = [2 * numbers, 0, 0, 0, 2 * numbers];
    assert_eq!(std::array::from_fn(|i| mixed[i] - alone[i]), expected, "{mixed:?} {alone:?}");
    assert_eq!(alone[..3], [2 * numbers, 4 * numbers, 8 * numbers]);
}
