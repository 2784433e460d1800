//! What devices should run: one signed document per device, with a generation that never goes back.

use std::collections::BTreeMap;

use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{Store, devices::no_device, integer, natural};
use crate::Error;

/// The bundle of each slot.
pub type Slots = BTreeMap<SlotName, Digest>;

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
    /// Takes the next generation for `device`, has `sign` make the document, and keeps both: the
    /// generation is in the database before anybody sees the document.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device or bundle; what `sign` says.
    pub async fn set_desired(
        &self,
        device: &DeviceId,
        slots: &Slots,
        now_ms: u64,
        sign: impl FnOnce(u64) -> Result<(Vec<u8>, u64), Error>,
    ) -> Result<u64, Error> {
        let doing = "set a desired state";
        let mut tx = self.begin().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM devices WHERE id = $1")
            .bind(device.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        known.ok_or_else(|| no_device(device))?;
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
        let generation: i64 = sqlx::query_scalar(
            "INSERT INTO generations (device, generation) VALUES ($1, 1) \
             ON CONFLICT (device) DO UPDATE SET generation = generations.generation + 1 \
             RETURNING generation",
        )
        .bind(device.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        let (document, expires_ms) = sign(natural(generation))?;
        sqlx::query(
            "INSERT INTO desired (device, generation, slots, document, set_ms, expires_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device) DO UPDATE SET \
             generation = excluded.generation, slots = excluded.slots, \
             document = excluded.document, set_ms = excluded.set_ms, \
             expires_ms = excluded.expires_ms",
        )
        .bind(device.as_str())
        .bind(generation)
        .bind(serde_json::to_string(slots).expect("a map of names to digests is JSON"))
        .bind(document)
        .bind(integer(now_ms))
        .bind(integer(expires_ms))
        .execute(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))?;
        Ok(natural(generation))
    }

    /// What `device` should run, if that was ever said.
    pub async fn desired(&self, device: &DeviceId) -> Result<Option<DesiredRow>, Error> {
        Ok(self.select_desired(Some(device)).await?.pop())
    }

    /// What each device should run.
    pub async fn all_desired(&self) -> Result<Vec<DesiredRow>, Error> {
        self.select_desired(None).await
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

impl From<Row> for DesiredRow {
    fn from(row: Row) -> Self {
        Self {
            device: row.device.parse().expect("names are checked before they are stored"),
            generation: natural(row.generation),
            slots: serde_json::from_str(&row.slots).expect("slots are stored as they were read"),
            document: row.document,
            set_ms: natural(row.set_ms),
            expires_ms: natural(row.expires_ms),
        }
    }
}
