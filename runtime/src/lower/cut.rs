//! Cutting a graph: which nodes become programs, which stay, and in which order the pieces run.
//!
//! A *region* is a program that stands in the graph as one node. Every node that was lowered belongs to the region of
//! its *level*: how many times one has to pass from a region through other nodes to get there. So all that a region
//! reads is made before it, and no two regions wait for each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use selvedge_engine::{Element, Limits};
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

use super::emit::{MemoryUse, emit};
use super::ir::{Export, Graph, Kind, Node, Quant, Source, TensorId};
use super::places::{hoist_moves, plain_strides};
use super::recognise::{Recognised, Recognition, Value};
use super::views::row_major;

/// Integers as they are.
const PLAIN: Quant = Quant { scale: 1.0, zero: 0 };

/// A program, and how it stands in the graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Region {
    /// The program's bytes.
    pub(crate) program: Vec<u8>,
    pub(crate) memory: MemoryUse,
    /// The tensors that it reads and makes, by their names in the graph.
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
}

/// The pieces of a graph.
pub(super) struct Cut {
    /// In an order in which they can run, between the nodes that stay.
    pub(super) pieces: Vec<Piece>,
}

pub(super) enum Piece {
    /// The index of a node that stays.
    Node(usize),
    Region(Region),
}

/// Cuts a graph of which `outputs` are asked for.
pub(super) fn cut(
    onnx: &GraphProto,
    found: Recognition,
    outputs: &[&str],
    limits: &Limits,
) -> Recognised<Cut> {
    let Recognition { graph, values, .. } = found;
    let needed = Needed::of(onnx, &graph, &values, outputs);
    let levels = Levels::of(onnx, &graph, &needed);
    let mut regions = regions(&graph, &needed, &levels);
    let mut pieces = Vec::new();
    for level in 0..levels.count {
        let stays = needed.stay.iter().filter(|index| levels.nodes[**index] == level);
        pieces.extend(stays.map(|index| Piece::Node(*index)));
        if let Some(region) = regions.remove(&level) {
            let region = hoist_moves(region.without_unused());
            let (program, memory) = emit(&region, limits)?;
            let inputs = region.sources.into_iter().map(|source| source.name).collect();
            let outputs = region.exports.into_iter().map(|export| export.name).collect();
            pieces.push(Piece::Region(Region { program, memory, inputs, outputs }));
        }
    }
    Ok(Cut { pieces })
}

/// What has to be computed for the outputs that are asked for.
struct Needed {
    /// Nodes that stay, by their index.
    stay: BTreeSet<usize>,
    /// Tensors of the graph that programs make, in the order of the outputs first.
    exports: Vec<Export>,
    /// Whether each node of the quantised graph is used.
    used: Vec<bool>,
}

impl Needed {
    fn of(
        onnx: &GraphProto,
        graph: &Graph,
        values: &HashMap<String, Value>,
        outputs: &[&str],
    ) -> Needed {
        let makers: HashMap<&str, usize> = onnx
            .node
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.output.iter().map(move |name| (name.as_str(), index)))
            .collect();
        let producers = graph.producers();
        let mut needed = Needed {
            stay: BTreeSet::new(),
            exports: Vec::new(),
            used: vec![false; graph.nodes.len()],
        };
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = outputs.iter().rev().map(|name| (*name).to_owned()).collect();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            match values.get(&name).and_then(|value| export(graph, &name, value)) {
                Some(export) => {
                    open.extend(needed.use_tensor(graph, &producers, export.tensor));
                    needed.exports.push(export);
                }
                None => {
                    let Some(maker) = makers.get(name.as_str()) else { continue };
                    if needed.stay.insert(*maker) {
                        open.extend(read_by(&onnx.node[*maker]));
                    }
                }
            }
        }
        needed
    }

    /// Marks what a tensor is made from, and says which tensors of the ONNX graph it begins with.
    fn use_tensor(
        &mut self,
        graph: &Graph,
        producers: &[Option<usize>],
        tensor: TensorId,
    ) -> Vec<String> {
        let (mut open, mut begins) = (vec![tensor], Vec::new());
        while let Some(tensor) = open.pop() {
            let Some(index) = producers[tensor] else { continue };
            if std::mem::replace(&mut self.used[index], true) {
                continue;
            }
            let node = &graph.nodes[index];
            open.extend(&node.inputs);
            if let Kind::Import { source, .. } = &node.kind {
                begins.push(graph.sources[*source].name.clone());
            }
        }
        begins
    }
}

/// The tensor as a program can make it.
fn export(graph: &Graph, name: &str, value: &Value) -> Option<Export> {
    let (tensor, element, quant) = match value {
        Value::Integer(tensor) => (*tensor, element_of(graph, *tensor), PLAIN),
        Value::Real(tensor, quant) => (*tensor, Element::F32, *quant),
        _ => return None,
    };
    let shape = graph.shape(tensor).to_vec();
    let strides = plain_strides(&shape);
    Some(Export { tensor, name: name.to_owned(), element, quant, shape, strides })
}

fn element_of(graph: &Graph, tensor: TensorId) -> Element {
    if graph.tensors[tensor].unsigned { Element::U8 } else { Element::I8 }
}

/// The tensors that a node reads, those of its subgraphs included.
pub(super) fn read_by(node: &NodeProto) -> Vec<String> {
    let mut names: Vec<String> =
        node.input.iter().filter(|name| !name.is_empty()).cloned().collect();
    for AttributeProto { g, graphs, .. } in &node.attribute {
        for inner in g.iter().chain(graphs) {
            names.extend(inner.node.iter().flat_map(read_by));
            names.extend(inner.output.iter().map(|output| output.name.clone()));
        }
    }
    names
}

struct Levels {
    /// Of each tensor of the quantised graph.
    tensors: Vec<usize>,
    /// Of each node of the ONNX graph.
    nodes: Vec<usize>,
    count: usize,
}

impl Levels {
    fn of(onnx: &GraphProto, graph: &Graph, needed: &Needed) -> Levels {
        let mut tensors = vec![0; graph.tensors.len()];
        let mut nodes = vec![0; onnx.node.len()];
        let exported: HashMap<&str, TensorId> =
            needed.exports.iter().map(|export| (export.name.as_str(), export.tensor)).collect();
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for index in &needed.stay {
            makers.extend(onnx.node[*index].output.iter().map(|name| (name.as_str(), *index)));
        }
        loop {
            let before = (tensors.clone(), nodes.clone());
            let of_name = |name: &str, tensors: &[usize], nodes: &[usize]| match (
                exported.get(name),
                makers.get(name),
            ) {
                (Some(tensor), _) => tensors[*tensor] + 1,
                (None, Some(maker)) => nodes[*maker],
                (None, None) => 0,
            };
            for node in &graph.nodes {
                tensors[node.output] = match &node.kind {
                    Kind::Import { source, .. } => {
                        of_name(&graph.sources[*source].name, &tensors, &nodes)
                    }
                    _ => node.inputs.iter().map(|input| tensors[*input]).max().unwrap_or(0),
                };
            }
            for index in &needed.stay {
                let names = read_by(&onnx.node[*index]);
                let levels = names.iter().map(|name| of_name(name, &tensors, &nodes));
                nodes[*index] = levels.max().unwrap_or(0);
            }
            if before == (tensors.clone(), nodes.clone()) {
                let count = 1 + tensors.iter().chain(&nodes).max().copied().unwrap_or(0);
                return Levels { tensors, nodes, count };
            }
        }
    }
}

/// The quantised graph of each level that makes something.
fn regions(graph: &Graph, needed: &Needed, levels: &Levels) -> BTreeMap<usize, Graph> {
    let empty = || Graph { tensors: graph.tensors.clone(), ..Graph::default() };
    let mut regions: BTreeMap<usize, Graph> = BTreeMap::new();
    let mut crossings: BTreeSet<TensorId> = BTreeSet::new();
    let producers = graph.producers();
    let used = graph.nodes.iter().zip(&needed.used).filter(|(_, used)| **used);
    for (node, _) in used {
        let level = levels.tensors[node.output];
        let region = regions.entry(level).or_insert_with(empty);
        for input in &node.inputs {
            let known = region.nodes.iter().any(|node| node.output == *input);
            if levels.tensors[*input] == level || known {
                continue;
            }
            match producers[*input].map(|index| &graph.nodes[index]) {
                Some(constant @ Node { kind: Kind::Constant(_), .. }) => {
                    region.nodes.push(constant.clone());
                }
                _ => {
                    import(region, graph, *input);
                    crossings.insert(*input);
                }
            }
        }
        let mut node = node.clone();
        if let Kind::Import { source, .. } = &mut node.kind {
            region.sources.push(graph.sources[*source].clone());
            *source = region.sources.len() - 1;
        }
        region.nodes.push(node);
    }
    for export in &needed.exports {
        if let Some(region) = regions.get_mut(&levels.tensors[export.tensor]) {
            region.exports.push(export.clone());
        }
    }
    for tensor in crossings {
        if let Some(region) = regions.get_mut(&levels.tensors[tensor]) {
            let shape = graph.shape(tensor).to_vec();
            region.exports.push(Export {
                tensor,
                name: crossing_name(tensor),
                element: element_of(graph, tensor),
                quant: PLAIN,
                strides: plain_strides(&shape),
                shape,
            });
        }
    }
    regions
}

/// Takes a tensor of an earlier region into this one.
fn import(region: &mut Graph, graph: &Graph, tensor: TensorId) {
    let shape = graph.shape(tensor).to_vec();
    let strides = row_major(&shape);
    region.sources.push(Source {
        name: crossing_name(tensor),
        element: element_of(graph, tensor),
        shape,
        quant: PLAIN,
    });
    let kind = Kind::Import { source: region.sources.len() - 1, offset: 0, strides };
    region.nodes.push(Node { kind, inputs: Vec::new(), output: tensor });
}

/// A name that no tensor of the ONNX graph has.
fn crossing_name(tensor: TensorId) -> String {
    format!("selvedge/crossing/{tensor}")
}
