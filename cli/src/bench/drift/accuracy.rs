//! Accuracy without labels, from raw confidences: what the estimate from 16 bins is held against.

use selvedge_sketch::{ConfidenceSpec, Judged, cbpe};

/// A confidence, and whether the answer was right.
pub type Labelled = (f32, bool);

/// Confidence-based performance estimation with isotonic regression on raw confidences (pool adjacent violators), as
/// NannyML has it.
pub struct Isotonic {
    /// The least confidence of each step, and the accuracy from there on; both rise.
    steps: Vec<(f32, f64)>,
}

impl Isotonic {
    /// Fits the reference.
    pub fn fit(reference: &[Labelled]) -> Self {
        let mut sorted = reference.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut pools: Vec<(f32, f64, f64)> = Vec::new();
        for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
            let right = ties.iter().filter(|(_, right)| *right).count() as f64;
            pools.push((ties[0].0, right, ties.len() as f64));
            while let [.., before, last] = pools[..]
                && before.1 / before.2 >= last.1 / last.2
            {
                pools.truncate(pools.len() - 2);
                pools.push((before.0, before.1 + last.1, before.2 + last.2));
            }
        }
        let steps = pools.into_iter().map(|(from, right, total)| (from, right / total));
        Self { steps: steps.collect() }
    }

    /// The expected share of right answers among these.
    pub fn estimate(&self, confidences: &[f32]) -> f64 {
        let expected = |confidence: &f32| {
            let step = self.steps.partition_point(|(from, _)| from <= confidence);
            self.steps.get(step.saturating_sub(1)).map_or(f64::NAN, |(_, accuracy)| *accuracy)
        };
        confidences.iter().map(expected).sum::<f64>() / confidences.len() as f64
    }
}

/// The same from bins, as devices and the fleet do it.
pub fn from_bins(spec: &ConfidenceSpec, reference: &[Judged], confidences: &[f32]) -> f64 {
    let mut window = vec![0; reference.len()];
    for confidence in confidences {
        if let Some(bin) = spec.bin(*confidence) {
            window[bin] += 1;
        }
    }
    cbpe(reference, &window, false).map_or(f64::NAN, |estimate| estimate.accuracy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_with_the_confidence_is_pooled() {
        let reference =
            [(0.2, false), (0.4, true), (0.5, false), (0.9, true), (0.9, true), (0.95, true)];
        let fitted = Isotonic::fit(&reference);
        assert_eq!(fitted.steps, [(0.2, 0.0), (0.4, 0.5), (0.9, 1.0)]);
        assert_eq!(fitted.estimate(&[0.1, 0.45, 0.92, 0.99]), 2.5 / 4.0);
    }
}
