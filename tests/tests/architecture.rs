//! The direction of dependencies, read from `cargo metadata`.
//!
//! A crate that is not in [`MAY_USE`] fails the test: a new crate needs a place in the picture first.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What each crate may depend on, among our own.
const MAY_USE: &[(&str, &[&str])] = &[
    ("selvedge-wire", &[]),
    ("selvedge-sketch", &[]),
    ("selvedge-engine", &[]),
    ("selvedge-trust", &["selvedge-wire"]),
    ("selvedge-bundle", &["selvedge-sketch", "selvedge-trust", "selvedge-wire"]),
    ("selvedge-link", &["selvedge-wire"]),
    (
        "selvedge-runtime",
        &["selvedge-bundle", "selvedge-engine", "selvedge-sketch", "selvedge-wire"],
    ),
    (
        "selvedge-agent",
        &[
            "selvedge-bundle",
            "selvedge-link",
            "selvedge-runtime",
            "selvedge-sketch",
            "selvedge-trust",
            "selvedge-wire",
        ],
    ),
    (
        "selvedge-fleet",
        &["selvedge-bundle", "selvedge-link", "selvedge-sketch", "selvedge-trust", "selvedge-wire"],
    ),
    ("selvedge-node", &["selvedge-sketch", "selvedge-wire"]),
    ("selvedge", EVERYTHING),
    ("selvedge-sim", EVERYTHING),
    ("selvedge-tests", EVERYTHING),
];

/// The desk tool and the tests stand on top: they may use every crate of ours but each other.
const EVERYTHING: &[&str] = &[
    "selvedge-agent",
    "selvedge-bundle",
    "selvedge-engine",
    "selvedge-fleet",
    "selvedge-link",
    "selvedge-node",
    "selvedge-runtime",
    "selvedge-sketch",
    "selvedge-trust",
    "selvedge-wire",
];

/// Libraries that one crate alone may name.
const NAMED_BY_ONE: &[(&str, &str)] = &[
    ("tract-onnx", "selvedge-runtime"),
    ("rumqttc", "selvedge-link"),
    ("mqtt5", "selvedge-fleet"),
];

/// What must not be reachable from what ships to a device.
const NOT_ON_DEVICES: &[&str] =
    &["axum", "mqtt5", "sqlx", "utoipa", "clap_mangen", "openssl-sys", "aws-lc-sys", "native-tls"];

#[test]
fn dependencies_point_one_way() {
    let metadata = workspace_metadata();
    let mut faults = Vec::new();
    for (package, used) in own_dependencies(&metadata) {
        match MAY_USE.iter().find(|(name, _)| *name == package) {
            None => faults.push(format!("{package} has no row in MAY_USE")),
            Some((_, allowed)) => {
                let surplus = used.iter().filter(|name| !allowed.contains(&name.as_str()));
                faults.extend(surplus.map(|name| format!("{package} must not know {name}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn tract_the_mqtt_client_and_the_broker_are_named_by_one_crate_each() {
    let metadata = workspace_metadata();
    let mut faults = Vec::new();
    for package in metadata.workspace_packages() {
        for (library, owner) in NAMED_BY_ONE {
            let names_it =
                package.dependencies.iter().any(|dependency| dependency.name == *library);
            if names_it && package.name.as_str() != *owner {
                faults.push(format!("{} names {library}; only {owner} may", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_ships_to_a_device_leaves_the_fleet_behind() {
    let metadata = workspace_metadata();
    let reached = reachable(&metadata, "selvedge-agent");
    let faults: Vec<_> = NOT_ON_DEVICES.iter().filter(|name| reached.contains(**name)).collect();
    assert!(faults.is_empty(), "the agent reaches {faults:?}");
    assert!(
        !reachable(&metadata, "selvedge-fleet").contains("tract-onnx"),
        "the fleet reaches tract"
    );
}

fn workspace_metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options(vec!["--locked".into()])
        .exec()
        .expect("cargo reads the workspace")
}

/// For each of our crates, those of ours that it depends on in a build (tests aside).
fn own_dependencies(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let used = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .filter(|dependency| dependency.path.is_some())
                .map(|dependency| dependency.name.clone());
            (package.name.to_string(), used.collect())
        })
        .collect()
}

/// The names of all packages that a normal build of `root` can pull in.
fn reachable(metadata: &Metadata, root: &str) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().expect("the metadata has a resolve graph").nodes;
    let mut todo: Vec<_> =
        nodes.iter().filter(|node| metadata[&node.id].name.as_str() == root).collect();
    let mut names = BTreeSet::new();
    while let Some(node) = todo.pop() {
        if !names.insert(metadata[&node.id].name.to_string()) {
            continue;
        }
        let normal = node
            .deps
            .iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        todo.extend(normal.filter_map(|dep| nodes.iter().find(|node| node.id == dep.pkg)));
    }
    names
}
