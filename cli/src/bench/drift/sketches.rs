//! B6 and B9: how far quantiles are off, of values and of latencies. That Apache DataSketches reads the bytes of a KLL
//! sketch and merges them is a test of its own (`tests/interop/kll_reader.py`).

use fastrand::Rng;
use selvedge_sketch::{Kll64, Kll200, LatencyHistogram};

use super::{Effort, Row, streams::normal};

const SEEDS: usize = 200;
const VALUES: usize = 50_000;
const LATENCIES: usize = 20_000;
const PERMILLES: [u32; 5] = [500, 900, 950, 990, 999];

/// The errors' rows.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let (mut of_200, mut of_64) = (Vec::new(), Vec::new());
    for _ in 0..effort.of(SEEDS) {
        let mut values: Vec<f32> = (0..VALUES).map(|_| normal(random) as f32).collect();
        let mut k200 = Kll200::new(200, random.u32(..)).expect("the buffer is made for that k");
        let mut k64 = Kll64::new(64, random.u32(..)).expect("the buffer is made for that k");
        for &value in &values {
            k200.update(value);
            k64.update(value);
        }
        values.sort_by(f32::total_cmp);
        for tenth in 1..10 {
            let value = values[tenth * VALUES / 10];
            let exact = values.partition_point(|other| *other <= value) as f64 / VALUES as f64;
            let error = |rank: Option<f64>| (rank.unwrap_or(f64::NAN) - exact).abs();
            of_200.push(error(k200.rank(value)));
            of_64.push(error(k64.rank(value)));
        }
    }
    let latency = (0..effort.of(SEEDS)).map(|_| latency_error(random)).fold(0.0, f64::max);
    let name = |k: u32| format!("B6 rank error of KLL with k={k}, 99th percentile");
    vec![
        Row::at_most(name(200), percentile_99(&mut of_200), epsilon(200.0)),
        Row::at_most(name(64), percentile_99(&mut of_64), epsilon(64.0)),
        Row::at_most("B9 largest relative error of latency p50 to p99.9", latency, 0.0625),
    ]
}

/// How far a rank is off in 99 of 100 cases: Apache's fit to its simulations.
fn epsilon(k: f64) -> f64 {
    2.296 / k.powf(0.9723)
}

fn percentile_99(errors: &mut [f64]) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors.get(errors.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}

/// The middle of the bucket that a percentile lies in, against the percentile.
fn latency_error(random: &mut Rng) -> f64 {
    let (median_us, spread) = (10f64.powf(2.0 + 3.0 * random.f64()), 0.2 + random.f64());
    let mut latencies_us: Vec<u32> =
        (0..LATENCIES).map(|_| (median_us * (spread * normal(random)).exp()) as u32).collect();
    let mut histogram = LatencyHistogram::new();
    latencies_us.iter().for_each(|&latency_us| histogram.observe(latency_us));
    latencies_us.sort_unstable();
    let error = |permille: u32| {
        let rank = (LATENCIES * permille as usize).div_ceil(1000).max(1);
        let exact_us = f64::from(latencies_us[rank - 1]).max(1.0);
        let bucket = histogram.quantile_bucket(permille).expect("latencies were counted");
        let middle_us = (f64::from(*bucket.start()) + f64::from(*bucket.end())) / 2.0;
        (middle_us - exact_us).abs() / exact_us
    };
    PERMILLES.into_iter().map(error).fold(0.0, f64::max)
}
