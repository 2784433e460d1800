//! Random fleets, faults and policies, driven to an end.

use proptest::prelude::*;
use selvedge_wire::DeviceId;

use super::*;
use crate::rollout::{
    AbortRule, Decision, Increase, Member, MemberState, Order, Outcome, Rate, RolloutState, Skip,
    WaveSize, replay::Faults,
};

/// A day of plans, each five minutes.
const STEPS: u64 = 2000;

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
    let offline = prop::collection::vec([hours(48), hours(2000)], 0..3);
    let joins = prop_oneof![4 => Just(0), 1 => hours(24)];
    let leaves = prop_oneof![9 => Just(None), 1 => hours(48).prop_map(Some)];
    (behaviour(), offline, joins, leaves).prop_map(|(after, offline_ms, joins, leaves)| {
        ReplayDevice {
            bundle: Some(OLD),
            after,
            offline_ms,
            joins_after_ms: joins,
            leaves_after_ms: leaves,
            ..Default::default()
        }
    })
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
    let size = prop_oneof![
        Just(None),
        (1..10u32).prop_map(|count| Some(WaveSize::Count(count))),
        Just(Some(WaveSize::Cohort(Default::default()))),
    ];
    let judging = (any::<bool>(), 0.0..100.0f64, 1..4u32);
    (rate, size, judging, 0.0..50.0f64, any::<bool>(), 1..120u32).prop_map(
        |(rate, size, (gates, success, attempts), control, windows, minutes)| {
            let mut policy = draft();
            policy.rate = rate;
            policy.waves[0].size = size.unwrap_or(policy.waves[0].size.clone());
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

fn orders() -> impl Strategy<Value = Vec<(u64, Order)>> {
    let order = prop_oneof![
        Just(Order::Pause),
        Just(Order::Resume),
        Just(Order::RetryFailed),
        Just(Order::GoOn(0)),
        Just(Order::Abort("the test says so".into())),
    ];
    let timed = (0..STEPS, order).prop_map(|(step, order)| (step * 300_000, order));
    prop::collection::vec(timed, 0..3).prop_map(|mut orders| {
        orders.sort_by_key(|(at_ms, _)| *at_ms);
        orders
    })
}

/// What must hold of every plan.
fn check(rollout: &Rollout, plan: &Plan, told_before: &mut Vec<(u64, u64)>) {
    assert!(plan.is_over() || !plan.waits.is_empty(), "it waits for nothing: {plan:?}");
    let targets = crate::rollout::waves::targets(plan);
    let limit = rollout
        .policy
        .waves
        .iter()
        .enumerate()
        .take_while(|(wave, _)| plan.waves[*wave].started_ms.is_some());
    if let Some((wave, WaveSize::Percent(percent))) = limit.map(|(at, it)| (at, &it.size)).last()
        && plan.waves.get(rollout.policy.waves.len()).is_none_or(|it| it.started_ms.is_none())
        && matches!(rollout.policy.waves[0].size, WaveSize::Percent(_))
        && plan.waves[wave].started_ms == Some(plan.at_ms)
    {
        let most = crate::rollout::waves::share_of(*percent, targets);
        let released = plan.count(|member| member.released) as usize;
        assert!(released <= most.max(earlier(plan, wave)), "{released} of {targets}: {percent} %");
    }
    told_before.push((plan.at_ms, plan.told));
    let minute = told_before.iter().rev().find(|(at_ms, _)| at_ms + 60_000 <= plan.at_ms);
    let told = plan.told - minute.map_or(0, |(_, told)| *told);
    let rate =
        rollout.policy.rate.per_minute(plan.told, u64::from(plan.count(Member::is_confirmed)));
    assert!(told <= u64::from(rate), "{told} were told within a minute, and the rate is {rate}");
    let mut devices: Vec<&DeviceId> = plan.assignments.iter().map(|it| &it.device).collect();
    devices.dedup();
    assert_eq!(devices.len(), plan.assignments.len(), "one assignment for each device");
}

/// Those that waves before had already.
fn earlier(plan: &Plan, wave: usize) -> usize {
    plan.waves[..wave].iter().map(|wave| wave.devices as usize).sum()
}

/// Whether what it waits for at the end of the course is somebody.
fn waits_for_somebody(plan: &Plan) -> bool {
    use crate::rollout::Wait;
    let somebody =
        |wait: &Wait| matches!(wait, Wait::Resume | Wait::Approval { .. } | Wait::Decision { .. });
    plan.waits.iter().any(somebody)
}

proptest! {
    // As many cases as PROPTEST_CASES says, or proptest's own default of 256.
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_gets_stuck_and_who_was_changed_comes_back(
        fleet in fleets(),
        policy in policies(),
        orders in orders(),
    ) {
        let rollout = rollout(policy);
        let course = Course { start_ms: NOW_MS, step_ms: 300_000, steps_max: STEPS, orders };
        let mut told = Vec::new();
        let mut inventory = None;
        let plan = run(&rollout, &fleet, &course, |plan, world| {
            check(&rollout, plan, &mut told);
            inventory = Some(world.inventory().clone());
        });
        let (plan, inventory) = (plan.expect("it has steps"), inventory.expect("it has steps"));
        prop_assert!(plan.is_over() || waits_for_somebody(&plan), "{:?} {:?}", plan.state, plan.waits);
        if let RolloutState::Stopped { .. } | RolloutState::Aborted { .. } = plan.state {
            for (id, member) in &plan.members {
                let Some(device) = inventory.devices.get(id) else { continue };
                let overruled = matches!(member.state, MemberState::Skipped { skip: Skip::Overruled });
                let desired = device.slot(&rollout.policy.slot).desired;
                prop_assert!(overruled || desired == Some(OLD), "{id} should run {desired:?}: {member:?}");
            }
        }
        let stops = |it: &Decision| it.outcome == Outcome::Stop;
        prop_assert!(plan.state != RolloutState::Done || !plan.decisions.iter().any(stops));
    }

    #[test]
    fn of_two_rollouts_no_device_is_in_both(count in 1..12usize, hours in 1..4u64, aborts in any::<bool>()) {
        let first = rollout(draft());
        let second = Rollout { id: "second".parse().expect("a name"), ..first.clone() };
        let mut world = None;
        let course = Course { steps_max: 1, ..Course::from(NOW_MS) };
        run(&first, &fleet(count, Behaviour::default()), &course, |_, it| {
            world = Some(it.inventory().clone());
        });
        let inventory = world.expect("one step");
        let mut pair = vec![(first, None), (second, None)];
        for hour in 0..hours {
            if aborts && hour == 1 {
                pair[0].0.orders.aborted = Some("over".into());
            }
            let now_ms = NOW_MS + hour * 3_600_000;
            let plans = crate::rollout::plan_rollouts(&pair, &inventory, &BTreeMap::new(), now_ms);
            let claimed: Vec<_> = plans.iter().flat_map(Plan::claimed).collect();
            let distinct: std::collections::BTreeSet<_> = claimed.iter().collect();
            prop_assert_eq!(claimed.len(), distinct.len());
            for (entry, plan) in pair.iter_mut().zip(plans) {
                entry.1 = Some(plan);
            }
        }
    }
}
