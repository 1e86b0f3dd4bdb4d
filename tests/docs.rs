//! The commands in README.md, data/README.md and docs/*.md, run.
//!
//! ```text
//! sh              run: the blocks of a page in order, by one `bash -e`, in one folder that holds copies of data/, jobs/ and
//!                 scripts/; llm-train and mpirun are on PATH
//! python run      run by python3 at its place among them, with h5py and matplotlib; left out, and said so, where pip cannot have them
//! any other word  shown only: it needs Slurm, a network, another machine, or minutes (`shell`: run by tests/install)
//! ```
//! Shown or run, whatever starts `llm-train` (by itself or by srun, mpirun, …) in a block, or in a script under jobs/, must be a
//! command line that the program knows. New pages are found by themselves.
use clap::error::ErrorKind;
use llm_train::commands::cli;
use llm_train::config::KEYS;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds that the blocks of one page may take on a busy machine.
const LONGEST: u32 = 300;

/// A fenced block of a page.
struct Block {
    /// Where its text begins, from 1.
    line: usize,
    info: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut all = vec![root().join("README.md"), root().join("data/README.md")];
    all.extend(files(&root().join("docs"), "md"));
    all
}

/// Files under `folder` whose names end in `.kind`.
fn files(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_path_buf()], vec![]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == kind) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut all, mut open) = (vec![], None::<(String, Block)>);
    for (line, text) in page.lines().enumerate() {
        let bare = text.trim_start();
        match &mut open {
            None if bare.starts_with("```") => {
                let ticks: String = bare.chars().take_while(|c| *c == '`').collect();
                let info = bare[ticks.len()..].trim().to_string();
                open = Some((ticks, Block { line: line + 2, info, text: String::new() }));
            }
            Some((ticks, _)) if bare.trim_end() == *ticks => all.extend(open.take().map(|(_, block)| block)),
            Some((_, block)) => block.text += &format!("{text}\n"),
            None => (),
        }
    }
    assert!(open.is_none(), "a block that does not end, from line {}", open.map_or(0, |(_, b)| b.line));
    all
}

/// Where h5py and matplotlib are; `None` where pip cannot have them, which CI does not accept.
fn python_packages() -> Option<String> {
    let found = Command::new(root().join("scripts/python-packages.sh")).output().unwrap();
    if found.status.success() {
        return Some(String::from_utf8(found.stdout).unwrap().trim().to_string());
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(std::env::var_os("CI").is_none(), "CI needs h5py and matplotlib: {why}");
    println!("skipped: no h5py and matplotlib here: {}", why.lines().last().unwrap_or_default());
    None
}

/// Runs the blocks of a page that are to be run. Errors: the block that failed, and what was said.
fn run(name: &str, page: &str) -> Result<usize, String> {
    let blocks = blocks(page);
    let run: Vec<&Block> = blocks.iter().filter(|b| ["sh", "python run"].contains(&b.info.as_str())).collect();
    if run.is_empty() {
        return Ok(0);
    }
    let folder = tempfile::tempdir().unwrap();
    for shipped in ["data", "jobs", "scripts"] {
        assert!(Command::new("cp").arg("-R").arg(root().join(shipped)).arg(folder.path()).status().unwrap().success());
    }
    let packages = if run.iter().any(|b| b.info != "sh") { python_packages() } else { None };
    let mut script = String::from("set -eo pipefail\n");
    for block in &run {
        let _ = writeln!(script, "echo '@@ {name}, line {}' | tee /dev/stderr", block.line);
        match (block.info.as_str(), &packages) {
            ("sh", _) => script += &block.text,
            (_, Some(_)) => {
                let _ = writeln!(script, "python3 - <<'END OF PYTHON'\n{}END OF PYTHON", block.text);
            }
            (_, None) => script += "echo skipped\n",
        }
    }
    let script_file = folder.path().join(".blocks.sh");
    fs::write(&script_file, script).unwrap();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &LONGEST.to_string(), "bash"]).arg(&script_file).current_dir(folder.path());
    for (name, _) in std::env::vars() {
        if ["SLURM", "OMPI_", "PMI", "RUST_"].iter().any(|of_others| name.starts_with(of_others)) {
            command.env_remove(name);
        }
    }
    let program = Path::new(env!("CARGO_BIN_EXE_llm-train")).parent().unwrap().display().to_string();
    command.env("PATH", format!("{program}:{}", std::env::var("PATH").unwrap()));
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
    packages.map(|packages| command.env("PYTHONPATH", packages));
    let ended = command.stdin(Stdio::null()).output().unwrap();
    if ended.status.success() {
        return Ok(run.len());
    }
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let at = out.lines().rev().find_map(|l| l.strip_prefix("@@ ")).unwrap_or(name).to_string();
    let tail = |text: &str| text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    Err(format!("{at}: {}\n{}\n{}", ended.status, tail(&out), tail(&err)))
}

/// The commands of a shell text, split into words; `#` comments and what is quoted are respected, redirections left out.
fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word, mut quote) = (vec![], vec![], None::<String>, None);
    let joined = text.replace("\\\n", " ");
    let mut signs = joined.chars().peekable();
    while let Some(c) = signs.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            // An apostrophe in a comment opens nothing.
            (None, '#') if word.is_none() => while signs.next_if(|c| *c != '\n').is_some() {},
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '\n' | ';' | '|' | '&' | '(' | ')') => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    all.push(words);
    all.retain(|command| !command.is_empty());
    all
}

/// What is wrong with the command lines of `llm-train` in a shell text, and how many there are.
fn misspelt(text: &str) -> (usize, Vec<String>) {
    let starts = |word: &str| word == "llm-train" || word.ends_with("/llm-train");
    let launchers = ["srun", "mpirun", "mpiexec", "exec", "time", "nohup", "timeout", "env", "!", "if", "$"];
    let (mut count, mut wrong) = (0, vec![]);
    for command in commands(text) {
        let first = command.iter().position(|w| !w.split('=').next().is_some_and(|n| w.contains('=') && !n.starts_with('-')));
        let Some(first) = first.map(|at| command[at].as_str()) else { continue };
        let Some(at) = command.iter().position(|w| starts(w)).filter(|_| starts(first) || launchers.contains(&first)) else {
            continue;
        };
        count += 1;
        let sketch = command.iter().any(|w| w.contains(['…', '$', '[', '<']));
        let redirected = command.iter().position(|w| w.contains(['>', '<'])).unwrap_or(command.len());
        // A sketch's dots, and variables that stand for whole options, say nothing.
        let mut words = vec!["llm-train"];
        for word in &command[at + 1..redirected.max(at + 1)] {
            let options = word.starts_with('$') && !words.last().is_some_and(|before| before.starts_with("--"));
            if !word.contains('…') && !word.starts_with('[') && !options {
                words.push(word);
            }
        }
        let mut refuse = |why: String| wrong.push(format!("{}: {why}", words.join(" ")));
        for pair in words.windows(2).filter(|pair| pair[0] == "--set") {
            let key = pair[1].split('=').next().unwrap_or_default();
            if !KEYS.iter().any(|k| k.path() == key) {
                refuse(format!("unknown key {key}"));
            }
        }
        match cli::command().try_get_matches_from(&words) {
            Ok(_) => (),
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => (),
            Err(e) if sketch && !matches!(e.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) => (),
            Err(e) => refuse(e.to_string().lines().next().unwrap_or_default().to_string()),
        }
    }
    (count, wrong)
}

#[test]
fn every_command_of_the_docs_runs() {
    let (mut count, mut failed) = (0, vec![]);
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        let began = std::time::Instant::now();
        match run(&name, &fs::read_to_string(&page).unwrap()) {
            Ok(0) => (),
            Ok(n) => {
                count += n;
                println!("{name}: {n} blocks in {:.1} s", began.elapsed().as_secs_f64());
            }
            Err(why) => failed.push(why),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(count >= 6, "only {count} blocks were run");
}

#[test]
fn every_command_line_is_one_that_the_program_knows() {
    let (mut count, mut failed) = (0, vec![]);
    let mut look = |file: &Path, text: &str| {
        let (n, wrong) = misspelt(text);
        count += n;
        failed.extend(wrong.into_iter().map(|why| format!("{}: {why}", file.strip_prefix(root()).unwrap().display())));
    };
    for page in pages() {
        let shell = ["", "sh", "bash", "shell", "console", "slurm", "study", "text"];
        let all = blocks(&fs::read_to_string(&page).unwrap());
        all.iter().filter(|b| shell.contains(&b.info.split(' ').next().unwrap_or_default())).for_each(|b| look(&page, &b.text));
    }
    for script in files(&root().join("jobs"), "sbatch") {
        look(&script, &fs::read_to_string(&script).unwrap());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(count >= 20, "only {count} commands were found");
}

#[test]
fn every_key_of_the_example_jobs_is_known() {
    for file in files(&root().join("jobs"), "toml") {
        let table: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for (section, keys) in &table {
            for name in keys.as_table().unwrap_or_else(|| panic!("{}: {section}", file.display())).keys() {
                let known = KEYS.iter().any(|k| k.section == section && k.name == name);
                assert!(known, "{}: unknown key {section}.{name}", file.display());
            }
        }
    }
}

/// Headings of docs/troubleshooting.md above the part about others quote what the program says, with `…` for what varies.
#[test]
fn the_messages_explained_are_ones_that_the_program_has() {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sources = files(&root().join("src"), "rs").into_iter().map(|f| fs::read_to_string(f).unwrap()).collect::<String>();
    let sources = squeeze(&sources.replace("\\\n", " ").replace("\\\"", "\""));
    let missing = |page: &str| -> (usize, Vec<String>) {
        let ours = page.split("\n## What others say").next().unwrap();
        let quoted: Vec<&str> = ours.lines().filter_map(|l| l.strip_prefix("### `")?.strip_suffix('`')).collect();
        let parts = quoted.iter().flat_map(|q| q.split('…')).map(squeeze).filter(|part| part.len() > 3);
        (quoted.len(), parts.filter(|part| !sources.contains(part.as_str())).collect())
    };
    let (count, stale) = missing(&fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap());
    assert_eq!(stale, Vec::<String>::new(), "no such words in src/");
    assert!(count >= 20, "only {count} messages");
    assert_eq!(missing("### `the launcher started … tasks, says nobody`").1, ["tasks, says nobody"], "the check can fail");
}

#[test]
fn the_plotting_script_draws_a_run() {
    let Some(packages) = python_packages() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let trained = Command::new(env!("CARGO_BIN_EXE_llm-train"))
        .args(
            "--model jobs/quickstart/model.json --synthetic-data --seq-len 16 --micro-batch 1 --steps 6 --threads 1 --quiet"
                .split(' '),
        )
        .args(["--device", "cpu", "--out"])
        .arg(&out)
        .current_dir(root())
        .status();
    assert!(trained.unwrap().success());
    let script = root().join("scripts/plot_metrics.py");
    let picture = folder.path().join("curves.png");
    let mut draw = Command::new("python3");
    // The same run by its folder and by its file: two names.
    let file = out.join("metrics.h5");
    draw.arg(&script).args([&out, &file]).arg("--output").arg(&picture).env("PYTHONPATH", packages);
    let drawn = draw.output().unwrap();
    let said = String::from_utf8_lossy(&drawn.stdout);
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let last = llm_train::metrics::History::read(&out.join("metrics.h5")).unwrap().steps[5].loss;
    for name in ["run", &file.display().to_string()] {
        assert!(said.contains(&format!("6 steps of {name}, last loss {last:.4}")), "{name}: {said}");
    }
    let bytes = fs::read(picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{} bytes", bytes.len());
}

/// Without what pip brings, or without a run: a sentence and exit code 2. The help needs neither.
#[test]
fn the_plotting_script_says_what_is_missing() {
    let call = |arguments: &[&str]| {
        let mut python = Command::new("python3");
        // -I -S: nothing that was installed beside Python.
        python.args(["-I", "-S"]).arg(root().join("scripts/plot_metrics.py")).args(arguments);
        let out = python.output().unwrap();
        let (said, help) = (String::from_utf8_lossy(&out.stderr).into_owned(), String::from_utf8_lossy(&out.stdout).into_owned());
        (out.status.code(), said, help)
    };
    let (code, said, _) = call(&["runs/first"]);
    assert!(code == Some(2) && said.lines().count() == 1 && said.contains("pip install h5py matplotlib"), "{said}");
    let (code, _, help) = call(&["--help"]);
    assert!(code == Some(0) && help.contains("$LLM_TRAIN_ROOT/share/llm-train") && !help.contains("scripts/plot"), "{help}");
    let Some(packages) = python_packages() else { return };
    let mut draw = Command::new("python3");
    draw.arg(root().join("scripts/plot_metrics.py")).arg("nowhere").env("PYTHONPATH", packages);
    let out = draw.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(2) && said.contains("nowhere: expected") && !said.contains("Traceback"), "{said}");
}

#[test]
fn these_tests_can_fail() {
    let page = "```sh\ntrue\n```\n\n```sh\nllm-train report --lives nowhere\n```\n\n```text\nfalse\n```\n";
    let why = run("planted.md", page).unwrap_err();
    assert!(why.starts_with("planted.md, line 6") && why.contains("--lives"), "{why}");
    assert_eq!(
        run("planted.md", "```sh\nX=1\n```\n```text\nfalse\n```\n```sh\ntest $X = 1\ncommand -v mpirun llm-train\n```\n")
            .unwrap(),
        2
    );

    let wrong = |text: &str| misspelt(text).1.len();
    assert_eq!(wrong("srun --kill-on-bad-exit=1 llm-train --config run.toml --lrr 1 \"$@\""), 1);
    assert_eq!(wrong("srun llm-train --steps 5 \\\n    --zero 1 --save-evry 3 # as often as it's wise\n"), 1);
    assert_eq!(wrong("A=1 mpirun -n 2 target/release/llm-train tokenise --input x"), 1);
    assert_eq!(wrong("cd x && llm-train report --nothing OUT"), 1);
    assert_eq!(wrong("llm-train --set optim.lrr=3 --model nano"), 1);
    assert_eq!(wrong("llm-train $run --steps 5 --zero 1 --quiett"), 1);
    assert_eq!(wrong("llm-train $run --out $SCRATCH/x --quiet"), 0);
    assert_eq!(wrong("llm-train --steps many"), 0, "values of keys are read later");
    assert_eq!(misspelt("srun llm-train … --zero 1\nmodule load llm-train\nllm-train report OUT > page.txt 2>&1 | head").0, 2);
    assert_eq!(wrong("srun llm-train … --zero 1\nllm-train plan --ranks $N\nllm-train report OUT > page.txt"), 0);
}
