//! Whether what a bundle sees and answers still comes from its reference: the detectors of all its streams.
//!
//! The same monitor runs on a device, window by window, and in the fleet, on the profiles of one device or on
//! those of many that were merged. It is a pure function of the baseline and the profiles in their order: what a
//! device concluded can be computed again, bit for bit, from what it sent.
//!
//! What windows are judged by is a [`Basis`]: the bins of a bundle's baseline, with the tables of its own
//! reference, or with those of a site.

use std::cmp::Reverse;

use selvedge_sketch::{
    Detector, DetectorState, Finding, GatewayProfile, LogEvidence, ScoreTable, SpecId, conclude_all,
};
use serde::{Deserialize, Serialize};

use crate::{Baseline, Error, SiteBaseline, Stream, baseline::first_of};

/// The version of the encoded state.
const VERSION: u8 = 1;

/// What windows are judged by: they are counted in the bins of a baseline, and compared with its reference or
/// with what is usual at a site.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    baseline: &'a Baseline,
    site: Option<&'a SiteBaseline>,
}

impl<'a> Basis<'a> {
    /// What is usual at a site.
    ///
    /// # Errors
    /// [`Error::Drift`] if the site's windows were not counted in the bins of this baseline.
    pub fn of_site(baseline: &'a Baseline, site: &'a SiteBaseline) -> Result<Self, Error> {
        site.check_fits(baseline)?;
        Ok(Self { baseline, site: Some(site) })
    }

    /// Whose bins windows are counted in, and whose policy says when detectors speak.
    pub fn baseline(self) -> &'a Baseline {
        self.baseline
    }

    /// What detectors watch, each with its table, in the order of [`Baseline::streams`].
    pub fn streams(self) -> impl Iterator<Item = (Stream<'a>, &'a ScoreTable)> {
        let streams = self.baseline.streams().enumerate();
        streams.map(move |(index, (stream, table))| match self.site {
            Some(site) => (stream, &site.streams()[index].table),
            None => (stream, table),
        })
    }

    /// What tells the state of one monitor from that of another.
    fn id(self) -> SpecId {
        self.site.map_or(self.baseline.spec_id(), |site| first_of(site.digest()))
    }
}

impl<'a> From<&'a Baseline> for Basis<'a> {
    fn from(baseline: &'a Baseline) -> Self {
        Self { baseline, site: None }
    }
}

/// The detectors of the streams of one basis, in the order of [`Baseline::streams`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftMonitor {
    basis_id: SpecId,
    detectors: Vec<Detector<1>>,
}

/// What is said of a bundle's streams.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftReport<'a> {
    /// The worst that is said of a stream; *insufficient* only where that is said of all.
    pub state: DetectorState,
    /// Whether one of the tables was made without knowing how much windows vary.
    pub uncalibrated: bool,
    /// The streams, in the order of [`Baseline::streams`].
    pub streams: Vec<StreamReport<'a>>,
}

/// What is said of one stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamReport<'a> {
    /// The stream.
    pub stream: Stream<'a>,
    /// What is said of it.
    pub state: DetectorState,
    /// What was found, while it is drifted.
    pub finding: Option<Finding>,
    /// The evidence for a change; the alarm is at [`DetectorPolicy::alarm`](selvedge_sketch::DetectorPolicy::alarm).
    pub evidence: LogEvidence,
}

impl DriftReport<'_> {
    /// The streams that drifted, those with the most evidence first.
    pub fn drifted(&self) -> Vec<StreamReport<'_>> {
        let is_drifted = |report: &&StreamReport<'_>| report.state == DetectorState::Drifted;
        let mut drifted: Vec<_> = self.streams.iter().filter(is_drifted).copied().collect();
        drifted.sort_by_key(|report| Reverse(report.evidence.raw()));
        drifted
    }
}

impl DriftMonitor {
    /// Nothing seen yet.
    pub fn new<'a>(basis: impl Into<Basis<'a>>) -> Self {
        let basis = basis.into();
        let policy = basis.baseline.policy();
        let detector = |_| Detector::new(policy).expect("there is room for the test of cycles");
        let detectors = basis.streams().map(detector).collect();
        Self { basis_id: basis.id(), detectors }
    }

    /// Takes the profile of the next window, and returns how many alarms are new.
    ///
    /// # Errors
    /// [`Error::Drift`] if the profile or the monitor is not of this basis; then nothing was taken.
    pub fn observe<'a>(
        &mut self,
        basis: impl Into<Basis<'a>>,
        profile: &GatewayProfile,
    ) -> Result<usize, Error> {
        let basis = basis.into();
        let baseline = basis.baseline;
        let cells = baseline.cells(profile).filter(|_| self.basis_id == basis.id());
        let cells = cells
            .ok_or(Error::Drift { profile: profile.spec_id(), baseline: baseline.spec_id() })?;
        let tables: Vec<&ScoreTable> = basis.streams().map(|(_, table)| table).collect();
        let policy = baseline.policy();
        for ((detector, table), cells) in self.detectors.iter_mut().zip(&tables).zip(cells) {
            detector.update(table, policy, &cells);
        }
        Ok(conclude_all(&mut self.detectors, &tables, policy))
    }

    /// What is said now.
    pub fn report<'a>(&self, basis: impl Into<Basis<'a>>) -> DriftReport<'a> {
        let basis = basis.into();
        let report = |((stream, _), detector): ((Stream<'a>, _), &Detector<1>)| StreamReport {
            stream,
            state: detector.state(),
            finding: detector.finding(),
            evidence: detector.evidence(),
        };
        let streams: Vec<_> = basis.streams().zip(&self.detectors).map(report).collect();
        let worst = streams.iter().map(|report| report.state).max_by_key(|state| *state as u8);
        let uncalibrated = basis.streams().any(|(_, table)| table.uncalibrated());
        DriftReport { state: worst.unwrap_or(DetectorState::Insufficient), uncalibrated, streams }
    }

    /// The evidence of the newest window over all streams: their mean, which e-BH over devices takes.
    pub fn newest_evidence(&self) -> LogEvidence {
        LogEvidence::mean(self.detectors.iter().map(Detector::newest_evidence))
    }

    /// The state as bytes, from which [`decode`](Self::decode) goes on.
    pub fn encode(&self) -> Vec<u8> {
        let form = Form { basis_id: self.basis_id.0, detectors: self.detectors.clone() };
        postcard::to_extend(&form, vec![VERSION]).expect("postcard encodes lists and numbers")
    }

    /// The state that was encoded; none if it is damaged, of another version, or of another basis.
    pub fn decode<'a>(bytes: &[u8], basis: impl Into<Basis<'a>>) -> Option<Self> {
        let basis = basis.into();
        let (version, body) = bytes.split_first()?;
        let form: Form = postcard::from_bytes(body).ok().filter(|_| *version == VERSION)?;
        let fits = form.basis_id == basis.id().0 && form.detectors.len() == basis.streams().count();
        fits.then(|| Self { basis_id: basis.id(), detectors: form.detectors })
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    basis_id: [u8; SpecId::BYTES],
    detectors: Vec<Detector<1>>,
}

#[cfg(test)]
pub(crate) mod tests {
    use selvedge_sketch::{Change, DetectorPolicy};

    use super::*;
    use crate::{Order, ReferenceAnswer, ReferenceData};

    const WINDOW: usize = 250;

    /// Normal values (the sum of twelve uniform ones, less six), the same in every run.
    pub(crate) struct Noise(pub u64);

    impl Noise {
        fn uniform(&mut self) -> f32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 40) as f32 / (1 << 24) as f32
        }

        pub(crate) fn normal(&mut self) -> f32 {
            (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
        }
    }

    pub(crate) fn baseline(order: Order) -> Baseline {
        let mut noise = Noise(7);
        let rows = 40 * WINDOW;
        let mut column =
            |name: &str| (name.to_owned(), (0..rows).map(|_| noise.normal()).collect());
        let features = [column("pressure"), column("flow")];
        let answers: Vec<ReferenceAnswer> = (0..rows)
            .map(|_| {
                let confidence = 0.5 + noise.uniform() / 2.0;
                let class = Some(u32::from(noise.uniform() > 0.7));
                let correct = Some(noise.uniform() < confidence);
                ReferenceAnswer { class, confidence: Some(confidence), correct }
            })
            .collect();
        let reference = ReferenceData {
            features: &features,
            answers: &answers,
            class_count: 2,
            order,
            ..ReferenceData::default()
        };
        Baseline::build(&reference).expect("the reference is sound")
    }

    pub(crate) fn profile(baseline: &Baseline, noise: &mut Noise, shift: f32) -> GatewayProfile {
        let mut profile = GatewayProfile::new(baseline.spec_id(), 2).expect("two features fit");
        let confidence = baseline.confidence().expect("answers have scores").spec.clone();
        for _ in 0..WINDOW {
            let values = [noise.normal() + shift, noise.normal()];
            for (index, (feature, value)) in baseline.features().iter().zip(values).enumerate() {
                profile.observe_f32(index, &feature.spec, value);
            }
            let class = u32::from(noise.uniform() > 0.7);
            profile.observe_class(class);
            let score = 0.5 + noise.uniform() / 2.0;
            profile.outputs_mut().observe_confidence(&confidence, Some(class), score);
            profile.count_sample();
        }
        profile
    }

    #[test]
    fn a_feature_that_drifts_is_named_and_the_others_are_not() {
        let baseline = baseline(Order::Time);
        let mut monitor = DriftMonitor::new(&baseline);
        let mut noise = Noise(11);
        for _ in 0..100 {
            let profile = profile(&baseline, &mut noise, 0.0);
            assert_eq!(monitor.observe(&baseline, &profile).expect("it was counted so"), 0);
        }
        let calm = monitor.report(&baseline);
        assert_eq!((calm.state, calm.uncalibrated), (DetectorState::Steady, false));
        assert_eq!(calm.streams.len(), 4);
        let mut windows = 0;
        while monitor.observe(&baseline, &profile(&baseline, &mut noise, 0.5)).expect("likewise")
            == 0
        {
            windows += 1;
            assert!(windows < 5, "half a deviation is found in a few windows");
        }
        let report = monitor.report(&baseline);
        assert_eq!(report.state, DetectorState::Drifted);
        let drifted = report.drifted();
        assert_eq!(drifted.len(), 1);
        assert_eq!(drifted[0].stream, Stream::Feature("pressure"));
        assert_eq!(drifted[0].finding.expect("it is drifted").change, Change::Rises);
    }

    #[test]
    fn a_state_that_was_kept_goes_on_as_if_there_had_been_no_break() {
        let baseline = baseline(Order::Time);
        let (mut whole, mut noise) = (DriftMonitor::new(&baseline), Noise(3));
        let mut broken = whole.clone();
        for _ in 0..12 {
            let profile = profile(&baseline, &mut noise, 0.1);
            whole.observe(&baseline, &profile).expect("it was counted so");
            broken = DriftMonitor::decode(&broken.encode(), &baseline).expect("it was kept");
            broken.observe(&baseline, &profile).expect("it was counted so");
        }
        assert_eq!(whole, broken);
        let bytes = whole.encode();
        for len in 0..bytes.len() {
            assert_eq!(DriftMonitor::decode(&bytes[..len], &baseline), None, "cut to {len} bytes");
        }
    }

    #[test]
    fn a_state_or_a_profile_of_another_baseline_is_not_taken() {
        let (ordered, unordered) = (baseline(Order::Time), baseline(Order::None));
        let mut monitor = DriftMonitor::new(&ordered);
        assert_eq!(DriftMonitor::decode(&monitor.encode(), &unordered), None);
        let foreign = profile(&unordered, &mut Noise(5), 0.0);
        let error = monitor.observe(&ordered, &foreign).expect_err("it was counted in other bins");
        assert!(error.to_string().contains(&ordered.spec_id().to_string()), "{error}");
        assert!(DriftMonitor::new(&unordered).report(&unordered).uncalibrated);
    }

    #[test]
    fn a_policy_is_kept_with_the_baseline() {
        let policy = DetectorPolicy::new(500, 100, 24, 5).expect("it is above the least");
        let features = [("a".to_owned(), vec![1.0, 2.0, 3.0])];
        let reference = ReferenceData { features: &features, policy, ..ReferenceData::default() };
        let baseline = Baseline::build(&reference).expect("the reference is sound");
        let read = Baseline::decode(&baseline.encode()).expect("our own");
        assert_eq!(*read.policy(), policy);
        DriftMonitor::new(&read);
    }
}
