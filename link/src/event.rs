//! What a link tells its owner, and the queue in between.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Incoming, Refusal};

/// What a link tells its owner.
#[derive(Debug)]
pub enum LinkEvent {
    /// A connection is there. What is published from now on is sent.
    Up {
        /// Whether the broker remembers the session of the connection before.
        session_present: bool,
        /// The largest payload that the broker and the limits of the link allow, in bytes.
        payload_bytes_max: usize,
    },
    /// The connection is gone, or could not be made. It is tried again.
    Down {
        /// What happened, in one line.
        reason: String,
        /// How long until the next attempt, in milliseconds.
        retry_in_ms: u64,
    },
    /// A message came in.
    Message(Incoming),
    /// The broker refused a subscription. It is tried again on the next connection.
    SubscriptionRefused {
        /// The filter.
        filter: String,
        /// Why.
        code: Refusal,
    },
}

/// Counters since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// The bytes of all PUBLISH packets sent. Not counted: other packets, TLS, TCP and its retries.
    pub sent_bytes: u64,
    /// The bytes of all PUBLISH packets received. Not counted: the same.
    pub received_bytes: u64,
    /// How many connections came up.
    pub connects: u64,
    /// Messages of QoS 0 that were dropped because their owner was slow.
    pub messages_dropped: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) messages_dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> LinkCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounters {
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            connects: read(&self.connects),
            messages_dropped: read(&self.messages_dropped),
        }
    }
}

/// Events that the owner has not taken yet.
///
/// It is bounded without ever making the link wait: a link that waits for its owner answers no pings,
/// and an owner may be waiting for the link. Messages of QoS 1 are bounded by what the broker may send
/// ahead, those of QoS 0 are dropped beyond `messages_max`. When the connection ends its messages are
/// dropped, since the broker sends them again and their acknowledgements have become void, and an `Up`
/// that was not taken goes with its `Down`.
#[derive(Debug)]
pub(crate) struct EventQueue {
    events: VecDeque<LinkEvent>,
    messages_max: usize,
}

impl EventQueue {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self { events: VecDeque::new(), messages_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    pub(crate) fn push(&mut self, event: LinkEvent) {
        self.events.push_back(event);
    }

    /// Whether there is room for a message that may be dropped.
    pub(crate) fn has_room(&self) -> bool {
        self.events.len() < self.messages_max
    }

    pub(crate) fn push_down(&mut self, reason: String, retry_in_ms: u64) {
        self.events.retain(|event| matches!(event, LinkEvent::Up { .. } | LinkEvent::Down { .. }));
        if matches!(self.events.back(), Some(LinkEvent::Up { .. })) {
            self.events.pop_back();
        }
        if matches!(self.events.back(), Some(LinkEvent::Down { .. })) {
            self.events.pop_back();
        }
        self.push(LinkEvent::Down { reason, retry_in_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ack;

    fn message() -> LinkEvent {
        let ack = Ack::not_owed();
        let (topic, payload) = ("t".into(), Vec::new());
        LinkEvent::Message(Incoming { topic, payload, retained: false, ack })
    }

    fn up() -> LinkEvent {
        LinkEvent::Up { session_present: true, payload_bytes_max: 1 }
    }

    fn names(queue: &mut EventQueue) -> Vec<&'static str> {
        let name = |event| match event {
            LinkEvent::Up { .. } => "up",
            LinkEvent::Down { .. } => "down",
            LinkEvent::Message(_) => "message",
            LinkEvent::SubscriptionRefused { .. } => "refused",
        };
        std::iter::from_fn(|| queue.pop()).map(name).collect()
    }

    #[test]
    fn an_owner_who_never_takes_finds_one_last_word() {
        let mut queue = EventQueue::new(2);
        for _ in 0..1000 {
            queue.push(up());
            queue.push(message());
            queue.push_down("gone".into(), 1);
        }
        assert_eq!(names(&mut queue), ["down"]);
        queue.push(up());
        queue.push(message());
        assert!(!queue.has_room());
        assert_eq!(names(&mut queue), ["up", "message"]);
    }

    #[test]
    fn a_down_that_was_not_taken_stands_before_the_next_up() {
        let mut queue = EventQueue::new(2);
        queue.push_down("gone".into(), 1);
        queue.push(up());
        assert_eq!(names(&mut queue), ["down", "up"]);
    }
}
