//! What is odd about single values, by source and feature, whatever their distribution: outside of the
//! reference's range, no finite number, or the same again and again, as a sensor that is stuck sends it.
//!
//! Each kind of oddity comes in *spells*: one begins with so many odd samples in a row and is over after so
//! many without. A spell is told when it begins; of a feature whose spells come thick and fast, the first, and
//! how many were kept quiet with the next that is told. What is counted here does not say that the model
//! errs, and a feature whose reference repeats itself is not watched for sticking.

use std::{sync::Arc, time::Duration};

use selvedge_bundle::{Baseline, BaselineFeature};
use selvedge_sketch::f32_from_key;

use crate::limits::{ANOMALY_CALM_SAMPLES, ANOMALY_QUIET, OUT_OF_RANGE_SAMPLES_MIN, SOURCES_MAX};

/// The anomalies of the samples of one model.
pub(super) struct Anomalies {
    baseline: Option<Arc<Baseline>>,
    features: Vec<Expected>,
    sources: Vec<Watched>,
}

/// What is expected of a feature's values.
struct Expected {
    min: f32,
    max: f32,
    // A value is stuck when it comes so often in a row.
    stuck_samples: u32,
}

/// More often than values are counted in a row.
const NEVER: u32 = u32::MAX;

struct Watched {
    source: Arc<str>,
    samples: u32,
    newest: Vec<Newest>,
    spells: Vec<[Spell; Kind::ALL.len()]>,
    // No spell lasts, and none may be about to begin.
    is_calm: bool,
}

/// What every sample changes, apart from what only odd ones do.
#[derive(Clone)]
struct Newest {
    value: f32,
    // How often it has come in a row.
    repeats: u32,
}

#[derive(Clone, Default)]
struct Spell {
    // Odd samples of the open window.
    samples: u32,
    odd_in_a_row: u32,
    calm_in_a_row: u32,
    lasts: bool,
    told_at: Option<Duration>,
    kept_quiet: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OutOfRange,
    NotFinite,
    Stuck,
}

impl Kind {
    const ALL: [Self; 3] = [Self::OutOfRange, Self::NotFinite, Self::Stuck];

    /// How many odd samples in a row begin a spell. Of the range of a reference a few values of the same
    /// distribution fall out now and then; a value is stuck only after many.
    const fn samples_min(self) -> u32 {
        match self {
            Self::OutOfRange => OUT_OF_RANGE_SAMPLES_MIN,
            Self::NotFinite | Self::Stuck => 1,
        }
    }
}

impl Anomalies {
    /// Nothing seen yet of the samples of a model with this baseline. A value is stuck when it comes
    /// `stuck_samples` times in a row; never if that is 0.
    pub(super) fn new(baseline: Option<Arc<Baseline>>, stuck_samples: u32) -> Self {
        let features = baseline.iter().flat_map(|baseline| baseline.features());
        let features = features.map(|feature| Expected::of(feature, stuck_samples)).collect();
        Self { baseline, features, sources: Vec::new() }
    }

    /// Takes the features of a sample, and says whether one of them is odd. `told` is given a sentence for
    /// each spell that begins.
    pub(super) fn observe(
        &mut self,
        source: &Arc<str>,
        values: &[f32],
        now: Duration,
        told: impl FnMut(String),
    ) -> bool {
        let known = self.sources.iter().position(|watched| watched.source == *source);
        let index = match known {
            Some(index) => index,
            None if self.sources.len() == SOURCES_MAX => return false,
            None => {
                self.sources.push(Watched::new(source.clone(), self.features.len()));
                self.sources.len() - 1
            }
        };
        let is_odd = self.sources[index].take(values, &self.features);
        if is_odd || !self.sources[index].is_calm {
            self.follow_spells(index, values, now, told);
        }
        is_odd
    }

    /// Begins and ends the spells of a source with its newest sample.
    fn follow_spells(
        &mut self,
        source: usize,
        values: &[f32],
        now: Duration,
        mut told: impl FnMut(String),
    ) {
        let Watched { source, newest, spells, is_calm, .. } = &mut self.sources[source];
        let features = newest.iter().zip(spells.iter_mut()).zip(&self.features).zip(values);
        for (place, (((newest, spells), expected), value)) in features.enumerate() {
            let kinds = expected.kinds(newest);
            for ((kind, odd), spell) in Kind::ALL.into_iter().zip(kinds).zip(spells) {
                let Some(kept_quiet) = spell.observe(odd, kind.samples_min(), now) else {
                    continue;
                };
                let baseline = self.baseline.as_ref().expect("a feature is of a baseline");
                let feature = &baseline.features()[place].name;
                let what = match kind {
                    Kind::OutOfRange => format!(
                        "is {value}, outside of the reference's {} to {}",
                        expected.min, expected.max
                    ),
                    Kind::NotFinite => format!("is {value}"),
                    Kind::Stuck => format!("was {value} {} times in a row", newest.repeats),
                };
                let before = match kept_quiet {
                    0 => String::new(),
                    count => format!(" ({count} such spells before were not told)"),
                };
                told(format!("source {source}: {feature} {what}{before}"));
            }
        }
        *is_calm = spells.iter().flatten().all(Spell::is_calm);
    }

    /// Ends the window, and says in a sentence what was odd in it; nothing if nothing was.
    pub(super) fn close_window(&mut self) -> Option<String> {
        let mut odd = Vec::new();
        for watched in &mut self.sources {
            for (place, spells) in watched.spells.iter_mut().enumerate() {
                let counts = spells.each_mut().map(|spell| std::mem::take(&mut spell.samples));
                if counts != [0; Kind::ALL.len()] {
                    let baseline = self.baseline.as_ref().expect("a feature is of a baseline");
                    let feature = &baseline.features()[place].name;
                    let [range, finite, stuck] = counts;
                    odd.push(format!(
                        "source {}: {feature}: of {} samples {range} out of range, {finite} not \
                         finite, {stuck} stuck",
                        watched.source, watched.samples
                    ));
                }
            }
            watched.samples = 0;
        }
        (!odd.is_empty()).then(|| odd.join("; "))
    }
}

impl Expected {
    fn of(feature: &BaselineFeature, stuck_samples: u32) -> Self {
        let (min, max) = (f32_from_key(feature.spec.min()), f32_from_key(feature.spec.max()));
        // Where one bin has most of the reference, values may well repeat.
        let fullest = feature.counts.bins.iter().max().copied().unwrap_or(0);
        let varies = 2 * u64::from(fullest) <= feature.counts.total();
        let stuck_samples = if varies && stuck_samples > 0 { stuck_samples } else { NEVER };
        Self { min, max, stuck_samples }
    }

    /// Whether the newest value is odd in any way.
    #[inline]
    fn is_odd(&self, newest: &Newest) -> bool {
        let is_inside = newest.value >= self.min && newest.value <= self.max;
        !is_inside | (newest.repeats >= self.stuck_samples)
    }

    /// Which kinds of odd it is, in the order of [`Kind::ALL`].
    fn kinds(&self, newest: &Newest) -> [bool; Kind::ALL.len()] {
        let is_finite = newest.value.is_finite();
        let is_outside = is_finite && !(self.min..=self.max).contains(&newest.value);
        [is_outside, !is_finite, is_finite && newest.repeats >= self.stuck_samples]
    }
}

impl Watched {
    fn new(source: Arc<str>, feature_count: usize) -> Self {
        // Nothing is equal to what is no number.
        let newest = vec![Newest { value: f32::NAN, repeats: 0 }; feature_count];
        let spells = vec![Default::default(); feature_count];
        Self { source, samples: 0, newest, spells, is_calm: true }
    }

    /// Takes the next sample, and says whether it is odd.
    fn take(&mut self, values: &[f32], features: &[Expected]) -> bool {
        self.samples = self.samples.saturating_add(1);
        let mut is_odd = false;
        for ((newest, expected), &value) in self.newest.iter_mut().zip(features).zip(values) {
            let repeats = if newest.value == value { newest.repeats } else { 0 };
            *newest = Newest { value, repeats: (repeats + 1).min(NEVER - 1) };
            is_odd |= expected.is_odd(newest);
        }
        is_odd
    }
}

impl Spell {
    const fn is_calm(&self) -> bool {
        !self.lasts && self.odd_in_a_row == 0
    }

    /// Takes the next sample. If a spell begins that is to be told: how many before it were not.
    fn observe(&mut self, odd: bool, samples_min: u32, now: Duration) -> Option<u32> {
        if !odd {
            self.odd_in_a_row = 0;
            self.calm_in_a_row = self.calm_in_a_row.saturating_add(1);
            self.lasts &= self.calm_in_a_row < ANOMALY_CALM_SAMPLES;
            return None;
        }
        self.samples = self.samples.saturating_add(1);
        self.odd_in_a_row = self.odd_in_a_row.saturating_add(1);
        self.calm_in_a_row = 0;
        if self.lasts || self.odd_in_a_row < samples_min {
            return None;
        }
        self.lasts = true;
        if self.told_at.is_some_and(|told_at| now < told_at + ANOMALY_QUIET) {
            self.kept_quiet = self.kept_quiet.saturating_add(1);
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.kept_quiet))
    }
}

#[cfg(test)]
mod tests {
    use selvedge_bundle::ReferenceData;

    use super::*;

    const STUCK: u32 = 50;

    fn anomalies() -> Anomalies {
        let varying = (0..1000).map(|n| n as f32 / 10.0).collect();
        let constant = vec![7.0; 1000];
        let features = [("flow".to_owned(), varying), ("mode".to_owned(), constant)];
        let reference = ReferenceData { features: &features, ..ReferenceData::default() };
        let baseline = Baseline::build(&reference).expect("the reference is sound");
        Anomalies::new(Some(Arc::new(baseline)), STUCK)
    }

    /// Gives values of `flow`, one a second; what is told of them.
    fn told(anomalies: &mut Anomalies, from_s: u64, values: &[f32]) -> Vec<String> {
        let (source, mut told) = ("pump".into(), Vec::new());
        for (second, value) in (from_s..).zip(values) {
            let now = Duration::from_secs(second);
            anomalies.observe(&source, &[*value, 7.0], now, |news| told.push(news));
        }
        told
    }

    /// Values of the reference that do not repeat.
    fn sound(count: usize) -> Vec<f32> {
        (0..count).map(|n| (n % 100) as f32).collect()
    }

    #[test]
    fn sound_values_and_a_constant_that_the_reference_has_are_not_odd() {
        let mut anomalies = anomalies();
        assert_eq!(told(&mut anomalies, 0, &sound(1000)), [] as [String; 0]);
        assert_eq!(anomalies.close_window(), None);
    }

    #[test]
    fn each_kind_is_told_once_a_spell_and_names_the_source_and_the_feature() {
        for (odd, words) in [
            (vec![250.0, 251.0, 252.0, 253.0], "is 252, outside of the reference's 0 to 99.9"),
            (vec![f32::NAN; 4], "is NaN"),
            (vec![f32::NEG_INFINITY; 4], "is -inf"),
            (vec![5.0; 80], "was 5 50 times in a row"),
        ] {
            let mut anomalies = anomalies();
            let told = told(&mut anomalies, 0, &[sound(10), odd, sound(10)].concat());
            assert_eq!(told, [format!("source pump: flow {words}")]);
            let window = anomalies.close_window().expect("there were odd samples");
            assert!(window.starts_with("source pump: flow: of "), "{window}");
            assert_eq!(anomalies.close_window(), None, "each window is counted anew");
        }
    }

    #[test]
    fn single_values_out_of_range_are_counted_and_not_told() {
        let mut anomalies = anomalies();
        let values: Vec<f32> =
            (0..100).map(|n| if n % 10 == 0 { 500.0 } else { n as f32 }).collect();
        assert_eq!(told(&mut anomalies, 0, &values), [] as [String; 0]);
        let window = anomalies.close_window().expect("there were odd samples");
        assert!(window.contains("of 100 samples 10 out of range"), "{window}");
    }

    #[test]
    fn spells_that_come_thick_and_fast_are_told_with_how_many_were_not() {
        let mut anomalies = anomalies();
        let calm = sound(ANOMALY_CALM_SAMPLES as usize);
        let spells = [&[f32::NAN][..], &calm, &[f32::NAN], &calm, &[f32::NAN], &calm].concat();
        assert_eq!(told(&mut anomalies, 0, &spells), ["source pump: flow is NaN"]);
        let later = told(&mut anomalies, 2 * ANOMALY_QUIET.as_secs(), &[f32::NAN]);
        assert_eq!(later, ["source pump: flow is NaN (2 such spells before were not told)"]);
    }

    #[test]
    fn sources_are_told_apart_and_no_more_are_watched_than_there_may_be() {
        let mut anomalies = anomalies();
        for number in 0..=SOURCES_MAX {
            let source = format!("pump-{number}").into();
            let odd = anomalies.observe(&source, &[f32::NAN, 7.0], Duration::ZERO, |_| ());
            assert_eq!(odd, number < SOURCES_MAX, "{source}");
        }
    }
}
