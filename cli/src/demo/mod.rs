//! `selvedge demo`: a fleet on this machine that does the whole job, on real data.
//!
//! Broker, fleet and agents are processes of this same binary ([`parts`]); what is done to them is
//! done with the commands and the API that everybody has ([`stage`]). The figures at the end are
//! those that devices reported and the fleet stored ([`figures`]).

mod figures;
mod fleet;
mod parts;
mod recipes;
mod stage;
mod story;
mod wait;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, error::ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

pub use self::recipes::find_models;

use self::{
    figures::Figures,
    stage::{Schedule, Stage},
    story::Story,
};

/// The second version goes out after this part of the time.
const UPGRADE_AFTER_PART: u32 = 3;
/// The shortest demo: a window of every device's profile closes in it, and so do some reports of its counters.
const LENGTH_MIN: Duration = Duration::from_secs(5);
/// What the demo exits with if it was interrupted before it had shown anything.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs a broker, a fleet and some agents on this machine, and updates their models
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    part: Option<PartCommand>,
    /// End by itself, once the time is over
    #[arg(long)]
    headless: bool,
    /// How long samples stream in before the figures are taken, for example 90s or 2m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_length, default_value = "60s")]
    length: Duration,
    /// When the second version goes out, from the first samples on [default: a third of the time]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    upgrade_after: Option<Duration>,
    /// Print the figures as one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Keep keys, bundles, logs and the fleet's data in this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many agents to start
    #[arg(long, value_name = "COUNT", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..=50))]
    devices: u16,
    /// Where the dashboard listens; port 0 is any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    http: std::net::SocketAddr,
    /// The folder of model recipes [default: that of the clone]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PartCommand {
    /// A command that ends with the demo that started it
    #[command(hide = true)]
    Part {
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Runs the demo, or one of its parts.
pub fn main(args: DemoArgs) -> Result<ExitCode> {
    if let Some(PartCommand::Part { command }) = args.part {
        parts::end_with_parent().context("cannot watch standard input")?;
        return crate::run([OsString::from("selvedge")].into_iter().chain(command));
    }
    let schedule = schedule(args.length, args.upgrade_after).unwrap_or_else(|message| {
        clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n")).exit()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(run(&args, schedule))
}

async fn run(args: &DemoArgs, schedule: Schedule) -> Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let models = find_models(args.models.as_deref())?;
    let folder = Folder::choose(args.dir.as_deref())?;
    let story = Story::begin();
    let devices = recipes::devices(args.devices);
    let mut stage = Stage::new(&story, folder.path(), &models, devices)?;

    let played = tokio::select! {
        played = stage.play(args.http, schedule) => {
            Some(played.with_context(|| folder.says_where_the_logs_are())?)
        }
        () = interrupt.next() => None,
    };
    if let Some(figures) = &played {
        story.summarise(figures);
        if !args.headless {
            story.tell("the fleet goes on until you press Ctrl-C");
            tokio::select! {
                gone = stage.go_on() => gone?,
                () = interrupt.next() => (),
            }
        }
    }
    story.tell("everything ends");
    stage.stop().await?;
    Ok(conclude(args, played.as_ref()))
}

fn conclude(args: &DemoArgs, played: Option<&Figures>) -> ExitCode {
    let Some(figures) = played else { return ExitCode::from(EXIT_INTERRUPTED) };
    if args.json {
        println!("{}", serde_json::to_string(figures).expect("figures are plain numbers"));
    }
    if figures.broken_promises().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ctrl-C, or the request of a service manager to end.
struct Interrupt {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupt {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}

/// Where the demo keeps its state: a folder that is kept, or one that goes with the demo.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn choose(named: Option<&Path>) -> Result<Self> {
        let Some(path) = named else {
            let made = tempfile::Builder::new().prefix("selvedge-demo-").tempdir();
            return Ok(Self::Temporary(made.context("cannot make a temporary folder")?));
        };
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("no {}", path.display()))?;
        let mut entries =
            fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if entries.next().is_some() {
            bail!("{} is not empty: name a new folder with --dir", path.display());
        }
        Ok(Self::Kept(path))
    }

    fn says_where_the_logs_are(&self) -> String {
        match self {
            Self::Kept(path) => format!("the demo failed; its logs are in {}/logs", path.display()),
            Self::Temporary(_) => "the demo failed; --dir DIR would keep its logs".to_owned(),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// When what happens, or why that is no demo.
fn schedule(length: Duration, upgrade_after: Option<Duration>) -> Result<Schedule, String> {
    let upgrade_after = upgrade_after.unwrap_or(length / UPGRADE_AFTER_PART);
    if upgrade_after >= length {
        return Err(format!(
            "--upgrade-after {} s is not before the end, --for {} s: version 2 would never go out in time",
            upgrade_after.as_secs(),
            length.as_secs()
        ));
    }
    Ok(Schedule { upgrade_after, length })
}

/// Reads a time of at least [`LENGTH_MIN`].
fn parse_length(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    if length < LENGTH_MIN {
        return Err(format!("expected at least {} s", LENGTH_MIN.as_secs()));
    }
    Ok(length)
}

/// Reads `90`, `90s`, `2m` or `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let number: u32 = number.parse().map_err(|_| "expected a time such as 90s, 2m or 1h")?;
    Ok(Duration::from_secs(u64::from(number) * unit_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        let cases = [
            ("90", Some(90)),
            ("60s", Some(60)),
            ("2m", Some(120)),
            ("1h", Some(3600)),
            ("", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("10 s", None),
            ("1ms", None),
        ];
        let wrong: Vec<_> = cases
            .into_iter()
            .filter(|(text, seconds)| parse_duration(text).ok() != seconds.map(Duration::from_secs))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_demo_without_time_for_version_2_is_refused() {
        let s = Duration::from_secs;
        assert!(parse_length("0s").is_err());
        assert!(parse_length("4s").expect_err("too short").contains("at least 5 s"));
        assert_eq!(parse_length("5s"), Ok(LENGTH_MIN));
        let after = |length, after| schedule(length, after).map(|it| it.upgrade_after);
        assert_eq!(after(s(60), None), Ok(s(20)));
        assert_eq!(after(s(60), Some(s(59))), Ok(s(59)));
        let late = after(s(10), Some(s(20))).expect_err("after the end");
        assert!(late.contains("--upgrade-after 20 s") && late.contains("--for 10 s"), "{late}");
        assert!(after(s(10), Some(s(10))).is_err());
    }

    #[test]
    fn a_folder_in_use_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(dir.path().join("mine"), "").expect("the folder can be written");
        let error = Folder::choose(Some(dir.path())).err().expect("the folder is not empty");
        assert!(error.to_string().contains("is not empty"), "{error}");
    }
}
