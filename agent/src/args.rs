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
    self_test::{is_bundle, self_test},
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
    /// Checks that this build runs a bundle on this machine: golden vectors, a profile, a signature.
    SelfTest {
        /// The folder of the bundle.
        bundle: PathBuf,
        /// Root metadata that must trust the signer of the bundle.
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
    },
}

/// Runs the agent until it is told to end (SIGINT, SIGTERM).
pub fn main_with(args: AgentArgs) -> ExitCode {
    match args.command {
        Some(AgentCommand::SelfTest { bundle, root }) => report_checks(&bundle, root.as_deref()),
        None => run_daemon(&args.config),
    }
}

fn report_checks(bundle: &Path, root: Option<&Path>) -> ExitCode {
    if !is_bundle(bundle) {
        eprintln!("{} is not a bundle: it has no index.json", bundle.display());
        return ExitCode::from(EXIT_OPERATOR);
    }
    let checks = self_test(bundle, root, &SystemClock::new());
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

fn run_daemon(config: &Path) -> ExitCode {
    log_to_stderr();
    match serve(config) {
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

fn serve(config: &Path) -> Result<(), Error> {
    let config = Config::load(config).map_err(Error::Config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let name = "runtime".to_owned();
    let runtime = runtime.map_err(|source| Error::Thread { name, source })?;
    runtime.block_on(daemon::run(config, told_to_end()))
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
