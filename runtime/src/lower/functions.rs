//! Functions of one value, as ONNX defines them: what becomes a table.
//!
//! Each is evaluated in `f64` for all 256 values of its input and rounded to `f32`, the type that the ONNX graph has
//! between DequantizeLinear and QuantizeLinear.

use super::onnx::{Attributes, Constant};

/// The function that a node applies to each element, or `None` if it is none that is known. `constants` are its
/// inputs, with `None` for the one that varies.
pub(super) fn function(
    operator: &str,
    attributes: Attributes<'_>,
    constants: &[Option<&Constant>],
) -> Option<Box<dyn Fn(f64) -> f64>> {
    let alpha = |default: f32| f64::from(attributes.float("alpha").unwrap_or(default));
    let scalar = |index: usize| match constants.get(index) {
        None | Some(None) => None,
        Some(Some(constant)) => constant.scalar().map(f64::from),
    };
    Some(match operator {
        "Relu" => Box::new(|x| x.max(0.0)),
        "Clip" => {
            let (low, high) = clip_bounds(attributes, constants)?;
            Box::new(move |x| x.max(low).min(high))
        }
        "Sigmoid" => Box::new(sigmoid),
        "Tanh" => Box::new(f64::tanh),
        "HardSigmoid" => {
            let (alpha, beta) = (alpha(0.2), f64::from(attributes.float("beta").unwrap_or(0.5)));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "LeakyRelu" => {
            let alpha = alpha(0.01);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        "ThresholdedRelu" => {
            let alpha = alpha(1.0);
            Box::new(move |x| if x > alpha { x } else { 0.0 })
        }
        "Elu" => {
            let alpha = alpha(1.0);
            Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Celu" => {
            let alpha = alpha(1.0);
            Box::new(move |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
        }
        "Selu" => {
            let alpha = alpha(1.673_263_2);
            let gamma = f64::from(attributes.float("gamma").unwrap_or(1.050_701));
            Box::new(move |x| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Gelu" if attributes.text("approximate") == Some("tanh") => Box::new(|x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }),
        "Gelu" => Box::new(|x| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))),
        "Erf" => Box::new(erf),
        "Softplus" => Box::new(|x| x.exp().ln_1p()),
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Mish" => Box::new(|x| x * x.exp().ln_1p().tanh()),
        "Exp" => Box::new(f64::exp),
        "Log" => Box::new(f64::ln),
        "Sqrt" => Box::new(f64::sqrt),
        "Reciprocal" => Box::new(|x| 1.0 / x),
        "Abs" => Box::new(f64::abs),
        "Neg" => Box::new(|x| -x),
        "Floor" => Box::new(f64::floor),
        "Ceil" => Box::new(f64::ceil),
        "Round" => Box::new(f64::round_ties_even),
        "Sign" => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        "Sin" => Box::new(f64::sin),
        "Cos" => Box::new(f64::cos),
        "Identity" | "Dropout" => Box::new(|x| x),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" => {
            binary(operator, scalar(0), scalar(1))?
        }
        "PRelu" => {
            let slope = scalar(1)?;
            Box::new(move |x| if x < 0.0 { slope * x } else { x })
        }
        _ => return None,
    })
}

/// The bounds of a Clip: attributes up to operator set 10, inputs since.
pub(super) fn clip_bounds(
    attributes: Attributes<'_>,
    constants: &[Option<&Constant>],
) -> Option<(f64, f64)> {
    let bound = |index: usize, attribute: &str, default: f64| match constants.get(index) {
        None | Some(None) => Some(attributes.float(attribute).map_or(default, f64::from)),
        Some(Some(constant)) => constant.scalar().map(f64::from),
    };
    Some((bound(1, "min", f64::NEG_INFINITY)?, bound(2, "max", f64::INFINITY)?))
}

/// An operator of two inputs of which one is a constant of one element.
fn binary(
    operator: &str,
    left: Option<f64>,
    right: Option<f64>,
) -> Option<Box<dyn Fn(f64) -> f64>> {
    let apply: fn(f64, f64) -> f64 = match operator {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Pow" => f64::powf,
        "Min" => f64::min,
        _ => f64::max,
    };
    match (left, right) {
        (Some(left), None) => Some(Box::new(move |x| apply(left, x))),
        (None, Some(right)) => Some(Box::new(move |x| apply(x, right))),
        _ => None,
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function: its Maclaurin series near zero, the continued fraction of its complement (Abramowitz and
/// Stegun, 7.1.5 and 7.1.14) beyond.
fn erf(x: f64) -> f64 {
    const TERMS: usize = 80;
    let magnitude = x.abs();
    if magnitude > 6.0 {
        return x.signum();
    }
    if magnitude < 2.5 {
        let mut term = magnitude;
        let mut sum = magnitude;
        for n in 1..TERMS {
            term *= -magnitude * magnitude / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return x.signum() * sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..TERMS).rev().fold(magnitude, |below, n| magnitude + n as f64 / 2.0 / below);
    let complement = (-magnitude * magnitude).exp() / (fraction * std::f64::consts::PI.sqrt());
    x.signum() * (1.0 - complement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_agrees_with_published_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (2.5, 0.999_593_047_9),
            (3.0, 0.999_977_909_5),
            (-1.0, -0.842_700_792_9),
        ] {
            assert!((erf(x) - value).abs() < 1e-9, "erf({x}) = {}", erf(x));
        }
    }
}
