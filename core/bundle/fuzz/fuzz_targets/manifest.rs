//! Manifests, and OCI manifests of blobs that are there: what is read reads back as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_bundle::{Bundle, Limits, Manifest, digest_of};
use selvedge_bundle_fuzz::{NEW, blob};

fuzz_target!(|input: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(input) {
        let again = Manifest::from_json(&manifest.to_json()).expect("what was written is read");
        assert_eq!(again, manifest);
    }
    let digest = digest_of(input);
    let read = |wanted| if wanted == digest { Ok(input.to_vec()) } else { blob(&NEW, wanted) };
    if let Ok(bundle) = Bundle::from_blobs(digest, read, &Limits::default()) {
        assert_eq!(bundle.digest(), digest);
        for (named, bytes) in bundle.blobs() {
            assert_eq!(digest_of(bytes), named);
        }
    }
});
