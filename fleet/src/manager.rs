//! What the parts of the manager share: the database, the keys, the registry, and whom to tell.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use tokio::sync::watch;

use selvedge_trust::Proposal;
use selvedge_wire::{CaptureRequest, DeviceId, Digest, Label, SlotName, Topic, Topics};

use crate::{
    Error, Limits,
    broker::{MANAGER, RunningBroker},
    captures::{Export, ExportFormat},
    commissioning::read_baseline,
    director::Director,
    downlink::Downlink,
    drift::{
        CohortQuery, DriftQuery, DriftView, MultivariateView, Mute, Origin, Sites, Subject, Window,
        judge, merge,
    },
    ingest::IngestState,
    live::Live,
    quality::{Answerer, GroupBy, QualityView, RefusedLabel, TakenLabels},
    registry::{Registry, Stock},
    repository::Repository,
    secret::new_password,
    store::{
        BundleRow, CaptureFilter, Change, DesiredSet, EnrolledKey, PatchRow, SiteRow, Stocked,
        Store, WindowFilter, Windows,
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
            sites: self.store.sites_of_bundle(&bundle).await?,
            mutes: self.store.mutes(now_ms).await?,
        };
        let (query, limits) = (query.clone(), self.limits);
        let work = move || look_at_drift(&row, &stock, &query, &kept, now_ms, &limits);
        tokio::task::spawn_blocking(work).await.expect("looking at drift does not panic")
    }

    /// Keeps labels, each with its place in a request; those that cannot be kept are told, and cost no other.
    pub async fn take_labels(&self, labels: Vec<(usize, Label)>) -> Result<TakenLabels, Error> {
        let devices: BTreeSet<DeviceId> =
            self.store.devices().await?.into_iter().map(|row| row.id).collect();
        let mut classes = BTreeMap::new();
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for (entry, label) in labels {
            let fault = match devices.contains(&label.id.device) {
                true => self.fault_of_label(&label, &mut classes).await?,
                false => Some(format!("there is no device {}", label.id.device)),
            };
            match fault {
                None => good.push(label),
                Some(error) => {
                    let id = Some(label.id.to_string());
                    refused.push(RefusedLabel { entry, id, error });
                }
            }
        }
        let matched = self.store.put_labels(&good, self.now_ms()).await?;
        self.live.tell(good.iter().map(|label| label.id.device.clone()).collect::<BTreeSet<_>>());
        Ok(TakenLabels { stored: good.len(), matched, refused })
    }

    /// What is wrong with a label whose answer is known. `classes` are those of the bundles that were met.
    async fn fault_of_label(
        &self,
        label: &Label,
        classes: &mut BTreeMap<Digest, Option<Vec<String>>>,
    ) -> Result<Option<String>, Error> {
        let Some((bundle, outcome)) = self.store.answer(&label.id).await? else { return Ok(None) };
        let classes = match classes.entry(bundle) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(match self.store.bundle(&bundle).await? {
                Some(_) => Some(self.registry.stock(bundle).await?.labels().to_vec()),
                None => None,
            }),
        };
        let Some(classes) = classes else { return Ok(None) };
        Ok(label.truth.resolve(classes, &outcome).err().map(|unfit| unfit.to_string()))
    }

    /// How right the answers of a bundle were, by the labels that came.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such bundle or device.
    pub async fn read_quality(
        &self,
        query: &DriftQuery,
        by: Option<GroupBy>,
    ) -> Result<QualityView, Error> {
        let bundle = query.bundle;
        let row = self.store.bundle(&bundle).await?;
        let row = row.ok_or_else(|| Error::NotFound(format!("there is no bundle {bundle}")))?;
        let stock = self.registry.stock(bundle).await?;
        let devices = self.drift_devices(query).await?;
        let filter = WindowFilter { devices, slot: query.slot.clone(), to_ms: query.to_ms };
        let labelled = self.store.labelled(&bundle, &filter, query.from_ms).await?;
        let groups_max = self.limits.quality_groups_max;
        let work = move || {
            let answerer = Answerer {
                bundle,
                name: &row.name,
                version: &row.version,
                classes: stock.labels(),
                baseline: stock.baseline(),
            };
            QualityView::new(&answerer, &labelled, by, groups_max)
        };
        Ok(tokio::task::spawn_blocking(work).await.expect("counting labels does not panic"))
    }

    /// The devices that the query takes; none for all.
    async fn drift_devices(&self, query: &DriftQuery) -> Result<Option<Vec<DeviceId>>, Error> {
        let CohortQuery { devices, labels } = &query.cohort;
        for device in devices {
            self.store.device(device).await?;
        }
        if labels.is_empty() {
            return Ok((!devices.is_empty()).then(|| devices.clone()));
        }
        let rows = self.store.devices().await?.into_iter();
        let taken: Vec<DeviceId> =
            rows.filter(|row| query.cohort.takes(&row.id, &row.labels)).map(|row| row.id).collect();
        if taken.is_empty() {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let labels = labels.join(", ");
            return Err(Error::NotFound(format!("no device has the labels {labels}")));
        }
        Ok(Some(taken))
    }

    /// Asks a device for samples that it kept; gives the number of the request.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device, slot or bundle; [`Error::Refused`] if nothing could come of
    /// it, or too much.
    pub async fn ask_captures(
        &self,
        device: &DeviceId,
        wanted: &CaptureRequest,
    ) -> Result<u64, Error> {
        let filter = CaptureFilter {
            device: Some(device.clone()),
            bundle: wanted.bundle,
            slot: wanted.slot.clone(),
            from_ms: Some(wanted.from_ms),
            to_ms: Some(wanted.to_ms),
        };
        self.check_capture_filter(&filter).await?;
        if let Some(slot) = &wanted.slot {
            self.check_slot(device, slot).await?;
        }
        let in_limits = |name: &str, value: u64, max: u64| match value {
            0 => Err(Error::Refused(format!("{name} is 0, so nothing would come"))),
            value if value > max => {
                Err(Error::Refused(format!("{name} is {value}, more than the limit of {max}")))
            }
            _ => Ok(()),
        };
        let samples_max = self.limits.capture_request_samples_max;
        in_limits("samples_max", wanted.samples_max.into(), samples_max.into())?;
        in_limits("bytes_max", wanted.bytes_max, self.limits.captures_bytes_max)?;
        let number = self.store.ask_captures(device, wanted, self.now_ms()).await?;
        self.downlink.replan();
        self.live.tell([device.clone()]);
        Ok(number)
    }

    /// Deletes the captured samples of a device that are here, and withdraws what it was asked for.
    pub async fn delete_captures(&self, device: &DeviceId) -> Result<(), Error> {
        self.store.device(device).await?;
        self.store.delete_captures(device).await?;
        self.downlink.replan();
        self.live.tell([device.clone()]);
        Ok(())
    }

    /// An export of captured samples of `bundle`.
    ///
    /// # Errors
    /// Those of [`Export::begin`].
    pub async fn export_captures(
        &self,
        bundle: Digest,
        filter: &CaptureFilter,
        format: ExportFormat,
    ) -> Result<Export, Error> {
        let stock = self.registry.stock(bundle).await?;
        let (columns, labels) = (stock.columns(), stock.labels().to_vec());
        Export::begin(&self.store, filter, format, &columns, labels, &self.limits).await
    }

    /// Whether what the filter names is there, and its range has an end behind its beginning.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`], with what is wrong.
    pub async fn check_capture_filter(&self, filter: &CaptureFilter) -> Result<(), Error> {
        if let Some(device) = &filter.device {
            self.store.device(device).await?;
        }
        if let Some(bundle) = &filter.bundle
            && self.store.bundle(bundle).await?.is_none()
        {
            return Err(Error::NotFound(format!("there is no bundle {bundle}")));
        }
        match (filter.from_ms, filter.to_ms) {
            (Some(from_ms), Some(to_ms)) if from_ms > to_ms => Err(Error::Refused(format!(
                "the range ends before it begins: from_ms={from_ms} is after to_ms={to_ms}"
            ))),
            _ => Ok(()),
        }
    }

    async fn check_slot(&self, device: &DeviceId, slot: &SlotName) -> Result<(), Error> {
        let reported = self.store.device(device).await?.reported;
        let reported = reported.into_iter().flat_map(|it| it.slots).map(|report| report.slot);
        let desired = self.store.desired(device).await?;
        let desired = desired.into_iter().flat_map(|it| it.slots.into_keys());
        let known: BTreeSet<SlotName> = reported.chain(desired).collect();
        if known.contains(slot) {
            return Ok(());
        }
        let known: Vec<&str> = known.iter().map(SlotName::as_str).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Err(Error::NotFound(format!("{device} has no slot {slot}; it has {known}")))
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
    sites: Vec<SiteRow>,
    mutes: Vec<Mute>,
}

/// The site baselines of the origins that have windows.
fn sites_of(rows: &[SiteRow], windows: &[Window]) -> Sites {
    let origins: BTreeSet<&Origin> = windows.iter().map(|window| &window.origin).collect();
    let site = |row: &SiteRow| {
        let origin = Origin { device: row.device.clone(), slot: row.slot.clone() };
        origins.contains(&origin).then(|| (origin, read_baseline(row)))
    };
    rows.iter().filter_map(site).collect()
}

fn look_at_drift(
    row: &BundleRow,
    stock: &Stock,
    query: &DriftQuery,
    Kept { windows: Windows { windows, cut }, sites, mutes }: &Kept,
    now_ms: u64,
    limits: &Limits,
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
    let sites = &sites_of(sites, windows);
    let judgement = judge(baseline, sites, windows, now_ms, limits.drift_changes_max);
    let (step_ms, points_max) = (judgement.step_ms, limits.drift_points_max);
    let multivariate = MultivariateView::of(baseline, windows, step_ms, now_ms, points_max);
    let labels = stock.labels();
    let subject = Subject { bundle: row.digest, name, version, labels, baseline, sites, mutes };
    Ok(DriftView::new(&subject, &merged, &judgement, multivariate, *cut))
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
