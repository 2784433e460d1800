//! The fleet manager as a program of its own.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

use selvedge_fleet::{FleetArgs, main_with};

/// The fleet manager: broker, registry, API and dashboard.
#[derive(Parser)]
#[command(name = "selvedge-fleet", version)]
struct Command {
    #[command(flatten)]
    args: FleetArgs,
}

fn main() -> ExitCode {
    main_with(Command::parse().args)
}
