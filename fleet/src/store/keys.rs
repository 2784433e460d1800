//! The public keys of devices, in memory: every message is verified with one.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::sqlite::SqlitePool;

use selvedge_trust::PublicKey;
use selvedge_wire::{DeviceId, Digest};

use super::Store;
use crate::Error;

/// The Ed25519 key that a device signs with, as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnrolledKey(pub [u8; 32]);

/// Who a sender is, as far as its key tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A device that signs with this key.
    Known(EnrolledKey),
    /// A device that was registered before devices had keys.
    WithoutKey,
    /// Nobody that is registered.
    Stranger,
}

/// The key of each registered device.
#[derive(Clone, Debug)]
pub(super) struct EnrolledKeys(Arc<RwLock<HashMap<DeviceId, Option<EnrolledKey>>>>);

impl Store {
    /// Who `device` is.
    pub fn sender(&self, device: &DeviceId) -> Sender {
        match self.keys.0.read().unwrap_or_else(PoisonError::into_inner).get(device) {
            Some(Some(key)) => Sender::Known(*key),
            Some(None) => Sender::WithoutKey,
            None => Sender::Stranger,
        }
    }
}

impl EnrolledKey {
    /// The key as it verifies.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::ed25519(self.0)
    }

    /// The key that a row holds.
    pub(super) fn of_row(bytes: &[u8]) -> Self {
        Self(bytes.try_into().expect("keys are stored as their 32 bytes"))
    }
}

impl EnrolledKeys {
    pub async fn read(readers: &SqlitePool) -> Result<Self, Error> {
        let rows: Vec<(String, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT id, public_key FROM devices")
                .fetch_all(readers)
                .await
                .map_err(Error::store("read the keys of devices"))?;
        let key = |(id, key): (String, Option<Vec<u8>>)| {
            let id = id.parse().expect("names are checked before they are stored");
            (id, key.as_deref().map(EnrolledKey::of_row))
        };
        Ok(Self(Arc::new(RwLock::new(rows.into_iter().map(key).collect()))))
    }

    pub fn put(&self, device: DeviceId, key: Option<EnrolledKey>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(device, key);
    }

    pub fn remove(&self, device: &DeviceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(device);
    }
}

impl FromStr for EnrolledKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Digest(bytes) = Digest::from_hex(text)
            .map_err(|_| "a device's key is 64 lower-case hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for EnrolledKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Digest(self.0).hex(), f)
    }
}

impl Serialize for EnrolledKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnrolledKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
