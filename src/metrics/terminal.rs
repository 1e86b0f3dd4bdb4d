//! Whether somebody is looking, also through a launcher.
//!
//! ```text
//! alone              a terminal, or a file or pipe          as the streams themselves say
//! under Open MPI     rank 0's stdout is a pseudo-terminal, its stderr a pipe, wherever mpirun's own lead:
//!                    mpirun, the parent, is asked: /proc/<parent>/fd/1
//! srun, others       pipes: lines for files
//! ```
use indicatif::ProgressDrawTarget;
use std::io::{IsTerminal, stderr, stdout};

/// Whether what goes to stdout is read as it comes, by a person.
pub fn stdout_is_watched() -> bool {
    stdout().is_terminal() && through_mpirun().unwrap_or(true)
}

/// Where a progress bar can be drawn: stderr, so that stdout may go elsewhere. Through mpirun it is stdout, whose terminal
/// codes arrive in their order among the lines.
pub fn bar() -> Option<ProgressDrawTarget> {
    match through_mpirun() {
        None => stderr().is_terminal().then(ProgressDrawTarget::stderr),
        Some(watched) => (watched && stdout().is_terminal()).then(ProgressDrawTarget::stdout),
    }
}

/// Whether the stdout of Open MPI's mpirun is a terminal; `None` if it did not start us. A daemon on another host, which
/// has no terminal, starts rank 0 only where mpirun's own host has no rank.
fn through_mpirun() -> Option<bool> {
    std::env::var_os("OMPI_COMM_WORLD_RANK")?;
    let stdout = std::fs::read_link(format!("/proc/{}/fd/1", std::os::unix::process::parent_id()));
    let consoles = ["/dev/pts/", "/dev/tty", "/dev/console"];
    Some(stdout.is_ok_and(|file| consoles.iter().any(|name| file.to_string_lossy().starts_with(name))))
}
