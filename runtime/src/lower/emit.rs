//! From the quantised graph to a program: operations over blocks of memory, then offsets, then bytes.

use std::borrow::Cow;
use std::collections::HashMap;

use selvedge_engine::{
    Add, AddChannels, AveragePool, Border as BorderOp, Constant, Conv, ConvWeights, Copy,
    Depthwise, Elements, Export as ExportOp, Import, Limits, MatMul, MaxPool, Mul, Op,
    ProgramBuilder, Range, Shape, Softmax, Strided, Table, View, Window,
};

use super::arena::{self, Life};
use super::ir::{Export, Filter, Graph, Kind, Move, Node, TensorId};
use super::places::{Block, Border, Place, Places, pixel_order, reach};
use super::recognise::{Reason, Recognised};
use super::views::{Loop, Strides, loops, row_major};

/// Where a program's memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryUse {
    pub(crate) arena_bytes: usize,
    /// The most bytes that live at one step.
    pub(crate) live_bytes_max: usize,
}

/// The program of a graph.
pub(super) fn emit(graph: &Graph, limits: &Limits) -> Recognised<(Vec<u8>, MemoryUse)> {
    let mut emitter = Emitter {
        graph,
        places: Places::of(graph),
        builder: ProgramBuilder::new(),
        block_lens: Vec::new(),
        roots: HashMap::new(),
        sources: Vec::new(),
        exports: Vec::new(),
        steps: Vec::new(),
    };
    for source in &graph.sources {
        let len_bytes = source.shape.iter().product::<usize>() * source.element.bytes();
        let block = emitter.block(len_bytes);
        emitter.sources.push(block);
    }
    for node in &graph.nodes {
        emitter.node(node)?;
    }
    for export in &graph.exports {
        emitter.export(export)?;
    }
    emitter.finish(limits)
}

/// An operation whose offsets count from the beginnings of blocks.
struct Step {
    op: Op,
    /// The block of each offset, in the order of [`offsets`].
    blocks: Vec<usize>,
    /// The constants of a convolution, which are packed at the end.
    filter: Option<Filter>,
}

/// A tensor in a block, as strides over its axes.
#[derive(Clone, Debug)]
struct Located {
    block: usize,
    offset: usize,
    strides: Strides,
}

/// A view, and the block of the arena that it lies in.
type Walked = (View, usize);

struct Emitter<'a> {
    graph: &'a Graph,
    places: Places,
    builder: ProgramBuilder,
    block_lens: Vec<usize>,
    roots: HashMap<TensorId, usize>,
    /// The blocks of the graph's sources.
    sources: Vec<usize>,
    exports: Vec<usize>,
    steps: Vec<Step>,
}

impl Emitter<'_> {
    fn block(&mut self, len_bytes: usize) -> usize {
        self.block_lens.push(len_bytes);
        self.block_lens.len() - 1
    }

    fn push(&mut self, op: Op, blocks: Vec<usize>) {
        self.steps.push(Step { op, blocks, filter: None });
    }

    /// Where a tensor lies; its block is made when it is first asked for.
    fn located(&mut self, tensor: TensorId) -> Recognised<Located> {
        let Some(Place::View { root, offset, strides, .. }) = self.places.places.get(&tensor)
        else {
            return Err("a tensor lies scattered where it is read in order".to_owned());
        };
        let (root, offset, strides) = (*root, *offset, strides.clone());
        let origin = self.places.blocks[&root].origin;
        Ok(Located { block: self.root_block(root), offset: origin + offset, strides })
    }

    fn root_block(&mut self, root: TensorId) -> usize {
        if let Some(block) = self.roots.get(&root) {
            return *block;
        }
        let block = self.block(self.places.blocks[&root].len_bytes);
        self.roots.insert(root, block);
        block
    }

    fn order(&self, tensor: TensorId) -> Vec<usize> {
        match self.places.places.get(&tensor) {
            Some(Place::View { order, .. }) => order.clone(),
            _ => (0..self.graph.shape(tensor).len()).collect(),
        }
    }

    /// A copy of a view in memory of its own, its axes in `order`.
    fn copied(
        &mut self,
        from: &Located,
        shape: &[usize],
        order: &[usize],
        border: Option<Border>,
    ) -> Recognised<Located> {
        let Block { len_bytes, origin, strides } = Block::new(shape, order, border);
        let to = Located { block: self.block(len_bytes), offset: origin, strides };
        self.copy(from, &to, shape, order)?;
        Ok(to)
    }

    fn copy(
        &mut self,
        from: &Located,
        to: &Located,
        shape: &[usize],
        order: &[usize],
    ) -> Recognised<()> {
        let loops = loops(shape, order, &[&from.strides, &to.strides]);
        if loops.len() > 5 {
            return Err(format!("a copy of {shape:?} takes more than five loops"));
        }
        let mut extents = [1; 5];
        let mut strides = [[0; 5]; 2];
        let first = 5 - loops.len();
        for (at, one) in loops.iter().enumerate() {
            extents[first + at] = narrow(one.extent)?;
            for (of_side, stride) in strides.iter_mut().zip(&one.strides) {
                of_side[first + at] = narrow(*stride)?;
            }
        }
        // An innermost loop of one value is dense: kernels look for that.
        if loops.is_empty() {
            strides = [[0, 0, 0, 0, 1]; 2];
        }
        let side = |at: usize, located: &Located| {
            Ok::<_, Reason>(Strided { offset: narrow(located.offset)?, strides: strides[at] })
        };
        let op = Copy { input: side(0, from)?, output: side(1, to)?, extents };
        self.push(Op::Copy(op), vec![from.block, to.block]);
        Ok(())
    }

    /// Views of inputs and an output that are walked together, `[height, width, channels]` each; what does not fit
    /// is copied first. `along` is an axis that must be the channels.
    fn aligned(
        &mut self,
        inputs: &[TensorId],
        output: TensorId,
        along: Option<usize>,
    ) -> Recognised<(Vec<Walked>, Walked)> {
        let shape = self.graph.shape(output).to_vec();
        let order = self.order(output);
        let target = self.located(output)?;
        let mut sides = Vec::new();
        for input in inputs {
            let mut located = self.located(*input)?;
            located.strides = broadcast(self.graph.shape(*input), &located.strides, &shape);
            sides.push(located);
        }
        let fits = |sides: &[Located]| walked(&shape, &order, along, sides, &target);
        if fits(&sides).is_none() {
            for side in &mut sides {
                if fits(std::slice::from_ref(side)).is_none() {
                    *side = self.copied(side, &shape, &order, None)?;
                }
            }
        }
        if fits(&sides).is_none() {
            for side in &mut sides {
                *side = self.copied(side, &shape, &order, None)?;
            }
        }
        let loops = fits(&sides).ok_or_else(|| {
            format!(
                "the tensor {:?} lies in more than three loops",
                self.graph.tensors[output].name
            )
        })?;
        let views =
            sides.iter().enumerate().map(|(at, side)| Ok((view(&loops, at, side)?, side.block)));
        let views = views.collect::<Recognised<Vec<_>>>()?;
        Ok((views, (view(&loops, sides.len(), &target)?, target.block)))
    }

    /// A tensor `[1, channels, axis…]` as a view of pixels, copied if its channels do not lie next to each other, or
    /// if it has not the border that is asked for.
    fn pixels(&mut self, tensor: TensorId, border: Option<Border>) -> Recognised<Walked> {
        let shape = self.graph.shape(tensor).to_vec();
        let mut located = self.located(tensor)?;
        let whole = self.places.whole_root(self.graph, tensor);
        let bordered = border.is_none_or(|border| {
            whole.and_then(|root| self.places.borders.get(&root)).is_some_and(|own| {
                let wide = own.extents.iter().zip(border.extents).all(|(own, asked)| *own >= asked);
                wide && own.value == border.value
            })
        });
        let apart = |strides: &[usize]| {
            let width = shape.len() - 1;
            (strides[1] == 1 || shape[1] == 1) && (strides[width] >= shape[1] || shape[width] == 1)
        };
        if !bordered || !apart(&located.strides) {
            located = self.copied(&located, &shape, &pixel_order(shape.len()), border)?;
            let view = pixel_view(&shape, &located)?;
            self.border(view, located.block, border)?;
            return Ok((view, located.block));
        }
        Ok((pixel_view(&shape, &located)?, located.block))
    }

    fn border(&mut self, view: View, block: usize, border: Option<Border>) -> Recognised<()> {
        if let Some(Border { extents, value }) = border {
            let extents = extents.map(|extent| extent as u32);
            self.push(Op::Border(BorderOp { view, extents, value }), vec![block]);
        }
        Ok(())
    }

    /// The border of a tensor that was just made, if its memory has one.
    fn own_border(&mut self, tensor: TensorId) -> Recognised<()> {
        let Some(border) = self.places.borders.get(&tensor).copied() else { return Ok(()) };
        let located = self.located(tensor)?;
        let order = self.order(tensor);
        let shape = self.graph.shape(tensor);
        let axis = |depth: usize| order.iter().rev().nth(depth).copied();
        let (Some(channels), Some(width), Some(height)) = (axis(0), axis(1), axis(2)) else {
            return Err("a tensor with a border has less than three axes".to_owned());
        };
        let view = View {
            offset: narrow(located.offset)?,
            height: narrow(shape[height])?,
            width: narrow(shape[width])?,
            channels: narrow(shape[channels])?,
            row_bytes: narrow(located.strides[height])?,
            pixel_bytes: narrow(located.strides[width])?,
        };
        self.border(view, located.block, Some(border))
    }

    fn node(&mut self, node: &Node) -> Recognised<()> {
        let output = node.output;
        match &node.kind {
            Kind::Import { source, offset, strides } => {
                self.import(output, *source, *offset, strides)?;
            }
            Kind::Constant(values) => self.constant(output, values)?,
            Kind::Conv { .. } => self.conv(node)?,
            Kind::Dense { filter, range } => self.dense(node.inputs[0], output, filter, *range)?,
            Kind::MatMul { .. } => self.mat_mul(node)?,
            Kind::Add { zeros, ratios, range } => {
                let (inputs, (output, target)) = self.aligned(&node.inputs, output, None)?;
                let [(a, left), (b, right)] = inputs[..] else { return Err(sides()) };
                let (zero_points, ratios, range) = (*zeros, *ratios, *range);
                let op = Add { inputs: [a, b], zero_points, ratios, output, range };
                self.push(Op::Add(op), vec![left, right, target]);
            }
            Kind::Mul { zeros, multiplier, range } => {
                let (inputs, (output, target)) = self.aligned(&node.inputs, output, None)?;
                let [(a, left), (b, right)] = inputs[..] else { return Err(sides()) };
                let (zero_points, multiplier, range) = (*zeros, *multiplier, *range);
                let op = Mul { inputs: [a, b], zero_points, multiplier, output, range };
                self.push(Op::Mul(op), vec![left, right, target]);
            }
            Kind::AddChannels { axis, zero, ratio, addends, range } => {
                let (inputs, (output, target)) = self.aligned(&node.inputs, output, Some(*axis))?;
                let [(input, block)] = inputs[..] else { return Err(sides()) };
                let addends = self.words(addends.iter().map(|addend| addend.to_le_bytes()));
                let (zero_point, ratio, range) = (*zero, *ratio, *range);
                let op = AddChannels { input, zero_point, ratio, addends, output, range };
                self.push(Op::AddChannels(op), vec![block, target]);
            }
            Kind::Softmax { axis, scale, steps, range } => {
                let (inputs, (output, target)) = self.aligned(&node.inputs, output, Some(*axis))?;
                let [(input, block)] = inputs[..] else { return Err(sides()) };
                let table = self.words(exponentials(*scale).map(u32::to_le_bytes));
                let (steps, range) = (*steps, *range);
                let op = Softmax { input, output, table, steps, range };
                self.push(Op::Softmax(op), vec![block, target]);
            }
            Kind::Table(values) => {
                let (inputs, (output, target)) = self.aligned(&node.inputs, output, None)?;
                let [(input, block)] = inputs[..] else { return Err(sides()) };
                let bytes: Vec<u8> = values.iter().map(|value| *value as u8).collect();
                let table = self.builder.constants(&bytes);
                self.push(Op::Table(Table { input, output, table }), vec![block, target]);
            }
            Kind::AveragePool { window, counted, zero, ratio, range } => {
                let (input, block) = self.pixels(node.inputs[0], None)?;
                let (output, target) = self.target(output)?;
                let op = AveragePool {
                    input,
                    zero_point: *zero,
                    output,
                    window: *window,
                    counted_padding: *counted,
                    ratio: *ratio,
                    range: *range,
                };
                self.push(Op::AveragePool(op), vec![block, target]);
            }
            Kind::MaxPool { window } => {
                let (input, block) = self.pixels(node.inputs[0], None)?;
                let (output, target) = self.target(output)?;
                let op = MaxPool { input, output, window: *window };
                self.push(Op::MaxPool(op), vec![block, target]);
            }
            Kind::Move(step) => self.moved(node, step)?,
        }
        self.own_border(output)
    }

    /// The pixels of a result, which lies in memory of its own.
    fn target(&mut self, tensor: TensorId) -> Recognised<Walked> {
        let located = self.located(tensor)?;
        Ok((pixel_view(self.graph.shape(tensor), &located)?, located.block))
    }

    fn words(&mut self, words: impl Iterator<Item = [u8; 4]>) -> u32 {
        let bytes: Vec<u8> = words.flatten().collect();
        self.builder.constants(&bytes)
    }

    fn import(
        &mut self,
        tensor: TensorId,
        source: usize,
        offset: usize,
        strides: &[usize],
    ) -> Recognised<()> {
        let shape = self.graph.shape(tensor).to_vec();
        let target = self.located(tensor)?;
        let order = self.order(tensor);
        let port = Located { block: self.sources[source], offset, strides: strides.to_vec() };
        match walked(&shape, &order, None, std::slice::from_ref(&target), &port) {
            Some(loops) => self.import_loops(&loops, source, offset, &target),
            None => {
                // The whole as it lies outside, then to its places.
                let len = self.graph.sources[source].shape.iter().product();
                let plain = Located { block: self.block(len), offset: 0, strides: vec![1] };
                let whole = [Loop { extent: len, strides: vec![1, 1] }];
                self.import_loops(&three(&whole), source, 0, &plain)?;
                let from = Located { block: plain.block, offset, strides: strides.to_vec() };
                self.copy(&from, &target, &shape, &order)
            }
        }
    }

    fn import_loops(
        &mut self,
        loops: &[Loop; 3],
        source: usize,
        offset: usize,
        target: &Located,
    ) -> Recognised<()> {
        let port = &self.graph.sources[source];
        let op = Import {
            source: elements(loops, 1, offset, port.element)?,
            output: view(loops, 0, target)?,
            scale: port.quant.scale,
            range: Range::full(port.quant.zero),
        };
        let blocks = vec![self.sources[source], target.block];
        self.push(Op::Import(op), blocks);
        Ok(())
    }

    fn export(&mut self, export: &Export) -> Recognised<()> {
        let shape = self.graph.shape(export.tensor).to_vec();
        let order = self.order(export.tensor);
        let mut from = self.located(export.tensor)?;
        let len: usize = shape.iter().product();
        let block = self.block(len * export.element.bytes());
        self.exports.push(block);
        let port = Located { block, offset: 0, strides: export.strides.clone() };
        let loops = match walked(&shape, &order, None, std::slice::from_ref(&from), &port) {
            Some(loops) => loops,
            None => {
                let mut order: Vec<usize> = (0..shape.len()).collect();
                order.sort_by_key(|axis| std::cmp::Reverse(export.strides[*axis]));
                from = self.copied(&from, &shape, &order, None)?;
                walked(&shape, &order, None, std::slice::from_ref(&from), &port)
                    .ok_or_else(|| format!("the output {:?} lies in pieces", export.name))?
            }
        };
        let op = ExportOp {
            input: view(&loops, 0, &from)?,
            target: elements(&loops, 1, 0, export.element)?,
            scale: export.quant.scale,
            zero_point: export.quant.zero,
        };
        self.push(Op::Export(op), vec![from.block, block]);
        Ok(())
    }

    fn constant(&mut self, tensor: TensorId, values: &[i8]) -> Recognised<()> {
        let shape = self.graph.shape(tensor).to_vec();
        let target = self.located(tensor)?;
        let order = self.order(tensor);
        let given = Located { block: target.block, offset: 0, strides: row_major(&shape) };
        let loops = walked(&shape, &order, None, std::slice::from_ref(&target), &given)
            .ok_or_else(|| "a constant lies in more than three loops".to_owned())?;
        let source = given_order(&loops, values);
        let values = self.builder.constants(&source);
        let output = view(&loops, 0, &target)?;
        self.push(Op::Constant(Constant { values, output }), vec![target.block]);
        Ok(())
    }

    fn conv(&mut self, node: &Node) -> Recognised<()> {
        let Kind::Conv { window, groups, filter, range, .. } = &node.kind else {
            return Err(sides());
        };
        let (input, block) = self.pixels(node.inputs[0], reach(self.graph, node))?;
        let (output, target) = self.target(node.output)?;
        let (weights, bias, multipliers) = (0, 0, 0);
        let depthwise =
            *groups == input.channels as usize && input.channels == output.channels && *groups > 1;
        let (window, range) = (*window, *range);
        let op = if depthwise {
            Op::Depthwise(Depthwise { input, output, window, weights, bias, multipliers, range })
        } else {
            let groups = narrow(*groups)?;
            Op::Conv(Conv { input, output, window, groups, weights, bias, multipliers, range })
        };
        self.steps.push(Step { op, blocks: vec![block, target], filter: Some(filter.clone()) });
        Ok(())
    }

    fn dense(
        &mut self,
        tensor: TensorId,
        output: TensorId,
        filter: &Filter,
        range: Range,
    ) -> Recognised<()> {
        let target = self.located(output)?;
        let (inputs, outputs) =
            match (self.graph.shape(tensor).last(), self.graph.shape(output).last()) {
                (Some(inputs), Some(outputs)) => (*inputs, *outputs),
                _ => return Err("a product has no columns".to_owned()),
            };
        let mut filter = Cow::Borrowed(filter);
        let (input, block) = match self.places.places.get(&tensor).cloned() {
            Some(Place::Scattered { root, offsets }) => {
                let block = self.root_block(root);
                filter = Cow::Owned(reordered(&filter, &offsets));
                let origin = self.places.blocks[&root].origin;
                (View::dense(narrow(origin)?, 1, 1, narrow(inputs)?), block)
            }
            _ => self.rows(tensor)?,
        };
        let pixels = [input.height, input.width];
        let output = View {
            channels: narrow(outputs)?,
            ..View::dense(narrow(target.offset)?, pixels[0], pixels[1], narrow(outputs)?)
        };
        let (weights, bias, multipliers) = (0, 0, 0);
        let window = Window::UNIT;
        let op = Conv { input, output, window, groups: 1, weights, bias, multipliers, range };
        let filter = Some(filter.into_owned());
        self.steps.push(Step { op: Op::Conv(op), blocks: vec![block, target.block], filter });
        Ok(())
    }

    /// A tensor as rows of its last axis: each row is a pixel.
    fn rows(&mut self, tensor: TensorId) -> Recognised<Walked> {
        let shape = self.graph.shape(tensor).to_vec();
        let mut located = self.located(tensor)?;
        let all: Vec<usize> = (0..shape.len()).collect();
        let last = shape.len() - 1;
        let loops_of = |located: &Located| {
            let outer = loops(&shape, &all[..last], &[&located.strides]);
            let dense = located.strides[last] == 1 || shape[last] == 1;
            let apart = outer.iter().all(|one| one.strides[0] >= shape[last]);
            (dense && apart && outer.len() <= 2).then_some(outer)
        };
        let outer = match loops_of(&located) {
            Some(outer) => outer,
            None => {
                located = self.copied(&located, &shape, &all, None)?;
                loops_of(&located).ok_or_else(|| "rows of a product lie in pieces".to_owned())?
            }
        };
        let channels = narrow(shape[last])?;
        let one = Loop { extent: 1, strides: vec![shape[last]] };
        let width = outer.last().cloned().unwrap_or(one);
        let height = if outer.len() == 2 {
            outer[0].clone()
        } else {
            Loop { extent: 1, strides: vec![width.extent * width.strides[0]] }
        };
        let view = View {
            offset: narrow(located.offset)?,
            height: narrow(height.extent)?,
            width: narrow(width.extent)?,
            channels,
            row_bytes: narrow(height.strides[0])?,
            pixel_bytes: narrow(width.strides[0])?,
        };
        Ok((view, located.block))
    }

    fn mat_mul(&mut self, node: &Node) -> Recognised<()> {
        let Kind::MatMul { zeros, multiplier, range } = &node.kind else { return Err(sides()) };
        let [a, b] = node.inputs[..] else { return Err(sides()) };
        let shape = self.graph.shape(node.output).to_vec();
        let outer = &shape[..shape.len() - 2];
        let (left, left_block) = self.matrices(a, outer)?;
        let (right, right_block) = self.matrices(b, outer)?;
        let target = self.located(node.output)?;
        let [rows, columns] = shape[shape.len() - 2..] else { return Err(sides()) };
        let pairs = outer.iter().product();
        let output =
            View::dense(narrow(target.offset)?, narrow(pairs)?, narrow(rows)?, narrow(columns)?);
        let op = MatMul {
            inputs: [left, right],
            zero_points: *zeros,
            multiplier: *multiplier,
            output,
            range: *range,
        };
        self.push(Op::MatMul(op), vec![left_block, right_block, target.block]);
        Ok(())
    }

    /// Matrices `[outer…, rows, columns]`, those along `outer` repeated where the tensor has fewer.
    fn matrices(&mut self, tensor: TensorId, outer: &[usize]) -> Recognised<Walked> {
        let own = self.graph.shape(tensor).to_vec();
        let [rows, columns] = own[own.len() - 2..] else { return Err(sides()) };
        let shape: Vec<usize> = outer.iter().copied().chain([rows, columns]).collect();
        let mut located = self.located(tensor)?;
        located.strides = broadcast(&own, &located.strides, &shape);
        let all: Vec<usize> = (0..shape.len()).collect();
        let pairs_of = |located: &Located| {
            let pairs = loops(&shape, &all[..outer.len()], &[&located.strides]);
            let dense = located.strides[shape.len() - 1] == 1 || columns == 1;
            (dense && pairs.len() <= 1).then_some(pairs)
        };
        let pairs = match pairs_of(&located) {
            Some(pairs) => pairs,
            None => {
                located = self.copied(&located, &shape, &all, None)?;
                pairs_of(&located).ok_or_else(|| "matrices lie in pieces".to_owned())?
            }
        };
        let row = located.strides[shape.len() - 2];
        let (count, step) =
            pairs.first().map_or((1, rows * row), |pair| (pair.extent, pair.strides[0]));
        let view = View {
            offset: narrow(located.offset)?,
            height: narrow(count)?,
            width: narrow(rows)?,
            channels: narrow(columns)?,
            row_bytes: narrow(step)?,
            pixel_bytes: narrow(row)?,
        };
        Ok((view, located.block))
    }

    /// A change of places that is no view.
    fn moved(&mut self, node: &Node, step: &Move) -> Recognised<()> {
        let output = node.output;
        match self.places.places.get(&output) {
            Some(Place::View { root, .. }) if *root == output => (),
            _ => return Ok(()),
        }
        let shape = self.graph.shape(output).to_vec();
        let order = self.order(output);
        let target = self.located(output)?;
        let inner = |offset: usize| Located { offset: target.offset + offset, ..target.clone() };
        match step {
            Move::Concat(axis) => {
                let mut start = 0;
                for input in &node.inputs {
                    let part = self.graph.shape(*input).to_vec();
                    let from = self.located(*input)?;
                    self.copy(&from, &inner(start * target.strides[*axis]), &part, &order)?;
                    start += part[*axis];
                }
                Ok(())
            }
            Move::Pad { before, value } => {
                let part = self.graph.shape(node.inputs[0]).to_vec();
                let from = self.located(node.inputs[0])?;
                let len = self.block_lens[target.block];
                let values = self.builder.constants(&vec![*value as u8; len]);
                let output = View::dense(0, 1, 1, narrow(len)?);
                self.push(Op::Constant(Constant { values, output }), vec![target.block]);
                let offset: usize =
                    before.iter().zip(&target.strides).map(|(at, stride)| at * stride).sum();
                self.copy(&from, &inner(offset), &part, &order)
            }
            Move::Repeat(times) => {
                let input = node.inputs[0];
                let from = self.located(input)?;
                let part = self.graph.shape(input).to_vec();
                let both = |a: &[usize], b: &[usize]| -> Vec<usize> {
                    a.iter().zip(b).flat_map(|(a, b)| [*a, *b]).collect()
                };
                let extents = both(&part, times);
                let zeros = vec![0; part.len()];
                let from = Located { strides: both(&from.strides, &zeros), ..from };
                let wide: Vec<usize> = target
                    .strides
                    .iter()
                    .zip(times)
                    .map(|(stride, times)| stride * times)
                    .collect();
                let to = Located { strides: both(&wide, &target.strides), ..target.clone() };
                let order: Vec<usize> =
                    order.iter().flat_map(|axis| [axis * 2, axis * 2 + 1]).collect();
                self.copy(&from, &to, &extents, &order)
            }
            Move::Reshape | Move::Transpose(_) | Move::Slice { .. } | Move::Expand => {
                // The same elements, read in the order of the input.
                let input = node.inputs[0];
                let old = self.graph.shape(input).to_vec();
                let from = self.located(input)?;
                let to = Located { strides: row_major(&old), ..target };
                let all: Vec<usize> = (0..old.len()).collect();
                let _ = shape;
                self.copy(&from, &to, &old, &all)
            }
        }
    }

    fn finish(self, limits: &Limits) -> Recognised<(Vec<u8>, MemoryUse)> {
        let Emitter { graph, mut builder, block_lens, sources, exports, mut steps, .. } = self;
        let lives = lives(&block_lens, &steps, &sources, &exports);
        let (offsets_of, arena_bytes) = arena::plan(&lives);
        for (source, block) in graph.sources.iter().zip(&sources) {
            let shape = port_shape(&source.shape)?;
            builder.input(&source.name, source.element, shape, narrow(offsets_of[*block])?);
        }
        for (export, block) in graph.exports.iter().zip(&exports) {
            let shape = port_shape(&export.shape)?;
            builder.output(&export.name, export.element, shape, narrow(offsets_of[*block])?);
        }
        for step in &mut steps {
            for (offset, block) in offsets(&mut step.op).into_iter().zip(&step.blocks) {
                *offset += narrow(offsets_of[*block])?;
            }
        }
        for step in steps {
            let weights = step.filter.as_ref().map(|filter| ConvWeights {
                weights: &filter.weights,
                bias: &filter.bias,
                multipliers: &filter.multipliers,
                input_zero_point: filter.input_zero,
            });
            match (step.op, weights) {
                (Op::Conv(op), Some(weights)) => builder.push_conv(op, &weights),
                (Op::Depthwise(op), Some(weights)) => builder.push_depthwise(op, &weights),
                (op, _) => builder.push(op),
            }
        }
        let memory = MemoryUse { arena_bytes, live_bytes_max: arena::live_bytes_max(&lives) };
        let bytes =
            builder.finish(narrow(arena_bytes)?, limits).map_err(|error| error.to_string())?;
        Ok((bytes, memory))
    }
}

/// When each block holds something: inputs from the beginning, outputs to the end.
fn lives(block_lens: &[usize], steps: &[Step], sources: &[usize], exports: &[usize]) -> Vec<Life> {
    let mut lives: Vec<Life> = block_lens
        .iter()
        .map(|len_bytes| Life { len_bytes: *len_bytes, first: usize::MAX, last: 0 })
        .collect();
    for (at, step) in steps.iter().enumerate() {
        for block in &step.blocks {
            lives[*block].first = lives[*block].first.min(at);
            lives[*block].last = lives[*block].last.max(at);
        }
    }
    sources.iter().for_each(|block| lives[*block].first = 0);
    exports.iter().for_each(|block| lives[*block].last = steps.len());
    lives
}

/// The offsets of an operation into the arena.
fn offsets(op: &mut Op) -> Vec<&mut u32> {
    match op {
        Op::Import(op) => vec![&mut op.source.offset, &mut op.output.offset],
        Op::Export(op) => vec![&mut op.input.offset, &mut op.target.offset],
        Op::Constant(op) => vec![&mut op.output.offset],
        Op::Border(op) => vec![&mut op.view.offset],
        Op::Conv(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Depthwise(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Add(Add { inputs: [a, b], output, .. })
        | Op::Mul(Mul { inputs: [a, b], output, .. })
        | Op::MatMul(MatMul { inputs: [a, b], output, .. }) => {
            vec![&mut a.offset, &mut b.offset, &mut output.offset]
        }
        Op::AddChannels(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::AveragePool(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::MaxPool(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Softmax(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Table(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Copy(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::Bilinear(op) => vec![&mut op.input.offset, &mut op.output.offset],
        Op::ArgMax(op) => vec![&mut op.input.offset, &mut op.target.offset],
    }
}

fn sides() -> Reason {
    "an operation has another number of inputs than its kind".to_owned()
}

fn narrow(value: usize) -> Recognised<u32> {
    u32::try_from(value).map_err(|_| format!("{value} bytes are more than a program can name"))
}

fn port_shape(shape: &[usize]) -> Recognised<Shape> {
    let extents = shape.iter().map(|extent| narrow(*extent)).collect::<Recognised<Vec<_>>>()?;
    Shape::new(&extents).ok_or_else(|| format!("a port has the shape {shape:?}"))
}

/// The strides of a tensor under the shape that it is broadcast to.
fn broadcast(own: &[usize], strides: &[usize], shape: &[usize]) -> Strides {
    let missing = shape.len() - own.len();
    (0..shape.len())
        .map(|axis| match axis.checked_sub(missing) {
            Some(at) if own[at] == shape[axis] => strides[at],
            _ => 0,
        })
        .collect()
}

/// Loops `[height, width, channels]` over tensors of one shape, channels next to each other in each of `inner`;
/// `last` is walked beside them and may lie in any way.
fn walked(
    shape: &[usize],
    order: &[usize],
    along: Option<usize>,
    inner: &[Located],
    last: &Located,
) -> Option<[Loop; 3]> {
    let views: Vec<&[usize]> =
        inner.iter().chain([last]).map(|located| located.strides.as_slice()).collect();
    let outer: Vec<usize> = order.iter().copied().filter(|axis| Some(*axis) != along).collect();
    let mut all = loops(shape, &outer, &views);
    if let Some(axis) = along {
        let strides = views.iter().map(|strides| if shape[axis] == 1 { 1 } else { strides[axis] });
        all.push(Loop { extent: shape[axis], strides: strides.collect() });
    }
    let dense = |one: &Loop| one.strides.iter().take(inner.len()).all(|stride| *stride == 1);
    if all.last().is_none_or(|innermost| !dense(innermost)) && along.is_none() {
        all.push(Loop { extent: 1, strides: vec![1; views.len()] });
    }
    (all.len() <= 3 && all.last().is_some_and(dense)).then(|| three(&all))
}

/// Three loops: outer ones of one turn are added.
fn three(loops: &[Loop]) -> [Loop; 3] {
    let mut all = loops.to_vec();
    while all.len() < 3 {
        let strides = all[0].strides.iter().map(|stride| stride * all[0].extent).collect();
        all.insert(0, Loop { extent: 1, strides });
    }
    [all[0].clone(), all[1].clone(), all[2].clone()]
}

fn view(loops: &[Loop; 3], at: usize, located: &Located) -> Recognised<View> {
    let [height, width, channels] = loops;
    Ok(View {
        offset: narrow(located.offset)?,
        height: narrow(height.extent)?,
        width: narrow(width.extent)?,
        channels: narrow(channels.extent)?,
        row_bytes: narrow(height.strides[at])?,
        pixel_bytes: narrow(width.strides[at])?,
    })
}

fn elements(
    loops: &[Loop; 3],
    at: usize,
    offset: usize,
    element: selvedge_engine::Element,
) -> Recognised<Elements> {
    let [row, pixel, channel] = loops;
    Ok(Elements {
        offset: narrow(offset * element.bytes())?,
        element,
        row: narrow(row.strides[at])?,
        pixel: narrow(pixel.strides[at])?,
        channel: narrow(channel.strides[at])?,
    })
}

/// Values in the order of the loops, whose second view says where each lies.
fn given_order(loops: &[Loop; 3], values: &[i8]) -> Vec<u8> {
    let extents = loops.each_ref().map(|one| one.extent);
    let strides = loops.each_ref().map(|one| one.strides[1]);
    super::views::offsets(&extents, &strides).into_iter().map(|at| values[at] as u8).collect()
}

fn pixel_view(shape: &[usize], located: &Located) -> Recognised<View> {
    let width = shape.len() - 1;
    let row = width - 1;
    let channels = shape[1];
    let (height, row_bytes) = if shape.len() == 4 {
        (shape[row], located.strides[row])
    } else {
        (1, located.strides[width] * shape[width])
    };
    let pixel_bytes = if shape[width] == 1 {
        located.strides[width].max(channels)
    } else {
        located.strides[width]
    };
    Ok(View {
        offset: narrow(located.offset)?,
        height: narrow(height)?,
        width: narrow(shape[width])?,
        channels: narrow(channels)?,
        row_bytes: narrow(row_bytes)?,
        pixel_bytes: narrow(pixel_bytes)?,
    })
}

/// The weights of a product whose input lies in another order: input `k` at `offsets[k]`.
fn reordered(filter: &Filter, offsets: &[usize]) -> Filter {
    let inputs = offsets.len();
    let mut weights = vec![0; filter.weights.len()];
    for (row, own) in weights.chunks_exact_mut(inputs).zip(filter.weights.chunks_exact(inputs)) {
        for (offset, weight) in offsets.iter().zip(own) {
            row[*offset] = *weight;
        }
    }
    Filter { weights, ..filter.clone() }
}

/// `2²⁴ · exp(-scale · difference)` for each difference of two values.
fn exponentials(scale: f32) -> impl Iterator<Item = u32> {
    (0..256).map(move |difference| {
        let power = (-f64::from(scale) * f64::from(difference)).exp();
        (power * f64::from(1 << 24)).round() as u32
    })
}
