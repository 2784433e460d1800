//! The rules that fields of a manifest keep together.

use std::collections::BTreeSet;

use selvedge_sketch::VECTOR_WIDTH_MAX;

use super::{
    Extent, IMAGE_FEATURES, ImageAxis, ImageSpec, ManifestDraft, ManifestError, PostStep, PreStep,
    Provenance, RowSpec, SampleSpec, TensorSpec,
};
use crate::{DType, golden::golden_path, limits::*};

type Checked = Result<(), ManifestError>;

/// Checks everything that the types of the fields do not.
pub(super) fn check(draft: &ManifestDraft) -> Checked {
    check_desk_fields(draft)?;
    check_texts(draft)?;
    check_sample(&draft.sample)?;
    check_tensors("inputs", &draft.inputs)?;
    check_tensors("outputs", &draft.outputs)?;
    check_distinct(
        "outputs",
        draft.inputs.iter().chain(&draft.outputs).map(|tensor| &tensor.name),
    )?;
    check_pre(draft)?;
    check_post(draft)?;
    check_golden(draft)?;
    rule("resources.ram_peak_bytes_max", draft.resources.ram_peak_bytes_max > 0, "is positive")?;
    for board in draft.resources.latency_p95_us.keys() {
        check_name("resources.latency_p95_us", board)?;
    }
    check_update(draft)?;
    rule(
        "drift",
        draft.drift.detector().is_ok(),
        "alarm_windows is at least 2, samples_min and clear_windows 1",
    )?;
    check_features(draft)?;
    check_embedding(draft)?;
    check_provenance(&draft.provenance)
}

fn check_embedding(draft: &ManifestDraft) -> Checked {
    let Some(name) = &draft.drift.embedding else { return Ok(()) };
    let refuse = |problem| Err(ManifestError::new("drift.embedding", problem));
    let Some(output) = draft.outputs.iter().find(|output| output.name == *name) else {
        let known: Vec<&str> = draft.outputs.iter().map(|output| output.name.as_str()).collect();
        let known = known.join(", ");
        return refuse(format!("names {name:?}, which is no output; there are {known}"));
    };
    let (width, dtype) = (output.sample_elements(), output.dtype);
    if !(1..=VECTOR_WIDTH_MAX).contains(&width) {
        return refuse(format!(
            "names {name:?}, which has {width} values for a sample; 1 to {VECTOR_WIDTH_MAX} are summed up"
        ));
    }
    if !matches!(dtype, DType::F32 | DType::I8) {
        return refuse(format!("names {name:?}, which is {dtype}; f32 or i8 is summed up"));
    }
    Ok(())
}

fn check_features(draft: &ManifestDraft) -> Checked {
    let features = &draft.drift.features;
    rule("drift.features", features.len() <= FEATURES_MAX, "has at most 64 features")?;
    check_distinct("drift.features", features)?;
    let known: Vec<&str> = match &draft.sample {
        SampleSpec::Row(row) => row.columns.iter().map(|column| column.name.as_str()).collect(),
        SampleSpec::Image(_) => IMAGE_FEATURES.to_vec(),
    };
    match features.iter().find(|feature| !known.contains(&feature.as_str())) {
        Some(feature) => {
            let problem = format!("names {feature:?}; there are {}", known.join(", "));
            Err(ManifestError::new("drift.features", problem))
        }
        None => Ok(()),
    }
}

/// Fields that only steer the packing have no place in a bundle.
fn check_desk_fields(draft: &ManifestDraft) -> Checked {
    let desk = "is for manifest.toml only";
    rule("model", draft.model.is_none(), desk)?;
    rule("golden.dir", draft.golden.dir.is_none(), desk)?;
    rule("reference", draft.reference.is_none(), desk)
}

fn check_texts(draft: &ManifestDraft) -> Checked {
    rule("version", draft.version.to_string().len() <= 64, "has at most 64 characters")?;
    check_name("task", &draft.task)?;
    check_line("description", &draft.description)?;
    rule("description", !draft.description.is_empty(), "is one sentence")?;
    check_name("license", &draft.license)?;
    rule("labels", draft.labels.len() <= LABELS_MAX, "has at most 1024 classes")?;
    for (i, label) in draft.labels.iter().enumerate() {
        check_name(&format!("labels[{i}]"), label)?;
    }
    check_distinct("labels", &draft.labels)
}

fn check_sample(sample: &SampleSpec) -> Checked {
    match sample {
        SampleSpec::Row(row) => check_row(row),
        SampleSpec::Image(image) => check_image(image),
    }
}

fn check_row(row: &RowSpec) -> Checked {
    let count = (1..=COLUMNS_MAX).contains(&row.columns.len());
    rule("sample.columns", count, "has 1 to 1024 columns")?;
    for (i, column) in row.columns.iter().enumerate() {
        let field = format!("sample.columns[{i}]");
        check_name(&format!("{field}.name"), &column.name)?;
        check_label(&format!("{field}.unit"), &column.unit)?;
        check_range(&field, column.min, column.max)?;
    }
    check_distinct("sample.columns", row.columns.iter().map(|column| &column.name))
}

fn check_image(image: &ImageSpec) -> Checked {
    use ImageAxis::{Channel, Height, Width};
    let axes = [[Height, Width].as_slice(), [Height, Width, Channel].as_slice()];
    let known = axes.contains(&image.axes.as_slice());
    rule("sample.axes", known, "is height, width or height, width, channel")?;
    let agree = image.axes.len() == image.shape.len() && !image.shape.contains(&0);
    rule("sample.shape", agree, "has one positive extent per axis")?;
    let elements = image.shape.iter().try_fold(1_u64, |n, &extent| n.checked_mul(extent.into()));
    let bounded = elements.is_some_and(|elements| elements <= SAMPLE_ELEMENTS_MAX);
    rule("sample.shape", bounded, "holds at most 16777216 elements")?;
    rule("sample.dtype", image.dtype == DType::U8, "is u8 for images")?;
    rule("sample.min", (0.0..=255.0).contains(&image.min), "is a value of u8")?;
    rule("sample.max", (0.0..=255.0).contains(&image.max), "is a value of u8")?;
    check_range("sample", Some(image.min), Some(image.max))
}

fn check_tensors(field: &str, tensors: &[TensorSpec]) -> Checked {
    rule(field, (1..=TENSORS_MAX).contains(&tensors.len()), "has 1 to 16 tensors")?;
    tensors
        .iter()
        .enumerate()
        .try_for_each(|(i, spec)| check_tensor(&format!("{field}[{i}]"), spec))
}

fn check_tensor(field: &str, tensor: &TensorSpec) -> Checked {
    check_name(&format!("{field}.name"), &tensor.name)?;
    let path = golden_path(&tensor.name).len() <= 255;
    rule(format!("{field}.name"), path, "is too long for a file name")?;
    let shape = format!("{field}.shape");
    if tensor.axes.len() != tensor.shape.len() {
        let (axes, extents) = (tensor.axes.len(), tensor.shape.len());
        return Err(ManifestError::new(shape, format!("has {extents} extents for {axes} axes")));
    }
    for (i, axis) in tensor.axes.iter().enumerate() {
        check_name(&format!("{field}.axes[{i}]"), axis)?;
    }
    check_distinct(&format!("{field}.axes"), &tensor.axes)?;
    let batch = tensor.axes.first().is_some_and(|axis| axis == "batch");
    rule(format!("{field}.axes"), batch, "begins with batch")?;
    let free = matches!(tensor.shape.first(), Some(Extent::Free | Extent::Fixed(1)));
    rule(&shape, free, "begins with -1 (any batch) or 1")?;
    let fixed = tensor.shape.iter().skip(1).all(|extent| matches!(extent, Extent::Fixed(_)));
    rule(&shape, fixed, "is free in the batch axis alone")?;
    let mut elements = tensor.sample_shape().into_iter();
    let elements = elements.try_fold(1_u64, |n, extent| n.checked_mul(extent as u64));
    let bounded = elements.is_some_and(|elements| elements <= SAMPLE_ELEMENTS_MAX);
    rule(&shape, bounded, "holds at most 16777216 elements per sample")?;
    check_label(&format!("{field}.unit"), tensor.unit.as_deref().unwrap_or_default())?;
    check_range(field, tensor.min, tensor.max)?;
    let positive = tensor.scale.is_none_or(|scale| scale.is_finite() && scale > 0.0);
    rule(format!("{field}.scale"), positive, "is positive")?;
    let pair = tensor.zero_point.is_none() || tensor.scale.is_some();
    rule(format!("{field}.zero_point"), pair, "needs a scale")
}

/// What the steps have made of a sample so far.
enum Shape {
    Row { columns: usize },
    Image { axes: Vec<(ImageAxis, u32)> },
}

impl Shape {
    fn of(sample: &SampleSpec) -> Self {
        match sample {
            SampleSpec::Row(row) => Self::Row { columns: row.columns.len() },
            SampleSpec::Image(image) => Self::Image {
                axes: image.axes.iter().copied().zip(image.shape.iter().copied()).collect(),
            },
        }
    }

    /// How many numbers `normalize` needs.
    fn channels(&self) -> usize {
        match self {
            Self::Row { columns } => *columns,
            Self::Image { axes } => {
                let channel = axes.iter().find(|(axis, _)| *axis == ImageAxis::Channel);
                channel.map_or(1, |&(_, extent)| extent as usize)
            }
        }
    }

    fn extents(&self) -> Vec<usize> {
        match self {
            Self::Row { columns } => vec![*columns],
            Self::Image { axes } => axes.iter().map(|&(_, extent)| extent as usize).collect(),
        }
    }
}

fn check_pre(draft: &ManifestDraft) -> Checked {
    rule("pre", draft.pre.len() <= STEPS_MAX, "has at most 16 steps")?;
    rule("inputs", draft.inputs.len() == 1, "has exactly one tensor, which the sample feeds")?;
    let mut shape = Shape::of(&draft.sample);
    for (i, step) in draft.pre.iter().enumerate() {
        apply(&format!("pre[{i}]"), step, &mut shape)?;
    }
    check_fed(&shape.extents(), &draft.inputs[0])
}

/// Checks one step and follows what it does to the shape.
fn apply(field: &str, step: &PreStep, shape: &mut Shape) -> Checked {
    match step {
        PreStep::Normalize { mean, std } => check_normalize(field, mean, std, shape.channels()),
        PreStep::Scale { factor, offset } => {
            rule(format!("{field}.factor"), factor.is_finite(), "is finite")?;
            rule(format!("{field}.offset"), offset.is_finite(), "is finite")
        }
        PreStep::Resize { height, width, .. } => {
            let axes = image_axes(field, shape)?;
            for (axis, extent) in axes.iter_mut() {
                match axis {
                    ImageAxis::Height => *extent = *height,
                    ImageAxis::Width => *extent = *width,
                    ImageAxis::Channel => {}
                }
            }
            let elements =
                axes.iter().try_fold(1_u64, |n, &(_, extent)| n.checked_mul(extent.into()));
            let bounded = elements.is_some_and(|n| (1..=SAMPLE_ELEMENTS_MAX).contains(&n));
            rule(field, bounded, "gives an image of 1 to 16777216 elements")
        }
        PreStep::Layout { to } => {
            let axes = image_axes(field, shape)?;
            *axes = reorder(axes, to).ok_or_else(|| {
                ManifestError::new(
                    format!("{field}.to"),
                    "names each axis of the image once; only a channel axis may be added",
                )
            })?;
            Ok(())
        }
    }
}

fn check_normalize(field: &str, mean: &[f64], std: &[f64], channels: usize) -> Checked {
    for (name, values) in [("mean", mean), ("std", std)] {
        if values.len() != channels {
            let reason = format!("has {} numbers for {channels} columns or channels", values.len());
            return Err(ManifestError::new(format!("{field}.{name}"), reason));
        }
        let finite = values.iter().all(|value| value.is_finite());
        rule(format!("{field}.{name}"), finite, "has only finite numbers")?;
    }
    rule(format!("{field}.std"), std.iter().all(|&std| std > 0.0), "has only positive numbers")
}

fn image_axes<'a>(
    field: &str,
    shape: &'a mut Shape,
) -> Result<&'a mut Vec<(ImageAxis, u32)>, ManifestError> {
    match shape {
        Shape::Image { axes } => Ok(axes),
        Shape::Row { .. } => {
            Err(ManifestError::new(field, "is a step for images, the sample is a row"))
        }
    }
}

fn reorder(axes: &[(ImageAxis, u32)], to: &[ImageAxis]) -> Option<Vec<(ImageAxis, u32)>> {
    let complete = axes.iter().all(|(axis, _)| to.contains(axis));
    let once = (1..to.len()).all(|i| !to[..i].contains(&to[i]));
    let extent = |axis: &ImageAxis| match axes.iter().find(|(known, _)| known == axis) {
        Some(&(_, extent)) => Some((*axis, extent)),
        None if *axis == ImageAxis::Channel => Some((*axis, 1)),
        None => None,
    };
    (complete && once).then(|| to.iter().map(extent).collect()).flatten()
}

/// The sample after all steps has the input's shape; where only the rank differs, the same number of elements.
fn check_fed(sample: &[usize], input: &TensorSpec) -> Checked {
    let wanted = input.sample_shape();
    let fits = if sample.len() == wanted.len() {
        sample == wanted
    } else {
        sample.iter().product::<usize>() == input.sample_elements()
    };
    if fits {
        return Ok(());
    }
    let reason =
        format!("is {wanted:?} behind the batch axis, but the steps of `pre` give {sample:?}");
    Err(ManifestError::new("inputs[0].shape", reason))
}

fn check_post(draft: &ManifestDraft) -> Checked {
    rule("post", draft.post.len() <= STEPS_MAX, "has at most 16 steps")?;
    let mut decided = false;
    for (i, step) in draft.post.iter().enumerate() {
        let field = format!("post[{i}]");
        let output = draft.outputs.iter().find(|output| output.name == step.output());
        let Some(output) = output else {
            let reason = format!("there is no output {:?}", step.output());
            return Err(ManifestError::new(format!("{field}.output"), reason));
        };
        let classes = match step {
            PostStep::Softmax { .. } => continue,
            PostStep::Argmax { .. } => output.sample_elements(),
            PostStep::Threshold { at, .. } => {
                rule(format!("{field}.at"), at.is_finite(), "is finite")?;
                rule(&field, output.sample_elements() == 1, "needs an output of one value")?;
                2
            }
        };
        rule(&field, !decided, "is a second step that decides the class")?;
        decided = true;
        if !draft.labels.is_empty() && draft.labels.len() != classes {
            let count = draft.labels.len();
            let reason =
                format!("has {count} names for the {classes} classes of {:?}", output.name);
            return Err(ManifestError::new("labels", reason));
        }
    }
    Ok(())
}

fn check_golden(draft: &ManifestDraft) -> Checked {
    check_name("golden.framework", &draft.golden.framework)?;
    for output in &draft.outputs {
        let there = draft.golden.tolerance.contains_key(&output.name);
        rule("golden.tolerance", there, format_args!("has no entry for output {:?}", output.name))?;
    }
    for (name, &tolerance) in &draft.golden.tolerance {
        let known = draft.outputs.iter().any(|output| output.name == *name);
        rule("golden.tolerance", known, format_args!("names {name:?}, which is no output"))?;
        let field = format!("golden.tolerance.{name}");
        rule(field, tolerance.is_finite() && tolerance >= 0.0, "is finite and not negative")?;
    }
    Ok(())
}

fn check_update(draft: &ManifestDraft) -> Checked {
    let update = &draft.update;
    let trial_s = 1..=TRIAL_S_MAX;
    rule("update.trial_time_s_max", trial_s.contains(&update.trial_time_s_max), "is 1 to 600")?;
    let stated = draft.resources.ram_peak_bytes_max;
    let room = update.trial_memory_bytes_max.is_none_or(|bytes| bytes >= stated);
    rule("update.trial_memory_bytes_max", room, "is at least resources.ram_peak_bytes_max")?;
    rule("update.probation_s", update.probation_s <= PROBATION_S_MAX, "is at most 604800")?;
    let bounded = update.probation_inferences <= PROBATION_INFERENCES_MAX;
    rule("update.probation_inferences", bounded, "is at most 10000000")?;
    rule("update.crashes_max", update.crashes_max <= PROBATION_CRASHES_MAX, "is at most 100")?;
    let fraction = 0.0..=1.0;
    let failed = fraction.contains(&update.failed_fraction_max);
    rule("update.failed_fraction_max", failed, "is 0 to 1")?;
    let ratio = (1.0..=LATENCY_RATIO_MAX).contains(&update.latency_ratio_max);
    rule("update.latency_ratio_max", ratio, "is 1 to 1000")?;
    rule("update.class_shift_max", fraction.contains(&update.class_shift_max), "is 0 to 1")
}

fn check_provenance(provenance: &Provenance) -> Checked {
    check_line("provenance.dataset", &provenance.dataset)?;
    check_line("provenance.code", &provenance.code)?;
    check_line("provenance.training", &provenance.training)?;
    let digest = &provenance.dataset_sha256;
    let good = digest.is_empty() || selvedge_wire::Digest::from_hex(digest).is_ok();
    rule("provenance.dataset_sha256", good, "is 64 lower-case hexadecimal digits")
}

fn check_range(field: &str, min: Option<f64>, max: Option<f64>) -> Checked {
    rule(format!("{field}.min"), min.is_none_or(f64::is_finite), "is finite")?;
    rule(format!("{field}.max"), max.is_none_or(f64::is_finite), "is finite")?;
    let ordered = min.zip(max).is_none_or(|(min, max)| min <= max);
    rule(format!("{field}.min"), ordered, "is not above max")
}

/// A short text that is there.
fn check_name(field: &str, text: &str) -> Checked {
    rule(field, !text.is_empty(), "is not empty")?;
    check_label(field, text)
}

/// A short text that may be empty.
fn check_label(field: &str, text: &str) -> Checked {
    rule(field, text.len() <= LABEL_BYTES_MAX, "has at most 128 bytes")?;
    check_line(field, text)
}

fn check_line(field: &str, text: &str) -> Checked {
    rule(field, text.len() <= TEXT_BYTES_MAX, "has at most 1024 bytes")?;
    rule(field, !text.chars().any(char::is_control), "has no control characters")
}

fn check_distinct<'a>(field: &str, names: impl IntoIterator<Item = &'a String>) -> Checked {
    let mut seen = BTreeSet::new();
    names
        .into_iter()
        .try_for_each(|name| rule(field, seen.insert(name), format_args!("has {name:?} twice")))
}

fn rule(field: impl ToString, kept: bool, rule: impl ToString) -> Checked {
    if kept { Ok(()) } else { Err(ManifestError::new(field, rule)) }
}
