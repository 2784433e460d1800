//! The bundle registry.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};

use selvedge_wire::Digest;

use super::{ErrorBody, Path};
use crate::{Error, manager::Manager, view::BundleView};

const TAR: &str = "application/x-tar";

/// Registers a bundle: the tar of its OCI image layout with its signed statement.
#[utoipa::path(
    post, path = "/api/v1/bundles", tag = "bundles",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 201, description = "The bundle was verified and is registered", body = BundleView),
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
    let root = manager.director.root();
    let upload = body.into_data_stream();
    let bundle = manager.registry.take(upload, root, manager.now_ms()).await?;
    manager.add_bundle(&bundle).await?;
    Ok((StatusCode::CREATED, Json(BundleView::from(bundle))))
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
    let bundle = manager.store.bundle(&digest).await?;
    let missing = || Error::NotFound(format!("there is no bundle {digest}"));
    bundle.map(|row| Json(BundleView::from(row))).ok_or_else(missing)
}
