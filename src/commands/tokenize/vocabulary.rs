//! The tokenizer: read, or made from the input first.
//!
//! ```text
//! byte-level BPE: 256 bytes and <|endoftext|> to begin with; GPT-2's rule parts the text into words; then the commonest
//! pair of neighbours inside words becomes a token, again and again, until there are N
//! ```
//! Source: Sennrich et al. (2016); GPT-2's report for the bytes. Equal counts fall to the pair of lower numbers, so that the
//! outcome is a function of the text alone.
use super::source::{self, Unit};
use super::{TokenizeArgs, join};
use crate::bad_input;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

const END_OF_TEXT: &str = "<|endoftext|>";
/// What families call the token that ends a document, in the order in which they are looked for.
const ENDS: [&str; 7] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<|eot_id|>", "<eos>", "[EOS]", "<|im_end|>"];

/// Where the tokenizer is, or will be.
pub fn path(args: &TokenizeArgs) -> PathBuf {
    args.tokenizer.clone().unwrap_or_else(|| join::named(&args.output, ".tokenizer.json"))
}

/// Makes the vocabulary if asked to; else looks whether the tokenizer can be read.
pub fn prepare(args: &TokenizeArgs, units: &[Unit]) -> Result<()> {
    match args.train_vocab {
        Some(size) => make(args, units, size),
        None => open(&path(args)).map(|_| ()),
    }
}

/// # Errors
/// `Input` where the file is no tokenizer.
pub fn open(path: &Path) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_file(path)
        .map_err(|e| Error::Input(format!("{}: expected a Hugging Face tokenizer.json, found: {e}", path.display())))?;
    // Settings for batches of sentences, which a corpus must not obey.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    Ok(tokenizer)
}

/// The number below which all tokens lie: larger than their count where numbers are left out.
pub fn size(tokenizer: &Tokenizer) -> usize {
    tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
}

/// # Errors
/// `Input`, naming the option, where the tokenizer has no such token.
pub fn end_of_text(tokenizer: &Tokenizer, path: &Path, args: &TokenizeArgs) -> Result<u32> {
    let found = match &args.eod_token {
        Some(token) => tokenizer.token_to_id(token),
        None => ENDS.iter().find_map(|token| tokenizer.token_to_id(token)),
    };
    let wanted = args.eod_token.clone().unwrap_or_else(|| ENDS.join(", "));
    found.ok_or_else(|| {
        Error::Input(format!("{}: expected an end-of-text token ({wanted}; --eod-token), found none", path.display()))
    })
}

fn make(args: &TokenizeArgs, units: &[Unit], size: usize) -> Result<()> {
    if size < 257 {
        bad_input!("--train-vocab: expected at least 257 tokens (256 bytes and {END_OF_TEXT}), found {size}");
    }
    let limit = training_bytes(args, units)?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_post_processor(Some(ByteLevel::new(false, false, true)));
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(size)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut outcome = Ok(());
    let trained = std::thread::scope(|scope| {
        let (send, texts) = sync_channel(1024);
        let outcome = &mut outcome;
        scope.spawn(move || {
            let mut left = limit;
            *outcome = texts_of(args, units, &mut |text| {
                left = left.saturating_sub(text.len() as u64);
                left > 0 && send.send(text).is_ok()
            });
        });
        let mut trainer = TrainerWrapper::BpeTrainer(trainer);
        tokenizer.train(&mut trainer, texts.into_iter()).map(|_| ())
    });
    outcome?;
    let path = path(args);
    trained.map_err(|e| Error::Failed(format!("{}: expected to make a vocabulary, found: {e}", path.display())))?;
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { unreachable!("made as a BPE above") };
    let made = model.get_vocab().len();
    if made < size {
        log::warn!("the text yields a vocabulary of {made}, not {size}: no pair of tokens is left to join");
    }
    join::write_aside(&path, |file| {
        let text = tokenizer.to_string(true).map_err(|e| std::io::Error::other(e.to_string()))?;
        std::io::Write::write_all(file, text.as_bytes())
    })
}

/// Bytes of text that are not held out: documents from which on they are exceeded do not count. `u64::MAX`: all.
fn training_bytes(args: &TokenizeArgs, units: &[Unit]) -> Result<u64> {
    if args.val_fraction == 0.0 {
        return Ok(u64::MAX);
    }
    let mut total = 0;
    texts_of(args, units, &mut |text| {
        total += text.len() as u64;
        true
    })?;
    // One more than may be used up, since the rule is "while something is left".
    Ok(join::kept_bytes(total, args.val_fraction) + 1)
}

/// Calls `each` with the text of every document, in order, until it answers `false`.
fn texts_of(args: &TokenizeArgs, units: &[Unit], each: &mut dyn FnMut(String) -> bool) -> Result<()> {
    let read = AtomicU64::new(0);
    let mut failed = Ok(());
    for unit in units {
        let mut more = true;
        source::read(args, unit, &read, &mut |document| {
            more = match super::encoder::text_of(&document, unit.kind, &args.text_key) {
                Ok(text) => each(text.into_owned()),
                Err(e) => {
                    failed = Err(e);
                    false
                }
            };
            more
        })?;
        if !more {
            break;
        }
    }
    failed
}
