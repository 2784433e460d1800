//! Devices: registering, reading, deleting, and saying what they should run.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use selvedge_wire::{DeviceId, Digest, FleetName, SlotName};

use super::{Body, ErrorBody, Path, to_the_end};
use crate::{
    Error,
    manager::Manager,
    store::{Assignment, Change, DesiredSet, EnrolledKey},
    view::{DesiredView, DeviceView, FleetView},
};

/// A device to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// Its name: 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit.
    #[schema(value_type = String, example = "line-1")]
    id: DeviceId,
    /// What operators call it.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The Ed25519 key that it signs what it sends with: 64 hexadecimal digits. No two devices have the same.
    #[schema(value_type = String)]
    public_key: EnrolledKey,
}

/// What a new device needs. The password is shown here and nowhere else.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedDevice {
    /// Its name.
    #[schema(value_type = String)]
    id: DeviceId,
    /// Its fleet.
    #[schema(value_type = String)]
    fleet: FleetName,
    /// Where it connects.
    broker_url: String,
    /// Its account at the broker.
    user: String,
    /// The account's password; none where the broker knows devices by their certificates.
    password: Option<String>,
    /// The authority that vouches for the broker, in PEM, where there is one.
    ca: Option<String>,
    /// The root metadata that it trusts from now on.
    #[schema(value_type = Object)]
    root: serde_json::Value,
}

/// What a device should run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDesired {
    /// The bundle of each slot. A slot that is not named is emptied.
    #[schema(value_type = BTreeMap<String, String>, example = json!({"main": "sha256:…"}))]
    slots: BTreeMap<SlotName, Digest>,
}

/// What one slot should run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSlot {
    /// The bundle, which a target of the repository must name.
    #[schema(value_type = String, example = "sha256:…")]
    bundle: Digest,
    /// Samples that it shall be given in the shadow, beside what answers, before it answers; 0 for none.
    #[serde(default)]
    shadow_samples: u64,
    /// Whether it may be of an older version than what answers.
    #[serde(default)]
    allow_downgrade: bool,
}

/// A desired state that was signed and kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct SetDesired {
    /// Its generation.
    generation: u64,
    /// The id of the newest result at that moment: what answers to this desired state has a higher one.
    results_before: u64,
}

/// Registers a device.
#[utoipa::path(
    post, path = "/api/v1/devices", tag = "devices", request_body = NewDevice,
    responses(
        (status = 201, description = "The device is registered", body = AddedDevice),
        (status = "4XX", description = "The request is refused", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn add_device(
    State(manager): State<Arc<Manager>>,
    Body(new): Body<NewDevice>,
) -> Result<(StatusCode, Json<AddedDevice>), Error> {
    let (keeper, id) = (manager.clone(), new.id.clone());
    let added = async move { keeper.add_device(&id, &new.labels, &new.public_key).await };
    let credentials = to_the_end(added).await?;
    let office = manager.director.office().await;
    let added = AddedDevice {
        user: new.id.to_string(),
        id: new.id,
        fleet: manager.director.fleet().clone(),
        broker_url: manager.access.broker_url.clone(),
        password: credentials.password,
        ca: manager.access.ca.clone(),
        root: serde_json::from_slice(office.root_document())
            .expect("the root metadata was read as JSON before"),
    };
    Ok((StatusCode::CREATED, Json(added)))
}

/// All devices, by name.
#[utoipa::path(
    get, path = "/api/v1/devices", tag = "devices",
    responses(
        (status = 200, description = "The devices", body = Vec<DeviceView>),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn list_devices(
    State(manager): State<Arc<Manager>>,
) -> Result<Json<Vec<DeviceView>>, Error> {
    Ok(Json(FleetView::read(&manager.store, manager.now_ms()).await?.devices))
}

/// One device.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The device", body = DeviceView),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_device(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<DeviceView>, Error> {
    DeviceView::read(&manager.store, &id, manager.now_ms()).await.map(Json)
}

/// Deletes a device and all that it sent.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 204, description = "The device is gone"),
        (status = "4XX", description = "There is no such device", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn delete_device(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<StatusCode, Error> {
    let deleted = async move { manager.delete_device(&id).await };
    to_the_end(deleted).await.map(|()| StatusCode::NO_CONTENT)
}

/// Says what a device should run from now on.
#[utoipa::path(
    put, path = "/api/v1/devices/{id}/desired", tag = "devices", request_body = NewDesired,
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The desired state is signed and kept", body = SetDesired),
        (status = "4XX", description = "There is no such device or bundle, or it is refused", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn set_desired(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
    Body(new): Body<NewDesired>,
) -> Result<Json<SetDesired>, Error> {
    let plain = |bundle| Assignment { bundle, shadow_samples: 0, allow_downgrade: false };
    let slots = new.slots.into_iter().map(|(slot, bundle)| (slot, plain(bundle))).collect();
    let set = async move { manager.set_desired(&id, &Change::All(slots)).await };
    Ok(Json(SetDesired::from(to_the_end(set).await?)))
}

/// Says what one slot of a device should run from now on; its other slots stay as they are.
#[utoipa::path(
    put, path = "/api/v1/devices/{id}/desired/{slot}", tag = "devices", request_body = NewSlot,
    params(
        ("id" = String, Path, description = "The device's name"),
        ("slot" = String, Path, description = "The slot's name")
    ),
    responses(
        (status = 200, description = "The desired state is signed and kept", body = SetDesired),
        (status = "4XX", description = "There is no such device or bundle, or it is refused", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn set_slot(
    State(manager): State<Arc<Manager>>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
    Body(new): Body<NewSlot>,
) -> Result<Json<SetDesired>, Error> {
    let NewSlot { bundle, shadow_samples, allow_downgrade } = new;
    let change = Change::Slot(slot, Assignment { bundle, shadow_samples, allow_downgrade });
    let set = async move { manager.set_desired(&id, &change).await };
    Ok(Json(SetDesired::from(to_the_end(set).await?)))
}

/// What a device should run.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/desired", tag = "devices",
    params(("id" = String, Path, description = "The device's name")),
    responses(
        (status = 200, description = "The desired state", body = DesiredView),
        (status = "4XX", description = "Nobody has said what it should run", body = ErrorBody),
        (status = 500, description = "The manager failed", body = ErrorBody)
    )
)]
pub async fn read_desired(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<DesiredView>, Error> {
    let desired = manager.store.desired(&id).await?;
    let unsaid = || Error::NotFound(format!("nobody has said what {id} should run"));
    desired.map(|row| Json(DesiredView::from(row))).ok_or_else(unsaid)
}

impl From<DesiredSet> for SetDesired {
    fn from(set: DesiredSet) -> Self {
        Self { generation: set.generation, results_before: set.results_before }
    }
}
