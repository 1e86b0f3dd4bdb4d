//! `llm-train bench data`: how fast windows of a corpus are read, in the order of training.
//!
//! ```text
//! cold   the system is asked to forget the files first, so that pages come from the file system
//! warm   the same windows once more, out of the page cache
//! rates  of all ranks together; one of them reads as its loader does, on one thread, without working on what it read
//! ```
use crate::bad_input;
use crate::commands::bench::{figure, machine};
use crate::commands::{check_json, tell, write_json};
use crate::config::{Run, Source};
use crate::data::{Batch, Data, Order, Reading, Share, mapped};
use crate::error::Result;
use crate::launch::{Launch, cores};
use crate::metrics::stats::Stats;
use serde_json::json;
use std::time::Instant;

/// Time the reading of a corpus (--data), window by window.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Benchmark")]
pub struct DataArgs {
    /// Batches that are timed together, one figure each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batches: u32,
}

/// Figures of each of the two.
const PARTS: u64 = 20;

pub fn run(run: &mut Run, args: &DataArgs, launch: &Launch) -> Result<()> {
    launch.agree(run.validate_for(launch.size()))?;
    launch.agree(if launch.leads() { check_json(run.json_of_its_own()) } else { Ok(()) })?;
    let Source::Corpora(corpora) = &run.data.source else {
        bad_input!("bench data: expected --data FILE, a corpus to read, found made-up tokens");
    };
    let specs: Vec<String> = corpora.iter().map(|c| format!("{}:{}", c.path.display(), c.weight.unwrap_or(1.0))).collect();
    let (config, reset_attention) = (&run.model.config, run.data.reset_attention);
    let (seq, vocab, eos) = (run.batch.seq_len, config.vocab, config.eos.first().copied());
    let reading = Reading { seq, vocab, width: None, eos, reset_attention };
    let open = || Data::open(&specs, Order::Shuffled { seed: run.train.seed }, &reading);
    let share = Share {
        rank: launch.rank(),
        ranks: launch.size(),
        micro_batch: run.batch.micro_batch,
        global_batch: run.batch.micro_batch * launch.size(),
    };

    // Pages that are mapped stay: the files are closed before they are forgotten.
    let files = launch.agree(open())?.files();
    files.iter().for_each(|file| mapped::forget(file));
    launch.comm().barrier();
    let data = launch.agree(open())?;
    let width = data.corpora()[0].shards()[0].tokens.width().bytes() as f64;
    let mut page = format!(
        "bench data: {} windows of {seq} tokens a figure, {} ranks, {} files; {}\n",
        u64::from(args.batches) * share.global_batch as u64,
        launch.size(),
        files.len(),
        cores::processor()
    );
    let mut all = machine(run, launch.size(), 1);
    for order in ["cold", "warm"] {
        let mut rates = vec![];
        for part in 0..PARTS {
            let seconds = launch.agree(read(&data, &share, part * u64::from(args.batches), args.batches))?;
            let slowest = launch.comm().exchange(&[seconds]).iter().map(|t| t[0]).fold(0.0, f64::max);
            rates.push(f64::from(args.batches) * (share.global_batch * seq) as f64 / slowest);
        }
        let tokens = Stats::of(rates).expect("some parts");
        let bytes = tokens.times(width);
        page += &figure(&format!("corpus read {order} (tokens/s)"), &tokens);
        page += &figure(&format!("corpus read {order} (bytes/s)"), &bytes);
        all[order] = json!({ "tokens_per_second": tokens.json(), "bytes_per_second": bytes.json() });
    }
    if !launch.leads() {
        return Ok(());
    }
    tell(page);
    run.json_of_its_own().map_or(Ok(()), |file| write_json(file, &all))
}

/// Seconds that this rank needs for so many batches from the `first` on.
fn read(data: &Data, share: &Share, first: u64, batches: u32) -> Result<f64> {
    let (mut batch, began) = (Batch::default(), Instant::now());
    for n in first..first + u64::from(batches) {
        data.fill(n * share.global_batch as u64, 0, share, &mut batch)?;
    }
    Ok(began.elapsed().as_secs_f64())
}
