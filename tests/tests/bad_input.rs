//! Bad input costs its sender, not the system: malformed payloads on every topic, both ways;
//! configurations, addresses and brokers that cannot be used; a disk that is full.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use selvedge_bundle::{Bundle, chunks_of};
use selvedge_link::{Delivery, LinkConfig, Publish, Refusal};
use selvedge_tests::{
    api::number,
    binary::selvedge,
    client::Client,
    mosquitto::Mosquitto,
    shuttle,
    stage::{Stage, id, replay, runs, topic_name},
};
use selvedge_wire::{
    Boot, Digest, Direction, Health, INTERFACE, PAYLOAD_BYTES_MAX, Topic, VERSION, encode,
};
use serde_json::Value;

/// A sender is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Long enough to fill every limit of a link.
const MIB: usize = 1024 * 1024;

#[test]
fn a_device_that_sends_nonsense_to_the_embedded_broker_is_counted_and_stops_nothing() {
    nonsense_of_a_device_stops_nothing(Stage::embedded_tls());
}

#[test]
fn a_device_that_sends_nonsense_to_mosquitto_is_counted_and_stops_nothing() {
    if let Some(stage) = Stage::mosquitto() {
        nonsense_of_a_device_stops_nothing(stage);
    }
}

fn nonsense_of_a_device_stops_nothing(mut stage: Stage) {
    let started = Instant::now();
    let bundle = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", bundle);
    stage.wait_for_results("line-1", 1, 1);
    let noisy = Client::connect(stage.add_device("noisy"));

    let rows: Vec<_> = INTERFACE.iter().filter(|row| row.direction == Direction::Up).collect();
    let mut counted = 0;
    for row in &rows {
        let topic = format!("selvedge/1/demo/{}", row.topic.replace("{device}", "noisy"));
        for payload in nonsense() {
            // An empty payload clears what is retained, so there it says nothing.
            counted += u64::from(!(payload.is_empty() && row.retained));
            noisy.plant(Publish::new(topic.clone(), payload));
        }
        let far_too_long = Publish::new(topic, vec![VERSION; MIB]);
        let refused = Delivery::Refused { code: Refusal::PacketTooLarge };
        assert_eq!(noisy.publish(far_too_long), refused);
    }
    stage.wait_for_device("noisy", "nonsense counted", |seen| seen["malformed"] == counted);
    let fleet = stage.api().get("/api/v1/fleet");
    let senders = fleet["malformed"].as_array().expect("senders are a list");
    assert_eq!(senders.len(), 1, "{senders:?}");
    assert_eq!(senders[0]["sender"], "noisy");

    let health = encode(&health());
    noisy.plant(stage.said_by("noisy", &Topic::Health(id("noisy")), health));
    stage.wait_for_device("noisy", "the next good message", |seen| {
        seen["health"]["inferences"].as_u64() == Some(7)
    });
    let stored = number(&stage.stream("line-1", 1, "results")["records"]);
    stage.wait_for_results("line-1", 1, stored + 20);
    let said = stage.fleet_said();
    let lines = said.lines().filter(|line| line.contains("noisy")).count();
    assert!((1..=lines_max(started)).contains(&lines), "{lines} lines:\n{said}");
}

#[test]
fn a_broker_that_sends_nonsense_to_a_device_is_counted_and_stops_nothing() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let started = Instant::now();
    let (first, second) = (shuttle::bundle("v1"), shuttle::bundle("v2"));
    stage.publish(&first);
    stage.publish(&second);
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", first.digest());
    let mut thief = stage.thief();
    let [desired, stored, captures] = [Topic::Desired, Topic::Stored, Topic::Captures]
        .map(|topic| topic_name(&topic(id("line-1"))));
    let metadata = Topic::Metadata("timestamp.json".parse().expect("the name is well formed"));
    let metadata = topic_name(&metadata);
    let [offer, chunk] = fetched_topics(&second);
    let rows = INTERFACE.iter().filter(|row| row.direction != Direction::Up);
    assert_eq!(
        rows.count(),
        [&desired, &stored, &captures, &metadata, &offer, &chunk].len(),
        "all are here"
    );
    let mut counted = 0;
    let mut say_nonsense = |stage: &Stage, thief: &Client, topic: &String| {
        for payload in nonsense() {
            // An empty payload clears what is retained, so it says nothing.
            counted += u64::from(!payload.is_empty());
            thief.plant(Publish::new(topic.clone(), payload));
            stage.wait_for_device("line-1", &format!("nonsense on {topic}"), |seen| {
                seen["health"]["inputs_malformed"].as_u64() >= Some(counted)
            });
        }
    };
    say_nonsense(&stage, &thief, &desired);
    say_nonsense(&stage, &thief, &stored);
    say_nonsense(&stage, &thief, &captures);
    for payload in nonsense() {
        thief.plant(Publish::new(metadata.clone(), payload));
    }
    stage.wait_for_event("line-1", "metadata-refused", "timestamp.json");

    // An offer and a chunk are listened to while they are needed: neither is there yet.
    stage.agent("line-1").pause();
    stage.assign("line-1", second.digest());
    let [good_offer, good_chunk] = [&offer, &chunk].map(|topic| thief.retained(topic));
    let take_away = |topic: &String| thief.plant(Publish::retained(topic.clone(), Vec::new()));
    take_away(&offer);
    take_away(&chunk);
    stage.agent("line-1").resume();
    stage.wait_for_device("line-1", "a device that looks for its bundle", |seen| {
        seen["reported"]["slots"][0]["phase"] == "fetching"
    });
    say_nonsense(&stage, &thief, &offer);
    thief.plant(Publish::retained(offer, good_offer));
    stage.wait_for_device("line-1", "a device that waits for one chunk", |seen| {
        let slot = &seen["reported"]["slots"][0];
        let [present, total] = ["chunks_present", "chunks_total"].map(|key| slot[key].as_u64());
        total > Some(0) && present.map(|present| present + 1) == total
    });
    say_nonsense(&stage, &thief, &chunk);
    assert!(runs(&stage.api().get("/api/v1/devices/line-1"), first.digest()));
    thief.plant(Publish::retained(chunk, good_chunk));

    stage.wait_until_runs("line-1", second.digest());
    let seen = stage.api().get("/api/v1/devices/line-1");
    assert_eq!(number(&seen["health"]["inferences_failed"]), 0);
    assert_eq!(number(&seen["sequence_gaps"]), 0);
    let said = stage.agent_said("line-1");
    let lines = said.matches("unreadable").count();
    assert!((1..=lines_max(started)).contains(&lines), "{lines} lines:\n{said}");
}

#[test]
fn a_sensor_that_sends_nonsense_is_counted_and_its_next_sample_is_answered() {
    let Some(site) = Mosquitto::open("") else { return };
    let mut stage = Stage::embedded();
    let bundle = stage.publish(&shuttle::bundle("v1"));
    let tables = format!(
        "[[source]]\nname = \"press\"\nkind = \"mqtt\"\nslot = \"main\"\ntopic = \"press/1\"\n\
         [local_broker]\nurl = \"{}\"\n",
        site.url()
    );
    stage.add_agent("line-1", &tables);
    // Its probation goes on until there are samples.
    stage.assign("line-1", bundle);
    stage.wait_for_device("line-1", "a bundle that answers", |seen| runs(seen, bundle));
    stage.wait_for_agent_to_say("line-1", "the local broker is connected", 1);
    let sensor = Client::connect(LinkConfig::new(site.url(), "press"));
    let bad: [&[u8]; 5] =
        [b"", b"\xff\xfe", b"[1, 2]", b"{\"rows\": []}", b"[1,2,3,4,5,6,7,8,null]"];
    for payload in bad {
        sensor.plant(Publish::new("press/1", payload));
    }
    stage.wait_for_device("line-1", "nonsense counted", |seen| {
        seen["health"]["inputs_malformed"].as_u64() == Some(bad.len() as u64)
    });
    stage.wait_for_event("line-1", "input-malformed", "press/1: 1 unreadable");
    sensor.plant(Publish::new("press/1", *b"[46, 2, 83, 0, 46, 3, 37, 36, 0]"));
    stage.wait_for_results("line-1", 1, 1);
    let result = &stage.api().rows("line-1", "results")[0];
    assert_eq!((&result["source"], &result["label"]), (&"press".into(), &"normal".into()));
}

/// A file, with `{}` where the fault is, and what the error must name.
struct Fault {
    fault: &'static str,
    names: &'static [&'static str],
}

#[test]
fn an_agents_configuration_with_a_fault_names_key_line_and_what_was_expected() {
    const FAULTS: &[Fault] = &[
        Fault { fault: "windows_s = 60", names: &[":9", "windows_s", "expected"] },
        Fault { fault: "window_s = \"60 s\"", names: &[":9", "window_s", "expected"] },
        Fault { fault: "window_s = 0", names: &[":9", "window_s", "expected 1 to 86400 seconds"] },
        Fault {
            fault: "[[source]]\nname = \"a\"\nkind = \"replay\"\nslot = \"main\"\nfile = \"none.csv\"\nrate_hz = 1.0",
            names: &[":13", "file", "none.csv", "No such file"],
        },
        Fault {
            fault: "[[source]]\nname = \"a\"\nkind = \"camera\"",
            names: &[":11", "kind", "expected \"replay\", \"mqtt\" or \"node\""],
        },
        Fault { fault: "window_s = ", names: &[":9"] },
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("root.json"), "{}").expect("the folder can be written");
    let path = folder.path().join("agent.toml");
    let failures: Vec<String> = FAULTS
        .iter()
        .filter_map(|Fault { fault, names }| {
            let text = format!(
                "device = \"line-1\"\nfleet = \"demo\"\nstate_dir = \"state\"\nroot = \"root.json\"\n\n\
                 [broker]\nurl = \"mqtt://127.0.0.1:1\"\n[profile]\n{fault}\n"
            );
            fs::write(&path, text).expect("the folder can be written");
            complaint(&["agent", "--config", &path.display().to_string()], "agent.toml", names)
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let missing = folder.path().join("none.toml").display().to_string();
    let failure = complaint(&["agent", "--config", &missing], "none.toml", &["No such file"]);
    assert_eq!(failure, None);
}

#[test]
fn a_fleets_configuration_with_a_fault_names_key_line_and_what_was_expected() {
    const FAULTS: &[Fault] = &[
        Fault { fault: "htpp = \"127.0.0.1:0\"", names: &["line 2", "htpp", "expected"] },
        Fault { fault: "http = \"127.0.0.1\"", names: &["line 2", "http"] },
        Fault { fault: "http = 8080", names: &["line 2", "http", "expected"] },
        Fault { fault: "broker = \"http://broker\"", names: &["line 2", "broker", "mqtt://"] },
        Fault { fault: "http = \"0.0.0.0:80\"", names: &["loopback"] },
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("fleet.toml");
    let arguments = ["fleet", "--config", &path.display().to_string()];
    let failures: Vec<String> = FAULTS
        .iter()
        .filter_map(|Fault { fault, names }| {
            fs::write(&path, format!("keys = \"keys\"\n{fault}\n")).expect("it can be written");
            let file = if fault.contains("0.0.0.0") { "" } else { "fleet.toml" };
            complaint(&arguments, file, names)
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    fs::write(&path, "keys = \"none\"\n").expect("the folder can be written");
    let data = folder.path().join("data").display().to_string();
    let arguments = [&arguments[..], &["--data", &data]].concat();
    assert_eq!(complaint(&arguments, "none/root.json", &["No such file"]), None);
}

#[test]
fn a_port_in_use_is_one_clear_line_and_an_exit_code() {
    let stage = Stage::embedded();
    let holder = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    let taken = holder.local_addr().expect("the listener has an address").to_string();
    let keys = stage.keys().folder().display().to_string();
    for (data, http, broker, what) in
        [("a", taken.as_str(), "127.0.0.1:0", "HTTP"), ("b", "127.0.0.1:0", taken.as_str(), "MQTT")]
    {
        let data = stage.folder().join(data).display().to_string();
        let arguments =
            ["fleet", "--keys", &keys, "--data", &data, "--http", http, "--broker-listen", broker];
        assert_eq!(complaint(&arguments, &taken, &[what, "in use"]), None);
    }
}

#[test]
fn a_second_agent_on_one_state_directory_is_refused() {
    let mut stage = Stage::embedded();
    stage.add_agent("line-1", "");
    stage.wait_for_device("line-1", "the first agent", |seen| seen["online"] == true);
    let config = stage.device_folder("line-1").join("agent.toml").display().to_string();
    let failure = complaint(&["agent", "--config", &config], "another agent", &["state_dir"]);
    assert_eq!(failure, None);
}

#[test]
fn a_broker_that_cannot_be_reached_is_tried_again_and_both_sides_say_so() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let bundle = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", bundle);
    stage.wait_for_results("line-1", 1, 20);
    stage.take_agent("line-1").stop();
    stage.kill_fleet();
    stage.kill_broker(false);

    stage.start_fleet();
    stage.start_agent("line-1");
    stage.wait_for("/api/v1/fleet", "a fleet that knows it", |fleet| {
        fleet["broker_connected"] == false
    });
    stage.wait_for_fleet_to_say("trying again in");
    stage.wait_for_agent_to_say("line-1", "next try in", 1);
    // The edge stands alone.
    stage.wait_for_agent_to_say("line-1", "shuttle 1.0.0 takes over", 2);
    stage.start_broker();
    stage.wait_for("/api/v1/fleet", "a fleet that is back", |fleet| {
        fleet["broker_connected"] == true
    });
    stage.wait_for_results("line-1", 2, 50);
    let offline = &stage.api().rows("line-1", "results");
    assert!(offline.iter().any(|row| row["boot"] == 2 && row["sequence"] == 1));
}

#[test]
fn a_full_disk_is_said_and_inference_goes_on_until_there_is_room() {
    let mut stage = Stage::embedded();
    let state = stage.device_folder("line-1").join("state");
    let Some(disk) = SmallDisk::mount(&state) else { return };
    let (first, second) =
        (stage.publish(&shuttle::bundle("v1")), stage.publish(&shuttle::bundle("v2")));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", first);
    stage.wait_for_results("line-1", 1, 20);

    disk.fill(0);
    stage.wait_for_agent_to_say("line-1", "keeps trying", 1);
    stage.assign("line-1", second);
    stage.wait_for_agent_to_say("line-1", "a new desired state waits", 1);
    let inferences = |seen: &Value| number(&seen["health"]["inferences"]);
    let before = inferences(&stage.api().get("/api/v1/devices/line-1"));
    let seen = stage
        .wait_for_device("line-1", "inference going on", |seen| inferences(seen) >= before + 40);
    assert!(runs(&seen, first));

    // Room for records, but not for a bundle.
    disk.fill(4 * MIB);
    stage.wait_for_device("line-1", "a reason", |seen| {
        let reason = seen["reported"]["slots"][0]["reason"].as_str();
        reason
            .is_some_and(|reason| reason.contains("bytes free") && reason.contains("trying again"))
    });
    stage.wait_for_agent_to_say("line-1", "writes again", 1);

    disk.free();
    stage.wait_until_runs("line-1", second);
    let stored = number(&stage.stream("line-1", 1, "results")["records"]);
    stage.wait_for_results("line-1", 1, stored + 50);
    let seen = stage.api().get("/api/v1/devices/line-1");
    assert_eq!((number(&seen["sequence_gaps"]), number(&seen["records_dropped"])), (0, 0));
    assert_eq!(number(&seen["health"]["inferences_failed"]), 0);
    stage.take_agent("line-1").stop();
}

/// Payloads that encode no message: nothing at all, noise, noise behind a good version, too much.
fn nonsense() -> [Vec<u8>; 4] {
    let noise = [0xff; 64].to_vec();
    let too_long = vec![VERSION; PAYLOAD_BYTES_MAX + 1];
    [Vec::new(), noise.clone(), [vec![VERSION], noise].concat(), too_long]
}

/// The topics of a bundle's offer, and of a chunk that no other bundle has.
fn fetched_topics(bundle: &Bundle) -> [String; 2] {
    let manifest: Digest = bundle.digest();
    let own = chunks_of(bundle).map(|(chunk, _)| chunk.digest).next().expect("it has chunks");
    [topic_name(&Topic::Bundle(manifest)), topic_name(&Topic::Chunk(own))]
}

/// How many lines a sender may have by now.
fn lines_max(started: Instant) -> usize {
    1 + (started.elapsed().as_secs() / LOG_EVERY.as_secs()) as usize
}

fn health() -> Health {
    Health {
        boot: Boot(1),
        uptime_s: 1,
        inferences: 7,
        inferences_failed: 0,
        inputs_malformed: 0,
        inputs_anomalous: 0,
        swaps: 0,
        sent_bytes: 0,
        received_bytes: 0,
        resident_bytes: 0,
        resident_bytes_peak: 0,
        spool_bytes: 0,
        records_dropped: 0,
    }
}

/// Runs a command that must fail with one line that has all of these words; says what else it did.
fn complaint(arguments: &[&str], what: &str, names: &[&str]) -> Option<String> {
    let Output { status, stderr, .. } = Command::new(selvedge())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    let has_all = said.contains(what) && names.iter().all(|name| said.contains(name));
    let good = status.code().is_some_and(|code| code != 0) && said.lines().count() == 1 && has_all;
    (!good).then(|| {
        format!("{arguments:?} ended with {status}, expected {what:?} and {names:?}:\n{said}")
    })
}

/// A disk of 24 MiB in memory.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one; nothing, and a word about it, if this user may not.
    fn mount(folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).expect("the folder of the test can be written");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this user may not mount a small disk");
            return None;
        }
        Some(Self { folder: folder.to_owned() })
    }

    /// Leaves only so many bytes free.
    fn fill(&self, free_bytes: usize) {
        self.free();
        let mut file = File::create(self.filler()).expect("there is room for an empty file");
        // It ends when the disk is full, whoever else writes meanwhile.
        while file.write_all(&[0; 4096]).is_ok() {}
        let len = file.metadata().expect("the file is open").len();
        file.set_len(len.saturating_sub(free_bytes as u64)).expect("a file can be made shorter");
    }

    fn free(&self) {
        // It is not there at first.
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since the agent may still use it; it goes with its last user.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
