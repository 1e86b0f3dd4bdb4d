//! `llm-train generate`: a trained model goes on from a text, token by token, as it is typed out.
//!
//! ```text
//! tokens = tokenizer(prompt)
//! until max-tokens or the end-of-text token: logits = model(tokens); next = draw(logits); print it
//! ```
use crate::bad_input;
use crate::checkpoint;
use crate::commands::alone::Alone;
use crate::commands::cli::GenerateArgs;
use crate::commands::gpu;
use crate::commands::{check_json, tell, write_json};
use crate::device::cuda::Extent;
use crate::error::{Error, Result};
use crate::model::{Config, Generator, Sampling};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokenizers::Tokenizer;

/// Text that the model wrote, and how fast.
pub struct Written {
    /// Without the prompt.
    pub text: String,
    pub tokens: usize,
    /// From the end of the prompt's pass to the last token.
    pub seconds: f64,
}

pub fn run(args: &GenerateArgs) -> Result<()> {
    check_json(args.json.as_ref())?;
    let tokenizer_path = args.tokenizer.clone().unwrap_or_else(|| args.model.join("tokenizer.json"));
    let how = Sampling {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        top_p: args.top_p,
        seed: args.seed,
    };
    let alone = Alone::choose(&args.device, &args.precision, args.threads)?;
    // The prompt stands before the text, and not before the reason why there is none.
    let mut prompt = Some(&args.prompt);
    let written = write(&args.model, &tokenizer_path, &args.prompt, args.max_tokens, &how, &alone, |piece| {
        prompt.take().into_iter().for_each(tell);
        tell(piece);
    })?;
    prompt.into_iter().for_each(tell);
    tell("\n");
    let rate = written.tokens as f64 / written.seconds.max(1e-9);
    log::info!("{} tokens at {rate:.1} tokens/s", written.tokens);
    if let Some(file) = &args.json {
        let text = json!({ "prompt": args.prompt, "text": written.text, "tokens": written.tokens,
                           "seconds": written.seconds, "tokens_per_second": rate, "device": alone.name() });
        write_json(file, &text)?;
    }
    Ok(())
}

/// Goes on from `prompt` with the model in `dir`; `piece` sees the text as it grows.
///
/// Errors: `Input` for a directory, tokenizer or prompt that cannot be used.
pub fn write(
    dir: &Path,
    tokenizer: &Path,
    prompt: &str,
    max_tokens: usize,
    how: &Sampling,
    alone: &Alone,
    mut piece: impl FnMut(&str) + Send,
) -> Result<Written> {
    let config = config_of(dir)?;
    let tokenizer = open_tokenizer(tokenizer)?;
    let encoded = tokenizer.encode(prompt, false).map_err(|e| Error::Input(format!("--prompt: cannot be tokenized: {e}")))?;
    let mut tokens = encoded.get_ids().to_vec();
    if tokens.is_empty() {
        // An empty prompt: the text begins where a document does.
        tokens.extend(config.eos.first());
    }
    if let Some(token) = tokens.iter().find(|t| **t as usize >= config.vocab) {
        bad_input!("--prompt: the tokenizer gives token {token}, the model knows those below {}", config.vocab);
    }
    let prompt_len = tokens.len();
    let capacity = (prompt_len + max_tokens).min(config.context);

    let mut plan = alone.plan();
    let mut generator = Generator::plan(&mut plan, &config, capacity)?;
    if how.temperature <= 0.0 {
        generator = generator.likeliest(&mut plan);
    }
    let extent = Extent { activations: generator.activations(), ..gpu::extent(generator.decoder(), 1) };
    let dev = alone.open(&plan, &extent)?;

    let (dev, tokenizer) = (&dev, &tokenizer);
    dev.install(move || {
        // What pads the vocabulary belongs to no file, and fresh memory may hold anything.
        dev.clear(std::iter::once(generator.decoder().weights_range()));
        checkpoint::load_weights(dir, dev, generator.decoder().parameters())?;
        generator.prepare(dev);
        generator.feed(dev, &tokens)?;
        let started = Instant::now();
        let mut shown = 0;
        let text_of = |tokens: &[u32]| tokenizer.decode(&tokens[prompt_len..], true).unwrap_or_default();
        while tokens.len() - prompt_len < max_tokens {
            let next = generator.draw(dev, how, (tokens.len() - prompt_len) as u64);
            if config.eos.contains(&next) {
                break;
            }
            tokens.push(next);
            let text = text_of(&tokens);
            // An incomplete character ends in the replacement character until its last byte has come.
            if !text.ends_with('\u{fffd}') && text.is_char_boundary(shown) {
                piece(&text[shown..]);
                shown = text.len();
            }
            if generator.room() == 0 {
                break;
            }
            generator.feed(dev, &[next])?;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(Written { text: text_of(&tokens), tokens: tokens.len() - prompt_len, seconds })
    })
}

/// The configuration of the model in a Hugging Face directory.
pub fn config_of(dir: &Path) -> Result<Config> {
    let file: PathBuf = dir.join("config.json");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        let run = checkpoint::newest(dir).ok().flatten();
        let hint =
            run.map_or(String::new(), |newest| format!("; this is a run, whose newest checkpoint is {}", newest.display()));
        Error::Input(format!("{}: expected a model's directory with this file, found: {e}{hint}", file.display()))
    })?;
    let json = serde_json::from_str(&text).map_err(|e| Error::Input(format!("{}: expected JSON, found: {e}", file.display())))?;
    let (config, notes) = Config::from_hf(&json, &file)?;
    notes.iter().for_each(|note| log::info!("{note}"));
    Ok(config)
}

/// Reads a `tokenizer.json`.
pub fn open_tokenizer(file: &Path) -> Result<Tokenizer> {
    Tokenizer::from_file(file).map_err(|e| {
        Error::Input(format!("{}: expected a tokenizer.json (--tokenizer FILE names another), found: {e}", file.display()))
    })
}
