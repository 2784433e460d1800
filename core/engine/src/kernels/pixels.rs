//! Where the pixels of a convolution lie: worked out once for a stretch of them, used by all blocks of channels.

use core::ops::Range;

use crate::op::Conv;
use crate::reference::window_start;

/// Pixels whose addresses are worked out at once: few enough that their inputs stay in the first cache while all
/// blocks of weights pass by.
pub(crate) const PIXELS_MAX: usize = 96;

/// Offsets in the arena of a stretch of output pixels.
pub(crate) struct Pixels {
    /// Where the window of each begins in the input.
    pub(crate) inputs: [usize; PIXELS_MAX],
    /// Where the channels of each begin in the output.
    pub(crate) outputs: [usize; PIXELS_MAX],
    /// How many there are.
    pub(crate) count: usize,
}

impl Pixels {
    pub(crate) const fn new() -> Pixels {
        Pixels { inputs: [0; PIXELS_MAX], outputs: [0; PIXELS_MAX], count: 0 }
    }

    /// Takes the first pixels off `range`, which counts them row by row. False if there are none.
    pub(crate) fn take(&mut self, op: &Conv, range: &mut Range<usize>) -> bool {
        let width = op.output.width as usize;
        self.count = range.len().min(PIXELS_MAX);
        let mut filled = 0;
        while filled < self.count {
            let first = range.start + filled;
            let (y, x) = (first / width, first % width);
            let run = (width - x).min(self.count - filled);
            self.fill_run(op, filled..filled + run, y as u32, x as u32);
            filled += run;
        }
        range.start += self.count;
        self.count > 0
    }

    /// Pixels of one row, from `[y, x]` on.
    fn fill_run(&mut self, op: &Conv, at: Range<usize>, y: u32, x: u32) {
        // Behind the last pixel lies nothing that is read, but a step or a sum that may not fit.
        let step = (op.window.stride[1] as usize).wrapping_mul(op.input.pixel_bytes as usize);
        let mut input = window_start(&op.input, &op.window, y, x);
        let mut output = op.output.at(y, x);
        let places = self.inputs[at.clone()].iter_mut().zip(&mut self.outputs[at]);
        for (input_place, output_place) in places {
            (*input_place, *output_place) = (input, output);
            input = input.wrapping_add(step);
            output = output.wrapping_add(op.output.pixel_bytes as usize);
        }
    }
}
