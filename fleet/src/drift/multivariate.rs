//! Several components at once: how far the embeddings of windows, taken together, are from those of the reference.
//!
//! Where a bundle declares an embedding, devices sum up its codes and their random Fourier features. Sums of windows
//! that follow each other are added up until there are as many vectors as the calibration's smallest windows have;
//! of these there are two T² ([`selvedge_bundle::multivariate`]), each beside the threshold that other sources of the
//! reference data gave for about as many vectors.
//!
//! This is for people to read. Nothing follows from it: states are the detectors', which have a stated rate of false
//! alarms over time. A threshold here is for one window, and is exceeded by chance now and then.

use serde::Serialize;
use utoipa::ToSchema;

use selvedge_bundle::{
    Baseline, EmbeddingCalibration,
    multivariate::{Reference, Threshold, WindowSums},
};
use selvedge_sketch::{GatewayProfile, LinearSums, OutputCounts};
use selvedge_wire::{DeviceId, SlotName};

use super::{
    Window,
    judge::{Step, steps},
};

/// What the sums of embeddings say, taken together.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MultivariateView {
    /// The output tensor that is the embedding.
    pub tensor: String,
    /// Its values for one sample.
    pub width: u8,
    /// How many random Fourier features are made of them.
    pub random_features: u8,
    /// How many vectors the reference has.
    pub reference_vectors: u64,
    /// From how many sessions these are; none without a calibration.
    pub reference_sources: Option<u32>,
    /// From how many other sessions the thresholds are; none without them.
    pub calibration_sources: Option<u32>,
    /// Windows are added up until there are so many vectors.
    pub vectors_wanted: u64,
    /// What all origins together give.
    pub cohort: CourseView,
    /// What each gives by itself.
    pub origins: Vec<OriginCourseView>,
}

/// What one origin gives by itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OriginCourseView {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// Its slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// What it gives.
    pub course: CourseView,
}

/// Distances in the order of time.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CourseView {
    /// The newest ones.
    pub points: Vec<PointView>,
    /// Vectors that are not enough for another one yet.
    pub waiting: u64,
}

/// How far the vectors of some windows are from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct PointView {
    /// When the first of the windows opened, in Unix milliseconds.
    pub opened_ms: u64,
    /// When the last one closed.
    pub closed_ms: u64,
    /// How many vectors they have.
    pub vectors: u64,
    /// Mahalanobis: the mean of the embedding.
    pub embedding: DistanceView,
    /// The mean of its random Fourier features, which any change of the distribution moves.
    pub random_features: DistanceView,
    /// The component of the embedding whose mean is farthest from the reference's, from 0.
    pub component: usize,
    /// How far it is, in standard errors. Of many components one is always far.
    pub deviation: f64,
}

impl PointView {
    /// The worse of what is found.
    pub fn finding(&self) -> DistanceFinding {
        self.embedding.finding.max(self.random_features.finding)
    }
}

/// A T², and what it is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct DistanceView {
    /// Hotelling's T².
    pub t_squared: f64,
    /// What clean windows seldom exceed; none where that is not known.
    pub threshold: Option<f64>,
    /// How seldom, if clean windows and those of the calibration are exchangeable.
    pub chance: Option<f64>,
    /// What is found.
    pub finding: DistanceFinding,
}

/// What a T² says, from the least to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceFinding {
    /// The reference data have too few sources for a threshold.
    Uncalibrated,
    /// There is no threshold for so many vectors.
    OutsideCalibration,
    /// No farther than clean windows are.
    Within,
    /// Farther than clean windows are, but for the stated chance.
    Beyond,
}

impl DistanceFinding {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uncalibrated => "uncalibrated",
            Self::OutsideCalibration => "outside calibration",
            Self::Within => "within",
            Self::Beyond => "beyond",
        }
    }
}

impl MultivariateView {
    /// Judges windows that are sorted by [`Window::place`], as of `now_ms`; those of several origins in steps of
    /// `step_ms`. None where the baseline has no embedding. Of each course the newest `points_max` are told.
    pub fn of(
        baseline: &Baseline,
        windows: &[Window],
        step_ms: u64,
        now_ms: u64,
        points_max: usize,
    ) -> Option<Self> {
        let embedding = baseline.embedding()?;
        let ruler = Ruler::of(baseline)?;
        let read = |window: &Window| {
            let profile = window.read(baseline)?;
            Some((window.opened_ms, window.closed_ms, profile))
        };
        let origin = |windows: &[Window]| OriginCourseView {
            device: windows[0].origin.device.clone(),
            slot: windows[0].origin.slot.clone(),
            course: ruler.course(windows.iter().filter_map(read), points_max),
        };
        let origins: Vec<OriginCourseView> =
            windows.chunk_by(|a, b| a.origin == b.origin).map(origin).collect();
        let cohort = match &origins[..] {
            [only] => only.course.clone(),
            _ => {
                let steps = steps(baseline, windows, step_ms, now_ms);
                let step = |step: Step| (step.opened_ms, step.closed_ms, step.profile);
                ruler.course(steps.map(step), points_max)
            }
        };
        let calibration = embedding.calibration.as_ref();
        Some(Self {
            tensor: embedding.tensor.clone(),
            width: embedding.width,
            random_features: embedding.projection.features,
            reference_vectors: embedding.moments.as_ref()?.embedding.count(),
            reference_sources: calibration.map(|calibration| calibration.reference_sources),
            calibration_sources: calibration.map(|calibration| calibration.sources),
            vectors_wanted: ruler.vectors_wanted,
            cohort,
            origins,
        })
    }
}

/// What windows are held against.
struct Ruler<'a> {
    embedding: Reference,
    random_features: Reference,
    calibration: Option<&'a EmbeddingCalibration>,
    vectors_wanted: u64,
}

impl<'a> Ruler<'a> {
    /// None if the baseline has no sums over embeddings of the reference.
    fn of(baseline: &'a Baseline) -> Option<Self> {
        let embedding = baseline.embedding()?;
        let moments = embedding.moments.as_ref()?;
        let calibration = embedding.calibration.as_ref();
        let smallest = calibration.and_then(|calibration| calibration.embedding.first());
        let samples_min = u64::from(baseline.policy().samples_min());
        Some(Self {
            embedding: Reference::fit(&moments.embedding).ok()?,
            random_features: Reference::fit(&moments.random_features).ok()?,
            calibration,
            vectors_wanted: smallest.map_or(samples_min, |smallest| smallest.vectors),
        })
    }

    /// Distances of windows in their order: when each opened and closed, and what it counted.
    fn course(
        &self,
        windows: impl Iterator<Item = (u64, u64, GatewayProfile)>,
        points_max: usize,
    ) -> CourseView {
        let mut points = Vec::new();
        let mut open: Option<(u64, LinearSums, LinearSums)> = None;
        for (opened_ms, closed_ms, profile) in windows {
            let Some((embedding, random_features)) = self.sums(profile.outputs()) else { continue };
            let (since_ms, of_embedding, of_features) =
                open.get_or_insert_with(|| (opened_ms, LinearSums::new(), LinearSums::new()));
            of_embedding.merge(embedding).expect("what fits a baseline adds up");
            of_features.merge(random_features).expect("likewise");
            if u64::from(of_embedding.vectors()) >= self.vectors_wanted {
                points.push(self.point((*since_ms, closed_ms), of_embedding, of_features));
                open = None;
            }
        }
        points.drain(..points.len().saturating_sub(points_max));
        let waiting = open.map_or(0, |(_, embedding, _)| embedding.vectors().into());
        CourseView { points, waiting }
    }

    /// The sums of a window, if it has some and they are whole.
    fn sums<'p>(&self, outputs: &'p OutputCounts) -> Option<(&'p LinearSums, &'p LinearSums)> {
        let (embedding, features) = (outputs.embedding(), outputs.random_features());
        let fits = embedding.vectors() > 0
            && embedding.vectors() == features.vectors()
            && !embedding.saturated();
        fits.then_some((embedding, features))
    }

    fn point(
        &self,
        (opened_ms, closed_ms): (u64, u64),
        embedding: &LinearSums,
        random_features: &LinearSums,
    ) -> PointView {
        let sums = |sums: &LinearSums| WindowSums {
            count: sums.vectors().into(),
            sums: sums.sums().to_vec(),
        };
        let (embedding, random_features) = (sums(embedding), sums(random_features));
        let deviations = self.embedding.deviations(&embedding).expect("the widths are the same");
        let farthest = deviations.into_iter().enumerate();
        let farthest = farthest.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()));
        let (component, deviation) = farthest.expect("an embedding has a component");
        let thresholds = |of: fn(&EmbeddingCalibration) -> &Vec<Threshold>| {
            self.calibration.map(|calibration| &of(calibration)[..])
        };
        PointView {
            opened_ms,
            closed_ms,
            vectors: embedding.count,
            embedding: distance(&self.embedding, &embedding, thresholds(|it| &it.embedding)),
            random_features: distance(
                &self.random_features,
                &random_features,
                thresholds(|it| &it.random_features),
            ),
            component,
            deviation,
        }
    }
}

fn distance(
    reference: &Reference,
    window: &WindowSums,
    thresholds: Option<&[Threshold]>,
) -> DistanceView {
    let t_squared = reference.t_squared(window).expect("the widths are the same");
    let threshold = thresholds.and_then(|all| Threshold::for_vectors(all, window.count));
    let finding = match (thresholds, threshold) {
        (None, _) => DistanceFinding::Uncalibrated,
        (Some(_), None) => DistanceFinding::OutsideCalibration,
        (_, Some(threshold)) if t_squared > threshold.t_squared() => DistanceFinding::Beyond,
        (_, Some(_)) => DistanceFinding::Within,
    };
    DistanceView {
        t_squared,
        threshold: threshold.map(Threshold::t_squared),
        chance: threshold.map(Threshold::chance),
        finding,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use selvedge_sketch::DetectorState;

    use super::*;
    use crate::{
        drift::{Origin, Sites, judge},
        testing::{
            name,
            reference::{
                CORRELATION, Noise, WINDOW, baseline, correlated_baseline, correlated_profile,
                encoded, profile,
            },
        },
    };

    static BASELINE: LazyLock<Baseline> = LazyLock::new(correlated_baseline);

    const STEP_MS: u64 = 60_000;

    /// So many windows of each device, whose values have the correlation that is said for its place.
    fn windows(
        (devices, count): (u64, u64),
        samples: usize,
        correlation: impl Fn(u64, u64) -> f32,
    ) -> Vec<Window> {
        let mut noise = Noise(23);
        let places = (0..devices).flat_map(|device| (0..count).map(move |at| (device, at)));
        places
            .map(|(device, at)| {
                let correlation = correlation(device, at);
                let counted = correlated_profile(&BASELINE, &mut noise, samples, correlation);
                window(device, at, &counted)
            })
            .collect()
    }

    fn window(device: u64, at: u64, counted: &GatewayProfile) -> Window {
        Window {
            origin: Origin {
                device: name(&format!("line-{device:02}")),
                slot: "main".parse().expect("the name is well formed"),
            },
            boot: 1,
            first: at,
            last: at,
            opened_ms: at * STEP_MS,
            closed_ms: (at + 1) * STEP_MS,
            profile: encoded(counted),
        }
    }

    fn look(windows: &[Window], points_max: usize) -> MultivariateView {
        let view = MultivariateView::of(&BASELINE, windows, STEP_MS, u64::MAX, points_max);
        view.expect("the baseline has an embedding")
    }

    #[test]
    fn a_correlation_that_turns_is_beyond_while_every_stream_stays_steady() {
        let turned = |_, at| if at < 20 { CORRELATION } else { -CORRELATION };
        let windows = windows((1, 60), WINDOW, turned);
        let judgement = judge(&BASELINE, &Sites::new(), &windows, u64::MAX, 64);
        assert_eq!(judgement.cohort.state, DetectorState::Steady, "{:?}", judgement.cohort.changes);
        let course = look(&windows, 100).cohort;
        assert_eq!((course.points.len(), course.waiting), (60, 0));
        for (at, point) in course.points.iter().enumerate().skip(20) {
            assert_eq!(point.random_features.finding, DistanceFinding::Beyond, "{at}: {point:?}");
        }
        let early = course.points[..20].iter().filter(|it| it.finding() == DistanceFinding::Beyond);
        assert!(early.count() <= 1, "{:?}", &course.points[..20]);
    }

    #[test]
    fn clean_windows_of_other_sources_seldom_exceed_the_thresholds() {
        let view = look(&windows((4, 100), WINDOW, |_, _| CORRELATION), 100);
        assert_eq!((view.reference_sources, view.calibration_sources), (Some(50), Some(50)));
        let points = || view.origins.iter().flat_map(|origin| &origin.course.points);
        assert_eq!(points().count(), 400);
        let beyond = |distance: fn(&PointView) -> DistanceView| {
            let distances = points().map(distance);
            let chance = distances.clone().filter_map(|it| it.chance).fold(0.0, f64::max);
            assert!((0.009..0.011).contains(&chance), "{chance}");
            distances.filter(|it| it.finding == DistanceFinding::Beyond).count()
        };
        // Four are stated; that a threshold comes from 100 windows alone may double it.
        let (embedding, features) = (beyond(|it| it.embedding), beyond(|it| it.random_features));
        assert!(embedding <= 12 && features <= 12, "{embedding} {features}");
    }

    #[test]
    fn small_windows_are_added_up_and_the_newest_points_are_told() {
        let view = look(&windows((1, 23), 100, |_, _| CORRELATION), 5);
        assert_eq!(view.vectors_wanted, WINDOW as u64);
        let course = &view.cohort;
        assert_eq!((course.points.len(), course.waiting), (5, 200));
        let newest = course.points[4];
        assert_eq!((newest.vectors, newest.opened_ms), (300, 18 * STEP_MS));
        assert_eq!(newest.closed_ms, 21 * STEP_MS);
        assert_eq!(newest.finding(), DistanceFinding::Within, "{newest:?}");
        assert_eq!(view.origins[0].course, *course, "it stands alone");
    }

    #[test]
    fn what_many_devices_share_is_seen_in_their_sum_and_too_large_a_sum_is_not_judged() {
        let shared = look(&windows((5, 4), 50, |_, _| 0.0), 100);
        assert_eq!(shared.cohort.points.len(), 4);
        let beyond =
            shared.cohort.points.iter().filter(|it| it.finding() == DistanceFinding::Beyond);
        assert_eq!(beyond.count(), 4, "{:?}", shared.cohort);
        assert!(shared.origins.iter().all(|origin| origin.course.points.is_empty()));
        let large = look(&windows((5, 2), WINDOW, |_, _| CORRELATION), 100);
        let newest = large.cohort.points[1];
        assert_eq!(newest.vectors, 5 * WINDOW as u64);
        assert_eq!(newest.finding(), DistanceFinding::OutsideCalibration);
        assert_eq!((newest.embedding.threshold, newest.embedding.chance), (None, None));
    }

    #[test]
    fn sums_that_cannot_be_of_the_embedding_are_left_out() {
        let counted = correlated_profile(&BASELINE, &mut Noise(5), WINDOW, CORRELATION);
        let mut odd = GatewayProfile::new(BASELINE.spec_id(), 2).expect("two features fit");
        odd.outputs_mut().observe_embedding(&[1i8, 2, 3]).expect("it is the first");
        odd.outputs_mut().observe_random_features(&[1i8; 64]).expect("it is the first");
        let mut half = GatewayProfile::new(BASELINE.spec_id(), 2).expect("two features fit");
        half.outputs_mut().observe_embedding(&[1i8, 2]).expect("it is the first");
        let windows: Vec<Window> =
            (0..).zip([&odd, &half, &counted]).map(|(at, it)| window(0, at, it)).collect();
        let course = look(&windows, 100).cohort;
        assert_eq!(course.points.len(), 1);
        assert_eq!((course.points[0].vectors, course.points[0].opened_ms), (250, 2 * STEP_MS));
    }

    #[test]
    fn without_an_embedding_nothing_is_said() {
        let baseline = baseline(50);
        let window = window(0, 0, &profile(&baseline, &mut Noise(5), 50, 0.0));
        assert!(MultivariateView::of(&baseline, &[window], STEP_MS, u64::MAX, 5).is_none());
    }
}
