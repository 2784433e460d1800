//! One node at a time: which operator it is, and what becomes of its inputs.

use std::rc::Rc;

use selvedge_engine::Window;
use tract_onnx::pb::NodeProto;

use super::products::{Bias, constant_scalar};
use super::window::{Windows, windows};
use super::{Core, Pending, Recognised, Recogniser, Step, Value, axis_of, reshape_step};
use crate::lower::functions::{clip_bounds, function};
use crate::lower::ir::{Kind, Move, Quant, TensorId};
use crate::lower::onnx::{Attributes, Constant};

impl Recogniser {
    /// The values of a node's outputs.
    pub(super) fn node(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        match node.domain.as_str() {
            "" | "ai.onnx" => self.standard(node),
            "com.microsoft" => self.contributed(node),
            domain => Err(format!("nothing is known of the domain {domain}")),
        }
    }

    fn standard(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        let pending = |pending: Pending| Ok(vec![Value::Pending(Rc::new(pending))]);
        match node.op_type.as_str() {
            "Constant" => match Attributes(node).tensor("value") {
                Some(constant) => Ok(vec![Value::Constant(Rc::new(constant))]),
                None => Err("its value is of an unusual type".to_owned()),
            },
            "DequantizeLinear" => self.dequantize_linear(node),
            "QuantizeLinear" => self.quantize_linear(node),
            "Conv" => {
                let (input, weights) = (self.input(node, 0)?, self.input(node, 1)?);
                let bias = self.bias(node, 2)?;
                pending(self.conv(node, &input, &weights, bias)?)
            }
            "MatMul" => {
                let (left, right) = (self.input(node, 0)?, self.input(node, 1)?);
                pending(self.product(&left, &right, false, 1.0, Bias::None)?)
            }
            "Gemm" => self.gemm(node).and_then(pending),
            "QLinearConv" => {
                let input = self.dequantised(node, [0, 1, 2], 1)?;
                let weights = self.dequantised(node, [3, 4, 5], 0)?;
                let bias = self.bias_steps(node, 8)?;
                let result = self.conv(node, &input, &weights, bias)?;
                self.settle(node, &Value::Pending(Rc::new(result)), [6, 7])
            }
            "QLinearMatMul" => {
                let left = self.dequantised(node, [0, 1, 2], -1)?;
                let right = self.dequantised(node, [3, 4, 5], -1)?;
                let result = self.product(&left, &right, false, 1.0, Bias::None)?;
                self.settle(node, &Value::Pending(Rc::new(result)), [6, 7])
            }
            "AveragePool" | "GlobalAveragePool" => {
                let input = self.input(node, 0)?;
                pending(self.average_pool(node, &input)?)
            }
            "MaxPool" | "GlobalMaxPool" => self.max_pool(node),
            "ReduceMean" => self.reduce_mean(node),
            "Softmax" => {
                let input = self.input(node, 0)?;
                let axis = Attributes(node).int("axis");
                pending(self.softmax(&input, axis, self.opset)?)
            }
            operator => {
                if let Some(values) = self.movement(node)? {
                    return Ok(values);
                }
                if let Some(value) = self.element_wise(node)? {
                    return Ok(vec![value]);
                }
                match operator {
                    "Add" | "Sub" => {
                        let (left, right) = (self.input(node, 0)?, self.input(node, 1)?);
                        let second = if operator == "Add" { 1.0 } else { -1.0 };
                        pending(self.sum(&left, &right, [1.0, second])?)
                    }
                    "Mul" => {
                        let (left, right) = (self.input(node, 0)?, self.input(node, 1)?);
                        pending(self.multiplied(&left, &right)?)
                    }
                    "DynamicQuantizeLinear" => {
                        Err("its scale is known at run time only".to_owned())
                    }
                    "ConvInteger" | "MatMulInteger" => {
                        Err("its result stays in 32 bits".to_owned())
                    }
                    _ => Err("no integer operation is defined for it".to_owned()),
                }
            }
        }
    }

    /// Operators that onnxruntime adds.
    fn contributed(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        match node.op_type.as_str() {
            "DequantizeLinear" => self.dequantize_linear(node),
            "QuantizeLinear" => self.quantize_linear(node),
            "QLinearAdd" | "QLinearMul" => {
                let left = self.dequantised(node, [0, 1, 2], 1)?;
                let right = self.dequantised(node, [3, 4, 5], 1)?;
                let result = match node.op_type.as_str() {
                    "QLinearAdd" => self.sum(&left, &right, [1.0, 1.0])?,
                    _ => self.multiplied(&left, &right)?,
                };
                self.settle(node, &Value::Pending(Rc::new(result)), [6, 7])
            }
            "QGemm" => {
                let attributes = Attributes(node);
                if attributes.flag("transA") {
                    return Err("its left side is transposed".to_owned());
                }
                let transposed = attributes.flag("transB");
                let left = self.dequantised(node, [0, 1, 2], 1)?;
                let right = self.dequantised(node, [3, 4, 5], i64::from(!transposed))?;
                let bias = self.bias_steps(node, 6)?;
                let factor = f64::from(attributes.float("alpha").unwrap_or(1.0));
                let result = self.product(&left, &right, transposed, factor, bias)?;
                if node.input.get(7).is_none_or(String::is_empty) {
                    return Err("its result stays in reals".to_owned());
                }
                self.settle(node, &Value::Pending(Rc::new(result)), [7, 8])
            }
            "QLinearAveragePool" | "QLinearGlobalAveragePool" => {
                let attributes = Attributes(node);
                let last = attributes.flag("channels_last");
                let input = self.dequantised(node, [0, 1, 2], 1)?;
                let input = if last { self.channels_moved(&input, true)? } else { input };
                let result = self.average_pool(node, &input)?;
                let result = Value::Pending(Rc::new(result));
                let result = if last { self.channels_moved(&result, false)? } else { result };
                self.settle(node, &result, [3, 4])
            }
            "QLinearSoftmax" => {
                let input = self.dequantised(node, [0, 1, 2], 1)?;
                let attributes = Attributes(node);
                let opset = attributes.int("opset").unwrap_or(self.opset);
                let result = self.softmax(&input, attributes.int("axis"), opset)?;
                self.settle(node, &Value::Pending(Rc::new(result)), [3, 4])
            }
            "QLinearSigmoid" | "QLinearLeakyRelu" => {
                let operator = node.op_type.trim_start_matches("QLinear");
                let input = self.dequantised(node, [0, 1, 2], 1)?;
                let function = function(operator, Attributes(node), &[None])
                    .ok_or_else(|| "no integer operation is defined for it".to_owned())?;
                let result = self.applied(&input, &function)?;
                self.settle(node, &result, [3, 4])
            }
            "QLinearConcat" => {
                let parts = (2..node.input.len().saturating_sub(2)).step_by(3);
                let parts = parts.map(|at| self.dequantised(node, [at, at + 1, at + 2], 1));
                let parts = parts.collect::<Recognised<Vec<_>>>()?;
                let result = self.concatenated(node, &parts)?;
                self.settle(node, &result, [0, 1])
            }
            "Gelu" => match self.element_wise(node)? {
                Some(value) => Ok(vec![value]),
                None => Err("its input is not quantised".to_owned()),
            },
            _ => Err("no integer operation is defined for it".to_owned()),
        }
    }

    /// The result of a quantised operator, whose scale and zero point are two of its inputs.
    fn settle(
        &mut self,
        node: &NodeProto,
        result: &Value,
        [scale, zero]: [usize; 2],
    ) -> Recognised<Vec<Value>> {
        let target = self.target(node, scale, zero)?;
        let name = node.output.first().cloned().unwrap_or_default();
        Ok(vec![self.quantised(result, target, &name)?])
    }

    fn gemm(&mut self, node: &NodeProto) -> Recognised<Pending> {
        let attributes = Attributes(node);
        if attributes.flag("transA") {
            return Err("its left side is transposed".to_owned());
        }
        let factor = |name: &str| f64::from(attributes.float(name).unwrap_or(1.0));
        let (left, right) = (self.input(node, 0)?, self.input(node, 1)?);
        let bias = match self.bias(node, 2)? {
            Bias::Reals(reals) => {
                Bias::Reals(reals.into_iter().map(|real| real * factor("beta")).collect())
            }
            bias => bias,
        };
        self.product(&left, &right, attributes.flag("transB"), factor("alpha"), bias)
    }

    /// An operator that computes each element from the same one of its only variable input.
    fn element_wise(&mut self, node: &NodeProto) -> Recognised<Option<Value>> {
        let inputs: Vec<Option<Value>> =
            (0..node.input.len()).map(|index| self.optional(node, index)).collect();
        let constants: Vec<Option<Constant>> =
            inputs.iter().map(|value| value.as_ref().and_then(constant_scalar)).collect();
        let mut variable = inputs
            .iter()
            .zip(&constants)
            .filter_map(|(value, constant)| value.as_ref().filter(|_| constant.is_none()));
        let (Some(input), None) = (variable.next(), variable.next()) else { return Ok(None) };
        let constants: Vec<Option<&Constant>> = constants.iter().map(Option::as_ref).collect();
        if let Value::Pending(pending) = input {
            if let Some(clamped) = clamped(node, pending, &constants) {
                return Ok(Some(Value::Pending(Rc::new(clamped))));
            }
            if !matches!(pending.core, Core::Function { .. }) {
                return match function(&node.op_type, Attributes(node), &constants) {
                    Some(_) if !matches!(node.op_type.as_str(), "Add" | "Sub") => {
                        Err("its input is not quantised before it".to_owned())
                    }
                    _ => Ok(None),
                };
            }
        }
        let Some(function) = function(&node.op_type, Attributes(node), &constants) else {
            return Ok(None);
        };
        match input {
            Value::Real(..) | Value::Pending(_) => self.applied(input, &function).map(Some),
            _ => Ok(None),
        }
    }

    /// A function of each element.
    fn applied(&mut self, value: &Value, function: &dyn Fn(f64) -> f64) -> Recognised<Value> {
        let each = |reals: &[f32]| -> Rc<Vec<f32>> {
            Rc::new(reals.iter().map(|real| function(f64::from(*real)) as f32).collect())
        };
        let pending = match value {
            Value::Real(input, quant) => {
                let reals = each(&quant.reals().collect::<Vec<_>>());
                let shape = self.graph.shape(*input).to_vec();
                Pending::new(Core::Function { input: *input, quant: *quant, reals }, shape)
            }
            Value::Pending(pending) => match &pending.core {
                Core::Function { input, quant, reals } if pending.moves.is_empty() => {
                    let clamped: Vec<f32> =
                        reals.iter().map(|real| real.max(pending.low).min(pending.high)).collect();
                    let (input, quant) = (*input, *quant);
                    let core = Core::Function { input, quant, reals: each(&clamped) };
                    Pending::new(core, pending.shape.clone())
                }
                _ => return Err("its input is not quantised before it".to_owned()),
            },
            _ => return Err("its input is not quantised".to_owned()),
        };
        Ok(Value::Pending(Rc::new(pending)))
    }

    fn average_pool(&mut self, node: &NodeProto, input: &Value) -> Recognised<Pending> {
        let attributes = Attributes(node);
        let input = self.real(input)?;
        let mut shape = self.graph.shape(input.0).to_vec();
        let Windows { window, pads, outputs } = pool_windows(node, &shape)?;
        let counted = attributes.flag("count_include_pad") && !node.op_type.contains("Global");
        let counted = counted.then_some([pads[2] as u32, pads[3] as u32]);
        let axes = shape.len() - 2;
        shape[2..].copy_from_slice(&outputs[2 - axes..]);
        Ok(Pending::new(Core::AveragePool { input, window, counted }, shape))
    }

    fn max_pool(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        if node.output.len() > 1 {
            return Err("its indices are asked for".to_owned());
        }
        let input = self.input(node, 0)?;
        let mut shape = self.known_shape(&input)?;
        let Windows { window, outputs, .. } = pool_windows(node, &shape)?;
        let axes = shape.len() - 2;
        shape[2..].copy_from_slice(&outputs[2 - axes..]);
        if matches!(input, Value::Foreign(_) | Value::Constant(_) | Value::Weights(_)) {
            return Err("its input is not quantised".to_owned());
        }
        Ok(vec![self.step(&input, (Kind::MaxPool { window }, shape))?])
    }

    /// A mean over some axes is a pool over one axis that they become.
    fn reduce_mean(&mut self, node: &NodeProto) -> Recognised<Vec<Value>> {
        let attributes = Attributes(node);
        let value = self.input(node, 0)?;
        let (tensor, quant) = self.real(&value)?;
        let shape = self.graph.shape(tensor).to_vec();
        let axes = match attributes.ints("axes") {
            Some(axes) => Some(axes.to_vec()),
            None => self.integers(node, 1)?,
        };
        let reduced: Vec<usize> = match axes.filter(|axes| !axes.is_empty()) {
            Some(axes) => axes
                .into_iter()
                .map(|axis| axis_of(axis, shape.len()))
                .collect::<Recognised<_>>()?,
            None => (0..shape.len()).collect(),
        };
        let kept: Vec<usize> = (0..shape.len()).filter(|axis| !reduced.contains(axis)).collect();
        let extent = |axes: &[usize]| axes.iter().map(|axis| shape[*axis]).product::<usize>();
        let (channels, count) = (extent(&kept), extent(&reduced));
        let order: Vec<usize> = kept.iter().chain(&reduced).copied().collect();
        let moved = order.iter().map(|axis| shape[*axis]).collect();
        let tensor = self.derived(tensor, (Kind::Move(Move::Transpose(order)), moved));
        let tensor = self.derived(tensor, reshape_step(vec![1, channels, count, 1]));
        let window = Window { kernel: [count as u32, 1], ..Window::UNIT };
        let core = Core::AveragePool { input: (tensor, quant), window, counted: None };
        let mut pending = Pending::new(core, vec![1, channels, 1, 1]);
        let keep = attributes.int("keepdims").unwrap_or(1) != 0;
        let result = (0..shape.len())
            .filter(|axis| keep || kept.contains(axis))
            .map(|axis| if reduced.contains(&axis) { 1 } else { shape[axis] })
            .collect();
        pending.moves.push(reshape_step(result));
        Ok(vec![Value::Pending(Rc::new(pending))])
    }

    fn softmax(&mut self, input: &Value, axis: Option<i64>, opset: i64) -> Recognised<Pending> {
        let (tensor, quant) = self.real(input)?;
        let shape = self.graph.shape(tensor).to_vec();
        let axis = axis.unwrap_or(if opset < 13 { 1 } else { -1 });
        let axis = axis_of(axis, shape.len())?;
        // Before operator set 13, a softmax takes all axes from the given one for one.
        let flattened = opset < 13 && shape[axis + 1..].iter().any(|extent| *extent != 1);
        if !flattened {
            return Ok(Pending::new(Core::Softmax { input: (tensor, quant), axis }, shape));
        }
        let (outer, inner) = shape.split_at(axis);
        let matrix = vec![outer.iter().product(), inner.iter().product()];
        let tensor = self.derived(tensor, reshape_step(matrix.clone()));
        let mut pending = Pending::new(Core::Softmax { input: (tensor, quant), axis: 1 }, matrix);
        pending.moves.push(reshape_step(shape));
        Ok(pending)
    }

    /// A change of places or a maximum, of whatever is known of a tensor.
    pub(super) fn step(&mut self, value: &Value, step: Step) -> Recognised<Value> {
        Ok(match value {
            Value::Integer(tensor) => Value::Integer(self.derived(*tensor, step)),
            Value::Real(tensor, quant) => Value::Real(self.derived(*tensor, step), *quant),
            Value::Pending(pending) => {
                let mut pending = Pending::clone(pending);
                pending.moves.push(step);
                Value::Pending(Rc::new(pending))
            }
            Value::Foreign(foreign) => {
                let mut foreign = super::Foreign::clone(foreign);
                foreign.moves.push(step);
                Value::Foreign(Rc::new(foreign))
            }
            Value::Constant(_) | Value::Weights(_) => {
                return Err("constants are moved in their own way".to_owned());
            }
        })
    }

    pub(super) fn moved(&mut self, tensor: TensorId, steps: &[Step]) -> TensorId {
        steps.iter().fold(tensor, |tensor, step| self.derived(tensor, step.clone()))
    }
}

/// A result that an activation narrows, if the node is one.
fn clamped(
    node: &NodeProto,
    pending: &Pending,
    constants: &[Option<&Constant>],
) -> Option<Pending> {
    let (low, high) = match node.op_type.as_str() {
        "Relu" => (0.0, f64::INFINITY),
        "Clip" => clip_bounds(Attributes(node), constants)?,
        "Identity" => (f64::NEG_INFINITY, f64::INFINITY),
        _ => return None,
    };
    let clamp = |value: f32| f64::from(value).max(low).min(high) as f32;
    let mut clamped = pending.clone();
    (clamped.low, clamped.high) = (clamp(pending.low), clamp(pending.high));
    Some(clamped)
}

pub(super) fn pool_windows(node: &NodeProto, shape: &[usize]) -> Recognised<Windows> {
    let attributes = Attributes(node);
    if shape.len() < 3 || shape[0] != 1 {
        return Err(format!("its input has the shape {shape:?}"));
    }
    let spatial = &shape[2..];
    if node.op_type.contains("Global") {
        let extents = match *spatial {
            [height, width] => [height, width],
            [width] => [1, width],
            _ => return Err(format!("its windows move along {} axes", spatial.len())),
        };
        let kernel = extents.map(|extent| extent as u32);
        let window = Window { kernel, ..Window::UNIT };
        return Ok(Windows { window, pads: [0; 4], outputs: [1, 1] });
    }
    let kernel = attributes.ints("kernel_shape").ok_or_else(|| "it has no kernel".to_owned())?;
    let kernel: Option<Vec<usize>> =
        kernel.iter().map(|extent| usize::try_from(*extent).ok()).collect();
    windows(attributes, &kernel.ok_or_else(|| "its kernel is negative".to_owned())?, spatial)
}

/// The quantisation that all of these tensors share, if they do.
pub(super) fn shared_quant(parts: &[(TensorId, Quant)]) -> Option<Quant> {
    let (_, first) = parts.first()?;
    parts.iter().all(|(_, quant)| quant == first).then_some(*first)
}
