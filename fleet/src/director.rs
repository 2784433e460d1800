//! Signs what devices should run, with the director's key.

use std::{fs, path::Path, sync::Arc};

use selvedge_trust::{DesiredSlot, DesiredState, Role, SigningKey, TrustedRoot, UnixMillis};
use selvedge_wire::{DeviceId, Digest, FleetName};

use crate::{
    Error,
    store::{DesiredRow, DesiredSet, Slots, Store},
};

/// How long a desired state is valid. A device that hears nothing for longer keeps its bundle, but
/// takes no desired state that it meets only then.
const VALID_DAYS: u64 = 90;

/// A desired state with fewer days left than this is signed again.
const RENEW_DAYS: u64 = 60;

const DAY_S: u64 = 24 * 60 * 60;
const DAY_MS: u64 = 1000 * DAY_S;

/// The keys folder, as far as the manager needs it: whom devices trust, and the key to speak to them.
#[derive(Clone)]
pub struct Director {
    root: Arc<TrustedRoot>,
    root_document: Arc<Vec<u8>>,
    key: Arc<SigningKey>,
    fleet: FleetName,
}

impl Director {
    /// Reads `root.json` and `director.pk8` from `keys`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Trust`] for a file that is missing or not what it should be;
    /// [`Error::Config`] if the root does not give the director's role to this key alone.
    pub fn open(keys: &Path, fleet: FleetName, now_ms: u64) -> Result<Self, Error> {
        let root_path = keys.join("root.json");
        let key_path = keys.join("director.pk8");
        let root_document = fs::read(&root_path).map_err(Error::io("read", &root_path))?;
        let pkcs8 = fs::read(&key_path).map_err(Error::io("read", &key_path))?;
        let trust = |path: &Path| {
            let what = format!("cannot use {}", path.display());
            move |source| Error::Trust { what, source }
        };
        let root = TrustedRoot::pin(&root_document).map_err(trust(&root_path))?;
        let key = SigningKey::from_pkcs8(&pkcs8).map_err(trust(&key_path))?;
        if root.root().expires() <= UnixMillis(now_ms) {
            let path = root_path.display();
            return Err(Error::Config(format!("{path} has expired: devices do not believe it")));
        }
        let holds_role =
            root.root().keys(Role::Director).any(|(id, _)| *id == key.public_key().id());
        if !holds_role || root.root().threshold(Role::Director) != 1 {
            return Err(Error::Config(format!(
                "{} does not let {} alone sign desired states",
                root_path.display(),
                key_path.display()
            )));
        }
        Ok(Self {
            root: Arc::new(root),
            root_document: Arc::new(root_document),
            key: Arc::new(key),
            fleet,
        })
    }

    /// Whom devices trust.
    pub fn root(&self) -> Arc<TrustedRoot> {
        self.root.clone()
    }

    /// The root metadata, as devices get it.
    pub fn root_document(&self) -> &[u8] {
        &self.root_document
    }

    /// The fleet whose devices are directed.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Signs and keeps what `change` makes of the desired state of `device`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device or bundle; [`Error::Refused`] for too many slots.
    pub async fn direct(
        &self,
        store: &Store,
        device: &DeviceId,
        change: impl FnOnce(&mut Slots),
        now_ms: u64,
    ) -> Result<DesiredSet, Error> {
        let sign = |generation, slots: &Slots| {
            Ok(self.sign(device, slots, generation, UnixMillis(now_ms)))
        };
        store.set_desired(device, change, now_ms, sign).await
    }

    /// Signs again what is about to expire; returns the devices concerned.
    pub async fn renew(&self, store: &Store, now_ms: u64) -> Result<Vec<DeviceId>, Error> {
        let mut renewed = Vec::new();
        for desired in store.all_desired().await? {
            if is_due(&desired, now_ms) {
                self.direct(store, &desired.device, |_| {}, now_ms).await?;
                renewed.push(desired.device);
            }
        }
        Ok(renewed)
    }

    /// The document, and when it expires in Unix milliseconds.
    fn sign(
        &self,
        device: &DeviceId,
        slots: &Slots,
        generation: u64,
        now: UnixMillis,
    ) -> (Vec<u8>, u64) {
        // Documents carry whole seconds.
        let expires = UnixMillis(now.plus_seconds(VALID_DAYS * DAY_S).0 / 1000 * 1000);
        let slot = |bundle: &Digest| DesiredSlot { bundle: *bundle };
        let state = DesiredState {
            device: device.clone(),
            fleet: self.fleet.clone(),
            generation,
            expires,
            slots: slots.iter().map(|(name, bundle)| (name.clone(), slot(bundle))).collect(),
        };
        (state.sign(&self.key), expires.0)
    }
}

fn is_due(desired: &DesiredRow, now_ms: u64) -> bool {
    desired.expires_ms < now_ms + RENEW_DAYS * DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Keys, NOW_MS, name, open_store};

    #[tokio::test]
    async fn a_device_believes_what_the_director_signs_and_only_its_own() {
        let keys = Keys::new();
        let director = Director::open(keys.path(), "demo".parse().expect("a name"), NOW_MS)
            .expect("the keys are good");
        let (_folder, store) = open_store(&["a", "b"]).await;
        let device: DeviceId = name("a");
        let set = director
            .direct(&store, &device, |_| {}, NOW_MS)
            .await
            .expect("the device is registered");
        let row = store.desired(&device).await.expect("it can be read").expect("it was set");
        let verify = |device: &DeviceId, floor| {
            let fleet = director.fleet();
            director.root().verify_desired(&row.document, device, fleet, floor, UnixMillis(NOW_MS))
        };
        assert_eq!(verify(&device, set.generation).expect("it is believed").generation, 1);
        assert!(verify(&name("b"), 0).is_err(), "meant for another device");
        assert!(verify(&device, 2).is_err(), "older than what the device has");
    }

    #[tokio::test]
    async fn what_is_about_to_expire_is_signed_again() {
        let keys = Keys::new();
        let director = Director::open(keys.path(), "demo".parse().expect("a name"), NOW_MS)
            .expect("the keys are good");
        let (_folder, store) = open_store(&["a"]).await;
        director.direct(&store, &name("a"), |_| {}, NOW_MS).await.expect("it is signed");
        let later = |days| NOW_MS + days * DAY_MS;
        let renewed = director.renew(&store, later(VALID_DAYS - RENEW_DAYS - 1)).await;
        assert_eq!(renewed.expect("it can be read"), []);
        let renewed = director.renew(&store, later(VALID_DAYS - RENEW_DAYS + 1)).await;
        assert_eq!(renewed.expect("it can be signed"), [name("a")]);
        let row = store.desired(&name("a")).await.expect("it can be read").expect("it was set");
        assert_eq!(row.generation, 2);
    }

    #[test]
    fn keys_that_cannot_direct_are_refused_by_name() {
        let keys = Keys::new();
        let open = || {
            Director::open(keys.path(), "demo".parse().expect("a name"), NOW_MS)
                .err()
                .map(|error| crate::one_line(&error))
                .unwrap_or_default()
        };
        fs::copy(keys.path().join("targets.pk8"), keys.path().join("director.pk8"))
            .expect("the file can be copied");
        assert!(open().contains("alone sign desired states"), "{}", open());
        fs::remove_file(keys.path().join("director.pk8")).expect("the file is there");
        assert!(open().contains("director.pk8"), "{}", open());
    }
}
