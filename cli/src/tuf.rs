//! `selvedge tuf`: a client of a TUF repository over HTTP. The decisions are `trust`'s; here are the network, the disk
//! and the clock.
//!
//! The arguments are those that the suite theupdateframework/tuf-conformance gives to every client.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use selvedge_trust::{
    Answer, FileCheck, Limits, Next, Refresh, Repository, Request, RoleName, TARGETS_BYTES_MAX,
    TargetFile, TrustedMetadata,
};
use tempfile::NamedTempFile;
use ureq::{Agent, Body, http::Response};

use crate::clock;

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take to begin an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long one file of metadata may take: whoever sends it a byte at a time holds nobody up for longer.
const METADATA_LIMIT: Duration = Duration::from_secs(60);
/// How long one target may take.
const TARGET_LIMIT: Duration = Duration::from_secs(60 * 60);
/// How much of a target is read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The TUF client's command line, as the public conformance suite speaks it
///
/// Keeps up with a TUF repository over HTTP and downloads targets from it, in the words that
/// theupdateframework/tuf-conformance gives to every client. Agent and fleet do not use repository metadata yet.
#[derive(Debug, clap::Args)]
pub struct TufArgs {
    /// Where trusted metadata is kept, as root.json, timestamp.json and so on
    #[arg(long, value_name = "FOLDER")]
    metadata_dir: PathBuf,
    /// Where the repository has its metadata
    #[arg(long, value_name = "URL")]
    metadata_url: Option<String>,
    /// What to download; may be repeated
    #[arg(long, value_name = "PATH")]
    target_name: Vec<String>,
    /// Where the repository has its targets
    #[arg(long, value_name = "URL")]
    target_base_url: Option<String>,
    /// Where downloaded targets are kept
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Begins with root metadata that is trusted
    Init {
        /// The root metadata
        root: PathBuf,
    },
    /// Brings metadata up to date
    Refresh,
    /// Brings metadata up to date, then downloads targets that are not there yet
    Download,
}

/// Runs the command.
pub fn main(args: TufArgs) -> anyhow::Result<ExitCode> {
    let TufArgs { metadata_dir, metadata_url, target_name, target_base_url, target_dir, action } =
        args;
    if let Action::Init { root } = action {
        init(&metadata_dir, &root)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut client = Client {
        agent: agent(),
        mirror: Mirror::at(&metadata_url.context("--metadata-url is missing")?),
        trusted: read_trusted(&metadata_dir)?,
        metadata_dir,
    };
    let repository = client.refresh()?;
    if let Action::Download = action {
        let base_url = with_slash(target_base_url.context("--target-base-url is missing")?);
        let folder = target_dir.context("--target-dir is missing")?;
        ensure!(!target_name.is_empty(), "--target-name is missing");
        for path in target_name {
            let target = client.search(&repository, &path)?;
            let target =
                target.with_context(|| format!("the repository has no target {path:?}"))?;
            client.download(&repository, &target, &base_url, &folder)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init(metadata_dir: &Path, root: &Path) -> anyhow::Result<()> {
    let kept = metadata_dir.join(RoleName::root().file_name());
    ensure!(!kept.exists(), "{} exists: trust has begun already", kept.display());
    let bytes = fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    Refresh::start(
        &TrustedMetadata::new([(RoleName::root(), bytes.clone())]),
        clock::now(),
        Limits::default(),
    )
    .with_context(|| format!("cannot trust {}", root.display()))?;
    fs::create_dir_all(metadata_dir)
        .with_context(|| format!("cannot make {}", metadata_dir.display()))?;
    replace(&kept, &bytes)?;
    sync_folder(metadata_dir)
}

/// The target at `path` of the repository at `place`, a folder or a URL; nothing where it has none. What is fetched on
/// the way is checked, beginning with `root`, and forgotten.
pub fn find_target(place: &str, root: Vec<u8>, path: &str) -> anyhow::Result<Option<TargetFile>> {
    let mirror = Mirror::at(place);
    let mut trusted = TrustedMetadata::new([(RoleName::root(), root)]);
    let mut forget = |trusted: &mut TrustedMetadata| {
        trusted.take_changes();
        Ok(())
    };
    let repository = mirror.refresh(&mut trusted, &mut forget)?;
    mirror.search(&repository, path, &mut trusted, &mut forget)
}

/// What is done with metadata that has just been verified.
type Store<'a> = dyn FnMut(&mut TrustedMetadata) -> anyhow::Result<()> + 'a;

/// Where a repository's metadata lies, as files with the names that TUF 1.0 gives to consistent snapshots.
enum Mirror {
    Folder(PathBuf),
    Url { agent: Agent, url: String },
}

impl Mirror {
    fn at(place: &str) -> Mirror {
        if place.starts_with("http://") || place.starts_with("https://") {
            return Mirror::Url { agent: agent(), url: with_slash(place.to_owned()) };
        }
        Mirror::Folder(PathBuf::from(place))
    }

    fn refresh(
        &self,
        trusted: &mut TrustedMetadata,
        store: &mut Store<'_>,
    ) -> anyhow::Result<Repository> {
        let mut refresh = Refresh::start(trusted, clock::now(), Limits::default())
            .context("cannot begin with the metadata that is trusted")?;
        loop {
            let answer = self.fetch(&refresh.request())?;
            let next = refresh.answer(answer, trusted);
            store(trusted)?;
            match next? {
                Next::Fetch(state) => refresh = state,
                Next::Done(repository) => return Ok(repository),
            }
        }
    }

    fn search(
        &self,
        repository: &Repository,
        path: &str,
        trusted: &mut TrustedMetadata,
        store: &mut Store<'_>,
    ) -> anyhow::Result<Option<TargetFile>> {
        let mut next = repository.search(path, trusted);
        loop {
            match next? {
                Next::Done(target) => return Ok(target),
                Next::Fetch(search) => {
                    let answer = self.fetch(&search.request())?;
                    next = search.answer(answer, trusted);
                    store(trusted)?;
                }
            }
        }
    }

    fn fetch(&self, request: &Request) -> anyhow::Result<Answer> {
        // One byte more than the limit is enough to see that there are more.
        let max_bytes = request.max_bytes.saturating_add(1);
        let mut bytes = Vec::new();
        match self {
            Mirror::Folder(folder) => {
                let path = folder.join(&request.file);
                let cannot_read = || format!("cannot read {}", path.display());
                match File::open(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        return Ok(Answer::NotFound);
                    }
                    file => file
                        .and_then(|file| file.take(max_bytes).read_to_end(&mut bytes))
                        .with_context(cannot_read)?,
                };
            }
            Mirror::Url { agent, url } => {
                let url = format!("{url}{}", request.file);
                let Some(response) = call(agent, &url, METADATA_LIMIT)? else {
                    return Ok(Answer::NotFound);
                };
                let mut body = response.into_body().into_reader().take(max_bytes);
                body.read_to_end(&mut bytes).with_context(|| format!("cannot read {url}"))?;
            }
        }
        Ok(Answer::Found(bytes))
    }
}

struct Client {
    agent: Agent,
    mirror: Mirror,
    metadata_dir: PathBuf,
    trusted: TrustedMetadata,
}

impl Client {
    fn refresh(&mut self) -> anyhow::Result<Repository> {
        let Client { mirror, metadata_dir, trusted, .. } = self;
        mirror.refresh(trusted, &mut |trusted| store_changes(trusted, metadata_dir))
    }

    fn search(
        &mut self,
        repository: &Repository,
        path: &str,
    ) -> anyhow::Result<Option<TargetFile>> {
        let Client { mirror, metadata_dir, trusted, .. } = self;
        let store = &mut |trusted: &mut TrustedMetadata| store_changes(trusted, metadata_dir);
        mirror.search(repository, path, trusted, store)
    }

    fn download(
        &self,
        repository: &Repository,
        target: &TargetFile,
        base_url: &str,
        folder: &Path,
    ) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(local_name(&target.path));
        if is_already(&path, target.check())? {
            return Ok(());
        }
        let url = format!("{base_url}{}", repository.target_request(target)?.file);
        let response = call(&self.agent, &url, TARGET_LIMIT)?
            .with_context(|| format!("{url} does not exist"))?;
        let mut file = temporary(folder)?;
        copy_checked(&mut response.into_body().into_reader(), &mut file, target.check())
            .with_context(|| format!("cannot take {url}"))?;
        persist(file, &path)?;
        sync_folder(folder)
    }
}

/// What the server answers, or nothing if it has no such file. Object stores say 403 for that.
fn call(agent: &Agent, url: &str, limit: Duration) -> anyhow::Result<Option<Response<Body>>> {
    let request = agent.get(url).config().timeout_recv_body(Some(limit)).build();
    let response = request.call().with_context(|| format!("cannot fetch {url}"))?;
    match response.status().as_u16() {
        200 => Ok(Some(response)),
        403 | 404 => Ok(None),
        status => bail!("cannot fetch {url}: the server answers with status {status}"),
    }
}

fn store_changes(trusted: &mut TrustedMetadata, metadata_dir: &Path) -> anyhow::Result<()> {
    let changes = trusted.take_changes();
    for role in &changes {
        let path = metadata_dir.join(role.file_name());
        match trusted.file(role) {
            Some(bytes) => replace(&path, bytes)?,
            None => remove(&path)?,
        }
    }
    if changes.is_empty() { Ok(()) } else { sync_folder(metadata_dir) }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_LIMIT))
        .timeout_recv_response(Some(ANSWER_LIMIT))
        .build();
    config.into()
}

fn with_slash(url: String) -> String {
    if url.ends_with('/') { url } else { url + "/" }
}

/// Every file of metadata in `folder`. Files of other names are left alone.
fn read_trusted(folder: &Path) -> anyhow::Result<TrustedMetadata> {
    let mut files = Vec::new();
    let context = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(role) = name.and_then(RoleName::from_file_name) else { continue };
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.take(TARGETS_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        files.push((role, bytes));
    }
    Ok(TrustedMetadata::new(files))
}

/// A name for the target in one flat folder: what could lead out of it is quoted.
fn local_name(target_path: &str) -> String {
    let mut name = String::new();
    for byte in target_path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        if plain || (byte == b'.' && !name.is_empty()) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn is_already(path: &Path, check: FileCheck) -> anyhow::Result<bool> {
    match File::open(path) {
        Ok(mut file) => Ok(copy_checked(&mut file, &mut std::io::sink(), check).is_ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
    }
}

fn copy_checked(
    from: &mut impl Read,
    to: &mut impl Write,
    mut check: FileCheck,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                check.update(&piece[..count])?;
                to.write_all(&piece[..count]).context("cannot write")?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read on"),
        }
    }
    Ok(check.finish()?)
}

/// Puts `bytes` in the place of the file at `path`, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("metadata is in a folder")?;
    let mut file = temporary(folder)?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
    persist(file, path)
}

fn temporary(folder: &Path) -> anyhow::Result<NamedTempFile> {
    NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))
}

fn persist(file: NamedTempFile, path: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    file.as_file().sync_all().with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes names in `folder` survive a power cut.
fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot sync {}", folder.display());
    File::open(folder).with_context(context)?.sync_all().with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_in_its_folder() {
        for (path, name) in [
            ("file.txt", "file.txt"),
            ("a/b.txt", "a%2Fb.txt"),
            ("..", "%2E."),
            ("../x", "%2E.%2Fx"),
            (".hidden", "%2Ehidden"),
            ("é%", "%C3%A9%25"),
        ] {
            assert_eq!(local_name(path), name);
        }
    }
}
