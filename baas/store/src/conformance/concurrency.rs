//! Linearizable per partition, and dropped futures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::{Subject, by, partition, put, write};
use crate::{Fate, Require, StoreError};

const TASKS: usize = 16;
const ROUNDS: usize = 10;

/// Adds one by read and compare-and-set, again and again until it holds.
async fn add_one(s: &Subject) {
    loop {
        let row = s.get("counter", "").await;
        let number = row.as_ref().map_or(0, |row| {
            std::str::from_utf8(&row.value).ok().and_then(|text| text.parse::<usize>().ok()).expect("a number")
        });
        let require = row.map_or(Require::Absent, |row| Require::Version(row.version));
        match s.write("counter", vec![put("", &(number + 1).to_string(), require)]).await {
            Ok(_) => return,
            Err(StoreError::Conflict(_)) => {}
            Err(error) => panic!("a compare-and-set failed with {error:?}"),
        }
    }
}

pub(super) async fn concurrent_compare_and_set_adds_up(s: Subject) {
    let tasks = (0..TASKS).map(|_| {
        let s = s.clone();
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                add_one(&s).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("a task");
    }
    assert_eq!(s.value("counter", "").await, Some((TASKS * ROUNDS).to_string().into()));
}

pub(super) async fn one_of_many_creators_wins(s: Subject) {
    let wins = Arc::new(AtomicUsize::new(0));
    let tasks = (0..TASKS).map(|n| {
        let (s, wins) = (s.clone(), Arc::clone(&wins));
        tokio::spawn(async move {
            match s.write("p", vec![put("", &n.to_string(), Require::Absent)]).await {
                Ok(_) => drop(wins.fetch_add(1, Ordering::Relaxed)),
                Err(StoreError::Conflict(row)) => assert!(row.is_some(), "the winner's row"),
                Err(error) => panic!("{error:?}"),
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("a task");
    }
    assert_eq!(wins.load(Ordering::Relaxed), 1);
}

pub(super) async fn a_dropped_write_is_whole_or_absent(s: Subject) {
    for n in 0..50 {
        let name = format!("p{n}");
        let changes = vec![put("a", "1", Require::Nothing), put("b", "1", Require::Nothing)];
        let dropped = write(&name, changes);
        let id = dropped.id;
        // Polled once, then dropped.
        drop(s.store.write(dropped, by()).now_or_never());
        let fate = s.store.fate(&partition(&name), id, by()).await.expect("a fate");
        let there = s.get(&name, "a").await.is_some();
        assert_eq!(there, s.get(&name, "b").await.is_some(), "half a write");
        assert_eq!(there, matches!(fate, Fate::Committed(_)), "fate said {fate:?}");
    }
}
