//! A manifest for an ONNX file that came without one, from the graph and the reference data.
//!
//! Inferred: the columns and their ranges from the CSV header and rows, or the shape of images; the tensors from the
//! graph; the classes from the distinct labels, in order; softmax and argmax where an output is as wide as there are
//! classes. Not inferred: what the values mean. Nothing is normalised unless that was asked for.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use selvedge_bundle::{
    BundleName, Column, DType, DriftPolicy, Extent, GoldenSpec, ImageAxis, ImageSpec,
    ManifestDraft, PostStep, PreStep, Provenance, ResizeFilter, Resources, RowSpec, SampleSpec,
    TensorSpec, UpdatePolicy, digest_of,
};
use selvedge_runtime::desk::{self, BareModel, OnnxSurvey};
use selvedge_runtime::{DeclaredTensor, Limits, Sample};

use crate::data::{Table, class_of, read_file, read_images};

/// What is known.
pub struct Question<'a> {
    /// The ONNX file's bytes.
    pub onnx: &'a [u8],
    /// What it holds.
    pub survey: &'a OnnxSurvey,
    /// Where it lies, which gives the bundle a name.
    pub model: &'a Path,
    /// The reference data.
    pub data: &'a Path,
    /// The column with the label.
    pub label: Option<&'a str>,
    /// The column with the session.
    pub session: Option<&'a str>,
    /// The classes in their order, or none to take them from the labels.
    pub classes: &'a [String],
    /// Whether to scale the inputs.
    pub normalize: bool,
}

/// What the reference data says about samples.
struct Reference {
    sample: SampleSpec,
    pre: Vec<PreStep>,
    labels: Option<Vec<String>>,
}

impl Question<'_> {
    /// The manifest.
    pub fn answer(&self) -> anyhow::Result<ManifestDraft> {
        let [input] = self.survey.inputs.as_slice() else {
            bail!(
                "the model has {} inputs, and a sample feeds exactly one",
                self.survey.inputs.len()
            );
        };
        let images = self.data.extension().is_some_and(|extension| extension == "npy");
        let reference = if images { self.images(input)? } else { self.table(input)? };
        let axes: &[&str] = match input.shape.as_ref().map(Vec::len) {
            Some(4) if channels_last(input, &reference.sample) => &["height", "width", "channel"],
            Some(4) => &["channel", "height", "width"],
            _ => &["feature"],
        };
        let input = desk::tensor_spec(input, None, axes)?;
        let outputs = self.outputs(input.shape[0])?;
        let post = self.post(&outputs, reference.labels.as_deref())?;
        let decides = post.iter().any(|step| !matches!(step, PostStep::Softmax { .. }));
        let file =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ManifestDraft {
            name: bundle_name(self.model)?,
            version: "0.1.0".parse().expect("a semantic version"),
            task: task(images, decides).to_owned(),
            description: format!("Packed from {}.", file(self.model)),
            license: "NOASSERTION".to_owned(),
            labels: if decides { reference.labels.unwrap_or_default() } else { Vec::new() },
            model: None,
            sample: reference.sample,
            inputs: vec![input],
            outputs,
            pre: reference.pre,
            post,
            golden: GoldenSpec::default(),
            resources: Resources::default(),
            reference: None,
            drift: DriftPolicy::default(),
            update: UpdatePolicy::default(),
            provenance: Provenance {
                dataset: file(self.data),
                dataset_sha256: digest_of(&read_file(self.data)?).hex().to_string(),
                ..Provenance::default()
            },
        })
    }

    fn table(&self, input: &DeclaredTensor) -> anyhow::Result<Reference> {
        let table = Table::read(self.data)?;
        let names: Vec<&str> = table
            .header()
            .iter()
            .map(String::as_str)
            .filter(|name| ![self.label, self.session].contains(&Some(*name)))
            .collect();
        let labels = self.label.map(|label| table.texts(label)).transpose()?;
        let wanted: Option<usize> =
            input.shape.as_ref().and_then(|shape| shape.get(1..)?.iter().copied().product());
        let (path, count) = (self.data.display(), names.len());
        match wanted {
            Some(wanted) if wanted == count => {}
            Some(wanted) if wanted + 1 == count && self.label.is_none() => bail!(
                "the model takes {wanted} values and {path} has {count} columns ({}): name the one that is the class with --label",
                names.join(", ")
            ),
            Some(wanted) => bail!(
                "the model takes {wanted} values and {path} has {count} columns besides the label: {}",
                names.join(", ")
            ),
            None => bail!(
                "input {:?} has the shape {}: only its first axis may be free",
                input.name,
                input.shape_text()
            ),
        }
        let rows = table.rows(&names)?;
        let columns: Vec<Vec<f64>> = (0..count)
            .map(|i| {
                rows.iter().map(|row| f64::from(row[i])).filter(|value| value.is_finite()).collect()
            })
            .collect();
        let pre = if self.normalize { vec![normalize(&columns)] } else { Vec::new() };
        let column = |(name, values): (&&str, &Vec<f64>)| Column {
            name: (*name).to_owned(),
            unit: String::new(),
            min: values.iter().copied().reduce(f64::min),
            max: values.iter().copied().reduce(f64::max),
        };
        let sample =
            SampleSpec::Row(RowSpec { columns: names.iter().zip(&columns).map(column).collect() });
        Ok(Reference { sample, pre, labels: self.classes_of(labels)? })
    }

    fn images(&self, input: &DeclaredTensor) -> anyhow::Result<Reference> {
        let images = read_images(self.data)?;
        let Some(Sample::Image { shape, .. }) = images.first() else {
            bail!("{} has no image", self.data.display())
        };
        let extents: Vec<u32> =
            shape.iter().map(|extent| u32::try_from(*extent)).collect::<Result<_, _>>()?;
        let axes =
            [ImageAxis::Height, ImageAxis::Width, ImageAxis::Channel][..shape.len()].to_vec();
        let sample = SampleSpec::Image(ImageSpec {
            axes,
            shape: extents,
            dtype: DType::U8,
            min: 0.0,
            max: 255.0,
        });
        let mut pre = Vec::new();
        if let Some([_, rest @ ..]) = input.shape.as_deref()
            && rest.len() == 3
        {
            let last = channels_last(input, &sample);
            let (height, width) = if last { (rest[0], rest[1]) } else { (rest[1], rest[2]) };
            let (Some(height), Some(width)) = (height, width) else {
                bail!(
                    "input {:?} has the shape {}: only its first axis may be free",
                    input.name,
                    input.shape_text()
                );
            };
            if [height, width] != shape[..2] {
                let (height, width) = (u32::try_from(height)?, u32::try_from(width)?);
                pre.push(PreStep::Resize { height, width, filter: ResizeFilter::Bilinear });
            }
            let (h, w, c) = (ImageAxis::Height, ImageAxis::Width, ImageAxis::Channel);
            pre.push(PreStep::Layout { to: if last { vec![h, w, c] } else { vec![c, h, w] } });
        }
        if self.normalize {
            pre.push(PreStep::Scale { factor: 1.0 / 255.0, offset: 0.0 });
        }
        ensure!(
            self.label.is_none(),
            "--label names a column of a table; images have their classes in <name>-labels.npy"
        );
        let beside = crate::data::Samples::read(self.data, &sample, &crate::data::Labels::Usual)?;
        Ok(Reference { sample, pre, labels: self.classes_of(beside.labels)? })
    }

    /// The classes as they were named, if every label of the data is one of them; else those that the labels give.
    fn classes_of(&self, labels: Option<Vec<String>>) -> anyhow::Result<Option<Vec<String>>> {
        let named = self.classes;
        if named.is_empty() {
            return Ok(labels.map(|labels| classes(&labels)));
        }
        if let Some(twice) = (1..named.len()).find(|i| named[..*i].contains(&named[*i])) {
            bail!("--labels names {:?} twice", named[twice]);
        }
        for label in labels.iter().flatten() {
            class_of(label, named).with_context(|| {
                format!("--labels does not name every class in {}", self.data.display())
            })?;
        }
        Ok(Some(named.to_vec()))
    }

    /// The outputs as the file declares them, or else as the engine infers them.
    fn outputs(&self, batch: Extent) -> anyhow::Result<Vec<TensorSpec>> {
        let model =
            BareModel::build(self.onnx, &Limits::default()).context("the model cannot run here")?;
        let outputs = self.survey.outputs.iter().zip(model.outputs());
        let spec =
            |(output, (name, dtype, shape)): (&desk::OutputSurvey, (&str, DType, Vec<usize>))| {
                let rest = shape[1..].iter().map(|extent| Some(*extent));
                let first = if batch == Extent::Free { None } else { Some(1) };
                let shape = Some(std::iter::once(first).chain(rest).collect());
                let tensor = DeclaredTensor { name: name.to_owned(), dtype: Some(dtype), shape };
                desk::tensor_spec(&tensor, output.quantisation, &["class"])
            };
        Ok(outputs.map(spec).collect::<Result<_, _>>()?)
    }

    /// The steps that find the class, if an output looks like one.
    fn post(
        &self,
        outputs: &[TensorSpec],
        labels: Option<&[String]>,
    ) -> anyhow::Result<Vec<PostStep>> {
        let ends_in = |output: &TensorSpec, operator: &str| {
            self.survey
                .outputs
                .iter()
                .any(|o| o.tensor.name == output.name && o.operator.as_deref() == Some(operator))
        };
        let vectors = || outputs.iter().filter(|output| output.shape.len() == 2);
        let scores = match labels {
            Some(labels) => vectors().find(|output| output.sample_elements() == labels.len()),
            None => vectors().find(|output| output.sample_elements() > 1),
        };
        if let Some(scores) = scores.filter(|scores| scores.sample_elements() > 1) {
            let output = scores.name.clone();
            let argmax = PostStep::Argmax { output: output.clone() };
            let probabilities = ends_in(scores, "Softmax");
            return Ok(if probabilities {
                vec![argmax]
            } else {
                vec![PostStep::Softmax { output }, argmax]
            });
        }
        let Some(labels) = labels else { return Ok(Vec::new()) };
        let single = outputs
            .iter()
            .find(|output| output.sample_elements() == 1 && output.dtype == DType::F32);
        match single {
            Some(single) if labels.len() == 2 => {
                let at = if ends_in(single, "Sigmoid") { 0.5 } else { 0.0 };
                Ok(vec![PostStep::Threshold { output: single.name.clone(), at }])
            }
            _ => {
                let shapes: Vec<String> = outputs
                    .iter()
                    .map(|output| format!("{:?} of {}", output.name, output.sample_elements()))
                    .collect();
                bail!(
                    "the labels are {} classes ({}), and no output is as wide: {}; write a manifest and give it with --manifest",
                    labels.len(),
                    labels.join(", "),
                    shapes.join(", ")
                )
            }
        }
    }
}

fn task(images: bool, decides: bool) -> &'static str {
    match (images, decides) {
        (true, true) => "image-classification",
        (true, false) => "image-feature-extraction",
        (false, true) => "tabular-classification",
        (false, false) => "tabular-regression",
    }
}

/// Whether an input `[batch, a, b, c]` has its channels last: its last axis is as long as the samples have channels,
/// and its second is not.
fn channels_last(input: &DeclaredTensor, sample: &SampleSpec) -> bool {
    let channels = match sample {
        SampleSpec::Image(image) => image.shape.get(2).copied().unwrap_or(1) as usize,
        SampleSpec::Row(_) => return false,
    };
    matches!(input.shape.as_deref(), Some([_, first, _, last]) if *last == Some(channels) && *first != Some(channels))
}

/// The mean and the deviation of each column; a constant column is only shifted.
fn normalize(columns: &[Vec<f64>]) -> PreStep {
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let mean: Vec<f64> = columns.iter().map(|values| mean_of(values)).collect();
    let deviation = |(values, mean): (&Vec<f64>, &f64)| {
        let squares: Vec<f64> = values.iter().map(|value| (value - mean).powi(2)).collect();
        let deviation = mean_of(&squares).sqrt();
        if deviation > 0.0 { deviation } else { 1.0 }
    };
    let std = columns.iter().zip(&mean).map(deviation).collect();
    PreStep::Normalize { mean, std }
}

/// The distinct labels: numbers by value, and every class below the largest; other labels by their letters.
fn classes(labels: &[String]) -> Vec<String> {
    let numbers: Option<BTreeSet<usize>> = labels.iter().map(|label| label.parse().ok()).collect();
    match numbers.and_then(|numbers| numbers.last().copied()) {
        Some(largest) if largest < selvedge_bundle::LABELS_MAX => {
            (0..=largest).map(|class| class.to_string()).collect()
        }
        _ => labels.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect(),
    }
}

/// The file's name, as far as a bundle may be called so.
fn bundle_name(model: &Path) -> anyhow::Result<BundleName> {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(allowed).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    let name: String = name.chars().take(BundleName::BYTES_MAX).collect();
    name.parse()
        .with_context(|| format!("{} gives the bundle no name: add --name", model.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_up_to_the_largest_number_or_sorted_by_name() {
        let classes = |labels: &[&str]| {
            classes(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(classes(&["2", "0", "2"]), ["0", "1", "2"]);
        assert_eq!(classes(&["up", "down", "up"]), ["down", "up"]);
        assert_eq!(classes(&["1.5", "0.5"]), ["0.5", "1.5"]);
    }

    #[test]
    fn a_bundle_is_called_like_its_file_as_far_as_it_may() {
        let name = |path: &str| bundle_name(Path::new(path)).map(|name| name.to_string()).ok();
        assert_eq!(name("/tmp/My Model (v2).onnx").as_deref(), Some("my-model--v2-"));
        assert_eq!(name("_x.onnx").as_deref(), Some("x"));
        assert_eq!(name("ü.onnx"), None);
    }

    #[test]
    fn a_constant_column_is_normalised_without_a_division_by_zero() {
        let step = normalize(&[vec![1.0, 3.0], vec![5.0, 5.0]]);
        assert_eq!(step, PreStep::Normalize { mean: vec![2.0, 5.0], std: vec![1.0, 1.0] });
    }
}
