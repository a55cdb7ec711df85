//! Everything of the configured store into a file and back, without a server.

use std::path::Path;

use faas_data_folder::DataFolder;
use faas_repo::{CodeRepo as _, FolderRepo};
use faas_transfer::{Existing, Tally, TransferError};
use tokio::fs::File;
use tokio::io::{BufReader, BufWriter};

use super::store::Opened;
use crate::cli::Transfer;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;
use crate::settings::Settings;

/// Writes everything to a file that must not exist yet.
pub(crate) async fn export(asked: &Transfer) -> Outcome {
    let (store, repo) = open(asked).await?;
    let made = File::options().write(true).create_new(true).open(&asked.file).await;
    let mut out = BufWriter::new(made.map_err(|e| unusable(&asked.file, &e))?);
    let done = faas_transfer::export(&*store.store, &repo, &mut out).await;
    store.close().await;
    let tally = done.map_err(|e| failed(&asked.file, &e))?;
    out.get_mut().sync_all().await.map_err(|e| unusable(&asked.file, &e))?;
    told("exported", &tally)
}

/// Brings an exported file in.
pub(crate) async fn import(asked: &Transfer, existing: Existing) -> Outcome {
    let (store, repo) = open(asked).await?;
    let file = File::open(&asked.file).await.map_err(|e| unusable(&asked.file, &e))?;
    let done = faas_transfer::import(&*store.store, &repo, existing, &mut BufReader::new(file)).await;
    // Even a part of it is to be seen by servers that run.
    let seen = repo.changed_beside_turns().await;
    store.close().await;
    let tally = done.map_err(|e| failed(&asked.file, &e))?;
    seen.map_err(|e| failed(&asked.file, &e.into()))?;
    told("imported", &tally)
}

async fn open(asked: &Transfer) -> Outcome<(Opened, FolderRepo)> {
    let settings = Settings::load(&asked.layers)?;
    let data = DataFolder::open(&settings.server.data)?;
    let store = Opened::open(&settings, &data).await?;
    let repo = store.repo(&settings, &data).await?;
    Ok((store, repo))
}

fn told(done: &str, tally: &Tally) -> Outcome {
    let Tally { rows, left, codes } = tally;
    let left = if *left == 0 { String::new() } else { format!(", {left} were there already and were left") };
    output::line(&format!("{done} {codes} codes of functions and {rows} rows{left}"))
}

fn unusable(file: &Path, error: &std::io::Error) -> Failure {
    let hint = "name a file that can be read, or a new one to write";
    Failure::new(Exit::Refused, format!("{} cannot be opened: {error}", file.display()), hint)
}

fn failed(file: &Path, error: &TransferError) -> Failure {
    let (exit, hint) = match error {
        TransferError::Line { .. } => (Exit::Data, "export again; what came before that line stays"),
        TransferError::Exists { .. } => {
            (Exit::Refused, "import into an empty store, or say --existing keep or replace")
        }
        _ => (Exit::Unreachable, "do the same again with --existing keep to complete it"),
    };
    Failure::new(exit, format!("{}: {error}", file.display()), hint)
}
