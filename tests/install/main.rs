//! Installing: what `scripts/install.sh` and `scripts/bundle.sh` leave, the modulefile in real module tools, `--version`.
//!
//! | | |
//! |---|---|
//! | [`version`] | the block of `--version`, with libraries there, missing and broken |
//! | [`prefix`] | the tree of an installation: man pages, completions, examples; refused options |
//! | [`modules`] | `module load` by Lmod and by Environment Modules |
//! | [`bundle`] | two ranks from a folder that was moved |
//! | [`pages`] | `docs/install.md`: its commands are those that are run here |
//!
//! The build without a network, MPICH and EasyBuild are in `scripts/site-check.sh`, which takes minutes.
mod bundle;
mod modules;
mod pages;
mod prefix;
#[path = "../cli/program.rs"]
#[allow(dead_code)]
mod program;
mod version;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A line of bash, in the repository. MPI is not to see the environment of the tests (see [`program::Job`]).
pub fn bash(line: &str) -> Output {
    let mut job = program::Job::new(Command::new("bash"));
    job.0.args(["-c", line]).current_dir(root()).output().unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the line prints; it must end well.
pub fn done(line: &str) -> String {
    let output = bash(line);
    assert!(output.status.success(), "{line}: {}\n{}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the installation of this build lies: a name with all that a script may stumble over.
pub fn installed() -> &'static Path {
    static PREFIX: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("an installation & more {}", std::process::id()));
        let _ = std::fs::remove_dir_all(&prefix);
        let said = done(&format!("scripts/install.sh --program '{}' --prefix '{}'", program::PROGRAM, prefix.display()));
        assert!(said.contains("installed llm-train "), "{said}");
        prefix
    })
}
