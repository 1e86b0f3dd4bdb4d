//! The files that an installation adds to the program, made from the command line itself: man pages, completions of shells.
//!
//! ```text
//! TO/share/man/man1/llm-train.1, llm-train-plan.1, …       TO/share/bash-completion/completions/llm-train
//! TO/share/zsh/site-functions/_llm-train                   TO/share/fish/vendor_completions.d/llm-train.fish
//! ```
//! `scripts/install.sh` calls it as `llm-train install-pages --to PREFIX`; nobody else needs it, so the help does not list it.
use crate::commands::{cli, say};
use crate::device::cuda;
use crate::error::{Error, Result};
use clap::{Args, Command};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::path::{Path, PathBuf};

/// Write man pages and completions of shells, made from the command line itself.
#[derive(Args, Clone, Debug)]
pub struct PagesArgs {
    /// The prefix under whose share/ they go
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Compile the GPU kernels for A100, H100 and B200, for a program that holds them.
#[derive(Args, Clone, Debug)]
pub struct CubinsArgs {
    /// The folder that the files go to
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

const ENVIRONMENT: [(&str, &str); 7] = [
    (
        "LLM_TRAIN_ISA",
        "The kernel for matrix products on processors: portable, avx2, avx512, avx512_bf16 or amx. Else the fastest is measured once.",
    ),
    ("RUST_LOG", "llm_train=debug says more, of every rank."),
    ("XDG_CACHE_HOME", "Measured and compiled kernels are kept in its folder llm-train (without it: ~/.cache/llm-train)."),
    ("HDF5_USE_FILE_LOCKING", "FALSE on file systems without locks, and where others follow metrics.h5."),
    (
        "CUDA_VISIBLE_DEVICES",
        "The GPUs that a rank sees; it takes the one of its number among the ranks of its node, or the only one.",
    ),
    ("LD_LIBRARY_PATH", "Where CUDA's libraries, of version 12 or 13, and NCCL are found. --version shows which were."),
    ("SLURM_*", "Number and names of tasks, cores of a task, the end of the job: read where a job of Slurm sets them."),
];

const FILES: [(&str, &str); 5] = [
    ("OUT/metrics.h5", "Every step and evaluation, by HDF5; can be followed while the run writes (SWMR)."),
    ("OUT/checkpoints/step-NNNNNNNN", "Complete or absent; transformers opens it as it is. latest points to the newest."),
    ("OUT/report.svg", "Loss, learning rate, gradient norm, throughput and time split as curves."),
    ("OUT/report.html", "The same curves, figures, hosts, checkpoints, events and configuration on one page, for a mail."),
    ("~/.cache/llm-train", "What was measured and compiled, kept between runs; can be removed at any time."),
];

const SIGNALS: [(&str, &str); 2] = [
    ("SIGUSR1, SIGTERM, SIGINT", "The ranks finish their step, save, and leave with 75."),
    ("a second SIGINT", "The end at once."),
];

/// Writes all of them and says where.
///
/// Errors: `Failed`, naming the file that cannot be written.
pub fn run(args: &PagesArgs) -> Result<()> {
    let share = args.to.join("share");
    for command in commands() {
        let name = command.get_display_name().unwrap_or("llm-train").to_string();
        write(&share.join("man/man1").join(format!("{name}.1")), page(&command)?.as_bytes())?;
    }
    for (shell, folder) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let name = match shell {
            Shell::Bash => "llm-train".to_string(), // bash-completion looks for the command's bare name
            _ => shell.file_name("llm-train"),
        };
        let mut text = vec![];
        clap_complete::generate(shell, &mut cli::spoken_of(), "llm-train", &mut text);
        if shell == Shell::Bash {
            // clap_complete 4.6 names the commands of a program with a dash in its name in two ways.
            text = String::from_utf8_lossy(&text).replace("llm__subcmd__train", "llm__train").into_bytes();
        }
        write(&share.join(folder).join(name), &text)?;
    }
    Ok(())
}

/// Compiles the kernels that `build.rs` embeds.
///
/// Errors: `Failed`: NVRTC is missing, or a file cannot be written.
pub fn cubins(args: &CubinsArgs) -> Result<()> {
    std::fs::create_dir_all(&args.to).map_err(|e| Error::Failed(format!("{}: cannot be made: {e}", args.to.display())))?;
    cuda::compile_embeddable(&args.to)?.iter().for_each(|name| say(args.to.join(name).display()));
    Ok(())
}

fn write(file: &Path, content: &[u8]) -> Result<()> {
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(file, content));
    made.map_err(|e| Error::Failed(format!("{}: cannot be written: {e}", file.display())))?;
    say(file.display());
    Ok(())
}

/// The program and all that it can be asked for, each with its full name.
fn commands() -> Vec<Command> {
    let mut whole = cli::spoken_of();
    whole.build();
    let (mut all, mut next) = (vec![], vec![whole]);
    while let Some(command) = next.pop() {
        let asked = |c: &&Command| !c.is_hide_set() && c.get_name() != "help";
        next.extend(command.get_subcommands().filter(asked).cloned());
        all.push(command);
    }
    all
}

/// A man page: what clap knows, then what it does not.
fn page(command: &Command) -> Result<String> {
    let main = command.get_name() == "llm-train";
    let man = Man::new(command.clone()).manual("llm-train").source(format!("llm-train {}", env!("CARGO_PKG_VERSION")));
    let mut text = vec![];
    let rendered = man.render_title(&mut text).and_then(|()| man.render_name_section(&mut text));
    let rendered = rendered.and_then(|()| synopsis(command).to_writer(&mut text));
    let rendered = rendered.and_then(|()| man.render_description_section(&mut text));
    let rendered = rendered.and_then(|()| about(command).to_writer(&mut text));
    let rendered = rendered.and_then(|()| man.render_options_section(&mut text));
    let rendered = rendered.and_then(|()| ending(command, main).to_writer(&mut text));
    rendered.map_err(|e| Error::Failed(format!("the man page cannot be made: {e}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// How it is called. clap's own would list a hundred options by name.
fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let launcher = ["llm-train", "tokenize", "step"].contains(&command.get_name());
    let mut line = vec![];
    if launcher {
        line.push(roman("[mpirun -n N | srun] "));
    }
    line.extend([
        bold(name),
        roman(if command.has_subcommands() && command.get_name() != "llm-train" { " COMMAND" } else { " [OPTIONS]" }),
    ]);
    roff.text(line);
    if command.get_name() == "llm-train" {
        roff.control("br", []);
        roff.text([bold(name), roman(" COMMAND [OPTIONS]")]);
    }
    roff
}

/// More of what it does, and its commands.
fn about(command: &Command) -> Roff {
    let mut roff = Roff::new();
    if command.get_name() == "llm-train" {
        roff.control("PP", []);
        roff.text([roman(
            "One process is started for each device; MPI brings them together. Without a command it trains. Every option is also a \
             key of the TOML file that --config names; the whole configuration is printed at the start and can be fed back. \
             Settings rise in strength: defaults, the model's preset, --config, --set, options. Counts may be written 10_000, 1e9, \
             300M or 10B.",
        )]);
    }
    let listed: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").collect();
    if !listed.is_empty() {
        roff.control("SH", ["COMMANDS"]);
        for listed in listed {
            let page = listed.get_display_name().unwrap_or(listed.get_name()).to_string();
            let about = listed.get_about().map(ToString::to_string).unwrap_or_default();
            tagged(&mut roff, vec![bold(page), roman("(1)")], &about);
        }
    }
    roff
}

/// What stands after the options.
fn ending(command: &Command, main: bool) -> Roff {
    let mut roff = Roff::new();
    section(&mut roff, "EXIT STATUS", cli::EXITS.iter().map(|(code, text)| (code.to_string(), *text)));
    if main {
        let pairs = |pairs: &'static [(&'static str, &'static str)]| pairs.iter().map(|(a, b)| (a.to_string(), *b));
        section(&mut roff, "SIGNALS", pairs(&SIGNALS));
        roff.text([roman("Under mpirun send SIGUSR1 to mpirun: after Ctrl-C it leaves its ranks only a second.")]);
        section(&mut roff, "ENVIRONMENT", pairs(&ENVIRONMENT));
        section(&mut roff, "FILES", pairs(&FILES));
        roff.control("SH", ["MODELS"]);
        roff.text([roman(format!("Presets for --model: {}", crate::config::preset_names()))]);
        roff.control("SH", ["EXAMPLES"]);
        for example in cli::EXAMPLES.lines().skip(1) {
            roff.control("PP", []);
            roff.text([bold(example.trim())]);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut others: Vec<String> = commands().iter().filter_map(|c| c.get_display_name().map(String::from)).collect();
    let own = command.get_display_name().unwrap_or("llm-train");
    others.retain(|name| name != own);
    others.sort();
    let mut line: Vec<Inline> = vec![];
    for name in others {
        line.extend([bold(name), roman("(1), ")]);
    }
    line.extend([bold("mpirun"), roman("(1), "), bold("srun"), roman("(1)")]);
    roff.text(line);
    roff
}

fn section<'a>(roff: &mut Roff, title: &str, rows: impl Iterator<Item = (String, &'a str)>) {
    roff.control("SH", [title]);
    rows.for_each(|(name, text)| tagged(roff, vec![bold(name)], text));
    roff.control("PP", []);
}

fn tagged(roff: &mut Roff, name: Vec<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text(name);
    roff.text([roman(text)]);
}
