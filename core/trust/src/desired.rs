//! The desired state of one device.

use std::collections::BTreeMap;

use selvedge_wire::{DeviceId, Digest, FleetName, SlotName};
use serde::{Deserialize, Serialize};

use crate::{
    DocumentKind, Error, Role, TrustedRoot, UnixMillis,
    envelope::{Envelope, check_expiry},
};

/// The longest desired state, in bytes.
pub const DESIRED_BYTES_MAX: usize = 64 * 1024;

/// The most slots in one desired state.
pub const SLOTS_MAX: usize = 64;

/// Which bundle one device shall run in which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// The device that is meant.
    pub device: DeviceId,
    /// The device's fleet.
    pub fleet: FleetName,
    /// Counts the desired states of the device, from 1. What has a lower one is out of date.
    pub generation: u64,
    /// When the document stops being believed.
    pub expires: UnixMillis,
    /// What each slot shall hold. A slot that is missing shall be empty.
    pub slots: BTreeMap<SlotName, DesiredSlot>,
}

/// What one slot shall hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSlot {
    /// The bundle that shall answer.
    pub bundle: Digest,
}

impl DesiredState {
    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let document = DesiredDocument {
            kind: DocumentKind::Desired.as_str().into(),
            spec_version: crate::SPEC_VERSION.into(),
            device: self.device.clone(),
            fleet: self.fleet.clone(),
            generation: self.generation,
            expires: self.expires,
            slots: self.slots.clone(),
        };
        serde_json::to_value(document).expect("a desired state is plain JSON")
    }
}

impl TrustedRoot {
    /// Verifies the desired state of `device` in `fleet`.
    ///
    /// The generation `generation_floor` itself is still believed, so that a document that was
    /// applied before can be read again after a restart; what is below it is refused.
    ///
    /// # Errors
    /// [`Error`] if the document is not whole, not signed by the role director, expired, older than
    /// the floor, or meant for another device or fleet.
    pub fn verify_desired(
        &self,
        bytes: &[u8],
        device: &DeviceId,
        fleet: &FleetName,
        generation_floor: u64,
        now: UnixMillis,
    ) -> Result<DesiredState, Error> {
        self.check_own_expiry(now)?;
        let envelope = Envelope::parse(DocumentKind::Desired, bytes, DESIRED_BYTES_MAX)?;
        let document: DesiredDocument = envelope.verify(self.root(), Role::Director)?.read()?;
        let desired = checked(document)?;
        if desired.fleet != *fleet {
            return Err(Error::ForeignFleet { named: desired.fleet, fleet: fleet.clone() });
        }
        if desired.device != *device {
            return Err(Error::ForeignDevice { named: desired.device, device: device.clone() });
        }
        if desired.generation < generation_floor {
            let generation = desired.generation;
            return Err(Error::OlderGeneration { generation, floor: generation_floor });
        }
        check_expiry(DocumentKind::Desired, desired.expires, now)?;
        Ok(desired)
    }
}

fn checked(document: DesiredDocument) -> Result<DesiredState, Error> {
    let malformed = |reason| Err(Error::Malformed { document: DocumentKind::Desired, reason });
    if document.generation == 0 {
        return malformed("its generation is 0, but generations begin at 1".into());
    }
    if document.slots.len() > SLOTS_MAX {
        return malformed(format!("it has more than {SLOTS_MAX} slots"));
    }
    let DesiredDocument { device, fleet, generation, expires, slots, .. } = document;
    Ok(DesiredState { device, fleet, generation, expires, slots })
}

#[derive(Serialize, Deserialize)]
struct DesiredDocument {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    device: DeviceId,
    fleet: FleetName,
    generation: u64,
    expires: UnixMillis,
    slots: BTreeMap<SlotName, DesiredSlot>,
}
