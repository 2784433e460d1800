//! Samples that devices kept: asking for them, listing and deleting them, and exports for training.

use std::sync::Arc;

use axum::{
    Json,
    body::Body as AnswerBody,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use selvedge_wire::{CaptureRequest, DeviceId, Digest, SlotName};

use super::{Body, ErrorBody, PAGE_ROWS, Path, Query, to_the_end};
use crate::{
    Error,
    captures::ExportFormat,
    manager::Manager,
    store::{CaptureFilter, CaptureRow, Cursor},
    view::CaptureRequestView,
};

/// Samples of a request that does not say how many.
const SAMPLES_MAX_DEFAULT: u32 = 100;

/// Bytes of a request that does not say how many.
const BYTES_MAX_DEFAULT: u64 = 4 * 1024 * 1024;

/// Which samples a device is asked for: the oldest of those that it kept until it takes the request up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCaptureRequest {
    /// Those that this slot had; all if it is not said.
    #[schema(value_type = Option<String>)]
    slot: Option<SlotName>,
    /// Those that this bundle answered; all if it is not said.
    #[schema(value_type = Option<String>)]
    bundle: Option<Digest>,
    /// Those that were kept here or later, in Unix milliseconds by the device's clock.
    from_ms: Option<u64>,
    /// Those that were kept no later than this.
    to_ms: Option<u64>,
    /// The most samples; 100 if it is not said.
    samples_max: Option<u32>,
    /// The most bytes of their values; 4 MiB if it is not said.
    bytes_max: Option<u64>,
}

/// A request that was signed and kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct AskedCaptures {
    /// Counts the requests to this device.
    number: u64,
}

/// Which samples, page by page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CapturePage {
    /// Rows with a higher id.
    after: Option<u64>,
    /// At most this many; 100 if it is not said.
    limit: Option<u32>,
    /// Those of this device alone.
    #[param(value_type = Option<String>)]
    device: Option<DeviceId>,
    /// Those that this bundle answered.
    #[param(value_type = Option<String>)]
    bundle: Option<Digest>,
    /// Those that this slot had.
    #[param(value_type = Option<String>)]
    slot: Option<SlotName>,
    /// Those that were kept here or later, in Unix milliseconds by the devices' clocks.
    from_ms: Option<u64>,
    /// Those that were kept no later than this.
    to_ms: Option<u64>,
}

/// Which samples, and as what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CaptureExport {
    /// `parquet`, `npy` or `ids`.
    format: String,
    /// Those that this bundle answered.
    #[param(value_type = String)]
    bundle: Digest,
    /// Those of this device alone.
    #[param(value_type = Option<String>)]
    device: Option<DeviceId>,
    /// Those that this slot had.
    #[param(value_type = Option<String>)]
    slot: Option<SlotName>,
    /// Those that were kept here or later, in Unix milliseconds by the devices' clocks.
    from_ms: Option<u64>,
    /// Those that were kept no later than this.
    to_ms: Option<u64>,
}

/// A captured sample, without its values.
#[derive(Debug, Serialize, ToSchema)]
pub struct CaptureView {
    /// Counts the rows of this fleet, in the order of their arrival.
    id: i64,
    /// The name of its result in the whole fleet: device, boot, source and sample.
    result: String,
    /// The device that had it.
    device: String,
    /// The run that had it.
    boot: u32,
    /// Where it came from.
    source: String,
    /// Counts the samples of that source, from 0.
    sample: i64,
    /// The slot that had it.
    slot: String,
    /// The bundle that answered.
    #[schema(value_type = String)]
    bundle: Digest,
    /// When it was kept, in Unix milliseconds by the device's clock.
    at_ms: i64,
    /// Why: `anomalous` or `drifting`.
    reason: String,
    /// `row` or `image`.
    kind: String,
    /// The extents of its axes.
    shape: Vec<u32>,
    /// The bytes of its values.
    len_bytes: i64,
    /// When it came, in Unix milliseconds.
    received_ms: i64,
}

/// Asks a device for samples that it kept. A request takes the place of one before that is under way.
#[utoipa::path(
    post, path = "/api/v1/devices/{id}/captures/requests", tag = "captures",
    request_body = NewCaptureRequest,
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 201, description = "The request is on its way", body = AskedCaptures),
        (status = "4XX", description = "There is no such device, slot or bundle, or the request is \
         refused", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn ask_captures(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
    Body(new): Body<NewCaptureRequest>,
) -> Result<(StatusCode, Json<AskedCaptures>), Error> {
    let wanted = CaptureRequest {
        number: 0,
        slot: new.slot,
        bundle: new.bundle,
        from_ms: new.from_ms.unwrap_or(0),
        to_ms: new.to_ms.unwrap_or(u64::MAX),
        samples_max: new.samples_max.unwrap_or(SAMPLES_MAX_DEFAULT),
        bytes_max: new.bytes_max.unwrap_or(BYTES_MAX_DEFAULT),
    };
    let asked = async move { manager.ask_captures(&id, &wanted).await };
    let number = to_the_end(asked).await?;
    Ok((StatusCode::CREATED, Json(AskedCaptures { number })))
}

/// What a device was asked for and how far that is, the newest request first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/captures/requests", tag = "captures",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The requests", body = Vec<CaptureRequestView>),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_capture_requests(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Vec<CaptureRequestView>>, Error> {
    manager.store.device(&id).await?;
    let rows = manager.store.capture_requests(&id).await?;
    Ok(Json(rows.iter().map(CaptureRequestView::from).collect()))
}

/// Deletes the samples of a device that are here, and withdraws what it was asked for. What it keeps itself stays on
/// the device.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}/captures", tag = "captures",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 204, description = "The samples are gone"),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn delete_captures(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<StatusCode, Error> {
    let deleted = async move { manager.delete_captures(&id).await };
    to_the_end(deleted).await.map(|()| StatusCode::NO_CONTENT)
}

/// Captured samples that are here as a whole, in the order of their arrival.
#[utoipa::path(
    get, path = "/api/v1/captures", tag = "captures",
    params(CapturePage),
    responses(
        (status = 200, description = "The samples, without their values", body = Vec<CaptureView>),
        (status = "4XX", description = "There is no such device or bundle, or the query is wrong",
         body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_captures(
    State(manager): State<Arc<Manager>>,
    Query(page): Query<CapturePage>,
) -> Result<Json<Vec<CaptureView>>, Error> {
    let CapturePage { after, limit, device, bundle, slot, from_ms, to_ms } = page;
    let filter = CaptureFilter { device, bundle, slot, from_ms, to_ms };
    manager.check_capture_filter(&filter).await?;
    let limit = limit.unwrap_or(PAGE_ROWS).min(manager.limits.page_rows_max);
    let rows = manager.store.captures(&filter, Cursor { after: after.unwrap_or(0), limit }).await?;
    Ok(Json(rows.into_iter().map(CaptureView::from).collect()))
}

/// Samples of one bundle for training: as a Parquet table with the manifest's columns, as one NumPy array, or the ids
/// of the array's samples in the same order as CSV.
#[utoipa::path(
    get, path = "/api/v1/captures/export", tag = "captures",
    params(CaptureExport),
    responses(
        (status = 200, description = "The export", content(
            (Vec<u8> = "application/vnd.apache.parquet"), (Vec<u8> = "application/octet-stream"),
            (String = "text/csv")
        )),
        (status = "4XX", description = "There is no such bundle, device, sample or format, the samples \
         do not go together or are too many, or the query is wrong", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn export_captures(
    State(manager): State<Arc<Manager>>,
    Query(query): Query<CaptureExport>,
) -> Result<Response, Error> {
    let CaptureExport { format, bundle, device, slot, from_ms, to_ms } = query;
    let format: ExportFormat = format.parse()?;
    let filter = CaptureFilter { device, bundle: Some(bundle), slot, from_ms, to_ms };
    manager.check_capture_filter(&filter).await?;
    let export = manager.export_captures(bundle, &filter, format).await?;
    let attachment = format!("attachment; filename=\"captures.{}\"", format.ending());
    let headers =
        [(header::CONTENT_TYPE, format.media_type()), (header::CONTENT_DISPOSITION, &attachment)];
    Ok((headers, AnswerBody::from_stream(export.stream())).into_response())
}

impl From<CaptureRow> for CaptureView {
    fn from(row: CaptureRow) -> Self {
        Self {
            id: row.id,
            result: row.result_id(),
            bundle: row.bundle(),
            device: row.device,
            boot: row.boot,
            source: row.source,
            sample: row.sample,
            slot: row.slot,
            at_ms: row.at_ms,
            reason: row.reason,
            kind: row.kind,
            shape: serde_json::from_str(&row.shape).expect("shapes are stored as JSON"),
            len_bytes: row.len_bytes,
            received_ms: row.received_ms,
        }
    }
}
