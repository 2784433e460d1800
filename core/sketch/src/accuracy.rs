//! How accurate a model is without labels, from its confidence; [`LabelCounts`](crate::LabelCounts) say it when labels
//! came.
//!
//! Without labels it is an estimate, right only as long as a confidence means what it meant on the
//! reference. Every confidence-based estimate stays too high when inputs change much; whoever shows one
//! shows [`Estimate::extrapolating`] with it.
//!
//! All of it is computed from counts that add up, so any slice of devices and windows has an accuracy.

use libm::sqrt;

/// Answers of one confidence bin whose label is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// All of them.
    pub total: u32,
    /// Those that were right.
    pub correct: u32,
}

impl Judged {
    /// How uncertain the accuracy is here, with Beta(1, 1) before anything was counted.
    fn accuracy_variance(self) -> f64 {
        let (correct, total) = (f64::from(self.correct.min(self.total)), f64::from(self.total));
        let accuracy = (correct + 1.0) / (total + 2.0);
        accuracy * (1.0 - accuracy) / (total + 3.0)
    }
}

/// An accuracy that was estimated without labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The share of right answers, 0 to 1.
    pub accuracy: f64,
    /// One standard error: of the window's samples, and of the reference where it is known.
    pub standard_error: f64,
    /// Whether the inputs have drifted, so that a confidence may mean something else now.
    pub extrapolating: bool,
}

/// Confidence-based performance estimation: each bin of confidence, in rising order, is as accurate as on the
/// reference, by isotonic regression over the bins: a higher confidence is never taken for less accurate. Of raw
/// confidences NannyML does the same.
///
/// `None` if nothing was counted, there is no reference, or the bins are not the same number.
pub fn cbpe(reference: &[Judged], window: &[u32], inputs_drifted: bool) -> Option<Estimate> {
    let total: f64 = window.iter().map(|&count| f64::from(count)).sum();
    if reference.len() != window.len() || total == 0.0 {
        return None;
    }
    let (mut estimate, mut variance) = (0.0, 0.0);
    for (bin, (judged, &count)) in reference.iter().zip(window).enumerate() {
        let (share, accuracy) = (f64::from(count) / total, isotonic(reference, bin)?);
        estimate += share * accuracy;
        variance += share * share * judged.accuracy_variance();
        variance += share * accuracy * (1.0 - accuracy) / total;
    }
    let standard_error = sqrt(variance);
    Some(Estimate { accuracy: estimate, standard_error, extrapolating: inputs_drifted })
}

/// The isotonic regression of the accuracy at a bin: the least, over all bins from it on as the end, of the largest
/// accuracy of a range that ends there and begins no later than at it (Robertson, Wright and Dykstra 1988,
/// *Order Restricted Statistical Inference*, theorem 1.4.4). A bin without labels has that of the next lower one that
/// has some. `None` if none has.
fn isotonic(reference: &[Judged], bin: usize) -> Option<f64> {
    let largest_to = |end: usize| {
        let (mut correct, mut total, mut largest) = (0.0_f64, 0.0_f64, None::<f64>);
        for (place, judged) in reference[..=end].iter().enumerate().rev() {
            correct += f64::from(judged.correct.min(judged.total));
            total += f64::from(judged.total);
            if place <= bin && total > 0.0 {
                let accuracy = correct / total;
                largest = Some(largest.map_or(accuracy, |largest| largest.max(accuracy)));
            }
        }
        largest
    };
    (bin..reference.len()).filter_map(largest_to).min_by(f64::total_cmp)
}

/// The bin from which on answers count as right in [`atc`], so that on the reference as many do as are
/// right. With an edge at the confidence that does so exactly, nothing is lost to the bins.
pub fn atc_threshold(reference: &[Judged]) -> usize {
    let correct: u64 = reference.iter().map(|judged| u64::from(judged.correct)).sum();
    let (mut above, mut best) = (0u64, (correct, reference.len()));
    for (bin, judged) in reference.iter().enumerate().rev() {
        above += u64::from(judged.total);
        best = best.min((above.abs_diff(correct), bin));
    }
    best.1
}

/// Average thresholded confidence (Garg et al. 2022): the share of answers in confidence bins from
/// `threshold` on, as [`atc_threshold`] gave it. `None` if nothing was counted.
pub fn atc(threshold: usize, window: &[u32], inputs_drifted: bool) -> Option<Estimate> {
    let total: f64 = window.iter().map(|&count| f64::from(count)).sum();
    if total == 0.0 {
        return None;
    }
    let above = window.iter().skip(threshold).map(|&count| f64::from(count)).sum::<f64>();
    let accuracy = above / total;
    let standard_error = sqrt(accuracy * (1.0 - accuracy) / total);
    Some(Estimate { accuracy, standard_error, extrapolating: inputs_drifted })
}

/// The expected calibration error, Σ share × |accuracy − confidence|, 0 to 1: `confidences` has the mean
/// confidence of each bin, or its middle. `None` without labels, or if the bins are not the same number.
pub fn calibration_error(bins: &[Judged], confidences: &[f32]) -> Option<f64> {
    let total: f64 = bins.iter().map(|judged| f64::from(judged.total)).sum();
    if bins.len() != confidences.len() || total == 0.0 {
        return None;
    }
    let parts = bins.iter().zip(confidences).map(|(judged, &confidence)| {
        libm::fabs(f64::from(judged.correct) - f64::from(judged.total) * f64::from(confidence))
    });
    Some(parts.sum::<f64>() / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(total: u32, correct: u32) -> Judged {
        Judged { total, correct }
    }

    #[test]
    fn a_window_like_the_reference_has_its_accuracy() {
        let reference = [judged(1000, 500), judged(2000, 1600), judged(7000, 6930)];
        let estimate = cbpe(&reference, &[100, 200, 700], false).expect("samples were counted");
        assert!((estimate.accuracy - 0.903).abs() < 1e-3, "{estimate:?}");
        assert!(!estimate.extrapolating);
        let doubtful = cbpe(&reference, &[700, 200, 100], true).expect("samples were counted");
        assert!(doubtful.accuracy < 0.65 && doubtful.extrapolating, "{doubtful:?}");
    }

    #[test]
    fn a_higher_confidence_is_never_taken_for_less_accurate() {
        let reference = [judged(0, 0), judged(10, 2), judged(0, 0), judged(10, 8), judged(30, 20)];
        let accuracies: [Option<f64>; 5] = core::array::from_fn(|bin| isotonic(&reference, bin));
        assert_eq!(accuracies, [0.2, 0.2, 0.2, 0.7, 0.7].map(Some));
        assert_eq!(isotonic(&[judged(0, 0)], 0), None);
    }

    #[test]
    fn the_threshold_passes_as_many_as_were_right() {
        let reference = [judged(100, 10), judged(100, 50), judged(800, 760)];
        assert_eq!(atc_threshold(&reference), 2);
        let estimate = atc(2, &[50, 50, 100], false).expect("samples were counted");
        assert_eq!(estimate.accuracy, 0.5);
        // An edge exactly where it must be: the estimate on the reference is its accuracy.
        let exact = [judged(180, 0), judged(820, 820)];
        assert_eq!(atc_threshold(&exact), 1);
    }

    #[test]
    fn confidence_that_is_too_high_is_a_calibration_error() {
        let bins = [judged(100, 40), judged(300, 240)];
        let error = calibration_error(&bins, &[0.5, 0.9]).expect("labels came");
        assert!((error - (10.0 + 30.0) / 400.0).abs() < 1e-6, "{error}");
    }

    #[test]
    fn without_labels_there_is_no_accuracy() {
        assert_eq!(cbpe(&[judged(1, 1)], &[0], false), None);
        assert_eq!(cbpe(&[judged(1, 1)], &[1, 1], false), None);
        assert_eq!(atc(0, &[], false), None);
        assert_eq!(calibration_error(&[judged(0, 0)], &[0.5]), None);
    }
}
