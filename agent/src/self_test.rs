//! `self-test BUNDLE`: does this build run this bundle, here, as it should?

use std::{fs, path::Path};

use selvedge_bundle::{Bundle, DType, Limits, SampleSpec};
use selvedge_runtime::Sample;
use selvedge_sketch::{GatewayProfile, key_from_f32};
use selvedge_trust::{PublicKey, UnixMillis};

use crate::{
    clock::Clock, daemon::trusted_root, error::one_line, inference::LoadedModel,
    record::encode_profile,
};

/// One check, with what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// What was found; the error says why the check failed.
    pub outcome: Result<String, String>,
}

/// Opens the bundle, runs its golden vectors, counts a profile and checks a signature. With `root`, the
/// statement of the bundle must be signed by whom it trusts.
pub fn self_test(bundle: &Path, root: Option<&Path>, clock: &dyn Clock) -> Vec<Check> {
    let mut checks = vec![Check { name: "signature", outcome: known_signature() }];
    let opened = Bundle::open(bundle, &Limits::default());
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            checks.push(Check { name: "bundle", outcome: Err(one_line(&error)) });
            return checks;
        }
    };
    let manifest = opened.manifest();
    let identity = format!("{} {}, {}", manifest.name, manifest.version, opened.digest());
    checks.push(Check { name: "bundle", outcome: Ok(identity) });
    if let Some(root) = root {
        checks.push(Check { name: "statement", outcome: statement(&opened, root, clock) });
    }
    match LoadedModel::load(&opened) {
        Ok(model) => {
            let rows = opened.golden().rows();
            let outcome = Ok(format!("{rows} agree on {}", std::env::consts::ARCH));
            checks.push(Check { name: "golden vectors", outcome });
            checks.push(Check { name: "profile", outcome: profile(&model) });
        }
        Err(reason) => checks.push(Check { name: "golden vectors", outcome: Err(reason) }),
    }
    checks
}

/// RFC 8032, section 7.1, test 2, and the same with one bit changed.
fn known_signature() -> Result<String, String> {
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
    let public = bytes(PUBLIC).try_into().expect("a public key has 32 bytes");
    let (key, mut signature) = (PublicKey::ed25519(public), bytes(SIGNATURE));
    if !key.verifies(&[0x72], &signature) {
        return Err("the known signature of RFC 8032 is not accepted".to_owned());
    }
    signature[0] ^= 1;
    if key.verifies(&[0x72], &signature) {
        return Err("a changed signature is accepted".to_owned());
    }
    Ok("Ed25519 of RFC 8032".to_owned())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn statement(bundle: &Bundle, root: &Path, clock: &dyn Clock) -> Result<String, String> {
    let root = trusted_root(root).map_err(|error| one_line(&error))?;
    let statement = bundle.statement().ok_or("the bundle has no signed statement")?;
    let now = UnixMillis(clock.unix_ms());
    let statement = root.verify_statement(statement, now).map_err(|error| one_line(&error))?;
    if statement.bundle() != bundle.digest() {
        return Err(format!("it is about another bundle, {}", statement.bundle()));
    }
    Ok(format!("signed, for the hardware {}", statement.hardware_classes.join(", ")))
}

/// Answers a plain sample, counts it, and reads the profile back.
fn profile(model: &LoadedModel) -> Result<String, String> {
    let sample = plain_sample(&model.sample)?;
    let answer = model.answerer.answer(&sample)?;
    let bins = &model.features.bins;
    let mut profile = GatewayProfile::new(model.features.spec_id, bins.len())
        .map_err(|error| error.to_string())?;
    profile.count_sample();
    if let Some(class) = &answer.class {
        profile.observe_class(u32::try_from(class.index).unwrap_or(u32::MAX));
    }
    let values = model.answerer.features(&sample).unwrap_or_default();
    for (feature, (value, bins)) in values.iter().zip(bins).enumerate() {
        profile.observe_feature(feature, bins, key_from_f32(*value));
    }
    let bytes = encode_profile(&profile);
    match GatewayProfile::decode(&bytes) {
        Ok(read) if read == profile => {
            Ok(format!("{} features, {} bytes", profile.features().len(), bytes.len()))
        }
        _ => Err("it does not read back as it was written".to_owned()),
    }
}

/// A sample in the middle of what the manifest says.
fn plain_sample(spec: &SampleSpec) -> Result<Sample, String> {
    match spec {
        SampleSpec::Row(row) => {
            let middle = |min: f64, max: f64| ((min + max) / 2.0) as f32;
            let columns = row.columns.iter();
            let values = columns.map(|column| match (column.min, column.max) {
                (Some(min), Some(max)) => middle(min, max),
                _ => 0.0,
            });
            Ok(Sample::Row(values.collect()))
        }
        SampleSpec::Image(image) if image.dtype == DType::U8 => {
            let shape: Vec<usize> = image.shape.iter().map(|axis| *axis as usize).collect();
            let data = vec![image.min as u8; shape.iter().product()];
            Ok(Sample::Image { shape, data })
        }
        SampleSpec::Image(image) => Err(format!("images of {} are not supported", image.dtype)),
    }
}

/// Whether a path looks like the folder of a bundle, for an error that helps.
pub(crate) fn is_bundle(path: &Path) -> bool {
    fs::metadata(path.join("index.json")).is_ok()
}
