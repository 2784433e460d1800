//! What is believed, and every way not to be.

use std::collections::BTreeMap;

use proptest::prelude::*;
use selvedge_wire::{DeviceId, Digest, FleetName};
use serde_json::{Value, json};

use crate::*;

const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
const PYTHON_ROOT: &[u8] = include_bytes!("../testdata/root.json");
const PYTHON_TARGETS: &[u8] = include_bytes!("../testdata/targets.json");

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
        expires: NOW.plus_seconds(60),
        slots: BTreeMap::from([(slot, DesiredSlot { bundle: Digest([0xab; 32]) })]),
    }
}

fn statement() -> BundleStatement {
    BundleStatement {
        name: "shuttle".into(),
        version: "1.0.0-rc.1+build".into(),
        manifest: Blob { digest: Digest([0xab; 32]), len_bytes: 1234 },
        chunk_index: Blob { digest: Digest([0xcd; 32]), len_bytes: 77 },
        hardware_classes: vec!["*".into()],
        expires: NOW.plus_seconds(60),
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
    assert_eq!(root.verify_statement(&statement().sign(&keys.targets), NOW), Ok(statement()));
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
fn documents_of_python_tuf_are_believed_with_members_nobody_knows() {
    let root = TrustedRoot::pin(PYTHON_ROOT).expect("python-tuf signed it");
    assert_eq!(root.root().threshold(Role::Root), 2);
    let statement = root.verify_statement(PYTHON_TARGETS, NOW).expect("python-tuf signed it");
    assert_eq!((statement.name.as_str(), statement.version.as_str()), ("shuttle", "1.0.0"));
    assert_eq!(statement.bundle(), Digest([0xab; 32]));
    assert_eq!(statement.chunk_index, Blob { digest: Digest([0xcd; 32]), len_bytes: 77 });
    assert!(statement.allows_hardware("aarch64") && !statement.allows_hardware("x86_64"));
    let targets = root.verify_targets(PYTHON_TARGETS, NOW).expect("python-tuf signed it");
    assert_eq!(targets.version, 3);
    assert!(targets.targets["shuttle/1.0.0"].custom["note"].is_string());
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
    let error = root.verify_statement(&statement().sign(&keys.director), NOW);
    assert!(matches!(error, Err(Error::WrongRole { needed: Role::Targets, .. })), "{error:?}");
    let stranger = Keys::new();
    let error = verify_desired(&root, &desired().sign(&stranger.director));
    assert!(matches!(error, Err(Error::Threshold { valid: 0, threshold: 1, .. })), "{error:?}");
}

#[test]
fn a_document_of_another_type_is_refused_though_its_role_signed_it() {
    let keys = Keys::new();
    let bytes = sign_document(&statement().to_value(), &[&keys.director]);
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
    let error = root.verify_statement(&statement().sign(&keys.targets), expires);
    assert!(matches!(error, Err(Error::Expired { .. })), "{error:?}");
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
    let cases: [(&str, Value, &str); 7] = [
        ("/generation", json!(0), "generations begin at 1"),
        ("/generation", json!(-1), "invalid value"),
        ("/device", json!("../x"), "not a device id"),
        ("/slots/main/bundle", json!("sha256:ab"), "64 lower-case"),
        ("/expires", json!("tomorrow"), "YYYY-MM-DD"),
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
}

#[test]
fn a_signed_statement_with_bad_content_is_refused() {
    let keys = Keys::new();
    let root = keys.trusted();
    let good = statement().sign(&keys.targets);
    let target = "/targets/shuttle~11.0.0-rc.1+build";
    let two = json!({ "a/1": parse(&good)["signed"].pointer(target), "b/1": parse(&good)["signed"].pointer(target) });
    let named = |name: &str| json!({ name: parse(&good)["signed"].pointer(target) });
    let cases: [(&str, Value, &str); 10] = [
        ("/targets", json!({}), "exactly one bundle"),
        ("/targets", two, "exactly one bundle"),
        ("/targets", named("shuttle"), "name/version"),
        ("/targets", named("../1.0.0"), "the bundle's name"),
        ("/targets", named("shuttle/1/2"), "the bundle's version"),
        ("/version", json!(0), "versions begin at 1"),
        ("/hashes/sha256", json!("AB"), "64 lower-case"),
        ("/custom/bundle", json!(Digest([1; 32])), "not the digest of the target"),
        ("/custom/hardware_classes", json!([]), "no hardware class"),
        ("/custom", json!(null), "custom:"),
    ];
    for (at, value, reason) in cases {
        let at = if at.starts_with("/h") || at.starts_with("/c") {
            format!("{target}{at}")
        } else {
            at.into()
        };
        let bytes = changed(&good, &keys.targets, |signed| {
            *signed.pointer_mut(&at).expect("the member is there") = value.clone();
        });
        let error = root.verify_statement(&bytes, NOW).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
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
    let long = vec![b' '; STATEMENT_BYTES_MAX + 1];
    assert!(matches!(keys.trusted().verify_statement(&long, NOW), Err(Error::TooLong { .. })));
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
        prop_assert!(root.verify_statement(&bytes, NOW).is_err());
    }
}
