//! A value for each key of the table, and who said so: [`Settings`] is the run *as typed*.
//!
//! ```text
//! defaults  <  (the preset)  <  run.toml  <  --set  <  options          the stronger word replaces the weaker
//! ```
//! A model's preset fills what `[model]` leaves open, so it is asked last and stands in no list here.
use super::keys::{Default, KEYS, Key, SECTIONS, find, nearest, place};
use super::value::Value;
use crate::bad_input;
use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// Who gave a value; a later one is stronger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    /// Follows from other values: `min_lr` from `lr`.
    Derived,
    File(String),
    Set,
    Option,
}

impl Origin {
    /// 0 for the weakest. Two files are equally strong.
    fn strength(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Derived => 1,
            Origin::File(_) => 2,
            Origin::Set => 3,
            Origin::Option => 4,
        }
    }
}

#[derive(Clone, Debug)]
struct Setting {
    value: Value,
    origin: Origin,
}

/// Settings are equal when their values are, whoever gave them.
impl PartialEq for Setting {
    fn eq(&self, other: &Setting) -> bool {
        self.value == other.value
    }
}

/// One place for each of [`KEYS`], in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    places: Vec<Option<Setting>>,
}

impl Settings {
    pub fn defaults() -> Settings {
        let value = |k: &Key| match k.default {
            Default::Is(text) => Some(Value::from_text(k.kind, text).unwrap_or_else(|e| panic!("{}: {e}", k.path()))),
            Default::Else(_) | Default::Needed(_) => None,
        };
        Settings { places: KEYS.iter().map(|k| value(k).map(|value| Setting { value, origin: Origin::Default })).collect() }
    }

    /// Takes over every key of a TOML file.
    ///
    /// Errors: the file cannot be read or is no TOML; an unknown key; a value of the wrong type.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        let file = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => bad_input!("--config: expected a TOML file, but {file} cannot be read: {e}"),
        };
        self.read_text(&text, &file)
    }

    /// Takes over every key of a TOML text; `file` names it in messages.
    pub fn read_text(&mut self, text: &str, file: &str) -> Result<()> {
        let sections: toml::Table = match text.parse() {
            Ok(sections) => sections,
            Err(e) => {
                let e: toml::de::Error = e;
                let line =
                    e.span().map_or(0, |s| text.as_bytes()[..s.start.min(text.len())].iter().filter(|b| **b == b'\n').count());
                bad_input!("{file}, line {}: expected TOML, found a mistake: {}", line + 1, e.message().replace('\n', ", "))
            }
        };
        for (section, keys) in &sections {
            let place = format!(" in {file}");
            let toml::Value::Table(keys) = keys else { return unknown(section, &place) };
            if let Some(near) = misspelt(section) {
                bad_input!("unknown section [{section}] in {file}; the nearest known one is [{near}]")
            }
            for (name, value) in keys {
                let path = format!("{section}.{name}");
                let Some(at) = find(&path) else { return unknown(&path, &place) };
                match Value::from_toml(KEYS[at].kind, value) {
                    Ok(value) => self.places[at] = Some(Setting { value, origin: Origin::File(file.to_string()) }),
                    Err(refusal) => bad_input!("{path} in {file}: {refusal}"),
                }
            }
        }
        Ok(())
    }

    /// `--set section.key=value`
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((path, text)) = assignment.split_once('=') else {
            bad_input!("--set: expected section.key=value, found \"{assignment}\"")
        };
        let path = path.trim();
        let Some(at) = find(path) else { return unknown(path, " in --set") };
        match Value::from_text(KEYS[at].kind, text.trim()) {
            Ok(value) => self.places[at] = Some(Setting { value, origin: Origin::Set }),
            Err(refusal) => bad_input!("--set {path}: {refusal}"),
        }
        Ok(())
    }

    /// The option of the key at `at`, with the values typed after it.
    pub fn option(&mut self, at: usize, texts: &[&str]) -> Result<()> {
        let key = &KEYS[at];
        let values: std::result::Result<Vec<Value>, _> = texts.iter().map(|t| Value::from_text(key.kind, t)).collect();
        let value = match values {
            Ok(values) => values.into_iter().reduce(joined).expect("an option has a value"),
            Err(refusal) => bad_input!("--{} ({}): {refusal}", key.flag, key.path()),
        };
        self.places[at] = Some(Setting { value, origin: Origin::Option });
        Ok(())
    }

    /// Fills in what follows from other values, so that it is printed and stored with them.
    pub fn derive(&mut self, path: &str, value: Value) {
        self.places[place(path)] = Some(Setting { value, origin: Origin::Derived });
    }

    /// Takes a value back: what it said is said by another key.
    pub fn clear(&mut self, path: &str) {
        self.places[place(path)] = None;
    }

    pub fn has(&self, path: &str) -> bool {
        self.places[place(path)].is_some()
    }

    /// Whether a file gave it, which may be a training run's.
    pub fn is_from_file(&self, path: &str) -> bool {
        self.places[place(path)].as_ref().is_some_and(|s| matches!(s.origin, Origin::File(_)))
    }

    /// Of those keys that were given by the strongest word, the names. Used where keys exclude each other.
    pub fn strongest<'a>(&self, paths: &[&'a str]) -> Vec<&'a str> {
        let strength = |p: &str| self.places[place(p)].as_ref().map(|s| s.origin.strength());
        let most = paths.iter().filter_map(|p| strength(p)).max();
        paths.iter().copied().filter(|p| most.is_some() && strength(p) == most).collect()
    }

    pub fn get(&self, path: &str) -> Option<&Value> {
        self.places[place(path)].as_ref().map(|s| &s.value)
    }
    pub fn count(&self, path: &str) -> Option<u64> {
        match self.get(path)? {
            Value::Count(n) => Some(*n),
            other => panic!("{path} is no count: {other:?}"),
        }
    }
    pub fn number(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Value::Number(x) => Some(*x),
            other => panic!("{path} is no number: {other:?}"),
        }
    }
    pub fn switch(&self, path: &str) -> bool {
        matches!(self.get(path), Some(Value::Switch(true)))
    }
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Value::Text(s) => Some(s),
            other => panic!("{path} is no text: {other:?}"),
        }
    }
    pub fn list(&self, path: &str) -> &[String] {
        match self.get(path) {
            None => &[],
            Some(Value::List(items)) => items,
            Some(other) => panic!("{path} is no list: {other:?}"),
        }
    }

    /// The files that gave a value that counts, once each.
    pub fn files(&self) -> Vec<&str> {
        let mut files = vec![];
        for setting in self.places.iter().flatten() {
            if let Origin::File(file) = &setting.origin
                && !files.contains(&file.as_str())
            {
                files.push(file);
            }
        }
        files
    }

    /// A message about `path` begins with this: the key, and where its value was given.
    pub fn named(&self, path: &str) -> String {
        match self.places[place(path)].as_ref().map(|s| &s.origin) {
            Some(Origin::File(file)) => format!("{path} in {file}"),
            Some(Origin::Set) => format!("--set {path}"),
            _ => match KEYS[place(path)].flag {
                "" => path.to_string(),
                flag => format!("--{flag} ({path})"),
            },
        }
    }

    /// TOML of every key: values as values, what has none as a comment. `remarks` are words for keys without a value;
    /// with `origins` a comment says who gave what is not a default.
    pub fn to_toml(&self, remarks: &dyn Fn(&str) -> Option<String>, origins: bool) -> String {
        let mut text = String::new();
        for (section, _) in SECTIONS {
            let gap = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{gap}[{section}]").expect("writing to a string");
            for (key, setting) in KEYS.iter().zip(&self.places).filter(|(k, _)| k.section == *section) {
                let line = match (setting, key.default) {
                    (Some(s), _) => {
                        let line = format!("{} = {}", key.name, s.value.to_toml());
                        match (&s.origin, origins) {
                            (Origin::File(file), true) => format!("{line:<40} # {}", file.replace(char::is_control, "?")),
                            (Origin::Set, true) => format!("{line:<40} # --set"),
                            (Origin::Option, true) => format!("{line:<40} # --{}", key.flag),
                            _ => line,
                        }
                    }
                    (None, Default::Else(words) | Default::Needed(words)) => {
                        format!("# {}: {}", key.name, remarks(&key.path()).unwrap_or_else(|| words.to_string()))
                    }
                    (None, Default::Is(_)) => format!("# {}: not used", key.name),
                };
                writeln!(text, "{line}").expect("writing to a string");
            }
        }
        text
    }

    /// What is another value than in `before`, as [`Settings::to_toml`] wrote it: `optim.lr 0.001 -> 0.0003`. Not where files are written,
    /// and when: that changes no number. `None` where `before` cannot be read, as it may be of another version.
    pub fn changed_since(&self, before: &str) -> Option<Vec<String>> {
        let mut then = Settings::defaults();
        then.read_text(before, "the configuration before").ok()?;
        let words = |setting: &Option<Setting>| setting.as_ref().map_or("not set".to_string(), |s| s.value.to_toml());
        let keys = KEYS.iter().zip(then.places.iter().zip(&self.places));
        let counts = |key: &Key| !["checkpoint", "log", "mlperf"].contains(&key.section) && key.path() != "train.out";
        let changed = keys.filter(|(key, (was, is))| counts(key) && was != is);
        Some(changed.map(|(key, (was, is))| format!("{} {} -> {}", key.path(), words(was), words(is))).collect())
    }

    /// The values as a JSON object of objects; keys without a value are `null`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut whole = serde_json::Map::new();
        for (section, _) in SECTIONS {
            let keys = KEYS.iter().zip(&self.places).filter(|(k, _)| k.section == *section);
            let keys = keys.map(|(k, s)| (k.name.to_string(), s.as_ref().map_or(serde_json::Value::Null, |s| s.value.to_json())));
            whole.insert(section.to_string(), serde_json::Value::Object(keys.collect()));
        }
        whole.into()
    }
}

/// Several values after one option: lists are joined, of anything else the last one counts.
fn joined(before: Value, last: Value) -> Value {
    match (before, last) {
        (Value::List(mut items), Value::List(more)) => {
            items.extend(more);
            Value::List(items)
        }
        (_, last) => last,
    }
}

/// The known section that an unknown one is most like. `None` for a known one, and for what is like none: there the key
/// itself tells more (`[train] lr` and `[hyper] lr` both mean `optim.lr`).
fn misspelt(section: &str) -> Option<&'static str> {
    let likeness = SECTIONS.iter().map(|(s, _)| (strsim::jaro_winkler(s, &section.to_lowercase()), *s));
    let (likeness, near) = likeness.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are sections");
    (near != section && likeness > 0.8).then_some(near)
}

/// The refusal of a key that the table lacks.
fn unknown<T>(typed: &str, place: &str) -> Result<T> {
    let key = nearest(typed);
    Err(Error::Input(format!("unknown key {typed}{place}; the nearest known one is {} ({})", key.path(), key.typed())))
}
