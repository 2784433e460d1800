//! The quantised graph between ONNX and a program: integer tensors, and what is computed from what.
//!
//! Tensors are `i8` throughout, as in the engine: the values of a `u8` tensor less 128. What a value means (scale, zero
//! point) belongs to the operations that read and write it, not to the tensor.

use selvedge_engine::{Element, Range, Window};

use super::views::Strides;

pub(super) type TensorId = usize;

/// `real = (value - zero) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quant {
    pub(super) scale: f32,
    pub(super) zero: i8,
}

impl Quant {
    /// What each of the 256 values means, in `f32` as DequantizeLinear computes it.
    pub(super) fn reals(self) -> impl Iterator<Item = f32> {
        (i8::MIN..=i8::MAX)
            .map(move |value| (f32::from(i16::from(value) - i16::from(self.zero))) * self.scale)
    }

    /// The value that stands for `real`, as QuantizeLinear computes it.
    pub(super) fn value(self, real: f32) -> i8 {
        let steps = (real / self.scale).round_ties_even() + f32::from(self.zero);
        if steps.is_nan() { self.zero } else { steps.clamp(-128.0, 127.0) as i8 }
    }

    /// The range of results between `low` and `high`.
    pub(super) fn range(self, low: f32, high: f32) -> Range {
        Range { zero_point: self.zero, low: self.value(low), high: self.value(high) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// In the order of the ONNX graph.
    pub(super) shape: Vec<usize>,
    /// Whether the ONNX graph has it as `u8`.
    pub(super) unsigned: bool,
}

/// The constants of a convolution or product, as `ConvWeights` wants them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    /// `[outputs, kernel height, kernel width, inputs of the group]`.
    pub(super) weights: Vec<i8>,
    pub(super) bias: Vec<i32>,
    pub(super) multipliers: Vec<f32>,
    pub(super) input_zero: i8,
}

/// A change of places, not of values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    Reshape,
    /// `output axis i` is `input axis permutation[i]`.
    Transpose(Vec<usize>),
    /// The first index and the step along each axis.
    Slice {
        starts: Vec<usize>,
        steps: Vec<usize>,
    },
    /// Values before the first, along each axis; what is new has this value.
    Pad {
        before: Vec<usize>,
        value: i8,
    },
    /// Along this axis.
    Concat(usize),
    /// Repeats along axes of one element.
    Expand,
    /// Each element this many times along each axis, next to each other.
    Repeat(Vec<usize>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A tensor that enters the region: `offset` and `strides` say where each element lies in it.
    Import {
        source: usize,
        offset: usize,
        strides: Strides,
    },
    Constant(Vec<i8>),
    /// Pads are `[top, left, bottom, right]`, as far as windows reach.
    Conv {
        window: Window,
        pads: [usize; 4],
        groups: usize,
        filter: Filter,
        range: Range,
    },
    Dense {
        filter: Filter,
        range: Range,
    },
    MatMul {
        zeros: [i8; 2],
        multiplier: f32,
        range: Range,
    },
    Add {
        zeros: [i8; 2],
        ratios: [f32; 2],
        range: Range,
    },
    /// `addends` in steps of the output, one for each element along `axis`.
    AddChannels {
        axis: usize,
        zero: i8,
        ratio: f32,
        addends: Vec<f32>,
        range: Range,
    },
    Mul {
        zeros: [i8; 2],
        multiplier: f32,
        range: Range,
    },
    AveragePool {
        window: Window,
        counted: Option<[u32; 2]>,
        zero: i8,
        ratio: f32,
        range: Range,
    },
    MaxPool {
        window: Window,
    },
    Softmax {
        axis: usize,
        scale: f32,
        steps: f64,
        range: Range,
    },
    Table(Box<[i8; 256]>),
    Move(Move),
}

/// A tensor that enters a region.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    /// Its name in the ONNX graph.
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// What its values become; without a meaning for integers, which are taken as they are.
    pub(super) quant: Quant,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) inputs: Vec<TensorId>,
    pub(super) output: TensorId,
}

/// A tensor that leaves the region.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Export {
    pub(super) tensor: TensorId,
    /// The tensor's name in the ONNX graph.
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) quant: Quant,
    /// The shape that it has outside.
    pub(super) shape: Vec<usize>,
    /// Where the elements of `tensor` go, in elements of the whole.
    pub(super) strides: Strides,
}

/// Nodes in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) tensors: Vec<Tensor>,
    pub(super) nodes: Vec<Node>,
    pub(super) sources: Vec<Source>,
    pub(super) exports: Vec<Export>,
}

impl Graph {
    pub(super) fn shape(&self, tensor: TensorId) -> &[usize] {
        &self.tensors[tensor].shape
    }

    /// The index of the node that makes each tensor.
    pub(super) fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.tensors.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            producers[node.output] = Some(index);
        }
        producers
    }

    /// The nodes that read each tensor.
    pub(super) fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.tensors.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| consumers[*input].push(index));
        }
        consumers
    }

    /// Leaves out nodes from which no export follows.
    pub(super) fn without_unused(mut self) -> Graph {
        let producers = self.producers();
        let mut used = vec![false; self.nodes.len()];
        let mut open: Vec<TensorId> = self.exports.iter().map(|export| export.tensor).collect();
        while let Some(tensor) = open.pop() {
            let Some(node) = producers[tensor] else { continue };
            if !std::mem::replace(&mut used[node], true) {
                open.extend(&self.nodes[node].inputs);
            }
        }
        let mut keep = used.into_iter();
        self.nodes.retain(|_| keep.next().unwrap_or(false));
        self
    }
}
