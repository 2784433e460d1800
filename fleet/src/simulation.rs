//! The fleet's logic for a simulator: one thread, a database in memory, no broker, no disk, no clock.
//!
//! Real are the store with its transactions, the ingest with its verification, the director, the
//! repository, and the plan of what the broker should retain with its order. Left out are the link, the
//! broker in process, the API, and the grouping of messages into commits: here each message is a commit.
//! The time is an argument of every call. A payload that is handed out was committed before, as in the
//! manager. Random are only salts of passwords, which nothing here depends on.

use std::{collections::BTreeMap, sync::Arc};

use selvedge_bundle::Bundle;
use selvedge_trust::{Expiry, Proposal, RepositoryState, SigningKey};
use selvedge_wire::{DeviceId, Digest, FleetName, SlotName, Topics};

use crate::{
    Error, Limits,
    director::Director,
    downlink::{Outbox, Outgoing},
    ingest::{What, read},
    registry::Registry,
    repository::{OnlineKeys, Repository},
    secret::new_password,
    store::{
        Assignment, Change, Cursor, DeviceLabelRow, EnrolledKey, EventRow, ProfileRow, ResultRow,
        SlotRow, Store, StreamRow,
    },
    view::DeviceView,
};

/// With what a simulated fleet begins.
pub struct Beginning<'a> {
    /// The fleet's name.
    pub fleet: FleetName,
    /// Root metadata.
    pub root: &'a [u8],
    /// Targets metadata.
    pub targets: &'a [u8],
    /// Online keys, in PKCS#8.
    pub online: &'a [&'a [u8]],
    /// How much of everything.
    pub limits: Limits,
    /// How long timestamp and snapshot are believed, and when they are signed again.
    pub expiry: Expiry,
}

/// A fleet that runs when it is called.
pub struct SimulatedFleet {
    store: Store,
    registry: Arc<Registry>,
    repository: Repository,
    director: Director,
    outbox: Outbox,
    topics: Topics,
    limits: Limits,
}

/// What came of a message from a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Why it was not taken: not signed, not readable, or refused.
    pub refused: Option<String>,
}

/// The records of a device that are stored.
#[derive(Clone, Debug)]
pub struct HeldRecords {
    /// Answers.
    pub results: Vec<ResultRow>,
    /// Counters of windows.
    pub profiles: Vec<ProfileRow>,
    /// What happened.
    pub events: Vec<EventRow>,
    /// Labels that it was given.
    pub labels: Vec<DeviceLabelRow>,
}

impl SimulatedFleet {
    /// Begins a fleet with an empty database.
    ///
    /// # Errors
    /// [`Error`] if the documents or the keys do not make a repository.
    pub async fn begin(beginning: Beginning<'_>, now_ms: u64) -> Result<Self, Error> {
        let Beginning { fleet, root, targets, online, limits, expiry } = beginning;
        let store = Store::open_in_memory(limits).await?;
        let registry = Arc::new(Registry::in_memory(limits));
        let mut keys = Vec::new();
        for pkcs8 in online {
            let key = SigningKey::from_pkcs8(pkcs8).map_err(|source| Error::Trust {
                what: "cannot use an online key".into(),
                source,
            })?;
            keys.push(Arc::new(key));
        }
        let named = |office| Director::new(office, fleet.clone());
        let online = OnlineKeys::Given(keys);
        let (repository, director) =
            Repository::begin(root, targets, online, expiry, &store, named, now_ms).await?;
        let outbox = Outbox::new(
            store.clone(),
            registry.clone(),
            director.clone(),
            limits.retained_bytes_max,
        );
        let topics = Topics::new(&fleet);
        let mut fleet = Self { store, registry, repository, director, outbox, topics, limits };
        fleet.outbox.replan().await?;
        Ok(fleet)
    }

    /// The fleet as it is after a restart, with what its database holds; whatever was to be sent is planned
    /// anew.
    ///
    /// # Errors
    /// [`Error`] if the database cannot be read.
    pub async fn restart(self) -> Result<Self, Error> {
        let Self { store, registry, repository, director, topics, limits, .. } = self;
        let repository = repository.reopen(&store).await?;
        let outbox = Outbox::new(
            store.clone(),
            registry.clone(),
            director.clone(),
            limits.retained_bytes_max,
        );
        let mut fleet = Self { store, registry, repository, director, outbox, topics, limits };
        fleet.outbox.replan().await?;
        Ok(fleet)
    }

    /// Registers a device by its Ed25519 key.
    ///
    /// # Errors
    /// [`Error::Conflict`] if name or key are taken.
    pub async fn add_device(
        &mut self,
        device: &DeviceId,
        public_key: [u8; 32],
        now_ms: u64,
    ) -> Result<(), Error> {
        let (_, password) = new_password();
        let key = EnrolledKey(public_key);
        self.store.add_device(device, &BTreeMap::new(), &key, &password, now_ms).await?;
        self.outbox.replan().await
    }

    /// Keeps a bundle; it is assignable when a target names it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a bundle that cannot be cut into chunks.
    pub async fn add_bundle(&mut self, bundle: Bundle, now_ms: u64) -> Result<(), Error> {
        let (row, stocked) = self.registry.keep_in_memory(bundle, now_ms)?;
        self.store.add_bundle(&row, &stocked).await?;
        self.repository.mark_targets(&self.store).await?;
        self.outbox.replan().await
    }

    /// What the repository holds.
    pub fn repository(&self) -> Arc<RepositoryState> {
        self.repository.state()
    }

    /// Changes the repository.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why devices would not believe it.
    pub async fn propose(
        &mut self,
        proposal: &Proposal,
        now_ms: u64,
    ) -> Result<Vec<String>, Error> {
        let proposed =
            self.repository.propose(&self.store, &self.director, proposal, false, now_ms).await?;
        self.outbox.replan().await?;
        Ok(proposed.sentences)
    }

    /// Says what one slot of a device should run.
    ///
    /// # Errors
    /// [`Error`] if there is no such device or bundle, or it is no target.
    pub async fn assign(
        &mut self,
        device: &DeviceId,
        slot: SlotName,
        bundle: Digest,
        shadow_samples: u64,
        allow_downgrade: bool,
        now_ms: u64,
    ) -> Result<u64, Error> {
        let assignment = Assignment { bundle, shadow_samples, allow_downgrade };
        let change = Change::Slot(slot, assignment);
        let set = self.director.direct(&self.store, device, &change, now_ms).await?;
        self.outbox.replan().await?;
        Ok(set.generation)
    }

    /// Says that one slot of a device should hold nothing.
    ///
    /// # Errors
    /// [`Error`] if there is no such device.
    pub async fn empty(
        &mut self,
        device: &DeviceId,
        slot: &SlotName,
        now_ms: u64,
    ) -> Result<u64, Error> {
        let desired = self.store.desired(device).await?;
        let held = desired.into_iter().flat_map(|desired| desired.slots);
        let others = held.filter(|(name, _)| name != slot).map(|(name, row)| {
            let SlotRow { bundle, shadow_samples, allow_downgrade, .. } = row;
            (name, Assignment { bundle, shadow_samples, allow_downgrade })
        });
        let change = Change::All(others.collect());
        let set = self.director.direct(&self.store, device, &change, now_ms).await?;
        self.outbox.replan().await?;
        Ok(set.generation)
    }

    /// What time brings: desired states, timestamp and snapshot are signed again where that is due.
    ///
    /// # Errors
    /// [`Error`] if the database does not take it.
    pub async fn tick(&mut self, now_ms: u64) -> Result<(), Error> {
        let renewed = self.director.renew(&self.store, now_ms).await?;
        let resigned = self.repository.resign(&self.store, &self.director, now_ms).await?;
        if resigned || !renewed.is_empty() {
            self.outbox.replan().await?;
        }
        Ok(())
    }

    /// Takes a message from the broker; `retained` for one that the broker had kept.
    ///
    /// # Errors
    /// [`Error`] if the database does not take it: then it is not acknowledged.
    pub async fn ingest(
        &mut self,
        topic: &str,
        payload: &[u8],
        retained: bool,
        now_ms: u64,
    ) -> Result<Ingested, Error> {
        let what = read(&self.store, &self.topics, topic, payload, !retained, now_ms);
        let (applied, fault) = match &what {
            What::Understood(received) => {
                (self.store.apply(std::slice::from_ref(received), &[]).await?, None)
            }
            What::Malformed(malformed) => {
                (self.store.apply(&[], &[malformed]).await?, Some(malformed.reason.clone()))
            }
        };
        if applied.running_changed || applied.captures_finished {
            self.outbox.replan().await?;
        }
        for (device, generation) in applied.heard {
            self.outbox.note_heard(&device, generation);
        }
        for device in applied.streamed {
            self.outbox.tell_stored(device).await;
        }
        for (device, end) in applied.settled {
            self.outbox.tell_settled(device, end).await;
        }
        let refused = applied.refusals.into_iter().next().map(|refusal| refusal.reason);
        Ok(Ingested { refused: refused.or(fault) })
    }

    /// The link to the broker is up again: the broker may have nothing of what it had.
    pub fn connected(&mut self) {
        self.outbox.send_all_again();
    }

    /// The next message for the broker, to be retained; nothing if there is none, or if it has to wait for
    /// an answer about one before. Each is to be given to [`accepted`](Self::accepted) or
    /// [`lost`](Self::lost).
    pub async fn next_message(&mut self) -> Option<Outgoing> {
        self.outbox.next().await
    }

    /// The broker has taken `message`.
    ///
    /// # Errors
    /// [`Error::Store`] if that cannot be noted.
    pub async fn accepted(&mut self, message: Outgoing) -> Result<(), Error> {
        self.outbox.accepted(message).await
    }

    /// Whether the broker has taken `message` is not known.
    pub fn lost(&mut self, message: Outgoing) {
        self.outbox.lost(message);
    }

    /// What the fleet knows of a device.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub async fn device(&self, device: &DeviceId, now_ms: u64) -> Result<DeviceView, Error> {
        DeviceView::read(&self.store, device, now_ms).await
    }

    /// How far the streams of a device are stored, and what was counted of them.
    ///
    /// # Errors
    /// [`Error::Store`] if the database cannot be read.
    pub async fn streams(&self, device: &DeviceId) -> Result<Vec<StreamRow>, Error> {
        self.store.streams(device).await
    }

    /// The records of a device that are stored.
    ///
    /// # Errors
    /// [`Error::Store`] if the database cannot be read.
    pub async fn held(&self, device: &DeviceId) -> Result<HeldRecords, Error> {
        let all = Cursor { after: 0, limit: u32::MAX };
        Ok(HeldRecords {
            results: self.store.results(device, None, None, all).await?,
            profiles: self.store.profiles(device, all).await?,
            events: self.store.events(device, all).await?,
            labels: self.store.device_labels(device).await?,
        })
    }

    /// How many records of each kind are stored: results, profiles and events.
    ///
    /// # Errors
    /// [`Error::Store`] if the database cannot be read.
    pub async fn records(&self) -> Result<[u64; 3], Error> {
        let totals = self.store.totals().await?;
        Ok([totals.results, totals.profiles, totals.events].map(i64::unsigned_abs))
    }

    /// Ends the fleet.
    pub async fn end(self) {
        self.store.close().await;
    }
}
