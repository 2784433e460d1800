//! Whole rollouts on invented fleets.

use super::*;
use crate::rollout::{
    Assignment, BundleFacts, Exclusion, Finding, Hold, Inventory, Member, Order, Orders, Outcome,
    RolloutState, Skip, StopCause, Wait,
    replay::{World, WorldChange, simulate},
    why,
};

fn stop_wave(plan: &Plan) -> Option<(usize, Measure)> {
    match &plan.state {
        RolloutState::Stopped { cause: StopCause::Gate(decision) } => {
            Some((decision.wave, decision.measure))
        }
        _ => None,
    }
}

#[test]
fn a_good_version_reaches_every_device_by_itself() {
    let plan = last(draft(), &fleet(50, Behaviour::default()));
    assert_eq!(plan.state, RolloutState::Done, "{:?}", plan.waits);
    assert_eq!(plan.count(Member::is_confirmed), 50);
}

#[test]
fn what_is_worse_in_any_measure_is_stopped_in_the_canary_wave_and_comes_back() {
    for (measure, share) in [
        (Measure::Latency, 0.5),
        (Measure::Errors, 0.3),
        (Measure::Crashes, 0.3),
        (Measure::Memory, 0.6),
    ] {
        let plan = last(draft(), &fleet(50, bad(measure, share)));
        assert_eq!(stop_wave(&plan), Some((0, measure)), "{:?} {:?}", plan.state, plan.waits);
        assert_eq!(plan.count(Member::is_confirmed), 0);
        assert!(plan.told <= 4, "10 % of 40 are told, not {}", plan.told);
    }
}

#[test]
fn a_version_that_devices_refuse_is_stopped_in_the_canary_wave() {
    let refuses =
        Behaviour { refuses: Some("it crashed in its trial".into()), ..Default::default() };
    let plan = last(draft(), &fleet(50, refuses));
    let cause = StopCause::TooFewSucceeded { wave: 0, succeeded: 0, told: 4 };
    assert_eq!(plan.state, RolloutState::Stopped { cause });
}

#[test]
fn one_bad_device_stops_nothing_and_is_named() {
    let mut refusing = fleet(50, Behaviour::default());
    let rollout = rollout(draft());
    let good = run(&rollout, &refusing, &Course::from(NOW_MS), |_, _| {}).expect("it has steps");
    let canary = good.members.iter().find(|(_, member)| member.wave == Some(0)).expect("one").0;
    let device = refusing.devices.get_mut(canary).expect("it is there");
    device.after.bad.insert(Measure::Errors, 1.0);
    let plan = run(&rollout, &refusing, &Course::from(NOW_MS), |_, _| {}).expect("it has steps");
    assert_eq!(plan.state, RolloutState::Done, "{:?}", plan.waits);
    device_refuses(&mut refusing, canary);
    let plan = run(&rollout, &refusing, &Course::from(NOW_MS), |_, _| {}).expect("it has steps");
    assert_eq!(plan.state, RolloutState::Done, "{:?}", plan.waits);
    let reason = why(&rollout, &Default::default(), &plan, canary).to_string();
    assert_eq!(reason, "returned: failed: no room on its disk");
}

fn device_refuses(fleet: &mut ReplayFleet, id: &selvedge_wire::DeviceId) {
    let device = fleet.devices.get_mut(id).expect("it is there");
    device.after.refuses = Some("no room on its disk".into());
}

#[test]
fn a_drift_of_the_whole_world_does_not_blame_the_model() {
    let mut policy = draft();
    policy.gates.insert(Measure::InputDrift, Default::default());
    let with_drift = bad(Measure::InputDrift, 0.0);
    let mut world = fleet(50, with_drift.clone());
    for device in world.devices.values_mut() {
        device.before = with_drift.clone();
    }
    for measure in [Measure::InputDrift, Measure::Errors] {
        world.world.push(WorldChange { after_ms: 60_000, measure, bad: 0.9 });
    }
    let mut found = false;
    let rollout = rollout(policy.clone());
    let plan = run(&rollout, &world, &Course::from(NOW_MS), |plan, _| {
        let changed = |it: &&crate::rollout::Decision| it.finding == Some(Finding::WorldChanged);
        found |= plan.decisions.iter().any(|it| changed(&it));
    });
    assert_eq!(plan.expect("it has steps").state, RolloutState::Done);
    assert!(found);
    // The same drift on devices with the new bundle alone is the bundle's.
    let mut only_new = fleet(50, bad(Measure::InputDrift, 0.9));
    for device in only_new.devices.values_mut() {
        device.before = with_drift.clone();
    }
    let plan = last(policy, &only_new);
    assert_eq!(stop_wave(&plan), Some((0, Measure::InputDrift)));
}

#[test]
fn answers_that_are_distributed_otherwise_stop_it() {
    let mut policy = draft();
    policy.gates = [(Measure::Outputs, Default::default())].into();
    let with = |classes: &[f64]| Behaviour { classes: classes.to_vec(), ..Default::default() };
    for (classes, stops) in [([0.7, 0.2, 0.1], false), ([0.1, 0.2, 0.7], true)] {
        let mut answers = fleet(50, with(&classes));
        answers.devices.values_mut().for_each(|it| it.before = with(&[0.7, 0.2, 0.1]));
        let plan = last(policy.clone(), &answers);
        assert_eq!(stop_wave(&plan).is_some(), stops, "{:?} {:?}", plan.state, plan.waits);
    }
}

#[test]
fn every_device_has_one_reason() {
    let mut mixed = fleet(12, Behaviour::default());
    let ids: Vec<_> = mixed.devices.keys().cloned().collect();
    for device in mixed.devices.values_mut() {
        device.labels.insert("line".into(), "a".into());
        device.capabilities.operators = Some(["Conv".to_owned()].into());
    }
    let device = |fleet: &mut ReplayFleet, at: usize, change: &dyn Fn(&mut ReplayDevice)| {
        change(fleet.devices.get_mut(&ids[at]).expect("it is there"));
    };
    device(&mut mixed, 0, &|it| it.held = Some("exhibition".into()));
    device(&mut mixed, 1, &|it| it.capabilities.operators = Some(["Gemm".to_owned()].into()));
    device(&mut mixed, 2, &|it| it.labels.clear());
    device(&mut mixed, 3, &|it| it.bundle = Some(NEW));
    let needs = BundleFacts { operators: ["Conv".to_owned()].into(), ..Default::default() };
    mixed.bundles.insert(NEW, needs);
    let mut policy = draft();
    policy.cohort.labels = vec![("line".into(), "a".into())];
    let rollout = rollout(policy);
    let mut inventory = None;
    let plan = run(&rollout, &mixed, &Course::from(NOW_MS), |_, world| {
        inventory = Some(world.inventory().clone());
    });
    let (plan, inventory) = (plan.expect("it has steps"), inventory.expect("it has steps"));
    let reason = |at: usize| why(&rollout, &inventory, &plan, &ids[at]).to_string();
    assert_eq!(reason(0), "not targeted: held: exhibition");
    assert_eq!(reason(1), "not targeted: incompatible: lacks the operator Conv");
    assert_eq!(reason(2), "not targeted: it has no label line=a");
    assert_eq!(reason(3), "not targeted: it should have the bundle already");
    assert!((4..12).all(|at| reason(at).starts_with("runs the bundle since")));
}

#[test]
fn windows_and_offline_devices_are_named_and_waited_for_as_long_as_said() {
    let mut policy = draft();
    policy.maintenance.windows = toml::from_str::<BTreeMap<String, Vec<_>>>(
        "windows = [{ from = \"22:00\", to = \"23:00\" }]",
    )
    .expect("a window")["windows"]
        .clone();
    let mut first = None;
    let course = Course { steps_max: 1, ..Course::from(NOW_MS) };
    run(&rollout(policy), &fleet(10, Behaviour::default()), &course, |plan, _| {
        first = Some(plan.clone());
    });
    let first = first.expect("one step");
    assert!(first.waits.iter().any(|it| matches!(it, Wait::Windows { count: 1, .. })), "{first:?}");
    let mut away = fleet(10, Behaviour::default());
    away.devices.values_mut().for_each(|it| it.offline_ms = vec![[0, u64::MAX]]);
    let mut policy = draft();
    policy.timeouts.offline_minutes = 30;
    policy.timeouts.evidence_minutes = 60;
    let plan = last(policy, &away);
    let waits = [Wait::Decision { wave: 0, gates: plan.waiting_gates(0) }];
    assert_eq!(plan.waits, waits, "an empty canary shows nothing");
    let offline = |it: &Member| {
        matches!(it.state, crate::rollout::MemberState::Skipped { skip: Skip::Offline { .. } })
    };
    assert_eq!(plan.count(offline), 1);
}

#[test]
fn approval_pause_and_abort_hold_and_end_it() {
    let mut policy = draft();
    policy.waves[1].approval = true;
    let minutes = |count: u64| count * 60_000;
    let course = Course {
        orders: vec![
            (minutes(1), Order::Pause),
            (minutes(60), Order::Resume),
            (minutes(400), Order::Abort("wrong day".into())),
        ],
        steps_max: 500,
        ..Course::from(NOW_MS)
    };
    let (mut paused, mut approval) = (0, 0);
    let plan = run(&rollout(policy), &fleet(50, Behaviour::default()), &course, |plan, _| {
        paused += u32::from(plan.waits.contains(&Wait::Resume));
        approval += u32::from(plan.waits.contains(&Wait::Approval { wave: 1 }));
    });
    let plan = plan.expect("it has steps");
    assert_eq!(paused, 59);
    assert!(approval > 100, "{approval}");
    let cause = StopCause::Aborted("wrong day".into());
    assert_eq!(plan.state, RolloutState::Aborted { cause });
    assert_eq!(plan.count(Member::is_confirmed), 0);
}

#[test]
fn only_failed_devices_are_told_again_and_only_as_often_as_said() {
    let mut policy = draft();
    policy.retry.attempts_max = 3;
    policy.abort.clear();
    policy.waves.iter_mut().for_each(|wave| wave.success_percent = 0.0);
    policy.gates.clear();
    let mut one = fleet(20, Behaviour::default());
    let id = one.devices.keys().nth(3).expect("there are 20").clone();
    device_refuses(&mut one, &id);
    let plan = last(policy, &one);
    assert_eq!(plan.state, RolloutState::Done);
    let attempts: Vec<u32> = plan.members.values().map(|member| member.attempts).collect();
    assert_eq!(attempts.iter().filter(|attempts| **attempts == 1).count(), 19);
    assert_eq!(plan.members[&id].attempts, 3);
}

#[test]
fn a_device_is_in_one_rollout_and_the_other_says_in_which() {
    let first = rollout(draft());
    let second = Rollout { id: "second".parse().expect("a name"), ..first.clone() };
    let mut inventory = None;
    let course = Course { steps_max: 1, ..Course::from(NOW_MS) };
    run(&first, &fleet(6, Behaviour::default()), &course, |_, world| {
        inventory = Some(world.inventory().clone());
    });
    let inventory = inventory.expect("one step");
    let pair = [(first, None), (second, None)];
    let plans = crate::rollout::plan_rollouts(&pair, &inventory, &BTreeMap::new(), NOW_MS);
    assert_eq!((plans[0].members.len(), plans[1].members.len()), (6, 0));
    let other: RolloutId = "test".parse().expect("a name");
    assert!(plans[1].excluded.values().all(|it| *it == Exclusion::InRollout(other.clone())));
}

#[test]
fn orders_given_twice_are_given_once_and_old_ones_are_refused() {
    let orders = Orders::default();
    let paused = orders.with(0, &Order::Pause).expect("it is up to date");
    assert_eq!(paused.with(0, &Order::Pause).expect("it holds already"), paused);
    assert!(paused.with(0, &Order::Approve(1)).is_err(), "somebody paused meanwhile");
    let aborted = paused.with(0, &Order::Abort("x".into())).expect("an abort is always taken");
    assert!(aborted.with(aborted.revision, &Order::Resume).is_err());
}

#[test]
fn a_plan_survives_being_stored_and_the_same_arguments_give_the_same_plan() {
    let rollout = rollout(draft());
    let mut plans: Vec<Plan> = Vec::new();
    let again = fleet(20, bad(Measure::Errors, 0.3));
    run(&rollout, &again, &Course::from(NOW_MS), |plan, _| plans.push(plan.clone()));
    for plan in &plans {
        let json = serde_json::to_string(plan).expect("a plan is JSON");
        assert_eq!(serde_json::from_str::<Plan>(&json).expect("it was written here"), *plan);
    }
    let mut same = plans.iter();
    run(&rollout, &again, &Course::from(NOW_MS), |plan, _| assert_eq!(Some(plan), same.next()));
}

#[test]
fn a_timeline_draws_the_same_text_each_time() {
    let rollout = rollout(draft());
    let draw = || simulate(&rollout, &fleet(50, bad(Measure::Latency, 0.5)), &Course::from(NOW_MS));
    let text = draw().to_string();
    assert_eq!(text, draw().to_string());
    println!("{text}");
    assert!(text.contains("canary: devices are under way"), "{text}");
    assert!(text.contains("stopped: the gate latency in wave 1"), "{text}");
}

#[test]
fn a_policy_that_breaks_a_rule_names_the_field_and_what_may_stand_there() {
    let valid = serde_json::to_value(rollout(draft()).policy).expect("a policy is JSON");
    for (pointer, value, named) in [
        ("/waves/1/size/percent", 10.0.into(), "`waves[1].size.percent`: shares add up"),
        ("/waves/0/success_percent", 101.0.into(), "`waves[0].success_percent`: from 0 to 100"),
        ("/rate/per_minute", 0.into(), "`rate.per_minute`: from 1 to 1000, not 0"),
        ("/judge/temper", 0.0.into(), "`judge.temper`: from 0.01 to 1, not 0"),
        ("/retry/attempts_max", 11.into(), "`retry.attempts_max`: from 1 to 10, not 11"),
        ("/control/after", "never".into(), "`control.after`: unknown variant"),
        ("/maintenance/zone", "Mars".into(), "`maintenance.zone`: \"Mars\" is no time zone"),
    ] {
        let mut policy = valid.clone();
        *policy.pointer_mut(pointer).expect("it is there") = value;
        let error = Policy::from_json(policy.to_string().as_bytes()).expect_err(pointer);
        assert!(error.to_string().contains(named), "{pointer}: {error}");
    }
    let misspelt = Policy::from_toml("bundel = 1").expect_err("no such field");
    assert!(misspelt.to_string().contains("bundel"), "{misspelt}");
}

#[test]
fn a_device_that_is_told_again_waits_for_its_pause() {
    let mut policy = draft();
    policy.retry.attempts_max = 2;
    let refuses = Behaviour { refuses: Some("no".into()), ..Default::default() };
    let mut paused = false;
    run(&rollout(policy), &fleet(10, refuses), &Course::from(NOW_MS), |plan, _| {
        let backoff = |it: &Member| {
            matches!(it.state, crate::rollout::MemberState::Waiting { hold: Hold::Backoff { .. } })
        };
        paused |= plan.count(backoff) > 0;
        assert!(plan.decisions.iter().all(|it| it.outcome != Outcome::Go));
    });
    assert!(paused);
}

#[test]
fn what_devices_did_before_they_failed_counts() {
    let mut policy = draft();
    policy.abort.clear();
    policy.waves[0].success_percent = 0.0;
    policy.waves[0].soak_minutes = 240;
    // Watchdogs bring the whole canary back before the control group is heard for the first time.
    let falls = Behaviour { falls_back_after_minutes: Some(60), ..bad(Measure::Errors, 0.3) };
    let mut late = fleet(50, falls);
    let rollout = rollout(policy);
    let course = Course { steps_max: 1, ..Course::from(NOW_MS) };
    let first = run(&rollout, &late, &course, |_, _| {}).expect("one step");
    let control = first.members.iter().filter(|(_, member)| member.is_control());
    for (id, _) in control {
        let device = late.devices.get_mut(id).expect("it is there");
        device.offline_ms = vec![[0, 3 * 3_600_000]];
    }
    let plan = run(&rollout, &late, &Course::from(NOW_MS), |_, _| {}).expect("it has steps");
    assert_eq!(stop_wave(&plan), Some((0, Measure::Errors)), "{:?}", plan.state);
    assert_eq!(plan.count(Member::is_failed), 4);
}

#[test]
fn a_device_that_is_told_again_late_is_waited_for_and_not_told_twice_by_one_order() {
    let mut policy = draft();
    policy.abort.clear();
    policy.gates.clear();
    policy.waves.iter_mut().for_each(|wave| wave.success_percent = 0.0);
    let mut one = fleet(20, Behaviour::default());
    let id = one.devices.keys().nth(3).expect("there are 20").clone();
    device_refuses(&mut one, &id);
    let done = run(&rollout(policy.clone()), &one, &Course::from(NOW_MS), |_, _| {});
    let done_ms = done.expect("it has steps").at_ms - NOW_MS;
    // Whenever the order comes, the rollout is not done while the device is on its way.
    for at_ms in (0..=done_ms).step_by(60_000) {
        let orders = vec![(at_ms, Order::RetryFailed)];
        let course = Course { orders, ..Course::from(NOW_MS) };
        let plan = run(&rollout(policy.clone()), &one, &course, |_, _| {}).expect("it has steps");
        assert_eq!(plan.state, RolloutState::Done);
        let member = &plan.members[&id];
        assert!(member.is_failed() && member.attempts <= 2, "at {at_ms}: {member:?}");
    }
}

#[test]
fn a_device_goes_back_to_what_it_had_when_it_was_told() {
    let mut policy = draft();
    policy.control.percent = 0.0;
    let rollout = rollout(policy);
    let middle = Digest([3; 32]);
    let mut world = World::new(&fleet(10, Behaviour::default()), NEW, NOW_MS);
    let mut rollout_then = rollout.clone();
    let mut plan = None;
    for minute in 0..400 {
        let now_ms = NOW_MS + minute * 60_000;
        world.move_to(now_ms);
        let none = Default::default();
        let next = crate::rollout::plan_rollout(
            &rollout_then,
            world.inventory(),
            world.evidence(),
            &none,
            plan.as_ref(),
            now_ms,
        );
        world.execute(&next);
        world.count(&next.evidence_wanted(&rollout.policy), 60_000);
        if minute == 0 {
            // Whoever waits for a wave is given another bundle meanwhile.
            let waiting = next.members.iter().filter(|(_, member)| !member.released);
            waiting.for_each(|(id, _)| {
                world.assign(&Assignment {
                    device: id.clone(),
                    slot: rollout.policy.slot.clone(),
                    bundle: Some(middle),
                    expects: 1,
                    shadow_samples: 0,
                    allow_downgrade: false,
                })
            });
        }
        if next.count(Member::is_confirmed) == 5 {
            rollout_then.orders.aborted = Some("the test says so".into());
        }
        plan = Some(next);
    }
    let plan = plan.expect("it has steps");
    assert!(
        matches!(plan.state, RolloutState::Aborted { .. }),
        "{:?} {:?}",
        plan.state,
        plan.waits
    );
    let running = |id: &selvedge_wire::DeviceId| {
        world.inventory().devices[id].slot(&rollout.policy.slot).running
    };
    let old = plan.members.keys().filter(|id| running(id) == Some(OLD)).count();
    let middle = plan.members.keys().filter(|id| running(id) == Some(middle)).count();
    assert_eq!([old, middle], [1, 9]);
}

/// Ten hours, with an inventory that is not quite what it is.
fn ten_hours(
    rollout: &Rollout,
    fleet: &ReplayFleet,
    change: impl Fn(u64, Option<&Plan>, &mut Inventory),
) -> Plan {
    let mut world = World::new(fleet, NEW, NOW_MS);
    let mut plan: Option<Plan> = None;
    for minute in 0..600 {
        let now_ms = NOW_MS + minute * 60_000;
        world.move_to(now_ms);
        if let Some(plan) = &plan {
            world.count(&plan.evidence_wanted(&rollout.policy), 60_000);
        }
        let mut inventory = world.inventory().clone();
        change(minute, plan.as_ref(), &mut inventory);
        let (none, parent) = (Default::default(), plan.as_ref());
        let evidence = world.evidence();
        let next =
            crate::rollout::plan_rollout(rollout, &inventory, evidence, &none, parent, now_ms);
        world.execute(&next);
        plan = Some(next);
    }
    plan.expect("it has steps")
}

#[test]
fn waves_whose_devices_are_all_held_meanwhile_ask_nobody() {
    let fleet = fleet(20, Behaviour::default());
    let plan = ten_hours(&rollout(draft()), &fleet, |_, plan, inventory| {
        for (id, device) in &mut inventory.devices {
            let waits = plan.is_some_and(|plan| !plan.members[id].released);
            device.held = waits.then(|| "exhibition".into());
        }
    });
    assert_eq!(plan.state, RolloutState::Done, "{:?}", plan.waits);
    // The canary, and at last the control group.
    assert_eq!(plan.count(Member::is_confirmed), 2 + 4);
}

#[test]
fn a_restart_after_which_nothing_answers_for_a_while_is_no_failure() {
    let fleet = fleet(20, Behaviour::default());
    let rollout = rollout(draft());
    let plan = ten_hours(&rollout, &fleet, |minute, _, inventory| {
        for device in inventory.devices.values_mut().filter(|_| minute % 20 == 0) {
            let slot = device.slots.get_mut(&rollout.policy.slot).expect("every device has it");
            slot.running = None;
        }
    });
    assert_eq!(plan.state, RolloutState::Done, "{:?}", plan.waits);
    assert!(plan.members.values().all(|member| member.failure.is_none()));
}

#[test]
fn where_the_bundle_before_was_revoked_devices_go_where_the_policy_says_or_are_named() {
    let refuses = Behaviour { refuses: Some("no".into()), ..Default::default() };
    let mut revoked = fleet(50, refuses);
    let facts = BundleFacts { title: "line 1.0.0".into(), revoked: true, ..Default::default() };
    revoked.bundles.insert(OLD, facts);
    let third = Digest([3; 32]);
    let mut policy = draft();
    policy.return_to = Some(third);
    let plan = last(policy, &revoked);
    assert!(matches!(plan.state, RolloutState::Stopped { .. }), "{:?}", plan.state);
    assert_eq!(plan.count(|it| it.attempts > 0 && it.good == Some(third)), 4);
    let plan = last(draft(), &revoked);
    let stranded = |it: &Member| {
        matches!(it.state, crate::rollout::MemberState::Skipped { skip: Skip::Stranded(_) })
    };
    assert_eq!(plan.count(stranded), 4);
}

#[test]
fn who_comes_while_it_goes_on_joins_and_who_comes_later_is_too_late() {
    let mut joining = fleet(20, Behaviour::default());
    let ids: Vec<_> = joining.devices.keys().cloned().collect();
    for (id, minutes) in [(&ids[0], 5), (&ids[1], 24 * 60)] {
        let device = joining.devices.get_mut(id).expect("it is there");
        device.joins_after_ms = minutes * 60_000;
    }
    let mut policy = draft();
    policy.waves[2].soak_minutes = 2 * 24 * 60;
    let plan = last(policy, &joining);
    assert_eq!(plan.state, RolloutState::Done);
    assert!(plan.members[&ids[0]].is_confirmed());
    assert_eq!(plan.excluded[&ids[1]], Exclusion::TooLate);
}
