//! What is usual at a site: a period is declared, what was counted in it is looked at, and approved.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{Body, ErrorBody, Path, devices::SetDesired, to_the_end};
use crate::{Error, commissioning::Period, drift::SiteView, manager::Manager, store::Change};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// A period over which a site baseline is recorded: from one moment to another, or so many hours from now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    /// Windows that close from here on are taken, in Unix milliseconds by the device's clock.
    from_ms: Option<u64>,
    /// Windows that close up to here are taken. It may lie in the future.
    to_ms: Option<u64>,
    /// In place of both: from now on, for so many hours.
    hours: Option<u32>,
    /// Who declares it.
    by: String,
}

impl NewSite {
    fn period(&self, now_ms: u64) -> Result<Period, Error> {
        match (self.from_ms, self.to_ms, self.hours) {
            (Some(from_ms), Some(to_ms), None) => Ok(Period { from_ms, to_ms }),
            (None, None, Some(hours)) => {
                let to_ms = now_ms.saturating_add(u64::from(hours) * HOUR_MS);
                Ok(Period { from_ms: now_ms, to_ms })
            }
            _ => {
                let why = "a period has from_ms and to_ms, or hours from now on alone";
                Err(Error::Refused(why.into()))
            }
        }
    }
}

/// The approval of what was looked at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The digest of the site baseline that was looked at.
    #[schema(value_type = String, example = "sha256:…")]
    digest: Digest,
    /// Who approves it.
    by: String,
}

/// Declares the period over which a slot's site baseline is recorded; it takes the place of one that was declared
/// before. What is approved stays.
#[utoipa::path(
    post, path = "/api/v1/devices/{id}/slots/{slot}/site", tag = "drift", request_body = NewSite,
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 201, description = "The period is declared", body = SiteView),
        (status = "4XX", description = "There is no such device, the slot has no bundle with a baseline, or \
         the period is refused", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn propose_site(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
    Body(new): Body<NewSite>,
) -> Result<(StatusCode, Json<SiteView>), Error> {
    let period = new.period(manager.now_ms())?;
    let proposed = async move { manager.propose_site(&id, &slot, period, &new.by).await };
    Ok((StatusCode::CREATED, Json(to_the_end(proposed).await?)))
}

/// What is recorded and what is approved for a slot: the lab against the site stream by stream, what differs, and
/// when the lab's detectors were in alarm.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/slots/{slot}/site", tag = "drift",
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 200, description = "The site baselines of the slot", body = SiteView),
        (status = "4XX", description = "There is no such device, and nothing is proposed or approved", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_site(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
) -> Result<Json<SiteView>, Error> {
    manager.read_site(&id, &slot).await.map(Json)
}

/// Withdraws the site baseline that was approved: the device goes on with the bundle's own reference.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}/slots/{slot}/site", tag = "drift",
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 200, description = "The desired state is signed and kept", body = SetDesired),
        (status = "4XX", description = "There is no such device, or nothing is approved", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn withdraw_site(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
) -> Result<Json<SetDesired>, Error> {
    let set = async move { manager.set_desired(&id, &Change::WithdrawSite(slot)).await };
    Ok(Json(SetDesired::from(to_the_end(set).await?)))
}

/// Takes a declared period back. What is approved stays.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}/slots/{slot}/site/proposal", tag = "drift",
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 204, description = "No period is declared any more"),
        (status = "4XX", description = "None was declared", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn withdraw_proposal(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
) -> Result<StatusCode, Error> {
    manager.withdraw_site_proposal(&id, &slot).await.map(|()| StatusCode::NO_CONTENT)
}

/// Approves what was recorded, by the digest that was looked at. The device's desired state names it from now on.
#[utoipa::path(
    post, path = "/api/v1/devices/{id}/slots/{slot}/site/approve", tag = "drift", request_body = Approval,
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 200, description = "The desired state is signed and kept", body = SetDesired),
        (status = "4XX", description = "Nothing is proposed, the period is not over, has too few windows, or \
         gives another digest by now", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn approve_site(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
    Body(approval): Body<Approval>,
) -> Result<Json<SetDesired>, Error> {
    let Approval { digest, by } = approval;
    let set = async move { manager.approve_site(&id, &slot, digest, &by).await };
    Ok(Json(SetDesired::from(to_the_end(set).await?)))
}
