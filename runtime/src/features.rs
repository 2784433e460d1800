//! What a profile counts of a sample.

use selvedge_bundle::{FEATURES_MAX, SampleSpec};

use crate::error::Error;
use crate::math::mean_and_sd;
use crate::sample::Sample;

/// The features of an image, in their order.
const IMAGE_FEATURES: [&str; 2] = ["pixel_mean", "pixel_sd"];

/// Reads the features of samples: of a row its first [`FEATURES_MAX`] columns as they are, of an image the mean and
/// the standard deviation of its pixels. A bundle's baseline has the same features under the same names.
#[derive(Clone, Debug)]
pub struct FeatureReader {
    names: Vec<String>,
    sample: SampleSpec,
}

impl FeatureReader {
    /// The reader for a manifest's samples.
    pub fn of(sample: &SampleSpec) -> FeatureReader {
        let names = match sample {
            SampleSpec::Row(row) => {
                row.columns.iter().take(FEATURES_MAX).map(|column| column.name.clone()).collect()
            }
            SampleSpec::Image(_) => IMAGE_FEATURES.map(str::to_owned).to_vec(),
        };
        FeatureReader { names, sample: sample.clone() }
    }

    /// The features' names, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The features of one sample; those of a row may be NaN or infinite.
    ///
    /// # Errors
    /// [`Error::SampleShape`] for a sample that the manifest does not describe.
    pub fn read(&self, sample: &Sample) -> Result<Vec<f32>, Error> {
        let mut values = sample.values(&self.sample)?;
        Ok(match &self.sample {
            SampleSpec::Row(_) => {
                values.truncate(self.names.len());
                values
            }
            SampleSpec::Image(_) => {
                let (mean, sd) = mean_and_sd(&values);
                vec![mean, sd]
            }
        })
    }
}
