//! From a desired state to bundles that answer.
//!
//! [`Updates`] owns what the device believes (the repository's metadata, the generation, the desired
//! bundles) and a state machine per slot. It takes messages and the time, uses the disk, and says what is
//! to be done outside as [`Effect`]s. Nothing unsigned is believed, nothing that is not whole is loaded, and
//! what is recorded is durable before it counts. It waits for no network and starts no thread.
//!
//! A bundle comes in only as a target of the repository: at the path that the desired state names, with the
//! digest that it names, for this hardware, and of no lower version than the highest that the slot confirmed
//! of that name, unless the desired state allows it. What answers already goes on whatever the metadata says.

mod actor;
mod effect;
mod metadata;
mod sites;
mod slot;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use selvedge_bundle::{Bundle, ChunkIndex, ChunkRef, PatchIndex, digest_of, expand};
use selvedge_trust::{Blob, BundleTarget, DesiredSlot, DesiredState, PatchTarget, UnixMillis};
use selvedge_wire::{
    Boot, BundleOffer, Chunk, Desired, DeviceId, Digest, Event, EventKind, FileName, FleetName,
    Reported, Running, SlotName, SlotPhase, SlotReport, Topic, TrustReport, decode,
};
use semver::Version;

use crate::{
    config::BundleLimits,
    disk::{DiskError, SharedDisk, replace},
    error::one_line,
    inference::{Judged, LoadedModel},
    limits::{
        CHUNK_OVERDUE_MS, DESIRED_RETRY_MS, DISK_RESERVE_BYTES, DISK_RETRY_MS, PROGRESS_REPORT_MS,
        SLOTS_MAX,
    },
    malformed::shortened,
};

use metadata::{Lookup, Metadata, Order};
use sites::{SiteOrder, Sites};
use slot::{Action, Candidate, Happening, SlotUpdate};
use store::{BundleStore, StoreError};

pub(crate) use actor::{UpdateInput, UpdatesHandle};
pub use effect::{Effect, Observation, PreviousRun, TrialLimits};
pub use slot::{Attempt, ConfirmedVersion, Refusal, SlotRecord};
pub(crate) use store::bundle_dir;

/// The newest desired state: its generation, 8 bytes, little-endian, and the signed document as it came.
const DESIRED_FILE: &str = "desired";
/// The folder with one record per slot.
const SLOTS_DIR: &str = "slots";

/// Loads and warms the model of a bundle, or says why it must not run here.
pub type LoadModel = Box<dyn Fn(&Bundle) -> Result<LoadedModel, String> + Send>;

/// Who the device is, and whom it trusts.
pub struct Identity {
    /// The device.
    pub device: DeviceId,
    /// Its fleet.
    pub fleet: FleetName,
    /// Its hardware class, for example `aarch64`.
    pub hardware_class: String,
    /// The root metadata that trust begins with.
    pub root: Vec<u8>,
    /// The run that speaks.
    pub boot: Boot,
}

/// The time, as it is given with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// Milliseconds that have passed since some moment; never goes back.
    pub elapsed_ms: u64,
}

/// Why the updates cannot begin.
#[derive(Debug)]
pub enum StartError {
    /// The disk does not work.
    Disk(DiskError),
    /// The root metadata that trust begins with is not usable.
    Root(selvedge_trust::Error),
}

impl From<DiskError> for StartError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(_) => write!(f, "the state directory does not work"),
            Self::Root(_) => write!(f, "the root metadata is not usable"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk(error) => Some(error),
            Self::Root(error) => Some(error),
        }
    }
}

/// What the device should run and does run.
pub struct Updates {
    identity: Identity,
    disk: SharedDisk,
    store: BundleStore,
    limits: BundleLimits,
    load: LoadModel,
    metadata: Metadata,
    // The version of the root that was told last.
    root_version: u64,
    generation: u64,
    document: Vec<u8>,
    wanted: BTreeMap<SlotName, DesiredSlot>,
    slots: BTreeMap<SlotName, SlotUpdate>,
    running: BTreeMap<SlotName, Running>,
    // What was said last of the inputs and answers of a bundle, for the report.
    drift: BTreeMap<SlotName, (Digest, Judged)>,
    sites: Sites,
    // Models that wait for their turn.
    loaded: BTreeMap<SlotName, Box<LoadedModel>>,
    transfers: BTreeMap<Digest, Transfer>,
    // Patches that did not lead where they should: chunks do.
    spoiled: BTreeSet<Digest>,
    // The slots that listen to the offers of a bundle.
    seeking: BTreeMap<SlotName, Digest>,
    // The slots that listen to the index of a patch.
    seeking_patches: BTreeMap<SlotName, PatchSought>,
    subscribed: BTreeMap<String, (Topic, usize)>,
    // A desired state that the disk did not take, and when to try again.
    unrecorded: Option<(Vec<u8>, u64)>,
    // The desired state that was refused last, and when to look at it again.
    refused_document: Vec<u8>,
    refused_retry_at_ms: u64,
    revision: u64,
    reported: Option<Reported>,
    reported_at_ms: u64,
    effects: Vec<Effect>,
}

/// Why an offer is not taken.
enum OfferError {
    /// The metadata does not speak for the bundle.
    Untargeted(String),
    /// It is not what the metadata says.
    Unbelieved(String),
    /// It is what the metadata says, and the bundle must not run here.
    Unfit(String),
    /// The disk failed.
    Disk(String),
}

impl From<DiskError> for OfferError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error.to_string())
    }
}

/// A bundle that is on its way.
struct Transfer {
    target: BundleTarget,
    way: Way,
    // The chunks, or the pieces of the patch.
    pieces: BTreeMap<Digest, ChunkRef>,
}

/// What a bundle is put together from.
enum Way {
    Chunks(ChunkIndex),
    Patch { source: Digest, index: PatchIndex },
}

impl Transfer {
    fn new(target: BundleTarget, way: Way) -> Self {
        let pieces = match &way {
            Way::Patch { index, .. } => {
                index.pieces().iter().map(|piece| (piece.digest, *piece)).collect()
            }
            Way::Chunks(index) => index.chunks().map(|chunk| (chunk.digest, chunk)).collect(),
        };
        Self { target, way, pieces }
    }

    fn pieces_total(&self) -> u32 {
        u32::try_from(self.pieces.len()).unwrap_or(u32::MAX)
    }
}

/// The index of a patch that a slot waits for.
struct PatchSought {
    bundle: Digest,
    index: Blob,
    // When it is asked for again, and offers are listened to as well.
    overdue_at_ms: u64,
}

impl Updates {
    /// Settles what the last run left and loads what answered then, or else what answered before that.
    ///
    /// # Errors
    /// [`StartError`] if the disk does not work, or the identity's root is not usable; damaged content is
    /// reported and set aside.
    pub fn start(
        identity: Identity,
        disk: SharedDisk,
        limits: BundleLimits,
        load: LoadModel,
        previous_run: PreviousRun,
        now: Now,
    ) -> Result<(Self, Vec<Effect>), StartError> {
        let accepted = selvedge_bundle::Limits {
            bundle_bytes_max: limits.bundle_bytes_max,
            model_bytes_max: limits.bundle_bytes_max,
        };
        let store = BundleStore::open(disk.clone(), accepted)?;
        disk.create_dir(SLOTS_DIR)?;
        let sites = Sites::open(disk.clone(), identity.device.clone())?;
        let (metadata, damaged) = Metadata::open(disk.clone(), identity.root.clone())?;
        let mut updates = Self {
            identity,
            disk,
            store,
            limits,
            load,
            metadata,
            root_version: 0,
            generation: 0,
            document: Vec::new(),
            wanted: BTreeMap::new(),
            slots: BTreeMap::new(),
            running: BTreeMap::new(),
            drift: BTreeMap::new(),
            sites,
            loaded: BTreeMap::new(),
            transfers: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            seeking: BTreeMap::new(),
            seeking_patches: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            unrecorded: None,
            refused_document: Vec::new(),
            refused_retry_at_ms: 0,
            revision: 0,
            reported: None,
            reported_at_ms: 0,
            effects: Vec::new(),
        };
        if damaged {
            let detail = "the kept metadata is set aside: trust begins with the configured root";
            updates.tell(EventKind::StateDamaged, None, None, detail.to_owned(), now);
        }
        updates.trust(now);
        let desired = updates.recall_desired(now)?;
        if let Some(desired) = &desired {
            // Known before the first model answers, so that its detectors go on where they were.
            updates.follow_sites(now, |sites, orders| sites.follow(&desired.slots, now, orders));
        }
        updates.recall_slots(previous_run, now)?;
        updates.follow(now, |metadata, orders| metadata.begin(now, orders));
        if let Some(desired) = desired {
            updates.apply(desired, now);
        }
        updates.tidy();
        let effects = updates.finish(now);
        Ok((updates, effects))
    }

    /// A message came on a topic that this part listens to.
    pub fn receive(&mut self, topic: &Topic, payload: &[u8], now: Now) -> Vec<Effect> {
        match topic {
            Topic::Desired(_) => self.receive_desired(payload, now),
            Topic::Metadata(file) => self.receive_metadata(file, payload, now),
            Topic::Bundle(bundle) => self.receive_offer(*bundle, payload, now),
            Topic::Chunk(chunk) => {
                self.receive_piece(*chunk, payload, now);
                self.follow_sites(now, |sites, orders| sites.receive(*chunk, payload, orders));
            }
            _ => {}
        }
        self.finish(now)
    }

    /// The swap that an effect asked for is done.
    pub fn swapped(&mut self, slot: &SlotName, running: Option<Running>, now: Now) -> Vec<Effect> {
        let bundle = running.as_ref().map(|running| running.bundle);
        match running {
            Some(running) => self.running.insert(slot.clone(), running),
            None => self.running.remove(slot),
        };
        self.drift.retain(|of, (judged, _)| of != slot || Some(*judged) == bundle);
        self.tell_slot(slot, Happening::Switched { bundle }, now);
        // Its target may have been revoked while models changed places.
        self.revoke(now);
        self.finish(now)
    }

    /// The trial that an effect asked for has ended, well or with a reason.
    pub fn tried(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
        outcome: Result<(), String>,
        now: Now,
    ) -> Vec<Effect> {
        let outcome = outcome.map_err(|reason| shortened(&reason));
        self.tell_slot(slot, Happening::Tried { bundle, outcome }, now);
        self.finish(now)
    }

    /// What was seen so far of a bundle in its shadow or on its probation.
    pub fn observed(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
        observation: Observation,
        now: Now,
    ) -> Vec<Effect> {
        self.tell_slot(slot, Happening::Observed { bundle, observation }, now);
        self.finish(now)
    }

    /// What is said of the inputs and answers of a bundle that answers, or is about to. It is reported, and
    /// decides nothing here.
    pub fn judged(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
        judged: Judged,
        now: Now,
    ) -> Vec<Effect> {
        self.drift.insert(slot.clone(), (bundle, judged));
        self.finish(now)
    }

    /// Something came that is signed as the fleet signs, and with none of the keys that are known: a newer root
    /// may name that key.
    pub fn disbelieved(&mut self, now: Now) -> Vec<Effect> {
        self.metadata.ask_again(now);
        self.finish(now)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) -> Vec<Effect> {
        self.follow(now, |metadata, orders| metadata.tick(now, orders));
        if let Some((document, retry_at_ms)) = self.unrecorded.take() {
            if now.elapsed_ms >= retry_at_ms {
                self.consider(document, now);
            } else {
                self.unrecorded = Some((document, retry_at_ms));
            }
        }
        // The broker gives it once; the clock that it was refused by may be right by now.
        if !self.refused_document.is_empty() && now.elapsed_ms >= self.refused_retry_at_ms {
            self.consider(self.refused_document.clone(), now);
        }
        self.seek_overdue_again(now);
        self.follow_sites(now, |sites, orders| sites.tick(now, orders));
        if self.slots.values().any(SlotUpdate::is_untargeted) {
            // The director knows of a target that this device has not heard of.
            self.metadata.ask_again(now);
        }
        let slots: Vec<_> = self.slots.keys().cloned().collect();
        slots.iter().for_each(|slot| self.tell_slot(slot, Happening::Tick, now));
        self.finish(now)
    }

    /// The timestamp that led to the repository which bundles are looked for in, by its digest.
    #[cfg(any(test, feature = "simulation"))]
    pub fn followed_timestamp(&self) -> Option<Digest> {
        self.metadata.followed_timestamp()
    }

    /// The latest time that is known to have passed, and the part of it that is kept with the metadata: Unix
    /// time in milliseconds.
    #[cfg(any(test, feature = "simulation"))]
    pub fn time_floors_ms(&self) -> (u64, u64) {
        self.metadata.floors_ms()
    }

    fn finish(&mut self, now: Now) -> Vec<Effect> {
        self.report(now);
        std::mem::take(&mut self.effects)
    }
}

/// On start.
impl Updates {
    fn recall_desired(&mut self, now: Now) -> Result<Option<DesiredState>, DiskError> {
        let Some(bytes) = self.disk.read(DESIRED_FILE)? else { return Ok(None) };
        let Some((generation, document)) = bytes.split_first_chunk() else {
            let detail = "the recorded desired state is set aside: it is cut short";
            self.tell(EventKind::StateDamaged, None, None, detail.to_owned(), now);
            return Ok(None);
        };
        self.generation = u64::from_le_bytes(*generation);
        // It was believed when it came. That its time may be over by now stops nothing that runs.
        let Identity { device, fleet, .. } = &self.identity;
        let root = self.metadata.root();
        match root.verify_desired(document, device, fleet, self.generation, UnixMillis(0)) {
            Ok(desired) => {
                self.document = document.to_vec();
                self.metadata.raise_floor(desired.issued.0);
                Ok(Some(desired))
            }
            Err(error) => {
                // The director may have another key since; the generation counts all the same.
                tracing::warn!("the recorded desired state waits for a newer one: {error}");
                Ok(None)
            }
        }
    }

    fn recall_slots(&mut self, previous_run: PreviousRun, now: Now) -> Result<(), DiskError> {
        for name in self.disk.list(SLOTS_DIR)? {
            let Some(slot) = name.strip_suffix(".json").and_then(|slot| slot.parse().ok()) else {
                self.disk.remove(&format!("{SLOTS_DIR}/{name}"))?;
                continue;
            };
            let bytes = self.disk.read(&slot_file(&slot))?.unwrap_or_default();
            let record = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let detail = format!("the record of the slot {slot} is set aside: {error}");
                self.tell(EventKind::StateDamaged, Some(&slot), None, detail, now);
                SlotRecord::default()
            });
            if previous_run.ended_cleanly {
                self.revive(slot, record, now);
            } else {
                self.revive_after_crash(slot, record, now);
            }
        }
        Ok(())
    }

    /// Counts the crash before anything is loaded that may be to blame for it.
    fn revive_after_crash(&mut self, slot: SlotName, before: SlotRecord, now: Now) {
        let mut record = before.clone().after_crash();
        let given_up = record.give_up_crashed();
        if record != before
            && let Happening::DiskFailed { reason } = self.record(&slot, &record)
            && record.probation.is_some()
        {
            return self.stand_in(slot, record, reason, now);
        }
        for (refusal, answered) in given_up {
            if answered {
                self.tell_rolled_back(&slot, &refusal, now);
            } else {
                self.tell_refused(&slot, &refusal, now);
            }
        }
        self.revive(slot, record, now);
    }

    /// Lets the bundle of a record answer again; if it cannot, the one before it.
    fn revive(&mut self, slot: SlotName, mut record: SlotRecord, now: Now) {
        let mut current = None;
        while let Some(bundle) = record.current {
            match self.load_kept(bundle) {
                Ok((model, candidate)) => {
                    current = Some(candidate);
                    if record.probation.is_some() {
                        self.effects.push(Effect::Watch { slot: slot.clone(), on: true });
                    }
                    self.answer_again(&slot, model);
                    break;
                }
                Err(StoreError::Unfit(reason)) => {
                    let refusal = Refusal { bundle, generation: self.generation, reason };
                    self.tell_refused(&slot, &refusal, now);
                    record.current = record.previous.take();
                    record.probation = None;
                    record.refused = Some(refusal);
                    self.record(&slot, &record);
                    if let Err(error) = self.store.discard(bundle) {
                        tracing::error!("{error}");
                    }
                }
                Err(error) => return self.stand_in(slot, record, error.to_string(), now),
            }
        }
        self.slots.insert(slot, SlotUpdate::revived(record, current, now.elapsed_ms));
    }

    /// Lets the bundle before answer until the disk gives the one that should. Nothing is given up.
    fn stand_in(&mut self, slot: SlotName, record: SlotRecord, reason: String, now: Now) {
        tracing::error!("slot {slot}: {reason}");
        let mut answering = None;
        if let Some(bundle) = record.previous
            && let Ok((model, _)) = self.load_kept(bundle)
        {
            self.answer_again(&slot, model);
            answering = Some(bundle);
        }
        let update = SlotUpdate::unread(record, answering, &reason, now.elapsed_ms);
        self.slots.insert(slot, update);
    }

    fn answer_again(&mut self, slot: &SlotName, model: LoadedModel) {
        self.running.insert(slot.clone(), model.running.clone());
        let model = Some(Box::new(model));
        self.effects.push(Effect::Swap { slot: slot.clone(), model });
    }
}

/// The repository's metadata.
impl Updates {
    fn receive_metadata(&mut self, file: &FileName, payload: &[u8], now: Now) {
        self.follow(now, |metadata, orders| metadata.receive(file, payload, now, orders));
    }

    /// Lets the metadata go on, does what it asks for, and looks at what that means for the slots.
    fn follow(&mut self, now: Now, step: impl FnOnce(&mut Metadata, &mut Vec<Order>)) {
        let mut orders = Vec::new();
        step(&mut self.metadata, &mut orders);
        for order in orders {
            match order {
                Order::Listen(file) => self.subscribe(Topic::Metadata(file)),
                Order::Unlisten(file) => self.unsubscribe(Topic::Metadata(file)),
                Order::ListenAgain(file) => self.subscribe_again(Topic::Metadata(file)),
                Order::Tell(kind, detail) => self.tell(kind, None, None, detail, now),
            }
        }
        if self.metadata.take_changed() {
            self.trust(now);
            self.seek_all(now);
            self.revoke(now);
        }
    }

    /// Says which root holds. Another root may also have another director.
    fn trust(&mut self, now: Now) {
        let root = self.metadata.root();
        let version = root.root().version();
        if version == self.root_version {
            return;
        }
        let is_first = self.root_version == 0;
        self.root_version = version;
        self.effects.push(Effect::Trust(Box::new(root.clone())));
        if !is_first && !self.refused_document.is_empty() {
            self.consider(self.refused_document.clone(), now);
        }
    }

    fn seek_all(&mut self, now: Now) {
        let sought = self.slots.iter().filter_map(|(slot, update)| Some((slot, update.sought()?)));
        let sought: Vec<_> = sought.map(|(slot, bundle)| (slot.clone(), bundle)).collect();
        for (slot, bundle) in sought {
            if let Some(happening) = self.seek(&slot, bundle, now) {
                self.tell_slot(&slot, happening, now);
            }
        }
    }

    /// Stops what is not confirmed and is no target any more.
    fn revoke(&mut self, now: Now) {
        let mut revoked = Vec::new();
        for (slot, update) in &self.slots {
            let wanted = self.wanted.get(slot);
            let Some(wanted) = wanted.filter(|wanted| update.unconfirmed() == Some(wanted.bundle))
            else {
                continue;
            };
            let reason = match self.metadata.lookup(&wanted.target) {
                Lookup::Absent(reason) => reason,
                Lookup::Bundle(target) if target.bundle() != wanted.bundle => {
                    is_another(&wanted.target, target)
                }
                _ => continue,
            };
            revoked.push((slot.clone(), Happening::Revoked { bundle: wanted.bundle, reason }));
        }
        revoked.into_iter().for_each(|(slot, happening)| self.tell_slot(&slot, happening, now));
    }

    /// The target that speaks for the bundle that a slot shall have.
    fn target_of(&self, slot: &SlotName, bundle: Digest) -> Result<BundleTarget, OfferError> {
        let wanted = self.wanted.get(slot).filter(|wanted| wanted.bundle == bundle);
        let Some(wanted) = wanted else {
            let reason = format!("no desired state names the bundle {bundle}");
            return Err(OfferError::Untargeted(reason));
        };
        let target = match self.metadata.lookup(&wanted.target) {
            Lookup::Bundle(target) if target.bundle() == bundle => target.clone(),
            Lookup::Bundle(target) => {
                return Err(OfferError::Untargeted(is_another(&wanted.target, target)));
            }
            Lookup::Absent(reason) | Lookup::Unknown(reason) => {
                return Err(OfferError::Untargeted(reason));
            }
        };
        self.check_hardware(&target).map_err(OfferError::Unfit)?;
        self.check_version(slot, wanted, &target).map_err(OfferError::Unfit)?;
        Ok(target)
    }

    fn check_hardware(&self, target: &BundleTarget) -> Result<(), String> {
        let hardware_class = &self.identity.hardware_class;
        if target.allows_hardware(hardware_class) {
            return Ok(());
        }
        let allowed = target.hardware_classes.join(", ");
        Err(format!("it is for the hardware {allowed}; this device is {hardware_class}"))
    }

    fn check_version(
        &self,
        slot: &SlotName,
        wanted: &DesiredSlot,
        target: &BundleTarget,
    ) -> Result<(), String> {
        let text = &target.version;
        let version: Version =
            text.parse().map_err(|error| format!("its version {text} is none: {error}"))?;
        let record = self.slots.get(slot).map(SlotUpdate::record);
        let answers = record.is_some_and(|record| record.current == Some(wanted.bundle));
        let confirmed = record.and_then(|record| record.confirmed_version(&target.name));
        match confirmed.filter(|confirmed| version.cmp_precedence(confirmed).is_lt()) {
            Some(confirmed) if !wanted.allow_downgrade && !answers => Err(format!(
                "its version {version} is lower than {confirmed}, which this slot confirmed; the desired \
                 state does not allow that"
            )),
            _ => Ok(()),
        }
    }
}

/// The desired state.
impl Updates {
    fn receive_desired(&mut self, payload: &[u8], now: Now) {
        match decode::<Desired>(payload) {
            Ok(desired) => self.consider(desired.document, now),
            Err(error) => {
                self.effects.push(Effect::Malformed { problem: format!("desired state: {error}") });
            }
        }
    }

    fn consider(&mut self, document: Vec<u8>, now: Now) {
        if document == self.document {
            return;
        }
        match self.verify_desired(&document, now) {
            Ok(desired) => self.accept(document, desired, now),
            Err(reason) => self.refuse_desired(document, reason, now),
        }
    }

    fn verify_desired(&self, document: &[u8], now: Now) -> Result<DesiredState, String> {
        let Identity { device, fleet, .. } = &self.identity;
        let now = UnixMillis(self.metadata.time(now).unix_ms);
        let root = self.metadata.root();
        let desired = root.verify_desired(document, device, fleet, self.generation, now);
        let desired = desired.map_err(|error| one_line(&error))?;
        if desired.slots.len() > SLOTS_MAX {
            let count = desired.slots.len();
            return Err(format!("it has {count} slots, this device takes {SLOTS_MAX}"));
        }
        let known = !self.document.is_empty() && desired.generation == self.generation;
        if known && desired.slots != self.wanted {
            let generation = desired.generation;
            return Err(format!(
                "generation {generation} was seen before and wanted other bundles"
            ));
        }
        Ok(desired)
    }

    fn accept(&mut self, document: Vec<u8>, desired: DesiredState, now: Now) {
        self.metadata.raise_floor(desired.issued.0);
        // A device that forgot what it followed could be led back to an older state.
        let recorded = [&desired.generation.to_le_bytes()[..], &document].concat();
        let kept = self.metadata.keep_floor(desired.issued.0);
        let kept = kept.and_then(|()| replace(self.disk.as_ref(), DESIRED_FILE, &recorded));
        if let Err(error) = kept {
            tracing::error!("a new desired state waits, and is tried again: {error}");
            self.unrecorded = Some((document, now.elapsed_ms + DISK_RETRY_MS));
            return;
        }
        self.generation = desired.generation;
        self.document = document;
        self.refused_document.clear();
        self.apply(desired, now);
    }

    fn apply(&mut self, desired: DesiredState, now: Now) {
        let generation = desired.generation;
        for slot in desired.slots.keys() {
            self.slots.entry(slot.clone()).or_insert_with(SlotUpdate::empty);
        }
        self.follow_sites(now, |sites, orders| sites.follow(&desired.slots, now, orders));
        self.wanted = desired.slots;
        for slot in self.slots.keys().cloned().collect::<Vec<_>>() {
            let wanted = self.wanted.get(&slot);
            let bundle = wanted.map(|wanted| wanted.bundle);
            let shadow_samples = wanted.map_or(0, |wanted| wanted.shadow_samples);
            let happening = Happening::Desired { generation, bundle, shadow_samples };
            self.tell_slot(&slot, happening, now);
        }
        let paths = self.wanted.values().map(|wanted| wanted.target.clone()).collect();
        self.follow(now, |metadata, orders| metadata.want(&paths, now, orders));
    }

    /// Lets the site baselines go on, and does what that asks for.
    fn follow_sites(&mut self, now: Now, step: impl FnOnce(&mut Sites, &mut Vec<SiteOrder>)) {
        let mut orders = Vec::new();
        step(&mut self.sites, &mut orders);
        for order in orders {
            match order {
                SiteOrder::Listen(site) => self.subscribe(Topic::Chunk(site)),
                SiteOrder::ListenAgain(site) => self.subscribe_again(Topic::Chunk(site)),
                SiteOrder::Unlisten(site) => self.unsubscribe(Topic::Chunk(site)),
                SiteOrder::Judge { slot, site } => self.effects.push(Effect::Site { slot, site }),
                SiteOrder::Tell { kind, slot, bundle, detail } => {
                    tracing::warn!("slot {slot}: {detail}");
                    self.tell(kind, Some(&slot), Some(bundle), detail, now);
                }
                SiteOrder::Malformed(problem) => self.effects.push(Effect::Malformed { problem }),
            }
        }
    }

    fn refuse_desired(&mut self, document: Vec<u8>, reason: String, now: Now) {
        // The broker gives a retained one again on every connection; it is news only once.
        if document != self.refused_document {
            tracing::warn!("a desired state was refused: {reason}");
            self.metadata.ask_again(now);
            self.tell(EventKind::DesiredRefused, None, None, reason, now);
            self.refused_document = document;
        }
        self.refused_retry_at_ms = now.elapsed_ms + DESIRED_RETRY_MS;
    }
}

/// Offers and pieces.
impl Updates {
    fn receive_offer(&mut self, bundle: Digest, payload: &[u8], now: Now) {
        match decode::<BundleOffer>(payload) {
            Ok(offer) => self.take_offer(bundle, &offer, now),
            Err(error) => {
                self.effects.push(Effect::Malformed { problem: format!("bundle offer: {error}") });
            }
        }
    }

    fn take_offer(&mut self, bundle: Digest, offer: &BundleOffer, now: Now) {
        let seeking = self.slots.iter().filter(|(_, update)| update.sought() == Some(bundle));
        for slot in seeking.map(|(slot, _)| slot.clone()).collect::<Vec<_>>() {
            let checked =
                self.target_of(&slot, bundle).and_then(|target| self.check_offer(target, offer));
            let happening = offered(bundle, checked);
            self.tell_slot(&slot, happening, now);
        }
    }

    /// What is missing of the bundle, and how many pieces there are.
    fn check_offer(
        &mut self,
        target: BundleTarget,
        offer: &BundleOffer,
    ) -> Result<(Vec<Digest>, u32), OfferError> {
        let bundle = target.bundle();
        if !is_named(&target.chunk_index, &offer.index) {
            let reason = "the chunk index is not the one that the target names";
            return Err(OfferError::Unbelieved(reason.to_owned()));
        }
        let index = ChunkIndex::decode(&offer.index).map_err(|error| one_line(&error));
        let index = index.map_err(OfferError::Unfit)?;
        if index.bundle() != bundle {
            return Err(OfferError::Unfit("the chunk index is about another bundle".to_owned()));
        }
        self.check_room(bundle, index.len_bytes())?;
        self.store.keep_offer(bundle, offer)?;
        let missing = self.store.missing(&index)?;
        Ok(self.begin(Transfer::new(target, Way::Chunks(index)), missing))
    }

    fn begin(&mut self, transfer: Transfer, missing: Vec<Digest>) -> (Vec<Digest>, u32) {
        let pieces_total = transfer.pieces_total();
        self.transfers.insert(transfer.target.bundle(), transfer);
        (missing, pieces_total)
    }

    /// The same with a patch; nothing if that does not lead to the bundle, as far as can be told.
    fn check_patch(
        &mut self,
        target: &BundleTarget,
        bytes: &[u8],
    ) -> Result<Option<(Vec<Digest>, u32)>, OfferError> {
        let bundle = target.bundle();
        let named = self.usable_patches(target)?.into_iter();
        let Some(named) = named.into_iter().find(|named| is_named(&named.index, bytes)) else {
            return Ok(None);
        };
        let index = PatchIndex::decode(bytes).ok();
        let (Some(index), Some(before)) = (index, self.store.index_of(named.source)?) else {
            self.spoiled.insert(named.index.digest);
            return Ok(None);
        };
        match self.check_room(bundle, index.bundle_bytes_max(before.len_bytes())) {
            // Only the chunk index says how long the bundle is to the byte.
            Err(OfferError::Unfit(_)) => {
                self.spoiled.insert(named.index.digest);
                return Ok(None);
            }
            checked => checked?,
        }
        self.store.keep_patch_index(bundle, bytes)?;
        let missing = self.store.missing_pieces(&index)?;
        let way = Way::Patch { source: named.source, index };
        Ok(Some(self.begin(Transfer::new(target.clone(), way), missing)))
    }

    /// The patches to a bundle whose source is on the disk, the shortest first. A patch was only published
    /// because it is shorter than the offer and the chunks that its source lacks.
    fn usable_patches(&self, target: &BundleTarget) -> Result<Vec<PatchTarget>, DiskError> {
        let mut usable = Vec::new();
        for patch in &target.patches {
            let is_whole =
                self.store.has(patch.source)? && self.store.index_of(patch.source)?.is_some();
            if is_whole && !self.spoiled.contains(&patch.index.digest) {
                usable.push(patch.clone());
            }
        }
        usable.sort_by_key(|patch| patch.len_bytes);
        Ok(usable)
    }

    fn check_room(&self, bundle: Digest, len: u64) -> Result<(), OfferError> {
        let BundleLimits { bundle_bytes_max, bundles_bytes_max } = self.limits;
        if len > bundle_bytes_max {
            let reason = format!("it has {len} bytes; this device takes {bundle_bytes_max}");
            return Err(OfferError::Unfit(reason));
        }
        let kept = self.store.kept_bytes(bundle)?;
        if kept + len > bundles_bytes_max {
            let reason = format!(
                "it has {len} bytes beside {kept} of other bundles; this device keeps {bundles_bytes_max}"
            );
            return Err(OfferError::Unfit(reason));
        }
        // Its chunks and its layout are on the disk at the same time for a moment.
        let needed = 2 * len + DISK_RESERVE_BYTES;
        let free = self.store.free_bytes()?;
        if free < needed && !self.store.has(bundle)? {
            let reason = format!("the disk has {free} bytes free, {needed} are needed");
            return Err(OfferError::Disk(reason));
        }
        Ok(())
    }

    fn receive_patch_index(&mut self, index: Digest, payload: &[u8], now: Now) {
        let sought = self.seeking_patches.iter().filter(|(_, sought)| sought.index.digest == index);
        let sought: Vec<_> =
            sought.map(|(slot, sought)| (slot.clone(), sought.bundle, sought.index)).collect();
        for (slot, bundle, index) in sought {
            let len_bytes = u32::try_from(index.len_bytes).unwrap_or(u32::MAX);
            match read_piece(payload, &ChunkRef { digest: index.digest, len_bytes }) {
                Err(problem) => self.effects.push(Effect::Malformed { problem }),
                Ok(bytes) => {
                    let checked = self.target_of(&slot, bundle);
                    let checked = checked.and_then(|target| self.check_patch(&target, &bytes));
                    let happening = match checked.transpose() {
                        Some(checked) => Some(offered(bundle, checked)),
                        None => self.seek(&slot, bundle, now),
                    };
                    happening
                        .into_iter()
                        .for_each(|happening| self.tell_slot(&slot, happening, now));
                }
            }
        }
    }

    fn receive_piece(&mut self, piece: Digest, payload: &[u8], now: Now) {
        self.receive_patch_index(piece, payload, now);
        let expected = self.transfers.values().find_map(|transfer| transfer.pieces.get(&piece));
        let Some(expected) = expected else { return };
        let happening = match read_piece(payload, expected)
            .map(|content| self.store.keep_chunk(piece, &content))
        {
            Ok(Ok(())) => Happening::PieceKept { piece },
            Ok(Err(error)) => Happening::DiskFailed { reason: error.to_string() },
            Err(problem) => return self.effects.push(Effect::Malformed { problem }),
        };
        let transfers = self.transfers.iter();
        let concerned = transfers.filter(|(_, transfer)| transfer.pieces.contains_key(&piece));
        let bundles: BTreeSet<_> = concerned.map(|(bundle, _)| *bundle).collect();
        let slots = self
            .slots
            .iter()
            .filter(|(_, update)| update.target().is_some_and(|bundle| bundles.contains(&bundle)));
        for slot in slots.map(|(slot, _)| slot.clone()).collect::<Vec<_>>() {
            self.tell_slot(&slot, happening.clone(), now);
        }
    }
}

/// The actions of slots.
impl Updates {
    /// Tells a slot what happened, does what it answers, and tells it what came of that.
    fn tell_slot(&mut self, slot: &SlotName, happening: Happening, now: Now) {
        let mut happenings = vec![happening];
        while let Some(happening) = happenings.pop() {
            let Some(update) = self.slots.get_mut(slot) else { return };
            let actions = update.handle(happening, now.elapsed_ms);
            for action in actions {
                happenings.extend(self.act(slot, action, now));
            }
        }
    }

    fn act(&mut self, slot: &SlotName, action: Action, now: Now) -> Option<Happening> {
        match action {
            Action::Seek(bundle) => return self.seek(slot, bundle, now),
            Action::SeekAgain(bundle) => self.subscribe_again(Topic::Bundle(bundle)),
            Action::StopSeeking(bundle) => self.stop_seeking(slot, bundle),
            Action::Request(piece) => self.subscribe(Topic::Chunk(piece)),
            Action::RequestAgain(piece) => self.subscribe_again(Topic::Chunk(piece)),
            Action::StopRequesting(piece) => self.unsubscribe(Topic::Chunk(piece)),
            Action::Verify(bundle) => {
                return Some(self.unsure(slot, bundle).unwrap_or_else(|| self.verify(bundle)));
            }
            Action::Record(record) => return Some(self.record(slot, &record)),
            Action::Try(bundle) => self.try_out(slot, bundle),
            Action::Load(bundle) => {
                return Some(self.unsure(slot, bundle).unwrap_or_else(|| self.load(slot, bundle)));
            }
            Action::Unload => {
                self.loaded.remove(slot);
            }
            Action::Shadow(samples_wanted) => {
                let (slot, model) = (slot.clone(), self.loaded.remove(slot));
                self.effects.push(Effect::Shadow { slot, model, samples_wanted });
            }
            Action::EndShadow => {
                let slot = slot.clone();
                self.effects.push(Effect::Shadow { slot, model: None, samples_wanted: 0 });
            }
            Action::Watch(on) => self.effects.push(Effect::Watch { slot: slot.clone(), on }),
            Action::Switch(bundle) => self.switch(slot, bundle),
            Action::TellSwapped(bundle) => {
                self.tell_running(EventKind::Swapped, slot, bundle, "answers", now);
            }
            Action::TellConfirmed(bundle) => {
                self.tell_running(EventKind::Confirmed, slot, bundle, "stood its probation", now);
            }
            Action::TellRefused(refusal) => self.tell_refused(slot, &refusal, now),
            Action::TellRolledBack(refusal) => self.tell_rolled_back(slot, &refusal, now),
            Action::TellMisoffered { bundle, reason } => {
                self.tell_misoffered(slot, bundle, &reason, now);
            }
            Action::Tidy => self.tidy(),
        }
        None
    }

    fn seek(&mut self, slot: &SlotName, bundle: Digest, now: Now) -> Option<Happening> {
        let found = match self.find_on_disk(slot, bundle) {
            Ok(None) => self.listen(slot, bundle, now).map(|()| None),
            found => found,
        };
        found.transpose().map(|found| offered(bundle, found))
    }

    /// Listens to the index of the shortest patch, or else to offers.
    fn listen(&mut self, slot: &SlotName, bundle: Digest, now: Now) -> Result<(), OfferError> {
        let target = self.target_of(slot, bundle)?;
        let usable = self.usable_patches(&target)?;
        let sought = self.seeking_patches.get(slot).map(|sought| sought.index.digest);
        let Some(patch) = usable.first() else {
            self.stop_seeking_patch(slot);
            self.listen_to_offers(slot, bundle);
            return Ok(());
        };
        if sought != Some(patch.index.digest) {
            self.stop_seeking_patch(slot);
            let overdue_at_ms = now.elapsed_ms + CHUNK_OVERDUE_MS;
            let sought = PatchSought { bundle, index: patch.index, overdue_at_ms };
            self.seeking_patches.insert(slot.clone(), sought);
            self.subscribe(Topic::Chunk(patch.index.digest));
        }
        Ok(())
    }

    /// The broker need not have a patch: offers are listened to as well when its index takes too long.
    fn seek_overdue_again(&mut self, now: Now) {
        let mut overdue = Vec::new();
        for (slot, sought) in &mut self.seeking_patches {
            if now.elapsed_ms >= sought.overdue_at_ms {
                sought.overdue_at_ms = now.elapsed_ms + CHUNK_OVERDUE_MS;
                overdue.push((slot.clone(), sought.bundle, sought.index.digest));
            }
        }
        for (slot, bundle, index) in overdue {
            self.subscribe_again(Topic::Chunk(index));
            if self.seeking.get(&slot) != Some(&bundle) {
                self.listen_to_offers(&slot, bundle);
            }
        }
    }

    fn stop_seeking_patch(&mut self, slot: &SlotName) {
        if let Some(sought) = self.seeking_patches.remove(slot) {
            self.unsubscribe(Topic::Chunk(sought.index.digest));
        }
    }

    /// What is missing of a bundle that is known already, and how many pieces there are.
    fn find_on_disk(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
    ) -> Result<Option<(Vec<Digest>, u32)>, OfferError> {
        let whole = self.store.has(bundle)?;
        let answers = self
            .slots
            .get(slot)
            .map(SlotUpdate::record)
            .is_some_and(|record| record.current == Some(bundle));
        // What answered before may answer again, whatever the metadata says by now.
        if whole && answers {
            return Ok(Some((Vec::new(), 0)));
        }
        let target = self.target_of(slot, bundle)?;
        if whole {
            return Ok(Some((Vec::new(), 0)));
        }
        // What came before a restart spares the wait for the network, if it is still good.
        if let Some(offer) = self.store.offer(bundle)? {
            match self.check_offer(target.clone(), &offer) {
                Err(OfferError::Unbelieved(_)) => {}
                checked => return checked.map(Some),
            }
        }
        match self.store.patch_index(bundle)? {
            Some(index) => self.check_patch(&target, &index),
            None => Ok(None),
        }
    }

    fn listen_to_offers(&mut self, slot: &SlotName, bundle: Digest) {
        let topic = Topic::Bundle(bundle);
        let is_new = self.seeking.insert(slot.clone(), bundle) != Some(bundle);
        let is_known = self.subscribed.contains_key(&topic.to_string());
        if is_new {
            self.subscribe(topic.clone());
        }
        if is_known {
            self.subscribe_again(topic);
        }
    }

    fn stop_seeking(&mut self, slot: &SlotName, bundle: Digest) {
        if self.seeking_patches.get(slot).is_some_and(|sought| sought.bundle == bundle) {
            self.stop_seeking_patch(slot);
        }
        if self.seeking.get(slot) == Some(&bundle) {
            self.seeking.remove(slot);
            self.unsubscribe(Topic::Bundle(bundle));
        }
    }

    /// What speaks against a bundle that has yet to answer: whoever holds the broker may let a timestamp through
    /// that has the bundle's target revoked, and keep back the file which says so.
    fn unsure(&self, slot: &SlotName, bundle: Digest) -> Option<Happening> {
        let record = self.slots.get(slot).map(SlotUpdate::record)?;
        if record.current == Some(bundle) || record.previous == Some(bundle) {
            return None;
        }
        match self.target_of(slot, bundle) {
            Ok(_) => None,
            Err(OfferError::Untargeted(reason)) => Some(Happening::Unsure { bundle, reason }),
            Err(error) => Some(offered(bundle, Err(error))),
        }
    }

    fn verify(&mut self, bundle: Digest) -> Happening {
        match self.check_whole(bundle) {
            Ok(candidate) => Happening::Verified(candidate),
            Err(StoreError::Disk(reason)) => Happening::DiskFailed { reason },
            Err(StoreError::Lacking(missing)) => {
                let pieces_total = self.transfers.get(&bundle).map_or(0, Transfer::pieces_total);
                Happening::Lacking { bundle, missing, pieces_total }
            }
            Err(StoreError::Unpatched(reason)) => {
                let problem =
                    format!("a patch to {bundle} fails, its chunks are fetched: {reason}");
                self.effects.push(Effect::Malformed { problem });
                let transfer = self.transfers.remove(&bundle);
                if let Some(Transfer { way: Way::Patch { index, .. }, .. }) = transfer {
                    self.spoiled.insert(index.digest());
                }
                Happening::Unpatched { bundle }
            }
            Err(StoreError::Unfit(reason)) => {
                self.discard_unless_it_answers(bundle);
                Happening::Unfit { bundle, reason }
            }
        }
    }

    /// Checks a bundle as a whole, which is on the disk then.
    fn check_whole(&mut self, bundle: Digest) -> Result<Candidate, StoreError> {
        if self.store.has(bundle)? {
            return candidate(&self.store.read(bundle)?);
        }
        let lost = || StoreError::Disk(format!("what was known of bundle {bundle} is gone"));
        let transfer = self.transfers.get(&bundle).ok_or_else(lost)?;
        let whole = match &transfer.way {
            Way::Patch { source, index } => {
                self.store.patch(*source, &transfer.target.manifest, index)?
            }
            Way::Chunks(index) => self.store.assemble(index)?,
        };
        let candidate = candidate(&whole)?;
        let Candidate { name, version, .. } = &candidate;
        let target = &transfer.target;
        if (name.as_str(), version.to_string()) != (&target.name, target.version.clone()) {
            return Err(StoreError::Unfit(format!(
                "its manifest says {name} {version}, its target {} {}",
                target.name, target.version
            )));
        }
        self.store.keep_whole(&whole)?;
        Ok(candidate)
    }

    fn try_out(&mut self, slot: &SlotName, bundle: Digest) {
        let candidate = self.slots.get(slot).and_then(SlotUpdate::on_trial);
        let Some(candidate) = candidate else { return };
        let limits = TrialLimits {
            time_max: Duration::from_secs(candidate.policy.trial_time_s_max.into()),
            memory_bytes_max: candidate.trial_memory_bytes_max,
        };
        self.effects.push(Effect::Try { slot: slot.clone(), bundle, limits });
    }

    fn load(&mut self, slot: &SlotName, bundle: Digest) -> Happening {
        match self.load_kept(bundle) {
            Ok((model, _)) => {
                self.loaded.insert(slot.clone(), Box::new(model));
                Happening::Loaded { bundle }
            }
            Err(StoreError::Unfit(reason)) => {
                self.discard_unless_it_answers(bundle);
                Happening::Unfit { bundle, reason }
            }
            Err(error) => Happening::DiskFailed { reason: error.to_string() },
        }
    }

    /// A bundle that is on the disk as a whole.
    fn load_kept(&self, bundle: Digest) -> Result<(LoadedModel, Candidate), StoreError> {
        let whole = self.store.read(bundle)?;
        let candidate = candidate(&whole)?;
        let model = (self.load)(&whole).map_err(StoreError::Unfit)?;
        Ok((model, candidate))
    }

    fn discard_unless_it_answers(&self, bundle: Digest) {
        let in_use = self.running.values().any(|running| running.bundle == bundle);
        if !in_use && let Err(error) = self.store.discard(bundle) {
            tracing::error!("{error}");
        }
    }

    fn record(&self, slot: &SlotName, record: &SlotRecord) -> Happening {
        let bytes = serde_json::to_vec(record).expect("a record is plain JSON");
        match replace(self.disk.as_ref(), &slot_file(slot), &bytes) {
            Ok(()) => Happening::Recorded,
            Err(error) => {
                tracing::error!("the record of the slot {slot} was not written: {error}");
                Happening::DiskFailed { reason: error.to_string() }
            }
        }
    }

    fn switch(&mut self, slot: &SlotName, bundle: Option<Digest>) {
        let model = self.loaded.remove(slot);
        let fits = model.as_ref().map(|model| model.running.bundle) == bundle;
        // The machine asks for what it had loaded last, or for none.
        debug_assert!(fits, "another model waits than the one that is to answer");
        self.effects.push(Effect::Swap { slot: slot.clone(), model: model.filter(|_| fits) });
    }

    fn tidy(&mut self) {
        let records = self.slots.values().map(SlotUpdate::record);
        let kept = records.flat_map(|record| [record.current, record.previous]).flatten();
        let arriving: BTreeSet<_> = self.slots.values().filter_map(SlotUpdate::target).collect();
        let needed: BTreeSet<_> = kept.chain(arriving.iter().copied()).collect();
        self.transfers.retain(|bundle, _| arriving.contains(bundle));
        if arriving.is_empty() {
            self.spoiled.clear();
        }
        if let Err(error) = self.store.tidy(&needed, &arriving) {
            tracing::warn!("old bundles stay on the disk for now: {error}");
        }
    }
}

/// What is told.
impl Updates {
    fn subscribe(&mut self, topic: Topic) {
        let entry = self.subscribed.entry(topic.to_string()).or_insert((topic.clone(), 0));
        entry.1 += 1;
        if entry.1 == 1 {
            self.effects.push(Effect::Subscribe(topic));
        }
    }

    /// A broker gives what it retains only to a subscription that is new to it.
    fn subscribe_again(&mut self, topic: Topic) {
        if self.subscribed.contains_key(&topic.to_string()) {
            self.effects.push(Effect::Unsubscribe(topic.clone()));
            self.effects.push(Effect::Subscribe(topic));
        }
    }

    fn unsubscribe(&mut self, topic: Topic) {
        let name = topic.to_string();
        let Some(entry) = self.subscribed.get_mut(&name) else { return };
        entry.1 -= 1;
        if entry.1 == 0 {
            self.subscribed.remove(&name);
            self.effects.push(Effect::Unsubscribe(topic));
        }
    }

    /// Says what the device runs, if that has changed; how far something is, only every so often.
    fn report(&mut self, now: Now) {
        let slots = self.slots.iter().map(|(slot, update)| SlotReport {
            slot: slot.clone(),
            phase: update.phase(),
            running: self.running.get(slot).cloned(),
            desired: update.desired(),
            reason: update.reason().map(shortened),
            comparison: update.comparison(),
            drift: self.judged_of(slot).and_then(|judged| judged.drift.clone()),
            site: self.judged_of(slot).and_then(|judged| judged.site.clone()),
        });
        let slots = slots.filter(|report| report.running.is_some() || report.desired.is_some());
        let state = self.metadata.stored_state();
        let mut reported = Reported {
            boot: self.identity.boot,
            revision: self.revision,
            generation: self.generation,
            trust: TrustReport {
                root_version: state.root_version,
                timestamp_version: state.timestamp_version,
                fresh_until_ms: state.fresh_until.0,
                frozen: self.metadata.is_frozen(),
                time_unverified: self.metadata.is_time_unverified(),
            },
            slots: slots.collect(),
        };
        let is_due = match &self.reported {
            None => true,
            Some(before) if *before == reported => false,
            Some(before) if without_progress(before) == without_progress(&reported) => {
                now.elapsed_ms >= self.reported_at_ms + PROGRESS_REPORT_MS
            }
            Some(_) => true,
        };
        if is_due {
            self.revision += 1;
            self.reported_at_ms = now.elapsed_ms;
            reported.revision = self.revision;
            self.reported = Some(reported.clone());
            self.effects.push(Effect::Report(reported));
        }
    }

    fn judged_of(&self, slot: &SlotName) -> Option<&Judged> {
        let running = self.running.get(slot)?.bundle;
        let judged = self.drift.get(slot).filter(|(bundle, _)| *bundle == running);
        judged.map(|(_, judged)| judged)
    }

    fn tell_running(
        &mut self,
        kind: EventKind,
        slot: &SlotName,
        bundle: Digest,
        what: &str,
        now: Now,
    ) {
        let running = self.running.get(slot).filter(|running| running.bundle == bundle);
        let detail = match running {
            Some(running) => format!("{} {} {what}", running.name, running.version),
            None => format!("{bundle} {what}"),
        };
        self.tell(kind, Some(slot), Some(bundle), detail, now);
    }

    fn tell_refused(&mut self, slot: &SlotName, refusal: &Refusal, now: Now) {
        let Refusal { bundle, reason, .. } = refusal;
        tracing::warn!("slot {slot}: the bundle {bundle} was refused: {reason}");
        self.tell(EventKind::BundleRefused, Some(slot), Some(*bundle), reason.clone(), now);
    }

    fn tell_rolled_back(&mut self, slot: &SlotName, refusal: &Refusal, now: Now) {
        let Refusal { bundle, reason, .. } = refusal;
        tracing::warn!("slot {slot}: back from the bundle {bundle}: {reason}");
        self.tell(EventKind::RolledBack, Some(slot), Some(*bundle), reason.clone(), now);
    }

    fn tell_misoffered(&mut self, slot: &SlotName, bundle: Digest, reason: &str, now: Now) {
        tracing::warn!("slot {slot}: an offer of the bundle {bundle} is not believed: {reason}");
        let detail = format!("an offer is not believed, waiting for another: {reason}");
        self.tell(EventKind::BundleRefused, Some(slot), Some(bundle), detail, now);
    }

    fn tell(
        &mut self,
        kind: EventKind,
        slot: Option<&SlotName>,
        bundle: Option<Digest>,
        detail: String,
        now: Now,
    ) {
        let at_ms = self.metadata.time(now).unix_ms;
        let (slot, detail) = (slot.cloned(), shortened(&detail));
        self.effects.push(Effect::Tell(Event { at_ms, kind, slot, bundle, detail }));
    }
}

/// What a slot is told of an offer that was looked at.
fn offered(bundle: Digest, checked: Result<(Vec<Digest>, u32), OfferError>) -> Happening {
    match checked {
        Ok((missing, pieces_total)) => Happening::Offered { bundle, missing, pieces_total },
        Err(OfferError::Untargeted(reason)) => Happening::Untargeted { bundle, reason },
        Err(OfferError::Unbelieved(reason)) => Happening::Misoffered { bundle, reason },
        Err(OfferError::Unfit(reason)) => Happening::Unfit { bundle, reason },
        Err(OfferError::Disk(reason)) => Happening::DiskFailed { reason },
    }
}

/// The content of a piece that came, if it is what it is called.
fn read_piece(payload: &[u8], expected: &ChunkRef) -> Result<Vec<u8>, String> {
    let message = decode::<Chunk>(payload);
    let message = message.map_err(|error| format!("chunk {}: {error}", expected.digest))?;
    expand(&message, expected).map_err(|error| one_line(&error))
}

/// Whether these bytes are those that a target names.
fn is_named(named: &Blob, bytes: &[u8]) -> bool {
    bytes.len() as u64 == named.len_bytes && digest_of(bytes) == named.digest
}

fn is_another(path: &str, target: &BundleTarget) -> String {
    format!("the target {path} is the bundle {}, which is not the desired one", target.bundle())
}

fn candidate(bundle: &Bundle) -> Result<Candidate, StoreError> {
    let manifest = bundle.manifest();
    Ok(Candidate {
        bundle: bundle.digest(),
        name: manifest.name.to_string(),
        version: manifest.version.clone(),
        policy: manifest.update.clone(),
        trial_memory_bytes_max: manifest.trial_memory_bytes_max(),
    })
}

/// A report without what changes from one moment to the next.
fn without_progress(reported: &Reported) -> Reported {
    let mut still = Reported { revision: 0, ..reported.clone() };
    for slot in &mut still.slots {
        slot.comparison = None;
        match &mut slot.phase {
            SlotPhase::Fetching { chunks_present, .. } => *chunks_present = 0,
            SlotPhase::Shadow { samples, .. } => *samples = 0,
            SlotPhase::Probation { inferences, .. } => *inferences = 0,
            _ => {}
        }
    }
    still
}

fn slot_file(slot: &SlotName) -> String {
    format!("{SLOTS_DIR}/{slot}.json")
}
