//! Jobs under a real Slurm of two virtual nodes, which `scripts/slurm-here.sh` starts and stops.
//!
//! | | |
//! |---|---|
//! | [`pieces`] | `jobs/generic` as it ships: signal, checkpoint, 75, requeue, the same losses as an uninterrupted run; arrays |
//! | [`ends`] | the end of the time found by `squeue`; a rank that is killed |
//! | [`suites`] | ReFrame and JUBE |
mod cluster;
#[path = "../cli/program.rs"]
#[allow(dead_code)]
mod program;
#[path = "../cli/scene.rs"]
#[allow(dead_code)]
mod scene;

mod ends;
mod pieces;
mod suites;
