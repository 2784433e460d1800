//! Samples that were odd, or came while their bundle drifted, kept on the disk to be looked at: a bounded ring,
//! off unless it is configured.
//!
//! A sample is kept under the name of its result: the boot, the source, and the source's number of the sample.
//! No more are kept in an hour than the configuration says, and the oldest make room for the newest. A sample is
//! cloned only if it is kept, and nobody waits for the disk: what comes too fast for it is left out.
//!
//! A file is a sample as `sample` encodes it; its name counts up. `delivery` sends samples to the fleet, as far as
//! it asks for them.

mod delivery;
mod sample;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use selvedge_runtime::Sample;
use selvedge_wire::{Boot, CaptureReason, Digest, SlotName};
use tokio::sync::mpsc;

use crate::{
    clock::SharedClock,
    config::CaptureConfig,
    disk::{Disk, DiskError, FRESH_SUFFIX, SharedDisk, replace},
    limits::CAPTURES_WAITING_MAX,
};

use sample::CapturedSample;

pub(crate) use delivery::{Delivery, DeliveryHandle};

/// The folder of the ring.
const DIR: &str = "capture";
const HOUR: Duration = Duration::from_secs(3600);

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
        if rate.permits(self.clock.elapsed())
            && let Some(sample) = CapturedSample::of(self.boot, self.clock.unix_ms(), candidate)
        {
            place.send(sample.encode());
        }
    }
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
        for name in disk.list(DIR)?.iter().filter(|name| name.ends_with(FRESH_SUFFIX)) {
            disk.remove(&format!("{DIR}/{name}"))?;
        }
        let mut files = VecDeque::new();
        for number in numbers(disk.as_ref())? {
            let len_bytes = disk.read(&path(number))?.map_or(0, |bytes| bytes.len() as u64);
            files.push_back((number, len_bytes));
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

/// The samples in the ring, the oldest first.
fn numbers(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    Ok(disk.list(DIR)?.iter().filter_map(|name| name.parse().ok()).collect())
}
