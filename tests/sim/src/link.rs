//! One client's link to the broker, as `selvedge-link` behaves.
//!
//! What is published leaves in order. Each message ends as accepted or as lost; a lost one may have
//! arrived all the same, and is never sent again behind its owner's back. Subscriptions last over all
//! connections; a session that the broker remembers is told only what it does not know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    broker::{Broker, Client},
    dice::Dice,
    faults::Faults,
};

/// A message on its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic's full name.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker shall keep it for those who come later.
    pub retain: bool,
}

/// One client's link to the broker. `T` is what its owner knows a message by.
#[derive(Debug)]
pub struct Link<T> {
    client: Client,
    wanted: BTreeMap<String, bool>,
    taken_back: BTreeSet<String>,
    up: bool,
    leaving: VecDeque<Packet<T>>,
}

#[derive(Debug)]
enum Packet<T> {
    Publish(Publish, T),
    Subscribe { filter: String, only_if_new: bool },
    Unsubscribe(String),
}

impl<T> Link<T> {
    /// A link that is not connected, with its first subscriptions.
    pub fn new(client: Client, filters: impl IntoIterator<Item = String>) -> Self {
        let wanted = filters.into_iter().map(|filter| (filter, false)).collect();
        let (taken_back, leaving) = (BTreeSet::new(), VecDeque::new());
        Self { client, wanted, taken_back, up: false, leaving }
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// How many packets wait to leave.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// Connects.
    pub fn connect(&mut self, broker: &mut Broker, will: Option<(String, Vec<u8>)>) {
        let present = broker.connect(self.client, will);
        self.up = true;
        if !present {
            self.taken_back.clear();
        }
        let taken_back = self.taken_back.iter().cloned().map(Packet::Unsubscribe);
        self.leaving.extend(taken_back);
        for (filter, granted) in &self.wanted {
            let (filter, only_if_new) = (filter.clone(), present && *granted);
            self.leaving.push_back(Packet::Subscribe { filter, only_if_new });
        }
    }

    /// The connection ends. Some of what was leaving still arrives; all of it is lost to its owner.
    pub fn disconnect(
        &mut self,
        broker: &mut Broker,
        dice: &mut Dice,
        said_goodbye: bool,
        faults: &mut Faults,
    ) -> Vec<T> {
        if !self.up {
            return Vec::new();
        }
        self.up = false;
        let leaving = std::mem::take(&mut self.leaving);
        let arrive = if said_goodbye { leaving.len() } else { dice.below(leaving.len() + 1) };
        let mut lost = Vec::new();
        for (index, packet) in leaving.into_iter().enumerate() {
            let arrives = index < arrive && broker.is_connected(self.client);
            match packet {
                Packet::Publish(publish, token) => {
                    if arrives {
                        let Publish { topic, payload, retain } = publish;
                        broker.publish(&topic, &payload, retain, faults);
                    }
                    lost.push(token);
                }
                Packet::Subscribe { filter, only_if_new } if arrives => {
                    broker.subscribe(self.client, &filter, only_if_new, faults);
                }
                Packet::Unsubscribe(filter) if arrives => broker.unsubscribe(self.client, &filter),
                Packet::Subscribe { .. } | Packet::Unsubscribe(_) => {}
            }
        }
        broker.disconnect(self.client, said_goodbye, faults);
        lost
    }

    /// Sends a message, if the link is up; else it is lost.
    pub fn publish(&mut self, publish: Publish, token: T) -> Option<T> {
        if !self.up {
            return Some(token);
        }
        self.leaving.push_back(Packet::Publish(publish, token));
        None
    }

    /// Listens to a topic from now on.
    pub fn subscribe(&mut self, filter: String) {
        self.taken_back.remove(&filter);
        self.wanted.insert(filter.clone(), false);
        if self.up {
            self.leaving.push_back(Packet::Subscribe { filter, only_if_new: false });
        }
    }

    /// Listens to it no more.
    pub fn unsubscribe(&mut self, filter: String) {
        if self.wanted.remove(&filter).is_none() {
            return;
        }
        self.taken_back.insert(filter.clone());
        if self.up {
            self.leaving.push_back(Packet::Unsubscribe(filter));
        }
    }

    /// Lets `count` packets reach the broker; returns the messages that it accepted.
    pub fn leave(&mut self, broker: &mut Broker, count: usize, faults: &mut Faults) -> Vec<T> {
        let mut accepted = Vec::new();
        for _ in 0..count {
            let Some(packet) = self.leaving.pop_front() else { break };
            match packet {
                Packet::Publish(Publish { topic, payload, retain }, token) => {
                    broker.publish(&topic, &payload, retain, faults);
                    accepted.push(token);
                }
                Packet::Subscribe { filter, only_if_new } => {
                    broker.subscribe(self.client, &filter, only_if_new, faults);
                    if let Some(granted) = self.wanted.get_mut(&filter) {
                        *granted = true;
                    }
                }
                Packet::Unsubscribe(filter) => {
                    broker.unsubscribe(self.client, &filter);
                    self.taken_back.remove(&filter);
                }
            }
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Restart;

    fn stage() -> (Broker, Link<u8>, Faults) {
        (Broker::new(100, Dice::of(1)), Link::new(1, ["down/1/#".to_owned()]), Faults::none())
    }

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish { topic: topic.into(), payload: payload.into(), retain: true }
    }

    #[test]
    fn a_message_that_has_no_receipt_may_have_arrived() {
        let arrived: BTreeSet<usize> = (0..50)
            .map(|seed| {
                let (mut broker, mut link, mut faults) = stage();
                link.connect(&mut broker, None);
                for n in 0..4 {
                    assert_eq!(link.publish(message(&n.to_string(), b"m"), n), None);
                }
                assert_eq!(link.leave(&mut broker, 2, &mut faults), [0]);
                let lost = link.disconnect(&mut broker, &mut Dice::of(seed), false, &mut faults);
                assert_eq!(lost, [1, 2, 3]);
                broker.retained_count()
            })
            .collect();
        assert_eq!(arrived, BTreeSet::from([1, 2, 3, 4]));
    }

    #[test]
    fn subscriptions_outlive_connections_and_brokers() {
        let (mut broker, mut link, mut faults) = stage();
        broker.publish("down/1/desired", b"d", true, &mut faults);
        for (restart, comes) in
            [(Restart::Whole, 1), (Restart::Whole, 0), (Restart::SessionsLost, 1)]
        {
            broker.restart(restart);
            link.disconnect(&mut broker, &mut Dice::of(1), false, &mut faults);
            link.connect(&mut broker, None);
            link.leave(&mut broker, usize::MAX, &mut faults);
            assert_eq!(broker.waiting(1), comes, "{restart:?}");
            while let Some(delivery) = broker.receive(1, &mut faults) {
                broker.acknowledge(1, delivery.packet);
            }
        }
    }

    #[test]
    fn a_subscription_that_was_taken_back_while_away_is_taken_back_later() {
        let (mut broker, mut link, mut faults) = stage();
        link.connect(&mut broker, None);
        link.leave(&mut broker, usize::MAX, &mut faults);
        link.disconnect(&mut broker, &mut Dice::of(1), false, &mut faults);
        link.unsubscribe("down/1/#".into());
        link.connect(&mut broker, None);
        link.leave(&mut broker, usize::MAX, &mut faults);
        broker.publish("down/1/desired", b"d", true, &mut faults);
        assert_eq!(broker.waiting(1), 0);
    }
}
