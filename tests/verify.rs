//! `llm-train verify`: the reference is what loops in f64 give, the program passes, and planted faults do not.
#[path = "cli/program.rs"]
#[allow(dead_code)]
mod program;

use llm_train::commands::verify::{STEPS, VerifyArgs, check_ops, run_of_record, run_with, write_corpus};
use llm_train::commands::{count, verify};
use llm_train::data::{Data, Order, Reading, Share};
use llm_train::device::{Device, Precision};
use llm_train::launch::Launch;
use llm_train::model::Input;
use llm_train::ops::elementwise::square_sum;
use llm_train::ops::gemm::kernels::{PORTABLE, choose};
use llm_train::ops::gemm::{Into, Kernel, micro::Block};
use llm_train::ops::verdict::Verdict;
use llm_train::optim::Schedule;
use llm_train::tensor::{Plan, Tensor};
use program::{alone, ranks};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

const REFERENCE: &str = "src/commands/verify/reference.tsv";

/// The kernel that products use is one for the whole process: tests that choose it go one after the other.
fn alone_here() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The losses of the run of record, its loop written out once more, on one rank and on the device that `make` gives.
fn losses(steps: usize, precision: Precision, make: impl Fn(&Plan) -> Device) -> Vec<f64> {
    let mut run = run_of_record();
    run.system.precision = precision;
    run.validate_for(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus.bin");
    write_corpus(&corpus).unwrap();
    let (seq, vocab) = (run.batch.seq_len, run.model.config.vocab);
    let reading = Reading { seq, vocab, width: None, eos: None, reset_attention: false };
    let data = Data::open(&[corpus.display().to_string()], Order::Shuffled { seed: run.train.seed }, &reading).unwrap();
    let (global_batch, micro_batch) = (run.global_batch(), run.batch.micro_batch);
    let share = Share { rank: 0, ranks: 1, micro_batch, global_batch };

    let (plan, model, optim, _) = count::lay_out(&run, 0, 1);
    let dev = make(&plan);
    model.prepare(&dev);
    model.init(&dev, run.train.seed);
    let (o, total) = (&run.optim, STEPS as u64);
    let schedule = Schedule { curve: o.schedule, lr: o.lr, min_lr: o.min_lr, warmup: o.warmup_steps.unwrap(), steps: total };
    let targets = (global_batch * seq) as f64;
    let step = |step: u64| {
        let mut loss = 0.0;
        for micro in 0..share.micro_steps() {
            let batch = data.batch(step * global_batch as u64, micro, &share).unwrap();
            let input = Input { tokens: &batch.tokens, targets: &batch.targets, starts: None, positions: None };
            loss += model.forward_backward(
                &dev,
                &input,
                (1.0 / targets) as f32,
                &mut if micro == 0 { Into::Overwrite } else { Into::Add },
            );
        }
        let squares = model.groups().iter().map(|g| square_sum(&dev, Tensor::range(g.grads.start, g.grads.end)));
        let norm = squares.sum::<f64>().sqrt();
        optim.step(&dev, schedule.lr(step), step + 1, Verdict::of(0.0, norm, o.clip));
        loss / targets
    };
    dev.install(|| (0..steps as u64).map(step).collect())
}

fn reference() -> Vec<f64> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE)).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn farthest(losses: &[f64], reference: &[f64]) -> f64 {
    losses.iter().zip(reference).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max)
}

/// Its first steps, made again; all of them, and written, with WRITE_REFERENCE=1 (some minutes).
#[test]
fn the_reference_is_what_loops_in_f64_give() {
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        let losses = losses(STEPS, Precision::Fp32, |plan| Device::reference(plan).unwrap());
        let lines: Vec<String> = losses.iter().map(|l| format!("{l:.12}")).collect();
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE), lines.join("\n") + "\n").unwrap();
    }
    let again = losses(2, Precision::Fp32, |plan| Device::reference(plan).unwrap());
    assert!(farthest(&again, &reference()) < 1e-10, "{again:?} for {:?}", &reference()[..2]);
}

/// Every kernel stays within half of what is allowed in fp32, and three quarters in bf16, where another order of sums may double what is found.
#[test]
fn the_curve_stays_near_by_every_kernel() {
    let _one = alone_here();
    for kernel in verify::kernels().unwrap() {
        for (precision, allowed) in [(Precision::Fp32, 1e-5 / 2.0), (Precision::Bf16, 2e-2 * 0.75)] {
            if kernel.serves(precision) {
                choose(precision, kernel);
                let losses = losses(STEPS, precision, |plan| Device::cpu(plan, 2, &[], precision).unwrap());
                let off = farthest(&losses, &reference());
                println!("{} {precision:?}: {off:.2e}", kernel.name);
                assert!(0.0 < off && off < allowed, "{} {precision:?}: {off:e}", kernel.name);
            }
        }
    }
}

/// The portable kernel, which leaves out the last of the numbers to be summed.
unsafe fn one_too_few(rows: usize, block: Block) {
    let fewer = Block { units: block.units.max(1) - 1, ..block };
    // SAFETY: less than the caller allows.
    unsafe { (PORTABLE.multiply)(rows, fewer) }
}
static ONE_TOO_FEW: Kernel = Kernel { name: "portable", multiply: one_too_few, ..PORTABLE };

/// One number of a block is off by a thousandth.
unsafe fn a_little_off(rows: usize, block: Block) {
    // SAFETY: the caller's promise; the first number of c is there in any block.
    unsafe {
        (PORTABLE.multiply)(rows, block);
        *block.c *= 1.001;
    }
}
static A_LITTLE_OFF: Kernel = Kernel { name: "portable", multiply: a_little_off, ..PORTABLE };

/// Wrong only with a full block's last row.
unsafe fn last_row_off(rows: usize, block: Block) {
    // SAFETY: as above; row 3 is there.
    unsafe {
        (PORTABLE.multiply)(rows, block);
        if rows == 4 {
            *block.c.add(3 * block.c_row) += 1e-2;
        }
    }
}
static LAST_ROW_OFF: Kernel = Kernel { name: "portable", multiply: last_row_off, ..PORTABLE };

#[test]
fn a_corrupted_kernel_is_found_by_its_ops() {
    let _one = alone_here();
    assert!(check_ops(&[&PORTABLE], 2).unwrap().iter().all(|c| c.passes()), "the sound one");
    for (kernel, ill) in [(&ONE_TOO_FEW, "one too few"), (&A_LITTLE_OFF, "a little off"), (&LAST_ROW_OFF, "last row off")] {
        for found in check_ops(&[kernel], 2).unwrap() {
            assert!(!found.passes(), "{ill}: {found:?}");
            let wrong = found.ops.iter().filter(|(_, error, allowed)| error > allowed).map(|(name, ..)| &name[..4]);
            let wrong: Vec<_> = wrong.collect();
            assert!(wrong.iter().all(|name| ["line", "atte"].contains(name)), "{ill}: only products are: {wrong:?}");
        }
    }
}

#[test]
fn a_corrupted_kernel_leaves_the_curve() {
    let _one = alone_here();
    choose(Precision::Fp32, &LAST_ROW_OFF);
    let losses = losses(8, Precision::Fp32, |plan| Device::cpu(plan, 2, &[], Precision::Fp32).unwrap());
    let off = farthest(&losses, &reference());
    assert!(off > 1e-4, "{off:e}");
}

#[test]
fn the_whole_verification_fails_with_a_corrupted_kernel() {
    let _one = alone_here();
    let launch = Launch::start(Some(2), Instant::now());
    let args = VerifyArgs { threads: Some(2), reference: None, json: None };
    assert!(!run_with(&[&A_LITTLE_OFF], &args, &launch).unwrap());
    assert!(run_with(&[&PORTABLE], &args, &launch).unwrap());
}

#[test]
fn the_program_passes_alone_and_on_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let run = |job: program::Job| {
        let mut job = job;
        job.0.env("TMPDIR", dir.path()).env("XDG_CACHE_HOME", dir.path());
        job.run()
    };
    let one = run(alone(&format!("verify --json {}", file("one.json")))).with_code(0);
    assert!(one.out.lines().any(|line| line == "VERIFICATION: PASS"), "{one}");
    assert!(one.took.as_secs() < 60, "{:?}", one.took);
    let share: f64 = one.after("loss curve fp32:").split_whitespace().next().unwrap().parse().unwrap();
    assert!(0.0 < share && share < 1.0, "{one}");
    assert!(one.out.contains("ops portable fp32: ") && one.out.contains("ops portable bf16: "), "{one}");
    let two = run(ranks(2, &format!("verify --threads 1 --json {}", file("two.json")))).with_code(0);
    assert!(two.out.lines().filter(|line| line.starts_with("VERIFICATION")).eq(["VERIFICATION: PASS"]), "{two}");

    // What was found passes as a reference; one loss that is another does not.
    let text = std::fs::read_to_string(file("one.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let loss = json["curves"][0]["losses"][30].as_f64().unwrap();
    json["curves"][0]["losses"][30] = (1.03 * loss).into();
    std::fs::write(file("other.json"), json.to_string()).unwrap();
    let same = run(alone(&format!("verify --reference {}", file("one.json")))).with_code(0);
    let share: f64 = same.after("loss curve fp32:").split_whitespace().next().unwrap().parse().unwrap();
    assert!(share < 1e-9, "the same losses again: {same}");
    let other = run(ranks(2, &format!("verify --threads 1 --reference {}", file("other.json")))).with_code(1);
    assert!(other.after("VERIFICATION:").starts_with("FAIL    the loss of step 31 in fp32 is off by"), "{other}");
    assert!(other.err.lines().all(|line| !line.contains("panicked")), "{other}");

    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("llm-train-")), "left behind: {left:?}");
}

#[test]
fn what_cannot_be_verified_is_refused() {
    alone("verify --reference /nowhere/at.json").run().with_code(2).sentence(&["/nowhere/at.json", "cannot be read"]);
    alone("verify --json /proc/x/y.json").run().with_code(2).sentence(&["--json"]);
    alone("verify --threads 0").run().with_code(2).sentence(&["--threads"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    std::fs::write(&file, "{}").unwrap();
    alone(&format!("verify --reference {}", file.display())).run().with_code(2).sentence(&["a.json", "50 losses", "found 0"]);
}
