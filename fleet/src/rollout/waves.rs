//! Who belongs to a rollout, who is in which wave, and whose turn it is.
//!
//! The order of devices, and the control group, follow from SHA-256 of the names of rollout and device: nobody chooses,
//! the same names give the same order, and another rollout has another one.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
};

use selvedge_wire::{DeviceId, Digest};

use super::{
    After, Exclusion, Hold, InventoryDevice, Member, MemberState, Plan, Policy, Skip, SlotState,
    WaveSize, WaveState, Zone, gate::GROUPS_MAX, plan::Context, rate::MINUTE_MS,
};

/// Takes devices of the cohort in that are not yet members, and says why others are not.
pub(super) fn admit(context: &Context<'_>, plan: &mut Plan) {
    let policy = &context.rollout.policy;
    let is_first = plan.number == 1;
    let closed = !is_first && (!policy.late_joiners || last_has_settled(policy, plan));
    plan.excluded.clear();
    for (id, device) in &context.inventory.devices {
        if plan.members.contains_key(id) || !policy.cohort.takes(id, &device.labels) {
            continue;
        }
        let exclusion = exclusion(context, id, device);
        match exclusion.or(closed.then_some(Exclusion::TooLate)) {
            Some(exclusion) => _ = plan.excluded.insert(id.clone(), exclusion),
            None => _ = plan.members.insert(id.clone(), new_member(policy, device)),
        }
    }
    if is_first {
        choose_control(context, plan);
        let joins = plan.count(Member::is_control) > 0 && policy.control.after == After::Join;
        plan.waves = vec![WaveState::default(); policy.waves.len() + usize::from(joins)];
    }
}

fn last_has_settled(policy: &Policy, plan: &Plan) -> bool {
    let last = plan.waves.get(policy.waves.len() - 1);
    last.is_some_and(|wave| wave.settled_ms.is_some())
}

fn exclusion(context: &Context<'_>, id: &DeviceId, device: &InventoryDevice) -> Option<Exclusion> {
    let policy = &context.rollout.policy;
    if device.decommissioned {
        return Some(Exclusion::Decommissioned);
    }
    if let Some(other) = context.claims.get(id).filter(|other| **other != context.rollout.id) {
        return Some(Exclusion::InRollout(other.clone()));
    }
    if device.slot(&policy.slot).desired == Some(policy.bundle) {
        return Some(Exclusion::AlreadyRuns);
    }
    if let Some(why) = &device.held {
        return Some(Exclusion::Held(why.clone()));
    }
    let facts = context.inventory.bundles.get(&policy.bundle);
    let lacks = facts.map(|facts| facts.lacks(device)).unwrap_or_default();
    if !lacks.is_empty() {
        return Some(Exclusion::Incompatible(lacks));
    }
    zone(policy, device).err().map(Exclusion::UnknownZone)
}

/// The zone of a device, if its windows matter; what its label says where that is none.
fn zone(policy: &Policy, device: &InventoryDevice) -> Result<Zone, String> {
    let maintenance = &policy.maintenance;
    match device.labels.get(&maintenance.zone_label) {
        Some(name) if !maintenance.windows.is_empty() => {
            name.parse().map_err(|_: String| name.clone())
        }
        _ => Ok(maintenance.zone.clone()),
    }
}

fn new_member(policy: &Policy, device: &InventoryDevice) -> Member {
    let slot = device.slot(&policy.slot);
    Member {
        wave: None,
        released: false,
        group: 0,
        state: MemberState::Waiting { hold: Hold::Wave },
        attempts: 0,
        attempts_before: 0,
        retries: 0,
        failure: None,
        first_told_ms: None,
        desired_before: slot.desired,
        good: last_good(policy, &slot),
    }
}

/// What a device that has the old bundle would go back to.
fn last_good(policy: &Policy, slot: &SlotState) -> Option<Digest> {
    slot.running.filter(|running| *running != policy.bundle).or(slot.desired)
}

fn choose_control(context: &Context<'_>, plan: &mut Plan) {
    let control = &context.rollout.policy.control;
    if control.percent == 0.0 {
        return;
    }
    let all = plan.members.len();
    let wanted = share_of(control.percent, all).max(control.devices_min as usize).min(all / 2);
    // Who has no bundle yet has nothing to compare with.
    let with_bundle = plan.members.iter().filter(|(_, member)| member.good.is_some());
    let mut ranked: Vec<_> =
        with_bundle.map(|(id, _)| (place(context, "control", id), id.clone())).collect();
    ranked.sort();
    for (_, id) in ranked.into_iter().take(wanted) {
        if let Some(member) = plan.members.get_mut(&id) {
            member.state = MemberState::Control;
        }
    }
}

/// The smallest whole number that is at least that share.
pub(super) fn share_of(percent: f64, of: usize) -> usize {
    // A hair less, so that 10 % of 30 is 3 although 0.1 is no binary fraction.
    ((percent * of as f64 / 100.0 - 1e-9).ceil()).max(0.0) as usize
}

/// A number that stands for the device in this rollout, for one purpose.
fn place(context: &Context<'_>, purpose: &str, id: &DeviceId) -> u64 {
    let text = format!("{}\n{purpose}\n{id}", context.rollout.id);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let first = digest.as_ref().first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_be_bytes(*first)
}

/// Starts a wave: its devices are named, once.
pub(super) fn start(context: &Context<'_>, plan: &mut Plan, wave: usize) {
    plan.waves[wave].started_ms = Some(context.now_ms);
    if wave == context.rollout.policy.waves.len() {
        for member in plan.members.values_mut().filter(|member| member.is_control()) {
            member.state = MemberState::Waiting { hold: Hold::Wave };
        }
    }
    fill(context, plan, wave);
}

/// Gives a wave the devices that it still has room for.
pub(super) fn fill(context: &Context<'_>, plan: &mut Plan, wave: usize) {
    let chosen = choose(context, plan, wave, &unreleased(context, plan), released(plan));
    let state = &mut plan.waves[wave];
    // Who comes later joins a group that is there already: a vote more would change what the others have shown.
    let groups = if state.groups == 0 { GROUPS_MAX } else { state.groups };
    for id in chosen {
        let Some(member) = plan.members.get_mut(&id) else { continue };
        (member.wave, member.released) = (Some(wave), true);
        member.group = state.devices % groups;
        state.devices += 1;
    }
    state.groups = state.devices.min(groups);
}

/// Says of those whose wave has not started in which it would be as it looks now.
pub(super) fn project(context: &Context<'_>, plan: &mut Plan) {
    let mut left = unreleased(context, plan);
    let mut before = released(plan);
    for id in &left {
        if let Some(member) = plan.members.get_mut(id) {
            member.wave = None;
        }
    }
    for wave in 0..context.rollout.policy.waves.len() {
        if plan.waves[wave].started_ms.is_some() {
            continue;
        }
        let chosen = choose(context, plan, wave, &left, before);
        before += chosen.len();
        for id in &chosen {
            if let Some(member) = plan.members.get_mut(id) {
                member.wave = Some(wave);
            }
        }
        let chosen: BTreeSet<DeviceId> = chosen.into_iter().collect();
        left.retain(|id| !chosen.contains(id));
    }
}

/// Those that wait for a wave, in their order.
fn unreleased(context: &Context<'_>, plan: &Plan) -> Vec<DeviceId> {
    let waits =
        |member: &Member| !member.released && matches!(member.state, MemberState::Waiting { .. });
    let waiting = plan.members.iter().filter(|(_, member)| waits(member));
    let mut ranked: Vec<_> =
        waiting.map(|(id, _)| (place(context, "wave", id), id.clone())).collect();
    ranked.sort();
    ranked.into_iter().map(|(_, id)| id).collect()
}

fn released(plan: &Plan) -> usize {
    plan.members.values().filter(|member| member.released).count()
}

/// Those of the waiting that a wave takes, if so many were released before.
fn choose(
    context: &Context<'_>,
    plan: &Plan,
    wave: usize,
    waiting: &[DeviceId],
    before: usize,
) -> Vec<DeviceId> {
    let take = |count: usize| waiting.iter().take(count).cloned().collect();
    match context.rollout.policy.wave(wave).map(|wave| &wave.size) {
        None => waiting.to_vec(),
        Some(WaveSize::Percent(percent)) => {
            take(share_of(*percent, targets(plan)).saturating_sub(before))
        }
        Some(WaveSize::Count(count)) => {
            take((*count as usize).saturating_sub(plan.waves[wave].devices as usize))
        }
        Some(WaveSize::Cohort(query)) => {
            let labels = |id: &DeviceId| context.inventory.devices.get(id).map(|it| &it.labels);
            let takes = |id: &&DeviceId| labels(id).is_some_and(|labels| query.takes(id, labels));
            waiting.iter().filter(takes).cloned().collect()
        }
    }
}

/// The devices that are to be changed: all members but the control group and those that are gone. A device that was
/// told and is gone still counts, so that shares do not move under those who are told.
pub(super) fn targets(plan: &Plan) -> usize {
    let counts = |member: &&Member| member.released || !(member.is_control() || member.has_left());
    plan.members.values().filter(counts).count()
}

/// Leaves those out that were offline for longer than is waited.
pub(super) fn give_up_offline(context: &Context<'_>, plan: &mut Plan) {
    if context.rollout.orders.paused {
        return;
    }
    let offline_ms = context.rollout.policy.timeouts.offline_ms();
    for id in in_turn(context, plan) {
        let Some(member) = plan.members.get_mut(&id) else { continue };
        let Some(device) = context.inventory.devices.get(&id) else { continue };
        let until_ms = due_ms(context, &plan.waves, member) + offline_ms;
        if !device.online && until_ms <= context.now_ms {
            let skip = Skip::Offline { last_seen_ms: device.last_seen_ms };
            member.state = MemberState::Skipped { skip };
        }
    }
}

/// When a member was to be told at the earliest: with its wave, and after its pause if it has failed.
fn due_ms(context: &Context<'_>, waves: &[WaveState], member: &Member) -> u64 {
    let wave = member.wave.and_then(|wave| waves.get(wave));
    let started_ms = wave.and_then(|wave| wave.started_ms).unwrap_or(context.now_ms);
    let backoff_ms = context.rollout.policy.retry.backoff_ms();
    member.failure.as_ref().map_or(started_ms, |failure| failure.at_ms + backoff_ms)
}

/// Tells those whose turn it is.
pub(super) fn tell(context: &Context<'_>, plan: &mut Plan) {
    let now_ms = context.now_ms;
    plan.told_lately.retain(|(at_ms, _)| at_ms + MINUTE_MS > now_ms);
    let lately: u32 = plan.told_lately.iter().map(|(_, count)| count).sum();
    let succeeded = u64::from(plan.count(Member::is_confirmed));
    let before = plan.told - u64::from(lately);
    let policy = &context.rollout.policy;
    let rate = policy.rate.per_minute(before, succeeded);
    let mut told = 0;
    for id in in_turn(context, plan) {
        let room = lately + told < rate;
        let Some(member) = plan.members.get_mut(&id) else { continue };
        let Some(device) = context.inventory.devices.get(&id) else { continue };
        let due_ms = due_ms(context, &plan.waves, member);
        member.state = match hold(context, device, due_ms) {
            Some(hold) => MemberState::Waiting { hold },
            None if !room => MemberState::Waiting { hold: Hold::Rate },
            None => {
                member.attempts += 1;
                member.first_told_ms.get_or_insert(now_ms);
                // Somebody may have given it another bundle while it waited.
                let slot = device.slot(&policy.slot);
                (member.desired_before, member.good) = (slot.desired, last_good(policy, &slot));
                (plan.told, told) = (plan.told + 1, told + 1);
                MemberState::Assigned { at_ms: now_ms, expects: device.generation }
            }
        };
    }
    if told > 0 {
        note(&mut plan.told_lately, now_ms, told);
    }
}

fn note(lately: &mut VecDeque<(u64, u32)>, now_ms: u64, told: u32) {
    match lately.back_mut().filter(|(at_ms, _)| *at_ms == now_ms) {
        Some((_, count)) => *count += told,
        None => lately.push_back((now_ms, told)),
    }
}

/// Those of started waves that wait, earlier waves first.
fn in_turn(context: &Context<'_>, plan: &Plan) -> Vec<DeviceId> {
    let waits =
        |member: &Member| member.released && matches!(member.state, MemberState::Waiting { .. });
    let waiting = plan.members.iter().filter(|(_, member)| waits(member));
    let mut ranked: Vec<_> = waiting
        .map(|(id, member)| {
            (member.wave, Reverse(member.attempts), place(context, "wave", id), id.clone())
        })
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(.., id)| id).collect()
}

/// What keeps a device that was to be told at `due_ms`.
fn hold(context: &Context<'_>, device: &InventoryDevice, due_ms: u64) -> Option<Hold> {
    let (policy, now_ms) = (&context.rollout.policy, context.now_ms);
    if context.rollout.orders.paused {
        return Some(Hold::Paused);
    }
    if due_ms > now_ms {
        return Some(Hold::Backoff { until_ms: due_ms });
    }
    if !device.online {
        let until_ms = due_ms + policy.timeouts.offline_ms();
        return Some(Hold::Offline { last_seen_ms: device.last_seen_ms, until_ms });
    }
    let zone = zone(policy, device).unwrap_or_else(|_| policy.maintenance.zone.clone());
    policy.maintenance.opens_ms(&zone, now_ms).map(|opens_ms| Hold::Window { opens_ms })
}
