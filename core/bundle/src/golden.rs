//! Golden vectors: inputs, and the outputs that the model must give for them on every device.

use crate::{
    Error, Manifest, NamedTensor,
    limits::GOLDEN_ROWS_MAX,
    manifest::TensorSpec,
    npy::{read_npy, write_npy},
};

/// Inputs and expected outputs, batch first: as many tensors as the manifest names, in its order, all
/// with the same number of rows. The tolerance stands in the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    inputs: Vec<NamedTensor>,
    outputs: Vec<NamedTensor>,
    rows: usize,
}

impl Golden {
    /// Golden vectors for the tensors of `manifest`, in any order.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a tensor is missing, too many, or differs from the manifest in dtype or
    /// shape, and where the numbers of rows differ or are out of bounds.
    pub fn new(
        manifest: &Manifest,
        inputs: Vec<NamedTensor>,
        outputs: Vec<NamedTensor>,
    ) -> Result<Self, Error> {
        let rows = inputs.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(0);
        let inputs = matched(&manifest.inputs, inputs, rows)?;
        let outputs = matched(&manifest.outputs, outputs, rows)?;
        Ok(Self { inputs, outputs, rows })
    }

    /// Golden vectors from `.npy` files: `file` gives the bytes of a tensor's file.
    ///
    /// # Errors
    /// Those of `file`, of [`read_npy`] and of [`Golden::new`].
    pub fn from_npy(
        manifest: &Manifest,
        mut file: impl FnMut(&TensorSpec) -> Result<Vec<u8>, Error>,
    ) -> Result<Self, Error> {
        let mut read = |spec: &TensorSpec| read_npy(&spec.name, &file(spec)?);
        let inputs = manifest.inputs.iter().map(&mut read).collect::<Result<_, _>>()?;
        let outputs = manifest.outputs.iter().map(&mut read).collect::<Result<_, _>>()?;
        Self::new(manifest, inputs, outputs)
    }

    /// The inputs, in the order of the manifest.
    pub fn inputs(&self) -> &[NamedTensor] {
        &self.inputs
    }

    /// The expected outputs, in the order of the manifest.
    pub fn outputs(&self) -> &[NamedTensor] {
        &self.outputs
    }

    /// How many samples there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The layers: path and bytes, inputs first.
    pub(crate) fn files(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        let tensors = self.inputs.iter().chain(&self.outputs);
        tensors.map(|tensor| (golden_path(tensor.name()), write_npy(tensor)))
    }
}

/// Where a bundle keeps the golden vectors of a tensor: `golden/<name>.npy`. What is not a letter, a
/// digit, `.`, `_` or `-` is written as `%` and two hexadecimal digits, so that any name of a graph is
/// a file name and two names are never the same file.
pub fn golden_path(tensor: &str) -> String {
    use std::fmt::Write as _;

    let mut path = "golden/".to_owned();
    for byte in tensor.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02x}").expect("writing to a String does not fail");
        }
    }
    path + ".npy"
}

/// The tensors in the order of the manifest, each as its specification says.
fn matched(
    specs: &[TensorSpec],
    mut tensors: Vec<NamedTensor>,
    rows: usize,
) -> Result<Vec<NamedTensor>, Error> {
    let take = |spec: &TensorSpec| {
        let index = tensors.iter().position(|tensor| tensor.name() == spec.name);
        let index = index.ok_or_else(|| refuse(&spec.name, "has no golden vectors"))?;
        let tensor = tensors.swap_remove(index);
        check_tensor(spec, &tensor, rows).map(|()| tensor)
    };
    let ordered = specs.iter().map(take).collect::<Result<_, _>>()?;
    match tensors.first() {
        None => Ok(ordered),
        Some(extra) => {
            Err(refuse(extra.name(), "has golden vectors, but the manifest does not name it"))
        }
    }
}

fn check_tensor(spec: &TensorSpec, tensor: &NamedTensor, rows: usize) -> Result<(), Error> {
    if tensor.dtype() != spec.dtype {
        let (found, expected) = (tensor.dtype(), spec.dtype);
        return Err(refuse(&spec.name, format!("is {found}, the manifest says {expected}")));
    }
    if !(1..=GOLDEN_ROWS_MAX).contains(&rows) {
        return Err(refuse(&spec.name, format!("has {rows} rows, not 1 to {GOLDEN_ROWS_MAX}")));
    }
    let expected: Vec<usize> = [vec![rows], spec.sample_shape()].concat();
    if tensor.shape() != expected {
        let found = tensor.shape();
        return Err(refuse(&spec.name, format!("has shape {found:?}, expected {expected:?}")));
    }
    Ok(())
}

fn refuse(name: &str, reason: impl Into<String>) -> Error {
    Error::Tensor { name: name.to_owned(), reason: reason.into() }
}
