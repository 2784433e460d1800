//! Labels that come late, and how right the answers were that they are of.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use selvedge_wire::{Label, LabelForm};

use super::{ErrorBody, Query, drift::DriftParams, to_the_end};
use crate::{
    Error,
    drift::DriftQuery,
    manager::Manager,
    quality::{GroupBy, QualityView, RefusedLabel, TakenLabels},
};

/// A label. The result that it is of is named by `id`, or by `device`, `boot`, `source` and `sample`.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "labels are read by the wire's form; this describes it")]
pub struct NewLabel {
    /// The result: DEVICE/BOOT/SOURCE/SAMPLE, as results are listed.
    #[schema(example = "line-1/7/camera/1234")]
    id: Option<String>,
    /// The device that answered.
    device: Option<String>,
    /// The run that answered.
    boot: Option<u32>,
    /// The source of the sample.
    source: Option<String>,
    /// Counts the samples of that source, from 0.
    sample: Option<u64>,
    /// The class that was right, by name or index among the labels of the bundle that answered.
    #[schema(value_type = Option<Object>, example = "high")]
    class: Option<Value>,
    /// The value that was right, where the first output is a value.
    value: Option<f32>,
    /// To which part of the samples this one belongs: 1 to 128 bytes.
    slice: Option<String>,
}

/// How right the answers of a bundle are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "pairs are read one by one; this describes them")]
pub struct QualityParams {
    /// `slice` or `device`: scores for each of them, beside those of all.
    by: Option<String>,
}

/// Takes labels of results, one object or a list of them. They may come before their results; of several for one
/// result, the one that was given last counts. What is wrong with one label is told and costs no other.
#[utoipa::path(
    post, path = "/api/v1/labels", tag = "labels", request_body = Vec<NewLabel>,
    responses(
        (status = 200, description = "Labels are kept, and what was wrong with others", body = TakenLabels),
        (status = 422, description = "Every label is refused", body = TakenLabels),
        (status = "4XX", description = "The request is no JSON, or too long", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn add_labels(
    State(manager): State<Arc<Manager>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<TakenLabels>), Error> {
    if !is_json(&headers) {
        return Err(Error::Refused("labels are sent as application/json".into()));
    }
    let entries = read_entries(&manager, body).await?;
    let (mut labels, mut refused) = (Vec::new(), Vec::new());
    for (entry, value) in entries.into_iter().enumerate() {
        let id = value["id"].as_str().map(|id| id.chars().take(ID_SHOWN_CHARS).collect());
        match read_label(value) {
            Ok(label) => labels.push((entry, label)),
            Err(error) => refused.push(RefusedLabel { entry, id, error }),
        }
    }
    let mut taken = to_the_end(async move { manager.take_labels(labels).await }).await?;
    taken.refused.extend(refused);
    taken.refused.sort_by_key(|refused| refused.entry);
    let status = match taken.stored == 0 && !taken.refused.is_empty() {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::OK,
    };
    Ok((status, Json(taken)))
}

/// What is repeated of a text that is no id.
const ID_SHOWN_CHARS: usize = 256;

/// A page from elsewhere cannot make a browser send this type unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

async fn read_entries(manager: &Manager, body: Body) -> Result<Vec<Value>, Error> {
    let (bytes_max, count_max) =
        (manager.limits.labels_posted_bytes_max, manager.limits.labels_posted_max);
    let bytes = to_bytes(body, bytes_max).await.map_err(|error| {
        Error::Refused(format!("labels of at most {bytes_max} bytes are expected: {error}"))
    })?;
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Refused(format!("the labels are no JSON: {error}")))?;
    let entries = match document {
        Value::Array(entries) => entries,
        one => vec![one],
    };
    if entries.len() > count_max {
        let count = entries.len();
        let why = format!("{count} labels at a time are too many: send at most {count_max}");
        return Err(Error::Refused(why));
    }
    Ok(entries)
}

fn read_label(value: Value) -> Result<Label, String> {
    let form: LabelForm = serde_json::from_value(value).map_err(|error| error.to_string())?;
    form.read(None).map_err(|error| error.to_string())
}

/// How right the answers of a bundle were, by the labels that came. Times are those of the answers.
#[utoipa::path(
    get, path = "/api/v1/quality", tag = "labels",
    params(DriftParams, QualityParams),
    responses(
        (status = 200, description = "Scores", body = QualityView),
        (status = "4XX", description = "There is no such bundle or device, or the query is wrong", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_quality(
    State(manager): State<Arc<Manager>>,
    Query(mut pairs): Query<Vec<(String, String)>>,
) -> Result<Json<QualityView>, Error> {
    let place = pairs.iter().position(|(name, _)| name == "by");
    let by = match place.map(|place| pairs.remove(place).1).as_deref() {
        None => None,
        Some("slice") => Some(GroupBy::Slice),
        Some("device") => Some(GroupBy::Device),
        Some(other) => {
            return Err(Error::Refused(format!("by={other} is not known: use slice or device")));
        }
    };
    let query = DriftQuery::read(&pairs)?;
    manager.read_quality(&query, by).await.map(Json)
}
