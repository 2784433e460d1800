//! The arithmetic of pre- and post-processing: pure functions on slices, in `f32`, row-major.

/// Probabilities of `logits`: `exp(x - max) / sum`, which neither overflows nor divides by zero for finite logits.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The index of the largest value, the first of equals, as ONNX ArgMax has it; `None` without a largest one.
pub(crate) fn argmax(values: &[f32]) -> Option<usize> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let later_only_if_larger = |best: Option<usize>, index: usize| match best {
        Some(best) if values[index] <= values[best] => Some(best),
        _ => Some(index),
    };
    (0..values.len()).fold(None, later_only_if_larger)
}

/// Values reordered so that axis `i` of the result is axis `order[i]` of the input.
pub(crate) fn transpose(values: &[f32], shape: &[usize], order: &[usize]) -> Vec<f32> {
    let strides = strides_of(shape);
    let target: Vec<(usize, usize)> =
        order.iter().map(|axis| (shape[*axis], strides[*axis])).collect();
    let offset_of = |index: usize| {
        let digits = target.iter().rev().scan(index, |rest, (length, stride)| {
            let digit = *rest % length;
            *rest /= length;
            Some(digit * stride)
        });
        digits.sum::<usize>()
    };
    (0..values.len()).map(|index| values[offset_of(index)]).collect()
}

/// The distance between neighbours along each axis.
pub(crate) fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// An image as `[outer, height, between, width, inner]`: resizing changes height and width alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    pub(crate) outer: usize,
    pub(crate) height: usize,
    pub(crate) between: usize,
    pub(crate) width: usize,
    pub(crate) inner: usize,
}

impl Planes {
    fn offset(&self, at: Place, y: usize, x: usize) -> usize {
        (((at.outer * self.height + y) * self.between + at.between) * self.width + x) * self.inner
            + at.inner
    }
}

/// A place on the axes that resizing leaves alone.
#[derive(Clone, Copy)]
struct Place {
    outer: usize,
    between: usize,
    inner: usize,
}

/// Resizing by the nearest pixel, pixel centres at half (ONNX Resize: half_pixel, round_prefer_floor).
pub(crate) fn resize_nearest(
    values: &[f32],
    from: Planes,
    height: usize,
    width: usize,
) -> Vec<f32> {
    let rows: Vec<usize> = (0..height).map(|y| nearest(y, from.height, height)).collect();
    let columns: Vec<usize> = (0..width).map(|x| nearest(x, from.width, width)).collect();
    each_pixel(from, &rows, &columns, |at, y, x| values[from.offset(at, *y, *x)])
}

/// Resizing by linear interpolation between four pixels, centres at half, borders repeated, without antialiasing
/// (ONNX Resize: half_pixel, linear).
pub(crate) fn resize_bilinear(
    values: &[f32],
    from: Planes,
    height: usize,
    width: usize,
) -> Vec<f32> {
    let rows: Vec<Between> = (0..height).map(|y| Between::of(y, from.height, height)).collect();
    let columns: Vec<Between> = (0..width).map(|x| Between::of(x, from.width, width)).collect();
    each_pixel(from, &rows, &columns, |at, y, x| {
        let row = |y: usize| {
            let (left, right) =
                (values[from.offset(at, y, x.low)], values[from.offset(at, y, x.high)]);
            left + (right - left) * x.share
        };
        let (above, below) = (row(y.low), row(y.high));
        above + (below - above) * y.share
    })
}

fn each_pixel<T>(
    from: Planes,
    rows: &[T],
    columns: &[T],
    value: impl Fn(Place, &T, &T) -> f32,
) -> Vec<f32> {
    let mut resized =
        Vec::with_capacity(from.outer * rows.len() * from.between * columns.len() * from.inner);
    for outer in 0..from.outer {
        for y in rows {
            for between in 0..from.between {
                for x in columns {
                    resized.extend(
                        (0..from.inner).map(|inner| value(Place { outer, between, inner }, y, x)),
                    );
                }
            }
        }
    }
    resized
}

fn nearest(index: usize, from: usize, to: usize) -> usize {
    let centre = source_position(index, from, to);
    ((centre - 0.5).ceil().max(0.0) as usize).min(from - 1)
}

/// Where the centre of pixel `index` of `to` lies among the pixels of `from`.
fn source_position(index: usize, from: usize, to: usize) -> f32 {
    (index as f32 + 0.5) * from as f32 / to as f32 - 0.5
}

/// Two neighbouring pixels and the share of the second.
struct Between {
    low: usize,
    high: usize,
    share: f32,
}

impl Between {
    fn of(index: usize, from: usize, to: usize) -> Between {
        let position = source_position(index, from, to).clamp(0.0, (from - 1) as f32);
        let low = position.floor() as usize;
        Between { low, high: (low + 1).min(from - 1), share: position - low as f32 }
    }
}

/// The mean and the standard deviation (of the population) of `values`, summed in `f64`.
pub(crate) fn mean_and_sd(values: &[f32]) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance =
        values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, variance.sqrt() as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SQUARE: Planes = Planes { outer: 1, height: 2, between: 1, width: 2, inner: 1 };

    #[test]
    fn argmax_takes_the_first_of_equals_and_nothing_among_nan() {
        let cases: [(&[f32], Option<usize>); 5] = [
            (&[1.0, 3.0, 3.0], Some(1)),
            (&[-2.0], Some(0)),
            (&[f32::NEG_INFINITY, f32::NEG_INFINITY], Some(0)),
            (&[1.0, f32::NAN], None),
            (&[], None),
        ];
        let wrong: Vec<_> = cases.iter().filter(|(values, best)| argmax(values) != *best).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn resizing_agrees_with_values_worked_out_by_hand() {
        let square = [0.0, 1.0, 2.0, 3.0];
        let nearest = resize_nearest(&square, SQUARE, 4, 4);
        let rows = [
            [0.0, 0.0, 1.0, 1.0],
            [0.0, 0.0, 1.0, 1.0],
            [2.0, 2.0, 3.0, 3.0],
            [2.0, 2.0, 3.0, 3.0],
        ];
        assert_eq!(nearest, rows.concat());
        let bilinear = resize_bilinear(&square, SQUARE, 2, 4);
        assert_eq!(bilinear, [0.0, 0.25, 0.75, 1.0, 2.0, 2.25, 2.75, 3.0]);
        assert_eq!(resize_bilinear(&square, SQUARE, 1, 1), [1.5]);
    }

    #[test]
    fn resizing_keeps_channels_apart_in_either_layout() {
        let interleaved = Planes { outer: 1, height: 1, between: 1, width: 2, inner: 2 };
        assert_eq!(
            resize_nearest(&[1.0, 10.0, 2.0, 20.0], interleaved, 1, 4),
            [1.0, 10.0, 1.0, 10.0, 2.0, 20.0, 2.0, 20.0]
        );
        let planar = Planes { outer: 2, height: 1, between: 1, width: 2, inner: 1 };
        assert_eq!(
            resize_nearest(&[1.0, 2.0, 10.0, 20.0], planar, 1, 4),
            [1.0, 1.0, 2.0, 2.0, 10.0, 10.0, 20.0, 20.0]
        );
    }

    proptest! {
        #[test]
        fn softmax_is_a_distribution_in_the_order_of_its_logits(logits in prop::collection::vec(-1e4f32..1e4, 1..40)) {
            let probabilities = softmax(&logits);
            prop_assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            prop_assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
            let best = argmax(&logits).expect("finite logits have a largest");
            prop_assert!(probabilities.iter().all(|p| *p <= probabilities[best]));
        }

        #[test]
        fn resizing_to_the_same_size_changes_nothing(
            (height, width, inner) in (1usize..6, 1usize..6, 1usize..4),
            seed in any::<u32>(),
        ) {
            let from = Planes { outer: 1, height, between: 1, width, inner };
            let values: Vec<f32> = (0..height * width * inner).map(|i| (i as u32 ^ seed) as f32 / 1e6).collect();
            prop_assert_eq!(&resize_nearest(&values, from, height, width), &values);
            prop_assert_eq!(&resize_bilinear(&values, from, height, width), &values);
        }

        #[test]
        fn resizing_stays_within_the_range_of_the_image(
            (height, width) in (1usize..6, 1usize..6),
            (to_height, to_width) in (1usize..12, 1usize..12),
            pixels in prop::collection::vec(0u8..=255, 36),
        ) {
            let from = Planes { outer: 1, height, between: 1, width, inner: 1 };
            let values: Vec<f32> = pixels[..height * width].iter().map(|p| f32::from(*p)).collect();
            let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            for resized in [resize_nearest(&values, from, to_height, to_width), resize_bilinear(&values, from, to_height, to_width)] {
                prop_assert_eq!(resized.len(), to_height * to_width);
                prop_assert!(resized.iter().all(|v| (low - 1e-3..=high + 1e-3).contains(v)));
            }
        }

        #[test]
        fn transposing_back_gives_the_original(
            shape in prop::collection::vec(1usize..5, 3),
            order in Just(vec![0usize, 1, 2]).prop_shuffle(),
        ) {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
            let turned = transpose(&values, &shape, &order);
            let turned_shape: Vec<usize> = order.iter().map(|axis| shape[*axis]).collect();
            let mut back = vec![0; 3];
            order.iter().enumerate().for_each(|(place, axis)| back[*axis] = place);
            prop_assert_eq!(transpose(&turned, &turned_shape, &back), values);
        }
    }
}
