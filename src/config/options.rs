//! The table of keys as options of the command line, and what was typed there as [`Settings`].
//!
//! ```text
//! --lr 3e-4                 a value                       --data a.bin:2 b.bin:1     a list, also repeated
//! --check-data              a switch, true                --no-check-data            the same, false
//! ```
//! clap finds the options; their values are read by [`super::value`], so that an option, `--set` and a file are refused
//! in the same words.
use super::keys::{Default, KEYS, Key, Kind, SECTIONS};
use super::settings::Settings;
use crate::error::Result;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::path::Path;

/// Adds `--config`, `--set` and every key's option to a command, under the sections' headings.
pub fn add(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").overrides_with("config");
    let set = Arg::new("set").long("set").value_name("SECTION.KEY=VALUE").action(ArgAction::Append);
    let command = command.next_help_heading("Configuration").args([
        config.help("A TOML file with any of the settings below; a printed configuration is one"),
        set.help("Any setting by its key, such as optim.lr=3e-4; stronger than the file, weaker than options"),
    ]);
    KEYS.iter().filter(|key| !key.flag.is_empty()).fold(command, |command, key| {
        let heading = SECTIONS.iter().find(|(s, _)| *s == key.section).map(|(_, heading)| *heading);
        command.args(arguments(key).map(|arg| arg.help_heading(heading)))
    })
}

/// Reads a command's options, file and `--set`s over the defaults.
pub fn read(matches: &ArgMatches) -> Result<Settings> {
    let mut settings = Settings::defaults();
    if let Some(file) = matches.get_one::<String>("config") {
        settings.read_file(Path::new(file))?;
    }
    for assignment in matches.get_many::<String>("set").into_iter().flatten() {
        settings.set(assignment)?;
    }
    for (at, key) in KEYS.iter().enumerate().filter(|(_, key)| !key.flag.is_empty()) {
        let values: Vec<&str> = matches.get_many::<String>(key.flag).into_iter().flatten().map(String::as_str).collect();
        if !values.is_empty() {
            settings.option(at, &values)?;
        }
        if let Kind::Switch(off) = key.kind
            && matches.get_flag(off)
        {
            settings.option(at, &["false"])?;
        }
    }
    Ok(settings)
}

/// The option of a key; for a switch also its opposite, which the help shows where the key is true by itself.
fn arguments(key: &'static Key) -> impl Iterator<Item = Arg> {
    let arg = Arg::new(key.flag).long(key.flag).help(help(key));
    let on = key.default == Default::Is("true");
    let (arg, off) = match key.kind {
        Kind::List(_) => (arg.num_args(1..).action(ArgAction::Append), None),
        Kind::Switch(off) => {
            let pair = [key.flag, off];
            let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true").overrides_with_all(pair).hide(on);
            let no = Arg::new(off).long(off).action(ArgAction::SetTrue).overrides_with_all(pair).hide(!on);
            (arg, Some(no.help(format!("Without {}", lower(key.help)))))
        }
        _ => (arg.overrides_with(key.flag).allow_negative_numbers(true), None),
    };
    [Some(arg.value_name(value_name(key.kind))), off].into_iter().flatten()
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Count { least: 0, most: 1 } => "0|1",
        Kind::Count { .. } => "N",
        Kind::CountOrMax { .. } => "N|max",
        Kind::Number(_) => "X",
        // Long lists stand in the help's text, lest they push all of it to the right.
        Kind::Choice(words) if words.len() > 20 => "NAME",
        Kind::Text(words) | Kind::List(words) | Kind::Choice(words) => words,
        Kind::Time => "TIME",
        Kind::Switch(_) => "true|false",
    }
}

fn help(key: &Key) -> String {
    match key.default {
        _ if matches!(key.kind, Kind::Switch(_)) => key.help.to_string(),
        Default::Is(value) => format!("{} [default: {value}]", key.help),
        Default::Else(words) => format!("{} [default: {words}]", key.help),
        Default::Needed(words) => format!("{} [{words}]", key.help),
    }
}

fn lower(text: &str) -> String {
    text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1)).collect()
}
