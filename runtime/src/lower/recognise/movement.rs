//! Operators that change where values lie, and none of them: they mean the same for integers and reals.

use std::rc::Rc;

use tract_onnx::pb::NodeProto;

use super::nodes::shared_quant;
use super::{
    Core, Pending, Recognised, Recogniser, Value, Weights, axis_of, broadcast, reshape_step,
};
use crate::lower::ir::{Kind, Move, Quant, TensorId};
use crate::lower::onnx::{Attributes, Constant, Values};
use crate::lower::views::{Strides, gathered, row_major};

impl Recogniser {
    /// The outputs of an operator of this kind; `None` if the node is none.
    pub(super) fn movement(&mut self, node: &NodeProto) -> Recognised<Option<Vec<Value>>> {
        let one = |value: Value| Ok(Some(vec![value]));
        match node.op_type.as_str() {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                let value = self.input(node, 0)?;
                let shape = self.new_shape(node, &value)?;
                one(self.reshaped(&value, shape)?)
            }
            "Transpose" => {
                let value = self.input(node, 0)?;
                let rank = self.known_shape(&value)?.len();
                let order = match Attributes(node).ints("perm") {
                    Some(order) => order
                        .iter()
                        .map(|axis| axis_of(*axis, rank))
                        .collect::<Recognised<Vec<_>>>()?,
                    None => (0..rank).rev().collect(),
                };
                one(self.transposed(&value, order)?)
            }
            "Pad" => self.pad(node).and_then(one),
            "Slice" => self.slice(node).and_then(one),
            "Split" => self.split(node).map(Some),
            "Concat" => {
                let parts = (0..node.input.len()).map(|index| self.input(node, index));
                let parts = parts.collect::<Recognised<Vec<_>>>()?;
                one(self.concatenated(node, &parts)?)
            }
            "Expand" => {
                let value = self.input(node, 0)?;
                let given = self.integers(node, 1)?.ok_or_else(|| unknown("shape"))?;
                let given = lengths(&given)?;
                let shape = self.known_shape(&value)?;
                let wider = broadcast(&shape, &given)?;
                let aligned = [vec![1; wider.len() - shape.len()], shape].concat();
                let value = self.reshaped(&value, aligned)?;
                one(self.step(&value, (Kind::Move(Move::Expand), wider))?)
            }
            "Resize" | "Upsample" => self.enlarged(node).and_then(one),
            "DepthToSpace" | "SpaceToDepth" => self.blocks(node).and_then(one),
            "Shape" => {
                let value = self.input(node, 0)?;
                let extents = self.known_shape(&value)?;
                let values = Values::I64(extents.iter().map(|extent| *extent as i64).collect());
                let constant = Constant { shape: vec![extents.len()], values };
                one(Value::Constant(Rc::new(constant)))
            }
            _ => Ok(None),
        }
    }

    fn new_shape(&self, node: &NodeProto, value: &Value) -> Recognised<Vec<usize>> {
        let attributes = Attributes(node);
        let shape = self.known_shape(value)?;
        let axes = || match attributes.ints("axes") {
            Some(axes) => Ok(Some(axes.to_vec())),
            None => self.integers(node, 1),
        };
        match node.op_type.as_str() {
            "Flatten" => {
                let axis = attributes.int("axis").unwrap_or(1);
                let axis = if axis == shape.len() as i64 {
                    shape.len()
                } else {
                    axis_of(axis, shape.len())?
                };
                let (outer, inner) = shape.split_at(axis);
                Ok(vec![outer.iter().product(), inner.iter().product()])
            }
            "Squeeze" => {
                let squeezed: Option<Vec<usize>> = match axes()? {
                    None => None,
                    Some(axes) => Some(
                        axes.into_iter()
                            .map(|axis| axis_of(axis, shape.len()))
                            .collect::<Recognised<_>>()?,
                    ),
                };
                let gone = |axis: usize| match &squeezed {
                    Some(squeezed) => squeezed.contains(&axis),
                    None => shape[axis] == 1,
                };
                Ok((0..shape.len()).filter(|axis| !gone(*axis)).map(|axis| shape[axis]).collect())
            }
            "Unsqueeze" => {
                let new = axes()?.ok_or_else(|| unknown("axes"))?;
                let rank = shape.len() + new.len();
                let new = new
                    .into_iter()
                    .map(|axis| axis_of(axis, rank))
                    .collect::<Recognised<Vec<_>>>()?;
                let mut old = shape.into_iter();
                let extent = |axis| if new.contains(&axis) { 1 } else { old.next().unwrap_or(1) };
                Ok((0..rank).map(extent).collect())
            }
            _ => {
                let given = self.integers(node, 1)?.ok_or_else(|| unknown("shape"))?;
                reshape(&shape, &given, attributes.flag("allowzero"))
            }
        }
    }

    pub(super) fn reshaped(&mut self, value: &Value, shape: Vec<usize>) -> Recognised<Value> {
        match value {
            Value::Constant(constant) => {
                let constant = Constant { shape, values: constant.values.clone() };
                Ok(Value::Constant(Rc::new(constant)))
            }
            Value::Weights(weights) => {
                let per_axis = weights.scales.len() > 1;
                let axis = match per_axis {
                    true => shape.iter().position(|extent| *extent == weights.scales.len()),
                    false => Some(0),
                };
                let inner =
                    |shape: &[usize], axis: usize| shape[axis + 1..].iter().product::<usize>();
                match axis {
                    Some(axis)
                        if !per_axis
                            || inner(&shape, axis) == inner(&weights.shape, weights.axis) =>
                    {
                        let weights = Weights { shape, axis, ..Weights::clone(weights) };
                        Ok(Value::Weights(Rc::new(weights)))
                    }
                    _ => Err("it reshapes constants of several scales".to_owned()),
                }
            }
            _ => self.step(value, reshape_step(shape)),
        }
    }

    pub(super) fn transposed(&mut self, value: &Value, order: Vec<usize>) -> Recognised<Value> {
        let old = self.known_shape(value)?;
        if order.len() != old.len() {
            return Err("its permutation has another number of axes".to_owned());
        }
        let shape: Vec<usize> = order.iter().map(|axis| old[*axis]).collect();
        let strides: Strides = row_major(&old);
        let strides: Strides = order.iter().map(|axis| strides[*axis]).collect();
        match value {
            Value::Constant(constant) => {
                let values = match &constant.values {
                    Values::F32(values) => Values::F32(gathered(values, &shape, &strides)),
                    Values::I8(values) => Values::I8(gathered(values, &shape, &strides)),
                    Values::U8(values) => Values::U8(gathered(values, &shape, &strides)),
                    Values::I32(values) => Values::I32(gathered(values, &shape, &strides)),
                    Values::I64(values) => Values::I64(gathered(values, &shape, &strides)),
                };
                Ok(Value::Constant(Rc::new(Constant { shape, values })))
            }
            Value::Weights(weights) => {
                let values = gathered(&weights.values, &shape, &strides);
                let axis = order.iter().position(|axis| *axis == weights.axis).unwrap_or(0);
                let scales = weights.scales.clone();
                Ok(Value::Weights(Rc::new(Weights { shape, values, scales, axis })))
            }
            _ => self.step(value, (Kind::Move(Move::Transpose(order)), shape)),
        }
    }

    /// Channels from the last axis to the second, or back.
    pub(super) fn channels_moved(&mut self, value: &Value, to_second: bool) -> Recognised<Value> {
        let rank = self.known_shape(value)?.len();
        if rank < 3 {
            return Err("its input has no pixels".to_owned());
        }
        let order = if to_second {
            [0, rank - 1].into_iter().chain(1..rank - 1).collect()
        } else {
            std::iter::once(0).chain(2..rank).chain([1]).collect()
        };
        self.transposed(value, order)
    }

    fn pad(&mut self, node: &NodeProto) -> Recognised<Value> {
        let attributes = Attributes(node);
        let mode = attributes.text("mode").unwrap_or("constant");
        if mode != "constant" && !mode.is_empty() {
            return Err(format!("its mode is {mode}"));
        }
        let value = self.input(node, 0)?;
        let mut shape = self.known_shape(&value)?;
        let pads = match attributes.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self.integers(node, 1)?.ok_or_else(|| unknown("pads"))?,
        };
        let pads = lengths(&pads)?;
        let axes = match self.integers(node, 3)? {
            Some(axes) => axes
                .into_iter()
                .map(|axis| axis_of(axis, shape.len()))
                .collect::<Recognised<Vec<_>>>()?,
            None => (0..shape.len()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err("its pads have another number of axes".to_owned());
        }
        let mut before = vec![0; shape.len()];
        for (index, axis) in axes.iter().enumerate() {
            before[*axis] = pads[index];
            shape[*axis] += pads[index] + pads[index + axes.len()];
        }
        let real = match self.constant(node, 2)? {
            Some(constant) => constant.scalar(),
            None => Some(attributes.float("value").unwrap_or(0.0)),
        };
        let fill = match &value {
            Value::Real(_, quant) => {
                let real = real.ok_or_else(|| "its value is not one float".to_owned())?;
                let fill = quant.value(real);
                let steps = i16::from(fill) - i16::from(quant.zero);
                if f32::from(steps) * quant.scale != real {
                    return Err(format!("its value {real} has no integer of its own"));
                }
                fill
            }
            Value::Integer(tensor) => {
                let unsigned = self.graph.tensors[*tensor].unsigned;
                let given = self.integers(node, 2)?.map_or(0, |values| values[0]);
                if unsigned { (given as u8 ^ 0x80) as i8 } else { given as i8 }
            }
            _ => return Err("its input is not quantised".to_owned()),
        };
        self.step(&value, (Kind::Move(Move::Pad { before, value: fill }), shape))
    }

    fn slice(&mut self, node: &NodeProto) -> Recognised<Value> {
        let attributes = Attributes(node);
        let value = self.input(node, 0)?;
        let mut shape = self.known_shape(&value)?;
        let rank = shape.len();
        let given = |name: &str, index: usize| match attributes.ints(name) {
            Some(values) => Ok(Some(values.to_vec())),
            None => self.integers(node, index),
        };
        let begins = given("starts", 1)?.ok_or_else(|| unknown("starts"))?;
        let ends = given("ends", 2)?.ok_or_else(|| unknown("ends"))?;
        let axes = given("axes", 3)?.unwrap_or_else(|| (0..begins.len() as i64).collect());
        let strides = given("steps", 4)?.unwrap_or_else(|| vec![1; begins.len()]);
        if [ends.len(), axes.len(), strides.len()] != [begins.len(); 3] {
            return Err("its bounds have different numbers of axes".to_owned());
        }
        let (mut starts, mut steps) = (vec![0; rank], vec![1; rank]);
        for (index, axis) in axes.iter().enumerate() {
            let axis = axis_of(*axis, rank)?;
            let extent = shape[axis] as i64;
            let bound =
                |at: i64| (if at < 0 { at.saturating_add(extent) } else { at }).clamp(0, extent);
            let (begin, end, step) = (bound(begins[index]), bound(ends[index]), strides[index]);
            if step < 1 || begin >= end {
                return Err(format!("it takes [{begin}..{end}] in steps of {step}"));
            }
            starts[axis] = begin as usize;
            steps[axis] = step as usize;
            shape[axis] = ((end - begin) as usize).div_ceil(step as usize);
        }
        self.sliced(&value, starts, steps, shape)
    }

    fn sliced(
        &mut self,
        value: &Value,
        starts: Vec<usize>,
        steps: Vec<usize>,
        shape: Vec<usize>,
    ) -> Recognised<Value> {
        let Value::Constant(constant) = value else {
            return self.step(value, (Kind::Move(Move::Slice { starts, steps }), shape));
        };
        // Shapes that are computed in the graph.
        let (Some(values), [start], [step], [count]) =
            (constant.integers(), &starts[..], &steps[..], &shape[..])
        else {
            return Err("it slices constants".to_owned());
        };
        let values = values.into_iter().skip(*start).step_by(*step).take(*count).collect();
        Ok(Value::Constant(Rc::new(Constant { shape, values: Values::I64(values) })))
    }

    fn split(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        let attributes = Attributes(node);
        let value = self.input(node, 0)?;
        let shape = self.known_shape(&value)?;
        let axis = axis_of(attributes.int("axis").unwrap_or(0), shape.len())?;
        let given = match attributes.ints("split") {
            Some(sizes) => Some(sizes.to_vec()),
            None => self.integers(node, 1)?,
        };
        let sizes = match given {
            Some(sizes) => lengths(&sizes)?,
            None => {
                let size = shape[axis].div_ceil(node.output.len().max(1));
                let left = |index: usize| shape[axis].saturating_sub(index * size);
                (0..node.output.len()).map(|index| left(index).min(size)).collect()
            }
        };
        if sizes.iter().sum::<usize>() != shape[axis] || sizes.contains(&0) {
            return Err(format!("it splits {} into {sizes:?}", shape[axis]));
        }
        let mut start = 0;
        let mut parts = Vec::new();
        for size in sizes {
            let (mut starts, mut part) = (vec![0; shape.len()], shape.clone());
            (starts[axis], part[axis]) = (start, size);
            start += size;
            parts.push(self.sliced(&value, starts, vec![1; shape.len()], part)?);
        }
        Ok(parts)
    }

    pub(super) fn concatenated(&mut self, node: &NodeProto, parts: &[Value]) -> Recognised<Value> {
        let shapes =
            parts.iter().map(|part| self.known_shape(part)).collect::<Recognised<Vec<_>>>()?;
        let mut shape = shapes.first().cloned().ok_or_else(|| "it has no input".to_owned())?;
        let axis = axis_of(Attributes(node).int("axis").unwrap_or(0), shape.len())?;
        shape[axis] = shapes.iter().map(|shape| shape[axis]).sum();
        let name = node.output.first().cloned().unwrap_or_default();
        let integers: Option<Vec<TensorId>> = parts
            .iter()
            .map(|part| match part {
                Value::Integer(tensor) => Some(*tensor),
                _ => None,
            })
            .collect();
        if let Some(inputs) = integers {
            let unsigned = self.graph.tensors[inputs[0]].unsigned;
            let output = self.tensor(&name, shape, unsigned);
            self.push(Kind::Move(Move::Concat(axis)), inputs, output);
            return Ok(Value::Integer(output));
        }
        let constants: Option<Vec<Vec<i64>>> = parts
            .iter()
            .map(|part| match part {
                Value::Constant(constant) => constant.integers(),
                _ => None,
            })
            .collect();
        if let (Some(values), [_]) = (constants, &shape[..]) {
            let values = Values::I64(values.concat());
            return Ok(Value::Constant(Rc::new(Constant { shape, values })));
        }
        let inputs: Vec<(TensorId, Quant)> =
            parts.iter().map(|part| self.real(part)).collect::<Recognised<_>>()?;
        if let Some(quant) = shared_quant(&inputs) {
            let inputs: Vec<TensorId> = inputs.into_iter().map(|(tensor, _)| tensor).collect();
            let unsigned = self.graph.tensors[inputs[0]].unsigned;
            let output = self.tensor(&name, shape, unsigned);
            self.push(Kind::Move(Move::Concat(axis)), inputs, output);
            return Ok(Value::Real(output, quant));
        }
        Ok(Value::Pending(Rc::new(Pending::new(Core::Concat { inputs, axis }, shape))))
    }

    /// A resize that repeats each element.
    fn enlarged(&mut self, node: &NodeProto) -> Recognised<Value> {
        let attributes = Attributes(node);
        let value = self.input(node, 0)?;
        if !matches!(value, Value::Integer(_) | Value::Real(..)) {
            return Err("its input is not quantised".to_owned());
        }
        let shape = self.known_shape(&value)?;
        let mode = attributes.text("mode").unwrap_or("nearest");
        if mode != "nearest" {
            return Err(format!("its mode is {mode}"));
        }
        let scales = self.constant(node, if node.op_type == "Upsample" { 1 } else { 2 })?;
        let scales = scales.as_ref().and_then(|scales| scales.floats()).unwrap_or(&[]);
        let times: Vec<usize> = match self.integers(node, 3)? {
            Some(sizes) => {
                let sizes = lengths(&sizes)?;
                shape
                    .iter()
                    .zip(&sizes)
                    .map(|(old, new)| if new % old == 0 { new / old } else { 0 })
                    .collect()
            }
            None => scales
                .iter()
                .map(|scale| if scale.fract() == 0.0 { *scale as usize } else { 0 })
                .collect(),
        };
        if times.len() != shape.len() || times.contains(&0) {
            return Err("it does not enlarge by whole numbers".to_owned());
        }
        let coordinates = attributes.text("coordinate_transformation_mode").unwrap_or("half_pixel");
        let rounding = attributes.text("nearest_mode").unwrap_or("round_prefer_floor");
        let upsample = node.op_type == "Upsample";
        let repeats = |times: usize| {
            (0..times).all(|place| {
                let place = place as f64;
                let source = match coordinates {
                    "half_pixel" => (place + 0.5) / times as f64 - 0.5,
                    "asymmetric" => place / times as f64,
                    _ => return false,
                };
                let nearest = match rounding {
                    "floor" => source.floor(),
                    "ceil" => source.ceil(),
                    "round_prefer_ceil" => (source + 0.5).floor(),
                    _ => (source - 0.5).ceil(),
                };
                nearest.max(0.0) == 0.0
            })
        };
        if !upsample && !times.iter().all(|times| repeats(*times)) {
            return Err(format!("it takes neighbours by {coordinates} and {rounding}"));
        }
        let larger = shape.iter().zip(&times).map(|(extent, times)| extent * times).collect();
        self.step(&value, (Kind::Move(Move::Repeat(times)), larger))
    }

    /// Blocks of pixels to channels, or back.
    fn blocks(&mut self, node: &NodeProto) -> Recognised<Value> {
        let attributes = Attributes(node);
        let value = self.input(node, 0)?;
        let [batch, channels, height, width] = self.known_shape(&value)?[..] else {
            return Err("its input has not four axes".to_owned());
        };
        let size = attributes.int("blocksize").and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size > 0).ok_or_else(|| unknown("block size"))?;
        let deep = node.op_type == "SpaceToDepth";
        let fits = if deep {
            height % size == 0 && width % size == 0
        } else {
            channels % (size * size) == 0
        };
        if !fits {
            return Err("its block size does not divide its input".to_owned());
        }
        let (split, order, shape) = if deep {
            (
                vec![batch, channels, height / size, size, width / size, size],
                vec![0, 3, 5, 1, 2, 4],
                vec![batch, channels * size * size, height / size, width / size],
            )
        } else {
            let depth = channels / (size * size);
            let columns_first = attributes.text("mode") == Some("CRD");
            let (split, order) = if columns_first {
                (vec![batch, depth, size, size, height, width], vec![0, 1, 4, 2, 5, 3])
            } else {
                (vec![batch, size, size, depth, height, width], vec![0, 3, 4, 1, 5, 2])
            };
            (split, order, vec![batch, depth, height * size, width * size])
        };
        let value = self.reshaped(&value, split)?;
        let value = self.transposed(&value, order)?;
        self.reshaped(&value, shape)
    }
}

fn unknown(what: &str) -> String {
    format!("its {what} is not constant")
}

fn lengths(values: &[i64]) -> Recognised<Vec<usize>> {
    values
        .iter()
        .map(|value| usize::try_from(*value).map_err(|_| format!("a length is {value}")))
        .collect()
}

fn reshape(shape: &[usize], given: &[i64], zero_is_zero: bool) -> Recognised<Vec<usize>> {
    let count: usize = shape.iter().product();
    let extent = |(axis, value): (usize, &i64)| match value {
        -1 => Ok(None),
        0 if !zero_is_zero => Ok(Some(shape.get(axis).copied().unwrap_or(0))),
        value => usize::try_from(*value).map(Some).map_err(|_| format!("a length is {value}")),
    };
    let extents = given.iter().enumerate().map(extent).collect::<Recognised<Vec<_>>>()?;
    let known: usize = extents.iter().flatten().product();
    let free = count / known.max(1);
    let result: Vec<usize> = extents.into_iter().map(|extent| extent.unwrap_or(free)).collect();
    // A batch that was exported as a number other than one cannot be told from any other axis.
    if result.iter().product::<usize>() == count {
        Ok(result)
    } else {
        Err(format!("it reshapes {shape:?} to {given:?}"))
    }
}
