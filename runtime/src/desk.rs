//! What making a bundle needs and a device does not: looking at an ONNX file, proposing a manifest for it, and
//! computing golden vectors where nobody else did.

use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_bundle::{DType, Extent, Golden, Manifest, NamedTensor, TensorSpec};
use selvedge_engine::Limits as EngineLimits;

use crate::engine::{BatchAxis, TensorPort, TractPlan};
use crate::error::Error;
use crate::graph::{DeclaredTensor, Graph, Quantisation};
use crate::integer::LoadedProgram;
use crate::limits::Limits;
use crate::lower::{Lowering, lower};
use crate::model::ports;
use crate::plan::{Computation, Plan};
use crate::pre::Preparation;
use crate::sample::Sample;
use crate::survey::{PlanSurvey, ProgramSurvey};
use crate::tensors::{only_row, stacked};

/// Operator sets that tract is tested with.
pub const OPSETS_TESTED: std::ops::RangeInclusive<i64> = 9..=18;

/// What computes self-made golden vectors.
pub const SELF_MADE_FRAMEWORK: &str =
    "integer programs without kernels, and tract 0.23.9 for the rest of the graph as written";

/// How far a float output of a model without quantisation may be from its self-made golden vector, as a share of the
/// largest value: room for another order of summation.
const FLOAT_TOLERANCE: f64 = 1e-3;

/// The same inside a quantised graph whose output has no scale: room for one intermediate value on the other side of
/// a rounding.
const QUANTISED_TOLERANCE: f64 = 1e-2;

/// What an ONNX file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxSurvey {
    /// The tensors that a caller gives.
    pub inputs: Vec<DeclaredTensor>,
    /// The tensors that the graph gives.
    pub outputs: Vec<OutputSurvey>,
    /// The version of the default operator set; 0 if the file names none.
    pub opset: i64,
    /// How often each operator occurs, subgraphs included.
    pub operators: BTreeMap<String, usize>,
    /// Operators that this runtime does not have, by name.
    pub unsupported: Vec<String>,
    /// Chains from DequantizeLinear over a softmax to QuantizeLinear that are left to tract, which computes them
    /// wrongly: their nodes.
    pub quantised_softmax: Vec<Vec<String>>,
}

/// An output of an ONNX graph.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSurvey {
    /// Its declaration.
    pub tensor: DeclaredTensor,
    /// Its quantisation, if it leaves the graph through DequantizeLinear.
    pub quantisation: Option<Quantisation>,
    /// The operator that makes it.
    pub operator: Option<String>,
}

impl OnnxSurvey {
    /// Refuses what could not be loaded.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::QuantisedSoftmax`], by name.
    pub fn check(&self) -> Result<(), Error> {
        match (self.unsupported.as_slice(), self.quantised_softmax.first()) {
            ([], None) => Ok(()),
            ([], Some(nodes)) => Err(Error::QuantisedSoftmax { nodes: nodes.clone() }),
            (operators, _) => Err(Error::Unsupported { operators: operators.to_vec() }),
        }
    }

    /// Whether the graph has integers inside.
    pub fn is_quantised(&self) -> bool {
        self.operators.keys().any(|operator| {
            operator.contains("Quantize")
                || operator.contains("QLinear")
                || operator.ends_with("Integer")
        })
    }
}

/// An ONNX file that runs on raw tensors, one sample at a time, without a manifest.
#[derive(Debug)]
pub struct BareModel {
    inputs: Vec<TensorPort>,
    plan: Plan,
}

impl BareModel {
    /// Builds the optimised model; axes of free length become 1.
    ///
    /// # Errors
    /// As [`Model::load`](crate::Model::load), as far as it goes without a manifest.
    pub fn build(onnx: &[u8], limits: &Limits) -> Result<BareModel, Error> {
        let graph = Graph::decode(onnx, limits)?;
        let inputs: Vec<TensorPort> =
            graph.inputs().iter().map(bare_port).collect::<Result<_, _>>()?;
        let plan = Plan::of_all_outputs(&graph, &inputs, limits)?;
        Ok(BareModel { inputs, plan })
    }

    /// Likewise, with tract alone: what integer programs are measured against.
    ///
    /// # Errors
    /// As [`BareModel::build`], and [`Error::QuantisedSoftmax`] for what tract computes wrongly.
    pub fn by_tract(onnx: &[u8], limits: &Limits) -> Result<BareModel, Error> {
        let graph = Graph::decode(onnx, limits)?;
        graph.judge()?;
        let inputs: Vec<TensorPort> =
            graph.inputs().iter().map(bare_port).collect::<Result<_, _>>()?;
        let plan = TractPlan::of_all_outputs(&graph, &inputs, limits).map(Plan::Tract)?;
        Ok(BareModel { inputs, plan })
    }

    /// The inputs: name, type, and shape `[1, axis…]`.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, DType, Vec<usize>)> {
        self.inputs.iter().map(described)
    }

    /// The outputs, likewise.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, DType, Vec<usize>)> {
        self.plan.outputs().into_iter().map(described)
    }

    /// Runs the model on its inputs, in their order.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`](crate::ErrorKind).
    pub fn run(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        self.plan.run(inputs)
    }
}

fn bare_port(tensor: &DeclaredTensor) -> Result<TensorPort, Error> {
    let refuse =
        |detail: &str| Error::Undescribed { name: tensor.name.clone(), detail: detail.to_owned() };
    let dtype = tensor.dtype.ok_or_else(|| refuse("its type is none of f32, i8, u8, i32, i64"))?;
    let shape = tensor.shape.as_deref().ok_or_else(|| refuse("the file declares no shape"))?;
    match shape.split_first() {
        Some((None | Some(1), rest)) => {
            let shape = rest.iter().map(|extent| extent.unwrap_or(1)).collect();
            Ok(TensorPort { name: tensor.name.clone(), dtype, batch: BatchAxis::One, shape })
        }
        _ => Err(refuse("its first axis is not a batch, free or 1")),
    }
}

fn described(port: &TensorPort) -> (&str, DType, Vec<usize>) {
    (&port.name, port.dtype, [vec![1], port.shape.clone()].concat())
}

/// Looks at an ONNX file without building it. What integer programs compute is not tract's to support.
///
/// # Errors
/// [`Error::Malformed`], [`Error::ExternalWeights`], [`Error::Limit`].
pub fn survey(onnx: &[u8], limits: &Limits) -> Result<OnnxSurvey, Error> {
    let graph = Graph::decode(onnx, limits)?;
    let inputs = graph.inputs().iter().map(bare_port).collect::<Result<Vec<_>, _>>();
    let rest = inputs.ok().map(|inputs| {
        let outputs = graph.outputs();
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        lower(&graph, &inputs, &names, &EngineLimits::new())
    });
    let (unsupported, quantised_softmax) = match &rest {
        Some(Lowering::Whole(_)) => (Vec::new(), Vec::new()),
        Some(Lowering::Rest(rest)) => (rest.graph.unsupported(), rest.graph.miscomputed_chains()),
        None => (graph.unsupported(), graph.miscomputed_chains()),
    };
    let output = |tensor: DeclaredTensor| OutputSurvey {
        quantisation: graph.quantisation(&tensor.name),
        operator: graph.operator_of(&tensor.name).map(str::to_owned),
        tensor,
    };
    Ok(OnnxSurvey {
        inputs: graph.inputs(),
        outputs: graph.outputs().into_iter().map(output).collect(),
        opset: graph.opset(),
        operators: graph.operators(),
        unsupported,
        quantised_softmax,
    })
}

/// The manifest's description of a tensor, or what the file leaves open about it. `axes` names the axes behind the
/// batch axis.
///
/// # Errors
/// [`Error::Undescribed`], which says what to export differently.
pub fn tensor_spec(
    tensor: &DeclaredTensor,
    quantisation: Option<Quantisation>,
    axes: &[&str],
) -> Result<TensorSpec, Error> {
    let refuse = |detail: String| Error::Undescribed { name: tensor.name.clone(), detail };
    let dtype = tensor
        .dtype
        .ok_or_else(|| refuse("its type is none of f32, i8, u8, i32, i64".to_owned()))?;
    let shape =
        tensor.shape.as_deref().ok_or_else(|| refuse("the file declares no shape".to_owned()))?;
    let Some((first, rest)) = shape.split_first() else {
        return Err(refuse("it has no batch axis".to_owned()));
    };
    if !matches!(first, None | Some(1)) {
        let detail = format!(
            "its first axis must be the batch, free or 1, and the shape is {}",
            tensor.shape_text()
        );
        return Err(refuse(detail));
    }
    let fixed = |extent: &Option<usize>| {
        extent.and_then(|extent| u32::try_from(extent).ok()).map(Extent::Fixed)
    };
    let rest: Option<Vec<Extent>> = rest.iter().map(fixed).collect();
    let rest = rest.ok_or_else(|| {
        refuse(format!("only the first axis may be free, and the shape is {}", tensor.shape_text()))
    })?;
    let axis = |index: usize| {
        axes.get(index).map_or(format!("axis{}", index + 1), |name| (*name).to_owned())
    };
    let axes = (0..rest.len()).map(axis);
    Ok(TensorSpec {
        name: tensor.name.clone(),
        axes: std::iter::once("batch".to_owned()).chain(axes).collect(),
        shape: [vec![first.map_or(Extent::Free, |_| Extent::Fixed(1))], rest].concat(),
        dtype,
        unit: None,
        min: None,
        max: None,
        scale: quantisation.map(|quantisation| f64::from(quantisation.scale)),
        zero_point: quantisation.map(|quantisation| quantisation.zero_point),
    })
}

/// The integer program that computes the whole graph, if there is one.
///
/// # Errors
/// As [`Model::load`](crate::Model::load), as far as it goes without golden vectors.
pub fn program(
    manifest: &Manifest,
    onnx: &[u8],
    limits: &Limits,
) -> Result<Option<Vec<u8>>, Error> {
    let graph = Graph::decode(onnx, limits)?;
    let inputs = ports("input", &manifest.inputs, &graph.inputs())?;
    let outputs = ports("output", &manifest.outputs, &graph.outputs())?;
    let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    Ok(match lower(&graph, &inputs, &names, &EngineLimits::new()) {
        Lowering::Whole(region) => Some(region.program),
        Lowering::Rest(_) => None,
    })
}

/// How a model would be computed on this CPU, with times by the clock `now`. A program from a bundle is taken for the
/// one that is compiled here.
///
/// # Errors
/// As [`program`].
pub fn plan(
    manifest: &Manifest,
    onnx: &[u8],
    given: Option<&[u8]>,
    limits: &Limits,
    now: impl FnMut() -> Duration,
) -> Result<PlanSurvey, Error> {
    if let Some(program) = given {
        let programs = vec![ProgramSurvey::of(&loaded(program)?, None, now)?];
        return Ok(PlanSurvey { programs, unlowered: Vec::new() });
    }
    let graph = Graph::decode(onnx, limits)?;
    let inputs = ports("input", &manifest.inputs, &graph.inputs())?;
    let outputs = ports("output", &manifest.outputs, &graph.outputs())?;
    let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    surveyed(&graph, &inputs, &names, now)
}

/// The same of an ONNX file without a manifest; axes of free length are 1.
///
/// # Errors
/// As [`BareModel::build`].
pub fn bare_plan(
    onnx: &[u8],
    limits: &Limits,
    now: impl FnMut() -> Duration,
) -> Result<PlanSurvey, Error> {
    let graph = Graph::decode(onnx, limits)?;
    let inputs = graph.inputs().iter().map(bare_port).collect::<Result<Vec<_>, _>>()?;
    let outputs = graph.outputs();
    let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    surveyed(&graph, &inputs, &names, now)
}

fn surveyed(
    graph: &Graph,
    inputs: &[TensorPort],
    outputs: &[&str],
    mut now: impl FnMut() -> Duration,
) -> Result<PlanSurvey, Error> {
    let (regions, unlowered) = match lower(graph, inputs, outputs, &EngineLimits::new()) {
        Lowering::Whole(region) => (vec![region], Vec::new()),
        Lowering::Rest(rest) => (rest.regions, rest.unlowered),
    };
    let programs = regions.iter().map(|region| {
        let live = Some(region.memory.live_bytes_max);
        ProgramSurvey::of(&loaded(&region.program)?, live, &mut now)
    });
    Ok(PlanSurvey { programs: programs.collect::<Result<_, _>>()?, unlowered })
}

fn loaded(program: &[u8]) -> Result<LoadedProgram, Error> {
    LoadedProgram::load(program, Computation::Best.kernels(), &EngineLimits::new())
}

/// Golden vectors from the graph as it is written, before any optimisation, for `samples` of reference data.
///
/// # Errors
/// As [`Model::load`](crate::Model::load), and [`ErrorKind::Sample`](crate::ErrorKind) if there is no sample or the model
/// does not take one of them.
pub fn self_made_golden(
    manifest: &Manifest,
    onnx: &[u8],
    samples: &[Sample],
    limits: &Limits,
) -> Result<Golden, Error> {
    if samples.is_empty() {
        return Err(Error::NoSamples { what: "a set of golden vectors" });
    }
    let graph = Graph::decode(onnx, limits)?;
    let inputs = ports("input", &manifest.inputs, &graph.inputs())?;
    let outputs = ports("output", &manifest.outputs, &graph.outputs())?;
    let plan = Plan::build(&graph, &inputs, &outputs, Computation::Reference, limits)?;
    let preparation = Preparation::of(manifest);
    let input = &inputs[0];
    let mut given = Vec::new();
    let mut found: Vec<Vec<NamedTensor>> = vec![Vec::new(); outputs.len()];
    for sample in samples {
        let prepared = preparation.apply(sample)?;
        given.push(prepared.clone());
        let answers = plan.run(vec![stacked(&input.name, &input.shape, vec![prepared])])?;
        found.iter_mut().zip(answers).for_each(|(found, answer)| found.push(only_row(answer)));
    }
    let expected = outputs.iter().zip(found).map(|(port, tensors)| {
        stacked(&port.name, &port.shape, tensors.into_iter().map(NamedTensor::into_data).collect())
    });
    Golden::new(manifest, vec![stacked(&input.name, &input.shape, given)], expected.collect())
        .map_err(|source| Error::GoldenTensors { source })
}

/// How far an output may be from its self-made golden vector: one quantisation step where the manifest states it,
/// else a share of the largest expected value.
pub fn tolerance(output: &TensorSpec, survey: &OnnxSurvey, largest: f64) -> f64 {
    let share = if survey.is_quantised() { QUANTISED_TOLERANCE } else { FLOAT_TOLERANCE };
    match (output.dtype, output.scale) {
        (DType::F32, Some(step)) => step,
        (DType::F32, None) => share * largest.max(1.0),
        _ => 1.0,
    }
}
