use std::vec::Vec;

use proptest::prelude::*;

use super::{learner::Learner, mixture::Tested, *};
use crate::{Error, LogEvidence};

/// A reference of a million samples: what it does not know is next to nothing.
const REFERENCE: [u32; 8] = [0, 200_000, 100_000, 300_000, 250_000, 150_000, 0, 0];

fn table() -> ScoreTable {
    ScoreTable::build(Measurement::Ordinal, &REFERENCE, &Calibration::independent())
        .expect("the reference is sound")
}

fn policy(alarm_windows: u32, samples_min: u16, cycle_windows: u16) -> DetectorPolicy {
    DetectorPolicy::new(alarm_windows, samples_min, cycle_windows, 3).expect("the policy is sound")
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A window of independent draws from the table's own shares.
    fn window(&mut self, table: &ScoreTable, samples: u32) -> Vec<u32> {
        let mut counts = std::vec![0; table.cell_count()];
        for _ in 0..samples {
            let mut left = (self.next() >> 48) as u32;
            let cell = table.weights.weights.iter().position(|&weight| {
                let is_here = left < u32::from(weight);
                left = left.wrapping_sub(weight.into());
                is_here
            });
            counts[cell.expect("the shares sum up to one")] += 1;
        }
        counts
    }
}

fn run<const CYCLES: usize>(
    detector: &mut Detector<CYCLES>,
    policy: &DetectorPolicy,
    windows: &[Vec<u32>],
) -> Vec<DetectorState> {
    let table = table();
    let judge = |window: &Vec<u32>| {
        detector.update(&table, policy, window);
        detector.conclude(&table, policy)
    };
    windows.iter().map(judge).collect()
}

#[test]
fn the_first_alarm_comes_after_as_many_windows_as_the_policy_says_on_average() {
    let (table, mut random) = (table(), Random(7));
    for (alarm_windows, cycle_windows) in [(20, 0), (60, 0), (60, 4)] {
        let policy = policy(alarm_windows, 1, cycle_windows);
        let runs = 150;
        let mut windows = 0;
        for _ in 0..runs {
            let mut detector = Detector::<1>::new(&policy).expect("there is room for cycles");
            // Cutting a run short only lowers the average.
            for _ in 0..20 * alarm_windows {
                windows += 1;
                detector.update(&table, &policy, &random.window(&table, 30));
                if detector.conclude(&table, &policy) == DetectorState::Drifted {
                    break;
                }
            }
        }
        assert!(windows >= runs * alarm_windows, "{alarm_windows}: {windows} in {runs} runs");
    }
}

#[test]
fn windows_lead_to_the_same_bytes_on_every_machine() {
    let (table, policy) = (table(), policy(1000, 40, 3));
    let mut random = Random(1);
    let mut detector = Detector::<1>::new(&policy).expect("there is room for cycles");
    for samples in [100, 20, 30, 250, 10_000, 70_000, 5, 90] {
        detector.update(&table, &policy, &random.window(&table, samples));
        detector.conclude(&table, &policy);
    }
    let bytes = postcard::to_allocvec(&detector).expect("a state encodes");
    let fold = |hash: u32, &byte: &u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = bytes.iter().fold(0x811c_9dc5, fold);
    assert_eq!((bytes.len(), hash, detector.evidence().raw()), (290, 3_184_176_749, -35_552));
}

#[test]
fn small_windows_are_tested_together() {
    let (table, policy) = (table(), policy(1000, 100, 0));
    let parts = [std::vec![0, 9, 5, 13, 11, 7, 0, 0], std::vec![0, 11, 5, 17, 14, 8, 0, 0]];
    let mut apart = Detector::<0>::new(&policy).expect("there is no cycle");
    let states = run(&mut apart, &policy, &parts);
    assert_eq!(states, [DetectorState::Insufficient, DetectorState::Steady]);
    let mut random = Random(3);
    let mut detector = Detector::<0>::new(&policy).expect("there is no cycle");
    detector.update(&table, &policy, &random.window(&table, 99));
    assert_eq!(detector.newest_evidence(), LogEvidence::NONE);
    detector.update(&table, &policy, &random.window(&table, 1));
    assert_ne!(detector.newest_evidence(), LogEvidence::NONE);
}

#[test]
fn a_drift_stays_until_enough_calm_windows_have_passed() {
    let policy = policy(1000, 100, 0);
    let mut detector = Detector::<0>::new(&policy).expect("there is no cycle");
    let (calm, shifted) =
        (std::vec![0, 50, 25, 75, 62, 38, 0, 0], std::vec![0, 20, 15, 65, 80, 70, 0, 0]);
    let states = run(&mut detector, &policy, &[calm.clone(), calm.clone(), shifted.clone()]);
    assert_eq!(states, [DetectorState::Steady, DetectorState::Steady, DetectorState::Drifted]);
    let finding = detector.finding().expect("a drift has a finding");
    assert_eq!((finding.change, finding.windows, finding.in_cycles), (Change::Rises, 1, false));
    // However long it lasts, it is over as soon as it is over.
    run(&mut detector, &policy, &std::vec![shifted; 500]);
    assert_eq!(detector.finding().map(|finding| finding.windows), Some(501));
    let states = run(&mut detector, &policy, &std::vec![calm; 30]);
    let cleared = states.iter().position(|&state| state == DetectorState::Steady);
    assert!(cleared.is_some_and(|windows| (2..10).contains(&windows)), "{states:?}");
    assert_eq!(detector.finding(), None);
}

#[test]
fn a_cycle_is_tested_when_it_is_complete() {
    // Each window is far from the reference; the four of a cycle together are the reference.
    let rhythm = [
        std::vec![0, 60, 30, 10, 0, 0, 0, 0],
        std::vec![0, 0, 0, 50, 50, 0, 0, 0],
        std::vec![0, 0, 0, 40, 30, 30, 0, 0],
        std::vec![0, 20, 10, 20, 20, 30, 0, 0],
    ];
    let windows: Vec<Vec<u32>> = rhythm.iter().cycle().take(80).cloned().collect();
    let mut inflation = VarianceInflation::new(Measurement::Ordinal, &REFERENCE, 4)
        .expect("the reference is sound");
    windows.iter().for_each(|window| inflation.observe(window));
    let calibration = inflation.calibration();
    let table = ScoreTable::build(Measurement::Ordinal, &REFERENCE, &calibration)
        .expect("the reference is sound");
    let policy = policy(1000, 100, 4);
    let mut detector = Detector::<1>::new(&policy).expect("there is room for cycles");
    for window in &windows {
        detector.update(&table, &policy, window);
        assert_eq!(detector.conclude(&table, &policy), DetectorState::Steady);
    }
    let shifted = windows.iter().map(|window| {
        let mut shifted = window.clone();
        shifted[2..6].rotate_right(1);
        shifted
    });
    let states: Vec<_> = shifted
        .map(|window| {
            detector.update(&table, &policy, &window);
            detector.conclude(&table, &policy)
        })
        .collect();
    let found = states.iter().position(|&state| state == DetectorState::Drifted);
    assert!(found.is_some_and(|windows| windows < 12), "{found:?}");
    assert!(detector.finding().is_some_and(|finding| finding.in_cycles));
}

#[test]
fn a_policy_with_cycles_needs_room_for_them() {
    assert_eq!(Detector::<0>::new(&policy(1000, 100, 24)), Err(Error::Policy));
    for (alarm_windows, samples_min, clear_windows) in [(1, 1, 1), (2, 0, 1), (2, 1, 0)] {
        let policy = DetectorPolicy::new(alarm_windows, samples_min, 0, clear_windows);
        assert_eq!(policy, Err(Error::Policy));
    }
}

#[test]
fn of_several_streams_those_that_drifted_are_named() {
    let (table, policy) = (table(), policy(1000, 100, 0));
    let mut detectors = std::vec![Detector::<0>::new(&policy).expect("there is no cycle"); 16];
    let tables = [&table; 16];
    let mut random = Random(5);
    let mut alarms = 0;
    for passed in 0..30 {
        for (stream, detector) in detectors.iter_mut().enumerate() {
            let mut window = random.window(&table, 250);
            if passed >= 20 && stream % 5 == 0 {
                window[1..6].rotate_right(1);
            }
            detector.update(&table, &policy, &window);
        }
        alarms += conclude_all(&mut detectors, &tables, &policy);
    }
    let named: Vec<usize> =
        (0..16).filter(|&stream| detectors[stream].finding().is_some()).collect();
    assert_eq!((alarms, named), (4, std::vec![0, 5, 10, 15]));
}

#[test]
fn windows_that_vary_more_are_worth_less() {
    let table = table();
    let calibration = |repeats: u32, windows: u32| {
        let mut random = Random(11);
        let mut inflation = VarianceInflation::new(Measurement::Ordinal, &REFERENCE, 0)
            .expect("the reference is sound");
        for _ in 0..windows {
            let mut window = random.window(&table, 250 / repeats);
            window.iter_mut().for_each(|count| *count *= repeats);
            inflation.observe(&window);
        }
        inflation.calibration()
    };
    let independent = calibration(1, 200);
    assert!(independent.is_calibrated() && independent.eta() > 0.7, "{independent:?}");
    // Each value comes ten times: the variance of a window is ten times as large.
    let sticky = calibration(10, 200);
    assert!((0.06..0.1).contains(&sticky.eta()), "{sticky:?}");
    let few = calibration(1, 10);
    assert!(!few.is_calibrated() && few.eta() <= 0.2, "{few:?}");
    assert!(!calibration(1, 0).is_calibrated());
    for (calibration, uncalibrated) in [(independent, false), (few, true)] {
        let table = ScoreTable::build(Measurement::Ordinal, &REFERENCE, &calibration);
        assert_eq!(table.expect("the reference is sound").uncalibrated(), uncalibrated);
    }
}

#[test]
fn a_reference_without_variance_finds_what_is_new() {
    let reference = [0, 10_000, 0, 0];
    let table = ScoreTable::build(Measurement::Ordinal, &reference, &Calibration::unknown())
        .expect("one bin is enough");
    let policy = policy(10_000, 100, 0);
    let mut detector = Detector::<0>::new(&policy).expect("there is no cycle");
    let mut judge = |window: [u32; 4]| {
        detector.update(&table, &policy, &window);
        detector.conclude(&table, &policy)
    };
    assert!((0..50).all(|_| judge([0, 250, 0, 0]) == DetectorState::Steady));
    assert!((0..3).any(|_| judge([0, 150, 100, 0]) == DetectorState::Drifted));
}

#[test]
fn a_class_that_becomes_frequent_is_named() {
    let reference = [6000, 3000, 1000];
    let table = ScoreTable::build(Measurement::Nominal, &reference, &Calibration::unknown())
        .expect("there are classes");
    let policy = policy(10_000, 100, 0);
    let mut detector = Detector::<0>::new(&policy).expect("there is no cycle");
    for window in std::iter::repeat_n([600, 300, 100], 20).chain([[500, 300, 200]; 3]) {
        detector.update(&table, &policy, &window);
        detector.conclude(&table, &policy);
    }
    assert_eq!(detector.finding().map(|finding| finding.change), Some(Change::Class(2)));
}

#[test]
fn a_state_of_another_version_or_that_cannot_be_is_not_read() {
    let mut bytes = postcard::to_allocvec(&Detector::<0>::new(&DetectorPolicy::default()).ok())
        .expect("a state encodes");
    assert!(postcard::from_bytes::<Option<Detector<0>>>(&bytes).is_ok());
    assert_eq!(bytes[1], STATE_VERSION);
    bytes[1] += 1;
    assert!(postcard::from_bytes::<Option<Detector<0>>>(&bytes).is_err());
}

proptest! {
    #[test]
    fn a_detector_goes_on_where_it_was_saved(
        windows in prop::collection::vec(prop::collection::vec(prop_oneof![0..90u32, Just(0), any::<u32>()], 8), 1..20),
        cut in 0..20usize,
    ) {
        let policy = policy(1000, 100, 3);
        let new = || Detector::<1>::new(&policy).expect("there is room for cycles");
        let (mut whole, mut first) = (new(), new());
        run(&mut whole, &policy, &windows);
        let cut = cut.min(windows.len());
        run(&mut first, &policy, &windows[..cut]);
        let bytes = postcard::to_allocvec(&first).expect("a state encodes");
        let mut second: Detector<1> = postcard::from_bytes(&bytes).expect("it was a state");
        prop_assert_eq!(&second, &first);
        run(&mut second, &policy, &windows[cut..]);
        prop_assert_eq!(second, whole);
    }

    #[test]
    fn whatever_was_learnt_one_sample_is_an_e_value(
        windows in prop::collection::vec(prop::collection::vec(0..3000i32, 8), 0..10)
    ) {
        let table = table();
        let mut learner = Learner::new();
        for window in windows {
            let mut cells = [0; CELL_COUNT_MAX];
            cells[..8].copy_from_slice(&window);
            let total = window.iter().map(|&count| u64::from(count.cast_unsigned())).sum();
            learner.learn(&Tested { cells: &cells, total, windows: 1 });
            prop_assert!(learner.is_sound());
        }
        let mean: f64 = (0..8).map(|cell| {
            let mut cells = [0; CELL_COUNT_MAX];
            cells[cell] = 1;
            let log = learner.evidence(&table.weights, &Tested { cells: &cells, total: 1, windows: 1 });
            f64::from(table.weights.weights[cell]) / 65_536.0 * (log as f64 / 65_536.0).exp()
        }).sum();
        prop_assert!(mean <= 1.0, "{}", mean);
    }

    #[test]
    fn any_bytes_are_a_state_that_works_or_none(bytes: Vec<u8>) {
        if let Ok(mut detector) = postcard::from_bytes::<Detector<1>>(&bytes) {
            run(&mut detector, &policy(1000, 100, 3), &std::vec![std::vec![u32::MAX; 8]; 5]);
        }
    }
}
