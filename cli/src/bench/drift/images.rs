//! B7: what of thirteen corruptions of the digits is found in windows of 200 images, by which sketch, at
//! which rate of false alarms on images that nothing was tuned on.
//!
//! Three sets of images are disjoint: the reference makes means, covariances and edges; calibration
//! windows make thresholds; test windows, clean and corrupted, are counted. The held-out images are split
//! in halves for calibration and test, many times anew, and rates are means over the splits.
//!
//! A window is drawn with replacement, since a set is hardly larger than a window. All windows of a set
//! are therefore off by what its images happen to be, and a threshold from a single set knows nothing of
//! how far another one may be off: it alarms up to eight times as often as stated. So the calibration
//! images make two sources, each half the size of the test set and thus farther off than that; which is
//! on the safe side.

use selvedge_bundle::multivariate::{
    Reference, ReferenceMoments, Refusal, WindowSums, conformal_threshold,
};
use selvedge_sketch::{
    BinCounts, BinSpec, Error, Projection, VECTOR_WIDTH_MAX, key_from_f32, shift_for,
};

use super::corruptions::{Corruption, Image, PIXEL_MAX, PIXELS, SIDE};
use crate::bench::SplitMix;

/// Images in a window.
pub const WINDOW_IMAGES: usize = 200;
/// How often the held-out images are split anew, for figures that are reported.
pub const SPLITS: usize = 20;
/// Calibration windows of a split.
const CALIBRATION_WINDOWS: usize = 2000;
/// Sources of calibration windows: sets that a split's calibration images fall into.
const CALIBRATION_SOURCES: usize = 2;
/// Clean test windows of a split.
const CLEAN_WINDOWS: usize = 500;
/// Test windows of a split and a corruption.
const CORRUPTED_WINDOWS: usize = 50;
/// The chance of a false alarm that thresholds are made for.
const FALSE_ALARMS: f64 = 0.005;
/// Bins of a scalar.
const BINS: usize = 16;

/// What the model says of an image.
#[derive(Clone, Debug)]
pub struct Answer {
    /// \[feature\] i8, as quantised.
    pub embedding: Vec<i8>,
    /// The probability of the class that it gives, 0 to 1.
    pub confidence: f32,
}

/// One statistic over all splits.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The statistic.
    pub name: &'static str,
    /// Which share of clean test windows alarmed.
    pub false_alarms: f64,
    /// Which share of windows with a corruption alarmed, in the order of [`Corruption::ALL`].
    pub detections: Vec<f64>,
}

impl Outcome {
    /// The mean over all corruptions.
    pub fn detection(&self) -> f64 {
        self.detections.iter().sum::<f64>() / self.detections.len() as f64
    }
}

/// The scalars of an image that are counted in bins.
const SCALARS: [&str; 5] =
    ["confidence bins", "image mean bins", "image sd bins", "edge energy bins", "saturation bins"];

/// The widths of the random Fourier features.
const FEATURE_COUNTS: [usize; 3] = [32, 64, 128];

const EMBEDDING: &str = "embedding mean, Mahalanobis";
const FOURIER: [&str; 3] = ["RFF T², D=32", "RFF T², D=64", "RFF T², D=128"];

/// Statistics that alarm together, each at its share of the false alarms.
const TOGETHER: [(&str, &[&str]); 3] = [
    ("embedding mean or RFF 64", &[EMBEDDING, FOURIER[1]]),
    ("embedding mean or image mean bins", &[EMBEDDING, SCALARS[1]]),
    ("all five scalars", &SCALARS),
];

/// Judges what can be seen through a model: `answer` runs it on an image, `reference` and `held_out` are
/// images of two disjoint sets. Rates are means over `splits` of the latter.
///
/// # Errors
/// If an embedding is wider than a projection, or there are too few images for a covariance.
pub fn measure(
    reference: &[Image],
    held_out: &[Image],
    answer: &dyn Fn(&[u8]) -> Answer,
    splits: usize,
    seed: u64,
) -> anyhow::Result<Vec<Outcome>> {
    let mut random = SplitMix(seed);
    let answers: Vec<Answer> = reference.iter().map(|image| answer(image)).collect();
    let eyes = Eyes::new(&answers, random.next())?;
    let see = |image: &Image| eyes.see(image, &answer(image));
    let seen: Vec<Sample> = reference.iter().map(see).collect::<Result<_, Error>>()?;
    let statistics = statistics(&seen)?;
    let clean: Vec<Sample> = held_out.iter().map(see).collect::<Result<_, Error>>()?;
    let mut corrupted: Vec<Vec<Sample>> = Vec::new();
    for corruption in Corruption::ALL {
        let broken = held_out.iter().map(|image| corruption.apply(image, random.next()));
        corrupted.push(broken.map(|image| see(&image)).collect::<Result<_, Error>>()?);
    }
    let mut order: Vec<usize> = (0..held_out.len()).collect();
    let mut judged = Vec::new();
    for _ in 0..splits {
        for last in (1..order.len()).rev() {
            order.swap(last, (random.next() % (last as u64 + 1)) as usize);
        }
        let (calibration, test) = order.split_at(order.len() / 2);
        let mut windows = |samples: &[Sample], from: &[usize], count: usize| {
            let judged =
                (0..count).map(|_| judge(&statistics, &window(samples, from, &mut random)));
            judged.collect::<anyhow::Result<Vec<Distances>>>()
        };
        let mut calibrated = Vec::new();
        for source in calibration.chunks(calibration.len().div_ceil(CALIBRATION_SOURCES).max(1)) {
            calibrated.extend(windows(&clean, source, CALIBRATION_WINDOWS / CALIBRATION_SOURCES)?);
        }
        judged.push(Split {
            calibration: calibrated,
            clean: windows(&clean, test, CLEAN_WINDOWS)?,
            corrupted: corrupted
                .iter()
                .map(|samples| windows(samples, test, CORRUPTED_WINDOWS))
                .collect::<anyhow::Result<_>>()?,
        });
    }
    let place = |name: &str| statistics.iter().position(|statistic| statistic.name == name);
    let alone = statistics.iter().map(|statistic| (statistic.name, vec![statistic.name]));
    let together = TOGETHER.iter().map(|&(name, parts)| (name, parts.to_vec()));
    let outcomes = alone.chain(together).map(|(name, parts)| {
        let parts: Vec<usize> = parts.iter().filter_map(|part| place(part)).collect();
        outcome(name, &parts, &judged)
    });
    Ok(outcomes.collect::<Result<_, Refusal>>()?)
}

/// What devices see of an image: the features of the embedding, and scalars.
struct Eyes {
    projections: Vec<Box<Projection<VECTOR_WIDTH_MAX, VECTOR_WIDTH_MAX>>>,
}

/// An image as it is summed up.
struct Sample {
    embedding: Vec<i8>,
    features: Vec<Vec<i8>>,
    keys: [i32; SCALARS.len()],
}

impl Eyes {
    /// With projections that fit the distances between the reference's embeddings.
    fn new(answers: &[Answer], seed: u64) -> Result<Self, Error> {
        let width = answers.first().map_or(0, |answer| answer.embedding.len());
        let shift = shift_for(median_distance(answers));
        let projections = FEATURE_COUNTS
            .iter()
            .map(|&count| Projection::new(seed, width, count, shift).map(Box::new));
        Ok(Self { projections: projections.collect::<Result<_, Error>>()? })
    }

    fn see(&self, image: &Image, answer: &Answer) -> Result<Sample, Error> {
        let features = self.projections.iter().map(|projection| {
            let features = projection.features(&answer.embedding)?;
            Ok(features[..projection.feature_count()].to_vec())
        });
        Ok(Sample {
            features: features.collect::<Result<_, Error>>()?,
            embedding: answer.embedding.clone(),
            keys: scalars(image, answer.confidence).map(key_from_f32),
        })
    }
}

/// In the order of [`SCALARS`].
fn scalars(image: &Image, confidence: f32) -> [f32; SCALARS.len()] {
    let pixels = image.map(f32::from);
    let mean = pixels.iter().sum::<f32>() / PIXELS as f32;
    let variance = pixels.iter().map(|pixel| (pixel - mean).powi(2)).sum::<f32>() / PIXELS as f32;
    let step = |from: usize, to: usize| (pixels[to] - pixels[from]).powi(2);
    let right = (0..PIXELS).filter(|pixel| pixel % SIDE < SIDE - 1).map(|at| step(at, at + 1));
    let down = (0..PIXELS - SIDE).map(|at| step(at, at + SIDE));
    let ends = image.iter().filter(|&&pixel| pixel == 0 || pixel == PIXEL_MAX).count();
    let edges = right.chain(down).sum::<f32>();
    [confidence, mean, variance.sqrt(), edges, ends as f32]
}

/// Between neighbours in the order given, in codes.
fn median_distance(answers: &[Answer]) -> u32 {
    let squared = |pair: &[Answer]| -> u32 {
        let codes = pair[0].embedding.iter().zip(&pair[1].embedding);
        codes.map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2).unsigned_abs()).sum()
    };
    let mut distances: Vec<u32> = answers.windows(2).map(squared).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).map_or(0, |squared| squared.isqrt())
}

type Window<'a> = Vec<&'a Sample>;

/// Draws a window's images, with replacement.
fn window<'a>(samples: &'a [Sample], from: &[usize], random: &mut SplitMix) -> Window<'a> {
    let mut draw = || from[(random.next() % from.len() as u64) as usize];
    (0..WINDOW_IMAGES).map(|_| &samples[draw()]).collect()
}

struct Statistic {
    name: &'static str,
    of: Box<Distance>,
}

/// How far a window is from the reference.
type Distance = dyn Fn(&Window<'_>) -> Result<f64, Refusal>;

/// All statistics, with what each knows of the reference.
fn statistics(reference: &[Sample]) -> anyhow::Result<Vec<Statistic>> {
    let mut statistics = vec![t_squared(EMBEDDING, reference, |sample| &sample.embedding)?];
    for (place, name) in FOURIER.into_iter().enumerate() {
        statistics.push(t_squared(name, reference, move |sample| &sample.features[place])?);
    }
    for (place, name) in SCALARS.into_iter().enumerate() {
        statistics.push(chi_square(name, reference, move |sample| sample.keys[place])?);
    }
    Ok(statistics)
}

fn t_squared(
    name: &'static str,
    reference: &[Sample],
    vector: impl Fn(&Sample) -> &Vec<i8> + 'static,
) -> Result<Statistic, Refusal> {
    let width = reference.first().map_or(0, |sample| vector(sample).len());
    let mut moments = ReferenceMoments::new(width);
    reference.iter().for_each(|sample| moments.observe(vector(sample)));
    let reference = Reference::fit(&moments)?;
    let of = move |window: &Window<'_>| {
        let mut sums = vec![0; width];
        for sample in window {
            sums.iter_mut().zip(vector(sample)).for_each(|(sum, &code)| *sum += i64::from(code));
        }
        reference.t_squared(&WindowSums { count: window.len() as u64, sums })
    };
    Ok(Statistic { name, of: Box::new(of) })
}

/// Pearson's X² of the counts in bins that hold equal parts of the reference, with half a count added.
fn chi_square(
    name: &'static str,
    reference: &[Sample],
    key: impl Fn(&Sample) -> i32 + 'static,
) -> Result<Statistic, Error> {
    let mut keys: Vec<i32> = reference.iter().map(&key).collect();
    keys.sort_unstable();
    let (min, max) = (keys.first().copied().unwrap_or(0), keys.last().copied().unwrap_or(0));
    let mut edges: Vec<i32> = (1..BINS).map(|bin| keys[bin * keys.len() / BINS]).collect();
    edges.dedup();
    edges.retain(|&edge| min < edge);
    let spec = BinSpec::new(&edges, min, max)?;
    let cell_of_bin = cells(&counted(&spec, &mut keys.iter().copied()), reference.len());
    let cell_count = cell_of_bin.last().map_or(0, |last| last + 1);
    let count = move |keys: &mut dyn Iterator<Item = i32>| {
        let mut cells = vec![0.0; cell_count];
        let bins = counted(&spec, keys);
        bins.iter().zip(&cell_of_bin).for_each(|(count, &cell)| cells[cell] += count);
        cells
    };
    let expected = count(&mut keys.into_iter());
    let total = reference.len() as f64 + 0.5 * expected.len() as f64;
    let of = move |window: &Window<'_>| {
        let observed = count(&mut window.iter().map(|sample| key(sample)));
        let n = window.len() as f64;
        let terms = observed.iter().zip(&expected).map(|(observed, expected)| {
            let expected = n * (expected + 0.5) / total;
            (observed - expected).powi(2) / expected
        });
        Ok(terms.sum())
    };
    Ok(Statistic { name, of: Box::new(of) })
}

/// How many keys each bin has. Those outside of the guard belong to the outermost bins.
fn counted(spec: &BinSpec, keys: &mut dyn Iterator<Item = i32>) -> Vec<f64> {
    let mut counts = BinCounts::new();
    keys.for_each(|key| counts.observe(spec, key));
    let last = spec.bin_count() - 1;
    let mut bins: Vec<f64> = counts.bins()[..=last].iter().map(|&count| count.into()).collect();
    bins[0] += f64::from(counts.below());
    bins[last] += f64::from(counts.above());
    bins
}

/// Which cell each bin belongs to: neighbours share one until a window has five or more on average, as
/// the statistic asks for.
fn cells(bins: &[f64], total: usize) -> Vec<usize> {
    let least = 5.0 * total as f64 / WINDOW_IMAGES as f64;
    let (mut cell, mut held) = (0, 0.0);
    let mut cell_of_bin: Vec<usize> = Vec::new();
    for &count in bins {
        if held >= least {
            (cell, held) = (cell + 1, 0.0);
        }
        held += count;
        cell_of_bin.push(cell);
    }
    // What is left over at the end is too little for a cell of its own.
    if held < least && cell > 0 {
        cell_of_bin.iter_mut().filter(|of_bin| **of_bin == cell).for_each(|of_bin| *of_bin -= 1);
    }
    cell_of_bin
}

/// A window by every statistic.
type Distances = Vec<f64>;

struct Split {
    calibration: Vec<Distances>,
    clean: Vec<Distances>,
    /// Per corruption.
    corrupted: Vec<Vec<Distances>>,
}

fn judge(statistics: &[Statistic], window: &Window<'_>) -> anyhow::Result<Distances> {
    let distances = statistics.iter().map(|statistic| (statistic.of)(window));
    Ok(distances.collect::<Result<_, Refusal>>()?)
}

/// Of statistics that share the false alarms between them.
fn outcome(name: &'static str, parts: &[usize], splits: &[Split]) -> Result<Outcome, Refusal> {
    let (mut false_alarms, mut detections) = (0.0, vec![0.0; Corruption::ALL.len()]);
    for split in splits {
        let threshold = |&part: &usize| {
            let mut of_part: Vec<f64> = split.calibration.iter().map(|all| all[part]).collect();
            let threshold = conformal_threshold(&mut of_part, FALSE_ALARMS / parts.len() as f64)?;
            Ok((part, threshold))
        };
        let thresholds = parts.iter().map(threshold).collect::<Result<Vec<_>, Refusal>>()?;
        let share = |windows: &[Distances]| {
            let alarms =
                |all: &&Distances| thresholds.iter().any(|&(part, limit)| all[part] > limit);
            windows.iter().filter(alarms).count() as f64 / windows.len() as f64
        };
        false_alarms += share(&split.clean) / splits.len() as f64;
        for (detection, windows) in detections.iter_mut().zip(&split.corrupted) {
            *detection += share(windows) / splits.len() as f64;
        }
    }
    Ok(Outcome { name, false_alarms, detections })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob somewhere near the middle, in place of a digit.
    fn blob(random: &mut SplitMix) -> Image {
        let mut near = |middle: f32| middle + 0.7 * random.normal();
        let (y, x, size) = (near(3.5), near(3.5), near(4.0).max(1.0));
        std::array::from_fn(|pixel| {
            let distance =
                ((pixel / SIDE) as f32 - y).powi(2) + ((pixel % SIDE) as f32 - x).powi(2);
            (f32::from(PIXEL_MAX) * (-distance / size).exp()).round() as u8
        })
    }

    /// Sums of 2×2 pixels, in place of a model.
    fn answer(image: &[u8]) -> Answer {
        let sum = |square: usize| {
            let corner = square / 4 * 2 * SIDE + square % 4 * 2;
            [0, 1, SIDE, SIDE + 1].iter().map(|step| i16::from(image[corner + step])).sum::<i16>()
        };
        let code = |square| i8::try_from(sum(square) - 64).expect("a sum is at most 64");
        Answer { embedding: (0..16).map(code).collect(), confidence: 0.5 }
    }

    #[test]
    fn clean_windows_seldom_alarm_and_corrupted_ones_do() {
        let mut random = SplitMix(11);
        let mut images =
            |count: usize| (0..count).map(|_| blob(&mut random)).collect::<Vec<Image>>();
        let (reference, held_out) = (images(400), images(200));
        let outcomes = measure(&reference, &held_out, &answer, 1, 5).expect("the sets are large");
        for name in [EMBEDDING, FOURIER[1]] {
            let found = outcomes.iter().find(|outcome| outcome.name == name);
            let outcome = found.expect("every statistic has an outcome");
            assert!(outcome.false_alarms <= 0.02, "{outcome:?}");
            assert!(outcome.detection() >= 0.8, "{outcome:?}");
        }
    }

    #[test]
    fn cells_are_large_enough_and_cover_all_bins() {
        let bins = [10.0, 0.0, 90.0, 3.0, 200.0, 1.0, 1.0];
        assert_eq!(cells(&bins, 305), [0, 1, 1, 2, 2, 2, 2]);
        assert_eq!(cells(&[1.0], 305), [0]);
    }
}
