//! A repository that publishers and key holders send proposals to.

use selvedge_wire::Digest;
use serde_json::{Value, json};

use super::*;
use crate::*;

const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
const YEAR_S: u64 = 365 * 24 * 3600;

/// Whoever holds the keys.
struct Desk {
    root: SigningKey,
    targets: SigningKey,
    online: SigningKey,
    team: SigningKey,
    state: RepositoryState,
}

fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
}

fn authority(key: &SigningKey) -> Authority {
    Authority::one(key.public_key().clone())
}

fn role(name: &str) -> RoleName {
    name.parse().expect("the name is well formed")
}

fn bundle(name: &str, version: &str, content: u8) -> BundleTarget {
    BundleTarget {
        name: name.into(),
        version: version.into(),
        manifest: Blob { digest: Digest([content; 32]), len_bytes: 700 },
        chunk_index: Blob { digest: Digest([content ^ 0xff; 32]), len_bytes: 300 },
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    }
}

fn add(name: &str, version: &str, content: u8) -> TargetsEdit {
    TargetsEdit::Add(bundle(name, version, content))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("documents are JSON")
}

fn targets_proposal(role: &str, document: Vec<u8>) -> Proposal {
    Proposal { roots: Vec::new(), targets: [(role.to_owned(), text(document))].into() }
}

impl Desk {
    /// A repository with one bundle, whose keys are new.
    fn new() -> Self {
        let (root, targets, online, team) = (new_key(), new_key(), new_key(), new_key());
        let expires = NOW.plus_seconds(10 * YEAR_S);
        let document =
            Root::new(1, expires, &authority(&root), &authority(&targets), &authority(&online));
        let state = RepositoryState::begin(&document.sign(&[&root])).expect("the root is whole");
        let mut desk = Self { root, targets, online, team, state };
        let mut first = TargetsDraft::empty(NOW.plus_seconds(YEAR_S));
        first.edit(&[add("shuttle", "1.0.0", 1)]).expect("a bundle can be added");
        first.sign(&desk.targets);
        desk.take(&targets_proposal("targets", first.to_bytes())).expect("the first is whole");
        desk
    }

    fn propose(&self, proposal: &Proposal) -> Result<Accepted, Error> {
        self.state.propose(proposal, &[&self.online], NOW, &Expiry::default())
    }

    fn take(&mut self, proposal: &Proposal) -> Result<Vec<String>, Error> {
        let accepted = self.propose(proposal)?;
        self.state = self.state.apply(&accepted).expect("what was accepted applies");
        Ok(accepted.changes)
    }

    /// The next version of the publisher's metadata, signed.
    fn targets(&self, edits: &[TargetsEdit]) -> Proposal {
        let held = self.state.document(&RoleName::targets()).expect("there are targets");
        let mut draft = TargetsDraft::after(held, edits).expect("the edits fit");
        draft.sign(&self.targets);
        targets_proposal("targets", draft.to_bytes())
    }

    /// The next version of a team's metadata, signed.
    fn team(&self, name: &str, edits: &[TargetsEdit]) -> Proposal {
        let mut draft = match self.state.document(&role(name)) {
            Some(held) => TargetsDraft::after(held, edits).expect("the edits fit"),
            None => {
                let mut first = TargetsDraft::empty(NOW.plus_seconds(YEAR_S));
                first.edit(edits).expect("the edits fit");
                first
            }
        };
        draft.sign(&self.team);
        targets_proposal(name, draft.to_bytes())
    }

    fn delegate(&self, name: &str, paths: &[&str]) -> TargetsEdit {
        TargetsEdit::Delegate(Delegation {
            role: role(name),
            keys: vec![self.team.public_key().clone()],
            threshold: 1,
            paths: paths.iter().map(|path| path.to_string()).collect(),
            terminating: false,
        })
    }

    /// The next root, signed by the root key and by `others`.
    fn root(&self, edits: &[RootEdit], others: &[&SigningKey]) -> String {
        let held = self.state.document(&RoleName::root()).expect("there is a root");
        let mut draft = RootDraft::after(held, edits).expect("the edits fit");
        draft.sign(&self.root);
        others.iter().for_each(|key| draft.sign(key));
        text(draft.to_bytes())
    }

    fn found(&self, path: &str) -> Option<String> {
        self.state.find(path).map(|(role, _)| role.to_string())
    }
}

fn says(changes: &[String], part: &str) -> bool {
    changes.iter().any(|change| change.contains(part))
}

fn refusal(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("it is refused");
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn what_was_accepted_is_a_repository_that_files_alone_bring_back() {
    let mut desk = Desk::new();
    let changes = desk.take(&desk.targets(&[add("shuttle", "1.1.0", 2)])).expect("it follows");
    assert!(says(&changes, "targets adds shuttle/1.1.0: bundle 020202020202"), "{changes:?}");
    let files = desk.state.files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
    let names: Vec<_> = desk.state.files().map(|(name, _)| name).collect();
    assert_eq!(names, ["1.root.json", "2.snapshot.json", "2.targets.json", "timestamp.json"]);
    let again = RepositoryState::from_files(files).expect("the files are whole");
    let paths: Vec<_> = again.all_targets().iter().map(|(_, target)| target.path()).collect();
    assert_eq!(paths, ["shuttle/1.0.0", "shuttle/1.1.0"]);
    let timestamp: Value =
        serde_json::from_slice(again.document(&RoleName::timestamp()).expect("there is one"))
            .expect("documents are JSON");
    assert_eq!(timestamp["signed"]["root_version"], 1);
    assert_eq!(timestamp["signed"]["issued"], json!(NOW));
    assert_eq!(again.version_of(&RoleName::timestamp()), Some(2));
}

#[test]
fn a_proposal_that_changes_nothing_or_follows_nothing_is_refused() {
    let mut desk = Desk::new();
    assert!(refusal(desk.propose(&Proposal::default())).contains("changes nothing"));
    let stale = desk.targets(&[add("a", "1", 3)]);
    desk.take(&stale).expect("the first of two publishers is taken");
    assert!(refusal(desk.propose(&stale)).contains("does not follow version 2"));
    assert!(refusal(desk.propose(&desk.team("team", &[]))).contains("nobody delegates"));
    for name in ["timestamp", "Team", "a/b", "root"] {
        let document = text(TargetsDraft::empty(NOW).to_bytes());
        let proposal =
            Proposal { targets: [(name.into(), document)].into(), ..Proposal::default() };
        assert!(refusal(desk.propose(&proposal)).contains("cannot be delegated to"), "{name}");
    }
}

#[test]
fn a_document_is_signed_on_one_desk_after_the_other() {
    let mut desk = Desk::new();
    let second = new_key();
    let edits = [
        RootEdit::Add(Role::Targets, second.public_key().clone()),
        RootEdit::Threshold(Role::Targets, 2),
    ];
    let held = desk.state.document(&RoleName::targets()).expect("there are targets").to_vec();
    let mut draft = TargetsDraft::after(&held, &[add("a", "1", 3)]).expect("the edit fits");
    draft.sign(&desk.targets);
    let mut both = targets_proposal("targets", draft.to_bytes());
    both.roots.push(desk.root(&edits, &[]));
    assert!(refusal(desk.propose(&both)).contains("1 valid signatures"));

    let mut elsewhere = TargetsDraft::read(&draft.to_bytes()).expect("a draft reads back");
    elsewhere.sign(&second);
    both.targets.insert("targets".into(), text(elsewhere.to_bytes()));
    let changes = desk.take(&both).expect("both have signed");
    assert!(says(&changes, "the role targets needs 2 signatures instead of 1"), "{changes:?}");

    let status = |draft: &TargetsDraft| {
        let status = draft.signatures(&desk.state, &RoleName::targets()).expect("it is whole");
        status.expect("targets are held")
    };
    assert_eq!(status(&draft).missing(), 1);
    assert_eq!(status(&draft).unsigned, [second.public_key().id()]);
    assert_eq!(status(&elsewhere).missing(), 0);
    let mut gathered = TargetsDraft::after(&held, &[add("a", "1", 3)]).expect("the edit fits");
    gathered.sign(&second);
    gathered.merge(&draft).expect("the copies say the same");
    assert_eq!(status(&gathered).missing(), 0);
    let other = TargetsDraft::after(&held, &[add("a", "1", 4)]).expect("the edit fits");
    assert!(refusal(gathered.merge(&other)).contains("do not say the same"));
}

#[test]
fn a_team_speaks_of_its_own_paths_only() {
    let mut desk = Desk::new();
    let changes =
        desk.take(&desk.targets(&[desk.delegate("team", &["press/*", "shuttle/*"])])).expect("ok");
    assert!(says(&changes, "delegates press/*, shuttle/* to the role team: 1 of the keys"));
    assert!(says(&changes, "the role team has no metadata yet"), "{changes:?}");
    desk.take(&desk.team("team", &[add("press", "1.0.0", 4)])).expect("it is among its paths");
    assert_eq!(desk.found("press/1.0.0").as_deref(), Some("team"));
    let outside = desk.team("team", &[add("cam", "1.0.0", 5)]);
    assert!(refusal(desk.propose(&outside)).contains("not among the paths of the role team"));
    let taken = desk.team("team", &[add("shuttle", "1.0.0", 5)]);
    assert!(refusal(desk.propose(&taken)).contains("the role targets speaks of shuttle/1.0.0"));

    let mut stranger = TargetsDraft::after(
        desk.state.document(&role("team")).expect("there is some"),
        &[add("press", "2.0.0", 5)],
    )
    .expect("the edit fits");
    stranger.sign(&desk.targets);
    let stranger = targets_proposal("team", stranger.to_bytes());
    assert!(refusal(desk.propose(&stranger)).contains("0 valid signatures"));
}

#[test]
fn nobody_is_asked_behind_a_terminating_delegation() {
    let mut desk = Desk::new();
    let first = desk.delegate("first", &["press/*"]);
    let TargetsEdit::Delegate(mut first) = first else { panic!("it is a delegation") };
    first.terminating = true;
    let edits = [TargetsEdit::Delegate(first), desk.delegate("second", &["press/*"])];
    desk.take(&desk.targets(&edits)).expect("both are delegated to");
    desk.take(&desk.team("first", &[])).expect("it may be empty");
    let behind = desk.team("second", &[add("press", "1.0.0", 4)]);
    assert!(refusal(desk.propose(&behind)).contains("not among the paths of the role second"));
}

#[test]
fn a_role_that_is_delegated_to_again_goes_on_where_it_was() {
    let mut desk = Desk::new();
    desk.take(&desk.targets(&[desk.delegate("team", &["press/*"])])).expect("ok");
    desk.take(&desk.team("team", &[add("press", "1.0.0", 4)])).expect("ok");
    let changes = desk.take(&desk.targets(&[TargetsEdit::Undelegate(role("team"))])).expect("ok");
    assert!(says(&changes, "delegates to the role team no longer"), "{changes:?}");
    assert!(says(&changes, "press/1.0.0 (bundle 040404040404) is not found"), "{changes:?}");
    assert_eq!(desk.found("press/1.0.0"), None);

    desk.take(&desk.targets(&[desk.delegate("team", &["press/*"])])).expect("ok");
    let again = desk.team("team", &[add("press", "1.0.0", 4)]);
    assert!(refusal(desk.propose(&again)).contains("does not follow version 1"));
    let mut draft = TargetsDraft::empty(NOW.plus_seconds(YEAR_S));
    draft = TargetsDraft::after(&draft.to_bytes(), &[add("press", "1.0.0", 4)]).expect("it fits");
    draft.sign(&desk.team);
    desk.take(&targets_proposal("team", draft.to_bytes())).expect("version 2 follows");
    assert_eq!(desk.found("press/1.0.0").as_deref(), Some("team"));
}

#[test]
fn a_stolen_team_key_is_replaced_and_nothing_of_it_is_found() {
    let mut desk = Desk::new();
    desk.take(&desk.targets(&[desk.delegate("team", &["press/*"])])).expect("ok");
    desk.take(&desk.team("team", &[add("press", "1.0.0", 4)])).expect("ok");
    desk.team = new_key();
    let changes = desk.take(&desk.targets(&[desk.delegate("team", &["press/*"])])).expect("ok");
    assert!(says(&changes, "team is not believed until its holders sign it anew"), "{changes:?}");
    assert!(says(&changes, "press/1.0.0 (bundle 040404040404) is not found"), "{changes:?}");
    assert_eq!(desk.found("press/1.0.0"), None);
    assert_eq!(desk.found("shuttle/1.0.0").as_deref(), Some("targets"));
    let problem = desk.state.roles()[1].problem.clone().expect("it is told");
    assert!(problem.contains("0 valid signatures"), "{problem}");
    desk.take(&desk.team("team", &[])).expect("the new key signs");
    assert_eq!(desk.found("press/1.0.0").as_deref(), Some("team"));
}

#[test]
fn a_version_keeps_its_bundle_but_may_get_patches() {
    let mut desk = Desk::new();
    let other = desk.targets(&[add("shuttle", "1.0.0", 9)]);
    assert!(refusal(desk.propose(&other)).contains("another bundle already"));
    let mut patched = bundle("shuttle", "1.0.0", 1);
    let index = Blob { digest: Digest([8; 32]), len_bytes: 40 };
    patched.patches.push(PatchTarget { source: Digest([7; 32]), index, len_bytes: 4000 });
    let changes = desk.take(&desk.targets(&[TargetsEdit::Add(patched)])).expect("ok");
    assert!(says(&changes, "changes shuttle/1.0.0"), "{changes:?}");
    assert!(says(&changes, "a patch of 4000 bytes from 070707070707"), "{changes:?}");
    let changes = desk.take(&desk.targets(&[TargetsEdit::Revoke("shuttle/1.0.0".into())]));
    assert!(says(&changes.expect("ok"), "revokes shuttle/1.0.0"));
    assert_eq!(desk.found("shuttle/1.0.0"), None);
}

#[test]
fn a_revoked_online_key_signs_nothing_more() {
    let mut desk = Desk::new();
    let thief = std::mem::replace(&mut desk.online, new_key());
    let edits = [
        RootEdit::Add(Role::Director, desk.online.public_key().clone()),
        RootEdit::Revoke(Role::Director, thief.public_key().id()),
    ];
    let proposal = Proposal { roots: vec![desk.root(&edits, &[])], ..Proposal::default() };
    let error = desk.state.propose(&proposal, &[&thief], NOW, &Expiry::default());
    assert!(refusal(error).contains("0 of the online keys hold the role snapshot"));
    let changes = desk.take(&proposal).expect("the new key is there");
    assert!(says(&changes, "devices forget the timestamp and the snapshot"), "{changes:?}");
    assert!(says(&changes, "every desired state must be signed anew"), "{changes:?}");
    let root = desk.state.root().root();
    assert_eq!(root.keys(Role::Director).count(), 1);
    assert!(root.keys(Role::Timestamp).all(|(_, key)| key == desk.online.public_key()));
}

#[test]
fn a_stolen_targets_key_needs_a_root_and_targets_signed_anew() {
    let mut desk = Desk::new();
    let thief = std::mem::replace(&mut desk.targets, new_key());
    let edits = [
        RootEdit::Add(Role::Targets, desk.targets.public_key().clone()),
        RootEdit::Revoke(Role::Targets, thief.public_key().id()),
    ];
    let root = desk.root(&edits, &[]);
    let alone = Proposal { roots: vec![root.clone()], ..Proposal::default() };
    assert!(refusal(desk.propose(&alone)).contains("valid signatures"));
    let mut both = desk.targets(&[]);
    both.roots.push(root);
    desk.take(&both).expect("targets are signed anew");
    let root = desk.state.root().root();
    assert!(root.keys(Role::Targets).all(|(_, key)| key == desk.targets.public_key()));
}

#[test]
fn a_root_needs_the_signatures_of_the_root_before_and_its_own() {
    let mut desk = Desk::new();
    let second = new_key();
    let edits = [
        RootEdit::Add(Role::Root, second.public_key().clone()),
        RootEdit::Threshold(Role::Root, 2),
    ];
    let propose =
        |root: String| desk.propose(&Proposal { roots: vec![root], ..Proposal::default() });
    assert!(refusal(propose(desk.root(&edits, &[]))).contains("1 valid signatures"));
    let held = desk.state.document(&RoleName::root()).expect("there is a root");
    let mut without_old = RootDraft::after(held, &edits).expect("the edits fit");
    without_old.sign(&second);
    let before = desk.state.root().root();
    let missing = without_old.signatures(Some(before)).expect("it is whole");
    assert_eq!(missing.iter().map(SignatureStatus::missing).collect::<Vec<_>>(), [1, 1]);
    assert!(refusal(propose(text(without_old.to_bytes()))).contains("0 valid signatures"));

    // Two roots at once, the second signed by those that the first names.
    let next = desk.root(&edits, &[&second]);
    let later = [RootEdit::Expires(NOW.plus_seconds(YEAR_S))];
    let mut after = RootDraft::after(next.as_bytes(), &later).expect("the edit fits");
    after.sign(&desk.root);
    after.sign(&second);
    let roots = vec![next, text(after.to_bytes())];
    desk.take(&Proposal { roots, ..Proposal::default() }).expect("both follow");
    assert_eq!((desk.state.root().root().version(), desk.state.oldest_root()), (3, 1));
}

#[test]
fn what_has_expired_is_refused() {
    let desk = Desk::new();
    let expired = desk.targets(&[TargetsEdit::Expires(NOW)]);
    assert!(refusal(desk.propose(&expired)).contains("expired"));
    let root = desk.root(&[RootEdit::Expires(NOW)], &[]);
    let proposal = Proposal { roots: vec![root], ..Proposal::default() };
    assert!(refusal(desk.propose(&proposal)).contains("expired"));
}

#[test]
fn timestamp_and_snapshot_are_signed_anew_when_their_time_comes() {
    let desk = Desk::new();
    let policy = Expiry::default();
    let at = |seconds| desk.state.resign(&[&desk.online], NOW.plus_seconds(seconds), &policy);
    assert_eq!(at(policy.timestamp_every_s - 1), Ok(None));
    assert_eq!(desk.state.resign(&[&desk.online], UnixMillis(0), &policy), Ok(None));
    let due = at(policy.timestamp_every_s).expect("the key is there").expect("it is due");
    let names: Vec<_> = due.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["timestamp.json"]);
    let both = at(policy.snapshot_s / 2).expect("the key is there").expect("they are due");
    let names: Vec<_> = both.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["2.snapshot.json", "timestamp.json"]);
    let after = desk.state.apply(&both).expect("it applies");
    assert_eq!(after.version_of(&RoleName::timestamp()), Some(2));
    assert_eq!(after.find("shuttle/1.0.0"), desk.state.find("shuttle/1.0.0"));
    let later = NOW.plus_seconds(policy.snapshot_s);
    let error = desk.state.resign(&[&new_key()], later, &policy);
    assert!(refusal(error).contains("0 of the online keys"));
}

#[test]
fn a_file_too_long_for_a_message_asks_for_a_delegation() {
    let desk = Desk::new();
    let scattered = |i: u32| {
        let digest = |bytes: &[u8]| {
            let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
            Digest(digest.as_ref().try_into().expect("a SHA-256"))
        };
        let mut target = bundle("many", &format!("{i}.0.0"), 0);
        target.manifest.digest = digest(&i.to_le_bytes());
        target.chunk_index.digest = digest(&target.manifest.digest.0);
        TargetsEdit::Add(target)
    };
    let edits: Vec<_> = (0..1700).map(scattered).collect();
    let error = refusal(desk.propose(&desk.targets(&edits)));
    assert!(error.contains("delegate a family of targets"), "{error}");
}

#[test]
fn edits_that_do_not_fit_are_refused_and_unknown_members_stay() {
    let desk = Desk::new();
    let held = desk.state.document(&RoleName::root()).expect("there is a root");
    let stranger = new_key().public_key().clone();
    for (edit, reason) in [
        (RootEdit::Threshold(Role::Targets, 2), "1 keys and a threshold of 2"),
        (RootEdit::Revoke(Role::Root, stranger.id()), "does not hold the role root"),
        (RootEdit::Add(Role::Root, desk.root.public_key().clone()), "holds the role root already"),
        (RootEdit::Revoke(Role::Targets, desk.targets.public_key().id()), "0 keys"),
    ] {
        let error = refusal(RootDraft::after(held, std::slice::from_ref(&edit)));
        assert!(error.contains(reason), "{edit:?}: {error}");
    }
    let held = desk.state.document(&RoleName::targets()).expect("there are targets");
    for (edit, reason) in [
        (TargetsEdit::Revoke("a/1".into()), "does not speak of a/1"),
        (TargetsEdit::Undelegate(role("team")), "does not delegate to the role team"),
        (desk.delegate("snapshot", &["*/*"]), "cannot be delegated to"),
        (desk.delegate("team", &[]), "no paths"),
    ] {
        let error = refusal(TargetsDraft::after(held, std::slice::from_ref(&edit)));
        assert!(error.contains(reason), "{edit:?}: {error}");
    }
    let mut document: Value = serde_json::from_slice(held).expect("documents are JSON");
    document["signed"]["x-owner"] = json!("line 4");
    let kept = TargetsDraft::after(document.to_string().as_bytes(), &[]).expect("it is whole");
    assert!(text(kept.to_bytes()).contains(r#""x-owner":"line 4""#));
}
