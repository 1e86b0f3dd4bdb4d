//! Documents to tokens, on all threads of the current pool.
use super::source::{Document, Kind};
use super::{Format, TokenizeArgs, vocabulary};
use crate::bad_input;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use tokenizers::Tokenizer;

pub struct Encoder {
    tokenizer: Tokenizer,
    /// Tokens below which all numbers lie.
    pub vocab: usize,
    /// The end-of-text token between documents.
    pub eos: Option<u32>,
    /// The end-of-text token before each document.
    before: Option<u32>,
    /// The end-of-text token after each document.
    after: Option<u32>,
}

impl Encoder {
    /// # Errors
    /// `Input` for a tokenizer that cannot be read, or without the end-of-text token that the format needs.
    pub fn open(args: &TokenizeArgs) -> Result<Encoder> {
        let path = vocabulary::path(args);
        let tokenizer = vocabulary::open(&path)?;
        let vocab = vocabulary::size(&tokenizer);
        let needed = args.append_eod || args.format != Format::Megatron;
        let eod = if needed { Some(vocabulary::end_of_text(&tokenizer, &path, args)?) } else { None };
        let (before, after) = if args.format == Format::Llmc { (eod, None) } else { (None, eod) };
        Ok(Encoder { tokenizer, vocab, eos: eod, before, after })
    }
    /// The tokens of each document, in order, and the bytes of its text.
    ///
    /// # Errors
    /// `Input`, with file and place, for text that is not UTF-8 and lines that are not JSON with the key.
    pub fn encode(&self, key: &str, kind: Kind, documents: &[Document]) -> Result<Vec<(Vec<u32>, usize)>> {
        let encoded = documents.par_iter().map(|document| {
            let text = text_of(document, kind, key)?;
            let mut tokens: Vec<u32> = self.before.into_iter().collect();
            let encoding = self.tokenizer.encode_fast(text.as_ref(), false);
            tokens.extend(encoding.map_err(|e| Error::Input(format!("{}: {e}", place(document))))?.get_ids());
            let empty = text.is_empty();
            tokens.extend(self.after.filter(|_| !empty));
            Ok(if empty { (Vec::new(), 0) } else { (tokens, text.len()) })
        });
        encoded.collect()
    }
}

fn place(document: &Document) -> String {
    format!("{}: document at {}", document.path.display(), document.at)
}

/// The text of a document as it lies in the input.
pub fn text_of<'a>(document: &'a Document, kind: Kind, key: &str) -> Result<Cow<'a, str>> {
    let (name, at) = (document.path.display(), document.at);
    if kind != Kind::Json {
        let unit = if kind == Kind::Parquet { "row" } else { "byte" };
        return match std::str::from_utf8(&document.bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(e) => {
                bad_input!("{name}: expected UTF-8, found other bytes {} bytes into the text at {unit} {at}", e.valid_up_to())
            }
        };
    }
    match serde_json::from_slice(&document.bytes) {
        Ok(Value::Object(mut object)) => match object.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Ok(Cow::Owned(text)),
            Some(_) => bad_input!("{name}: expected text under {key:?} in the line at byte {at}, found another type"),
            None => bad_input!("{name}: expected the key {key:?} in the line at byte {at}, found none"),
        },
        Ok(_) => bad_input!("{name}: expected a JSON object in the line at byte {at}, found another value"),
        Err(e) => bad_input!("{name}: expected JSON in the line at byte {at}, found: {e}"),
    }
}
