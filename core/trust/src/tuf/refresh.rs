//! From what is trusted to the state of the repository: one struct per file that is awaited.

use crate::{
    Answer, DocumentKind, Error, Limits, Next, Request, Role, RoleName, Root, TrustedMetadata,
    UnixMillis,
    envelope::check_expiry,
    tuf::metadata::{Snapshot, Timestamp, check_rollback, check_version, next_root, trusted_root},
};

/// What every state knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) now: UnixMillis,
    pub(crate) limits: Limits,
}

/// Takes trusted metadata to the state of the repository (TUF 1.0 §5.1–5.6).
#[derive(Debug)]
pub struct Refresh {
    state: State,
    context: Context,
}

impl Refresh {
    /// Begins with the root that is trusted.
    ///
    /// # Errors
    /// [`Error`] if `trusted` holds no root metadata, or some that its own keys did not sign.
    pub fn start(
        trusted: &TrustedMetadata,
        now: UnixMillis,
        limits: Limits,
    ) -> Result<Self, Error> {
        let context = Context { now, limits };
        let state = State::Root(AwaitsRoot::begin(None, &context, trusted)?);
        Ok(Self { state, context })
    }

    /// Begins with the root that is trusted and a timestamp that was pushed.
    ///
    /// Only roots up to the timestamp's hint are asked for; a timestamp that says nothing new ends the
    /// refresh at once. Given the timestamp that is trusted already, it brings back the repository as long
    /// as nothing has expired.
    ///
    /// # Errors
    /// As [`Refresh::start`] and [`Refresh::answer`].
    pub fn pushed(
        timestamp: Vec<u8>,
        trusted: &mut TrustedMetadata,
        now: UnixMillis,
        limits: Limits,
    ) -> Result<Next<Self, Repository>, Error> {
        let context = Context { now, limits };
        let root_version = Timestamp::root_hint(&timestamp, &limits)
            .map_err(|error| timestamp_request(&context).refused(error))?;
        let pushed = Pushed { timestamp, root_version };
        let next = AwaitsRoot::begin(Some(pushed), &context, trusted)?.go_on(&context, trusted)?;
        Ok(Self::after(next, context))
    }

    /// The file that comes next.
    pub fn request(&self) -> Request {
        match &self.state {
            State::Root(state) => state.request(&self.context),
            State::Timestamp(_) => timestamp_request(&self.context),
            State::Snapshot(state) => state.request.clone(),
            State::Targets(state) => state.request.clone(),
        }
    }

    /// Goes on with that file.
    ///
    /// # Errors
    /// [`Error`] if the file is not believed, or the repository lacks a file that it must have. What
    /// was believed before it stays in `trusted`.
    pub fn answer(
        self,
        answer: Answer,
        trusted: &mut TrustedMetadata,
    ) -> Result<Next<Self, Repository>, Error> {
        let context = self.context;
        let next = match self.state {
            State::Root(state) => state.handle(answer, &context, trusted),
            State::Timestamp(state) => state.handle(answer, &context, trusted),
            State::Snapshot(state) => state.handle(answer, &context, trusted),
            State::Targets(state) => state.handle(answer, trusted),
        };
        Ok(Self::after(next?, context))
    }

    fn after(next: Next<State, Repository>, context: Context) -> Next<Self, Repository> {
        match next {
            Next::Fetch(state) => Next::Fetch(Self { state, context }),
            Next::Done(repository) => Next::Done(repository),
        }
    }
}

/// A repository at one time: the root and the snapshot that hold, from which every target follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub(crate) root: Root,
    pub(crate) snapshot: Snapshot,
    pub(crate) context: Context,
    fresh_until: UnixMillis,
}

impl Repository {
    /// The root that holds.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// When root, timestamp or snapshot expires. A client that could not refresh until then does not know
    /// whether it is being kept from news, and should say so.
    pub fn fresh_until(&self) -> UnixMillis {
        self.fresh_until
    }
}

#[derive(Debug)]
enum State {
    Root(AwaitsRoot),
    Timestamp(AwaitsTimestamp),
    Snapshot(AwaitsSnapshot),
    Targets(AwaitsTargets),
}

type Step = Result<Next<State, Repository>, Error>;

/// Asks for the root after `root` (§5.3): until there is none, or until the one that a timestamp names.
#[derive(Debug)]
struct AwaitsRoot {
    root: Root,
    rotations_left: usize,
    pushed: Option<Pushed>,
}

/// A timestamp that came before it was asked for. Nothing of it is believed yet.
#[derive(Debug)]
struct Pushed {
    timestamp: Vec<u8>,
    root_version: u64,
}

impl AwaitsRoot {
    fn begin(
        pushed: Option<Pushed>,
        context: &Context,
        trusted: &TrustedMetadata,
    ) -> Result<Self, Error> {
        let bytes = trusted.file(&RoleName::root()).ok_or(Error::NoRoot)?;
        let root = trusted_root(bytes, &context.limits)?;
        Ok(Self { root, rotations_left: context.limits.root_rotations, pushed })
    }

    fn request(&self, context: &Context) -> Request {
        let version = self.root.version().saturating_add(1);
        Request {
            file: RoleName::root().remote_file_name(Some(version)),
            max_bytes: context.limits.root_bytes as u64,
        }
    }

    fn handle(self, answer: Answer, context: &Context, trusted: &mut TrustedMetadata) -> Step {
        let Answer::Found(bytes) = answer else {
            return match self.pushed {
                Some(_) => Err(self.request(context).missing()),
                None => AwaitsTimestamp::enter(self.root, context, trusted),
            };
        };
        let root = next_root(&bytes, &self.root, &context.limits)
            .map_err(|error| self.request(context).refused(error))?;
        trusted.keep(RoleName::root(), bytes);
        forget_if_rotated(&self.root, &root, trusted);
        let rotations_left = self.rotations_left.saturating_sub(1);
        Self { root, rotations_left, pushed: self.pushed }.go_on(context, trusted)
    }

    fn go_on(self, context: &Context, trusted: &mut TrustedMetadata) -> Step {
        match self.pushed {
            Some(pushed) if pushed.root_version <= self.root.version() => {
                let state = AwaitsTimestamp::after(self.root, context, trusted)?;
                state.handle(Answer::Found(pushed.timestamp), context, trusted)
            }
            Some(_) if self.rotations_left == 0 => {
                Err(Error::TooManyRoots { max: context.limits.root_rotations })
            }
            None if self.rotations_left == 0 => AwaitsTimestamp::enter(self.root, context, trusted),
            _ => Ok(Next::Fetch(State::Root(self))),
        }
    }
}

// A key that was only added, or a threshold that changed, gives no one else a say about versions:
// what is trusted then stays, as long as its signatures suffice.
fn forget_if_rotated(old: &Root, new: &Root, trusted: &mut TrustedMetadata) {
    let lost = |role| old.holders(role).lose_a_key(&new.holders(role));
    if lost(Role::Timestamp) || lost(Role::Snapshot) {
        trusted.forget(RoleName::timestamp());
        trusted.forget(RoleName::snapshot());
    }
}

/// Asks for the timestamp (§5.4).
#[derive(Debug)]
struct AwaitsTimestamp {
    root: Root,
    trusted: Option<Timestamp>,
}

impl AwaitsTimestamp {
    fn enter(root: Root, context: &Context, trusted: &TrustedMetadata) -> Step {
        Self::after(root, context, trusted).map(|state| Next::Fetch(State::Timestamp(state)))
    }

    fn after(root: Root, context: &Context, trusted: &TrustedMetadata) -> Result<Self, Error> {
        check_expiry(DocumentKind::Root, root.expires(), context.now)?;
        let bytes = trusted.file(&RoleName::timestamp());
        let trusted = bytes.and_then(|bytes| Timestamp::read(bytes, &root, &context.limits).ok());
        Ok(Self { root, trusted })
    }

    fn handle(self, answer: Answer, context: &Context, trusted: &mut TrustedMetadata) -> Step {
        let request = timestamp_request(context);
        let Answer::Found(bytes) = answer else { return Err(request.missing()) };
        let offered = Timestamp::read(&bytes, &self.root, &context.limits)
            .and_then(|offered| self.checked(offered, context))
            .map_err(|error| request.refused(error))?;
        let timestamp = match self.trusted {
            // What is trusted already is kept where the version is the same (§5.4.3.1).
            Some(trusted) if trusted.version == offered.version => {
                check_expiry(DocumentKind::Timestamp, trusted.expires, context.now)?;
                trusted
            }
            _ => {
                trusted.keep(RoleName::timestamp(), bytes);
                offered
            }
        };
        AwaitsSnapshot::enter(self.root, timestamp, context, trusted)
    }

    fn checked(&self, offered: Timestamp, context: &Context) -> Result<Timestamp, Error> {
        if let Some(trusted) = &self.trusted {
            check_rollback("timestamp.json", offered.version, trusted.version)?;
            if offered.version == trusted.version {
                return Ok(offered);
            }
            let (new, old) = (&offered.snapshot, &trusted.snapshot);
            check_rollback("snapshot.json", new.version, old.version)?;
        }
        // Else a root that takes a key away would bring back what another key signed before it.
        if let Some(root_version) = offered.root_version {
            check_rollback("root.json", root_version, self.root.version())?;
        }
        check_expiry(DocumentKind::Timestamp, offered.expires, context.now)?;
        Ok(offered)
    }
}

fn timestamp_request(context: &Context) -> Request {
    Request {
        file: RoleName::timestamp().remote_file_name(None),
        max_bytes: context.limits.timestamp_bytes as u64,
    }
}

/// Asks for the snapshot that the timestamp names (§5.5).
#[derive(Debug)]
struct AwaitsSnapshot {
    root: Root,
    timestamp: Timestamp,
    trusted: Option<Snapshot>,
    request: Request,
}

impl AwaitsSnapshot {
    fn enter(
        root: Root,
        timestamp: Timestamp,
        context: &Context,
        trusted: &TrustedMetadata,
    ) -> Step {
        let role = RoleName::snapshot();
        let limits = &context.limits;
        let bytes = trusted.file(&role);
        let known = bytes.and_then(|bytes| Snapshot::read(bytes, &root, limits).ok());
        let meta = &timestamp.snapshot;
        let holds = |snapshot: &Snapshot, bytes| {
            snapshot.version == meta.version
                && snapshot.expires > context.now
                && meta.check_bytes(bytes).is_ok()
        };
        let known = match (bytes, known) {
            (Some(bytes), Some(snapshot)) if holds(&snapshot, bytes) => {
                return AwaitsTargets::enter(root, &timestamp, snapshot, context, trusted);
            }
            (_, known) => known,
        };
        let version = root.consistent_snapshot().then_some(meta.version);
        let request = Request {
            file: role.remote_file_name(version),
            max_bytes: meta.max_bytes(DocumentKind::Snapshot, limits.snapshot_bytes)?,
        };
        Ok(Next::Fetch(State::Snapshot(Self { root, timestamp, trusted: known, request })))
    }

    fn handle(self, answer: Answer, context: &Context, trusted: &mut TrustedMetadata) -> Step {
        let Answer::Found(bytes) = answer else { return Err(self.request.missing()) };
        let snapshot = self.read(&bytes, context).map_err(|error| self.request.refused(error))?;
        trusted.keep(RoleName::snapshot(), bytes);
        trusted.forget_delegated_unless(|role| snapshot.file(role).is_some());
        AwaitsTargets::enter(self.root, &self.timestamp, snapshot, context, trusted)
    }

    fn read(&self, bytes: &[u8], context: &Context) -> Result<Snapshot, Error> {
        let meta = &self.timestamp.snapshot;
        meta.check_bytes(bytes)?;
        let snapshot = Snapshot::read(bytes, &self.root, &context.limits)?;
        check_version(DocumentKind::Snapshot, snapshot.version, meta.version)?;
        if let Some(trusted) = &self.trusted {
            snapshot.check_follows(trusted)?;
        }
        check_expiry(DocumentKind::Snapshot, snapshot.expires, context.now)?;
        Ok(snapshot)
    }
}

/// Asks for the targets metadata that the snapshot names (§5.6).
#[derive(Debug)]
struct AwaitsTargets {
    repository: Repository,
    request: Request,
}

impl AwaitsTargets {
    fn enter(
        root: Root,
        timestamp: &Timestamp,
        snapshot: Snapshot,
        context: &Context,
        trusted: &TrustedMetadata,
    ) -> Step {
        let fresh_until = root.expires().min(timestamp.expires).min(snapshot.expires);
        let repository = Repository { root, snapshot, context: *context, fresh_until };
        let role = RoleName::targets();
        if trusted.file(&role).is_some_and(|bytes| repository.check_targets(bytes).is_ok()) {
            return Ok(Next::Done(repository));
        }
        let request = repository.role_request(&role)?;
        Ok(Next::Fetch(State::Targets(Self { repository, request })))
    }

    fn handle(self, answer: Answer, trusted: &mut TrustedMetadata) -> Step {
        let Self { repository, request } = self;
        let Answer::Found(bytes) = answer else { return Err(request.missing()) };
        repository.check_targets(&bytes).map_err(|error| request.refused(error))?;
        trusted.keep(RoleName::targets(), bytes);
        Ok(Next::Done(repository))
    }
}
