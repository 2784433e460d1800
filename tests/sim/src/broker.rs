//! An MQTT broker in memory: what matters of MQTT 5, and what brokers do to their clients.
//!
//! It keeps retained messages, and a session per client with its subscriptions and a queue. Messages of
//! one topic come in order; topics overtake each other. With QoS 1 a message is there until it is
//! acknowledged: it may come twice at any time, and comes again on the next connection. A queue that
//! is full drops what is new, as mosquitto does.
//!
//! A restart loses sessions, retained messages, or both, or brings back an older state ([`Restart`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    dice::Dice,
    faults::{Fault, Faults},
};

/// A client: the fleet, or a device.
pub type Client = usize;

/// A message as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The topic's full name.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it for those who come later.
    pub retained: bool,
    /// What to acknowledge it by.
    pub packet: u64,
}

/// What a restart does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing but the connections is lost.
    Whole,
    /// Subscriptions and queues are lost.
    SessionsLost,
    /// Everything is lost.
    AllLost,
    /// Sessions and some of what was retained are lost.
    PartLost,
    /// Sessions are lost, and what was retained is what it was when it was last saved.
    OldState,
}

/// A broker.
#[derive(Debug)]
pub struct Broker {
    retained: BTreeMap<String, Vec<u8>>,
    saved: BTreeMap<String, Vec<u8>>,
    sessions: BTreeMap<Client, Session>,
    queued_max: usize,
    packets: u64,
    dice: Dice,
}

#[derive(Debug, Default)]
struct Session {
    connected: bool,
    filters: BTreeSet<String>,
    // What waits, by topic; never an empty queue.
    queues: BTreeMap<String, VecDeque<Delivery>>,
    queued: usize,
    // What was handed over and is not acknowledged, in order.
    unacknowledged: Vec<Delivery>,
    will: Option<(String, Vec<u8>)>,
}

impl Broker {
    /// A broker that keeps `queued_max` messages for a client.
    pub fn new(queued_max: usize, dice: Dice) -> Self {
        Self {
            retained: BTreeMap::new(),
            saved: BTreeMap::new(),
            sessions: BTreeMap::new(),
            queued_max,
            packets: 0,
            dice,
        }
    }

    /// A client comes; says whether its session is remembered.
    pub fn connect(&mut self, client: Client, will: Option<(String, Vec<u8>)>) -> bool {
        let present = self.sessions.contains_key(&client);
        let session = self.sessions.entry(client).or_default();
        session.connected = true;
        session.will = will;
        // What was not acknowledged comes again, before what came later.
        for delivery in std::mem::take(&mut session.unacknowledged).into_iter().rev() {
            session.queues.entry(delivery.topic.clone()).or_default().push_front(delivery);
            session.queued += 1;
        }
        present
    }

    /// A client goes. If it did not say so, its will is published.
    pub fn disconnect(&mut self, client: Client, said_goodbye: bool, faults: &mut Faults) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.connected = false;
        let will = session.will.take().filter(|_| !said_goodbye);
        if let Some((topic, payload)) = will {
            self.publish(&topic, &payload, true, faults);
        }
    }

    /// Whether a client is connected.
    pub fn is_connected(&self, client: Client) -> bool {
        self.sessions.get(&client).is_some_and(|session| session.connected)
    }

    /// A client subscribes. With `only_if_new`, what is retained comes only with a new subscription.
    pub fn subscribe(
        &mut self,
        client: Client,
        filter: &str,
        only_if_new: bool,
        faults: &mut Faults,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let new = session.filters.insert(filter.to_owned());
        if only_if_new && !new {
            return;
        }
        let matching = self.retained.iter().filter(|(topic, _)| matches(filter, topic));
        let found: Vec<_> = matching.map(|(t, p)| (t.clone(), p.clone())).collect();
        for (topic, payload) in found {
            self.enqueue(client, &topic, &payload, true, faults);
        }
    }

    /// A client takes a subscription back. What is on its way still comes.
    pub fn unsubscribe(&mut self, client: Client, filter: &str) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.filters.remove(filter);
        }
    }

    /// Takes a message and gives it to all who subscribed.
    pub fn publish(&mut self, topic: &str, payload: &[u8], retain: bool, faults: &mut Faults) {
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic.to_owned(), payload.to_owned());
        }
        let is_wanted = |session: &Session| session.filters.iter().any(|f| matches(f, topic));
        let wanted = self.sessions.iter().filter(|(_, session)| is_wanted(session));
        let clients: Vec<Client> = wanted.map(|(client, _)| *client).collect();
        for client in clients {
            self.enqueue(client, topic, payload, false, faults);
        }
    }

    /// How many messages wait for a client that is connected.
    pub fn waiting(&self, client: Client) -> usize {
        let session = self.sessions.get(&client).filter(|session| session.connected);
        session.map_or(0, |session| session.queued)
    }

    /// The next message for a client: the first of any topic, perhaps not for the last time.
    pub fn receive(&mut self, client: Client, faults: &mut Faults) -> Option<Delivery> {
        let session = self.sessions.get_mut(&client).filter(|session| session.connected)?;
        let topics: Vec<&String> = session.queues.keys().collect();
        let oldest = |topic: &&&String| session.queues[**topic].front().map(|front| front.packet);
        let first = *topics.iter().min_by_key(oldest)?;
        let topic = if faults.happens(Fault::Reordered) {
            let overtaking = (*self.dice.pick(&topics)?).clone();
            if overtaking != *first {
                faults.count(Fault::Reordered);
            }
            overtaking
        } else {
            first.clone()
        };
        let queue = session.queues.get_mut(&topic)?;
        let twice = faults.happens(Fault::Duplicated);
        if twice {
            faults.count(Fault::Duplicated);
            return queue.front().cloned();
        }
        let delivery = queue.pop_front()?;
        session.queued -= 1;
        if queue.is_empty() {
            session.queues.remove(&topic);
        }
        session.unacknowledged.push(delivery.clone());
        Some(delivery)
    }

    /// A client has dealt with a message.
    pub fn acknowledge(&mut self, client: Client, packet: u64) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.unacknowledged.retain(|delivery| delivery.packet != packet);
        }
    }

    /// Saves what is retained, for a restart that brings back an older state.
    pub fn save(&mut self) {
        self.saved = self.retained.clone();
    }

    /// Ends and begins anew; every connection is gone.
    pub fn restart(&mut self, restart: Restart) {
        match restart {
            Restart::Whole => {
                self.sessions.values_mut().for_each(|session| session.connected = false);
            }
            Restart::SessionsLost => self.sessions.clear(),
            Restart::AllLost => {
                self.sessions.clear();
                self.retained.clear();
            }
            Restart::PartLost => {
                self.sessions.clear();
                let dice = &mut self.dice;
                self.retained.retain(|_, _| dice.chance(500));
            }
            Restart::OldState => {
                self.sessions.clear();
                self.retained = self.saved.clone();
            }
        }
    }

    /// How many topics carry a retained message.
    #[cfg(test)]
    pub fn retained_count(&self) -> usize {
        self.retained.len()
    }

    fn enqueue(
        &mut self,
        client: Client,
        topic: &str,
        payload: &[u8],
        retained: bool,
        faults: &mut Faults,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if session.queued >= self.queued_max {
            faults.count(Fault::QueueFull);
            return;
        }
        self.packets += 1;
        let (topic, payload) = (topic.to_owned(), payload.to_owned());
        let delivery = Delivery { topic: topic.clone(), payload, retained, packet: self.packets };
        session.queues.entry(topic).or_default().push_back(delivery);
        session.queued += 1;
    }

    /// No queue is short from now on.
    pub fn calm(&mut self) {
        self.queued_max = usize::MAX;
    }
}

/// Whether a topic's name matches a filter: a name, or one that ends in `/#`.
fn matches(filter: &str, topic: &str) -> bool {
    match filter.strip_suffix('#') {
        Some(above) => topic.starts_with(above),
        None => filter == topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker() -> (Broker, Faults) {
        (Broker::new(100, Dice::of(1)), Faults::none())
    }

    fn drain(broker: &mut Broker, client: Client, faults: &mut Faults) -> Vec<(String, Vec<u8>)> {
        let mut taken = Vec::new();
        while let Some(delivery) = broker.receive(client, faults) {
            broker.acknowledge(client, delivery.packet);
            taken.push((delivery.topic, delivery.payload));
        }
        taken
    }

    #[test]
    fn what_is_retained_comes_with_a_subscription_and_may_be_cleared() {
        let (mut broker, mut faults) = broker();
        broker.publish("a/1", b"x", true, &mut faults);
        broker.publish("a/2", b"y", false, &mut faults);
        broker.connect(1, None);
        broker.subscribe(1, "a/#", false, &mut faults);
        assert_eq!(drain(&mut broker, 1, &mut faults), [("a/1".to_owned(), b"x".to_vec())]);
        broker.subscribe(1, "a/#", true, &mut faults);
        assert_eq!(drain(&mut broker, 1, &mut faults), []);
        broker.publish("a/1", b"", true, &mut faults);
        assert!(broker.retained.is_empty());
    }

    #[test]
    fn topics_overtake_each_other_and_keep_their_own_order() {
        let (mut broker, _) = broker();
        let mut faults = Faults::only(&[Fault::Reordered, Fault::Duplicated], 500, Dice::of(2));
        broker.connect(1, None);
        broker.subscribe(1, "#", false, &mut faults);
        for n in 0..20 {
            broker.publish(["a", "b", "c"][n % 3], &[n as u8], false, &mut faults);
        }
        let taken = drain(&mut broker, 1, &mut faults);
        let order = |topic: &str| {
            let mut numbers: Vec<_> =
                taken.iter().filter(|(t, _)| t == topic).map(|(_, p)| p[0]).collect();
            let all = numbers.len();
            assert!(numbers.is_sorted(), "{topic}: {numbers:?}");
            numbers.dedup();
            (all, numbers.len())
        };
        let counts = ["a", "b", "c"].map(order);
        assert_eq!(counts.map(|(_, distinct)| distinct), [7, 7, 6]);
        assert!(counts.iter().map(|(all, _)| all).sum::<usize>() > 20, "some came twice");
        let in_order = taken.iter().map(|(_, payload)| payload[0]).is_sorted();
        assert!(!in_order, "no topic was overtaken");
    }

    #[test]
    fn what_was_not_acknowledged_comes_again_unless_the_session_is_lost() {
        let (mut broker, mut faults) = broker();
        for (restart, again) in [(Restart::Whole, 1), (Restart::SessionsLost, 0)] {
            broker.connect(1, None);
            broker.subscribe(1, "t", false, &mut faults);
            broker.publish("t", b"m", false, &mut faults);
            assert!(broker.receive(1, &mut faults).is_some());
            broker.restart(restart);
            assert_eq!(broker.waiting(1), 0, "nobody is connected");
            let present = broker.connect(1, None);
            assert_eq!((present, broker.waiting(1)), (restart == Restart::Whole, again));
            drain(&mut broker, 1, &mut faults);
        }
    }

    #[test]
    fn a_will_speaks_for_a_client_that_did_not_say_goodbye() {
        let (mut broker, mut faults) = broker();
        for (goodbye, kept) in [(true, 0), (false, 1)] {
            broker.connect(1, Some(("up/1/status".into(), b"gone".to_vec())));
            broker.disconnect(1, goodbye, &mut faults);
            assert_eq!(broker.retained.len(), kept);
        }
    }

    #[test]
    fn an_old_state_comes_back() {
        let (mut broker, mut faults) = broker();
        broker.publish("t", b"old", true, &mut faults);
        broker.save();
        broker.publish("t", b"new", true, &mut faults);
        broker.restart(Restart::OldState);
        assert_eq!(broker.retained["t"], b"old");
    }
}
