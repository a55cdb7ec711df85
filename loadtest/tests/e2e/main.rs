//! The whole product from outside: the real binary, real clients, real servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod cluster;
mod crash;
mod deploys;
mod faults;
mod hostile;
mod invoking;
mod messages;
mod safety;
mod stores;
mod walk;

use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use tempfile::TempDir;

/// A fresh platform with its folder.
struct House {
    platform: Platform,
    client: Client,
    folder: TempDir,
}

async fn house() -> House {
    house_with(&[]).await
}

async fn house_with(flags: &[&str]) -> House {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { flags: flags.iter().map(ToString::to_string).collect(), ..Options::default() };
    let platform = Platform::start(folder.path(), options).await.unwrap();
    House { platform, client: Client::default(), folder }
}
