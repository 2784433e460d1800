//! The fleet manager's API, as the commands use it.

use std::{
    io::{ErrorKind, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use ureq::{
    Agent, Body, SendBody,
    http::{Response, StatusCode},
};

use selvedge_bundle::BUNDLE_BYTES_MAX;
use selvedge_trust::{Proposal, PublicKey, ROOT_BYTES_MAX, TARGETS_BYTES_MAX};
use selvedge_wire::{DeviceId, Digest, FleetName, SlotName};

use crate::assign::Target;

/// Where a manager on this machine listens unless it is told otherwise.
pub const FLEET_URL: &str = "http://127.0.0.1:8080";

/// The longest file of a repository, in bytes.
const METADATA_BYTES_MAX: usize =
    if ROOT_BYTES_MAX > TARGETS_BYTES_MAX { ROOT_BYTES_MAX } else { TARGETS_BYTES_MAX };

/// The longest archive of a bundle, in bytes: its files, and what a tar adds to each.
const ARCHIVE_BYTES_MAX: u64 = BUNDLE_BYTES_MAX + (1 << 20);

/// How long an answer may take; checking a large bundle takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How long a manager that was just started may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Which manager
#[derive(Clone, Debug, clap::Args)]
pub struct FleetUrl {
    /// Where the fleet manager listens
    #[arg(long, value_name = "URL", default_value = FLEET_URL)]
    pub fleet_url: String,
}

/// A connection to the manager.
pub struct Api {
    url: String,
    agent: Agent,
}

/// What the manager says to a new device.
#[derive(Debug, Deserialize)]
pub struct AddedDevice {
    /// Its fleet.
    pub fleet: FleetName,
    /// Where it connects.
    pub broker_url: String,
    /// Its account there.
    pub user: String,
    /// The account's password, if it has one.
    pub password: Option<String>,
    /// The authority that vouches for the broker, in PEM.
    pub ca: Option<String>,
    /// The root metadata.
    pub root: Value,
}

/// A device, as far as the commands look at it.
#[derive(Debug, Deserialize)]
pub struct Device {
    /// What it says it runs.
    pub reported: Option<Reported>,
}

/// A desired state that the manager has signed and kept.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct SetDesired {
    /// Its generation.
    pub generation: u64,
    /// The id of the newest result at that moment: what answers to this has a higher one.
    pub results_before: u64,
}

/// What a slot should hold.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Wish {
    /// The bundle.
    pub bundle: Digest,
    /// How many samples it answers beside the one before, its answers unused, before it takes over.
    pub shadow_samples: u64,
    /// Whether its version may be older than that of the one before.
    pub allow_downgrade: bool,
}

/// What a device says it runs.
#[derive(Debug, Deserialize)]
pub struct Reported {
    /// The generation that it follows.
    pub generation: u64,
    /// Its slots.
    pub slots: Vec<Slot>,
}

/// One slot of a device.
#[derive(Debug, Deserialize)]
pub struct Slot {
    /// Its name.
    pub slot: String,
    /// Where it is on its way.
    pub phase: String,
    /// Chunks on the device, while it fetches.
    pub chunks_present: Option<u32>,
    /// Chunks of the bundle, while it fetches.
    pub chunks_total: Option<u32>,
    /// The bundle that answers.
    pub running: Option<Running>,
    /// Why the desired bundle does not answer.
    pub reason: Option<String>,
}

/// A bundle that answers.
#[derive(Debug, Deserialize)]
pub struct Running {
    /// The bundle.
    pub bundle: Digest,
}

/// One answer of a model.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Where the sample came from.
    pub source: String,
    /// Counts the samples of that source.
    pub sample: u64,
    /// How long it took.
    pub latency_us: u32,
    /// The class.
    pub class: Option<u32>,
    /// The label of the class.
    pub label: Option<String>,
    /// The score of the class.
    pub score: Option<f64>,
    /// The values, where there is no class.
    pub values: Option<Vec<Option<f32>>>,
    /// Why there is no answer.
    pub failure: Option<String>,
}

/// What became of labels.
#[derive(Debug, Default, Deserialize)]
pub struct TakenLabels {
    /// Labels that are kept.
    pub stored: usize,
    /// Those of them whose answer is known.
    pub matched: usize,
    /// Labels that are not kept.
    pub refused: Vec<RefusedLabel>,
}

/// A label that is not kept.
#[derive(Debug, Deserialize)]
pub struct RefusedLabel {
    /// Its place in the request, from 0.
    pub entry: usize,
    /// What is wrong with it.
    pub error: String,
}

/// The site baselines of a slot.
#[derive(Debug, Deserialize)]
pub struct Site {
    /// The period that is declared.
    pub proposal: Option<ProposedSite>,
    /// What was approved last.
    pub approved: Option<ApprovedSite>,
}

/// A period that is declared, and what was counted in it.
#[derive(Debug, Deserialize)]
pub struct ProposedSite {
    /// When it begins, in Unix milliseconds.
    pub from_ms: u64,
    /// When it ends.
    pub to_ms: u64,
    /// Who declared it.
    pub proposed_by: String,
    /// How far it is.
    pub progress: String,
    /// Why there is nothing to approve.
    pub reason: Option<String>,
    /// What would be approved.
    pub site: Option<RecordedSite>,
    /// The streams that differ from the lab.
    pub differs: Vec<String>,
    /// When the lab's detectors were in alarm.
    pub alarms: Vec<AlarmPeriod>,
}

/// A site baseline that was approved.
#[derive(Debug, Deserialize)]
pub struct ApprovedSite {
    /// What it is.
    pub site: RecordedSite,
    /// When it was approved, in Unix milliseconds.
    pub approved_ms: u64,
    /// Who approved it.
    pub approved_by: String,
    /// Whether the desired state names it.
    pub named: bool,
    /// Whether the device says that it judges by it.
    pub in_use: bool,
    /// Why it is not named.
    pub reason: Option<String>,
}

/// A site baseline.
#[derive(Debug, Deserialize)]
pub struct RecordedSite {
    /// Its identity.
    pub digest: Digest,
    /// How many windows it is of.
    pub windows: u32,
    /// How many samples they had.
    pub samples: u64,
    /// How much windows vary was guessed.
    pub uncalibrated: bool,
}

/// A time in alarm, in Unix milliseconds.
#[derive(Debug, Deserialize)]
pub struct AlarmPeriod {
    /// When it began.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: u64,
}

impl Api {
    /// The manager at `url`. One that is about to start is waited for.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(url: &FleetUrl) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_LIMIT))
            .build();
        let url = url.fleet_url.trim_end_matches('/').to_owned();
        let api = Self { url, agent: config.into() };
        let deadline = Instant::now() + START_LIMIT;
        let mut said = false;
        while api.refuses_connections() && Instant::now() < deadline {
            if !said {
                eprintln!("waiting for a fleet manager at {}", api.url);
                said = true;
            }
            sleep(ASK_EVERY);
        }
        api.accepted(api.agent.get(api.path("openapi.json")).call())?;
        Ok(api)
    }

    fn refuses_connections(&self) -> bool {
        match self.agent.get(self.path("openapi.json")).call() {
            Err(ureq::Error::Io(error)) => error.kind() == ErrorKind::ConnectionRefused,
            _ => false,
        }
    }

    /// Registers a device that signs with `key`.
    pub fn add_device(&self, id: &DeviceId, key: &PublicKey) -> Result<AddedDevice> {
        let request = self.agent.post(self.path("devices"));
        self.read(request.send_json(serde_json::json!({ "id": id, "public_key": key.to_hex() })))
    }

    /// Deletes a device.
    pub fn delete_device(&self, id: &DeviceId) -> Result<()> {
        let request = self.agent.delete(self.path(&format!("devices/{id}")));
        self.accepted(request.call()).map(drop)
    }

    /// One device.
    pub fn device(&self, id: &DeviceId) -> Result<Device> {
        self.read(self.agent.get(self.path(&format!("devices/{id}"))).call())
    }

    /// Says what should run in one slot of a device; the others stay as they are.
    pub fn set_slot(&self, id: &DeviceId, slot: &SlotName, wish: &Wish) -> Result<SetDesired> {
        let request = self.agent.put(self.path(&format!("devices/{id}/desired/{slot}")));
        self.read(request.send_json(wish))
    }

    /// The site baselines of a slot.
    pub fn site(&self, target: &Target) -> Result<Site> {
        self.read(self.agent.get(self.site_path(target, "")).call())
    }

    /// Declares a period, as the manager reads it.
    pub fn propose_site(&self, target: &Target, period: &impl Serialize, by: &str) -> Result<Site> {
        #[derive(Serialize)]
        struct Proposal<'a, P> {
            #[serde(flatten)]
            period: &'a P,
            by: &'a str,
        }
        let request = self.agent.post(self.site_path(target, ""));
        self.read(request.send_json(Proposal { period, by }))
    }

    /// Approves the site baseline with this digest.
    pub fn approve_site(&self, target: &Target, digest: &Digest, by: &str) -> Result<SetDesired> {
        let request = self.agent.post(self.site_path(target, "/approve"));
        self.read(request.send_json(serde_json::json!({ "digest": digest, "by": by })))
    }

    /// Withdraws the site baseline that is approved, or the declared period alone.
    pub fn withdraw_site(&self, target: &Target, proposal: bool) -> Result<()> {
        let path = self.site_path(target, if proposal { "/proposal" } else { "" });
        self.accepted(self.agent.delete(path).call()).map(drop)
    }

    fn site_path(&self, Target { device, slot }: &Target, below: &str) -> String {
        self.path(&format!("devices/{device}/slots/{slot}/site{below}"))
    }

    /// The first answer of `bundle` in a slot with an id above `after`, if there is one.
    pub fn first_answer(
        &self,
        id: &DeviceId,
        slot: &SlotName,
        bundle: &Digest,
        after: u64,
    ) -> Result<Option<Answer>> {
        let path =
            format!("devices/{id}/results?slot={slot}&bundle={bundle}&after={after}&limit=1");
        let answers: Vec<Answer> = self.read(self.agent.get(self.path(&path)).call())?;
        Ok(answers.into_iter().next())
    }

    /// Says what was right of answers.
    pub fn add_labels(&self, labels: &[Value]) -> Result<TakenLabels> {
        match self.agent.post(self.path("labels")).send_json(labels) {
            // None is kept: why not is said of each.
            Ok(answer) if answer.status() == StatusCode::UNPROCESSABLE_ENTITY => {
                self.json_of(answer)
            }
            answer => self.read(answer),
        }
    }

    /// Uploads the tar of a bundle's layout; returns the digest.
    pub fn add_bundle(&self, archive: &mut dyn Read) -> Result<Digest> {
        #[derive(Deserialize)]
        struct Added {
            digest: Digest,
        }
        let request = self.agent.post(self.path("bundles")).content_type("application/x-tar");
        let mut archive = archive;
        let sent = request.send(SendBody::from_reader(&mut archive));
        self.read(sent).map(|Added { digest }| digest)
    }

    /// The tar of a bundle's layout, if the manager has the bundle.
    pub fn archive(&self, bundle: &Digest) -> Result<Option<Vec<u8>>> {
        self.find(&self.path(&format!("bundles/{bundle}/archive")), ARCHIVE_BYTES_MAX)
    }

    /// Uploads a patch from the bundle `source` to `bundle`.
    pub fn add_patch(&self, bundle: &Digest, source: &Digest, patch: &[u8]) -> Result<()> {
        let request = self.agent.post(self.path(&format!("bundles/{bundle}/patches/{source}")));
        let sent = request.content_type("application/octet-stream").send(patch);
        self.accepted(sent).map(drop)
    }

    /// A file of the repository, if there is one of this name.
    pub fn metadata(&self, file: &str) -> Result<Option<Vec<u8>>> {
        self.find(&format!("{}/tuf/{file}", self.url), METADATA_BYTES_MAX as u64)
    }

    /// The version of the newest root.
    pub fn root_version(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Repository {
            root_version: u64,
        }
        let answer: Repository = self.read(self.agent.get(self.path("repository")).call())?;
        Ok(answer.root_version)
    }

    /// Changes the repository, or says what that would change; in sentences.
    pub fn propose(&self, proposal: &Proposal, dry_run: bool) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Proposed {
            changes: Vec<String>,
        }
        let request = self.agent.post(self.path(&format!("repository?dry_run={dry_run}")));
        self.read(request.send_json(proposal)).map(|Proposed { changes }| changes)
    }

    /// What is at `url`, if anything is.
    fn find(&self, url: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let answer = self.agent.get(url).call();
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let mut answer = self.accepted(answer)?;
        let read = answer.body_mut().with_config().limit(bytes_max).read_to_vec();
        read.with_context(|| format!("cannot read {url}")).map(Some)
    }

    fn path(&self, below: &str) -> String {
        format!("{}/api/v1/{below}", self.url)
    }

    fn read<T: DeserializeOwned>(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<T> {
        self.json_of(self.accepted(answer)?)
    }

    fn json_of<T: DeserializeOwned>(&self, mut answer: Response<Body>) -> Result<T> {
        let wrong = || format!("the answer of {} is not that of a fleet manager", self.url);
        answer.body_mut().read_json().with_context(wrong)
    }

    /// The answer, if it is not that of a failure.
    fn accepted(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let mut answer = answer.map_err(|error| {
            anyhow!(
                "no fleet manager answers at {}: {error}; start one with `selvedge fleet`, or say \
                 where it is with --fleet-url",
                self.url
            )
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        match answer.body_mut().read_json::<Refusal>() {
            Ok(Refusal { error }) => bail!("the fleet manager refuses: {error}"),
            Err(_) => bail!("{} answers {}", self.url, answer.status()),
        }
    }
}
