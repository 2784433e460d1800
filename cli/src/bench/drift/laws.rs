//! B5: the fleet's state is the same, byte for byte, however samples are spread over devices and windows, and in
//! whatever order, how often and in how many pieces what was counted arrives.

use std::collections::BTreeMap;

use fastrand::Rng;
use selvedge_sketch::{BinSpec, Grid, OutputCounts, Profile, SpecId, key_from_f32};

use super::{Effort, Row, streams::normal};

const CASES: usize = 100_000;
const SAMPLES_MAX: usize = 40;
const DEVICES: usize = 3;
const WINDOWS: usize = 3;

type Small = Profile<2, OutputCounts>;

/// What a device sends of a window: all that it counted so far.
struct Snapshot {
    origin: (usize, usize),
    sequence: u32,
    bytes: Vec<u8>,
}

/// How many cases come out differently.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let cases = effort.of(CASES);
    let bins = Bins::new();
    let wrong = (0..cases).filter(|_| !is_same(&bins, random)).count();
    let name = format!("B5 states that differ by order, grouping or duplicates, of {cases}");
    vec![Row::at_most(name, wrong as f64, 0.0)]
}

/// A quantised feature, which nodes count as codes and gateways as floats, and a plain one.
struct Bins {
    grid: Grid,
    quantised: BinSpec,
    codes: BinSpec,
    plain: BinSpec,
}

impl Bins {
    fn new() -> Self {
        let grid = Grid::new(0.1, 3).expect("the scale is moderate");
        let edges = [-1.0, -0.5, 0.0, 0.25, 0.7, 1.2].map(key_from_f32);
        let guard = [-3.0, 3.0].map(key_from_f32);
        let quantised = BinSpec::on_grid(&edges, guard[0], guard[1], grid).expect("edges rise");
        let codes = quantised.codes().expect("it has a grid");
        let plain = BinSpec::new(&edges, guard[0], guard[1]).expect("edges rise");
        Self { grid, quantised, codes, plain }
    }

    fn count(&self, profile: &mut Small, sample: &Sample, is_node: bool) {
        if is_node {
            profile.observe_integer(0, &self.codes, sample.code);
        } else {
            let value = self.grid.scale() * (sample.code - self.grid.zero_point()) as f32;
            profile.observe_f32(0, &self.quantised, value);
        }
        profile.observe_f32(1, &self.plain, sample.plain);
        profile.observe_class(sample.class);
        profile.observe_latency(sample.latency_us);
        profile.outputs_mut().observe_embedding(&sample.embedding).expect("all have three places");
        profile.count_sample();
    }
}

struct Sample {
    code: i32,
    plain: f32,
    class: u32,
    latency_us: u32,
    embedding: [i8; 3],
}

impl Sample {
    fn random(random: &mut Rng) -> Self {
        let plain = match random.u8(..20) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            _ => 1.5 * normal(random) as f32,
        };
        Self {
            code: random.i32(-40..40),
            plain,
            class: random.u32(..5),
            latency_us: random.u32(..100_000),
            embedding: [random.i8(..), random.i8(..), random.i8(..)],
        }
    }
}

fn is_same(bins: &Bins, random: &mut Rng) -> bool {
    let empty = || Small::new(SpecId(*b"selvedge"), 2).expect("two features fit");
    let mut whole = empty();
    let mut windows: BTreeMap<(usize, usize), (Small, u32)> = BTreeMap::new();
    let mut sent = Vec::new();
    for _ in 0..random.usize(1..SAMPLES_MAX) {
        let sample = Sample::random(random);
        bins.count(&mut whole, &sample, false);
        let origin = (random.usize(..DEVICES), random.usize(..WINDOWS));
        let (profile, sequence) = windows.entry(origin).or_insert_with(|| (empty(), 0));
        bins.count(profile, &sample, origin.0 == 0);
        if random.u8(..4) == 0 {
            *sequence += 1;
            sent.push(Snapshot { origin, sequence: *sequence, bytes: encode(profile) });
        }
    }
    for (origin, (profile, sequence)) in &windows {
        let bytes = encode(profile);
        // What is delivered at least once is often delivered twice.
        for _ in 0..random.usize(1..3) {
            let (origin, bytes) = (*origin, bytes.clone());
            sent.push(Snapshot { origin, sequence: sequence + 1, bytes });
        }
    }
    random.shuffle(&mut sent);
    let mut kept: BTreeMap<(usize, usize), Snapshot> = BTreeMap::new();
    for snapshot in sent {
        let newest = kept.get(&snapshot.origin).map_or(0, |kept| kept.sequence);
        if snapshot.sequence > newest {
            kept.insert(snapshot.origin, snapshot);
        }
    }
    let mut parts: Vec<Small> = kept
        .values()
        .map(|kept| Small::decode(&kept.bytes).expect("what was encoded can be read"))
        .collect();
    // In groups that are groups again: any tree of merges.
    while parts.len() > 1 {
        let part = parts.swap_remove(random.usize(..parts.len()));
        let other = random.usize(..parts.len());
        parts[other].merge(&part).expect("all have one spec");
    }
    parts.first().is_some_and(|merged| encode(merged) == encode(&whole))
}

fn encode(profile: &Small) -> Vec<u8> {
    let mut buffer = [0; Small::ENCODED_BYTES_MAX];
    profile.encode(&mut buffer).expect("the buffer holds every profile").to_vec()
}
