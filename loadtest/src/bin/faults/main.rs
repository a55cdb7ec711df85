//! `faas-faults`: the long fault suites, each its own command. They print what
//! they counted and end with 1 when a promise broke.

#![allow(clippy::print_stdout, reason = "the report on stdout is what this program is for")]

mod hostile;
mod kills;
mod messages;

use clap::{Parser, Subcommand};

/// Long fault suites over the real binary and real servers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Runs hostile guests beside neighbours under load and checks that nobody else notices.
    Hostile(hostile::Arguments),
    /// Kills the platform with SIGKILL under load, again and again, and checks what it promised to keep.
    Kills(kills::Arguments),
    /// Sends numbered messages while broker and platform are killed, and counts effects.
    Messages(messages::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().suite {
        Suite::Hostile(arguments) => hostile::run(arguments).await,
        Suite::Kills(arguments) => kills::run(arguments).await,
        Suite::Messages(arguments) => messages::run(arguments).await,
    }
}
