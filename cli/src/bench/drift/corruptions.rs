//! What goes wrong with images and with sensors: thirteen corruptions of the digits, four faults of a
//! channel.
//!
//! The corruptions are those of ImageNet-C (Hendrycks, Dietterich 2019) with the constants of its third
//! of five severities where they carry over to 8×8 pixels, and shift, rotation and scale as cameras have
//! them. JPEG and weather that needs texture are left out. One image and one number make one corrupted
//! image.

use crate::bench::SplitMix;

/// Pixels along one side of an image.
pub const SIDE: usize = 8;
/// Pixels of an image, row by row.
pub const PIXELS: usize = SIDE * SIDE;
/// The highest value of a pixel.
pub const PIXEL_MAX: u8 = 16;

/// An image, \[height, width\] u8, row-major, 0 to 16.
pub type Image = [u8; PIXELS];

/// A pixel's brightness, \[height, width\], row-major, 0 to 1.
type Light = [f64; PIXELS];

/// A way in which all images of a camera change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Normal noise with a standard deviation of 0.18.
    GaussianNoise,
    /// Poisson noise of 12 photons for full brightness.
    ShotNoise,
    /// 9 % of the pixels black or white.
    ImpulseNoise,
    /// A lens out of focus by one pixel.
    DefocusBlur,
    /// Motion over three pixels, in one of four directions.
    MotionBlur,
    /// 0.3 brighter.
    Brightness,
    /// Contrast reduced to 0.3 of itself.
    Contrast,
    /// A smooth veil of up to 0.6.
    Fog,
    /// Squares of 2×2 pixels.
    Pixelate,
    /// Turned by 15 to 25 degrees to either side.
    Rotation,
    /// Moved by one pixel to one of four sides.
    Shift,
    /// Smaller, 0.75 of its size.
    Scale,
    /// Pixels displaced by a smooth field of about 0.8 pixels.
    Elastic,
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::DefocusBlur,
        Self::MotionBlur,
        Self::Brightness,
        Self::Contrast,
        Self::Fog,
        Self::Pixelate,
        Self::Rotation,
        Self::Shift,
        Self::Scale,
        Self::Elastic,
    ];

    /// What reports call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian noise",
            Self::ShotNoise => "shot noise",
            Self::ImpulseNoise => "impulse noise",
            Self::DefocusBlur => "defocus blur",
            Self::MotionBlur => "motion blur",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Fog => "fog",
            Self::Pixelate => "pixelate",
            Self::Rotation => "rotation",
            Self::Shift => "shift",
            Self::Scale => "scale",
            Self::Elastic => "elastic",
        }
    }

    /// The image as such a camera takes it.
    pub fn apply(self, image: &Image, seed: u64) -> Image {
        let mut random = SplitMix(seed);
        let light = image.map(|pixel| f64::from(pixel) / f64::from(PIXEL_MAX));
        let corrupted = match self {
            Self::GaussianNoise => light.map(|pixel| pixel + 0.18 * f64::from(random.normal())),
            Self::ShotNoise => light.map(|pixel| poisson(&mut random, pixel * 12.0) / 12.0),
            Self::ImpulseNoise => light.map(|pixel| match unit(&mut random) {
                chance if chance < 0.045 => 0.0,
                chance if chance < 0.09 => 1.0,
                _ => pixel,
            }),
            Self::DefocusBlur => blurred(&light, &DISK),
            Self::MotionBlur => blurred(&light, pick(&mut random, &MOTIONS)),
            Self::Brightness => light.map(|pixel| pixel + 0.3),
            Self::Contrast => {
                let mean = light.iter().sum::<f64>() / PIXELS as f64;
                light.map(|pixel| mean + 0.3 * (pixel - mean))
            }
            Self::Fog => {
                let veil = smooth_field(&mut random);
                std::array::from_fn(|pixel| {
                    let fog = 0.3 * (1.0 + veil[pixel].clamp(-1.0, 1.0));
                    (light[pixel] + fog) / (1.0 + fog)
                })
            }
            Self::Pixelate => std::array::from_fn(|pixel| {
                let (y, x) = (pixel / SIDE / 2 * 2, pixel % SIDE / 2 * 2);
                let square = [(0, 0), (0, 1), (1, 0), (1, 1)];
                square.iter().map(|(down, right)| light[(y + down) * SIDE + x + right]).sum::<f64>()
                    / 4.0
            }),
            Self::Rotation => {
                let side = if random.next() & 1 == 0 { 1.0 } else { -1.0 };
                let (sin, cos) = (side * (15.0 + 10.0 * unit(&mut random))).to_radians().sin_cos();
                warped(&light, |y, x| (cos * y - sin * x, sin * y + cos * x))
            }
            Self::Shift => {
                let (down, right) =
                    *pick(&mut random, &[(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)]);
                warped(&light, |y, x| (y - down, x - right))
            }
            Self::Scale => warped(&light, |y, x| (y / 0.75, x / 0.75)),
            Self::Elastic => {
                let (down, right) = (smooth_field(&mut random), smooth_field(&mut random));
                let at = |y: f64, x: f64| ((y + CENTRE) as usize) * SIDE + (x + CENTRE) as usize;
                warped(&light, |y, x| (y + 0.8 * down[at(y, x)], x + 0.8 * right[at(y, x)]))
            }
        };
        corrupted.map(|pixel| (pixel.clamp(0.0, 1.0) * f64::from(PIXEL_MAX)).round() as u8)
    }
}

/// A way in which one channel of a row of sensors fails, for all rows from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelFault {
    /// It repeats the first value that it gave.
    Stuck,
    /// Half a standard deviation is added.
    Shifted,
    /// The distance from the mean is 1.2 times as large.
    Scaled,
    /// It and the next channel (the first one after the last) are exchanged.
    Swapped,
}

impl ChannelFault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stuck, Self::Shifted, Self::Scaled, Self::Swapped];

    /// What reports call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Shifted => "shifted by 0.5 sd",
            Self::Scaled => "scaled by 1.2",
            Self::Swapped => "swapped with the next",
        }
    }

    /// Breaks `channel` of all `rows`. `mean` and `sd` are the channel's in the reference.
    ///
    /// # Panics
    /// If a row has no such channel.
    pub fn apply(self, rows: &mut [Vec<f32>], channel: usize, mean: f32, sd: f32) {
        let Some(first) = rows.first().map(|row| row[channel]) else { return };
        for row in rows {
            let next = (channel + 1) % row.len();
            match self {
                Self::Stuck => row[channel] = first,
                Self::Shifted => row[channel] += 0.5 * sd,
                Self::Scaled => row[channel] = mean + 1.2 * (row[channel] - mean),
                Self::Swapped => row.swap(channel, next),
            }
        }
    }
}

/// Weights of the 3×3 pixels around one, row by row.
type Kernel = [f64; 9];

/// A disk with a radius of one pixel, its edge smoothed by a quarter as ImageNet-C's are.
const DISK: Kernel = [0.08, 0.15, 0.08, 0.15, 0.08, 0.15, 0.08, 0.15, 0.08];

const THIRD: f64 = 1.0 / 3.0;
/// Along the rows, the columns and both diagonals.
const MOTIONS: [Kernel; 4] = [
    [0.0, 0.0, 0.0, THIRD, THIRD, THIRD, 0.0, 0.0, 0.0],
    [0.0, THIRD, 0.0, 0.0, THIRD, 0.0, 0.0, THIRD, 0.0],
    [THIRD, 0.0, 0.0, 0.0, THIRD, 0.0, 0.0, 0.0, THIRD],
    [0.0, 0.0, THIRD, 0.0, THIRD, 0.0, THIRD, 0.0, 0.0],
];

fn blurred(light: &Light, kernel: &Kernel) -> Light {
    std::array::from_fn(|pixel| {
        let (y, x) = ((pixel / SIDE) as f64, (pixel % SIDE) as f64);
        let total: f64 = kernel.iter().sum();
        let weighted = kernel.iter().enumerate().map(|(place, weight)| {
            let (down, right) = ((place / 3) as f64 - 1.0, (place % 3) as f64 - 1.0);
            weight * sampled(light, y + down, x + right)
        });
        weighted.sum::<f64>() / total
    })
}

/// The coordinates of the middle of an image, which lies between pixels.
const CENTRE: f64 = (SIDE as f64 - 1.0) / 2.0;

/// Takes each pixel from where `source` says, both relative to the middle, downwards and to the right.
fn warped(light: &Light, source: impl Fn(f64, f64) -> (f64, f64)) -> Light {
    std::array::from_fn(|pixel| {
        let (y, x) = ((pixel / SIDE) as f64 - CENTRE, (pixel % SIDE) as f64 - CENTRE);
        let (y, x) = source(y, x);
        sampled(light, y + CENTRE, x + CENTRE)
    })
}

/// Bilinear; outside of the image it is black, as the digits' margin is.
fn sampled(light: &Light, y: f64, x: f64) -> f64 {
    let at = |y: f64, x: f64| {
        let inside = (0.0..SIDE as f64).contains(&y) && (0.0..SIDE as f64).contains(&x);
        if inside { light[y as usize * SIDE + x as usize] } else { 0.0 }
    };
    let (top, left) = (y.floor(), x.floor());
    let (down, right) = (y - top, x - left);
    let upper = at(top, left) * (1.0 - right) + at(top, left + 1.0) * right;
    let lower = at(top + 1.0, left) * (1.0 - right) + at(top + 1.0, left + 1.0) * right;
    upper * (1.0 - down) + lower * down
}

/// Normal values on a grid of 3×3, interpolated.
fn smooth_field(random: &mut SplitMix) -> Light {
    let grid: [f64; 9] = std::array::from_fn(|_| f64::from(random.normal()));
    std::array::from_fn(|pixel| {
        let (y, x) = ((pixel / SIDE) as f64 * 2.0 / 7.0, (pixel % SIDE) as f64 * 2.0 / 7.0);
        let (top, left) = ((y as usize).min(1), (x as usize).min(1));
        let (down, right) = (y - top as f64, x - left as f64);
        let at = |y: usize, x: usize| grid[y * 3 + x];
        let upper = at(top, left) * (1.0 - right) + at(top, left + 1) * right;
        let lower = at(top + 1, left) * (1.0 - right) + at(top + 1, left + 1) * right;
        upper * (1.0 - down) + lower * down
    })
}

/// In 0 to 1, without 1.
fn unit(random: &mut SplitMix) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

fn pick<'a, T>(random: &mut SplitMix, from: &'a [T]) -> &'a T {
    &from[(random.next() % from.len() as u64) as usize]
}

/// Knuth's method: the means here are at most 12.
fn poisson(random: &mut SplitMix, mean: f64) -> f64 {
    let limit = (-mean).exp();
    let (mut count, mut product) = (0.0, unit(random));
    while product > limit {
        count += 1.0;
        product *= unit(random);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bright bar on black.
    fn bar() -> Image {
        std::array::from_fn(|pixel| if (3..5).contains(&(pixel % SIDE)) { PIXEL_MAX } else { 0 })
    }

    #[test]
    fn every_corruption_changes_an_image_and_follows_from_its_seed() {
        for corruption in Corruption::ALL {
            let corrupted = corruption.apply(&bar(), 3);
            // A few black pixels may all be those that noise makes black.
            let changes = (0..5).any(|seed| corruption.apply(&bar(), seed) != bar());
            assert!(changes, "{corruption:?}");
            assert_eq!(corrupted, corruption.apply(&bar(), 3), "{corruption:?}");
            assert!(corrupted.iter().all(|&pixel| pixel <= PIXEL_MAX), "{corruption:?}");
        }
    }

    #[test]
    fn blurs_and_warps_keep_the_light_that_stays_inside() {
        let total = |image: Image| image.iter().map(|&pixel| f64::from(pixel)).sum::<f64>();
        let dot: Image = std::array::from_fn(|pixel| if pixel == 27 { PIXEL_MAX } else { 0 });
        for corruption in [Corruption::DefocusBlur, Corruption::MotionBlur, Corruption::Shift] {
            let kept = total(corruption.apply(&dot, 1));
            assert!((kept - 16.0).abs() <= 4.5, "{corruption:?}: {kept}");
        }
    }

    #[test]
    fn a_fault_touches_its_channel_alone_or_both_that_it_swaps() {
        let rows = vec![vec![1.0, 10.0, 100.0], vec![3.0, 30.0, 300.0]];
        let broken = |fault: ChannelFault, channel| {
            let mut rows = rows.clone();
            fault.apply(&mut rows, channel, 2.0, 4.0);
            rows
        };
        assert_eq!(broken(ChannelFault::Stuck, 0), [[1.0, 10.0, 100.0], [1.0, 30.0, 300.0]]);
        assert_eq!(broken(ChannelFault::Shifted, 0), [[3.0, 10.0, 100.0], [5.0, 30.0, 300.0]]);
        let scaled = broken(ChannelFault::Scaled, 0);
        assert!((scaled[0][0] - 0.8).abs() < 1e-6 && (scaled[1][0] - 3.2).abs() < 1e-6);
        assert_eq!(broken(ChannelFault::Swapped, 2), [[100.0, 10.0, 1.0], [300.0, 30.0, 3.0]]);
    }
}
