use std::{string::ToString, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

const SPEC_ID: SpecId = SpecId(*b"selvedge");
const FEATURES: usize = 3;
type Small = Profile<FEATURES>;

/// One sample as a device would count it.
#[derive(Clone, Debug)]
struct Observed {
    keys: [i32; FEATURES],
    answer: Option<(u32, u32)>,
}

fn spec() -> BinSpec {
    let edges: Vec<i32> = (1..16).map(|edge| edge * 100).collect();
    BinSpec::new(&edges, 0, 1600).expect("the edges rise inside the guard")
}

fn observed() -> impl Strategy<Value = Observed> {
    let keys = prop::array::uniform3(prop_oneof![4 => -100..1700i32, 1 => any::<i32>()]);
    let answer = prop::option::weighted(0.9, (0..70u32, 0..20_000u32));
    (keys, answer).prop_map(|(keys, answer)| Observed { keys, answer })
}

fn empty() -> Small {
    Profile::new(SPEC_ID, FEATURES).expect("there is room for the features")
}

fn profile_of(samples: &[Observed]) -> Small {
    let (spec, mut profile) = (spec(), empty());
    for sample in samples {
        for (feature, &key) in sample.keys.iter().enumerate() {
            profile.observe_feature(feature, &spec, key);
        }
        match sample.answer {
            Some((class, latency_us)) => {
                profile.count_sample();
                profile.observe_class(class);
                profile.observe_latency(latency_us);
            }
            None => profile.count_failed_sample(),
        }
    }
    profile
}

fn encoded<const F: usize>(profile: &Profile<F>) -> Vec<u8> {
    let mut buffer = std::vec![0; Profile::<F>::ENCODED_BYTES_MAX];
    profile.encode(&mut buffer).expect("the buffer holds the longest profile").to_vec()
}

fn merged(mut a: Small, b: &Small) -> Small {
    a.merge(b).expect("both have the same spec");
    a
}

#[test]
fn the_bytes_of_version_1_stay_as_they_are() {
    let spec = BinSpec::new(&[10, 20], 0, 30).expect("the spec is sound");
    let mut profile = NodeProfile::new(SPEC_ID, 1).expect("there is room for one feature");
    for key in [-1, 5, 15, 25, 25, 31, i32::MAX] {
        profile.observe_feature(0, &spec, key);
        profile.count_sample();
    }
    profile.count_failed_sample();
    for latency_us in [3, 300, 300] {
        profile.observe_latency(latency_us);
    }
    for class in [1, 1, 200] {
        profile.observe_class(class);
    }
    #[rustfmt::skip]
    let golden = [
        1,                                                  // version
        b's', b'e', b'l', b'v', b'e', b'd', b'g', b'e',     // spec id
        2, 0, 2, 8, 1,                                      // one run: 8 samples, 1 failed
        4, 3, 1, 1, 45, 1, 2,                               // two runs: bucket 3 once, bucket 49 twice
        4, 1, 1, 2, 62, 1, 1,                               // two runs: class 1 twice, other once
        1,                                                  // one feature
        4, 0, 4, 1, 1, 1, 2, 13, 2, 1, 1,                   // below, bins 0 to 2; above, NaN
    ];
    assert_eq!(encoded(&profile), golden);
    assert_eq!(NodeProfile::decode(&golden), Ok(profile));
}

#[test]
fn a_profile_of_another_spec_is_not_added() {
    let mut profile = profile_of(&[Observed { keys: [1, 2, 3], answer: Some((0, 5)) }]);
    let before = profile.clone();
    let other_spec = Small::new(SpecId(*b"another1"), FEATURES).expect("there is room");
    let other_count = Small::new(SPEC_ID, FEATURES - 1).expect("there is room");
    assert_eq!(profile.merge(&other_spec), Err(Error::SpecMismatch));
    assert_eq!(profile.merge(&other_count), Err(Error::SpecMismatch));
    assert_eq!(profile, before);
}

#[test]
fn a_gateway_reads_what_a_node_writes_and_a_node_refuses_more_features() {
    let spec = spec();
    let mut node = NodeProfile::new(SPEC_ID, 1).expect("there is room for one feature");
    node.observe_feature(0, &spec, 250);
    let bytes = encoded(&node);
    let gateway = GatewayProfile::decode(&bytes).expect("the bytes do not depend on the type");
    assert_eq!(gateway.features(), node.features());
    assert_eq!(encoded(&gateway), bytes);

    assert_eq!(NodeProfile::new(SPEC_ID, 2), Err(Error::TooManyFeatures));
    assert_eq!(NodeProfile::decode(&encoded(&empty())), Err(Error::TooManyFeatures));
}

#[test]
fn a_window_of_a_thousand_samples_keeps_to_its_bytes() {
    // drift.md, B3: at most 30 bytes per feature and 280 with ten features and the header.
    let (spec, mut profile) = (spec(), Profile::<10>::new(SPEC_ID, 10).expect("there is room"));
    let without_features = Profile::<0>::new(SPEC_ID, 0).expect("no feature needs no room");
    for sample in 0..1000 {
        for feature in 0..10 {
            profile.observe_feature(feature, &spec, (sample * 8 + 7 * feature as i32) % 1600);
        }
        profile.count_sample();
    }
    let len_bytes = encoded(&profile).len();
    let per_feature_bytes = (len_bytes - encoded(&without_features).len()).div_ceil(10);
    assert!(len_bytes <= 280 && per_feature_bytes <= 30, "{len_bytes} {per_feature_bytes}");
}

#[test]
fn a_latency_histogram_keeps_to_its_bytes() {
    // drift.md, B9: at most 130 bytes. Ten thousand latencies from 1 ms up, most of them near it.
    let mut profile = Profile::<0>::new(SPEC_ID, 0).expect("no feature needs no room");
    let without_bytes = encoded(&profile).len();
    for sample in 1..=10_000u32 {
        profile.observe_latency(1000 + 2_000_000 / sample);
    }
    let latency_bytes = encoded(&profile).len() - without_bytes;
    assert!(latency_bytes <= 130, "{latency_bytes}");
}

#[test]
fn a_full_profile_fits_its_bound() {
    let mut profile = GatewayProfile::new(SPEC_ID, FEATURE_COUNT_MAX).expect("there is room");
    let spec = spec();
    for key in (-50..1700).step_by(50).chain([i32::MAX, crate::KEY_INFINITY, -crate::KEY_INFINITY])
    {
        for feature in 0..FEATURE_COUNT_MAX {
            profile.observe_feature(feature, &spec, key);
        }
    }
    for shift in 0..32 {
        for value in 0..16 {
            profile.observe_latency(value << shift);
        }
    }
    (0..70).for_each(|class| profile.observe_class(class));
    profile.count_failed_sample();
    // Doubling saturates every counter that is not zero.
    for _ in 0..32 {
        let twin = profile.clone();
        profile.merge(&twin).expect("it is the same spec");
    }
    assert!(profile.saturated());
    assert!(profile.features().iter().all(|feature| feature.saturated()));
    assert_eq!(GatewayProfile::decode(&encoded(&profile)), Ok(profile));
}

#[test]
fn bytes_of_another_version_are_refused() {
    let mut bytes = encoded(&empty());
    bytes[0] = PROFILE_VERSION + 1;
    assert_eq!(Small::decode(&bytes), Err(Error::Version));
}

#[test]
fn a_spec_id_is_shown_in_hexadecimal() {
    assert_eq!(SpecId([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]).to_string(), "00010203fcfdfeff");
}

proptest! {
    #[test]
    fn merging_is_a_commutative_monoid(
        a in prop::collection::vec(observed(), 0..12),
        b in prop::collection::vec(observed(), 0..12),
        c in prop::collection::vec(observed(), 0..12),
    ) {
        let (a, b, c) = (profile_of(&a), profile_of(&b), profile_of(&c));
        prop_assert_eq!(merged(merged(a.clone(), &b), &c), merged(a.clone(), &merged(b.clone(), &c)));
        prop_assert_eq!(merged(a.clone(), &b), merged(b, &a));
        prop_assert_eq!(merged(a.clone(), &empty()), a.clone());
        prop_assert_eq!(merged(empty(), &a), a);
    }

    #[test]
    fn any_partition_in_any_order_gives_the_same_bytes(
        samples in prop::collection::vec((observed(), 0..5usize), 0..60),
        order in Just([0, 1, 2, 3, 4usize]).prop_shuffle(),
    ) {
        let whole: Vec<Observed> = samples.iter().map(|(sample, _)| sample.clone()).collect();
        let mut sum = empty();
        for part in order {
            let mine = samples.iter().filter(|(_, owner)| *owner == part);
            let mine: Vec<Observed> = mine.map(|(sample, _)| sample.clone()).collect();
            // Each part travels, as it does from a device.
            let received = Small::decode(&encoded(&profile_of(&mine)));
            sum = merged(sum, &received.expect("it was just encoded"));
        }
        prop_assert_eq!(encoded(&sum), encoded(&profile_of(&whole)));
    }

    #[test]
    fn a_profile_comes_back_as_it_was_written(samples in prop::collection::vec(observed(), 0..60)) {
        let profile = profile_of(&samples);
        let bytes = encoded(&profile);
        prop_assert_eq!(Small::decode(&bytes), Ok(profile));
        for len_bytes in 0..bytes.len() {
            prop_assert_eq!(Small::decode(&bytes[..len_bytes]), Err(Error::Truncated));
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        prop_assert_eq!(Small::decode(&longer), Err(Error::TrailingBytes));
    }

    #[test]
    fn totals_agree_with_what_was_observed(samples in prop::collection::vec(observed(), 0..60)) {
        let profile = profile_of(&samples);
        let answered = samples.iter().filter(|sample| sample.answer.is_some()).count();
        prop_assert_eq!(profile.samples() as usize, samples.len());
        prop_assert_eq!(profile.failed() as usize, samples.len() - answered);
        prop_assert_eq!(profile.latency().total(), answered as u64);
        prop_assert_eq!(profile.classes().total(), answered as u64);
        for feature in profile.features() {
            prop_assert_eq!(feature.total(), samples.len() as u64);
        }
        prop_assert_eq!(profile.is_empty(), samples.is_empty());
    }

    #[test]
    fn hostile_bytes_never_panic_and_blame_their_sender(mut bytes: Vec<u8>, versioned: bool) {
        if let (true, Some(version)) = (versioned, bytes.first_mut()) {
            *version = PROFILE_VERSION;
        }
        match GatewayProfile::decode(&bytes) {
            Ok(profile) => prop_assert_eq!(encoded(&profile), bytes),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Peer),
        }
    }

    #[test]
    fn a_changed_byte_gives_an_error_or_another_profile(
        samples in prop::collection::vec(observed(), 1..20),
        place: prop::sample::Index,
        change in 1u8..,
    ) {
        let profile = profile_of(&samples);
        let mut bytes = encoded(&profile);
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        if let Ok(changed) = Small::decode(&bytes) {
            prop_assert_ne!(&changed, &profile);
            prop_assert_eq!(encoded(&changed), bytes);
        }
    }
}
