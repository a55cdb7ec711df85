//! Many processes at random over one store that is slow, loses answers and writes, and of which the processes die:
//! changes are made one at a time all the same, none is lost that was acknowledged, and all are heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use faas_store::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, StoreError,
    Transactions, WallClock, Write, WriteId,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const PROCESSES: usize = 4;
const FUNCTIONS: [&str; 3] = ["a", "b", "c"];
const CHANGES: usize = 12;

/// The store as one process sees it.
#[derive(Debug)]
struct Rough {
    inner: Arc<Memory>,
    chance: Mutex<ChaCha8Rng>,
}

#[derive(PartialEq)]
enum Luck {
    Good,
    LostAnswer,
    LostWrite,
    Away,
}

impl Rough {
    fn draw(&self, below: u32) -> u32 {
        self.chance.lock().unwrap().random_range(0..below)
    }

    /// Waits as long as a request may be on its way: at times for longer than a turn lasts.
    async fn way(&self) {
        let millis = match self.draw(200) {
            0 => 10_000 + self.draw(5_000),
            1..5 => self.draw(3_000),
            _ => self.draw(10),
        };
        sleep(Duration::from_millis(millis.into())).await;
    }

    fn luck(&self) -> Luck {
        match self.draw(60) {
            0 => Luck::LostAnswer,
            1 => Luck::LostWrite,
            2 => Luck::Away,
            _ => Luck::Good,
        }
    }
}

impl Store for Rough {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, _: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(async move {
            self.way().await;
            self.inner.get(key, read, by()).await
        })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], _: Instant) -> Fut<'a, Vec<Option<Row>>> {
        Box::pin(async move {
            self.way().await;
            self.inner.get_many(keys, by()).await
        })
    }

    fn write(&self, write: Write, _: Instant) -> Fut<'_, Committed> {
        Box::pin(async move {
            let (id, luck) = (write.id, self.luck());
            self.way().await;
            match luck {
                Luck::Away => return Err(StoreError::Unavailable { after: Duration::ZERO }),
                Luck::LostWrite => return Err(StoreError::Unknown(id)),
                Luck::Good | Luck::LostAnswer => {}
            }
            let done = self.inner.write(write, by()).await?;
            self.way().await;
            if luck == Luck::LostAnswer { Err(StoreError::Unknown(id)) } else { Ok(done) }
        })
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, _: Instant) -> Fut<'a, Fate> {
        Box::pin(async move {
            self.way().await;
            if self.luck() == Luck::Away {
                return Err(StoreError::Unavailable { after: Duration::ZERO });
            }
            self.inner.fate(partition, id, by()).await
        })
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: std::ops::Range<bytes::Bytes>,
        page: Page,
        _: Instant,
    ) -> Fut<'a, Slice<Row>> {
        Box::pin(async move {
            self.way().await;
            self.inner.scan(partition, range, page, by()).await
        })
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        _: Instant,
    ) -> Fut<'a, Slice<bytes::Bytes>> {
        self.inner.partitions(namespace, space, prefix, page, by())
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, _: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by())
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }
}

fn by() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// One process: what it changed, and what it heard.
struct Process {
    bench: Bench,
    store: Arc<Rough>,
    kept: Kept,
    heard: Mutex<(u64, BTreeMap<FunctionName, Option<RevisionId>>)>,
}

impl Process {
    async fn new(inner: &Arc<Memory>, seed: u64) -> Self {
        let store = Arc::new(Rough { inner: inner.clone(), chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) });
        let folder = tempfile::tempdir().unwrap();
        let repo = FolderRepo::open(folder.path(), Config::default(), store.clone()).await.unwrap().on_this_thread();
        // Code is put by a store that always answers: it is not what this is about.
        let bench = Bench { repo: repo.sharing(inner.clone(), WallClock::system()), store: store.clone(), folder };
        let kept = bench.keep("code").await;
        let Bench { repo, store: over, folder } = bench;
        let repo = repo.sharing(store.clone(), WallClock::system());
        Self { bench: Bench { repo, store: over, folder }, store, kept, heard: Mutex::default() }
    }

    /// Makes a change that says how many were made before it, as seen in its turn; returns what was acknowledged.
    async fn change(&self) -> Result<RevisionId, RepoError> {
        let function = named(FUNCTIONS[self.store.draw(3) as usize]);
        let turn = self.bench.repo.turn(&function).await?;
        let changed = async {
            let before = count(&self.bench.repo).await?;
            let spec =
                FunctionSpec { probe: Some(format!("/{before}/{}", uuid::Uuid::now_v7())), ..FunctionSpec::default() };
            let settings = AliasSettings::default();
            let published = self.bench.repo.publish(&turn, &spec, &settings, &self.kept, Expect::Any).await?;
            assert!(published.created, "each is another one");
            Ok(published.revision.id)
        };
        let changed = changed.await;
        // Of what is not known nobody says that it is done.
        if !matches!(changed, Err(RepoError::Store(_))) {
            self.bench.repo.done(turn).await.ok();
        }
        changed
    }

    /// Listens once.
    async fn listen(&self) -> Result<(), RepoError> {
        let upto = self.heard.lock().unwrap().0;
        let news = self.bench.repo.news(upto).await?;
        assert!(!news.lost);
        let mut shown = BTreeMap::new();
        for function in news.changed.into_iter().chain(news.open) {
            shown.insert(function.clone(), live_of(&self.bench.repo, &function).await?);
        }
        let mut heard = self.heard.lock().unwrap();
        heard.0 = news.upto;
        heard.1.extend(shown);
        Ok(())
    }
}

async fn live_of(repo: &FolderRepo, function: &FunctionName) -> Result<Option<RevisionId>, RepoError> {
    match repo.resolve(function, &live()).await {
        Ok((alias, _)) => Ok(Some(alias.revision)),
        Err(RepoError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn count(repo: &FolderRepo) -> Result<usize, RepoError> {
    let mut count = 0;
    for name in FUNCTIONS {
        count += repo.revisions(&named(name)).await.map_or_else(
            |error| if matches!(error, RepoError::NotFound(_)) { Ok(0) } else { Err(error) },
            |all| Ok(all.len()),
        )?;
    }
    Ok(count)
}

async fn play(seed: u64) {
    let inner = Arc::new(Memory::new());
    let processes = (0..PROCESSES as u64).map(|n| Process::new(&inner, seed * 10 + n));
    let processes = futures_util::future::join_all(processes).await;
    let acknowledged = Mutex::new(Vec::new());
    let changing = processes.iter().map(|process| async {
        for _ in 0..CHANGES {
            // At times the process dies in the midst of it.
            let dies = process.store.draw(4) == 0;
            let patience = if dies { Duration::from_millis(process.store.draw(60).into()) } else { Duration::MAX };
            if let Ok(Ok(id)) = timeout(patience, process.change()).await {
                acknowledged.lock().unwrap().push(id);
            }
        }
    });
    let listening = processes.iter().map(|process| async {
        loop {
            process.listen().await.ok();
            sleep(Duration::from_millis(250)).await;
        }
    });
    tokio::select! {
        _ = futures_util::future::join_all(changing) => {}
        _ = futures_util::future::join_all(listening) => {}
    }
    judge(seed, &inner, &processes, &acknowledged.into_inner().unwrap()).await;
}

async fn judge(seed: u64, inner: &Arc<Memory>, processes: &[Process], acknowledged: &[RevisionId]) {
    let folder = tempfile::tempdir().unwrap();
    let truth = FolderRepo::open(folder.path(), Config::default(), inner.clone()).await.unwrap();
    let mut made = Vec::new();
    for name in FUNCTIONS {
        made.extend(truth.revisions(&named(name)).await.unwrap_or_default());
    }
    for id in acknowledged {
        assert!(made.iter().any(|revision| revision.id == *id), "seed {seed}: an acknowledged change is lost");
    }
    let mut order: Vec<usize> =
        made.iter().map(|r| r.spec.probe.as_ref().unwrap().split('/').nth(1).unwrap().parse().unwrap()).collect();
    order.sort_unstable();
    assert_eq!(order, (0..made.len()).collect::<Vec<_>>(), "seed {seed}: changes overlapped");
    // Whatever was left open is ended by who listens, and all have heard the same in the end.
    let end = Instant::now() + Duration::from_secs(120);
    for process in processes {
        while timeout(Duration::from_secs(60), process.listen()).await.is_err() || Instant::now() < end {
            sleep(Duration::from_millis(250)).await;
        }
        while process.listen().await.is_err() {}
        let heard = process.heard.lock().unwrap().1.clone();
        for name in FUNCTIONS {
            let now = live_of(&truth, &named(name)).await.unwrap();
            let told = heard.get(&named(name)).copied().flatten();
            assert_eq!(told, now, "seed {seed}: {name} was heard of as another");
        }
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "how long it runs is asked of whoever runs it")]
async fn changes_of_many_processes_follow_each_other_and_are_heard_by_all() {
    let seeds = std::env::var("FAAS_MODEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for seed in 0..seeds {
        play(seed).await;
    }
}
