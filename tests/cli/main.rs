//! The program as its users meet it: started from outside, alone and under `mpirun`, and judged by its exit code, its
//! words and the files it leaves. Only `metrics.h5` and the tensors of a checkpoint are read through the library.
//!
//! | | |
//! |---|---|
//! | [`refused`] | bad input: one sentence, exit 2, nothing written |
//! | [`failing`] | a disk that fills up, a loss that is not finite: exit 1, the last checkpoint whole |
//! | [`lost`] | a rank that is killed or hangs takes the job with it, soon and with a reason |
//! | [`stopped`] | signals and time limits: exit 75; killed jobs; going on as if nothing had been |
//! | [`kept`] | which checkpoints stay; other numbers of ranks |
//! | [`configured`] | who overrides whom; the printed configuration is a configuration |
//! | [`measured`] | `bench`: figures, rooflines, predictions; nothing left behind |
//! | [`results`] | `--json`, the figures of merit, plan |
//! | [`text`] | tokenize, train, eval and generate on real text |
//! | [`spoken`] | help, version, slips, quiet, readers that have gone away |
//! | [`launched`] | no launcher, the launcher's default binding |
//! | [`numbers`] | precision, recomputation, tokens checked before the start |
mod program;
mod scene;

mod configured;
mod failing;
mod kept;
mod launched;
mod lost;
mod measured;
mod numbers;
mod refused;
mod report;
mod results;
mod spoken;
mod stopped;
mod text;
