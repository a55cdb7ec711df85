//! A disk that fails under the engine: what is answered, and that the store lives on.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, StorageBackend};

use super::*;

/// What the disk still does.
#[derive(Debug, Clone)]
struct Luck {
    /// How many more writes and syncs it does before it fails; negative means forever.
    left: Arc<AtomicI64>,
    /// The first byte of the file that there is no room for.
    room: Arc<AtomicU64>,
    /// Whether a sync waits.
    held: Arc<AtomicBool>,
    /// Whether one has waited.
    waited: Arc<AtomicBool>,
}

impl Luck {
    fn endless() -> Self {
        let (left, room) = (Arc::new(AtomicI64::new(-1)), Arc::new(AtomicU64::new(u64::MAX)));
        Self { left, room, held: Arc::default(), waited: Arc::default() }
    }

    fn set(&self, left: i64) {
        self.left.store(left, Ordering::SeqCst);
    }

    fn spend(&self) -> io::Result<()> {
        let spent = |left: i64| Some(if left > 0 { left - 1 } else { left });
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent);
        if left == Ok(0) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Lets every sync wait from here on.
    fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Returns once a sync waits.
    fn until_held(&self) {
        while !self.waited.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    fn pass(&self) {
        while self.held.load(Ordering::SeqCst) {
            self.waited.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
    }

    fn take_room(&self, end: u64) -> io::Result<()> {
        if end > self.room.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Disk {
    file: FileBackend,
    luck: Luck,
}

type Edge = std::ops::Bound<u64>;

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.luck.spend()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.luck.pass();
        self.luck.spend()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.luck.spend()?;
        self.luck.take_room(offset + data.len() as u64)?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

fn open(place: &Place, luck: &Luck) -> Embedded {
    open_with(place, luck, Config::default())
}

fn open_with(place: &Place, luck: &Luck, config: Config) -> Embedded {
    let (path, luck) = (place.path.clone(), luck.clone());
    let opener = Box::new(move || {
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let disk = Disk { file: FileBackend::new(file)?, luck: luck.clone() };
        Builder::new().set_cache_size(1 << 20).create_with_backend(disk)
    });
    Embedded::start(opener, config, WallClock::system()).unwrap()
}

#[tokio::test]
async fn a_failed_disk_is_told_and_the_store_goes_on_when_it_is_back() {
    // The disk fails at each of its steps in turn: in the pages, in the first sync, in the header, in the last sync.
    for luck_left in 0..40 {
        let place = place();
        let luck = Luck::endless();
        let store = open(&place, &luck);
        store.write(put("p", "before"), by()).await.unwrap();
        luck.set(luck_left);
        let during = put("p", "during");
        let id = during.id;
        let answer = store.write(during, by()).await;
        luck.set(-1);
        let after = value_when_back(&store, "p").await;
        match answer {
            Ok(_) => assert_eq!(after, "during", "luck {luck_left}: acknowledged is written"),
            Err(StoreError::Full | StoreError::Unavailable { .. }) => {
                assert_eq!(after, "before", "luck {luck_left}: refused is not written");
            }
            Err(StoreError::Unknown(unknown)) => {
                assert_eq!(unknown, id);
                let fate = store.fate(&partition("p"), id, by()).await.unwrap();
                let settled = if matches!(fate, Fate::Committed(_)) { "during" } else { "before" };
                assert_eq!(value(&store, "p").await.unwrap(), settled, "luck {luck_left}: {fate:?}");
            }
            Err(other) => panic!("luck {luck_left}: {other:?}"),
        }
        store.write(put("q", "after"), by()).await.unwrap();
        assert_eq!(value(&store, "q").await, Some("after".into()), "luck {luck_left}");
        store.close().await;
        let store = open(&place, &luck);
        assert_eq!(value(&store, "q").await, Some("after".into()), "luck {luck_left}: durable");
    }
}

/// Reads until the store has been reopened.
async fn value_when_back(store: &Embedded, name: &str) -> Bytes {
    let key = Key { partition: partition(name), sort: Bytes::new() };
    loop {
        match store.get(&key, Read::Linearizable, by()).await {
            Ok(row) => return row.unwrap().value,
            Err(StoreError::Unavailable { .. } | StoreError::Full) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_lets_reads_go_on() {
    let place = place();
    let luck = Luck::endless();
    let store = open(&place, &luck);
    store.write(put("p", "1"), by()).await.unwrap();
    let full = std::fs::metadata(&place.path).unwrap().len();
    for round in 0..5 {
        // As a full file system: what the file has stays writable, and there is no more.
        luck.room.store(full, Ordering::SeqCst);
        let writes = (0..20).map(|n| store.write(put(&format!("q{n}"), &"x".repeat(500_000)), by()));
        let results = join_all(writes).await;
        let refused = results.iter().filter(|result| **result == Err(StoreError::Full)).count();
        let written = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(refused + written, 20, "round {round}: {results:?}");
        assert!(refused > 0, "10 MB do not fit");
        assert_eq!(value(&store, "p").await, Some("1".into()), "reads go on while the disk is full");
        for (n, result) in results.iter().enumerate() {
            assert_eq!(value(&store, &format!("q{n}")).await.is_some(), result.is_ok(), "round {round}, q{n}");
        }
        luck.room.store(u64::MAX, Ordering::SeqCst);
        for n in 0..20 {
            let mut delete = put(&format!("q{n}"), "");
            delete.changes = vec![Change::Delete { sort: Bytes::new(), require: Require::Nothing }];
            store.write(delete, by()).await.unwrap();
        }
    }
    store.write(put("q3", "room again"), by()).await.unwrap();
    assert_eq!(value(&store, "q3").await, Some("room again".into()));
}

#[tokio::test]
async fn while_the_disk_is_gone_everything_is_refused_and_comes_back_by_itself() {
    let place = place();
    let luck = Luck::endless();
    let store = open(&place, &luck);
    store.write(put("p", "1"), by()).await.unwrap();
    luck.set(0);
    for _ in 0..3 {
        let refused = store.write(put("p", "2"), by()).await;
        assert!(matches!(refused, Err(StoreError::Full | StoreError::Unavailable { .. } | StoreError::Unknown(_))));
    }
    let fate = store.fate(&partition("p"), WriteId::fresh(), by()).await;
    assert!(matches!(fate, Err(StoreError::Unavailable { .. })), "{fate:?}");
    luck.set(-1);
    let before = value_when_back(&store, "p").await;
    assert_eq!(before, "1");
    store.write(put("p", "3"), by()).await.unwrap();
    assert_eq!(value(&store, "p").await, Some("3".into()));
}

#[tokio::test]
async fn a_write_that_has_begun_is_unknown_at_its_deadline_and_fate_knows_it() {
    let (place, luck) = (place(), Luck::endless());
    let store = open(&place, &luck);
    luck.hold();
    let begun = put("p", "1");
    let id = begun.id;
    let mut begun = store.write(begun, Instant::now() + Duration::from_millis(50));
    assert!(futures_util::poll!(&mut begun).is_pending());
    luck.until_held();
    assert_eq!(begun.await, Err(StoreError::Unknown(id)));
    luck.release();
    assert!(matches!(store.fate(&partition("p"), id, by()).await, Ok(Fate::Committed(_))));
    assert_eq!(value(&store, "p").await, Some("1".into()));
}

#[tokio::test]
async fn a_write_that_is_dropped_or_late_while_it_is_queued_never_takes_effect() {
    let (place, luck) = (place(), Luck::endless());
    let store = open(&place, &luck);
    luck.hold();
    let mut ahead = store.write(put("p", "ahead"), by());
    assert!(futures_util::poll!(&mut ahead).is_pending());
    luck.until_held();
    let (dropped, late) = (put("p", "dropped"), put("p", "late"));
    let ids = [dropped.id, late.id];
    assert!(store.write(dropped, by()).now_or_never().is_none());
    let late = store.write(late, Instant::now() + Duration::from_millis(5)).await;
    assert_eq!(late, Err(StoreError::Deadline));
    luck.release();
    assert!(ahead.await.is_ok());
    for id in ids {
        assert_eq!(store.fate(&partition("p"), id, by()).await, Ok(Fate::Never));
    }
    assert_eq!(value(&store, "p").await, Some("ahead".into()));
    assert_eq!(store.budget.available_permits(), Config::default().queue_bytes_max);
}

#[tokio::test]
async fn a_group_has_at_most_as_many_writes_as_its_bound() {
    let (place, luck) = (place(), Luck::endless());
    let store = open_with(&place, &luck, Config { group_writes_max: 2, ..Config::default() });
    luck.hold();
    let mut ahead = store.write(put("p", "ahead"), by());
    assert!(futures_util::poll!(&mut ahead).is_pending());
    luck.until_held();
    let mut queued = join_all((0..6).map(|n| store.write(put(&format!("q{n}"), "1"), by())));
    assert!(futures_util::poll!(&mut queued).is_pending());
    luck.release();
    assert!(ahead.await.is_ok() && queued.await.iter().all(Result::is_ok));
    assert_eq!(store.status().commits, 1 + 3);
}
