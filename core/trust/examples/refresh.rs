//! What a refresh of unchanged metadata costs: messages and CPU time, on a repository of one bundle and of many.
//!
//! `cargo run --release -p selvedge-trust --features sign --example refresh` (Linux: the kernel counts).

use std::{error::Error, fs, hint::black_box};

use selvedge_trust::{
    Answer, Authority, Blob, BundleTarget, Limits, Next, Refresh, Repository, Root, SPEC_VERSION,
    SigningKey, SystemRandom, TrustedMetadata, UnixMillis, sign_document,
};
use selvedge_wire::Digest;
use serde_json::{Map, Value, json};

/// The most CPU time that a refresh of an unchanged repository may take.
const CPU_US_MAX: u64 = 1000;
const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
const ROUNDS: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    for bundles in [1, 10, 100] {
        let (mut trusted, timestamp) = device(bundles)?;
        let repository = refresh(&timestamp, &mut trusted)?;
        let refresh_us = cpu_us(|| refresh(&timestamp, &mut trusted).map(drop))?;
        let search_us = cpu_us(|| find(&repository, &trusted).map(drop))?;
        println!(
            "{bundles} bundles: a refresh 1 message and {refresh_us} us of CPU time, a search 0 and {search_us} us"
        );
        if refresh_us > CPU_US_MAX {
            return Err(format!("more than {CPU_US_MAX} us").into());
        }
    }
    Ok(())
}

/// The CPU time that `run` takes, in microseconds.
fn cpu_us(mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<u64, Box<dyn Error>> {
    let before = cpu_ns()?;
    (0..ROUNDS).try_for_each(|_| run())?;
    Ok((cpu_ns()? - before) / ROUNDS / 1000)
}

/// Nanoseconds that this thread has had a CPU.
fn cpu_ns() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn refresh(timestamp: &[u8], trusted: &mut TrustedMetadata) -> Result<Repository, Box<dyn Error>> {
    match Refresh::pushed(timestamp.to_vec(), trusted, NOW, Limits::DEVICE)? {
        Next::Done(repository) => Ok(black_box(repository)),
        Next::Fetch(_) => Err("the refresh asks for a file".into()),
    }
}

fn find(repository: &Repository, trusted: &TrustedMetadata) -> Result<bool, Box<dyn Error>> {
    match repository.search(&bundle(0).path(), trusted)? {
        Next::Done(target) => Ok(black_box(target).is_some()),
        Next::Fetch(_) => Err("the search asks for a file".into()),
    }
}

/// What a device holds that is up to date with a repository of so many bundles, in a role that is
/// delegated to; and the repository's timestamp.
fn device(bundles: u8) -> Result<(TrustedMetadata, Vec<u8>), Box<dyn Error>> {
    let key = || SigningKey::generate(&SystemRandom::new());
    let (root_key, targets_key, director, team) = (key()?, key()?, key()?, key()?);
    let one = |key: &SigningKey| Authority::one(key.public_key().clone());
    let expires = NOW.plus_seconds(3600);
    let root = Root::new(1, expires, &one(&root_key), &one(&targets_key), &one(&director));
    let document = |kind: &str, member: &str, value: Value| json!({ "_type": kind, "spec_version": SPEC_VERSION, "version": 1, "expires": expires, member: value });
    let entries = (0..bundles).map(bundle).map(|bundle| (bundle.path(), bundle.to_entry()));
    let entries: Map<_, _> = entries.collect();
    let id = team.public_key().id();
    let role = json!({
        "name": "team", "keyids": [id], "threshold": 1, "paths": ["shuttle/*"], "terminating": true
    });
    let mut top = document("targets", "targets", json!({}));
    top["delegations"] = json!({ "keys": { id.as_str(): team.public_key() }, "roles": [role] });
    let meta = json!({ "targets.json": { "version": 1 }, "team.json": { "version": 1 } });
    let snapshot = json!({ "snapshot.json": { "version": 1 } });
    let mut timestamp = document("timestamp", "meta", snapshot);
    timestamp["root_version"] = json!(1);
    timestamp["issued"] = json!(NOW);
    let timestamp = sign_document(&timestamp, &[&director]);
    let files = [
        ("root", root.sign(&[&root_key])),
        ("timestamp", timestamp.clone()),
        ("snapshot", sign_document(&document("snapshot", "meta", meta), &[&director])),
        ("targets", sign_document(&top, &[&targets_key])),
        ("team", sign_document(&document("targets", "targets", entries.into()), &[&team])),
    ];
    let name = |(name, bytes): (&str, Vec<u8>)| Ok((name.parse()?, bytes));
    let files = files.into_iter().map(name).collect::<Result<Vec<_>, String>>()?;
    let mut trusted = TrustedMetadata::new(files);
    let mut next = Refresh::pushed(timestamp.clone(), &mut trusted, NOW, Limits::DEVICE)?;
    while let Next::Fetch(refresh) = next {
        next = refresh.answer(Answer::NotFound, &mut trusted)?;
    }
    Ok((trusted, timestamp))
}

fn bundle(number: u8) -> BundleTarget {
    let blob = Blob { digest: Digest([number; 32]), len_bytes: 1234 };
    BundleTarget {
        name: "shuttle".into(),
        version: format!("1.{number}.0"),
        manifest: blob,
        chunk_index: blob,
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    }
}
