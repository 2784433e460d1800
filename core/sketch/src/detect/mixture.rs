//! One e-detector: its components, and what it learnt about the shape of the windows before.

use serde::{Deserialize, Serialize};

use super::{
    CELL_COUNT_MAX, Change, ScoreTable,
    learner::Learner,
    table::{FIXED_COUNT_MAX, Temper},
};
use crate::evidence::{FRACTION_BITS, LogEvidence};

/// The component that follows the guesses.
const SHAPE: usize = FIXED_COUNT_MAX;
const COMPONENT_COUNT: usize = SHAPE + 1;

/// Bits behind the point of a [`Component::cusum`].
const CUSUM_SHIFT: u32 = FRACTION_BITS - 8;

/// A window, or several that were merged.
pub(super) struct Tested<'a> {
    pub(super) cells: &'a [i32; CELL_COUNT_MAX],
    pub(super) total: u64,
    pub(super) windows: u16,
}

/// The components of a table and their evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mixture {
    components: [Component; COMPONENT_COUNT],
    learner: Learner,
    /// The mean of the components' evidence.
    mean: LogEvidence,
}

impl Mixture {
    pub(super) const fn new() -> Self {
        Self {
            components: [Component::NEW; COMPONENT_COUNT],
            learner: Learner::new(),
            mean: LogEvidence::NONE,
        }
    }

    /// Whether it could have come about.
    pub(super) fn is_sound(&self) -> bool {
        self.learner.is_sound()
    }

    /// Adds the evidence of what was tested. No component keeps more than `cap`.
    pub(super) fn add(
        &mut self,
        table: &ScoreTable,
        temper: &Temper,
        tested: &Tested<'_>,
        cap: LogEvidence,
    ) {
        let start = LogEvidence::of(tested.windows.into());
        for (component, guess) in self.components.iter_mut().zip(&table.guesses) {
            let evidence = guess.evidence(tested.cells, tested.total, temper);
            component.add(evidence, start, tested.windows, cap);
        }
        let evidence =
            temper.evidence_of_shape(self.learner.evidence(&table.weights, tested), tested.total);
        self.components[SHAPE].add(evidence, start, tested.windows, cap);
        self.learner.learn(tested);
        self.mean = LogEvidence::mean(self.used(table).map(|(_, component)| component.evidence));
    }

    /// The logarithm of the mean of the components' evidence.
    pub(super) const fn evidence(&self) -> LogEvidence {
        self.mean
    }

    /// What has the most evidence, how much, and since how many windows.
    pub(super) fn leading(&self, table: &ScoreTable) -> (LogEvidence, Change, u16) {
        let (change, component) = self
            .used(table)
            .max_by_key(|(_, component)| component.evidence)
            .expect("the shape is always a component");
        (component.evidence, change, component.windows)
    }

    fn used<'a>(&'a self, table: &'a ScoreTable) -> impl Iterator<Item = (Change, &'a Component)> {
        let fixed = &self.components[..table.guesses.len()];
        table.changes().zip(fixed.iter().chain([&self.components[SHAPE]]))
    }
}

/// The evidence for one guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Component {
    evidence: LogEvidence,
    /// The evidence since its last minimum, in units of 2⁻⁸ nat.
    cusum: i16,
    /// Windows since that minimum: the most likely time of the change, as Page's CUSUM has it.
    windows: u16,
}

impl Component {
    const NEW: Self = Self { evidence: LogEvidence::NONE, cusum: 0, windows: 0 };

    fn add(&mut self, log: i32, start: LogEvidence, windows: u16, cap: LogEvidence) {
        let evidence = self.evidence.plus(start).times(LogEvidence::from_raw(log));
        self.evidence = evidence.min(cap);
        if self.cusum <= 0 {
            (self.cusum, self.windows) = (0, 0);
        }
        self.windows = self.windows.saturating_add(windows);
        let step = log >> CUSUM_SHIFT;
        let range = i32::from(i16::MIN)..=i32::from(i16::MAX);
        let cusum = (i32::from(self.cusum) + step).clamp(*range.start(), *range.end());
        self.cusum = i16::try_from(cusum).expect("it was clamped");
    }
}
