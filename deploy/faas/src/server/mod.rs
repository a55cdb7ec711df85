//! `faas up`: opens every part, says where it listens, waits, and drains.

mod listeners;
mod parts;
mod signals;
pub(crate) mod store;
pub(crate) mod transfer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use faas_control::Phase;
use faas_data_folder::DataFolder;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use self::listeners::Listeners;
use self::parts::Parts;
use self::signals::Signals;
use crate::cli::{Format, Up};
use crate::failure::{Exit, Failure, Outcome};
use crate::settings::Settings;
use crate::{observe, output};

/// How long threads that block may hold up the end of the process.
const LEFTOVERS_MAX: Duration = Duration::from_millis(500);

/// Runs the platform until a signal.
pub(crate) fn up(up: &Up) -> Outcome {
    // Whatever this process writes is for its user alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let settings = Settings::load(&up.layers)?;
    observe::log(&settings.server)?;
    raise_open_files();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if settings.server.workers > 0 {
        builder.worker_threads(settings.server.workers);
    }
    let runtime = builder.enable_all().thread_name("faas").build().map_err(|e| {
        Failure::new(Exit::Refused, format!("this process gets no threads: {e}"), "check its limits with `ulimit -a`")
    })?;
    let outcome = runtime.block_on(Box::pin(run(settings, up)));
    runtime.shutdown_timeout(LEFTOVERS_MAX);
    outcome
}

async fn run(settings: Settings, up: &Up) -> Outcome {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    // Every address is taken before anything is opened: what fails, fails first.
    let listeners = Listeners::bind(&settings.server).await?;
    let data = Arc::new(DataFolder::open(&settings.server.data)?);
    let grace = settings.server.grace.duration();
    let addresses = addresses(&listeners, &data);
    let kept = data.clone();
    let mut opening = tokio::spawn(async move { Parts::open(settings, &kept, listeners).await });
    // In a task of its own, since some of it blocks: a repair of the store may take long.
    let parts = tokio::select! {
        opened = &mut opening => opened.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?,
        signal = signals.next() => {
            info!(signal, "stopping before the start was done");
            return Ok(());
        }
    };
    parts.readiness.set(Phase::Ready);
    announce(up, &addresses, started.elapsed())?;
    info!(ms = started.elapsed().as_millis(), "ready");
    let signal = signals.next().await;
    info!(signal, "draining");
    tokio::select! {
        outcome = parts.close(Instant::now() + grace) => outcome,
        signal = signals.next() => {
            warn!(signal, "stopping at once");
            Err(Failure::new(Exit::Refused, "stopped at once by a second signal", "calls in progress were cut"))
        }
    }
}

fn addresses(listeners: &Listeners, data: &DataFolder) -> Value {
    json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "functions": listeners.functions.address,
        "control": listeners.control.address,
        "baas": listeners.baas.address,
        "token_file": data.file("token"),
        "data": data.path(),
    })
}

fn announce(up: &Up, addresses: &Value, took: Duration) -> Outcome {
    if let Some(file) = &up.ready_file {
        write_whole(file, &addresses.to_string())?;
    }
    if matches!(up.output, Format::Json | Format::Jsonl) {
        output::line(&addresses.to_string())?;
    }
    let text = |key: &str| output::at(addresses, key);
    output::note(&format!(
        "faas {} is ready after {} ms\n  \
         functions  http://{}/function/NAME\n  \
         control    http://{}  (token in {})\n  \
         state      http://{}/kv/BUCKET/KEY\n  \
         data       {}\n  \
         try        faas new hello && faas build hello && faas deploy hello && faas invoke hello",
        text("/version"),
        took.as_millis(),
        text("/functions"),
        text("/control"),
        text("/token_file"),
        text("/baas"),
        text("/data"),
    ));
    Ok(())
}

/// Writes a file that is whole for whoever sees it.
fn write_whole(file: &Path, text: &str) -> Outcome {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, format!("{text}\n")).and_then(|()| std::fs::rename(&beside, file)).map_err(|e| {
        let message = format!("ready file {} cannot be written: {e}", file.display());
        Failure::new(Exit::Refused, message, "name a file in a folder that exists with --ready-file")
    })
}

/// Thousands of connections need more than the 1,024 files that shells allow.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "the limit of open files cannot be raised");
    }
}
