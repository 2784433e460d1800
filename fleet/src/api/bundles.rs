//! The bundle registry.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use selvedge_wire::Digest;

use super::{ErrorBody, Path, to_the_end};
use crate::{Error, manager::Manager, view::BundleView};

const TAR: &str = "application/x-tar";
const OCTETS: &str = "application/octet-stream";

/// A patch that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedPatch {
    /// The digest of its index, which the bundle's target is to name.
    #[schema(value_type = String)]
    index: Digest,
    /// The bytes of the index.
    index_len_bytes: usize,
    /// The bytes of the patch.
    len_bytes: u64,
}

/// Registers a bundle: the tar of its OCI image layout. It is assignable when a target of the repository
/// names it.
#[utoipa::path(
    post, path = "/api/v1/bundles", tag = "bundles",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 201, description = "The bundle is whole and is registered", body = BundleView),
        (status = "4XX", description = "The bundle is refused, with the reason", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn add_bundle(
    State(manager): State<Arc<Manager>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<BundleView>), Error> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|found| found != TAR) {
        return Err(Error::Refused(format!("a bundle is uploaded with Content-Type: {TAR}")));
    }
    let upload = body.into_data_stream();
    let (bundle, stocked) = manager.registry.take(upload, manager.now_ms()).await?;
    let digest = bundle.digest;
    let keeper = manager.clone();
    to_the_end(async move { keeper.add_bundle(&bundle, &stocked).await }).await?;
    read_view(&manager, &digest).await.map(|view| (StatusCode::CREATED, Json(view)))
}

/// Registers a patch from the bundle `source` to the bundle `digest`, as `selvedge publish` makes it.
/// Devices get it when the target of the bundle names its index.
#[utoipa::path(
    post, path = "/api/v1/bundles/{digest}/patches/{source}", tag = "bundles",
    params(
        ("digest" = String, Path, description = "The bundle that the patch leads to"),
        ("source" = String, Path, description = "The bundle that it begins from")
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "The patch leads there and is registered", body = AddedPatch),
        (status = "4XX", description = "The patch is refused, with the reason", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn add_patch(
    State(manager): State<Arc<Manager>>,
    Path((digest, source)): Path<(Digest, Digest)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<AddedPatch>), Error> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|found| found != OCTETS) {
        return Err(Error::Refused(format!("a patch is uploaded with Content-Type: {OCTETS}")));
    }
    for bundle in [&digest, &source] {
        manager.store.bundle(bundle).await?.ok_or_else(|| no_bundle(bundle))?;
    }
    let upload = body.into_data_stream();
    let (patch, stocked) = manager.registry.take_patch(upload, source, digest).await?;
    let added = AddedPatch {
        index: patch.index_digest,
        index_len_bytes: patch.index.len(),
        len_bytes: patch.len_bytes,
    };
    to_the_end(async move { manager.add_patch(&patch, &stocked).await }).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// All bundles, newest first.
#[utoipa::path(
    get, path = "/api/v1/bundles", tag = "bundles",
    responses(
        (status = 200, description = "The bundles", body = Vec<BundleView>),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_bundles(
    State(manager): State<Arc<Manager>>,
) -> Result<Json<Vec<BundleView>>, Error> {
    let bundles = manager.store.bundles().await?;
    Ok(Json(bundles.into_iter().map(BundleView::from).collect()))
}

/// One bundle.
#[utoipa::path(
    get, path = "/api/v1/bundles/{digest}", tag = "bundles",
    params(("digest" = String, Path, description = "sha256: and 64 hexadecimal digits")),
    responses(
        (status = 200, description = "The bundle", body = BundleView),
        (status = "4XX", description = "There is no such bundle", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_bundle(
    State(manager): State<Arc<Manager>>,
    Path(digest): Path<Digest>,
) -> Result<Json<BundleView>, Error> {
    read_view(&manager, &digest).await.map(Json)
}

/// The tar of a bundle's OCI image layout.
#[utoipa::path(
    get, path = "/api/v1/bundles/{digest}/archive", tag = "bundles",
    params(("digest" = String, Path, description = "sha256: and 64 hexadecimal digits")),
    responses(
        (status = 200, description = "The archive", body = Vec<u8>, content_type = "application/x-tar"),
        (status = "4XX", description = "There is no such bundle", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_archive(
    State(manager): State<Arc<Manager>>,
    Path(digest): Path<Digest>,
) -> Result<Response, Error> {
    manager.store.bundle(&digest).await?.ok_or_else(|| no_bundle(&digest))?;
    let archive = Body::from_stream(manager.registry.archive(&digest));
    Ok(([(header::CONTENT_TYPE, TAR)], archive).into_response())
}

async fn read_view(manager: &Manager, digest: &Digest) -> Result<BundleView, Error> {
    let bundle = manager.store.bundle(digest).await?;
    bundle.map(BundleView::from).ok_or_else(|| no_bundle(digest))
}

fn no_bundle(digest: &Digest) -> Error {
    Error::NotFound(format!("there is no bundle {digest}"))
}
