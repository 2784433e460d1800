//! Mutes of alarms, until they end.

use sqlx::FromRow;

use super::{Store, digest, integer, natural};
use crate::{
    Error,
    drift::{Mute, MuteScope, NewMute, Reference},
};

#[derive(FromRow)]
struct Row {
    id: i64,
    bundle: Option<Vec<u8>>,
    device: Option<String>,
    slot: Option<String>,
    stream: Option<String>,
    reference: Option<String>,
    acknowledges: bool,
    created_ms: i64,
    until_ms: i64,
    created_by: String,
    note: String,
}

impl Store {
    /// Keeps a mute, and forgets those that have ended.
    ///
    /// # Errors
    /// [`Error::Refused`] if there are too many.
    pub async fn add_mute(&self, new: &NewMute, now_ms: u64) -> Result<Mute, Error> {
        let doing = "keep a mute";
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM drift_mutes WHERE until_ms <= $1")
            .bind(integer(now_ms))
            .execute(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM drift_mutes")
            .fetch_one(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        if natural(count) >= u64::from(self.limits.mutes_max) {
            let max = self.limits.mutes_max;
            return Err(Error::Refused(format!("there are {max} mutes already: remove some")));
        }
        let NewMute { scope, acknowledges, until_ms, by, note } = new;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO drift_mutes (bundle, device, slot, stream, reference, acknowledges, \
             created_ms, until_ms, created_by, note) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id",
        )
        .bind(scope.bundle.as_ref().map(|bundle| &bundle.0[..]))
        .bind(scope.device.as_ref().map(|device| device.as_str()))
        .bind(scope.slot.as_ref().map(|slot| slot.as_str()))
        .bind(scope.stream.as_deref())
        .bind(scope.reference.map(Reference::as_str))
        .bind(acknowledges)
        .bind(integer(now_ms))
        .bind(integer(*until_ms))
        .bind(by)
        .bind(note)
        .fetch_one(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))?;
        Ok(Mute { id: natural(id), created_ms: now_ms, given: new.clone() })
    }

    /// The mutes that hold at `now_ms`, the newest first.
    pub async fn mutes(&self, now_ms: u64) -> Result<Vec<Mute>, Error> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT * FROM drift_mutes WHERE until_ms > $1 ORDER BY id DESC")
                .bind(integer(now_ms))
                .fetch_all(&self.readers)
                .await
                .map_err(Error::store("read the mutes"))?;
        Ok(rows.into_iter().map(Mute::from).collect())
    }

    /// Ends a mute before its time.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such mute.
    pub async fn remove_mute(&self, id: u64) -> Result<(), Error> {
        let doing = "remove a mute";
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM drift_mutes WHERE id = $1")
            .bind(integer(id))
            .execute(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))?;
        match done.rows_affected() {
            0 => Err(Error::NotFound(format!("there is no mute {id}"))),
            _ => Ok(()),
        }
    }
}

impl From<Row> for Mute {
    fn from(row: Row) -> Self {
        let name = "names are checked before they are stored";
        let scope = MuteScope {
            bundle: row.bundle.as_deref().map(digest),
            device: row.device.map(|device| device.parse().expect(name)),
            slot: row.slot.map(|slot| slot.parse().expect(name)),
            stream: row.stream,
            reference: row.reference.and_then(|reference| Reference::from_name(&reference)),
        };
        let given = NewMute {
            scope,
            acknowledges: row.acknowledges,
            until_ms: natural(row.until_ms),
            by: row.created_by,
            note: row.note,
        };
        Self { id: natural(row.id), created_ms: natural(row.created_ms), given }
    }
}
