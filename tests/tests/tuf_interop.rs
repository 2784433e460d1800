//! TUF repositories and clients against python-tuf, the reference implementation: its client follows a
//! repository of ours, ours follows one of its, and both come to the same at every stage.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use selvedge_bundle::digest_of;
use selvedge_tests::{
    binary::{repository, selvedge},
    interop::{outcome, python, run},
    keys::{FAR_FUTURE, new_key},
};
use selvedge_trust::{
    Accepted, Authority, Blob, BundleTarget, Delegation, Expiry, Proposal, RepositoryState, Role,
    RoleName, Root, RootDraft, RootEdit, SigningKey, TargetsDraft, TargetsEdit, UnixMillis,
};
use tempfile::TempDir;

/// Per target path the SHA-256 of what a client finds there; nothing at all if it must not believe the
/// repository.
type Expected = Option<BTreeMap<String, Option<String>>>;

#[test]
fn both_clients_follow_a_repository_made_by_python_tuf() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let script = repository().join("tests/interop/tuf_repository.py");
    run(&python, [script.as_path(), folder.path()]);
    let expected = fs::read(folder.path().join("expected.json")).expect("the script writes it");
    let stages: Vec<Expected> = serde_json::from_slice(&expected).expect("the script writes JSON");
    assert!(stages.iter().any(Option::is_none) && stages.len() > 5, "{stages:?}");
    follow(&python, folder.path(), &stages);
}

#[test]
fn both_clients_follow_a_repository_made_by_selvedge() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut ours = Ours::new(folder.path());

    ours.take(&[], &[("targets", &[add("shuttle", "1.0.0")])]);
    ours.write_stage(Some((&["shuttle/1.0.0"], &["shuttle/1.1.0"])));

    // A team with a threshold of two.
    let delegation = ours.delegate("team", &["meter/*"]);
    ours.take(&[], &[("targets", &[delegation])]);
    ours.take(&[], &[("team", &[add("meter", "1.0.0")])]);
    ours.write_stage(Some((&["shuttle/1.0.0", "meter/1.0.0"], &["meter/2.0.0"])));

    // Every key of the root's and the online one are replaced, over two roots.
    let roots = ours.rotate();
    ours.take(&roots, &[]);
    ours.take(&[], &[("targets", &[add("shuttle", "1.1.0")])]);
    ours.write_stage(Some((&["shuttle/1.0.0", "shuttle/1.1.0", "meter/1.0.0"], &[])));
    let before = ours.state.clone();

    ours.take(&[], &[("targets", &[TargetsEdit::Revoke("shuttle/1.0.0".into())])]);
    ours.take(&[], &[("team", &[add("meter", "2.0.0")])]);
    let found = ["shuttle/1.1.0", "meter/1.0.0", "meter/2.0.0"];
    ours.write_stage(Some((&found, &["shuttle/1.0.0"])));

    // The repository goes back to what it was.
    ours.state = before;
    ours.write_stage(None);

    let stages = std::mem::take(&mut ours.expected);
    follow(&python, folder.path(), &stages);
}

/// Lets both clients go from stage to stage.
fn follow(python: &Path, folder: &Path, stages: &[Expected]) {
    let server = Server::start(python, folder);
    let root = folder.join("1/metadata/1.root.json");
    let theirs = PythonTuf { python, root: &root, desk: new_desk() };
    let ours = SelvedgeTuf::new(&root);
    for (stage, expected) in (1..).zip(stages) {
        let url = format!("{}/{stage}", server.url);
        assert_eq!(theirs.find(&url, expected), *expected, "python-tuf at stage {stage}");
        assert_eq!(ours.find(&url, expected), *expected, "selvedge tuf at stage {stage}");
    }
}

fn new_desk() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// The paths to ask for: at least one, also where nothing must be believed.
fn paths(expected: &Expected) -> Vec<&str> {
    let listed = expected.iter().flatten().map(|(path, _)| path.as_str());
    listed.chain(["meter/1.0.0"]).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

struct PythonTuf<'a> {
    python: &'a Path,
    root: &'a Path,
    desk: TempDir,
}

impl PythonTuf<'_> {
    fn find(&self, url: &str, expected: &Expected) -> Expected {
        let (succeeded, said) = outcome(
            Command::new(self.python)
                .arg(repository().join("tests/interop/tuf_client.py"))
                .arg("--desk")
                .arg(self.desk.path())
                .arg("--root")
                .arg(self.root)
                .args(["--url", url])
                .args(paths(expected)),
        );
        if !succeeded {
            assert!(said.starts_with("refused: "), "{said}");
            return None;
        }
        let mut found: BTreeMap<String, Option<String>> =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        // Asked for, but not expected to be anything.
        if let Some(expected) = expected {
            found.retain(|path, _| expected.contains_key(path));
        }
        Some(found)
    }
}

struct SelvedgeTuf {
    desk: TempDir,
}

impl SelvedgeTuf {
    fn new(root: &Path) -> Self {
        let client = Self { desk: new_desk() };
        let (succeeded, said) = outcome(client.command().arg("init").arg(root));
        assert!(succeeded, "{said}");
        client
    }

    fn command(&self) -> Command {
        let mut command = Command::new(selvedge());
        command.arg("tuf").arg("--metadata-dir").arg(self.desk.path().join("metadata"));
        command
    }

    fn find(&self, url: &str, expected: &Expected) -> Expected {
        let mut found = BTreeMap::new();
        for path in paths(expected) {
            let targets = self.desk.path().join("targets");
            // What an earlier stage left is not what this one finds.
            let _ = fs::remove_dir_all(&targets);
            let (succeeded, said) = outcome(
                self.command()
                    .args(["--metadata-url", &format!("{url}/metadata")])
                    .args(["--target-name", path])
                    .args(["--target-base-url", &format!("{url}/targets")])
                    .arg("--target-dir")
                    .arg(&targets)
                    .arg("download"),
            );
            let digest = match succeeded {
                true => Some(only_file_digest(&targets)),
                false if said.contains("the repository has no target") => None,
                false => return None,
            };
            if expected.as_ref().is_none_or(|expected| expected.contains_key(path)) {
                found.insert(path.to_owned(), digest);
            }
        }
        Some(found)
    }
}

fn only_file_digest(folder: &Path) -> String {
    let files: Vec<_> = fs::read_dir(folder).expect("it was just made").collect();
    let [Ok(file)] = files.as_slice() else { panic!("one file, not {files:?}") };
    digest_of(&fs::read(file.path()).expect("it can be read")).hex().to_string()
}

/// Serves a folder over HTTP.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(python: &Path, folder: &Path) -> Self {
        let mut process = Command::new(python)
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python can be started");
        let output = process.stdout.take().expect("it is piped");
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said).expect("it says where it serves");
        // Serving HTTP on 127.0.0.1 port 12345 (http://127.0.0.1:12345/) ...
        let port = said.split(' ').skip_while(|word| *word != "port").nth(1);
        let port: u16 = port.and_then(|port| port.parse().ok()).expect("it names its port");
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it is gone, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A repository of ours, whose every stage is written as files.
struct Ours {
    folder: PathBuf,
    state: RepositoryState,
    /// Two of three must sign.
    root: Vec<SigningKey>,
    targets: SigningKey,
    team: [SigningKey; 2],
    online: SigningKey,
    expected: Vec<Expected>,
}

impl Ours {
    fn new(folder: &Path) -> Self {
        let root: Vec<SigningKey> = (0..3).map(|_| new_key()).collect();
        let (targets, online) = (new_key(), new_key());
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let keys = root.iter().map(|key| key.public_key().clone()).collect();
        let document = Root::new(
            1,
            FAR_FUTURE,
            &Authority { keys, threshold: 2 },
            &one(&targets),
            &one(&online),
        );
        let document = document.sign(&[&root[0], &root[1]]);
        let state = RepositoryState::begin(&document).expect("the root is whole");
        let team = [new_key(), new_key()];
        let expected = Vec::new();
        let mut ours = Self { folder: folder.into(), state, root, targets, team, online, expected };
        let mut empty = TargetsDraft::empty(FAR_FUTURE);
        empty.sign(&ours.targets);
        ours.accept("targets", &empty);
        ours
    }

    /// Takes the next roots, then the next version of each role with edits.
    fn take(&mut self, roots: &[RootDraft], edits: &[(&str, &[TargetsEdit])]) {
        if !roots.is_empty() {
            let roots = roots.iter().map(|root| text(root.to_bytes())).collect();
            self.propose(&Proposal { roots, targets: BTreeMap::new() });
        }
        for (role, edits) in edits {
            let name: RoleName = role.parse().expect("the name is well formed");
            let mut draft = match self.state.document(&name) {
                Some(held) => TargetsDraft::after(held, edits).expect("the edits fit"),
                None => {
                    let mut first = TargetsDraft::empty(FAR_FUTURE);
                    first.edit(edits).expect("the edits fit");
                    first
                }
            };
            match *role {
                "targets" => draft.sign(&self.targets),
                _ => self.team.iter().for_each(|key| draft.sign(key)),
            }
            self.accept(role, &draft);
        }
    }

    fn accept(&mut self, role: &str, draft: &TargetsDraft) {
        let targets = [(role.to_owned(), text(draft.to_bytes()))].into();
        self.propose(&Proposal { roots: Vec::new(), targets });
    }

    fn propose(&mut self, proposal: &Proposal) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
        let now = UnixMillis(u64::try_from(now.as_millis()).expect("it is before the year 5000"));
        let accepted: Accepted = self
            .state
            .propose(proposal, &[&self.online], now, &Expiry::default())
            .expect("the proposal is sound");
        self.state = self.state.apply(&accepted).expect("what was accepted applies");
    }

    fn delegate(&self, role: &str, paths: &[&str]) -> TargetsEdit {
        TargetsEdit::Delegate(Delegation {
            role: role.parse().expect("the name is well formed"),
            keys: self.team.iter().map(|key| key.public_key().clone()).collect(),
            threshold: 2,
            paths: paths.iter().map(|path| path.to_string()).collect(),
            terminating: true,
        })
    }

    /// A root with other root keys, and one after it with another online key.
    fn rotate(&mut self) -> [RootDraft; 2] {
        let held = self.state.document(&RoleName::root()).expect("there is a root");
        let former = std::mem::replace(&mut self.root, vec![new_key(), new_key(), new_key()]);
        let revoked = former.iter().map(|key| RootEdit::Revoke(Role::Root, key.public_key().id()));
        let added = self.root.iter().map(|key| RootEdit::Add(Role::Root, key.public_key().clone()));
        let mut first = RootDraft::after(held, &added.chain(revoked).collect::<Vec<_>>())
            .expect("the edits fit");
        former[1..].iter().chain(&self.root[1..]).for_each(|key| first.sign(key));

        let online = std::mem::replace(&mut self.online, new_key());
        let edits = [
            RootEdit::Add(Role::Timestamp, self.online.public_key().clone()),
            RootEdit::Revoke(Role::Timestamp, online.public_key().id()),
        ];
        let mut second = RootDraft::after(&first.to_bytes(), &edits).expect("the edits fit");
        self.root[..2].iter().for_each(|key| second.sign(key));
        [first, second]
    }

    /// Writes what is served. A client finds the first paths and not the second; or believes nothing.
    fn write_stage(&mut self, expected: Option<(&[&str], &[&str])>) {
        let folder = self.folder.join((self.expected.len() + 1).to_string());
        let (metadata, targets) = (folder.join("metadata"), folder.join("targets"));
        for (name, bytes) in self.state.files() {
            write(&metadata.join(name), bytes);
        }
        for (name, version) in
            [("shuttle", "1.0.0"), ("shuttle", "1.1.0"), ("meter", "1.0.0"), ("meter", "2.0.0")]
        {
            let content = content(name, version);
            let digest = digest_of(&content);
            write(&targets.join(name).join(format!("{}.{version}", digest.hex())), &content);
        }
        self.expected.push(expected.map(|(found, lost)| {
            let digest = |path: &str| {
                let (name, version) = path.split_once('/').expect("a path is name and version");
                digest_of(&content(name, version)).hex().to_string()
            };
            let found = found.iter().map(|path| (path.to_string(), Some(digest(path))));
            found.chain(lost.iter().map(|path| (path.to_string(), None))).collect()
        }));
    }
}

/// What stands for a bundle's OCI manifest.
fn content(name: &str, version: &str) -> Vec<u8> {
    format!("the manifest of {name} {version}").into_bytes()
}

fn add(name: &str, version: &str) -> TargetsEdit {
    let content = content(name, version);
    let manifest = Blob { digest: digest_of(&content), len_bytes: content.len() as u64 };
    TargetsEdit::Add(BundleTarget {
        name: name.into(),
        version: version.into(),
        manifest,
        chunk_index: manifest,
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    })
}

fn text(document: Vec<u8>) -> String {
    String::from_utf8(document).expect("documents are JSON")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("it can be made");
    fs::write(path, bytes).expect("it can be written");
}
