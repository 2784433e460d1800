//! Keeps at the broker what devices should find there: desired states, how far streams are stored, and
//! the bundles that any device should run.
//!
//! The broker may lose all it holds. So the store says what should be retained, and this compares: on
//! each connection everything is published again, in between what changed; what nobody needs any more
//! is cleared. Small and urgent messages go before chunks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{sync::mpsc, task::JoinSet};

use selvedge_bundle::compress;
use selvedge_link::{Delivery, Link, Publish};
use selvedge_wire::{
    BundleOffer, Desired, DeviceId, Digest, FleetName, Stored, StoredThrough, Topic, Topics, encode,
};

use crate::{
    Error, one_line,
    registry::{Registry, Stock},
    stop::Stop,
    store::Store,
};

/// How many messages may wait for the broker's answer at once.
const IN_FLIGHT_MAX: usize = 16;

/// How many boots and streams of a device are told to it.
const STREAMS_TOLD_MAX: u32 = 64;

/// How many more, of boots that are settled.
const SETTLED_TOLD_MAX: usize = 64;

/// Tells the downlink what to look at again. It never waits.
#[derive(Clone)]
pub struct Downlink {
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    /// Something about devices, desired states or bundles changed.
    Replan,
    /// More of a device's streams is stored.
    Stored(DeviceId),
    /// A device sent what will never be stored, up to here: it may forget it.
    Settled(DeviceId, StoredThrough),
    /// The link is up, or down.
    Connected(bool),
}

/// What a topic should carry. The order is that of sending.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Nothing,
    Stored(DeviceId),
    Desired { device: DeviceId, generation: u64 },
    Offer(Digest),
    Chunk { bundle: Digest, chunk: Digest },
}

/// A message that the broker has answered, or not.
struct Sent {
    content: Content,
    topic: String,
    connection: u64,
    delivery: Delivery,
}

/// The other end of [`Downlink`]: turns orders into messages.
pub struct DownlinkWorker {
    orders: mpsc::UnboundedReceiver<Order>,
    store: Store,
    registry: Arc<Registry>,
    topics: Topics,
    /// What each topic should carry.
    plan: BTreeMap<String, Content>,
    /// What is to be sent.
    due: BTreeSet<(Content, String)>,
    /// What waits for the broker's answer.
    in_flight: JoinSet<Sent>,
    /// Ends of what devices may forget though it is not stored, the last told last. After a restart
    /// they send it again, and are told again.
    settled: BTreeMap<DeviceId, Vec<StoredThrough>>,
    connected: bool,
    /// Counts the connections, so that what was lost on an earlier one does not speak of this one.
    connection: u64,
    /// The bundle that was read last: its chunks are sent one after the other.
    stock: Option<Arc<Stock>>,
}

impl Downlink {
    /// A downlink and the worker that must run for it.
    pub fn new(store: Store, registry: Arc<Registry>, fleet: &FleetName) -> (Self, DownlinkWorker) {
        let (sender, orders) = mpsc::unbounded_channel();
        let worker = DownlinkWorker {
            orders,
            store,
            registry,
            topics: Topics::new(fleet),
            plan: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: JoinSet::new(),
            settled: BTreeMap::new(),
            connected: false,
            connection: 0,
            stock: None,
        };
        (Self { orders: sender }, worker)
    }

    /// Something about devices, desired states or bundles changed.
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

    /// The link is up, or down.
    pub fn connected(&self, connected: bool) {
        self.order(Order::Connected(connected));
    }

    fn order(&self, order: Order) {
        // Only a manager that stops has no worker.
        let _ = self.orders.send(order);
    }
}

impl DownlinkWorker {
    /// Publishes over `link` until `stop` is said.
    pub async fn run(mut self, link: Link, mut stop: Stop) {
        self.replan_or_log().await;
        loop {
            while self.connected && self.in_flight.len() < IN_FLIGHT_MAX && self.orders.is_empty() {
                let Some((content, topic)) = self.due.pop_first() else { break };
                self.send(&link, content, topic).await;
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
            Order::Replan => self.replan_or_log().await,
            Order::Stored(device) => self.tell_stored(device),
            Order::Settled(device, end) => {
                note_settled(self.settled.entry(device.clone()).or_default(), end);
                self.tell_stored(device);
            }
            Order::Connected(connected) => {
                self.connected = connected;
                if connected {
                    self.connection += 1;
                    let all =
                        self.plan.iter().map(|(topic, content)| (content.clone(), topic.clone()));
                    self.due.extend(all);
                }
            }
        }
    }

    fn tell_stored(&mut self, device: DeviceId) {
        let topic = self.topics.name(&Topic::Stored(device.clone()));
        if self.plan.contains_key(&topic) {
            self.due.insert((Content::Stored(device), topic));
        }
    }

    async fn replan_or_log(&mut self) {
        if let Err(error) = self.replan().await {
            tracing::error!("cannot see what devices should find: {}", one_line(&error));
        }
    }

    /// Compares what should be retained with what was planned before.
    async fn replan(&mut self) -> Result<(), Error> {
        let plan = self.make_plan().await?;
        let retained = self.store.retained().await?;
        let new: Vec<String> =
            plan.keys().filter(|topic| !retained.contains(*topic)).cloned().collect();
        self.store.note_retained(&new).await?;
        let changed = plan.iter().filter(|&(topic, content)| self.plan.get(topic) != Some(content));
        self.due.retain(|(content, topic)| plan.get(topic) == Some(content));
        self.due.extend(changed.map(|(topic, content)| (content.clone(), topic.clone())));
        let stale = retained.into_iter().filter(|topic| !plan.contains_key(topic));
        self.due.extend(stale.map(|topic| (Content::Nothing, topic)));
        let topics = &self.topics;
        self.settled
            .retain(|device, _| plan.contains_key(&topics.name(&Topic::Stored(device.clone()))));
        self.plan = plan;
        Ok(())
    }

    async fn make_plan(&mut self) -> Result<BTreeMap<String, Content>, Error> {
        let mut contents = Vec::new();
        for device in self.store.devices().await? {
            contents.push((Topic::Stored(device.id.clone()), Content::Stored(device.id)));
        }
        let mut bundles = BTreeSet::new();
        for desired in self.store.all_desired().await? {
            bundles.extend(desired.slots.into_values());
            let (device, generation) = (desired.device, desired.generation);
            let content = Content::Desired { device: device.clone(), generation };
            contents.push((Topic::Desired(device), content));
        }
        for bundle in bundles {
            let stock = match self.stock(bundle).await {
                Ok(stock) => stock,
                Err(error) => {
                    tracing::error!("cannot offer {bundle}: {}", one_line(&error));
                    continue;
                }
            };
            contents.push((Topic::Bundle(bundle), Content::Offer(bundle)));
            for chunk in stock.index().chunks() {
                let content = Content::Chunk { bundle, chunk: chunk.digest };
                contents.push((Topic::Chunk(chunk.digest), content));
            }
        }
        let named = |(topic, content)| (self.topics.name(&topic), content);
        Ok(contents.into_iter().map(named).collect())
    }

    async fn send(&mut self, link: &Link, content: Content, topic: String) {
        let payload = match self.payload(&content).await {
            Ok(Some(payload)) => payload,
            Ok(None) => return,
            Err(error) => {
                tracing::error!("cannot make the message for {topic}: {}", one_line(&error));
                return;
            }
        };
        let Ok(receipt) = link.publish(Publish::retained(topic.clone(), payload)).await else {
            self.connected = false;
            return;
        };
        let connection = self.connection;
        self.in_flight
            .spawn(async move { Sent { content, topic, connection, delivery: receipt.await } });
    }

    /// The payload; nothing if what it should say is gone by now, which a new plan is about to say.
    async fn payload(&mut self, content: &Content) -> Result<Option<Vec<u8>>, Error> {
        match content {
            Content::Nothing => Ok(Some(Vec::new())),
            Content::Stored(device) => {
                let mut streams = self.store.stored(device, STREAMS_TOLD_MAX).await?;
                streams.extend(self.settled.get(device).into_iter().flatten());
                Ok(Some(encode(&Stored { streams })))
            }
            Content::Desired { device, .. } => {
                let desired = self.store.desired(device).await?;
                Ok(desired.map(|row| encode(&Desired { document: row.document })))
            }
            Content::Offer(digest) => {
                let Some(row) = self.store.bundle(digest).await? else { return Ok(None) };
                let index = self.stock(*digest).await?.index().encode();
                Ok(Some(encode(&BundleOffer { statement: row.statement, index })))
            }
            Content::Chunk { bundle, chunk } => {
                let stock = self.stock(*bundle).await?;
                Ok(stock.chunk(chunk).map(|bytes| encode(&compress(bytes))))
            }
        }
    }

    async fn stock(&mut self, digest: Digest) -> Result<Arc<Stock>, Error> {
        match &self.stock {
            Some(stock) if stock.digest() == digest => Ok(stock.clone()),
            _ => {
                let stock = Arc::new(self.registry.stock(digest).await?);
                self.stock = Some(stock.clone());
                Ok(stock)
            }
        }
    }

    async fn settle(&mut self, sent: Sent) {
        let Sent { content, topic, connection, delivery } = sent;
        match delivery {
            Delivery::Accepted if content == Content::Nothing => {
                if self.plan.contains_key(&topic) {
                    return;
                }
                if let Err(error) = self.store.forget_retained(&[topic]).await {
                    tracing::error!("{}", one_line(&error));
                }
            }
            Delivery::Accepted => {}
            Delivery::Refused { code } => {
                tracing::error!("the broker refuses what devices should find at {topic}: {code}");
            }
            Delivery::Lost => {
                if connection == self.connection {
                    self.connected = false;
                }
                let planned = self.plan.get(&topic).unwrap_or(&Content::Nothing);
                if *planned == content {
                    self.due.insert((content, topic));
                }
            }
        }
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
