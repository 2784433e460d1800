//! A region of a graph that is an integer program, as an operator of tract.

use std::sync::Arc;

use selvedge_bundle::DType;
use selvedge_engine::{KernelSet, Limits};
use tract_onnx::Onnx;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::integer::{LoadedProgram, ProgramPort};
use crate::lower::{REGION_OPERATOR, REGION_PROGRAM};

/// tract's ONNX reader with the operator that regions are. `reference` has them run without kernels.
pub(crate) fn reader(reference: bool) -> Onnx {
    // Declared shapes of inner tensors name the batch axis in ways that contradict a batch of one.
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    onnx.op_register.insert(REGION_OPERATOR, if reference { by_reference } else { by_kernels });
    onnx
}

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

fn by_kernels(_: &tract_onnx::model::ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, KernelSet::best())
}

fn by_reference(_: &tract_onnx::model::ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, KernelSet::scalar())
}

fn build(node: &NodeProto, kernels: &'static KernelSet) -> Built {
    let program = node.attribute.iter().find(|attribute| attribute.name == REGION_PROGRAM);
    let program = program
        .and_then(|attribute| attribute.t.as_ref())
        .context("an integer region has no program")?;
    let program = LoadedProgram::load(&program.raw_data, kernels, &Limits::new())?;
    Ok((expand(IntegerRegion(Arc::new(program))), vec![]))
}

#[derive(Clone, Debug)]
struct IntegerRegion(Arc<LoadedProgram>);

/// Two regions are the same only if they are one.
impl PartialEq for IntegerRegion {
    fn eq(&self, other: &IntegerRegion) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for IntegerRegion {}

impl Expansion for IntegerRegion {
    fn name(&self) -> StaticName {
        REGION_OPERATOR.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.0.outputs().len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.0.inputs().len())?;
        check_output_arity(outputs, self.0.outputs().len())?;
        let ports = self.0.inputs().iter().chain(self.0.outputs());
        for (proxy, port) in inputs.iter().chain(outputs).zip(ports) {
            solver.equals(&proxy.datum_type, datum_type(port.dtype))?;
            let shape: TVec<TDim> = port.shape.iter().map(|extent| extent.to_dim()).collect();
            solver.equals(&proxy.shape, shape)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for IntegerRegion {
    fn name(&self) -> StaticName {
        REGION_OPERATOR.into()
    }

    op_as_typed_op!();
}

impl EvalOp for IntegerRegion {
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut outputs = TVec::new();
        let program = &self.0;
        program.run(
            |index, bytes| {
                bytes.copy_from_slice(inputs[index].as_bytes());
                TractResult::Ok(())
            },
            |index, bytes| {
                let ProgramPort { dtype, shape, .. } = &program.outputs()[index];
                let mut tensor = Tensor::zero_dt(datum_type(*dtype), shape)?;
                tensor.as_bytes_mut().copy_from_slice(bytes);
                outputs.push(tensor.into_tvalue());
                Ok(())
            },
        )?;
        Ok(outputs)
    }

    op_out_of_plan!();
}

impl TypedOp for IntegerRegion {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let fact = |port: &ProgramPort| datum_type(port.dtype).fact(&port.shape);
        Ok(self.0.outputs().iter().map(fact).collect())
    }

    as_op!();
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
