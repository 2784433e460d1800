//! From a desired state to bundles that answer.
//!
//! [`Updates`] owns what the device believes (the generation, the desired bundles) and a state machine
//! per slot. It takes messages and the time, uses the disk, and says what is to be done outside as
//! [`Effect`]s. Nothing unsigned is believed, nothing that is not whole is loaded, and what is recorded
//! is durable before it counts. It waits for no network and starts no thread.

mod actor;
mod effect;
mod slot;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use selvedge_bundle::{Bundle, ChunkIndex, ChunkRef, digest_of, expand};
use selvedge_trust::{BundleStatement, DesiredState, TrustedRoot, UnixMillis};
use selvedge_wire::{
    Boot, BundleOffer, Chunk, Desired, DeviceId, Digest, Event, EventKind, FleetName, Reported,
    Running, SlotName, SlotReport, Topic, decode,
};

use crate::{
    config::BundleLimits,
    disk::{DiskError, SharedDisk, replace},
    error::one_line,
    inference::LoadedModel,
    limits::{DISK_RESERVE_BYTES, DISK_RETRY_MS, SLOTS_MAX},
    malformed::shortened,
};

use slot::{Action, Happening, SlotUpdate};
use store::{BundleStore, StoreError};

pub(crate) use actor::{UpdateInput, UpdatesHandle};
pub use effect::{Effect, Observation, PreviousRun, TrialLimits};
pub use slot::{Refusal, SlotRecord};
pub(crate) use store::bundle_dir;

/// The signed document of the newest desired state, as it came.
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

/// What the device should run and does run.
pub struct Updates {
    identity: Identity,
    disk: SharedDisk,
    store: BundleStore,
    limits: BundleLimits,
    load: LoadModel,
    generation: u64,
    document: Vec<u8>,
    slots: BTreeMap<SlotName, SlotUpdate>,
    running: BTreeMap<SlotName, Running>,
    // Models that wait for their turn.
    loaded: BTreeMap<SlotName, Box<LoadedModel>>,
    transfers: BTreeMap<Digest, Transfer>,
    subscribed: BTreeMap<String, (Topic, usize)>,
    // A desired state that the disk did not take, and when to try again.
    unrecorded: Option<(Vec<u8>, u64)>,
    refused_document: Option<Digest>,
    reported: Option<Reported>,
    effects: Vec<Effect>,
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

/// Why an offer is not taken.
enum OfferError {
    /// It is not to be believed: not signed by the publisher, about another bundle, or out of date.
    Unbelieved(String),
    /// It is signed, and the bundle must not run here.
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
    statement: Vec<u8>,
    index: ChunkIndex,
    chunks: BTreeMap<Digest, ChunkRef>,
}

impl Updates {
    /// Settles what the last run left and loads what answered then, or else what answered before that.
    ///
    /// # Errors
    /// [`DiskError`] if the disk does not work; damaged content is reported and set aside.
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
        let mut updates = Self {
            identity,
            disk,
            store,
            limits,
            load,
            generation: 0,
            document: Vec::new(),
            slots: BTreeMap::new(),
            running: BTreeMap::new(),
            loaded: BTreeMap::new(),
            transfers: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            unrecorded: None,
            refused_document: None,
            reported: None,
            effects: Vec::new(),
        };
        let desired = updates.recall_desired(now)?;
        updates.recall_slots(now)?;
        if let Some(desired) = desired {
            updates.apply(&desired, now);
        }
        updates.tidy();
        updates.report();
        let effects = std::mem::take(&mut updates.effects);
        Ok((updates, effects))
    }

    /// A message came on a topic that this part listens to.
    pub fn receive(&mut self, topic: &Topic, payload: &[u8], now: Now) -> Vec<Effect> {
        match topic {
            Topic::Desired(_) => self.receive_desired(payload, now),
            Topic::Bundle(bundle) => self.receive_offer(*bundle, payload, now),
            Topic::Chunk(chunk) => self.receive_chunk(*chunk, payload, now),
            _ => {}
        }
        self.finish()
    }

    /// The swap that an effect asked for is done.
    pub fn swapped(&mut self, slot: &SlotName, running: Option<Running>, now: Now) -> Vec<Effect> {
        let bundle = running.as_ref().map(|running| running.bundle);
        match running {
            Some(running) => self.running.insert(slot.clone(), running),
            None => self.running.remove(slot),
        };
        self.tell_slot(slot, Happening::Switched { bundle }, now);
        self.finish()
    }

    /// The trial that an effect asked for has ended, well or with a reason.
    pub fn tried(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
        outcome: Result<(), String>,
        now: Now,
    ) -> Vec<Effect> {
        self.finish()
    }

    /// What was seen so far of a bundle in its shadow or on its probation.
    pub fn observed(
        &mut self,
        slot: &SlotName,
        bundle: Digest,
        observation: Observation,
        now: Now,
    ) -> Vec<Effect> {
        self.finish()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) -> Vec<Effect> {
        if let Some((document, retry_at_ms)) = self.unrecorded.take() {
            if now.elapsed_ms >= retry_at_ms {
                self.consider(document, now);
            } else {
                self.unrecorded = Some((document, retry_at_ms));
            }
        }
        let slots: Vec<_> = self.slots.keys().cloned().collect();
        slots.iter().for_each(|slot| self.tell_slot(slot, Happening::Tick, now));
        self.finish()
    }

    fn finish(&mut self) -> Vec<Effect> {
        self.report();
        std::mem::take(&mut self.effects)
    }
}

/// On start.
impl Updates {
    fn recall_desired(&mut self, now: Now) -> Result<Option<DesiredState>, DiskError> {
        let Some(document) = self.disk.read(DESIRED_FILE)? else { return Ok(None) };
        // It was believed when it came. That its time may be over by now stops nothing that runs.
        let Identity { device, fleet, root, .. } = &self.identity;
        match root.verify_desired(&document, device, fleet, 0, UnixMillis(0)) {
            Ok(desired) => {
                self.generation = desired.generation;
                self.document = document;
                Ok(Some(desired))
            }
            Err(error) => {
                let detail = format!("the recorded desired state is set aside: {error}");
                self.tell(EventKind::StateDamaged, None, None, detail, now);
                Ok(None)
            }
        }
    }

    fn recall_slots(&mut self, now: Now) -> Result<(), DiskError> {
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
            self.revive(slot, record, now);
        }
        Ok(())
    }

    /// Lets the bundle of a record answer again; if it cannot, the one before it.
    fn revive(&mut self, slot: SlotName, mut record: SlotRecord, now: Now) {
        while let Some(bundle) = record.current {
            match self.load_kept(bundle) {
                Ok(model) => {
                    self.answer_again(&slot, model);
                    break;
                }
                Err(StoreError::Disk(reason)) => return self.stand_in(slot, record, reason, now),
                Err(StoreError::Unfit(reason)) => {
                    let refusal = Refusal { bundle, generation: self.generation, reason };
                    self.tell_refused(&slot, &refusal, now);
                    let current = record.previous;
                    record = SlotRecord { current, previous: None, refused: Some(refusal) };
                    self.record(&slot, &record);
                    if let Err(error) = self.store.discard(bundle) {
                        tracing::error!("{error}");
                    }
                }
            }
        }
        self.slots.insert(slot, SlotUpdate::new(record));
    }

    /// Lets the bundle before answer until the disk gives the one that should. Nothing is given up.
    fn stand_in(&mut self, slot: SlotName, record: SlotRecord, reason: String, now: Now) {
        tracing::error!("slot {slot}: {reason}");
        let mut answering = None;
        if let Some(bundle) = record.previous
            && let Ok(model) = self.load_kept(bundle)
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
            Ok(desired) => self.accept(document, &desired, now),
            Err(reason) => self.refuse_desired(&document, reason, now),
        }
    }

    fn verify_desired(&self, document: &[u8], now: Now) -> Result<DesiredState, String> {
        let Identity { device, fleet, root, .. } = &self.identity;
        let now = UnixMillis(now.unix_ms);
        let desired = root.verify_desired(document, device, fleet, self.generation, now);
        let desired = desired.map_err(|error| one_line(&error))?;
        if desired.slots.len() > SLOTS_MAX {
            let count = desired.slots.len();
            return Err(format!("it has {count} slots, this device takes {SLOTS_MAX}"));
        }
        if desired.generation == self.generation && !self.wants_the_same(&desired) {
            let generation = desired.generation;
            return Err(format!(
                "generation {generation} was seen before and wanted other bundles"
            ));
        }
        Ok(desired)
    }

    fn wants_the_same(&self, desired: &DesiredState) -> bool {
        let wanted = desired.slots.iter().map(|(slot, wanted)| (slot, wanted.bundle));
        let known = self.slots.iter();
        wanted.eq(known.filter_map(|(slot, update)| Some((slot, update.desired()?))))
    }

    fn accept(&mut self, document: Vec<u8>, desired: &DesiredState, now: Now) {
        // A device that forgot what it followed could be led back to an older state.
        if let Err(error) = replace(self.disk.as_ref(), DESIRED_FILE, &document) {
            tracing::error!("a new desired state waits, and is tried again: {error}");
            self.unrecorded = Some((document, now.elapsed_ms + DISK_RETRY_MS));
            return;
        }
        self.generation = desired.generation;
        self.document = document;
        self.refused_document = None;
        self.apply(desired, now);
    }

    fn apply(&mut self, desired: &DesiredState, now: Now) {
        for slot in desired.slots.keys() {
            let empty = || SlotUpdate::new(SlotRecord::default());
            self.slots.entry(slot.clone()).or_insert_with(empty);
        }
        let generation = desired.generation;
        for slot in self.slots.keys().cloned().collect::<Vec<_>>() {
            let bundle = desired.slots.get(&slot).map(|wanted| wanted.bundle);
            self.tell_slot(&slot, Happening::Desired { generation, bundle }, now);
        }
    }

    fn refuse_desired(&mut self, document: &[u8], reason: String, now: Now) {
        // The broker gives a retained one again on every connection; it is news only once.
        let digest = digest_of(document);
        if self.refused_document.replace(digest) != Some(digest) {
            tracing::warn!("a desired state was refused: {reason}");
            self.tell(EventKind::DesiredRefused, None, None, reason, now);
        }
    }
}

/// Offers and chunks.
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
        if !self.slots.values().any(|slot| slot.target() == Some(bundle)) {
            return;
        }
        let happening = match self.check_offer(bundle, offer, now) {
            Ok((missing, chunks_total)) => Happening::Offered { bundle, missing, chunks_total },
            Err(OfferError::Unbelieved(reason)) => Happening::Misoffered { bundle, reason },
            Err(OfferError::Unfit(reason)) => Happening::Unfit { bundle, reason },
            Err(OfferError::Disk(reason)) => Happening::DiskFailed { reason },
        };
        self.tell_those_with_target(bundle, &happening, now);
    }

    /// What is missing of the bundle, and how many chunks it has.
    fn check_offer(
        &mut self,
        bundle: Digest,
        offer: &BundleOffer,
        now: Now,
    ) -> Result<(Vec<Digest>, u32), OfferError> {
        let now = UnixMillis(now.unix_ms);
        let statement = self.verify_statement(bundle, &offer.statement, now);
        let statement = statement.map_err(OfferError::Unbelieved)?;
        if !is_named(&statement, &offer.index) {
            let reason = "the chunk index is not the one that the statement names";
            return Err(OfferError::Unbelieved(reason.to_owned()));
        }
        self.check_hardware(&statement).map_err(OfferError::Unfit)?;
        let index = chunk_index(&statement, &offer.index).map_err(OfferError::Unfit)?;
        self.check_room(&index)?;
        self.store.keep_offer(bundle, offer)?;
        let missing = self.store.missing(&index)?;
        let chunks: BTreeMap<_, _> = index.chunks().map(|chunk| (chunk.digest, chunk)).collect();
        let chunks_total = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let statement = offer.statement.clone();
        self.transfers.insert(bundle, Transfer { statement, index, chunks });
        Ok((missing, chunks_total))
    }

    /// The statement, if the publisher made it, about this bundle, for this time.
    fn verify_statement(
        &self,
        bundle: Digest,
        statement: &[u8],
        now: UnixMillis,
    ) -> Result<BundleStatement, String> {
        let verified = self.identity.root.verify_statement(statement, now);
        let statement = verified.map_err(|error| one_line(&error))?;
        if statement.bundle() != bundle {
            return Err(format!("the statement is about the bundle {}", statement.bundle()));
        }
        Ok(statement)
    }

    fn check_hardware(&self, statement: &BundleStatement) -> Result<(), String> {
        let hardware_class = &self.identity.hardware_class;
        if statement.allows_hardware(hardware_class) {
            return Ok(());
        }
        let allowed = statement.hardware_classes.join(", ");
        Err(format!("it is for the hardware {allowed}; this device is {hardware_class}"))
    }

    fn check_room(&self, index: &ChunkIndex) -> Result<(), OfferError> {
        let len = index.len_bytes();
        let BundleLimits { bundle_bytes_max, bundles_bytes_max } = self.limits;
        if len > bundle_bytes_max {
            let reason = format!("it has {len} bytes; this device takes {bundle_bytes_max}");
            return Err(OfferError::Unfit(reason));
        }
        let kept = self.store.kept_bytes(index.bundle())?;
        if kept + len > bundles_bytes_max {
            let reason = format!(
                "it has {len} bytes beside {kept} of other bundles; this device keeps {bundles_bytes_max}"
            );
            return Err(OfferError::Unfit(reason));
        }
        // Its chunks and its layout are on the disk at the same time for a moment.
        let needed = 2 * len + DISK_RESERVE_BYTES;
        let free = self.store.free_bytes()?;
        if free < needed && !self.store.has(index.bundle())? {
            let reason = format!("the disk has {free} bytes free, {needed} are needed");
            return Err(OfferError::Disk(reason));
        }
        Ok(())
    }

    fn receive_chunk(&mut self, chunk: Digest, payload: &[u8], now: Now) {
        let expected = self.transfers.values().find_map(|transfer| transfer.chunks.get(&chunk));
        let Some(expected) = expected else { return };
        let content = match decode::<Chunk>(payload) {
            Ok(message) => expand(&message, expected).map_err(|error| one_line(&error)),
            Err(error) => Err(format!("chunk {chunk}: {error}")),
        };
        let happening = match content.map(|content| self.store.keep_chunk(chunk, &content)) {
            Ok(Ok(())) => Happening::ChunkKept { chunk },
            Ok(Err(error)) => Happening::DiskFailed { reason: error.to_string() },
            Err(problem) => return self.effects.push(Effect::Malformed { problem }),
        };
        let concerned: Vec<_> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.chunks.contains_key(&chunk))
            .map(|(bundle, _)| *bundle)
            .collect();
        concerned.iter().for_each(|bundle| self.tell_those_with_target(*bundle, &happening, now));
    }
}

/// The actions of slots.
impl Updates {
    fn tell_those_with_target(&mut self, bundle: Digest, happening: &Happening, now: Now) {
        let concerned: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, update)| update.target() == Some(bundle))
            .map(|(slot, _)| slot.clone())
            .collect();
        concerned.iter().for_each(|slot| self.tell_slot(slot, happening.clone(), now));
    }

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
            Action::Seek(bundle) => return self.seek(bundle, now),
            Action::SeekAgain(bundle) => self.seek_again(bundle),
            Action::StopSeeking(bundle) => self.unsubscribe(Topic::Bundle(bundle)),
            Action::Request(chunk) => self.subscribe(Topic::Chunk(chunk)),
            Action::StopRequesting(chunk) => self.unsubscribe(Topic::Chunk(chunk)),
            Action::Verify(bundle) => return Some(self.verify(slot, bundle)),
            Action::Record(record) => return Some(self.record(slot, &record)),
            Action::Switch(bundle) => self.switch(slot, bundle),
            Action::TellSwapped(bundle) => self.tell_swapped(slot, bundle, now),
            Action::TellRefused(refusal) => {
                self.loaded.remove(slot);
                self.tell_refused(slot, &refusal, now);
            }
            Action::TellMisoffered { bundle, reason } => {
                self.tell_misoffered(slot, bundle, &reason, now);
            }
            Action::Tidy => self.tidy(),
        }
        None
    }

    fn seek(&mut self, bundle: Digest, now: Now) -> Option<Happening> {
        match self.find_on_disk(bundle, now) {
            Ok(Some((missing, chunks_total))) => {
                Some(Happening::Offered { bundle, missing, chunks_total })
            }
            Ok(None) => {
                self.subscribe(Topic::Bundle(bundle));
                None
            }
            Err(reason) => Some(Happening::DiskFailed { reason }),
        }
    }

    /// A broker gives what it retains only to a subscription that is new to it.
    fn seek_again(&mut self, bundle: Digest) {
        let topic = Topic::Bundle(bundle);
        if self.subscribed.contains_key(&topic.to_string()) {
            self.effects.push(Effect::Unsubscribe(topic.clone()));
            self.effects.push(Effect::Subscribe(topic));
        }
    }

    /// What is missing of a bundle that is known already, and how many chunks it has.
    fn find_on_disk(
        &mut self,
        bundle: Digest,
        now: Now,
    ) -> Result<Option<(Vec<Digest>, u32)>, String> {
        if self.store.has(bundle).map_err(|error| error.to_string())? {
            return Ok(Some((Vec::new(), 0)));
        }
        // An offer from before a restart spares the wait for the network, if it is still good.
        let offer = self.store.offer(bundle).map_err(|error| error.to_string())?;
        let Some(offer) = offer else { return Ok(None) };
        match self.check_offer(bundle, &offer, now) {
            Ok(known) => Ok(Some(known)),
            Err(OfferError::Disk(reason)) => Err(reason),
            Err(OfferError::Unbelieved(_) | OfferError::Unfit(_)) => Ok(None),
        }
    }

    fn verify(&mut self, slot: &SlotName, bundle: Digest) -> Happening {
        let kept = self.store.has(bundle);
        let model = match kept {
            Ok(true) => self.load_kept(bundle),
            Ok(false) => self.load_arrived(bundle),
            Err(error) => Err(error.into()),
        };
        match model {
            Ok(model) => {
                self.loaded.insert(slot.clone(), Box::new(model));
                Happening::Verified { bundle }
            }
            Err(StoreError::Disk(reason)) => Happening::DiskFailed { reason },
            Err(StoreError::Unfit(reason)) => {
                let in_use = self.running.values().any(|running| running.bundle == bundle);
                if !in_use && let Err(error) = self.store.discard(bundle) {
                    tracing::error!("{error}");
                }
                Happening::Unfit { bundle, reason }
            }
        }
    }

    /// A bundle that is on the disk as a whole.
    fn load_kept(&self, bundle: Digest) -> Result<LoadedModel, StoreError> {
        let whole = self.store.read(bundle)?;
        self.load_whole(&whole).map_err(StoreError::Unfit)
    }

    fn load_arrived(&self, bundle: Digest) -> Result<LoadedModel, StoreError> {
        let lost = || StoreError::Disk(format!("what was known of bundle {bundle} is gone"));
        let transfer = self.transfers.get(&bundle).ok_or_else(lost)?;
        let whole = self.store.assemble(&transfer.index, &transfer.statement)?;
        let model = self.load_whole(&whole).map_err(StoreError::Unfit)?;
        self.store.keep(&whole)?;
        Ok(model)
    }

    /// The offer was in time when it was taken; that its statement's time may be over by now, or that the
    /// clock went wrong since, is no fault of the bundle.
    fn load_whole(&self, bundle: &Bundle) -> Result<LoadedModel, String> {
        let statement = bundle.statement().ok_or("the bundle has no signed statement")?;
        let statement = self.verify_statement(bundle.digest(), statement, UnixMillis(0))?;
        self.check_hardware(&statement)?;
        let manifest = bundle.manifest();
        let named = (manifest.name.to_string(), manifest.version.to_string());
        if named != (statement.name.clone(), statement.version.clone()) {
            let (name, version) = named;
            return Err(format!(
                "its manifest says {name} {version}, the statement {} {}",
                statement.name, statement.version
            ));
        }
        (self.load)(bundle)
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

    fn unsubscribe(&mut self, topic: Topic) {
        let name = topic.to_string();
        let Some(entry) = self.subscribed.get_mut(&name) else { return };
        entry.1 -= 1;
        if entry.1 == 0 {
            self.subscribed.remove(&name);
            self.effects.push(Effect::Unsubscribe(topic));
        }
    }

    fn report(&mut self) {
        let slots = self.slots.iter().map(|(slot, update)| SlotReport {
            slot: slot.clone(),
            phase: update.phase(),
            running: self.running.get(slot).cloned(),
            desired: update.desired(),
            reason: update.reason().map(shortened),
        });
        let slots = slots.filter(|report| report.running.is_some() || report.desired.is_some());
        let reported = Reported {
            boot: self.identity.boot,
            generation: self.generation,
            slots: slots.collect(),
        };
        if self.reported.as_ref() != Some(&reported) {
            self.reported = Some(reported.clone());
            self.effects.push(Effect::Report(reported));
        }
    }

    fn tell_swapped(&mut self, slot: &SlotName, bundle: Digest, now: Now) {
        let running = self.running.get(slot);
        let detail = running.map_or_else(
            || format!("{bundle} answers"),
            |running| format!("{} {} answers", running.name, running.version),
        );
        self.tell(EventKind::Swapped, Some(slot), Some(bundle), detail, now);
    }

    fn tell_refused(&mut self, slot: &SlotName, refusal: &Refusal, now: Now) {
        let Refusal { bundle, reason, .. } = refusal;
        tracing::warn!("slot {slot}: the bundle {bundle} was refused: {reason}");
        self.tell(EventKind::BundleRefused, Some(slot), Some(*bundle), reason.clone(), now);
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
        let (at_ms, slot, detail) = (now.unix_ms, slot.cloned(), shortened(&detail));
        self.effects.push(Effect::Tell(Event { at_ms, kind, slot, bundle, detail }));
    }
}

/// Whether a chunk index is the one that the statement names.
fn is_named(statement: &BundleStatement, index: &[u8]) -> bool {
    let named = &statement.chunk_index;
    index.len() as u64 == named.len_bytes && digest_of(index) == named.digest
}

fn chunk_index(statement: &BundleStatement, bytes: &[u8]) -> Result<ChunkIndex, String> {
    let index = ChunkIndex::decode(bytes).map_err(|error| one_line(&error))?;
    if index.bundle() != statement.bundle() {
        return Err("the chunk index is about another bundle".to_owned());
    }
    Ok(index)
}

fn slot_file(slot: &SlotName) -> String {
    format!("{SLOTS_DIR}/{slot}.json")
}
