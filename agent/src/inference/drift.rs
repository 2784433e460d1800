//! Whether what the slot's bundle sees and says still comes from its reference: the detectors of its
//! baseline, given one window after the other.
//!
//! What was concluded is kept as bytes, so that a run goes on where the last one ended, and one that was cut
//! short where the last window closed before. Nothing here ever changes the baseline.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | version of this form |
//! | 1 | n | postcard of the bundle, the monitor's bytes, when windows opened, since when streams drift |
//! | 1 + n | 4 | CRC-32C of all before, little-endian |

use std::{collections::VecDeque, sync::Arc};

use crc::{CRC_32_ISCSI, Crc};
use selvedge_bundle::{Baseline, BaselineClasses, DriftMonitor, StreamReport};
use selvedge_sketch::{Change, DetectorState, GatewayProfile};
use selvedge_trust::UnixMillis;
use selvedge_wire::{
    DRIFTED_STREAMS_MAX, Digest, DriftState, DriftStatus, DriftedStream, EventKind,
};
use serde::{Deserialize, Serialize};

use crate::limits::DRIFT_WINDOWS_REMEMBERED_MAX;

const VERSION: u8 = 1;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The detectors of one bundle.
pub(super) struct Drift {
    bundle: Digest,
    baseline: Arc<Baseline>,
    monitor: DriftMonitor,
    // When the newest windows opened, the newest last: Unix time in milliseconds.
    opened_ms: VecDeque<u64>,
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
    monitor: Vec<u8>,
    opened_ms: Vec<u64>,
    since_ms: Vec<Option<u64>>,
}

impl Drift {
    /// Nothing seen yet.
    pub(super) fn new(bundle: Digest, baseline: Arc<Baseline>) -> Self {
        let monitor = DriftMonitor::new(&baseline);
        let since_ms = vec![None; baseline.streams().count()];
        Self { bundle, baseline, monitor, opened_ms: VecDeque::new(), since_ms }
    }

    /// Goes on from what was kept.
    pub(super) fn resume(
        bytes: &[u8],
        bundle: Digest,
        baseline: Arc<Baseline>,
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
        let monitor = DriftMonitor::decode(&kept.monitor, &baseline).ok_or(NotResumed::Foreign)?;
        let drifts = monitor.report(&baseline);
        let drifts = drifts.streams.iter().map(|stream| stream.finding.is_some());
        if !drifts.eq(kept.since_ms.iter().map(Option::is_some)) {
            return Err(NotResumed::Damaged);
        }
        let opened_ms = kept.opened_ms.into();
        Ok(Self { bundle, baseline, monitor, opened_ms, since_ms: kept.since_ms })
    }

    /// What a run can go on from.
    pub(super) fn encode(&self) -> Vec<u8> {
        let kept = Kept {
            bundle: self.bundle,
            monitor: self.monitor.encode(),
            opened_ms: self.opened_ms.iter().copied().collect(),
            since_ms: self.since_ms.clone(),
        };
        let bytes = postcard::to_extend(&kept, vec![VERSION]);
        let mut bytes = bytes.expect("postcard encodes lists and numbers");
        let crc = CRC.checksum(&bytes).to_le_bytes();
        bytes.extend(crc);
        bytes
    }

    /// Takes the profile of the next window, which opened at `opened_ms`, and says what it changed.
    pub(super) fn observe(&mut self, profile: &GatewayProfile, opened_ms: u64) -> Vec<News> {
        if self.opened_ms.len() == DRIFT_WINDOWS_REMEMBERED_MAX {
            self.opened_ms.pop_front();
        }
        self.opened_ms.push_back(opened_ms);
        let alarms = self.monitor.observe(&self.baseline, profile);
        alarms.expect("the window was counted in the bins of this baseline");
        let report = self.monitor.report(&self.baseline);
        let (mut begun, mut over, mut lasting) = (Vec::new(), Vec::new(), Vec::new());
        for (stream, since_ms) in report.streams.iter().zip(&mut self.since_ms) {
            match (stream.finding, *since_ms) {
                (Some(finding), None) => {
                    let since = since(&self.opened_ms, finding.windows);
                    *since_ms = Some(since);
                    let change = change_in_words(finding.change, &self.baseline);
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
        let detail = |what: Vec<String>| format!("{}{still}{caution}", what.join(", "));
        told.map(|(kind, what)| News { kind, detail: detail(what) }).collect()
    }

    /// Whether one of the streams drifts.
    pub(super) fn is_drifted(&self) -> bool {
        self.since_ms.iter().any(Option::is_some)
    }

    /// What is said now; nothing before the first window.
    pub(super) fn status(&self) -> Option<DriftStatus> {
        if self.opened_ms.is_empty() {
            return None;
        }
        let report = self.monitor.report(&self.baseline);
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
                .map(|finding| change_in_words(finding.change, &self.baseline))
                .unwrap_or_default(),
            since_ms: since_ms(stream),
        };
        let streams = report.drifted().iter().take(DRIFTED_STREAMS_MAX).map(named).collect();
        Some(DriftStatus { state, uncalibrated: report.uncalibrated, streams })
    }
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
