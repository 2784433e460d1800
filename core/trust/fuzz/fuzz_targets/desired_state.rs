//! Desired states and roots, signed or not: what is believed is meant for the device, and reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_trust::TrustedRoot;
use selvedge_trust_fuzz::{NOW, document, key, signed_root};

const GENERATION_FLOOR: u64 = 7;

fuzz_target!(|input: &[u8]| {
    let (device, fleet) = ("line-1".parse(), "demo".parse());
    let device = device.expect("the name is well formed");
    let fleet = fleet.expect("the name is well formed");
    let root = TrustedRoot::pin(signed_root()).expect("the root is sound");

    let bytes = document(input);
    // A root pins itself: whatever it is made of must be read without harm.
    let _ = TrustedRoot::pin(&bytes);
    let verify = |bytes: &[u8]| root.verify_desired(bytes, &device, &fleet, GENERATION_FLOOR, NOW);
    let Ok(desired) = verify(&bytes) else { return };
    assert_eq!((&desired.device, &desired.fleet), (&device, &fleet));
    assert!(desired.generation >= GENERATION_FLOOR && desired.expires > NOW);
    assert_eq!(verify(&desired.sign(key())).expect("it was believed before"), desired);
});
