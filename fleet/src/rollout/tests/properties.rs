//! Random fleets, faults and policies, driven to an end.

use std::{collections::BTreeSet, ops::Range};

use proptest::prelude::*;
use selvedge_wire::DeviceId;

use super::*;
use crate::rollout::{
    AbortRule, Decision, Increase, Inventory, Member, MemberState, Order, Outcome, Rate,
    RolloutState, Skip, WaveSize,
    replay::{Faults, World},
};

/// Nineteen days of plans, each five minutes after the one before: longer than all timeouts of a policy one after another,
/// with a night's wait before each attempt.
const STEPS: u64 = 5500;

/// Within so many of them operators order something.
const STEPS_WITH_ORDERS: u64 = 500;

/// Two days and more of plans, each half an hour after the one before.
const SHORT_STEPS: u64 = 120;

/// What a second rollout gives.
const OTHER: Digest = Digest([3; 32]);

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let share = prop_oneof![3 => Just(0.0), 1 => 0.0..1.0];
    let refuses = prop_oneof![4 => Just(None), 1 => Just(Some("no".to_owned()))];
    let falls = prop_oneof![6 => Just(None), 1 => (1..60u64).prop_map(Some)];
    (share, 1..90u64, refuses, falls, 0..20u64).prop_map(
        |(share, takes, refuses, falls, trials)| Behaviour {
            trials_per_minute: trials,
            takes_minutes: takes,
            refuses,
            falls_back_after_minutes: falls,
            ..bad(Measure::Errors, share)
        },
    )
}

fn device() -> impl Strategy<Value = ReplayDevice> {
    let hours = |max: u64| (0..max).prop_map(|hours| hours * 3_600_000);
    // Who comes back at all, comes back in time for all that follows.
    let back = prop_oneof![3 => hours(150), 1 => Just(u64::MAX)];
    let offline = prop::collection::vec((hours(48), back).prop_map(<[u64; 2]>::from), 0..3);
    let joins = prop_oneof![4 => Just(0), 1 => hours(24)];
    let leaves = prop_oneof![9 => Just(None), 1 => hours(48).prop_map(Some)];
    let line = prop_oneof![Just("a"), Just("b")];
    (behaviour(), offline, joins, leaves, line).prop_map(
        |(after, offline_ms, joins, leaves, line)| ReplayDevice {
            labels: [("line".to_owned(), line.to_owned())].into(),
            bundle: Some(OLD),
            after,
            offline_ms,
            joins_after_ms: joins,
            leaves_after_ms: leaves,
            ..Default::default()
        },
    )
}

fn fleets() -> impl Strategy<Value = ReplayFleet> {
    let faults = (0.0..0.5, 0.0..0.5, 0.0..0.05).prop_map(|(lost, repeated, renewed)| Faults {
        lost,
        repeated,
        renewed,
    });
    (prop::collection::vec(device(), 1..30), any::<u64>(), faults).prop_map(
        |(devices, seed, faults)| {
            let mut all = fleet(0, Behaviour::default());
            let named = devices.into_iter().enumerate();
            all.devices = named.map(|(at, it)| (name(&format!("d-{at:02}")), it)).collect();
            ReplayFleet { seed, faults, ..all }
        },
    )
}

fn policies() -> impl Strategy<Value = PolicyDraft> {
    let rate = prop_oneof![
        (1..20u32).prop_map(|per_minute| Rate::Constant { per_minute }),
        (1..5u32, 1..10u32).prop_map(|(base_per_minute, every)| Rate::Exponential {
            base_per_minute,
            factor: 1.5,
            increase: Increase::EverySucceeded(every),
        }),
    ];
    let line = |line: &str| CohortQuery {
        labels: vec![("line".to_owned(), line.to_owned())],
        ..CohortQuery::default()
    };
    // What is none stays a share.
    let size = prop_oneof![
        3 => Just(None),
        2 => (1..10u32).prop_map(|count| Some(WaveSize::Count(count))),
        1 => Just(Some(WaveSize::Cohort(line("a")))),
        1 => Just(Some(WaveSize::Cohort(line("b")))),
        1 => Just(Some(WaveSize::Cohort(CohortQuery::default()))),
    ];
    let sizes = [size.clone(), size.clone(), size];
    let judging = (any::<bool>(), 0.0..100.0f64, 1..3u32);
    (rate, sizes, judging, 0.0..50.0f64, any::<bool>(), 1..120u32).prop_map(
        |(rate, sizes, (gates, success, attempts), control, windows, minutes)| {
            let mut policy = draft();
            policy.rate = rate;
            for (wave, size) in policy.waves.iter_mut().zip(sizes) {
                wave.size = size.unwrap_or(wave.size.clone());
            }
            policy.waves[2].success_percent = success;
            policy.control.percent = control;
            policy.retry.attempts_max = attempts;
            policy.timeouts.in_progress_minutes = minutes;
            policy.timeouts.offline_minutes = 600;
            policy.timeouts.return_minutes = 600;
            policy.timeouts.evidence_minutes = 600;
            policy.abort =
                vec![AbortRule { failure: None, percent: success + 0.1, devices_min: 3 }];
            policy.abort.retain(|rule| rule.percent <= 100.0);
            if !gates {
                policy.gates.clear();
            }
            if windows {
                let night = |time: &str| time.parse().expect("a time");
                policy.maintenance.windows = vec![crate::rollout::Window {
                    days: Vec::new(),
                    from: night("01:00"),
                    to: night("05:00"),
                }];
            }
            policy
        },
    )
}

/// Something that happens to a device for a while.
#[derive(Clone, Debug)]
struct Change {
    steps: Range<u64>,
    device: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Held,
    Decommissioned,
    Deleted,
    Relabelled,
}

impl Change {
    fn apply(&self, inventory: &mut Inventory) {
        let id: DeviceId = name(&format!("d-{:02}", self.device));
        if matches!(self.what, What::Deleted) {
            inventory.devices.remove(&id);
        }
        let Some(device) = inventory.devices.get_mut(&id) else { return };
        match self.what {
            What::Held => device.held = Some("the test says so".into()),
            What::Decommissioned => device.decommissioned = true,
            What::Relabelled => device.labels.clear(),
            What::Deleted => {}
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let what = prop_oneof![
        Just(What::Held),
        Just(What::Decommissioned),
        Just(What::Deleted),
        Just(What::Relabelled),
    ];
    (0..SHORT_STEPS, 1..40u64, 0..30usize, what).prop_map(|(from, steps, device, what)| Change {
        steps: from..from + steps,
        device,
        what,
    })
}

fn orders() -> impl Strategy<Value = Vec<(u64, Order)>> {
    let order = prop_oneof![
        Just(Order::Pause),
        Just(Order::Resume),
        Just(Order::RetryFailed),
        (0..3usize).prop_map(Order::GoOn),
        Just(Order::Abort("the test says so".into())),
    ];
    let timed = (0..STEPS_WITH_ORDERS, order).prop_map(|(step, order)| (step * 300_000, order));
    prop::collection::vec(timed, 0..3).prop_map(|mut orders| {
        orders.sort_by_key(|(at_ms, _)| *at_ms);
        orders
    })
}

/// What must hold of every plan, beside all before it.
#[derive(Default)]
struct Watch {
    before: Option<Plan>,
    told: Vec<(u64, u64)>,
}

impl Watch {
    fn look(&mut self, rollout: &Rollout, plan: &Plan, inventory: &Inventory) {
        assert!(plan.is_over() || !plan.waits.is_empty(), "it waits for nothing: {plan:?}");
        for (wave, rules) in rollout.policy.waves.iter().enumerate() {
            self.look_at_wave(plan, wave, &rules.size, inventory);
        }
        self.look_at_members(rollout, plan);
        self.look_at_rate(rollout, plan);
        let devices: BTreeSet<&DeviceId> = plan.assignments.iter().map(|it| &it.device).collect();
        assert_eq!(devices.len(), plan.assignments.len(), "one assignment for each device");
        self.before = Some(plan.clone());
    }

    /// A wave has no more devices than its size says at the moment at which it is given them.
    fn look_at_wave(&self, plan: &Plan, wave: usize, size: &WaveSize, inventory: &Inventory) {
        let of_wave = |it: &Member| it.released && it.wave == Some(wave);
        let devices = plan.count(of_wave);
        assert_eq!(devices, plan.waves[wave].devices);
        let released_before = |id: &DeviceId| {
            self.before
                .as_ref()
                .is_some_and(|plan| plan.members.get(id).is_some_and(|it| it.released))
        };
        let new: Vec<&DeviceId> = plan
            .members
            .iter()
            .filter(|(id, member)| of_wave(member) && !released_before(id))
            .map(|(id, _)| id)
            .collect();
        assert!(new.is_empty() || wave == 0 || plan.waves[wave - 1].passed_ms.is_some());
        match size {
            _ if new.is_empty() => {}
            WaveSize::Count(count) => assert!(devices <= *count, "{devices} of {count}"),
            WaveSize::Cohort(query) => {
                let labels = |id: &DeviceId| &inventory.devices[id].labels;
                assert!(new.iter().all(|id| query.takes(id, labels(id))));
            }
            WaveSize::Percent(percent) => {
                let targets = crate::rollout::waves::targets(plan);
                let most = crate::rollout::waves::share_of(*percent, targets);
                let released =
                    plan.count(|it| it.released && it.wave.is_some_and(|it| it <= wave)) as usize;
                assert!(released <= most, "{released} of {targets} in {percent} %");
            }
        }
    }

    /// Who was released stays in its wave and group, nobody else is told, and who compares is let alone.
    fn look_at_members(&self, rollout: &Rollout, plan: &Plan) {
        let of_control = plan.waves.get(rollout.policy.waves.len());
        let joins = of_control.is_some_and(|wave| wave.started_ms.is_some());
        for (id, member) in &plan.members {
            assert!(member.released || member.attempts == 0, "{id} was told: {member:?}");
            let Some(before) = self.before.as_ref().and_then(|plan| plan.members.get(id)) else {
                continue;
            };
            let place = |it: &Member| (it.wave, it.group);
            assert!(!before.released || place(before) == place(member), "{id}: {member:?}");
            let left = matches!(member.state, MemberState::Skipped { .. });
            assert!(
                !before.is_control() || joins || left || member.is_control(),
                "{id}: {member:?}"
            );
        }
    }

    fn look_at_rate(&mut self, rollout: &Rollout, plan: &Plan) {
        self.told.push((plan.at_ms, plan.told));
        let minute = self.told.iter().rev().find(|(at_ms, _)| at_ms + 60_000 <= plan.at_ms);
        let before = minute.map_or(0, |(_, told)| *told);
        let told = plan.told - before;
        // Plans are more than a minute apart: whoever was told within one, was told by this one.
        let succeeded = u64::from(plan.count(Member::is_confirmed));
        let rate = rollout.policy.rate.per_minute(before, succeeded);
        assert!(
            told <= u64::from(rate),
            "{told} were told within a minute, and the rate is {rate}"
        );
    }
}

/// Whether what it waits for at the end of the course is somebody.
fn waits_for_somebody(plan: &Plan) -> bool {
    use crate::rollout::Wait;
    let somebody =
        |wait: &Wait| matches!(wait, Wait::Resume | Wait::Approval { .. } | Wait::Decision { .. });
    plan.waits.iter().any(somebody)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_gets_stuck_and_who_was_changed_comes_back(
        fleet in fleets(),
        policy in policies(),
        orders in orders(),
    ) {
        let rollout = rollout(policy);
        let course = Course { start_ms: NOW_MS, step_ms: 300_000, steps_max: STEPS, orders };
        let mut watch = Watch::default();
        let mut inventory = None;
        let plan = run(&rollout, &fleet, &course, |plan, world| {
            watch.look(&rollout, plan, world.inventory());
            inventory = Some(world.inventory().clone());
        });
        let (plan, inventory) = (plan.expect("it has steps"), inventory.expect("it has steps"));
        prop_assert!(plan.is_over() || waits_for_somebody(&plan), "{plan:?}");
        let stopped = matches!(plan.state, RolloutState::Stopped { .. } | RolloutState::Aborted { .. });
        for (id, member) in plan.members.iter().filter(|_| plan.is_over()) {
            let Some(device) = inventory.devices.get(id) else { continue };
            let desired = device.slot(&rollout.policy.slot).desired;
            let settled = match member.state {
                MemberState::Skipped { skip: Skip::Overruled } => true,
                MemberState::Confirmed { .. } => !stopped && desired == Some(NEW),
                MemberState::Assigned { .. } | MemberState::Returning { .. } => false,
                MemberState::Waiting { .. } => desired == Some(OLD) && (stopped || !member.released),
                _ => desired == Some(OLD),
            };
            prop_assert!(settled, "{id} should run {desired:?}: {member:?} {:?}", plan.state);
        }
        let stops = |it: &Decision| it.outcome == Outcome::Stop;
        prop_assert!(plan.state != RolloutState::Done || !plan.decisions.iter().any(stops));
    }

    #[test]
    fn of_two_rollouts_no_device_is_in_both_whatever_happens_to_it(
        fleet in fleets(),
        [first, second] in [policies(), policies()],
        changes in prop::collection::vec(change(), 0..20),
        aborts in prop::option::of(0..SHORT_STEPS),
    ) {
        let second = PolicyDraft { bundle: OTHER, ..second };
        let id: RolloutId = "second".parse().expect("a name");
        let mut pair = vec![(rollout(first), None), (Rollout { id, ..rollout(second) }, None)];
        let mut world = World::new(&fleet, NEW, NOW_MS);
        for step in 0..SHORT_STEPS {
            let now_ms = NOW_MS + step * 1_800_000;
            if aborts == Some(step) {
                pair[0].0.orders.aborted = Some("the test says so".into());
            }
            world.move_to(now_ms);
            let mut inventory = world.inventory().clone();
            let now = changes.iter().filter(|change| change.steps.contains(&step));
            now.for_each(|change| change.apply(&mut inventory));
            let plans = crate::rollout::plan_rollouts(&pair, &inventory, &BTreeMap::new(), now_ms);
            let claimed: Vec<_> = plans.iter().flat_map(Plan::claimed).collect();
            let distinct: BTreeSet<_> = claimed.iter().collect();
            prop_assert_eq!(claimed.len(), distinct.len());
            let told: Vec<_> = plans.iter().flat_map(|plan| &plan.assignments).collect();
            let distinct: BTreeSet<_> = told.iter().map(|it| &it.device).collect();
            prop_assert_eq!(told.len(), distinct.len());
            for (entry, plan) in pair.iter_mut().zip(plans) {
                world.execute(&plan);
                entry.1 = Some(plan);
            }
        }
    }
}
