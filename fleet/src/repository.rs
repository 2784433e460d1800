//! The fleet's TUF repository: what the database holds of it, and the online keys that sign its snapshot
//! and timestamp.
//!
//! A change is made up in memory, put into the database with all that follows from it, and only then
//! believed here and published. So no version that anybody saw is ever used again, whenever the power
//! fails. On the first start root and targets metadata come from the keys folder; from then on the
//! database goes first.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::Mutex;

use selvedge_trust::{
    Accepted, Expiry, Proposal, PublicKey, RepositoryState, Role, RoleName, SigningKey, UnixMillis,
};
use selvedge_wire::DeviceId;

use crate::{
    Error,
    director::{Director, Office},
    one_line,
    store::{RepositoryChange, Slots, Store, TargetRow},
};

/// The root metadata in the keys folder.
const ROOT_FILE: &str = "root.json";

/// The targets metadata in the keys folder.
const TARGETS_FILE: &str = "targets.json";

/// Files of the keys folder that may hold online keys begin and end so.
const ONLINE_KEY_FILES: (&str, &str) = ("director", ".pk8");

/// The repository of a running fleet.
pub struct Repository {
    keys: OnlineKeys,
    expiry: Expiry,
    state: RwLock<Arc<RepositoryState>>,
    /// One change at a time.
    turn: Mutex<()>,
}

/// Where the online keys are.
pub enum OnlineKeys {
    /// In files of this folder. They are read for every change, so that a new key only has to be put there.
    Folder(PathBuf),
    /// Here.
    #[cfg(any(test, feature = "simulation"))]
    Given(Vec<Arc<SigningKey>>),
}

/// What became of a proposal.
pub struct Proposed {
    /// What changes, in sentences for people.
    pub sentences: Vec<String>,
    /// Devices whose desired state was signed again.
    pub redirected: Vec<DeviceId>,
}

impl Repository {
    /// The repository in `store`, or on the first start the one that `keys` begin; and its director.
    ///
    /// # Errors
    /// [`Error`] that names the file or the key that is missing or not what it should be.
    pub async fn open(
        keys: &Path,
        expiry: Expiry,
        store: &Store,
        director: impl FnOnce(Office) -> Director,
        now_ms: u64,
    ) -> Result<(Self, Director), Error> {
        let stored = store.repository_files().await?;
        let online = OnlineKeys::Folder(keys.to_owned());
        if !stored.is_empty() {
            return Self::go_on(stored, online, expiry, store, director).await;
        }
        let read = |file: &str| {
            let path = keys.join(file);
            fs::read(&path).map_err(Error::io("read", &path))
        };
        let (root, targets) = (read(ROOT_FILE)?, read(TARGETS_FILE)?);
        Self::begin(&root, &targets, online, expiry, store, director, now_ms).await
    }

    /// The repository that `store` holds as `files`.
    async fn go_on(
        files: BTreeMap<String, Vec<u8>>,
        keys: OnlineKeys,
        expiry: Expiry,
        store: &Store,
        director: impl FnOnce(Office) -> Director,
    ) -> Result<(Self, Director), Error> {
        let state = RepositoryState::from_files(files).map_err(|source| Error::Trust {
            what: "cannot use the repository in the database".into(),
            source,
        })?;
        let office = Office::of(&state, &keys.read()?, &keys)?;
        // What an interrupted upload left unsaid.
        store.mark_targets(&targets_of(&state)).await?;
        let state = RwLock::new(Arc::new(state));
        Ok((Self { keys, expiry, state, turn: Mutex::new(()) }, director(office)))
    }

    /// A repository that begins with these documents, in a store that has none.
    pub async fn begin(
        root: &[u8],
        targets: &[u8],
        keys: OnlineKeys,
        expiry: Expiry,
        store: &Store,
        director: impl FnOnce(Office) -> Director,
        now_ms: u64,
    ) -> Result<(Self, Director), Error> {
        let unusable = |file: &str| {
            let what = format!("cannot use {}", keys.place(file));
            move |source| Error::Trust { what, source }
        };
        let before = RepositoryState::begin(root).map_err(unusable(ROOT_FILE))?;
        if before.root().root().expires() <= UnixMillis(now_ms) {
            let path = keys.place(ROOT_FILE);
            return Err(Error::Config(format!("{path} has expired: devices do not believe it")));
        }
        let online = keys.read()?;
        let office = Office::of(&before, &online, &keys)?;
        let document = String::from_utf8(targets.to_vec())
            .map_err(|_| Error::Config(format!("{} is not text", keys.place(TARGETS_FILE))))?;
        let proposal = Proposal {
            roots: Vec::new(),
            targets: BTreeMap::from([(RoleName::targets().as_str().to_owned(), document)]),
        };
        let state = before
            .propose(&proposal, &borrowed(&online), UnixMillis(now_ms), &expiry)
            .and_then(|accepted| before.apply(&accepted))
            .map_err(unusable(TARGETS_FILE))?;
        let files: Vec<(String, Vec<u8>)> =
            state.files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        keep(store, &state, &files, None, now_ms).await?;
        let state = RwLock::new(Arc::new(state));
        Ok((Self { keys, expiry, state, turn: Mutex::new(()) }, director(office)))
    }

    /// The repository as it is after a restart.
    #[cfg(feature = "simulation")]
    pub async fn reopen(self, store: &Store) -> Result<Self, Error> {
        let files = store.repository_files().await?;
        let state = RepositoryState::from_files(files).map_err(|source| Error::Trust {
            what: "cannot use the repository in the database".into(),
            source,
        })?;
        Ok(Self { state: RwLock::new(Arc::new(state)), ..self })
    }

    /// What the repository holds.
    pub fn state(&self) -> Arc<RepositoryState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a proposal, or with `dry_run` says what it would change.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why devices would not believe it; then nothing was changed.
    pub async fn propose(
        &self,
        store: &Store,
        director: &Director,
        proposal: &Proposal,
        dry_run: bool,
        now_ms: u64,
    ) -> Result<Proposed, Error> {
        let _turn = self.turn.lock().await;
        let (before, online) = (self.state(), self.keys.read()?);
        let refused = |error: selvedge_trust::Error| Error::Refused(one_line(&error));
        let accepted = before
            .propose(proposal, &borrowed(&online), UnixMillis(now_ms), &self.expiry)
            .map_err(refused)?;
        let after = before.apply(&accepted).map_err(refused)?;
        let office = Office::of(&after, &online, &self.keys).map_err(|error| match error {
            Error::Config(reason) => Error::Refused(reason),
            other => other,
        })?;
        if dry_run {
            return Ok(Proposed { sentences: accepted.changes, redirected: Vec::new() });
        }
        let redirected = self.take(store, director, &accepted, after, office, now_ms).await?;
        Ok(Proposed { sentences: accepted.changes, redirected })
    }

    /// Signs timestamp and snapshot again where that is due; returns whether it was.
    ///
    /// # Errors
    /// [`Error`] if the online keys are not there or the database does not take it.
    pub async fn resign(
        &self,
        store: &Store,
        director: &Director,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let (before, online) = (self.state(), self.keys.read()?);
        let failed =
            |source| Error::Trust { what: "cannot sign the timestamp again".into(), source };
        let Some(accepted) =
            before.resign(&borrowed(&online), UnixMillis(now_ms), &self.expiry).map_err(failed)?
        else {
            return Ok(false);
        };
        let after = before.apply(&accepted).map_err(failed)?;
        let office = Office::of(&after, &online, &self.keys)?;
        self.take(store, director, &accepted, after, office, now_ms).await?;
        Ok(true)
    }

    /// Notes in `store` what the targets say of bundles and patches that were added since.
    pub async fn mark_targets(&self, store: &Store) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        store.mark_targets(&targets_of(&self.state())).await
    }

    /// Puts a change into the database and then believes it.
    async fn take(
        &self,
        store: &Store,
        director: &Director,
        accepted: &Accepted,
        after: RepositoryState,
        office: Office,
        now_ms: u64,
    ) -> Result<Vec<DeviceId>, Error> {
        let mut held = director.hold().await;
        let is_new_key = held.public_key() != office.public_key();
        let redirect = is_new_key.then_some((director, &office));
        let kept = keep(store, &after, &accepted.files, redirect, now_ms).await;
        let redirected = match kept {
            Ok(redirected) => redirected,
            Err(error) => {
                // A commit that failed may still have been made: the database says what holds.
                if let Ok(files) = store.repository_files().await
                    && let Ok(stored) = RepositoryState::from_files(files)
                    && let Ok(office) = Office::of(&stored, &self.keys.read()?, &self.keys)
                {
                    *held = Arc::new(office);
                    self.believe(stored);
                }
                return Err(error);
            }
        };
        *held = Arc::new(office);
        self.believe(after);
        Ok(redirected)
    }

    fn believe(&self, state: RepositoryState) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }
}

impl OnlineKeys {
    /// The keys that are there, whatever they may sign.
    fn read(&self) -> Result<Vec<Arc<SigningKey>>, Error> {
        let folder = match self {
            Self::Folder(folder) => folder,
            #[cfg(any(test, feature = "simulation"))]
            Self::Given(keys) => return Ok(keys.clone()),
        };
        let entries = fs::read_dir(folder).map_err(Error::io("read the folder", folder))?;
        let (begin, end) = ONLINE_KEY_FILES;
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read the folder", folder))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(begin) && name.ends_with(end)) {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        let mut keys = Vec::new();
        for path in paths {
            let pkcs8 = fs::read(&path).map_err(Error::io("read", &path))?;
            let key = SigningKey::from_pkcs8(&pkcs8).map_err(|source| Error::Trust {
                what: format!("cannot use {}", path.display()),
                source,
            })?;
            keys.push(Arc::new(key));
        }
        Ok(keys)
    }

    /// A file beside the keys, for people.
    fn place(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            #[cfg(any(test, feature = "simulation"))]
            Self::Given(_) => file.into(),
        }
    }
}

impl Office {
    /// The office that the newest root of `state` gives to one of `online`.
    fn of(
        state: &RepositoryState,
        online: &[Arc<SigningKey>],
        keys: &OnlineKeys,
    ) -> Result<Self, Error> {
        let root = state.root();
        let (version, threshold) = (root.root().version(), root.root().threshold(Role::Director));
        if threshold != 1 {
            return Err(Error::Config(format!(
                "root version {version} wants {threshold} keys to sign what devices should run, but \
                 this manager signs with one"
            )));
        }
        let holds =
            |public: &PublicKey| root.root().keys(Role::Director).any(|(_, key)| key == public);
        let Some(key) = online.iter().find(|key| holds(key.public_key())) else {
            let ids: Vec<&str> =
                root.root().keys(Role::Director).map(|(id, _)| id.as_str()).collect();
            let (begin, end) = ONLINE_KEY_FILES;
            return Err(Error::Config(format!(
                "none of the keys {} is one that root version {version} lets sign what devices should \
                 run: put the file of the key {} there",
                keys.place(&format!("{begin}*{end}")),
                ids.join(" or ")
            )));
        };
        let document = state
            .document(&RoleName::root())
            .expect("a repository holds the root that it trusts")
            .to_vec();
        Ok(Self::new(document, key.clone()))
    }
}

/// One transaction: the files, what they say of bundles, and desired states that a new key signs.
async fn keep(
    store: &Store,
    after: &RepositoryState,
    files: &[(String, Vec<u8>)],
    redirect: Option<(&Director, &Office)>,
    now_ms: u64,
) -> Result<Vec<DeviceId>, Error> {
    let change = RepositoryChange {
        files,
        targets: &targets_of(after),
        is_current: &|name| after.file(name).is_some(),
    };
    let Some((director, office)) = redirect else {
        return store.change_repository(&change, None, now_ms).await;
    };
    let sign = |device: &DeviceId, generation, slots: &Slots| {
        office.sign(director.fleet(), device, slots, generation, UnixMillis(now_ms))
    };
    store.change_repository(&change, Some(&sign), now_ms).await
}

fn targets_of(state: &RepositoryState) -> Vec<TargetRow> {
    let target = |(role, target): (RoleName, selvedge_trust::BundleTarget)| TargetRow {
        path: target.path(),
        role: role.as_str().to_owned(),
        bundle: target.bundle(),
        patch_indexes: target.patches.iter().map(|patch| patch.index.digest).collect(),
    };
    state.all_targets().into_iter().map(target).collect()
}

fn borrowed(keys: &[Arc<SigningKey>]) -> Vec<&SigningKey> {
    keys.iter().map(Arc::as_ref).collect()
}

#[cfg(test)]
mod tests {
    use selvedge_trust::{MessageSigner, TrustedRoot};
    use selvedge_wire::Digest;

    use super::*;
    use crate::{
        store::{Assignment, Change},
        testing::{Keys, NOW_MS, name, new_key, open_store, target},
    };

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    fn roots(document: String) -> Proposal {
        Proposal { roots: vec![document], targets: BTreeMap::new() }
    }

    fn targets(document: String) -> Proposal {
        Proposal { roots: vec![], targets: BTreeMap::from([("targets".into(), document)]) }
    }

    async fn names(store: &Store) -> Vec<String> {
        store.repository_names().await.expect("it can be read")
    }

    #[tokio::test]
    async fn the_first_start_takes_the_folder_and_later_ones_the_database() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&[]).await;
        let (repository, _) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let first = ["1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json"];
        assert_eq!(names(&store).await, first);
        let state = repository.state();
        keys.put("root.json", b"lost");
        keys.put("targets.json", b"lost");
        let (again, _) = keys.open(&store, NOW_MS + 1).await.expect("the database has it");
        assert!(again.state().files().eq(state.files()), "nothing was signed again");
    }

    #[tokio::test]
    async fn what_is_missing_at_the_start_is_named() {
        type Spoil = fn(&Keys);
        let year_ms = 366 * DAY_MS;
        let cases: [(Spoil, u64, &str); 6] = [
            (|keys| keys.put("root.json", b"{}"), NOW_MS, "root.json"),
            (|keys| keys.put("targets.json", b"{}"), NOW_MS, "targets.json"),
            (|keys| keys.put("director.pk8", b"x"), NOW_MS, "director.pk8"),
            (
                |keys| keys.put("director.pk8", new_key().to_pkcs8()),
                NOW_MS,
                "put the file of the key",
            ),
            (
                |keys| fs::remove_file(keys.path().join("director.pk8")).expect("it is there"),
                NOW_MS,
                "director*.pk8",
            ),
            (|_| {}, NOW_MS + year_ms, "root.json has expired"),
        ];
        for (spoil, now_ms, reason) in cases {
            let keys = Keys::new();
            let (_folder, store) = open_store(&[]).await;
            spoil(&keys);
            let error = keys.open(&store, now_ms).await.err().expect(reason);
            assert!(one_line(&error).contains(reason), "{reason}: {}", one_line(&error));
            assert_eq!(names(&store).await, [] as [&str; 0], "nothing is kept of it");
        }
    }

    #[tokio::test]
    async fn a_dry_run_says_what_would_change_and_changes_nothing() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&[]).await;
        let (repository, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let proposal = targets(keys.targets_document(2, &[target("1.0.0", Digest([1; 32]))]));
        let before = store.repository_files().await.expect("it can be read");
        let run = async |dry| repository.propose(&store, &director, &proposal, dry, NOW_MS).await;
        let dry = run(true).await.expect("it would be taken");
        assert!(dry.sentences.iter().any(|it| it.contains("example/1.0.0")), "{:?}", dry.sentences);
        assert_eq!(store.repository_files().await.expect("it can be read"), before);
        let wet = run(false).await.expect("it is taken");
        assert_eq!(wet.sentences, dry.sentences);
        let now = ["1.root.json", "2.snapshot.json", "2.targets.json", "timestamp.json"];
        assert_eq!(names(&store).await, now);
        let error = run(false).await.err().expect("it is there already");
        assert!(one_line(&error).contains("version 2"), "{}", one_line(&error));
        let stranger = targets(Keys::new().targets_document(3, &[]));
        let refused = repository.propose(&store, &director, &stranger, false, NOW_MS).await;
        assert!(matches!(refused.err(), Some(Error::Refused(_))));
        assert_eq!(names(&store).await, now);
    }

    #[tokio::test]
    async fn a_new_online_key_signs_every_desired_state_again() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&["a", "b"]).await;
        let (repository, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        director.direct(&store, &name("a"), &Change::Nothing, NOW_MS).await.expect("it is signed");
        let next = new_key();
        let proposal = roots(keys.root_document(2, &next));
        let run = async || repository.propose(&store, &director, &proposal, false, NOW_MS).await;
        let error = run().await.err().expect("the key is not there");
        let id = next.public_key().id();
        assert!(one_line(&error).contains(id.as_str()), "{}", one_line(&error));
        let signed_by = async |key: &PublicKey| {
            let message = director.office().await.sign_message("t", vec![1]);
            key.verify_message("t", &message)
        };
        assert!(!signed_by(MessageSigner::public_key(&next)).await);

        keys.put("director-2.pk8", next.to_pkcs8());
        let proposed = run().await.expect("the key is there");
        assert_eq!(proposed.redirected, [name("a")]);
        assert!(signed_by(MessageSigner::public_key(&next)).await);
        let row = store.desired(&name("a")).await.expect("it can be read").expect("it was set");
        let root = TrustedRoot::pin(director.office().await.root_document()).expect("it is sound");
        let (fleet, now) = (director.fleet(), UnixMillis(NOW_MS));
        let state = root.verify_desired(&row.document, &name("a"), fleet, 2, now);
        assert_eq!(state.expect("the new root believes it").generation, 2);
        let now =
            ["1.root.json", "1.targets.json", "2.root.json", "2.snapshot.json", "timestamp.json"];
        assert_eq!(names(&store).await, now, "every root stays");
        fs::remove_file(keys.path().join("director.pk8")).expect("it is there");
        keys.open(&store, NOW_MS).await.expect("the new key is enough");
    }

    #[tokio::test]
    async fn timestamp_and_snapshot_are_signed_again_on_schedule() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&[]).await;
        let (repository, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let versions = || {
            let state = repository.state();
            let of = |role| state.version_of(&role).expect("it is there");
            (of(RoleName::timestamp()), of(RoleName::snapshot()))
        };
        let at = async |ms| {
            let due = repository.resign(&store, &director, NOW_MS + ms).await;
            (due.expect("the keys are there"), versions())
        };
        assert_eq!(at(DAY_MS - 1000).await, (false, (1, 1)));
        assert_eq!(at(DAY_MS).await, (true, (2, 1)));
        assert_eq!(at(DAY_MS).await, (false, (2, 1)));
        assert_eq!(at(40 * DAY_MS).await, (true, (3, 2)), "half of the snapshot's time is over");
        let (again, _) = keys.open(&store, NOW_MS).await.expect("the database has it");
        assert_eq!(again.state().version_of(&RoleName::timestamp()), Some(3));
    }

    #[tokio::test]
    async fn a_change_that_the_database_refuses_is_not_believed() {
        let keys = Keys::new();
        let (_folder, store) = open_store(&["a"]).await;
        let (repository, director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let bundle = Digest([1; 32]);
        let (other, other_director) = keys.open(&store, NOW_MS).await.expect("the keys are good");
        let proposal = targets(keys.targets_document(2, &[target("1.0.0", bundle)]));
        other
            .propose(&store, &other_director, &proposal, false, NOW_MS)
            .await
            .expect("it is taken");
        // As after a commit whose answer was lost: the database is ahead of what is believed here.
        let late = targets(keys.targets_document(2, &[]));
        let refused = repository.propose(&store, &director, &late, false, NOW_MS + 1).await;
        assert!(matches!(refused.err(), Some(Error::Conflict(_))));
        assert!(repository.state().find("example/1.0.0").is_some(), "the database goes first");
        let slot = "main".parse().expect("the name is well formed");
        let change =
            Change::Slot(slot, Assignment { bundle, shadow_samples: 0, allow_downgrade: false });
        let unknown = director.direct(&store, &name("a"), &change, NOW_MS).await;
        assert!(matches!(unknown.err(), Some(Error::NotFound(_))), "a target needs its bundle too");
    }
}
