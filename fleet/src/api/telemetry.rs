//! What devices sent, page by page: `after` the id of the last row that was read, `limit` rows at most.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use selvedge_sketch::GatewayProfile;
use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{ErrorBody, PAGE_ROWS, Path, Query};
use crate::{
    Error,
    manager::Manager,
    store::{Cursor, EventRow, NodeRow, ProfileRow, ResultRow, StreamRow},
};

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Rows with a higher id.
    after: Option<u64>,
    /// At most this many; 100 if it is not said.
    limit: Option<u32>,
}

/// Which results.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResultsPage {
    /// Rows with a higher id.
    after: Option<u64>,
    /// At most this many; 100 if it is not said.
    limit: Option<u32>,
    /// Those of this slot alone.
    #[param(value_type = Option<String>)]
    slot: Option<SlotName>,
    /// Those of this bundle alone.
    #[param(value_type = Option<String>)]
    bundle: Option<Digest>,
}

/// One answer of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultView {
    /// Counts the rows of this fleet, in the order of their arrival.
    id: u64,
    /// Its name in the whole fleet, DEVICE/BOOT/SOURCE/SAMPLE: a label names it so.
    result_id: String,
    /// The run that made it.
    boot: u32,
    /// Its sequence number in that run.
    sequence: u64,
    /// When it was made, in Unix milliseconds by the device's clock.
    at_ms: u64,
    /// The slot that answered.
    slot: String,
    /// The bundle that answered.
    #[schema(value_type = String)]
    bundle: Digest,
    /// Where the sample came from.
    source: String,
    /// Counts the samples of that source, from 0.
    sample: u64,
    /// How long the answer took, in microseconds.
    latency_us: u32,
    /// The index of the class, where there is one.
    class: Option<u32>,
    /// The label of the class, where the bundle has one.
    label: Option<String>,
    /// The score of the class.
    score: Option<f64>,
    /// The first values of the first output, where there is no class.
    values: Option<Vec<Option<f32>>>,
    /// Why there is no answer.
    failure: Option<String>,
}

/// The counters of one window.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProfileView {
    /// Counts the rows of this fleet, in the order of their arrival.
    id: u64,
    /// The run that made it.
    boot: u32,
    /// Its first sequence number in that run.
    sequence: u64,
    /// How many sequence numbers it stands for.
    covers: u64,
    /// The slot that was counted, if a model was.
    slot: Option<String>,
    /// The bundle that was counted, if a model was.
    #[schema(value_type = Option<String>)]
    bundle: Option<Digest>,
    /// The node that counted, if one did.
    node: Option<String>,
    /// The first window.
    window_first: u64,
    /// The last window.
    window_last: u64,
    /// When the first window opened, in Unix milliseconds by the device's clock.
    opened_ms: u64,
    /// When the last window closed.
    closed_ms: u64,
    /// Its counters; none if they cannot be read.
    counters: Option<CountersView>,
}

/// The counters of a profile.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountersView {
    /// Names the bins that were counted with.
    spec: String,
    /// Samples.
    samples: u32,
    /// Samples without an answer.
    failed: u32,
    /// The median latency: an upper bound, in microseconds.
    latency_us_p50: Option<u32>,
    /// The 99th percentile of the latency: an upper bound, in microseconds.
    latency_us_p99: Option<u32>,
    /// How often each class was the answer.
    classes: Vec<u32>,
    /// The bins of each feature.
    features: Vec<Vec<u32>>,
}

/// What happened on a device.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    /// Counts the rows of this fleet, in the order of their arrival.
    id: u64,
    /// The run that told it.
    boot: u32,
    /// Its sequence number in that run.
    sequence: u64,
    /// When it happened, in Unix milliseconds by the device's clock.
    at_ms: u64,
    /// What happened.
    kind: String,
    /// The slot that it concerns.
    slot: Option<String>,
    /// The bundle that it concerns.
    #[schema(value_type = Option<String>)]
    bundle: Option<Digest>,
    /// One sentence.
    detail: String,
}

/// A node behind a device.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeView {
    /// The node.
    node: String,
    /// What its newest reading measures, with the unit.
    quantity: String,
    /// The newest reading.
    value: i64,
    /// Readings since the node's start.
    readings: u64,
    /// Milliseconds from the node's start to its newest reading, modulo 2³².
    uptime_ms: u64,
    /// Profiles that were stored.
    profiles: u64,
    /// When the newest window closed, in Unix milliseconds by the device's clock.
    closed_ms: u64,
}

/// How much of one stream of one run is stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamView {
    /// The run.
    boot: i64,
    /// `results`, `profiles`, `events`, `labels` or `captures`.
    stream: String,
    /// All numbers up to this one are stored.
    through: i64,
    /// Numbers below the largest that are not stored.
    missing: i64,
    /// Records that were stored.
    records: i64,
    /// Numbers that stand for records dropped on the device.
    dropped: i64,
    /// Records for a number that was stored before as something else.
    conflicting: i64,
}

/// A device's answers, oldest first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/results", tag = "telemetry",
    params(("id" = String, Path, description = "The device's name"), ResultsPage),
    responses(
        (status = 200, description = "The answers", body = Vec<ResultView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_results(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
    Query(page): Query<ResultsPage>,
) -> Result<Json<Vec<ResultView>>, Error> {
    manager.store.device(&id).await?;
    let cursor = cursor(&manager, page.after, page.limit);
    let (slot, bundle) = (page.slot.as_ref(), page.bundle.as_ref());
    let rows = manager.store.results(&id, slot, bundle, cursor).await?;
    let mut labels = Labels::default();
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let label = match row.class_index {
            Some(class) => labels.find(&manager, &row.bundle, class).await?,
            None => None,
        };
        views.push(result_view(&id, row, label));
    }
    Ok(Json(views))
}

/// A device's profiles, oldest first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/profiles", tag = "telemetry",
    params(("id" = String, Path, description = "The device's name"), Page),
    responses(
        (status = 200, description = "The profiles", body = Vec<ProfileView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_profiles(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<ProfileView>>, Error> {
    manager.store.device(&id).await?;
    let cursor = cursor(&manager, page.after, page.limit);
    let rows = manager.store.profiles(&id, cursor).await?;
    Ok(Json(rows.into_iter().map(ProfileView::from).collect()))
}

/// What happened on a device, oldest first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/events", tag = "telemetry",
    params(("id" = String, Path, description = "The device's name"), Page),
    responses(
        (status = 200, description = "The events", body = Vec<EventView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_events(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<EventView>>, Error> {
    manager.store.device(&id).await?;
    let cursor = cursor(&manager, page.after, page.limit);
    let rows = manager.store.events(&id, cursor).await?;
    Ok(Json(rows.into_iter().map(EventView::from).collect()))
}

/// The nodes behind a device.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/nodes", tag = "telemetry",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The nodes", body = Vec<NodeView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_nodes(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Vec<NodeView>>, Error> {
    manager.store.device(&id).await?;
    let rows = manager.store.nodes(&id).await?;
    Ok(Json(rows.into_iter().map(NodeView::from).collect()))
}

/// How much of each stream of a device is stored.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/streams", tag = "telemetry",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The streams, those of the newest run first", body = Vec<StreamView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_streams(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Vec<StreamView>>, Error> {
    manager.store.device(&id).await?;
    let rows = manager.store.streams(&id).await?;
    Ok(Json(rows.into_iter().map(StreamView::from).collect()))
}

fn cursor(manager: &Manager, after: Option<u64>, limit: Option<u32>) -> Cursor {
    let limit = limit.unwrap_or(PAGE_ROWS).min(manager.limits.page_rows_max);
    Cursor { after: after.unwrap_or(0), limit }
}

/// The labels of the bundle that was looked at last: the rows of a page mostly share one.
#[derive(Default)]
struct Labels {
    last: Option<(Digest, serde_json::Value)>,
}

impl Labels {
    async fn find(
        &mut self,
        manager: &Manager,
        bundle: &Digest,
        class: u32,
    ) -> Result<Option<String>, Error> {
        if self.last.as_ref().is_none_or(|(digest, _)| digest != bundle) {
            let row = manager.store.bundle(bundle).await?;
            let manifest = row.and_then(|row| serde_json::from_str(&row.manifest).ok());
            self.last = Some((*bundle, manifest.unwrap_or_default()));
        }
        let manifest = self.last.as_ref().map(|(_, manifest)| manifest);
        let label = manifest.and_then(|manifest| manifest["labels"].get(class as usize)?.as_str());
        Ok(label.map(str::to_owned))
    }
}

fn result_view(device: &DeviceId, row: ResultRow, label: Option<String>) -> ResultView {
    ResultView {
        id: row.id,
        // A source that an agent would not take has no id that could be written otherwise.
        result_id: format!("{device}/{}/{}/{}", row.boot, row.source, row.sample),
        boot: row.boot,
        sequence: row.sequence,
        at_ms: row.at_ms,
        slot: row.slot,
        bundle: row.bundle,
        source: row.source,
        sample: row.sample,
        latency_us: row.latency_us,
        class: row.class_index,
        label,
        score: row.score.filter(|score| score.is_finite()),
        values: row
            .values
            .map(|values| serde_json::from_str(&values).expect("values are stored as JSON")),
        failure: row.failure,
    }
}

impl From<ProfileRow> for ProfileView {
    fn from(row: ProfileRow) -> Self {
        let (slot, bundle) = row.model.unzip();
        Self {
            id: row.id,
            boot: row.boot,
            sequence: row.sequence,
            covers: row.covers,
            slot,
            bundle,
            node: row.node.map(|node| node.to_string()),
            window_first: row.window_first,
            window_last: row.window_last,
            opened_ms: row.opened_ms,
            closed_ms: row.closed_ms,
            counters: GatewayProfile::decode(&row.profile).ok().map(|p| CountersView::from(&p)),
        }
    }
}

impl From<&GatewayProfile> for CountersView {
    fn from(profile: &GatewayProfile) -> Self {
        let classes = profile.classes().classes();
        let used = classes.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        Self {
            spec: profile.spec_id().to_string(),
            samples: profile.samples(),
            failed: profile.failed(),
            latency_us_p50: profile.latency().quantile(500),
            latency_us_p99: profile.latency().quantile(990),
            classes: classes[..used].to_vec(),
            features: profile.features().iter().map(|bins| bins.bins().to_vec()).collect(),
        }
    }
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            boot: row.boot,
            sequence: row.sequence,
            at_ms: row.at_ms,
            kind: row.kind,
            slot: row.slot,
            bundle: row.bundle,
            detail: row.detail,
        }
    }
}

impl From<NodeRow> for NodeView {
    fn from(row: NodeRow) -> Self {
        Self {
            node: row.node.to_string(),
            quantity: row.quantity,
            value: row.value,
            readings: row.readings,
            uptime_ms: row.uptime_ms,
            profiles: row.profiles,
            closed_ms: row.closed_ms,
        }
    }
}

impl From<StreamRow> for StreamView {
    fn from(row: StreamRow) -> Self {
        Self {
            boot: row.boot,
            stream: row.stream,
            through: row.through,
            missing: row.missing,
            records: row.records,
            dropped: row.dropped,
            conflicting: row.conflicting,
        }
    }
}
