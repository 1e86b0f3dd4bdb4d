//! Help, version, slips; how much is said, and readers that have gone away.
use crate::program::{Job, PROGRAM, alone, ranks};
use crate::scene::Scene;
use std::process::Command;

#[test]
fn help_fits_a_person() {
    let help = alone("--help").done();
    let widest = help.out.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 100, "a line of {widest}:\n{help}");
    for code in ["   0  done", "   1  failure", "   2  bad input", "  75  stopped early"] {
        assert!(help.out.lines().any(|line| line.starts_with(code)), "{code}\n{help}");
    }
    // The names that scripts of sites rely on.
    let flags = "config set model init data val-data synthetic-data out seq-len micro-batch global-batch steps tokens epochs lr \
                 min-lr warmup-steps schedule weight-decay beta1 beta2 eps clip seed precision zero recompute device threads \
                 eval-every eval-batches save-every keep keep-every resume log-every max-time json quiet check-data \
                 reset-attention patience";
    for flag in flags.split_whitespace() {
        let stands = |line: &str| line.split([' ', '[', '=', ',']).any(|word| word == format!("--{flag}"));
        assert!(help.out.lines().any(stands), "--{flag}\n{help}");
    }
    for command in ["tokenize", "plan", "generate", "eval", "report", "bench", "bench step", "bench gemm"] {
        assert!(help.out.contains(command.split(' ').next().unwrap()), "{command}");
        let own = alone(&format!("{command} --help")).done();
        assert!(own.out.contains("Usage") && own.out.lines().all(|line| line.chars().count() <= 100), "{own}");
    }
    let version = alone("--version").done().out;
    assert!(version.starts_with(concat!("llm-train ", env!("CARGO_PKG_VERSION"), " (git ")), "{version}");
}

#[test]
fn slips_are_answered_with_what_was_meant() {
    for (typed, meant) in
        [("--lrr 1", "--lr"), ("--sedq-len 3", "--seq-len"), ("tokenise", "tokenize"), ("plan --rank 3", "--ranks")]
    {
        let ended = alone(typed).run().with_code(2);
        ended.sentence(&["did you mean", meant]);
        assert!(ended.out.is_empty(), "{ended}");
    }
    alone("").run().with_code(2).sentence(&["--model"]);
    alone("bench").run().with_code(2).sentence(&["expected one of step, gemm,", "found none"]);
    // An option of sbatch is nothing mistyped.
    let said =
        alone("--time 10").run().with_code(2).sentence(&["unknown argument --time", "before the script's name"]).to_string();
    assert!(!said.contains("did you mean"), "{said}");
}

#[test]
fn quiet_leaves_the_result() {
    let scene = Scene::new();
    let ended = ranks(2, &format!("{} --quiet --json {}", scene.options("run"), scene.path("run/result.json"))).done();
    assert_eq!(ended.err, "");
    assert!(ended.out.starts_with("figures of merit of 2 ranks"), "{ended}");
    assert!(
        ["tokens/sec: ", "final loss: ", "metrics  ", "checkpoint  ", "page  "].iter().all(|part| ended.out.contains(part)),
        "{ended}"
    );
    assert!(!["[batch]", "step 1/4", "memory per rank"].iter().any(|part| ended.out.contains(part)), "{ended}");
    assert!(scene.run("run").json("result.json")["loss"].is_number());
}

#[test]
fn lines_every_so_often_and_more_for_who_asks() {
    let scene = Scene::new();
    let mut job = ranks(2, &format!("{} --steps 12 --log-every 5", scene.options("run")));
    job.0.env("RUST_LOG", "llm_train=debug");
    let ended = job.done();
    let steps: Vec<&str> = ended.out.lines().filter_map(|l| l.strip_prefix("step ")?.split('/').next()).collect();
    assert_eq!(steps, ["1", "5", "10", "12"]);
    // Without the wish nobody speaks; with it, each line has time and rank.
    let debug: Vec<&str> = ended.err.lines().filter(|l| l.contains(" debug ")).collect();
    assert!(!debug.is_empty() && debug.iter().all(|l| l.contains("Z rank ")), "{ended}");
}

/// mpirun gives rank 0 a terminal of its own in any case: what counts is where mpirun's output goes.
#[test]
fn a_bar_on_a_terminal_and_lines_elsewhere() {
    let scene = Scene::new();
    let options = format!("{} --steps 60 --log-every 20", scene.options("run"));
    let ended = ranks(2, &options).done();
    assert!(!ended.out.contains('\u{1b}') && ended.out.contains("step 20/60 loss "), "{ended}");
    // script(1) stands in for a person's terminal.
    for start in [PROGRAM.to_string(), format!("mpirun -n 2 --bind-to none {PROGRAM}")] {
        let mut command = Command::new("script");
        command.env("TERM", "xterm").args(["-qec", &format!("{start} {options} --resume never"), "/dev/null"]);
        let seen = Job::new(command).done();
        assert!(seen.out.contains("━") && seen.out.contains("step 60 of 60") && seen.out.contains("20/60  loss "), "{seen}");
    }
}

#[test]
fn a_reader_that_has_gone_away_stops_nothing() {
    let scene = Scene::new();
    let options = scene.options("run");
    for (arguments, code) in [
        ("--help".to_string(), 0),
        ("--version".into(), 0),
        (format!("plan {options}"), 0),
        (format!("{options} --steps 300"), 0),
    ] {
        // `| true`: nobody ever reads.
        let mut job = alone(&arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        job.0.stdout(writer);
        let ended = job.run();
        assert_eq!(ended.status.code(), Some(code), "{ended}");
        assert_eq!(ended.err, "", "{ended}");
    }
    assert_eq!(scene.run("run").steps().len(), 300);
    assert_eq!(scene.run("run").checkpoints(), [300]);

    // `| head -1`, and nothing to read from either.
    let script = format!("{PROGRAM} {} --steps 300 <&- | head -1", scene.options("head"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let head = Job::new(command).done();
    assert!(head.out.starts_with("llm-train ") && head.out.lines().count() == 1 && head.err.is_empty(), "{head}");
    assert_eq!(scene.run("head").checkpoints(), [300]);
}

#[test]
fn the_kernel_of_products_is_named_kept_and_forced() {
    let scene = Scene::new();
    let run = |name: &str, isa: &str| {
        let mut job = ranks(2, &format!("{} --steps 3", scene.options(name)));
        job.0.env("XDG_CACHE_HOME", scene.path("cache")).env("LLM_TRAIN_ISA", isa);
        job.run()
    };
    let named = |ended: &crate::program::Ended| {
        let line = ended.out.lines().find(|l| l.contains("matrix products by the kernel")).unwrap_or_default().to_string();
        line.rsplit_once("the kernel ").unwrap_or_default().1.to_string()
    };
    let first = run("first", "").with_code(0);
    let kept = std::fs::read_to_string(format!("{}/llm-train/kernels.tsv", scene.path("cache"))).unwrap();
    assert_eq!(kept.lines().count(), 1, "{kept}");
    let kernel = kept.split('\t').nth(3).unwrap();
    assert!(named(&first).starts_with(&format!("{kernel}, the fastest here")), "{kept}\n{first}");
    // the rate too is the cache's
    assert_eq!(named(&run("second", "").with_code(0)), named(&first));

    let forced = run("forced", "portable").with_code(0);
    assert!(named(&forced).starts_with("portable, as LLM_TRAIN_ISA says"), "{forced}");
    run("unknown", "sse9").with_code(2).sentence(&["LLM_TRAIN_ISA", "expected one of portable", "found sse9"]);
}
