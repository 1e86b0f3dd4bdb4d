//! `llm-train`: THE LOOP. What it works with is made in `session.rs`; `docs/loop.md` walks through one step.
use crate::checkpoint;
use crate::commands::account::{Accounts, Why};
use crate::commands::mlperf;
use crate::commands::output::Output;
use crate::commands::session::Session;
use crate::config::Run;
use crate::data::{Batch, Loader};
use crate::device::range;
use crate::error::Result;
use crate::launch::{self, Launch, deadline, signals};
use crate::metrics::{REACHED, STOPPED};
use crate::model::Input;
use crate::parallel::{Parallel, Part};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Done,
    /// Stopped early, with a complete checkpoint: exit code 75.
    AskAgain,
}

pub fn run(run: &mut Run, launch: &Launch) -> Result<End> {
    launch.agree(signals::listen(launch.leads()))?;
    if launch.leads() {
        deadline::ask();
    }
    let before = mlperf::clear_caches(run, launch);
    let (session, mut output) = Session::open(run, launch)?;
    output.mllog = launch.agree(mlperf::begin(run, launch, &session, &before))?;
    // The loop is itself a task of the device's threads, so that each op finds them at hand.
    let (end, checkpoint) = session.dev.install(|| steps(run, launch, &session, &mut output))?;
    launch::phase("the end");
    launch.agree(output.end(run, checkpoint.as_deref()))?;
    Ok(end)
}

/// Steps `s.from` to `s.steps` of a run; a benchmark calls it too.
pub(super) fn steps(run: &Run, launch: &Launch, s: &Session, output: &mut Output) -> Result<(End, Option<PathBuf>)> {
    let mut loader = launch.agree(s.loader())?;
    let between_gpus = s.network.as_ref().map(|network| network.beside(launch.comm()));
    let comm = between_gpus.as_ref().map_or(launch.comm(), |beside| beside);
    let mut parallel = Parallel::new(&s.dev, comm, s.model.groups(), s.stage);
    output.meter.complaint().iter().for_each(|line| output.console.say(line));
    output.meter.lap(); // what the start has used is no step's
    let micro_steps = s.share.micro_steps();
    let targets = s.share.targets(s.data.seq()) as f64;
    let (mut saved, mut save_time, mut eval_time) = (None, guess_save_time(run, s), None);
    let mut accounts = Accounts::default();
    if s.from >= s.steps {
        output.console.say(&format!("nothing left to do: step {} of {} is done", s.from, s.steps));
    }

    for step in s.from..s.steps {
        launch::at_step(step + 1);
        let _range = range(|| format!("step {}", step + 1));
        let (began, mut loss) = (Instant::now(), 0.0);
        parallel.begin();
        for micro in 0..micro_steps {
            let batch = parallel.time(Part::Data, || next(&mut loader));
            let mut on = parallel.listen(micro == 0, micro + 1 == micro_steps);
            loss += s.model.forward_backward(&s.dev, &input(batch), (1.0 / targets) as f32, &mut on);
        }
        let last = step + 1 == s.steps;
        let (evaluates, saves) = (is_due(run.eval.every, step), is_due(run.checkpoint.every, step));
        // An evaluation that was never timed: each of its passes as long as one of training.
        let step_time = accounts.step_time.max(began.elapsed());
        let evaluation = eval_time.unwrap_or_else(|| step_time * passes(s) / micro_steps as u32);
        let needed = until_the_next_word(run, step, parallel.lag(), step_time, evaluation, save_time);
        let verdict = parallel.settle(loss, Why::word(must_stop(run, launch, needed)), output.meter.lap(), run.optim.clip);
        parallel.time(Part::Optimizer, || s.optim.step(&s.dev, s.schedule.lr(step), step + 1, verdict));
        parallel.publish();
        parallel.end();

        accounts.send(step);
        let all = step == s.from || last || evaluates || saves;
        accounts.close(all, &mut parallel, launch, s, output)?;
        let stop = accounts.stop;
        let mut reached = false;
        if last || (evaluates && stop.is_none()) {
            let evaluating = Instant::now();
            parallel.finish();
            let loss = evaluate(launch, s, output, step + 1);
            eval_time = Some(evaluating.elapsed());
            reached = loss.zip(run.train.target_loss).is_some_and(|(loss, target)| loss <= target);
        }
        let last = last || reached;
        if last || stop.is_some() {
            let success = reached || (last && run.train.target_loss.is_none());
            launch::check(output.log(|log| log.end(s.consumed(step + 1), success)));
        } else if evaluates {
            launch::check(output.log(|log| log.block(s.consumed(step + 1))));
        }
        if saves || (last && run.checkpoint.at_end) || stop.is_some() {
            let saving = Instant::now();
            parallel.complete();
            // Before the checkpoint is there: a run that goes on from it needs the rows of its steps.
            launch::check(output.flush());
            let dir = s.save(run, launch, step + 1)?;
            save_time = saving.elapsed();
            launch::check(output.event(step + 1, &format!("checkpoint {} in {:.2} s", dir.display(), save_time.as_secs_f64())));
            saved = Some(dir);
        }
        if let (Some(why), false) = (stop, last) {
            launch::check(output.event(step + 1, &format!("{STOPPED}, {why}: run the same command again to go on")));
            return Ok((End::AskAgain, saved));
        }
        if reached {
            let target = run.train.target_loss.unwrap_or_default();
            launch::check(output.event(step + 1, &format!("{REACHED}: the held-out loss is no more than {target}")));
            break;
        }
    }
    parallel.complete();
    Ok((End::Done, saved))
}

/// The next rows. A rank that cannot read its data ends the job: the others are already on their way.
fn next(loader: &mut Loader) -> &Batch {
    launch::check(loader.next()).0
}

fn input(batch: &Batch) -> Input<'_> {
    Input {
        tokens: &batch.tokens,
        targets: &batch.targets,
        starts: batch.starts.as_deref(),
        positions: batch.positions.as_deref(),
    }
}

/// Why this rank would stop: it was told to, or what is still needed might not fit the time that is left.
fn must_stop(run: &Run, launch: &Launch, needed: Duration) -> Option<Why> {
    let left = deadline::left(run.train.max_time, launch.elapsed());
    let in_time = left >= MARGIN * needed.as_secs_f64();
    signals::asked().map(Why::Signal).or((!in_time).then_some(Why::Time))
}

/// Whether what happens every so many steps happens at the end of this one.
fn is_due(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|n| (step + 1).is_multiple_of(n))
}

/// To go on takes what is due before the next word is heard, the steps until then, and a checkpoint. Where the host is `lag`
/// steps behind, the device has yet to begin with the step whose word is sent, maybe is not done with the one before, and the
/// next word is heard a step later.
fn until_the_next_word(
    run: &Run,
    step: u64,
    lag: u32,
    of_step: Duration,
    of_evaluation: Duration,
    of_save: Duration,
) -> Duration {
    let due = |(every, time)| (step..=step + u64::from(lag)).filter(|step| is_due(every, *step)).count() as u32 * time;
    let due: Duration = [(run.eval.every, of_evaluation), (run.checkpoint.every, of_save)].map(due).iter().sum();
    due + (1 + 3 * lag) * of_step + of_save
}

/// Forward passes of an evaluation on this rank.
fn passes(s: &Session) -> u32 {
    s.evals.iter().map(|corpus| corpus.passes()).sum::<u64>().try_into().unwrap_or(u32::MAX)
}

/// A guess at the time of a checkpoint before one has been written: the most bytes that a rank writes, at 1 GB/s. Weights
/// are at most a third, written by rank 0; every rank writes its part of the rest.
fn guess_save_time(run: &Run, s: &Session) -> Duration {
    let share = (1.0 + 2.0 / s.share.ranks as f64) / 3.0;
    Duration::from_secs_f64(share * checkpoint::bytes(s.model.parameters(), run.system.weights_bf16) as f64 / 1e9)
}

/// Steps and checkpoints vary; twice the last ones' time is kept in hand.
const MARGIN: f64 = 2.0;

/// Every held-out corpus, its windows divided among the ranks, the sums added in rank order. The loss of the first.
fn evaluate(launch: &Launch, s: &Session, output: &mut Output, step: u64) -> Option<f64> {
    let (samples, mut first) = (s.consumed(step), None);
    for corpus in &s.evals {
        if first.is_none() {
            launch::check(output.log(|log| log.evaluating(samples)));
        }
        let mine = launch::check(corpus.run(&s.dev, &s.model, &mut ()));
        let all = launch.comm().exchange(&[mine.loss, mine.targets, mine.bytes]);
        let sums = all.iter().fold(crate::commands::eval::Sums::default(), |a, b| a.plus(b));
        launch::check(output.eval(&corpus.name, step, sums.mean(), sums.bits_per_byte()));
        if first.is_none() {
            launch::check(output.log(|log| log.evaluated(samples, sums.mean())));
            first = Some(sums.mean());
        }
    }
    first
}
