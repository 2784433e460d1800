//! Where tensors lie: which of them have memory of their own, in which order of axes, and with which border.
//!
//! Pixels have their channels innermost, whatever the ONNX graph has. A transposition, a reshape or a slice is a *view*
//! of the memory of another tensor (its *root*) where strides can say it. A convolution that reaches over the edge of
//! its input has the input's root keep a *border* of the zero point.

use std::collections::HashMap;

use super::ir::{Graph, Kind, Move, Node, TensorId};
use super::views::{Strides, offsets, reshaped, row_major};

/// Pixels around a tensor that stand for padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Border {
    /// `[top, left, bottom, right]`.
    pub(super) extents: [usize; 4],
    pub(super) value: i8,
}

/// The memory of a root.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) len_bytes: usize,
    /// Where its first value lies.
    pub(super) origin: usize,
    pub(super) strides: Strides,
}

impl Block {
    /// Memory for a tensor whose axes lie in `order`, outermost first. A border lies along the third and the second
    /// axis from the end of that order.
    pub(super) fn new(shape: &[usize], order: &[usize], border: Option<Border>) -> Block {
        let [top, left, bottom, right] = border.map_or([0; 4], |border| border.extents);
        let around = |depth: usize| match depth {
            1 => (left, right),
            2 => (top, bottom),
            _ => (0, 0),
        };
        let mut strides = vec![1; shape.len()];
        let (mut step, mut origin) = (1, 0);
        for (depth, axis) in order.iter().rev().enumerate() {
            strides[*axis] = step;
            let (before, after) = around(depth);
            origin += before * step;
            step *= before + shape[*axis] + after;
        }
        Block { len_bytes: step, origin, strides }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// In the memory of `root`, at `offset` from its first value.
    View { root: TensorId, offset: usize, strides: Strides, order: Vec<usize> },
    /// Element by element, at these offsets from the first value of `root`.
    Scattered { root: TensorId, offsets: Vec<usize> },
}

/// Where all tensors lie.
pub(super) struct Places {
    pub(super) places: HashMap<TensorId, Place>,
    pub(super) blocks: HashMap<TensorId, Block>,
    pub(super) borders: HashMap<TensorId, Border>,
}

impl Places {
    pub(super) fn of(graph: &Graph) -> Places {
        let orders = wanted_orders(graph);
        let bare = Places::with_borders(graph, &orders, HashMap::new());
        let borders = bare.wanted_borders(graph);
        Places::with_borders(graph, &orders, borders)
    }

    fn with_borders(
        graph: &Graph,
        orders: &HashMap<TensorId, Vec<usize>>,
        borders: HashMap<TensorId, Border>,
    ) -> Places {
        let consumers = graph.consumers();
        let mut places = Places { places: HashMap::new(), blocks: HashMap::new(), borders };
        for node in &graph.nodes {
            let place = match places.view(graph, node, &consumers[node.output]) {
                Some(place) => place,
                None => places.root(graph, node, orders.get(&node.output)),
            };
            places.places.insert(node.output, place);
        }
        places
    }

    /// The tensor as a view of its input's memory.
    fn view(&self, graph: &Graph, node: &Node, consumers: &[usize]) -> Option<Place> {
        let Kind::Move(step) = &node.kind else { return None };
        let input = *node.inputs.first()?;
        let Place::View { root, offset, strides, order } = self.places.get(&input)? else {
            return None;
        };
        let (root, old, new) = (*root, graph.shape(input), graph.shape(node.output));
        match step {
            Move::Transpose(permutation) => {
                let at = |axis: &usize| permutation.iter().position(|from| from == axis);
                Some(Place::View {
                    root,
                    offset: *offset,
                    strides: permutation.iter().map(|axis| strides[*axis]).collect(),
                    order: order.iter().map(at).collect::<Option<_>>()?,
                })
            }
            Move::Reshape => match reshaped(old, strides, new) {
                Some(strides) => {
                    let order = order_of(&strides);
                    Some(Place::View { root, offset: *offset, strides, order })
                }
                None => {
                    let one_row = |index: &usize| {
                        let rows = new.iter().rev().skip(1).product::<usize>();
                        matches!(graph.nodes[*index].kind, Kind::Dense { .. }) && rows == 1
                    };
                    let exported = graph.exports.iter().any(|export| export.tensor == node.output);
                    let dense = self.blocks[&root].len_bytes == old.iter().product::<usize>();
                    let scatters = dense && !exported && consumers.iter().all(one_row);
                    scatters.then(|| Place::Scattered { root, offsets: offsets(old, strides) })
                }
            },
            Move::Slice { starts, steps } => Some(Place::View {
                root,
                offset: offset
                    + starts.iter().zip(strides).map(|(at, step)| at * step).sum::<usize>(),
                strides: strides.iter().zip(steps).map(|(stride, step)| stride * step).collect(),
                order: order.clone(),
            }),
            Move::Expand => {
                let repeated = old.iter().zip(new).map(|(old, new)| old != new);
                let strides = strides.iter().zip(repeated);
                Some(Place::View {
                    root,
                    offset: *offset,
                    strides: strides
                        .map(|(step, repeated)| if repeated { 0 } else { *step })
                        .collect(),
                    order: order.clone(),
                })
            }
            Move::Pad { .. } | Move::Concat(_) | Move::Repeat(_) => None,
        }
    }

    /// Memory of its own for a tensor.
    fn root(&mut self, graph: &Graph, node: &Node, wanted: Option<&Vec<usize>>) -> Place {
        let tensor = node.output;
        let shape = graph.shape(tensor);
        let rows: Vec<usize> = (0..shape.len()).collect();
        let like_input = || {
            node.inputs.iter().find_map(|input| match self.places.get(input) {
                Some(Place::View { order, .. }) if order.len() == shape.len() => {
                    Some(order.clone())
                }
                _ => None,
            })
        };
        let order = match &node.kind {
            Kind::Conv { .. } | Kind::AveragePool { .. } | Kind::MaxPool { .. } => {
                pixel_order(shape.len())
            }
            Kind::Dense { .. } | Kind::MatMul { .. } | Kind::Move(Move::Reshape) => rows,
            Kind::Import { .. } | Kind::Constant(_) => wanted.cloned().unwrap_or(rows),
            Kind::Softmax { axis, .. } | Kind::AddChannels { axis, .. } => {
                let mut order = like_input().unwrap_or(rows);
                order.retain(|other| other != axis);
                order.push(*axis);
                order
            }
            Kind::Add { .. } | Kind::Mul { .. } | Kind::Table(_) | Kind::Move(_) => {
                like_input().unwrap_or(rows)
            }
        };
        let block = Block::new(shape, &order, self.borders.get(&tensor).copied());
        let strides = block.strides.clone();
        self.blocks.insert(tensor, block);
        Place::View { root: tensor, offset: 0, strides, order }
    }

    /// The border that each root needs for the convolutions that read it.
    fn wanted_borders(&self, graph: &Graph) -> HashMap<TensorId, Border> {
        let mut borders: HashMap<TensorId, Border> = HashMap::new();
        for node in &graph.nodes {
            let Some(border) = reach(graph, node) else { continue };
            let Some(root) = self.whole_root(graph, node.inputs[0]) else { continue };
            let entry = borders.entry(root).or_insert(border);
            // Where two convolutions pad with different values, the second has a copy of its own.
            if entry.value == border.value {
                entry.extents =
                    std::array::from_fn(|side| entry.extents[side].max(border.extents[side]));
            }
        }
        borders
    }

    /// The root of an input of a convolution, if its pixels are the input's.
    pub(super) fn whole_root(&self, graph: &Graph, tensor: TensorId) -> Option<TensorId> {
        let Place::View { root, offset: 0, strides, .. } = self.places.get(&tensor)? else {
            return None;
        };
        let Place::View { order, strides: own, .. } = self.places.get(root)? else { return None };
        let shape = graph.shape(tensor);
        let pixels = pixel_order(shape.len());
        let same = |depth: usize| {
            let (axis, of_root) = (pixels.iter().rev().nth(depth), order.iter().rev().nth(depth));
            axis.zip(of_root).is_some_and(|(axis, of_root)| {
                shape[*axis] == graph.shape(*root)[*of_root] && strides[*axis] == own[*of_root]
            })
        };
        (0..3).all(same).then_some(*root)
    }
}

/// How far the windows of a convolution reach over the edges of its input; `None` if they do not.
pub(super) fn reach(graph: &Graph, node: &Node) -> Option<Border> {
    let Kind::Conv { window, filter, .. } = &node.kind else { return None };
    let (input, output) = (graph.shape(node.inputs[0]), graph.shape(node.output));
    let along = |shape: &[usize], axis: usize| match (shape.len(), axis) {
        (3, 0) => 1,
        (3, _) => shape[2],
        _ => shape[2 + axis],
    };
    let after = |axis: usize| {
        let last = (along(output, axis) - 1) * window.stride[axis] as usize;
        let taps = (window.kernel[axis] - 1) as usize * window.dilation[axis] as usize;
        (last + taps).saturating_sub(window.padding[axis] as usize + along(input, axis) - 1)
    };
    let [top, left] = window.padding.map(|pad| pad as usize);
    let extents = [top, left, after(0), after(1)];
    (extents != [0; 4]).then_some(Border { extents, value: filter.input_zero })
}

/// The order of the axes of `[batch, channels, axis…]` with channels innermost.
pub(super) fn pixel_order(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain([1]).take(rank).collect()
}

/// The order of axes by their strides, the widest first.
fn order_of(strides: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..strides.len()).collect();
    order.sort_by_key(|axis| std::cmp::Reverse(strides[*axis]));
    order
}

/// The orders that operations on pixels want of the tensors that they read, passed on to where these come from.
fn wanted_orders(graph: &Graph) -> HashMap<TensorId, Vec<usize>> {
    let mut wanted: HashMap<TensorId, Vec<usize>> = HashMap::new();
    for node in graph.nodes.iter().rev() {
        let own = wanted.get(&node.output).cloned();
        match &node.kind {
            Kind::Conv { .. } | Kind::AveragePool { .. } | Kind::MaxPool { .. } => {
                let input = node.inputs[0];
                wanted.insert(input, pixel_order(graph.shape(input).len()));
            }
            Kind::Move(Move::Transpose(permutation)) => {
                if let Some(own) = own {
                    let order = own.iter().map(|axis| permutation[*axis]).collect();
                    wanted.insert(node.inputs[0], order);
                }
            }
            Kind::Add { .. }
            | Kind::Mul { .. }
            | Kind::Table(_)
            | Kind::AddChannels { .. }
            | Kind::Move(
                Move::Pad { .. } | Move::Slice { .. } | Move::Concat(_) | Move::Repeat(_),
            ) => {
                for input in &node.inputs {
                    if let Some(own) =
                        own.clone().filter(|own| own.len() == graph.shape(*input).len())
                    {
                        wanted.insert(*input, own);
                    }
                }
            }
            _ => (),
        }
    }
    wanted
}

/// Lets changes of places next to the outside be made by the import and export themselves.
pub(super) fn hoist_moves(mut graph: Graph) -> Graph {
    let mut imports: HashMap<TensorId, (usize, usize, Strides)> = HashMap::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let output = node.output;
        let entry = match &node.kind {
            Kind::Import { source, offset, strides } => Some((*source, *offset, strides.clone())),
            Kind::Move(step) => {
                imports.get(&node.inputs[0]).and_then(|(source, offset, strides)| {
                    let old = graph.shape(node.inputs[0]);
                    match step {
                        Move::Transpose(permutation) => {
                            let strides = permutation.iter().map(|axis| strides[*axis]).collect();
                            Some((*source, *offset, strides))
                        }
                        Move::Reshape => reshaped(old, strides, graph.shape(output))
                            .map(|strides| (*source, *offset, strides)),
                        _ => None,
                    }
                })
            }
            _ => None,
        };
        if let Some((source, offset, strides)) = entry {
            imports.insert(output, (source, offset, strides.clone()));
            let node = &mut graph.nodes[index];
            node.kind = Kind::Import { source, offset, strides };
            node.inputs.clear();
        }
    }
    let producers = graph.producers();
    for index in 0..graph.exports.len() {
        loop {
            let export = &graph.exports[index];
            let Some(node) = producers[export.tensor].map(|node| &graph.nodes[node]) else { break };
            let outer = graph.shape(node.output);
            let strides = match &node.kind {
                Kind::Move(Move::Transpose(permutation)) => {
                    let mut strides = vec![0; permutation.len()];
                    for (axis, from) in permutation.iter().enumerate() {
                        strides[*from] = export.strides[axis];
                    }
                    Some(strides)
                }
                Kind::Move(Move::Reshape) => {
                    reshaped(outer, &export.strides, graph.shape(node.inputs[0]))
                }
                _ => None,
            };
            let Some(strides) = strides else { break };
            let tensor = node.inputs[0];
            let export = &mut graph.exports[index];
            (export.tensor, export.strides) = (tensor, strides);
        }
    }
    graph.without_unused()
}

/// The strides of an export that changes no places.
pub(super) fn plain_strides(shape: &[usize]) -> Strides {
    row_major(shape)
}
