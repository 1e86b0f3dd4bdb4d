//! Reads the command line, brings the ranks together, runs the command, leaves. Exit codes: `llm-train --help`.
use llm_train::commands::{self, cli::Asked};
use llm_train::config::Run;
use llm_train::error::Error;
use llm_train::launch::{self, Launch, logging, slurm};
use std::time::Instant;

fn main() {
    let began = Instant::now();
    logging::start();
    let asked = commands::cli::parse(std::env::args_os());
    match asked {
        Ok(Asked::Text(text)) => {
            commands::tell(text);
        }
        Ok(Asked::Train(mut run)) => {
            launch::patience(run.system.patience);
            let launch = Launch::start(run.system.threads, began);
            let end = commands::train::run(&mut run, &launch);
            match end {
                Ok(commands::train::End::Done) => launch.leave(0),
                Ok(commands::train::End::AskAgain) => launch.leave(75),
                Err(e) => refuse(&e, launch),
            }
        }
        Ok(Asked::Tokenize(mut args)) => {
            let launch = Launch::start(args.threads, began);
            args.threads = Some(launch.threads);
            let made = commands::tokenize::run(&args, launch.rank(), launch.size(), &mut |r| launch.agree(r));
            match launch.agree(made) {
                Ok(summary) => {
                    summary.iter().for_each(commands::say);
                    launch.leave(0)
                }
                Err(e) => refuse(&e, launch),
            }
        }
        Ok(Asked::BenchStep(mut run, args)) => {
            together(&run.clone(), began, |launch| commands::bench::step::run(&mut run, &args, launch))
        }
        Ok(Asked::BenchData(mut run, args)) => {
            together(&run.clone(), began, |launch| commands::bench::data::run(&mut run, &args, launch))
        }
        Ok(Asked::BenchCheckpoint(mut run, args)) => {
            together(&run.clone(), began, |launch| commands::bench::checkpoint::run(&mut run, &args, launch))
        }
        Ok(Asked::BenchCollectives(args)) => {
            let launch = Launch::start(None, began);
            match commands::bench::collectives::run(&args, &launch) {
                Ok(()) => launch.leave(0),
                Err(e) => refuse(&e, launch),
            }
        }
        Ok(Asked::BenchAttention(run, args)) => end_alone(commands::bench::attention::run(&run, &args)),
        Ok(Asked::Verify(args)) => {
            let launch = Launch::start(args.threads.map(usize::from), began);
            match commands::verify::run(&args, &launch) {
                Ok(passed) => launch.leave(if passed { 0 } else { 1 }),
                Err(e) => refuse(&e, launch),
            }
        }
        Ok(Asked::BenchGemm(run)) => end_alone(commands::bench::gemm::run(&run)),
        Ok(Asked::Plan(run, args)) => end_alone(commands::plan::run(&run, &args)),
        Ok(Asked::Generate(args)) => end_alone(commands::generate::run(&args)),
        Ok(Asked::Eval(args)) => end_alone(commands::eval::run(&args)),
        Ok(Asked::Report(args)) => end_alone(commands::report::run(&args)),
        Ok(Asked::Pages(args)) => end_alone(commands::pages::run(&args)),
        Ok(Asked::Cubins(args)) => end_alone(commands::pages::cubins(&args)),
        // Under a launcher the ranks agree first, so that one of them speaks and all leave.
        Err(e) if slurm::expected_rank().is_some() => {
            let launch = Launch::start(None, began);
            let agreed: Result<(), Error> = launch.agree(Err(e));
            refuse(&agreed.expect_err("one of them has an error"), launch)
        }
        Err(e) => end_alone(Err(e)),
    }
}

/// A command of all ranks, from start to end.
fn together(run: &Run, began: Instant, command: impl FnOnce(&Launch) -> Result<(), Error>) -> ! {
    launch::patience(run.system.patience);
    let launch = Launch::start(run.system.threads, began);
    match command(&launch) {
        Ok(()) => launch.leave(0),
        Err(e) => refuse(&e, launch),
    }
}

/// Rank 0 says it; all leave together.
fn refuse(e: &Error, launch: Launch) -> ! {
    launch::phase("the end");
    if launch.leads() {
        eprintln!("llm-train: {e}");
    }
    launch.leave(e.exit_code())
}

fn end_alone(result: Result<(), Error>) {
    if let Err(e) = result {
        eprintln!("llm-train: {e}");
        std::process::exit(e.exit_code());
    }
}
