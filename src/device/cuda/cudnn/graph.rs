//! Attention as cuDNN is told of it: graphs of products, sums and elementwise steps, which its engines recognise and fuse.
//!
//! ```text
//! forward     s = scale q kᵀ, −∞ where a key lies behind its row      p = e^(s − lse)  by max, Σ and log
//!             y = p v                                                  lse = max + log Σ e^(s − max)
//! backward    δ = Σ_d dy · y        p = e^(s − lse)        ds = scale p (dy vᵀ − δ)
//!             dq = ds k             dk = dsᵀ q             dv = pᵀ dy            dk, dv: Σ over heads that share them
//! ```
//! Deterministic: dq is the product's own output. With a sum in f32 of its own beside it (as cuDNN's samples have it) parts of
//! dq would be added by atomics, in any order. What this costs is that ds (B, H, T, T), in bf16, exists at once in the workspace.
//!
//! All is (B, H, T, D) in cuDNN's eyes; strides say where it lies: q, k and v are columns of one matrix, y and dy of another.
use super::descriptor::{Data, Descriptor, Kind, Name, Pointwise, Reduction};
use crate::error::Result;

/// Attention's sizes. Shapes of other ops do not come here, so that the module knows no op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sdpa {
    pub batch: usize,
    /// Query heads, and the key and value heads that they share.
    pub heads: usize,
    pub kv_heads: usize,
    /// Rows of a sequence, columns of a head.
    pub seq: usize,
    pub size: usize,
}

impl Sdpa {
    /// Columns of the first key head, and of the first value head, in a row of q, k and v.
    pub fn columns(&self) -> [usize; 3] {
        [0, self.heads * self.size, (self.heads + self.kv_heads) * self.size]
    }
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.size
    }
}

/// The operands that have an address when a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Numbers of what lies in no memory of ours.
const VIRTUAL: i64 = 100;

/// (B, H, T, D), or how many elements lie between neighbours of each.
type Four = [i64; 4];

/// A graph being written down. Tensors are known by their place in `tensors`.
struct Graph {
    tensors: Vec<Descriptor>,
    /// What operations are made of must stay while the graph does.
    kept: Vec<Descriptor>,
    operations: Vec<Descriptor>,
}

#[derive(Clone, Copy)]
struct Tensor(usize);

/// Where something lies in memory: sizes and strides.
#[derive(Clone, Copy)]
struct Lies {
    sizes: Four,
    strides: Four,
}

impl Lies {
    /// As it comes: no gaps.
    fn dense(sizes: Four) -> Lies {
        let [_, h, t, d] = sizes;
        Lies { sizes, strides: [h * t * d, t * d, d, 1] }
    }
    /// The same numbers, the last two axes exchanged.
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

impl Graph {
    fn tensor(&mut self, number: i64, kind: Data, lies: Lies, also: Option<Name>) -> Result<Tensor> {
        let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[number])?
            .with(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[kind])?
            .with(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &lies.sizes)?
            .with(Name::CUDNN_ATTR_TENSOR_STRIDES, &lies.strides)?
            .with(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16i64])?;
        let tensor = if let Some(also) = also { tensor.with(also, &[true])? } else { tensor };
        self.tensors.push(tensor.done()?);
        Ok(Tensor(self.tensors.len() - 1))
    }
    /// In memory of ours.
    fn operand(&mut self, which: Operand, kind: Data, lies: Lies) -> Result<Tensor> {
        self.tensor(which as i64, kind, lies, None)
    }
    /// An f32 that is handed over when the plan runs.
    fn number(&mut self, which: Operand) -> Result<Tensor> {
        let lies = Lies::dense([1; 4]);
        self.tensor(which as i64, Data::CUDNN_DATA_FLOAT, lies, Some(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE))
    }
    /// Between two operations: wherever cuDNN has it.
    fn between(&mut self, kind: Data, lies: Lies) -> Result<Tensor> {
        let number = VIRTUAL + self.tensors.len() as i64;
        self.tensor(number, kind, lies, Some(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL))
    }

    /// An operation: its attributes in order, after what it is.
    fn operation(&mut self, kind: Kind, how: Option<(Name, Descriptor)>, operands: &[(Name, Tensor)]) -> Result<()> {
        let mut operation = Descriptor::new(kind)?;
        if let Some((name, how)) = how {
            operation = operation.of(name, &[&how])?;
            self.kept.push(how);
        }
        for (name, tensor) in operands {
            operation = operation.of(*name, &[&self.tensors[tensor.0]])?;
        }
        self.operations.push(operation.done()?);
        Ok(())
    }

    fn multiply(&mut self, a: Tensor, b: Tensor, y: Tensor) -> Result<()> {
        let how = Descriptor::new(Kind::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_MATMUL_COMP_TYPE, &[Data::CUDNN_DATA_FLOAT])?
            .done()?;
        let operands = [
            (Name::CUDNN_ATTR_OPERATION_MATMUL_ADESC, a),
            (Name::CUDNN_ATTR_OPERATION_MATMUL_BDESC, b),
            (Name::CUDNN_ATTR_OPERATION_MATMUL_CDESC, y),
        ];
        let how = (Name::CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
        self.operation(Kind::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, Some(how), &operands)
    }

    /// y = mode(x), mode(x, b), or, for a selection, t ? x : b.
    fn map_into(&mut self, mode: Pointwise, y: Tensor, x: Tensor, b: Option<Tensor>, t: Option<Tensor>) -> Result<()> {
        self.map_along(mode, Data::CUDNN_DATA_FLOAT, None, y, x, b, t)
    }
    fn map_along(
        &mut self,
        mode: Pointwise,
        compute: Data,
        axis: Option<i64>,
        y: Tensor,
        x: Tensor,
        b: Option<Tensor>,
        t: Option<Tensor>,
    ) -> Result<()> {
        let how = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_POINTWISE_MODE, &[mode])?
            .with(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[compute])?;
        let how = if let Some(axis) = axis { how.with(Name::CUDNN_ATTR_POINTWISE_AXIS, &[axis])? } else { how };
        let mut operands = vec![(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x), (Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y)];
        operands.extend(b.map(|b| (Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b)));
        operands.extend(t.map(|t| (Name::CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t)));
        let how = (Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how.done()?);
        self.operation(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, Some(how), &operands)
    }
    /// The same, into something new of f32.
    fn map(&mut self, mode: Pointwise, lies: Lies, x: Tensor, b: Option<Tensor>) -> Result<Tensor> {
        let y = self.between(Data::CUDNN_DATA_FLOAT, lies)?;
        self.map_into(mode, y, x, b, None)?;
        Ok(y)
    }

    /// Over the axes that y has not.
    fn reduce(&mut self, mode: Reduction, y: Tensor, x: Tensor) -> Result<()> {
        let how = Descriptor::new(Kind::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_REDUCTION_OPERATOR, &[mode])?
            .with(Name::CUDNN_ATTR_REDUCTION_COMP_TYPE, &[Data::CUDNN_DATA_FLOAT])?
            .done()?;
        let operands = [(Name::CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x), (Name::CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y)];
        let how = (Name::CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
        self.operation(Kind::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, Some(how), &operands)
    }

    /// The same numbers, read along other axes.
    fn reshape(&mut self, kind: Data, lies: Lies, x: Tensor) -> Result<Tensor> {
        let y = self.between(kind, lies)?;
        let operands = [(Name::CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x), (Name::CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y)];
        self.operation(Kind::CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, None, &operands)?;
        Ok(y)
    }

    /// s, where no key lies behind its row.
    fn causal(&mut self, s: Tensor, lies: Lies) -> Result<Tensor> {
        let hidden = self.number(Operand::Hidden)?;
        let [rows, keys] = [self.between(Data::CUDNN_DATA_INT32, lies)?, self.between(Data::CUDNN_DATA_INT32, lies)?];
        let seen = self.between(Data::CUDNN_DATA_BOOLEAN, lies)?;
        let masked = self.between(Data::CUDNN_DATA_FLOAT, lies)?;
        let (index, compare) = (Pointwise::CUDNN_POINTWISE_GEN_INDEX, Pointwise::CUDNN_POINTWISE_CMP_GE);
        self.map_along(index, Data::CUDNN_DATA_INT32, Some(2), rows, s, None, None)?;
        self.map_along(index, Data::CUDNN_DATA_INT32, Some(3), keys, s, None, None)?;
        self.map_along(compare, Data::CUDNN_DATA_BOOLEAN, None, seen, rows, Some(keys), None)?;
        self.map_into(Pointwise::CUDNN_POINTWISE_BINARY_SELECT, masked, s, Some(hidden), Some(seen))?;
        Ok(masked)
    }

    fn done(self) -> Result<Written> {
        let operations: Vec<_> = self.operations.iter().collect();
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
            .of(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?
            .done()?;
        Ok(Written { graph, _parts: self })
    }
}

/// A graph that is complete.
pub struct Written {
    pub graph: Descriptor,
    _parts: Graph,
}

const F32: Data = Data::CUDNN_DATA_FLOAT;
const BF16: Data = Data::CUDNN_DATA_BFLOAT16;

impl Sdpa {
    fn start(&self) -> Graph {
        Graph { tensors: vec![], kept: vec![], operations: vec![] }
    }
    /// Columns of qkv or dqkv.
    fn in_qkv(&self, heads: usize) -> Lies {
        let [b, h, t, d, w] = [self.batch, heads, self.seq, self.size, self.width()].map(|n| n as i64);
        Lies { sizes: [b, h, t, d], strides: [t * w, d, w, 1] }
    }
    /// Columns of y or dy.
    fn in_y(&self) -> Lies {
        let [b, h, t, d] = [self.batch, self.heads, self.seq, self.size].map(|n| n as i64);
        Lies { sizes: [b, h, t, d], strides: [t * h * d, d, h * d, 1] }
    }
    /// (B·T, H) of f32.
    fn in_lse(&self) -> Lies {
        let [b, h, t] = [self.batch, self.heads, self.seq].map(|n| n as i64);
        Lies { sizes: [b, h, t, 1], strides: [t * h, 1, h, 1] }
    }
    fn scores(&self) -> Lies {
        let [b, h, t] = [self.batch, self.heads, self.seq].map(|n| n as i64);
        Lies::dense([b, h, t, t])
    }

    pub fn forward(&self) -> Result<Written> {
        let mut g = self.start();
        let s = self.scores();
        let q = g.operand(Operand::Q, BF16, self.in_qkv(self.heads))?;
        let keys = g.operand(Operand::K, BF16, self.in_qkv(self.kv_heads).transposed())?;
        let v = g.operand(Operand::V, BF16, self.in_qkv(self.kv_heads))?;
        let y = g.operand(Operand::Y, BF16, self.in_y())?;
        let lse = g.operand(Operand::Lse, F32, self.in_lse())?;
        let scale = g.number(Operand::Scale)?;

        let products = g.between(F32, s)?;
        g.multiply(q, keys, products)?;
        let scaled = g.map(Pointwise::CUDNN_POINTWISE_MUL, s, products, Some(scale))?;
        let scores = g.causal(scaled, s)?;
        let largest = g.between(F32, s.reduced())?;
        g.reduce(Reduction::CUDNN_REDUCE_TENSOR_MAX, largest, scores)?;
        let below = g.map(Pointwise::CUDNN_POINTWISE_SUB, s, scores, Some(largest))?;
        let weights = g.map(Pointwise::CUDNN_POINTWISE_EXP, s, below, None)?;
        let sum = g.between(F32, s.reduced())?;
        g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, sum, weights)?;
        let log = g.map(Pointwise::CUDNN_POINTWISE_LOG, s.reduced(), sum, None)?;
        g.map_into(Pointwise::CUDNN_POINTWISE_ADD, lse, largest, Some(log), None)?;
        let p = g.between(BF16, s)?;
        g.map_into(Pointwise::CUDNN_POINTWISE_DIV, p, weights, Some(sum), None)?;
        g.multiply(p, v, y)?;
        g.done()
    }

    pub fn backward(&self) -> Result<Written> {
        let mut g = self.start();
        let s = self.scores();
        let of_keys = self.in_qkv(self.kv_heads);
        let q = g.operand(Operand::Q, BF16, self.in_qkv(self.heads))?;
        let keys = g.operand(Operand::K, BF16, of_keys.transposed())?;
        let values = g.operand(Operand::V, BF16, of_keys.transposed())?;
        let y = g.operand(Operand::Y, BF16, self.in_y())?;
        let lse = g.operand(Operand::Lse, F32, self.in_lse())?;
        let dy = g.operand(Operand::Dy, BF16, self.in_y())?;
        let dq = g.operand(Operand::Dq, BF16, self.in_qkv(self.heads))?;
        let dk = g.operand(Operand::Dk, BF16, of_keys)?;
        let dv = g.operand(Operand::Dv, BF16, of_keys)?;
        // The engines want δ to lie in memory, and a step between the sum and there.
        let delta = g.operand(Operand::Delta, F32, s.reduced())?;
        let (scale, one) = (g.number(Operand::Scale)?, g.number(Operand::One)?);

        let products = g.map(Pointwise::CUDNN_POINTWISE_MUL, self.in_y(), dy, Some(y))?;
        let sums = g.between(F32, s.reduced())?;
        g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, sums, products)?;
        g.map_into(Pointwise::CUDNN_POINTWISE_MUL, delta, sums, Some(one), None)?;

        let products = g.between(F32, s)?;
        g.multiply(q, keys, products)?;
        let scores = g.map(Pointwise::CUDNN_POINTWISE_MUL, s, products, Some(scale))?;
        let below = g.map(Pointwise::CUDNN_POINTWISE_SUB, s, scores, Some(lse))?;
        let below = g.causal(below, s)?;
        let p = g.map(Pointwise::CUDNN_POINTWISE_EXP, s, below, None)?;
        let across = g.reshape(BF16, s.transposed(), p)?;
        self.of_heads(&mut g, dv, across, dy)?;

        let dp = g.between(F32, s)?;
        g.multiply(dy, values, dp)?;
        let dp = g.map(Pointwise::CUDNN_POINTWISE_SUB, s, dp, Some(delta))?;
        let ds = g.map(Pointwise::CUDNN_POINTWISE_MUL, s, dp, Some(p))?;
        let ds = g.map(Pointwise::CUDNN_POINTWISE_MUL, s, ds, Some(scale))?;
        let across = g.reshape(BF16, s.transposed(), ds)?;
        self.of_heads(&mut g, dk, across, q)?;
        let rows_of_keys = g.reshape(BF16, of_keys, keys)?;
        g.multiply(ds, rows_of_keys, dq)?;
        g.done()
    }

    /// y = a b; where heads share y, the sum of theirs.
    fn of_heads(&self, g: &mut Graph, y: Tensor, a: Tensor, b: Tensor) -> Result<()> {
        if self.heads == self.kv_heads {
            return g.multiply(a, b, y);
        }
        let [batch, h, t, d] = [self.batch, self.heads, self.seq, self.size].map(|n| n as i64);
        let each = g.between(BF16, Lies::dense([batch, h, t, d]))?;
        g.multiply(a, b, each)?;
        g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, y, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the engines read is where ops write: element (b, h, t, d) of each operand.
    #[test]
    fn operands_lie_where_ops_have_them() {
        let of = Sdpa { batch: 2, heads: 6, kv_heads: 3, seq: 5, size: 64 };
        let at = |lies: Lies, place: Four| place.iter().zip(lies.strides).map(|(n, s)| n * s).sum::<i64>();
        let width = (6 + 2 * 3) * 64;
        // row b T + t of qkv, column d of head h behind those of the queries and keys
        assert_eq!(at(of.in_qkv(3), [1, 2, 4, 7]) + of.columns()[2] as i64, (5 + 4) * width + (6 + 3 + 2) * 64 + 7);
        assert_eq!(at(of.in_qkv(3).transposed(), [1, 2, 7, 4]), at(of.in_qkv(3), [1, 2, 4, 7]));
        assert_eq!(at(of.in_y(), [1, 5, 4, 7]), (5 + 4) * 6 * 64 + 5 * 64 + 7);
        assert_eq!(at(of.in_lse(), [1, 5, 4, 0]), (5 + 4) * 6 + 5);
    }
}
