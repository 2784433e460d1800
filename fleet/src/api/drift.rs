//! Whether what bundles see and say is as their references: answers, and exports for other programs.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{ErrorBody, Query};
use crate::{
    Error,
    drift::{DriftQuery, DriftView, kll, to_csv},
    manager::Manager,
};

/// What is asked. `device` and `label` may stand several times.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "repeated pairs are read one by one; this describes them")]
pub struct DriftParams {
    /// The bundle: sha256: and 64 hexadecimal digits.
    bundle: String,
    /// Profiles of these devices; all that have the bundle if none is named.
    device: Option<Vec<String>>,
    /// Profiles of devices with all of these labels: NAME=VALUE.
    label: Option<Vec<String>>,
    /// Profiles of this slot alone.
    slot: Option<String>,
    /// Compares windows that closed here or later, in Unix milliseconds by the devices' clocks. States come from
    /// earlier ones, too.
    from_ms: Option<u64>,
    /// Leaves out windows that closed after this, as if it were the present.
    to_ms: Option<u64>,
}

/// As what it is exported.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "pairs are read one by one; this describes them")]
pub struct ExportParams {
    /// `csv`, `json` or `kll`.
    format: String,
    /// With `kll`: the stream, a feature by name or `confidence`.
    stream: Option<String>,
}

/// What a bundle sees and says now, against its reference. Profiles are merged at read time, over any devices
/// and times; states are computed from all stored profiles up to `to_ms`.
#[utoipa::path(
    get, path = "/api/v1/drift", tag = "drift",
    params(DriftParams),
    responses(
        (status = 200, description = "Histograms, states, statistics and estimates", body = DriftView),
        (status = "4XX", description = "There is no such bundle, device, baseline or profile, or the \
         query is wrong", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_drift(
    State(manager): State<Arc<Manager>>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<DriftView>, Error> {
    let query = DriftQuery::read(&pairs)?;
    manager.read_drift(&query).await.map(Json)
}

/// The merged profile for other programs: the cells of all streams as CSV, everything as JSON that names its
/// fields, or one stream as an Apache KLL sketch of floats. The sketch is approximate: values enter as the
/// middles of their bins.
#[utoipa::path(
    get, path = "/api/v1/drift/export", tag = "drift",
    params(DriftParams, ExportParams),
    responses(
        (status = 200, description = "The export", content(
            (String = "text/csv"), (DriftView = "application/json"),
            (Vec<u8> = "application/octet-stream")
        )),
        (status = "4XX", description = "There is no such bundle, device, baseline, profile, format or \
         stream, or the query is wrong", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn export_drift(
    State(manager): State<Arc<Manager>>,
    Query(mut pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Error> {
    let mut take = |wanted: &str| {
        let place = pairs.iter().position(|(name, _)| name == wanted)?;
        Some(pairs.remove(place).1)
    };
    let (format, stream) = (take("format"), take("stream"));
    let query = DriftQuery::read(&pairs)?;
    let format = format.as_deref().unwrap_or_default();
    if !["csv", "json", "kll"].contains(&format) {
        let why = format!("format={format} is not known: use csv, json or kll");
        return Err(Error::Refused(why));
    }
    let view = manager.read_drift(&query).await?;
    let file = format!("{}-{}-{}", view.name, view.version, view.to_ms);
    let (kind, file, bytes) = match format {
        "csv" => ("text/csv; charset=utf-8", format!("{file}.csv"), to_csv(&view).into_bytes()),
        "json" => {
            let json = serde_json::to_vec_pretty(&view).expect("a view is JSON");
            ("application/json", format!("{file}.json"), json)
        }
        _ => {
            let bytes = kll_of(&view, stream.as_deref())?;
            ("application/octet-stream", format!("{file}.kll"), bytes)
        }
    };
    let attachment = format!("attachment; filename=\"{file}\"");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, &attachment)], bytes)
        .into_response())
}

fn kll_of(view: &DriftView, stream: Option<&str>) -> Result<Vec<u8>, Error> {
    let name = stream.ok_or_else(|| {
        Error::Refused("a KLL sketch is of one stream: add stream=NAME to the query".into())
    })?;
    let stream = view.streams.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = view.streams.iter().map(|known| &known.name[..]).collect();
        let known = known.join(", ");
        Error::NotFound(format!("there is no stream {name:?}; there are {known}"))
    })?;
    kll(stream)
}
