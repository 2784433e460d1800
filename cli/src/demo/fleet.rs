//! What the demo's fleet says through its API.

use std::{collections::BTreeMap, fs, io, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use selvedge_wire::Digest;
use serde::{Deserialize, de::DeserializeOwned};

/// How long one answer of the API may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A fleet that listens.
pub struct Fleet {
    url: String,
    http: ureq::Agent,
}

/// What the demo reads of the sums over all devices.
#[derive(Clone, Debug, Deserialize)]
pub struct Sums {
    /// Inferences with an answer.
    pub inferences: u64,
    /// Inferences without one.
    pub inferences_failed: u64,
    /// Changes from one running bundle to another.
    pub swaps: u64,
    /// MQTT payload bytes that devices sent.
    pub sent_bytes: u64,
    /// MQTT payload bytes that devices received.
    pub received_bytes: u64,
    /// The highest resident memory of any agent.
    pub resident_bytes_peak: u64,
    /// Half of the answers took no longer.
    pub latency_us_p50: Option<u32>,
    /// Of a hundred answers, 99 took no longer.
    pub latency_us_p99: Option<u32>,
    /// Results that were stored.
    pub results: u64,
    /// Profiles that were stored.
    pub profiles: u64,
    /// Numbers that are missing between those that were stored.
    pub sequence_gaps: u64,
    /// Records that quotas made devices drop.
    pub records_dropped: u64,
}

/// What the demo reads of a device.
#[derive(Clone, Debug, Deserialize)]
pub struct DeviceSeen {
    id: String,
    /// Whether its agent is connected.
    pub online: bool,
    /// What is wrong with it, in sentences.
    pub problems: Vec<String>,
    reported: Option<Reported>,
    health: Option<Health>,
}

#[derive(Clone, Debug, Deserialize)]
struct Reported {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Deserialize)]
struct Slot {
    running: Option<Running>,
}

#[derive(Clone, Debug, Deserialize)]
struct Running {
    bundle: Digest,
}

#[derive(Clone, Debug, Deserialize)]
struct Health {
    inferences: u64,
    received_ms: u64,
}

impl DeviceSeen {
    /// Whether `bundle` answers on it.
    pub fn runs(&self, bundle: &Digest) -> bool {
        let mut slots = self.reported.iter().flat_map(|reported| &reported.slots);
        slots.any(|slot| slot.running.as_ref().is_some_and(|running| running.bundle == *bundle))
    }

    /// When its newest counters came.
    pub fn counted_ms(&self) -> Option<u64> {
        self.health.as_ref().map(|health| health.received_ms)
    }

    /// Whether it has counted an answer.
    pub fn answers(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.inferences > 0)
    }
}

impl Fleet {
    /// The fleet that wrote the file `addresses`; none while there is no such file.
    pub fn listening_at(addresses: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Addresses {
            http: SocketAddr,
        }
        let bytes = match fs::read(addresses) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", addresses.display()))?,
        };
        let Addresses { http } = serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot understand {}", addresses.display()))?;
        let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_LIMIT)).build();
        Ok(Some(Self { url: format!("http://{http}"), http: config.into() }))
    }

    /// Where it listens, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sums over all devices.
    pub fn sums(&self) -> Result<Sums> {
        self.ask("fleet")
    }

    /// All devices, by name.
    pub fn devices(&self) -> Result<BTreeMap<String, DeviceSeen>> {
        let devices: Vec<DeviceSeen> = self.ask("devices")?;
        Ok(devices.into_iter().map(|device| (device.id.clone(), device)).collect())
    }

    fn ask<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        let url = format!("{}/api/v1/{what}", self.url);
        let mut answer =
            self.http.get(&url).call().with_context(|| format!("no answer from {url}"))?;
        answer.body_mut().read_json().with_context(|| format!("cannot understand {url}"))
    }
}
