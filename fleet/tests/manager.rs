//! The manager with its own broker, seen from devices and from its API.

mod support;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde_json::json;

use selvedge_bundle::{Bundle, ChunkIndex, expand, write_statement};
use selvedge_fleet::{Broker, EmbeddedBroker, ErrorKind, RunningFleet, ServerTls, one_line};
use selvedge_link::{Delivery, LinkEvent, Login, Refusal};
use selvedge_trust::UnixMillis;
use selvedge_wire::{
    Batch, Boot, BundleOffer, Chunk, Desired, Digest, Event, EventKind, Health, InferenceResult,
    NodeId, Outcome, ProfileOrigin, ProfileRecord, Quantity, Reading, Record, Reported, Running,
    Sequence, SlotPhase, SlotReport, Status, Stored, Stream, Topic, WindowRange, decode,
};

use support::{Desk, Device, fleet_name};

/// Makes a bundle that was packed well one to refuse.
type Spoil<'a> = &'a dyn Fn(&Path, &Bundle);

fn result(sample: u64) -> InferenceResult {
    InferenceResult {
        at_ms: 1_800_000_000_000,
        slot: "main".parse().expect("the name is well formed"),
        bundle: Digest([7; 32]),
        source: "replay".into(),
        sample,
        latency_us: 90,
        outcome: Outcome::Class { index: 1, score: 0.75 },
    }
}

fn results(first: u64, count: u64) -> Batch<InferenceResult> {
    let records = (first..first + count).map(|sample| Record::One(result(sample))).collect();
    Batch { boot: Boot(1), first: Sequence(first), records }
}

fn through(stored: &Stored, stream: Stream) -> u64 {
    let found = stored.streams.iter().find(|one| one.stream == stream && one.boot == Boot(1));
    found.map_or(0, |one| one.through.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_stored_once_and_the_device_is_told() {
    let desk = Desk::start().await;
    let mut device = desk.connect_device("line-1").await;
    device.subscribe("down/line-1/#").await;
    let (up, down) =
        (Topic::Stream(device.id.clone(), Stream::Results), Topic::Stored(device.id.clone()));
    for batch in [results(1, 10), results(6, 10), results(30, 5), results(1, 10)] {
        assert_eq!(device.say(up.clone(), &batch).await, Delivery::Accepted);
    }
    device.message::<Stored>(&down, |stored| through(stored, Stream::Results) == 15).await;
    let fleet = desk
        .wait_for("/api/v1/fleet", |fleet| fleet["results"] == 20 && fleet["sequence_gaps"] == 14)
        .await;
    assert_eq!(fleet["malformed"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_to_forget_records_of_boots_that_are_settled() {
    let mut desk = Desk::new();
    let mut config = desk.config();
    config.limits.boots_kept_max = 1;
    desk.start_with(config).await;
    let mut device = desk.connect_device("line-1").await;
    device.subscribe("down/line-1/#").await;
    let (up, down) =
        (Topic::Stream(device.id.clone(), Stream::Results), Topic::Stored(device.id.clone()));
    let later = Batch { boot: Boot(2), ..results(1, 3) };
    device.say(up.clone(), &later).await;
    device.message::<Stored>(&down, |stored| stored.streams.len() == 1).await;
    device.say(up, &results(5, 10)).await;
    device.message::<Stored>(&down, |stored| through(stored, Stream::Results) == 14).await;
    let fleet = desk.get("/api/v1/fleet").await;
    assert_eq!((&fleet["results"], &fleet["malformed"][0]["count"]), (&json!(3), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_manager_takes_up_where_it_was() {
    let mut desk = Desk::new();
    desk.start_fleet().await;
    let added = desk.add_device("line-1").await;
    let mut device = Device::connect(desk.link_config(&added, "line-1"), "line-1");
    device.wait_until_up().await;
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    device.say(up.clone(), &results(1, 10)).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 10).await;
    desk.stop_fleet().await;

    desk.start_fleet().await;
    let mut again = desk.link_config(&added, "line-1");
    let address = desk.fleet.as_ref().expect("the manager runs").addresses().broker.clone();
    again.url = address.parse().expect("the manager knows its broker");
    let mut device = Device::connect(again, "line-1");
    device.wait_until_up().await;
    device.subscribe("down/line-1/#").await;
    let down = Topic::Stored(device.id.clone());
    device.message::<Stored>(&down, |stored| through(stored, Stream::Results) == 10).await;
    device.say(up, &results(5, 10)).await;
    device.message::<Stored>(&down, |stored| through(stored, Stream::Results) == 14).await;
    let fleet = desk.get("/api/v1/fleet").await;
    assert_eq!((&fleet["results"], &fleet["sequence_gaps"]), (&json!(14), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_counted_by_sender_and_stops_nothing() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let name = |topic: &Topic| device.topics.name(topic);
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    let health = Topic::Health(device.id.clone());
    for payload in [vec![], vec![1], vec![1, 2, 3], vec![1; 5000], vec![9, 1, 2]] {
        assert_eq!(device.say_bytes(&name(&up), payload).await, Delivery::Accepted);
    }
    let shown = desk.wait_for("/api/v1/fleet", |fleet| fleet["malformed"][0]["count"] == 5).await;
    assert_eq!(shown["malformed"][0]["sender"], "line-1");
    assert_eq!(shown["malformed"][0]["versions"], 1);
    let seen = desk.get("/api/v1/devices/line-1").await;
    assert_eq!(seen["problems"], json!(["speaks wire version 9; this fleet reads 1 to 1"]));

    device.say(up, &results(1, 3)).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 3).await;
    device.say_bytes(&name(&health), vec![1]).await;
    desk.wait_for("/api/v1/devices/line-1", |seen| {
        seen["malformed"] == 6 && seen["problems"] == json!([])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_kept_to_its_own_topics() {
    let desk = Desk::start().await;
    let mut thief = desk.connect_device("thief").await;
    let _victim = desk.connect_device("victim").await;
    let victim = "victim".parse().expect("the name is well formed");
    let refused = Delivery::Refused { code: Refusal::NotAuthorized };
    let desired = Desired { document: vec![1] };
    let up = Topic::Stream("victim".parse().expect("a name"), Stream::Results);
    assert_eq!(thief.say(up, &results(1, 1)).await, refused);
    assert_eq!(thief.say(Topic::Desired(victim), &desired).await, refused);
    assert_eq!(thief.say(Topic::Desired(thief.id.clone()), &desired).await, refused);
    assert_eq!(thief.say_bytes("elsewhere", vec![1]).await, refused);
    for filter in ["down/victim/#", "down/+/desired", "up/#", "#"] {
        thief.subscribe(filter).await;
        let full = format!("selvedge/1/{}/{filter}", fleet_name());
        thief
            .wait_for("the refusal", |event| match event {
                LinkEvent::SubscriptionRefused { filter, code } if filter == full => {
                    assert_eq!(code, Refusal::NotAuthorized);
                    Some(())
                }
                _ => None,
            })
            .await;
    }
    let own = Topic::Stream(thief.id.clone(), Stream::Results);
    assert_eq!(thief.say(own, &results(1, 1)).await, Delivery::Accepted);
    let fleet = desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 1).await;
    assert_eq!(fleet["malformed"], json!([]), "what was refused never came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_who_knows_the_password() {
    let desk = Desk::start().await;
    let mut victim = desk.connect_device("victim").await;
    victim.subscribe("down/victim/#").await;
    let thief = desk.add_device("thief").await;
    let good = desk.link_config(&thief, "thief");
    let login =
        |user: &str, password: &str| Some(Login { user: user.into(), password: password.into() });
    let password = thief["password"].as_str().expect("it is shown once");
    for (client_id, login) in [
        ("victim", login("thief", password)),
        ("victim", login("victim", password)),
        ("thief", login("thief", "wrong")),
        ("fleet-manager", login("fleet-manager", password)),
        ("thief", None),
    ] {
        let mut config = good.clone();
        config.client_id = client_id.into();
        config.login = login;
        Device::connect(config, "thief").wait_until_refused().await;
    }
    let status = Topic::Stream(victim.id.clone(), Stream::Results);
    assert_eq!(victim.say(status, &results(1, 1)).await, Delivery::Accepted, "its link is up");

    desk.call("DELETE", "/api/v1/devices/victim", None).await;
    victim.wait_until_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_connect_over_tls() {
    let mut desk = Desk::new();
    let (certificate, key, ca) = certificates(desk.folder.path());
    let mut config = desk.config();
    let tls = Some(ServerTls { certificate, key });
    config.broker = Broker::Embedded(EmbeddedBroker { listen: free_port(), tls });
    let Broker::Embedded(broker) = &config.broker else { unreachable!("it was just set") };
    let url = format!("mqtts://localhost:{}", broker.listen.port());
    config.advertise = Some(url.parse().expect("the address is well formed"));
    config.broker_ca = Some(ca);
    desk.start_with(config).await;
    let device = desk.connect_device("line-1").await;
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    assert_eq!(device.say(up, &results(1, 3)).await, Delivery::Accepted);
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 3).await;
}

/// A port that was free a moment ago.
fn free_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
}

fn certificates(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf, std::path::PathBuf) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .expect("a certificate can be made");
    let (certificate, key) = (folder.join("broker.pem"), folder.join("broker.key"));
    fs::write(&certificate, own.cert.pem()).expect("the folder can be written");
    fs::write(&key, own.signing_key.serialize_pem()).expect("the folder can be written");
    (certificate.clone(), key, certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_reaches_the_device_in_chunks_and_is_cleared_when_nobody_needs_it() {
    let desk = Desk::start().await;
    let (folder, bundle) = desk.pack(1);
    let (status, published) = desk.publish(&folder).await;
    assert_eq!(status, 201, "{published}");
    assert_eq!(published["digest"], json!(bundle.digest()));
    assert_eq!(published["manifest"]["labels"], json!(["no", "yes"]));

    let mut device = desk.connect_device("line-1").await;
    device.subscribe("down/line-1/#").await;
    let generation = desk.assign("line-1", bundle.digest()).await;
    let desired: Desired = device.message(&Topic::Desired(device.id.clone()), |_| true).await;
    let state = desk
        .root
        .verify_desired(&desired.document, &device.id, &fleet_name(), generation, UnixMillis(0))
        .expect("the device believes it");
    let slot = "main".parse().expect("the name is well formed");
    assert_eq!(state.slots[&slot].bundle, bundle.digest());

    device.subscribe(&format!("all/bundles/{}", bundle.digest().hex())).await;
    let offer: BundleOffer = device.message(&Topic::Bundle(bundle.digest()), |_| true).await;
    let statement = desk
        .root
        .verify_statement(&offer.statement, UnixMillis(0))
        .expect("the device believes the statement");
    assert_eq!(statement.bundle(), bundle.digest());
    let index = ChunkIndex::decode(&offer.index).expect("the index is sound");
    device.subscribe("all/chunks/#").await;
    let mut missing: BTreeMap<String, _> = index
        .chunks()
        .map(|chunk| (device.topics.name(&Topic::Chunk(chunk.digest)), chunk))
        .collect();
    device
        .wait_for("all chunks", |event| {
            let LinkEvent::Message(incoming) = event else { return None };
            if let Some(chunk) = missing.remove(&incoming.topic) {
                let message: Chunk = decode(&incoming.payload).expect("the manager speaks well");
                expand(&message, &chunk).expect("the chunk is whole");
            }
            incoming.ack.accept();
            missing.is_empty().then_some(())
        })
        .await;

    desk.call("PUT", "/api/v1/devices/line-1/desired", Some(json!({ "slots": {} }))).await;
    let topic = device.topics.name(&Topic::Bundle(bundle.digest()));
    device
        .wait_for("the offer's end", |event| {
            let LinkEvent::Message(incoming) = event else { return None };
            let cleared = incoming.topic == topic && incoming.payload.is_empty();
            incoming.ack.accept();
            cleared.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_devices_would_refuse_is_refused_with_the_reason() {
    let desk = Desk::start().await;
    let fresh = |seed| desk.pack(seed);
    let stranger = Desk::new();
    let cases: [(&str, Spoil<'_>); 5] = [
        ("statement.json", &|folder, _| {
            fs::remove_file(folder.join("statement.json")).expect("it was there");
        }),
        ("sign", &|folder, bundle| {
            let statement = desk.statement(bundle).sign(&stranger.targets);
            write_statement(folder, &statement).expect("the folder can be written");
        }),
        ("chunk index", &|folder, bundle| {
            let mut statement = desk.statement(bundle);
            statement.chunk_index.digest = Digest([1; 32]);
            write_statement(folder, &statement.sign(&desk.targets)).expect("it can be written");
        }),
        ("example 2.0.0", &|folder, bundle| {
            let mut statement = desk.statement(bundle);
            statement.version = "2.0.0".into();
            write_statement(folder, &statement.sign(&desk.targets)).expect("it can be written");
        }),
        ("sha256:", &|folder, bundle| {
            let (digest, _) = bundle.blobs().last().expect("a bundle has blobs");
            let path = folder.join(format!("blobs/sha256/{}", digest.hex()));
            let mut bytes = fs::read(&path).expect("the blob is there");
            bytes[0] ^= 1;
            fs::write(&path, bytes).expect("the folder can be written");
        }),
    ];
    for (seed, (reason, spoil)) in (1..).zip(cases) {
        let (folder, bundle) = fresh(seed);
        spoil(&folder, &bundle);
        let (status, answer) = desk.publish(&folder).await;
        assert_eq!(status, 400, "{reason}: {answer}");
        let error = answer["error"].as_str().expect("errors are one sentence");
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for (kind, body, reason) in [
        ("application/x-tar", vec![0x55; 2000], "tar"),
        ("application/x-tar", vec![], "is missing"),
        ("application/json", vec![], "Content-Type"),
    ] {
        let (status, answer) = desk.send("POST", "/api/v1/bundles", Some((kind, body))).await;
        assert_eq!(status, 400, "{answer}");
        let error = answer["error"].as_str().expect("errors are one sentence");
        assert!(error.contains(reason), "{reason}: {error}");
    }
    assert_eq!(desk.get("/api/v1/bundles").await, json!([]));
    let (folder, bundle) = fresh(9);
    assert_eq!(desk.publish(&folder).await.0, 201);
    assert_eq!(desk.publish(&folder).await.0, 201, "publishing again changes nothing");
    let unknown = json!({ "slots": { "main": Digest([9; 32]) } });
    desk.add_device("line-1").await;
    let (status, _) = desk.call("PUT", "/api/v1/devices/line-1/desired", Some(unknown)).await;
    assert_eq!(status, 404);
    assert_eq!(desk.assign("line-1", bundle.digest()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_reports_stands_in_the_api_and_on_the_page() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let (folder, bundle) = desk.pack(1);
    desk.publish(&folder).await;
    desk.assign("line-1", bundle.digest()).await;
    let boot = Boot(1);
    let status = Status {
        online: true,
        boot,
        agent_version: "0.1.0".into(),
        wire_oldest: 1,
        wire_newest: 1,
        hardware_class: "aarch64".into(),
    };
    device.say(Topic::Status(device.id.clone()), &status).await;
    let running = Running { bundle: Digest([3; 32]), name: "old".into(), version: "0.9.0".into() };
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Refused,
        running: Some(running),
        desired: Some(bundle.digest()),
        reason: Some("golden vector 3 of <y> is off by 0.5".into()),
    };
    let reported = Reported { boot, generation: 1, slots: vec![slot] };
    device.say(Topic::State(device.id.clone()), &reported).await;
    let health = Health {
        boot,
        uptime_s: 10,
        inferences: 500,
        inferences_failed: 1,
        inputs_malformed: 2,
        swaps: 3,
        sent_bytes: 4,
        received_bytes: 5,
        resident_bytes: 6,
        resident_bytes_peak: 7,
        spool_bytes: 8,
        records_dropped: 9,
    };
    device.say(Topic::Health(device.id.clone()), &health).await;
    let event = Event {
        at_ms: 1_800_000_000_000,
        kind: EventKind::BundleRefused,
        slot: None,
        bundle: Some(bundle.digest()),
        detail: "the bundle was refused".into(),
    };
    let events = Batch { boot, first: Sequence(1), records: vec![Record::One(event)] };
    device.say(Topic::Stream(device.id.clone(), Stream::Events), &events).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["events"] == 1).await;

    let seen = desk.get("/api/v1/devices/line-1").await;
    let slot = &seen["reported"]["slots"][0];
    assert_eq!((&slot["phase"], &slot["running"]["version"]), (&json!("refused"), &json!("0.9.0")));
    assert_eq!(seen["problems"], json!(["main: golden vector 3 of <y> is off by 0.5"]));
    assert_eq!(seen["health"]["inferences"], 500);
    assert_eq!(seen["online"], true);
    let events = desk.get("/api/v1/devices/line-1/events").await;
    assert_eq!(events[0]["kind"], "bundle-refused");
    let page = desk.get("/").await;
    let page = page.as_str().expect("the page is text");
    for part in ["line-1", "0.9.0", "refused", "golden vector 3 of &lt;y&gt;", "aarch64"] {
        assert!(page.contains(part), "{part} stands on the page");
    }
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "nothing comes from elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_one_device_takes_the_pages_of_all_away() {
    const COUNT_MAX: u64 = (1 << 53) - 1;
    let desk = Desk::start().await;
    let devices = [desk.connect_device("line-1").await, desk.connect_device("line-2").await];
    for device in &devices {
        for (boot, count) in [(1, i64::MAX as u64), (2, u64::MAX), (3, COUNT_MAX), (4, COUNT_MAX)] {
            let health = Health {
                boot: Boot(boot),
                uptime_s: count,
                inferences: count,
                inferences_failed: count,
                inputs_malformed: count,
                swaps: count,
                sent_bytes: count,
                received_bytes: count,
                resident_bytes: count,
                resident_bytes_peak: count,
                spool_bytes: count,
                records_dropped: count,
            };
            device.say(Topic::Health(device.id.clone()), &health).await;
        }
        let extreme = InferenceResult {
            at_ms: u64::MAX,
            sample: u64::MAX,
            latency_us: u32::MAX,
            outcome: Outcome::Class { index: u32::MAX, score: f32::MAX },
            ..result(0)
        };
        let results = Batch {
            boot: Boot(u32::MAX),
            first: Sequence(2),
            records: vec![Record::Dropped { covers: COUNT_MAX - 2 }, Record::One(extreme)],
        };
        device.say(Topic::Stream(device.id.clone(), Stream::Results), &results).await;
        let profile = ProfileRecord {
            origin: ProfileOrigin::Node {
                node: NodeId(u64::MAX),
                latest: Reading {
                    count: u32::MAX,
                    uptime_ms: u32::MAX,
                    quantity: Quantity::TemperatureMilliCelsius,
                    value: i32::MIN,
                },
            },
            windows: WindowRange { first: 0, last: u64::MAX },
            opened_ms: 0,
            closed_ms: u64::MAX,
            profile: vec![0xff; 64],
        };
        let profiles = Batch {
            boot: Boot(u32::MAX),
            first: Sequence(1),
            records: vec![Record::Merged { covers: COUNT_MAX, value: profile }],
        };
        device.say(Topic::Stream(device.id.clone(), Stream::Profiles), &profiles).await;
        let event = Event {
            at_ms: u64::MAX,
            kind: EventKind::Started,
            slot: None,
            bundle: None,
            detail: String::new(),
        };
        let events = Batch {
            boot: Boot(u32::MAX),
            first: Sequence(COUNT_MAX),
            records: vec![Record::One(event)],
        };
        device.say(Topic::Stream(device.id.clone(), Stream::Events), &events).await;
        let reported = Reported { boot: Boot(u32::MAX), generation: u64::MAX, slots: vec![] };
        device.say(Topic::State(device.id.clone()), &reported).await;
    }
    let fleet = desk.wait_for("/api/v1/fleet", |fleet| fleet["events"] == 2).await;
    assert_eq!(fleet["inferences"], 2 * COUNT_MAX);
    for device in ["line-1", "line-2"] {
        let seen = desk.get(&format!("/api/v1/devices/{device}")).await;
        assert_eq!((&seen["health"]["swaps"], &seen["malformed"]), (&json!(COUNT_MAX), &json!(2)));
        for below in ["results", "profiles", "events", "nodes", "streams"] {
            let path = format!("/api/v1/devices/{device}/{below}");
            let (status, rows) = desk.call("GET", &path, None).await;
            assert_eq!((status, rows.as_array().is_some_and(|rows| !rows.is_empty())), (200, true));
        }
    }
    for path in ["/", "/live", "/api/v1/devices"] {
        assert_eq!(desk.call("GET", path, None).await.0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_lost_its_database_goes_on_where_its_devices_are() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let (folder, bundle) = desk.pack(1);
    desk.publish(&folder).await;
    assert_eq!(desk.assign("line-1", bundle.digest()).await, 1);
    let path = "/api/v1/devices/line-1";
    let boot = Boot(9);
    let event = Event {
        at_ms: 0,
        kind: EventKind::DesiredRefused,
        slot: None,
        bundle: None,
        detail: "generation 1, older than 4".into(),
    };
    let events = Batch { boot, first: Sequence(1), records: vec![Record::One(event)] };
    device.say(Topic::Stream(device.id.clone(), Stream::Events), &events).await;
    desk.wait_for(path, |seen| {
        seen["problems"] == json!(["refuses what it should run: generation 1, older than 4"])
    })
    .await;
    let reported = Reported { boot, generation: 4, slots: vec![] };
    device.say(Topic::State(device.id.clone()), &reported).await;
    let ahead = "follows generation 4, but this fleet is at 1: assign its bundles again";
    desk.wait_for(path, |seen| seen["problems"][1] == ahead).await;
    let page = desk.get("/").await;
    let page = page.as_str().expect("the page is text");
    assert!(page.contains("generation 1, older than 4") && page.contains(ahead), "{page}");

    assert_eq!(desk.assign("line-1", bundle.digest()).await, 5);
    assert_eq!(desk.get(path).await["problems"], json!([]), "the refusal was of an earlier one");
    let reported = Reported { boot, generation: u64::MAX, slots: vec![] };
    device.say(Topic::State(device.id.clone()), &reported).await;
    let far = desk.wait_for(path, |seen| seen["problems"] != json!([])).await;
    let problem = far["problems"][0].as_str().expect("problems are sentences");
    assert!(problem.contains("too far behind"), "{problem}");
    assert_eq!(desk.assign("line-1", bundle.digest()).await, 6, "nobody uses the numbers up");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_set_at_the_same_time_are_all_kept() {
    const SLOTS: u64 = 12;
    let desk = Desk::start().await;
    desk.add_device("line-1").await;
    let (folder, bundle) = desk.pack(1);
    desk.publish(&folder).await;
    let path = |slot: u64| format!("/api/v1/devices/line-1/desired/slot-{slot}");
    let body = || Some(json!({ "bundle": bundle.digest() }));
    let desk = Arc::new(desk);
    let puts = (0..SLOTS).map(|slot| {
        let (desk, path, body) = (desk.clone(), path(slot), body());
        tokio::spawn(async move { desk.call("PUT", &path, body).await.0 })
    });
    let mut answers = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        answers.push(put.await.expect("a request does not panic"));
    }
    assert_eq!(answers, [200; SLOTS as usize]);
    let desired = desk.get("/api/v1/devices/line-1/desired").await;
    assert_eq!(desired["slots"].as_object().map(|slots| slots.len() as u64), Some(SLOTS));
    assert_eq!(desired["generation"], SLOTS);
    for slot in SLOTS..16 {
        assert_eq!(desk.call("PUT", &path(slot), body()).await.0, 200);
    }
    let (status, answer) = desk.call("PUT", &path(16), body()).await;
    assert_eq!((status, &answer["error"]), (400, &json!("a device has at most 16 slots")));
    for (path, body, expected) in [
        ("/api/v1/devices/nobody/desired/main", body(), 404),
        ("/api/v1/devices/line-1/desired/MAIN", body(), 400),
        ("/api/v1/devices/line-1/desired/slot-1", Some(json!({ "bundle": Digest([9; 32]) })), 404),
        ("/api/v1/devices/line-1/desired/slot-1", Some(json!({ "slots": {} })), 422),
    ] {
        let (status, answer) = desk.call("PUT", path, body).await;
        assert_eq!((status, answer["error"].is_string()), (expected, true), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_a_desired_state_are_told_from_those_before_and_of_other_slots() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let (folder, bundle) = desk.pack(1);
    desk.publish(&folder).await;
    let of_slot = |slot: &str, sample| {
        let slot = slot.parse().expect("the name is well formed");
        Record::One(InferenceResult { slot, bundle: bundle.digest(), ..result(sample) })
    };
    let say = async |first, records| {
        let batch = Batch { boot: Boot(1), first: Sequence(first), records };
        device.say(Topic::Stream(device.id.clone(), Stream::Results), &batch).await;
    };
    say(1, vec![of_slot("main", 10), of_slot("aux", 11)]).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 2).await;
    let body = Some(json!({ "bundle": bundle.digest() }));
    let (_, set) = desk.call("PUT", "/api/v1/devices/line-1/desired/main", body).await;
    assert_eq!(set, json!({ "generation": 1, "results_before": 2 }));
    let digest = bundle.digest();
    let path = format!("/api/v1/devices/line-1/results?slot=main&bundle={digest}&after=2&limit=1");
    say(3, vec![of_slot("aux", 12)]).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 3).await;
    assert_eq!(desk.get(&path).await, json!([]));
    say(4, vec![of_slot("main", 13)]).await;
    desk.wait_for(&path, |answers| answers[0]["sample"] == 13).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_answered_with_one_sentence() {
    let desk = Desk::start().await;
    desk.add_device("line-1").await;
    let labels: BTreeMap<String, String> =
        (0..100).map(|i| (i.to_string(), String::new())).collect();
    let long = "x".repeat(200_000);
    for (method, path, body, expected) in [
        ("GET", "/nowhere", None, 404),
        ("GET", "/api/v1/devices/line-2", None, 404),
        ("GET", "/api/v1/devices/LINE", None, 400),
        ("GET", "/api/v1/devices/line-2/results", None, 404),
        ("GET", "/api/v1/devices/line-1/results?after=x", None, 400),
        ("GET", "/api/v1/devices/line-1/results?before=1", None, 400),
        ("GET", "/api/v1/devices/line-1/desired", None, 404),
        ("GET", "/api/v1/bundles/sha256:1", None, 400),
        ("DELETE", "/api/v1/devices/line-2", None, 404),
        ("DELETE", "/api/v1/fleet", None, 405),
        ("POST", "/api/v1/devices", Some(json!({ "id": "fleet-manager" })), 409),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-1" })), 409),
        ("POST", "/api/v1/devices", Some(json!({ "id": "../up" })), 422),
        ("POST", "/api/v1/devices", Some(json!({ "name": "line-3" })), 422),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-3", "labels": labels })), 400),
        ("POST", "/api/v1/devices", Some(json!({ "id": long })), 413),
        ("PUT", "/api/v1/devices/line-2/desired", Some(json!({ "slots": {} })), 404),
    ] {
        let (status, answer) = desk.call(method, path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let error = answer["error"].as_str().expect("errors are one sentence");
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
    let document = desk.get("/api/v1/openapi.json").await;
    assert!(document["paths"]["/api/v1/devices/{id}/desired"]["put"].is_object(), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_at_the_start_is_named() {
    let mut desk = Desk::new();
    desk.start_fleet().await;
    let refused = |config| async move {
        let error = RunningFleet::start(config).await.err().expect("it cannot start");
        (error.kind(), one_line(&error))
    };
    let (kind, reason) = refused(desk.config()).await;
    assert_eq!(kind, ErrorKind::Operator);
    assert!(reason.contains("another manager uses"), "{reason}");

    let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    let taken = holder.local_addr().expect("the listener has an address");
    let mut config = desk.config();
    config.data = desk.folder.path().join("other");
    config.http = taken;
    let (kind, reason) = refused(config.clone()).await;
    assert_eq!(kind, ErrorKind::Environment);
    assert!(reason.contains(&taken.to_string()) && reason.contains("HTTP"), "{reason}");
    config.http = ([127, 0, 0, 1], 0).into();
    config.broker = Broker::Embedded(EmbeddedBroker { listen: taken, tls: None });
    let (_, reason) = refused(config).await;
    assert!(reason.contains(&taken.to_string()) && reason.contains("MQTT"), "{reason}");
    drop(holder);
}
