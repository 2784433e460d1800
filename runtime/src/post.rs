//! From the model's outputs to an answer, as the manifest's `[[post]]` steps say.

use selvedge_bundle::{DType, Manifest, NamedTensor, PostStep, TensorSpec};

use crate::error::Error;
use crate::math::{argmax, softmax};

/// What a model says about one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The outputs of the manifest, in its order: `[axis, …]`, without a batch axis, dtype and unit as there.
    pub outputs: Vec<NamedTensor>,
    /// The class, if the manifest has an argmax or threshold step.
    pub class: Option<ClassAnswer>,
    /// `[class] f32`, each last axis sums to one; there if the manifest has a softmax step (of several, the last).
    pub probabilities: Option<Vec<f32>>,
}

impl Answer {
    /// How sure the model is of the class, 0 to 1: its probability; none where the manifest asks for no softmax.
    pub fn confidence(&self) -> Option<f32> {
        let class = self.class.as_ref()?;
        self.probabilities.as_ref()?.get(class.index).copied()
    }
}

/// The class of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassAnswer {
    /// Its index.
    pub index: usize,
    /// Its label, if the manifest has labels.
    pub label: Option<String>,
    /// Its probability after a softmax of the same output, else the output's value.
    pub score: f32,
}

/// The steps from outputs to an answer.
#[derive(Clone, Debug)]
pub(crate) struct Conclusion {
    steps: Vec<(Output, Step)>,
    labels: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Softmax,
    Argmax { of_probabilities: bool },
    Threshold { at: f32 },
}

/// Which output a step reads, and the real value of its integers.
#[derive(Clone, Debug)]
struct Output {
    name: String,
    index: usize,
    last_axis: usize,
    scale: f32,
    zero_point: f32,
}

impl Conclusion {
    /// The steps of a manifest.
    pub(crate) fn of(manifest: &Manifest) -> Conclusion {
        let mut last_softmax = None;
        let step = |step: &PostStep| {
            let of_probabilities = last_softmax == Some(step.output().to_owned());
            let kind = match step {
                PostStep::Softmax { output } => {
                    last_softmax = Some(output.clone());
                    Step::Softmax
                }
                PostStep::Argmax { .. } => Step::Argmax { of_probabilities },
                PostStep::Threshold { at, .. } => Step::Threshold { at: *at as f32 },
            };
            (Output::named(step.output(), &manifest.outputs), kind)
        };
        Conclusion {
            steps: manifest.post.iter().map(step).collect(),
            labels: manifest.labels.clone(),
        }
    }

    /// The answer for one sample's outputs, without a batch axis.
    pub(crate) fn apply(&self, outputs: Vec<NamedTensor>) -> Result<Answer, Error> {
        let mut answer = Answer { outputs, class: None, probabilities: None };
        for (output, step) in &self.steps {
            let values = output.values(&answer.outputs)?;
            match step {
                Step::Softmax => {
                    answer.probabilities =
                        Some(values.chunks(output.last_axis).flat_map(softmax).collect());
                }
                Step::Argmax { of_probabilities } => {
                    let index =
                        argmax(&values).expect("an output has a value, and none of them is NaN");
                    let probabilities = answer.probabilities.as_ref().filter(|_| *of_probabilities);
                    let score = probabilities.map_or(values[index], |all| all[index]);
                    answer.class = Some(self.class(index, score));
                }
                Step::Threshold { at } => {
                    answer.class = Some(self.class(usize::from(values[0] >= *at), values[0]));
                }
            }
        }
        Ok(answer)
    }

    fn class(&self, index: usize, score: f32) -> ClassAnswer {
        ClassAnswer { index, label: self.labels.get(index).cloned(), score }
    }
}

impl Output {
    fn named(name: &str, outputs: &[TensorSpec]) -> Output {
        let index = outputs.iter().position(|output| output.name == name);
        let index = index.expect("a manifest's steps read outputs that it lists");
        let spec = &outputs[index];
        // A float output holds real values already: there the scale only states their resolution.
        let integer = spec.dtype != DType::F32;
        Output {
            name: name.to_owned(),
            index,
            last_axis: spec.sample_shape().last().copied().unwrap_or(1),
            scale: spec.scale.filter(|_| integer).unwrap_or(1.0) as f32,
            zero_point: spec.zero_point.filter(|_| integer).unwrap_or(0) as f32,
        }
    }

    /// The output's real values, none of them NaN.
    fn values(&self, outputs: &[NamedTensor]) -> Result<Vec<f32>, Error> {
        let mut values = outputs[self.index].data().to_f32();
        if values.iter().any(|value| value.is_nan()) {
            return Err(Error::OutputNotANumber { output: self.name.clone() });
        }
        values.iter_mut().for_each(|value| *value = (*value - self.zero_point) * self.scale);
        Ok(values)
    }
}
