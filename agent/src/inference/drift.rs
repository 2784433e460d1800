//! Whether what the slot's bundle sees and says still comes from its reference, and whether it is as is usual at
//! the site where that is known: detectors for both, given one window after the other.
//!
//! What was concluded is kept as bytes, so that a run goes on where the last one ended, and one that was cut
//! short where the last window closed before. Nothing here ever changes a baseline.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | version of this form |
//! | 1 | n | postcard of the bundle, when windows opened, and of each basis the monitor's bytes and since when streams drift |
//! | 1 + n | 4 | CRC-32C of all before, little-endian |

use std::{collections::VecDeque, sync::Arc};

use crc::{CRC_32_ISCSI, Crc};
use selvedge_bundle::{Baseline, BaselineClasses, Basis, DriftMonitor, SiteBaseline, StreamReport};
use selvedge_sketch::{Change, DetectorState, GatewayProfile};
use selvedge_trust::UnixMillis;
use selvedge_wire::{
    DRIFTED_STREAMS_MAX, Digest, DriftState, DriftStatus, DriftedStream, EventKind, SiteReport,
};
use serde::{Deserialize, Serialize};

use super::Judged;
use crate::limits::DRIFT_WINDOWS_REMEMBERED_MAX;

const VERSION: u8 = 2;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The detectors of one bundle.
pub(super) struct Drift {
    bundle: Digest,
    baseline: Arc<Baseline>,
    lab: Judge,
    site: Option<(Arc<SiteBaseline>, Judge)>,
    // When the newest windows opened, the newest last: Unix time in milliseconds.
    opened_ms: VecDeque<u64>,
}

/// The detectors of one basis.
struct Judge {
    monitor: DriftMonitor,
    // Since when each stream drifts, in the order of the baseline's streams.
    since_ms: Vec<Option<u64>>,
}

/// Something that a window changed, as an event tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) kind: EventKind,
    pub(super) detail: String,
}

/// Why what was kept is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotResumed {
    /// It is not whole.
    Damaged,
    /// It is of another bundle, or of another version of the agent.
    Foreign,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    bundle: Digest,
    opened_ms: Vec<u64>,
    lab: KeptJudge,
    site: Option<(Digest, KeptJudge)>,
}

#[derive(Serialize, Deserialize)]
struct KeptJudge {
    monitor: Vec<u8>,
    since_ms: Vec<Option<u64>>,
}

impl Drift {
    /// Nothing seen yet. `site` fits the baseline.
    pub(super) fn new(
        bundle: Digest,
        baseline: Arc<Baseline>,
        site: Option<Arc<SiteBaseline>>,
    ) -> Self {
        let lab = Judge::new((&*baseline).into());
        let site = site.map(|site| (site.clone(), Judge::new(basis_of(&baseline, &site))));
        Self { bundle, baseline, lab, site, opened_ms: VecDeque::new() }
    }

    /// Goes on from what was kept; what was kept of another site is of no use.
    pub(super) fn resume(
        bytes: &[u8],
        bundle: Digest,
        baseline: Arc<Baseline>,
        site: Option<Arc<SiteBaseline>>,
    ) -> Result<Self, NotResumed> {
        let (whole, crc) = bytes.split_last_chunk::<4>().ok_or(NotResumed::Damaged)?;
        if CRC.checksum(whole) != u32::from_le_bytes(*crc) {
            return Err(NotResumed::Damaged);
        }
        let (version, body) = whole.split_first().ok_or(NotResumed::Damaged)?;
        if *version != VERSION {
            return Err(NotResumed::Foreign);
        }
        let kept: Kept = postcard::from_bytes(body).map_err(|_| NotResumed::Damaged)?;
        if kept.bundle != bundle {
            return Err(NotResumed::Foreign);
        }
        let lab = Judge::resume(kept.lab, (&*baseline).into())?;
        let site = match (site, kept.site) {
            (Some(site), Some((digest, kept))) if digest == site.digest() => {
                let judge = Judge::resume(kept, basis_of(&baseline, &site))?;
                Some((site, judge))
            }
            (Some(site), _) => Some((site.clone(), Judge::new(basis_of(&baseline, &site)))),
            (None, _) => None,
        };
        Ok(Self { bundle, baseline, lab, site, opened_ms: kept.opened_ms.into() })
    }

    /// What a run can go on from.
    pub(super) fn encode(&self) -> Vec<u8> {
        let kept = Kept {
            bundle: self.bundle,
            opened_ms: self.opened_ms.iter().copied().collect(),
            lab: self.lab.kept(),
            site: self.site.as_ref().map(|(site, judge)| (site.digest(), judge.kept())),
        };
        let bytes = postcard::to_extend(&kept, vec![VERSION]);
        let mut bytes = bytes.expect("postcard encodes lists and numbers");
        let crc = CRC.checksum(&bytes).to_le_bytes();
        bytes.extend(crc);
        bytes
    }

    /// Compares windows from here on with what is usual at a site, which fits the baseline, or no more. What is
    /// known of the same site stays.
    pub(super) fn judge_by_site(&mut self, site: Option<Arc<SiteBaseline>>) {
        let digest = |site: &Arc<SiteBaseline>| site.digest();
        if site.as_ref().map(digest) != self.site.as_ref().map(|(site, _)| digest(site)) {
            let begin = |site: Arc<SiteBaseline>| {
                let judge = Judge::new(basis_of(&self.baseline, &site));
                (site, judge)
            };
            self.site = site.map(begin);
        }
    }

    /// Takes the profile of the next window, which opened at `opened_ms`, and says what it changed.
    pub(super) fn observe(&mut self, profile: &GatewayProfile, opened_ms: u64) -> Vec<News> {
        if self.opened_ms.len() == DRIFT_WINDOWS_REMEMBERED_MAX {
            self.opened_ms.pop_front();
        }
        self.opened_ms.push_back(opened_ms);
        let lab = Basis::from(&*self.baseline);
        let mut news = self.lab.observe(lab, "lab", profile, &self.opened_ms);
        if let Some((site, judge)) = &mut self.site {
            let basis = basis_of(&self.baseline, site);
            news.extend(judge.observe(basis, "site", profile, &self.opened_ms));
        }
        news
    }

    /// Whether one of the streams drifts: at the site, where it is known what is usual there.
    pub(super) fn is_drifted(&self) -> bool {
        self.site.as_ref().map_or(&self.lab, |(_, judge)| judge).is_drifted()
    }

    /// What is said now.
    pub(super) fn judged(&self) -> Judged {
        let lab = (!self.opened_ms.is_empty()).then(|| self.lab.status((&*self.baseline).into()));
        let site = self.site.as_ref().map(|(site, judge)| SiteReport {
            baseline: site.digest(),
            drift: judge.status(basis_of(&self.baseline, site)),
        });
        Judged { drift: lab, site }
    }
}

impl Judge {
    fn new(basis: Basis<'_>) -> Self {
        Self { monitor: DriftMonitor::new(basis), since_ms: vec![None; basis.streams().count()] }
    }

    fn resume(kept: KeptJudge, basis: Basis<'_>) -> Result<Self, NotResumed> {
        let KeptJudge { monitor, since_ms } = kept;
        let monitor = DriftMonitor::decode(&monitor, basis).ok_or(NotResumed::Foreign)?;
        let drifts = monitor.report(basis);
        let drifts = drifts.streams.iter().map(|stream| stream.finding.is_some());
        if !drifts.eq(since_ms.iter().map(Option::is_some)) {
            return Err(NotResumed::Damaged);
        }
        Ok(Self { monitor, since_ms })
    }

    fn kept(&self) -> KeptJudge {
        KeptJudge { monitor: self.monitor.encode(), since_ms: self.since_ms.clone() }
    }

    /// Takes the newest window, and says what it changed against `reference`.
    fn observe(
        &mut self,
        basis: Basis<'_>,
        reference: &str,
        profile: &GatewayProfile,
        opened_ms: &VecDeque<u64>,
    ) -> Vec<News> {
        let alarms = self.monitor.observe(basis, profile);
        alarms.expect("the window was counted in the bins of this baseline");
        let report = self.monitor.report(basis);
        let (mut begun, mut over, mut lasting) = (Vec::new(), Vec::new(), Vec::new());
        for (stream, since_ms) in report.streams.iter().zip(&mut self.since_ms) {
            match (stream.finding, *since_ms) {
                (Some(finding), None) => {
                    let since = since(opened_ms, finding.windows);
                    *since_ms = Some(since);
                    let change = change_in_words(finding.change, basis.baseline());
                    begun.push(format!(
                        "{} is {change} since {}",
                        stream_name(stream),
                        UnixMillis(since)
                    ));
                }
                (None, Some(since)) => {
                    *since_ms = None;
                    over.push(format!(
                        "{} is as the reference again, after a change since {}",
                        stream_name(stream),
                        UnixMillis(since)
                    ));
                }
                (Some(_), Some(_)) => lasting.push(stream_name(stream)),
                (None, None) => {}
            }
        }
        let still = match lasting.is_empty() {
            true => String::new(),
            false => format!("; still drifted: {}", lasting.join(", ")),
        };
        let caution = if report.uncalibrated { " (uncalibrated)" } else { "" };
        let told = [(EventKind::Drifted, begun), (EventKind::DriftOver, over)];
        let told = told.into_iter().filter(|(_, what)| !what.is_empty());
        let detail = |what: Vec<String>| {
            format!("against the {reference}: {}{still}{caution}", what.join(", "))
        };
        told.map(|(kind, what)| News { kind, detail: detail(what) }).collect()
    }

    fn is_drifted(&self) -> bool {
        self.since_ms.iter().any(Option::is_some)
    }

    fn status(&self, basis: Basis<'_>) -> DriftStatus {
        let report = self.monitor.report(basis);
        let state = match report.state {
            DetectorState::Insufficient => DriftState::Insufficient,
            DetectorState::Steady => DriftState::Steady,
            DetectorState::Suspect => DriftState::Suspect,
            DetectorState::Drifted => DriftState::Drifted,
        };
        let since_ms = |wanted: &StreamReport<'_>| {
            let streams = report.streams.iter().zip(&self.since_ms);
            let found = streams.filter(|(stream, _)| stream.stream == wanted.stream);
            found.filter_map(|(_, since)| *since).next().unwrap_or(0)
        };
        let named = |stream: &StreamReport<'_>| DriftedStream {
            name: stream_name(stream).to_owned(),
            change: stream
                .finding
                .map(|finding| change_in_words(finding.change, basis.baseline()))
                .unwrap_or_default(),
            since_ms: since_ms(stream),
        };
        let streams = report.drifted().iter().take(DRIFTED_STREAMS_MAX).map(named).collect();
        DriftStatus { state, uncalibrated: report.uncalibrated, streams }
    }
}

fn basis_of<'a>(baseline: &'a Baseline, site: &'a SiteBaseline) -> Basis<'a> {
    Basis::of_site(baseline, site).expect("the worker takes no other")
}

/// When the window opened that was so many windows ago, the newest included; of those that are remembered, the
/// oldest where it was before them.
fn since(opened_ms: &VecDeque<u64>, windows: u32) -> u64 {
    let back = usize::try_from(windows).unwrap_or(usize::MAX).clamp(1, opened_ms.len());
    opened_ms[opened_ms.len() - back]
}

fn stream_name<'a>(report: &StreamReport<'a>) -> &'a str {
    match report.stream {
        selvedge_bundle::Stream::Feature(name) => name,
        selvedge_bundle::Stream::Classes => "class",
        selvedge_bundle::Stream::Confidence => "confidence",
    }
}

fn change_in_words(change: Change, baseline: &Baseline) -> String {
    match change {
        Change::Rises => "higher".to_owned(),
        Change::Falls => "lower".to_owned(),
        Change::Widens => "wider".to_owned(),
        Change::Narrows => "narrower".to_owned(),
        Change::Splits => "split".to_owned(),
        Change::UpperEnd => "more often high".to_owned(),
        Change::LowerEnd => "more often low".to_owned(),
        Change::Class(cell) => class_in_words(cell, baseline.classes()),
        Change::Shape => "of another shape".to_owned(),
    }
}

/// The class that a cell stands for; the rare ones of many classes share one.
fn class_in_words(cell: u8, classes: Option<&BaselineClasses>) -> String {
    let cells = classes.map_or(&[][..], |classes| &classes.cells);
    let mut of_cell =
        cells.iter().enumerate().filter(|(_, of)| **of == cell).map(|(class, _)| class);
    match (of_cell.next(), of_cell.next()) {
        (Some(class), None) => format!("more often {class}"),
        _ => "more often a rare one".to_owned(),
    }
}
