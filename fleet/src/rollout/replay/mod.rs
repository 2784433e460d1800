//! What a policy would have done: the planner against a recorded or invented fleet, the same every time.
//!
//! [`simulate`] moves a [`ReplayFleet`] on in steps: devices come and go, take what they are told or refuse it, and
//! answer samples as well as their [`Behaviour`] says. All chance comes from the fleet's seed. The [`Timeline`] draws
//! itself as text.
//!
//! It is as good as the behaviour that it is given: what the new bundle does on a device must be known from a shadow,
//! or guessed.

mod draws;
mod timeline;
mod world;

pub(in crate::rollout) use draws::Draws;
pub use timeline::{Moment, Tally, Timeline};
pub use world::{Behaviour, Faults, ReplayDevice, ReplayFleet, World, WorldChange};

use super::{Order, Plan, Rollout};

/// The most steps of one replay.
pub const STEPS_MAX: u64 = 200_000;

/// How a replay runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// When it begins, in Unix milliseconds.
    pub start_ms: u64,
    /// How often a plan is made.
    pub step_ms: u64,
    /// Steps at most, and never more than [`STEPS_MAX`].
    pub steps_max: u64,
    /// What operators order: after so many milliseconds.
    pub orders: Vec<(u64, Order)>,
}

impl Course {
    /// A plan each minute for at most 30 days, without orders.
    pub fn from(start_ms: u64) -> Self {
        Self { start_ms, step_ms: 60_000, steps_max: 30 * 24 * 60, orders: Vec::new() }
    }
}

/// Runs a rollout on a fleet until it is over, or the course is.
pub fn simulate(rollout: &Rollout, fleet: &ReplayFleet, course: &Course) -> Timeline {
    let mut timeline = Timeline::new(rollout);
    run(rollout, fleet, course, |plan, _| timeline.add(rollout, plan));
    timeline
}

/// The same, with every plan and the world that it was made for; gives the last plan.
pub fn run(
    rollout: &Rollout,
    fleet: &ReplayFleet,
    course: &Course,
    mut seen: impl FnMut(&Plan, &World),
) -> Option<Plan> {
    let mut rollout = rollout.clone();
    let mut world = World::new(fleet, rollout.policy.bundle, course.start_ms);
    let mut plan: Option<Plan> = None;
    let mut orders = course.orders.iter().peekable();
    for step in 0..course.steps_max.min(STEPS_MAX) {
        let now_ms = course.start_ms + step * course.step_ms;
        while let Some((_, order)) = orders.next_if(|(at_ms, _)| course.start_ms + at_ms <= now_ms)
        {
            // One that comes after an abort is void.
            rollout.orders =
                rollout.orders.with(rollout.orders.revision, order).unwrap_or(rollout.orders);
        }
        world.move_to(now_ms);
        if let Some(plan) = &plan {
            world.count(&plan.evidence_wanted(&rollout.policy), course.step_ms);
        }
        let next = super::plan_rollout(
            &rollout,
            world.inventory(),
            world.evidence(),
            &super::Claims::new(),
            plan.as_ref(),
            now_ms,
        );
        seen(&next, &world);
        world.execute(&next);
        let over = next.is_over();
        plan = Some(next);
        if over {
            break;
        }
    }
    plan
}
