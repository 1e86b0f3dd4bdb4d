//! One token after another, with the keys and values of earlier tokens kept.
//!
//! ```text
//! feed(prompt)       one pass over all its rows, whose keys and values are kept     -> logits of the last
//! feed([token])      one row, which attends to what is kept                         -> its logits
//! draw               the next token, from the logits that the last feed left on the device
//! ```
use crate::bad_input;
use crate::device::Device;
use crate::error::Result;
use crate::model::block::{self, Cache, Rows};
use crate::model::config::Config;
use crate::model::{Decoder, Sampling, Shape, sample};
use crate::ops::{embedding, linear, norm};
use crate::tensor::{Kind, Plan, Tensor};

/// A model planned to write, and how far it has come.
pub struct Generator {
    decoder: Decoder,
    /// Keys and values of each layer, (capacity, K·D).
    kept: Vec<[Tensor; 2]>,
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
        Ok(Generator { decoder, kept, len: 0 })
    }

    /// The model: its parameters to be loaded or initialised, `prepare` to be called.
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

    /// Logits (1, padded V) of what follows the last token read.
    fn last(&self) -> Tensor {
        self.decoder.logits.rows(0, 1)
    }
    /// The same (V) on the host.
    pub fn logits(&self, dev: &Device) -> Vec<f32> {
        dev.read(self.last())[..self.decoder.config().vocab].to_vec()
    }
    /// Draw number `n` of `how`, from these logits.
    pub fn draw(&self, dev: &Device, how: &Sampling, n: u64) -> u32 {
        sample::draw(dev, self.last(), self.decoder.config().vocab, how, n)
    }

    /// Reads `tokens`, and has the logits of what follows the last.
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
        linear::forward(dev, d.logits.rows(0, 1), y, w.head, None, None);
        self.len += n;
    }
}
