//! The `slurm` blocks of README.md and docs/, typed as they stand: after `module load` of an installation by a real Lmod, on the private
//! cluster. Different are only what a site would fill in (`--account=… --partition=…`, `JOBID`), the size of the model, and what is
//! waited for between two lines.
use crate::cluster::{self, Cluster, ROOT};
use crate::scene::{Left, names};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// The `slurm` blocks of a page, in order.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
    let parts = text.split("\n```slurm\n").skip(1);
    parts.map(|rest| rest.split("\n```").next().unwrap().replace("\\\n", " ")).collect()
}

/// Where an engineer sits who has followed docs/install.md: a shell in a folder of her own, an installation with its modulefile.
struct Desk<'a> {
    cluster: &'a Cluster,
    folder: TempDir,
    /// What she fills in for a partition: two nodes, or `more`, which has eight.
    partition: &'static str,
    shell: Child,
    screen: BufReader<ChildStdout>,
}

impl<'a> Desk<'a> {
    fn new(cluster: &'a Cluster) -> Option<Desk<'a>> {
        const LMOD: &str = "/usr/share/lmod/lmod/init/bash";
        if !Path::new(LMOD).exists() {
            cluster::skip("Lmod (apt-get install lmod)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut install = Command::new(Path::new(ROOT).join("scripts/install.sh"));
        install.args(["--program", crate::program::PROGRAM, "--prefix"]).arg(folder.path().join("apps"));
        let install = install.output().unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        std::fs::create_dir(folder.path().join("home")).unwrap();

        let mut shell = cluster.command("bash");
        // Not the program under test itself: the module is to bring it.
        shell.env("PATH", std::env::var("PATH").unwrap() + ":/usr/sbin");
        for name in ["MODULEPATH", "LOADEDMODULES", "_LMFILES_", "__LMOD_REF_COUNT_MODULEPATH"] {
            shell.env_remove(name);
        }
        shell.env_remove("OMPI_ALLOW_RUN_AS_ROOT").env_remove("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
        shell.env("OMPI_MCA_rmaps_base_oversubscribe", "1").current_dir(folder.path().join("home"));
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let screen = BufReader::new(shell.stdout.take().unwrap());
        let mut desk = Desk { cluster, folder, partition: "debug", shell, screen };
        desk.types(&format!("source {LMOD}; module use ../apps/modulefiles"));
        Some(desk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// One more line, which must end well: what it says.
    fn types(&mut self, line: &str) -> String {
        let line = line.replace("--account=… --partition=…", &format!("--account=ours --partition={}", self.partition));
        assert!(!line.contains('…'), "{line}");
        let typed = format!("{{ {line}\n}} </dev/null 2>&1; echo \"@@ $?\"\n");
        self.shell.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
        let mut said = String::new();
        loop {
            let mut row = String::new();
            assert!(self.screen.read_line(&mut row).unwrap() > 0, "{line}: the shell has gone\n{said}");
            match row.strip_prefix("@@ ") {
                Some("0\n") => return said,
                Some(code) => panic!("{line}: {code}{said}"),
                None => said += &row,
            }
        }
    }

    /// The number that sbatch gave. What this Slurm can never start would wait for ever: it is asked for that first.
    fn submits(&mut self, line: &str) -> String {
        self.types(&line.replacen("sbatch ", "sbatch --test-only ", 1));
        let said = self.types(line);
        let number = said.trim().strip_prefix("Submitted batch job ");
        number.unwrap_or_else(|| panic!("{line}: {said}")).to_owned()
    }

    fn output(&self, folder: &str, job: &str) -> String {
        std::fs::read_to_string(self.path(folder).join(format!("llm-train-{job}.out"))).unwrap_or_default()
    }

    fn has_step(&self, folder: &str, job: &str, step: u64) {
        let at = |line: &str| line.strip_prefix("step ")?.split('/').next()?.parse::<u64>().ok();
        let there = || self.output(folder, job).lines().filter_map(at).any(|s| s >= step);
        self.cluster.until(&format!("step {step} of job {job}"), &there);
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A model that one core trains beside other work, in steps that last.
fn small(file: &Path, steps: u64) {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in [
        ("vocab = 2048 ", "vocab = 2048\nlayers = 1\nwidth = 32\nheads = 2 "),
        ("micro_batch = 8 ", "micro_batch = 1\nseq_len = 32 "),
        ("global_batch = 64 ", "global_batch = 8 "),
        ("every = 200\nbatches", "every = 100000\nbatches"),
        ("every = 200 ", "every = 100000 "),
        ("steps = 2000\n", &format!("steps = {steps}\n")),
        ("[log]\n", "[log]\nevery = 50\n"),
    ] {
        assert!(text.contains(from), "{from:?} is not in {}", file.display());
        text = text.replace(from, to);
    }
    std::fs::write(file, text).unwrap();
}

const LONG: u64 = 100_000_000;

#[test]
fn the_readme_from_the_module_to_the_report() {
    let Some(cluster) = cluster::get() else { return };
    let Some(mut desk) = Desk::new(cluster) else { return };
    let block = blocks("README.md").remove(0);
    let (mut job, mut said) = (String::new(), String::new());
    for line in block.lines() {
        match line.split_whitespace().next().unwrap() {
            "cp" => {
                said += &desk.types(line);
                small(&desk.path("jobs/generic/run.toml"), LONG);
            }
            "sbatch" => {
                job = desk.submits(line);
                desk.has_step("jobs/generic", &job, 100);
            }
            // It follows the run to its end, which is not to come here.
            _ if line.contains("--live") => {
                let command = line.split('#').next().unwrap();
                said += &desk.types(&format!("timeout 20 {command} || [ $? -eq 124 ]"));
            }
            _ => said += &desk.types(&line.replace("JOBID", &job)),
        }
    }
    cluster.until_over(&job);
    let text = desk.output("jobs/generic", &job);
    assert!(text.contains("SIGTERM"), "{text}");
    let left = Left(desk.path("jobs/generic/runs/kjv"));
    assert_eq!(left.checkpoints().last(), left.steps().last(), "ended by scancel, it has saved: {text}");
    let history = left.history();
    assert_eq!(history.ranks.len(), 8, "{text}");
    assert!(left.0.join("report.html").is_file() && said.contains("tokens/sec/gpu:"), "{said}");
}

#[test]
fn the_page_of_jobs() {
    let Some(cluster) = cluster::get() else { return };
    let Some(mut desk) = Desk::new(cluster) else { return };
    let [first, longer] = blocks("docs/jobs.md").try_into().unwrap();
    desk.types("module load llm-train; cp -r $LLM_TRAIN_ROOT/share/llm-train/{jobs,data} .");
    let mut job = String::new();
    for line in first.lines() {
        if line.starts_with("sbatch") {
            small(&desk.path("my-run/run.toml"), LONG);
            job = desk.submits(line);
        } else {
            desk.types(line);
        }
    }
    desk.has_step("my-run", &job, 50);

    let lines: Vec<String> = longer.lines().map(|line| line.replace("JOBID", &job)).collect();
    let [chain, signal, cancel, array] = &lines[..] else { panic!("{longer}") };
    let next = desk.submits(chain);
    assert!(cluster.ask(&format!("squeue --noheader --jobs {next} --format=%r")).contains("Dependency"));
    desk.types(signal);
    cluster.until("requeued", &|| desk.output("my-run", &job).contains("requeued (restart 0)"));
    desk.types(cancel);
    // The next one takes over, at the step that was saved last.
    cluster.until("the next of the chain", &|| desk.output("my-run", &next).contains("going on after step"));
    desk.has_step("my-run", &next, Left(desk.path("my-run/runs/kjv")).checkpoints()[0] + 50);
    cluster.ask(&format!("scancel {next}"));
    cluster.until_over(&next);

    // What is done is not begun again by the twenty elements of an array.
    let at = Left(desk.path("my-run/runs/kjv")).steps().last().copied().unwrap();
    let config = desk.path("my-run/run.toml");
    std::fs::write(
        &config,
        std::fs::read_to_string(&config).unwrap().replace(&format!("steps = {LONG}"), &format!("steps = {}", at + 5)),
    )
    .unwrap();
    let chain = desk.submits(array);
    cluster.until_over(&chain);
    let left = Left(desk.path("my-run/runs/kjv"));
    assert_eq!(left.steps().last(), Some(&(at + 5)), "{:?}", names(&desk.path("my-run")));
    assert_eq!(names(&desk.path("my-run")).iter().filter(|n| n.ends_with(".out")).count(), 3, "one element was enough");
}

#[test]
fn the_page_of_suites() {
    let Some(cluster) = cluster::get() else { return };
    if crate::suites::reframe().is_none() {
        return;
    }
    let Some(mut desk) = Desk::new(cluster) else { return };
    let mut said = desk.types("module load llm-train");
    for block in blocks("docs/suites.md") {
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            said += &desk.types(line);
        }
    }
    assert!(said.contains("Ran 1/1 test case(s)") && said.contains("tokens_per_second"), "{said}");
    assert!(said.contains("ranks,precision,micro_batch,tokens_per_second[tokens/s]"), "{said}");
    // JUBE makes a table of runs that failed as well, with nothing in its rows.
    let row = said.lines().find(|line| line.starts_with("nano,64,2,fp32,2,")).unwrap_or_else(|| panic!("{said}"));
    assert!(row.split(',').nth(5).unwrap().parse::<f64>().is_ok_and(|rate| rate > 0.0), "{said}");
}

/// Eight nodes of four GPUs each that Slurm hands out, and that nobody can compute on: the ranks go on on the processors and say so.
#[test]
fn the_page_of_scaling() {
    let Some(cluster) = cluster::get() else { return };
    let Some(mut desk) = Desk::new(cluster) else { return };
    desk.partition = "more";
    // Rather than all doublings up to 32: Open MPI's TCP between eight nodes of one address was seen to die with 32 ranks.
    desk.types("export RANKS='1 8'");
    let [block, here] = blocks("docs/scaling.md").try_into().unwrap();
    let [copy, submit, table] = block.lines().collect::<Vec<_>>().try_into().unwrap();
    desk.types(&format!("module load llm-train; {copy}"));
    let config = desk.path("jobs/scaling/run.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let small = [("\"nano\"", "\"nano\"\nlayers = 1\nwidth = 32\nheads = 2"), ("256", "32"), ("= 20", "= 6")];
    let text = small.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{text}");
        text.replace(from, to)
    });
    std::fs::write(&config, text).unwrap();
    let job = desk.submits(submit);
    cluster.until_over(&job);
    let out = std::fs::read_to_string(desk.path(&format!("jobs/scaling/llm-train-scaling-{job}.out"))).unwrap();
    desk.types(&table.replace("JOBID", &job));
    let csv = std::fs::read_to_string(desk.path("jobs/scaling/t.csv")).unwrap();
    let at = csv.lines().next().unwrap().split(',').position(|column| column == "devices").unwrap();
    let devices: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(at).unwrap()).collect();
    assert_eq!(devices, ["1", "8"], "{csv}{out}");
    assert!(desk.path("jobs/scaling/t.svg").is_file());

    // The line for a Slurm of two nodes without GPUs.
    desk.types("unset RANKS");
    let job = desk.submits(&here);
    cluster.until_over(&job);
    let out = std::fs::read_to_string(desk.path(&format!("jobs/scaling/llm-train-scaling-{job}.out"))).unwrap();
    let csv = std::fs::read_to_string(desk.path(&format!("jobs/scaling/scaling-{job}/scaling.csv")));
    let csv = csv.unwrap_or_else(|e| panic!("{e}: {out}"));
    let devices: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(at).unwrap()).collect();
    assert_eq!(devices, ["1", "2", "4"], "{csv}{out}");
}

/// What docs/install.md and docs/data.md have each node do once, in the README's job of several tasks a node.
#[test]
fn one_task_a_node_is_one() {
    let Some(cluster) = cluster::get() else { return };
    let pages = ["docs/install.md", "docs/data.md"].map(|page| std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    for (number, page) in pages.iter().enumerate() {
        let line = page.lines().find(|line| line.starts_with("srun ") && line.contains("--ntasks-per-node=1 ")).unwrap();
        let options: Vec<&str> = line.split_whitespace().skip(1).take_while(|word| word.starts_with("--")).collect();
        let srun = format!("srun {} sh -c 'echo at $SLURMD_NODENAME'", options.join(" "));
        std::fs::write(dir.path().join("job.sbatch"), format!("#!/bin/bash\n{srun}\n")).unwrap();
        let output = format!("--output=out-{number}");
        let shape = ["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=20", output.as_str(), "job.sbatch"];
        let job = cluster.submit(dir.path(), &shape);
        cluster.until_over(&job);
        let said = std::fs::read_to_string(dir.path().join(format!("out-{number}"))).unwrap();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort();
        assert_eq!(lines, ["at n1", "at n2"], "{srun}");
    }
}

/// The block of docs/install.md that brings a bundle to the nodes' own disks, as a job's script. `/tmp` is a folder of this test, and the job
/// has one node: two would write over one another here, where both have one disk.
#[test]
fn a_bundle_is_brought_to_the_node_and_runs_there() {
    let Some(cluster) = cluster::get() else { return };
    let dir = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/install.md")).unwrap();
    let lines =
        page.split("\n```site\n").filter_map(|rest| rest.split("\n```").next()).find(|block| block.starts_with("sbcast "));
    let node = dir.path().join("disk of the node");
    std::fs::create_dir(&node).unwrap();
    let lines = lines.unwrap().replace("/tmp", "$DISK");
    assert_eq!((lines.lines().count(), lines.matches("$DISK").count()), (3, 4), "{lines}");
    let mut bundle = Command::new(Path::new(ROOT).join("scripts/bundle.sh"));
    let bundle = bundle.args(["--program", crate::program::PROGRAM]).arg(dir.path().join("bundle")).output().unwrap();
    assert!(bundle.status.success(), "{}", String::from_utf8_lossy(&bundle.stderr));
    let config = "model = { name = \"nano\", layers = 1, width = 32, heads = 2 }\ndata = { synthetic = true }\n\
                  batch = { seq_len = 32, micro_batch = 1 }\ntrain = { out = \"run\", steps = 5 }\nsystem = { threads = 1, device = \"cpu\" }\n";
    std::fs::write(dir.path().join("run.toml"), config).unwrap();
    let script = format!("#!/bin/bash\nset -e\nDISK='{}'\n{}\n", node.display(), lines.replace("$DISK", "\"$DISK\""));
    std::fs::write(dir.path().join("job.sbatch"), script).unwrap();
    let job = cluster.submit(dir.path(), &["--nodes=1", "--ntasks-per-node=2", "--output=out", "job.sbatch"]);
    cluster.until_over(&job);
    let said = std::fs::read_to_string(dir.path().join("out")).unwrap();
    assert!(said.contains("figures of merit of 2 ranks, steps 2 to 5"), "{said}");
    assert!(node.join("bundle/bin/llm-train").is_file(), "{said}");
}
