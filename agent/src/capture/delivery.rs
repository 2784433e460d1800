//! Kept samples on their way to the fleet, once it has asked for them.
//!
//! A request asks for what was kept until it was taken up. Samples go, the oldest first, in pieces into the
//! spool, no faster than its quota has room and never more in a day than the configuration says; the spool
//! does the rest. What was decided is written down after the pieces are durable in the spool: a power cut
//! between the two sends them again, and the fleet knows them. The number of a request is written down before
//! anything is done for it, and never goes back: the same request, or an older one, does nothing again.

#[cfg(test)]
mod tests;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use selvedge_wire::{CaptureFinished, CaptureRecord, CaptureRequest, Stream};
use serde::{Deserialize, Serialize};

use super::{numbers, path, sample::CapturedSample};
use crate::{
    clock::SharedClock,
    config::CaptureConfig,
    disk::{DiskError, SharedDisk, replace},
    error::Error,
    limits::{CAPTURE_REQUESTS_WAITING_MAX, CAPTURE_STEP_BYTES, CAPTURE_STEP_FILES},
    record::encode_record,
    spool::{Offered, SpoolHandle},
};

/// What was asked for and what is done of it: a version byte and a postcard [`State`].
const STATE_FILE: &str = "capture-request";
const VERSION: u8 = 1;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How often it is looked whether the quota has room again, or another day has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What outlives a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// The highest number of a request so far.
    number: u64,
    /// What is under way.
    work: Option<Work>,
    /// The day on which something was sent last, in days of Unix time.
    day: u64,
    /// The bytes of that day's pieces.
    day_bytes: u64,
}

/// A request that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Work {
    request: CaptureRequest,
    /// The file to go on with.
    file: u64,
    /// One past the last file.
    end: u64,
    /// The piece of that file to go on with.
    piece: u32,
    sent: u32,
    sent_bytes: u64,
    left_out: u32,
    gone: u32,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing is asked for.
    Nothing,
    /// Nothing more on this day.
    Later,
    /// Records for the spool.
    Offer(Offer),
}

/// Records for the spool, and what is decided once they are in it.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) records: Vec<Vec<u8>>,
    after: State,
}

/// Decides which pieces go next.
pub(crate) struct Delivery {
    disk: SharedDisk,
    // Nothing where no samples are kept.
    config: Option<CaptureConfig>,
    state: State,
}

impl Delivery {
    /// Goes on where the run before has ended.
    ///
    /// # Errors
    /// [`DiskError`] if the disk does not say.
    pub(crate) fn open(disk: SharedDisk, config: Option<CaptureConfig>) -> Result<Self, DiskError> {
        let state = match disk.read(STATE_FILE)? {
            None => State::default(),
            Some(bytes) => read_state(&bytes).unwrap_or_else(|| {
                tracing::warn!("{STATE_FILE} cannot be read: no captured samples are asked for");
                State::default()
            }),
        };
        Ok(Self { disk, config, state })
    }

    /// Takes a request up, in place of one that is under way; returns whether it is a new one.
    ///
    /// # Errors
    /// [`DiskError`] if that could not be written down: then nothing is done for it.
    pub(super) fn ask(&mut self, request: &CaptureRequest) -> Result<bool, DiskError> {
        if request.number <= self.state.number {
            return Ok(false);
        }
        let files = numbers(self.disk.as_ref())?;
        let end = files.last().map_or(0, |newest| newest + 1);
        let work = Work {
            request: request.clone(),
            file: files.first().copied().unwrap_or(end),
            end,
            piece: 0,
            sent: 0,
            sent_bytes: 0,
            left_out: 0,
            gone: 0,
        };
        let state = State { number: request.number, work: Some(work), ..self.state.clone() };
        self.write(&state)?;
        self.state = state;
        Ok(true)
    }

    /// What is to be done next, at this Unix time in milliseconds.
    ///
    /// # Errors
    /// [`DiskError`] if the samples cannot be read.
    pub(super) fn next(&self, now_ms: u64) -> Result<Next, DiskError> {
        let Some(work) = self.state.work.clone() else { return Ok(Next::Nothing) };
        let Some(config) = self.config else {
            return Ok(Next::Offer(self.finish(work, Vec::new(), self.state.clone())));
        };
        let mut step = Step::new(work, &self.state, config, now_ms);
        let files = numbers(self.disk.as_ref())?;
        let begin = files.partition_point(|&file| file < step.work.file);
        let end = files.partition_point(|&file| file < step.work.end);
        let mut rest = files[begin.min(end)..end].iter();
        for &file in rest.by_ref().take(CAPTURE_STEP_FILES) {
            step.begin(file);
            let read = self.disk.read(&path(file))?;
            if !step.take(read.as_deref().and_then(CapturedSample::decode)) {
                return Ok(step.end(&self.state));
            }
        }
        if rest.len() > 0 {
            return Ok(step.end(&self.state));
        }
        let end = step.work.end;
        step.begin(end);
        Ok(Next::Offer(self.finish(step.work, step.records, State { work: None, ..step.state })))
    }

    /// The records of an offer are in the spool, durable.
    ///
    /// # Errors
    /// [`DiskError`] if that could not be written down: after a power cut they are offered again.
    pub(super) fn keep(&mut self, offer: Offer) -> Result<(), DiskError> {
        self.state = offer.after;
        self.write(&self.state)
    }

    fn finish(&self, work: Work, mut records: Vec<Vec<u8>>, state: State) -> Offer {
        let Work { request, sent, sent_bytes, left_out, gone, .. } = work;
        let finished = CaptureFinished {
            request: request.number,
            sent,
            sent_bytes,
            left_out,
            gone,
            capturing: self.config.is_some(),
        };
        records.push(encode_record(&CaptureRecord::Finished(finished)));
        Offer { records, after: State { work: None, ..state } }
    }

    fn write(&self, state: &State) -> Result<(), DiskError> {
        let bytes = postcard::to_extend(state, vec![VERSION]);
        let bytes = bytes.expect("postcard encodes numbers and names");
        replace(self.disk.as_ref(), STATE_FILE, &bytes)
    }
}

fn read_state(bytes: &[u8]) -> Option<State> {
    let (&VERSION, bytes) = bytes.split_first()? else { return None };
    postcard::from_bytes(bytes).ok()
}

/// What one offer has so far.
struct Step {
    work: Work,
    // Without the work.
    state: State,
    day_bytes_max: u64,
    records: Vec<Vec<u8>>,
    len_bytes: usize,
}

impl Step {
    fn new(work: Work, state: &State, config: CaptureConfig, now_ms: u64) -> Self {
        let mut state = State { work: None, ..state.clone() };
        let today = now_ms / DAY_MS;
        if today != state.day {
            (state.day, state.day_bytes) = (today, 0);
        }
        let day_bytes_max = config.upload_bytes_per_day_max;
        Self { work, state, day_bytes_max, records: Vec::new(), len_bytes: 0 }
    }

    /// Goes on with a file; those that were skipped are gone.
    fn begin(&mut self, file: u64) {
        let skipped = file - self.work.file;
        if skipped > 0 {
            self.work.gone =
                self.work.gone.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX));
            (self.work.file, self.work.piece) = (file, 0);
        }
    }

    /// Takes as much of the file's sample as has room; returns whether it is done with the file.
    fn take(&mut self, sample: Option<CapturedSample>) -> bool {
        let Some(sample) = sample else {
            self.work.gone += 1;
            return self.pass();
        };
        if !sample.is_asked_for(&self.work.request) {
            return self.pass();
        }
        let (request, sent_before) = (&self.work.request, self.work.sent_bytes);
        let fits = self.work.sent < request.samples_max
            && sent_before + sample.len_bytes() <= request.bytes_max;
        if !fits {
            self.work.left_out += 1;
            return self.pass();
        }
        while let Some(piece) = sample.piece(request.number, sent_before, self.work.piece) {
            let record = encode_record(&CaptureRecord::Piece(piece));
            let len_bytes = record.len();
            let of_day = self.state.day_bytes + len_bytes as u64;
            if of_day > self.day_bytes_max || self.len_bytes + len_bytes > CAPTURE_STEP_BYTES {
                return false;
            }
            self.state.day_bytes = of_day;
            self.len_bytes += len_bytes;
            self.records.push(record);
            self.work.piece += 1;
        }
        self.work.sent += 1;
        self.work.sent_bytes += sample.len_bytes();
        self.pass()
    }

    fn pass(&mut self) -> bool {
        (self.work.file, self.work.piece) = (self.work.file + 1, 0);
        true
    }

    fn end(self, before: &State) -> Next {
        let is_further = before.work.as_ref() != Some(&self.work);
        let after = State { work: Some(self.work), ..self.state };
        if is_further { Next::Offer(Offer { records: self.records, after }) } else { Next::Later }
    }
}

/// Speaks to the thread that delivers, until that is ended.
pub(crate) struct DeliveryHandle {
    running: Option<(SyncSender<CaptureRequest>, JoinHandle<()>)>,
}

impl DeliveryHandle {
    /// Gives a delivery a thread.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn spawn(
        delivery: Delivery,
        spool: SpoolHandle,
        clock: SharedClock,
    ) -> Result<Self, Error> {
        let (requests, inbox) = sync_channel(CAPTURE_REQUESTS_WAITING_MAX);
        let name = "captures".to_owned();
        let courier = Courier { delivery, spool, clock, told: false };
        let thread = thread::Builder::new().name(name.clone()).spawn(move || courier.run(&inbox));
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { running: Some((requests, thread)) })
    }

    /// Hands a request over. It must be the director's.
    pub(crate) fn ask(&self, request: CaptureRequest) {
        let Some((requests, _)) = &self.running else { return };
        if let Err(error) = requests.try_send(request) {
            tracing::warn!("a request for captured samples waits for the next connection: {error}");
        }
    }

    /// Ends the thread, so that who starts again in this process does not meet it.
    pub(crate) async fn end(&mut self) {
        let Some((requests, thread)) = self.running.take() else { return };
        drop(requests);
        if !matches!(tokio::task::spawn_blocking(|| thread.join()).await, Ok(Ok(()))) {
            tracing::error!("the delivery of captured samples has failed");
        }
    }
}

/// Carries offers to the spool, until nobody asks any more.
struct Courier {
    delivery: Delivery,
    spool: SpoolHandle,
    clock: SharedClock,
    // Whether it was told that the disk does not work.
    told: bool,
}

impl Courier {
    fn run(mut self, requests: &Receiver<CaptureRequest>) {
        let mut asked = None;
        loop {
            if let Some(request) = &asked {
                let taken = self.delivery.ask(request);
                if self.note(taken).is_some() {
                    asked = None;
                }
            }
            let wait = self.go_on().or(asked.as_ref().map(|_| LOOK_INTERVAL));
            let request = match wait {
                Some(wait) => requests.recv_timeout(wait),
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(request) => asked = Some(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does one step; says how long to wait for the next, or that there is nothing to do.
    fn go_on(&mut self) -> Option<Duration> {
        let next = self.delivery.next(self.clock.unix_ms());
        let mut offer = match self.note(next) {
            Some(Next::Offer(offer)) => offer,
            Some(Next::Nothing) => return None,
            Some(Next::Later) | None => return Some(LOOK_INTERVAL),
        };
        let records = std::mem::take(&mut offer.records);
        match self.spool.offer_blocking(Stream::Captures, records) {
            Offered::Kept => {
                let kept = self.delivery.keep(offer);
                self.note(kept);
                Some(Duration::ZERO)
            }
            Offered::NoRoom | Offered::Failed => Some(LOOK_INTERVAL),
        }
    }

    fn note<T>(&mut self, result: Result<T, DiskError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.told = false;
                Some(value)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("captured samples wait: {error}");
                }
                None
            }
        }
    }
}
