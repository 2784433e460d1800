//! What is believed, and every way not to be.

use std::collections::BTreeMap;

use proptest::prelude::*;
use selvedge_wire::{DeviceId, Digest, FleetName};
use serde_json::{Value, json};

use crate::*;

const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
const PYTHON_ROOT: &[u8] = include_bytes!("../testdata/root.json");

struct Keys {
    root: SigningKey,
    targets: SigningKey,
    director: SigningKey,
}

impl Keys {
    fn new() -> Self {
        let key =
            || SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes");
        Self { root: key(), targets: key(), director: key() }
    }

    fn root_metadata(&self) -> Root {
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let expires = NOW.plus_seconds(3600);
        Root::new(1, expires, &one(&self.root), &one(&self.targets), &one(&self.director))
    }

    fn trusted(&self) -> TrustedRoot {
        TrustedRoot::pin(&self.root_metadata().sign(&[&self.root])).expect("the root is sound")
    }
}

fn device() -> DeviceId {
    "line-1".parse().expect("the name is well formed")
}

fn fleet() -> FleetName {
    "demo".parse().expect("the name is well formed")
}

fn desired() -> DesiredState {
    let slot = "main".parse().expect("the name is well formed");
    DesiredState {
        device: device(),
        fleet: fleet(),
        generation: 7,
        issued: NOW,
        expires: NOW.plus_seconds(60),
        slots: BTreeMap::from([(slot, desired_slot())]),
    }
}

fn desired_slot() -> DesiredSlot {
    DesiredSlot {
        target: "shuttle/1.0.0-rc.1+build".into(),
        bundle: Digest([0xab; 32]),
        shadow_samples: 100,
        allow_downgrade: true,
        site: Some(Digest([0xcd; 32])),
    }
}

fn verify_desired(root: &TrustedRoot, bytes: &[u8]) -> Result<DesiredState, Error> {
    root.verify_desired(bytes, &device(), &fleet(), 7, NOW)
}

fn parse(document: &[u8]) -> Value {
    serde_json::from_slice(document).expect("documents are JSON")
}

/// The document that `change` makes of the content of `document`, signed by `key`.
fn changed(document: &[u8], key: &SigningKey, change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut signed = parse(document)["signed"].take();
    change(&mut signed);
    sign_document(&signed, &[key])
}

#[test]
fn what_is_signed_by_its_role_reads_back() {
    let keys = Keys::new();
    let root = keys.trusted();
    assert_eq!(verify_desired(&root, &desired().sign(&keys.director)), Ok(desired()));
    assert_eq!(root.root(), &keys.root_metadata());
    assert_eq!(root.root().threshold(Role::Director), 1);
}

#[test]
fn a_key_reads_back_from_its_file() {
    let key = Keys::new().root;
    let again = SigningKey::from_pkcs8(key.to_pkcs8()).expect("the key is well formed");
    assert_eq!(again.public_key(), key.public_key());
    let error = SigningKey::from_pkcs8(&key.to_pkcs8()[1..]).expect_err("the key is cut");
    assert_eq!(error.kind(), ErrorKind::Operator);
}

#[test]
fn a_document_signed_by_another_role_is_refused_and_the_role_is_named() {
    let keys = Keys::new();
    let root = keys.trusted();
    let error = verify_desired(&root, &desired().sign(&keys.targets)).expect_err("wrong role");
    assert_eq!(
        error.to_string(),
        "the desired state is signed by a key of the role targets, but only director may sign it"
    );
    let stranger = Keys::new();
    let error = verify_desired(&root, &desired().sign(&stranger.director));
    assert!(matches!(error, Err(Error::Threshold { valid: 0, threshold: 1, .. })), "{error:?}");
}

#[test]
fn a_document_of_another_type_is_refused_though_its_role_signed_it() {
    let keys = Keys::new();
    let targets = json!({ "_type": "targets", "spec_version": SPEC_VERSION });
    let bytes = sign_document(&targets, &[&keys.director]);
    let error = verify_desired(&keys.trusted(), &bytes).expect_err("another type");
    assert_eq!(error, Error::OtherType { expected: DocumentKind::Desired, met: "targets".into() });
}

#[test]
fn a_threshold_counts_distinct_keys_not_signatures() {
    let (first, second) = (Keys::new(), Keys::new());
    let one = |key: &SigningKey| Authority::one(key.public_key().clone());
    let two = Authority {
        keys: vec![first.root.public_key().clone(), second.root.public_key().clone()],
        threshold: 2,
    };
    let root =
        Root::new(1, NOW.plus_seconds(60), &two, &one(&first.targets), &one(&first.director));
    let error = TrustedRoot::pin(&root.sign(&[&first.root, &first.root])).expect_err("one key");
    assert!(error.to_string().contains("two signatures by the key"), "{error}");
    let error = TrustedRoot::pin(&root.sign(&[&first.root])).expect_err("one key");
    assert_eq!(
        error.to_string(),
        "the root metadata has 1 valid signatures of the role root; 2 are needed"
    );
    assert!(TrustedRoot::pin(&root.sign(&[&first.root, &second.root])).is_ok());

    // The same key under two ids is still one key.
    let mut signed = root.to_value();
    let key = signed["keys"][first.root.public_key().id().as_str()].clone();
    signed["keys"]["alias"] = key;
    signed["roles"]["root"]["keyids"] = json!([first.root.public_key().id(), "alias"]);
    let mut document = parse(&sign_document(&signed, &[&first.root]));
    let alias = json!({ "keyid": "alias", "sig": document["signatures"][0]["sig"] });
    document["signatures"].as_array_mut().expect("signatures are a list").push(alias);
    let error = TrustedRoot::pin(document.to_string().as_bytes()).expect_err("one key");
    assert!(error.to_string().contains("1 keys and a threshold of 2"), "{error}");
}

#[test]
fn a_root_that_its_own_keys_did_not_sign_is_refused() {
    let keys = Keys::new();
    let root = keys.root_metadata();
    for signer in [&keys.targets, &keys.director, &Keys::new().root] {
        let error = TrustedRoot::pin(&root.sign(&[signer])).expect_err("not the root's key");
        assert_eq!(error.kind(), ErrorKind::Operator);
    }
    let error = TrustedRoot::pin(&root.sign(&[])).expect_err("unsigned");
    assert!(matches!(error, Error::Threshold { valid: 0, .. }), "{error}");
}

#[test]
fn an_expired_document_or_root_is_refused() {
    let keys = Keys::new();
    let root = keys.trusted();
    let bytes = desired().sign(&keys.director);
    let verify = |now| root.verify_desired(&bytes, &device(), &fleet(), 0, now);
    let expires = desired().expires;
    assert!(verify(UnixMillis(expires.0 - 1)).is_ok());
    let error = verify(expires).expect_err("expired");
    assert!(matches!(error, Error::Expired { document: DocumentKind::Desired, .. }), "{error}");
    let error = verify(root.root().expires()).expect_err("the root expired");
    assert!(matches!(error, Error::Expired { document: DocumentKind::Root, .. }), "{error}");
}

#[test]
fn a_foreign_or_older_desired_state_is_refused() {
    let keys = Keys::new();
    let root = keys.trusted();
    let other: DeviceId = "line-2".parse().expect("the name is well formed");
    let foreign = DesiredState { device: other, ..desired() }.sign(&keys.director);
    let error = verify_desired(&root, &foreign).expect_err("foreign device");
    assert_eq!(error.to_string(), "the desired state is for the device line-2, not for line-1");

    let other: FleetName = "other".parse().expect("the name is well formed");
    let foreign = DesiredState { fleet: other, ..desired() }.sign(&keys.director);
    let error = verify_desired(&root, &foreign).expect_err("foreign fleet");
    assert_eq!(error.to_string(), "the desired state is for the fleet other, not for demo");

    let older = DesiredState { generation: 6, ..desired() }.sign(&keys.director);
    let error = verify_desired(&root, &older).expect_err("older");
    assert_eq!(error, Error::OlderGeneration { generation: 6, floor: 7 });
}

#[test]
fn a_document_that_is_not_whole_is_refused() {
    let keys = Keys::new();
    let root = keys.trusted();
    let good = String::from_utf8(desired().sign(&keys.director)).expect("documents are UTF-8");
    for (document, reason) in [
        (good[..good.len() - 1].to_string(), "EOF"),
        (format!("{good} x"), "trailing"),
        (format!("{good}{good}"), "trailing"),
        (good.replacen("\"generation\":7", "\"generation\":7,\"generation\":7", 1), "twice"),
        (good.replacen("\"generation\":7", "\"generation\":7.0", 1), "not an integer"),
        ("[]".into(), "not an object"),
        ("{\"signatures\":[]}".into(), "\"signed\" is missing"),
        ("{\"signed\":{}}".into(), "\"signatures\" is missing"),
        ("{\"signed\":{},\"signatures\":{}}".into(), "signatures:"),
        (format!("{good}{}", " ".repeat(DESIRED_BYTES_MAX)), "more than the limit"),
    ] {
        let error = verify_desired(&root, document.as_bytes()).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!(error.kind(), ErrorKind::Peer);
    }
    let signature = json!({ "keyid": "a", "sig": "" });
    let many = json!({ "signed": {}, "signatures": vec![signature; SIGNATURES_MAX + 1] });
    let error = verify_desired(&root, many.to_string().as_bytes()).expect_err("too many");
    assert!(error.to_string().contains("more than 64 signatures"), "{error}");
}

#[test]
fn a_signed_desired_state_with_bad_content_is_refused() {
    let keys = Keys::new();
    let root = keys.trusted();
    let good = desired().sign(&keys.director);
    let cases: [(&str, Value, &str); 14] = [
        ("/generation", json!(0), "generations begin at 1"),
        ("/generation", json!(-1), "invalid value"),
        ("/device", json!("../x"), "not a device id"),
        ("/slots/main/bundle", json!("sha256:ab"), "64 lower-case"),
        ("/slots/main/target", json!("shuttle"), "name/version"),
        ("/slots/main/target", json!("shuttle/../x"), "the bundle's version"),
        ("/slots/main/shadow_samples", json!(-1), "invalid value"),
        ("/slots/main/allow_downgrade", json!("yes"), "true or false"),
        ("/slots/main/site", json!("sha256:ab"), "64 lower-case"),
        ("/expires", json!("tomorrow"), "YYYY-MM-DD"),
        ("/issued", json!(1), "not a string"),
        ("/issued", json!(desired().expires), "had expired already"),
        ("/spec_version", json!("2.0"), "follows version 2.0"),
        ("/slots", json!(null), "invalid type"),
    ];
    for (at, value, reason) in cases {
        let bytes = changed(&good, &keys.director, |signed| {
            *signed.pointer_mut(at).expect("the member is there") = value.clone();
        });
        let error = verify_desired(&root, &bytes).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    let unknown = changed(&good, &keys.director, |signed| signed["later"] = json!({ "x": 1 }));
    assert_eq!(verify_desired(&root, &unknown), Ok(desired()), "unknown members are kept");
    let short = changed(&good, &keys.director, |signed| {
        let slot = signed["slots"]["main"].as_object_mut().expect("a slot is an object");
        ["shadow_samples", "allow_downgrade", "site"]
            .iter()
            .for_each(|name| drop(slot.remove(*name)));
    });
    let slots = verify_desired(&root, &short).expect("all are optional").slots;
    let plain =
        DesiredSlot { shadow_samples: 0, allow_downgrade: false, site: None, ..desired_slot() };
    assert_eq!(slots.into_values().collect::<Vec<_>>(), [plain]);
}

#[test]
fn a_signed_root_with_bad_content_is_refused() {
    let keys = Keys::new();
    let good = keys.root_metadata().sign(&[&keys.root]);
    let cases: [(&str, Value, &str); 6] = [
        ("/version", json!(0), "versions begin at 1"),
        ("/director/threshold", json!(0), "a threshold of 0"),
        ("/roles/targets/threshold", json!(2), "a threshold of 2"),
        ("/roles/targets/keyids", json!(["gone"]), "0 keys"),
        ("/roles", json!({}), "missing field `root`"),
        ("/_type", json!("targets"), "expected a root metadata"),
    ];
    for (at, value, reason) in cases {
        let bytes = changed(&good, &keys.root, |signed| {
            *signed.pointer_mut(at).expect("the member is there") = value.clone();
        });
        let error = TrustedRoot::pin(&bytes).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    let long = vec![b' '; ROOT_BYTES_MAX + 1];
    assert!(matches!(TrustedRoot::pin(&long), Err(Error::TooLong { .. })));
}

proptest! {
    #[test]
    fn a_document_with_any_byte_changed_never_says_something_else(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let keys = Keys::new();
        let root = keys.trusted();
        let mut bytes = desired().sign(&keys.director);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A change outside of what is signed may go unnoticed; it then says the same.
        if let Ok(read) = verify_desired(&root, &bytes) {
            prop_assert_eq!(read, desired());
        }
    }

    #[test]
    fn a_document_with_any_signed_byte_changed_is_refused(
        at in any::<prop::sample::Index>(),
        to in b' '..=b'~',
    ) {
        let keys = Keys::new();
        let root = keys.trusted();
        let document = String::from_utf8(desired().sign(&keys.director)).expect("UTF-8");
        let signed = parse(document.as_bytes())["signed"].to_string();
        let start = document.find(&signed).expect("the envelope holds the content");
        let mut bytes = document.into_bytes();
        let at = start + at.index(signed.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(verify_desired(&root, &bytes).is_err());
    }

    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let root = TrustedRoot::pin(PYTHON_ROOT).expect("python-tuf signed it");
        prop_assert!(TrustedRoot::pin(&bytes).is_err());
        prop_assert!(verify_desired(&root, &bytes).is_err());
    }
}
