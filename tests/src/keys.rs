//! The keys of a fleet as `selvedge keys new` makes them, and what can be signed with each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use selvedge_bundle::{Bundle, ChunkIndex, digest_of};
use selvedge_trust::{
    Authority, Blob, BundleStatement, DesiredSlot, DesiredState, Root, SigningKey, SystemRandom,
    UnixMillis,
};
use selvedge_wire::{Digest, FleetName};

/// Long after every test.
const FAR_FUTURE: UnixMillis = UnixMillis(4_000_000_000_000);

/// The keys of one fleet, in a folder.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
    /// The publisher's key.
    pub targets: SigningKey,
    /// The key that is online in the fleet.
    pub director: SigningKey,
}

impl Keys {
    /// Makes new keys; `root.json` and `director.pk8` are in `folder`.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        let [root, targets, director] = std::array::from_fn(|_| new_key());
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let document =
            Root::new(1, FAR_FUTURE, &one(&root), &one(&targets), &one(&director)).sign(&[&root]);
        fs::create_dir_all(folder).expect("the folder of the test can be written");
        let keys = Self { folder: folder.to_owned(), targets, director };
        fs::write(keys.root_file(), document).expect("the folder of the test can be written");
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
    pub fn desired(&self, device: &str, generation: u64, bundle: Digest) -> Vec<u8> {
        let slot = "main".parse().expect("the name is well formed");
        let state = DesiredState {
            device: device.parse().expect("the name is well formed"),
            fleet: fleet_name(),
            generation,
            expires: FAR_FUTURE,
            slots: [(slot, DesiredSlot { bundle })].into(),
        };
        state.sign(&self.director)
    }
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
pub fn statement(bundle: &Bundle) -> BundleStatement {
    let index = ChunkIndex::of(bundle).expect("the bundle is not too large").encode();
    let blob = |digest, len_bytes| Blob { digest, len_bytes };
    BundleStatement {
        name: bundle.manifest().name.to_string(),
        version: bundle.manifest().version.to_string(),
        manifest: blob(bundle.digest(), bundle.manifest_len()),
        chunk_index: blob(digest_of(&index), index.len() as u64),
        hardware_classes: vec!["*".into()],
        expires: FAR_FUTURE,
    }
}
