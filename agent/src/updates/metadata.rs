//! The repository's metadata: followed over MQTT, kept in two places on the disk, and asked about bundles.
//!
//! The fleet retains every file of the repository under a topic of its own. `timestamp.json` is listened to
//! for good; each one that comes begins a refresh, which says file by file what else is needed. A newer
//! timestamp takes the place of a refresh that is under way, and a file that is refused ends one: the next
//! timestamp begins anew. An unchanged timestamp costs its message and nothing else.
//!
//! What is trusted is written as a whole, to `metadata/a` and `metadata/b` in turn, after every step that
//! changed it. The newest that is whole counts.
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 32 | SHA-256 of all that follows |
//! | 32 | 8 | number of the record, little-endian; it grows by 1 with each |
//! | 40 | | [`Record`] in postcard |
//!
//! From the metadata also follows how late it must be: see [`Metadata::time`].

use std::collections::{BTreeMap, BTreeSet};

use selvedge_bundle::digest_of;
use selvedge_trust::{
    Answer, BundleTarget, Limits, MetadataState, Next, Refresh, Repository, Request, RoleName,
    TIMESTAMP_BYTES_MAX, TrustedMetadata, TrustedRoot, UnixMillis,
};
use selvedge_wire::{Chunk, ChunkCodec, Digest, EventKind, FileName, decode};
use serde::{Deserialize, Serialize};

use crate::{
    disk::{DiskError, SharedDisk},
    error::one_line,
    limits::{
        BUILD_UNIX_MS, CLOCK_SLACK_MS, DISK_RETRY_MS, METADATA_OVERDUE_MS,
        METADATA_REASONS_TOLD_MAX, METADATA_RETRY_MS,
    },
};

use super::{Now, StartError};

/// The folder of the two records.
const METADATA_DIR: &str = "metadata";
const PLACES: [&str; 2] = ["metadata/a", "metadata/b"];
/// The file that every refresh begins with.
const TIMESTAMP_FILE: &str = "timestamp.json";
const NUMBER_BYTES: usize = 8;

/// What is kept on the disk.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The digest of the root metadata that trust began with.
    beginning: [u8; 32],
    /// The latest time that is known to have passed: Unix time in milliseconds.
    floor_ms: u64,
    /// The trusted files by role.
    files: Vec<(String, Vec<u8>)>,
}

/// What is to be done for the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Listen(FileName),
    ListenAgain(FileName),
    Unlisten(FileName),
    Tell(EventKind, String),
}

/// What the repository says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup<'metadata> {
    /// A bundle.
    Bundle(&'metadata BundleTarget),
    /// Nothing, or nothing that is a bundle: the metadata is whole and fresh, and this is known.
    Absent(String),
    /// It cannot be told yet.
    Unknown(String),
}

/// The repository as this device knows it.
pub(super) struct Metadata {
    disk: SharedDisk,
    beginning: [u8; 32],
    trusted: TrustedMetadata,
    root: TrustedRoot,
    state: MetadataState,
    // The number of the newest record on the disk, and what is in it.
    number: u64,
    stored_state: MetadataState,
    stored_floor_ms: u64,
    floor_ms: u64,
    // The disk did not take what is trusted: when to try again.
    unstored: Option<(String, u64)>,
    refresh: Option<Underway>,
    requested: Option<(FileName, Request, u64)>,
    repository: Option<Repository>,
    // The timestamp that led to the repository.
    current: Option<Digest>,
    wanted: BTreeMap<String, Option<Found>>,
    // Why there is no repository to ask, or a search failed.
    problem: Option<String>,
    retry_at_ms: Option<u64>,
    // When the timestamp was asked for again last.
    asked_ms: Option<u64>,
    told: BTreeSet<String>,
    frozen: bool,
    time_unverified: bool,
    changed: bool,
}

/// A refresh that waits for a file, and the timestamp that began it.
struct Underway {
    refresh: Refresh,
    timestamp: Vec<u8>,
}

enum Found {
    Bundle(Box<BundleTarget>),
    Absent(String),
    Failed(String),
}

/// On start.
impl Metadata {
    /// Reads what was kept. `root` is the root metadata that the device was configured with; a newer one
    /// that was kept stands, unless `root` is not the one that trust began with any more.
    ///
    /// # Errors
    /// [`StartError`] if the disk does not work, or `root` is not to be trusted.
    pub(super) fn open(disk: SharedDisk, root: Vec<u8>) -> Result<(Self, bool), StartError> {
        let configured = TrustedRoot::pin(&root).map_err(StartError::Root)?;
        let beginning = digest_of(&root).0;
        disk.create_dir(METADATA_DIR)?;
        let mut newest: Option<(u64, Record)> = None;
        let mut present = 0;
        for place in PLACES {
            let Some(bytes) = disk.read(place)? else { continue };
            present += 1;
            if let Some((number, record)) = read_record(&bytes)
                && newest.as_ref().is_none_or(|(newest, _)| number > *newest)
            {
                newest = Some((number, record));
            }
        }
        // One of them may have been cut short; the other then holds.
        let damaged = newest.is_none() && present == PLACES.len();
        let (number, record) = newest.unwrap_or((0, Record::empty(beginning)));
        let same_beginning = record.beginning == beginning;
        let mut trusted = TrustedMetadata::new(
            record
                .files
                .into_iter()
                .filter_map(|(role, bytes)| Some((role.parse::<RoleName>().ok()?, bytes))),
        );
        let kept = trusted
            .root()
            .ok()
            .filter(|kept| same_beginning && kept.root().version() > configured.root().version());
        let trusts = match kept {
            Some(kept) => kept,
            None => {
                trusted = with_root(&trusted, root);
                configured
            }
        };
        // Who begins anew may have to because keys were stolen, and with them the time.
        let floor_ms = if same_beginning { record.floor_ms } else { 0 };
        let mut metadata = Self {
            disk,
            beginning,
            root: trusts,
            state: trusted.state(),
            stored_state: trusted.state(),
            trusted,
            number,
            stored_floor_ms: floor_ms,
            floor_ms: floor_ms.max(BUILD_UNIX_MS),
            unstored: None,
            refresh: None,
            requested: None,
            repository: None,
            current: None,
            wanted: BTreeMap::new(),
            problem: None,
            retry_at_ms: None,
            asked_ms: None,
            told: BTreeSet::new(),
            frozen: false,
            time_unverified: false,
            changed: false,
        };
        metadata.raise_floor(metadata.state.issued.0);
        Ok((metadata, damaged))
    }

    /// Begins to listen, and looks at what was kept: it may still be fresh.
    pub(super) fn begin(&mut self, now: Now, orders: &mut Vec<Order>) {
        orders.push(Order::Listen(timestamp_file()));
        self.watch_time(now, orders);
        let kept = self.trusted.file(&RoleName::timestamp()).map(<[u8]>::to_vec);
        if let Some(timestamp) = kept.filter(|_| !self.timestamp_expired(now)) {
            self.refresh_with(timestamp, now, orders);
        }
    }

    /// That the timestamp has expired was told. A fresh one may lead to a snapshot in the place of one that expired.
    fn timestamp_expired(&self, now: Now) -> bool {
        self.frozen && self.time(now).unix_ms >= self.state.timestamp_fresh_until.0
    }
}

/// The time.
impl Metadata {
    /// The time, but for the latest that is known to have passed, if that is later: when this program was
    /// built, and when the newest timestamp and desired state were signed. That floor goes back only with a
    /// root that takes away the key which vouched for it: whoever stole that key may have signed a time that
    /// is still to come.
    pub(super) fn time(&self, now: Now) -> Now {
        Now { unix_ms: now.unix_ms.max(self.floor_ms), ..now }
    }

    pub(super) fn raise_floor(&mut self, unix_ms: u64) {
        self.floor_ms = self.floor_ms.max(unix_ms);
    }

    /// Makes the floor durable, unless `recorded_ms`, which is recorded elsewhere, is as late.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn keep_floor(&mut self, recorded_ms: u64) -> Result<(), DiskError> {
        if self.floor_ms > self.stored_floor_ms.max(recorded_ms).max(BUILD_UNIX_MS) {
            self.store()?;
        }
        Ok(())
    }

    /// Says so when the metadata expires, when it is fresh again, and when the clock cannot be right.
    fn watch_time(&mut self, now: Now, orders: &mut Vec<Order>) {
        let behind = now.unix_ms.saturating_add(CLOCK_SLACK_MS) < self.floor_ms;
        if behind && !self.time_unverified {
            let (clock, floor) = (UnixMillis(now.unix_ms), UnixMillis(self.floor_ms));
            let detail = format!("the clock says {clock}, but {floor} has passed, which is used");
            orders.push(Order::Tell(EventKind::TimeUnverified, detail));
        }
        self.time_unverified = behind;
        let fresh_until = self.state.fresh_until;
        let frozen = fresh_until != UnixMillis(0) && self.time(now).unix_ms >= fresh_until.0;
        if frozen != self.frozen {
            let (kind, detail) = if frozen {
                self.repository = None;
                // The broker may have a newer timestamp, and dropped the message about it.
                self.ask_again(now);
                let detail = format!("the repository's metadata expired at {fresh_until}");
                (EventKind::Frozen, format!("{detail}; nothing newer came"))
            } else {
                if self.repository.is_none() {
                    self.retry_at_ms = Some(now.elapsed_ms);
                }
                let detail = format!("the repository's metadata is good until {fresh_until}");
                (EventKind::Thawed, detail)
            };
            orders.push(Order::Tell(kind, detail));
            self.frozen = frozen;
            self.changed = true;
        }
    }
}

/// What is known.
impl Metadata {
    /// The root that is trusted.
    pub(super) fn root(&self) -> &TrustedRoot {
        &self.root
    }

    /// Where the device stands, as far as the disk has it: a power cut does not take it back.
    pub(super) fn stored_state(&self) -> MetadataState {
        self.stored_state
    }

    /// The timestamp that led to the repository, by its digest.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn followed_timestamp(&self) -> Option<Digest> {
        self.current.filter(|_| self.repository.is_some())
    }

    /// The floor of the time, and what of it is on the disk.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn floors_ms(&self) -> (u64, u64) {
        (self.floor_ms, self.stored_floor_ms)
    }

    /// Whether what is trusted has expired.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether the clock is behind the floor.
    pub(super) fn is_time_unverified(&self) -> bool {
        self.time_unverified
    }

    /// Whether lookups may have another outcome since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the repository says of a path that is [wanted](Self::want).
    pub(super) fn lookup(&self, path: &str) -> Lookup<'_> {
        if let Some((reason, _)) = &self.unstored {
            return Lookup::Unknown(reason.clone());
        }
        if self.frozen {
            let until = self.state.fresh_until;
            return Lookup::Unknown(format!("the repository's metadata expired at {until}"));
        }
        if self.repository.is_none() {
            let reason = "the repository's metadata has not come yet";
            let problem = self.problem.clone();
            return Lookup::Unknown(problem.unwrap_or_else(|| reason.to_owned()));
        }
        match self.wanted.get(path).and_then(Option::as_ref) {
            Some(Found::Bundle(target)) => Lookup::Bundle(target),
            Some(Found::Absent(reason)) => Lookup::Absent(reason.clone()),
            Some(Found::Failed(reason)) => Lookup::Unknown(reason.clone()),
            None => Lookup::Unknown(format!("the target {path} is being looked for")),
        }
    }

    /// Looks for these paths, and no others.
    pub(super) fn want(&mut self, paths: &BTreeSet<String>, now: Now, orders: &mut Vec<Order>) {
        self.wanted.retain(|path, _| paths.contains(path));
        for path in paths {
            self.wanted.entry(path.clone()).or_default();
        }
        self.search(now, orders);
    }
}

/// Following the repository.
impl Metadata {
    /// A file came.
    pub(super) fn receive(
        &mut self,
        file: &FileName,
        payload: &[u8],
        now: Now,
        orders: &mut Vec<Order>,
    ) {
        let max_bytes = match &self.requested {
            Some((requested, request, _)) if requested == file => request.max_bytes,
            _ if file.as_str() == TIMESTAMP_FILE => TIMESTAMP_BYTES_MAX as u64,
            _ => return,
        };
        match expand(payload, max_bytes) {
            Ok(bytes) if file.as_str() == TIMESTAMP_FILE => self.take_timestamp(bytes, now, orders),
            Ok(bytes) => self.take_requested(bytes, now, orders),
            // Nothing of it was believed; the file that was asked for may still come.
            Err(reason) => self.tell_refused(format!("{file}: {reason}"), orders),
        }
        self.watch_time(now, orders);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Now, orders: &mut Vec<Order>) {
        self.watch_time(now, orders);
        if let Some((_, at_ms)) = &self.unstored
            && now.elapsed_ms >= *at_ms
        {
            self.store_or_retry(now);
        }
        if let Some((file, _, asked_ms)) = &mut self.requested
            && now.elapsed_ms >= *asked_ms + METADATA_OVERDUE_MS
        {
            *asked_ms = now.elapsed_ms;
            orders.push(Order::ListenAgain(file.clone()));
            // The file is gone if there is a newer timestamp, which a broker with a full queue has dropped.
            orders.push(Order::ListenAgain(timestamp_file()));
        }
        if self.retry_at_ms.is_some_and(|at_ms| now.elapsed_ms >= at_ms) {
            self.retry_at_ms = self.frozen.then_some(now.elapsed_ms + METADATA_RETRY_MS);
            self.asked_ms = Some(now.elapsed_ms);
            orders.push(Order::ListenAgain(timestamp_file()));
            self.wanted.values_mut().for_each(|found| {
                found.take_if(|found| matches!(found, Found::Failed(_)));
            });
            self.search(now, orders);
        }
    }

    /// There may be a timestamp that this device has not heard of: it asks for it once more, but not for
    /// every reason anew.
    pub(super) fn ask_again(&mut self, now: Now) {
        // What is overdue of a newer one is asked for with the timestamp.
        if self.requested.is_some() {
            return;
        }
        let rested_ms = self.asked_ms.map_or(0, |asked_ms| asked_ms + METADATA_RETRY_MS);
        self.retry_at_ms.get_or_insert(rested_ms.max(now.elapsed_ms));
    }

    fn take_timestamp(&mut self, bytes: Vec<u8>, now: Now, orders: &mut Vec<Order>) {
        let is_current = self.repository.is_some() && self.current == Some(digest_of(&bytes));
        let known = self.trusted.file(&RoleName::timestamp());
        let is_old_news = self.timestamp_expired(now) && known.is_some_and(|known| known == bytes);
        let is_underway = self.refresh.as_ref().is_some_and(|one| one.timestamp == bytes);
        if !is_current && !is_underway && !is_old_news {
            self.refresh_with(bytes, now, orders);
        }
    }

    fn refresh_with(&mut self, timestamp: Vec<u8>, now: Now, orders: &mut Vec<Order>) {
        self.cancel_request(orders);
        self.refresh = None;
        let time = UnixMillis(self.time(now).unix_ms);
        let begun = Refresh::pushed(timestamp.clone(), &mut self.trusted, time, Limits::DEVICE);
        self.go_on(begun, timestamp, now, orders);
    }

    fn take_requested(&mut self, bytes: Vec<u8>, now: Now, orders: &mut Vec<Order>) {
        let Some((_, request, _)) = &self.requested else { return };
        let request = request.clone();
        self.cancel_request(orders);
        match self.refresh.take() {
            Some(Underway { refresh, timestamp }) => {
                let next = refresh.answer(Answer::Found(bytes), &mut self.trusted);
                self.go_on(next, timestamp, now, orders);
            }
            None => self.answer_search(&request, bytes, now, orders),
        }
    }

    fn go_on(
        &mut self,
        next: Result<Next<Refresh, Repository>, selvedge_trust::Error>,
        timestamp: Vec<u8>,
        now: Now,
        orders: &mut Vec<Order>,
    ) {
        self.keep_changes(now);
        match next {
            Ok(Next::Fetch(refresh)) => {
                let request = refresh.request();
                self.refresh = Some(Underway { refresh, timestamp });
                self.request(request, now, orders);
            }
            Ok(Next::Done(repository)) => {
                self.repository = Some(repository);
                self.current = Some(digest_of(&timestamp));
                self.problem = None;
                self.retry_at_ms = None;
                self.wanted.values_mut().for_each(|found| *found = None);
                self.changed = true;
                self.search(now, orders);
            }
            Err(error) => self.refuse(&error, now, orders),
        }
    }

    /// Looks for what is wanted and not found yet, until a file is needed for it.
    fn search(&mut self, now: Now, orders: &mut Vec<Order>) {
        while self.requested.is_none()
            && let Some(repository) = &self.repository
            && let Some((path, found)) = self.wanted.iter_mut().find(|(_, found)| found.is_none())
        {
            self.changed = true;
            let needed = match repository.search(path, &self.trusted) {
                Ok(Next::Done(file)) => {
                    *found = Some(read_found(path, file));
                    continue;
                }
                Ok(Next::Fetch(search)) => Ok(search.request()),
                Err(error) => {
                    *found = Some(Found::Failed(one_line(&error)));
                    Err(error)
                }
            };
            match needed {
                Ok(request) => self.request(request, now, orders),
                Err(error) => self.refuse(&error, now, orders),
            }
        }
    }

    /// Gives a file to the search that asked for it, which is walked again up to there.
    fn answer_search(
        &mut self,
        request: &Request,
        bytes: Vec<u8>,
        now: Now,
        orders: &mut Vec<Order>,
    ) {
        let Some(repository) = &self.repository else { return };
        let Some((path, found)) = self.wanted.iter_mut().find(|(_, found)| found.is_none()) else {
            return;
        };
        let refused = match repository.search(path, &self.trusted) {
            Ok(Next::Fetch(search)) if search.request() == *request => {
                search.answer(Answer::Found(bytes), &mut self.trusted).err()
            }
            _ => None,
        };
        if let Some(error) = refused {
            *found = Some(Found::Failed(one_line(&error)));
            self.refuse(&error, now, orders);
        }
        self.keep_changes(now);
        self.search(now, orders);
    }

    fn request(&mut self, request: Request, now: Now, orders: &mut Vec<Order>) {
        match request.file.parse::<FileName>() {
            Ok(file) => {
                orders.push(Order::Listen(file.clone()));
                self.requested = Some((file, request, now.elapsed_ms));
            }
            Err(error) => {
                self.refresh = None;
                if let Some(found) = self.wanted.values_mut().find(|found| found.is_none()) {
                    *found = Some(Found::Failed(error.to_string()));
                }
                self.refuse(&error, now, orders);
            }
        }
    }

    fn cancel_request(&mut self, orders: &mut Vec<Order>) {
        let requested = self.requested.take();
        orders.extend(requested.map(|(file, _, _)| Order::Unlisten(file)));
    }

    /// A file that is refused costs the refresh, or the search, that asked for it, and nothing that is
    /// trusted already.
    fn refuse(
        &mut self,
        error: &(dyn std::error::Error + 'static),
        now: Now,
        orders: &mut Vec<Order>,
    ) {
        let reason = one_line(error);
        self.retry_at_ms = Some(now.elapsed_ms + METADATA_RETRY_MS);
        self.problem = Some(format!("the repository's metadata was refused: {reason}"));
        self.changed = true;
        self.tell_refused(reason, orders);
    }

    fn tell_refused(&mut self, reason: String, orders: &mut Vec<Order>) {
        if self.told.len() < METADATA_REASONS_TOLD_MAX && self.told.insert(reason.clone()) {
            tracing::warn!("metadata of the repository was refused: {reason}");
            orders.push(Order::Tell(EventKind::MetadataRefused, reason));
        }
    }
}

/// What is kept.
impl Metadata {
    fn keep_changes(&mut self, now: Now) {
        let changes = self.trusted.take_changes();
        if changes.is_empty() {
            return;
        }
        self.changed = true;
        self.state = self.trusted.state();
        if changes.contains(&RoleName::root())
            && let Ok(root) = self.trusted.root()
        {
            self.root = root;
            // It may have taken away keys that the repository was verified with.
            self.repository = None;
            if self.state.timestamp_version == 0 {
                // What the key vouched for that was taken away counts no more.
                self.floor_ms = BUILD_UNIX_MS;
            }
        }
        self.raise_floor(self.state.issued.0);
        self.store_or_retry(now);
    }

    fn store_or_retry(&mut self, now: Now) {
        self.unstored = self.store().err().map(|error| {
            tracing::error!("the repository's metadata was not kept, and is tried again: {error}");
            (error.to_string(), now.elapsed_ms + DISK_RETRY_MS)
        });
        self.changed = true;
    }

    fn store(&mut self) -> Result<(), DiskError> {
        let files = self.trusted.files();
        let record = Record {
            beginning: self.beginning,
            floor_ms: self.floor_ms,
            files: files.map(|(role, bytes)| (role.as_str().to_owned(), bytes.to_vec())).collect(),
        };
        let number = self.number + 1;
        let place = PLACES[usize::from(number.is_multiple_of(2))];
        self.disk.write(place, &encode_record(number, &record))?;
        self.disk.sync(place)?;
        self.disk.sync_dir(METADATA_DIR)?;
        self.number = number;
        self.stored_state = self.state;
        self.stored_floor_ms = self.floor_ms;
        Ok(())
    }
}

impl Record {
    fn empty(beginning: [u8; 32]) -> Self {
        Self { beginning, floor_ms: 0, files: Vec::new() }
    }
}

fn encode_record(number: u64, record: &Record) -> Vec<u8> {
    let record = postcard::to_allocvec(record).expect("a record has no sequence of unknown length");
    let content = [&number.to_le_bytes()[..], &record].concat();
    [&digest_of(&content).0[..], &content].concat()
}

fn read_record(bytes: &[u8]) -> Option<(u64, Record)> {
    let (digest, content) = bytes.split_at_checked(size_of::<Digest>())?;
    let (number, record) = content.split_first_chunk::<NUMBER_BYTES>()?;
    let is_whole = digest_of(content).0[..] == *digest;
    let record = is_whole.then(|| postcard::from_bytes(record).ok())?;
    Some((u64::from_le_bytes(*number), record?))
}

fn with_root(trusted: &TrustedMetadata, root: Vec<u8>) -> TrustedMetadata {
    let others = trusted.files().filter(|(role, _)| **role != RoleName::root());
    let others = others.map(|(role, bytes)| (role.clone(), bytes.to_vec()));
    TrustedMetadata::new(others.chain([(RoleName::root(), root)]))
}

fn read_found(path: &str, file: Option<selvedge_trust::TargetFile>) -> Found {
    match file.as_ref().map(BundleTarget::read) {
        Some(Ok(target)) => Found::Bundle(Box::new(target)),
        Some(Err(error)) => Found::Absent(format!("the target {path} is no bundle: {error}")),
        None => Found::Absent(format!("the repository has no target {path}")),
    }
}

fn timestamp_file() -> FileName {
    TIMESTAMP_FILE.parse().expect("the name is well formed")
}

/// The content of a file that came as a message; no more than `max_bytes` are ever held.
fn expand(payload: &[u8], max_bytes: u64) -> Result<Vec<u8>, String> {
    let chunk: Chunk = decode(payload).map_err(|error| error.to_string())?;
    let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    match chunk.codec {
        ChunkCodec::Raw if chunk.bytes.len() > max => {
            Err(format!("it has {} bytes; at most {max} are taken", chunk.bytes.len()))
        }
        ChunkCodec::Raw => Ok(chunk.bytes),
        ChunkCodec::Zstd => zstd::bulk::decompress(&chunk.bytes, max)
            .map_err(|error| format!("it does not expand to {max} bytes or fewer: {error}")),
    }
}
