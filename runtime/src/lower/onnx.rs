//! Reading an ONNX node and its constants: attributes by name, tensors as plain values.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

/// The values of a constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    F32(Vec<f32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// A constant tensor: an initialiser, or what a `Constant` node or folding made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

impl Constant {
    /// The constant that `tensor` holds, if its type is one that lowering reads.
    pub(super) fn of(tensor: &TensorProto) -> Option<Constant> {
        let shape: Vec<usize> = tensor
            .dims
            .iter()
            .map(|length| usize::try_from(*length).ok())
            .collect::<Option<_>>()?;
        let count = shape.iter().try_fold(1_usize, |all, length| all.checked_mul(*length))?;
        let raw = tensor.raw_data.as_slice();
        let narrow = tensor.int32_data.as_slice();
        let values = match DataType::try_from(tensor.data_type).ok()? {
            DataType::Float if raw.is_empty() => Values::F32(tensor.float_data.clone()),
            DataType::Float => Values::F32(words(raw, f32::from_le_bytes)),
            DataType::Int8 if raw.is_empty() => {
                Values::I8(narrow.iter().map(|value| *value as i8).collect())
            }
            DataType::Int8 => Values::I8(raw.iter().map(|byte| *byte as i8).collect()),
            DataType::Uint8 if raw.is_empty() => {
                Values::U8(narrow.iter().map(|value| *value as u8).collect())
            }
            DataType::Uint8 => Values::U8(raw.to_vec()),
            DataType::Int32 if raw.is_empty() => Values::I32(narrow.to_vec()),
            DataType::Int32 => Values::I32(words(raw, i32::from_le_bytes)),
            DataType::Int64 if raw.is_empty() => Values::I64(tensor.int64_data.clone()),
            DataType::Int64 => Values::I64(words(raw, i64::from_le_bytes)),
            _ => return None,
        };
        let constant = Constant { shape, values };
        (constant.len() == count).then_some(constant)
    }

    pub(super) fn len(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.len(),
            Values::I8(values) => values.len(),
            Values::U8(values) => values.len(),
            Values::I32(values) => values.len(),
            Values::I64(values) => values.len(),
        }
    }

    /// The values as integers, if they are.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        Some(match &self.values {
            Values::F32(_) => return None,
            Values::I8(values) => values.iter().map(|value| i64::from(*value)).collect(),
            Values::U8(values) => values.iter().map(|value| i64::from(*value)).collect(),
            Values::I32(values) => values.iter().map(|value| i64::from(*value)).collect(),
            Values::I64(values) => values.clone(),
        })
    }

    /// The values as `f32`, if they are.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(values) => Some(values),
            _ => None,
        }
    }

    /// The only value of a float constant of one element.
    pub(super) fn scalar(&self) -> Option<f32> {
        match self.floats()? {
            [value] => Some(*value),
            _ => None,
        }
    }
}

fn words<const N: usize, T>(raw: &[u8], word: fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks().0.iter().map(|bytes| word(*bytes)).collect()
}

/// The attributes of a node.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a NodeProto);

impl<'a> Attributes<'a> {
    fn find(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(self, name: &str) -> Option<i64> {
        self.find(name).map(|attribute| attribute.i)
    }

    /// Whether a flag is set.
    pub(super) fn flag(self, name: &str) -> bool {
        self.int(name).unwrap_or(0) != 0
    }

    pub(super) fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn float(self, name: &str) -> Option<f32> {
        self.find(name).map(|attribute| attribute.f)
    }

    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.find(name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
    }

    pub(super) fn tensor(self, name: &str) -> Option<Constant> {
        self.find(name).and_then(|attribute| attribute.t.as_ref()).and_then(Constant::of)
    }
}

/// A node as people find it: its name, or that of its first output.
pub(super) fn node_name(node: &NodeProto) -> &str {
    match node.output.first() {
        Some(output) if node.name.is_empty() => output,
        _ => &node.name,
    }
}
