//! Updates against a small fleet with a retaining broker, which others may hold.
//!
//! Survived: messages that come twice, late, out of order or not at all; damage, failing reads and a full
//! disk; metadata, offers and desired states that nobody should believe. Power cuts have a file of their own.

mod power_cuts;
mod sites;
mod world;

use selvedge_bundle::{ChunkIndex, digest_of};
use selvedge_trust::{Delegation, RoleName, TargetsDraft, TargetsEdit};
use selvedge_wire::{ChunkCodec, Comparison, DriftState, SlotPhase, encode};

use super::*;
use crate::{
    disk::Disk,
    limits::{
        CHUNK_OVERDUE_MS, METADATA_OVERDUE_MS, METADATA_PATIENCE_MS, METADATA_RETRY_MS,
        OFFER_RETRY_MS,
    },
};

use world::{
    NOW_MS, PROBATION_MS, World, bundle, device, new_key, noise, path_of, seen, slot, target_of,
    v1, v2,
};

const DAY_MS: u64 = 86_400_000;

fn metadata_topic(file: &str) -> Topic {
    Topic::Metadata(file.parse().expect("the name is well formed"))
}

#[test]
fn a_desired_bundle_is_fetched_tried_watched_and_confirmed() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, &v1);
    assert_eq!((world.answering, world.tried.len()), (Some(v1.digest()), 1));
    assert!(world.watching);
    let report = world.report();
    assert_eq!(report.phase, SlotPhase::Probation { inferences: 0, inferences_wanted: 10 });
    assert_eq!(report.running.as_ref().map(|running| running.version.as_str()), Some("1.0.0"));
    world.confirm(&v1);
    assert_eq!((world.report().phase, world.reason().as_str()), (SlotPhase::Settled, ""));
    assert_eq!(world.event_kinds(), [EventKind::Swapped, EventKind::Confirmed]);
    assert!(!world.watching);
    let timestamp = metadata_topic("timestamp.json");
    assert_eq!(world.subscribed, [timestamp], "what came is not listened to any more");
    let left: Vec<_> =
        world.disk.files().into_keys().filter(|path| path.starts_with("chunks/")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_detectors_say_is_reported_of_the_bundle_that_answers_alone() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    assert_eq!(world.report().drift, None);
    let reported = |world: &World| world.report().drift.as_ref().map(|drift| drift.state);
    world.judge(&v1, DriftState::Drifted);
    assert_eq!(reported(&world), Some(DriftState::Drifted), "it is told at once");
    world.judge(&v2, DriftState::Suspect);
    assert_eq!(reported(&world), None, "it is about a bundle that does not answer yet");
    world.install(2, &v2);
    assert_eq!(reported(&world), Some(DriftState::Suspect));
    world.desire_slot(3, DesiredSlot { allow_downgrade: true, ..World::desired_slot(&v1) });
    assert_eq!(reported(&world), None, "what comes back is judged anew");
}

#[test]
fn it_answers_again_after_a_restart_without_a_network() {
    let mut world = World::new();
    let v1 = v1();
    world.install(1, &v1);
    world.retained.clear();
    // Long after every document has expired.
    world.now.unix_ms *= 2;
    world.events.clear();
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v1.digest()));
    assert_eq!(world.report().phase, SlotPhase::Settled);
    assert_eq!(world.event_kinds(), [EventKind::Frozen], "it says that it may be kept from news");
    assert!(world.trust().frozen);
}

#[test]
fn an_update_fetches_only_new_chunks_and_keeps_the_bundle_before() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.requested.clear();
    world.install(2, &v2);
    let total = ChunkIndex::of(&v2).expect("it is small").chunk_count();
    assert!(world.requested.len() <= 4, "{} of {total}", world.requested.len());
    assert!(world.disk.list("bundles").expect("it works").len() == 2);

    // Back without a byte from the network; a third bundle pushes the oldest out.
    world.retained.retain(|topic, _| topic.contains("metadata"));
    world.requested.clear();
    let back = DesiredSlot { allow_downgrade: true, ..World::desired_slot(&v1) };
    world.desire_slot(3, back);
    assert_eq!((world.answering, world.requested.len()), (Some(v1.digest()), 0));
    world.confirm(&v1);
    let v3 = bundle("3.0.0", noise(50_000, 9));
    world.install(4, &v3);
    let kept = world.disk.list("bundles").expect("it works");
    assert_eq!(kept.len(), 2);
    assert!(!kept.contains(&v2.digest().hex().to_string()));
}

#[test]
fn a_lower_version_than_a_confirmed_one_needs_to_be_allowed() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.install(2, &v2);
    world.desire(3, &v1);
    assert_eq!((world.answering, world.report().phase), (Some(v2.digest()), SlotPhase::Refused));
    assert!(world.reason().contains("1.0.0 is lower than 2.0.0"), "{}", world.reason());
    world.start().expect("the disk works");
    world.desire_slot(4, DesiredSlot { allow_downgrade: true, ..World::desired_slot(&v1) });
    assert_eq!(world.answering, Some(v1.digest()));
    world.confirm(&v1);
    // What answers needs no leave to go on.
    world.desire(5, &v1);
    assert_eq!(world.report().phase, SlotPhase::Settled);
}

#[test]
fn a_download_goes_on_after_a_restart_with_what_is_missing() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let chunks: Vec<_> = ChunkIndex::of(&v1).expect("it is small").chunks().collect();
    let late: Vec<_> = chunks[chunks.len() / 2..]
        .iter()
        .map(|chunk| Topic::Chunk(chunk.digest))
        .map(|topic| {
            let payload = world.retained.remove(&topic.to_string());
            (topic, payload.expect("it was published"))
        })
        .collect();
    world.desire(1, &v1);
    world.pass(1000);
    let SlotPhase::Fetching { chunks_present, chunks_total } = world.report().phase else {
        panic!("half of it lacks: {:?}", world.report());
    };
    assert_eq!((chunks_present as usize, chunks_total as usize), (chunks.len() / 2, chunks.len()));
    // The metadata is on the disk as well: no network is needed to go on.
    let retained = std::mem::take(&mut world.retained);
    world.start().expect("the disk works");
    world.retained = retained;
    let again: BTreeSet<_> = world.requested.iter().copied().collect();
    assert!(!again.is_empty());
    assert!(chunks[..chunks.len() / 2].iter().all(|chunk| !again.contains(&chunk.digest)));
    for (topic, payload) in late {
        world.retained.insert(topic.to_string(), payload.clone());
        if world.subscribed.contains(&topic) {
            world.receive(&topic, &payload);
        }
    }
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn until_the_metadata_speaks_for_a_bundle_its_slot_seeks_and_says_why() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.publish_bytes(&v1);
    world.desire(1, &v1);
    world.pass(METADATA_PATIENCE_MS);
    assert!(world.reason().contains("no target example/1.0.0"), "{}", world.reason());
    assert_eq!(world.requested.len(), 0, "nothing is fetched for who knows what");
    let path = TargetsEdit::Add(BundleTarget { version: "1.0.0".into(), ..target_of(&v2) });
    let mut other = world.fork();
    other.start().expect("the disk works");
    other.edit_targets(&[path]);
    other.deliver_timestamp();
    other.pass(METADATA_PATIENCE_MS);
    assert!(other.reason().contains("not the desired one"), "{}", other.reason());
    world.edit_targets(&[TargetsEdit::Add(target_of(&v1))]);
    world.deliver_timestamp();
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn a_target_of_a_delegated_role_counts_where_the_delegation_reaches() {
    let mut world = World::new();
    let (v1, team) = (v1(), new_key());
    let role: RoleName = "team-a".parse().expect("the name is short");
    let delegation = Delegation {
        role: role.clone(),
        keys: vec![team.public_key().clone()],
        threshold: 1,
        paths: vec!["example/*".into()],
        terminating: true,
    };
    let mut targets = TargetsDraft::empty(UnixMillis(NOW_MS + DAY_MS));
    targets.edit(&[TargetsEdit::Add(target_of(&v1))]).expect("the edit fits");
    targets.sign(&team);
    world.edit_targets(&[TargetsEdit::Delegate(delegation)]);
    world.propose_targets("team-a", targets);
    world.publish_bytes(&v1);
    let file = "1.team-a.json";
    let held_back = world.retained.remove(&metadata_topic(file).to_string());
    world.deliver_timestamp();
    world.desire(1, &v1);
    world.pass(METADATA_PATIENCE_MS);
    assert!(world.reason().contains("being looked for"), "{}", world.reason());
    assert!(world.subscribed.contains(&metadata_topic(file)));
    // It is asked for again when it does not come, and the timestamp with it: there may be a newer one.
    let subscriptions = world.subscriptions;
    world.pass(METADATA_OVERDUE_MS);
    assert_eq!(world.subscriptions, subscriptions + 2);
    world.receive(&metadata_topic(file), &held_back.expect("it was published"));
    assert_eq!(world.answering, Some(v1.digest()));
    // It is on the disk: a restart asks the network for nothing.
    world.retained.clear();
    world.start().expect("the disk works");
    assert_eq!(world.subscribed, [metadata_topic("timestamp.json")]);
}

#[test]
fn an_unchanged_timestamp_costs_its_message_and_nothing_else() {
    let mut world = World::new();
    world.install(1, &v1());
    let (operations, subscriptions) = (world.disk.operations(), world.subscriptions);
    let (reports, events) = (world.reports, world.events.len());
    world.deliver_timestamp();
    world.deliver_timestamp();
    assert_eq!((world.disk.operations(), world.subscriptions), (operations, subscriptions));
    assert_eq!((world.reports, world.events.len()), (reports, events));
}

#[test]
fn metadata_that_nobody_should_believe_is_told_once_and_blocks_nothing() {
    let raw = |bytes: Vec<u8>| encode(&Chunk { codec: ChunkCodec::Raw, bytes });
    let mut world = World::new();
    let v1 = v1();
    let old_timestamp = world.retained["all/metadata/timestamp.json"].clone();
    world.install(1, &v1);
    world.events.clear();
    let timestamp = metadata_topic("timestamp.json");
    let bomb = zstd::bulk::compress(&vec![b' '; 10_000_000], 3).expect("it is compressed");
    let mut garbled = world.retained["all/metadata/timestamp.json"].clone();
    garbled.truncate(garbled.len() / 2);
    let foreign = {
        // A whole repository of somebody else's.
        let mut other = World::new();
        other.publish(&v1);
        other.retained["all/metadata/timestamp.json"].clone()
    };
    let cases = [
        ("an old one", old_timestamp),
        ("a bomb", encode(&Chunk { codec: ChunkCodec::Zstd, bytes: bomb })),
        ("too long", raw(vec![b' '; 100_000])),
        ("garbled", garbled),
        ("foreign", foreign),
        ("no JSON", raw(b"{".to_vec())),
        ("no message", b"\x63".to_vec()),
    ];
    for (what, payload) in cases {
        world.events.clear();
        for _ in 0..3 {
            world.receive(&timestamp, &payload);
        }
        assert_eq!(world.event_kinds(), [EventKind::MetadataRefused], "{what}: {:?}", world.events);
    }
    world.install(2, &v2());
}

#[test]
fn a_refused_file_costs_its_refresh_and_is_asked_for_again() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish_bytes(&v2);
    world.edit_targets(&[TargetsEdit::Add(target_of(&v2))]);
    let snapshots: Vec<_> =
        world.retained.keys().filter(|topic| topic.ends_with("snapshot.json")).cloned().collect();
    let newest = snapshots.last().expect("there is one").clone();
    let good = world.retained[&newest].clone();
    let older = world.retained[&snapshots[0]].clone();
    world.retained.insert(newest.clone(), older);
    world.events.clear();
    world.deliver_timestamp();
    world.desire(2, &v2);
    assert_eq!(world.event_kinds(), [EventKind::MetadataRefused]);
    assert_eq!(world.answering, Some(v1.digest()));
    world.retained.insert(newest, good);
    world.pass(METADATA_RETRY_MS);
    assert_eq!(world.answering, Some(v2.digest()), "{:?}", world.report());
}

#[test]
fn a_newer_timestamp_takes_the_place_of_a_refresh_that_waits() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish_bytes(&v2);
    world.edit_targets(&[TargetsEdit::Add(target_of(&v2))]);
    let withheld = world.retained.clone();
    world.retained.retain(|topic, _| !topic.ends_with("targets.json"));
    world.deliver_timestamp();
    assert_eq!(world.subscribed.len(), 2, "it waits for targets");
    world.retained = withheld;
    world.edit_targets(&[TargetsEdit::Expires(UnixMillis(NOW_MS + 40 * DAY_MS))]);
    world.deliver_timestamp();
    assert_eq!(world.subscribed, [metadata_topic("timestamp.json")]);
    world.desire(2, &v2);
    assert_eq!(world.answering, Some(v2.digest()));
}

#[test]
fn a_new_director_is_followed_and_the_one_before_is_not_believed() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    let before = world.keys.clone();
    world.replace_director();
    // The desired state comes before the root that names its signer: it waits.
    world.events.clear();
    world.publish_bytes(&v2);
    world.edit_targets(&[TargetsEdit::Add(target_of(&v2))]);
    world.desire(2, &v2);
    assert_eq!(world.event_kinds(), [EventKind::DesiredRefused]);
    world.deliver_timestamp();
    assert_eq!((world.trusted, world.trust().root_version), (Some(2), 2));
    assert_eq!(world.answering, Some(v2.digest()));
    world.confirm(&v2);
    let forged = world.desired(3, Some(World::desired_slot(&v1))).sign(&before.director);
    world.receive_desired(forged);
    assert_eq!(world.answering, Some(v2.digest()));
    // The stored newer root stands, not the configured one.
    world.retained.clear();
    world.start().expect("the disk works");
    assert_eq!((world.trusted, world.trust().root_version), (Some(2), 2));
    let replayed = world.desired(1, Some(World::desired_slot(&v1))).sign(&world.keys.director);
    world.receive_desired(replayed);
    assert_eq!(world.answering, Some(v2.digest()));
}

#[test]
fn a_frozen_device_says_so_by_itself_and_says_when_it_is_over() {
    let mut world = World::new();
    world.install(1, &v1());
    world.events.clear();
    world.now.unix_ms += 8 * DAY_MS;
    world.pass(1000);
    world.pass(1000);
    assert_eq!(world.event_kinds(), [EventKind::Frozen]);
    assert!(world.trust().frozen);
    // Nothing new comes in on metadata that has expired.
    world.publish_bytes(&v2());
    world.events.clear();
    world.start().expect("the disk works");
    assert_eq!(world.event_kinds(), [EventKind::Frozen]);
    world.fleet_ms = world.now.unix_ms;
    world.desire(2, &v2());
    world.pass(METADATA_PATIENCE_MS);
    assert!(world.reason().contains("expired"), "{}", world.reason());
    world.events.clear();
    world.resign();
    world.deliver_timestamp();
    assert!(!world.trust().frozen);
    assert_eq!(world.event_kinds(), [EventKind::Thawed]);
    world.edit_targets(&[TargetsEdit::Add(target_of(&v2()))]);
    world.deliver_timestamp();
    assert_eq!(world.answering, Some(v2().digest()));
}

#[test]
fn a_device_without_a_clock_uses_the_latest_time_that_was_signed() {
    let mut world = World::new();
    let v1 = v1();
    world.now.unix_ms = 0;
    world.start().expect("the disk works");
    world.install(1, &v1);
    assert!(world.trust().time_unverified);
    let told = world.events.iter().filter(|event| event.kind == EventKind::TimeUnverified);
    assert_eq!(told.count(), 1);
    assert!(world.events.last().is_some_and(|event| event.at_ms >= NOW_MS));
    // An expired desired state stays expired, also after a restart and with a signed one in between.
    let expired = DesiredState {
        issued: UnixMillis(NOW_MS - 2000),
        expires: UnixMillis(NOW_MS - 1000),
        ..world.desired(2, None)
    };
    let expired = expired.sign(&world.keys.director);
    let older = DesiredState {
        issued: UnixMillis(NOW_MS - 5000),
        ..world.desired(2, Some(World::desired_slot(&v1)))
    };
    world.receive_desired(older.sign(&world.keys.director));
    world.retained.clear();
    world.start().expect("the disk works");
    world.events.clear();
    world.receive_desired(expired);
    assert_eq!(world.event_kinds(), [EventKind::DesiredRefused]);
    assert!(world.events[0].detail.contains("expired"), "{:?}", world.events);
    assert_eq!(world.answering, Some(v1.digest()));
    // The clock is set.
    world.now.unix_ms = NOW_MS;
    world.pass(1000);
    assert!(!world.trust().time_unverified);
}

#[test]
fn metadata_that_the_disk_did_not_take_is_not_acted_upon_yet() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish_bytes(&v2);
    world.edit_targets(&[TargetsEdit::Add(target_of(&v2))]);
    world.desire(2, &v2);
    let used: usize = world.disk.files().values().map(Vec::len).sum();
    world.disk.set_capacity(Some(used as u64));
    world.disk.fail_changes(1);
    world.deliver_timestamp();
    world.pass(METADATA_PATIENCE_MS);
    assert_eq!(world.answering, Some(v1.digest()));
    assert!(!world.reason().is_empty());
    world.disk.set_capacity(None);
    for _ in 0..4 {
        world.pass(DISK_RETRY_MS);
    }
    assert_eq!(world.answering, Some(v2.digest()), "{:?}", world.report());
}

#[test]
fn offers_that_are_not_to_be_believed_delay_an_update_and_do_not_end_it() {
    let part = "not the one that the target names";
    let another = ChunkIndex::of(&v1()).expect("it is small").encode();
    for index in [another, vec![2; 100_000]] {
        let mut world = World::new();
        let (v1, v2) = (v1(), v2());
        world.install(1, &v1);
        world.events.clear();
        world.publish(&v2);
        world.publish_offer(&v2, BundleOffer { index });
        world.desire(2, &v2);
        let payload = world.retained[&Topic::Bundle(v2.digest()).to_string()].clone();
        world.receive(&Topic::Bundle(v2.digest()), &payload);
        assert!(world.reason().contains(part), "{}", world.reason());
        assert_eq!(world.event_kinds(), [EventKind::BundleRefused]);
        assert_eq!(world.answering, Some(v1.digest()));
        // The good offer comes where the bad one was.
        world.publish_bytes(&v2);
        world.pass(OFFER_RETRY_MS);
        assert_eq!((world.answering, world.reason().as_str()), (Some(v2.digest()), ""));
    }
}

type Spoil = fn(&mut World, &Bundle);

#[test]
fn what_is_not_right_is_refused_and_the_bundle_before_goes_on() {
    let cases: [(&str, Spoil); 5] = [
        ("hardware armv7, riscv64; this device is aarch64", |world, bundle| {
            let hardware_classes = vec!["armv7".into(), "riscv64".into()];
            world.publish_as(bundle, BundleTarget { hardware_classes, ..target_of(bundle) });
        }),
        ("its manifest says example 2.0.0, its target example 9.0.0", |world, bundle| {
            world.publish_as(bundle, BundleTarget { version: "9.0.0".into(), ..target_of(bundle) });
        }),
        ("this device takes 100000", |world, bundle| {
            world.limits.bundle_bytes_max = 100_000;
            world.updates().limits.bundle_bytes_max = 100_000;
            world.publish(bundle);
        }),
        ("it failed its trial: 3 GB are not enough", |world, bundle| {
            world.trials.insert(bundle.digest(), "3 GB are not enough".into());
            world.publish(bundle);
        }),
        ("golden vectors are not met", |world, bundle| {
            world.unfit.lock().expect("no test panics here").insert(bundle.digest());
            world.publish(bundle);
        }),
    ];
    let mut failures = Vec::new();
    for (part, spoil) in cases {
        let mut world = World::new();
        let (v1, v2) = (v1(), v2());
        world.install(1, &v1);
        spoil(&mut world, &v2);
        let target = if part.contains("9.0.0") { "example/9.0.0".into() } else { path_of(&v2) };
        world.desire_slot(2, DesiredSlot { target, ..World::desired_slot(&v2) });
        let report = world.report().clone();
        let reason = world.reason();
        let refused = report.phase == SlotPhase::Refused && reason.contains(part);
        let stays = world.answering == Some(v1.digest())
            && report.running.map(|running| running.bundle) == Some(v1.digest());
        let told = world.event_kinds().last() == Some(&EventKind::BundleRefused);
        if !(refused && stays && told) {
            failures.push(format!("{part}: {:?}, {reason}, {:?}", report.phase, world.answering));
            continue;
        }
        // The reason survives a restart, and the next update is not blocked.
        let good = bundle("10.0.0", noise(60_000, 3));
        world.limits.bundle_bytes_max = 1 << 20;
        if let Err(error) = world.start() {
            failures.push(format!("{part}: {error}"));
        }
        if world.reason() != reason {
            failures.push(format!("{part}: forgotten: {:?}", world.report()));
        }
        world.publish(&good);
        world.desire(3, &good);
        if world.answering != Some(good.digest()) {
            failures.push(format!("{part}: the next update is blocked: {:?}", world.report()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_bundle_that_fails_its_probation_gives_way_and_the_reason_survives_a_restart() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish(&v2);
    world.desire(2, &v2);
    assert_eq!(world.answering, Some(v2.digest()));
    world.events.clear();
    world.observe(&v2, seen(20, 20));
    assert_eq!((world.answering, world.report().phase), (Some(v1.digest()), SlotPhase::Refused));
    assert_eq!(world.event_kinds(), [EventKind::RolledBack]);
    let reason = world.reason();
    assert!(reason.contains("100.0 % of 20 samples"), "{reason}");
    let kept = world.disk.list("bundles").expect("it works");
    assert_eq!(kept, [v1.digest().hex().to_string()]);
    world.start().expect("the disk works");
    assert_eq!((world.answering, world.reason()), (Some(v1.digest()), reason));
    world.install(3, &bundle("2.0.1", noise(50_000, 9)));
}

#[test]
fn a_bundle_that_takes_the_agent_down_is_given_up_at_the_start() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish(&v2);
    world.desire(2, &v2);
    world.ended_cleanly = false;
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v2.digest()), "it may be no fault of the bundle");
    assert!(world.watching);
    world.events.clear();
    world.start().expect("the disk works");
    assert_eq!((world.answering, world.report().phase), (Some(v1.digest()), SlotPhase::Refused));
    assert_eq!(world.event_kinds(), [EventKind::RolledBack]);
    assert!(world.reason().contains("stopped 2 times"), "{}", world.reason());
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v1.digest()));
    world.ended_cleanly = true;
    world.install(3, &bundle("2.0.1", noise(50_000, 9)));
}

#[test]
fn a_shadow_gets_samples_before_the_bundle_answers() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish(&v2);
    world.desire_slot(2, DesiredSlot { shadow_samples: 30, ..World::desired_slot(&v2) });
    assert_eq!((world.answering, world.in_shadow), (Some(v1.digest()), Some(v2.digest())));
    let disagreed = Observation {
        comparison: Comparison { samples: 12, disagreed: 5, ..Comparison::default() },
        ..Observation::default()
    };
    world.observe(&v2, disagreed);
    world.pass(1000);
    let report = world.report();
    assert_eq!(report.phase, SlotPhase::Shadow { samples: 12, samples_wanted: 30 });
    assert_eq!(report.comparison.map(|comparison| comparison.disagreed), Some(5));
    world.observe(&v2, seen(30, 0));
    assert_eq!((world.answering, world.in_shadow), (Some(v2.digest()), None));
}

#[test]
fn a_revoked_target_stops_what_is_not_confirmed_and_nothing_that_is() {
    let revoke = |world: &mut World, bundle: &Bundle| {
        world.edit_targets(&[TargetsEdit::Revoke(path_of(bundle))]);
        world.deliver_timestamp();
    };
    let (v1, v2) = (v1(), v2());
    let mut world = World::new();
    world.install(1, &v1);
    revoke(&mut world, &v1);
    assert_eq!((world.answering, world.report().phase), (Some(v1.digest()), SlotPhase::Settled));
    world.publish(&v2);
    let mut on_the_way = world.fork();
    on_the_way.start().expect("the disk works");
    let offers_alone = |topic: &String| !topic.contains("chunks");
    let retained = on_the_way.retained.clone();
    on_the_way.retained.retain(|topic, _| offers_alone(topic));
    on_the_way.desire(2, &v2);
    assert!(matches!(on_the_way.report().phase, SlotPhase::Fetching { chunks_total: 1.., .. }));
    revoke(&mut on_the_way, &v2);
    assert!(on_the_way.reason().contains("no target"), "{}", on_the_way.reason());
    on_the_way.retained.extend(retained.into_iter().filter(|(topic, _)| topic.contains("chunk")));
    on_the_way.pass(CHUNK_OVERDUE_MS);
    assert_eq!(on_the_way.answering, Some(v1.digest()));

    world.desire(2, &v2);
    assert_eq!(world.answering, Some(v2.digest()));
    revoke(&mut world, &v2);
    assert_eq!((world.answering, world.report().phase), (Some(v1.digest()), SlotPhase::Refused));
    assert!(world.reason().contains("no target"), "{}", world.reason());
}

#[test]
fn a_patch_is_fetched_in_the_place_of_chunks_and_chunks_in_the_place_of_a_spoilt_one() {
    let old = bundle("1.0.0", noise(400_000, 1));
    let nudged = noise(400_000, 1).into_iter().enumerate();
    let nudged = nudged.map(|(place, byte)| if place % 50 == 0 { byte ^ 1 } else { byte });
    let new = bundle("2.0.0", nudged.collect());
    let mut world = World::new();
    world.install(1, &old);
    let patch = world.publish_patched(&old, &new);
    let chunks = ChunkIndex::of(&new).expect("it is small");
    let (world_before, mut spoilt) = (world.fork(), world.fork());
    world.requested.clear();
    world.desire(2, &new);
    assert_eq!(world.answering, Some(new.digest()), "{:?}", world.report());
    let pieces = patch.index().pieces().iter().map(|piece| piece.digest);
    let pieces: Vec<_> = [patch.index().digest()].into_iter().chain(pieces).collect();
    assert_eq!(world.requested, pieces);

    // The source is damaged on the disk: the pieces come, and do not help.
    spoilt.start().expect("the disk works");
    let model = digest_of(old.model()).hex().to_string();
    let path = format!("bundles/{}/blobs/sha256/{model}", old.digest().hex());
    spoilt.disk.damage(&path, 1000);
    spoilt.desire(2, &new);
    assert_eq!(spoilt.answering, Some(new.digest()), "{:?}", spoilt.report());
    assert!(chunks.chunks().any(|chunk| spoilt.requested.contains(&chunk.digest)));

    // The broker does not have the patch: after a while, chunks do as well.
    let index = Topic::Chunk(patch.index().digest()).to_string();
    for payload in [None, Some(encode(&Chunk { codec: ChunkCodec::Raw, bytes: vec![7; 200] }))] {
        let mut waiting = world_before.fork();
        waiting.start().expect("the disk works");
        waiting.retained.remove(&index);
        waiting.retained.extend(payload.map(|payload| (index.clone(), payload)));
        waiting.desire(2, &new);
        assert_eq!(waiting.answering, Some(old.digest()));
        waiting.pass(CHUNK_OVERDUE_MS);
        assert_eq!(waiting.answering, Some(new.digest()), "{:?}", waiting.report());
    }

    // A device without the source fetches chunks.
    let mut fresh = World::new();
    fresh.publish_patched(&old, &new);
    fresh.desire(1, &new);
    assert!(pieces.iter().all(|piece| !fresh.requested.contains(piece)));
}

#[test]
fn chunks_that_are_not_what_they_are_called_are_counted_and_waited_for() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let good = world.retained.clone();
    for (topic, payload) in &mut world.retained {
        if topic.contains("chunks") {
            let last = payload.len() - 1;
            payload[last] ^= 1;
        }
    }
    world.desire(1, &v1);
    assert!(world.malformed > 0);
    assert_eq!(world.answering, None);
    assert!(matches!(world.report().phase, SlotPhase::Fetching { chunks_present: 0, .. }));
    // The broker's content is repaired; overdue chunks are asked for again.
    world.retained = good;
    for _ in 0..20 {
        world.pass(60_000);
    }
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn an_index_of_more_tiny_chunks_than_are_allowed_is_refused_and_of_a_million_not_even_read() {
    let index_of = |chunks: u32| {
        let varint = |value: u32| postcard::to_allocvec(&value).expect("it is a number");
        let head = [&[2, 1], &[7; 32][..], &varint(chunks), &varint(chunks)].concat();
        let chunk = |number: u32| [&number.to_le_bytes()[..], &[0; 28], &[1]].concat();
        head.into_iter().chain((0..chunks).flat_map(chunk)).collect::<Vec<u8>>()
    };
    for (chunks, phase, malformed) in [
        (3_000, SlotPhase::Refused, 0),
        (1_000_000, SlotPhase::Fetching { chunks_present: 0, chunks_total: 0 }, 1),
    ] {
        let mut world = World::new();
        let (v1, v2) = (v1(), v2());
        world.install(1, &v1);
        let index = index_of(chunks);
        let named = Blob { digest: digest_of(&index), len_bytes: index.len() as u64 };
        world.publish_as(&v2, BundleTarget { chunk_index: named, ..target_of(&v2) });
        world.publish_offer(&v2, BundleOffer { index });
        world.desire(2, &v2);
        assert_eq!((world.answering, world.report().phase), (Some(v1.digest()), phase));
        assert_eq!(world.malformed, malformed);
        assert!(malformed > 0 || world.reason().contains("limit"), "{}", world.reason());
    }
}

#[test]
fn desired_states_that_are_not_to_be_believed_change_nothing_and_are_told_once() {
    let mut world = World::new();
    let v1 = v1();
    world.install(5, &v1);
    world.events.clear();
    let good = world.desired(6, None);
    let director = &world.keys.director;
    let old = UnixMillis(NOW_MS - 1000);
    let documents = [
        ("older", DesiredState { generation: 4, ..good.clone() }.sign(director)),
        ("seen before", DesiredState { generation: 5, ..good.clone() }.sign(director)),
        (
            "device line-2",
            DesiredState { device: "line-2".parse().expect("a name"), ..good.clone() }
                .sign(director),
        ),
        (
            "fleet other",
            DesiredState { fleet: "other".parse().expect("a name"), ..good.clone() }.sign(director),
        ),
        (
            "expired",
            DesiredState { issued: UnixMillis(0), expires: old, ..good.clone() }.sign(director),
        ),
        ("role targets", good.sign(&world.keys.targets)),
        ("signatures", good.sign(&new_key())),
        ("malformed", b"{}".to_vec()),
    ];
    for (part, document) in documents {
        for _ in 0..3 {
            world.receive_desired(document.clone());
        }
        let told: Vec<_> = world.events.drain(..).collect();
        assert_eq!(told.len(), 1, "{part}: {told:?}");
        assert_eq!(told[0].kind, EventKind::DesiredRefused);
        assert!(told[0].detail.contains(part), "{part}: {}", told[0].detail);
        assert_eq!(world.answering, Some(v1.digest()));
    }
    world.receive(&Topic::Desired(device()), b"\x02garbage that is no message");
    world.receive(&Topic::Desired(device()), b"\x63");
    assert_eq!(world.malformed, 2);
}

#[test]
fn the_same_desired_state_again_costs_nothing() {
    let mut world = World::new();
    let v1 = v1();
    world.install(1, &v1);
    world.events.clear();
    let operations = world.disk.operations();
    world.desire(1, &v1);
    assert_eq!(world.disk.operations(), operations);
    assert!(world.events.is_empty());
}

#[test]
fn a_bundle_that_went_bad_on_the_disk_gives_way_to_the_one_before() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.install(2, &v2);
    let path =
        format!("bundles/{}/blobs/sha256/{}", v2.digest().hex(), digest_of(v2.model()).hex());
    world.disk.damage(&path, 1000);
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v1.digest()));
    assert_eq!(world.report().phase, SlotPhase::Refused);
    assert!(!world.reason().is_empty());
    world.desire(3, &v2);
    assert_eq!(world.answering, Some(v2.digest()), "it can be fetched again");
}

#[test]
fn a_read_that_fails_on_start_costs_no_bundle() {
    // Which of the two bundles cannot be read at first.
    for unread in [&[1][..], &[0, 1]] {
        let mut world = World::new();
        let bundles = [v1(), v2()];
        world.install(1, &bundles[0]);
        world.install(2, &bundles[1]);
        world.retained.clear();
        world.events.clear();
        let files = world.disk.files();
        for bundle in unread.iter().map(|place| &bundles[*place]) {
            let (bundle, model) = (bundle.digest(), digest_of(bundle.model()));
            let path = format!("bundles/{}/blobs/sha256/{}", bundle.hex(), model.hex());
            world.disk.fail_reads(&path, 1);
        }
        world.start().expect("the disk takes writes");
        let stands_in = (unread.len() == 1).then(|| bundles[0].digest());
        assert_eq!(world.answering, stands_in);
        let reason = world.reason();
        assert!(reason.contains("does not answer") && reason.contains("trying again"), "{reason}");
        assert!(files == world.disk.files(), "records and bundles stay");
        assert!(world.events.is_empty(), "nothing was refused: {:?}", world.events);
        world.pass(DISK_RETRY_MS);
        assert_eq!(world.answering, Some(bundles[1].digest()), "{:?}", world.report());
        assert_eq!((world.report().phase, &world.report().reason), (SlotPhase::Settled, &None));
        assert!(files == world.disk.files(), "nothing was fetched or lost");
    }
}

#[test]
fn a_full_disk_is_reported_and_the_update_goes_on_when_there_is_room() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.install(1, &v1);
    world.publish(&v2);
    let used: usize = world.disk.files().values().map(Vec::len).sum();
    world.disk.set_capacity(Some(used as u64 + 10_000));
    world.desire(2, &v2);
    assert_eq!(world.answering, Some(v1.digest()));
    let reason = world.reason();
    assert!(reason.contains("bytes free") && reason.contains("trying again"), "{reason}");
    world.disk.set_capacity(None);
    world.pass(DISK_RETRY_MS);
    assert_eq!(world.answering, Some(v2.digest()));
    assert_eq!(world.report().reason, None);
}

#[test]
fn a_desired_state_that_the_disk_did_not_take_is_tried_again() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.disk.set_capacity(Some(0));
    world.desire(1, &v1);
    assert_eq!(world.answering, None);
    world.disk.set_capacity(None);
    world.pass(DISK_RETRY_MS);
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn two_slots_may_want_the_same_bundle_and_an_overdue_chunk_comes_to_both() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let retained = world.retained.clone();
    world.retained.retain(|topic, _| !topic.contains("chunks"));
    let mut desired = world.desired(1, Some(World::desired_slot(&v1)));
    let other: SlotName = "other".parse().expect("a name");
    desired.slots.insert(other, World::desired_slot(&v1));
    world.receive_desired(desired.sign(&world.keys.director));
    // The broker had no chunk then; it has them by the time they are overdue.
    world.retained = retained;
    for _ in 0..4 {
        world.pass(CHUNK_OVERDUE_MS);
    }
    let reported = world.reported.as_ref().expect("something was reported");
    assert_eq!(reported.slots.len(), 2);
    let answers = |report: &SlotReport| report.running.is_some();
    assert!(reported.slots.iter().all(answers), "{reported:?}");
}

#[test]
fn an_unwanted_bundle_leaves_its_slot() {
    let mut world = World::new();
    let v1 = v1();
    world.install(1, &v1);
    let document = world.desired(2, None).sign(&world.keys.director);
    world.receive_desired(document);
    assert_eq!(world.answering, None);
    assert!(world.reported.as_ref().is_some_and(|reported| reported.slots.is_empty()));
}

#[test]
fn reports_are_counted_and_progress_alone_is_told_once_a_second() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, &v1);
    let before = world.reports;
    for samples in 1..9 {
        world.observe(&v1, seen(samples, 0));
    }
    assert_eq!(world.reports, before);
    world.pass(1000);
    assert_eq!(world.reports, before + 1);
    let reported = world.reported.as_ref().expect("something was reported");
    assert_eq!(reported.revision, world.reports as u64);
    assert_eq!(
        reported.slots[0].phase,
        SlotPhase::Probation { inferences: 8, inferences_wanted: 10 }
    );
    assert_eq!(reported.slots[0].slot, slot());
    world.pass(PROBATION_MS);
}
