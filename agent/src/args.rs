//! The command line of `selvedge-agent`, which `selvedge agent` shares.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    clock::SystemClock,
    config::Config,
    daemon,
    error::{Error, ErrorKind, one_line},
    self_test::{TrustedRepository, is_bundle, self_test},
    trial::{TrialArgs, TrialProgram, try_here},
};

/// Exit code when whoever started the agent has to act.
const EXIT_OPERATOR: u8 = 2;

/// Runs the agent of a device.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "agent.toml")]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<AgentCommand>,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Checks that this build runs a bundle on this machine: golden vectors, a profile, signatures.
    SelfTest {
        /// The folder of the bundle.
        bundle: PathBuf,
        /// The folder of a repository's metadata that the bundle must be a target of.
        #[arg(long, value_name = "DIR", requires = "root")]
        repository: Option<PathBuf>,
        /// The root metadata that trust in the repository begins with.
        #[arg(long, value_name = "FILE", requires = "repository")]
        root: Option<PathBuf>,
    },
    /// Tries a bundle of the state directory within limits, and prints what came of it as JSON: the agent
    /// starts itself with this before a bundle may answer.
    #[command(hide = true)]
    Trial(TrialArgs),
}

/// Runs the agent until it is told to end (SIGINT, SIGTERM). `words` are the arguments after which this
/// program takes the agent's: it starts itself for trials.
pub fn main_with(args: AgentArgs, words: &[&str]) -> ExitCode {
    match args.command {
        Some(AgentCommand::SelfTest { bundle, repository, root }) => {
            let trusted = repository.as_deref().zip(root.as_deref());
            report_checks(&bundle, trusted.map(|(folder, root)| TrustedRepository { folder, root }))
        }
        Some(AgentCommand::Trial(trial)) => try_here(&trial),
        None => run_daemon(&args.config, TrialProgram::of_this_process(words)),
    }
}

fn report_checks(bundle: &Path, repository: Option<TrustedRepository<'_>>) -> ExitCode {
    if !is_bundle(bundle) {
        eprintln!("{} is not a bundle: it has no index.json", bundle.display());
        return ExitCode::from(EXIT_OPERATOR);
    }
    let checks = self_test(bundle, repository, &SystemClock::new());
    let mut out = std::io::stdout().lock();
    for check in &checks {
        let line = match &check.outcome {
            Ok(found) => format!("ok      {}: {found}", check.name),
            Err(problem) => format!("FAILED  {}: {problem}", check.name),
        };
        // Whoever closed the pipe reads no more; the exit code still says it.
        let _ = writeln!(out, "{line}");
    }
    if checks.iter().all(|check| check.outcome.is_ok()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_daemon(config: &Path, trials: TrialProgram) -> ExitCode {
    log_to_stderr();
    match serve(config, trials) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selvedge-agent: {}", one_line(&error));
            match error.kind() {
                ErrorKind::Operator => ExitCode::from(EXIT_OPERATOR),
                ErrorKind::Device | ErrorKind::Bug => ExitCode::FAILURE,
            }
        }
    }
}

fn serve(config: &Path, trials: TrialProgram) -> Result<(), Error> {
    let config = Config::load(config).map_err(Error::Config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let name = "runtime".to_owned();
    let runtime = runtime.map_err(|source| Error::Thread { name, source })?;
    runtime.block_on(daemon::run(config, trials, told_to_end()))
}

/// Resolves when the process is told to end.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!("SIGTERM will end the agent without a farewell: {error}");
            // Whoever cannot be told in one way is told in the other.
            let _ = interrupted.await;
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A process that plays several parts has set up its log already.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}
