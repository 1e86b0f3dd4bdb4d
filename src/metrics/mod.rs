//! What a run leaves behind for people: `OUT/metrics.h5`, one console line a step, the figures of merit at the end.
//!
//! ```text
//! /train/{step,tokens,loss,lr,grad_norm,step_time,…}   a row a step            (StepRecord)
//! /eval/<name>/{step,loss,bytes_per_token}             a row an evaluation     (EvalPoint)
//! /starts/{time,steps,configuration,revision,…,first_step}   a row a program start   (Start)
//! /ranks/{rank,host,device,cores,threads}              a row a rank of the latest start
//! /events/{time,step,text}                             what happened besides
//! ```
//!
//! Every table is a group, every column a one-dimensional dataset with `units` and `long_name`. Rule of the house:
//! **every figure printed can be recomputed from the file**, and to be sure of it the end block ([`Summary`]), its JSON
//! and `llm-train report` are computed from nothing else ([`History::read`]).
mod console;
pub mod energy;
mod file;
mod history;
pub mod letters;
pub mod memory;
mod mllog;
mod panel;
mod picture;
mod recent;
mod record;
mod scaling;
mod split;
mod state;
pub mod stats;
mod summary;
mod table;
pub mod terminal;
pub mod units;

pub use console::{Console, Stderr};
pub use file::MetricsFile;
pub use history::{EvalSet, Evaluation, History};
pub use mllog::{Mllog, now_ms};
pub use picture::{Curve, by_night, curve, draw};
pub use recent::Recent;
pub use record::{EvalPoint, Event, GpuReading, Rank, Start, StepRecord};
pub use scaling::draw_scaling;
pub use split::{Share, split};
pub use state::{REACHED, STOPPED, State, silent};
pub use summary::Summary;

/// The HDF5 library's version, `1.14.3`.
pub fn library() -> String {
    let (major, minor, release) = hdf5::library_version();
    format!("{major}.{minor}.{release}")
}

/// Why an HDF5 call failed, in one line: the system's own words where its error stack has them.
fn cause(error: &hdf5::Error) -> String {
    let text = error.to_string();
    let system = text.split("error message = '").nth(1).and_then(|rest| rest.split('\'').next());
    system.or(text.lines().next()).unwrap_or("unknown error").trim().to_string()
}
