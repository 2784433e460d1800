//! The manager with its own broker, seen from devices and from its API.

mod support;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde_json::{Value, json};

use selvedge_bundle::{Baseline, Bundle, BundleBuilder, ChunkIndex, Patch, digest_of, expand};
use selvedge_fleet::{Broker, EmbeddedBroker, ErrorKind, RunningFleet, ServerTls, one_line};
use selvedge_link::{Delivery, LinkEvent, Login, Refusal};
use selvedge_sketch::GatewayProfile;
use selvedge_trust::{DeviceKey, SigningKey, SystemRandom, TrustedRoot, UnixMillis};
use selvedge_wire::{
    Batch, Boot, BundleOffer, Chunk, ChunkCodec, Comparison, Desired, Digest, DriftState,
    DriftStatus, DriftedStream, Event, EventKind, Health, InferenceResult, NodeId, Outcome,
    ProfileOrigin, ProfileRecord, Quantity, Reading, Record, Reported, Running, Sequence, Signed,
    SlotPhase, SlotReport, Status, Stored, Stream, Topic, TrustReport, WindowRange, decode,
};

use support::{
    Desk, Device, builder, bundle_target, fleet_name, new_device_key, public_hex,
    reference::{
        CORRELATION, Noise, WINDOW, baseline, correlated_baseline, correlated_profile, encoded,
        profile,
    },
    root_document,
};

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
    device
        .signed_message::<Stored>(&desk.root, &down, |stored| {
            through(stored, Stream::Results) == 15
        })
        .await;
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
    device.signed_message::<Stored>(&desk.root, &down, |stored| stored.streams.len() == 1).await;
    device.say(up, &results(5, 10)).await;
    device
        .signed_message::<Stored>(&desk.root, &down, |stored| {
            through(stored, Stream::Results) == 14
        })
        .await;
    let fleet = desk.get("/api/v1/fleet").await;
    assert_eq!((&fleet["results"], &fleet["malformed"][0]["count"]), (&json!(3), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_manager_takes_up_where_it_was() {
    let mut desk = Desk::new();
    desk.start_fleet().await;
    let key = new_device_key();
    let copy = DeviceKey::from_pkcs8(key.to_pkcs8()).expect("the key is whole");
    let added = desk.add_device_with("line-1", &key).await;
    let mut device = Device::connect(desk.link_config(&added, "line-1"), "line-1", key);
    device.wait_until_up().await;
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    device.say(up.clone(), &results(1, 10)).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 10).await;
    desk.stop_fleet().await;

    desk.start_fleet().await;
    let mut again = desk.link_config(&added, "line-1");
    let address = desk.fleet.as_ref().expect("the manager runs").addresses().broker.clone();
    again.url = address.parse().expect("the manager knows its broker");
    let mut device = Device::connect(again, "line-1", copy);
    device.wait_until_up().await;
    device.subscribe("down/line-1/#").await;
    let down = Topic::Stored(device.id.clone());
    device
        .signed_message::<Stored>(&desk.root, &down, |stored| {
            through(stored, Stream::Results) == 10
        })
        .await;
    device.say(up, &results(5, 10)).await;
    device
        .signed_message::<Stored>(&desk.root, &down, |stored| {
            through(stored, Stream::Results) == 14
        })
        .await;
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
    for payload in [vec![], vec![2], vec![2, 2, 3], vec![2; 5000], vec![9, 1, 2]] {
        assert_eq!(device.say_bytes(&name(&up), payload).await, Delivery::Accepted);
    }
    let shown = desk.wait_for("/api/v1/fleet", |fleet| fleet["malformed"][0]["count"] == 5).await;
    assert_eq!(shown["malformed"][0]["sender"], "line-1");
    assert_eq!(shown["malformed"][0]["versions"], 1);
    let seen = desk.get("/api/v1/devices/line-1").await;
    assert_eq!(seen["problems"], json!(["speaks wire version 9; this fleet reads 2 to 2"]));

    device.say(up, &results(1, 3)).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 3).await;
    device.say_bytes(&name(&health), vec![2]).await;
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
        Device::connect(config, "thief", new_device_key()).wait_until_refused().await;
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
    assert_eq!(published["target"], json!(null));
    desk.sign(bundle_target(&bundle, &[])).await;
    let listed = desk.get("/api/v1/bundles").await;
    assert_eq!(
        (&listed[0]["target"], &listed[0]["role"]),
        (&json!("example/1.0.1"), &json!("targets"))
    );

    let mut device = desk.connect_device("line-1").await;
    device.subscribe("down/line-1/#").await;
    let body = json!({ "bundle": bundle.digest(), "shadow_samples": 9, "allow_downgrade": true });
    let path = "/api/v1/devices/line-1/desired/main";
    let (_, set) = desk.call("PUT", path, Some(body)).await;
    assert_eq!(set["generation"], 1, "{set}");
    let desired: Desired = device.message(&Topic::Desired(device.id.clone()), |_| true).await;
    let state = desk
        .root
        .verify_desired(&desired.document, &device.id, &fleet_name(), 1, UnixMillis(0))
        .expect("the device believes it");
    let slot = "main".parse().expect("the name is well formed");
    let slot = &state.slots[&slot];
    assert_eq!((&slot.target[..], slot.bundle), ("example/1.0.1", bundle.digest()));
    assert_eq!((slot.shadow_samples, slot.allow_downgrade), (9, true));

    device.subscribe(&format!("all/bundles/{}", bundle.digest().hex())).await;
    let offer: BundleOffer = device.message(&Topic::Bundle(bundle.digest()), |_| true).await;
    let index = ChunkIndex::decode(&offer.index).expect("the index is sound");
    assert_eq!(index.bundle(), bundle.digest());
    let retained = desk.get("/api/v1/repository").await["chunk_bytes_retained"].as_u64();
    assert!(retained.is_some_and(|bytes| bytes > 300_000), "{retained:?}");
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
    desk.wait_for("/api/v1/repository", |it| it["chunk_bytes_retained"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_devices_would_refuse_is_refused_with_the_reason() {
    let desk = Desk::start().await;
    let fresh = |seed| desk.pack(seed);
    let cases: [(&str, Spoil<'_>); 2] = [
        ("oci-layout", &|folder, _| {
            fs::remove_file(folder.join("oci-layout")).expect("it was there");
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
    let put = async |body| desk.call("PUT", "/api/v1/devices/line-1/desired", Some(body)).await;
    assert_eq!(put(unknown).await.0, 404);
    let unsigned = json!({ "slots": { "main": bundle.digest() } });
    let (status, answer) = put(unsigned).await;
    let error = answer["error"].as_str().expect("errors are one sentence");
    assert!(status == 409 && error.contains("no target of the repository"), "{error}");
    desk.sign(bundle_target(&bundle, &[])).await;
    assert_eq!(desk.assign("line-1", bundle.digest()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_reports_stands_in_the_api_and_on_the_page() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let bundle = desk.release(1).await;
    desk.assign("line-1", bundle.digest()).await;
    let boot = Boot(1);
    let status = Status {
        online: true,
        boot,
        agent_version: "0.1.0".into(),
        wire_oldest: 2,
        wire_newest: 2,
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
        comparison: None,
        drift: None,
        site: None,
    };
    let watched = SlotReport {
        slot: "aux".parse().expect("the name is well formed"),
        phase: SlotPhase::Probation { inferences: 40, inferences_wanted: 100 },
        reason: None,
        comparison: Some(Comparison {
            samples: 41,
            failed: 2,
            disagreed: 3,
            shed: 4,
            latency_us_p95: 1500,
            latency_us_p95_before: 900,
        }),
        drift: None,
        site: None,
        ..slot.clone()
    };
    let trust = TrustReport {
        root_version: 3,
        timestamp_version: 17,
        fresh_until_ms: 1,
        frozen: true,
        time_unverified: true,
    };
    let reported = Reported { boot, revision: 1, generation: 1, trust, slots: vec![slot, watched] };
    device.say(Topic::State(device.id.clone()), &reported).await;
    let health = Health {
        boot,
        uptime_s: 10,
        inferences: 500,
        inferences_failed: 1,
        inputs_malformed: 2,
        inputs_anomalous: 10,
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
    let problems = seen["problems"].as_array().expect("problems are listed");
    let problem = |at: usize| problems[at].as_str().unwrap_or_default();
    assert!(problem(0).contains("frozen out") && problem(1).contains("the time"), "{problems:?}");
    assert_eq!(problems[2], "main: golden vector 3 of <y> is off by 0.5");
    let watched = &seen["reported"]["slots"][1];
    assert_eq!((&watched["phase"], &watched["done"]), (&json!("probation"), &json!(40)));
    assert_eq!(watched["comparison"]["disagreed"], 3);
    assert_eq!(seen["reported"]["trust"]["timestamp_version"], 17);
    assert_eq!(seen["health"]["inferences"], 500);
    assert_eq!(seen["online"], true);
    let events = desk.get("/api/v1/devices/line-1/events").await;
    assert_eq!(events[0]["kind"], "bundle-refused");
    let page = desk.get("/").await;
    let page = page.as_str().expect("the page is text");
    for part in [
        "line-1",
        "0.9.0",
        "refused",
        "golden vector 3 of &lt;y&gt;",
        "aarch64",
        "probation 40 of 100",
        "41 samples, 2 failed, 3 answered otherwise, 4 left out; p95 1.5 ms after 900",
        "root 3 · timestamp 17",
        "frozen out",
        "time unverified",
        "Repository",
        "1 of 1 key",
    ] {
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
                inputs_anomalous: count,
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
        let (boot, trust) = (Boot(u32::MAX), extreme_trust());
        let reported =
            Reported { boot, revision: u64::MAX, generation: u64::MAX, trust, slots: vec![] };
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

fn extreme_trust() -> TrustReport {
    TrustReport {
        root_version: u64::MAX,
        timestamp_version: u64::MAX,
        fresh_until_ms: u64::MAX,
        frozen: true,
        time_unverified: true,
    }
}

fn follows(boot: Boot, revision: u64, generation: u64) -> Reported {
    Reported { boot, revision, generation, trust: TrustReport::default(), slots: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_lost_its_database_goes_on_where_its_devices_are() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let bundle = desk.release(1).await;
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
    let reported = follows(boot, 1, 4);
    device.say(Topic::State(device.id.clone()), &reported).await;
    let ahead = "follows generation 4, but this fleet is at 1: assign its bundles again";
    desk.wait_for(path, |seen| seen["problems"][1] == ahead).await;
    let page = desk.get("/").await;
    let page = page.as_str().expect("the page is text");
    assert!(page.contains("generation 1, older than 4") && page.contains(ahead), "{page}");

    assert_eq!(desk.assign("line-1", bundle.digest()).await, 5);
    assert_eq!(desk.get(path).await["problems"], json!([]), "the refusal was of an earlier one");
    let reported = follows(boot, 2, u64::MAX);
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
    let bundle = desk.release(1).await;
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
    let bundle = desk.release(1).await;
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
    let key = new_device_key();
    desk.add_device_with("line-1", &key).await;
    let (taken, key) = (public_hex(&key), public_hex(&new_device_key()));
    let labels: BTreeMap<String, String> =
        (0..100).map(|i| (i.to_string(), String::new())).collect();
    let labelled = json!({ "id": "line-3", "public_key": key, "labels": labels });
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
        ("POST", "/api/v1/devices", Some(json!({ "id": "fleet-manager", "public_key": key })), 409),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-1", "public_key": key })), 409),
        ("POST", "/api/v1/devices", Some(json!({ "id": "../up", "public_key": key })), 422),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-3" })), 422),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-3", "public_key": "12" })), 422),
        ("POST", "/api/v1/devices", Some(json!({ "id": "line-3", "public_key": taken })), 409),
        ("POST", "/api/v1/devices", Some(labelled), 400),
        ("POST", "/api/v1/repository", Some(json!({})), 400),
        ("POST", "/api/v1/repository", Some(json!({ "roots": 1 })), 400),
        ("POST", "/api/v1/repository?dry=true", Some(json!({})), 400),
        ("GET", "/tuf/2.root.json", None, 404),
        ("GET", "/api/v1/bundles/sha256:1/archive", None, 400),
        ("POST", "/api/v1/devices", Some(json!({ "id": long, "public_key": key })), 413),
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

/// Who owns the broker says what it likes on any topic.
#[tokio::test(flavor = "multi_thread")]
async fn forged_foreign_and_replayed_messages_change_nothing_and_are_told() {
    let desk = Desk::start().await;
    let device = desk.connect_device("line-1").await;
    let other = desk.connect_device("line-2").await;
    let name = |topic: &Topic| device.topics.name(topic);
    let (id, path) = (device.id.clone(), "/api/v1/devices/line-1");
    let (state, up) = (Topic::State(id.clone()), Topic::Stream(id.clone(), Stream::Results));
    device.say(state.clone(), &follows(Boot(2), 3, 7)).await;
    device.say(up.clone(), &results(1, 5)).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["results"] == 5).await;
    let believed = desk.wait_for(path, |seen| seen["reported"]["generation"] == 7).await;

    let foreign_topic = other.topics.name(&Topic::State(other.id.clone()));
    let forged = [
        (&state, other.signed(&name(&state), &follows(Boot(2), 4, 8))),
        (&state, device.signed(&foreign_topic, &follows(Boot(2), 4, 8))),
        (&up, other.signed(&name(&up), &results(6, 5))),
        (&up, device.signed(&name(&state), &results(6, 5))),
    ];
    for (topic, payload) in forged {
        device.say_bytes(&name(topic), payload).await;
    }
    let seen = desk.wait_for(path, |seen| seen["malformed"] == 4).await;
    assert_eq!(seen["reported"], believed["reported"]);
    let forged = "4 forged: a message that claims to be from line-1 is not signed by its key";
    assert_eq!(seen["problems"], json!([forged]));

    // What was said before is signed well, and says nothing new.
    device.say(state.clone(), &follows(Boot(2), 2, 9)).await;
    device.say(up, &results(1, 5)).await;
    let seen = desk.wait_for(path, |seen| seen["disbelieved"][1]["count"] == 1).await;
    assert_eq!(seen["disbelieved"][1]["kind"], "replayed");
    assert_eq!((&seen["reported"], &seen["malformed"]), (&believed["reported"], &json!(4)));
    let events = desk.get("/api/v1/devices/line-1/events").await;
    let kinds: Vec<_> = events.as_array().into_iter().flatten().map(|it| &it["kind"]).collect();
    assert_eq!(kinds, ["forged", "replayed"], "a flood is told once an hour");
    let fleet = desk.get("/api/v1/fleet").await;
    assert_eq!((&fleet["results"], &fleet["sequence_gaps"]), (&json!(5), &json!(0)));
    let page = desk.get("/").await;
    assert!(page.as_str().is_some_and(|page| page.contains("is not signed by its key")));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_reaches_devices_the_timestamp_last() {
    let desk = Desk::start().await;
    let bundle = desk.release(1).await;
    let mut device = desk.connect_device("line-1").await;
    // What is retained comes in no order; what is published from here on does.
    device.subscribe("all/metadata/+").await;
    let timestamp = device.topics.name(&Topic::Metadata("timestamp.json".parse().expect("a name")));
    let version = |payload: &[u8]| {
        let chunk: Chunk = decode(payload).expect("the manager speaks well");
        let bytes = match chunk.codec {
            ChunkCodec::Raw => chunk.bytes,
            ChunkCodec::Zstd => {
                zstd::bulk::decompress(&chunk.bytes, 1 << 20).expect("the file is whole")
            }
        };
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("metadata is JSON");
        json["signed"]["version"].as_u64().expect("metadata has a version")
    };
    let mut seen = Vec::new();
    let mut until = async |wanted: u64| {
        device
            .wait_for("the timestamp", |event| {
                let LinkEvent::Message(incoming) = event else { return None };
                let file = incoming.topic.rsplit('/').next().expect("a topic has parts").to_owned();
                let what = if incoming.payload.is_empty() { "cleared" } else { "there" };
                seen.push(format!("{file} {what}"));
                let newest = incoming.topic == timestamp && version(&incoming.payload) == wanted;
                incoming.ack.accept();
                newest.then_some(())
            })
            .await;
        std::mem::take(&mut seen)
    };
    until(2).await;
    desk.revoke(bundle.digest()).await;
    let order = until(3).await;
    let place = |file: &str| order.iter().position(|seen| seen == file);
    assert!(place("3.targets.json there").is_some(), "{order:?}");
    assert!(place("3.snapshot.json there").is_some(), "{order:?}");
    assert_eq!(place("timestamp.json there"), Some(order.len() - 1), "{order:?}");
    assert_eq!(place("2.targets.json cleared"), None, "until then something led there: {order:?}");

    let mirrored = desk.get("/tuf/timestamp.json").await;
    assert_eq!(mirrored["signed"]["version"], 3);
    assert_eq!(mirrored["signed"]["root_version"], 1);
    assert_eq!(desk.call("GET", "/tuf/2.targets.json", None).await.0, 404, "what nothing leads to");
    let repository = desk.get("/api/v1/repository").await;
    assert_eq!(
        (&repository["timestamp_version"], &repository["root_version"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(repository["targets"][0]["targets"], json!([]));
    let listed = desk.get("/api/v1/bundles").await;
    assert_eq!(listed[0]["revoked"], true);
    let body = json!({ "bundle": bundle.digest() });
    let put = desk.call("PUT", "/api/v1/devices/line-1/desired/main", Some(body)).await;
    assert!(put.0 == 409 && put.1["error"].as_str().is_some_and(|it| it.contains("revoked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_online_key_is_replaced_while_the_manager_runs() {
    let desk = Desk::start().await;
    let bundle = desk.release(1).await;
    let mut device = desk.connect_device("line-1").await;
    desk.assign("line-1", bundle.digest()).await;
    let next = SigningKey::generate(&SystemRandom::new()).expect("keys can be made");
    let document = root_document(2, &desk.root_key, &desk.targets, &next);
    let root = TrustedRoot::pin(document.as_bytes()).expect("the root is sound");
    let proposal = json!({ "roots": [document] });
    let (status, answer) = desk.propose(proposal.clone()).await;
    let error = answer["error"].as_str().expect("errors are one sentence");
    assert!(status == 400 && error.contains(next.public_key().id().as_str()), "{error}");
    fs::write(desk.folder.path().join("director-2.pk8"), next.to_pkcs8()).expect("it is written");
    let path = "/api/v1/repository?dry_run=true";
    let (status, dry) = desk.call("POST", path, Some(proposal.clone())).await;
    assert_eq!(status, 200, "{dry}");
    assert_eq!(desk.get("/api/v1/repository").await["root_version"], 1);
    let (_, answer) = desk.propose(proposal).await;
    assert_eq!(answer["changes"][0], dry["changes"][0], "it does what it said");
    assert_eq!(desk.get("/api/v1/repository").await["root_version"], 2);

    device.subscribe("down/line-1/#").await;
    let (id, stored) = (device.id.clone(), Topic::Stored(device.id.clone()));
    let desired: Desired = device
        .message(&Topic::Desired(id.clone()), |desired: &Desired| {
            root.verify_desired(&desired.document, &id, &fleet_name(), 0, UnixMillis(0)).is_ok()
        })
        .await;
    let state = root.verify_desired(&desired.document, &id, &fleet_name(), 2, UnixMillis(0));
    assert_eq!(state.expect("the device believes it").slots.len(), 1);
    device.say(Topic::Stream(id.clone(), Stream::Results), &results(1, 3)).await;
    let name = device.topics.name(&stored);
    let by_the_new_key = |signed: &Signed| root.verify_message(&name, signed);
    device.message::<Signed>(&stored, by_the_new_key).await;
    device.subscribe("all/metadata/2.root.json").await;
    let root_file = Topic::Metadata("2.root.json".parse().expect("a name"));
    device.message::<Chunk>(&root_file, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_offered_while_somebody_can_use_it() {
    let desk = Desk::start().await;
    let old = desk.release(1).await;
    // The same model with one byte changed: its chunks differ, a patch has a few bytes.
    let mut changed = builder(1);
    changed.manifest = builder(2).manifest;
    changed.model[1000] ^= 1;
    let new = changed.build().expect("the bundle is sound");
    let folder = desk.folder.path().join("changed");
    new.write(&folder).expect("the folder can be written");
    assert_eq!(desk.publish(&folder).await.0, 201);
    let patch = Patch::make(&old, &new).expect("zstd works").expect("a patch is worth it");
    let (status, answer) = desk.publish_patch(&patch).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["index"], json!(patch.index().digest()));
    desk.sign(bundle_target(&new, std::slice::from_ref(&patch))).await;

    let mut device = desk.connect_device("line-1").await;
    desk.assign("line-1", new.digest()).await;
    device.subscribe(&format!("all/bundles/{}", new.digest().hex())).await;
    device.message::<BundleOffer>(&Topic::Bundle(new.digest()), |_| true).await;
    let retained = |it: &Value| it["chunk_bytes_retained"].as_u64().expect("it is a number");
    // Nobody has the old bundle.
    let alone = retained(&desk.get("/api/v1/repository").await);
    let running = Running { bundle: old.digest(), name: "example".into(), version: "1.0.1".into() };
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Verifying,
        running: Some(running),
        desired: Some(new.digest()),
        reason: None,
        comparison: None,
        drift: None,
        site: None,
    };
    let report = |revision, slots| Reported { slots, ..follows(Boot(1), revision, 1) };
    let state = Topic::State(device.id.clone());
    device.say(state.clone(), &report(1, vec![slot])).await;
    let index = patch.index().encode();
    for content in patch.pieces().map(|(_, content)| content).chain([index.as_slice()]) {
        let piece = digest_of(content);
        device.subscribe(&format!("all/chunks/{}", piece.hex())).await;
        let chunk: Chunk = device.message(&Topic::Chunk(piece), |_| true).await;
        assert_eq!(chunk.bytes, content);
    }
    let both = retained(&desk.get("/api/v1/repository").await);
    assert!(both >= alone + patch.index().len_bytes() + index.len() as u64, "{both} {alone}");
    device.say(state, &report(2, vec![])).await;
    desk.wait_for("/api/v1/repository", |it| retained(it) == alone).await;

    let mut wrong = patch.encode();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let path = format!("/api/v1/bundles/{}/patches/{}", new.digest(), old.digest());
    let octets = |bytes| Some(("application/octet-stream", bytes));
    let (status, answer) = desk.send("POST", &path, octets(wrong)).await;
    assert_eq!(status, 400, "{answer}");
    let back = format!("/api/v1/bundles/{}/patches/{}", old.digest(), new.digest());
    let (status, answer) = desk.send("POST", &back, octets(patch.encode())).await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|it| it.contains("leads from")));
    let nowhere = format!("/api/v1/bundles/{}/patches/{}", new.digest(), Digest([9; 32]));
    assert_eq!(desk.send("POST", &nowhere, octets(patch.encode())).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_crash_is_published_after_it() {
    let mut desk = Desk::new();
    desk.start_fleet().await;
    let bundle = desk.release(1).await;
    desk.add_device("line-1").await;
    desk.assign("line-1", bundle.digest()).await;
    desk.stop_fleet().await;
    // The database has what no broker was told; the broker of this process begins with nothing.
    desk.start_fleet().await;
    let mut device = desk.connect_device("line-2").await;
    device.subscribe("all/metadata/timestamp.json").await;
    let file = Topic::Metadata("timestamp.json".parse().expect("a name"));
    device.message::<Chunk>(&file, |_| true).await;
    let repository = desk.get("/api/v1/repository").await;
    assert_eq!(
        (&repository["timestamp_version"], &repository["snapshot_version"]),
        (&json!(2), &json!(2))
    );
    device.subscribe(&format!("all/bundles/{}", bundle.digest().hex())).await;
    device.message::<BundleOffer>(&Topic::Bundle(bundle.digest()), |_| true).await;
    desk.release(2).await;
    assert_eq!(desk.get("/tuf/timestamp.json").await["signed"]["version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_comes_back_as_it_was_uploaded() {
    let desk = Desk::start().await;
    let bundle = desk.release(1).await;
    let path = format!("/api/v1/bundles/{}/archive", bundle.digest());
    let archive = desk.download(&path).await;
    let folder = desk.folder.path().join("back");
    tar::Archive::new(&archive[..]).unpack(&folder).expect("it is an archive");
    let back = Bundle::open(&folder, &selvedge_bundle::Limits::default()).expect("it is whole");
    assert_eq!(back.digest(), bundle.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_the_broker_has_no_room_for_is_refused() {
    let mut desk = Desk::new();
    let mut config = desk.config();
    config.limits.retained_bytes_max = 400_000;
    desk.start_with(config).await;
    for id in ["line-1", "line-2"] {
        desk.add_device(id).await;
    }
    let (first, second) = (desk.release(1).await, desk.release(2).await);
    desk.assign("line-1", first.digest()).await;
    let body = json!({ "bundle": second.digest() });
    let path = "/api/v1/devices/line-2/desired/main";
    let (status, answer) = desk.call("PUT", path, Some(body)).await;
    let error = answer["error"].as_str().expect("errors are one sentence");
    assert!(status == 400 && error.contains("retained_bytes_max is 400000"), "{error}");
    desk.wait_for("/api/v1/repository", |it| {
        it["chunk_bytes_retained"].as_u64().is_some_and(|bytes| (300_000..400_000).contains(&bytes))
    })
    .await;
    desk.assign("line-2", first.digest()).await;
}

/// The same fleet without broker, disk and clock.
#[cfg(feature = "simulation")]
#[tokio::test]
async fn a_simulated_fleet_does_what_the_manager_does() {
    use selvedge_fleet::{Beginning, Limits, SimulatedFleet};
    use selvedge_trust::{Expiry, MessageSigner, Proposal};

    use support::targets_document;

    const NOW_MS: u64 = 1_800_000_000_000;
    let new = || SigningKey::generate(&SystemRandom::new()).expect("keys can be made");
    let (root, targets, director) = (new(), new(), new());
    let first_root = root_document(1, &root, &targets, &director);
    let first_targets = targets_document(1, &[], &targets);
    let beginning = Beginning {
        fleet: fleet_name(),
        root: first_root.as_bytes(),
        targets: first_targets.as_bytes(),
        online: &[director.to_pkcs8()],
        limits: Limits::default(),
        expiry: Expiry::default(),
    };
    let mut fleet = SimulatedFleet::begin(beginning, NOW_MS).await.expect("it begins");
    let (id, key) = ("line-1".parse().expect("a name"), new_device_key());
    let public = key.public_key().to_bytes().try_into().expect("an Ed25519 key has 32 bytes");
    fleet.add_device(&id, public, NOW_MS).await.expect("the device is new");
    let bundle = builder(1).build().expect("the bundle is sound");
    let document = targets_document(2, &[bundle_target(&bundle, &[])], &targets);
    let proposal =
        Proposal { roots: vec![], targets: BTreeMap::from([("targets".into(), document)]) };
    let digest = bundle.digest();
    fleet.add_bundle(bundle, NOW_MS).await.expect("it is whole");
    fleet.propose(&proposal, NOW_MS).await.expect("devices believe it");
    let slot = || "main".parse().expect("the name is well formed");
    let set = fleet.assign(&id, slot(), digest, 0, false, NOW_MS).await;
    assert_eq!(set.expect("it is a target"), 1);
    let wrong = fleet.assign(&id, slot(), Digest([1; 32]), 0, false, NOW_MS).await;
    assert!(wrong.is_err(), "and a change that fails leaves the rest");

    let mut fleet = fleet.restart().await.expect("the database is there");
    fleet.connected();
    let mut held = Vec::new();
    let mut order = Vec::new();
    loop {
        match fleet.next_message().await {
            Some(message) => {
                if !message.payload.is_empty() {
                    order.push(message.topic.clone());
                }
                held.push(message);
            }
            None if held.is_empty() => break,
            // The timestamp waits for the answers.
            None => {
                for message in held.drain(..) {
                    fleet.accepted(message).await.expect("it can be noted");
                }
            }
        }
    }
    let place = |part: &str| order.iter().position(|topic| topic.contains(part));
    let metadata = order.iter().filter(|topic| topic.contains("/metadata/")).count();
    assert_eq!(metadata, 3, "{order:?}");
    assert!(place("2.targets.json") < place("timestamp.json"), "{order:?}");
    assert!(place("timestamp.json") < place("/desired"), "{order:?}");
    assert!(place("/desired") < place("/chunks/"), "{order:?}");

    let topics = selvedge_wire::Topics::new(&fleet_name());
    let topic = topics.name(&Topic::State(id.clone()));
    let say = |key: &DeviceKey, revision, generation| {
        let body = selvedge_wire::encode(&follows(Boot(1), revision, generation));
        selvedge_wire::encode(&key.sign_message(&topic, body))
    };
    // Who follows an older desired state is sent the newest again: a broker may have dropped it.
    let desired = topics.name(&Topic::Desired(id.clone()));
    for (revision, generation, again) in [(1, 0, Some(desired)), (2, 1, None)] {
        let behind = say(&key, revision, generation);
        let taken = fleet.ingest(&topic, &behind, false, NOW_MS).await.expect("it is stored");
        assert_eq!(taken.refused, None);
        assert_eq!(fleet.next_message().await.map(|message| message.topic), again);
    }
    let forged = say(&new_device_key(), 3, 1);
    let refused = fleet.ingest(&topic, &forged, false, NOW_MS).await.expect("it is counted");
    assert!(refused.refused.is_some_and(|reason| reason.contains("not signed by its key")));
    let seen = fleet.device(&id, NOW_MS).await.expect("the device is there");
    assert_eq!((seen.reported.map(|it| it.generation), seen.malformed), (Some(1), 1));
    let before = fleet.repository().timestamp();
    fleet.tick(NOW_MS + 25 * 60 * 60 * 1000).await.expect("the keys are there");
    assert_ne!(fleet.repository().timestamp(), before);
    fleet.end().await;
}

/// Where the test's time begins.
const BEGIN_MS: u64 = 1_800_000_000_000;
const WINDOW_MS: u64 = 60_000;

/// Sends 40 windows of `bundle`, whose pressure is `shift` standard deviations higher from the 25th on.
async fn send_drift(device: &Device, bundle: Digest, seed: u64, shift: f32) {
    send_drift_from(BEGIN_MS, device, bundle, seed, shift).await;
}

async fn send_drift_from(begin_ms: u64, device: &Device, bundle: Digest, seed: u64, shift: f32) {
    let baseline = baseline(WINDOW as u16);
    let mut noise = Noise(seed);
    let counted =
        |window| profile(&baseline, &mut noise, WINDOW, if window >= 25 { shift } else { 0.0 });
    send_windows(begin_ms, device, bundle, 40, counted).await;
}

/// Sends so many windows of `bundle`, twice.
async fn send_windows(
    begin_ms: u64,
    device: &Device,
    bundle: Digest,
    count: u64,
    mut counted: impl FnMut(u64) -> GatewayProfile,
) {
    let record = |window: u64| {
        Record::One(ProfileRecord {
            origin: ProfileOrigin::Model {
                slot: "main".parse().expect("the name is well formed"),
                bundle,
            },
            windows: WindowRange { first: window, last: window },
            opened_ms: begin_ms + window * WINDOW_MS,
            closed_ms: begin_ms + (window + 1) * WINDOW_MS,
            profile: encoded(&counted(window)),
        })
    };
    let records = (0..count).map(record).collect();
    let batch = Batch { boot: Boot(1), first: Sequence(1), records };
    let up = Topic::Stream(device.id.clone(), Stream::Profiles);
    for _ in 0..2 {
        assert_eq!(device.say(up.clone(), &batch).await, Delivery::Accepted);
    }
}

/// A device that has found the drift itself says so.
async fn report_drift(device: &Device, bundle: Digest) {
    let running = Running { bundle, name: "example".into(), version: "1.0.1".into() };
    let stream = DriftedStream {
        name: "pressure".into(),
        change: "rises".into(),
        since_ms: BEGIN_MS + 25 * WINDOW_MS,
    };
    let drift = Some(DriftStatus {
        state: DriftState::Drifted,
        uncalibrated: false,
        streams: vec![stream],
    });
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Settled,
        comparison: None,
        running: Some(running),
        desired: Some(bundle),
        reason: None,
        drift,
        site: None,
    };
    let report = Reported {
        boot: Boot(1),
        revision: 1,
        generation: 0,
        trust: TrustReport::default(),
        slots: vec![slot],
    };
    assert_eq!(device.say(Topic::State(device.id.clone()), &report).await, Delivery::Accepted);
}

/// A bundle with a reference, published.
async fn publish_with(desk: &Desk, baseline: Baseline) -> Bundle {
    let with_reference = BundleBuilder { baseline: Some(baseline), ..builder(1) };
    let bundle = with_reference.build().expect("the bundle is sound");
    let folder = desk.folder.path().join("with-reference");
    bundle.write(&folder).expect("the folder can be written");
    let (status, answer) = desk.publish(&folder).await;
    assert_eq!(status, 201, "{answer}");
    bundle
}

/// A bundle with a reference.
async fn desk_with_reference() -> (Desk, Bundle) {
    let desk = Desk::start().await;
    let bundle = publish_with(&desk, baseline(WINDOW as u16)).await;
    (desk, bundle)
}

/// The same, and two devices that send windows of it twice; the second one drifts.
async fn desk_with_drift() -> (Desk, Bundle, [Device; 2]) {
    let (desk, bundle) = desk_with_reference().await;
    let devices = [desk.connect_device("line-1").await, desk.connect_device("line-2").await];
    for (device, (seed, shift)) in devices.iter().zip([(3, 0.0), (4, 0.5)]) {
        send_drift(device, bundle.digest(), seed, shift).await;
    }
    report_drift(&devices[1], bundle.digest()).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["profiles"] == 80).await;
    desk.wait_for("/api/v1/devices/line-2", |device| device["reported"].is_object()).await;
    (desk, bundle, devices)
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_found_named_and_shown_and_a_restart_loses_nothing() {
    let (mut desk, bundle, _devices) = desk_with_drift().await;
    let path = format!("/api/v1/drift?bundle={}", bundle.digest());
    let all = desk.get(&path).await;
    assert_eq!((&all["windows"], &all["samples"]), (&json!(80), &json!(20_000)));
    assert_eq!(all["streams"].as_array().map(Vec::len), Some(4));
    let culprits = all["culprits"].as_array().expect("it is a list");
    assert_eq!(culprits.len(), 1, "{culprits:?}");
    assert_eq!(culprits[0]["device"], "line-2");
    let found = &culprits[0]["verdict"]["drifted"];
    assert_eq!((&found[0]["stream"], &found[0]["change"]), (&json!("pressure"), &json!("rises")));
    let since_ms = found[0]["since_ms"].as_u64().expect("it is found");
    assert!(since_ms.abs_diff(BEGIN_MS + 25 * WINDOW_MS) <= 2 * WINDOW_MS, "{since_ms}");
    assert_eq!(all["origins"][0]["verdict"]["state"], "steady");
    assert_eq!(all["accuracy"]["extrapolating"], true);
    let estimated = all["accuracy"]["cbpe"]["accuracy"].as_f64().expect("there is a reference");
    assert!((estimated - 0.75).abs() < 0.02, "{estimated}");

    let calm = desk.get(&format!("{path}&device=line-1&slot=main")).await;
    assert_eq!((&calm["cohort"]["state"], &calm["windows"]), (&json!("steady"), &json!(40)));
    assert_eq!(calm["accuracy"]["extrapolating"], false);
    let pressure = &calm["streams"][0];
    let psi = &pressure["statistics"]["psi"];
    assert!(psi["value"].as_f64() < psi["critical"].as_f64(), "{psi}");
    let mean = pressure["moments"]["mean"].as_f64().expect("there are values");
    assert!(mean.abs() < 0.05, "{mean}");
    let before =
        desk.get(&format!("{path}&device=line-2&to_ms={}", BEGIN_MS + 25 * WINDOW_MS)).await;
    assert_eq!(before["cohort"]["state"], "steady");
    let after =
        desk.get(&format!("{path}&device=line-2&from_ms={}", BEGIN_MS + 30 * WINDOW_MS)).await;
    assert_eq!((&after["windows"], &after["cohort"]["state"]), (&json!(11), &json!("drifted")));

    let device = desk.get("/api/v1/devices/line-2").await;
    let said = &device["reported"]["slots"][0]["drift"];
    assert_eq!(
        (&said["state"], &said["streams"][0]["name"]),
        (&json!("drifted"), &json!("pressure"))
    );
    for (page, words) in [
        ("/".to_owned(), vec!["/devices/line-2/drift", "drifted", "pressure rises"]),
        (format!("/drift/{}", bundle.digest()), vec!["Named among all", "line-2", "extrapolating"]),
        (
            "/devices/line-2/drift".to_owned(),
            vec!["The device says", "flow", "confidence", "class"],
        ),
        ("/devices/line-1/drift".to_owned(), vec!["Nothing runs on it yet"]),
    ] {
        let shown = String::from_utf8(desk.download(&page).await).expect("a page is UTF-8");
        let missing: Vec<_> = words.into_iter().filter(|word| !shown.contains(word)).collect();
        assert!(missing.is_empty(), "{missing:?} is not on {page}:\n{shown}");
    }

    desk.stop_fleet().await;
    desk.start_fleet().await;
    assert_eq!(desk.get(&path).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_far_from_the_reference_are_told_and_shown_beside_steady_streams() {
    let desk = Desk::start().await;
    let baseline = correlated_baseline();
    let bundle = publish_with(&desk, baseline.clone()).await;
    let devices = [desk.connect_device("line-1").await, desk.connect_device("line-2").await];
    for (device, (seed, correlation)) in devices.iter().zip([(3, CORRELATION), (4, -CORRELATION)]) {
        let mut noise = Noise(seed);
        let counted = |_| correlated_profile(&baseline, &mut noise, WINDOW, correlation);
        send_windows(BEGIN_MS, device, bundle.digest(), 10, counted).await;
    }
    desk.wait_for("/api/v1/fleet", |fleet| fleet["profiles"] == 20).await;
    let all = desk.get(&format!("/api/v1/drift?bundle={}", bundle.digest())).await;
    assert_eq!(all["origins"][1]["verdict"]["state"], "steady", "each value is as it was");
    let told = &all["multivariate"];
    assert_eq!((&told["tensor"], &told["calibration_sources"]), (&json!("embedding"), &json!(50)));
    let newest = |origin: usize| &told["origins"][origin]["course"]["points"][9]["random_features"];
    assert_eq!(
        (&newest(0)["finding"], &newest(1)["finding"]),
        (&json!("within"), &json!("beyond"))
    );
    let points = told["cohort"]["points"].as_array().map(Vec::len);
    assert_eq!(points, Some(9), "the newest step is not over yet");
    let page = desk.download(&format!("/drift/{}", bundle.digest())).await;
    let page = String::from_utf8(page).expect("a page is UTF-8");
    for words in ["Several components at once", "thresholds from 50 others", "beyond"] {
        assert!(page.contains(words), "{words:?} is not on the page:\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_exported_as_a_table_as_json_and_as_a_kll_sketch() {
    let (desk, bundle, _devices) = desk_with_drift().await;
    let path = format!("/api/v1/drift/export?bundle={}&device=line-1", bundle.digest());
    let csv = desk.download(&format!("{path}&format=csv")).await;
    let csv = String::from_utf8(csv).expect("CSV is UTF-8");
    let header = csv.lines().next().expect("there is a header");
    let column = header.split(',').position(|name| name == "now").expect("it has that column");
    let rows = csv.lines().skip(1).filter(|row| row.contains(",pressure,feature,"));
    let counts: Vec<u64> = rows
        .map(|row| row.split(',').nth(column).and_then(|it| it.parse().ok()).expect("a count"))
        .collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (19, 10_000));
    let json = desk.get(&format!("{path}&format=json")).await;
    assert_eq!(json["streams"][1]["name"], "flow");
    let kll = desk.download(&format!("{path}&format=kll&stream=pressure")).await;
    let sketch = selvedge_sketch::Kll200::decode(&kll, 1).expect("it is Apache's form");
    assert_eq!(sketch.count(), 10_000);
    let median = sketch.quantile(0.5).expect("there are values");
    assert!(median.abs() < 0.15, "{median}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_question_about_drift_is_named() {
    let (desk, bundle, _devices) = desk_with_drift().await;
    let bare = desk.release(2).await.digest();
    desk.add_device("line-3").await;
    let bundle = bundle.digest();
    let unknown = Digest([9; 32]);
    for (query, expected, named) in [
        (String::new(), 400, "names no bundle"),
        ("bundle=7".to_owned(), 400, "bundle=7 cannot be read"),
        (format!("bundle={unknown}"), 404, "there is no bundle"),
        (format!("bundle={bare}"), 409, "has no baseline"),
        (format!("bundle={bundle}&device=line-9"), 404, "there is no device line-9"),
        (format!("bundle={bundle}&device=line-3"), 404, "no profile of example 1.0.1"),
        (format!("bundle={bundle}&slot=spare"), 404, "no profile of example 1.0.1"),
        (format!("bundle={bundle}&label=site%3Dnorth"), 404, "no device has the labels site=north"),
        (format!("bundle={bundle}&from_ms=2&to_ms=1"), 400, "ends before it begins"),
        (format!("bundle={bundle}&from_ms={}", u64::MAX), 404, "from 18446744073709551615 on"),
        (format!("bundle={bundle}&since=1"), 400, "nothing is asked with since=1"),
    ] {
        let (status, answer) = desk.call("GET", &format!("/api/v1/drift?{query}"), None).await;
        let said = answer["error"].as_str().expect("an error is a sentence");
        assert!(status == expected && said.contains(named), "{query}: {status} {said}");
    }
    for (query, expected, named) in [
        ("", 400, "format= is not known"),
        ("&format=xml", 400, "format=xml is not known"),
        ("&format=kll", 400, "add stream=NAME"),
        ("&format=kll&stream=depth", 404, "there are pressure, flow, class, confidence"),
        ("&format=kll&stream=class", 400, "class has no order"),
    ] {
        let path = format!("/api/v1/drift/export?bundle={bundle}{query}");
        let (status, answer) = desk.call("GET", &path, None).await;
        let said = answer["error"].as_str().expect("an error is a sentence");
        assert!(status == expected && said.contains(named), "{query}: {status} {said}");
    }
}

/// Answers of `bundle` to the samples from `first` on: "yes" with a confidence of 0.75, in boot 1.
fn answers(bundle: Digest, first: u64, count: u64) -> Batch<InferenceResult> {
    let answer = |sample| Record::One(InferenceResult { bundle, ..result(sample) });
    let records = (first..first + count).map(answer).collect();
    Batch { boot: Boot(1), first: Sequence(first), records }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_find_their_results_in_both_orders_and_are_shown_by_slice() {
    let (desk, bundle, [device, _]) = desk_with_drift().await;
    let bundle = bundle.digest();
    let path = format!("/api/v1/quality?bundle={bundle}");
    let label = |sample: u64, class: &str, slice: &str| json!({ "id": format!("line-1/1/replay/{sample}"), "class": class, "slice": slice });
    // Before its result.
    let post = |labels| desk.call("POST", "/api/v1/labels", Some(labels));
    let (status, taken) = post(label(1, "yes", "day")).await;
    assert_eq!((status, &taken["stored"], &taken["matched"]), (200, &json!(1), &json!(0)));
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    device.say(up, &answers(bundle, 1, 8)).await;
    let results = desk.wait_for("/api/v1/devices/line-1/results", |rows| rows[7].is_object()).await;
    assert_eq!(results[2]["result_id"], "line-1/1/replay/3");
    // After it, by parts and by index; the last one of a result counts.
    let parts =
        json!({ "device": "line-1", "boot": 1, "source": "replay", "sample": 4, "class": 0 });
    let labels = json!([
        label(2, "yes", "day"),
        label(3, "yes", "day"),
        parts,
        label(5, "no", "night"),
        label(5, "yes", "night"),
        label(99, "yes", "night"),
    ]);
    for _ in 0..2 {
        let (status, taken) = post(labels.clone()).await;
        assert_eq!((status, &taken["refused"]), (200, &json!([])));
        assert_eq!((&taken["stored"], &taken["matched"]), (&json!(6), &json!(5)));
    }
    let seen = desk.get(&format!("{path}&by=slice")).await;
    assert_eq!((&seen["matched"], &seen["unmatched"]), (&json!(5), &json!(1)));
    let all = &seen["all"]["classes"];
    assert_eq!((&all["accuracy"], &all["labels"]), (&json!(0.8), &json!(5)));
    assert_eq!(
        (&all["by_class"][1]["name"], &all["by_class"][1]["precision"]),
        (&json!("yes"), &json!(0.8))
    );
    assert_eq!(
        (&all["by_class"][0]["recall"], &all["by_class"][0]["labelled"]),
        (&json!(0.0), &json!(1))
    );
    let error = all["calibration_error"].as_f64().expect("the bundle has confidence bins");
    assert!((error - 0.05).abs() < 1e-6, "{error}");
    let names: Vec<&Value> = (0..3).map(|group| &seen["groups"][group]["name"]).collect();
    assert_eq!(names, [&json!("day"), &Value::Null, &json!("night")]);
    assert_eq!(seen["groups"][0]["scores"]["classes"]["accuracy"], 1.0);
    let other = desk.get(&format!("{path}&device=line-2&by=device")).await;
    assert_eq!(
        (&other["matched"], &other["unmatched"], &other["groups"]),
        (&json!(0), &json!(0), &json!([]))
    );
    let page = desk.download(&format!("/drift/{bundle}")).await;
    let page = String::from_utf8(page).expect("a page is UTF-8");
    for words in
        ["By labels", "80.0 %", "<h2>Labels</h2>", "night", "1 unmatched", "Precision", "CBPE"]
    {
        assert!(page.contains(words), "{words} is not on the page:\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_labels_is_named_and_costs_no_other() {
    let (desk, bundle, [device, _]) = desk_with_drift().await;
    let bundle = bundle.digest();
    let up = Topic::Stream(device.id.clone(), Stream::Results);
    device.say(up, &answers(bundle, 1, 2)).await;
    desk.wait_for("/api/v1/devices/line-1/results", |rows| rows[1].is_object()).await;
    let id = "line-1/1/replay/1";
    let wrong = [
        (json!({ "id": id, "class": "maybe" }), "no class \"maybe\""),
        (json!({ "id": id, "class": 2 }), "no class 2: it has 2"),
        (json!({ "id": id, "value": 1.5 }), "the answer was a class"),
        (json!({ "id": id }), "lacks class, or value"),
        (json!({ "id": id, "class": 1, "slice": "x".repeat(129) }), "129 bytes"),
        (json!({ "id": "line-9/1/replay/1", "class": 1 }), "no device line-9"),
        (json!({ "id": "line-1/1/replay", "class": 1 }), "DEVICE/BOOT/SOURCE/SAMPLE"),
        (json!({ "source": "replay", "sample": 1, "class": 1 }), "lacks id, or device"),
        (json!({ "id": id, "class": 1, "colour": 1 }), "unknown field `colour`"),
        (json!("yes"), "expected struct"),
    ];
    let mut labels: Vec<Value> = wrong.iter().map(|(label, _)| label.clone()).collect();
    labels.insert(3, json!({ "id": id, "class": "yes" }));
    let (status, taken) = desk.call("POST", "/api/v1/labels", Some(labels.into())).await;
    assert_eq!((status, &taken["stored"]), (200, &json!(1)), "{taken}");
    let refused = taken["refused"].as_array().expect("it is a list");
    let entries: Vec<u64> = refused.iter().filter_map(|one| one["entry"].as_u64()).collect();
    assert_eq!(entries, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]);
    for ((label, named), refused) in wrong.iter().zip(refused) {
        let error = refused["error"].as_str().expect("an error is a sentence");
        assert!(error.contains(named), "{label}: {error}");
        assert!(label["id"].is_null() || refused["id"] == label["id"], "{refused}");
    }
    let (status, taken) = desk.call("POST", "/api/v1/labels", Some(wrong[0].0.clone())).await;
    assert_eq!((status, &taken["refused"][0]["id"]), (422, &json!(id)));
    let many = Value::Array(vec![json!({ "id": id, "class": 1 }); 2001]);
    for (content, expected, named) in [
        ("not JSON".to_owned(), 400, "the labels are no JSON"),
        (many.to_string(), 400, "2001 labels at a time are too many"),
        ("x".repeat(600_000), 400, "at most 524288 bytes"),
    ] {
        let content = Some(("application/json", content.into_bytes()));
        let (status, answer) = desk.send("POST", "/api/v1/labels", content).await;
        let said = answer["error"].as_str().expect("an error is a sentence");
        assert!(status == expected && said.contains(named), "{status} {said}");
    }
    let plain = Some(("text/plain", json!({ "id": id, "class": 0 }).to_string().into_bytes()));
    let (status, answer) = desk.send("POST", "/api/v1/labels", plain).await;
    assert_eq!((status, &answer["error"]), (400, &json!("labels are sent as application/json")));
    let path = format!("/api/v1/quality?bundle={bundle}");
    let (status, answer) = desk.call("GET", &format!("{path}&by=colour"), None).await;
    assert_eq!(
        (status, &answer["error"]),
        (400, &json!("by=colour is not known: use slice or device"))
    );
    let unknown = format!("/api/v1/quality?bundle={}", Digest([9; 32]));
    assert_eq!(desk.call("GET", &unknown, None).await.0, 404);
    let seen = desk.get(&path).await;
    assert_eq!((&seen["matched"], &seen["unmatched"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_site_baseline_or_a_mute_is_named() {
    let (desk, bundle) = desk_with_reference().await;
    let device = desk.connect_device("line-1").await;
    // Windows of the last hours, by the manager's clock.
    let registered_ms = desk.get("/api/v1/devices/line-1").await["registered_ms"].clone();
    let begin_ms = registered_ms.as_u64().expect("it is a time") - 100 * WINDOW_MS;
    send_drift_from(begin_ms, &device, bundle.digest(), 3, 0.0).await;
    desk.wait_for("/api/v1/fleet", |fleet| fleet["profiles"] == 40).await;
    let site = "/api/v1/devices/line-1/slots/main/site";
    let period = |from: u64, to: u64| {
        let (from_ms, to_ms) = (begin_ms + from * WINDOW_MS, begin_ms + to * WINDOW_MS);
        json!({ "from_ms": from_ms, "to_ms": to_ms, "by": "ada" })
    };
    let none = Digest([0; 32]);
    let approval = json!({ "digest": none, "by": "ada" });
    let mute = |scope: Value, until_ms: u64| json!({ "scope": scope, "until_ms": until_ms, "by": "ada", "note": "known" });
    let check = async |method: &str, path: &str, body: Value, expected: u16, named: &str| {
        let body = Some(body).filter(|body| !body.is_null());
        let (status, answer) = desk.call(method, path, body).await;
        let said = answer["error"].as_str().expect("an error is a sentence");
        assert!(status == expected && said.contains(named), "{method} {path}: {status} {said}");
    };
    check("POST", site, period(0, 10), 409, "nobody has said what line-1 should run").await;
    check("GET", site, Value::Null, 404, "no site baseline is proposed or approved").await;
    desk.sign(bundle_target(&bundle, &[])).await;
    desk.assign("line-1", bundle.digest()).await;
    check("POST", site, period(10, 10), 400, "ends before it begins").await;
    check("POST", site, json!({ "hours": 1, "to_ms": 5, "by": "ada" }), 400, "or hours").await;
    check("POST", site, json!({ "hours": 1, "by": "" }), 400, "by is empty").await;
    check("POST", site, json!({ "hours": 9999, "by": "ada" }), 400, "at most 744 hours").await;
    check("POST", "/api/v1/devices/line-9/slots/main/site", period(0, 9), 404, "line-9").await;
    check("POST", &format!("{site}/approve"), approval.clone(), 404, "no period is declared").await;
    check("DELETE", site, Value::Null, 404, "no site baseline is approved").await;
    check("DELETE", &format!("{site}/proposal"), Value::Null, 404, "no period is declared").await;

    let (status, short) = desk.call("POST", site, Some(period(0, 5))).await;
    assert_eq!((status, &short["proposal"]["progress"]), (201, &json!("refused")), "{short}");
    check("POST", &format!("{site}/approve"), approval.clone(), 409, "8 are needed").await;
    let (_, ready) = desk.call("POST", site, Some(period(0, 60))).await;
    let looked_at = &ready["proposal"]["site"]["digest"];
    assert_eq!(ready["proposal"]["site"]["windows"], 40, "{ready}");
    check("POST", &format!("{site}/approve"), approval, 409, "look at it again").await;
    // A profile that comes late changes what was looked at.
    let late = Record::One(ProfileRecord {
        origin: ProfileOrigin::Model {
            slot: "main".parse().expect("the name is well formed"),
            bundle: bundle.digest(),
        },
        windows: WindowRange { first: 40, last: 40 },
        opened_ms: begin_ms + 40 * WINDOW_MS,
        closed_ms: begin_ms + 41 * WINDOW_MS,
        profile: encoded(&profile(&baseline(WINDOW as u16), &mut Noise(9), WINDOW, 0.0)),
    });
    let batch = Batch { boot: Boot(1), first: Sequence(41), records: vec![late] };
    let up = Topic::Stream(device.id.clone(), Stream::Profiles);
    assert_eq!(device.say(up, &batch).await, Delivery::Accepted);
    desk.wait_for("/api/v1/fleet", |fleet| fleet["profiles"] == 41).await;
    let approve = json!({ "digest": looked_at, "by": "ada" });
    check("POST", &format!("{site}/approve"), approve, 409, "profiles came since").await;
    let (status, _) = desk.call("DELETE", &format!("{site}/proposal"), None).await;
    assert_eq!(status, 204);

    let mutes = "/api/v1/drift/mutes";
    check("POST", mutes, mute(json!({}), u64::MAX), 400, "would mute everything").await;
    check("POST", mutes, mute(json!({ "stream": "flow" }), 1), 400, "has passed").await;
    check("POST", mutes, mute(json!({ "stream": "flow" }), u64::MAX), 400, "at most 92 days").await;
    check("DELETE", &format!("{mutes}/7"), Value::Null, 404, "there is no mute 7").await;
}
