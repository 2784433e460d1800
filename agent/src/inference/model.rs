//! A model that was checked, loaded and warmed, with what is needed to count its samples.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use selvedge_bundle::{Baseline, Bundle, EmbeddingCounter, Manifest, SampleSpec};
use selvedge_runtime::{Answer, LoadOptions, Model, Sample};
use selvedge_sketch::{GatewayProfile, SpecId};
use selvedge_wire::Running;

use crate::error::one_line;

/// What answers samples.
pub trait Answerer: Send {
    /// The answer to one sample.
    ///
    /// # Errors
    /// One sentence that says why there is none.
    fn answer(&self, sample: &Sample) -> Result<Answer, String>;

    /// Leaves in `values` what a profile counts of a sample: one value per feature of the baseline; none if
    /// the sample does not have the right shape. Whoever owns `values` gives it again with the next sample.
    fn features(&self, sample: &Sample, values: &mut Vec<f32>);
}

/// A bundle that may answer.
pub struct LoadedModel {
    /// Which bundle it is.
    pub running: Running,
    /// What it takes.
    pub sample: SampleSpec,
    /// The names of its classes; empty if it has none.
    pub classes: Vec<String>,
    /// What its samples and answers are counted and judged with: its features are those of the model. A
    /// bundle without one is not judged.
    pub baseline: Option<Arc<Baseline>>,
    /// What sums up one of the outputs, if the baseline has an embedding.
    pub embedding: Option<Embedding>,
    /// Its model.
    pub answerer: Box<dyn Answerer>,
}

/// An output that is summed up.
pub struct Embedding {
    /// Its place among the outputs of an answer.
    pub output: usize,
    /// What makes codes of it.
    pub counter: EmbeddingCounter,
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
        let columns = match &manifest.sample {
            SampleSpec::Row(row) => Some(row.columns.len()),
            SampleSpec::Image(_) => None,
        };
        Ok(Self {
            running: Running {
                bundle: bundle.digest(),
                name: manifest.name.to_string(),
                version: manifest.version.to_string(),
            },
            sample: manifest.sample.clone(),
            classes: manifest.labels.clone(),
            baseline: baseline_of(bundle, model.feature_names())?,
            embedding: embedding_of(manifest, bundle.baseline())?,
            answerer: Box::new(Runtime { model, columns }),
        })
    }

    /// A profile of this bundle that has counted nothing.
    pub(crate) fn profile(&self) -> GatewayProfile {
        let baseline = self.baseline.as_ref();
        let spec_id = baseline.map_or(SpecId([0; SpecId::BYTES]), |baseline| baseline.spec_id());
        let features = baseline.map_or(0, |baseline| baseline.features().len());
        GatewayProfile::new(spec_id, features)
            .expect("a baseline has no more features than a profile")
    }

    /// Counts one sample, of which `values` are the features, and its answer if there is one.
    pub(crate) fn count(
        &self,
        profile: &mut GatewayProfile,
        values: &[f32],
        answer: Option<&Answer>,
    ) {
        match answer {
            Some(_) => profile.count_sample(),
            None => profile.count_failed_sample(),
        }
        let class = answer.and_then(|answer| answer.class.as_ref());
        let class = class.map(|class| u32::try_from(class.index).unwrap_or(u32::MAX));
        if let Some(class) = class {
            profile.observe_class(class);
        }
        let Some(baseline) = &self.baseline else { return };
        for (feature, (value, of)) in values.iter().zip(baseline.features()).enumerate() {
            profile.observe_f32(feature, &of.spec, *value);
        }
        let confidence = answer.and_then(Answer::confidence);
        if let (Some(of), Some(confidence)) = (baseline.confidence(), confidence) {
            profile.outputs_mut().observe_confidence(&of.spec, class, confidence);
        }
        if let (Some(of), Some(answer)) = (&self.embedding, answer)
            && let Some(vector) = answer.outputs.get(of.output)
        {
            of.counter.count(vector.data(), profile.outputs_mut());
        }
    }
}

/// The bundle's baseline, whose features are those of the model.
fn baseline_of(bundle: &Bundle, names: &[String]) -> Result<Option<Arc<Baseline>>, String> {
    let Some(baseline) = bundle.baseline() else { return Ok(None) };
    if !baseline.features().iter().map(|feature| &feature.name).eq(names) {
        return Err("the baseline does not have the features of the manifest's samples".to_owned());
    }
    Ok(Some(Arc::new(baseline.clone().without_moments())))
}

/// The output that the baseline's embedding is of, which is the one that the manifest names.
pub(super) fn embedding_of(
    manifest: &Manifest,
    baseline: Option<&Baseline>,
) -> Result<Option<Embedding>, String> {
    let Some(embedding) = baseline.and_then(Baseline::embedding) else { return Ok(None) };
    let (tensor, width) = (&embedding.tensor, usize::from(embedding.width));
    let output = manifest.embedding().filter(|&output| {
        let output = &manifest.outputs[output];
        output.name == *tensor && output.sample_elements() == width
    });
    let output = output.ok_or_else(|| {
        format!("the baseline's embedding {tensor:?} of {width} values is not the manifest's")
    })?;
    Ok(Some(Embedding { output, counter: embedding.counter() }))
}

struct Runtime {
    model: Model,
    // How many values a row of samples has; nothing for images.
    columns: Option<usize>,
}

impl Answerer for Runtime {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        // A sample that finds a fault in the engine costs its sender an answer, not the device.
        let answer = catch_unwind(AssertUnwindSafe(|| self.model.answer(sample)));
        let answer = answer.map_err(|_| "the inference engine panicked".to_owned())?;
        answer.map_err(|error| one_line(&error))
    }

    fn features(&self, sample: &Sample, values: &mut Vec<f32>) {
        values.clear();
        match sample {
            // The columns of a row are its features as they are.
            Sample::Row(row) if self.columns == Some(row.len()) => {
                values.extend_from_slice(&row[..self.model.feature_names().len()]);
            }
            other => values.extend(self.model.features(other).unwrap_or_default()),
        }
    }
}
