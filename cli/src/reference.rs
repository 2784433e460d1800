//! Reference data and the baseline that is built from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use selvedge_bundle::{
    Baseline, BaselineEmbedding, CALIBRATION_SOURCES_MIN, Manifest, Order, PostStep,
    ReferenceAnswer, ReferenceData, ReferenceEmbedding, SampleSpec, Stream,
    multivariate::Threshold,
};
use selvedge_runtime::{Answer, FeatureReader, Model, Sample};
use selvedge_sketch::{Calibration, ScoreTable};

use crate::data::{Labels, Samples, Sessions, class_of, read_session_file, read_sessions};
use crate::terminal::progress;

/// With fewer rows, what the reference leaves open about the shares of the bins makes the detector slower.
const ROWS_AMPLE: u64 = 10_000;
/// A bin with so much of the reference hides what happens inside of it.
const SHARE_LARGE: f64 = 0.5;

/// The reference data, and how it came about
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReferenceArgs {
    /// Reference data: a CSV file with a header, or images as .npy
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// The column of the reference data with the true class
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// The column of the reference data that says from which session (a device, a run, a day) a row is: rows are then
    /// in the order of time within each, and no window spans two
    #[arg(long, value_name = "COLUMN")]
    pub by: Option<String>,
    /// Whether the reference data is in the order of time [default: as the manifest says, else none]
    #[arg(long, value_name = "time|none", value_parser = parse_order)]
    pub order: Option<Order>,
}

impl ReferenceArgs {
    /// What is said about the order, if anything is.
    pub fn order(&self) -> Option<Order> {
        self.order.or_else(|| self.by.as_ref().map(|_| Order::Time))
    }

    /// Where the sessions are, if anything is said.
    pub fn sessions(&self) -> Sessions {
        self.by.clone().map_or(Sessions::One, Sessions::Column)
    }

    /// Where the labels are.
    pub fn labels(&self) -> Labels {
        self.label.clone().map_or(Labels::Usual, Labels::Column)
    }
}

fn parse_order(text: &str) -> Result<Order, String> {
    match text {
        "time" => Ok(Order::Time),
        "none" => Ok(Order::None),
        _ => Err("it is time or none".to_owned()),
    }
}

/// The reference data, and the file that it came from.
pub struct ReferenceSamples {
    path: PathBuf,
    samples: Samples,
    /// One per sample, those of a session together; empty if there is one session.
    sessions: Vec<u32>,
}

impl ReferenceSamples {
    /// Reads the samples that `spec` describes, with their sessions.
    pub fn read(
        path: &Path,
        spec: &SampleSpec,
        labels: &Labels,
        sessions: &Sessions,
    ) -> anyhow::Result<ReferenceSamples> {
        let mut samples = Samples::read(path, spec, labels)?;
        let is_table = matches!(spec, SampleSpec::Row(_));
        let mut sessions = match sessions {
            Sessions::One => Vec::new(),
            Sessions::Column(column) => {
                ensure!(
                    is_table,
                    "images have no column {column:?}: a session column is for tables; name a .npy file with one session per image in the manifest, [reference] sessions = \"FILE\""
                );
                read_sessions(path, column)?
            }
            Sessions::File(file) => {
                ensure!(
                    !is_table,
                    "sessions = {file:?} is for images: of a table, name the session_column"
                );
                read_session_file(file, samples.samples.len())?
            }
        };
        if !sessions.is_empty() {
            let mut order: Vec<usize> = (0..sessions.len()).collect();
            order.sort_by_key(|row| sessions[*row]);
            let Samples { samples: rows, labels } = &samples;
            samples = Samples {
                samples: order.iter().map(|row| rows[*row].clone()).collect(),
                labels: labels
                    .as_ref()
                    .map(|labels| order.iter().map(|row| labels[*row].clone()).collect()),
            };
            sessions.sort_unstable();
        }
        Ok(ReferenceSamples { path: path.to_owned(), samples, sessions })
    }

    /// From one to `count` samples that a model can answer, evenly over the whole of them.
    pub fn spread(&self, count: usize) -> anyhow::Result<Vec<Sample>> {
        let finite = |sample: &&Sample| match sample {
            Sample::Row(values) => values.iter().all(|value| value.is_finite()),
            Sample::Image { .. } => true,
        };
        let usable: Vec<&Sample> = self.samples.samples.iter().filter(finite).collect();
        ensure!(
            !usable.is_empty(),
            "{}: every row has an empty cell or a value that is not a finite number in a column that the model takes, and golden vectors need one row without",
            self.path.display()
        );
        let count = count.min(usable.len());
        Ok((0..count).map(|index| usable[index * usable.len() / count].clone()).collect())
    }

    /// The baseline of what `model` answers to them.
    pub fn baseline(
        &self,
        manifest: &Manifest,
        model: &Model,
        order: Order,
    ) -> anyhow::Result<Baseline> {
        let Samples { samples, labels } = &self.samples;
        let reader = FeatureReader::of(manifest);
        let mut features: Vec<(String, Vec<f32>)> = reader
            .names()
            .iter()
            .map(|name| (name.clone(), Vec::with_capacity(samples.len())))
            .collect();
        let mut answers = Vec::with_capacity(samples.len());
        let output = manifest.embedding();
        let mut vectors = Vec::new();
        let bar = progress(samples.len(), "answering the reference");
        for (row, sample) in samples.iter().enumerate() {
            for (column, value) in
                features.iter_mut().zip(reader.read(sample).context("reference data")?)
            {
                column.1.push(value);
            }
            bar.inc(1);
            // A row with a missing value is counted by the baseline and has no class.
            let answer = model.answer(sample).ok();
            if let Some(output) = output {
                vectors.push(answer.as_ref().map(|answer| answer.outputs[output].data().clone()));
            }
            let class = answer.as_ref().and_then(|answer| answer.class.as_ref());
            let truth = labels.as_ref().map(|labels| class_of(&labels[row], &manifest.labels));
            answers.push(match (class, truth.transpose()?) {
                (Some(class), truth) => ReferenceAnswer {
                    class: Some(u32::try_from(class.index).context("a class has a small index")?),
                    confidence: answer.as_ref().and_then(Answer::confidence),
                    correct: truth.map(|truth| truth == class.index),
                },
                (None, _) => ReferenceAnswer::default(),
            });
        }
        bar.finish_and_clear();
        let decides = answers.iter().any(|answer| answer.class.is_some());
        let data = ReferenceData {
            features: &features,
            answers: if decides { &answers } else { &[] },
            class_count: if decides { class_count(manifest) } else { 0 },
            order,
            sessions: &self.sessions,
            policy: manifest.drift.detector().context("drift policy")?,
            embedding: output.map(|output| ReferenceEmbedding {
                tensor: &manifest.outputs[output].name,
                vectors: &vectors,
            }),
        };
        Baseline::build(&data).context("the reference data gives no baseline")
    }
}

/// How many classes the step that decides can answer.
fn class_count(manifest: &Manifest) -> usize {
    let decides = |step: &&PostStep| !matches!(step, PostStep::Softmax { .. });
    match manifest.post.iter().find(decides) {
        Some(PostStep::Argmax { output }) => {
            let output = manifest.outputs.iter().find(|tensor| tensor.name == *output);
            output.expect("a manifest's steps read outputs that it lists").sample_elements()
        }
        _ => 2,
    }
}

/// One stream of a baseline as people read it.
pub struct StreamSummary<'a> {
    /// The feature's name, `classes` or `confidence`.
    pub name: &'a str,
    /// How many bins or groups of classes it has.
    pub bins: usize,
    /// The share of the reference in the fullest of them, 0 to 1.
    pub largest_share: f64,
    /// How it is judged.
    pub table: &'a ScoreTable,
}

/// The streams of a baseline in their order.
pub fn streams(baseline: &Baseline) -> Vec<StreamSummary<'_>> {
    let share = |counts: &[u32]| {
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let largest = counts.iter().max().copied().unwrap_or(0);
        f64::from(largest) / (total as f64).max(1.0)
    };
    let summary = |(stream, table)| {
        let (name, counts) = match stream {
            Stream::Feature(name) => {
                let mut features = baseline.features().iter();
                let feature = features.find(|feature| feature.name == name);
                (name, feature.map(|feature| &feature.counts.bins[..]))
            }
            Stream::Classes => ("classes", baseline.classes().map(|classes| &classes.counts[..])),
            Stream::Confidence => {
                ("confidence", baseline.confidence().map(|confidence| &confidence.counts[..]))
            }
        };
        let counts = counts.unwrap_or_default();
        StreamSummary { name, bins: counts.len(), largest_share: share(counts), table }
    };
    baseline.streams().map(summary).collect()
}

/// Why it is not known how much the windows of the reference vary; none if it is.
pub fn uncalibrated_because(baseline: &Baseline) -> Option<String> {
    if !baseline.streams().any(|(_, table)| table.uncalibrated()) {
        return None;
    }
    let samples = u64::from(baseline.policy().samples_min());
    let windows = baseline.rows() / samples;
    let (windows_min, cycles_min) = (Calibration::WINDOWS_MIN, Calibration::CYCLES_MIN);
    let cycle = u64::from(baseline.policy().cycle_windows().unwrap_or(0));
    Some(if baseline.order() == Order::None {
        "its rows are in no order of time".to_owned()
    } else if windows < u64::from(windows_min) {
        format!("it has {windows} windows of {samples} rows, and {windows_min} are needed")
    } else if cycle > 0 && windows / cycle < u64::from(cycles_min) {
        let cycles = windows / cycle;
        format!("it has {cycles} cycles of {cycle} windows, and {cycles_min} are needed")
    } else {
        format!("its sessions have fewer than {windows_min} whole windows of {samples} rows")
    })
}

/// Why there is no threshold for the embedding's sums; none if there is one, or no embedding.
pub fn no_threshold_because(baseline: &Baseline) -> Option<String> {
    let embedding = baseline.embedding()?;
    if embedding.calibration.is_some() {
        return None;
    }
    let (sources, windows) = (2 * CALIBRATION_SOURCES_MIN, Threshold::WINDOWS_MIN);
    let samples = baseline.policy().samples_min();
    Some(format!(
        "it takes {sources} sessions that fill a window of {samples} samples, and {windows} windows in all in every second of them"
    ))
}

/// The embedding in a sentence.
pub fn embedding_text(embedding: &BaselineEmbedding) -> String {
    let BaselineEmbedding { tensor, width, projection, .. } = embedding;
    let said = format!("{tensor}, {width} values and {} random features", projection.features);
    let Some(calibration) = &embedding.calibration else { return said };
    let sizes: Vec<String> =
        calibration.embedding.iter().map(|size| size.vectors.to_string()).collect();
    let (sources, others) = (calibration.sources, calibration.reference_sources);
    let sizes = sizes.join(", ");
    format!(
        "{said}; thresholds for windows of {sizes} from {sources} sessions, against {others} others"
    )
}

/// What the reference does not support, each in a sentence.
pub fn doubts(baseline: &Baseline) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(because) = uncalibrated_because(baseline) {
        doubts.push(format!(
            "the reference does not say how much windows vary, because {because}: drift is found later, how often it is claimed wrongly is not known, and every state says uncalibrated; give rows in the order of time, with --order time or --by SESSION_COLUMN"
        ));
    }
    if let Some(because) = no_threshold_because(baseline) {
        doubts.push(format!(
            "the embedding has no threshold: {because}; its distance is shown as uncalibrated. Name the sessions, with --by SESSION_COLUMN or in the manifest's [reference]"
        ));
    }
    let rows = baseline.rows();
    if rows < ROWS_AMPLE {
        doubts.push(format!(
            "the reference has {rows} samples: small changes are found later than with {ROWS_AMPLE}"
        ));
    }
    for stream in streams(baseline).iter().filter(|stream| stream.name != "classes") {
        let name = stream.name;
        if stream.bins == 1 {
            doubts.push(format!(
                "{name} has one bin: only values outside of the reference's are noticed"
            ));
        } else if stream.largest_share > SHARE_LARGE {
            let percent = 100.0 * stream.largest_share;
            doubts.push(format!(
                "{percent:.0} % of {name} are in one bin, and changes inside of it are not noticed"
            ));
        }
    }
    if baseline.classes().is_some() {
        match baseline.confidence() {
            None => doubts.push(
                "the model gives no probability (no softmax step), so its accuracy cannot be estimated without labels".to_owned(),
            ),
            Some(confidence) if confidence.judged().is_none() => doubts.push(
                "the reference has no labels, so the accuracy cannot be estimated without labels".to_owned(),
            ),
            Some(_) => {}
        }
    }
    doubts
}
