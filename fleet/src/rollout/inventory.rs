//! The devices of a fleet, as far as rollouts are concerned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use selvedge_wire::{DeviceId, Digest, SlotName};

/// All devices, and what bundles need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The devices. One that is not here was deleted.
    pub devices: BTreeMap<DeviceId, InventoryDevice>,
    /// The bundles that devices have or shall have. Of one that is not here nothing is known, and nothing demanded.
    #[serde(default)]
    pub bundles: BTreeMap<Digest, BundleFacts>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryDevice {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What bundles are built for, for example `aarch64`; empty before the device said so.
    pub hardware_class: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Whether it is connected.
    pub online: bool,
    /// When it was heard last, in Unix milliseconds.
    pub last_seen_ms: Option<u64>,
    /// Why somebody pinned it to what it has; none if nobody did.
    pub held: Option<String>,
    /// Whether it was taken out of service.
    pub decommissioned: bool,
    /// The newest generation that the director signed for it.
    pub generation: u64,
    /// The generation that the device says it follows.
    pub followed: u64,
    /// Why it refused the newest desired state, as long as it does not follow it.
    pub refusal: Option<String>,
    /// Why the fleet could not carry out the last assignment that a plan made for its present generation.
    pub order_refused: Option<String>,
    /// Its slots.
    pub slots: BTreeMap<SlotName, SlotState>,
}

/// A slot of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotState {
    /// What the newest desired state says.
    pub desired: Option<Digest>,
    /// What answers.
    pub running: Option<Digest>,
    /// Where the device is on its way, for the generation that it follows.
    pub phase: SlotPhase,
    /// Why the desired bundle does not answer.
    pub reason: Option<String>,
}

/// Where a slot is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotPhase {
    /// What is desired is in place.
    #[default]
    Settled,
    /// It is fetched, checked, tried, in the shadow or on probation.
    Underway,
    /// It was refused, and the one before goes on.
    Refused,
}

/// What a device can do. What is none was not reported: no device is left out for it, and its own trial decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Memory for bundles, in bytes.
    pub memory_bytes: Option<u64>,
    /// Features of its CPU, for example `neon`.
    pub cpu_features: Option<BTreeSet<String>>,
    /// The operators that its runtime has.
    pub operators: Option<BTreeSet<String>>,
}

/// A bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BundleFacts {
    /// Its name and version, for people.
    pub title: String,
    /// It must not be assigned any more, or never could be.
    pub revoked: bool,
    /// Memory that it needs, in bytes.
    pub memory_bytes: u64,
    /// Features of the CPU that it needs.
    pub cpu_features: BTreeSet<String>,
    /// Operators that it needs.
    pub operators: BTreeSet<String>,
    /// The hardware that it is made for; empty for any.
    pub hardware_classes: BTreeSet<String>,
}

/// What a device lacks for a bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// Memory.
    Memory {
        /// What the bundle needs.
        needs_bytes: u64,
        /// What the device has.
        has_bytes: u64,
    },
    /// An operator.
    Operator(String),
    /// A feature of the CPU.
    CpuFeature(String),
    /// It is other hardware than the bundle is made for.
    HardwareClass {
        /// What the device is.
        is: String,
    },
}

impl BundleFacts {
    /// What `device` lacks for this bundle.
    pub fn lacks(&self, device: &InventoryDevice) -> Vec<Lack> {
        let has = &device.capabilities;
        let memory = has
            .memory_bytes
            .filter(|has| *has < self.memory_bytes)
            .map(|has_bytes| Lack::Memory { needs_bytes: self.memory_bytes, has_bytes });
        let is = &device.hardware_class;
        let fits =
            is.is_empty() || self.hardware_classes.is_empty() || self.hardware_classes.contains(is);
        let class = (!fits).then(|| Lack::HardwareClass { is: is.clone() });
        let mut lacks: Vec<Lack> = memory.into_iter().chain(class).collect();
        lacks.extend(missing(&self.operators, has.operators.as_ref()).map(Lack::Operator));
        lacks.extend(missing(&self.cpu_features, has.cpu_features.as_ref()).map(Lack::CpuFeature));
        lacks
    }
}

impl InventoryDevice {
    /// A slot; one that is not there is empty.
    pub fn slot(&self, slot: &SlotName) -> SlotState {
        self.slots.get(slot).cloned().unwrap_or_default()
    }
}

fn missing<'a>(
    needs: &'a BTreeSet<String>,
    has: Option<&'a BTreeSet<String>>,
) -> impl Iterator<Item = String> + 'a {
    let known = has.into_iter();
    known.flat_map(move |has| needs.difference(has).cloned())
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { needs_bytes, has_bytes } => {
                write!(f, "lacks memory: {needs_bytes} bytes are needed, it has {has_bytes}")
            }
            Self::Operator(name) => write!(f, "lacks the operator {name}"),
            Self::CpuFeature(name) => write!(f, "lacks the CPU feature {name}"),
            Self::HardwareClass { is } => write!(f, "the bundle is not made for {is}"),
        }
    }
}
