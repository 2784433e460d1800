//! Keeps at the broker what devices should find there: desired states, how far streams are stored, which captured
//! samples are asked for, the repository's metadata, and the bundles that any device should run.
//!
//! The broker may lose all it holds. So the store says what should be retained, and this compares: on
//! each connection everything is published again, in between what changed; what nobody needs any more
//! is cleared. Small and urgent messages go before chunks, and a timestamp goes when the broker has
//! every file that it leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::mpsc, task::JoinSet};

use selvedge_bundle::{Patch, compress, digest_of};
use selvedge_link::{Delivery, Link, Publish};
use selvedge_trust::{KeyId, metadata_chunk};
use selvedge_wire::{
    BundleOffer, CaptureRequest, Desired, DeviceId, Digest, FileName, Stored, StoredThrough, Topic,
    Topics, encode,
};

use crate::{
    Error,
    director::Director,
    one_line,
    registry::{Registry, Stock, raw_chunk},
    stop::Stop,
    store::{DeviceRow, PatchRow, Store, TIMESTAMP_FILE},
};

/// How many messages may wait for the broker's answer at once.
const IN_FLIGHT_MAX: usize = 16;

/// How many boots and streams of a device are told to it.
const STREAMS_TOLD_MAX: u32 = 64;

/// How many more, of boots that are settled.
const SETTLED_TOLD_MAX: usize = 64;

/// The root that every device has or is past: no chain leads to it.
const FIRST_ROOT_FILE: &str = "1.root.json";

/// Tells the downlink what to look at again. It never waits.
#[derive(Clone)]
pub struct Downlink {
    orders: mpsc::UnboundedSender<Order>,
    retained_bytes: Arc<AtomicU64>,
}

enum Order {
    /// Something about devices, desired states, bundles or the repository changed.
    Replan,
    /// More of a device's streams is stored.
    Stored(DeviceId),
    /// A device sent what will never be stored, up to here: it may forget it.
    Settled(DeviceId, StoredThrough),
    /// A device is there; with the generation of the desired state that it follows, if it said that.
    Heard(DeviceId, Option<u64>),
    /// The link is up, or down.
    Connected(bool),
}

/// What a topic should carry. The order is that of sending.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    /// How far streams are stored, signed with this key.
    Stored { device: DeviceId, key: KeyId },
    /// Which captured samples are asked for, signed with this key.
    Captures { device: DeviceId, request: u64, key: KeyId },
    /// A file of the repository; its name has its version.
    Metadata(FileName),
    /// The file that leads to the others, with its digest.
    Timestamp { file: FileName, digest: Digest },
    /// The topic is cleared. Bytes are given back before others are taken, but a file of the repository
    /// goes only when no timestamp leads to it.
    Nothing,
    /// What a bundle is made of.
    Offer { bundle: Digest },
    /// What a device should run.
    Desired { device: DeviceId, generation: u64 },
    /// A site baseline that a desired state names.
    Site(Digest),
    /// A chunk of a bundle.
    Chunk { bundle: Digest, chunk: Digest },
    /// A piece of a patch, which its index names; or the index.
    Piece { patch: Digest, piece: Digest },
}

/// A message for the broker.
pub struct Outgoing {
    content: Content,
    /// Where it is retained.
    pub topic: String,
    /// What is retained; nothing clears the topic.
    pub payload: Vec<u8>,
}

/// A message that the broker has answered, or not.
struct Sent {
    message: Outgoing,
    connection: u64,
    delivery: Delivery,
}

/// What should be retained, and what of it is still to be sent.
pub struct Outbox {
    store: Store,
    registry: Arc<Registry>,
    director: Director,
    topics: Topics,
    retained_bytes_max: u64,
    retained_bytes: Arc<AtomicU64>,
    /// What each topic should carry.
    plan: BTreeMap<String, Content>,
    /// What is to be sent.
    due: BTreeSet<(Content, String)>,
    /// The generation that each device follows, as it said last.
    followed: BTreeMap<DeviceId, u64>,
    /// Files of the repository that wait for the broker's answer.
    metadata_unanswered: usize,
    /// Ends of what devices may forget though it is not stored, the last told last. After a restart
    /// they send it again, and are told again.
    settled: BTreeMap<DeviceId, Vec<StoredThrough>>,
    /// The bundle that was read last: its chunks are sent one after the other.
    stock: Option<Arc<Stock>>,
    /// The same of the patch that was read last, by the digest of its index.
    patch: Option<(Digest, Patch)>,
}

/// The other end of [`Downlink`]: turns orders into messages.
pub struct DownlinkWorker {
    orders: mpsc::UnboundedReceiver<Order>,
    outbox: Outbox,
    /// What waits for the broker's answer.
    in_flight: JoinSet<Sent>,
    connected: bool,
    /// Counts the connections, so that what was lost on an earlier one does not speak of this one.
    connection: u64,
}

impl Downlink {
    /// A downlink and the worker that must run for it.
    pub fn new(
        store: Store,
        registry: Arc<Registry>,
        director: Director,
        retained_bytes_max: u64,
    ) -> (Self, DownlinkWorker) {
        let (sender, orders) = mpsc::unbounded_channel();
        let outbox = Outbox::new(store, registry, director, retained_bytes_max);
        let retained_bytes = outbox.retained_bytes.clone();
        let worker = DownlinkWorker {
            orders,
            outbox,
            in_flight: JoinSet::new(),
            connected: false,
            connection: 0,
        };
        (Self { orders: sender, retained_bytes }, worker)
    }

    /// Something about devices, desired states, bundles or the repository changed.
    pub fn replan(&self) {
        self.order(Order::Replan);
    }

    /// More of the streams of `device` is stored.
    pub fn stored(&self, device: DeviceId) {
        self.order(Order::Stored(device));
    }

    /// What `device` sent up to `end` will never be stored: it may forget it.
    pub fn settled(&self, device: DeviceId, end: StoredThrough) {
        self.order(Order::Settled(device, end));
    }

    /// `device` is there, and follows the desired state of `generation`, if it said that.
    pub fn heard(&self, device: DeviceId, generation: Option<u64>) {
        self.order(Order::Heard(device, generation));
    }

    /// The link is up, or down.
    pub fn connected(&self, connected: bool) {
        self.order(Order::Connected(connected));
    }

    /// The bytes of chunks and pieces of patches that the broker should retain.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    fn order(&self, order: Order) {
        // Only a manager that stops has no worker.
        let _ = self.orders.send(order);
    }
}

impl DownlinkWorker {
    /// Publishes over `link` until `stop` is said.
    pub async fn run(mut self, link: Link, mut stop: Stop) {
        self.outbox.replan_or_log().await;
        loop {
            while self.connected && self.in_flight.len() < IN_FLIGHT_MAX && self.orders.is_empty() {
                let Some(message) = self.outbox.next().await else { break };
                self.send(&link, message).await;
            }
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                Some(done) = self.in_flight.join_next() => {
                    self.settle(done.expect("waiting for a receipt cannot fail")).await;
                }
                () = stop.said() => return,
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Replan => self.outbox.replan_or_log().await,
            Order::Stored(device) => self.outbox.tell_stored(device).await,
            Order::Settled(device, end) => self.outbox.tell_settled(device, end).await,
            Order::Heard(device, generation) => self.outbox.note_heard(&device, generation),
            Order::Connected(connected) => {
                self.connected = connected;
                if connected {
                    self.connection += 1;
                    self.outbox.send_all_again();
                }
            }
        }
    }

    async fn send(&mut self, link: &Link, message: Outgoing) {
        let publish = Publish::retained(message.topic.clone(), message.payload.clone());
        let Ok(receipt) = link.publish(publish).await else {
            self.connected = false;
            self.outbox.lost(message);
            return;
        };
        let connection = self.connection;
        self.in_flight.spawn(async move { Sent { message, connection, delivery: receipt.await } });
    }

    async fn settle(&mut self, sent: Sent) {
        let Sent { message, connection, delivery } = sent;
        match delivery {
            Delivery::Accepted => {
                if let Err(error) = self.outbox.accepted(message).await {
                    tracing::error!("{}", one_line(&error));
                }
            }
            Delivery::Refused { code } => {
                let topic = &message.topic;
                tracing::error!("the broker refuses what devices should find at {topic}: {code}");
                self.outbox.refused(message);
            }
            Delivery::Lost => {
                if connection == self.connection {
                    self.connected = false;
                }
                self.outbox.lost(message);
            }
        }
    }
}

impl Outbox {
    /// An outbox that has planned nothing yet.
    pub fn new(
        store: Store,
        registry: Arc<Registry>,
        director: Director,
        retained_bytes_max: u64,
    ) -> Self {
        Self {
            topics: Topics::new(director.fleet()),
            store,
            registry,
            director,
            retained_bytes_max,
            retained_bytes: Arc::default(),
            plan: BTreeMap::new(),
            due: BTreeSet::new(),
            followed: BTreeMap::new(),
            metadata_unanswered: 0,
            settled: BTreeMap::new(),
            stock: None,
            patch: None,
        }
    }

    /// The next message; nothing if there is none, or if what has to be there before it waits for the
    /// broker's answer. Each message that is taken is to be given to [`accepted`](Self::accepted),
    /// [`refused`](Self::refused) or [`lost`](Self::lost).
    pub async fn next(&mut self) -> Option<Outgoing> {
        loop {
            let (content, _) = self.due.first()?;
            if matches!(content, Content::Timestamp { .. }) && self.metadata_unanswered > 0 {
                return None;
            }
            let (content, topic) = self.due.pop_first()?;
            match self.payload(&content, &topic).await {
                Ok(Some(payload)) => {
                    self.metadata_unanswered += usize::from(content.is_metadata());
                    return Some(Outgoing { content, topic, payload });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("cannot make the message for {topic}: {}", one_line(&error));
                    self.hold_timestamp_back(&content);
                }
            }
        }
    }

    /// The broker has taken `message`.
    ///
    /// # Errors
    /// [`Error::Store`] if that a topic was cleared could not be noted.
    pub async fn accepted(&mut self, message: Outgoing) -> Result<(), Error> {
        self.note_answer(&message.content);
        if message.content != Content::Nothing || self.plan.contains_key(&message.topic) {
            return Ok(());
        }
        self.store.forget_retained(&[message.topic]).await
    }

    /// The broker does not take `message`.
    pub fn refused(&mut self, message: Outgoing) {
        self.note_answer(&message.content);
        self.hold_timestamp_back(&message.content);
    }

    /// Whether the broker has taken `message` is not known: it is sent again.
    pub fn lost(&mut self, message: Outgoing) {
        self.note_answer(&message.content);
        let planned = self.plan.get(&message.topic).unwrap_or(&Content::Nothing);
        if *planned == message.content {
            self.due.insert((message.content, message.topic));
        }
    }

    /// On a new connection the broker may have nothing of what it had.
    pub fn send_all_again(&mut self) {
        let all = self.plan.iter().map(|(topic, content)| (content.clone(), topic.clone()));
        self.due.extend(all);
    }

    /// Compares what should be retained with what was planned before.
    ///
    /// # Errors
    /// [`Error::Store`] if the database cannot be read or written.
    pub async fn replan(&mut self) -> Result<(), Error> {
        let plan = self.make_plan().await?;
        let retained = self.store.retained().await?;
        let new: Vec<String> =
            plan.keys().filter(|topic| !retained.contains(*topic)).cloned().collect();
        self.store.note_retained(&new).await?;
        let stands = |plan: &BTreeMap<String, Content>, topic: &String, content: &Content| {
            plan.get(topic).is_some_and(|planned| planned.says_the_same(content))
        };
        let changed = plan.iter().filter(|&(topic, content)| !stands(&self.plan, topic, content));
        self.due.retain(|(content, topic)| stands(&plan, topic, content));
        self.due.extend(changed.map(|(topic, content)| (content.clone(), topic.clone())));
        let stale = retained.into_iter().filter(|topic| !plan.contains_key(topic));
        self.due.extend(stale.map(|topic| (Content::Nothing, topic)));
        let topics = &self.topics;
        self.settled
            .retain(|device, _| plan.contains_key(&topics.name(&Topic::Stored(device.clone()))));
        self.plan = plan;
        Ok(())
    }

    /// More of the streams of `device` is stored.
    pub async fn tell_stored(&mut self, device: DeviceId) {
        let topic = self.topics.name(&Topic::Stored(device));
        if let Some(content) = self.plan.get(&topic) {
            self.due.insert((content.clone(), topic));
        }
    }

    /// `device` is there. If what it follows is not what it should follow, the broker may have dropped that: a
    /// queue that is full takes nothing new, and what is retained comes only with a new subscription. So it
    /// is sent again, and so is a request for captured samples that is not answered yet.
    pub fn note_heard(&mut self, device: &DeviceId, generation: Option<u64>) {
        let captures = self.topics.name(&Topic::Captures(device.clone()));
        if let Some(content) = self.plan.get(&captures) {
            self.due.insert((content.clone(), captures));
        }
        if let Some(generation) = generation {
            self.followed.insert(device.clone(), generation);
        }
        let Some(followed) = self.followed.get(device) else { return };
        let topic = self.topics.name(&Topic::Desired(device.clone()));
        if let Some(content @ Content::Desired { generation, .. }) = self.plan.get(&topic)
            && generation > followed
        {
            self.due.insert((content.clone(), topic));
        }
    }

    /// What `device` sent up to `end` will never be stored: it may forget it.
    pub async fn tell_settled(&mut self, device: DeviceId, end: StoredThrough) {
        note_settled(self.settled.entry(device.clone()).or_default(), end);
        self.tell_stored(device).await;
    }

    async fn replan_or_log(&mut self) {
        if let Err(error) = self.replan().await {
            tracing::error!("cannot see what devices should find: {}", one_line(&error));
        }
    }

    fn note_answer(&mut self, content: &Content) {
        self.metadata_unanswered -= usize::from(content.is_metadata());
    }

    /// Without one of its files a timestamp would lead nowhere: it is sent on the next connection or with
    /// the next change.
    fn hold_timestamp_back(&mut self, content: &Content) {
        if content.is_metadata() {
            self.due.retain(|(content, _)| !matches!(content, Content::Timestamp { .. }));
        }
    }

    async fn make_plan(&mut self) -> Result<BTreeMap<String, Content>, Error> {
        let key = self.director.office().await.public_key().id();
        let devices = self.store.devices().await?;
        let reported = devices.iter().filter_map(|device| {
            let reported = device.reported.as_ref()?;
            Some((device.id.clone(), reported.generation))
        });
        self.followed = reported.collect();
        let mut contents = self.metadata().await?;
        for desired in self.store.all_desired().await? {
            let (device, generation) = (desired.device, desired.generation);
            let content = Content::Desired { device: device.clone(), generation };
            contents.push((Topic::Desired(device), content));
        }
        contents.extend(self.bundles(&devices).await?);
        for DeviceRow { id: device, .. } in devices {
            let content = Content::Stored { device: device.clone(), key: key.clone() };
            contents.push((Topic::Stored(device), content));
        }
        for (device, CaptureRequest { number: request, .. }) in
            self.store.open_capture_requests().await?
        {
            let content = Content::Captures { device: device.clone(), request, key: key.clone() };
            contents.push((Topic::Captures(device), content));
        }
        let named = |(topic, content)| (self.topics.name(&topic), content);
        Ok(contents.into_iter().map(named).collect())
    }

    /// The files of the repository that devices may ask for.
    async fn metadata(&self) -> Result<Vec<(Topic, Content)>, Error> {
        let mut contents = Vec::new();
        for name in self.store.repository_names().await? {
            let file: FileName =
                name.parse().expect("a repository takes only files whose names fit into topics");
            let content = match &name[..] {
                FIRST_ROOT_FILE => continue,
                TIMESTAMP_FILE => {
                    let bytes = self.store.repository_file(&name).await?.unwrap_or_default();
                    Content::Timestamp { file: file.clone(), digest: digest_of(&bytes) }
                }
                _ => Content::Metadata(file.clone()),
            };
            contents.push((Topic::Metadata(file), content));
        }
        Ok(contents)
    }

    /// The bundles and site baselines that are assigned, and patches to the former from what devices run or should run. Patches are
    /// extras: they take what room is left.
    async fn bundles(&self, devices: &[DeviceRow]) -> Result<Vec<(Topic, Content)>, Error> {
        let mut room = Room { bytes_max: self.retained_bytes_max, taken: BTreeMap::new() };
        let assigned = self.store.assigned_bundles().await?;
        let mut contents = Vec::new();
        let mut offered: BTreeSet<Digest> = BTreeSet::new();
        for &bundle in &assigned {
            let pieces = self.store.pieces(&bundle).await?;
            if let Err(bytes) = room.take(&pieces) {
                tracing::error!(
                    "{bundle} is not offered: the broker would retain {bytes} bytes of chunks, and \
                     retained_bytes_max is {}",
                    self.retained_bytes_max
                );
                continue;
            }
            offered.insert(bundle);
            for (chunk, _) in pieces {
                contents.push((Topic::Chunk(chunk), Content::Chunk { bundle, chunk }));
            }
        }
        for site in self.store.assigned_sites().await? {
            match room.take(&self.store.pieces(&site).await?) {
                Ok(()) => contents.push((Topic::Chunk(site), Content::Site(site))),
                Err(bytes) => tracing::error!(
                    "the site baseline {site} is not offered: the broker would retain {bytes} bytes, \
                     and retained_bytes_max is {}",
                    self.retained_bytes_max
                ),
            }
        }
        let slots = devices.iter().filter_map(|device| device.reported.as_ref());
        let running =
            slots.flat_map(|reported| &reported.slots).filter_map(|slot| slot.running.as_ref());
        let mut sources: BTreeSet<Digest> = running.map(|running| running.bundle).collect();
        sources.extend(&assigned);
        for patch in self.store.patches().await? {
            let PatchRow { source, target, index_digest, signed, .. } = patch;
            if !signed || !offered.contains(&target) || !sources.contains(&source) {
                continue;
            }
            let pieces = self.store.pieces(&index_digest).await?;
            if room.take(&pieces).is_err() {
                continue;
            }
            for (piece, _) in pieces {
                let content = Content::Piece { patch: index_digest, piece };
                contents.push((Topic::Chunk(piece), content));
            }
        }
        self.retained_bytes.store(room.taken.values().sum(), Ordering::Relaxed);
        let offer = |bundle| (Topic::Bundle(bundle), Content::Offer { bundle });
        contents.extend(offered.into_iter().map(offer));
        Ok(contents)
    }

    /// The payload; nothing if what it should say is gone by now, which a new plan is about to say.
    async fn payload(&mut self, content: &Content, topic: &str) -> Result<Option<Vec<u8>>, Error> {
        match content {
            Content::Nothing => Ok(Some(Vec::new())),
            Content::Stored { device, .. } => {
                let mut streams = self.store.stored(device, STREAMS_TOLD_MAX).await?;
                streams.extend(self.settled.get(device).into_iter().flatten());
                let body = encode(&Stored { streams });
                let office = self.director.office().await;
                Ok(Some(encode(&office.sign_message(topic, body))))
            }
            Content::Captures { device, request, .. } => {
                let open = self.store.open_capture_request(device, *request).await?;
                let Some(request) = open else { return Ok(None) };
                let office = self.director.office().await;
                Ok(Some(encode(&office.sign_message(topic, encode(&request)))))
            }
            Content::Metadata(file) | Content::Timestamp { file, .. } => {
                let Some(bytes) = self.store.repository_file(file.as_str()).await? else {
                    return Ok(None);
                };
                let chunk = metadata_chunk(file.as_str(), &bytes).map_err(|source| {
                    Error::Trust { what: format!("cannot send {file}"), source }
                })?;
                Ok(Some(encode(&chunk)))
            }
            Content::Desired { device, .. } => {
                let desired = self.store.desired(device).await?;
                Ok(desired.map(|row| encode(&Desired { document: row.document })))
            }
            Content::Offer { bundle } => {
                let index = self.store.chunk_index(bundle).await?;
                Ok(index.map(|index| encode(&BundleOffer { index })))
            }
            Content::Chunk { bundle, chunk } => {
                let stock = self.stock(*bundle).await?;
                Ok(stock.chunk(chunk).map(|bytes| encode(&compress(bytes))))
            }
            Content::Piece { patch, piece } => self.piece(patch, piece).await,
            Content::Site(site) => {
                let baseline = self.store.site_baseline(site).await?;
                Ok(baseline.map(|bytes| encode(&compress(&bytes))))
            }
        }
    }

    async fn piece(&mut self, index: &Digest, piece: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let patch = match self.patch.take() {
            Some((read, patch)) if read == *index => patch,
            _ => self.registry.patch(*index).await?,
        };
        let (_, patch) = self.patch.insert((*index, patch));
        if piece == index {
            return Ok(Some(encode(&raw_chunk(&patch.index().encode()))));
        }
        let found = patch.pieces().find(|(known, _)| known.digest == *piece);
        Ok(found.map(|(_, content)| encode(&raw_chunk(content))))
    }

    async fn stock(&mut self, digest: Digest) -> Result<Arc<Stock>, Error> {
        match &self.stock {
            Some(stock) if stock.digest() == digest => Ok(stock.clone()),
            _ => {
                let stock = self.registry.stock(digest).await?;
                self.stock = Some(stock.clone());
                Ok(stock)
            }
        }
    }
}

impl Content {
    fn is_metadata(&self) -> bool {
        matches!(self, Self::Metadata(_))
    }

    /// Whether `other` puts the same bytes on the same topic: a chunk is the same out of any bundle.
    fn says_the_same(&self, other: &Self) -> bool {
        let is_content =
            |content: &Self| matches!(content, Self::Chunk { .. } | Self::Piece { .. });
        self == other || is_content(self) && is_content(other)
    }
}

/// What chunks take at the broker, each counted once.
struct Room {
    bytes_max: u64,
    taken: BTreeMap<Digest, u64>,
}

impl Room {
    /// Takes room for `pieces`, or says how many bytes there would be.
    fn take(&mut self, pieces: &[(Digest, u64)]) -> Result<(), u64> {
        let new = pieces.iter().filter(|(digest, _)| !self.taken.contains_key(digest));
        let bytes = self.taken.values().sum::<u64>() + new.map(|(_, bytes)| bytes).sum::<u64>();
        if bytes > self.bytes_max {
            return Err(bytes);
        }
        self.taken.extend(pieces.iter().copied());
        Ok(())
    }
}

/// Keeps `end` in place of an earlier one of its boot and stream, and so many in all.
fn note_settled(settled: &mut Vec<StoredThrough>, mut end: StoredThrough) {
    let same = |one: &StoredThrough| (one.boot, one.stream) == (end.boot, end.stream);
    if let Some(index) = settled.iter().position(same) {
        end.through = end.through.max(settled.remove(index).through);
    }
    if settled.len() == SETTLED_TOLD_MAX {
        settled.remove(0);
    }
    settled.push(end);
}

#[cfg(test)]
mod tests {
    use selvedge_wire::{Boot, Sequence, Stream};

    use super::*;

    #[test]
    fn only_so_many_settled_boots_are_told_and_none_goes_back() {
        let end = |boot, through| StoredThrough {
            boot: Boot(boot),
            stream: Stream::Events,
            through: Sequence(through),
        };
        let mut settled = Vec::new();
        for (boot, through) in [(1, 9), (2, 1), (1, 4)] {
            note_settled(&mut settled, end(boot, through));
        }
        assert_eq!(settled, [end(2, 1), end(1, 9)]);
        (3..100).for_each(|boot| note_settled(&mut settled, end(boot, 1)));
        assert_eq!((settled.len(), settled.last()), (SETTLED_TOLD_MAX, Some(&end(99, 1))));
    }
}
