//! B7 on images: the digits of this repository through the real runtime, clean and with thirteen corruptions.

use std::path::Path;

use anyhow::{Context, ensure};
use fastrand::Rng;
use selvedge_bundle::{Baseline, Bundle, ReferenceAnswer, ReferenceData, SampleSpec};
use selvedge_runtime::{Model, Sample};

use super::{
    Effort, Row,
    accuracy::{Isotonic, Labelled, from_bins},
    corruptions::{Corruption, Image, PIXELS, SIDE},
    images::{Answer, Outcome, SPLITS, measure},
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
    let mut best: Option<&Outcome> = None;
    for outcome in &outcomes {
        let (detection, false_alarms) = (outcome.detection(), outcome.false_alarms);
        rows.push(Row::open(format!("B7 digits, detection, {}", outcome.name), detection));
        rows.push(Row::open(format!("B7 digits, false alarms, {}", outcome.name), false_alarms));
        let is_better = best.is_none_or(|best| detection > best.detection());
        if false_alarms <= FALSE_ALARMS_MAX && is_better {
            best = Some(outcome);
        }
    }
    let best = best.context("every statistic alarms too often on clean digits")?;
    rows.push(Row::at_least("B7 digits, mean detection, best statistic", best.detection(), 0.85));
    let false_alarms = best.false_alarms;
    rows.push(Row::at_most("B7 digits, its false alarms", false_alarms, FALSE_ALARMS_MAX));
    for (corruption, detection) in Corruption::ALL.iter().zip(&best.detections) {
        let name = format!("B7 digits, its detection of {}", corruption.name());
        rows.push(Row::open(name, *detection));
    }
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

/// How far the accuracy without labels is from the true one, over clean images and each corruption: from the bins of a
/// baseline, and from raw confidences of the same reference. Once the reference is a half of the images that the model
/// was not trained on, once the bundle's, on which the model is better than elsewhere.
fn label_free(
    bundle: &Bundle,
    eye: &Eye,
    (reference, reference_labels): (&[Image], &[String]),
    (held_out, labels): (&[Image], &[String]),
    random: &mut Rng,
) -> anyhow::Result<Vec<Row>> {
    let names = &bundle.manifest().labels;
    let judge = |images: &[Image], labels: &[String]| -> anyhow::Result<Vec<Labelled>> {
        let truths = labels.iter().map(|label| class_of(label, names));
        let judged = images.iter().zip(truths);
        judged.map(|(image, truth)| Ok(eye.judged(image, truth?))).collect()
    };
    let (known, unseen) = held_out.split_at(held_out.len() / 2);
    let (known_labels, unseen_labels) = labels.split_at(known.len());
    let mut conditions = vec![judge(unseen, unseen_labels)?];
    for corruption in Corruption::ALL {
        let images: Vec<Image> =
            unseen.iter().map(|image| corruption.apply(image, random.u64(..))).collect();
        conditions.push(judge(&images, unseen_labels)?);
    }
    let [raw, binned] = errors(&judge(known, known_labels)?, &conditions)?;
    let [raw_trained, binned_trained] = errors(&judge(reference, reference_labels)?, &conditions)?;
    let name = |from: &str| format!("B7 digits, mean error of accuracy without labels, {from}");
    Ok(vec![
        Row::open(name("raw"), raw),
        Row::open(name("bins"), binned),
        Row::at_most("B7 digits, what the bins add to that error", binned - raw, 0.005),
        Row::open(name("raw, reference trained on"), raw_trained),
        Row::open(name("bins, reference trained on"), binned_trained),
    ])
}

/// The mean distance over all conditions: from raw confidences, and from bins.
fn errors(reference: &[Labelled], conditions: &[Vec<Labelled>]) -> anyhow::Result<[f64; 2]> {
    let answer = |&(confidence, right): &Labelled| ReferenceAnswer {
        class: Some(0),
        confidence: Some(confidence),
        correct: Some(right),
    };
    let answers: Vec<ReferenceAnswer> = reference.iter().map(answer).collect();
    let rows = [("row".to_owned(), vec![0.0; reference.len()])];
    let data =
        ReferenceData { features: &rows, answers: &answers, class_count: 1, ..Default::default() };
    let baseline = Baseline::build(&data).context("the digits give a baseline")?;
    let binned = baseline.confidence().context("the digits' model has a softmax")?;
    let judged = binned.judged().context("the digits have labels")?;
    let isotonic = Isotonic::fit(reference);
    let mut errors = [0.0; 2];
    for answers in conditions {
        let right = answers.iter().filter(|(_, right)| *right).count();
        let accuracy = right as f64 / answers.len() as f64;
        let confidences: Vec<f32> = answers.iter().map(|(confidence, _)| *confidence).collect();
        let estimates =
            [isotonic.estimate(&confidences), from_bins(&binned.spec, &judged, &confidences)];
        for (error, estimate) in errors.iter_mut().zip(estimates) {
            *error += (estimate - accuracy).abs() / conditions.len() as f64;
        }
    }
    Ok(errors)
}
