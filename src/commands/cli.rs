//! The command line: `llm-train [OPTIONS]` trains, `llm-train <COMMAND>` does a side job.
//!
//! ```text
//! arguments -> clap -> Asked::Train(Run) | Asked::Plan(…) | …      or a text to show, or one sentence and exit code 2
//! ```
use crate::commands::alone::{DEVICES, PRECISIONS};
use crate::commands::bench::{
    attention::AttentionArgs, checkpoint::CheckpointArgs, collectives::CollectivesArgs, data::DataArgs, step::StepArgs,
};
use crate::commands::pages::{CubinsArgs, PagesArgs};
use crate::commands::{report::ReportArgs, tokenize::TokenizeArgs, verify::VerifyArgs, version};
use crate::config::{self, Purpose, Run};
use crate::error::{Error, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command, FromArgMatches};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the user asked for.
#[derive(Debug)]
pub enum Asked {
    Train(Box<Run>),
    Tokenize(Box<TokenizeArgs>),
    Plan(Box<Run>, PlanArgs),
    Generate(GenerateArgs),
    Eval(EvalArgs),
    Report(ReportArgs),
    BenchStep(Box<Run>, StepArgs),
    BenchGemm(Box<Run>),
    BenchAttention(Box<Run>, AttentionArgs),
    BenchCollectives(CollectivesArgs),
    BenchData(Box<Run>, DataArgs),
    BenchCheckpoint(Box<Run>, CheckpointArgs),
    Verify(VerifyArgs),
    /// Of an installation.
    Pages(PagesArgs),
    Cubins(CubinsArgs),
    /// The help or the version: to be printed, and that is all.
    Text(String),
}

/// Count memory per rank, FLOPs and sizes of a run, without MPI or data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Plan")]
pub struct PlanArgs {
    /// Ranks of the job, one per device
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ranks: u32,
    /// How many of them share a node, and with it memory [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ranks_per_node: Option<u32>,
    /// What a node's ranks may use together, in GiB [default, for --micro-batch max: 90 % of what this machine has free]
    #[arg(long, value_name = "GIB", value_parser = above_zero)]
    pub node_memory: Option<f64>,
    /// With --device cuda: what a GPU has, in GiB, of which a run may use 90 %
    #[arg(long, value_name = "GIB", value_parser = above_zero)]
    pub gpu_memory: Option<f64>,
}

/// Let a model go on from a text.
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    /// A checkpoint or any Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The text to go on from
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// The tokenizer, where the model's directory has none
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Stop after so many tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Sharpness of the choice; 0: always the likeliest token
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, value_parser = not_negative)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = share)]
    pub top_p: f32,
    /// Seed of the choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where the work is done; auto: on a GPU where one can be used
    #[arg(long, value_name = "auto|cpu|cuda", default_value = "auto", value_parser = DEVICES, hide_possible_values = true)]
    pub device: String,
    /// Operands of matrix products; bf16 reads half as much for a token, bf16-true keeps nothing else
    #[arg(long, value_name = "fp32|bf16|bf16-true", default_value = "fp32", value_parser = PRECISIONS, hide_possible_values = true)]
    pub precision: String,
    /// Threads [default: the physical cores this process may use]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<u16>,
    /// Write the text and tokens per second for machines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Measure loss, perplexity and bits per byte on corpora.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    /// A checkpoint or any Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Corpora to evaluate on, each by itself
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// Tells bytes per token, where the model's directory has none
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Length of a sequence in tokens [default: the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub seq_len: Option<u32>,
    /// Sequences per batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub micro_batch: u32,
    /// Batches, windows in order; 0: the whole corpus
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub eval_batches: u64,
    /// Where the work is done; auto: on a GPU where one can be used
    #[arg(long, value_name = "auto|cpu|cuda", default_value = "auto", value_parser = DEVICES, hide_possible_values = true)]
    pub device: String,
    /// Operands of matrix products; bf16-true: weights too
    #[arg(long, value_name = "fp32|bf16|bf16-true", default_value = "fp32", hide_possible_values = true, value_parser = PRECISIONS)]
    pub precision: String,
    /// Threads [default: the physical cores this process may use]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<u16>,
    /// Write loss, perplexity and bits per byte for machines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The name, version and git revision of this program.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (git ", env!("LLM_TRAIN_BUILT_FROM"), ")");

pub const EXAMPLES: &str = "\
Examples:
  mpirun -n 2 llm-train --model nano --data corpus --steps 500
  srun llm-train --config run.toml --lr 6e-4 --set checkpoint.keep=3
  llm-train plan --model llama3-8b --micro-batch 1 --zero 1 --ranks 64";

/// What the help shows first: purpose, usage, examples.
const ORDER: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";

/// How the program ends, and what that means.
pub const EXITS: [(u8, &str); 4] = [
    (0, "done"),
    (1, "failure; the last checkpoint is whole"),
    (2, "bad input, or memory, a GPU or a library that is missing; nothing was written"),
    (75, "stopped early (time limit or signal) with a complete checkpoint: run the same command again"),
];

const STRENGTH: &str = "\
Settings rise in strength: defaults, the model's preset, --config, --set, options.
Counts may be written 10_000, 1e9, 300M or 10B.";

const SIGNALS: &str = "\
SIGUSR1, SIGTERM and Ctrl-C make the ranks finish their step, save and stop.
Under mpirun send it SIGUSR1: after Ctrl-C it leaves them only a second.
RUST_LOG=llm_train=debug says more, of every rank.";

/// The whole command line.
pub fn command() -> Command {
    spoken_of().subcommands([
        PagesArgs::augment_args(Command::new("install-pages")).hide(true),
        CubinsArgs::augment_args(Command::new("compile-kernels")).hide(true),
    ])
}

/// All of it but what is only for installing.
pub fn spoken_of() -> Command {
    let exits: String = EXITS.iter().map(|(code, text)| format!("{code:>4}  {text}\n")).collect();
    let presets = format!("Presets for --model: {}\n\n{STRENGTH}\n\nExit codes:\n{exits}\n{SIGNALS}", config::preset_names());
    let about = "Pretrains and fine-tunes decoder-only language models, one process per device, under mpirun or srun";
    let options = |c: Command| config::add(c).after_help(presets.clone());
    let commands = [
        TokenizeArgs::augment_args(Command::new("tokenize")),
        options(PlanArgs::augment_args(Command::new("plan"))),
        GenerateArgs::augment_args(Command::new("generate")),
        EvalArgs::augment_args(Command::new("eval")),
        ReportArgs::augment_args(Command::new("report")),
        VerifyArgs::augment_args(Command::new("verify")),
        Command::new("bench")
            .about("Measure how fast this machine trains, and what stands in the way")
            .subcommand_required(true)
            .subcommands([
                options(StepArgs::augment_args(Command::new("step"))),
                options(Command::new("gemm").about("Time the matrix products of a model's layers")),
                options(AttentionArgs::augment_args(Command::new("attention"))),
                CollectivesArgs::augment_args(Command::new("collectives")),
                options(DataArgs::augment_args(Command::new("data"))),
                options(CheckpointArgs::augment_args(Command::new("checkpoint"))),
            ]),
    ];
    let whole =
        Command::new("llm-train").version(VERSION).about(about).before_help(EXAMPLES).help_template(ORDER).subcommands(commands);
    options(whole)
        .override_usage("[mpirun -n N | srun] llm-train [OPTIONS]\n       llm-train <COMMAND> ...")
        .args_conflicts_with_subcommands(true)
        .max_term_width(120)
}

/// Reads the command line, the file it names and the model's configuration.
///
/// Errors: [`Error::Input`] in one sentence.
pub fn parse<A: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> Result<Asked> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let long = arguments.iter().any(|a| a == "--version");
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(e) if long && e.kind() == ErrorKind::DisplayVersion => return Ok(Asked::Text(version::block())),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Asked::Text(e.render().to_string()));
        }
        Err(e) => return Err(Error::Input(sentence(&e))),
    };
    let typed = |e: clap::Error| Error::Input(sentence(&e));
    Ok(match matches.subcommand() {
        None => Asked::Train(Box::new(config::resolve(config::read(&matches)?, Purpose::Train)?)),
        Some(("tokenize", m)) => Asked::Tokenize(Box::new(TokenizeArgs::from_arg_matches(m).map_err(typed)?)),
        Some(("plan", m)) => {
            let run = config::resolve(config::read(m)?, Purpose::Plan)?;
            Asked::Plan(Box::new(run), PlanArgs::from_arg_matches(m).map_err(typed)?)
        }
        Some(("generate", m)) => Asked::Generate(GenerateArgs::from_arg_matches(m).map_err(typed)?),
        Some(("eval", m)) => Asked::Eval(EvalArgs::from_arg_matches(m).map_err(typed)?),
        Some(("report", m)) => Asked::Report(ReportArgs::from_arg_matches(m).map_err(typed)?),
        Some(("verify", m)) => Asked::Verify(VerifyArgs::from_arg_matches(m).map_err(typed)?),
        Some(("bench", m)) => {
            let (benchmark, m) = m.subcommand().expect("clap wants one");
            if benchmark == "collectives" {
                return Ok(Asked::BenchCollectives(CollectivesArgs::from_arg_matches(m).map_err(typed)?));
            }
            let run = Box::new(config::resolve(config::read(m)?, Purpose::Bench)?);
            match benchmark {
                "step" => Asked::BenchStep(run, StepArgs::from_arg_matches(m).map_err(typed)?),
                "attention" => Asked::BenchAttention(run, AttentionArgs::from_arg_matches(m).map_err(typed)?),
                "data" => Asked::BenchData(run, DataArgs::from_arg_matches(m).map_err(typed)?),
                "checkpoint" => Asked::BenchCheckpoint(run, CheckpointArgs::from_arg_matches(m).map_err(typed)?),
                _ => Asked::BenchGemm(run),
            }
        }
        Some(("install-pages", m)) => Asked::Pages(PagesArgs::from_arg_matches(m).map_err(typed)?),
        Some(("compile-kernels", m)) => Asked::Cubins(CubinsArgs::from_arg_matches(m).map_err(typed)?),
        Some((other, _)) => panic!("no arm for the command {other}"),
    })
}

/// Options of sbatch that are often given too late; none is one of ours.
const SBATCH: [&str; 10] = [
    "--account",
    "--cpus-per-task",
    "--gres",
    "--mem",
    "--nodes",
    "--ntasks",
    "--ntasks-per-node",
    "--partition",
    "--qos",
    "--time",
];

/// clap's complaint as one sentence.
fn sentence(e: &clap::Error) -> String {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(s)) => s.first().cloned(),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let hint =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue].into_iter().find_map(context);
    let hint = hint.map_or("; --help lists what there is".to_string(), |h| format!("; did you mean {h}?"));
    match e.kind() {
        // What follows a script's name Slurm hands to the script, and the scripts of jobs/ to the program.
        ErrorKind::UnknownArgument if SBATCH.contains(&argument.as_str()) => {
            format!("unknown argument {argument}: options of sbatch stand before the script's name")
        }
        ErrorKind::UnknownArgument => format!("unknown argument {argument}{hint}"),
        ErrorKind::MissingSubcommand => match e.get(ContextKind::ValidSubcommand) {
            Some(ContextValue::Strings(valid)) => format!("expected one of {}, found none", valid.join(", ")),
            _ => "expected a command, found none".into(),
        },
        ErrorKind::InvalidSubcommand => {
            format!("unknown command {}{hint}", context(ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{argument}: expected a value, found none"),
        ErrorKind::InvalidValue => match e.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => format!("{argument}: expected one of {}, found \"{value}\"", valid.join(", ")),
            _ => format!("{argument}: found \"{value}\", which is not accepted"),
        },
        ErrorKind::ValueValidation => match std::error::Error::source(e) {
            Some(why) => format!("{argument}: found \"{value}\": {why}"),
            None => format!("{argument}: found \"{value}\", which is not accepted"),
        },
        ErrorKind::MissingRequiredArgument => format!("expected {argument}, which is missing; --help says more"),
        // The first line of clap's own words, without its "error: ".
        _ => e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_string(),
    }
}

fn threads() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=4096)
}

fn not_negative(text: &str) -> std::result::Result<f32, String> {
    let x: Option<f32> = text.parse().ok().filter(|x: &f32| x.is_finite() && *x >= 0.0);
    x.ok_or_else(|| "expected a number not below 0".to_string())
}

fn above_zero(text: &str) -> std::result::Result<f64, String> {
    let x: Option<f64> = text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
    x.ok_or_else(|| "expected a number above 0".to_string())
}

fn share(text: &str) -> std::result::Result<f32, String> {
    let x: Option<f32> = text.parse().ok().filter(|x| *x > 0.0 && *x <= 1.0);
    x.ok_or_else(|| "expected a number above 0, up to 1".to_string())
}
