//! Runs tract: from a judged graph to an executable plan, and tensors in and out.
//!
//! A plan belongs to one length of the batch axis. tract specialises its kernels for a known batch, so single
//! samples have a plan of their own; a plan for any batch keeps the axis as a symbol.
//! Nothing here starts a thread: tract's default executor is the calling thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use selvedge_bundle::{DType, NamedTensor, TensorData};
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TDim, TValue,
    TVec, Tensor, ToDim, TractError, TractResult, TypedModel, TypedRunnableModel, TypedSimpleState,
};
use tract_onnx::tract_hir::internal::DimLike;

use crate::error::Error;
use crate::graph::Graph;
use crate::limits::Limits;
use crate::region;

/// The longest message of tract that is passed on.
const ENGINE_TEXT_CHARS_MAX: usize = 400;

/// Idle execution states that a plan keeps; more calls at a time than this allocate their own.
const IDLE_STATES_MAX: usize = 4;

/// One tensor of the graph: `[batch, axis…]`, without the batch axis in `shape`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorPort {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) batch: BatchAxis,
    pub(crate) shape: Vec<usize>,
}

/// The first axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchAxis {
    /// Any number of samples.
    Free,
    /// One sample: the model was exported so.
    One,
}

/// For how many samples at a time a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanBatch {
    One,
    Any,
}

/// How far tract may rewrite the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewriting {
    /// The graph as it is written: what self-made golden vectors are computed with.
    None,
    /// All of tract's optimisation.
    Full,
}

/// A model that can run.
#[derive(Debug)]
pub(crate) struct TractPlan {
    plan: Arc<TypedRunnableModel>,
    outputs: Vec<TensorPort>,
    idle: Mutex<Vec<TypedSimpleState>>,
}

impl TractPlan {
    /// Builds the plan that computes `outputs` from `inputs`, whose names the graph must have.
    pub(crate) fn build(
        graph: &Graph,
        inputs: &[TensorPort],
        outputs: &[TensorPort],
        batch: PlanBatch,
        rewriting: Rewriting,
        limits: &Limits,
    ) -> Result<TractPlan, Error> {
        without_panic("building the model", || {
            let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
            let model = typed_model(graph, inputs, &names, batch, rewriting)?;
            outputs
                .iter()
                .enumerate()
                .try_for_each(|(index, port)| check_output(&model, index, port, batch))?;
            TractPlan::finish(model, outputs.to_vec(), batch, rewriting, limits)
        })
    }

    /// Builds the plan that computes whatever outputs the graph has, for one sample.
    pub(crate) fn of_all_outputs(
        graph: &Graph,
        inputs: &[TensorPort],
        limits: &Limits,
    ) -> Result<TractPlan, Error> {
        without_panic("building the model", || {
            let declared = graph.outputs();
            let names: Vec<&str> = declared.iter().map(|output| output.name.as_str()).collect();
            let model = typed_model(graph, inputs, &names, PlanBatch::One, Rewriting::Full)?;
            let ports =
                names.iter().enumerate().map(|(index, name)| inferred_output(&model, index, name));
            let ports = ports.collect::<Result<_, _>>()?;
            TractPlan::finish(model, ports, PlanBatch::One, Rewriting::Full, limits)
        })
    }

    fn finish(
        model: TypedModel,
        outputs: Vec<TensorPort>,
        batch: PlanBatch,
        rewriting: Rewriting,
        limits: &Limits,
    ) -> Result<TractPlan, Error> {
        check_tensors(&model, batch, limits)?;
        let model = match rewriting {
            Rewriting::None => model,
            Rewriting::Full => model.into_optimized().map_err(failed("optimising the graph"))?,
        };
        let plan = model.into_runnable().map_err(failed("planning the execution"))?;
        Ok(TractPlan { plan, outputs, idle: Mutex::new(Vec::new()) })
    }

    /// The outputs, in the order in which [`TractPlan::run`] gives them.
    pub(crate) fn outputs(&self) -> &[TensorPort] {
        &self.outputs
    }

    /// Runs the model on `inputs`, each `[batch, axis…]`, in the order that the plan was built with; outputs likewise.
    pub(crate) fn run(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        without_panic("running the model", || self.run_unguarded(inputs))
    }

    fn run_unguarded(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        let inputs: TVec<TValue> = inputs
            .iter()
            .map(|input| tensor_of(input).map(Tensor::into_tvalue))
            .collect::<TractResult<_>>()
            .map_err(run_failed)?;
        let mut state = match self.take_idle() {
            Some(state) => state,
            None => self.plan.spawn().map_err(run_failed)?,
        };
        let outputs = state.run(inputs).map_err(run_failed)?;
        // A state that failed half-way is dropped, and so is one whose operators remember their last turn.
        if state.op_states.iter().all(Option::is_none) {
            self.put_idle(state);
        }
        self.outputs.iter().zip(outputs).map(|(port, value)| named_tensor(port, &value)).collect()
    }

    fn take_idle(&self) -> Option<TypedSimpleState> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_idle(&self, state: TypedSimpleState) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_STATES_MAX {
            idle.push(state);
        }
    }
}

fn typed_model(
    graph: &Graph,
    inputs: &[TensorPort],
    outputs: &[&str],
    batch: PlanBatch,
    rewriting: Rewriting,
) -> Result<TypedModel, Error> {
    let onnx = region::reader(rewriting == Rewriting::None);
    let mut model =
        onnx.model_for_proto_model(graph.proto()).map_err(failed("translating the graph"))?;
    let symbol = model.symbols.new_with_prefix("batch");
    let declared = graph.inputs();
    for input in inputs {
        let index = declared.iter().position(|tensor| tensor.name == input.name);
        let index = index.expect("the tensors were checked against the graph");
        let first = match (batch, input.batch) {
            (PlanBatch::Any, BatchAxis::Free) => symbol.clone().into(),
            _ => 1.to_dim(),
        };
        let shape: TVec<TDim> = std::iter::once(first)
            .chain(input.shape.iter().map(|length| length.to_dim()))
            .collect();
        model
            .set_input_fact(index, InferenceFact::dt_shape(datum_type(input.dtype), shape))
            .map_err(failed("setting the input shapes"))?;
    }
    let declared = graph.outputs();
    let outlet = |name: &&str| {
        let index = declared.iter().position(|tensor| tensor.name == *name);
        model.outputs[index.expect("the tensors were checked against the graph")]
    };
    let selected: Vec<_> = outputs.iter().map(outlet).collect();
    model.select_output_outlets(&selected).map_err(failed("selecting the outputs"))?;
    model.into_typed().map_err(failed("inferring types and shapes"))
}

fn check_output(
    model: &TypedModel,
    index: usize,
    port: &TensorPort,
    batch: PlanBatch,
) -> Result<(), Error> {
    let fact = model.output_fact(index).map_err(failed("reading the output types"))?;
    let axes: Vec<String> = fact.shape.iter().map(|length| length.to_string()).collect();
    let expected = std::iter::once(1).chain(port.shape.iter().copied());
    let expected: Vec<String> = expected.map(|length| length.to_string()).collect();
    let same_axes = match batch {
        PlanBatch::One => axes == expected,
        PlanBatch::Any => axes.len() == expected.len() && axes[1..] == expected[1..],
    };
    if same_axes && dtype_of(fact.datum_type) == Some(port.dtype) {
        return Ok(());
    }
    Err(Error::Tensor {
        side: "output",
        name: port.name.clone(),
        manifest: format!("{} [{}]", port.dtype, expected.join(", ")),
        model: format!("{:?} [{}] for one sample", fact.datum_type, axes.join(", ")).to_lowercase(),
    })
}

/// The output as tract infers it for one sample.
fn inferred_output(model: &TypedModel, index: usize, name: &str) -> Result<TensorPort, Error> {
    let fact = model.output_fact(index).map_err(failed("reading the output types"))?;
    let refuse = || Error::Undescribed {
        name: name.to_owned(),
        detail: format!("for one sample it is {:?} {:?}", fact.datum_type, fact.shape)
            .to_lowercase(),
    };
    let shape = fact.shape.as_concrete().ok_or_else(refuse)?;
    let dtype = dtype_of(fact.datum_type).ok_or_else(refuse)?;
    match shape.split_first() {
        Some((1, shape)) => Ok(TensorPort {
            name: name.to_owned(),
            dtype,
            batch: BatchAxis::One,
            shape: shape.to_vec(),
        }),
        _ => Err(refuse()),
    }
}

fn check_tensors(model: &TypedModel, batch: PlanBatch, limits: &Limits) -> Result<(), Error> {
    if batch == PlanBatch::Any {
        return Ok(());
    }
    let facts = model.nodes.iter().flat_map(|node| &node.outputs).map(|outlet| &outlet.fact);
    facts.filter_map(|fact| fact.mem_size().to_usize().ok()).try_for_each(|len_bytes| {
        Error::check_limit(
            "the size in bytes of a tensor in the graph",
            len_bytes,
            limits.tensor_bytes_max,
        )
    })
}

fn tensor_of(tensor: &NamedTensor) -> TractResult<Tensor> {
    let shape = tensor.shape();
    match tensor.data() {
        TensorData::F32(values) => Tensor::from_shape(shape, values),
        TensorData::I8(values) => Tensor::from_shape(shape, values),
        TensorData::U8(values) => Tensor::from_shape(shape, values),
        TensorData::I32(values) => Tensor::from_shape(shape, values),
        TensorData::I64(values) => Tensor::from_shape(shape, values),
    }
}

fn named_tensor(port: &TensorPort, value: &Tensor) -> Result<NamedTensor, Error> {
    let data = tensor_data(port.dtype, value).map_err(run_failed)?;
    NamedTensor::new(port.name.clone(), value.shape().to_vec(), data)
        .map_err(|source| Error::Run { source: Box::new(source) })
}

fn tensor_data(dtype: DType, value: &Tensor) -> TractResult<TensorData> {
    // Shapes computed in the graph have a type of tract's own until they are cast.
    let value = value.cast_to_dt(datum_type(dtype))?;
    let plain = value.try_as_plain_ram()?;
    Ok(match dtype {
        DType::F32 => TensorData::F32(plain.as_slice()?.to_vec()),
        DType::I8 => TensorData::I8(plain.as_slice()?.to_vec()),
        DType::U8 => TensorData::U8(plain.as_slice()?.to_vec()),
        DType::I32 => TensorData::I32(plain.as_slice()?.to_vec()),
        DType::I64 => TensorData::I64(plain.as_slice()?.to_vec()),
    })
}

fn datum_type(dtype: DType) -> DatumType {
    match dtype {
        DType::F32 => DatumType::F32,
        DType::I8 => DatumType::I8,
        DType::U8 => DatumType::U8,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
    }
}

fn dtype_of(datum_type: DatumType) -> Option<DType> {
    match datum_type {
        DatumType::F32 => Some(DType::F32),
        DatumType::I8 => Some(DType::I8),
        DatumType::U8 => Some(DType::U8),
        DatumType::I32 => Some(DType::I32),
        DatumType::I64 | DatumType::TDim => Some(DType::I64),
        _ => None,
    }
}

fn failed(stage: &'static str) -> impl Fn(TractError) -> Error {
    move |source| Error::Build { stage, source: EngineFailure::of(&source).into() }
}

fn run_failed(source: TractError) -> Error {
    Error::Run { source: EngineFailure::of(&source).into() }
}

/// What tract says, as far as people read it: it prints whole graphs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct EngineFailure(String);

impl EngineFailure {
    fn of(source: &TractError) -> EngineFailure {
        let text = format!("{source:#}");
        match text.char_indices().nth(ENGINE_TEXT_CHARS_MAX) {
            Some((end, _)) => EngineFailure(format!("{}…", &text[..end])),
            None => EngineFailure(text),
        }
    }
}

/// Turns a panic inside the engine into an error, so that one model cannot end the process.
fn without_panic<T>(
    stage: &'static str,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Panic { stage, detail: panic_text(&*panic) }))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::tensor_proto::DataType;

    use super::*;
    use crate::onnx_builder::OnnxBuilder;

    fn ports() -> ([TensorPort; 1], [TensorPort; 1]) {
        let port = |name: &str| TensorPort {
            name: name.to_owned(),
            dtype: DType::I8,
            batch: BatchAxis::Free,
            shape: vec![4],
        };
        ([port("q_in")], [port("q_out")])
    }

    /// When this fails, tract computes the structure rightly, and what is refused in `graph.rs` can be left to it.
    #[test]
    fn tract_still_computes_a_quantised_softmax_wrongly_when_it_optimises() {
        let onnx = OnnxBuilder::new(
            ("q_in", DataType::Int8, &[-1, 4]),
            ("q_out", DataType::Int8, &[-1, 4]),
        )
        .f32s("scale_in", &[], &[0.1])
        .f32s("scale_out", &[], &[1.0 / 256.0])
        .i8_scalar("zero_in", 0)
        .i8_scalar("zero_out", -128)
        .node("DequantizeLinear", &["q_in", "scale_in", "zero_in"], "x")
        .node("Softmax", &["x"], "y")
        .node("QuantizeLinear", &["y", "scale_out", "zero_out"], "q_out")
        .bytes();
        let limits = Limits::default();
        let graph = Graph::decode(&onnx, &limits).expect("a well-formed graph");
        let (inputs, outputs) = ports();
        let answer = |rewriting| {
            let plan =
                TractPlan::build(&graph, &inputs, &outputs, PlanBatch::One, rewriting, &limits)
                    .expect("builds");
            let input = NamedTensor::new("q_in", vec![1, 4], TensorData::I8(vec![0, 0, 0, 0]));
            plan.run(vec![input.expect("four elements")]).expect("runs").remove(0).into_data()
        };
        assert_eq!(answer(Rewriting::None), TensorData::I8(vec![-64; 4]), "a quarter each");
        assert_ne!(answer(Rewriting::Full), TensorData::I8(vec![-64; 4]));
    }

    /// tract 0.23.9 cannot build a table from one type to the other, and says so; it must not answer wrongly instead.
    #[test]
    fn requantising_from_u8_to_i8_is_right_or_refused_when_the_model_is_built() {
        for middle in ["Relu", "Sigmoid", "Identity"] {
            let onnx = OnnxBuilder::new(
                ("q_in", DataType::Uint8, &[-1, 4]),
                ("q_out", DataType::Int8, &[-1, 4]),
            )
            .f32s("scale", &[], &[0.5])
            .u8_scalar("zero_in", 100)
            .i8_scalar("zero_out", -3)
            .node("DequantizeLinear", &["q_in", "scale", "zero_in"], "x")
            .node(middle, &["x"], "y")
            .node("QuantizeLinear", &["y", "scale", "zero_out"], "q_out")
            .bytes();
            let limits = Limits::default();
            let graph = Graph::decode(&onnx, &limits).expect("a well-formed graph");
            let (mut inputs, outputs) = ports();
            inputs[0].dtype = DType::U8;
            let answer = |rewriting| {
                let plan = TractPlan::build(
                    &graph,
                    &inputs,
                    &outputs,
                    PlanBatch::One,
                    rewriting,
                    &limits,
                )?;
                let input =
                    NamedTensor::new("q_in", vec![1, 4], TensorData::U8(vec![0, 99, 102, 255]));
                Ok::<_, Error>(plan.run(vec![input.expect("four elements")])?.remove(0).into_data())
            };
            let written = answer(Rewriting::None).expect("runs as written");
            match answer(Rewriting::Full) {
                Ok(optimised) => assert_eq!(optimised, written, "{middle}"),
                Err(error) => assert!(matches!(error, Error::Build { .. }), "{middle}: {error}"),
            }
        }
    }

    #[test]
    fn a_plan_for_any_batch_gives_each_sample_its_own_answer() {
        let onnx = OnnxBuilder::new(
            ("q_in", DataType::Int8, &[-1, 4]),
            ("q_out", DataType::Int8, &[-1, 4]),
        )
        .node("Relu", &["q_in"], "q_out")
        .bytes();
        let limits = Limits::default();
        let graph = Graph::decode(&onnx, &limits).expect("a well-formed graph");
        let (inputs, outputs) = ports();
        let plan =
            TractPlan::build(&graph, &inputs, &outputs, PlanBatch::Any, Rewriting::Full, &limits)
                .expect("builds");
        for batch in [1, 3, 2] {
            let data = TensorData::I8((0..batch * 4).map(|value| value as i8 - 4).collect());
            let input = NamedTensor::new("q_in", vec![batch, 4], data).expect("whole samples");
            let expected =
                TensorData::I8((0..batch * 4).map(|value| (value as i8 - 4).max(0)).collect());
            let output = plan.run(vec![input]).expect("runs").remove(0);
            assert_eq!((output.shape(), output.data()), ([batch, 4].as_slice(), &expected));
        }
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error_with_its_message() {
        let error =
            without_panic::<()>("testing", || panic!("index {}", 7)).expect_err("it panicked");
        assert!(error.to_string().contains("while testing: index 7"), "{error}");
    }
}
