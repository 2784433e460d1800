//! What a link needs to know.

use std::{fmt, path::PathBuf, str::FromStr};

use selvedge_wire::PAYLOAD_BYTES_MAX;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Publish};

/// The shortest keep-alive that the client library takes.
const KEEP_ALIVE_S_MIN: u16 = 5;

const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

/// What a link needs to know.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The broker.
    pub url: BrokerUrl,
    /// The name of the session at the broker; two links with one name throw each other out.
    pub client_id: String,
    /// The account at the broker, where a certificate does not say it.
    pub login: Option<Login>,
    /// The files for TLS: needed for `mqtts://`, refused for `mqtt://`.
    pub tls: Option<TlsFiles>,
    /// The seconds between pings; at least 5. The broker's own wish goes before it.
    pub keep_alive_s: u16,
    /// How many seconds the broker keeps the session of a link that is gone.
    pub session_expiry_s: u32,
    /// What the broker publishes when the link is gone without a farewell.
    pub will: Option<Publish>,
    /// How many seconds the broker waits with the will, so that a short gap does not speak of death.
    pub will_delay_s: u32,
    /// What is subscribed to from the first connection on.
    pub subscriptions: Vec<String>,
    /// How much of everything.
    pub limits: Limits,
}

impl LinkConfig {
    /// A keep-alive and a will delay of 30 s, a session kept for a day, and nothing else.
    pub fn new(url: BrokerUrl, client_id: impl Into<String>) -> Self {
        Self {
            url,
            client_id: client_id.into(),
            login: None,
            tls: None,
            keep_alive_s: 30,
            session_expiry_s: 24 * 3600,
            will: None,
            will_delay_s: 30,
            subscriptions: Vec::new(),
            limits: Limits::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let setting =
            |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
        if self.client_id.is_empty() {
            return setting("client_id", "empty".into(), "a name");
        }
        if self.keep_alive_s < KEEP_ALIVE_S_MIN {
            return setting("keep_alive_s", self.keep_alive_s.to_string(), "at least 5");
        }
        match (&self.tls, self.url.tls) {
            (None, true) => setting("tls", "missing".into(), "given for mqtts://"),
            (Some(_), false) => setting("tls", "given".into(), "missing for mqtt://"),
            _ => self.limits.check(),
        }
    }

    /// How long the broker may say nothing, with the keep-alive that was agreed on.
    pub(crate) fn silence_ms_max(&self, keep_alive_s: u64) -> u64 {
        let derived = (2 * 1000 * keep_alive_s).max(30_000);
        self.limits.silence_ms_max.unwrap_or(derived)
    }
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest payload, both ways, in bytes. Default: the largest of the wire, 120 KiB.
    pub payload_bytes_max: usize,
    /// The most publishes that wait for the broker's acknowledgement. Default: 16.
    pub in_flight_max: u16,
    /// The most messages that the broker sends ahead of our acknowledgements. Default: 32.
    pub unacked_max: u16,
    /// The most calls that wait for the link; one more waits in its caller. Default: 64.
    pub commands_max: usize,
    /// The most filters subscribed to at once. Default: 4096.
    pub filters_max: usize,
    /// The upper end of the first back-off, in milliseconds. Default: 1 s.
    pub backoff_first_ms: u64,
    /// The upper end of every back-off, in milliseconds. Default: 5 min.
    pub backoff_ms_max: u64,
    /// How long a connection must last for the back-off to begin anew, in milliseconds. Default: 60 s.
    pub backoff_reset_after_ms: u64,
    /// How long the broker may say nothing, in milliseconds. Default: twice the keep-alive, but at
    /// least 30 s. Below the keep-alive, an idle link is taken for dead.
    pub silence_ms_max: Option<u64>,
    /// How long a connection may take to come up, in seconds. Default: 10 s.
    pub connect_s_max: u64,
    /// How long a farewell may take, in milliseconds. Default: 5 s.
    pub close_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            in_flight_max: 16,
            unacked_max: 32,
            commands_max: 64,
            filters_max: 4096,
            backoff_first_ms: 1000,
            backoff_ms_max: 5 * 60 * 1000,
            backoff_reset_after_ms: 60 * 1000,
            silence_ms_max: None,
            connect_s_max: 10,
            close_ms_max: 5000,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), Error> {
        let zero =
            |setting| Err(Error::Setting { setting, value: "0".into(), expected: "at least 1" });
        match self {
            Self { in_flight_max: 0, .. } => zero("in_flight_max"),
            Self { unacked_max: 0, .. } => zero("unacked_max"),
            Self { commands_max: 0, .. } => zero("commands_max"),
            Self { connect_s_max: 0, .. } => zero("connect_s_max"),
            _ => Ok(()),
        }
    }
}

/// An account at the broker.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// The files for TLS, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificates of those who may vouch for the broker.
    pub ca: PathBuf,
    /// Our certificate, with those between it and one that the broker trusts.
    pub certificate: Option<PathBuf>,
    /// The private key of our certificate.
    pub key: Option<PathBuf>,
}

/// The address of a broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
}

impl BrokerUrl {
    /// A broker without TLS.
    pub fn mqtt(host: impl Into<String>, port: u16) -> Self {
        Self { tls: false, host: host.into(), port }
    }

    /// A broker with TLS.
    pub fn mqtts(host: impl Into<String>, port: u16) -> Self {
        Self { tls: true, host: host.into(), port }
    }

    /// Whether the broker is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The broker's host; an IPv6 address stands in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fault = |reason| Error::Url { url: text.into(), reason };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| fault("it begins with mqtt:// or mqtts://"))?;
        let (tls, default_port) = match scheme {
            "mqtt" => (false, MQTT_PORT),
            "mqtts" => (true, MQTTS_PORT),
            _ => return Err(fault("it begins with mqtt:// or mqtts://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(fault("user and password have settings of their own"));
        }
        // The last colon before a port is the only one outside of brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| fault("the port is not a number up to 65535"))?)
            }
            _ => (authority, default_port),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || host.contains('/') || (host.contains(':') && !bracketed) {
            return Err(fault("it has no host"));
        }
        if tls && bracketed {
            return Err(fault("over TLS the broker needs a name or an IPv4 address"));
        }
        Ok(Self { tls, host: host.into(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_with_its_port() {
        for (text, expected) in [
            ("mqtt://127.0.0.1:1884", "mqtt://127.0.0.1:1884"),
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker.example/", "mqtts://broker.example:8883"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("mqtt://[::1]:7", "mqtt://[::1]:7"),
        ] {
            let url: BrokerUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), expected);
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "begins with"),
            ("broker:1883", "begins with"),
            ("http://broker", "begins with"),
            ("mqtt://", "no host"),
            ("mqtt://:1883", "no host"),
            ("mqtt://broker/path", "no host"),
            ("mqtt://::1", "no host"),
            ("mqtt://broker:", "port"),
            ("mqtt://broker:65536", "port"),
            ("mqtt://me:secret@broker", "settings of their own"),
            ("mqtts://[::1]:8883", "needs a name"),
        ] {
            let error = text.parse::<BrokerUrl>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let good = LinkConfig::new(BrokerUrl::mqtt("broker", 1883), "me");
        assert!(good.check().is_ok());
        let limits = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            LinkConfig { limits, ..good.clone() }
        };
        for (config, setting) in [
            (LinkConfig { client_id: String::new(), ..good.clone() }, "client_id"),
            (LinkConfig { keep_alive_s: 4, ..good.clone() }, "keep_alive_s"),
            (LinkConfig { url: BrokerUrl::mqtts("broker", 1), ..good.clone() }, "tls"),
            (limits(|limits| limits.in_flight_max = 0), "in_flight_max"),
            (limits(|limits| limits.unacked_max = 0), "unacked_max"),
            (limits(|limits| limits.commands_max = 0), "commands_max"),
            (limits(|limits| limits.connect_s_max = 0), "connect_s_max"),
        ] {
            let error = config.check().expect_err(setting).to_string();
            assert!(error.starts_with(setting), "{error}");
        }
    }

    #[test]
    fn the_watchdog_grants_two_keep_alives_and_at_least_half_a_minute() {
        let config = LinkConfig::new(BrokerUrl::mqtt("broker", 1883), "me");
        assert_eq!(config.silence_ms_max(5), 30_000);
        assert_eq!(config.silence_ms_max(60), 120_000);
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login { user: "me".into(), password: "secret".into() };
        assert_eq!(format!("{login:?}"), "Login(me)");
    }
}
