//! What people and programs see of devices, bundles and the repository: the answers of the API, and what pages show.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use selvedge_sketch::{ClassCounts, GatewayProfile, LatencyHistogram};
use selvedge_trust::{KeyId, PublishedRole, Role, RoleName};
use selvedge_wire::{
    Comparison, DRIFTED_STREAMS_MAX, DeviceId, Digest, DriftStatus, DriftedStream, SlotName,
    SlotPhase, SlotReport, TrustReport, VERSION, VERSION_OLDEST,
};

use crate::{
    Error,
    drift::{Alarm, Mute, Reference, are_all_muted, mute_of},
    manager::Manager,
    store::{
        BundleRow, CaptureRequestRow, DesiredRow, DeviceRow, DisbeliefRow, EnrolledKey,
        GENERATION_JUMP_MAX, HealthPoint, HealthRow, MalformedRow, SlotRow, Store, StreamRow,
    },
};

/// Latency and classes are those of this many of a device's newest profiles.
const PROFILES_MERGED: u32 = 30;

/// Messages that were not believed are a problem of the device for so long.
const DISBELIEF_SHOWN_MS: u64 = 24 * 60 * 60 * 1000;

/// A bundle of the registry.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BundleView {
    /// Its identity.
    #[schema(value_type = String, example = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// The bytes of all its blobs.
    pub len_bytes: u64,
    /// When it was registered, in Unix milliseconds.
    pub registered_ms: u64,
    /// The path of the target that names it, or named it last. Only a target can be assigned.
    pub target: Option<String>,
    /// The role whose metadata has that target.
    pub role: Option<String>,
    /// It was a target and is none any more: it can stay where it runs.
    pub revoked: bool,
    /// Bytes that its chunks take at the broker while it is assigned.
    pub retained_bytes: u64,
    /// Its manifest.
    #[schema(value_type = Object)]
    pub manifest: serde_json::Value,
}

/// The TUF repository.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RepositoryView {
    /// The version of the newest root.
    pub root_version: u64,
    /// When the root expires.
    pub root_expires: String,
    /// The keys that hold the role root, by id.
    #[schema(value_type = Vec<String>)]
    pub root_keys: Vec<KeyId>,
    /// How many of them must sign.
    pub root_threshold: usize,
    /// The online keys, by id: they sign snapshot, timestamp and desired states.
    #[schema(value_type = Vec<String>)]
    pub online_keys: Vec<KeyId>,
    /// The version of the snapshot.
    pub snapshot_version: u64,
    /// When the snapshot expires.
    pub snapshot_expires: Option<String>,
    /// The version of the timestamp.
    pub timestamp_version: u64,
    /// When the timestamp was signed.
    pub timestamp_issued: Option<String>,
    /// When the timestamp expires: a device that gets no newer one then says that it is frozen out.
    pub timestamp_expires: Option<String>,
    /// The roles that speak of targets, in the order in which a device asks them.
    pub targets: Vec<RoleView>,
    /// Bytes of chunks and pieces of patches that the broker retains.
    pub chunk_bytes_retained: u64,
    /// How many it may retain: what would exceed it is not assigned.
    pub retained_bytes_max: u64,
}

/// A role that speaks of targets.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RoleView {
    /// Its name.
    #[schema(value_type = String)]
    pub role: RoleName,
    /// The version of its metadata; 0 if there is none yet.
    pub version: u64,
    /// When its metadata expires, if devices believe it.
    pub expires: Option<String>,
    /// Why devices do not believe its metadata.
    pub problem: Option<String>,
    /// The keys that hold it, by id.
    #[schema(value_type = Vec<String>)]
    pub keys: Vec<KeyId>,
    /// How many of them must sign.
    pub threshold: usize,
    /// To whom it delegates.
    pub delegations: Vec<DelegationView>,
    /// The paths of its targets.
    pub targets: Vec<String>,
}

/// A part of the targets that is given to another role.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DelegationView {
    /// The role.
    #[schema(value_type = String)]
    pub role: RoleName,
    /// Patterns of target paths.
    pub paths: Vec<String>,
    /// Whether nobody else is asked about these targets.
    pub terminating: bool,
    /// The keys that hold the role, by id.
    #[schema(value_type = Vec<String>)]
    pub keys: Vec<KeyId>,
    /// How many of them must sign.
    pub threshold: usize,
}

/// Messages that seemed to come from a device and were not believed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DisbeliefView {
    /// The device.
    pub device: String,
    /// `forged`: not signed by the device's key. `replayed`: older than what came before.
    pub kind: String,
    /// How many messages.
    pub count: u64,
    /// Why the last one was not believed.
    pub last_reason: String,
    /// When the last one came, in Unix milliseconds.
    pub last_ms: u64,
}

/// A device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceView {
    /// Its name.
    #[schema(value_type = String)]
    pub id: DeviceId,
    /// What operators call it.
    pub labels: BTreeMap<String, String>,
    /// When it was registered, in Unix milliseconds.
    pub registered_ms: u64,
    /// Whether its agent is connected.
    pub online: bool,
    /// When it was last heard, in Unix milliseconds.
    pub last_seen_ms: Option<u64>,
    /// The run of its agent, counted from 1.
    pub boot: Option<u32>,
    /// Its agent's version.
    pub agent_version: Option<String>,
    /// What bundles are built for.
    pub hardware_class: Option<String>,
    /// The Ed25519 key that it signs with; none if it was registered before devices had keys.
    #[schema(value_type = Option<String>)]
    pub public_key: Option<EnrolledKey>,
    /// What it should run.
    pub desired: Option<DesiredView>,
    /// What it says it runs.
    pub reported: Option<ReportedView>,
    /// Its counters over all boots.
    pub health: Option<HealthView>,
    /// Inferences per second between its last two reports of health; 0 when it is offline.
    pub throughput_per_s: f64,
    /// The rates of its last reports of health, oldest first.
    pub throughput_history: Vec<f64>,
    /// The median latency in its newest profiles: an upper bound, in microseconds.
    pub latency_us_p50: Option<u32>,
    /// The 99th percentile of the same.
    pub latency_us_p99: Option<u32>,
    /// How often each class was the answer, in the newest profiles of the newest bundle.
    pub classes: Vec<ClassView>,
    /// Sequence numbers below the largest of their stream that are not stored.
    pub sequence_gaps: u64,
    /// Records that were stored.
    pub records_stored: u64,
    /// Records that quotas on the device dropped.
    pub records_dropped: u64,
    /// Payloads of the device that were not understood.
    pub malformed: u64,
    /// Messages that seemed to come from it and were not believed.
    pub disbelieved: Vec<DisbeliefView>,
    /// What is wrong with the device, in sentences.
    pub problems: Vec<String>,
}

/// What a device should run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DesiredView {
    /// Counts the desired states of the device.
    pub generation: u64,
    /// The bundle of each slot.
    #[schema(value_type = BTreeMap<String, String>)]
    pub slots: BTreeMap<SlotName, Digest>,
    /// How each slot gets it.
    #[schema(value_type = BTreeMap<String, AssignmentView>)]
    pub assignments: BTreeMap<SlotName, AssignmentView>,
    /// When it was set, in Unix milliseconds.
    pub set_ms: u64,
    /// Until when devices believe it, in Unix milliseconds.
    pub expires_ms: u64,
}

/// How a slot gets its bundle.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AssignmentView {
    /// The path of the bundle's target.
    pub target: String,
    /// Samples that it is given in the shadow first.
    pub shadow_samples: u64,
    /// Whether it may be of an older version than what answers.
    pub allow_downgrade: bool,
    /// The site baseline that its windows are compared with beside its own.
    #[schema(value_type = Option<String>)]
    pub site: Option<Digest>,
}

/// What a device says it runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReportedView {
    /// The generation that it follows.
    pub generation: u64,
    /// When it said so, in Unix milliseconds.
    pub received_ms: u64,
    /// How it stands with the repository's metadata.
    pub trust: TrustView,
    /// Its slots.
    pub slots: Vec<SlotView>,
}

/// How a device stands with the repository's metadata, and with the time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TrustView {
    /// The version of the root that it trusts; 0 before it read one.
    pub root_version: u64,
    /// The version of the timestamp that it followed last; 0 before the first.
    pub timestamp_version: u64,
    /// When that metadata expires, in Unix milliseconds; 0 before the first.
    pub fresh_until_ms: u64,
    /// The metadata has expired and nothing newer came: the device may be kept from news.
    pub frozen: bool,
    /// Its clock is behind a time that is known to have passed.
    pub time_unverified: bool,
}

/// What a device says of one slot.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SlotView {
    /// The slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// Where it is.
    pub phase: PhaseView,
    /// While fetching: the chunks that are on the device.
    pub chunks_present: Option<u32>,
    /// While fetching: the chunks of the bundle.
    pub chunks_total: Option<u32>,
    /// In the shadow: samples that the bundle was given. On probation: its inferences.
    pub done: Option<u64>,
    /// How many of them it shall have.
    pub wanted: Option<u64>,
    /// How the new bundle compares with the one before.
    pub comparison: Option<ComparisonView>,
    /// The bundle that answers.
    pub running: Option<RunningView>,
    /// The bundle that should.
    #[schema(value_type = Option<String>)]
    pub desired: Option<Digest>,
    /// Why it does not.
    pub reason: Option<String>,
    /// Whether what the bundle that answers sees and says is as its reference, as the device says; none if the
    /// bundle has none.
    pub drift: Option<DriftStatusView>,
    /// The same against its site; none unless the device judges by a site baseline.
    pub site: Option<SiteStatusView>,
}

/// Whether what a bundle sees and says is as usual at its site, as the device says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteStatusView {
    /// The site baseline.
    #[schema(value_type = String)]
    pub baseline: Digest,
    /// What the device says.
    pub drift: DriftStatusView,
}

/// Whether what a bundle sees and says is as its reference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DriftStatusView {
    /// `insufficient`, `steady`, `suspect` or `drifted`: the worst of its streams.
    pub state: &'static str,
    /// How much windows vary was not measured on the reference: it was guessed.
    pub uncalibrated: bool,
    /// The streams that drifted, the one with the most evidence first.
    pub streams: Vec<DriftedStreamView>,
    /// When the first of these changes most likely began, in Unix milliseconds by the device's clock.
    pub since_ms: Option<u64>,
    /// All of these are muted: it is drifted, and no alarm to be counted.
    pub muted: bool,
}

/// A stream that drifted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DriftedStreamView {
    /// A feature by name, or `class` or `confidence` of the answers.
    pub name: String,
    /// How it changed.
    pub change: String,
    /// When that most likely began, in Unix milliseconds by the device's clock.
    pub since_ms: u64,
    /// The mute that covers it, until that ends.
    pub mute: Option<Mute>,
}

/// How a new bundle compares with the one before.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ComparisonView {
    /// Samples that the new bundle was given.
    pub samples: u64,
    /// Those of them that it did not answer.
    pub failed: u64,
    /// Those of them to which the two gave different classes; counted in the shadow alone.
    pub disagreed: u64,
    /// Samples that the shadow left out because the processor was short.
    pub shed: u64,
    /// The latency that 95 % of the new bundle's answers kept, in microseconds; 0 before any.
    pub latency_us_p95: u32,
    /// The same of the bundle before.
    pub latency_us_p95_before: u32,
}

/// Where a slot is on its way to what is desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PhaseView {
    /// What is desired is in place.
    Settled,
    /// Chunks are missing.
    Fetching,
    /// The bundle is checked.
    Verifying,
    /// The bundle runs its golden vectors in a process of its own.
    Trial,
    /// The bundle gets the same samples as the one that answers; its answers are discarded.
    Shadow,
    /// The bundle answers and is watched.
    Probation,
    /// The bundle was refused; the one before goes on.
    Refused,
}

/// A bundle that answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunningView {
    /// The bundle.
    #[schema(value_type = String)]
    pub bundle: Digest,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A device's counters over all its boots; memory, spool and uptime are those of the newest.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct HealthView {
    /// Seconds since the start of the newest boot.
    pub uptime_s: u64,
    /// Inferences with an answer.
    pub inferences: u64,
    /// Inferences without one.
    pub inferences_failed: u64,
    /// Inputs that could not be read.
    pub inputs_malformed: u64,
    /// Samples of which a feature was out of the reference's range, not finite, or stuck.
    pub inputs_anomalous: u64,
    /// Changes from one bundle to another.
    pub swaps: u64,
    /// MQTT payload bytes that the device sent.
    pub sent_bytes: u64,
    /// MQTT payload bytes that the device received.
    pub received_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The highest resident memory of any boot.
    pub resident_bytes_peak: u64,
    /// Bytes that wait in the spool.
    pub spool_bytes: u64,
    /// Records that quotas made the spool drop.
    pub records_dropped: u64,
    /// When the counters came, in Unix milliseconds.
    pub received_ms: u64,
}

/// What a device was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CaptureRequestView {
    /// Counts the requests to this device.
    pub number: u64,
    /// `asked`, `under-way`, `finished`, or `replaced` by a later one.
    pub state: &'static str,
    /// Samples of this slot; of all if it is not said.
    pub slot: Option<String>,
    /// Samples that this bundle answered; of all if it is not said.
    #[schema(value_type = Option<String>)]
    pub bundle: Option<Digest>,
    /// Samples that were kept here or later, in Unix milliseconds by the device's clock.
    pub from_ms: Option<u64>,
    /// Samples that were kept no later than this.
    pub to_ms: Option<u64>,
    /// The most samples.
    pub samples_max: u32,
    /// The most bytes of their values.
    pub bytes_max: u64,
    /// When it was asked, in Unix milliseconds.
    pub asked_ms: u64,
    /// Bytes of values that came so far.
    pub received_bytes: u64,
    /// What the device said when it had done with it.
    pub finished: Option<CaptureFinishedView>,
}

/// What a device said of a request when it had done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CaptureFinishedView {
    /// When that came, in Unix milliseconds.
    pub finished_ms: u64,
    /// Samples that it sent.
    pub sent: u32,
    /// Samples that the request's own limits left out.
    pub left_out: u32,
    /// Samples that made room for newer ones before their turn, whether or not they were asked for.
    pub gone: u32,
    /// False where the device is not configured to keep samples.
    pub capturing: bool,
}

/// How often one class was the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClassView {
    /// Its index, except for the sum of those beyond the last that is counted.
    pub index: Option<u32>,
    /// Its label, or its index where the bundle gives it none.
    pub label: String,
    /// How often it was the answer.
    pub count: u32,
}

/// The newest profiles of one device, added up.
#[derive(Clone, Default)]
pub(crate) struct Merged {
    pub latency: LatencyHistogram,
    /// The bundle of the newest profile, and the classes that it gave.
    pub classes: Option<(Digest, ClassCounts)>,
}

/// Everything that is needed to show all devices.
pub(crate) struct FleetView {
    pub devices: Vec<DeviceView>,
    pub bundles: Vec<BundleView>,
    /// The latency in the newest profiles of all devices.
    pub latency: LatencyHistogram,
}

impl FleetView {
    /// Reads all devices.
    pub async fn read(store: &Store, now_ms: u64) -> Result<Self, Error> {
        let bundles: Vec<BundleView> =
            store.bundles().await?.into_iter().map(BundleView::from).collect();
        let mutes = store.mutes(now_ms).await?;
        let mut latency = LatencyHistogram::new();
        let mut health = by(store.health(None).await?, |row| row.device.clone());
        let mut desired = by(store.all_desired().await?, |row| row.device.to_string());
        let mut malformed = by(store.malformed().await?, |row| row.sender.clone());
        let mut disbelieved: BTreeMap<String, Vec<DisbeliefView>> = BTreeMap::new();
        for row in store.disbelieved(None).await? {
            disbelieved.entry(row.device.clone()).or_default().push(DisbeliefView::from(row));
        }
        let mut devices = Vec::new();
        for row in store.devices().await? {
            let id = row.id.as_str().to_owned();
            let parts = Parts {
                desired: desired.remove(&id),
                health: health.remove(&id),
                malformed: malformed.remove(&id),
                disbelieved: disbelieved.remove(&id).unwrap_or_default(),
                ..Parts::read(store, &row.id).await?
            };
            latency.merge(&parts.merged.latency);
            let mut device = device_view(row, parts, &bundles, now_ms);
            device.mark(&mutes);
            devices.push(device);
        }
        Ok(Self { devices, bundles, latency })
    }
}

impl DeviceView {
    /// Reads one device.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub(crate) async fn read(store: &Store, id: &DeviceId, now_ms: u64) -> Result<Self, Error> {
        let row = store.device(id).await?;
        let bundles: Vec<BundleView> =
            store.bundles().await?.into_iter().map(BundleView::from).collect();
        let malformed = store.malformed().await?;
        let parts = Parts {
            desired: store.desired(id).await?,
            health: store.health(Some(id)).await?.pop(),
            malformed: malformed.into_iter().find(|row| row.sender == id.as_str()),
            disbelieved: store
                .disbelieved(Some(id))
                .await?
                .into_iter()
                .map(DisbeliefView::from)
                .collect(),
            ..Parts::read(store, id).await?
        };
        let mut device = device_view(row, parts, &bundles, now_ms);
        device.mark(&store.mutes(now_ms).await?);
        Ok(device)
    }
}

impl DeviceView {
    /// Whether every slot has what is desired, and something is.
    pub(crate) fn is_settled(&self) -> bool {
        let (Some(desired), Some(reported)) = (&self.desired, &self.reported) else { return false };
        let settled = reported.slots.iter().all(|slot| slot.phase == PhaseView::Settled);
        settled && desired.generation == reported.generation
    }

    /// The slots that are in alarm: against the site where it is known what is usual there, else against the lab.
    fn alarms(&self) -> impl Iterator<Item = &DriftStatusView> {
        let slots = self.reported.iter().flat_map(|reported| &reported.slots);
        let status = slots.filter_map(|slot| match &slot.site {
            Some(site) => Some(&site.drift),
            None => slot.drift.as_ref(),
        });
        status.filter(|status| status.state == "drifted")
    }

    /// Whether there is an alarm that is not muted.
    pub(crate) fn is_in_alarm(&self) -> bool {
        self.alarms().any(|alarm| !alarm.muted)
    }

    /// Whether there is an alarm, and each is muted.
    pub(crate) fn is_muted(&self) -> bool {
        self.alarms().next().is_some() && !self.is_in_alarm()
    }

    /// Marks what `mutes` cover.
    fn mark(&mut self, mutes: &[Mute]) {
        for slot in self.reported.iter_mut().flat_map(|reported| &mut reported.slots) {
            let Some(bundle) = slot.running.as_ref().map(|running| running.bundle) else {
                continue;
            };
            let lab = slot.drift.iter_mut().map(|status| (Reference::Lab, status));
            let site = slot.site.iter_mut().map(|site| (Reference::Site, &mut site.drift));
            for (reference, status) in lab.chain(site) {
                for stream in &mut status.streams {
                    let alarm = Alarm {
                        bundle,
                        device: Some(&self.id),
                        slot: Some(&slot.slot),
                        stream: &stream.name,
                        reference,
                        since_ms: Some(stream.since_ms),
                    };
                    stream.mute = mute_of(mutes, &alarm);
                }
                let muted = status.streams.iter().map(|stream| stream.mute.is_some());
                status.muted = are_all_muted(muted);
                if status.streams.len() == DRIFTED_STREAMS_MAX {
                    // There may be more, which only a mute of every stream covers.
                    let of_all = |mute: &Mute| mute.given.scope.stream.is_none();
                    let mut mutes = status.streams.iter().filter_map(|stream| stream.mute.as_ref());
                    status.muted &= mutes.any(of_all);
                }
            }
        }
    }

    /// Whether a slot refuses what is desired.
    pub(crate) fn is_refusing(&self) -> bool {
        let mut slots = self.reported.iter().flat_map(|reported| &reported.slots);
        slots.any(|slot| slot.phase == PhaseView::Refused)
    }
}

/// What is kept of a device, in pieces.
#[derive(Default)]
struct Parts {
    desired: Option<DesiredRow>,
    health: Option<HealthRow>,
    malformed: Option<MalformedRow>,
    disbelieved: Vec<DisbeliefView>,
    points: Vec<HealthPoint>,
    streams: Vec<StreamRow>,
    merged: Merged,
    /// Why the device refused what it should run, as long as it does not follow it.
    refusal: Option<String>,
}

impl Parts {
    /// The pieces that are read device by device.
    async fn read(store: &Store, id: &DeviceId) -> Result<Self, Error> {
        Ok(Self {
            points: store.health_points(id).await?,
            streams: store.streams(id).await?,
            merged: merge_newest(store, id).await?,
            refusal: store.desired_refusal(id).await?,
            ..Self::default()
        })
    }
}

fn device_view(row: DeviceRow, parts: Parts, bundles: &[BundleView], now_ms: u64) -> DeviceView {
    let Parts { desired, health, malformed, disbelieved, points, streams, merged, refusal } = parts;
    let online = row.status.as_ref().is_some_and(|status| status.online);
    let history = rates(&points);
    let throughput_per_s = if online { history.last().copied().unwrap_or(0.0) } else { 0.0 };
    let sum = |field: fn(&StreamRow) -> i64| {
        streams.iter().map(field).map(natural).fold(0, u64::saturating_add)
    };
    let mut view = DeviceView {
        online,
        boot: row.status.as_ref().map(|status| status.boot),
        agent_version: row.status.as_ref().map(|status| status.agent_version.clone()),
        hardware_class: row.status.map(|status| status.hardware_class),
        public_key: row.key,
        desired: desired.map(DesiredView::from),
        reported: row.reported.map(|reported| ReportedView {
            generation: reported.generation,
            received_ms: reported.received_ms,
            trust: TrustView::from(reported.trust),
            slots: reported.slots.into_iter().map(SlotView::from).collect(),
        }),
        health: health.map(HealthView::from),
        throughput_per_s,
        throughput_history: history,
        latency_us_p50: merged.latency.quantile(500),
        latency_us_p99: merged.latency.quantile(990),
        classes: merged.classes.map_or_else(Vec::new, |(bundle, counts)| {
            class_views(&counts, bundles.iter().find(|known| known.digest == bundle))
        }),
        sequence_gaps: sum(|stream| stream.missing),
        records_stored: sum(|stream| stream.records),
        records_dropped: sum(|stream| stream.dropped),
        malformed: malformed.as_ref().map_or(0, |row| natural(row.count)),
        disbelieved,
        problems: Vec::new(),
        id: row.id,
        labels: row.labels,
        registered_ms: row.registered_ms,
        last_seen_ms: row.last_seen_ms,
    };
    view.problems = problems(&view, row.wire_met, refusal, now_ms);
    view
}

fn problems(
    device: &DeviceView,
    wire_met: Option<u8>,
    refusal: Option<String>,
    now_ms: u64,
) -> Vec<String> {
    let without_key = device.public_key.is_none().then(|| {
        "has no key registered, so nothing that it sends is believed: delete it and add it again"
            .to_owned()
    });
    let version = wire_met.map(|met| {
        format!("speaks wire version {met}; this fleet reads {VERSION_OLDEST} to {VERSION}")
    });
    let recent = |it: &&DisbeliefView| now_ms < it.last_ms.saturating_add(DISBELIEF_SHOWN_MS);
    let disbelieved = device.disbelieved.iter().filter(recent).map(|it| {
        let (count, kind, reason) = (it.count, &it.kind, &it.last_reason);
        format!("{count} {kind}: {reason}")
    });
    let refused = refusal.map(|reason| format!("refuses what it should run: {reason}"));
    let ahead =
        device.desired.as_ref().zip(device.reported.as_ref()).and_then(|(desired, reported)| {
            generation_ahead(desired.generation, reported.generation)
        });
    let trust = device.reported.as_ref().map(|reported| &reported.trust);
    let frozen = trust
        .filter(|trust| trust.frozen)
        .map(|_| "is frozen out: its metadata has expired and nothing newer reaches it".to_owned());
    let time = trust
        .filter(|trust| trust.time_unverified)
        .map(|_| "does not know the time: its clock is behind a time that has passed".to_owned());
    let slots = device.reported.iter().flat_map(|reported| &reported.slots);
    let reasons = slots.filter_map(|slot| {
        let reason = slot.reason.as_ref()?;
        Some(format!("{}: {reason}", slot.slot))
    });
    without_key
        .into_iter()
        .chain(version)
        .chain(disbelieved)
        .chain(refused)
        .chain(ahead)
        .chain(frozen)
        .chain(time)
        .chain(reasons)
        .collect()
}

/// A device believes no generation below the one that it follows.
fn generation_ahead(signed: u64, followed: u64) -> Option<String> {
    let what = format!("follows generation {followed}, but this fleet is at {signed}");
    match followed.saturating_sub(signed) {
        0 => None,
        1..=GENERATION_JUMP_MAX => Some(format!("{what}: assign its bundles again")),
        _ => Some(format!("{what}, too far behind to catch up: its agent needs a new state")),
    }
}

async fn merge_newest(store: &Store, id: &DeviceId) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for row in store.newest_model_profiles(id, PROFILES_MERGED).await? {
        let (Some((_, bundle)), Ok(profile)) = (row.model, GatewayProfile::decode(&row.profile))
        else {
            continue;
        };
        merged.latency.merge(profile.latency());
        let (newest, classes) = merged.classes.get_or_insert_with(|| (bundle, ClassCounts::new()));
        if *newest == bundle {
            classes.merge(profile.classes());
        }
    }
    Ok(merged)
}

/// Inferences per second between neighbouring points of one boot.
fn rates(points: &[HealthPoint]) -> Vec<f64> {
    points
        .windows(2)
        .filter(|pair| pair[0].boot == pair[1].boot && pair[0].received_ms < pair[1].received_ms)
        .map(|pair| {
            let inferences = (pair[1].inferences - pair[0].inferences).max(0) as f64;
            inferences * 1000.0 / (pair[1].received_ms - pair[0].received_ms) as f64
        })
        .collect()
}

fn class_views(counts: &ClassCounts, bundle: Option<&BundleView>) -> Vec<ClassView> {
    let labels = bundle.and_then(|bundle| bundle.manifest["labels"].as_array());
    let label = |index: usize| labels.and_then(|labels| labels.get(index)?.as_str());
    let shown = labels.map_or(0, Vec::len);
    let counted = counts.classes().iter().enumerate().filter_map(|(index, &count)| {
        let worth = count > 0 || index < shown;
        worth.then(|| ClassView {
            index: Some(index as u32),
            label: label(index).map_or_else(|| index.to_string(), str::to_owned),
            count,
        })
    });
    let other = (counts.other() > 0).then(|| ClassView {
        index: None,
        label: "other".into(),
        count: counts.other(),
    });
    counted.chain(other).collect()
}

impl From<BundleRow> for BundleView {
    fn from(row: BundleRow) -> Self {
        Self {
            digest: row.digest,
            name: row.name,
            version: row.version,
            len_bytes: row.len_bytes,
            registered_ms: row.registered_ms,
            target: row.target,
            role: row.role,
            revoked: row.revoked,
            retained_bytes: row.retained_bytes,
            manifest: serde_json::from_str(&row.manifest)
                .expect("manifests are stored as they were verified"),
        }
    }
}

impl From<DesiredRow> for DesiredView {
    fn from(row: DesiredRow) -> Self {
        Self {
            generation: row.generation,
            slots: row.slots.iter().map(|(name, slot)| (name.clone(), slot.bundle)).collect(),
            assignments: row
                .slots
                .into_iter()
                .map(|(name, slot)| (name, AssignmentView::from(slot)))
                .collect(),
            set_ms: row.set_ms,
            expires_ms: row.expires_ms,
        }
    }
}

impl From<SlotReport> for SlotView {
    fn from(report: SlotReport) -> Self {
        let (mut chunks, mut progress) = (None, None);
        let phase = match report.phase {
            SlotPhase::Settled => PhaseView::Settled,
            SlotPhase::Fetching { chunks_present, chunks_total } => {
                chunks = Some((chunks_present, chunks_total));
                PhaseView::Fetching
            }
            SlotPhase::Verifying => PhaseView::Verifying,
            SlotPhase::Trial => PhaseView::Trial,
            SlotPhase::Shadow { samples, samples_wanted } => {
                progress = Some((samples, samples_wanted));
                PhaseView::Shadow
            }
            SlotPhase::Probation { inferences, inferences_wanted } => {
                progress = Some((inferences, inferences_wanted));
                PhaseView::Probation
            }
            SlotPhase::Refused => PhaseView::Refused,
        };
        Self {
            slot: report.slot,
            phase,
            chunks_present: chunks.map(|(present, _)| present),
            chunks_total: chunks.map(|(_, total)| total),
            done: progress.map(|(done, _)| done),
            wanted: progress.map(|(_, wanted)| wanted),
            comparison: report.comparison.map(ComparisonView::from),
            running: report.running.map(|running| RunningView {
                bundle: running.bundle,
                name: running.name,
                version: running.version,
            }),
            desired: report.desired,
            reason: report.reason,
            drift: report.drift.map(DriftStatusView::from),
            site: report.site.map(|site| SiteStatusView {
                baseline: site.baseline,
                drift: DriftStatusView::from(site.drift),
            }),
        }
    }
}

impl From<DriftStatus> for DriftStatusView {
    fn from(status: DriftStatus) -> Self {
        let stream = |stream: DriftedStream| {
            let DriftedStream { name, change, since_ms } = stream;
            DriftedStreamView { name, change, since_ms, mute: None }
        };
        Self {
            state: status.state.as_str(),
            uncalibrated: status.uncalibrated,
            since_ms: status.streams.iter().map(|stream| stream.since_ms).min(),
            streams: status.streams.into_iter().map(stream).collect(),
            muted: false,
        }
    }
}

impl From<SlotRow> for AssignmentView {
    fn from(row: SlotRow) -> Self {
        Self {
            target: row.target,
            shadow_samples: row.shadow_samples,
            allow_downgrade: row.allow_downgrade,
            site: row.site,
        }
    }
}

impl From<Comparison> for ComparisonView {
    fn from(comparison: Comparison) -> Self {
        let Comparison { samples, failed, disagreed, shed, latency_us_p95, latency_us_p95_before } =
            comparison;
        Self { samples, failed, disagreed, shed, latency_us_p95, latency_us_p95_before }
    }
}

impl From<TrustReport> for TrustView {
    fn from(report: TrustReport) -> Self {
        let TrustReport {
            root_version,
            timestamp_version,
            fresh_until_ms,
            frozen,
            time_unverified,
        } = report;
        Self { root_version, timestamp_version, fresh_until_ms, frozen, time_unverified }
    }
}

impl From<DisbeliefRow> for DisbeliefView {
    fn from(row: DisbeliefRow) -> Self {
        Self {
            device: row.device,
            kind: row.kind,
            count: natural(row.count),
            last_reason: row.last_reason,
            last_ms: natural(row.last_ms),
        }
    }
}

impl RepositoryView {
    /// The repository of `manager` as it is.
    pub(crate) fn read(manager: &Manager) -> Self {
        let state = manager.repository.state();
        let root = state.root().root();
        let keys = |role| root.keys(role).map(|(id, _)| id.clone()).collect();
        let version = |role| state.version_of(&role).unwrap_or(0);
        let timestamp = state.timestamp();
        Self {
            root_version: root.version(),
            root_expires: root.expires().to_string(),
            root_keys: keys(Role::Root),
            root_threshold: root.threshold(Role::Root),
            online_keys: keys(Role::Director),
            snapshot_version: version(RoleName::snapshot()),
            snapshot_expires: state.snapshot_expires().map(|it| it.to_string()),
            timestamp_version: version(RoleName::timestamp()),
            timestamp_issued: timestamp.map(|(issued, _)| issued.to_string()),
            timestamp_expires: timestamp.map(|(_, expires)| expires.to_string()),
            targets: state.roles().into_iter().map(RoleView::from).collect(),
            chunk_bytes_retained: manager.downlink.retained_bytes(),
            retained_bytes_max: manager.limits.retained_bytes_max,
        }
    }
}

impl From<PublishedRole> for RoleView {
    fn from(role: PublishedRole) -> Self {
        let delegations = role.delegations.into_iter().map(|it| DelegationView {
            role: it.role,
            paths: it.paths,
            terminating: it.terminating,
            keys: it.keys.iter().map(|key| key.id()).collect(),
            threshold: it.threshold,
        });
        Self {
            role: role.role,
            version: role.version,
            expires: role.expires.map(|expires| expires.to_string()),
            problem: role.problem,
            keys: role.keys,
            threshold: role.threshold,
            delegations: delegations.collect(),
            targets: role.targets,
        }
    }
}

impl From<&CaptureRequestRow> for CaptureRequestView {
    fn from(row: &CaptureRequestRow) -> Self {
        let finished = row.finished_ms.map(|finished_ms| CaptureFinishedView {
            finished_ms: natural(finished_ms),
            sent: row.sent.unwrap_or_default(),
            left_out: row.left_out.unwrap_or_default(),
            gone: row.gone.unwrap_or_default(),
            capturing: row.capturing.unwrap_or_default(),
        });
        let state = match finished {
            Some(_) => "finished",
            None if row.replaced => "replaced",
            None if row.received_bytes > 0 => "under-way",
            None => "asked",
        };
        Self {
            number: natural(row.number),
            state,
            slot: row.slot.clone(),
            bundle: row.bundle(),
            from_ms: (row.from_ms > 0).then(|| natural(row.from_ms)),
            to_ms: (row.to_ms < i64::MAX).then(|| natural(row.to_ms)),
            samples_max: row.samples_max,
            bytes_max: natural(row.bytes_max),
            asked_ms: natural(row.asked_ms),
            received_bytes: natural(row.received_bytes),
            finished,
        }
    }
}

impl From<HealthRow> for HealthView {
    fn from(row: HealthRow) -> Self {
        Self {
            uptime_s: natural(row.uptime_s),
            inferences: natural(row.inferences),
            inferences_failed: natural(row.inferences_failed),
            inputs_malformed: natural(row.inputs_malformed),
            inputs_anomalous: natural(row.inputs_anomalous),
            swaps: natural(row.swaps),
            sent_bytes: natural(row.sent_bytes),
            received_bytes: natural(row.received_bytes),
            resident_bytes: natural(row.resident_bytes),
            resident_bytes_peak: natural(row.resident_bytes_peak),
            spool_bytes: natural(row.spool_bytes),
            records_dropped: natural(row.records_dropped),
            received_ms: natural(row.received_ms),
        }
    }
}

fn by<T>(rows: Vec<T>, key: impl Fn(&T) -> String) -> BTreeMap<String, T> {
    rows.into_iter().map(|row| (key(&row), row)).collect()
}

fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(boot: i64, received_ms: i64, inferences: i64) -> HealthPoint {
        HealthPoint { boot, inferences, received_ms }
    }

    #[test]
    fn rates_are_taken_within_a_boot() {
        let points = [
            point(1, 0, 0),
            point(1, 2000, 100),
            point(1, 2000, 100),
            point(2, 3000, 10),
            point(2, 4000, 40),
            point(2, 5000, 20),
        ];
        assert_eq!(rates(&points), [50.0, 30.0, 0.0]);
        assert_eq!(rates(&[]), [] as [f64; 0]);
    }

    #[test]
    fn classes_have_labels_where_the_bundle_gives_them() {
        let mut counts = ClassCounts::new();
        for class in [1, 1, 2, 99] {
            counts.observe(class);
        }
        let bundle = BundleView {
            digest: Digest([0; 32]),
            name: "b".into(),
            version: "1.0.0".into(),
            len_bytes: 0,
            registered_ms: 0,
            target: None,
            role: None,
            revoked: false,
            retained_bytes: 0,
            manifest: serde_json::json!({ "labels": ["no", "yes"] }),
        };
        let seen: Vec<_> = class_views(&counts, Some(&bundle))
            .into_iter()
            .map(|class| (class.label, class.count))
            .collect();
        let expected = [("no", 0), ("yes", 2), ("2", 1), ("other", 1)];
        assert_eq!(seen, expected.map(|(label, count)| (label.to_owned(), count)));
    }
}
