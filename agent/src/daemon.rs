//! The daemon: starts the actors, carries messages between them, and ends them in order.
//!
//! ```text
//! sources ─samples─▶ slots ─results, profiles─▶ spool ─▶ outbox ─▶ link ─▶ broker
//!                     ▲  │ observations           ▲ events, labels     │
//!                swap │  ▼                        │                    │
//!    trials ◀─────▶ updates ◀── metadata, desired states, offers, chunks ┘
//! ```

mod slots;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, TryLockError},
    mem::discriminant,
    path::Path,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use selvedge_link::{Incoming, Limits, Link, LinkConfig, LinkEvent, Publish};
use selvedge_trust::TrustedRoot;
use selvedge_wire::{
    Boot, EventKind, Health, Message, Reported, Signed, SlotName, SlotPhase, Status, Stream, Topic,
    Topics, VERSION, VERSION_OLDEST, decode, encode,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use crate::{
    boot::{begin_run, end_run, next_boot, skip_to},
    capture::{Capture, Delivery, DeliveryHandle, run_ring},
    clock::{SharedClock, SystemClock},
    config::{BrokerConfig, Config, SourceKind},
    disk::{DiskError, SharedDisk, StateDir},
    error::Error,
    inference::{DriftOutlet, InferenceCounters, LoadedModel, SlotHandle, WorkerSettings},
    keeper::{keep, kept},
    labels::LabelReader,
    outbox::{Outbox, OutboxEnded, OutboxInput},
    record::merge_profile_records,
    reporter::Reporter,
    signer::{Signer, device_key},
    sources::{Feed, LocalTopic, Replay, run_node, run_replay, serve_local_broker},
    spool::{Spool, SpoolHandle},
    trial::TrialProgram,
    updates::{
        Effect, Identity, Now, PreviousRun, StartError, UpdateInput, Updates, UpdatesHandle,
    },
};

use slots::{Slot, SlotOrder, Trials, carry_orders};

/// How often slots and updates look at the clock.
const TICK_INTERVAL: Duration = Duration::from_millis(500);

/// How long the end waits for the fleet to have everything, and for an update that is under way.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How many messages may wait for the outbox.
const OUTBOX_INPUTS_MAX: usize = 64;

const LOCK_FILE: &str = "lock";

/// Runs the agent until `shutdown` resolves, then ends it in order: samples that wait are answered,
/// what was counted is kept, and the fleet is told that the device goes. `trials` is how it starts itself
/// for the trial of a bundle.
///
/// # Errors
/// [`Error`] if the agent cannot start, or cannot go on. A broker that is away, a full disk and a bundle
/// that does not run are no errors.
pub async fn run(
    config: Config,
    trials: TrialProgram,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let agent = Agent::start(&config, trials.clone()).await?;
        match agent.run(shutdown.as_mut()).await? {
            Ended::Shutdown => return Ok(()),
            Ended::NumbersCollide { newest } => {
                tracing::warn!(
                    "the fleet has records up to boot {} that this device never numbered: its state \
                     was lost; starting again under a later boot",
                    newest.0
                );
            }
        }
    }
}

/// Why a run has ended.
enum Ended {
    Shutdown,
    NumbersCollide { newest: Boot },
}

/// A running agent.
struct Agent {
    config: Config,
    boot: Boot,
    disk: SharedDisk,
    clock: SharedClock,
    topics: Topics,
    signer: Signer,
    // Who speaks for the fleet; not known before the updates say so.
    trusted: Option<Box<TrustedRoot>>,
    spool: SpoolHandle,
    reporter: Reporter,
    counters: Arc<InferenceCounters>,
    slots: BTreeMap<SlotName, Slot>,
    // Nothing if no samples are captured.
    capture: Option<Capture>,
    delivery: DeliveryHandle,
    trials: Trials,
    updates: UpdatesHandle,
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
    local_topics: Vec<LocalTopic>,
    outbox: mpsc::Sender<OutboxInput>,
    outbox_task: tokio::task::JoinHandle<OutboxEnded>,
    tasks: JoinSet<()>,
    connected: bool,
    reported: Option<Reported>,
    // Held for as long as the agent uses its state directory.
    _lock: File,
}

impl Agent {
    async fn start(config: &Config, trials: TrialProgram) -> Result<Self, Error> {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let state = StateDir::open(&config.state_dir).map_err(Error::Disk)?;
        let lock = lock(&state, &config.state_dir)?;
        let disk: SharedDisk = Arc::new(state);
        let (root, key) = (root_metadata(&config.root)?, device_key(&config.key)?);
        let boot = next_boot(disk.as_ref()).map_err(Error::Disk)?;
        let previous_run = begin_run(disk.as_ref()).map_err(Error::Disk)?;
        let quotas = config.spool.quotas;
        let (spool, recovery) =
            Spool::open(disk.clone(), boot, quotas, merge_profile_records).map_err(Error::Disk)?;
        let spool = SpoolHandle::spawn(spool, clock.clone())?;
        let reporter = Reporter::new(clock.clone(), spool.clone());
        let (device, fleet) = (config.device.clone(), config.fleet.clone());
        let hardware_class = env::consts::ARCH.to_owned();
        let identity = Identity { device, fleet, hardware_class, root, boot };
        let (updates, mut effects) =
            start_updates(identity, disk.clone(), config, previous_run, clock.clone()).await?;
        let trusted = take_trusted(&mut effects);
        let updates = UpdatesHandle::spawn(updates, effects, clock.clone())?;
        let topics = Topics::new(&config.fleet);
        let signer = Signer::new(Arc::new(key), topics.clone(), config.device.clone());
        let (link, events) = fleet_link(config, &signer, boot)?;
        let (outbox, inbox) = mpsc::channel(OUTBOX_INPUTS_MAX);
        let (link_out, clock_out) = (link.clone(), clock.clone());
        let sender = Outbox::new(link_out, signer.clone(), spool.clone(), clock_out, config.spool);
        let capture = config.capture.map(|ring| {
            let (capture, samples) = Capture::new(&ring, boot, clock.clone());
            // It ends with the last slot, once what waited is on the disk.
            tokio::spawn(run_ring(disk.clone(), ring, samples));
            capture
        });
        let delivery = Delivery::open(disk.clone(), config.capture).map_err(Error::Disk)?;
        let delivery = DeliveryHandle::spawn(delivery, spool.clone(), clock.clone())?;
        let mut agent = Self {
            config: config.clone(),
            boot,
            disk,
            clock,
            topics,
            signer,
            trusted,
            spool,
            reporter,
            counters: Arc::default(),
            slots: BTreeMap::new(),
            capture,
            delivery,
            trials: Trials::new(trials, &config.state_dir),
            updates,
            link,
            events,
            local_topics: Vec::new(),
            outbox,
            outbox_task: tokio::spawn(sender.run(inbox)),
            tasks: JoinSet::new(),
            connected: false,
            reported: None,
            _lock: lock,
        };
        agent.tell_started(recovery.bytes_lost, previous_run).await;
        agent.start_sources()?;
        Ok(agent)
    }

    async fn tell_started(&self, bytes_lost: u64, previous: PreviousRun) {
        let (boot, version) = (self.boot.0, env!("CARGO_PKG_VERSION"));
        let after = if previous.ended_cleanly { "" } else { ", after one that was cut short" };
        let detail = format!("agent {version}, boot {boot}{after}");
        tracing::info!(device = %self.config.device, "{detail}");
        self.reporter.tell_now(EventKind::Started, None, None, &detail).await;
        if bytes_lost > 0 {
            let detail = format!("{bytes_lost} bytes of the spool were cut off: not whole");
            tracing::warn!("{detail}");
            self.reporter.tell_now(EventKind::StateDamaged, None, None, &detail).await;
        }
    }

    async fn run(
        mut self,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Ended, Error> {
        let mut tick = steady(TICK_INTERVAL);
        let mut health = steady(self.config.health_interval);
        let mut sync = steady(self.config.spool.sync_interval);
        let ended = loop {
            tokio::select! {
                () = &mut shutdown => break Ended::Shutdown,
                event = self.events.recv() => match event {
                    Some(event) => self.take_link_event(event).await,
                    None => return Err(Error::ActorEnded { name: "link" }),
                },
                effect = self.updates.effect() => match effect {
                    Some(effect) => self.take_effect(effect).await?,
                    None => return Err(Error::ActorEnded { name: "updates" }),
                },
                ended = &mut self.outbox_task => match ended {
                    Ok(OutboxEnded::Ahead(newest)) => {
                        skip_to(self.disk.as_ref(), self.boot, newest).map_err(Error::Disk)?;
                        break Ended::NumbersCollide { newest };
                    }
                    _ => return Err(Error::ActorEnded { name: "outbox" }),
                },
                _ = tick.tick() => self.tick(),
                _ = sync.tick() => self.spool.sync().await,
                _ = health.tick() => self.publish_health().await,
            }
        };
        self.end().await;
        Ok(ended)
    }

    /// Ends the actors in the order of the samples' way.
    async fn end(mut self) {
        tracing::info!("ending");
        self.tasks.shutdown().await;
        for slot in self.slots.values_mut() {
            slot.handle.stop().await;
            let _ = timeout(FAREWELL_MAX, &mut slot.keeper).await;
        }
        self.delivery.end().await;
        self.spool.flush().await;
        let _ = timeout(FAREWELL_MAX, self.drain()).await;
        self.outbox_task.abort();
        let farewell = self.status(false);
        // A model that is being loaded right now is not worth a long goodbye.
        let _ = timeout(FAREWELL_MAX, self.updates.close()).await;
        self.spool.close().await;
        if let Err(error) = end_run(self.disk.as_ref()) {
            tracing::error!("this end will pass for a crash: {error}");
        }
        self.link.close(Some(farewell)).await;
    }

    /// Goes on sending until the fleet has everything, or the connection is gone.
    async fn drain(&mut self) {
        while self.connected && self.spool.len_bytes() > 0 {
            match self.events.recv().await {
                Some(event) => self.take_link_event(event).await,
                None => return,
            }
        }
    }

    fn tick(&self) {
        self.slots.values().for_each(|slot| slot.handle.tick());
        // Updates that are busy will look at the clock when they are done.
        let _ = self.updates.inputs().try_send(UpdateInput::Tick);
    }
}

/// What goes up.
impl Agent {
    async fn publish(&self, publish: Publish) {
        // A receipt is not waited for: all of this is sent again on the next connection.
        if self.connected && self.link.publish(publish).await.is_err() {
            tracing::error!("the link is closed");
        }
    }

    fn status(&self, online: bool) -> Publish {
        self.signer.retained(Topic::Status, &status(self.boot, online))
    }

    async fn publish_reported(&self) {
        let Some(reported) = &self.reported else { return };
        self.publish(self.signer.retained(Topic::State, reported)).await;
    }

    async fn publish_health(&self) {
        self.publish(self.signer.passing(Topic::Health, encode(&self.health()))).await;
    }

    fn health(&self) -> Health {
        let counters = &self.counters;
        let link = self.link.counters();
        let (resident_bytes, resident_bytes_peak) = resident_memory();
        Health {
            boot: self.boot,
            uptime_s: self.clock.elapsed().as_secs(),
            inferences: counters.answered.load(Ordering::Relaxed),
            inferences_failed: counters.failed.load(Ordering::Relaxed),
            inputs_malformed: self.reporter.malformed_total()
                + counters.outdated.load(Ordering::Relaxed),
            inputs_anomalous: counters.anomalous.load(Ordering::Relaxed),
            swaps: counters.swaps.load(Ordering::Relaxed),
            sent_bytes: link.sent_bytes,
            received_bytes: link.received_bytes,
            resident_bytes,
            resident_bytes_peak,
            spool_bytes: self.spool.len_bytes(),
            records_dropped: self.spool.dropped(),
        }
    }
}

/// What comes down.
impl Agent {
    async fn take_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { payload_bytes_max, .. } => {
                tracing::info!("connected to {}", self.config.broker.url);
                self.connected = true;
                self.publish(self.status(true)).await;
                self.publish_reported().await;
                self.publish_health().await;
                self.tell_outbox(OutboxInput::Up { payload_bytes_max }).await;
            }
            LinkEvent::Down { reason, retry_in_ms } => {
                let url = &self.config.broker.url;
                tracing::warn!("not connected to {url}: {reason}; next try in {retry_in_ms} ms");
                self.connected = false;
                self.tell_outbox(OutboxInput::Down).await;
            }
            LinkEvent::SubscriptionRefused { filter, code } => {
                tracing::error!("the broker refuses the subscription to {filter}: {code}");
            }
            LinkEvent::Message(message) => self.take_message(message).await,
        }
    }

    async fn take_message(&mut self, message: Incoming) {
        let Incoming { topic: name, payload, ack, .. } = message;
        match self.topics.parse(&name) {
            Ok(
                topic @ (Topic::Desired(_)
                | Topic::Bundle(_)
                | Topic::Chunk(_)
                | Topic::Metadata(_)),
            ) => {
                // An empty payload clears what was retained: there is nothing to be read.
                if payload.is_empty() {
                    return ack.accept();
                }
                let input = UpdateInput::Message { topic, payload, ack };
                if self.updates.inputs().send(input).await.is_err() {
                    tracing::error!("the updates have ended");
                }
            }
            Ok(Topic::Stored(_) | Topic::Captures(_)) if payload.is_empty() => ack.accept(),
            Ok(Topic::Stored(_)) => {
                match self.read_signed(&name, &payload, "what is said to be stored").await {
                    Some(stored) => self.tell_outbox(OutboxInput::Stored { stored, ack }).await,
                    None => ack.accept(),
                }
            }
            Ok(Topic::Captures(_)) => {
                let request = self.read_signed(&name, &payload, "a request for captured samples");
                if let Some(request) = request.await {
                    self.delivery.ask(request);
                }
                ack.accept();
            }
            _ => {
                self.take_local_message(&name, &payload).await;
                ack.accept();
            }
        }
    }

    /// A message of the fleet, if its director has signed it: on anybody's word else, nothing is forgotten and
    /// nothing given away.
    async fn read_signed<M: Message>(&self, topic: &str, payload: &[u8], what: &str) -> Option<M> {
        let read = decode::<Signed>(payload).and_then(|signed| {
            let message = decode::<M>(&signed.body)?;
            Ok((message, signed))
        });
        let (message, signed) = match read {
            Ok(read) => read,
            Err(error) => {
                self.reporter.malformed("fleet", &format!("{what}: {error}")).await;
                return None;
            }
        };
        let trusted = self.trusted.as_ref();
        if trusted.is_some_and(|root| root.verify_message(topic, &signed)) {
            return Some(message);
        }
        self.reporter.disbelieved(&format!("{what} is not signed by the director")).await;
        // Where many inputs wait, it is told again with the next message.
        let _ = self.updates.inputs().try_send(UpdateInput::Disbelieved);
        None
    }

    async fn take_local_message(&self, topic: &str, payload: &[u8]) {
        for local in &self.local_topics {
            if local.offer(topic, payload, &self.reporter).await {
                return;
            }
        }
        self.reporter.malformed(topic, "nothing is expected on this topic").await;
    }

    async fn tell_outbox(&self, input: OutboxInput) {
        // The outbox says itself why it has ended.
        let _ = self.outbox.send(input).await;
    }

    async fn take_effect(&mut self, effect: Effect) -> Result<(), Error> {
        match effect {
            Effect::Subscribe(topic) => {
                let _ = self.link.subscribe(vec![self.topics.name(&topic)]).await;
            }
            Effect::Unsubscribe(topic) => {
                let _ = self.link.unsubscribe(vec![self.topics.name(&topic)]).await;
            }
            Effect::Trust(root) => self.trusted = Some(root),
            Effect::Try { slot, bundle, limits } => {
                // Those that have ended need not be kept.
                while self.tasks.try_join_next().is_some() {}
                let updates = self.updates.inputs();
                self.trials.begin(slot, bundle, limits, &mut self.tasks, updates);
            }
            Effect::Shadow { slot, model, samples_wanted } => {
                self.order(&slot, SlotOrder::Shadow { model, samples_wanted })?;
            }
            Effect::Watch { slot, on } => self.order(&slot, SlotOrder::Watch { on })?,
            Effect::Swap { slot, model } => self.order(&slot, SlotOrder::Swap { model })?,
            Effect::Site { slot, site } => self.order(&slot, SlotOrder::Site { site })?,
            Effect::Tell(event) => self.reporter.tell(event).await,
            Effect::Report(reported) => {
                log_progress(self.reported.as_ref(), &reported);
                self.reported = Some(reported);
                self.publish_reported().await;
            }
            Effect::Malformed { problem } => self.reporter.malformed("fleet", &problem).await,
        }
        Ok(())
    }
}

/// Slots and sources.
impl Agent {
    fn order(&mut self, slot: &SlotName, order: SlotOrder) -> Result<(), Error> {
        // A worker that has ended carries nothing out; the agent is about to end too.
        let _ = self.slot(slot)?.orders.send(order);
        Ok(())
    }

    fn slot(&mut self, name: &SlotName) -> Result<&Slot, Error> {
        if !self.slots.contains_key(name) {
            let slot = self.start_slot(name)?;
            self.slots.insert(name.clone(), slot);
        }
        Ok(&self.slots[name])
    }

    fn start_slot(&mut self, name: &SlotName) -> Result<Slot, Error> {
        let (spool, updates, slot) = (self.spool.clone(), self.updates.inputs(), name.clone());
        let (states, kept_states) = watch::channel(None);
        let settings = WorkerSettings {
            clock: self.clock.clone(),
            window: self.config.profile_window,
            publish_results: self.config.publish_results,
            counters: self.counters.clone(),
            sink: Box::new(move |stream: Stream, record| spool.push_blocking(stream, record)),
            observer: Box::new(move |bundle, observation| {
                // Updates that are busy hear the next one.
                let slot = slot.clone();
                let _ = updates.try_send(UpdateInput::Observed { slot, bundle, observation });
            }),
            drift: self.drift_outlet(name, states),
            stuck_samples: self.config.stuck_samples,
            answers_remembered: self
                .config
                .labels
                .as_ref()
                .map_or(0, |labels| labels.answers_remembered),
            capture: self.capture.as_ref().map(Capture::sink),
        };
        let handle = SlotHandle::spawn(name.clone(), settings)?;
        let (orders, inbox) = mpsc::unbounded_channel();
        self.tasks.spawn(carry_orders(handle.clone(), inbox, self.updates.inputs()));
        let keeper = tokio::spawn(keep(self.disk.clone(), name.clone(), kept_states));
        Ok(Slot { handle, orders, keeper })
    }

    fn drift_outlet(&self, name: &SlotName, states: watch::Sender<Option<Vec<u8>>>) -> DriftOutlet {
        let (updates, slot) = (self.updates.inputs(), name.clone());
        DriftOutlet {
            kept: kept(&self.disk, name),
            keep: Box::new(move |state| {
                states.send_replace(Some(state));
            }),
            told: Box::new(move |bundle, judged| {
                let slot = slot.clone();
                let _ = updates.try_send(UpdateInput::Judged { slot, bundle, judged });
            }),
        }
    }

    fn start_sources(&mut self) -> Result<(), Error> {
        let (mut topics, mut slots) = (Vec::new(), BTreeMap::new());
        for source in self.config.sources.clone() {
            let name = source.name.as_str();
            match source.kind {
                SourceKind::Replay { slot, file, rate_hz, repeat } => {
                    let slot = self.slot(&slot)?.handle.clone();
                    let (feed, name) = (Feed::new(name, slot.clone()), name.to_owned());
                    let replay = Replay { name, file, rate_hz, repeat };
                    self.tasks.spawn(run_replay(replay, feed, self.reporter.clone()));
                    slots.insert(source.name, slot);
                }
                SourceKind::Mqtt { slot, topic } => {
                    let slot = self.slot(&slot)?.handle.clone();
                    let feed = Feed::new(name, slot.clone());
                    let (samples, task) =
                        LocalTopic::of_samples(&topic, feed, self.reporter.clone());
                    self.tasks.spawn(task);
                    topics.push(samples);
                    slots.insert(source.name, slot);
                }
                SourceKind::Node { line } => {
                    self.tasks.spawn(run_node(name.to_owned(), line, self.reporter.clone()));
                }
            }
        }
        if let Some(labels) = &self.config.labels {
            let (device, reporter) = (self.config.device.clone(), self.reporter.clone());
            let reader = LabelReader::new(device, self.boot, slots, reporter);
            let (labels, task) = LocalTopic::of_labels(&labels.topic, reader);
            self.tasks.spawn(task);
            topics.push(labels);
        }
        self.listen(topics)
    }

    /// Listens to topics of the site, on its own broker or, where it has none, on the fleet's.
    fn listen(&mut self, topics: Vec<LocalTopic>) -> Result<(), Error> {
        let Some(broker) = &self.config.local_broker else {
            self.local_topics = topics;
            return Ok(());
        };
        if topics.is_empty() {
            return Ok(());
        }
        let client_id = format!("selvedge-{}", self.config.device);
        let subscriptions = topics.iter().map(|topic| topic.name().to_owned()).collect();
        let config = LinkConfig { subscriptions, ..link_config(broker, client_id) };
        let (link, events) =
            Link::spawn(config).map_err(|source| Error::Link { table: "local_broker", source })?;
        self.tasks.spawn(async move {
            serve_local_broker(events, topics).await;
            // The link lives for as long as its events are read.
            drop(link);
        });
        Ok(())
    }
}

async fn start_updates(
    identity: Identity,
    disk: SharedDisk,
    config: &Config,
    previous_run: PreviousRun,
    clock: SharedClock,
) -> Result<(Updates, Vec<Effect>), Error> {
    let limits = config.bundles;
    let start = move || {
        let now = Now { unix_ms: clock.unix_ms(), elapsed_ms: 0 };
        Updates::start(identity, disk, limits, Box::new(LoadedModel::load), previous_run, now)
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.map_err(|_| Error::ActorEnded { name: "updates" })?.map_err(|error| match error {
        StartError::Disk(error) => Error::Disk(error),
        StartError::Root(source) => Error::Root { path: config.root.clone(), source },
    })
}

/// Who speaks for the fleet, of the effects of the start: it must be known before the first message.
fn take_trusted(effects: &mut Vec<Effect>) -> Option<Box<TrustedRoot>> {
    let mut trusted = None;
    let others = std::mem::take(effects).into_iter().filter_map(|effect| match effect {
        Effect::Trust(root) => {
            trusted = Some(root);
            None
        }
        other => Some(other),
    });
    *effects = others.collect();
    trusted
}

/// Says in the log where slots and trust have changed.
fn log_progress(before: Option<&Reported>, now: &Reported) {
    let phase_before = |slot: &SlotName| {
        let slots = before.iter().flat_map(|before| &before.slots);
        slots.filter(|report| report.slot == *slot).map(|report| report.phase).next()
    };
    for report in &now.slots {
        let before = phase_before(&report.slot).as_ref().map(discriminant);
        if before != Some(discriminant(&report.phase)) {
            let reason = report.reason.as_ref().map(|reason| format!(": {reason}"));
            let (slot, phase) = (&report.slot, phase_name(report.phase));
            tracing::info!("slot {slot}: {phase}{}", reason.unwrap_or_default());
        }
    }
    let trust_before = before.map(|before| before.trust).unwrap_or_default();
    if now.trust.frozen && !trust_before.frozen {
        tracing::warn!("the repository's metadata has expired, and nothing newer came");
    }
    if now.trust.time_unverified && !trust_before.time_unverified {
        tracing::warn!("the clock is behind a time that is known to have passed");
    }
}

fn phase_name(phase: SlotPhase) -> &'static str {
    match phase {
        SlotPhase::Settled => "settled",
        SlotPhase::Fetching { .. } => "fetching",
        SlotPhase::Verifying => "verifying",
        SlotPhase::Trial => "on trial",
        SlotPhase::Shadow { .. } => "in the shadow",
        SlotPhase::Probation { .. } => "on probation",
        SlotPhase::Refused => "refused",
    }
}

fn lock(state: &StateDir, path: &Path) -> Result<File, Error> {
    let file = state.path(LOCK_FILE);
    let failed = |source| Error::Disk(DiskError { verb: "lock", path: file.clone(), source });
    let opened = File::create(&file).map_err(failed)?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

pub(crate) fn root_metadata(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::RootFile { path: path.into(), source })
}

fn fleet_link(
    config: &Config,
    signer: &Signer,
    boot: Boot,
) -> Result<(Link, mpsc::Receiver<LinkEvent>), Error> {
    let will = signer.retained(Topic::Status, &status(boot, false));
    let mut subscriptions = vec![Topics::new(&config.fleet).down_filter(&config.device)];
    if config.local_broker.is_none() {
        subscriptions.extend(config.sources.iter().filter_map(|source| match &source.kind {
            SourceKind::Mqtt { topic, .. } => Some(topic.clone()),
            _ => None,
        }));
        subscriptions.extend(config.labels.iter().map(|labels| labels.topic.clone()));
    }
    let link = LinkConfig {
        will: Some(will),
        will_delay_s: config.broker.keep_alive_s.into(),
        subscriptions,
        ..link_config(&config.broker, config.device.to_string())
    };
    Link::spawn(link).map_err(|source| Error::Link { table: "broker", source })
}

fn link_config(broker: &BrokerConfig, client_id: String) -> LinkConfig {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    LinkConfig {
        login: broker.login.clone(),
        tls: broker.tls.clone(),
        keep_alive_s: broker.keep_alive_s,
        limits: Limits {
            backoff_first_ms: ms(broker.reconnect_first),
            backoff_ms_max: ms(broker.reconnect_max),
            ..Limits::default()
        },
        ..LinkConfig::new(broker.url.clone(), client_id)
    }
}

fn status(boot: Boot, online: bool) -> Status {
    Status {
        online,
        boot,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        wire_oldest: VERSION_OLDEST,
        wire_newest: VERSION,
        hardware_class: env::consts::ARCH.to_owned(),
    }
}

/// An interval that makes up for nothing it missed.
fn steady(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Resident memory and its peak, in bytes; 0 where the system does not tell.
fn resident_memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    (kib("VmRSS:").unwrap_or(0) * 1024, kib("VmHWM:").unwrap_or(0) * 1024)
}
