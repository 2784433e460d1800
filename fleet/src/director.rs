//! Signs what devices should run, and what the fleet tells them, with the director's key.

use std::sync::Arc;

use tokio::sync::{RwLock, RwLockWriteGuard};

use selvedge_trust::{DesiredSlot, DesiredState, MessageSigner, PublicKey, SigningKey, UnixMillis};
use selvedge_wire::{DeviceId, FleetName, Signed};

use crate::{
    Error,
    store::{Change, DesiredRow, DesiredSet, SignedDesired, SlotRow, Slots, Store},
};

/// How long a desired state is valid. A device that hears nothing for longer keeps its bundle, but
/// takes no desired state that it meets only then.
const VALID_DAYS: u64 = 90;

/// A desired state with fewer days left than this is signed again.
const RENEW_DAYS: u64 = 60;

const DAY_S: u64 = 24 * 60 * 60;
const DAY_MS: u64 = 1000 * DAY_S;

/// Whom devices trust, and the key to speak to them, for as long as one root holds.
pub struct Office {
    root_document: Vec<u8>,
    key: Arc<SigningKey>,
}

/// Signs for the fleet.
#[derive(Clone)]
pub struct Director {
    office: Arc<RwLock<Arc<Office>>>,
    fleet: FleetName,
}

impl Office {
    /// An office whose `key` the root names.
    pub fn new(root_document: Vec<u8>, key: Arc<SigningKey>) -> Self {
        Self { root_document, key }
    }

    /// Whom devices trust: the root metadata, as they get it.
    pub fn root_document(&self) -> &[u8] {
        &self.root_document
    }

    /// The key that verifies what is signed here.
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// Signs `body` as a message on `topic`, the topic's full name.
    pub fn sign_message(&self, topic: &str, body: Vec<u8>) -> Signed {
        self.key.sign_message(topic, body)
    }

    /// The document that says what `device` should run.
    pub fn sign(
        &self,
        fleet: &FleetName,
        device: &DeviceId,
        slots: &Slots,
        generation: u64,
        now: UnixMillis,
    ) -> SignedDesired {
        // Documents carry whole seconds.
        let expires = UnixMillis(now.plus_seconds(VALID_DAYS * DAY_S).0 / 1000 * 1000);
        let slot = |slot: &SlotRow| DesiredSlot {
            target: slot.target.clone(),
            bundle: slot.bundle,
            shadow_samples: slot.shadow_samples,
            allow_downgrade: slot.allow_downgrade,
            site: slot.site,
        };
        let state = DesiredState {
            device: device.clone(),
            fleet: fleet.clone(),
            generation,
            issued: now,
            expires,
            slots: slots.iter().map(|(name, held)| (name.clone(), slot(held))).collect(),
        };
        SignedDesired { document: state.sign(&self.key), expires_ms: expires.0 }
    }
}

impl Director {
    /// The director of `fleet`.
    pub fn new(office: Office, fleet: FleetName) -> Self {
        Self { office: Arc::new(RwLock::new(Arc::new(office))), fleet }
    }

    /// The office as it is.
    pub async fn office(&self) -> Arc<Office> {
        self.office.read().await.clone()
    }

    /// Keeps everybody from signing until the office was changed, or not.
    pub async fn hold(&self) -> RwLockWriteGuard<'_, Arc<Office>> {
        self.office.write().await
    }

    /// The fleet whose devices are directed.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Signs and keeps what `change` makes of the desired state of `device`.
    ///
    /// # Errors
    /// What [`Store::set_desired`] says.
    pub async fn direct(
        &self,
        store: &Store,
        device: &DeviceId,
        change: &Change,
        now_ms: u64,
    ) -> Result<DesiredSet, Error> {
        // Held until the document is in the database: a new key signs again what is there then.
        let office = self.office.read().await;
        let sign = |generation, slots: &Slots| {
            office.sign(&self.fleet, device, slots, generation, UnixMillis(now_ms))
        };
        store.set_desired(device, change, now_ms, sign).await
    }

    /// Signs again what is about to expire; returns the devices concerned.
    pub async fn renew(&self, store: &Store, now_ms: u64) -> Result<Vec<DeviceId>, Error> {
        let mut renewed = Vec::new();
        for desired in store.all_desired().await? {
            if is_due(&desired, now_ms) {
                self.direct(store, &desired.device, &Change::Nothing, now_ms).await?;
                renewed.push(desired.device);
            }
        }
        Ok(renewed)
    }
}

fn is_due(desired: &DesiredRow, now_ms: u64) -> bool {
    desired.expires_ms < now_ms + RENEW_DAYS * DAY_MS
}

#[cfg(test)]
mod tests {
    use selvedge_trust::TrustedRoot;

    use super::*;
    use crate::testing::{Keys, NOW_MS, name, open_store};

    #[tokio::test]
    async fn a_device_believes_what_the_director_signs_and_only_its_own() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&["a", "b"]).await;
        let (_, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let device: DeviceId = name("a");
        let set = director
            .direct(&store, &device, &Change::Nothing, NOW_MS)
            .await
            .expect("the device is registered");
        let row = store.desired(&device).await.expect("it can be read").expect("it was set");
        let root = TrustedRoot::pin(director.office().await.root_document()).expect("it is sound");
        let verify = |device: &DeviceId, floor| {
            let fleet = director.fleet();
            root.verify_desired(&row.document, device, fleet, floor, UnixMillis(NOW_MS))
        };
        let believed = verify(&device, set.generation).expect("it is believed");
        assert_eq!((believed.generation, believed.issued), (1, UnixMillis(NOW_MS)));
        assert!(verify(&name("b"), 0).is_err(), "meant for another device");
        assert!(verify(&device, 2).is_err(), "older than what the device has");
    }

    #[tokio::test]
    async fn what_is_about_to_expire_is_signed_again() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&["a"]).await;
        let (_, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        director.direct(&store, &name("a"), &Change::Nothing, NOW_MS).await.expect("it is signed");
        let later = |days| NOW_MS + days * DAY_MS;
        let renewed = director.renew(&store, later(VALID_DAYS - RENEW_DAYS - 1)).await;
        assert_eq!(renewed.expect("it can be read"), []);
        let renewed = director.renew(&store, later(VALID_DAYS - RENEW_DAYS + 1)).await;
        assert_eq!(renewed.expect("it can be signed"), [name("a")]);
        let row = store.desired(&name("a")).await.expect("it can be read").expect("it was set");
        assert_eq!(row.generation, 2);
    }
}
