//! What devices should run: one signed document per device, with a generation that never goes back.

use std::collections::BTreeMap;

use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, EventKind, SlotName};

use super::{Store, Tx, devices::no_device, integer, natural};
use crate::Error;

/// How far ahead of its fleet a device may be with its generation: a fleet that lost its database goes on
/// where the device is. What says more is not believed, so that no device uses the numbers up.
pub const GENERATION_JUMP_MAX: u64 = 1_000_000;

/// The bundle of each slot.
pub type Slots = BTreeMap<SlotName, Digest>;

/// A desired state that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredSet {
    /// Its generation.
    pub generation: u64,
    /// The id of the newest result at that moment; what answers to it has a higher one.
    pub results_before: u64,
}

/// What one device should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRow {
    /// The device.
    pub device: DeviceId,
    /// Counts the documents that were made for the device.
    pub generation: u64,
    /// The bundle of each slot.
    pub slots: Slots,
    /// The signed document.
    pub document: Vec<u8>,
    /// When it was set, in Unix milliseconds.
    pub set_ms: u64,
    /// When it ends to be valid, in Unix milliseconds.
    pub expires_ms: u64,
}

#[derive(FromRow)]
struct Row {
    device: String,
    generation: i64,
    slots: String,
    document: Vec<u8>,
    set_ms: i64,
    expires_ms: i64,
}

impl Store {
    /// Has `change` make of what `device` should run what it should run from now on, in one
    /// transaction. Takes the next generation for `device`, has `sign` make the document, and keeps both: the
    /// generation is in the database before anybody sees the document. It is above all that were
    /// signed here, and above the one that the device follows.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device or bundle; [`Error::Refused`] for too many slots;
    /// what `sign` says.
    pub async fn set_desired(
        &self,
        device: &DeviceId,
        change: impl FnOnce(&mut Slots),
        now_ms: u64,
        sign: impl FnOnce(u64, &Slots) -> Result<(Vec<u8>, u64), Error>,
    ) -> Result<DesiredSet, Error> {
        let doing = "set a desired state";
        let mut tx = self.begin().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM devices WHERE id = $1")
            .bind(device.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        known.ok_or_else(|| no_device(device))?;
        let kept: Option<String> =
            sqlx::query_scalar("SELECT slots FROM desired WHERE device = $1")
                .bind(device.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
        let mut slots = kept.map_or_else(Slots::new, |kept| read_slots(&kept));
        change(&mut slots);
        let max = self.limits.slots_max;
        if slots.len() > max {
            return Err(Error::Refused(format!("a device has at most {max} slots")));
        }
        for digest in slots.values() {
            let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM bundles WHERE digest = $1")
                .bind(&digest.0[..])
                .fetch_optional(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
            known.ok_or_else(|| {
                Error::NotFound(format!("there is no bundle {digest}; publish it first"))
            })?;
        }
        let generation = take_generation(&mut tx, device).await.map_err(Error::store(doing))?;
        let (document, expires_ms) = sign(generation, &slots)?;
        sqlx::query(
            "INSERT INTO desired \
             (device, generation, slots, document, set_ms, expires_ms, events_before) \
             VALUES ($1, $2, $3, $4, $5, $6, (SELECT COALESCE(MAX(id), 0) FROM events)) \
             ON CONFLICT (device) DO UPDATE SET \
             generation = excluded.generation, slots = excluded.slots, \
             document = excluded.document, set_ms = excluded.set_ms, \
             expires_ms = excluded.expires_ms, events_before = excluded.events_before",
        )
        .bind(device.as_str())
        .bind(integer(generation))
        .bind(serde_json::to_string(&slots).expect("a map of names to digests is JSON"))
        .bind(document)
        .bind(integer(now_ms))
        .bind(integer(expires_ms))
        .execute(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(id) FROM results")
            .fetch_one(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))?;
        Ok(DesiredSet { generation, results_before: newest.map_or(0, natural) })
    }

    /// What `device` should run, if that was ever said.
    pub async fn desired(&self, device: &DeviceId) -> Result<Option<DesiredRow>, Error> {
        Ok(self.select_desired(Some(device)).await?.pop())
    }

    /// What each device should run.
    pub async fn all_desired(&self) -> Result<Vec<DesiredRow>, Error> {
        self.select_desired(None).await
    }

    /// Why `device` has refused what it should run, as long as it does not follow it.
    pub async fn desired_refusal(&self, device: &DeviceId) -> Result<Option<String>, Error> {
        sqlx::query_scalar(
            "SELECT e.detail FROM desired d LEFT JOIN reported r ON r.device = d.device \
             JOIN events e ON e.device = d.device AND e.id > d.events_before AND e.kind = $2 \
             WHERE d.device = $1 AND COALESCE(r.generation, 0) <> d.generation \
             ORDER BY e.id DESC LIMIT 1",
        )
        .bind(device.as_str())
        .bind(EventKind::DesiredRefused.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(Error::store("read refusals of desired states"))
    }

    async fn select_desired(&self, device: Option<&DeviceId>) -> Result<Vec<DesiredRow>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT device, generation, slots, document, set_ms, expires_ms FROM desired \
             WHERE $1 IS NULL OR device = $1 ORDER BY device",
        )
        .bind(device.map(DeviceId::as_str))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the desired states"))?;
        Ok(rows.into_iter().map(DesiredRow::from).collect())
    }
}

fn read_slots(json: &str) -> Slots {
    serde_json::from_str(json).expect("slots are stored as they were read")
}

async fn take_generation(tx: &mut Tx, device: &DeviceId) -> Result<u64, sqlx::Error> {
    let (signed, followed): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT generation FROM generations WHERE device = $1), \
         (SELECT generation FROM reported WHERE device = $1)",
    )
    .bind(device.as_str())
    .fetch_one(&mut **tx)
    .await?;
    let generation = next_generation(signed.map_or(0, natural), followed.map_or(0, natural));
    sqlx::query(
        "INSERT INTO generations (device, generation) VALUES ($1, $2) \
         ON CONFLICT (device) DO UPDATE SET generation = excluded.generation",
    )
    .bind(device.as_str())
    .bind(integer(generation))
    .execute(&mut **tx)
    .await?;
    Ok(generation)
}

fn next_generation(signed: u64, followed: u64) -> u64 {
    let believed = followed <= signed.saturating_add(GENERATION_JUMP_MAX);
    if believed { signed.max(followed) + 1 } else { signed + 1 }
}

impl From<Row> for DesiredRow {
    fn from(row: Row) -> Self {
        Self {
            device: row.device.parse().expect("names are checked before they are stored"),
            generation: natural(row.generation),
            slots: read_slots(&row.slots),
            document: row.document,
            set_ms: natural(row.set_ms),
            expires_ms: natural(row.expires_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_generation_is_above_all_that_can_be_believed() {
        for (signed, followed, next) in [
            (0, 0, 1),
            (4, 0, 5),
            (4, 4, 5),
            (0, 4, 5),
            (0, GENERATION_JUMP_MAX, GENERATION_JUMP_MAX + 1),
            (0, GENERATION_JUMP_MAX + 1, 1),
            (7, u64::MAX, 8),
        ] {
            assert_eq!(next_generation(signed, followed), next, "{signed}, {followed}");
        }
    }
}
