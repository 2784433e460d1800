//! What is usual at a site, beside what was usual in the lab: the reference of one slot of one device.
//!
//! A site differs from the lab for good reasons, and then its windows are drifted for good. What was counted
//! there over a declared period, in the bins that are frozen with the bundle, makes a second reference: the sum
//! of the period's windows per stream, and score tables that are tempered by how much these windows vary in the
//! order of time. Bins, policy and profiles stay the bundle's.
//!
//! Nothing here is taken for a reference by itself: somebody declares the period, looks at what came of it and
//! names its digest.
//!
//! Encoded as one version byte and a postcard body; one site baseline has exactly one encoding, whose digest is
//! its identity.

use selvedge_sketch::{
    Calibration, DetectorPolicy, GatewayProfile, Measurement, ScoreTable, SpecId, VarianceInflation,
};
use selvedge_wire::{DeviceId, Digest, SlotName};
use serde::{Deserialize, Serialize};

use crate::{
    Baseline, Error, Stream, digest_of,
    limits::{FEATURES_MAX, SITE_BASELINE_BYTES_MAX, SITE_WINDOWS_MIN},
};

/// The version of the encoding.
const VERSION: u8 = 1;

/// The features, the classes and the confidence.
const STREAMS_MAX: usize = FEATURES_MAX + 2;

/// What is usual at a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteBaseline {
    digest: Digest,
    body: Body,
}

/// What is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    spec_id: [u8; SpecId::BYTES],
    record: SiteRecord,
    windows: u32,
    samples: u64,
    streams: Vec<SiteStream>,
}

/// Whose windows were taken, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// The device.
    pub device: DeviceId,
    /// Its slot.
    pub slot: SlotName,
    /// The bundle that saw the samples. Another one with the same baseline may be judged by them too.
    pub bundle: Digest,
    /// When the period began, in Unix milliseconds by the device's clock.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: u64,
}

/// What is usual in one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStream {
    /// All windows' counts, per cell.
    pub counts: Vec<u32>,
    /// How windows are judged.
    pub table: ScoreTable,
}

impl SiteBaseline {
    /// Sums up the windows of a period, which are in the order of time, and measures how much they vary. Windows
    /// with few samples are taken together, as a detector does.
    ///
    /// # Errors
    /// [`Error::Site`] if a stream has too few windows, which says how many are needed; [`Error::Drift`] if a
    /// window was not counted in the bins of this baseline.
    pub fn build(
        baseline: &Baseline,
        record: SiteRecord,
        windows: &[GatewayProfile],
    ) -> Result<Self, Error> {
        let foreign = |profile: &GatewayProfile| Error::Drift {
            profile: profile.spec_id(),
            baseline: baseline.spec_id(),
        };
        let cells = |profile| baseline.cells(profile).ok_or_else(|| foreign(profile));
        let cells: Vec<Vec<Vec<u32>>> = windows.iter().map(cells).collect::<Result<_, _>>()?;
        let build = |(index, (stream, _)): (usize, (Stream<'_>, _))| {
            let of_stream: Vec<&[u32]> = cells.iter().map(|streams| &streams[index][..]).collect();
            build_stream(stream, baseline.policy(), &of_stream)
        };
        let body = Body {
            spec_id: baseline.spec_id().0,
            record,
            windows: u32::try_from(windows.len()).unwrap_or(u32::MAX),
            samples: windows.iter().map(|window| u64::from(window.samples())).sum(),
            streams: baseline.streams().enumerate().map(build).collect::<Result<_, _>>()?,
        };
        check(&body).map_err(|reason| Error::Site { reason })?;
        let encoded = encode(&body);
        if encoded.len() > SITE_BASELINE_BYTES_MAX {
            let len = encoded.len();
            let reason = format!("it would have {len} bytes; {SITE_BASELINE_BYTES_MAX} fit");
            return Err(Error::Site { reason });
        }
        Ok(Self { digest: digest_of(&encoded), body })
    }

    /// Reads an encoded site baseline.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`] or [`Error::Unsupported`], which name the site baseline.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let part = || "the site baseline".to_owned();
        let malformed = |reason: &str| Error::Malformed { part: part(), reason: reason.to_owned() };
        if bytes.len() > SITE_BASELINE_BYTES_MAX {
            let (len_bytes, max_bytes) = (bytes.len() as u64, SITE_BASELINE_BYTES_MAX as u64);
            return Err(Error::TooLarge { part: part(), len_bytes, max_bytes });
        }
        let (&version, encoded) = bytes.split_first().ok_or_else(|| malformed("it is empty"))?;
        if version != VERSION {
            let reason = format!("its version is {version}, this build reads {VERSION}");
            return Err(Error::Unsupported { part: part(), reason });
        }
        let body: Body =
            postcard::from_bytes(encoded).map_err(|_| malformed("its body is cut or garbled"))?;
        check(&body).map_err(|reason| malformed(&reason))?;
        if encode(&body) != bytes {
            return Err(malformed("it is not in the one encoding that a site baseline has"));
        }
        Ok(Self { digest: digest_of(bytes), body })
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.body)
    }

    /// Its identity: the digest of the encoding.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The baseline in whose bins its windows were counted.
    pub fn spec_id(&self) -> SpecId {
        SpecId(self.body.spec_id)
    }

    /// Whose windows were taken, and of when.
    pub fn record(&self) -> &SiteRecord {
        &self.body.record
    }

    /// How many windows were taken.
    pub fn windows(&self) -> u32 {
        self.body.windows
    }

    /// How many samples they had.
    pub fn samples(&self) -> u64 {
        self.body.samples
    }

    /// What is usual in each stream, in the order of [`Baseline::streams`].
    pub fn streams(&self) -> &[SiteStream] {
        &self.body.streams
    }

    /// Whether one of the tables was made without knowing how much windows vary.
    pub fn uncalibrated(&self) -> bool {
        self.streams().iter().any(|stream| stream.table.uncalibrated())
    }

    /// Whether windows in the bins of `baseline` can be judged by it.
    ///
    /// # Errors
    /// [`Error::Drift`], which names both.
    pub fn check_fits(&self, baseline: &Baseline) -> Result<(), Error> {
        let cells = self.streams().iter().map(|stream| stream.table.cell_count());
        let fits = self.spec_id() == baseline.spec_id()
            && cells.eq(baseline.streams().map(|(_, table)| table.cell_count()));
        let both = Error::Drift { profile: self.spec_id(), baseline: baseline.spec_id() };
        if fits { Ok(()) } else { Err(both) }
    }
}

fn build_stream(
    stream: Stream<'_>,
    policy: &DetectorPolicy,
    windows: &[&[u32]],
) -> Result<SiteStream, Error> {
    let tested = tested_windows(windows, policy.samples_min());
    if tested.len() < SITE_WINDOWS_MIN {
        let (count, least, known) = (tested.len(), policy.samples_min(), Calibration::WINDOWS_MIN);
        return Err(Error::Site {
            reason: format!(
                "{} has {count} windows of at least {least} samples in this period; \
                 {SITE_WINDOWS_MIN} are needed, and {known} to be calibrated",
                name_of(stream)
            ),
        });
    }
    let mut counts = vec![0_u32; windows[0].len()];
    windows.iter().for_each(|cells| add(&mut counts, cells));
    let measurement = match stream {
        Stream::Classes => Measurement::Nominal,
        Stream::Feature(_) | Stream::Confidence => Measurement::Ordinal,
    };
    let table = || {
        let cycle_windows = policy.cycle_windows().unwrap_or(0);
        let mut inflation = VarianceInflation::new(measurement, &counts, cycle_windows)?;
        tested.iter().for_each(|cells| inflation.observe(cells));
        ScoreTable::build(measurement, &counts, &inflation.calibration())
    };
    let table = table().expect("a stream has the cells of its baseline, and samples in them");
    Ok(SiteStream { counts, table })
}

/// Windows as a detector tests them: those with too few samples are taken together with the next.
fn tested_windows(windows: &[&[u32]], samples_min: u16) -> Vec<Vec<u32>> {
    let mut tested = Vec::new();
    let mut waiting: Vec<u32> = Vec::new();
    for cells in windows {
        waiting.resize(cells.len(), 0);
        add(&mut waiting, cells);
        if total(&waiting) >= u64::from(samples_min) {
            tested.push(std::mem::take(&mut waiting));
        }
    }
    tested
}

fn add(sums: &mut [u32], counts: &[u32]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

fn name_of(stream: Stream<'_>) -> String {
    match stream {
        Stream::Feature(name) => format!("the feature {name:?}"),
        Stream::Classes => "the class of the answers".to_owned(),
        Stream::Confidence => "the confidence of the answers".to_owned(),
    }
}

fn check(body: &Body) -> Result<(), String> {
    let Body { record, windows, streams, .. } = body;
    if record.from_ms >= record.to_ms {
        return Err("its period ends before it begins".to_owned());
    }
    if *windows == 0 || streams.is_empty() || streams.len() > STREAMS_MAX {
        return Err("it has no windows, no streams or too many".to_owned());
    }
    let is_sound = |stream: &SiteStream| {
        stream.counts.len() == stream.table.cell_count() && total(&stream.counts) > 0
    };
    match streams.iter().all(is_sound) {
        true => Ok(()),
        false => Err("the counts of a stream do not fit its scores".to_owned()),
    }
}

fn encode(body: &Body) -> Vec<u8> {
    postcard::to_extend(body, vec![VERSION]).expect("postcard encodes lists, text and numbers")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use selvedge_sketch::{Change, DetectorState};

    use super::*;
    use crate::{
        Basis, DriftMonitor, Order, ReferenceAnswer, ReferenceData,
        drift::tests::{Noise, baseline, profile},
    };

    fn record() -> SiteRecord {
        SiteRecord {
            device: "line-1".parse().expect("the name is well formed"),
            slot: "main".parse().expect("the name is well formed"),
            bundle: Digest([7; 32]),
            from_ms: 1000,
            to_ms: 2000,
        }
    }

    fn windows(
        baseline: &Baseline,
        noise: &mut Noise,
        count: usize,
        shift: f32,
    ) -> Vec<GatewayProfile> {
        (0..count).map(|_| profile(baseline, noise, shift)).collect()
    }

    #[test]
    fn what_is_drifted_in_the_lab_s_eyes_is_steady_in_the_site_s_until_a_fault_comes() {
        let baseline = baseline(Order::Time);
        let mut noise = Noise(11);
        let period = windows(&baseline, &mut noise, 60, 1.0);
        let site = SiteBaseline::build(&baseline, record(), &period).expect("there are enough");
        assert_eq!((site.windows(), site.uncalibrated()), (60, false));
        let basis = Basis::of_site(&baseline, &site).expect("the bins are the same");
        let (mut lab, mut own) = (DriftMonitor::new(&baseline), DriftMonitor::new(basis));
        for window in windows(&baseline, &mut noise, 100, 1.0) {
            lab.observe(&baseline, &window).expect("it was counted so");
            assert_eq!(own.observe(basis, &window).expect("it was counted so"), 0);
        }
        assert_eq!(lab.report(&baseline).state, DetectorState::Drifted);
        assert_eq!(own.report(basis).state, DetectorState::Steady);
        // The lab cannot say more than it says; the site can.
        let fault = windows(&baseline, &mut noise, 4, 0.4);
        let alarms = fault.iter().map(|window| own.observe(basis, window).expect("likewise"));
        assert!(alarms.sum::<usize>() > 0, "{:?}", own.report(basis));
        let report = own.report(basis);
        let found = report.drifted();
        assert_eq!(found[0].stream, Stream::Feature("pressure"));
        assert_eq!(found[0].finding.expect("it is drifted").change, Change::Falls);
    }

    #[test]
    fn a_period_that_is_too_short_is_refused_with_what_is_needed() {
        let baseline = baseline(Order::Time);
        let period = windows(&baseline, &mut Noise(3), 29, 0.0);
        let build = |windows| SiteBaseline::build(&baseline, record(), windows);
        for count in [0, 7] {
            let error = build(&period[..count]).expect_err("too few").to_string();
            let expected = format!(
                "no site baseline: the feature \"pressure\" has {count} windows of at least 250 samples \
                 in this period; 8 are needed, and 30 to be calibrated"
            );
            assert_eq!(error, expected);
        }
        assert!(build(&period[..8]).expect("enough").uncalibrated());
        assert!(build(&period).expect("enough").uncalibrated(), "30 are calibrated");
    }

    #[test]
    fn small_windows_count_together() {
        let whole = [&[3_u32, 4, 0][..], &[1, 0, 0], &[2, 2, 0], &[0, 1, 1]];
        assert_eq!(tested_windows(&whole, 8), [vec![4, 4, 0]]);
        assert_eq!(tested_windows(&whole, 5), [vec![3, 4, 0], vec![3, 2, 0]]);
    }

    #[test]
    fn a_site_baseline_reads_back_and_no_cut_of_it_does() {
        let baseline = baseline(Order::Time);
        let period = windows(&baseline, &mut Noise(3), 9, 0.0);
        let site = SiteBaseline::build(&baseline, record(), &period).expect("there are enough");
        let bytes = site.encode();
        let read = SiteBaseline::decode(&bytes).expect("our own");
        assert_eq!((&read, read.digest()), (&site, digest_of(&bytes)));
        for len in (0..bytes.len()).step_by(7) {
            assert!(SiteBaseline::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
        assert!(SiteBaseline::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        let error = SiteBaseline::decode(&newer).expect_err("of tomorrow").to_string();
        assert!(error.contains("version is 2"), "{error}");
        let again = SiteBaseline::build(&baseline, record(), &period).expect("there are enough");
        assert_eq!(again.encode(), bytes, "the same windows give the same bytes");
    }

    #[test]
    fn windows_and_monitors_of_other_bins_are_not_taken() {
        let (ordered, unordered) = (baseline(Order::Time), baseline(Order::None));
        let period = windows(&ordered, &mut Noise(3), 9, 0.0);
        let site = SiteBaseline::build(&ordered, record(), &period).expect("there are enough");
        let foreign = SiteBaseline::build(&unordered, record(), &period);
        assert!(matches!(foreign, Err(Error::Drift { .. })));
        assert!(matches!(Basis::of_site(&unordered, &site), Err(Error::Drift { .. })));
        let basis = Basis::of_site(&ordered, &site).expect("the bins are the same");
        let state = DriftMonitor::new(&ordered).encode();
        assert_eq!(DriftMonitor::decode(&state, basis), None, "the lab's state is not the site's");
        let state = DriftMonitor::new(basis).encode();
        assert!(DriftMonitor::decode(&state, basis).is_some());
    }

    #[test]
    fn the_largest_site_baseline_fits_into_one_message() {
        let rows = 4000;
        let mut noise = Noise(5);
        let mut column = |index: usize| {
            (format!("f{index}"), (0..rows).map(|_| noise.normal()).collect::<Vec<f32>>())
        };
        let features: Vec<_> = (0..FEATURES_MAX).map(&mut column).collect();
        let answers: Vec<ReferenceAnswer> = (0..rows as u32)
            .map(|row| ReferenceAnswer {
                class: Some(row % 16),
                confidence: Some(row as f32 / rows as f32),
                correct: None,
            })
            .collect();
        let reference = ReferenceData {
            features: &features,
            answers: &answers,
            class_count: 16,
            ..ReferenceData::default()
        };
        let baseline = Baseline::build(&reference).expect("the reference is sound");
        let confidence = baseline.confidence().expect("answers have scores").spec.clone();
        let mut period = Vec::new();
        for window in 0..12 {
            let profile = GatewayProfile::new(baseline.spec_id(), FEATURES_MAX);
            let mut profile = profile.expect("as many features as fit");
            for (row, answer) in answers.iter().enumerate().skip(window * 300).take(300) {
                for (index, feature) in baseline.features().iter().enumerate() {
                    profile.observe_f32(index, &feature.spec, features[index].1[row]);
                }
                profile.observe_class(answer.class.expect("each has one"));
                let score = answer.confidence.expect("each has one");
                profile.outputs_mut().observe_confidence(&confidence, answer.class, score);
                profile.count_sample();
            }
            period.push(profile);
        }
        let site = SiteBaseline::build(&baseline, record(), &period).expect("there are enough");
        let len = site.encode().len();
        // Counts may take five bytes each instead of two.
        let longest = len + 3 * 19 * STREAMS_MAX;
        assert!(longest <= SITE_BASELINE_BYTES_MAX, "{len} bytes, {longest} at most");
    }

    /// A window of 250 values that follow each other with correlation `rho`, higher by one deviation.
    fn correlated(
        baseline: &Baseline,
        noise: &mut Noise,
        last: &mut f32,
        rho: f32,
    ) -> GatewayProfile {
        let mut profile = GatewayProfile::new(baseline.spec_id(), 1).expect("one feature fits");
        for _ in 0..250 {
            *last = rho * *last + (1.0 - rho * rho).sqrt() * noise.normal();
            profile.observe_f32(0, &baseline.features()[0].spec, *last + 1.0);
            profile.count_sample();
        }
        profile
    }

    #[test]
    #[ignore = "a measurement"]
    fn how_often_a_site_is_wrong() {
        let mut noise = Noise(17);
        let values: Vec<f32> = (0..20_000).map(|_| noise.normal()).collect();
        let features = [("a".to_owned(), values)];
        let reference = ReferenceData { features: &features, ..ReferenceData::default() };
        let baseline = Baseline::build(&reference).expect("the reference is sound");
        for (rho, recorded) in [(0.0, 8), (0.0, 30), (0.0, 200), (0.9, 8), (0.9, 30), (0.9, 200)] {
            let (mut alarms, mut len, mut eta) = (0, 0, 0.0);
            for _ in 0..40 {
                let mut last = 0.0;
                let mut next = || correlated(&baseline, &mut noise, &mut last, rho);
                let period: Vec<_> = (0..recorded).map(|_| next()).collect();
                let site = SiteBaseline::build(&baseline, record(), &period).expect("enough");
                (len, eta) = (site.encode().len(), eta + site.streams()[0].table.eta() / 40.0);
                let basis = Basis::of_site(&baseline, &site).expect("the bins are the same");
                let mut monitor = DriftMonitor::new(basis);
                for _ in 0..500 {
                    alarms += monitor.observe(basis, &next()).expect("it was counted so");
                }
            }
            let rate = alarms as f32 / 2.0;
            println!("rho {rho}, {recorded} windows: {rate} in 10,000; eta {eta:.2}, {len} bytes");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = SiteBaseline::decode(&[&[VERSION], &body[..]].concat());
        }
    }
}
