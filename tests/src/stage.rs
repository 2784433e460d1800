//! A stage for tests of the whole: a broker, a fleet and agents as real processes.
//!
//! The broker is that of the fleet's process, with or without TLS, or a mosquitto from the reference
//! configuration with client certificates. Every wait looks at the fleet's API again and again, and
//! ends. Everything ends with the stage; one that ends in a panic prints what its processes said.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use selvedge_bundle::Bundle;
use selvedge_link::{BrokerUrl, LinkConfig, Login, Publish, TlsFiles};
use selvedge_trust::{
    BundleTarget, DeviceKey, MessageSigner, SigningKey, SystemRandom, sign_document,
};
use selvedge_wire::{DeviceId, Digest, Topic, Topics, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    binary::wait_for,
    certificates::{CertificateAuthority, CertificateFiles},
    client::Client,
    keys::{Keys, fleet_name, target, targets_metadata},
    mosquitto::{FLEET_USER, Mosquitto},
    process::Process,
    uplink::Uplink,
};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often a port that was free may turn out to be taken.
const PORTS_TRIED_MAX: usize = 5;

/// How many lines of each log a failure prints.
const LINES_PRINTED: usize = 60;

/// The name of an account at a mosquitto that may do what the fleet's may. Whoever owns the broker can
/// make one.
pub const THIEF: &str = "thief";

/// A broker, a fleet and agents.
#[derive(Debug)]
pub struct Stage {
    // Processes end before their folder goes.
    agents: BTreeMap<String, Process>,
    fleet: Option<Process>,
    broker: Broker,
    api: Option<Api>,
    keys: Keys,
    folder: TempDir,
}

#[derive(Debug)]
enum Broker {
    Embedded { port: u16, tls: Option<ServerTls> },
    Mosquitto(Box<Mosquitto>),
}

#[derive(Debug)]
struct ServerTls {
    ca: PathBuf,
    server: CertificateFiles,
}

impl Stage {
    /// A fleet with the broker in its process, on loopback without TLS.
    ///
    /// # Panics
    /// If it does not start.
    pub fn embedded() -> Self {
        Self::start(new_folder(), Broker::Embedded { port: 0, tls: None })
    }

    /// A fleet with the broker in its process, over TLS.
    ///
    /// # Panics
    /// If it does not start.
    pub fn embedded_tls() -> Self {
        let folder = new_folder();
        let authority = CertificateAuthority::new(folder.path());
        let server = authority.sign_server("broker");
        let tls = Some(ServerTls { ca: authority.certificate(), server });
        Self::start(folder, Broker::Embedded { port: 0, tls })
    }

    /// A fleet in front of a mosquitto from the reference configuration, which has one account more
    /// than there should be: [`THIEF`]. Nothing if mosquitto is not installed.
    ///
    /// # Panics
    /// If it does not start, or is not installed and `SELVEDGE_REQUIRE_TOOLS` is `1`.
    pub fn mosquitto() -> Option<Self> {
        let mut mosquitto = Mosquitto::reference("")?;
        let acl = mosquitto.folder().join("acl");
        let mut rules = fs::read_to_string(&acl).expect("the reference has an access list");
        rules.push_str(&format!("\nuser {THIEF}\ntopic readwrite selvedge/1/{}/#\n", fleet_name()));
        fs::write(&acl, rules).expect("the folder of the test can be written");
        mosquitto.kill();
        mosquitto.restart();
        Some(Self::start(new_folder(), Broker::Mosquitto(Box::new(mosquitto))))
    }

    fn start(folder: TempDir, broker: Broker) -> Self {
        let keys = Keys::new(&folder.path().join("keys"));
        let (agents, fleet, api) = (BTreeMap::new(), None, None);
        let mut stage = Self { agents, fleet, broker, api, keys, folder };
        for _ in 0..PORTS_TRIED_MAX {
            if let Broker::Embedded { port, .. } = &mut stage.broker {
                *port = free_port();
            }
            if stage.try_start_fleet() {
                return stage;
            }
        }
        panic!("the fleet does not start");
    }

    /// The stage's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The keys of the fleet.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The fleet's API.
    ///
    /// # Panics
    /// If the fleet does not run.
    pub fn api(&self) -> &Api {
        self.api.as_ref().expect("the fleet runs")
    }

    /// What the fleet has said.
    pub fn fleet_said(&self) -> String {
        fs::read_to_string(self.log("fleet")).unwrap_or_default()
    }

    /// What a device's agent has said.
    pub fn agent_said(&self, device: &str) -> String {
        fs::read_to_string(self.log(device)).unwrap_or_default()
    }
}

/// The fleet and the broker.
impl Stage {
    /// Starts the fleet again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_fleet(&mut self) {
        assert!(self.try_start_fleet(), "the fleet does not start again");
    }

    /// Ends the fleet as a power cut would.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill_fleet(&mut self) {
        self.api = None;
        self.fleet.take().expect("the fleet runs").kill();
    }

    /// Ends the broker as a power cut would: with it goes the fleet, if it is the same process. `forget`
    /// deletes what it has saved, of which the broker in the fleet's process has nothing ever.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill_broker(&mut self, forget: bool) {
        match &mut self.broker {
            Broker::Embedded { .. } => self.kill_fleet(),
            Broker::Mosquitto(mosquitto) => {
                mosquitto.kill();
                if forget {
                    mosquitto.forget();
                }
            }
        }
    }

    /// Starts the broker again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_broker(&mut self) {
        match &mut self.broker {
            Broker::Embedded { .. } => self.start_fleet(),
            Broker::Mosquitto(mosquitto) => mosquitto.restart(),
        }
    }

    fn try_start_fleet(&mut self) -> bool {
        let addresses = self.folder().join("fleet/addresses.json");
        // One that was killed has left it behind.
        let _ = fs::remove_file(&addresses);
        let mut fleet = Process::start(self.fleet_arguments(), &self.log("fleet"));
        let http = wait_for("the fleet", PATIENCE, || {
            if !fleet.runs() {
                return Some(None);
            }
            let bytes = fs::read(&addresses).ok()?;
            let addresses: Value = serde_json::from_slice(&bytes).expect("it writes JSON");
            let http = addresses["http"].as_str().expect("one of the addresses is for HTTP");
            Some(Some(http.parse::<SocketAddr>().expect("it is an address")))
        });
        let Some(http) = http else { return false };
        (self.fleet, self.api) = (Some(fleet), Some(Api::new(http)));
        true
    }

    fn fleet_arguments(&self) -> Vec<OsString> {
        let name = fleet_name();
        let mut arguments: Vec<OsString> =
            vec!["fleet".into(), "--name".into(), name.as_str().into()];
        let mut say = |name: &str, value: &dyn AsRef<OsStr>| {
            arguments.extend([name.into(), value.as_ref().to_owned()]);
        };
        say("--keys", &self.keys.folder());
        say("--data", &self.folder().join("fleet"));
        say("--http", &"127.0.0.1:0");
        match &self.broker {
            Broker::Embedded { port, tls } => {
                say("--broker-listen", &format!("127.0.0.1:{port}"));
                if let Some(tls) = tls {
                    say("--broker-certificate", &tls.server.certificate);
                    say("--broker-key", &tls.server.key);
                    say("--broker-ca", &tls.ca);
                    say("--advertise", &self.broker.url().to_string());
                }
            }
            Broker::Mosquitto(mosquitto) => {
                let files = mosquitto.client_files(FLEET_USER);
                say("--broker", &mosquitto.url().to_string());
                say("--broker-ca", &files.ca);
                say("--broker-certificate", &files.certificate.expect("it was just made"));
                say("--broker-key", &files.key.expect("it was just made"));
            }
        }
        arguments
    }
}

impl Broker {
    fn url(&self) -> BrokerUrl {
        match self {
            Self::Embedded { port, tls: Some(_) } => BrokerUrl::mqtts("localhost", *port),
            Self::Embedded { port, tls: None } => BrokerUrl::mqtt("127.0.0.1", *port),
            Self::Mosquitto(mosquitto) => mosquitto.url(),
        }
    }
}

/// Devices and their agents.
impl Stage {
    /// Registers a device with a new key, and gives what it connects with.
    ///
    /// # Panics
    /// If the fleet does not take it.
    pub fn add_device(&self, device: &str) -> LinkConfig {
        let key = DeviceKey::generate(&SystemRandom::new()).expect("the system has random bytes");
        fs::create_dir_all(self.device_folder(device))
            .expect("the folder of the test can be written");
        write_private(&self.device_key_file(device), key.to_pkcs8());
        let body = json!({ "id": device, "public_key": key.public_key().to_hex() });
        let added = match self.api().call("POST", "/api/v1/devices", Some(&body)) {
            Some((201, added)) => added,
            other => panic!("{device} was not added: {other:?}"),
        };
        let mut config = LinkConfig::new(self.broker.url(), device);
        match &self.broker {
            Broker::Embedded { tls, .. } => {
                let text = |key: &str| added[key].as_str().expect("it is said").to_owned();
                config.login = Some(Login { user: text("user"), password: text("password") });
                let ca_only =
                    |tls: &ServerTls| TlsFiles { ca: tls.ca.clone(), certificate: None, key: None };
                config.tls = tls.as_ref().map(ca_only);
            }
            Broker::Mosquitto(mosquitto) => config.tls = Some(mosquitto.client_files(device)),
        }
        config
    }

    /// Registers a device, writes its configuration with `tables` at the end, and starts its agent.
    ///
    /// # Panics
    /// If one of that fails.
    pub fn add_agent(&mut self, device: &str, tables: &str) {
        let link = self.add_device(device);
        self.add_agent_with(device, &link, tables);
    }

    /// The same for a device whose way to the broker the test can cut.
    ///
    /// # Panics
    /// If one of that fails.
    pub fn add_agent_behind_uplink(&mut self, device: &str, tables: &str) -> Uplink {
        let mut link = self.add_device(device);
        let uplink = Uplink::to(link.url.port());
        link.url = match link.url.is_tls() {
            true => BrokerUrl::mqtts("localhost", uplink.port()),
            false => BrokerUrl::mqtt("127.0.0.1", uplink.port()),
        };
        self.add_agent_with(device, &link, tables);
        uplink
    }

    fn add_agent_with(&mut self, device: &str, link: &LinkConfig, tables: &str) {
        let folder = self.device_folder(device);
        write_config(&folder, device, &self.keys.root_file(), link, tables);
        self.start_agent(device);
    }

    /// The key of a device that was added.
    ///
    /// # Panics
    /// If there is none.
    pub fn device_key(&self, device: &str) -> DeviceKey {
        let pkcs8 = fs::read(self.device_key_file(device)).expect("the device was added");
        DeviceKey::from_pkcs8(&pkcs8).expect("the test has written it")
    }

    /// A message on `topic` as a device that was added sends it.
    ///
    /// # Panics
    /// If the device was not added.
    pub fn said_by(&self, device: &str, topic: &Topic, body: Vec<u8>) -> Publish {
        let name = topic_name(topic);
        let signed = self.device_key(device).sign_message(&name, body);
        Publish::new(name, encode(&signed))
    }

    /// A message on `topic` as the fleet sends it, signed by its director.
    pub fn said_by_fleet(&self, topic: &Topic, body: Vec<u8>) -> Publish {
        let name = topic_name(topic);
        let signed = self.keys.director.sign_message(&name, body);
        Publish::new(name, encode(&signed))
    }

    fn device_key_file(&self, device: &str) -> PathBuf {
        self.device_folder(device).join("device.pk8")
    }

    /// Starts a device's agent again.
    ///
    /// # Panics
    /// If the device has no configuration.
    pub fn start_agent(&mut self, device: &str) {
        let config = self.device_folder(device).join("agent.toml");
        assert!(config.is_file(), "{device} was added with a configuration");
        let arguments: [OsString; 3] = ["agent".into(), "--config".into(), config.into()];
        let agent = Process::start(arguments, &self.log(device));
        self.agents.insert(device.to_owned(), agent);
    }

    /// A device's agent.
    ///
    /// # Panics
    /// If it does not run.
    pub fn agent(&self, device: &str) -> &Process {
        self.agents.get(device).expect("the agent was started")
    }

    /// A device's agent, to be ended.
    ///
    /// # Panics
    /// If it does not run.
    pub fn take_agent(&mut self, device: &str) -> Process {
        self.agents.remove(device).expect("the agent was started")
    }

    /// The folder with a device's configuration; its state is in `state`.
    pub fn device_folder(&self, device: &str) -> PathBuf {
        self.folder().join(device)
    }

    /// Whoever reads and writes as the fleet does, without being it.
    ///
    /// # Panics
    /// If the broker is not a mosquitto.
    pub fn thief(&self) -> Client {
        let Broker::Mosquitto(mosquitto) = &self.broker else {
            panic!("nobody can make an account at the broker in the fleet's process");
        };
        let mut config = LinkConfig::new(mosquitto.url(), THIEF);
        config.tls = Some(mosquitto.client_files(THIEF));
        Client::connect(config)
    }
}

/// Bundles.
impl Stage {
    /// Uploads a bundle and makes it a target, as its publisher: status and answer.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn upload(&self, bundle: &Bundle) -> (u16, Value) {
        match self.upload_layout(bundle) {
            (201, _) => self.add_target(&target(bundle), &self.keys.targets),
            refused => refused,
        }
    }

    /// Uploads a bundle's layout alone: status and answer.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn upload_layout(&self, bundle: &Bundle) -> (u16, Value) {
        let content = Some(("application/x-tar", archive(bundle)));
        self.api().send("POST", "/api/v1/bundles", content).expect("the fleet answers")
    }

    /// Adds a target to the repository, signed with any key: status and answer.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn add_target(&self, target: &BundleTarget, key: &SigningKey) -> (u16, Value) {
        let (version, mut entries) = self.targets();
        entries.insert(target.path(), target.to_entry());
        self.propose_targets(&targets_metadata(version + 1, &entries), key)
    }

    /// Takes a target away again.
    ///
    /// # Panics
    /// If the fleet does not take that.
    pub fn revoke(&self, path: &str) {
        let (version, mut entries) = self.targets();
        assert!(entries.remove(path).is_some(), "{path} is a target");
        let metadata = targets_metadata(version + 1, &entries);
        let (status, answer) = self.propose_targets(&metadata, &self.keys.targets);
        assert_eq!(status, 200, "{answer}");
    }

    /// The version of the targets metadata, and its entries.
    fn targets(&self) -> (u64, BTreeMap<String, Value>) {
        let repository = self.api().get("/api/v1/repository");
        let roles = repository["targets"].as_array().expect("it lists roles");
        let top = roles.iter().find(|role| role["role"] == "targets").expect("there is the role");
        let version = top["version"].as_u64().expect("it has a version");
        let document = self.api().get(&format!("/tuf/{version}.targets.json"));
        let entries = document["signed"]["targets"].clone();
        (version, serde_json::from_value(entries).expect("they are a map"))
    }

    fn propose_targets(&self, metadata: &Value, key: &SigningKey) -> (u16, Value) {
        let document = String::from_utf8(sign_document(metadata, &[key])).expect("JSON is UTF-8");
        let proposal = json!({ "roots": [], "targets": { "targets": document } });
        let proposed = self.api().call("POST", "/api/v1/repository", Some(&proposal));
        proposed.expect("the fleet answers")
    }

    /// Uploads a bundle that the fleet must take.
    ///
    /// # Panics
    /// If it does not.
    pub fn publish(&self, bundle: &Bundle) -> Digest {
        let (status, answer) = self.upload(bundle);
        assert_eq!(status, 200, "{answer}");
        bundle.digest()
    }

    /// Says that a device should run a bundle in the slot `main`; the generation of that wish.
    ///
    /// # Panics
    /// If the fleet does not take it.
    pub fn assign(&self, device: &str, bundle: Digest) -> u64 {
        self.assign_slots(device, &[("main", bundle)])
    }

    /// Says what a device should run; the generation of that wish.
    ///
    /// # Panics
    /// If the fleet does not take it.
    pub fn assign_slots(&self, device: &str, slots: &[(&str, Digest)]) -> u64 {
        let slots: BTreeMap<&str, Digest> = slots.iter().copied().collect();
        let path = format!("/api/v1/devices/{device}/desired");
        match self.api().call("PUT", &path, Some(&json!({ "slots": slots }))) {
            Some((200, answer)) => answer["generation"].as_u64().expect("it has a generation"),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Says that a device should run a bundle, and waits until it says that it does.
    ///
    /// # Panics
    /// If it does not.
    pub fn deploy(&self, device: &str, bundle: Digest) {
        self.assign(device, bundle);
        self.wait_until_runs(device, bundle);
    }

    /// Waits until a device says that a bundle answers in the slot `main` and all is as desired.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_until_runs(&self, device: &str, bundle: Digest) {
        self.wait_for_device(device, &format!("{bundle} on {device}"), |seen| {
            runs(seen, bundle) && seen["reported"]["slots"][0]["phase"] == "settled"
        });
    }
}

/// Waiting.
impl Stage {
    /// Reads `path` until `is` holds, and gives what was read.
    ///
    /// # Panics
    /// If it never does; then it says what is there instead.
    pub fn wait_for(&self, path: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            last = self.api().find(path).or(last);
            if let Some(answer) = last.take_if(|answer| is(answer)) {
                return answer;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let last = last.map_or_else(|| "no answer".to_owned(), |last| format!("{last:#}"));
        panic!("waited {PATIENCE:?} for {what}; {path} is\n{last}");
    }

    /// The same for a device's page.
    ///
    /// # Panics
    /// As [`Stage::wait_for`].
    pub fn wait_for_device(&self, device: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(&format!("/api/v1/devices/{device}"), what, is)
    }

    /// Waits until at least `count` results of a device's run are stored.
    ///
    /// # Panics
    /// If they are not.
    pub fn wait_for_results(&self, device: &str, boot: u64, count: u64) {
        let what = format!("the first {count} results of boot {boot} of {device}");
        self.wait_for(&format!("/api/v1/devices/{device}/streams"), &what, |streams| {
            stream(streams, boot, "results")
                .is_some_and(|found| found["through"].as_u64() >= Some(count))
        });
    }

    /// Waits until a device has told an event of `kind` whose detail has `words`.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_event(&self, device: &str, kind: &str, words: &str) -> Value {
        let path = format!("/api/v1/devices/{device}/events?limit=1000");
        let found = |events: &Value| {
            let events = events.as_array().expect("events are a list");
            let is = |event: &&Value| {
                let detail = event["detail"].as_str().expect("an event has a detail");
                event["kind"] == kind && detail.contains(words)
            };
            events.iter().find(is).cloned()
        };
        let what = format!("the event {kind} with {words:?}");
        let events = self.wait_for(&path, &what, |events| found(events).is_some());
        found(&events).expect("the wait has just found it")
    }

    /// Waits until what the fleet stored of a stream is as wanted.
    ///
    /// # Panics
    /// If it never is.
    pub fn wait_for_stream(
        &self,
        device: &str,
        boot: u64,
        name: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let path = format!("/api/v1/devices/{device}/streams");
        self.wait_for(&path, &format!("{name} of boot {boot}"), |streams| {
            stream(streams, boot, name).is_some_and(&is)
        });
        self.stream(device, boot, name)
    }

    /// Waits until a device's agent has said `words` in `count` lines.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_agent_to_say(&self, device: &str, words: &str, count: usize) {
        wait_for(&format!("{words:?} in the log of {device}"), PATIENCE, || {
            (self.agent_said(device).matches(words).count() >= count).then_some(())
        });
    }

    /// Waits until the fleet has said `words`.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_fleet_to_say(&self, words: &str) {
        wait_for(&format!("{words:?} in the log of the fleet"), PATIENCE, || {
            self.fleet_said().contains(words).then_some(())
        });
    }

    /// What the fleet stored of a device's run, now.
    ///
    /// # Panics
    /// If nothing is.
    pub fn stream(&self, device: &str, boot: u64, name: &str) -> Value {
        let streams = self.api().get(&format!("/api/v1/devices/{device}/streams"));
        let found = stream(&streams, boot, name).cloned();
        found.unwrap_or_else(|| panic!("no {name} of boot {boot} in {streams:#}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.log"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let names = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let logs = names
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"));
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let skipped = text.lines().count().saturating_sub(LINES_PRINTED);
            let last: Vec<&str> = text.lines().skip(skipped).collect();
            eprintln!("== {}, the last lines\n{}", log.display(), last.join("\n"));
        }
    }
}

/// Whether a device, as the API shows it, says that a bundle answers in a slot.
pub fn runs(device: &Value, bundle: Digest) -> bool {
    let slots = device["reported"]["slots"].as_array();
    let is = |slot: &Value| slot["running"]["bundle"] == bundle.to_string();
    slots.is_some_and(|slots| slots.iter().any(is))
}

/// The full name of a topic of the tests' fleet.
pub fn topic_name(topic: &Topic) -> String {
    Topics::new(&fleet_name()).name(topic)
}

/// A device's name as a type.
///
/// # Panics
/// If it is none.
pub fn id(device: &str) -> DeviceId {
    device.parse().expect("the name is well formed")
}

/// A source that plays a file into the slot `main`, as a table of a configuration.
pub fn replay(file: &Path, rate_hz: u32, repeat: bool) -> String {
    replay_into("main", file, rate_hz, repeat)
}

/// A source that plays a file into a slot, whose name it has, as a table of a configuration.
pub fn replay_into(slot: &str, file: &Path, rate_hz: u32, repeat: bool) -> String {
    format!(
        "[[source]]\nname = \"{slot}\"\nkind = \"replay\"\nslot = \"{slot}\"\nfile = {:?}\n\
         rate_hz = {rate_hz}.0\nrepeat = {repeat}\n",
        file.display().to_string()
    )
}

/// A port that nobody has at this moment.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address").port()
}

fn stream<'a>(streams: &'a Value, boot: u64, name: &str) -> Option<&'a Value> {
    let is = |stream: &&Value| stream["boot"] == boot && stream["stream"] == name;
    streams.as_array().expect("streams are a list").iter().find(is)
}

fn new_folder() -> TempDir {
    TempDir::with_prefix("selvedge-stage-").expect("there is room for a folder")
}

/// The configuration of an agent that tries again quickly.
fn write_config(folder: &Path, device: &str, root: &Path, link: &LinkConfig, tables: &str) {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let mut text = format!(
        "device = \"{device}\"\nfleet = \"{}\"\nstate_dir = \"state\"\nkey = \"device.pk8\"\nroot = {}\n\n\
         [broker]\nurl = \"{}\"\nkeep_alive_s = 5\nreconnect_first_ms = 50\nreconnect_ms_max = 500\n",
        fleet_name(),
        quoted(root),
        link.url
    );
    if let Some(Login { user, password }) = &link.login {
        let path = folder.join("password");
        fs::write(&path, password).expect("the folder of the test can be written");
        text += &format!("user = \"{user}\"\npassword_file = \"password\"\n");
    }
    if let Some(tls) = &link.tls {
        text += &format!("ca = {}\n", quoted(&tls.ca));
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            text += &format!("certificate = {}\nkey = {}\n", quoted(certificate), quoted(key));
        }
    }
    text += &format!("\n[health]\ninterval_s = 1\n\n{tables}");
    fs::write(folder.join("agent.toml"), text).expect("the folder of the test can be written");
}

fn write_private(path: &Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("the folder of the test can be written");
}

/// The tar of a bundle's layout.
fn archive(bundle: &Bundle) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in bundle.files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes.as_ref()).expect("the archive is in memory");
    }
    archive.into_inner().expect("the archive is in memory")
}
