//! Site baselines: the periods that were declared, and what was approved.

use selvedge_sketch::SpecId;
use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{Slots, Store, Tx, bundles::keep_pieces, devices::no_device, digest, integer, natural};
use crate::Error;

/// A period that was declared for the site baseline of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalRow {
    /// The device.
    pub device: DeviceId,
    /// Its slot.
    pub slot: SlotName,
    /// The bundle whose windows are taken.
    pub bundle: Digest,
    /// Windows that close from here on, in Unix milliseconds by the device's clock.
    pub from_ms: u64,
    /// Windows that close up to here.
    pub to_ms: u64,
    /// When it was declared, in Unix milliseconds.
    pub proposed_ms: u64,
    /// Who declared it.
    pub proposed_by: String,
}

/// A site baseline that was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// The device.
    pub device: DeviceId,
    /// Its slot.
    pub slot: SlotName,
    /// Its identity.
    pub digest: Digest,
    /// The bins that it was counted in.
    pub spec: SpecId,
    /// Its encoding.
    pub baseline: Vec<u8>,
    /// What it takes at the broker.
    pub retained_bytes: u64,
    /// When it was approved, in Unix milliseconds.
    pub approved_ms: u64,
    /// Who approved it.
    pub approved_by: String,
}

#[derive(FromRow)]
struct Proposal {
    bundle: Vec<u8>,
    from_ms: i64,
    to_ms: i64,
    proposed_ms: i64,
    proposed_by: String,
}

#[derive(FromRow)]
struct Row {
    device: String,
    slot: String,
    digest: Vec<u8>,
    spec: Vec<u8>,
    baseline: Vec<u8>,
    retained_bytes: i64,
    approved_ms: i64,
    approved_by: String,
}

impl Store {
    /// Declares a period; it takes the place of one that was declared for the same slot before.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub async fn propose_site(&self, row: &ProposalRow) -> Result<(), Error> {
        let doing = "declare a period";
        let mut tx = self.begin().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM devices WHERE id = $1")
            .bind(row.device.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        known.ok_or_else(|| no_device(&row.device))?;
        sqlx::query(
            "INSERT OR REPLACE INTO site_proposals \
             (device, slot, bundle, from_ms, to_ms, proposed_ms, proposed_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(row.device.as_str())
        .bind(row.slot.as_str())
        .bind(&row.bundle.0[..])
        .bind(integer(row.from_ms))
        .bind(integer(row.to_ms))
        .bind(integer(row.proposed_ms))
        .bind(&row.proposed_by)
        .execute(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))
    }

    /// The period that is declared for a slot, if there is one.
    pub async fn site_proposal(
        &self,
        device: &DeviceId,
        slot: &SlotName,
    ) -> Result<Option<ProposalRow>, Error> {
        let row: Option<Proposal> = sqlx::query_as(
            "SELECT bundle, from_ms, to_ms, proposed_ms, proposed_by FROM site_proposals \
             WHERE device = $1 AND slot = $2",
        )
        .bind(device.as_str())
        .bind(slot.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(Error::store("read a declared period"))?;
        Ok(row.map(|row| ProposalRow {
            device: device.clone(),
            slot: slot.clone(),
            bundle: digest(&row.bundle),
            from_ms: natural(row.from_ms),
            to_ms: natural(row.to_ms),
            proposed_ms: natural(row.proposed_ms),
            proposed_by: row.proposed_by,
        }))
    }

    /// Takes a declared period back; whether there was one.
    pub async fn withdraw_site_proposal(
        &self,
        device: &DeviceId,
        slot: &SlotName,
    ) -> Result<bool, Error> {
        let doing = "take a declared period back";
        let mut tx = self.begin().await?;
        let gone = forget_proposal(&mut tx, device, slot).await.map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))?;
        Ok(gone)
    }

    /// The site baseline of a slot that was approved last.
    pub async fn site(&self, device: &DeviceId, slot: &SlotName) -> Result<Option<SiteRow>, Error> {
        Ok(self.select_sites(Some((device, slot)), None).await?.pop())
    }

    /// The site baselines that documents name for slots with this bundle.
    pub async fn sites_of_bundle(&self, bundle: &Digest) -> Result<Vec<SiteRow>, Error> {
        self.select_sites(None, Some(bundle)).await
    }

    /// The encoding of a site baseline that was approved, if it still is.
    pub async fn site_baseline(&self, site: &Digest) -> Result<Option<Vec<u8>>, Error> {
        sqlx::query_scalar("SELECT baseline FROM sites WHERE digest = $1")
            .bind(&site.0[..])
            .fetch_optional(&self.readers)
            .await
            .map_err(Error::store("read a site baseline"))
    }

    /// The site baselines that some document names.
    pub async fn assigned_sites(&self) -> Result<Vec<Digest>, Error> {
        let rows: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT DISTINCT site FROM assigned WHERE site IS NOT NULL")
                .fetch_all(&self.readers)
                .await
                .map_err(Error::store("read the assigned site baselines"))?;
        Ok(rows.iter().map(|bytes| digest(bytes)).collect())
    }

    async fn select_sites(
        &self,
        of: Option<(&DeviceId, &SlotName)>,
        named_for: Option<&Digest>,
    ) -> Result<Vec<SiteRow>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT device, slot, digest, spec, baseline, approved_ms, approved_by, \
             (SELECT COALESCE(SUM(retained_bytes), 0) FROM pieces WHERE owner = s.digest) \
             AS retained_bytes FROM sites s \
             WHERE ($1 IS NULL OR device = $1) AND ($2 IS NULL OR slot = $2) \
             AND ($3 IS NULL OR EXISTS (SELECT 1 FROM assigned a WHERE a.device = s.device \
             AND a.slot = s.slot AND a.site = s.digest AND a.bundle = $3)) ORDER BY device, slot",
        )
        .bind(of.map(|(device, _)| device.as_str()))
        .bind(of.map(|(_, slot)| slot.as_str()))
        .bind(named_for.map(|bundle| &bundle.0[..]))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the site baselines"))?;
        Ok(rows.into_iter().map(SiteRow::from).collect())
    }
}

/// In `tx`: `site` takes the place of the one that was approved before, and of the period that was declared.
pub(super) async fn approve_site(tx: &mut Tx, site: &SiteRow) -> Result<(), sqlx::Error> {
    withdraw_site(tx, &site.device, &site.slot).await?;
    forget_proposal(tx, &site.device, &site.slot).await?;
    sqlx::query(
        "INSERT INTO sites (device, slot, digest, spec, baseline, approved_ms, approved_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(site.device.as_str())
    .bind(site.slot.as_str())
    .bind(&site.digest.0[..])
    .bind(&site.spec.0[..])
    .bind(&site.baseline)
    .bind(integer(site.approved_ms))
    .bind(&site.approved_by)
    .execute(&mut **tx)
    .await?;
    keep_pieces(tx, &site.digest, &[(site.digest, site.retained_bytes)]).await
}

/// In `tx`: no site baseline is approved for the slot any more; whether one was.
pub(super) async fn withdraw_site(
    tx: &mut Tx,
    device: &DeviceId,
    slot: &SlotName,
) -> Result<bool, sqlx::Error> {
    let mut gone = 0;
    for statement in [
        "DELETE FROM pieces WHERE owner IN \
         (SELECT digest FROM sites WHERE device = $1 AND slot = $2)",
        "DELETE FROM sites WHERE device = $1 AND slot = $2",
    ] {
        let done = sqlx::query(statement)
            .bind(device.as_str())
            .bind(slot.as_str())
            .execute(&mut **tx)
            .await?;
        gone = done.rows_affected();
    }
    Ok(gone > 0)
}

/// In `tx`: names for each slot the site baseline that was approved for it, where the slot's bundle counts in the
/// same bins.
pub(super) async fn name_sites(
    tx: &mut Tx,
    device: &DeviceId,
    slots: &mut Slots,
) -> Result<(), sqlx::Error> {
    for (slot, held) in slots {
        let site: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT s.digest FROM sites s JOIN bundles b ON b.spec = s.spec \
             WHERE s.device = $1 AND s.slot = $2 AND b.digest = $3",
        )
        .bind(device.as_str())
        .bind(slot.as_str())
        .bind(&held.bundle.0[..])
        .fetch_optional(&mut **tx)
        .await?;
        held.site = site.as_deref().map(digest);
    }
    Ok(())
}

async fn forget_proposal(
    tx: &mut Tx,
    device: &DeviceId,
    slot: &SlotName,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("DELETE FROM site_proposals WHERE device = $1 AND slot = $2")
        .bind(device.as_str())
        .bind(slot.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() > 0)
}

impl From<Row> for SiteRow {
    fn from(row: Row) -> Self {
        Self {
            device: row.device.parse().expect("names are checked before they are stored"),
            slot: row.slot.parse().expect("names are checked before they are stored"),
            digest: digest(&row.digest),
            spec: SpecId(row.spec.try_into().expect("spec ids are stored as their 8 bytes")),
            baseline: row.baseline,
            retained_bytes: natural(row.retained_bytes),
            approved_ms: natural(row.approved_ms),
            approved_by: row.approved_by,
        }
    }
}
