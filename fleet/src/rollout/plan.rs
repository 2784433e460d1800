//! A plan: where every device of a rollout is, why, and what is to be done now.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{
    Decision, Evidence, EvidenceWanted, Inventory, Lack, Measure, Orders, Outcome, Policy,
};

/// The name of a rollout: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId(String);

/// A rollout, as somebody ordered it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name. With those of the devices it decides who is in the control group, and who comes first.
    pub id: RolloutId,
    /// What shall happen.
    pub policy: Policy,
    /// What was ordered since.
    #[serde(default)]
    pub orders: Orders,
}

/// Which devices belong to rollouts that are not over.
pub type Claims = BTreeMap<DeviceId, RolloutId>;

/// Where a rollout is, and what is to be done now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The rollout.
    pub rollout: RolloutId,
    /// Counts the plans of the rollout, from 1.
    pub number: u64,
    /// When it began, in Unix milliseconds.
    pub started_ms: u64,
    /// The time for which it was planned, in Unix milliseconds.
    pub at_ms: u64,
    /// How it stands as a whole.
    pub state: RolloutState,
    /// What it waits for, by name; empty where it is over.
    pub waits: Vec<Wait>,
    /// The waves of the policy, and at last that of the control group where it joins.
    pub waves: Vec<WaveState>,
    /// The devices of the rollout.
    pub members: BTreeMap<DeviceId, Member>,
    /// Devices of the cohort that are left out, and why.
    pub excluded: BTreeMap<DeviceId, Exclusion>,
    /// What gates said, of each wave that has begun.
    pub decisions: Vec<Decision>,
    /// Devices that were told so far, each as often as it was.
    pub told: u64,
    /// Those of the last minute: the moment, and how many.
    pub told_lately: VecDeque<(u64, u32)>,
    /// The assignments that are due.
    pub assignments: Vec<Assignment>,
}

/// One thing for the executor to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The device.
    pub device: DeviceId,
    /// The slot.
    pub slot: SlotName,
    /// What it shall hold; none for nothing.
    pub bundle: Option<Digest>,
    /// It is void unless this is the newest generation that was signed for the device.
    pub expects: u64,
    /// Samples that the bundle is given in the shadow first.
    pub shadow_samples: u64,
    /// Whether it may be older than what answers.
    pub allow_downgrade: bool,
}

/// How a rollout stands as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum RolloutState {
    /// Devices are changed, or it waits.
    Running {
        /// The wave that is under way.
        wave: usize,
    },
    /// Devices go back.
    Returning {
        /// Why.
        cause: StopCause,
    },
    /// All waves passed.
    Done,
    /// It stopped by itself, and devices went back.
    Stopped {
        /// Why.
        cause: StopCause,
    },
    /// Somebody ended it, and devices went back.
    Aborted {
        /// Why.
        cause: StopCause,
    },
}

/// Why a rollout ends early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// A gate stopped it.
    Gate(Box<Decision>),
    /// Too few devices of a wave confirmed.
    TooFewSucceeded {
        /// The wave.
        wave: usize,
        /// Devices that confirmed.
        succeeded: u32,
        /// Devices that were told.
        told: u32,
    },
    /// A rule of the policy about failed devices.
    Failures {
        /// Which rule.
        rule: usize,
        /// Devices that failed.
        failed: u32,
        /// Devices that were told.
        told: u32,
    },
    /// Evidence did not come in time.
    WithoutEvidence {
        /// The wave.
        wave: usize,
        /// The gates that waited.
        gates: Vec<Measure>,
    },
    /// Somebody ended it.
    Aborted(String),
}

/// One wave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveState {
    /// When it started.
    pub started_ms: Option<u64>,
    /// Devices that it was given.
    pub devices: u32,
    /// The groups that its devices are dealt into.
    pub groups: u32,
    /// When none of its devices was on its way any more.
    pub settled_ms: Option<u64>,
    /// When it passed.
    pub passed_ms: Option<u64>,
}

/// A device of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its wave: for good once the wave has started, before that as it looks now. None for the control group, and where
    /// no wave is left.
    pub wave: Option<usize>,
    /// Whether its wave has started.
    pub released: bool,
    /// The group that it is dealt into.
    pub group: u32,
    /// Where it is.
    pub state: MemberState,
    /// How often it was told.
    pub attempts: u32,
    /// The attempts of these belong to orders before the last to retry.
    pub attempts_before: u32,
    /// The order to retry that it has followed.
    pub retries: u32,
    /// Why it failed last.
    pub failure: Option<Failure>,
    /// When it was told for the first time: what the bundle does there counts from then on, also if it fails.
    pub first_told_ms: Option<u64>,
    /// What its slot should have held before.
    pub desired_before: Option<Digest>,
    /// The last good bundle, to which it goes back.
    pub good: Option<Digest>,
}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum MemberState {
    /// It has the old bundle, and shall have the new one.
    Waiting {
        /// For what.
        hold: Hold,
    },
    /// It has the old bundle, and keeps it for comparison.
    Control,
    /// It is told to have the new one.
    Assigned {
        /// When it was told.
        at_ms: u64,
        /// The generation before.
        expects: u64,
    },
    /// The new one answers.
    Confirmed {
        /// Since when.
        at_ms: u64,
    },
    /// It is told to go back.
    Returning {
        /// Why.
        cause: Cause,
        /// When it was told.
        at_ms: u64,
        /// The generation before.
        expects: u64,
    },
    /// It has the last good bundle again, or will when it is heard.
    Returned {
        /// Why.
        cause: Cause,
        /// When.
        at_ms: u64,
        /// Whether the device said so.
        confirmed: bool,
    },
    /// It is not waited for.
    Skipped {
        /// Why.
        skip: Skip,
    },
}

/// What a device waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Its wave.
    Wave,
    /// Its turn within the rate.
    Rate,
    /// Its maintenance window.
    Window {
        /// When it opens.
        opens_ms: u64,
    },
    /// It is offline.
    Offline {
        /// When it was heard last.
        last_seen_ms: Option<u64>,
        /// Until when it is waited for.
        until_ms: u64,
    },
    /// The pause before it is told again.
    Backoff {
        /// When it is over.
        until_ms: u64,
    },
    /// Somebody paused the rollout.
    Paused,
}

/// Why a device goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It failed.
    Failed,
    /// The rollout stopped.
    Stopped,
}

/// Why a member is not waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// It was deleted or taken out of service.
    Gone,
    /// Somebody pinned it; what it has, it keeps.
    Held(String),
    /// It was offline for longer than is waited.
    Offline {
        /// When it was heard last.
        last_seen_ms: Option<u64>,
    },
    /// It says by now that it cannot run the bundle.
    Incompatible(Vec<Lack>),
    /// Somebody gave its slot another bundle meanwhile.
    Overruled,
    /// It has the new bundle and cannot go back.
    Stranded(String),
}

/// Why a device failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In one word.
    pub kind: FailureKind,
    /// What the device, or the fleet, says.
    pub reason: String,
    /// When it was noticed.
    pub at_ms: u64,
}

/// Why a device failed, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The device tried the bundle and refused it: its checks, its trial, its probation.
    Refused,
    /// The device did not take the desired state at all, or the fleet could not make it.
    Rejected,
    /// It confirmed, and went back by itself later.
    FellBack,
    /// It did not confirm in time.
    TimedOut,
}

/// Why a device of the cohort is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// Somebody pinned it.
    Held(String),
    /// It was taken out of service.
    Decommissioned,
    /// It cannot run the bundle.
    Incompatible(Vec<Lack>),
    /// It belongs to another rollout.
    InRollout(RolloutId),
    /// It should have the bundle already.
    AlreadyRuns,
    /// Its label names no time zone.
    UnknownZone(String),
    /// It came when no more could join.
    TooLate,
}

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// Somebody must resume it.
    Resume,
    /// Somebody must approve the wave.
    Approval {
        /// Which.
        wave: usize,
    },
    /// Devices are on their way.
    Devices {
        /// How many.
        count: u32,
        /// No later than this all of them have confirmed or failed, if nothing new holds them.
        until_ms: u64,
    },
    /// The rate.
    Rate {
        /// Devices whose turn comes.
        count: u32,
    },
    /// Maintenance windows.
    Windows {
        /// Devices that wait for theirs.
        count: u32,
        /// When the first opens.
        opens_ms: u64,
    },
    /// Devices that are offline.
    Offline {
        /// How many.
        count: u32,
        /// Until when.
        until_ms: u64,
    },
    /// The wave is looked at.
    Soak {
        /// Which wave.
        wave: usize,
        /// Until when.
        until_ms: u64,
    },
    /// Gates have too little evidence.
    Evidence {
        /// Of which wave.
        wave: usize,
        /// Which gates; none where no device of the wave has the bundle.
        gates: Vec<Measure>,
        /// Until when.
        until_ms: u64,
    },
    /// Evidence did not come in time: somebody must say *go on* or *abort*.
    Decision {
        /// Of which wave.
        wave: usize,
        /// Which gates.
        gates: Vec<Measure>,
    },
    /// Devices go back.
    Return {
        /// How many.
        count: u32,
    },
}

impl Plan {
    /// Whether nothing happens any more.
    pub fn is_over(&self) -> bool {
        !matches!(self.state, RolloutState::Running { .. } | RolloutState::Returning { .. })
    }

    /// The wave that is under way; none where devices go back or it is over.
    pub fn wave(&self) -> Option<usize> {
        match self.state {
            RolloutState::Running { wave } => Some(wave),
            _ => None,
        }
    }

    /// The devices that no other rollout may have.
    pub fn claimed(&self) -> impl Iterator<Item = &DeviceId> {
        let over = self.is_over();
        self.members.iter().filter(move |(_, member)| !over && !member.has_left()).map(|(id, _)| id)
    }

    /// The decisions of a wave that are not *go*, of gates that it waits for.
    pub fn waiting_gates(&self, wave: usize) -> Vec<Measure> {
        let of_wave = self.decisions.iter().filter(|decision| decision.wave == wave);
        of_wave
            .filter(|decision| decision.required && decision.outcome != Outcome::Go)
            .map(|decision| decision.measure)
            .collect()
    }

    /// What the next plan wants to know: of each device, what was counted since then of that bundle. Devices that
    /// failed count as well: those that are left would speak too well of it.
    pub fn evidence_wanted<'a>(&'a self, policy: &'a Policy) -> Vec<EvidenceWanted<'a>> {
        let wanted = |(device, member): (&'a DeviceId, &'a Member)| {
            let (bundle, from_ms) = match member.first_told_ms {
                Some(told_ms) => (Some(policy.bundle), told_ms),
                None if member.is_control() => (member.good, self.started_ms),
                None => return None,
            };
            Some(EvidenceWanted { device, slot: &policy.slot, bundle, from_ms })
        };
        self.members.iter().filter_map(wanted).collect()
    }

    /// How many members are in a state that `is` names.
    pub fn count(&self, is: impl Fn(&Member) -> bool) -> u32 {
        self.members.values().filter(|member| is(member)).count() as u32
    }
}

impl Member {
    /// Whether the new bundle answers.
    pub fn is_confirmed(&self) -> bool {
        matches!(self.state, MemberState::Confirmed { .. })
    }

    /// Whether it keeps the old bundle for comparison.
    pub fn is_control(&self) -> bool {
        matches!(self.state, MemberState::Control)
    }

    /// Whether it was told, failed, and has no attempt left.
    pub fn is_failed(&self) -> bool {
        let gone_back =
            matches!(self.state, MemberState::Returning { .. } | MemberState::Returned { .. });
        self.failure.is_some() && gone_back
    }

    /// Whether the rollout has let go of it.
    pub fn has_left(&self) -> bool {
        matches!(self.state, MemberState::Skipped { skip: Skip::Gone | Skip::Overruled })
    }
}

/// What is planned with.
pub(super) struct Context<'a> {
    pub rollout: &'a Rollout,
    pub inventory: &'a Inventory,
    pub evidence: &'a Evidence,
    pub claims: &'a Claims,
    pub now_ms: u64,
}

impl RolloutId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RolloutId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The same rule as for devices.
        let checked: Result<DeviceId, _> = text.parse();
        let rule = "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit";
        checked.map_err(|_| format!("{text:?} is no name of a rollout: {rule}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RolloutId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> Self {
        id.0
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
