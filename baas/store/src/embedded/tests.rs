//! What only the embedded store promises.

mod faults;
mod kill;
mod model;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::conformance::{Subject, suite};
use crate::{Change, Logged, Memory, Require, WallTime};

#[tokio::test]
async fn the_embedded_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    suite(async || {
        count.set(count.get() + 1);
        let clock = WallClock::manual(WallTime(1_000_000));
        let path = folder.path().join(format!("{}.redb", count.get()));
        let store = Embedded::open_with(&path, Config::default(), clock.clone()).unwrap();
        Subject::new(Arc::new(store), clock)
    })
    .await;
}

#[tokio::test]
async fn the_memory_store_conforms() {
    suite(async || {
        let clock = WallClock::manual(WallTime(1_000_000));
        Subject::new(Arc::new(Memory::with_clock(clock.clone())), clock)
    })
    .await;
}

/// A file in a folder of its own.
struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    Place { _folder: folder, path }
}

fn partition(name: &str) -> Partition {
    let namespace = Name::namespace_default();
    Partition { namespace, space: Space::Value, name: Bytes::copy_from_slice(name.as_bytes()) }
}

fn put(name: &str, value: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let change = Change::Put { sort: Bytes::new(), value, expires: None, require: Require::Nothing };
    Write { partition: partition(name), id: WriteId::fresh(), changes: vec![change], log: Logged::Values }
}

fn by() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn value(store: &Embedded, name: &str) -> Option<Bytes> {
    let key = Key { partition: partition(name), sort: Bytes::new() };
    store.get(&key, Read::Linearizable, by()).await.unwrap().map(|row| row.value)
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let before = store.write(put("p", "1"), by()).await.unwrap().version;
    let page = || Page { after: None, rows_max: 10, bytes_max: 1 << 20 };
    let cursor = store.changes(&Name::namespace_default(), page(), by()).await.unwrap().next;
    store.close().await;
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    assert_eq!(value(&store, "p").await, Some("1".into()));
    let after = store.write(put("p", "2"), by()).await.unwrap().version;
    assert!(after.0 > before.0, "sequence numbers go on");
    let page = Page { after: cursor, ..page() };
    let changes = store.changes(&Name::namespace_default(), page, by()).await.unwrap();
    assert_eq!(changes.items.iter().map(|change| change.version).collect::<Vec<_>>(), [after]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_pages_loses_nothing_and_disturbs_nobody() {
    let place = place();
    let store = Arc::new(Embedded::open_to_read_once(&place.path, Config::default()).unwrap());
    let first = store.write(put("p", "1"), by()).await.unwrap().version;
    let id = put("q", "1");
    let (again, sent) = (id.clone(), store.write(id, by()).await.unwrap());
    let others = (0..4).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for round in 0..50 {
                let name = format!("{n}-{round}");
                store.write(put(&name, "x"), by()).await.unwrap();
                assert_eq!(value(&store, &name).await, Some("x".into()));
            }
        })
    });
    let others: Vec<_> = others.collect();
    for _ in 0..10 {
        store.forget_pages().await;
        assert_eq!(value(&store, "p").await, Some("1".into()));
    }
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(store.write(again, by()).await.unwrap(), sent, "what became of a write is still known");
    assert!(store.write(put("p", "2"), by()).await.unwrap().version.0 > first.0, "sequence numbers go on");
    store.close().await;
    store.forget_pages().await;
}

#[tokio::test]
async fn the_status_tells_file_commits_and_log() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    assert_eq!((store.status().writes, store.status().log_records), (0, 0));
    for n in 1..=3 {
        store.write(Write { log: Logged::Keys, ..put("p", &n.to_string()) }, by()).await.unwrap();
    }
    let status = store.status();
    assert_eq!((status.writes, status.log_records), (3, 3));
    assert!((1..=4).contains(&status.commits) && status.commit_us_mean.is_some() && status.log_bytes > 0, "{status:?}");
    assert_eq!(status.file_bytes, Some(place.path.metadata().unwrap().len()));
    store.close().await;
    let again = Embedded::open(&place.path, Config::default()).unwrap();
    assert_eq!(again.status().log_records, 3, "known from the start on");
    again.close().await;
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_file() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let second = Embedded::open(&place.path, Config::default());
    assert!(matches!(second, Err(OpenError::Locked)), "{second:?}");
    store.close().await;
    Embedded::open(&place.path, Config::default()).unwrap().close().await;
}

#[tokio::test]
async fn what_is_no_store_is_not_opened() {
    let place = place();
    std::fs::write(&place.path, vec![7; 8192]).unwrap();
    let opened = Embedded::open(&place.path, Config::default());
    assert!(matches!(opened, Err(OpenError::Damaged(_))), "{opened:?}");
    let missing = place.path.with_file_name("none").join("store.redb");
    let opened = Embedded::open(&missing, Config::default());
    assert!(matches!(opened, Err(OpenError::Io(_))), "{opened:?}");
}

#[tokio::test]
async fn writes_that_wait_together_commit_together() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let writes: Vec<_> = (0..300).map(|n| store.write(put(&format!("p{n}"), "1"), by())).collect();
    let results = join_all(writes).await;
    assert!(results.iter().all(Result::is_ok));
    let groups = store.status().commits;
    assert!(groups <= 60, "300 writes that were queued at once took {groups} commits");
    store.close().await;
}

#[tokio::test]
async fn writes_of_one_group_see_each_other() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let create = |n: usize| {
        let mut write = put("p", &n.to_string());
        write.changes = vec![Change::Put {
            sort: Bytes::new(),
            value: n.to_string().into(),
            expires: None,
            require: Require::Absent,
        }];
        store.write(write, by())
    };
    let results = join_all((0..100).map(create)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "one creates it");
    assert!(results.iter().filter(|r| r.is_err()).all(|r| matches!(r, Err(StoreError::Conflict(Some(_))))));
    store.close().await;
}

#[tokio::test]
async fn a_transaction_is_known_by_the_version_of_its_first_write() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let mut writes: Vec<_> = (0..3).map(|n| put(&format!("p{n}"), "1")).collect();
    let id = writes[0].id;
    writes.iter_mut().for_each(|write| write.id = id);
    let done = store.write_all(writes.clone(), by()).await.unwrap();
    assert_eq!(store.fate(&partition("p0"), id, by()).await, Ok(Fate::Committed(done[0].clone())));
    assert_eq!(store.write_all(writes, by()).await, Ok(done), "a repeat has the same versions");
}

#[tokio::test]
async fn a_write_queued_twice_is_applied_once() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    // Absent: applied again they would conflict. Nothing: they would get another version.
    for (name, require) in [("p", Require::Absent), ("q", Require::Nothing)] {
        let mut write = put(name, "");
        write.changes = vec![Change::Put { sort: Bytes::new(), value: "1".into(), expires: None, require }];
        // All are queued by the first poll, before the writer has committed the first.
        let results = join_all((0..50).map(|_| store.write(write.clone(), by()))).await;
        let first = results[0].clone().unwrap();
        assert!(results.iter().all(|result| *result == Ok(first.clone())), "{results:?}");
    }
    let page = Page { after: None, rows_max: 100, bytes_max: 1 << 20 };
    let changes = store.changes(&Name::namespace_default(), page, by()).await.unwrap();
    assert_eq!(changes.items.len(), 2, "one record each");
}

#[tokio::test]
async fn a_long_read_lets_others_run_and_stays_one_cut() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let writes = |value: &str| (0..1_000).map(|n| put(&format!("p{n}"), value)).collect();
    store.write_all(writes("0"), by()).await.unwrap();
    let keys: Vec<_> = (0..1_000).map(|n| Key { partition: partition(&format!("p{n}")), sort: Bytes::new() }).collect();
    assert!(store.get_many(&keys, by()).now_or_never().is_none(), "it takes turns");
    let same = vec![keys[0].clone(); 1_000];
    let rows = store.get_many(&same, by()).await.unwrap();
    assert_eq!(rows.iter().flatten().filter(|row| row.value == "0").count(), 1_000);
    let write = async {
        for n in 1..6 {
            store.write_all(writes(&n.to_string()), by()).await.unwrap();
        }
    };
    let read = async {
        for _ in 0..50 {
            let rows = store.get_many(&keys, by()).await.unwrap();
            let first = rows[0].clone().unwrap().value;
            assert!(rows.iter().flatten().all(|row| row.value == first), "of two commits");
            assert_eq!(rows.iter().flatten().count(), 1_000);
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_read_gives_its_cut_back_between_turns() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let keys = vec![Key { partition: partition("p"), sort: Bytes::new() }; 1_000];
    let mut read = store.get_many(&keys, by());
    assert!((&mut read).now_or_never().is_none());
    store.close().await;
    let closed = read.await;
    assert!(matches!(closed, Err(StoreError::Unavailable { .. })), "{closed:?}");
}

#[tokio::test]
async fn a_setting_out_of_its_bounds_is_named_and_nothing_is_made() {
    let place = place();
    let good = Config { cache_bytes: 1 << 20, group_writes_max: 1, outcomes_max: 1, ..Config::default() };
    let cases = [
        ("cache_bytes", (1 << 20) - 1, Config { cache_bytes: (1 << 20) - 1, ..good.clone() }),
        ("group_writes_max", 0, Config { group_writes_max: 0, ..good.clone() }),
        ("outcomes_max", 0, Config { outcomes_max: 0, ..good.clone() }),
    ];
    for (name, is, config) in cases {
        let opened = Embedded::open(&place.path, config);
        assert!(
            matches!(opened, Err(OpenError::Setting { key, value, .. }) if (key, value) == (name, is)),
            "{opened:?}"
        );
        assert!(!place.path.exists());
    }
    Embedded::open(&place.path, good).unwrap().close().await;
}

#[tokio::test]
async fn overwriting_gives_old_pages_back() {
    let place = place();
    let store = Embedded::open(&place.path, Config { log_records_max: 1, ..Config::default() }).unwrap();
    let overwrite = async |rounds: usize| {
        for _ in 0..rounds {
            let writes = (0..8).map(|n| store.write(put(&format!("p{n}"), &"x".repeat(8_000)), by()));
            assert!(join_all(writes).await.iter().all(Result::is_ok));
        }
        std::fs::metadata(&place.path).unwrap().len()
    };
    let before = overwrite(20).await;
    let after = overwrite(60).await;
    assert!(after <= before, "the file grew from {before} to {after} bytes while the same keys were overwritten");
    store.close().await;
}

#[tokio::test]
async fn a_closed_store_refuses_and_says_when_to_come_back() {
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    let waiting: Vec<_> = (0..50).map(|n| store.write(put(&format!("p{n}"), "1"), by())).collect();
    let (results, ()) = tokio::join!(join_all(waiting), store.close());
    assert!(results.iter().all(Result::is_ok), "what was queued before is written");
    assert!(matches!(store.write(put("q", "1"), by()).await, Err(StoreError::Unavailable { .. })));
    let key = Key { partition: partition("p0"), sort: Bytes::new() };
    let read = store.get(&key, Read::Linearizable, by()).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    let fate = store.fate(&partition("p0"), WriteId::fresh(), by()).await;
    assert!(matches!(fate, Err(StoreError::Unavailable { .. })), "{fate:?}");
    store.close().await;
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    assert_eq!(value(&store, "p49").await, Some("1".into()));
}

#[tokio::test]
async fn the_queue_has_a_bound_and_waiting_for_it_a_deadline() {
    let place = place();
    let config = Config { queue_bytes_max: 2_000, ..Config::default() };
    let store = Embedded::open(&place.path, config).unwrap();
    let _hold = store.budget.acquire_many(1_990).await.unwrap();
    let late = store.write(put("p", "1"), Instant::now() + Duration::from_millis(5)).await;
    assert_eq!(late, Err(StoreError::Deadline));
    drop(_hold);
    // Larger than the whole queue: goes alone.
    store.write(put("p", &"x".repeat(10_000)), by()).await.unwrap();
    assert_eq!(store.budget.available_permits(), 2_000, "every permit came back");
}

#[tokio::test]
async fn a_write_taken_back_in_the_queue_never_takes_effect() {
    let claim = Claim::default();
    assert!(claim.take_back());
    assert!(!claim.take_back());
    let place = place();
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    for n in 0..20 {
        let write = put("p", &n.to_string());
        let id = write.id;
        // The first poll queues it, the drop takes it back or comes too late.
        drop(store.write(write, by()).now_or_never());
        match store.fate(&partition("p"), id, by()).await.unwrap() {
            Fate::Committed(_) => assert_eq!(value(&store, "p").await, Some(n.to_string().into())),
            Fate::Never => assert_ne!(value(&store, "p").await, Some(n.to_string().into())),
        }
    }
    assert_eq!(store.budget.available_permits(), Config::default().queue_bytes_max);
}

#[test]
fn the_config_is_strict_and_has_defaults() {
    let config: Config = serde_json::from_str("{}").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.cache_bytes, 32 << 20);
    assert!(serde_json::from_str::<Config>("{\"cache\": 1}").is_err());
}
