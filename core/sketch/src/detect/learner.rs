//! What the windows before looked like: a guess that is learnt, for changes that were not foreseen.
//!
//! With `a` samples of the reference's weights `w` and `N` learnt ones, a sample in cell `b` is evidence by
//! q_b / p_b = (a w_b + 2¹⁶ N_b) / (w_b (a + N)). The shares of `q` sum up to one and are known before the
//! window is, so the evidence is an e-value like that of a fixed guess.

use serde::{Deserialize, Serialize};

use super::{CELL_COUNT_MAX, mixture::Tested};
use crate::evidence::{ln_down, ln_up};

/// Samples that the reference stands for in what is learnt. Less, and a calm stream loses more to
/// noise; more, and it takes more windows to learn a change.
const PRIOR: u32 = 128;
/// A window is learnt as at most this many samples.
const LEARNT_BITS: u32 = 12;
/// Of what was learnt, a quarter is forgotten with each window.
const FORGOTTEN_SHIFT: u32 = 3;

/// The shares of the cells in units of 2⁻¹⁶, and their logarithms, rounded up; 0 beyond the last cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    pub(super) weights: [u16; CELL_COUNT_MAX],
    pub(super) logs: [i32; CELL_COUNT_MAX],
}

impl Weights {
    pub(super) fn new(weights: [u16; CELL_COUNT_MAX]) -> Self {
        let logs = weights.map(|weight| if weight == 0 { 0 } else { ln_up(weight.into()) });
        Self { weights, logs }
    }
}

/// Windows that fade: samples per cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Learner([u16; CELL_COUNT_MAX]);

impl Learner {
    pub(super) const fn new() -> Self {
        Self([0; CELL_COUNT_MAX])
    }

    /// Whether it could have come about: the sum stays below what [`learn`](Self::learn) converges to.
    pub(super) fn is_sound(&self) -> bool {
        self.total() <= 1 << (LEARNT_BITS + FORGOTTEN_SHIFT)
    }

    /// The logarithm of the likelihood ratio, rounded down, in units of 2⁻¹⁶ nat.
    pub(super) fn evidence(&self, weights: &Weights, tested: &Tested<'_>) -> i64 {
        let denominator = ln_up(PRIOR + self.total());
        let mut log = 0;
        for (cell, &learnt) in self.0.iter().enumerate() {
            let weight = u32::from(weights.weights[cell]);
            if weight > 0 {
                let numerator = PRIOR * weight + (u32::from(learnt) << 16);
                let score = ln_down(numerator) - weights.logs[cell] - denominator;
                log += i64::from(tested.cells[cell]) * i64::from(score);
            }
        }
        log
    }

    pub(super) fn learn(&mut self, tested: &Tested<'_>) {
        let bits = u64::BITS - tested.total.leading_zeros();
        let shift = bits.saturating_sub(LEARNT_BITS);
        for (learnt, &count) in self.0.iter_mut().zip(tested.cells) {
            let kept = u32::from(*learnt) - u32::from(*learnt).div_ceil(1 << FORGOTTEN_SHIFT);
            let kept = kept + (count.cast_unsigned() >> shift);
            *learnt = u16::try_from(kept).expect("windows of at most 2¹² samples fade");
        }
    }

    fn total(&self) -> u32 {
        self.0.iter().map(|&count| u32::from(count)).sum()
    }
}
