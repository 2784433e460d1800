//! The program: arguments in, exit code out.

use std::{io::IsTerminal, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{Error, ErrorKind, config::FleetArgs, error::one_line, fleet::run};

/// The environment variable that says what is logged, as `tracing` filters are written.
const LOG_VARIABLE: &str = "SELVEDGE_LOG";
const LOG_DEFAULT: &str = "info,mqtt5=error";

const EXIT_OPERATOR: u8 = 2;
const EXIT_ENVIRONMENT: u8 = 1;

/// Runs the manager until SIGINT or SIGTERM. Errors are one line on standard error; the exit code is 2
/// for what the arguments or the keys are to blame for, 1 for anything else.
pub fn main_with(args: FleetArgs) -> ExitCode {
    start_logging();
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            match error.kind() {
                ErrorKind::Operator => EXIT_OPERATOR.into(),
                _ => EXIT_ENVIRONMENT.into(),
            }
        }
    }
}

fn start_logging() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| LOG_DEFAULT.into());
    // A program that has its own log keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

fn serve(args: FleetArgs) -> Result<(), Error> {
    let config = args.into_config()?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Error::Config(format!("cannot start threads: {error}")))?;
    runtime.block_on(async { run(config, stop_signal()?).await })
}

/// Done when the process is asked to stop.
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let failed = |error| Error::Config(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
