//! Convolutions, products, sums: operators of which a scale of the result is needed before they become integers.

use std::rc::Rc;

use tract_onnx::pb::NodeProto;

use super::window::{Windows, windows};
use super::{Core, Linear, Pending, Recognised, Recogniser, Value, Weights, broadcast};
use crate::lower::ir::{Kind, Move, Quant, TensorId};
use crate::lower::onnx::{Attributes, Constant};

/// The bias of a linear layer.
pub(super) enum Bias {
    None,
    Reals(Vec<f64>),
    /// In steps of each output's sum.
    Steps(Vec<i64>),
}

impl Recogniser {
    /// A bias among the inputs of a float operator.
    pub(super) fn bias(&self, node: &NodeProto, index: usize) -> Recognised<Bias> {
        match self.optional(node, index) {
            None => Ok(Bias::None),
            Some(value) => constant_reals(&value)
                .map(Bias::Reals)
                .ok_or_else(|| "its bias is not constant".to_owned()),
        }
    }

    /// A bias among the inputs of a quantised operator.
    pub(super) fn bias_steps(&self, node: &NodeProto, index: usize) -> Recognised<Bias> {
        Ok(self.integers(node, index)?.map_or(Bias::None, Bias::Steps))
    }

    pub(super) fn conv(
        &mut self,
        node: &NodeProto,
        input: &Value,
        weights: &Value,
        bias: Bias,
    ) -> Recognised<Pending> {
        let attributes = Attributes(node);
        let (tensor, quant) = self.real(input)?;
        let Value::Weights(weights) = weights else {
            return Err("its weights are not quantised constants".to_owned());
        };
        let (mut tensor, mut shape) = (tensor, self.graph.shape(tensor).to_vec());
        let [outputs, group_inputs, ref kernel @ ..] = weights.shape[..] else {
            return Err("its weights have no kernel".to_owned());
        };
        let groups = attributes.int("group").unwrap_or(1);
        let groups = usize::try_from(groups).map_err(|_| format!("it has {groups} groups"))?;
        let fits = shape.len() == kernel.len() + 2
            && groups > 0
            && shape[1] == groups * group_inputs
            && outputs % groups == 0;
        if !fits {
            return Err(format!("its input {shape:?} does not fit weights {:?}", weights.shape));
        }
        if shape[0] != 1 {
            return Err(format!("its input is a batch of {}", shape[0]));
        }
        let mut pads = [0; 4];
        if let Some((inner, before)) = self.padded_input(tensor, quant.zero) {
            (tensor, pads) = (inner, before);
        }
        let Windows { mut window, pads: own, outputs: extents } =
            windows(attributes, kernel, &shape[2..])?;
        pads.iter_mut().zip(own).for_each(|(pad, own)| *pad += own);
        window.padding = [pads[0] as u32, pads[1] as u32];
        let taps: usize = kernel.iter().product();
        let linear = Linear {
            input: tensor,
            quant,
            weights: Rc::new(taps_before_channels(weights, taps)?),
            units: units(weights, quant, outputs, 0)?,
            bias: Vec::new(),
        };
        let linear = with_bias(linear, bias, outputs)?;
        shape[1] = outputs;
        let axes = kernel.len();
        shape[2..].copy_from_slice(&extents[2 - axes..]);
        Ok(Pending::new(Core::Conv { linear, window, pads, groups }, shape))
    }

    /// Of a tensor that is another one padded with zeros around its pixels: that other one, and the pads.
    fn padded_input(&self, tensor: TensorId, zero: i8) -> Option<(TensorId, [usize; 4])> {
        let node = self.graph.nodes.iter().rev().find(|node| node.output == tensor)?;
        let Kind::Move(Move::Pad { before, value }) = &node.kind else { return None };
        let input = *node.inputs.first()?;
        let (inner, outer) = (self.graph.shape(input), self.graph.shape(tensor));
        let after = |axis: usize| outer[axis] - inner[axis] - before[axis];
        let rank = inner.len();
        let spatial = 2..rank;
        let around = (0..2).all(|axis| before[axis] == 0 && after(axis) == 0);
        if *value != zero || !around || spatial.is_empty() || rank > 4 {
            return None;
        }
        let last = rank - 1;
        Some(match rank {
            4 => (input, [before[2], before[last], after(2), after(last)]),
            _ => (input, [0, before[last], 0, after(last)]),
        })
    }

    /// A product with a right side that may be constant. `transposed` says that the right side is `[n, k]`.
    pub(super) fn product(
        &mut self,
        left: &Value,
        right: &Value,
        transposed: bool,
        factor: f64,
        bias: Bias,
    ) -> Recognised<Pending> {
        let (a, quant) = self.real(left)?;
        let shape = self.graph.shape(a).to_vec();
        let Value::Weights(weights) = right else {
            return self.matmul((a, quant), right, transposed, factor, bias);
        };
        let rank = weights.shape.len();
        let [rows, columns] = weights.shape[rank.saturating_sub(2)..] else {
            return Err("its right side is not a matrix".to_owned());
        };
        let (outputs, inputs) = if transposed { (rows, columns) } else { (columns, rows) };
        let wide = weights.values.iter().any(|value| i8::try_from(*value).is_err());
        if rank != 2 || (wide && weights.scales.len() == 1) {
            return self.matmul((a, quant), right, transposed, factor, bias);
        }
        if shape.last() != Some(&inputs) {
            return Err(format!("its input {shape:?} does not fit weights {:?}", weights.shape));
        }
        let along_outputs = usize::from(!transposed);
        let mut linear = Linear {
            input: a,
            quant,
            weights: Rc::new(by_output(weights, outputs, inputs, transposed)?),
            units: units(weights, quant, outputs, along_outputs)?,
            bias: Vec::new(),
        };
        linear.units.iter_mut().for_each(|unit| *unit *= factor);
        let linear = with_bias(linear, bias, outputs)?;
        let mut shape = shape;
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok(Pending::new(Core::Dense(linear), shape))
    }

    fn matmul(
        &mut self,
        left: (TensorId, Quant),
        right: &Value,
        transposed: bool,
        factor: f64,
        bias: Bias,
    ) -> Recognised<Pending> {
        if !matches!(bias, Bias::None) {
            return Err("a product of two variable sides has a bias".to_owned());
        }
        let (mut b, quant) = self.real(right)?;
        if transposed {
            let mut shape = self.graph.shape(b).to_vec();
            let rank = shape.len();
            if rank != 2 {
                return Err("its right side is not a matrix".to_owned());
            }
            shape.swap(0, 1);
            b = self.derived(b, (Kind::Move(Move::Transpose(vec![1, 0])), shape));
        }
        let (a_shape, b_shape) = (self.graph.shape(left.0), self.graph.shape(b));
        let ([a_outer @ .., rows, inner], [b_outer @ .., depth, columns]) = (a_shape, b_shape)
        else {
            return Err("one of its sides is not a matrix".to_owned());
        };
        if inner != depth {
            return Err(format!("the shapes {a_shape:?} and {b_shape:?} do not fit"));
        }
        let mut shape = broadcast(a_outer, b_outer)?;
        shape.extend([*rows, *columns]);
        Ok(Pending::new(Core::MatMul { inputs: [left, (b, quant)], factor }, shape))
    }

    /// A sum or difference of two float tensors.
    pub(super) fn sum(
        &mut self,
        left: &Value,
        right: &Value,
        signs: [f64; 2],
    ) -> Recognised<Pending> {
        for (variable, constant, [sign, other]) in
            [(left, right, signs), (right, left, [signs[1], signs[0]])]
        {
            let Some(reals) = constant_reals(constant) else { continue };
            let addends: Vec<f64> = reals.into_iter().map(|real| real * other).collect();
            let shape = self.known_shape(constant)?;
            match variable {
                Value::Pending(pending) if sign == 1.0 => {
                    return with_addends(pending, &shape, addends);
                }
                Value::Real(tensor, quant) => {
                    if let Some(pending) =
                        self.sum_of_channels((*tensor, *quant), sign, &shape, addends)?
                    {
                        return Ok(pending);
                    }
                }
                _ => (),
            }
        }
        let inputs = [self.real(left)?, self.real(right)?];
        let shape = broadcast(self.graph.shape(inputs[0].0), self.graph.shape(inputs[1].0))?;
        Ok(Pending::new(Core::Sum { inputs, signs }, shape))
    }

    fn sum_of_channels(
        &self,
        input: (TensorId, Quant),
        sign: f64,
        constant: &[usize],
        addends: Vec<f64>,
    ) -> Recognised<Option<Pending>> {
        let shape = self.graph.shape(input.0).to_vec();
        if broadcast(&shape, constant)? != shape {
            return Ok(None);
        }
        let Some(axis) = only_axis(constant, shape.len()) else { return Ok(None) };
        Ok(Some(Pending::new(Core::SumChannels { input, sign, axis, addends }, shape)))
    }

    pub(super) fn multiplied(&mut self, left: &Value, right: &Value) -> Recognised<Pending> {
        let inputs = [self.real(left)?, self.real(right)?];
        let shape = broadcast(self.graph.shape(inputs[0].0), self.graph.shape(inputs[1].0))?;
        Ok(Pending::new(Core::Product { inputs }, shape))
    }
}

/// A bias that is added behind a linear layer.
fn with_addends(pending: &Pending, shape: &[usize], addends: Vec<f64>) -> Recognised<Pending> {
    let mut sum = pending.clone();
    let (linear, axis) = match &mut sum.core {
        Core::Conv { linear, .. } => (linear, 1),
        Core::Dense(linear) => (linear, pending.shape.len() - 1),
        _ => return Err("an input is not quantised again before it".to_owned()),
    };
    let clamped = pending.low > f32::NEG_INFINITY || pending.high < f32::INFINITY;
    let fits = broadcast(&pending.shape, shape)? == pending.shape;
    let along = only_axis(shape, pending.shape.len());
    let one = addends.len() == 1;
    if clamped || !fits || !pending.moves.is_empty() || !(one || along == Some(axis)) {
        return Err("what is added to it is not a bias".to_owned());
    }
    let addend = |index: usize| addends[if one { 0 } else { index }];
    linear.bias.iter_mut().enumerate().for_each(|(index, bias)| *bias += addend(index));
    Ok(sum)
}

/// The only axis of a shape of `rank` axes along which a constant that is broadcast to it varies.
fn only_axis(constant: &[usize], rank: usize) -> Option<usize> {
    let mut varying = constant.iter().enumerate().filter(|(_, extent)| **extent != 1);
    let (axis, _) = varying.next()?;
    varying.next().is_none().then_some(axis + rank - constant.len())
}

/// The values of a constant, whether it was quantised or not.
pub(super) fn constant_reals(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Constant(constant) => {
            constant.floats().map(|values| values.iter().map(|value| f64::from(*value)).collect())
        }
        Value::Weights(weights) => Some(weights.reals()),
        _ => None,
    }
}

/// The only value of a constant of one element, as an `f32` constant.
pub(super) fn constant_scalar(value: &Value) -> Option<Constant> {
    match constant_reals(value)?.as_slice() {
        [real] => Some(Constant {
            shape: Vec::new(),
            values: crate::lower::onnx::Values::F32(vec![*real as f32]),
        }),
        _ => None,
    }
}

fn with_bias(mut linear: Linear, bias: Bias, outputs: usize) -> Recognised<Linear> {
    let spread = |bias: Vec<f64>| match bias.len() {
        1 => Ok(vec![bias[0]; outputs]),
        count if count == outputs => Ok(bias),
        count => Err(format!("it has {count} biases for {outputs} outputs")),
    };
    linear.bias = match bias {
        Bias::None => vec![0.0; outputs],
        Bias::Reals(bias) => spread(bias)?,
        Bias::Steps(bias) => {
            let steps = spread(bias.into_iter().map(|steps| steps as f64).collect())?;
            steps.into_iter().zip(&linear.units).map(|(steps, unit)| steps * unit).collect()
        }
    };
    Ok(linear)
}

/// The real value of one step of each output's sum. Scales of weights must lie along the outputs.
fn units(weights: &Weights, quant: Quant, outputs: usize, axis: usize) -> Recognised<Vec<f64>> {
    let scale = f64::from(quant.scale);
    match weights.scales.as_slice() {
        [one] => Ok(vec![scale * f64::from(*one); outputs]),
        many if weights.axis == axis && many.len() == outputs => {
            Ok(many.iter().map(|one| scale * f64::from(*one)).collect())
        }
        _ => Err("the scales of its weights do not lie along its outputs".to_owned()),
    }
}

fn narrow(value: i32) -> Recognised<i8> {
    i8::try_from(value)
        .map_err(|_| "its weights less their zero point do not fit 8 bits".to_owned())
}

/// `[outputs, inputs, taps]` as `[outputs, taps, inputs]`.
fn taps_before_channels(weights: &Weights, taps: usize) -> Recognised<Vec<i8>> {
    let [outputs, inputs, ..] = weights.shape[..] else { return Ok(Vec::new()) };
    let mut all = Vec::with_capacity(weights.values.len());
    for output in 0..outputs {
        for tap in 0..taps {
            for input in 0..inputs {
                all.push(narrow(weights.values[(output * inputs + input) * taps + tap])?);
            }
        }
    }
    Ok(all)
}

/// `[outputs, inputs]`.
fn by_output(
    weights: &Weights,
    outputs: usize,
    inputs: usize,
    transposed: bool,
) -> Recognised<Vec<i8>> {
    let at = |output: usize, input: usize| {
        if transposed { output * inputs + input } else { input * outputs + output }
    };
    (0..outputs)
        .flat_map(|output| (0..inputs).map(move |input| at(output, input)))
        .map(|index| narrow(weights.values[index]))
        .collect()
}
