//! The manifest: what a bundle is, what it takes, what it gives, and what it must be checked against.
//!
//! People write it as `manifest.toml`; in a bundle it is the OCI config, as JSON. The field names are
//! the same. An unknown key is an error, so that a misspelt rule is never a rule that is silently absent.
//!
//! [`ManifestDraft`] is what was written; [`Manifest`] is a draft that keeps every rule. A manifest
//! derefs to its draft for reading and cannot be changed.

use std::{collections::BTreeMap, fmt, ops::Deref, path::PathBuf, str::FromStr};

use selvedge_sketch::DetectorPolicy;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{DType, limits::TRIAL_MEMORY_BASE_BYTES};

mod check;
#[cfg(test)]
mod tests;

/// A manifest that keeps every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(ManifestDraft);

impl Manifest {
    /// Reads the JSON of an OCI config.
    ///
    /// # Errors
    /// [`ManifestError`], which names the field.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let draft: ManifestDraft = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| ManifestError::new(error.path(), error.inner()))?;
        deserializer.end().map_err(|error| ManifestError::new("manifest", error))?;
        draft.try_into()
    }

    /// The JSON of the OCI config: the same manifest always gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0)
            .expect("a manifest has only text keys and finite numbers, which JSON can carry")
    }

    /// Gives up the guarantee, to change something and check again.
    pub fn into_draft(self) -> ManifestDraft {
        self.0
    }
}

impl Deref for Manifest {
    type Target = ManifestDraft;

    fn deref(&self) -> &ManifestDraft {
        &self.0
    }
}

impl TryFrom<ManifestDraft> for Manifest {
    type Error = ManifestError;

    fn try_from(draft: ManifestDraft) -> Result<Self, ManifestError> {
        check::check(&draft).map(|()| Self(draft))
    }
}

/// A field of a manifest breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The field, for example `inputs[0].shape`.
    pub field: String,
    /// The rule that it breaks.
    pub reason: String,
}

impl ManifestError {
    pub(crate) fn new(field: impl ToString, reason: impl ToString) -> Self {
        Self { field: field.to_string(), reason: reason.to_string() }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.field, self.reason)
    }
}

impl std::error::Error for ManifestError {}

/// A manifest as it was written: each field is well-formed, their agreement is not checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestDraft {
    /// The model's name, the same in all its versions.
    pub name: BundleName,
    /// The semantic version.
    pub version: Version,
    /// The Hugging Face pipeline tag, for example `tabular-classification`.
    pub task: String,
    /// One sentence for people.
    pub description: String,
    /// The SPDX expression of the licence.
    pub license: String,
    /// The names of the classes: the index is the class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Only in `manifest.toml`: the ONNX file, relative to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What a caller gives.
    pub sample: SampleSpec,
    /// The input tensors of the graph.
    #[serde(default)]
    pub inputs: Vec<TensorSpec>,
    /// The output tensors of the graph.
    #[serde(default)]
    pub outputs: Vec<TensorSpec>,
    /// The steps from the sample to the input tensor, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre: Vec<PreStep>,
    /// The steps from the output tensors to the answer, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post: Vec<PostStep>,
    /// Where the golden vectors come from, and how close is close enough.
    #[serde(default)]
    pub golden: GoldenSpec,
    /// What the model needs.
    #[serde(default)]
    pub resources: Resources,
    /// Only in `manifest.toml`: the reference data for the baseline and the accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The drift policy.
    #[serde(default)]
    pub drift: DriftPolicy,
    /// What a device lets the bundle do before it trusts it.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Where the model comes from.
    #[serde(default)]
    pub provenance: Provenance,
}

impl ManifestDraft {
    /// The most address space that the trial's process may take, in bytes.
    pub fn trial_memory_bytes_max(&self) -> u64 {
        let usual = self.resources.ram_peak_bytes_max.saturating_add(TRIAL_MEMORY_BASE_BYTES);
        self.update.trial_memory_bytes_max.unwrap_or(usual)
    }

    /// Which of the outputs is the embedding, if one is named.
    pub fn embedding(&self) -> Option<usize> {
        let named = self.drift.embedding.as_ref()?;
        self.outputs.iter().position(|output| output.name == *named)
    }
}

/// A model's name: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BundleName(String);

impl BundleName {
    /// The longest name in bytes.
    pub const BYTES_MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BundleName {
    type Error = ManifestError;

    fn try_from(text: String) -> Result<Self, ManifestError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = text.len() <= Self::BYTES_MAX
            && text.bytes().next().is_some_and(alphanumeric)
            && text.bytes().all(|byte| alphanumeric(byte) || b"._-".contains(&byte));
        if good {
            return Ok(Self(text));
        }
        Err(ManifestError::new(
            "name",
            "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        ))
    }
}

impl FromStr for BundleName {
    type Err = ManifestError;

    fn from_str(text: &str) -> Result<Self, ManifestError> {
        text.to_owned().try_into()
    }
}

impl From<BundleName> for String {
    fn from(name: BundleName) -> Self {
        name.0
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One sample, without the batch axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SampleSpec {
    /// One number per column: `[column] f32`.
    Row(RowSpec),
    /// An image: `[height, width] u8` or `[height, width, channel] u8`.
    Image(ImageSpec),
}

/// The columns of a row sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSpec {
    /// The columns in order.
    pub columns: Vec<Column>,
}

/// One column of a row sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name, as the header of a CSV file has it.
    pub name: String,
    /// Its unit, as UCUM writes it; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The smallest value of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest value of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// The shape of an image sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// `height`, `width`, and `channel` where there is one.
    pub axes: Vec<ImageAxis>,
    /// The extents in the order of `axes`.
    pub shape: Vec<u32>,
    /// The type of a pixel: `u8`.
    pub dtype: DType,
    /// The darkest value.
    pub min: f64,
    /// The brightest value.
    pub max: f64,
}

/// An axis of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageAxis {
    /// From top to bottom.
    Height,
    /// From left to right.
    Width,
    /// Colours.
    Channel,
}

/// A tensor of the ONNX graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// What its axes mean; the first is `batch`.
    pub axes: Vec<String>,
    /// The extents in the order of `axes`.
    pub shape: Vec<Extent>,
    /// The type of its elements.
    pub dtype: DType,
    /// The unit of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The smallest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The quantisation step: the value of one unit of the integer behind the tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// The integer that stands for 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_point: Option<i32>,
}

impl TensorSpec {
    /// The extents behind the batch axis.
    pub fn sample_shape(&self) -> Vec<usize> {
        let fixed = |extent: &Extent| match extent {
            Extent::Free => None,
            Extent::Fixed(extent) => Some(*extent as usize),
        };
        self.shape.iter().skip(1).filter_map(fixed).collect()
    }

    /// The number of elements for one sample.
    pub fn sample_elements(&self) -> usize {
        self.sample_shape().iter().product()
    }
}

/// How long an axis is: a positive number, or -1 for any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum Extent {
    /// Any length, written -1.
    Free,
    /// Exactly this length.
    Fixed(u32),
}

impl TryFrom<i64> for Extent {
    type Error = String;

    fn try_from(extent: i64) -> Result<Self, String> {
        match (extent, u32::try_from(extent)) {
            (-1, _) => Ok(Self::Free),
            (1.., Ok(extent)) => Ok(Self::Fixed(extent)),
            _ => Err(format!("an extent is positive, or -1 where it is free, not {extent}")),
        }
    }
}

impl From<Extent> for i64 {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Free => -1,
            Extent::Fixed(extent) => extent.into(),
        }
    }
}

/// A step from the sample to the input tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum PreStep {
    /// `y = (x - mean[i]) / std[i]`, where `i` is the column of a row or the channel of an image.
    Normalize {
        /// What is taken off.
        mean: Vec<f64>,
        /// What is divided by.
        std: Vec<f64>,
    },
    /// `y = x * factor + offset`.
    Scale {
        /// The factor.
        factor: f64,
        /// The offset.
        #[serde(default)]
        offset: f64,
    },
    /// Changes the size of an image.
    Resize {
        /// The new height in pixels.
        height: u32,
        /// The new width in pixels.
        width: u32,
        /// How new pixels come from old ones.
        filter: ResizeFilter,
    },
    /// Changes the order of an image's axes; a channel axis of length 1 may be added.
    Layout {
        /// The new order.
        to: Vec<ImageAxis>,
    },
}

/// How new pixels come from old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeFilter {
    /// The nearest pixel.
    Nearest,
    /// Linear between the nearest four.
    Bilinear,
}

/// A step from the output tensors to the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum PostStep {
    /// Adds probabilities over the last axis of an output.
    Softmax {
        /// The output.
        output: String,
    },
    /// The class is the index of the largest value, the first of equals.
    Argmax {
        /// The output.
        output: String,
    },
    /// The class is 1 where the value is at least `at`, else 0.
    Threshold {
        /// The output.
        output: String,
        /// The threshold.
        at: f64,
    },
}

impl PostStep {
    /// The output that the step reads.
    pub fn output(&self) -> &str {
        match self {
            Self::Softmax { output } | Self::Argmax { output } | Self::Threshold { output, .. } => {
                output
            }
        }
    }
}

/// Where the golden vectors come from, and how close is close enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// Only in `manifest.toml`: the folder of `<tensor>.npy` files, relative to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Who made the expected outputs.
    pub origin: GoldenOrigin,
    /// The program that computed the expected outputs, with its version.
    pub framework: String,
    /// The largest absolute difference per output.
    pub tolerance: BTreeMap<String, f64>,
}

/// Who made the expected outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoldenOrigin {
    /// The recipe that trained the model, with the framework that trained it.
    Recipe,
    /// The model's owner.
    User,
    /// The same inference engine that will run the model, before its optimisation: weak evidence.
    #[default]
    SelfMade,
}

impl fmt::Display for GoldenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recipe => "recipe",
            Self::User => "user",
            Self::SelfMade => "self-made",
        })
    }
}

/// What the model needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// The most memory that loading and running may take.
    pub ram_peak_bytes_max: u64,
    /// The budget of the 95th percentile of the latency in microseconds, per board.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latency_p95_us: BTreeMap<String, u32>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { ram_peak_bytes_max: 64 << 20, latency_p95_us: BTreeMap::new() }
    }
}

/// The reference data for the baseline and the accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// A CSV file with a header, or a `.npy` file of images `[sample, height, width] u8`.
    pub data: PathBuf,
    /// A `.npy` file with one class index per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// The column of the CSV file that has the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The column of the CSV file that says from which session (a device, a run, a day) a row is: rows of one session are
    /// taken together, in their order, and no window spans two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_column: Option<String>,
    /// The same for images: a `.npy` file with one integer per sample that says from which session it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<PathBuf>,
    /// Whether the samples are in the order of time.
    #[serde(default)]
    pub order: Order,
}

/// Whether samples are in the order of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// In no order.
    #[default]
    None,
    /// In the order of time.
    Time,
}

/// What may be watched of an image: the mean and the standard deviation of its pixels; the *edge energy*, which is the mean
/// squared difference of pixels that are neighbours in a row or a column; and the share of pixels that are *saturated*, at
/// the least or the largest value of the manifest.
pub const IMAGE_FEATURES: [&str; 4] = ["pixel_mean", "pixel_sd", "edge_energy", "saturated_share"];

/// When a device says that the world, or the model, has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriftPolicy {
    /// Whether the reference samples were in the order of time.
    pub order: Order,
    /// What is watched of a sample: of a row these columns, of an image these of [`IMAGE_FEATURES`]. Without names the
    /// first [`FEATURES_MAX`](crate::FEATURES_MAX) columns, or all of the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// The output whose values, taken together, are summed up for the fleet's multivariate test: an embedding, or for
    /// want of one the logits. It has at most 128 values of `f32` or `i8` for a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
    /// At most one false alarm in so many windows, on average and over all that is watched of a slot.
    pub alarm_windows: u32,
    /// The fewest samples of a window that is tested; smaller ones are tested together.
    pub samples_min: u16,
    /// After how many windows a rhythm repeats; 0 for none.
    pub cycle_windows: u16,
    /// A drift is over after so many windows in a row with little evidence for it.
    pub clear_windows: u16,
}

impl DriftPolicy {
    /// The detectors' policy.
    ///
    /// # Errors
    /// [`selvedge_sketch::Error::Policy`] if a number is below the least.
    pub fn detector(&self) -> Result<DetectorPolicy, selvedge_sketch::Error> {
        let Self { alarm_windows, samples_min, cycle_windows, clear_windows, .. } = *self;
        DetectorPolicy::new(alarm_windows, samples_min, cycle_windows, clear_windows)
    }
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self {
            order: Order::None,
            features: Vec::new(),
            embedding: None,
            alarm_windows: 10_000,
            samples_min: 250,
            cycle_windows: 0,
            clear_windows: 10,
        }
    }
}

/// What a device lets the bundle do before it trusts it: a trial before it answers, and a probation
/// while it does. A probation ends well once it has had its time and its inferences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePolicy {
    /// The most seconds that the trial may take: loading, and the golden vectors.
    pub trial_time_s_max: u32,
    /// The most address space that the trial's process may take, in bytes. Without it,
    /// [`TRIAL_MEMORY_BASE_BYTES`] beyond `resources.ram_peak_bytes_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_memory_bytes_max: Option<u64>,
    /// The least seconds of the probation.
    pub probation_s: u32,
    /// The fewest inferences of the probation.
    pub probation_inferences: u64,
    /// The most times that the agent may crash during the probation.
    pub crashes_max: u32,
    /// The largest fraction of samples that may get no answer, beyond that of the bundle before.
    pub failed_fraction_max: f64,
    /// The largest ratio of the 95th percentile of the latency to that of the bundle before.
    pub latency_ratio_max: f64,
    /// The largest total variation distance between the classes that this bundle and the one before
    /// answer: 0 for the same shares, 1 for no class in common. Judged only where both have classes
    /// and each gave [`CLASS_SHIFT_ANSWERS_MIN`](crate::CLASS_SHIFT_ANSWERS_MIN) answers.
    pub class_shift_max: f64,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            trial_time_s_max: 30,
            trial_memory_bytes_max: None,
            probation_s: 60,
            probation_inferences: 100,
            crashes_max: 1,
            failed_fraction_max: 0.02,
            latency_ratio_max: 2.0,
            class_shift_max: 0.5,
        }
    }
}

/// Where the model comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The data set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dataset: String,
    /// The SHA-256 of the reference data file, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dataset_sha256: String,
    /// The code that trained the model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// How it was trained.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub training: String,
}
