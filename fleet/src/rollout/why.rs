//! One reason for every device.

use std::fmt;

use serde::{Deserialize, Serialize};

use selvedge_wire::DeviceId;

use super::{
    Cause, Exclusion, Failure, Hold, Inventory, Lack, MemberState, Plan, Rollout, Skip, StopCause,
};

/// Why a device is where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "its text says what it means")]
pub enum Reason {
    Unknown,
    NotListed,
    NoLabel { name: String, value: String },
    Excluded { exclusion: Exclusion },
    Control,
    WaitingForWave { wave: String },
    BeyondLastWave,
    NotReached,
    Held { hold: Hold },
    UnderWay { told_ms: u64, attempt: u32 },
    Runs { since_ms: u64 },
    GoesBack { cause: Cause, failure: Option<Failure> },
    Returned { cause: Cause, confirmed: bool, failure: Option<Failure> },
    Skipped { skip: Skip },
}

/// Why `device` is where it is. With it, the same for every device of the fleet.
pub fn why(rollout: &Rollout, inventory: &Inventory, plan: &Plan, device: &DeviceId) -> Reason {
    let Some(member) = plan.members.get(device) else {
        return why_not(rollout, inventory, plan, device);
    };
    let (failure, over) = (member.failure.clone(), plan.wave().is_none());
    match member.state.clone() {
        MemberState::Control => Reason::Control,
        MemberState::Waiting { .. } if over => Reason::NotReached,
        MemberState::Waiting { hold: Hold::Wave } => match member.wave {
            Some(wave) => {
                Reason::WaitingForWave { wave: rollout.policy.wave_name(wave).to_owned() }
            }
            None => Reason::BeyondLastWave,
        },
        MemberState::Waiting { hold } => Reason::Held { hold },
        MemberState::Assigned { at_ms, .. } => {
            Reason::UnderWay { told_ms: at_ms, attempt: member.attempts }
        }
        MemberState::Confirmed { at_ms, .. } => Reason::Runs { since_ms: at_ms },
        MemberState::Returning { cause, .. } => Reason::GoesBack { cause, failure },
        MemberState::Returned { cause, confirmed, .. } => {
            Reason::Returned { cause, confirmed, failure }
        }
        MemberState::Skipped { skip } => Reason::Skipped { skip },
    }
}

fn why_not(rollout: &Rollout, inventory: &Inventory, plan: &Plan, device: &DeviceId) -> Reason {
    if let Some(exclusion) = plan.excluded.get(device) {
        return Reason::Excluded { exclusion: exclusion.clone() };
    }
    let Some(known) = inventory.devices.get(device) else { return Reason::Unknown };
    let cohort = &rollout.policy.cohort;
    match cohort.missing(&known.labels) {
        Some((name, value)) => Reason::NoLabel { name: name.clone(), value: value.clone() },
        None if cohort.takes(device, &known.labels) => {
            Reason::Excluded { exclusion: Exclusion::TooLate }
        }
        None => Reason::NotListed,
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no such device"),
            Self::NotListed => f.write_str("not targeted: the policy names other devices"),
            Self::NoLabel { name, value } => {
                write!(f, "not targeted: it has no label {name}={value}")
            }
            Self::Excluded { exclusion } => write!(f, "not targeted: {exclusion}"),
            Self::Control => {
                f.write_str("in the control group: it keeps its bundle for comparison")
            }
            Self::WaitingForWave { wave } => write!(f, "waiting for the wave {wave}"),
            Self::BeyondLastWave => f.write_str("in no wave: the last one ends before it"),
            Self::NotReached => f.write_str("not changed: the rollout ended before its turn"),
            Self::Held { hold } => write!(f, "waiting: {hold}"),
            Self::UnderWay { told_ms, attempt } => {
                write!(f, "under way: attempt {attempt}, told at {}", moment(*told_ms))
            }
            Self::Runs { since_ms } => write!(f, "runs the bundle since {}", moment(*since_ms)),
            Self::GoesBack { cause, failure } => {
                write!(f, "goes back: {}", because(*cause, failure.as_ref()))
            }
            Self::Returned { cause, confirmed, failure } => {
                let word = if *confirmed { "returned" } else { "told to return, not heard since" };
                write!(f, "{word}: {}", because(*cause, failure.as_ref()))
            }
            Self::Skipped { skip } => write!(f, "left out: {skip}"),
        }
    }
}

fn because(cause: Cause, failure: Option<&Failure>) -> String {
    match (cause, failure) {
        (Cause::Failed, Some(failure)) => format!("failed: {}", failure.reason),
        (Cause::Failed, None) => "failed".into(),
        (Cause::Stopped, _) => "the rollout ended early".into(),
    }
}

/// A moment for people, in UTC.
pub(super) fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok();
    let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| "never".into(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn list(lacks: &[Lack]) -> String {
    let lacks: Vec<String> = lacks.iter().map(Lack::to_string).collect();
    lacks.join(", ")
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(why) => write!(f, "held: {why}"),
            Self::Decommissioned => f.write_str("it was taken out of service"),
            Self::Incompatible(lacks) => write!(f, "incompatible: {}", list(lacks)),
            Self::InRollout(other) => write!(f, "it belongs to the rollout {other}"),
            Self::AlreadyRuns => f.write_str("it should have the bundle already"),
            Self::UnknownZone(zone) => write!(f, "its label names no time zone: {zone:?}"),
            Self::TooLate => f.write_str("it came when no more could join"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wave => f.write_str("for its wave"),
            Self::Rate => f.write_str("for its turn within the rate"),
            Self::Window { opens_ms } => {
                write!(f, "outside its maintenance window until {}", moment(*opens_ms))
            }
            Self::Offline { last_seen_ms, until_ms } => {
                let seen = last_seen_ms.map_or_else(|| "never".into(), moment);
                write!(f, "offline, last seen {seen}; waited for until {}", moment(*until_ms))
            }
            Self::Backoff { until_ms } => write!(f, "told again after {}", moment(*until_ms)),
            Self::Paused => f.write_str("the rollout is paused"),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("it was deleted or taken out of service"),
            Self::Held(why) => write!(f, "held: {why}"),
            Self::Offline { last_seen_ms } => {
                let seen = last_seen_ms.map_or_else(|| "never".into(), moment);
                write!(f, "offline for too long, last seen {seen}")
            }
            Self::Incompatible(lacks) => write!(f, "incompatible: {}", list(lacks)),
            Self::Overruled => f.write_str("somebody gave its slot another bundle meanwhile"),
            Self::Stranded(why) => write!(f, "it cannot go back: {why}"),
        }
    }
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate(decision) => {
                let (name, numbers) = (decision.measure.as_str(), &decision.numbers);
                write!(
                    f,
                    "the gate {name} in wave {}: {:.2} % of {:.0}, control group {:.2} % of {:.0}, at most {:.2} %",
                    decision.wave + 1,
                    100.0 * numbers.wave.counts.share(),
                    numbers.wave.counts.trials,
                    100.0 * numbers.control.counts.share(),
                    numbers.control.counts.trials,
                    100.0 * numbers.stop_above,
                )
            }
            Self::TooFewSucceeded { wave, succeeded, told } => {
                write!(f, "{succeeded} of {told} devices of wave {} confirmed", wave + 1)
            }
            Self::Failures { failed, told, .. } => write!(f, "{failed} of {told} devices failed"),
            Self::WithoutEvidence { wave, .. } => {
                write!(f, "no evidence about wave {} came in time", wave + 1)
            }
            Self::Aborted(why) => write!(f, "aborted: {why}"),
        }
    }
}
