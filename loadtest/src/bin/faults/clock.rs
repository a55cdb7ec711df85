//! Sets the wall clock of a running platform forth and back (libfaketime, which
//! leaves the monotonic clock alone): deadlines, idle times, answers and writes
//! do not notice; expiry of values and printed times follow the wall clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use faas_loadtest::http::{Answer, Client};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use http::Method;
use tokio::time::Instant;

/// Where Debian's package libfaketime puts it, below /usr/lib.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// Steps of the wall clock in seconds, each from where the one before left it.
const STEPS: [i64; 8] = [3_600, -3_600, 1, -1, -7_200, 86_400, -94_608_000, 189_216_000];
/// Of the function under test.
const IDLE_MS: u64 = 300;
/// Bound of a call that never answers, and when it must be over at the latest.
const RUN: Duration = Duration::from_secs(2);
const RUN_LATEST: Duration = Duration::from_secs(20);
/// Life of a value that a step beyond it ends.
const TTL_S: i64 = 600;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many times the steps are gone through.
    #[arg(long, default_value_t = 10)]
    rounds: u64,
}

/// A wall clock that differs from the machine's.
struct Clock {
    file: PathBuf,
    offset: i64,
}

impl Clock {
    fn step(&mut self, by: i64) -> Result<()> {
        self.offset += by;
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{:+}\n", self.offset))?;
        Ok(std::fs::rename(beside, &self.file)?)
    }
}

struct House {
    platform: Platform,
    client: Client,
    authorization: String,
    clock: Clock,
    last_call: String,
    calls: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut clock = Clock { file: folder.path().join("offset"), offset: 0 };
    clock.step(0)?;
    let env = [
        ("LD_PRELOAD", library()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let env = env.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let platform = Platform::start(folder.path(), Options { env, ..Options::default() }).await?;
    let manifest = folder.path().join("trial");
    let lines = format!("scale = {{ idle = \"{IDLE_MS}ms\" }}\ntimeout = {{ run = \"{}ms\" }}", RUN.as_millis());
    samples::trial_manifest(&manifest, "trial", &lines)?;
    platform.deploy(&manifest).await?;
    let authorization = format!("Bearer {}", platform.token()?);
    let client = Client::default();
    let mut house = House { platform, client, authorization, clock, last_call: String::new(), calls: 0 };
    for round in 0..arguments.rounds {
        for step in STEPS {
            house.step(round, step).await.with_context(|| format!("round {round}, step of {step} s"))?;
        }
    }
    let log = std::fs::read_to_string(folder.path().join("platform.log"))?;
    ensure!(!log.contains("panicked"), "the platform panicked:\n{}", house.platform.log_tail());
    ensure!(house.platform.terminate().await? == Some(0), "SIGTERM: {}", house.platform.log_tail());
    println!(
        "{} steps of the wall clock, -3 to +6 years: {} calls answered, deadlines and idle times kept, call ids in order, values expired by the wall clock, no panic",
        arguments.rounds * STEPS.len() as u64,
        house.calls
    );
    Ok(())
}

fn library() -> Result<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
    match architectures.chain([Path::new("/usr/lib").join(LIBRARY)]).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("libfaketime is missing: run `make setup-test`"),
    }
}

impl House {
    async fn step(&mut self, round: u64, by: i64) -> Result<()> {
        let key = format!("/kv/clock/{round}");
        self.kv(Method::PUT, &key, Some(TTL_S)).await?;
        let lasting = self.kv(Method::PUT, "/kv/clock/lasting", None).await?;
        ensure!(lasting.status.is_success(), "a write before the step answers {}", lasting.status);
        // Calls that are under way: one that works for longer than the step takes, one that never answers.
        let (working, never) = (self.call("/compute?200"), self.call("/never"));
        let step = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.clock_step(by)
        };
        let begun = Instant::now();
        let (working, (never, took), moved) = tokio::join!(working, async { (never.await, begun.elapsed()) }, step);
        self.clock.offset = moved?;
        let working = working?;
        ensure!(working.status == 200, "a call across the step: {} {}", working.status, working.text());
        let never = never?;
        ensure!(never.status == 504, "a call that never answers: {} {}", never.status, never.text());
        ensure!((RUN..RUN_LATEST).contains(&took), "timeout.run = {RUN:?} fired after {took:?}");
        self.seen().await?;
        self.in_order().await?;
        self.rests().await?;
        let listed = self.client.get(&self.platform.control("/readyz")).await?;
        ensure!(listed.status == 200, "/readyz answers {}", listed.status);
        let expired = self.kv(Method::GET, &key, None).await?;
        let gone = by >= TTL_S;
        ensure!((expired.status == 404) == gone, "a value that lives {TTL_S} s is {} after {by} s", expired.status);
        let lasting = self.kv(Method::GET, "/kv/clock/lasting", None).await?;
        ensure!(lasting.status == 200, "a value without an end is {} after {by} s", lasting.status);
        Ok(())
    }

    fn clock_step(&self, by: i64) -> Result<i64> {
        let mut clock = Clock { file: self.clock.file.clone(), offset: self.clock.offset };
        clock.step(by)?;
        Ok(clock.offset)
    }

    async fn call(&self, path: &str) -> Result<Answer> {
        self.client.get(&self.platform.url(&format!("/function/trial{path}"))).await
    }

    async fn kv(&self, method: Method, path: &str, ttl: Option<i64>) -> Result<Answer> {
        let ttl = ttl.map(|seconds| seconds.to_string());
        let mut headers = vec![("authorization", self.authorization.as_str())];
        headers.extend(ttl.as_deref().map(|ttl| ("faas-ttl", ttl)));
        self.client.send(method, &self.platform.baas(path), &headers, "value").await
    }

    /// The platform tells functions its own wall time, so the step has really happened.
    async fn seen(&mut self) -> Result<()> {
        let headers = self.call("/headers").await?.text();
        let deadline = headers.lines().find_map(|line| line.strip_prefix("x-faas-deadline-ms: "));
        let deadline: i64 = deadline.with_context(|| format!("no deadline in {headers}"))?.parse()?;
        let own = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let found = deadline / 1000 - i64::try_from(own)?;
        let wanted = self.clock.offset;
        ensure!((wanted - 5..=wanted + 10).contains(&found), "the clock is {found} s off, wanted {wanted}");
        Ok(())
    }

    /// Call ids (UUID version 7) go on rising, whatever the wall clock does.
    async fn in_order(&mut self) -> Result<()> {
        for _ in 0..20 {
            let answer = self.call("/hello").await?;
            ensure!(answer.status == 200, "a call after the step: {} {}", answer.status, answer.text());
            let id = answer.header("x-call-id").to_owned();
            ensure!(id > self.last_call, "call id {id} came after {}", self.last_call);
            self.last_call = id;
            self.calls += 1;
        }
        Ok(())
    }

    /// Without calls the instance is unloaded after its idle time.
    async fn rests(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let metrics = crate::metrics(&self.platform).await?;
            let instances = metrics
                .lines()
                .find(|line| line.starts_with("faas_instances{") && line.contains("trial"))
                .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .context("no count of instances")?;
            if instances == 0.0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < RUN_LATEST, "{instances} instances {:?} after the last call", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
