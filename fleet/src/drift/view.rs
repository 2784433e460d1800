//! What people and programs see of drift: the answer of the API, and what pages show.

use serde::Serialize;
use utoipa::ToSchema;

use selvedge_bundle::{Baseline, Order, Stream};
use selvedge_sketch::{
    BinCounts, BinSpec, BinningError, Change, DetectorState, Estimate, GatewayProfile, Measures,
    Statistic, Values, atc, cbpe, f32_from_key,
};
use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{
    Judgement, Merged, MultivariateView, Mute, OriginVerdict, Reference, Sites, StateChange,
    StreamVerdict, Verdict,
    mute::{Alarm, are_all_muted, mute_of},
};

/// A bundle, as far as drift is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its identity.
    pub bundle: Digest,
    /// Its name.
    pub name: &'a str,
    /// Its semantic version.
    pub version: &'a str,
    /// The names of its classes, where it has some.
    pub labels: &'a [String],
    /// Its reference.
    pub baseline: &'a Baseline,
    /// What is usual at the sites of its origins.
    pub sites: &'a Sites,
    /// The alarms that somebody knows of.
    pub mutes: &'a [Mute],
}

/// What a bundle sees and says now, against its reference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DriftView {
    /// The bundle.
    #[schema(value_type = String)]
    pub bundle: Digest,
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// Names the bins that are counted in.
    pub spec: String,
    /// The reference.
    pub baseline: BaselineView,
    /// When the detectors speak.
    pub policy: PolicyView,
    /// When the earliest window opened that is compared, in Unix milliseconds by the devices' clocks.
    pub from_ms: u64,
    /// When the latest one closed.
    pub to_ms: u64,
    /// Profiles that are compared.
    pub profiles: u64,
    /// Windows that these stand for.
    pub windows: u64,
    /// Profiles that cannot be read, or that were counted in other bins: they are left out.
    pub unreadable: u64,
    /// Samples in these windows.
    pub samples: u32,
    /// Those of them without an answer.
    pub failed: u32,
    /// A counter stands at 4,294,967,295 for a higher number.
    pub saturated: bool,
    /// There are older profiles that were not read: the states begin later than the history.
    pub history_cut: bool,
    /// What is said of the sum over all origins.
    pub cohort: VerdictView,
    /// How long a step of the cohort is, in milliseconds.
    pub step_ms: u64,
    /// The streams: features in their order, classes, confidence.
    pub streams: Vec<StreamView>,
    /// How accurate the answers may be, without labels; none if the reference cannot say.
    pub accuracy: Option<AccuracyView>,
    /// The origins that e-BH names among all.
    pub culprits: Vec<OriginView>,
    /// What is said of each origin by itself.
    pub origins: Vec<OriginView>,
    /// How far embeddings are from the reference, all components taken together; none if none is declared. It is for
    /// people to read, and no state follows from it.
    pub multivariate: Option<MultivariateView>,
}

/// The reference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BaselineView {
    /// How many samples it has.
    pub rows: u64,
    /// `time`, or `none`: then how much windows vary was guessed.
    pub order: &'static str,
    /// The share of right answers on it, where it has labels.
    pub accuracy: Option<f64>,
}

/// When the detectors speak.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// On average there are at least so many windows between false alarms.
    pub alarm_windows: u32,
    /// The evidence at which there is an alarm, in nats.
    pub alarm_nats: f32,
    /// The fewest samples of a window that is tested.
    pub samples_min: u16,
    /// The windows of a rhythm, where one is declared.
    pub cycle_windows: Option<u16>,
}

/// What one monitor says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VerdictView {
    /// `insufficient`, `steady`, `suspect` or `drifted`: the worst of its streams.
    pub state: &'static str,
    /// How much windows vary was not measured on the reference: it was guessed.
    pub uncalibrated: bool,
    /// The windows that were judged.
    pub windows: u64,
    /// The streams that drifted, the one with the most evidence first.
    pub drifted: Vec<FindingView>,
    /// All of these are muted: it is drifted, and no alarm to be counted.
    pub muted: bool,
    /// The states in the order of time.
    pub changes: Vec<StateChangeView>,
}

/// A stream that drifted.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FindingView {
    /// A feature by name, or `class` or `confidence` of the answers.
    pub stream: String,
    /// How it changed.
    pub change: String,
    /// Whether whole cycles showed it, not single windows.
    pub in_cycles: bool,
    /// When the change most likely began, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// The evidence for it, in nats. While a drift is known, no more is kept than the state needs.
    pub evidence_nats: f32,
    /// The mute that covers it, until that ends.
    pub mute: Option<Mute>,
}

/// From when on a state held.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct StateChangeView {
    /// When the window closed that led to it, in Unix milliseconds.
    pub at_ms: u64,
    /// The state.
    pub state: &'static str,
}

/// What is said of one origin by itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OriginView {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// Its slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// Whether e-BH names it among all origins.
    pub culprit: bool,
    /// The evidence that e-BH compares: the mean over its streams, in nats; none before the first test.
    pub evidence_nats: Option<f32>,
    /// The stream with the most evidence.
    pub leading_stream: Option<String>,
    /// When its newest window closed, in Unix milliseconds by the device's clock.
    pub newest_ms: u64,
    /// What its own monitor says.
    pub verdict: VerdictView,
    /// The same against its site, where a site baseline is approved.
    pub site: Option<SiteVerdictView>,
}

/// What is said of an origin against its site.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteVerdictView {
    /// The site baseline.
    #[schema(value_type = String)]
    pub baseline: Digest,
    /// What is said of the windows that closed after its period.
    pub verdict: VerdictView,
}

/// What a stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// A feature of the samples.
    Feature,
    /// The classes of the answers.
    Class,
    /// How sure the answers are.
    Confidence,
}

/// One stream now, against the reference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamView {
    /// A feature by name, or `class` or `confidence` of the answers.
    pub name: String,
    /// What it is of.
    pub kind: StreamKind,
    /// What is said of it in the cohort.
    pub state: &'static str,
    /// How much its windows vary was guessed.
    pub uncalibrated: bool,
    /// The evidence for a change in the cohort, in nats; none before the first test. While a drift is known, no
    /// more is kept than the state needs.
    pub evidence_nats: Option<f32>,
    /// What was found, while it is drifted.
    pub finding: Option<FindingView>,
    /// The counts, from low to high.
    pub cells: Vec<CellView>,
    /// All counts of the reference.
    pub reference_total: u64,
    /// All counts now.
    pub now_total: u64,
    /// How far they are from each other; none if there are too few.
    pub statistics: Option<StatisticsView>,
    /// Mean and variance, where values have some.
    pub moments: Option<MomentsView>,
    /// The same stream against the site; none for several origins, and without a site baseline.
    pub site: Option<StreamAtSiteView>,
}

/// A stream against the site.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamAtSiteView {
    /// What is said of it.
    pub state: &'static str,
    /// How much its windows vary was guessed.
    pub uncalibrated: bool,
    /// The evidence for a change, in nats; none before the first test.
    pub evidence_nats: Option<f32>,
    /// What was found, while it is drifted.
    pub finding: Option<FindingView>,
    /// How many were counted in each cell while the site baseline was recorded.
    pub cells: Vec<u32>,
    /// Their shares.
    pub shares: Vec<f64>,
}

/// What falls into a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CellKind {
    /// Values below all of the reference.
    Below,
    /// Values from `low` on, below `high`.
    Bin,
    /// Values above all of the reference.
    Above,
    /// Infinities, and what is not a number.
    NotFinite,
    /// A class, or several.
    Class,
}

/// One cell of a histogram.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CellView {
    /// What falls into it.
    pub kind: CellKind,
    /// Where it begins, if it has a lower end.
    pub low: Option<f64>,
    /// Where it ends, if it has an upper end. The last bin includes it.
    pub high: Option<f64>,
    /// The class, or how many classes.
    pub label: Option<String>,
    /// How many of the reference are in it.
    pub reference: u32,
    /// Their share.
    pub reference_share: f64,
    /// How many are in it now.
    pub now: u32,
    /// Their share.
    pub now_share: f64,
}

/// How far the counts are from those of the reference. For people to read: what has drifted, the state says.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct StatisticsView {
    /// Cells that were compared, after those with few samples were merged with their neighbours.
    pub cells: usize,
    /// The population stability index.
    pub psi: StatisticView,
    /// What chance alone gives it on average.
    pub psi_expected: f64,
    /// The Jensen–Shannon divergence, in nats.
    pub jensen_shannon: StatisticView,
    /// The Hellinger distance.
    pub hellinger: StatisticView,
    /// The Kolmogorov–Smirnov distance; none for classes.
    pub kolmogorov_smirnov: Option<StatisticView>,
    /// The Wasserstein-1 distance in the feature's unit; none where it is not known.
    pub wasserstein: Option<StatisticView>,
    /// The Kullback–Leibler divergence from the reference, in nats.
    pub kullback_leibler: StatisticView,
    /// Pearson's X².
    pub chi_square: StatisticView,
    /// The probability that chance alone gives a larger X².
    pub chi_square_p: f64,
}

/// A measure of distance.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct StatisticView {
    /// The distance between the cells.
    pub value: f64,
    /// What chance alone exceeds once in a thousand windows, where a law for it is known.
    pub critical: Option<f64>,
    /// What the bins hide: `at-least` (between the values it is no smaller), `higher-by-at-most` or
    /// `off-by-at-most`.
    pub binning: &'static str,
    /// By how much, where that is known.
    pub binning_error: Option<f64>,
}

/// Mean and variance in the feature's unit. Values beyond the reference count as its end.
///
/// Of the reference bins alone are kept. To compare like with like, both sides are also given as if all values
/// of a bin were in its middle: that spreads them more than they are.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct MomentsView {
    /// The mean now, exact but for rounding to the spec's unit; none if there is no value.
    pub mean: Option<f64>,
    /// The variance now, likewise.
    pub variance: Option<f64>,
    /// The mean of the bins now.
    pub binned_mean: Option<f64>,
    /// The variance of the bins now.
    pub binned_variance: Option<f64>,
    /// The mean of the reference's bins.
    pub reference_binned_mean: Option<f64>,
    /// Their variance.
    pub reference_binned_variance: Option<f64>,
}

/// How accurate the answers may be, estimated without labels.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct AccuracyView {
    /// The share of right answers on the reference.
    pub reference: Option<f64>,
    /// Confidence-based performance estimation.
    pub cbpe: EstimateView,
    /// Average thresholded confidence.
    pub atc: EstimateView,
    /// Inputs have drifted, so a confidence may mean something else now: do not trust the estimates.
    pub extrapolating: bool,
}

/// An accuracy that was estimated.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct EstimateView {
    /// The share of right answers.
    pub accuracy: f64,
    /// One standard error.
    pub standard_error: f64,
}

impl DriftView {
    /// Puts together what was merged and judged.
    pub fn new(
        subject: &Subject<'_>,
        merged: &Merged,
        judgement: &Judgement,
        multivariate: Option<MultivariateView>,
        history_cut: bool,
    ) -> Self {
        let (baseline, profile) = (subject.baseline, &merged.profile);
        let policy = baseline.policy();
        let origin = |origin: &OriginVerdict| origin_view(subject, origin);
        let origins: Vec<OriginView> = judgement.origins.iter().map(origin).collect();
        let verdicts = judgement.origins.iter().map(|origin| &origin.verdict);
        let inputs_drifted =
            verdicts.chain([&judgement.cohort]).any(|verdict| inputs_drifted(baseline, verdict));
        let (from_ms, to_ms) = merged.range_ms.unwrap_or_default();
        Self {
            bundle: subject.bundle,
            name: subject.name.to_owned(),
            version: subject.version.to_owned(),
            spec: baseline.spec_id().to_string(),
            baseline: BaselineView {
                rows: baseline.rows(),
                order: match baseline.order() {
                    Order::Time => "time",
                    Order::None => "none",
                },
                accuracy: baseline.accuracy().map(|accuracy| accuracy.share()),
            },
            policy: PolicyView {
                alarm_windows: policy.alarm_windows(),
                alarm_nats: policy.alarm().nats(),
                samples_min: policy.samples_min(),
                cycle_windows: policy.cycle_windows(),
            },
            from_ms,
            to_ms,
            profiles: merged.profiles,
            windows: merged.windows,
            unreadable: merged.unreadable,
            samples: profile.samples(),
            failed: profile.failed(),
            saturated: profile.saturated(),
            history_cut,
            cohort: verdict_view(
                subject,
                &judgement.cohort,
                &about(subject, judgement, Reference::Lab),
            ),
            step_ms: judgement.step_ms,
            streams: stream_views(subject, profile, judgement),
            accuracy: accuracy_view(baseline, profile, inputs_drifted),
            culprits: origins.iter().filter(|origin| origin.culprit).cloned().collect(),
            origins,
            multivariate,
        }
    }
}

/// The state's name.
pub const fn state_name(state: DetectorState) -> &'static str {
    match state {
        DetectorState::Insufficient => "insufficient",
        DetectorState::Steady => "steady",
        DetectorState::Suspect => "suspect",
        DetectorState::Drifted => "drifted",
    }
}

/// What a stream is called, where its kind is not said.
pub fn stream_name(stream: Stream<'_>) -> &str {
    match stream {
        Stream::Feature(name) => name,
        Stream::Classes => "class",
        Stream::Confidence => "confidence",
    }
}

fn inputs_drifted(baseline: &Baseline, verdict: &Verdict) -> bool {
    let is_input = |stream: Stream<'_>| matches!(stream, Stream::Feature(_));
    let mut streams = baseline.streams().zip(&verdict.streams);
    streams.any(|((stream, _), said)| is_input(stream) && said.state == DetectorState::Drifted)
}

fn origin_view(subject: &Subject<'_>, origin: &OriginVerdict) -> OriginView {
    let streams = subject.baseline.streams().zip(&origin.verdict.streams);
    let leading = streams.max_by_key(|(_, said)| said.evidence.raw());
    let leading = leading.filter(|(_, said)| evidence_nats(said.evidence).is_some());
    OriginView {
        device: origin.origin.device.clone(),
        slot: origin.origin.slot.clone(),
        culprit: origin.culprit,
        evidence_nats: evidence_nats(origin.evidence),
        leading_stream: leading.map(|((stream, _), _)| stream_name(stream).to_owned()),
        newest_ms: origin.newest_ms,
        verdict: verdict_view(subject, &origin.verdict, &alarm_of(subject, origin, Reference::Lab)),
        site: origin.site.as_ref().map(|site| SiteVerdictView {
            baseline: site.baseline,
            verdict: verdict_view(
                subject,
                &site.verdict,
                &alarm_of(subject, origin, Reference::Site),
            ),
        }),
    }
}

/// An alarm of an origin, of which the stream is not said yet.
fn alarm_of<'a>(
    subject: &Subject<'_>,
    origin: &'a OriginVerdict,
    reference: Reference,
) -> Alarm<'a> {
    let (device, slot) = (Some(&origin.origin.device), Some(&origin.origin.slot));
    Alarm { bundle: subject.bundle, device, slot, stream: "", reference, since_ms: None }
}

/// An alarm of the cohort: one of a single origin is that origin's.
fn about<'a>(subject: &Subject<'_>, judgement: &'a Judgement, reference: Reference) -> Alarm<'a> {
    match &judgement.origins[..] {
        [only] => alarm_of(subject, only, reference),
        _ => Alarm {
            bundle: subject.bundle,
            device: None,
            slot: None,
            stream: "",
            reference,
            since_ms: None,
        },
    }
}

fn evidence_nats(evidence: selvedge_sketch::LogEvidence) -> Option<f32> {
    (evidence != selvedge_sketch::LogEvidence::NONE).then(|| evidence.nats())
}

fn verdict_view(subject: &Subject<'_>, verdict: &Verdict, about: &Alarm<'_>) -> VerdictView {
    let streams = subject.baseline.streams().zip(&verdict.streams);
    let mut drifted: Vec<FindingView> = streams
        .filter_map(|((stream, _), said)| finding_view(subject, stream, said, about))
        .collect();
    drifted.sort_by(|a, b| b.evidence_nats.total_cmp(&a.evidence_nats));
    let change = |change: &StateChange| StateChangeView {
        at_ms: change.at_ms,
        state: state_name(change.state),
    };
    VerdictView {
        state: state_name(verdict.state),
        uncalibrated: verdict.uncalibrated,
        windows: verdict.windows,
        muted: are_all_muted(drifted.iter().map(|finding| finding.mute.is_some())),
        drifted,
        changes: verdict.changes.iter().map(change).collect(),
    }
}

fn finding_view(
    subject: &Subject<'_>,
    stream: Stream<'_>,
    said: &StreamVerdict,
    about: &Alarm<'_>,
) -> Option<FindingView> {
    let finding = said.finding?;
    let alarm = Alarm { stream: stream_name(stream), since_ms: said.since_ms, ..*about };
    Some(FindingView {
        stream: stream_name(stream).to_owned(),
        change: change_name(subject, finding.change),
        in_cycles: finding.in_cycles,
        since_ms: said.since_ms,
        evidence_nats: said.evidence.nats(),
        mute: mute_of(subject.mutes, &alarm),
    })
}

fn change_name(subject: &Subject<'_>, change: Change) -> String {
    match change {
        Change::Rises => "rises".into(),
        Change::Falls => "falls".into(),
        Change::Widens => "widens".into(),
        Change::Narrows => "narrows".into(),
        Change::Splits => "splits".into(),
        Change::UpperEnd => "upper end".into(),
        Change::LowerEnd => "lower end".into(),
        Change::Shape => "shape".into(),
        Change::Class(cell) => format!("more {}", class_label(subject, cell)),
    }
}

/// The class of a cell, or how many classes share it.
fn class_label(subject: &Subject<'_>, cell: u8) -> String {
    let Some(classes) = subject.baseline.classes() else { return cell.to_string() };
    let of_cell = |(_, other): &(usize, &u8)| **other == cell;
    let mut members = classes.cells.iter().enumerate().filter(of_cell).map(|(class, _)| class);
    match (members.next(), members.count()) {
        (Some(class), 0) => subject.labels.get(class).cloned().unwrap_or_else(|| class.to_string()),
        (_, more) => format!("{} other classes", more + 1),
    }
}

fn stream_views(
    subject: &Subject<'_>,
    profile: &GatewayProfile,
    judgement: &Judgement,
) -> Vec<StreamView> {
    let (baseline, verdict) = (subject.baseline, &judgement.cohort);
    let about = |reference| about(subject, judgement, reference);
    let cells = baseline.cells(profile).expect("what is merged was counted in the baseline's bins");
    let streams = baseline.streams().zip(cells).zip(&verdict.streams).enumerate();
    streams
        .map(|(index, (((stream, table), now), said))| {
            let (kind, reference, cells, moments) =
                stream_content(subject, profile, stream, index, &now);
            let edges = finite_edges(&cells);
            let measures = Measures::of(&reference, &now, edges.as_deref());
            StreamView {
                name: stream_name(stream).to_owned(),
                kind,
                state: state_name(said.state),
                uncalibrated: table.uncalibrated(),
                evidence_nats: evidence_nats(said.evidence),
                finding: finding_view(subject, stream, said, &about(Reference::Lab)),
                reference_total: total(&reference),
                now_total: total(&now),
                statistics: measures.map(|measures| statistics_view(&measures, kind)),
                moments,
                cells,
                site: stream_at_site(subject, judgement, (index, stream), &about(Reference::Site)),
            }
        })
        .collect()
}

/// A stream of the only origin, with its place among all streams, against its site.
fn stream_at_site(
    subject: &Subject<'_>,
    judgement: &Judgement,
    (index, stream): (usize, Stream<'_>),
    about: &Alarm<'_>,
) -> Option<StreamAtSiteView> {
    let [only] = &judgement.origins[..] else { return None };
    let said = only.site.as_ref()?.verdict.streams.get(index)?;
    let usual = subject.sites.get(&only.origin)?.streams().get(index)?;
    let all = total(&usual.counts).max(1) as f64;
    Some(StreamAtSiteView {
        state: state_name(said.state),
        uncalibrated: usual.table.uncalibrated(),
        evidence_nats: evidence_nats(said.evidence),
        finding: finding_view(subject, stream, said, about),
        cells: usual.counts.clone(),
        shares: usual.counts.iter().map(|&count| f64::from(count) / all).collect(),
    })
}

/// The kind of a stream, its reference per cell, both sides cell by cell, and its moments. `index` is its place
/// among all streams: features come first.
fn stream_content(
    subject: &Subject<'_>,
    profile: &GatewayProfile,
    stream: Stream<'_>,
    index: usize,
    now: &[u32],
) -> (StreamKind, Vec<u32>, Vec<CellView>, Option<MomentsView>) {
    let baseline = subject.baseline;
    match stream {
        Stream::Feature(_) => {
            let feature = &baseline.features()[index];
            let reference = feature.counts.cells();
            let cells = value_cells(&feature.spec, &reference, now);
            let moments = moments_view(&feature.spec, &profile.features()[index], &cells);
            (StreamKind::Feature, reference, cells, Some(moments))
        }
        Stream::Classes => {
            let classes = baseline.classes().expect("a stream of classes has a reference");
            let mut reference = vec![0_u32; now.len()];
            for (cell, count) in classes.cells.iter().zip(&classes.counts) {
                let sum = &mut reference[usize::from(*cell)];
                *sum = sum.saturating_add(*count);
            }
            let cells = class_cells(subject, &reference, now);
            (StreamKind::Class, reference, cells, None)
        }
        Stream::Confidence => {
            let confidence = baseline.confidence().expect("a stream of confidence has a reference");
            let reference = [&[0], &confidence.counts[..], &[0, 0]].concat();
            let spec = confidence.spec.bins();
            let cells = value_cells(spec, &reference, now);
            let moments = moments_view(spec, profile.outputs().confidence(), &cells);
            (StreamKind::Confidence, reference, cells, Some(moments))
        }
    }
}

/// \[below, bins, above, not finite\].
fn value_cells(spec: &BinSpec, reference: &[u32], now: &[u32]) -> Vec<CellView> {
    let value = |key: i32| match spec.values() {
        Values::Integers => f64::from(key),
        _ => f64::from(f32_from_key(key)),
    };
    let keys = [spec.min()].into_iter().chain(spec.edges().iter().copied()).chain([spec.max()]);
    let bounds: Vec<f64> = keys.map(value).collect();
    let bins = bounds.len() - 1;
    let ends = |cell: usize| match cell {
        0 => (CellKind::Below, None, Some(bounds[0])),
        _ if cell <= bins => (CellKind::Bin, Some(bounds[cell - 1]), Some(bounds[cell])),
        _ if cell == bins + 1 => (CellKind::Above, Some(bounds[bins]), None),
        _ => (CellKind::NotFinite, None, None),
    };
    let cells = shares(reference, now).into_iter().enumerate();
    cells
        .map(|(index, cell)| {
            let (kind, low, high) = ends(index);
            CellView { kind, low, high, ..cell }
        })
        .collect()
}

fn class_cells(subject: &Subject<'_>, reference: &[u32], now: &[u32]) -> Vec<CellView> {
    let cells = (0_u8..).zip(shares(reference, now));
    cells
        .map(|(index, cell)| CellView { label: Some(class_label(subject, index)), ..cell })
        .collect()
}

/// Counts and shares, as yet without the place of the cells.
fn shares(reference: &[u32], now: &[u32]) -> Vec<CellView> {
    let share = |count: u32, total: u64| f64::from(count) / total.max(1) as f64;
    let (reference_total, now_total) = (total(reference), total(now));
    let cell = |(&reference, &now): (&u32, &u32)| CellView {
        kind: CellKind::Class,
        low: None,
        high: None,
        label: None,
        reference,
        reference_share: share(reference, reference_total),
        now,
        now_share: share(now, now_total),
    };
    reference.iter().zip(now).map(cell).collect()
}

fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

/// \[minimum, edges, maximum\] of the bins; none where there is no bin.
fn finite_edges(cells: &[CellView]) -> Option<Vec<f32>> {
    let mut bins = cells.iter().filter(|cell| cell.kind == CellKind::Bin).peekable();
    let first = bins.peek()?.low?;
    let ends = bins.filter_map(|bin| bin.high);
    Some([first].into_iter().chain(ends).map(|edge| edge as f32).collect())
}

fn moments_view(spec: &BinSpec, counts: &BinCounts, cells: &[CellView]) -> MomentsView {
    let (binned_mean, binned_variance) = binned_moments(cells, |cell| cell.now);
    let (reference_binned_mean, reference_binned_variance) =
        binned_moments(cells, |cell| cell.reference);
    MomentsView {
        mean: counts.mean(spec),
        variance: counts.variance(spec),
        binned_mean,
        binned_variance,
        reference_binned_mean,
        reference_binned_variance,
    }
}

/// Mean and variance, as if all values of a bin were in its middle and those beyond at the end.
fn binned_moments(
    cells: &[CellView],
    count: impl Fn(&CellView) -> u32,
) -> (Option<f64>, Option<f64>) {
    let values: Vec<(f64, f64)> = cells
        .iter()
        .filter_map(|cell| {
            let value = match (cell.low, cell.high) {
                (Some(low), Some(high)) => f64::midpoint(low, high),
                (one, other) => one.or(other)?,
            };
            Some((value, f64::from(count(cell))))
        })
        .collect();
    let total: f64 = values.iter().map(|(_, count)| count).sum();
    if total == 0.0 {
        return (None, None);
    }
    let mean = values.iter().map(|(value, count)| value * count).sum::<f64>() / total;
    let square = |(value, count): &(f64, f64)| (value - mean) * (value - mean) * count;
    (Some(mean), Some(values.iter().map(square).sum::<f64>() / total))
}

fn statistics_view(measures: &Measures, kind: StreamKind) -> StatisticsView {
    let has_order = kind != StreamKind::Class;
    StatisticsView {
        cells: measures.cell_count,
        psi: measures.psi.into(),
        psi_expected: measures.psi_expected,
        jensen_shannon: measures.jensen_shannon.into(),
        hellinger: measures.hellinger.into(),
        kolmogorov_smirnov: has_order.then(|| measures.kolmogorov_smirnov.into()),
        wasserstein: measures.wasserstein.map(StatisticView::from),
        kullback_leibler: measures.kullback_leibler.into(),
        chi_square: measures.chi_square.into(),
        chi_square_p: measures.chi_square_p,
    }
}

impl From<Statistic> for StatisticView {
    fn from(statistic: Statistic) -> Self {
        let (binning, binning_error) = match statistic.binning {
            BinningError::AtLeast => ("at-least", None),
            BinningError::HigherByAtMost(error) => ("higher-by-at-most", Some(error)),
            BinningError::OffByAtMost(error) => ("off-by-at-most", Some(error)),
        };
        let Statistic { value, critical, .. } = statistic;
        Self { value, critical, binning, binning_error }
    }
}

fn accuracy_view(
    baseline: &Baseline,
    profile: &GatewayProfile,
    inputs_drifted: bool,
) -> Option<AccuracyView> {
    let confidence = baseline.confidence()?;
    let judged = confidence.judged()?;
    let counts = profile.outputs().confidence();
    let window = &counts.bins()[..confidence.spec.bins().bin_count()];
    Some(AccuracyView {
        reference: baseline.accuracy().map(|accuracy| accuracy.share()),
        cbpe: cbpe(&judged, window, inputs_drifted)?.into(),
        atc: atc(confidence.spec.threshold_bin(), window, inputs_drifted)?.into(),
        extrapolating: inputs_drifted,
    })
}

impl From<Estimate> for EstimateView {
    fn from(estimate: Estimate) -> Self {
        let Estimate { accuracy, standard_error, .. } = estimate;
        Self { accuracy, standard_error }
    }
}
