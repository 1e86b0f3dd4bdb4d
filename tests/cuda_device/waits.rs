//! The host sends a step's work and goes on: it waits for the GPU once a step, for what it hears of the step before.
use crate::scene::{Run, tiny};

/// The lines of each step that has another before and after it: of six steps, the third to the fifth.
fn steady_steps(options: &str, ranks: usize) -> Option<Vec<Vec<String>>> {
    let run = Run::cuda(tiny())?.and(options).and("--steps 6").ranks(ranks);
    let log = run.out.path().join("log-%r");
    let run = run.with("STUB_LOG", log.to_str().unwrap());
    run.job().done();
    let log = std::fs::read_to_string(run.out.path().join("log-0")).unwrap();
    // A step ends with the update of the last group, and with what gathers the weights.
    let lines: Vec<String> = log.lines().map(String::from).collect();
    let ends: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains("] judge ")).collect();
    assert_eq!(ends.len(), 6, "{log}");
    Some(ends[1..].windows(2).take(3).map(|w| lines[w[0]..w[1]].to_vec()).collect())
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

/// A step that is not finite is told of when the next one has been sent. By then it has changed nothing, and no checkpoint has it.
#[test]
fn what_is_not_finite_ends_the_run_by_its_step() {
    for (options, ranks) in [("", 1), ("--comm nccl --zero 1", 2), ("--comm mpi", 2)] {
        let Some(run) = Run::cuda(tiny()) else { return };
        let run = run.and(&format!("{options} --steps 9 --lr 1e30 --warmup-steps 0")).ranks(ranks);
        let said = run.job().run().with_code(1).sentence(&["not finite", "rank 0"]).to_string();
        let cpu = Run::cpu(&format!("--device cpu {} --steps 9 --lr 1e30 --warmup-steps 0", tiny())).ranks(ranks);
        let there = cpu.job().run().with_code(1).sentence(&["not finite", "rank 0"]).to_string();
        let step = |text: &str| text.split("step ").nth(1).unwrap().split(':').next().unwrap().to_string();
        assert_eq!(step(&said), step(&there), "{options}: `{said}`, on CPUs `{there}`");
    }
}
