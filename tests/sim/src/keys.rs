//! Keys that are the same in every run, so that a seed replays to the byte.

use ring::signature::{Ed25519KeyPair, KeyPair};
use selvedge_trust::{DeviceKey, SigningKey};

/// The beginning of an Ed25519 key in PKCS#8 version 2 (RFC 8410, §10.3), up to the private key.
const PRIVATE_PART: &[u8] = &[
    0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What stands between the private key and the public key.
const PUBLIC_PART: &[u8] = &[0x81, 0x21, 0x00];

/// The holder of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The root role, one of its generations.
    Root(u8),
    /// The targets role, one of its generations.
    Targets(u8),
    /// A team to which targets are delegated.
    Team,
    /// The director, one of its generations.
    Director(u8),
    /// A device.
    Device(u8),
}

/// The key of a holder, to sign documents and the fleet's messages.
pub fn signing_key(holder: Holder) -> SigningKey {
    SigningKey::from_pkcs8(&pkcs8(holder)).expect("the document is made as the standard has it")
}

/// The key of a device, to sign its messages.
pub fn device_key(number: u8) -> DeviceKey {
    let document = pkcs8(Holder::Device(number));
    DeviceKey::from_pkcs8(&document).expect("the document is made as the standard has it")
}

/// The key of a holder in PKCS#8 version 2.
pub fn pkcs8(holder: Holder) -> Vec<u8> {
    let (kind, number) = match holder {
        Holder::Root(number) => (1, number),
        Holder::Targets(number) => (2, number),
        Holder::Team => (3, 0),
        Holder::Director(number) => (4, number),
        Holder::Device(number) => (5, number),
    };
    let mut seed = [0x5e; 32];
    (seed[0], seed[1]) = (kind, number);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a key");
    [PRIVATE_PART, &seed, PUBLIC_PART, pair.public_key().as_ref()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_a_key_of_its_own() {
        let holders = [
            Holder::Root(1),
            Holder::Root(2),
            Holder::Targets(1),
            Holder::Team,
            Holder::Director(1),
            Holder::Device(1),
        ];
        let mut ids: Vec<_> =
            holders.map(|holder| signing_key(holder).public_key().id()).into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), holders.len());
        assert_eq!(device_key(1).public_key(), signing_key(Holder::Device(1)).public_key());
    }
}
