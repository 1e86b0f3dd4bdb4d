//! Messages: each line with time and rank. Rank 0 alone speaks below warning level, unless RUST_LOG asks for more.
use crate::launch::slurm;
use crate::metrics::Stderr;
use std::io::Write;

/// To be called once, before anything is said.
pub fn start() {
    let rank = slurm::expected_rank().unwrap_or(0);
    let default = if rank == 0 { "warn,llm_train=info" } else { "warn" };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default));
    builder.target(env_logger::Target::Pipe(Box::new(Stderr)));
    builder.format(move |out, record| {
        let now = out.timestamp_seconds();
        writeln!(out, "{now} rank {rank} {:<5} {}", record.level().as_str().to_lowercase(), record.args())
    });
    // A second start, in tests, changes nothing.
    let _ = builder.try_init();
}
