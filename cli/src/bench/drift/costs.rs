//! B3 and B4: what a window takes on the wire, and what counting a value costs here.
//!
//! On microcontrollers instructions are counted (`core/sketch/tests/instructions.rs`), and that nothing is allocated is
//! counted too (`core/sketch/tests/allocations.rs`). Here counting is set beside the plain way to do the same: a binary
//! search among float edges, counters for what is beyond them or not finite, and sums in `f64`, whose merge is not exact.

use std::hint::black_box;

use fastrand::Rng;
use selvedge_sketch::{
    BinCounts, CodeHistogram, Detector, DetectorPolicy, GatewayProfile, Kll200, SpecId,
    f32_from_key,
};

use super::{Effort, Row, streams::normal, windows::Reference};
use crate::bench::cpu_ns;

const SAMPLES: usize = 1000;
const FEATURES: usize = 10;
/// The features of one inference whose time is told.
const FEATURES_TIMED: usize = 16;
/// Values that are counted at once to be timed.
const VALUES: usize = 1 << 16;
/// How often each is timed, in turns; the fastest counts.
const ROUNDS: usize = 40;

/// The names of rows that are set beside those of other programs.
pub const BYTES_PER_FEATURE: &str = "B3 bytes per feature, 1,000 samples";
pub const NS_PER_FLOAT: &str = "B4 ns per float";

/// Bytes on the wire, and costs per value.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let past: Vec<Vec<f32>> = (0..40).map(|_| values(SAMPLES, random)).collect();
    let reference = Reference::build(&past, 0);
    let mut rows = bytes(&reference, effort.of(100), random);
    rows.extend(times(&reference, effort.of(ROUNDS), random));
    rows
}

fn values(count: usize, random: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| normal(random) as f32).collect()
}

/// The longest of several profiles.
fn bytes(reference: &Reference, windows: usize, random: &mut Rng) -> Vec<Row> {
    let (mut largest, mut per_feature, mut of_latency) = (0, 0.0_f64, 0);
    for _ in 0..windows {
        let mut profile = GatewayProfile::new(SpecId(*b"selvedge"), FEATURES)
            .expect("ten features are fewer than 64");
        let mut latencies = profile.clone();
        for _ in 0..SAMPLES {
            for feature in 0..FEATURES {
                profile.observe_f32(feature, reference.spec(), normal(random) as f32);
            }
            profile.count_sample();
            latencies.observe_latency((2000.0 * (0.5 * normal(random)).exp()) as u32);
        }
        let mut header = GatewayProfile::new(SpecId(*b"selvedge"), 0).expect("none is fewer");
        (0..SAMPLES).for_each(|_| header.count_sample());
        let len = encoded_len(&profile);
        largest = largest.max(len);
        per_feature = per_feature.max((len - encoded_len(&header)) as f64 / FEATURES as f64);
        let empty = GatewayProfile::new(SpecId(*b"selvedge"), FEATURES).expect("as above");
        of_latency = of_latency.max(encoded_len(&latencies) - encoded_len(&empty));
    }
    vec![
        Row::at_most(BYTES_PER_FEATURE, per_feature, 30.0),
        Row::at_most("B3 bytes, ten features and header, 1,000 samples", largest as f64, 280.0),
        Row::at_most("B9 bytes of latencies, 1,000 samples", of_latency as f64, 130.0),
    ]
}

fn encoded_len(profile: &GatewayProfile) -> usize {
    let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];
    profile.encode(&mut buffer).expect("the buffer holds every profile").len()
}

fn times(reference: &Reference, rounds: usize, random: &mut Rng) -> Vec<Row> {
    let values = values(VALUES, random);
    let codes: Vec<i8> = values.iter().map(|value| (value * 30.0) as i8).collect();
    let spec = reference.spec();
    let edges: Vec<f32> = spec.edges().iter().map(|&edge| f32_from_key(edge)).collect();
    let windows: Vec<Vec<u32>> =
        values.chunks(250).map(|window| reference.count(window.iter().copied())).collect();
    let policy = DetectorPolicy::default();
    let mut counted = || {
        let mut counts = BinCounts::new();
        values.iter().for_each(|&value| counts.observe_f32(spec, value));
        black_box(&counts);
    };
    let mut searched = || {
        let mut counts = [0_u32; 16];
        for value in &values {
            counts[edges.partition_point(|edge| edge <= value)] += 1;
        }
        black_box(&counts);
    };
    let mut same_in_floats = || {
        let (mut counts, mut not_finite) = ([0_u32; 18], [0_u32; 3]);
        let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
        let (min, max) = (f32_from_key(spec.min()), f32_from_key(spec.max()));
        for &value in &values {
            if value.is_nan() {
                not_finite[0] += 1;
            } else if value.is_infinite() {
                not_finite[if value > 0.0 { 1 } else { 2 }] += 1;
            } else {
                let cell = match value {
                    _ if value < min => 0,
                    _ if value > max => 17,
                    _ => 1 + edges.partition_point(|edge| *edge <= value),
                };
                counts[cell] += 1;
                sum += f64::from(value);
                squares += f64::from(value) * f64::from(value);
            }
        }
        black_box((&counts, &not_finite, sum, squares));
    };
    let mut histogram = || {
        let mut counts = CodeHistogram::new();
        codes.iter().for_each(|&code| counts.observe_i8(code));
        black_box(&counts);
    };
    let mut kll = || {
        let mut sketch = Kll200::new(200, 1).expect("the buffer is made for that k");
        values.iter().for_each(|&value| sketch.update(value));
        black_box(&sketch);
    };
    let mut inferences = || {
        let mut profile =
            GatewayProfile::new(SpecId(*b"selvedge"), FEATURES_TIMED).expect("16 are fewer");
        for sample in values.chunks_exact(FEATURES_TIMED) {
            for (feature, &value) in sample.iter().enumerate() {
                profile.observe_f32(feature, spec, value);
            }
            profile.count_sample();
        }
        black_box(&profile);
    };
    let mut detected = || {
        let mut detector = Detector::<0>::new(&policy).expect("the policy has no cycle");
        for counts in &windows {
            detector.update(&reference.table, &policy, counts);
            detector.conclude(&reference.table, &policy);
        }
        black_box(&detector);
    };
    let mut runs: [&mut dyn FnMut(); 7] = [
        &mut counted,
        &mut same_in_floats,
        &mut searched,
        &mut histogram,
        &mut kll,
        &mut inferences,
        &mut detected,
    ];
    let mut fastest = [u64::MAX; 7];
    for _ in 0..rounds {
        for (fastest, run) in fastest.iter_mut().zip(&mut runs) {
            let started = cpu_ns();
            run();
            *fastest = (*fastest).min(cpu_ns() - started);
        }
    }
    let per_value = fastest.map(|ns| ns as f64 / VALUES as f64);
    let [counted, same_in_floats, searched, histogram, kll, inferences, detected] = per_value;
    vec![
        Row::at_most(
            "B4 time of counting a float / of the same in float arithmetic",
            counted / same_in_floats,
            1.25,
        ),
        Row::at_most("B4 time of counting a float / of a KLL sketch", counted / kll, 0.25),
        Row::open(NS_PER_FLOAT, counted),
        Row::open("B4 ns per float, the same in float arithmetic", same_in_floats),
        Row::open("B4 ns per float, binary search alone", searched),
        Row::open("B4 ns per float, KLL sketch", kll),
        Row::open("B4 ns per i8", histogram),
        Row::open("B4 ns per inference with 16 floats", inferences * FEATURES_TIMED as f64),
        Row::open("B4 ns per window in a detector", detected * 250.0),
    ]
}
