//! The fleet: its own logic over a database in memory, on a simulated link.
//!
//! What must hold of it: each number of each stream is stored once and with the content that the device gave
//! it; what was told to be stored is stored; what devices made durable arrives, or is counted as dropped.

use std::collections::BTreeMap;

use selvedge_bundle::digest_of;
use selvedge_fleet::{Beginning, Limits, Outgoing, SimulatedFleet, one_line};
use selvedge_sketch::GatewayProfile;
use selvedge_trust::{Expiry, Proposal, RoleName};
use selvedge_wire::{
    Boot, DeviceId, Digest, Event, InferenceResult, LabelRecord, ProfileRecord, Signed, SlotName,
    Stored, Stream, Topic, decode,
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    broker::Client,
    catalogue::Specimen,
    clock::{HOUR_MS, SECOND_MS},
    device::Device,
    dice::Dice,
    faults::Fault,
    keys::{self, Holder},
    link::{Link, Publish},
    publisher::{Publisher, ROTATIONS_MAX},
    witness::{Checked, Violation, must},
    world::Surroundings,
};

/// The fleet's number at the broker.
pub const FLEET: Client = 0;

/// How often the fleet looks whether something has to be signed again.
const TICK_MS: u64 = HOUR_MS;

/// How far each stream of each device was told to be stored.
type Promises = BTreeMap<(DeviceId, Boot, Stream), u64>;

/// A fleet.
pub struct Fleet {
    runtime: Runtime,
    fleet: Option<SimulatedFleet>,
    link: Link<Outgoing>,
    connects_ms: u64,
    ticks_ms: u64,
    promised: Promises,
    dice: Dice,
}

impl Fleet {
    /// A fleet with an empty database and these devices.
    ///
    /// # Errors
    /// [`Violation`] if it does not begin.
    pub fn begin(
        publisher: &Publisher,
        devices: &[Device],
        dice: Dice,
        around: &mut Surroundings,
    ) -> Result<Self, Violation> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Violation(format!("no runtime: {error}")))?;
        let online: Vec<Vec<u8>> =
            (1..=ROTATIONS_MAX).map(|number| keys::pkcs8(Holder::Director(number))).collect();
        let online: Vec<&[u8]> = online.iter().map(Vec::as_slice).collect();
        let beginning = Beginning {
            fleet: around.fleet.clone(),
            root: publisher.root(),
            targets: publisher.targets(),
            online: &online,
            limits: Limits::default(),
            expiry: Expiry::default(),
        };
        let now_ms = around.now_ms;
        let mut fleet =
            runtime.block_on(SimulatedFleet::begin(beginning, now_ms)).map_err(failed)?;
        for device in devices {
            let key = device.public_key();
            runtime.block_on(fleet.add_device(&device.id, key, now_ms)).map_err(failed)?;
        }
        let link = Link::new(FLEET, [around.topics.up_filter()]);
        let mut begun = Self {
            runtime,
            fleet: Some(fleet),
            link,
            connects_ms: now_ms,
            ticks_ms: now_ms,
            promised: Promises::new(),
            dice,
        };
        begun.note_timestamp(around)?;
        Ok(begun)
    }

    /// Does a few things, in an order by chance.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn take_turn(&mut self, around: &mut Surroundings) -> Checked {
        if around.faults.strikes(Fault::FleetRestarted) {
            self.restart(around)?;
        }
        if around.faults.strikes(Fault::ConnectionLost) {
            self.is_cut_off(around);
        }
        for _ in 0..self.dice.between(1, 6) {
            match self.dice.below(6) {
                0 => self.connect(around),
                1 | 2 => self.receive(around)?,
                3 | 4 => {
                    let count = 1 + self.dice.below(8);
                    self.send(around, count)?;
                }
                _ => self.tick(around)?,
            }
        }
        Ok(())
    }

    /// Does all that there is to do.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn take_calm_turn(&mut self, around: &mut Surroundings) -> Checked {
        self.connects_ms = self.connects_ms.min(around.now_ms);
        self.connect(around);
        self.tick(around)?;
        self.send(around, usize::MAX)?;
        while around.broker.waiting(FLEET) > 0 {
            self.receive(around)?;
        }
        self.send(around, usize::MAX)
    }

    /// Whether nothing waits to be sent.
    pub fn is_idle(&self) -> bool {
        self.link.is_up() && self.link.leaving() == 0
    }

    /// The connection is gone.
    pub fn is_cut_off(&mut self, around: &mut Surroundings) {
        let lost =
            self.link.disconnect(&mut around.broker, &mut self.dice, false, &mut around.faults);
        let fleet = self.fleet.as_mut().expect("a fleet is there but for its restarts");
        lost.into_iter().for_each(|message| fleet.lost(message));
        self.connects_ms = around.now_ms + self.dice.between(50, 10 * SECOND_MS);
    }

    fn restart(&mut self, around: &mut Surroundings) -> Checked {
        self.say(around, || "restarts".into());
        self.is_cut_off(around);
        let fleet = self.fleet.take().expect("a fleet is there but for its restarts");
        self.fleet = Some(self.runtime.block_on(fleet.restart()).map_err(failed)?);
        self.check_promises()
    }

    fn connect(&mut self, around: &mut Surroundings) {
        if self.link.is_up() || around.now_ms < self.connects_ms {
            return;
        }
        self.say(around, || "connects".into());
        self.link.connect(&mut around.broker, None);
        self.fleet().0.connected();
    }

    /// Takes a few messages; the fleet may end before it acknowledges them.
    fn receive(&mut self, around: &mut Surroundings) -> Checked {
        let ends = around.faults.happens(Fault::FleetEndedAfterCommit);
        for _ in 0..self.dice.between(1, 4) {
            let delivery = around.broker.receive(FLEET, &mut around.faults);
            let Some(delivery) = delivery else { return Ok(()) };
            let now_ms = around.now_ms;
            let (fleet, runtime) = self.fleet();
            let ingested =
                fleet.ingest(&delivery.topic, &delivery.payload, delivery.retained, now_ms);
            let ingested = runtime.block_on(ingested).map_err(failed)?;
            if let Some(reason) = ingested.refused {
                self.say(around, || format!("refuses {}: {reason}", delivery.topic));
                check_refusal(&delivery.topic, &reason)?;
            }
            if ends {
                around.faults.count(Fault::FleetEndedAfterCommit);
                return self.restart(around);
            }
            around.broker.acknowledge(FLEET, delivery.packet);
        }
        Ok(())
    }

    fn send(&mut self, around: &mut Surroundings, count: usize) -> Checked {
        let mut sent = 0;
        loop {
            while self.link.is_up() && sent < count {
                let (fleet, runtime) = self.fleet();
                let Some(message) = runtime.block_on(fleet.next_message()) else { break };
                sent += 1;
                let Outgoing { topic, payload, .. } = &message;
                let (topic, payload) = (topic.clone(), payload.clone());
                self.say(around, || format!("sends {} bytes on {topic}", payload.len()));
                self.note_promise(around, &topic, &payload)?;
                if let Some(message) =
                    self.link.publish(Publish { topic, payload, retain: true }, message)
                {
                    self.fleet().0.lost(message);
                }
            }
            let accepted = self.link.leave(&mut around.broker, count, &mut around.faults);
            if accepted.is_empty() {
                return Ok(());
            }
            for message in accepted {
                let (fleet, runtime) = self.fleet();
                runtime.block_on(fleet.accepted(message)).map_err(failed)?;
            }
            if count != usize::MAX {
                return Ok(());
            }
        }
    }

    fn tick(&mut self, around: &mut Surroundings) -> Checked {
        if around.now_ms < self.ticks_ms {
            return Ok(());
        }
        self.ticks_ms = around.now_ms + TICK_MS;
        let now_ms = around.now_ms;
        let (fleet, runtime) = self.fleet();
        runtime.block_on(fleet.tick(now_ms)).map_err(failed)?;
        self.note_timestamp(around).map(drop)
    }

    /// Notes the timestamp that the fleet has; gives its version.
    fn note_timestamp(&mut self, around: &mut Surroundings) -> Result<u64, Violation> {
        let repository = self.fleet().0.repository();
        let version = repository.version_of(&RoleName::timestamp());
        let bytes = repository.document(&RoleName::timestamp());
        let (Some(version), Some(bytes)) = (version, bytes) else {
            return Err(Violation("the repository has no timestamp".into()));
        };
        around.targets.note_timestamp(digest_of(bytes), version);
        Ok(version)
    }

    fn fleet(&mut self) -> (&mut SimulatedFleet, &Runtime) {
        let fleet = self.fleet.as_mut().expect("a fleet is there but for its restarts");
        (fleet, &self.runtime)
    }

    fn say(&self, around: &Surroundings, what: impl FnOnce() -> String) {
        around.trace.say(around.now_ms, "fleet", what);
    }
}

/// What its operator asks for.
impl Fleet {
    /// Keeps a bundle.
    ///
    /// # Errors
    /// [`Violation`] if it is refused.
    pub fn keep_bundle(&mut self, specimen: &Specimen, around: &Surroundings) -> Checked {
        let (fleet, runtime) = self.fleet();
        runtime.block_on(fleet.add_bundle(specimen.bundle.clone(), around.now_ms)).map_err(failed)
    }

    /// Changes the repository; gives the version of the timestamp that has the change.
    ///
    /// # Errors
    /// [`Violation`] if the proposal is refused.
    pub fn propose(
        &mut self,
        proposal: &Proposal,
        around: &mut Surroundings,
    ) -> Result<u64, Violation> {
        let (fleet, runtime) = self.fleet();
        runtime.block_on(fleet.propose(proposal, around.now_ms)).map_err(failed)?;
        self.note_timestamp(around)
    }

    /// Says what a slot should hold: the bundle, the samples of its shadow, whether it may be older. Gives
    /// the generation.
    ///
    /// # Errors
    /// [`Violation`] if it is refused, though the bundle is a target.
    pub fn assign(
        &mut self,
        device: &DeviceId,
        slot: &SlotName,
        wanted: Option<(Digest, u64, bool)>,
        around: &Surroundings,
    ) -> Result<u64, Violation> {
        let now_ms = around.now_ms;
        let (fleet, runtime) = self.fleet();
        let signed = match wanted {
            Some((bundle, shadow, downgrade)) => {
                let slot = slot.clone();
                runtime.block_on(fleet.assign(device, slot, bundle, shadow, downgrade, now_ms))
            }
            None => runtime.block_on(fleet.empty(device, slot, now_ms)),
        };
        signed.map_err(failed)
    }
}

/// What must hold.
impl Fleet {
    fn note_promise(&mut self, around: &Surroundings, topic: &str, payload: &[u8]) -> Checked {
        let Ok(Topic::Stored(device)) = around.topics.parse(topic) else { return Ok(()) };
        let wrong = |error: selvedge_wire::Error| Violation(format!("{topic}: {error}"));
        if payload.is_empty() {
            return Ok(());
        }
        let signed: Signed = decode(payload).map_err(wrong)?;
        let stored: Stored = decode(&signed.body).map_err(wrong)?;
        for through in stored.streams {
            let key = (device.clone(), through.boot, through.stream);
            let promised = self.promised.entry(key).or_default();
            must(through.through.0 >= *promised, || {
                format!("{device} is told {through:?} after {promised}")
            })?;
            *promised = through.through.0;
        }
        Ok(())
    }

    /// What was told to be stored is stored.
    fn check_promises(&mut self) -> Checked {
        let promised = std::mem::take(&mut self.promised);
        for ((device, boot, stream), promised) in &promised {
            let (fleet, runtime) = self.fleet();
            let streams = runtime.block_on(fleet.streams(device)).map_err(failed)?;
            let through = streams
                .iter()
                .find(|row| row.boot == i64::from(boot.0) && row.stream == stream.as_str())
                .map_or(0, |row| row.through.unsigned_abs());
            must(through >= *promised, || {
                format!(
                    "{device} was told that {stream:?} {boot:?} is stored to {promised}; it is to {through}"
                )
            })?;
        }
        self.promised = promised;
        Ok(())
    }

    /// Everything that devices made durable is there once, as they made it, or counted as dropped. Gives the
    /// number of records.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check_records(&mut self, devices: &[Device]) -> Result<u64, Violation> {
        self.check_promises()?;
        let mut records = 0;
        for device in devices {
            records += self.check_records_of(device)?;
        }
        Ok(records)
    }

    fn check_records_of(&mut self, device: &Device) -> Result<u64, Violation> {
        let (fleet, runtime) = self.fleet();
        let id = &device.id;
        let streams = runtime.block_on(fleet.streams(id)).map_err(failed)?;
        let held = runtime.block_on(fleet.held(id)).map_err(failed)?;
        let mut dropped_in_all = [0; Stream::ALL.len()];
        let mut count = 0;
        for ((boot, stream), records) in &device.witness.records {
            let who = format!("{id} boot {} {}", boot.0, stream.as_str());
            let row = streams
                .iter()
                .find(|row| row.boot == i64::from(boot.0) && row.stream == stream.as_str());
            let through = row.map_or(0, |row| row.through.unsigned_abs());
            let dropped = row.map_or(0, |row| row.dropped.unsigned_abs());
            let conflicting = row.map_or(0, |row| row.conflicting);
            must(conflicting == 0, || format!("{who}: {conflicting} records conflict"))?;
            must(through >= records.committed as u64, || {
                format!("{who}: {} were durable, {through} are stored", records.committed)
            })?;
            must(through <= records.pushed.len() as u64, || {
                format!("{who}: {through} are stored of {}", records.pushed.len())
            })?;
            dropped_in_all[*stream as usize] += dropped;
            let stored = match stream {
                Stream::Results => {
                    let rows = held.results.iter().filter(|row| row.boot == boot.0);
                    let rows = rows.map(|row| (row.sequence, row.sample.to_string()));
                    check_contents(&who, rows, &records.pushed, |record| {
                        let result: InferenceResult = postcard::from_bytes(record).ok()?;
                        Some(result.sample.to_string())
                    })?
                }
                Stream::Events => {
                    let rows = held.events.iter().filter(|row| row.boot == boot.0);
                    let rows =
                        rows.map(|row| (row.sequence, format!("{} {}", row.at_ms, row.detail)));
                    check_contents(&who, rows, &records.pushed, |record| {
                        let event: Event = postcard::from_bytes(record).ok()?;
                        Some(format!("{} {}", event.at_ms, event.detail))
                    })?
                }
                // Each is of a sample of the run in which it was given, so it stands at its own number.
                Stream::Labels => {
                    let rows = held.labels.iter().filter(|row| row.boot == boot.0);
                    let rows = rows.map(|row| (row.sequence, row.sample.to_string()));
                    check_contents(&who, rows, &records.pushed, |record| {
                        let label: LabelRecord = postcard::from_bytes(record).ok()?;
                        Some(label.sample.to_string())
                    })?
                }
                // No device of the world keeps samples.
                Stream::Captures => 0,
                Stream::Profiles => {
                    let rows: Vec<_> =
                        held.profiles.iter().filter(|row| row.boot == boot.0).collect();
                    let samples: u64 = rows.iter().filter_map(|row| samples_of(&row.profile)).sum();
                    let pushed = &records.pushed[..through as usize];
                    let expected: u64 = pushed.iter().filter_map(|it| samples_of_record(it)).sum();
                    must(dropped > 0 || samples == expected, || {
                        format!("{who}: {expected} samples were counted, {samples} are stored")
                    })?;
                    rows.iter().map(|row| row.covers).sum()
                }
            };
            must(stored + dropped == through, || {
                format!("{who}: {through} numbers, {stored} stored, {dropped} dropped")
            })?;
            count += stored;
        }
        for stream in Stream::ALL {
            let (told, known) = (dropped_in_all[stream as usize], device.dropped(stream));
            must(told <= known, || {
                format!("{id}: {told} of {stream:?} are said to be dropped, {known} were")
            })?;
        }
        Ok(count)
    }
}

/// A number is stored once, with what was pushed under it. Gives how many there are.
fn check_contents(
    who: &str,
    rows: impl Iterator<Item = (u64, String)>,
    pushed: &[Vec<u8>],
    content: impl Fn(&[u8]) -> Option<String>,
) -> Result<u64, Violation> {
    let mut seen = BTreeMap::new();
    for (sequence, found) in rows {
        must(!seen.contains_key(&sequence), || format!("{who}: {sequence} is stored twice"))?;
        let expected = pushed.get(sequence as usize - 1).and_then(|record| content(record));
        must(expected.as_ref() == Some(&found), || {
            format!("{who}: {sequence} was {expected:?} and is stored as {found:?}")
        })?;
        seen.insert(sequence, ());
    }
    Ok(seen.len() as u64)
}

fn samples_of(profile: &[u8]) -> Option<u64> {
    GatewayProfile::decode(profile).ok().map(|profile| u64::from(profile.samples()))
}

fn samples_of_record(record: &[u8]) -> Option<u64> {
    let record: ProfileRecord = postcard::from_bytes(record).ok()?;
    samples_of(&record.profile)
}

/// Nothing that a device of the world sends is forged or malformed. Old states may come late.
fn check_refusal(topic: &str, reason: &str) -> Checked {
    let is_old = ["later", "older", "out of date", "revision", "boot"];
    must(is_old.iter().any(|word| reason.contains(word)), || {
        format!("the fleet refuses a message on {topic}: {reason}")
    })
}

fn failed(error: selvedge_fleet::Error) -> Violation {
    Violation(format!("the fleet: {}", one_line(&error)))
}
