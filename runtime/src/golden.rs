//! Golden vectors: inputs whose expected outputs travel in the bundle, so that every device proves the model on its
//! own CPU before it answers anything.

use selvedge_bundle::{Golden, Manifest, NamedTensor};

use crate::error::Error;
use crate::plan::Plan;
use crate::tensors::{elements, rows};

/// How well a model reproduced its golden vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GoldenReport {
    /// How many samples were compared.
    pub samples: usize,
    /// One per output of the manifest.
    pub outputs: Vec<GoldenDistance>,
}

/// The largest distance from the golden vectors in one output.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenDistance {
    /// The output's name.
    pub output: String,
    /// The largest absolute difference that was met, in the output's unit.
    pub largest: f64,
    /// The absolute difference that the manifest allows.
    pub tolerance: f64,
}

/// Runs every golden sample through `plan`, at most `batch` at a time, and compares.
pub(crate) fn check(
    manifest: &Manifest,
    golden: &Golden,
    plan: &Plan,
    batch: usize,
) -> Result<GoldenReport, Error> {
    let tolerance = |name: &str| manifest.golden.tolerance.get(name).copied();
    let distance = |output: &NamedTensor| GoldenDistance {
        output: output.name().to_owned(),
        largest: 0.0,
        tolerance: tolerance(output.name())
            .expect("a manifest has a tolerance for each of its outputs"),
    };
    let mut distances: Vec<GoldenDistance> = golden.outputs().iter().map(distance).collect();
    for first in (0..golden.rows()).step_by(batch) {
        let samples = first..golden.rows().min(first + batch);
        let inputs: Vec<NamedTensor> =
            golden.inputs().iter().map(|tensor| rows(tensor, samples.clone())).collect();
        let found = plan.run(inputs)?;
        for ((found, expected), distance) in found.iter().zip(golden.outputs()).zip(&mut distances)
        {
            compare(found, &rows(expected, samples.clone()), first, distance)?;
        }
    }
    Ok(GoldenReport { samples: golden.rows(), outputs: distances })
}

/// Compares the samples from number `first` on, and keeps the largest distance.
fn compare(
    found: &NamedTensor,
    expected: &NamedTensor,
    first: usize,
    distance: &mut GoldenDistance,
) -> Result<(), Error> {
    let width = expected.data().len() / expected.shape()[0];
    let pairs = elements(found.data()).zip(elements(expected.data()));
    for (index, (found, expected)) in pairs.enumerate() {
        let difference = (found - expected).abs();
        // Two floats on a grid are one step apart give or take the rounding of each.
        let rounding = 2.0 * f64::from(f32::EPSILON) * found.abs().max(expected.abs());
        let same = found == expected || (found.is_nan() && expected.is_nan());
        // Written so that a NaN on one side alone fails.
        let close = difference <= distance.tolerance + rounding;
        if !same && !close {
            return Err(Error::Golden {
                output: distance.output.clone(),
                sample: first + index / width,
                element: index % width,
                expected,
                found,
                difference,
                tolerance: distance.tolerance,
            });
        }
        if !same {
            distance.largest = distance.largest.max(difference);
        }
    }
    Ok(())
}
