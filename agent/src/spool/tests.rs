//! The spool against a small model of the fleet, with power cuts, damage and a full disk.
//!
//! Survived: cuts after any operation with torn and lost unsynced writes, also during recovery; a full
//! disk. Not survived, by design: records that were pushed and not committed.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, simulated::SimulatedDisk};

const ROOMY: SpoolQuotas = SpoolQuotas {
    results_bytes_max: 1 << 20,
    profiles_bytes_max: 1 << 20,
    events_bytes_max: 1 << 20,
    labels_bytes_max: 1 << 20,
    captures_bytes_max: 1 << 20,
};
const TIGHT: SpoolQuotas = SpoolQuotas {
    results_bytes_max: STREAM_BYTES_MIN,
    profiles_bytes_max: STREAM_BYTES_MIN,
    events_bytes_max: STREAM_BYTES_MIN,
    labels_bytes_max: STREAM_BYTES_MIN,
    captures_bytes_max: STREAM_BYTES_MIN,
};

/// A record of the tests: what it counts, how many, and the sum of their ids.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tally {
    origin: u8,
    count: u64,
    sum: u64,
}

impl Tally {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.origin];
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(self.sum.to_le_bytes());
        bytes.resize(100, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
        };
        Self { origin: bytes[0], count: number(1), sum: number(9) }
    }
}

fn merge_tallies(earlier: &[u8], later: &[u8]) -> Option<Vec<u8>> {
    let (a, b) = (Tally::read(earlier), Tally::read(later));
    let both = Tally { origin: a.origin, count: a.count + b.count, sum: a.sum + b.sum };
    (a.origin == b.origin).then(|| both.bytes())
}

/// A device with its disk, and a fleet that stores each number exactly once.
struct World {
    disk: Arc<SimulatedDisk>,
    quotas: SpoolQuotas,
    boot: Boot,
    spool: Spool,
    cursor: Option<Position>,
    // Per stream and boot: what was pushed, and how many of those a commit made durable.
    pushed: BTreeMap<(Stream, Boot), (Vec<Tally>, usize)>,
    // Per stream and boot: what stands at each number in the store; `None` was dropped.
    stored: BTreeMap<(Stream, Boot), BTreeMap<u64, Option<Tally>>>,
    dice: u64,
}

impl World {
    fn new(quotas: SpoolQuotas, seed: u64) -> Self {
        let disk = Arc::new(SimulatedDisk::new());
        let (spool, _) =
            Spool::open(disk.clone(), Boot(1), quotas, merge_tallies).expect("the disk works");
        let (pushed, stored) = (BTreeMap::new(), BTreeMap::new());
        Self { disk, quotas, boot: Boot(1), spool, cursor: None, pushed, stored, dice: seed }
    }

    fn push(&mut self, stream: Stream, origin: u8) {
        let (pushed, _) = self.pushed.entry((stream, self.boot)).or_default();
        let tally = Tally { origin, count: 1, sum: pushed.len() as u64 + 1 };
        pushed.push(tally);
        self.spool.push(stream, tally.bytes()).expect("the record is short");
    }

    fn commit(&mut self, stream: Stream) -> bool {
        let done = self.spool.commit(stream).is_ok();
        if done {
            let (pushed, committed) = self.pushed.entry((stream, self.boot)).or_default();
            *committed = pushed.len();
        }
        done
    }

    /// Sends the next batch; the fleet stores it and says so if `acknowledge`.
    fn send(&mut self, stream: Stream, acknowledge: bool) -> bool {
        let Ok(Some(batch)) = self.spool.next_batch(stream, self.cursor, 700, 5) else {
            return false;
        };
        self.cursor = Some(batch.end());
        self.store(stream, &batch);
        if acknowledge {
            let through = self.stored_through(stream, batch.boot);
            let stored = StoredThrough { boot: batch.boot, stream, through: Sequence(through) };
            // A cut may come while stored segments are removed.
            let _ = self.spool.acknowledge(&stored);
        }
        true
    }

    fn store(&mut self, stream: Stream, batch: &SpooledBatch) {
        let numbers = self.stored.entry((stream, batch.boot)).or_default();
        let mut at = batch.first.0;
        for record in &batch.records {
            let range = at..at + record.covers();
            at = range.end;
            let known = range.clone().filter(|number| numbers.contains_key(number)).count();
            let value = match record {
                Record::Dropped { .. } => None,
                Record::One(value) | Record::Merged { value, .. } => Some(Tally::read(value)),
            };
            // The first number of a merged record carries all that it counts.
            assert!(value.is_none() || known == 0 || known as u64 == record.covers(), "{batch:?}");
            for (offset, number) in range.enumerate() {
                let here = value
                    .map(|all| if offset == 0 { all } else { Tally { count: 0, sum: 0, ..all } });
                if let Some(before) = numbers.get(&number) {
                    assert!(here.is_none() || *before == here, "number {number} changed");
                }
                numbers.entry(number).or_insert(here);
            }
        }
    }

    fn stored_through(&self, stream: Stream, boot: Boot) -> u64 {
        let numbers = &self.stored[&(stream, boot)];
        (1..).take_while(|number| numbers.contains_key(number)).last().unwrap_or(0)
    }

    fn crash(&mut self) {
        loop {
            let dice = &mut self.dice;
            self.disk.power_cycle(|sides| roll(dice, sides));
            self.boot = Boot(self.boot.0 + 1);
            self.cursor = None;
            if roll(&mut self.dice, 3) == 0 {
                self.disk.cut_after(roll(&mut self.dice, 8));
            }
            let opened = Spool::open(self.disk.clone(), self.boot, self.quotas, merge_tallies);
            if let Ok((spool, _)) = opened {
                self.spool = spool;
                return;
            }
        }
    }

    /// No more faults: everything is sent and stored.
    fn calm_down(&mut self) {
        self.disk.set_capacity(None);
        self.crash();
        self.disk.cut_after(usize::MAX);
        for stream in Stream::ALL {
            assert!(self.commit(stream), "the disk works again");
            self.cursor = None;
            while self.send(stream, true) {}
            self.cursor = None;
            assert!(!self.send(stream, true), "{stream:?} still has something to send");
        }
        assert_eq!(self.spool.len_bytes(), 0);
    }

    fn check(&self) {
        for ((stream, boot), (pushed, committed)) in &self.pushed {
            let none = BTreeMap::new();
            let numbers = self.stored.get(&(*stream, *boot)).unwrap_or(&none);
            let count = numbers.len();
            let place = format!("{stream:?} of {boot:?}");
            assert!(numbers.keys().copied().eq(1..=count as u64), "{place}: a number is missing");
            assert!((*committed..=pushed.len()).contains(&count), "{place}: {committed} {count}");
            match stream {
                Stream::Profiles => check_sums(&pushed[..count], numbers, &place),
                _ => check_each(&pushed[..count], numbers, &place),
            }
        }
    }
}

fn check_each(pushed: &[Tally], stored: &BTreeMap<u64, Option<Tally>>, place: &str) {
    for (expected, (number, stored)) in pushed.iter().zip(stored) {
        assert!(stored.is_none_or(|stored| stored == *expected), "{place}, number {number}");
    }
}

fn check_sums(pushed: &[Tally], stored: &BTreeMap<u64, Option<Tally>>, place: &str) {
    if stored.values().any(Option::is_none) {
        return;
    }
    for origin in 0..3 {
        let totals = |tallies: &mut dyn Iterator<Item = Tally>| {
            let of_origin = tallies.filter(|tally| tally.origin == origin);
            of_origin.fold((0, 0), |(count, sum), tally| (count + tally.count, sum + tally.sum))
        };
        let expected = totals(&mut pushed.iter().copied());
        assert_eq!(totals(&mut stored.values().flatten().copied()), expected, "{place}, {origin}");
    }
}

fn roll(state: &mut u64, sides: usize) -> usize {
    // SplitMix64 (Steele, Lea and Flood, 2014).
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push { stream: Stream, origin: u8, count: u8 },
    Commit(Stream),
    Send { stream: Stream, acknowledge: bool },
    Reconnect,
    Fill(bool),
    CutSoon(u8),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || prop::sample::select(Stream::ALL.to_vec());
    let step = prop_oneof![
        6 => (stream(), 0u8..3, 1u8..12).prop_map(|(stream, origin, count)| Step::Push { stream, origin, count }),
        6 => stream().prop_map(Step::Commit),
        4 => (stream(), any::<bool>()).prop_map(|(stream, acknowledge)| Step::Send { stream, acknowledge }),
        1 => Just(Step::Reconnect),
        1 => any::<bool>().prop_map(Step::Fill),
        2 => (0u8..20).prop_map(Step::CutSoon),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

fn run(quotas: SpoolQuotas, steps: &[Step], seed: u64) {
    let mut world = World::new(quotas, seed);
    for step in steps {
        match *step {
            Step::Push { stream, origin, count } => {
                (0..count).for_each(|more| world.push(stream, (origin + more) % 3));
            }
            Step::Commit(stream) => {
                world.commit(stream);
            }
            Step::Send { stream, acknowledge } => {
                world.cursor = None;
                while world.send(stream, acknowledge) && roll(&mut world.dice, 4) > 0 {}
            }
            Step::Reconnect => world.cursor = None,
            Step::Fill(full) => {
                let used: usize = world.disk.files().values().map(Vec::len).sum();
                world.disk.set_capacity(full.then_some(used as u64 + 150));
            }
            Step::CutSoon(operations) => world.disk.cut_after(operations.into()),
            Step::Crash => world.crash(),
        }
    }
    world.calm_down();
    world.check();
}

fn cases() -> u32 {
    std::env::var("SELVEDGE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_number_is_stored_once_whatever_fails(steps in steps(), seed: u64, tight: bool) {
        run(if tight { TIGHT } else { ROOMY }, &steps, seed);
    }
}

#[test]
fn a_full_quota_says_exactly_what_it_dropped() {
    let mut world = World::new(TIGHT, 0);
    for _ in 0..500 {
        world.push(Stream::Results, 0);
        assert!(world.commit(Stream::Results));
    }
    assert!(world.spool.len_bytes() <= STREAM_BYTES_MIN);
    let dropped = world.spool.dropped(Stream::Results);
    while world.send(Stream::Results, false) {}
    let numbers = &world.stored[&(Stream::Results, Boot(1))];
    assert_eq!(numbers.len(), 500);
    let lost: Vec<_> =
        numbers.iter().filter(|(_, value)| value.is_none()).map(|(n, _)| *n).collect();
    assert_eq!(lost.len() as u64, dropped);
    assert!(lost.iter().copied().eq(1..=dropped), "the oldest are lost");
    world.check();
}

#[test]
fn profiles_get_coarser_and_lose_no_count() {
    let mut world = World::new(TIGHT, 0);
    for window in 0..2000u32 {
        world.push(Stream::Profiles, (window % 3) as u8);
        assert!(world.commit(Stream::Profiles));
        assert!(world.spool.len_bytes() <= STREAM_BYTES_MIN);
    }
    assert_eq!(world.spool.dropped(Stream::Profiles), 0);
    while world.send(Stream::Profiles, false) {}
    world.check();
}

#[test]
fn a_profile_that_was_handed_out_never_merges() {
    let mut world = World::new(TIGHT, 0);
    for _ in 0..5 {
        world.push(Stream::Profiles, 0);
    }
    assert!(world.commit(Stream::Profiles));
    let first = world.spool.next_batch(Stream::Profiles, None, 10_000, 2).expect("the disk works");
    for _ in 0..300 {
        world.push(Stream::Profiles, 0);
        assert!(world.commit(Stream::Profiles));
    }
    let again = world.spool.next_batch(Stream::Profiles, None, 10_000, 2).expect("the disk works");
    assert_eq!(first, again);
}

#[test]
fn a_window_whose_acknowledgement_was_lost_is_sent_again_as_it_was_when_memory_ran_short() {
    for sent in 1..=4 {
        let mut world = World::new(TIGHT, 0);
        for _ in 0..sent {
            world.push(Stream::Profiles, 0);
            assert!(world.commit(Stream::Profiles));
        }
        // The fleet stores them, and its word does not arrive.
        assert!(world.send(Stream::Profiles, false));
        for _ in 0..300 {
            world.push(Stream::Profiles, 0);
            assert!(world.commit(Stream::Profiles));
        }
        // On the next connection all that is not acknowledged is sent again.
        let again = world.spool.next_batch(Stream::Profiles, None, 100_000, 1000);
        let again = again.expect("the disk works").expect("nothing was acknowledged");
        let merged = |record: &&Record<Vec<u8>>| matches!(record, Record::Merged { .. });
        assert_eq!(again.records.iter().take(sent).filter(merged).count(), 0);
        assert!(again.records.iter().any(|record| merged(&record)), "memory ran short");
        // The store refuses what changed since it came first.
        world.cursor = None;
        while world.send(Stream::Profiles, true) {}
        let numbers = &world.stored[&(Stream::Profiles, Boot(1))];
        let counted: u64 = numbers.values().flatten().map(|tally| tally.count).sum();
        assert_eq!((counted, numbers.len()), (sent as u64 + 300, sent + 300));
        assert_eq!(world.spool.dropped(Stream::Profiles), 0);
        assert_eq!(world.spool.len_bytes(), 0);
        world.check();
    }
}

#[test]
fn profiles_of_a_long_time_offline_leave_room_for_those_that_close_while_they_are_sent() {
    let mut world = World::new(TIGHT, 0);
    for _ in 0..1000 {
        world.push(Stream::Profiles, 0);
        world.commit(Stream::Profiles);
    }
    while world.send(Stream::Profiles, false) {}
    // A quarter of 4 KiB has room for seven records of 117 bytes and the headers of their segments.
    for _ in 0..7 {
        world.push(Stream::Profiles, 0);
        world.commit(Stream::Profiles);
    }
    assert_eq!(world.spool.dropped(Stream::Profiles), 0);
    world.calm_down();
}

#[test]
fn a_full_disk_keeps_records_in_memory_until_there_is_room() {
    let mut world = World::new(ROOMY, 0);
    world.disk.set_capacity(Some(0));
    for _ in 0..10 {
        world.push(Stream::Events, 0);
        let error = world.spool.commit(Stream::Events).expect_err("nothing fits");
        assert!(error.is_full());
    }
    world.disk.set_capacity(None);
    assert!(world.commit(Stream::Events));
    world.calm_down();
    world.check();
    assert_eq!(world.stored[&(Stream::Events, Boot(1))].len(), 10);
}

#[test]
fn what_is_offered_is_kept_whole_or_not_at_all_and_nothing_is_dropped_for_it() {
    let (mut world, stream) = (World::new(TIGHT, 0), Stream::Captures);
    let offer = |world: &mut World| world.spool.offer(stream, vec![vec![7; 300]; 3]);
    let held = |world: &mut World| {
        let batch = world.spool.next_batch(stream, None, 1 << 20, 1000).expect("the disk works");
        batch.map_or(0, |batch| batch.records.len() as u64)
    };
    let mut kept = 0;
    while offer(&mut world).expect("the disk works") {
        kept += 3;
    }
    assert_eq!((held(&mut world), world.spool.dropped(stream)), (kept, 0));
    assert!(kept >= 9 && world.spool.len_bytes() <= STREAM_BYTES_MIN, "{kept}");
    let through = Sequence(kept);
    let stored = StoredThrough { boot: Boot(1), stream, through };
    world.spool.acknowledge(&stored).expect("the disk works");
    // While the disk is full, the first offer waits in memory and no other is taken.
    world.disk.set_capacity(Some(0));
    for _ in 0..5 {
        offer(&mut world).expect_err("nothing fits");
    }
    world.disk.set_capacity(None);
    assert!(offer(&mut world).expect("the disk works again"));
    assert_eq!((held(&mut world), world.spool.dropped(stream)), (6, 0));
}

#[test]
fn memory_is_bounded_while_the_disk_is_full() {
    let mut world = World::new(ROOMY, 0);
    world.disk.set_capacity(Some(0));
    let record = Tally { origin: 0, count: 1, sum: 1 }.bytes();
    for _ in 0..20_000 {
        world.spool.push(Stream::Results, record.clone()).expect("the record is short");
    }
    assert!(world.spool.log(Stream::Results).pending_bytes <= PENDING_BYTES_MAX);
    assert!(world.spool.dropped(Stream::Results) > 0);
}

#[test]
fn a_damaged_segment_between_others_is_reported_as_dropped() {
    let mut world = World::new(ROOMY, 0);
    for boot_records in [3, 4] {
        for _ in 0..boot_records {
            world.push(Stream::Results, 0);
        }
        assert!(world.commit(Stream::Results));
        // The next records go to a segment of their own.
        world.spool.log_mut(Stream::Results).active = false;
    }
    let path = format!("spool/results/{}", file_name(Boot(1), 1));
    world.disk.damage(&path, 0);
    let (spool, recovery) = Spool::open(world.disk.clone(), Boot(2), ROOMY, merge_tallies)
        .expect("damage is no failure of the disk");
    world.spool = spool;
    assert!(recovery.bytes_lost > 0);
    while world.send(Stream::Results, true) {}
    let numbers = &world.stored[&(Stream::Results, Boot(1))];
    let dropped: Vec<_> =
        numbers.iter().map(|(number, value)| (*number, value.is_none())).collect();
    let expected: Vec<_> = (1..=7).map(|number| (number, number <= 3)).collect();
    assert_eq!(dropped, expected);
}

#[test]
fn an_acknowledgement_of_numbers_never_given_is_told_apart() {
    let mut world = World::new(ROOMY, 0);
    world.push(Stream::Results, 0);
    assert!(world.commit(Stream::Results));
    let mut acknowledge = |boot, through| {
        let through = Sequence(through);
        let stored = StoredThrough { boot: Boot(boot), stream: Stream::Results, through };
        world.spool.acknowledge(&stored).expect("the disk works")
    };
    assert_eq!(acknowledge(1, 0), Acknowledged::Known);
    assert_eq!(acknowledge(1, 2), Acknowledged::Ahead);
    assert_eq!(acknowledge(2, 1), Acknowledged::Ahead);
    assert_eq!(acknowledge(2, 0), Acknowledged::Known);
    assert_eq!(acknowledge(1, 1), Acknowledged::Progress);
    assert_eq!(acknowledge(1, 1), Acknowledged::Known);
}

#[test]
fn a_fleet_that_lost_its_store_is_told_which_numbers_are_gone() {
    let mut world = World::new(ROOMY, 0);
    (0..12).for_each(|_| world.push(Stream::Results, 0));
    assert!(world.commit(Stream::Results));
    let through = |through| StoredThrough {
        boot: Boot(1),
        stream: Stream::Results,
        through: Sequence(through),
    };
    world.spool.acknowledge(&through(9)).expect("the disk works");
    let told = world.spool.acknowledge(&through(0)).expect("the disk works");
    assert_eq!(told, Acknowledged::Known, "what was stored once stays forgotten here");
    while world.send(Stream::Results, true) {}
    let numbers = &world.stored[&(Stream::Results, Boot(1))];
    let gone: Vec<_> = numbers.iter().map(|(number, value)| (*number, value.is_none())).collect();
    let expected: Vec<_> = (1..=12).map(|number| (number, number <= 9)).collect();
    assert_eq!(gone, expected);
    assert_eq!(world.spool.len_bytes(), 0);
}

#[test]
fn a_record_that_fits_no_message_is_refused() {
    let mut world = World::new(ROOMY, 0);
    let len_bytes = RECORD_BYTES_MAX + 1;
    let refused = world.spool.push(Stream::Results, vec![0; len_bytes]);
    assert_eq!(refused, Err(RecordTooLong { len_bytes }));
}

#[test]
fn unfinished_replacements_are_cleared_on_recovery() {
    let disk = Arc::new(SimulatedDisk::new());
    disk.write("spool/results/x.new", b"torn").expect("the disk works");
    Spool::open(disk.clone(), Boot(1), ROOMY, merge_tallies).expect("the disk works");
    assert!(disk.files().is_empty());
}

#[test]
fn what_is_stored_and_was_not_removed_is_removed_later_and_not_sent() {
    let disk = Arc::new(SimulatedDisk::new());
    let open = |boot| {
        let opened = Spool::open(disk.clone(), Boot(boot), ROOMY, merge_tallies);
        opened.expect("the disk works").0
    };
    let mut spool = open(1);
    let tally = Tally { origin: 1, count: 1, sum: 1 };
    spool.push(Stream::Events, tally.bytes()).expect("the record is short");
    spool.commit(Stream::Events).expect("the disk works");
    let mut spool = open(2);
    let stored = StoredThrough { boot: Boot(1), stream: Stream::Events, through: Sequence(1) };
    disk.fail_changes(1);
    spool.acknowledge(&stored).expect_err("the disk does not remove it");
    let batch = spool.next_batch(Stream::Events, None, 700, 5).expect("the disk works");
    assert_eq!((batch, spool.len_bytes()), (None, 0));
}
