//! An ONNX file, decoded and judged before tract builds anything from it.
//!
//! Guarantees: a [`Graph`] is within the limits, carries all of its weights, has only operators that tract knows,
//! and holds none of the structures that tract 0.23.9 computes wrongly.
//!
//! The structure: where DequantizeLinear, Softmax and QuantizeLinear follow each other, tract folds all three into
//! a table of 256 entries, as if the softmax of a vector were the softmax of its elements. Other operators that
//! change no shape may stand between them. A softmax that is not quantised again is right.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use selvedge_bundle::DType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};
use tract_onnx::tract_hir::internal::Framework;

use crate::error::Error;
use crate::limits::Limits;
use crate::lower::is_region;

/// Operators that tract takes for element-wise although each output depends on a whole axis.
const TAKEN_FOR_ELEMENT_WISE: [&str; 2] = ["Softmax", "LogSoftmax"];

/// Operators that may stand in such a chain: they change values one by one, or only the shape.
const TRANSPARENT: [&str; 36] = [
    "Abs",
    "Add",
    "Cast",
    "Ceil",
    "Clip",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Domains whose operators tract looks up by name alone.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// A decoded ONNX model.
#[derive(Clone)]
pub(crate) struct Graph {
    proto: ModelProto,
}

/// A tensor as the ONNX file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// Its name in the graph.
    pub name: String,
    /// Its element type, if it is one that a bundle can carry.
    pub dtype: Option<DType>,
    /// Its axes; `None` is an axis of unknown or free length. An output may be declared without any shape.
    pub shape: Option<Vec<Option<usize>>>,
}

/// The quantisation of a tensor: `value = (integer - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// The float value of one integer step.
    pub scale: f32,
    /// The integer that means zero.
    pub zero_point: i32,
}

impl Graph {
    /// Decodes the file without judging its operators.
    pub(crate) fn decode(onnx: &[u8], limits: &Limits) -> Result<Graph, Error> {
        Error::check_limit("the ONNX file's size in bytes", onnx.len(), limits.model_bytes_max)?;
        let mut reader = onnx;
        let proto = tract_onnx::onnx()
            .proto_model_for_read(&mut reader)
            .map_err(|source| Error::Malformed { detail: format!("{source:#}") })?;
        if proto.graph.is_none() {
            return Err(Error::Malformed { detail: "the file holds no graph".to_owned() });
        }
        let graph = Graph { proto };
        Error::check_limit("nodes in the graph", graph.all_nodes().len(), limits.nodes_max)?;
        graph.check_weights()?;
        Ok(graph)
    }

    /// A graph that was made here.
    pub(crate) fn of(proto: ModelProto) -> Graph {
        Graph { proto }
    }

    /// Refuses what tract would not run, or would run wrongly.
    pub(crate) fn judge(&self) -> Result<(), Error> {
        let operators = self.unsupported();
        if !operators.is_empty() {
            return Err(Error::Unsupported { operators });
        }
        match self.miscomputed_chains().into_iter().next() {
            Some(nodes) => Err(Error::QuantisedSoftmax { nodes }),
            None => Ok(()),
        }
    }

    pub(crate) fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The inputs that a caller gives; initialisers that are listed as inputs too are left out.
    pub(crate) fn inputs(&self) -> Vec<DeclaredTensor> {
        let initialised: HashSet<&str> =
            self.main().initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs = self.main().input.iter();
        inputs.filter(|input| !initialised.contains(input.name.as_str())).map(declared).collect()
    }

    pub(crate) fn outputs(&self) -> Vec<DeclaredTensor> {
        self.main().output.iter().map(declared).collect()
    }

    /// The version of the default operator set.
    pub(crate) fn opset(&self) -> i64 {
        let imports = &self.proto.opset_import;
        let default = imports.iter().find(|import| matches!(&*import.domain, "" | "ai.onnx"));
        default.map_or(0, |import| import.version)
    }

    /// How often each operator occurs, subgraphs included.
    pub(crate) fn operators(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.all_nodes() {
            *counts.entry(qualified_operator(node)).or_default() += 1;
        }
        counts
    }

    /// Operators that tract does not have, sorted, each once.
    pub(crate) fn unsupported(&self) -> Vec<String> {
        let known = tract_onnx::onnx().op_register.0;
        let unknown = |node: &&NodeProto| {
            let known =
                DOMAINS.contains(&node.domain.as_str()) && known.contains_key(&node.op_type);
            !known && !is_region(node)
        };
        let nodes = self.all_nodes();
        let names: BTreeSet<String> =
            nodes.into_iter().filter(unknown).map(qualified_operator).collect();
        names.into_iter().collect()
    }

    /// Chains from DequantizeLinear over a softmax to QuantizeLinear, each as the names of its nodes.
    pub(crate) fn miscomputed_chains(&self) -> Vec<Vec<String>> {
        let mut graphs = Vec::new();
        collect_graphs(self.main(), &mut graphs);
        graphs.into_iter().flat_map(miscomputed_chains_of).collect()
    }

    /// The quantisation of an output that leaves the graph through DequantizeLinear.
    pub(crate) fn quantisation(&self, output: &str) -> Option<Quantisation> {
        let node = self.producer(output).filter(|node| node.op_type == "DequantizeLinear")?;
        let scale = scalar(self.initialiser(node.input.get(1)?)?)?;
        let zero_point = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => scalar(self.initialiser(name)?)?,
            None => 0.0,
        };
        Some(Quantisation { scale, zero_point: zero_point as i32 })
    }

    /// The operator that makes a tensor of the main graph.
    pub(crate) fn operator_of(&self, tensor: &str) -> Option<&str> {
        self.producer(tensor).map(|node| node.op_type.as_str())
    }

    pub(crate) fn main(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("decode refuses a file without a graph")
    }

    fn producer(&self, tensor: &str) -> Option<&NodeProto> {
        self.main().node.iter().find(|node| node.output.iter().any(|name| name == tensor))
    }

    fn initialiser(&self, name: &str) -> Option<&TensorProto> {
        self.main().initializer.iter().find(|tensor| tensor.name == name)
    }

    fn all_nodes(&self) -> Vec<&NodeProto> {
        let mut graphs = Vec::new();
        collect_graphs(self.main(), &mut graphs);
        graphs.into_iter().flat_map(|graph| &graph.node).collect()
    }

    /// Weights must be inside the file, and as long as their shape says.
    fn check_weights(&self) -> Result<(), Error> {
        let mut graphs = Vec::new();
        collect_graphs(self.main(), &mut graphs);
        let in_attributes = graphs.iter().flat_map(|graph| &graph.node).flat_map(|node| {
            node.attribute.iter().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors))
        });
        graphs
            .iter()
            .flat_map(|graph| &graph.initializer)
            .chain(in_attributes)
            .try_for_each(check_weight)
    }
}

impl DeclaredTensor {
    /// The shape as people read it, `?` for a free axis.
    pub fn shape_text(&self) -> String {
        let Some(shape) = &self.shape else { return "[no shape declared]".to_owned() };
        let axes =
            shape.iter().map(|axis| axis.map_or("?".to_owned(), |length| length.to_string()));
        format!("[{}]", axes.collect::<Vec<_>>().join(", "))
    }
}

fn collect_graphs<'a>(graph: &'a GraphProto, graphs: &mut Vec<&'a GraphProto>) {
    graphs.push(graph);
    for node in &graph.node {
        for AttributeProto { g, graphs: inner, .. } in &node.attribute {
            g.iter().chain(inner).for_each(|inner| collect_graphs(inner, graphs));
        }
    }
}

fn qualified_operator(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

fn declared(value: &ValueInfoProto) -> DeclaredTensor {
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;

    let tensor = value.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let tensor = tensor.map(|type_proto::Value::TensorType(tensor)| tensor);
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        let length = |value: &Option<Value>| match value {
            Some(Value::DimValue(length)) => usize::try_from(*length).ok(),
            _ => None,
        };
        shape.dim.iter().map(|dimension| length(&dimension.value)).collect()
    });
    let dtype = tensor.and_then(|tensor| dtype_of(tensor.elem_type));
    DeclaredTensor { name: value.name.clone(), dtype, shape }
}

fn dtype_of(elem_type: i32) -> Option<DType> {
    match DataType::try_from(elem_type).ok()? {
        DataType::Float => Some(DType::F32),
        DataType::Int8 => Some(DType::I8),
        DataType::Uint8 => Some(DType::U8),
        DataType::Int32 => Some(DType::I32),
        DataType::Int64 => Some(DType::I64),
        _ => None,
    }
}

fn check_weight(tensor: &TensorProto) -> Result<(), Error> {
    if tensor.data_location == Some(DataLocation::External as i32)
        || !tensor.external_data.is_empty()
    {
        return Err(Error::ExternalWeights { tensor: tensor.name.clone() });
    }
    let elements = tensor.dims.iter().try_fold(1usize, |product, length| {
        usize::try_from(*length).ok().and_then(|length| product.checked_mul(length))
    });
    let stored = [
        tensor.raw_data.len(),
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.string_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
    ];
    let stored_max = stored.into_iter().max().unwrap_or_default();
    match elements {
        // A packed 4-bit type holds two elements per byte.
        Some(elements) if elements.div_ceil(2) <= stored_max => Ok(()),
        _ => Err(Error::Malformed {
            detail: format!(
                "the weight {:?} declares the shape {:?} and holds {stored_max} values",
                tensor.name, tensor.dims
            ),
        }),
    }
}

fn scalar(tensor: &TensorProto) -> Option<f32> {
    if tensor.dims.iter().any(|length| *length != 1) {
        return None;
    }
    let raw = tensor.raw_data.as_slice();
    match DataType::try_from(tensor.data_type).ok()? {
        DataType::Float if raw.is_empty() => tensor.float_data.first().copied(),
        DataType::Float => Some(f32::from_le_bytes(raw.try_into().ok()?)),
        DataType::Int8 | DataType::Uint8 | DataType::Int32 if raw.is_empty() => {
            tensor.int32_data.first().map(|value| *value as f32)
        }
        DataType::Int8 => raw.first().map(|byte| f32::from(*byte as i8)),
        DataType::Uint8 => raw.first().map(|byte| f32::from(*byte)),
        DataType::Int32 => Some(i32::from_le_bytes(raw.try_into().ok()?) as f32),
        _ => None,
    }
}

fn miscomputed_chains_of(graph: &GraphProto) -> Vec<Vec<String>> {
    let wiring = Wiring::of(graph);
    let softmaxes = graph.node.iter().filter(|node| is_softmax(node));
    softmaxes
        .filter_map(|softmax| {
            let before = wiring.upstream_to(softmax, "DequantizeLinear")?;
            let after = wiring.downstream_to(softmax, "QuantizeLinear")?;
            let chain = before.into_iter().rev().chain([softmax]).chain(after);
            Some(chain.map(|node| format!("{} {:?}", node.op_type, node_name(node))).collect())
        })
        .collect()
}

fn is_softmax(node: &NodeProto) -> bool {
    TAKEN_FOR_ELEMENT_WISE.contains(&node.op_type.as_str())
}

fn node_name(node: &NodeProto) -> &str {
    match node.output.first() {
        Some(output) if node.name.is_empty() => output,
        _ => &node.name,
    }
}

/// Who makes and who takes each tensor of one graph.
struct Wiring<'a> {
    producers: HashMap<&'a str, &'a NodeProto>,
    consumers: HashMap<&'a str, Vec<&'a NodeProto>>,
    constants: HashSet<&'a str>,
}

impl<'a> Wiring<'a> {
    fn of(graph: &'a GraphProto) -> Wiring<'a> {
        let mut wiring = Wiring {
            producers: HashMap::new(),
            consumers: HashMap::new(),
            constants: graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect(),
        };
        for node in &graph.node {
            for name in &node.input {
                wiring.consumers.entry(name).or_default().push(node);
            }
            for name in &node.output {
                wiring.producers.insert(name, node);
                if node.op_type == "Constant" {
                    wiring.constants.insert(name);
                }
            }
        }
        wiring
    }

    /// The nodes from `start`, exclusive, up to one of the operator `until`, inclusive, nearest first.
    fn upstream_to(&self, start: &'a NodeProto, until: &str) -> Option<Vec<&'a NodeProto>> {
        let mut path = Vec::new();
        let mut node = start;
        while let Some(next) = self.producers.get(self.sole_variable_input(node)?) {
            path.push(*next);
            if next.op_type == until {
                return Some(path);
            }
            if path.len() > self.producers.len() {
                return None;
            }
            node = next;
        }
        None
    }

    /// The nodes from `start`, exclusive, down to one of the operator `until`, inclusive, nearest first.
    fn downstream_to(&self, start: &'a NodeProto, until: &str) -> Option<Vec<&'a NodeProto>> {
        let mut paths = vec![vec![start]];
        let mut seen: HashSet<*const NodeProto> = HashSet::new();
        while let Some(path) = paths.pop() {
            let last = path.last().expect("a path begins with its start");
            for next in
                last.output.iter().filter_map(|name| self.consumers.get(name.as_str())).flatten()
            {
                if self.sole_variable_input(next).is_none() || !seen.insert(*next) {
                    continue;
                }
                let longer: Vec<_> = path.iter().copied().chain([*next]).collect();
                if next.op_type == until {
                    return Some(longer.into_iter().skip(1).collect());
                }
                paths.push(longer);
            }
        }
        None
    }

    /// Of a transparent operator, the input that is neither a weight nor a constant, if there is exactly one.
    fn sole_variable_input(&self, node: &'a NodeProto) -> Option<&'a str> {
        if !TRANSPARENT.contains(&node.op_type.as_str()) {
            return None;
        }
        let mut inputs = node.input.iter().map(String::as_str);
        let variable = |name: &&str| !name.is_empty() && !self.constants.contains(name);
        let first = inputs.by_ref().find(variable)?;
        inputs.find(variable).is_none().then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx_builder::{OnnxBuilder, tensor};

    const FLOAT: DataType = DataType::Float;
    const INT8: DataType = DataType::Int8;

    /// An int8 graph whose middle is `nodes`, from "x" to "y".
    fn quantised(middle: impl Fn(OnnxBuilder) -> OnnxBuilder) -> Vec<u8> {
        let graph = OnnxBuilder::new(("q_in", INT8, &[-1, 4]), ("q_out", INT8, &[-1, 4]))
            .f32s("scale_in", &[], &[0.1])
            .f32s("scale_out", &[], &[1.0 / 256.0])
            .f32s("two", &[], &[2.0])
            .i8_scalar("zero_in", 0)
            .i8_scalar("zero_out", -128)
            .node("DequantizeLinear", &["q_in", "scale_in", "zero_in"], "x");
        middle(graph).node("QuantizeLinear", &["y", "scale_out", "zero_out"], "q_out").bytes()
    }

    fn parse(onnx: &[u8]) -> Result<Graph, Error> {
        let graph = Graph::decode(onnx, &Limits::default())?;
        graph.judge()?;
        Ok(graph)
    }

    #[test]
    fn a_softmax_between_dequantize_and_quantize_is_refused_by_the_names_of_its_nodes() {
        let error = parse(&quantised(|graph| graph.node("Softmax", &["x"], "y")))
            .err()
            .expect("wrong in tract");
        let words =
            "DequantizeLinear \"x_node\" → Softmax \"y_node\" → QuantizeLinear \"q_out_node\"";
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn neighbours_that_change_no_shape_do_not_hide_a_quantised_softmax() {
        let hidden: [(&str, Vec<u8>); 5] = [
            (
                "scaled",
                quantised(|graph| {
                    graph.node("Mul", &["x", "two"], "s").node("Softmax", &["s"], "y")
                }),
            ),
            (
                "constant first",
                quantised(|graph| {
                    graph.node("Mul", &["two", "x"], "s").node("Softmax", &["s"], "y")
                }),
            ),
            (
                "identity",
                quantised(|graph| graph.node("Softmax", &["x"], "s").node("Identity", &["s"], "y")),
            ),
            ("logarithm", quantised(|graph| graph.node("LogSoftmax", &["x"], "y"))),
            (
                "twice",
                quantised(|graph| graph.node("Softmax", &["x"], "s").node("Softmax", &["s"], "y")),
            ),
        ];
        let missed: Vec<_> =
            hidden.iter().filter(|(_, onnx)| parse(onnx).is_ok()).map(|(name, _)| name).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn a_softmax_that_is_not_quantised_again_is_let_through() {
        let float = OnnxBuilder::new(("q_in", INT8, &[-1, 4]), ("y", FLOAT, &[-1, 4]))
            .f32s("scale_in", &[], &[0.1])
            .i8_scalar("zero_in", 0)
            .node("DequantizeLinear", &["q_in", "scale_in", "zero_in"], "x")
            .node("Softmax", &["x"], "y");
        assert!(parse(&float.bytes()).is_ok());
        assert!(parse(&quantised(|graph| graph.node("Relu", &["x"], "y"))).is_ok());
        let apart =
            quantised(|graph| graph.node("Softmax", &["x"], "s").node("MatMul", &["s", "x"], "y"));
        assert!(parse(&apart).is_ok());
    }

    #[test]
    fn the_published_minimal_case_is_refused_too() {
        let folder = std::env::var_os("SELVEDGE_MODELS_DIR");
        let path =
            folder.map(|folder| std::path::PathBuf::from(folder).join("onnx/dq_softmax_q.onnx"));
        let Some(onnx) = path.and_then(|path| std::fs::read(path).ok()) else {
            eprintln!("skipped: SELVEDGE_MODELS_DIR has no onnx/dq_softmax_q.onnx");
            return;
        };
        let error = parse(&onnx).err().expect("wrong in tract");
        assert!(matches!(error, Error::QuantisedSoftmax { .. }), "{error}");
    }

    #[test]
    fn unknown_operators_are_named_even_inside_subgraphs_and_of_other_domains() {
        let inner =
            OnnxBuilder::new(("x", FLOAT, &[1]), ("y", FLOAT, &[1])).node("Wobble", &["x"], "y");
        let onnx = OnnxBuilder::new(("x", FLOAT, &[1]), ("y", FLOAT, &[1]))
            .node_of("com.example", "Relu", &["x"], "a")
            .node("If", &["a"], "b")
            .subgraph(inner)
            .node("Relu", &["b"], "y")
            .bytes();
        let error = parse(&onnx).err().expect("unknown operators");
        assert!(error.to_string().ends_with(": Wobble, com.example.Relu"), "{error}");
    }

    #[test]
    fn files_that_are_no_self_contained_model_are_refused() {
        let weights = |weight| {
            OnnxBuilder::new(("x", FLOAT, &[1]), ("y", FLOAT, &[1]))
                .node("Add", &["x", "w"], "y")
                .weight(weight)
                .bytes()
        };
        let external = TensorProto {
            data_location: Some(DataLocation::External as i32),
            ..tensor("w", FLOAT, &[1])
        };
        let cases = [
            (b"no protobuf".to_vec(), "not a usable ONNX file"),
            (Vec::new(), "the file holds no graph"),
            (weights(external), "\"w\" is stored outside of the ONNX file"),
            (weights(tensor("w", FLOAT, &[1 << 40])), "holds 0 values"),
            (weights(tensor("w", FLOAT, &[i64::MAX, i64::MAX])), "holds 0 values"),
            (weights(tensor("w", FLOAT, &[-1])), "holds 0 values"),
        ];
        let refusal =
            |onnx: &[u8]| parse(onnx).err().map(|error| error.to_string()).unwrap_or_default();
        let wrong: Vec<_> = cases
            .iter()
            .map(|(onnx, words)| (refusal(onnx), words))
            .filter(|(refusal, words)| !refusal.contains(**words))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_quantisation_of_an_output_is_read_from_its_last_node() {
        let onnx = OnnxBuilder::new(("q", INT8, &[-1, 4]), ("y", FLOAT, &[-1, 4]))
            .f32s("scale", &[], &[0.25])
            .i8_scalar("zero", -3)
            .node("DequantizeLinear", &["q", "scale", "zero"], "y")
            .bytes();
        let graph = parse(&onnx).expect("a plain graph");
        assert_eq!(graph.quantisation("y"), Some(Quantisation { scale: 0.25, zero_point: -3 }));
        assert_eq!(graph.quantisation("q"), None);
    }
}
