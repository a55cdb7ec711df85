//! Hostile guests through the real binary, beside neighbours at steady load.
//!
//! Every kind is deployed, called again and again, and removed, a few kinds at once. No call of a
//! neighbour may fail, every hostile call has to end as its kind says, nothing of host or guest
//! may show in an answer, and what the process holds has to come back to its level.

mod call;
mod judge;
mod kinds;
mod leaks;
mod level;
mod neighbour;
mod texts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::process::Command;

use crate::load::{Shot, closed_loop};
use crate::platform::{Options, Platform};
use judge::Yard;
use kinds::Kind;
use leaks::Canaries;
pub use level::Level;
use neighbour::{Load, Seen};

/// A value of the server's environment that no guest may see.
const SECRET: &str = "a-secret-of-the-server";
/// Kinds that are on trial at once.
const KINDS_AT_ONCE: usize = 4;
/// How much the platform's threads for calls that compute yield to others.
const LANE_NICE: &str = "10";

/// How to run the suite.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Calls of each kind.
    pub calls: usize,
    /// Only kinds whose name or row contains this; empty for all.
    pub only: String,
    /// Kinds to leave out, by the beginning of their names.
    pub skip: Vec<String>,
    /// Of the rate that the neighbours reach at most, the share they are loaded with.
    pub share: f64,
    /// How long the neighbours are measured alone, and beside plain busy processes.
    pub quiet: Duration,
    /// One kind after the other, with what the neighbours saw beside each.
    pub apart: bool,
}

/// What came of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub kind: String,
    /// Its row of the promises.
    pub row: String,
    /// What the deploy gave: `live`, or the refusal.
    pub deploy: String,
    /// How many calls ended how.
    pub ends: BTreeMap<String, usize>,
    /// The longest call.
    pub worst_ms: u64,
    /// Bytes of all functions' log files when its calls had ended.
    pub log_bytes: u64,
    /// Where kinds come one after the other: what each neighbour saw from its deploy to its removal.
    pub beside: Vec<Latency>,
    /// The same: what the process held when it was removed.
    pub left: Option<Level>,
    /// What is not as promised.
    pub broken: Vec<String>,
}

impl Row {
    fn untried(kind: &Kind, error: &anyhow::Error) -> Self {
        Self {
            kind: kind.name.into(),
            row: kind.row.into(),
            deploy: String::new(),
            ends: BTreeMap::new(),
            worst_ms: 0,
            log_bytes: 0,
            beside: Vec::new(),
            left: None,
            broken: vec![format!("it could not be tried: {error:#}")],
        }
    }
}

/// Waits of a neighbour's calls.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

impl Latency {
    fn of(seen: &Seen) -> Self {
        Self { p50_ms: seen.quantile_ms(0.5), p99_ms: seen.quantile_ms(0.99) }
    }
}

/// A neighbour, alone, beside plain busy processes, and beside the guests.
#[derive(Debug, Clone, Serialize)]
pub struct Neighbour {
    /// Its name.
    pub name: String,
    /// Calls a second.
    pub rate: f64,
    /// Good calls beside the guests.
    pub calls: u64,
    /// Alone.
    pub quiet: Latency,
    /// Beside one busy loop a core outside the platform, as polite as the platform's own threads
    /// for guests: what the machine and this client make of it without any guest.
    pub floor: Latency,
    /// Beside the guests.
    pub loaded: Latency,
    /// Failed calls, in all three.
    pub errors: Vec<String>,
}

/// What the suite saw.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Each kind.
    pub rows: Vec<Row>,
    /// The neighbours.
    pub neighbours: Vec<Neighbour>,
    /// What the process held before the guests came, and after they went.
    pub level: (Level, Level),
    /// What does not belong to one kind.
    pub broken: Vec<String>,
}

impl Report {
    /// Returns everything that is not as promised, one line each.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let rows = self.rows.iter().flat_map(|row| row.broken.iter().map(move |what| format!("{}: {what}", row.kind)));
        let errors = self.neighbours.iter().flat_map(|n| n.errors.iter().map(move |e| format!("{}: {e}", n.name)));
        rows.chain(errors).chain(self.broken.iter().cloned()).collect()
    }
}

/// Runs the suite in `folder`.
///
/// # Errors
/// When it could not be run; what the platform did wrong is in the report.
pub async fn run(folder: &Path, settings: &Settings) -> Result<Report> {
    let trial = crate::samples::trial()?;
    // The store's page cache fills up by design; kept small, it does not hide what guests leave behind.
    let env = [("FAAS_WASM_COMPILE_CPU", "10s"), ("FAAS_EMBEDDED_CACHE_BYTES", "4194304"), ("SUITE_SECRET", SECRET)];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let platform = Platform::start(folder, Options { env, ..Options::default() }).await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let secrets = [SECRET.into(), platform.token()?, folder.display().to_string(), root.display().to_string()];
    let yard = Arc::new(Yard { canaries: Canaries::new(secrets), trial, calls: settings.calls, platform });
    let neighbours = ["calm", "ledger"].map(|name| (name, yard.neighbour(name)));
    let mut loads = Vec::new();
    for (name, made) in neighbours {
        let target = made.await?;
        let shot = Shot::get(&yard.platform.ready().functions, &target);
        let reach = closed_loop(&shot, 8, settings.quiet.min(Duration::from_secs(3))).await?.rate();
        loads.push((name, target, reach * settings.share / 2.0));
    }
    let quiet = measure(&yard, &loads, tokio::time::sleep(settings.quiet)).await?.0;
    let floor = measure(&yard, &loads, busy(settings.quiet)).await?;
    floor.1.context("no busy processes")?;
    let before = Level::of(yard.platform.ready().pid)?;
    let (loaded, rows) = if settings.apart {
        apart(&yard, &loads, settings).await?
    } else {
        let (loaded, rows) = measure(&yard, &loads, trials(&yard, settings)).await?;
        (loaded, rows?)
    };
    ensure!(!rows.is_empty(), "no kind is called {:?}", settings.only);
    let seen = [quiet, floor.0, loaded];
    let broken = yard.aftermath(&seen).await;
    let (after, back) = Level::settle(yard.platform.ready().pid, &before).await?;
    let mut broken = broken?;
    if !back {
        broken.push(format!("the process did not come back to its level: {before:?} before, {after:?} after"));
    }
    let [quiet, floor, loaded] = &seen;
    let neighbours = loads.into_iter().zip(quiet.iter().zip(floor).zip(loaded));
    let neighbours = neighbours
        .map(|((name, _, rate), ((quiet, floor), loaded))| compared(name, rate, [quiet, floor, loaded]))
        .collect();
    Ok(Report { rows, neighbours, level: (before, after), broken })
}

/// Loads the neighbours while `work` goes on; returns what they saw, and what the work gave.
async fn measure<T>(
    yard: &Yard,
    loads: &[(&str, String, f64)],
    work: impl Future<Output = T>,
) -> Result<(Vec<Seen>, T)> {
    let authority = &yard.platform.ready().functions;
    let running: Vec<_> = loads.iter().map(|(_, target, rate)| Load::start(authority, target, *rate)).collect();
    let done = work.await;
    let mut seen = Vec::new();
    for load in running {
        seen.push(load.stop().await?);
    }
    Ok((seen, done))
}

/// Keeps one core each busy for a while, from outside the platform.
async fn busy(time: Duration) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let spin =
        |_| Command::new("nice").args(["-n", LANE_NICE, "sh", "-c", "while :; do :; done"]).kill_on_drop(true).spawn();
    let spinning = (0..cores).map(spin).collect::<Result<Vec<_>, _>>()?;
    tokio::time::sleep(time).await;
    drop(spinning);
    Ok(())
}

impl Settings {
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        kinds::all().filter(|kind| {
            (kind.name.contains(&self.only) || kind.row == self.only)
                && !self.skip.iter().any(|skipped| kind.name.starts_with(skipped.as_str()))
        })
    }
}

/// Puts every kind on trial, one after the other, and tells what the neighbours saw beside each.
async fn apart(yard: &Yard, loads: &[(&str, String, f64)], settings: &Settings) -> Result<(Vec<Seen>, Vec<Row>)> {
    let (mut all, mut rows) = (Vec::<Seen>::new(), Vec::new());
    for kind in settings.kinds() {
        let (seen, row) = measure(yard, loads, yard.try_out(kind)).await?;
        let mut row = row.unwrap_or_else(|error| Row::untried(&kind, &error));
        row.beside = seen.iter().map(Latency::of).collect();
        row.left = Some(Level::of(yard.platform.ready().pid)?);
        rows.push(row);
        if all.is_empty() {
            all = seen;
            continue;
        }
        for (sum, seen) in all.iter_mut().zip(seen) {
            sum.add(seen)?;
        }
    }
    Ok((all, rows))
}

/// Puts every kind on trial, a few at once.
async fn trials(yard: &Arc<Yard>, settings: &Settings) -> Result<Vec<Row>> {
    let kinds: Vec<_> = settings.kinds().enumerate().collect();
    let next = Arc::new(Mutex::new(kinds.into_iter()));
    let workers: Vec<_> = (0..KINDS_AT_ONCE)
        .map(|_| {
            let (yard, next) = (Arc::clone(yard), Arc::clone(&next));
            tokio::spawn(async move {
                let mut rows = Vec::new();
                let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some((place, kind)) = take() {
                    // A trial that could not be held is a finding of its own; the others go on.
                    let row = yard.try_out(kind).await.unwrap_or_else(|error| Row::untried(&kind, &error));
                    rows.push((place, row));
                }
                rows
            })
        })
        .collect();
    let mut rows = Vec::new();
    for worker in workers {
        rows.extend(worker.await.context("a worker panicked")?);
    }
    rows.sort_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn compared(name: &str, rate: f64, seen: [&Seen; 3]) -> Neighbour {
    let errors = seen.iter().flat_map(|seen| &seen.errors).take(20).cloned().collect();
    let [_, _, beside] = seen;
    let [quiet, floor, loaded] = seen.map(Latency::of);
    Neighbour { name: name.to_owned(), rate, calls: beside.latencies_us.len(), quiet, floor, loaded, errors }
}
