//! Training data: tokenized corpora mapped into memory, and the batch as a pure function of (seed, samples consumed).
//!
//! ```text
//! formats    files -> Corpus, a stream of N tokens        window i = tokens i·T … i·T + T: T inputs and, one on, T targets
//! blend      sample n -> (corpus, k-th draw of it)        ⌊(N − 1) / T⌋ windows, every target in one of them
//! permutation  draw k -> epoch k / windows, and the window at place k mod windows of that epoch's permutation
//! batch      step, pass, row, rank -> sample n            loader  the same, ahead of time
//! ```
//! Nothing here knows how far a run has come or how many ranks it has: whoever asks for samples `consumed ..` gets the same
//! ones, at once, on any layout.
pub mod batch;
pub mod blend;
pub mod facts;
pub mod formats;
pub mod loader;
pub mod mapped;
pub mod permutation;
mod synthetic;

pub use batch::{Batch, Share};
pub use blend::Spec;
pub use facts::{Facts, bytes_of, token_bytes, tokenizer_of};
pub use loader::Loader;
pub use mapped::Width;

use crate::error::Result;
use crate::{bad_input, ops};
use blend::Blend;
use formats::Corpus;
use permutation::{mix, permute};
use std::path::{Path, PathBuf};

/// What tokenize wrote down beside a corpus: `None` for corpora made elsewhere.
pub fn facts(corpus: &Path) -> Option<Facts> {
    facts::read(corpus)
}

/// The order of a corpus's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Every epoch a permutation of its own: training.
    Shuffled { seed: u64 },
    /// As they lie in the file: evaluation.
    AsWritten,
}

/// How windows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Targets of a window: T.
    pub seq: usize,
    /// Every token must be below it.
    pub vocab: usize,
    /// Token width of headerless files; `None`: the corpus's facts, else by vocabulary.
    pub width: Option<Width>,
    /// The end-of-text token, for corpora that do not say it; only `reset_attention` asks for it.
    pub eos: Option<u32>,
    /// No attention across documents, and positions restart. The first token of a document stays the target of the
    /// end-of-text token before it.
    pub reset_attention: bool,
}

/// Where samples come from.
pub struct Data {
    source: Source,
    reading: Reading,
}

enum Source {
    Corpora { corpora: Vec<Corpus>, blend: Blend, order: Order },
    Synthetic { seed: u64 },
}

impl Data {
    /// Opens corpora by their specs `path[:weight]`.
    ///
    /// # Errors
    /// `Input` for a bad spec, a corpus that is missing, truncated or shorter than a window, and for documents asked of a
    /// corpus that does not tell them.
    pub fn open<S: AsRef<str>>(specs: &[S], order: Order, reading: &Reading) -> Result<Data> {
        assert!(reading.seq > 0, "windows of {} targets", reading.seq);
        if specs.is_empty() {
            bad_input!("expected at least one corpus, found none");
        }
        let specs = specs.iter().map(|s| Spec::parse(s.as_ref())).collect::<Result<Vec<_>>>()?;
        let mut corpora = Vec::new();
        for spec in &specs {
            let corpus = Corpus::open(&spec.path, reading.width, reading.vocab)?;
            let (name, tokens) = (spec.path.display(), corpus.len());
            if tokens <= reading.seq as u64 {
                bad_input!("{name}: expected at least {} tokens, one window, found {tokens}", reading.seq as u64 + 1);
            }
            if reading.reset_attention && !corpus.is_indexed() && eos_of(&corpus, reading).is_none() {
                bad_input!("{name}: expected documents (an index, or an end-of-text token to part them), found neither");
            }
            corpora.push(corpus);
        }
        let weights: Vec<f64> = specs.iter().map(|s| s.weight).collect();
        Ok(Data { source: Source::Corpora { corpora, blend: Blend::new(&weights)?, order }, reading: *reading })
    }
    /// Random tokens, uniform over the vocabulary: a function of (seed, sample, place).
    pub fn synthetic(seed: u64, reading: &Reading) -> Data {
        Data { source: Source::Synthetic { seed }, reading: Reading { reset_attention: false, ..*reading } }
    }
    /// The corpora, in the order of their specs; none if synthetic.
    pub fn corpora(&self) -> &[Corpus] {
        match &self.source {
            Source::Corpora { corpora, .. } => corpora,
            Source::Synthetic { .. } => &[],
        }
    }
    /// Every file that tokens are read from.
    pub fn files(&self) -> Vec<PathBuf> {
        self.corpora().iter().flat_map(|c| c.shards()).map(|shard| shard.tokens.path().to_owned()).collect()
    }
    pub fn seq(&self) -> usize {
        self.reading.seq
    }
    /// Windows of all corpora together, which is what an epoch means; `None` for synthetic data, which has no end.
    pub fn windows(&self) -> Option<u64> {
        let corpora = self.corpora();
        (!corpora.is_empty()).then(|| corpora.iter().map(|c| self.windows_of(c)).sum())
    }
    /// A line a corpus, for people.
    pub fn describe(&self) -> Vec<String> {
        let Source::Corpora { corpora, blend, .. } = &self.source else {
            return vec![format!("synthetic tokens, uniform in 0 … {}", self.reading.vocab - 1)];
        };
        let line = |(c, share): (&Corpus, f64)| {
            let (shards, first) = (c.shards().len(), &c.shards()[0]);
            let files = if shards == 1 { String::new() } else { format!("{shards} shards, ") };
            let parts = if corpora.len() == 1 { String::new() } else { format!(", {:.4} of the samples", share) };
            let (format, bits) = (first.format, 8 * first.tokens.width().bytes());
            let (tokens, windows) = (c.len(), self.windows_of(c));
            format!("{}: {format}, {files}{tokens} tokens of {bits} bits, {windows} windows{parts}", c.path().display())
        };
        corpora.iter().zip(blend.shares()).map(line).collect()
    }
    /// A number on which all ranks must agree before they train together.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = facts::Fnv::default();
        self.corpora().iter().for_each(|c| hash.add(&c.fingerprint().to_le_bytes()));
        hash.value()
    }
    /// Holds every token of one of `parts` shares against the vocabulary; gives the tokens read. `--check-data`.
    ///
    /// # Errors
    /// `Input` with file, byte offset and value of a token that the vocabulary does not have.
    pub fn scan(&self, part: usize, parts: usize) -> Result<u64> {
        let scanned: Result<Vec<u64>> = self.corpora().iter().map(|c| c.scan(part, parts, self.reading.vocab)).collect();
        Ok(scanned?.iter().sum())
    }
    /// One rank's rows of pass `micro` in the step before which `consumed` samples were drawn.
    ///
    /// # Errors
    /// `Input` with file, byte offset and value of a token that the vocabulary does not have.
    pub fn batch(&self, consumed: u64, micro: usize, share: &Share) -> Result<Batch> {
        let mut batch = Batch::default();
        self.fill(consumed, micro, share, &mut batch)?;
        Ok(batch)
    }
    /// [`Data::batch`] into memory that is there already.
    pub fn fill(&self, consumed: u64, micro: usize, share: &Share, batch: &mut Batch) -> Result<()> {
        let (rows, t) = (share.micro_batch, self.reading.seq);
        batch.tokens.resize(rows * t, 0);
        batch.targets.resize(rows * t, 0);
        let documents = self.reading.reset_attention;
        batch.starts = documents.then(|| batch.starts.take().unwrap_or_default());
        batch.positions = documents.then(|| batch.positions.take().unwrap_or_default());
        batch.starts.iter_mut().chain(&mut batch.positions).for_each(|v| v.resize(rows * t, 0));
        let (mut window, mut first) = (vec![0; t + 1], Vec::new());
        for row in 0..rows {
            let place = row * t..(row + 1) * t;
            let sample = share.sample(micro, row);
            first.clear();
            match sample {
                Some(c) => self.window(consumed + c, &mut window, &mut first)?,
                None => window.fill(0),
            }
            batch.tokens[place.clone()].copy_from_slice(&window[..t]);
            match sample {
                Some(_) => batch.targets[place.clone()].copy_from_slice(&window[1..]),
                None => batch.targets[place.clone()].fill(ops::MASKED),
            }
            if let (Some(starts), Some(positions)) = (&mut batch.starts, &mut batch.positions) {
                documents_of(&first, &mut starts[place.clone()], &mut positions[place]);
            }
        }
        Ok(())
    }
    /// The T + 1 tokens of sample `n`, and the places among them at which documents start.
    fn window(&self, n: u64, window: &mut [u32], first: &mut Vec<usize>) -> Result<()> {
        let (corpora, blend, order) = match &self.source {
            Source::Corpora { corpora, blend, order } => (corpora, blend, order),
            Source::Synthetic { seed } => {
                synthetic::window(*seed, n, self.reading.vocab, window);
                return Ok(());
            }
        };
        let (c, k) = blend.at(n);
        let corpus = &corpora[c];
        let windows = self.windows_of(corpus);
        let (epoch, place) = (k / windows, k % windows);
        let i = match order {
            Order::Shuffled { seed } => permute(place, windows, mix(mix(mix(*seed) ^ c as u64) ^ epoch)),
            Order::AsWritten => place,
        };
        let at = i * self.reading.seq as u64;
        corpus.read(at, window, self.reading.vocab)?;
        if self.reading.reset_attention {
            corpus.document_starts(at, window, eos_of(corpus, &self.reading), first);
        }
        Ok(())
    }
    fn windows_of(&self, corpus: &Corpus) -> u64 {
        (corpus.len() - 1) / self.reading.seq as u64
    }
}

/// The corpus knows its end-of-text token better than the model's configuration.
fn eos_of(corpus: &Corpus, reading: &Reading) -> Option<u32> {
    corpus.facts().and_then(|f| f.eos).or(reading.eos)
}

/// From the places where documents start to each place's start and position. A document that began before the row counts
/// from the row's start.
fn documents_of(first: &[usize], starts: &mut [u32], positions: &mut [u32]) {
    let mut next = first.iter().copied().peekable();
    let mut start = 0;
    for (i, (s, p)) in starts.iter_mut().zip(positions).enumerate() {
        if next.next_if_eq(&i).is_some() {
            start = i;
        }
        (*s, *p) = (start as u32, (i - start) as u32);
    }
}
