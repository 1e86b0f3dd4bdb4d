//! Tells the program which commit it was built from, where git knows; a build from a tarball goes without. Puts the compiled
//! GPU kernels of the folder LLM_TRAIN_CUBINS into it, where that is set (`scripts/install.sh --embed-cubin`).
use std::path::PathBuf;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

fn main() {
    // Only a repository of our own counts: a tarball unpacked inside another one must not name that one's commit.
    let ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let revision =
        std::env::var("LLM_TRAIN_REVISION").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| ours));
    println!("cargo:rerun-if-env-changed=LLM_TRAIN_REVISION");
    // Another name than the one that is read: `cargo test` sets what is written here for the tests too, and a cargo that one of
    // them starts would see a changed revision and build everything anew under the others.
    println!("cargo:rustc-env=LLM_TRAIN_BUILT_FROM={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo:rerun-if-changed=build.rs");
    // The log of HEAD grows with each commit and checkout.
    for path in
        [git(&["rev-parse", "--git-path", "logs/HEAD"])].into_iter().flatten().filter(|p| std::path::Path::new(p).exists())
    {
        println!("cargo:rerun-if-changed={path}");
    }
    embed(std::env::var_os("LLM_TRAIN_CUBINS").filter(|folder| !folder.is_empty()).map(PathBuf::from));
}

/// Writes `cubins.rs`, a slice of (file name, bytes): empty without a folder.
fn embed(folder: Option<PathBuf>) {
    println!("cargo:rerun-if-env-changed=LLM_TRAIN_CUBINS");
    let mut entries = vec![];
    if let Some(folder) = folder {
        println!("cargo:rerun-if-changed={}", folder.display());
        let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("LLM_TRAIN_CUBINS={}: {e}", folder.display()));
        let files = files.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "cubin"));
        let line = |path: PathBuf| {
            let path = path.canonicalize().expect("a file that was listed is there");
            let name = path.file_name().expect("a file has a name").to_owned();
            format!("    ({:?}, include_bytes!({:?}) as &[u8]),\n", name.to_string_lossy(), path.to_string_lossy())
        };
        entries = files.map(line).collect();
        assert!(!entries.is_empty(), "LLM_TRAIN_CUBINS={}: expected files *.cubin, found none", folder.display());
        entries.sort();
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("cubins.rs");
    std::fs::write(out, format!("&[\n{}]\n", entries.concat())).expect("cubins.rs is written");
}
