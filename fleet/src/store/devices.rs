//! Which devices there are, and what they last said of themselves.

use std::collections::BTreeMap;

use sqlx::FromRow;

use selvedge_wire::{DeviceId, SlotReport, TrustReport};

use super::{EnrolledKey, Store, captures, integer, natural};
use crate::{Error, secret::PasswordHash};

/// A device, with what it last said of itself.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// Its name.
    pub id: DeviceId,
    /// What operators call it.
    pub labels: BTreeMap<String, String>,
    /// When it was registered, in Unix milliseconds.
    pub registered_ms: u64,
    /// When it was last heard, in Unix milliseconds.
    pub last_seen_ms: Option<u64>,
    /// The wire version of a payload that was not understood, until one is understood again.
    pub wire_met: Option<u8>,
    /// The key that it signs with; none if it was registered before devices had keys.
    pub key: Option<EnrolledKey>,
    /// Its last birth, farewell or will.
    pub status: Option<StatusRow>,
    /// Its last report.
    pub reported: Option<ReportedRow>,
}

/// A device's last birth, farewell or will.
#[derive(Clone, Debug)]
pub struct StatusRow {
    /// Whether the agent is connected.
    pub online: bool,
    /// The run that spoke.
    pub boot: u32,
    /// The agent's version.
    pub agent_version: String,
    /// What bundles are built for.
    pub hardware_class: String,
    /// When it came, in Unix milliseconds.
    pub received_ms: u64,
}

/// A device's last report.
#[derive(Clone, Debug)]
pub struct ReportedRow {
    /// The generation that the device follows.
    pub generation: u64,
    /// How it stands with the repository's metadata.
    pub trust: TrustReport,
    /// One report per slot.
    pub slots: Vec<SlotReport>,
    /// When it came, in Unix milliseconds.
    pub received_ms: u64,
}

#[derive(FromRow)]
struct Row {
    id: String,
    labels: String,
    registered_ms: i64,
    last_seen_ms: Option<i64>,
    wire_met: Option<i64>,
    public_key: Option<Vec<u8>>,
    boot: Option<i64>,
    online: Option<bool>,
    agent_version: Option<String>,
    hardware_class: Option<String>,
    status_ms: Option<i64>,
    generation: Option<i64>,
    trust: Option<String>,
    slots: Option<String>,
    reported_ms: Option<i64>,
}

const SELECT: &str = "SELECT d.id, d.labels, d.registered_ms, d.last_seen_ms, d.wire_met, d.public_key, \
     s.boot, s.online, s.agent_version, s.hardware_class, s.received_ms AS status_ms, \
     r.generation, r.trust, r.slots, r.received_ms AS reported_ms \
     FROM devices d LEFT JOIN statuses s ON s.device = d.id LEFT JOIN reported r ON r.device = d.id \
     WHERE $1 IS NULL OR d.id = $1 ORDER BY d.id";

/// Everything that is kept of a device, except its generation.
const DELETES: &[&str] = &[
    "DELETE FROM devices WHERE id = $1",
    "DELETE FROM statuses WHERE device = $1",
    "DELETE FROM reported WHERE device = $1",
    "DELETE FROM health WHERE device = $1",
    "DELETE FROM health_history WHERE device = $1",
    "DELETE FROM desired WHERE device = $1",
    "DELETE FROM assigned WHERE device = $1",
    "DELETE FROM received_ranges WHERE device = $1",
    "DELETE FROM streams WHERE device = $1",
    "DELETE FROM results WHERE device = $1",
    "DELETE FROM labels WHERE device = $1",
    "DELETE FROM profiles WHERE device = $1",
    "DELETE FROM nodes WHERE device = $1",
    "DELETE FROM events WHERE device = $1",
    "DELETE FROM malformed WHERE sender = $1",
    "DELETE FROM disbelieved WHERE device = $1",
    "DELETE FROM pieces WHERE owner IN (SELECT digest FROM sites WHERE device = $1)",
    "DELETE FROM sites WHERE device = $1",
    "DELETE FROM site_proposals WHERE device = $1",
    "DELETE FROM drift_mutes WHERE device = $1",
];

impl Store {
    /// Registers a device.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there is one of that name or with that key, or as many as there may be.
    pub async fn add_device(
        &self,
        id: &DeviceId,
        labels: &BTreeMap<String, String>,
        key: &EnrolledKey,
        password: &PasswordHash,
        now_ms: u64,
    ) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM devices")
            .fetch_one(&mut *tx)
            .await
            .map_err(Error::store("count the devices"))?;
        if natural(count) >= self.limits.devices_max as u64 {
            let max = self.limits.devices_max;
            return Err(Error::Conflict(format!("this fleet has its limit of {max} devices")));
        }
        let holder: Option<String> =
            sqlx::query_scalar("SELECT id FROM devices WHERE public_key = $1 AND id <> $2")
                .bind(&key.0[..])
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(Error::store("look for a key"))?;
        if let Some(holder) = holder {
            return Err(Error::Conflict(format!(
                "{holder} signs with this key already; each device has one of its own"
            )));
        }
        let labels = serde_json::to_string(labels).expect("a map of texts is JSON");
        let added = sqlx::query(
            "INSERT INTO devices (id, labels, registered_ms, salt, hash, public_key) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(labels)
        .bind(integer(now_ms))
        .bind(&password.salt)
        .bind(&password.hash)
        .bind(&key.0[..])
        .execute(&mut *tx)
        .await
        .map_err(Error::store("add a device"))?;
        if added.rows_affected() == 0 {
            return Err(Error::Conflict(format!(
                "there is a device {id} already; delete it first, or choose another name"
            )));
        }
        tx.commit().await.map_err(Error::store("add a device"))?;
        self.keys.put(id.clone(), Some(*key));
        Ok(())
    }

    /// Deletes a device and all that it sent.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub async fn delete_device(&self, id: &DeviceId) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let mut found = false;
        for &delete in DELETES.iter().chain(captures::DELETES) {
            let done = sqlx::query(delete)
                .bind(id.as_str())
                .execute(&mut *tx)
                .await
                .map_err(Error::store("delete a device"))?;
            found |= delete == DELETES[0] && done.rows_affected() == 1;
        }
        if !found {
            return Err(no_device(id));
        }
        tx.commit().await.map_err(Error::store("delete a device"))?;
        self.keys.remove(id);
        Ok(())
    }

    /// All devices, by name.
    pub async fn devices(&self) -> Result<Vec<DeviceRow>, Error> {
        self.select_devices(None).await
    }

    /// One device.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub async fn device(&self, id: &DeviceId) -> Result<DeviceRow, Error> {
        self.select_devices(Some(id)).await?.pop().ok_or_else(|| no_device(id))
    }

    /// What is kept of the device's password, if there is such a device.
    pub async fn password(&self, id: &DeviceId) -> Result<Option<PasswordHash>, Error> {
        let row: Option<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT salt, hash FROM devices WHERE id = $1")
                .bind(id.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(Error::store("read a device"))?;
        Ok(row.map(|(salt, hash)| PasswordHash { salt, hash }))
    }

    async fn select_devices(&self, id: Option<&DeviceId>) -> Result<Vec<DeviceRow>, Error> {
        let rows: Vec<Row> = sqlx::query_as(SELECT)
            .bind(id.map(DeviceId::as_str))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read the devices"))?;
        Ok(rows.into_iter().map(DeviceRow::from).collect())
    }
}

impl From<Row> for DeviceRow {
    fn from(row: Row) -> Self {
        let status = row.boot.map(|boot| StatusRow {
            online: row.online.unwrap_or_default(),
            boot: u32::try_from(boot).expect("boots are stored from 32 bits"),
            agent_version: row.agent_version.unwrap_or_default(),
            hardware_class: row.hardware_class.unwrap_or_default(),
            received_ms: row.status_ms.map_or(0, natural),
        });
        let reported = row.slots.map(|slots| ReportedRow {
            generation: row.generation.map_or(0, natural),
            trust: row.trust.map_or_else(TrustReport::default, |trust| {
                serde_json::from_str(&trust).expect("reports are stored as they were read")
            }),
            slots: serde_json::from_str(&slots).expect("reports are stored as they were read"),
            received_ms: row.reported_ms.map_or(0, natural),
        });
        Self {
            id: row.id.parse().expect("names are checked before they are stored"),
            labels: serde_json::from_str(&row.labels).expect("labels are stored as they were read"),
            registered_ms: natural(row.registered_ms),
            last_seen_ms: row.last_seen_ms.map(natural),
            key: row.public_key.as_deref().map(EnrolledKey::of_row),
            wire_met: row.wire_met.and_then(|met| u8::try_from(met).ok()),
            status,
            reported,
        }
    }
}

pub(super) fn no_device(id: &DeviceId) -> Error {
    Error::NotFound(format!("there is no device {id}"))
}
