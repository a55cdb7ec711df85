//! Ends the platform at every step of a deploy, a rollback, a removal and a
//! start, with a build that has these steps (`deploy/failpoints.sh`), and looks
//! at what the next start finds: the old version or the new one, whole, as the
//! step says, and no file that belongs to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use faas_loadtest::broker::free_port;
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Listen, Options, Platform, binary};
use faas_loadtest::samples;

use crate::kills::files_below;
use crate::traffic::{Caller, Traffic};

/// What is under way when the platform ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// New code for a function that has a version.
    Deploy,
    /// The first code of a function.
    First,
    /// Back to the version before.
    Rollback,
    /// The end of a function.
    Remove,
    /// A start that finds files which belong to nothing.
    Start,
}

/// What the next start must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Old,
    New,
}

/// Every step, when it is passed, and on which side of the change it is.
#[rustfmt::skip]
const STEPS: [(Change, &str, Found); 35] = {
    use Change::{Deploy, First, Remove, Rollback, Start};
    use Found::{New, Old};
    [
        (Deploy, "upload-write", Old), (Deploy, "upload-synced", Old),
        (Deploy, "blob-renamed", Old), (Deploy, "blob-folder-synced", Old),
        (Deploy, "compile-begin", Old), (Deploy, "compile-done", Old),
        (Deploy, "cwasm-synced", Old), (Deploy, "cwasm-renamed", Old),
        (Deploy, "probe-begin", Old), (Deploy, "probe-done", Old),
        (Deploy, "publish-begin", Old), (Deploy, "store-before-commit", Old),
        (Deploy, "store-after-commit", New), (Deploy, "publish-recorded", New),
        (Deploy, "pool-rolled", New), (Deploy, "catalogue-published", New),
        (First, "cwasm-renamed", Old), (First, "store-before-commit", Old),
        (First, "store-after-commit", New), (First, "pool-rolled", New), (First, "catalogue-published", New),
        (Rollback, "alias-move", Old), (Rollback, "store-before-commit", Old),
        (Rollback, "store-after-commit", New), (Rollback, "alias-moved", New), (Rollback, "pool-rolled", New),
        (Remove, "remove-begin", Old), (Remove, "store-before-commit", Old),
        (Remove, "store-after-commit", New), (Remove, "remove-recorded", New),
        (Remove, "cwasm-removed", New), (Remove, "blob-remove", New),
        (Start, "collect-begin", Old), (Start, "cwasm-removed", Old), (Start, "blob-remove", Old),
    ]
};

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Changes that are cut off; all steps in turn.
    #[arg(long, default_value_t = 500)]
    rounds: usize,
    /// Only steps whose names begin so.
    #[arg(long, default_value = "")]
    step: String,
}

/// A function as the platform lists it: its revisions' code, and which one is live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    code: BTreeMap<String, String>,
    live: Option<String>,
}

/// The name of the program with the steps.
fn program() -> Result<PathBuf> {
    let path = binary()?.with_file_name("faas-failpoints");
    if !path.exists() {
        bail!("{} is missing: run `deploy/failpoints.sh`, with --release for a release build", path.display());
    }
    Ok(path)
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let listen = Listen::Ports(free_port()?);
    let options = Options { listen, binary: Some(program()?), ..Options::default() };
    let mut platform = Platform::start(folder.path(), options).await?;
    platform.deploy(&samples::folder("hello")).await?;
    deploy(&platform, "target", 0).await?;
    let traffic = Traffic::start(["/function/hello", "/function/target"].map(|target| Caller {
        authority: platform.ready().functions.clone(),
        target: target.to_owned(),
        gap: Duration::from_millis(20),
        fresh: false,
        forgiving: true,
    }));
    traffic.set_ending(true);
    let steps: Vec<_> = STEPS.iter().filter(|(_, step, _)| step.starts_with(&arguments.step)).collect();
    ensure!(!steps.is_empty(), "no step begins with {:?}", arguments.step);
    let (mut by_step, mut worst) = (BTreeMap::<_, u64>::new(), Duration::ZERO);
    for (round, &&(change, step, found)) in steps.iter().cycle().take(arguments.rounds).enumerate() {
        let case = format!("round {round}: {change:?} at {step}");
        platform = one_round(platform, change, step, found, 1 + round as u64).await.with_context(|| case)?;
        worst = worst.max(platform.start_time);
        *by_step.entry((format!("{change:?}"), step)).or_default() += 1;
    }
    let ends = traffic.end().await?;
    println!(
        "{} changes cut off at {} steps: 0 half, 0 files left over, ready again in {} ms at worst; functions meanwhile: {ends}",
        arguments.rounds,
        by_step.len(),
        worst.as_millis()
    );
    ensure!(ends.answered > 0 && ends.wrong == 0, "{} requests were answered wrongly", ends.wrong);
    Ok(())
}

async fn one_round(mut platform: Platform, change: Change, step: &str, found: Found, seed: u64) -> Result<Platform> {
    let name = match change {
        Change::Deploy | Change::Rollback | Change::Start => "target",
        Change::First | Change::Remove => "passing",
    };
    match change {
        Change::Rollback => deploy(&platform, name, seed << 20).await?,
        Change::Remove => {
            deploy(&platform, name, seed << 20).await?;
            deploy(&platform, name, seed << 21).await?;
        }
        Change::First => remove(&platform, name).await?,
        Change::Deploy | Change::Start => {}
    }
    let before = view(&platform, name).await?;
    platform.kill().await?;
    if change == Change::Start {
        platform = dies(platform, "cwasm-renamed", async |p| deploy(p, name, seed).await).await?;
        platform = dies_at_start(platform, step).await?;
    } else {
        platform = dies(platform, step, async |p| match change {
            Change::Rollback => p.cli(&["rollback", name]).await.map(drop),
            Change::Remove => p.cli(&["rm", name]).await.map(drop),
            _ => deploy(p, name, seed).await,
        })
        .await?;
    }
    platform = platform.start_again_with(&[]).await?;
    let after = view(&platform, name).await?;
    check(change, found, &before, &after)?;
    if after.live.is_some() {
        let answer = Client::default().get(&platform.url(&format!("/function/{name}"))).await?;
        ensure!(answer.status == 200, "{name} answers {}: {}", answer.status, answer.text());
    }
    nothing_left_over(&platform, &["hello", "target", "passing"]).await?;
    Ok(platform)
}

/// Starts the platform that is down so that it ends at `step`, makes the change, and waits for the end.
async fn dies(platform: Platform, step: &str, change: impl AsyncFn(&Platform) -> Result<()>) -> Result<Platform> {
    let mut platform = platform.start_again_with(&[("FAILPOINTS", step)]).await?;
    // Whatever the client saw of it.
    let outcome = tokio::time::timeout(Duration::from_secs(60), change(&platform)).await;
    let status = tokio::time::timeout(Duration::from_secs(10), platform.ended()).await;
    let status = status.with_context(|| format!("it did not come to that step; the change: {outcome:?}"))??;
    ensure!(status.signal() == Some(6), "it ended with {status}: {}", platform.log_tail());
    Ok(platform)
}

/// Starts the platform that is down so that it ends at `step` of its start.
async fn dies_at_start(platform: Platform, step: &str) -> Result<Platform> {
    let data = platform.data().to_owned();
    let options = platform.options().clone();
    let armed = Options { env: vec![("FAILPOINTS".into(), step.into())], ..options.clone() };
    match Platform::start(&data, armed).await {
        Ok(_) => bail!("the start did not come to that step"),
        Err(error) if format!("{error:#}").contains("signal: 6") => Ok(platform),
        Err(error) => Err(error),
    }
}

async fn deploy(platform: &Platform, name: &str, seed: u64) -> Result<()> {
    let folder = platform.data().join("manifest");
    samples::manifest(&folder, name, "hello", "probe = \"/\"")?;
    samples::mark(&folder, seed)?;
    platform.deploy(&folder).await.map(drop)
}

async fn remove(platform: &Platform, name: &str) -> Result<()> {
    if view(platform, name).await?.live.is_some() {
        let removed = platform.cli(&["rm", name]).await?;
        ensure!(removed.code == 0, "faas rm {name}: {}", removed.stderr);
    }
    Ok(())
}

async fn view(platform: &Platform, name: &str) -> Result<View> {
    let listed = platform.cli(&["versions", name, "--output", "json"]).await?;
    if listed.code != 0 {
        ensure!(listed.stderr.contains("no function"), "faas versions {name}: {}", listed.stderr);
        return Ok(View::default());
    }
    let mut view = View::default();
    let document: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    for revision in document.as_array().context("versions are no list")? {
        let text = |key: &str| revision[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
        if revision["aliases"].as_array().is_some_and(|aliases| aliases.iter().any(|a| a == "live")) {
            view.live = Some(text("id")?);
        }
        view.code.insert(text("id")?, text("code")?);
    }
    Ok(view)
}

fn check(change: Change, found: Found, before: &View, after: &View) -> Result<()> {
    ensure!(
        after.live.as_ref().is_none_or(|live| after.code.contains_key(live))
            && after.live.is_some() != after.code.is_empty(),
        "half a function: {after:?}"
    );
    if found == Found::Old {
        ensure!(before == after, "the change was cut off before it was made, but {before:?} became {after:?}");
        return Ok(());
    }
    let ok = match change {
        Change::Deploy | Change::First => {
            after.code.len() == before.code.len() + 1 && after.live != before.live && after.live.is_some()
        }
        Change::Rollback => after.code == before.code && after.live != before.live,
        Change::Remove => after.live.is_none(),
        Change::Start => before == after,
    };
    ensure!(ok, "the change was made before it was cut off, but {before:?} became {after:?}");
    Ok(())
}

/// Checks that every file of code and compiled code belongs to a listed revision, and that every revision has its code.
pub(crate) async fn nothing_left_over(platform: &Platform, functions: &[&str]) -> Result<()> {
    let mut used = BTreeSet::new();
    for function in functions {
        used.extend(view(platform, function).await?.code.into_values());
    }
    let state = platform.data().join("state");
    let files = |folder: &str| -> Result<Vec<String>> { files_below(&state.join(Path::new(folder))) };
    for folder in ["blobs", "compiled"] {
        for name in files(folder)? {
            let digest: String = name.chars().take(64).collect();
            ensure!(used.contains(&digest), "{folder}/{name} belongs to nothing");
        }
    }
    let blobs: BTreeSet<_> = files("blobs")?.into_iter().collect();
    ensure!(used.is_subset(&blobs), "code is missing: {:?}", used.difference(&blobs).collect::<Vec<_>>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_in_the_sources_is_one_that_the_suite_dies_at() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folders = ["functions/repo/src", "function-service/service/src", "runtimes/wasm/src", "baas/store/src"];
        let mut named = BTreeSet::new();
        let mut open: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let text = std::fs::read_to_string(path).unwrap();
                let steps = text.split("fail_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                named.extend(steps.map(str::to_owned));
            }
        }
        let tried: BTreeSet<_> = STEPS.iter().map(|(_, step, _)| (*step).to_owned()).collect();
        assert_eq!(named, tried);
    }
}
