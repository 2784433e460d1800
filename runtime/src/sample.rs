//! One sample as a caller gives it, before pre-processing.

use std::fmt;

use selvedge_bundle::SampleSpec;

use crate::error::Error;

/// One sample, without a batch axis, in the units of the manifest's `[sample]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// `[column] f32`: one value per column of the manifest, in its order and units.
    Row(Vec<f32>),
    /// `[height, width] u8` or `[height, width, channel] u8`, row-major, range as in the manifest.
    Image {
        /// The extents of the axes.
        shape: Vec<usize>,
        /// The pixels; as many as the shape says.
        data: Vec<u8>,
    },
}

impl Sample {
    /// All values, row-major, if this is the kind of sample that `spec` describes; they may be NaN or infinite.
    pub(crate) fn values(&self, spec: &SampleSpec) -> Result<Vec<f32>, Error> {
        match (spec, self) {
            (SampleSpec::Row(row), Sample::Row(values)) if values.len() == row.columns.len() => {
                Ok(values.clone())
            }
            (SampleSpec::Image(image), Sample::Image { shape, data })
                if shape.iter().map(|extent| *extent as u64).eq(image
                    .shape
                    .iter()
                    .copied()
                    .map(u64::from))
                    && data.len() == shape.iter().product::<usize>() =>
            {
                Ok(data.iter().map(|pixel| f32::from(*pixel)).collect())
            }
            (SampleSpec::Row(row), _) => {
                let names: Vec<&str> =
                    row.columns.iter().map(|column| column.name.as_str()).collect();
                let expected = format!("a row of {} values ({})", names.len(), names.join(", "));
                Err(Error::SampleShape { expected, found: self.to_string() })
            }
            (SampleSpec::Image(image), _) => {
                let expected = format!("an image {:?} u8", image.shape);
                Err(Error::SampleShape { expected, found: self.to_string() })
            }
        }
    }
}

/// What kind of sample it is and its shape, in words.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sample::Row(values) => write!(f, "a row of {} values", values.len()),
            Sample::Image { shape, data } if shape.iter().product::<usize>() != data.len() => {
                write!(f, "an image {shape:?} u8 with {} pixel values", data.len())
            }
            Sample::Image { shape, .. } => write!(f, "an image {shape:?} u8"),
        }
    }
}
