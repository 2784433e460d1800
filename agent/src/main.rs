//! `selvedge-agent`: the daemon on a gateway.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use selvedge_agent::{AgentArgs, main_with};

/// Runs quantised models on this device, counts what they see, and applies signed updates.
#[derive(Parser)]
#[command(name = "selvedge-agent", version)]
struct Cli {
    #[command(flatten)]
    agent: AgentArgs,
}

fn main() -> ExitCode {
    main_with(Cli::parse().agent, &[])
}
