//! Whether the counts of a stream still come from the reference: a mixture of Shiryaev–Roberts
//! e-detectors on the cells of one feature.
//!
//! Each component `k` holds a guess of how the distribution might change, `q_k`. A window with counts
//! `c` is evidence for it by the likelihood ratio Π (q_b / p_b)^c_b, tempered to the power η, and
//! `R ← e · (1 + R)` adds up over all times at which the change may have begun. The alarm is where the
//! mean of the components' `R` reaches `A`.
//!
//! **What is a theorem**: if the cells of the windows are independent draws from the reference's `p`,
//! then the first alarm comes after at least `A` windows on average (Shin, Ramdas and Rinaldo 2023:
//! E-detectors), with every rounding of this code counted; so also for the mean of any
//! streams that depend on each other in any way, and for what [`e_bh`](crate::e_bh) rejects. **What
//! is empirical**: that η, measured on the reference, makes up for windows that vary more than
//! independent draws do, and that the margin makes up for a reference that is itself a sample.
//!
//! Vocabulary: a *cell* is a bin, a guard, or a group of classes; a window is *concluded* when it was
//! tested, alone or together with those before it that had too few samples; a *cycle* is the number of
//! windows after which a rhythm repeats.

mod calibration;
mod detector;
mod learner;
mod mixture;
mod table;

pub use calibration::{Calibration, VarianceInflation};
pub use detector::{Detector, DetectorPolicy, DetectorState, Finding, STATE_VERSION, conclude_all};
pub use table::{CELL_COUNT_MAX, Change, Measurement, ScoreTable};

#[cfg(test)]
mod tests;
