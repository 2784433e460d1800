//! A manager on free ports with keys of its own, devices that speak to it, and its API.

pub mod reference;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use selvedge_bundle::{
    Bundle, BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, Patch, TensorData, digest_of,
};
use selvedge_fleet::{Config, RunningFleet};
use selvedge_link::{BrokerUrl, Delivery, Link, LinkConfig, LinkEvent, Login, Publish, TlsFiles};
use selvedge_trust::{
    Authority, Blob, BundleTarget, DeviceKey, MessageSigner, PatchTarget, Root, SPEC_VERSION,
    SigningKey, SystemRandom, TrustedRoot, UnixMillis, sign_document,
};
use selvedge_wire::{DeviceId, Digest, FleetName, Message, Signed, Topic, Topics, decode, encode};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

const FAR_FUTURE: UnixMillis = UnixMillis(4_000_000_000_000);

/// A manager, its folders, and the keys that are not online.
pub struct Desk {
    pub folder: TempDir,
    pub root_key: SigningKey,
    pub targets: SigningKey,
    pub root: TrustedRoot,
    pub fleet: Option<RunningFleet>,
    /// What the targets metadata names, and its version.
    released: Mutex<(u64, Vec<BundleTarget>)>,
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
        let document = root_document(1, &root, &targets, &director);
        let trusted = TrustedRoot::pin(document.as_bytes()).expect("the root is sound");
        let released = Mutex::new((1, Vec::new()));
        let desk = Self { folder, root_key: root, targets, root: trusted, fleet: None, released };
        for (file, bytes) in [
            ("root.json", document.as_bytes()),
            ("targets.json", targets_document(1, &[], &desk.targets).as_bytes()),
            ("director.pk8", director.to_pkcs8()),
        ] {
            fs::write(desk.folder.path().join(file), bytes).expect("the folder can be written");
        }
        desk
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

    /// The bytes that `path` answers with.
    pub async fn download(&self, path: &str) -> Vec<u8> {
        let address = self.fleet.as_ref().expect("the manager runs").addresses().http;
        let url = format!("http://{address}{path}");
        let work = move || {
            let mut answer = ureq::get(url).call().expect("the manager answers");
            answer.body_mut().read_to_vec().expect("the answer is whole")
        };
        tokio::task::spawn_blocking(work).await.expect("a request does not panic")
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
        let key = new_device_key();
        let added = self.add_device_with(id, &key).await;
        let mut device = Device::connect(self.link_config(&added, id), id, key);
        device.wait_until_up().await;
        device
    }

    /// What the API says to a new device.
    pub async fn add_device(&self, id: &str) -> Value {
        self.add_device_with(id, &new_device_key()).await
    }

    /// What the API says to a new device that signs with `key`.
    pub async fn add_device_with(&self, id: &str, key: &DeviceKey) -> Value {
        let body = json!({ "id": id, "public_key": public_hex(key) });
        let (status, added) = self.call("POST", "/api/v1/devices", Some(body)).await;
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

    /// A bundle as a layout; `seed` makes model and version different from others.
    pub fn pack(&self, seed: u8) -> (PathBuf, Bundle) {
        let bundle = builder(seed).build().expect("the bundle is sound");
        let folder = self.folder.path().join(format!("bundle-{seed}"));
        bundle.write(&folder).expect("the folder can be written");
        (folder, bundle)
    }

    /// Packs, uploads and signs a bundle.
    pub async fn release(&self, seed: u8) -> Bundle {
        let (folder, bundle) = self.pack(seed);
        let (status, answer) = self.publish(&folder).await;
        assert_eq!(status, 201, "{answer}");
        self.sign(bundle_target(&bundle, &[])).await;
        bundle
    }

    /// Adds a target to the targets metadata, in place of an earlier one of its path.
    pub async fn sign(&self, target: BundleTarget) {
        self.change_targets(|targets| {
            targets.retain(|known| known.path() != target.path());
            targets.push(target);
        })
        .await;
    }

    /// Takes a target out of the targets metadata.
    pub async fn revoke(&self, bundle: Digest) {
        self.change_targets(|targets| targets.retain(|known| known.bundle() != bundle)).await;
    }

    async fn change_targets(&self, change: impl FnOnce(&mut Vec<BundleTarget>)) {
        let document = {
            let mut released = self.released.lock().expect("nobody panicked");
            change(&mut released.1);
            released.0 += 1;
            targets_document(released.0, &released.1, &self.targets)
        };
        let (status, answer) = self.propose(json!({ "targets": { "targets": document } })).await;
        assert_eq!(status, 200, "{answer}");
    }

    pub async fn propose(&self, proposal: Value) -> (u16, Value) {
        self.call("POST", "/api/v1/repository", Some(proposal)).await
    }

    /// Uploads a patch.
    pub async fn publish_patch(&self, patch: &Patch) -> (u16, Value) {
        let (source, target) = (patch.source(), patch.target());
        let path = format!("/api/v1/bundles/{target}/patches/{source}");
        self.send("POST", &path, Some(("application/octet-stream", patch.encode()))).await
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
    pub key: DeviceKey,
    pub link: Link,
    pub topics: Topics,
    events: mpsc::Receiver<LinkEvent>,
}

impl Device {
    pub fn connect(config: LinkConfig, id: &str, key: DeviceKey) -> Self {
        let (link, events) = Link::spawn(config).expect("the configuration is sound");
        let id = id.parse().expect("the name is well formed");
        Self { id, key, link, topics: Topics::new(&fleet_name()), events }
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

    /// The next signed message on `topic` whose body `is` holds for.
    pub async fn signed_message<M: Message>(
        &mut self,
        root: &TrustedRoot,
        topic: &Topic,
        is: impl Fn(&M) -> bool,
    ) -> M {
        let name = self.topics.name(topic);
        let body = |signed: &Signed| decode::<M>(&signed.body).expect("the manager speaks well");
        let signed = self
            .message::<Signed>(topic, |signed| {
                assert!(root.verify_message(&name, signed), "the director has signed {name}");
                is(&body(signed))
            })
            .await;
        body(&signed)
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

    /// Signs and sends a message.
    pub async fn say<M: Message>(&self, topic: Topic, message: &M) -> Delivery {
        let name = self.topics.name(&topic);
        self.say_bytes(&name, self.signed(&name, message)).await
    }

    /// A message on `topic` as this device signs it.
    pub fn signed<M: Message>(&self, topic: &str, message: &M) -> Vec<u8> {
        encode(&self.key.sign_message(topic, encode(message)))
    }

    pub async fn say_bytes(&self, topic: &str, payload: Vec<u8>) -> Delivery {
        let receipt =
            self.link.publish(Publish::new(topic, payload)).await.expect("the link is open");
        timeout(LIMIT, receipt).await.expect("the broker answers")
    }
}

pub fn new_device_key() -> DeviceKey {
    DeviceKey::generate(&SystemRandom::new()).expect("keys can be made")
}

/// The public half of a key, as the API takes it.
pub fn public_hex(key: &DeviceKey) -> String {
    let bytes = key.public_key().to_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Root metadata with one key per role.
pub fn root_document(
    version: u64,
    root: &SigningKey,
    targets: &SigningKey,
    director: &SigningKey,
) -> String {
    let one = |key: &SigningKey| Authority::one(key.public_key().clone());
    let document =
        Root::new(version, FAR_FUTURE, &one(root), &one(targets), &one(director)).sign(&[root]);
    String::from_utf8(document).expect("JSON is UTF-8")
}

/// Targets metadata with these targets.
pub fn targets_document(version: u64, targets: &[BundleTarget], key: &SigningKey) -> String {
    let entries: Map<String, Value> =
        targets.iter().map(|target| (target.path(), target.to_entry())).collect();
    let signed = json!({
        "_type": "targets", "spec_version": SPEC_VERSION, "version": version,
        "expires": FAR_FUTURE, "targets": entries,
    });
    String::from_utf8(sign_document(&signed, &[key])).expect("JSON is UTF-8")
}

/// What a publisher signs about a bundle, with patches to it.
pub fn bundle_target(bundle: &Bundle, patches: &[Patch]) -> BundleTarget {
    let index = ChunkIndex::of(bundle).expect("the bundle is not too large").encode();
    let blob = |digest, len: usize| Blob { digest, len_bytes: len as u64 };
    let patch = |patch: &Patch| PatchTarget {
        source: patch.source(),
        index: blob(patch.index().digest(), patch.index().encode().len()),
        len_bytes: patch.index().len_bytes(),
    };
    BundleTarget {
        name: bundle.manifest().name.to_string(),
        version: bundle.manifest().version.to_string(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: blob(digest_of(&index), index.len()),
        hardware_classes: vec!["*".into()],
        patches: patches.iter().map(patch).collect(),
        signature: None,
    }
}

pub fn fleet_name() -> FleetName {
    "demo".parse().expect("the name is well formed")
}

/// A bundle that no runtime could run: the manager never looks into its model.
pub fn builder(seed: u8) -> BundleBuilder {
    let manifest = json!({
        "name": "example", "version": format!("1.0.{seed}"), "task": "tabular-classification",
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
    BundleBuilder { manifest, model, program: None, baseline: None, golden, card: None }
}
