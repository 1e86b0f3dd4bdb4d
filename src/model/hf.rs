//! `config.json` as Hugging Face writes it, read and written. Both spellings, of transformers 4 and 5:
//!
//! | 4 | 5 |
//! |---|---|
//! | `torch_dtype` | `dtype` |
//! | `rope_theta`, `rope_scaling` | `rope_parameters` |
//!
//! What the file asks for and we don't do is refused by name where it changes the mathematics. Where it is harmless it
//! becomes a note of one line. Keys that the family's own transformers class ignores are ignored here too.
use crate::bad_input;
use crate::error::{Error, Result};
use crate::model::config::{Config, Family, Position};
use crate::model::{gpt2, llama, opt, qwen};
use crate::ops::rope::Scaling;
use serde_json::{Map, Value, json};
use std::path::Path;

impl Config {
    /// Reads the parsed `config.json` found at `file`. The notes say, in one line each, what the file asks for, we leave
    /// out, and does no harm.
    ///
    /// Errors: [`Error::Input`] naming the file and the key, what was expected and what was found.
    pub fn from_hf(json: &Value, file: &Path) -> Result<(Config, Vec<String>)> {
        let Some(map) = json.as_object() else { bad_input!("{}: expected a JSON object", file.display()) };
        let known = Family::ALL.map(Family::name).join(", ");
        let keys = Reader { map, within: String::new(), file, family: Family::Gpt2 };
        let model_type = keys.word("model_type", "")?;
        let Some(family) = Family::ALL.into_iter().find(|f| f.name() == model_type) else {
            return keys.refuse("model_type", &format!("one of {known}"));
        };
        let keys = Reader { family, ..keys };
        keys.must_be("quantization_config", Value::Null)?;
        keys.must_be("is_encoder_decoder", json!(false))?;
        keys.must_be("add_cross_attention", json!(false))?;
        let config = match family {
            Family::Gpt2 => gpt2::read(&keys),
            Family::Llama | Family::Mistral => llama::read(&keys),
            Family::Qwen2 | Family::Qwen3 => qwen::read(&keys),
            Family::Opt => opt::read(&keys),
        }?;
        config.check().map_err(|e| Error::Input(format!("{}: {e}", file.display())))?;
        Ok((config, keys.dropout().into_iter().collect()))
    }

    /// `config.json`, for transformers 4 and 5, of weights in f32.
    pub fn to_hf(&self) -> Value {
        self.to_hf_in("float32")
    }

    /// The same of weights in this type, as torch names it.
    pub fn to_hf_in(&self, dtype: &str) -> Value {
        let key = self.family.keys();
        let mut all = json!({
            "architectures": [key.architecture],
            "model_type": key.model_type,
            "vocab_size": self.vocab,
            key.width: self.width,
            key.layers: self.layers,
            key.heads: self.heads,
            key.hidden: self.hidden,
            key.context: self.context,
            key.init_std: decimal(self.init_std),
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": eos(self),
            "pad_token_id": self.pad,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
        });
        let own = match self.family {
            Family::Gpt2 => gpt2::write(self),
            Family::Llama | Family::Mistral => llama::write(self),
            Family::Qwen2 | Family::Qwen3 => qwen::write(self),
            Family::Opt => opt::write(self),
        };
        if let (Value::Object(all), Value::Object(own)) = (&mut all, own) {
            all.extend(own);
        }
        all
    }

    /// `generation_config.json`: which tokens begin, end and fill a text.
    pub fn generation_config(&self) -> Value {
        let mut all = json!({ "_from_model_config": true });
        let tokens = [("bos_token_id", json!(self.bos)), ("eos_token_id", eos(self)), ("pad_token_id", json!(self.pad))];
        tokens.into_iter().filter(|(_, v)| !v.is_null()).for_each(|(k, v)| all[k] = v);
        all
    }
}

/// One token as a number, several as a list, as the files do.
fn eos(c: &Config) -> Value {
    match c.eos[..] {
        [] => Value::Null,
        [one] => json!(one),
        ref several => json!(several),
    }
}

/// 1e-5 and not 0.000009999999747: the shortest decimal that is this f32.
pub fn decimal(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().unwrap_or(f64::from(x)))
}

/// The keys of one `config.json` (or of an object within it), with errors that name file and key. A null is a missing
/// key, as in transformers.
pub struct Reader<'a> {
    map: &'a Map<String, Value>,
    within: String,
    file: &'a Path,
    pub family: Family,
}

/// Structural: sizes up to this can be multiplied with one another in 64 bits, and no file makes us list a million layers.
const LARGEST: usize = 1 << 24;
/// Of layers, heads, and the width of a head.
const MOST_PARTS: usize = 1 << 12;
const WIDEST: usize = 1 << 20;

impl<'a> Reader<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// An error: `key` is not what it must be.
    pub fn refuse<T>(&self, key: &str, expected: &str) -> Result<T> {
        let found = self.map.get(key).map_or("missing".to_string(), |v| format!("{v:.100}"));
        let found = found.chars().take(100).collect::<String>();
        bad_input!("{}: {}{key} is {found}, expected {expected}", self.file.display(), self.within)
    }
    /// Refuses any other value than `value`; a missing key passes.
    pub fn must_be(&self, key: &str, value: Value) -> Result<()> {
        match self.get(key) {
            Some(found) if *found != value => self.refuse(key, &format!("{value}: nothing else is done here")),
            _ => Ok(()),
        }
    }

    /// A size: 1 or more. `or`: what a missing key means; None: it may not be missing.
    pub fn size(&self, key: &str, or: Option<usize>) -> Result<usize> {
        let most = match key {
            "head_dim" | "num_key_value_heads" => MOST_PARTS,
            _ if key == self.family.keys().layers || key == self.family.keys().heads => MOST_PARTS,
            "vocab_size" | "sliding_window" | "original_max_position_embeddings" => LARGEST,
            _ if key == self.family.keys().context => LARGEST,
            _ => WIDEST,
        };
        match (self.get(key), or) {
            (None, Some(or)) => Ok(or),
            (found, _) => match found.and_then(Value::as_u64) {
                Some(n) if (1..=most as u64).contains(&n) => Ok(n as usize),
                _ => self.refuse(key, &format!("a whole number from 1 to {most}")),
            },
        }
    }
    /// A whole number, 0 among them.
    pub fn count(&self, key: &str) -> Result<usize> {
        let n = self.get(key).and_then(Value::as_u64).filter(|n| *n <= LARGEST as u64);
        n.map_or_else(|| self.refuse(key, &format!("a whole number from 0 to {LARGEST}")), |n| Ok(n as usize))
    }
    /// A finite number above 0; `or` where the key is missing.
    pub fn number(&self, key: &str, or: f64) -> Result<f64> {
        match self.get(key).map(Value::as_f64) {
            None => Ok(or),
            Some(Some(x)) if x.is_finite() && x > 0.0 => Ok(x),
            Some(_) => self.refuse(key, "a number above 0"),
        }
    }
    /// A number above 0 and up to 1, in f32.
    pub fn fraction(&self, key: &str, or: f64) -> Result<f32> {
        let x = self.number(key, or)? as f32;
        if x.is_normal() && x <= 1.0 { Ok(x) } else { self.refuse(key, "a number above 0 and at most 1") }
    }
    pub fn flag(&self, key: &str, or: bool) -> Result<bool> {
        match self.get(key).map(Value::as_bool) {
            None => Ok(or),
            Some(Some(flag)) => Ok(flag),
            Some(None) => self.refuse(key, "true or false"),
        }
    }
    pub fn word(&self, key: &str, or: &'a str) -> Result<&'a str> {
        match self.get(key).map(Value::as_str) {
            None => Ok(or),
            Some(Some(word)) => Ok(word),
            Some(None) => self.refuse(key, "a string"),
        }
    }
    /// Refuses a word that is not among `words`; a missing key passes.
    pub fn one_of(&self, key: &str, words: &[&str]) -> Result<()> {
        match self.get(key) {
            Some(found) if !words.iter().any(|w| *found == **w) => self.refuse(key, &words.join(" or ")),
            _ => Ok(()),
        }
    }
    /// Token ids: a number or a list of numbers.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => Some(vec![]),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        ids.map_or_else(|| self.refuse(key, "a token id or a list of them"), Ok)
    }
    pub fn token(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.tokens(key)?.first().copied())
    }
    /// The object at `key`.
    pub fn section(&self, key: &str) -> Result<Option<Reader<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let within = format!("{}{key}.", self.within);
                Ok(Some(Reader { map, within, file: self.file, family: self.family }))
            }
            Some(_) => self.refuse(key, "an object or null"),
        }
    }
    /// The list at `key`.
    pub fn list(&self, key: &str) -> Result<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => self.refuse(key, "a list or null"),
        }
    }

    /// `sliding_window`, 4,096 where the key is missing, none where it is null: the default of the classes that have it.
    pub fn window(&self) -> Result<Option<usize>> {
        let null = self.map.get("sliding_window").is_some_and(Value::is_null);
        if null { Ok(None) } else { self.size("sliding_window", Some(4096)).map(Some) }
    }

    /// Rotary positions, in either spelling.
    pub fn rotary(&self) -> Result<Position> {
        // Transformers 5 lets a non-empty rope_scaling stand before rope_parameters, and fills in the rest from beside.
        let five = self.section("rope_parameters")?;
        let four = self.section("rope_scaling")?.filter(|r| !r.map.is_empty());
        let beside = self.number("rope_theta", 10_000.0)?;
        let theta = match (&four, &five) {
            (Some(r), _) if r.has("rope_theta") => r.number("rope_theta", beside)?,
            (_, Some(r)) if !self.has("rope_theta") => r.number("rope_theta", beside)?,
            _ => beside,
        };
        self.must_be_whole("partial_rotary_factor")?;
        let Some(r) = four.or(five) else { return Ok(Position::Rotary { theta, scaling: Scaling::None }) };
        r.must_be_whole("partial_rotary_factor")?;
        let kind = if r.has("rope_type") { "rope_type" } else { "type" };
        let scaling = match r.word(kind, "default")? {
            "default" => Scaling::None,
            "llama3" => {
                let required = |key| if r.has(key) { r.number(key, 1.0) } else { r.refuse(key, "a number above 0") };
                let (factor, low, high) = (required("factor")?, required("low_freq_factor")?, required("high_freq_factor")?);
                if low >= high {
                    return r.refuse("high_freq_factor", &format!("more than low_freq_factor {low}"));
                }
                let original = required("original_max_position_embeddings")?;
                Scaling::Llama3 { factor, low, high, original }
            }
            _ => return r.refuse(kind, "\"default\" or \"llama3\""),
        };
        Ok(Position::Rotary { theta, scaling })
    }
    fn must_be_whole(&self, key: &str) -> Result<()> {
        if self.number(key, 1.0)? == 1.0 { Ok(()) } else { self.refuse(key, "1") }
    }

    /// One line on the dropout that the file asks for.
    fn dropout(&self) -> Option<String> {
        let keys = ["attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "hidden_dropout", "dropout", "layerdrop"];
        let asked = keys.iter().filter_map(|k| self.get(k)?.as_f64().filter(|p| *p > 0.0).map(|p| format!("{k} {p}")));
        let asked = asked.collect::<Vec<_>>().join(", ");
        (!asked.is_empty()).then(|| format!("{}: {asked} left out: we train without dropout", self.file.display()))
    }
}

/// Rotary positions, in both spellings.
pub fn rotary(c: &Config) -> Value {
    let Position::Rotary { theta, scaling } = c.position else { return json!({}) };
    let old = match scaling {
        Scaling::None => Value::Null,
        Scaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        }),
    };
    let mut new = if old.is_null() { json!({ "rope_type": "default" }) } else { old.clone() };
    new["rope_theta"] = json!(theta);
    json!({ "rope_theta": theta, "rope_scaling": old, "rope_parameters": new })
}
