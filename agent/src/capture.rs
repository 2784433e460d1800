//! Samples that were odd, or came while their bundle drifted, kept on the disk to be looked at: a bounded ring,
//! off unless it is configured.
//!
//! A sample is kept under the name of its result: the boot, the source, and the source's number of the sample.
//! No more are kept in an hour than the configuration says, and the oldest make room for the newest. A sample is
//! cloned only if it is kept, and nobody waits for the disk: what comes too fast for it is left out.
//!
//! A file is one version byte and a postcard [`CapturedSample`]; its name counts up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use selvedge_runtime::Sample;
use selvedge_wire::{Boot, Digest, SlotName};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    clock::SharedClock,
    config::CaptureConfig,
    disk::{DiskError, FRESH_SUFFIX, SharedDisk, replace},
    limits::CAPTURES_WAITING_MAX,
};

/// The folder of the ring.
const DIR: &str = "capture";
const VERSION: u8 = 1;
const HOUR: Duration = Duration::from_secs(3600);

/// Why a sample is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaptureReason {
    /// One of its features is out of the reference's range, not finite, or stuck.
    Anomalous,
    /// Its bundle drifts.
    Drifting,
}

/// A sample that may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The slot that had it.
    pub slot: &'a SlotName,
    /// The bundle that answered.
    pub bundle: Digest,
    /// The source, as the configuration names it.
    pub source: &'a str,
    /// The source's number of it.
    pub number: u64,
    /// Why it may be kept.
    pub reason: CaptureReason,
    /// The sample.
    pub sample: &'a Sample,
}

/// Takes samples that may be kept. It must not wait.
pub type CaptureSink = Box<dyn Fn(Candidate<'_>) + Send>;

/// A sample as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CapturedSample {
    boot: Boot,
    source: String,
    number: u64,
    slot: SlotName,
    bundle: Digest,
    /// Unix time in milliseconds.
    at_ms: u64,
    reason: CaptureReason,
    values: CapturedValues,
}

/// The values of a sample, in the units of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum CapturedValues {
    /// `[column] f32`
    Row(Vec<f32>),
    /// `[height, width] u8` or `[height, width, channel] u8`, row-major.
    Image { shape: Vec<usize>, data: Vec<u8> },
}

/// Decides what is kept, and hands it to the ring.
#[derive(Clone)]
pub(crate) struct Capture {
    boot: Boot,
    clock: SharedClock,
    rate: Arc<Mutex<Rate>>,
    kept: mpsc::Sender<Vec<u8>>,
}

impl Capture {
    /// The way to a ring, and what comes on it.
    pub(crate) fn new(
        config: &CaptureConfig,
        boot: Boot,
        clock: SharedClock,
    ) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (kept, samples) = mpsc::channel(CAPTURES_WAITING_MAX);
        let rate = Arc::new(Mutex::new(Rate::new(config.per_hour_max)));
        (Self { boot, clock, rate, kept }, samples)
    }

    /// Where a slot's worker gives its samples.
    pub(crate) fn sink(&self) -> CaptureSink {
        let capture = self.clone();
        Box::new(move |candidate| capture.offer(candidate))
    }

    fn offer(&self, candidate: Candidate<'_>) {
        let Ok(place) = self.kept.try_reserve() else { return };
        let mut rate = self.rate.lock().expect("nobody panics while deciding");
        if rate.permits(self.clock.elapsed()) {
            place.send(encode(self.boot, self.clock.unix_ms(), candidate));
        }
    }
}

fn encode(boot: Boot, at_ms: u64, candidate: Candidate<'_>) -> Vec<u8> {
    let Candidate { slot, bundle, source, number, reason, sample } = candidate;
    let values = match sample.clone() {
        Sample::Row(values) => CapturedValues::Row(values),
        Sample::Image { shape, data } => CapturedValues::Image { shape, data },
    };
    let (source, slot) = (source.to_owned(), slot.clone());
    let sample = CapturedSample { boot, source, number, slot, bundle, at_ms, reason, values };
    postcard::to_extend(&sample, vec![VERSION]).expect("postcard encodes lists and numbers")
}

/// At most so many in every hour, wherever the hour begins.
struct Rate {
    per_hour_max: usize,
    // When the newest were let through.
    passed: VecDeque<Duration>,
}

impl Rate {
    fn new(per_hour_max: usize) -> Self {
        Self { per_hour_max, passed: VecDeque::new() }
    }

    fn permits(&mut self, now: Duration) -> bool {
        if self.passed.len() == self.per_hour_max {
            match self.passed.front() {
                Some(oldest) if *oldest + HOUR <= now => self.passed.pop_front(),
                _ => return false,
            };
        }
        self.passed.push_back(now);
        true
    }
}

/// Keeps what comes, until nobody gives any more.
pub(crate) async fn run_ring(
    disk: SharedDisk,
    config: CaptureConfig,
    mut samples: mpsc::Receiver<Vec<u8>>,
) {
    let work = move || {
        let mut ring = match Ring::open(disk, config) {
            Ok(ring) => ring,
            Err(error) => return tracing::warn!("no samples are captured: {error}"),
        };
        let mut told = false;
        while let Some(sample) = samples.blocking_recv() {
            match ring.put(&sample) {
                Ok(()) => told = false,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!("a sample is not captured: {error}");
                }
                Err(_) => {}
            }
        }
    };
    if tokio::task::spawn_blocking(work).await.is_err() {
        tracing::error!("the ring of captured samples has ended");
    }
}

/// The samples on the disk.
struct Ring {
    disk: SharedDisk,
    config: CaptureConfig,
    // The number and the length of each file, the oldest first.
    files: VecDeque<(u64, u64)>,
    next: u64,
}

impl Ring {
    fn open(disk: SharedDisk, config: CaptureConfig) -> Result<Self, DiskError> {
        disk.create_dir(DIR)?;
        let mut files = VecDeque::new();
        for name in disk.list(DIR)? {
            let path = format!("{DIR}/{name}");
            match name.parse::<u64>() {
                Ok(number) => {
                    let len_bytes = disk.read(&path)?.map_or(0, |bytes| bytes.len() as u64);
                    files.push_back((number, len_bytes));
                }
                Err(_) if name.ends_with(FRESH_SUFFIX) => disk.remove(&path)?,
                Err(_) => {}
            }
        }
        let next = files.back().map_or(0, |(newest, _)| newest + 1);
        let mut ring = Self { disk, config, files, next };
        // The configuration may have become narrower.
        ring.make_room(0, 0)?;
        Ok(ring)
    }

    fn put(&mut self, sample: &[u8]) -> Result<(), DiskError> {
        let len_bytes = sample.len() as u64;
        if len_bytes > self.config.bytes_max {
            tracing::warn!("a sample of {len_bytes} bytes is too long to be captured");
            return Ok(());
        }
        self.make_room(1, len_bytes)?;
        replace(self.disk.as_ref(), &path(self.next), sample)?;
        self.files.push_back((self.next, len_bytes));
        self.next += 1;
        Ok(())
    }

    fn make_room(&mut self, samples: usize, len_bytes: u64) -> Result<(), DiskError> {
        let held = |files: &VecDeque<(u64, u64)>| files.iter().map(|(_, len)| len).sum::<u64>();
        while self.files.len() + samples > self.config.samples_max
            || held(&self.files) + len_bytes > self.config.bytes_max
        {
            let Some((oldest, _)) = self.files.front() else { return Ok(()) };
            self.disk.remove(&path(*oldest))?;
            self.files.pop_front();
        }
        Ok(())
    }
}

/// Numbers have as many digits as the largest, so that names sort as they do.
fn path(number: u64) -> String {
    format!("{DIR}/{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, disk::simulated::SimulatedDisk};

    const CONFIG: CaptureConfig = CaptureConfig { samples_max: 3, bytes_max: 400, per_hour_max: 5 };

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
            assert_eq!(bytes[0], VERSION);
            let sample: CapturedSample = postcard::from_bytes(&bytes[1..]).expect("our own");
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
                ring.put(&encode(Boot(4), 0, offered)).expect("the disk works");
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
}
