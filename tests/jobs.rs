//! The example job script, with Slurm's commands replaced by ones that write down how they were called.
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs `jobs/generic/job.sbatch` when srun ends with `status`: its exit code, and the calls in order.
fn job(status: i32, restarts: Option<u32>) -> (Option<i32>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls");
    let fake = |name: &str, code: i32| {
        let file = dir.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\necho \"{name} $*\" >> {}\nexit {code}\n", calls.display())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    fake("srun", status);
    fake("scontrol", 0);
    fake("llm-train", 99); // only srun starts it
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/generic/job.sbatch");
    let mut command = Command::new("bash");
    command.arg(script).args(["--lr", "2e-3"]).env("SLURM_JOB_ID", "41").env("SLURM_SUBMIT_DIR", dir.path());
    command.env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
    command.env_remove("SLURM_RESTART_COUNT");
    restarts.map(|n| command.env("SLURM_RESTART_COUNT", n.to_string()));
    let code = command.output().unwrap().status.code();
    (code, std::fs::read_to_string(calls).unwrap().lines().map(str::to_string).collect())
}

#[test]
fn a_job_that_asks_for_it_is_requeued_and_no_other() {
    let (code, calls) = job(75, None);
    assert_eq!(code, Some(0));
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0].starts_with("srun ") && calls[0].contains("--kill-on-bad-exit=1"), "{calls:?}");
    assert!(calls[0].ends_with("llm-train --config run.toml --lr 2e-3"), "options of sbatch are passed on: {calls:?}");
    assert_eq!(calls[1], "scontrol requeue 41");
    assert_eq!(job(75, Some(3)).1.len(), 2);
    for status in [0, 1, 2, 137] {
        let (code, calls) = job(status, None);
        assert_eq!((code, calls.len()), (Some(status), 1), "{calls:?}");
    }
    assert_eq!((job(75, Some(100)).0, job(75, Some(100)).1.len()), (Some(75), 1), "a job that never ends is stopped");
}

#[test]
fn the_signal_comes_before_the_limit_and_output_is_appended() {
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/generic/job.sbatch")).unwrap();
    for line in ["#SBATCH --signal=USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"] {
        assert!(script.lines().any(|l| l == line), "{line}");
    }
}
