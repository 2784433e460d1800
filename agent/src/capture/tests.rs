use super::*;
use crate::{clock::SystemClock, disk::simulated::SimulatedDisk};

const CONFIG: CaptureConfig = CaptureConfig {
    samples_max: 3,
    bytes_max: 400,
    per_hour_max: 5,
    upload_bytes_per_day_max: 1 << 20,
};

fn candidate(number: u64, sample: &Sample, see: impl FnOnce(Candidate<'_>)) {
    let slot = "main".parse().expect("the name is well formed");
    let (bundle, reason) = (Digest([7; 32]), CaptureReason::Anomalous);
    see(Candidate { slot: &slot, bundle, source: "pump", number, reason, sample });
}

/// The numbers of the samples in the ring.
fn captured(disk: &SharedDisk) -> Vec<u64> {
    let names = disk.list(DIR).expect("the disk works");
    let read = |name: &String| {
        let bytes = disk.read(&format!("{DIR}/{name}")).expect("the disk works");
        let bytes = bytes.expect("it was just listed");
        let sample = CapturedSample::decode(&bytes).expect("our own");
        assert_eq!((sample.boot, &*sample.source), (Boot(4), "pump"));
        sample.number
    };
    names.iter().map(read).collect()
}

#[tokio::test]
async fn the_newest_samples_are_kept_within_the_hours_share_and_a_restart_keeps_them() {
    let disk: SharedDisk = Arc::new(SimulatedDisk::new());
    for first in [0, 100] {
        let (capture, samples) = Capture::new(&CONFIG, Boot(4), Arc::new(SystemClock::new()));
        let sink = capture.sink();
        for number in first..first + 9 {
            candidate(number, &Sample::Row(vec![f32::NAN, 1.0]), &sink);
        }
        drop((capture, sink));
        run_ring(disk.clone(), CONFIG, samples).await;
        // Five of nine pass, and three of them have room.
        assert_eq!(captured(&disk), [first + 2, first + 3, first + 4]);
    }
    let narrower = CaptureConfig { samples_max: 1, ..CONFIG };
    Ring::open(disk.clone(), narrower).expect("the disk works");
    assert_eq!(captured(&disk), [104]);
}

#[test]
fn bytes_are_bounded_and_what_is_too_long_is_left_out() {
    let disk: SharedDisk = Arc::new(SimulatedDisk::new());
    let mut ring = Ring::open(disk.clone(), CONFIG).expect("the disk works");
    for (number, len) in [(0, 10), (1, 10), (2, 240), (3, 2_000)] {
        let image = Sample::Image { shape: vec![len, 1], data: vec![0; len] };
        candidate(number, &image, |offered| {
            let sample = CapturedSample::of(Boot(4), 0, offered).expect("its axes are short");
            ring.put(&sample.encode()).expect("the disk works");
        });
        let bytes: u64 = ring.files.iter().map(|(_, len)| len).sum();
        assert!(bytes <= CONFIG.bytes_max);
    }
    assert_eq!(captured(&disk), [1, 2]);
}

#[test]
fn no_hour_has_more_than_its_share() {
    let mut rate = Rate::new(5);
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let passed: Vec<u64> = (0..180).filter(|minute| rate.permits(minutes(*minute))).collect();
    assert_eq!(passed, [0, 1, 2, 3, 4, 60, 61, 62, 63, 64, 120, 121, 122, 123, 124]);
    assert!(!Rate::new(0).permits(Duration::ZERO));
}
