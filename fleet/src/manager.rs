//! What the parts of the manager share: the database, the keys, the registry, and whom to tell.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use selvedge_trust::Proposal;
use selvedge_wire::{DeviceId, Digest, Topic, Topics};

use crate::{
    Error, Limits,
    broker::{MANAGER, RunningBroker},
    commissioning::read_baseline,
    director::Director,
    downlink::Downlink,
    drift::{DriftQuery, DriftView, Mute, Origin, Sites, Subject, Window, judge, merge},
    ingest::IngestState,
    live::Live,
    registry::{Registry, Stock},
    repository::Repository,
    secret::new_password,
    store::{
        BundleRow, Change, DesiredSet, EnrolledKey, PatchRow, SiteRow, Stocked, Store,
        WindowFilter, Windows,
    },
};

/// The parts of a running manager.
pub struct Manager {
    pub store: Store,
    pub director: Director,
    pub repository: Repository,
    pub registry: Arc<Registry>,
    pub downlink: Downlink,
    pub live: Live,
    pub limits: Limits,
    pub access: Access,
    pub ingest: watch::Receiver<IngestState>,
    pub clock: fn() -> u64,
}

/// How devices reach the broker.
pub struct Access {
    /// Where they connect.
    pub broker_url: String,
    /// The authority that vouches for the broker, in PEM, where there is one.
    pub ca: Option<String>,
    /// The broker, where it runs in this process: then devices log in with a password.
    pub embedded: Option<RunningBroker>,
}

/// What a new device needs to know.
pub struct Credentials {
    /// Its password, which is not kept; none where the broker knows devices by their certificates.
    pub password: Option<String>,
}

impl Manager {
    /// The time, in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Registers a device.
    pub async fn add_device(
        &self,
        id: &DeviceId,
        labels: &BTreeMap<String, String>,
        key: &EnrolledKey,
    ) -> Result<Credentials, Error> {
        if id.as_str() == MANAGER {
            return Err(Error::Conflict(format!("{MANAGER} is the manager's own name")));
        }
        check_labels(labels, &self.limits)?;
        let (password, kept) = new_password();
        self.store.add_device(id, labels, key, &kept, self.now_ms()).await?;
        self.downlink.replan();
        self.live.tell([id.clone()]);
        Ok(Credentials { password: self.access.embedded.is_some().then_some(password) })
    }

    /// Deletes a device, all that it sent, and what the broker retains of it.
    pub async fn delete_device(&self, id: &DeviceId) -> Result<(), Error> {
        self.store.delete_device(id).await?;
        let topics = Topics::new(self.director.fleet());
        let own = [Topic::Status(id.clone()), Topic::State(id.clone())];
        // Noted as ours, and needed by nobody: so they are cleared.
        self.store.note_retained(&own.map(|topic| topics.name(&topic))).await?;
        if let Some(broker) = &self.access.embedded {
            broker.disconnect(id).await;
        }
        self.downlink.replan();
        self.live.tell([id.clone()]);
        Ok(())
    }

    /// Changes what `device` should run from now on.
    pub async fn set_desired(
        &self,
        device: &DeviceId,
        change: &Change,
    ) -> Result<DesiredSet, Error> {
        let set = self.director.direct(&self.store, device, change, self.now_ms()).await?;
        self.downlink.replan();
        self.live.tell([device.clone()]);
        Ok(set)
    }

    /// Keeps a bundle that the registry has checked.
    pub async fn add_bundle(&self, bundle: &BundleRow, stocked: &Stocked) -> Result<(), Error> {
        self.store.add_bundle(bundle, stocked).await?;
        self.repository.mark_targets(&self.store).await?;
        self.downlink.replan();
        Ok(())
    }

    /// Keeps a patch that the registry has checked.
    pub async fn add_patch(&self, patch: &PatchRow, stocked: &Stocked) -> Result<(), Error> {
        self.store.add_patch(patch, stocked, self.now_ms()).await?;
        self.repository.mark_targets(&self.store).await?;
        self.downlink.replan();
        Ok(())
    }

    /// Takes a proposal for the repository, or with `dry_run` says what it would change.
    pub async fn propose(&self, proposal: &Proposal, dry_run: bool) -> Result<Vec<String>, Error> {
        let now_ms = self.now_ms();
        let proposed =
            self.repository.propose(&self.store, &self.director, proposal, dry_run, now_ms).await?;
        if !dry_run {
            proposed.sentences.iter().for_each(|sentence| tracing::info!("repository: {sentence}"));
            self.downlink.replan();
            self.live.tell(proposed.redirected);
        }
        Ok(proposed.sentences)
    }

    /// What a bundle sees and says now, against its reference.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such bundle or device, or no profile that the query takes;
    /// [`Error::Conflict`] if the bundle has no baseline, or no profile was counted with it.
    pub async fn read_drift(&self, query: &DriftQuery) -> Result<DriftView, Error> {
        let bundle = query.bundle;
        let row = self.store.bundle(&bundle).await?;
        let row = row.ok_or_else(|| Error::NotFound(format!("there is no bundle {bundle}")))?;
        let stock = self.registry.stock(bundle).await?;
        if stock.baseline().is_none() {
            let (name, version) = (&row.name, &row.version);
            let why = format!("{name} {version} has no baseline, so nothing can be compared");
            return Err(Error::Conflict(why));
        }
        let devices = self.drift_devices(query).await?;
        let filter = WindowFilter { devices, slot: query.slot.clone(), to_ms: query.to_ms };
        let now_ms = self.now_ms();
        let kept = Kept {
            windows: self.store.windows(&bundle, &filter).await?,
            sites: self.sites(&bundle).await?,
            mutes: self.store.mutes(now_ms).await?,
        };
        let (query, changes_max) = (query.clone(), self.limits.drift_changes_max);
        let work = move || look_at_drift(&row, &stock, &query, &kept, now_ms, changes_max);
        tokio::task::spawn_blocking(work).await.expect("looking at drift does not panic")
    }

    /// The site baselines that are named beside a bundle.
    async fn sites(&self, bundle: &Digest) -> Result<Sites, Error> {
        let rows = self.store.sites_of_bundle(bundle).await?;
        let site = |row: &SiteRow| {
            let (device, slot) = (row.device.clone(), row.slot.clone());
            (Origin { device, slot }, read_baseline(row))
        };
        Ok(rows.iter().map(site).collect())
    }

    /// The devices that the query takes; none for all.
    async fn drift_devices(&self, query: &DriftQuery) -> Result<Option<Vec<DeviceId>>, Error> {
        let DriftQuery { devices, labels, .. } = query;
        for device in devices {
            self.store.device(device).await?;
        }
        if labels.is_empty() {
            return Ok((!devices.is_empty()).then(|| devices.clone()));
        }
        let rows = self.store.devices().await?.into_iter();
        let has_labels = |known: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| known.get(name) == Some(value))
        };
        let taken: Vec<DeviceId> = rows
            .filter(|row| devices.is_empty() || devices.contains(&row.id))
            .filter(|row| has_labels(&row.labels))
            .map(|row| row.id)
            .collect();
        if taken.is_empty() {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let labels = labels.join(", ");
            return Err(Error::NotFound(format!("no device has the labels {labels}")));
        }
        Ok(Some(taken))
    }

    /// Signs again what is about to expire: desired states, timestamp, snapshot.
    pub async fn renew(&self) -> Result<(), Error> {
        let renewed = self.director.renew(&self.store, self.now_ms()).await?;
        let resigned = self.repository.resign(&self.store, &self.director, self.now_ms()).await?;
        if resigned || !renewed.is_empty() {
            self.downlink.replan();
            self.live.tell(renewed);
        }
        Ok(())
    }
}

/// What is kept about a bundle's drift.
struct Kept {
    windows: Windows,
    sites: Sites,
    mutes: Vec<Mute>,
}

fn look_at_drift(
    row: &BundleRow,
    stock: &Stock,
    query: &DriftQuery,
    Kept { windows: Windows { windows, cut }, sites, mutes }: &Kept,
    now_ms: u64,
    changes_max: usize,
) -> Result<DriftView, Error> {
    let baseline = stock.baseline().expect("a bundle without one was refused before");
    let (name, version) = (&row.name, &row.version);
    let nothing = |what: &str| {
        let what = format!("there is no profile of {name} {version} {what}");
        Error::NotFound(what)
    };
    if windows.is_empty() {
        return Err(nothing("from these devices and times"));
    }
    let is_compared =
        |window: &&Window| query.from_ms.is_none_or(|from_ms| from_ms <= window.closed_ms);
    let mut compared = windows.iter().filter(is_compared).peekable();
    if compared.peek().is_none() {
        return Err(nothing(&format!("from {} on", query.from_ms.unwrap_or_default())));
    }
    let merged = merge(baseline, compared);
    if merged.profiles == 0 {
        let (count, spec) = (merged.unreadable, baseline.spec_id());
        return Err(Error::Conflict(format!(
            "none of the {count} profiles of {name} {version} was counted with its baseline {spec}"
        )));
    }
    let now_ms = query.to_ms.unwrap_or(now_ms);
    let judgement = judge(baseline, sites, windows, now_ms, changes_max);
    let labels = stock.labels();
    let subject = Subject { bundle: row.digest, name, version, labels, baseline, sites, mutes };
    Ok(DriftView::new(&subject, &merged, &judgement, *cut))
}

fn check_labels(labels: &BTreeMap<String, String>, limits: &Limits) -> Result<(), Error> {
    if labels.len() > limits.labels_max {
        return Err(Error::Refused(format!("a device has at most {} labels", limits.labels_max)));
    }
    let max = limits.label_bytes_max;
    match labels.iter().find(|(name, value)| name.len() > max || value.len() > max) {
        Some((name, _)) => {
            let name: String = name.chars().take(max).collect();
            Err(Error::Refused(format!("the label {name:?} has more than {max} bytes")))
        }
        None => Ok(()),
    }
}
