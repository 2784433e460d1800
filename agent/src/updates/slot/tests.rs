//! The machine alone: what it asks for after each happening.

use super::*;

const OLD: Digest = Digest([1; 32]);
const NEW: Digest = Digest([2; 32]);
const NEXT: Digest = Digest([3; 32]);

fn piece(number: u8) -> Digest {
    Digest([100 + number; 32])
}

fn candidate(bundle: Digest) -> Candidate {
    Candidate {
        bundle,
        name: "example".into(),
        version: Version::new(u64::from(bundle.0[0]), 0, 0),
        policy: UpdatePolicy::default(),
        trial_memory_bytes_max: 1 << 20,
    }
}

fn confirmed(bundle: Digest) -> Vec<ConfirmedVersion> {
    let Candidate { name, version, .. } = candidate(bundle);
    vec![ConfirmedVersion { name, version }]
}

fn record_of(current: Digest) -> SlotRecord {
    SlotRecord {
        current: Some(current),
        proven: Some(current),
        confirmed: confirmed(current),
        ..SlotRecord::default()
    }
}

fn running_old() -> SlotUpdate {
    SlotUpdate::revived(record_of(OLD), Some(candidate(OLD)), 0)
}

fn desired(generation: u64, bundle: Digest) -> Happening {
    Happening::Desired { generation, bundle: Some(bundle), shadow_samples: 0 }
}

fn offered(bundle: Digest, pieces: u8) -> Happening {
    let missing = (0..pieces).map(piece).collect();
    Happening::Offered { bundle, missing, pieces_total: pieces.into() }
}

fn attempt(bundle: Digest, generation: u64) -> Attempt {
    let crashes_max = UpdatePolicy::default().crashes_max;
    Attempt { bundle, generation, crashes: 0, crashes_max }
}

fn observed(bundle: Digest, observation: Observation) -> Happening {
    Happening::Observed { bundle, observation }
}

fn seen(samples: u64, failed: u64) -> Observation {
    let comparison = Comparison { samples, failed, ..Comparison::default() };
    Observation { comparison, ..Observation::default() }
}

/// Tells the machine several things at one time: what it asked for after the last of them.
fn tell_all(
    slot: &mut SlotUpdate,
    happenings: impl IntoIterator<Item = Happening>,
    now_ms: u64,
) -> Vec<Action> {
    happenings
        .into_iter()
        .map(|happening| slot.handle(happening, now_ms))
        .last()
        .unwrap_or_default()
}

fn verifying_new() -> SlotUpdate {
    let mut slot = running_old();
    let pieces = (0..2).map(|number| Happening::PieceKept { piece: piece(number) });
    let steps = [desired(1, NEW), offered(NEW, 2)].into_iter().chain(pieces);
    assert_eq!(tell_all(&mut slot, steps, 0).last(), Some(&Action::Verify(NEW)));
    slot
}

fn trying_new() -> SlotUpdate {
    let mut slot = verifying_new();
    tell_all(&mut slot, [Happening::Verified(candidate(NEW)), Happening::Recorded], 0);
    assert_eq!(slot.phase(), SlotPhase::Trial);
    slot
}

fn tried_new() -> Happening {
    Happening::Tried { bundle: NEW, outcome: Ok(()) }
}

fn new_on_probation() -> SlotUpdate {
    let mut slot = trying_new();
    let steps = [
        tried_new(),
        Happening::Loaded { bundle: NEW },
        Happening::Recorded,
        Happening::Switched { bundle: Some(NEW) },
    ];
    tell_all(&mut slot, steps, 0);
    let phase = SlotPhase::Probation { inferences: 0, inferences_wanted: 100 };
    assert_eq!(slot.phase(), phase);
    slot
}

#[test]
fn a_new_bundle_is_tried_watched_and_confirmed_and_recorded_before_each() {
    let mut slot = verifying_new();
    let trial = SlotRecord { trial: Some(attempt(NEW, 1)), ..record_of(OLD) };
    let verified = slot.handle(Happening::Verified(candidate(NEW)), 0);
    assert_eq!(verified, [Action::Record(trial.clone())]);
    assert_eq!(slot.record(), &record_of(OLD), "the record is not durable yet");
    assert_eq!(slot.handle(Happening::Recorded, 0), [Action::Try(NEW)]);
    assert_eq!((slot.record(), slot.phase()), (&trial, SlotPhase::Trial));
    assert_eq!(slot.handle(tried_new(), 0), [Action::Load(NEW)]);
    let probation = SlotRecord {
        current: Some(NEW),
        previous: Some(OLD),
        probation: Some(attempt(NEW, 1)),
        ..record_of(OLD)
    };
    let loaded = slot.handle(Happening::Loaded { bundle: NEW }, 0);
    assert_eq!(loaded, [Action::Record(probation.clone())]);
    let recorded = slot.handle(Happening::Recorded, 0);
    assert_eq!(recorded, [Action::Watch(true), Action::Switch(Some(NEW))]);
    let switched = slot.handle(Happening::Switched { bundle: Some(NEW) }, 0);
    assert_eq!(switched, [Action::TellSwapped(NEW), Action::Tidy]);
    assert_eq!(slot.record(), &probation);

    assert!(slot.handle(observed(NEW, seen(100, 2)), 59_999).is_empty(), "its time is not over");
    let record =
        SlotRecord { probation: None, proven: Some(NEW), confirmed: confirmed(NEW), ..probation };
    assert_eq!(slot.handle(Happening::Tick, 60_000), [Action::Record(record.clone())]);
    let over = [Action::Watch(false), Action::TellConfirmed(NEW), Action::Tidy];
    assert_eq!(slot.handle(Happening::Recorded, 60_000), over);
    assert_eq!((slot.record(), slot.phase()), (&record, SlotPhase::Settled));
}

#[test]
fn a_probation_waits_for_inferences_until_time_alone_decides() {
    let mut slot = new_on_probation();
    assert!(slot.handle(observed(NEW, seen(99, 0)), 60_000).is_empty());
    assert!(slot.handle(Happening::Tick, PROBATION_MS_MAX - 1).is_empty());
    assert!(matches!(slot.handle(Happening::Tick, PROBATION_MS_MAX)[..], [Action::Record(_)]));
}

#[test]
fn a_bundle_that_fails_its_probation_gives_way_to_the_one_before() {
    let with_latency = |latency_us_p95, latency_us_p95_before| {
        let samples = LATENCY_SAMPLES_MIN;
        let comparison =
            Comparison { samples, latency_us_p95, latency_us_p95_before, ..Comparison::default() };
        Observation { comparison, ..Observation::default() }
    };
    let cases = [
        ("got no answer", seen(20, 1)),
        ("19000 µs", with_latency(19_000, 9_000)),
        ("differs by 0.60", Observation { class_shift: Some(0.6), ..seen(50, 0) }),
    ];
    for (part, observation) in cases {
        let mut slot = new_on_probation();
        let failed = slot.handle(observed(NEW, observation), 5);
        assert_eq!(failed, [Action::Watch(false), Action::Load(OLD)], "{part}");
        let reason = slot.reason().unwrap_or_default().to_owned();
        assert!(reason.contains(part), "{reason}");
        let refusal = Refusal { bundle: NEW, generation: 1, reason };
        let record = SlotRecord { refused: Some(refusal.clone()), ..record_of(OLD) };
        let loaded = slot.handle(Happening::Loaded { bundle: OLD }, 5);
        assert_eq!(loaded, [Action::Record(record.clone())]);
        assert_eq!(slot.handle(Happening::Recorded, 5), [Action::Switch(Some(OLD))]);
        let back = [Action::TellRolledBack(refusal), Action::Tidy];
        assert_eq!(slot.handle(Happening::Switched { bundle: Some(OLD) }, 5), back);
        assert_eq!((slot.record(), slot.phase()), (&record, SlotPhase::Refused));
        // The next update is not blocked, nor a new try of the same one.
        assert_eq!(slot.handle(desired(2, NEW), 6), [Action::Seek(NEW)]);
    }
}

#[test]
fn what_a_probation_allows_is_no_fault() {
    let comparison = Comparison {
        samples: LATENCY_SAMPLES_MIN,
        latency_us_p95: LATENCY_SLACK_US + 10,
        latency_us_p95_before: 10,
        ..Comparison::default()
    };
    let a_busy_moment = Comparison {
        samples: LATENCY_SAMPLES_MIN - 1,
        latency_us_p95: 100 * LATENCY_SLACK_US,
        ..comparison
    };
    let cases = [
        ("few samples", seen(19, 19)),
        ("few latencies", Observation { comparison: a_busy_moment, ..Observation::default() }),
        ("the one before failed as often", Observation { failed_before: 0.5, ..seen(50, 25) }),
        ("noise", Observation { comparison, ..Observation::default() }),
        ("a small shift", Observation { class_shift: Some(0.5), ..seen(50, 0) }),
    ];
    for (what, observation) in cases {
        let mut slot = new_on_probation();
        assert!(slot.handle(observed(NEW, observation), 5).is_empty(), "{what}");
    }
}

#[test]
fn a_failed_bundle_with_none_before_it_stays_and_says_why() {
    let record = SlotRecord { probation: Some(attempt(NEW, 1)), ..record_of(NEW) };
    let mut slot = SlotUpdate::revived(record, Some(candidate(NEW)), 0);
    slot.handle(desired(1, NEW), 0);
    let actions = slot.handle(observed(NEW, seen(20, 20)), 0);
    assert!(matches!(
        actions[..],
        [Action::Watch(false), Action::Record(_), Action::TellRefused(_), Action::Tidy]
    ));
    assert_eq!((slot.record().current, slot.phase()), (Some(NEW), SlotPhase::Refused));
    assert!(slot.reason().is_some_and(|reason| reason.contains("none to go back to")));

    // What became of another bundle meanwhile does not make it good.
    let crashes_max = UpdatePolicy::default().crashes_max;
    let attempt = Attempt { crashes: crashes_max, ..attempt(NEXT, 2) };
    let mut record = SlotRecord { trial: Some(attempt), ..slot.record().clone() }.after_crash();
    assert_eq!(record.give_up_crashed().len(), 1);
    let mut slot = SlotUpdate::revived(record, Some(candidate(NEW)), 0);
    slot.handle(desired(3, NEW), 0);
    assert_eq!(slot.phase(), SlotPhase::Refused);
    assert!(slot.reason().is_some_and(|reason| reason.contains("failed its probation")));

    // The same where the one before cannot be loaded any more.
    let mut slot = new_on_probation();
    slot.handle(observed(NEW, seen(20, 20)), 0);
    slot.handle(Happening::Unfit { bundle: OLD, reason: "damaged".into() }, 0);
    assert_eq!((slot.record().current, slot.phase()), (Some(NEW), SlotPhase::Refused));
    assert!(slot.reason().is_some_and(|reason| reason.contains("damaged")));
}

#[test]
fn crashes_are_counted_over_restarts_and_name_what_is_to_blame() {
    let on_probation = SlotRecord {
        current: Some(NEW),
        previous: Some(OLD),
        probation: Some(attempt(NEW, 4)),
        ..record_of(OLD)
    };
    let mut once = on_probation.after_crash();
    assert!(once.give_up_crashed().is_empty(), "one is allowed");
    let mut twice = once.after_crash();
    let [(refusal, true)] = &twice.give_up_crashed()[..] else { panic!("it answered: {twice:?}") };
    assert_eq!((refusal.bundle, refusal.generation), (NEW, 4));
    assert!(refusal.reason.contains("stopped 2 times"), "{}", refusal.reason);
    assert_eq!((twice.current, twice.probation.as_ref()), (Some(OLD), None));

    // A trial that is begun again after a restart goes on counting.
    let mut slot = trying_new();
    let mut record = slot.record().clone().after_crash();
    assert!(record.give_up_crashed().is_empty());
    slot = SlotUpdate::revived(record, Some(candidate(OLD)), 0);
    let steps = [desired(1, NEW), offered(NEW, 0), Happening::Verified(candidate(NEW))];
    let again = tell_all(&mut slot, steps, 0);
    let [Action::Record(record)] = &again[..] else { panic!("a trial is recorded: {again:?}") };
    assert_eq!(record.trial.as_ref().map(|attempt| attempt.crashes), Some(1));
    let mut record = record.clone().after_crash();
    let [(refusal, false)] = &record.give_up_crashed()[..] else { panic!("{record:?}") };
    assert_eq!((refusal.bundle, record.current), (NEW, Some(OLD)));
    let mut slot = SlotUpdate::revived(record, Some(candidate(OLD)), 0);
    assert!(slot.handle(desired(1, NEW), 0).is_empty());
    assert_eq!(slot.phase(), SlotPhase::Refused);
}

#[test]
fn a_bundle_that_is_proven_comes_back_without_a_probation_that_crashes_could_end() {
    let mut slot = new_on_probation();
    let steps = [
        desired(2, OLD),
        offered(OLD, 0),
        Happening::Verified(candidate(OLD)),
        Happening::Recorded,
        Happening::Tried { bundle: OLD, outcome: Ok(()) },
        Happening::Loaded { bundle: OLD },
    ];
    let actions = tell_all(&mut slot, steps, 0);
    let [Action::Record(record)] = &actions[..] else { panic!("it is recorded: {actions:?}") };
    assert_eq!((record.current, record.probation.as_ref()), (Some(OLD), None));
    let mut crashed = record.clone().after_crash().after_crash();
    assert!(crashed.give_up_crashed().is_empty());
    assert_eq!(crashed.current, Some(OLD));
    tell_all(&mut slot, [Happening::Recorded, Happening::Switched { bundle: Some(OLD) }], 0);
    assert_eq!(slot.phase(), SlotPhase::Settled);
}

#[test]
fn a_shadow_gets_its_samples_and_then_the_bundle_takes_over() {
    let in_shadow = || {
        let mut slot = running_old();
        let wanted = Happening::Desired { generation: 1, bundle: Some(NEW), shadow_samples: 50 };
        let steps =
            [wanted, offered(NEW, 0), Happening::Verified(candidate(NEW)), Happening::Recorded];
        tell_all(&mut slot, steps, 0);
        assert_eq!(slot.handle(tried_new(), 0), [Action::Load(NEW)]);
        let loaded = slot.handle(Happening::Loaded { bundle: NEW }, 0);
        assert_eq!(loaded, [Action::Shadow(50)]);
        slot
    };
    let mut slot = in_shadow();
    assert!(slot.handle(observed(NEW, seen(49, 0)), 1).is_empty());
    assert_eq!(slot.phase(), SlotPhase::Shadow { samples: 49, samples_wanted: 50 });
    assert_eq!(slot.comparison().map(|comparison| comparison.samples), Some(49));
    let over = [Action::EndShadow, Action::Load(NEW)];
    assert_eq!(slot.handle(observed(NEW, seen(50, 0)), 1), over);

    let mut slot = in_shadow();
    assert_eq!(slot.handle(Happening::Tick, SHADOW_MS_MAX), over, "time alone decides");

    let mut slot = in_shadow();
    let refused = slot.handle(observed(NEW, seen(20, 20)), 1);
    assert_eq!(refused.first(), Some(&Action::EndShadow));
    assert_eq!((slot.phase(), slot.record().current), (SlotPhase::Refused, Some(OLD)));

    let mut slot = in_shadow();
    assert_eq!(slot.handle(desired(2, NEXT), 1), [Action::EndShadow, Action::Seek(NEXT)]);

    // Another number of samples, or no shadow any more: what counts is the newest desired state.
    for (wanted, then) in [(80, Some(Action::Shadow(80))), (0, None)] {
        let mut slot = in_shadow();
        let newer = Happening::Desired { generation: 2, bundle: Some(NEW), shadow_samples: wanted };
        assert_eq!(slot.handle(newer.clone(), 1), over);
        let loaded = slot.handle(Happening::Loaded { bundle: NEW }, 1);
        assert_eq!(loaded.iter().find(|action| matches!(action, Action::Shadow(_))), then.as_ref());
        assert!(slot.handle(newer, 1).is_empty(), "the same again changes nothing");
    }
}

#[test]
fn a_failed_trial_leaves_the_old_bundle_and_one_without_a_result_is_tried_again() {
    let mut slot = trying_new();
    let outcome = Err("it takes 9 GB".to_owned());
    let failed = slot.handle(Happening::Tried { bundle: NEW, outcome }, 0);
    let reason = "it failed its trial: it takes 9 GB".to_owned();
    let refusal = Refusal { bundle: NEW, generation: 1, reason };
    let record = SlotRecord { refused: Some(refusal.clone()), ..record_of(OLD) };
    let expected =
        [Action::Record(record), Action::Unload, Action::TellRefused(refusal), Action::Tidy];
    assert_eq!(failed, expected);

    let mut slot = trying_new();
    let overdue_ms = 30_000 + TRIAL_GRACE_MS;
    assert!(slot.handle(Happening::Tick, overdue_ms - 1).is_empty());
    slot.handle(Happening::Tick, overdue_ms);
    assert!(slot.reason().is_some_and(|reason| reason.contains("trying again")));
    let again = slot.handle(Happening::Tick, overdue_ms + DISK_RETRY_MS);
    assert_eq!(again, [Action::Seek(NEW)]);
}

#[test]
fn a_revoked_target_stops_what_is_not_confirmed_and_nothing_else() {
    let revoked = || Happening::Revoked { bundle: NEW, reason: "it is no target".into() };
    for mut slot in [verifying_new(), trying_new()] {
        slot.handle(revoked(), 0);
        assert_eq!((slot.sought(), slot.reason()), (Some(NEW), Some("it is no target")));
    }
    let mut slot = new_on_probation();
    assert_eq!(slot.handle(revoked(), 0), [Action::Watch(false), Action::Load(OLD)]);
    let mut slot = SlotUpdate::revived(record_of(NEW), Some(candidate(NEW)), 0);
    assert!(slot.handle(revoked(), 0).is_empty());
    assert_eq!(slot.phase(), SlotPhase::Settled);
}

#[test]
fn what_was_never_confirmed_is_nothing_to_go_back_to() {
    let mut slot = new_on_probation();
    assert_eq!(slot.handle(desired(2, NEXT), 0), [Action::Watch(false), Action::Seek(NEXT)]);
    let steps = [
        offered(NEXT, 0),
        Happening::Verified(candidate(NEXT)),
        Happening::Recorded,
        Happening::Tried { bundle: NEXT, outcome: Ok(()) },
        Happening::Loaded { bundle: NEXT },
        Happening::Recorded,
    ];
    tell_all(&mut slot, steps, 0);
    assert_eq!((slot.record().current, slot.record().previous), (Some(NEXT), Some(OLD)));

    // Back to the one on probation before the other came: its probation begins anew.
    let mut slot = new_on_probation();
    slot.handle(desired(2, NEXT), 0);
    let back = [Action::StopSeeking(NEXT), Action::Watch(true)];
    assert_eq!(slot.handle(desired(3, NEW), 9), back);
    assert!(matches!(slot.phase(), SlotPhase::Probation { .. }));
}

#[test]
fn pieces_are_asked_for_a_window_at_a_time() {
    let mut slot = running_old();
    slot.handle(desired(1, NEW), 0);
    let first = slot.handle(offered(NEW, 20), 0);
    let requests = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Request(_))).count()
    };
    assert_eq!(requests(&first), CHUNKS_REQUESTED_MAX);
    let kept = slot.handle(Happening::PieceKept { piece: piece(0) }, 0);
    assert_eq!(kept[0], Action::StopRequesting(piece(0)));
    assert_eq!(requests(&kept), 1);
    assert_eq!(slot.phase(), SlotPhase::Fetching { chunks_present: 1, chunks_total: 20 });
    let repeated = slot.handle(Happening::PieceKept { piece: piece(0) }, 0);
    assert!(repeated.is_empty(), "a duplicate changes nothing");
}

#[test]
fn a_piece_that_does_not_come_is_asked_for_again() {
    let mut slot = running_old();
    slot.handle(desired(1, NEW), 0);
    slot.handle(offered(NEW, 1), 0);
    assert!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS - 1).is_empty());
    let again = [Action::RequestAgain(piece(0))];
    assert_eq!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS), again);
    assert!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS + 1).is_empty());
}

#[test]
fn pieces_that_were_lost_are_fetched_again() {
    let mut slot = verifying_new();
    let missing = vec![piece(1)];
    let lacking = Happening::Lacking { bundle: NEW, missing, pieces_total: 2 };
    assert_eq!(slot.handle(lacking, 0), [Action::Request(piece(1))]);
    let kept = slot.handle(Happening::PieceKept { piece: piece(1) }, 0);
    assert_eq!(kept, [Action::StopRequesting(piece(1)), Action::Verify(NEW)]);
}

#[test]
fn a_refused_bundle_leaves_the_old_one_and_its_reason_stays() {
    let mut slot = verifying_new();
    let reason = "output logits differs".to_owned();
    slot.handle(Happening::Unfit { bundle: NEW, reason: reason.clone() }, 0);
    assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Refused, Some(reason.as_str())));
    let record = slot.record().clone();
    assert_eq!(record.current, Some(OLD));

    // After a restart the same generation does not try again, a newer one does.
    let mut slot = SlotUpdate::revived(record, Some(candidate(OLD)), 0);
    assert!(slot.handle(desired(1, NEW), 0).is_empty());
    assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Refused, Some(reason.as_str())));
    assert_eq!(slot.handle(desired(2, NEW), 0), [Action::Seek(NEW)]);
}

#[test]
fn offers_that_are_not_to_be_believed_are_told_once_each_and_a_good_one_is_taken() {
    let mut slot = running_old();
    slot.handle(desired(1, NEW), 0);
    let misoffered = |number: usize| {
        let reason = format!("index {number} is not the one");
        Happening::Misoffered { bundle: NEW, reason }
    };
    let told = |actions: Vec<Action>| {
        actions.iter().filter(|action| matches!(action, Action::TellMisoffered { .. })).count()
    };
    for number in 0..2 * OFFER_REASONS_TOLD_MAX {
        let expected = usize::from(number < OFFER_REASONS_TOLD_MAX);
        assert_eq!(told(slot.handle(misoffered(number), 0)), expected, "{number}");
        assert_eq!(told(slot.handle(misoffered(0), 0)), 0);
    }
    slot.handle(misoffered(3), 5);
    assert!(slot.reason().is_some_and(|reason| reason.contains("index 3")));
    assert_eq!(slot.phase(), SlotPhase::Fetching { chunks_present: 0, chunks_total: 0 });
    assert!(slot.handle(Happening::Tick, 4 + OFFER_RETRY_MS).is_empty());
    assert_eq!(slot.handle(Happening::Tick, 5 + OFFER_RETRY_MS), [Action::SeekAgain(NEW)]);
    assert!(slot.handle(Happening::Tick, 6 + OFFER_RETRY_MS).is_empty());
    let taken = slot.handle(offered(NEW, 1), 0);
    assert_eq!(taken, [Action::StopSeeking(NEW), Action::Request(piece(0))]);
    assert_eq!(slot.reason(), None);
    assert!(slot.handle(misoffered(4), 0).is_empty(), "it comes too late");
}

#[test]
fn going_back_to_what_runs_ends_a_refusal() {
    let mut slot = verifying_new();
    slot.handle(Happening::Unfit { bundle: NEW, reason: "bad".into() }, 0);
    assert!(slot.handle(desired(2, OLD), 0).is_empty());
    assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Settled, None));
}

#[test]
fn the_next_bundle_interrupts_a_download_and_stale_answers_change_nothing() {
    let mut slot = running_old();
    slot.handle(desired(1, NEW), 0);
    slot.handle(offered(NEW, 1), 0);
    let interrupted = slot.handle(desired(2, NEXT), 0);
    assert_eq!(interrupted, [Action::StopRequesting(piece(0)), Action::Seek(NEXT)]);
    for stale in [
        offered(NEW, 1),
        Happening::PieceKept { piece: piece(0) },
        Happening::Verified(candidate(NEW)),
        tried_new(),
        Happening::Unfit { bundle: NEW, reason: "late".into() },
        Happening::Recorded,
        Happening::Switched { bundle: Some(NEW) },
        observed(NEW, seen(100, 100)),
    ] {
        assert!(slot.handle(stale.clone(), 0).is_empty(), "{stale:?}");
    }
    assert_eq!(slot.target(), Some(NEXT));
}

#[test]
fn what_is_desired_while_models_change_places_comes_next() {
    let mut slot = trying_new();
    let steps = [tried_new(), Happening::Loaded { bundle: NEW }, Happening::Recorded];
    tell_all(&mut slot, steps, 0);
    assert!(slot.handle(desired(2, NEXT), 0).is_empty());
    let switched = slot.handle(Happening::Switched { bundle: Some(NEW) }, 0);
    assert_eq!(switched.last(), Some(&Action::Seek(NEXT)));
}

#[test]
fn a_desired_state_that_is_met_or_known_changes_nothing() {
    let mut slot = running_old();
    for generation in [1, 1, 2] {
        assert!(slot.handle(desired(generation, OLD), 0).is_empty());
        assert_eq!(slot.phase(), SlotPhase::Settled);
    }
    slot.handle(desired(3, NEW), 0);
    for generation in [3, 4] {
        assert!(slot.handle(desired(generation, NEW), 0).is_empty());
    }
    let mut slot = new_on_probation();
    assert!(slot.handle(desired(2, NEW), 0).is_empty());
}

#[test]
fn a_full_disk_is_a_state_that_tries_again() {
    let failed = || Happening::DiskFailed { reason: "no space".into() };
    let mut slot = running_old();
    slot.handle(desired(1, NEW), 0);
    slot.handle(offered(NEW, 1), 0);
    assert_eq!(slot.handle(failed(), 0), [Action::StopRequesting(piece(0))]);
    assert!(slot.reason().is_some_and(|reason| reason.contains("trying again")));
    assert!(slot.handle(Happening::Tick, DISK_RETRY_MS - 1).is_empty());
    assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);

    // A record that cannot be written.
    let mut slot = verifying_new();
    slot.handle(Happening::Verified(candidate(NEW)), 0);
    slot.handle(failed(), 0);
    assert_eq!(slot.record(), &record_of(OLD));
    assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);

    // A confirmation.
    let mut slot = new_on_probation();
    slot.handle(observed(NEW, seen(100, 0)), 60_000);
    slot.handle(failed(), 60_000);
    assert!(slot.record().probation.is_some());
    assert!(slot.handle(Happening::Tick, 60_001).is_empty());
    let again = slot.handle(Happening::Tick, 60_000 + DISK_RETRY_MS);
    assert!(matches!(again[..], [Action::Record(_)]), "{again:?}");

    // The way back.
    let mut slot = new_on_probation();
    slot.handle(observed(NEW, seen(20, 20)), 0);
    slot.handle(Happening::Loaded { bundle: OLD }, 0);
    assert_eq!(slot.handle(failed(), 0), [Action::Unload]);
    assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Load(OLD)]);
}

#[test]
fn a_bundle_that_the_disk_does_not_give_is_tried_again_and_its_stand_in_is_not_taken_for_it() {
    let record = SlotRecord { previous: Some(OLD), ..record_of(NEW) };
    let unread = || SlotUpdate::unread(record.clone(), Some(OLD), "it does not answer", 0);
    let mut slot = unread();
    assert!(slot.handle(desired(1, NEW), 0).is_empty());
    assert!(slot.reason().is_some_and(|reason| reason.contains("does not answer")));
    assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);
    slot.handle(offered(NEW, 0), 0);
    let verified = slot.handle(Happening::Verified(candidate(NEW)), 0);
    assert_eq!(verified, [Action::Load(NEW)], "it stood its trial before");
    let loaded = slot.handle(Happening::Loaded { bundle: NEW }, 0);
    assert_eq!(loaded, [Action::Record(record.clone())]);
    assert_eq!(slot.handle(Happening::Recorded, 0), [Action::Switch(Some(NEW))]);
    slot.handle(Happening::Switched { bundle: Some(NEW) }, 0);
    assert_eq!(slot.phase(), SlotPhase::Settled);

    // Away to another bundle and back: the record's does not answer yet.
    let mut slot = unread();
    slot.handle(desired(1, NEXT), 0);
    let back = [Action::StopSeeking(NEXT), Action::Seek(NEW)];
    assert_eq!(slot.handle(desired(2, NEW), 0), back);

    // If it turns out to be bad, the record follows what answers.
    slot.handle(offered(NEW, 0), 0);
    slot.handle(Happening::Unfit { bundle: NEW, reason: "bad".into() }, 0);
    assert_eq!((slot.record().current, slot.phase()), (Some(OLD), SlotPhase::Refused));
    assert_eq!(slot.handle(desired(3, NEW), 0), [Action::Seek(NEW)]);
}

#[test]
fn an_empty_slot_is_wanted_and_had() {
    let mut slot = running_old();
    let wanted = Happening::Desired { generation: 1, bundle: None, shadow_samples: 0 };
    let record = SlotRecord { current: None, previous: Some(OLD), ..record_of(OLD) };
    assert_eq!(slot.handle(wanted, 0), [Action::Record(record)]);
    assert_eq!(slot.handle(Happening::Recorded, 0), [Action::Switch(None)]);
    assert_eq!(slot.handle(Happening::Switched { bundle: None }, 0), [Action::Tidy]);
    assert_eq!(slot.phase(), SlotPhase::Settled);
}

#[test]
fn the_highest_confirmed_version_stays_and_the_names_are_bounded() {
    let mut record = record_of(NEW);
    record.confirm(&candidate(OLD));
    assert_eq!(record.confirmed_version("example"), Some(&candidate(NEW).version));
    for number in 0..=CONFIRMED_NAMES_MAX {
        record.confirm(&Candidate { name: format!("other-{number}"), ..candidate(OLD) });
    }
    assert_eq!(record.confirmed.len(), CONFIRMED_NAMES_MAX);
    assert_eq!(record.confirmed_version("example"), None);
}
