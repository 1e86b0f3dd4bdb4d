//! `[model]` → [`Model`]: a preset or a `config.json`, then the sizes that were given beside it.
//!
//! ```text
//! llm-train --model nano --layers 4 --width 256 --vocab 2048 --context 512
//! ```
//! Sizes left open follow the ones that were changed: head_dim = width / heads, kv_heads = heads where the model had one
//! for each, and the MLP's width in proportion to the width.
use super::keys::{KEYS, Kind, place};
use super::run::{Init, Model};
use super::settings::Settings;
use crate::bad_input;
use crate::error::{Error, Result};
use crate::model::Config;
use std::path::{Path, PathBuf};

/// The model that the settings ask for.
pub fn model(s: &Settings) -> Result<Model> {
    let Some(name) = s.text("model.name") else { bad_input!("--model (model.name): expected {}, found nothing", choices()) };
    let (mut config, notes, directory) = open(s, name)?;
    if resize(&mut config, s) {
        config.check().map_err(|e| Error::Input(format!("[model] with the sizes given for {name}: {e}")))?;
    }
    for (size, n) in sizes(&config) {
        let key = &KEYS[place(&format!("model.{size}"))];
        // What was given is within bounds already; a config.json may say anything.
        if let Kind::Count { least, most } = key.kind
            && !(least..=most).contains(&(n as u64))
        {
            bad_input!("{name}: expected a model with {size} from {least} to {most}, found {n}")
        }
    }
    let init = match (s.text("model.init"), directory) {
        (Some("pretrained"), Some(directory)) => Init::Pretrained(directory),
        (Some("pretrained"), None) => {
            bad_input!("{}: expected random for the preset {name}, which has no weights, found pretrained", s.named("model.init"))
        }
        _ => Init::Random,
    };
    Ok(Model { name: name.to_string(), config, init, notes })
}

/// The presets' names, one after another.
pub fn preset_names() -> String {
    Config::presets().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn choices() -> String {
    format!("a preset ({}), a Hugging Face directory or a config.json", preset_names())
}

/// The configuration, its notes, and the directory of its weights if it has one. A preset's name wins over a directory
/// of the same name; `./gpt2` is the directory.
fn open(s: &Settings, name: &str) -> Result<(Config, Vec<String>, Option<PathBuf>)> {
    if let Some(config) = Config::preset(name) {
        return Ok((config, vec![], None));
    }
    let path = Path::new(name);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.exists() => {
            bad_input!(
                "{}: expected {}, found \"{name}\", which is none of these{}",
                s.named("model.name"),
                choices(),
                hint(name)
            )
        }
        Err(e) => {
            bad_input!("{}: expected a model's configuration, but {} cannot be read: {e}", s.named("model.name"), file.display())
        }
    };
    let json: serde_json::Value = match serde_json::from_str(&text) {
        Ok(json) => json,
        Err(e) => bad_input!("{}: expected a model's configuration in JSON, found a mistake: {e}", file.display()),
    };
    let (config, notes) = Config::from_hf(&json, &file)?;
    let directory = file.parent().map(|d| if d.as_os_str().is_empty() { PathBuf::from(".") } else { d.to_path_buf() });
    Ok((config, notes, directory))
}

fn hint(name: &str) -> String {
    let near = Config::presets().into_iter().map(|(n, _)| (strsim::jaro_winkler(n, name), n)).max_by(|a, b| a.0.total_cmp(&b.0));
    near.filter(|(likeness, _)| *likeness > 0.8).map_or(String::new(), |(_, n)| format!("; did you mean {n}?"))
}

/// The sizes that `[model]` can change, by their keys.
pub fn sizes(c: &Config) -> [(&'static str, usize); 8] {
    [
        ("layers", c.layers),
        ("width", c.width),
        ("heads", c.heads),
        ("kv_heads", c.kv_heads),
        ("head_dim", c.head_dim),
        ("hidden", c.hidden),
        ("vocab", c.vocab),
        ("context", c.context),
    ]
}

/// Takes over the sizes that were given; says whether any was.
fn resize(c: &mut Config, s: &Settings) -> bool {
    let given = |name: &str| s.count(&format!("model.{name}")).map(|n| n as usize);
    if sizes(c).iter().all(|(name, _)| given(name).is_none()) {
        return false;
    }
    let before = c.clone();
    let one_each = c.heads == c.kv_heads;
    c.layers = given("layers").unwrap_or(c.layers);
    c.width = given("width").unwrap_or(c.width);
    c.heads = given("heads").unwrap_or(c.heads);
    c.kv_heads = given("kv_heads").unwrap_or(if one_each { c.heads } else { c.kv_heads.min(c.heads) });
    c.vocab = given("vocab").unwrap_or(c.vocab);
    c.context = given("context").unwrap_or(c.context);
    if (c.width, c.heads) != (before.width, before.heads) {
        c.head_dim = c.width / c.heads;
    }
    if c.width != before.width {
        // In eighths, as vector units like it; a model whose MLP is 4 × its width keeps that.
        c.hidden = (before.hidden * c.width).div_ceil(before.width).next_multiple_of(8);
    }
    c.head_dim = given("head_dim").unwrap_or(c.head_dim).max(1);
    c.hidden = given("hidden").unwrap_or(c.hidden);
    // The preset's special tokens may lie beyond a smaller vocabulary.
    let within = |token: &u32| (*token as usize) < c.vocab;
    c.bos = c.bos.filter(within);
    c.pad = c.pad.filter(within);
    c.eos.retain(within);
    true
}
