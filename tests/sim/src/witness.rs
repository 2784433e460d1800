//! What must hold of a device at every step, whatever happened to it.
//!
//! The witness outlives the device's power: it remembers what the device once said, did and promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use selvedge_wire::{Boot, Digest, Reported, SlotName, SlotPhase, Stream};

use crate::catalogue::{Catalogue, Specimen};

/// Something happened that must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether all is well.
pub type Checked = Result<(), Violation>;

/// `Err` with these words, unless `holds`.
pub fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation(otherwise())) }
}

/// The records of one stream of one boot.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Those that got a number, in order: the record with the number n is the n-th.
    pub pushed: Vec<Vec<u8>>,
    /// How many of them are durable on the device.
    pub committed: usize,
}

/// What is known of one device.
#[derive(Debug)]
pub struct Witness {
    hardware_class: String,
    generation: u64,
    root_version: u64,
    timestamp_version: u64,
    // The latest time that is known to have passed, as far as the device's disk had it, with the root then.
    floor_ms: u64,
    floor_root_version: u64,
    boot: Boot,
    /// What the fleet's operator has assigned at any time: slot and bundle.
    pub assigned: BTreeSet<(SlotName, Digest)>,
    /// Bundles that have passed a trial on this device.
    tried: BTreeSet<Digest>,
    /// What answered last in a slot that was settled.
    settled: BTreeMap<SlotName, Digest>,
    /// How often the agent ended without order while a bundle was on its way in.
    pub crashes: BTreeMap<Digest, u32>,
    // What was on its way in when the last report was made, or was desired since, and may be tried or on
    // probation by now.
    under_way: BTreeSet<Digest>,
    /// What was recorded.
    pub records: BTreeMap<(Boot, Stream), Records>,
    // How many records quotas dropped, per stream, in all boots.
    dropped: [u64; Stream::ALL.len()],
    // The generation with which a slot was to be emptied.
    emptied: BTreeMap<SlotName, u64>,
    // Every bundle that answered in a slot.
    answered: BTreeSet<(SlotName, Digest)>,
    // The bundle that answers in a slot, and the one before it.
    order: BTreeMap<SlotName, (Digest, Option<Digest>)>,
    /// How many bundles were confirmed or rolled back.
    pub updates_confirmed: u64,
}

impl Witness {
    /// A device of this hardware, about which nothing is known yet.
    pub fn new(hardware_class: &str) -> Self {
        Self {
            hardware_class: hardware_class.to_owned(),
            generation: 0,
            root_version: 0,
            timestamp_version: 0,
            floor_ms: 0,
            floor_root_version: 0,
            boot: Boot(0),
            assigned: BTreeSet::new(),
            tried: BTreeSet::new(),
            settled: BTreeMap::new(),
            crashes: BTreeMap::new(),
            under_way: BTreeSet::new(),
            records: BTreeMap::new(),
            dropped: [0; Stream::ALL.len()],
            emptied: BTreeMap::new(),
            answered: BTreeSet::new(),
            order: BTreeMap::new(),
            updates_confirmed: 0,
        }
    }

    /// A run begins.
    pub fn boots(&mut self, boot: Boot) -> Checked {
        let before = self.boot;
        self.boot = self.boot.max(boot);
        must(boot > before, || format!("boot {} follows boot {}", boot.0, before.0))
    }

    /// A run ends without order.
    pub fn crashes(&mut self) {
        for bundle in &self.under_way {
            *self.crashes.entry(*bundle).or_default() += 1;
        }
    }

    /// A desired state comes: what stands in it may be tried before the next report.
    pub fn hears_of(&mut self, document: &[u8]) {
        let document: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
        let slots = document["signed"]["slots"].as_object().into_iter().flatten();
        let bundle = |slot: &serde_json::Value| slot["bundle"].as_str()?.parse::<Digest>().ok();
        self.under_way.extend(slots.filter_map(|(_, slot)| bundle(slot)));
    }

    /// The device says what it runs.
    pub fn reports(&mut self, reported: &Reported) -> Checked {
        let (generation, trust) = (reported.generation, &reported.trust);
        must(generation >= self.generation, || {
            format!("generation {generation} is reported after {}", self.generation)
        })?;
        must(trust.root_version >= self.root_version, || {
            format!("root {} is trusted after {}", trust.root_version, self.root_version)
        })?;
        // A new root may take the online key's word back, and versions with it.
        let same_root = trust.root_version == self.root_version;
        must(!same_root || trust.timestamp_version >= self.timestamp_version, || {
            format!(
                "timestamp {} is trusted after {}",
                trust.timestamp_version, self.timestamp_version
            )
        })?;
        self.generation = generation;
        self.root_version = trust.root_version;
        self.timestamp_version = trust.timestamp_version;
        self.under_way.clear();
        for report in &reported.slots {
            let running = report.running.as_ref().map(|running| running.bundle);
            match (report.phase, running) {
                (SlotPhase::Settled, Some(bundle)) => {
                    self.emptied.retain(|slot, since| *slot != report.slot || generation <= *since);
                    if self.settled.insert(report.slot.clone(), bundle) != Some(bundle) {
                        self.updates_confirmed += 1;
                    }
                }
                (SlotPhase::Settled, None) => {
                    self.settled.remove(&report.slot);
                }
                _ => self.under_way.extend(report.desired),
            }
        }
        // A slot that is neither desired nor running is not reported.
        let reported: BTreeSet<_> = reported.slots.iter().map(|slot| &slot.slot).collect();
        self.settled.retain(|slot, _| reported.contains(slot));
        Ok(())
    }

    /// The device takes `used_ms` for a time that has passed, under the root that it trusts; its disk has
    /// `kept_ms`, under the root that is kept there. A new root may take back the word of the key that vouched
    /// for a time.
    pub fn knows_time(
        &mut self,
        (used_ms, root_version): (u64, u64),
        (kept_ms, root_version_kept): (u64, u64),
    ) -> Checked {
        if root_version != self.floor_root_version {
            (self.floor_ms, self.floor_root_version) = (0, root_version);
        }
        let before = self.floor_ms;
        if root_version_kept == root_version {
            self.floor_ms = before.max(kept_ms);
        }
        must(used_ms >= before, || format!("the floor of the time is {used_ms} after {before}"))
    }

    /// A bundle has passed its trial.
    pub fn passes_trial(&mut self, bundle: Digest) {
        self.tried.insert(bundle);
    }

    /// A bundle begins to answer.
    pub fn answers(&mut self, slot: &SlotName, bundle: Digest) -> Checked {
        let specimen = self.known(bundle)?;
        let path = specimen.path();
        must(self.assigned.contains(&(slot.clone(), bundle)), || {
            format!("{path} answers in {slot}, where nobody wanted it")
        })?;
        must(specimen.target.allows_hardware(&self.hardware_class), || {
            format!("{path} answers on {}", self.hardware_class)
        })?;
        must(self.tried.contains(&bundle), || format!("{path} answers without a trial"))?;
        self.answered.insert((slot.clone(), bundle));
        let last = self.order.get(slot).copied();
        if last.is_none_or(|(last, _)| last != bundle) {
            self.order.insert(slot.clone(), (bundle, last.map(|(last, _)| last)));
        }
        Ok(())
    }

    /// The bundle that answered before the one that answers.
    pub fn before(&self, slot: &SlotName) -> Option<Digest> {
        self.order.get(slot).and_then(|(_, before)| *before)
    }

    /// Whether a newer version of a bundle has answered in a slot.
    pub fn ran_newer(&self, slot: &SlotName, than: &Specimen) -> bool {
        let of_slot = self.answered.iter().filter(|(of, _)| of == slot);
        let mut ran = of_slot.filter_map(|(_, bundle)| Catalogue::shared().find(*bundle));
        ran.any(|it| it.target.name == than.target.name && it.version() > than.version())
    }

    /// A run has ended in which quotas dropped so many records.
    pub fn drops(&mut self, stream: Stream, count: u64) {
        self.dropped[stream as usize] += count;
    }

    /// How many records quotas dropped in the runs that have ended.
    pub fn dropped(&self, stream: Stream) -> u64 {
        self.dropped[stream as usize]
    }

    fn known(&self, bundle: Digest) -> Result<&'static Specimen, Violation> {
        let found = Catalogue::shared().find(bundle);
        found.ok_or_else(|| Violation(format!("the bundle {bundle} answers, which nobody made")))
    }

    /// The operator wants a slot to be empty, with this generation.
    pub fn is_emptied(&mut self, slot: &SlotName, generation: u64) {
        self.emptied.insert(slot.clone(), generation);
    }

    /// A run has begun, and these slots have a bundle that answers.
    pub fn revived(&self, answering: &BTreeSet<SlotName>) -> Checked {
        let is_silent =
            |slot: &&SlotName| !answering.contains(*slot) && !self.emptied.contains_key(*slot);
        let silent = self.settled.keys().find(is_silent);
        must(silent.is_none(), || {
            format!("{silent:?} had a bundle before the start and has none after it")
        })
    }
}
