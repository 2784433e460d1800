//! B4 in its place: how much of an example model's latency counting its samples takes, on samples that it was not
//! made of. What the agent does beside (clocks, the watch for odd values) is not in it.

use std::hint::black_box;
use std::path::Path;

use anyhow::Context;
use selvedge_bundle::Baseline;
use selvedge_runtime::{Answer, Model, Sample};
use selvedge_sketch::GatewayProfile;

use super::{Effort, Row};
use crate::bench::cpu_ns;
use crate::data::{Labels, Samples};
use crate::pack::pack_recipe;

/// The recipes, and the samples of each.
const MODELS: [(&str, &str, &str); 2] = [
    ("shuttle", "shuttle/v2", "shuttle/data/replay.csv"),
    ("digits", "meter-digits/v2", "meter-digits/data/replay.npy"),
];
const SAMPLES_MAX: usize = 400;
/// How often both are timed, in turns; the fastest counts.
const ROUNDS: usize = 10;

/// The share of each model's latency.
pub fn rows(models: &Path, effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, recipe, data) in MODELS {
        let (bundle, model) = pack_recipe(&models.join(recipe))?;
        let baseline = bundle.baseline().with_context(|| format!("{recipe} has no reference"))?;
        let spec = &bundle.manifest().sample;
        let mut samples = Samples::read(&models.join(data), spec, &Labels::Usual)?.samples;
        samples.truncate(SAMPLES_MAX);
        let (mut latency_ns, mut counting_ns) = (u64::MAX, u64::MAX);
        for _ in 0..effort.of(ROUNDS) {
            let begun = cpu_ns();
            let answers: Result<Vec<Answer>, _> =
                samples.iter().map(|sample| model.answer(sample)).collect();
            latency_ns = latency_ns.min(cpu_ns() - begun);
            let answers = answers.with_context(|| format!("{recipe} answers its own samples"))?;
            let begun = cpu_ns();
            black_box(count(&model, baseline, &samples, &answers)?);
            counting_ns = counting_ns.min(cpu_ns() - begun);
        }
        let of_one = |all_ns: u64| all_ns as f64 / samples.len() as f64;
        let share = counting_ns as f64 / latency_ns as f64;
        rows.push(Row::open(format!("B4 ns per inference, counting, {name}"), of_one(counting_ns)));
        rows.push(Row::open(format!("B4 share of the latency, {name}"), share));
    }
    Ok(rows)
}

/// One window of them.
fn count(
    model: &Model,
    baseline: &Baseline,
    samples: &[Sample],
    answers: &[Answer],
) -> anyhow::Result<GatewayProfile> {
    let features = baseline.features();
    let mut profile = GatewayProfile::new(baseline.spec_id(), features.len())
        .context("a profile has room for a baseline's features")?;
    for (sample, answer) in samples.iter().zip(answers) {
        for (index, (feature, value)) in features.iter().zip(model.features(sample)?).enumerate() {
            profile.observe_f32(index, &feature.spec, value);
        }
        let class = answer.class.as_ref().and_then(|class| u32::try_from(class.index).ok());
        if let Some(class) = class {
            profile.observe_class(class);
        }
        if let (Some(of), Some(confidence)) = (baseline.confidence(), answer.confidence()) {
            profile.outputs_mut().observe_confidence(&of.spec, class, confidence);
        }
        profile.count_sample();
    }
    Ok(profile)
}
