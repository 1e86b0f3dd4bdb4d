//! One token after another, with the keys and values of earlier tokens kept.
//!
//! ```text
//! feed(prompt)       one pass over all its rows, whose keys and values are kept     -> the last one's, before the head
//! feed([token])      one row, which attends to what is kept                         -> its own
//! draw               the next token, from the row that the last feed left on the device
//! ```
use crate::bad_input;
use crate::device::Device;
use crate::error::Result;
use crate::model::block::{self, Cache, Rows};
use crate::model::config::Config;
use crate::model::{Decoder, Sampling, Shape, sample};
use crate::ops::likeliest::Screen;
use crate::ops::{embedding, linear, norm};
use crate::tensor::{Kind, Plan, Tensor};

/// A model planned to write, and how far it has come.
pub struct Generator {
    decoder: Decoder,
    /// Keys and values of each layer, (capacity, K·D).
    kept: Vec<[Tensor; 2]>,
    /// Where the likeliest token is all that is asked for.
    screen: Option<Screen>,
    len: usize,
}

impl Generator {
    /// For texts of up to `capacity` tokens, prompt included.
    ///
    /// Errors: [`crate::error::Error::Input`] when the model's context is shorter than that.
    pub fn plan(p: &mut Plan, c: &Config, capacity: usize) -> Result<Generator> {
        c.validate(capacity)?;
        let decoder = Decoder::plan_inference(p, c, Shape { micro_batch: 1, seq: capacity }, 1);
        let (cols, half) = (c.kv_heads * c.head_dim, decoder.keys_in_bf16());
        let mut matrix = || p.like(Kind::Activations, Tensor { at: 0, rows: capacity, cols, half });
        let kept = (0..c.layers).map(|_| [matrix(), matrix()]).collect();
        Ok(Generator { decoder, kept, screen: None, len: 0 })
    }

    /// The same where only the likeliest tokens will be drawn, which on a processor in fp32 need not read the whole head: for half its
    /// memory once more.
    pub fn likeliest(mut self, p: &mut Plan) -> Generator {
        let w = self.decoder.weights.head;
        let reads_f32 = !p.streams() && p.copied().is_none() && p.narrow() == 0;
        self.screen = (reads_f32 && w.cols.is_multiple_of(2)).then(|| Screen::plan(p, [w.rows, w.cols]));
        self
    }

    /// Fills what is constant, or follows from the parameters. Call when these are there.
    pub fn prepare(&self, dev: &Device) {
        self.decoder.prepare(dev);
        self.screen.iter().for_each(|screen| screen.fill(dev, self.decoder.weights.head));
    }

    /// The model: its parameters to be loaded or initialised.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Tokens that can still be read.
    pub fn room(&self) -> usize {
        self.decoder.shape().seq - self.len
    }
    /// Forgets what was read.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// What may be kept in the numbers that products read: the decoder's, and the kept keys and values.
    pub fn activations(&self) -> Vec<Tensor> {
        self.decoder.activations().into_iter().chain(self.kept.iter().copied().flatten()).collect()
    }

    /// Computes the logits (1, padded V) of what follows the last token read.
    fn head(&self, dev: &Device) -> Tensor {
        let (d, z) = (&self.decoder, self.decoder.logits.rows(0, 1));
        linear::forward(dev, z, d.normed.rows(0, 1), d.weights.head, None, None);
        z
    }
    /// The same (V) on the host.
    pub fn logits(&self, dev: &Device) -> Vec<f32> {
        dev.read(self.head(dev))[..self.decoder.config().vocab].to_vec()
    }
    /// Draw number `n` of `how`, from these logits.
    pub fn draw(&self, dev: &Device, how: &Sampling, n: u64) -> u32 {
        let (d, vocab) = (&self.decoder, self.decoder.config().vocab);
        let screen = self.screen.as_ref().filter(|_| how.temperature <= 0.0);
        let found = screen.and_then(|s| s.likeliest(dev, d.logits.rows(0, 1), d.normed.rows(0, 1), d.weights.head, vocab));
        found.unwrap_or_else(|| sample::draw(dev, self.head(dev), vocab, how, n))
    }

    /// Reads `tokens`, and has what the logits of the next are made from.
    ///
    /// Errors: [`crate::error::Error::Input`] when there are none, or more than there is room for.
    pub fn feed(&mut self, dev: &Device, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            bad_input!("the prompt is empty, expected at least one token");
        }
        if tokens.len() > self.room() {
            let (new, room, capacity) = (tokens.len(), self.room(), self.decoder.shape().seq);
            bad_input!("{new} tokens are to be read, expected at most {room}: the context of {capacity} holds {}", self.len);
        }
        // The first rows see one another in one pass; a later row sees the kept ones.
        let together = if self.len == 0 { tokens.len() } else { 1 };
        tokens.chunks(together).for_each(|rows| self.pass(dev, rows));
        Ok(())
    }

    fn pass(&mut self, dev: &Device, tokens: &[u32]) {
        let (d, n) = (&self.decoder, tokens.len());
        let (c, w) = (d.config(), &d.weights);
        let mut wiring = d.wiring;
        wiring.heads.seq = n;
        let positions: Vec<u32> = (self.len..self.len + n).map(|p| p as u32).collect();
        let (saved, x) = (d.saved(0).first(n), |l: usize| d.x(l).rows(0, n));

        embedding::forward(dev, x(0), tokens, n, w.tokens, w.positions, c.offset(), Some(&positions));
        for (l, [keys, values]) in self.kept.iter().enumerate() {
            let cache = Cache { keys: *keys, values: *values, len: self.len + n };
            let rows = Rows { starts: None, positions: Some(&positions), cache: (self.len > 0).then_some(cache) };
            block::forward(dev, &wiring, x(l + 1), x(l), &w.blocks[l], &saved, &rows);
            if rows.cache.is_none() {
                cache.keep(dev, saved.qkv, wiring.heads);
            }
        }
        let (y, stats, last) = (d.normed.rows(0, 1), d.stats.rows(0, 1), x(c.layers).rows(n - 1, 1));
        norm::forward(dev, c.norm, c.norm_eps, y, stats, last, w.norm.gamma, w.norm.beta);
        self.len += n;
    }
}
