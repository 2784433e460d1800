use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use selvedge_wire::{Boot, CAPTURE_PIECE_BYTES, CaptureReason, Sequence};

use super::*;
use crate::{
    store::{Received, Upward},
    testing::{NOW_MS, add_device, key_of, name},
};

/// Several pieces, and no whole number of them.
const IMAGE: usize = 2 * CAPTURE_PIECE_BYTES + 10;

async fn store_with(limits: Limits) -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = Store::open(&folder.path().join("fleet.db"), limits).await.expect("it opens");
    add_device(&store, "a").await.expect("the device is new");
    (folder, store)
}

fn wanted() -> CaptureRequest {
    CaptureRequest {
        number: 0,
        slot: Some("main".parse().expect("the name is well formed")),
        bundle: Some(Digest([7; 32])),
        from_ms: 5,
        to_ms: u64::MAX,
        samples_max: 10,
        bytes_max: 1 << 20,
    }
}

async fn ask(store: &Store) -> u64 {
    store.ask_captures(&name("a"), &wanted(), NOW_MS).await.expect("the database takes it")
}

fn values(sample: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 7 + sample) as u8).collect()
}

/// The pieces of an image of so many pixels.
fn pieces(request: u64, sample: u64, len: usize) -> Vec<CaptureRecord> {
    let values = values(sample, len);
    let piece = |(index, bytes): (u32, &[u8])| CapturePiece {
        request,
        sent_bytes: (index as usize * CAPTURE_PIECE_BYTES + bytes.len()) as u64,
        boot: Boot(3),
        source: "camera".into(),
        sample,
        slot: "main".parse().expect("the name is well formed"),
        bundle: Digest([7; 32]),
        at_ms: NOW_MS + sample,
        reason: CaptureReason::Drifting,
        form: SampleForm::Image { shape: vec![len as u32, 1] },
        index,
        bytes: bytes.to_vec(),
    };
    let chunks = (0..).zip(values.chunks(CAPTURE_PIECE_BYTES));
    chunks.map(piece).map(CaptureRecord::Piece).collect()
}

fn finished(request: u64) -> CaptureRecord {
    CaptureRecord::Finished(CaptureFinished {
        request,
        sent: 4,
        sent_bytes: 1000,
        left_out: 2,
        gone: 1,
        capturing: true,
    })
}

/// Sends records as numbers of one stream; each call goes on where the last one ended.
struct Sender<'a> {
    store: &'a Store,
    next: u64,
}

impl Sender<'_> {
    async fn send(&mut self, records: Vec<CaptureRecord>) {
        let first = Sequence(self.next);
        self.next += records.len() as u64;
        let records = records.into_iter().map(Record::One).collect();
        let message = Upward::Captures(Batch { boot: Boot(5), first, records });
        let (device, key) = (name("a"), key_of("a"));
        let received = Received { device, key, message, fresh: true, at_ms: NOW_MS };
        let applied = self.store.apply(&[received], &[]).await.expect("the database takes it");
        assert_eq!(applied.refusals, []);
    }
}

/// The samples that are whole, by their number.
async fn whole(store: &Store) -> BTreeMap<u64, Vec<u8>> {
    let ids = store.capture_ids(&CaptureFilter::default()).await.expect("they can be read");
    let ids: Vec<i64> = ids.into_iter().map(|(id, _)| id).collect();
    let rows = store.captures_with_values(&ids).await.expect("they can be read");
    rows.into_iter().map(|(row, values)| (natural(row.sample), values)).collect()
}

/// What the account of the device says, and what is really there.
async fn held(store: &Store) -> (i64, i64) {
    let account = sqlx::query_scalar("SELECT held_bytes FROM capture_accounts")
        .fetch_one(&store.readers)
        .await
        .expect("it can be read");
    let counted = sqlx::query_scalar(
        "SELECT 256 * (SELECT COUNT(*) FROM captures) \
         + (SELECT COALESCE(SUM(LENGTH(bytes)), 0) FROM capture_pieces)",
    )
    .fetch_one(&store.readers)
    .await
    .expect("it can be read");
    (account, counted)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn samples_come_together_from_pieces_in_any_order_with_duplicates(
        order in Just((0..12_usize).chain(0..12).collect::<Vec<_>>()).prop_shuffle(),
        first in 1..24_usize,
    ) {
        block_on(async {
            let (_folder, store) = store_with(Limits::default()).await;
            let request = ask(&store).await;
            let all: Vec<CaptureRecord> =
                (0..4).flat_map(|sample| pieces(request, sample, IMAGE)).collect();
            let mut sender = Sender { store: &store, next: 1 };
            for records in order.chunks(first) {
                sender.send(records.iter().map(|&place| all[place].clone()).collect()).await;
            }
            let expected = (0..4).map(|sample| (sample, values(sample, IMAGE))).collect();
            assert_eq!(whole(&store).await, expected);
            let (account, counted) = held(&store).await;
            assert_eq!(account, counted);
            let requests = store.capture_requests(&name("a")).await.expect("they can be read");
            assert_eq!(natural(requests[0].received_bytes), IMAGE as u64);
            store.close().await;
        });
    }
}

#[tokio::test]
async fn the_oldest_samples_make_room_and_are_counted() {
    let captures_bytes_max = 3 * (1000 + SAMPLE_OVERHEAD_BYTES);
    let (_folder, store) = store_with(Limits { captures_bytes_max, ..Limits::default() }).await;
    let request = ask(&store).await;
    let mut sender = Sender { store: &store, next: 1 };
    for sample in 0..8 {
        sender.send(pieces(request, sample, 1000)).await;
        let (account, counted) = held(&store).await;
        assert_eq!(account, counted);
        assert!(natural(account) <= captures_bytes_max);
    }
    assert_eq!(whole(&store).await.into_keys().collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(store.captures_dropped(&name("a")).await.expect("it can be read"), 5);
}

#[tokio::test]
async fn a_request_is_open_until_its_answer_and_one_that_was_replaced_is_none() {
    let (_folder, store) = store_with(Limits::default()).await;
    let open = async || store.open_capture_requests().await.expect("they can be read");
    let mut sender = Sender { store: &store, next: 1 };
    let (first, second) = (ask(&store).await, ask(&store).await);
    assert_eq!((first, second), (1, 2));
    assert_eq!(open().await, [(name("a"), CaptureRequest { number: 2, ..wanted() })]);
    sender.send(vec![finished(1), finished(2), finished(2), finished(3)]).await;
    assert_eq!(open().await, []);
    let requests = store.capture_requests(&name("a")).await.expect("they can be read");
    let states: Vec<_> = requests.iter().map(|it| (it.number, it.sent, it.replaced)).collect();
    assert_eq!(states, [(2, Some(4), false), (1, Some(4), false)]);
    ask(&store).await;
    ask(&store).await;
    let requests = store.capture_requests(&name("a")).await.expect("they can be read");
    assert!(requests[1].replaced && !requests[0].replaced);
}

#[tokio::test]
async fn only_so_many_requests_are_remembered() {
    let limits = Limits { capture_requests_kept_max: 2, ..Limits::default() };
    let (_folder, store) = store_with(limits).await;
    for _ in 0..5 {
        ask(&store).await;
    }
    let requests = store.capture_requests(&name("a")).await.expect("they can be read");
    assert_eq!(requests.iter().map(|it| it.number).collect::<Vec<_>>(), [5, 4]);
}

#[tokio::test]
async fn what_nobody_asked_for_is_not_taken_and_a_wrong_piece_is_counted() {
    let (_folder, store) = store_with(Limits::default()).await;
    let mut sender = Sender { store: &store, next: 1 };
    sender.send(pieces(1, 0, 100)).await;
    let request = ask(&store).await;
    let CaptureRecord::Piece(mut short) = pieces(request, 1, 100).remove(0) else {
        panic!("it is a piece")
    };
    short.bytes.pop();
    sender.send(vec![CaptureRecord::Piece(short)]).await;
    // A sample of the same name and another form is not the same sample.
    sender.send([pieces(request, 2, 100), pieces(request, 2, 50)].concat()).await;
    assert_eq!(whole(&store).await, BTreeMap::from([(2, values(2, 100))]));
    let malformed = store.malformed().await.expect("it can be read");
    assert_eq!((malformed.len(), malformed[0].count), (1, 1));
    assert!(malformed[0].last_reason.contains("99 bytes"), "{}", malformed[0].last_reason);
    // Each record has its number all the same.
    let stored = store.stored(&name("a"), 8).await.expect("it can be read");
    assert_eq!(stored[0].through, Sequence(4));
}

#[tokio::test]
async fn what_was_deleted_does_not_come_again_and_numbers_never_go_back() {
    let (_folder, store) = store_with(Limits::default()).await;
    let request = ask(&store).await;
    let mut sender = Sender { store: &store, next: 1 };
    let sample = pieces(request, 0, IMAGE);
    sender.send(vec![sample[0].clone(), sample[1].clone()]).await;
    store.delete_captures(&name("a")).await.expect("the database takes it");
    sender.send(sample).await;
    assert_eq!(whole(&store).await, BTreeMap::new());
    assert_eq!(held(&store).await, (0, 0));
    assert_eq!(store.open_capture_requests().await.expect("they can be read"), []);
    assert_eq!(ask(&store).await, 2);
    store.delete_device(&name("a")).await.expect("it is there");
    add_device(&store, "a").await.expect("it is gone");
    assert_eq!(ask(&store).await, 3);
}

#[tokio::test]
async fn filters_take_what_they_say_and_forms_are_told() {
    let (_folder, store) = store_with(Limits::default()).await;
    let request = ask(&store).await;
    let mut sender = Sender { store: &store, next: 1 };
    for sample in 0..4 {
        sender.send(pieces(request, sample, 100 + (sample / 3) as usize)).await;
    }
    let count = async |filter: CaptureFilter| {
        store.count_captures(&filter).await.expect("they can be counted").samples
    };
    let all = CaptureFilter::default;
    let slot = |name: &str| Some(name.parse().expect("the name is well formed"));
    for (filter, expected) in [
        (all(), 4),
        (CaptureFilter { device: Some(name("a")), ..all() }, 4),
        (CaptureFilter { device: Some(name("b")), ..all() }, 0),
        (CaptureFilter { bundle: Some(Digest([8; 32])), ..all() }, 0),
        (CaptureFilter { slot: slot("main"), ..all() }, 4),
        (CaptureFilter { slot: slot("other"), ..all() }, 0),
        (CaptureFilter { from_ms: Some(NOW_MS + 1), to_ms: Some(NOW_MS + 2), ..all() }, 2),
    ] {
        assert_eq!(count(filter.clone()).await, expected, "{filter:?}");
    }
    let census = store.count_captures(&all()).await.expect("they can be counted");
    assert_eq!((census.len_bytes, census.forms.len()), (401, 2));
    let page = store.captures(&all(), Cursor { after: 1, limit: 2 }).await.expect("they are read");
    let ids: Vec<String> = page.iter().map(CaptureRow::result_id).collect();
    assert_eq!(ids, ["a/3/camera/1", "a/3/camera/2"]);
}
