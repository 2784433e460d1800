//! Tests of rollouts as a whole: cases, properties, and other people's rules.

mod cases;
mod gates;
mod peers;
mod properties;

use std::collections::BTreeMap;

use selvedge_wire::Digest;

use super::{
    Measure, Plan, Policy, PolicyDraft, Rollout, RolloutId,
    replay::{Behaviour, Course, ReplayDevice, ReplayFleet, run},
};
use crate::{
    drift::CohortQuery,
    testing::{NOW_MS, name},
};

const OLD: Digest = Digest([1; 32]);
const NEW: Digest = Digest([2; 32]);

/// As many cases as PROPTEST_CASES says, or 24: each is weeks of a fleet.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24)
}

/// A policy of a canary of 10 %, half, and all, with 20 % in the control group.
fn draft() -> PolicyDraft {
    let text = format!(
        r#"
        bundle = "{NEW}"
        slot = "main"
        control = {{ percent = 20.0 }}
        waves = [
            {{ name = "canary", size = {{ percent = 10.0 }}, soak_minutes = 10 }},
            {{ name = "half", size = {{ percent = 50.0 }} }},
            {{ name = "all", size = {{ percent = 100.0 }} }},
        ]
        "#
    );
    Policy::from_toml(&text).expect("the policy keeps every rule").into()
}

fn rollout(draft: PolicyDraft) -> Rollout {
    let id: RolloutId = "test".parse().expect("a name");
    let policy = draft.try_into().expect("the policy keeps every rule");
    Rollout { id, policy, orders: Default::default() }
}

fn fleet(count: usize, after: Behaviour) -> ReplayFleet {
    let device = || ReplayDevice { bundle: Some(OLD), after: after.clone(), ..Default::default() };
    ReplayFleet {
        seed: 7,
        slot: "main".parse().expect("a name"),
        devices: (0..count).map(|index| (name(&format!("d-{index:03}")), device())).collect(),
        bundles: BTreeMap::new(),
        world: Vec::new(),
        faults: Default::default(),
    }
}

fn bad(measure: Measure, share: f64) -> Behaviour {
    let mut behaviour = Behaviour::default();
    behaviour.bad.insert(measure, share);
    behaviour
}

fn last(draft: PolicyDraft, fleet: &ReplayFleet) -> Plan {
    let waits = |plan: &Plan| assert!(plan.is_over() || !plan.waits.is_empty(), "{plan:?}");
    let plan = run(&rollout(draft), fleet, &Course::from(NOW_MS), |plan, _| waits(plan));
    plan.expect("it has steps")
}
