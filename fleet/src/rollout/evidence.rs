//! What was counted of the devices of a rollout.
//!
//! Each number is cumulative from the moment that [`EvidenceWanted`] names, and of the bundle that it names: what a
//! device did before, or with another bundle, is in none of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{Counts, policy::GateBounds};

/// What a gate looks at. Each is a share of bad ones among what was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Of windows, those in which the device said that its inputs drifted.
    InputDrift,
    /// Of samples in the shadow, those that the two bundles answered differently.
    Disagreement,
    /// Of answers, the share of each class, in both directions.
    Outputs,
    /// Of answers, those that are estimated to be wrong: the sum of what their confidence leaves.
    EstimatedError,
    /// Of answers with a label, the wrong ones.
    LabelledError,
    /// Of answers, those slower than the bundle's budget for 95 % of them.
    Latency,
    /// Of samples, those that got no answer.
    Errors,
    /// Of spans of five minutes, those in which the agent started anew without being asked.
    Crashes,
    /// Of health messages, those with more resident memory than the bundle's budget.
    Memory,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 9] = [
        Self::InputDrift,
        Self::Disagreement,
        Self::Outputs,
        Self::EstimatedError,
        Self::LabelledError,
        Self::Latency,
        Self::Errors,
        Self::Crashes,
        Self::Memory,
    ];

    /// Those that judge a rollout whose policy names none.
    pub const DEFAULTS: [Self; 4] = [Self::Latency, Self::Errors, Self::Crashes, Self::Memory];

    /// Its name in policies and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InputDrift => "input-drift",
            Self::Disagreement => "disagreement",
            Self::Outputs => "outputs",
            Self::EstimatedError => "estimated-error",
            Self::LabelledError => "labelled-error",
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::Crashes => "crashes",
            Self::Memory => "memory",
        }
    }

    /// Whether devices that keep the old bundle have it at all: nothing runs in their shadow.
    pub const fn has_control(self) -> bool {
        !matches!(self, Self::Disagreement)
    }

    /// Whether it means something only beside devices that keep the old bundle.
    pub const fn needs_control(self) -> bool {
        matches!(self, Self::InputDrift | Self::Outputs)
    }

    /// The bounds where the policy names none.
    pub(super) const fn bounds(self) -> GateBounds {
        let (allowed, tolerance, detect, samples_min) = match self {
            Self::InputDrift => (0.0, 0.10, 0.40, 20),
            Self::Disagreement => (0.05, 0.01, 0.10, 200),
            Self::Outputs => (0.0, 0.05, 0.20, 200),
            Self::EstimatedError => (0.0, 0.02, 0.10, 200),
            Self::LabelledError => (0.0, 0.02, 0.15, 50),
            Self::Latency => (0.05, 0.02, 0.15, 100),
            Self::Errors => (0.0, 0.01, 0.05, 100),
            Self::Crashes => (0.0, 0.02, 0.20, 12),
            Self::Memory => (0.0, 0.02, 0.20, 12),
        };
        GateBounds { allowed, tolerance, detect, samples_min, required: true }
    }
}

/// What was counted of all devices of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Device by device.
    pub devices: BTreeMap<DeviceId, DeviceEvidence>,
}

/// What was counted of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvidence {
    /// Each measure but [`Measure::Outputs`]; what is not there was not counted.
    #[serde(default)]
    pub measures: BTreeMap<Measure, Counts>,
    /// Answers by class, or by whatever the answers are binned into; empty where that was not counted.
    #[serde(default)]
    pub classes: Vec<u64>,
}

/// What the next plan wants to know of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceWanted<'a> {
    /// The device.
    pub device: &'a DeviceId,
    /// The slot.
    pub slot: &'a SlotName,
    /// The bundle whose samples count: that of the rollout, or for the control group the one that the device keeps.
    pub bundle: Option<Digest>,
    /// From when on, in Unix milliseconds.
    pub from_ms: u64,
}
