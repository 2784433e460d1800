//! The fleet as a whole: sums, and a stream of changes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::Serialize;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use utoipa::ToSchema;

use super::ErrorBody;
use crate::{
    Error,
    live::Changed,
    manager::Manager,
    view::{DeviceView, DisbeliefView, FleetView, HealthView},
};

/// A comment goes out this often, so that proxies keep the stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The fleet as a whole. Counters are sums over all devices and all runs of their agents.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetSums {
    /// The fleet's name.
    fleet: String,
    /// Devices that are registered.
    devices: usize,
    /// Devices whose agent is connected.
    online: usize,
    /// Devices on which every slot has what is desired.
    settled: usize,
    /// Devices that refuse what is desired.
    refused: usize,
    /// Devices in an alarm of drift that is not muted: against the site where it is known what is usual there,
    /// else against the lab.
    drifting: usize,
    /// Devices of which each such alarm is muted.
    drifting_muted: usize,
    /// Bundles of the registry.
    bundles: usize,
    /// Inferences with an answer.
    inferences: u64,
    /// Inferences without one.
    inferences_failed: u64,
    /// Changes from one bundle to another.
    swaps: u64,
    /// MQTT payload bytes that devices sent.
    sent_bytes: u64,
    /// MQTT payload bytes that devices received.
    received_bytes: u64,
    /// The highest resident memory of any agent.
    resident_bytes_peak: u64,
    /// Inferences per second at present.
    throughput_per_s: f64,
    /// The median latency in the newest profiles: an upper bound, in microseconds.
    latency_us_p50: Option<u32>,
    /// The 99th percentile of the same.
    latency_us_p99: Option<u32>,
    /// Results that were stored.
    results: i64,
    /// Profiles that were stored.
    profiles: i64,
    /// Events that were stored.
    events: i64,
    /// Sequence numbers below the largest of their stream that are not stored.
    sequence_gaps: i64,
    /// Records that quotas on devices dropped.
    records_dropped: i64,
    /// Records for a number that was stored before as something else.
    records_conflicting: i64,
    /// Who sent what was not understood.
    malformed: Vec<MalformedView>,
    /// Messages that seemed to come from a device and were not believed.
    disbelieved: Vec<DisbeliefView>,
    /// Whether the link to the broker is up.
    broker_connected: bool,
    /// Why nothing is stored at present, if that is so.
    storing_blocked: Option<String>,
}

/// Payloads of one sender that were not understood.
#[derive(Debug, Serialize, ToSchema)]
pub struct MalformedView {
    /// The sender, as the topic names it.
    sender: String,
    /// How many payloads.
    count: i64,
    /// Those of them in a wire version that is not understood.
    versions: i64,
    /// What was wrong with the last one.
    last_reason: String,
    /// When the last one came, in Unix milliseconds.
    last_ms: i64,
}

/// The fleet as a whole.
#[utoipa::path(
    get, path = "/api/v1/fleet", tag = "fleet",
    responses(
        (status = 200, description = "The fleet", body = FleetSums),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_fleet(State(manager): State<Arc<Manager>>) -> Result<Json<FleetSums>, Error> {
    let view = FleetView::read(&manager.store, manager.now_ms()).await?;
    let totals = manager.store.totals().await?;
    let malformed = manager.store.malformed().await?;
    let disbelieved = manager.store.disbelieved(None).await?;
    let ingest = manager.ingest.borrow().clone();
    let devices = &view.devices;
    let count = |is: fn(&DeviceView) -> bool| devices.iter().filter(|device| is(device)).count();
    let health: Vec<&HealthView> =
        devices.iter().filter_map(|device| device.health.as_ref()).collect();
    let sum = |field: fn(&HealthView) -> u64| {
        health.iter().map(|health| field(health)).fold(0, u64::saturating_add)
    };
    Ok(Json(FleetSums {
        fleet: manager.director.fleet().to_string(),
        devices: devices.len(),
        online: count(|device| device.online),
        settled: count(DeviceView::is_settled),
        refused: count(DeviceView::is_refusing),
        drifting: count(DeviceView::is_in_alarm),
        drifting_muted: count(DeviceView::is_muted),
        bundles: view.bundles.len(),
        inferences: sum(|health| health.inferences),
        inferences_failed: sum(|health| health.inferences_failed),
        swaps: sum(|health| health.swaps),
        sent_bytes: sum(|health| health.sent_bytes),
        received_bytes: sum(|health| health.received_bytes),
        resident_bytes_peak: health.iter().map(|h| h.resident_bytes_peak).max().unwrap_or(0),
        throughput_per_s: devices.iter().map(|device| device.throughput_per_s).sum(),
        latency_us_p50: view.latency.quantile(500),
        latency_us_p99: view.latency.quantile(990),
        results: totals.results,
        profiles: totals.profiles,
        events: totals.events,
        sequence_gaps: totals.sequence_gaps,
        records_dropped: totals.records_dropped,
        records_conflicting: totals.records_conflicting,
        malformed: malformed
            .into_iter()
            .map(|row| MalformedView {
                sender: row.sender,
                count: row.count,
                versions: row.versions,
                last_reason: row.last_reason,
                last_ms: row.last_ms,
            })
            .collect(),
        disbelieved: disbelieved.into_iter().map(DisbeliefView::from).collect(),
        broker_connected: ingest.connected,
        storing_blocked: ingest.blocked,
    }))
}

/// Server-sent events: `changed` with the devices of which something is different.
#[utoipa::path(
    get, path = "/api/v1/stream", tag = "fleet",
    responses(
        (status = 200, description = "Events until one side closes", body = Changed,
         content_type = "text/event-stream"),
        (status = 503, description = "There are too many listeners", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn stream_changes(State(manager): State<Arc<Manager>>) -> Response {
    let Some(listener) = manager.live.listen() else {
        let body = Json(ErrorBody { error: "there are too many listeners".into() });
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    };
    let events = ReceiverStream::new(listener).map(|changed| {
        let event = Event::default().event("changed").json_data(&changed);
        Ok::<_, Infallible>(event.expect("a set of names is JSON"))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
