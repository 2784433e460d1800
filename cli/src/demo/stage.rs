//! What happens in the demo, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use selvedge_bundle::{Bundle, Limits};
use selvedge_wire::Digest;
use toml::Table;

use super::{
    figures::Figures,
    fleet::{DeviceSeen, Fleet},
    parts::{Parts, words},
    recipes::{Device, Recipe, Version},
    story::Story,
    wait::{self, wait_for},
};

/// How long the fleet may take to listen.
const FLEET_LIMIT: Duration = Duration::from_secs(30);
/// How long all agents together may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// How long all devices together may take to run what was published, and to answer.
const DEPLOY_LIMIT: Duration = Duration::from_secs(120);
/// How long records may be under way when the figures are taken.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
/// How long all devices together may take to send their counters once more when the figures are taken.
const COUNTERS_LIMIT: Duration = Duration::from_secs(30);
/// How often the story tells how much was done.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// The windows of the demo's profiles: short, so that some close within it.
const PROFILE_WINDOW_S: i64 = 5;
/// How often the demo's agents send their counters.
const HEALTH_INTERVAL_S: i64 = 2;
/// How the fleet is called among the parts; the others are called like their devices.
const FLEET: &str = "fleet";
/// The name in the fleet's topics and on its pages.
const FLEET_NAME: &str = "demo";
/// The slot that every device has.
const SLOT: &str = "main";

/// When what happens, from the first answers of all devices on.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Version 2 goes out.
    pub upgrade_after: Duration,
    /// The figures are taken.
    pub length: Duration,
}

/// The parts that run, and where everything is.
pub struct Stage<'a> {
    story: &'a Story,
    folder: &'a Path,
    models: &'a Path,
    devices: Vec<Device>,
    bundles: Vec<Packed>,
    parts: Parts,
}

/// A bundle that the demo has packed.
struct Packed {
    recipe: &'static Recipe,
    version: Version,
    folder: PathBuf,
    digest: Digest,
}

impl<'a> Stage<'a> {
    /// Nothing runs yet.
    pub fn new(
        story: &'a Story,
        folder: &'a Path,
        models: &'a Path,
        devices: Vec<Device>,
    ) -> Result<Self> {
        let parts = Parts::new(folder.join("logs"))?;
        Ok(Self { story, folder, models, devices, bundles: Vec::new(), parts })
    }

    /// Plays the demo to its end; the fleet and the agents go on.
    pub async fn play(&mut self, http: SocketAddr, schedule: Schedule) -> Result<Figures> {
        self.make_keys_and_bundles().await?;
        let fleet = self.start_fleet(http).await?;
        self.start_agents(&fleet).await?;
        self.deploy(&fleet, Version::First).await?;
        self.wait_for_answers(&fleet).await?;
        let streaming = Instant::now();

        self.watch(&fleet, streaming, schedule.upgrade_after.min(schedule.length)).await?;
        self.deploy(&fleet, Version::Second).await?;
        self.watch(&fleet, streaming, schedule.length).await?;
        self.measure(&fleet, streaming).await
    }

    /// Watches the parts until one of them ends by itself, which is an error.
    pub async fn go_on(&mut self) -> Result<()> {
        loop {
            self.parts.check()?;
            tokio::time::sleep(wait::STEP).await;
        }
    }

    /// Ends the agents, which say farewell to the fleet, and then the fleet.
    pub async fn stop(&mut self) -> Result<()> {
        self.parts.stop(|part| part != FLEET).await?;
        self.parts.stop(|_| true).await
    }

    async fn make_keys_and_bundles(&mut self) -> Result<()> {
        let keys = self.folder.join("keys");
        self.parts.run("keys-new", &words!["keys", "new", &keys]).await?;
        self.story.tell("made keys: a root, a publisher's, a director's");
        for recipe in self.recipes() {
            for version in Version::ALL {
                let packed = self.pack(recipe, version).await?;
                self.bundles.push(packed);
            }
        }
        Ok(())
    }

    async fn pack(&self, recipe: &'static Recipe, version: Version) -> Result<Packed> {
        let name = format!("{}-{}", recipe.name, version.folder());
        let source = self.models.join(recipe.name).join(version.folder());
        let folder = self.folder.join("bundles").join(&name);
        let pack = words!["pack", &source, "--out", &folder];
        self.parts.run(&format!("pack-{name}"), &pack).await?;
        let bundle = Bundle::open(&folder, &Limits::default()).context("pack made no bundle")?;
        let digest = bundle.digest();
        let manifest = bundle.manifest();
        self.story.tell(format!(
            "packed {} {} ({})",
            manifest.name,
            manifest.version,
            digest.short()
        ));
        Ok(Packed { recipe, version, folder, digest })
    }

    async fn start_fleet(&mut self, http: SocketAddr) -> Result<Fleet> {
        let (keys, data) = (self.folder.join("keys"), self.folder.join("fleet"));
        let http = http.to_string();
        self.parts.start(
            FLEET,
            &words![
                "fleet",
                "--name",
                FLEET_NAME,
                "--keys",
                &keys,
                "--data",
                &data,
                "--http",
                &http,
                "--broker-listen",
                "127.0.0.1:0",
            ],
        )?;
        let addresses = data.join("addresses.json");
        let fleet = self
            .until("the fleet to listen", FLEET_LIMIT, |_| Fleet::listening_at(&addresses))
            .await?;
        self.story.announce(format!("the fleet listens; open its dashboard: {}/", fleet.url()));
        Ok(fleet)
    }

    async fn start_agents(&mut self, fleet: &Fleet) -> Result<()> {
        for device in &self.devices {
            let folder = self.folder.join(&device.id);
            let replay = self.models.join(device.recipe.name).join(device.recipe.replay);
            let rate_hz = device.recipe.rate_hz.to_string();
            let add = words![
                "device",
                "add",
                &device.id,
                "--fleet-url",
                fleet.url(),
                "--out",
                &folder,
                "--replay",
                &replay,
                "--slot",
                SLOT,
                "--rate-hz",
                &rate_hz,
            ];
            self.parts.run(&format!("device-add-{}", device.id), &add).await?;
            let config = folder.join("agent.toml");
            report_often(&config)?;
            self.parts.start(&device.id, &words!["agent", "--config", &config])?;
        }
        self.until("the agents to connect", CONNECT_LIMIT, |_| {
            let devices = fleet.devices()?;
            Ok(devices.values().all(|device| device.online).then_some(()))
        })
        .await?;
        self.story.tell(format!("{} agents are connected, each a process", self.devices.len()));
        Ok(())
    }

    /// Publishes `version` of every model for all its devices, and waits until they run it.
    async fn deploy(&mut self, fleet: &Fleet, version: Version) -> Result<()> {
        self.story.announce(format!("{} of each model goes out", version.in_words()));
        for bundle in self.bundles.iter().filter(|bundle| bundle.version == version) {
            let keys = self.folder.join("keys");
            let mut publish =
                words!["publish", &bundle.folder, "--keys", &keys, "--fleet-url", fleet.url()]
                    .to_vec();
            for device in self.devices.iter().filter(|device| device.recipe == bundle.recipe) {
                publish.extend(words!["--assign", &format!("{}/{SLOT}", device.id)]);
            }
            let name = format!("publish-{}-{}", bundle.recipe.name, version.folder());
            self.parts.run(&name, &publish).await?;
        }
        let mut told = BTreeSet::new();
        self.until("all devices to run what was published", DEPLOY_LIMIT, |stage| {
            stage.tell_who_runs(&fleet.devices()?, version, &mut told)?;
            Ok((told.len() == stage.devices.len()).then_some(()))
        })
        .await?;
        self.story.tell(format!("all {} devices run {}", told.len(), version.in_words()));
        Ok(())
    }

    fn tell_who_runs(
        &self,
        seen: &BTreeMap<String, DeviceSeen>,
        version: Version,
        told: &mut BTreeSet<String>,
    ) -> Result<()> {
        for device in &self.devices {
            let Some(seen) = seen.get(&device.id) else { continue };
            if let Some(problem) = seen.problems.first() {
                bail!("{} has a problem: {problem}", device.id);
            }
            if seen.runs(self.wanted(device, version)) && told.insert(device.id.clone()) {
                let (name, version) = (device.recipe.name, version.in_words());
                self.story.tell(format!("{} runs {version} of {name}", device.id));
            }
        }
        Ok(())
    }

    async fn wait_for_answers(&mut self, fleet: &Fleet) -> Result<()> {
        self.until("every device to answer", DEPLOY_LIMIT, |_| {
            let devices = fleet.devices()?;
            Ok(devices.values().all(DeviceSeen::answers).then_some(()))
        })
        .await?;
        self.story.tell("every device answers samples; answers stream in");
        Ok(())
    }

    /// Tells of the progress until `length` after `start`.
    async fn watch(&mut self, fleet: &Fleet, start: Instant, length: Duration) -> Result<()> {
        let mut next = Instant::now() + PROGRESS_EVERY;
        while start.elapsed() < length {
            self.parts.check()?;
            tokio::time::sleep(wait::STEP.min(length.saturating_sub(start.elapsed()))).await;
            if Instant::now() >= next {
                next += PROGRESS_EVERY;
                self.story.progress(&fleet.sums()?);
            }
        }
        Ok(())
    }

    /// The figures, once every device has counted up to here and the records that are under way are stored.
    async fn measure(&mut self, fleet: &Fleet, start: Instant) -> Result<Figures> {
        let before = fleet.devices()?;
        self.until("the counters of every device", COUNTERS_LIMIT, |stage| {
            let now = fleet.devices()?;
            let all = stage.devices.iter().all(|it| counted_since(&before, &now, &it.id));
            Ok(all.then_some(()))
        })
        .await?;
        let filled = self.until("records that others overtook", DRAIN_LIMIT, |_| {
            Ok((fleet.sums()?.sequence_gaps == 0).then_some(()))
        });
        if let Err(error) = filled.await {
            // The gaps are a finding, and stand in the figures.
            self.parts.check()?;
            self.story.warn(format!("{error:#}"));
        }
        let seen = fleet.devices()?;
        let on_latest = self.devices.iter().filter(|device| {
            let latest = self.wanted(device, Version::Second);
            seen.get(&device.id).is_some_and(|seen| seen.runs(latest))
        });
        let (on_latest, sums) = (on_latest.count(), fleet.sums()?);
        Ok(Figures::new(self.devices.len(), on_latest, &sums, start.elapsed().as_secs_f64()))
    }

    /// Asks until there is something, or a part has ended by itself.
    async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait_for(what, limit, async || {
            self.parts.check()?;
            ask(self)
        })
        .await
    }

    /// The recipes that some device runs.
    fn recipes(&self) -> Vec<&'static Recipe> {
        let mut recipes: Vec<_> = self.devices.iter().map(|device| device.recipe).collect();
        recipes.dedup();
        recipes
    }

    /// The bundle that `device` should run.
    fn wanted(&self, device: &Device, version: Version) -> &Digest {
        let mut bundles = self.bundles.iter();
        let packed = bundles.find(|it| it.recipe == device.recipe && it.version == version);
        &packed.expect("both versions of every recipe are packed first").digest
    }
}

/// Whether counters of `device` have come between `before` and `now`.
fn counted_since(
    before: &BTreeMap<String, DeviceSeen>,
    now: &BTreeMap<String, DeviceSeen>,
    device: &str,
) -> bool {
    let counted_ms = |seen: &BTreeMap<String, DeviceSeen>| seen.get(device)?.counted_ms();
    counted_ms(now).is_some() && counted_ms(now) != counted_ms(before)
}

/// Makes an agent's reports as frequent as a short demo needs them.
fn report_often(config: &Path) -> Result<()> {
    let cannot = |verb: &str| format!("cannot {verb} {}", config.display());
    let text = fs::read_to_string(config).with_context(|| cannot("read"))?;
    let mut table: Table = text.parse().with_context(|| cannot("understand"))?;
    for (section, key, seconds) in
        [("profile", "window_s", PROFILE_WINDOW_S), ("health", "interval_s", HEALTH_INTERVAL_S)]
    {
        let section = table.entry(section).or_insert_with(|| Table::new().into());
        section
            .as_table_mut()
            .with_context(|| cannot("understand"))?
            .insert(key.into(), seconds.into());
    }
    fs::write(config, table.to_string()).with_context(|| cannot("write"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_is_measured_by_counters_that_came_after_the_end() {
        let seen = |received_ms: Option<u64>| -> BTreeMap<String, DeviceSeen> {
            let health = received_ms.map(|it| json!({"inferences": 1, "received_ms": it}));
            let device = json!({"id": "a", "online": true, "problems": [], "reported": null, "health": health});
            let device = serde_json::from_value(device).expect("what the API gives of a device");
            BTreeMap::from([("a".to_owned(), device)])
        };
        let cases = [
            (None, None, false),
            (Some(1), Some(1), false),
            (Some(1), None, false),
            (None, Some(1), true),
            (Some(1), Some(2), true),
        ];
        let wrong: Vec<_> = cases
            .into_iter()
            .filter(|(before, now, is)| counted_since(&seen(*before), &seen(*now), "a") != *is)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(!counted_since(&seen(None), &seen(Some(1)), "b"), "a device that the API omits");
    }

    #[test]
    fn an_agent_keeps_its_configuration_and_reports_more_often() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let config = dir.path().join("agent.toml");
        fs::write(&config, "device = \"a\"\n[profile]\nwindow_s = 60\nother = 1\n")
            .expect("the folder can be written");
        report_often(&config).expect("the file is TOML");
        let text = fs::read_to_string(&config).expect("the file is there");
        let table: Table = text.parse().expect("the file is TOML");
        assert_eq!(table["device"].as_str(), Some("a"));
        assert_eq!(table["profile"]["window_s"].as_integer(), Some(PROFILE_WINDOW_S));
        assert_eq!(table["profile"]["other"].as_integer(), Some(1));
        assert_eq!(table["health"]["interval_s"].as_integer(), Some(HEALTH_INTERVAL_S));
    }
}
