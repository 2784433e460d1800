//! How a model is computed: by one integer program, or by tract, with integer programs as some of its operators.

use selvedge_bundle::NamedTensor;
use selvedge_engine::{KernelSet, Limits as EngineLimits};

use crate::engine::{BatchAxis, PlanBatch, Rewriting, TensorPort, TractPlan};
use crate::error::Error;
use crate::graph::Graph;
use crate::integer::{IntegerPlan, LoadedProgram};
use crate::limits::Limits;
use crate::lower::{Lowering, Rest, lower};
use crate::survey::tensor_bytes_max;

/// A model that can run.
#[derive(Debug)]
pub(crate) enum Plan {
    Integer(Box<IntegerPlan>),
    Tract(TractPlan),
}

/// By what the nodes of a graph are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Computation {
    /// The definitions: operations without kernels, and the rest of the graph as it is written. Self-made golden
    /// vectors come from here.
    Reference,
    /// Whatever is fastest on this CPU.
    Best,
}

impl Computation {
    pub(crate) fn kernels(self) -> &'static KernelSet {
        match self {
            Computation::Reference => KernelSet::scalar(),
            Computation::Best => KernelSet::best(),
        }
    }

    fn rewriting(self) -> Rewriting {
        match self {
            Computation::Reference => Rewriting::None,
            Computation::Best => Rewriting::Full,
        }
    }
}

impl Plan {
    /// Builds the plan that computes `outputs` from `inputs`, whose names the graph must have.
    pub(crate) fn build(
        graph: &Graph,
        inputs: &[TensorPort],
        outputs: &[TensorPort],
        computation: Computation,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        match lower(graph, inputs, &names, &EngineLimits::new()) {
            Lowering::Whole(region) => {
                Plan::of_program(&region.program, inputs, outputs, computation, limits)
            }
            Lowering::Rest(rest) => {
                let judged = rest.judged()?;
                let (batch, rewriting) = (PlanBatch::One, computation.rewriting());
                TractPlan::build(judged, inputs, outputs, batch, rewriting, limits).map(Plan::Tract)
            }
        }
    }

    /// The plan of a program that computes the whole model.
    pub(crate) fn of_program(
        program: &[u8],
        inputs: &[TensorPort],
        outputs: &[TensorPort],
        computation: Computation,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        let program = LoadedProgram::load(program, computation.kernels(), &EngineLimits::new())?;
        let len_bytes = tensor_bytes_max(&program);
        let what = "the size in bytes of a tensor in the graph";
        Error::check_limit(what, len_bytes, limits.tensor_bytes_max)?;
        let plan = IntegerPlan::new(program, inputs, outputs)?;
        Ok(Plan::Integer(Box::new(plan)))
    }

    /// Builds the plan that computes whatever outputs the graph has, for one sample.
    pub(crate) fn of_all_outputs(
        graph: &Graph,
        inputs: &[TensorPort],
        limits: &Limits,
    ) -> Result<Plan, Error> {
        let declared = graph.outputs();
        let names: Vec<&str> = declared.iter().map(|output| output.name.as_str()).collect();
        match lower(graph, inputs, &names, &EngineLimits::new()) {
            Lowering::Whole(region) => {
                let kernels = KernelSet::best();
                let program = LoadedProgram::load(&region.program, kernels, &EngineLimits::new())?;
                let port = |name: &&str| {
                    let port = program.outputs().iter().find(|port| port.name == **name);
                    let port = port.filter(|port| port.shape.first() == Some(&1));
                    let refuse = || Error::ProgramPort { side: "output", name: (*name).to_owned() };
                    port.ok_or_else(refuse).map(|port| TensorPort {
                        name: port.name.clone(),
                        dtype: port.dtype,
                        batch: BatchAxis::One,
                        shape: port.shape[1..].to_vec(),
                    })
                };
                let outputs = names.iter().map(port).collect::<Result<Vec<_>, _>>()?;
                let plan = IntegerPlan::new(program, inputs, &outputs)?;
                Ok(Plan::Integer(Box::new(plan)))
            }
            Lowering::Rest(rest) => {
                TractPlan::of_all_outputs(rest.judged()?, inputs, limits).map(Plan::Tract)
            }
        }
    }

    /// A second plan for any number of samples, where one is worth its memory: programs answer sample by sample, and
    /// so does a graph that has them inside.
    pub(crate) fn for_batches(
        graph: &Graph,
        inputs: &[TensorPort],
        outputs: &[TensorPort],
        limits: &Limits,
    ) -> Result<Option<Plan>, Error> {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        match lower(graph, inputs, &names, &EngineLimits::new()) {
            Lowering::Whole(_) => Ok(None),
            Lowering::Rest(rest) if rest.regions.is_empty() => {
                let (batch, rewriting) = (PlanBatch::Any, Rewriting::Full);
                TractPlan::build(rest.judged()?, inputs, outputs, batch, rewriting, limits)
                    .map(|plan| Some(Plan::Tract(plan)))
            }
            Lowering::Rest(_) => Ok(None),
        }
    }

    /// The outputs, in the order in which [`Plan::run`] gives them.
    pub(crate) fn outputs(&self) -> Vec<&TensorPort> {
        match self {
            Plan::Integer(plan) => plan.outputs().collect(),
            Plan::Tract(plan) => plan.outputs().iter().collect(),
        }
    }

    /// Runs the model on `inputs`, each `[batch, axis…]`, in the order that the plan was built with; outputs likewise.
    pub(crate) fn run(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        match self {
            Plan::Integer(plan) => plan.run(&inputs),
            Plan::Tract(plan) => plan.run(inputs),
        }
    }
}

impl Rest {
    /// The graph, if tract runs it and runs it rightly.
    fn judged(&self) -> Result<&Graph, Error> {
        self.graph.judge()?;
        Ok(&self.graph)
    }
}
