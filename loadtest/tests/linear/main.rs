//! Concurrent clients of a store, whose histories are judged: the store in memory passes, also when answers
//! get lost, and stores that are broken on purpose are caught.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::Bytes;
use faas_loadtest::contend::{Answer, Ask, Contender, Door, Game, If};
use faas_loadtest::history::{Histories, Recorder};
use faas_loadtest::linear::{Verdict, judge};
use faas_model::Name;
use faas_store::bucket::{BucketName, Buckets};
use faas_store::{Memory, Require, Store, StoreError, Version};
use tokio::time::Instant;

use crate::broken::{Broken, Flaw};

const SEEDS: u64 = 10;
const CLIENTS: u64 = 6;
const KEYS: u64 = 4;
/// Of each client with each key.
const OPERATIONS: usize = 60;

/// The buckets of a store in this process.
struct Inside {
    buckets: Buckets,
    bucket: BucketName,
}

impl Inside {
    fn of(store: Arc<dyn Store>) -> Self {
        let bucket = BucketName { namespace: Name::new("default").unwrap(), bucket: Name::new("b").unwrap() };
        Self { buckets: Buckets::new(store), bucket }
    }

    async fn try_ask(&self, key: &str, ask: Ask) -> Result<Answer, StoreError> {
        let by = Instant::now() + Duration::from_secs(60);
        Ok(match ask {
            Ask::Get => {
                let entry = self.buckets.get(&self.bucket, key, faas_store::Read::Linearizable, by).await?;
                let read = |value: &Bytes| std::str::from_utf8(value).unwrap().parse().unwrap();
                Answer::Found(entry.map(|entry| (read(&entry.value), entry.version.to_string())))
            }
            Ask::Put(value, condition) => {
                let value = Bytes::from(value.to_string());
                let put = self.buckets.put(&self.bucket, key, value, None, require(condition), by);
                Answer::Written(put.await?.to_string())
            }
            Ask::Delete(condition) => {
                self.buckets.delete(&self.bucket, key, require(condition), by).await?;
                Answer::Removed
            }
            Ask::Add(delta) => Answer::Sum(self.buckets.increment(&self.bucket, key, delta, by).await?),
        })
    }
}

fn require(condition: If) -> Require {
    match condition {
        If::Always => Require::Nothing,
        If::Absent => Require::Absent,
        If::Present => Require::Present,
        If::Tag(tag) => Require::Version(tag.parse::<Version>().unwrap()),
    }
}

impl Door for Inside {
    async fn ask(&self, key: &str, ask: Ask) -> Answer {
        match self.try_ask(key, ask).await {
            Ok(answer) => answer,
            Err(StoreError::Conflict(row)) => Answer::Refused(row.map(|row| row.version.to_string())),
            Err(StoreError::Unavailable { .. } | StoreError::Deadline) => Answer::Failed,
            Err(StoreError::Unknown(_)) => Answer::Unknown,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Lets clients contend for keys of `store`; returns what they recorded.
async fn contend(store: Arc<dyn Store>, seed: u64, game: Game) -> (Histories, Vec<String>) {
    let (door, recorder) = (Arc::new(Inside::of(store)), Arc::new(Recorder::default()));
    let fresh = Arc::new(AtomicI64::new(0));
    let clients = (0..CLIENTS).map(|client| {
        let (door, recorder) = (door.clone(), recorder.clone());
        let mut contender = Contender::new(client, seed, fresh.clone());
        tokio::spawn(async move {
            for key in 0..KEYS {
                contender.turn_away();
                for _ in 0..OPERATIONS {
                    contender.ask(&*door, &recorder, &format!("key-{key}"), game).await;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    Arc::into_inner(recorder).unwrap().end()
}

/// Contends for keys with each seed; returns how many seeds had a key whose history is in no order, and how
/// many had versions that contradict each other.
async fn caught(flaw: Flaw, game: Game) -> (u64, u64) {
    let (mut out_of_order, mut contradicting) = (0, 0);
    for seed in 0..SEEDS {
        let (histories, contradictions) = contend(Arc::new(Broken::new(flaw, seed)), seed, game).await;
        assert_eq!(histories.len() as u64, KEYS);
        let verdicts: Vec<_> = histories.values().map(|history| judge(history)).collect();
        assert!(!verdicts.iter().any(|verdict| matches!(verdict, Verdict::Undecided { .. })), "{verdicts:?}");
        out_of_order += u64::from(verdicts.iter().any(|verdict| matches!(verdict, Verdict::Violation(_))));
        contradicting += u64::from(!contradictions.is_empty());
    }
    (out_of_order, contradicting)
}

#[tokio::test]
async fn the_store_in_memory_is_linearizable() {
    for game in [Game::Values, Game::Counter] {
        for seed in 0..SEEDS {
            let (histories, contradictions) = contend(Arc::new(Memory::new()), seed, game).await;
            assert_eq!(contradictions, [""; 0]);
            for (key, history) in &histories {
                assert_eq!(history.len(), OPERATIONS * usize::try_from(CLIENTS).unwrap());
                assert_eq!(judge(history), Verdict::Linearizable, "seed {seed}, {key}: {history:#?}");
            }
        }
    }
}

#[tokio::test]
async fn lost_answers_and_writes_that_come_late_are_no_violation() {
    assert_eq!(caught(Flaw::LosesAnswers, Game::Values).await, (0, 0));
    assert_eq!(caught(Flaw::LosesAnswers, Game::Counter).await, (0, 0));
}

#[tokio::test]
async fn a_store_that_judges_conditions_too_early_is_caught() {
    assert_eq!(caught(Flaw::JudgesEarly, Game::Values).await.0, SEEDS);
}

#[tokio::test]
async fn a_store_that_serves_old_reads_is_caught() {
    assert_eq!(caught(Flaw::ServesOldReads, Game::Values).await.0, SEEDS);
    assert_eq!(caught(Flaw::ServesOldReads, Game::Counter).await.0, SEEDS);
}

#[tokio::test]
async fn a_store_that_acknowledges_too_early_and_loses_is_caught() {
    assert_eq!(caught(Flaw::LosesWrites, Game::Values).await.0, SEEDS);
    assert_eq!(caught(Flaw::LosesWrites, Game::Counter).await.0, SEEDS);
}

#[tokio::test]
async fn a_store_that_makes_a_write_twice_is_caught() {
    let (out_of_order, contradicting) = caught(Flaw::WritesTwice, Game::Values).await;
    assert_eq!((out_of_order, contradicting), (SEEDS, SEEDS));
}

#[tokio::test]
async fn a_store_whose_refused_writes_take_effect_is_caught() {
    assert_eq!(caught(Flaw::RefusesWhatItMakes, Game::Values).await.0, SEEDS);
}

#[tokio::test]
async fn a_store_that_says_failed_of_what_took_effect_is_caught() {
    assert_eq!(caught(Flaw::DeniesWhatItMade, Game::Values).await.0, SEEDS);
    assert_eq!(caught(Flaw::DeniesWhatItMade, Game::Counter).await.0, SEEDS);
}
