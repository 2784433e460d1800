//! The broker in process: for one machine, tests and the demo.
//!
//! A client is the device whose password it gives, and nobody else: its client id must be its user
//! name, so that no device can take over another's session. It may publish on its own topics of the
//! interface and read what is addressed to it or to all; only the manager's own login may do more.
//! All that the broker holds is in memory: the manager publishes again what should be retained.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use mqtt5::{
    broker::{
        AuthProvider, AuthResult, BrokerConfig, BrokerShutdownHandle, MqttBroker,
        StorageBackendType, StorageConfig, config::TlsConfig, router::MessageRouter,
    },
    packet::connect::ConnectPacket,
    protocol::v5::reason_codes::ReasonCode,
};
use tokio::task::JoinHandle;

use selvedge_wire::{DeviceId, FleetName, PAYLOAD_BYTES_MAX, Topic, Topics, topic_root};

use crate::{
    Error, Limits,
    secret::{PasswordHash, new_password},
    store::Store,
};

/// The user name and client id of the manager itself; no device may have it.
pub const MANAGER: &str = "fleet-manager";

/// Room for a packet's header, topic and properties around the largest payload.
const PACKET_OVERHEAD_BYTES_MAX: usize = 4096;

/// How long the broker keeps the session of a client that is away.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the embedded broker listens.
#[derive(Clone, Debug)]
pub struct EmbeddedBroker {
    /// The address for devices; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The server's certificate and key, for TLS.
    pub tls: Option<ServerTls>,
}

/// PEM files of a server.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A broker that runs until it is dropped or stopped.
pub struct RunningBroker {
    /// Where devices connect.
    pub address: SocketAddr,
    /// Where the manager connects, without TLS: always on loopback.
    pub manager_address: SocketAddr,
    /// The manager's password, made for this run.
    pub manager_password: String,
    router: Arc<MessageRouter>,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<Result<(), String>>,
}

impl EmbeddedBroker {
    /// Starts the broker; devices can connect when this returns.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken; [`Error::Broker`] for files that cannot be used.
    pub async fn start(
        &self,
        fleet: &FleetName,
        store: Store,
        limits: &Limits,
    ) -> Result<RunningBroker, Error> {
        check_free(self.listen)?;
        let (manager_password, manager) = new_password();
        let gate = Gate { topics: Topics::new(fleet), root: topic_root(fleet), manager, store };
        let mut broker = MqttBroker::with_config(self.config(limits))
            .await
            .map_err(|error| Error::Broker(format!("does not start: {error}")))?
            .with_auth_provider(Arc::new(gate));
        let plain = broker.local_addr().ok_or_else(|| lost_address(self.listen))?;
        let address = match self.tls {
            Some(_) => broker.tls_local_addr().ok_or_else(|| lost_address(self.listen))?,
            None => plain,
        };
        let (router, shutdown) = (broker.router(), broker.shutdown_handle());
        let mut ready = broker.ready_receiver();
        let task =
            tokio::spawn(async move { broker.run().await.map_err(|error| error.to_string()) });
        if ready.wait_for(|ready| *ready).await.is_err() {
            let reason = match task.await {
                Ok(Err(reason)) => reason,
                Ok(Ok(())) => "it was stopped".into(),
                Err(error) => error.to_string(),
            };
            return Err(Error::Broker(format!("does not start: {reason}")));
        }
        Ok(RunningBroker {
            address,
            manager_address: plain,
            manager_password,
            router,
            shutdown,
            task,
        })
    }

    fn config(&self, limits: &Limits) -> BrokerConfig {
        let storage = StorageConfig::new()
            .with_backend(StorageBackendType::Memory)
            // Without this the broker keeps no sessions at all, not even in memory.
            .with_persistence(true)
            .with_max_queued_messages_per_client(limits.queued_messages_max)
            .with_max_queued_bytes_per_client(limits.queued_bytes_max);
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let plain = if self.tls.is_some() { loopback } else { self.listen };
        let mut config = BrokerConfig::new()
            .with_bind_address(plain)
            .with_max_clients(limits.clients_max)
            .with_session_expiry(SESSION_EXPIRY)
            .with_max_packet_size(PAYLOAD_BYTES_MAX + PACKET_OVERHEAD_BYTES_MAX)
            .with_maximum_qos(1)
            .with_max_subscriptions_per_client(limits.subscriptions_max)
            .with_sys_topics_enabled(false)
            .with_storage(storage);
        if let Some(tls) = &self.tls {
            let files = TlsConfig::new(tls.certificate.clone(), tls.key.clone());
            config = config.with_tls(files.with_bind_address(self.listen));
        }
        config
    }
}

impl RunningBroker {
    /// Ends the session of a device that is no longer registered.
    pub async fn disconnect(&self, device: &DeviceId) {
        self.router.disconnect_client(device.as_str()).await;
    }

    /// Stops the broker and waits until it has let go of its clients.
    pub async fn stop(self) {
        self.shutdown.shutdown();
        if let Ok(Err(reason)) = self.task.await {
            tracing::warn!("the embedded broker ended: {reason}");
        }
    }
}

/// Lets in who gives a password, and keeps each to its own topics.
struct Gate {
    topics: Topics,
    root: String,
    manager: PasswordHash,
    store: Store,
}

impl Gate {
    async fn admit(&self, connect: &ConnectPacket) -> AuthResult {
        let (Some(user), Some(password)) = (&connect.username, &connect.password) else {
            return AuthResult::fail(ReasonCode::BadUsernameOrPassword);
        };
        if *user != connect.client_id {
            return AuthResult::fail(ReasonCode::ClientIdentifierNotValid);
        }
        let kept = if user == MANAGER {
            Some(self.manager.clone())
        } else {
            match self.password_of(user).await {
                Ok(kept) => kept,
                Err(error) => {
                    tracing::error!("cannot check a login: {}", crate::one_line(&error));
                    return AuthResult::fail(ReasonCode::ServerUnavailable);
                }
            }
        };
        match kept {
            Some(kept) if kept.admits(password) => AuthResult::success_with_user(user),
            _ => AuthResult::fail(ReasonCode::BadUsernameOrPassword),
        }
    }

    async fn password_of(&self, user: &str) -> Result<Option<PasswordHash>, Error> {
        match user.parse::<DeviceId>() {
            Ok(device) => self.store.password(&device).await,
            Err(_) => Ok(None),
        }
    }

    fn may_publish(&self, user: &str, topic: &str) -> bool {
        if user == MANAGER {
            return topic.starts_with(&self.root);
        }
        let sender = match self.topics.parse(topic) {
            Ok(Topic::Status(device) | Topic::State(device) | Topic::Health(device)) => device,
            Ok(Topic::Stream(device, _)) => device,
            Ok(
                Topic::Desired(_)
                | Topic::Stored(_)
                | Topic::Captures(_)
                | Topic::Bundle(_)
                | Topic::Chunk(_)
                | Topic::Metadata(_),
            )
            | Err(_) => return false,
        };
        sender.as_str() == user
    }

    fn may_subscribe(&self, user: &str, filter: &str) -> bool {
        let below_root = filter.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/'));
        let Some(below_root) = below_root else { return false };
        if user == MANAGER {
            return true;
        }
        // The part that is compared has no wildcard, so all that the filter matches begins with it.
        let own = below_root.strip_prefix("down/").and_then(|rest| rest.strip_prefix(user));
        below_root.starts_with("all/") || own.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl AuthProvider for Gate {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        Box::pin(async { Ok(self.admit(connect).await) })
    }

    fn authorize_publish<'a>(
        &'a self,
        _: &str,
        user: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let may = user.is_some_and(|user| self.may_publish(user, topic));
        Box::pin(async move { may })
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _: &str,
        user: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let may = user.is_some_and(|user| self.may_subscribe(user, filter));
        Box::pin(async move { may })
    }
}

/// The broker's own message about a taken address has several lines; this one has one.
fn check_free(address: SocketAddr) -> Result<(), Error> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Listen { what: "MQTT", address, source }),
    }
}

fn lost_address(address: SocketAddr) -> Error {
    Error::Broker(format!("does not listen on {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::open_store;

    async fn gate() -> (tempfile::TempDir, Gate) {
        let (folder, store) = open_store(&["a"]).await;
        let fleet = "demo".parse().expect("the name is well formed");
        let (_, manager) = new_password();
        (folder, Gate { topics: Topics::new(&fleet), root: topic_root(&fleet), manager, store })
    }

    #[tokio::test]
    async fn a_device_writes_its_own_topics_and_reads_what_is_for_it() {
        let (_folder, gate) = gate().await;
        let digest = "ab".repeat(32);
        let publish = [
            ("up/a/status", true),
            ("up/a/results", true),
            ("up/a/anything", false),
            ("up/ab/status", false),
            ("up/b/status", false),
            ("down/a/desired", false),
            ("down/b/desired", false),
            (&format!("all/chunks/{digest}"), false),
            ("all/metadata/timestamp.json", false),
        ];
        let subscribe = [
            ("down/a/#", true),
            ("down/a/desired", true),
            ("all/#", true),
            (&format!("all/chunks/{digest}"), true),
            ("down/ab/#", false),
            ("down/b/desired", false),
            ("down/+/desired", false),
            ("down/#", false),
            ("+/a/desired", false),
            ("up/a/#", false),
            ("#", false),
        ];
        let topic = |below: &str| format!("selvedge/1/demo/{below}");
        let wrong: Vec<_> = publish
            .iter()
            .filter(|(below, may)| gate.may_publish("a", &topic(below)) != *may)
            .chain(subscribe.iter().filter(|(f, may)| gate.may_subscribe("a", &topic(f)) != *may))
            .collect();
        assert_eq!(wrong, [] as [&(&str, bool); 0]);
        for foreign in ["selvedge/1/other/down/a/#", "$share/g/selvedge/1/demo/all/#", "#"] {
            assert!(!gate.may_subscribe("a", foreign), "{foreign}");
        }
        assert!(gate.may_subscribe(MANAGER, &topic("#")));
        assert!(!gate.may_subscribe(MANAGER, "#"), "other fleets' topics are not its business");
    }
}
