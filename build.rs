//! Tells the program which commit it was built from, where git knows; a build from a tarball goes without.
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
    println!("cargo:rustc-env=LLM_TRAIN_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo:rerun-if-env-changed=LLM_TRAIN_REVISION");
    println!("cargo:rerun-if-changed=build.rs");
    // The log of HEAD grows with each commit and checkout.
    for path in
        [git(&["rev-parse", "--git-path", "logs/HEAD"])].into_iter().flatten().filter(|p| std::path::Path::new(p).exists())
    {
        println!("cargo:rerun-if-changed={path}");
    }
}
