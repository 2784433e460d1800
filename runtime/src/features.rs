//! What a profile counts of a sample.

use selvedge_bundle::{FEATURES_MAX, IMAGE_FEATURES, ImageAxis, ImageSpec, Manifest, SampleSpec};

use crate::error::Error;
use crate::math::{mean_and_sd, strides_of};
use crate::sample::Sample;

/// Reads the features of samples that the manifest's `[drift]` names, or else of a row its first [`FEATURES_MAX`] columns
/// as they are, and of an image all of [`IMAGE_FEATURES`]. A bundle's baseline has the same features under the same names.
#[derive(Clone, Debug)]
pub struct FeatureReader {
    names: Vec<String>,
    /// Of each feature its place among the columns, or among [`IMAGE_FEATURES`].
    places: Vec<usize>,
    sample: SampleSpec,
}

impl FeatureReader {
    /// The reader for a manifest's samples.
    pub fn of(manifest: &Manifest) -> FeatureReader {
        let known: Vec<&str> = match &manifest.sample {
            SampleSpec::Row(row) => row.columns.iter().map(|column| column.name.as_str()).collect(),
            SampleSpec::Image(_) => IMAGE_FEATURES.to_vec(),
        };
        let named = &manifest.drift.features;
        let names: Vec<String> = match &named[..] {
            [] => known.iter().take(FEATURES_MAX).map(|name| (*name).to_owned()).collect(),
            named => named.to_vec(),
        };
        let place = |name: &String| known.iter().position(|known| known == name);
        let place = |name| place(name).expect("a manifest names features that its samples have");
        let places = names.iter().map(place).collect();
        FeatureReader { names, places, sample: manifest.sample.clone() }
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
        if let SampleSpec::Image(image) = &self.sample {
            values = image_features(image, &values).to_vec();
        }
        Ok(self.places.iter().map(|place| values[*place]).collect())
    }
}

/// All of [`IMAGE_FEATURES`], in units of the pixels. `pixels`: `[height, width]` or `[height, width, channel]`, row-major.
fn image_features(image: &ImageSpec, pixels: &[f32]) -> [f32; IMAGE_FEATURES.len()] {
    let (mean, sd) = mean_and_sd(pixels);
    let (min, max) = (image.min as f32, image.max as f32);
    let saturated = pixels.iter().filter(|pixel| **pixel <= min || **pixel >= max).count();
    [mean, sd, edge_energy(image, pixels), saturated as f32 / pixels.len() as f32]
}

/// The mean squared difference of pixels that are neighbours in a row or a column; 0 for a single pixel.
fn edge_energy(image: &ImageSpec, pixels: &[f32]) -> f32 {
    let extents: Vec<usize> = image.shape.iter().map(|extent| *extent as usize).collect();
    let strides = strides_of(&extents);
    let (mut sum, mut pairs) = (0.0_f64, 0_u64);
    let spatial = image.axes.iter().zip(&extents).zip(&strides);
    for ((_, extent), stride) in spatial.filter(|((axis, _), _)| **axis != ImageAxis::Channel) {
        for (at, pixel) in pixels.iter().enumerate() {
            if at / stride % extent + 1 < *extent {
                sum += f64::from(pixels[at + stride] - pixel).powi(2);
                pairs += 1;
            }
        }
    }
    if pairs == 0 { 0.0 } else { (sum / pairs as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(axes: &[ImageAxis], shape: &[u32]) -> ImageSpec {
        let spec = serde_json::json!({
            "axes": axes, "shape": shape, "dtype": "u8", "min": 0, "max": 16,
        });
        serde_json::from_value(spec).expect("a well-formed image")
    }

    #[test]
    fn an_image_is_summed_up_by_light_edges_and_saturation() {
        use ImageAxis::{Channel, Height, Width};
        let grey = image(&[Height, Width], &[2, 2]);
        // Rows differ by 4 and 12, columns by 0 and 16.
        let [mean, sd, edges, saturated] = image_features(&grey, &[0.0, 4.0, 0.0, 16.0]);
        assert_eq!((mean, saturated), (5.0, 0.75));
        assert!((sd - 6.557_438_5).abs() < 1e-5, "{sd}");
        assert_eq!(edges, (16.0 + 256.0 + 0.0 + 144.0) / 4.0);
        // Channels of one pixel are no neighbours.
        let colour = image(&[Height, Width, Channel], &[1, 2, 3]);
        assert_eq!(edge_energy(&colour, &[0.0, 5.0, 9.0, 1.0, 5.0, 9.0]), 1.0 / 3.0);
        assert_eq!(edge_energy(&image(&[Height, Width], &[1, 1]), &[7.0]), 0.0);
    }
}
