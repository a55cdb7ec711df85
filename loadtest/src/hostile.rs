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
    /// How long the neighbours are measured alone.
    pub quiet: Duration,
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
            broken: vec![format!("it could not be tried: {error:#}")],
        }
    }
}

/// A neighbour, alone and beside the guests.
#[derive(Debug, Clone, Serialize)]
pub struct Neighbour {
    /// Its name.
    pub name: String,
    /// Calls a second.
    pub rate: f64,
    /// Good calls beside the guests.
    pub calls: u64,
    /// Median alone.
    pub quiet_p50_ms: f64,
    /// 99th percentile alone.
    pub quiet_p99_ms: f64,
    /// Median beside the guests.
    pub loaded_p50_ms: f64,
    /// 99th percentile beside the guests.
    pub loaded_p99_ms: f64,
    /// Failed calls, alone and beside them.
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
    let env = [("FAAS_WASM_COMPILE_CPU", "10s"), ("SUITE_SECRET", SECRET)];
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
    let before = Level::of(yard.platform.ready().pid)?;
    let (loaded, rows) = measure(&yard, &loads, trials(&yard, settings)).await?;
    let rows = rows?;
    ensure!(!rows.is_empty(), "no kind is called {:?}", settings.only);
    let broken = yard.aftermath(&quiet, &loaded).await;
    let (after, back) = Level::settle(yard.platform.ready().pid, &before).await?;
    let mut broken = broken?;
    if !back {
        broken.push(format!("the process did not come back to its level: {before:?} before, {after:?} after"));
    }
    let neighbours = loads.into_iter().zip(quiet.iter().zip(&loaded));
    let neighbours = neighbours.map(|((name, _, rate), (quiet, loaded))| compared(name, rate, quiet, loaded)).collect();
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

/// Puts every kind on trial, a few at once.
async fn trials(yard: &Arc<Yard>, settings: &Settings) -> Result<Vec<Row>> {
    let wanted = |kind: &Kind| {
        (kind.name.contains(&settings.only) || kind.row == settings.only)
            && !settings.skip.iter().any(|skipped| kind.name.starts_with(skipped.as_str()))
    };
    let kinds: Vec<_> = kinds::all().filter(wanted).enumerate().collect();
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

fn compared(name: &str, rate: f64, quiet: &Seen, loaded: &Seen) -> Neighbour {
    Neighbour {
        name: name.to_owned(),
        rate,
        calls: loaded.latencies_us.len(),
        quiet_p50_ms: quiet.quantile_ms(0.5),
        quiet_p99_ms: quiet.quantile_ms(0.99),
        loaded_p50_ms: loaded.quantile_ms(0.5),
        loaded_p99_ms: loaded.quantile_ms(0.99),
        errors: quiet.errors.iter().chain(&loaded.errors).take(20).cloned().collect(),
    }
}
