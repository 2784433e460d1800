//! The fleet of a replay: devices that do what they are told, more or less.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use selvedge_wire::{DeviceId, Digest, SlotName};

use crate::rollout::{
    Assignment, BundleFacts, Capabilities, Counts, DeviceEvidence, Evidence, EvidenceWanted,
    Inventory, InventoryDevice, Measure, Plan, SlotPhase,
};

use super::Draws;

const MINUTE_MS: u64 = 60_000;

/// Trials of one measure that one step counts at most; what a device has more is as if it had fewer.
const TRIALS_MAX: u64 = 1000;

/// A fleet, recorded or invented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayFleet {
    /// Where all chance comes from.
    #[serde(default)]
    pub seed: u64,
    /// The slot that has the bundles.
    pub slot: SlotName,
    /// The devices.
    pub devices: BTreeMap<DeviceId, ReplayDevice>,
    /// What is known of bundles.
    #[serde(default)]
    pub bundles: BTreeMap<Digest, BundleFacts>,
    /// What happens to all devices, whatever they run.
    #[serde(default)]
    pub world: Vec<WorldChange>,
    /// What goes wrong between the planner and devices.
    #[serde(default)]
    pub faults: Faults,
}

/// A device of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayDevice {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its hardware.
    pub hardware_class: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What it has at first.
    pub bundle: Option<Digest>,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// It is there from this on, in milliseconds after the start.
    pub joins_after_ms: u64,
    /// It is deleted then.
    pub leaves_after_ms: Option<u64>,
    /// When it is offline: from and to, in milliseconds after the start.
    pub offline_ms: Vec<[u64; 2]>,
    /// With the bundle that it has at first, or any but the new one.
    pub before: Behaviour,
    /// With the new one.
    pub after: Behaviour,
}

/// How a device does with a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Trials of each measure in a minute.
    pub trials_per_minute: u64,
    /// The share of bad ones of each measure; what is not named is not counted.
    pub bad: BTreeMap<Measure, f64>,
    /// The share of each class of the answers.
    pub classes: Vec<f64>,
    /// From being told to its answering.
    pub takes_minutes: u64,
    /// Why it refuses the bundle, if it does.
    pub refuses: Option<String>,
    /// It goes back by itself so long after it answered.
    pub falls_back_after_minutes: Option<u64>,
}

/// Something that happens to all devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldChange {
    /// When, in milliseconds after the start.
    pub after_ms: u64,
    /// What becomes worse.
    pub measure: Measure,
    /// The share of bad ones from then on, at least.
    pub bad: f64,
}

/// What goes wrong, as shares of all assignments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Assignments that are lost; they stand in the next plan again.
    pub lost: f64,
    /// Assignments that come again with a later plan.
    pub repeated: f64,
    /// Devices whose desired state is signed again in a step, for other reasons.
    pub renewed: f64,
}

/// A fleet at a moment.
#[derive(Clone, Debug)]
pub struct World {
    fleet: ReplayFleet,
    start_ms: u64,
    now_ms: u64,
    /// The bundle that is rolled out.
    target: Digest,
    inventory: Inventory,
    evidence: Evidence,
    /// Of which bundle the evidence of each device is.
    counted: BTreeMap<DeviceId, Option<Digest>>,
    /// When each device began with what it should have, and since when it answers.
    began_ms: BTreeMap<DeviceId, u64>,
    stale: Vec<Assignment>,
    draws: Draws,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            trials_per_minute: 10,
            bad: Measure::DEFAULTS.into_iter().map(|measure| (measure, 0.0)).collect(),
            classes: Vec::new(),
            takes_minutes: 2,
            refuses: None,
            falls_back_after_minutes: None,
        }
    }
}

impl World {
    pub(in crate::rollout) fn new(fleet: &ReplayFleet, target: Digest, start_ms: u64) -> Self {
        Self {
            fleet: fleet.clone(),
            start_ms,
            now_ms: start_ms,
            target,
            inventory: Inventory { bundles: fleet.bundles.clone(), ..Inventory::default() },
            evidence: Evidence::default(),
            counted: BTreeMap::new(),
            began_ms: BTreeMap::new(),
            stale: Vec::new(),
            draws: Draws::from_seed(fleet.seed),
        }
    }

    /// The devices as the fleet manager would know them.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// What was counted.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Lets a step pass.
    pub(in crate::rollout) fn move_to(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let since_ms = now_ms - self.start_ms;
        for (id, replayed) in self.fleet.devices.clone() {
            let left = replayed.leaves_after_ms.is_some_and(|after_ms| after_ms <= since_ms);
            if left || replayed.joins_after_ms > since_ms {
                self.inventory.devices.remove(&id);
                continue;
            }
            self.move_device(&id, &replayed, since_ms);
        }
    }

    /// Carries a plan out, with faults.
    pub(in crate::rollout) fn execute(&mut self, plan: &Plan) {
        let again = std::mem::take(&mut self.stale);
        for assignment in plan.assignments.iter().chain(&again) {
            if self.draws.draw() < self.fleet.faults.lost {
                continue;
            }
            self.assign(assignment);
            if self.draws.draw() < self.fleet.faults.repeated {
                self.stale.push(assignment.clone());
            }
        }
    }

    pub(in crate::rollout) fn assign(&mut self, assignment: &Assignment) {
        let Some(device) = self.inventory.devices.get_mut(&assignment.device) else { return };
        if device.generation != assignment.expects {
            return;
        }
        device.generation += 1;
        device.slots.entry(assignment.slot.clone()).or_default().desired = assignment.bundle;
    }

    fn move_device(&mut self, id: &DeviceId, replayed: &ReplayDevice, since_ms: u64) {
        let online = !replayed.offline_ms.iter().any(|[from, to]| (*from..*to).contains(&since_ms));
        let renewed = self.draws.draw() < self.fleet.faults.renewed;
        let (now_ms, target, slot) = (self.now_ms, self.target, self.fleet.slot.clone());
        let device =
            self.inventory.devices.entry(id.clone()).or_insert_with(|| newcomer(replayed, &slot));
        device.generation += u64::from(renewed);
        device.online = online;
        if !online {
            return;
        }
        device.last_seen_ms = Some(now_ms);
        let generation = device.generation;
        let follows_new = device.followed < generation;
        device.followed = generation;
        let state = device.slots.entry(slot).or_default();
        let is_new = state.desired == Some(target);
        let behaviour = if is_new { &replayed.after } else { &replayed.before };
        if state.running == state.desired {
            state.phase = SlotPhase::Settled;
            let began_ms = self.began_ms.get(id).copied().unwrap_or(now_ms);
            let falls_ms = behaviour.falls_back_after_minutes.map(|after| after * MINUTE_MS);
            if is_new && falls_ms.is_some_and(|after_ms| now_ms >= began_ms + after_ms) {
                (state.phase, state.running) = (SlotPhase::Refused, replayed.bundle);
                state.reason = Some("its watchdog went back".into());
            }
            return;
        }
        if state.phase == SlotPhase::Refused && !follows_new {
            return;
        }
        if state.phase != SlotPhase::Underway {
            (state.phase, state.reason) = (SlotPhase::Underway, None);
            self.began_ms.insert(id.clone(), now_ms);
        }
        let began_ms = self.began_ms.get(id).copied().unwrap_or(now_ms);
        if now_ms < began_ms + behaviour.takes_minutes * MINUTE_MS {
            return;
        }
        match &behaviour.refuses {
            Some(why) => {
                (state.phase, state.reason) = (SlotPhase::Refused, Some(why.clone()));
            }
            None => {
                (state.phase, state.running) = (SlotPhase::Settled, state.desired);
                self.began_ms.insert(id.clone(), now_ms);
            }
        }
    }

    /// Counts what devices answered within the step with the bundle that is wanted of each.
    pub(in crate::rollout) fn count(&mut self, wanted: &[EvidenceWanted<'_>], step_ms: u64) {
        for EvidenceWanted { device: id, bundle, .. } in wanted {
            let (Some(device), Some(replayed)) =
                (self.inventory.devices.get(*id), self.fleet.devices.get(*id))
            else {
                continue;
            };
            if self.counted.insert((*id).clone(), *bundle) != Some(*bundle) {
                self.evidence.devices.remove(*id);
            }
            if device.online && device.slot(&self.fleet.slot).running == *bundle {
                let is_new = *bundle == Some(self.target);
                let behaviour = if is_new { &replayed.after } else { &replayed.before }.clone();
                self.count_device(id, &behaviour, step_ms);
            }
        }
    }

    fn count_device(&mut self, id: &DeviceId, behaviour: &Behaviour, step_ms: u64) {
        let trials = (behaviour.trials_per_minute * step_ms / MINUTE_MS).min(TRIALS_MAX);
        let mut counted = self.evidence.devices.remove(id).unwrap_or_default();
        for (&measure, &bad) in &behaviour.bad {
            let bad = bad.max(self.world_says(measure));
            let events = (0..trials).filter(|_| self.draws.draw() < bad).count() as u64;
            let counts = counted.measures.entry(measure).or_default();
            *counts = counts.plus(Counts::of(trials, events));
        }
        self.count_classes(&mut counted, &behaviour.classes, trials);
        self.evidence.devices.insert(id.clone(), counted);
    }

    fn count_classes(&mut self, counted: &mut DeviceEvidence, shares: &[f64], trials: u64) {
        if shares.is_empty() {
            return;
        }
        counted.classes.resize(shares.len(), 0);
        for _ in 0..trials {
            let mut left = self.draws.draw();
            let class = shares.iter().position(|share| {
                left -= share;
                left < 0.0
            });
            counted.classes[class.unwrap_or(shares.len() - 1)] += 1;
        }
    }

    fn world_says(&self, measure: Measure) -> f64 {
        let since_ms = self.now_ms - self.start_ms;
        let now = self
            .fleet
            .world
            .iter()
            .filter(|change| change.measure == measure && change.after_ms <= since_ms);
        now.map(|change| change.bad).fold(0.0, f64::max)
    }
}

fn newcomer(replayed: &ReplayDevice, slot: &SlotName) -> InventoryDevice {
    let mut device = InventoryDevice {
        labels: replayed.labels.clone(),
        hardware_class: replayed.hardware_class.clone(),
        capabilities: replayed.capabilities.clone(),
        held: replayed.held.clone(),
        generation: 1,
        followed: 1,
        ..InventoryDevice::default()
    };
    if replayed.bundle.is_some() {
        let state = device.slots.entry(slot.clone()).or_default();
        (state.desired, state.running) = (replayed.bundle, replayed.bundle);
    }
    device
}
