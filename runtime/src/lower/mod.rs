//! Lowering: from a quantised ONNX graph to integer programs.
//!
//! [`recognise`] reads the graph's nodes into a quantised graph of its own ([`ir`]), [`cut`] takes its regions out of
//! the ONNX graph, [`places`] says where tensors lie, and [`emit`] writes the program of a region over an arena that
//! [`arena`] plans. What is not lowered stays in the graph, with the reason, and so do graphs without integers.

mod arena;
mod cut;
mod emit;
mod functions;
mod ir;
mod onnx;
mod places;
mod recognise;
#[cfg(test)]
mod tests;
mod views;

use std::collections::HashSet;

use selvedge_bundle::DType;
use selvedge_engine::{Element, Limits};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    attribute_proto::AttributeType, tensor_proto::DataType,
};

use self::cut::{Cut, Piece, cut};
use self::onnx::node_name;
use self::recognise::{Input, recognise};
use crate::engine::TensorPort;
use crate::graph::Graph;

pub(crate) use self::cut::Region;

/// The operator that a region is in the graph that is left.
pub(crate) const REGION_OPERATOR: &str = "IntegerRegion";

/// The attribute of such a node that holds its program.
pub(crate) const REGION_PROGRAM: &str = "program";

const REGION_DOMAIN: &str = "selvedge";

/// Whether a node is a region that was cut out here.
pub(crate) fn is_region(node: &NodeProto) -> bool {
    node.domain == REGION_DOMAIN && node.op_type == REGION_OPERATOR
}

/// A node that was not lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlowered {
    /// Its name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why it stays in the float engine.
    pub reason: String,
}

/// What became of a graph.
pub(crate) enum Lowering {
    /// One program computes all that is asked for.
    Whole(Region),
    /// A graph with regions as nodes, none of them if nothing could be lowered.
    Rest(Box<Rest>),
}

/// A graph that is not, or not wholly, a program.
pub(crate) struct Rest {
    pub(crate) graph: Graph,
    pub(crate) regions: Vec<Region>,
    pub(crate) unlowered: Vec<Unlowered>,
}

/// Lowers what of `graph` can be, for one sample.
pub(crate) fn lower(
    graph: &Graph,
    inputs: &[TensorPort],
    outputs: &[&str],
    limits: &Limits,
) -> Lowering {
    let onnx = graph.main();
    let inputs: Vec<Input> = inputs.iter().map(input).collect();
    let found = recognise(onnx, &inputs, graph.opset());
    let reasons = found.reasons.clone();
    let pieces = match cut(onnx, found, outputs, limits) {
        Ok(Cut { pieces }) => pieces,
        Err(reason) => {
            let node = NodeProto::default();
            let unlowered = vec![unlowered(&node, reason)];
            let rest = Rest { graph: graph.clone(), regions: Vec::new(), unlowered };
            return Lowering::Rest(Box::new(rest));
        }
    };
    if let [Piece::Region(region)] = &pieces[..] {
        return Lowering::Whole(region.clone());
    }
    let stays = pieces.iter().filter_map(|piece| match piece {
        Piece::Node(index) => Some(*index),
        Piece::Region(_) => None,
    });
    let stays: Vec<usize> = stays.collect();
    let given = "its result is not quantised".to_owned();
    let reason = |index: &usize| reasons.get(index).cloned().unwrap_or_else(|| given.clone());
    let unlowered =
        stays.iter().map(|index| unlowered(&onnx.node[*index], reason(index))).collect();
    let regions: Vec<Region> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Region(region) => Some(region.clone()),
            Piece::Node(_) => None,
        })
        .collect();
    let rest = if regions.is_empty() { graph.clone() } else { rest(graph.proto(), onnx, pieces) };
    Lowering::Rest(Box::new(Rest { graph: rest, regions, unlowered }))
}

fn input(port: &TensorPort) -> Input {
    let element = match port.dtype {
        DType::F32 => Element::F32,
        DType::I8 => Element::I8,
        DType::U8 => Element::U8,
        DType::I32 => Element::I32,
        DType::I64 => Element::I64,
    };
    let shape = std::iter::once(1).chain(port.shape.iter().copied()).collect();
    Input { name: port.name.clone(), element, shape }
}

fn unlowered(node: &NodeProto, reason: String) -> Unlowered {
    Unlowered { node: node_name(node).to_owned(), operator: node.op_type.clone(), reason }
}

/// The graph with its pieces in place of its nodes.
fn rest(model: &ModelProto, onnx: &GraphProto, pieces: Vec<Piece>) -> Graph {
    let node: Vec<NodeProto> = pieces
        .into_iter()
        .enumerate()
        .map(|(index, piece)| match piece {
            Piece::Node(index) => onnx.node[index].clone(),
            Piece::Region(region) => region_node(index, region),
        })
        .collect();
    let mut read: HashSet<String> = node.iter().flat_map(cut::read_by).collect();
    read.extend(onnx.output.iter().map(|output| output.name.clone()));
    let initializer =
        onnx.initializer.iter().filter(|tensor| read.contains(&tensor.name)).cloned().collect();
    let graph = GraphProto {
        name: onnx.name.clone(),
        node,
        initializer,
        input: onnx.input.clone(),
        output: onnx.output.clone(),
        ..GraphProto::default()
    };
    let own = OperatorSetIdProto { domain: REGION_DOMAIN.to_owned(), version: 1 };
    let opset_import = model.opset_import.iter().cloned().chain([own]).collect();
    Graph::of(ModelProto {
        ir_version: model.ir_version,
        opset_import,
        graph: Some(graph),
        ..ModelProto::default()
    })
}

fn region_node(index: usize, region: Region) -> NodeProto {
    let program = TensorProto {
        dims: vec![region.program.len() as i64],
        data_type: DataType::Uint8 as i32,
        raw_data: region.program,
        ..TensorProto::default()
    };
    NodeProto {
        name: format!("selvedge/region/{index}"),
        op_type: REGION_OPERATOR.to_owned(),
        domain: REGION_DOMAIN.to_owned(),
        input: region.inputs,
        output: region.outputs,
        attribute: vec![AttributeProto {
            name: REGION_PROGRAM.to_owned(),
            r#type: AttributeType::Tensor as i32,
            t: Some(program),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}
