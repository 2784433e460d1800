//! What devices sent, as the API and the pages read it.

use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, NodeId, SlotName};

use super::{Store, digest, natural};
use crate::Error;

/// Where a page of rows begins, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// Rows with a higher id.
    pub after: u64,
    /// At most this many.
    pub limit: u32,
}

/// One answer of a model.
#[derive(Clone, Debug)]
pub struct ResultRow {
    /// Counts the rows of this fleet, in the order of their arrival.
    pub id: u64,
    /// The run that made it.
    pub boot: u32,
    /// Its sequence number.
    pub sequence: u64,
    /// When it was made, by the device's clock.
    pub at_ms: u64,
    /// The slot that answered.
    pub slot: String,
    /// The bundle that answered.
    pub bundle: Digest,
    /// Where the sample came from.
    pub source: String,
    /// Counts the samples of that source.
    pub sample: u64,
    /// How long the answer took.
    pub latency_us: u32,
    /// The class, where there is one.
    pub class_index: Option<u32>,
    /// Its score.
    pub score: Option<f64>,
    /// The values, where there is no class, as a JSON array.
    pub values: Option<String>,
    /// Why there is no answer.
    pub failure: Option<String>,
}

/// The counters of one window.
#[derive(Clone, Debug)]
pub struct ProfileRow {
    /// Counts the rows of this fleet, in the order of their arrival.
    pub id: u64,
    /// The run that made it.
    pub boot: u32,
    /// Its first sequence number.
    pub sequence: u64,
    /// How many sequence numbers it stands for.
    pub covers: u64,
    /// The slot and the bundle that were counted, if a model was.
    pub model: Option<(String, Digest)>,
    /// The node that counted, if one did.
    pub node: Option<NodeId>,
    /// The first window.
    pub window_first: u64,
    /// The last window.
    pub window_last: u64,
    /// When the first window opened, by the device's clock.
    pub opened_ms: u64,
    /// When the last window closed.
    pub closed_ms: u64,
    /// The encoded profile.
    pub profile: Vec<u8>,
}

/// What happened on a device.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Counts the rows of this fleet, in the order of their arrival.
    pub id: u64,
    /// The run that told it.
    pub boot: u32,
    /// Its sequence number.
    pub sequence: u64,
    /// When it happened, by the device's clock.
    pub at_ms: u64,
    /// What happened.
    pub kind: String,
    /// The slot that it concerns.
    pub slot: Option<String>,
    /// The bundle that it concerns.
    pub bundle: Option<Digest>,
    /// One sentence.
    pub detail: String,
}

/// What happened on any device.
#[derive(Clone, Debug, FromRow)]
pub struct NewestEvent {
    /// The device.
    pub device: String,
    /// When it happened, by the device's clock.
    pub at_ms: i64,
    /// What happened.
    pub kind: String,
    /// One sentence.
    pub detail: String,
}

/// A node behind a device.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// The node.
    pub node: NodeId,
    /// What its newest reading measures, with the unit.
    pub quantity: String,
    /// The newest reading.
    pub value: i64,
    /// Readings since the node's start.
    pub readings: u64,
    /// Milliseconds from the node's start to its newest reading, modulo 2³².
    pub uptime_ms: u64,
    /// Profiles that were stored.
    pub profiles: u64,
    /// When the newest window closed, by the device's clock.
    pub closed_ms: u64,
}

/// How much of one stream of one boot is stored.
#[derive(Clone, Debug, FromRow)]
pub struct StreamRow {
    /// The run that made the records.
    pub boot: i64,
    /// The stream's name.
    pub stream: String,
    /// All numbers up to this one are stored.
    pub through: i64,
    /// Numbers below the largest that are not stored.
    pub missing: i64,
    /// Records that were stored.
    pub records: i64,
    /// Numbers that stand for records dropped on the device.
    pub dropped: i64,
    /// Records for a number that was stored before as something else.
    pub conflicting: i64,
}

/// The sum of a device's counters over its boots, up to 2⁵³ − 1; memory is that of the newest boot.
#[derive(Clone, Debug, Default, FromRow)]
pub struct HealthRow {
    /// The device.
    pub device: String,
    /// Seconds since the start of the newest boot.
    pub uptime_s: i64,
    /// Inferences with an answer.
    pub inferences: i64,
    /// Inferences without one.
    pub inferences_failed: i64,
    /// Inputs that could not be read.
    pub inputs_malformed: i64,
    /// Samples that were odd.
    pub inputs_anomalous: i64,
    /// Changes from one bundle to another.
    pub swaps: i64,
    /// Payload bytes that the device sent.
    pub sent_bytes: i64,
    /// Payload bytes that the device received.
    pub received_bytes: i64,
    /// Resident memory.
    pub resident_bytes: i64,
    /// The highest resident memory of any boot.
    pub resident_bytes_peak: i64,
    /// Bytes that wait in the spool.
    pub spool_bytes: i64,
    /// Records that quotas made the spool drop.
    pub records_dropped: i64,
    /// When the newest counters came.
    pub received_ms: i64,
}

/// A point of the throughput chart.
#[derive(Clone, Debug, FromRow)]
pub struct HealthPoint {
    /// The run that counted.
    pub boot: i64,
    /// Inferences since its start.
    pub inferences: i64,
    /// When the counters came.
    pub received_ms: i64,
}

/// Payloads of one sender that were not understood.
#[derive(Clone, Debug, FromRow)]
pub struct MalformedRow {
    /// The sender, as the topic names it.
    pub sender: String,
    /// How many payloads.
    pub count: i64,
    /// Those of them in a wire version that is not understood.
    pub versions: i64,
    /// What was wrong with the last one.
    pub last_reason: String,
    /// When the last one came.
    pub last_ms: i64,
}

/// Messages that seemed to come from a device and were not believed.
#[derive(Clone, Debug, FromRow)]
pub struct DisbeliefRow {
    /// The device.
    pub device: String,
    /// `forged` or `replayed`.
    pub kind: String,
    /// How many messages.
    pub count: i64,
    /// Why the last one was not believed.
    pub last_reason: String,
    /// When the last one came.
    pub last_ms: i64,
}

/// Sums over the streams of all devices.
#[derive(Clone, Debug, Default, FromRow)]
pub struct FleetTotals {
    /// Results that were stored.
    pub results: i64,
    /// Profiles that were stored.
    pub profiles: i64,
    /// Events that were stored.
    pub events: i64,
    /// Sequence numbers below the largest of their stream that are not stored.
    pub sequence_gaps: i64,
    /// Records that quotas made devices drop.
    pub records_dropped: i64,
    /// Records for a number that was stored before as something else.
    pub records_conflicting: i64,
}

/// SQLite's SUM fails where integers overflow. TOTAL adds as floating point, exact up to 2⁵³ − 1, where
/// these sums end.
const HEALTH: &str = "SELECT device, \
     MAX(CASE WHEN newest THEN uptime_s END) AS uptime_s, \
     CAST(MIN(TOTAL(inferences), 9007199254740991) AS INTEGER) AS inferences, \
     CAST(MIN(TOTAL(inferences_failed), 9007199254740991) AS INTEGER) AS inferences_failed, \
     CAST(MIN(TOTAL(inputs_malformed), 9007199254740991) AS INTEGER) AS inputs_malformed, \
     CAST(MIN(TOTAL(inputs_anomalous), 9007199254740991) AS INTEGER) AS inputs_anomalous, \
     CAST(MIN(TOTAL(swaps), 9007199254740991) AS INTEGER) AS swaps, \
     CAST(MIN(TOTAL(sent_bytes), 9007199254740991) AS INTEGER) AS sent_bytes, \
     CAST(MIN(TOTAL(received_bytes), 9007199254740991) AS INTEGER) AS received_bytes, \
     MAX(CASE WHEN newest THEN resident_bytes END) AS resident_bytes, \
     MAX(resident_bytes_peak) AS resident_bytes_peak, \
     MAX(CASE WHEN newest THEN spool_bytes END) AS spool_bytes, \
     CAST(MIN(TOTAL(records_dropped), 9007199254740991) AS INTEGER) AS records_dropped, \
     MAX(received_ms) AS received_ms \
     FROM (SELECT h.*, h.boot = (SELECT MAX(boot) FROM health n WHERE n.device = h.device) \
     AS newest FROM health h WHERE $1 IS NULL OR h.device = $1) AS counted GROUP BY device";

impl Store {
    /// Answers of `device`, oldest first; those of `slot` and of `bundle` alone, if they are given.
    pub async fn results(
        &self,
        device: &DeviceId,
        slot: Option<&SlotName>,
        bundle: Option<&Digest>,
        cursor: Cursor,
    ) -> Result<Vec<ResultRow>, Error> {
        #[derive(FromRow)]
        struct Row {
            id: i64,
            boot: u32,
            sequence: i64,
            at_ms: i64,
            slot: String,
            bundle: Vec<u8>,
            source: String,
            sample: i64,
            latency_us: u32,
            class_index: Option<u32>,
            score: Option<f64>,
            output_values: Option<String>,
            failure: Option<String>,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, boot, sequence, at_ms, slot, bundle, source, sample, latency_us, \
             class_index, score, output_values, failure FROM results \
             WHERE device = $1 AND id > $2 AND ($3 IS NULL OR bundle = $3) \
             AND ($4 IS NULL OR slot = $4) ORDER BY id LIMIT $5",
        )
        .bind(device.as_str())
        .bind(super::integer(cursor.after))
        .bind(bundle.map(|bundle| &bundle.0[..]))
        .bind(slot.map(SlotName::as_str))
        .bind(cursor.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read results"))?;
        let result = |row: Row| ResultRow {
            id: natural(row.id),
            boot: row.boot,
            sequence: natural(row.sequence),
            at_ms: natural(row.at_ms),
            slot: row.slot,
            bundle: digest(&row.bundle),
            source: row.source,
            sample: natural(row.sample),
            latency_us: row.latency_us,
            class_index: row.class_index,
            score: row.score,
            values: row.output_values,
            failure: row.failure,
        };
        Ok(rows.into_iter().map(result).collect())
    }

    /// Profiles of `device`, oldest first.
    pub async fn profiles(
        &self,
        device: &DeviceId,
        cursor: Cursor,
    ) -> Result<Vec<ProfileRow>, Error> {
        let rows: Vec<RawProfile> = sqlx::query_as(
            "SELECT id, boot, sequence, covers, slot, bundle, node, window_first, window_last, \
             opened_ms, closed_ms, profile FROM profiles \
             WHERE device = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(device.as_str())
        .bind(super::integer(cursor.after))
        .bind(cursor.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read profiles"))?;
        Ok(rows.into_iter().map(ProfileRow::from).collect())
    }

    /// The newest profiles of models on `device`, newest first.
    pub async fn newest_model_profiles(
        &self,
        device: &DeviceId,
        limit: u32,
    ) -> Result<Vec<ProfileRow>, Error> {
        let rows: Vec<RawProfile> = sqlx::query_as(
            "SELECT id, boot, sequence, covers, slot, bundle, node, window_first, window_last, \
             opened_ms, closed_ms, profile FROM profiles \
             WHERE device = $1 AND bundle IS NOT NULL ORDER BY id DESC LIMIT $2",
        )
        .bind(device.as_str())
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read profiles"))?;
        Ok(rows.into_iter().map(ProfileRow::from).collect())
    }

    /// Events of `device`, oldest first.
    pub async fn events(&self, device: &DeviceId, cursor: Cursor) -> Result<Vec<EventRow>, Error> {
        #[derive(FromRow)]
        struct Row {
            id: i64,
            boot: u32,
            sequence: i64,
            at_ms: i64,
            kind: String,
            slot: Option<String>,
            bundle: Option<Vec<u8>>,
            detail: String,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, boot, sequence, at_ms, kind, slot, bundle, detail FROM events \
             WHERE device = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(device.as_str())
        .bind(super::integer(cursor.after))
        .bind(cursor.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read events"))?;
        let event = |row: Row| EventRow {
            id: natural(row.id),
            boot: row.boot,
            sequence: natural(row.sequence),
            at_ms: natural(row.at_ms),
            kind: row.kind,
            slot: row.slot,
            bundle: row.bundle.as_deref().map(digest),
            detail: row.detail,
        };
        Ok(rows.into_iter().map(event).collect())
    }

    /// The newest events of all devices, newest first: the device, when it happened, what.
    pub async fn newest_events(&self, limit: u32) -> Result<Vec<NewestEvent>, Error> {
        sqlx::query_as("SELECT device, at_ms, kind, detail FROM events ORDER BY id DESC LIMIT $1")
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read events"))
    }

    /// The nodes behind `device`.
    pub async fn nodes(&self, device: &DeviceId) -> Result<Vec<NodeRow>, Error> {
        type Row = (i64, String, i64, i64, i64, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT node, quantity, value, readings, uptime_ms, profiles, closed_ms FROM nodes \
             WHERE device = $1 ORDER BY node",
        )
        .bind(device.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read nodes"))?;
        let node =
            |(node, quantity, value, readings, uptime_ms, profiles, closed_ms): Row| NodeRow {
                node: NodeId(node.cast_unsigned()),
                quantity,
                value,
                readings: natural(readings),
                uptime_ms: natural(uptime_ms),
                profiles: natural(profiles),
                closed_ms: natural(closed_ms),
            };
        Ok(rows.into_iter().map(node).collect())
    }

    /// How much of each stream of `device` is stored.
    pub async fn streams(&self, device: &DeviceId) -> Result<Vec<StreamRow>, Error> {
        sqlx::query_as(
            "SELECT boot, stream, through, missing, records, dropped, conflicting FROM streams \
             WHERE device = $1 ORDER BY boot DESC, stream",
        )
        .bind(device.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read streams"))
    }

    /// The counters of one device, or of each.
    pub async fn health(&self, device: Option<&DeviceId>) -> Result<Vec<HealthRow>, Error> {
        sqlx::query_as(HEALTH)
            .bind(device.map(DeviceId::as_str))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read health"))
    }

    /// The points of the throughput chart of `device`, oldest first.
    pub async fn health_points(&self, device: &DeviceId) -> Result<Vec<HealthPoint>, Error> {
        let mut points: Vec<HealthPoint> = sqlx::query_as(
            "SELECT boot, inferences, received_ms FROM health_history WHERE device = $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(device.as_str())
        .bind(self.limits.health_kept_max)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read health"))?;
        points.reverse();
        Ok(points)
    }

    /// Who sent what was not understood.
    pub async fn malformed(&self) -> Result<Vec<MalformedRow>, Error> {
        sqlx::query_as(
            "SELECT sender, count, versions, last_reason, last_ms FROM malformed ORDER BY sender",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read malformed payloads"))
    }

    /// Messages that were not believed, of one device or of all.
    pub async fn disbelieved(&self, device: Option<&DeviceId>) -> Result<Vec<DisbeliefRow>, Error> {
        sqlx::query_as(
            "SELECT device, kind, count, last_reason, last_ms FROM disbelieved \
             WHERE $1 IS NULL OR device = $1 ORDER BY device, kind",
        )
        .bind(device.map(DeviceId::as_str))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read what was not believed"))
    }

    /// Sums over all devices. Numbers that devices choose end at 2⁵³ − 1.
    pub async fn totals(&self) -> Result<FleetTotals, Error> {
        sqlx::query_as(
            "SELECT COALESCE(SUM(CASE WHEN stream = 'results' THEN records END), 0) AS results, \
             COALESCE(SUM(CASE WHEN stream = 'profiles' THEN records END), 0) AS profiles, \
             COALESCE(SUM(CASE WHEN stream = 'events' THEN records END), 0) AS events, \
             CAST(MIN(TOTAL(missing), 9007199254740991) AS INTEGER) AS sequence_gaps, \
             CAST(MIN(TOTAL(dropped), 9007199254740991) AS INTEGER) AS records_dropped, \
             COALESCE(SUM(conflicting), 0) AS records_conflicting FROM streams",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(Error::store("sum the streams"))
    }
}

#[derive(FromRow)]
struct RawProfile {
    id: i64,
    boot: u32,
    sequence: i64,
    covers: i64,
    slot: Option<String>,
    bundle: Option<Vec<u8>>,
    node: Option<i64>,
    window_first: i64,
    window_last: i64,
    opened_ms: i64,
    closed_ms: i64,
    profile: Vec<u8>,
}

impl From<RawProfile> for ProfileRow {
    fn from(row: RawProfile) -> Self {
        Self {
            id: natural(row.id),
            boot: row.boot,
            sequence: natural(row.sequence),
            covers: natural(row.covers),
            model: row.slot.zip(row.bundle.as_deref().map(digest)),
            node: row.node.map(|node| NodeId(node.cast_unsigned())),
            window_first: natural(row.window_first),
            window_last: natural(row.window_last),
            opened_ms: natural(row.opened_ms),
            closed_ms: natural(row.closed_ms),
            profile: row.profile,
        }
    }
}
