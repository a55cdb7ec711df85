//! `faas-faults`: the long fault suites, each its own command. They print what
//! they counted and end with 1 when a promise broke.

#![allow(clippy::print_stdout, reason = "the report on stdout is what this program is for")]

mod chaos;
mod clock;
mod cluster;
mod crashes;
mod deploys;
mod disk;
mod drain;
mod failpoints;
mod hostile;
mod kills;
mod messages;
mod scale;
mod traffic;

use clap::{Parser, Subcommand};
use faas_loadtest::http::Client;
use faas_loadtest::platform::Platform;

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
    /// Sends requests at the moment when idle instances are unloaded.
    Scale(scale::Arguments),
    /// Stops the platform with SIGTERM under load, and starts it again.
    Drain(drain::Arguments),
    /// Ends the platform at every step of a deploy, a rollback, a removal and a start.
    Failpoints(failpoints::Arguments),
    /// Kills the platform at random times with requests, messages, state and deploys under way.
    Chaos(chaos::Arguments),
    /// Calls a function that traps at random, and one that never starts.
    Crashes(crashes::Arguments),
    /// Fills the disk and frees it again.
    Disk(disk::Arguments),
    /// Sets the platform's wall clock while it runs.
    Clock(clock::Arguments),
    /// Runs two platforms over three Cassandra nodes under load while any of them dies.
    Cluster(cluster::Arguments),
    /// Deploys on two platforms over one Cassandra in turn, and kills them in the midst.
    Deploys(deploys::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().suite {
        Suite::Hostile(arguments) => hostile::run(arguments).await,
        Suite::Kills(arguments) => kills::run(arguments).await,
        Suite::Messages(arguments) => messages::run(arguments).await,
        Suite::Scale(arguments) => scale::run(arguments).await,
        Suite::Drain(arguments) => drain::run(arguments).await,
        Suite::Failpoints(arguments) => failpoints::run(arguments).await,
        Suite::Chaos(arguments) => Box::pin(chaos::run(arguments)).await,
        Suite::Crashes(arguments) => crashes::run(arguments).await,
        Suite::Disk(arguments) => disk::run(arguments).await,
        Suite::Clock(arguments) => clock::run(arguments).await,
        Suite::Deploys(arguments) => Box::pin(deploys::run(arguments)).await,
        Suite::Cluster(arguments) => Box::pin(cluster::run(arguments)).await,
    }
}

/// Returns the platform's metrics.
async fn metrics(platform: &Platform) -> anyhow::Result<String> {
    let authorization = format!("Bearer {}", platform.token()?);
    let headers = [("authorization", authorization.as_str())];
    let answer = Client::default().send(http::Method::GET, &platform.control("/metrics"), &headers, "").await?;
    anyhow::ensure!(answer.status == 200, "/metrics answers {}", answer.status);
    Ok(answer.text())
}
