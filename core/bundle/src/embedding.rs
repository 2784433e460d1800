//! The embedding in a baseline: how its values become codes, what is summed up of them, and what the sums of a window
//! are held against.
//!
//! A device adds up, over a window, the codes of an output tensor and their random Fourier features
//! ([`Projection`]). The sums are linear, so those of devices and hours add up exactly, and the fleet tests what was
//! merged ([`multivariate`](crate::multivariate)).
//!
//! **Codes.** `code = round(value / 2^exponent) + zero_point`, where a half goes away from zero, and what is beyond an
//! `i8` becomes its end. Dividing by a power of two loses nothing, so the same value has the same code everywhere. A
//! vector with a value that is not a number has no codes and is not counted. A tensor of `i8` *is* codes.
//!
//! **Sources.** Thresholds come from other sources than the reference that windows are held against: where the
//! reference data are of several sessions, every second one that fills a window calibrates and the others are the
//! reference. Without sessions, or with too few of them, all rows are the reference and there is no threshold.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_sketch::{OutputCounts, Projection, VECTOR_WIDTH_MAX, shift_for};
use serde::{Deserialize, Serialize};

use crate::{
    Error, TensorData,
    limits::{CALIBRATION_SIZES_MAX, CALIBRATION_SOURCES_MIN, LABEL_BYTES_MAX},
    multivariate::{Reference, ReferenceMoments, Refusal, SourceId, Threshold, WindowSums},
};

/// The seed of the projection, of which any is as good as another.
const PROJECTION_SEED: u64 = 1;
/// How many random Fourier features there are: twice as many find little more (`docs/drift.md`).
const PROJECTION_FEATURES: u8 = 64;
/// Pairs of vectors whose distances tell how far the reference's are from each other.
const DISTANCES_MAX: usize = 1_000;
/// Steps of the quantisation between the ends of the reference.
const CODE_STEPS: f32 = 255.0;
/// Beyond so many steps from zero an `f32` has no values for the steps in between.
const STEPS_FROM_ZERO_MAX: f32 = (1 << 23) as f32;

/// What is summed up of an output tensor, and what the sums are held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineEmbedding {
    /// The output tensor.
    pub tensor: String,
    /// Its values for one sample.
    pub width: u8,
    /// How they become codes.
    pub codes: CodeScale,
    /// What makes random Fourier features of the codes.
    pub projection: ProjectionSpec,
    /// The sums over the reference: for the fleet, none where they were dropped.
    pub moments: Option<EmbeddingMoments>,
    /// What clean windows of other sources gave; none if the reference data have too few sources.
    pub calibration: Option<EmbeddingCalibration>,
}

/// How values become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeScale {
    /// One step of the code is worth 2 to the power of this.
    pub exponent: i8,
    /// The code of 0, before it is cut to an `i8`.
    pub zero_point: i32,
}

/// What [`Projection::new`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionSpec {
    /// The seed of the weights.
    pub seed: u64,
    /// How many features there are.
    pub features: u8,
    /// The angle's shift.
    pub shift: u8,
}

/// The sums over the vectors of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingMoments {
    /// Of the codes.
    pub embedding: ReferenceMoments,
    /// Of their random Fourier features.
    pub random_features: ReferenceMoments,
}

/// What clean windows of other sources than the reference's seldom exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingCalibration {
    /// The sessions that are the reference.
    pub reference_sources: u32,
    /// The sessions that the windows came from.
    pub sources: u32,
    /// For the T² of the codes: rising sizes of windows.
    pub embedding: Vec<Threshold>,
    /// For that of the random Fourier features.
    pub random_features: Vec<Threshold>,
}

/// The vectors of the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReferenceEmbedding<'a> {
    /// The output tensor.
    pub tensor: &'a str,
    /// One per row: `[component] f32` or `i8`; none where there is no answer.
    pub vectors: &'a [Option<TensorData>],
}

impl CodeScale {
    /// That of a tensor that is codes.
    const IDENTITY: Self = Self { exponent: 0, zero_point: 0 };
    const EXPONENTS: std::ops::RangeInclusive<i8> = -60..=60;
    const ZERO_POINT_MAX: u32 = 1 << 24;

    /// The scale on which the reference, with half as much room at its ends, spans the codes. Where it ends is its
    /// 0.1 % and its 99.9 % quantile, over all components.
    fn of(vectors: &[Option<TensorData>]) -> Option<Self> {
        let mut values = Vec::new();
        for vector in vectors.iter().flatten() {
            match vector {
                TensorData::F32(vector) => {
                    values.extend(vector.iter().filter(|value| value.is_finite()));
                }
                _ => return Some(Self::IDENTITY),
            }
        }
        values.sort_unstable_by(f32::total_cmp);
        let end = values.len().checked_sub(1)?;
        let (low, high) = (values[end / 1000], values[end - end / 1000]);
        // Halves, so that the ends of an `f32` do not overflow.
        let (middle, half) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
        let reach = middle.abs() + half;
        let exponent = Self::EXPONENTS.into_iter().find(|&exponent| {
            let step = power_of_two(exponent);
            3.0 * (half / step) <= CODE_STEPS && reach / step <= STEPS_FROM_ZERO_MAX
        })?;
        let zero_point = -(middle * power_of_two(-exponent)).round() as i32;
        Some(Self { exponent, zero_point })
    }

    /// The code of a value; none if it is not a number.
    pub fn code(self, value: f32) -> Option<i8> {
        if value.is_nan() {
            return None;
        }
        let steps = (value * power_of_two(-self.exponent)).round() as i32;
        let code = steps.saturating_add(self.zero_point).clamp(i8::MIN.into(), i8::MAX.into());
        Some(i8::try_from(code).expect("it was cut to an i8"))
    }

    /// Leaves the codes of a vector in `codes`. False if it has another width or no codes.
    fn code_all(self, vector: &TensorData, codes: &mut [i8]) -> bool {
        match vector {
            TensorData::I8(values) if values.len() == codes.len() => {
                codes.copy_from_slice(values);
                true
            }
            TensorData::F32(values) if values.len() == codes.len() => {
                codes.iter_mut().zip(values).all(|(code, value)| {
                    let found = self.code(*value);
                    *code = found.unwrap_or(0);
                    found.is_some()
                })
            }
            _ => false,
        }
    }

    fn fits(self) -> bool {
        Self::EXPONENTS.contains(&self.exponent)
            && self.zero_point.unsigned_abs() <= Self::ZERO_POINT_MAX
    }
}

/// 2 to the power of an exponent between −126 and 127.
fn power_of_two(exponent: i8) -> f32 {
    f32::from_bits(u32::try_from(127 + i32::from(exponent)).expect("it is above -127") << 23)
}

/// Makes codes and random Fourier features of vectors.
#[derive(Clone, Debug)]
pub struct EmbeddingCounter {
    width: usize,
    codes: CodeScale,
    projection: Box<Projection<VECTOR_WIDTH_MAX, VECTOR_WIDTH_MAX>>,
}

impl EmbeddingCounter {
    fn new(
        width: usize,
        codes: CodeScale,
        projection: ProjectionSpec,
    ) -> Result<Self, selvedge_sketch::Error> {
        let ProjectionSpec { seed, features, shift } = projection;
        let projection = Projection::new(seed, width, features.into(), shift.into())?;
        Ok(Self { width, codes, projection: Box::new(projection) })
    }

    /// Adds a sample's vector to what is counted of a window. One of another width, or with a value that is not a
    /// number, is left out. It allocates nothing.
    ///
    /// # Panics
    /// If vectors of another width were counted before.
    pub fn count(&self, vector: &TensorData, outputs: &mut OutputCounts) {
        let mut codes = [0; VECTOR_WIDTH_MAX];
        let codes = &mut codes[..self.width];
        if !self.codes.code_all(vector, codes) {
            return;
        }
        let features = self.features(codes);
        let features = &features[..self.projection.feature_count()];
        let added = outputs.observe_embedding(codes);
        let added = added.and_then(|()| outputs.observe_random_features(features));
        added.expect("what one counter makes of vectors has one width");
    }

    fn features(&self, codes: &[i8]) -> [i8; VECTOR_WIDTH_MAX] {
        self.projection.features(codes).expect("the codes are as many as the projection takes")
    }
}

impl BaselineEmbedding {
    /// What makes vectors countable.
    pub fn counter(&self) -> EmbeddingCounter {
        EmbeddingCounter::new(self.width.into(), self.codes, self.projection)
            .expect("a baseline's projection was checked")
    }

    /// Sums up the reference, and what calibrates it. `sessions` has one per row, or is empty; a window has
    /// `window_rows`.
    ///
    /// # Errors
    /// [`Error::Reference`].
    pub(crate) fn build(
        reference: &ReferenceEmbedding<'_>,
        sessions: &[u32],
        window_rows: usize,
    ) -> Result<Self, Error> {
        let ReferenceEmbedding { tensor, vectors } = *reference;
        let refuse = |reason: String| Error::Reference {
            reason: format!("the embedding {tensor:?} {reason}"),
        };
        let widths: BTreeSet<usize> = vectors.iter().flatten().map(TensorData::len).collect();
        let width = match widths.first() {
            Some(&width) if widths.len() == 1 && (1..=VECTOR_WIDTH_MAX).contains(&width) => width,
            None => return Err(refuse("is in no answer to the reference".to_owned())),
            _ => return Err(refuse(format!("has {widths:?} values, and 1 to 128 are summed up"))),
        };
        let codes = CodeScale::of(vectors)
            .ok_or_else(|| refuse("has no finite values that fit a scale".to_owned()))?;
        let coded = |vector: &Option<TensorData>| {
            let mut coded = vec![0; width];
            codes.code_all(vector.as_ref()?, &mut coded).then_some(coded)
        };
        let coded: Vec<Option<Vec<i8>>> = vectors.iter().map(coded).collect();
        let known: Vec<&[i8]> = coded.iter().flatten().map(Vec::as_slice).collect();
        let shift = shift_for(median_distance(&known));
        let projection = ProjectionSpec {
            seed: PROJECTION_SEED,
            features: PROJECTION_FEATURES,
            shift: u8::try_from(shift).expect("a shift is at most 20"),
        };
        let counter = EmbeddingCounter::new(width, codes, projection)
            .expect("the width was checked, and the rest is ours");
        let rows: Vec<Option<Row>> =
            coded.into_iter().map(|codes| Some(Row::new(codes?, &counter))).collect();
        let split = Split::of(&rows, sessions, window_rows);
        let (moments, calibration) = split
            .measure(&counter, window_rows)
            .map_err(|refusal| refuse(format!("cannot be summed up: {refusal}")))?;
        Ok(Self {
            tensor: tensor.to_owned(),
            width: u8::try_from(width).expect("it is at most 128"),
            codes,
            projection,
            moments: Some(moments),
            calibration,
        })
    }

    pub(crate) fn check(&self, rows: u64) -> Result<(), String> {
        let refuse = |what: &str| Err(format!("the {what} of the embedding does not fit"));
        let name = &self.tensor;
        if name.is_empty() || name.len() > LABEL_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("{name:?} is no name for a tensor"));
        }
        if !self.codes.fits() {
            return refuse("scale");
        }
        let (width, features) = (self.width.into(), self.projection.features.into());
        if EmbeddingCounter::new(width, self.codes, self.projection).is_err() {
            return refuse("projection");
        }
        let fits = |moments: &EmbeddingMoments| {
            let EmbeddingMoments { embedding, random_features } = moments;
            embedding.fits(width, rows)
                && random_features.fits(features, rows)
                && embedding.count() == random_features.count()
                && embedding.count() >= 2
        };
        if !self.moments.as_ref().is_none_or(fits) {
            return refuse("reference");
        }
        let fits = |thresholds: &[Threshold]| {
            (1..=CALIBRATION_SIZES_MAX).contains(&thresholds.len())
                && thresholds.is_sorted_by(|a, b| a.vectors < b.vectors)
                && thresholds.iter().all(|it| it.vectors > 0 && it.windows > 0)
        };
        let fits = |calibration: &EmbeddingCalibration| {
            fits(&calibration.embedding) && fits(&calibration.random_features)
        };
        if self.calibration.as_ref().is_none_or(fits) { Ok(()) } else { refuse("calibration") }
    }
}

/// A row of the reference with all that is summed up of it.
struct Row {
    codes: Vec<i8>,
    features: Vec<i8>,
}

impl Row {
    fn new(codes: Vec<i8>, counter: &EmbeddingCounter) -> Self {
        let features = counter.features(&codes)[..counter.projection.feature_count()].to_vec();
        Self { codes, features }
    }
}

/// The rows of the reference, and by session those that calibrate it.
struct Split<'a> {
    all: Vec<&'a Row>,
    reference: Vec<&'a Row>,
    reference_sessions: BTreeSet<SourceId>,
    calibration: Vec<(SourceId, Vec<&'a Row>)>,
}

impl<'a> Split<'a> {
    fn of(rows: &'a [Option<Row>], sessions: &[u32], window_rows: usize) -> Self {
        let mut by_session: BTreeMap<SourceId, Vec<&Row>> = BTreeMap::new();
        for (session, row) in sessions.iter().zip(rows) {
            let session = by_session.entry(SourceId((*session).into())).or_default();
            session.extend(row);
        }
        let mut split = Self {
            all: rows.iter().flatten().collect(),
            reference: Vec::new(),
            reference_sessions: BTreeSet::new(),
            calibration: Vec::new(),
        };
        let mut filled = 0;
        for (session, rows) in by_session {
            let fills = rows.len() >= window_rows;
            filled += usize::from(fills);
            if fills && filled.is_multiple_of(2) {
                split.calibration.push((session, rows));
            } else {
                split.reference.extend(rows);
                split.reference_sessions.insert(session);
            }
        }
        split
    }

    fn measure(
        &self,
        counter: &EmbeddingCounter,
        window_rows: usize,
    ) -> Result<(EmbeddingMoments, Option<EmbeddingCalibration>), Refusal> {
        if self.calibration.len() >= CALIBRATION_SOURCES_MIN {
            let moments = moments(&self.reference, counter);
            let embedding = Reference::fit(&moments.embedding)?;
            let random_features = Reference::fit(&moments.random_features)?;
            let embedding = self.thresholds(&embedding, window_rows, |row| &row.codes)?;
            let random_features =
                self.thresholds(&random_features, window_rows, |row| &row.features)?;
            if !embedding.is_empty() {
                let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
                let calibration = EmbeddingCalibration {
                    reference_sources: count(self.reference_sessions.len()),
                    sources: count(self.calibration.len()),
                    embedding,
                    random_features,
                };
                return Ok((moments, Some(calibration)));
            }
        }
        let moments = moments(&self.all, counter);
        Reference::fit(&moments.embedding)?;
        Ok((moments, None))
    }

    /// For windows of `window_rows`, of twice as many, and so on, as long as there are enough of them.
    fn thresholds(
        &self,
        reference: &Reference,
        window_rows: usize,
        vector: impl Fn(&Row) -> &Vec<i8>,
    ) -> Result<Vec<Threshold>, Refusal> {
        let mut thresholds = Vec::new();
        for size in (0..CALIBRATION_SIZES_MAX).map(|doubled| window_rows << doubled) {
            let windows: Vec<(SourceId, WindowSums)> = self
                .calibration
                .iter()
                .flat_map(|(session, rows)| {
                    let window = |rows: &[&Row]| (*session, sums(rows, &vector));
                    rows.chunks_exact(size).map(window).collect::<Vec<_>>()
                })
                .collect();
            match reference.threshold(&self.reference_sessions, &windows) {
                Ok(threshold) => thresholds.push(threshold),
                Err(Refusal::TooFewWindows { .. }) => break,
                Err(other) => return Err(other),
            }
        }
        Ok(thresholds)
    }
}

fn moments(rows: &[&Row], counter: &EmbeddingCounter) -> EmbeddingMoments {
    let mut moments = EmbeddingMoments {
        embedding: ReferenceMoments::new(counter.width),
        random_features: ReferenceMoments::new(counter.projection.feature_count()),
    };
    for row in rows {
        moments.embedding.observe(&row.codes);
        moments.random_features.observe(&row.features);
    }
    moments
}

fn sums(rows: &[&Row], vector: impl Fn(&Row) -> &Vec<i8>) -> WindowSums {
    let mut sums = vec![0; rows.first().map_or(0, |row| vector(row).len())];
    for row in rows {
        sums.iter_mut().zip(vector(row)).for_each(|(sum, code)| *sum += i64::from(*code));
    }
    WindowSums { count: rows.len() as u64, sums }
}

/// The median distance, in codes, of vectors that are half the reference apart: neighbours in time are alike.
fn median_distance(vectors: &[&[i8]]) -> u32 {
    let apart = vectors.len() / 2;
    let squared = |at: usize| -> u32 {
        let codes = vectors[at].iter().zip(vectors[at + apart]);
        codes.map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2).unsigned_abs()).sum()
    };
    let places = (0..apart).step_by(apart.div_ceil(DISTANCES_MAX).max(1));
    let mut distances: Vec<u32> = places.map(squared).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).map_or(0, |squared| squared.isqrt())
}

// A vector's width is one byte, and profiles have room for it and for its features.
const _: () = assert!(VECTOR_WIDTH_MAX <= u8::MAX as usize);
const _: () = assert!(VECTOR_WIDTH_MAX <= selvedge_sketch::DIMENSION_MAX);
const _: () = assert!(PROJECTION_FEATURES as usize <= VECTOR_WIDTH_MAX);

#[cfg(test)]
mod tests {
    use selvedge_sketch::{DetectorPolicy, GatewayProfile};

    use super::*;
    use crate::{Baseline, ReferenceData};

    const WINDOW: usize = 50;

    /// The same in every run: two values with a correlation, and one that is far from zero.
    struct Noise(u64);

    impl Noise {
        fn normal(&mut self) -> f32 {
            let mut uniform = || {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                (self.0 >> 40) as f32 / (1 << 24) as f32
            };
            (0..12).map(|_| uniform()).sum::<f32>() - 6.0
        }

        fn vector(&mut self, correlation: f32) -> TensorData {
            let (a, b, c) = (self.normal(), self.normal(), self.normal());
            let other = correlation * a + (1.0 - correlation * correlation).sqrt() * b;
            TensorData::F32(vec![a, other, 1000.0 + c / 4.0])
        }
    }

    fn vectors(count: usize) -> Vec<Option<TensorData>> {
        let mut noise = Noise(7);
        (0..count).map(|_| Some(noise.vector(0.8))).collect()
    }

    /// A baseline of one feature and an embedding, whose sessions have so many rows; 0 for no sessions.
    fn build(vectors: &[Option<TensorData>], session_rows: usize) -> Result<Baseline, Error> {
        let rows = vectors.len();
        let features = [("a".to_owned(), (0..rows).map(|row| row as f32).collect())];
        let session = |row| u32::try_from(row / session_rows).expect("it is small");
        let sessions: Vec<u32> =
            if session_rows == 0 { Vec::new() } else { (0..rows).map(session).collect() };
        let policy =
            DetectorPolicy::new(10_000, WINDOW as u16, 0, 10).expect("it is above the least");
        Baseline::build(&ReferenceData {
            features: &features,
            sessions: &sessions,
            policy,
            embedding: Some(ReferenceEmbedding { tensor: "embedding", vectors }),
            ..ReferenceData::default()
        })
    }

    fn embedding(baseline: &Baseline) -> &BaselineEmbedding {
        baseline.embedding().expect("it was declared")
    }

    #[test]
    fn a_code_is_the_nearest_step_and_a_half_goes_away_from_zero() {
        let scale = CodeScale { exponent: -2, zero_point: -3 };
        for (value, code) in [
            (0.0, Some(-3)),
            (-0.0, Some(-3)),
            (0.124, Some(-3)),
            (0.125, Some(-2)),
            (-0.125, Some(-4)),
            (0.375, Some(-1)),
            (1e-40, Some(-3)),
            (32.5, Some(127)),
            (1e30, Some(127)),
            (f32::INFINITY, Some(127)),
            (f32::NEG_INFINITY, Some(-128)),
            (f32::NAN, None),
        ] {
            assert_eq!(scale.code(value), code, "{value}");
        }
        for exponent in CodeScale::EXPONENTS {
            let step = 2_f64.powi(exponent.into());
            assert_eq!(f64::from(power_of_two(exponent)), step);
            let scale = CodeScale { exponent, zero_point: 0 };
            assert_eq!(scale.code((100.0 * step) as f32), Some(100));
        }
    }

    #[test]
    fn a_scale_spans_the_reference_and_leaves_room_at_its_ends() {
        let of = |values: Vec<f32>| CodeScale::of(&[Some(TensorData::F32(values))]);
        // 192 steps of 1/64 are three halves of the range, 384 are too many.
        assert_eq!(of(vec![0.0, 2.0]), Some(CodeScale { exponent: -6, zero_point: -64 }));
        assert_eq!(of(vec![f32::MAX, f32::MIN]), None, "no step is so large");
        assert_eq!(of(vec![f32::NAN]), None);
        let constant = of(vec![3.0; 9]).expect("it is finite");
        assert_eq!(constant.code(3.0), Some(0));
        assert_eq!(constant.code(3.5), Some(127), "any change is one");
        let far = of(vec![1e6, 1e6 + 1.0]).expect("they are finite");
        assert!(far.fits() && far.code(1e6 + 1.0) > far.code(1e6), "{far:?}");
        let codes = TensorData::I8(vec![-128, 3]);
        assert_eq!(CodeScale::of(&[Some(codes)]), Some(CodeScale::IDENTITY));
    }

    #[test]
    fn sums_are_the_same_in_any_grouping_and_leave_out_what_is_not_a_number() {
        let baseline = build(&vectors(500), 0).expect("it is sound");
        let counter = embedding(&baseline).counter();
        let mut noise = Noise(11);
        let mut samples: Vec<TensorData> = (0..60).map(|_| noise.vector(0.8)).collect();
        samples[7] = TensorData::F32(vec![1.0, f32::NAN, 0.0]);
        samples[9] = TensorData::F32(vec![1.0; 4]);
        let count = |samples: &[TensorData]| {
            let profile = GatewayProfile::new(baseline.spec_id(), 1);
            let mut profile = profile.expect("one feature fits");
            samples.iter().for_each(|sample| counter.count(sample, profile.outputs_mut()));
            profile
        };
        let whole = count(&samples);
        let (mut left, right) = (count(&samples[..23]), count(&samples[23..]));
        left.merge(&right).expect("the same baseline");
        assert_eq!(left, whole);
        let outputs = whole.outputs();
        assert_eq!((outputs.embedding().vectors(), outputs.random_features().vectors()), (58, 58));
    }

    /// Computed by another program, after the descriptions here and in `projection.rs`.
    #[test]
    fn the_sums_of_a_sample_are_those_of_every_other_machine() {
        let codes = CodeScale { exponent: -5, zero_point: 4 };
        let projection = ProjectionSpec { seed: 1, features: 4, shift: 6 };
        let counter = EmbeddingCounter::new(3, codes, projection).expect("they fit");
        let mut outputs = OutputCounts::default();
        counter.count(&TensorData::F32(vec![0.5, -1.25, 0.015]), &mut outputs);
        assert_eq!(outputs.embedding().sums(), [20, -36, 4]);
        assert_eq!(outputs.random_features().sums(), [126, 120, -16, 43]);
    }

    #[test]
    fn every_second_session_calibrates_and_none_is_in_both() {
        let baseline = build(&vectors(4000), 200).expect("it is sound");
        let embedding = embedding(&baseline);
        let calibration = embedding.calibration.as_ref().expect("there are twenty sessions");
        assert_eq!((calibration.reference_sources, calibration.sources), (10, 10));
        let moments = embedding.moments.as_ref().expect("they were just made");
        assert_eq!(moments.embedding.count(), 2000);
        let sizes = |thresholds: &[Threshold]| -> Vec<(u64, u32)> {
            thresholds.iter().map(|it| (it.vectors, it.windows)).collect()
        };
        assert_eq!(sizes(&calibration.embedding), [(50, 40), (100, 20)]);
        assert_eq!(sizes(&calibration.random_features), [(50, 40), (100, 20)]);
        assert_eq!(Baseline::decode(&baseline.encode()).expect("our own"), baseline);
        assert_eq!(build(&vectors(4000), 200).expect("likewise").encode(), baseline.encode());
    }

    #[test]
    fn a_device_drops_the_moments_and_counts_under_the_same_spec() {
        let baseline = build(&vectors(4000), 200).expect("it is sound");
        let light = baseline.clone().without_moments();
        assert_eq!(light.spec_id(), baseline.spec_id());
        assert_eq!(embedding(&light).moments, None);
        assert_eq!(embedding(&light).projection, embedding(&baseline).projection);
    }

    #[test]
    fn with_too_few_sessions_or_windows_all_is_reference_and_there_is_no_threshold() {
        for (rows, session_rows, why) in [
            (4000, 0, "no sessions"),
            (4000, 600, "seven sessions"),
            (4000, 45, "none fills a window"),
            (1800, 100, "eighteen windows calibrate"),
        ] {
            let baseline = build(&vectors(rows), session_rows).expect("it is sound");
            let embedding = embedding(&baseline);
            assert_eq!(embedding.calibration, None, "{why}");
            let moments = embedding.moments.as_ref().expect("they were just made");
            assert_eq!(moments.embedding.count(), rows as u64, "{why}");
        }
    }

    #[test]
    fn embeddings_that_cannot_be_summed_up_are_refused_with_a_reason() {
        let one = |values: Vec<f32>| Some(TensorData::F32(values));
        let cases = [
            (vec![None, None], "is in no answer"),
            (vec![one(vec![1.0]), one(vec![1.0, 2.0])], "has {1, 2} values"),
            (vec![one(vec![0.0; 129])], "has {129} values"),
            (vec![one(vec![f32::NAN]), one(vec![f32::NAN])], "no finite values"),
            (vec![one(vec![1.0]), None], "fewer than two vectors"),
        ];
        for (vectors, reason) in cases {
            let error = build(&vectors, 0).expect_err(reason).to_string();
            assert!(error.contains("\"embedding\"") && error.contains(reason), "{error}");
        }
        let data = ReferenceData {
            features: &[("a".to_owned(), vec![1.0, 2.0])],
            embedding: Some(ReferenceEmbedding { tensor: "embedding", vectors: &[None] }),
            ..ReferenceData::default()
        };
        let error = Baseline::build(&data).expect_err("one embedding for two samples").to_string();
        assert!(error.contains("1 embeddings for 2 samples"), "{error}");
    }

    #[test]
    fn a_wide_embedding_takes_little_of_a_bundle_and_of_a_profile() {
        let mut noise = Noise(3);
        let vectors: Vec<_> = (0..5000)
            .map(|_| Some(TensorData::F32((0..32).map(|_| noise.normal()).collect())))
            .collect();
        let baseline = build(&vectors, 250).expect("it is sound");
        let profile = GatewayProfile::new(baseline.spec_id(), 1).expect("one feature fits");
        let len_bytes = |profile: &GatewayProfile| {
            let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];
            profile.encode(&mut buffer).expect("every profile fits").len()
        };
        let (mut counted, counter) = (profile.clone(), embedding(&baseline).counter());
        for vector in vectors.iter().flatten().take(250) {
            counter.count(vector, counted.outputs_mut());
        }
        let sums_bytes = len_bytes(&counted) - len_bytes(&profile);
        let baseline_bytes = baseline.encode().len();
        println!("{sums_bytes} bytes of 250 vectors, {baseline_bytes} of the baseline");
        assert!(sums_bytes <= 300 && baseline_bytes <= 12 << 10);
    }
}
