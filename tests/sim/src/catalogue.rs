//! The bundles of the simulated world: small, the same in every run, good and bad in known ways.

use std::{collections::BTreeMap, sync::OnceLock};

use selvedge_bundle::{
    Bundle, BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, TensorData, digest_of,
};
use selvedge_trust::{Blob, BundleTarget};
use selvedge_wire::Digest;
use semver::Version;

use crate::dice::Dice;

/// The bundles whose targets the publisher signs itself.
pub const OWN_FAMILY: &str = "shuttle";
/// The bundles that the publisher delegates to a team.
pub const TEAM_FAMILY: &str = "meter";

/// The hardware class of most devices.
pub const USUAL_HARDWARE: &str = "aarch64";
/// Another hardware class.
pub const OTHER_HARDWARE: &str = "armv7";

/// How a bundle turns out on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It does what it should.
    Good,
    /// Its model does not load.
    Unloadable,
    /// It fails its trial.
    FailsTrial,
    /// It fails some of the samples that the bundle before answered.
    FailsSamples,
    /// It is much slower than the bundle before.
    Slow,
    /// It brings the agent down a while after it began to answer.
    Crashes,
}

/// A bundle of the world.
pub struct Specimen {
    /// How it turns out.
    pub nature: Nature,
    /// The bundle.
    pub bundle: Bundle,
    /// What targets metadata says about it.
    pub target: BundleTarget,
}

impl Specimen {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.bundle.digest()
    }

    /// Its version.
    pub fn version(&self) -> Version {
        Version::parse(&self.target.version).expect("every version is one")
    }

    /// The path of its target.
    pub fn path(&self) -> String {
        self.target.path()
    }
}

/// Every bundle, and by digest.
pub struct Catalogue {
    specimens: Vec<Specimen>,
    by_digest: BTreeMap<Digest, usize>,
}

impl Catalogue {
    /// The one catalogue.
    pub fn shared() -> &'static Self {
        static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
        CATALOGUE.get_or_init(Self::make)
    }

    /// All of them.
    pub fn specimens(&self) -> &[Specimen] {
        &self.specimens
    }

    /// The one of that digest.
    pub fn find(&self, digest: Digest) -> Option<&Specimen> {
        self.by_digest.get(&digest).map(|&index| &self.specimens[index])
    }

    fn make() -> Self {
        let any: &[&str] = &["*"];
        let rows: &[(&str, &str, Nature, &[&str])] = &[
            (OWN_FAMILY, "1.0.0", Nature::Good, any),
            (OWN_FAMILY, "1.1.0", Nature::Good, &[USUAL_HARDWARE, OTHER_HARDWARE]),
            (OWN_FAMILY, "1.2.0", Nature::FailsTrial, any),
            (OWN_FAMILY, "1.3.0", Nature::Good, &[USUAL_HARDWARE]),
            (OWN_FAMILY, "1.4.0", Nature::FailsSamples, any),
            (OWN_FAMILY, "1.5.0", Nature::Unloadable, any),
            (OWN_FAMILY, "2.0.0", Nature::Good, any),
            (OWN_FAMILY, "2.1.0", Nature::Crashes, any),
            (OWN_FAMILY, "2.2.0", Nature::Slow, any),
            (OWN_FAMILY, "3.0.0", Nature::Good, any),
            (TEAM_FAMILY, "1.0.0", Nature::Good, any),
            (TEAM_FAMILY, "1.1.0", Nature::FailsSamples, any),
            (TEAM_FAMILY, "2.0.0", Nature::Good, any),
        ];
        let specimens: Vec<_> =
            rows.iter().map(|row| specimen(row.0, row.1, row.2, row.3)).collect();
        let by_digest = (0..).zip(&specimens).map(|(index, one)| (one.digest(), index)).collect();
        Self { specimens, by_digest }
    }
}

/// The seconds and the inferences of every bundle's probation.
pub const PROBATION_S: u64 = 10;
/// The inferences of every bundle's probation.
pub const PROBATION_INFERENCES: u64 = 8;
/// How many crashes a probation bears.
pub const CRASHES_MAX: u32 = 1;

fn specimen(name: &str, version: &str, nature: Nature, hardware: &[&str]) -> Specimen {
    let bundle = bundle(name, version);
    let index = ChunkIndex::of(&bundle).expect("the bundle is small").encode();
    let target = BundleTarget {
        name: name.to_owned(),
        version: version.to_owned(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        hardware_classes: hardware.iter().map(|&class| class.to_owned()).collect(),
        patches: Vec::new(),
        signature: None,
    };
    Specimen { nature, bundle, target }
}

/// A bundle whose model is no graph: the simulated device does not look into it. Versions of a family
/// share their golden vectors and their card, and differ in manifest and model.
fn bundle(name: &str, version: &str) -> Bundle {
    let manifest = serde_json::json!({
        "name": name, "version": version, "task": "tabular-classification",
        "description": "A bundle of the simulation.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": [{"name": "a"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 1], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
        "update": {
            "probation_s": PROBATION_S,
            "probation_inferences": PROBATION_INFERENCES,
            "crashes_max": CRASHES_MAX,
        },
    });
    let manifest = Manifest::from_json(manifest.to_string().as_bytes()).expect("it is sound");
    let tensor = |name, data| NamedTensor::new(name, vec![1, 1], data).expect("shapes agree");
    let inputs = vec![tensor("x", TensorData::F32(vec![0.5]))];
    let outputs = vec![tensor("y", TensorData::I8(vec![1]))];
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    let model = noise(&format!("{name} {version}"));
    let card = Some(format!("# {name}\n"));
    let builder = BundleBuilder { manifest, model, program: None, baseline: None, golden, card };
    builder.build().expect("the bundle is sound")
}

/// A few KiB without a pattern.
fn noise(name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(131) + u64::from(byte));
    let mut dice = Dice::of(seed);
    (0..3000).map(|_| dice.below(256) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_small_and_share_what_is_equal() {
        let catalogue = Catalogue::shared();
        let chunks = |index: usize| {
            let index = ChunkIndex::of(&catalogue.specimens()[index].bundle).expect("it is small");
            index.chunks().map(|chunk| chunk.digest).collect::<std::collections::BTreeSet<_>>()
        };
        let (first, second) = (chunks(0), chunks(1));
        assert!((3..=8).contains(&first.len()), "{} chunks", first.len());
        assert!(first.intersection(&second).count() >= 2);
        assert_eq!(catalogue.by_digest.len(), catalogue.specimens().len());
    }
}
