//! `llm-train bench checkpoint`: a model's checkpoint written and read back, by the very code of training.
//!
//! ```text
//! write   Session::save: every rank its files, each on the disk (fsync), then the rename
//! read    what a run does that goes on: weights by rank 0 and broadcast, moments by their owners; the system is asked to
//!         forget the files first
//! bytes/s = 12 bytes a parameter (weights and two moments; 10 with bf16-true) / seconds, all ranks together
//! ```
use crate::commands::bench::{figure, machine};
use crate::commands::scratch::Scratch;
use crate::commands::session::Session;
use crate::commands::{tell, write_json};
use crate::config::{Resume, Run};
use crate::data::mapped;
use crate::error::Result;
use crate::launch::{Launch, cores};
use crate::metrics::stats::Stats;
use crate::metrics::units;
use crate::{bad_input, checkpoint};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Time the writing and reading of a model's checkpoint.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Benchmark")]
pub struct CheckpointArgs {
    /// Checkpoints that are written and read
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeats: u32,
    /// A folder on the file system to be measured, which all ranks see [default: TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

pub fn run(run: &mut Run, args: &CheckpointArgs, launch: &Launch) -> Result<()> {
    if let Some(dir) = args.dir.as_ref().filter(|dir| !dir.is_dir()) {
        bad_input!("--dir {}: expected a folder that is there, found none", dir.display());
    }
    // Rank 0's folder; the others only write into it.
    let scratch = launch.leads().then(|| Scratch::within(&args.dir.clone().unwrap_or_else(std::env::temp_dir), "bench"));
    let name = scratch.as_ref().map_or(String::new(), |s| s.0.display().to_string());
    let name = launch.comm().broadcast(name.into_bytes(), 0);
    run.train.out = PathBuf::from(String::from_utf8_lossy(&name).into_owned());
    (run.checkpoint.resume, run.checkpoint.keep, run.checkpoint.keep_every) = (Resume::Never, 1, None);
    run.data.val.clear();
    run.log.quiet = true;

    let (session, output) = Session::open(run, launch)?;
    let bytes = checkpoint::bytes(session.model.parameters(), run.system.weights_bf16);
    let (mut written, mut read) = (vec![], vec![]);
    for step in 0..u64::from(args.repeats) {
        launch.comm().barrier();
        let began = Instant::now();
        let dir = session.save(run, launch, step)?;
        launch.comm().barrier();
        written.push(bytes as f64 / began.elapsed().as_secs_f64());

        if launch.leads() {
            std::fs::read_dir(&dir).into_iter().flatten().flatten().for_each(|file| mapped::forget(&file.path()));
        }
        launch.comm().barrier();
        let began = Instant::now();
        session.read_back(run, launch, dir)?;
        launch.comm().barrier();
        read.push(bytes as f64 / began.elapsed().as_secs_f64());
    }
    drop(output);
    if !launch.leads() {
        return Ok(());
    }
    let (ranks, threads) = (launch.size(), launch.threads);
    let mut page = format!(
        "bench checkpoint: {}, {} bytes ({}), {ranks} ranks, in {}; {}\n",
        run.model.name,
        units::thousands(bytes),
        units::bytes(bytes),
        run.train.out.parent().unwrap_or(&run.train.out).display(),
        cores::processor()
    );
    let mut all = machine(run, ranks, threads);
    all["checkpoint_bytes"] = json!(bytes);
    for (key, name, rates) in [("write", "checkpoint write (bytes/s)", written), ("read", "checkpoint read (bytes/s)", read)] {
        let rates = Stats::of(rates).expect("at least one");
        page += &figure(name, &rates);
        all[key] = json!({ "bytes_per_second": rates.json() });
    }
    tell(page);
    run.json_of_its_own().map_or(Ok(()), |file| write_json(file, &all))
}
