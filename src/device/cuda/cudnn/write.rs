//! A graph in cuDNN's descriptors.
use super::descriptor::{Data, Descriptor, Kind as What, Name, Pointwise, Reduction};
use super::graph::{Graph, Kind, Map, Step, Sum, Tensor};
use crate::error::Result;

/// Numbers of what lies in no memory of ours.
const VIRTUAL: i64 = 100;

/// A graph that cuDNN knows, and what it is made of, which must stay while it does.
pub struct Written {
    pub graph: Descriptor,
    _parts: Vec<Descriptor>,
}

pub fn write(graph: &Graph) -> Result<Written> {
    let tensors = graph.tensors.iter().enumerate().map(|(i, t)| tensor(i, t)).collect::<Result<Vec<_>>>()?;
    let mut parts = vec![];
    let mut operations = vec![];
    for step in &graph.steps {
        let (what, how, operands) = operation(step)?;
        let mut operation = Descriptor::new(what)?;
        if let Some((name, how)) = how {
            operation = operation.of(name, &[&how])?;
            parts.push(how);
        }
        for (name, place) in operands {
            operation = operation.of(name, &[&tensors[place]])?;
        }
        operations.push(operation.done()?);
    }
    let all: Vec<_> = operations.iter().collect();
    let graph = Descriptor::new(What::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    let graph = graph.of(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &all)?.done()?;
    parts.extend(operations);
    parts.extend(tensors);
    Ok(Written { graph, _parts: parts })
}

fn data(kind: Kind) -> Data {
    match kind {
        Kind::F32 => Data::CUDNN_DATA_FLOAT,
        Kind::Bf16 => Data::CUDNN_DATA_BFLOAT16,
        Kind::Integer => Data::CUDNN_DATA_INT32,
        Kind::Truth => Data::CUDNN_DATA_BOOLEAN,
    }
}

fn tensor(place: usize, t: &Tensor) -> Result<Descriptor> {
    let [sizes, strides] = [t.lies.sizes, t.lies.strides].map(|four| four.map(|n| n as i64));
    let number = t.operand.map_or(VIRTUAL + place as i64, |which| which as i64);
    let tensor = Descriptor::new(What::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[number])?
        .with(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[data(t.kind)])?
        .with(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &sizes)?
        .with(Name::CUDNN_ATTR_TENSOR_STRIDES, &strides)?
        .with(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16i64])?;
    match t.operand {
        None => tensor.with(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[true])?.done(),
        Some(which) if which.is_number() => tensor.with(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, &[true])?.done(),
        Some(_) => tensor.done(),
    }
}

/// What it is, how it is done, and its operands by cuDNN's names.
type Operation = (What, Option<(Name, Descriptor)>, Vec<(Name, usize)>);

fn operation(step: &Step) -> Result<Operation> {
    let float = [Data::CUDNN_DATA_FLOAT];
    Ok(match step {
        Step::Product { y, a, b } => {
            let how = Descriptor::new(What::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?;
            let how = how.with(Name::CUDNN_ATTR_MATMUL_COMP_TYPE, &float)?.done()?;
            let operands = vec![
                (Name::CUDNN_ATTR_OPERATION_MATMUL_ADESC, *a),
                (Name::CUDNN_ATTR_OPERATION_MATMUL_BDESC, *b),
                (Name::CUDNN_ATTR_OPERATION_MATMUL_CDESC, *y),
            ];
            let how = Some((Name::CUDNN_ATTR_OPERATION_MATMUL_DESC, how));
            (What::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, how, operands)
        }
        Step::Map { y, how, of } => {
            let (mode, compute) = match how {
                Map::Multiply => (Pointwise::CUDNN_POINTWISE_MUL, Data::CUDNN_DATA_FLOAT),
                Map::Add => (Pointwise::CUDNN_POINTWISE_ADD, Data::CUDNN_DATA_FLOAT),
                Map::Subtract => (Pointwise::CUDNN_POINTWISE_SUB, Data::CUDNN_DATA_FLOAT),
                Map::Divide => (Pointwise::CUDNN_POINTWISE_DIV, Data::CUDNN_DATA_FLOAT),
                Map::Exp => (Pointwise::CUDNN_POINTWISE_EXP, Data::CUDNN_DATA_FLOAT),
                Map::Log => (Pointwise::CUDNN_POINTWISE_LOG, Data::CUDNN_DATA_FLOAT),
                Map::AtLeast => (Pointwise::CUDNN_POINTWISE_CMP_GE, Data::CUDNN_DATA_BOOLEAN),
                Map::Select => (Pointwise::CUDNN_POINTWISE_BINARY_SELECT, Data::CUDNN_DATA_FLOAT),
                Map::Index(_) => (Pointwise::CUDNN_POINTWISE_GEN_INDEX, Data::CUDNN_DATA_INT32),
            };
            let descriptor = Descriptor::new(What::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_POINTWISE_MODE, &[mode])?
                .with(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[compute])?;
            let descriptor = match how {
                Map::Index(axis) => descriptor.with(Name::CUDNN_ATTR_POINTWISE_AXIS, &[*axis as i64])?,
                _ => descriptor,
            };
            let names = [
                Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                Name::CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
            ];
            let mut operands: Vec<_> = names.into_iter().zip(of.iter().copied()).collect();
            operands.push((Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *y));
            let how = Some((Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, descriptor.done()?));
            (What::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, how, operands)
        }
        Step::Sum { y, how, x } => {
            let mode = match how {
                Sum::Add => Reduction::CUDNN_REDUCE_TENSOR_ADD,
                Sum::Largest => Reduction::CUDNN_REDUCE_TENSOR_MAX,
            };
            let how = Descriptor::new(What::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_REDUCTION_OPERATOR, &[mode])?
                .with(Name::CUDNN_ATTR_REDUCTION_COMP_TYPE, &float)?
                .done()?;
            let operands =
                vec![(Name::CUDNN_ATTR_OPERATION_REDUCTION_XDESC, *x), (Name::CUDNN_ATTR_OPERATION_REDUCTION_YDESC, *y)];
            let how = Some((Name::CUDNN_ATTR_OPERATION_REDUCTION_DESC, how));
            (What::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, how, operands)
        }
        Step::Reshape { y, x } => {
            let operands = vec![(Name::CUDNN_ATTR_OPERATION_RESHAPE_XDESC, *x), (Name::CUDNN_ATTR_OPERATION_RESHAPE_YDESC, *y)];
            (What::CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, None, operands)
        }
    })
}
