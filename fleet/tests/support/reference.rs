//! A reference and windows of samples like it, or drifted, the same in every run.

use selvedge_bundle::{
    Baseline, Order, ReferenceAnswer, ReferenceData, ReferenceEmbedding, TensorData,
};
use selvedge_sketch::{DetectorPolicy, GatewayProfile};

/// Samples in a window.
pub const WINDOW: usize = 250;

/// Normal values (the sum of twelve uniform ones, less six).
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    /// Two normal values with this correlation.
    fn pair(&mut self, correlation: f32) -> [f32; 2] {
        let (a, b) = (self.normal(), self.normal());
        [a, correlation * a + (1.0 - correlation * correlation).sqrt() * b]
    }

    fn answer(&mut self) -> (u32, f32) {
        (u32::from(self.uniform() > 0.7), 0.5 + self.uniform() / 2.0)
    }
}

/// Two features, two classes and their confidence, labelled, with windows from `samples_min` samples on.
pub fn baseline(samples_min: u16) -> Baseline {
    let mut noise = Noise(7);
    let rows = 80 * WINDOW;
    let mut column = |name: &str| (name.to_owned(), (0..rows).map(|_| noise.normal()).collect());
    let features = [column("pressure"), column("flow")];
    let answers: Vec<ReferenceAnswer> = (0..rows)
        .map(|_| {
            let (class, confidence) = noise.answer();
            let correct = Some(noise.uniform() < confidence);
            ReferenceAnswer { class: Some(class), confidence: Some(confidence), correct }
        })
        .collect();
    let policy = DetectorPolicy::new(10_000, samples_min, 0, 10).expect("it is above the least");
    let reference = ReferenceData {
        features: &features,
        answers: &answers,
        class_count: 2,
        order: Order::Time,
        policy,
        ..ReferenceData::default()
    };
    Baseline::build(&reference).expect("the reference is sound")
}

/// A window of `samples`, whose pressure is `shift` standard deviations higher.
pub fn profile(
    baseline: &Baseline,
    noise: &mut Noise,
    samples: usize,
    shift: f32,
) -> GatewayProfile {
    let mut profile = GatewayProfile::new(baseline.spec_id(), 2).expect("two features fit");
    let confidence = baseline.confidence().expect("answers have scores").spec.clone();
    for _ in 0..samples {
        let values = [noise.normal() + shift, noise.normal()];
        for (index, (feature, value)) in baseline.features().iter().zip(values).enumerate() {
            profile.observe_f32(index, &feature.spec, value);
        }
        let (class, score) = noise.answer();
        profile.observe_class(class);
        profile.outputs_mut().observe_confidence(&confidence, Some(class), score);
        profile.count_sample();
        profile.observe_latency(90);
    }
    profile
}

/// The correlation of both values in the reference of [`correlated_baseline`].
pub const CORRELATION: f32 = 0.8;

/// Two features that are the embedding, too, from 100 sessions of two windows each.
pub fn correlated_baseline() -> Baseline {
    let (mut noise, rows) = (Noise(17), 200 * WINDOW);
    let pairs: Vec<[f32; 2]> = (0..rows).map(|_| noise.pair(CORRELATION)).collect();
    let column = |name: &str, place: usize| {
        (name.to_owned(), pairs.iter().map(|pair| pair[place]).collect())
    };
    let vectors: Vec<_> = pairs.iter().map(|pair| Some(TensorData::F32(pair.to_vec()))).collect();
    let sessions: Vec<u32> = (0_u32..100).flat_map(|session| [session; 2 * WINDOW]).collect();
    let reference = ReferenceData {
        features: &[column("pressure", 0), column("flow", 1)],
        sessions: &sessions,
        order: Order::Time,
        embedding: Some(ReferenceEmbedding { tensor: "embedding", vectors: &vectors }),
        ..ReferenceData::default()
    };
    Baseline::build(&reference).expect("the reference is sound")
}

/// A window of `samples` whose values have this correlation.
pub fn correlated_profile(
    baseline: &Baseline,
    noise: &mut Noise,
    samples: usize,
    correlation: f32,
) -> GatewayProfile {
    let mut profile = GatewayProfile::new(baseline.spec_id(), 2).expect("two features fit");
    let counter = baseline.embedding().expect("it was declared").counter();
    for _ in 0..samples {
        let pair = noise.pair(correlation);
        for (index, (feature, value)) in baseline.features().iter().zip(pair).enumerate() {
            profile.observe_f32(index, &feature.spec, value);
        }
        counter.count(&TensorData::F32(pair.to_vec()), profile.outputs_mut());
        profile.count_sample();
    }
    profile
}

/// A profile's bytes.
pub fn encoded(profile: &GatewayProfile) -> Vec<u8> {
    let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];
    profile.encode(&mut buffer).expect("the buffer holds every profile").to_vec()
}
