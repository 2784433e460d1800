//! From a sample to the model's input tensor, as the manifest's `[[pre]]` steps say.
//!
//! A [`Manifest`] already proves that its steps lead from the sample's shape to the input's. What is left to refuse is
//! a sample of another shape, or one with values that are not finite numbers. The range that a manifest states for a
//! column is information for people and profiles: a value outside of it is answered.

use selvedge_bundle::{DType, ImageAxis, Manifest, PreStep, ResizeFilter, SampleSpec, TensorData};

use crate::error::Error;
use crate::math::{Planes, resize_bilinear, resize_nearest, transpose};
use crate::sample::Sample;

/// The steps from a sample to the input tensor.
#[derive(Clone, Debug)]
pub(crate) struct Preparation {
    sample: SampleSpec,
    steps: Vec<Step>,
    cast: Cast,
}

#[derive(Clone, Debug)]
enum Step {
    Scale { factor: f32, offset: f32 },
    Normalize { mean: Vec<f32>, std: Vec<f32>, repeat: usize },
    Resize { from: Planes, height: usize, width: usize, filter: ResizeFilter },
    Transpose { shape: Vec<usize>, order: Vec<usize> },
}

/// From real values to the input's type.
#[derive(Clone, Copy, Debug)]
struct Cast {
    dtype: DType,
    scale: f32,
    zero_point: f32,
}

impl Preparation {
    /// The steps of a manifest.
    pub(crate) fn of(manifest: &Manifest) -> Preparation {
        let input = &manifest.inputs[0];
        let mut axes = Axes::of(&manifest.sample);
        Preparation {
            sample: manifest.sample.clone(),
            steps: manifest.pre.iter().filter_map(|step| axes.apply(step)).collect(),
            cast: Cast {
                dtype: input.dtype,
                scale: input.scale.unwrap_or(1.0) as f32,
                zero_point: input.zero_point.unwrap_or(0) as f32,
            },
        }
    }

    /// The input tensor's elements for one sample, without a batch axis.
    pub(crate) fn apply(&self, sample: &Sample) -> Result<TensorData, Error> {
        let values = self.finite_values(sample)?;
        Ok(self.cast.apply(self.steps.iter().fold(values, |values, step| step.apply(values))))
    }

    fn finite_values(&self, sample: &Sample) -> Result<Vec<f32>, Error> {
        let values = sample.values(&self.sample)?;
        if let SampleSpec::Row(row) = &self.sample
            && let Some((value, column)) =
                values.iter().zip(&row.columns).find(|(value, _)| !value.is_finite())
        {
            return Err(Error::SampleValue { column: column.name.clone(), value: *value });
        }
        Ok(values)
    }
}

impl Step {
    fn apply(&self, mut values: Vec<f32>) -> Vec<f32> {
        match self {
            Step::Scale { factor, offset } => {
                values.iter_mut().for_each(|value| *value = *value * factor + offset);
                values
            }
            Step::Normalize { mean, std, repeat } => {
                for (index, value) in values.iter_mut().enumerate() {
                    let channel = index / repeat % mean.len();
                    *value = (*value - mean[channel]) / std[channel];
                }
                values
            }
            Step::Resize { from, height, width, filter: ResizeFilter::Nearest } => {
                resize_nearest(&values, *from, *height, *width)
            }
            Step::Resize { from, height, width, filter: ResizeFilter::Bilinear } => {
                resize_bilinear(&values, *from, *height, *width)
            }
            Step::Transpose { shape, order } => transpose(&values, shape, order),
        }
    }
}

impl Cast {
    /// Integers are rounded half to even and saturate, as ONNX QuantizeLinear has it; floats stay as they are.
    fn apply(&self, values: Vec<f32>) -> TensorData {
        let integers =
            values.iter().map(|value| (value / self.scale).round_ties_even() + self.zero_point);
        match self.dtype {
            DType::F32 => TensorData::F32(values),
            DType::I8 => TensorData::I8(integers.map(|value| value as i8).collect()),
            DType::U8 => TensorData::U8(integers.map(|value| value as u8).collect()),
            DType::I32 => TensorData::I32(integers.map(|value| value as i32).collect()),
            DType::I64 => TensorData::I64(integers.map(|value| value as i64).collect()),
        }
    }
}

/// The axes of the values between two steps. A row has no image axes: all of its values are columns.
struct Axes {
    image: Vec<ImageAxis>,
    shape: Vec<usize>,
}

impl Axes {
    fn of(sample: &SampleSpec) -> Axes {
        match sample {
            SampleSpec::Row(row) => Axes { image: Vec::new(), shape: vec![row.columns.len()] },
            SampleSpec::Image(image) => Axes {
                image: image.axes.clone(),
                shape: image.shape.iter().map(|length| *length as usize).collect(),
            },
        }
    }

    /// The step as arithmetic, if it has to move any value; the axes move on behind it.
    fn apply(&mut self, step: &PreStep) -> Option<Step> {
        match step {
            PreStep::Scale { factor, offset } => {
                Some(Step::Scale { factor: *factor as f32, offset: *offset as f32 })
            }
            PreStep::Normalize { mean, std } => {
                let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
                // Without a channel axis one mean serves all values of an image, and a row's stride is one.
                let axis = self.position(ImageAxis::Channel);
                let repeat = axis.map_or(1, |axis| self.shape[axis + 1..].iter().product());
                Some(Step::Normalize { mean: narrow(mean), std: narrow(std), repeat })
            }
            PreStep::Resize { height, width, filter } => {
                Some(self.resize(*height as usize, *width as usize, *filter))
            }
            PreStep::Layout { to } => self.reorder(to),
        }
    }

    fn resize(&mut self, height: usize, width: usize, filter: ResizeFilter) -> Step {
        let row = self.position(ImageAxis::Height).expect("a manifest resizes images alone");
        let column = self.position(ImageAxis::Width).expect("a manifest resizes images alone");
        // Between the two may lie nothing but a transposition: width before height is resized as its mirror image.
        let (first, second) = (row.min(column), row.max(column));
        let planes = Planes {
            outer: self.shape[..first].iter().product(),
            height: self.shape[first],
            between: self.shape[first + 1..second].iter().product(),
            width: self.shape[second],
            inner: self.shape[second + 1..].iter().product(),
        };
        (self.shape[row], self.shape[column]) = (height, width);
        Step::Resize { from: planes, height: self.shape[first], width: self.shape[second], filter }
    }

    fn reorder(&mut self, to: &[ImageAxis]) -> Option<Step> {
        if to.contains(&ImageAxis::Channel) && self.position(ImageAxis::Channel).is_none() {
            self.image.insert(0, ImageAxis::Channel);
            self.shape.insert(0, 1);
        }
        let position = |axis: &ImageAxis| {
            self.position(*axis).expect("a manifest reorders the axes that are there")
        };
        let order: Vec<usize> = to.iter().map(position).collect();
        let shape = std::mem::take(&mut self.shape);
        self.shape = order.iter().map(|axis| shape[*axis]).collect();
        self.image = to.to_vec();
        let moved: Vec<usize> = order.iter().copied().filter(|axis| shape[*axis] != 1).collect();
        (!moved.is_sorted()).then_some(Step::Transpose { shape, order })
    }

    fn position(&self, axis: ImageAxis) -> Option<usize> {
        self.image.iter().position(|known| *known == axis)
    }
}
