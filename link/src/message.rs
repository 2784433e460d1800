//! Messages, and what becomes of them.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::{mpsc, oneshot};

/// The longest topic, in bytes.
const TOPIC_BYTES_MAX: usize = 512;

/// The bytes of a PUBLISH around topic and payload: type, remaining length, length of the topic,
/// packet identifier, length of the properties (MQTT 5 §3.3).
const PUBLISH_FRAME_BYTES_MAX: usize = 1 + 4 + 2 + 2 + 1;

/// What may surround a payload in a PUBLISH: the frame and the longest topic.
pub(crate) const PUBLISH_OVERHEAD_BYTES_MAX: usize = PUBLISH_FRAME_BYTES_MAX + TOPIC_BYTES_MAX;

/// A message to send, with QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic's name.
    pub topic: String,
    /// The payload. An empty retained one clears what the broker keeps.
    pub payload: Vec<u8>,
    /// Whether the broker keeps the message for those who come later.
    pub retain: bool,
}

impl Publish {
    /// A message for those who are there.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain: false }
    }

    /// A message that the broker keeps.
    pub fn retained(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain: true }
    }

    /// Why no broker would take this, if none would.
    pub(crate) fn fault(&self, payload_bytes_max: usize) -> Option<Refusal> {
        let topic = &self.topic;
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || topic.contains(['+', '#', '\0']) {
            return Some(Refusal::TopicNameInvalid);
        }
        (self.payload.len() > payload_bytes_max).then_some(Refusal::PacketTooLarge)
    }

    /// The length of the packet.
    pub(crate) fn packet_bytes(&self) -> usize {
        let remaining = 2 + self.topic.len() + 2 + 1 + self.payload.len();
        // Seven bits of the remaining length to the byte (MQTT 5 §1.5.5).
        let length_bytes = (usize::BITS - remaining.leading_zeros()).div_ceil(7) as usize;
        1 + length_bytes + remaining
    }
}

/// What became of a [`Publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has it.
    Accepted,
    /// It will never be taken as it is.
    Refused {
        /// Why.
        code: Refusal,
    },
    /// The connection was down or ended before the broker answered: it may or may not have it.
    Lost,
}

/// Why a message or a subscription was refused (the reason codes of MQTT 5 from 0x80 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The broker gives no reason.
    Unspecified,
    /// The broker does not do that.
    ImplementationSpecific,
    /// The account may not do that.
    NotAuthorized,
    /// The topic's name is empty, too long, has wildcards, or the broker does not like it.
    TopicNameInvalid,
    /// The filter is not one.
    TopicFilterInvalid,
    /// The packet identifier is in use.
    PacketIdentifierInUse,
    /// Larger than the broker or the limits of the link allow. It was not sent.
    PacketTooLarge,
    /// More than the broker or the limits of the link allow.
    QuotaExceeded,
    /// The payload is not what the broker was told it is.
    PayloadFormatInvalid,
    /// The broker has no such kind of subscription.
    SubscriptionNotSupported,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified error",
            Self::ImplementationSpecific => "implementation specific error",
            Self::NotAuthorized => "not authorized",
            Self::TopicNameInvalid => "topic name invalid",
            Self::TopicFilterInvalid => "topic filter invalid",
            Self::PacketIdentifierInUse => "packet identifier in use",
            Self::PacketTooLarge => "packet too large",
            Self::QuotaExceeded => "quota exceeded",
            Self::PayloadFormatInvalid => "payload format invalid",
            Self::SubscriptionNotSupported => "subscription not supported",
        })
    }
}

/// Resolves to the [`Delivery`] of one [`Publish`].
///
/// It may be dropped: the message goes its way all the same.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Delivery>);

impl Receipt {
    pub(crate) fn pending() -> (oneshot::Sender<Delivery>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    pub(crate) fn settled(delivery: Delivery) -> Self {
        let (sender, receipt) = Self::pending();
        sender.send(delivery).expect("the receipt is still here");
        receipt
    }
}

impl Future for Receipt {
    type Output = Delivery;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Delivery> {
        // Whoever drops the sender has given the message up with its connection.
        Pin::new(&mut self.0).poll(context).map(|delivery| delivery.unwrap_or(Delivery::Lost))
    }
}

/// A message that came in.
#[derive(Debug)]
pub struct Incoming {
    /// The topic's name.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it from before the subscription.
    pub retained: bool,
    /// The acknowledgement, to be given when the message is dealt with.
    pub ack: Ack,
}

/// The right to acknowledge one message.
///
/// While too many are held back the broker sends nothing more. One that is dropped is as good as held
/// back until the next connection, on which the broker sends the message again.
#[derive(Debug)]
#[must_use = "a message that is never acknowledged is sent again, and blocks those behind it"]
pub struct Ack(Option<(AckOrder, mpsc::UnboundedSender<AckOrder>)>);

/// Which message on which connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckOrder {
    pub(crate) connection: u64,
    pub(crate) packet_id: u16,
}

impl Ack {
    pub(crate) fn owed(order: AckOrder, acks: mpsc::UnboundedSender<AckOrder>) -> Self {
        Self(Some((order, acks)))
    }

    pub(crate) fn not_owed() -> Self {
        Self(None)
    }

    /// Tells the broker that the message is dealt with. Nothing happens if its connection is gone.
    pub fn accept(self) {
        if let Some((order, acks)) = self.0 {
            // The channel is as long as the broker may send ahead; a closed one needs no answer.
            let _ = acks.send(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_packet_counts_the_length_of_its_length() {
        let packet_bytes = |payload: usize| Publish::new("a/b", vec![0; payload]).packet_bytes();
        assert_eq!(packet_bytes(0), 1 + 1 + 8);
        assert_eq!(packet_bytes(119), 1 + 1 + 127);
        assert_eq!(packet_bytes(120), 1 + 2 + 128);
        assert_eq!(packet_bytes(16_384 - 8), 1 + 3 + 16_384);
    }

    #[test]
    fn what_no_broker_takes_is_refused_here() {
        let fault = |topic: &str, len_bytes| Publish::new(topic, vec![0; len_bytes]).fault(10);
        assert_eq!(fault("a/b", 10), None);
        assert_eq!(fault("a/b", 11), Some(Refusal::PacketTooLarge));
        for topic in ["", "a/+", "a/#", "a\0", &"a".repeat(TOPIC_BYTES_MAX + 1)] {
            assert_eq!(fault(topic, 0), Some(Refusal::TopicNameInvalid), "{topic:?}");
        }
    }
}
