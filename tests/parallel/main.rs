//! What the ranks do together, tested between real processes.
//!
//! ```text
//! cargo test ──> #[test] parent: mpirun -n N  this same binary  --exact rank      LLM_TRAIN_RANKS_DO=<what>
//!                                             └─> #[test] rank: does it, with the other ranks
//! ```
//! An assertion that fails on a rank ends its job, with its words on stderr; the parent shows them.
mod collectives;
mod ends;
mod grid;
mod job;
mod overlap;
mod speed;
mod start;
mod trainer;

/// The ranks' side of every test here; started by hand it has nothing to do.
#[test]
fn rank() {
    let Ok(what) = std::env::var(job::DO) else { return };
    match what.as_str() {
        "collectives" => collectives::rank(),
        "grid" => grid::rank(),
        "overlap" => overlap::rank(),
        "speed" => speed::rank(),
        "start" => start::rank(),
        end => ends::rank(end),
    }
}
