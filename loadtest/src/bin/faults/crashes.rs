//! A function that traps at every tenth call or so, and one that never starts:
//! each failed call is told as such, the next call is served, no other function
//! notices, and starts that keep failing pause longer and longer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::http::{Answer, Client};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::traffic::{Caller, Traffic};

/// Share of calls that trap, of 100.
const TRAPS: u32 = 10;
const LANES: u64 = 8;
/// How long the function that never starts is called.
const CALLED: Duration = Duration::from_secs(8);
/// Starts in that time at most: three before the first pause, then one after 1, 2 and 4 s.
const STARTS_MAX: u64 = 7;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Calls of the function that traps.
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Seed of the traps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut platform = Platform::start(folder.path(), Options::default()).await?;
    platform.deploy(&samples::folder("hello")).await?;
    let manifest = folder.path().join("manifest");
    samples::trial_manifest(&manifest, "shaky", "")?;
    platform.deploy(&manifest).await?;
    samples::manifest(&manifest, "stillborn", "hello", "")?;
    samples::mark(&manifest, 1)?;
    let deployed = platform.deploy(&manifest).await?;

    let beside = Traffic::start(neighbours(&platform));
    let (good, trapped) = shaky(&platform, &arguments).await?;
    let ends = beside.end().await?;
    println!("{good} calls answered, {trapped} trapped and told as 502; neighbour: {ends}");
    ensure!(ends.answered > 0 && ends.wrong + ends.cut + ends.refused + ends.closed_idle == 0, "the neighbour noticed");

    platform.kill().await?;
    damage(&platform, &deployed.stdout)?;
    platform = platform.start_again().await?;
    let beside = Traffic::start(neighbours(&platform));
    let starts = stillborn(&platform).await?;
    let ends = beside.end().await?;
    println!("never starting: {starts} starts in {} s, then 503 crash_loop; neighbour: {ends}", CALLED.as_secs());
    ensure!(ends.answered > 0 && ends.wrong + ends.cut + ends.refused + ends.closed_idle == 0, "the neighbour noticed");
    Ok(())
}

fn neighbours(platform: &Platform) -> Vec<Caller> {
    let caller = Caller {
        authority: platform.ready().functions.clone(),
        target: "/function/hello".into(),
        gap: Duration::from_millis(20),
        fresh: false,
        forgiving: false,
    };
    vec![caller; 4]
}

/// Returns how many calls were answered and how many trapped, each told as what it was.
async fn shaky(platform: &Platform, arguments: &Arguments) -> Result<(u64, u64)> {
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let (client, base) = (Client::default(), platform.url("/function/shaky"));
        let mut random = StdRng::seed_from_u64(arguments.seed + lane);
        let calls = arguments.calls.div_ceil(LANES);
        lanes.spawn(async move {
            let (mut good, mut trapped) = (0, 0);
            for _ in 0..calls {
                let traps = random.random_range(0..100) < TRAPS;
                let answer = client.get(&format!("{base}{}", if traps { "/trap" } else { "/hello" })).await?;
                if traps {
                    told(&answer, 502, "crashed")?;
                    trapped += 1;
                } else {
                    ensure!(answer.status == 200, "a call beside traps: {} {}", answer.status, answer.text());
                    good += 1;
                }
            }
            anyhow::Ok((good, trapped))
        });
    }
    let (mut good, mut trapped) = (0, 0);
    while let Some(lane) = lanes.join_next().await {
        let (g, t) = lane??;
        good += g;
        trapped += t;
    }
    ensure!(trapped > 0, "no call trapped");
    Ok((good, trapped))
}

fn reason_of(answer: &Answer) -> Option<String> {
    answer.json().get("reason")?.as_str().map(str::to_owned)
}

fn told(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    ensure!(
        answer.status == status
            && reason_of(answer).as_deref() == Some(reason)
            && answer.header("x-faas-origin") == "platform",
        "wanted {status} {reason}, got {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

/// Spoils the code of the function that was deployed and removes what was compiled of it.
fn damage(platform: &Platform, deployed: &str) -> Result<()> {
    let document: serde_json::Value = serde_json::from_str(deployed)?;
    let first = document.as_array().and_then(|all| all.first()).unwrap_or(&document);
    let revision = first["revision"].as_str().context("no revision")?;
    let state = platform.data().join("state");
    let own = std::fs::read(platform.data().join("manifest/code.wasm"))?;
    let mut damaged = 0;
    for entry in std::fs::read_dir(state.join("blobs"))? {
        let path = entry?.path();
        if path.is_file() && std::fs::read(&path)? == own {
            std::fs::write(&path, "no code any more")?;
            let digest = path.file_name().context("no name")?.to_string_lossy().into_owned();
            for entry in std::fs::read_dir(state.join("compiled"))? {
                let path = entry?.path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&digest)) {
                    std::fs::remove_file(path)?;
                    damaged += 1;
                }
            }
        }
    }
    ensure!(damaged == 1, "revision {revision} has {damaged} compiled files");
    Ok(())
}

/// Calls without a pause; every answer says why, and the starts are few.
async fn stillborn(platform: &Platform) -> Result<u64> {
    let (client, url) = (Client::default(), platform.url("/function/stillborn"));
    let (begun, mut looping) = (Instant::now(), 0u64);
    while begun.elapsed() < CALLED {
        let answer = client.get(&url).await?;
        match reason_of(&answer).as_deref() {
            Some("crash_loop") => {
                told(&answer, 503, "crash_loop")?;
                ensure!(!answer.header("retry-after").is_empty(), "crash_loop without Retry-After");
                looping += 1;
            }
            _ => told(&answer, 503, "start_failed")?,
        }
    }
    ensure!(looping > 0, "no call was told of the crash loop");
    let metrics = crate::metrics(platform).await?;
    let mut failures = metrics
        .lines()
        .filter(|line| line.starts_with("faas_start_failures_total") && line.contains("stillborn"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    let failures = failures.next().context("no failed start was counted")?;
    ensure!(failures <= STARTS_MAX, "{failures} starts in {CALLED:?}, over {STARTS_MAX}");
    Ok(failures)
}
