//! `llm-train`: THE LOOP. What it works with is made in `session.rs`; `docs/loop.md` walks through one step.
use crate::checkpoint;
use crate::commands::energy::{self, Meter};
use crate::commands::output::Output;
use crate::commands::session::Session;
use crate::config::Run;
use crate::data::{Batch, Loader};
use crate::device::range;
use crate::error::Result;
use crate::failed;
use crate::launch::{self, Launch, deadline, signals};
use crate::metrics::{STOPPED, StepRecord};
use crate::model::Input;
use crate::optim::clip_factor;
use crate::parallel::{Clock, Parallel, Settled};
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
    let (session, mut output) = Session::open(run, launch)?;
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
    let mut meter = Meter::start(launch, &s.dev);
    meter.complaint().iter().for_each(|line| output.console.say(line));
    let micro_steps = s.share.micro_steps();
    let targets = s.share.targets(s.data.seq()) as f64;
    let (mut saved, mut save_time, mut eval_time) = (None, guess_save_time(s), None);
    let mut step_time = Duration::ZERO;
    if s.from >= s.steps {
        output.console.say(&format!("nothing left to do: step {} of {} is done", s.from, s.steps));
    }

    for step in s.from..s.steps {
        launch::at_step(step + 1);
        let _range = range(|| format!("step {}", step + 1));
        let (began, mut loss, mut waited) = (Instant::now(), 0.0, Duration::ZERO);
        for micro in 0..micro_steps {
            let batch = next(&mut loader, &mut waited);
            let mut on = parallel.listen(micro == 0, micro + 1 == micro_steps);
            loss += s.model.forward_backward(&s.dev, &input(batch), (1.0 / targets) as f32, &mut on);
        }
        let last = step + 1 == s.steps;
        let due = |every: Option<u64>| every.is_some_and(|n| (step + 1).is_multiple_of(n));
        // To go on takes what is due now, another step, and a checkpoint. An evaluation that was never timed: each of its
        // passes as long as one of training.
        step_time = step_time.max(began.elapsed());
        let evaluation = eval_time.unwrap_or_else(|| step_time * passes(s) / micro_steps as u32);
        let due_now = [(due(run.eval.every), evaluation), (due(run.checkpoint.every), save_time)];
        let due_now: Duration = due_now.iter().filter(|(due, _)| *due).map(|(_, time)| *time).sum();
        let settled = parallel.settle(loss, must_stop(run, launch, due_now + step_time + save_time), meter.lap());
        refuse_what_is_not_finite(&settled, launch, output, step + 1)?;
        let updating = Instant::now();
        s.optim.step(&s.dev, s.schedule.lr(step), step + 1, clip_factor(settled.norm, run.optim.clip));
        let updated = updating.elapsed();
        parallel.publish();

        let clock = parallel.take_clock();
        step_time = began.elapsed();
        let row = StepRecord {
            energy: energy::of(settled.also),
            ..record(s, output, step, &settled, step_time, waited, updated, &clock)
        };
        launch::check(output.step(&row));
        if step == s.from {
            launch::check(output.first_step(launch.elapsed()));
        }
        let stop = settled.word > 0.0;
        if last || (due(run.eval.every) && !stop) {
            let evaluating = Instant::now();
            parallel.finish();
            evaluate(launch, s, output, step + 1);
            eval_time = Some(evaluating.elapsed());
        }
        if due(run.checkpoint.every) || (last && run.checkpoint.at_end) || stop {
            let saving = Instant::now();
            parallel.finish();
            // Before the checkpoint is there: a run that goes on from it needs the rows of its steps.
            launch::check(output.flush());
            let dir = s.save(run, launch, step + 1)?;
            save_time = saving.elapsed();
            launch::check(output.event(step + 1, &format!("checkpoint {} in {:.2} s", dir.display(), save_time.as_secs_f64())));
            saved = Some(dir);
        }
        if stop && !last {
            launch::check(output.event(step + 1, &format!("{STOPPED}, as asked: run the same command again to go on")));
            return Ok((End::AskAgain, saved));
        }
    }
    parallel.finish();
    Ok((End::Done, saved))
}

/// The next rows. A rank that cannot read its data ends the job: the others are already on their way.
fn next<'a>(loader: &'a mut Loader, waited: &mut Duration) -> &'a Batch {
    let (batch, wait) = launch::check(loader.next());
    *waited += wait;
    batch
}

fn input(batch: &Batch) -> Input<'_> {
    Input {
        tokens: &batch.tokens,
        targets: &batch.targets,
        starts: batch.starts.as_deref(),
        positions: batch.positions.as_deref(),
    }
}

/// 1 when this rank was asked to stop, or when what is still needed might not fit the time that is left.
fn must_stop(run: &Run, launch: &Launch, needed: Duration) -> f64 {
    let left = deadline::left(run.train.max_time, launch.elapsed());
    f64::from(signals::asked() || left < MARGIN * needed.as_secs_f64())
}

/// Forward passes of an evaluation on this rank.
fn passes(s: &Session) -> u32 {
    s.evals.iter().map(|corpus| corpus.passes()).sum::<u64>().try_into().unwrap_or(u32::MAX)
}

/// A guess at the time of a checkpoint before one has been written: the most bytes that a rank writes, at 1 GB/s. Weights
/// are a third, written by rank 0; every rank writes its part of the rest.
fn guess_save_time(s: &Session) -> Duration {
    let share = (1.0 + 2.0 / s.share.ranks as f64) / 3.0;
    Duration::from_secs_f64(share * checkpoint::bytes(s.model.parameters()) as f64 / 1e9)
}

/// Steps and checkpoints vary; twice the last ones' time is kept in hand.
const MARGIN: f64 = 2.0;

/// A weight is never updated by what is not a number: the last checkpoint stays the place to go on from.
fn refuse_what_is_not_finite(settled: &Settled, launch: &Launch, output: &mut Output, step: u64) -> Result<()> {
    let Some(rank) = settled.not_finite else { return Ok(()) };
    let (host, loss, norm) = (&launch.ranks[rank].host, settled.loss, settled.norm);
    let found = format!("the loss or the gradient of rank {rank} on {host} is not finite (loss {loss}, gradient norm {norm})");
    launch::check(output.event(step, &found));
    failed!("step {step}: {found}: stopped; the last checkpoint is whole")
}

fn record(
    s: &Session,
    output: &Output,
    step: u64,
    settled: &Settled,
    took: Duration,
    waited: Duration,
    updated: Duration,
    clock: &Clock,
) -> StepRecord {
    let seq = s.data.seq();
    let step_tokens = s.share.targets(seq);
    let row = StepRecord {
        step: step + 1,
        tokens: s.consumed(step + 1) * seq as u64,
        loss: settled.loss / step_tokens as f64,
        lr: s.schedule.lr(step),
        grad_norm: settled.norm,
        step_time: took.as_secs_f64(),
        data_time: waited.as_secs_f64(),
        forward_time: clock.forward.as_secs_f64(),
        backward_time: clock.backward.as_secs_f64(),
        comm_exposed_time: clock.exposed.as_secs_f64(),
        optimizer_time: updated.as_secs_f64(),
        memory: output.memory.peak(),
        ..StepRecord::default()
    };
    row.with_rates(step_tokens, s.model.config().flops_per_token(seq).full, s.share.ranks)
}

/// Every held-out corpus, its windows divided among the ranks, the sums added in rank order.
fn evaluate(launch: &Launch, s: &Session, output: &mut Output, step: u64) {
    for corpus in &s.evals {
        let mine = launch::check(corpus.run(&s.dev, &s.model, &mut ()));
        let all = launch.comm().exchange(&[mine.loss, mine.targets, mine.bytes]);
        let sums = all.iter().fold(crate::commands::eval::Sums::default(), |a, b| a.plus(b));
        launch::check(output.eval(&corpus.name, step, sums.mean(), sums.bits_per_byte()));
    }
}
