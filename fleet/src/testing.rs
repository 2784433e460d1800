//! What several unit tests need: a keys folder, an open database, the hour.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use selvedge_bundle::digest_of;
use selvedge_trust::{
    Authority, Blob, BundleTarget, Expiry, Root, SPEC_VERSION, SigningKey, SystemRandom,
    UnixMillis, sign_document,
};
use selvedge_wire::{DeviceId, Digest};

use crate::{
    Error, Limits,
    director::Director,
    repository::Repository,
    secret::new_password,
    store::{EnrolledKey, Store},
};

#[path = "../tests/support/reference.rs"]
pub mod reference;

pub const NOW_MS: u64 = 1_800_000_000_000;

const YEAR_S: u64 = 365 * 24 * 60 * 60;

/// A folder with `root.json`, `targets.json` and `director.pk8`, and the keys behind them.
pub struct Keys {
    folder: TempDir,
    pub root: SigningKey,
    pub targets: SigningKey,
}

impl Keys {
    pub fn new() -> Self {
        let [root, targets, director] = std::array::from_fn(|_| new_key());
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = Self { folder, root, targets };
        keys.put("root.json", keys.root_document(1, &director).as_bytes());
        keys.put("targets.json", keys.targets_document(1, &[]).as_bytes());
        keys.put("director.pk8", director.to_pkcs8());
        keys
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn put(&self, file: &str, bytes: &[u8]) {
        fs::write(self.path().join(file), bytes).expect("the file can be written");
    }

    /// Root metadata that gives the online roles to `director`.
    pub fn root_document(&self, version: u64, director: &SigningKey) -> String {
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let expires = UnixMillis(NOW_MS).plus_seconds(YEAR_S);
        let root =
            Root::new(version, expires, &one(&self.root), &one(&self.targets), &one(director));
        String::from_utf8(root.sign(&[&self.root])).expect("JSON is UTF-8")
    }

    /// Targets metadata with these targets.
    pub fn targets_document(&self, version: u64, targets: &[BundleTarget]) -> String {
        let entries: Map<String, Value> =
            targets.iter().map(|target| (target.path(), target.to_entry())).collect();
        let signed = json!({
            "_type": "targets", "spec_version": SPEC_VERSION, "version": version,
            "expires": UnixMillis(NOW_MS).plus_seconds(YEAR_S), "targets": entries,
        });
        String::from_utf8(sign_document(&signed, &[&self.targets])).expect("JSON is UTF-8")
    }

    /// The repository that the folder begins, or that the store has.
    pub async fn open(&self, store: &Store, now_ms: u64) -> Result<(Repository, Director), Error> {
        let director = |office| Director::new(office, "demo".parse().expect("a name"));
        Repository::open(self.path(), Expiry::default(), store, director, now_ms).await
    }
}

pub fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("keys can be made")
}

/// A target for a bundle of that digest, which need not be there.
pub fn target(version: &str, bundle: Digest) -> BundleTarget {
    let blob = |digest| Blob { digest, len_bytes: 100 };
    BundleTarget {
        name: "example".into(),
        version: version.into(),
        manifest: blob(bundle),
        chunk_index: blob(Digest([3; 32])),
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    }
}

pub fn name(text: &str) -> DeviceId {
    text.parse().expect("the name is well formed")
}

/// The key with which a device is registered; nobody has its private half.
pub fn key_of(device: &str) -> EnrolledKey {
    EnrolledKey(digest_of(device.as_bytes()).0)
}

pub async fn add_device(store: &Store, device: &str) -> Result<(), Error> {
    let (_, password) = new_password();
    let labels = BTreeMap::new();
    store.add_device(&name(device), &labels, &key_of(device), &password, NOW_MS).await
}

pub async fn open_store(devices: &[&str]) -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("fleet.db");
    let store = Store::open(&path, Limits::default()).await.expect("the database opens");
    for device in devices {
        add_device(&store, device).await.expect("the device is new");
    }
    (folder, store)
}
