//! What the fleet has not stored yet: an append-only log per stream that survives power cuts.
//!
//! Each stream's records carry sequence numbers from 1 in each boot. A record is kept until the fleet
//! says that it has stored it ([`Spool::acknowledge`]); nothing else empties the spool but its quotas:
//!
//! - Results and events drop their oldest segment. A record in its place says exactly which numbers
//!   are lost.
//! - Captured samples are only taken while there is room for them ([`Spool::offer`]): none is dropped.
//! - Profiles merge adjacent windows of the same origin: time gets coarser, counts stay exact. Only
//!   records that were never handed out for sending merge, so none of an earlier boot does. Numbers
//!   that no one has seen may move between records; how many there are does not change. When nothing
//!   is left to merge, profiles drop like the rest.
//!
//! Pushed records are in memory until [`Spool::commit`], which costs one sync per stream; only what is
//! durable is handed out. After a crash each log ends before its first bad record. Numbers that the
//! fleet had stored and has lost since are said to be dropped, before the next record behind them.
//!
//! Power cuts, before / cut / after:
//!
//! | operation | a cut leaves | recovery |
//! |---|---|---|
//! | append | a torn tail | the tail is cut off |
//! | drop: replace a segment by a record of its loss | the old segment or the new | as it is |
//! | drop: extend the record of loss before it, then remove the segment | both | the covered segment is removed |
//! | merge two segments into the first, then remove the second | both | the covered segment is removed |
//! | an append that failed, its records written again to a new segment | both | the first ends where the second begins |

mod actor;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use selvedge_wire::{Boot, Record, Sequence, StoredThrough, Stream};

use crate::{
    disk::{Disk, DiskError, FRESH_SUFFIX, SharedDisk, replace},
    limits::{BOOTS_MAX, PENDING_BYTES_MAX, RECORD_BYTES_MAX, SEGMENT_BYTES_MAX, STREAM_BYTES_MIN},
};

use segment::{
    Entry, HEADER, RECORD_OVERHEAD_BYTES, entry_len_bytes, file_name, parse_file_name,
    read_segment, write_entry, write_segment,
};

pub use actor::BatchOrder;
pub(crate) use actor::{Offered, SpoolHandle};

/// The boot of a segment's file.
pub(crate) fn boot_of_segment(file_name: &str) -> Option<Boot> {
    parse_file_name(file_name).map(|(boot, _)| boot)
}

/// Merges the later of two encoded records into the earlier, or says that they do not merge.
pub type MergeRecords = fn(earlier: &[u8], later: &[u8]) -> Option<Vec<u8>>;

/// How far a merge looks for a partner: profiles of a few slots and nodes stand between two of one.
const MERGE_REACH: usize = 32;

/// How many segments a quota is divided into at least, so that dropping one does not drop all.
const SEGMENTS_PER_QUOTA: u64 = 8;

/// Merging keeps one part in so many of a quota free. What was handed out for sending cannot merge any
/// more, so after a long time offline this is the room for new windows until the fleet has stored it.
const HEADROOM_PER_QUOTA: u64 = 4;

/// How many bytes of each stream are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolQuotas {
    /// Results.
    pub results_bytes_max: u64,
    /// Profiles.
    pub profiles_bytes_max: u64,
    /// Events.
    pub events_bytes_max: u64,
    /// Labels.
    pub labels_bytes_max: u64,
    /// Captured samples.
    pub captures_bytes_max: u64,
}

/// The place of a record among all boots of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The boot that made it.
    pub boot: Boot,
    /// Its last sequence number.
    pub sequence: Sequence,
}

/// Consecutive records that are durable and not stored by the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct SpooledBatch {
    /// The boot that made them.
    pub boot: Boot,
    /// The sequence number of the first.
    pub first: Sequence,
    /// The records, encoded.
    pub records: Vec<Record<Vec<u8>>>,
}

impl SpooledBatch {
    /// The place of the last record: the next batch begins after it.
    pub fn end(&self) -> Position {
        let covers: u64 = self.records.iter().map(Record::covers).sum();
        Position { boot: self.boot, sequence: Sequence(self.first.0 + covers - 1) }
    }
}

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It moved nothing.
    Known,
    /// Records were stored that had not been known to be.
    Progress,
    /// The fleet has records of this boot, or a later one, that this device never numbered: its state
    /// was lost, and its numbers now collide with old ones. A later boot must take over.
    Ahead,
}

/// What recovery met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes that were cut off or set aside because a record was bad.
    pub bytes_lost: u64,
}

/// A record is too long for the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLong {
    /// Its length.
    pub len_bytes: usize,
}

/// The records of every stream that the fleet has not stored.
pub struct Spool {
    disk: SharedDisk,
    boot: Boot,
    logs: [StreamLog; Stream::ALL.len()],
}

impl Spool {
    /// Recovers what is on the disk, and opens the spool for the records of `boot`.
    ///
    /// # Errors
    /// [`DiskError`] if the disk does not work; damaged content is no error.
    pub fn open(
        disk: SharedDisk,
        boot: Boot,
        quotas: SpoolQuotas,
        merge_profiles: MergeRecords,
    ) -> Result<(Self, Recovery), DiskError> {
        let mut recovery = Recovery::default();
        let mut open = |stream, quota, merge| {
            StreamLog::recover(&disk, boot, stream, quota, merge, &mut recovery)
        };
        let logs = [
            open(Stream::Results, quotas.results_bytes_max, None)?,
            open(Stream::Profiles, quotas.profiles_bytes_max, Some(merge_profiles))?,
            open(Stream::Events, quotas.events_bytes_max, None)?,
            open(Stream::Labels, quotas.labels_bytes_max, None)?,
            open(Stream::Captures, quotas.captures_bytes_max, None)?,
        ];
        Ok((Self { disk, boot, logs }, recovery))
    }

    /// Gives a record its sequence number and keeps it in memory until [`Spool::commit`].
    ///
    /// # Errors
    /// [`RecordTooLong`]; the record then has no number.
    pub fn push(&mut self, stream: Stream, record: Vec<u8>) -> Result<(), RecordTooLong> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(RecordTooLong { len_bytes: record.len() });
        }
        self.log_mut(stream).push(Record::One(record));
        Ok(())
    }

    /// Makes the pushed records of `stream` durable. After an error they stay in memory, and the next
    /// commit tries again.
    ///
    /// # Errors
    /// [`DiskError`] of the write, or of the change that was to make room for it.
    pub fn commit(&mut self, stream: Stream) -> Result<(), DiskError> {
        let (disk, boot) = (self.disk.clone(), self.boot);
        self.log_mut(stream).commit(&disk, boot)
    }

    /// Keeps records and makes them durable, if the quota of `stream` has room for all of them; returns whether it
    /// has. After an error they may be kept or not.
    ///
    /// # Errors
    /// [`DiskError`] of the write.
    ///
    /// # Panics
    /// If a record is longer than a record may be.
    pub fn offer(&mut self, stream: Stream, records: Vec<Vec<u8>>) -> Result<bool, DiskError> {
        // What waits goes first: a disk that takes nothing is not offered more and more.
        self.commit(stream)?;
        if !self.log(stream).has_room_for(&records) {
            return Ok(false);
        }
        for record in records {
            self.push(stream, record).expect("what is offered is no longer than a record may be");
        }
        self.commit(stream).map(|()| true)
    }

    /// Whether records of `stream`, or what a fault of the disk left, wait for [`Spool::commit`].
    pub fn has_pending(&self, stream: Stream) -> bool {
        let log = self.log(stream);
        !log.pending.is_empty() || log.unsettled
    }

    /// The next durable records behind `after`, of one boot; from the first that is not stored if
    /// `after` is `None`. At least one record, else as many as stay within both limits.
    ///
    /// # Errors
    /// [`DiskError`] if a segment cannot be read.
    pub fn next_batch(
        &mut self,
        stream: Stream,
        after: Option<Position>,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Option<SpooledBatch>, DiskError> {
        let (disk, boot) = (self.disk.clone(), self.boot);
        self.log_mut(stream).next_batch(&disk, boot, after, bytes_max, records_max)
    }

    /// Forgets what the fleet has stored.
    ///
    /// # Errors
    /// [`DiskError`] if a segment cannot be removed; it is then sent again after a restart.
    pub fn acknowledge(&mut self, stored: &StoredThrough) -> Result<Acknowledged, DiskError> {
        let (disk, boot) = (self.disk.clone(), self.boot);
        self.log_mut(stored.stream).acknowledge(&disk, boot, stored.boot, stored.through.0)
    }

    /// The bytes that the records take on the disk.
    pub fn len_bytes(&self) -> u64 {
        self.logs.iter().map(StreamLog::len_bytes).sum()
    }

    /// How many records of `stream` quotas have dropped since the spool was opened.
    pub fn dropped(&self, stream: Stream) -> u64 {
        self.log(stream).dropped
    }

    fn log(&self, stream: Stream) -> &StreamLog {
        &self.logs[stream as usize]
    }

    fn log_mut(&mut self, stream: Stream) -> &mut StreamLog {
        &mut self.logs[stream as usize]
    }
}

/// The log of one stream.
struct StreamLog {
    dir: String,
    quota_bytes: u64,
    merge: Option<MergeRecords>,
    // Ordered by boot and first number; of one boot, consecutive.
    segments: VecDeque<Segment>,
    // Whether the last segment is of this boot and takes more records.
    active: bool,
    // A change failed, so that what is known of the segments may not be what the disk has.
    unsettled: bool,
    // The first number of this boot that is not durable yet.
    next: u64,
    pending: VecDeque<Entry>,
    pending_bytes: usize,
    // How far each boot is stored, for boots that have segments and for this one.
    stored: BTreeMap<Boot, u64>,
    // What the fleet said last of these boots, which is less after it lost its store.
    told: BTreeMap<Boot, u64>,
    dropped: u64,
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug)]
struct Segment {
    boot: Boot,
    first: u64,
    // One past its last number.
    end: u64,
    len_bytes: u64,
    // How many of its numbers stand for records that are not dropped.
    alive: u64,
    // Some of it was handed out for sending, or may have been.
    handed: bool,
}

impl Segment {
    fn new(boot: Boot, first: u64, entries: &[Entry], len_bytes: u64, handed: bool) -> Self {
        let end = first + entries.iter().map(Record::covers).sum::<u64>();
        let alive = entries.iter().map(alive_numbers).sum();
        Self { boot, first, end, len_bytes, alive, handed }
    }

    fn precedes(&self, next: &Self) -> bool {
        self.boot == next.boot && self.end == next.first
    }
}

fn alive_numbers(entry: &Entry) -> u64 {
    match entry {
        Record::Dropped { .. } => 0,
        alive => alive.covers(),
    }
}

/// Recovery.
impl StreamLog {
    fn recover(
        disk: &SharedDisk,
        boot: Boot,
        stream: Stream,
        quota_bytes: u64,
        merge: Option<MergeRecords>,
        recovery: &mut Recovery,
    ) -> Result<Self, DiskError> {
        let dir = format!("spool/{}", stream.as_str());
        disk.create_dir(&dir)?;
        let mut scan = Scan::of(disk, &dir)?;
        scan.give_up_oldest_boots(boot)?;
        recovery.bytes_lost += scan.bytes_lost;
        Ok(Self {
            dropped: scan.dropped,
            segments: scan.segments,
            dir,
            quota_bytes: quota_bytes.max(STREAM_BYTES_MIN),
            merge,
            active: false,
            unsettled: false,
            next: 1,
            pending: VecDeque::new(),
            pending_bytes: 0,
            stored: BTreeMap::new(),
            told: BTreeMap::new(),
        })
    }

    /// After a change that failed, the disk may have the old state or the new: it is read again.
    fn settle(&mut self, disk: &SharedDisk, boot: Boot) -> Result<(), DiskError> {
        if !self.unsettled {
            return Ok(());
        }
        let mut scan = Scan::of(disk, &self.dir)?;
        // An append that failed may have left records behind, which are still pending.
        if scan.segments.back().is_some_and(|last| last.boot == boot && last.end > self.next) {
            scan.cut_last(self.next)?;
        }
        for segment in scan.segments.iter_mut().filter(|segment| segment.boot == boot) {
            let overlaps = |known: &&Segment| {
                known.boot == boot && known.first < segment.end && segment.first < known.end
            };
            segment.handed = self.segments.iter().filter(overlaps).any(|known| known.handed);
        }
        self.segments = scan.segments;
        self.dropped += scan.dropped;
        self.active = false;
        self.unsettled = false;
        let stored: Vec<_> = self.stored.iter().map(|(boot, through)| (*boot, *through)).collect();
        stored.into_iter().try_for_each(|(of, through)| self.forget_stored(disk, boot, of, through))
    }
}

/// Reads what a folder of segments holds, and repairs it.
struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a str,
    segments: VecDeque<Segment>,
    bytes_lost: u64,
    dropped: u64,
}

impl<'a> Scan<'a> {
    fn of(disk: &'a SharedDisk, dir: &'a str) -> Result<Self, DiskError> {
        let disk = disk.as_ref();
        // What was renamed or removed before must not change its mind after this was read.
        disk.sync_dir(dir)?;
        let mut scan = Self { disk, dir, segments: VecDeque::new(), bytes_lost: 0, dropped: 0 };
        for name in disk.list(dir)? {
            match parse_file_name(&name) {
                Some((boot, first)) => scan.recover_segment(boot, first)?,
                None if name.ends_with(FRESH_SUFFIX) => disk.remove(&format!("{dir}/{name}"))?,
                None => {}
            }
        }
        scan.fill_gaps()?;
        disk.sync_dir(dir)?;
        Ok(scan)
    }

    /// Names come in order, so only the segment before can overlap this one.
    fn recover_segment(&mut self, boot: Boot, first: u64) -> Result<(), DiskError> {
        let path = path(self.dir, boot, first);
        let bytes = self.disk.read(&path)?.unwrap_or_default();
        let readable = read_segment(&bytes);
        let segment = Segment::new(boot, first, &readable.entries, readable.len_bytes as u64, true);
        let before = self.segments.back().filter(|before| before.boot == boot);
        if before.is_some_and(|before| segment.end <= before.end) {
            return self.disk.remove(&path);
        }
        if readable.len_bytes < bytes.len() {
            self.bytes_lost += (bytes.len() - readable.len_bytes) as u64;
            self.disk.truncate(&path, readable.len_bytes as u64)?;
            self.disk.sync(&path)?;
        }
        if before.is_some_and(|before| before.end > first) {
            self.cut_last(first)?;
        }
        self.segments.push_back(segment);
        Ok(())
    }

    /// Ends the last segment before the number `end`, which comes again later.
    fn cut_last(&mut self, end: u64) -> Result<(), DiskError> {
        let last = self.segments.pop_back().expect("the caller has just looked at it");
        let path = path(self.dir, last.boot, last.first);
        let mut kept = read_entries(self.disk, self.dir, &last)?;
        let mut at = last.end;
        while at > end {
            at -= kept.pop().map_or(at, |entry| entry.covers());
        }
        if kept.is_empty() {
            return self.disk.remove(&path);
        }
        let bytes = write_segment(&kept);
        replace(self.disk, &path, &bytes)?;
        let cut = Segment::new(last.boot, last.first, &kept, bytes.len() as u64, true);
        self.segments.push_back(cut);
        Ok(())
    }

    /// Numbers that are missing between two segments of a boot were lost to damage: it is recorded.
    fn fill_gaps(&mut self) -> Result<(), DiskError> {
        let mut index = 1;
        while index < self.segments.len() {
            let (before, after) = (&self.segments[index - 1], &self.segments[index]);
            if before.boot == after.boot && before.end < after.first {
                let (boot, first) = (before.boot, before.end);
                let covers = after.first - first;
                let entries = [Record::Dropped { covers }];
                let bytes = write_segment(&entries);
                replace(self.disk, &path(self.dir, boot, first), &bytes)?;
                let gap = Segment::new(boot, first, &entries, bytes.len() as u64, true);
                self.dropped += covers;
                match &mut self.segments[index - 1] {
                    empty if empty.end == empty.first => *empty = gap,
                    _ => self.segments.insert(index, gap),
                }
            }
            index += 1;
        }
        // What is empty now is the last of its boot: it lost its first append, as if never begun.
        let (empty, kept): (Vec<_>, _) =
            self.segments.drain(..).partition(|segment| segment.end == segment.first);
        self.segments = kept.into();
        empty
            .iter()
            .try_for_each(|segment| self.disk.remove(&path(self.dir, segment.boot, segment.first)))
    }

    fn give_up_oldest_boots(&mut self, now: Boot) -> Result<(), DiskError> {
        let mut boots: Vec<Boot> = self.segments.iter().map(|segment| segment.boot).collect();
        boots.dedup();
        let excess = boots.len().saturating_sub(BOOTS_MAX);
        let oldest_kept = boots.get(excess).copied().unwrap_or(now);
        while self.segments.front().is_some_and(|segment| segment.boot < oldest_kept) {
            let segment = self.segments.pop_front().expect("the front was just looked at");
            self.dropped += segment.alive;
            self.disk.remove(&path(self.dir, segment.boot, segment.first))?;
        }
        Ok(())
    }
}

/// Writing.
impl StreamLog {
    fn push(&mut self, entry: Entry) {
        self.pending_bytes += entry_len_bytes(&entry);
        self.pending.push_back(entry);
        while self.pending_bytes > PENDING_BYTES_MAX {
            self.shed_pending();
        }
    }

    /// Drops the oldest record that waits in memory. Its numbers join those dropped before it.
    fn shed_pending(&mut self) {
        let lost_before = match self.pending.front() {
            Some(Record::Dropped { covers }) => *covers,
            _ => 0,
        };
        if lost_before > 0 {
            self.pending.pop_front();
            self.pending_bytes -= RECORD_OVERHEAD_BYTES;
        }
        let Some(oldest) = self.pending.pop_front() else { return };
        self.pending_bytes -= entry_len_bytes(&oldest);
        self.dropped += alive_numbers(&oldest);
        let dropped = Record::Dropped { covers: lost_before + oldest.covers() };
        self.pending_bytes += entry_len_bytes(&dropped);
        self.pending.push_front(dropped);
    }

    fn commit(&mut self, disk: &SharedDisk, boot: Boot) -> Result<(), DiskError> {
        // What a fault of the disk left is settled even if nothing new came since.
        self.settle(disk, boot)?;
        while !self.pending.is_empty() {
            self.settle(disk, boot)?;
            self.commit_segment(disk, boot)?;
        }
        Ok(())
    }

    /// Writes as many pending records as one segment takes.
    fn commit_segment(&mut self, disk: &SharedDisk, boot: Boot) -> Result<(), DiskError> {
        self.make_room(disk, boot)?;
        if !self.active {
            let begun = Segment::new(boot, self.next, &[], 0, false);
            self.segments.push_back(begun);
            self.active = true;
        }
        let segment = self.segments.back().expect("an active segment is the last one");
        let (path, begins) = (self.path(boot, segment.first), segment.len_bytes == 0);
        let room = self.segment_bytes_max().saturating_sub(segment.len_bytes) as usize;
        let mut bytes = if begins { HEADER.to_vec() } else { Vec::new() };
        let mut count = 0;
        for entry in &self.pending {
            if count > 0 && bytes.len() + entry_len_bytes(entry) > room {
                break;
            }
            write_entry(entry, &mut bytes);
            count += 1;
        }
        // A file of that name is what an earlier try left.
        let written = if begins { disk.write(&path, &bytes) } else { disk.append(&path, &bytes) };
        let written = written.and_then(|()| disk.sync(&path));
        let written = written.and_then(|()| if begins { disk.sync_dir(&self.dir) } else { Ok(()) });
        if let Err(error) = written {
            // The end of the file is unknown: what is pending goes to a new one.
            self.unsettled = true;
            return Err(error);
        }
        self.appended(count, bytes.len() as u64);
        Ok(())
    }

    fn appended(&mut self, count: usize, len_bytes: u64) {
        let segment = self.segments.back_mut().expect("an active segment is the last one");
        segment.len_bytes += len_bytes;
        for entry in self.pending.drain(..count) {
            segment.end += entry.covers();
            segment.alive += alive_numbers(&entry);
            self.pending_bytes -= entry_len_bytes(&entry);
        }
        self.next = segment.end;
        if segment.len_bytes >= self.segment_bytes_max() {
            self.active = false;
        }
    }

    /// Whether these records fit, even if each of them begins a segment.
    fn has_room_for(&self, records: &[Vec<u8>]) -> bool {
        let len = |record: &Vec<u8>| record.len() + RECORD_OVERHEAD_BYTES + HEADER.len();
        let more: usize = records.iter().map(len).sum();
        self.len_bytes() + more as u64 <= self.quota_bytes
    }

    fn segment_bytes_max(&self) -> u64 {
        SEGMENT_BYTES_MAX.min(self.quota_bytes / SEGMENTS_PER_QUOTA)
    }
}

/// Quotas.
impl StreamLog {
    fn make_room(&mut self, disk: &SharedDisk, boot: Boot) -> Result<(), DiskError> {
        let incoming = self.pending_bytes.min(self.segment_bytes_max() as usize) as u64;
        let merge_above = self.quota_bytes - self.quota_bytes / HEADROOM_PER_QUOTA;
        self.unsettled = true;
        while self.len_bytes() + incoming > merge_above && self.merge_cheapest(disk, boot)? {}
        while self.len_bytes() + incoming > self.quota_bytes && self.drop_oldest(disk)? {}
        self.unsettled = false;
        Ok(())
    }

    /// Merges the two neighbouring segments that cover the fewest numbers, of those that may merge and
    /// shrink by it. Coarse records thus stay as they are while finer ones are left.
    fn merge_cheapest(&mut self, disk: &SharedDisk, boot: Boot) -> Result<bool, DiskError> {
        let Some(merge) = self.merge else { return Ok(false) };
        let mut candidates: Vec<usize> = (0..self.segments.len())
            .filter(|&index| self.segments[index].boot == boot && !self.segments[index].handed)
            .collect();
        let reach = |index: usize| self.segments.get(index + 1).filter(|next| !next.handed);
        let covers = |index: usize| {
            let end = reach(index).map_or(self.segments[index].end, |next| next.end);
            end - self.segments[index].first
        };
        candidates.sort_by_key(|&index| covers(index));
        for index in candidates {
            if self.merge_at(disk, index, merge)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn merge_at(
        &mut self,
        disk: &SharedDisk,
        index: usize,
        merge: MergeRecords,
    ) -> Result<bool, DiskError> {
        let first = self.segments[index].clone();
        let second = self.segments.get(index + 1);
        let second = second.filter(|next| first.precedes(next) && !next.handed).cloned();
        let mut entries = read_entries(disk.as_ref(), &self.dir, &first)?;
        if let Some(second) = &second {
            entries.extend(read_entries(disk.as_ref(), &self.dir, second)?);
        }
        let merged = merge_entries(entries, merge);
        let bytes = write_segment(&merged);
        let len_before = first.len_bytes + second.as_ref().map_or(0, |second| second.len_bytes);
        // A second header alone is not worth a rewrite.
        if bytes.len() as u64 + HEADER.len() as u64 >= len_before {
            return Ok(false);
        }
        if index + 2 >= self.segments.len() {
            self.active = false;
        }
        replace(disk.as_ref(), &self.path(first.boot, first.first), &bytes)?;
        self.segments[index] =
            Segment::new(first.boot, first.first, &merged, bytes.len() as u64, false);
        if let Some(second) = second {
            self.segments.remove(index + 1);
            disk.remove(&self.path(second.boot, second.first))?;
            disk.sync_dir(&self.dir)?;
        }
        Ok(true)
    }

    /// Replaces the oldest segment that still has records by a record of their loss.
    fn drop_oldest(&mut self, disk: &SharedDisk) -> Result<bool, DiskError> {
        let Some(index) = self.segments.iter().position(|segment| segment.alive > 0) else {
            return Ok(false);
        };
        if index + 1 == self.segments.len() {
            self.active = false;
        }
        let segment = self.segments[index].clone();
        let lost_before = index.checked_sub(1).map(|before| &self.segments[before]);
        let lost_before = lost_before.filter(|before| before.precedes(&segment)).cloned();
        let first = lost_before.as_ref().map_or(segment.first, |before| before.first);
        let entries = [Record::Dropped { covers: segment.end - first }];
        let bytes = write_segment(&entries);
        replace(disk.as_ref(), &self.path(segment.boot, first), &bytes)?;
        let stored = self.stored.get(&segment.boot).copied().unwrap_or(0);
        self.dropped += segment.alive.min(segment.end.saturating_sub(stored + 1));
        self.segments[index] =
            Segment::new(segment.boot, first, &entries, bytes.len() as u64, true);
        if lost_before.is_some() {
            self.segments.remove(index - 1);
            disk.remove(&self.path(segment.boot, segment.first))?;
            disk.sync_dir(&self.dir)?;
        }
        Ok(true)
    }
}

/// Reading and forgetting.
impl StreamLog {
    fn next_batch(
        &mut self,
        disk: &SharedDisk,
        boot: Boot,
        after: Option<Position>,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Option<SpooledBatch>, DiskError> {
        self.settle(disk, boot)?;
        let Some((mut index, first)) = self.find_after(after) else { return Ok(None) };
        let batch_boot = self.segments[index].boot;
        let mut batch = SpooledBatch { boot: batch_boot, first: Sequence(first), records: vec![] };
        let (mut next, mut len_bytes) = (first, 0);
        'segments: while let Some(segment) = self.segments.get(index).cloned() {
            if segment.boot != batch_boot || segment.end <= segment.first {
                break;
            }
            let mut at = segment.first;
            for entry in read_entries(disk.as_ref(), &self.dir, &segment)? {
                let end = at + entry.covers();
                let entry = starting_at(entry, at, next);
                at = end;
                let Some(entry) = entry else { continue };
                let entry_len = entry_len_bytes(&entry);
                let full = len_bytes + entry_len > bytes_max || batch.records.len() >= records_max;
                if full && !batch.records.is_empty() {
                    break 'segments;
                }
                if batch.records.is_empty() {
                    batch.first = Sequence(end - entry.covers());
                }
                next = end;
                len_bytes += entry_len;
                batch.records.push(entry);
                self.mark_handed(index, boot);
            }
            index += 1;
        }
        if after.is_none_or(|after| after.boot < batch_boot) {
            self.account_for_forgotten(&mut batch);
        }
        Ok((!batch.records.is_empty()).then_some(batch))
    }

    /// Says that the numbers before the batch are gone, if the fleet no longer has them: it lost its
    /// store, or the device was removed and added again. Else it would wait for them for ever.
    fn account_for_forgotten(&self, batch: &mut SpooledBatch) {
        let Some(told) = self.told.get(&batch.boot) else { return };
        let covers = batch.first.0.saturating_sub(told + 1);
        if covers > 0 && !batch.records.is_empty() {
            batch.first = Sequence(told + 1);
            batch.records.insert(0, Record::Dropped { covers });
        }
    }

    /// The first segment that has numbers behind `after` which are not stored, and the first of them.
    fn find_after(&self, after: Option<Position>) -> Option<(usize, u64)> {
        self.segments.iter().enumerate().find_map(|(index, segment)| {
            let stored = self.stored.get(&segment.boot).copied().unwrap_or(0);
            let sent = match after {
                Some(after) if after.boot > segment.boot => return None,
                Some(after) if after.boot == segment.boot => after.sequence.0,
                _ => 0,
            };
            let first = segment.first.max(stored + 1).max(sent + 1);
            (first < segment.end).then_some((index, first))
        })
    }

    /// A record that was handed out never merges: where records merge, its segment takes no more.
    fn mark_handed(&mut self, index: usize, boot: Boot) {
        self.segments[index].handed = true;
        let last = index + 1 == self.segments.len();
        if self.merge.is_some() && last && self.segments[index].boot == boot {
            self.active = false;
        }
    }

    fn acknowledge(
        &mut self,
        disk: &SharedDisk,
        now: Boot,
        boot: Boot,
        through: u64,
    ) -> Result<Acknowledged, DiskError> {
        if boot > now && through > 0 || boot == now && through >= self.next {
            return Ok(Acknowledged::Ahead);
        }
        let known = self.stored.get(&boot).copied().unwrap_or(0);
        let concerns = boot == now || self.segments.iter().any(|segment| segment.boot == boot);
        if concerns {
            self.told.insert(boot, through);
        }
        if through <= known || !concerns {
            return Ok(Acknowledged::Known);
        }
        self.stored.insert(boot, through);
        self.forget_stored(disk, now, boot, through)?;
        Ok(Acknowledged::Progress)
    }

    fn forget_stored(
        &mut self,
        disk: &SharedDisk,
        now: Boot,
        boot: Boot,
        through: u64,
    ) -> Result<(), DiskError> {
        let is_stored = |segment: &Segment| segment.boot == boot && segment.end <= through + 1;
        if self.segments.back().is_some_and(is_stored) {
            self.active = false;
        }
        let (stored, kept): (Vec<_>, _) = self.segments.drain(..).partition(is_stored);
        self.segments = kept.into();
        let removed =
            stored.iter().try_for_each(|segment| disk.remove(&self.path(boot, segment.first)));
        self.unsettled |= removed.is_err();
        removed?;
        // What could not be removed is found again, and must be known to be stored.
        let emptied = !self.segments.iter().any(|segment| segment.boot == boot);
        if emptied && boot != now {
            self.stored.remove(&boot);
            self.told.remove(&boot);
        }
        Ok(())
    }

    fn path(&self, boot: Boot, first: u64) -> String {
        path(&self.dir, boot, first)
    }

    fn len_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len_bytes).sum()
    }
}

fn path(dir: &str, boot: Boot, first: u64) -> String {
    format!("{dir}/{}", file_name(boot, first))
}

fn read_entries(disk: &dyn Disk, dir: &str, segment: &Segment) -> Result<Vec<Entry>, DiskError> {
    let bytes = disk.read(&path(dir, segment.boot, segment.first))?.unwrap_or_default();
    let known = bytes.get(..segment.len_bytes as usize).unwrap_or(&bytes);
    Ok(lost_as_dropped(read_segment(known).entries, segment))
}

/// A segment that went bad after it was written still accounts for all of its numbers.
fn lost_as_dropped(mut entries: Vec<Entry>, segment: &Segment) -> Vec<Entry> {
    let readable: u64 = entries.iter().map(Record::covers).sum();
    let expected = segment.end - segment.first;
    if readable < expected {
        entries.push(Record::Dropped { covers: expected - readable });
    }
    entries
}

/// What is left of a record at number `at` when all before `next` is done with. A record of loss may
/// be halved; any other stays whole.
fn starting_at(entry: Entry, at: u64, next: u64) -> Option<Entry> {
    let end = at + entry.covers();
    match entry {
        _ if end <= next => None,
        Record::Dropped { .. } => Some(Record::Dropped { covers: end - at.max(next) }),
        whole => Some(whole),
    }
}

/// Merges pairs of records; each goes where the earlier of the pair was.
fn merge_entries(entries: Vec<Entry>, merge: MergeRecords) -> Vec<Entry> {
    let mut rest: VecDeque<Entry> = entries.into();
    let mut merged = Vec::with_capacity(rest.len());
    while let Some(entry) = rest.pop_front() {
        let partner = rest
            .iter()
            .take(MERGE_REACH)
            .enumerate()
            .find_map(|(index, later)| Some((index, merge_pair(&entry, later, merge)?)));
        merged.push(match partner {
            Some((index, both)) => {
                rest.remove(index);
                both
            }
            None => entry,
        });
    }
    merged
}

fn merge_pair(earlier: &Entry, later: &Entry, merge: MergeRecords) -> Option<Entry> {
    let covers = earlier.covers() + later.covers();
    match (earlier, later) {
        (Record::Dropped { .. }, Record::Dropped { .. }) => Some(Record::Dropped { covers }),
        (
            Record::One(earlier) | Record::Merged { value: earlier, .. },
            Record::One(later) | Record::Merged { value: later, .. },
        ) => {
            let value = merge(earlier, later)?;
            // What no longer fits a message stays apart.
            (value.len() <= RECORD_BYTES_MAX).then_some(Record::Merged { covers, value })
        }
        _ => None,
    }
}
