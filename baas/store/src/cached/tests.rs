//! What the cache may tell, for how long, and how much of it there is.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tokio::sync::Semaphore;

use super::*;
use crate::conformance::{CHECKS, Subject};
use crate::{Change, Embedded, EmbeddedConfig, Logged, Memory, Require, Version, WallTime};

const AGE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

/// A store that counts its reads, holds their answers back, and may allow every one of them to be stale.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Store>,
    reads: AtomicU32,
    /// Answers of reads that may go.
    answers: Semaphore,
    all_local: bool,
    /// Whether writes end without an answer after their effect.
    lose: std::sync::atomic::AtomicBool,
}

impl Watched {
    fn new(inner: Arc<dyn Store>, all_local: bool) -> Arc<Self> {
        let answers = Semaphore::new(Semaphore::MAX_PERMITS);
        Arc::new(Self { inner, reads: AtomicU32::new(0), answers, all_local, lose: false.into() })
    }

    fn reads(&self) -> u32 {
        self.reads.load(SeqCst)
    }
}

impl Store for Watched {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(async move {
            self.reads.fetch_add(1, SeqCst);
            let read = if self.all_local { Read::Local } else { read };
            let row = self.inner.get(key, read, by).await;
            let _answer = self.answers.acquire().await.unwrap();
            row
        })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        self.inner.get_many(keys, by)
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        Box::pin(async move {
            let id = write.id;
            let done = self.inner.write(write, by).await;
            if self.lose.load(SeqCst) { Err(StoreError::Unknown(id)) } else { done }
        })
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        self.inner.fate(partition, id, by)
    }

    fn scan<'a>(&'a self, of: &'a Partition, range: Range<Bytes>, page: Page, by: Instant) -> Fut<'a, Slice<Row>> {
        self.inner.scan(of, range, page, by)
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        self.inner.partitions(namespace, space, prefix, page, by)
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.inner.transactions()
    }
}

/// The whole list, with every read allowed to be stale, over both stores: with a cache and without.
#[tokio::test]
async fn a_cached_store_conforms_even_when_every_read_may_be_stale() {
    let folder = tempfile::tempdir().unwrap();
    for age_max in [Duration::ZERO, Duration::from_secs(3600)] {
        for (n, (name, check)) in CHECKS.iter().enumerate() {
            eprintln!("{name}, {age_max:?}");
            let clock = || WallClock::manual(WallTime(1_000_000));
            let path = folder.path().join(format!("{n}-{}.redb", age_max.as_secs()));
            let (one, two) = (clock(), clock());
            let embedded = Embedded::open_with(&path, EmbeddedConfig::default(), one.clone()).unwrap();
            let memory = Memory::with_clock(two.clone());
            for (store, clock) in [(Arc::new(embedded) as Arc<dyn Store>, one), (Arc::new(memory), two)] {
                let cached = Arc::new(Cached::new(store, clock.clone(), age_max, 1 << 20));
                check(Subject::new(Watched::new(cached, true), clock)).await;
            }
        }
    }
}

/// A cache, the store behind it, and what others see and write.
struct Bench {
    cached: Arc<Cached>,
    behind: Arc<Watched>,
    others: Arc<Memory>,
    clock: WallClock,
}

fn bench(age_max: Duration) -> Bench {
    let clock = WallClock::manual(WallTime(1_000_000));
    let others = Arc::new(Memory::with_clock(clock.clone()));
    let behind = Watched::new(others.clone(), false);
    let cached = Arc::new(Cached::new(behind.clone(), clock.clone(), age_max, 1 << 20));
    Bench { cached, behind, others, clock }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn key(name: &str) -> Key {
    let name = Bytes::copy_from_slice(name.as_bytes());
    Key { partition: Partition { namespace: Name::namespace_default(), space: Space::Value, name }, sort: Bytes::new() }
}

fn put(name: &str, value: impl Into<Bytes>) -> Write {
    put_if(name, value, None, Require::Nothing)
}

fn put_if(name: &str, value: impl Into<Bytes>, expires: Option<WallTime>, require: Require) -> Write {
    let changes = vec![Change::Put { sort: Bytes::new(), value: value.into(), expires, require }];
    Write { partition: key(name).partition, id: WriteId::fresh(), changes, log: Logged::No }
}

impl Bench {
    async fn get(&self, name: &str, read: Read) -> Option<Bytes> {
        self.cached.get(&key(name), read, soon()).await.unwrap().map(|row| row.value)
    }

    async fn local(&self, name: &str) -> Option<Bytes> {
        self.get(name, Read::Local).await
    }

    fn bytes(&self) -> usize {
        self.cached.shards.iter().map(|shard| shard.lock().unwrap().bytes()).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_write_is_missed_no_longer_than_the_age_and_never_by_a_linearizable_read() {
    let b = bench(AGE);
    b.others.write(put("a", "1"), soon()).await.unwrap();
    assert_eq!(b.local("a").await, Some("1".into()));
    assert_eq!(b.local("none").await, None);
    b.others.write(put("a", "2"), soon()).await.unwrap();
    b.others.write(put("none", "now"), soon()).await.unwrap();
    tokio::time::advance(AGE - MS).await;
    assert_eq!(b.local("a").await, Some("1".into()), "younger than the bound");
    assert_eq!(b.local("none").await, None, "an absence is kept, too");
    assert_eq!(b.behind.reads(), 2);
    tokio::time::advance(MS).await;
    assert_eq!(b.local("a").await, Some("2".into()), "as old as the bound");
    assert_eq!(b.local("none").await, Some("now".into()));
    b.others.write(put("a", "3"), soon()).await.unwrap();
    assert_eq!(b.get("a", Read::Linearizable).await, Some("3".into()));
    assert_eq!(b.local("a").await, Some("3".into()), "nobody goes back in time here");
    assert_eq!(b.behind.reads(), 5);
    let late = b.cached.get(&key("a"), Read::Local, Instant::now() - MS).await;
    assert_eq!(late, Err(StoreError::Deadline));
}

#[tokio::test(start_paused = true)]
async fn without_an_age_nothing_is_kept() {
    let b = bench(Duration::ZERO);
    for n in 0..3 {
        b.others.write(put("a", n.to_string()), soon()).await.unwrap();
        assert_eq!(b.local("a").await, Some(n.to_string().into()));
    }
    assert_eq!((b.behind.reads(), b.bytes()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn only_values_are_kept() {
    let b = bench(AGE);
    let mut of_functions = key("a");
    of_functions.partition.space = Space::Catalog;
    for _ in 0..2 {
        b.cached.get(&of_functions, Read::Local, soon()).await.unwrap();
    }
    assert_eq!((b.behind.reads(), b.bytes()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn ones_own_writes_are_seen_at_once_even_where_they_failed() {
    let b = bench(AGE);
    assert_eq!(b.local("a").await, None);
    b.cached.write(put("a", "1"), soon()).await.unwrap();
    assert_eq!(b.local("a").await, Some("1".into()));
    b.others.write(put("a", "2"), soon()).await.unwrap();
    let refused = b.cached.write(put_if("a", "x", None, Require::Version(Version([7; 16]))), soon()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Some(_)))), "{refused:?}");
    assert_eq!(b.local("a").await, Some("2".into()), "who was refused reads again, and not the same");
    let changes = vec![Change::Delete { sort: Bytes::new(), require: Require::Nothing }];
    let delete = Write { partition: key("a").partition, id: WriteId::fresh(), changes, log: Logged::No };
    b.cached.write(delete, soon()).await.unwrap();
    assert_eq!(b.local("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_fate_is_asked_for_is_seen_from_then_on() {
    let b = bench(AGE);
    b.behind.lose.store(true, SeqCst);
    let write = put("a", "1");
    let id = write.id;
    // The answer is lost; before the fate is known somebody reads what others then replace.
    assert_eq!(b.cached.write(write, soon()).await, Err(StoreError::Unknown(id)));
    b.others.write(put("a", "old"), soon()).await.unwrap();
    assert_eq!(b.local("a").await, Some("old".into()));
    b.others.write(put("a", "new"), soon()).await.unwrap();
    assert!(matches!(b.cached.fate(&key("a").partition, id, soon()).await, Ok(Fate::Committed(_))));
    assert_eq!(b.local("a").await, Some("new".into()));
}

/// A read that began before a write and ends after it must not leave the old value behind.
#[tokio::test(start_paused = true)]
async fn a_read_on_its_way_during_a_write_keeps_nothing() {
    for fated in [false, true] {
        let b = bench(AGE);
        b.cached.write(put("a", "old"), soon()).await.unwrap();
        let held = b.behind.answers.acquire_many(u32::MAX >> 4).await.unwrap();
        let all = b.behind.answers.available_permits();
        b.behind.answers.forget_permits(all);
        let cached = Arc::clone(&b.cached);
        let reading = tokio::spawn(async move { cached.get(&key("a"), Read::Local, soon()).await });
        while b.behind.reads() == 0 {
            tokio::task::yield_now().await;
        }
        // It has read and has not been told.
        tokio::time::sleep(MS).await;
        if fated {
            let write = put("a", "new");
            let id = write.id;
            b.others.write(write, soon()).await.unwrap();
            b.cached.fate(&key("a").partition, id, soon()).await.unwrap();
        } else {
            b.cached.write(put("a", "new"), soon()).await.unwrap();
        }
        drop(held);
        assert_eq!(reading.await.unwrap().unwrap().unwrap().value, "old", "it was as good when it began");
        assert_eq!(b.local("a").await, Some("new".into()), "fated: {fated}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_left_is_forgotten() {
    let b = bench(AGE);
    b.others.write(put("a", "1"), soon()).await.unwrap();
    assert_eq!(b.local("a").await, Some("1".into()));
    b.others.write(put("a", "2"), soon()).await.unwrap();
    drop(b.cached.write(put("a", "3"), soon()));
    assert_ne!(b.local("a").await, Some("1".into()));
}

#[tokio::test]
async fn a_transaction_is_seen_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), EmbeddedConfig::default()).unwrap();
    let cached = Cached::new(Arc::new(store), WallClock::system(), AGE, 1 << 20);
    let read = async |name: &str| cached.get(&key(name), Read::Local, soon()).await.unwrap().map(|row| row.value);
    assert_eq!((read("a").await, read("b").await), (None, None));
    cached.transactions().unwrap().write_all(vec![put("a", "1"), put("b", "2")], soon()).await.unwrap();
    assert_eq!((read("a").await, read("b").await), (Some("1".into()), Some("2".into())));
    let memory = Cached::new(Arc::new(Memory::new()), WallClock::system(), AGE, 1 << 20);
    assert!(memory.transactions().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_expires_while_it_is_kept_is_absent() {
    let b = bench(AGE);
    let expires = Some(b.clock.now().plus(Duration::from_secs(1)));
    b.others.write(put_if("a", "1", expires, Require::Nothing), soon()).await.unwrap();
    assert_eq!(b.local("a").await, Some("1".into()));
    b.clock.advance(Duration::from_millis(999));
    assert_eq!(b.local("a").await, Some("1".into()));
    b.clock.advance(MS);
    assert_eq!(b.local("a").await, None);
    assert_eq!(b.behind.reads(), 1, "that needs no asking");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_is_not_kept() {
    let b = bench(AGE);
    b.others.write(put("a", "1"), soon()).await.unwrap();
    let long = key(&"x".repeat(2_000));
    assert!(matches!(b.cached.get(&long, Read::Local, soon()).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(b.bytes(), 0);
    b.behind.answers.forget_permits(Semaphore::MAX_PERMITS);
    let by = Instant::now() + MS;
    let given_up = tokio::time::timeout_at(by, b.cached.get(&key("a"), Read::Local, by)).await;
    assert!(given_up.is_err());
    assert_eq!(b.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_kept_than_the_bound_and_what_is_asked_for_stays() {
    let b = bench(Duration::from_secs(3600));
    let value = Bytes::from(vec![7; 1_000]);
    for n in 0..3_000 {
        b.others.write(put(&n.to_string(), value.clone()), soon()).await.unwrap();
    }
    for n in 0..3_000 {
        assert_eq!(b.local(&n.to_string()).await, Some(value.clone()));
        assert_eq!(b.local("0").await, Some(value.clone()));
        assert!(b.bytes() <= 1 << 20, "{} bytes after {n}", b.bytes());
    }
    assert!(b.bytes() > 1 << 18, "{} bytes: it is of use", b.bytes());
    assert_eq!(b.behind.reads(), 3_000, "what is asked for all the time is never read again");
    b.others.write(put("large", vec![7; (1 << 20) / SHARDS / 2]), soon()).await.unwrap();
    for _ in 0..2 {
        b.local("large").await.unwrap();
    }
    assert_eq!(b.behind.reads(), 3_002, "larger than half a part with its name: not kept");
}
