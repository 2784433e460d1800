//! A bundle's model, checked and ready to answer.
//!
//! A [`Model`] exists only if its graph is runnable and known to be computed rightly, fits its manifest (names, axes,
//! types), can be prepared from a sample, and reproduced its golden vectors on this CPU.

use selvedge_bundle::{Bundle, Extent, Golden, Manifest, NamedTensor, TensorData, TensorSpec};

use crate::engine::{BatchAxis, TensorPort};
use crate::error::Error;
use crate::features::FeatureReader;
use crate::golden::{self, GoldenReport};
use crate::graph::{DeclaredTensor, Graph};
use crate::limits::Limits;
use crate::plan::{Computation, Plan};
use crate::post::{Answer, Conclusion};
use crate::pre::Preparation;
use crate::sample::Sample;
use crate::tensors::{only_row, row, stacked};

/// Samples that run together when golden vectors or long inputs go through the plan for batches.
pub const BATCH_SAMPLES: usize = 32;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Bounds on the model and its inputs.
    pub limits: Limits,
    /// Whether to prepare a second plan for many samples at once. It costs the memory of another copy of the packed
    /// weights; without it `answer_batch` answers sample by sample.
    pub batched: bool,
}

/// A model that answers. It can be shared between threads and starts none of its own.
#[derive(Debug)]
pub struct Model {
    input: TensorPort,
    preparation: Preparation,
    conclusion: Conclusion,
    features: FeatureReader,
    one: Plan,
    many: Option<Plan>,
    golden: GoldenReport,
    limits: Limits,
}

impl Model {
    /// Loads a bundle's model and checks it against the bundle's manifest and golden vectors.
    ///
    /// # Errors
    /// Any of [`ErrorKind::Bundle`](crate::ErrorKind) and [`ErrorKind::Limit`](crate::ErrorKind); the message names
    /// what does not fit, with both sides.
    pub fn load(bundle: &Bundle, options: &LoadOptions) -> Result<Model, Error> {
        let program = bundle.program();
        Model::assemble(bundle.manifest(), bundle.model(), program, bundle.golden(), options)
    }

    /// Loads a model whose parts are not in a bundle yet. Without a program, the graph is lowered here.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_parts(
        manifest: &Manifest,
        onnx: &[u8],
        golden: &Golden,
        options: &LoadOptions,
    ) -> Result<Model, Error> {
        Model::assemble(manifest, onnx, None, golden, options)
    }

    fn assemble(
        manifest: &Manifest,
        onnx: &[u8],
        program: Option<&[u8]>,
        golden: &Golden,
        options: &LoadOptions,
    ) -> Result<Model, Error> {
        let graph = Graph::decode(onnx, &options.limits)?;
        let inputs = ports("input", &manifest.inputs, &graph.inputs())?;
        let outputs = ports("output", &manifest.outputs, &graph.outputs())?;
        let limits = &options.limits;
        let one = match program {
            Some(program) => {
                Plan::of_program(program, &inputs, &outputs, Computation::Best, limits)?
            }
            None => Plan::build(&graph, &inputs, &outputs, Computation::Best, limits)?,
        };
        let report = golden::check(manifest, golden, &one, 1)?;
        let input = inputs[0].clone();
        let many = match input.batch {
            BatchAxis::Free if options.batched => {
                Plan::for_batches(&graph, &inputs, &outputs, limits)?
            }
            _ => None,
        };
        if let Some(many) = &many {
            golden::check(manifest, golden, many, BATCH_SAMPLES)?;
        }
        Ok(Model {
            input,
            preparation: Preparation::of(manifest),
            conclusion: Conclusion::of(manifest),
            features: FeatureReader::of(manifest),
            one,
            many,
            golden: report,
            limits: options.limits.clone(),
        })
    }

    /// Answers one sample.
    ///
    /// # Errors
    /// [`ErrorKind::Sample`](crate::ErrorKind) for a sample of another shape or with values that are not finite
    /// numbers, [`ErrorKind::Engine`](crate::ErrorKind) if the engine fails.
    pub fn answer(&self, sample: &Sample) -> Result<Answer, Error> {
        let prepared = self.preparation.apply(sample)?;
        let outputs = self.one.run(vec![self.stacked(vec![prepared])])?;
        self.conclusion.apply(outputs.into_iter().map(only_row).collect())
    }

    /// Answers many samples, in their order.
    ///
    /// # Errors
    /// As [`Model::answer`], for the first sample that cannot be answered; and
    /// [`ErrorKind::Limit`](crate::ErrorKind) beyond [`Limits::batch_samples_max`].
    pub fn answer_batch(&self, samples: &[Sample]) -> Result<Vec<Answer>, Error> {
        Error::check_limit("samples in one batch", samples.len(), self.limits.batch_samples_max)?;
        match &self.many {
            Some(many) if samples.len() > 1 => self.answer_together(many, samples),
            _ => samples.iter().map(|sample| self.answer(sample)).collect(),
        }
    }

    /// What profiles count of a sample, in the order of [`Model::feature_names`]: columns of a row as they are, or
    /// summaries of an image's pixels. Values may be NaN or infinite here: they are counted.
    ///
    /// # Errors
    /// [`ErrorKind::Sample`](crate::ErrorKind) for a sample of another shape.
    pub fn features(&self, sample: &Sample) -> Result<Vec<f32>, Error> {
        self.features.read(sample)
    }

    /// The names of the features, which are those of the bundle's baseline.
    pub fn feature_names(&self) -> &[String] {
        self.features.names()
    }

    /// How well the golden vectors were reproduced when the model was loaded.
    pub fn golden(&self) -> &GoldenReport {
        &self.golden
    }

    fn answer_together(&self, many: &Plan, samples: &[Sample]) -> Result<Vec<Answer>, Error> {
        let prepared: Vec<TensorData> = samples
            .iter()
            .map(|sample| self.preparation.apply(sample))
            .collect::<Result<_, _>>()?;
        let outputs = many.run(vec![self.stacked(prepared)])?;
        if let Some(output) =
            outputs.iter().find(|output| output.shape().first() != Some(&samples.len()))
        {
            return Err(Error::Tensor {
                side: "output",
                name: output.name().to_owned(),
                manifest: format!("for {} samples", samples.len()),
                model: format!("{:?}", output.shape()),
            });
        }
        let answer = |sample| {
            self.conclusion.apply(outputs.iter().map(|output| row(output, sample)).collect())
        };
        (0..samples.len()).map(answer).collect()
    }

    fn stacked(&self, prepared: Vec<TensorData>) -> NamedTensor {
        stacked(&self.input.name, &self.input.shape, prepared)
    }
}

/// The tensors of the manifest as the graph has them, or how they differ.
pub(crate) fn ports(
    side: &'static str,
    specs: &[TensorSpec],
    declared: &[DeclaredTensor],
) -> Result<Vec<TensorPort>, Error> {
    let find = |spec: &TensorSpec| declared.iter().find(|tensor| tensor.name == spec.name);
    // Every input has to be fed; an output that the manifest leaves out is not computed.
    let all_fed = side == "output" || specs.len() == declared.len();
    if !all_fed || specs.iter().any(|spec| find(spec).is_none()) {
        return Err(Error::TensorNames {
            side: if side == "input" { "inputs" } else { "outputs" },
            manifest: quoted(specs.iter().map(|spec| spec.name.as_str())),
            model: quoted(declared.iter().map(|tensor| tensor.name.as_str())),
        });
    }
    specs
        .iter()
        .map(|spec| port(side, spec, find(spec).expect("missing names were refused")))
        .collect()
}

fn port(
    side: &'static str,
    spec: &TensorSpec,
    declared: &DeclaredTensor,
) -> Result<TensorPort, Error> {
    let differs = || Error::Tensor {
        side,
        name: spec.name.clone(),
        manifest: format!("{} {}", spec.dtype, shape_text(&spec.shape)),
        model: format!(
            "{} {}",
            declared.dtype.map_or("of an unsupported type", |dtype| dtype.as_str()),
            declared.shape_text()
        ),
    };
    let shape = spec.sample_shape();
    let batch = match spec.shape.first() {
        Some(Extent::Free) => BatchAxis::Free,
        _ => BatchAxis::One,
    };
    let fits = match declared.shape.as_deref() {
        None => side == "output",
        Some([]) => false,
        Some([first, rest @ ..]) => {
            let same_batch = first.is_none() || (*first == Some(1) && batch == BatchAxis::One);
            let same =
                |(axis, extent): (&Option<usize>, &usize)| axis.is_none_or(|axis| axis == *extent);
            same_batch && rest.len() == shape.len() && rest.iter().zip(&shape).all(same)
        }
    };
    if declared.dtype != Some(spec.dtype) || !fits {
        return Err(differs());
    }
    Ok(TensorPort { name: spec.name.clone(), dtype: spec.dtype, batch, shape })
}

fn shape_text(shape: &[Extent]) -> String {
    let extents: Vec<String> = shape.iter().map(|extent| i64::from(*extent).to_string()).collect();
    format!("[{}]", extents.join(", "))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
