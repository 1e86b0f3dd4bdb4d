//! Attention's plans by the real cuDNN, for an A100 and an H100 that are described to it: made, sent as text, finalized anew. They
//! are not executed here, since no engine of cuDNN's runs without a GPU; that the graphs are attention is a unit test beside them.
//!
//! As in `products`, the test starts itself again, with cuDNN and a driver for plans alone in its library path.
use llm_train::device::cuda::cudnn::{Plans, Sdpa, Target, serves};
use llm_train::model::Config;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// The folder of cuDNN. `None`, once said, where it cannot be installed; in CI that is a failure.
fn cudnn() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cuda-wheels.sh");
    let wheel = Command::new(script).arg("cudnn").output().unwrap();
    if !wheel.status.success() {
        let why = String::from_utf8_lossy(&wheel.stderr);
        assert!(std::env::var_os("CI").is_none(), "cuDNN's plans are not tested: {why}");
        eprintln!("NOT TESTED: cuDNN cannot be installed here: {why}");
        return None;
    }
    Some(PathBuf::from(String::from_utf8(wheel.stdout).unwrap().trim()))
}

#[test]
fn plans_are_made_for_every_preset() {
    let Some(cudnn) = cudnn() else { return };
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/stub");
    let driver = tempfile::tempdir().unwrap();
    let library = driver.path().join("libcuda.so.1");
    let built = Command::new("g++").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(stub.join("plans.cpp")).status();
    assert!(built.unwrap().success());
    std::os::unix::fs::symlink(&library, driver.path().join("libcublasLt.so.13")).unwrap();
    let start = |architecture: &str| {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "plans::of_every_preset", "--ignored", "--nocapture"]).env("GPU", architecture);
        again.env("LD_LIBRARY_PATH", format!("{}:{}", driver.path().display(), cudnn.display()));
        again.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        again.spawn().unwrap()
    };
    for child in ARCHITECTURES.map(start) {
        let done = child.wait_with_output().unwrap();
        let text = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
        print!("{}", text.lines().filter(|l| l.contains("workspace")).map(|l| format!("{l}\n")).collect::<String>());
    }
}

#[test]
#[ignore = "runs within another test"]
fn of_every_preset() {
    let architecture = std::env::var("GPU").unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cuda/stub/gpus/{architecture}.json"));
    let target = Target::described(&std::fs::read_to_string(file).unwrap()).unwrap();
    let preset = |c: Config| Sdpa { batch: 4, heads: c.heads, kv_heads: c.kv_heads, seq: 1024.min(c.context), size: c.head_dim };
    let mut all: BTreeSet<Sdpa> = Config::presets().into_iter().map(|(_, c)| preset(c)).filter(serves).collect();
    assert!(all.len() >= 8, "{all:?}");
    // sequences that are no multiple of a tile, longer ones, and one alone
    all.insert(Sdpa { batch: 3, heads: 2, kv_heads: 1, seq: 80, size: 64 });
    all.insert(Sdpa { batch: 1, heads: 4, kv_heads: 4, seq: 4096, size: 128 });
    for of in all {
        let plans = Plans::make(&of, &target).unwrap_or_else(|e| panic!("{architecture} {of:?}: {e}"));
        // by a message, and out of a checkpoint
        let sent = Plans::from_bytes(&plans.to_bytes()).unwrap();
        let [forward, backward] = sent.texts();
        assert_eq!(Plans::from_texts(&forward, &backward), plans, "{architecture} {of:?}: its JSON is not text");
        let workspace = sent.workspace(&target).unwrap_or_else(|e| panic!("{architecture} {of:?}, as text: {e}"));
        println!("{architecture} {of:?}: workspace {workspace}");
        // Where dq is added up by atomics, no such matrix exists: then the workspace does not grow with T².
        let ds = 2 * of.batch * of.heads * of.seq * of.seq;
        assert!((ds..2 * ds + (1 << 20)).contains(&workspace), "{architecture} {of:?}: {workspace} bytes for ds of {ds}");
    }
}

#[test]
fn without_cudnn_it_is_named() {
    // In this process's own library path there is none.
    let e = Target::described("{}").err().expect("cuDNN was found where none was expected").to_string();
    assert!(e.contains("libcu") && e.contains("LD_LIBRARY_PATH"), "{e}");
}
