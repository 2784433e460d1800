//! What the manager is told at its start: by arguments, and by a file for what they leave open.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;

use selvedge_link::{BrokerUrl, Login, TlsFiles};
use selvedge_trust::Expiry;
use selvedge_wire::FleetName;

use crate::{
    Error, Limits,
    broker::{EmbeddedBroker, ServerTls},
};

const HTTP: &str = "127.0.0.1:8080";
const BROKER_LISTEN: &str = "127.0.0.1:1883";
const DATA: &str = "selvedge-fleet";
const NAME: &str = "fleet";

/// Runs the fleet manager: broker, registry, API and dashboard.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FleetArgs {
    /// A TOML file with the same settings (`broker_listen` for --broker-listen); arguments go first.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// The settings, each of which may be left open.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The fleet's name, a part of every topic [default: fleet].
    #[arg(long, value_name = "NAME")]
    pub name: Option<FleetName>,
    /// The folder with root.json, targets.json and director*.pk8, as `selvedge keys new` makes it. The
    /// first start takes root and targets metadata from there; each start takes the online keys.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// The folder for the database and the bundles [default: selvedge-fleet].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the API and the dashboard are served, on loopback; port 0 takes a free one
    /// [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Where the broker in this process listens; port 0 takes a free one [default: 127.0.0.1:1883].
    #[arg(long, value_name = "ADDRESS", conflicts_with = "broker")]
    pub broker_listen: Option<SocketAddr>,
    /// A broker elsewhere, instead of the one in this process: mqtt://host:port or mqtts://host:port.
    #[arg(long, value_name = "URL")]
    pub broker: Option<BrokerUrl>,
    /// The authority that vouches for the broker, in PEM.
    #[arg(long, value_name = "FILE")]
    pub broker_ca: Option<PathBuf>,
    /// With --broker our certificate, else that of the broker in this process, in PEM.
    #[arg(long, value_name = "FILE")]
    pub broker_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub broker_key: Option<PathBuf>,
    /// Our account at the broker elsewhere.
    #[arg(long, value_name = "NAME", requires = "broker")]
    pub broker_user: Option<String>,
    /// A file with the account's password.
    #[arg(long, value_name = "FILE", requires = "broker_user")]
    pub broker_password_file: Option<PathBuf>,
    /// The broker's address as devices are told it, where it is not the one above.
    #[arg(long, value_name = "URL")]
    pub advertise: Option<BrokerUrl>,
    /// Bytes of chunks that the broker may retain [default: 268435456, which is 256 MiB].
    #[arg(long, value_name = "BYTES")]
    pub retained_bytes_max: Option<u64>,
}

/// What the manager does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The fleet's name.
    pub name: FleetName,
    /// The folder with `root.json`, `targets.json` and `director*.pk8`.
    pub keys: PathBuf,
    /// The folder for the database and the bundles.
    pub data: PathBuf,
    /// Where the API and the dashboard are served.
    pub http: SocketAddr,
    /// The broker.
    pub broker: Broker,
    /// The authority that vouches for the broker to devices, in PEM.
    pub broker_ca: Option<PathBuf>,
    /// The broker's address as devices are told it.
    pub advertise: Option<BrokerUrl>,
    /// How long timestamp and snapshot are believed, and when they are signed again.
    pub expiry: Expiry,
    /// How much of everything.
    pub limits: Limits,
    /// The time, in Unix milliseconds.
    pub clock: fn() -> u64,
}

/// Which broker.
#[derive(Clone, Debug)]
pub enum Broker {
    /// One in this process.
    Embedded(EmbeddedBroker),
    /// One elsewhere.
    External {
        /// Where.
        url: BrokerUrl,
        /// Our account there.
        login: Option<Login>,
        /// The files for TLS.
        tls: Option<TlsFiles>,
    },
}

impl Config {
    /// An embedded broker and the API on free ports of loopback.
    pub fn on_free_ports(name: FleetName, keys: PathBuf, data: PathBuf) -> Self {
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        Self {
            name,
            keys,
            data,
            http: free,
            broker: Broker::Embedded(EmbeddedBroker { listen: free, tls: None }),
            broker_ca: None,
            advertise: None,
            expiry: Expiry::default(),
            limits: Limits::default(),
            clock: unix_ms,
        }
    }
}

impl FleetArgs {
    /// The configuration that the arguments and the file make together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the setting, or the file with key and line.
    pub fn into_config(self) -> Result<Config, Error> {
        let file = match &self.config {
            Some(path) => Settings::read(path)?,
            None => Settings::default(),
        };
        self.settings.or(file).into_config()
    }
}

impl Settings {
    /// Reads a file; its paths are relative to it.
    fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let mut settings: Self =
            toml::from_str(&text).map_err(|error| file_fault(path, &text, &error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for given in [
            &mut settings.keys,
            &mut settings.data,
            &mut settings.broker_ca,
            &mut settings.broker_certificate,
            &mut settings.broker_key,
            &mut settings.broker_password_file,
        ] {
            *given = given.as_ref().map(|given| folder.join(given));
        }
        if settings.broker.is_some() && settings.broker_listen.is_some() {
            return Err(Error::Config(format!(
                "{}: `broker` and `broker_listen` exclude each other",
                path.display()
            )));
        }
        Ok(settings)
    }

    fn or(self, other: Self) -> Self {
        // An argument for one kind of broker leaves the other kind in the file behind.
        let (listen, broker) = match (self.broker_listen, self.broker) {
            (None, None) => (other.broker_listen, other.broker),
            chosen => chosen,
        };
        Self {
            name: self.name.or(other.name),
            keys: self.keys.or(other.keys),
            data: self.data.or(other.data),
            http: self.http.or(other.http),
            broker_listen: listen,
            broker,
            broker_ca: self.broker_ca.or(other.broker_ca),
            broker_certificate: self.broker_certificate.or(other.broker_certificate),
            broker_key: self.broker_key.or(other.broker_key),
            broker_user: self.broker_user.or(other.broker_user),
            broker_password_file: self.broker_password_file.or(other.broker_password_file),
            advertise: self.advertise.or(other.advertise),
            retained_bytes_max: self.retained_bytes_max.or(other.retained_bytes_max),
        }
    }

    fn into_config(self) -> Result<Config, Error> {
        let keys = self.keys.clone().ok_or_else(|| {
            let help = "make one with `selvedge keys new DIR`";
            Error::Config(format!("--keys is missing: the folder of this fleet's keys; {help}"))
        })?;
        let http = self.http.unwrap_or_else(|| known(HTTP));
        if !http.ip().is_loopback() {
            return Err(Error::Config(format!(
                "--http {http} is not on loopback: access control is not built yet, so the API is \
                 served to this machine alone; use {HTTP} and a tunnel"
            )));
        }
        let broker = self.broker()?;
        let mut limits = Limits::default();
        limits.retained_bytes_max = self.retained_bytes_max.unwrap_or(limits.retained_bytes_max);
        Ok(Config {
            name: self.name.unwrap_or_else(|| NAME.parse().expect("the default is a name")),
            keys,
            data: self.data.unwrap_or_else(|| DATA.into()),
            http,
            broker,
            broker_ca: self.broker_ca,
            advertise: self.advertise,
            expiry: Expiry::default(),
            limits,
            clock: unix_ms,
        })
    }

    fn broker(&self) -> Result<Broker, Error> {
        let pair = match (&self.broker_certificate, &self.broker_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(Error::Config(
                    "--broker-certificate and --broker-key belong together".into(),
                ));
            }
        };
        match &self.broker {
            Some(url) => self.external_broker(url, pair),
            None => self.embedded_broker(pair),
        }
    }

    fn embedded_broker(&self, pair: Option<(PathBuf, PathBuf)>) -> Result<Broker, Error> {
        let listen = self.broker_listen.unwrap_or_else(|| known(BROKER_LISTEN));
        if pair.is_none() && !listen.ip().is_loopback() {
            return Err(Error::Config(format!(
                "--broker-listen {listen} is not on loopback: passwords would cross the network in \
                 the clear; give --broker-certificate and --broker-key"
            )));
        }
        if pair.is_some() && self.advertise.is_none() {
            return Err(Error::Config(
                "--advertise is missing: the name in the broker's certificate, as in \
                 mqtts://broker.example:8883"
                    .into(),
            ));
        }
        let tls = pair.map(|(certificate, key)| ServerTls { certificate, key });
        Ok(Broker::Embedded(EmbeddedBroker { listen, tls }))
    }

    fn external_broker(
        &self,
        url: &BrokerUrl,
        pair: Option<(PathBuf, PathBuf)>,
    ) -> Result<Broker, Error> {
        let tls = match (&self.broker_ca, url.is_tls()) {
            (Some(ca), true) => {
                let (certificate, key) = pair.unzip();
                Some(TlsFiles { ca: ca.clone(), certificate, key })
            }
            (None, true) => {
                return Err(Error::Config(format!("--broker-ca is missing for {url}")));
            }
            (_, false) => None,
        };
        let login = match &self.broker_user {
            Some(_) if !url.is_tls() && !is_loopback(url.host()) => {
                return Err(Error::Config(format!(
                    "--broker {url} would send the password of --broker-user in the clear; use \
                     mqtts://"
                )));
            }
            Some(user) => {
                let path = self.broker_password_file.as_ref().ok_or_else(|| {
                    Error::Config("--broker-password-file is missing for --broker-user".into())
                })?;
                let password = fs::read_to_string(path).map_err(Error::io("read", path))?;
                Some(Login { user: user.clone(), password: password.trim().into() })
            }
            None => None,
        };
        Ok(Broker::External { url: url.clone(), login, tls })
    }
}

/// What is wrong with a file, in one line: where, which key, and what was expected.
fn file_fault(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let path = path.display();
    let problem = error.message().replace('\n', ": ");
    let Some(span) = error.span() else { return Error::Config(format!("{path}: {problem}")) };
    let before = &text[..text.floor_char_boundary(span.start)];
    let line = before.matches('\n').count();
    let content = text.lines().nth(line).unwrap_or_default();
    let key = content.split_once('=').map_or(content, |(key, _)| key).trim();
    let expected = match key {
        "http" | "broker_listen" if !problem.contains("expected") => {
            ", expected an address with a port, as in 127.0.0.1:8080"
        }
        _ => "",
    };
    Error::Config(format!("{path}: line {}: {key}: {problem}{expected}", line + 1))
}

/// A name other than `localhost` may mean any machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn known(address: &str) -> SocketAddr {
    address.parse().expect("the default is an address")
}

/// The one place where the manager looks at the clock.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: Settings) -> Result<Config, String> {
        let settings = Settings { keys: Some("keys".into()), ..settings };
        settings.into_config().map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_be_open_to_strangers_is_refused_with_the_reason() {
        let open: SocketAddr = ([0, 0, 0, 0], 8080).into();
        let url = |text: &str| text.parse().expect("the address is well formed");
        for (settings, reason) in [
            (
                Settings { http: Some(open), ..Settings::default() },
                "access control is not built yet",
            ),
            (Settings { broker_listen: Some(open), ..Settings::default() }, "in the clear"),
            (Settings { broker_key: Some("k".into()), ..Settings::default() }, "belong together"),
            (
                Settings {
                    broker_certificate: Some("c".into()),
                    broker_key: Some("k".into()),
                    ..Settings::default()
                },
                "--advertise is missing",
            ),
            (
                Settings { broker: Some(url("mqtts://broker:8883")), ..Settings::default() },
                "--broker-ca is missing",
            ),
            (
                Settings {
                    broker: Some(url("mqtt://broker:1883")),
                    broker_user: Some("fleet".into()),
                    broker_password_file: Some("password".into()),
                    ..Settings::default()
                },
                "in the clear; use mqtts://",
            ),
        ] {
            let error = config(settings).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let password = folder.path().join("password");
        fs::write(&password, "secret").expect("the file can be written");
        for near in ["mqtt://localhost:1883", "mqtt://127.0.0.2:1883", "mqtt://[::1]:1883"] {
            let settings = Settings {
                broker: Some(url(near)),
                broker_user: Some("fleet".into()),
                broker_password_file: Some(password.clone()),
                ..Settings::default()
            };
            assert!(config(settings).is_ok(), "{near} does not leave this machine");
        }
        let anonymous = Settings { broker: Some(url("mqtt://broker:1883")), ..Settings::default() };
        assert!(config(anonymous).is_ok(), "there is no password to see");
        assert!(Settings::default().into_config().is_err(), "keys are needed");
        assert!(config(Settings::default()).is_ok());
    }

    #[test]
    fn a_file_with_a_fault_names_the_key_and_the_line() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("fleet.toml");
        for (text, reasons) in [
            ("keys = \"k\"\nhtpp = \"x\"", ["line 2: htpp: ", "expected"]),
            ("http = \"127.0.0.1\"", ["line 1: http: ", "expected an address with a port"]),
            ("\n\nbroker_listen = 1883", ["line 3: broker_listen: ", "expected"]),
            ("broker = \"http://x\"", ["line 1: broker: ", "mqtt://"]),
            ("keys = \"k\"\nname =\n", ["line 2: name: ", "value"]),
        ] {
            fs::write(&path, text).expect("the file can be written");
            let args = FleetArgs { config: Some(path.clone()), ..FleetArgs::default() };
            let error = args.into_config().expect_err(text).to_string();
            assert!(error.contains("fleet.toml"), "{error}");
            assert!(reasons.iter().all(|reason| error.contains(reason)), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn arguments_go_before_the_file_and_paths_are_relative_to_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("fleet.toml");
        let text = "name = \"mill\"\nkeys = \"k\"\ndata = \"d\"\nbroker = \"mqtt://127.0.0.1:7\"\n";
        fs::write(&path, text).expect("the file can be written");
        let settings = Settings {
            name: Some("other".parse().expect("a name")),
            broker_listen: Some(([127, 0, 0, 1], 0).into()),
            ..Settings::default()
        };
        let config = FleetArgs { config: Some(path), settings }
            .into_config()
            .expect("the configuration is whole");
        assert_eq!(config.name.as_str(), "other");
        assert_eq!(config.keys, folder.path().join("k"));
        assert!(matches!(config.broker, Broker::Embedded(_)));
    }
}
