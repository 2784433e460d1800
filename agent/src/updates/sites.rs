//! Site baselines: fetched by the digests that the desired state names, and kept until it names others.
//!
//! They decide nothing about bundles. One that does not come or is refused leaves its slot with the bundle's own
//! reference; the state machine of the slot does not know of it.
//!
//! ```text
//! sites/<slot>    the encoded site baseline; replaced as a whole
//! ```

use std::{collections::BTreeMap, sync::Arc};

use selvedge_bundle::{SiteBaseline, digest_of, expand_named};
use selvedge_trust::DesiredSlot;
use selvedge_wire::{Chunk, DeviceId, Digest, EventKind, SlotName, decode};

use crate::{
    disk::{DiskError, SharedDisk, replace},
    error::one_line,
    inference::WantedSite,
    limits::CHUNK_OVERDUE_MS,
};

use super::Now;

const DIR: &str = "sites";

/// The site baselines of a device's slots.
pub(super) struct Sites {
    device: DeviceId,
    disk: SharedDisk,
    slots: BTreeMap<SlotName, Named>,
}

/// What the desired state names for a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Named {
    site: Digest,
    bundle: Digest,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has not come yet; when it is asked for again.
    Awaited {
        overdue_at_ms: u64,
    },
    Here,
    Refused,
}

/// What is to be done about it.
pub(super) enum SiteOrder {
    Listen(Digest),
    ListenAgain(Digest),
    Unlisten(Digest),
    /// From here on the slot's windows are compared with it, or with none.
    Judge {
        slot: SlotName,
        site: Option<WantedSite>,
    },
    Tell {
        kind: EventKind,
        slot: SlotName,
        bundle: Digest,
        detail: String,
    },
    Malformed(String),
}

impl Sites {
    pub(super) fn open(disk: SharedDisk, device: DeviceId) -> Result<Self, DiskError> {
        disk.create_dir(DIR)?;
        Ok(Self { device, disk, slots: BTreeMap::new() })
    }

    /// A desired state was accepted, or is recalled.
    pub(super) fn follow(
        &mut self,
        desired: &BTreeMap<SlotName, DesiredSlot>,
        now: Now,
        orders: &mut Vec<SiteOrder>,
    ) {
        let named = |slot: &DesiredSlot| Some((slot.site?, slot.bundle));
        let named = desired.iter().filter_map(|(name, slot)| Some((name.clone(), named(slot)?)));
        let named: BTreeMap<SlotName, (Digest, Digest)> = named.collect();
        let before = std::mem::take(&mut self.slots);
        for (slot, old) in &before {
            let stays = named.get(slot).is_some_and(|(site, _)| *site == old.site);
            if let (Progress::Awaited { .. }, false) = (old.progress, stays) {
                orders.push(SiteOrder::Unlisten(old.site));
            }
            if let (Progress::Here, false) = (old.progress, stays) {
                orders.push(SiteOrder::Judge { slot: slot.clone(), site: None });
            }
        }
        for (slot, (site, bundle)) in named {
            let old = before.get(&slot).filter(|old| old.site == site);
            match old {
                Some(old) if old.bundle == bundle || old.progress != Progress::Here => {
                    self.slots.insert(slot, Named { bundle, ..*old });
                }
                _ => self.begin(slot, site, bundle, now, orders),
            }
        }
        self.tidy();
    }

    fn begin(
        &mut self,
        slot: SlotName,
        site: Digest,
        bundle: Digest,
        now: Now,
        orders: &mut Vec<SiteOrder>,
    ) {
        let awaited = Progress::Awaited { overdue_at_ms: now.elapsed_ms + CHUNK_OVERDUE_MS };
        self.slots.insert(slot.clone(), Named { site, bundle, progress: awaited });
        let kept = self.disk.read(&path(&slot)).unwrap_or_else(|error| {
            tracing::warn!("slot {slot}: its site baseline is fetched again: {error}");
            None
        });
        match kept {
            Some(bytes) if digest_of(&bytes) == site => self.take(&slot, &bytes, orders),
            // One that was named before may still be there.
            Some(bytes) if SiteBaseline::decode(&bytes).is_err() => {
                let detail = "the kept site baseline is damaged: it is fetched again".to_owned();
                let kind = EventKind::StateDamaged;
                orders.push(SiteOrder::Tell { kind, slot, bundle, detail });
                orders.push(SiteOrder::Listen(site));
            }
            _ => orders.push(SiteOrder::Listen(site)),
        }
    }

    /// A chunk came, which may be a site baseline.
    pub(super) fn receive(&mut self, chunk: Digest, payload: &[u8], orders: &mut Vec<SiteOrder>) {
        let is_awaited = |named: &Named| {
            named.site == chunk && matches!(named.progress, Progress::Awaited { .. })
        };
        let awaiting = self.slots.iter().filter(|(_, named)| is_awaited(named));
        let awaiting: Vec<SlotName> = awaiting.map(|(slot, _)| slot.clone()).collect();
        if awaiting.is_empty() {
            return;
        }
        let message = decode::<Chunk>(payload).map_err(|error| format!("chunk {chunk}: {error}"));
        let content = message
            .and_then(|message| expand_named(&message, chunk).map_err(|error| one_line(&error)));
        let bytes = match content {
            Ok(bytes) => bytes,
            // It may be anybody's: the right one may still come.
            Err(problem) => return orders.push(SiteOrder::Malformed(problem)),
        };
        for slot in awaiting {
            orders.push(SiteOrder::Unlisten(chunk));
            self.take(&slot, &bytes, orders);
            if self.slots.get(&slot).is_some_and(|named| named.progress == Progress::Here)
                && let Err(error) = replace(self.disk.as_ref(), &path(&slot), &bytes)
            {
                tracing::warn!(
                    "slot {slot}: the next run fetches the site baseline again: {error}"
                );
            }
        }
    }

    /// Looks at bytes with the digest that the desired state names.
    fn take(&mut self, slot: &SlotName, bytes: &[u8], orders: &mut Vec<SiteOrder>) {
        let Some(named) = self.slots.get_mut(slot) else { return };
        let (slot, bundle) = (slot.clone(), named.bundle);
        match read(bytes, &self.device, &slot) {
            Ok(site) => {
                named.progress = Progress::Here;
                let site = Some(WantedSite { site: Arc::new(site), bundle });
                orders.push(SiteOrder::Judge { slot, site });
            }
            Err(reason) => {
                named.progress = Progress::Refused;
                let detail = format!("the site baseline {} is refused: {reason}", named.site);
                let kind = EventKind::SiteRefused;
                orders.push(SiteOrder::Tell { kind, slot, bundle, detail });
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Now, orders: &mut Vec<SiteOrder>) {
        for named in self.slots.values_mut() {
            if let Progress::Awaited { overdue_at_ms } = &mut named.progress
                && now.elapsed_ms >= *overdue_at_ms
            {
                *overdue_at_ms = now.elapsed_ms + CHUNK_OVERDUE_MS;
                orders.push(SiteOrder::ListenAgain(named.site));
            }
        }
    }

    /// Removes what no slot needs any more.
    fn tidy(&self) {
        let is_named = |name: &String| self.slots.keys().any(|slot| slot.as_str() == name);
        let unnamed = self.disk.list(DIR).unwrap_or_default().into_iter();
        for name in unnamed.filter(|name| !is_named(name)) {
            if let Err(error) = self.disk.remove(&format!("{DIR}/{name}")) {
                tracing::warn!("an old site baseline stays on the disk for now: {error}");
            }
        }
    }
}

/// The site baseline of this slot of this device, or why it is not one.
fn read(bytes: &[u8], device: &DeviceId, slot: &SlotName) -> Result<SiteBaseline, String> {
    let site = SiteBaseline::decode(bytes).map_err(|error| one_line(&error))?;
    let record = site.record();
    if (&record.device, &record.slot) != (device, slot) {
        let (device, slot) = (&record.device, &record.slot);
        return Err(format!("it was recorded in the slot {slot} of {device}"));
    }
    Ok(site)
}

fn path(slot: &SlotName) -> String {
    format!("{DIR}/{slot}")
}
