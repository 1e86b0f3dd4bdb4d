//! Whether a person watches what is written to stdout.
//!
//! Open MPI gives each rank a terminal of its own as stdout and copies what comes out of it to mpirun's stdout, be that a
//! terminal or a file; stderr is a pipe. So under mpirun it is mpirun's own stdout that tells.
use std::io::{self, IsTerminal};

pub fn on_stdout() -> bool {
    let under_mpirun = std::env::var_os("OMPI_COMM_WORLD_RANK").is_some();
    io::stdout().is_terminal() && (!under_mpirun || launcher_on_terminal())
}

/// The parent is mpirun on its own host and a daemon, which has no terminal, on others.
fn launcher_on_terminal() -> bool {
    let stdout = std::fs::read_link(format!("/proc/{}/fd/1", std::os::unix::process::parent_id()));
    stdout.is_ok_and(|file| ["/dev/pts", "/dev/tty", "/dev/console"].iter().any(|t| file.to_string_lossy().starts_with(t)))
}
