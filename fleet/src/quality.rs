//! How right the answers of a bundle were, by the labels that came late.
//!
//! A pure function of stored labels and their answers, computed when somebody asks: they are counted as
//! [`LabelCounts`], whose sums do not depend on the order, for all of them and for each slice or device. Accuracy
//! comes with Wilson's interval (Wilson 1927, 95 %). What all of it does not mean stands in `docs/drift.md`.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;
use utoipa::ToSchema;

use selvedge_bundle::Baseline;
use selvedge_sketch::{CLASS_COUNT_MAX, ConfidenceSpec, ErrorSpec, LabelCounts, SpecId};
use selvedge_wire::{Digest, Outcome, Truth, UnfitTruth};

use crate::store::{Labelled, LabelledRow};

/// The standard normal quantile of a two-sided 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// Errors of regressions are summed in a unit that fits the largest, between these bounds.
const ERROR_BOUND_MIN: f32 = 1e-20;
const ERROR_BOUND_MAX: f32 = 1e30;

/// What became of labels.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct TakenLabels {
    /// Labels that are kept.
    pub stored: usize,
    /// Those of them whose answer is known. The others wait for it.
    pub matched: u64,
    /// Labels that are not kept.
    pub refused: Vec<RefusedLabel>,
}

/// A label that is not kept.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RefusedLabel {
    /// Its place in the request, from 0.
    pub entry: usize,
    /// The result that it is of, where that could be read.
    pub id: Option<String>,
    /// What is wrong with it.
    pub error: String,
}

/// What labels are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Their slice.
    Slice,
    /// The device that answered.
    Device,
}

/// A bundle, as far as labels are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Answerer<'a> {
    /// Its identity.
    pub bundle: Digest,
    /// Its name.
    pub name: &'a str,
    /// Its semantic version.
    pub version: &'a str,
    /// The names of its classes; empty if it has none.
    pub classes: &'a [String],
    /// Its reference, where it has one.
    pub baseline: Option<&'a Baseline>,
}

/// How right the answers of a bundle were.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QualityView {
    /// The bundle.
    #[schema(value_type = String)]
    pub bundle: Digest,
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// Labels of the bundle's answers.
    pub matched: u64,
    /// Labels of these devices whose answer is not known here: of this bundle or of others.
    pub unmatched: u64,
    /// Labels of these devices that made room for newer ones, and are in no number here.
    pub dropped: u64,
    /// There are labels that came before and were not read.
    pub cut: bool,
    /// When the earliest of the answers was given, in Unix milliseconds by the device's clock.
    pub from_ms: Option<u64>,
    /// When the latest one was.
    pub to_ms: Option<u64>,
    /// What all labels say.
    pub all: ScoresView,
    /// What they say of each slice or device, if that is asked: those with the most labels first.
    pub groups: Vec<GroupView>,
    /// Slices or devices that are not listed: there are too many.
    pub groups_left_out: usize,
}

/// A slice or device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupView {
    /// The slice or device; none for labels without a slice.
    pub name: Option<String>,
    /// What its labels say.
    pub scores: ScoresView,
}

/// What labels say.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ScoresView {
    /// Labels of samples that were answered with a class; none if there is no such label.
    pub classes: Option<ClassScoresView>,
    /// Labels of samples that were answered with a value; none if there is no such label.
    pub values: Option<ValueScoresView>,
    /// Labels of samples that got no answer. They are in no score.
    pub unanswered: u64,
    /// Labels that cannot be held against their answer: classes that the bundle does not have, or values in place of
    /// classes. They are in no score.
    pub unfit: u64,
    /// What is wrong with one of them.
    pub unfit_reason: Option<String>,
}

/// How right classes were.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClassScoresView {
    /// Labels.
    pub labels: u64,
    /// The share of right answers.
    pub accuracy: f64,
    /// One standard error of it, as if labels were drawn independently; 0 where all or none is right.
    pub standard_error: f64,
    /// Where a 95 % interval around the accuracy begins (Wilson).
    pub accuracy_low: f64,
    /// Where it ends.
    pub accuracy_high: f64,
    /// The mean of F1 over the classes that are or were answered.
    pub macro_f1: Option<f64>,
    /// The expected calibration error over the confidence bins of the reference; none without a confidence.
    pub calibration_error: Option<f64>,
    /// The classes that are or were answered.
    pub by_class: Vec<ClassScoreView>,
}

/// How right one class was.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClassScoreView {
    /// The class.
    pub class: u32,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Samples that are of this class.
    pub labelled: u64,
    /// Samples that were said to be.
    pub answered: u64,
    /// Samples of which both is true.
    pub right: u64,
    /// Of those that were said to be, the share that is.
    pub precision: Option<f64>,
    /// Of those that are, the share that was said to be.
    pub recall: Option<f64>,
    /// The harmonic mean of the two.
    pub f1: Option<f64>,
}

/// How right values were: of each answer its first value.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ValueScoresView {
    /// Labels whose error is a finite number.
    pub labels: u64,
    /// Errors that are not finite. They are in no score.
    pub not_finite: u64,
    /// The mean of answer less label.
    pub mean_error: Option<f64>,
    /// The mean of the errors' sizes.
    pub mean_absolute_error: Option<f64>,
    /// The mean of their squares.
    pub mean_squared_error: Option<f64>,
}

impl QualityView {
    /// Counts labels. Of groups, at most `groups_max` are listed.
    pub fn new(
        answerer: &Answerer<'_>,
        labelled: &Labelled,
        by: Option<GroupBy>,
        groups_max: usize,
    ) -> Self {
        let rows = &labelled.rows;
        let verdicts: Vec<Verdict> =
            rows.iter().map(|row| Verdict::of(row, answerer.classes)).collect();
        let counting = Counting::new(answerer);
        let of_group =
            |members: &[usize]| counting.scores(members.iter().map(|&member| &verdicts[member]));
        let mut groups: Vec<(Option<&str>, Vec<usize>)> =
            by.map(|by| group(rows, by)).unwrap_or_default();
        groups.sort_by_key(|(_, members)| Reverse(members.len()));
        let groups_left_out = groups.len().saturating_sub(groups_max);
        groups.truncate(groups_max);
        let view = |(name, members): &(Option<&str>, Vec<usize>)| GroupView {
            name: name.map(str::to_owned),
            scores: of_group(members),
        };
        Self {
            bundle: answerer.bundle,
            name: answerer.name.to_owned(),
            version: answerer.version.to_owned(),
            matched: rows.len() as u64,
            unmatched: labelled.unmatched,
            dropped: labelled.dropped,
            cut: labelled.cut,
            from_ms: rows.iter().map(|row| row.answered_ms).min(),
            to_ms: rows.iter().map(|row| row.answered_ms).max(),
            all: counting.scores(&verdicts),
            groups: groups.iter().map(view).collect(),
            groups_left_out,
        }
    }
}

/// What a label says of its answer.
enum Verdict {
    Class { predicted: u32, truth: u32, score: f32 },
    Error(f32),
    Unanswered,
    Unfit(UnfitTruth),
}

impl Verdict {
    fn of(row: &LabelledRow, classes: &[String]) -> Self {
        let truth = match row.truth.resolve(classes, &row.outcome) {
            Ok(truth) => truth,
            Err(unfit) => return Self::Unfit(unfit),
        };
        match (truth, &row.outcome) {
            (Truth::Class(truth), &Outcome::Class { index: predicted, score }) => {
                Self::Class { predicted, truth, score }
            }
            (Truth::Value(truth), Outcome::Values(values)) => {
                values.first().map_or(Self::Unanswered, |value| Self::Error(value - truth))
            }
            _ => Self::Unanswered,
        }
    }
}

/// The indexes of each group's labels.
fn group(rows: &[LabelledRow], by: GroupBy) -> Vec<(Option<&str>, Vec<usize>)> {
    let mut groups: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let name = match by {
            GroupBy::Slice => row.slice.as_deref(),
            GroupBy::Device => Some(row.device.as_str()),
        };
        groups.entry(name).or_default().push(index);
    }
    groups.into_iter().collect()
}

/// With what labels are counted.
struct Counting<'a> {
    classes: &'a [String],
    spec_id: SpecId,
    confidence: Option<&'a ConfidenceSpec>,
}

/// The unit of errors that fits the largest of these. One error that is far off then rounds away the others of its own
/// group alone.
fn unit_of_errors(verdicts: &[&Verdict]) -> ErrorSpec {
    let sizes = verdicts.iter().filter_map(|verdict| match verdict {
        Verdict::Error(error) if error.is_finite() => Some(error.abs()),
        _ => None,
    });
    let bound = sizes.fold(0.0, f32::max).clamp(ERROR_BOUND_MIN, ERROR_BOUND_MAX);
    ErrorSpec::for_errors_up_to(bound).expect("the bound was clamped")
}

impl<'a> Counting<'a> {
    fn new(answerer: &Answerer<'a>) -> Self {
        let baseline = answerer.baseline;
        Self {
            classes: answerer.classes,
            spec_id: baseline.map_or(SpecId([0; SpecId::BYTES]), Baseline::spec_id),
            confidence: baseline.and_then(Baseline::confidence).map(|confidence| &confidence.spec),
        }
    }

    fn scores<'v>(&self, verdicts: impl IntoIterator<Item = &'v Verdict>) -> ScoresView {
        let verdicts: Vec<&Verdict> = verdicts.into_iter().collect();
        let errors = unit_of_errors(&verdicts);
        let mut counts = Box::new(LabelCounts::new(self.spec_id));
        let mut scores = ScoresView::default();
        for verdict in verdicts {
            match verdict {
                &Verdict::Class { predicted, truth, score } => {
                    let confidence = self.confidence.map(|spec| (spec, score));
                    counts.observe_class(predicted, truth, confidence);
                }
                Verdict::Error(error) => counts.observe_error(errors, *error),
                Verdict::Unanswered => scores.unanswered += 1,
                Verdict::Unfit(unfit) => {
                    scores.unfit += 1;
                    scores.unfit_reason.get_or_insert_with(|| unfit.to_string());
                }
            }
        }
        scores.classes = self.class_scores(&counts);
        scores.values = Self::value_scores(&counts, errors);
        scores
    }

    fn class_scores(&self, counts: &LabelCounts) -> Option<ClassScoresView> {
        let accuracy = counts.accuracy()?;
        let labels: u64 = counts.labelled().iter().map(|&count| u64::from(count)).sum();
        let (accuracy_low, accuracy_high) = wilson(accuracy, labels as f64);
        let by_class = (0..CLASS_COUNT_MAX as u32).map(|class| self.class_score(counts, class));
        Some(ClassScoresView {
            labels,
            accuracy,
            standard_error: (accuracy * (1.0 - accuracy) / labels as f64).sqrt(),
            accuracy_low,
            accuracy_high,
            macro_f1: counts.macro_f1(),
            calibration_error: counts.calibration_error(),
            by_class: by_class.filter(|class| class.labelled + class.answered > 0).collect(),
        })
    }

    fn class_score(&self, counts: &LabelCounts, class: u32) -> ClassScoreView {
        let others = 0..=CLASS_COUNT_MAX as u32;
        let sum =
            |count: &dyn Fn(u32) -> u32| others.clone().map(|other| u64::from(count(other))).sum();
        ClassScoreView {
            class,
            name: self.classes.get(class as usize).cloned(),
            labelled: sum(&|predicted| counts.confusion(predicted, class)),
            answered: sum(&|truth| counts.confusion(class, truth)),
            right: counts.confusion(class, class).into(),
            precision: counts.precision(class),
            recall: counts.recall(class),
            f1: counts.f1(class),
        }
    }

    fn value_scores(counts: &LabelCounts, unit: ErrorSpec) -> Option<ValueScoresView> {
        let (labels, not_finite) = (counts.errors(), counts.errors_not_finite());
        (labels > 0 || not_finite > 0).then(|| ValueScoresView {
            labels: labels.into(),
            not_finite: not_finite.into(),
            mean_error: counts.mean_error(unit),
            mean_absolute_error: counts.mean_absolute_error(unit),
            mean_squared_error: counts.mean_squared_error(unit),
        })
    }
}

/// Wilson's 95 % interval of a share of `count`.
fn wilson(share: f64, count: f64) -> (f64, f64) {
    let z2 = Z_95 * Z_95;
    let middle = (share + z2 / (2.0 * count)) / (1.0 + z2 / count);
    let variance = share * (1.0 - share) / count + z2 / (4.0 * count * count);
    let half = Z_95 / (1.0 + z2 / count) * variance.sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{name, reference::baseline};

    fn row(slice: Option<&str>, truth: Truth, outcome: Outcome) -> LabelledRow {
        let slice = slice.map(str::to_owned);
        LabelledRow { device: name("line-1"), slice, answered_ms: 5, truth, outcome }
    }

    fn class(index: u32) -> Outcome {
        Outcome::Class { index, score: 0.75 }
    }

    fn named(class: &str) -> Truth {
        Truth::Name(class.parse().expect("it is short"))
    }

    fn view(rows: Vec<LabelledRow>, by: Option<GroupBy>, groups_max: usize) -> QualityView {
        let (classes, baseline) = (["low".to_owned(), "high".to_owned()], baseline(50));
        let answerer = Answerer {
            bundle: Digest([7; 32]),
            name: "example",
            version: "1.0.0",
            classes: &classes,
            baseline: Some(&baseline),
        };
        let labelled = Labelled { rows, unmatched: 3, ..Labelled::default() };
        QualityView::new(&answerer, &labelled, by, groups_max)
    }

    #[test]
    fn scores_are_of_all_labels_and_of_each_slice() {
        let rows = vec![
            row(Some("day"), named("low"), class(0)),
            row(Some("day"), named("high"), class(1)),
            row(Some("day"), Truth::Class(1), class(0)),
            row(Some("night"), named("high"), class(1)),
            row(None, named("high"), Outcome::Failed("no answer".into())),
            row(None, named("middle"), class(1)),
            row(None, Truth::Value(1.0), class(1)),
        ];
        let seen = view(rows, Some(GroupBy::Slice), 2);
        assert_eq!((seen.matched, seen.unmatched, seen.from_ms), (7, 3, Some(5)));
        assert_eq!((seen.all.unanswered, seen.all.unfit), (1, 2));
        let reason = seen.all.unfit_reason.expect("two are unfit");
        assert!(reason.contains("no class \"middle\""), "{reason}");
        let all = seen.all.classes.expect("four labels are classes");
        assert_eq!((all.labels, all.accuracy), (4, 0.75));
        assert!((all.standard_error - (0.75_f64 * 0.25 / 4.0).sqrt()).abs() < 1e-12);
        // Of answers with a confidence of 0.75, three quarters are right.
        assert!(all.calibration_error.is_some_and(|error| error < 1e-6), "{all:?}");
        let low = &all.by_class[0];
        assert_eq!(
            (low.name.as_deref(), low.labelled, low.answered, low.right),
            (Some("low"), 1, 2, 1)
        );
        assert_eq!((low.precision, low.recall, low.f1), (Some(0.5), Some(1.0), Some(2.0 / 3.0)));
        let names: Vec<Option<&str>> = seen.groups.iter().map(|it| it.name.as_deref()).collect();
        assert_eq!((names, seen.groups_left_out), (vec![None, Some("day")], 1));
        assert!(seen.groups[0].scores.classes.is_none(), "none of its labels fits an answer");
    }

    #[test]
    fn errors_of_values_are_summed_whatever_their_size() {
        for scale in [1e-12_f32, 1.0, 1e12] {
            let errors = [3.0, -1.0, 0.0, 2.0];
            let value = |error: &f32| {
                row(None, Truth::Value(scale), Outcome::Values(vec![scale + error * scale]))
            };
            let scores = view(errors.iter().map(value).collect(), None, 8).all.values;
            let scores = scores.expect("they are values");
            let near = |value: Option<f64>, expected: f64| {
                let value = value.expect("there are errors");
                assert!((value / expected - 1.0).abs() < 1e-3, "{value}, not {expected}");
            };
            let scale = f64::from(scale);
            near(scores.mean_error, scale);
            near(scores.mean_absolute_error, 1.5 * scale);
            near(scores.mean_squared_error, 3.5 * scale * scale);
        }
        let nothing = view(vec![row(None, Truth::Value(1.0), Outcome::Values(vec![1.0]))], None, 8);
        let exact = nothing.all.values.expect("it is a value");
        assert_eq!((exact.labels, exact.mean_squared_error), (1, Some(0.0)));
    }

    #[test]
    fn an_error_that_is_far_off_leaves_the_scores_of_other_slices() {
        let of = |slice, truth| row(Some(slice), Truth::Value(truth), Outcome::Values(vec![1.5]));
        let seen = view(vec![of("day", 1.0), of("night", -1e6)], Some(GroupBy::Slice), 8);
        let squared = |group: usize| {
            let values = seen.groups[group].scores.values.as_ref().expect("they are values");
            values.mean_squared_error.expect("there is an error")
        };
        assert_eq!(seen.groups[0].name.as_deref(), Some("day"));
        assert!((squared(0) - 0.25).abs() < 1e-4, "{}", squared(0));
        assert!(squared(1) > 1e11, "{}", squared(1));
    }

    #[test]
    fn the_interval_is_that_of_wilson() {
        // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20.
        for (right, count, low, high) in
            [(81.0, 263.0, 0.2553, 0.3662), (15.0, 148.0, 0.0624, 0.1605), (0.0, 20.0, 0.0, 0.1611)]
        {
            let (begin, end) = wilson(right / count, count);
            assert!((begin - low).abs() < 1e-4 && (end - high).abs() < 1e-4, "{begin} {end}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn scores_do_not_depend_on_the_order_of_the_labels(
            labels in prop::collection::vec((0u32..4, 0u32..4, 0.0..1.0f32, -9.0..9.0f32), 1..40)
                .prop_flat_map(|labels| (Just(labels.clone()), Just(labels).prop_shuffle())),
        ) {
            let rows = |labels: &[(u32, u32, f32, f32)]| {
                let row_of = |&(index, truth, score, value): &(u32, u32, f32, f32)| match truth {
                    0 => row(None, Truth::Value(value), Outcome::Values(vec![score])),
                    _ => row(None, Truth::Class(truth % 2), Outcome::Class { index: index % 2, score }),
                };
                labels.iter().map(row_of).collect::<Vec<_>>()
            };
            let json = |labels| serde_json::to_string(&view(rows(labels), None, 8).all);
            let (one, other) = (json(&labels.0), json(&labels.1));
            prop_assert_eq!(one.expect("a view is JSON"), other.expect("a view is JSON"));
        }
    }
}
