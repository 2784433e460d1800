//! Taking tensors apart along their batch axis, and putting them together.

use std::ops::Range;

use selvedge_bundle::{NamedTensor, TensorData};

/// The samples `range` of a `[batch, axis…]` tensor.
pub(crate) fn rows(tensor: &NamedTensor, range: Range<usize>) -> NamedTensor {
    let shape = [vec![range.len()], tensor.shape()[1..].to_vec()].concat();
    named(tensor.name(), shape, slice(tensor, range))
}

/// Sample number `row` of a `[batch, axis…]` tensor, without the batch axis.
pub(crate) fn row(tensor: &NamedTensor, row: usize) -> NamedTensor {
    named(tensor.name(), tensor.shape()[1..].to_vec(), slice(tensor, row..row + 1))
}

/// The one sample of a `[1, axis…]` tensor, without the batch axis.
pub(crate) fn only_row(tensor: NamedTensor) -> NamedTensor {
    let (name, shape) = (tensor.name().to_owned(), tensor.shape()[1..].to_vec());
    named(&name, shape, tensor.into_data())
}

/// The tensor `[batch, axis…]` of samples that have `shape` each; there is at least one, and all have one type.
pub(crate) fn stacked(name: &str, shape: &[usize], samples: Vec<TensorData>) -> NamedTensor {
    let shape = [&[samples.len()], shape].concat();
    let data = samples.into_iter().reduce(joined).expect("a batch has at least one sample");
    named(name, shape, data)
}

/// The elements as `f64`; the largest `i64` are rounded.
pub(crate) fn elements(data: &TensorData) -> Box<dyn Iterator<Item = f64> + '_> {
    match data {
        TensorData::F32(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        TensorData::I8(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        TensorData::U8(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        TensorData::I32(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        TensorData::I64(values) => Box::new(values.iter().map(|value| *value as f64)),
    }
}

fn named(name: &str, shape: Vec<usize>, data: TensorData) -> NamedTensor {
    NamedTensor::new(name, shape, data).expect("whole samples fill their shape")
}

fn slice(tensor: &NamedTensor, range: Range<usize>) -> TensorData {
    let width: usize = tensor.shape()[1..].iter().product();
    let range = range.start * width..range.end * width;
    match tensor.data() {
        TensorData::F32(values) => TensorData::F32(values[range].to_vec()),
        TensorData::I8(values) => TensorData::I8(values[range].to_vec()),
        TensorData::U8(values) => TensorData::U8(values[range].to_vec()),
        TensorData::I32(values) => TensorData::I32(values[range].to_vec()),
        TensorData::I64(values) => TensorData::I64(values[range].to_vec()),
    }
}

fn joined(mut all: TensorData, next: TensorData) -> TensorData {
    match (&mut all, next) {
        (TensorData::F32(all), TensorData::F32(next)) => all.extend(next),
        (TensorData::I8(all), TensorData::I8(next)) => all.extend(next),
        (TensorData::U8(all), TensorData::U8(next)) => all.extend(next),
        (TensorData::I32(all), TensorData::I32(next)) => all.extend(next),
        (TensorData::I64(all), TensorData::I64(next)) => all.extend(next),
        _ => unreachable!("the samples of one batch have one type"),
    }
    all
}
