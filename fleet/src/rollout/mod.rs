//! Rollouts: which device is changed when, decided by a pure function on evidence about the model.
//!
//! [`plan_rollout`] takes a [`Rollout`] (a policy and what operators ordered), the [`Inventory`], the [`Evidence`], the
//! plan before and the time, and gives a [`Plan`]. Nothing here touches a database, a clock or a network, and the same
//! arguments give the same plan on every machine. The plan is all that is remembered from one call to the next; it
//! says of every device where it is and why, and lists the [`Assignment`]s that are due.
//!
//! **What the executor does.** In one transaction: store the plan if the stored one is its parent (by
//! [`Plan::number`]), and carry out each assignment whose device still has the generation that it expects. It has no
//! choices. What is not carried out stands again in the next plan; what is carried out twice or late finds another
//! generation and does nothing.
//!
//! **What is guaranteed** stands, with the policy's format and the formulas, in `docs/rollouts.md`.
//!
//! Vocabulary: a *member* is a device that belongs to a rollout, and to no other at that time; the *control group* are
//! members that keep the old bundle; a *gate* holds one measure of a wave against the control group; a wave has
//! *settled* when none of its devices is on its way any more.

mod evidence;
mod gate;
mod inventory;
mod members;
mod orders;
mod plan;
mod planner;
mod policy;
mod rate;
pub mod replay;

mod sequential;
#[cfg(test)]
mod tests;

mod waves;
mod why;
mod windows;

pub use evidence::{DeviceEvidence, Evidence, EvidenceWanted, Measure};
pub use gate::{Decision, Finding, GateNumbers, Outcome, Side};
pub use inventory::{
    BundleFacts, Capabilities, Inventory, InventoryDevice, Lack, SlotPhase, SlotState,
};
pub use orders::{Order, OrderError, Orders};
pub use plan::{
    Assignment, Cause, Claims, Exclusion, Failure, FailureKind, Hold, Member, MemberState, Plan,
    Rollout, RolloutId, RolloutState, Skip, StopCause, Wait, WaveState,
};
pub use planner::{plan_rollout, plan_rollouts};
pub use policy::{
    AbortRule, After, Control, GateBounds, GateRule, Judge, OnTimeout, Policy, PolicyDraft,
    PolicyError, Retry, Timeouts, Wave, WaveSize,
};
pub use rate::{Increase, Rate};
pub use sequential::Counts;
pub use why::{Reason, why};
pub use windows::{ClockTime, Day, Maintenance, Window, Zone};
