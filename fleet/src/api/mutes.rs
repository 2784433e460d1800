//! Alarms that somebody knows of: muted until a date.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};

use super::{Body, ErrorBody, Path, to_the_end};
use crate::{
    Error,
    drift::{Mute, NewMute},
    manager::Manager,
};

/// Mutes alarms until a date: they are still shown, marked, and not counted. With `acknowledges` only changes that
/// have begun by now are meant.
#[utoipa::path(
    post, path = "/api/v1/drift/mutes", tag = "drift", request_body = NewMute,
    responses(
        (status = 201, description = "The mute holds", body = Mute),
        (status = "4XX", description = "It names nothing, its end has passed or is too far ahead, or there are \
         too many", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn add_mute(
    State(manager): State<Arc<Manager>>,
    Body(new): Body<NewMute>,
) -> Result<(StatusCode, Json<Mute>), Error> {
    let added = async move { manager.add_mute(&new).await };
    Ok((StatusCode::CREATED, Json(to_the_end(added).await?)))
}

/// The mutes that hold, the newest first.
#[utoipa::path(
    get, path = "/api/v1/drift/mutes", tag = "drift",
    responses(
        (status = 200, description = "The mutes", body = Vec<Mute>),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_mutes(State(manager): State<Arc<Manager>>) -> Result<Json<Vec<Mute>>, Error> {
    manager.store.mutes(manager.now_ms()).await.map(Json)
}

/// Ends a mute before its time.
#[utoipa::path(
    delete, path = "/api/v1/drift/mutes/{id}", tag = "drift",
    params(("id" = u64, Path, description = "The mute's number")),
    responses(
        (status = 204, description = "The mute is gone"),
        (status = "4XX", description = "There is no such mute", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn remove_mute(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<u64>,
) -> Result<StatusCode, Error> {
    let removed = async move { manager.remove_mute(id).await };
    to_the_end(removed).await.map(|()| StatusCode::NO_CONTENT)
}
