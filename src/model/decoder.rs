//! Embedding, blocks, head: one pass forwards for the loss, and one back for the gradients.
//!
//! ```text
//! x₀ = embedding(tokens)      xₗ₊₁ = blockₗ(xₗ)
//! for some rows at a time:    z = norm(x_L) headᵀ    loss += Σ −log softmax(z)[target]    dz in z's place
//! d = ∂L/∂x_L                 for l = L-1 … 0: d = block backwards(d)                     embedding backwards(d)
//! ```
//! `x` (rows, C) with rows = B·T. The logits of all rows, (B·T, V), never exist at once. With [`Recompute::Block`] one
//! set of activations serves every block, filled again by the same function just before it is needed.
use crate::device::{Device, Kept, range};
use crate::model::block::{self, Flight, Rows, Saved, Stream, Wiring};
use crate::model::config::{Config, Position};
use crate::model::layout::{self, Layout, Place};
use crate::model::{Group, Parameter, Pass, Schedule, init};
use crate::ops::gemm::Into;
use crate::ops::{elementwise, embedding, linear, loss, norm, rope};
use crate::tensor::{Kind, Plan, Tensor};
use std::ops::Range;

/// What the backward finds in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Every block's activations.
    None,
    /// Every block's input; the rest is computed again, block by block.
    Block,
}

/// The rows of one pass: `micro_batch` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub micro_batch: usize,
    pub seq: usize,
}

/// The tokens of one pass, B·T of each.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub tokens: &'a [u32],
    /// [`crate::ops::MASKED`] where a row counts for nothing.
    pub targets: &'a [u32],
    /// For each row the place in its sequence where its document begins; None: one document a sequence.
    pub starts: Option<&'a [u32]>,
    /// For each row its position; None: its place in its sequence.
    pub positions: Option<&'a [u32]>,
}

/// A planned model: where everything lies. The numbers are the device's.
pub struct Decoder {
    config: Config,
    shape: Shape,
    recompute: Recompute,
    pub(super) wiring: Wiring,
    pub(super) weights: Layout,
    training: Option<Training>,
    groups: Vec<Group>,
    parameters: Vec<Parameter>,
    places: Vec<Place>,
    /// x₀ … x_L, or two that alternate where no backward will follow.
    x: Vec<Tensor>,
    saved: Vec<Saved>,
    pub(super) normed: Tensor,
    pub(super) stats: Tensor,
    pub(super) logits: Tensor,
    /// Their gradient, which takes their place.
    dlogits: Tensor,
    /// Where the logits lie, and after them the gradients in flight but `n`.
    passing: Tensor,
}

/// What only the backward needs.
struct Training {
    grads: Layout,
    flight: Flight,
    /// ∂L/∂x of the block at hand.
    stream: Stream,
}

/// Measured: logits of about this many elements at once, so that they stay in cache between product, loss and product
/// (two cores of an AMD EPYC, V = 2,048, C = 256: 512 rows 0.97, 128 rows 1.04, 1,024 rows 1.15 s) …
const LOGITS: usize = 1 << 20;
/// … but never fewer rows than this, for which the head's matrix is packed and its gradient read each time (V = 50,304,
/// C = 768: 128 rows 4 % fewer tokens/s, 64 rows a quarter fewer). Where they fit in no cache anyway, training takes half as many as C, whose
/// logits are half as large as that gradient, or as many as fit where gradients lie afterwards.
const LOGIT_ROWS: usize = 256;
/// On a GPU at least so many elements, and as many as the gradients of a block take there afterwards: each chunk reads and writes the
/// head's gradient whole, 8 V C bytes. Measured (H100, V = 50,304, C = 1,600): 256 rows 210 TFLOP/s in the backward's products, which
/// other layers' reach 650 in.
const GPU_LOGITS: usize = 1 << 26;
/// Rows of a matrix product that a GPU cuts into whole tiles …
const TILE: usize = 128;
/// … and a processor into whole blocks: the widest of a kernel.
const BLOCK: usize = 32;

impl Decoder {
    /// For training: weights, gradients, activations. Groups are padded so that `ranks` divide them.
    pub fn plan(p: &mut Plan, config: &Config, shape: Shape, recompute: Recompute, ranks: usize) -> Decoder {
        Decoder::lay_out(p, config, shape, Some(recompute), ranks)
    }

    /// For evaluation: no gradients, and one set of activations.
    pub fn plan_inference(p: &mut Plan, config: &Config, shape: Shape, ranks: usize) -> Decoder {
        Decoder::lay_out(p, config, shape, None, ranks)
    }

    fn lay_out(p: &mut Plan, c: &Config, shape: Shape, training: Option<Recompute>, ranks: usize) -> Decoder {
        let rows = shape.micro_batch * shape.seq;
        let weights = Layout::plan(p, Kind::Parameters, c, ranks);
        p.weights();
        let grads = training.map(|_| Layout::plan(p, Kind::Gradients, c, ranks));
        let groups = weights.groups(grads.as_ref());
        // What products read: all but a table of tokens that is no head.
        let read = groups[usize::from(!c.tied)].weights.start..groups[c.layers + 1].weights.end;
        p.copy(Kind::Parameters, read);
        let (places, parameters) = layout::parameters(c, Some((&weights, grads.as_ref()))).into_iter().unzip();

        let wiring = Wiring::plan(p, c, shape.seq);
        let inputs = if training.is_some() { c.layers + 1 } else { 2 };
        let sets = if training == Some(Recompute::None) { c.layers } else { 1 };
        let x = (0..inputs).map(|_| p.matrix(Kind::Activations, rows, c.width)).collect();
        let act = p.makes_again().then(|| p.operand(Kind::Activations, rows, c.hidden));
        let saved: Vec<Saved> = (0..sets).map(|_| Saved::plan(p, c, rows, act)).collect();
        let normed = p.operand(Kind::Activations, rows, c.width);
        let stats = p.matrix(Kind::Activations, rows, 2);
        let in_flight = grads.map(|grads| (grads, p.matrix(Kind::Activations, rows, c.width)));
        let back = |p: &mut Plan, n| (Flight::plan(p, Kind::Workspace, &saved[0], n), Stream::plan(p, Kind::Workspace, c, rows));
        let taken = in_flight.as_ref().map_or(0, |(_, n)| p.taken_by(|p| back(p, *n)));
        let rows_of = |logits: usize| logits / c.vocab_rows();
        let (tile, most) = if p.streams() {
            (TILE, LOGIT_ROWS.max(rows_of(GPU_LOGITS)).max(rows_of(taken)))
        } else if in_flight.is_some() && LOGIT_ROWS > rows_of(LOGITS) {
            (BLOCK, LOGIT_ROWS.max(c.width / 2).max(rows_of(taken)))
        } else {
            (BLOCK, LOGIT_ROWS.max(rows_of(LOGITS)))
        };
        let even = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(tile).min(rows);
        let (passing, logits, training) = p.in_turn(
            Kind::Workspace,
            |p| p.matrix(Kind::Workspace, even, c.vocab_rows()),
            |p| {
                in_flight.map(|(grads, n)| {
                    let (flight, stream) = back(p, n);
                    Training { grads, flight, stream }
                })
            },
        );
        let dlogits = p.operand_within(logits);
        // A set for every block leaves nothing to compute again.
        let recompute = if sets == c.layers { Recompute::None } else { Recompute::Block };
        let config = c.clone();
        Decoder {
            config,
            shape,
            recompute,
            wiring,
            weights,
            training,
            groups,
            parameters,
            places,
            x,
            saved,
            normed,
            stats,
            logits,
            dlogits,
            passing,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
    pub fn shape(&self) -> Shape {
        self.shape
    }
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
    /// What may be kept in the numbers that products read: all that flows forwards and backwards, but no statistics.
    pub fn activations(&self) -> Vec<Tensor> {
        let n = self.training.iter().map(|t| t.flight.n);
        let saved = self.saved.iter().flat_map(Saved::activations);
        self.x.iter().copied().chain(saved).chain(n).chain([self.normed, self.passing]).collect()
    }
    /// Whether a product leaves keys and values in bf16, which is then how they are kept.
    pub(super) fn keys_in_bf16(&self) -> bool {
        self.saved[0].qkv.half
    }
    /// Rows whose logits exist at once.
    pub fn logit_rows(&self) -> usize {
        self.logits.rows
    }
    /// Where the weights of all groups lie.
    pub fn weights_range(&self) -> Range<usize> {
        let [first, last] = [self.groups.first(), self.groups.last()].map(|group| group.expect("a model has groups"));
        first.weights.start..last.weights.end
    }
    /// In the order of the files.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Fills what is constant: the angles of rotary positions. Call once, when the device has its memory.
    pub fn prepare(&self, dev: &Device) {
        if let (Some(angles), Position::Rotary { theta, scaling }) = (self.wiring.angles, self.config.position) {
            rope::table(dev, angles, theta, scaling);
        }
    }

    /// First values of every parameter: a function of (seed, name, index).
    pub fn init(&self, dev: &Device, seed: u64) {
        for (place, parameter) in self.places.iter().zip(&self.parameters) {
            init::fill(dev, &self.config, *place, parameter, seed);
        }
    }

    /// The groups in the order in which a pass of training visits them, as [`Schedule::need`] will say.
    pub fn itinerary(&self) -> Vec<(usize, Pass)> {
        let last = self.config.layers + 1;
        let forward = (0..=last).map(|group| (group, Pass::Forward));
        let head = [last].into_iter().chain(self.config.tied.then_some(0));
        let blocks = (1..last).rev();
        forward.chain(head.chain(blocks).map(|group| (group, Pass::Backward))).collect()
    }

    /// Σ of the loss over the targets, in nats, or 0 where the device keeps it ([`Device::take`]): nothing waits here.
    /// Gradients += `scale` · ∂Σ/∂parameter, or =, as [`Schedule::open`] answers.
    ///
    /// Panics on a decoder that was planned for inference, and where the input is not B·T tokens.
    pub fn forward_backward(&self, dev: &Device, input: &Input, scale: f32, on: &mut impl Schedule) -> f64 {
        let Training { grads, flight, stream } = self.training.as_ref().expect("this decoder was planned without gradients");
        let (c, w, d, last) = (&self.config, &self.weights, stream.d, self.config.layers + 1);
        let rows = input.rows();
        self.forward(dev, input, on);

        let _range = range(|| "backward".into());
        on.need(last, Pass::Backward);
        let mut into = self.open(dev, last, on);
        if c.tied {
            on.need(0, Pass::Backward);
            into = self.open(dev, 0, on);
        }
        let mut total = 0.0;
        for (first, z) in self.chunks() {
            let _part = dev.part("head");
            let (y, dy) = (self.normed.rows(first, z.rows), flight.n.rows(first, z.rows));
            let dz = self.dlogits.rows(0, z.rows);
            linear::forward(dev, z, y, w.head, None, None);
            total += loss::cross_entropy(dev, dz, z, &input.targets[first..first + z.rows], c.vocab, scale);
            linear::backward(dev, dy, grads.head, None, dz, y, w.head, into);
            into = Into::Add;
        }
        if c.tied {
            on.done(0, Pass::Backward);
        }
        elementwise::zero(dev, d);
        let (g, x) = (&grads.norm, self.x(c.layers));
        norm::backward(dev, c.norm, d, g.gamma, g.beta, flight.n, x, self.stats, w.norm.gamma, stream.beneath(dev));
        on.done(last, Pass::Backward);
        on.ready(last);

        for l in (0..c.layers).rev() {
            let (group, x, s) = (l + 1, self.x(l), self.saved(l));
            let _range = range(|| format!("block {l}"));
            on.need(group, Pass::Backward);
            if self.recompute == Recompute::Block {
                block::fill(dev, &self.wiring, x, &w.blocks[l], s, &rows);
            }
            let into = self.open(dev, group, on);
            block::backward(dev, &self.wiring, stream, x, &w.blocks[l], &grads.blocks[l], s, flight, &rows, into);
            on.done(group, Pass::Backward);
            on.ready(group);
        }

        if !c.tied {
            self.open(dev, 0, on);
        }
        embedding::backward(dev, grads.tokens, grads.positions, d, input.tokens, self.shape.seq, c.offset(), input.positions);
        on.ready(0);
        total
    }

    /// Opens the gradients of `group`. Where nothing is there yet, what is summed up gets its zeros; what a product writes needs none.
    fn open(&self, dev: &Device, group: usize, on: &mut impl Schedule) -> Into {
        let into = on.open(group);
        if into == Into::Overwrite {
            let (g, grads) = (&self.groups[group], self.training.as_ref().map(|t| &t.grads).expect("gradients"));
            // the rows that tokens have read, unless the head's product comes before them
            let from = match group {
                0 if self.config.tied => grads.tokens.end(),
                0 => g.grads.start,
                _ => g.grads.start + g.decayed,
            };
            elementwise::zero(dev, Tensor::range(from, g.grads.end));
        }
        into
    }

    /// Σ of the loss over the targets, in nats.
    pub fn loss(&self, dev: &Device, input: &Input, on: &mut impl Schedule) -> f64 {
        let mut total = 0.0;
        self.head(dev, input, on, |first, z| {
            total += loss::cross_entropy_only(dev, z, &input.targets[first..first + z.rows], self.config.vocab);
        });
        total + dev.take(Kept::Loss)
    }

    /// The logits of every row, (B·T, V), on the host: for tests and small models.
    pub fn logits(&self, dev: &Device, input: &Input, on: &mut impl Schedule) -> Vec<f32> {
        let mut all = vec![];
        self.head(dev, input, on, |_, z| {
            for row in dev.read(z).chunks(z.cols) {
                all.extend_from_slice(&row[..self.config.vocab]);
            }
        });
        all
    }

    /// x₀ … x_L, and the final norm.
    fn forward(&self, dev: &Device, input: &Input, on: &mut impl Schedule) {
        let (c, w, rows) = (&self.config, &self.weights, self.shape.micro_batch * self.shape.seq);
        let _range = range(|| "forward".into());
        assert_eq!((input.tokens.len(), input.targets.len()), (rows, rows), "tokens and targets of {:?}", self.shape);
        on.need(0, Pass::Forward);
        embedding::forward(dev, self.x(0), input.tokens, self.shape.seq, w.tokens, w.positions, c.offset(), input.positions);
        on.done(0, Pass::Forward);
        for l in 0..c.layers {
            let _range = range(|| format!("block {l}"));
            on.need(l + 1, Pass::Forward);
            block::forward(dev, &self.wiring, self.x(l + 1), self.x(l), &w.blocks[l], self.saved(l), &input.rows());
            on.done(l + 1, Pass::Forward);
        }
        on.need(c.layers + 1, Pass::Forward);
        let x = self.x(c.layers);
        norm::forward(dev, c.norm, c.norm_eps, self.normed, self.stats, x, w.norm.gamma, w.norm.beta);
        on.done(c.layers + 1, Pass::Forward);
    }

    /// The forward, then the logits, some rows at a time: `each(first row, logits)`.
    fn head(&self, dev: &Device, input: &Input, on: &mut impl Schedule, mut each: impl FnMut(usize, Tensor)) {
        let head = if self.config.tied { 0 } else { self.config.layers + 1 };
        self.forward(dev, input, on);
        on.need(head, Pass::Forward);
        for (first, z) in self.chunks() {
            let _part = dev.part("head");
            linear::forward(dev, z, self.normed.rows(first, z.rows), self.weights.head, None, None);
            each(first, z);
        }
        on.done(head, Pass::Forward);
    }

    /// First row and place of the logits of each chunk of rows.
    fn chunks(&self) -> impl Iterator<Item = (usize, Tensor)> + '_ {
        let (rows, most) = (self.normed.rows, self.logits.rows);
        (0..rows).step_by(most).map(move |first| (first, self.logits.rows(0, most.min(rows - first))))
    }

    pub(super) fn x(&self, l: usize) -> Tensor {
        self.x[l % self.x.len()]
    }
    pub(super) fn saved(&self, l: usize) -> &Saved {
        &self.saved[l % self.saved.len()]
    }
}

impl<'a> Input<'a> {
    fn rows(&self) -> Rows<'a> {
        Rows { starts: self.starts, positions: self.positions, cache: None }
    }
}
