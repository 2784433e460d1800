//! From ONNX nodes to the quantised graph.
//!
//! Nodes are read in their order. Each tensor gets a [`Value`]: what is known of it. A float tensor that
//! DequantizeLinear makes is [`Value::Real`]: an integer tensor and its quantisation. What an operator computes from
//! such tensors is [`Value::Pending`] until QuantizeLinear says with which scale it becomes integers again; activations
//! in between narrow its range. The QOperator forms are the same with both ends in one node. Whatever is not
//! recognised is [`Value::Foreign`]: tract computes it, and the reason is kept.

mod movement;
mod nodes;
mod products;
mod quantise;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use selvedge_engine::{Element, Window};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto, type_proto};

use self::nodes::pool_windows;
use self::quantise::Target;
use self::window::windows;
use super::ir::{Graph, Kind, Move, Node, Quant, Source, Tensor, TensorId};
use super::onnx::{Attributes, Constant, node_name};
use super::views::row_major;

/// Why a node cannot be lowered.
pub(super) type Reason = String;

pub(super) type Recognised<T> = Result<T, Reason>;

/// Constants that were dequantised: integers less their zero points, and what one step is.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<i32>,
    /// One, or one for each index along `axis`.
    pub(super) scales: Vec<f32>,
    pub(super) axis: usize,
}

impl Weights {
    /// The real values.
    pub(super) fn reals(&self) -> Vec<f64> {
        let inner: usize = self.shape.iter().skip(self.axis + 1).product();
        let scale = |index: usize| self.scales[(index / inner.max(1)) % self.scales.len()];
        self.values
            .iter()
            .enumerate()
            .map(|(index, value)| f64::from(*value) * f64::from(scale(index)))
            .collect()
    }
}

/// What is known of a tensor.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Constant(Rc<Constant>),
    Weights(Rc<Weights>),
    Integer(TensorId),
    Real(TensorId, Quant),
    Pending(Rc<Pending>),
    Foreign(Rc<Foreign>),
}

/// A tensor that something else computes, and changes of its places since.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    pub(super) source: String,
    pub(super) element: Option<Element>,
    /// Of the source.
    pub(super) shape: Option<Vec<usize>>,
    pub(super) moves: Vec<Step>,
}

/// A change of places or a maximum, and the shape after it.
pub(super) type Step = (Kind, Vec<usize>);

/// A result that waits for its scale.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) core: Core,
    /// The result is clamped to this range of reals.
    pub(super) low: f32,
    pub(super) high: f32,
    /// What the core's result has as its shape.
    pub(super) shape: Vec<usize>,
    /// What is done with the quantised result.
    pub(super) moves: Vec<Step>,
}

impl Pending {
    pub(super) fn new(core: Core, shape: Vec<usize>) -> Pending {
        Pending { core, low: f32::NEG_INFINITY, high: f32::INFINITY, shape, moves: Vec::new() }
    }

    pub(super) fn final_shape(&self) -> &[usize] {
        self.moves.last().map_or(&self.shape, |(_, shape)| shape)
    }
}

/// A linear layer with constant weights, in reals.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub(super) input: TensorId,
    pub(super) quant: Quant,
    /// As `Filter` has them.
    pub(super) weights: Rc<Vec<i8>>,
    /// The real value of one step of each output's sum.
    pub(super) units: Vec<f64>,
    /// In reals.
    pub(super) bias: Vec<f64>,
}

#[derive(Clone, Debug)]
pub(super) enum Core {
    /// The real result for each of the 256 values.
    Function {
        input: TensorId,
        quant: Quant,
        reals: Rc<Vec<f32>>,
    },
    Conv {
        linear: Linear,
        window: Window,
        pads: [usize; 4],
        groups: usize,
    },
    /// Outputs lie along the last axis.
    Dense(Linear),
    MatMul {
        inputs: [(TensorId, Quant); 2],
        factor: f64,
    },
    Sum {
        inputs: [(TensorId, Quant); 2],
        signs: [f64; 2],
    },
    /// `sign · input + addends[index along axis]`.
    SumChannels {
        input: (TensorId, Quant),
        sign: f64,
        axis: usize,
        addends: Vec<f64>,
    },
    Product {
        inputs: [(TensorId, Quant); 2],
    },
    AveragePool {
        input: (TensorId, Quant),
        window: Window,
        counted: Option<[u32; 2]>,
    },
    Softmax {
        input: (TensorId, Quant),
        axis: usize,
    },
    Concat {
        inputs: Vec<(TensorId, Quant)>,
        axis: usize,
    },
}

/// What recognition found.
pub(super) struct Recognition {
    pub(super) graph: Graph,
    /// The value of every tensor of the ONNX graph.
    pub(super) values: HashMap<String, Value>,
    /// Nodes that were not recognised, by their index, and why.
    pub(super) reasons: BTreeMap<usize, Reason>,
}

/// An input of the ONNX graph, for one sample.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
}

/// Reads the nodes of `graph`. `opset` is the version of the default operator set.
pub(super) fn recognise(graph: &GraphProto, inputs: &[Input], opset: i64) -> Recognition {
    let mut recogniser = Recogniser {
        opset,
        graph: Graph::default(),
        values: HashMap::new(),
        imports: HashMap::new(),
        declared: declared_shapes(graph),
    };
    for tensor in &graph.initializer {
        let value = match Constant::of(tensor) {
            Some(constant) => Value::Constant(Rc::new(constant)),
            None => foreign(&tensor.name, None, None),
        };
        recogniser.values.insert(tensor.name.clone(), value);
    }
    for input in inputs {
        let value = foreign(&input.name, Some(input.element), Some(input.shape.clone()));
        recogniser.values.insert(input.name.clone(), value);
    }
    let mut reasons = BTreeMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        match recogniser.node(node) {
            Ok(values) => {
                for (name, value) in node.output.iter().zip(values) {
                    recogniser.values.insert(name.clone(), value);
                }
            }
            Err(reason) => {
                reasons.insert(index, reason);
                recogniser.leave_to_others(node);
            }
        }
    }
    Recognition { graph: recogniser.graph, values: recogniser.values, reasons }
}

fn foreign(source: &str, element: Option<Element>, shape: Option<Vec<usize>>) -> Value {
    Value::Foreign(Rc::new(Foreign {
        source: source.to_owned(),
        element,
        shape,
        moves: Vec::new(),
    }))
}

pub(super) struct Recogniser {
    opset: i64,
    graph: Graph,
    values: HashMap<String, Value>,
    /// Foreign tensors that were imported, by name and quantisation.
    imports: HashMap<(String, u32, i8), TensorId>,
    /// The shapes of inner tensors that the graph declares.
    declared: HashMap<String, Vec<usize>>,
}

impl Recogniser {
    fn input(&self, node: &NodeProto, index: usize) -> Recognised<Value> {
        self.optional(node, index)
            .ok_or_else(|| format!("{} has no input {index}", node_name(node)))
    }

    fn optional(&self, node: &NodeProto, index: usize) -> Option<Value> {
        let name = node.input.get(index).filter(|name| !name.is_empty())?;
        self.values.get(name).cloned()
    }

    fn constant(&self, node: &NodeProto, index: usize) -> Recognised<Option<Rc<Constant>>> {
        match self.optional(node, index) {
            None => Ok(None),
            Some(Value::Constant(constant)) => Ok(Some(constant)),
            Some(_) => Err(format!("its input {index} is not constant")),
        }
    }

    fn integers(&self, node: &NodeProto, index: usize) -> Recognised<Option<Vec<i64>>> {
        let constant = self.constant(node, index)?;
        Ok(constant.and_then(|constant| constant.integers()))
    }

    fn shape(&self, value: &Value) -> Option<Vec<usize>> {
        match value {
            Value::Constant(constant) => Some(constant.shape.clone()),
            Value::Weights(weights) => Some(weights.shape.clone()),
            Value::Integer(tensor) | Value::Real(tensor, _) => {
                Some(self.graph.shape(*tensor).to_vec())
            }
            Value::Pending(pending) => Some(pending.final_shape().to_vec()),
            Value::Foreign(foreign) => match foreign.moves.last() {
                Some((_, shape)) => Some(shape.clone()),
                None => foreign.shape.clone(),
            },
        }
    }

    fn known_shape(&self, value: &Value) -> Recognised<Vec<usize>> {
        self.shape(value).ok_or_else(|| "the shape of its input is not known".to_owned())
    }

    /// The integer tensor and quantisation behind a float tensor.
    fn real(&mut self, value: &Value) -> Recognised<(TensorId, Quant)> {
        match value {
            Value::Real(tensor, quant) => Ok((*tensor, *quant)),
            Value::Weights(weights) => self.constant_tensor(weights),
            Value::Pending(pending) => self
                .exact(pending)
                .ok_or_else(|| "an input is not quantised again before it".to_owned()),
            _ => Err("an input is not quantised".to_owned()),
        }
    }

    /// A function whose every result is a value of its input's quantisation: an activation that only clamps.
    fn exact(&mut self, pending: &Pending) -> Option<(TensorId, Quant)> {
        let Core::Function { input, quant, reals } = &pending.core else { return None };
        let (input, quant) = (*input, *quant);
        let real = |value: i8| f32::from(i16::from(value) - i16::from(quant.zero)) * quant.scale;
        let clamped: Vec<f32> =
            reals.iter().map(|real| real.max(pending.low).min(pending.high)).collect();
        if !clamped.iter().all(|result| real(quant.value(*result)) == *result) {
            return None;
        }
        let Tensor { name, unsigned, .. } = self.graph.tensors[input].clone();
        let table = self.table(input, &clamped, Target { quant, unsigned }, &name);
        Some((self.moved(table, &pending.moves), quant))
    }

    /// Constants as a tensor of the program.
    fn constant_tensor(&mut self, weights: &Weights) -> Recognised<(TensorId, Quant)> {
        let [scale] = weights.scales[..] else {
            return Err("a constant operand has more than one scale".to_owned());
        };
        let low = weights.values.iter().copied().min().unwrap_or(0).min(0);
        let high = weights.values.iter().copied().max().unwrap_or(0).max(0);
        if high - low > 255 {
            return Err("a constant operand does not fit 8 bits".to_owned());
        }
        // Zero stays within the range, so the zero point fits too.
        let zero = 0.clamp(-128 - low, 127 - high) as i8;
        let bytes = weights.values.iter().map(|value| (value + i32::from(zero)) as i8).collect();
        let tensor = self.tensor("constant", weights.shape.clone(), false);
        self.push(Kind::Constant(bytes), Vec::new(), tensor);
        Ok((tensor, Quant { scale, zero }))
    }

    fn tensor(&mut self, name: &str, shape: Vec<usize>, unsigned: bool) -> TensorId {
        self.graph.tensors.push(Tensor { name: name.to_owned(), shape, unsigned });
        self.graph.tensors.len() - 1
    }

    fn push(&mut self, kind: Kind, inputs: Vec<TensorId>, output: TensorId) {
        self.graph.nodes.push(Node { kind, inputs, output });
    }

    /// A node of one input, and its output.
    fn derived(&mut self, input: TensorId, (kind, shape): Step) -> TensorId {
        let Tensor { name, unsigned, .. } = self.graph.tensors[input].clone();
        let output = self.tensor(&name, shape, unsigned);
        self.push(kind, vec![input], output);
        output
    }

    /// Takes a foreign tensor into the program.
    fn import(
        &mut self,
        foreign: &Foreign,
        quant: Quant,
        element: Element,
    ) -> Recognised<TensorId> {
        let shape = foreign
            .shape
            .clone()
            .ok_or_else(|| "the shape of its input is not known".to_owned())?;
        let key = (foreign.source.clone(), quant.scale.to_bits(), quant.zero);
        let root = match self.imports.get(&key) {
            Some(tensor) => *tensor,
            None => {
                let unsigned = element == Element::U8;
                let tensor = self.tensor(&foreign.source, shape.clone(), unsigned);
                let strides = row_major(&shape);
                let name = foreign.source.clone();
                self.graph.sources.push(Source { name, element, shape, quant });
                let source = self.graph.sources.len() - 1;
                self.push(Kind::Import { source, offset: 0, strides }, Vec::new(), tensor);
                self.imports.insert(key, tensor);
                tensor
            }
        };
        Ok(foreign.moves.iter().fold(root, |tensor, step| self.derived(tensor, step.clone())))
    }

    /// The outputs of a node that stays: what can be said of their type and shape without computing them.
    fn leave_to_others(&mut self, node: &NodeProto) {
        let inputs: Vec<Value> =
            (0..node.input.len()).filter_map(|index| self.optional(node, index)).collect();
        let element = match node.op_type.as_str() {
            "Cast" | "Shape" | "Size" | "ArgMax" | "ArgMin" | "Equal" | "Less" | "Greater"
            | "Not" => None,
            "DequantizeLinear" => Some(Element::F32),
            operator if operator.contains("Quantize") || operator.contains("QLinear") => None,
            operator if operator.ends_with("Integer") => None,
            _ => inputs.iter().any(is_float).then_some(Element::F32),
        };
        let shape = self.shape_elsewhere(node, &inputs);
        for (index, name) in node.output.iter().enumerate() {
            let shape = self.declared.get(name).cloned().or(shape.clone().filter(|_| index == 0));
            self.values.insert(name.clone(), foreign(name, element, shape));
        }
    }

    /// The shape of what a common float operator gives.
    fn shape_elsewhere(&self, node: &NodeProto, inputs: &[Value]) -> Option<Vec<usize>> {
        let shape = |index: usize| inputs.get(index).and_then(|value| self.shape(value));
        match node.op_type.as_str() {
            "Relu"
            | "Clip"
            | "Sigmoid"
            | "Tanh"
            | "Softmax"
            | "LogSoftmax"
            | "Identity"
            | "Cast"
            | "Erf"
            | "Gelu"
            | "HardSwish"
            | "HardSigmoid"
            | "LeakyRelu"
            | "Elu"
            | "Sqrt"
            | "Exp"
            | "Log"
            | "LayerNormalization"
            | "BatchNormalization"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "PRelu"
            | "Neg"
            | "Abs"
            | "InstanceNormalization" => shape(0),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" => {
                broadcast(&shape(0)?, &shape(1)?).ok()
            }
            "MatMul" => {
                let (a, b) = (shape(0)?, shape(1)?);
                let ([left @ .., rows, _], [right @ .., _, columns]) = (&a[..], &b[..]) else {
                    return None;
                };
                let mut shape = broadcast(left, right).ok()?;
                shape.extend([*rows, *columns]);
                Some(shape)
            }
            "Gemm" => {
                let columns = usize::from(!Attributes(node).flag("transB"));
                let rows = usize::from(Attributes(node).flag("transA"));
                Some(vec![*shape(0)?.get(rows)?, *shape(1)?.get(columns)?])
            }
            "Conv" => {
                let (mut input, weights) = (shape(0)?, shape(1)?);
                let kernel = weights.get(2..).filter(|kernel| kernel.len() + 2 == input.len())?;
                let found = windows(Attributes(node), kernel, &input[2..]).ok()?;
                input[1] = weights[0];
                input[2..].copy_from_slice(&found.outputs[2 - kernel.len()..]);
                Some(input)
            }
            "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                let mut input = shape(0)?;
                let found = pool_windows(node, &input).ok()?;
                let axes = input.len() - 2;
                input[2..].copy_from_slice(&found.outputs[2 - axes..]);
                Some(input)
            }
            _ => None,
        }
    }
}

fn is_float(value: &Value) -> bool {
    match value {
        Value::Real(..) | Value::Pending(_) | Value::Weights(_) => true,
        Value::Constant(constant) => constant.floats().is_some(),
        Value::Foreign(foreign) => foreign.element == Some(Element::F32),
        Value::Integer(_) => false,
    }
}

/// The shapes that the graph declares for inner tensors, as far as they are fixed. A batch that is free is one.
fn declared_shapes(graph: &GraphProto) -> HashMap<String, Vec<usize>> {
    let shape_of = |value: &ValueInfoProto| {
        let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
        let extent = |(axis, dimension): (usize, &Dimension)| match (&dimension.value, axis) {
            (Some(dimension::Value::DimValue(extent)), _) => usize::try_from(*extent).ok(),
            (_, 0) => Some(1),
            _ => None,
        };
        tensor.shape.as_ref()?.dim.iter().enumerate().map(extent).collect::<Option<Vec<_>>>()
    };
    let shapes = graph.value_info.iter();
    shapes.filter_map(|value| Some((value.name.clone(), shape_of(value)?))).collect()
}

/// The shape of an element-wise operation of two tensors.
fn broadcast(a: &[usize], b: &[usize]) -> Recognised<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(format!("the shapes {a:?} and {b:?} do not fit")),
        })
        .collect()
}

/// An axis that may count from the end.
fn axis_of(axis: i64, rank: usize) -> Recognised<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < rank)
        .ok_or_else(|| format!("the axis {axis} is not one of {rank}"))
}

fn reshape_step(shape: Vec<usize>) -> Step {
    (Kind::Move(Move::Reshape), shape)
}
