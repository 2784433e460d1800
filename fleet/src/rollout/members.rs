//! What became of one member since the plan before: from its inventory alone, without a choice.

use selvedge_wire::Digest;

use super::{
    BundleFacts, Cause, Failure, FailureKind, Hold, InventoryDevice, Member, MemberState, Skip,
    SlotPhase, SlotState, plan::Context, policy::Policy,
};

/// A member beside what is known of its device.
struct Look<'a> {
    context: &'a Context<'a>,
    device: &'a InventoryDevice,
    slot: SlotState,
}

/// Brings a member up to date. While the rollout `goes_on`, failed ones get their next attempt.
pub(super) fn observe(
    context: &Context<'_>,
    member: &mut Member,
    device: Option<&InventoryDevice>,
    goes_on: bool,
) {
    if member.has_left() {
        return;
    }
    let Some(device) = device.filter(|device| !device.decommissioned) else {
        member.state = MemberState::Skipped { skip: Skip::Gone };
        return;
    };
    let look = Look { context, device, slot: device.slot(&context.rollout.policy.slot) };
    match member.state.clone() {
        MemberState::Waiting { .. } => look.waiting(member),
        MemberState::Control => look.control(member),
        MemberState::Assigned { at_ms, expects } => look.assigned(member, at_ms, expects),
        MemberState::Confirmed { .. } => look.confirmed(member),
        MemberState::Returning { cause, at_ms, expects } => {
            look.returning(member, cause, at_ms, expects);
        }
        MemberState::Returned { cause, at_ms, confirmed } => {
            look.returned(member, cause, at_ms, confirmed);
        }
        MemberState::Skipped { skip } if goes_on => look.skipped(member, &skip),
        MemberState::Skipped { .. } => {}
    }
    if goes_on {
        retry(context, member);
    }
}

/// Tells a member to go back, if it was told to change.
pub(super) fn begin_return(
    context: &Context<'_>,
    member: &mut Member,
    device: &InventoryDevice,
    cause: Cause,
) {
    let slot = device.slot(&context.rollout.policy.slot);
    Look { context, device, slot }.begin_return(member, cause);
}

/// Whether a failed member has an attempt left.
pub(super) fn has_attempt_left(policy: &Policy, member: &Member) -> bool {
    member.attempts - member.attempts_before < policy.retry.attempts_max
}

/// Whether a wave must wait for the member.
pub(super) fn is_on_its_way(policy: &Policy, member: &Member) -> bool {
    match member.state {
        MemberState::Waiting { .. } => member.released,
        MemberState::Assigned { .. } => true,
        MemberState::Returning { cause: Cause::Failed, .. }
        | MemberState::Returned { cause: Cause::Failed, confirmed: true, .. } => {
            has_attempt_left(policy, member)
        }
        _ => false,
    }
}

/// What is known of the bundle, if it must not be assigned any more.
fn revoked<'a>(context: &'a Context<'_>, bundle: Digest) -> Option<&'a BundleFacts> {
    context.inventory.bundles.get(&bundle).filter(|facts| facts.revoked)
}

fn retry(context: &Context<'_>, member: &mut Member) {
    let policy = &context.rollout.policy;
    let ordered = context.rollout.orders.retries;
    if ordered > member.retries {
        member.retries = ordered;
        if member.is_failed() {
            member.attempts_before = member.attempts;
        }
    }
    let back =
        matches!(member.state, MemberState::Returned { cause: Cause::Failed, confirmed: true, .. });
    if back && has_attempt_left(policy, member) {
        member.state = MemberState::Waiting { hold: Hold::Wave };
    }
}

impl Look<'_> {
    fn policy(&self) -> &Policy {
        &self.context.rollout.policy
    }

    fn is_new(&self, bundle: Option<Digest>) -> bool {
        bundle == Some(self.policy().bundle)
    }

    fn skip(&self, member: &mut Member, skip: Skip) {
        member.state = MemberState::Skipped { skip };
    }

    /// What keeps a device from being changed for as long as it stays so.
    fn obstacle(&self) -> Option<Skip> {
        if let Some(why) = &self.device.held {
            return Some(Skip::Held(why.clone()));
        }
        let facts = self.context.inventory.bundles.get(&self.policy().bundle);
        let lacks = facts.map(|facts| facts.lacks(self.device)).unwrap_or_default();
        (!lacks.is_empty()).then_some(Skip::Incompatible(lacks))
    }

    fn waiting(&self, member: &mut Member) {
        if self.is_new(self.slot.desired) {
            self.skip(member, Skip::Overruled);
        } else if let Some(skip) = self.obstacle() {
            self.skip(member, skip);
        }
    }

    fn skipped(&self, member: &mut Member, skip: &Skip) {
        let online_again = !matches!(skip, Skip::Offline { .. }) || self.device.online;
        let may = !matches!(skip, Skip::Stranded(_)) && online_again && self.obstacle().is_none();
        // What was told before keeps what it has: somebody pinned it there.
        if may && member.attempts == 0 {
            member.state = MemberState::Waiting { hold: Hold::Wave };
            self.waiting(member);
        }
    }

    fn control(&self, member: &mut Member) {
        if self.slot.desired != member.desired_before {
            self.skip(member, Skip::Overruled);
        }
    }

    fn assigned(&self, member: &mut Member, at_ms: u64, expects: u64) {
        let now_ms = self.context.now_ms;
        let late = now_ms.saturating_sub(at_ms) >= self.policy().timeouts.in_progress_ms();
        let signed = self.device.generation > expects;
        if signed && !self.is_new(self.slot.desired) {
            if self.slot.desired != member.desired_before {
                return self.skip(member, Skip::Overruled);
            }
            // The old desired state was signed again, and what was expected is out of date.
            let expects = self.device.generation;
            member.state = MemberState::Assigned { at_ms, expects };
        }
        let follows = self.device.followed > expects && self.is_new(self.slot.desired);
        let refused =
            |text: &Option<String>| text.clone().unwrap_or_else(|| "no reason given".into());
        if !signed && self.device.order_refused.is_some() {
            self.fail(member, FailureKind::Rejected, refused(&self.device.order_refused));
        } else if signed && !follows && self.device.refusal.is_some() {
            self.fail(member, FailureKind::Rejected, refused(&self.device.refusal));
        } else if follows && self.slot.phase == SlotPhase::Refused {
            self.fail(member, FailureKind::Refused, refused(&self.slot.reason));
        } else if follows && self.slot.phase == SlotPhase::Settled && self.is_new(self.slot.running)
        {
            member.state = MemberState::Confirmed { at_ms: now_ms };
        } else if late {
            let reason =
                if self.device.online { "it is still under way" } else { "it went offline" };
            self.fail(member, FailureKind::TimedOut, reason.into());
        }
    }

    fn confirmed(&self, member: &mut Member) {
        if !self.is_new(self.slot.desired) {
            return self.skip(member, Skip::Overruled);
        }
        // After a restart nothing answers for a while: that is no other bundle.
        let another = self.slot.running.is_some() && !self.is_new(self.slot.running);
        let fell_back = another || self.slot.phase == SlotPhase::Refused;
        if fell_back {
            let reason = self.slot.reason.clone();
            let reason = reason.unwrap_or_else(|| "another bundle answers".into());
            self.fail(member, FailureKind::FellBack, reason);
        }
    }

    fn fail(&self, member: &mut Member, kind: FailureKind, reason: String) {
        member.failure = Some(Failure { kind, reason, at_ms: self.context.now_ms });
        self.begin_return(member, Cause::Failed);
    }

    fn begin_return(&self, member: &mut Member, cause: Cause) {
        let at_ms = self.context.now_ms;
        if !self.is_new(self.slot.desired) {
            // The order never reached a desired state, and no executor carries it out after this plan.
            member.state = MemberState::Returned { cause, at_ms, confirmed: true };
            return;
        }
        if let Some(why) = &self.device.held {
            return self.skip(member, Skip::Held(why.clone()));
        }
        let unusable = member.good.and_then(|good| revoked(self.context, good));
        if let Some(facts) = unusable {
            match self.policy().return_to.filter(|to| revoked(self.context, *to).is_none()) {
                Some(to) => member.good = Some(to),
                None => {
                    let title = &facts.title;
                    let why = format!(
                        "{title}, which it had before, was revoked, and the policy names no other"
                    );
                    return self.skip(member, Skip::Stranded(why));
                }
            }
        }
        member.state = MemberState::Returning { cause, at_ms, expects: self.device.generation };
    }

    fn returning(&self, member: &mut Member, cause: Cause, at_ms: u64, expects: u64) {
        let now_ms = self.context.now_ms;
        let signed = self.device.generation > expects;
        if self.slot.desired == member.good && signed {
            let back = self.device.followed > expects && self.slot.running == member.good;
            let late = now_ms.saturating_sub(at_ms) >= self.policy().timeouts.return_ms();
            if back || late {
                member.state = MemberState::Returned { cause, at_ms: now_ms, confirmed: back };
            }
        } else if !self.is_new(self.slot.desired) {
            self.skip(member, Skip::Overruled);
        } else if let Some(why) = &self.device.held {
            self.skip(member, Skip::Held(why.clone()));
        } else if signed {
            let expects = self.device.generation;
            member.state = MemberState::Returning { cause, at_ms, expects };
        } else if let Some(why) = &self.device.order_refused {
            self.skip(member, Skip::Stranded(why.clone()));
        }
    }

    fn returned(&self, member: &mut Member, cause: Cause, at_ms: u64, confirmed: bool) {
        if self.is_new(self.slot.desired) {
            self.skip(member, Skip::Overruled);
        } else if !confirmed && self.slot.running == member.good {
            member.state = MemberState::Returned { cause, at_ms, confirmed: true };
        }
    }
}
