//! Lowering, against what tract answers and against what the ONNX operators say.

use selvedge_bundle::{NamedTensor, TensorData};
use tract_onnx::pb::tensor_proto::DataType;

use crate::Limits;
use crate::desk::{self, BareModel};
use crate::engine::{BatchAxis, PlanBatch, Rewriting, TensorPort, TractPlan};
use crate::graph::Graph;
use crate::onnx_builder::OnnxBuilder;
use crate::plan::{Computation, Plan};

const INT8: DataType = DataType::Int8;
const FLOAT: DataType = DataType::Float;

/// A graph whose middle is `nodes`, from "x" to "y": dequantised before, quantised behind.
fn quantised(middle: impl Fn(OnnxBuilder) -> OnnxBuilder) -> OnnxBuilder {
    let graph = OnnxBuilder::new(("q_in", INT8, &[-1, 4]), ("q_out", INT8, &[-1, 4]))
        .f32s("scale_in", &[], &[0.1])
        .f32s("scale_out", &[], &[1.0 / 256.0])
        .f32s("two", &[], &[2.0])
        .i8_scalar("zero_in", 0)
        .i8_scalar("zero_out", -128)
        .node("DequantizeLinear", &["q_in", "scale_in", "zero_in"], "x");
    middle(graph).node("QuantizeLinear", &["y", "scale_out", "zero_out"], "q_out")
}

/// The answer, and how many programs and nodes of tract compute it.
fn answer(onnx: &[u8], values: &[i8]) -> (TensorData, [usize; 2]) {
    let limits = Limits::default();
    let model = BareModel::build(onnx, &limits).expect("it can be computed");
    let shape = model.inputs().next().map(|(_, _, shape)| shape).expect("it has an input");
    let input = NamedTensor::new("q_in", shape, TensorData::I8(values.to_vec()));
    let found = model.run(vec![input.expect("as many as the shape says")]).expect("it runs");
    let plan = desk::bare_plan(onnx, &limits, || std::time::Duration::ZERO).expect("as above");
    let counts = [plan.programs.len(), plan.unlowered.len()];
    (found.into_iter().next().expect("it has an output").into_data(), counts)
}

/// The softmax of `scale · value`, in steps of 1/256 above -128.
fn softmax(values: &[i8], scale: f64) -> TensorData {
    let powers: Vec<f64> = values.iter().map(|value| (scale * f64::from(*value)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let steps = powers.iter().map(|power| (power / sum * 256.0).round_ties_even() - 128.0);
    TensorData::I8(steps.map(|step| step.clamp(-128.0, 127.0) as i8).collect())
}

#[test]
fn a_quantised_softmax_is_right() {
    let onnx = quantised(|graph| graph.node("Softmax", &["x"], "y")).bytes();
    let values = [10, -20, 30, 5];
    let (found, counts) = answer(&onnx, &values);
    assert_eq!(found, softmax(&values, 0.1));
    assert_eq!(counts, [1, 0], "programs, and nodes that stay");
}

#[test]
fn a_quantised_softmax_is_right_where_a_part_of_its_chain_stays_in_tract() {
    let onnx = quantised(|graph| {
        graph.node("Mul", &["x", "two"], "scaled").node("Softmax", &["scaled"], "y")
    })
    .bytes();
    let values = [3, -20, 12, 5];
    let (found, counts) = answer(&onnx, &values);
    assert_eq!(found, softmax(&values, 0.2));
    assert!(counts[0] == 2 && counts[1] > 0, "programs, and nodes that stay: {counts:?}");
}

#[test]
fn tract_alone_gets_the_published_minimal_case_wrong_and_a_program_does_not() {
    let folder = std::env::var_os("SELVEDGE_MODELS_DIR");
    let path = folder.map(|folder| std::path::PathBuf::from(folder).join("onnx/dq_softmax_q.onnx"));
    let Some(onnx) = path.and_then(|path| std::fs::read(path).ok()) else {
        eprintln!("skipped: SELVEDGE_MODELS_DIR has no onnx/dq_softmax_q.onnx");
        return;
    };
    let limits = Limits::default();
    let graph = Graph::decode(&onnx, &limits).expect("a well-formed graph");
    let port = |name: &str| TensorPort {
        name: name.to_owned(),
        dtype: selvedge_bundle::DType::I8,
        batch: BatchAxis::One,
        shape: vec![12],
    };
    let (inputs, outputs) = ([port("x")], [port("y")]);
    let values: Vec<i8> = (0..12).map(|index| index * 3).collect();
    let input = || {
        NamedTensor::new("x", vec![1, 12], TensorData::I8(values.clone())).expect("twelve elements")
    };
    let tract = |rewriting| {
        let plan = TractPlan::build(&graph, &inputs, &outputs, PlanBatch::One, rewriting, &limits)
            .expect("builds");
        plan.run(vec![input()]).expect("runs").remove(0).into_data()
    };
    let plan = Plan::build(&graph, &inputs, &outputs, Computation::Best, &limits).expect("lowers");
    let found = plan.run(vec![input()]).expect("runs").remove(0).into_data();
    assert_eq!(found, tract(Rewriting::None), "the graph as it is written");
    assert_ne!(found, tract(Rewriting::Full), "when this fails, tract has been repaired");
}

#[test]
fn activations_between_two_scales_become_tables_of_their_functions() {
    for (operator, function) in [
        ("Sigmoid", (|x: f64| 1.0 / (1.0 + (-x).exp())) as fn(f64) -> f64),
        ("Tanh", f64::tanh),
        ("Relu", |x| x.max(0.0)),
        ("HardSigmoid", |x| (0.2 * x + 0.5).clamp(0.0, 1.0)),
    ] {
        let onnx = quantised(|graph| graph.node(operator, &["x"], "y")).bytes();
        for values in [[-128, -60, -7, 0], [1, 3, 44, 127]] {
            let (found, counts) = answer(&onnx, &values);
            let expected = values.map(|value| {
                let real = function(f64::from(f32::from(value) * 0.1)) as f32;
                ((real * 256.0).round_ties_even() - 128.0).clamp(-128.0, 127.0) as i8
            });
            assert_eq!(found, TensorData::I8(expected.to_vec()), "{operator}");
            assert_eq!(counts, [1, 0], "{operator}");
        }
    }
}

#[test]
fn what_stays_in_tract_says_why() {
    let onnx = OnnxBuilder::new(("q_in", INT8, &[-1, 4]), ("z", FLOAT, &[-1, 4]))
        .f32s("scale_in", &[], &[0.1])
        .i8_scalar("zero_in", 0)
        .node("DequantizeLinear", &["q_in", "scale_in", "zero_in"], "x")
        .node("LpNormalization", &["x"], "y")
        .node("Relu", &["y"], "z")
        .bytes();
    let plan = desk::bare_plan(&onnx, &Limits::default(), || std::time::Duration::ZERO);
    let plan = plan.expect("a plan needs no engine");
    let stays: Vec<(&str, &str)> =
        plan.unlowered.iter().map(|node| (node.operator.as_str(), node.reason.as_str())).collect();
    assert_eq!(stays[0], ("LpNormalization", "no integer operation is defined for it"));
    assert_eq!(stays[1].0, "Relu");
}
