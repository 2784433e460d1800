//! The thread that owns the spool: every sync of the disk happens here, and nobody else waits for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use selvedge_wire::{Boot, Event, EventKind, Stored, Stream};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    clock::SharedClock,
    disk::DiskError,
    error::Error,
    limits::{MALFORMED_QUIET_MS, SPOOL_COMMANDS_MAX},
    record::encode_record,
};

use super::{Acknowledged, Position, Spool, SpooledBatch};

/// What the spool is asked to do.
enum Command {
    Push { stream: Stream, record: Vec<u8> },
    Offer { stream: Stream, records: Vec<Vec<u8>>, reply: oneshot::Sender<Offered> },
    Sync,
    Flush { reply: oneshot::Sender<()> },
    NextBatch { order: BatchOrder, reply: oneshot::Sender<Option<SpooledBatch>> },
    Acknowledge { stored: Stored, reply: oneshot::Sender<Acknowledgement> },
    Close { reply: oneshot::Sender<()> },
}

/// Which batch is wanted.
#[derive(Clone, Copy, Debug)]
pub struct BatchOrder {
    /// The stream.
    pub stream: Stream,
    /// Behind this record; nothing for the first that is not stored.
    pub after: Option<Position>,
    /// How many bytes the records may have.
    pub bytes_max: usize,
    /// How many records there may be.
    pub records_max: usize,
}

/// What became of records that were offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// They are durable.
    Kept,
    /// The quota has no room for them now.
    NoRoom,
    /// They may be kept or not: the disk failed, or the spool was closed.
    Failed,
}

/// What the fleet's word about its store told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledgement {
    /// Streams of which more is stored than was known.
    pub(crate) progress: Vec<Stream>,
    /// The newest boot of which numbers are stored that this device never gave.
    pub(crate) ahead: Option<Boot>,
}

/// Speaks to the spool's thread.
#[derive(Clone)]
pub(crate) struct SpoolHandle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    len_bytes: AtomicU64,
    dropped: AtomicU64,
    durable: Notify,
}

impl SpoolHandle {
    /// Gives the spool a thread.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn spawn(spool: Spool, clock: SharedClock) -> Result<Self, Error> {
        let (commands, inbox) = mpsc::channel(SPOOL_COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let actor = Actor::new(spool, clock, shared.clone());
        let name = "spool".to_owned();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || actor.run(inbox));
        thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { commands, shared })
    }

    /// Keeps a record; waits while the spool is busy. For threads.
    pub(crate) fn push_blocking(&self, stream: Stream, record: Vec<u8>) {
        // A spool that was closed takes no more: the agent is about to end.
        let _ = self.commands.blocking_send(Command::Push { stream, record });
    }

    /// Keeps a record; waits while the spool is busy. For tasks.
    pub(crate) async fn push(&self, stream: Stream, record: Vec<u8>) {
        let _ = self.commands.send(Command::Push { stream, record }).await;
    }

    /// Keeps records if the quota has room for all of them, and waits until they are durable. For threads.
    pub(crate) fn offer_blocking(&self, stream: Stream, records: Vec<Vec<u8>>) -> Offered {
        let (reply, answer) = oneshot::channel();
        match self.commands.blocking_send(Command::Offer { stream, records, reply }) {
            Ok(()) => answer.blocking_recv().unwrap_or(Offered::Failed),
            Err(_) => Offered::Failed,
        }
    }

    /// Makes what was pushed durable.
    pub(crate) async fn sync(&self) {
        let _ = self.commands.send(Command::Sync).await;
    }

    /// Makes what was pushed durable, and waits for that.
    pub(crate) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Flush { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// The next records to send; none if there are none, or if they cannot be read now.
    pub(crate) async fn next_batch(&self, order: BatchOrder) -> Option<SpooledBatch> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::NextBatch { order, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Forgets what the fleet has stored.
    pub(crate) async fn acknowledge(&self, stored: Stored) -> Acknowledgement {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Acknowledge { stored, reply }).await.is_err() {
            return Acknowledgement::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Makes everything durable and ends the thread.
    pub(crate) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Resolves when records became durable since the last time.
    pub(crate) async fn durable(&self) {
        self.shared.durable.notified().await;
    }

    /// Bytes that wait in the spool.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.shared.len_bytes.load(Ordering::Relaxed)
    }

    /// Records that quotas made the spool drop.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

struct Actor {
    spool: Spool,
    clock: SharedClock,
    shared: Arc<Shared>,
    // Per stream: how many drops were told about, and until when to be quiet.
    told: [(u64, u64); Stream::ALL.len()],
    fault_quiet_until_ms: u64,
    faulty: bool,
}

impl Actor {
    fn new(spool: Spool, clock: SharedClock, shared: Arc<Shared>) -> Self {
        let told = Stream::ALL.map(|stream| (spool.dropped(stream), 0));
        Self { spool, clock, shared, told, fault_quiet_until_ms: 0, faulty: false }
    }

    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.publish_figures();
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Push { stream, record } => self.push(stream, record),
                Command::Offer { stream, records, reply } => {
                    let _ = reply.send(self.offer(stream, records));
                }
                Command::Sync => self.sync(),
                Command::Flush { reply } => {
                    self.sync();
                    let _ = reply.send(());
                }
                Command::NextBatch { order, reply } => {
                    let batch = self.next_batch(order);
                    // Whoever asked may have been cancelled; the batch stays in the spool.
                    let _ = reply.send(batch);
                }
                Command::Acknowledge { stored, reply } => {
                    let acknowledgement = self.acknowledge(&stored);
                    let _ = reply.send(acknowledgement);
                }
                Command::Close { reply } => {
                    self.sync();
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    fn push(&mut self, stream: Stream, record: Vec<u8>) {
        if let Err(refused) = self.spool.push(stream, record) {
            let (name, len_bytes) = (stream.as_str(), refused.len_bytes);
            tracing::error!(stream = name, len_bytes, "a record is too long for the spool");
        }
        // Results are many, and labels may come many at a time: they wait for the next sync. The others are few.
        if !matches!(stream, Stream::Results | Stream::Labels) {
            self.commit(stream);
        }
    }

    fn offer(&mut self, stream: Stream, records: Vec<Vec<u8>>) -> Offered {
        let offered = match self.spool.offer(stream, records) {
            Ok(true) => {
                self.recovered();
                self.shared.durable.notify_one();
                Offered::Kept
            }
            Ok(false) => Offered::NoRoom,
            Err(error) => {
                self.fault(&error);
                Offered::Failed
            }
        };
        self.publish_figures();
        offered
    }

    fn sync(&mut self) {
        Stream::ALL.into_iter().for_each(|stream| self.commit(stream));
        self.tell_drops();
    }

    fn commit(&mut self, stream: Stream) {
        if !self.spool.has_pending(stream) {
            return;
        }
        match self.spool.commit(stream) {
            Ok(()) => {
                self.recovered();
                self.shared.durable.notify_one();
            }
            Err(error) => self.fault(&error),
        }
        self.publish_figures();
    }

    fn next_batch(&mut self, order: BatchOrder) -> Option<SpooledBatch> {
        let BatchOrder { stream, after, bytes_max, records_max } = order;
        let batch = self.spool.next_batch(stream, after, bytes_max, records_max);
        batch.unwrap_or_else(|error| {
            self.fault(&error);
            None
        })
    }

    fn acknowledge(&mut self, stored: &Stored) -> Acknowledgement {
        let mut told = Acknowledgement::default();
        for through in &stored.streams {
            match self.spool.acknowledge(through) {
                Ok(Acknowledged::Known) => {}
                Ok(Acknowledged::Progress) => told.progress.push(through.stream),
                Ok(Acknowledged::Ahead) => told.ahead = told.ahead.max(Some(through.boot)),
                Err(error) => self.fault(&error),
            }
        }
        self.publish_figures();
        told
    }

    /// A quota that drops says so, in the log and to the fleet, once per stream and minute.
    fn tell_drops(&mut self) {
        let now_ms = elapsed_ms(&self.clock);
        for stream in Stream::ALL {
            let dropped = self.spool.dropped(stream);
            let (told, quiet_until_ms) = &mut self.told[stream as usize];
            if dropped == *told || now_ms < *quiet_until_ms {
                continue;
            }
            let more = dropped - *told;
            (*told, *quiet_until_ms) = (dropped, now_ms + MALFORMED_QUIET_MS);
            let detail = format!("the spool dropped {more} of its oldest {}", stream.as_str());
            tracing::warn!("{detail}");
            let event = Event {
                at_ms: self.clock.unix_ms(),
                kind: EventKind::RecordsDropped,
                slot: None,
                bundle: None,
                detail,
            };
            self.push(Stream::Events, encode_record(&event));
        }
    }

    fn fault(&mut self, error: &DiskError) {
        self.faulty = true;
        let now_ms = elapsed_ms(&self.clock);
        if now_ms >= self.fault_quiet_until_ms {
            self.fault_quiet_until_ms = now_ms + MALFORMED_QUIET_MS;
            tracing::error!("the spool waits in memory and keeps trying: {error}");
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.faulty) {
            self.fault_quiet_until_ms = 0;
            tracing::info!("the spool writes again");
        }
    }

    fn publish_figures(&self) {
        let dropped = Stream::ALL.into_iter().map(|stream| self.spool.dropped(stream)).sum();
        self.shared.len_bytes.store(self.spool.len_bytes(), Ordering::Relaxed);
        self.shared.dropped.store(dropped, Ordering::Relaxed);
    }
}

fn elapsed_ms(clock: &SharedClock) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}
