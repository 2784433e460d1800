use std::{fs, os::unix::fs::symlink, path::Path};

use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};
use tempfile::tempdir;

use super::*;
use crate::example;

/// A tree, its public key, and its signature, made by `model_signing sign key` 1.1.1.
const FILES: [(&str, &str); 4] = [
    ("README.md", "# Example\n"),
    ("golden/x.npy", "a tensor\n"),
    ("golden.txt", "golden, but no folder\n"),
    ("model.onnx", "a graph\n"),
];
const THEIR_KEY: &str = include_str!("../../testdata/oms/public.pem");
const THEIR_SIGNATURE: &[u8] = include_bytes!("../../testdata/oms/model.sig");

/// How a test changes a document.
type Change = fn(&mut Value);

fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (path, content) in files {
        tree.add(path, content.as_bytes()).expect("a path of a file");
    }
    tree
}

fn new_key() -> SigningKey {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
    let pkcs8 = STANDARD.encode(pkcs8.expect("the system has random bytes"));
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n");
    SigningKey::from_pem(&pem, &random).expect("a new key")
}

fn signed(tree: &Tree, key: &SigningKey) -> Vec<u8> {
    sign(tree, "example", None, key, &SystemRandom::new()).expect("a tree with files")
}

/// Signs whatever `change` makes of the statement about `tree`.
fn signed_with(tree: &Tree, key: &SigningKey, change: Change) -> Vec<u8> {
    let mut bundle = changed(&signed(tree, key), |_| {});
    let payload = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().expect("text"));
    let payload = changed(&payload.expect("base64"), change).to_string();
    let signature =
        key.sign(&pre_authentication_encoding(payload.as_bytes()), &SystemRandom::new());
    bundle["dsseEnvelope"]["payload"] = STANDARD.encode(payload).into();
    bundle["dsseEnvelope"]["signatures"][0]["sig"] =
        STANDARD.encode(signature.expect("signs")).into();
    bundle.to_string().into_bytes()
}

fn changed(document: &[u8], change: Change) -> Value {
    let mut document = serde_json::from_slice(document).expect("JSON");
    change(&mut document);
    document
}

fn refusal(tree: &Tree, signature: &[u8], key: &VerifyingKey) -> String {
    verify(tree, signature, key).expect_err("not what was signed").to_string()
}

#[test]
fn a_signature_by_model_signing_is_believed() {
    let key = VerifyingKey::from_pem(THEIR_KEY).expect("a key by OpenSSL");
    assert_eq!(key.to_pem(), THEIR_KEY);
    let digest = verify(&tree_of(&FILES), THEIR_SIGNATURE, &key).expect("the tree that was signed");
    assert_eq!(digest, digest_of(THEIR_SIGNATURE));
}

#[test]
fn files_are_signed_in_the_order_of_model_signing() {
    let tree = tree_of(&FILES);
    let signature = changed(&signed(&tree, &new_key()), |_| {});
    let subject = |bundle: &Value| {
        let payload = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().expect("text"));
        changed(&payload.expect("base64"), |_| {})["subject"][0]["digest"].clone()
    };
    assert_eq!(subject(&signature), subject(&changed(THEIR_SIGNATURE, |_| {})));
}

#[test]
fn every_difference_between_tree_and_signature_is_named() {
    let key = new_key();
    let signature = signed(&tree_of(&FILES), &key);
    verify(&tree_of(&FILES), &signature, key.public_key()).expect("just signed");

    let mut more = FILES.to_vec();
    more.push(("golden/y.npy", "smuggled in"));
    let mut other = FILES.to_vec();
    other[3].1 = "another graph\n";
    for (files, reason) in [
        (&more[..], "golden/y.npy is not signed: the signature does not name it"),
        (&FILES[1..], "README.md is missing"),
        (&other[..], "model.onnx has the digest sha256:"),
    ] {
        let said = refusal(&tree_of(files), &signature, key.public_key());
        assert!(said.starts_with(reason), "{said}");
    }
}

#[test]
fn what_the_key_did_not_sign_is_refused() {
    let (key, other) = (new_key(), new_key());
    let tree = tree_of(&FILES);
    let signature = signed(&tree, &key);
    let said = refusal(&tree, &signature, other.public_key());
    assert_eq!(said, "the model signature is not believed: another key made it");

    let changes: [(Change, &str); 8] = [
        (|bundle| bundle["verificationMaterial"]["publicKey"] = json!({}), "did not sign these"),
        (
            |bundle| {
                let signatures =
                    bundle["dsseEnvelope"]["signatures"].as_array_mut().expect("a list");
                signatures.push(signatures[0].clone());
            },
            "it has 2 signatures instead of one",
        ),
        (|bundle| bundle["dsseEnvelope"]["signatures"] = json!([]), "it has 0 signatures"),
        (|bundle| bundle["dsseEnvelope"]["payload"] = "e30=".into(), "did not sign these bytes"),
        (|bundle| bundle["dsseEnvelope"]["payload"] = "!".into(), "its payload: Invalid symbol"),
        (
            |bundle| bundle["dsseEnvelope"]["payloadType"] = "text/plain".into(),
            "only \"application",
        ),
        (
            |bundle| bundle["mediaType"] = "text/plain".into(),
            "its Sigstore bundle is \"text/plain\"",
        ),
        (
            |bundle| bundle["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}}),
            "it was not made with a plain key",
        ),
    ];
    for (change, reason) in changes {
        let bundle = changed(&signature, change).to_string();
        let key = if reason == "did not sign these" { &other } else { &key };
        let said = refusal(&tree, bundle.as_bytes(), key.public_key());
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_signed_statement_that_says_something_else_is_refused() {
    let key = new_key();
    let tree = tree_of(&FILES);
    verify(&tree, &signed_with(&tree, &key, |_| {}), key.public_key()).expect("nothing changed");
    let changes: [(Change, &str); 9] = [
        (|said| said["predicateType"] = "slsa".into(), "its predicate is \"slsa\""),
        (|said| said["_type"] = "link".into(), "its statement is \"link\""),
        (|said| said["subject"] = json!([]), "it has 0 subjects instead of one"),
        (
            |said| said["predicate"]["serialization"]["method"] = "shards".into(),
            "its serialization is \"shards\"",
        ),
        (
            |said| said["predicate"]["serialization"]["hash_type"] = "blake3".into(),
            "its digest is \"blake3\"",
        ),
        (
            |said| said["predicate"]["resources"][0]["algorithm"] = "md5".into(),
            "its digest is \"md5\"",
        ),
        (
            |said| said["predicate"]["resources"][0]["digest"] = "00".into(),
            "\"00\" is no SHA-256 digest",
        ),
        (
            |said| said["predicate"]["resources"] = json!([]),
            "the digest of its subject is not that of its resources",
        ),
        (
            |said| said["predicate"]["resources"][0]["name"] = "../README.md".into(),
            "it is no path of a file inside the tree",
        ),
    ];
    for (change, reason) in changes {
        let said = refusal(&tree, &signed_with(&tree, &key, change), key.public_key());
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_path_that_the_signature_ignores_must_be_signed_all_the_same() {
    let key = new_key();
    let signature = signed_with(&tree_of(&FILES[1..]), &key, |said| {
        said["predicate"]["serialization"]["ignore_paths"] = json!(["README.md"]);
    });
    let said = refusal(&tree_of(&FILES), &signature, key.public_key());
    assert!(said.starts_with("README.md is not signed"), "{said}");
}

#[test]
fn a_folder_is_read_without_its_signature_and_without_links() {
    let folder = tempdir().expect("a temporary folder");
    for (path, content) in FILES {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("can be made");
        fs::write(path, content).expect("can be written");
    }
    let signature = folder.path().join("model.sig");
    let read = |without: Option<&Path>| Tree::read(folder.path(), without);
    assert_eq!(read(Some(&signature)).expect("not there yet"), tree_of(&FILES));
    fs::write(&signature, THEIR_SIGNATURE).expect("can be written");
    assert_eq!(read(Some(&signature)).expect("left out"), tree_of(&FILES));
    assert_eq!(read(None).expect("a file like others").len(), FILES.len() + 1);

    for (name, to) in [("golden/link.npy", "x.npy"), ("folder", "golden")] {
        let link = folder.path().join(name);
        symlink(to, &link).expect("can be made");
        let error = read(None).expect_err("a link").to_string();
        assert_eq!(error, format!("{name} is not a regular file"));
        fs::remove_file(link).expect("just made");
    }
}

#[test]
fn trees_and_signatures_have_limits() {
    let mut tree = Tree::default();
    for path in ["", "/a", "a//b", "a/", "../a", "a/./b", "a\\b", "a\0", &"a".repeat(513)] {
        tree.add(path, b"").expect_err(path);
    }
    for i in 0..TREE_FILES_MAX {
        tree.add(&format!("{i:0>512}"), b"").expect("as many as there may be");
    }
    assert!(tree.add("more", b"").expect_err("one too many").to_string().contains("1024 files"));
    let key = new_key();
    let signature = signed(&tree, &key);
    verify(&tree, &signature, key.public_key()).expect("the largest tree can be signed");

    let padding = vec![b' '; SIGNATURE_BYTES_MAX + 1 - signature.len()];
    let said = refusal(&tree, &[signature, padding].concat(), key.public_key());
    assert!(said.contains("more than the limit"), "{said}");
}

#[test]
fn a_tree_that_model_signing_would_see_differently_is_not_signed() {
    for (files, reason) in [
        (&[][..], "the tree is malformed: it has no files"),
        (&[("a", ""), (".gitignore", "")], ".gitignore is malformed: signatures of models"),
        (&[("a", ""), (".github/x.yml", "")], ".github/x.yml is malformed"),
    ] {
        let random = SystemRandom::new();
        let error = sign(&tree_of(files), "example", None, &new_key(), &random);
        let error = error.expect_err(reason).to_string();
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn a_bundle_is_signed_as_its_manifest_and_its_layers() {
    let bundle = example::bundle(b"model".to_vec());
    let tree = Tree::of(&bundle).expect("names of layers are paths");
    let paths: Vec<String> = tree.files().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "README.md",
            "baseline.postcard",
            "golden/x.npy",
            "golden/y%2f0.npy",
            "manifest.json",
            "model.onnx",
            "program.postcard"
        ]
    );
}

#[test]
fn a_file_that_is_no_key_is_refused_with_advice() {
    let random = SystemRandom::new();
    for (pem, reason) in [
        ("", "it is not one PEM block `PRIVATE KEY`"),
        ("-----BEGIN EC PRIVATE KEY-----\n", "`openssl pkcs8 -topk8 -nocrypt` converts this one"),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "with its passphrase decrypts it"),
        ("-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----", "its PEM is malformed"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "not a private key on P-256",
        ),
        (THEIR_KEY, "it is not one PEM block `PRIVATE KEY`"),
    ] {
        let error = SigningKey::from_pem(pem, &random).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    let ed25519 = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let error = VerifyingKey::from_pem(ed25519).expect_err("of another kind").to_string();
    assert!(error.contains("not of the curve P-256"), "{error}");
}

proptest! {
    #[test]
    fn a_signature_with_a_changed_byte_is_refused_or_says_the_same(
        place in 0..THEIR_SIGNATURE.len(), byte: u8,
    ) {
        let key = VerifyingKey::from_pem(THEIR_KEY).expect("a key by OpenSSL");
        let mut signature = THEIR_SIGNATURE.to_vec();
        signature[place] = byte;
        let text = |bytes: &[u8]| Some(serde_json::from_slice::<Value>(bytes).ok()?["dsseEnvelope"]["payload"].clone());
        if verify(&tree_of(&FILES), &signature, &key).is_ok() {
            prop_assert_eq!(text(&signature), text(THEIR_SIGNATURE));
        }
    }
}
