//! What operators ordered: not a list of commands, but what holds now, so that an order given twice is given once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What operators ordered of one rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Orders {
    /// Counts the orders that changed something.
    pub revision: u64,
    /// No device is told anything new.
    pub paused: bool,
    /// Why it ends, once somebody said so.
    pub aborted: Option<String>,
    /// The waves that may start although they need approval.
    pub approved: BTreeSet<usize>,
    /// The waves that pass although evidence is missing.
    pub overridden: BTreeSet<usize>,
    /// How often all failed devices were given their attempts again.
    pub retries: u32,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// No device is told anything new. What is under way goes on, and gates can still stop the rollout.
    Pause,
    /// It goes on.
    Resume,
    /// It ends, and devices go back. The text is for people.
    Abort(String),
    /// A wave may start.
    Approve(usize),
    /// A wave passes without the evidence that it waits for.
    GoOn(usize),
    /// Failed devices are told again.
    RetryFailed,
}

/// An order cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Somebody ordered something else meanwhile.
    #[error(
        "the orders were changed meanwhile (revision {is}, not {expected}): look again, then repeat it"
    )]
    Stale {
        /// What the order was given against.
        expected: u64,
        /// What it is.
        is: u64,
    },
    /// Nothing follows an abort.
    #[error("the rollout was aborted already")]
    Aborted,
}

impl Orders {
    /// The orders after one more, which was given by somebody who saw `revision`. One that holds already changes
    /// nothing, whatever was seen.
    ///
    /// # Errors
    /// [`OrderError`] if it is out of date, or the rollout was aborted.
    pub fn with(&self, revision: u64, order: &Order) -> Result<Self, OrderError> {
        let mut next = self.clone();
        match order {
            Order::Pause => next.paused = true,
            Order::Resume => next.paused = false,
            Order::Abort(_) if self.aborted.is_some() => {}
            Order::Abort(why) => next.aborted = Some(why.clone()),
            Order::Approve(wave) => _ = next.approved.insert(*wave),
            Order::GoOn(wave) => _ = next.overridden.insert(*wave),
            Order::RetryFailed => next.retries += 1,
        }
        if next == *self {
            return Ok(next);
        }
        if self.aborted.is_some() {
            return Err(OrderError::Aborted);
        }
        // An abort is safe whatever else was ordered meanwhile.
        if revision != self.revision && !matches!(order, Order::Abort(_)) {
            return Err(OrderError::Stale { expected: revision, is: self.revision });
        }
        next.revision += 1;
        Ok(next)
    }
}
