use std::{boxed::Box, collections::BTreeMap, string::ToString, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{ErrorKind, confidence::tests::confidence_spec};

const SPEC_ID: SpecId = SpecId(*b"selvedge");
const FEATURES: usize = 3;
type Small = Profile<FEATURES, OutputCounts>;

/// One sample as a device would count it.
#[derive(Clone, Debug)]
struct Observed {
    keys: [i32; FEATURES],
    answer: Option<Answer>,
}

#[derive(Clone, Debug)]
struct Answer {
    class: u32,
    latency_us: u32,
    confidence: f32,
    embedding: [i8; 2],
}

fn spec() -> BinSpec {
    let edges: Vec<i32> = (1..16).map(|edge| edge * 100).collect();
    BinSpec::integers(&edges, 0, 1600).expect("the edges rise inside the guard")
}

fn observed() -> impl Strategy<Value = Observed> {
    let keys = prop::array::uniform3(prop_oneof![4 => -100..1700i32, 1 => any::<i32>()]);
    let answer = (0..70u32, 0..20_000u32, -0.1..1.1f32, any::<[i8; 2]>()).prop_map(
        |(class, latency_us, confidence, embedding)| Answer {
            class,
            latency_us,
            confidence,
            embedding,
        },
    );
    let answer = prop::option::weighted(0.9, answer);
    (keys, answer).prop_map(|(keys, answer)| Observed { keys, answer })
}

fn empty() -> Small {
    Profile::new(SPEC_ID, FEATURES).expect("there is room for the features")
}

fn profile_of(samples: &[Observed]) -> Small {
    let (spec, confidence_spec, mut profile) = (spec(), confidence_spec(), empty());
    for sample in samples {
        for (feature, &key) in sample.keys.iter().enumerate() {
            profile.observe_feature(feature, &spec, key);
        }
        match &sample.answer {
            Some(answer) => {
                profile.count_sample();
                profile.observe_class(answer.class);
                profile.observe_latency(answer.latency_us);
                let (class, outputs) = (Some(answer.class), profile.outputs_mut());
                outputs.observe_confidence(&confidence_spec, class, answer.confidence);
                outputs.observe_embedding(&answer.embedding).expect("they are equally long");
                let [a, b] = answer.embedding.map(|place| i32::from(place) << 20);
                outputs.observe_random_features(&[a, b, a]).expect("they are equally long");
            }
            None => profile.count_failed_sample(),
        }
    }
    profile
}

fn encoded<const F: usize, O: Outputs>(profile: &Profile<F, O>) -> Vec<u8> {
    let mut buffer = std::vec![0; Profile::<F, O>::ENCODED_BYTES_MAX];
    profile.encode(&mut buffer).expect("the buffer holds the longest profile").to_vec()
}

fn merged(mut a: Small, b: &Small) -> Small {
    a.merge(b).expect("both have the same spec");
    a
}

#[test]
fn the_bytes_of_version_2_stay_as_they_are() {
    let spec = BinSpec::integers(&[10, 20], 0, 30).expect("the spec is sound");
    let mut profile = GatewayProfile::new(SPEC_ID, 2).expect("there is room for two features");
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
    let outputs = profile.outputs_mut();
    outputs.observe_confidence(&confidence_spec(), Some(1), 0.5);
    outputs.observe_embedding(&[-1i8, 64]).expect("it is the first");
    outputs.observe_random_features(&[i32::MIN]).expect("it is the first");
    #[rustfmt::skip]
    let golden = [
        2,                                                  // version
        b's', b'e', b'l', b'v', b'e', b'd', b'g', b'e',     // spec id
        0b11_1111,                                          // all sections
        2, 0, 2, 8, 1,                                      // one run: 8 samples, 1 failed
        4, 3, 1, 1, 45, 1, 2,                               // two runs: bucket 3 once, bucket 49 twice
        4, 1, 1, 2, 62, 1, 1,                               // two runs: class 1 twice, other once
        2, 9, 1, 1, 0, 0,                                   // confidence: bin 8 once; at the origin
        2, 24, 1, 1,                                        // class 1 in bin 8 once
        2, 2, 0, 1, 1, 1, 0x80, 1,                          // one vector of two places: −1, 64
        1, 2, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 15,          // one vector of one place: −2³¹
        2,                                                  // two features
        4, 0, 4, 1, 1, 1, 2, 13, 2, 1, 1,                   // below, bins 0 to 2; above, NaN
        39, 0xa0, 6,                                        // Σ −20, Σ² 800, from the origin 20
        0,                                                  // nothing
    ];
    assert_eq!(encoded(&profile), golden);
    assert_eq!(GatewayProfile::decode(&golden), Ok(profile));
}

#[test]
fn a_profile_of_another_spec_is_not_added() {
    let mut profile = profile_of(&[Observed { keys: [1, 2, 3], answer: None }]);
    let before = profile.clone();
    let other_spec = Small::new(SpecId(*b"another1"), FEATURES).expect("there is room");
    let other_count = Small::new(SPEC_ID, FEATURES - 1).expect("there is room");
    assert_eq!(profile.merge(&other_spec), Err(Error::SpecMismatch));
    assert_eq!(profile.merge(&other_count), Err(Error::SpecMismatch));
    assert_eq!(profile, before);

    let (mut two, mut three) = (empty(), empty());
    two.outputs_mut().observe_random_features(&[1, 2]).expect("it is the first");
    three.outputs_mut().observe_random_features(&[1, 2, 3]).expect("it is the first");
    three.count_sample();
    assert_eq!(profile.merge(&two), Ok(()));
    let before = profile.clone();
    assert_eq!(profile.merge(&three), Err(Error::SpecMismatch));
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
    let mut with_class = Profile::<1, OutputCounts>::new(SPEC_ID, 1).expect("there is room");
    with_class.observe_class(0);
    assert_eq!(NodeProfile::decode(&encoded(&with_class)), Err(Error::OutputsUnexpected));
}

#[test]
fn a_node_has_no_room_for_what_models_answer() {
    assert!(size_of::<NodeProfile>() <= 1200, "{}", size_of::<NodeProfile>());
    assert!(size_of::<BinCounts>() <= 112, "{}", size_of::<BinCounts>());
}

#[test]
fn an_empty_profile_is_its_header() {
    assert_eq!(encoded(&empty()).len(), 1 + 8 + 1 + 1 + 1 + FEATURES);
}

/// Uniform numbers (Vigna, xorshift64*), of which twelve make a normal one.
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Edges at the sixteenths of a reference, and its ends as the guard.
fn spec_of(mut reference: Vec<f32>) -> BinSpec {
    reference.sort_unstable_by(f32::total_cmp);
    let key = |place: usize| crate::key_from_f32(reference[place]);
    let edges: Vec<i32> = (1..16).map(|edge| key(edge * reference.len() / 16)).collect();
    BinSpec::new(&edges, key(0), key(reference.len() - 1)).expect("the values differ")
}

#[test]
fn a_window_of_a_thousand_samples_keeps_to_its_bytes() {
    // drift.md, B3: at most 30 bytes per feature and 280 with ten features and the header. Sensors with
    // offsets and spreads of several magnitudes, one with a long tail, and one that has drifted.
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut value = |feature: usize| match feature {
        0..6 => 10f64.powi(feature as i32 - 2) * (20.0 + numbers.normal()),
        6 => 101_325.0 + 400.0 * numbers.normal(),
        7 => (1.5 * numbers.normal()).exp(),
        8 => -5.0 + 0.001 * numbers.uniform(),
        _ => numbers.normal(),
    } as f32;
    let specs: [BinSpec; 10] =
        core::array::from_fn(|feature| spec_of((0..10_000).map(|_| value(feature)).collect()));
    let mut profile = Profile::<10>::new(SPEC_ID, 10).expect("there is room");
    let without_features = Profile::<0>::new(SPEC_ID, 0).expect("no feature needs no room");
    for _ in 0..1000 {
        for (feature, spec) in specs.iter().enumerate() {
            let drift = if feature == 9 { 0.2 } else { 0.0 };
            profile.observe_f32(feature, spec, value(feature) + drift);
        }
        profile.count_sample();
    }
    let len_bytes = encoded(&profile).len();
    let per_feature_bytes = (len_bytes - encoded(&without_features).len()).div_ceil(10);
    std::println!("{len_bytes} bytes, {per_feature_bytes} per feature");
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
    let spec = confidence_spec();
    for class in 0..70 {
        profile.observe_class(class);
        for bin in 0..16 {
            let confidence = (bin as f32 + 0.5) / 16.0;
            profile.outputs_mut().observe_confidence(&spec, Some(class), confidence);
        }
    }
    let outputs = profile.outputs_mut();
    outputs.observe_embedding(&[i16::MIN; crate::DIMENSION_MAX]).expect("it is the first");
    outputs.observe_random_features(&[i32::MIN; crate::DIMENSION_MAX]).expect("it is the first");
    profile.count_failed_sample();
    // Doubling saturates every counter that is not zero.
    for _ in 0..32 {
        let twin = profile.clone();
        profile.merge(&twin).expect("it is the same spec");
    }
    assert!(profile.saturated());
    assert!(profile.features().iter().all(|feature| feature.saturated()));
    assert!(profile.outputs().embedding().saturated());
    assert_eq!(GatewayProfile::decode(&encoded(&profile)), Ok(profile));
}

#[test]
fn bytes_of_another_version_are_refused() {
    let mut bytes = encoded(&empty());
    for version in [PROFILE_VERSION - 1, PROFILE_VERSION + 1] {
        bytes[0] = version;
        assert_eq!(Small::decode(&bytes), Err(Error::Version));
    }
}

#[test]
fn a_spec_id_is_shown_in_hexadecimal() {
    assert_eq!(SpecId([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]).to_string(), "00010203fcfdfeff");
}

/// Where a profile comes from.
type Origin = (u64, u64);

/// A range of windows of one origin.
type Windows = (u64, u64);

/// What a fleet keeps: one profile per origin and window. A record of several windows that were merged on
/// the device replaces those of them that came before, and what it covers already is a duplicate.
#[derive(Default)]
struct Store {
    kept: BTreeMap<Origin, BTreeMap<Windows, Vec<u8>>>,
}

impl Store {
    fn receive(&mut self, origin: Origin, windows: Windows, bytes: &[u8]) {
        let kept = self.kept.entry(origin).or_default();
        let covers = |a: &Windows, b: &Windows| a.0 <= b.0 && b.1 <= a.1;
        if kept.keys().any(|there| covers(there, &windows)) {
            return;
        }
        kept.retain(|there, _| !covers(&windows, there));
        kept.insert(windows, bytes.to_vec());
    }

    fn sum(&self) -> Small {
        let profiles = self.kept.values().flat_map(BTreeMap::values);
        profiles.fold(empty(), |sum, bytes| {
            merged(sum, &Small::decode(bytes).expect("only profiles were sent"))
        })
    }
}

proptest! {
    #[test]
    fn any_delivery_of_windows_gives_the_same_state(
        samples in prop::collection::vec((observed(), 0..3u64, 0..4u64), 0..40),
        merges in prop::collection::vec((0..3u64, 0..4u64, 0..4u64), 0..4),
        shuffled in Just((0..60usize).collect::<Vec<_>>()).prop_shuffle(),
        replays in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let of = |device: u64, windows: Windows| {
            let inside = samples.iter().filter(|(_, owner, window)| {
                *owner == device && (windows.0..=windows.1).contains(window)
            });
            let inside: Vec<Observed> = inside.map(|(sample, ..)| sample.clone()).collect();
            ((device, 7), windows, encoded(&profile_of(&inside)))
        };
        // Each window is sent; ranges that were merged for want of room as well, if they nest.
        let mut sent: Vec<(Origin, Windows, Vec<u8>)> = Vec::new();
        for device in 0..3 {
            sent.extend((0..4).map(|window| of(device, (window, window))));
            let mut ranges: Vec<Windows> = Vec::new();
            for &(_, first, last) in merges.iter().filter(|(owner, ..)| *owner == device) {
                let range = (first.min(last), first.max(last));
                let nests = |other: &Windows| {
                    let apart = range.1 < other.0 || other.1 < range.0;
                    let within = other.0 <= range.0 && range.1 <= other.1;
                    apart || within || (range.0 <= other.0 && other.1 <= range.1)
                };
                if ranges.iter().all(nests) {
                    ranges.push(range);
                    sent.push(of(device, range));
                }
            }
        }
        let mut order: Vec<usize> = shuffled.into_iter().filter(|&n| n < sent.len()).collect();
        order.extend(replays.iter().map(|replay| replay.index(sent.len())));
        let mut store = Store::default();
        for place in order {
            let (origin, windows, bytes) = &sent[place];
            store.receive(*origin, *windows, bytes);
        }
        let whole: Vec<Observed> = samples.iter().map(|(sample, ..)| sample.clone()).collect();
        prop_assert_eq!(encoded(&store.sum()), encoded(&profile_of(&whole)));
    }

    #[test]
    fn decoding_and_merging_commute(
        a in prop::collection::vec(observed(), 0..12),
        b in prop::collection::vec(observed(), 0..12),
    ) {
        let (a, b) = (profile_of(&a), profile_of(&b));
        let read = |profile: &Small| Small::decode(&encoded(profile)).expect("it was just encoded");
        prop_assert_eq!(read(&merged(a.clone(), &b)), merged(read(&a), &read(&b)));
    }

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
        prop_assert_eq!(profile.outputs().confidence().total(), answered as u64);
        prop_assert_eq!(profile.outputs().class_confidence().total(), profile.outputs().confidence().bins().iter().map(|&count| u64::from(count)).sum::<u64>());
        prop_assert_eq!(profile.outputs().embedding().vectors() as usize, answered);
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
        match GatewayProfile::decode(&bytes).map(Box::new) {
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
