//! Tensors with a name, as files and golden vectors carry them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// The bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The elements of a tensor, row-major (the last axis varies fastest).
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Elements of [`DType::F32`].
    F32(Vec<f32>),
    /// Elements of [`DType::I8`].
    I8(Vec<i8>),
    /// Elements of [`DType::U8`].
    U8(Vec<u8>),
    /// Elements of [`DType::I32`].
    I32(Vec<i32>),
    /// Elements of [`DType::I64`].
    I64(Vec<i64>),
}

impl TensorData {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I8(_) => DType::I8,
            Self::U8(_) => DType::U8,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U8(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as `f32`, rounded to nearest where an integer has no exact `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::I8(values) => values.iter().map(|&value| f32::from(value)).collect(),
            Self::U8(values) => values.iter().map(|&value| f32::from(value)).collect(),
            Self::I32(values) => values.iter().map(|&value| value as f32).collect(),
            Self::I64(values) => values.iter().map(|&value| value as f32).collect(),
        }
    }

    /// The first of them, likewise.
    pub fn first_f32(&self) -> Option<f32> {
        match self {
            Self::F32(values) => values.first().copied(),
            Self::I8(values) => values.first().map(|&value| f32::from(value)),
            Self::U8(values) => values.first().map(|&value| f32::from(value)),
            Self::I32(values) => values.first().map(|&value| value as f32),
            Self::I64(values) => values.first().map(|&value| value as f32),
        }
    }
}

/// A tensor of the graph, with all its elements: `[axis, …]`, row-major, as many elements as the shape says.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    name: String,
    shape: Vec<usize>,
    data: TensorData,
}

impl NamedTensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the shape and the number of elements disagree.
    pub fn new(
        name: impl Into<String>,
        shape: Vec<usize>,
        data: TensorData,
    ) -> Result<Self, Error> {
        let name = name.into();
        if elements(&shape) == Some(data.len()) {
            return Ok(Self { name, shape, data });
        }
        let reason = format!("shape {shape:?} does not hold {} elements", data.len());
        Err(Error::Tensor { name, reason })
    }

    /// The name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The elements, without the rest.
    pub fn into_data(self) -> TensorData {
        self.data
    }
}

/// How many elements a shape holds, if that can be counted.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_does_not_hold_its_elements_is_refused() {
        let data = || TensorData::I8(vec![1, 2, 3, 4]);
        assert!(NamedTensor::new("t", vec![2, 2], data()).is_ok());
        for shape in [vec![], vec![3], vec![2, 3], vec![0], vec![usize::MAX, 8]] {
            let error = NamedTensor::new("t", shape.clone(), data()).expect_err("shapes differ");
            assert!(error.to_string().contains("\"t\""), "{shape:?}: {error}");
        }
    }
}
