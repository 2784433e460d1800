//! `self-test BUNDLE`: does this build run this bundle, here, as it should?

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use selvedge_bundle::{Bundle, DType, Limits, SampleSpec};
use selvedge_runtime::Sample;
use selvedge_sketch::GatewayProfile;
use selvedge_trust::{
    Answer, BundleTarget, DeviceKey, Limits as TrustLimits, MessageSigner, Next, PublicKey,
    Refresh, Repository, Request, RoleName, SystemRandom, TargetFile, TrustedMetadata, UnixMillis,
};

use crate::{
    clock::Clock, daemon::root_metadata, error::one_line, inference::LoadedModel,
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

/// The folder of a TUF repository's metadata, as a mirror has it, and the root that trust begins with.
#[derive(Clone, Copy, Debug)]
pub struct TrustedRepository<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The file of the root metadata.
    pub root: &'a Path,
}

/// Opens the bundle, runs its golden vectors, counts a profile, checks a known signature and makes one.
/// With a repository, the bundle must be one of its targets, for this hardware.
pub fn self_test(
    bundle: &Path,
    repository: Option<TrustedRepository<'_>>,
    clock: &dyn Clock,
) -> Vec<Check> {
    let mut checks = vec![
        Check { name: "signature", outcome: known_signature() },
        Check { name: "message", outcome: own_signature() },
    ];
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
    if let Some(repository) = repository {
        checks.push(Check { name: "target", outcome: target(&opened, repository, clock) });
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

/// Signs a message with a new key, as a device does, and reads it back.
fn own_signature() -> Result<String, String> {
    const TOPIC: &str = "selvedge/1/self-test/up/self-test/events";
    let key = DeviceKey::generate(&SystemRandom::new()).map_err(|error| one_line(&error))?;
    let signed = key.sign_message(TOPIC, b"self-test".to_vec());
    let public = MessageSigner::public_key(&key);
    if !public.verify_message(TOPIC, &signed) {
        return Err("the device's own signature is not accepted".to_owned());
    }
    if public.verify_message("selvedge/1/self-test/up/other/events", &signed) {
        return Err("a signature is accepted on another topic".to_owned());
    }
    Ok("signed and verified".to_owned())
}

/// Brings the root up to date with the repository, and finds the bundle among the targets.
fn target(
    bundle: &Bundle,
    repository: TrustedRepository<'_>,
    clock: &dyn Clock,
) -> Result<String, String> {
    let manifest = bundle.manifest();
    let path = format!("{}/{}", manifest.name, manifest.version);
    let root = root_metadata(repository.root).map_err(|error| one_line(&error))?;
    let mut trusted = TrustedMetadata::new([(RoleName::root(), root)]);
    let now = UnixMillis(clock.unix_ms());
    let current = refresh(repository.folder, &mut trusted, now)?;
    let file = search(repository.folder, &current, &path, &mut trusted)?;
    let file = file.ok_or_else(|| format!("the repository has no target {path}"))?;
    let target = BundleTarget::read(&file).map_err(|error| one_line(&error))?;
    if target.bundle() != bundle.digest() {
        return Err(format!("the target {path} is another bundle, {}", target.bundle()));
    }
    if !target.allows_hardware(std::env::consts::ARCH) {
        let allowed = target.hardware_classes.join(", ");
        return Err(format!("the target {path} is for {allowed}"));
    }
    Ok(format!("{path}, under root version {}", trusted.state().root_version))
}

fn refresh(
    folder: &Path,
    trusted: &mut TrustedMetadata,
    now: UnixMillis,
) -> Result<Repository, String> {
    let mut state =
        Refresh::start(trusted, now, TrustLimits::DEVICE).map_err(|error| one_line(&error))?;
    loop {
        let answer = fetch(folder, &state.request())?;
        match state.answer(answer, trusted).map_err(|error| one_line(&error))? {
            Next::Fetch(next) => state = next,
            Next::Done(repository) => return Ok(repository),
        }
    }
}

fn search(
    folder: &Path,
    repository: &Repository,
    path: &str,
    trusted: &mut TrustedMetadata,
) -> Result<Option<TargetFile>, String> {
    let mut next = repository.search(path, trusted);
    loop {
        match next.map_err(|error| one_line(&error))? {
            Next::Done(found) => return Ok(found),
            Next::Fetch(state) => {
                let answer = fetch(folder, &state.request())?;
                next = state.answer(answer, trusted);
            }
        }
    }
}

fn fetch(folder: &Path, request: &Request) -> Result<Answer, String> {
    let path = folder.join(&request.file);
    let mut bytes = Vec::new();
    // One byte more than the limit is enough to see that there are more.
    let bytes_max = request.max_bytes.saturating_add(1);
    match File::open(&path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Answer::Found(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Answer::NotFound),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Answers a plain sample, counts it, and reads the profile back.
fn profile(model: &LoadedModel) -> Result<String, String> {
    let sample = plain_sample(&model.sample)?;
    let answer = model.answerer.answer(&sample)?;
    let (mut profile, mut values) = (model.profile(), Vec::new());
    model.answerer.features(&sample, &mut values);
    model.count(&mut profile, &values, Some(&answer));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use selvedge_bundle::{
        BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, TensorData, digest_of,
    };
    use selvedge_trust::{
        Authority, Blob, Expiry, Proposal, RepositoryState, Root, SigningKey, TargetsDraft,
        TargetsEdit,
    };

    use super::*;
    use crate::clock::SystemClock;

    fn bundle() -> Bundle {
        let manifest = serde_json::json!({
            "name": "example", "version": "1.0.0", "task": "tabular-classification",
            "description": "An example.", "license": "CC0-1.0",
            "sample": {"kind": "row", "columns": [{"name": "a"}]},
            "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 1], "dtype": "f32"}],
            "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
            "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
        });
        let manifest = Manifest::from_json(manifest.to_string().as_bytes()).expect("it is sound");
        let tensor = |name, data| NamedTensor::new(name, vec![1, 1], data).expect("shapes agree");
        let inputs = vec![tensor("x", TensorData::F32(vec![0.5]))];
        let outputs = vec![tensor("y", TensorData::I8(vec![1]))];
        let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
        let model = b"no graph".to_vec();
        let builder =
            BundleBuilder { manifest, model, program: None, baseline: None, golden, card: None };
        builder.build().expect("the example is sound")
    }

    fn described(bundle: &Bundle) -> BundleTarget {
        let index = ChunkIndex::of(bundle).expect("the bundle is small").encode();
        BundleTarget {
            name: "example".into(),
            version: "1.0.0".into(),
            manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
            chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
            hardware_classes: vec!["*".into()],
            patches: Vec::new(),
            signature: None,
        }
    }

    fn key() -> SigningKey {
        SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
    }

    /// Writes a repository with one target, and its root beside it as `pinned.json`.
    #[expect(clippy::disallowed_methods, reason = "a test's files need no durability")]
    fn publish(folder: &Path, target: BundleTarget) {
        let now = UnixMillis(SystemClock::new().unix_ms());
        let expires = now.plus_seconds(3600);
        let (root_key, targets_key, director) = (key(), key(), key());
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let root = Root::new(1, expires, &one(&root_key), &one(&targets_key), &one(&director));
        let root = root.sign(&[&root_key]);
        let mut draft = TargetsDraft::empty(expires);
        draft.edit(&[TargetsEdit::Add(target)]).expect("a new repository has no target");
        draft.sign(&targets_key);
        let document = String::from_utf8(draft.to_bytes()).expect("metadata is JSON");
        let targets = BTreeMap::from([("targets".to_owned(), document)]);
        let proposal = Proposal { roots: Vec::new(), targets };
        let begun = RepositoryState::begin(&root).expect("the root is sound");
        let accepted = begun.propose(&proposal, &[&director], now, &Expiry::default());
        let repository = begun.apply(&accepted.expect("a device would believe it"));
        for (name, bytes) in repository.expect("the change is its own").files() {
            fs::write(folder.join(name), bytes).expect("the folder is writable");
        }
        fs::write(folder.join("pinned.json"), root).expect("the folder is writable");
    }

    fn outcome(target: BundleTarget, bundle: &Bundle) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("the machine has a temporary folder");
        publish(folder.path(), target);
        let root = folder.path().join("pinned.json");
        let repository = TrustedRepository { folder: folder.path(), root: &root };
        super::target(bundle, repository, &SystemClock::new())
    }

    #[test]
    fn a_bundle_is_a_target_of_its_repository_alone() {
        let bundle = bundle();
        let right = described(&bundle);
        assert_eq!(
            outcome(right.clone(), &bundle),
            Ok("example/1.0.0, under root version 1".to_owned())
        );
        let other = Blob { digest: digest_of(b"other"), ..right.manifest };
        for (target, expected) in [
            (BundleTarget { manifest: other, ..right.clone() }, "is another bundle"),
            (BundleTarget { version: "2.0.0".into(), ..right.clone() }, "has no target"),
            (BundleTarget { hardware_classes: vec!["pdp11".into()], ..right }, "is for pdp11"),
        ] {
            let problem = outcome(target, &bundle).expect_err(expected);
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_repository_of_another_root_is_not_believed() {
        let (bundle, folders) = (bundle(), [tempfile::tempdir(), tempfile::tempdir()]);
        let [ours, theirs] = folders.map(|made| made.expect("the machine has temporary folders"));
        for folder in [&ours, &theirs] {
            publish(folder.path(), described(&bundle));
        }
        let root = theirs.path().join("pinned.json");
        let repository = TrustedRepository { folder: ours.path(), root: &root };
        assert!(super::target(&bundle, repository, &SystemClock::new()).is_err());
    }

    #[test]
    fn signatures_are_read_and_made_here() {
        assert_eq!(known_signature(), Ok("Ed25519 of RFC 8032".to_owned()));
        assert_eq!(own_signature(), Ok("signed and verified".to_owned()));
    }
}
