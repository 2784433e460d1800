//! The planner beside small models of what AWS IoT Jobs and hawkBit document. Where it differs on purpose, the
//! difference is the claim; `docs/rollouts.md` lists them.

use proptest::prelude::*;

use super::*;
use crate::rollout::{AbortRule, Increase, Member, Rate, RolloutState, StopCause};

/// What AWS documents of an exponential rate: it begins at the base, and is multiplied each time so many more devices
/// were notified, or succeeded `minutes_later`.
struct AwsRate {
    base: u32,
    factor: f64,
    every: u64,
    minutes_later: usize,
}

impl AwsRate {
    /// How many devices are notified, minute by minute.
    fn minutes(&self, devices: u64) -> Vec<u64> {
        let mut minutes: Vec<u64> = Vec::new();
        while minutes.iter().sum::<u64>() < devices {
            let counted = (minutes.len() + 1).saturating_sub(self.minutes_later);
            let counted: u64 = minutes.iter().take(counted).sum();
            let mut rate = f64::from(self.base);
            for _ in 0..counted / self.every {
                rate *= self.factor;
            }
            let left = devices - minutes.iter().sum::<u64>();
            minutes.push((rate as u64).min(1000).min(left));
        }
        minutes
    }
}

/// AWS cancels where at least so many executions ended, and at least that share of them failed.
fn aws_aborts(failed: u32, executed: u32, percent: f64, executed_min: u32) -> bool {
    executed >= executed_min && f64::from(failed) * 100.0 / f64::from(executed) >= percent
}

/// What hawkBit does with a group, of which it knows the actions that are still there.
#[derive(Debug, PartialEq, Eq)]
enum HawkBit {
    Pauses,
    StartsNext,
}

fn hawkbit(failed: u32, finished: u32, group: u32, error_percent: u32) -> HawkBit {
    // The error condition is strict and comes first; a group that is merely complete starts the next one.
    let errors = group > 0 && failed * 100 > error_percent * group;
    let complete = failed + finished == group;
    if errors || !complete { HawkBit::Pauses } else { HawkBit::StartsNext }
}

/// One wave of all, without gates and control group.
fn bare() -> PolicyDraft {
    let mut policy = draft();
    policy.waves.drain(..2);
    policy.gates.clear();
    policy.abort.clear();
    policy.control.percent = 0.0;
    policy
}

fn with_failing(count: usize, failing: usize) -> ReplayFleet {
    let mut all = fleet(count, Behaviour::default());
    for device in all.devices.values_mut().take(failing) {
        device.after.refuses = Some("no".into());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn an_exponential_rate_is_that_of_aws_in_every_minute(
        base in 1..10u32,
        factor in prop_oneof![Just(1.5), Just(2.0), Just(3.0)],
        every in 1..20u32,
        succeeded in any::<bool>(),
        seconds in prop_oneof![Just(60u64), Just(10), Just(7)],
    ) {
        let mut policy = bare();
        let (increase, minutes_later) = if succeeded {
            // Seen a minute after it was told, and answering two minutes later.
            (Increase::EverySucceeded(every), 3)
        } else {
            (Increase::EveryNotified(every), 1)
        };
        policy.rate = Rate::Exponential { base_per_minute: base, factor, increase };
        let course = Course { step_ms: seconds * 1000, ..Course::from(NOW_MS) };
        let mut told = Vec::new();
        let devices = fleet(60, Behaviour::default());
        run(&rollout(policy), &devices, &course, |plan, _| {
            told.push((plan.at_ms - NOW_MS, plan.told));
        });
        let aws = AwsRate { base, factor, every: u64::from(every), minutes_later }.minutes(60);
        let until = |minute: usize| aws.iter().take(minute).sum::<u64>();
        if seconds == 60 {
            for (minute, (_, told)) in told.iter().enumerate() {
                prop_assert_eq!(*told, until(minute + 1), "minute {}", minute);
            }
        } else if !succeeded {
            // Between its minutes AWS says nothing: never ahead of them here.
            for (at_ms, told) in &told {
                prop_assert!(*told <= until((at_ms / 60_000) as usize + 1), "{}", at_ms);
            }
        }
        prop_assert_eq!(told.last().map(|(_, told)| *told), Some(60));
    }

    #[test]
    fn a_rule_to_abort_is_that_of_aws_but_one_bad_device_stops_nothing_and_devices_come_back(
        count in 1..12usize,
        share in 0.0..1.0f64,
        percent in 1.0..100.0f64,
        devices_min in 1..8u32,
    ) {
        let failing = (share * count as f64) as usize;
        let mut policy = bare();
        policy.abort = vec![AbortRule { failure: None, percent, devices_min }];
        policy.waves[0].success_percent = 0.0;
        let plan = last(policy, &with_failing(count, failing));
        let aws = aws_aborts(failing as u32, count as u32, percent, devices_min);
        let stopped = matches!(
            plan.state,
            RolloutState::Stopped { cause: StopCause::Failures { .. } }
        );
        prop_assert_eq!(stopped, aws && failing >= 2, "{:?}", plan.state);
        let confirmed = plan.count(Member::is_confirmed) as usize;
        prop_assert_eq!(confirmed, if stopped { 0 } else { count - failing });
    }

    #[test]
    fn a_group_that_hawkbit_lets_pass_is_stopped_here_where_too_few_succeeded(
        count in 2..12usize,
        share in 0.0..1.0f64,
        error_percent in 50..100u32,
    ) {
        let failing = (share * count as f64) as usize;
        let (failed, group) = (failing as u32, count as u32);
        let hawkbit = hawkbit(failed, group - failed, group, error_percent);
        let plan = last(bare(), &with_failing(count, failing));
        let done = plan.state == RolloutState::Done;
        prop_assert_eq!(done, (group - failed) * 2 >= group);
        // Never the other way round: at thresholds of 50 % and more, what hawkBit pauses is stopped here.
        prop_assert!(hawkbit == HawkBit::StartsNext || !done);
    }
}

#[test]
fn sixty_percent_of_errors_pass_in_hawkbit_below_a_threshold_of_eighty_and_stop_here() {
    assert_eq!(hawkbit(6, 4, 10, 80), HawkBit::StartsNext);
    let plan = last(bare(), &with_failing(10, 6));
    let cause = StopCause::TooFewSucceeded { wave: 0, succeeded: 4, told: 10 };
    assert_eq!(plan.state, RolloutState::Stopped { cause });
}

#[test]
fn deleting_failed_devices_does_not_shrink_what_success_is_a_share_of() {
    // Two of the failed ones are deleted before the wave settles: hawkBit would see 4 of 8.
    assert_eq!(hawkbit(4, 4, 8, 50), HawkBit::StartsNext);
    let mut shrinking = with_failing(10, 6);
    shrinking.devices.values_mut().take(2).for_each(|it| it.leaves_after_ms = Some(120_000));
    let plan = last(bare(), &shrinking);
    let cause = StopCause::TooFewSucceeded { wave: 0, succeeded: 4, told: 10 };
    assert_eq!(plan.state, RolloutState::Stopped { cause });
}

#[test]
fn a_cohort_that_shrinks_does_not_move_everybody_into_the_first_wave() {
    let mut shrinking = fleet(50, Behaviour::default());
    let leaves = |device: &mut ReplayDevice| device.leaves_after_ms = Some(30 * 60_000);
    shrinking.devices.values_mut().skip(10).for_each(leaves);
    let mut most = 0;
    let course = Course { steps_max: 15, ..Course::from(NOW_MS) };
    run(&rollout(draft()), &shrinking, &course, |plan, _| most = most.max(plan.told));
    assert_eq!(most, 4, "the first wave was named when it started");
}
