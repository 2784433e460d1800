//! Starts the manager, keeps it running, and stops it in order.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::interval};

use selvedge_link::{BrokerUrl, Link, LinkConfig, Login};
use selvedge_wire::Topics;

use crate::{
    Error, api,
    broker::{MANAGER, RunningBroker},
    config::{Broker, Config},
    director::Director,
    downlink::Downlink,
    error::one_line,
    ingest::{Ingest, IngestState},
    live::Live,
    manager::{Access, Manager},
    registry::Registry,
    repository::Repository,
    stop::{Stop, Stopper},
    store::Store,
};

/// The file in the data folder that says where the manager listens, while it does.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// How often it is looked whether a desired state, the timestamp or the snapshot is to be signed again.
const RENEW_EVERY: Duration = Duration::from_secs(60 * 60);

/// Messages that the broker may send ahead of our acknowledgements.
const UNACKED_MAX: u16 = 256;

/// The link to the broker in this process is made again quickly.
const EMBEDDED_BACKOFF_MS: (u64, u64) = (50, 1000);

/// One elsewhere is not stormed by a single manager, and while it is away nothing is stored.
const EXTERNAL_BACKOFF_MS: (u64, u64) = (1000, 10_000);

/// Where the manager listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The API and the dashboard.
    pub http: SocketAddr,
    /// The broker's URL, as devices are told it.
    pub broker: String,
}

/// A manager that runs until it is stopped.
pub struct RunningFleet {
    addresses: Addresses,
    manager: Arc<Manager>,
    link: Link,
    stopper: Stopper,
    tasks: Vec<JoinHandle<()>>,
    data: std::path::PathBuf,
    /// Held as long as the manager runs, so that no other uses the folder.
    _lock: File,
}

/// Runs the manager until `shutdown` is done.
///
/// # Errors
/// [`Error`] if it cannot start.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let fleet = RunningFleet::start(config).await?;
    tracing::info!("dashboard and API on http://{}", fleet.addresses.http);
    tracing::info!("devices connect to {}", fleet.addresses.broker);
    shutdown.await;
    tracing::info!("stopping");
    fleet.stop().await;
    Ok(())
}

impl RunningFleet {
    /// Starts the manager; when this returns it listens.
    ///
    /// # Errors
    /// [`Error`] with what is in the way: a file, an address, another manager.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let lock = take_folder(&config.data)?;
        let registry = Arc::new(Registry::open(&config.data, config.limits)?);
        let store = Store::open(&config.data.join("fleet.db"), config.limits).await?;
        let director = |office| Director::new(office, config.name.clone());
        let now_ms = (config.clock)();
        let (repository, director) =
            Repository::open(&config.keys, config.expiry, &store, director, now_ms).await?;
        if repository.state().root().root().expires().0 <= now_ms {
            tracing::error!(
                "the root has expired: devices take nothing until a newer one is proposed"
            );
        }
        repository.resign(&store, &director, now_ms).await?;
        keep_what_lacks(&store, &registry).await?;
        let http = listen(config.http).await?;
        let (access, link_config) = open_broker(&config, &store).await?;
        let (link, events) = Link::spawn(link_config)?;

        let (stopper, stop) = Stop::new();
        let live = Live::new(config.limits.listeners_max, stop.clone());
        let (downlink, worker) = Downlink::new(
            store.clone(),
            registry.clone(),
            director.clone(),
            config.limits.retained_bytes_max,
        );
        let (state, ingest_state) = watch::channel(IngestState::default());
        let ingest = Ingest {
            store: store.clone(),
            topics: Topics::new(&config.name),
            downlink: downlink.clone(),
            live: live.clone(),
            limits: config.limits,
            clock: config.clock,
            state: Arc::new(state),
        };
        let addresses = Addresses { http: http.1, broker: access.broker_url.clone() };
        let manager = Arc::new(Manager {
            store,
            director,
            repository,
            registry,
            downlink,
            live,
            limits: config.limits,
            access,
            ingest: ingest_state,
            clock: config.clock,
        });
        let tasks = vec![
            tokio::spawn(ingest.run(events, stop.clone())),
            tokio::spawn(worker.run(link.clone(), stop.clone())),
            tokio::spawn(serve(http.0, manager.clone(), stop.clone())),
            tokio::spawn(renew(manager.clone(), stop)),
        ];
        write_addresses(&config.data, &addresses)?;
        Ok(Self { addresses, manager, link, stopper, tasks, data: config.data, _lock: lock })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Stops taking anything, stores what is under way, and ends.
    pub async fn stop(self) {
        if let Err(error) = fs::remove_file(self.data.join(ADDRESSES_FILE)) {
            tracing::warn!("cannot remove {ADDRESSES_FILE}: {error}");
        }
        self.stopper.say();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!("a part of the manager failed: {error}");
            }
        }
        self.link.close(None).await;
        self.manager.store.close().await;
        if let Some(manager) = Arc::into_inner(self.manager)
            && let Some(broker) = manager.access.embedded
        {
            broker.stop().await;
        }
    }
}

/// Makes the data folder, readable by its owner alone, and makes sure that nobody else uses it.
fn take_folder(data: &Path) -> Result<File, Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(Error::io("make the folder", data))?;
    let path = data.join("lock");
    let lock = File::create(&path).map_err(Error::io("create", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let data = data.display();
            return Err(Error::Config(format!(
                "another manager uses {data}; choose another --data"
            )));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    match fs::remove_file(data.join(ADDRESSES_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", data.join(ADDRESSES_FILE))(error))
        }
        _ => Ok(lock),
    }
}

/// A bundle that was registered by an earlier version is looked at once; one that cannot be read is not offered.
async fn keep_what_lacks(store: &Store, registry: &Registry) -> Result<(), Error> {
    for bundle in store.bundles_that_lack().await? {
        match registry.stock(bundle).await {
            Ok(stock) => store.keep_stocked(&bundle, &stock.stocked()).await?,
            Err(error) => tracing::error!("cannot read {bundle}: {}", one_line(&error)),
        }
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { what: "HTTP", address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let failed = |source| Error::Listen { what: "HTTP", address, source };
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Starts the broker, if it runs in this process, and says how to reach it.
async fn open_broker(config: &Config, store: &Store) -> Result<(Access, LinkConfig), Error> {
    let ca = match &config.broker_ca {
        Some(path) => Some(fs::read_to_string(path).map_err(Error::io("read", path))?),
        None => None,
    };
    let advertised = config.advertise.as_ref().map(BrokerUrl::to_string);
    let up = Topics::new(&config.name).up_filter();
    let (url, mut link, embedded) = match &config.broker {
        Broker::Embedded(embedded) => {
            let broker = embedded.start(&config.name, store.clone(), &config.limits).await?;
            let link = embedded_link(&broker);
            (format!("mqtt://{}", broker.address), link, Some(broker))
        }
        Broker::External { url, login, tls } => {
            let mut link = LinkConfig::new(url.clone(), format!("{MANAGER}-{}", config.name));
            link.login.clone_from(login);
            link.tls.clone_from(tls);
            (link.limits.backoff_first_ms, link.limits.backoff_ms_max) = EXTERNAL_BACKOFF_MS;
            (url.to_string(), link, None)
        }
    };
    link.limits.unacked_max = UNACKED_MAX;
    link.subscriptions = vec![up];
    Ok((Access { broker_url: advertised.unwrap_or(url), ca, embedded }, link))
}

fn embedded_link(broker: &RunningBroker) -> LinkConfig {
    let address = broker.manager_address;
    let url = BrokerUrl::mqtt(address.ip().to_string(), address.port());
    let mut link = LinkConfig::new(url, MANAGER);
    let password = broker.manager_password.clone();
    link.login = Some(Login { user: MANAGER.into(), password });
    (link.limits.backoff_first_ms, link.limits.backoff_ms_max) = EMBEDDED_BACKOFF_MS;
    link
}

async fn serve(listener: TcpListener, manager: Arc<Manager>, mut stop: Stop) {
    let stopped = async move { stop.said().await };
    let served = axum::serve(listener, api::router(manager)).with_graceful_shutdown(stopped).await;
    if let Err(error) = served {
        tracing::error!("the API has ended: {error}");
    }
}

async fn renew(manager: Arc<Manager>, mut stop: Stop) {
    let mut hours = interval(RENEW_EVERY);
    loop {
        tokio::select! {
            _ = hours.tick() => {
                if let Err(error) = manager.renew().await {
                    tracing::error!("cannot sign again what is about to expire: {}", one_line(&error));
                }
            }
            () = stop.said() => return,
        }
    }
}

/// Readers see the whole file or none.
fn write_addresses(data: &Path, addresses: &Addresses) -> Result<(), Error> {
    let (path, aside) = (data.join(ADDRESSES_FILE), data.join("addresses.json.new"));
    let text = serde_json::to_vec_pretty(addresses).expect("addresses are JSON");
    fs::write(&aside, text).map_err(Error::io("write", &aside))?;
    fs::rename(&aside, &path).map_err(Error::io("write", &path))
}
