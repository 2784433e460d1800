//! A manager on free ports with keys of its own, devices that speak to it, and its API.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use selvedge_bundle::{
    Bundle, BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, TensorData, digest_of,
    write_statement,
};
use selvedge_fleet::{Config, RunningFleet};
use selvedge_link::{BrokerUrl, Delivery, Link, LinkConfig, LinkEvent, Login, Publish, TlsFiles};
use selvedge_trust::{
    Authority, Blob, BundleStatement, Root, SigningKey, SystemRandom, TrustedRoot, UnixMillis,
};
use selvedge_wire::{DeviceId, Digest, FleetName, Message, Topic, Topics, decode, encode};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

const FAR_FUTURE: UnixMillis = UnixMillis(4_000_000_000_000);

/// A manager, its folders, and the publisher's key.
pub struct Desk {
    pub folder: TempDir,
    pub targets: SigningKey,
    pub root: TrustedRoot,
    pub fleet: Option<RunningFleet>,
}

impl Desk {
    /// Makes keys and starts a manager with a broker of its own.
    pub async fn start() -> Self {
        let mut desk = Self::new();
        desk.start_fleet().await;
        desk
    }

    /// Makes keys alone.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [root, targets, director] = std::array::from_fn(|_| {
            SigningKey::generate(&SystemRandom::new()).expect("keys can be made")
        });
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let document =
            Root::new(1, FAR_FUTURE, &one(&root), &one(&targets), &one(&director)).sign(&[&root]);
        fs::write(folder.path().join("root.json"), &document).expect("the folder can be written");
        fs::write(folder.path().join("director.pk8"), director.to_pkcs8())
            .expect("the folder can be written");
        let root = TrustedRoot::pin(&document).expect("the root is sound");
        Self { folder, targets, root, fleet: None }
    }

    /// The configuration with free ports.
    pub fn config(&self) -> Config {
        let keys = self.folder.path().to_owned();
        Config::on_free_ports(fleet_name(), keys, self.folder.path().join("data"))
    }

    pub async fn start_fleet(&mut self) {
        self.start_with(self.config()).await;
    }

    pub async fn start_with(&mut self, config: Config) {
        self.fleet = Some(RunningFleet::start(config).await.expect("the manager starts"));
    }

    pub async fn stop_fleet(&mut self) {
        self.fleet.take().expect("the manager runs").stop().await;
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "GET {path}: {answer}");
        answer
    }

    /// Status and body of one request.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let content = body.map(|body| ("application/json", body.to_string().into_bytes()));
        self.send(method, path, content).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content: Option<(&'static str, Vec<u8>)>,
    ) -> (u16, Value) {
        let address = self.fleet.as_ref().expect("the manager runs").addresses().http;
        let request =
            ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        let work = move || {
            let config = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(LIMIT))
                .build();
            let agent = ureq::Agent::new_with_config(config);
            let (kind, body) = content.unwrap_or(("", Vec::new()));
            let request =
                if kind.is_empty() { request } else { request.header("content-type", kind) };
            let request = request.body(body).expect("the request is well formed");
            let mut answer = agent.run(request).expect("the manager answers");
            let text = answer.body_mut().read_to_string().expect("the answer is text");
            let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
            (answer.status().as_u16(), json)
        };
        tokio::task::spawn_blocking(work).await.expect("a request does not panic")
    }

    /// Registers a device and connects it.
    pub async fn connect_device(&self, id: &str) -> Device {
        let added = self.add_device(id).await;
        let mut device = Device::connect(self.link_config(&added, id), id);
        device.wait_until_up().await;
        device
    }

    /// What the API says to a new device.
    pub async fn add_device(&self, id: &str) -> Value {
        let (status, added) = self.call("POST", "/api/v1/devices", Some(json!({ "id": id }))).await;
        assert_eq!(status, 201, "{added}");
        added
    }

    pub fn link_config(&self, added: &Value, client_id: &str) -> LinkConfig {
        let text = |key: &str| added[key].as_str().expect("the answer has it").to_owned();
        let url: BrokerUrl = text("broker_url").parse().expect("the manager knows its broker");
        let tls = url.is_tls().then(|| {
            let ca = self.folder.path().join("device-ca.pem");
            fs::write(&ca, text("ca")).expect("the folder can be written");
            TlsFiles { ca, certificate: None, key: None }
        });
        let mut config = LinkConfig::new(url, client_id);
        config.login = Some(Login { user: text("user"), password: text("password") });
        config.tls = tls;
        (config.limits.backoff_first_ms, config.limits.backoff_ms_max) = (20, 200);
        config
    }

    /// Reads `path` until `is` holds.
    pub async fn wait_for(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let read = async {
            loop {
                let answer = self.get(path).await;
                if is(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(LIMIT, read).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} stays {}", self.get(path).await),
        }
    }

    /// A signed bundle as a layout; `seed` makes its model different from others.
    pub fn pack(&self, seed: u8) -> (PathBuf, Bundle) {
        let bundle = builder(seed).build().expect("the bundle is sound");
        let folder = self.folder.path().join(format!("bundle-{seed}"));
        bundle.write(&folder).expect("the folder can be written");
        let statement = self.statement(&bundle).sign(&self.targets);
        write_statement(&folder, &statement).expect("the folder can be written");
        (folder, bundle)
    }

    pub fn statement(&self, bundle: &Bundle) -> BundleStatement {
        let index = ChunkIndex::of(bundle).expect("the bundle is not too large").encode();
        let blob = |digest, len_bytes| Blob { digest, len_bytes };
        BundleStatement {
            name: "example".into(),
            version: "1.0.0".into(),
            manifest: blob(bundle.digest(), bundle.manifest_len()),
            chunk_index: blob(digest_of(&index), index.len() as u64),
            hardware_classes: vec!["*".into()],
            expires: FAR_FUTURE,
        }
    }

    /// Uploads a layout.
    pub async fn publish(&self, folder: &Path) -> (u16, Value) {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", folder).expect("the layout can be read");
        let archive = archive.into_inner().expect("the archive is in memory");
        self.send("POST", "/api/v1/bundles", Some(("application/x-tar", archive))).await
    }

    pub async fn assign(&self, device: &str, bundle: Digest) -> u64 {
        let path = format!("/api/v1/devices/{device}/desired");
        let slots = json!({ "slots": { "main": bundle } });
        let (status, answer) = self.call("PUT", &path, Some(slots)).await;
        assert_eq!(status, 200, "{answer}");
        answer["generation"].as_u64().expect("the answer has a generation")
    }
}

/// A device as far as MQTT sees it.
pub struct Device {
    pub id: DeviceId,
    pub link: Link,
    pub topics: Topics,
    events: mpsc::Receiver<LinkEvent>,
}

impl Device {
    pub fn connect(config: LinkConfig, id: &str) -> Self {
        let (link, events) = Link::spawn(config).expect("the configuration is sound");
        let id = id.parse().expect("the name is well formed");
        Self { id, link, topics: Topics::new(&fleet_name()), events }
    }

    pub async fn wait_until_up(&mut self) {
        self.wait_for("the link", |event| matches!(event, LinkEvent::Up { .. }).then_some(()))
            .await;
    }

    /// Why the link does not come up.
    pub async fn wait_until_refused(&mut self) -> String {
        self.wait_for("a refusal", |event| match event {
            LinkEvent::Down { reason, .. } => Some(reason),
            LinkEvent::Up { .. } => panic!("the broker let it in"),
            _ => None,
        })
        .await
    }

    /// The first event that `found` takes; messages are acknowledged.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(LinkEvent) -> Option<T>,
    ) -> T {
        let wait = async {
            while let Some(event) = self.events.recv().await {
                if let Some(value) = found(event) {
                    return value;
                }
            }
            panic!("the link ended before {what}");
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what} does not come"))
    }

    /// The next message on `topic` that `is` holds for.
    pub async fn message<M: Message>(&mut self, topic: &Topic, is: impl Fn(&M) -> bool) -> M {
        let name = self.topics.name(topic);
        self.wait_for(&name, |event| match event {
            LinkEvent::Message(incoming) => {
                let read = (incoming.topic == name)
                    .then(|| decode::<M>(&incoming.payload).expect("the manager speaks well"));
                incoming.ack.accept();
                read.filter(|message| is(message))
            }
            _ => None,
        })
        .await
    }

    pub async fn subscribe(&self, below_root: &str) {
        let filter = format!("selvedge/1/{}/{below_root}", fleet_name());
        self.link.subscribe(vec![filter]).await.expect("the link is open");
    }

    pub async fn say<M: Message>(&self, topic: Topic, message: &M) -> Delivery {
        self.say_bytes(&self.topics.name(&topic), encode(message)).await
    }

    pub async fn say_bytes(&self, topic: &str, payload: Vec<u8>) -> Delivery {
        let receipt =
            self.link.publish(Publish::new(topic, payload)).await.expect("the link is open");
        timeout(LIMIT, receipt).await.expect("the broker answers")
    }
}

pub fn fleet_name() -> FleetName {
    "demo".parse().expect("the name is well formed")
}

/// A bundle that no runtime could run: the manager never looks into its model.
pub fn builder(seed: u8) -> BundleBuilder {
    let manifest = json!({
        "name": "example", "version": "1.0.0", "task": "tabular-classification",
        "description": "An example.", "license": "CC0-1.0", "labels": ["no", "yes"],
        "sample": {"kind": "row", "columns": [{"name": "a"}, {"name": "b"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 2], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 2], "dtype": "f32"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
    });
    let manifest =
        Manifest::from_json(manifest.to_string().as_bytes()).expect("it keeps every rule");
    let tensor = |name, values| {
        NamedTensor::new(name, vec![1, 2], TensorData::F32(values)).expect("shapes agree")
    };
    let (inputs, outputs) = (vec![tensor("x", vec![0.0, 0.5])], vec![tensor("y", vec![1.0, 2.0])]);
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    // Long enough for several chunks, and not to be compressed away.
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let model = (0..300_000).map(|_| next()).collect();
    BundleBuilder { manifest, model, baseline: None, golden, card: None }
}
