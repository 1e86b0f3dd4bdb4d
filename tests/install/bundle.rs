//! The relocatable folder, on what might be a node's own disk.
use crate::program::{Job, PROGRAM, mpirun};
use crate::{bash, done, text};
use std::path::Path;
use std::time::Duration;

const RUN: &str = "--model nano --layers 2 --width 32 --heads 2 --vocab 200 --seq-len 16 --global-batch 4 --micro-batch 1 --synthetic-data \
    --threads 1 --device cpu --no-save-at-end";

/// Libraries that a process has loaded, but those of the C library.
fn loaded(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let own =
        ["ld-linux", "libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so", "libutil.so", "libresolv.so", "libnsl.so"];
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_string()));
    let mut files: Vec<String> = files.filter(|file| file.contains(".so")).collect();
    files.retain(|file| !own.iter().any(|name| Path::new(file).file_name().unwrap().to_string_lossy().starts_with(name)));
    files.sort();
    files.dedup();
    files
}

#[test]
fn two_ranks_run_from_a_folder_that_was_moved() {
    let scratch = tempfile::tempdir().unwrap();
    let (made, moved) = (scratch.path().join("made"), scratch.path().join("on the node").join("llm-train"));
    let said = done(&format!("scripts/bundle.sh --program '{PROGRAM}' '{}'", made.display()));
    assert!(said.contains("made.tar"), "{said}");
    // As a job does it: the archive is unpacked elsewhere, and the first folder is gone.
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    done(&format!(
        "tar xf '{0}.tar' -C '{1}' && mv '{1}/made' '{1}/llm-train' && rm -r '{0}'",
        made.display(),
        moved.parent().unwrap().display()
    ));

    let program = moved.join("bin/llm-train");
    let run = |steps: u64, out: &str| -> Job {
        let mut job = mpirun("-n 2 --bind-to none");
        job.0
            .arg(&program)
            .args(RUN.split_whitespace())
            .args(["--steps", &steps.to_string(), "--out"])
            .arg(scratch.path().join(out));
        job
    };
    run(5, "few").done();
    // Every library of a rank at work is the folder's.
    let mut running = run(1_000_000, "many").start();
    running.until_step(3);
    let ranks = running.ranks();
    assert_eq!(ranks.len(), 2);
    for rank in ranks {
        let files = loaded(rank);
        let folder = moved.canonicalize().unwrap();
        let others: Vec<&String> = files.iter().filter(|file| !Path::new(file).starts_with(&folder)).collect();
        assert!(files.len() > 10 && others.is_empty(), "from elsewhere: {others:?}");
    }
    running.kill();
    // One library taken away is missed: the folder is what is used.
    let hdf5 = std::fs::read_dir(moved.join("lib")).unwrap().map(|e| e.unwrap().path());
    let broken: Vec<_> = hdf5.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("libopen-pal")).collect();
    broken.iter().for_each(|file| std::fs::write(file, "no library").unwrap());
    if !broken.is_empty() {
        let ended = run(5, "broken").start().end_within(Duration::from_secs(30));
        assert!(!ended.status.success(), "{ended}");
    }
}

#[test]
fn what_cannot_be_bundled_is_said() {
    for (options, part) in [("", "found none"), ("--program /nowhere x", "/nowhere"), ("src", "empty folder")] {
        let output = bash(&format!("scripts/bundle.sh --program '{PROGRAM}' {options}"));
        assert!(output.status.code() == Some(2) && text(&output).contains(part), "{options}: {}", text(&output));
    }
}
