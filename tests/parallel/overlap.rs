//! Messages travel while the backward (and, for ZeRO-1, the next forward) computes.
//!
//! ```text
//! waited     the step did nothing but wait for messages: `Clock::exposed`, the metrics' comm_exposed_time
//! control    the same run, but each message is waited for where it starts
//! hidden     1 − waited / waited in the control          medians over the steps
//! ```
use crate::job;
use crate::trainer::{Case, train};
use llm_train::comm::{Collective, Ticket};
use llm_train::device::{Access, Device, Loan, Precision};
use llm_train::model::{Config, Recompute};
use llm_train::parallel::Stage;
use llm_train::tensor::{Kind, Plan};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn reductions_are_hidden_behind_the_backward() {
    // A machine full of other work delays one rank or the other, for which the rest wait: it may have three tries.
    let mut lines = vec![];
    for _ in 0..3 {
        let text = job::succeeds(2, "overlap").text;
        let hidden = |what: &str| -> f64 {
            let line = text.lines().find_map(|l| l.split_once("overlap ")?.1.strip_prefix(what)).unwrap();
            line.rsplit_once("hidden ").unwrap().1.trim_end_matches(" %").parse().unwrap()
        };
        let all = ["alone", "Replicate", "Optimizer"].map(hidden);
        if all.iter().all(|percent| *percent > 50.0) {
            return;
        }
        lines.push(all);
    }
    panic!("percent hidden (alone, DDP, ZeRO-1): {lines:?}");
}

/// Waits for each message where it starts.
struct AtOnce<'a> {
    with: &'a dyn Collective,
    waited: AtomicU64,
}

impl AtOnce<'_> {
    fn wait(&self, begin: impl FnOnce() -> Ticket) -> Ticket {
        let began = Instant::now();
        begin().wait();
        self.waited.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ticket::at_once()
    }
}

impl Collective for AtOnce<'_> {
    fn rank(&self) -> usize {
        self.with.rank()
    }
    fn size(&self) -> usize {
        self.with.size()
    }
    fn reduce_scatter(&self, loan: Loan) -> Ticket {
        self.wait(|| self.with.reduce_scatter(loan))
    }
    fn all_reduce(&self, loan: Loan) -> Ticket {
        self.wait(|| self.with.all_reduce(loan))
    }
    fn all_gather(&self, loan: Loan) -> Ticket {
        self.wait(|| self.with.all_gather(loan))
    }
    fn exchange(&self, mine: &[f64]) -> Vec<Vec<f64>> {
        self.with.exchange(mine)
    }
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.with.gather(mine)
    }
    fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Vec<u8> {
        self.with.broadcast(bytes, root)
    }
    fn barrier(&self) {
        self.with.barrier();
    }
    /// Here: what was waited beyond the steps' own clock.
    fn busy(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }
}

pub fn rank() {
    let launch = job::join();
    let world = job::world();
    alone(&world, launch.leads());
    let nano = Config::preset("nano").unwrap();
    let config = Config { layers: 6, width: 256, hidden: 1024, heads: 4, kv_heads: 4, head_dim: 64, ..nano };
    for stage in [Stage::Replicate, Stage::Optimizer] {
        let case = Case { micro_batch: 2, global_batch: 4, seq: 128, stage, recompute: Recompute::None, steps: 9 };
        let at_once = AtOnce { with: &world, waited: AtomicU64::new(0) };
        let (control, run) = (train(&at_once, &config, &case), train(&world, &config, &case));
        assert!(control.weights == run.weights && control.told == run.told, "waiting sooner or later changes no number");
        // The first step pays for pages and connections.
        let (control, clocks) = (&control.clocks[1..], &run.clocks[1..]);
        let without = median(control.iter().map(|(clock, more)| clock.exposed + *more));
        let waited = median(clocks.iter().map(|(clock, _)| clock.exposed));
        if launch.leads() {
            let ms = |d: f64| 1e3 * d;
            let forward = median(clocks.iter().map(|(clock, _)| clock.forward));
            let backward = median(clocks.iter().map(|(clock, _)| clock.backward));
            let (f, b, w, c, hidden) = (ms(forward), ms(backward), ms(waited), ms(without), 100.0 * (1.0 - waited / without));
            println!(
                "overlap {stage:?}: forward {f:.1} ms, backward {b:.1} ms, waited {w:.1} ms, control {c:.1} ms, hidden {hidden:.0} %"
            );
        }
    }
    launch.leave(0)
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Sixteen sums of 4 MiB while the computing thread does something else, namely nothing.
fn alone(world: &impl Collective, leads: bool) {
    let mut plan = Plan::default();
    let places: Vec<_> = (0..16).map(|_| plan.vector(Kind::Gradients, 1 << 20)).collect();
    let dev = Device::cpu(&plan, 1, Precision::Fp32).unwrap();
    let begin = || places.iter().map(|t| world.all_reduce(dev.lend(*t, Access::Write))).collect::<Vec<_>>();
    drop(begin());
    let (began, busy) = (Instant::now(), world.busy());
    drop(begin());
    let (at_once, busy) = (began.elapsed(), world.busy() - busy);
    assert!(busy <= at_once && 2 * busy > at_once, "under way for {busy:?} of {at_once:?}");
    let waited = (0..5).map(|_| {
        let tickets = begin();
        std::thread::sleep(3 * at_once);
        let began = Instant::now();
        drop(tickets);
        began.elapsed()
    });
    let waited = median(waited);
    if leads {
        let seconds = at_once.as_secs_f64();
        let (rate, hidden) = (64.0 * 1.048_576e-3 / seconds, 100.0 * (1.0 - waited / seconds));
        println!("overlap alone: 64 MiB summed in {:.1} ms ({rate:.2} GB/s), hidden {hidden:.0} %", 1e3 * seconds);
    }
    world.barrier();
}
