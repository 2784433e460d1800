//! Who has drifted: each device by itself, and the cohort as a whole.
//!
//! **A device.** Its stored profiles go in order through the monitor that also runs on the device. If all
//! that it counted is still stored, one profile per window, the verdict is the device's own, bit for bit.
//! Windows that were merged on the way, or that are no longer kept, are not seen one by one.
//!
//! **A site.** Where a site baseline is approved, the windows that closed after its period go through a second
//! monitor. A device begins with the window after the site baseline has come to it.
//!
//! **The cohort.** The windows of all origins are put by the time at which they closed into steps as long as
//! a window (the median of those that are stored, which is a setting that devices mostly share), and each
//! step's sum goes through one more monitor. Devices do not close their windows together: a step may hold
//! two windows of one device and none of the next, but each window is in exactly one. The newest step is
//! left out until it is over. What devices have alone is not seen in the sum, what they share is seen early.
//! Reference windows come from one place; that they tell how much the sum over places varies is
//! empirical, not a theorem. A cohort of one origin has the verdict of that origin.
//!
//! **The culprits.** One of many may drift by chance, so devices are named by e-BH (Wang and Ramdas 2022) over
//! all origins of the cohort, at the alarm of the baseline's policy. Each brings the mean evidence of its
//! streams, from detectors that draw no conclusion of their own: one that has said *drifted* forgets what
//! exceeds its alarm, and would never reach what one of many needs. What counts is the evidence of the newest
//! window that concluded a test.

use std::collections::BTreeMap;

use selvedge_bundle::{Baseline, Basis, DriftMonitor, SiteBaseline};
use selvedge_sketch::{
    Detector, DetectorState, Finding, GatewayProfile, LogEvidence, ScoreTable, e_bh,
};

use selvedge_wire::Digest;

use super::{Origin, Window};

/// What is said of a cohort.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What is said of the sum over all origins.
    pub cohort: Verdict,
    /// How long a step of the cohort is.
    pub step_ms: u64,
    /// What is said of each origin, in their order.
    pub origins: Vec<OriginVerdict>,
}

/// What is said of one origin.
#[derive(Clone, Debug)]
pub struct OriginVerdict {
    /// Whose samples were judged.
    pub origin: Origin,
    /// What is said of them.
    pub verdict: Verdict,
    /// The evidence that e-BH compares.
    pub evidence: LogEvidence,
    /// Whether e-BH names it.
    pub culprit: bool,
    /// When its newest window closed, in Unix milliseconds by the device's clock.
    pub newest_ms: u64,
    /// What is said against its site, where it is known what is usual there.
    pub site: Option<SiteVerdict>,
}

/// What is said of an origin against its site.
#[derive(Clone, Debug)]
pub struct SiteVerdict {
    /// The site baseline.
    pub baseline: Digest,
    /// What is said.
    pub verdict: Verdict,
}

/// The site baselines of origins, where there are some.
pub type Sites = BTreeMap<Origin, SiteBaseline>;

/// What one monitor says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The worst that is said of a stream; *insufficient* only where that is said of all.
    pub state: DetectorState,
    /// Whether it was guessed how much windows vary.
    pub uncalibrated: bool,
    /// The windows that were judged.
    pub windows: u64,
    /// The streams, in the order of [`Baseline::streams`].
    pub streams: Vec<StreamVerdict>,
    /// The states in the order of time, each from the window on that led to it.
    pub changes: Vec<StateChange>,
}

/// What is said of one stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamVerdict {
    /// The state.
    pub state: DetectorState,
    /// The evidence for a change.
    pub evidence: LogEvidence,
    /// What was found, while it is drifted.
    pub finding: Option<Finding>,
    /// When the change most likely began, in Unix milliseconds: where that window opened.
    pub since_ms: Option<u64>,
}

/// From when on a state held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// When the window closed that led to it, in Unix milliseconds.
    pub at_ms: u64,
    /// The state.
    pub state: DetectorState,
}

/// Judges windows that are sorted by [`Window::place`], as of `now_ms`. Of each verdict the newest `changes_max`
/// changes are told.
pub fn judge(
    baseline: &Baseline,
    sites: &Sites,
    windows: &[Window],
    now_ms: u64,
    changes_max: usize,
) -> Judgement {
    let by_origin = windows.chunk_by(|a, b| a.origin == b.origin);
    let mut origins: Vec<OriginVerdict> = by_origin
        .filter_map(|windows| judge_origin(baseline, sites, windows, changes_max))
        .collect();
    let named = e_bh(origins.iter().map(|origin| origin.evidence), baseline.policy().alarm());
    for origin in &mut origins {
        origin.culprit = named.is_some_and(|least| origin.evidence >= least);
    }
    let step_ms = step_ms(windows);
    let cohort = match &origins[..] {
        [only] => only.verdict.clone(),
        _ => judge_cohort(baseline, windows, step_ms, now_ms, changes_max),
    };
    Judgement { cohort, step_ms, origins }
}

/// The verdict about the windows of one origin; none if none of them can be read.
fn judge_origin(
    baseline: &Baseline,
    sites: &Sites,
    windows: &[Window],
    changes_max: usize,
) -> Option<OriginVerdict> {
    let origin = windows.first()?.origin.clone();
    let site = sites.get(&origin);
    let site = site.and_then(|site| Some((site, Basis::of_site(baseline, site).ok()?)));
    let mut at_site = site.map(|(site, basis)| (site, Replay::new(basis)));
    let mut replay = Replay::new(baseline.into());
    let mut evidence = Evidence::new(baseline);
    let mut newest_ms = None;
    for window in windows {
        let Some(profile) = window.read(baseline) else { continue };
        replay.observe(&profile, window.opened_ms, window.closed_ms);
        evidence.observe(baseline, &profile);
        if let Some((site, replay)) = &mut at_site
            && window.closed_ms > site.record().to_ms
        {
            replay.observe(&profile, window.opened_ms, window.closed_ms);
        }
        newest_ms = newest_ms.max(Some(window.closed_ms));
    }
    Some(OriginVerdict {
        origin,
        verdict: replay.verdict(changes_max),
        evidence: evidence.concluded,
        culprit: false,
        newest_ms: newest_ms?,
        site: at_site.map(|(site, replay)| SiteVerdict {
            baseline: site.digest(),
            verdict: replay.verdict(changes_max),
        }),
    })
}

fn judge_cohort(
    baseline: &Baseline,
    windows: &[Window],
    step_ms: u64,
    now_ms: u64,
    changes_max: usize,
) -> Verdict {
    let mut replay = Replay::new(baseline.into());
    for step in steps(baseline, windows, step_ms, now_ms) {
        replay.observe(&step.profile, step.opened_ms, step.closed_ms);
    }
    replay.verdict(changes_max)
}

/// What all origins counted in a span of time.
pub(super) struct Step {
    pub(super) opened_ms: u64,
    pub(super) closed_ms: u64,
    pub(super) profile: GatewayProfile,
}

/// The steps in their order, without those in which nothing was counted, and without the newest while it lasts.
pub(super) fn steps<'a>(
    baseline: &'a Baseline,
    windows: &'a [Window],
    step_ms: u64,
    now_ms: u64,
) -> impl Iterator<Item = Step> + 'a {
    let mut steps: BTreeMap<u64, Vec<&Window>> = BTreeMap::new();
    for window in windows {
        steps.entry(window.closed_ms / step_ms).or_default().push(window);
    }
    let ends_ms = move |step: u64| step.saturating_add(1).saturating_mul(step_ms);
    if let Some(newest) = steps.last_entry().filter(|newest| ends_ms(*newest.key()) > now_ms) {
        newest.remove();
    }
    steps.into_iter().filter_map(move |(step, windows)| {
        let merged = super::merge(baseline, windows);
        let (opened_ms, closed_ms) = (step * step_ms, ends_ms(step));
        (merged.profiles > 0).then_some(Step { opened_ms, closed_ms, profile: merged.profile })
    })
}

/// The median length of a window, at least 1 ms.
fn step_ms(windows: &[Window]) -> u64 {
    let length =
        |window: &Window| window.closed_ms.saturating_sub(window.opened_ms) / window.span();
    let mut lengths: Vec<u64> = windows.iter().map(length).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or(0).max(1)
}

/// A monitor with what it has seen.
struct Replay<'a> {
    basis: Basis<'a>,
    monitor: DriftMonitor,
    /// When each window opened.
    opened_ms: Vec<u64>,
    changes: Vec<StateChange>,
}

impl<'a> Replay<'a> {
    fn new(basis: Basis<'a>) -> Self {
        let monitor = DriftMonitor::new(basis);
        Self { basis, monitor, opened_ms: Vec::new(), changes: Vec::new() }
    }

    fn observe(&mut self, profile: &GatewayProfile, opened_ms: u64, at_ms: u64) {
        self.monitor
            .observe(self.basis, profile)
            .expect("what is judged was counted in the baseline's bins");
        self.opened_ms.push(opened_ms);
        let state = self.monitor.report(self.basis).state;
        if self.changes.last().is_none_or(|last| last.state != state) {
            self.changes.push(StateChange { at_ms, state });
        }
    }

    fn verdict(mut self, changes_max: usize) -> Verdict {
        let report = self.monitor.report(self.basis);
        let streams = report.streams.iter().map(|stream| StreamVerdict {
            state: stream.state,
            evidence: stream.evidence,
            finding: stream.finding,
            since_ms: stream.finding.and_then(|finding| since_ms(&self.opened_ms, finding)),
        });
        let streams = streams.collect();
        self.changes.drain(..self.changes.len().saturating_sub(changes_max));
        Verdict {
            state: report.state,
            uncalibrated: report.uncalibrated,
            windows: self.opened_ms.len() as u64,
            streams,
            changes: self.changes,
        }
    }
}

/// When the window opened that the finding counts back to; the first, if it lies before what is stored.
fn since_ms(opened_ms: &[u64], finding: Finding) -> Option<u64> {
    let back = usize::try_from(finding.windows).unwrap_or(usize::MAX).max(1);
    opened_ms.get(opened_ms.len().saturating_sub(back)).copied()
}

/// The detectors of an origin's streams, which draw no conclusion.
struct Evidence<'a> {
    detectors: Vec<Detector<1>>,
    tables: Vec<&'a ScoreTable>,
    /// That of the newest window that concluded a test.
    concluded: LogEvidence,
}

impl<'a> Evidence<'a> {
    fn new(baseline: &'a Baseline) -> Self {
        let tables: Vec<&ScoreTable> = baseline.streams().map(|(_, table)| table).collect();
        let detector = |_| {
            Detector::new(baseline.policy()).expect("there is room for the test of whole cycles")
        };
        let detectors = tables.iter().map(detector).collect();
        Self { detectors, tables, concluded: LogEvidence::NONE }
    }

    fn observe(&mut self, baseline: &Baseline, profile: &GatewayProfile) {
        let cells = baseline.cells(profile).expect("what is judged fits the baseline");
        for ((detector, table), cells) in self.detectors.iter_mut().zip(&self.tables).zip(cells) {
            detector.update(table, baseline.policy(), &cells);
        }
        let newest = LogEvidence::mean(self.detectors.iter().map(Detector::newest_evidence));
        if newest != LogEvidence::NONE {
            self.concluded = newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use selvedge_bundle::Stream;
    use selvedge_sketch::Change;

    use super::*;
    use crate::testing::{
        name,
        reference::{Noise, WINDOW, baseline, encoded, profile},
    };

    const STEP_MS: u64 = 60_000;

    /// So many windows of each device, of which the device `culprit`, or each, drifts by `shift` from
    /// window 20 on.
    fn windows(
        baseline: &Baseline,
        (devices, count): (u64, u64),
        samples: usize,
        culprit: Option<u64>,
        shift: f32,
    ) -> Vec<Window> {
        let mut noise = Noise(11);
        let mut windows = Vec::new();
        for device in 0..devices {
            for at in 0..count {
                let drifts = at >= 20 && culprit.is_none_or(|culprit| culprit == device);
                let shift = if drifts { shift } else { 0.0 };
                // Devices do not close their windows together.
                let opened_ms = at * STEP_MS + device * 1000;
                windows.push(Window {
                    origin: Origin {
                        device: name(&format!("line-{device:02}")),
                        slot: "main".parse().expect("the name is well formed"),
                    },
                    boot: 1,
                    first: at,
                    last: at,
                    opened_ms,
                    closed_ms: opened_ms + STEP_MS,
                    profile: encoded(&profile(baseline, &mut noise, samples, shift)),
                });
            }
        }
        windows
    }

    fn is_drifted(verdict: &Verdict) -> bool {
        verdict.state == DetectorState::Drifted
    }

    #[test]
    fn one_of_twenty_is_invisible_in_the_sum_and_named_by_e_bh() {
        let baseline = baseline(50);
        let windows = windows(&baseline, (20, 40), 50, Some(13), 0.3);
        let judgement = judge(&baseline, &Sites::new(), &windows, u64::MAX, 64);
        assert!(!is_drifted(&judgement.cohort), "{:?}", judgement.cohort.changes);
        let named: Vec<&str> = judgement
            .origins
            .iter()
            .filter(|origin| origin.culprit)
            .map(|origin| origin.origin.device.as_str())
            .collect();
        assert_eq!(named, ["line-13"]);
        let culprit = &judgement.origins[13].verdict;
        assert!(is_drifted(culprit));
        let streams = baseline.streams().zip(&culprit.streams);
        let found =
            streams.filter_map(|((stream, _), said)| Some((stream, said.finding?, said.since_ms)));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let (stream, finding, since_ms) = found[0];
        assert_eq!((stream, finding.change), (Stream::Feature("pressure"), Change::Rises));
        let off = since_ms.expect("it is found").abs_diff(20 * STEP_MS + 13_000);
        assert!(off <= 6 * STEP_MS, "it began {off} ms from there");
    }

    #[test]
    fn what_all_share_is_found_in_the_sum_before_any_device_finds_it() {
        let baseline = baseline(50);
        let all = windows(&baseline, (20, 30), 50, None, 0.1);
        let first = |verdict: &Verdict| {
            let mut changes = verdict.changes.iter();
            changes.find(|change| change.state == DetectorState::Drifted).map(|change| change.at_ms)
        };
        let judgement = judge(&baseline, &Sites::new(), &all, u64::MAX, 64);
        let found_ms = first(&judgement.cohort).expect("the sum shows it");
        assert!(found_ms <= 27 * STEP_MS, "found after {} windows", found_ms / STEP_MS - 20);
        let earliest = judgement.origins.iter().filter_map(|origin| first(&origin.verdict)).min();
        assert!(earliest.is_none_or(|earliest_ms| earliest_ms > found_ms), "{earliest:?}");
    }

    #[test]
    fn a_device_has_the_verdict_that_its_own_monitor_gave() {
        let baseline = baseline(WINDOW as u16);
        let all = windows(&baseline, (1, 26), WINDOW, Some(0), 0.4);
        let mut own = DriftMonitor::new(&baseline);
        for window in &all {
            let profile = window.read(&baseline).expect("it was counted so");
            // The device was switched off and on in between.
            own = DriftMonitor::decode(&own.encode(), &baseline).expect("it was kept");
            own.observe(&baseline, &profile).expect("it was counted so");
        }
        let judgement = judge(&baseline, &Sites::new(), &all, u64::MAX, 64);
        let (report, said) = (own.report(&baseline), &judgement.origins[0].verdict);
        assert_eq!(report.state, DetectorState::Drifted);
        for (own, said) in report.streams.iter().zip(&said.streams) {
            assert_eq!((own.state, own.evidence), (said.state, said.evidence));
            assert_eq!(own.finding, said.finding);
        }
        assert_eq!(judgement.cohort, *said, "a cohort of one is that one");
    }

    #[test]
    fn a_step_that_is_not_over_is_left_out() {
        let baseline = baseline(50);
        let all = windows(&baseline, (2, 3), 50, None, 0.0);
        for (now_ms, steps) in [(4 * STEP_MS - 1, 2), (4 * STEP_MS, 3)] {
            let judgement = judge(&baseline, &Sites::new(), &all, now_ms, 64);
            assert_eq!((judgement.step_ms, judgement.cohort.windows), (STEP_MS, steps));
            assert_eq!(judgement.origins[0].verdict.windows, 3);
        }
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let judgement = judge(&baseline(50), &Sites::new(), &[], 0, 64);
        assert_eq!(judgement.cohort.state, DetectorState::Insufficient);
        assert!(judgement.origins.is_empty());
    }

    #[test]
    #[ignore = "a measurement"]
    fn what_a_look_costs() {
        let baseline = baseline(50);
        let all = windows(&baseline, (20, 1000), 50, None, 0.0);
        let began = std::time::Instant::now();
        judge(&baseline, &Sites::new(), &all, u64::MAX, 64);
        let us = began.elapsed().as_secs_f64() * 1e6 / all.len() as f64;
        println!("{us:.1} µs for each of {} profiles with four streams", all.len());
    }
}
