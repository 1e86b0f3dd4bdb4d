//! `gpu-check` as it will run where there is a GPU: out of a bundle that was moved, in an empty environment, without a network; here
//! on the stub. A part that fails, one that takes too long, and one that tests nothing are each seen.
use crate::place::{on_gpu, root};
use crate::program::{Job, PROGRAM};
use crate::scene::stubs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A process without a network has a loopback that is down, which MPI needs.
const WITHOUT_A_NETWORK: &str = "import fcntl, os, socket, struct, sys
s = socket.socket()
fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0x1 | 0x40))
os.execvp(sys.argv[1], sys.argv[1:])";

struct Check {
    bundle: PathBuf,
    scratch: tempfile::TempDir,
}

/// What a run of it left.
struct Left {
    code: Option<i32>,
    said: String,
    report: serde_json::Value,
}

impl Check {
    fn run(&self, options: &str, environment: &[(&str, &str)]) -> Left {
        let (stubs, compiler) = stubs().unwrap();
        let out = self.scratch.path().join("report");
        let gpu_check = self.bundle.join("bin/gpu-check");
        let alone = Command::new("unshare").args(["-n", "true"]).output().is_ok_and(|done| done.status.success());
        assert!(alone || std::env::var_os("CI").is_none(), "in CI the check must run without a network");
        let mut command = Command::new("env");
        command.arg("-i").arg(format!("PATH=/usr/bin:/bin:{}", stubs.display())).arg("HOME=/nowhere");
        command.arg(format!("LD_LIBRARY_PATH={}:{}", stubs.display(), compiler.display()));
        command.arg(format!("STUB_KERNELS={}", stubs.join("libkernels-%p.so").display()));
        command.args(["KERNELS_REAL=bf16", "GPU_CHECK_SMALL=1", "GPU_CHECK_LIMITS=8"]);
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        if alone {
            command.args(["unshare", "-n", "python3", "-c", WITHOUT_A_NETWORK]);
        }
        command.arg(gpu_check).arg("--out").arg(&out).args(["--time", "2000"]).args(options.split_whitespace()).current_dir("/");
        let ended = Job::new(command).start().end_within(Duration::from_secs(2400));
        let text = std::fs::read_to_string(out.join("report.json")).unwrap_or_else(|e| panic!("{e}: {ended}"));
        let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let logs = std::fs::read_to_string(out.join("logs.txt")).unwrap();
        Left { code: ended.status.code(), said: format!("{ended}\n{logs}"), report }
    }
}

impl Left {
    fn of(&self, part: &str) -> &serde_json::Value {
        let parts = self.report["parts"].as_array().unwrap();
        parts.iter().find(|p| p["name"] == part).unwrap_or_else(|| panic!("no {part} in {}", self.said))
    }
}

#[test]
fn it_runs_from_a_bundle_that_was_moved_and_sees_what_fails() {
    if on_gpu() || stubs().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let made = scratch.path().join("made");
    let mut bundle = Command::new(root().join("scripts/bundle.sh"));
    let built = || std::fs::metadata(std::env::current_exe().unwrap()).unwrap().modified().unwrap();
    let before = built();
    let done = bundle.args(["--gpu-check", "--program", PROGRAM]).arg(&made).output().unwrap();
    assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(built(), before, "the bundle was to take the tests that are built, not to build them anew under those that run");
    let archive = std::fs::metadata(scratch.path().join("made.tar.gz")).unwrap().len();
    assert!(archive < 64 << 20, "{archive} bytes are much to carry");
    let moved = scratch.path().join("on the node");
    std::fs::create_dir(&moved).unwrap();
    let unpacked = Command::new("tar").arg("xzf").arg(scratch.path().join("made.tar.gz")).arg("-C").arg(&moved).status().unwrap();
    assert!(unpacked.success());
    std::fs::remove_dir_all(&made).unwrap();
    let check = Check { bundle: moved.join("made"), scratch };

    let whole = check.run("", &[]);
    assert_eq!(whole.code, Some(0), "{}", whole.said);
    // All that a stub can run; a part that needs the GPU itself says so.
    let counts = ["failed", "passed", "left_out"].map(|what| whole.report[what].as_u64());
    assert_eq!(counts, [Some(0), Some(20), Some(1)], "{}", whole.said);
    assert_eq!(whole.of("cudnn")["result"], "left out");
    assert!(whole.report["gpu"].as_str().unwrap().contains("H100"));
    assert!(whole.of("curve")["figures"]["curve_fp32_widest_relative_difference"].as_f64().is_some_and(|x| x < 5e-3));
    for part in ["bench-gpt2", "bench-llama", "bench-gpt2-xl"] {
        assert!(whole.report["benchmarks"][part]["tokens_per_second"]["mean"].as_f64().is_some_and(|x| x > 0.0), "{part}");
    }
    assert!(whole.report["benchmarks"]["gemm"]["best_gflops"].as_f64().is_some_and(|x| x > 0.0));

    // A golden that is another's: its part fails, the next one passes all the same. (In one precision, whose kernels
    // are then compiled once.)
    let golden = check.bundle.join("check/tests/golden");
    std::fs::copy(golden.join("qwen2/golden.safetensors"), golden.join("opt/golden.safetensors")).unwrap();
    let left = check.run("--only goldens-bf16,resume", &[]);
    assert_eq!((left.code, &left.of("resume")["result"]), (Some(1), &"passed".into()), "{}", left.said);
    let (result, why) = (&left.of("goldens-bf16")["result"], left.of("goldens-bf16")["why"].as_str().unwrap());
    assert!(
        result == "failed" && why.contains("opt Bf16: off by") && left.report["parts"].as_array().unwrap().len() == 2,
        "{why}"
    );

    // Too slow; without a library; with tests that are none.
    let left = check.run("--only goldens-bf16", &[("GPU_CHECK_LIMITS", "0.001")]);
    assert!(left.code == Some(1) && left.of("goldens-bf16")["why"] == "not done after 1 s", "{}", left.said);
    let left = check.run("--only libraries", &[("LD_LIBRARY_PATH", "/nowhere")]);
    let why = left.of("libraries")["why"].as_str().unwrap();
    assert!(left.code == Some(1) && why.starts_with("not found: CUDA driver"), "{why}: {}", left.said);
    let none = "#!/bin/sh\necho 'test result: ok. 0 passed; 0 failed'\n";
    let tests = check.bundle.join("check/cuda_device");
    std::fs::write(&tests, none).unwrap();
    let left = check.run("--only resume", &[]);
    assert!(left.code == Some(1) && left.of("resume")["why"] == "no test has passed", "{}", left.said);
    std::fs::remove_file(Path::new(&tests)).unwrap();
}
