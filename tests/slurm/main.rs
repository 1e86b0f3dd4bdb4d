//! Jobs under a real Slurm of two virtual nodes, which `scripts/slurm-here.sh` starts and stops.
//!
//! | | |
//! |---|---|
//! | [`pieces`] | `jobs/generic` as it ships: signal, checkpoint, 75, requeue, the same losses as an uninterrupted run; arrays |
//! | [`ends`] | the end of the time found by `squeue`, also after `scontrol update`; a rank that is killed |
//! | [`suites`] | ReFrame, JUBE, the scaling study |
//! | [`docs`] | README.md, docs/jobs.md, docs/suites.md and docs/scaling.md, line by line |
mod cluster;
mod docs;
#[path = "../cli/program.rs"]
#[allow(dead_code)]
mod program;
#[path = "../cli/scene.rs"]
#[allow(dead_code)]
mod scene;

mod ends;
mod pieces;
mod suites;
