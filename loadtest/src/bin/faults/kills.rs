//! Rounds of: load, SIGKILL, start again, check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use faas_loadtest::bytes_of::noise;
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use http::Method;

use crate::failpoints;

/// Longest start, crash recovery included, on a machine that does nothing else.
const START_BOUND: Duration = Duration::from_millis(500);
const WRITERS: usize = 16;
/// Longest time from the start of a deploy to the kill, 100 ms more.
const PAUSE_MS_MAX: u64 = 400;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many times the platform is killed.
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// MiB to be put into the store first.
    #[arg(long, default_value_t = 0)]
    fill_mib: u64,
    /// Seed of the kill times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    writes_acknowledged: u64,
    writes_lost: u64,
    deploys: u64,
    pub(crate) starts_ms: Vec<u128>,
}

/// What the rounds have been promised so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Last acknowledged value and a value that may have been written, by key.
    values: BTreeMap<String, (u64, Option<u64>)>,
    /// Revisions whose deploy was acknowledged.
    revisions: BTreeSet<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut platform = Platform::start(folder.path(), Options::default()).await?;
    fill(&platform, arguments.fill_mib).await?;
    let mut tally = Tally::default();
    let mut journal = Journal::default();
    for round in 0..arguments.rounds {
        one_round(&mut platform, round, (arguments.seed, PAUSE_MS_MAX), &mut journal, &mut tally).await?;
        platform = platform.crash_and_restart().await?;
        tally.starts_ms.push(platform.start_time.as_millis());
        verify(&platform, &journal, &mut tally).await.with_context(|| format!("after kill {round}"))?;
    }
    failpoints::nothing_left_over(&platform, &["hello"]).await?;
    tally.report(arguments.rounds, arguments.fill_mib, START_BOUND)
}

async fn fill(platform: &Platform, mib: u64) -> Result<()> {
    let (client, token) = (Client::default(), platform.token()?);
    let authorization = format!("Bearer {token}");
    for n in 0..mib {
        let url = platform.baas(&format!("/kv/fill/{n}"));
        let answer = client.send(Method::PUT, &url, &[("authorization", &authorization)], noise(n, 1 << 20)).await?;
        ensure!(answer.status.is_success(), "fill: {} {}", answer.status, answer.text());
    }
    Ok(())
}

/// Writers and deploys run until the kill, at a time that the seed decides, `pause_ms_max` and 100 ms at most.
pub(crate) async fn one_round(
    platform: &mut Platform,
    round: u64,
    (seed, pause_ms_max): (u64, u64),
    journal: &mut Journal,
    tally: &mut Tally,
) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let token = platform.token()?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|lane| tokio::spawn(writer(platform.baas(""), token.clone(), lane, round, stop.clone())))
        .collect();
    let manifest = platform.data().join("deploy");
    let mark = format!("env = {{ ROUND = \"{round}\" }}");
    samples::manifest(&manifest, "hello", "hello", &mark)?;
    let pause = u64::from_le_bytes(noise(seed ^ (round << 20), 8).try_into().unwrap_or_default()) % pause_ms_max + 100;
    let deploy = platform.deploy(&manifest);
    let acknowledged = tokio::time::timeout(Duration::from_millis(pause), deploy).await;
    if let Ok(outcome) = acknowledged {
        let json: serde_json::Value = serde_json::from_str(&outcome?.stdout)?;
        journal.revisions.insert(revision_of(&json)?);
        tally.deploys += 1;
        tokio::time::sleep(Duration::from_millis(pause / 2)).await;
    }
    platform.kill().await?;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        for (key, acknowledged, maybe) in writer.await? {
            tally.writes_acknowledged += acknowledged.unwrap_or_default() % 1_000_000;
            let slot = journal.values.entry(key).or_default();
            slot.0 = acknowledged.unwrap_or(slot.0);
            slot.1 = maybe;
        }
    }
    Ok(())
}

fn revision_of(json: &serde_json::Value) -> Result<String> {
    let first = json.as_array().and_then(|a| a.first()).unwrap_or(json);
    Ok(first["revision"].as_str().with_context(|| format!("no revision in {json}"))?.to_owned())
}

/// Writes ever larger numbers under one key; the last acknowledged one must survive.
/// A number is `round * 1,000,000 + n`, so it also tells how many writes there were.
async fn writer(
    base: String,
    token: String,
    lane: usize,
    round: u64,
    stop: Arc<AtomicBool>,
) -> Vec<(String, Option<u64>, Option<u64>)> {
    let client = Client::default();
    let authorization = format!("Bearer {token}");
    let (key, mut acknowledged, mut maybe) = (format!("lane-{lane}"), None, None);
    for n in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = round * 1_000_000 + n;
        maybe = Some(value);
        let url = format!("{base}/kv/load/{key}");
        match client.send(Method::PUT, &url, &[("authorization", &authorization)], value.to_string()).await {
            Ok(answer) if answer.status.is_success() => acknowledged = Some(value),
            _ => break,
        }
    }
    vec![(key, acknowledged, maybe)]
}

pub(crate) async fn verify(platform: &Platform, journal: &Journal, tally: &mut Tally) -> Result<()> {
    let client = Client::default();
    let authorization = format!("Bearer {}", platform.token()?);
    for (key, (acknowledged, maybe)) in &journal.values {
        let url = platform.baas(&format!("/kv/load/{key}"));
        let answer = client.send(Method::GET, &url, &[("authorization", &authorization)], "").await?;
        let found: u64 = answer.text().parse().unwrap_or_default();
        if found < *acknowledged || (found > *acknowledged && maybe.is_none_or(|m| found > m)) {
            eprintln!("{key}: acknowledged {acknowledged}, found {found}, in flight {maybe:?}");
            tally.writes_lost += 1;
        }
    }
    let versions = platform.cli(&["versions", "hello", "--output", "json"]).await?;
    if journal.revisions.is_empty() && versions.code != 0 {
        return Ok(());
    }
    for revision in &journal.revisions {
        ensure!(
            versions.stdout.contains(revision.as_str()),
            "acknowledged revision {revision} is gone: {}",
            versions.stdout
        );
    }
    let answer = client.get(&platform.url("/function/hello")).await?;
    ensure!(answer.status == 200, "hello answers {}: {}", answer.status, answer.text());
    Ok(())
}

pub(crate) fn files_below(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(files_below(&entry.path())?);
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

impl Tally {
    /// Prints the counts of `kills` rounds and judges them.
    pub(crate) fn report(mut self, kills: u64, fill_mib: u64, start_bound: Duration) -> Result<()> {
        self.starts_ms.sort_unstable();
        let median = self.starts_ms.get(self.starts_ms.len() / 2).copied().unwrap_or_default();
        let worst = self.starts_ms.last().copied().unwrap_or_default();
        println!(
            "kills {kills}, fill {fill_mib} MiB: {} writes acknowledged, {} lost; {} deploys acknowledged, 0 half-deployed, 0 orphan files; ready after {median} ms (median), {worst} ms (worst)",
            self.writes_acknowledged, self.writes_lost, self.deploys
        );
        if self.writes_lost > 0 {
            bail!("{} acknowledged writes were lost", self.writes_lost);
        }
        if worst > start_bound.as_millis() {
            bail!("a start took {worst} ms, over {} ms", start_bound.as_millis());
        }
        Ok(())
    }
}
