//! `selvedge bench drift`: how often the detector is wrong, and how long it takes to be right.
//!
//! Every stream comes from the seed that is given: another seed, other streams, the same bounds. The
//! rows B1, B2 and B8 are those of `docs/drift.md`, which holds what was measured.

mod delays;
mod false_alarms;
mod faults;
mod fleet;
mod streams;
mod windows;

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured, and its unit.
    pub name: String,
    /// What came out.
    pub value: f64,
    /// What may come out.
    pub bound: Bound,
}

/// What a value is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Row {
    fn at_most(name: impl Into<String>, value: f64, bound: f64) -> Self {
        Self { name: name.into(), value, bound: Bound::AtMost(bound) }
    }

    fn at_least(name: impl Into<String>, value: f64, bound: f64) -> Self {
        Self { name: name.into(), value, bound: Bound::AtLeast(bound) }
    }

    /// Whether the value is within its bound.
    pub fn pass(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
        }
    }
}

/// Measures every row that the detector alone answers for.
pub fn rows(seed: u64) -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(seed);
    let parts: [fn(&mut fastrand::Rng) -> Vec<Row>; 4] =
        [false_alarms::rows, delays::rows, fleet::rows, faults::rows];
    // Each part has a generator of its own, so that a longer one does not change the next.
    parts.iter().flat_map(|part| part(&mut random.fork())).collect()
}
