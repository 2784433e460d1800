//! Messages from devices and from the fleet, as they come from a broker.
//!
//! The input is a topic's name, a zero byte and a payload. The payload is read as a signed message, and
//! as every message that can be inside one. What could be read says the same when it is read again.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use selvedge_trust::{MessageSigner, TrustedRoot};
use selvedge_trust_fuzz::{key, signed_root};
use selvedge_wire::{
    Batch, BundleOffer, Chunk, Desired, Event, Health, InferenceResult, Message, ProfileRecord,
    Reported, Signed, Status, Stored, Topics, decode, encode,
};

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == 0) else { return };
    let (name, payload) = (String::from_utf8_lossy(&input[..end]), &input[end + 1..]);
    let topics = Topics::new(&"demo".parse().expect("the name is well formed"));
    if let Ok(topic) = topics.parse(&name) {
        assert_eq!(topics.name(&topic), name);
    }

    let body = match decode::<Signed>(payload) {
        Ok(signed) => {
            check_message::<Signed>(payload);
            check_signature(&name, &signed);
            signed.body
        }
        Err(_) => payload.to_vec(),
    };
    check_message::<Status>(&body);
    check_message::<Reported>(&body);
    check_message::<Health>(&body);
    check_message::<Batch<InferenceResult>>(&body);
    check_message::<Batch<ProfileRecord>>(&body);
    check_message::<Batch<Event>>(&body);
    check_message::<Desired>(&body);
    check_message::<Stored>(&body);
    check_message::<BundleOffer>(&body);
    check_message::<Chunk>(&body);
});

fn check_message<M: Message + Debug>(payload: &[u8]) {
    let Ok(message) = decode::<M>(payload) else { return };
    let again = decode::<M>(&encode(&message)).expect("what was written is read");
    // Not by equality: a number that is not a number differs from itself.
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
}

/// One signature is the key's, on one topic and about one body alone.
fn check_signature(topic: &str, signed: &Signed) {
    let key = key();
    let root = TrustedRoot::pin(signed_root()).expect("the root is sound");
    let genuine = *signed == key.sign_message(topic, signed.body.clone());
    assert_eq!(key.public_key().verify_message(topic, signed), genuine);
    assert_eq!(root.verify_message(topic, signed), genuine);
    assert!(!root.verify_message(&format!("{topic}/"), signed));
}
