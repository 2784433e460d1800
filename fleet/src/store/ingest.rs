//! What devices send, stored exactly once.
//!
//! One call is one transaction over many messages. Each sequence number of a (device, boot, stream) is
//! taken once, whatever the order and however often it comes; a record that covers several numbers is
//! taken as a whole or, where some of them were stored before, not at all. A profile that covers more than
//! stored ones of the same origin, and all of each, takes their place: it has their counts in it.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::SqliteConnection;

use selvedge_wire::{
    Batch, Boot, CaptureRecord, DRIFTED_STREAMS_MAX, DeviceId, Digest, Event, Health,
    InferenceResult, LabelRecord, Outcome, ProfileOrigin, ProfileRecord, Record, Reported,
    Sequence, SlotReport, Status, StoredThrough, Stream,
};

use super::{EnrolledKey, Store, Tx, captures, integer, labels, natural};
use crate::{
    Error, Limits,
    ranges::{SequenceRanges, Span},
};

/// Sequence numbers and counters above this one are refused: JSON readers hold integers up to here
/// exactly.
pub(super) const COUNT_MAX: u64 = (1 << 53) - 1;

/// Messages of one device that are not believed are told as an event at most this often, so that whoever
/// floods the topic does not push out what the device tells.
const DISBELIEF_TOLD_EVERY_MS: u64 = 60 * 60 * 1000;

/// The boot of events that the fleet itself noticed; those of devices count from 1.
const NOTICED_BOOT: u32 = 0;

/// How many rows of one kind a device adds before its oldest are looked at again.
const TRIM_STRIDE: u64 = 256;

/// Deletes the points of device `$1` beyond the newest `$2`.
const TRIM_HEALTH: &str = "DELETE FROM health_history WHERE device = $1 AND id <= \
     (SELECT id FROM health_history WHERE device = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";

/// Deletes the counters of boots of device `$1` beyond the latest `$2`.
const TRIM_BOOTS: &str = "DELETE FROM health WHERE device = $1 AND boot <= \
     (SELECT boot FROM health WHERE device = $1 ORDER BY boot DESC LIMIT 1 OFFSET $2)";

/// A message that was understood.
#[derive(Clone, Debug)]
pub struct Received {
    /// Who sent it: the device that the topic names, and that has signed it.
    pub device: DeviceId,
    /// The key that it was signed with.
    pub key: EnrolledKey,
    /// What it says.
    pub message: Upward,
    /// Whether the device has sent it just now; false for what the broker had retained.
    pub fresh: bool,
    /// When it came, in Unix milliseconds.
    pub at_ms: u64,
}

/// What a device may say.
#[derive(Clone, Debug)]
pub enum Upward {
    /// Birth, farewell or will.
    Status(Status),
    /// What it runs.
    Reported(Reported),
    /// Its counters.
    Health(Health),
    /// Answers.
    Results(Batch<InferenceResult>),
    /// Counters of windows.
    Profiles(Batch<ProfileRecord>),
    /// What happened.
    Events(Batch<Event>),
    /// Labels that came late.
    Labels(Batch<LabelRecord>),
    /// Samples that were kept, and are asked for.
    Captures(Batch<CaptureRecord>),
}

impl Upward {
    /// How many rows it may become.
    pub fn records(&self) -> usize {
        match self {
            Self::Status(_) | Self::Reported(_) | Self::Health(_) => 1,
            Self::Results(batch) => batch.records.len(),
            Self::Profiles(batch) => batch.records.len(),
            Self::Events(batch) => batch.records.len(),
            Self::Labels(batch) => batch.records.len(),
            Self::Captures(batch) => batch.records.len(),
        }
    }
}

/// A payload that was not understood.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// Who sent it, as the topic says.
    pub sender: String,
    /// In what way.
    pub kind: MalformedKind,
    /// What is wrong with it.
    pub reason: String,
    /// When it came, in Unix milliseconds.
    pub at_ms: u64,
}

/// In what way a payload is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedKind {
    /// It is written in this wire version, which is not understood.
    Version(u8),
    /// It is not signed by the key of the device that the topic names.
    Forged,
    /// In any other.
    Other,
}

/// What came of a transaction.
#[derive(Debug, Default)]
pub struct Applied {
    /// Devices of which something is different now.
    pub changed: BTreeSet<DeviceId>,
    /// Devices whose streams were sent, so that they wait to hear how far they are stored.
    pub streamed: BTreeSet<DeviceId>,
    /// Ends of batches of boots that are settled: nothing of them is stored, and none of it is asked
    /// for again.
    pub settled: Vec<(DeviceId, StoredThrough)>,
    /// Messages that were understood but not taken.
    pub refusals: Vec<Refusal>,
    /// Whether some device says that it runs other bundles than before.
    pub running_changed: bool,
    /// Whether some device has done with a request for captured samples.
    pub captures_finished: bool,
    /// Devices that said how they are; with the generation that they follow where they said that, too.
    pub heard: BTreeMap<DeviceId, Option<u64>>,
}

/// A message that was understood but not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who sent it.
    pub device: DeviceId,
    /// Why it was not taken.
    pub reason: String,
}

impl Store {
    /// Stores what devices sent and counts what was not understood, all of it or nothing.
    ///
    /// # Errors
    /// [`Error::Store`] if the database does not take it; then nothing was stored.
    pub async fn apply(
        &self,
        messages: &[Received],
        malformed: &[&Malformed],
    ) -> Result<Applied, Error> {
        self.apply_in_one_transaction(messages, malformed)
            .await
            .map_err(Error::store("store what devices sent"))
    }

    async fn apply_in_one_transaction(
        &self,
        messages: &[Received],
        malformed: &[&Malformed],
    ) -> Result<Applied, sqlx::Error> {
        let mut tx = Tx::begin(&self.writer).await?;
        let mut applied = Applied::default();
        let mut accounts: BTreeMap<&DeviceId, Option<Account>> = BTreeMap::new();
        for received in messages {
            let device = &received.device;
            if !accounts.contains_key(device) {
                accounts.insert(device, read_account(&mut tx, device).await?);
            }
            let taken = match &accounts[device] {
                None => Taken::Refused("the sender is not registered".into()),
                // The device was deleted and added again while the message was on its way.
                Some(account) if account.key != Some(received.key) => {
                    Taken::Refused("it is signed with a key that the device has no more".into())
                }
                Some(account) => self.apply_one(&mut tx, received, account.floor).await?,
            };
            match taken {
                Taken::Yes { running_changed } => {
                    note_seen(&mut tx, received).await?;
                    applied.running_changed |= running_changed;
                    applied.changed.insert(device.clone());
                    match &received.message {
                        Upward::Reported(reported) => {
                            applied.heard.insert(device.clone(), Some(reported.generation));
                        }
                        Upward::Status(_) | Upward::Health(_) => {
                            applied.heard.entry(device.clone()).or_default();
                        }
                        Upward::Captures(batch) => {
                            applied.captures_finished |= captures::finishes(batch);
                        }
                        Upward::Results(_)
                        | Upward::Profiles(_)
                        | Upward::Events(_)
                        | Upward::Labels(_) => {}
                    }
                    if is_streamed(&received.message) {
                        applied.streamed.insert(device.clone());
                    }
                }
                Taken::Replayed(reason) => {
                    self.note_disbelieved(&mut tx, device, REPLAYED, &reason, received.at_ms)
                        .await?;
                    applied.changed.insert(device.clone());
                }
                Taken::Refused(reason) => {
                    let floor = accounts[device].as_ref().map(|account| account.floor);
                    let end = end_of_batch(&received.message);
                    let settled = end.filter(|end| floor.is_some_and(|floor| end.boot < floor));
                    applied.settled.extend(settled.map(|end| (device.clone(), end)));
                    applied.refusals.push(Refusal { device: device.clone(), reason });
                }
            }
        }
        for one in malformed {
            self.count_malformed(&mut tx, one).await?;
            applied.changed.extend(one.sender.parse());
        }
        for refusal in &applied.refusals {
            let malformed = Malformed {
                sender: refusal.device.to_string(),
                kind: MalformedKind::Other,
                reason: refusal.reason.clone(),
                at_ms: messages.first().map_or(0, |message| message.at_ms),
            };
            self.count_malformed(&mut tx, &malformed).await?;
        }
        tx.commit().await?;
        Ok(applied)
    }

    /// How far the streams of `device` are stored, the last written first.
    pub async fn stored(
        &self,
        device: &DeviceId,
        streams_max: u32,
    ) -> Result<Vec<StoredThrough>, Error> {
        let rows: Vec<(i64, String, i64)> = sqlx::query_as(
            "SELECT boot, stream, through FROM streams WHERE device = $1 \
             ORDER BY written_ms DESC, boot DESC LIMIT $2",
        )
        .bind(device.as_str())
        .bind(streams_max)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read how far streams are stored"))?;
        let through = |(boot, stream, through): (i64, String, i64)| StoredThrough {
            boot: Boot(u32::try_from(boot).expect("boots are stored from 32 bits")),
            stream: Stream::from_name(&stream).expect("streams are stored by their names"),
            through: Sequence(natural(through)),
        };
        Ok(rows.into_iter().map(through).collect())
    }

    async fn apply_one(
        &self,
        tx: &mut Tx,
        received: &Received,
        floor: Boot,
    ) -> Result<Taken, sqlx::Error> {
        let (device, at_ms) = (&received.device, received.at_ms);
        match &received.message {
            Upward::Status(status) => {
                let newest = store_status(tx, device, status, at_ms, &self.limits).await?;
                if !newest && status.online && received.fresh {
                    let Boot(boot) = status.boot;
                    let reason = format!(
                        "it starts boot {boot} after later ones; if it lost its state, delete the \
                         device and add it again"
                    );
                    self.note_disbelieved(tx, device, REPLAYED, &reason, at_ms).await?;
                    return Ok(Taken::Refused(reason));
                }
                Ok(Taken::AS_BEFORE)
            }
            Upward::Reported(reported) if reported.slots.len() > self.limits.slots_max => {
                let max = self.limits.slots_max;
                Ok(Taken::Refused(format!("a report has more than {max} slots")))
            }
            Upward::Reported(reported) => {
                store_reported(tx, received, reported, &self.limits).await
            }
            Upward::Health(health) if largest_counter(health) > COUNT_MAX => {
                Ok(Taken::Refused(format!("a counter of its health is above {COUNT_MAX}")))
            }
            Upward::Health(health) => store_health(tx, device, health, at_ms, &self.limits).await,
            Upward::Results(batch) => {
                self.apply_batch(tx, device, Stream::Results, batch, floor, at_ms).await
            }
            Upward::Profiles(batch) => {
                self.apply_batch(tx, device, Stream::Profiles, batch, floor, at_ms).await
            }
            Upward::Events(batch) => {
                self.apply_batch(tx, device, Stream::Events, batch, floor, at_ms).await
            }
            Upward::Labels(batch) => {
                if let Some(reason) = labels::fault(batch) {
                    let (sender, kind) = (device.to_string(), MalformedKind::Other);
                    self.count_malformed(tx, &Malformed { sender, kind, reason, at_ms }).await?;
                }
                self.apply_batch(tx, device, Stream::Labels, batch, floor, at_ms).await
            }
            Upward::Captures(batch) => {
                if let Some(reason) = captures::fault(batch) {
                    let (sender, kind) = (device.to_string(), MalformedKind::Other);
                    self.count_malformed(tx, &Malformed { sender, kind, reason, at_ms }).await?;
                }
                self.apply_batch(tx, device, Stream::Captures, batch, floor, at_ms).await
            }
        }
    }

    async fn apply_batch<T: Row>(
        &self,
        tx: &mut Tx,
        device: &DeviceId,
        stream: Stream,
        batch: &Batch<T>,
        floor: Boot,
        at_ms: u64,
    ) -> Result<Taken, sqlx::Error> {
        if batch.boot < floor {
            let Boot(floor) = floor;
            return Ok(Taken::Refused(format!(
                "boots before {floor} are settled; their records are discarded"
            )));
        }
        let mut plan = match plan_batch(batch, load_ranges(tx, device, batch.boot, stream).await?) {
            Ok(plan) => plan,
            Err(reason) => return Ok(Taken::Refused(reason)),
        };
        for &(sequence, covers, value) in &plan.fresh {
            let place = Place { device, boot: batch.boot, sequence, covers, received_ms: at_ms };
            value.insert(tx, &place, &self.limits).await?;
        }
        for (sequence, covers, value) in std::mem::take(&mut plan.overlapping) {
            let place = Place { device, boot: batch.boot, sequence, covers, received_ms: at_ms };
            if value.make_room(tx, &place).await? {
                value.insert(tx, &place, &self.limits).await?;
                plan.fresh.push((sequence, covers, value));
            } else {
                plan.conflicting += 1;
            }
        }
        let new_stream = save_ranges(tx, device, batch.boot, stream, &plan.ranges).await?;
        count_batch(tx, device, batch.boot, stream, &plan, at_ms).await?;
        let (records, added) = (plan.records_before, plan.fresh.len() as u64);
        if records / TRIM_STRIDE != (records + added) / TRIM_STRIDE {
            T::trim(tx, device, &self.limits).await?;
        }
        if new_stream {
            settle_old_boots(tx, device, self.limits.boots_kept_max).await?;
        }
        Ok(Taken::AS_BEFORE)
    }

    async fn count_malformed(&self, tx: &mut Tx, malformed: &Malformed) -> Result<(), sqlx::Error> {
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM malformed WHERE sender = $1")
            .bind(&malformed.sender)
            .fetch_optional(&mut **tx)
            .await?;
        let senders: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM malformed").fetch_one(&mut **tx).await?;
        let room = natural(senders) < u64::from(self.limits.senders_counted_max);
        let sender = if known.is_some() || room { malformed.sender.as_str() } else { "(others)" };
        sqlx::query(
            "INSERT INTO malformed (sender, count, versions, last_reason, last_ms) \
             VALUES ($1, 1, $2, $3, $4) ON CONFLICT (sender) DO UPDATE SET \
             count = malformed.count + 1, versions = malformed.versions + excluded.versions, \
             last_reason = excluded.last_reason, last_ms = excluded.last_ms",
        )
        .bind(sender)
        .bind(matches!(malformed.kind, MalformedKind::Version(_)))
        .bind(cut(&malformed.reason, &self.limits))
        .bind(integer(malformed.at_ms))
        .execute(&mut **tx)
        .await?;
        match malformed.kind {
            MalformedKind::Version(met) => {
                sqlx::query("UPDATE devices SET wire_met = $2 WHERE id = $1")
                    .bind(&malformed.sender)
                    .bind(met)
                    .execute(&mut **tx)
                    .await?;
            }
            MalformedKind::Forged => {
                if let Ok(device) = malformed.sender.parse() {
                    let (reason, at_ms) = (&malformed.reason, malformed.at_ms);
                    self.note_disbelieved(tx, &device, FORGED, reason, at_ms).await?;
                }
            }
            MalformedKind::Other => {}
        }
        Ok(())
    }

    /// Counts a message that `device` seems to have sent, and tells of it as an event now and then.
    async fn note_disbelieved(
        &self,
        tx: &mut Tx,
        device: &DeviceId,
        kind: &'static str,
        reason: &str,
        at_ms: u64,
    ) -> Result<(), sqlx::Error> {
        let told: Option<i64> =
            sqlx::query_scalar("SELECT told_ms FROM disbelieved WHERE device = $1 AND kind = $2")
                .bind(device.as_str())
                .bind(kind)
                .fetch_optional(&mut **tx)
                .await?;
        let again = told.map(|told| natural(told).saturating_add(DISBELIEF_TOLD_EVERY_MS));
        let is_told = again.is_none_or(|again| again <= at_ms);
        sqlx::query(
            "INSERT INTO disbelieved (device, kind, count, last_reason, last_ms, told_ms) \
             VALUES ($1, $2, 1, $3, $4, $4) ON CONFLICT (device, kind) DO UPDATE SET \
             count = disbelieved.count + 1, last_reason = excluded.last_reason, \
             last_ms = excluded.last_ms, \
             told_ms = CASE WHEN $5 THEN excluded.told_ms ELSE disbelieved.told_ms END",
        )
        .bind(device.as_str())
        .bind(kind)
        .bind(cut(reason, &self.limits))
        .bind(integer(at_ms))
        .bind(is_told)
        .execute(&mut **tx)
        .await?;
        if !is_told {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO events (device, boot, sequence, at_ms, kind, detail) VALUES ($1, $2, \
             (SELECT COALESCE(MAX(sequence), 0) + 1 FROM events WHERE device = $1 AND boot = $2), \
             $3, $4, $5)",
        )
        .bind(device.as_str())
        .bind(NOTICED_BOOT)
        .bind(integer(at_ms))
        .bind(kind)
        .bind(cut(reason, &self.limits))
        .execute(&mut **tx)
        .await
        .map(drop)
    }
}

/// Kinds of what is not believed: names of events, and of rows that count them.
const FORGED: &str = "forged";
const REPLAYED: &str = "replayed";

/// What the database did with a message.
enum Taken {
    /// It is stored.
    Yes {
        /// It says that other bundles run than before.
        running_changed: bool,
    },
    /// It is older than what is stored, and changes nothing.
    Replayed(String),
    /// It cannot be taken.
    Refused(String),
}

impl Taken {
    const AS_BEFORE: Self = Self::Yes { running_changed: false };
}

/// What is kept of a device that decides about its messages.
struct Account {
    /// Boots below it are settled.
    floor: Boot,
    /// The key that it signs with.
    key: Option<EnrolledKey>,
}

/// What a batch adds to what is stored.
struct BatchPlan<'a, T> {
    /// The stream's numbers afterwards.
    ranges: SequenceRanges,
    /// Records to store: the first number, how many it covers, the value.
    fresh: Vec<(u64, u64, &'a T)>,
    /// Records whose numbers were stored in part.
    overlapping: Vec<(u64, u64, &'a T)>,
    /// Numbers that are new and stand for dropped records.
    dropped: u64,
    /// Those of them that cannot take the place of what is stored.
    conflicting: u64,
    /// Records of this stream that were stored before.
    records_before: u64,
}

fn plan_batch<T>(
    batch: &Batch<T>,
    (mut ranges, records_before): (SequenceRanges, u64),
) -> Result<BatchPlan<'_, T>, String> {
    let (mut fresh, mut overlapping) = (Vec::new(), Vec::new());
    let mut dropped = 0;
    let Sequence(mut next) = batch.first;
    for record in &batch.records {
        let covers = record.covers();
        let last = next.checked_add(covers).and_then(|end| end.checked_sub(1));
        let span = match last {
            Some(last) if 1 <= next && next <= last && last <= COUNT_MAX => {
                Span { first: next, last }
            }
            _ => return Err(format!("{covers} sequence numbers from {next} are not possible")),
        };
        let new = ranges.insert(span).map_err(|_| {
            format!("the stream has more than {} holes", SequenceRanges::RANGES_MAX)
        })?;
        match record {
            Record::Dropped { .. } => dropped += new,
            Record::One(value) | Record::Merged { value, .. } if new == covers => {
                fresh.push((next, covers, value));
            }
            Record::One(_) | Record::Merged { .. } if new == 0 => {}
            Record::One(value) | Record::Merged { value, .. } => {
                overlapping.push((next, covers, value));
            }
        }
        next = span.last + 1;
    }
    Ok(BatchPlan { ranges, fresh, overlapping, dropped, conflicting: 0, records_before })
}

/// Where a row belongs, and when it came.
pub(super) struct Place<'a> {
    pub(super) device: &'a DeviceId,
    pub(super) boot: Boot,
    pub(super) sequence: u64,
    pub(super) covers: u64,
    pub(super) received_ms: u64,
}

/// A record that becomes a row.
pub(super) trait Row {
    /// Deletes the rows of device `$1` beyond the newest `$2`.
    const TRIM: &'static str;

    fn kept_max(limits: &Limits) -> u32;

    /// Deletes stored records whose content is in this one, where the numbers of some of them are among its
    /// own; returns whether it can be stored then.
    async fn make_room(
        &self,
        _: &mut SqliteConnection,
        _: &Place<'_>,
    ) -> Result<bool, sqlx::Error> {
        Ok(false)
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        limits: &Limits,
    ) -> Result<(), sqlx::Error>;

    /// Deletes a device's oldest rows beyond those that are kept.
    async fn trim(tx: &mut Tx, device: &DeviceId, limits: &Limits) -> Result<(), sqlx::Error> {
        trim(tx, Self::TRIM, device, Self::kept_max(limits)).await.map(drop)
    }
}

impl Row for InferenceResult {
    const TRIM: &'static str = "DELETE FROM results WHERE device = $1 AND id <= \
         (SELECT id FROM results WHERE device = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";

    fn kept_max(limits: &Limits) -> u32 {
        limits.results_kept_max
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        limits: &Limits,
    ) -> Result<(), sqlx::Error> {
        let (class, score, values, failure) = match &self.outcome {
            Outcome::Class { index, score } => (Some(*index), Some(*score), None, None),
            Outcome::Values(values) => (None, None, Some(json_numbers(values)), None),
            Outcome::Failed(reason) => (None, None, None, Some(cut(reason, limits))),
        };
        sqlx::query(
            "INSERT INTO results (device, boot, sequence, at_ms, slot, bundle, source, sample, \
             latency_us, class_index, score, output_values, failure) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(place.device.as_str())
        .bind(place.boot.0)
        .bind(integer(place.sequence))
        .bind(integer(self.at_ms))
        .bind(self.slot.as_str())
        .bind(&self.bundle.0[..])
        .bind(cut(&self.source, limits))
        .bind(integer(self.sample))
        .bind(self.latency_us)
        .bind(class)
        .bind(score)
        .bind(values)
        .bind(failure)
        .execute(tx)
        .await
        .map(drop)
    }
}

impl Row for ProfileRecord {
    const TRIM: &'static str = "DELETE FROM profiles WHERE device = $1 AND id <= \
         (SELECT id FROM profiles WHERE device = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";

    fn kept_max(limits: &Limits) -> u32 {
        limits.profiles_kept_max
    }

    async fn make_room(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
    ) -> Result<bool, sqlx::Error> {
        let (slot, bundle, node) = origin_columns(&self.origin);
        let last = place.sequence + (place.covers - 1);
        let foreign: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM profiles WHERE device = $1 AND boot = $2 AND sequence <= $4 \
             AND sequence + covers > $3 AND NOT (sequence >= $3 AND sequence + covers - 1 <= $4 \
             AND slot IS $5 AND bundle IS $6 AND node IS $7)",
        )
        .bind(place.device.as_str())
        .bind(place.boot.0)
        .bind(integer(place.sequence))
        .bind(integer(last))
        .bind(slot)
        .bind(bundle)
        .bind(node)
        .fetch_one(&mut *tx)
        .await?;
        if foreign > 0 {
            return Ok(false);
        }
        sqlx::query(
            "DELETE FROM profiles WHERE device = $1 AND boot = $2 AND sequence <= $4 \
             AND sequence + covers > $3",
        )
        .bind(place.device.as_str())
        .bind(place.boot.0)
        .bind(integer(place.sequence))
        .bind(integer(last))
        .execute(tx)
        .await
        .map(|_| true)
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        _: &Limits,
    ) -> Result<(), sqlx::Error> {
        let (slot, bundle, node) = origin_columns(&self.origin);
        sqlx::query(
            "INSERT INTO profiles (device, boot, sequence, covers, slot, bundle, node, \
             window_first, window_last, opened_ms, closed_ms, profile) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(place.device.as_str())
        .bind(place.boot.0)
        .bind(integer(place.sequence))
        .bind(integer(place.covers))
        .bind(slot)
        .bind(bundle)
        .bind(node)
        .bind(integer(self.windows.first))
        .bind(integer(self.windows.last))
        .bind(integer(self.opened_ms))
        .bind(integer(self.closed_ms))
        .bind(&self.profile)
        .execute(&mut *tx)
        .await?;
        match &self.origin {
            ProfileOrigin::Model { .. } => Ok(()),
            ProfileOrigin::Node { node, latest } => sqlx::query(
                "INSERT INTO nodes (device, node, quantity, value, readings, uptime_ms, profiles, \
                 closed_ms) VALUES ($1, $2, $3, $4, $5, $6, 1, $7) \
                 ON CONFLICT (device, node) DO UPDATE SET profiles = nodes.profiles + 1, \
                 quantity = excluded.quantity, value = excluded.value, \
                 readings = excluded.readings, uptime_ms = excluded.uptime_ms, \
                 closed_ms = excluded.closed_ms WHERE nodes.closed_ms <= excluded.closed_ms",
            )
            .bind(place.device.as_str())
            .bind(node.0.cast_signed())
            .bind(latest.quantity.as_str())
            .bind(latest.value)
            .bind(i64::from(latest.count) + 1)
            .bind(latest.uptime_ms)
            .bind(integer(self.closed_ms))
            .execute(tx)
            .await
            .map(drop),
        }
    }
}

/// Slot, bundle and node of a profile.
fn origin_columns(origin: &ProfileOrigin) -> (Option<&str>, Option<&[u8]>, Option<i64>) {
    match origin {
        ProfileOrigin::Model { slot, bundle } => (Some(slot.as_str()), Some(&bundle.0), None),
        // SQLite's integers are signed: the node's 64 bits are kept, not their value.
        ProfileOrigin::Node { node, .. } => (None, None, Some(node.0.cast_signed())),
    }
}

impl Row for Event {
    const TRIM: &'static str = "DELETE FROM events WHERE device = $1 AND id <= \
         (SELECT id FROM events WHERE device = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";

    fn kept_max(limits: &Limits) -> u32 {
        limits.events_kept_max
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        limits: &Limits,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO events (device, boot, sequence, at_ms, kind, slot, bundle, detail) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(place.device.as_str())
        .bind(place.boot.0)
        .bind(integer(place.sequence))
        .bind(integer(self.at_ms))
        .bind(self.kind.as_str())
        .bind(self.slot.as_ref().map(|slot| slot.as_str()))
        .bind(self.bundle.as_ref().map(|bundle| &bundle.0[..]))
        .bind(cut(&self.detail, limits))
        .execute(tx)
        .await
        .map(drop)
    }
}

async fn read_account(tx: &mut Tx, device: &DeviceId) -> Result<Option<Account>, sqlx::Error> {
    let row: Option<(u32, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT boot_floor, public_key FROM devices WHERE id = $1")
            .bind(device.as_str())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(floor, key)| Account {
        floor: Boot(floor),
        key: key.as_deref().map(EnrolledKey::of_row),
    }))
}

async fn note_seen(tx: &mut Tx, received: &Received) -> Result<(), sqlx::Error> {
    let will = matches!(&received.message, Upward::Status(status) if !status.online);
    if !received.fresh || will {
        return Ok(());
    }
    sqlx::query("UPDATE devices SET last_seen_ms = $2, wire_met = NULL WHERE id = $1")
        .bind(received.device.as_str())
        .bind(integer(received.at_ms))
        .execute(&mut **tx)
        .await
        .map(drop)
}

fn is_streamed(message: &Upward) -> bool {
    !matches!(message, Upward::Status(_) | Upward::Reported(_) | Upward::Health(_))
}

/// The last number of a batch; nothing for other messages and for numbers that are not possible.
fn end_of_batch(message: &Upward) -> Option<StoredThrough> {
    fn end<T>(stream: Stream, batch: &Batch<T>) -> Option<StoredThrough> {
        let Sequence(first) = batch.first;
        let covers = batch.records.iter().map(Record::covers);
        let through = covers.fold(first, u64::saturating_add).checked_sub(1)?;
        let possible = 1 <= first && first <= through && through <= COUNT_MAX;
        let through = Sequence(through);
        possible.then_some(StoredThrough { boot: batch.boot, stream, through })
    }
    match message {
        Upward::Status(_) | Upward::Reported(_) | Upward::Health(_) => None,
        Upward::Results(batch) => end(Stream::Results, batch),
        Upward::Profiles(batch) => end(Stream::Profiles, batch),
        Upward::Events(batch) => end(Stream::Events, batch),
        Upward::Labels(batch) => end(Stream::Labels, batch),
        Upward::Captures(batch) => end(Stream::Captures, batch),
    }
}

/// Returns whether no later boot has spoken. A status of an earlier one is a will that comes late: the
/// device has been back since.
async fn store_status(
    tx: &mut Tx,
    device: &DeviceId,
    status: &Status,
    at_ms: u64,
    limits: &Limits,
) -> Result<bool, sqlx::Error> {
    let stored = sqlx::query(
        "INSERT INTO statuses (device, boot, online, agent_version, wire_oldest, wire_newest, \
         hardware_class, received_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (device) DO UPDATE SET boot = excluded.boot, online = excluded.online, \
         agent_version = excluded.agent_version, wire_oldest = excluded.wire_oldest, \
         wire_newest = excluded.wire_newest, hardware_class = excluded.hardware_class, \
         received_ms = excluded.received_ms WHERE statuses.boot <= excluded.boot",
    )
    .bind(device.as_str())
    .bind(status.boot.0)
    .bind(status.online)
    .bind(cut(&status.agent_version, limits))
    .bind(status.wire_oldest)
    .bind(status.wire_newest)
    .bind(cut(&status.hardware_class, limits))
    .bind(integer(at_ms))
    .execute(&mut **tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// A report counts if it is newer than the stored one: of a later boot, or of a higher revision.
async fn store_reported(
    tx: &mut Tx,
    received: &Received,
    reported: &Reported,
    limits: &Limits,
) -> Result<Taken, sqlx::Error> {
    let device = &received.device;
    let kept: Option<(u32, i64, String)> =
        sqlx::query_as("SELECT boot, revision, slots FROM reported WHERE device = $1")
            .bind(device.as_str())
            .fetch_optional(&mut **tx)
            .await?;
    let Boot(boot) = reported.boot;
    let mut running_before = BTreeSet::new();
    if let Some((kept_boot, kept_revision, kept_slots)) = kept {
        let (stored, came) = ((kept_boot, kept_revision), (boot, integer(reported.revision)));
        if came == stored || came < stored && !received.fresh {
            return Ok(Taken::AS_BEFORE);
        }
        if came < stored {
            return Ok(Taken::Replayed(format!(
                "its report {} of boot {boot} came after report {kept_revision} of boot {kept_boot}, \
                 and changes nothing",
                reported.revision
            )));
        }
        let slots: Vec<SlotReport> =
            serde_json::from_str(&kept_slots).expect("reports are stored as they were read");
        running_before = running(&slots);
    }
    let mut slots = reported.slots.clone();
    for slot in &mut slots {
        slot.reason = slot.reason.as_deref().map(|reason| cut(reason, limits).into());
        if let Some(running) = &mut slot.running {
            running.name = cut(&running.name, limits).into();
            running.version = cut(&running.version, limits).into();
        }
        if let Some(drift) = &mut slot.drift {
            drift.streams.truncate(DRIFTED_STREAMS_MAX);
            for stream in &mut drift.streams {
                stream.name = cut(&stream.name, limits).into();
                stream.change = cut(&stream.change, limits).into();
            }
        }
    }
    sqlx::query(
        "INSERT INTO reported (device, boot, revision, generation, trust, slots, received_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (device) DO UPDATE SET \
         boot = excluded.boot, revision = excluded.revision, generation = excluded.generation, \
         trust = excluded.trust, slots = excluded.slots, received_ms = excluded.received_ms",
    )
    .bind(device.as_str())
    .bind(boot)
    .bind(integer(reported.revision))
    .bind(integer(reported.generation))
    .bind(serde_json::to_string(&reported.trust).expect("reports are JSON"))
    .bind(serde_json::to_string(&slots).expect("reports are JSON"))
    .bind(integer(received.at_ms))
    .execute(&mut **tx)
    .await?;
    Ok(Taken::Yes { running_changed: running(&slots) != running_before })
}

/// The bundles that answer.
fn running(slots: &[SlotReport]) -> BTreeSet<Digest> {
    slots.iter().filter_map(|slot| Some(slot.running.as_ref()?.bundle)).collect()
}

fn largest_counter(health: &Health) -> u64 {
    let Health {
        boot: _,
        uptime_s,
        inferences,
        inferences_failed,
        inputs_malformed,
        inputs_anomalous,
        swaps,
        sent_bytes,
        received_bytes,
        resident_bytes,
        resident_bytes_peak,
        spool_bytes,
        records_dropped,
    } = *health;
    [
        uptime_s,
        inferences,
        inferences_failed,
        inputs_malformed,
        inputs_anomalous,
        swaps,
        sent_bytes,
        received_bytes,
        resident_bytes,
        resident_bytes_peak,
        spool_bytes,
        records_dropped,
    ]
    .into_iter()
    .fold(0, u64::max)
}

/// Counters go forward by boot and uptime; what is behind is not counted, and is no point of the chart.
async fn store_health(
    tx: &mut Tx,
    device: &DeviceId,
    health: &Health,
    at_ms: u64,
    limits: &Limits,
) -> Result<Taken, sqlx::Error> {
    let newest: Option<(u32, i64)> = sqlx::query_as(
        "SELECT boot, uptime_s FROM health WHERE device = $1 ORDER BY boot DESC LIMIT 1",
    )
    .bind(device.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let Boot(boot) = health.boot;
    if let Some((kept_boot, kept_uptime_s)) = newest
        && (boot, integer(health.uptime_s)) < (kept_boot, kept_uptime_s)
    {
        return Ok(Taken::Replayed(format!(
            "its counters of boot {boot} at {} s came after those of boot {kept_boot} at \
             {kept_uptime_s} s, and change nothing",
            health.uptime_s
        )));
    }
    sqlx::query(
        "INSERT INTO health (device, boot, uptime_s, inferences, inferences_failed, \
         inputs_malformed, swaps, sent_bytes, received_bytes, resident_bytes, \
         resident_bytes_peak, spool_bytes, records_dropped, received_ms, inputs_anomalous) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (device, boot) DO UPDATE SET uptime_s = excluded.uptime_s, \
         inferences = excluded.inferences, inferences_failed = excluded.inferences_failed, \
         inputs_malformed = excluded.inputs_malformed, swaps = excluded.swaps, \
         sent_bytes = excluded.sent_bytes, received_bytes = excluded.received_bytes, \
         resident_bytes = excluded.resident_bytes, \
         resident_bytes_peak = excluded.resident_bytes_peak, \
         spool_bytes = excluded.spool_bytes, records_dropped = excluded.records_dropped, \
         received_ms = excluded.received_ms, inputs_anomalous = excluded.inputs_anomalous",
    )
    .bind(device.as_str())
    .bind(health.boot.0)
    .bind(integer(health.uptime_s))
    .bind(integer(health.inferences))
    .bind(integer(health.inferences_failed))
    .bind(integer(health.inputs_malformed))
    .bind(integer(health.swaps))
    .bind(integer(health.sent_bytes))
    .bind(integer(health.received_bytes))
    .bind(integer(health.resident_bytes))
    .bind(integer(health.resident_bytes_peak))
    .bind(integer(health.spool_bytes))
    .bind(integer(health.records_dropped))
    .bind(integer(at_ms))
    .bind(integer(health.inputs_anomalous))
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO health_history (device, boot, inferences, received_ms) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(device.as_str())
    .bind(health.boot.0)
    .bind(integer(health.inferences))
    .bind(integer(at_ms))
    .execute(&mut **tx)
    .await?;
    trim(tx, TRIM_HEALTH, device, limits.health_kept_max).await?;
    trim(tx, TRIM_BOOTS, device, limits.boots_kept_max).await?;
    Ok(Taken::AS_BEFORE)
}

async fn load_ranges(
    tx: &mut Tx,
    device: &DeviceId,
    boot: Boot,
    stream: Stream,
) -> Result<(SequenceRanges, u64), sqlx::Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT first, last FROM received_ranges WHERE device = $1 AND boot = $2 AND stream = $3",
    )
    .bind(device.as_str())
    .bind(boot.0)
    .bind(stream.as_str())
    .fetch_all(&mut **tx)
    .await?;
    let records: Option<i64> = sqlx::query_scalar(
        "SELECT records FROM streams WHERE device = $1 AND boot = $2 AND stream = $3",
    )
    .bind(device.as_str())
    .bind(boot.0)
    .bind(stream.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let spans =
        rows.into_iter().map(|(first, last)| Span { first: natural(first), last: natural(last) });
    let ranges = SequenceRanges::from_spans(spans).expect("sets are stored within their limit");
    Ok((ranges, records.map_or(0, natural)))
}

/// Returns whether the stream is new.
async fn save_ranges(
    tx: &mut Tx,
    device: &DeviceId,
    boot: Boot,
    stream: Stream,
    ranges: &SequenceRanges,
) -> Result<bool, sqlx::Error> {
    let deleted =
        sqlx::query("DELETE FROM received_ranges WHERE device = $1 AND boot = $2 AND stream = $3")
            .bind(device.as_str())
            .bind(boot.0)
            .bind(stream.as_str())
            .execute(&mut **tx)
            .await?;
    for span in ranges.spans() {
        sqlx::query(
            "INSERT INTO received_ranges (device, boot, stream, first, last) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(device.as_str())
        .bind(boot.0)
        .bind(stream.as_str())
        .bind(integer(span.first))
        .bind(integer(span.last))
        .execute(&mut **tx)
        .await?;
    }
    Ok(deleted.rows_affected() == 0)
}

async fn count_batch<T>(
    tx: &mut Tx,
    device: &DeviceId,
    boot: Boot,
    stream: Stream,
    plan: &BatchPlan<'_, T>,
    at_ms: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO streams \
         (device, boot, stream, through, missing, records, dropped, conflicting, written_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (device, boot, stream) DO UPDATE SET through = excluded.through, \
         missing = excluded.missing, records = streams.records + excluded.records, \
         dropped = streams.dropped + excluded.dropped, \
         conflicting = streams.conflicting + excluded.conflicting, \
         written_ms = excluded.written_ms",
    )
    .bind(device.as_str())
    .bind(boot.0)
    .bind(stream.as_str())
    .bind(integer(plan.ranges.through()))
    .bind(integer(plan.ranges.missing()))
    .bind(integer(plan.fresh.len() as u64))
    .bind(integer(plan.dropped))
    .bind(integer(plan.conflicting))
    .bind(integer(at_ms))
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Deletes what `statement` says, and gives how many rows that were.
pub(super) async fn trim(
    tx: &mut Tx,
    statement: &'static str,
    device: &DeviceId,
    kept_max: u32,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(statement).bind(device.as_str()).bind(kept_max).execute(&mut **tx);
    deleted.await.map(|deleted| deleted.rows_affected())
}

/// Gives up the sequence numbers of the oldest boots, once a device has had more than are kept.
async fn settle_old_boots(
    tx: &mut Tx,
    device: &DeviceId,
    boots_kept_max: u32,
) -> Result<(), sqlx::Error> {
    let oldest_kept: Option<i64> = sqlx::query_scalar(
        "SELECT DISTINCT boot FROM streams WHERE device = $1 ORDER BY boot DESC LIMIT 1 OFFSET $2",
    )
    .bind(device.as_str())
    .bind(boots_kept_max.saturating_sub(1))
    .fetch_optional(&mut **tx)
    .await?;
    let Some(floor) = oldest_kept else { return Ok(()) };
    for statement in [
        "UPDATE devices SET boot_floor = $2 WHERE id = $1 AND boot_floor < $2",
        "DELETE FROM received_ranges WHERE device = $1 AND boot < $2",
        "DELETE FROM streams WHERE device = $1 AND boot < $2",
        "DELETE FROM health WHERE device = $1 AND boot < $2",
    ] {
        sqlx::query(statement).bind(device.as_str()).bind(floor).execute(&mut **tx).await?;
    }
    Ok(())
}

/// The text, or its beginning if it is longer than texts of devices may be.
fn cut<'a>(text: &'a str, limits: &Limits) -> &'a str {
    let mut end = text.len().min(limits.text_bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn json_numbers(values: &[f32]) -> String {
    serde_json::to_string(values).expect("numbers are JSON; those that are not finite become null")
}
