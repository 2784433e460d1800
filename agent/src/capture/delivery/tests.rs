//! Deliveries into a real spool on a simulated disk, with power cuts after any operation.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use selvedge_runtime::Sample;
use selvedge_wire::{
    Boot, CAPTURE_PIECE_BYTES, CapturePiece, CaptureReason, Digest, Record, SampleForm,
};

use super::{
    super::{Candidate, DIR, sample::CapturedSample},
    *,
};
use crate::{
    disk::{Disk, simulated::SimulatedDisk},
    limits::{CAPTURE_UPLOAD_BYTES_MIN, CAPTURES_BYTES_MIN},
    record::decode_record,
    spool::{Spool, SpoolQuotas},
};

const CONFIG: CaptureConfig = CaptureConfig {
    samples_max: 100,
    bytes_max: 1 << 24,
    per_hour_max: 100,
    upload_bytes_per_day_max: 1 << 24,
};

/// More than one piece, and no whole number of them.
const IMAGE: usize = 2 * CAPTURE_PIECE_BYTES + 100;

/// A device whose ring has samples, with its spool.
struct World {
    disk: Arc<SimulatedDisk>,
    config: Option<CaptureConfig>,
    // Each spool is that of a later boot.
    boot: Cell<u32>,
    now_ms: u64,
}

impl World {
    /// Rows of one value, kept in order at 100 ms each; every third is an image of the other slot.
    fn new(samples: u64) -> Self {
        let disk = Arc::new(SimulatedDisk::new());
        disk.create_dir(DIR).expect("the disk works");
        let world = Self { disk, config: Some(CONFIG), boot: Cell::new(0), now_ms: 10 * DAY_MS };
        (0..samples).for_each(|number| world.put(number));
        world
    }

    fn put(&self, number: u64) {
        let (name, sample) = match number % 3 {
            2 => ("eyes", Sample::Image { shape: vec![IMAGE, 1], data: image(number) }),
            _ => ("main", Sample::Row(vec![number as f32, f32::NAN])),
        };
        let slot = name.parse().expect("the name is well formed");
        let candidate = Candidate {
            slot: &slot,
            bundle: Digest([7; 32]),
            source: "pump",
            number,
            reason: CaptureReason::Drifting,
            sample: &sample,
        };
        let sample = CapturedSample::of(Boot(4), number * 100, candidate).expect("it is short");
        replace(self.disk.as_ref(), &path(number), &sample.encode()).expect("the disk works");
    }

    fn delivery(&self) -> Delivery {
        Delivery::open(self.disk.clone(), self.config).expect("the disk works")
    }

    fn spool(&self) -> Result<Spool, DiskError> {
        let quotas = SpoolQuotas {
            results_bytes_max: CAPTURES_BYTES_MIN,
            profiles_bytes_max: CAPTURES_BYTES_MIN,
            events_bytes_max: CAPTURES_BYTES_MIN,
            labels_bytes_max: CAPTURES_BYTES_MIN,
            captures_bytes_max: CAPTURES_BYTES_MIN,
        };
        self.boot.set(self.boot.get() + 1);
        Ok(Spool::open(self.disk.clone(), Boot(self.boot.get()), quotas, |_, _| None)?.0)
    }

    /// Offers all that may be sent now; the fleet stores nothing meanwhile. Returns whether the quota is full.
    fn offer_all(&self, delivery: &mut Delivery, spool: &mut Spool) -> Result<bool, DiskError> {
        while let Next::Offer(offer) = delivery.next(self.now_ms)? {
            if !spool.offer(Stream::Captures, offer.records.clone())? {
                return Ok(true);
            }
            delivery.keep(offer)?;
        }
        Ok(false)
    }
}

/// What the fleet got.
#[derive(Default)]
struct Received {
    samples: BTreeMap<u64, BTreeMap<u32, CapturePiece>>,
    finished: Vec<CaptureFinished>,
}

impl Received {
    /// Takes and acknowledges all that the spool holds.
    fn drain(&mut self, spool: &mut Spool) {
        while let Some(batch) =
            spool.next_batch(Stream::Captures, None, 1 << 16, 100).expect("the disk works")
        {
            let end = batch.end();
            for record in batch.records {
                let Record::One(bytes) = record else { panic!("a record was dropped") };
                match decode_record(&bytes).expect("our own") {
                    CaptureRecord::Finished(finished) => self.finished.push(finished),
                    CaptureRecord::Piece(piece) => {
                        assert!(piece.is_sound());
                        let pieces = self.samples.entry(piece.sample).or_default();
                        pieces.insert(piece.index, piece);
                    }
                }
            }
            let stored = selvedge_wire::StoredThrough {
                boot: end.boot,
                stream: Stream::Captures,
                through: end.sequence,
            };
            spool.acknowledge(&stored).expect("the disk works");
        }
        assert_eq!(spool.dropped(Stream::Captures), 0);
    }

    /// The samples that are whole, with their values.
    fn whole(&self) -> BTreeMap<u64, Vec<u8>> {
        let whole = self.samples.iter().filter(|(_, pieces)| {
            let form = pieces.values().next().map(|piece| &piece.form);
            form.and_then(SampleForm::pieces) == Some(pieces.len() as u32)
        });
        let values = |pieces: &BTreeMap<u32, CapturePiece>| {
            pieces.values().flat_map(|piece| piece.bytes.clone()).collect()
        };
        whole.map(|(number, pieces)| (*number, values(pieces))).collect()
    }
}

fn image(number: u64) -> Vec<u8> {
    (0..IMAGE).map(|at| (at as u64 * 31 + number) as u8).collect()
}

fn values(number: u64) -> Vec<u8> {
    match number % 3 {
        2 => image(number),
        _ => [number as f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn everything(number: u64) -> CaptureRequest {
    CaptureRequest {
        number,
        slot: None,
        bundle: None,
        from_ms: 0,
        to_ms: u64::MAX,
        samples_max: 1000,
        bytes_max: 1 << 30,
    }
}

fn deliver(world: &World, delivery: &mut Delivery) -> Received {
    let mut spool = world.spool().expect("the disk works");
    let mut received = Received::default();
    while world.offer_all(delivery, &mut spool).expect("the disk works") {
        received.drain(&mut spool);
    }
    received.drain(&mut spool);
    received
}

#[test]
fn what_is_asked_for_comes_whole_through_a_quota_that_holds_little_of_it() {
    let world = World::new(30);
    let mut delivery = world.delivery();
    assert!(delivery.ask(&everything(1)).expect("the disk works"));
    let received = deliver(&world, &mut delivery);
    let expected: BTreeMap<u64, Vec<u8>> = (0..30).map(|number| (number, values(number))).collect();
    assert_eq!(received.whole(), expected);
    let sent_bytes = expected.values().map(|values| values.len() as u64).sum();
    let finished =
        CaptureFinished { request: 1, sent: 30, sent_bytes, left_out: 0, gone: 0, capturing: true };
    assert_eq!(received.finished, [finished]);
    let most = received.samples.values().flat_map(BTreeMap::values).map(|piece| piece.sent_bytes);
    assert_eq!(most.max(), Some(sent_bytes));
}

#[test]
fn filters_and_the_requests_own_limits_decide_what_comes() {
    let world = World::new(30);
    let slot = |name: &str| Some(name.parse().expect("the name is well formed"));
    let cases = [
        (CaptureRequest { slot: slot("eyes"), ..everything(1) }, 10, 0),
        (CaptureRequest { slot: slot("nose"), ..everything(1) }, 0, 0),
        (CaptureRequest { bundle: Some(Digest([8; 32])), ..everything(1) }, 0, 0),
        (CaptureRequest { from_ms: 500, to_ms: 900, ..everything(1) }, 5, 0),
        (CaptureRequest { samples_max: 4, ..everything(1) }, 4, 26),
        (CaptureRequest { bytes_max: 8 * 20, ..everything(1) }, 20, 10),
        (CaptureRequest { slot: slot("eyes"), bytes_max: 1000, ..everything(1) }, 0, 10),
    ];
    for (number, (request, sent, left_out)) in (1..).zip(cases) {
        let mut delivery = world.delivery();
        let request = CaptureRequest { number, ..request };
        assert!(delivery.ask(&request).expect("the disk works"));
        let received = deliver(&world, &mut delivery);
        let [finished] = received.finished[..] else { panic!("{:?}", received.finished) };
        assert_eq!((finished.sent, finished.left_out), (sent, left_out), "{request:?}");
        assert_eq!(received.whole().len(), sent as usize, "{request:?}");
    }
}

#[test]
fn a_request_that_was_taken_up_and_any_older_one_do_nothing_again() {
    let world = World::new(6);
    let mut delivery = world.delivery();
    assert!(delivery.ask(&everything(5)).expect("the disk works"));
    assert_eq!(deliver(&world, &mut delivery).whole().len(), 6);
    for mut delivery in [delivery, world.delivery()] {
        for replayed in [5, 4, 1, 0] {
            assert!(!delivery.ask(&everything(replayed)).expect("the disk works"));
        }
        assert!(matches!(delivery.next(world.now_ms), Ok(Next::Nothing)));
    }
    assert!(world.delivery().ask(&everything(6)).expect("the disk works"));
}

#[test]
fn a_newer_request_takes_the_place_of_one_that_is_under_way() {
    let world = World::new(30);
    let mut delivery = world.delivery();
    let mut spool = world.spool().expect("the disk works");
    delivery.ask(&everything(1)).expect("the disk works");
    assert!(world.offer_all(&mut delivery, &mut spool).expect("the disk works"), "it is full");
    let few = CaptureRequest { to_ms: 300, ..everything(2) };
    assert!(delivery.ask(&few).expect("the disk works"));
    drop(spool);
    let received = deliver(&world, &mut delivery);
    assert_eq!(received.finished.len(), 1);
    assert_eq!((received.finished[0].request, received.finished[0].sent), (2, 4));
}

#[test]
fn no_day_has_more_than_its_budget_and_a_restart_does_not_change_that() {
    let mut world = World::new(9);
    let upload_bytes_per_day_max = CAPTURE_UPLOAD_BYTES_MIN;
    world.config = Some(CaptureConfig { upload_bytes_per_day_max, ..CONFIG });
    let mut received = Received::default();
    world.delivery().ask(&everything(1)).expect("the disk works");
    for day in 0..10 {
        world.now_ms = (10 + day) * DAY_MS;
        let before: usize = received.samples.values().map(BTreeMap::len).sum();
        for _ in 0..2 {
            let mut spool = world.spool().expect("the disk works");
            world.offer_all(&mut world.delivery(), &mut spool).expect("the disk works");
            received.drain(&mut spool);
        }
        let after: usize = received.samples.values().map(BTreeMap::len).sum();
        // Two pieces of an image are more than the budget with what comes around them.
        assert!(after - before <= 4, "{before} {after}");
    }
    assert_eq!(received.whole().len(), 9);
    assert_eq!(received.finished.len(), 1);
}

#[test]
fn samples_that_made_room_are_counted_and_the_rest_still_comes() {
    let world = World::new(30);
    let mut delivery = world.delivery();
    delivery.ask(&everything(1)).expect("the disk works");
    (0..10).for_each(|number| world.disk.remove(&path(number)).expect("the disk works"));
    world.disk.damage(&path(12), 30);
    // What is kept after the request was taken up is not asked for.
    (30..40).for_each(|number| world.put(number));
    let finished = deliver(&world, &mut delivery).finished;
    assert_eq!(finished.iter().map(|it| it.sent + it.gone).collect::<Vec<_>>(), [30]);
    assert!((10..=11).contains(&finished[0].gone), "{finished:?}");
}

#[test]
fn a_device_that_keeps_no_samples_says_so() {
    let world = World { config: None, ..World::new(3) };
    let mut delivery = world.delivery();
    delivery.ask(&everything(1)).expect("the disk works");
    let received = deliver(&world, &mut delivery);
    assert!(received.samples.is_empty());
    assert_eq!((received.finished[0].sent, received.finished[0].capturing), (0, false));
}

#[test]
fn a_power_cut_after_any_operation_loses_no_sample_and_no_answer() {
    let whole = World::new(9);
    let (mut cut_at, mut seed) = (0, 7_u64);
    loop {
        let world = World { disk: Arc::new(whole.disk.fork()), ..World::new(0) };
        world.disk.cut_after(cut_at);
        let interrupted = asks_and_delivers(&world);
        if interrupted.is_ok() {
            break;
        }
        world.disk.power_cycle(|sides| {
            seed = u64::wrapping_mul(seed, 6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % sides.max(1)
        });
        // The request is retained: it comes again, as whatever was cut off.
        let mut delivery = world.delivery();
        delivery.ask(&everything(1)).expect("the disk works again");
        let received = deliver(&world, &mut delivery);
        let expected: BTreeMap<u64, Vec<u8>> = (0..9).map(|n| (n, values(n))).collect();
        assert_eq!(received.whole(), expected, "cut after {cut_at} operations");
        assert!(!received.finished.is_empty(), "cut after {cut_at} operations");
        assert!(received.finished.iter().all(|it| it.sent == 9), "{:?}", received.finished);
        cut_at += 1;
    }
    assert!(cut_at > 20, "the cuts were among {cut_at} operations");
}

fn asks_and_delivers(world: &World) -> Result<(), DiskError> {
    let mut spool = world.spool()?;
    let mut delivery = Delivery::open(world.disk.clone(), world.config)?;
    delivery.ask(&everything(1))?;
    let is_full = world.offer_all(&mut delivery, &mut spool)?;
    assert!(!is_full, "all of it fits");
    Ok(())
}
