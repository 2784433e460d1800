//! B7 on images: the digits of this repository through the real runtime, clean and with thirteen corruptions.

use std::path::Path;

use anyhow::{Context, ensure};
use fastrand::Rng;
use selvedge_bundle::{Bundle, SampleSpec};
use selvedge_runtime::{Model, Sample};

use super::{
    Effort, Row,
    accuracy::{Isotonic, Labelled, from_bins},
    corruptions::{Corruption, Image, PIXELS, SIDE},
    images::{Answer, SPLITS, measure},
};
use crate::data::{Labels, Samples, class_of};
use crate::pack::pack_recipe;

/// The tensor of the model that is its embedding.
const EMBEDDING: &str = "embedding";

/// Detection and false alarms of each statistic, and accuracy without labels.
pub fn rows(models: &Path, effort: Effort, random: &mut Rng) -> anyhow::Result<Vec<Row>> {
    let folder = models.join("meter-digits");
    let (bundle, model) = pack_recipe(&folder.join("v2"))?;
    let sample = &bundle.manifest().sample;
    let (reference, reference_labels) = images(&folder.join("data/reference.npy"), sample)?;
    let (held_out, labels) = images(&folder.join("data/replay.npy"), sample)?;
    let eye = Eye::new(&bundle, model)?;
    let answer = |pixels: &[u8]| eye.answer(pixels);
    let outcomes = measure(&reference, &held_out, &answer, effort.of(SPLITS), random.u64(..))?;
    let mut rows = Vec::new();
    let mut best = (f64::NAN, f64::NAN);
    for outcome in &outcomes {
        let (detection, false_alarms) = (outcome.detection(), outcome.false_alarms);
        rows.push(Row::open(format!("B7 digits, detection, {}", outcome.name), detection));
        rows.push(Row::open(format!("B7 digits, false alarms, {}", outcome.name), false_alarms));
        if false_alarms <= FALSE_ALARMS_MAX && (best.0.is_nan() || detection > best.0) {
            best = (detection, false_alarms);
        }
    }
    rows.push(Row::at_least("B7 digits, mean detection, best statistic", best.0, 0.85));
    rows.push(Row::at_most("B7 digits, its held-out false alarms", best.1, FALSE_ALARMS_MAX));
    let reference = (&reference[..], &reference_labels[..]);
    rows.extend(label_free(&bundle, &eye, reference, (&held_out, &labels), random)?);
    Ok(rows)
}

const FALSE_ALARMS_MAX: f64 = 0.02;

fn images(path: &Path, spec: &SampleSpec) -> anyhow::Result<(Vec<Image>, Vec<String>)> {
    let read = Samples::read(path, spec, &Labels::Usual)?;
    let image = |sample: &Sample| match sample {
        Sample::Image { data, .. } => Image::try_from(&data[..]).ok(),
        Sample::Row(_) => None,
    };
    let images: Option<Vec<Image>> = read.samples.iter().map(image).collect();
    let images = images.with_context(|| format!("{}: not all images are 8×8", path.display()))?;
    let labels = read.labels.with_context(|| format!("{} has no labels", path.display()))?;
    Ok((images, labels))
}

/// The model, and how its embedding is quantised.
struct Eye {
    model: Model,
    embedding: usize,
    scale: f32,
    zero_point: f32,
}

impl Eye {
    fn new(bundle: &Bundle, model: Model) -> anyhow::Result<Self> {
        let outputs = &bundle.manifest().outputs;
        let embedding = outputs.iter().position(|output| output.name == EMBEDDING);
        let embedding = embedding.context("the digits' model has no embedding")?;
        let output = &outputs[embedding];
        let quantisation = output.scale.zip(output.zero_point);
        let (scale, zero_point) = quantisation.context("the embedding is not quantised")?;
        let (scale, zero_point) = (scale as f32, zero_point as f32);
        let eye = Self { model, embedding, scale, zero_point };
        ensure!(eye.ask(&[0; PIXELS]).is_ok(), "the digits' model does not take 8×8 pixels");
        Ok(eye)
    }

    fn ask(&self, pixels: &[u8]) -> Result<selvedge_runtime::Answer, selvedge_runtime::Error> {
        self.model.answer(&Sample::Image { shape: vec![SIDE, SIDE], data: pixels.to_vec() })
    }

    fn answer(&self, pixels: &[u8]) -> Answer {
        let answer = self.ask(pixels).expect("an image of the same shape was answered");
        let values = answer.outputs[self.embedding].data().to_f32();
        let code = |value: f32| (value / self.scale + self.zero_point).round() as i8;
        Answer {
            embedding: values.into_iter().map(code).collect(),
            confidence: answer.confidence().unwrap_or(0.0),
        }
    }

    /// The confidence, and whether the answer is right.
    fn judged(&self, pixels: &[u8], truth: usize) -> Labelled {
        let answer = self.ask(pixels).expect("an image of the same shape was answered");
        let right = answer.class.as_ref().is_some_and(|class| class.index == truth);
        (answer.confidence().unwrap_or(0.0), right)
    }
}

/// How far the accuracy without labels is from the true one, over clean images and each corruption: from the bins of
/// the bundle's baseline, and from raw confidences of the same reference.
fn label_free(
    bundle: &Bundle,
    eye: &Eye,
    (reference, reference_labels): (&[Image], &[String]),
    (held_out, labels): (&[Image], &[String]),
    random: &mut Rng,
) -> anyhow::Result<Vec<Row>> {
    let baseline = bundle.baseline().context("the digits' recipe has reference data")?;
    let confidence = baseline.confidence().context("the digits' model has a softmax")?;
    let judged = confidence.judged().context("the digits' reference has labels")?;
    let names = &bundle.manifest().labels;
    let truths = |labels: &[String]| {
        labels.iter().map(|label| class_of(label, names)).collect::<anyhow::Result<Vec<usize>>>()
    };
    let judge = |(image, truth): (&Image, &usize)| eye.judged(image, *truth);
    let known: Vec<Labelled> =
        reference.iter().zip(&truths(reference_labels)?).map(judge).collect();
    let isotonic = Isotonic::fit(&known);
    let truths = truths(labels)?;
    let (mut raw_error, mut binned_error) = (0.0, 0.0);
    let conditions = [None].into_iter().chain(Corruption::ALL.map(Some));
    let count = 1.0 + Corruption::ALL.len() as f64;
    for condition in conditions {
        let images = held_out.iter().map(|image| match condition {
            Some(corruption) => corruption.apply(image, random.u64(..)),
            None => *image,
        });
        let images: Vec<Image> = images.collect();
        let answers: Vec<Labelled> = images.iter().zip(&truths).map(judge).collect();
        let right = answers.iter().filter(|(_, right)| *right).count();
        let accuracy = right as f64 / answers.len() as f64;
        let confidences: Vec<f32> = answers.iter().map(|(confidence, _)| *confidence).collect();
        raw_error += (isotonic.estimate(&confidences) - accuracy).abs() / count;
        let binned = from_bins(&confidence.spec, &judged, &confidences);
        binned_error += (binned - accuracy).abs() / count;
    }
    Ok(vec![
        Row::open("B7 digits, mean error of accuracy without labels, raw", raw_error),
        Row::open("B7 digits, mean error of accuracy without labels, bins", binned_error),
        Row::at_most("B7 digits, what the bins add to that error", binned_error - raw_error, 0.005),
    ])
}
