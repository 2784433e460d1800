//! Site baselines: what was counted over a declared period, for somebody to look at before it is a reference.
//!
//! Profiles of the period are in the store, exact, in the bins of the bundle's baseline: they are summed up when
//! somebody looks. A profile that comes late changes the sum, and with it the digest; what is approved is the digest
//! that was looked at.

use serde::Serialize;
use utoipa::ToSchema;

use selvedge_bundle::{Baseline, SiteBaseline, SiteRecord};
use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{DriftView, StateChangeView, Window, view::stream_name};
use crate::{Error, one_line};

/// The site baseline of a slot: the one that is proposed, and the one that is approved.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteView {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// Its slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// The period that is declared, and what was counted in it.
    pub proposal: Option<ProposalView>,
    /// What was approved last.
    pub approved: Option<ApprovedView>,
}

/// A period that is declared.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProposalView {
    /// The bundle whose windows are taken.
    #[schema(value_type = String)]
    pub bundle: Digest,
    /// Windows that close from here on are taken, in Unix milliseconds by the device's clock.
    pub from_ms: u64,
    /// Windows that close up to here are taken.
    pub to_ms: u64,
    /// When it was declared, in Unix milliseconds.
    pub proposed_ms: u64,
    /// Who declared it.
    pub proposed_by: String,
    /// How far it is.
    pub progress: Progress,
    /// Why there is nothing to approve.
    pub reason: Option<String>,
    /// What would be approved.
    pub site: Option<SiteBaselineView>,
    /// The streams that differ from the lab by more than chance does once in a thousand windows of this size.
    pub differs: Vec<String>,
    /// When the lab's detectors were in alarm during the period: it was not as usual, or this site differs.
    pub alarms: Vec<PeriodView>,
    /// The period against the lab, stream by stream: `now` is what was counted in it.
    pub lab: Option<DriftView>,
}

/// How far a declared period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It is not over.
    Waiting,
    /// It can be approved.
    Ready,
    /// It cannot: the reason says what is missing.
    Refused,
}

/// A time from one moment to another, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeriodView {
    /// When it began.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: u64,
}

/// A site baseline that was approved.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ApprovedView {
    /// What it is.
    pub site: SiteBaselineView,
    /// When it was approved, in Unix milliseconds.
    pub approved_ms: u64,
    /// Who approved it.
    pub approved_by: String,
    /// Whether the device's desired state names it.
    pub named: bool,
    /// Whether the device says that it judges by it.
    pub in_use: bool,
    /// Why it is not named.
    pub reason: Option<String>,
}

/// A site baseline.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteBaselineView {
    /// Its identity.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Names the bins that were counted in.
    pub spec: String,
    /// The bundle whose windows were taken.
    #[schema(value_type = String)]
    pub bundle: Digest,
    /// When the period began, in Unix milliseconds by the device's clock.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: u64,
    /// How many windows were taken.
    pub windows: u32,
    /// How many samples they had.
    pub samples: u64,
    /// There were too few windows to measure how much they vary: it was guessed.
    pub uncalibrated: bool,
    /// The streams: features in their order, classes, confidence.
    pub streams: Vec<SiteStreamView>,
}

/// A stream of a site baseline.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteStreamView {
    /// A feature by name, or `class` or `confidence` of the answers.
    pub name: String,
    /// The power that evidence of single windows is raised to: 1 over how much more they vary than independent draws.
    pub eta: f32,
    /// It was guessed.
    pub uncalibrated: bool,
}

/// What was counted in the period of `record`; `windows` are those of its slot, in the order in which the device
/// counted.
///
/// # Errors
/// [`Error::Conflict`], which says what is missing.
pub fn record_site(
    baseline: &Baseline,
    record: SiteRecord,
    windows: &[Window],
) -> Result<SiteBaseline, Error> {
    let (from_ms, to_ms) = (record.from_ms, record.to_ms);
    let of_period = windows.iter().filter(|window| (from_ms..=to_ms).contains(&window.closed_ms));
    let profiles: Vec<_> = of_period.filter_map(|window| window.read(baseline)).collect();
    let built = SiteBaseline::build(baseline, record, &profiles);
    built.map_err(|error| Error::Conflict(one_line(&error)))
}

impl SiteBaselineView {
    /// A site baseline, and the baseline in whose bins it was counted.
    pub fn new(site: &SiteBaseline, baseline: &Baseline) -> Self {
        let record = site.record();
        let streams = baseline.streams().zip(site.streams()).map(|((stream, _), usual)| {
            let (eta, uncalibrated) = (usual.table.eta(), usual.table.uncalibrated());
            SiteStreamView { name: stream_name(stream).to_owned(), eta, uncalibrated }
        });
        Self {
            digest: site.digest(),
            spec: site.spec_id().to_string(),
            bundle: record.bundle,
            from_ms: record.from_ms,
            to_ms: record.to_ms,
            windows: site.windows(),
            samples: site.samples(),
            uncalibrated: site.uncalibrated(),
            streams: streams.collect(),
        }
    }
}

impl ProposalView {
    /// Adds how the period is in the lab's eyes.
    pub fn compare(&mut self, lab: DriftView) {
        let differs = |stream: &&super::StreamView| {
            let psi = stream.statistics.map(|statistics| statistics.psi);
            psi.is_some_and(|psi| psi.critical.is_some_and(|critical| psi.value > critical))
        };
        let differing = lab.streams.iter().filter(differs);
        self.differs = differing.map(|stream| stream.name.clone()).collect();
        self.alarms = alarms(&lab.cohort.changes, self.from_ms, self.to_ms);
        self.lab = Some(lab);
    }
}

/// When the state was *drifted*, between `from_ms` and `to_ms`.
fn alarms(changes: &[StateChangeView], from_ms: u64, to_ms: u64) -> Vec<PeriodView> {
    let ends = changes.iter().skip(1).map(|next| next.at_ms).chain([to_ms]);
    let drifted = changes.iter().zip(ends).filter(|(change, _)| change.state == "drifted");
    let clipped = drifted.map(|(change, end_ms)| PeriodView {
        from_ms: change.at_ms.max(from_ms),
        to_ms: end_ms.min(to_ms),
    });
    clipped.filter(|period| period.from_ms < period.to_ms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drift::{Origin, Reference, Sites, judge},
        testing::{
            name,
            reference::{Noise, WINDOW, baseline, encoded, profile},
        },
    };
    use selvedge_sketch::DetectorState;

    const STEP_MS: u64 = 60_000;

    fn origin() -> Origin {
        Origin { device: name("line-1"), slot: "main".parse().expect("the name is well formed") }
    }

    /// Windows of a site whose pressure is higher by one deviation, and from window `fault` on by another half.
    fn windows(baseline: &Baseline, count: u64, fault: u64) -> Vec<Window> {
        let mut noise = Noise(11);
        let window = |at: u64| Window {
            origin: origin(),
            boot: 1,
            first: at,
            last: at,
            opened_ms: at * STEP_MS,
            closed_ms: (at + 1) * STEP_MS,
            profile: {
                let shift = if at < fault { 1.0 } else { 1.5 };
                encoded(&profile(baseline, &mut noise, WINDOW, shift))
            },
        };
        let mut window = window;
        (0..count).map(&mut window).collect()
    }

    fn record(from: u64, to: u64) -> SiteRecord {
        let Origin { device, slot } = origin();
        let (from_ms, to_ms) = (from * STEP_MS, to * STEP_MS);
        SiteRecord { device, slot, bundle: Digest([1; 32]), from_ms, to_ms }
    }

    #[test]
    fn the_lab_says_drifted_all_the_time_and_the_site_only_when_there_is_a_fault() {
        let baseline = baseline(WINDOW as u16);
        let all = windows(&baseline, 100, 90);
        let site = record_site(&baseline, record(1, 40), &all).expect("there are enough");
        assert_eq!((site.windows(), site.uncalibrated()), (40, false));
        let sites = Sites::from([(origin(), site)]);
        let judged = |windows: &[Window]| {
            let judgement = judge(&baseline, &sites, windows, u64::MAX, 64);
            let origin = judgement.origins.into_iter().next().expect("there is one");
            let site = origin.site.expect("a site baseline is there").verdict;
            (origin.verdict, site)
        };
        let (lab, site) = judged(&all[..90]);
        assert_eq!((lab.state, site.state), (DetectorState::Drifted, DetectorState::Steady));
        assert_eq!((lab.windows, site.windows), (90, 50), "its own period is not judged");
        let (lab, site) = judged(&all);
        assert_eq!((lab.state, site.state), (DetectorState::Drifted, DetectorState::Drifted));
        let found = site.streams[0].since_ms.expect("pressure is found");
        assert!(found.abs_diff(90 * STEP_MS) <= 3 * STEP_MS, "{found}");
        assert!(site.streams[1..].iter().all(|stream| stream.finding.is_none()));
    }

    #[test]
    fn a_period_without_enough_windows_says_how_many_it_needs() {
        let baseline = baseline(WINDOW as u16);
        let all = windows(&baseline, 20, 20);
        let error = record_site(&baseline, record(1, 5), &all).expect_err("too few").to_string();
        assert!(error.contains("has 5 windows") && error.contains("8 are needed"), "{error}");
        assert_eq!(Reference::from_name(Reference::Site.as_str()), Some(Reference::Site));
    }

    #[test]
    fn alarms_are_told_as_far_as_they_lie_in_the_period() {
        let change = |at_ms, state| StateChangeView { at_ms, state };
        let changes = [
            change(0, "steady"),
            change(5, "drifted"),
            change(20, "steady"),
            change(40, "drifted"),
        ];
        let period = |from_ms, to_ms| PeriodView { from_ms, to_ms };
        assert_eq!(alarms(&changes, 10, 50), [period(10, 20), period(40, 50)]);
        assert_eq!(alarms(&changes, 20, 40), []);
    }
}
