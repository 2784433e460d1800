//! The REST API, described by its own OpenAPI document, and the pages beside it.

mod bundles;
mod captures;
mod devices;
mod drift;
mod fleet;
mod labels;
mod mutes;
mod repository;
mod sites;
mod telemetry;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header, request::Parts, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Error, ErrorKind, dashboard, error::one_line, manager::Manager};

/// Nothing is loaded from elsewhere, and no inline script runs.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Rows of a page that does not say how many.
const PAGE_ROWS: u32 = 100;

#[derive(OpenApi)]
#[openapi(
    info(title = "Selvedge fleet manager", description = "Devices, bundles, and what they do."),
    tags(
        (name = "devices", description = "The devices of the fleet, and what they should run."),
        (name = "bundles", description = "The bundle registry."),
        (name = "repository", description = "The TUF repository: which bundles devices may run."),
        (name = "telemetry", description = "What devices sent."),
        (name = "drift", description = "Whether what bundles see and say is as their references."),
        (name = "labels", description = "What was right, told later, and how right answers were."),
        (name = "captures", description = "Samples that devices kept, asked for and exported."),
        (name = "fleet", description = "The fleet as a whole.")
    )
)]
struct Document;

/// All that the manager serves over HTTP.
pub fn router(manager: Arc<Manager>) -> Router {
    let json_bytes_max = manager.limits.request_bytes_max;
    let (api, document) = described_routes();
    let document = document.to_pretty_json().expect("an OpenAPI document is JSON");
    api.with_state(manager.clone())
        .route(
            "/api/v1/openapi.json",
            get(|| async { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .merge(dashboard::router(manager))
        .fallback(|| async { Error::NotFound("there is nothing at this address".into()) })
        .method_not_allowed_fallback(|| async {
            let body = Json(ErrorBody { error: "this method is not possible here".into() });
            (StatusCode::METHOD_NOT_ALLOWED, body)
        })
        .layer(DefaultBodyLimit::max(json_bytes_max))
        .layer(middleware::from_fn(refuse_foreign_hosts))
        .layer(fixed_header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(fixed_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed_header(header::REFERRER_POLICY, "no-referrer"))
}

fn described_routes() -> (Router<Arc<Manager>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(devices::add_device, devices::list_devices))
        .routes(routes!(devices::read_device, devices::delete_device))
        .routes(routes!(devices::set_desired, devices::read_desired))
        .routes(routes!(devices::set_slot))
        .routes(routes!(bundles::add_bundle, bundles::list_bundles))
        .routes(routes!(bundles::read_bundle))
        .routes(routes!(bundles::read_archive))
        .routes(routes!(bundles::add_patch))
        .routes(routes!(repository::read_repository, repository::change_repository))
        .routes(routes!(repository::read_file))
        .routes(routes!(telemetry::list_results))
        .routes(routes!(telemetry::list_profiles))
        .routes(routes!(telemetry::list_events))
        .routes(routes!(telemetry::list_nodes))
        .routes(routes!(telemetry::list_streams))
        .routes(routes!(drift::read_drift))
        .routes(routes!(drift::export_drift))
        .routes(routes!(labels::add_labels))
        .routes(routes!(labels::read_quality))
        .routes(routes!(captures::ask_captures, captures::list_capture_requests))
        .routes(routes!(captures::delete_captures))
        .routes(routes!(captures::list_captures))
        .routes(routes!(captures::export_captures))
        .routes(routes!(sites::propose_site, sites::read_site, sites::withdraw_site))
        .routes(routes!(sites::withdraw_proposal))
        .routes(routes!(sites::approve_site))
        .routes(routes!(mutes::add_mute, mutes::list_mutes))
        .routes(routes!(mutes::remove_mute))
        .routes(routes!(fleet::read_fleet))
        .routes(routes!(fleet::stream_changes))
        .split_for_parts()
}

fn fixed_header(
    name: header::HeaderName,
    value: &'static str,
) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// Without access control, what protects the manager is that only this machine reaches it. A page from
/// elsewhere must not reach it through the browser by a name that it made point here.
async fn refuse_foreign_hosts(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_this_machine) {
        next.run(request).await
    } else {
        let error = "this manager answers on this machine alone: use 127.0.0.1 or localhost";
        (StatusCode::FORBIDDEN, Json(ErrorBody { error: error.into() })).into_response()
    }
}

fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Does all of `work`, also when who asked for it goes away: what is in the database is then also believed
/// in memory and told.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("a request does not panic")
}

/// What every error answer carries.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, in one sentence.
    pub error: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self.kind() {
            ErrorKind::Peer => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Operator | ErrorKind::Environment => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let error = one_line(&self);
        if status.is_server_error() {
            tracing::error!("a request failed: {error}");
        }
        (status, Json(ErrorBody { error })).into_response()
    }
}

/// A JSON body whose faults are answered like any other.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_fault(&rejection)),
        }
    }
}

fn json_fault(rejection: &JsonRejection) -> Response {
    (rejection.status(), Json(ErrorBody { error: rejection.body_text() })).into_response()
}

/// Parts of the path, with the same kind of answer to faults.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                let body = Json(ErrorBody { error: rejection.body_text() });
                Err((rejection.status(), body).into_response())
            }
        }
    }
}

/// The query, with the same kind of answer to faults.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let body = Json(ErrorBody { error: rejection.body_text() });
                Err((rejection.status(), body).into_response())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:1", "127.9.9.9", "[::1]:8080"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "example.org", "127.0.0.1.example.org", "192.168.0.1:8080", "[::2]"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn the_document_describes_every_operation_with_its_errors() {
        let (_, document) = described_routes();
        let document = serde_json::to_value(&document).expect("an OpenAPI document is JSON");
        let paths = document["paths"].as_object().expect("the document has paths");
        assert_eq!(paths.len(), 30, "{:?}", paths.keys());
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("a path is an object") {
                assert!(operation["tags"].is_array(), "{method} {path} has a tag");
                let responses = operation["responses"].as_object().expect("it has answers");
                assert!(responses.contains_key("500"), "{method} {path} may fail");
            }
        }
    }
}
