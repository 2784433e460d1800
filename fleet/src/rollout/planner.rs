//! The planner: one pure function.
//!
//! In order: devices are taken in; each member is brought up to date; orders, failures and gates are looked at, and
//! may end the rollout; waves start, settle and pass; whose turn it is, is told; and what is not yet signed is said
//! again. Waiting never ends a plan without a [`Wait`] that names for what.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Assignment, Cause, Claims, Decision, DeviceEvidence, Evidence, Hold, Inventory, Member,
    MemberState, OnTimeout, Outcome, Plan, Rollout, RolloutId, RolloutState, StopCause, Wait,
    gate::{self, Arms},
    members::{begin_return, has_attempt_left, is_on_its_way, observe},
    plan::Context,
    waves,
};

/// Failed devices that stop a rollout, at least: one bad device stops nothing.
const FAILED_MIN: u32 = 2;

/// What is known of a device that has sent nothing: it is there all the same, and may have to be waited for.
static SILENT: DeviceEvidence = DeviceEvidence { measures: BTreeMap::new(), classes: Vec::new() };

/// The next plan of a rollout. Devices in `claims` that belong to another one are left out.
///
/// A plan that is over stays as it is, without assignments.
pub fn plan_rollout(
    rollout: &Rollout,
    inventory: &Inventory,
    evidence: &Evidence,
    claims: &Claims,
    parent: Option<&Plan>,
    now_ms: u64,
) -> Plan {
    let mut plan = next_of(rollout, parent, now_ms);
    if plan.is_over() {
        return plan;
    }
    let context = &Context { rollout, inventory, evidence, claims, now_ms: plan.at_ms };
    let goes_on = plan.wave().is_some();
    if goes_on {
        waves::admit(context, &mut plan);
    }
    for (id, member) in &mut plan.members {
        observe(context, member, inventory.devices.get(id), goes_on);
    }
    if goes_on {
        waves::give_up_offline(context, &mut plan);
        judge(context, &mut plan);
        let cause = stop_cause(context, &plan).or_else(|| advance(context, &mut plan).err());
        match cause {
            Some(cause) => plan.state = RolloutState::Returning { cause },
            None if !plan.is_over() => waves::tell(context, &mut plan),
            None => {}
        }
    }
    if let RolloutState::Returning { cause } = plan.state.clone() {
        go_back(context, &mut plan, cause);
    }
    waves::project(context, &mut plan);
    plan.assignments = assignments(context, &plan);
    plan.waits.append(&mut waits(context, &plan));
    plan
}

/// The next plans of several rollouts, in their order: of two that want a device the first has it, until it is over.
pub fn plan_rollouts(
    rollouts: &[(Rollout, Option<Plan>)],
    inventory: &Inventory,
    evidence: &BTreeMap<RolloutId, Evidence>,
    now_ms: u64,
) -> Vec<Plan> {
    let claim = |claims: &mut Claims, plan: &Plan| {
        claims.extend(plan.claimed().map(|device| (device.clone(), plan.rollout.clone())));
    };
    let mut claims = Claims::new();
    rollouts.iter().filter_map(|(_, plan)| plan.as_ref()).for_each(|plan| claim(&mut claims, plan));
    let nothing = Evidence::default();
    let next = |(rollout, parent): &(Rollout, Option<Plan>)| {
        let evidence = evidence.get(&rollout.id).unwrap_or(&nothing);
        let plan = plan_rollout(rollout, inventory, evidence, &claims, parent.as_ref(), now_ms);
        claim(&mut claims, &plan);
        plan
    };
    rollouts.iter().map(next).collect()
}

fn next_of(rollout: &Rollout, parent: Option<&Plan>, now_ms: u64) -> Plan {
    let Some(parent) = parent else {
        return Plan {
            rollout: rollout.id.clone(),
            number: 1,
            started_ms: now_ms,
            at_ms: now_ms,
            state: RolloutState::Running { wave: 0 },
            waits: Vec::new(),
            waves: Vec::new(),
            members: BTreeMap::new(),
            excluded: BTreeMap::new(),
            decisions: Vec::new(),
            told: 0,
            told_lately: VecDeque::new(),
            assignments: Vec::new(),
        };
    };
    let mut plan = parent.clone();
    plan.assignments.clear();
    plan.waits.clear();
    if !plan.is_over() {
        plan.number += 1;
        // A clock that went back does not make a minute longer.
        plan.at_ms = now_ms.max(parent.at_ms);
    }
    plan
}

/// What gates say of every wave that has begun, while there is a control group to compare with.
fn judge(context: &Context<'_>, plan: &mut Plan) {
    let policy = &context.rollout.policy;
    let waves = policy.waves.len();
    if plan.waves.get(waves).is_some_and(|control| control.started_ms.is_some()) {
        return;
    }
    let begun: Vec<usize> =
        (0..waves).filter(|wave| plan.waves[*wave].started_ms.is_some()).collect();
    let control = evidence_of(context, plan, Member::is_control);
    let share = gate::Share { waves, gates: policy.gates.len() };
    let mut decisions: Vec<Decision> = Vec::new();
    for wave in begun {
        let groups = groups(context, plan, wave);
        let arms = Arms { groups: &groups, control: &control };
        decisions.extend(policy.gates.keys().map(|&measure| {
            gate::judge(measure, policy.bounds(measure), &policy.judge, &share, wave, &arms)
        }));
    }
    plan.decisions = decisions;
}

fn evidence_of<'a>(
    context: &Context<'a>,
    plan: &Plan,
    is: impl Fn(&Member) -> bool,
) -> Vec<&'a DeviceEvidence> {
    let members = plan.members.iter().filter(|(_, member)| is(member));
    members.map(|(id, _)| context.evidence.devices.get(id).unwrap_or(&SILENT)).collect()
}

fn groups<'a>(context: &Context<'a>, plan: &Plan, wave: usize) -> Vec<Vec<&'a DeviceEvidence>> {
    let of_group = |group: u32| {
        evidence_of(context, plan, |member| {
            member.first_told_ms.is_some() && (member.wave, member.group) == (Some(wave), group)
        })
    };
    (0..plan.waves[wave].groups).map(of_group).collect()
}

/// What ends the rollout, whatever its wave.
fn stop_cause(context: &Context<'_>, plan: &Plan) -> Option<StopCause> {
    if let Some(why) = &context.rollout.orders.aborted {
        return Some(StopCause::Aborted(why.clone()));
    }
    let stopped = plan.decisions.iter().find(|decision| decision.outcome == Outcome::Stop);
    stopped.map(|decision| StopCause::Gate(Box::new(*decision))).or_else(|| failures(context, plan))
}

fn failures(context: &Context<'_>, plan: &Plan) -> Option<StopCause> {
    let policy = &context.rollout.policy;
    let told = plan.count(|member| member.attempts > 0);
    policy.abort.iter().enumerate().find_map(|(rule, abort)| {
        let kind_fits = |member: &Member| {
            let kind = member.failure.as_ref().map(|failure| failure.kind);
            abort.failure.is_none() || abort.failure == kind
        };
        let failed = plan.count(|member| {
            member.is_failed() && !has_attempt_left(policy, member) && kind_fits(member)
        });
        let enough = told >= abort.devices_min && failed >= FAILED_MIN;
        let share = f64::from(failed) * 100.0 >= abort.percent * f64::from(told);
        (enough && share).then_some(StopCause::Failures { rule, failed, told })
    })
}

/// Starts, settles and passes waves, as far as it goes now; an error if one of them ends the rollout.
fn advance(context: &Context<'_>, plan: &mut Plan) -> Result<(), StopCause> {
    while let Some(wave) = plan.wave() {
        if plan.waves[wave].started_ms.is_none() && !may_start(context, plan, wave) {
            return Ok(());
        }
        settle(context, plan, wave);
        if plan.waves[wave].settled_ms.is_none() || !passes(context, plan, wave)? {
            return Ok(());
        }
        plan.waves[wave].passed_ms.get_or_insert(context.now_ms);
        let next = wave + 1;
        if next < plan.waves.len() {
            plan.state = RolloutState::Running { wave: next };
        } else if plan.count(|member| is_under_way(context, member)) == 0 {
            plan.state = RolloutState::Done;
        } else {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a member of any wave is told again or goes back: nobody would see to it once the rollout is done.
fn is_under_way(context: &Context<'_>, member: &Member) -> bool {
    let returns = matches!(member.state, MemberState::Returning { .. });
    returns || is_on_its_way(&context.rollout.policy, member)
}

/// Starts the wave unless somebody must say so first.
fn may_start(context: &Context<'_>, plan: &mut Plan, wave: usize) -> bool {
    let orders = &context.rollout.orders;
    let needs_approval = context.rollout.policy.wave(wave).is_some_and(|wave| wave.approval);
    if needs_approval && !orders.approved.contains(&wave) {
        plan.waits.push(Wait::Approval { wave });
        return false;
    }
    if !orders.paused {
        waves::start(context, plan, wave);
    }
    !orders.paused
}

fn settle(context: &Context<'_>, plan: &mut Plan, wave: usize) {
    let policy = &context.rollout.policy;
    if wave + 1 == policy.waves.len() && plan.waves[wave].settled_ms.is_none() {
        // Whoever joined meanwhile comes with the last wave.
        waves::fill(context, plan, wave);
    }
    let on_its_way = |member: &Member| member.wave == Some(wave) && is_on_its_way(policy, member);
    if plan.waves[wave].settled_ms.is_none() && plan.count(on_its_way) == 0 {
        plan.waves[wave].settled_ms = Some(context.now_ms);
    }
}

/// Whether a wave that has settled passes now.
fn passes(context: &Context<'_>, plan: &mut Plan, wave: usize) -> Result<bool, StopCause> {
    let Some(rules) = context.rollout.policy.wave(wave) else { return Ok(true) };
    let of_wave = |member: &Member| member.released && member.wave == Some(wave);
    let told = plan.count(|member| of_wave(member) && member.attempts > 0);
    let succeeded = plan.count(|member| of_wave(member) && member.is_confirmed());
    if told > 0 && f64::from(succeeded) * 100.0 < rules.success_percent * f64::from(told) {
        return Err(StopCause::TooFewSucceeded { wave, succeeded, told });
    }
    let settled_ms = plan.waves[wave].settled_ms.unwrap_or(context.now_ms);
    let until_ms = settled_ms + rules.soak_ms();
    if until_ms > context.now_ms {
        plan.waits.push(Wait::Soak { wave, until_ms });
        return Ok(false);
    }
    // A wave without devices shows nothing, unless nobody is left for whom it should.
    let waits =
        |member: &Member| !member.released && matches!(member.state, MemberState::Waiting { .. });
    if told == 0 && plan.count(waits) == 0 {
        return Ok(true);
    }
    let gates = plan.waiting_gates(wave);
    if (gates.is_empty() && told > 0) || context.rollout.orders.overridden.contains(&wave) {
        return Ok(true);
    }
    wait_for_evidence(context, plan, wave, until_ms)
}

fn wait_for_evidence(
    context: &Context<'_>,
    plan: &mut Plan,
    wave: usize,
    since_ms: u64,
) -> Result<bool, StopCause> {
    let timeouts = &context.rollout.policy.timeouts;
    let gates = plan.waiting_gates(wave);
    let until_ms = since_ms + timeouts.evidence_ms();
    match timeouts.without_evidence {
        _ if until_ms > context.now_ms => plan.waits.push(Wait::Evidence { wave, gates, until_ms }),
        OnTimeout::Ask => plan.waits.push(Wait::Decision { wave, gates }),
        OnTimeout::Stop => return Err(StopCause::WithoutEvidence { wave, gates }),
    }
    Ok(false)
}

/// Tells changed devices to go back, and ends the rollout when none is left.
fn go_back(context: &Context<'_>, plan: &mut Plan, cause: StopCause) {
    for (id, member) in &mut plan.members {
        let changed =
            matches!(member.state, MemberState::Assigned { .. } | MemberState::Confirmed { .. });
        if let Some(device) = context.inventory.devices.get(id).filter(|_| changed) {
            begin_return(context, member, device, Cause::Stopped);
        }
    }
    if plan.count(|member| matches!(member.state, MemberState::Returning { .. })) == 0 {
        plan.state = match cause {
            StopCause::Aborted(_) => RolloutState::Aborted { cause },
            _ => RolloutState::Stopped { cause },
        };
    }
}

/// What is ordered and not yet signed.
fn assignments(context: &Context<'_>, plan: &Plan) -> Vec<Assignment> {
    let policy = &context.rollout.policy;
    let due = |(device, member): (&selvedge_wire::DeviceId, &Member)| {
        let (bundle, expects, goes_on) = match member.state {
            MemberState::Assigned { expects, .. } => (Some(policy.bundle), expects, true),
            MemberState::Returning { expects, .. } => (member.good, expects, false),
            _ => return None,
        };
        let generation = context.inventory.devices.get(device)?.generation;
        (generation == expects).then(|| Assignment {
            device: device.clone(),
            slot: policy.slot.clone(),
            bundle,
            expects,
            shadow_samples: if goes_on { policy.shadow_samples } else { 0 },
            // What a device goes back to is older as a rule.
            allow_downgrade: policy.allow_downgrade || !goes_on,
        })
    };
    plan.members.iter().filter_map(due).collect()
}

/// What devices are waited for.
fn waits(context: &Context<'_>, plan: &Plan) -> Vec<Wait> {
    if plan.is_over() {
        return Vec::new();
    }
    let mut sums = Sums::default();
    plan.members.values().for_each(|member| sums.add(context, member));
    let mut waits = Vec::new();
    if context.rollout.orders.paused && plan.wave().is_some() {
        waits.push(Wait::Resume);
    }
    let (devices, rate, windows, offline) = (sums.devices, sums.rate, sums.windows, sums.offline);
    let is_some = |count: u32, wait: Wait| (count > 0).then_some(wait);
    waits.extend(is_some(devices.0, Wait::Devices { count: devices.0, until_ms: devices.1 }));
    waits.extend(is_some(rate, Wait::Rate { count: rate }));
    waits.extend(is_some(windows.0, Wait::Windows { count: windows.0, opens_ms: windows.1 }));
    waits.extend(is_some(offline.0, Wait::Offline { count: offline.0, until_ms: offline.1 }));
    waits.extend(is_some(sums.returning, Wait::Return { count: sums.returning }));
    waits
}

#[derive(Default)]
struct Sums {
    devices: (u32, u64),
    rate: u32,
    windows: (u32, u64),
    offline: (u32, u64),
    returning: u32,
}

impl Sums {
    fn add(&mut self, context: &Context<'_>, member: &Member) {
        let latest = |sum: &mut (u32, u64), until_ms: u64| *sum = (sum.0 + 1, sum.1.max(until_ms));
        let in_progress_ms = context.rollout.policy.timeouts.in_progress_ms();
        match member.state {
            MemberState::Assigned { at_ms, .. } => {
                latest(&mut self.devices, at_ms + in_progress_ms);
            }
            MemberState::Returning { .. } => self.returning += 1,
            MemberState::Waiting { ref hold } if member.released => match *hold {
                Hold::Backoff { until_ms } => latest(&mut self.devices, until_ms),
                Hold::Offline { until_ms, .. } => latest(&mut self.offline, until_ms),
                Hold::Rate => self.rate += 1,
                Hold::Window { opens_ms } => {
                    let first = if self.windows.0 == 0 { opens_ms } else { self.windows.1 };
                    self.windows = (self.windows.0 + 1, first.min(opens_ms));
                }
                Hold::Wave | Hold::Paused => {}
            },
            _ => {}
        }
    }
}
