//! Counting samples allocates nothing (drift.md, B4): an allocator counts what it is asked for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use selvedge_sketch::{
    BinSpec, Calibration, ConfidenceSpec, Detector, DetectorPolicy, GatewayProfile, Measurement,
    ScoreTable, SpecId, key_from_f32,
};

const FEATURES: usize = 16;

std::thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all of it is the system's allocator; the counter beside it is a plain cell of the thread and allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer comes from `alloc` above, that is from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_inference_with_sixteen_features_is_counted_and_judged_without_an_allocation() {
    let edges = [-1.0, -0.3, 0.0, 0.3, 1.0].map(key_from_f32);
    let spec = BinSpec::new(&edges, key_from_f32(-3.0), key_from_f32(3.0)).expect("edges rise");
    let bins = BinSpec::new(&[key_from_f32(0.5)], key_from_f32(0.0), key_from_f32(1.0));
    let confidence = ConfidenceSpec::new(bins.expect("one edge"), 0).expect("the edge is there");
    let reference = [0, 500, 800, 900, 900, 800, 500, 0, 0];
    let table = ScoreTable::build(Measurement::Ordinal, &reference, &Calibration::independent());
    let table = table.expect("the reference has values");
    let policy = DetectorPolicy::default();
    let mut detector = Detector::<0>::new(&policy).expect("the policy has no cycle");
    let mut profile = GatewayProfile::new(SpecId(*b"selvedge"), FEATURES).expect("16 are fewer");
    let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];

    let before = ALLOCATIONS.get();
    for sample in 0..1000_u32 {
        for feature in 0..FEATURES {
            profile.observe_f32(feature, &spec, (sample % 600) as f32 / 100.0 - 3.0);
        }
        profile.observe_class(sample % 7);
        let share = (sample % 100) as f32 / 100.0;
        profile.outputs_mut().observe_confidence(&confidence, Some(sample % 7), share);
        profile.outputs_mut().observe_embedding(&[1i8, 2, 3]).expect("all have three places");
        profile.observe_latency(sample);
        profile.count_sample();
    }
    profile.encode(&mut buffer).expect("the buffer holds every profile");
    detector.update(&table, &policy, &[0, 40, 40, 40, 50, 40, 40, 0, 0]);
    detector.conclude(&table, &policy);
    assert_eq!(ALLOCATIONS.get() - before, 0);

    drop(vec![0_u8; 100]);
    assert_eq!(ALLOCATIONS.get() - before, 1, "what counts is awake");
}
