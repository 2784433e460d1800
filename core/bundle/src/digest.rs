//! SHA-256 over bytes.

use ring::digest::{SHA256, digest};
use selvedge_wire::Digest;

/// The SHA-256 of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let hash = digest(&SHA256, bytes);
    Digest(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
}
