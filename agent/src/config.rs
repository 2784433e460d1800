//! `agent.toml`: read once, checked as a whole, errors with file, line, key and what was expected.
//!
//! Paths are relative to the folder of the file. Units stand in the keys' names.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::Read,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use selvedge_link::{BrokerUrl, Login, TlsFiles};
use selvedge_wire::{DeviceId, FleetName, SlotName, SourceName};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    limits::{
        ANSWERS_REMEMBERED_DEFAULT, ANSWERS_REMEMBERED_MAX, CAPTURE_UPLOAD_BYTES_MIN,
        CAPTURES_BYTES_MIN, CAPTURES_MAX, CAPTURES_PER_HOUR_MAX, CONFIG_BYTES_MAX, SOURCES_MAX,
        STREAM_BYTES_MIN, STUCK_SAMPLES_DEFAULT,
    },
    spool::SpoolQuotas,
};

/// The file of the device's key, where the configuration names none.
const KEY_FILE: &str = "device.pk8";

/// What an agent is told about itself and its surroundings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's name; its login at the broker is the same.
    pub device: DeviceId,
    /// The fleet that it belongs to.
    pub fleet: FleetName,
    /// The folder for all that the agent keeps.
    pub state_dir: PathBuf,
    /// The trusted root metadata, as a file.
    pub root: PathBuf,
    /// The key that the device signs with, as a file.
    pub key: PathBuf,
    /// The fleet's broker.
    pub broker: BrokerConfig,
    /// A broker of the site for local sensors, if there is one.
    pub local_broker: Option<BrokerConfig>,
    /// Where samples come from.
    pub sources: Vec<SourceConfig>,
    /// Whether each answer is sent to the fleet.
    pub publish_results: bool,
    /// Where labels come from; nowhere if it is not configured.
    pub labels: Option<LabelsConfig>,
    /// How long a profile's window is.
    pub profile_window: Duration,
    /// A feature that has the same value so often in a row is stuck; 0 if that is not looked for.
    pub stuck_samples: u32,
    /// What is kept of samples that are odd, or come while their bundle drifts; nothing if it is not configured.
    pub capture: Option<CaptureConfig>,
    /// How often health is sent.
    pub health_interval: Duration,
    /// How the spool keeps and sends records.
    pub spool: SpoolConfig,
    /// What bundles may take.
    pub bundles: BundleLimits,
}

/// How a broker is reached.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `mqtt://host:port` or `mqtts://host:port`
    pub url: BrokerUrl,
    /// Who to log in as.
    pub login: Option<Login>,
    /// Certificates, for `mqtts`.
    pub tls: Option<TlsFiles>,
    /// MQTT's keep-alive.
    pub keep_alive_s: u16,
    /// The first wait before connecting again.
    pub reconnect_first: Duration,
    /// The longest wait before connecting again.
    pub reconnect_max: Duration,
}

/// Where samples come from.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its name in results.
    pub name: SourceName,
    /// What kind of source it is.
    pub kind: SourceKind,
}

/// The kinds of sources.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// A file, played at a rate.
    Replay {
        /// The slot whose model answers.
        slot: SlotName,
        /// A CSV file with a header, or an `.npy` file.
        file: PathBuf,
        /// Samples per second.
        rate_hz: f64,
        /// Whether the file begins again at its end.
        repeat: bool,
    },
    /// An MQTT topic of local sensors.
    Mqtt {
        /// The slot whose model answers.
        slot: SlotName,
        /// The topic.
        topic: String,
    },
    /// Nodes on a serial line.
    Node {
        /// The line.
        line: NodeLine,
    },
}

/// A serial line, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeLine {
    /// A TCP server that carries the line.
    Tcp {
        /// `host:port`
        address: String,
    },
    /// A tty.
    Tty {
        /// The device file.
        device: PathBuf,
        /// Bits per second.
        baud: u32,
    },
}

/// How the spool keeps and sends records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// How much of each stream is kept.
    pub quotas: SpoolQuotas,
    /// The most records of one message.
    pub batch_records_max: usize,
    /// Records that are not stored after this time are sent again.
    pub resend_after: Duration,
    /// How often results are made durable and sent: the most that a power cut loses.
    pub sync_interval: Duration,
}

/// What is kept on the disk of samples that are odd, or come while their bundle drifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// The most samples; the oldest make room.
    pub samples_max: usize,
    /// The most bytes of all samples.
    pub bytes_max: u64,
    /// The most samples that are taken in an hour.
    pub per_hour_max: usize,
    /// The most bytes that are sent in a day, of what the fleet asks for.
    pub upload_bytes_per_day_max: u64,
}

/// Labels that come late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelsConfig {
    /// The topic on the site's broker, or on the fleet's if the site has none.
    pub topic: String,
    /// How many of its newest answers each slot remembers for them.
    pub answers_remembered: usize,
}

/// What bundles may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleLimits {
    /// The largest bundle.
    pub bundle_bytes_max: u64,
    /// All bundles on the disk.
    pub bundles_bytes_max: u64,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read, an unknown key, a value of the wrong type or out
    /// of its range, and a file that is named but missing.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let reader = Reader { path, text };
        let document: Document = toml::from_str(text).map_err(|error| reader.syntax(&error))?;
        document.check(&reader)
    }
}

/// A configuration is not usable. The operator is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// The key on that line.
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match &self.key {
            Some(key) => write!(f, ": {key}: {}", self.problem),
            None => write!(f, ": {}", self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let mut text = String::new();
        fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let failed = |problem| ConfigError { path: path.into(), line: None, key: None, problem };
    let text: std::io::Result<String> = read();
    let text = text.map_err(|error| failed(format!("cannot read the configuration: {error}")))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(failed(format!("the configuration is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Finds lines and keys for errors.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let problem = error.message().replace('\n', ": ");
        match error.span() {
            Some(span) => self.at(&span, problem),
            None => self.without_line(None, problem),
        }
    }

    fn at(&self, span: &Range<usize>, problem: impl Into<String>) -> ConfigError {
        let start = span.start.min(self.text.len());
        let before = &self.text[..self.text.floor_char_boundary(start)];
        let line = before.matches('\n').count();
        let content = self.text.lines().nth(line).unwrap_or_default();
        let key = content.split_once('=').map(|(key, _)| key.trim().to_owned());
        let (path, problem) = (self.path.into(), problem.into());
        ConfigError { path, line: Some(line + 1), key, problem }
    }

    fn without_line(&self, key: Option<&str>, problem: impl Into<String>) -> ConfigError {
        let (path, key) = (self.path.into(), key.map(str::to_owned));
        ConfigError { path, line: None, key, problem: problem.into() }
    }

    /// Reads a value that has a syntax of its own.
    fn value<T>(&self, text: &Spanned<String>) -> Result<T, ConfigError>
    where
        T: std::str::FromStr<Err: fmt::Display>,
    {
        text.get_ref().parse().map_err(|error: T::Err| self.at(&text.span(), error.to_string()))
    }

    /// The name of one topic.
    fn topic(&self, topic: &Spanned<String>) -> Result<String, ConfigError> {
        let text = topic.get_ref();
        if text.is_empty() || text.contains(['+', '#', '\0']) {
            return Err(self.at(&topic.span(), "expected one topic, without + and #"));
        }
        Ok(text.clone())
    }

    fn in_folder(&self, path: &Path) -> PathBuf {
        self.path.parent().map_or_else(|| path.into(), |folder| folder.join(path))
    }

    fn existing(&self, path: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
        let full = self.in_folder(path.get_ref());
        match fs::metadata(&full) {
            Ok(found) if found.is_file() => Ok(full),
            Ok(_) => {
                Err(self.at(&path.span(), format!("{} is not a regular file", full.display())))
            }
            Err(error) => {
                let problem = format!("the file {} cannot be used: {error}", full.display());
                Err(self.at(&path.span(), problem))
            }
        }
    }

    fn number<T>(
        &self,
        value: Option<Spanned<T>>,
        default: T,
        range: std::ops::RangeInclusive<T>,
        unit: &str,
    ) -> Result<T, ConfigError>
    where
        T: Copy + PartialOrd + fmt::Display,
    {
        match value {
            None => Ok(default),
            Some(value) if range.contains(value.get_ref()) => Ok(*value.get_ref()),
            Some(value) => {
                let (min, max) = (range.start(), range.end());
                let met = value.get_ref();
                let expected = format!("{met} is out of range, expected {min} to {max} {unit}");
                Err(self.at(&value.span(), expected))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    device: Spanned<String>,
    fleet: Spanned<String>,
    state_dir: PathBuf,
    root: Spanned<PathBuf>,
    key: Option<Spanned<PathBuf>>,
    broker: BrokerTable,
    local_broker: Option<BrokerTable>,
    #[serde(default)]
    source: Vec<Spanned<SourceTable>>,
    #[serde(default)]
    results: ResultsTable,
    labels: Option<LabelsTable>,
    #[serde(default)]
    profile: ProfileTable,
    #[serde(default)]
    inputs: InputsTable,
    capture: Option<CaptureTable>,
    #[serde(default)]
    health: HealthTable,
    #[serde(default)]
    spool: SpoolTable,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerTable {
    url: Spanned<String>,
    user: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    ca: Option<Spanned<PathBuf>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    keep_alive_s: Option<Spanned<u16>>,
    reconnect_first_ms: Option<Spanned<u64>>,
    reconnect_ms_max: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    name: Spanned<String>,
    kind: Spanned<String>,
    slot: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    rate_hz: Option<Spanned<f64>>,
    repeat: Option<Spanned<bool>>,
    topic: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    device: Option<Spanned<PathBuf>>,
    baud: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultsTable {
    publish: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelsTable {
    topic: Spanned<String>,
    answers_remembered: Option<Spanned<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileTable {
    window_s: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputsTable {
    stuck_samples: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureTable {
    samples_max: Option<Spanned<usize>>,
    bytes_max: Option<Spanned<u64>>,
    per_hour_max: Option<Spanned<usize>>,
    upload_bytes_per_day_max: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    interval_s: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolTable {
    results_bytes_max: Option<Spanned<u64>>,
    profiles_bytes_max: Option<Spanned<u64>>,
    events_bytes_max: Option<Spanned<u64>>,
    labels_bytes_max: Option<Spanned<u64>>,
    captures_bytes_max: Option<Spanned<u64>>,
    batch_records_max: Option<Spanned<usize>>,
    resend_after_s: Option<Spanned<u64>>,
    sync_interval_ms: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    bundle_bytes_max: Option<Spanned<u64>>,
    bundles_bytes_max: Option<Spanned<u64>>,
}

impl Document {
    fn check(self, reader: &Reader<'_>) -> Result<Config, ConfigError> {
        let local_broker = self.local_broker.map(|broker| broker.check(reader)).transpose()?;
        let sources = check_sources(self.source, reader)?;
        let labels = self.labels.map(|labels| labels.check(reader, &sources)).transpose()?;
        Ok(Config {
            device: reader.value(&self.device)?,
            fleet: reader.value(&self.fleet)?,
            state_dir: reader.in_folder(&self.state_dir),
            root: reader.existing(&self.root)?,
            key: match &self.key {
                Some(key) => reader.existing(key)?,
                None => reader.in_folder(Path::new(KEY_FILE)),
            },
            broker: self.broker.check(reader)?,
            local_broker,
            sources,
            publish_results: self.results.publish.unwrap_or(true),
            labels,
            profile_window: reader
                .number(self.profile.window_s, 60, 1..=86_400, "seconds")
                .map(Duration::from_secs)?,
            stuck_samples: reader.number(
                self.inputs.stuck_samples,
                STUCK_SAMPLES_DEFAULT,
                0..=1_000_000,
                "samples",
            )?,
            capture: self.capture.map(|capture| capture.check(reader)).transpose()?,
            health_interval: reader
                .number(self.health.interval_s, 10, 1..=3_600, "seconds")
                .map(Duration::from_secs)?,
            spool: self.spool.check(reader)?,
            bundles: self.limits.check(reader)?,
        })
    }
}

impl BrokerTable {
    fn check(self, reader: &Reader<'_>) -> Result<BrokerConfig, ConfigError> {
        let file = |path: &Option<Spanned<PathBuf>>| {
            path.as_ref().map(|path| reader.existing(path)).transpose()
        };
        let (ca, certificate, key) = (file(&self.ca)?, file(&self.certificate)?, file(&self.key)?);
        let login = match (&self.user, &self.password_file) {
            (Some(user), Some(path)) => {
                Some(Login { user: user.get_ref().clone(), password: read_password(path, reader)? })
            }
            (None, None) => None,
            (Some(alone), None) => {
                return Err(reader.at(&alone.span(), "expected password_file beside user"));
            }
            (None, Some(alone)) => {
                return Err(reader.at(&alone.span(), "expected user beside password_file"));
            }
        };
        let tls = match (ca, &self.certificate, &self.key) {
            (Some(ca), Some(_), Some(_)) | (Some(ca), None, None) => {
                Some(TlsFiles { ca, certificate, key })
            }
            (None, None, None) => None,
            (_, Some(alone), None) => {
                return Err(reader.at(&alone.span(), "expected ca and key beside certificate"));
            }
            (_, _, Some(alone)) => {
                return Err(reader.at(&alone.span(), "expected ca and certificate beside key"));
            }
        };
        let url: BrokerUrl = reader.value(&self.url)?;
        match (&tls, url.is_tls()) {
            (None, true) => {
                let problem = "expected ca, the certificates to trust, for an mqtts broker";
                return Err(reader.at(&self.url.span(), problem));
            }
            (Some(_), false) => {
                let problem = "expected an mqtts broker, since ca is given";
                return Err(reader.at(&self.url.span(), problem));
            }
            (None, false) if login.is_some() && !is_loopback(url.host()) => {
                let host = url.host();
                let problem = format!(
                    "the password would cross the network to {host} in clear; use mqtts://"
                );
                return Err(reader.at(&self.url.span(), problem));
            }
            _ => {}
        }
        let wait = |value, default| reader.number(value, default, 1..=3_600_000, "milliseconds");
        let reconnect_first_ms = wait(self.reconnect_first_ms, 1_000)?;
        let reconnect_ms_max = wait(self.reconnect_ms_max, 300_000)?.max(reconnect_first_ms);
        Ok(BrokerConfig {
            url,
            login,
            tls,
            keep_alive_s: reader.number(self.keep_alive_s, 30, 5..=3_600, "seconds")?,
            reconnect_first: Duration::from_millis(reconnect_first_ms),
            reconnect_max: Duration::from_millis(reconnect_ms_max),
        })
    }
}

/// Whether what is sent to a host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn read_password(path: &Spanned<PathBuf>, reader: &Reader<'_>) -> Result<String, ConfigError> {
    let file = reader.existing(path)?;
    let password = fs::read_to_string(&file).map_err(|error| {
        reader.at(&path.span(), format!("the file {} cannot be read: {error}", file.display()))
    })?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        let problem = format!("the file {} is empty, expected a password", file.display());
        return Err(reader.at(&path.span(), problem));
    }
    Ok(password.to_owned())
}

fn check_sources(
    tables: Vec<Spanned<SourceTable>>,
    reader: &Reader<'_>,
) -> Result<Vec<SourceConfig>, ConfigError> {
    if tables.len() > SOURCES_MAX {
        let problem = format!("{} sources, expected at most {SOURCES_MAX}", tables.len());
        return Err(reader.without_line(Some("source"), problem));
    }
    let mut sources: Vec<SourceConfig> = Vec::new();
    for table in tables {
        let (whole, table) = (table.span(), table.into_inner());
        let name_span = table.name.span();
        let source = table.check(reader, &whole)?;
        if sources.iter().any(|other| other.name == source.name) {
            let problem = format!("{:?} names another source already", source.name.as_str());
            return Err(reader.at(&name_span, problem));
        }
        sources.push(source);
    }
    Ok(sources)
}

impl SourceTable {
    fn check(self, reader: &Reader<'_>, whole: &Range<usize>) -> Result<SourceConfig, ConfigError> {
        let name: SourceName = reader.value(&self.name)?;
        let kind = match self.kind.get_ref().as_str() {
            "replay" => self.check_replay(reader, whole)?,
            "mqtt" => self.check_mqtt(reader, whole)?,
            "node" => self.check_node(reader, whole)?,
            other => {
                let problem =
                    format!("{other:?} is unknown, expected \"replay\", \"mqtt\" or \"node\"");
                return Err(reader.at(&self.kind.span(), problem));
            }
        };
        Ok(SourceConfig { name, kind })
    }

    fn check_replay(
        &self,
        reader: &Reader<'_>,
        whole: &Range<usize>,
    ) -> Result<SourceKind, ConfigError> {
        self.refuse(reader, &["topic", "address", "device", "baud"])?;
        let file = self.file.as_ref().ok_or_else(|| missing(reader, whole, "file"))?;
        let path = reader.existing(file)?;
        if !matches!(path.extension().and_then(|ending| ending.to_str()), Some("csv" | "npy")) {
            return Err(reader.at(&file.span(), "expected a file that ends in .csv or .npy"));
        }
        let rate = self.rate_hz.as_ref().ok_or_else(|| missing(reader, whole, "rate_hz"))?;
        let rate_hz =
            reader.number(Some(rate.clone()), 1.0, 0.001..=100_000.0, "samples per second")?;
        let repeat = self.repeat.as_ref().is_some_and(|repeat| *repeat.get_ref());
        Ok(SourceKind::Replay { slot: self.slot(reader, whole)?, file: path, rate_hz, repeat })
    }

    fn check_mqtt(
        &self,
        reader: &Reader<'_>,
        whole: &Range<usize>,
    ) -> Result<SourceKind, ConfigError> {
        self.refuse(reader, &["file", "rate_hz", "repeat", "address", "device", "baud"])?;
        let topic = self.topic.as_ref().ok_or_else(|| missing(reader, whole, "topic"))?;
        Ok(SourceKind::Mqtt { slot: self.slot(reader, whole)?, topic: reader.topic(topic)? })
    }

    fn check_node(
        &self,
        reader: &Reader<'_>,
        whole: &Range<usize>,
    ) -> Result<SourceKind, ConfigError> {
        self.refuse(reader, &["slot", "file", "rate_hz", "repeat", "topic"])?;
        let line = match (&self.address, &self.device) {
            (Some(address), None) => {
                self.refuse(reader, &["baud"])?;
                let port = address.get_ref().rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(1..))) {
                    return Err(reader.at(&address.span(), "expected host:port"));
                }
                NodeLine::Tcp { address: address.get_ref().clone() }
            }
            (None, Some(device)) => {
                let baud = reader.number(
                    self.baud.clone(),
                    115_200,
                    300..=4_000_000,
                    "bits per second",
                )?;
                NodeLine::Tty { device: reader.in_folder(device.get_ref()), baud }
            }
            (Some(_), Some(both)) => {
                return Err(reader.at(&both.span(), "expected either address or device, not both"));
            }
            (None, None) => return Err(missing(reader, whole, "address or device")),
        };
        Ok(SourceKind::Node { line })
    }

    fn slot(&self, reader: &Reader<'_>, whole: &Range<usize>) -> Result<SlotName, ConfigError> {
        reader.value(self.slot.as_ref().ok_or_else(|| missing(reader, whole, "slot"))?)
    }

    /// Keys of other kinds of sources are as wrong as unknown ones.
    fn refuse(&self, reader: &Reader<'_>, keys: &[&str]) -> Result<(), ConfigError> {
        let given = [
            ("slot", self.slot.as_ref().map(Spanned::span)),
            ("file", self.file.as_ref().map(Spanned::span)),
            ("rate_hz", self.rate_hz.as_ref().map(Spanned::span)),
            ("repeat", self.repeat.as_ref().map(Spanned::span)),
            ("topic", self.topic.as_ref().map(Spanned::span)),
            ("address", self.address.as_ref().map(Spanned::span)),
            ("device", self.device.as_ref().map(Spanned::span)),
            ("baud", self.baud.as_ref().map(Spanned::span)),
        ];
        let foreign = given
            .into_iter()
            .find_map(|(key, span)| Some((key, span?)).filter(|(key, _)| keys.contains(key)));
        match foreign {
            None => Ok(()),
            Some((key, span)) => {
                let kind = self.kind.get_ref();
                Err(reader.at(&span, format!("a source of kind {kind:?} has no key {key}")))
            }
        }
    }
}

fn missing(reader: &Reader<'_>, whole: &Range<usize>, key: &str) -> ConfigError {
    let found = reader.at(whole, format!("this source lacks the key {key}"));
    ConfigError { key: Some("[[source]]".into()), ..found }
}

impl LabelsTable {
    fn check(
        self,
        reader: &Reader<'_>,
        sources: &[SourceConfig],
    ) -> Result<LabelsConfig, ConfigError> {
        let topic = reader.topic(&self.topic)?;
        let is_taken = |source: &&SourceConfig| match &source.kind {
            SourceKind::Mqtt { topic: samples, .. } => *samples == topic,
            SourceKind::Replay { .. } | SourceKind::Node { .. } => false,
        };
        if let Some(taken) = sources.iter().find(is_taken) {
            let problem = format!("the source {} has its samples from this topic", taken.name);
            return Err(reader.at(&self.topic.span(), problem));
        }
        let answers_remembered = reader.number(
            self.answers_remembered,
            ANSWERS_REMEMBERED_DEFAULT,
            1..=ANSWERS_REMEMBERED_MAX,
            "answers",
        )?;
        Ok(LabelsConfig { topic, answers_remembered })
    }
}

impl CaptureTable {
    fn check(self, reader: &Reader<'_>) -> Result<CaptureConfig, ConfigError> {
        const MIB: u64 = 1024 * 1024;
        Ok(CaptureConfig {
            samples_max: reader.number(self.samples_max, 500, 1..=CAPTURES_MAX, "samples")?,
            bytes_max: reader.number(self.bytes_max, 16 * MIB, 4096..=64 * 1024 * MIB, "bytes")?,
            per_hour_max: reader.number(
                self.per_hour_max,
                60,
                1..=CAPTURES_PER_HOUR_MAX,
                "samples an hour",
            )?,
            upload_bytes_per_day_max: reader.number(
                self.upload_bytes_per_day_max,
                16 * MIB,
                CAPTURE_UPLOAD_BYTES_MIN..=64 * 1024 * MIB,
                "bytes",
            )?,
        })
    }
}

impl SpoolTable {
    fn check(self, reader: &Reader<'_>) -> Result<SpoolConfig, ConfigError> {
        const MIB: u64 = 1024 * 1024;
        let quota = |value, default| {
            reader.number(value, default, STREAM_BYTES_MIN..=64 * 1024 * MIB, "bytes")
        };
        Ok(SpoolConfig {
            quotas: SpoolQuotas {
                results_bytes_max: quota(self.results_bytes_max, 64 * MIB)?,
                profiles_bytes_max: quota(self.profiles_bytes_max, 16 * MIB)?,
                events_bytes_max: quota(self.events_bytes_max, 4 * MIB)?,
                labels_bytes_max: quota(self.labels_bytes_max, 4 * MIB)?,
                captures_bytes_max: reader.number(
                    self.captures_bytes_max,
                    4 * MIB,
                    CAPTURES_BYTES_MIN..=64 * 1024 * MIB,
                    "bytes",
                )?,
            },
            batch_records_max: reader.number(self.batch_records_max, 200, 1..=10_000, "records")?,
            resend_after: reader
                .number(self.resend_after_s, 30, 1..=3_600, "seconds")
                .map(Duration::from_secs)?,
            sync_interval: reader
                .number(self.sync_interval_ms, 1_000, 10..=60_000, "milliseconds")
                .map(Duration::from_millis)?,
        })
    }
}

impl LimitsTable {
    fn check(self, reader: &Reader<'_>) -> Result<BundleLimits, ConfigError> {
        let max = selvedge_bundle::BUNDLE_BYTES_MAX;
        Ok(BundleLimits {
            bundle_bytes_max: reader.number(self.bundle_bytes_max, max, 1..=max, "bytes")?,
            bundles_bytes_max: reader.number(
                self.bundles_bytes_max,
                4 * max,
                1..=1 << 50,
                "bytes",
            )?,
        })
    }
}
