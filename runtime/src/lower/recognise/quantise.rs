//! DequantizeLinear and QuantizeLinear: where integers become reals, and pending results integers.

use std::rc::Rc;

use selvedge_engine::Element;
use tract_onnx::pb::NodeProto;

use super::{Core, Linear, Pending, Recognised, Recogniser, Value, Weights, axis_of};
use crate::lower::ir::{Filter, Kind, Move, Quant, TensorId};
use crate::lower::onnx::{Attributes, Constant, Values};

/// A scale and a zero point of one value each, and whether the integers are `u8`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) quant: Quant,
    pub(super) unsigned: bool,
}

impl Recogniser {
    /// Scale and zero point from two inputs of a node.
    pub(super) fn target(&self, node: &NodeProto, scale: usize, zero: usize) -> Recognised<Target> {
        let step = self
            .constant(node, scale)?
            .and_then(|constant| constant.scalar())
            .ok_or_else(|| "its scale is not one constant".to_owned())?;
        if !(step.is_normal() && step > 0.0) {
            return Err(format!("its scale is {step}"));
        }
        let (unsigned, zero) = match self.constant(node, zero)? {
            None => (true, -128),
            Some(constant) => match &constant.values {
                Values::I8(values) if values.len() == 1 => (false, values[0]),
                Values::U8(values) if values.len() == 1 => (true, (values[0] ^ 0x80) as i8),
                _ => return Err("its zero point is not one constant of 8 bits".to_owned()),
            },
        };
        Ok(Target { quant: Quant { scale: step, zero }, unsigned })
    }

    /// The float tensor that the integers of an input mean, with the scale and zero point of two others.
    pub(super) fn dequantised(
        &mut self,
        node: &NodeProto,
        [input, scale, zero]: [usize; 3],
        axis: i64,
    ) -> Recognised<Value> {
        match self.input(node, input)? {
            Value::Constant(constant) => self
                .weights(node, &constant, [scale, zero], axis)
                .map(|it| Value::Weights(Rc::new(it))),
            Value::Integer(tensor) => {
                Ok(Value::Real(tensor, self.target(node, scale, zero)?.quant))
            }
            Value::Foreign(foreign) => {
                let Some(element @ (Element::I8 | Element::U8)) = foreign.element else {
                    return Err("its integers are not of 8 bits".to_owned());
                };
                let quant = self.target(node, scale, zero)?.quant;
                // Bytes are taken as they are: the quantisation of an import of integers is nothing's business.
                let plain = Quant { scale: 1.0, zero: 0 };
                let tensor = self.import(&foreign, plain, element)?;
                Ok(Value::Real(tensor, quant))
            }
            _ => Err("its input is not an integer tensor".to_owned()),
        }
    }

    fn weights(
        &self,
        node: &NodeProto,
        constant: &Constant,
        [scale, zero]: [usize; 2],
        axis: i64,
    ) -> Recognised<Weights> {
        let unreadable = || "its scale or zero point is not constant".to_owned();
        let scales = self.constant(node, scale)?.ok_or_else(unreadable)?;
        let scales = scales.floats().ok_or_else(unreadable)?.to_vec();
        let zeros = self.integers(node, zero)?.unwrap_or_else(|| vec![0]);
        let values = constant.integers().ok_or_else(|| "its input is not integers".to_owned())?;
        let axis = if scales.len() == 1 { 0 } else { axis_of(axis, constant.shape.len())? };
        let along = constant.shape.get(axis).copied().unwrap_or(1);
        if ![1, along].contains(&scales.len()) || ![1, along].contains(&zeros.len()) {
            return Err("it is quantised in blocks".to_owned());
        }
        let inner: usize = constant.shape.iter().skip(axis + 1).product();
        let zero = |index: usize| zeros[(index / inner.max(1)) % zeros.len()];
        let less_zero = |(index, value): (usize, i64)| i32::try_from(value - zero(index)).ok();
        let values = values.into_iter().enumerate().map(less_zero).collect::<Option<Vec<_>>>();
        let values = values.ok_or_else(|| "its constants do not fit 32 bits".to_owned())?;
        Ok(Weights { shape: constant.shape.clone(), values, scales, axis })
    }

    pub(super) fn dequantize_linear(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        let attributes = Attributes(node);
        if attributes.int("block_size").unwrap_or(0) != 0 {
            return Err("it is quantised in blocks".to_owned());
        }
        let axis = attributes.int("axis").unwrap_or(1);
        Ok(vec![self.dequantised(node, [0, 1, 2], axis)?])
    }

    pub(super) fn quantize_linear(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        let target = self.target(node, 1, 2)?;
        let value = self.input(node, 0)?;
        let output = node.output.first().cloned().unwrap_or_default();
        Ok(vec![self.quantised(&value, target, &output)?])
    }

    /// The integers that stand for a float tensor.
    pub(super) fn quantised(
        &mut self,
        value: &Value,
        target: Target,
        name: &str,
    ) -> Recognised<Value> {
        match value {
            Value::Real(tensor, quant) => {
                let result = self.requantised((*tensor, *quant), target, name);
                Ok(Value::Integer(result))
            }
            Value::Pending(pending) => self.settled(pending, target, name).map(Value::Integer),
            Value::Foreign(foreign) if foreign.element == Some(Element::F32) => {
                self.import(foreign, target.quant, Element::F32).map(|tensor| {
                    self.graph.tensors[tensor].unsigned = target.unsigned;
                    Value::Integer(tensor)
                })
            }
            Value::Constant(constant) => {
                let floats =
                    constant.floats().ok_or_else(|| "its input is not float".to_owned())?;
                let bytes = floats.iter().map(|real| target.quant.value(*real));
                let values = if target.unsigned {
                    Values::U8(bytes.map(|value| value as u8 ^ 0x80).collect())
                } else {
                    Values::I8(bytes.collect())
                };
                Ok(Value::Constant(Rc::new(Constant { shape: constant.shape.clone(), values })))
            }
            _ => Err("its input is not a float tensor".to_owned()),
        }
    }

    /// The same reals in another quantisation.
    fn requantised(
        &mut self,
        (tensor, quant): (TensorId, Quant),
        target: Target,
        name: &str,
    ) -> TensorId {
        if quant == target.quant && self.graph.tensors[tensor].unsigned == target.unsigned {
            return tensor;
        }
        let reals: Vec<f32> = quant.reals().collect();
        self.table(tensor, &reals, target, name)
    }

    pub(super) fn table(
        &mut self,
        input: TensorId,
        reals: &[f32],
        target: Target,
        name: &str,
    ) -> TensorId {
        let mut table = Box::new([0; 256]);
        table.iter_mut().zip(reals).for_each(|(value, real)| *value = target.quant.value(*real));
        let shape = self.graph.shape(input).to_vec();
        let output = self.tensor(name, shape, target.unsigned);
        self.push(Kind::Table(table), vec![input], output);
        output
    }

    fn settled(&mut self, pending: &Pending, target: Target, name: &str) -> Recognised<TensorId> {
        let Quant { scale, zero: _ } = target.quant;
        let step = f64::from(scale);
        let range = target.quant.range(pending.low, pending.high);
        let ratio = |quant: Quant| (f64::from(quant.scale) / step) as f32;
        let (kind, inputs) = match &pending.core {
            Core::Function { input, reals, .. } => {
                let clamped: Vec<f32> =
                    reals.iter().map(|real| real.max(pending.low).min(pending.high)).collect();
                let table = self.table(*input, &clamped, target, name);
                return Ok(self.moved(table, &pending.moves));
            }
            Core::Concat { inputs, axis } => {
                let parts = inputs.iter().map(|input| self.requantised(*input, target, name));
                let parts: Vec<TensorId> = parts.collect();
                (Kind::Move(Move::Concat(*axis)), parts)
            }
            Core::Conv { linear, window, pads, groups } => {
                let filter = filter(linear, step)?;
                let (window, pads, groups) = (*window, *pads, *groups);
                (Kind::Conv { window, pads, groups, filter, range }, vec![linear.input])
            }
            Core::Dense(linear) => {
                (Kind::Dense { filter: filter(linear, step)?, range }, vec![linear.input])
            }
            Core::MatMul { inputs: [(a, left), (b, right)], factor } => {
                let product = factor * f64::from(left.scale) * f64::from(right.scale);
                let multiplier = (product / step) as f32;
                (Kind::MatMul { zeros: [left.zero, right.zero], multiplier, range }, vec![*a, *b])
            }
            Core::Sum { inputs: [(a, left), (b, right)], signs } => {
                let ratios = [(left, signs[0]), (right, signs[1])]
                    .map(|(quant, sign)| (sign * f64::from(quant.scale) / step) as f32);
                (Kind::Add { zeros: [left.zero, right.zero], ratios, range }, vec![*a, *b])
            }
            Core::SumChannels { input: (input, quant), sign, axis, addends } => {
                let addends = addends.iter().map(|addend| (addend / step) as f32).collect();
                let ratio = (sign * f64::from(quant.scale) / step) as f32;
                let zero = quant.zero;
                (Kind::AddChannels { axis: *axis, zero, ratio, addends, range }, vec![*input])
            }
            Core::Product { inputs: [(a, left), (b, right)] } => {
                let multiplier = (f64::from(left.scale) * f64::from(right.scale) / step) as f32;
                (Kind::Mul { zeros: [left.zero, right.zero], multiplier, range }, vec![*a, *b])
            }
            Core::AveragePool { input: (input, quant), window, counted } => {
                let (window, counted, zero) = (*window, *counted, quant.zero);
                let ratio = ratio(*quant);
                (Kind::AveragePool { window, counted, zero, ratio, range }, vec![*input])
            }
            Core::Softmax { input: (input, quant), axis } => {
                let (axis, scale) = (*axis, quant.scale);
                (Kind::Softmax { axis, scale, steps: 1.0 / step, range }, vec![*input])
            }
        };
        let output = self.tensor(name, pending.shape.clone(), target.unsigned);
        self.push(kind, inputs, output);
        Ok(self.moved(output, &pending.moves))
    }
}

fn filter(linear: &Linear, step: f64) -> Recognised<Filter> {
    let multipliers = linear.units.iter().map(|unit| {
        // In `f32`, factor by factor, as onnxruntime computes it: the last bit decides between two results that are
        // as near.
        let multiplier = *unit as f32 / step as f32;
        // What is below the normal range is nothing: some CPUs take it for zero.
        if multiplier.is_normal() { multiplier } else { 0.0 }
    });
    let bias = linear.bias.iter().zip(&linear.units).map(|(bias, unit)| {
        let steps = if *bias == 0.0 { 0.0 } else { (bias / unit).round_ties_even() };
        let fits = steps >= f64::from(i32::MIN) && steps <= f64::from(i32::MAX);
        fits.then_some(steps as i32).ok_or_else(|| "a bias does not fit 32 bits".to_owned())
    });
    Ok(Filter {
        weights: linear.weights.to_vec(),
        bias: bias.collect::<Recognised<_>>()?,
        multipliers: multipliers.collect(),
        input_zero: linear.quant.zero,
    })
}
