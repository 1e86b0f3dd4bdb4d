//! Attention as cuDNN is told of it: graphs of products, sums and elementwise steps, which its engines recognise and fuse.
//!
//! ```text
//! forward     s = scale q kᵀ, −∞ where a key lies behind its row      p = e^(s − max) / Σ
//!             y = p v                                                  lse = max + log Σ e^(s − max)
//! backward    δ = Σ_d dy · y        p = e^(s − lse)        ds = scale p (dy vᵀ − δ)
//!             dq = ds k             dk = dsᵀ q             dv = pᵀ dy            dk, dv: Σ over heads that share them
//! ```
//! Deterministic: dq is the product's own output. With a sum in f32 of its own beside it (as cuDNN's samples have it) parts of
//! dq would be added by atomics, in any order. What this costs is that ds (B, H, T, T), in bf16, exists at once in the workspace.
//!
//! All is (B, H, T, D) in cuDNN's eyes; strides say where it lies: q, k and v are columns of one matrix, y and dy of another.
//! A graph is plain data here; `write.rs` tells cuDNN. The unit test carries it out, element by element.

/// Attention's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sdpa {
    pub batch: usize,
    /// Query heads, and the key and value heads that they share.
    pub heads: usize,
    pub kv_heads: usize,
    /// Rows of a sequence, columns of a head.
    pub seq: usize,
    pub size: usize,
}

impl std::fmt::Display for Sdpa {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Sdpa { batch, heads, kv_heads, seq, size } = self;
        write!(f, "{batch} sequences of {seq} rows, {heads} query and {kv_heads} key heads of {size} columns")
    }
}

/// What has an address when a plan runs: memory of ours, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i64)]
pub enum Operand {
    Q = 1,
    K,
    V,
    Y,
    Lse,
    Dy,
    Dq,
    Dk,
    Dv,
    Delta,
    Scale,
    /// −∞, or nearly
    Hidden,
    One,
}

impl Operand {
    /// f32, handed over with the addresses.
    pub fn is_number(self) -> bool {
        matches!(self, Operand::Scale | Operand::Hidden | Operand::One)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    Bf16,
    Integer,
    Truth,
}

/// (B, H, T, D) and, for each, how many elements lie between neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lies {
    pub sizes: [usize; 4],
    pub strides: [usize; 4],
}

impl Lies {
    /// As it comes: no gaps.
    fn dense(sizes: [usize; 4]) -> Lies {
        let [_, h, t, d] = sizes;
        Lies { sizes, strides: [h * t * d, t * d, d, 1] }
    }
    /// The same memory, the last two axes exchanged.
    fn transposed(self) -> Lies {
        let ([b, h, t, d], [sb, sh, st, sd]) = (self.sizes, self.strides);
        Lies { sizes: [b, h, d, t], strides: [sb, sh, sd, st] }
    }
    /// One number in place of each row.
    fn reduced(self) -> Lies {
        let [b, h, t, _] = self.sizes;
        Lies::dense([b, h, t, 1])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// None: between two steps, wherever cuDNN has it.
    pub operand: Option<Operand>,
    pub kind: Kind,
    pub lies: Lies,
}

/// A tensor's place in [`Graph::tensors`].
pub type Place = usize;

/// Of one, two or three: f(x), f(x, b), f(x, b, t).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    Multiply,
    Add,
    Subtract,
    Divide,
    Exp,
    Log,
    AtLeast,
    /// t ? x : b
    Select,
    /// The place along an axis, whatever x is.
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Add,
    Largest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// y = a b for each sequence and head; where b has fewer heads, so many of a's in a row share one.
    Product { y: Place, a: Place, b: Place },
    /// An axis of length 1 goes with all of x's.
    Map { y: Place, how: Map, of: Vec<Place> },
    /// Over what y is shorter in; fewer heads: so many in a row.
    Sum { y: Place, how: Sum, x: Place },
    /// y is x's memory, read along other axes.
    Reshape { y: Place, x: Place },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    pub tensors: Vec<Tensor>,
    pub steps: Vec<Step>,
}

impl Graph {
    fn tensor(&mut self, operand: Option<Operand>, kind: Kind, lies: Lies) -> Place {
        self.tensors.push(Tensor { operand, kind, lies });
        self.tensors.len() - 1
    }
    fn operand(&mut self, which: Operand, kind: Kind, lies: Lies) -> Place {
        self.tensor(Some(which), kind, lies)
    }
    fn number(&mut self, which: Operand) -> Place {
        self.tensor(Some(which), Kind::F32, Lies::dense([1; 4]))
    }
    fn product(&mut self, y: Place, a: Place, b: Place) {
        self.steps.push(Step::Product { y, a, b });
    }
    fn map_into(&mut self, y: Place, how: Map, of: &[Place]) {
        self.steps.push(Step::Map { y, how, of: of.to_vec() });
    }
    /// Of x's shape, into something new.
    fn map(&mut self, kind: Kind, how: Map, of: &[Place]) -> Place {
        let y = self.tensor(None, kind, self.tensors[of[0]].lies);
        self.map_into(y, how, of);
        y
    }
    fn f32(&mut self, how: Map, of: &[Place]) -> Place {
        self.map(Kind::F32, how, of)
    }
    fn sum(&mut self, y: Place, how: Sum, x: Place) {
        self.steps.push(Step::Sum { y, how, x });
    }
    fn reshape(&mut self, kind: Kind, lies: Lies, x: Place) -> Place {
        let y = self.tensor(None, kind, lies);
        self.steps.push(Step::Reshape { y, x });
        y
    }
    /// s where the key does not lie behind its row, elsewhere −∞.
    fn causal(&mut self, s: Place) -> Place {
        let hidden = self.number(Operand::Hidden);
        let [rows, keys] = [2, 3].map(|axis| self.map(Kind::Integer, Map::Index(axis), &[s]));
        let seen = self.map(Kind::Truth, Map::AtLeast, &[rows, keys]);
        self.f32(Map::Select, &[s, hidden, seen])
    }
}

impl Sdpa {
    /// Where queries, keys and values begin in a row of qkv.
    pub fn columns(&self) -> [usize; 3] {
        [0, self.heads * self.size, (self.heads + self.kv_heads) * self.size]
    }
    /// Some columns of qkv or dqkv.
    fn in_qkv(&self, heads: usize) -> Lies {
        let width = (self.heads + 2 * self.kv_heads) * self.size;
        Lies { sizes: [self.batch, heads, self.seq, self.size], strides: [self.seq * width, self.size, width, 1] }
    }
    /// y or dy.
    fn in_y(&self) -> Lies {
        let width = self.heads * self.size;
        Lies { sizes: [self.batch, self.heads, self.seq, self.size], strides: [self.seq * width, self.size, width, 1] }
    }
    /// (B·T, H)
    fn in_lse(&self) -> Lies {
        let h = self.heads;
        Lies { sizes: [self.batch, h, self.seq, 1], strides: [self.seq * h, 1, h, 1] }
    }
    fn scores(&self) -> Lies {
        Lies::dense([self.batch, self.heads, self.seq, self.seq])
    }

    /// Y and Lse of Q, K and V.
    pub fn forward(&self) -> Graph {
        let mut g = Graph::default();
        let s = self.scores();
        let q = g.operand(Operand::Q, Kind::Bf16, self.in_qkv(self.heads));
        let keys = g.operand(Operand::K, Kind::Bf16, self.in_qkv(self.kv_heads).transposed());
        let v = g.operand(Operand::V, Kind::Bf16, self.in_qkv(self.kv_heads));
        let y = g.operand(Operand::Y, Kind::Bf16, self.in_y());
        let lse = g.operand(Operand::Lse, Kind::F32, self.in_lse());
        let scale = g.number(Operand::Scale);

        let products = g.tensor(None, Kind::F32, s);
        g.product(products, q, keys);
        let scores = g.f32(Map::Multiply, &[products, scale]);
        let scores = g.causal(scores);
        let largest = g.tensor(None, Kind::F32, s.reduced());
        g.sum(largest, Sum::Largest, scores);
        let below = g.f32(Map::Subtract, &[scores, largest]);
        let weights = g.f32(Map::Exp, &[below]);
        let sum = g.tensor(None, Kind::F32, s.reduced());
        g.sum(sum, Sum::Add, weights);
        let log = g.f32(Map::Log, &[sum]);
        g.map_into(lse, Map::Add, &[largest, log]);
        let p = g.map(Kind::Bf16, Map::Divide, &[weights, sum]);
        g.product(y, p, v);
        g
    }

    /// Dq, Dk and Dv of Dy and all of the forward's; Delta is written on the way.
    pub fn backward(&self) -> Graph {
        let mut g = Graph::default();
        let (s, of_keys) = (self.scores(), self.in_qkv(self.kv_heads));
        let q = g.operand(Operand::Q, Kind::Bf16, self.in_qkv(self.heads));
        let keys = g.operand(Operand::K, Kind::Bf16, of_keys.transposed());
        let values = g.operand(Operand::V, Kind::Bf16, of_keys.transposed());
        let y = g.operand(Operand::Y, Kind::Bf16, self.in_y());
        let lse = g.operand(Operand::Lse, Kind::F32, self.in_lse());
        let dy = g.operand(Operand::Dy, Kind::Bf16, self.in_y());
        let dq = g.operand(Operand::Dq, Kind::Bf16, self.in_qkv(self.heads));
        let dk = g.operand(Operand::Dk, Kind::Bf16, of_keys);
        let dv = g.operand(Operand::Dv, Kind::Bf16, of_keys);
        // The engines want δ to lie in memory, and a step between the sum and there.
        let delta = g.operand(Operand::Delta, Kind::F32, s.reduced());
        let (scale, one) = (g.number(Operand::Scale), g.number(Operand::One));

        let products = g.f32(Map::Multiply, &[dy, y]);
        let sums = g.tensor(None, Kind::F32, s.reduced());
        g.sum(sums, Sum::Add, products);
        g.map_into(delta, Map::Multiply, &[sums, one]);

        let products = g.tensor(None, Kind::F32, s);
        g.product(products, q, keys);
        let scores = g.f32(Map::Multiply, &[products, scale]);
        let below = g.f32(Map::Subtract, &[scores, lse]);
        let below = g.causal(below);
        let p = g.f32(Map::Exp, &[below]);
        let across = g.reshape(Kind::Bf16, s.transposed(), p);
        self.of_heads(&mut g, dv, across, dy);

        let dp = g.tensor(None, Kind::F32, s);
        g.product(dp, dy, values);
        let dp = g.f32(Map::Subtract, &[dp, delta]);
        let ds = g.f32(Map::Multiply, &[dp, p]);
        let ds = g.f32(Map::Multiply, &[ds, scale]);
        let across = g.reshape(Kind::Bf16, s.transposed(), ds);
        self.of_heads(&mut g, dk, across, q);
        let rows_of_keys = g.reshape(Kind::Bf16, of_keys, keys);
        g.product(dq, ds, rows_of_keys);
        g
    }

    /// y = a b; where heads share y, the sum of theirs.
    fn of_heads(&self, g: &mut Graph, y: Place, a: Place, b: Place) {
        if self.heads == self.kv_heads {
            return g.product(y, a, b);
        }
        let each = g.tensor(None, Kind::Bf16, Lies::dense([self.batch, self.heads, self.seq, self.size]));
        g.product(each, a, b);
        g.sum(y, Sum::Add, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::attention::{self, Heads};
    use crate::tensor::{Kind as Use, Plan};
    use std::collections::BTreeMap;

    /// Every place of a shape.
    fn places(sizes: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
        let [b, h, t, d] = sizes;
        (0..b * h * t * d).map(move |i| [i / (h * t * d), i / (t * d) % h, i / d % t, i % d])
    }

    /// A graph carried out step by step in f64. Operands are a memory and where in it they begin; what is between lies in
    /// memories of its own.
    struct Machine<'a> {
        graph: &'a Graph,
        operands: BTreeMap<Operand, (usize, usize)>,
        memories: Vec<Vec<f64>>,
        between: BTreeMap<Place, usize>,
    }

    impl Machine<'_> {
        fn memory(&mut self, t: Place) -> (usize, usize) {
            match self.graph.tensors[t].operand {
                Some(which) => self.operands[&which],
                None => (self.between[&t], 0),
            }
        }
        /// An axis of length 1 has one number for all; fewer heads: so many in a row share one.
        fn at(&mut self, t: Place, place: [usize; 4], heads: usize) -> (usize, usize) {
            let (memory, from) = self.memory(t);
            let Lies { sizes, strides } = self.graph.tensors[t].lies;
            let axis = |k: usize| match (k, sizes[k]) {
                (_, 1) => 0,
                (1, own) if own < heads => place[1] / (heads / own),
                _ => place[k],
            };
            (memory, from + (0..4).map(|k| axis(k) * strides[k]).sum::<usize>())
        }
        fn read(&mut self, t: Place, place: [usize; 4], heads: usize) -> f64 {
            let (memory, at) = self.at(t, place, heads);
            self.memories[memory][at]
        }
        fn write(&mut self, t: Place, place: [usize; 4], x: f64) {
            let (memory, at) = self.at(t, place, 0);
            self.memories[memory][at] = x;
        }
        fn make(&mut self, y: Place) {
            let Tensor { operand, lies, .. } = self.graph.tensors[y];
            if operand.is_none() {
                let elements = (0..4).map(|k| (lies.sizes[k] - 1) * lies.strides[k]).sum::<usize>() + 1;
                self.between.insert(y, self.memories.len());
                self.memories.push(vec![f64::NAN; elements]);
            }
        }

        fn run(&mut self) {
            for step in &self.graph.steps {
                match step {
                    Step::Reshape { y, x } => {
                        let (memory, from) = self.memory(*x);
                        match from {
                            0 => drop(self.between.insert(*y, memory)),
                            _ => {
                                self.between.insert(*y, self.memories.len());
                                self.memories.push(self.memories[memory][from..].to_vec());
                            }
                        }
                    }
                    Step::Product { y, a, b } => {
                        self.make(*y);
                        let [_, heads, _, inner] = self.graph.tensors[*a].lies.sizes;
                        for place @ [s, h, row, col] in places(self.graph.tensors[*y].lies.sizes) {
                            let mut sum = 0.0;
                            for k in 0..inner {
                                sum += self.read(*a, [s, h, row, k], heads) * self.read(*b, [s, h, k, col], heads);
                            }
                            self.write(*y, place, sum);
                        }
                    }
                    Step::Map { y, how, of } => {
                        self.make(*y);
                        for place in places(self.graph.tensors[*y].lies.sizes) {
                            let v: Vec<f64> = of.iter().map(|t| self.read(*t, place, 0)).collect();
                            let found = match how {
                                Map::Multiply => v[0] * v[1],
                                Map::Add => v[0] + v[1],
                                Map::Subtract => v[0] - v[1],
                                Map::Divide => v[0] / v[1],
                                Map::Exp => v[0].exp(),
                                Map::Log => v[0].ln(),
                                Map::AtLeast => f64::from(u8::from(v[0] >= v[1])),
                                Map::Select => v[if v[2] == 1.0 { 0 } else { 1 }],
                                Map::Index(axis) => place[*axis] as f64,
                            };
                            self.write(*y, place, found);
                        }
                    }
                    Step::Sum { y, how, x } => {
                        self.make(*y);
                        let sizes = self.graph.tensors[*x].lies.sizes;
                        let mut seen = std::collections::BTreeSet::new();
                        for place in places(sizes) {
                            let v = self.read(*x, place, 0);
                            let (memory, at) = self.at(*y, place, sizes[1]);
                            let to = &mut self.memories[memory][at];
                            *to = match (seen.insert((memory, at)), how) {
                                (true, _) => v,
                                (false, Sum::Add) => *to + v,
                                (false, Sum::Largest) => to.max(v),
                            };
                        }
                    }
                }
            }
        }
    }

    /// The graphs, on the memory that ops use, against the f64 reference of the op.
    #[test]
    fn the_graphs_are_attention() {
        for (batch, heads, kv_heads, seq, size) in [(2, 3, 3, 5, 4), (1, 6, 2, 7, 3), (3, 4, 1, 4, 2), (1, 1, 1, 1, 8)] {
            let of = Sdpa { batch, heads, kv_heads, seq, size };
            let h = Heads { q: heads, kv: kv_heads, size, seq };
            let (n, mut plan) = (batch * seq, Plan::default());
            let mut matrix = |cols| plan.matrix(Use::Activations, n, cols);
            let [qkv, dqkv] = [(); 2].map(|()| matrix(h.width()));
            let [y, dy] = [(); 2].map(|()| matrix(heads * size));
            let lse = matrix(heads);
            let dev = Device::reference(&plan).unwrap();
            for (t, k) in [(qkv, 0.7), (dy, 1.3)] {
                dev.write(t, &(0..t.len()).map(|i| (k * (i * i + 1) as f32).sin()).collect::<Vec<_>>());
            }
            attention::forward(&dev, y, lse, qkv, h, None);
            attention::backward(&dev, dqkv, None, dy, y, lse, qkv, h, None);
            let wide = |t| dev.read(t).into_iter().map(f64::from).collect::<Vec<f64>>();

            // qkv, y, lse, dqkv, dy, δ and the numbers
            let number = |x: f64| vec![x];
            let scale = 1.0 / (size as f64).sqrt();
            let mut memories = vec![wide(qkv), vec![f64::NAN; y.len()], vec![f64::NAN; lse.len()]];
            memories.extend([vec![f64::NAN; dqkv.len()], wide(dy), vec![f64::NAN; lse.len()]]);
            memories.extend([number(scale), number(f64::from(f32::MIN)), number(1.0)]);
            let [q, k, v] = of.columns();
            use Operand::*;
            let operands = [(Q, (0, q)), (K, (0, k)), (V, (0, v)), (Y, (1, 0)), (Lse, (2, 0)), (Dy, (4, 0)), (Dq, (3, q))];
            let operands = operands.into_iter().chain([(Dk, (3, k)), (Dv, (3, v)), (Delta, (5, 0)), (Scale, (6, 0))]);
            let operands: BTreeMap<_, _> = operands.chain([(Hidden, (7, 0)), (One, (8, 0))]).collect();
            for graph in [of.forward(), of.backward()] {
                let mut machine = Machine { graph: &graph, operands: operands.clone(), memories, between: BTreeMap::new() };
                machine.run();
                memories = machine.memories;
                memories.truncate(9);
            }
            for (name, found, t) in [("y", &memories[1], y), ("lse", &memories[2], lse), ("dqkv", &memories[3], dqkv)] {
                for (i, (found, exact)) in found.iter().zip(wide(t)).enumerate() {
                    let off = (found - exact).abs();
                    assert!(off <= 1e-5 * (1.0 + exact.abs()), "{of:?}: {name}[{i}] is {found} for {exact}");
                }
            }
        }
    }
}
