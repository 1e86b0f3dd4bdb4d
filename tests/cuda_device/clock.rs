//! Where a step's time goes, on the GPU's own clock. The stub's is told to count operations (`STUB_CLOCK=ops`: each takes a
//! millisecond, and nothing else takes any), so that every time in `metrics.h5` is a count that its log shows too.
use crate::place::on_gpu;
use crate::scene::{Run, tiny};
use llm_train::metrics::{History, StepRecord};

/// Rows of a run, and the lines of its stub's operations.
fn counted(options: &str, ranks: usize) -> Option<(Vec<StepRecord>, Vec<String>)> {
    let run = Run::cuda(tiny())?.and(options).ranks(ranks);
    let log = run.out.path().join("log-%r");
    let run = run.with("STUB_CLOCK", "ops").with("STUB_LOG", log.to_str().unwrap());
    run.job().done();
    let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
    let history = History::read(&run.out.path().join("run/metrics.h5")).unwrap();
    Some((history.steps, log.lines().filter(|line| line.starts_with('[')).map(String::from).collect()))
}

fn parts(s: &StepRecord) -> f64 {
    s.data_time + s.forward_time + s.backward_time + s.comm_exposed_time + s.optimizer_time
}

/// Milliseconds, which are operations.
fn ms(seconds: f64) -> i64 {
    (1e3 * seconds).round() as i64
}

fn is(line: &str, what: &str) -> bool {
    line.starts_with(&format!("[1] {what}"))
}

#[test]
fn the_parts_of_a_step_are_the_gpus_own_times() {
    if on_gpu() {
        return;
    }
    // Four micro-batches, one rank: all lies in one stream.
    let Some((rows, lines)) = counted("--steps 6", 1) else { return };
    let ends: Vec<usize> = (0..lines.len()).filter(|i| is(&lines[*i], "judge ")).collect();
    assert_eq!((ends.len(), rows.len()), (6, 6));
    for (k, row) in rows.iter().enumerate().take(5).skip(2) {
        let step = &lines[ends[k - 1]..ends[k]];
        // A whole period, wherever it is said to begin.
        assert_eq!(ms(row.step_time), step.len() as i64, "step {}", k + 1);
        // Each forward begins with the moment before its first upload, and ends with the one after the last norm.
        let (mut forward, mut backward) = (0, 0);
        let first = |from: usize, what: &str| from + step[from..].iter().position(|line| is(line, what)).unwrap();
        let mut from = first(0, "adamw ");
        for _ in 0..4 {
            let began = first(from, "upload ") - 1;
            let head = first(began, "cross_entropy ");
            let norm = (began..head).rev().find(|i| is(&step[*i], "norm_forward ")).unwrap();
            let (opened, ended) = (first(norm, "event"), first(first(head, "embedding_backward "), "event"));
            assert!(is(&step[began], "event"), "{}", step[began]);
            (forward, backward, from) = (forward + opened - began, backward + ended - opened, ended);
        }
        assert_eq!([ms(row.forward_time), ms(row.backward_time)], [forward as i64, backward as i64], "step {}", k + 1);
        // The update of the step itself, which follows its verdict.
        let after = &lines[ends[k]..ends[k + 1]];
        let update = after.iter().filter(|line| is(line, "adamw ")).count() as i64;
        assert!(update > 4 && (update + 1..2 * update + 4).contains(&ms(row.optimizer_time)), "{update} launches: {row:?}");
        assert_eq!(ms(row.comm_exposed_time), 0, "{row:?}");
        let rest = row.step_time - parts(row);
        assert!(rest >= 0.0 && rest < 0.2 * row.step_time, "{row:?}");
    }
}

#[test]
fn what_the_gpu_waits_for_is_exposed_and_taken_off_the_forward() {
    if on_gpu() {
        return;
    }
    for comm in ["nccl", "mpi"] {
        let Some((rows, _)) = counted(&format!("--steps 5 --comm {comm} --zero 1"), 2) else { return };
        for row in &rows[1..] {
            let rest = row.step_time - parts(row);
            assert!(rest > -1e-9 && rest < 0.4 * row.step_time, "{comm}: {row:?}");
            // every group's gather, the reductions and the numbers
            assert!(ms(row.comm_exposed_time) >= 4 && row.forward_time > 0.0, "{comm}: {row:?}");
        }
    }
}

#[test]
fn an_evaluation_is_no_steps_time() {
    if on_gpu() {
        return;
    }
    let held_out = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2/tokens.bin");
    let Some((rows, _)) = counted(&format!("--steps 8 --vocab 512 --eval-every 3 --val-data {held_out}"), 1) else { return };
    let usual = ms(rows[1].step_time);
    for row in &rows[1..] {
        assert!((ms(row.step_time) - usual).abs() <= 4, "{row:?}, expected {usual} operations");
        assert!(row.step_time >= parts(row) - 1e-9, "{row:?}");
    }
}
