//! What the outbox decides: which records to send next, and what to send again.
//!
//! It has no link, no disk and no clock: the same decisions are made in the daemon and in the simulation.

use std::{collections::VecDeque, time::Duration};

use selvedge_wire::{
    Batch, CaptureRecord, Event, InferenceResult, LabelRecord, Message, ProfileRecord, Record,
    SIGNED_OVERHEAD_BYTES, Stored, StoredThrough, Stream, encode,
};
use serde::de::DeserializeOwned;

use crate::{
    config::SpoolConfig,
    limits::BATCHES_UNSTORED_MAX,
    record::decode_record,
    spool::{BatchOrder, Position, SpooledBatch},
};

/// What a batch takes beside its records, in bytes: version, boot, first number, count.
const BATCH_OVERHEAD_BYTES: usize = 32;

/// How far every stream is on its way to the fleet.
pub struct Dispatch {
    config: SpoolConfig,
    // What the broker takes; nothing while it is away.
    payload_bytes_max: Option<usize>,
    ways: [Way; Stream::ALL.len()],
}

impl Dispatch {
    /// Nothing is on its way, and there is no connection.
    pub fn new(config: SpoolConfig) -> Self {
        Self { config, payload_bytes_max: None, ways: Default::default() }
    }

    /// There is a connection; what was sent on the one before may be lost.
    pub fn connected(&mut self, payload_bytes_max: usize, now: Duration) {
        self.payload_bytes_max = Some(payload_bytes_max);
        self.ways.iter_mut().for_each(|way| way.begin_anew(now));
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.payload_bytes_max = None;
    }

    /// The fleet has said how far streams are stored; for those in `progress` that was news.
    pub fn stored(&mut self, stored: &Stored, progress: &[Stream], now: Duration) {
        for through in &stored.streams {
            self.ways[through.stream as usize].stored(through);
        }
        for stream in progress {
            self.ways[*stream as usize].progress_at = now;
        }
    }

    /// The broker found a batch too large.
    pub fn halve_batches(&mut self, stream: Stream) {
        self.ways[stream as usize].halve_batches(self.config.batch_records_max);
    }

    /// What was not stored in time is sent again.
    pub fn resend_overdue(&mut self, now: Duration) {
        for (stream, way) in Stream::ALL.into_iter().zip(&mut self.ways) {
            if self.payload_bytes_max.is_some() && way.is_overdue(now, self.config.resend_after) {
                tracing::debug!("{}: not stored in time, sending again", stream.as_str());
                way.rewind(now);
            }
        }
    }

    /// The records of a stream to send next, if some may be sent.
    pub fn next_order(&self, stream: Stream) -> Option<BatchOrder> {
        let bytes_max = self.body_bytes_max()?.saturating_sub(BATCH_OVERHEAD_BYTES);
        let way = &self.ways[stream as usize];
        let records_max = way.records_max.unwrap_or(self.config.batch_records_max);
        way.may_send().then_some(BatchOrder { stream, after: way.cursor, bytes_max, records_max })
    }

    /// The message that carries a batch, before it is signed.
    pub fn body(&self, stream: Stream, batch: SpooledBatch) -> Vec<u8> {
        // Without a connection nothing is sent, so there is no limit to keep.
        body(stream, batch, self.body_bytes_max().unwrap_or(usize::MAX))
    }

    /// A batch that ends there was sent.
    pub fn sent(&mut self, stream: Stream, end: Position, now: Duration) {
        self.ways[stream as usize].sent(end, now);
    }

    fn body_bytes_max(&self) -> Option<usize> {
        Some(self.payload_bytes_max?.saturating_sub(SIGNED_OVERHEAD_BYTES))
    }
}

/// How far one stream is on its way.
#[derive(Default)]
struct Way {
    // The last record that was sent on this connection.
    cursor: Option<Position>,
    // Where the batches end that are on their way.
    unstored: VecDeque<Position>,
    // When something was sent after nothing was on its way, or was stored.
    progress_at: Duration,
    // Fewer than configured, if the broker found a batch too large on this connection.
    records_max: Option<usize>,
}

impl Way {
    fn may_send(&self) -> bool {
        self.unstored.len() < BATCHES_UNSTORED_MAX
    }

    fn sent(&mut self, end: Position, now: Duration) {
        if self.unstored.is_empty() {
            self.progress_at = now;
        }
        self.cursor = Some(end);
        self.unstored.push_back(end);
    }

    fn stored(&mut self, through: &StoredThrough) {
        self.unstored.retain(|end| end.boot != through.boot || end.sequence > through.through);
    }

    /// On a new connection: it may lead to another broker, or to one that takes more by now.
    fn begin_anew(&mut self, now: Duration) {
        self.rewind(now);
        self.records_max = None;
    }

    fn halve_batches(&mut self, configured: usize) {
        self.records_max = Some((self.records_max.unwrap_or(configured) / 2).max(1));
    }

    fn rewind(&mut self, now: Duration) {
        self.cursor = None;
        self.unstored.clear();
        self.progress_at = now;
    }

    fn is_overdue(&self, now: Duration, resend_after: Duration) -> bool {
        !self.unstored.is_empty() && now >= self.progress_at + resend_after
    }
}

fn body(stream: Stream, batch: SpooledBatch, bytes_max: usize) -> Vec<u8> {
    match stream {
        Stream::Results => body_of::<InferenceResult>(batch, bytes_max),
        Stream::Profiles => body_of::<ProfileRecord>(batch, bytes_max),
        Stream::Events => body_of::<Event>(batch, bytes_max),
        Stream::Labels => body_of::<LabelRecord>(batch, bytes_max),
        Stream::Captures => body_of::<CaptureRecord>(batch, bytes_max),
    }
}

fn body_of<T: DeserializeOwned>(batch: SpooledBatch, bytes_max: usize) -> Vec<u8>
where
    Batch<T>: Message,
{
    let SpooledBatch { boot, first, records } = batch;
    let covers = records.iter().map(Record::covers).sum();
    let records = records.into_iter().map(decoded).collect();
    let body = encode(&Batch::<T> { boot, first, records });
    if body.len() <= bytes_max {
        return body;
    }
    // Only a batch of one record is too long, for this broker. Its number must not hold up the others.
    let len_bytes = body.len();
    tracing::error!("a record of {len_bytes} bytes is given up: the broker takes {bytes_max}");
    encode(&Batch::<T> { boot, first, records: vec![Record::Dropped { covers }] })
}

fn decoded<T: DeserializeOwned>(record: Record<Vec<u8>>) -> Record<T> {
    let covers = record.covers();
    match record {
        Record::One(value) => decode_record(&value).map(Record::One),
        Record::Merged { covers, value } => {
            decode_record(&value).map(|value| Record::Merged { covers, value })
        }
        Record::Dropped { .. } => None,
    }
    // What cannot be read back is lost, and is said to be.
    .unwrap_or(Record::Dropped { covers })
}

#[cfg(test)]
mod tests {
    use selvedge_wire::{Boot, EventKind, Sequence, decode};

    use super::*;
    use crate::record::encode_record;

    fn at(boot: u32, sequence: u64) -> Position {
        Position { boot: Boot(boot), sequence: Sequence(sequence) }
    }

    fn through(boot: u32, through: u64) -> StoredThrough {
        let (boot, through) = (Boot(boot), Sequence(through));
        StoredThrough { boot, stream: Stream::Events, through }
    }

    fn event(detail: &str) -> Event {
        let (kind, detail) = (EventKind::Started, detail.to_owned());
        Event { at_ms: 1, kind, slot: None, bundle: None, detail }
    }

    #[test]
    fn only_so_many_batches_are_on_their_way() {
        let mut way = Way::default();
        for n in 1..=BATCHES_UNSTORED_MAX as u64 {
            assert!(way.may_send());
            way.sent(at(1, 10 * n), Duration::ZERO);
        }
        assert!(!way.may_send());
        way.stored(&through(1, 9));
        assert!(!way.may_send(), "no batch is stored as a whole");
        way.stored(&through(1, 25));
        assert!(way.may_send());
        assert_eq!(way.unstored.len(), BATCHES_UNSTORED_MAX - 2);
        assert_eq!(way.cursor, Some(at(1, 10 * BATCHES_UNSTORED_MAX as u64)));
    }

    #[test]
    fn what_is_not_stored_in_time_is_sent_again_from_the_start() {
        let second = Duration::from_secs(1);
        let mut way = Way::default();
        assert!(!way.is_overdue(100 * second, second), "nothing is on its way");
        way.sent(at(1, 5), 10 * second);
        way.sent(at(2, 3), 11 * second);
        assert!(!way.is_overdue(10 * second, second));
        assert!(way.is_overdue(11 * second, second));
        way.rewind(11 * second);
        assert_eq!(way.cursor, None);
        assert!(way.may_send() && !way.is_overdue(50 * second, second));
    }

    #[test]
    fn batches_that_were_too_large_stay_small_until_the_next_connection() {
        let mut way = Way::default();
        way.halve_batches(100);
        way.halve_batches(100);
        way.rewind(Duration::ZERO);
        assert_eq!(way.records_max, Some(25));
        (0..10).for_each(|_| way.halve_batches(100));
        assert_eq!(way.records_max, Some(1));
        way.begin_anew(Duration::ZERO);
        assert_eq!(way.records_max, None);
    }

    #[test]
    fn a_batch_carries_what_was_kept() {
        let records = vec![
            Record::One(encode_record(&event("a"))),
            Record::Merged { covers: 4, value: encode_record(&event("b")) },
            Record::Dropped { covers: 2 },
            Record::One(vec![0xff; 3]),
        ];
        let batch = SpooledBatch { boot: Boot(3), first: Sequence(7), records };
        let sent: Batch<Event> =
            decode(&body(Stream::Events, batch, 1000)).expect("our own message");
        let expected = vec![
            Record::One(event("a")),
            Record::Merged { covers: 4, value: event("b") },
            Record::Dropped { covers: 2 },
            Record::Dropped { covers: 1 },
        ];
        assert_eq!(sent, Batch { boot: Boot(3), first: Sequence(7), records: expected });
    }

    #[test]
    fn a_record_that_the_broker_cannot_carry_is_given_up_with_its_number() {
        let records = vec![Record::One(encode_record(&event(&"long ".repeat(100))))];
        let batch = SpooledBatch { boot: Boot(1), first: Sequence(1), records };
        let sent: Batch<Event> =
            decode(&body(Stream::Events, batch, 200)).expect("our own message");
        assert_eq!(sent.records, [Record::Dropped { covers: 1 }]);
    }

    #[test]
    fn the_overhead_of_a_batch_is_bounded() {
        let batch =
            Batch::<Event> { boot: Boot(u32::MAX), first: Sequence(u64::MAX), records: vec![] };
        assert!(encode(&batch).len() + 10 <= BATCH_OVERHEAD_BYTES);
    }
}
