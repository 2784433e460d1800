//! The desired state of one device.

use std::collections::BTreeMap;

use selvedge_wire::{DeviceId, Digest, FleetName, SlotName};

use crate::{
    DocumentKind, Error, Role, TrustedRoot, UnixMillis,
    envelope::{Envelope, check_expiry},
    fields::{Fields, Read},
    targets::split_path,
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
    /// When the director signed the document: a time that has passed, as long as the director's key is trusted.
    pub issued: UnixMillis,
    /// When the document stops being believed.
    pub expires: UnixMillis,
    /// What each slot shall hold. A slot that is missing shall be empty.
    pub slots: BTreeMap<SlotName, DesiredSlot>,
}

/// What one slot shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSlot {
    /// The path of the bundle's target in the repository: `name/version`.
    pub target: String,
    /// The bundle that shall answer.
    pub bundle: Digest,
    /// How many samples the bundle shall be given in the shadow before it answers; 0 for no shadow.
    pub shadow_samples: u64,
    /// Whether the bundle may be of an older version than the one that answers.
    pub allow_downgrade: bool,
    /// The site baseline that the bundle's windows shall be compared with beside its own; none for no other.
    pub site: Option<Digest>,
}

impl DesiredSlot {
    fn read(fields: Fields<'_>) -> Read<Self> {
        let target = fields.text("target")?;
        split_path(target)?;
        Ok(Self {
            target: target.into(),
            bundle: fields.parsed("bundle")?,
            shadow_samples: fields.if_there("shadow_samples", Fields::number)?.unwrap_or(0),
            allow_downgrade: fields.if_there("allow_downgrade", Fields::flag)?.unwrap_or(false),
            site: fields.if_there("site", Fields::parsed)?,
        })
    }

    #[cfg(any(test, feature = "sign"))]
    fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "target": self.target,
            "bundle": self.bundle,
            "shadow_samples": self.shadow_samples,
            "allow_downgrade": self.allow_downgrade,
        });
        if let Some(site) = self.site {
            value["site"] = serde_json::json!(site);
        }
        value
    }
}

impl DesiredState {
    fn read(fields: Fields<'_>) -> Read<Self> {
        let generation = fields.number("generation")?;
        if generation == 0 {
            return Err("its generation is 0, but generations begin at 1".into());
        }
        let listed = fields.fields("slots")?;
        if listed.len() > SLOTS_MAX {
            return Err(format!("it has more than {SLOTS_MAX} slots"));
        }
        let mut slots = BTreeMap::new();
        for (name, slot) in listed.iter() {
            let name: SlotName =
                name.parse().map_err(|error: selvedge_wire::NameError| error.to_string())?;
            slots.insert(name, DesiredSlot::read(Fields::of(slot)?)?);
        }
        let (issued, expires) = (fields.time("issued")?, fields.expires()?);
        if issued >= expires {
            return Err("it was issued when it had expired already".into());
        }
        Ok(Self {
            device: fields.parsed("device")?,
            fleet: fields.parsed("fleet")?,
            generation,
            issued,
            expires,
            slots,
        })
    }

    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let slots: serde_json::Map<_, _> =
            self.slots.iter().map(|(name, slot)| (name.to_string(), slot.to_value())).collect();
        serde_json::json!({
            "_type": DocumentKind::Desired.as_str(),
            "spec_version": crate::SPEC_VERSION,
            "device": self.device,
            "fleet": self.fleet,
            "generation": self.generation,
            "issued": self.issued,
            "expires": self.expires,
            "slots": slots,
        })
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
        let desired = envelope.verify(self.root(), Role::Director)?.read(DesiredState::read)?;
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
