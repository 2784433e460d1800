//! A model that was checked, loaded and warmed, with what is needed to count its samples.

use std::panic::{AssertUnwindSafe, catch_unwind};

use selvedge_bundle::{Bundle, SampleSpec};
use selvedge_runtime::{Answer, LoadOptions, Model, Sample};
use selvedge_sketch::{BinSpec, SpecId};
use selvedge_wire::Running;

use crate::error::one_line;

/// What answers samples.
pub trait Answerer: Send {
    /// The answer to one sample.
    ///
    /// # Errors
    /// One sentence that says why there is none.
    fn answer(&self, sample: &Sample) -> Result<Answer, String>;

    /// What a profile counts of a sample: one value per bin of [`FeatureBins`]; none if the sample does
    /// not have the right shape.
    fn features(&self, sample: &Sample) -> Option<Vec<f32>>;
}

/// The bins that samples are counted in.
#[derive(Clone, Debug)]
pub struct FeatureBins {
    /// Names the bins.
    pub spec_id: SpecId,
    /// The bins of each feature.
    pub bins: Vec<BinSpec>,
}

/// A bundle that may answer.
pub struct LoadedModel {
    /// Which bundle it is.
    pub running: Running,
    /// What it takes.
    pub sample: SampleSpec,
    /// How its samples are counted.
    pub features: FeatureBins,
    /// Its model.
    pub answerer: Box<dyn Answerer>,
}

impl LoadedModel {
    /// Loads the model of a bundle, checks its golden vectors, and lets it answer once.
    ///
    /// # Errors
    /// One sentence that says why the bundle must not run here.
    pub fn load(bundle: &Bundle) -> Result<Self, String> {
        let loaded =
            catch_unwind(AssertUnwindSafe(|| Model::load(bundle, &LoadOptions::default())));
        let model = loaded
            .map_err(|_| "the model made the inference engine panic".to_owned())?
            .map_err(|error| one_line(&error))?;
        let manifest = bundle.manifest();
        Ok(Self {
            running: Running {
                bundle: bundle.digest(),
                name: manifest.name.to_string(),
                version: manifest.version.to_string(),
            },
            sample: manifest.sample.clone(),
            features: feature_bins(bundle, model.feature_names())?,
            answerer: Box::new(Runtime(model)),
        })
    }
}

/// The bins of the bundle's baseline, which are those of the model's features.
fn feature_bins(bundle: &Bundle, names: &[String]) -> Result<FeatureBins, String> {
    let Some(baseline) = bundle.baseline() else {
        return Ok(FeatureBins { spec_id: SpecId([0; SpecId::BYTES]), bins: Vec::new() });
    };
    let features = baseline.features();
    if !features.iter().map(|feature| &feature.name).eq(names) {
        return Err("the baseline does not have the features of the manifest's samples".to_owned());
    }
    let bins = features.iter().map(|feature| feature.spec.clone()).collect();
    Ok(FeatureBins { spec_id: baseline.spec_id(), bins })
}

struct Runtime(Model);

impl Answerer for Runtime {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        // A sample that finds a fault in the engine costs its sender an answer, not the device.
        let answer = catch_unwind(AssertUnwindSafe(|| self.0.answer(sample)));
        let answer = answer.map_err(|_| "the inference engine panicked".to_owned())?;
        answer.map_err(|error| one_line(&error))
    }

    fn features(&self, sample: &Sample) -> Option<Vec<f32>> {
        self.0.features(sample).ok()
    }
}
