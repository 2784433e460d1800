//! What several unit tests need: a keys folder, an open database, the hour.

use std::{collections::BTreeMap, fs, path::Path};

use tempfile::TempDir;

use selvedge_trust::{Authority, Root, SigningKey, SystemRandom, UnixMillis};
use selvedge_wire::DeviceId;

use crate::{Limits, secret::new_password, store::Store};

pub const NOW_MS: u64 = 1_800_000_000_000;

/// A folder with `root.json`, `targets.pk8` and `director.pk8`.
pub struct Keys {
    folder: TempDir,
}

impl Keys {
    pub fn new() -> Self {
        let [root, targets, director] = std::array::from_fn(|_| {
            SigningKey::generate(&SystemRandom::new()).expect("keys can be made")
        });
        let document = Root::new(
            1,
            UnixMillis(NOW_MS).plus_seconds(365 * 24 * 60 * 60),
            &Authority::one(root.public_key().clone()),
            &Authority::one(targets.public_key().clone()),
            &Authority::one(director.public_key().clone()),
        )
        .sign(&[&root]);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for (file, bytes) in [
            ("root.json", &document[..]),
            ("targets.pk8", targets.to_pkcs8()),
            ("director.pk8", director.to_pkcs8()),
        ] {
            fs::write(folder.path().join(file), bytes).expect("the file can be written");
        }
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

pub fn name(text: &str) -> DeviceId {
    text.parse().expect("the name is well formed")
}

pub async fn open_store(devices: &[&str]) -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("fleet.db");
    let store = Store::open(&path, Limits::default()).await.expect("the database opens");
    for device in devices {
        let (_, password) = new_password();
        store
            .add_device(&name(device), &BTreeMap::new(), &password, NOW_MS)
            .await
            .expect("the device is new");
    }
    (folder, store)
}
