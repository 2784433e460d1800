//! Model signatures, over a tree that one of the seeds signs: nothing else may be believed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_bundle::{
    digest_of,
    oms::{Tree, VerifyingKey, verify},
};
use selvedge_bundle_fuzz::{SIGNATURE, SIGNED_FILES, SIGNER};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let mut tree = Tree::default();
    for (path, content) in SIGNED_FILES {
        tree.add(path, content.as_bytes()).expect("a path of a file");
    }
    let key = VerifyingKey::from_pem(SIGNER).expect("a key by OpenSSL");
    if let Ok(digest) = verify(&tree, input, &key) {
        assert_eq!(digest, digest_of(input));
        assert_eq!(payload(input), payload(SIGNATURE));
    }
    if let Ok(text) = str::from_utf8(input) {
        let _ = VerifyingKey::from_pem(text).map(|key| key.to_pem());
        let _ = tree.add(text, b"");
    }
});

/// What is signed: around it, who signs may write what they like.
fn payload(signature: &[u8]) -> Value {
    let bundle: Value = serde_json::from_slice(signature).expect("it was read before");
    bundle["dsseEnvelope"]["payload"].clone()
}
