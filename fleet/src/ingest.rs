//! From the broker into the store.
//!
//! Messages are verified and decoded as they come, beside the writer, and stored in groups: one commit
//! takes what has come since the last. What is not signed by the key of the device that its topic names is
//! counted and told, and changes nothing. A message is acknowledged, and its device told, after the commit. While the store does not
//! take anything (a full disk), the group waits and is tried again; the broker holds the rest.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use selvedge_link::{Ack, Incoming, LinkEvent};
use selvedge_wire::{
    DeviceId, Error as WireError, Message, Signed, Stream, Topic, TopicError, Topics, decode,
};

use crate::{
    Limits,
    downlink::Downlink,
    error::one_line,
    live::Live,
    stop::Stop,
    store::{Applied, EnrolledKey, Malformed, MalformedKind, Received, Sender, Store, Upward},
};

/// A sender's malformed payloads are logged at most this often.
const LOG_EVERY_MS: u64 = 60_000;

/// How long to wait before a commit is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How the ingest is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestState {
    /// Whether the link to the broker is up.
    pub connected: bool,
    /// Why nothing is stored at present, if that is so.
    pub blocked: Option<String>,
}

/// What the ingest needs.
pub struct Ingest {
    pub store: Store,
    pub topics: Topics,
    pub downlink: Downlink,
    pub live: Live,
    pub limits: Limits,
    pub clock: fn() -> u64,
    pub state: Arc<watch::Sender<IngestState>>,
}

/// One message on its way into the store.
struct Job {
    what: What,
    ack: Ack,
}

/// What a message turned out to be.
pub enum What {
    Understood(Received),
    Malformed(Malformed),
}

impl Ingest {
    /// Takes what the link brings until `stop` is said; what is under way then is stored first.
    pub async fn run(self, mut events: mpsc::Receiver<LinkEvent>, mut stop: Stop) {
        let (jobs, waiting) = mpsc::channel(self.limits.commit_messages_max);
        let ingest = Arc::new(self);
        let writer = tokio::spawn(ingest.clone().write(waiting, stop.clone()));
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stop.said() => None,
            };
            match event {
                None => break,
                Some(LinkEvent::Up { .. }) => ingest.note_link(None),
                Some(LinkEvent::Down { reason, retry_in_ms }) => {
                    ingest.note_link(Some((reason, retry_in_ms)));
                }
                Some(LinkEvent::SubscriptionRefused { filter, code }) => {
                    tracing::error!("the broker refuses the subscription to {filter}: {code}");
                }
                Some(LinkEvent::Message(incoming)) => {
                    if let Some(job) = ingest.read(incoming)
                        && jobs.send(job).await.is_err()
                    {
                        break;
                    }
                }
            }
        }
        drop(jobs);
        writer.await.expect("the writer does not panic");
    }

    fn note_link(&self, down: Option<(String, u64)>) {
        let connected = down.is_none();
        match down {
            None => tracing::info!("the link to the broker is up"),
            Some((reason, retry_in_ms)) => {
                tracing::warn!(
                    "the link to the broker is down: {reason}; trying again in {retry_in_ms} ms"
                );
            }
        }
        self.state.send_modify(|state| state.connected = connected);
        self.downlink.connected(connected);
    }

    /// What to store of a message. A retained topic that was cleared says nothing.
    fn read(&self, incoming: Incoming) -> Option<Job> {
        let Incoming { topic, payload, retained, ack } = incoming;
        let at_ms = (self.clock)();
        if payload.is_empty() && self.is_retained_by_devices(&topic) {
            ack.accept();
            return None;
        }
        let what = read(&self.store, &self.topics, &topic, &payload, !retained, at_ms);
        Some(Job { what, ack })
    }

    fn is_retained_by_devices(&self, topic: &str) -> bool {
        matches!(self.topics.parse(topic), Ok(Topic::Status(_) | Topic::State(_)))
    }

    async fn write(self: Arc<Self>, mut waiting: mpsc::Receiver<Job>, stop: Stop) {
        let mut logged = LogLimit::default();
        while let Some(first) = waiting.recv().await {
            let group = self.gather(first, &mut waiting).await;
            if !self.store_until_done(&group, &mut logged, stop.clone()).await {
                return;
            }
            for job in group {
                job.ack.accept();
            }
        }
    }

    /// What one commit takes: all that comes in a short while, up to a limit.
    async fn gather(&self, first: Job, waiting: &mut mpsc::Receiver<Job>) -> Vec<Job> {
        let deadline = Instant::now() + Duration::from_millis(self.limits.commit_after_ms);
        let mut records = first.records();
        let mut group = vec![first];
        while group.len() < self.limits.commit_messages_max
            && records < self.limits.commit_records_max
        {
            match timeout_at(deadline, waiting.recv()).await {
                Ok(Some(job)) => {
                    records += job.records();
                    group.push(job);
                }
                Ok(None) | Err(_) => break,
            }
        }
        group
    }

    /// Tries until the store takes the group, or `stop` is said; returns whether it was taken.
    async fn store_until_done(&self, group: &[Job], logged: &mut LogLimit, mut stop: Stop) -> bool {
        let mut wait = RETRY_FIRST;
        loop {
            match self.store_once(group, logged).await {
                Ok(()) => {
                    self.note_blocked(None);
                    return true;
                }
                Err(error) => {
                    let reason = one_line(&error);
                    let wait_ms = wait.as_millis();
                    tracing::error!("nothing is stored: {reason}; trying again in {wait_ms} ms");
                    self.note_blocked(Some(reason));
                }
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
                () = stop.said() => return false,
            }
        }
    }

    async fn store_once(&self, group: &[Job], logged: &mut LogLimit) -> Result<(), crate::Error> {
        let mut understood = Vec::new();
        let mut malformed = Vec::new();
        for job in group {
            match &job.what {
                What::Understood(received) => understood.push(received.clone()),
                What::Malformed(one) => malformed.push(one),
            }
        }
        let Applied {
            changed,
            streamed,
            settled,
            refusals,
            running_changed,
            captures_finished,
            heard,
        } = self.store.apply(&understood, &malformed).await?;
        let now_ms = (self.clock)();
        for refusal in &refusals {
            logged.warn(refusal.device.as_str(), &refusal.reason, now_ms, &self.limits);
        }
        for one in malformed {
            logged.warn(&one.sender, &one.reason, now_ms, &self.limits);
        }
        if running_changed || captures_finished {
            // Patches are kept for what devices run, and requests until they are done with.
            self.downlink.replan();
        }
        for (device, generation) in heard {
            self.downlink.heard(device, generation);
        }
        for device in streamed {
            self.downlink.stored(device);
        }
        for (device, end) in settled {
            self.downlink.settled(device, end);
        }
        self.live.tell(changed);
        Ok(())
    }

    fn note_blocked(&self, blocked: Option<String>) {
        self.state.send_if_modified(|state| {
            let changed = state.blocked != blocked;
            state.blocked = blocked;
            changed
        });
    }
}

impl Job {
    fn records(&self) -> usize {
        match &self.what {
            What::Understood(received) => received.message.records(),
            What::Malformed(_) => 1,
        }
    }
}

/// What a message on `topic` says, if it is signed by the device that the topic names.
pub fn read(
    store: &Store,
    topics: &Topics,
    topic: &str,
    payload: &[u8],
    fresh: bool,
    at_ms: u64,
) -> What {
    match understand(store, topics, topic, payload) {
        Ok((device, key, message)) => {
            What::Understood(Received { device, key, message, fresh, at_ms })
        }
        Err(fault) => What::Malformed(Malformed {
            sender: sender_of(topic),
            kind: fault.kind(),
            reason: fault.to_string(),
            at_ms,
        }),
    }
}

fn understand(
    store: &Store,
    topics: &Topics,
    topic: &str,
    payload: &[u8],
) -> Result<(DeviceId, EnrolledKey, Upward), Fault> {
    let parsed = topics.parse(topic).map_err(|TopicError| Fault::Topic)?;
    let (Topic::Status(device)
    | Topic::State(device)
    | Topic::Health(device)
    | Topic::Stream(device, _)) = &parsed
    else {
        return Err(Fault::Topic);
    };
    let signed: Signed = decode(payload).map_err(Fault::Wire)?;
    let key = match store.sender(device) {
        Sender::Known(key) => key,
        Sender::WithoutKey => return Err(Fault::WithoutKey),
        Sender::Stranger => return Err(Fault::Stranger),
    };
    if !key.public_key().verify_message(topic, &signed) {
        return Err(Fault::Forged { device: device.clone() });
    }
    let message = match &parsed {
        Topic::Status(_) => Upward::Status(body(&signed)?),
        Topic::State(_) => Upward::Reported(body(&signed)?),
        Topic::Health(_) => Upward::Health(body(&signed)?),
        Topic::Stream(_, Stream::Results) => Upward::Results(body(&signed)?),
        Topic::Stream(_, Stream::Profiles) => Upward::Profiles(body(&signed)?),
        Topic::Stream(_, Stream::Events) => Upward::Events(body(&signed)?),
        Topic::Stream(_, Stream::Labels) => Upward::Labels(body(&signed)?),
        Topic::Stream(_, Stream::Captures) => Upward::Captures(body(&signed)?),
        _ => return Err(Fault::Topic),
    };
    Ok((device.clone(), key, message))
}

fn body<M: Message>(signed: &Signed) -> Result<M, Fault> {
    decode(&signed.body).map_err(Fault::Wire)
}

/// Why a message is not understood.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("nothing is expected on this topic")]
    Topic,
    #[error("the sender is not registered")]
    Stranger,
    #[error(
        "the device has no key that its messages could be verified with: delete it and add it again \
         with `selvedge device add`"
    )]
    WithoutKey,
    #[error("a message that claims to be from {device} is not signed by its key")]
    Forged { device: DeviceId },
    #[error("{0}")]
    Wire(WireError),
}

impl Fault {
    fn kind(&self) -> MalformedKind {
        match self {
            Self::Wire(WireError::Version { met }) => MalformedKind::Version(*met),
            Self::Forged { .. } => MalformedKind::Forged,
            Self::Topic | Self::Stranger | Self::WithoutKey | Self::Wire(_) => MalformedKind::Other,
        }
    }
}

/// The device that a topic names, or the topic itself if it names none.
fn sender_of(topic: &str) -> String {
    let mut parts = topic.split('/').skip_while(|part| *part != "up").skip(1);
    parts.next().unwrap_or(topic).chars().take(selvedge_wire::NAME_BYTES_MAX).collect()
}

/// Says something of one sender at most once a minute.
#[derive(Default)]
struct LogLimit {
    said_ms: HashMap<String, u64>,
}

impl LogLimit {
    fn warn(&mut self, sender: &str, reason: &str, now_ms: u64, limits: &Limits) {
        if self.may_say(sender, now_ms, limits) {
            tracing::warn!("a message of {sender} is dropped: {reason}");
        }
    }

    fn may_say(&mut self, sender: &str, now_ms: u64, limits: &Limits) -> bool {
        let recent = |said_ms: &u64| said_ms.saturating_add(LOG_EVERY_MS) > now_ms;
        if self.said_ms.get(sender).is_some_and(recent) {
            return false;
        }
        if self.said_ms.len() >= limits.senders_counted_max as usize {
            self.said_ms.retain(|_, said_ms| recent(said_ms));
        }
        let room = self.said_ms.len() < limits.senders_counted_max as usize;
        if room {
            self.said_ms.insert(sender.into(), now_ms);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use selvedge_trust::{DeviceKey, MessageSigner, SystemRandom};
    use selvedge_wire::{Batch, Boot, Digest, InferenceResult, Outcome, Record, Sequence, encode};

    use super::*;
    use crate::{
        secret::new_password,
        testing::{NOW_MS, name, open_store},
    };

    fn batch(first: u64, count: u64) -> Batch<InferenceResult> {
        let result = |sample| InferenceResult {
            at_ms: NOW_MS,
            slot: "main".parse().expect("the name is well formed"),
            bundle: Digest([7; 32]),
            source: "replay".into(),
            sample,
            latency_us: 90,
            outcome: Outcome::Class { index: 1, score: 0.75 },
        };
        let records = (first..first + count).map(|sample| Record::One(result(sample))).collect();
        Batch { boot: Boot(1), first: Sequence(first), records }
    }

    async fn enrol(store: &Store, device: &str) -> DeviceKey {
        let key = DeviceKey::generate(&SystemRandom::new()).expect("keys can be made");
        let public = key.public_key().to_bytes().try_into().expect("an Ed25519 key has 32 bytes");
        let (_, password) = new_password();
        store
            .add_device(&name(device), &Default::default(), &EnrolledKey(public), &password, NOW_MS)
            .await
            .expect("the device is new");
        key
    }

    #[tokio::test]
    async fn a_message_is_taken_from_its_device_on_its_topic_alone() {
        let (_folder, store) = open_store(&[]).await;
        let (key, other) = (enrol(&store, "a").await, enrol(&store, "b").await);
        let topics = Topics::new(&"demo".parse().expect("a name"));
        let results = |device| topics.name(&Topic::Stream(name(device), Stream::Results));
        let sign =
            |key: &DeviceKey, topic: &str| encode(&key.sign_message(topic, encode(&batch(1, 3))));
        let (own, foreign) = (results("a"), results("b"));
        let events = topics.name(&Topic::Stream(name("a"), Stream::Events));
        let cases = [
            (&own, sign(&key, &own), None),
            (&own, sign(&other, &own), Some("not signed by its key")),
            (&own, sign(&key, &foreign), Some("not signed by its key")),
            (&foreign, sign(&key, &own), Some("claims to be from b")),
            (&own, sign(&key, &events), Some("not signed by its key")),
            (&own, encode(&batch(1, 3)), Some("")),
            (&results("c"), sign(&key, &results("c")), Some("not registered")),
        ];
        for (topic, payload, reason) in cases {
            match (read(&store, &topics, topic, &payload, true, NOW_MS), reason) {
                (What::Understood(received), None) => assert_eq!(received.device, name("a")),
                (What::Malformed(malformed), Some(reason)) => {
                    assert!(malformed.reason.contains(reason), "{topic}: {}", malformed.reason);
                }
                (_, expected) => panic!("{topic}: {expected:?}"),
            }
        }
        store.delete_device(&name("a")).await.expect("the device is there");
        let again = enrol(&store, "a").await;
        for (key, is_believed) in [(&key, false), (&again, true)] {
            let what = read(&store, &topics, &own, &sign(key, &own), true, NOW_MS);
            assert_eq!(matches!(what, What::Understood(_)), is_believed);
        }
    }

    /// Verifying goes on beside the commits, so a message costs the slower of the two.
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn what_a_message_costs() {
        const MESSAGES: u64 = 4096;
        const RECORDS: u64 = 10;
        let (_folder, store) = open_store(&[]).await;
        let key = enrol(&store, "a").await;
        let topics = Topics::new(&"demo".parse().expect("a name"));
        let topic = topics.name(&Topic::Stream(name("a"), Stream::Results));
        let messages: Vec<(Vec<u8>, Vec<u8>)> = (0..MESSAGES)
            .map(|at| {
                let body = encode(&batch(at * RECORDS + 1, RECORDS));
                (encode(&key.sign_message(&topic, body.clone())), body)
            })
            .collect();
        let per_message = |began: Instant| began.elapsed().as_secs_f64() * 1e6 / MESSAGES as f64;
        let began = Instant::now();
        for (_, body) in &messages {
            decode::<Batch<InferenceResult>>(body).expect("it was encoded");
        }
        let decoding_us = per_message(began);
        let began = Instant::now();
        let read = |(payload, _): &(Vec<u8>, Vec<u8>)| match read(
            &store, &topics, &topic, payload, true, NOW_MS,
        ) {
            What::Understood(received) => received,
            What::Malformed(malformed) => panic!("{}", malformed.reason),
        };
        let received: Vec<Received> = messages.iter().map(read).collect();
        let reading_us = per_message(began);
        let began = Instant::now();
        for group in received.chunks(Limits::default().commit_messages_max) {
            store.apply(group, &[]).await.expect("the database takes it");
        }
        let storing_us = per_message(began);
        let ratio = storing_us.max(decoding_us) / storing_us.max(reading_us);
        println!(
            "per message of {RECORDS} records: {decoding_us:.1} µs to decode, {reading_us:.1} µs to \
             verify and decode, {storing_us:.1} µs to store; messages per second with verification \
             over those without: {ratio:.2}"
        );
    }

    #[test]
    fn each_sender_is_logged_once_a_minute() {
        let limits = Limits { senders_counted_max: 2, ..Limits::default() };
        let mut logged = LogLimit::default();
        let cases = [
            ("a", 0, true),
            ("a", LOG_EVERY_MS - 1, false),
            ("a", LOG_EVERY_MS, true),
            ("b", LOG_EVERY_MS, true),
            ("c", LOG_EVERY_MS, false),
            ("c", 2 * LOG_EVERY_MS, true),
        ];
        for (sender, now_ms, expected) in cases {
            assert_eq!(logged.may_say(sender, now_ms, &limits), expected, "{sender} at {now_ms}");
        }
    }

    #[test]
    fn the_sender_is_the_device_that_the_topic_names() {
        for (topic, sender) in [
            ("selvedge/1/demo/up/a/status", "a"),
            ("selvedge/1/demo/up/a/unknown/more", "a"),
            ("selvedge/1/demo/up", "selvedge/1/demo/up"),
        ] {
            assert_eq!(sender_of(topic), sender);
        }
    }
}
