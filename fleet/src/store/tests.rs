use proptest::prelude::*;
use tempfile::TempDir;

use selvedge_sketch::SpecId;
use selvedge_wire::{
    Batch, Boot, Digest, Event, EventKind, Health, InferenceResult, Label, LabelRecord,
    LabelledAnswer, Outcome, ProfileOrigin, ProfileRecord, Record, Reported, Running, Sequence,
    SlotName, SlotPhase, SlotReport, Status, StoredThrough, Stream, TrustReport, Truth,
    WindowRange,
};

use super::{
    Assignment, Change, Cursor, EnrolledKey, Labelled, Malformed, MalformedKind, ProposalRow,
    Received, RepositoryChange, SignedDesired, SiteRow, Slots, Stocked, Store, TIMESTAMP_FILE,
    TargetRow, Upward, WindowFilter,
};
use crate::{
    ErrorKind, Limits,
    drift::{MuteScope, NewMute, merge},
    store::BundleRow,
    testing::{
        NOW_MS, add_device, key_of, name,
        reference::{Noise, baseline, encoded, profile},
    },
};

async fn store_with(limits: Limits, devices: &[&str]) -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = Store::open(&folder.path().join("fleet.db"), limits).await.expect("it opens");
    for device in devices {
        add_device(&store, device).await.expect("the device is new");
    }
    (folder, store)
}

fn received(device: &str, message: Upward) -> Received {
    let (device, key) = (name(device), key_of(device));
    Received { device, key, message, fresh: true, at_ms: NOW_MS }
}

fn result(sample: u64) -> InferenceResult {
    InferenceResult {
        at_ms: NOW_MS,
        slot: "main".parse().expect("the name is well formed"),
        bundle: Digest([7; 32]),
        source: "replay".into(),
        sample,
        latency_us: 90,
        outcome: Outcome::Class { index: 1, score: 0.75 },
    }
}

fn results(boot: u32, first: u64, count: u64) -> Batch<InferenceResult> {
    let records = (first..first + count).map(|sample| Record::One(result(sample))).collect();
    Batch { boot: Boot(boot), first: Sequence(first), records }
}

async fn stored_samples(store: &Store, device: &str) -> Vec<u64> {
    let all = Cursor { after: 0, limit: 100_000 };
    let mut samples: Vec<u64> = store
        .results(&name(device), None, None, all)
        .await
        .expect("results can be read")
        .iter()
        .map(|row| {
            assert_eq!(row.sequence, row.sample, "each sample stands at its own number");
            row.sample
        })
        .collect();
    samples.sort_unstable();
    samples
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn each_sequence_number_is_stored_once_however_batches_overlap(
        batches in proptest::collection::vec((1u64..40, 1u64..12), 1..20)
    ) {
        block_on(async {
            let (_folder, store) = store_with(Limits::default(), &["a"]).await;
            let mut model = std::collections::BTreeSet::new();
            for chunk in batches.chunks(3) {
                let messages: Vec<Received> = chunk
                    .iter()
                    .map(|&(first, count)| received("a", Upward::Results(results(1, first, count))))
                    .collect();
                store.apply(&messages, &[]).await.expect("the database takes it");
                chunk.iter().for_each(|&(first, count)| model.extend(first..first + count));
            }
            let model: Vec<u64> = model.into_iter().collect();
            assert_eq!(stored_samples(&store, "a").await, model);
            let through = (1..).zip(&model).take_while(|(i, number)| i == *number).count() as u64;
            let stored = store.stored(&name("a"), 8).await.expect("streams can be read");
            assert_eq!(stored[0].through, Sequence(through));
            let totals = store.totals().await.expect("streams can be summed");
            assert_eq!(totals.results, model.len() as i64);
            assert_eq!(totals.sequence_gaps as u64, model[model.len() - 1] - model.len() as u64);
            store.close().await;
        });
    }
}

/// A profile of the windows `first` to `last` of one boot, counted from `windows`.
fn profiles(windows: &[selvedge_sketch::GatewayProfile], first: u64, last: u64) -> Upward {
    let mut merged = windows[first as usize].clone();
    for window in &windows[first as usize + 1..=last as usize] {
        merged.merge(window).expect("they have one baseline");
    }
    let value = ProfileRecord {
        origin: ProfileOrigin::Model {
            slot: "main".parse().expect("the name is well formed"),
            bundle: Digest([7; 32]),
        },
        windows: WindowRange { first, last },
        opened_ms: first * 10,
        closed_ms: last * 10 + 10,
        profile: encoded(&merged),
    };
    let covers = last - first + 1;
    let record = if covers == 1 { Record::One(value) } else { Record::Merged { covers, value } };
    Upward::Profiles(Batch { boot: Boot(1), first: Sequence(first + 1), records: vec![record] })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Ranges are halves, quarters and eighths of sixteen windows, or single ones: of two that overlap, one
    /// contains the other, as a device merges them.
    #[test]
    fn profiles_in_any_order_with_duplicates_and_wider_ranges_are_counted_once(
        sent in prop::collection::vec((0u32..5, 0u64..16), 1..24),
        per_commit in 1usize..5,
    ) {
        let baseline = baseline(50);
        let mut noise = Noise(9);
        let windows: Vec<_> =
            (0..16).map(|at| profile(&baseline, &mut noise, 3, at as f32)).collect();
        let range = |&(level, at): &(u32, u64)| {
            let first = at >> level << level;
            (first, first + (1 << level) - 1)
        };
        block_on(async {
            let (_folder, store) = store_with(Limits::default(), &["a"]).await;
            let messages: Vec<Received> = sent
                .iter()
                .map(range)
                .map(|(first, last)| received("a", profiles(&windows, first, last)))
                .collect();
            for group in messages.chunks(per_commit) {
                store.apply(group, &[]).await.expect("the database takes it");
            }
            let covered: std::collections::BTreeSet<u64> =
                sent.iter().map(range).flat_map(|(first, last)| first..=last).collect();
            let mut expected = windows[0].clone();
            expected = selvedge_sketch::GatewayProfile::new(expected.spec_id(), 2)
                .expect("two features fit");
            for &window in &covered {
                expected.merge(&windows[window as usize]).expect("they have one baseline");
            }
            let filter = WindowFilter::default();
            let stored =
                store.windows(&Digest([7; 32]), &filter).await.expect("profiles can be read");
            let merged = merge(&baseline, &stored.windows);
            assert_eq!(merged.windows, covered.len() as u64);
            assert_eq!(encoded(&merged.profile), encoded(&expected));
            let streams = store.streams(&name("a")).await.expect("streams can be read");
            assert_eq!(streams[0].conflicting, 0);
            store.close().await;
        });
    }
}

#[tokio::test]
async fn profiles_that_overlap_in_part_conflict_and_the_first_stays() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let baseline = baseline(50);
    let mut noise = Noise(9);
    let windows: Vec<_> = (0..4).map(|_| profile(&baseline, &mut noise, 3, 0.0)).collect();
    let messages = [
        received("a", profiles(&windows, 0, 1)),
        received("a", profiles(&windows, 1, 2)),
        received("a", profiles(&windows, 3, 3)),
    ];
    store.apply(&messages, &[]).await.expect("the database takes it");
    let stored = store.windows(&Digest([7; 32]), &WindowFilter::default()).await;
    let stored = stored.expect("profiles can be read").windows;
    let ranges: Vec<_> = stored.iter().map(|window| (window.first, window.last)).collect();
    assert_eq!(ranges, [(0, 1), (3, 3)]);
    let streams = store.streams(&name("a")).await.expect("streams can be read");
    assert_eq!(streams[0].conflicting, 1);
}

#[tokio::test]
async fn a_look_reads_the_newest_profiles_and_says_that_there_are_more() {
    let limits = Limits { drift_profiles_max: 3, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a", "b"]).await;
    let baseline = baseline(50);
    let windows: Vec<_> = (0..4).map(|_| profile(&baseline, &mut Noise(9), 3, 0.0)).collect();
    let messages = [
        received("a", profiles(&windows, 0, 0)),
        received("a", profiles(&windows, 2, 2)),
        received("b", profiles(&windows, 1, 1)),
        received("b", profiles(&windows, 3, 3)),
    ];
    store.apply(&messages, &[]).await.expect("the database takes it");
    let read = async |filter: WindowFilter| {
        let read = store.windows(&Digest([7; 32]), &filter).await.expect("profiles can be read");
        let place =
            |window: &crate::drift::Window| (window.origin.device.to_string(), window.first);
        (read.windows.iter().map(place).collect::<Vec<_>>(), read.cut)
    };
    let place = |device: &str, first| (device.to_owned(), first);
    let all = read(WindowFilter::default()).await;
    assert_eq!(all, (vec![place("a", 2), place("b", 1), place("b", 3)], true));
    let some =
        WindowFilter { devices: Some(vec![name("b")]), to_ms: Some(20), ..Default::default() };
    assert_eq!(read(some).await, (vec![place("b", 1)], false));
    let slot = Some("spare".parse().expect("the name is well formed"));
    assert_eq!(read(WindowFilter { slot, ..Default::default() }).await, (vec![], false));
}

#[tokio::test]
async fn records_dropped_on_the_device_are_counted_once_and_close_the_gap() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let dropped = Batch {
        boot: Boot(1),
        first: Sequence(3),
        records: vec![Record::Dropped { covers: 8 }, Record::One(result(11))],
    };
    let messages = [
        received("a", Upward::Results(results(1, 1, 5))),
        received("a", Upward::Results(dropped.clone())),
        received("a", Upward::Results(dropped)),
    ];
    store.apply(&messages, &[]).await.expect("the database takes it");
    assert_eq!(stored_samples(&store, "a").await, [1, 2, 3, 4, 5, 11]);
    let totals = store.totals().await.expect("streams can be summed");
    assert_eq!((totals.records_dropped, totals.sequence_gaps), (5, 0), "6 to 10 were dropped");
}

#[tokio::test]
async fn a_merged_record_that_was_stored_in_part_is_not_counted_twice() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let event = Event {
        at_ms: NOW_MS,
        kind: EventKind::Started,
        slot: None,
        bundle: None,
        detail: "started".into(),
    };
    let batch = |first, record| {
        let batch = Batch { boot: Boot(1), first: Sequence(first), records: vec![record] };
        received("a", Upward::Events(batch))
    };
    let messages = [
        batch(2, Record::One(event.clone())),
        batch(1, Record::Merged { covers: 3, value: event }),
    ];
    store.apply(&messages, &[]).await.expect("the database takes it");
    let totals = store.totals().await.expect("streams can be summed");
    assert_eq!((totals.events, totals.records_conflicting), (1, 1));
    let stored = store.stored(&name("a"), 8).await.expect("streams can be read");
    assert_eq!((stored[0].stream, stored[0].through), (Stream::Events, Sequence(3)));
}

#[tokio::test]
async fn impossible_numbers_and_strangers_are_refused_and_the_rest_is_stored() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let impossible = |first, covers| {
        let records = vec![Record::Dropped { covers }];
        Upward::Results(Batch { boot: Boot(1), first: Sequence(first), records })
    };
    let messages = [
        received("a", impossible(0, 1)),
        received("a", impossible(1, 0)),
        received("a", impossible(u64::MAX, 2)),
        received("a", impossible(1 << 53, 1)),
        received("stranger", Upward::Results(results(1, 1, 3))),
        received("a", Upward::Results(results(1, 1, 3))),
    ];
    let applied = store.apply(&messages, &[]).await.expect("the database takes it");
    assert_eq!(applied.refusals.len(), 5, "{:?}", applied.refusals);
    assert_eq!(stored_samples(&store, "a").await, [1, 2, 3]);
    assert!(stored_samples(&store, "stranger").await.is_empty());
    let malformed = store.malformed().await.expect("counts can be read");
    let counts: Vec<_> = malformed.iter().map(|row| (row.sender.as_str(), row.count)).collect();
    assert_eq!(counts, [("a", 4), ("stranger", 1)]);
}

#[tokio::test]
async fn a_full_disk_takes_nothing_of_a_group_and_all_of_it_later() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let limit_pages = async |pages: i64| {
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(pragma).execute(&store.writer).await.expect("the pragma is known");
    };
    let used: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&store.writer)
        .await
        .expect("the pragma is known");
    limit_pages(used + 2).await;
    let group = [
        received("a", Upward::Results(results(1, 1, 10))),
        received("a", Upward::Results(results(1, 11, 2000))),
    ];
    let error = store.apply(&group, &[]).await.expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(crate::one_line(&error).contains("full"), "{}", crate::one_line(&error));
    assert!(stored_samples(&store, "a").await.is_empty(), "nothing of the group is stored");
    // The limit belongs to a connection: that of a failed transaction is not used again.
    store.apply(&group, &[]).await.expect("there is room again");
    assert_eq!(stored_samples(&store, "a").await.len(), 2010);
}

#[tokio::test]
async fn old_rows_go_but_their_numbers_stay_known() {
    let limits = Limits { results_kept_max: 100, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    for first in (1..=1000).step_by(50) {
        let message = received("a", Upward::Results(results(1, first, 50)));
        store.apply(&[message], &[]).await.expect("the database takes it");
    }
    let kept = stored_samples(&store, "a").await;
    assert!(kept.len() < 100 + 300, "{} rows are kept", kept.len());
    assert_eq!(kept.last(), Some(&1000));
    let again = received("a", Upward::Results(results(1, 1, 100)));
    store.apply(&[again], &[]).await.expect("the database takes it");
    assert_eq!(stored_samples(&store, "a").await, kept, "what was deleted does not come back");
}

#[tokio::test]
async fn only_so_many_boots_are_remembered() {
    let limits = Limits { boots_kept_max: 3, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    for boot in 1..=5 {
        let message = received("a", Upward::Results(results(boot, 1, 2)));
        let applied = store.apply(&[message], &[]).await.expect("the database takes it");
        assert!(applied.refusals.is_empty(), "{:?}", applied.refusals);
    }
    let boots: Vec<i64> = store
        .streams(&name("a"))
        .await
        .expect("streams can be read")
        .iter()
        .map(|row| row.boot)
        .collect();
    assert_eq!(boots, [5, 4, 3]);
    let late = [
        received("a", Upward::Results(results(2, 7, 2))),
        received("a", Upward::Results(results(2, u64::MAX - 2, 2))),
        received("b", Upward::Results(results(1, 1, 2))),
    ];
    let applied = store.apply(&late, &[]).await.expect("the database takes it");
    assert_eq!(applied.refusals.len(), 3);
    let end = StoredThrough { boot: Boot(2), stream: Stream::Results, through: Sequence(8) };
    assert_eq!(applied.settled, [(name("a"), end)], "the device may forget what is not taken");
}

fn status(boot: u32, online: bool) -> Upward {
    Upward::Status(Status {
        online,
        boot: Boot(boot),
        agent_version: "0.1.0".into(),
        wire_oldest: 2,
        wire_newest: 2,
        hardware_class: "x86_64".into(),
    })
}

#[tokio::test]
async fn a_will_that_comes_after_the_next_birth_is_not_believed() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let messages = [received("a", status(2, true)), received("a", status(1, false))];
    store.apply(&messages, &[]).await.expect("the database takes it");
    let device = store.device(&name("a")).await.expect("the device is there");
    assert!(device.status.is_some_and(|status| status.online && status.boot == 2));
}

#[tokio::test]
async fn a_device_that_lost_its_state_is_told_apart() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let messages = [received("a", status(7, true)), received("a", status(1, true))];
    let applied = store.apply(&messages, &[]).await.expect("the database takes it");
    assert!(applied.refusals[0].reason.contains("boot 1"), "{:?}", applied.refusals);
}

/// Counters that are all `count`.
fn counters(boot: u32, count: u64) -> Upward {
    Upward::Health(Health {
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
    })
}

#[tokio::test]
async fn counters_that_no_reader_holds_exactly_are_refused_and_sums_end_where_they_would_not() {
    const COUNT_MAX: u64 = (1 << 53) - 1;
    let (_folder, store) = store_with(Limits::default(), &["a", "b"]).await;
    let messages = [
        received("a", counters(1, COUNT_MAX + 1)),
        received("a", counters(2, i64::MAX as u64)),
        received("a", counters(3, u64::MAX)),
        received("a", counters(4, COUNT_MAX)),
        received("a", counters(5, COUNT_MAX)),
        received("a", counters(u32::MAX, COUNT_MAX)),
        received("b", counters(1, 7)),
    ];
    let applied = store.apply(&messages, &[]).await.expect("the database takes it");
    assert_eq!(applied.refusals.len(), 3, "{:?}", applied.refusals);
    let rows = store.health(None).await.expect("health can be summed");
    let sums: Vec<u64> = rows.iter().map(|row| row.inferences.cast_unsigned()).collect();
    assert_eq!(sums, [COUNT_MAX, 7]);
    let malformed = store.malformed().await.expect("counts can be read");
    assert_eq!((malformed[0].sender.as_str(), malformed[0].count), ("a", 3));

    let last_alone = |boot, record| Batch {
        boot: Boot(boot),
        first: Sequence(COUNT_MAX),
        records: vec![Record::One(record)],
    };
    for boots in (1..=1024).collect::<Vec<u32>>().chunks(256) {
        let with_gaps = boots.iter().flat_map(|&boot| {
            ["a", "b"].map(|device| received(device, Upward::Results(last_alone(boot, result(0)))))
        });
        store.apply(&with_gaps.collect::<Vec<_>>(), &[]).await.expect("the database takes it");
    }
    let totals = store.totals().await.expect("streams can be summed");
    assert_eq!((totals.sequence_gaps.cast_unsigned(), totals.results), (COUNT_MAX, 2048));
}

#[tokio::test]
async fn counters_of_only_so_many_boots_are_kept() {
    let limits = Limits { boots_kept_max: 3, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    let messages: Vec<Received> = (1..=9).map(|boot| received("a", counters(boot, 1))).collect();
    store.apply(&messages, &[]).await.expect("the database takes it");
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM health")
        .fetch_one(&store.readers)
        .await
        .expect("rows can be counted");
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn counters_are_summed_over_boots() {
    let (_folder, store) = store_with(Limits::default(), &["a", "b"]).await;
    let health = |boot, uptime_s, inferences| {
        Upward::Health(Health {
            boot: Boot(boot),
            uptime_s,
            inferences,
            inferences_failed: 0,
            inputs_malformed: 0,
            inputs_anomalous: 0,
            swaps: 1,
            sent_bytes: 10,
            received_bytes: 20,
            resident_bytes: 1000 / u64::from(boot),
            resident_bytes_peak: 2000,
            spool_bytes: 0,
            records_dropped: 0,
        })
    };
    let messages = [
        received("a", health(1, 5, 50)),
        received("a", health(1, 10, 100)),
        received("a", health(1, 7, 70)),
        received("a", health(2, 5, 40)),
        received("b", health(1, 5, 1)),
    ];
    store.apply(&messages, &[]).await.expect("the database takes it");
    let rows = store.health(Some(&name("a"))).await.expect("health can be read");
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.inferences, row.swaps, row.resident_bytes, row.uptime_s), (140, 2, 500, 5));
    assert_eq!(store.health(None).await.expect("health can be read").len(), 2);
}

#[tokio::test]
async fn a_wire_version_that_is_not_understood_is_shown_until_one_is() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let malformed = Malformed {
        sender: "a".into(),
        kind: MalformedKind::Version(9),
        reason: "wire version 9 is not understood".into(),
        at_ms: NOW_MS,
    };
    store.apply(&[], &[&malformed]).await.expect("the database takes it");
    let device = store.device(&name("a")).await.expect("the device is there");
    assert_eq!(device.wire_met, Some(9));
    store.apply(&[received("a", status(1, true))], &[]).await.expect("the database takes it");
    let device = store.device(&name("a")).await.expect("the device is there");
    assert_eq!(device.wire_met, None);
    let rows = store.malformed().await.expect("counts can be read");
    assert_eq!((rows[0].count, rows[0].versions), (1, 1));
}

/// What a director would sign, in few bytes.
fn sign(generation: u64, _: &Slots) -> SignedDesired {
    SignedDesired { document: generation.to_be_bytes().to_vec(), expires_ms: NOW_MS }
}

fn put(bundle: Digest) -> Change {
    let slot = "main".parse().expect("the name is well formed");
    Change::Slot(slot, Assignment { bundle, shadow_samples: 0, allow_downgrade: false })
}

/// A bundle whose chunks take so many bytes at the broker.
async fn add_bundle(store: &Store, digest: Digest, chunks: &[(u8, u64)]) {
    add_bundle_in(store, digest, chunks, SPEC).await;
}

/// The bins of most bundles.
const SPEC: SpecId = SpecId([5; 8]);

async fn add_bundle_in(store: &Store, digest: Digest, chunks: &[(u8, u64)], spec: SpecId) {
    let row = BundleRow {
        digest,
        name: "example".into(),
        version: "1.0.0".into(),
        len_bytes: 1,
        manifest: "{}".into(),
        registered_ms: NOW_MS,
        target: None,
        role: None,
        revoked: false,
        retained_bytes: 0,
    };
    let pieces = chunks.iter().map(|&(chunk, bytes)| (Digest([chunk; 32]), bytes)).collect();
    let stocked = Stocked { index: vec![1], pieces, spec: Some(spec) };
    store.add_bundle(&row, &stocked).await.expect("the database takes it");
}

fn target(digest: Digest) -> TargetRow {
    let path = format!("example/{}", digest.short());
    TargetRow { path, role: "targets".into(), bundle: digest, patch_indexes: vec![] }
}

#[tokio::test]
async fn generations_go_on_when_a_device_comes_back() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let set = async |change: Change| {
        let set = store.set_desired(&name("a"), &change, NOW_MS, sign).await;
        set.map(|set| set.generation).map_err(|error| error.kind())
    };
    assert_eq!(set(Change::Nothing).await, Ok(1));
    assert_eq!(set(put(Digest([1; 32]))).await, Err(ErrorKind::NotFound));
    assert_eq!(set(Change::Nothing).await, Ok(2));
    store.delete_device(&name("a")).await.expect("the device is there");
    assert_eq!(set(Change::Nothing).await, Err(ErrorKind::NotFound));
    add_device(&store, "a").await.expect("the name is free again");
    assert_eq!(set(Change::Nothing).await, Ok(3));
}

#[tokio::test]
async fn only_a_target_is_assigned_and_a_revoked_one_stays_where_it_is() {
    let (_folder, store) = store_with(Limits::default(), &["a", "b"]).await;
    let (first, second) = (Digest([1; 32]), Digest([2; 32]));
    add_bundle(&store, first, &[(1, 10)]).await;
    add_bundle(&store, second, &[(2, 10)]).await;
    let set = async |device: &str, change: Change| {
        let set = store.set_desired(&name(device), &change, NOW_MS, sign).await;
        set.map(drop).map_err(|error| error.to_string())
    };
    let refusal = set("a", put(first)).await.expect_err("no target names it");
    assert!(refusal.contains("no target"), "{refusal}");
    store.mark_targets(&[target(first), target(second)]).await.expect("it can be noted");
    assert_eq!(set("a", put(first)).await, Ok(()));
    store.mark_targets(&[target(second)]).await.expect("it can be noted");
    let refusal = set("b", put(first)).await.expect_err("it was revoked");
    assert!(refusal.contains("revoked"), "{refusal}");
    assert_eq!(set("a", Change::Nothing).await, Ok(()), "what runs is signed again");
    assert_eq!(set("a", put(second)).await, Ok(()));
    assert!(set("a", put(first)).await.is_err(), "there is no way back");
    let rows = store.bundles().await.expect("bundles can be read");
    let revoked: Vec<_> = rows.iter().map(|row| (row.digest, row.revoked)).collect();
    assert_eq!(revoked, [(first, true), (second, false)]);
}

#[tokio::test]
async fn what_would_be_too_much_for_the_broker_is_not_assigned() {
    let limits = Limits { retained_bytes_max: 100, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a", "b"]).await;
    let [first, second, third] = [1, 2, 3].map(|byte| Digest([byte; 32]));
    add_bundle(&store, first, &[(1, 40), (2, 20)]).await;
    add_bundle(&store, second, &[(2, 20), (3, 40)]).await;
    add_bundle(&store, third, &[(4, 1)]).await;
    let targets = [first, second, third].map(target);
    store.mark_targets(&targets).await.expect("it can be noted");
    let set = async |device: &str, bundle: Digest| {
        let set = store.set_desired(&name(device), &put(bundle), NOW_MS, sign).await;
        set.map(|set| set.generation).map_err(|error| error.to_string())
    };
    assert_eq!(set("a", first).await, Ok(1));
    assert_eq!(set("b", second).await, Ok(1), "a chunk of both is there once");
    let refusal = set("a", third).await;
    assert_eq!(refusal, Ok(2), "the first goes with its last device");
    let refusal = set("a", first).await.map(drop);
    assert_eq!(refusal, Ok(()), "it is as before");
    add_device(&store, "c").await.expect("the device is new");
    let refusal = set("c", third).await.expect_err("it is one byte too much");
    assert!(refusal.contains("101 bytes") && refusal.contains("retained_bytes_max"), "{refusal}");
    assert_eq!(store.desired(&name("c")).await.expect("it can be read"), None);
}

#[tokio::test]
async fn a_file_of_the_repository_is_never_written_over() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    store.set_desired(&name("a"), &Change::Nothing, NOW_MS, sign).await.expect("it is kept");
    let change = async |files: &[(&str, u8)], redirect: bool| {
        let files: Vec<_> =
            files.iter().map(|&(file, byte)| (file.to_owned(), vec![byte])).collect();
        let change = RepositoryChange {
            files: &files,
            targets: &[],
            is_current: &|name| name != "1.a.json",
        };
        let resign =
            |_: &selvedge_wire::DeviceId, generation, slots: &Slots| sign(generation, slots);
        let redirect: Option<super::repository::Redirect<'_>> =
            if redirect { Some(&resign) } else { None };
        store.change_repository(&change, redirect, NOW_MS).await.map_err(|error| error.kind())
    };
    assert_eq!(change(&[("1.a.json", 1), (TIMESTAMP_FILE, 1)], false).await, Ok(vec![]));
    let names = store.repository_names().await.expect("it can be read");
    assert_eq!(names, [TIMESTAMP_FILE], "what is not current goes");
    assert_eq!(change(&[("1.b.json", 1), (TIMESTAMP_FILE, 2)], false).await, Ok(vec![]));
    let again = change(&[(TIMESTAMP_FILE, 3), ("1.b.json", 2)], true).await;
    assert_eq!(again, Err(ErrorKind::Conflict));
    let files = store.repository_files().await.expect("it can be read");
    assert_eq!(files[TIMESTAMP_FILE], [2], "all or nothing");
    let row = store.desired(&name("a")).await.expect("it can be read").expect("it was set");
    assert_eq!(row.generation, 1);
    assert_eq!(change(&[("2.b.json", 3)], true).await, Ok(vec![name("a")]));
    let row = store.desired(&name("a")).await.expect("it can be read").expect("it was set");
    assert_eq!(row.generation, 2, "a new key signs what the old one did");
}

fn reported(boot: u32, revision: u64, running: u8) -> Upward {
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Settled,
        running: Some(Running {
            bundle: Digest([running; 32]),
            name: "example".into(),
            version: "1.0.0".into(),
        }),
        desired: None,
        reason: None,
        comparison: None,
        drift: None,
        site: None,
    };
    Upward::Reported(Reported {
        boot: Boot(boot),
        revision,
        generation: revision,
        trust: TrustReport::default(),
        slots: vec![slot],
    })
}

#[tokio::test]
async fn an_older_report_changes_nothing_and_is_told() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let say = async |message: Upward, fresh: bool| {
        let message = Received { fresh, ..received("a", message) };
        store.apply(&[message], &[]).await.expect("the database takes it")
    };
    assert!(say(reported(2, 5, 1), true).await.running_changed);
    assert!(!say(reported(2, 6, 1), true).await.running_changed);
    for (boot, revision, fresh) in [(2, 5, true), (1, 9, true), (1, 1, false), (2, 6, true)] {
        let applied = say(reported(boot, revision, 2), fresh).await;
        assert!(applied.refusals.is_empty() && !applied.running_changed, "{boot}.{revision}");
    }
    let device = store.device(&name("a")).await.expect("the device is there");
    assert_eq!(device.reported.map(|it| it.generation), Some(6));
    let rows = store.disbelieved(Some(&name("a"))).await.expect("it can be read");
    let counts: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.count)).collect();
    assert_eq!(counts, [("replayed", 2)], "what the broker retained or sent twice is no news");
    let page = Cursor { after: 0, limit: 10 };
    let events = store.events(&name("a"), page).await.expect("events can be read");
    let kinds: Vec<_> = events.iter().map(|event| (event.boot, event.kind.as_str())).collect();
    assert_eq!(kinds, [(0, "replayed")], "it is told once an hour");
    assert!(say(reported(3, 1, 2), true).await.running_changed, "a later boot begins again");
}

#[tokio::test]
async fn older_counters_change_nothing() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let messages =
        [(2, 10), (2, 20), (2, 10), (1, 99)].map(|(boot, n)| received("a", counters(boot, n)));
    store.apply(&messages, &[]).await.expect("the database takes it");
    let row = &store.health(Some(&name("a"))).await.expect("health can be read")[0];
    assert_eq!((row.inferences, row.uptime_s), (20, 20));
    assert_eq!(store.health_points(&name("a")).await.expect("points can be read").len(), 2);
    let rows = store.disbelieved(None).await.expect("it can be read");
    assert_eq!((rows[0].kind.as_str(), rows[0].count), ("replayed", 2));
}

#[tokio::test]
async fn what_is_signed_with_a_key_of_before_is_refused() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let late = Received { key: EnrolledKey([9; 32]), ..received("a", reported(1, 1, 1)) };
    let applied = store.apply(&[late], &[]).await.expect("the database takes it");
    assert!(applied.refusals[0].reason.contains("has no more"), "{:?}", applied.refusals);
}

#[tokio::test]
async fn a_database_of_before_is_taken_over() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("fleet.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = sqlx::SqlitePool::connect_with(options).await.expect("it opens");
    let mut steps = super::migrations();
    steps.truncate(2);
    sqlx::migrate::Migrator::with_migrations(steps).run(&old).await.expect("the steps are sound");
    for statement in [
        "INSERT INTO devices (id, labels, registered_ms, salt, hash) VALUES ('a', '{}', 1, '', '')",
        "INSERT INTO reported (device, boot, generation, slots, received_ms) VALUES ('a', 1, 1, '[]', 1)",
        "INSERT INTO generations (device, generation) VALUES ('a', 7)",
        "INSERT INTO desired (device, generation, slots, document, set_ms, expires_ms) \
         VALUES ('a', 7, '{\"main\":\"sha256:00\"}', '', 1, 1)",
        "INSERT INTO bundles (digest, name, version, len_bytes, statement, manifest, registered_ms) \
         VALUES (zeroblob(32), 'n', '1.0.0', 1, '', '{}', 1)",
    ] {
        sqlx::query(statement).execute(&old).await.expect("the statement is sound");
    }
    old.close().await;
    let store = Store::open(&path, Limits::default()).await.expect("the database opens");
    let device = store.device(&name("a")).await.expect("the device is there");
    assert_eq!((device.key, device.reported.map(|it| it.generation)), (None, Some(1)));
    assert_eq!(store.sender(&name("a")), super::Sender::WithoutKey);
    assert_eq!(store.all_desired().await.expect("it can be read"), []);
    assert_eq!(store.bundles_that_lack().await.expect("it can be read"), [Digest([0; 32])]);
    let set = store.set_desired(&name("a"), &Change::Nothing, NOW_MS, sign).await;
    assert_eq!(set.expect("it is kept").generation, 8);
}

#[tokio::test]
async fn a_database_in_memory_forgets_only_what_failed() {
    let store = Store::open_in_memory(Limits::default()).await.expect("there is memory");
    add_device(&store, "a").await.expect("the device is new");
    assert!(store.set_desired(&name("a"), &put(Digest([1; 32])), NOW_MS, sign).await.is_err());
    assert_eq!(store.devices().await.expect("it can be read").len(), 1);
    let other = Store::open_in_memory(Limits::default()).await.expect("there is memory");
    assert_eq!(other.devices().await.expect("it can be read").len(), 0);
}

#[tokio::test]
async fn too_many_slots_in_a_report_are_refused() {
    let limits = Limits { slots_max: 0, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    let messages = [received("a", reported(1, 1, 1))];
    let applied = store.apply(&messages, &[]).await.expect("the database takes it");
    assert_eq!(applied.refusals.len(), 1);
}

/// A label over the API, for a result of boot 1.
fn posted(device: &str, sample: u64, class: u32) -> Label {
    Label {
        id: format!("{device}/1/replay/{sample}").parse().expect("it is well formed"),
        truth: Truth::Class(class),
        slice: None,
    }
}

/// The label number `sequence` that a device was given in boot 2, `age_ms` ago, with its answer if that is
/// remembered.
fn told(sequence: u64, age_ms: u64, sample: u64, class: u32, is_remembered: bool) -> Upward {
    let InferenceResult { slot, bundle, source, outcome, .. } = result(sample);
    let answer = LabelledAnswer { at_ms: NOW_MS, slot, bundle, outcome };
    let record = LabelRecord {
        at_ms: NOW_MS - age_ms,
        boot: Boot(1),
        source: source.parse().expect("the name is well formed"),
        sample,
        truth: Truth::Class(class),
        slice: Some("night".parse().expect("it is short")),
        answer: is_remembered.then_some(answer),
    };
    let records = vec![Record::One(record)];
    Upward::Labels(Batch { boot: Boot(2), first: Sequence(sequence), records })
}

async fn labelled(store: &Store) -> Labelled {
    let all = WindowFilter::default();
    store.labelled(&Digest([7; 32]), &all, None).await.expect("labels can be read")
}

/// What is labelled, as a list that two stores can be compared by.
async fn labels_of(store: &Store) -> (Vec<String>, u64) {
    let labelled = labelled(store).await;
    let mut rows: Vec<String> = labelled.rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort_unstable();
    (rows, labelled.unmatched)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Results of the samples 1 to 6; labels of 1 to 8, from the device and over the API, several for some.
    #[test]
    fn labels_and_results_in_any_order_with_duplicates_end_in_the_same(
        order in prop::collection::vec(0usize..20, 0..30),
    ) {
        async fn act(store: &Store, action: usize) {
            let number = action as u64;
            match action {
                0..6 => {
                    let batch = results(1, number + 1, 1);
                    store.apply(&[received("a", Upward::Results(batch))], &[]).await.map(drop)
                }
                6..14 => {
                    let (sequence, sample) = (number - 5, number - 5);
                    let is_remembered = sample.is_multiple_of(3);
                    let label = told(sequence, 100, sample, 1, is_remembered);
                    store.apply(&[received("a", label)], &[]).await.map(drop)
                }
                // A second label for a sample: later, or of an earlier time.
                14..16 => {
                    let label = told(number, if action == 14 { 50 } else { 150 }, 2, 0, false);
                    store.apply(&[received("a", label)], &[]).await.map(drop)
                }
                _ => {
                    let given_ms = NOW_MS - if action < 18 { 40 } else { 200 };
                    let labels = [posted("a", number - 15, 0)];
                    store.put_labels(&labels, given_ms).await.map(drop)
                }
            }
            .expect("the database takes it");
        }
        block_on(async {
            let (_folder, one) = store_with(Limits::default(), &["a"]).await;
            let (_folder, other) = store_with(Limits::default(), &["a"]).await;
            for action in 0..20 {
                act(&one, action).await;
            }
            for action in order.into_iter().chain((0..20).rev()) {
                act(&other, action).await;
            }
            let expected = labels_of(&one).await;
            assert_eq!(labels_of(&other).await, expected);
            // Samples 7 and 8 have no result; nothing remembers their answer.
            assert_eq!((expected.0.len(), expected.1), (6, 2));
        });
    }
}

#[tokio::test]
async fn a_label_that_was_given_last_counts_and_one_without_an_answer_is_unmatched() {
    let (_folder, store) = store_with(Limits::default(), &["a", "b"]).await;
    let matched = store.put_labels(&[posted("a", 1, 0), posted("a", 2, 1)], NOW_MS).await;
    assert_eq!(matched.expect("the database takes it"), 0);
    assert_eq!((labelled(&store).await.rows.len(), labelled(&store).await.unmatched), (0, 2));
    let results = received("a", Upward::Results(results(1, 1, 1)));
    store.apply(&[results], &[]).await.expect("the database takes it");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), seen.unmatched), (1, 1));
    assert_eq!(seen.rows[0].outcome, Outcome::Class { index: 1, score: 0.75 });
    // Twice in one request, and again.
    for _ in 0..2 {
        let labels = [posted("a", 1, 5), posted("a", 1, 1)];
        assert_eq!(store.put_labels(&labels, NOW_MS + 1).await.expect("it is taken"), 2);
    }
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), &seen.rows[0].truth), (1, &Truth::Class(1)));
    // A clock that is ahead gives no label the last word.
    let ahead = told(1, 0, 1, 0, false);
    let Upward::Labels(mut batch) = ahead else { unreachable!("it was just made") };
    let Record::One(label) = &mut batch.records[0] else { unreachable!("it was just made") };
    label.at_ms = u64::MAX;
    store.apply(&[received("a", Upward::Labels(batch))], &[]).await.expect("it is taken");
    assert_eq!(labelled(&store).await.rows[0].truth, Truth::Class(1));
    let of_b = WindowFilter { devices: Some(vec![name("b")]), ..WindowFilter::default() };
    let none = store.labelled(&Digest([7; 32]), &of_b, None).await.expect("labels can be read");
    assert_eq!((none.rows.len(), none.unmatched), (0, 0));
}

#[tokio::test]
async fn a_label_of_a_device_that_is_no_number_is_not_kept_and_costs_no_other() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let records = [f32::NAN, f32::INFINITY, 1.25].into_iter().zip(1..).map(|(value, sample)| {
        let Upward::Labels(batch) = told(1, 0, sample, 0, true) else {
            unreachable!("it is a label")
        };
        let Some(Record::One(label)) = batch.records.into_iter().next() else {
            unreachable!("it was just made")
        };
        Record::One(LabelRecord { truth: Truth::Value(value), ..label })
    });
    let batch = Batch { boot: Boot(2), first: Sequence(1), records: records.collect() };
    store.apply(&[received("a", Upward::Labels(batch))], &[]).await.expect("it is taken");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), seen.unmatched), (1, 0));
    assert_eq!(seen.rows[0].truth, Truth::Value(1.25));
}

#[tokio::test]
async fn labels_keep_their_answers_when_results_go_and_make_room_for_newer_ones() {
    let limits = Limits { results_kept_max: 10, labels_kept_max: 20, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    let label = |sample| posted("a", sample, 1);
    store.put_labels(&[label(5)], NOW_MS).await.expect("the database takes it");
    let many = received("a", Upward::Results(results(1, 1, 600)));
    store.apply(&[many], &[]).await.expect("the database takes it");
    assert_eq!(stored_samples(&store, "a").await.len(), 10);
    assert_eq!(labelled(&store).await.rows.len(), 1);
    let late: Vec<Label> = (590..600).chain([6]).map(label).collect();
    store.put_labels(&late, NOW_MS).await.expect("the database takes it");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), seen.unmatched, seen.dropped), (10, 2, 0), "591 to 599 are kept");
    let more: Vec<Label> = (1000..1018).map(label).collect();
    store.put_labels(&more, NOW_MS).await.expect("the database takes it");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len() as u64 + seen.unmatched, seen.dropped), (20, 10));
    store.delete_device(&name("a")).await.expect("it is there");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), seen.unmatched, seen.dropped), (0, 0, 0));
}

#[tokio::test]
async fn of_values_the_first_is_labelled_and_what_is_no_number_is_no_answer() {
    let (_folder, store) = store_with(Limits::default(), &["a"]).await;
    let outcomes = [
        Outcome::Values(vec![1.5, 7.0]),
        Outcome::Values(vec![f32::NAN]),
        Outcome::Values(Vec::new()),
        Outcome::Failed("too long".into()),
    ];
    let results = outcomes.iter().zip(1..).map(|(outcome, sample)| {
        Record::One(InferenceResult { outcome: outcome.clone(), ..result(sample) })
    });
    let batch = Batch { boot: Boot(1), first: Sequence(1), records: results.collect() };
    let label = |sample| Label { truth: Truth::Value(1.25), ..posted("a", sample, 0) };
    let (before, after) = ([label(1), label(2)], [label(3), label(4)]);
    store.put_labels(&before, NOW_MS).await.expect("the database takes it");
    store.apply(&[received("a", Upward::Results(batch))], &[]).await.expect("it is taken");
    store.put_labels(&after, NOW_MS).await.expect("the database takes it");
    let seen = labelled(&store).await;
    assert_eq!((seen.rows.len(), seen.unmatched), (4, 0));
    let values: Vec<&Outcome> = seen
        .rows
        .iter()
        .map(|row| &row.outcome)
        .filter(|it| !matches!(it, Outcome::Failed(_)))
        .collect();
    assert_eq!(values, [&Outcome::Values(vec![1.5])]);
}

fn main_slot() -> SlotName {
    "main".parse().expect("the name is well formed")
}

fn approved(digest: Digest, retained_bytes: u64) -> Change {
    let site = SiteRow {
        device: name("a"),
        slot: main_slot(),
        digest,
        spec: SPEC,
        baseline: digest.0.to_vec(),
        retained_bytes,
        approved_ms: NOW_MS,
        approved_by: "ada".into(),
    };
    Change::ApproveSite(Box::new(site))
}

#[tokio::test]
async fn a_site_baseline_is_named_while_its_slot_counts_in_the_same_bins() {
    let limits = Limits { retained_bytes_max: 100, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    let [first, second, other] = [1, 2, 3].map(|seed| Digest([seed; 32]));
    for (bundle, spec) in [(first, SPEC), (second, SPEC), (other, SpecId([6; 8]))] {
        add_bundle_in(&store, bundle, &[(bundle.0[0], 30)], spec).await;
    }
    let targets = [target(first), target(second), target(other)];
    store.mark_targets(&targets).await.expect("the database takes it");
    let set = async |change: Change| {
        let set = store.set_desired(&name("a"), &change, NOW_MS, sign).await;
        set.map(|set| set.generation).map_err(|error| error.kind())
    };
    let named = async || {
        let desired = store.desired(&name("a")).await.expect("it can be read");
        let named = desired.and_then(|desired| desired.slots.get(&main_slot())?.site);
        let assigned = store.assigned_sites().await.expect("it can be read");
        assert_eq!(assigned, named.into_iter().collect::<Vec<_>>());
        named
    };
    let [site, next] = [Digest([8; 32]), Digest([9; 32])];
    assert_eq!(set(approved(site, 20)).await, Err(ErrorKind::Conflict), "nothing runs there");
    assert_eq!(store.site(&name("a"), &main_slot()).await.expect("it can be read"), None);
    assert_eq!(set(put(first)).await, Ok(1));
    let proposal = ProposalRow {
        device: name("a"),
        slot: main_slot(),
        bundle: first,
        from_ms: 1,
        to_ms: 2,
        proposed_ms: NOW_MS,
        proposed_by: "ada".into(),
    };
    store.propose_site(&proposal).await.expect("the device is there");
    let read = store.site_proposal(&name("a"), &main_slot()).await.expect("it can be read");
    assert_eq!(read, Some(proposal));
    assert_eq!(set(approved(site, 71)).await, Err(ErrorKind::Peer), "the broker has no room");
    assert_eq!((named().await, set(approved(site, 20)).await), (None, Ok(2)));
    let read = store.site_proposal(&name("a"), &main_slot()).await.expect("it can be read");
    assert_eq!(read, None, "it is approved");
    assert_eq!(named().await, Some(site));
    let kept = store.site_baseline(&site).await.expect("it can be read");
    assert_eq!(kept, Some(site.0.to_vec()));
    assert_eq!(store.sites_of_bundle(&first).await.expect("it can be read").len(), 1);

    for (bundle, expected) in [(second, Some(site)), (other, None), (first, Some(site))] {
        set(put(bundle)).await.expect("it is a target");
        assert_eq!(named().await, expected, "{bundle}");
        let of_bundle = store.sites_of_bundle(&bundle).await.expect("it can be read");
        assert_eq!(of_bundle.len(), usize::from(expected.is_some()), "{bundle}");
    }
    assert_eq!(set(approved(next, 70)).await, Ok(6), "it takes the room of the one before");
    assert_eq!((named().await, set(Change::Nothing).await), (Some(next), Ok(7)));
    assert_eq!(set(Change::WithdrawSite(main_slot())).await, Ok(8));
    assert_eq!(named().await, None);
    assert_eq!(set(Change::WithdrawSite(main_slot())).await, Err(ErrorKind::NotFound));
    set(approved(site, 20)).await.expect("there is room");
    store.delete_device(&name("a")).await.expect("it is there");
    assert_eq!(store.site_baseline(&site).await.expect("it can be read"), None);
    assert_eq!(store.pieces(&site).await.expect("they can be read"), []);
}

#[tokio::test]
async fn a_mute_ends_by_itself_and_there_are_only_so_many() {
    let limits = Limits { mutes_max: 2, ..Limits::default() };
    let (_folder, store) = store_with(limits, &["a"]).await;
    let scope = MuteScope {
        bundle: Some(Digest([1; 32])),
        device: Some(name("a")),
        slot: Some(main_slot()),
        stream: Some("flow".into()),
        reference: Some(crate::drift::Reference::Site),
    };
    let new = |until_ms| NewMute {
        scope: scope.clone(),
        acknowledges: true,
        until_ms,
        by: "ada".into(),
        note: "the pump is being replaced".into(),
    };
    let [short, long] = [NOW_MS + 10, NOW_MS + 20];
    let first = store.add_mute(&new(short), NOW_MS).await.expect("there is room");
    let second = store.add_mute(&new(long), NOW_MS).await.expect("there is room");
    let refused = store.add_mute(&new(long), NOW_MS + 9).await.expect_err("two are enough");
    assert_eq!(refused.kind(), ErrorKind::Peer);
    let mutes = async |now_ms| store.mutes(now_ms).await.expect("they can be read");
    assert_eq!(mutes(short - 1).await, [second.clone(), first]);
    assert_eq!(mutes(short).await, std::slice::from_ref(&second));
    assert_eq!(mutes(long).await, []);
    store.add_mute(&new(long), short).await.expect("one has ended");
    store.remove_mute(second.id).await.expect("it is there");
    let gone = store.remove_mute(second.id).await.expect_err("it is gone");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}
