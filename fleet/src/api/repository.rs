//! The TUF repository: what it holds, how it changes, and its files as any TUF client fetches them.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use selvedge_trust::Proposal;

use super::{ErrorBody, Path, Query, to_the_end};
use crate::{Error, manager::Manager, view::RepositoryView};

/// Whether a proposal is only looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProposalQuery {
    /// Nothing is changed; the answer says what would be.
    #[serde(default)]
    dry_run: bool,
}

/// Signed documents that change the repository, each as JSON text.
#[derive(Debug, ToSchema)]
#[schema(as = Proposal)]
pub struct ProposalSchema {
    /// The roots that follow the newest one, in order.
    #[schema(value_type = Vec<String>)]
    #[allow(dead_code, reason = "it describes a type of another crate")]
    roots: Vec<String>,
    /// New versions of roles that speak of targets, by role.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    #[allow(dead_code, reason = "it describes a type of another crate")]
    targets: std::collections::BTreeMap<String, String>,
}

/// What a proposal changes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Changes {
    /// In sentences for people.
    changes: Vec<String>,
}

/// What the repository holds.
#[utoipa::path(
    get, path = "/api/v1/repository", tag = "repository",
    responses(
        (status = 200, description = "The repository", body = RepositoryView),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_repository(State(manager): State<Arc<Manager>>) -> Json<RepositoryView> {
    Json(RepositoryView::read(&manager))
}

/// Changes the repository: all of the proposal or nothing, and only what devices would believe.
#[utoipa::path(
    post, path = "/api/v1/repository", tag = "repository", params(ProposalQuery),
    request_body = ProposalSchema,
    responses(
        (status = 200, description = "The repository is changed, or would be", body = Changes),
        (status = "4XX", description = "The proposal is refused, with the reason", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn change_repository(
    State(manager): State<Arc<Manager>>,
    Query(ProposalQuery { dry_run }): Query<ProposalQuery>,
    body: Body,
) -> Result<Json<Changes>, Error> {
    let max = manager.limits.proposal_bytes_max;
    let bytes = to_bytes(body, max).await.map_err(|error| {
        Error::Refused(format!("a proposal of at most {max} bytes is expected: {error}"))
    })?;
    let proposal: Proposal = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Refused(format!("the proposal is malformed: {error}")))?;
    let changes = to_the_end(async move { manager.propose(&proposal, dry_run).await }).await?;
    Ok(Json(Changes { changes }))
}

/// A file of the repository, byte by byte as it was signed: `timestamp.json`, `1.root.json`, and so on.
#[utoipa::path(
    get, path = "/tuf/{file}", tag = "repository",
    params(("file" = String, Path, description = "The file's name, with its version before it")),
    responses(
        (status = 200, description = "The file", body = Vec<u8>, content_type = "application/json"),
        (status = "4XX", description = "There is no such file", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_file(
    State(manager): State<Arc<Manager>>,
    Path(file): Path<String>,
) -> Result<Response, Error> {
    let state = manager.repository.state();
    let bytes = state
        .file(&file)
        .ok_or_else(|| Error::NotFound(format!("the repository has no file {file}")))?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, bytes.to_vec()).into_response())
}
