//! The baseline: how the reference data were distributed, in bins that are frozen with the bundle, and how
//! windows are judged that were counted in them.
//!
//! A device counts its samples in the same bins; what was counted is compared with what stands here.
//! Where the edges of the bins are is decided in `edges.rs`.
//!
//! Each *stream* (a feature, the classes of the answers, their confidence) has a table of integer scores. They
//! are tempered by how much the windows of the reference vary in the order of time, or, where that is not
//! known, by a guess; then the table is *uncalibrated*, and what is concluded with it says so.
//!
//! Where an output tensor is declared as the embedding, what windows of it are held against stands here as well
//! ([`BaselineEmbedding`]).
//!
//! Encoded as one version byte and a postcard body; one baseline has exactly one encoding. The first
//! 8 bytes of the SHA-256 of the encoding are the [`SpecId`] that profiles carry.

use std::collections::BTreeSet;

use selvedge_sketch::{
    BIN_COUNT_MAX, BinCounts, BinSpec, CLASS_COUNT_MAX, Calibration, ClassCounts, ConfidenceSpec,
    DetectorPolicy, GatewayProfile, Judged, LinearSums, Measurement, ScoreTable, SpecId, Values,
    VarianceInflation, key_from_f32,
};
use selvedge_wire::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    BaselineEmbedding, Error, Order, ReferenceEmbedding, digest_of,
    edges::{frozen_bins, quantile_edges},
    limits::{BASELINE_BYTES_MAX, FEATURES_MAX, LABEL_BYTES_MAX, LABELS_MAX},
};

/// The version of the encoding.
const VERSION: u8 = 3;

/// The most cells that classes are grouped into.
const CLASS_CELLS_MAX: usize = 16;

/// The largest distance of an `i8` from 0.
const CODE_SIZE_MAX: u64 = 128;

/// The most edges of the bins of confidence that are steps of its accuracy.
const ACCURACY_STEPS_MAX: usize = 8;

/// The reference distributions of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    spec_id: SpecId,
    body: Body,
}

/// What is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    rows: u64,
    order: Order,
    policy: DetectorPolicy,
    features: Vec<BaselineFeature>,
    classes: Option<BaselineClasses>,
    confidence: Option<BaselineConfidence>,
    accuracy: Option<Accuracy>,
    embedding: Option<BaselineEmbedding>,
}

/// One feature of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineFeature {
    /// The feature: a column's name, or a summary of an image.
    pub name: String,
    /// The frozen bins, whose guard is the reference's smallest and largest finite value.
    pub spec: BinSpec,
    /// How the reference falls into them.
    pub counts: ReferenceCounts,
    /// How windows of it are judged.
    pub table: ScoreTable,
}

/// How the values of one feature fall into its bins. None is below or above: the guard encloses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceCounts {
    /// One count per bin.
    pub bins: Vec<u32>,
    /// Values that are not a number.
    pub nan: u32,
    /// Values that are positive infinity.
    pub infinity: u32,
    /// Values that are negative infinity.
    pub infinity_negative: u32,
}

impl ReferenceCounts {
    /// All values, whatever they are.
    pub fn total(&self) -> u64 {
        let counts = [self.nan, self.infinity, self.infinity_negative];
        self.bins.iter().chain(&counts).map(|&count| u64::from(count)).sum()
    }

    /// The counts per cell, as detectors and statistics take them: below, the bins, above, not finite.
    pub fn cells(&self) -> Vec<u32> {
        let not_finite = [self.nan, self.infinity, self.infinity_negative];
        let not_finite = not_finite.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        [&[0], &self.bins[..], &[0, not_finite]].concat()
    }
}

/// How the model answers the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineClasses {
    /// How often it answers each class.
    pub counts: Vec<u32>,
    /// The cell of each class: with more than 16 classes the rare ones share the last cell.
    pub cells: Vec<u8>,
    /// How windows of answers are judged; none where there is one class alone.
    pub table: Option<ScoreTable>,
}

impl BaselineClasses {
    fn cell_count(&self) -> usize {
        self.cells.iter().max().map_or(0, |last| usize::from(*last) + 1)
    }

    /// The answers of a window per cell.
    fn cells_of(&self, classes: &ClassCounts) -> Vec<u32> {
        let mut counts = vec![0_u32; self.cell_count()];
        // Classes that profiles count as one, and those that the reference does not have.
        let last = counts.len() - 1;
        for (class, count) in classes.classes().iter().enumerate() {
            let cell = self.cells.get(class).map_or(last, |cell| usize::from(*cell));
            counts[cell] = counts[cell].saturating_add(*count);
        }
        counts[last] = counts[last].saturating_add(classes.other());
        counts
    }
}

/// How sure the model is of its answers to the reference, and how often it is right then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineConfidence {
    /// The frozen bins.
    pub spec: ConfidenceSpec,
    /// How many answers fall into each.
    pub counts: Vec<u32>,
    /// How many of them have a label, and how many of these are right, per bin; none without labels.
    pub judged: Option<Vec<(u32, u32)>>,
    /// How windows of it are judged.
    pub table: ScoreTable,
}

impl BaselineConfidence {
    /// Labelled answers per bin; none without labels.
    pub fn judged(&self) -> Option<Vec<Judged>> {
        let judged = self.judged.as_ref()?;
        Some(judged.iter().map(|&(total, correct)| Judged { total, correct }).collect())
    }
}

/// How often the model was right on labelled reference data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Samples whose class was right.
    pub correct: u64,
    /// Samples that have a label.
    pub rows: u64,
}

impl Accuracy {
    /// The share that was right, 0 to 1.
    pub fn share(self) -> f64 {
        self.correct as f64 / self.rows as f64
    }
}

/// What a baseline is built from. Rows are samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceData<'a> {
    /// The features by name, each with one value per row.
    pub features: &'a [(String, Vec<f32>)],
    /// What the model answers, one per row; empty if it answers no classes.
    pub answers: &'a [ReferenceAnswer],
    /// How many classes the model has; 0 if it answers none.
    pub class_count: usize,
    /// Whether the rows are in the order of time.
    pub order: Order,
    /// The session of each row, where rows in the order of time come from several: a window never spans two.
    /// Empty for one session.
    pub sessions: &'a [u32],
    /// When the detectors speak.
    pub policy: DetectorPolicy,
    /// The vectors of an output, where one is declared.
    pub embedding: Option<ReferenceEmbedding<'a>>,
}

/// What the model answers to one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReferenceAnswer {
    /// The class; none if there is no answer.
    pub class: Option<u32>,
    /// The score of the class, 0 to 1; none if it is no probability.
    pub confidence: Option<f32>,
    /// Whether the class is right; none without a label.
    pub correct: Option<bool>,
}

/// What a detector watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream<'a> {
    /// A feature, by name.
    Feature(&'a str),
    /// The classes of the answers.
    Classes,
    /// How sure the answers are.
    Confidence,
}

impl Baseline {
    /// Freezes bins for the reference, counts it, and measures how much its windows vary.
    ///
    /// # Errors
    /// [`Error::Reference`] where there is no sample, a feature has no finite value, features differ in
    /// length or share a name, or a limit is exceeded.
    pub fn build(reference: &ReferenceData<'_>) -> Result<Self, Error> {
        let rows = reference.features.first().map_or(0, |(_, values)| values.len());
        let windows = Windows::of(reference, rows)?;
        let feature = |(name, values): &(String, Vec<f32>)| build_feature(name, values, &windows);
        let body = Body {
            rows: rows as u64,
            order: reference.order,
            policy: reference.policy,
            features: reference.features.iter().map(feature).collect::<Result<_, _>>()?,
            classes: build_classes(reference, &windows),
            confidence: build_confidence(reference.answers, &windows),
            accuracy: accuracy(reference.answers),
            embedding: build_embedding(reference, rows)?,
        };
        check(&body).map_err(|reason| Error::Reference { reason })?;
        let encoded = encode(&body);
        if encoded.len() as u64 > BASELINE_BYTES_MAX {
            let reason = format!("it would have {} bytes", encoded.len());
            return Err(Error::Reference { reason });
        }
        Ok(Self { spec_id: spec_id(&encoded), body })
    }

    /// Reads an encoded baseline.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Unsupported`], which name `baseline.postcard`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let part = || "baseline.postcard".to_owned();
        let malformed = |reason: &str| Error::Malformed { part: part(), reason: reason.to_owned() };
        let len_bytes = bytes.len() as u64;
        if len_bytes > BASELINE_BYTES_MAX {
            return Err(Error::TooLarge { part: part(), len_bytes, max_bytes: BASELINE_BYTES_MAX });
        }
        let Some((&version, encoded)) = bytes.split_first() else {
            return Err(malformed("it is empty"));
        };
        if version != VERSION {
            let reason = format!("its version is {version}, this build reads {VERSION}");
            return Err(Error::Unsupported { part: part(), reason });
        }
        let body: Body =
            postcard::from_bytes(encoded).map_err(|_| malformed("its body is cut or garbled"))?;
        check(&body).map_err(|reason| malformed(&reason))?;
        if encode(&body) != bytes {
            return Err(malformed("it is not in the one encoding that a baseline has"));
        }
        Ok(Self { spec_id: spec_id(bytes), body })
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.body)
    }

    /// What profiles carry that were counted in these bins.
    pub fn spec_id(&self) -> SpecId {
        self.spec_id
    }

    /// The features, in the order in which profiles count them.
    pub fn features(&self) -> &[BaselineFeature] {
        &self.body.features
    }

    /// How the model answers the reference, if it answers classes.
    pub fn classes(&self) -> Option<&BaselineClasses> {
        self.body.classes.as_ref()
    }

    /// How sure it is of that, if its scores are probabilities.
    pub fn confidence(&self) -> Option<&BaselineConfidence> {
        self.body.confidence.as_ref()
    }

    /// How many samples the reference has.
    pub fn rows(&self) -> u64 {
        self.body.rows
    }

    /// Whether the reference is in the order of time.
    pub fn order(&self) -> Order {
        self.body.order
    }

    /// When the detectors speak.
    pub fn policy(&self) -> &DetectorPolicy {
        &self.body.policy
    }

    /// How often the model is right on the reference.
    pub fn accuracy(&self) -> Option<Accuracy> {
        self.body.accuracy
    }

    /// What is summed up of an output tensor, where one is declared.
    pub fn embedding(&self) -> Option<&BaselineEmbedding> {
        self.body.embedding.as_ref()
    }

    /// Without the sums over the embeddings of the reference, which are a large part of it and for the fleet alone. It
    /// counts and judges as before, under the same spec id; its encoding would be another.
    pub fn without_moments(mut self) -> Self {
        if let Some(embedding) = &mut self.body.embedding {
            embedding.moments = None;
        }
        self
    }

    /// What detectors watch, each with its table: the features in their order, the classes, the confidence.
    pub fn streams(&self) -> impl Iterator<Item = (Stream<'_>, &ScoreTable)> {
        let features = self.features().iter();
        let features = features.map(|feature| (Stream::Feature(&feature.name), &feature.table));
        let classes = self.classes().and_then(|classes| classes.table.as_ref());
        let classes = classes.map(|table| (Stream::Classes, table));
        let confidence = self.confidence().map(|confidence| &confidence.table);
        let confidence = confidence.map(|table| (Stream::Confidence, table));
        features.chain(classes).chain(confidence)
    }

    /// Whether a profile can have been counted with this: it says so, has as many features, and sums of vectors that
    /// are as wide and no larger than codes can make them. All that fit add up.
    pub fn fits(&self, profile: &GatewayProfile) -> bool {
        let outputs = profile.outputs();
        let widths = self.embedding().map_or((0, 0), |embedding| {
            (usize::from(embedding.width), usize::from(embedding.projection.features))
        });
        let fits = |sums: &LinearSums, width| {
            let largest = CODE_SIZE_MAX * u64::from(sums.vectors());
            sums.vectors() == 0
                || sums.sums().len() == width
                    && sums.sums().iter().all(|sum| sum.unsigned_abs() <= largest)
        };
        profile.spec_id() == self.spec_id
            && profile.features().len() == self.features().len()
            && fits(outputs.embedding(), widths.0)
            && fits(outputs.random_features(), widths.1)
    }

    /// The counts per cell of each stream in a profile, in the order of [`streams`](Self::streams); none if it
    /// was not counted in these bins.
    pub fn cells(&self, profile: &GatewayProfile) -> Option<Vec<Vec<u32>>> {
        if !self.fits(profile) {
            return None;
        }
        let features = self.features().iter().zip(profile.features());
        let mut cells: Vec<Vec<u32>> =
            features.map(|(feature, counts)| feature_cells(&feature.spec, counts)).collect();
        let classes = self.classes().filter(|classes| classes.table.is_some());
        cells.extend(classes.map(|classes| classes.cells_of(profile.classes())));
        let confidence = self.confidence().map(|confidence| confidence.spec.bins());
        cells.extend(confidence.map(|bins| feature_cells(bins, profile.outputs().confidence())));
        Some(cells)
    }
}

/// The reference cut into windows in the order of time, if it has one.
struct Windows {
    rows: usize,
    windows: Vec<std::ops::Range<usize>>,
    cycle_windows: u16,
    is_ordered: bool,
}

impl Windows {
    fn of(reference: &ReferenceData<'_>, rows: usize) -> Result<Self, Error> {
        let refuse = |what: &str, len: usize| Error::Reference {
            reason: format!("there are {len} {what} for {rows} samples"),
        };
        let (answers, sessions) = (reference.answers.len(), reference.sessions.len());
        if answers != 0 && answers != rows {
            return Err(refuse("answers", answers));
        }
        if sessions != 0 && sessions != rows {
            return Err(refuse("sessions", sessions));
        }
        let window_rows = usize::from(reference.policy.samples_min());
        let session = |row: usize| reference.sessions.get(row);
        let mut windows = Vec::new();
        let mut begin = 0;
        for end in 1..=rows {
            if session(end - 1) != session(begin) {
                begin = end - 1;
            }
            if end - begin == window_rows {
                windows.push(begin..end);
                begin = end;
            }
        }
        let cycle_windows = reference.policy.cycle_windows().unwrap_or(0);
        Ok(Self { rows, windows, cycle_windows, is_ordered: reference.order == Order::Time })
    }

    /// The table of a stream: `cells` counts all rows, or the rows of one window.
    fn table(
        &self,
        measurement: Measurement,
        cells: impl Fn(std::ops::Range<usize>) -> Vec<u32>,
    ) -> Option<ScoreTable> {
        let all = cells(0..self.rows);
        let mut calibration = Calibration::unknown();
        if self.is_ordered {
            let inflation = VarianceInflation::new(measurement, &all, self.cycle_windows);
            let mut inflation = inflation.ok()?;
            self.windows.iter().for_each(|window| inflation.observe(&cells(window.clone())));
            calibration = inflation.calibration();
        }
        ScoreTable::build(measurement, &all, &calibration).ok()
    }
}

fn build_feature(name: &str, values: &[f32], windows: &Windows) -> Result<BaselineFeature, Error> {
    let refuse = |reason: String| Error::Reference { reason: format!("feature {name:?} {reason}") };
    if values.len() != windows.rows {
        let rows = windows.rows;
        return Err(refuse(format!("has {} values for {rows} samples", values.len())));
    }
    let Some(spec) = frozen_bins(values) else {
        return Err(refuse("has no finite value".to_owned()));
    };
    let counts = count(&spec, values);
    if counts.saturated() {
        return Err(refuse("has more values than can be counted".to_owned()));
    }
    let cells = |rows: std::ops::Range<usize>| feature_cells(&spec, &count(&spec, &values[rows]));
    let table = windows.table(Measurement::Ordinal, cells).expect("a finite value is in a bin");
    let counts = ReferenceCounts {
        bins: counts.bins()[..spec.bin_count()].to_vec(),
        nan: counts.nan(),
        infinity: counts.infinity(),
        infinity_negative: counts.infinity_negative(),
    };
    Ok(BaselineFeature { name: name.to_owned(), spec, counts, table })
}

fn count(spec: &BinSpec, values: &[f32]) -> BinCounts {
    let mut counts = BinCounts::new();
    values.iter().for_each(|&value| counts.observe_f32(spec, value));
    counts
}

/// The counts per cell: below, the bins, above, not finite.
fn feature_cells(spec: &BinSpec, counts: &BinCounts) -> Vec<u32> {
    let not_finite = [counts.nan(), counts.infinity(), counts.infinity_negative()];
    let not_finite = not_finite.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
    let bins = &counts.bins()[..spec.bin_count()];
    [&[counts.below()], bins, &[counts.above(), not_finite]].concat()
}

fn build_classes(reference: &ReferenceData<'_>, windows: &Windows) -> Option<BaselineClasses> {
    let class_of = |answer: &ReferenceAnswer| answer.class.map(|class| class as usize);
    let class_count = reference.class_count.min(LABELS_MAX);
    if class_count == 0 || reference.answers.is_empty() {
        return None;
    }
    let mut counts = vec![0_u32; class_count];
    for class in reference.answers.iter().filter_map(class_of) {
        if let Some(count) = counts.get_mut(class) {
            *count = count.saturating_add(1);
        }
    }
    let cells = class_cells(&counts);
    let cell_count = class_count.min(CLASS_CELLS_MAX);
    let count = |rows: std::ops::Range<usize>| {
        let mut counts = vec![0_u32; cell_count];
        for class in reference.answers[rows].iter().filter_map(class_of) {
            if let Some(cell) = cells.get(class) {
                counts[usize::from(*cell)] += 1;
            }
        }
        counts
    };
    let table = (cell_count > 1).then(|| windows.table(Measurement::Nominal, count)).flatten();
    Some(BaselineClasses { counts, cells, table })
}

/// The cell of each class: its own, or with more classes than cells one for the most frequent, and the last for
/// all others. Classes that profiles do not count apart are among these.
fn class_cells(counts: &[u32]) -> Vec<u8> {
    let cell = |cell: usize| u8::try_from(cell).expect("there are at most 16 cells");
    if counts.len() <= CLASS_CELLS_MAX {
        return (0..counts.len()).map(cell).collect();
    }
    let mut by_count: Vec<usize> = (0..counts.len().min(CLASS_COUNT_MAX)).collect();
    by_count.sort_by_key(|&class| std::cmp::Reverse(counts[class]));
    let mut cells = vec![cell(CLASS_CELLS_MAX - 1); counts.len()];
    for (place, class) in by_count.into_iter().take(CLASS_CELLS_MAX - 1).enumerate() {
        cells[class] = cell(place);
    }
    cells
}

fn build_confidence(answers: &[ReferenceAnswer], windows: &Windows) -> Option<BaselineConfidence> {
    let confidences = |rows: std::ops::Range<usize>| -> Vec<f32> {
        answers[rows].iter().filter_map(|answer| answer.confidence).collect()
    };
    let known = answers.iter().filter_map(|answer| Some((answer.confidence?, answer.correct?)));
    let known: Vec<(f32, bool)> = known.collect();
    let spec = confidence_spec(&confidences(0..answers.len()), &known)?;
    let counts = count(spec.bins(), &confidences(0..answers.len()));
    let judged = (!known.is_empty()).then(|| {
        let mut judged = vec![(0_u32, 0_u32); spec.bins().bin_count()];
        for (confidence, correct) in known {
            if let Some(bin) = spec.bin(confidence) {
                judged[bin].0 += 1;
                judged[bin].1 += u32::from(correct);
            }
        }
        judged
    });
    let cells = |rows: std::ops::Range<usize>| {
        feature_cells(spec.bins(), &count(spec.bins(), &confidences(rows)))
    };
    let table = windows.table(Measurement::Ordinal, cells)?;
    let counts = counts.bins()[..spec.bins().bin_count()].to_vec();
    Some(BaselineConfidence { spec, counts, judged, table })
}

/// Bins from 0 to 1. Some edges are where the labelled answers become more accurate, as isotonic regression has it;
/// one is the threshold of ATC, at or above which as many of them lie as are right; the others are quantiles of
/// `all`.
fn confidence_spec(all: &[f32], known: &[(f32, bool)]) -> Option<ConfidenceSpec> {
    let is_share = |value: &f32| (0.0..=1.0).contains(value);
    let mut keys: Vec<i32> = all.iter().copied().filter(is_share).map(key_from_f32).collect();
    keys.sort_unstable();
    let known = known.iter().filter(|(value, _)| is_share(value));
    let mut known: Vec<(i32, bool)> =
        known.map(|(value, correct)| (key_from_f32(*value), *correct)).collect();
    known.sort_unstable();
    let wrong = known.iter().filter(|(_, correct)| !correct).count();
    let steps = accuracy_steps(&known);
    let quantiles = quantile_edges(&keys, BIN_COUNT_MAX - 1 - steps.len());
    let threshold = match known.get(wrong).or(known.last()) {
        Some((threshold, _)) => *threshold,
        None => quantiles.get(quantiles.len() / 2).or(keys.first()).copied()?,
    };
    let edges = BTreeSet::from_iter(steps.into_iter().chain(quantiles).chain([threshold]));
    let edges: Vec<i32> = edges.into_iter().collect();
    let place = edges.partition_point(|edge| *edge < threshold);
    let bins = BinSpec::new(&edges, key_from_f32(0.0), key_from_f32(1.0)).ok()?;
    ConfidenceSpec::new(bins, u8::try_from(place).expect("there are at most 15 edges")).ok()
}

/// The confidences, as rising keys, from which on sorted answers are more accurate than below: the steps of the
/// isotonic regression (pool adjacent violators). Of more than [`ACCURACY_STEPS_MAX`] those are left out that
/// matter least to its squared error.
fn accuracy_steps(sorted: &[(i32, bool)]) -> Vec<i32> {
    // The first key, the right answers and all answers of each pool.
    let mut pools: Vec<(i32, f64, f64)> = Vec::new();
    let accuracy = |pool: &(i32, f64, f64)| pool.1 / pool.2;
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let right = ties.iter().filter(|(_, correct)| *correct).count();
        pools.push((ties[0].0, right as f64, ties.len() as f64));
        while let [.., before, last] = &pools[..]
            && accuracy(before) >= accuracy(last)
        {
            let before = pools.len() - 2;
            pool_with_next(&mut pools, before);
        }
    }
    while pools.len() > ACCURACY_STEPS_MAX + 1 {
        let cost = |pair: &[(i32, f64, f64)]| {
            let weight = pair[0].2 * pair[1].2 / (pair[0].2 + pair[1].2);
            weight * (accuracy(&pair[1]) - accuracy(&pair[0])).powi(2)
        };
        let costs = pools.windows(2).map(cost).enumerate();
        let least = costs.min_by(|a, b| a.1.total_cmp(&b.1));
        pool_with_next(&mut pools, least.expect("there are several pools").0);
    }
    pools.iter().skip(1).map(|pool| pool.0).collect()
}

fn pool_with_next(pools: &mut Vec<(i32, f64, f64)>, place: usize) {
    let (_, right, total) = pools.remove(place + 1);
    pools[place].1 += right;
    pools[place].2 += total;
}

fn accuracy(answers: &[ReferenceAnswer]) -> Option<Accuracy> {
    let judged = || answers.iter().filter_map(|answer| answer.correct);
    let (rows, correct) = (judged().count() as u64, judged().filter(|correct| *correct).count());
    (rows > 0).then_some(Accuracy { correct: correct as u64, rows })
}

fn build_embedding(
    reference: &ReferenceData<'_>,
    rows: usize,
) -> Result<Option<BaselineEmbedding>, Error> {
    let Some(embedding) = &reference.embedding else { return Ok(None) };
    let vectors = embedding.vectors.len();
    if vectors != rows {
        let reason = format!("there are {vectors} embeddings for {rows} samples");
        return Err(Error::Reference { reason });
    }
    let window_rows = reference.policy.samples_min().into();
    BaselineEmbedding::build(embedding, reference.sessions, window_rows).map(Some)
}

fn check(body: &Body) -> Result<(), String> {
    if body.rows == 0 {
        return Err("there is no sample".to_owned());
    }
    if body.features.len() > FEATURES_MAX {
        let count = body.features.len();
        return Err(format!("{count} features are more than the limit of {FEATURES_MAX}"));
    }
    let mut names = BTreeSet::new();
    body.features.iter().try_for_each(|feature| check_feature(feature, body.rows, &mut names))?;
    if let Some(classes) = &body.classes {
        check_classes(classes, body.rows)?;
    }
    if let Some(confidence) = &body.confidence {
        check_confidence(confidence, body.rows)?;
    }
    if let Some(embedding) = &body.embedding {
        embedding.check(body.rows)?;
    }
    match body.accuracy {
        Some(Accuracy { correct, rows }) if correct > rows || rows == 0 || rows > body.rows => {
            Err("the accuracy does not fit the samples".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_feature<'a>(
    feature: &'a BaselineFeature,
    rows: u64,
    names: &mut BTreeSet<&'a str>,
) -> Result<(), String> {
    let name = &feature.name;
    if name.is_empty() || name.len() > LABEL_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("{name:?} is no name for a feature"));
    }
    if !names.insert(name) {
        return Err(format!("feature {name:?} is there twice"));
    }
    if feature.spec.values() == Values::Integers {
        return Err(format!("the bins of feature {name:?} are not for floats"));
    }
    let counts = &feature.counts;
    if counts.bins.len() != feature.spec.bin_count() || counts.total() != rows {
        return Err(format!("the counts of feature {name:?} do not fit its bins and the samples"));
    }
    if feature.table.cell_count() != counts.cells().len() {
        return Err(format!("the scores of feature {name:?} do not fit its bins"));
    }
    Ok(())
}

fn check_classes(classes: &BaselineClasses, rows: u64) -> Result<(), String> {
    let BaselineClasses { counts, cells, table } = classes;
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if counts.is_empty() || counts.len() > LABELS_MAX || total > rows {
        return Err("the class counts do not fit the samples".to_owned());
    }
    if *cells != class_cells(counts) {
        return Err("the cells do not fit the class counts".to_owned());
    }
    match table {
        Some(table) if table.cell_count() != classes.cell_count() => {
            Err("the scores of the classes do not fit their cells".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_confidence(confidence: &BaselineConfidence, rows: u64) -> Result<(), String> {
    let BaselineConfidence { spec, counts, judged, table } = confidence;
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if counts.len() != spec.bins().bin_count() || total > rows {
        return Err("the counts of the confidence do not fit its bins and the samples".to_owned());
    }
    let fits = |judged: &Vec<(u32, u32)>| {
        judged.len() == counts.len()
            && judged
                .iter()
                .zip(counts)
                .all(|((total, right), count)| right <= total && total <= count)
    };
    if !judged.as_ref().is_none_or(fits) || table.cell_count() != counts.len() + 3 {
        return Err("what is known of the confidence does not fit its bins".to_owned());
    }
    Ok(())
}

fn encode(body: &Body) -> Vec<u8> {
    postcard::to_extend(body, vec![VERSION]).expect("postcard encodes lists, text and numbers")
}

fn spec_id(encoded: &[u8]) -> SpecId {
    first_of(digest_of(encoded))
}

/// As much of a digest as an id has.
pub(crate) fn first_of(Digest(digest): Digest) -> SpecId {
    SpecId(digest[..SpecId::BYTES].try_into().expect("a digest is longer than a spec id"))
}

// Profiles count as many features as a baseline may have, and classes beyond theirs as one.
const _: () = assert!(FEATURES_MAX == selvedge_sketch::FEATURE_COUNT_MAX);
const _: () = assert!(CLASS_COUNT_MAX <= LABELS_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(columns: &[(&str, Vec<f32>)]) -> Result<Baseline, Error> {
        let features: Vec<_> =
            columns.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
        Baseline::build(&ReferenceData { features: &features, ..ReferenceData::default() })
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let baseline = build(&[("a", vec![1.0, f32::NAN, 2.0, f32::INFINITY, f32::NEG_INFINITY])]);
        let baseline = baseline.expect("two values are finite");
        let counts = &baseline.features()[0].counts;
        assert_eq!((counts.nan, counts.infinity, counts.infinity_negative), (1, 1, 1));
        assert_eq!(counts.bins, [1, 1]);
    }

    #[test]
    fn reference_data_that_give_no_baseline_are_refused_with_a_reason() {
        let many = (0..65).map(|i| (format!("f{i}"), vec![1.0])).collect::<Vec<_>>();
        let named = |columns: &[(&str, Vec<f32>)]| build(columns).map(|_| ());
        let cases = [
            (named(&[]), "no sample"),
            (named(&[("a", vec![])]), "no finite value"),
            (named(&[("a", vec![f32::NAN])]), "\"a\" has no finite value"),
            (named(&[("a", vec![1.0]), ("b", vec![])]), "\"b\" has 0 values for 1"),
            (named(&[("a", vec![1.0]), ("a", vec![1.0])]), "\"a\" is there twice"),
            (named(&[("", vec![1.0])]), "no name"),
            (
                Baseline::build(&ReferenceData { features: &many, ..Default::default() })
                    .map(|_| ()),
                "65 features",
            ),
        ];
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|(result, reason)| match result {
                Err(error) if error.to_string().contains(reason) => None,
                other => Some(format!("{reason}: {other:?}")),
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn a_baseline_of_another_version_or_with_other_bytes_is_refused() {
        let bytes = build(&[("a", vec![1.0, 2.0])]).expect("finite").encode();
        let mut newer = bytes.clone();
        newer[0] = 4;
        let error = Baseline::decode(&newer).expect_err("version 4");
        assert!(error.to_string().contains("version is 4"), "{error}");
        for len in 0..bytes.len() {
            assert!(Baseline::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
        assert!(Baseline::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn bins_for_integers_are_refused_since_devices_count_floats() {
        let mut bytes = build(&[("a", vec![1.0, 2.0])]).expect("finite").encode();
        // Version, rows, order, policy; number of features, name; edges; min, max.
        let floats = 3 + 6 + 3 + 6 + 5 + 5;
        assert_eq!(bytes[floats], 0, "what stands behind the guard");
        bytes[floats] = 2;
        let error = Baseline::decode(&bytes).expect_err("integers");
        assert!(error.to_string().contains("not for floats"), "{error}");
    }

    #[test]
    fn the_encoding_of_version_3_stays_as_it_is() {
        let features = [("a".to_owned(), vec![1.0, 2.0, 2.0])];
        let answer = |class, correct| ReferenceAnswer {
            class: Some(class),
            confidence: Some(0.75),
            correct: Some(correct),
        };
        let reference = ReferenceData {
            features: &features,
            answers: &[answer(0, true), answer(0, true), answer(1, false)],
            class_count: 2,
            order: Order::Time,
            ..ReferenceData::default()
        };
        let baseline = Baseline::build(&reference).expect("finite");
        let encoded = baseline.encode();
        let digest = digest_of(&encoded).hex().to_string();
        assert_eq!(
            (encoded.len(), &digest[..16]),
            (613, "e063305f73dc713f"),
            "a new encoding is a new version"
        );
        assert_eq!(Baseline::decode(&encoded).expect("our own"), baseline);
        assert_eq!(baseline.spec_id().0[..], digest_of(&encoded).0[..8]);
        assert_eq!(baseline.accuracy(), Some(Accuracy { correct: 2, rows: 3 }));
        let classes = baseline.classes().expect("there are answers");
        assert_eq!((&classes.counts[..], &classes.cells[..]), (&[2, 1][..], &[0, 1][..]));
        let confidence = baseline.confidence().expect("they have scores");
        assert_eq!(confidence.counts.iter().sum::<u32>(), 3);
        assert_eq!(baseline.streams().count(), 3);
    }

    #[test]
    fn the_threshold_of_confidence_leaves_as_many_answers_above_as_are_right() {
        let answers: Vec<ReferenceAnswer> = (0..1000)
            .map(|row| ReferenceAnswer {
                class: Some(0),
                confidence: Some(row as f32 / 1000.0),
                correct: Some(row % 10 < 7),
            })
            .collect();
        let features = [("a".to_owned(), vec![1.0; 1000])];
        let reference = ReferenceData {
            features: &features,
            answers: &answers,
            class_count: 1,
            ..ReferenceData::default()
        };
        let baseline = Baseline::build(&reference).expect("finite");
        let confidence = baseline.confidence().expect("they have scores");
        let above = &confidence.counts[confidence.spec.threshold_bin()..];
        assert_eq!(above.iter().sum::<u32>(), 700);
        assert!(baseline.classes().expect("there are answers").table.is_none(), "one class");
    }

    #[test]
    fn more_classes_than_cells_share_the_last_one() {
        let counts: Vec<u32> = (0..100).collect();
        let cells = class_cells(&counts);
        assert_eq!((cells[63], cells[62], cells[49]), (0, 1, 14));
        assert!(cells[..49].iter().chain(&cells[64..]).all(|cell| *cell == 15));
    }

    #[test]
    fn windows_do_not_span_sessions() {
        let rows = 1000;
        let features = [("a".to_owned(), vec![1.0; rows])];
        let sessions: Vec<u32> = (0..rows as u32).map(|row| u32::from(row >= 510)).collect();
        let reference = ReferenceData {
            features: &features,
            sessions: &sessions,
            order: Order::Time,
            ..ReferenceData::default()
        };
        let windows = Windows::of(&reference, rows).expect("they fit").windows;
        assert_eq!(windows, [0..250, 250..500, 510..760]);
        let short = ReferenceData { sessions: &sessions[1..], ..reference };
        let error = Baseline::build(&short).expect_err("999 sessions");
        assert!(error.to_string().contains("999 sessions for 1000 samples"), "{error}");
    }

    fn column() -> impl Strategy<Value = Vec<f32>> {
        let ties = prop::collection::vec((-20..20i32).prop_map(|i| i as f32), 1..400);
        let grid = prop::collection::vec((-20..20i32).prop_map(|i| i as f32 * 0.1), 1..400);
        let any = prop::collection::vec(any::<f32>(), 1..400);
        prop_oneof![ties, grid, any]
    }

    proptest! {
        #[test]
        fn a_baseline_counts_every_value_once_and_reads_back(values in column()) {
            prop_assume!(values.iter().any(|value| value.is_finite()));
            let baseline = build(&[("a", values.clone())]).expect("one value is finite");
            let feature = &baseline.features()[0];
            prop_assert_eq!(feature.counts.total(), values.len() as u64);
            prop_assert_eq!(Baseline::decode(&baseline.encode()).expect("our own"), baseline);
        }

        #[test]
        fn hostile_bytes_are_refused_without_panic(
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = Baseline::decode(&[&[VERSION], &body[..]].concat());
        }
    }
}
