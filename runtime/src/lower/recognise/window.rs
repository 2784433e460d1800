//! Windows of convolutions and pools, from the attributes of their nodes.

use selvedge_engine::Window;

use super::Recognised;
use crate::lower::onnx::Attributes;

/// A window over `[height, width]`, and how many it gives.
pub(super) struct Windows {
    pub(super) window: Window,
    /// `[top, left, bottom, right]`, as the node says.
    pub(super) pads: [usize; 4],
    pub(super) outputs: [usize; 2],
}

/// Reads the windows of a node over an input `[batch, channels, axis…]` with one or two axes; one is taken for a row.
pub(super) fn windows(
    attributes: Attributes<'_>,
    kernel: &[usize],
    spatial: &[usize],
) -> Recognised<Windows> {
    let axes = spatial.len();
    if !matches!(axes, 1 | 2) || kernel.len() != axes {
        return Err(format!("its windows move along {axes} axes"));
    }
    let two = |values: Option<&[i64]>, default: usize| -> Recognised<[usize; 2]> {
        let mut all = [default; 2];
        if let Some(values) = values {
            if values.len() != axes {
                return Err("an attribute has another number of axes".to_owned());
            }
            for (at, value) in all[2 - axes..].iter_mut().zip(values) {
                *at = usize::try_from(*value).map_err(|_| format!("an attribute is {value}"))?;
            }
        }
        Ok(all)
    };
    let [strides, dilations] = ["strides", "dilations"].map(|name| two(attributes.ints(name), 1));
    let (strides, dilations) = (strides?, dilations?);
    let widened = |values: &[usize]| match *values {
        [height, width] => [height, width],
        _ => [1, values[0]],
    };
    let (kernel, extents) = (widened(kernel), widened(spatial));
    if [strides, dilations, kernel, extents].as_flattened().contains(&0) {
        return Err("a kernel, stride, dilation or extent is zero".to_owned());
    }
    let reach = |axis: usize| dilations[axis] * (kernel[axis] - 1) + 1;
    let mut pads = [0; 4];
    match attributes.text("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => {
            if let Some(given) = attributes.ints("pads") {
                let (before, after) = given.split_at(given.len() / 2);
                let [before, after] = [two(Some(before), 0)?, two(Some(after), 0)?];
                pads = [before[0], before[1], after[0], after[1]];
            }
        }
        "VALID" => (),
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            for axis in 0..2 {
                let outputs = extents[axis].div_ceil(strides[axis]);
                let all =
                    ((outputs - 1) * strides[axis] + reach(axis)).saturating_sub(extents[axis]);
                let less = all / 2;
                let before = if mode == "SAME_UPPER" { less } else { all - less };
                (pads[axis], pads[axis + 2]) = (before, all - before);
            }
        }
        mode => return Err(format!("its auto_pad is {mode}")),
    }
    let ceil = attributes.flag("ceil_mode");
    let mut outputs = [0; 2];
    for axis in 0..2 {
        let padded = extents[axis] + pads[axis] + pads[axis + 2];
        let steps = padded
            .checked_sub(reach(axis))
            .ok_or_else(|| "its kernel is larger than its input".to_owned())?;
        outputs[axis] =
            1 + if ceil { steps.div_ceil(strides[axis]) } else { steps / strides[axis] };
        // A window that begins behind the input and what is before it is none.
        if ceil && (outputs[axis] - 1) * strides[axis] >= extents[axis] + pads[axis] {
            outputs[axis] -= 1;
        }
    }
    let narrow = |values: [usize; 2]| values.map(|value| value as u32);
    let window = Window {
        kernel: narrow(kernel),
        stride: narrow(strides),
        dilation: narrow(dilations),
        padding: narrow([pads[0], pads[1]]),
    };
    Ok(Windows { window, pads, outputs })
}
