//! Histories of repositories, made with the repository's side of `trust`, and ways to break their last stage.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_trust::{
    Authority, Blob, BundleTarget, Delegation, Expiry, Proposal, RepositoryState, Role, RoleName,
    Root, RootDraft, RootEdit, SigningKey, SystemRandom, TargetsDraft, TargetsEdit, UnixMillis,
    sign_document,
};
use selvedge_wire::Digest;
use serde_json::{Value, json};

use crate::clients::Verdict;

/// What is served, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

const YEAR_SECONDS: u64 = 365 * 24 * 60 * 60;
const STAGES_MAX: usize = 6;
/// The team's role, and the beginning of the paths that it speaks of.
const TEAM: &str = "team";
const TEAM_PATHS: &str = "meter/";

/// Numbers that follow from a seed (splitmix64, Steele et al. 2014).
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

/// How a stage is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// A role's metadata has expired.
    Expired(&'static str),
    /// A role is signed by one key less than its threshold.
    BelowThreshold(&'static str),
    /// A role is signed by a stranger's key, which is called like the right one.
    WrongSignature(&'static str),
    /// A byte of a role's metadata was changed after it was signed.
    Changed(&'static str),
    /// A role's metadata is cut short.
    Cut(&'static str),
    /// A role's metadata is gone.
    Gone(&'static str),
    /// A role's metadata is that of an earlier stage, under the new name.
    Mixed(&'static str),
    /// The whole repository is that of an earlier stage, or the one that the client has seen.
    RolledBack,
    /// The snapshot no longer names the targets metadata.
    TargetsUnnamed,
    /// The snapshot no longer names the team's metadata.
    TeamUnnamed,
    /// The snapshot names targets metadata of a lower version.
    TargetsLowered,
    /// The timestamp is that of an earlier stage, or the one that the client has seen; everything newer is
    /// there too.
    OldTimestamp,
    /// The next root is signed by its own keys alone.
    RootByNewKeys,
    /// The next root is signed by the former keys alone.
    RootByOldKeys,
    /// The next root has another version than its name says.
    RootSkipped,
}

impl Fault {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::None,
        Self::Expired("timestamp"),
        Self::Expired("snapshot"),
        Self::Expired("targets"),
        Self::Expired(TEAM),
        Self::Expired("root"),
        Self::BelowThreshold("targets"),
        Self::BelowThreshold(TEAM),
        Self::WrongSignature("timestamp"),
        Self::WrongSignature("snapshot"),
        Self::WrongSignature("targets"),
        Self::WrongSignature(TEAM),
        Self::Changed("timestamp"),
        Self::Changed("snapshot"),
        Self::Changed("targets"),
        Self::Changed(TEAM),
        Self::Cut("timestamp"),
        Self::Cut("snapshot"),
        Self::Cut("targets"),
        Self::Gone("timestamp"),
        Self::Gone("snapshot"),
        Self::Gone("targets"),
        Self::Gone(TEAM),
        Self::Mixed("snapshot"),
        Self::Mixed("targets"),
        Self::Mixed(TEAM),
        Self::RolledBack,
        Self::TargetsUnnamed,
        Self::TeamUnnamed,
        Self::TargetsLowered,
        Self::OldTimestamp,
        Self::RootByNewKeys,
        Self::RootByOldKeys,
        Self::RootSkipped,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Expired("timestamp") => "expired timestamp",
            Self::Expired("snapshot") => "expired snapshot",
            Self::Expired("targets") => "expired targets",
            Self::Expired("root") => "expired root",
            Self::Expired(_) => "expired delegated role",
            Self::BelowThreshold("targets") => "targets below their threshold",
            Self::BelowThreshold(_) => "delegated role below its threshold",
            Self::WrongSignature("timestamp") => "timestamp by a stranger",
            Self::WrongSignature("snapshot") => "snapshot by a stranger",
            Self::WrongSignature("targets") => "targets by a stranger",
            Self::WrongSignature(_) => "delegated role by a stranger",
            Self::Changed("timestamp") => "timestamp changed after it was signed",
            Self::Changed("snapshot") => "snapshot changed after it was signed",
            Self::Changed("targets") => "targets changed after they were signed",
            Self::Changed(_) => "delegated role changed after it was signed",
            Self::Cut("timestamp") => "timestamp cut short",
            Self::Cut("snapshot") => "snapshot cut short",
            Self::Cut(_) => "targets cut short",
            Self::Gone("timestamp") => "timestamp gone",
            Self::Gone("snapshot") => "snapshot gone",
            Self::Gone("targets") => "targets gone",
            Self::Gone(_) => "delegated role gone",
            Self::Mixed("snapshot") => "an earlier snapshot under the new name",
            Self::Mixed("targets") => "earlier targets under the new name",
            Self::Mixed(_) => "an earlier delegated role under the new name",
            Self::RolledBack => "everything as it was earlier",
            Self::TargetsUnnamed => "snapshot without the targets",
            Self::TeamUnnamed => "snapshot without the delegated role",
            Self::TargetsLowered => "snapshot with a lower version of targets",
            Self::OldTimestamp => "an earlier timestamp",
            Self::RootByNewKeys => "next root by its own keys alone",
            Self::RootByOldKeys => "next root by the former keys alone",
            Self::RootSkipped => "next root with another version",
        }
    }

    /// Whether the clients agree about a path, but for the known differences.
    pub fn agree(self, path: &str, ours: &Verdict, theirs: &Verdict) -> bool {
        let same = match (ours, theirs) {
            (Verdict::Refused(_), Verdict::Refused(_)) => true,
            _ => ours == theirs,
        };
        same || match self {
            // The snapshot lacks the role: ours refuses what it would be asked about.
            Self::TeamUnnamed if path.starts_with(TEAM_PATHS) => {
                matches!((ours, theirs), (Verdict::Refused(_), Verdict::NotFound))
            }
            // Ours knows under which root the timestamp was signed.
            Self::OldTimestamp | Self::RolledBack => {
                matches!(ours, Verdict::Refused(reason) if reason.contains("root.json of version"))
            }
            // The role is broken: tough refuses everything, ours what the role would be asked about.
            fault if fault.is_of_team() => {
                matches!(theirs, Verdict::Refused(_)) && !path.starts_with(TEAM_PATHS)
            }
            _ => false,
        }
    }

    fn is_of_team(self) -> bool {
        matches!(
            self,
            Self::Expired(TEAM)
                | Self::BelowThreshold(TEAM)
                | Self::WrongSignature(TEAM)
                | Self::Changed(TEAM)
                | Self::Gone(TEAM)
                | Self::Mixed(TEAM)
        )
    }
}

/// A repository from its beginning, stage by stage.
pub struct History {
    now: UnixMillis,
    state: RepositoryState,
    /// Whose keys sign, by role; the online roles are `timestamp`.
    keys: BTreeMap<&'static str, Vec<SigningKey>>,
    paths: BTreeSet<String>,
    /// What was served, one after the other.
    pub stages: Vec<Files>,
}

impl History {
    /// A history of at least two stages, with a team that was delegated to.
    pub fn new(random: &mut Random, now: UnixMillis) -> Self {
        let keys = [("root", 2), ("targets", 2), ("timestamp", 1), (TEAM, 2)];
        let keys: BTreeMap<_, Vec<_>> =
            keys.map(|(role, count)| (role, (0..count).map(|_| new_key()).collect())).into();
        let authority = |role: &str| all_of(&keys[role]);
        let root = Root::new(
            1,
            now.plus_seconds(10 * YEAR_SECONDS),
            &authority("root"),
            &authority("targets"),
            &authority("timestamp"),
        );
        let root = root.sign(&keys["root"].iter().collect::<Vec<_>>());
        let state = RepositoryState::begin(&root).expect("the root is whole");
        let paths = ["shuttle/0.0.0", "meter/0.0.0"].map(str::to_owned).into();
        let mut history = Self { now, state, keys, paths, stages: Vec::new() };
        let delegation = history.delegation(random.below(2) > 0);
        let first = history.add("shuttle", random);
        history.publish("targets", &[first, delegation]);
        let first = history.add("meter", random);
        history.publish(TEAM, &[first]);
        history.keep_stage();
        for _ in 1..2 + random.below(STAGES_MAX - 1) {
            history.step(random);
            history.keep_stage();
        }
        history
    }

    /// The root that clients begin with.
    pub fn first_root(&self) -> &[u8] {
        &self.stages[0]["1.root.json"]
    }

    /// All paths that were ever spoken of, and some that were not.
    pub fn paths(&self) -> Vec<String> {
        self.paths.iter().cloned().collect()
    }

    /// A broken stage after the last, for clients that have seen the stage number `seen`, or none.
    pub fn broken_stage(&mut self, random: &mut Random, seen: Option<usize>) -> (Fault, Files) {
        let fault = Fault::ALL[random.below(Fault::ALL.len())];
        let rotates =
            matches!(fault, Fault::RootByNewKeys | Fault::RootByOldKeys | Fault::RootSkipped);
        // What is broken must be new to the clients, or they would not look at it.
        let edit = self.add("meter", random);
        self.publish(TEAM, &[edit]);
        let edit = self.add("shuttle", random);
        self.publish("targets", &[edit]);
        let former = rotates.then(|| self.rotate("root"));
        self.keep_stage();
        // Not after what the clients have seen; for some faults it is the same.
        let earlier = random.below(seen.unwrap_or(self.stages.len() - 2) + 1);
        let earlier = self.stages[earlier].clone();
        let mut files = self.stages.last().expect("it was just kept").clone();
        self.apply(fault, &mut files, &earlier, former.unwrap_or_default(), random);
        (fault, files)
    }

    /// What follows a broken stage: the repository is sound, and every file that changes is newer.
    pub fn repaired_stage(&mut self, random: &mut Random) -> Files {
        for (role, name) in [(TEAM, "meter"), ("targets", "shuttle")] {
            let edit = self.add(name, random);
            self.publish(role, &[edit]);
        }
        self.keep_stage();
        self.stages.last().expect("it was just kept").clone()
    }

    fn apply(
        &self,
        fault: Fault,
        files: &mut Files,
        earlier: &Files,
        former: Vec<SigningKey>,
        random: &mut Random,
    ) {
        let name = |role: &str| self.file_name(role);
        let changed = |role: &str, change: &dyn Fn(&mut Value)| {
            let mut document = signed_part(&files[&name(role)]);
            change(&mut document);
            document
        };
        let expired = json!("2020-01-01T00:00:00Z");
        match fault {
            Fault::None => {}
            Fault::Expired("root") => {
                let mut document = signed_part(&files[&name("root")]);
                document["expires"] = expired;
                document["version"] = json!(self.version("root") + 1);
                let file = format!("{}.root.json", self.version("root") + 1);
                files.insert(file, sign_document(&document, &self.signers("root")));
            }
            Fault::Expired(role) => {
                let document = changed(role, &|document| document["expires"] = expired.clone());
                self.replace(files, role, &document, &self.signers(role));
            }
            Fault::BelowThreshold(role) => {
                let document = changed(role, &|_| {});
                // Twice the same signature is not two.
                let one = self.signers(role)[0];
                self.replace(files, role, &document, &[one]);
            }
            Fault::WrongSignature(role) => {
                let document = changed(role, &|_| {});
                let stranger = new_key();
                let genuine = sign_document(&document, &self.signers(role));
                let mut envelope: Value = serde_json::from_slice(&genuine).expect("just written");
                let forged = sign_document(&document, &[&stranger]);
                let forged: Value = serde_json::from_slice(&forged).expect("just written");
                for signature in
                    envelope["signatures"].as_array_mut().expect("signatures are a list")
                {
                    signature["sig"] = forged["signatures"][0]["sig"].clone();
                }
                self.replace_bytes(files, role, envelope.to_string().into_bytes());
            }
            Fault::Changed(role) => {
                let mut envelope: Value =
                    serde_json::from_slice(&files[&name(role)]).expect("it is one of ours");
                envelope["signed"]["expires"] = json!("2097-01-01T00:00:00Z");
                self.replace_bytes(files, role, envelope.to_string().into_bytes());
            }
            Fault::Cut(role) => {
                let bytes = files.get_mut(&name(role)).expect("it is served");
                bytes.truncate(1 + random.below(bytes.len() - 1));
            }
            Fault::Gone(role) => {
                files.remove(&name(role)).expect("it was served");
            }
            Fault::Mixed(role) => {
                let old = earlier.iter().find(|(file, _)| is_of(file, role));
                let old = old.expect("every stage has every role").1.clone();
                files.insert(name(role), old);
            }
            Fault::RolledBack => *files = earlier.clone(),
            Fault::OldTimestamp => {
                let mut older = earlier.clone();
                std::mem::swap(files, &mut older);
                older.remove("timestamp.json");
                files.extend(older);
            }
            Fault::TargetsUnnamed | Fault::TeamUnnamed => {
                let role = if fault == Fault::TeamUnnamed { TEAM } else { "targets" };
                let file = format!("{role}.json");
                let unnamed = |document: &mut Value| {
                    document["meta"].as_object_mut().expect("files by name").remove(&file);
                };
                let document = changed("snapshot", &unnamed);
                self.replace(files, "snapshot", &document, &self.signers("timestamp"));
            }
            Fault::TargetsLowered => {
                let document = changed("snapshot", &|document| {
                    document["meta"]["targets.json"] = json!({ "version": 1 });
                });
                self.replace(files, "snapshot", &document, &self.signers("timestamp"));
                let oldest = self.stages[0].iter().find(|(file, _)| is_of(file, "targets"));
                files.insert("1.targets.json".into(), oldest.expect("there are targets").1.clone());
            }
            Fault::RootByNewKeys | Fault::RootByOldKeys | Fault::RootSkipped => {
                let mut document = changed("root", &|_| {});
                let (old, new): (Vec<&SigningKey>, _) =
                    (former.iter().collect(), self.signers("root"));
                let signers = match fault {
                    Fault::RootByNewKeys => new,
                    Fault::RootByOldKeys => old,
                    _ => {
                        document["version"] = json!(self.version("root") + 1);
                        [old, new].concat()
                    }
                };
                files.insert(name("root"), sign_document(&document, &signers));
            }
        }
    }

    /// Serves another document of a role, and whatever names it, all signed as it must be.
    fn replace(&self, files: &mut Files, role: &str, document: &Value, signers: &[&SigningKey]) {
        self.replace_bytes(files, role, sign_document(document, signers));
    }

    fn replace_bytes(&self, files: &mut Files, role: &str, bytes: Vec<u8>) {
        let file = self.file_name(role);
        let naming = match role {
            "timestamp" => None,
            "snapshot" => Some("timestamp"),
            _ => Some("snapshot"),
        };
        files.insert(file, bytes);
        let Some(naming) = naming else { return };
        let mut document = signed_part(&files[&self.file_name(naming)]);
        let meta = &mut document["meta"][format!("{role}.json")];
        if meta.is_object() {
            // Without length and digest, so that the client has to look at the file itself.
            *meta = json!({ "version": meta["version"] });
        }
        self.replace(files, naming, &document, &self.signers("timestamp"));
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(7) {
            0 | 1 => {
                let edit = self.add("shuttle", random);
                self.publish("targets", &[edit]);
            }
            2 | 3 => {
                let edit = self.add("meter", random);
                self.publish(TEAM, &[edit]);
            }
            4 => {
                let targets = self.state.targets_of(&RoleName::targets());
                let path = targets.and_then(|targets| targets.keys().next().cloned());
                let revoke = path.map(TargetsEdit::Revoke);
                self.publish("targets", &revoke.into_iter().collect::<Vec<_>>());
            }
            5 => {
                self.rotate("root");
            }
            _ => {
                self.rotate("timestamp");
            }
        }
    }

    fn delegation(&self, terminating: bool) -> TargetsEdit {
        let Authority { keys, threshold } = all_of(&self.keys[TEAM]);
        let role = role_name(TEAM);
        let paths = vec![format!("{TEAM_PATHS}*")];
        TargetsEdit::Delegate(Delegation { role, keys, threshold, paths, terminating })
    }

    /// A bundle under a path that is new.
    fn add(&mut self, name: &str, random: &mut Random) -> TargetsEdit {
        let version = format!("1.{}.0", self.paths.len());
        let blob = |len_bytes| Blob { digest: Digest([len_bytes as u8; 32]), len_bytes };
        let target = BundleTarget {
            name: name.into(),
            version,
            manifest: blob(1 + random.below(1000) as u64),
            chunk_index: blob(77),
            hardware_classes: vec!["*".into()],
            patches: Vec::new(),
            signature: None,
        };
        self.paths.insert(target.path());
        TargetsEdit::Add(target)
    }

    fn publish(&mut self, role: &'static str, edits: &[TargetsEdit]) {
        let mut draft = match self.state.document(&role_name(role)) {
            Some(held) => TargetsDraft::after(held, edits).expect("the edits fit"),
            None => {
                let mut first = TargetsDraft::empty(self.now.plus_seconds(YEAR_SECONDS));
                first.edit(edits).expect("the edits fit");
                first
            }
        };
        self.signers(role).into_iter().for_each(|key| draft.sign(key));
        let targets = [(role.to_owned(), text(draft.to_bytes()))].into();
        self.propose(&Proposal { roots: Vec::new(), targets });
    }

    /// Replaces the keys of a role; returns those before.
    fn rotate(&mut self, role: &'static str) -> Vec<SigningKey> {
        let new: Vec<_> = self.keys[role].iter().map(|_| new_key()).collect();
        let old = self.keys.insert(role, new).expect("every role has keys");
        let named = if role == "root" { Role::Root } else { Role::Timestamp };
        let added =
            self.keys[role].iter().map(|key| RootEdit::Add(named, key.public_key().clone()));
        let revoked = old.iter().map(|key| RootEdit::Revoke(named, key.public_key().id()));
        let held = self.state.document(&RoleName::root()).expect("there is a root");
        let edits: Vec<_> = added.chain(revoked).collect();
        let mut draft = RootDraft::after(held, &edits).expect("the edits fit");
        let former = if role == "root" { &old[..] } else { &[] };
        former.iter().chain(&self.keys["root"]).for_each(|key| draft.sign(key));
        let roots = vec![text(draft.to_bytes())];
        self.propose(&Proposal { roots, targets: BTreeMap::new() });
        old
    }

    fn propose(&mut self, proposal: &Proposal) {
        let online = self.signers("timestamp");
        let accepted = self.state.propose(proposal, &online, self.now, &Expiry::default());
        let accepted = accepted.expect("the proposal is sound");
        self.state = self.state.apply(&accepted).expect("what was accepted applies");
    }

    fn keep_stage(&mut self) {
        let files = self.state.files();
        self.stages.push(files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect());
    }

    fn signers(&self, role: &str) -> Vec<&SigningKey> {
        let role = if role == "snapshot" { "timestamp" } else { role };
        self.keys[role].iter().collect()
    }

    fn version(&self, role: &str) -> u64 {
        self.state.version_of(&role_name(role)).expect("every role has metadata")
    }

    fn file_name(&self, role: &str) -> String {
        match role {
            "timestamp" => "timestamp.json".into(),
            _ => format!("{}.{role}.json", self.version(role)),
        }
    }
}

fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
}

/// All of the keys must sign.
fn all_of(keys: &[SigningKey]) -> Authority {
    let threshold = keys.len();
    Authority { keys: keys.iter().map(|key| key.public_key().clone()).collect(), threshold }
}

fn role_name(role: &str) -> RoleName {
    role.parse().expect("the name is well formed")
}

fn signed_part(document: &[u8]) -> Value {
    let mut document: Value = serde_json::from_slice(document).expect("it is one of ours");
    document["signed"].take()
}

fn is_of(file: &str, role: &str) -> bool {
    file.split_once('.').is_some_and(|(_, name)| name == format!("{role}.json"))
}

fn text(document: Vec<u8>) -> String {
    String::from_utf8(document).expect("documents are JSON")
}
