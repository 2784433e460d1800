//! A stream's detector: single windows and whole cycles, and what follows from their evidence.

use serde::{Deserialize, Serialize};

use super::{
    CELL_COUNT_MAX, Change, ScoreTable,
    mixture::{Mixture, Tested},
};
use crate::{
    Error,
    evidence::{LogEvidence, e_bh},
};

/// The version of a detector's encoded state.
pub const STATE_VERSION: u8 = 1;

/// What a component keeps above the alarm: enough for one of a thousand devices to be rejected for one
/// of its streams, little enough to be forgotten again.
const ABOVE_ALARM: LogEvidence = LogEvidence::from_raw(20 << 16);
/// What a component keeps of a drift that is known: the mean over all of them must stay above the line.
const ABOVE_LINE: LogEvidence = LogEvidence::from_raw(4 << 16);

/// When a detector speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyForm", into = "PolicyForm")]
pub struct DetectorPolicy {
    form: PolicyForm,
    alarm: LogEvidence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "DetectorPolicy", deny_unknown_fields)]
struct PolicyForm {
    alarm_windows: u32,
    samples_min: u16,
    cycle_windows: u16,
    clear_windows: u16,
}

impl DetectorPolicy {
    /// At most one false alarm in `alarm_windows` windows on average, at least 2. A window is tested
    /// from `samples_min` samples on, at least 1. A rhythm repeats after `cycle_windows` windows (0 or 1
    /// for none). A drift is over after `clear_windows` windows with little evidence, at least 1.
    ///
    /// # Errors
    /// [`Error::Policy`] if a number is below the least.
    pub fn new(
        alarm_windows: u32,
        samples_min: u16,
        cycle_windows: u16,
        clear_windows: u16,
    ) -> Result<Self, Error> {
        if alarm_windows < 2 || samples_min == 0 || clear_windows == 0 {
            return Err(Error::Policy);
        }
        let form = PolicyForm { alarm_windows, samples_min, cycle_windows, clear_windows };
        // A test of a cycle may be under way when there is an alarm; it counts as if it were over. Rounded
        // up: the alarm is never early.
        let windows = alarm_windows.saturating_add(cycle_windows.into());
        let alarm = LogEvidence::from_raw(-LogEvidence::ONE.over(windows).raw());
        Ok(Self { form, alarm })
    }

    /// The evidence at which there is an alarm, on average once in so many windows without drift.
    pub const fn alarm(&self) -> LogEvidence {
        self.alarm
    }

    /// The fewest samples of a window that is tested.
    pub const fn samples_min(&self) -> u16 {
        self.form.samples_min
    }

    /// On average there are at least so many windows between false alarms.
    pub const fn alarm_windows(&self) -> u32 {
        self.form.alarm_windows
    }

    /// The windows of a cycle, or `None` where there is no rhythm.
    pub const fn cycle_windows(&self) -> Option<u16> {
        if self.form.cycle_windows > 1 { Some(self.form.cycle_windows) } else { None }
    }

    /// From here on a stream is suspect, and below it a drift is fading: half the alarm's logarithm.
    const fn line(&self) -> LogEvidence {
        LogEvidence::from_raw(self.alarm.raw() / 2)
    }
}

impl Default for DetectorPolicy {
    /// One false alarm in 10,000 windows, windows from 250 samples on, no rhythm, clear after 10 windows.
    fn default() -> Self {
        Self::new(10_000, 250, 0, 10).expect("the defaults are above the least")
    }
}

impl From<DetectorPolicy> for PolicyForm {
    fn from(policy: DetectorPolicy) -> Self {
        policy.form
    }
}

impl TryFrom<PolicyForm> for DetectorPolicy {
    type Error = Error;

    fn try_from(form: PolicyForm) -> Result<Self, Error> {
        Self::new(form.alarm_windows, form.samples_min, form.cycle_windows, form.clear_windows)
    }
}

/// What is said about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum DetectorState {
    /// The newest window is waiting for more samples.
    Insufficient = 0,
    /// The stream is as the reference.
    Steady = 1,
    /// There is evidence, not enough for an alarm.
    Suspect = 2,
    /// There was an alarm, and it has not faded.
    Drifted = 3,
}

/// What an alarm found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The guess with the most evidence.
    pub change: Change,
    /// How many windows ago the change most likely began, the newest included: where the evidence for
    /// that guess had its last minimum. For [`Change::Shape`] it is late by the window that was learnt.
    pub windows: u32,
    /// Whether whole cycles showed it, not single windows.
    pub in_cycles: bool,
}

/// The state of one stream. With `CYCLES` = 1 it has room for the test of whole cycles, with 0 not.
///
/// It keeps no table and no policy: the same ones must be given each time. Encoded with serde it comes
/// back as it was, and equal windows lead to equal states on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "DetectorForm<CYCLES>", into = "DetectorForm<CYCLES>")]
pub struct Detector<const CYCLES: usize> {
    native: Mixture,
    /// Windows too small to be tested, together smaller than a window that is.
    waiting: [u16; CELL_COUNT_MAX],
    waiting_windows: u16,
    cycle: heapless::Vec<Cycle, CYCLES>,
    /// The evidence of the tests that the newest window concluded.
    newest: LogEvidence,
    state: DetectorState,
    finding: Option<Finding>,
    calm_windows: u16,
}

/// The test of whole cycles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cycle {
    mixture: Mixture,
    counts: [u32; CELL_COUNT_MAX],
    windows: u16,
}

impl<const CYCLES: usize> Detector<CYCLES> {
    /// Nothing tested yet.
    ///
    /// # Errors
    /// [`Error::Policy`] if the policy names a cycle and there is no room for its test.
    pub fn new(policy: &DetectorPolicy) -> Result<Self, Error> {
        let mut cycle = heapless::Vec::new();
        if policy.cycle_windows().is_some() {
            let first = Cycle { mixture: Mixture::new(), counts: [0; CELL_COUNT_MAX], windows: 0 };
            cycle.push(first).map_err(|_| Error::Policy)?;
        }
        Ok(Self {
            native: Mixture::new(),
            waiting: [0; CELL_COUNT_MAX],
            waiting_windows: 0,
            cycle,
            newest: LogEvidence::NONE,
            state: DetectorState::Insufficient,
            finding: None,
            calm_windows: 0,
        })
    }

    /// Takes a window's counts per cell. What follows from it is up to [`conclude`](Self::conclude) or
    /// [`conclude_all`].
    ///
    /// # Panics
    /// If there are not as many counts as the table has cells.
    pub fn update(&mut self, table: &ScoreTable, policy: &DetectorPolicy, counts: &[u32]) {
        assert_eq!(counts.len(), table.cell_count(), "a stream's windows have its table's cells");
        let cap = match self.state {
            DetectorState::Drifted => policy.line().times(ABOVE_LINE),
            _ => policy.alarm().times(ABOVE_ALARM),
        };
        let native = self.update_native(table, policy, counts, cap);
        self.newest = match (policy.cycle_windows(), self.cycle.first_mut()) {
            (Some(windows), Some(cycle)) => {
                let cycle = cycle.update(table, policy, counts, windows, cap);
                native.plus(cycle).over(2)
            }
            _ => native,
        };
    }

    fn update_native(
        &mut self,
        table: &ScoreTable,
        policy: &DetectorPolicy,
        counts: &[u32],
        cap: LogEvidence,
    ) -> LogEvidence {
        let mut cells = [0; CELL_COUNT_MAX];
        let mut total = 0;
        for ((cell, &count), &waiting) in cells.iter_mut().zip(counts).zip(&self.waiting) {
            *cell = signed(count.saturating_add(waiting.into()));
            total += u64::from(cell.cast_unsigned());
        }
        self.waiting_windows = self.waiting_windows.saturating_add(1);
        if total < policy.form.samples_min.into() {
            self.waiting = cells.map(|count| u16::try_from(count).expect("the sum of all fits"));
            return LogEvidence::NONE;
        }
        let tested = Tested { cells: &cells, total, windows: self.waiting_windows };
        self.native.add(table, &table.native, &tested, cap);
        (self.waiting, self.waiting_windows) = ([0; CELL_COUNT_MAX], 0);
        self.native.evidence()
    }

    /// The evidence of the tests that the newest window concluded; none if it concluded none.
    ///
    /// A device's alarm looks at this and not at older evidence: a test that is half-way through must not
    /// be stopped by another stream, or its average would no longer be bounded.
    pub const fn newest_evidence(&self) -> LogEvidence {
        self.newest
    }

    /// The evidence as it stands, whenever it was concluded.
    pub fn evidence(&self) -> LogEvidence {
        let native = self.native.evidence();
        match self.cycle.first() {
            Some(cycle) => native.plus(cycle.mixture.evidence()).over(2),
            None => native,
        }
    }

    /// Draws the conclusion for a stream that stands alone, once after each update.
    pub fn conclude(&mut self, table: &ScoreTable, policy: &DetectorPolicy) -> DetectorState {
        self.settle(table, policy, self.newest >= policy.alarm())
    }

    /// What is said about the stream.
    pub const fn state(&self) -> DetectorState {
        self.state
    }

    /// What was found, while the stream is [`DetectorState::Drifted`].
    pub const fn finding(&self) -> Option<Finding> {
        self.finding
    }

    fn settle(
        &mut self,
        table: &ScoreTable,
        policy: &DetectorPolicy,
        alarm: bool,
    ) -> DetectorState {
        let concluded = self.waiting_windows == 0;
        let above = self.evidence() >= policy.line();
        if let Some(finding) = &mut self.finding {
            finding.windows = finding.windows.saturating_add(1);
            if concluded {
                self.calm_windows = if above { 0 } else { self.calm_windows.saturating_add(1) };
            }
            if self.calm_windows >= policy.form.clear_windows {
                let state = DetectorState::Steady;
                *self = Self { state, ..Self::new(policy).expect("there was room before") };
            }
        } else if alarm {
            self.state = DetectorState::Drifted;
            self.finding = Some(self.leading(table));
            self.calm_windows = 0;
        } else {
            self.state = match (concluded, above) {
                (false, _) => DetectorState::Insufficient,
                (true, true) => DetectorState::Suspect,
                (true, false) => DetectorState::Steady,
            };
        }
        self.state
    }

    fn leading(&self, table: &ScoreTable) -> Finding {
        let (evidence, change, windows) = self.native.leading(table);
        let native = Finding { change, windows: windows.into(), in_cycles: false };
        match self.cycle.first().map(|cycle| cycle.mixture.leading(table)) {
            Some((stronger, change, windows)) if stronger > evidence => {
                Finding { change, windows: windows.into(), in_cycles: true }
            }
            _ => native,
        }
    }
}

impl Cycle {
    fn update(
        &mut self,
        table: &ScoreTable,
        policy: &DetectorPolicy,
        counts: &[u32],
        cycle_windows: u16,
        cap: LogEvidence,
    ) -> LogEvidence {
        for (sum, &count) in self.counts.iter_mut().zip(counts) {
            *sum = sum.saturating_add(count);
        }
        self.windows = self.windows.saturating_add(1);
        let total = self.counts.iter().map(|&count| u64::from(count)).sum();
        if !self.windows.is_multiple_of(cycle_windows) || total < policy.form.samples_min.into() {
            return LogEvidence::NONE;
        }
        let cells = self.counts.map(signed);
        let tested = Tested { cells: &cells, total, windows: self.windows };
        self.mixture.add(table, &table.cycle, &tested, cap);
        (self.counts, self.windows) = ([0; CELL_COUNT_MAX], 0);
        self.mixture.evidence()
    }
}

/// Draws the conclusions for all streams of a device, once after each has had its update, and returns
/// how many alarms were new. The streams whose state becomes [`DetectorState::Drifted`] are those that
/// e-BH rejects: streams that drift together need less evidence each than one alone.
///
/// # Panics
/// If there are not as many tables as detectors.
pub fn conclude_all<const CYCLES: usize>(
    detectors: &mut [Detector<CYCLES>],
    tables: &[&ScoreTable],
    policy: &DetectorPolicy,
) -> usize {
    assert_eq!(detectors.len(), tables.len(), "each detector has its table");
    let evidence = detectors.iter().map(|detector| match detector.state {
        DetectorState::Drifted => LogEvidence::NONE,
        _ => detector.newest,
    });
    let least = e_bh(evidence, policy.alarm());
    let mut alarms = 0;
    for (detector, table) in detectors.iter_mut().zip(tables) {
        let known = detector.state == DetectorState::Drifted;
        let alarm = !known && least.is_some_and(|least| detector.newest >= least);
        detector.settle(table, policy, alarm);
        alarms += usize::from(alarm);
    }
    alarms
}

/// A detector as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Detector")]
struct DetectorForm<const CYCLES: usize> {
    version: u8,
    native: Mixture,
    waiting: [u16; CELL_COUNT_MAX],
    waiting_windows: u16,
    cycle: heapless::Vec<Cycle, CYCLES>,
    newest: LogEvidence,
    state: DetectorState,
    finding: Option<Finding>,
    calm_windows: u16,
}

impl<const CYCLES: usize> From<Detector<CYCLES>> for DetectorForm<CYCLES> {
    fn from(detector: Detector<CYCLES>) -> Self {
        Self {
            version: STATE_VERSION,
            native: detector.native,
            waiting: detector.waiting,
            waiting_windows: detector.waiting_windows,
            cycle: detector.cycle,
            newest: detector.newest,
            state: detector.state,
            finding: detector.finding,
            calm_windows: detector.calm_windows,
        }
    }
}

impl<const CYCLES: usize> TryFrom<DetectorForm<CYCLES>> for Detector<CYCLES> {
    type Error = Error;

    fn try_from(form: DetectorForm<CYCLES>) -> Result<Self, Error> {
        if form.version != STATE_VERSION {
            return Err(Error::Version);
        }
        let is_sound =
            form.native.is_sound() && form.cycle.iter().all(|cycle| cycle.mixture.is_sound());
        let is_drifted = form.state == DetectorState::Drifted;
        if form.finding.is_some() != is_drifted || !is_sound {
            return Err(Error::Malformed);
        }
        Ok(Self {
            native: form.native,
            waiting: form.waiting,
            waiting_windows: form.waiting_windows,
            cycle: form.cycle,
            newest: form.newest,
            state: form.state,
            finding: form.finding,
            calm_windows: form.calm_windows,
        })
    }
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
