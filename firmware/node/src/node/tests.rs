use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    vec::Vec,
};

use embedded_hal::i2c::ErrorKind;
use proptest::prelude::*;
use selvedge_sketch::{GatewayProfile, LatencyHistogram};
use selvedge_wire::FrameDecoder;

use super::*;
use crate::tmp105::double::SensorDouble;

const ADDRESS: u8 = 0x48;
const IDENTITY: Identity = Identity { node: NodeId(0x5254_0012_3456), firmware: "0.1.0" };
const SCHEDULE: Schedule = Schedule::new(100, 8);

/// A clock that tests move; each look at the microseconds moves it by `step_us` more.
#[derive(Clone, Default)]
struct ClockDouble {
    us: Rc<Cell<u64>>,
    step_us: Rc<Cell<u64>>,
}

impl ClockDouble {
    fn advance_ms(&self, ms: u64) {
        self.us.set(self.us.get() + ms * 1000);
    }
}

impl Clock for ClockDouble {
    fn uptime_ms(&mut self) -> u32 {
        (self.us.get() / 1000) as u32
    }

    fn uptime_us(&mut self) -> u32 {
        self.us.set(self.us.get() + self.step_us.get());
        self.us.get() as u32
    }
}

/// A line that keeps what was written, and refuses writes on demand.
#[derive(Clone, Default)]
struct LineDouble {
    bytes: Rc<RefCell<VecDeque<u8>>>,
    is_broken: Rc<Cell<bool>>,
}

impl embedded_io::ErrorType for LineDouble {
    type Error = embedded_io::ErrorKind;
}

impl Write for LineDouble {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        if self.is_broken.get() {
            return Err(embedded_io::ErrorKind::BrokenPipe);
        }
        // Half at most: the node must write the rest.
        let len = bytes.len().div_ceil(2);
        self.bytes.borrow_mut().extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Hello,
    Reading(Reading),
    Profile { window: u32, profile: std::boxed::Box<GatewayProfile> },
    SensorFailed(u32),
}

impl LineDouble {
    /// What was said since the last call. Every message must come from the node under test.
    fn take(&self) -> Vec<Said> {
        let mut decoder = FrameDecoder::new();
        let mut said = Vec::new();
        for byte in self.bytes.borrow_mut().drain(..) {
            let Some(message) = decoder.push(byte) else { continue };
            let (node, what) = match message.expect("a node writes whole frames") {
                NodeMessage::Hello { node, firmware } => {
                    assert_eq!(firmware, IDENTITY.firmware);
                    (node, Said::Hello)
                }
                NodeMessage::Reading { node, reading } => (node, Said::Reading(reading)),
                NodeMessage::Profile { node, window, profile } => {
                    let profile = GatewayProfile::decode(profile).expect("a node writes profiles");
                    (node, Said::Profile { window, profile: profile.into() })
                }
                NodeMessage::SensorFailed { node, count } => (node, Said::SensorFailed(count)),
            };
            assert_eq!(node, IDENTITY.node);
            said.push(what);
        }
        said
    }
}

struct Bench {
    sensor: SensorDouble,
    clock: ClockDouble,
    line: LineDouble,
    node: Node<SensorDouble, ClockDouble, LineDouble>,
}

impl Bench {
    fn new(schedule: Schedule) -> Self {
        let sensor = SensorDouble::at(ADDRESS);
        let (clock, line) = (ClockDouble::default(), LineDouble::default());
        let tmp105 = Tmp105::new(sensor.clone(), ADDRESS);
        let node = Node::new(IDENTITY, schedule, tmp105, clock.clone(), line.clone());
        Self { sensor, clock, line, node }
    }

    fn poll(&mut self) -> Progress {
        self.node.poll().expect("the line is whole")
    }

    /// One period passes, and the node is polled at its end.
    fn period(&mut self) -> Vec<Said> {
        self.poll();
        self.clock.advance_ms(u64::from(SCHEDULE.period_ms));
        self.line.take()
    }
}

#[test]
fn a_window_has_a_hello_its_readings_and_a_profile_that_counts_them() {
    let mut bench = Bench::new(SCHEDULE);
    bench.clock.step_us.set(150);
    let mut said = Vec::new();
    let temperatures = [21_000, 21_500, -30_000, 3_000, 127_000, -20_000, 50_000, 21_250];
    for milli in temperatures {
        bench.sensor.set_milli_celsius(milli);
        said.extend(bench.period());
    }
    assert_eq!(said.first(), Some(&Said::Hello));
    assert_eq!(said.last(), Some(&Said::Hello));
    let Some((Said::Profile { window: 0, profile }, readings)) = said[1..10].split_last() else {
        panic!("the profile follows the readings: {said:?}");
    };
    for (count, (said, milli)) in readings.iter().zip(temperatures).enumerate() {
        let Said::Reading(reading) = said else { panic!("a reading is due: {said:?}") };
        assert_eq!((reading.count as usize, reading.value), (count, milli));
    }
    assert_eq!((profile.samples(), profile.failed()), (8, 0));
    assert_eq!(profile.spec_id(), TEMPERATURE_SPEC_ID);
    assert_eq!(profile.features()[0].bins(), [1, 1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 2]);
    assert_eq!(profile.latency().quantile_bucket(500), Some(144..=159));
    assert_eq!(profile.latency().total(), 8);
}

#[test]
fn a_sensor_that_fails_is_told_and_counted_and_may_come_back() {
    let mut bench = Bench::new(SCHEDULE);
    bench.period();
    bench.sensor.unplug();
    assert_eq!(bench.period(), [Said::SensorFailed(1)]);
    assert_eq!(bench.period(), [Said::SensorFailed(2)]);
    bench.sensor.plug_in();
    bench.sensor.set_milli_celsius(1_000);
    bench.sensor.fail_after(0, ErrorKind::ArbitrationLoss);
    assert_eq!(bench.period(), [Said::SensorFailed(3)]);
    let [Said::Reading(reading)] = bench.period()[..] else { panic!("the sensor is back") };
    assert_eq!((reading.count, reading.value), (1, 1_000));
    let said: Vec<Said> = (0..3).flat_map(|_| bench.period()).collect();
    let Some(Said::Profile { profile, .. }) = said.get(3) else { panic!("{said:?}") };
    assert_eq!((profile.samples(), profile.failed()), (8, 3));
    assert_eq!(profile.features()[0].total(), 5);
}

#[test]
fn a_window_of_failures_alone_closes_all_the_same() {
    let mut bench = Bench::new(SCHEDULE);
    bench.sensor.unplug();
    let said: Vec<Said> = (0..8).flat_map(|_| bench.period()).collect();
    let Some(Said::Profile { profile, .. }) = said.get(9) else { panic!("{said:?}") };
    assert_eq!((profile.samples(), profile.failed()), (8, 8));
    assert_eq!(profile.features()[0].total(), 0);
}

#[test]
fn a_broken_line_shows_as_gaps_and_nothing_else() {
    let mut bench = Bench::new(SCHEDULE);
    bench.period();
    bench.line.is_broken.set(true);
    for _ in 1..10 {
        assert_eq!(bench.node.poll(), Err(embedded_io::ErrorKind::BrokenPipe));
        bench.clock.advance_ms(100);
    }
    bench.line.is_broken.set(false);
    let said: Vec<Said> = (10..16).flat_map(|_| bench.period()).collect();
    let Said::Reading(first) = said[0] else { panic!("{said:?}") };
    assert_eq!((first.count, first.uptime_ms), (10, 1000));
    let Some(Said::Profile { window: 1, profile }) = said.get(6) else { panic!("{said:?}") };
    assert_eq!(profile.samples(), 8);
}

#[test]
fn a_node_that_is_not_polled_for_long_leaves_readings_out_and_keeps_its_pace() {
    let mut bench = Bench::new(SCHEDULE);
    assert_eq!(bench.poll(), Progress::Sampled);
    assert_eq!(bench.poll(), Progress::Idle);
    bench.clock.advance_ms(99);
    assert_eq!(bench.poll(), Progress::Idle);
    bench.clock.advance_ms(51);
    assert_eq!(bench.poll(), Progress::Sampled);
    bench.clock.advance_ms(50);
    assert_eq!(bench.poll(), Progress::Sampled, "half a period late does not delay the next");
    bench.clock.advance_ms(1000);
    assert_eq!(bench.poll(), Progress::Sampled);
    assert_eq!(bench.poll(), Progress::Idle, "what was missed is not made up for");
}

#[test]
fn a_clock_that_wraps_around_does_not_stop_the_node() {
    let mut bench = Bench::new(SCHEDULE);
    bench.clock.advance_ms(u64::from(u32::MAX) - 150);
    for _ in 0..5 {
        assert_eq!(bench.poll(), Progress::Sampled);
        bench.clock.advance_ms(99);
        assert_eq!(bench.poll(), Progress::Idle);
        bench.clock.advance_ms(1);
    }
}

#[test]
fn the_longest_profile_of_a_window_fits_its_frame() {
    let bins = temperature_bins();
    let mut profile = empty_profile();
    for sample in 0..WINDOW_SAMPLES_MAX {
        // Every third bucket, so that each latency is a run of its own.
        profile.observe_latency(lowest_us(3 * sample));
        let milli =
            [-60_000, -30_000, -17_000, -7_000, 3_000, 13_000, 23_000, 33_000, 43_000, 129_000];
        profile.observe_feature(0, &bins, milli[sample as usize % milli.len()]);
        if sample % 2 == 0 { profile.count_sample() } else { profile.count_failed_sample() }
    }
    let mut buffer = [0; PROFILE_BYTES_MAX];
    let profile = profile.encode(&mut buffer).expect("the profile keeps to its limit");
    let message = NodeMessage::Profile { node: NodeId(u64::MAX), window: u32::MAX, profile };
    assert!(encode_frame(&message, &mut [0; FRAME_ENCODED_BYTES_MAX]).is_ok());
}

/// The lowest latency of a bucket, checked against the histogram.
fn lowest_us(bucket: u32) -> u32 {
    let octave = (bucket / 8).saturating_sub(1);
    let latency_us = (bucket - 8 * octave) << octave;
    let mut histogram = LatencyHistogram::new();
    histogram.observe(latency_us);
    let bounds = histogram.quantile_bucket(0).expect("one latency was counted");
    assert_eq!(*bounds.start(), latency_us);
    latency_us
}

proptest! {
    #[test]
    fn every_window_of_any_samples_fits_its_limit(
        samples in prop::collection::vec((any::<u32>(), 0..32u32, any::<i32>()), 0..=64usize),
    ) {
        let (bins, mut profile) = (temperature_bins(), empty_profile());
        for (latency, shift, key) in samples {
            profile.count_sample();
            profile.observe_latency(latency >> shift);
            profile.observe_feature(0, &bins, key);
        }
        prop_assert!(profile.encode(&mut [0; PROFILE_BYTES_MAX]).is_ok());
    }

    #[test]
    fn profiles_count_what_was_said_whatever_fails(faults in prop::collection::vec(0..4u8, 64)) {
        let mut bench = Bench::new(SCHEDULE);
        let (bins, mut expected) = (temperature_bins(), empty_profile());
        let mut windows_seen = 0;
        for fault in faults {
            match fault {
                0 => bench.sensor.fail_after(0, ErrorKind::Bus),
                1 => bench.sensor.set_milli_celsius(40_000),
                _ => bench.sensor.set_milli_celsius(-2_000),
            }
            for said in bench.period() {
                match said {
                    Said::Reading(reading) => {
                        expected.count_sample();
                        expected.observe_feature(0, &bins, reading.value);
                    }
                    Said::SensorFailed(_) => expected.count_failed_sample(),
                    Said::Profile { window, profile } => {
                        prop_assert_eq!(window, windows_seen);
                        windows_seen += 1;
                        prop_assert_eq!(profile.features(), expected.features());
                        prop_assert_eq!(profile.samples(), expected.samples());
                        prop_assert_eq!(profile.failed(), expected.failed());
                        expected = empty_profile();
                    }
                    Said::Hello => {}
                }
            }
        }
        prop_assert_eq!(windows_seen, 8);
    }
}
