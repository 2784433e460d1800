//! What devices should run: one signed document per device, with a generation that never goes back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, EventKind, SlotName};

use super::{
    SiteRow, Store, Tx,
    bundles::no_bundle,
    devices::no_device,
    integer, natural,
    sites::{approve_site, name_sites, withdraw_site},
};
use crate::Error;

/// How far ahead of its fleet a device may be with its generation: a fleet that lost its database goes on
/// where the device is. What says more is not believed, so that no device uses the numbers up.
pub const GENERATION_JUMP_MAX: u64 = 1_000_000;

/// What each slot should hold.
pub type Slots = BTreeMap<SlotName, SlotRow>;

/// What one slot should hold, as the signed document says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// The path of the bundle's target.
    pub target: String,
    /// The bundle.
    pub bundle: Digest,
    /// Samples that it shall be given in the shadow first.
    pub shadow_samples: u64,
    /// Whether it may be of an older version than what answers.
    pub allow_downgrade: bool,
    /// The site baseline that its windows are compared with beside its own.
    #[serde(default)]
    pub site: Option<Digest>,
}

/// What somebody wants a slot to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The bundle.
    pub bundle: Digest,
    /// Samples that it shall be given in the shadow first; 0 for no shadow.
    pub shadow_samples: u64,
    /// Whether it may be of an older version than what answers.
    pub allow_downgrade: bool,
}

/// What is to change in a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it is signed again.
    Nothing,
    /// One slot; the others stay.
    Slot(SlotName, Assignment),
    /// All slots; one that is not named is emptied.
    All(BTreeMap<SlotName, Assignment>),
    /// A site baseline is approved for a slot.
    ApproveSite(Box<SiteRow>),
    /// None is any more.
    WithdrawSite(SlotName),
}

/// A document, and when it ends to be valid, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDesired {
    /// The signed document.
    pub document: Vec<u8>,
    /// When it ends to be valid.
    pub expires_ms: u64,
}

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
    /// What each slot should hold.
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
    /// Changes what `device` should run, in one transaction. Takes the next generation for `device`, has
    /// `sign` make the document, and keeps both: the generation is in the database before anybody sees
    /// the document. It is above all that were signed here, and above the one that the device follows.
    ///
    /// A bundle that is new in its slot must be a target of the repository, and what its chunks take at
    /// the broker must fit beside what is assigned; a site baseline likewise. A slot has the site baseline that was
    /// approved for it as long as its bundle counts in the same bins.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device, bundle or site baseline; [`Error::Conflict`] for a bundle
    /// that is no target, and for a site baseline of other bins than the bundle's; [`Error::Refused`] for too many
    /// slots or bytes.
    pub async fn set_desired(
        &self,
        device: &DeviceId,
        change: &Change,
        now_ms: u64,
        sign: impl FnOnce(u64, &Slots) -> SignedDesired,
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
        let kept = kept.map_or_else(Slots::new, |kept| read_slots(&kept));
        change_sites(&mut tx, device, change).await?;
        let mut slots = change_slots(&mut tx, &kept, change).await?;
        name_sites(&mut tx, device, &mut slots).await.map_err(Error::store(doing))?;
        check_site(change, &slots)?;
        let max = self.limits.slots_max;
        if slots.len() > max {
            return Err(Error::Refused(format!("a device has at most {max} slots")));
        }
        let generation = take_generation(&mut tx, device).await.map_err(Error::store(doing))?;
        let signed = sign(generation, &slots);
        keep_desired(&mut tx, device, generation, &slots, &signed, now_ms)
            .await
            .map_err(Error::store(doing))?;
        let has = |held: &SlotRow, slot: &SlotRow| {
            held.bundle == slot.bundle && (slot.site.is_none() || held.site == slot.site)
        };
        if slots.values().any(|slot| !kept.values().any(|held| has(held, slot))) {
            check_retained(&mut tx, self.limits.retained_bytes_max).await?;
        }
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

pub(super) fn read_slots(json: &str) -> Slots {
    serde_json::from_str(json).expect("slots are stored as they were read")
}

/// The slots after `change`, each new bundle with the target that names it.
async fn change_slots(tx: &mut Tx, kept: &Slots, change: &Change) -> Result<Slots, Error> {
    let (mut slots, wanted) = match change {
        Change::Nothing | Change::ApproveSite(_) | Change::WithdrawSite(_) => {
            return Ok(kept.clone());
        }
        Change::Slot(slot, assignment) => (kept.clone(), vec![(slot, assignment)]),
        Change::All(all) => (Slots::new(), all.iter().collect()),
    };
    for (slot, &Assignment { bundle, shadow_samples, allow_downgrade }) in wanted {
        let held = kept.get(slot).filter(|held| held.bundle == bundle);
        let target = match held {
            Some(held) => held.target.clone(),
            None => target_of(tx, &bundle).await?,
        };
        let row = SlotRow { target, bundle, shadow_samples, allow_downgrade, site: None };
        slots.insert(slot.clone(), row);
    }
    Ok(slots)
}

async fn change_sites(tx: &mut Tx, device: &DeviceId, change: &Change) -> Result<(), Error> {
    let doing = "change a site baseline";
    match change {
        Change::ApproveSite(site) => approve_site(tx, site).await.map_err(Error::store(doing)),
        Change::WithdrawSite(slot) => {
            let was_there = withdraw_site(tx, device, slot).await.map_err(Error::store(doing))?;
            let nothing =
                || format!("no site baseline is approved for the slot {slot} of {device}");
            was_there.then_some(()).ok_or_else(|| Error::NotFound(nothing()))
        }
        _ => Ok(()),
    }
}

/// A site baseline that is approved must be of use now.
fn check_site(change: &Change, slots: &Slots) -> Result<(), Error> {
    let Change::ApproveSite(site) = change else { return Ok(()) };
    let SiteRow { device, slot, digest, .. } = &**site;
    match slots.get(slot) {
        Some(held) if held.site == Some(*digest) => Ok(()),
        _ => Err(Error::Conflict(format!(
            "the slot {slot} of {device} should run no bundle with the baseline that this site \
             baseline was counted with"
        ))),
    }
}

async fn target_of(tx: &mut Tx, bundle: &Digest) -> Result<String, Error> {
    let row: Option<(Option<String>, bool)> =
        sqlx::query_as("SELECT target, revoked FROM bundles WHERE digest = $1")
            .bind(&bundle.0[..])
            .fetch_optional(&mut **tx)
            .await
            .map_err(Error::store("look for a target"))?;
    match row.ok_or_else(|| no_bundle(bundle))? {
        (Some(target), false) => Ok(target),
        (Some(target), true) => Err(Error::Conflict(format!(
            "the target {target} of bundle {bundle} was revoked: it can stay where it runs, but it is \
             not assigned any more"
        ))),
        (None, _) => Err(Error::Conflict(format!(
            "no target of the repository names bundle {bundle}: sign it into targets metadata with \
             `selvedge publish`"
        ))),
    }
}

/// Refuses what would make the chunks of all assigned bundles too many bytes for the broker.
async fn check_retained(tx: &mut Tx, bytes_max: u64) -> Result<(), Error> {
    let retained: i64 = sqlx::query_scalar(
        "SELECT COALESCE(SUM(retained_bytes), 0) FROM (SELECT DISTINCT digest, retained_bytes \
         FROM pieces WHERE owner IN (SELECT bundle FROM assigned UNION SELECT site FROM assigned))",
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(Error::store("count what the broker retains"))?;
    let retained = natural(retained);
    if retained <= bytes_max {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "with this the chunks of all assigned bundles would take {retained} bytes at the \
         broker, and retained_bytes_max is {bytes_max}: take a bundle from all its devices first, or \
         raise the limit"
    )))
}

pub(super) async fn keep_desired(
    tx: &mut Tx,
    device: &DeviceId,
    generation: u64,
    slots: &Slots,
    signed: &SignedDesired,
    now_ms: u64,
) -> Result<(), sqlx::Error> {
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
    .bind(serde_json::to_string(&slots).expect("a map of names to slots is JSON"))
    .bind(&signed.document)
    .bind(integer(now_ms))
    .bind(integer(signed.expires_ms))
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM assigned WHERE device = $1")
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    for (slot, held) in slots {
        sqlx::query("INSERT INTO assigned (device, slot, bundle, site) VALUES ($1, $2, $3, $4)")
            .bind(device.as_str())
            .bind(slot.as_str())
            .bind(&held.bundle.0[..])
            .bind(held.site.as_ref().map(|site| &site.0[..]))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn take_generation(tx: &mut Tx, device: &DeviceId) -> Result<u64, sqlx::Error> {
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
