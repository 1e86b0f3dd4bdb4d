//! The host sends a step's work and goes on: it waits for the GPU once a step, for what it hears of the step before.
use crate::scene::{Run, tiny};

/// The lines from a step's verdict to the next one's: of seven steps, behind the fourth, when all memory has been taken.
fn steady_steps(options: &str, ranks: usize) -> Option<Vec<Vec<String>>> {
    let run = Run::cuda(tiny())?.and(options).and("--steps 7").ranks(ranks);
    let log = run.out.path().join("log-%r");
    let run = run.with("STUB_LOG", log.to_str().unwrap());
    run.job().done();
    let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
    // A step ends with the update of the last group, and with what gathers the weights.
    let lines: Vec<String> = log.lines().map(String::from).collect();
    let ends: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains("] judge ")).collect();
    assert_eq!(ends.len(), 7, "{log}");
    Some(ends[3..].windows(2).map(|w| lines[w[0]..w[1]].to_vec()).collect())
}

#[test]
fn the_host_waits_once_a_step_and_for_the_step_before() {
    let by_nccl = "--comm nccl --zero";
    for (options, ranks) in [
        (String::new(), 1),
        ("--micro-batch 4".into(), 1),
        ("--micro-batch 2 --recompute block".into(), 1),
        (format!("{by_nccl} 0"), 2),
        (format!("{by_nccl} 1"), 2),
    ] {
        let Some(steps) = steady_steps(&options, ranks) else { return };
        for lines in steps {
            let waits: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains("host waits")).collect();
            let [at] = waits[..] else { panic!("{options}: {} waits in a step:\n{}", waits.len(), lines.join("\n")) };
            assert!(lines[at].contains("event for [1]"), "{options}: {}", lines[at]);
            // Behind all that the step sends, and before anything of the next.
            let (before, after) = lines.split_at(at);
            let is = |line: &&String, what: &str| line.contains(what);
            assert!(!before.iter().any(|l| is(&l, "embedding_forward")), "{options}:\n{}", lines.join("\n"));
            assert!(!after.iter().any(|l| is(&l, "] adamw ") || is(&l, "nccl all-gather") && !is(&l, "count=8 ")), "{options}");
            // A whole step lies between what is waited for and what has been sent by then.
            let behind: usize = lines[at].split(", ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            let of_step = lines.iter().filter(|l| l.starts_with("[1]")).count();
            assert!(behind + 2 >= of_step, "{options}: {behind} of {of_step} operations are behind what is waited for");
            assert!(!lines.iter().any(|l| l.starts_with("take ")), "{options}: memory is taken in a step");
        }
    }
}

/// A step that is not finite is told of when the next one has been sent. By then neither has changed anything.
#[test]
fn what_is_not_finite_changes_no_weight_and_ends_the_run_by_its_step() {
    let diverging = format!("{} --steps 9 --lr 1e30 --warmup-steps 0", tiny());
    let cpu = Run::cpu(&format!("--device cpu {diverging}")).job().run().with_code(1);
    let said = cpu.sentence(&["not finite", "rank 0"]);
    let step: usize = said.split("step ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    for (options, ranks) in [("", 1), ("--comm nccl --zero 1", 2), ("--comm mpi", 2)] {
        let Some(run) = Run::cuda(&format!("{diverging} {options}")) else { return };
        let log = run.out.path().join("log-%r");
        let run = run.ranks(ranks).with("STUB_RACES", "1").with("STUB_TOUCHED", "adamw").with("STUB_LOG", log.to_str().unwrap());
        let ended = run.job().run().with_code(1);
        ended.sentence(&[&format!("step {step}: "), "not finite", "rank 0"]);
        let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
        // Of each step, from its verdict on.
        let steps: Vec<bool> =
            log.split("] judge ").skip(1).map(|step| step.contains("adamw wrote") && !writes_nothing(step)).collect();
        assert!(steps.len() > step, "{options}: {steps:?}");
        for (i, writes) in steps.iter().enumerate() {
            assert_eq!(*writes, i + 1 < step, "{options}: step {} of a run whose step {step} is not finite: {steps:?}", i + 1);
        }
        assert_eq!(run.left().len(), step - 1, "{options}: rows");
    }
}

fn writes_nothing(step: &str) -> bool {
    step.lines().filter(|line| line.contains("adamw wrote")).all(|line| line.ends_with("wrote 0 bytes"))
}

/// A run that is asked to stop hears of it one step late, on all ranks alike, and goes on from there to the same losses.
#[test]
fn a_run_out_of_time_stops_with_a_checkpoint_and_goes_on() {
    for (options, ranks) in [("", 1), ("--comm nccl --zero 1", 2)] {
        let options = format!("{} --schedule constant --warmup-steps 0 {options}", tiny());
        let run = |steps: usize| Some(Run::cuda(&options)?.ranks(ranks).and(&format!("--steps {steps}")));
        let Some(stopped) = run(1_000_000) else { return };
        let stopped = stopped.and("--max-time 4");
        stopped.job().run().with_code(75);
        let before = stopped.left();
        let steps = before.len() + 3;
        let on = stopped.and(&format!("--max-time 3600 --steps {steps}"));
        on.job().done();
        let whole = run(steps).expect("as before").steps();
        assert_eq!(before[..], whole[..before.len()], "{options}");
        assert_eq!(on.left(), whole, "{options}");
    }
}
