//! Both clients, behind the same few words.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use selvedge_trust::{
    Answer, Error, Limits, Next, Refresh, Request, RoleName, Search, TargetFile, TrustedMetadata,
    UnixMillis,
};
use tempfile::TempDir;
use tough::{FilesystemTransport, RepositoryLoader, TargetName};
use url::Url;

use crate::history::Files;

/// What a client makes of a target path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The repository, or the role that would know, is not believed.
    Refused(String),
    /// There is no such target.
    NotFound,
    /// Its length and its SHA-256.
    Found(u64, Vec<u8>),
}

/// The time, which tough reads for itself.
pub fn now() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    UnixMillis(u64::try_from(now.as_millis()).expect("the year has five digits at most"))
}

/// Our client.
pub struct Ours {
    trusted: TrustedMetadata,
}

impl Ours {
    /// One that begins with a root.
    pub fn new(root: &[u8]) -> Self {
        Self { trusted: TrustedMetadata::new([(RoleName::root(), root.to_vec())]) }
    }

    /// Refreshes and asks for each path.
    pub fn follow(&mut self, files: &Files, paths: &[String], now: UnixMillis) -> Vec<Verdict> {
        let refreshed = self.refresh(files, now);
        let find = |path: &String| match &refreshed {
            Err(error) => Verdict::Refused(told(error)),
            Ok(repository) => match self.search(repository.search(path, &self.trusted), files) {
                Err(error) => Verdict::Refused(told(&error)),
                Ok(None) => Verdict::NotFound,
                Ok(Some(file)) => found(&file),
            },
        };
        paths.iter().map(find).collect()
    }

    fn refresh(
        &mut self,
        files: &Files,
        now: UnixMillis,
    ) -> Result<selvedge_trust::Repository, Error> {
        let mut refresh = Refresh::start(&self.trusted, now, Limits::default())?;
        loop {
            let answer = answer(files, &refresh.request());
            match refresh.answer(answer, &mut self.trusted)? {
                Next::Fetch(next) => refresh = next,
                Next::Done(repository) => return Ok(repository),
            }
        }
    }

    /// Asks without keeping what it reads, so that the order of the paths does not matter.
    fn search(
        &self,
        begun: Result<Next<Search, Option<TargetFile>>, Error>,
        files: &Files,
    ) -> Result<Option<TargetFile>, Error> {
        let mut trusted = self.trusted.clone();
        let mut next = begun?;
        loop {
            match next {
                Next::Done(found) => return Ok(found),
                Next::Fetch(search) => {
                    let answer = answer(files, &search.request());
                    next = search.answer(answer, &mut trusted)?;
                }
            }
        }
    }
}

fn answer(files: &Files, request: &Request) -> Answer {
    files.get(&request.file).map_or(Answer::NotFound, |bytes| Answer::Found(bytes.clone()))
}

fn found(file: &TargetFile) -> Verdict {
    let entry = selvedge_trust::BundleTarget::read(file).expect("every target is a bundle");
    Verdict::Found(entry.manifest.len_bytes, entry.manifest.digest.0.to_vec())
}

fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told += &format!(": {error}");
        source = error.source();
    }
    told
}

/// tough's client.
pub struct Tough {
    first_root: Vec<u8>,
    datastore: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Tough {
    /// One that begins with a root.
    pub fn new(root: &[u8]) -> Self {
        let datastore = tempfile::tempdir().expect("there is room for a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Self {
            first_root: root.to_vec(),
            datastore,
            runtime: runtime.expect("threads can be made"),
        }
    }

    /// Loads the repository and asks for each path.
    pub fn follow(&mut self, files: &Files, paths: &[String]) -> Vec<Verdict> {
        let served = tempfile::tempdir().expect("there is room for a folder");
        for (name, bytes) in files {
            fs::write(served.path().join(name), bytes).expect("there is room for a file");
        }
        // tough stores the root that it trusts; whoever calls it begins with that one.
        let stored = fs::read(self.datastore.path().join("root.json"));
        let root = stored.unwrap_or_else(|_| self.first_root.clone());
        let loader = RepositoryLoader::new(&root, url(served.path()), url(served.path()))
            .transport(FilesystemTransport)
            .datastore(self.datastore.path());
        let loaded = self.runtime.block_on(loader.load());
        let find = |path: &String| match &loaded {
            Err(error) => Verdict::Refused(told(error)),
            Ok(repository) => {
                let name = TargetName::new(path).expect("paths are plain");
                match repository.targets().signed.find_target(&name, false) {
                    Ok(target) => {
                        Verdict::Found(target.length, target.hashes.sha256.as_ref().to_vec())
                    }
                    Err(_) => Verdict::NotFound,
                }
            }
        };
        paths.iter().map(find).collect()
    }
}

fn url(folder: &Path) -> Url {
    Url::from_directory_path(folder).expect("the path is absolute")
}
