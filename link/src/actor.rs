//! The task that keeps one link, and the handle to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Ack, Closed, Delivery, Error, Incoming, LinkConfig, LinkCounters, LinkEvent, Publish, Receipt,
    Refusal,
    backoff::Backoff,
    event::{Counters, EventQueue},
    message::AckOrder,
    session::{Occurrence, Request, Session, filter_fault},
    subscriptions::Subscriptions,
    tls,
};

/// The events between the task and its owner; those beyond wait in the task's own queue.
const EVENTS_MAX: usize = 8;

/// The number that stands for no connection.
const NO_CONNECTION: u64 = 0;

/// A connection to a broker that is kept up.
///
/// Clones share the connection. When all are dropped it ends without a farewell, and the will speaks.
#[derive(Clone, Debug)]
pub struct Link {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    task: AbortHandle,
    payload_bytes_max: usize,
    close_ms_max: u64,
}

/// What the task and its handles both see.
#[derive(Debug, Default)]
struct Shared {
    /// The number of the connection that is up, from 1.
    connection: AtomicU64,
    counters: Counters,
}

enum Command {
    Publish { publish: Publish, receipt: oneshot::Sender<Delivery>, connection: u64 },
    Subscribe { filters: Vec<String> },
    Unsubscribe { filters: Vec<String> },
    Close { farewell: Option<Publish>, done: oneshot::Sender<()> },
}

impl Link {
    /// Starts a link: the first attempt to connect begins at once.
    ///
    /// It runs on the current tokio runtime until it is closed, all handles are dropped, or the
    /// receiver is. The receiver need not be read for the link to work, but messages wait there.
    ///
    /// # Errors
    /// [`Error`] if the configuration cannot work. An unreachable broker is not an error but a
    /// [`LinkEvent::Down`].
    pub fn spawn(config: LinkConfig) -> Result<(Self, mpsc::Receiver<LinkEvent>), Error> {
        config.check()?;
        let tls = config.tls.as_ref().map(tls::client_config).transpose()?;
        let (commands, command_receiver) = mpsc::channel(config.limits.commands_max);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (ack_sender, acks) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let limits = config.limits.clone();
        let actor = Actor {
            backoff: Backoff::new(limits.backoff_first_ms, limits.backoff_ms_max),
            commands: command_receiver,
            events: event_sender,
            queue: EventQueue::new(2 * usize::from(limits.unacked_max)),
            acks,
            ack_sender,
            subscriptions: Subscriptions::default(),
            shared: Arc::clone(&shared),
            connection: NO_CONNECTION,
            tls,
            config: Arc::new(config),
        };
        let task = tokio::spawn(actor.run()).abort_handle();
        let (payload_bytes_max, close_ms_max) = (limits.payload_bytes_max, limits.close_ms_max);
        Ok((Self { commands, shared, task, payload_bytes_max, close_ms_max }, events))
    }

    /// Takes a message to be sent, waiting while many others wait.
    ///
    /// With no connection the receipt is [`Delivery::Lost`] at once: wait for [`LinkEvent::Up`]
    /// before trying again.
    ///
    /// # Errors
    /// [`Closed`] if the link is.
    pub async fn publish(&self, publish: Publish) -> Result<Receipt, Closed> {
        if let Some(code) = publish.fault(self.payload_bytes_max) {
            return Ok(Receipt::settled(Delivery::Refused { code }));
        }
        let connection = self.shared.connection.load(Ordering::Acquire);
        if connection == NO_CONNECTION && !self.commands.is_closed() {
            return Ok(Receipt::settled(Delivery::Lost));
        }
        let (receipt, promised) = Receipt::pending();
        self.send(Command::Publish { publish, receipt, connection }).await?;
        Ok(promised)
    }

    /// Subscribes, on this connection and all that follow. Retained messages come (again) for each.
    ///
    /// # Errors
    /// [`Closed`] if the link is. What the broker refuses is told by
    /// [`LinkEvent::SubscriptionRefused`].
    pub async fn subscribe(&self, filters: Vec<String>) -> Result<(), Closed> {
        self.send(Command::Subscribe { filters }).await
    }

    /// Takes subscriptions back.
    ///
    /// # Errors
    /// [`Closed`] if the link is.
    pub async fn unsubscribe(&self, filters: Vec<String>) -> Result<(), Closed> {
        self.send(Command::Unsubscribe { filters }).await
    }

    /// What was counted so far.
    pub fn counters(&self) -> LinkCounters {
        self.shared.counters.read()
    }

    /// Sends `farewell` if there is a connection, and ends it so that the will stays unsaid.
    ///
    /// It takes no longer than its limit; a broker that does not answer until then sees a dead link.
    pub async fn close(self, farewell: Option<Publish>) {
        let (done, closed) = oneshot::channel();
        let parting = async {
            if self.send(Command::Close { farewell, done }).await.is_ok() {
                // An error means that the task has ended without us.
                let _ = closed.await;
            }
        };
        if timeout(Duration::from_millis(self.close_ms_max), parting).await.is_err() {
            self.task.abort();
        }
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)
    }
}

struct Actor {
    config: Arc<LinkConfig>,
    tls: Option<Arc<rustls::ClientConfig>>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<LinkEvent>,
    queue: EventQueue,
    acks: mpsc::UnboundedReceiver<AckOrder>,
    ack_sender: mpsc::UnboundedSender<AckOrder>,
    subscriptions: Subscriptions,
    shared: Arc<Shared>,
    backoff: Backoff,
    /// The number of the newest connection that was up.
    connection: u64,
}

/// Why a connection is over.
enum End {
    /// It broke; the next one is to come.
    Down { reason: String },
    /// The owner said farewell.
    Closed { done: oneshot::Sender<()> },
    /// The owner is gone.
    Abandoned,
}

/// What a link reacts to.
enum Stimulus {
    Occurrence(Result<Occurrence, String>),
    Command(Command),
    Ack(AckOrder),
    EventTaken,
    TimeOver,
    OwnerGone,
}

impl From<Option<Command>> for Stimulus {
    fn from(command: Option<Command>) -> Self {
        command.map_or(Self::OwnerGone, Self::Command)
    }
}

/// The connection that is being made or is up.
struct Current {
    session: Session,
    up_since: Option<Instant>,
    heard_at: Instant,
}

impl Actor {
    async fn run(mut self) {
        for filter in self.config.subscriptions.clone() {
            self.want(filter);
        }
        loop {
            let mut current = Current {
                session: Session::open(Arc::clone(&self.config), self.tls.as_ref()),
                up_since: None,
                heard_at: Instant::now(),
            };
            let end = self.serve(&mut current).await;
            self.shared.connection.store(NO_CONNECTION, Ordering::Release);
            let lived = current.up_since.map(|since| since.elapsed());
            // What was under way is lost; its receipts say so when the session is dropped.
            drop(current);
            let end = match end {
                End::Down { reason } => self.rest(reason, lived).await,
                end => Some(end),
            };
            match end {
                None | Some(End::Down { .. }) => {}
                Some(End::Abandoned) => return,
                Some(End::Closed { done }) => {
                    self.commands.close();
                    // Whoever does not wait for the end does not need to know.
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Serves one connection to its end.
    async fn serve(&mut self, current: &mut Current) -> End {
        loop {
            let is_up = current.up_since.is_some();
            let served = match self.stimulus(current).await {
                Stimulus::Occurrence(Ok(occurrence)) => self.on_occurrence(current, occurrence),
                Stimulus::Occurrence(Err(reason)) => Err(reason),
                Stimulus::Command(Command::Close { farewell, done }) => {
                    if is_up {
                        self.part(current, farewell).await;
                    }
                    return End::Closed { done };
                }
                Stimulus::Command(command) => self.on_command(current, command),
                Stimulus::Ack(ack) if is_up && ack.connection == self.connection => {
                    current.session.acknowledge(ack.packet_id)
                }
                // Its connection is gone, and the broker sends the message again.
                Stimulus::Ack(_) | Stimulus::EventTaken => Ok(()),
                Stimulus::TimeOver => Err(self.silence(current)),
                Stimulus::OwnerGone => return End::Abandoned,
            };
            if let Err(reason) = served {
                return End::Down { reason };
            }
        }
    }

    async fn stimulus(&mut self, current: &mut Current) -> Stimulus {
        let is_up = current.up_since.is_some();
        let has_room = !is_up || current.session.has_room();
        let has_room_for_ack = current.session.has_room_for_ack();
        let silent_at = current.heard_at + Duration::from_millis(current.session.silence_ms_max());
        tokio::select! {
            occurrence = current.session.next() => Stimulus::Occurrence(occurrence),
            command = self.commands.recv(), if has_room => Stimulus::from(command),
            Some(ack) = self.acks.recv(), if has_room_for_ack => Stimulus::Ack(ack),
            permit = self.events.reserve(), if !self.queue.is_empty() => {
                give_event(permit, &mut self.queue)
            }
            () = self.events.closed() => Stimulus::OwnerGone,
            () = sleep_until(silent_at), if is_up => Stimulus::TimeOver,
        }
    }

    /// Waits for the next attempt; an end cuts it short.
    async fn rest(&mut self, reason: String, lived: Option<Duration>) -> Option<End> {
        let lasting = Duration::from_millis(self.config.limits.backoff_reset_after_ms);
        if lived.is_some_and(|lived| lived >= lasting) {
            self.backoff.reset();
        }
        let retry_in_ms = self.backoff.next_ms(random());
        tracing::debug!(retry_in_ms, reason, "link down");
        self.queue.push_down(reason, retry_in_ms);
        let deadline = Instant::now() + Duration::from_millis(retry_in_ms);
        loop {
            match self.stimulus_at_rest(deadline).await {
                Stimulus::Command(Command::Close { done, .. }) => {
                    return Some(End::Closed { done });
                }
                Stimulus::Command(Command::Subscribe { filters }) => {
                    for filter in filters {
                        self.want(filter);
                    }
                }
                Stimulus::Command(Command::Unsubscribe { filters }) => {
                    for filter in filters {
                        self.subscriptions.take_back(filter);
                    }
                }
                // The receipt says "lost" when it is dropped.
                Stimulus::Command(Command::Publish { .. }) => {}
                Stimulus::Occurrence(_) | Stimulus::Ack(_) | Stimulus::EventTaken => {}
                Stimulus::TimeOver => return None,
                Stimulus::OwnerGone => return Some(End::Abandoned),
            }
        }
    }

    async fn stimulus_at_rest(&mut self, deadline: Instant) -> Stimulus {
        tokio::select! {
            command = self.commands.recv() => Stimulus::from(command),
            Some(ack) = self.acks.recv() => Stimulus::Ack(ack),
            permit = self.events.reserve(), if !self.queue.is_empty() => {
                give_event(permit, &mut self.queue)
            }
            () = self.events.closed() => Stimulus::OwnerGone,
            () = sleep_until(deadline) => Stimulus::TimeOver,
        }
    }

    fn silence(&self, current: &Current) -> String {
        let silence_s = current.session.silence_ms_max() / 1000;
        format!("{} said nothing for {silence_s} s", self.config.url)
    }

    /// Sends the farewell and ends the connection in order. If it breaks meanwhile, so be it.
    async fn part(&mut self, current: &mut Current, farewell: Option<Publish>) {
        // Without a word about what was dealt with, it would come again.
        while let Ok(ack) = self.acks.try_recv() {
            if ack.connection == self.connection
                && (!until(current, Session::has_room_for_ack).await
                    || current.session.acknowledge(ack.packet_id).is_err())
            {
                return;
            }
        }
        if let Some(publish) = farewell {
            let (receipt, mut promised) = oneshot::channel();
            let mut told = || !matches!(promised.try_recv(), Err(TryRecvError::Empty));
            if current.session.request(Request::Publish { publish, receipt }).is_err()
                || !until(current, |_| told()).await
            {
                return;
            }
        }
        if until(current, Session::has_room_for_ack).await && current.session.disconnect().is_ok() {
            while !matches!(current.session.next().await, Ok(Occurrence::DisconnectSent) | Err(_)) {
            }
        }
    }

    fn on_occurrence(
        &mut self,
        current: &mut Current,
        occurrence: Occurrence,
    ) -> Result<(), String> {
        let counters = &self.shared.counters;
        match occurrence {
            Occurrence::Sent | Occurrence::DisconnectSent => return Ok(()),
            Occurrence::PublishSent { packet_bytes } => {
                counters.sent_bytes.fetch_add(packet_bytes as u64, Ordering::Relaxed);
                return Ok(());
            }
            Occurrence::Heard => {}
            Occurrence::Up { session_present, payload_bytes_max } => {
                self.on_up(current, session_present, payload_bytes_max)?;
            }
            Occurrence::Message { topic, payload, retained, packet_id, packet_bytes } => {
                counters.received_bytes.fetch_add(packet_bytes as u64, Ordering::Relaxed);
                let ack = match packet_id {
                    Some(packet_id) => {
                        let order = AckOrder { connection: self.connection, packet_id };
                        Ack::owed(order, self.ack_sender.clone())
                    }
                    None => Ack::not_owed(),
                };
                if packet_id.is_some() || self.queue.has_room() {
                    let incoming = Incoming { topic, payload, retained, ack };
                    self.queue.push(LinkEvent::Message(incoming));
                } else {
                    counters.messages_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Occurrence::Subscribed { answers } => {
                for (filter, refusal) in answers {
                    match refusal {
                        None => self.subscriptions.granted(&filter),
                        Some(code) => {
                            self.queue.push(LinkEvent::SubscriptionRefused { filter, code });
                        }
                    }
                }
            }
            Occurrence::Unsubscribed { filter } => self.subscriptions.gone(&filter),
        }
        current.heard_at = Instant::now();
        Ok(())
    }

    fn on_up(
        &mut self,
        current: &mut Current,
        session_present: bool,
        payload_bytes_max: usize,
    ) -> Result<(), String> {
        current.up_since = Some(Instant::now());
        self.connection += 1;
        self.shared.counters.connects.fetch_add(1, Ordering::Relaxed);
        self.shared.connection.store(self.connection, Ordering::Release);
        self.queue.push(LinkEvent::Up { session_present, payload_bytes_max });
        let renewal = self.subscriptions.renew(session_present);
        for filter in renewal.unsubscribe {
            current.session.request(Request::Unsubscribe { filter })?;
        }
        current.session.request(Request::Subscribe { filters: renewal.again, again: true })?;
        current.session.request(Request::Subscribe { filters: renewal.anew, again: false })
    }

    fn on_command(&mut self, current: &mut Current, command: Command) -> Result<(), String> {
        let is_up = current.up_since.is_some();
        match command {
            Command::Publish { publish, receipt, connection } => {
                // One that was meant for an earlier connection is lost, even if it never left: its
                // owner sends what came before it again first.
                if is_up && connection == self.connection {
                    current.session.request(Request::Publish { publish, receipt })?;
                }
            }
            Command::Subscribe { filters } => {
                let filters: Vec<String> =
                    filters.into_iter().filter(|filter| self.want(filter.clone())).collect();
                if is_up {
                    current.session.request(Request::Subscribe { filters, again: false })?;
                }
            }
            Command::Unsubscribe { filters } => {
                for filter in filters {
                    let known = self.subscriptions.contains(&filter);
                    self.subscriptions.take_back(filter.clone());
                    if is_up && known {
                        current.session.request(Request::Unsubscribe { filter })?;
                    }
                }
            }
            Command::Close { .. } => unreachable!("the caller has dealt with closing"),
        }
        Ok(())
    }

    /// Adds a filter to what is wanted; false if it cannot be.
    fn want(&mut self, filter: String) -> bool {
        let full = self.subscriptions.len() >= self.config.limits.filters_max
            && !self.subscriptions.contains(&filter);
        let fault = full.then_some(Refusal::QuotaExceeded).or_else(|| filter_fault(&filter));
        match fault {
            None => self.subscriptions.add(filter),
            Some(code) => self.queue.push(LinkEvent::SubscriptionRefused { filter, code }),
        }
        fault.is_none()
    }
}

/// Lets the connection go on until `ready`; false if it broke before.
async fn until(current: &mut Current, mut ready: impl FnMut(&Session) -> bool) -> bool {
    while !ready(&current.session) {
        if current.session.next().await.is_err() {
            return false;
        }
    }
    true
}

fn give_event(
    permit: Result<mpsc::Permit<'_, LinkEvent>, mpsc::error::SendError<()>>,
    queue: &mut EventQueue,
) -> Stimulus {
    match (permit, queue.pop()) {
        (Ok(permit), Some(event)) => {
            permit.send(event);
            Stimulus::EventTaken
        }
        (Ok(_), None) => Stimulus::EventTaken,
        (Err(_), _) => Stimulus::OwnerGone,
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes the whole of the wait is taken: back-off must not fail.
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::MAX,
    }
}
