//! Site baselines that come, are kept, are wrong, or never come; and power cuts while one is kept.

use selvedge_bundle::{Baseline, DriftMonitor, ReferenceData, SiteBaseline, SiteRecord, compress};
use selvedge_sketch::GatewayProfile;
use selvedge_wire::encode;

use crate::disk::Disk;

use super::{
    super::*,
    world::{World, device, slot, v1, v2},
};

/// What was counted in windows of 250 equal rows.
pub(super) fn site(device: &DeviceId, value: f32) -> SiteBaseline {
    let features = [("a".to_owned(), (0..1000).map(|row| (row % 10) as f32).collect())];
    let reference = ReferenceData { features: &features, ..ReferenceData::default() };
    let baseline = Baseline::build(&reference).expect("the reference is sound");
    let mut profile = GatewayProfile::new(baseline.spec_id(), 1).expect("one feature fits");
    for _ in 0..250 {
        profile.observe_f32(0, &baseline.features()[0].spec, value);
        profile.count_sample();
    }
    let bundle = v1().digest();
    let record = SiteRecord { device: device.clone(), slot: slot(), bundle, from_ms: 1, to_ms: 2 };
    let site = SiteBaseline::build(&baseline, record, &vec![profile; 8]);
    // A monitor takes it.
    let site = site.expect("there are enough windows");
    let basis = selvedge_bundle::Basis::of_site(&baseline, &site).expect("the bins are the same");
    DriftMonitor::new(basis);
    site
}

fn topic(site: &SiteBaseline) -> Topic {
    Topic::Chunk(site.digest())
}

impl World {
    fn retain_site(&mut self, site: &SiteBaseline) {
        let chunk = encode(&compress(&site.encode()));
        self.retained.insert(topic(site).to_string(), chunk);
    }

    fn desire_site(&mut self, generation: u64, bundle: &Bundle, site: Option<Digest>) {
        self.desire_slot(generation, DesiredSlot { site, ..Self::desired_slot(bundle) });
    }

    fn restart(&mut self) {
        // The broker has nothing to give.
        let retained = std::mem::take(&mut self.retained);
        self.start().expect("the disk works");
        self.retained = retained;
    }
}

fn installed() -> (World, Bundle) {
    let (mut world, bundle) = (World::new(), v1());
    world.install(1, &bundle);
    world.events.clear();
    (world, bundle)
}

#[test]
fn a_site_baseline_is_fetched_kept_over_restarts_and_given_up_when_it_is_not_named_any_more() {
    let (mut world, bundle) = installed();
    let (first, second) = (site(&device(), 1.0), site(&device(), 2.0));
    world.retain_site(&first);
    world.desire_site(2, &bundle, Some(first.digest()));
    assert_eq!(world.site, Some(first.digest()));
    assert!(!world.subscribed.contains(&topic(&first)), "it is there");
    world.restart();
    assert_eq!(world.site, Some(first.digest()));
    assert!(!world.requested.contains(&first.digest()), "it was kept");

    world.desire_site(3, &bundle, Some(second.digest()));
    assert_eq!(world.site, None, "the first is named no more, the second is not here");
    world.retain_site(&second);
    world.pass(crate::limits::CHUNK_OVERDUE_MS);
    assert_eq!(world.site, Some(second.digest()), "it is asked for again");
    world.desire_site(4, &bundle, None);
    assert_eq!(world.site, None);
    assert!(world.disk.list("sites").expect("the disk works").is_empty());
    assert_eq!(world.report().phase, SlotPhase::Settled);
    assert_eq!(world.event_kinds(), []);
}

#[test]
fn a_site_baseline_that_is_missing_hinders_neither_the_bundle_nor_the_next() {
    let (mut world, bundle) = installed();
    world.desire_site(2, &bundle, Some(Digest([9; 32])));
    assert_eq!((world.report().phase, world.site), (SlotPhase::Settled, None));
    let next = v2();
    world.publish(&next);
    world.desire_site(3, &next, Some(Digest([9; 32])));
    world.confirm(&next);
    assert_eq!((world.report().phase, world.site), (SlotPhase::Settled, None));
    assert_eq!(world.answering, Some(next.digest()));
    world.restart();
    assert_eq!(world.answering_at_start, Some(next.digest()));
}

#[test]
fn what_is_not_the_site_baseline_that_is_named_is_refused_and_told() {
    let right = site(&device(), 1.0);
    let foreign = site(&"line-2".parse().expect("the name is well formed"), 1.0);
    // Other bytes than the digest says: the right ones may still come.
    let (mut world, bundle) = installed();
    world.desire_site(2, &bundle, Some(right.digest()));
    let payload = encode(&compress(&foreign.encode()));
    world.receive(&topic(&right), &payload);
    world.receive(&topic(&right), b"no chunk at all");
    assert_eq!((world.malformed, world.site), (2, None));
    world.receive(&topic(&right), &encode(&compress(&right.encode())));
    assert_eq!(world.site, Some(right.digest()));
    assert_eq!(world.event_kinds(), []);

    // The digest is right, and what it names is not for this slot, or nothing at all.
    let nonsense = b"no site baseline".to_vec();
    for (bytes, reason) in [
        (foreign.encode(), "it was recorded in the slot main of line-2"),
        (nonsense, "the site baseline is not supported: its version is 110"),
    ] {
        let (mut world, bundle) = installed();
        let named = digest_of(&bytes);
        world.retained.insert(Topic::Chunk(named).to_string(), encode(&compress(&bytes)));
        world.desire_site(2, &bundle, Some(named));
        assert_eq!((world.site, world.report().phase), (None, SlotPhase::Settled));
        assert_eq!(world.event_kinds(), [EventKind::SiteRefused]);
        let detail = &world.events[0].detail;
        assert!(detail.contains(reason) && detail.contains(&named.to_string()), "{detail}");
        assert!(world.disk.list("sites").expect("the disk works").is_empty(), "nothing is kept");
    }
}

#[test]
fn a_kept_site_baseline_that_is_damaged_is_told_and_fetched_again() {
    let (mut world, bundle) = installed();
    let site = site(&device(), 1.0);
    world.retain_site(&site);
    world.desire_site(2, &bundle, Some(site.digest()));
    world.disk.write("sites/main", &site.encode()[..40]).expect("the disk works");
    world.start().expect("the disk works");
    assert_eq!(world.site, Some(site.digest()));
    assert!(world.requested.contains(&site.digest()));
    assert_eq!(world.event_kinds(), [EventKind::StateDamaged]);
    world.restart();
    assert_eq!(world.site, Some(site.digest()), "it is whole again");
}

#[test]
fn the_power_may_fail_at_any_moment_while_a_site_baseline_is_kept() {
    let (mut before, bundle) = installed();
    let (old, new) = (site(&device(), 1.0), site(&device(), 2.0));
    before.retain_site(&old);
    before.retain_site(&new);
    before.desire_site(2, &bundle, Some(old.digest()));
    let started = || {
        let mut world = before.fork();
        world.start().expect("the disk works");
        world
    };
    let operations = {
        let mut world = started();
        let begun = world.disk.operations();
        world.desire_site(3, &bundle, Some(new.digest()));
        assert_eq!(world.site, Some(new.digest()));
        world.disk.operations() - begun
    };
    for cut in 0..=operations {
        for survives in 0..4 {
            let mut world = started();
            world.disk.cut_after(cut);
            world.desire_site(3, &bundle, Some(new.digest()));
            world.disk.power_cycle(|sides| survives % sides);
            world.start().expect("the disk works");
            let place = format!("cut {cut}, {survives}");
            assert_eq!(world.answering_at_start, Some(bundle.digest()), "{place}");
            assert_ne!(world.site, None, "{place}: the old or the new one, from disk or broker");
            world.desire_site(3, &bundle, Some(new.digest()));
            assert_eq!(world.site, Some(new.digest()), "{place}");
            assert!(!world.event_kinds().contains(&EventKind::SiteRefused), "{place}");
        }
    }
}
