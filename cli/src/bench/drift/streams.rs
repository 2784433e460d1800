//! Streams of values whose law is known.

use std::f64::consts::TAU;

use fastrand::Rng;

/// A standard normal value (Box and Muller 1958).
pub fn normal(random: &mut Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (TAU * random.f64()).cos()
}

/// A stream of standard normal values, each correlated with the one before: an autoregressive process
/// of order 1. With `rho` 0 they are independent.
pub struct Autoregressive {
    rho: f64,
    last: f64,
}

impl Autoregressive {
    /// In its stationary state.
    pub fn new(rho: f64, random: &mut Rng) -> Self {
        Self { rho, last: normal(random) }
    }

    /// The next value.
    pub fn next(&mut self, random: &mut Rng) -> f64 {
        self.last = self.rho * self.last + (1.0 - self.rho * self.rho).sqrt() * normal(random);
        self.last
    }
}

/// Values from 0 to 1 whose sixteenths have other shares in each window, drawn from a Dirichlet law with
/// a concentration of 1,000 around equal ones: a benign wobble.
pub struct Wobble {
    /// Cumulated shares.
    ends: [f64; Self::PARTS],
}

impl Wobble {
    const PARTS: usize = 16;
    const CONCENTRATION: f64 = 1000.0;

    /// The shares of one window.
    pub fn window(random: &mut Rng) -> Self {
        let mut sum = 0.0;
        let shape = Self::CONCENTRATION / Self::PARTS as f64;
        let ends = [(); Self::PARTS].map(|()| {
            sum += gamma(shape, random);
            sum
        });
        Self { ends: ends.map(|end| end / sum) }
    }

    /// A value of that window.
    pub fn next(&self, random: &mut Rng) -> f64 {
        let drawn = random.f64();
        let part = self.ends.partition_point(|&end| end <= drawn).min(Self::PARTS - 1);
        (part as f64 + random.f64()) / Self::PARTS as f64
    }
}

/// A gamma variable with a shape of at least 1 (Marsaglia and Tsang 2000).
fn gamma(shape: f64, random: &mut Rng) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - random.f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}
