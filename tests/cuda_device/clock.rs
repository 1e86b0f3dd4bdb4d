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

/// Where the events lie that belong to no copy: those that time is read from.
fn moments(lines: &[String]) -> Vec<usize> {
    let of_copy = |line: &str| is(line, "upload ") || is(line, "download ");
    (1..lines.len()).filter(|i| is(&lines[*i], "event") && !of_copy(&lines[i - 1])).collect()
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
        // From the verdict of the step before to this one's, and to the next one's.
        let (before, after) = (&lines[ends[k - 1]..ends[k]], &lines[ends[k]..ends[k + 1]]);
        // A whole period, wherever it is said to begin.
        assert_eq!(ms(row.step_time), before.len() as i64, "step {}", k + 1);
        // The update and the end of the step before; the beginning; four times data, forward and backward.
        let moments = moments(before);
        let [_, _, ended, began, micros @ ..] = &moments[..] else { panic!("{moments:?}") };
        assert!(ended + 1 == *began && micros.len() == 4 * 5, "{moments:?}");
        let mut found = [0; 3];
        for micro in micros.chunks(5) {
            let [asked, given, forward, opened, done] = micro else { panic!("{moments:?}") };
            let has = |from: &usize, to: &usize, what: &str| before[*from..*to].iter().any(|line| is(line, what));
            assert!(has(forward, opened, "embedding_forward ") && !has(forward, opened, "cross_entropy "));
            assert!(has(opened, done, "cross_entropy ") && has(opened, done, "embedding_backward"));
            assert!(!has(opened, done, "embedding_forward ") && asked + 1 == *given && given + 1 == *forward);
            [given - asked, opened - forward, done - opened].iter().zip(&mut found).for_each(|(n, sum)| *sum += *n as i64);
        }
        assert_eq!([row.data_time, row.forward_time, row.backward_time].map(ms), found, "step {}", k + 1);
        // The update of the step itself follows its verdict.
        let from = self::moments(after);
        assert!(after[from[0]..from[1]].iter().filter(|line| is(line, "adamw ")).count() >= 6);
        assert_eq!(ms(row.optimizer_time), (from[1] - from[0]) as i64, "step {}", k + 1);
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
        let Some((rows, lines)) = counted(&format!("--steps 5 --comm {comm} --zero 1"), 2) else { return };
        // Every wait, for a group's gather, for the reductions or the numbers, lies before the moment that ends its span.
        let ops: Vec<&String> = lines.iter().filter(|line| is(line, "")).collect();
        let last = ops.iter().rposition(|line| is(line, "judge ")).unwrap();
        let waits: Vec<usize> = (0..last).filter(|i| is(ops[*i], "wait for ")).collect();
        assert!(waits.len() >= 5 * 4 && waits.iter().all(|i| is(ops[i + 1], "event")), "{comm}: {waits:?}");
        for row in &rows[1..] {
            let rest = row.step_time - parts(row);
            assert!(rest > -1e-9 && rest < 0.4 * row.step_time, "{comm}: {row:?}");
            assert!(ms(row.comm_exposed_time) >= 12 && row.forward_time > 0.0, "{comm}: {row:?}");
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
