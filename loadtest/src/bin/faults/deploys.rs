//! Deploys that alternate between two processes over one Cassandra, with kills of a process in between and in the
//! midst of them. Both serve what was acknowledged soon after, no call is answered by half a deploy or by a
//! revision that was left behind, and after every kill both tell the same `live`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::broker::free_port;
use faas_loadtest::cassandra::{Node, keyspace};
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Listen, Options, Platform};
use faas_loadtest::samples;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::migrate;
use crate::cluster::sides::{Asked, Caller, Listener, Sent, Side, Sides};

/// Functions that are deployed in turn.
const FUNCTIONS: usize = 2;
/// Between two calls of a watcher.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// Most time from the begin of a deploy to a kill in its midst.
const KILL_WITHIN_MS: u64 = 1_500;
/// Longest wait for what should come within the bound: the suite then gives up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Digits of a revision that an answer names.
const SHORT: usize = 12;

/// Flags of the suite.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Deploys.
    #[arg(long, default_value_t = 500)]
    deploys: u64,
    /// One deploy of so many has a kill in its midst.
    #[arg(long, default_value_t = 5)]
    kill_every: u32,
    /// Milliseconds from the acknowledgement of a deploy until both processes serve it; 0 does not judge.
    #[arg(long, default_value_t = 1_000)]
    bound_ms: u64,
    /// Seed of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the deploys came to.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    /// Cut off by a kill: made after all, or not.
    made: u64,
    unmade: u64,
    kills: u64,
    /// From the acknowledgement until each process served it, where none was killed.
    spread_ms: Vec<u64>,
}

struct Suite {
    arguments: Arguments,
    random: ChaCha8Rng,
    platforms: [Option<Platform>; 2],
    sides: Arc<Sides>,
    /// The revisions of each function that were live, in their order.
    lived: Vec<Vec<String>>,
    tally: Tally,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = Node::new(false)?;
    node.start()?;
    let env = [
        ("FAAS_STORE_TYPE", "cassandra".to_owned()),
        ("FAAS_CASSANDRA_NODES", format!("[\"{}\"]", node.address())),
        ("FAAS_CASSANDRA_KEYSPACE", keyspace()),
    ];
    let env: Vec<_> = env.map(|(name, value)| (name.to_owned(), value)).into();
    migrate(&env).await?;
    let one = start(&folder.path().join("one"), &env).await?;
    let two = start(&folder.path().join("two"), &env).await?;
    let sides = Sides { sides: [Side::of(&one), Side::of(&two)], authorization: format!("Bearer {}", one.token()?) };
    let mut suite = Suite {
        random: ChaCha8Rng::seed_from_u64(arguments.seed),
        arguments,
        platforms: [Some(one), Some(two)],
        sides: Arc::new(sides),
        lived: vec![Vec::new(); FUNCTIONS],
        tally: Tally::default(),
    };
    let done = suite.run(folder.path()).await;
    if done.is_err() {
        println!("logs are kept in {}", folder.keep().display());
    }
    done
}

async fn start(data: &Path, env: &[(String, String)]) -> Result<Platform> {
    let listen = Listen::Ports(free_port()?);
    Platform::start(data, Options { env: env.to_vec(), listen, ..Options::default() }).await
}

fn function(n: usize) -> String {
    format!("f{n}")
}

impl Suite {
    async fn run(&mut self, folder: &Path) -> Result<()> {
        for n in 0..FUNCTIONS {
            self.deploy(folder, n as u64, false).await?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut watchers = JoinSet::new();
        for side in 0..2 {
            for n in 0..FUNCTIONS {
                watchers.spawn(watch(self.sides.clone(), side, n, stop.clone()));
            }
        }
        self.tally = Tally::default();
        for n in FUNCTIONS as u64..FUNCTIONS as u64 + self.arguments.deploys {
            let kill = self.random.random_ratio(1, self.arguments.kill_every.max(1));
            self.deploy(folder, n, kill).await.with_context(|| format!("deploy {n}"))?;
        }
        stop.store(true, Ordering::SeqCst);
        let mut broken = Vec::new();
        let mut answers = 0;
        while let Some(seen) = watchers.join_next().await {
            let seen = seen??;
            answers += seen.answers;
            broken.extend(seen.judge(&self.lived));
        }
        self.report(answers, broken)
    }

    /// Deploys on one process, in the midst of which one may be killed; then both must serve the same.
    async fn deploy(&mut self, folder: &Path, n: u64, kill: bool) -> Result<()> {
        let which = usize::try_from(n)? % FUNCTIONS;
        let by = usize::try_from(n / FUNCTIONS as u64)? % 2;
        let manifest = folder.join("deploy");
        samples::manifest(&manifest, &function(which), "hello", "")?;
        samples::mark(&manifest, n)?;
        let killed = kill.then(|| (self.random.random_range(0..2), self.random.random_range(0..KILL_WITHIN_MS)));
        let [mut one, mut two] = std::mem::take(&mut self.platforms);
        let (deployer, other) = if by == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        let (deployer, other) = (deployer.as_mut().context("a process")?, other.as_mut().context("a process")?);
        let acknowledged = match killed {
            None => Some(deployer.deploy(&manifest).await?.stdout),
            // The other is killed while this one deploys.
            Some((side, after)) if side != by => {
                let (deploy, kill) = tokio::join!(deployer.deploy(&manifest), self.kill(side, other, after));
                kill?;
                Some(deploy?.stdout)
            }
            // The deployer itself.
            Some((side, after)) => {
                let deploy = tokio::time::timeout(Duration::from_millis(after), deployer.deploy(&manifest)).await;
                self.kill(side, deployer, 0).await?;
                deploy.ok().transpose()?.map(|outcome| outcome.stdout)
            }
        };
        let at = Instant::now();
        if let Some((side, _)) = killed {
            self.tally.kills += 1;
            let place = if side == 0 { &mut one } else { &mut two };
            *place = Some(place.take().context("a process")?.start_again().await?);
            self.sides.side(side).down.store(false, Ordering::SeqCst);
        }
        self.platforms = [one, two];
        let revision = acknowledged.map(|text| revision_of(&text)).transpose()?;
        self.settle(which, revision, at, killed.is_some()).await
    }

    async fn kill(&self, side: usize, platform: &mut Platform, after_ms: u64) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        let own = self.sides.side(side);
        own.kills.fetch_add(1, Ordering::SeqCst);
        own.down.store(true, Ordering::SeqCst);
        platform.kill().await
    }

    /// Waits until both processes serve what was acknowledged at `at`, and tell the same `live`.
    async fn settle(&mut self, which: usize, revision: Option<String>, at: Instant, killed: bool) -> Result<()> {
        let (told, before) = (self.same_live(which).await?, self.lived.get(which).and_then(|all| all.last()).cloned());
        match &revision {
            Some(revision) => {
                self.tally.acknowledged += 1;
                ensure!(told == *revision, "{revision} was acknowledged, {told} is live");
            }
            None if before.as_ref() == Some(&told) => self.tally.unmade += 1,
            None => self.tally.made += 1,
        }
        if let Some(all) = self.lived.get_mut(which).filter(|all| all.last() != Some(&told)) {
            all.push(told.clone());
        }
        for side in 0..2 {
            let mut caller = Caller::new(self.sides.clone(), Listener::Functions, 0);
            loop {
                let asked = Asked::get(format!("/function/{}", function(which)));
                let (_, sent) = caller.ask_from(side, &asked).await;
                if matches!(&sent, Sent::Answered(a) if a.status == 200 && a.revision == told.get(..SHORT).unwrap_or(""))
                {
                    break;
                }
                ensure!(at.elapsed() < PATIENCE, "process {side} does not serve {told}: {sent:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if !killed {
                self.tally.spread_ms.push(u64::try_from(at.elapsed().as_millis())?);
            }
        }
        Ok(())
    }

    /// Returns the revision that both processes tell as `live`, once they tell the same.
    async fn same_live(&self, which: usize) -> Result<String> {
        let begun = Instant::now();
        loop {
            let mut told = Vec::new();
            for platform in self.platforms.iter().flatten() {
                told.push(live(platform, &function(which), &self.sides.authorization).await?);
            }
            if let [Some(one), Some(two)] = &told[..]
                && one == two
            {
                return Ok(one.clone());
            }
            ensure!(begun.elapsed() < PATIENCE, "two truths about live: {told:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn report(&self, answers: u64, mut broken: Vec<String>) -> Result<()> {
        let mut spread = self.tally.spread_ms.clone();
        spread.sort_unstable();
        let at = |part: usize| spread.get((spread.len().saturating_sub(1)) * part / 100).copied().unwrap_or_default();
        let Tally { acknowledged, made, unmade, kills, .. } = &self.tally;
        println!(
            "{} deploys alternating between two processes: {acknowledged} acknowledged; cut off by a kill {made} made and {unmade} not; {kills} kills",
            self.arguments.deploys
        );
        println!(
            "both serve it after {} ms (median), {} ms (p99), {} ms (worst) from the acknowledgement; {answers} answers watched",
            at(50),
            at(99),
            at(100)
        );
        if self.arguments.bound_ms > 0 && at(100) > self.arguments.bound_ms {
            broken.push(format!("a deploy was served by both only after {} ms", at(100)));
        }
        for text in &broken {
            println!("BROKEN: {text}");
        }
        ensure!(broken.is_empty(), "{} promises were broken", broken.len());
        Ok(())
    }
}

/// Returns the revision that a deploy's answer names.
fn revision_of(text: &str) -> Result<String> {
    let json: serde_json::Value = serde_json::from_str(text)?;
    let first = json.as_array().and_then(|all| all.first()).unwrap_or(&json);
    let revision = first.get("revision").and_then(|revision| revision.as_str());
    Ok(revision.with_context(|| format!("no revision in {json}"))?.to_owned())
}

/// Returns the revision that a process tells as live.
async fn live(platform: &Platform, name: &str, authorization: &str) -> Result<Option<String>> {
    let url = platform.control(&format!("/v1/namespaces/default/functions/{name}"));
    let answer =
        Client::default().send(http::Method::GET, &url, &[("authorization", authorization)], String::new()).await?;
    Ok(answer.json().pointer("/aliases/live/revision").and_then(|revision| revision.as_str()).map(str::to_owned))
}

/// What a watcher saw of one function on one process.
#[derive(Debug, Default)]
struct Seen {
    which: usize,
    side: usize,
    answers: u64,
    /// Revisions in the order in which they were seen, each once for as long as it stayed.
    revisions: Vec<String>,
    wrong: BTreeMap<String, u64>,
}

/// Calls a function on one process again and again.
async fn watch(sides: Arc<Sides>, side: usize, which: usize, stop: Arc<AtomicBool>) -> Result<Seen> {
    let mut caller = Caller::new(sides.clone(), Listener::Functions, 0);
    let mut seen = Seen { which, side, ..Seen::default() };
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(WATCH_EVERY).await;
        if sides.side(side).down.load(Ordering::SeqCst) {
            continue;
        }
        match caller.ask_from(side, &Asked::get(format!("/function/{}", function(which)))).await {
            (at, _) if at != side => {}
            (_, Sent::Answered(answer)) if answer.status == 200 => {
                seen.answers += 1;
                if seen.revisions.last() != Some(&answer.revision) {
                    seen.revisions.push(answer.revision);
                }
            }
            (_, Sent::Killed) => {}
            (_, other) => *seen.wrong.entry(format!("{other:?}")).or_default() += 1,
        }
    }
    Ok(seen)
}

impl Seen {
    /// Returns what is not as promised: every answer is of a revision that was live, never of one left behind.
    fn judge(&self, lived: &[Vec<String>]) -> Vec<String> {
        let order = lived.get(self.which).map(Vec::as_slice).unwrap_or_default();
        let who = format!("{} on process {}", function(self.which), self.side);
        let mut broken: Vec<_> = self.wrong.iter().map(|(what, n)| format!("{who}: {n} times {what}")).collect();
        let mut last = 0;
        for short in &self.revisions {
            match order.iter().position(|revision| revision.starts_with(short.as_str())) {
                None => broken.push(format!("{who}: {short} answered and was never live")),
                Some(at) if at < last => broken.push(format!("{who}: {short} answered after a later revision had")),
                Some(at) => last = at,
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_the_order_of_what_was_live() {
        let lived = [vec!["aaaa".to_owned(), "bbbb".to_owned(), "cccc".to_owned()]];
        let judged = |seen: &[&str]| {
            let revisions = seen.iter().map(ToString::to_string).collect();
            Seen { revisions, ..Seen::default() }.judge(&lived)
        };
        assert_eq!(judged(&["aa", "bb", "cc"]), [""; 0]);
        assert_eq!(judged(&["aa", "cc"]), [""; 0], "one may be missed");
        assert!(judged(&["bb", "aa"])[0].contains("aa answered after a later revision"));
        assert!(judged(&["aa", "dd"])[0].contains("dd answered and was never live"));
        let wrong = Seen { wrong: [("404".to_owned(), 2)].into(), ..Seen::default() };
        assert!(wrong.judge(&lived)[0].contains("2 times 404"));
    }
}
