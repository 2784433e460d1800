//! The keys of a fleet as `selvedge keys new` makes them, and what can be signed with each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use selvedge_bundle::{Bundle, ChunkIndex, digest_of};
use selvedge_trust::{
    Authority, Blob, BundleTarget, DesiredSlot, DesiredState, Root, SPEC_VERSION, SigningKey,
    SystemRandom, UnixMillis, sign_document,
};
use selvedge_wire::FleetName;
use serde_json::{Value, json};

/// Long after every test.
pub const FAR_FUTURE: UnixMillis = UnixMillis(4_000_000_000_000);

/// The keys of one fleet, in a folder.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
    /// The key that is kept offline.
    pub root: SigningKey,
    /// The publisher's key.
    pub targets: SigningKey,
    /// The key that is online in the fleet.
    pub director: SigningKey,
}

impl Keys {
    /// Makes new keys; `root.json`, `targets.json` and `director.pk8` are in `folder`.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        let [root, targets, director] = std::array::from_fn(|_| new_key());
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let document =
            Root::new(1, FAR_FUTURE, &one(&root), &one(&targets), &one(&director)).sign(&[&root]);
        fs::create_dir_all(folder).expect("the folder of the test can be written");
        let keys = Self { folder: folder.to_owned(), root, targets, director };
        fs::write(keys.root_file(), document).expect("the folder of the test can be written");
        let nothing = sign_document(&targets_metadata(1, &BTreeMap::new()), &[&keys.targets]);
        fs::write(folder.join("targets.json"), nothing)
            .expect("the folder of the test can be written");
        fs::write(folder.join("director.pk8"), keys.director.to_pkcs8())
            .expect("the folder of the test can be written");
        keys
    }

    /// The folder, as the fleet takes it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root metadata that devices trust.
    pub fn root_file(&self) -> PathBuf {
        self.folder.join("root.json")
    }

    /// The desired state of a device with one bundle in the slot `main`, signed by the director.
    ///
    /// # Panics
    /// If `device` is not a name.
    pub fn desired(&self, device: &str, generation: u64, bundle: &Bundle) -> Vec<u8> {
        let slot = "main".parse().expect("the name is well formed");
        let wanted = DesiredSlot {
            target: target(bundle).path(),
            bundle: bundle.digest(),
            shadow_samples: 0,
            allow_downgrade: false,
            site: None,
        };
        let state = DesiredState {
            device: device.parse().expect("the name is well formed"),
            fleet: fleet_name(),
            generation,
            issued: UnixMillis(0),
            expires: FAR_FUTURE,
            slots: [(slot, wanted)].into(),
        };
        state.sign(&self.director)
    }
}

/// Targets metadata with these entries by path, to be signed.
pub fn targets_metadata(version: u64, entries: &BTreeMap<String, Value>) -> Value {
    json!({
        "_type": "targets",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": FAR_FUTURE,
        "targets": entries,
    })
}

/// The fleet of all tests: the one in the reference configuration of the broker.
pub fn fleet_name() -> FleetName {
    "demo".parse().expect("the name is well formed")
}

/// A new key of nobody's.
///
/// # Panics
/// If the system has no random bytes.
pub fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
}

/// What a publisher says about a bundle.
///
/// # Panics
/// If the bundle is too large.
pub fn target(bundle: &Bundle) -> BundleTarget {
    let index = ChunkIndex::of(bundle).expect("the bundle is not too large").encode();
    let blob = |digest, len_bytes| Blob { digest, len_bytes };
    BundleTarget {
        name: bundle.manifest().name.to_string(),
        version: bundle.manifest().version.to_string(),
        manifest: blob(bundle.digest(), bundle.manifest_len()),
        chunk_index: blob(digest_of(&index), index.len() as u64),
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    }
}
