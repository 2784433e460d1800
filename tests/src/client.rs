//! An MQTT client for tests that do not speak like an agent or a fleet: strangers, thieves, observers.

use std::time::Duration;

use selvedge_link::{Delivery, Link, LinkConfig, LinkEvent, Publish};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far more than the wire allows.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message {
        /// The full name of its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// The broker refused a subscription to this filter.
    SubscriptionRefused(String),
}

/// An MQTT client that does one thing after the other.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If the connection does not come up.
    pub fn connect(mut config: LinkConfig) -> Self {
        (config.limits.backoff_first_ms, config.limits.backoff_ms_max) = (50, 500);
        // A stranger keeps to no limit of ours.
        config.limits.payload_bytes_max = PAYLOAD_BYTES_MAX;
        let runtime = Runtime::new().expect("the system has threads");
        let entered = runtime.enter();
        let (link, events) = Link::spawn(config).expect("the configuration is sound");
        drop(entered);
        let mut client = Self { runtime, link, events };
        client.wait_for_event("a connection", |event| {
            matches!(event, LinkEvent::Up { .. }).then_some(())
        });
        client
    }

    /// Publishes, and waits for what becomes of it.
    ///
    /// # Panics
    /// If the broker does not answer.
    pub fn publish(&self, publish: Publish) -> Delivery {
        let sending = async {
            let receipt = self.link.publish(publish).await.expect("the link is open");
            timeout(PATIENCE, receipt).await.expect("the broker answers")
        };
        self.runtime.block_on(sending)
    }

    /// Publishes what the broker must take.
    ///
    /// # Panics
    /// If it does not.
    pub fn plant(&self, publish: Publish) {
        let topic = publish.topic.clone();
        assert_eq!(self.publish(publish), Delivery::Accepted, "{topic}");
    }

    /// Subscribes.
    ///
    /// # Panics
    /// If the link has ended.
    pub fn subscribe(&self, filter: &str) {
        let filters = vec![filter.to_owned()];
        self.runtime.block_on(self.link.subscribe(filters)).expect("the link is open");
    }

    /// Takes a subscription back.
    ///
    /// # Panics
    /// If the link has ended.
    pub fn unsubscribe(&self, filter: &str) {
        let filters = vec![filter.to_owned()];
        self.runtime.block_on(self.link.unsubscribe(filters)).expect("the link is open");
    }

    /// What the broker retains under a topic, or else the next message there.
    ///
    /// # Panics
    /// If nothing comes.
    pub fn retained(&mut self, name: &str) -> Vec<u8> {
        self.subscribe(name);
        let payload = self.wait_for(name, |heard| match heard {
            Heard::Message { topic, payload } if topic == name => Some(payload),
            _ => None,
        });
        self.unsubscribe(name);
        payload
    }

    /// The first that is heard and that `found` takes.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for<T>(&mut self, what: &str, mut found: impl FnMut(Heard) -> Option<T>) -> T {
        self.wait_for_event(what, |event| match event {
            LinkEvent::Message(message) => {
                let (topic, payload) = (message.topic, message.payload);
                message.ack.accept();
                found(Heard::Message { topic, payload })
            }
            LinkEvent::SubscriptionRefused { filter, .. } => {
                found(Heard::SubscriptionRefused(filter))
            }
            LinkEvent::Up { .. } | LinkEvent::Down { .. } => None,
        })
    }

    fn wait_for_event<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(LinkEvent) -> Option<T>,
    ) -> T {
        let mut refusals = Vec::new();
        let events = &mut self.events;
        let waiting = async {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match timeout_at(deadline, events.recv()).await {
                    Ok(Some(event)) => {
                        if let LinkEvent::Down { reason, .. } = &event {
                            refusals.push(reason.clone());
                        }
                        if let Some(value) = found(event) {
                            return Some(value);
                        }
                    }
                    Ok(None) | Err(_) => return None,
                }
            }
        };
        let found = self.runtime.block_on(waiting);
        found.unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}; was down: {refusals:?}"))
    }
}
