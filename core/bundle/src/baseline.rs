//! The baseline: how the reference data were distributed, in bins that are frozen with the bundle.
//!
//! A device counts its samples in the same bins; what was counted is compared with what stands here.
//! Edges are quantiles of the reference, each in the middle between two neighbouring values of it, so
//! equal values are never torn apart. Where all values are integers an edge is an integer and a half:
//! a float and the integer that stands for it fall into the same bin.
//!
//! Encoded as one version byte and a postcard body; one baseline has exactly one encoding. The first
//! 8 bytes of the SHA-256 of the encoding are the [`SpecId`] that profiles carry.

use std::collections::BTreeSet;

use selvedge_sketch::{
    BinCounts, BinSpec, CLASS_COUNT_MAX, EDGE_COUNT_MAX, SpecId, Values, f32_from_key, key_from_f32,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Order, digest_of,
    limits::{BASELINE_BYTES_MAX, FEATURES_MAX, LABEL_BYTES_MAX, LABELS_MAX},
};

/// The version of the encoding.
const VERSION: u8 = 1;

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
    features: Vec<BaselineFeature>,
    class_counts: Option<Vec<u32>>,
    accuracy: Option<Accuracy>,
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

/// What a baseline is built from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceData<'a> {
    /// The features by name, each with one value per sample.
    pub features: &'a [(String, Vec<f32>)],
    /// How often the model answers each class on the samples.
    pub class_counts: Option<Vec<u32>>,
    /// Whether the samples are in the order of time.
    pub order: Order,
    /// How often the model is right on them.
    pub accuracy: Option<Accuracy>,
}

impl Baseline {
    /// Freezes bins for the reference and counts it.
    ///
    /// # Errors
    /// [`Error::Reference`] where there is no sample, a feature has no finite value, features differ in
    /// length or share a name, or a limit is exceeded.
    pub fn build(reference: &ReferenceData<'_>) -> Result<Self, Error> {
        let rows = reference.features.first().map_or(0, |(_, values)| values.len());
        let feature = |(name, values): &(String, Vec<f32>)| build_feature(name, values, rows);
        let body = Body {
            rows: rows as u64,
            order: reference.order,
            features: reference.features.iter().map(feature).collect::<Result<_, _>>()?,
            class_counts: reference.class_counts.clone(),
            accuracy: reference.accuracy,
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

    /// How often the model answers each class on the reference.
    pub fn class_counts(&self) -> Option<&[u32]> {
        self.body.class_counts.as_deref()
    }

    /// How many samples the reference has.
    pub fn rows(&self) -> u64 {
        self.body.rows
    }

    /// Whether the reference is in the order of time.
    pub fn order(&self) -> Order {
        self.body.order
    }

    /// How often the model is right on the reference.
    pub fn accuracy(&self) -> Option<Accuracy> {
        self.body.accuracy
    }
}

fn build_feature(name: &str, values: &[f32], rows: usize) -> Result<BaselineFeature, Error> {
    let refuse = |reason: String| Error::Reference { reason: format!("feature {name:?} {reason}") };
    if values.len() != rows {
        return Err(refuse(format!("has {} values for {rows} samples", values.len())));
    }
    let mut keys: Vec<i32> =
        values.iter().filter(|value| value.is_finite()).map(|&value| key_from_f32(value)).collect();
    keys.sort_unstable();
    let (Some(&min), Some(&max)) = (keys.first(), keys.last()) else {
        return Err(refuse("has no finite value".to_owned()));
    };
    let spec = BinSpec::new(&edges(&keys), min, max)
        .expect("edges rise and lie between the smallest and the largest key");
    let mut counts = BinCounts::new();
    values.iter().for_each(|&value| counts.observe(&spec, key_from_f32(value)));
    if counts.saturated() {
        return Err(refuse("has more values than can be counted".to_owned()));
    }
    let counts = ReferenceCounts {
        bins: counts.bins()[..spec.bin_count()].to_vec(),
        nan: counts.nan(),
        infinity: counts.infinity(),
        infinity_negative: counts.infinity_negative(),
    };
    Ok(BaselineFeature { name: name.to_owned(), spec, counts })
}

/// At most 15 rising edges at the sixteenths of sorted, finite keys.
///
/// The value at a quantile may be repeated. Both ends of its run are places for an edge; the one that
/// is nearer to the quantile is taken. So a value that fills several bins gets one of its own.
fn edges(keys: &[i32]) -> Vec<i32> {
    let bin_count = EDGE_COUNT_MAX + 1;
    let integers = keys.iter().all(|&key| f32_from_key(key).fract() == 0.0);
    let ranks: BTreeSet<usize> = (1..bin_count)
        .map(|k| {
            let target = k * keys.len();
            let value = keys[target / bin_count];
            let run_start = keys.partition_point(|&key| key < value);
            let run_end = keys.partition_point(|&key| key <= value);
            let start_is_nearer =
                target.abs_diff(run_start * bin_count) <= target.abs_diff(run_end * bin_count);
            if start_is_nearer { run_start } else { run_end }
        })
        .filter(|&rank| rank > 0 && rank < keys.len())
        .collect();
    ranks.into_iter().map(|rank| edge_between(keys[rank - 1], keys[rank], integers)).collect()
}

/// An edge that leaves `left` on its left and `right` on its right: `left < edge <= right`.
fn edge_between(left: i32, right: i32, integers: bool) -> i32 {
    let middle = (f64::from(f32_from_key(left)) + f64::from(f32_from_key(right))) / 2.0;
    let middle = if integers { middle.floor() + 0.5 } else { middle };
    let edge = key_from_f32(middle as f32);
    // Neighbouring floats have nothing between them.
    if edge > left && edge <= right { edge } else { right }
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
    if let Some(counts) = &body.class_counts {
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if counts.is_empty() || counts.len() > LABELS_MAX || total > body.rows {
            return Err("the class counts do not fit the samples".to_owned());
        }
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
    Ok(())
}

fn encode(body: &Body) -> Vec<u8> {
    postcard::to_extend(body, vec![VERSION]).expect("postcard encodes lists, text and numbers")
}

fn spec_id(encoded: &[u8]) -> SpecId {
    let digest = digest_of(encoded).0;
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

    fn edges_of(values: Vec<f32>) -> Vec<f32> {
        let baseline = build(&[("a", values)]).expect("finite values");
        baseline.features()[0].spec.edges().iter().map(|&key| f32_from_key(key)).collect()
    }

    #[test]
    fn integers_get_edges_between_them() {
        let edges = edges_of((0..1600).map(|i| (i / 100) as f32).collect());
        assert_eq!(edges, (0..15).map(|i| i as f32 + 0.5).collect::<Vec<_>>());
        assert_eq!(edges_of(vec![5.0, 9.0]), [7.5]);
        assert_eq!(edges_of(vec![-6.0, -5.0]), [-5.5]);
    }

    #[test]
    fn a_value_that_fills_several_bins_gets_one_of_its_own() {
        let zeros = std::iter::repeat_n(0.0, 600);
        let values = (-200..0).map(|i| i as f32).chain(zeros).chain((1..=200).map(|i| i as f32));
        let edges = edges_of(values.collect());
        assert!(edges.contains(&-0.5) && edges.contains(&0.5), "{edges:?}");
    }

    #[test]
    fn a_constant_has_one_bin_and_both_zeros_are_one_value() {
        assert!(edges_of(vec![3.25; 50]).is_empty());
        assert!(edges_of(vec![0.0, -0.0, 0.0, -0.0]).is_empty());
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
        newer[0] = 2;
        let error = Baseline::decode(&newer).expect_err("version 2");
        assert!(error.to_string().contains("version is 2"), "{error}");
        for len in 0..bytes.len() {
            assert!(Baseline::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
        assert!(Baseline::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn bins_for_integers_are_refused_since_devices_count_floats() {
        let mut bytes = build(&[("a", vec![1.0, 2.0])]).expect("finite").encode();
        let floats = 1 + 1 + 1 + 3 + 6 + 5 + 5;
        assert_eq!(bytes[floats], 0, "what stands behind the guard");
        bytes[floats] = 2;
        let error = Baseline::decode(&bytes).expect_err("integers");
        assert!(error.to_string().contains("not for floats"), "{error}");
    }

    #[test]
    fn the_encoding_of_version_1_stays_as_it_is() {
        let features = [("a".to_owned(), vec![1.0, 2.0, 2.0])];
        let reference = ReferenceData {
            features: &features,
            class_counts: Some(vec![2, 1]),
            order: Order::Time,
            accuracy: Some(Accuracy { correct: 2, rows: 3 }),
        };
        let baseline = Baseline::build(&reference).expect("finite");
        let golden: &[u8] = &[
            1, // version
            3, // rows
            1, // order: time
            1, 1, b'a', // one feature with its name
            1, 0x80, 0x80, 0x80, 0xfc, 7, // one edge: 1.5
            0x80, 0x80, 0x80, 0xf8, 7, // min: 1.0
            0x80, 0x80, 0x80, 0x80, 8, // max: 2.0
            0, // floats
            2, 1, 2, 0, 0, 0, // two bins; NaN, +inf, -inf
            1, 2, 2, 1, // class counts
            1, 2, 3, // accuracy
        ];
        assert_eq!(baseline.encode(), golden);
        assert_eq!(Baseline::decode(golden).expect("our own"), baseline);
        assert_eq!(baseline.spec_id().0[..], digest_of(golden).0[..8]);
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
            prop_assert!(feature.counts.bins.iter().all(|&count| count > 0), "an empty bin");
            let finite: BTreeSet<i32> = values
                .iter()
                .filter(|value| value.is_finite())
                .map(|&value| key_from_f32(value))
                .collect();
            prop_assert_eq!(feature.spec.bin_count() > 1, finite.len() > 1);
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
