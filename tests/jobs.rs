//! The job scripts of all sites, with Slurm's commands replaced by ones that write down how they were called; a real Slurm runs
//! one in `tests/slurm`.
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SITES: [&str; 8] = ["generic", "mn5-acc", "mn5-gpp", "juwels-booster", "jupiter", "leonardo", "perlmutter", "alps"];

fn file(site: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs").join(site).join(name)
}

/// Runs a site's job.sbatch when srun ends with `status`: its exit code, and the calls in order.
fn job(site: &str, status: i32, more: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls");
    let fake = |name: &str, code: i32| {
        let file = dir.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\necho \"{name} $*\" >> {}\nexit {code}\n", calls.display())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    fake("srun", status);
    fake("scontrol", 0);
    fake("scancel", 0);
    fake("llm-train", 99); // only srun starts it
    let mut command = Command::new("bash");
    command.arg(file(site, "job.sbatch")).args(["--lr", "2e-3"]).env("SLURM_JOB_ID", "41").env("SLURM_SUBMIT_DIR", dir.path());
    command.env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
    command.env_remove("SLURM_RESTART_COUNT").env_remove("SLURM_ARRAY_JOB_ID").envs(more.iter().copied());
    let code = command.output().unwrap().status.code();
    (code, std::fs::read_to_string(calls).unwrap().lines().map(str::to_string).collect())
}

#[test]
fn a_job_that_asks_for_it_is_requeued_and_no_other() {
    for site in SITES {
        let (code, calls) = job(site, 75, &[]);
        assert_eq!(code, Some(0));
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls[0].starts_with("srun ") && calls[0].contains("--kill-on-bad-exit=1"), "{calls:?}");
        assert!(calls[0].ends_with("llm-train --config run.toml --lr 2e-3"), "options of sbatch are passed on: {calls:?}");
        assert_eq!(calls[1], "scontrol requeue 41");
        for status in [0, 1, 2, 137] {
            let (code, calls) = job(site, status, &[]);
            assert_eq!((code, calls.len()), (Some(status), 1), "{calls:?}");
        }
    }
    assert_eq!(job("generic", 75, &[("SLURM_RESTART_COUNT", "3")]).1.len(), 2);
    let (code, calls) = job("generic", 75, &[("SLURM_RESTART_COUNT", "100")]);
    assert_eq!((code, calls.len()), (Some(75), 1), "a job that never ends is stopped");
}

#[test]
fn an_array_is_a_chain() {
    for site in SITES {
        let last = |status| {
            let (code, calls) = job(site, status, &[("SLURM_ARRAY_JOB_ID", "40")]);
            (code.unwrap(), calls[1..].join(";"))
        };
        assert_eq!(last(75), (0, String::new()), "the next element goes on");
        assert_eq!(last(1), (1, String::new()), "the next element goes on from the last checkpoint");
        for status in [0, 2] {
            assert_eq!(last(status), (status, "scancel --state=PENDING 40".into()));
        }
    }
}

/// `sbatch job.sbatch --nodes=2`: Slurm gives the option to the script.
#[test]
fn options_of_sbatch_after_the_script_are_refused() {
    for site in SITES {
        let dir = tempfile::tempdir().unwrap();
        let srun = dir.path().join("srun");
        let program = env!("CARGO_BIN_EXE_llm-train");
        std::fs::write(
            &srun,
            format!("#!/bin/sh\nwhile [ \"$1\" != llm-train ]; do shift; done\nshift\nexec {program} \"$@\"\n"),
        )
        .unwrap();
        std::fs::set_permissions(&srun, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("bash");
        command.arg(file(site, "job.sbatch")).arg("--nodes=2").env("SLURM_SUBMIT_DIR", dir.path()).env("SLURM_JOB_ID", "41");
        command.env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
        let out = command.env_remove("SLURM_PROCID").output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{site}: {said}");
        let words = ["llm-train: unknown argument --nodes", "options of sbatch stand before the script's name"];
        assert!(words.iter().all(|words| said.contains(words)), "{site}: {said}");
        let script = std::fs::read_to_string(file(site, "job.sbatch")).unwrap();
        assert!(script.replace("\n# ", " ").contains("Options of sbatch stand before it"), "{site}");
    }
}

/// Where the environment asks Cray MPICH for its GPU library, a program without it would end in MPI_Init.
#[test]
fn cray_mpich_carries_the_memory_of_hosts_alone() {
    for site in ["perlmutter", "alps"] {
        let dir = tempfile::tempdir().unwrap();
        let srun = dir.path().join("srun");
        std::fs::write(&srun, format!("#!/bin/sh\nenv > {}/environment\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&srun, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("bash");
        command.arg(file(site, "job.sbatch")).env("SLURM_SUBMIT_DIR", dir.path()).env("MPICH_GPU_SUPPORT_ENABLED", "1");
        command.env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
        assert!(command.output().unwrap().status.success(), "{site}");
        let environment = std::fs::read_to_string(dir.path().join("environment")).unwrap();
        assert!(environment.lines().any(|line| line == "MPICH_GPU_SUPPORT_ENABLED=0"), "{site}: {environment}");
    }
}

/// What every script says, and that none hides the neighbours' GPUs.
#[test]
fn settings_that_a_job_cannot_do_without() {
    for site in SITES {
        let script = std::fs::read_to_string(file(site, "job.sbatch")).unwrap();
        let has = |line: &str| script.lines().any(|l| l == line);
        for line in ["#SBATCH --signal=USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"] {
            assert!(has(line), "{site}: {line}");
        }
        assert!(has("export SRUN_CPUS_PER_TASK=\"${SLURM_CPUS_PER_TASK:-1}\""), "{site}");
        let (.., calls) = job(site, 0, &[]);
        let hides =
            |text: &str| text.contains("--gpus-per-task") || text.contains("--gpu-bind") && !text.contains("--gpu-bind=none");
        assert!(!hides(&calls[0]) && !script.lines().any(|l| l.starts_with("#SBATCH") && hides(l)), "{site}");
        // Every setting has a line that says why: a comment stands above it, or above its neighbour.
        let lines: Vec<&str> = script.lines().collect();
        let comments = lines.iter().filter(|l| l.starts_with("# ")).count();
        let settings = lines.iter().filter(|l| l.starts_with("#SBATCH")).count();
        assert!(comments > settings, "{site}: {comments} comments, {settings} settings");
        let gpus = script.contains("gres=gpu") || script.contains("gpus-per-node");
        assert_eq!(gpus, script.contains("No speed of"), "{site}: that nothing was measured on GPUs is said");
    }
}

#[test]
fn plan_accepts_every_configuration() {
    for site in SITES {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-train"));
        let out = command.args(["plan", "--ranks", "8", "--ranks-per-node", "4", "--config"]).arg(file(site, "run.toml"));
        let out = out.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("planned"), "{site}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// The short first job of docs/jobs.md is one; its second option is needed.
#[test]
fn a_short_first_job_is_accepted() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/jobs.md")).unwrap();
    let options = page.split("`job.sbatch --steps").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    let options: Vec<&str> = ["--steps"].into_iter().chain(options.split_whitespace()).collect();
    let plan = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-train"));
        let out = command.args(["plan", "--ranks", "2", "--config"]).arg(file("generic", "run.toml")).args(options).output();
        let out = out.unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = plan(&options);
    assert_eq!(code, Some(0), "{options:?}: {said}");
    let (code, said) = plan(&options[..2]);
    assert!(code == Some(2) && said.contains("warmup"), "{said}");
}

/// Python looks for modules beside the script first: one of the name of its library's would be taken in its place.
#[test]
fn no_module_hides_one_of_python() {
    let check =
        "import importlib.util as i, pathlib; print(*[f for f in pathlib.Path('jobs').glob('**/*.py') if i.find_spec(f.stem)])";
    // -I -S: of its library, and of nothing else.
    let mut python = Command::new("python3");
    match python.args(["-I", "-S", "-c", check]).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(out) => assert!(out.status.success() && out.stdout == b"\n", "{out:?}"),
        Err(_) => skip("python3"),
    }
}

fn skip(what: &str) {
    assert!(std::env::var_os("LLM_TRAIN_NO_SKIPS").is_none(), "{what} is missing, and LLM_TRAIN_NO_SKIPS is set");
    eprintln!("SKIPPED: {what} is missing here");
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let sites = SITES.map(|site| file(site, "job.sbatch"));
    let study = ["study.sh", "study.sbatch"].map(|name| file("scaling", name));
    match Command::new("shellcheck").args(sites.iter().chain(&study)).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(_) => skip("shellcheck"),
    }
}
