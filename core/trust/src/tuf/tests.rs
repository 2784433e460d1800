//! A client against a small repository that signs whatever a test wants it to.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ring::digest::{SHA256, SHA512, digest};
use selvedge_wire::Digest;
use serde_json::{Value, json};

use crate::*;

mod pushed;

const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
const PYTHON_ROOT: &[u8] = include_bytes!("../../testdata/root.json");
const PYTHON_TIMESTAMP: &[u8] = include_bytes!("../../testdata/timestamp.json");
const PYTHON_SNAPSHOT: &[u8] = include_bytes!("../../testdata/snapshot.json");
const PYTHON_TARGETS: &[u8] = include_bytes!("../../testdata/targets.json");
const PYTHON_ROOT_OF_ALL_KEY_KINDS: &[u8] =
    include_bytes!("../../testdata/root_of_all_key_kinds.json");

/// A repository: documents before they are signed, the keys that sign them, and what is served.
struct Server {
    documents: BTreeMap<String, Value>,
    signers: BTreeMap<String, Vec<SigningKey>>,
    files: BTreeMap<String, Vec<u8>>,
    with_hashes: bool,
    asked: Vec<String>,
}

fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
}

fn hex_of(algorithm: &'static ring::digest::Algorithm, bytes: &[u8]) -> String {
    crate::hex::encode(digest(algorithm, bytes).as_ref())
}

fn target(content: &[u8]) -> Value {
    json!({ "length": content.len(), "hashes": { "sha256": hex_of(&SHA256, content) } })
}

fn role_name(name: &str) -> RoleName {
    name.parse().expect("the name is well formed")
}

impl Server {
    fn new() -> Self {
        let names = ["root", "timestamp", "snapshot", "targets"];
        let mut server = Self {
            documents: BTreeMap::new(),
            signers: names.iter().map(|name| (name.to_string(), vec![new_key()])).collect(),
            files: BTreeMap::new(),
            with_hashes: false,
            asked: Vec::new(),
        };
        for name in names {
            server.documents.insert(name.into(), server.document(name));
        }
        server.document_mut("root")["consistent_snapshot"] = json!(true);
        server.document_mut("timestamp")["meta"] = json!({ "snapshot.json": { "version": 1 } });
        server.document_mut("snapshot")["meta"] = json!({ "targets.json": { "version": 1 } });
        server.document_mut("targets")["targets"] = json!({ "a/b": target(b"content") });
        server.name_keys();
        for name in names.into_iter().rev() {
            server.serve(name);
        }
        server
    }

    fn document(&self, name: &str) -> Value {
        let expires = NOW.plus_seconds(3600);
        json!({ "_type": name, "spec_version": SPEC_VERSION, "version": 1, "expires": expires })
    }

    fn document_mut(&mut self, name: &str) -> &mut Value {
        self.documents.get_mut(name).expect("the repository has the role")
    }

    /// Writes the signers of the top-level roles into the root.
    fn name_keys(&mut self) {
        let (mut keys, mut roles) = (json!({}), json!({}));
        for name in ["root", "timestamp", "snapshot", "targets"] {
            let signers = &self.signers[name];
            roles[name] = json!({ "keyids": ids(signers), "threshold": signers.len() });
            for key in signers {
                keys[key.public_key().id().as_str()] = json!(key.public_key());
            }
        }
        self.document_mut("root")["keys"] = keys;
        self.document_mut("root")["roles"] = roles;
    }

    /// `from` asks the role `name` about `paths`; it must not have been delegated to before.
    fn delegate(&mut self, from: &str, name: &str, paths: &[&str], terminating: bool) {
        let key = new_key();
        let delegations = &mut self.document_mut(from)["delegations"];
        if delegations.is_null() {
            *delegations = json!({ "keys": {}, "roles": [] });
        }
        let id = key.public_key().id();
        delegations["keys"][id.as_str()] = json!(key.public_key());
        let role = json!({
            "name": name, "keyids": [id], "threshold": 1, "paths": paths, "terminating": terminating
        });
        delegations["roles"].as_array_mut().expect("roles are a list").push(role);
        self.signers.entry(name.into()).or_default().push(key);
        if !self.documents.contains_key(name) {
            let mut document = self.document("targets");
            document["targets"] = json!({});
            self.documents.insert(name.into(), document);
            self.serve(name);
        }
    }

    /// Serves a document as it is.
    fn serve(&mut self, name: &str) {
        let bytes = self.signed(name);
        let version = self.documents[name]["version"].as_u64().expect("versions are numbers");
        let mut meta = json!({ "version": version });
        if self.with_hashes {
            meta["length"] = json!(bytes.len());
            meta["hashes"] = json!({ "sha256": hex_of(&SHA256, &bytes) });
        }
        match name {
            "root" | "timestamp" => {}
            "snapshot" => self.document_mut("timestamp")["meta"]["snapshot.json"] = meta,
            _ => self.document_mut("snapshot")["meta"][format!("{name}.json")] = meta,
        }
        let file = role_name(name).file_name();
        self.files.insert(format!("{version}.{file}"), bytes.clone());
        self.files.insert(file, bytes);
    }

    fn signed(&self, name: &str) -> Vec<u8> {
        sign_document(&self.documents[name], &self.signers[name].iter().collect::<Vec<_>>())
    }

    /// Serves the next versions of documents, in this order.
    fn publish(&mut self, names: &[&str]) {
        for name in names {
            let version = self.documents[*name]["version"].as_u64().expect("versions are numbers");
            self.document_mut(name)["version"] = json!(version + 1);
            self.serve(name);
        }
    }

    fn fetch(&mut self, request: &Request) -> Answer {
        self.asked.push(request.file.clone());
        self.files.get(&request.file).map_or(Answer::NotFound, |file| Answer::Found(file.clone()))
    }

    fn refresh_within(
        &mut self,
        trusted: &mut TrustedMetadata,
        now: UnixMillis,
        limits: Limits,
    ) -> Result<Repository, Error> {
        let mut refresh = Refresh::start(trusted, now, limits)?;
        loop {
            let answer = self.fetch(&refresh.request());
            match refresh.answer(answer, trusted)? {
                Next::Fetch(state) => refresh = state,
                Next::Done(repository) => return Ok(repository),
            }
        }
    }

    fn refresh(&mut self, trusted: &mut TrustedMetadata) -> Result<Repository, Error> {
        self.refresh_within(trusted, NOW, Limits::default())
    }

    /// What the repository says about `path`, asked after a refresh.
    fn find(&mut self, trusted: &mut TrustedMetadata, path: &str) -> Result<bool, Error> {
        let repository = self.refresh(trusted)?;
        self.asked.clear();
        let mut next = repository.search(path, trusted)?;
        loop {
            match next {
                Next::Done(target) => return Ok(target.is_some()),
                Next::Fetch(search) => {
                    let answer = self.fetch(&search.request());
                    next = search.answer(answer, trusted)?;
                }
            }
        }
    }

    /// What a client is installed with.
    fn first_root(&self) -> TrustedMetadata {
        TrustedMetadata::new([(RoleName::root(), self.files["1.root.json"].clone())])
    }

    /// A client that is up to date.
    fn client(&mut self) -> TrustedMetadata {
        let mut trusted = self.first_root();
        self.refresh(&mut trusted).expect("the repository is sound");
        trusted.take_changes();
        self.asked.clear();
        trusted
    }
}

fn ids(signers: &[SigningKey]) -> Vec<KeyId> {
    signers.iter().map(|key| key.public_key().id()).collect()
}

fn version(trusted: &TrustedMetadata, role: &str) -> Option<u64> {
    let file = trusted.file(&role_name(role))?;
    let document: Value = serde_json::from_slice(file).expect("trusted metadata is JSON");
    document["signed"]["version"].as_u64()
}

/// The error, with that of the file it is about.
fn told(error: &Error) -> String {
    match error {
        Error::Refused { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

#[test]
fn a_repository_is_taken_over_file_by_file_and_then_by_its_timestamp() {
    let mut server = Server::new();
    let mut trusted = server.first_root();
    server.refresh(&mut trusted).expect("the repository is sound");
    assert_eq!(
        server.asked,
        ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    );
    let changes = ["timestamp", "snapshot", "targets"].map(role_name);
    assert_eq!(trusted.take_changes(), changes);
    for role in changes {
        assert_eq!(trusted.file(&role), Some(&server.files[&role.file_name()][..]));
    }
    server.asked.clear();
    server.refresh(&mut trusted).expect("nothing changed");
    assert_eq!(server.asked, ["2.root.json", "timestamp.json"]);
    assert_eq!(trusted.take_changes(), []);
}

#[test]
fn names_have_no_versions_where_snapshots_are_not_consistent() {
    let mut server = Server::new();
    server.document_mut("root")["consistent_snapshot"] = json!(false);
    server.serve("root");
    let mut trusted = server.first_root();
    let repository = server.refresh(&mut trusted).expect("the repository is sound");
    assert_eq!(server.asked, ["2.root.json", "timestamp.json", "snapshot.json", "targets.json"]);
    let Ok(Next::Done(Some(target))) = repository.search("a/b", &trusted) else {
        panic!("the target is in the metadata that is trusted")
    };
    let request = repository.target_request(&target).expect("the target has a hash");
    assert_eq!(request, Request { file: "a/b".into(), max_bytes: 7 });
}

#[test]
fn a_root_is_followed_by_one_that_both_vouch_for() {
    let mut server = Server::new();
    let old = server.signers.insert("root".into(), vec![new_key(), new_key()]).expect("a root key");
    server.name_keys();
    let next = |server: &Server, signers: &[&SigningKey], version: u64| {
        let mut document = server.documents["root"].clone();
        document["version"] = json!(version);
        sign_document(&document, signers)
    };
    let [first, second] = &server.signers["root"][..] else { unreachable!("two keys were made") };
    let cases = [
        (next(&server, &[&old[0]], 2), "0 valid signatures of the role root; 2 are needed"),
        (next(&server, &[&old[0], first], 2), "1 valid signatures of the role root; 2 are needed"),
        (next(&server, &[first, second], 2), "0 valid signatures of the role root; 1 are needed"),
        (next(&server, &[&old[0], first, second], 3), "has version 3, not 2"),
        (next(&server, &[&old[0], first, second], 1), "has version 1, not 2"),
    ];
    let good = next(&server, &[&old[0], first, second], 2);
    for (bytes, reason) in cases {
        server.files.insert("2.root.json".into(), bytes);
        let mut trusted = server.first_root();
        let error = server.refresh(&mut trusted).expect_err(reason);
        assert!(told(&error).contains(reason), "{reason}: {}", told(&error));
        assert_eq!(error.kind(), ErrorKind::Peer);
        assert_eq!((version(&trusted, "root"), trusted.take_changes()), (Some(1), vec![]));
    }
    server.files.insert("2.root.json".into(), good);
    let mut trusted = server.first_root();
    server.refresh(&mut trusted).expect("both roots vouch for it");
    assert_eq!(version(&trusted, "root"), Some(2));
}

#[test]
fn a_refresh_goes_as_many_roots_ahead_as_it_may_and_the_next_goes_on() {
    let mut server = Server::new();
    let mut trusted = server.first_root();
    server.publish(&["root"; 5]);
    let limits = Limits { root_rotations: 4, ..Limits::default() };
    server.refresh_within(&mut trusted, NOW, limits).expect("the repository is sound");
    assert_eq!(version(&trusted, "root"), Some(5));
    server.refresh_within(&mut trusted, NOW, limits).expect("the repository is sound");
    assert_eq!(version(&trusted, "root"), Some(6));
}

#[test]
fn a_role_that_nobody_can_sign_for_stops_only_what_needs_it() {
    let mut server = Server::new();
    server.document_mut("root")["roles"]["snapshot"]["threshold"] = json!(2);
    server.document_mut("root")["keys"]["future"] =
        json!({ "keytype": "ml-dsa", "scheme": "ml-dsa-65", "keyval": { "public": "00" } });
    server.publish(&["root"]);
    let mut trusted = server.first_root();
    let error = server.refresh(&mut trusted).expect_err("one snapshot key is missing");
    assert!(told(&error).contains("1 valid signatures of the role snapshot"), "{}", told(&error));
    assert_eq!(version(&trusted, "timestamp"), Some(1));
    assert_eq!(version(&trusted, "root"), Some(2));
}

#[test]
fn what_has_expired_is_refused_and_what_came_before_it_is_kept() {
    for (role, kept) in [
        ("root", [2, 1, 1, 1]),
        ("timestamp", [2, 1, 1, 1]),
        ("snapshot", [2, 2, 1, 1]),
        ("targets", [2, 2, 2, 1]),
    ] {
        let mut server = Server::new();
        let mut trusted = server.client();
        server.document_mut(role)["expires"] = json!(NOW);
        server.publish(&["targets", "snapshot", "timestamp", "root"]);
        let error = server.refresh(&mut trusted).expect_err(role);
        assert!(told(&error).contains(&format!("{role} metadata expired at")), "{}", told(&error));
        let roles = ["root", "timestamp", "snapshot", "targets"];
        assert_eq!(roles.map(|role| version(&trusted, role)), kept.map(Some), "{role}");
    }
}

#[test]
fn a_repository_that_stands_still_is_noticed_when_its_timestamp_expires() {
    let mut server = Server::new();
    server.document_mut("timestamp")["expires"] = json!(NOW.plus_seconds(60));
    server.serve("timestamp");
    let mut trusted = server.client();
    let at = |seconds| NOW.plus_seconds(seconds);
    let repository = server.refresh_within(&mut trusted, at(59), Limits::default());
    assert_eq!(repository.map(|repository| repository.fresh_until()), Ok(at(60)));
    let error = server.refresh_within(&mut trusted, at(60), Limits::default());
    let expired =
        |error: &Error| matches!(error, Error::Expired { document: DocumentKind::Timestamp, .. });
    assert!(error.as_ref().is_err_and(expired), "{error:?}");
}

#[test]
fn no_version_goes_back_and_no_role_is_lost() {
    type Change = fn(&mut Server);
    let cases: [(&str, Change, &str); 4] = [
        (
            "timestamp",
            |server| server.document_mut("timestamp")["version"] = json!(4),
            "timestamp.json of version 4 would replace version 5",
        ),
        (
            "snapshot in the timestamp",
            |server| {
                server.document_mut("timestamp")["meta"]["snapshot.json"]["version"] = json!(4);
                server.publish(&["timestamp"]);
            },
            "snapshot.json of version 4 would replace version 5",
        ),
        (
            "targets in the snapshot",
            |server| {
                server.document_mut("snapshot")["meta"]["targets.json"]["version"] = json!(4);
                server.publish(&["snapshot", "timestamp"]);
            },
            "targets.json of version 4 would replace version 5",
        ),
        (
            "a role of the snapshot",
            |server| {
                let snapshot = server.document_mut("snapshot");
                snapshot["meta"].as_object_mut().expect("an object").remove("team.json");
                server.publish(&["snapshot", "timestamp"]);
            },
            "no longer names team.json",
        ),
    ];
    for (what, change, reason) in cases {
        let mut server = Server::new();
        server.delegate("targets", "team", &["team/*"], false);
        for _ in 0..4 {
            server.publish(&["targets", "snapshot", "timestamp"]);
        }
        let mut trusted = server.client();
        change(&mut server);
        if what == "timestamp" {
            server.serve("timestamp");
        }
        let error = server.refresh(&mut trusted).expect_err(what);
        assert!(told(&error).contains(reason), "{what}: {}", told(&error));
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    type Change = fn(&mut Server);
    let cases: [(&str, Change); 8] = [
        ("has version 1, not 2", |server| {
            server.files.insert("2.snapshot.json".into(), server.files["1.snapshot.json"].clone());
        }),
        ("has version 1, not 2", |server| {
            server.files.insert("2.targets.json".into(), server.files["1.targets.json"].clone());
        }),
        ("does not have 2.snapshot.json", |server| drop(server.files.remove("2.snapshot.json"))),
        ("does not have 2.targets.json", |server| drop(server.files.remove("2.targets.json"))),
        ("does not have timestamp.json", |server| drop(server.files.remove("timestamp.json"))),
        ("the sha256 of the file", |server| {
            server.with_hashes = true;
            server.publish(&["targets", "snapshot"]);
            server.document_mut("timestamp")["meta"]["snapshot.json"]["hashes"]["sha256"] =
                json!("0".repeat(64));
            server.publish(&["timestamp"]);
        }),
        ("neither the SHA-256 nor the SHA-512", |server| {
            server.document_mut("snapshot")["meta"]["targets.json"]["hashes"] =
                json!({ "md5": "0" });
            server.publish(&["snapshot", "timestamp"]);
        }),
        ("metadata says 10", |server| {
            server.document_mut("snapshot")["meta"]["targets.json"]["length"] = json!(10);
            server.publish(&["snapshot", "timestamp"]);
        }),
    ];
    for (reason, change) in cases {
        let mut server = Server::new();
        let mut trusted = server.client();
        server.publish(&["targets", "snapshot", "timestamp"]);
        change(&mut server);
        let error = server.refresh(&mut trusted).expect_err(reason);
        assert!(told(&error).contains(reason), "{reason}: {}", told(&error));
        assert_eq!(error.kind(), ErrorKind::Peer);
    }
}

#[test]
fn hashes_and_lengths_that_fit_are_taken() {
    let mut server = Server::new();
    server.with_hashes = true;
    server.publish(&["targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    assert_eq!(version(&trusted, "targets"), Some(2));
    server.refresh(&mut trusted).expect("nothing changed");
    assert_eq!(server.asked, ["2.root.json", "timestamp.json"]);
}

#[test]
fn a_timestamp_of_the_same_version_changes_nothing() {
    let mut server = Server::new();
    let mut trusted = server.client();
    server.document_mut("timestamp")["meta"]["snapshot.json"]["version"] = json!(100);
    server.serve("timestamp");
    server.refresh(&mut trusted).expect("the old timestamp holds");
    assert_eq!(server.asked, ["2.root.json", "timestamp.json"]);
    assert_eq!(trusted.take_changes(), []);
}

#[test]
fn a_root_that_takes_a_key_away_lets_versions_begin_anew() {
    for role in ["timestamp", "snapshot"] {
        let mut server = Server::new();
        for name in ["timestamp", "snapshot", "targets"] {
            server.document_mut(name)["version"] = json!(100);
        }
        ["targets", "snapshot", "timestamp"].iter().for_each(|name| server.serve(name));
        let mut trusted = server.client();
        server.signers.insert(role.into(), vec![new_key()]);
        server.name_keys();
        server.publish(&["root"]);
        for name in ["targets", "snapshot", "timestamp"] {
            server.document_mut(name)["version"] = json!(2);
            server.serve(name);
        }
        server.refresh(&mut trusted).expect("the key was rotated");
        for name in ["timestamp", "snapshot", "targets"] {
            assert_eq!(version(&trusted, name), Some(2), "{role}: {name}");
        }
    }
}

#[test]
fn a_root_that_adds_a_key_does_not_let_versions_go_back() {
    let mut server = Server::new();
    server.publish(&["timestamp"]);
    let mut trusted = server.client();
    server.signers.get_mut("timestamp").expect("the role has signers").push(new_key());
    server.name_keys();
    server.document_mut("root")["roles"]["timestamp"]["threshold"] = json!(1);
    server.publish(&["root"]);
    server.document_mut("timestamp")["version"] = json!(1);
    server.serve("timestamp");
    let error = server.refresh(&mut trusted).expect_err("the version went back");
    assert!(told(&error).contains("version 1 would replace version 2"), "{}", told(&error));
}

#[test]
fn files_longer_than_their_limits_are_refused() {
    for (role, len_bytes) in [
        ("root", ROOT_BYTES_MAX),
        ("timestamp", TIMESTAMP_BYTES_MAX),
        ("snapshot", SNAPSHOT_BYTES_MAX),
        ("targets", TARGETS_BYTES_MAX),
    ] {
        let mut server = Server::new();
        let mut trusted = server.client();
        server.publish(&["targets", "snapshot", "timestamp", "root"]);
        let name =
            if role == "timestamp" { "timestamp.json".into() } else { format!("2.{role}.json") };
        server.files.get_mut(&name).expect("it is served").resize(len_bytes + 1, b' ');
        let error = server.refresh(&mut trusted).expect_err(role);
        assert!(told(&error).contains("more than the limit"), "{role}: {}", told(&error));
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_the_file_is_asked_for() {
    let mut server = Server::new();
    let mut trusted = server.client();
    server.publish(&["snapshot"]);
    server.document_mut("timestamp")["meta"]["snapshot.json"]["length"] = json!(u64::MAX);
    server.publish(&["timestamp"]);
    let error = server.refresh(&mut trusted).expect_err("too long");
    assert!(matches!(error, Error::TooLong { document: DocumentKind::Snapshot, .. }), "{error}");
    assert_eq!(server.asked.last().map(String::as_str), Some("timestamp.json"));
}

#[test]
fn stored_metadata_that_was_damaged_is_fetched_again_but_a_root_is_not() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut server = Server::new();
        let mut trusted = server.client();
        trusted.keep(role_name(role), b"{}".to_vec());
        server.refresh(&mut trusted).expect("the repository is sound");
        assert_eq!(version(&trusted, role), Some(1));
    }
    let mut server = Server::new();
    let mut trusted = server.client();
    trusted.keep(RoleName::root(), b"{}".to_vec());
    let error = server.refresh(&mut trusted).expect_err("there is nothing to begin with");
    assert_eq!(error.kind(), ErrorKind::Operator);
    let error = server.refresh(&mut TrustedMetadata::default()).expect_err("there is no root");
    assert_eq!(error, Error::NoRoot);
}

#[test]
fn roles_are_asked_depth_first_in_the_order_of_delegations() {
    let mut server = Server::new();
    server.delegate("targets", "a", &["*"], false);
    server.delegate("targets", "b", &["*"], false);
    server.delegate("targets", "other", &["*/*"], false);
    server.delegate("a", "c", &["*"], false);
    server.delegate("c", "a", &["*"], false);
    server.document_mut("b")["targets"] = json!({ "x": target(b"x") });
    server.publish(&["a", "b", "c", "other", "targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    assert_eq!(server.find(&mut trusted, "x"), Ok(true));
    assert_eq!(server.asked, ["2.a.json", "2.c.json", "2.b.json"]);
    assert_eq!(server.find(&mut trusted, "x"), Ok(true));
    assert!(server.asked.is_empty(), "what is stored is not asked for again");
    assert_eq!(server.find(&mut trusted, "y"), Ok(false));
}

#[test]
fn after_a_terminating_delegation_nobody_else_is_asked() {
    let mut server = Server::new();
    server.delegate("targets", "a", &["*"], true);
    server.delegate("targets", "b", &["*"], false);
    server.delegate("a", "c", &["*"], false);
    server.document_mut("b")["targets"] = json!({ "x": target(b"x") });
    server.publish(&["a", "b", "c", "targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    assert_eq!(server.find(&mut trusted, "x"), Ok(false));
    assert_eq!(server.asked, ["2.a.json", "2.c.json"]);
}

#[test]
fn a_role_is_verified_with_the_keys_of_the_way_that_leads_to_it() {
    let mut server = Server::new();
    server.delegate("targets", "a", &["a/*"], false);
    server.delegate("targets", "b", &["b/*"], false);
    server.delegate("a", "release", &["a/*"], false);
    server.delegate("b", "release", &["b/*"], false);
    server.signers.get_mut("release").expect("the role has signers").truncate(1);
    server.document_mut("release")["targets"] = json!({ "a/x": target(b"x"), "b/x": target(b"x") });
    server.publish(&["release", "a", "b", "targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    assert_eq!(server.find(&mut trusted, "a/x"), Ok(true));
    let error = server.find(&mut trusted, "b/x").expect_err("b's key did not sign it");
    assert!(told(&error).contains("0 valid signatures"), "{}", told(&error));
}

#[test]
fn a_search_ends_at_its_limits() {
    let mut server = Server::new();
    let limits = Limits::default();
    let mut from = String::from("targets");
    for depth in 0..=limits.delegation_depth {
        let name = format!("deep{depth}");
        server.delegate(&from, &name, &["deep"], false);
        from = name;
    }
    for number in 0..limits.roles_visited {
        server.delegate("targets", &format!("wide{number}"), &["wide"], false);
    }
    let names: Vec<String> = server.documents.keys().cloned().collect();
    let roles = names.iter().map(String::as_str);
    let mut order: Vec<_> = roles.filter(|name| name.starts_with(['d', 'w'])).collect();
    order.extend(["targets", "snapshot", "timestamp"]);
    server.publish(&order);
    let mut trusted = server.client();
    let error = server.find(&mut trusted, "deep").expect_err("too deep");
    assert!(matches!(error, Error::TooDeep { .. }), "{error}");
    let error = server.find(&mut trusted, "wide").expect_err("too many");
    assert_eq!(error, Error::TooManyRoles { max: limits.roles_visited });
}

#[test]
fn a_role_that_the_snapshot_does_not_name_is_not_asked() {
    let mut server = Server::new();
    server.delegate("targets", "a", &["*"], false);
    server.publish(&["targets"]);
    server.document_mut("snapshot")["meta"].as_object_mut().expect("an object").remove("a.json");
    server.publish(&["snapshot", "timestamp"]);
    let mut trusted = server.client();
    let error = server.find(&mut trusted, "x").expect_err("the role is not listed");
    assert_eq!(error, Error::RoleUnlisted { role: role_name("a") });
    assert!(server.asked.is_empty());
}

#[test]
fn delegated_metadata_that_a_snapshot_no_longer_names_is_forgotten() {
    let mut server = Server::new();
    server.delegate("targets", "a", &["*"], false);
    server.publish(&["a", "targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    assert_eq!(server.find(&mut trusted, "x"), Ok(false));
    assert_eq!(version(&trusted, "a"), Some(2));
    server.signers.insert("snapshot".into(), vec![new_key()]);
    server.name_keys();
    server.document_mut("snapshot")["meta"].as_object_mut().expect("an object").remove("a.json");
    server.publish(&["root", "snapshot", "timestamp"]);
    server.refresh(&mut trusted).expect("the key was rotated");
    assert_eq!(trusted.file(&role_name("a")), None);
    assert!(trusted.take_changes().contains(&role_name("a")));
}

#[test]
fn a_target_is_what_its_metadata_says() {
    let mut server = Server::new();
    server.document_mut("targets")["targets"] = json!({
        "both": { "length": 1, "hashes": { "sha256": hex_of(&SHA256, b"x"), "sha512": hex_of(&SHA512, b"x") } },
        "a folder/sha512": { "length": 1, "hashes": { "sha512": hex_of(&SHA512, b"x") } },
        "torn": { "length": 1, "hashes": { "sha256": hex_of(&SHA256, b"x"), "sha512": "00" } },
        "future": { "length": 1, "hashes": { "sha3-256": "00" } },
    });
    server.publish(&["targets", "snapshot", "timestamp"]);
    let mut trusted = server.client();
    let repository = server.refresh(&mut trusted).expect("the repository is sound");
    let find = |path| match repository.search(path, &trusted) {
        Ok(Next::Done(Some(target))) => target,
        other => panic!("{other:?}"),
    };
    let checked = |path, pieces: &[&[u8]]| {
        let mut check = find(path).check();
        pieces.iter().try_for_each(|piece| check.update(piece))?;
        check.finish()
    };
    assert_eq!(checked("both", &[b"", b"x", b""]), Ok(()));
    assert_eq!(checked("both", &[b"y"]), Err(Error::FileHash { algorithm: "sha256" }));
    let length = |len_bytes| Err(Error::FileLength { len_bytes, expected_bytes: 1 });
    assert_eq!(checked("both", &[]), length(0));
    assert_eq!(checked("both", &[b"x", b"x"]), length(2));
    assert_eq!(checked("a folder/sha512", &[b"x"]), Ok(()));
    assert_eq!(checked("torn", &[b"x"]), Err(Error::FileHash { algorithm: "sha512" }));
    assert_eq!(checked("future", &[b"x"]), Err(Error::NoKnownHash));
    let request = repository.target_request(&find("a folder/sha512")).expect("it has a hash");
    assert_eq!(request.file, format!("a%20folder/{}.sha512", hex_of(&SHA512, b"x")));
    assert_eq!(repository.target_request(&find("future")), Err(Error::NoKnownHash));
}

#[test]
fn the_name_of_a_role_is_safe_as_the_name_of_a_file() {
    for (name, file) in [
        ("team", "team.json"),
        ("../x", "..%2Fx.json"),
        ("?", "%3F.json"),
        ("é", "%C3%A9.json"),
        ("a%2F", "a%252F.json"),
    ] {
        assert_eq!(role_name(name).file_name(), file);
        assert_eq!(RoleName::from_file_name(file), Some(role_name(name)));
    }
    for file in ["x", ".json", "a/b.json", "%3f.json", "%41.json", "%.json", "%FF.json"] {
        assert_eq!(RoleName::from_file_name(file), None, "{file}");
    }
}

#[test]
fn keys_of_every_kind_of_python_tuf_sign_a_root() {
    let trusted = |bytes: &[u8]| TrustedMetadata::new([(RoleName::root(), bytes.to_vec())]);
    let start = |bytes: &[u8]| Refresh::start(&trusted(bytes), NOW, Limits::default());
    start(PYTHON_ROOT_OF_ALL_KEY_KINDS).expect("four of four keys signed it");
    let document: Value =
        serde_json::from_slice(PYTHON_ROOT_OF_ALL_KEY_KINDS).expect("documents are JSON");
    assert_eq!(document["signatures"].as_array().map(Vec::len), Some(4));
    for signature in 0..4 {
        let mut document = document.clone();
        let sig = document["signatures"][signature]["sig"].as_str().expect("a string");
        let last = if sig.ends_with('0') { '1' } else { '0' };
        let forged = format!("{}{last}", &sig[..sig.len() - 1]);
        document["signatures"][signature]["sig"] = json!(forged);
        let error = start(document.to_string().as_bytes()).expect_err("one is forged");
        assert!(error.to_string().contains("3 valid signatures"), "{error}");
    }
    for (id, key) in document["signed"]["keys"].as_object().expect("an object") {
        let read: PublicKey = serde_json::from_value(key.clone()).expect("the key is known");
        // One of the keys is a point in hexadecimal digits, which is not how we write it.
        if key["keyval"]["public"].as_str().is_some_and(|text| text.len() != 130) {
            assert_eq!(read.id().as_str(), id);
        }
    }
}

#[test]
fn a_repository_of_python_tuf_is_believed_with_members_nobody_knows() {
    let mut trusted = TrustedMetadata::new([(RoleName::root(), PYTHON_ROOT.to_vec())]);
    let mut refresh = Refresh::start(&trusted, NOW, Limits::default()).expect("it is signed");
    let repository = loop {
        let answer = match refresh.request().file.as_str() {
            "timestamp.json" => Answer::Found(PYTHON_TIMESTAMP.to_vec()),
            "4.snapshot.json" => Answer::Found(PYTHON_SNAPSHOT.to_vec()),
            "3.targets.json" => Answer::Found(PYTHON_TARGETS.to_vec()),
            _ => Answer::NotFound,
        };
        match refresh.answer(answer, &mut trusted).expect("python-tuf signed it") {
            Next::Fetch(state) => refresh = state,
            Next::Done(repository) => break repository,
        }
    };
    let Ok(Next::Done(Some(file))) = repository.search("shuttle/1.0.0", &trusted) else {
        panic!("the target is in the metadata that is trusted")
    };
    assert!(file.custom["note"].as_str().is_some_and(|note| note.contains('\u{1F600}')));
    let target = BundleTarget::read(&file).expect("the target is a bundle");
    assert_eq!(target.bundle(), Digest([0xab; 32]));
    assert_eq!(target.chunk_index, Blob { digest: Digest([0xcd; 32]), len_bytes: 77 });
    assert_eq!((target.patches[0].source, target.signature), (Digest([0xef; 32]), None));
    assert!(target.allows_hardware("aarch64") && !target.allows_hardware("x86_64"));
}

/// A new value in the place of the one at `pick`, counted through all of `document`.
fn with_value_replaced(document: &mut Value, pick: &mut usize, new: &Value) {
    if *pick == 0 {
        *document = new.clone();
    }
    *pick = pick.wrapping_sub(1);
    match document {
        Value::Array(items) => items.iter_mut().for_each(|v| with_value_replaced(v, pick, new)),
        Value::Object(items) => items.values_mut().for_each(|v| with_value_replaced(v, pick, new)),
        _ => {}
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}, "x"])),
        any::<u64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        "[a-z0-9/*.:TZ-]{0,40}".prop_map(|text| json!(text)),
    ]
}

const FILES: [&str; 5] =
    ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.team.json"];

fn served_with_delegation() -> Server {
    let mut server = Server::new();
    server.delegate("targets", "team", &["team/*"], false);
    server.document_mut("team")["targets"] = json!({ "team/x": target(b"x") });
    server.publish(&["team", "targets", "snapshot", "timestamp", "root"]);
    server
}

proptest! {
    #[test]
    fn a_byte_changed_on_the_way_never_changes_what_is_believed(
        file in prop::sample::select(&FILES[..]),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut server = served_with_delegation();
        let mut believed = server.first_root();
        server.find(&mut believed, "team/x").expect("the repository is sound");
        let repository = server.refresh(&mut believed).expect("the repository is sound");

        let mut trusted = server.first_root();
        let bytes = server.files.get_mut(file).expect("it is served");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(true) = server.find(&mut trusted, "team/x") {
            // What changed was outside of what is signed.
            prop_assert_eq!(server.refresh(&mut trusted).expect("it was just found"), repository);
        }
    }

    #[test]
    fn a_signed_document_with_any_value_replaced_never_panics(
        role in prop::sample::select(&["root", "timestamp", "snapshot", "targets", "team"][..]),
        pick in any::<prop::sample::Index>(),
        value in any_value(),
    ) {
        let mut server = served_with_delegation();
        let mut trusted = server.first_root();
        with_value_replaced(server.document_mut(role), &mut pick.index(40), &value);
        let file = FILES.iter().find(|file| file.contains(role)).expect("each role has a file");
        server.files.insert(file.to_string(), server.signed(role));
        let _ = server.find(&mut trusted, "team/x");
    }

    #[test]
    fn files_of_a_stranger_never_panic_and_are_never_believed(
        file in prop::sample::select(&FILES[..]),
        bytes in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut server = served_with_delegation();
        let mut trusted = server.first_root();
        server.files.insert(file.into(), bytes);
        prop_assert!(server.find(&mut trusted, "team/x").is_err());
    }
}
